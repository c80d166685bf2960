//! The change feed of an authority, by which coordinators learn of each other's writes.

use super::{Seq, StoreTime};
use crate::record::{RecordId, StoreId};
use crate::version::{Actor, Stamp, Version};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One entry of the authority's change feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which record.
    pub record: RecordId,
    /// The version that was installed; none when only foreign bytes are there.
    pub version: Option<Version>,
    /// The row sequence.
    pub row_seq: u64,
    /// A foreign write came after the version.
    pub foreign: bool,
    /// The place in the feed.
    pub seq: Seq,
}

/// What a coordinator asks of the authority again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Who asks: its own lapsed incarnations' marks are given at once.
    pub actor: Actor,
    /// Changes after this place.
    pub after: Seq,
    /// At most so many changes, and so many marks.
    pub limit: usize,
}

/// The answer to a [`Poll`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollPage {
    /// The store side's clock.
    pub now: StoreTime,
    /// In feed order.
    pub changes: Vec<Change>,
    /// False: more changes wait after the last of these.
    pub complete: bool,
    /// The feed's last place.
    pub head: Seq,
    /// The datasets in which tombstones were reaped, and the latest stamp of these: whoever knows a
    /// dataset by its feed alone has not seen them.
    pub reaped: Vec<(Arc<str>, Stamp)>,
    /// Marks that nobody holds, or that the asking coordinator's former life held.
    pub lapsed: Vec<(RecordId, StoreId)>,
    /// When the first of the rows whose marks are all held has one that is not; `None`: no row
    /// has marks that are all held.
    pub next_lapse: Option<StoreTime>,
}
