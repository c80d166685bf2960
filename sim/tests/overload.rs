//! A store that is short of breath, or has only just come back, is not crushed by what it is owed.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{End, Kind, Place};
use tidelock_sim::checker::Told;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::{Kept, Scenario};
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

/// How long a put and its answer take is the seed's: what holds of all worlds is held to each, and how
/// much more is sent at once to all together.
const SEEDS: u64 = 20;

/// Twenty copies are owed to KV, which does not answer for five seconds.
#[test]
fn a_store_that_comes_back_is_sent_one_put_before_it_is_sent_more() {
    let kv = Place::Store(StoreId::Kv);
    let mut scenario = Scenario::still(1).fault(Kind::KvErrorBefore, kv, 900..HEALED_MS, 0);
    for n in 0..20 {
        scenario = scenario.then(1_000 + n * 20, 0, &format!("k{n}"), PUT);
    }
    let mut before_the_fourth = 0;
    for seed in 0..SEEDS {
        scenario.seed = seed;
        let outcome = run::run(&scenario, None, true);
        assert_eq!(outcome.violations, []);
        let landed = at_ms(&outcome, End::Store(StoreId::Kv), "landed", "");
        let answered = at_ms(&outcome, End::Store(StoreId::Kv), "answer", "KvWrite");
        let before_the_first_answer = landed.iter().filter(|at| **at <= answered[0]).count();
        assert_eq!(before_the_first_answer, 1, "{landed:?} {answered:?}");
        before_the_fourth += landed.iter().filter(|at| **at <= answered[3]).count() as u64;
        assert!(landed[19] < HEALED_MS + 2_500, "and all of it soon: {landed:?}");
    }
    assert!(before_the_fourth > 4 * SEEDS, "then more at once: {before_the_fourth}");
}

/// Twenty writes wait for D1: what it is sent first is one transaction with several of them, and
/// neither one for each nor two at once.
#[test]
fn a_d1_that_comes_back_is_sent_fewer_batches_and_not_smaller_ones() {
    let d1 = Place::Store(StoreId::D1);
    let mut scenario = Scenario::still(1).fault(Kind::D1ErrorBefore, d1, 900..HEALED_MS, 0);
    for n in 0..20 {
        scenario = scenario.then(1_000 + n * 20, 0, &format!("k{n}"), PUT);
    }
    let outcome = run::run(&scenario, None, true);
    assert_eq!(outcome.violations, []);
    let rows = at_ms(&outcome, End::Store(StoreId::D1), "row", "notes/");
    let in_the_first = rows.iter().filter(|at| **at == rows[0]).count();
    assert!(in_the_first > 1, "{rows:?}");
}

/// Sixteen writes while a store does not answer: ten for which its breaker opens, and six later. Gives
/// how many were acknowledged, and refused.
fn while_away(store: StoreId, bound: impl FnOnce(&mut Kept)) -> (usize, usize) {
    let link = Place::Link { from: End::Node(0), to: End::Store(store) };
    let mut scenario = Scenario::still(1).fault(Kind::NetPartition, link, 900..12_000, 0);
    for n in 0..16 {
        let at_ms = if n < 10 { 1_000 } else { 8_000 } + n * 20;
        scenario = scenario.then(at_ms, 0, &format!("k{n}"), PUT);
    }
    bound(&mut scenario.datasets[0]);
    scenario.length_ms = 25_000;
    let outcome = run::run(&scenario, None, true);
    assert_eq!(outcome.violations, []);
    let told = |is: fn(&Told) -> bool| {
        outcome.fates.iter().filter(|fate| fate.id < 16 && is(&fate.told)).count()
    };
    (told(|told| matches!(told, Told::Acknowledged(_))), told(|told| *told == Told::Refused))
}

#[test]
fn a_dataset_absorbs_what_its_queue_has_room_for_and_refuses_the_rest() {
    for store in [StoreId::D1, StoreId::Kv, StoreId::R2] {
        assert_eq!(while_away(store, |_| {}), (16, 0), "{store}");
        assert_eq!(while_away(store, |notes| notes.queue_records = Some(12)), (12, 4), "{store}");
    }
}

#[test]
fn a_dataset_that_promises_refuses_what_a_store_that_is_away_would_not_have_in_time() {
    for store in [StoreId::Kv, StoreId::R2] {
        let (acknowledged, refused) = while_away(store, |notes| notes.promises = true);
        assert!((1..=10).contains(&acknowledged), "until its breaker opened: {acknowledged}");
        assert_eq!(acknowledged + refused, 16, "{store}");
    }
}
