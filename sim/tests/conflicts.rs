//! Concurrent values as their owner declared: the shortest stories in which a rule shows.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{End, Kind, Place};
use tidelock_sim::checker::{Fate, Invariant, Law, Told};
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
/// With what the session has read, which is nothing: it stands beside whatever is there.
const BESIDE: Act = Act::PutWithContext { bytes: 20 };

/// Adds to a counter what it is now.
const fn add(amount: u64) -> Act {
    Act::Add { amount, fresh: true }
}

/// Two sites with stores of their own, each with every other coordinator, that cannot talk to each other
/// for a while.
fn cut_apart(mut scenario: Scenario, cut_ms: std::ops::Range<u64>) -> Scenario {
    scenario.sites = 2;
    let nodes = scenario.nodes;
    for from in 0..nodes {
        for to in (0..nodes).filter(|to| to % 2 != from % 2) {
            let place = Place::Link { from: End::Node(from), to: End::Node(to) };
            scenario = scenario.fault(Kind::NetPartition, place, cut_ms.clone(), 0);
        }
    }
    scenario
}

fn two_sites(nodes: u16, law: Law, cut_ms: std::ops::Range<u64>) -> Scenario {
    cut_apart(Scenario::still(nodes).under(law), cut_ms)
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, []);
    outcome
}

/// The invariant fires with the double, and nothing does without it.
#[track_caller]
fn fires(scenario: &Scenario, double: Double, expected: Invariant) {
    clean(scenario);
    let wrong = run::run(scenario, Some(double), false);
    let fired: Vec<_> = wrong.violations.iter().map(|v| v.invariant).collect();
    assert!(fired.contains(&expected), "{double:?}: {:?}", wrong.violations);
}

/// What the caller of an operation was told.
fn told(outcome: &Outcome, id: u32) -> Option<Told> {
    outcome.fates.iter().find(|write| write.id == id).map(|write| write.told)
}

/// A put; B delete; B to A; B put: the delete is superseded, and must not win at A.
fn v4() -> Scenario {
    two_sites(2, Law::DeleteWins, 900..2_500)
        .then(1_000, 0, "k", PUT)
        .then(1_000, 1, "k", Act::Delete)
        .then(4_000, 1, "k", PUT)
}

#[test]
fn v4_what_is_superseded_wins_nowhere() {
    let outcome = clean(&v4());
    assert!(outcome.conflicts >= 1);
    // The same, and the one that supersedes the delete has not seen what stands beside it.
    let cut = |scenario: Scenario| {
        let place = Place::Link { from: End::Node(1), to: End::Node(0) };
        scenario.fault(Kind::NetPartition, place, 900..9_000, 0)
    };
    let mut late = cut(v4());
    late.length_ms = 16_000;
    clean(&late);
}

#[test]
fn v4_a_write_beside_others_stays_there_until_somebody_has_read_all() {
    let scenario = Scenario::still(2)
        .under(Law::KeepSiblings)
        .then(1_000, 0, "k", PUT)
        .then(2_000, 1, "k", BESIDE)
        .then(3_000, 0, "k", BESIDE)
        .then(5_000, 1, "k", Act::ReadLatest);
    let outcome = clean(&scenario);
    assert_eq!(outcome.conflicts, 2, "all but the one that is shown");
    fires(&scenario, Double::D1DropsSiblings, Invariant::Causality);
}

#[test]
fn v7_increments_of_two_that_read_the_same_count_twice() {
    let scenario = Scenario::still(2)
        .under(Law::Counter)
        .then(1_000, 0, "k", add(1))
        .then(3_000, 0, "k", add(2))
        .then(3_000, 1, "k", add(4))
        .then(5_000, 1, "k", add(8));
    clean(&scenario);
    fires(&scenario, Double::D1KeepsNoWrites, Invariant::ExactlyOnce);
}

/// A inc; B inc; A inc and inc again, at two coordinators that have read the same: what these two have in
/// common B has never seen, and it must reach B with them.
#[test]
fn v8_what_a_merge_starts_from_travels_with_what_is_merged() {
    let scenario = two_sites(4, Law::Counter, 1_900..4_000)
        .then(1_000, 0, "k", add(1))
        .then(2_000, 0, "k", add(2))
        .then(2_000, 1, "k", add(4))
        .then(3_000, 0, "k", add(8))
        .then(3_000, 2, "k", add(16))
        .then(3_500, 1, "k", add(32))
        .then(7_000, 3, "k", add(64));
    let outcome = clean(&scenario);
    assert!(outcome.conflicts >= 2);
    fires(&scenario, Double::D1KeepsNoWrites, Invariant::ExactlyOnce);
}

/// Three at one coordinator at once, each of which asks D1 before it begins: put beside; put over what was read;
/// put beside. What a condition holds of is decided at D1, and nothing is built on it until then.
#[test]
fn v7_nothing_is_built_on_a_conditional_write_that_is_not_decided() {
    // How they meet depends on how long each of them asks.
    for (one_ms, other_ms) in [(24, 54), (30, 66), (36, 60), (42, 72), (54, 78)] {
        let scenario = Scenario::still(2)
            .under(Law::KeepSiblings)
            .then(1_000, 0, "k", PUT)
            .then(3_000, 0, "k", Act::PutIfUnchanged { bytes: 20 })
            .then(3_000 + one_ms, 0, "k", BESIDE)
            .then(3_000 + other_ms, 0, "k", BESIDE);
        clean(&scenario);
    }
}

/// A inc, which D1 refuses for good; A puts what it adds to what it had read of D1. The increment waits for an
/// operator, under a condition that nobody has decided: it is no value beside the other.
#[test]
fn v7_what_is_dead_under_a_condition_stands_beside_nothing() {
    let scenario = Scenario::still(2)
        .under(Law::Counter)
        .fault(Kind::D1Constraint, Place::Store(StoreId::D1), 2_900..6_000, 0)
        .then(1_000, 0, "k", add(1))
        .then(3_000, 0, "k", INCREMENT)
        .then(4_500, 0, "k", add(16));
    clean(&scenario);
}

/// A put; A put, too large for a row, which R2 refuses for good; A puts beside both; B reads. A dead letter alone
/// has the second, which is none of those that a reader gets, and what that was written over is superseded by it
/// all the same.
#[test]
fn v6_what_is_in_a_dead_letter_supersedes_what_it_was_written_over() {
    let scenario = Scenario::still(2)
        .under(Law::KeepSiblings)
        .fault(Kind::LoadPoisonRecord, Place::Store(StoreId::R2), 1_900..2_500, 0)
        .then(1_000, 0, "k", PUT)
        .then(2_000, 0, "k", Act::Put { bytes: 600 })
        .then(6_000, 0, "k", BESIDE)
        .then(8_000, 1, "k", Act::ReadLatest);
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("a-dead-letter-kept-a-loser"));
    let read = |event: &&Event| event.kind == "read" && event.text == "disputed/k";
    assert!(outcome.events.iter().find(read).is_some(), "each of the values has its bytes");
    let Some(Told::Acknowledged(second)) = told(&outcome, 1) else { panic!("it was taken") };
    let first = outcome.fates.iter().find(|fate| fate.id == 0).and_then(|write| write.fate);
    assert_eq!(first, Some(Fate::Superseded { by: second }));
}

/// A put, which D1 does not take as a record's value; B put; A's loses against that and stands beside it; B
/// deletes what it has put, before it hears of that. A's would be shown now. It is not B's delete that D1
/// refuses: A's loses for good.
#[test]
fn v4_what_the_authority_does_not_show_loses_against_what_it_takes() {
    for law in [Law::KeepSiblings, Law::EditWins] {
        let poison = Place::Store(StoreId::D1);
        let news = Place::Link { from: End::Node(0), to: End::Node(1) };
        let scenario = Scenario::still(2)
            .under(law)
            .fault(Kind::LoadPoisonRecord, poison, 1_900..2_500, 0)
            .fault(Kind::NetPartitionOneWay, news, 3_000..8_000, 0)
            .then(1_000, 0, "k", PUT)
            .then(2_000, 0, "k", BESIDE)
            .then(4_000, 1, "k", PUT)
            .then(4_200, 1, "k", Act::Delete);
        let outcome = clean(&scenario);
        let fate = |id| outcome.fates.iter().find(|write| write.id == id).unwrap().fate;
        assert_eq!((fate(1), fate(3)), (Some(Fate::Loser), Some(Fate::Current)), "{law:?}");
    }
}

/// A puts beside a delete, which wins; B puts over that delete. A's clock is far ahead, so A's is shown when the two
/// meet: B's site takes that, and A's D1 refuses it a few times. What A passes over then is passed over at B's too.
#[test]
fn v4_what_one_site_does_not_take_loses_at_both() {
    let mut lost = 0;
    for until_ms in (7_600..8_500).step_by(25) {
        let refused = Place::StoreAt { site: 0, store: StoreId::D1 };
        let mut scenario = two_sites(2, Law::DeleteWins, 2_900..6_000)
            .fault(Kind::D1Constraint, refused, 5_900..until_ms, 0)
            .then(1_000, 1, "k", PUT)
            .then(2_000, 1, "k", Act::Delete)
            .then(3_000, 0, "k", BESIDE)
            .then(3_500, 1, "k", PUT);
        scenario.clock_skew_ms[0] = 3_600_000;
        scenario.length_ms = 14_000;
        let outcome = clean(&scenario);
        let fate = |id| outcome.fates.iter().find(|write| write.id == id).unwrap().fate;
        match (fate(2), fate(3)) {
            (Some(Fate::Current), Some(Fate::Loser)) => {}
            (Some(Fate::Loser), Some(Fate::Current)) => lost += 1,
            other => panic!("until {until_ms}: {other:?}"),
        }
    }
    assert!(lost > 0, "it is refused often enough in some of them");
}

/// A inc, which D1 refuses for a while; A inc by compare-and-set, of what it had read of D1 before that. Over what
/// D1 has, what waits would be lost.
#[test]
fn v7_no_condition_is_decided_without_what_a_dead_letter_adds() {
    let d1 = Place::Store(StoreId::D1);
    for after_ms in (0..60).step_by(5) {
        let scenario = Scenario::still(1)
            .under(Law::Counter)
            .fault(Kind::D1Constraint, d1.clone(), 2_900..3_600, 0)
            // Until the last fault has ended no operator has it tried again.
            .fault(Kind::D1Constraint, d1.clone(), 7_500..7_600, 0)
            .then(1_000, 0, "k", add(1))
            .then(3_000, 0, "k", add(64))
            .then(3_000 + after_ms, 0, "k", INCREMENT);
        let outcome = clean(&scenario);
        assert!(matches!(told(&outcome, 2), Some(Told::Acknowledged(_))), "{:?}", outcome.fates);
    }
}

/// A inc; B inc over that, which D1 refuses for good; B inc over both; then each of them inc at once. They start
/// from what the three had made, and D1 must know what that was: what is dead is a part of it. (What
/// `shrink` left of a seed whose profile had `d1.constraint`.)
#[test]
fn v8_what_was_written_over_a_dead_write_started_from_it() {
    let scenario = include_str!("scenarios/v8-over-a-dead-write.json");
    let scenario: Scenario = serde_json::from_str(scenario).expect("a scenario");
    let outcome = clean(&scenario);
    assert!(outcome.conflicts >= 1);
}

/// Adds to a counter whatever it is.
const INCREMENT: Act = Act::Increment { amount: 4 };

/// A inc; A inc while it cannot reach D1; B inc. What A did is in what it wrote, and what that was over.
#[test]
fn v8_an_increment_is_taken_while_the_authority_does_not_answer() {
    let away = |law: Law| {
        let d1 = Place::Link { from: End::Node(0), to: End::Store(StoreId::D1) };
        let mut scenario = Scenario::still(2).under(law);
        scenario.length_ms = 20_000;
        let scenario = scenario.fault(Kind::NetPartition, d1, 2_000..14_000, 0);
        // Its breaker has opened by the time that it matters.
        (0..6).fold(scenario.then(1_000, 0, "k", add(1)), |scenario, n| {
            scenario.then(2_100 + n * 100, 0, "other", add(1 << n))
        })
    };
    let taken = |outcome: &Outcome, id| matches!(told(outcome, id), Some(Told::Acknowledged(_)));
    let scenario = away(Law::Counter)
        .then(7_000, 0, "k", INCREMENT)
        .then(7_500, 1, "k", Act::Increment { amount: 2 })
        .then(9_000, 0, "k", Act::Increment { amount: 8 })
        .then(17_000, 1, "k", Act::Increment { amount: 16 });
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("an-increment-went-ahead-of-d1"));
    assert!((7..11).all(|id| taken(&outcome, id)), "{:?}", outcome.fates);
    fires(&scenario, Double::D1KeepsNoWrites, Invariant::ExactlyOnce);
    // What a rule makes of it nobody can tell: it goes to the other coordinator.
    let outcome = clean(&away(Law::RuledCounter).then(7_000, 0, "k", INCREMENT));
    assert!(!outcome.sometimes.contains("an-increment-went-ahead-of-d1"));
    assert!(taken(&outcome, 7));
}

/// A inc; B inc; A knows of it, has an old copy alone, and cannot reach D1: it does not add to that.
#[test]
fn v8_an_increment_is_not_added_to_an_older_copy() {
    let cut = |scenario: Scenario, node, store, during_ms| {
        let place = Place::Link { from: End::Node(node), to: End::Store(store) };
        scenario.fault(Kind::NetPartition, place, during_ms, 0)
    };
    let mut scenario = Scenario::still(2).under(Law::Counter);
    scenario.length_ms = 20_000;
    for store in [StoreId::Kv, StoreId::R2] {
        scenario = cut(scenario, 1, store, 1_900..12_000);
        scenario = cut(scenario, 0, store, 1_900..4_000);
    }
    let scenario = cut(scenario, 0, StoreId::D1, 3_900..12_000)
        .then(1_000, 0, "k", add(1))
        .then(2_000, 1, "k", Act::Increment { amount: 2 })
        .then(4_010, 0, "k", INCREMENT);
    clean(&scenario);
}

/// A put; A put at another coordinator; what lost is erased; A→B. B has never seen its bytes.
#[test]
fn v6_what_is_erased_at_one_site_comes_to_another_as_that() {
    let scenario = cut_apart(Scenario::still(4), 900..4_000)
        .then(1_000, 0, "k", PUT)
        .then(1_000, 2, "k", PUT)
        .then(2_500, 0, "k", Act::Erase);
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("bytes-were-erased"));
    fires(&scenario, Double::D1KeepsErased, Invariant::StaysErased);
}

#[test]
fn a_write_that_waits_while_the_tombstone_beside_it_is_reaped_is_installed() {
    // Its set has the tombstone in it, and nobody else has any more.
    let mut scenario = Scenario::still(2)
        .under(Law::EditWins)
        .then(1_000, 0, "k", PUT)
        .then(2_000, 0, "k", Act::Delete)
        .then(9_000, 1, "k", BESIDE);
    let cut = Place::Link { from: End::Node(1), to: End::Store(StoreId::D1) };
    scenario.length_ms = 30_000;
    clean(&scenario.fault(Kind::NetPartition, cut, 9_050..14_000, 0));
}
