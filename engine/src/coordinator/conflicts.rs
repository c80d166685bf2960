//! Conflicts after they were settled: both values can be read, and the one that lost can be written
//! again.
//!
//! Invariant: nothing here settles a conflict. What lost comes back as a write like any other, over
//! exactly the version that whoever decides has seen, so it supersedes what won and is superseded in
//! turn; a record that has moved on meanwhile is left alone.

use super::Coordinator;
use super::write::{Condition, Lifetime, Write, WriteOutcome};
use crate::conflict::{Conflict, ConflictQuery, Which};
use crate::env::{Env, RowHistory, RowStore, Storage, Unavailable};
use crate::erasure::Erasure;
use crate::record::{Loser, RecordId, StoreId, Stored, Written};
use crate::resolve;
use crate::settle::{self, Rules};
use crate::version::{Dot, Sibling, VersionVector};
use bytes::Bytes;
use std::fmt;

/// A settled conflict with the values that are still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disputed {
    /// Who lost to whom.
    pub conflict: Conflict,
    /// The value that lost.
    pub lost: Lost,
    /// What the values of the conflict were written over.
    pub base: Started,
    /// What stands now; `None`: no such record is there any more.
    pub now: Option<Standing>,
}

/// What there is of a value that lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was a delete.
    Deleted,
    /// Its bytes.
    Value(Bytes),
    /// That they were erased.
    Erased(Erasure),
}

/// What concurrent writes had in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// It is not kept: it is, for a while, where values are merged.
    Unknown,
    /// There was no such record.
    Nothing,
    /// This.
    From(Bytes),
}

/// What a record is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Names its version.
    pub etag: String,
    /// The write.
    pub sibling: Sibling,
    /// Its bytes; `None`: it was deleted, or its time has passed.
    pub value: Option<Bytes>,
}

impl Disputed {
    /// True when the value that won is the one that stands.
    pub fn winner_stands(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.sibling.dot == self.conflict.winner)
    }
}

/// Why what lost was not written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// No such conflict is known to this site's authority.
    Unknown,
    /// The bytes that lost were erased.
    Erased(Erasure),
    /// The authority, or the store that has the bytes, does not answer. The same again, later.
    Unavailable(String),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Unknown => {
                f.write_str("there is no such conflict; `tidelock conflicts list` shows them")
            }
            RestoreError::Erased(Erasure { by, reason, .. }) => write!(
                f,
                "its bytes were erased by {by} for: {reason}; nothing is left here that could be given \
                 or written again"
            ),
            RestoreError::Unavailable(detail) => write!(f, "it cannot be read now: {detail}"),
        }
    }
}

impl std::error::Error for RestoreError {}

impl From<Unavailable> for RestoreError {
    fn from(unavailable: Unavailable) -> Self {
        RestoreError::Unavailable(unavailable.to_string())
    }
}

impl<E: Env> Coordinator<E> {
    /// Settled conflicts, as the authority remembers them.
    pub async fn conflicts(&self, query: ConflictQuery) -> Result<Vec<Conflict>, Unavailable> {
        self.not_held(StoreId::D1)?;
        let found = self.read_from(StoreId::D1, self.env.storage().d1().conflicts(query)).await;
        found.ok_or(Unavailable("D1 does not answer; try again".into()))
    }

    /// One of them, by the write that lost, with the values; where several records have lost by a
    /// write of that name, the first.
    pub async fn conflict(&self, lost: Dot) -> Result<Disputed, RestoreError> {
        let query = ConflictQuery { dataset: None, which: Which::Lost(lost), limit: 1 };
        let conflict = self.conflicts(query).await?.pop().ok_or(RestoreError::Unknown)?;
        let history = self.history(&conflict.record).await?;
        let base = self.started(&conflict, &history.losers, &history.writes);
        let loser = history.losers.into_iter().find(|loser| loser.sibling.dot == lost);
        let loser = loser.ok_or(RestoreError::Unknown)?;
        let held = |row| resolve::held(self.site(), &conflict.record, &row);
        let now = match history.row.and_then(held) {
            None => None,
            Some(held) => {
                let sibling = *held.version.current();
                let gone = sibling.deleted || sibling.has_expired(self.store_time());
                let value = if gone { None } else { self.value_of(held.value).await? };
                Some(Standing { etag: held.version.etag(), sibling, value })
            }
        };
        let lost = match self.value_of(loser.value).await {
            Ok(None) => Lost::Deleted,
            Ok(Some(bytes)) => Lost::Value(bytes),
            Err(RestoreError::Erased(erasure)) => Lost::Erased(erasure),
            Err(error) => return Err(error),
        };
        Ok(Disputed { conflict, lost, base, now })
    }

    /// All that the authority keeps of a record.
    pub(super) async fn history(&self, record: &RecordId) -> Result<RowHistory, Unavailable> {
        self.not_held(StoreId::D1)?;
        let histories = self.env.storage().d1().histories(vec![record.clone()]);
        let found = self.read_from(StoreId::D1, histories).await.and_then(|mut all| all.pop());
        found.ok_or(Unavailable("D1 does not answer; try again".into()))
    }

    /// What those that met in a conflict were written over.
    fn started(&self, conflict: &Conflict, losers: &[Loser], writes: &[Written]) -> Started {
        let policy = self.policy();
        let Some(dataset) = policy.datasets.get(&conflict.record.dataset) else {
            return Started::Unknown;
        };
        let beside = losers.iter().filter(|loser| loser.winner == conflict.winner);
        let beside = beside.map(|loser| loser.sibling.dot).chain([conflict.winner]);
        let over = beside.map(|dot| {
            let written = writes.iter().find(|written| written.sibling.dot == dot);
            written.map(|written| written.over.clone())
        });
        let over: Option<Vec<VersionVector>> = over.collect();
        let common = over.and_then(|over| over.into_iter().reduce(|all, one| all.meet(&one)));
        let rules = Rules::of(dataset, &conflict.record);
        match common.and_then(|common| settle::stood(rules, writes, &common)) {
            Some(Stored::Tombstone) => Started::Nothing,
            Some(Stored::Inline(bytes)) => Started::From(bytes),
            Some(Stored::Reference { .. } | Stored::Erased(_)) | None => Started::Unknown,
        }
    }

    /// Writes what lost again, over the version of this tag; `None`: over none. Gives the conflict, and
    /// what became of the write.
    pub async fn restore(
        &self,
        lost: Dot,
        over: Option<String>,
    ) -> Result<(Conflict, WriteOutcome), RestoreError> {
        let Disputed { conflict, lost: kept, .. } = self.conflict(lost).await?;
        let value = match kept {
            Lost::Deleted => None,
            Lost::Value(bytes) => Some(bytes),
            Lost::Erased(erasure) => return Err(RestoreError::Erased(erasure)),
        };
        let condition = over.map_or(Condition::Absent, Condition::Match);
        let RecordId { dataset, key } = &conflict.record;
        tracing::warn!(record = %conflict.record, lost = %lost, "an operator restores what had lost");
        let (dataset, key) = (dataset.to_string(), key.to_string());
        let write = Write { dataset, key, value, condition, lifetime: Lifetime::Usual };
        let outcome = self.write(write).await;
        Ok((conflict, outcome))
    }

    /// The bytes of a value, wherever they stand; `None`: it is a delete.
    pub(super) async fn value_of(&self, value: Stored) -> Result<Option<Bytes>, RestoreError> {
        match value {
            Stored::Tombstone => Ok(None),
            Stored::Inline(bytes) => Ok(Some(bytes)),
            Stored::Erased(erasure) => Err(RestoreError::Erased(*erasure)),
            Stored::Reference { hash, .. } => {
                let blob = self.blob(hash).await;
                blob.map(Some).map_err(|doubt| RestoreError::Unavailable(doubt.to_string()))
            }
        }
    }
}
