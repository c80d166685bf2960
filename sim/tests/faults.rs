//! Faults, one by one: what each does to the world, and what the engine makes of it.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::campaign::{self, Plan};
use tidelock_sim::checker::{Fate, Told};
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::{Profile, Scenario};
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };

/// Runs a scenario in which nothing may be broken.
#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    let lines: Vec<String> = outcome.events.iter().map(Event::to_string).collect();
    assert_eq!(outcome.violations, [], "{}", lines.join("\n"));
    outcome
}

fn told(outcome: &Outcome, id: u32) -> Told {
    outcome.fates.iter().find(|write| write.id == id).expect("it was asked for").told
}

fn fate(outcome: &Outcome, id: u32) -> Option<Fate> {
    outcome.fates.iter().find(|write| write.id == id).expect("it was asked for").fate
}

fn felt(outcome: &Outcome, kind: Kind) -> u64 {
    outcome.faults.get(&kind).map_or(0, |felt| felt.felt)
}

/// When such events of the record `notes/k` came, in milliseconds.
fn times(outcome: &Outcome, store: StoreId, kind: &str) -> Vec<u64> {
    let here = |event: &&Event| {
        event.lane == End::Store(store) && event.kind == kind && event.text.starts_with("notes/k")
    };
    outcome.events.iter().filter(here).map(|event| event.at_us / 1_000).collect()
}

fn happened(outcome: &Outcome, kind: &str) -> usize {
    outcome.events.iter().filter(|event| event.kind == kind).count()
}

fn cut(node: u16, store: StoreId) -> Place {
    Place::Link { from: End::Node(node), to: End::Store(store) }
}

/// Acknowledged while the authority is away, so that the journal alone holds it.
fn acknowledged_as_pending() -> Scenario {
    Scenario::still(1).then(1_000, 0, "k", PUT).fault(
        Kind::NetPartition,
        cut(0, StoreId::D1),
        900..8_000,
        0,
    )
}

#[test]
fn a_full_disk_refuses_and_forgets_nothing_and_recovers_by_itself() {
    let scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .then(3_000, 0, "k", PUT)
        .then(3_001, 0, "k", PUT)
        .then(5_000, 0, "k", PUT)
        .fault(Kind::DiskFull, Place::Disk(0), 2_500..4_000, 0);
    let outcome = clean(&scenario);
    // The second of two writes under way is built on the first, which no disk has.
    for id in [1, 2] {
        assert_eq!(told(&outcome, id), Told::Refused, "w{id}");
    }
    assert_eq!(fate(&outcome, 3), Some(Fate::Current));
    assert!(matches!(fate(&outcome, 0), Some(Fate::Superseded { .. })));
    assert_eq!(outcome.conflicts, 0);
    assert_eq!(happened(&outcome, "journal-failed"), 0, "a full disk ends no life");
}

#[test]
fn a_lost_disk_excuses_what_was_promised_to_survive_crashes_alone() {
    let lost = acknowledged_as_pending().fault(Kind::DiskLost, Place::Disk(0), 4_000..6_000, 100);
    let outcome = clean(&lost);
    assert!(matches!(told(&outcome, 0), Told::Acknowledged(_)));
    assert_eq!(outcome.excused, 1);
    // Confirmed by the authority, it is nobody's to lose.
    let confirmed = Scenario::still(1).then(1_000, 0, "k", PUT).fault(
        Kind::DiskLost,
        Place::Disk(0),
        4_000..6_000,
        100,
    );
    let outcome = clean(&confirmed);
    assert_eq!((outcome.excused, fate(&outcome, 0)), (0, Some(Fate::Current)));
}

#[test]
fn a_rotten_intent_is_reported_and_never_replayed() {
    let rots = acknowledged_as_pending().then(9_000, 0, "k", PUT).fault(
        Kind::DiskBitRot,
        Place::Disk(0),
        4_000..6_000,
        100,
    );
    let outcome = clean(&rots);
    assert_eq!(happened(&outcome, "journal-moved-away"), 1);
    assert_eq!(outcome.excused, 1);
    assert_eq!(fate(&outcome, 1), Some(Fate::Current));
}

/// The journal remembers w0 for as long as nothing else is committed; the snapshot has it when w1
/// is the authority's.
#[test]
fn intents_of_an_old_snapshot_change_nothing() {
    let restored = Scenario::still(1).then(1_000, 0, "k", PUT).then(3_000, 0, "k", PUT).fault(
        Kind::DiskRestored,
        Place::Disk(0),
        2_000..5_000,
        100,
    );
    let outcome = clean(&restored);
    assert_eq!(felt(&outcome, Kind::DiskRestored), 1);
    assert!(outcome.sometimes.contains("replay-found-intents"));
    assert_eq!((outcome.conflicts, fate(&outcome, 1)), (0, Some(Fate::Current)));
}

#[test]
fn a_torn_commit_is_no_acknowledgement() {
    let torn =
        Place::Call { node: 0, call: Call::JournalCommit, ordinal: 1, moment: Moment::Before };
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT).then(4_000, 0, "k", PUT).fault(
        Kind::DiskTornTail,
        torn,
        900..3_000,
        100,
    );
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("replay-met-torn-tail"));
    assert_eq!(told(&outcome, 0), Told::Unknown);
    assert_eq!(fate(&outcome, 1), Some(Fate::Current));
}

/// A stands still from before its put until long after its lease; B does the work meanwhile.
#[test]
fn a_process_that_stood_still_finds_its_lease_taken() {
    let scenario = Scenario::still(2)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::NetPartition, cut(0, StoreId::Kv), 900..1_500, 0)
        .fault(Kind::ProcessPause, Place::Node(0), 1_200..12_000, 0);
    let outcome = clean(&scenario);
    assert_eq!((happened(&outcome, "pause"), happened(&outcome, "resume")), (1, 1));
    let landed = times(&outcome, StoreId::Kv, "landed");
    assert!(landed.first().is_some_and(|at_ms| *at_ms < 6_000), "B puts it: {landed:?}");
}

/// What a process had sent goes its way while it stands still.
#[test]
fn a_request_under_way_outlives_its_senders_stillness() {
    let late = Place::Call { node: 0, call: Call::D1Batch, ordinal: 1, moment: Moment::Before };
    let scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::NetLateArrival, late, 900..2_000, 1_000)
        .fault(Kind::ProcessPause, Place::Node(0), 1_200..9_000, 0);
    let outcome = clean(&scenario);
    let rows = times(&outcome, StoreId::D1, "row");
    assert!(rows.first().is_some_and(|at_ms| *at_ms < 3_000), "rows at {rows:?}");
}

#[test]
fn a_crash_loop_ends_several_lives() {
    let first = Place::Call { node: 0, call: Call::D1Batch, ordinal: 1, moment: Moment::After };
    let scenario = Scenario::still(2).then(1_000, 0, "k", PUT).fault(
        Kind::ProcessCrashLoop,
        first,
        900..20_000,
        200,
    );
    let outcome = clean(&scenario);
    assert!(happened(&outcome, "crash") >= 3, "{} crashes", happened(&outcome, "crash"));
}

/// A page that ends early says nothing of the keys after it.
#[test]
fn a_short_page_of_a_listing_is_not_its_end() {
    let mut scenario = Scenario::still(1);
    scenario.reconcile_every_ms = Some(2_000);
    for at in 0..30 {
        scenario = scenario.then(500 + at * 20, 0, &format!("k{at}"), PUT);
    }
    scenario = scenario.fault(Kind::KvListTruncated, Place::Store(StoreId::Kv), 3_000..15_000, 0);
    scenario.length_ms = 20_000;
    let outcome = clean(&scenario);
    assert!(felt(&outcome, Kind::KvListTruncated) > 0);
    assert!(!outcome.sometimes.contains("a-copy-was-put-again"), "nothing was missing");
}

/// Somebody writes to R2 while every read of it is damaged: nobody takes in what was never written.
#[test]
fn damaged_reads_are_never_taken_in() {
    let copy = Place::Copy { store: StoreId::R2, key: "notes/k".to_owned() };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::R2ForeignWrite, copy, 4_000..4_001, 0)
        .fault(Kind::R2DamagedBody, Place::Store(StoreId::R2), 3_500..12_000, 0);
    scenario.reconcile_every_ms = Some(2_000);
    scenario.length_ms = 20_000;
    let outcome = clean(&scenario);
    assert!(felt(&outcome, Kind::R2DamagedBody) > 1);
    assert!(outcome.sometimes.contains("a-damaged-copy-was-noticed"));
    let rows = times(&outcome, StoreId::D1, "row");
    assert!(rows.iter().all(|at| !(4_000..12_000).contains(at)), "taken in at {rows:?}");
}

/// There is evidence, so a delete in the authority is one everywhere.
#[test]
fn a_delete_past_us_in_the_authority_reaches_every_copy() {
    let scenario = Scenario::still(2).then(1_000, 0, "k", PUT).fault(
        Kind::D1ForeignDelete,
        Place::Store(StoreId::D1),
        5_000..5_001,
        0,
    );
    // The run's own records are not there yet, so the delete meets the one that is.
    let outcome = clean(&scenario);
    assert_eq!(felt(&outcome, Kind::D1ForeignDelete), 1);
    for store in [StoreId::Kv, StoreId::R2] {
        let gone = outcome.events.iter().any(|event| {
            event.lane == End::Store(store)
                && event.kind == "landed"
                && event.text.ends_with(" deleted")
        });
        assert!(gone, "{store}");
    }
}

/// A campaign that is long enough says which kinds nobody felt; a short one cannot tell.
#[test]
fn a_kind_that_no_run_feels_is_named() {
    let plan = Plan {
        profile: Profile::Quick,
        seeds: 0..4,
        jobs: 1,
        only: vec![Kind::KvStaleRead, Kind::NetDuplicate],
        without: Vec::new(),
        shard: (0, 1),
        time_limit: None,
    };
    let mut result = campaign::run(&plan, &|_, _| {});
    result.faults.clear();
    assert_eq!(campaign::never_felt(&plan, &result), []);
    result.seeds = campaign::ALL_FELT_FROM_SEEDS;
    // One coordinator has nobody whose messages could arrive twice.
    assert_eq!(campaign::never_felt(&plan, &result), [Kind::KvStaleRead]);
}
