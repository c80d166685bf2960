//! Erasing: bytes that the law, or whoever they are about, wants gone are taken out of the authority,
//! and everything else that is known of their writes stays.
//!
//! ```text
//! a value that lost, or was superseded ──> dot, stamp, hash: as they were
//!                                          bytes: gone, and never taken again
//! ```
//!
//! Invariant: what a record is now is not erased, nor any of the values that stand beside each other in
//! it: their bytes are copied, merged and compared. A write that was erased is erased for good, at this
//! authority: whoever brings its bytes again, another site or an install that was long on its way, is
//! taken for one that brings none. So a merge that would start from it goes as if it were not kept any
//! more.

use crate::audit::Words;
use crate::record::RecordId;
use crate::row::StoreTime;
use crate::version::{Dot, Sibling, Version};
use serde::{Deserialize, Serialize};

/// Writes whose bytes are erased in one transaction, at most.
pub const ERASED_MAX: usize = 256;

/// That bytes were erased, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// When, by the clock of the authority that did so first.
    pub at: StoreTime,
    /// Who.
    pub by: Words,
    /// Why.
    pub reason: Words,
}

/// What is to be erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erase {
    /// Of which record.
    pub record: RecordId,
    /// The bytes of these writes, [`ERASED_MAX`] at most.
    pub writes: Vec<Dot>,
    /// Who asks.
    pub by: Words,
    /// Why.
    pub reason: Words,
}

/// What became of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EraseAnswer {
    /// Their bytes are gone: of those that were asked for and are known here, be it that they were
    /// erased before. Two of one write are what it wrote, and what was made of that.
    Erased(Vec<Sibling>),
    /// These are values of the record as it stands. Nothing was erased.
    Stand(Vec<Dot>),
}

/// Those of the writes that are values of the record as it stands; none of it is erased then.
pub fn standing(version: Option<&Version>, writes: &[Dot]) -> Vec<Dot> {
    let siblings = version.map_or(&[][..], Version::siblings);
    let stands = |dot: &Dot| siblings.iter().any(|sibling| sibling.dot == *dot);
    writes.iter().copied().filter(stands).collect()
}
