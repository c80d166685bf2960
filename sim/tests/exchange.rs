//! Sites with stores of their own: each takes in what the other's authority holds, and keeps what
//! lost against it.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_engine::version::NodeId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::{Fate, Invariant};
use tidelock_sim::double::Double;
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::trace::Event;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
/// More than the authority takes whole.
const LARGE: Act = Act::Put { bytes: 600 };

/// Two coordinators, each with stores of its own.
fn two_sites() -> Scenario {
    let mut scenario = Scenario::still(2);
    scenario.sites = 2;
    assert_ne!(scenario.site_of(NodeId(0)), scenario.site_of(NodeId(1)));
    scenario
}

/// The sites cannot talk to each other.
fn cut_apart(scenario: Scenario, during_ms: std::ops::Range<u64>) -> Scenario {
    let place = Place::Link { from: End::Node(0), to: End::Node(1) };
    scenario.fault(Kind::NetPartition, place, during_ms, 0)
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, []);
    outcome
}

fn landed(outcome: &Outcome, store: StoreId, key: &str) -> Vec<u64> {
    let here = |event: &&Event| {
        let record = event.text.split_once("@site").map_or(&*event.text, |(record, _)| record);
        event.lane == End::Store(store)
            && event.kind == "landed"
            && record == key
            && !event.text.ends_with(" deleted")
    };
    outcome.events.iter().filter(here).map(|event| event.at_us / 1_000).collect()
}

#[test]
fn a_write_reaches_every_store_of_every_site() {
    let outcome = clean(&two_sites().then(1_000, 0, "k", PUT));
    for store in [StoreId::Kv, StoreId::R2] {
        let at_ms = landed(&outcome, store, "notes/k");
        assert_eq!(at_ms.len(), 2, "once at each site");
        assert!(at_ms[1] < 2_000, "a hint brings it, not the next poll: {at_ms:?}");
    }
}

/// What the authority only refers to is sent whole, and kept whole by the other site's R2.
#[test]
fn a_large_value_comes_whole() {
    clean(&two_sites().then(1_000, 0, "k", LARGE).then(3_000, 1, "k", LARGE));
}

/// A w0; B w1, the winner, while they are cut apart: each merges for itself, and keeps the other's.
#[test]
fn v6_what_lost_at_one_site_is_kept_at_the_other() {
    let scenario =
        cut_apart(two_sites().then(1_000, 0, "k", PUT).then(1_500, 1, "k", PUT), 500..5_000);
    let outcome = clean(&scenario);
    assert_eq!(outcome.conflicts, 1, "kept once, however often the two met");
}

/// A w0; B w1 while w0 is on its way: B merges the two before A has asked for either, and w0, which
/// stands at A and which A has covered, has to come back as what lost.
#[test]
fn v6_what_stands_at_one_site_and_lost_at_the_other_comes_back() {
    let mut met = 0;
    for at_ms in (1_000..1_150).step_by(5) {
        let outcome = clean(&two_sites().then(1_000, 0, "k", PUT).then(at_ms, 1, "k", PUT));
        met += outcome.conflicts;
    }
    assert!(met > 0, "some of them were concurrent");
}

/// More writes than one answer carries, while nobody could hear of them.
#[test]
fn a_site_that_was_away_catches_up_with_everything_it_missed() {
    let mut scenario = two_sites();
    for at in 0..150 {
        scenario = scenario.then(1_000 + at * 40, 0, &format!("k{}", at % 120), PUT);
    }
    scenario = cut_apart(scenario, 500..12_000);
    scenario.length_ms = 20_000;
    let outcome = clean(&scenario);
    let recovery_ms = outcome.recovery_ms.expect("it recovered");
    assert!(recovery_ms > 0, "there was something to catch up with");
}

/// Somebody writes straight to D1 at both sites: two writes, not one.
#[test]
fn foreign_writes_at_two_sites_are_two_writes() {
    let scenario = two_sites().then(1_000, 0, "k", Act::Foreign { bytes: 20 }).then(
        1_000,
        1,
        "k",
        Act::Foreign { bytes: 20 },
    );
    let outcome = clean(&cut_apart(scenario, 500..4_000));
    assert_eq!(outcome.conflicts, 1, "they met, and one was kept");
}

/// A session that has written at one site reads at the other, which cannot have heard of it.
#[test]
fn a_session_never_goes_back_by_going_elsewhere() {
    let mut scenario = two_sites()
        .then(1_000, 0, "k", PUT)
        .then(4_000, 0, "k", PUT)
        .then(5_000, 1, "k", Act::ReadSession)
        .then(9_000, 1, "k", Act::ReadSession);
    for operation in &mut scenario.operations {
        operation.session = 0;
    }
    scenario.sessions = 1;
    let outcome = clean(&cut_apart(scenario, 3_000..7_000));
    assert!(outcome.sometimes.contains("another-coordinator-answered-a-session"));
}

/// A session's write at A stands at 5 in A's feed, until somebody's next write to the record moves it to
/// the end. B, which was cut off, follows the feed in small pages, and is asked all the while: a page
/// beyond 5 does not say that it has what stood there.
#[test]
fn session_halfway_through_a_feed_nobody_has_what_moved_to_its_end() {
    let mut answered = 0;
    for asked_ms in (8_000..9_500).step_by(10) {
        let mut scenario = two_sites().then(1_000, 0, "k", PUT).then(3_000, 0, "k", PUT);
        for at in 0..16 {
            scenario = scenario.then(3_100 + at * 100, 0, &format!("k{at}"), PUT);
        }
        scenario = scenario.then(5_000, 0, "k", PUT).then(asked_ms, 1, "k", Act::ReadSession);
        for operation in &mut scenario.operations {
            let is_theirs = operation.at_ms == 3_000 || operation.at_ms == asked_ms;
            operation.session = u16::from(!is_theirs);
        }
        scenario.sessions = 2;
        scenario.feed_page = Some(2);
        scenario.length_ms = 12_000;
        let outcome = clean(&cut_apart(scenario, 2_000..8_000));
        answered += usize::from(outcome.events.iter().any(|event| event.kind == "session-read"));
    }
    assert!(answered > 0, "once it has come to the end it answers");
}

/// A's disk has the write and so has B's; D1 comes back while A is down, and B brings it there.
#[test]
fn a_write_that_a_peer_keeps_does_not_wait_for_its_coordinator() {
    let mut scenario = Scenario::still(2).then(1_000, 0, "k", PUT);
    scenario.datasets[0].d1_through = false;
    scenario.datasets[0].peer_keeps = true;
    scenario.length_ms = 20_000;
    let cut = |node| Place::Link { from: End::Node(node), to: End::Store(StoreId::D1) };
    let crash = Place::Call { node: 0, call: Call::D1Poll, ordinal: 1, moment: Moment::Before };
    let outcome = clean(
        &scenario
            .fault(Kind::NetPartition, cut(0), 900..6_000, 0)
            .fault(Kind::NetPartition, cut(1), 900..6_000, 0)
            .fault(Kind::ProcessCrash, crash, 3_000..6_000, 6_000),
    );
    let at = |lane, kind: &str| {
        let found = outcome.events.iter().find(|e| e.lane == lane && e.kind == kind);
        found.unwrap_or_else(|| panic!("no {kind}")).at_us
    };
    assert!(at(End::Session(0), "write-acked") < 2_000_000, "nobody waits for D1");
    assert!(at(End::Node(1), "durable") < at(End::Session(0), "write-acked"), "B had it before");
    let there = at(End::Store(StoreId::D1), "row");
    assert!(there < at(End::Node(0), "restart"), "B installed it while A was down: {there}");
}

/// Nobody keeps it: the caller is told that it waits.
#[test]
fn a_write_that_no_peer_keeps_is_acknowledged_as_pending() {
    let mut scenario = Scenario::still(2).then(1_000, 0, "k", PUT);
    scenario.datasets[0].d1_through = false;
    scenario.datasets[0].peer_keeps = true;
    let cut = Place::Link { from: End::Node(0), to: End::Store(StoreId::D1) };
    let scenario = cut_apart(scenario, 500..6_000).fault(Kind::NetPartition, cut, 900..6_000, 0);
    let outcome = clean(&scenario);
    assert!(outcome.sometimes.contains("acknowledged-as-pending"));
}

#[test]
fn convergence_fires_when_a_site_hides_its_feed() {
    let scenario = two_sites().then(1_000, 0, "k", PUT);
    clean(&scenario);
    let wrong = run::run(&scenario, Some(Double::FeedHidden), false);
    let fired = |invariant| wrong.violations.iter().any(|v| v.invariant == invariant);
    assert!(fired(Invariant::Convergence), "{:?}", wrong.violations);
}

/// As many records at both sites; while they are cut apart some are written at one, and the other
/// starts anew.
fn started_anew(records: u64, written: u64) -> Scenario {
    let mut scenario = two_sites();
    for at in 0..records {
        scenario = scenario.then(1_000 + at * 20, 0, &format!("k{at}"), PUT);
    }
    for at in 0..written {
        scenario = scenario.then(8_000 + at * 20, 0, &format!("k{}", at * 7), PUT);
    }
    let crash = Place::Call { node: 1, call: Call::D1Poll, ordinal: 1, moment: Moment::Before };
    scenario = cut_apart(scenario, 7_500..12_000);
    scenario = scenario.fault(Kind::ProcessCrash, crash, 9_000..10_000, 500);
    scenario.feed_page = Some(10);
    scenario.length_ms = 20_000;
    scenario
}

/// What node 1 asked for from its restart on, up to the first values.
fn asked_since_restart(outcome: &Outcome) -> Vec<&'static str> {
    let since = outcome.events.iter().skip_while(|event| event.kind != "restart");
    let asked = since.filter(|e| e.lane == End::Node(1) && e.kind.starts_with("asks-"));
    let before_values = outcome.events.iter().filter(|event| {
        event.lane == End::Node(1) && event.kind == "fetches" && event.at_us > 12_000_000
    });
    let values_us = before_values.map(|event| event.at_us).min().expect("it lacked some");
    asked.take_while(|event| event.at_us <= values_us).map(|event| event.kind).collect()
}

/// What it takes goes with what differs, and not with what is there.
#[test]
fn a_site_that_starts_anew_reads_what_differs_and_not_the_feed() {
    let mut asked = Vec::new();
    for records in [40, 160] {
        let outcome = clean(&started_anew(records, 4));
        assert!(outcome.sometimes.contains("sites-compared-trees"));
        let each = asked_since_restart(&outcome);
        for word in ["asks-roots", "asks-children", "asks-leaves"] {
            assert!(each.contains(&word), "{each:?}");
        }
        assert!(!each.contains(&"asks-changes"), "it does not read the feed: {each:?}");
        asked.push(each.len());
    }
    assert!(asked[1] <= asked[0] + 4, "{asked:?}");
}

/// The feed leaves out what it should show: a look over the dataset finds that.
#[test]
fn what_a_feed_did_not_show_is_found_by_comparing_trees() {
    let mut scenario = two_sites();
    for at in 0..12 {
        scenario = scenario.then(1_000 + at * 100, 0, &format!("k{at}"), PUT);
    }
    scenario.length_ms = 15_000;
    let skips = Some(Double::FeedSkips);
    let broken = run::run(&scenario, skips, false).violations;
    assert!(broken.iter().any(|v| v.invariant == Invariant::Convergence), "{broken:?}");
    scenario.reconcile_every_ms = Some(1_000);
    let outcome = run::run(&scenario, skips, false);
    assert_eq!(outcome.violations, []);
    assert!(outcome.sometimes.contains("a-look-found-what-a-feed-had-missed"));
}

/// What a site refuses for good stays different for ever: its versions are read, its value is not.
#[test]
fn a_difference_that_stays_makes_no_look_read_values() {
    let mut scenario = two_sites().then(300, 0, "j", PUT).then(3_000, 0, "k", PUT);
    scenario.reconcile_every_ms = Some(1_000);
    scenario.length_ms = 40_000;
    let refused = Place::StoreAt { site: 1, store: StoreId::D1 };
    let scenario = scenario.fault(Kind::D1Constraint, refused, 2_000..30_000, 0);
    let outcome = run::run(&scenario, None, true);
    let since = |word: &str| {
        let here = outcome.events.iter().filter(|event| {
            let during = (12_000_000..29_000_000).contains(&event.at_us);
            event.lane == End::Node(1) && event.kind == word && during
        });
        here.count()
    };
    assert!(since("asks-leaves") > 5, "they differ in each look");
    assert_eq!(since("fetches"), 0);
}

/// A's w0 is refused by its D1 for good; B writes w1 at the other site, and A brings that to its own. Over it w0
/// is tried at once, and loses.
#[test]
fn dead_letters_meet_what_their_own_coordinator_brings_from_another_site() {
    let poison = Place::Store(StoreId::D1);
    let mut scenario = two_sites().then(1_000, 0, "k", PUT).then(4_000, 1, "k", PUT).fault(
        Kind::LoadPoisonRecord,
        poison,
        900..1_500,
        0,
    );
    scenario.length_ms = 12_000;
    let outcome = clean(&scenario);
    let fate = |id| outcome.fates.iter().find(|write| write.id == id).and_then(|write| write.fate);
    assert_eq!((fate(0), fate(1)), (Some(Fate::Loser), Some(Fate::Current)));
}
