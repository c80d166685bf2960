//! The simulated world is one in which a clean result means something: enough happens, what goes
//! wrong is felt, and what must go on goes on.
#![cfg(madsim)]

use std::sync::OnceLock;
use tidelock_engine::record::StoreId;
use tidelock_engine::row::LEASE_MS;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_reports::Campaign;
use tidelock_sim::campaign::{self, Plan};
use tidelock_sim::run;
use tidelock_sim::scenario::{Profile, Scenario};
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const SEEDS: u64 = 300;

/// One campaign for all the questions below.
fn standard() -> &'static Campaign {
    static RESULT: OnceLock<Campaign> = OnceLock::new();
    RESULT.get_or_init(|| {
        let plan = Plan {
            profile: Profile::Standard,
            seeds: 0..SEEDS,
            jobs: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            only: Vec::new(),
            without: Vec::new(),
            shard: (0, 1),
            time_limit: None,
        };
        campaign::run(&plan, &|_, _| {})
    })
}

#[test]
fn enough_happens_in_a_seed() {
    let result = standard();
    assert_eq!(result.seeds, SEEDS);
    let acknowledged = result.acked_writes / SEEDS;
    assert!(acknowledged >= 120, "{acknowledged} acknowledged writes a seed");
    let delivered = result.delivered_messages / SEEDS;
    assert!(delivered >= 3_000, "{delivered} delivered messages a seed");
    let virtual_seconds = result.virtual_seconds / SEEDS as f64;
    assert!(virtual_seconds >= 60.0, "{virtual_seconds} s a seed");
}

#[test]
fn nothing_is_broken_and_recovery_takes_five_seconds_at_most() {
    let result = standard();
    let broken: Vec<_> = result
        .violations
        .iter()
        .map(|v| format!("{}: {}: {}", v.repro, v.invariant, v.message))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(result.recovery_ms.max <= 5_000, "{} ms", result.recovery_ms.max);
}

#[test]
fn every_kind_of_fault_is_felt() {
    let result = standard();
    for kind in Kind::ALL {
        let count = result.faults.get(kind.name());
        assert!(count.is_some_and(|count| count.felt > 0), "{kind} was never felt: {count:?}");
    }
}

#[test]
fn few_acknowledged_writes_are_excused() {
    let result = standard();
    let (excused, acknowledged) = (result.excused_writes, result.acked_writes);
    assert!(excused * 1_000 <= acknowledged, "{excused} of {acknowledged}");
}

#[test]
fn every_situation_is_reached() {
    let unreached: Vec<_> =
        standard().sometimes.iter().filter(|(_, n)| **n == 0).map(|(name, _)| name).collect();
    assert!(unreached.is_empty(), "never: {unreached:?}");
}

#[test]
fn nothing_is_refused_while_one_optional_store_is_away_for_a_minute() {
    for store in [StoreId::Kv, StoreId::R2] {
        for seed in 0..5 {
            let mut scenario = Scenario::generate(Profile::Standard, seed);
            scenario.faults.clear();
            // Conditional writes may be refused on their merits, and a value too large for the
            // row needs R2.
            scenario.operations.retain(|operation| match operation.act {
                tidelock_sim::workload::Act::PutIfUnchanged { .. } => false,
                tidelock_sim::workload::Act::Put { bytes }
                | tidelock_sim::workload::Act::PutWithContext { bytes } => bytes <= 512,
                _ => true,
            });
            for node in 0..scenario.nodes {
                let place = Place::Link { from: End::Node(node), to: End::Store(store) };
                scenario = scenario.fault(Kind::NetPartition, place, 1_000..61_000, 0);
            }
            let outcome = run::run(&scenario, None, false);
            assert_eq!(outcome.violations, [], "{store} away, standard:{seed}");
            assert_eq!(outcome.refused, 0, "{store} away, standard:{seed}");
            assert!(outcome.acknowledged >= 100, "{store} away, standard:{seed}");
        }
    }
}

/// With nothing wrong, D1 takes two transactions for a write: one that installs it, and one that
/// clears the marks of both projections.
#[test]
fn a_write_costs_the_authority_two_transactions() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", Act::Put { bytes: 20 });
    let outcome = run::run(&scenario, None, true);
    assert_eq!(outcome.violations, []);
    // The run's own writes, which time recovery, are over before this one begins.
    let during_us = 1_000_000..3_000_000;
    let batches = outcome.events.iter().filter(|event| {
        event.kind == "answer" && event.text == "D1Batch" && during_us.contains(&event.at_us)
    });
    assert_eq!(batches.count(), 2);
}

/// A coordinator installs and dies; the other finds the mark when it lapses, not up to a second
/// later.
#[test]
fn a_mark_is_taken_over_soon_after_it_lapses() {
    for seed in 0..10 {
        let crash =
            Place::Call { node: 0, call: Call::KvWrite, ordinal: 1, moment: Moment::Before };
        let mut scenario = Scenario::still(2)
            .then(1_000 + seed * 97, 0, "k", Act::Put { bytes: 20 })
            .fault(Kind::ProcessCrash, crash, 900..3_000, 10_000);
        scenario.seed = seed;
        scenario.length_ms = 20_000;
        let outcome = run::run(&scenario, None, true);
        assert_eq!(outcome.violations, []);
        let at = |store, kind| {
            let here = |event: &&Event| {
                event.lane == End::Store(store)
                    && event.kind == kind
                    && event.text.starts_with("notes/k")
            };
            outcome.events.iter().find(here).expect("it happens").at_us / 1_000
        };
        let lapsed_ms = at(StoreId::D1, "row") + LEASE_MS;
        // A poll may be 250 ms late, lest all come at once; then it, a claim and a put travel.
        let late_ms = at(StoreId::Kv, "landed") - lapsed_ms;
        assert!(late_ms < 700, "seed {seed}: {late_ms} ms after the lease");
    }
}
