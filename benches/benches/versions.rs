//! What it costs to compare, join and resolve versions.

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidelock_engine::policy::Ruling;
use tidelock_engine::record::Stored;
use tidelock_engine::resolve::{self, Held};
use tidelock_engine::version::{Actor, Dot, NodeId, Stamp, Version, VersionVector};

fn vector(actors: u16, counter: u64) -> VersionVector {
    (0..actors)
        .map(|n| (Actor { node: NodeId(n), incarnation: u64::from(n) << 40 }, counter))
        .collect()
}

fn held(actors: u16, node: u16, counter: u64) -> Held {
    let value = Stored::Inline(Bytes::from(format!("value {node}")));
    let actor = Actor { node: NodeId(node), incarnation: u64::from(node) << 40 };
    let stamp = Stamp { wall_ms: u64::from(node), logical: 0 };
    let sibling = resolve::sibling(Dot { actor, counter }, stamp, &value);
    Held { version: Version::write(&vector(actors, 1), sibling), value }
}

fn versions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("version");
    for actors in [2, 8, 32] {
        let (a, b) = (held(actors, 0, 2), held(actors, 1, 2));
        let name = |what: &str| format!("{what}, {actors} actors");
        group.bench_function(name("compare"), |bencher| {
            bencher.iter(|| black_box(&a.version).compare(black_box(&b.version)));
        });
        // Every actor must be looked at.
        let after = Version::write(&a.version.history, *b.version.current());
        group.bench_function(name("compare, superseded"), |bencher| {
            bencher.iter(|| black_box(&a.version).compare(black_box(&after)));
        });
        let same = a.version.clone();
        group.bench_function(name("compare, equal"), |bencher| {
            bencher.iter(|| black_box(&a.version).compare(black_box(&same)));
        });
        group.bench_function(name("join"), |bencher| {
            bencher.iter(|| black_box(&a.version).join(black_box(&b.version)));
        });
        group.bench_function(name("meet under lww"), |bencher| {
            bencher.iter(|| resolve::meet(&Ruling::Lww, black_box(&a), black_box(&b)));
        });
    }
    group.finish();
}

criterion_group!(benches, versions);
criterion_main!(benches);
