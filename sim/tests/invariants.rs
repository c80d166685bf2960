//! The checker notices: each invariant fires when a part of the world is deliberately wrong, and
//! only then. A scenario is held twice, without its double and with it.
#![cfg(madsim)]

mod stories;

use stories::stale_at_the_other_coordinator;
use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::Invariant;
use tidelock_sim::double::Double;
use tidelock_sim::run;
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };

/// The invariant fires with the double, and nothing does without it.
fn check(scenario: &Scenario, double: Double, expected: Invariant) {
    let honest = run::run(scenario, None, false);
    assert_eq!(honest.violations, [], "the same scenario, with nothing wrong");
    let wrong = run::run(scenario, Some(double), false);
    let fired: Vec<_> = wrong.violations.iter().map(|v| v.invariant).collect();
    assert!(fired.contains(&expected), "{double:?}: {:?}", wrong.violations);
}

fn call(node: u16, call: Call, ordinal: u32, moment: Moment) -> Place {
    Place::Call { node, call, ordinal, moment }
}

fn cut(node: u16, store: StoreId) -> Place {
    Place::Link { from: End::Node(node), to: End::Store(store) }
}

/// Two coordinators write one record before either hears of the other.
fn concurrent_writes() -> Scenario {
    Scenario::still(2).then(1_000, 0, "k", PUT).then(1_000, 1, "k", PUT)
}

/// A coordinator acknowledges a write that the authority does not have, and dies.
fn acknowledged_then_crashed() -> Scenario {
    Scenario::still(1)
        .then(1_000, 0, "a", PUT)
        .then(1_010, 0, "b", PUT)
        .then(1_020, 0, "c", PUT)
        .fault(Kind::NetPartition, cut(0, StoreId::D1), 900..8_000, 0)
        .fault(Kind::ProcessCrash, call(0, Call::D1Poll, 1, Moment::Before), 4_500..8_000, 100)
}

/// The first coordinator's put is on its way for long, while the second writes over it.
fn put_overtaken(late_ms: u64) -> Scenario {
    let late = call(0, Call::KvWrite, 1, Moment::Before);
    Scenario::still(2).then(1_000, 0, "k", PUT).then(2_000, 1, "k", PUT).fault(
        Kind::NetLateArrival,
        late,
        900..3_000,
        late_ms,
    )
}

#[test]
fn zero_loss_fires_when_the_authority_keeps_no_losers() {
    check(&concurrent_writes(), Double::D1DropsLosers, Invariant::ZeroLoss);
}

#[test]
fn zero_loss_fires_when_the_journal_forgets() {
    check(&acknowledged_then_crashed(), Double::JournalForgets, Invariant::ZeroLoss);
}

#[test]
fn zero_loss_fires_when_the_journal_answers_before_the_disk_has_it() {
    check(&acknowledged_then_crashed(), Double::JournalAnswersEarly, Invariant::ZeroLoss);
}

#[test]
fn zero_loss_fires_when_a_row_refers_to_bytes_that_were_never_stored() {
    let large = Act::Put { bytes: 600 };
    let scenario = Scenario::still(1).then(1_000, 0, "k", large);
    check(&scenario, Double::R2DropsBlobs, Invariant::ZeroLoss);
}

#[test]
fn zero_loss_fires_when_a_foreign_write_is_passed_over() {
    let late = call(0, Call::D1Batch, 1, Moment::Before);
    let scenario = Scenario::still(1)
        .then(1_000, 0, "k", PUT)
        .then(3_000, 0, "k", PUT)
        .then(3_700, 0, "k", Act::Foreign { bytes: 20 })
        .fault(Kind::NetLateArrival, late, 2_900..4_000, 1_500);
    check(&scenario, Double::D1IgnoresRowSeq, Invariant::ZeroLoss);
}

#[test]
fn no_phantom_fires_when_a_refused_write_was_applied() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT).then(
        3_000,
        0,
        "k",
        Act::PutIfUnchanged { bytes: 20 },
    );
    check(&scenario, Double::D1RefusesAndApplies, Invariant::NoPhantom);
}

#[test]
fn convergence_fires_when_a_store_drops_what_it_says_it_applied() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT);
    check(&scenario, Double::KvDropsPuts, Invariant::Convergence);
}

#[test]
fn convergence_fires_when_nothing_is_marked_as_owed_and_its_debtor_dies() {
    let crash = call(0, Call::KvWrite, 1, Moment::Before);
    let scenario = Scenario::still(2).then(1_000, 0, "k", PUT).fault(
        Kind::ProcessCrash,
        crash,
        900..3_000,
        500,
    );
    check(&scenario, Double::D1MarksNothing, Invariant::Convergence);
}

#[test]
fn unique_dots_fires_when_a_restart_keeps_its_incarnation() {
    let crash = call(0, Call::D1Poll, 1, Moment::Before);
    let scenario = Scenario::still(1).then(1_000, 0, "a", PUT).then(5_000, 0, "b", PUT).fault(
        Kind::ProcessCrash,
        crash,
        3_000..4_000,
        100,
    );
    check(&scenario, Double::SameIncarnation, Invariant::UniqueDots);
}

#[test]
fn monotonic_repair_fires_when_a_put_is_taken_after_its_lease() {
    check(&put_overtaken(6_000), Double::DeadlinesIgnored, Invariant::MonotonicRepair);
}

#[test]
fn monotonic_repair_fires_when_a_mark_is_cleared_under_anothers_lease() {
    check(&put_overtaken(1_900), Double::D1ClearsAlways, Invariant::MonotonicRepair);
}

#[test]
fn monotonic_repair_fires_when_an_older_lease_is_forgotten() {
    check(&put_overtaken(1_900), Double::D1ForgetsOlderLeases, Invariant::MonotonicRepair);
}

#[test]
fn monotonic_repair_fires_when_the_authority_replaces_what_it_was_not_told_of() {
    check(&concurrent_writes(), Double::D1InstallsBlindly, Invariant::MonotonicRepair);
}

#[test]
fn recovery_fires_when_the_stores_take_ten_seconds_more() {
    let scenario = Scenario::still(2).then(1_000, 0, "k", PUT).fault(
        Kind::NetPartition,
        cut(0, StoreId::Kv),
        900..2_000,
        0,
    );
    check(&scenario, Double::SlowToHeal, Invariant::Recovery);
}

#[test]
fn session_fires_when_what_a_session_has_seen_is_forgotten() {
    check(&stale_at_the_other_coordinator(), Double::TokensForgotten, Invariant::Session);
}

#[test]
fn causality_fires_when_a_concurrent_loser_is_dropped() {
    check(&concurrent_writes(), Double::D1DropsLosers, Invariant::Causality);
}

#[test]
fn causality_fires_when_a_version_is_shown_without_what_its_writer_had_seen() {
    let scenario = Scenario::still(2).then(1_000, 0, "k", PUT).then(3_000, 1, "k", PUT);
    check(&scenario, Double::D1ForgetsHistory, Invariant::Causality);
}

#[test]
fn causality_fires_when_a_read_includes_what_no_journal_had() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT).then(3_000, 0, "k", Act::ReadLatest);
    check(&scenario, Double::ReadsClaimMore, Invariant::Causality);
}

#[test]
fn no_corruption_fires_when_a_store_keeps_other_bytes_than_were_put() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT);
    check(&scenario, Double::KvDamagesBytes, Invariant::NoCorruption);
}

#[test]
fn no_corruption_fires_when_damaged_bytes_are_served() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT).then(3_000, 0, "k", Act::ReadLatest);
    check(&scenario, Double::ReadsDamaged, Invariant::NoCorruption);
}

/// A sends w0, hears nothing, sends it again and is answered; w0 is deleted; the first one lands.
#[test]
fn no_resurrection_fires_when_an_install_lands_over_a_delete() {
    let late = call(0, Call::D1Batch, 1, Moment::Before);
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT).then(6_000, 0, "k", Act::Delete);
    let scenario = scenario.fault(Kind::NetLateArrival, late, 900..5_000, 8_000);
    check(&scenario, Double::D1InstallsBlindly, Invariant::NoResurrection);
}

#[test]
fn idempotent_replay_fires_when_a_journal_gives_its_intents_other_names() {
    let scenario = Scenario::still(1).then(1_000, 0, "k", PUT);
    check(&scenario, Double::ReplayRenames, Invariant::IdempotentReplay);
}

#[test]
fn bounded_queue_fires_when_what_a_store_refuses_is_not_said() {
    let poison = |store| {
        let place = Place::Store(store);
        Scenario::still(1).then(1_000, 0, "k", PUT).fault(
            Kind::LoadPoisonRecord,
            place,
            900..2_000,
            0,
        )
    };
    for store in StoreId::ALL {
        check(&poison(store), Double::DeadLettersHidden, Invariant::BoundedQueue);
    }
}

#[test]
fn bounded_queue_fires_when_more_is_taken_in_than_may_be_held() {
    let mut scenario =
        Scenario::still(1).fault(Kind::NetPartition, cut(0, StoreId::D1), 900..6_000, 0);
    for n in 0..6 {
        scenario = scenario.then(1_000 + n * 10, 0, &format!("k{n}"), PUT);
    }
    scenario.intents_max = Some(3);
    check(&scenario, Double::QueuesUnbounded, Invariant::BoundedQueue);
}

#[test]
fn bounded_queue_fires_when_more_of_a_dataset_is_taken_in_than_its_queue_may_hold() {
    let mut scenario =
        Scenario::still(1).fault(Kind::NetPartition, cut(0, StoreId::D1), 900..6_000, 0);
    for n in 0..6 {
        scenario = scenario.then(1_000 + n * 10, 0, &format!("k{n}"), PUT);
    }
    scenario.datasets[0].queue_records = Some(3);
    check(&scenario, Double::QueuesUnbounded, Invariant::BoundedQueue);
}

#[test]
fn breaker_live_fires_when_a_breaker_never_closes() {
    let mut scenario =
        Scenario::still(1).fault(Kind::KvErrorBefore, Place::Store(StoreId::Kv), 900..4_000, 0);
    for n in 0..6 {
        scenario = scenario.then(1_000 + n * 10, 0, &format!("k{n}"), PUT);
    }
    check(&scenario, Double::ProbesUnanswered, Invariant::BreakerLive);
}
