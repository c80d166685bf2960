//! The authority's row, and everything that can be done to it.
//!
//! ```text
//! apply(row, op, now) -> (row', answer)        one row, one transaction, one store-side clock
//!
//! Install   compare-and-set of a version; marks each projection as owed; registers a lease
//! Claim     takes a mark over, renews its lease, or starts a new epoch after an Unknown put
//! Clear     removes a mark after an Applied put that was sent while nobody else could be putting
//! Release   takes back leases whose puts have all had definite answers
//! Forgo     removes the mark of a projection that is not kept any more
//! Settle    tells up to where a coordinator's writes are decided
//! Reap      removes a tombstone, and leaves its history in the dataset's floor (rule A6)
//! ```
//!
//! A row is the only place where coordinators meet, so every rule that orders them (A2, A4, A5a,
//! A5b) is one branch of [`apply`]. Bindings call it inside a transaction; the Cloudflare gateway
//! repeats it in SQL, and the contract suite holds all of them to the same answers.
//!
//! Times here are of the store side's clock alone. A coordinator's own clock never decides
//! whether a lease has ended.

mod feed;
mod floor;
mod lease;
mod op;
#[cfg(test)]
mod tests;

pub use feed::{Change, Poll, PollPage};
pub use floor::Floor;
pub use lease::{
    CLOCK_ERROR_MS, Epoch, Grant, LAND_MS_MAX, LEASE_MS, Lease, REPUT_MS, first_end, lapsed,
};
pub use op::{BatchAnswer, Install, RowAnswer, RowOp, WRITE_BYTES_MAX, WRITES_MAX};

use crate::record::{StoreMap, Stored};
use crate::tree::Digest;
use crate::version::{Stamp, Version, VersionVector};
use floor::is_reapable;
use lease::{apply_claim, apply_clear, apply_forgo, apply_owe, apply_release, lease};
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch by the store side's clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StoreTime(pub u64);

/// A place in the authority's change feed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

/// What the authority holds for a record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The version that a coordinator installed last; none when only foreign bytes are here.
    pub version: Option<Version>,
    /// The bytes as they stand in the table, foreign ones included.
    pub value: Option<Stored>,
    /// Bumped by triggers for foreign writes and by every install; survives the row's deletion.
    pub row_seq: u64,
    /// The `row_seq` that `version` describes. Different: a foreign write came after it.
    pub known_row_seq: u64,
    /// When the foreign write came.
    pub foreign_at: StoreTime,
    /// Place in the change feed.
    pub seq: Seq,
    /// The highest epoch given out.
    pub epoch: Epoch,
    /// The projections that may not hold `version` yet: the mark, with its leases (rule A5c).
    pub owed: StoreMap<Vec<Lease>>,
    /// Where there is no row: the latest stamp of the tombstones that were reaped in its dataset,
    /// which a new record's is to exceed (rule V3).
    #[serde(default)]
    pub floor_stamp: Stamp,
}

impl Row {
    /// The bytes were changed past every coordinator since `version` was installed.
    pub fn has_foreign_write(&self) -> bool {
        self.row_seq != self.known_row_seq
    }

    /// What the record of this key adds to its leaf; `None`: no coordinator has installed anything.
    pub fn digest(&self, key: &str) -> Option<Digest> {
        let version = self.version.as_ref()?;
        Some(Digest::of(key, &version.history, version.current().hash))
    }

    /// The history that an install must cover.
    pub fn history(&self) -> VersionVector {
        self.version.as_ref().map(|version| version.history.clone()).unwrap_or_default()
    }

    /// What stands for a row that is not there. Its sequence goes on where rows that were reaped
    /// ended, so that nothing that was meant for one of them fits what comes after it.
    pub fn absent(floor: &Floor) -> Option<Row> {
        let at = floor.row_seq;
        let stamp = floor.stamp;
        (at > 0).then(|| Row {
            row_seq: at,
            known_row_seq: at,
            floor_stamp: stamp,
            ..Row::default()
        })
    }

    /// True when there is nothing here that could be removed or replaced.
    pub fn is_absent(&self) -> bool {
        self.version.is_none() && !self.has_foreign_write()
    }

    /// The next epoch to give out. A row that begins where another was reaped begins above that one's
    /// epochs too, as its sequence does: whoever still holds or takes back a lease of then must not mean
    /// one of now.
    fn next_epoch(&self) -> Epoch {
        Epoch(self.epoch.0.max(self.row_seq) + 1)
    }

    /// What a compare-and-set over this row expects.
    pub fn expect(&self) -> Expect {
        Expect { history: self.history(), row_seq: self.row_seq }
    }
}

/// What the row must look like for an install to happen (rule A2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// The version's history; empty when there is none.
    pub history: VersionVector,
    /// The row sequence; 0 when there is no row.
    pub row_seq: u64,
}

/// What an operation changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// The row is this now.
    Row(Row),
    /// The row is gone, and the floor is this now.
    Gone(Floor),
    /// The floor is this now.
    Floor(Floor),
}

/// Applies one operation to one row and its dataset's floor. `next_seq` is the change feed's next
/// place.
pub fn apply(
    row: Option<&Row>,
    floor: &Floor,
    op: &RowOp,
    now: StoreTime,
    next_seq: Seq,
) -> (Changed, RowAnswer) {
    match op {
        RowOp::Settle { settled, .. } => {
            let floor = Floor { settled: floor.settled.join(settled), ..floor.clone() };
            return (Changed::Floor(floor.clone()), RowAnswer::Floor(floor));
        }
        RowOp::Reap { version, .. } => {
            return match row.filter(|row| is_reapable(row, floor, version, next_seq)) {
                Some(row) => {
                    let floor = floor.reap(row);
                    (Changed::Gone(floor.clone()), RowAnswer::Reaped(floor))
                }
                None => (Changed::Nothing, RowAnswer::Kept),
            };
        }
        RowOp::Install(install)
            if row.is_none_or(Row::is_absent) && floor.buries(&install.version, None) =>
        {
            return (Changed::Nothing, RowAnswer::Dead);
        }
        _ => {}
    }
    let absent = if row.is_none() { Row::absent(floor) } else { None };
    let (changed, answer) = apply_to_row(row.or(absent.as_ref()), op, now, next_seq);
    (changed.map_or(Changed::Nothing, Changed::Row), answer)
}

fn apply_to_row(
    row: Option<&Row>,
    op: &RowOp,
    now: StoreTime,
    next_seq: Seq,
) -> (Option<Row>, RowAnswer) {
    match op {
        RowOp::Read { .. } => (None, RowAnswer::Read(row.cloned().map(Box::new))),
        RowOp::Install(install) => apply_install(row, install, now, next_seq),
        RowOp::Claim { store, holder, renew, quiet, .. } => {
            apply_claim(row, *store, *holder, *renew, quiet, now)
        }
        RowOp::Owe { store, version, holder, .. } => apply_owe(row, *store, version, *holder, now),
        RowOp::Clear { store, version, epoch, quiet, .. } => {
            apply_clear(row, *store, version, *epoch, quiet, now)
        }
        RowOp::Release { store, quiet, .. } => apply_release(row, *store, quiet),
        RowOp::Forgo { store, version, .. } => apply_forgo(row, *store, version, now),
        RowOp::Settle { .. } | RowOp::Reap { .. } => unreachable!("these are of the floor, above"),
    }
}

fn apply_install(
    row: Option<&Row>,
    install: &Install,
    now: StoreTime,
    next_seq: Seq,
) -> (Option<Row>, RowAnswer) {
    let found = row.map(Row::expect).unwrap_or_default();
    if found != install.expect {
        return (None, moved(row));
    }
    if !install.version.history.covers(&install.expect.history) {
        return (None, RowAnswer::NotCovering);
    }
    if ends_early(install, now) {
        return (None, moved(row));
    }
    let before = row.cloned().unwrap_or_default();
    let epoch = before.next_epoch();
    let row_seq = before.row_seq + 1;
    let lease = lease(epoch, install.holder, now);
    let mut others_until = StoreMap::default();
    let mut owed = before.owed.clone();
    for leases in owed.values_mut() {
        leases.retain(|lease| lease.until > now);
    }
    for store in &install.owe {
        if let Some(until) = before.others_until(*store, epoch, now) {
            others_until.insert(*store, until);
        }
        match owed.get_mut(store) {
            Some(leases) => leases.push(lease),
            None => drop(owed.insert(*store, vec![lease])),
        }
    }
    let after = Row {
        version: Some(install.version.clone()),
        value: Some(install.value.clone()),
        row_seq,
        known_row_seq: row_seq,
        foreign_at: before.foreign_at,
        seq: next_seq,
        epoch,
        owed,
        floor_stamp: Stamp::default(),
    };
    let grant = Grant { epoch, ends: lease.ends, others_until };
    (Some(after), RowAnswer::Installed { row_seq, seq: next_seq, grant })
}

fn moved(row: Option<&Row>) -> RowAnswer {
    RowAnswer::Moved(row.cloned().map(Box::new))
}

/// True when the row's value is to be ended before its time has come by this clock, whatever the
/// coordinator that asks takes it for. A merge, which includes more, has been decided elsewhere.
fn ends_early(install: &Install, now: StoreTime) -> bool {
    let current = install.version.current();
    current.is_expired_form()
        && install.version.history == install.expect.history
        && current.expires_at_ms.is_some_and(|at_ms| at_ms > now.0)
}
