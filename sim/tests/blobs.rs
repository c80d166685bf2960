//! Large values stand in R2 under their own hash for as long as a row refers to them (rule A0).
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const SMALL: Act = Act::Put { bytes: 20 };
/// More than the authority takes whole.
const LARGE: Act = Act::Put { bytes: 600 };
const COLLECTED: &str = "a-blob-was-collected";

fn looked_over(nodes: u16) -> Scenario {
    let mut scenario = Scenario::still(nodes);
    scenario.reconcile_every_ms = Some(2_000);
    scenario.length_ms = 45_000;
    scenario
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, []);
    outcome
}

#[test]
fn what_nothing_refers_to_any_more_is_collected() {
    let kept = looked_over(1).then(1_000, 0, "k", LARGE);
    assert!(!clean(&kept).sometimes.contains(COLLECTED));
    for after in [SMALL, LARGE, Act::Delete] {
        let outcome = clean(&kept.clone().then(2_000, 0, "k", after.clone()));
        assert!(outcome.sometimes.contains(COLLECTED), "{after:?}");
    }
}

/// A puts the bytes, and its install is on its way for long. Nothing refers to them, so they are
/// collected; then the install arrives.
#[test]
fn a0_an_install_does_not_refer_to_what_was_collected_on_its_way() {
    let late = Place::Call { node: 0, call: Call::D1Batch, ordinal: 1, moment: Moment::Before };
    let cut = Place::Link { from: End::Node(0), to: End::Store(StoreId::D1) };
    let scenario = looked_over(2)
        .then(1_000, 0, "k", LARGE)
        .fault(Kind::NetLateArrival, late, 900..1_500, 30_000)
        .fault(Kind::NetPartition, cut, 1_600..34_000, 0);
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains(COLLECTED));
    assert!(outcome.sometimes.contains("install-met-a-condemned-blob"));
}

#[test]
fn where_d1_refers_to_all_values_small_ones_stand_in_r2_too() {
    let mut scenario = looked_over(2).then(1_000, 0, "k", SMALL).then(2_000, 1, "k", SMALL);
    assert!(!clean(&scenario).sometimes.contains("row-refers-to-a-blob"));
    scenario.datasets[0].d1_reference = true;
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("row-refers-to-a-blob"));
    assert!(outcome.sometimes.contains(COLLECTED), "the first of them");
}

/// D1 waits for the bytes, and R2 is away for so long that a back-off would have grown to its cap.
#[test]
fn large_values_are_installed_as_soon_as_r2_is_back() {
    const BACK_MS: u64 = 20_000;
    let cut = Place::Link { from: End::Node(0), to: End::Store(StoreId::R2) };
    let mut scenario = looked_over(1).fault(Kind::NetPartition, cut, 900..BACK_MS, 0);
    for n in 0..8 {
        scenario = scenario.then(1_000 + n * 50, 0, &format!("k{n}"), LARGE);
    }
    let outcome = clean(&scenario);
    let installed = outcome.events.iter().filter(|event| {
        let row = event.lane == End::Store(StoreId::D1) && event.kind == "row";
        row && event.text.starts_with("notes/k") && event.text.ends_with("owed [kv r2]")
    });
    let last_ms = installed.map(|event| event.at_us / 1_000).max().expect("they are installed");
    let mut probes = outcome.events.iter().filter(|event| {
        event.kind == "answer" && event.text == "R2Get" && event.at_us > BACK_MS * 1_000
    });
    let closed_ms = probes.nth(1).expect("two answers close the breaker").at_us / 1_000;
    // The wait for that, and a few round trips.
    assert!((closed_ms..closed_ms + 600).contains(&last_ms), "{closed_ms}: at {last_ms} ms");
}
