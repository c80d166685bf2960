//! Coordinators that join and that are retired while the others run: nobody waits for one that is
//! gone, and nothing that it had acknowledged goes with it.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::{Fate, Invariant, Told};
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };

fn added(scenario: Scenario, node: u16, at_ms: u64) -> Scenario {
    scenario.fault(Kind::ProcessMemberAdded, Place::Node(node), at_ms..at_ms + 1_000, 0)
}

fn retired(scenario: Scenario, node: u16, during_ms: std::ops::Range<u64>) -> Scenario {
    scenario.fault(Kind::ProcessMemberRemoved, Place::Node(node), during_ms, 500)
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    let lines: Vec<String> = outcome.events.iter().map(ToString::to_string).collect();
    assert_eq!(outcome.violations, [], "{}", lines.join("\n"));
    outcome
}

fn told(outcome: &Outcome, id: u32) -> Told {
    outcome.fates.iter().find(|write| write.id == id).expect("it was asked for").told
}

fn happened(outcome: &Outcome, kind: &str) -> Vec<u64> {
    let here = outcome.events.iter().filter(|event| event.kind == kind);
    here.map(|event| event.at_us / 1_000).collect()
}

fn cut(node: u16, store: StoreId) -> Place {
    Place::Link { from: End::Node(node), to: End::Store(store) }
}

/// It takes writes as soon as it is there, and hears of others' by their news once they know it.
#[test]
fn one_that_joins_takes_writes_and_is_told_of_others() {
    let scenario = added(Scenario::still(2), 1, 3_000)
        .then(1_000, 0, "before", PUT)
        .then(3_500, 1, "own", PUT)
        .then(6_000, 0, "after", PUT);
    let outcome = clean(&scenario);
    assert_eq!(happened(&outcome, "joins"), [3_000]);
    let Told::Acknowledged(dot) = told(&outcome, 1) else { panic!("{:?}", told(&outcome, 1)) };
    assert_eq!(dot.actor.node.0, 1);
    let news = outcome.events.iter().any(|event| {
        event.lane == End::Node(0) && event.kind == "news" && event.to == Some(End::Node(1))
    });
    assert!(news, "its peer has it on its list");
}

/// A's write waits for D1 in its journal alone when it is asked to leave.
#[test]
fn one_that_is_retired_leaves_only_when_the_authority_has_its_writes() {
    let scenario = retired(Scenario::still(2).then(1_000, 1, "k", PUT), 1, 2_000..12_000).fault(
        Kind::NetPartition,
        cut(1, StoreId::D1),
        900..6_000,
        0,
    );
    let outcome = clean(&scenario);
    assert!(matches!(told(&outcome, 0), Told::Acknowledged(_)));
    let [at_ms] = happened(&outcome, "retired")[..] else { panic!("it was retired") };
    assert!(at_ms >= 6_000, "at {at_ms} ms");
    assert_eq!(outcome.fates.iter().find(|w| w.id == 0).unwrap().fate, Some(Fate::Current));
    assert_eq!(outcome.excused, 0);
    // The same without the question: what its journal alone held goes with its disk.
    let wrong = run::run(&scenario, Some(Double::MembersNeverAsked), false);
    let fired = wrong.violations.iter().any(|v| v.invariant == Invariant::ZeroLoss);
    assert!(fired, "{:?}", wrong.violations);
}

/// It is asked for its leave and cannot have it: it stays, and takes writes again.
#[test]
fn one_that_cannot_leave_stays() {
    let scenario = retired(Scenario::still(2).then(1_000, 1, "k", PUT), 1, 2_000..5_000)
        .fault(Kind::NetPartition, cut(1, StoreId::D1), 900..7_000, 0)
        .then(9_000, 1, "j", PUT);
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("a-retirement-was-called-off"));
    assert!(happened(&outcome, "retired").is_empty());
    let Told::Acknowledged(dot) = told(&outcome, 1) else { panic!("{:?}", told(&outcome, 1)) };
    assert_eq!(dot.actor.node.0, 1);
}

/// KV does not answer A, whose lease is in the row when it is gone: B pays.
#[test]
fn marks_of_one_that_has_left_are_taken_over() {
    let scenario = retired(Scenario::still(2).then(1_000, 1, "k", PUT), 1, 1_500..6_000).fault(
        Kind::NetPartition,
        cut(1, StoreId::Kv),
        900..10_000,
        0,
    );
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("a-retired-member-held-a-mark"));
    let gone_ms = happened(&outcome, "retired")[0];
    let landed = outcome.events.iter().find(|event| {
        event.lane == End::Store(StoreId::Kv) && event.kind == "landed" && event.text == "notes/k"
    });
    let landed_ms = landed.expect("B puts it").at_us / 1_000;
    assert!((gone_ms..gone_ms + 5_000).contains(&landed_ms), "{gone_ms}: at {landed_ms} ms");
}

/// Each looks every third turn while there are three, and every second once one has gone: a loss is
/// found within two turns then.
#[test]
fn those_who_stay_share_the_turns_of_one_that_is_gone() {
    let mut looks = Vec::new();
    for gone in [false, true] {
        let mut scenario = Scenario::still(3).then(1_000, 0, "k", PUT);
        scenario.reconcile_every_ms = Some(5_000);
        scenario.length_ms = 80_000;
        if gone {
            scenario = retired(scenario, 2, 2_000..8_000);
            scenario = retired(scenario, 1, 2_000..8_000);
        }
        let outcome = clean(&scenario);
        let late = outcome.events.iter().filter(|event| {
            event.lane == End::Store(StoreId::R2)
                && event.kind == "answer"
                && event.to == Some(End::Node(0))
                && event.text == "R2Get"
                && event.at_us > 30_000_000
        });
        looks.push(late.count());
    }
    assert!(looks[1] >= looks[0] * 2, "three as many by the one that is left: {looks:?}");
}

/// A site waits with a tombstone for another until it has that; one that is gone says nothing more.
#[test]
fn a_tombstone_goes_once_all_its_writers_have_left_or_said_so() {
    let mut scenario = Scenario::still(2)
        .then(1_000, 1, "k", PUT)
        .then(3_000, 0, "k", Act::Delete)
        .then(4_000, 0, "j", PUT);
    scenario.reconcile_every_ms = Some(60_000);
    scenario.length_ms = 90_000;
    // Nobody looks before it is gone: its last word is what settles its write.
    let outcome = clean(&retired(scenario, 1, 5_000..10_000));
    let reaped = outcome.events.iter().any(|event| event.text == "notes/k is reaped");
    assert!(reaped, "it waits for nobody");
}

/// With `durability = "peer"` a write waits for another's journal; where nobody is left, it is
/// acknowledged as pending, and at once.
#[test]
fn a_write_that_is_to_be_kept_waits_for_nobody_who_is_gone() {
    let mut scenario = Scenario::still(3);
    scenario.datasets[0].peer_keeps = true;
    scenario.length_ms = 20_000;
    let scenario = retired(scenario, 1, 2_000..6_000).then(9_000, 0, "k", PUT);
    let outcome = clean(&scenario);
    let acked = happened(&outcome, "write-acked");
    let acked_ms = acked.iter().find(|at_ms| **at_ms >= 9_000).expect("it was acknowledged");
    assert!(*acked_ms < 9_500, "at {acked_ms} ms");
    assert!(!outcome.sometimes.contains("acknowledged-as-pending"));
}

/// Retired and added again: another incarnation, which knows nothing of the first.
#[test]
fn one_may_come_back_with_an_empty_disk() {
    let scenario = retired(Scenario::still(2).then(1_000, 1, "k", PUT), 1, 2_000..6_000)
        .fault(Kind::ProcessMemberAdded, Place::Node(1), 9_000..10_000, 0)
        .then(10_000, 1, "k", PUT);
    let outcome = clean(&scenario);
    let (first, second) = (told(&outcome, 0), told(&outcome, 1));
    let (Told::Acknowledged(first), Told::Acknowledged(second)) = (first, second) else {
        panic!("{first:?}, {second:?}")
    };
    assert_eq!(first.actor.node, second.actor.node);
    assert_ne!(first.actor.incarnation, second.actor.incarnation);
    assert_eq!(outcome.conflicts, 0, "it knew what it wrote over");
}

/// Its journal is gone, and with it its name for itself; what it acknowledged stands in D1.
#[test]
fn one_that_lost_its_disk_goes_on_under_another_incarnation() {
    let scenario = Scenario::still(2)
        .then(1_000, 1, "k", PUT)
        .fault(Kind::DiskLost, Place::Disk(1), 3_000..5_000, 200)
        .then(6_000, 1, "k", PUT)
        .then(6_500, 0, "k", Act::PutWithContext { bytes: 20 });
    let outcome = clean(&scenario);
    let dots = [told(&outcome, 0), told(&outcome, 1)];
    let [Told::Acknowledged(first), Told::Acknowledged(second)] = dots else { panic!("{dots:?}") };
    assert_eq!(first.actor.node, second.actor.node);
    assert_ne!(first.actor.incarnation, second.actor.incarnation);
    let fate = outcome.fates.iter().find(|write| write.id == 0).expect("asked for").fate;
    assert!(matches!(fate, Some(Fate::Superseded { .. })), "not concurrent with it: {fate:?}");
}

/// A crash while it leaves: the next life knows nothing of the question, and is asked again.
#[test]
fn a_crash_while_leaving_loses_nothing() {
    let crash = Place::Call { node: 1, call: Call::D1Batch, ordinal: 1, moment: Moment::After };
    let scenario = retired(Scenario::still(2).then(1_000, 1, "k", PUT), 1, 2_000..15_000)
        .fault(Kind::NetPartition, cut(1, StoreId::D1), 900..4_000, 0)
        .fault(Kind::ProcessCrash, crash, 4_000..8_000, 1_000);
    let outcome = clean(&scenario);
    assert_eq!(happened(&outcome, "crash").len(), 1);
    assert_eq!(happened(&outcome, "retired").len(), 1);
}

/// B is the last of its site, which A's cannot hear while B's write is only there. It leaves once A's has it, and
/// is missed by nobody: A's site goes on alone.
#[test]
fn the_last_of_a_site_leaves_only_when_the_other_site_has_what_it_has() {
    let apart = Place::Link { from: End::Node(0), to: End::Node(1) };
    let mut scenario = retired(Scenario::still(2), 1, 2_000..14_000)
        .fault(Kind::NetPartition, apart, 900..6_000, 0)
        .then(1_000, 1, "k", PUT)
        .then(1_100, 0, "k", PUT)
        .then(1_200, 1, "gone", Act::Delete)
        .then(15_000, 0, "later", PUT);
    scenario.sites = 2;
    let outcome = clean(&scenario);
    let [at_ms] = happened(&outcome, "retired")[..] else { panic!("it was retired") };
    assert!((6_000..14_000).contains(&at_ms), "at {at_ms} ms");
    assert!(outcome.sometimes.contains("the-last-member-of-a-site-left-it"));
    let fate = |id| outcome.fates.iter().find(|write| write.id == id).unwrap().fate;
    assert!(matches!(fate(0), Some(Fate::Current | Fate::Loser)), "{:?}", fate(0));
    assert_eq!(fate(3), Some(Fate::Current));
    // Without the question what it had goes with it.
    let wrong = run::run(&scenario, Some(Double::MembersNeverAsked), false);
    let fired = wrong.violations.iter().any(|v| v.invariant == Invariant::ZeroLoss);
    assert!(fired, "{:?}", wrong.violations);
}

/// The same without the question, while its KV does not answer: copies that nobody will bring up to date are told.
#[test]
fn a_site_is_not_left_with_copies_that_are_owed() {
    let mut scenario = retired(Scenario::still(2), 1, 2_000..14_000)
        .fault(Kind::NetPartition, cut(1, StoreId::Kv), 900..6_000, 0)
        .then(1_000, 1, "k", PUT);
    scenario.sites = 2;
    let outcome = clean(&scenario);
    assert!(happened(&outcome, "retired")[0] >= 6_000);
    let wrong = run::run(&scenario, Some(Double::MembersNeverAsked), false);
    let fired =
        wrong.violations.iter().any(|violation| violation.message.contains("everybody left"));
    assert!(fired, "{:?}", wrong.violations);
}

/// Somebody joins a site that everybody had left: it is held against the others again, and takes in what it missed.
#[test]
fn a_site_that_somebody_joins_again_is_one_like_the_others() {
    let mut scenario = retired(Scenario::still(2), 1, 2_000..6_000).then(1_000, 1, "k", PUT);
    scenario = added(scenario, 1, 9_000).then(7_000, 0, "missed", PUT);
    for at in 0..12 {
        scenario = scenario.then(11_000 + at * 100, 0, &format!("k{at}"), PUT);
    }
    scenario.sites = 2;
    scenario.length_ms = 20_000;
    let outcome = clean(&scenario);
    assert_eq!(
        (happened(&outcome, "retired").len(), happened(&outcome, "joins")),
        (1, vec![9_000])
    );
    let wrong = run::run(&scenario, Some(Double::FeedSkips), false);
    let misses = |message: &str| message.contains("of notes/k2 at site 1");
    let fired = wrong.violations.iter().any(|violation| misses(&violation.message));
    assert!(fired, "{:?}", wrong.violations);
}
