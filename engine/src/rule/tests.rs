//! Rules by example: what they answer, what stops them, and which laws they break.

use super::*;
use crate::version::{Actor, Dot, NodeId, Stamp};
use proptest::prelude::{
    BoxedStrategy, Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof,
    proptest,
};

fn side<V>(node: u16, wall_ms: u64, value: V) -> Side<V> {
    let dot = Dot { actor: Actor { node: NodeId(node), incarnation: 7 }, counter: 1 };
    Side { dot, stamp: Stamp { wall_ms, logical: 0 }, value }
}

/// Sides in dot order, each a later writer than the one before; `-` is a delete.
fn sides<'t>(texts: &[&'t str]) -> Vec<Side<Option<&'t [u8]>>> {
    let value = |text: &&'t str| Some(text.as_bytes()).filter(|bytes| bytes != b"-");
    texts.iter().zip(1..).map(|(text, n)| side(n, u64::from(n), value(text))).collect()
}

fn rule(body: &str) -> Rule {
    Rule::load(&format!("fn resolve(sides, base) {{ {body} }}")).unwrap()
}

fn ask(body: &str, base: Option<&str>, texts: &[&str]) -> Result<String, Failed> {
    let answer = rule(body).resolve(base.map(str::as_bytes), &sides(texts))?;
    Ok(answer.value.map_or("-".to_owned(), |bytes| String::from_utf8(bytes).unwrap()))
}

#[track_caller]
fn check(body: &str, base: Option<&str>, texts: &[&str], expected: &str) {
    assert_eq!(ask(body, base, texts).as_deref(), Ok(expected), "{body}");
}

/// Why a rule fails on one side, `{}`.
fn failed(body: &str) -> Failed {
    ask(body, None, &["{}"]).unwrap_err()
}

fn why(body: &str) -> String {
    failed(body).to_string()
}

#[test]
fn what_a_rule_is_given() {
    let given = r#"[{"deleted":false,"dot":"1.0000000000000007.1","node":1,"stamp_ms":1,"value":[1]},{"deleted":true,"dot":"2.0000000000000007.1","node":2,"stamp_ms":2,"value":null}]"#;
    check("sides", None, &["[1]", "-"], given);
    check("[base]", None, &["1"], "[null]");
    check("base.a + 1", Some(r#"{"a":4}"#), &["1"], "5");
    check("sides[1].value", None, &["1", "-"], "-");
    check("()", None, &["1"], "-");
}

#[test]
fn sides_are_a_set() {
    let rule = rule("let all = []; for s in sides { all.push(s.value); } all");
    let mut given = sides(&["1", "2", "3"]);
    let answer = rule.resolve(None, &given).unwrap();
    assert_eq!(answer.value.as_deref(), Some(&b"[1,2,3]"[..]));
    for _ in 0..3 {
        given.rotate_left(1);
        given.push(given[0]);
        assert_eq!(rule.resolve(None, &given).as_ref(), Ok(&answer));
    }
    assert_eq!(rule.resolve(None, &[]), Err(Failed::NoSide));
    let many: Vec<_> = (0..=SIDES_MAX as u16).map(|n| side(n, 1, Some(&b"1"[..]))).collect();
    assert_eq!(rule.resolve(None, &many), Err(Failed::ManySides(SIDES_MAX + 1)));
}

#[test]
fn answers_are_canonical() {
    check(
        r#"#{b: 1, a: ["x\n", true, (), 1.50, -7]}"#,
        None,
        &["1"],
        r#"{"a":["x\n",true,null,1.5,-7],"b":1}"#,
    );
    check("sides[0].value", None, &[r#" { "b" : 1.10 , "a":"\u0061" } "#], r#"{"a":"a","b":1.1}"#);
    check("2.0", None, &["1"], "2.0");
    check("1 + 0.5", None, &["1"], "1.5");
}

#[test]
fn what_would_be_changed_is_refused() {
    let refused = |text: &str, pointer: &str, part: &str| {
        for body in ["sides[0].value", "1"] {
            let error = ask(body, None, &[text]).unwrap_err();
            let Failed::Unrepresentable { whose: Origin::Given(Whose::Side(_)), pointer: at, why } =
                error
            else {
                panic!("{text}: {error}")
            };
            assert_eq!((at.as_str(), why.contains(part)), (pointer, true), "{text}: {why}");
        }
    };
    refused(r#"{"a/b":[0,9223372036854775808]}"#, "/a~1b/1", "beyond 64 bits");
    refused("-9223372036854775809", "", "beyond 64 bits");
    refused(r#"{"a":{},"b":0.1000000000000000055}"#, "/b", "rounds");
    refused("[9007199254740993.0]", "/0", "rounds");
    refused("1e400", "", "rounds");
    refused(r#""\ud800""#, "", "Unicode");
    refused("null", "", "delete");
    let base = ask("1", Some("1e400"), &["1"]).unwrap_err();
    assert!(base.to_string().starts_with("the base has at \"\" a number"), "{base}");
    check(
        "sides[0].value",
        None,
        &["[9223372036854775807,-9223372036854775808]"],
        "[9223372036854775807,-9223372036854775808]",
    );
    let not = ask("1", None, &["{"]).unwrap_err();
    assert!(matches!(not, Failed::NotJson(Whose::Side(_), Refused::Malformed(_))), "{not}");
    let late = rule("1").resolve(None, &[side(1, u64::MAX, None)]).unwrap_err();
    assert!(late.to_string().contains("stamp"), "{late}");
}

#[test]
fn what_json_does_not_have_is_no_answer() {
    let no_type = |body: &str, at: &str| {
        let error = failed(body);
        let Failed::NoJsonType { pointer, .. } = &error else { panic!("{body}: {error}") };
        assert_eq!(pointer, at);
    };
    no_type("#{a: [1, 'c']}", "/a/1");
    no_type("1..3", "");
    no_type("[|x| x]", "/0");
    for body in ["[0.0 / 0.0]", "[1.0 / 0.0]"] {
        let error = why(body);
        assert!(error.contains("\"/0\" a number that is not finite"), "{error}");
    }
    assert_eq!(failed("let v = 1; for i in 0..129 { v = [v]; } v"), Failed::Deep);
}

#[test]
fn every_loop_ends() {
    let stopped = |body: &str, limit: Limit| match failed(body) {
        Failed::Limit { limit: met, place: _ } => assert_eq!(met, limit, "{body}"),
        other => panic!("{body}: {other}"),
    };
    stopped("loop {}", Limit::Operations);
    stopped("while true { let x = 1; }", Limit::Operations);
    stopped("for i in 0..9223372036854775807 {}", Limit::Operations);
    stopped("loop { try { loop {} } catch { } }", Limit::Operations);
    stopped("let a = []; a.pad(2000, 1); a.filter(|x| { loop {} })", Limit::Operations);
    stopped("let a = [2, 1]; a.sort(|x, y| { loop {} }); a", Limit::Operations);
    stopped("resolve(sides, base)", Limit::Calls);
    stopped("let f = |g| g.call(g); f.call(f)", Limit::Calls);
}

#[test]
fn every_allocation_ends() {
    let stopped = |body: &str, limit: Limit| match failed(body) {
        Failed::Limit { limit: met, place: _ } => assert_eq!(met, limit, "{body}"),
        other => panic!("{body}: {other}"),
    };
    stopped("let s = \"x\"; loop { s += s; }", Limit::Strings);
    stopped("let s = \"x\"; loop { s = `${s}${s}`; }", Limit::Strings);
    stopped("let s = \"x\"; s.pad(9223372036854775807, 'x'); s", Limit::Strings);
    stopped("let a = []; loop { a.push(1); }", Limit::Items);
    stopped("let a = [1]; loop { a += a; }", Limit::Items);
    stopped("let a = []; a.pad(9223372036854775807, 1); a", Limit::Items);
    stopped("let m = #{}; let i = 0; loop { m[`${i}`] = i; i += 1; }", Limit::Members);
    stopped("let a = [\"x\"]; let s = a[0]; s.pad(200000, 'x'); [s, s]", Limit::Strings);
    // What it would make has 10^10 bytes, and is not made before it is looked at.
    for (find, by) in [("\"x\"", "s"), ("'x'", "s"), ("\"\"", "s")] {
        stopped(
            &format!("let s = \"x\"; s.pad(100000, 'x'); s.replace({find}, {by}); s"),
            Limit::Strings,
        );
    }
    let variables: String = (0..VARIABLES_MAX).map(|n| format!("let v{n} = 1; ")).collect();
    stopped(&variables, Limit::Variables);
    stopped("let m = #{}; loop { m.a = m; }", Limit::Members);
    stopped("let a = [0]; loop { a[0] = a; }", Limit::Items);
    stopped(
        "let s = \"x\"; s.pad(9000, 'x'); let m = #{}; let i = 0; loop { m[`${s}${i}`] = i; i += 1; }",
        Limit::Strings,
    );
    stopped(
        "let v = []; v.pad(900, 1); let m = #{}; let i = 0; loop { m[`${i}`] = v; i += 1; }",
        Limit::Items,
    );
    // A limit is not to be caught.
    stopped("try { let s = \"x\"; loop { s += s; } } catch { 1 }", Limit::Strings);
}

/// Test threads have two megabytes of stack, as workers have.
#[test]
fn no_nesting_breaks_the_stack() {
    let nest = "let v = #{}; for i in 0..1000 { v = #{a: v}; } for i in 0..2000 { v = [v]; }";
    let compared = |body: &str| match failed(&format!("{nest} let w = v; {body}")) {
        Failed::Limit { limit: Limit::Levels, place: _ } => {}
        other => panic!("{body}: {other}"),
    };
    for body in ["v == w", "v != w", "[1, v].contains(w)", "v in [w]", "[v].index_of(w)"] {
        compared(body);
    }
    for body in ["v.to_string().len()", "`${v}`.len()", "v.to_debug().len()", "v.to_json().len()"] {
        check(&format!("{nest} {body} > 10"), None, &["1"], "true");
    }
    assert!(matches!(failed(&format!("{nest} throw v;")), Failed::Thrown { .. }));
    assert!(matches!(failed(&format!("{nest} v.nothing()")), Failed::Script { .. }));
    assert_eq!(failed(&format!("{nest} v")), Failed::Deep);
    for grown in ["v = #{a: v};", "v = [v];"] {
        let error = failed(&format!("let v = #{{}}; loop {{ {grown} }}"));
        assert!(matches!(error, Failed::Limit { .. }), "{error}");
    }
}

#[test]
fn what_goes_wrong_is_said_with_its_line() {
    assert_eq!(
        failed("\n\n throw `no ${1 + 1}`;"),
        Failed::Thrown { words: "no 2".into(), place: Some(Place { line: 3, column: 2 }) }
    );
    assert_eq!(why("throw #{a: 1}"), "the rule threw at line 1, column 27: {\"a\":1}");
    let unknown = why("\n let x = base;\n f(x)");
    assert!(unknown.contains("at line 3, column 2") && unknown.contains("f (())"), "{unknown}");
    assert!(why("1 / 0").contains("Division by zero"));
    assert!(why("9223372036854775807 + 1").contains("overflow"));
    assert!(why("sides[9]").contains("out of bounds"));
    assert!(
        why("let a = [2, 1]; a.sort(|x, y| \"x\"); a").contains("a sort is told by an integer")
    );
    let Failed::Thrown { words, .. } = failed("let s = \"é\"; s.pad(9000, 'é'); throw s") else {
        panic!()
    };
    assert_eq!(words.len(), WORDS_BYTES_MAX);
}

#[test]
fn what_is_no_rule_is_refused() {
    let refused = |source: &str| Rule::load(source).unwrap_err();
    assert_eq!(refused(""), RuleError::NoResolve);
    assert_eq!(refused("fn resolves(sides, base) { 1 }"), RuleError::NoResolve);
    assert_eq!(refused("fn resolve(sides) { 1 }"), RuleError::Parameters(1));
    assert_eq!(refused("fn resolve(a, b, c) { 1 }"), RuleError::Parameters(3));
    assert!(Rule::load("fn resolve(a) { a } fn resolve(a, b) { resolve(a) }").is_ok());
    let syntax = refused("fn resolve(sides, base) {\n  let = 3;\n}");
    assert!(syntax.to_string().contains("at line 2, column 7"), "{syntax}");
    // Not only what is run is read.
    let name = refused("fn resolve(sides, base) { if false { bose } }");
    assert!(name.to_string().contains("bose"), "{name}");
    let outside = refused("const MOST = 3;\nfn resolve(sides, base) { 1 }");
    assert!(matches!(outside, RuleError::OutsideFunctions(_)), "{outside}");
    assert!(matches!(refused("loop {}"), RuleError::OutsideFunctions(_)));
    let long = format!("fn resolve(sides, base) {{ 1 }} // {}", "x".repeat(SOURCE_BYTES_MAX));
    assert_eq!(refused(&long), RuleError::Large(long.len()));
    let deep = format!("fn resolve(s, b) {{ {}1{} }}", "(".repeat(9000), ")".repeat(9000));
    assert!(matches!(refused(&deep), RuleError::Syntax { .. }));
}

#[test]
fn nothing_outside_can_be_reached() {
    let forbidden = |source: &str, expected: &str| match Rule::load(source).unwrap_err() {
        RuleError::Forbidden { word, place, .. } => {
            assert_eq!((word.as_str(), place.is_some()), (expected, true), "{source}");
        }
        other => panic!("{source}: {other}"),
    };
    let inside = |body: &str, word: &str| {
        forbidden(&format!("fn resolve(sides, base) {{ {body} }}"), word);
    };
    forbidden("import \"x\" as y; fn resolve(sides, base) { 1 }", "import");
    inside("import \"x\" as y; 1", "import");
    inside("eval(\"1\")", "eval");
    inside("print(1)", "print");
    inside("debug(1)", "debug");
    inside("switch base { 1 => 2, _ => 3 }", "switch");
    inside("2.0 ** 0.5", "**");
    inside("let x = 2; x **= 2; x", "**=");
    inside("let f = |a, b| a; f.curry(f)", "curry");
    inside("this", "this");
    // What is not in the language at all, by whatever name it is asked for.
    for body in [
        "timestamp()",
        "sleep(1)",
        "sleep(0.001)",
        "exit(1)",
        "rand()",
        "sin(1.0)",
        "exp(1.0)",
        "open_file(\"/etc/passwd\")",
        "Fn(\"timestamp\").call()",
        "Fn(\"sleep\").call(1)",
        "let e = \"ev\"; e += \"al\"; Fn(e).call(\"1\")",
        "Fn(\"cur\" + \"ry\").call(Fn(\"resolve\"), 1)",
        "Fn(\"**\").call(2.0, 0.5)",
        "Fn(\"pri\" + \"nt\").call(1, 2)",
        "parse_json(\"{}\")",
        "set_tag(sides, 1)",
        "blob(10)",
    ] {
        assert!(matches!(failed(body), Failed::Script { .. }), "{body}: {}", failed(body));
    }
    // No function sees the variables around it, so nothing is shared.
    assert!(Rule::load("fn resolve(sides, base) { [1].filter(|x| x == base) }").is_err());
}

#[test]
fn functions_of_the_language() {
    let is = |body: &str, expected: &str| check(body, None, &["1"], expected);
    is("let a = [3, 1, 2]; a.sort(); a", "[1,2,3]");
    is("let a = [3, 1, 2]; a.sort_desc(); a", "[3,2,1]");
    is("[3, \"a\", 1.5, (), true, -0.0, 0].order()", "[null,true,-0.0,0,1.5,3,\"a\"]");
    is("[\"b\", \"a\"].order_desc()", "[\"b\",\"a\"]");
    is("[[2], [1, 1], []].order(|a, b| a.len() - b.len())", "[[],[2],[1,1]]");
    is("let a = [3, 1, 2]; a.sort(|a, b| a < b); a", "[1,2,3]");
    // An order that is none gives some order, always the same, and no panic.
    is("let a = []; for i in 0..60 { a.push(i); } a.sort(|a, b| 1); a.len()", "60");
    is("[0.0 / 0.0, 1.0, -0.0 / 0.0].order().len()", "3");
    is(
        "[#{a: [1, \"x\"]} == #{a: [1.0, \"x\"]}, [1] == [2], [1] != [2], #{a: 1} == #{b: 1}]",
        "[true,false,true,false]",
    );
    is("[[1] in [[2], [1]], [[2], [1]].index_of([1]), [1] == [\"1\"]]", "[true,1,false]");
    is("`${[1, #{a: \"x\"}]}` + #{}.to_string()", r#""[1,{\"a\":\"x\"}]{}""#);
    is("let s = \"a-b-c\"; s.replace(\"-\", \"+\"); s.replace('a', \"AA\"); s", "\"AA+b+c\"");
    is(
        "[1.5.floor(), 1.5.round(), 1.5.ceiling(), 1.9.to_int(), 2.to_float()]",
        "[1.0,2.0,2.0,1,2.0]",
    );
    is(
        "[parse_int(\" 7 \"), parse_float(\"7.5\"), 3.max(4), \"B\".to_lower(), (1).to_json()]",
        "[7,7.5,4,\"b\",\"1\"]",
    );
    assert!(why("1e300.to_int()").contains("no integer"));
    assert!(why("9223372036854775808.0.to_int()").contains("no integer"));
    assert!(why("[[1], [2]].order()").contains("sort by a function"));
}

#[test]
fn large_values_are_refused_before_the_rule_runs() {
    let many = |n: usize| format!("[{}0]", "0,".repeat(n));
    let given = |text: &str| ask("1", None, &[text]).unwrap_err();
    assert_eq!(given(&many(ITEMS_MAX)), Failed::GivenTooLarge(Limit::Items));
    let members: String = (0..MEMBERS_MAX).map(|n| format!("\"m{n}\":1,")).collect();
    assert_eq!(given(&format!("{{{members}\"z\":1}}")), Failed::GivenTooLarge(Limit::Members));
    let long = format!("\"{}\"", "x".repeat(STRINGS_MAX));
    assert_eq!(given(&long), Failed::GivenTooLarge(Limit::Strings));
    let huge = format!("\"{}\"", "x".repeat(BYTES_MAX));
    assert_eq!(given(&huge), Failed::Large(huge.len()));
    assert!(ask("sides[0].value", Some(&many(900)), &[&many(900), &many(900)]).is_ok());
}

const LONGEST: &str = "
    let best = ();
    for side in sides {
        let items = if type_of(side.value) == \"array\" { side.value.len() } else { -1 };
        let spelled = to_json(side.value);
        let before = best == () || items > best.items
            || items == best.items && spelled > best.spelled;
        if before { best = #{ items: items, spelled: spelled, value: side.value }; }
    }
    best.value";

const LATEST: &str = "
    let best = sides[0];
    for side in sides { if side.stamp_ms > best.stamp_ms { best = side; } }
    best.value";

#[test]
fn laws_are_kept_by_rules_that_go_by_values() {
    rule(LONGEST).check(&[], 2_000, 1).unwrap();
    rule(LATEST).check(&[], 2_000, 1).unwrap();
    // One that answers nothing but its example answers something.
    let picky = "for side in sides { if side.value != 700 { throw \"700 or nothing\" } } 700";
    assert_eq!(broken(picky, &[], 1).law, Law::Answers);
    let seven = Example { sides: vec![side(1, 5, Some(b"700".to_vec()))], ..Example::default() };
    rule(picky).check(&[seven], 200, 1).unwrap();
}

fn broken(body: &str, examples: &[Example], seed: u64) -> CounterExample {
    *rule(body).check(examples, 2_000, seed).unwrap_err()
}

/// The values of the sides, with their stamps.
fn values(found: &CounterExample) -> Vec<(String, u64)> {
    let value = |side: &Side<Option<Vec<u8>>>| match &side.value {
        Some(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        None => "-".to_owned(),
    };
    found.sides.iter().map(|side| (value(side), side.stamp.wall_ms)).collect()
}

#[test]
fn counter_examples_are_small() {
    for seed in 0..8 {
        // The first side wins: two sides that differ are enough.
        let first = broken("sides[0].value", &[], seed);
        assert_eq!((first.law, first.base.as_ref()), (Law::Naming, None), "{first}");
        let values_of_first = values(&first);
        assert_eq!(values_of_first.len(), 2, "{first}");
        assert!(values_of_first.iter().all(|(text, ms)| text.len() <= 2 && *ms < 2), "{first}");
        assert_ne!(first.answer, *first.wanted.as_ref().unwrap());
        // Whatever is agreed on is 7: one side that is not.
        let seven = broken("7", &[], seed);
        assert!(matches!(seven.law, Law::Agreement | Law::Unchanged), "{seven}");
        let (base, one) = (seven.base.clone(), values(&seven));
        assert_eq!(one.len(), 1, "{seven}");
        assert!(one[0].0.len() <= 2 && base.is_none_or(|base| base.len() <= 2), "{seven}");
        // Only a member deep inside is lost, so it is still there in the end, with nothing else.
        let lossy = "let v = sides[0].value; \
            if type_of(v) == \"map\" && \"tags\" in v && sides.len() == 1 { v.remove(\"tags\"); } v";
        let base = br#"{"name":"x","items":[{"id":1},{"id":2}],"tags":["a","b"]}"#.to_vec();
        let example = Example {
            base: Some(base.clone()),
            sides: vec![side(1, 5, Some(base))],
            expected: None,
        };
        let lost = broken(lossy, &[example], seed);
        assert_eq!(lost.law, Law::Unchanged, "{lost}");
        assert_eq!(values(&lost), [(r#"{"tags":0}"#.to_owned(), 0)], "{lost}");
    }
}

#[test]
fn a_rule_that_prefers_a_writer_is_told_by_the_names() {
    let found =
        broken("for s in sides { if s.node == 1 { return s.value; } } sides[0].value", &[], 3);
    assert_eq!(found.law, Law::Naming);
    let report = found.to_string();
    assert!(report.starts_with("the rule breaks a law: the names of writers"), "{report}");
    for part in ["base       unknown", "by 1.0000000000000001.1 at 0 ms", "  or    ", "answer"] {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn a_rule_that_fails_under_some_names_only_is_found() {
    let found = broken("if sides[0].value == 0 { throw \"zero\" } sides.len()", &[], 1);
    assert_eq!(found.law, Law::Agreement, "{found}");
    let found = broken(
        "if sides.len() > 1 && sides[0].value == 0 { throw \"zero\" } if sides[0].value == sides[sides.len() - 1].value { return sides[0].value; } 0",
        &[],
        1,
    );
    assert_eq!(found.law, Law::Naming, "{found}");
}

#[test]
fn examples_say_what_is_expected() {
    let example = |texts: &[&str], expected: Option<&str>| Example {
        base: None,
        sides: sides(texts)
            .into_iter()
            .map(|s| side(s.dot.actor.node.0, s.stamp.wall_ms, s.value.map(<[u8]>::to_vec)))
            .collect(),
        expected: expected.map(|text| Resolved { value: Some(text.as_bytes().to_vec()) }),
    };
    let kept = example(&["[1]", "[1,2]"], Some("[1,2]"));
    let open = example(&["[1]", "7"], None);
    rule(LONGEST).check(&[kept.clone(), open.clone()], 100, 1).unwrap();
    let other = broken(LONGEST, &[open, example(&["[1]", "[1,2]"], Some("[1]"))], 1);
    assert_eq!(other.law, Law::Example);
    let report = other.to_string();
    assert!(report.contains("answer     [1,2]\n  wanted     [1]"), "{report}");
    let none = broken("throw \"cannot\"", &[kept], 1);
    assert!(none.to_string().contains("the rule threw"), "{none}");
}

fn json() -> BoxedStrategy<serde_json::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Into::into),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z\"\\\\é\n]{0,6}".prop_map(Into::into),
        Just(serde_json::Value::Null),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("[a-d/~]{1,2}", inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn what_a_rule_leaves_alone_comes_back(value in json(), other in json()) {
        let (bytes, other) = (value.to_string(), other.to_string());
        let given = [&*bytes, &*other];
        for at in 0..2 {
            let read = Node::parse(given[at].as_bytes()).unwrap();
            match ask(&format!("sides[{at}].value"), None, &given) {
                Ok(answer) => prop_assert!(Node::parse(answer.as_bytes()).unwrap().same(&read), "{answer}"),
                Err(failed) => prop_assert!(given.contains(&"null"), "{failed}"),
            }
        }
    }

    #[test]
    fn numbers_come_back_or_are_refused(text in r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
        match ask("[sides[0].value][0]", None, &[&text]) {
            Ok(answer) => {
                let (is, was) = (Node::parse(answer.as_bytes()).unwrap(), Node::parse(text.as_bytes()).unwrap());
                prop_assert!(is.same(&was), "{text} became {answer}");
            }
            Err(Failed::Unrepresentable { .. }) => {}
            Err(other) => prop_assert!(false, "{text}: {other}"),
        }
    }

    #[test]
    fn another_engine_gives_the_same_bytes(base in json(), values in proptest::collection::vec(json(), 1..5), turn in 0..5usize) {
        let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
        let mut given = sides(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let base = base.to_string();
        for body in [LONGEST, "sides", "let a = []; for s in sides { a.push(s.value); } a.sort(|x, y| x.to_json() < y.to_json()); a"] {
            let first = rule(body).resolve(Some(base.as_bytes()), &given);
            let count = given.len();
            given.rotate_left(turn % count);
            let rule = rule(body);
            prop_assert_eq!(&rule.resolve(Some(base.as_bytes()), &given), &first);
            prop_assert_eq!(&rule.resolve(Some(base.as_bytes()), &given), &first);
        }
    }

    #[test]
    fn no_source_panics(source in "(fn resolve\\(a, b\\) \\{ )?[a-z0-9(){}\\[\\]|,;.+*=\"#$` ]{0,60}\\}?") {
        if let Ok(rule) = Rule::load(&source) {
            let _ = rule.resolve(Some(b"{\"a\":[1]}"), &sides(&["1", "-"]));
        }
    }
}
