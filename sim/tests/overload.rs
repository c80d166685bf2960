//! A store that is short of breath, or has only just come back, is not crushed by what it is owed.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{End, Kind, Place};
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
const HEALED_MS: u64 = 6_000;

/// When each such event was, in milliseconds, from the healing on.
fn at_ms(outcome: &Outcome, lane: End, kind: &str, text: &str) -> Vec<u64> {
    let of = |e: &&tidelock_sim::trace::Event| {
        e.lane == lane && e.kind == kind && e.text.starts_with(text)
    };
    let all = outcome.events.iter().filter(of).map(|event| event.at_us / 1_000);
    all.filter(|at| *at >= HEALED_MS).collect()
}

/// Twenty copies are owed to KV, which does not answer for five seconds.
#[test]
fn a_store_that_comes_back_is_sent_one_put_before_it_is_sent_more() {
    let kv = Place::Store(StoreId::Kv);
    let mut scenario = Scenario::still(1).fault(Kind::KvErrorBefore, kv, 900..HEALED_MS, 0);
    for n in 0..20 {
        scenario = scenario.then(1_000 + n * 20, 0, &format!("k{n}"), PUT);
    }
    let outcome = run::run(&scenario, None, true);
    assert_eq!(outcome.violations, []);
    let landed = at_ms(&outcome, End::Store(StoreId::Kv), "landed", "");
    let answered = at_ms(&outcome, End::Store(StoreId::Kv), "answer", "KvWrite");
    let before_the_first_answer = landed.iter().filter(|at| **at <= answered[0]).count();
    assert_eq!(before_the_first_answer, 1, "{landed:?} {answered:?}");
    let before_the_fourth = landed.iter().filter(|at| **at <= answered[3]).count();
    assert!(before_the_fourth > 4, "then more at once: {landed:?} {answered:?}");
    assert!(landed[19] < HEALED_MS + 2_500, "and all of it soon: {landed:?}");
}
