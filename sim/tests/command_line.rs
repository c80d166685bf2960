//! What the command line promises: a mistake is exit code 2 with a message that says what would
//! be accepted, and a scenario is the same whichever way it is given.
#![cfg(madsim)]

use std::process::{Command, Output};
use tidelock_sim::scenario::{Profile, Scenario};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidelock-sim"))
        .args(arguments)
        .output()
        .expect("the simulator starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_mistake_is_exit_code_2_and_says_what_would_be_accepted() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (malformed, partial) = (path("malformed.json"), path("partial.json"));
    std::fs::write(&malformed, "{ not json").expect("written");
    std::fs::write(&partial, "{\"profile\":\"standard\"}").expect("written");
    let impossible = path("impossible.json");
    let mut scenario = serde_json::to_value(Scenario::generate(Profile::Quick, 1)).expect("JSON");
    scenario["operations"][0]["node"] = 7.into();
    std::fs::write(&impossible, scenario.to_string()).expect("written");
    let (missing, inside_a_file) = (path("missing.json"), format!("{malformed}/report"));
    let unwritable = format!("{malformed}/figures.json");
    let quick = ["run", "--seeds", "0..1"];
    let with = |more: &[&str]| [quick.as_slice(), more].concat().join(" ");
    let cases = [
        ("replay standard:x".to_owned(), "standard:42"),
        ("replay nope:1".to_owned(), "quick, standard"),
        ("run --profile nope".to_owned(), "quick, standard"),
        ("run --seeds 5".to_owned(), "0..1000"),
        ("run --seeds 5..5".to_owned(), "greater"),
        ("run --seeds 9..2".to_owned(), "greater"),
        ("run --shard 4/4".to_owned(), "0/4"),
        ("run --shard 1".to_owned(), "0/4"),
        ("run --for 10x".to_owned(), "10m"),
        ("run --only kv.sleepy".to_owned(), "kv.stale-read"),
        ("run --without kv.sleepy".to_owned(), "kv.stale-read"),
        (format!("replay {missing}"), "cannot read the scenario"),
        (format!("replay {malformed}"), "is no scenario"),
        (format!("replay {partial}"), "missing field"),
        (format!("replay {impossible}"), "no coordinator 7"),
        (with(&["--report", &inside_a_file]), "cannot create the folder"),
        (with(&["--json", &unwritable]), "cannot write"),
        (format!("shrink quick:1 -o {missing}"), "breaks no invariant"),
        ("shrink quick:1".to_owned(), "--output"),
        ("certify --only nope".to_owned(), "the mutants are"),
        ("fly".to_owned(), "Usage"),
    ];
    for (line, expected) in cases {
        let output = sim(&line.split(' ').collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains(expected), "{line}: {said}");
    }
}

#[test]
fn a_replay_is_the_same_every_time() {
    let (first, second) = (sim(&["replay", "7", "--trace"]), sim(&["replay", "7", "--trace"]));
    assert_eq!(first.status.code(), Some(0), "{}", stdout(&first));
    assert_eq!(stdout(&first), stdout(&second));
    assert!(stdout(&first).lines().count() > 100, "--trace prints the events");
}

#[test]
fn a_saved_scenario_is_the_seed_that_it_was_saved_from() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let file = folder.path().join("scenario.json");
    let file = file.to_string_lossy();
    let figures = |what: &str, more: &[&str]| -> serde_json::Value {
        let output = sim(&[&["replay", what, "--json", "-"], more].concat());
        serde_json::from_slice(&output.stdout).expect("it prints figures")
    };
    let saved = figures("quick:11", &["--save", &file]);
    let again = figures(&file, &[]);
    assert_eq!(saved, again);
    assert!(saved["trace_hash"].as_str().is_some_and(|hash| hash.len() == 32));
}

#[test]
fn a_campaign_prints_its_figures_as_json() {
    let output = sim(&["run", "--seeds", "0..3", "--json", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let figures: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("nothing but JSON on standard output");
    let numbers = [
        "seeds",
        "seeds_per_second",
        "seeds_per_cpu_second",
        "virtual_seconds",
        "speedup",
        "attempted_writes",
        "acked_writes",
        "refused_writes",
        "unknown_writes",
        "lost_writes",
        "excused_writes",
        "conflicts",
        "delivered_messages",
    ];
    for name in numbers {
        assert!(figures[name].is_number(), "{name}: {}", figures[name]);
    }
    for name in ["p50", "p99", "max", "beyond_drain_bound"] {
        assert!(figures["recovery_ms"][name].is_number(), "recovery_ms.{name}");
    }
    assert_eq!((&figures["profile"], &figures["seeds"]), (&"quick".into(), &3.into()));
    assert_eq!(figures["violations"], serde_json::json!([]));
    assert!(figures["trace_hash"].is_string());
    for (name, count) in figures["faults"].as_object().expect("by kind") {
        assert!(count["injected"].is_number() && count["felt"].is_number(), "{name}");
    }
    assert!(figures["sometimes"].as_object().is_some_and(|reached| !reached.is_empty()));
}

#[test]
fn shards_make_up_the_whole() {
    let writes = |shard: &str| {
        let output = sim(&["run", "--seeds", "0..6", "--shard", shard, "--json", "-"]);
        let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("figures");
        (figures["seeds"].as_u64().unwrap_or(0), figures["acked_writes"].as_u64().unwrap_or(0))
    };
    let (whole, even, odd) = (writes("0/1"), writes("0/2"), writes("1/2"));
    assert_eq!((even.0 + odd.0, even.1 + odd.1), whole);
}
