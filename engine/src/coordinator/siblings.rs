//! Conflicts that stand open: records of several values, listed, and resolved by somebody who has seen
//! all of them.
//!
//! ```text
//! the ledger: which records are apart ──> a page of them, each with the context of its values
//! one of the values, another, or a delete ──> compare-and-set over exactly that context
//! ```
//!
//! Invariant: whoever resolves has seen what the write supersedes. A record that has one value more, or
//! was resolved by somebody else, is left alone, and what it is now is given instead.

use super::read::place;
use super::{
    Condition, Coordinator, Lifetime, ReadError, Receipt, Write, WriteDoubt, WriteOutcome,
    WriteRefusal,
};
use crate::conflict::By;
use crate::env::{Env, RowHistory};
use crate::policy::Ruling;
use crate::record::{RecordId, Stored};
use crate::resolve;
use crate::settle;
use crate::version::{Dot, Sibling, Version, VersionVector};
use bytes::Bytes;
use std::fmt;

/// A record of which several values stand beside each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenConflict {
    /// Which.
    pub record: RecordId,
    /// All of the values.
    pub version: Version,
    /// What decides which of them is shown meanwhile.
    pub by: By,
}

/// What is to stand in place of several values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The one of this write.
    Take(Dot),
    /// This.
    Value(Bytes),
    /// Nothing.
    Delete,
}

/// A decision about a record, by somebody who has seen its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The dataset's name.
    pub dataset: String,
    /// The record's key in it.
    pub key: String,
    /// The history of what was seen.
    pub over: VersionVector,
    /// What is to stand.
    pub with: Resolution,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The values that it superseded.
    pub superseded: Vec<Sibling>,
    /// The write.
    pub receipt: Receipt,
}

/// Why a conflict was not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The record has no such name, or cannot be read now.
    Read(ReadError),
    /// The record is not what was seen.
    Moved {
        /// What it is; `None`: there is no such record.
        now: Option<Box<OpenConflict>>,
    },
    /// One value stands: there is nothing to decide.
    NotApart,
    /// No value of the record is of this write.
    NoSuchValue {
        /// It.
        dot: Dot,
    },
    /// The write did not happen for another reason.
    Refused(WriteRefusal),
    /// It may have happened.
    Unknown(WriteDoubt),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::Read(error) => error.fmt(f),
            ResolveError::Moved { now: Some(now) } => {
                let values = now.version.siblings().len();
                let is = if values == 1 { "value stands" } else { "values stand" };
                write!(
                    f,
                    "{} has moved on: {values} {is} there now; look at it again, and resolve with its \
                     new context",
                    now.record
                )
            }
            ResolveError::Moved { now: None } => {
                f.write_str("the record has moved on: it is not there any more")
            }
            ResolveError::NotApart => f.write_str(
                "one value stands there, and no other beside it: there is nothing to resolve; write \
                 over it as usual",
            ),
            ResolveError::NoSuchValue { dot } => write!(
                f,
                "no value of the record is of operation {dot}; `tidelock conflicts list --open` shows \
                 which there are"
            ),
            ResolveError::Refused(refusal) => refusal.fmt(f),
            ResolveError::Unknown(doubt) => doubt.fmt(f),
        }
    }
}

impl std::error::Error for ResolveError {}

impl From<ReadError> for ResolveError {
    fn from(error: ReadError) -> Self {
        ResolveError::Read(error)
    }
}

impl<E: Env> Coordinator<E> {
    /// Records of which several values stand beside each other, in the order of datasets and keys, behind
    /// a place: of one dataset or of all. `None`: not all of the authority's records are known yet.
    pub fn open_conflicts(
        &self,
        dataset: Option<&str>,
        after: Option<&RecordId>,
        limit: usize,
    ) -> Option<Vec<OpenConflict>> {
        let state = self.state();
        if !state.ledger.is_complete() {
            return None;
        }
        let datasets = state.policy.datasets.values();
        let asked = datasets.filter(|kept| dataset.is_none_or(|dataset| *kept.name == *dataset));
        let open = asked.flat_map(|kept| {
            let after_key = match after.map(|after| (after.dataset.cmp(&kept.name), &after.key)) {
                Some((std::cmp::Ordering::Greater, _)) => return None,
                Some((std::cmp::Ordering::Equal, key)) => Some(&**key),
                Some((std::cmp::Ordering::Less, _)) | None => None,
            };
            let apart = state.ledger.apart(&kept.name, after_key);
            Some(apart.map(|(key, version)| {
                let by = settle::decided(kept.conflict.ruling(key), &version);
                let record = RecordId { dataset: kept.name.clone(), key: key.clone() };
                OpenConflict { record, version, by }
            }))
        });
        Some(open.flatten().take(limit).collect())
    }

    /// Puts one value in the place of several, if they are still those that were seen.
    pub async fn resolve(&self, decision: Resolve) -> Result<Resolved, ResolveError> {
        let Resolve { dataset, key, over, with } = decision;
        let record = place(&self.policy(), &dataset, &key)?.1;
        let away = |error: String| ResolveError::Read(ReadError::Unavailable(error));
        let read = self.history(&record).await;
        let RowHistory { row, losers, .. } = read.map_err(|error| away(error.to_string()))?;
        let held = row.and_then(|row| resolve::held(self.site(), &record, &row));
        let held = match held {
            Some(held) if held.version.history == over => held,
            held => return Err(self.moved(&record, held.map(|held| held.version))),
        };
        if !held.version.is_apart() {
            return Err(ResolveError::NotApart);
        }
        let siblings = held.version.siblings();
        let value = match with {
            Resolution::Delete => None,
            Resolution::Value(bytes) => Some(bytes),
            Resolution::Take(dot) => {
                let taken = siblings.iter().find(|sibling| sibling.dot == dot);
                let taken = taken.ok_or(ResolveError::NoSuchValue { dot })?;
                let beside = losers.into_iter().find(|loser| loser.sibling == *taken);
                let value = match beside {
                    _ if taken.deleted => Stored::Tombstone,
                    Some(loser) => loser.value,
                    None if held.version.current() == taken => held.value.clone(),
                    None => return Err(away(format!("nobody has the bytes of {dot} at hand"))),
                };
                self.value_of(value).await.map_err(|error| away(error.to_string()))?
            }
        };
        let (condition, lifetime) = (Condition::Over(over), Lifetime::Usual);
        match self.write(Write { dataset, key, value, condition, lifetime }).await {
            WriteOutcome::Applied(receipt) => {
                Ok(Resolved { superseded: siblings.to_vec(), receipt })
            }
            WriteOutcome::Refused(WriteRefusal::ConditionFailed { .. }) => {
                let read = self.history(&record).await;
                let row = read.map_err(|error| away(error.to_string()))?.row;
                let held = row.and_then(|row| resolve::held(self.site(), &record, &row));
                Err(self.moved(&record, held.map(|held| held.version)))
            }
            WriteOutcome::Refused(refusal) => Err(ResolveError::Refused(refusal)),
            WriteOutcome::Unknown(doubt) => Err(ResolveError::Unknown(doubt)),
        }
    }

    fn moved(&self, record: &RecordId, now: Option<Version>) -> ResolveError {
        let policy = self.policy();
        let ruling = policy.datasets.get(&record.dataset).map(|d| d.conflict.ruling(&record.key));
        let now = now.map(|version| {
            let by = settle::decided(ruling.unwrap_or(&Ruling::Lww), &version);
            Box::new(OpenConflict { record: record.clone(), version, by })
        });
        ResolveError::Moved { now }
    }
}
