//! Breakers that an operator forces: what is held is sent nothing, loses nothing, and is whole again
//! once it is released.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::{Invariant, Violation};
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
const HELD_MS: std::ops::Range<u64> = 900..6_000;

/// Ten writes while the first coordinator's breaker for a store is forced open.
fn held(nodes: u16, store: StoreId) -> Scenario {
    let place = Place::Link { from: End::Node(0), to: End::Store(store) };
    let mut scenario = Scenario::still(nodes).fault(Kind::ProcessBreakerForced, place, HELD_MS, 0);
    for n in 0..10 {
        scenario = scenario.then(1_000 + n * 20, 0, &format!("k{n}"), PUT);
    }
    scenario
}

/// What landed in a store while it was held, and when the last did.
fn landed(outcome: &Outcome, store: StoreId) -> (usize, u64) {
    let wrote = |kind: &str| kind == "landed" || kind == "row";
    let all = outcome.events.iter().filter(|e| e.lane == End::Store(store) && wrote(e.kind));
    let at_ms: Vec<u64> = all.map(|event| event.at_us / 1_000).collect();
    let during = at_ms.iter().filter(|at| HELD_MS.contains(at)).count();
    (during, at_ms.into_iter().max().unwrap_or(0))
}

#[test]
fn a_store_that_is_held_is_sent_nothing_and_gets_everything_once_it_is_released() {
    for store in StoreId::ALL {
        let outcome = run::run(&held(1, store), None, true);
        assert_eq!(outcome.violations, [], "{store}");
        assert_eq!(
            outcome.acknowledged,
            10 + 1,
            "{store}: writes are taken, and a fresh one after"
        );
        assert_eq!(outcome.faults[&Kind::ProcessBreakerForced].felt, 2);
        let (during, last_ms) = landed(&outcome, store);
        assert_eq!(during, 0, "{store}");
        assert!((6_000..8_000).contains(&last_ms), "{store}: {last_ms}");
    }
}

/// Every coordinator has breakers of its own: what one holds back, another brings.
#[test]
fn another_coordinator_takes_over_what_one_is_held_from() {
    let outcome = run::run(&held(2, StoreId::Kv), None, true);
    assert_eq!(outcome.violations, []);
    let (during, _) = landed(&outcome, StoreId::Kv);
    assert!(during >= 10, "{during}");
}

/// The process dies while D1 is held, and its next life sends nothing either: the journal keeps it.
#[test]
fn what_is_forced_stays_so_over_a_restart() {
    let crash = Place::Call { node: 0, call: Call::KvGet, ordinal: 1, moment: Moment::Before };
    let scenario = held(1, StoreId::D1).then(1_500, 0, "x", Act::ReadAny).fault(
        Kind::ProcessCrash,
        crash,
        1_400..6_000,
        100,
    );
    let outcome = run::run(&scenario, None, true);
    assert_eq!(outcome.violations, []);
    assert_eq!(landed(&outcome, StoreId::D1).0, 0);
    let forgetful = run::run(&scenario, Some(Double::JournalForgets), false);
    let forgot = |v: &&Violation| v.message.contains("was to be kept as Some(Open)");
    assert!(forgetful.violations.iter().any(|v| forgot(&v)), "{:?}", forgetful.violations);
}

#[test]
fn breaker_live_fires_when_a_store_that_is_held_is_sent_something() {
    let scenario = held(1, StoreId::Kv);
    let wrong = run::run(&scenario, Some(Double::OperatorUnheard), false);
    let fired: Vec<_> = wrong.violations.iter().map(|v| v.invariant).collect();
    assert!(fired.contains(&Invariant::BreakerLive), "{:?}", wrong.violations);
}
