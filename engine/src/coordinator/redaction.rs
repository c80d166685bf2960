//! Redaction: what an operator has erased of a record's past, after having seen what that is.
//!
//! ```text
//! what the authority keeps of a record ──> those of its values that do not stand ──> a preview
//! the writes that it named, and why    ──> one transaction at the authority
//! ```
//!
//! Invariant: nothing is erased that nobody was shown: whoever asks names each write. What stands is
//! refused, here and in the transaction (see [`crate::erasure`]).

use super::read::place;
use super::{Coordinator, ReadError};
use crate::conflict::{ConflictQuery, Which};
use crate::env::{Doubt, Env, Outcome, RowHistory, RowStore, Storage, Unavailable};
use crate::erasure::{self, ERASED_MAX, Erase, EraseAnswer};
use crate::record::{RecordId, StoreId, Stored};
use crate::version::{Dot, Sibling, Version};
use std::fmt;

/// Whose past is to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redact {
    /// The value of this write, which lost a conflict.
    Conflict(Dot),
    /// All of a record.
    Record {
        /// The dataset's name.
        dataset: String,
        /// The record's key in it.
        key: String,
    },
}

/// What can be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// Of which record.
    pub record: RecordId,
    /// Values whose bytes the authority keeps and that do not stand, no more than [`ERASED_MAX`].
    pub values: Vec<Sibling>,
    /// There are more of them.
    pub more: bool,
    /// What stands of what was asked for, and so is not erased.
    pub standing: Vec<Sibling>,
}

/// Why nothing was erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedactError {
    /// No such conflict is known to this site's authority.
    UnknownConflict,
    /// The record has no such name, or cannot be read now.
    Read(ReadError),
    /// These are values of the record as it stands.
    Stands {
        /// The record.
        record: RecordId,
        /// The writes.
        writes: Vec<Dot>,
    },
    /// None, or too many, of the writes were named.
    Bound {
        /// How many.
        named: usize,
    },
    /// The authority may have erased them. The same again is harmless.
    Unknown(Doubt),
}

impl fmt::Display for RedactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedactError::UnknownConflict => {
                f.write_str("there is no such conflict; `tidelock conflicts list` shows them")
            }
            RedactError::Read(error) => error.fmt(f),
            RedactError::Stands { record, writes } => {
                let writes: Vec<String> = writes.iter().map(|dot| dot.to_text()).collect();
                write!(
                    f,
                    "{} of {record} stands there now, and nothing was erased; write over the record, \
                     delete or resolve it first",
                    writes.join(", ")
                )
            }
            RedactError::Bound { named } => {
                write!(f, "{named} writes were named; name 1 to {ERASED_MAX} at once")
            }
            RedactError::Unknown(doubt) => write!(
                f,
                "D1 did not say whether the bytes are erased ({doubt}); send the same again, which is \
                 harmless"
            ),
        }
    }
}

impl std::error::Error for RedactError {}

impl From<ReadError> for RedactError {
    fn from(error: ReadError) -> Self {
        RedactError::Read(error)
    }
}

impl From<Unavailable> for RedactError {
    fn from(unavailable: Unavailable) -> Self {
        RedactError::Read(ReadError::Unavailable(unavailable.0.into_owned()))
    }
}

impl<E: Env> Coordinator<E> {
    /// What would be erased. Nothing is.
    pub async fn redaction(&self, of: Redact) -> Result<Redaction, RedactError> {
        let (record, only) = match of {
            Redact::Record { dataset, key } => (place(&self.policy(), &dataset, &key)?.1, None),
            Redact::Conflict(lost) => {
                let query = ConflictQuery { dataset: None, which: Which::Lost(lost), limit: 1 };
                let conflict = self.conflicts(query).await?.pop();
                (conflict.ok_or(RedactError::UnknownConflict)?.record, Some(lost))
            }
        };
        let RowHistory { row, losers, writes } = self.history(&record).await?;
        let version = row.and_then(|row| row.version);
        Ok(redactable(record, version.as_ref(), only, |keep| {
            losers.iter().for_each(|loser| keep(&loser.sibling, &loser.value));
            writes.iter().for_each(|written| keep(&written.sibling, &written.value));
        }))
    }

    /// Erases the bytes of these writes at this site's authority; gives whose are gone.
    pub async fn redact(
        &self,
        dataset: &str,
        key: &str,
        writes: Vec<Dot>,
        by: &str,
        reason: &str,
    ) -> Result<(RecordId, Vec<Sibling>), RedactError> {
        let record = place(&self.policy(), dataset, key)?.1;
        if writes.is_empty() || writes.len() > ERASED_MAX {
            return Err(RedactError::Bound { named: writes.len() });
        }
        self.not_held(StoreId::D1)?;
        let (by, reason) = (by.into(), reason.into());
        let erase = Erase { record: record.clone(), writes, by, reason };
        let away = || Unavailable("D1 does not answer; try again".into());
        let erase = self.env.storage().d1().erase(erase);
        match self.write_to(StoreId::D1, erase).await.ok_or_else(away)? {
            Outcome::Applied(EraseAnswer::Erased(erased)) => Ok((record, erased)),
            Outcome::Applied(EraseAnswer::Stand(writes)) => {
                Err(RedactError::Stands { record, writes })
            }
            Outcome::Refused(refusal) => Err(Unavailable(refusal.to_string().into()).into()),
            Outcome::Unknown(doubt) => Err(RedactError::Unknown(doubt)),
        }
    }
}

/// Of the values that are kept of a record, those that may be erased, each once.
fn redactable(
    record: RecordId,
    version: Option<&Version>,
    only: Option<Dot>,
    kept: impl FnOnce(&mut dyn FnMut(&Sibling, &Stored)),
) -> Redaction {
    let (mut values, mut standing): (Vec<Sibling>, Vec<Sibling>) = (Vec::new(), Vec::new());
    kept(&mut |sibling, value| {
        let has_bytes = match value {
            Stored::Inline(_) | Stored::Reference { .. } => true,
            Stored::Tombstone | Stored::Erased(_) => false,
        };
        if !has_bytes || only.is_some_and(|only| only != sibling.dot) {
            return;
        }
        let stands = !erasure::standing(version, &[sibling.dot]).is_empty();
        let noted = if stands { &mut standing } else { &mut values };
        if !noted.contains(sibling) {
            noted.push(*sibling);
        }
    });
    let current = version.map_or(&[][..], Version::siblings);
    let rest = current
        .iter()
        .filter(|sibling| !sibling.deleted && only.is_none_or(|only| only == sibling.dot));
    for sibling in rest {
        if !standing.iter().any(|noted| noted.dot == sibling.dot) {
            standing.push(*sibling);
        }
    }
    values.sort_by_key(|value| (value.stamp, value.dot));
    let more = values.len() > ERASED_MAX;
    values.truncate(ERASED_MAX);
    Redaction { record, values, more, standing }
}
