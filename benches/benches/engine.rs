//! The engine's own cost: one record through three stores that answer at once. Processor time, and not
//! the clock's: much of a write's way is waiting, for company in a batch above all.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Duration;
use tidelock_benches::Memory;
use tidelock_engine::coordinator::{Condition, Coordinator, Write, WriteOutcome};
use tidelock_engine::policy::{Dataset, Pace, Policy};
use tidelock_engine::version::NodeId;
use tidelock_sim::campaign::cpu_time;

/// The binary's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: u64 = 1_000;
const WRITERS: u64 = 16;

fn write(n: u64) -> Write {
    Write {
        dataset: "bench".to_owned(),
        key: format!("key-{n}"),
        value: Some(Bytes::from(n.to_le_bytes().repeat(32))),
        condition: Condition::None,
        lifetime: Default::default(),
    }
}

/// What each writer writes, one after the other.
fn writes() -> Vec<Vec<Write>> {
    let of_writer = |writer| (writer..RECORDS).step_by(WRITERS as usize).map(write).collect();
    (0..WRITERS).map(of_writer).collect()
}

async fn write_all(coordinator: &Arc<Coordinator<Memory>>, writes: Vec<Vec<Write>>) {
    let writers = writes.into_iter().map(|writes| {
        let coordinator = coordinator.clone();
        tokio::spawn(async move {
            for write in writes {
                let outcome = coordinator.write(write).await;
                assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        writer.await.expect("writers do not panic");
    }
}

/// The time from the first write until nothing is owed: what is set up before and looked at afterwards is no
/// part of a write.
async fn write_and_deliver() -> Duration {
    let memory = Memory::default();
    let policy = Policy::new([Dataset::everywhere("bench")]);
    let started = Coordinator::start(memory.clone(), NodeId(0), policy, Pace::default()).await;
    let coordinator = started.expect("an empty journal replays");
    let writes = writes();
    let begun = cpu_time();
    write_all(&coordinator, writes).await;
    while !coordinator.is_idle() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let spent = cpu_time() - begun;
    assert_eq!(memory.complete_records(), RECORDS as usize);
    coordinator.stop();
    drop((coordinator, memory));
    // Its tasks end before the next one is measured.
    tokio::time::sleep(Duration::from_millis(2)).await;
    spent
}

fn engine(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(20);
    group.bench_function("1000 records through three stores in memory", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations).map(|_| runtime.block_on(write_and_deliver())).sum()
        });
    });
    group.finish();
}
criterion_group!(benches, engine);
criterion_main!(benches);
