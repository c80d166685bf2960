//! Patches: a change to what stands, whatever that is.
//!
//! Invariant: a patch is applied to the authority's version and written over exactly that (rule V7), so
//! it takes effect once or not at all: two increments count twice, whoever sends them to whichever
//! coordinator of a site. Where the record moves on in between, the patch is applied to what stands
//! then. Between sites a patched document meets another like any value.
//!
//! ```text
//! D1 answers ─────────────────────────> applied to what stands there, over exactly that
//! it does not, or a dead letter waits here,
//! and the record's merge makes the same
//! of the patch later ─────────────────> applied to what is known here, with the history of that
//! ```
//!
//! The second is taken where values are merged: D1 finds in the write what its patch did, as the difference
//! between the value and what it was written over, and that counts once beside whatever has come meanwhile
//! (rule V8).

use super::Coordinator;
use super::read::{ReadError, place};
use super::write::{Condition, Lifetime, Write, WriteOutcome, WriteRefusal};
use crate::env::{Clock, Env};
use crate::json::Node;
use crate::patch::{Operation, Patch, PatchError};
use crate::policy::{Conflicts, Kind, ReadLevel, Ruling};
use crate::record::RecordId;
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
            let read = match self.read(&dataset, &key, Some(ReadLevel::Latest)).await {
                Ok(read) => read,
                Err(away @ ReadError::Unavailable(_)) if over.is_none() => {
                    let patched = self.patch_known(&dataset, &key, &patch, deadline).await;
                    return patched.ok_or(Unpatched::Read(away));
                }
                Err(error) => return Err(Unpatched::Read(error)),
            };
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
                    self.pause(tries).await;
                }
                WriteOutcome::Refused(WriteRefusal::ConditionFailed { .. }) if over.is_none() => {
                    return Ok(WriteOutcome::Refused(WriteRefusal::Busy));
                }
                refused @ WriteOutcome::Refused(WriteRefusal::OverDeadLetter { .. })
                    if over.is_none() =>
                {
                    let patched = self.patch_known(&dataset, &key, &patch, deadline).await;
                    return Ok(patched.unwrap_or(refused));
                }
                outcome => return Ok(outcome),
            }
        }
        unreachable!("the last try returns")
    }

    /// Changes a record while the authority does not answer, or does not take what was written here before, if the
    /// merge there makes of it what the patch says.
    async fn patch_known(
        &self,
        dataset: &str,
        key: &str,
        patch: &Patch,
        deadline: Option<Duration>,
    ) -> Option<WriteOutcome> {
        for tries in 1..=TRIES_MAX {
            let policy = self.policy();
            let (of, record) = place(&policy, dataset, key).ok()?;
            let (stands, context) = self.read_known(of, &record).await?;
            if !keeps_its_effect(patch, &of.conflict, &record, &stands) {
                return None;
            }
            // What it cannot be applied to here may be another at the authority.
            let patched = patch.apply(&stands).ok()?;
            let write = Write {
                dataset: dataset.to_owned(),
                key: key.to_owned(),
                value: Some(Bytes::from(patched)),
                condition: Condition::Context(context),
                lifetime: Lifetime::Endless,
            };
            match self.write_by(write, deadline).await {
                // Another write has come between, and what it wrote is read next.
                WriteOutcome::Refused(WriteRefusal::AuthorityUnreachable { .. })
                    if tries < TRIES_MAX =>
                {
                    self.pause(tries).await;
                }
                outcome => return Some(outcome),
            }
        }
        unreachable!("the last try returns")
    }

    async fn pause(&self, tries: u32) {
        let pause = u64::try_from((PAUSE * tries).as_millis()).unwrap_or(u64::MAX);
        let pause = Duration::from_millis(self.env.random() % pause.max(1));
        self.env.clock().sleep(pause).await;
    }
}

/// True when a merge makes of a write what its patch says, but for fields that others have changed meanwhile
/// and no rule settles. A user's rule may make anything of it, and whether a test holds the authority alone
/// can tell.
fn keeps_its_effect(
    patch: &Patch,
    conflicts: &Conflicts,
    record: &RecordId,
    stands: &[u8],
) -> bool {
    if *conflicts.ruling(&record.key) != Ruling::Merge {
        return false;
    }
    match patch {
        Patch::Merge(_) => true,
        Patch::Operations(operations) => {
            !operations.iter().any(|operation| matches!(operation, Operation::Test { .. }))
        }
        Patch::Increment { pointer, .. } => {
            let document = Node::parse(stands);
            document.is_ok_and(|document| conflicts.fields.counts_at(&document, pointer))
        }
    }
}
