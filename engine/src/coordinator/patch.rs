//! Patches: a change to what stands, whatever that is.
//!
//! Invariant: a patch is applied to the authority's version and written over exactly that (rule V7), so
//! it takes effect once or not at all: two increments count twice, whoever sends them to whichever
//! coordinator of a site. Where the record moves on in between, the patch is applied to what stands
//! then. Between sites a patched document meets another like any value.

use super::Coordinator;
use super::read::ReadError;
use super::write::{Condition, Lifetime, Write, WriteOutcome, WriteRefusal};
use crate::env::{Clock, Env};
use crate::patch::{Patch, PatchError};
use crate::policy::{Kind, ReadLevel};
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// How often a patch is applied anew to a record that keeps moving on.
const TRIES_MAX: u32 = 16;
/// Before it is, at most, times the tries so far: several that patch one record come apart.
const PAUSE: Duration = Duration::from_millis(10);

/// What a caller wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patching {
    /// The dataset's name.
    pub dataset: String,
    /// The record's key in it.
    pub key: String,
    /// The change.
    pub patch: Patch,
    /// Exactly the version of this tag, else nothing is changed.
    pub over: Option<String>,
}

/// Why nothing was changed, beside what can keep any write from happening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unpatched {
    /// What stands could not be read.
    Read(ReadError),
    /// There is no such record.
    Missing {
        /// The dataset.
        dataset: String,
        /// The key.
        key: String,
    },
    /// Several values stand beside each other: a patch of one would decide against the others.
    Several {
        /// The dataset.
        dataset: String,
        /// The key.
        key: String,
    },
    /// The dataset keeps no JSON documents.
    NoDocuments {
        /// The dataset.
        dataset: String,
    },
    /// The patch does not apply to what stands.
    Patch(PatchError),
}

impl fmt::Display for Unpatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unpatched::Read(error) => error.fmt(f),
            Unpatched::Missing { dataset, key } => {
                write!(f, "there is no record {dataset}/{key} to patch; put it first")
            }
            Unpatched::Several { dataset, key } => write!(
                f,
                "several values of {dataset}/{key} stand beside each other; read them, and put what \
                 they make with the context of that"
            ),
            Unpatched::NoDocuments { dataset } => write!(
                f,
                "the dataset {dataset} keeps no JSON documents, so nothing in it can be patched; \
                 put the whole value"
            ),
            Unpatched::Patch(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Unpatched {}

impl<E: Env> Coordinator<E> {
    /// Changes one record; for a caller that waits until `deadline` (monotonic).
    pub async fn patch(
        &self,
        patching: Patching,
        deadline: Option<Duration>,
    ) -> Result<WriteOutcome, Unpatched> {
        let Patching { dataset, key, patch, over } = patching;
        let kind = self.policy().datasets.get(dataset.as_str()).map(|dataset| dataset.kind);
        if matches!(kind, Some(Kind::Text | Kind::Binary)) {
            return Err(Unpatched::NoDocuments { dataset });
        }
        for tries in 1.. {
            let read = self.read(&dataset, &key, Some(ReadLevel::Latest)).await;
            let read = read.map_err(Unpatched::Read)?;
            if !read.siblings.is_empty() {
                return Err(Unpatched::Several { dataset, key });
            }
            let (Some(stands), Some(etag)) = (read.value, read.etag) else {
                return Err(Unpatched::Missing { dataset, key });
            };
            if over.as_ref().is_some_and(|over| *over != etag) {
                let current = Some(etag);
                return Ok(WriteOutcome::Refused(WriteRefusal::ConditionFailed { current }));
            }
            let patched = patch.apply(&stands).map_err(Unpatched::Patch)?;
            let write = Write {
                dataset: dataset.clone(),
                key: key.clone(),
                value: Some(Bytes::from(patched)),
                condition: Condition::Match(etag),
                // What a patch does not name it leaves alone, and when the value goes is no part of it.
                lifetime: read.expires_at_ms.map_or(Lifetime::Endless, Lifetime::Until),
            };
            match self.write_by(write, deadline).await {
                WriteOutcome::Refused(WriteRefusal::ConditionFailed { .. })
                    if over.is_none() && tries < TRIES_MAX =>
                {
                    let pause = u64::try_from((PAUSE * tries).as_millis()).unwrap_or(u64::MAX);
                    let pause = Duration::from_millis(self.env.random() % pause.max(1));
                    self.env.clock().sleep(pause).await;
                }
                WriteOutcome::Refused(WriteRefusal::ConditionFailed { .. }) if over.is_none() => {
                    return Ok(WriteOutcome::Refused(WriteRefusal::Busy));
                }
                outcome => return Ok(outcome),
            }
        }
        unreachable!("the last try returns")
    }
}
