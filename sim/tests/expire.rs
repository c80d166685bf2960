//! A value that was given a time is gone everywhere soon after it, and nothing else is.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::Invariant;
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
const FOR_3_S: Act = Act::PutForAWhile { bytes: 20, ttl_ms: 3_000 };

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, []);
    outcome
}

/// When a put or delete of the record landed at a store.
fn landed_ms(outcome: &Outcome, store: StoreId) -> Vec<u64> {
    let here = outcome.events.iter().filter(|event| {
        event.lane == End::Store(store)
            && event.kind == "landed"
            && event.text.split([' ', '@']).next() == Some("notes/k")
    });
    here.map(|event| event.at_us / 1_000).collect()
}

#[test]
fn it_is_deleted_everywhere_at_its_time() {
    let outcome = clean(&Scenario::still(3).then(1_000, 1, "k", FOR_3_S));
    for store in [StoreId::Kv, StoreId::R2] {
        let [_, gone_ms] = landed_ms(&outcome, store)[..] else { panic!("put, then deleted") };
        assert!((4_000..5_500).contains(&gone_ms), "{store}: at {gone_ms} ms");
    }
}

/// A write over it is no part of it; nor is one that was acknowledged before the tombstone, and came
/// to the authority after it.
#[test]
fn a_newer_write_stays() {
    let over = Scenario::still(2).then(1_000, 0, "k", FOR_3_S).then(2_500, 1, "k", PUT);
    let outcome = clean(&over);
    assert!(landed_ms(&outcome, StoreId::R2).iter().all(|at_ms| *at_ms < 3_500));

    let cut = Place::Link { from: End::Node(0), to: End::Store(StoreId::D1) };
    let mut late = Scenario::still(2)
        .then(1_000, 0, "k", FOR_3_S)
        .fault(Kind::NetPartition, cut, 2_000..9_000, 0)
        .then(3_000, 0, "k", PUT);
    late.length_ms = 20_000;
    let outcome = clean(&late);
    let landed = landed_ms(&outcome, StoreId::R2);
    let [_, gone_ms, back_ms] = landed[..] else { panic!("put, deleted, put: {landed:?}") };
    assert!(gone_ms < 7_000 && back_ms > 9_000, "{landed:?}");
    assert_eq!(outcome.acknowledged, outcome.attempted);
}

/// Whoever is there makes the tombstone; and where the authority is away, it is made as soon as that
/// answers.
#[test]
fn it_goes_though_its_writer_died_and_the_authority_was_away() {
    let crash = Place::Call { node: 0, call: Call::D1Poll, ordinal: 1, moment: Moment::Before };
    let cut = |node| Place::Link { from: End::Node(node), to: End::Store(StoreId::D1) };
    let mut scenario = Scenario::still(2)
        .then(1_000, 0, "k", FOR_3_S)
        .fault(Kind::ProcessCrash, crash, 2_000..12_000, 9_000)
        .fault(Kind::NetPartition, cut(1), 3_500..8_000, 0);
    scenario.length_ms = 25_000;
    let outcome = clean(&scenario);
    let [_, gone_ms] = landed_ms(&outcome, StoreId::Kv)[..] else { panic!("put, then deleted") };
    assert!((8_000..13_000).contains(&gone_ms), "at {gone_ms} ms");
}

#[test]
fn one_that_stays_or_goes_before_its_time_is_noticed() {
    let scenario = Scenario::still(2).then(4_000, 0, "k", FOR_3_S);
    clean(&scenario);
    let outcome = run::run(&scenario, Some(Double::D1ClockStands), false);
    let broken: Vec<Invariant> = outcome.violations.iter().map(|v| v.invariant).collect();
    for expected in [Invariant::ZeroLoss, Invariant::Convergence] {
        assert!(broken.contains(&expected), "{:?}", outcome.violations);
    }
}

/// Each site ends it by itself; one whose authority is away does so later, and nothing that it sends
/// meanwhile brings the value back to the other.
#[test]
fn it_goes_at_every_site_and_does_not_come_back_from_one_that_is_late() {
    let cut = Place::Link { from: End::Node(1), to: End::Store(StoreId::D1) };
    let mut scenario = Scenario::still(2)
        .then(1_000, 0, "k", FOR_3_S)
        .fault(Kind::NetPartition, cut.clone(), 3_000..9_000, 0)
        .then(2_900, 1, "k", Act::PutWithContext { bytes: 20 })
        .then(5_500, 0, "k", Act::ReadLatest);
    scenario.sites = 2;
    scenario.length_ms = 25_000;
    clean(&scenario);
    let mut apart = Scenario::still(2).then(1_000, 0, "k", FOR_3_S).fault(
        Kind::NetPartition,
        cut,
        3_000..9_000,
        0,
    );
    apart.sites = 2;
    apart.length_ms = 25_000;
    let outcome = clean(&apart);
    let landed = landed_ms(&outcome, StoreId::Kv);
    let [_, _, first_ms, last_ms] = landed[..] else { panic!("two puts, two deletes: {landed:?}") };
    assert!(first_ms < 5_500 && last_ms > 9_000, "{landed:?}");
}

#[test]
fn what_somebody_wrote_over_it_at_the_authority_stays() {
    let scenario = Scenario::still(2).then(1_000, 0, "k", FOR_3_S).then(
        3_900,
        0,
        "k",
        Act::Foreign { bytes: 30 },
    );
    let outcome = clean(&scenario);
    let landed = landed_ms(&outcome, StoreId::R2);
    assert!(landed.len() == 2 && landed[1] > 3_900, "put, and put again: {landed:?}");
}

/// It has expired while nobody saw the authority's clock: nobody can tell, so nobody gives it.
#[test]
fn a_coordinator_that_has_not_seen_the_time_does_not_give_a_copy() {
    let crash = Place::Call { node: 0, call: Call::D1Poll, ordinal: 1, moment: Moment::Before };
    let cut = Place::Link { from: End::Node(0), to: End::Store(StoreId::D1) };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", FOR_3_S)
        .fault(Kind::ProcessCrash, crash, 2_000..3_000, 500)
        .fault(Kind::NetPartition, cut, 2_000..14_000, 0)
        .then(9_000, 0, "k", Act::ReadAny)
        .then(9_500, 0, "k", Act::ReadSession);
    scenario.length_ms = 25_000;
    let outcome = clean(&scenario);
    let landed = landed_ms(&outcome, StoreId::Kv);
    assert!(landed.len() == 2 && landed[1] > 14_000, "the copy stood there: {landed:?}");
}
