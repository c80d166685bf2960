//! What a page says, and that no text of the data can become anything but text.

mod sample;

use tidelock_reports::{Campaign, Failure, FaultCount, campaign_page, failure_page, html, write};

/// Every string of the data, map keys included: taken from its JSON, so that a new field cannot
/// be forgotten here.
fn strings_of(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::String(text) => vec![text.clone()],
        serde_json::Value::Array(list) => list.iter().flat_map(strings_of).collect(),
        serde_json::Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                let mut strings = strings_of(value);
                strings.push(key.clone());
                strings
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Panics if hostile text got out of the place where it stands.
fn assert_only_text(page: &str) {
    for raw in ["<script>alert", "<img", "onerror=alert(1)>&<!", "'></title>", "<!--"] {
        assert!(!page.contains(raw), "{raw:?} stands raw on the page");
    }
    // The page's own scripts: the error script, the page script, on a failure page two more.
    let opened = page.matches("<script").count();
    assert_eq!(opened, page.matches("</script>").count());
    assert!(opened <= 4, "{opened} scripts");
    for element in ["title", "style", "pre"] {
        let opened = page.matches(&format!("<{element}")).count();
        let closed = page.matches(&format!("</{element}>")).count();
        assert_eq!(opened, closed, "{element} is closed by something else");
    }
}

#[test]
fn hostile_text_stays_text_on_the_campaign_page() {
    let campaign = sample::hostile_campaign();
    let page = campaign_page(&campaign);
    assert_only_text(&page);
    let data = serde_json::to_value(&campaign).unwrap();
    let hostile: Vec<String> =
        strings_of(&data).into_iter().filter(|text| text.contains("<script>")).collect();
    assert_eq!(hostile.len(), 11, "a string of the data is not hostile in the sample");
    for text in hostile {
        assert!(page.contains(&html::escape(&text)), "{text:?} is not shown");
    }
}

#[test]
fn hostile_text_stays_text_on_the_failure_page() {
    let failure = sample::hostile_failure();
    let page = failure_page(&failure);
    assert_only_text(&page);
    let data = serde_json::to_value(&failure).unwrap();
    for text in strings_of(&data) {
        let is_field_name = text
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter));
        if is_field_name {
            continue;
        }
        assert!(text.contains("<script>"), "{text:?} is not hostile in the sample");
        let tag = text.split('"').next().unwrap();
        // What depends on the cursor is drawn by the script, from the embedded data; the rest
        // has to be readable without it.
        let drawn = ["event-", "state-", "lane-id", "lane-kind"]
            .iter()
            .any(|prefix| tag.starts_with(prefix));
        let wanted =
            if drawn { format!("{tag}\\\"'\\u003e\\u003c/title") } else { html::escape(&text) };
        assert!(page.contains(&wanted), "{text:?} is not on the page");
    }
}

#[test]
fn title_and_body_of_the_shell() {
    let page = html::shell("</title><script>alert(1)", "<p>body</p>");
    assert!(!page.contains("<script>alert"));
    assert!(page.contains("<p>body</p>"));
    assert!(page.contains(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    ));
}

#[test]
fn escape_covers_markup_and_attributes() {
    assert_eq!(
        html::escape("<a href=\"x\" b='y'>&\0</a>"),
        "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}&lt;/a&gt;"
    );
    assert_eq!(html::escape("plain – text"), "plain – text");
}

#[test]
fn pages_refer_to_nothing_outside_themselves() {
    for page in [campaign_page(&sample::campaign()), failure_page(&sample::failure(300))] {
        for outside in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(//",
            "<link rel=\"stylesheet\"",
            "fetch(",
            "XMLHttpRequest",
        ] {
            assert!(!page.contains(outside), "{outside:?} is on the page");
        }
    }
}

#[test]
fn campaign_shows_its_numbers() {
    let page = campaign_page(&sample::campaign());
    for number in [
        "20,000",
        "15 d 3 h",
        "6,204×",
        "97.2",
        "189.4",
        "2,881,204",
        "2,740,110",
        "98,001",
        "43,093",
        "71,204,881",
        "184,220",
        "910 ms",
        "3.31 s",
        "4.91 s",
        "30,224",
        "28,110",
        "17,904",
        "b3:8d2c0e5f91aa47",
        "4f1c9a2e7b",
    ] {
        assert!(page.contains(number), "{number} is not on the page");
    }
    assert!(page.contains("<h1>3 violations</h1>"));
    assert!(page.contains("2 of 20,000 seeds broke an invariant."));
    assert!(page.contains("<a href=\"failure-13377.html\">13377</a>"));
    assert!(page.contains("5 s limit"));
}

#[test]
fn only_a_campaign_without_a_blemish_is_clean() {
    let clean = sample::clean_campaign();
    let headline = |campaign: &Campaign| {
        let page = campaign_page(campaign);
        let start = page.find("<h1>").unwrap() + 4;
        page[start..start + page[start..].find('<').unwrap()].to_owned()
    };
    assert_eq!(headline(&clean), "Clean");
    let mut empty = clean.clone();
    empty.seeds = 0;
    assert_eq!(headline(&empty), "No seed ran");
    let mut lossy = clean.clone();
    lossy.lost_writes = 1;
    assert_eq!(headline(&lossy), "Not clean");
    let mut broken = clean.clone();
    broken.invariants.get_mut("zero-loss").unwrap().violated = 1;
    assert_eq!(headline(&broken), "Not clean");
    let mut violated = clean;
    violated.violations = sample::campaign().violations;
    violated.violations.truncate(1);
    assert_eq!(headline(&violated), "1 violation");
}

#[test]
fn warnings_appear_only_when_deserved() {
    let clean = campaign_page(&sample::clean_campaign());
    for warning in ["never felt", "never reached", "never checked", "does not add up"] {
        assert!(!clean.contains(warning), "{warning:?} is not deserved");
    }

    let mut unfelt = sample::clean_campaign();
    let kinds = [("a.injected", 5, 0), ("b.felt", 5, 1), ("c.off", 0, 0)];
    unfelt.faults = kinds
        .map(|(kind, injected, felt)| {
            let fault = FaultCount { injected, felt, recovery_ms_max: 0 };
            (kind.to_owned(), fault)
        })
        .into();
    let page = campaign_page(&unfelt);
    let row = |kind: &str| {
        let start = page.find(&format!("<code>{kind}</code>")).unwrap();
        &page[start..start + page[start..].find("</tr>").unwrap()]
    };
    assert!(row("a.injected").contains("never felt"));
    assert!(!row("b.felt").contains("never felt"));
    assert!(!row("c.off").contains("never felt") && row("c.off").contains("not injected"));
    assert!(page.contains("1 fault kind was injected but never felt"));

    let mut missed = sample::clean_campaign();
    missed.sometimes.insert("tombstone-reaped".into(), 0);
    assert!(campaign_page(&missed).contains("1 situation was never reached"));

    let mut idle = sample::clean_campaign();
    idle.invariants.get_mut("zero-loss").unwrap().checked = 0;
    assert!(campaign_page(&idle).contains("never checked"));

    let mut short = sample::clean_campaign();
    short.refused_writes -= 1;
    assert!(
        campaign_page(&short)
            .contains("The ledger does not add up: 2,881,204 attempted, 2,881,203 answered.")
    );
}

#[test]
fn a_campaign_of_nothing_still_renders() {
    let page = campaign_page(&Campaign {
        seeds_per_second: f64::NAN,
        speedup: f64::INFINITY,
        ..Campaign::default()
    });
    assert!(page.contains("No seed ran"));
    assert!(!page.contains("NaN") && !page.contains("inf<"));
}

#[test]
fn a_flood_of_violations_is_cut_and_says_so() {
    let mut campaign = sample::campaign();
    let one = campaign.violations[0].clone();
    campaign.violations = vec![one; 1_234];
    let page = campaign_page(&campaign);
    assert_eq!(page.matches("failure-7.html").count(), 1_000);
    assert!(page.contains("234 more violations are not shown here"));
}

#[test]
fn campaign_json_round_trips_and_keeps_its_shape() {
    let campaign = sample::campaign();
    let json = serde_json::to_string(&campaign).unwrap();
    assert_eq!(serde_json::from_str::<Campaign>(&json).unwrap(), campaign);

    // The least that the simulator's output promises, as other tools may have stored it.
    let promised = r#"{ "profile": "standard", "seeds": 20000, "violations": [{"seed": 7, "invariant": "zero-loss", "message": "…", "repro": "cargo sim replay standard:7"}],
      "seeds_per_second": 95.0, "seeds_per_cpu_second": 97.2, "virtual_seconds": 1310000.0, "speedup": 6200.0,
      "attempted_writes": 0, "acked_writes": 0, "refused_writes": 0, "unknown_writes": 0, "lost_writes": 0, "excused_writes": 0, "conflicts": 0, "delivered_messages": 0,
      "recovery_ms": {"p50": 0, "p99": 0, "max": 0, "beyond_drain_bound": 0}, "faults": {"kv.stale-read": {"injected": 0, "felt": 0}},
      "sometimes": {"replay-met-torn-tail": 0}, "trace_hash": "…" }"#;
    let promised: serde_json::Value = serde_json::from_str(promised).unwrap();
    let read: Campaign = serde_json::from_value(promised.clone()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    let fields = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    for field in fields(&promised) {
        assert!(fields(&written).contains(&field), "{field} is no longer written");
    }
    let mut without_seeds = promised;
    without_seeds.as_object_mut().unwrap().remove("seeds");
    assert!(serde_json::from_value::<Campaign>(without_seeds).is_err());
}

#[test]
fn failure_page_names_what_broke_and_what_was_lost() {
    let failure = sample::failure(300);
    let page = failure_page(&failure);
    for text in [
        "<h1>zero-loss is broken</h1>",
        "cargo sim replay standard:7",
        "41.204 s",
        "39.870 s",
        "<a href=\"#t=18190\">18.190 s</a>",
        "Only lost (1)",
        "Download standard-7.json",
        "&lt;b&gt;&amp;amp;&lt;/b&gt;",
    ] {
        assert!(page.contains(text), "{text:?} is not on the page");
    }
    assert_eq!(page.matches("<tr class=\"lost\">").count(), 1);
    let json = serde_json::to_string(&failure).unwrap();
    assert!(serde_json::from_str::<Failure>(&json).unwrap() == failure);
}

#[test]
fn write_makes_folders_and_replaces_whole_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/index.html");
    write(&path, "first, and longer").unwrap();
    write(&path, "second").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "a partial file was left behind");

    // A folder stands where the page should go: an error, and nothing left beside it.
    let taken = folder.path().join("a/taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    assert!(write(&taken, "page").is_err());
    assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 2);
    assert_eq!(
        write(std::path::Path::new("/"), "page").unwrap_err().kind(),
        std::io::ErrorKind::InvalidInput
    );
}
