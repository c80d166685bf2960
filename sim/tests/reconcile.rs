//! What happens behind the coordinators' backs is found by a look over the store, and mended within
//! five seconds of the look that shows it to be no echo. Nothing that somebody else wrote is put over before it is a version.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{End, Kind, Place};
use tidelock_sim::checker::Invariant;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
/// The first look of one coordinator begins then.
const LOOK_MS: u64 = 10_000;

fn looked_over(nodes: u16) -> Scenario {
    let mut scenario = Scenario::still(nodes);
    scenario.reconcile_every_ms = Some(LOOK_MS);
    scenario.length_ms = 30_000;
    scenario
}

fn damaged(scenario: Scenario, kind: Kind, store: StoreId, at_ms: u64) -> Scenario {
    scenario.fault(kind, Place::Store(store), at_ms..at_ms + 1, 0)
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, []);
    outcome
}

fn landed(outcome: &Outcome, store: StoreId) -> Vec<&Event> {
    let here = |event: &&Event| event.lane == End::Store(store) && event.kind == "landed";
    outcome.events.iter().filter(here).collect()
}

#[test]
fn a_lost_copy_is_put_again_within_five_seconds_of_the_look() {
    // A listing of KV lags by up to a minute, so that the first look says nothing for so long: the
    // look that does begins a minute after it.
    let cases = [
        (Kind::KvLostEntry, StoreId::Kv, LOOK_MS + 70_000),
        (Kind::R2LostObject, StoreId::R2, LOOK_MS),
    ];
    for (kind, store, look_ms) in cases {
        let scenario = looked_over(1).then(3_000, 0, "k", PUT);
        let outcome = clean(&damaged(scenario, kind, store, 6_000));
        let lost = outcome.events.iter().find(|event| event.kind == "lost").expect("it was lost");
        let key = lost.text.clone();
        let again = landed(&outcome, store)
            .into_iter()
            .find(|event| event.at_us > lost.at_us && event.text == key);
        let again_ms = again.expect("it was put again").at_us / 1_000;
        assert!((look_ms..look_ms + 5_000).contains(&again_ms), "{store}: at {again_ms} ms");
    }
}

/// A listing shows what stood in KV before w0 was put; somebody has written over w0 since.
#[test]
fn a_listing_that_lags_puts_nothing_over_a_later_write() {
    for seed in 0..10 {
        let copy = Place::Copy { store: StoreId::Kv, key: "notes/k".to_owned() };
        let mut scenario = Scenario::still(1)
            .then(1_000, 0, "k", PUT)
            .fault(Kind::KvForeignWrite, copy, 10_000..10_001, 0)
            .fault(Kind::KvListLag, Place::Store(StoreId::Kv), 3_000..30_000, 60_000);
        scenario.reconcile_every_ms = Some(2_000);
        scenario.length_ms = 40_000;
        scenario.seed = seed;
        let outcome = clean(&scenario);
        let felt = outcome.faults[&Kind::KvListLag].felt;
        assert!(felt > 0, "seed {seed}");
    }
}

/// Nobody looks between: the cron alone says when. The run begins twenty seconds into a minute.
#[test]
fn a_lost_copy_is_put_again_when_the_cron_says() {
    let mut scenario = looked_over(1).then(3_000, 0, "k", PUT);
    scenario.reconcile_every_ms = None;
    scenario.reconcile_full = Some("* * * * *".to_owned());
    scenario.length_ms = 60_000;
    let copy = Place::Copy { store: StoreId::R2, key: "notes/k".to_owned() };
    let scenario = scenario.fault(Kind::R2LostObject, copy, 6_000..6_001, 0);
    let outcome = run::run(&scenario, None, true);
    let again = landed(&outcome, StoreId::R2)
        .into_iter()
        .find(|event| event.text == "notes/k" && event.at_us > 6_001_000)
        .map(|event| event.at_us / 1_000);
    assert!(again.is_some_and(|at_ms| (40_000..45_000).contains(&at_ms)), "{again:?}");
}

/// Somebody writes to a key that no record has.
#[test]
fn a_foreign_write_to_a_new_key_becomes_a_record() {
    let place = Place::Copy { store: StoreId::Kv, key: "notes/new".to_owned() };
    let scenario = looked_over(2).fault(Kind::KvForeignWrite, place, 7_000..7_001, 0);
    let outcome = clean(&scenario);
    let in_r2 = landed(&outcome, StoreId::R2).into_iter().any(|event| event.text == "notes/new");
    assert!(in_r2, "it reached R2 from KV through the authority");
}

/// Nobody looks over KV; a reader finds that a copy is gone. An edge cache remembers "not found" for
/// a minute: before that, it says nothing.
#[test]
fn a_read_repairs_a_copy_that_is_gone_once_no_cache_can_have_said_so() {
    let copy = Place::Copy { store: StoreId::Kv, key: "notes/k".to_owned() };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::KvLostEntry, copy, 6_000..6_001, 0)
        .then(7_000, 0, "k", Act::ReadAny)
        .then(60_000, 0, "k", Act::ReadAny)
        .then(73_000, 0, "k", Act::ReadAny);
    scenario.length_ms = 83_000;
    let outcome = clean(&scenario);
    let landed = landed(&outcome, StoreId::Kv);
    let again: Vec<u64> = landed
        .iter()
        .filter(|event| event.text == "notes/k" && event.at_us > 6_000_000)
        .map(|event| event.at_us / 1_000)
        .collect();
    let [again_ms] = again[..] else { panic!("put again once: {again:?}") };
    assert!((73_000..78_000).contains(&again_ms), "at {again_ms} ms");
    assert!(outcome.sometimes.contains("a-read-repaired-a-copy"));
}

/// What a cache may remember is outlasted by the monotonic clock: a wall clock that is hours ahead
/// brings no repair forward.
#[test]
fn a_wall_clock_that_is_wrong_repairs_nothing_early() {
    let copy = Place::Copy { store: StoreId::Kv, key: "notes/k".to_owned() };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::KvLostEntry, copy, 6_000..6_001, 0)
        .fault(Kind::ClockSkew, Place::Clock { node: 0, back: false }, 5_000..40_000, 4 * 3_600_000)
        .then(7_000, 0, "k", Act::ReadAny)
        .then(30_000, 0, "k", Act::ReadAny)
        .then(73_000, 0, "k", Act::ReadAny);
    scenario.length_ms = 83_000;
    let outcome = clean(&scenario);
    let again = landed(&outcome, StoreId::Kv)
        .into_iter()
        .filter(|event| event.text == "notes/k" && event.at_us > 6_000_000);
    let again: Vec<u64> = again.map(|event| event.at_us / 1_000).collect();
    assert!(again.iter().all(|at_ms| *at_ms >= 73_000), "put again at {again:?} ms");
}

/// R2 has no cache to wait for, but whoever installed a version is given time to put it.
#[test]
fn a_read_repairs_r2_as_soon_as_the_version_is_old_enough_to_have_arrived() {
    let copy = Place::Copy { store: StoreId::R2, key: "notes/k".to_owned() };
    let unreachable = Place::Link { from: End::Node(0), to: End::Store(StoreId::Kv) };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::NetPartition, unreachable, 5_000..18_000, 0)
        .fault(Kind::R2LostObject, copy, 6_000..6_001, 0)
        .then(6_500, 0, "k", Act::ReadAny)
        .then(14_000, 0, "k", Act::ReadAny);
    scenario.length_ms = 30_000;
    let outcome = clean(&scenario);
    let again = landed(&outcome, StoreId::R2)
        .into_iter()
        .filter(|event| event.text == "notes/k" && event.at_us > 6_000_000);
    let again: Vec<u64> = again.map(|event| event.at_us / 1_000).collect();
    assert!(matches!(again[..], [at_ms] if at_ms >= 14_000), "put again at {again:?} ms");
}

/// A copy is to be put again, and the mark for it is slow to reach D1; before it does, somebody
/// writes there.
#[test]
fn a_write_that_comes_between_a_look_and_its_mark_is_not_put_over() {
    let copy = || Place::Copy { store: StoreId::R2, key: "notes/k".to_owned() };
    let cut = |to| Place::Link { from: End::Node(0), to: End::Store(to) };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::NetPartition, cut(StoreId::Kv), 5_000..18_000, 0)
        .fault(Kind::R2LostObject, copy(), 6_000..6_001, 0)
        .then(6_500, 0, "k", Act::ReadAny)
        .fault(Kind::NetDelay, cut(StoreId::D1), 15_900..16_800, 1_500)
        .then(14_000, 0, "k", Act::ReadAny)
        .fault(Kind::R2ForeignWrite, copy(), 16_400..16_401, 0);
    scenario.length_ms = 30_000;
    let outcome = clean(&scenario);
    let again: Vec<u64> = landed(&outcome, StoreId::R2)
        .into_iter()
        .filter(|event| event.text == "notes/k" && event.at_us > 16_401_000)
        .map(|event| event.at_us / 1_000)
        .collect();
    assert!(!again.is_empty(), "their bytes are a version, and the copy is of it");
    assert!(outcome.sometimes.contains("a-foreign-write-was-taken-in"), "{:?}", outcome.sometimes);
}

/// Every copy in KV is gone at once: that looks like the wrong store, not like damage.
#[test]
fn a_listing_that_shrinks_to_nothing_changes_nothing() {
    let mut scenario = looked_over(1);
    for at in 0..25 {
        scenario = scenario.then(1_000 + at * 50, 0, &format!("k{at}"), PUT);
    }
    // The run itself writes one more.
    for at in 0..26 {
        scenario = damaged(scenario, Kind::KvLostEntry, StoreId::Kv, 6_000 + at);
    }
    let outcome = run::run(&scenario, None, true);
    let last = landed(&outcome, StoreId::Kv).last().expect("they were put").at_us / 1_000;
    assert!(last < LOOK_MS, "nothing was put at {last} ms");
    let broken = outcome.violations.iter().map(|violation| violation.invariant);
    assert!(
        broken
            .clone()
            .all(|invariant| { matches!(invariant, Invariant::Convergence | Invariant::Recovery) })
    );
    assert!(broken.count() > 0, "KV stays empty until somebody approves");
}

/// The listing looks as it did; only reading the value shows it.
#[test]
fn bytes_changed_where_they_stand_become_a_version_of_their_own() {
    let changed = [(Kind::KvChangedValue, StoreId::Kv), (Kind::R2ChangedObject, StoreId::R2)];
    for (kind, store) in changed {
        let copy = Place::Copy { store, key: "notes/k".to_owned() };
        let scenario = looked_over(1).then(3_000, 0, "k", PUT).fault(kind, copy, 6_000..6_001, 0);
        let outcome = clean(&scenario);
        for other in [StoreId::Kv, StoreId::R2] {
            let again_ms = landed(&outcome, other)
                .into_iter()
                .filter(|event| event.text == "notes/k")
                .map(|event| event.at_us / 1_000)
                .find(|at_ms| *at_ms > 6_000);
            let again_ms = again_ms.expect("a version of its own reached both");
            assert!((LOOK_MS..LOOK_MS + 5_000).contains(&again_ms), "{other}: at {again_ms} ms");
        }
    }
}

/// Nobody lists anything for minutes; what has changed since is looked at every two seconds.
fn looked_at_often() -> Scenario {
    let mut scenario = looked_over(1);
    scenario.reconcile_every_ms = Some(600_000);
    scenario.reconcile_recent_ms = Some(2_000);
    scenario
}

#[test]
fn a_fresh_copy_that_is_lost_is_put_again_without_a_listing() {
    // What a cache of KV remembers is outlasted first.
    let cases = [
        (Kind::KvLostEntry, StoreId::Kv, 66_000..72_000),
        (Kind::R2LostObject, StoreId::R2, 6_000..11_000),
    ];
    for (kind, store, when_ms) in cases {
        let key = "notes/k".to_owned();
        let mut scenario = looked_at_often().then(3_000, 0, "k", PUT).fault(
            kind,
            Place::Copy { store, key },
            6_000..6_001,
            0,
        );
        scenario.length_ms = 80_000;
        let outcome = clean(&scenario);
        let again_ms: Vec<u64> = landed(&outcome, store)
            .into_iter()
            .filter(|event| event.text == "notes/k" && event.at_us > 6_001_000)
            .map(|event| event.at_us / 1_000)
            .collect();
        let [again_ms] = again_ms[..] else { panic!("{store}: put again once: {again_ms:?}") };
        assert!(when_ms.contains(&again_ms), "{store}: at {again_ms} ms");
        assert!(outcome.sometimes.contains("what-is-recent-was-looked-over"));
    }
}

/// More have changed than one look reads: the looks go round.
#[test]
fn what_is_recent_is_looked_at_some_at_a_time() {
    let mut scenario = looked_at_often();
    for at in 0..60 {
        scenario = scenario.then(1_000 + at * 50, 0, &format!("k{at}"), PUT);
    }
    for at in [3, 31, 58] {
        let copy = Place::Copy { store: StoreId::R2, key: format!("notes/k{at}") };
        scenario = scenario.fault(Kind::R2LostObject, copy, 6_000..6_001, 0);
    }
    let outcome = clean(&scenario);
    for at in [3, 31, 58] {
        let again = landed(&outcome, StoreId::R2)
            .into_iter()
            .find(|event| event.text == format!("notes/k{at}") && event.at_us > 6_001_000);
        // Three looks read them all, once round; each confirms a second later what differs.
        let again_ms = again.expect("it was put again").at_us / 1_000;
        assert!(again_ms < 6_000 + 4 * 4_000, "k{at} at {again_ms} ms");
    }
}

/// What somebody wrote over a fresh copy, and what was changed where it stands, become versions.
#[test]
fn what_is_written_over_a_fresh_copy_is_taken_in_without_a_listing() {
    for kind in [Kind::R2ForeignWrite, Kind::R2ChangedObject] {
        let copy = Place::Copy { store: StoreId::R2, key: "notes/k".to_owned() };
        let scenario =
            looked_at_often().then(3_000, 0, "k", PUT).fault(kind, copy, 6_000..6_001, 0);
        let outcome = clean(&scenario);
        let in_kv = landed(&outcome, StoreId::Kv).into_iter();
        let in_kv = in_kv.map(|event| event.at_us / 1_000).find(|at_ms| *at_ms > 6_001);
        let in_kv = in_kv.expect("their bytes are a version");
        assert!(in_kv < 12_000, "{kind}: at {in_kv} ms");
    }
}

/// Every fresh copy is gone at once: that looks like the wrong store, not like damage.
#[test]
fn fresh_copies_that_are_all_gone_change_nothing() {
    let mut scenario = looked_at_often();
    for at in 0..12 {
        scenario = scenario.then(1_000 + at * 50, 0, &format!("k{at}"), PUT);
    }
    for at in 0..12 {
        let copy = Place::Copy { store: StoreId::R2, key: format!("notes/k{at}") };
        scenario = scenario.fault(Kind::R2LostObject, copy, 6_000..6_001, 0);
    }
    // Twelve are too few to tell: these are mended.
    clean(&scenario);
    for at in 12..40 {
        scenario = scenario.then(1_000 + at * 50, 0, &format!("k{at}"), PUT);
        let copy = Place::Copy { store: StoreId::R2, key: format!("notes/k{at}") };
        scenario = scenario.fault(Kind::R2LostObject, copy, 6_000..6_001, 0);
    }
    let outcome = run::run(&scenario, None, true);
    let again = landed(&outcome, StoreId::R2)
        .into_iter()
        .filter(|event| event.at_us > 6_001_000 && event.text.starts_with("notes/k"));
    let again: Vec<u64> = again.map(|event| event.at_us / 1_000).collect();
    assert!(again.is_empty(), "put again at {again:?}");
    assert!(outcome.violations.iter().any(|v| v.invariant == Invariant::Convergence));
}
