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
