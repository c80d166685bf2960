use super::*;
use crate::blob::BlobsSeen;
use crate::record::{RecordId, StoreId};
use crate::version::{Actor, ContentHash, Dot, NodeId, Sibling};
use bytes::Bytes;
use std::sync::Arc;

fn actor(node: u16) -> Actor {
    Actor { node: NodeId(node), incarnation: 1 }
}

fn record() -> RecordId {
    RecordId { dataset: Arc::from("d"), key: "k".into() }
}

fn version(node: u16, counter: u64, over: &VersionVector) -> Version {
    let sibling = Sibling {
        dot: Dot { actor: actor(node), counter },
        stamp: Stamp { wall_ms: counter, logical: 0 },
        hash: ContentHash::of(&[node as u8, counter as u8]),
        bytes: 2,
        deleted: false,
        expires_at_ms: None,
    };
    Version::write(over, sibling)
}

fn install(row: Option<&Row>, node: u16, counter: u64, now: u64) -> (Row, Grant) {
    let expect = row.map(Row::expect).unwrap_or_default();
    let version = version(node, counter, &expect.history);
    let op = RowOp::Install(Box::new(Install {
        record: record(),
        expect,
        version,
        value: Stored::Inline(Bytes::from_static(b"v")),
        losers: vec![],
        owe: vec![StoreId::Kv],
        holder: actor(node),
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }));
    match apply_to_row(row, &op, StoreTime(now), Seq(1)) {
        (Some(row), RowAnswer::Installed { grant, .. }) => (row, grant),
        other => panic!("not installed: {other:?}"),
    }
}

fn claim(row: &Row, node: u16, renew: Option<Epoch>, quiet: Vec<Epoch>, now: u64) -> RowAnswer {
    let op =
        RowOp::Claim { record: record(), store: StoreId::Kv, holder: actor(node), renew, quiet };
    apply_to_row(Some(row), &op, StoreTime(now), Seq(2)).1
}

fn clear(row: &Row, epoch: Epoch, quiet: Vec<Epoch>, now: u64) -> RowAnswer {
    let version = row.version.as_ref().unwrap().id();
    let op = RowOp::Clear { record: record(), store: StoreId::Kv, version, epoch, quiet };
    apply_to_row(Some(row), &op, StoreTime(now), Seq(2)).1
}

#[test]
fn a2_an_install_tests_history_and_row_sequence() {
    let (mut row, _) = install(None, 1, 1, 0);
    let expect = row.expect();
    let op = |expect: Expect| {
        RowOp::Install(Box::new(Install {
            record: record(),
            version: version(1, 2, &expect.history),
            expect,
            value: Stored::Tombstone,
            losers: vec![],
            owe: vec![],
            holder: actor(1),
            blobs_seen: BlobsSeen::default(),
            by: Default::default(),
            writes: vec![],
        }))
    };
    row.row_seq += 1; // what the trigger does for a foreign write
    let (changed, answer) = apply_to_row(Some(&row), &op(expect), StoreTime(1), Seq(2));
    assert_eq!(changed, None);
    assert_eq!(answer, RowAnswer::Moved(Some(Box::new(row.clone()))));
    let (changed, _) = apply_to_row(Some(&row), &op(row.expect()), StoreTime(1), Seq(2));
    assert!(changed.is_some_and(|row| !row.has_foreign_write()));
}

#[test]
fn an_install_must_cover_what_it_replaces() {
    let (row, _) = install(None, 1, 1, 0);
    let op = RowOp::Install(Box::new(Install {
        record: record(),
        expect: row.expect(),
        version: version(2, 1, &VersionVector::new()),
        value: Stored::Tombstone,
        losers: vec![],
        owe: vec![],
        holder: actor(2),
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }));
    assert_eq!(apply_to_row(Some(&row), &op, StoreTime(1), Seq(2)), (None, RowAnswer::NotCovering));
}

#[test]
fn a_value_is_not_ended_before_its_time_by_the_authoritys_clock() {
    let first = version(1, 1, &VersionVector::new());
    let brief = Sibling { expires_at_ms: Some(500), ..*first.current() };
    let op = |version: &Version, row: &Row| {
        RowOp::Install(Box::new(Install {
            record: record(),
            expect: row.expect(),
            version: version.clone(),
            value: Stored::Tombstone,
            losers: vec![],
            owe: vec![StoreId::Kv],
            holder: actor(2),
            blobs_seen: BlobsSeen::default(),
            by: Default::default(),
            writes: vec![],
        }))
    };
    let brief = Version::settled(first.history, brief);
    let (row, _) = apply_to_row(None, &op(&brief, &Row::default()), StoreTime(0), Seq(1));
    let row = row.expect("nothing was there");
    let end = op(&brief.expired(), &row);
    let early = apply_to_row(Some(&row), &end, StoreTime(499), Seq(2));
    assert_eq!(early, (None, RowAnswer::Moved(Some(Box::new(row.clone())))));
    let (ended, _) = apply_to_row(Some(&row), &end, StoreTime(500), Seq(2));
    let ended = ended.expect("its time has come");
    assert!(ended.version.as_ref().is_some_and(|v| v.current().is_expired_form()));
    // Another coordinator's finds the row moved.
    let again = apply_to_row(Some(&ended), &end, StoreTime(501), Seq(3));
    assert_eq!(again, (None, RowAnswer::Moved(Some(Box::new(ended.clone())))));
    // What vouched for the value's copy does not vouch for its absence.
    let op = RowOp::Clear {
        record: record(),
        store: StoreId::Kv,
        version: brief.id(),
        epoch: row.epoch,
        quiet: vec![],
    };
    assert_ne!(apply_to_row(Some(&ended), &op, StoreTime(501), Seq(3)).1, RowAnswer::Cleared);
}

#[test]
fn a4_nobody_takes_over_before_the_lease_ends_and_old_entries_stay() {
    let (row, first) = install(None, 1, 1, 0);
    assert_eq!(
        claim(&row, 2, None, vec![], LEASE_MS - 1),
        RowAnswer::Held { ends: StoreTime(LEASE_MS) }
    );
    let RowAnswer::Claimed { row, grant } = claim(&row, 2, None, vec![], LEASE_MS) else {
        panic!("the lease has ended")
    };
    assert!(grant.epoch > first.epoch);
    let until = StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS);
    assert_eq!(grant.others_until.get(&StoreId::Kv), Some(&until));
    assert_eq!(clear(&row, grant.epoch, vec![], until.0 - 1), RowAnswer::NotAlone { until });
    assert_eq!(clear(&row, grant.epoch, vec![], until.0), RowAnswer::Cleared);
}

#[test]
fn a4_an_install_keeps_older_unexpired_entries() {
    let (row, _) = install(None, 1, 1, 0);
    let (row, grant) = install(Some(&row), 2, 1, 1_000);
    assert_eq!(row.owed[&StoreId::Kv].len(), 2);
    assert_eq!(
        grant.others_until.get(&StoreId::Kv),
        Some(&StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS))
    );
}

#[test]
fn a4_the_newest_install_holds_the_mark() {
    let (row, first) = install(None, 1, 1, 0);
    let (row, second) = install(Some(&row), 2, 1, 1_000);
    let held = RowAnswer::Held { ends: StoreTime(1_000 + LEASE_MS) };
    assert_eq!(claim(&row, 1, Some(first.epoch), vec![], 1_500), held);
    let RowAnswer::Claimed { grant, .. } = claim(&row, 2, Some(second.epoch), vec![], 1_500) else {
        panic!("the older lease is no obstacle to the newest holder")
    };
    assert_eq!(grant.epoch, second.epoch);
}

#[test]
fn a5a_a_new_epoch_after_unknown_leaves_the_old_entry() {
    let (row, first) = install(None, 1, 1, 0);
    let RowAnswer::Claimed { row, grant } = claim(&row, 1, None, vec![], 100) else {
        panic!("an own lease is no obstacle")
    };
    assert_eq!(
        clear(&row, grant.epoch, vec![], 200),
        RowAnswer::NotAlone { until: StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS) }
    );
    // Had the first lease's puts all been answered, its owner could take it back.
    assert_eq!(clear(&row, grant.epoch, vec![first.epoch], 200), RowAnswer::Cleared);
}

#[test]
fn a5b_a_mark_is_cleared_for_its_own_version_only() {
    let (old, first) = install(None, 1, 1, 0);
    let (row, _) = install(Some(&old), 1, 2, 10);
    let version = old.version.as_ref().unwrap().id();
    let op = RowOp::Clear {
        record: record(),
        store: StoreId::Kv,
        version,
        epoch: first.epoch,
        quiet: vec![],
    };
    let (changed, answer) = apply_to_row(Some(&row), &op, StoreTime(20), Seq(3));
    assert_eq!((changed, answer), (None, RowAnswer::Moved(Some(Box::new(row)))));
}

#[test]
fn a_mark_is_forgone_once_nothing_can_land_and_for_its_own_version_only() {
    let (row, _) = install(None, 1, 1, 0);
    let until = StoreTime(LEASE_MS + LAND_MS_MAX + CLOCK_ERROR_MS);
    let forgo = |row: &Row, of: &Row, now: u64| {
        let version = of.version.as_ref().unwrap().id();
        let op = RowOp::Forgo { record: record(), store: StoreId::Kv, version };
        apply_to_row(Some(row), &op, StoreTime(now), Seq(2))
    };
    assert_eq!(forgo(&row, &row, until.0 - 1), (None, RowAnswer::NotAlone { until }));
    let (after, answer) = forgo(&row, &row, until.0);
    assert_eq!(answer, RowAnswer::Cleared);
    let after = after.unwrap();
    assert!(after.owed.is_empty() && after.version == row.version);
    assert_eq!(forgo(&after, &row, until.0), (None, RowAnswer::NotOwed));
    // A write that came since owes the store again: a late message must not take that away.
    let (newer, _) = install(Some(&row), 1, 2, 10);
    assert_eq!(
        forgo(&newer, &row, 60_000),
        (None, RowAnswer::Moved(Some(Box::new(newer.clone()))))
    );
}

#[test]
fn a_renewed_lease_keeps_its_epoch() {
    let (row, first) = install(None, 1, 1, 0);
    let RowAnswer::Claimed { row, grant } = claim(&row, 1, Some(first.epoch), vec![], 2_000) else {
        panic!("renewed")
    };
    assert_eq!((grant.epoch, grant.ends), (first.epoch, StoreTime(2_000 + LEASE_MS)));
    assert_eq!(row.owed[&StoreId::Kv].len(), 1);
    assert!(grant.others_until.is_empty());
}

#[test]
fn a_former_life_is_lapsed_to_its_own_coordinator_alone() {
    let (row, _) = install(None, 1, 1, 0);
    let leases = &row.owed[&StoreId::Kv];
    let reborn = Actor { node: NodeId(1), incarnation: 2 };
    assert!(lapsed(leases, reborn, StoreTime(1)));
    assert!(!lapsed(leases, actor(1), StoreTime(1)));
    assert!(!lapsed(leases, actor(2), StoreTime(1)));
    assert!(lapsed(leases, actor(2), StoreTime(LEASE_MS)));
}

fn deleted(row: &Row, counter: u64) -> Row {
    let base = row.history();
    let dot = Dot { actor: actor(1), counter };
    let stamp = Stamp { wall_ms: counter, logical: 0 };
    let sibling = crate::resolve::sibling(dot, stamp, &Stored::Tombstone);
    let op = RowOp::Install(Box::new(Install {
        record: record(),
        expect: row.expect(),
        version: Version::write(&base, sibling),
        value: Stored::Tombstone,
        losers: vec![],
        owe: vec![],
        holder: actor(1),
        blobs_seen: BlobsSeen::default(),
        by: Default::default(),
        writes: vec![],
    }));
    let (changed, _) = apply_to_row(Some(row), &op, StoreTime(1), Seq(2));
    Row { owed: StoreMap::default(), ..changed.expect("installed") }
}

fn reap(row: &Row, floor: &Floor, next_seq: u64) -> (Changed, RowAnswer) {
    let version = row.version.as_ref().unwrap().id();
    let op = RowOp::Reap { record: record(), version };
    apply(Some(row), floor, &op, StoreTime(9), Seq(next_seq))
}

fn settled(counter: u64) -> Floor {
    let mut settled = VersionVector::new();
    settled.include(Dot { actor: actor(1), counter });
    Floor { settled, ..Floor::default() }
}

#[test]
fn a6_a_tombstone_goes_when_nothing_needs_it_any_more() {
    let (live, _) = install(None, 1, 1, 0);
    let tombstone = deleted(&live, 2);
    let kept = (Changed::Nothing, RowAnswer::Kept);
    assert_eq!(reap(&live, &settled(9), 9), kept, "it is no tombstone");
    assert_eq!(reap(&tombstone, &settled(1), 9), kept, "its writer may still owe the delete");
    assert_eq!(reap(&tombstone, &settled(2), 3), kept, "it is where the feed ends");
    let owed = Row { owed: live.owed.clone(), ..tombstone.clone() };
    assert_eq!(reap(&owed, &settled(2), 9), kept, "a copy may still stand");
    let foreign = Row { row_seq: 9, ..tombstone.clone() };
    assert_eq!(reap(&foreign, &settled(2), 9), kept, "somebody has written since");
    let (changed, answer) = reap(&tombstone, &settled(2), 9);
    let Changed::Gone(floor) = changed else { panic!("{changed:?}") };
    assert_eq!(answer, RowAnswer::Reaped(floor.clone()));
    assert_eq!(floor.history, tombstone.history());
    assert!(floor.row_seq > tombstone.row_seq);
}

/// CAS(nothing -> w0) times out; delete; reap; the CAS lands where nothing is.
#[test]
fn a6_what_was_deleted_is_not_installed_where_its_tombstone_was_reaped() {
    let (live, _) = install(None, 1, 1, 0);
    let (Changed::Gone(floor), _) = reap(&deleted(&live, 2), &settled(2), 9) else {
        panic!("reaped")
    };
    let of = |version: Version, expect: Expect| {
        let op = RowOp::Install(Box::new(Install {
            record: record(),
            expect,
            version,
            value: Stored::Tombstone,
            losers: vec![],
            owe: vec![],
            holder: actor(1),
            blobs_seen: BlobsSeen::default(),
            by: Default::default(),
            writes: vec![],
        }));
        apply(None, &floor, &op, StoreTime(9), Seq(10))
    };
    let first = live.version.clone().unwrap();
    let late = of(first.clone(), Expect::default());
    assert_eq!(late, (Changed::Nothing, RowAnswer::Dead));
    // From a snapshot, or another site: whatever it expects.
    let absent = Row::absent(&floor).unwrap();
    assert_eq!(of(first.clone(), absent.expect()).1, RowAnswer::Dead);
    // A conditional write that was cancelled: what it expected does not come back.
    let another = version(2, 7, &VersionVector::new());
    assert_eq!(
        of(another.clone(), Expect::default()).1,
        RowAnswer::Moved(Some(Box::new(absent.clone())))
    );
    let (Changed::Row(row), _) = of(another, absent.expect()) else { panic!("a new record") };
    assert!(row.row_seq > floor.row_seq && !row.has_foreign_write());
    // Nor is there anything in it that what was written there since would have to be told of.
    assert!(floor.buries(&first, Some(&row)));
    assert!(!floor.buries(row.version.as_ref().unwrap(), Some(&row)));
}

/// A lease of the row that was reaped is taken back late: it must not be one of the row that has begun
/// there since, be it by a coordinator or by somebody who wrote past all of them.
#[test]
fn a6_no_epoch_of_a_reaped_row_is_given_out_again() {
    let (live, _) = install(None, 1, 1, 0);
    let last = Epoch(40);
    let tombstone = Row { epoch: last, ..deleted(&live, 2) };
    let (Changed::Gone(floor), _) = reap(&tombstone, &settled(2), 9) else { panic!("reaped") };
    let absent = Row::absent(&floor).unwrap();
    let foreign = Row { row_seq: floor.row_seq + 1, seq: Seq(10), ..Row::default() };
    for begun in [absent, foreign] {
        let op = RowOp::Install(Box::new(Install {
            record: record(),
            expect: begun.expect(),
            version: version(2, 7, &VersionVector::new()),
            value: Stored::Tombstone,
            losers: vec![],
            owe: vec![StoreId::Kv],
            holder: actor(2),
            blobs_seen: BlobsSeen::default(),
            by: Default::default(),
            writes: vec![],
        }));
        let (changed, _) = apply(Some(&begun), &floor, &op, StoreTime(9), Seq(11));
        let Changed::Row(row) = changed else { panic!("a new record") };
        assert!(row.owed[&StoreId::Kv].iter().all(|lease| lease.epoch > last), "{row:?}");
    }
}
