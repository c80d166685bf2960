//! Shrinking finds the few operations and faults that a failure needs, and nothing else.
#![cfg(madsim)]

use tidelock_sim::checker::Invariant;
use tidelock_sim::double::Double;
use tidelock_sim::run;
use tidelock_sim::scenario::{Profile, Scenario};
use tidelock_sim::shrink::{Shrunk, shrink};

const RUNS_MAX: u64 = 2_000;

/// The first seed of `standard` that fails in a world with this part wrong, shrunk.
fn shrunk(double: Double) -> (Scenario, Shrunk) {
    let scenarios = (0..100).map(|seed| Scenario::generate(Profile::Standard, seed));
    for scenario in scenarios {
        if let Some(shrunk) = shrink(&scenario, Some(double), RUNS_MAX, &|_, _| {}) {
            return (scenario, shrunk);
        }
    }
    panic!("no seed fails with {double:?}");
}

/// No operation and no fault of a shrunk scenario can be left out.
fn check_smallest(shrunk: &Shrunk, double: Double) {
    assert!(shrunk.complete, "{} runs were not enough", shrunk.runs);
    let still_fails = |smaller: &Scenario| {
        let violations = run::run(smaller, Some(double), false).violations;
        violations.iter().any(|violation| violation.invariant == shrunk.violation.invariant)
    };
    assert!(still_fails(&shrunk.scenario), "what is returned fails alike");
    for at in 0..shrunk.scenario.operations.len() {
        let mut smaller = shrunk.scenario.clone();
        let left_out = smaller.operations.remove(at);
        assert!(!still_fails(&smaller), "{left_out:?} is not needed");
    }
    for at in 0..shrunk.scenario.faults.len() {
        let mut smaller = shrunk.scenario.clone();
        let left_out = smaller.faults.remove(at);
        assert!(!still_fails(&smaller), "{left_out:?} is not needed");
    }
}

#[test]
fn a_lost_loser_needs_two_writes() {
    let (whole, shrunk) = shrunk(Double::D1DropsLosers);
    assert_eq!(shrunk.violation.invariant, Invariant::Causality);
    check_smallest(&shrunk, Double::D1DropsLosers);
    assert!(whole.operations.len() > 100 && !whole.faults.is_empty());
    let (operations, faults) = (shrunk.scenario.operations.len(), shrunk.scenario.faults.len());
    assert!(operations <= 4 && faults <= 1, "{operations} operations, {faults} faults");
}

#[test]
fn a_dropped_put_needs_one_write_and_one_coordinator() {
    let (_, shrunk) = shrunk(Double::KvDropsPuts);
    check_smallest(&shrunk, Double::KvDropsPuts);
    assert_eq!(shrunk.scenario.nodes, 1);
    assert!(shrunk.scenario.operations.len() <= 1 && shrunk.scenario.faults.is_empty());
}

#[test]
fn what_fails_not_is_not_shrunk() {
    let scenario = Scenario::generate(Profile::Quick, 1);
    assert!(shrink(&scenario, None, RUNS_MAX, &|_, _| {}).is_none());
}
