//! Conflicts that were settled, as the authority remembers them.
//!
//! ```text
//! a merge is installed ──> each value that lost, beside the winner, in one transaction (rule V6)
//!                          └── in the order of the change feed: who lost, to whom, and when
//! ```
//!
//! Invariant: a conflict is named by the write that lost. A value that loses again, against another
//! winner or once more against the same, is the conflict that is known already. Its bytes are asked
//! for by themselves, since lists of conflicts must stay small.

use crate::record::RecordId;
use crate::row::{Seq, StoreTime};
use crate::version::{Dot, Sibling};
use std::sync::Arc;

/// One value that lost, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Whose value.
    pub record: RecordId,
    /// The place in the change feed of the install that kept it.
    pub seq: Seq,
    /// When that was, by the store side's clock; 0: before this was noted.
    pub at: StoreTime,
    /// The write that lost; it names the conflict.
    pub lost: Sibling,
    /// The write that won.
    pub winner: Dot,
    /// What that was; `None`: this was not noted.
    pub won: Option<Sibling>,
}

/// Where a conflict stands among the others of its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Of its install.
    pub seq: Seq,
    /// Several may lose in one install.
    pub lost: Dot,
}

impl Conflict {
    /// Where it stands.
    pub fn place(&self) -> Place {
        Place { seq: self.seq, lost: self.lost.dot }
    }
}

/// Which conflicts are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The oldest first, behind a place; `None`: from the first.
    After(Option<Place>),
    /// The newest first, before a place; `None`: from the last.
    Before(Option<Place>),
    /// The one in which this write lost.
    Lost(Dot),
}

/// A question for conflicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictQuery {
    /// Of this dataset alone.
    pub dataset: Option<Arc<str>>,
    /// Which of them.
    pub which: Which,
    /// So many at most; fewer only at the end.
    pub limit: usize,
}
