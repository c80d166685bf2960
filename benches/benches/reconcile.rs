//! What reconciliation costs: a table, since bytes and counts are what matters.
//!
//! Times are of this thread on a processor, so that a busy machine does not show.

use bytes::Bytes;
use peak_alloc::PeakAlloc;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tidelock_benches::Memory;
use tidelock_engine::coordinator::{Condition, Coordinator, Leave, Write, WriteOutcome};
use tidelock_engine::env::{KvEntry, Peer};
use tidelock_engine::ledger::Ledger;
use tidelock_engine::policy::{Dataset, Pace, Policy};
use tidelock_engine::projection::{self, Body};
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::resolve::sibling;
use tidelock_engine::row::{Seq, StoreTime};
use tidelock_engine::tree::Tree;
use tidelock_engine::version::{Actor, Dot, NodeId, SiteId, Stamp, Version};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Time of this thread on a processor.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

const WRITER: Actor = Actor { node: NodeId(1), incarnation: 0x5eed };

fn record(dataset: &Arc<str>, n: u64) -> RecordId {
    RecordId { dataset: dataset.clone(), key: format!("key-{n:012}").into() }
}

fn version(n: u64, counter: u64) -> Version {
    let value = Stored::Inline(Bytes::from(format!("{n:0>64}")));
    let stamp = Stamp { wall_ms: 1_790_000_000_000, logical: 0 };
    Version::write(&Default::default(), sibling(Dot { actor: WRITER, counter }, stamp, &value))
}

fn filled(records: u64) -> Ledger {
    let dataset: Arc<str> = Arc::from("bench");
    let mut ledger = Ledger::default();
    for n in 0..records {
        ledger.learn(&record(&dataset, n), Some(&version(n, n + 1)), 1, Seq(n + 1));
    }
    ledger
}

/// What one changed record costs in a ledger of so many, and what the ledger takes.
fn upkeep(records: u64) -> Ledger {
    const CHANGES: u64 = 10_000;
    let before = ALLOCATOR.current_usage();
    let mut ledger = filled(records);
    let bytes = ALLOCATOR.current_usage() - before;
    let dataset: Arc<str> = Arc::from("bench");
    let step = (records / CHANGES).max(1);
    let changed: Vec<_> = (0..CHANGES.min(records))
        .map(|n| (record(&dataset, n * step), version(n * step, records + n + 1)))
        .collect();
    let begun = on_processor();
    for (record, version) in &changed {
        ledger.learn(record, Some(version), 2, Seq(records + 1));
    }
    let each = (on_processor() - begun) / changed.len() as u32;
    println!(
        "ledger of {records:>9} records: {:>4} B a record, {each:?} a change",
        bytes / records as usize
    );
    ledger
}

/// A hundred differences among a million records, from the roots down.
fn descend(ours: &Ledger, records: u64) {
    let mut theirs = filled(records);
    let dataset: Arc<str> = Arc::from("bench");
    for n in 0..100 {
        let n = n * (records / 100);
        theirs.learn(&record(&dataset, n), Some(&version(n, 2 * records + n)), 9, Seq(9));
    }
    let tree = |ledger: &Ledger| ledger.tree("bench").expect("it has records").clone();
    let (ours_tree, theirs_tree): (Tree, Tree) = (tree(ours), tree(&theirs));
    let (mut asked, mut leaves) = (vec![theirs_tree.root()], std::collections::BTreeSet::new());
    let (mut rounds, mut nodes, mut bytes) = (0, 0, 0);
    let begun = on_processor();
    while !asked.is_empty() {
        rounds += 1;
        nodes += asked.len();
        bytes += serde_json::to_vec(&asked).expect("numbers").len();
        let differing = ours_tree.differing(&asked);
        leaves.extend(differing.leaves);
        asked = differing.below.iter().flat_map(|node| theirs_tree.children(*node)).collect();
    }
    let took = on_processor() - begun;
    let (mut read, mut after) = (0, None::<tidelock_engine::record::Key>);
    loop {
        let (members, last) = theirs.members("bench", &leaves, after.as_deref(), 10_000);
        read += members.len();
        after = last;
        if after.is_none() {
            break;
        }
    }
    println!(
        "two trees over {records} records, 100 differ: {rounds} rounds, {nodes} nodes, \
         {bytes} B as JSON, {} leaves, {read} records read, {took:?}",
        leaves.len()
    );
}

/// A hundred rows that the change feed does not show, among so many: the ledger held against D1.
fn hold_against_d1(records: u64) {
    let memory = Memory::default();
    let dataset: Arc<str> = Arc::from("bench");
    let install = |n: u64, counter: u64| {
        let (record, version) = (record(&dataset, n), version(n, counter));
        let value = Stored::Inline(Bytes::from(format!("{n:0>64}")));
        memory.install(record, version, value);
    };
    (0..records).for_each(|n| install(n, n + 1));
    memory.sum("bench");
    let (runtime, coordinator) = coordinator_over(&memory, Pace::default());
    runtime.block_on(async {
        while !coordinator.status().ledger_complete {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        memory.stop_feed();
        (0..100).for_each(|n| install(n * (records / 100), 2 * records + n));
        let (before, begun) = (memory.rows_read(), on_processor());
        let check = coordinator.check_ledger("bench").await.expect("D1 answers");
        println!(
            "ledger against D1, {records:>7} records, 100 differ: {check:?}, {} rows of records read, \
             {:?}",
            memory.rows_read() - before,
            on_processor() - begun
        );
    });
    coordinator.stop();
}

/// Two sites with as many records, a hundred of which differ: what it takes one to catch up that
/// starts anew.
fn catch_up(records: u64) {
    let dataset: Arc<str> = Arc::from("bench");
    let sites = [SiteId(0), SiteId(1)].map(|site| {
        let memory = Memory::at(site);
        for n in 0..records {
            let newer = site == SiteId(0) && n % (records / 100) == 0;
            let counter = if newer { 2 * records + n } else { n } + 1;
            let (record, version) = (record(&dataset, n), version(n, counter));
            let value = Stored::Inline(Bytes::from(format!("{n:0>64}")));
            memory.install(record, version, value);
        }
        memory.sum("bench");
        memory
    });
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let start = |memory: &Memory, node: NodeId| {
        let dataset = Dataset { reconcile_every: None, ..Dataset::everywhere("bench") };
        let (policy, pace) = (Policy::new([dataset]), Pace::default());
        let started = Coordinator::start(memory.clone(), node, policy, pace);
        runtime.block_on(started).expect("an empty journal replays")
    };
    let [there, here] = [0, 1].map(|n| start(&sites[usize::from(n)], NodeId(n)));
    let complete = |coordinator: &Coordinator<Memory>| coordinator.status().ledger_complete;
    runtime.block_on(async {
        while !complete(&there) || !complete(&here) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = (sites[1].messages(), sites[0].rows_read());
        let begun = on_processor();
        sites[1].meet(Peer { node: NodeId(0), site: SiteId(0) }, there.clone());
        let caught_up = || {
            let followed = here.status().sites;
            followed.iter().any(|site| site.reached > Seq(0)) && here.is_idle()
        };
        while !caught_up() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!(
            "a site of {records:>7} records that starts anew, 100 differ: {} messages, {} rows read at \
             the other, {:?}",
            sites[1].messages() - before.0,
            sites[0].rows_read() - before.1,
            on_processor() - begun
        );
    });
    sites[1].part();
    there.stop();
    here.stop();
}

fn coordinator_over(
    memory: &Memory,
    pace: Pace,
) -> (tokio::runtime::Runtime, Arc<Coordinator<Memory>>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let dataset = Dataset { reconcile_every: None, ..Dataset::everywhere("bench") };
    let started = Coordinator::start(memory.clone(), NodeId(0), Policy::new([dataset]), pace);
    let coordinator = runtime.block_on(started).expect("an empty journal replays");
    (runtime, coordinator)
}

/// A look over KV and R2 that finds a hundred lost copies, and the ledger held against D1.
fn pass(records: u64) {
    let memory = Memory::default();
    let dataset: Arc<str> = Arc::from("bench");
    for n in 0..records {
        let (record, version) = (record(&dataset, n), version(n, n + 1));
        let body = Bytes::from(format!("{n:0>64}"));
        let metadata = Some(projection::describe(&version, &Body::Whole));
        let key = format!("bench/{}", record.key);
        let lost = n % (records / 100) == 0;
        if !lost {
            let entry =
                KvEntry { value: body.clone(), metadata: metadata.clone(), expires_at_s: None };
            memory.with_kv(|kv| kv.land(StoreTime(1), key.clone(), Some(entry)));
        }
        memory.install(record, version, Stored::Inline(body));
    }
    memory.sum("bench");
    let (runtime, coordinator) = coordinator_over(&memory, Pace::default());
    runtime.block_on(async {
        while !coordinator.status().ledger_complete {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let held = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let begun = on_processor();
        let leave = Leave::Look;
        let pass = coordinator.look_over("bench", StoreId::Kv, leave).await.expect("KV answers");
        let took = on_processor() - begun;
        let peak = ALLOCATOR.peak_usage() - held;
        println!(
            "look over KV, {records:>7} records, {} lost: {:?}, {} KiB at most, {took:?}",
            pass.differing,
            pass.predicted,
            peak / 1024
        );
        let begun = on_processor();
        let check = coordinator.check_ledger("bench").await.expect("D1 answers");
        println!(
            "ledger against D1, {records:>7} records: {check:?}, {:?}",
            on_processor() - begun
        );
    });
    coordinator.stop();
}

/// A write through all three stores.
fn write_through() {
    const RECORDS: u64 = 20_000;
    const WRITERS: u64 = 64;
    let memory = Memory::default();
    let pace = Pace { linger: Duration::ZERO, ..Pace::default() };
    let (runtime, coordinator) = coordinator_over(&memory, pace);
    let begun = on_processor();
    runtime.block_on(async {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let coordinator = coordinator.clone();
                tokio::spawn(async move {
                    for n in (writer..RECORDS).step_by(WRITERS as usize) {
                        let write = Write {
                            dataset: "bench".to_owned(),
                            key: format!("key-{n:012}"),
                            value: Some(Bytes::from(format!("{n:0>256}"))),
                            condition: Condition::None,
                            lifetime: Default::default(),
                        };
                        let outcome = coordinator.write(write).await;
                        assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("writers do not panic");
        }
        while !coordinator.is_idle() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let took = on_processor() - begun;
    assert_eq!(memory.complete_records(), RECORDS as usize);
    println!(
        "a record through three stores in memory, their models included: {:?} on the processor",
        took / RECORDS as u32
    );
    coordinator.stop();
}

fn main() {
    write_through();
    black_box(upkeep(10_000));
    black_box(upkeep(100_000));
    let million = upkeep(1_000_000);
    descend(&million, 1_000_000);
    drop(million);
    hold_against_d1(10_000);
    hold_against_d1(100_000);
    hold_against_d1(1_000_000);
    catch_up(10_000);
    catch_up(100_000);
    catch_up(1_000_000);
    pass(10_000);
    pass(100_000);
}
