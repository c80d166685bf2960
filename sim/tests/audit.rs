//! Audit logs: the shortest stories in which a coordinator's log could lose a conflict, or have one
//! twice.
#![cfg(madsim)]

use std::ops::Range;
use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::{Invariant, Law};
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
/// With what the session has read, which is nothing: it stands beside whatever is there.
const BESIDE: Act = Act::PutWithContext { bytes: 20 };

/// So many coordinators over the same stores, each with its log, and a conflict at each of these times.
fn conflicts(nodes: u16, times_ms: &[u64]) -> Scenario {
    let mut scenario = Scenario::still(nodes).under(Law::KeepSiblings).then(500, 0, "k", PUT);
    scenario.audited = true;
    for at_ms in times_ms {
        // The last coordinator's: faults befall the first.
        scenario = scenario.then(*at_ms, nodes - 1, "k", BESIDE);
    }
    scenario
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    let lines: Vec<String> = outcome.events.iter().map(Event::to_string).collect();
    assert_eq!(outcome.violations, [], "{}", lines.join("\n"));
    outcome
}

/// When the first coordinator's appends became durable, in milliseconds.
fn logged(outcome: &Outcome) -> Vec<u64> {
    let logged = |event: &&Event| event.lane == End::Node(0) && event.kind == "logged";
    outcome.events.iter().filter(logged).map(|event| event.at_us / 1_000).collect()
}

fn within(outcome: &Outcome, during_ms: Range<u64>) -> usize {
    logged(outcome).into_iter().filter(|at_ms| during_ms.contains(at_ms)).count()
}

#[test]
fn audit_each_log_has_what_any_coordinator_settled() {
    let outcome = clean(&conflicts(2, &[1_000, 1_500, 2_000, 2_500, 3_000, 3_500, 4_000]));
    assert!(outcome.conflicts >= 4, "{}", outcome.conflicts);
    // Two logs, each: that it verifies, that it is complete, and each conflict.
    let held = outcome.checked[&Invariant::AuditComplete];
    assert!(held >= 2 * (2 + outcome.conflicts), "{held}");
    assert!(logged(&outcome).len() > 2, "it is followed while it grows");
}

#[test]
fn audit_fires_when_a_log_drops_what_it_calls_durable() {
    let wrong =
        run::run(&conflicts(2, &[1_000, 2_000, 3_000]), Some(Double::LogDropsAppends), false);
    let fired: Vec<_> = wrong.violations.iter().map(|v| v.invariant).collect();
    assert!(fired.contains(&Invariant::AuditComplete), "{:?}", wrong.violations);
}

#[test]
fn audit_what_a_full_disk_did_not_take_is_appended_once_there_is_room() {
    let full = |during_ms| {
        conflicts(2, &[1_000, 1_200, 2_000, 3_000, 4_000]).fault(
            Kind::DiskFull,
            Place::Disk(0),
            during_ms,
            0,
        )
    };
    let outcome = clean(&full(1_100..4_900));
    assert!(outcome.sometimes.contains("a-full-disk-took-no-audit-entry"));
    assert_eq!(within(&outcome, 1_100..4_900), 0);
    assert!(within(&outcome, 4_900..10_000) > 0);
    // From the first entry on.
    clean(&full(0..4_900));
}

#[test]
fn audit_after_a_failed_sync_the_log_goes_on_behind_what_was_durable() {
    let mut met = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let mut scenario = conflicts(2, &[1_000, 1_200, 1_400, 2_000, 3_000, 4_000]).fault(
            Kind::DiskFsyncError,
            Place::Disk(0),
            1_100..3_500,
            0,
        );
        scenario.seed = seed;
        let outcome = clean(&scenario);
        assert!(outcome.sometimes.contains("an-append-to-an-audit-log-failed"), "{seed}");
        met.extend(outcome.sometimes);
    }
    assert!(met.contains("what-a-failed-append-left-was-cut-off-an-audit-log"));
}

#[test]
fn audit_a_start_goes_on_behind_the_logs_own_last_conflict() {
    let down = Place::Call { node: 0, call: Call::D1Poll, ordinal: 1, moment: Moment::Before };
    let scenario = conflicts(2, &[1_000, 1_200, 3_200, 3_400, 3_600, 7_000]);
    let scenario = scenario.fault(Kind::ProcessCrash, down, 2_500..4_000, 2_000);
    let outcome = clean(&scenario);
    assert!(within(&outcome, 0..2_500) >= 2, "some were logged before");
    assert!(within(&outcome, 4_500..7_000) >= 1, "some at its return");
}

/// The sites are cut apart, so that one install keeps several values; the append that tells of them is
/// the last thing that its process does.
#[test]
fn audit_an_append_that_a_crash_tears_is_completed_and_doubles_nothing() {
    let mut met = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let mut scenario = Scenario::still(2).under(Law::KeepSiblings);
        (scenario.sites, scenario.audited, scenario.seed) = (2, true, seed);
        scenario.length_ms = 14_000;
        for (from, to) in [(0, 1), (1, 0)] {
            let place = Place::Link { from: End::Node(from), to: End::Node(to) };
            scenario = scenario.fault(Kind::NetPartition, place, 900..3_000, 0);
        }
        for n in 0..9 {
            scenario = scenario.then(1_000 + n * 150, 1, "k", BESIDE);
        }
        scenario = scenario.then(1_000, 0, "k", BESIDE);
        let ordinal = 1 + (seed % 3) as u32;
        let append =
            Place::Call { node: 0, call: Call::AuditAppend, ordinal, moment: Moment::Before };
        scenario = scenario.fault(Kind::ProcessCrash, append, 2_900..8_000, 300);
        let outcome = clean(&scenario);
        assert!(outcome.conflicts >= 8, "{}", outcome.conflicts);
        met.extend(outcome.sometimes);
    }
    for situation in [
        "crash-during-an-append-lost-the-entries",
        "crash-during-an-append-kept-the-entries",
        "crash-during-an-append-tore-it",
        "an-audit-log-ended-in-a-torn-entry",
    ] {
        assert!(met.contains(situation), "{situation}");
    }
}

#[test]
fn audit_conflicts_wait_at_an_authority_that_is_away() {
    let away = Place::Link { from: End::Node(0), to: End::Store(StoreId::D1) };
    let scenario = conflicts(2, &[1_000, 2_000, 2_500, 3_000]);
    let outcome = clean(&scenario.fault(Kind::NetPartition, away, 1_500..6_000, 0));
    assert_eq!(within(&outcome, 2_600..6_000), 0);
    assert!(within(&outcome, 6_000..12_000) > 0);
}

/// D1 fails now and then, so that of the questions after one another some have no answer. That a conflict is not
/// there is what an answer says, and no log says that D1 was set back.
#[test]
fn audit_a_question_without_an_answer_is_not_one_that_finds_nothing() {
    for seed in 0..12 {
        let mut scenario = conflicts(2, &[1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000]).fault(
            Kind::D1ErrorBefore,
            Place::Store(StoreId::D1),
            1_500..9_000,
            0,
        );
        scenario.faults[0].permille = 300;
        scenario.seed = seed;
        assert!(clean(&scenario).faults[&Kind::D1ErrorBefore].felt > 3);
    }
}

/// A disk that was lost, and one that came back from a backup: the log begins anew, or goes on from what
/// it had then, and has all of it in the end.
#[test]
fn audit_a_log_on_another_disk_gets_everything_that_it_lacks() {
    for kind in [Kind::DiskLost, Kind::DiskRestored] {
        let scenario = conflicts(2, &[1_000, 2_000, 3_500, 4_500, 7_000]);
        let outcome = clean(&scenario.fault(kind, Place::Disk(0), 2_900..5_500, 300));
        assert_eq!(outcome.faults[&kind].felt, 1);
    }
}

#[test]
fn audit_a_member_that_joins_late_begins_with_the_first_conflict() {
    let scenario = conflicts(2, &[1_000, 2_000, 3_000]);
    let mut scenario = scenario.fault(Kind::ProcessMemberAdded, Place::Node(0), 4_000..5_000, 0);
    // Before that there is only the other.
    scenario.operations.retain(|operation| operation.node == 1);
    let outcome = clean(&scenario);
    assert_eq!(within(&outcome, 0..4_000), 0);
    assert!(within(&outcome, 4_000..12_000) > 0);
}
