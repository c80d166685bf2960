//! The traces of the protocol's rules: each is the shortest story that breaks when the rule is
//! taken out, told to the real coordinator. `cargo sim certify` takes each rule out in turn
//! (`sim/mutants/`) and expects the test of its name to fail.
//!
//! A scenario's operations are numbered from 0, so `w0` is its first. Calls that a fault names are
//! counted from the fault's beginning.
#![cfg(madsim)]

mod stories;

use std::sync::Arc;
use std::time::Duration;
use stories::stale_at_the_other_coordinator;
use tidelock_engine::coordinator::{Condition, Receipt, Write, WriteOutcome};
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::row::{Install, RowAnswer, RowOp};
use tidelock_engine::version::{Actor, Dot, NodeId, Version};
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::{Fate, Told};
use tidelock_sim::disk::Landing;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;
use tidelock_sim::world::World;

const PUT: Act = Act::Put { bytes: 20 };

/// Runs a scenario in which nothing may be broken.
#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, [], "{}", story(&outcome));
    outcome
}

/// What happened, for whoever reads a failed test.
fn story(outcome: &Outcome) -> String {
    let told = ["asks", "write-acked", "write-refused", "write-unknown", "foreign-write"];
    let kinds = ["row", "landed", "durable", "crash", "restart", "request-lost"];
    let lines = outcome.events.iter().filter(|e| told.contains(&e.kind) || kinds.contains(&e.kind));
    lines.map(|event| format!("\n{event}")).collect()
}

#[track_caller]
fn fate(outcome: &Outcome, id: u32) -> Fate {
    let write = outcome.fates.iter().find(|write| write.id == id).expect("it was asked for");
    write.fate.unwrap_or_else(|| panic!("w{id} was not acknowledged: {}", story(outcome)))
}

#[track_caller]
fn told(outcome: &Outcome, id: u32) -> Told {
    outcome.fates.iter().find(|write| write.id == id).expect("it was asked for").told
}

/// When the first such event of the record `notes/k` came.
fn first(outcome: &Outcome, store: StoreId, kind: &str) -> Option<u64> {
    let here = |event: &&Event| {
        event.lane == End::Store(store) && event.kind == kind && event.text.starts_with("notes/k")
    };
    outcome.events.iter().find(here).map(|event| event.at_us)
}

fn call(node: u16, call: Call, ordinal: u32, moment: Moment) -> Place {
    Place::Call { node, call, ordinal, moment }
}

fn cut(node: u16, store: StoreId) -> Place {
    Place::Link { from: End::Node(node), to: End::Store(store) }
}

/// A w0, not in the authority yet; crash; restart; A w1.
#[test]
fn v1_a_write_after_a_restart_supersedes_the_one_before_it() {
    let crash = call(0, Call::D1Poll, 1, Moment::Before);
    let outcome = clean(
        &Scenario::still(1)
            .then(1_000, 0, "k", PUT)
            .then(8_000, 0, "k", PUT)
            .fault(Kind::NetPartition, cut(0, StoreId::D1), 900..12_000, 0)
            .fault(Kind::ProcessCrash, crash, 4_000..7_000, 50),
    );
    assert_eq!(outcome.conflicts, 0, "one coordinator wrote twice: no conflict");
    assert_eq!(fate(&outcome, 1), Fate::Current);
    assert!(matches!(fate(&outcome, 0), Fate::Superseded { .. }));
}

/// A w0, applied and released with the commit of w1; forgotten; A w2 while the authority cannot be
/// asked.
#[test]
fn v1_a_forgotten_record_is_looked_up_before_it_is_written() {
    let crash = call(0, Call::D1Poll, 1, Moment::Before);
    let outcome = clean(
        &Scenario::still(1)
            .then(1_000, 0, "k", PUT)
            .then(2_000, 0, "other", PUT)
            .then(5_500, 0, "k", PUT)
            .fault(Kind::ProcessCrash, crash, 3_000..4_000, 1_500)
            .fault(Kind::NetPartition, cut(0, StoreId::D1), 4_000..7_000, 0),
    );
    assert_eq!(outcome.conflicts, 0, "the second write had to know of the first");
    assert_eq!(fate(&outcome, 2), Fate::Current);
    assert!(matches!(fate(&outcome, 0), Fate::Superseded { .. }));
}

/// A w0; A dies; somebody writes past every coordinator; A's next life hears of that, and is asked for
/// w1 before it has taken it in: w1 is a write over w0 all the same, and not the record's first.
#[test]
fn v1_a_foreign_write_does_not_hide_what_it_was_written_over() {
    // One is about the other record, which is replayed; one is the look at this one.
    let late = |nth| call(0, Call::D1Batch, nth, Moment::Before);
    let scenario = Scenario::still(1)
        .fault(Kind::NetLateArrival, late(1), 3_000..9_000, 1_900)
        .fault(Kind::NetLateArrival, late(2), 3_000..9_000, 1_900);
    in_world(scenario, |world| async move {
        sleep_until(&world, 1_000).await;
        let first = write(&world, 0, "k").await;
        sleep_until(&world, 2_000).await;
        // With the commit of this one the journal forgets the first.
        write(&world, 1, "other").await;
        sleep_until(&world, 3_000).await;
        world.crash(NodeId(0), Duration::from_millis(500), Landing::Whole);
        let foreign = Stored::Inline(tidelock_sim::workload::value(9, 20));
        world.state().sites[0].d1.write_foreign(world.store_time(), &record(), foreign);
        sleep_until(&world, 5_000).await;
        let row = world.state().sites[0].d1.rows()[&record()].clone();
        assert!(row.has_foreign_write(), "nobody has taken it in yet");
        let second = write(&world, 2, "k").await;
        assert!(second.version.history.covers_dot(first.dot), "{:?}", second.version);
        assert!(!second.created, "the record was there");
    });
}

/// A write leaves its coordinator while its fsync is under way. The checker sees each install
/// leave, and knows what is on the disks.
#[test]
fn v2_nothing_leaves_before_it_is_durable() {
    let outcome = clean(&Scenario::still(1).then(1_000, 0, "k", PUT).then(3_000, 0, "k", PUT));
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// The fsync that carries w0 fails; the next start replays what the disk holds.
#[test]
fn v2_a_failed_fsync_acknowledges_nothing() {
    let outcome =
        clean(&Scenario::still(1).then(1_000, 0, "k", PUT).then(3_000, 0, "k", PUT).fault(
            Kind::DiskFsyncError,
            Place::Disk(0),
            900..2_000,
            0,
        ));
    assert_eq!(told(&outcome, 0), Told::Unknown, "{}", story(&outcome));
    assert!(outcome.events.iter().any(|event| event.kind == "journal-failed"));
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// A's install of the conditional w0 is on its way when A's journal fails under w1; then B writes
/// w2, and the condition of w0 fails.
#[test]
fn v2_a_conditional_write_is_not_acknowledged_by_a_coordinator_that_stops() {
    let late = call(0, Call::D1Batch, 3, Moment::Before);
    let outcome = clean(
        &Scenario::still(2)
            .then(1_000, 0, "k", Act::PutIfUnchanged { bytes: 20 })
            .then(1_500, 0, "other", PUT)
            .then(3_000, 1, "k", PUT)
            .fault(Kind::NetLateArrival, late, 900..1_400, 6_000)
            .fault(Kind::DiskFsyncError, Place::Disk(0), 1_400..2_000, 0),
    );
    assert_eq!(told(&outcome, 0), Told::Unknown, "{}", story(&outcome));
    assert_eq!(fate(&outcome, 2), Fate::Current);
}

/// C w0 (unseen); fast A w1; A→B; slow B writes w2 over w1; C's w0 meets w1, and that meets w2.
#[test]
fn v3_a_slow_clock_does_not_bring_back_what_it_replaced() {
    let mut scenario = Scenario::still(3)
        .then(1_000, 2, "k", PUT)
        .then(1_500, 0, "k", PUT)
        .then(3_000, 1, "k", PUT)
        .fault(Kind::NetPartition, cut(2, StoreId::D1), 900..4_000, 0)
        .fault(Kind::NetPartition, cut(1, StoreId::D1), 2_500..9_000, 0);
    scenario.clock_skew_ms = vec![2_000, -2_000, 0];
    let outcome = clean(&scenario);
    assert_eq!(fate(&outcome, 2), Fate::Current, "{}", story(&outcome));
    assert_eq!(fate(&outcome, 0), Fate::Loser);
}

/// A installs a version and puts it; meanwhile a coordinator of another policy revision gives the
/// same history other bytes, and takes its lease back. A must not take its own bytes for those.
#[test]
fn v5_a_mark_is_not_cleared_for_other_bytes_of_the_same_history() {
    let late = call(0, Call::KvWrite, 1, Moment::After);
    let scenario = Scenario::still(1).fault(Kind::NetLateArrival, late, 900..3_000, 700);
    in_world(scenario, |world| async move {
        sleep_until(&world, 1_000).await;
        write(&world, 0, "k").await;
        let theirs = revise(&world, &record());
        sleep_until(&world, 12_000).await;
        let (row, copy) = {
            let state = world.state();
            let row = state.sites[0].d1.rows()[&record()].clone();
            (row, state.sites[0].kv.central("notes/k").expect("it was put").value.clone())
        };
        assert_eq!(row.value, Some(theirs));
        assert_eq!(row.value, Some(Stored::Inline(copy)), "the copy is the row's");
        assert!(row.owed.is_empty(), "and nothing is owed any more: {:?}", row.owed);
    });
}

/// Tells a story that a scenario's operations cannot tell, to one coordinator.
fn in_world<F>(scenario: Scenario, story: impl FnOnce(Arc<World>) -> F)
where
    F: Future<Output = ()>,
{
    let config = madsim::Config::default();
    let runtime = madsim::runtime::Runtime::with_seed_and_config(0, config);
    runtime.block_on(async move {
        let world = World::new(scenario, None, false);
        world.create_process(NodeId(0), move |world| run::process(world, NodeId(0)));
        story(world.clone()).await;
        let coordinator = world.state().processes[0].coordinator.take();
        coordinator.expect("it runs").stop();
        madsim::time::sleep(Duration::from_millis(10)).await;
    });
}

fn record() -> RecordId {
    RecordId { dataset: "notes".into(), key: "k".into() }
}

/// The coordinator writes w`id`, and acknowledges it.
async fn write(world: &Arc<World>, id: u32, key: &str) -> Receipt {
    let write = Write {
        dataset: "notes".to_owned(),
        key: key.to_owned(),
        value: Some(tidelock_sim::workload::value(id, 20)),
        condition: Condition::None,
        lifetime: Default::default(),
    };
    let told = world.ask(0, NodeId(0), |coordinator| async move { coordinator.write(write).await });
    match told.await.expect("the coordinator is there") {
        WriteOutcome::Applied(receipt) => receipt,
        other => panic!("{other:?}"),
    }
}

async fn sleep_until(world: &World, at_ms: u64) {
    madsim::time::sleep(Duration::from_millis(at_ms.saturating_sub(world.now_ms()))).await;
}

/// What a coordinator that merges otherwise does to a row: the same history, other bytes. Its
/// lease it takes back at once, so that nobody waits for it.
fn revise(world: &World, record: &RecordId) -> Stored {
    let value = Stored::Inline(tidelock_sim::workload::value(1, 20));
    let mut state = world.state();
    let row = state.sites[0].d1.rows()[record].clone();
    let before = row.version.clone().expect("a coordinator installed it");
    let was = *before.current();
    let dot: Dot = was.dot;
    let version = Version::settled(
        before.history.clone(),
        tidelock_engine::resolve::sibling(dot, was.stamp, &value),
    );
    let holder = Actor { node: NodeId(7), incarnation: 7 };
    let install = RowOp::Install(Box::new(Install {
        record: record.clone(),
        expect: row.expect(),
        version,
        value: value.clone(),
        losers: Vec::new(),
        owe: vec![StoreId::Kv, StoreId::R2],
        holder,
        blobs_seen: tidelock_engine::blob::BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }));
    let (outcome, _) = state.sites[0].d1.batch(world.store_time(), &[install]);
    let tidelock_engine::env::Outcome::Applied(answer) = outcome else { panic!("{outcome:?}") };
    let RowAnswer::Installed { grant, .. } = &answer.answers[0] else { panic!("{answer:?}") };
    let back = [StoreId::Kv, StoreId::R2].map(|store| RowOp::Release {
        record: record.clone(),
        store,
        quiet: vec![grant.epoch],
    });
    state.sites[0].d1.batch(world.store_time(), &back);
    value
}

/// A w0; B w1 before it hears of w0; one of them installs the merge, and both are released.
#[test]
fn v6_losers_are_durable_where_the_winner_is() {
    let outcome = clean(&Scenario::still(2).then(1_000, 0, "k", PUT).then(1_000, 1, "k", PUT));
    assert_eq!(outcome.conflicts, 1);
    let mut fates = [fate(&outcome, 0), fate(&outcome, 1)];
    fates.sort_by_key(|fate| *fate != Fate::Current);
    assert_eq!(fates, [Fate::Current, Fate::Loser]);
}

/// A value too large for the row: acknowledged, and its coordinator dies before it has put the
/// bytes into R2.
#[test]
fn a0_a_row_never_refers_to_bytes_that_are_not_there() {
    let crash = call(0, Call::R2Write, 1, Moment::Before);
    let outcome = clean(
        &Scenario::still(1)
            .then(1_000, 0, "k", Act::Put { bytes: 600 })
            .then(6_000, 0, "k", Act::ReadLatest)
            .fault(Kind::ProcessCrash, crash, 900..3_000, 500),
    );
    assert!(outcome.sometimes.contains("row-refers-to-a-blob"), "{}", story(&outcome));
}

/// A's write cannot reach the authority yet; KV and R2 can be reached.
#[test]
fn a1_a_projection_receives_nothing_that_the_authority_lacks() {
    let outcome = clean(&Scenario::still(1).then(1_000, 0, "k", PUT).fault(
        Kind::NetPartition,
        cut(0, StoreId::D1),
        900..6_000,
        0,
    ));
    let installed = first(&outcome, StoreId::D1, "row").expect("installed");
    for store in [StoreId::Kv, StoreId::R2] {
        let landed = first(&outcome, store, "landed").expect("put");
        assert!(installed < landed, "{store}: {}", story(&outcome));
    }
}

/// A w0; A's compare-and-set of w1 is on its way; somebody writes past every coordinator.
#[test]
fn a2_the_compare_and_set_does_not_pass_over_a_foreign_write() {
    let late = call(0, Call::D1Batch, 1, Moment::Before);
    let outcome = clean(
        &Scenario::still(1)
            .then(1_000, 0, "k", PUT)
            .then(3_000, 0, "k", PUT)
            .then(3_700, 0, "k", Act::Foreign { bytes: 20 })
            .then(7_000, 0, "k", Act::ReadLatest)
            .fault(Kind::NetLateArrival, late, 2_900..4_000, 1_500),
    );
    assert_eq!(outcome.conflicts, 1, "one of the two lost, and is kept: {}", story(&outcome));
}

/// A puts w0; B overwrites it with w1; somebody writes to a projection, past both.
#[test]
fn a3_foreign_bytes_enter_through_the_authority() {
    for (kind, store) in [(Kind::KvForeignWrite, StoreId::Kv), (Kind::R2ForeignWrite, StoreId::R2)]
    {
        let copy = Place::Copy { store, key: "notes/k".to_owned() };
        let mut scenario = Scenario::still(2).then(3_000, 0, "k", PUT).then(4_500, 1, "k", PUT);
        scenario.reconcile_every_ms = Some(10_000);
        scenario.length_ms = 20_000;
        let outcome = clean(&scenario.fault(kind, copy, 7_000..7_001, 0));
        assert_eq!(fate(&outcome, 1), Fate::Loser, "{store}: w1 was current, and is kept");
        assert!(matches!(fate(&outcome, 0), Fate::Superseded { .. }));
        assert_eq!(outcome.conflicts, 1, "{store}: found once, however many looked");
    }
}

/// R2 refuses w0 for good, which is a dead letter. Somebody writes to the copy long after: whoever tries
/// again sees that first.
#[test]
fn a3_a_copy_that_was_refused_is_looked_at_before_it_is_put_again() {
    let copy = Place::Copy { store: StoreId::R2, key: "notes/k".to_owned() };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::LoadPoisonRecord, Place::Store(StoreId::R2), 900..2_000, 0)
        .fault(Kind::R2ForeignWrite, copy, 20_000..20_001, 0);
    scenario.length_ms = 90_000;
    let outcome = clean(&scenario);
    assert_eq!(fate(&outcome, 0), Fate::Loser, "{}", story(&outcome));
    assert_eq!(outcome.conflicts, 1, "it was taken in over w0");
}

/// Somebody writes to KV; it is taken in. Somebody writes again, and an edge cache still gives the
/// first: the listing alone shows that it is not what stands there.
#[test]
fn a3_an_echo_from_a_cache_is_not_put_over_what_stands_there() {
    let copy = || Place::Copy { store: StoreId::Kv, key: "notes/k".to_owned() };
    let mut scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .fault(Kind::KvStaleRead, Place::Store(StoreId::Kv), 0..60_000, 0)
        .fault(Kind::KvForeignWrite, copy(), 5_000..5_001, 0)
        .fault(Kind::KvForeignWrite, copy(), 15_000..15_001, 0);
    scenario.reconcile_every_ms = Some(10_000);
    scenario.length_ms = 70_000;
    let outcome = clean(&scenario);
    let stale = outcome.faults.get(&Kind::KvStaleRead).map_or(0, |felt| felt.felt);
    assert!(stale > 0, "the cache was asked");
    assert_eq!(
        outcome.conflicts,
        2,
        "w0 and the first foreign write are kept: {}",
        story(&outcome)
    );
}

/// A and B each install a version of a hot record. If both went on to project what they installed,
/// each would wait for the other's lease for ever.
#[test]
fn a4_one_coordinator_projects_a_hot_record() {
    let outcome = clean(
        &Scenario::still(2)
            .then(1_000, 0, "k", PUT)
            .then(1_020, 1, "k", PUT)
            .then(1_400, 0, "k", PUT)
            .then(1_420, 1, "k", PUT),
    );
    let cleared = |event: &&Event| event.kind == "row" && event.text.ends_with("owed []");
    let last = outcome.events.iter().rfind(cleared).expect("the marks were cleared");
    assert!(last.at_us < 6_500_000, "{}", story(&outcome));
}

/// A installs w0, and its put is on its way; B installs w1 over it. B's install keeps A's entry,
/// so that B does not believe itself alone.
#[test]
fn a4_an_install_keeps_the_entries_of_others() {
    let late = call(0, Call::KvWrite, 1, Moment::Before);
    let outcome =
        clean(&Scenario::still(2).then(1_000, 0, "k", PUT).then(2_000, 1, "k", PUT).fault(
            Kind::NetLateArrival,
            late,
            900..3_000,
            1_800,
        ));
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// A installs w0 and dies; B takes over, and its put of w0 is on its way; w1 is installed by A's
/// next life, which must know of B's put.
#[test]
fn a4_a_take_over_is_registered() {
    let crash = call(0, Call::KvWrite, 1, Moment::Before);
    let late = call(1, Call::KvWrite, 1, Moment::Before);
    let outcome = clean(
        &Scenario::still(2)
            .then(1_000, 0, "k", PUT)
            .then(4_600, 0, "k", PUT)
            .fault(Kind::ProcessCrash, crash, 900..3_000, 3_000)
            .fault(Kind::NetLateArrival, late, 3_000..5_000, 1_900),
    );
    assert_eq!(fate(&outcome, 1), Fate::Current);
    assert!(outcome.sometimes.contains("mark-taken-over"));
}

/// A's put of w0 is under way for longer than its lease; w1 is put and cleared meanwhile.
#[test]
fn a5_a_put_is_refused_once_its_lease_has_ended() {
    let late = call(0, Call::KvWrite, 1, Moment::Before);
    let outcome =
        clean(&Scenario::still(2).then(1_000, 0, "k", PUT).then(2_000, 1, "k", PUT).fault(
            Kind::NetLateArrival,
            late,
            900..3_000,
            6_000,
        ));
    assert!(outcome.sometimes.contains("put-refused-after-its-lease"));
}

/// A puts w0, and its connection is lost: Unknown at once, while the put goes on. A installs and puts
/// w1; then w0 lands, still within its lease.
#[test]
fn a5a_an_unknown_put_keeps_its_lease_in_the_row() {
    let severed = call(0, Call::KvWrite, 1, Moment::Before);
    let outcome =
        clean(&Scenario::still(1).then(1_000, 0, "k", PUT).then(1_500, 0, "k", PUT).fault(
            Kind::NetConnectionLost,
            severed,
            900..3_000,
            1_500,
        ));
    assert!(outcome.sometimes.contains("put-without-an-answer"));
    assert!(outcome.sometimes.contains("request-landed-after-its-caller-gave-up"));
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// A's put of w0 is on its way and A is dead; B puts w1 and may not clear yet.
#[test]
fn a5b_a_mark_is_cleared_only_when_nobody_else_can_be_putting() {
    let late = call(0, Call::KvWrite, 1, Moment::Before);
    let crash = call(0, Call::D1Poll, 1, Moment::Before);
    let outcome = clean(
        &Scenario::still(2)
            .then(1_000, 0, "k", PUT)
            .then(2_500, 1, "k", PUT)
            .fault(Kind::NetLateArrival, late, 900..3_000, 2_000)
            .fault(Kind::ProcessCrash, crash, 1_300..3_000, 8_000),
    );
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// A's clear of w0 is under way for longer than A waits; A claims and puts again, and that put is
/// still to land when the clear does. B then installs w1, and is alone for all that it can see.
#[test]
fn a5b_a_late_clear_does_not_vouch_for_a_later_put() {
    let late_clear = call(0, Call::D1Batch, 2, Moment::Before);
    let late_put = call(0, Call::KvWrite, 2, Moment::After);
    let outcome = clean(
        &Scenario::still(2)
            .then(1_000, 0, "k", PUT)
            .then(3_640, 1, "k", PUT)
            .fault(Kind::NetLateArrival, late_clear, 900..3_000, 2_400)
            .fault(Kind::NetLateArrival, late_put, 900..6_000, 700),
    );
    assert!(outcome.sometimes.contains("request-landed-after-its-caller-gave-up"));
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// A installs w0 and dies before it has put it anywhere. Its journal is no use to anybody.
#[test]
fn a5c_the_mark_outlives_the_coordinator_that_owes_it() {
    let crash = call(0, Call::KvWrite, 1, Moment::Before);
    let outcome = clean(&Scenario::still(2).then(1_000, 0, "k", PUT).fault(
        Kind::ProcessCrash,
        crash,
        900..3_000,
        15_000,
    ));
    let restarted = outcome.events.iter().find(|event| event.kind == "restart");
    let restarted_us = restarted.expect("the crashed coordinator comes back").at_us;
    for store in [StoreId::Kv, StoreId::R2] {
        let landed = first(&outcome, store, "landed").expect("put");
        assert!(landed < restarted_us, "{store}: {}", story(&outcome));
    }
}

#[test]
fn session_a_read_is_never_older_than_what_its_session_has_seen() {
    let outcome = clean(&stale_at_the_other_coordinator());
    let read = outcome.events.iter().find(|event| event.kind == "session-read");
    assert!(read.is_some(), "the session was answered, by A: {}", story(&outcome));
}

/// D1 refuses w0 for good; w1 is of another record, w2 of the same.
#[test]
fn dead_letters_block_neither_other_records_nor_later_writes() {
    let outcome = clean(
        &Scenario::still(1)
            .then(1_000, 0, "k", PUT)
            .then(2_500, 0, "other", PUT)
            .then(4_000, 0, "k", PUT)
            .fault(Kind::LoadPoisonRecord, Place::Store(StoreId::D1), 900..2_000, 0),
    );
    assert!(matches!(told(&outcome, 0), Told::Acknowledged(_)), "{}", story(&outcome));
    assert_eq!(fate(&outcome, 1), Fate::Current);
    assert_eq!(fate(&outcome, 2), Fate::Current);
    let Told::Acknowledged(by) = told(&outcome, 2) else { panic!("{}", story(&outcome)) };
    assert_eq!(fate(&outcome, 0), Fate::Superseded { by });
}

/// A's w0 is refused by D1 for good; B, who has not heard of it, writes w1.
#[test]
fn dead_letters_meet_what_others_write_and_lose_with_their_bytes_kept() {
    let outcome =
        clean(&Scenario::still(2).then(1_000, 0, "k", PUT).then(3_000, 1, "k", PUT).fault(
            Kind::LoadPoisonRecord,
            Place::Store(StoreId::D1),
            900..2_000,
            0,
        ));
    assert_eq!(fate(&outcome, 0), Fate::Loser, "{}", story(&outcome));
    assert_eq!(fate(&outcome, 1), Fate::Current);
}

/// The same, with w1 about when w0, a dead letter by then, is tried for the last time in a minute: B's news,
/// which comes while that try is under way, is not lost to its refusal.
#[test]
fn dead_letters_lose_at_once_to_what_came_while_they_were_tried() {
    for (seed, at_ms) in (0..8).flat_map(|seed| (2_980..3_060).step_by(2).map(move |at| (seed, at)))
    {
        let poison = Place::Store(StoreId::D1);
        let mut scenario = Scenario::still(2)
            .then(1_000, 0, "k", PUT)
            .then(at_ms, 1, "k", PUT)
            .fault(Kind::LoadPoisonRecord, poison, 900..1_010, 0);
        scenario.seed = seed;
        scenario.length_ms = 10_000;
        let outcome = clean(&scenario);
        let story = || format!("w1 at {at_ms} of {seed}: {}", story(&outcome));
        assert_eq!(fate(&outcome, 0), Fate::Loser, "{}", story());
        assert_eq!(fate(&outcome, 1), Fate::Current, "{}", story());
    }
}

/// D1 refuses w0 by a constraint that is lifted; the operator has it tried again.
#[test]
fn dead_letters_are_delivered_once_the_store_takes_them() {
    let outcome = clean(&Scenario::still(1).then(1_000, 0, "k", PUT).fault(
        Kind::D1Constraint,
        Place::Store(StoreId::D1),
        900..5_000,
        0,
    ));
    assert_eq!(fate(&outcome, 0), Fate::Current);
    assert!(outcome.recovery_ms.is_some_and(|ms| ms < 2_000), "{:?}", outcome.recovery_ms);
}

/// w0 is too large for a row, and R2 refuses its bytes for good. w1 was written without having seen
/// it, so it would have to keep it as a loser, which takes R2 too: the dead letter keeps it.
#[test]
fn dead_letters_keep_what_no_store_takes_and_hold_up_nobody() {
    let scenario = Scenario::still(1)
        .then(1_000, 0, "k", Act::Put { bytes: 600 })
        .then(6_000, 0, "k", Act::PutWithContext { bytes: 20 })
        .fault(Kind::LoadPoisonRecord, Place::Store(StoreId::R2), 900..2_000, 0);
    let commits = |ordinal| call(0, Call::JournalCommit, ordinal, Moment::After);
    let crashes = [None, Some(1), Some(2), Some(3)].map(|ordinal| match ordinal {
        None => scenario.clone(),
        Some(nth) => scenario.clone().fault(Kind::ProcessCrash, commits(nth), 5_900..9_000, 300),
    });
    for scenario in crashes {
        let outcome = clean(&scenario);
        assert!(matches!(told(&outcome, 0), Told::Acknowledged(_)), "{}", story(&outcome));
        let rows = outcome.events.iter().filter(|e| e.lane == End::Store(StoreId::D1));
        let installed = rows.filter(|e| e.kind == "row").count();
        assert!(installed > 0, "w1 got through: {}", story(&outcome));
        assert!(outcome.sometimes.contains("a-dead-letter-kept-a-loser"), "{}", story(&outcome));
    }
}

/// KV refuses w0's copy for good: R2 gets its own, and w1 goes everywhere.
#[test]
fn dead_letters_of_one_projection_leave_the_other_alone() {
    let outcome =
        clean(&Scenario::still(1).then(1_000, 0, "k", PUT).then(6_000, 0, "k", PUT).fault(
            Kind::LoadPoisonRecord,
            Place::Store(StoreId::Kv),
            900..2_000,
            0,
        ));
    let landed = |store| first(&outcome, store, "landed").expect("it landed in the end");
    assert!(landed(StoreId::R2) < 2_000_000, "{}", story(&outcome));
    assert!(landed(StoreId::Kv) > 6_000_000, "{}", story(&outcome));
}

/// Ten writes of one record within a second: KV and R2 get the first and the newest, and no two
/// puts of a key within a second.
#[test]
fn lanes_coalesce_to_the_newest_version_and_put_a_key_once_a_second() {
    let mut scenario = Scenario::still(1);
    for n in 0..10 {
        scenario = scenario.then(1_000 + n * 100, 0, "k", PUT);
    }
    let outcome = clean(&scenario);
    assert_eq!(fate(&outcome, 9), Fate::Current);
    for store in [StoreId::Kv, StoreId::R2] {
        let landed: Vec<u64> = outcome
            .events
            .iter()
            .filter(|e| e.lane == End::Store(store) && e.kind == "landed" && e.text == "notes/k")
            .map(|event| event.at_us)
            .collect();
        assert!((2..=3).contains(&landed.len()), "{store}: {landed:?}");
        let apart = landed.windows(2).map(|two| two[1] - two[0]).min().unwrap();
        assert!(apart >= 990_000, "{store}: {landed:?}");
    }
}
