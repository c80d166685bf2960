//! The journal: what a coordinator has acknowledged, or is about to, and still owes to the
//! authority.
//!
//! Invariant: an intent stands here, durable, from before its first message leaves the
//! coordinator (rule V2) until the authority holds its version together with the mark for every
//! projection (rule A5c). Dropping an intent late costs a look at the authority; dropping it early
//! loses a write.
//!
//! [`redb`] holds the journal that runs in production; the loop that lets one fsync carry every
//! waiting intent is in `coordinator`.

pub mod redb;

use crate::breaker::Forced;
use crate::dead_letter::DeadLetter;
use crate::record::{Loser, RecordId, Stored, Written};
use crate::row::Expect;
use crate::version::{Dot, Version};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A write that was given a dot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Which record.
    pub record: RecordId,
    /// Its version: what the writer knew, and its own dot.
    pub version: Version,
    /// The bytes, whole; or a tombstone.
    pub value: Stored,
    /// Values that this write was resolved against before it got its dot (the chain rule).
    pub losers: Vec<Loser>,
    /// For a conditional write: it happens over exactly this row, or not at all.
    pub only_over: Option<Expect>,
}

impl Intent {
    /// The write's own dot.
    pub fn dot(&self) -> Dot {
        self.version.current().dot
    }

    /// The write as it was made.
    pub fn written(&self) -> Option<Written> {
        let dot = self.dot();
        let (sibling, over) = self.version.sides().find(|(sibling, _)| sibling.dot == dot)?;
        let (sibling, over, value) = (*sibling, over.clone(), self.value.clone());
        Some(Written { sibling, over, value })
    }

    /// True when its condition is that there is no such record, and never was one.
    pub fn is_over_nothing(&self) -> bool {
        let own = self.dot().actor;
        let over_none = self.only_over.as_ref().is_some_and(|over| over.history.is_empty());
        over_none && self.version.history.iter().all(|(actor, _)| *actor == own)
    }
}

/// What one commit makes durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalBatch {
    /// To be kept, in order.
    pub intents: Vec<Intent>,
    /// No longer owed.
    pub settled: Vec<Dot>,
    /// What became of dead letters, in order.
    pub letters: Vec<LetterNote>,
    /// Every breaker that an operator has forced, in place of what was kept of them; `None`: that
    /// stays as it is.
    pub forced: Option<Vec<Forced>>,
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterNote {
    /// It is dead, with this history.
    Dead(Box<DeadLetter>),
    /// It is no more, by its id.
    Ended(String),
}

/// What a journal remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Everything still owed, in commit order.
    pub intents: Vec<Intent>,
    /// The dead letters, in no order.
    pub letters: Vec<DeadLetter>,
    /// The breakers that an operator has forced.
    pub forced: Vec<Forced>,
}

/// Why the journal cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalError {
    /// The disk has no room. Of a commit: nothing of it was written.
    Full(String),
    /// Reading or writing failed.
    Io(String),
    /// What was read is not what was written.
    Damaged(String),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::Full(detail) => {
                write!(f, "the journal's disk is full ({detail}); free space, then try again")
            }
            JournalError::Io(detail) => {
                write!(f, "the journal cannot be read or written ({detail}); check the disk")
            }
            JournalError::Damaged(detail) => write!(
                f,
                "the journal is damaged ({detail}); nothing of it was used. Restore it from a \
                 backup, or move it away to start without the writes it still owed"
            ),
        }
    }
}

impl std::error::Error for JournalError {}
