//! What an entry of the audit log costs to make and to verify, without the disk's sync.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tidelock_engine::audit::{Chain, Conflict, ConflictFacts, Event, Original, verify};
use tidelock_engine::record::{RecordId, Stored};
use tidelock_engine::resolve;
use tidelock_engine::row::Seq;
use tidelock_engine::version::{Actor, Dot, NodeId, SiteId, Stamp};

const BATCH: u64 = 64;
const AT_MS: u64 = 1_790_000_000_000;

fn original(node: u16, counter: u64) -> Original {
    let dot = Dot { actor: Actor { node: NodeId(node), incarnation: u64::MAX / 3 }, counter };
    let stamp = Stamp { wall_ms: AT_MS + counter, logical: 0 };
    Original::from(&resolve::sibling(dot, stamp, &Stored::Tombstone))
}

/// Two writes of one record.
fn conflict(n: u64) -> Event {
    let (winner, loser) = (original(2, n), original(1, n));
    Event::Conflict(Box::new(Conflict::new(ConflictFacts {
        site: SiteId(0),
        record: RecordId { dataset: Arc::from("products"), key: format!("sku-{n:08}").into() },
        seq: Seq(n),
        settled_ms: AT_MS + n,
        winner: winner.dot,
        won: Some(winner),
        losers: vec![loser],
        strategy: "lww".into(),
        why: None,
        contexts: None,
    })))
}

fn audit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("audit, 64 conflicts");
    group.throughput(Throughput::Elements(BATCH));
    let events: Vec<Event> = (1..=BATCH).map(conflict).collect();
    let mut text = Vec::new();
    group.bench_function("append, without write and sync", |bencher| {
        bencher.iter(|| {
            let mut chain = Chain::new();
            text.clear();
            for event in &events {
                chain.append(AT_MS, black_box(event)).push_line(&mut text);
            }
            black_box(text.len())
        });
    });
    let mut chain = Chain::new();
    let lines: Vec<String> = events.iter().map(|e| chain.append(AT_MS, e).to_line()).collect();
    eprintln!("a line has {} bytes", lines[0].len());
    group.bench_function("verify", |bencher| bencher.iter(|| verify(black_box(&lines), None)));
    group.finish();
}

criterion_group!(benches, audit);
criterion_main!(benches);
