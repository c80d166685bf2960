//! What a change feed does not show, the leaf sums do.

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tidelock_benches::Memory;
use tidelock_engine::coordinator::{
    Condition, Coordinator, Leave, LedgerCheck, Write, WriteOutcome,
};
use tidelock_engine::policy::{Dataset, Pace, Policy};
use tidelock_engine::record::{RecordId, StoreId, Stored};
use tidelock_engine::resolve::sibling;
use tidelock_engine::row::Row;
use tidelock_engine::version::{Actor, Dot, NodeId, Stamp, Version};
use tidelock_sim::stores::D1;

const RECORDS: u64 = 300;

async fn filled() -> (Memory, Arc<Coordinator<Memory>>) {
    let memory = Memory::default();
    let dataset = Dataset { reconcile_every: None, ..Dataset::everywhere("bench") };
    let pace = Pace {
        poll: Duration::from_millis(10),
        poll_min: Duration::from_millis(10),
        ..Pace::default()
    };
    let started = Coordinator::start(memory.clone(), NodeId(0), Policy::new([dataset]), pace).await;
    let coordinator = started.expect("an empty journal replays");
    for n in 0..RECORDS {
        write(&coordinator, &format!("k{n}")).await;
    }
    while !coordinator.is_idle() || !coordinator.status().ledger_complete {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (memory, coordinator)
}

async fn write(coordinator: &Arc<Coordinator<Memory>>, key: &str) {
    let write = Write {
        dataset: "bench".to_owned(),
        key: key.to_owned(),
        value: Some(Bytes::from_static(b"as written")),
        condition: Condition::None,
        lifetime: Default::default(),
    };
    let outcome = coordinator.write(write).await;
    assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
}

/// As another coordinator does.
fn install(memory: &Memory, key: &str) {
    let record = RecordId { dataset: Arc::from("bench"), key: key.into() };
    let value = Stored::Inline(Bytes::from_static(b"by another"));
    let holder = Actor { node: NodeId(7), incarnation: 7 };
    let (dot, stamp) = (Dot { actor: holder, counter: 1 }, Stamp { wall_ms: 9, logical: 0 });
    let over = memory.with_d1(|d1| d1.rows().get(&record).map(Row::history)).unwrap_or_default();
    let version = Version::write(&over, sibling(dot, stamp, &value));
    memory.install(record, version, value);
}

#[tokio::test]
async fn what_the_feed_missed_is_learned_from_the_leaves_that_differ() {
    let (memory, coordinator) = filled().await;
    let equal = coordinator.check_ledger("bench").await.expect("D1 answers");
    assert_eq!((equal.differing, equal.rows), (0, 0), "{equal:?}");
    memory.stop_feed();
    for key in ["k7", "k70", "new"] {
        install(&memory, key);
    }
    let check = coordinator.check_ledger("bench").await.expect("D1 answers");
    assert_eq!((check.differing, check.news, check.forgotten), (3, 3, false), "{check:?}");
    assert!(check.rows <= 6, "only the rows of three leaves: {check:?}");
    let again = coordinator.check_ledger("bench").await.expect("D1 answers");
    assert_eq!(again, LedgerCheck { leaves: again.leaves, ..LedgerCheck::default() });
}

#[tokio::test]
async fn an_authority_that_was_set_back_is_read_anew() {
    let (memory, coordinator) = filled().await;
    let before = memory.with_d1(|d1| d1.clone());
    write(&coordinator, "k7").await;
    while !coordinator.is_idle() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let record = RecordId { dataset: Arc::from("bench"), key: "k7".into() };
    let history = |d1: &mut D1| d1.rows()[&record].version.as_ref().map(|v| v.history.clone());
    let newest = memory.with_d1(history);
    // So many writes of others that the restored feed is as long as the lost one was.
    memory.with_d1(|d1| *d1 = before);
    for n in 0..3 {
        install(&memory, &format!("later{n}"));
    }
    let forgotten = |c: &Arc<Coordinator<Memory>>| c.status().counters.ledgers_forgotten;
    coordinator.check_ledger("bench").await.expect("D1 answers");
    assert_eq!(forgotten(&coordinator), 1);
    let listed = |c: &Arc<Coordinator<Memory>>| c.open_conflicts(None, None, 9);
    assert_eq!(listed(&coordinator), None, "it would have gaps");
    while !coordinator.status().ledger_complete {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(listed(&coordinator), Some(Vec::new()));
    let check = coordinator.check_ledger("bench").await.expect("D1 answers");
    assert_eq!(check.differing, 0);
    // What KV and R2 hold is newer, and the look over them brings it back.
    let pass = coordinator.look_over("bench", StoreId::R2, Leave::Mend).await.expect("R2 answers");
    assert!(pass.keys.contains(&"k7".to_owned()), "{pass:?}");
    assert_eq!(memory.with_d1(history), newest, "the copy in R2 was taken in again");
}
