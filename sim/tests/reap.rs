//! Tombstones go when nothing needs them any more (rule A6), and nothing comes back for it.
#![cfg(madsim)]

use tidelock_engine::record::StoreId;
use tidelock_faults::{Call, End, Kind, Moment, Place};
use tidelock_sim::checker::{Fate, Told};
use tidelock_sim::run::{self, Outcome};
use tidelock_sim::scenario::Scenario;
use tidelock_sim::workload::Act;

const PUT: Act = Act::Put { bytes: 20 };
const UNCHANGED: Act = Act::PutIfUnchanged { bytes: 20 };
/// More than the authority takes whole: it goes to R2 first.
const LARGE: Act = Act::Put { bytes: 600 };

fn looked_over(nodes: u16) -> Scenario {
    let mut scenario = Scenario::still(nodes);
    scenario.reconcile_every_ms = Some(2_000);
    scenario.length_ms = 40_000;
    scenario
}

fn cut(node: u16, store: StoreId) -> Place {
    Place::Link { from: End::Node(node), to: End::Store(store) }
}

#[track_caller]
fn clean(scenario: &Scenario) -> Outcome {
    let outcome = run::run(scenario, None, true);
    assert_eq!(outcome.violations, [], "{:?}", rows(&outcome));
    outcome
}

/// What became of the row of `notes/k`, each with its time in milliseconds.
fn rows(outcome: &Outcome) -> Vec<(u64, &str)> {
    let here = outcome.events.iter().filter(|event| {
        let of_k = event.text.starts_with("notes/k ") || event.text.starts_with("notes/k@");
        event.lane == End::Store(StoreId::D1) && event.kind == "row" && of_k
    });
    here.map(|event| (event.at_us / 1_000, event.text.as_str())).collect()
}

#[track_caller]
fn reaped_at(outcome: &Outcome) -> u64 {
    let rows = rows(outcome);
    let reaped = rows.iter().find(|(_, text)| text.ends_with("is reaped"));
    reaped.unwrap_or_else(|| panic!("never reaped: {rows:?}")).0
}

/// A w0, not in the authority yet; a snapshot of A's disk; w0 arrives; w1 deletes it; its tombstone is
/// reaped; the snapshot is restored, and owes w0.
fn restored() -> Scenario {
    looked_over(2)
        .then(1_000, 0, "k", PUT)
        .then(5_000, 1, "k", Act::Delete)
        .then(6_000, 1, "j", PUT)
        .fault(Kind::NetPartition, cut(0, StoreId::D1), 900..3_000, 0)
        .fault(Kind::DiskRestored, Place::Disk(0), 1_500..20_000, 100)
}

#[test]
fn a6_a_snapshot_brings_nothing_back_whose_tombstone_was_reaped() {
    let outcome = clean(&restored());
    assert!(reaped_at(&outcome) < 20_000, "before the snapshot is restored");
    assert!(outcome.sometimes.contains("replay-found-intents"));
    let last = *rows(&outcome).last().expect("it was there");
    assert!(last.1.ends_with("is reaped"), "at {} ms: {}", last.0, last.1);
}

/// As above, and somebody has written the record anew: what was deleted is not merged into that.
#[test]
fn a6_a_snapshot_adds_nothing_to_what_was_written_since() {
    let outcome = clean(&restored().then(15_000, 1, "k", PUT));
    assert!(reaped_at(&outcome) < 15_000, "before it was written anew");
    let after = rows(&outcome).into_iter().filter(|(at_ms, _)| *at_ms > 19_900).count();
    assert_eq!(after, 0, "{:?}", rows(&outcome));
    assert_eq!(outcome.conflicts, 0);
}

/// A's w0 arrives and A dies with w1 in its journal; B deletes the record, and its tombstone is reaped:
/// A's number is kept. A's disk comes back with a number above that: w1 is no write that was deleted.
#[test]
fn a7_a_write_above_the_known_last_of_its_actor_is_live() {
    let crash = Place::Call { node: 0, call: Call::D1Poll, ordinal: 1, moment: Moment::Before };
    let outcome = clean(
        &looked_over(2)
            .then(1_000, 0, "k", PUT)
            .then(4_000, 0, "k", PUT)
            .then(7_000, 1, "k", Act::Delete)
            .then(8_000, 1, "j", PUT)
            .fault(Kind::NetPartition, cut(0, StoreId::D1), 3_900..30_000, 0)
            .fault(Kind::ProcessCrash, crash, 4_500..30_000, 25_000),
    );
    let comes_back = outcome.events.iter().find(|event| event.kind == "restart");
    let comes_back_ms = comes_back.expect("it does").at_us / 1_000;
    assert!(reaped_at(&outcome) < comes_back_ms, "the delete is forgotten by then");
    let write = outcome.fates.iter().find(|write| write.id == 1).expect("it was asked for");
    assert_eq!(write.fate, Some(Fate::Current), "{:?}", rows(&outcome));
}

/// Another site has not heard of the delete: it would give back what was deleted.
#[test]
fn a6_a_tombstone_stays_until_every_site_has_it() {
    let mut scenario = looked_over(2)
        .then(1_000, 0, "k", PUT)
        .then(4_000, 0, "k", Act::Delete)
        .then(4_500, 0, "j", PUT);
    scenario.sites = 2;
    let between = Place::Link { from: End::Node(0), to: End::Node(1) };
    let outcome = clean(&scenario.fault(Kind::NetPartition, between, 3_000..20_000, 0));
    assert!(reaped_at(&outcome) >= 20_000, "at {} ms", reaped_at(&outcome));
}

/// A's first write waits for R2, while its later ones, of another record, are long decided: had the
/// floor passed it, it would look dead.
#[test]
fn a6_the_floor_never_passes_a_write_that_is_on_its_way() {
    let outcome = clean(
        &looked_over(2)
            .then(1_000, 0, "large", LARGE)
            .then(1_500, 0, "k", PUT)
            .then(4_000, 0, "k", Act::Delete)
            .then(4_500, 1, "j", PUT)
            .fault(Kind::NetPartition, cut(0, StoreId::R2), 900..20_000, 0),
    );
    assert!(reaped_at(&outcome) >= 20_000, "at {} ms", reaped_at(&outcome));
}

/// Nothing is there, and a write asks for just that; meanwhile another record's tombstone is reaped,
/// which changes what is expected of everything that is not there.
#[test]
fn a_write_to_what_is_not_there_is_not_refused_because_a_tombstone_went() {
    let reaping = || {
        looked_over(1)
            .then(1_000, 0, "k", PUT)
            .then(2_000, 0, "k", Act::Delete)
            .then(3_000, 0, "j", PUT)
    };
    let at = reaped_at(&clean(&reaping()));
    let mut overtaken = 0;
    for at_ms in at - 100..at + 20 {
        let outcome = clean(&reaping().then(at_ms, 0, "new", UNCHANGED));
        let told = outcome.fates.iter().find(|write| write.id == 3).expect("it was asked for").told;
        assert!(matches!(told, Told::Acknowledged(_)), "at {at_ms} ms: {told:?}");
        let installed = outcome.events.iter().find(|event| event.text.starts_with("notes/new is"));
        let installed_ms = installed.expect("it was acknowledged").at_us / 1_000;
        overtaken += u32::from((at_ms..installed_ms).contains(&reaped_at(&outcome)));
    }
    assert!(overtaken > 0, "no tombstone was reaped while a write was on its way");
}
