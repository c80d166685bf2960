//! Seeds of the standard profile, on one thread.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidelock_sim::run;
use tidelock_sim::scenario::{Profile, Scenario};

const SEEDS: u64 = 20;

fn simulation(criterion: &mut Criterion) {
    let scenarios: Vec<Scenario> =
        (0..SEEDS).map(|seed| Scenario::generate(Profile::Standard, seed)).collect();
    let mut group = criterion.benchmark_group("simulation");
    group.throughput(Throughput::Elements(SEEDS)).sample_size(10);
    group.bench_function("20 seeds of standard, one thread", |bencher| {
        bencher.iter(|| {
            for scenario in &scenarios {
                let outcome = run::run(scenario, None, false);
                assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, simulation);
criterion_main!(benches);
