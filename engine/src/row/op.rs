//! What can be asked of a row, and what it answers.

use super::{Epoch, Expect, Floor, Grant, Row, Seq, StoreTime};
use crate::blob::BlobsSeen;
use crate::conflict::Decision;
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::version::{Actor, ContentHash, Version, VersionId, VersionVector};
use serde::{Deserialize, Serialize};

/// One thing to do to one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowOp {
    /// Gives the row.
    Read {
        /// Which.
        record: RecordId,
    },
    /// Compare-and-set of a version.
    Install(Box<Install>),
    /// Takes the mark of a projection.
    Claim {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// Who claims.
        holder: Actor,
        /// Extend this lease; `None`: begin a new epoch.
        renew: Option<Epoch>,
        /// Own leases whose puts all had definite answers, to be forgotten.
        quiet: Vec<Epoch>,
    },
    /// Marks a projection whose copy was found to differ from the version that it should hold, and
    /// takes the mark.
    Owe {
        /// Whose copy.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The version that the copy was held against; the row must still hold it.
        version: VersionId,
        /// Who projects it again.
        holder: Actor,
    },
    /// Removes the mark.
    Clear {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The version that was put.
        version: VersionId,
        /// The lease under which it was put.
        epoch: Epoch,
        /// Other own leases whose puts all had definite answers.
        quiet: Vec<Epoch>,
    },
    /// Forgets own leases whose puts all had definite answers. The mark stays.
    Release {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The leases.
        quiet: Vec<Epoch>,
    },
    /// Removes the mark of a projection that the dataset is not kept in any more, once nothing that
    /// was sent there can land. No mark still means that no put is in flight; that the copy equals
    /// the authority is no longer promised there, and where the store is put in again, a look over
    /// it finds what differs.
    Forgo {
        /// Whose mark.
        record: RecordId,
        /// At which projection.
        store: StoreId,
        /// The version that the row must still hold: a later one may be of a later policy.
        version: VersionId,
    },
    /// Tells the authority up to where actors' writes are decided: each of them is in it, or can
    /// never be. Gives the dataset's floor.
    Settle {
        /// The dataset, and no key.
        record: RecordId,
        /// By actor.
        settled: VersionVector,
    },
    /// Removes a tombstone that nothing needs any more.
    Reap {
        /// Whose.
        record: RecordId,
        /// The tombstone; the row must still hold it.
        version: VersionId,
    },
}

/// A compare-and-set of a version at the authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Which record.
    pub record: RecordId,
    /// What it replaces.
    pub expect: Expect,
    /// The new version; its history covers the expected one.
    pub version: Version,
    /// The bytes of its current value.
    pub value: Stored,
    /// The values that lost against it, made durable in the same transaction (rule V6).
    pub losers: Vec<Loser>,
    /// The projections that must receive it.
    pub owe: Vec<StoreId>,
    /// Who installs, and so projects.
    pub holder: Actor,
    /// The blobs that it refers to, but for those that rows or losers refer to already (rule A0).
    pub blobs_seen: BlobsSeen,
    /// What decided against the losers.
    pub by: Decision,
    /// What is new of it, write by write, where such are merged: of all that came so, the newest
    /// [`WRITES_MAX`] are kept, of [`WRITE_BYTES_MAX`] together.
    pub writes: Vec<Written>,
}

/// Writes of one record that are kept for merges.
pub const WRITES_MAX: usize = 64;
/// Bytes of these values, the newest not counted.
pub const WRITE_BYTES_MAX: usize = 256 * 1024;

impl Install {
    /// The values that it makes durable: its own and those that lost.
    pub fn values(&self) -> impl Iterator<Item = &Stored> {
        std::iter::once(&self.value).chain(self.losers.iter().map(|loser| &loser.value))
    }

    /// The blobs that it refers to.
    pub fn blobs(&self) -> impl Iterator<Item = ContentHash> + '_ {
        self.values().filter_map(Stored::blob)
    }
}

impl RowOp {
    /// The record that this is about.
    pub fn record(&self) -> &RecordId {
        match self {
            RowOp::Read { record }
            | RowOp::Claim { record, .. }
            | RowOp::Owe { record, .. }
            | RowOp::Clear { record, .. }
            | RowOp::Release { record, .. }
            | RowOp::Forgo { record, .. }
            | RowOp::Settle { record, .. }
            | RowOp::Reap { record, .. } => record,
            RowOp::Install(install) => &install.record,
        }
    }

    /// Bytes of values that travel with this.
    pub fn held_bytes(&self) -> usize {
        match self {
            RowOp::Install(install) => {
                let writes = install.writes.iter().map(|written| &written.value);
                install.values().chain(writes).map(Stored::held_bytes).sum()
            }
            RowOp::Read { .. }
            | RowOp::Claim { .. }
            | RowOp::Owe { .. }
            | RowOp::Clear { .. }
            | RowOp::Release { .. }
            | RowOp::Forgo { .. }
            | RowOp::Settle { .. }
            | RowOp::Reap { .. } => 0,
        }
    }
}

/// What became of a [`RowOp`]. Most answers are short, so that rows are boxed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowAnswer {
    /// The row, if there is one.
    Read(Option<Box<Row>>),
    /// The version is in; its projections are owed under this lease.
    Installed {
        /// The row sequence now.
        row_seq: u64,
        /// The place in the change feed.
        seq: Seq,
        /// The right to project.
        grant: Grant,
    },
    /// The row is not what was expected: this is what it is.
    Moved(Option<Box<Row>>),
    /// The mark is the claimer's; this is the row to project.
    Claimed {
        /// As it stands.
        row: Box<Row>,
        /// The right to project.
        grant: Grant,
    },
    /// Somebody else holds the mark.
    Held {
        /// Until then at the least.
        ends: StoreTime,
    },
    /// There is no mark: nothing is owed.
    NotOwed,
    /// The mark is gone.
    Cleared,
    /// The version was put, but another put may still land: not cleared.
    NotAlone {
        /// No such put can land from here on.
        until: StoreTime,
    },
    /// The leases are forgotten.
    Released,
    /// The install does not cover what it expects: a defect of the caller, refused.
    NotCovering,
    /// The version was deleted and its tombstone reaped: it is not installed again.
    Dead,
    /// A blob that it refers to may not be there, or not for long: put it again. Where it is condemned,
    /// what is put before `until` may yet be deleted.
    NoBlob {
        /// By the store side's clock.
        until: Option<StoreTime>,
    },
    /// What stands below the dataset's records.
    Floor(Floor),
    /// The tombstone is gone.
    Reaped(Floor),
    /// The tombstone is not to be removed, or not yet.
    Kept,
}

/// The answers to a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// The store side's clock when the batch was applied.
    pub now: StoreTime,
    /// One for each operation, in order.
    pub answers: Vec<RowAnswer>,
}
