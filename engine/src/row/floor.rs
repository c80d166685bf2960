//! What is left of a dataset's tombstones once they are reaped, and which may be (rule A6).

use super::{Row, Seq};
use crate::version::{Stamp, Version, VersionId, VersionVector};
use serde::{Deserialize, Serialize};

/// What is left of a dataset's tombstones once they are reaped (rule A6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// What they had seen, joined. A version at or below it that no row here includes is dead: it
    /// was deleted, and the delete is forgotten.
    pub history: VersionVector,
    /// Above every sequence and every epoch that a reaped row has had; rows that begin anew begin there.
    pub row_seq: u64,
    /// The latest stamp among them.
    pub stamp: Stamp,
    /// Up to where each actor's writes are decided here: in the authority, or certainly never. The
    /// floor stays at or below it, since a write that is still on its way must not look dead.
    pub settled: VersionVector,
}

impl Floor {
    /// True when all that a version would bring to a row was deleted, and the tombstone reaped.
    pub fn buries(&self, version: &Version, over: Option<&Row>) -> bool {
        let stands = over.map(Row::history).unwrap_or_default();
        !stands.covers(&version.history) && self.history.join(&stands).covers(&version.history)
    }

    /// What it is once this row's tombstone is gone.
    pub(super) fn reap(&self, row: &Row) -> Floor {
        Floor {
            history: self.history.join(&row.history()),
            row_seq: self.row_seq.max(row.row_seq).max(row.epoch.0) + 1,
            stamp: row.version.as_ref().map_or(self.stamp, |v| v.stamp().max(self.stamp)),
            settled: self.settled.clone(),
        }
    }
}

/// A tombstone may go when nothing is owed for it (rule A5c), every write that it has seen is decided
/// here, and it is not the feed's last entry, which says where the feed has come to.
pub(super) fn is_reapable(row: &Row, floor: &Floor, version: &VersionId, next_seq: Seq) -> bool {
    let deleted = row.version.as_ref().is_some_and(|v| v.current().deleted && v.id() == *version);
    deleted
        && row.owed.is_empty()
        && !row.has_foreign_write()
        && floor.settled.covers(&row.history())
        && row.seq.0 + 1 < next_seq.0
}
