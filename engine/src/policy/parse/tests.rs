use super::super::webhook::{SecretPlace, StormsTold};
use super::*;
use crate::audit;
use crate::backlog::Mode;
use crate::policy::{
    Durability, Keep, Kind, Oversize, RECONCILE_EVERY, ReadLevel, Ruling, Strategy,
};
use crate::record::StoreId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const GOOD: &str = "[[dataset]]\nname = \"a\"\nkind = \"json\"\nd1 = {}\n";

/// Each expected mistake: line, field, and a part of what is accepted.
#[track_caller]
fn check(text: &str, expected: &[(usize, &str, &str)]) {
    let errors = match parse("t.toml", text) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(errors) => errors,
    };
    let found: Vec<(usize, &str)> = errors.iter().map(|e| (e.line, e.field.as_str())).collect();
    let wanted: Vec<(usize, &str)> = expected.iter().map(|e| (e.0, e.1)).collect();
    assert_eq!(found, wanted, "{errors:#?}");
    for (error, (.., accepted)) in errors.iter().zip(expected) {
        assert!(error.accepted.contains(accepted), "{error}");
        assert!(error.to_string().contains(&format!("t.toml:{}:{}", error.line, error.column)));
    }
}

#[test]
fn the_default_is_accepted() {
    let config = parse("tidelock.toml", DEFAULT).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 7878)));
    assert_eq!(config.node, NodeId(1));
    let notes = Dataset { kind: Kind::Text, ..Dataset::everywhere("notes") };
    assert_eq!(config.policy, Policy::new([Dataset::everywhere("files"), notes]));
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse("t.toml", GOOD).unwrap();
    let dataset = &config.policy.datasets["a"];
    assert_eq!((dataset.kv.is_none(), dataset.oversize), (true, Oversize::Refuse));
    assert_eq!(dataset.strategy, BTreeMap::from([(StoreId::D1, Strategy::WriteThrough)]));
    let local = format!("{GOOD}strategy = {{ d1 = \"write-behind\" }}\ndurability = \"local\"\n");
    assert_eq!(parse("t.toml", &local).unwrap().policy.datasets["a"].durability, Durability::Local);
}

#[test]
fn mistakes_of_the_file() {
    check("listen = \"here\"\n", &[(1, "dataset", "[[dataset]]"), (1, "listen", "127.0.0.1:7878")]);
    check(&format!("node = 65535\n{GOOD}"), &[(1, "node", "65534")]);
    check(&format!("node = \"one\"\n{GOOD}"), &[(1, "node", "u16")]);
    check(&format!("\nports = 1\n{GOOD}"), &[(2, "ports", "`listen`")]);
    check(&format!("{GOOD}kv = {{ prefx = \"a\" }}\n"), &[(5, "prefx", "`prefix`")]);
    check("[[dataset]]\nkind = \"json\"\nd1 = {}\n", &[(1, "name", "the field")]);
    check("[[dataset]]\nname = \n", &[(2, "name", "string")]);
    check("", &[(1, "dataset", "[[dataset]]")]);
}

#[test]
fn what_stays_in_the_audit_log() {
    let with = |lines: &str| format!("{GOOD}[audit]\n{lines}\n");
    let audit = |text: &str| parse("t.toml", text).unwrap().audit;
    let day = Duration::from_secs(86_400);
    assert_eq!(audit(GOOD), Retention { keep: 90 * day, segments_max: 128 });
    assert_eq!(
        audit(&with("keep = \"400d\"\nsegments_max = 7")),
        Retention { keep: 400 * day, segments_max: 7 }
    );
    assert_eq!(audit(&with("keep = \"forever\"")).keep, Duration::MAX);
    assert_eq!(
        audit(&with("keep = \"48h\"")).to_string(),
        "entries of 2 days, in 128 segments at most"
    );
    for keep in ["", "1h", "never", "4000d", "-1d", "400"] {
        check(&with(&format!("keep = {keep:?}")), &[(6, "audit.keep", "from \"1d\" to \"3650d\"")]);
    }
    for most in ["0", "100001"] {
        let text = with(&format!("keep = \"1d\"\nsegments_max = {most}"));
        check(&text, &[(7, "audit.segments_max", "1 to 100000")]);
    }
    check(&with("segments_max = \"many\""), &[(6, "segments_max", "u32")]);
    check(&with("kept = \"1d\""), &[(6, "kept", "`keep`")]);
}

#[test]
fn mistakes_of_a_dataset() {
    let long = "n".repeat(65);
    for name in ["", "Upper", "with space", "ü", &long] {
        let text = GOOD.replace("\"a\"", &format!("{name:?}"));
        check(&text, &[(2, "dataset.name", "a-z")]);
    }
    check(&format!("{GOOD}{GOOD}"), &[(6, "dataset.name", "of its own")]);
    let text = GOOD.replace("json", "xml");
    let kinds = "\"json\", \"text\", \"binary\", \"structured\"";
    check(&text, &[(3, "dataset.kind", kinds)]);
    check(&GOOD.replace("d1 = {}\n", ""), &[(2, "dataset.d1", "d1 = {}")]);
    let with = |line: &str| format!("{GOOD}{line}\n");
    check(&with("read = \"all\""), &[(5, "dataset.read", "\"latest\"")]);
    check(&with("oversize = \"cut\""), &[(5, "dataset.oversize", "\"refuse\"")]);
    check(&with("durability = \"peer\""), &[(5, "dataset.durability", "[[peer]]")]);
    let kept = with("durability = \"peer\"\n[[peer]]\nnode = 2\nurl = \"http://10.0.0.8:7878\"");
    assert_eq!(parse("t.toml", &kept).unwrap().policy.datasets["a"].durability, Durability::Peer);
    let elsewhere = kept.replace("node = 2", "node = 2\nsite = 3");
    check(&elsewhere, &[(5, "dataset.durability", "of this site")]);
    let itself = kept.replace("node = 2", "node = 1");
    check(&itself, &[(7, "peer.node", "no other coordinator")]);
    check(&kept.replace("http:", "ftp:"), &[(8, "peer.url", "http://10.0.0.8:7878")]);
    check(
        &with("conflict = { default = \"rule\" }"),
        &[(5, "dataset.conflict.default", "[[rule]]")],
    );
    check(&with("oversize = \"reference\""), &[(5, "dataset.oversize", "r2 = {}")]);
    check(
        &with("oversize = \"reference\"\nr2 = { keep = \"reference\" }"),
        &[(6, "dataset.r2.keep", "full")],
    );
    check(&with("kv = { keep = \"some\" }"), &[(5, "dataset.kv.keep", "\"reference\"")]);
}

const TABLE: &str = "[[dataset]]\nname = \"p\"\nkind = \"structured\"\n\
                     d1 = { table = \"products\", key = \"sku\" }\n";

#[test]
fn a_structured_dataset_has_a_table() {
    let text = format!("{TABLE}r2 = {{}}\nkv = {{ keep = [\"price\", \"sku\"] }}\n");
    let dataset = &parse("t.toml", &text).unwrap().policy.datasets["p"];
    assert_eq!(dataset.kind, Kind::Structured);
    let table = dataset.table.as_ref().unwrap();
    assert_eq!((&*table.name, &*table.key, &table.schema), ("products", "sku", &None));
    assert_eq!(dataset.oversize, Oversize::Refuse, "a row is whole in its table");
    let Keep::Fields(fields) = &dataset.kv.as_ref().unwrap().keep else { panic!("fields") };
    assert_eq!(fields.names(), ["price", "sku"]);
}

#[test]
fn mistakes_of_a_table() {
    let d1 = |d1: &str| TABLE.replace("{ table = \"products\", key = \"sku\" }", d1);
    for part in ["{}", "{ table = \"t\" }", "{ key = \"k\" }"] {
        check(&d1(part), &[(4, "dataset.d1", "d1 = { table = \"products\"")]);
    }
    check(&d1("{ table = \"\", key = \"k\" }"), &[(4, "dataset.d1.table", "table = ")]);
    for name in ["tidelock_rows", "SQLite_master", "_cf_KV"] {
        let text = d1(&format!("{{ table = {name:?}, key = \"k\" }}"));
        check(&text, &[(4, "dataset.d1.table", "your own")]);
    }
    check(&d1("{ tabel = \"t\" }"), &[(4, "tabel", "`table`")]);
    let twice = TABLE.replace("\"p\"", "\"q\"").replace("products", "PRODUCTS");
    check(&format!("{TABLE}{twice}"), &[(8, "dataset.d1.table", "of its own")]);
    let json = TABLE.replace("structured", "json");
    check(&json, &[(4, "dataset.d1.table", "structured"), (4, "dataset.d1.key", "structured")]);
    let text = format!("{TABLE}r2 = {{}}\noversize = \"reference\"\n");
    check(&text, &[(6, "dataset.oversize", "refuse")]);
}

#[test]
fn mistakes_of_chosen_fields() {
    let keep = |dataset: &str, keep: &str| format!("{dataset}kv = {{ keep = {keep} }}\n");
    assert!(parse("t.toml", &keep(GOOD, "[\"a\", \"b\"]")).is_ok());
    let field = "dataset.kv.keep";
    check(&keep(TABLE, "[\"price\"]"), &[(5, field, "a list with \"sku\" in it")]);
    check(&keep(GOOD, "[]"), &[(5, field, "1 to 64 fields")]);
    check(&keep(GOOD, "[\"a\", \"a\"]"), &[(5, field, "each field once")]);
    check(&keep(GOOD, "[1]"), &[(5, "kv", "a string")]);
    check(&keep(GOOD, "7"), &[(5, "kv", "a list of fields")]);
    for kind in ["text", "binary"] {
        let text = keep(&GOOD.replace("json", kind), "[\"a\"]");
        check(&text, &[(5, field, "\"full\" or \"reference\"")]);
    }
    let text = format!("{GOOD}r2 = {{ keep = [\"a\"] }}\noversize = \"reference\"\n");
    check(&text, &[(5, "dataset.r2.keep", "full")]);
}

#[test]
fn mistakes_of_a_strategy() {
    let with = |line: &str| format!("{GOOD}{line}\n");
    check(&with("strategy = { kv = \"write-behind\" }"), &[(5, "dataset.strategy.kv", "kv = {}")]);
    check(&with("strategy = { d1 = \"later\" }"), &[(5, "dataset.strategy.d1", "write-through")]);
    check(
        &with("strategy = { d1 = \"write-behind\" }"),
        &[(5, "dataset.durability", "durability = \"local\"")],
    );
    let errors = parse("t.toml", &with("strategy = { d1 = \"write-behind\" }")).unwrap_err();
    assert!(errors[0].problem.contains("not the loss of this disk"), "{}", errors[0]);
}

#[test]
fn mistakes_of_a_prefix() {
    let two = |a: &str, b: &str| {
        format!(
            "{GOOD}kv = {{ prefix = {a:?} }}\n{}kv = {{ prefix = {b:?} }}\n",
            GOOD.replace("\"a\"", "\"b\"")
        )
    };
    assert!(parse("t.toml", &two("a/", "b/")).is_ok());
    for (a, b) in [("x/", "x/"), ("x/", "x/y/"), ("x/y/", "x/")] {
        check(&two(a, b), &[(10, "dataset.kv.prefix", "neither")]);
    }
    // The same prefix in two stores is no overlap.
    let stores = format!("{GOOD}kv = {{ prefix = \"p\" }}\nr2 = {{ prefix = \"p\" }}\n");
    assert!(parse("t.toml", &stores).is_ok());
    for prefix in ["", "_tide", "_tidelock/", "_tidelock/mine/"] {
        let text = format!("{GOOD}r2 = {{ prefix = {prefix:?} }}\n");
        check(&text, &[(5, "dataset.r2.prefix", "neither")]);
    }
    let text = format!("{GOOD}r2 = {{ prefix = {:?} }}\n", "p".repeat(257));
    check(&text, &[(5, "dataset.r2.prefix", "256")]);
    check(
        &format!("{GOOD}kv = {{ prefix = \"a\\u0000\" }}\n"),
        &[(5, "dataset.kv.prefix", "printable")],
    );
}

#[test]
fn times_between_two_looks() {
    let every = |text: &str| {
        let text = format!("{GOOD}reconcile = {{ every = {text:?} }}\n");
        parse("t.toml", &text).unwrap().policy.datasets["a"].reconcile_every
    };
    assert_eq!(every("30s"), Some(Duration::from_secs(30)));
    assert_eq!(every("2h"), Some(Duration::from_secs(7_200)));
    assert_eq!(every("never"), None);
    assert_eq!(
        parse("t.toml", GOOD).unwrap().policy.datasets["a"].reconcile_every,
        Some(RECONCILE_EVERY)
    );
    for wrong in ["", "30", "0s", "31d", "-1s", "1w", "99999999999s"] {
        let text = format!("{GOOD}reconcile = {{ every = {wrong:?} }}\n");
        check(&text, &[(5, "dataset.reconcile.every", "never")]);
    }
}

#[test]
fn times_between_two_looks_over_what_is_recent() {
    let recent = |says: &str| {
        let text = format!("{GOOD}reconcile = {{ {says} }}\n");
        parse("t.toml", &text).unwrap().policy.datasets["a"].reconcile_recent
    };
    assert_eq!(recent("recent = \"5s\""), Some(Duration::from_secs(5)));
    assert_eq!(recent("recent = \"10m\", every = \"1h\""), Some(Duration::from_secs(600)));
    let nightly = "recent = \"1m\", every = \"never\", full = \"0 3 * * *\"";
    assert_eq!(recent(nightly), Some(Duration::from_secs(60)));
    assert_eq!((recent("recent = \"never\""), recent("every = \"1h\"")), (None, None));
}

#[test]
fn times_after_which_values_expire() {
    let ttl = |text: &str| format!("{GOOD}ttl = {text:?}\n");
    let parsed = |text: &str| parse("t.toml", &ttl(text)).unwrap().policy.datasets["a"].ttl;
    assert_eq!(parsed("30d"), Some(Duration::from_secs(30 * 86_400)));
    assert_eq!((parsed("1s"), parsed("never")), (Some(Duration::from_secs(1)), None));
    for wrong in ["", "0s", "3651d", "-1s", "+1s", "5", "s"] {
        check(&ttl(wrong), &[(5, "dataset.ttl", "3650d")]);
    }
}

#[test]
fn times_of_full_passes() {
    let full = |text: &str| format!("{GOOD}reconcile = {{ full = {text:?} }}\n");
    let config = parse("t.toml", &full("0 3 * * *")).unwrap();
    assert_eq!(config.policy.datasets["a"].reconcile_full, "0 3 * * *".parse().ok());
    assert_eq!(parse("t.toml", GOOD).unwrap().policy.datasets["a"].reconcile_full, None);
    for wrong in ["", "daily", "0 3 * *", "0 25 * * *", "0 0 30 2 *"] {
        check(&full(wrong), &[(5, "dataset.reconcile.full", "0 3 * * *")]);
    }
    let errors = parse("t.toml", &full("0 0 30 2 *")).unwrap_err();
    assert!(errors[0].problem.contains("never fires"), "{}", errors[0]);
}

#[test]
fn a_mistake_reads_like_a_compilers() {
    let text = GOOD.replace("json", "xml");
    let errors = parse("tidelock.toml", &text).unwrap_err();
    let expected = "\
error: \"xml\" is not known here
 --> tidelock.toml:3:8
  |
3 | kind = \"xml\"
  |        ^^^^^
  = field: dataset.kind, of dataset \"a\"
  = accepted: \"json\", \"text\", \"binary\", \"structured\"";
    assert_eq!(errors[0].to_string(), expected);
}

/// One row a policy that cannot hold: what is said of the second of two datasets, the field that is
/// blamed, a part of the reason, and a part of the way out.
const CANNOT_HOLD: &[(&str, &str, &str, &str)] = &[
    ("strategy = { r2 = \"write-through\" }", "dataset.strategy.r2", "not kept in r2", "r2 = {}"),
    ("strategy = { s3 = \"write-through\" }", "s3", "unknown field", "`r2`"),
    ("strategy = { d1 = \"write-behind\" }", "dataset.durability", "this disk", "\"peer\""),
    (
        "kv = {}\nstrategy = { d1 = \"write-behind\", kv = \"write-behind\" }\n\
         durability = \"authority\"",
        "dataset.durability",
        "every store is write-behind",
        "write-through",
    ),
    ("durability = \"peer\"", "dataset.durability", "no peer shares", "[[peer]]"),
    ("durability = \"quorum\"", "dataset.durability", "not known", "\"local\""),
    ("reconcile = { full = \"0 0 31 4 *\" }", "dataset.reconcile.full", "never fires", "0 3 * * *"),
    ("reconcile = { full = \"0 0 * * * *\" }", "dataset.reconcile.full", "fields", "five fields"),
    ("reconcile = { full = \"61 * * * *\" }", "dataset.reconcile.full", "minute", "five fields"),
    ("reconcile = { every = \"0s\" }", "dataset.reconcile.every", "no time", "from 1s to 30d"),
    ("reconcile = { every = \"31d\" }", "dataset.reconcile.every", "no time", "from 1s to 30d"),
    ("reconcile = { recent = \"0s\" }", "dataset.reconcile.recent", "no time", "from 1s"),
    ("reconcile = { recent = \"fast\" }", "dataset.reconcile.recent", "no time", "\"never\""),
    ("reconcile = { recent = \"30s\" }", "dataset.reconcile.recent", "adds nothing", "\"1h\""),
    (
        "reconcile = { recent = \"5s\", every = \"never\" }",
        "dataset.reconcile.recent",
        "nobody looks over everything",
        "`full`",
    ),
    ("reconcile = { after = \"1h\" }", "after", "unknown field", "`every`"),
    ("ttl = \"0s\"", "dataset.ttl", "expires", "from 1s to 3650d"),
    ("ttl = \"9999d\"", "dataset.ttl", "expires", "from 1s to 3650d"),
    ("ttl = 5", "ttl", "invalid type", "a string"),
    ("read = \"nearest\"", "dataset.read", "not known", "\"any\", \"session\", \"latest\""),
    ("oversize = \"reference\"", "dataset.oversize", "not kept in R2", "r2 = {}"),
    (
        "r2 = { keep = \"reference\" }\noversize = \"reference\"",
        "dataset.r2.keep",
        "not to keep it whole",
        "keep = \"full\"",
    ),
    ("kv = { keep = [] }", "dataset.kv.keep", "0 fields", "1 to 64"),
    ("kv = { keep = [\"x\", \"x\"] }", "dataset.kv.keep", "twice", "each field once"),
    ("kv = { prefix = \"a/b/\" }", "dataset.kv.prefix", "overlaps \"a/\" of a in kv", "neither"),
    ("kv = { prefix = \"\" }", "dataset.kv.prefix", "overlaps", "neither"),
    ("r2 = { prefix = \"_tidelock/b/\" }", "dataset.r2.prefix", "Tidelock itself", "neither"),
    ("r2 = { prefix = \"\\n\" }", "dataset.r2.prefix", "control character", "printable"),
    ("d1 = {}", "d1", "duplicate", "valid TOML"),
    ("queue = 5", "queue", "invalid type", "records = 10000"),
    ("queue = { rows = 5 }", "rows", "unknown field", "`records`"),
    ("queue = { records = 0 }", "dataset.queue.records", "0 is no bound", "from 1 to 100000"),
    ("queue = { records = -1 }", "dataset.queue.records", "-1 is no bound", "from 1 to 100000"),
    ("queue = { records = 100001 }", "dataset.queue.records", "no bound", "from 1 to 100000"),
    ("queue = { records = \"many\" }", "queue", "invalid type", "i64"),
    ("queue = { bytes = \"64\" }", "dataset.queue.bytes", "no bound", "\"1KB\" to \"256MB\""),
    ("queue = { bytes = \"0MB\" }", "dataset.queue.bytes", "no bound", "\"1KB\" to \"256MB\""),
    ("queue = { bytes = \"1GB\" }", "dataset.queue.bytes", "no bound", "\"1KB\" to \"256MB\""),
    ("queue = { bytes = \"+1MB\" }", "dataset.queue.bytes", "no bound", "with KB"),
    ("backlog = \"drop\"", "dataset.backlog", "not known", "\"absorb\", \"promise\""),
    ("kv = { keeps = \"full\" }", "keeps", "unknown field", "`keep`"),
    ("conflict = { default = \"newest\" }", "dataset.conflict.default", "not known", "lww"),
    ("conflict = { default = \"prefer_store\" }", "dataset.conflict.default", "not said", "d1"),
    (
        "conflict = { default = { prefer_store = \"s3\" } }",
        "dataset.conflict.default",
        "no store",
        "d1",
    ),
    ("conflict = { default = { prefer = \"d1\" } }", "prefer", "unknown field", "`prefer_store`"),
    (
        "conflict = { prefixes = { \"a/\" = \"newest\" } }",
        "dataset.conflict.prefixes.\"a/\"",
        "not known",
        "keep_siblings",
    ),
    ("conflict = { fields = { \"/n\" = \"max\" } }", "dataset.conflict.fields", "nothing", "merge"),
    (
        "conflict = { default = \"merge\", fields = { n = \"max\" } }",
        "dataset.conflict.fields",
        "no JSON Pointer",
        "\"/stock\"",
    ),
    (
        "ttl = \"1h\"\nconflict = { default = \"merge\" }",
        "dataset.conflict.default",
        "expire",
        "no ttl",
    ),
];

#[test]
fn a_policy_that_cannot_hold_is_refused_by_dataset_and_field() {
    let first = "[[dataset]]\nname = \"a\"\nkind = \"json\"\nd1 = {}\nkv = {}\n\n";
    for (said, field, problem, accepted) in CANNOT_HOLD {
        let text = format!("{first}{}{said}\n", GOOD.replace("\"a\"", "\"b\""));
        let errors = parse("t.toml", &text).expect_err(said);
        let [error] = &errors[..] else { panic!("{said}: {errors:#?}") };
        let what = error.to_string();
        assert_eq!((error.field.as_str(), error.dataset.as_deref()), (*field, Some("b")), "{what}");
        assert!(what.contains(", of dataset \"b\""), "{what}");
        assert!(error.problem.contains(problem), "{said}: {what}");
        assert!(error.accepted.contains(accepted), "{said}: {what}");
        assert!(error.line > 6, "{what}");
    }
}

#[test]
fn what_is_no_mistake_of_a_dataset_names_none() {
    let errors = parse("t.toml", &format!("listen = \"here\"\n{GOOD}")).unwrap_err();
    assert_eq!((errors.len(), errors[0].dataset.as_deref()), (1, None));
    let errors = parse("t.toml", &format!("port = 1\n{GOOD}")).unwrap_err();
    assert_eq!((errors.len(), errors[0].dataset.as_deref()), (1, None));
}

#[test]
fn what_d1_keeps() {
    let refers = |line: &str| {
        let text = GOOD.replace("d1 = {}", line);
        parse("t.toml", &text).unwrap().policy.datasets["a"].d1_refers
    };
    assert!(!refers("d1 = {}\nr2 = {}") && !refers("d1 = { keep = \"full\" }"));
    assert!(refers("d1 = { keep = \"reference\" }\nr2 = {}"));
    let text = GOOD.replace("d1 = {}", "d1 = { keep = \"reference\" }\nr2 = {}");
    let promise = parse("t.toml", &text).unwrap().policy.datasets["a"].promise();
    assert!(promise.contains("journal and in d1 and r2;"), "{promise}");
    let refused = |d1: &str, more: &str, accepted: &str| {
        let text = GOOD.replace("d1 = {}", &format!("d1 = {{ keep = {d1} }}"));
        check(&format!("{text}{more}\n"), &[(4, "dataset.d1.keep", accepted)]);
    };
    refused("\"reference\"", "", "r2 = {}");
    refused("\"reference\"", "r2 = { keep = \"reference\" }", "r2 = {}");
    refused("\"none\"", "", "\"full\", \"reference\"");
    let row = TABLE.replace("key = \"sku\"", "key = \"sku\", keep = \"reference\"");
    check(&format!("{row}r2 = {{}}\n"), &[(4, "dataset.d1.keep", "\"full\"")]);
}

#[test]
fn queues_and_what_becomes_of_a_backlog() {
    let with = |line: &str| {
        let config = parse("t.toml", &format!("{GOOD}{line}\n")).unwrap();
        let dataset = &config.policy.datasets["a"];
        (dataset.backlog, dataset.queue.records, dataset.queue.bytes)
    };
    assert_eq!(with(""), (Mode::Absorb, None, None));
    assert_eq!(with("backlog = \"absorb\""), (Mode::Absorb, None, None));
    let both = "backlog = \"promise\"\nqueue = { records = 7, bytes = \"64MB\" }";
    assert_eq!(with(both), (Mode::Promise, Some(7), Some(64 << 20)));
    assert_eq!(with("queue = { bytes = \"1KB\" }"), (Mode::Absorb, None, Some(1_024)));
}

const RULE: &str = "[[rule]]\nname = \"lowest\"\nsource = '''
fn resolve(sides, base) {
  let low = ();
  for side in latest_first(sides) {
    if !side.deleted && (low == () || side.value.price < low.price) { low = side.value; }
  }
  low
}'''\n";

#[test]
fn a_rule_decides_where_a_ruling_names_it() {
    let named = "conflict = { default = { rule = \"lowest\", fallback = \"delete_wins\" }, \
                 prefixes = { \"b/\" = { rule = \"lowest\" } } }\n";
    let example = "[[rule.example]]\nbase = '{\"price\":3}'\nsides = ['{\"price\":5}', '{\"price\":4}', \
                   'delete']\nexpect = '{\"price\":4}'\n";
    let text = format!("{GOOD}{named}{RULE}{example}");
    let config = parse("t.toml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
    let rule = config.rules["lowest"].clone();
    assert_eq!((rule.examples.len(), &rule.used_by[..]), (1, &["a".into()][..]));
    let conflicts = &config.policy.datasets["a"].conflict;
    let ruling = |fallback| Ruling::Rule { rule: rule.rule.clone(), fallback: Box::new(fallback) };
    assert_eq!(*conflicts.ruling("x"), ruling(Ruling::DeleteWins));
    assert_eq!(*conflicts.ruling("b/x"), ruling(Ruling::Lww));
    // Another source is another policy.
    let other = parse("t.toml", &text.replace("low == ()", "() == low")).unwrap();
    assert_ne!(other.policy, config.policy);
    let default = "dataset.conflict.default";
    let refused = |from: &str, to: &str, expected: (usize, &str, &str)| {
        assert!(text.contains(from), "{from}");
        check(&text.replacen(from, to, 1), &[expected]);
    };
    let ruled = "default = { rule = \"lowest\"";
    refused(ruled, "default = { rule = \"other\"", (5, default, "[[rule]]"));
    refused("fallback = \"delete_wins\"", "fallback = \"merge\"", (5, default, "\"delete_wins\""));
    refused("fallback = \"delete_wins\"", "prefer_store = \"d1\"", (5, "conflict", "prefer_store"));
    let (text_kind, prefix) = ("kind = \"text\"", "dataset.conflict.prefixes.\"b/\"");
    let not_json = [(5, default, "kind = \"json\""), (5, prefix, "kind = \"json\"")];
    check(&text.replace("kind = \"json\"", text_kind), &not_json);
    check(&text.replace("lowest", "Lowest"), &[(7, "rule.name", "a-z")]);
    refused(example, &format!("{example}{RULE}"), (21, "rule.name", "of its own"));
    refused("expect = '{\"price\":4}'", "expect = 'delete'", (8, "rule.source", "this law"));
}

#[test]
fn the_rule_of_the_manual_is_accepted() {
    let manual = include_str!("../../../../README.md");
    let block = manual.split("```toml\n").find(|block| block.starts_with("[[rule]]"));
    let rule = block.and_then(|block| block.split("```").next()).expect("it has one");
    let config = parse("README.md", &format!("{rule}{GOOD}")).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(config.rules["lowest"].examples.len(), 1);
}

#[test]
fn a_rule_that_nobody_could_rely_on_is_refused_with_the_smallest_conflict_that_shows_it() {
    for (body, words) in [
        ("loop { }", "stays within its limits"),
        ("let all = []; loop { all.push(sides); }", "stays within its limits"),
        ("timestamp()", "some conflict is answered"),
        ("throw \"never\"", "some conflict is answered"),
        ("|x| x", "some conflict is answered"),
        ("sides[0].value", "names of writers make no difference"),
        ("#{ n: 1 }", "all sides agree"),
        ("let = sides[0]", "no script"),
        ("eval(\"1\")", "rules have no `eval`"),
    ] {
        let text = format!(
            "[[rule]]\nname = \"r\"\nsource = '''fn resolve(sides, base) {{ {body} }}'''\n{GOOD}"
        );
        let errors = parse("t.toml", &text).expect_err(body);
        let [error] = &errors[..] else { panic!("{body}: {errors:#?}") };
        assert_eq!((error.line, error.field.as_str()), (3, "rule.source"), "{error}");
        assert!(error.problem.contains(words), "{body}: {error}");
    }
}

#[test]
fn read_levels() {
    let read = |text: &str| {
        parse("t.toml", &format!("{GOOD}read = {text:?}\n")).unwrap().policy.datasets["a"].read
    };
    let levels = [ReadLevel::Any, ReadLevel::Session, ReadLevel::Latest];
    assert_eq!(["any", "session", "latest"].map(read), levels);
}

#[test]
fn who_is_told_over_http() {
    let told = |lines: &str| {
        let text = format!("{GOOD}[[webhook]]\nname = \"ops\"\n{lines}\n");
        parse("t.toml", &text).unwrap().webhooks.remove(0)
    };
    for url in [
        "http://127.0.0.1:8080/x",
        "https://hooks.example.com/tidelock?team=1",
        "http://[::1]:9/",
        "http://[::1]",
        "https://h",
    ] {
        assert_eq!(told(&format!("url = {url:?}")).url, url);
    }
    let plain = told("url = \"http://h/\"");
    assert_eq!((plain.kinds, plain.datasets, plain.attempts), (None, None, 12));
    assert_eq!((plain.secret, plain.storms), (SecretPlace::DataFolder, StormsTold::Summarised));
    let chosen = told(
        "url = \"http://h/\"\nkinds = [\"conflict\", \"operator\"]\ndatasets = [\"a\"]\n\
         secret_file = \"/run/secrets/ops\"\nstorms = \"every\"\nattempts = 3",
    );
    assert_eq!(chosen.kinds, Some(BTreeSet::from([audit::Kind::Conflict, audit::Kind::Operator])));
    assert_eq!(chosen.datasets, Some(BTreeSet::from(["a".to_owned()])));
    assert_eq!(chosen.secret, SecretPlace::File("/run/secrets/ops".into()));
    assert_eq!((chosen.storms, chosen.attempts), (StormsTold::Every, 3));
    let variable = told("url = \"http://h/\"\nsecret_env = \"OPS_SECRET\"");
    assert_eq!(variable.secret, SecretPlace::Variable("OPS_SECRET".to_owned()));
}

#[test]
fn mistakes_of_a_webhook() {
    let hook = |lines: &str| format!("{GOOD}[[webhook]]\nname = \"ops\"\n{lines}\n");
    let long = format!("http://h/{}", "x".repeat(2_048));
    for url in [
        "hooks.example.com/x",
        "ftp://h/",
        "http://",
        "http:///x",
        "http://h:port/",
        "http://h:99999/",
        "http://h/a b",
        "http://h/#x",
        "http://h/ü",
        &long,
    ] {
        check(&hook(&format!("url = {url:?}")), &[(7, "webhook.url", "https://hooks")]);
    }
    let with_password = hook("url = \"https://ops:hunter2@h/\"");
    check(&with_password, &[(7, "webhook.url", "https://hooks")]);
    let problem = parse("t.toml", &with_password).unwrap_err().remove(0).problem;
    assert!(problem.contains("password") && !problem.contains("hunter2"), "{problem}");
    let with = |line: &str| hook(&format!("url = \"http://h/\"\n{line}"));
    check(&with("kinds = [\"conflict\", \"eclipse\"]"), &[(8, "webhook.kinds", "\"operator\"")]);
    check(&with("kinds = []"), &[(8, "webhook.kinds", "\"conflict\"")]);
    check(&with("datasets = [\"a\", \"b\"]"), &[(8, "webhook.datasets", "\"a\"")]);
    check(&with("datasets = []"), &[(8, "webhook.datasets", "\"a\"")]);
    check(&with("secret_file = \"\""), &[(8, "webhook.secret_file", "path")]);
    check(&with("secret_env = \"whsec_MfKQ==\""), &[(8, "webhook.secret_env", "HOOK_SECRET")]);
    let both = with("secret_file = \"x\"\nsecret_env = \"X\"");
    check(&both, &[(9, "webhook.secret_env", "either")]);
    check(&with("storms = \"never\""), &[(8, "webhook.storms", "\"summarised\"")]);
    check(&with("attempts = 0"), &[(8, "webhook.attempts", "from 1 to 50")]);
    check(&with("retries = 3"), &[(8, "retries", "`attempts`")]);
    check(&hook(""), &[(5, "url", "the field")]);
    let named = with("").replace("\"ops\"", "\"Ops!\"");
    check(&named, &[(6, "webhook.name", "a-z")]);
    let twice = format!("{}[[webhook]]\nname = \"ops\"\nurl = \"http://h/\"\n", with(""));
    check(&twice, &[(10, "webhook.name", "of its own")]);
    let one = "[[webhook]]\nname = \"N\"\nurl = \"http://h/\"\n";
    let many: String = (0..33).map(|n| one.replace('N', &format!("n{n}"))).collect();
    check(&format!("{GOOD}{many}"), &[(101, "webhook", "at most 32")]);
}
