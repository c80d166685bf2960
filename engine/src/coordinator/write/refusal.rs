//! Why a write did not happen, and whether the same may succeed later.

use super::SIBLINGS_MAX;
use crate::backlog::Full;
use crate::record::KeyError;
use crate::version::Dot;
use std::fmt;

/// Why a write did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteRefusal {
    /// No such dataset.
    UnknownDataset {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The key cannot be kept.
    Key(KeyError),
    /// The value is larger than the dataset can keep.
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The largest that can be kept.
        bytes_max: usize,
    },
    /// The value is not of the dataset's kind.
    WrongKind {
        /// What is wrong with it.
        problem: String,
    },
    /// The record is not what the condition asks for.
    ConditionFailed {
        /// The tag of what it is; `None`: there is no record.
        current: Option<String>,
    },
    /// Too much is waiting for the authority already. The same again, later.
    QueueFull {
        /// Intents that wait.
        waiting: usize,
    },
    /// Too much of the dataset is waiting already, or it could not be kept as promised. The same
    /// again, later.
    DatasetFull {
        /// Which.
        dataset: String,
        /// What is in the way.
        full: Full,
    },
    /// The journal's disk has no room. The same again, when it has.
    JournalFull {
        /// The disk's words.
        detail: String,
    },
    /// Too much of the dataset is refused by a store for good, and waits for a decision.
    DeadLettersFull {
        /// How much.
        letters: usize,
    },
    /// The record's current entry is not known, and the authority does not tell. The same again,
    /// later.
    AuthorityUnreachable {
        /// The authority's words.
        detail: String,
    },
    /// The caller has read a version that has not come here yet, so what it writes now could seem
    /// older than what it has read (rule V3). The same again, later or where it was read.
    ContextAhead {
        /// A write that the caller has seen.
        dot: Dot,
    },
    /// Another conditional write to this record is under way. The same again, later.
    Busy,
    /// What the write would replace under its condition includes nothing of a dead letter, whose part in a merge
    /// would be lost. The same again once that was retried or discarded; without a condition, now.
    OverDeadLetter {
        /// The write that waits as one.
        dot: Dot,
    },
    /// The caller's deadline has passed, so the write was not begun.
    DeadlinePassed,
    /// This coordinator is stopping. The same again, elsewhere or later.
    Stopping,
    /// The coordinator is being retired. The same at another.
    Leaving,
    /// The value is to expire, and the dataset's concurrent values are not decided by the later stamp
    /// alone.
    CannotExpire {
        /// Which.
        dataset: String,
    },
    /// Too many values stand beside each other already that the caller has not read.
    TooManySiblings {
        /// Of which dataset.
        dataset: String,
        /// Of which record.
        key: String,
    },
}

impl WriteRefusal {
    /// True when the same write may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            WriteRefusal::QueueFull { .. }
            | WriteRefusal::DatasetFull { .. }
            | WriteRefusal::JournalFull { .. }
            | WriteRefusal::DeadLettersFull { .. }
            | WriteRefusal::AuthorityUnreachable { .. }
            | WriteRefusal::ContextAhead { .. }
            | WriteRefusal::Busy
            | WriteRefusal::OverDeadLetter { .. }
            | WriteRefusal::DeadlinePassed
            | WriteRefusal::Stopping
            | WriteRefusal::Leaving => true,
            WriteRefusal::UnknownDataset { .. }
            | WriteRefusal::Key(_)
            | WriteRefusal::TooLarge { .. }
            | WriteRefusal::WrongKind { .. }
            | WriteRefusal::CannotExpire { .. }
            | WriteRefusal::TooManySiblings { .. }
            | WriteRefusal::ConditionFailed { .. } => false,
        }
    }
}

impl fmt::Display for WriteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteRefusal::UnknownDataset { asked, known } => {
                write!(f, "there is no dataset {asked:?}; the datasets are {}", known.join(", "))
            }
            WriteRefusal::Key(error) => error.fmt(f),
            WriteRefusal::TooLarge { bytes, bytes_max } => write!(
                f,
                "the value has {bytes} bytes and the dataset can keep {bytes_max}; store a \
                 smaller one, or keep the dataset in R2 with oversize = \"reference\""
            ),
            WriteRefusal::WrongKind { problem } => f.write_str(problem),
            WriteRefusal::ConditionFailed { current: Some(etag) } => {
                write!(f, "the record has moved on: its version is now \"{etag}\"")
            }
            WriteRefusal::ConditionFailed { current: None } => {
                f.write_str("the record does not exist")
            }
            WriteRefusal::QueueFull { waiting } => write!(
                f,
                "{waiting} writes already wait for the authority; try again when it has caught up"
            ),
            WriteRefusal::DatasetFull { dataset, full } => {
                write!(f, "the dataset {dataset} takes in no more now: {full}; try again later")
            }
            WriteRefusal::JournalFull { detail } => {
                write!(f, "the journal's disk is full ({detail}); free space on it, then try again")
            }
            WriteRefusal::DeadLettersFull { letters } => write!(
                f,
                "{letters} writes of this dataset are refused by a store for good and wait for a \
                 decision; look at `tidelock dlq list`, then retry or discard them"
            ),
            WriteRefusal::AuthorityUnreachable { detail } => write!(
                f,
                "the record's current version is not known here and the authority does not \
                 answer ({detail}); try again"
            ),
            WriteRefusal::ContextAhead { dot } => write!(
                f,
                "the context includes the write {dot}, which has not come here yet; try again, or \
                 write at coordinator {}",
                dot.actor.node
            ),
            WriteRefusal::Busy => {
                f.write_str("a conditional write to this record is under way; try again")
            }
            WriteRefusal::DeadlinePassed => f.write_str(
                "the caller's deadline passed before the write was begun; try again, with more time",
            ),
            WriteRefusal::Stopping => f.write_str("this coordinator is stopping; try again"),
            WriteRefusal::CannotExpire { dataset } => write!(
                f,
                "values of {dataset} cannot expire, since its concurrent values are not decided by \
                 \"lww\"; write it without a time to live"
            ),
            WriteRefusal::TooManySiblings { dataset, key } => write!(
                f,
                "{SIBLINGS_MAX} values of {dataset}/{key} stand beside each other that this write's \
                 context has not seen; read the record and write with the context of that"
            ),
            WriteRefusal::OverDeadLetter { dot } => write!(
                f,
                "the write {dot} of this record waits as a dead letter, and what it adds would be lost \
                 to a write that does not include it; retry or discard it (`tidelock dlq list`), or write \
                 without a condition"
            ),
            WriteRefusal::Leaving => {
                f.write_str("this coordinator is being retired; write at another")
            }
        }
    }
}

impl std::error::Error for WriteRefusal {}
