//! Another policy in the middle of the work: every copy gets the form that the last one says, and
//! nothing that is under way is lost.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::Invariant;
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };

/// A world whose reload changes the form of the copies in KV.
fn reloaded(nodes: u16, from_ms: u64, until_ms: u64) -> Scenario {
    let mut scenario = Scenario::still(nodes).then(1_000, 0, "early", PUT).fault(
        Kind::ProcessConfigReload,
        Place::Everywhere,
        from_ms..until_ms,
        0,
    );
    scenario.length_ms = 30_000;
    scenario.reconcile_every_ms = Some(10_000);
    let forms = |scenario: &Scenario| {
        let other = scenario.other_policy(&scenario.faults[0]);
        other.datasets["notes"].kv != scenario.policy().datasets["notes"].kv
    };
    scenario.seed =
        (0..).find(|seed| forms(&Scenario { seed: *seed, ..scenario.clone() })).unwrap();
    scenario
}

fn landed<'o>(outcome: &'o Outcome, store: StoreId, key: &str) -> Vec<&'o Event> {
    let here = |event: &&Event| {
        event.lane == End::Store(store) && event.kind == "landed" && event.text == key
    };
    outcome.events.iter().filter(here).collect()
}

#[test]
fn copies_are_made_anew_in_the_form_that_a_reload_says() {
    // KV's listing may lag by a minute: what it shows is acted on when it has shown it for longer.
    let outcome = run::run(&reloaded(2, 5_000, 95_000), None, true);
    assert_eq!(outcome.violations, []);
    let at_ms: Vec<u64> =
        landed(&outcome, StoreId::Kv, "notes/early").iter().map(|e| e.at_us / 1_000).collect();
    let [_, there, back] = at_ms[..] else { panic!("put three times: {at_ms:?}") };
    assert!((65_000..90_000).contains(&there) && (155_000..180_000).contains(&back), "{at_ms:?}");
    let in_r2 = landed(&outcome, StoreId::R2, "notes/early").len();
    assert_eq!(in_r2, 1, "its form in R2 is the same");
    assert_eq!(outcome.faults[&Kind::ProcessConfigReload].felt, 4, "two each");
}

/// KV does not answer while the policy changes, twice; a coordinator dies and starts with the other
/// policy.
#[test]
fn a_reload_finds_work_under_way_and_drops_none_of_it() {
    let cut = Place::Link { from: End::Node(0), to: End::Store(StoreId::Kv) };
    let crash = Place::Call { node: 1, call: Call::D1Batch, ordinal: 2, moment: Moment::After };
    let mut scenario = reloaded(2, 5_000, 9_000)
        .fault(Kind::NetPartition, cut, 4_000..8_000, 0)
        .fault(Kind::ProcessCrash, crash, 4_900..9_000, 1_000);
    for n in 0..12 {
        let (node, key) = ((n % 2) as u16, format!("k{}", n % 5));
        scenario = scenario.then(4_500 + n * 200, node, &key, PUT);
    }
    let outcome = run::run(&scenario, None, true);
    assert_eq!(outcome.violations, []);
    assert!(outcome.sometimes.contains("reloaded-with-work-under-way"));
    assert!(outcome.acknowledged >= 12);
}

#[test]
fn a_coordinator_that_keeps_the_former_policy_is_noticed() {
    let scenario = reloaded(2, 5_000, 12_000);
    let outcome = run::run(&scenario, Some(Double::LastReloadForgotten), false);
    let broken: Vec<Invariant> = outcome.violations.iter().map(|v| v.invariant).collect();
    assert!(broken.contains(&Invariant::Convergence), "{:?}", outcome.violations);
}
