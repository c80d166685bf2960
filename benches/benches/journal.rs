//! The journal's group commit beside a bare fsync loop on the same disk.
//!
//! Prints, after criterion's figures, how many acknowledgements one fsync carries with 64
//! writers, and the median acknowledgement beside the median of a bare fsync.

use bytes::Bytes;
use criterion::{Criterion, criterion_group};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidelock_engine::coordinator::{Condition, Coordinator, Write, WriteOutcome};
use tidelock_engine::env::{Env, Peer};
use tidelock_engine::policy::{Dataset, Durability, Pace, Policy, Strategy};
use tidelock_engine::production::env::ProductionEnv;
use tidelock_engine::production::journal::{DiskJournal, FolderLock};
use tidelock_engine::production::peers::HttpPeers;
use tidelock_engine::version::{NodeId, SiteId};

const WRITERS: usize = 64;
const WRITES_EACH: usize = 40;
const FSYNCS: usize = 100;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// One small write and one fsync, again and again.
fn bare_fsyncs(folder: &std::path::Path) -> Vec<Duration> {
    let mut file = File::create(folder.join("bare")).expect("a file");
    (0..FSYNCS)
        .map(|_| {
            let begun = Instant::now();
            file.seek(SeekFrom::Start(0)).expect("seek");
            file.write_all(&[7; 4096]).expect("write");
            file.sync_data().expect("fsync");
            begun.elapsed()
        })
        .collect()
}

fn fsync(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk under test");
    let mut file = File::create(folder.path().join("bare")).expect("a file");
    let mut group = criterion.benchmark_group("journal");
    group.sample_size(20);
    group.bench_function("a bare write and fsync of 4 KiB", |bencher| {
        bencher.iter(|| {
            file.seek(SeekFrom::Start(0)).expect("seek");
            file.write_all(&[7; 4096]).expect("write");
            file.sync_data().expect("fsync");
        });
    });
    group.finish();
}

/// Everything write-behind: an acknowledgement is one journal commit.
fn write_behind() -> Policy {
    let mut dataset = Dataset::everywhere("bench");
    dataset.durability = Durability::Local;
    for strategy in dataset.strategy.values_mut() {
        *strategy = Strategy::WriteBehind;
    }
    Policy::new([dataset])
}

async fn writer<E: Env>(coordinator: Arc<Coordinator<E>>, writer: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(WRITES_EACH);
    for n in 0..WRITES_EACH {
        let begun = Instant::now();
        let write = Write {
            dataset: "bench".to_owned(),
            key: format!("writer-{writer}-{n}"),
            value: Some(Bytes::from_static(&[b'v'; 256])),
            condition: Condition::None,
            lifetime: Default::default(),
        };
        let outcome = coordinator.write(write).await;
        assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
        times.push(begun.elapsed());
    }
    times
}

fn acknowledgements() {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk under test");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let bare = median(bare_fsyncs(folder.path()));
    let (times, status) = runtime.block_on(async {
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a data folder");
        let lock = FolderLock::take(&data).expect("nobody else has it");
        let journal = DiskJournal::open(&data, &lock).expect("an empty journal");
        let own = Peer { node: NodeId(1), site: SiteId(0) };
        let alone = HttpPeers::open(&data, own, Vec::new(), String::new()).expect("no peers");
        let env = ProductionEnv::open(&data, journal, Arc::new(alone)).expect("empty stores");
        let started = Coordinator::start(env, NodeId(0), write_behind(), Pace::default()).await;
        let coordinator = started.expect("an empty journal replays");
        let writers: Vec<_> =
            (0..WRITERS).map(|number| tokio::spawn(writer(coordinator.clone(), number))).collect();
        let mut times = Vec::new();
        for writer in writers {
            times.extend(writer.await.expect("writers do not panic"));
        }
        let status = coordinator.status();
        coordinator.stop();
        (times, status)
    });
    let per_fsync = status.counters.committed_intents as f64 / status.counters.commits as f64;
    let acknowledged = median(times);
    println!(
        "journal/64 writers, write-behind: {per_fsync:.1} acknowledgements per fsync; median \
         acknowledgement {acknowledged:?} beside a bare fsync of {bare:?} ({:.1} times)",
        acknowledged.as_secs_f64() / bare.as_secs_f64()
    );
}

criterion_group!(benches, fsync);

fn main() {
    // `cargo test` runs benches too, with `--test`: the figures are for `cargo bench`.
    let testing = std::env::args().any(|argument| argument == "--test");
    benches();
    if !testing {
        acknowledgements();
    }
    Criterion::default().configure_from_args().final_summary();
}
