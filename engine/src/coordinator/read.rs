//! Reads.
//!
//! `latest` answers with the authority's version, merged with what this coordinator has
//! acknowledged and still owes it. `any` answers with the nearest copy that is no older than what
//! this coordinator knows; a copy that is not there says nothing, since KV remembers "not found"
//! for a minute, so the authority is asked then.
//!
//! Read-repair: a copy that a read found to be missing or old is marked and put again, behind the
//! reader's back. The authority decides what is put, so an old read never lowers a version. What a
//! read shows may be an echo from a cache, or the version may be on its way; so a copy is put again
//! when a second read, by this coordinator's monotonic clock later than either can last, still
//! finds it behind the same version. No wall clock has a part in that: it may be hours off. Bytes that do not
//! match their metadata are not served and not put over: somebody may have written them (rule A3).

use super::Coordinator;
use super::apart::Beside;
use crate::breaker::Seen;
use crate::env::{Env, KvStore, ObjectStore, Outcome, Storage, Unavailable};
use crate::lane::Priority;
use crate::policy::{Dataset, Policy, ReadLevel, Ruling};
use crate::projection::{self, Body, Named};
use crate::record::{KeyError, Loser, RecordId, StoreId, Stored, Written};
use crate::resolve::{self, Held, Met};
use crate::row::{Row, RowAnswer, RowOp, Seq};
use crate::version::{Basis, ContentHash, Dot, Version, VersionVector};
use bytes::Bytes;
use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

/// A version may be on its way to its copies for so long.
const REPAIR_AFTER: Duration = Duration::from_secs(5);
/// Copies that reads found to be behind, remembered until a second read.
const BEHIND_MAX: usize = 1_024;
/// Between two repairs behind reads: a look over the store mends many at once.
const READ_REPAIR_APART: Duration = Duration::from_millis(100);

/// What a reader gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The bytes; `None`: there is no such record, or it was deleted.
    pub value: Option<Bytes>,
    /// Names the version; `None`: nothing was ever written.
    pub etag: Option<String>,
    /// The history of what was read: the context of a later write. `None`: the copy's history is
    /// too large to stand beside it; read `latest` for one.
    pub context: Option<VersionVector>,
    /// When its time passes, or has passed, by the store side's clock.
    pub expires_at_ms: Option<u64>,
    /// The store that answered; `None`: this coordinator's own journal.
    pub from: Option<StoreId>,
    /// The bytes are chosen fields of the value, as a store was told to keep.
    pub partial: bool,
    /// All values, where several stand beside each other until somebody writes over them.
    pub siblings: Vec<Beside>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// No such dataset.
    UnknownDataset {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The key cannot be kept, so nothing is there.
    Key(KeyError),
    /// No store that has the record answers. The same again, later.
    Unavailable(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::UnknownDataset { asked, known } => {
                write!(f, "there is no dataset {asked:?}; the datasets are {}", known.join(", "))
            }
            ReadError::Key(error) => error.fmt(f),
            ReadError::Unavailable(detail) => {
                write!(f, "no store that has the record answers ({detail}); try again")
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl<E: Env> Coordinator<E> {
    /// Reads one record, at the dataset's level unless one is given. A session is carried by
    /// [`Coordinator::read_in_session`] alone.
    pub async fn read(
        &self,
        dataset: &str,
        key: &str,
        level: Option<ReadLevel>,
    ) -> Result<Read, ReadError> {
        let policy = self.policy();
        let (policy, record) = place(&policy, dataset, key)?;
        self.state().counters.reads += 1;
        match level.unwrap_or(policy.read) {
            ReadLevel::Latest | ReadLevel::Session => {
                self.read_latest(policy, &record).await.map(|latest| latest.read)
            }
            ReadLevel::Any => self.read_any(policy, &record).await,
        }
    }

    /// What one store holds under a record's key, as it stands there: for export and comparison.
    pub async fn read_copy(
        &self,
        dataset: &str,
        key: &str,
        store: StoreId,
    ) -> Result<Read, ReadError> {
        let policy = self.policy();
        let (policy, record) = place(&policy, dataset, key)?;
        let absent = Read { from: Some(store), ..Read::default() };
        if store == StoreId::D1 {
            let row = self.read_row(&record).await?;
            return match row.and_then(|row| resolve::held(self.site(), &record, &row)) {
                Some(held) => {
                    let apart = held.version.is_apart();
                    let read = self.answer(held, Some(StoreId::D1)).await?;
                    // One value of several is no context for a write over all of them.
                    let context = read.context.filter(|_| !apart);
                    Ok(Read { context, ..read })
                }
                None => Ok(absent),
            };
        }
        match self.copy(policy, &record, store).await {
            Ok(Copied::Whole(read) | Copied::Partial(read)) => Ok(read),
            Ok(
                Copied::Absent
                | Copied::Foreign
                | Copied::Damaged
                | Copied::Elsewhere
                | Copied::Expired,
            ) => Ok(absent),
            Err(Unavailable(detail)) => Err(ReadError::Unavailable(detail.into_owned())),
        }
    }

    pub(super) async fn read_latest(
        &self,
        dataset: &Dataset,
        record: &RecordId,
    ) -> Result<Latest, ReadError> {
        let row = self.read_row(record).await?;
        let seq = row.as_ref().map_or(Seq(0), |row| row.seq);
        let theirs = row.and_then(|row| resolve::held(self.site(), record, &row));
        let ruling = dataset.conflict.ruling(&record.key);
        let ours = self.own_chain(record, *ruling != Ruling::Lww);
        let own = ours.as_ref().map(|own| own.held.version.current().dot);
        let apart = match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => match resolve::meet(ruling, &ours.held, theirs) {
                Met::Apart(set) => Some(set),
                Met::Ours | Met::Theirs | Met::Concurrent { .. } => None,
            },
            (Some(ours), None) => {
                Some(ours.held.version.clone()).filter(|own| own.basis() == Basis::Unsettled)
            }
            (None, Some(theirs)) if ruling.may_show_siblings() => Some(theirs.version.clone()),
            (None, _) => None,
        };
        if let Some(set) = apart.filter(Version::is_apart) {
            let (held, siblings) = self.read_apart(dataset, record, &set, ours, theirs).await?;
            let owed = own.filter(|dot| held.version.history.covers_dot(*dot));
            let read = self.answer(held, Some(StoreId::D1)).await?;
            return Ok(Latest { read: Read { siblings, ..read }, seq, owed });
        }
        let (held, from) = match (ours.map(|own| own.held), theirs) {
            (None, None) => {
                let from = Some(StoreId::D1);
                let read = Read { context: Some(Default::default()), from, ..Read::default() };
                return Ok(Latest { read, seq, owed: None });
            }
            (Some(ours), None) => (ours, None),
            (None, Some(theirs)) => (theirs, Some(StoreId::D1)),
            (Some(ours), Some(theirs)) => match resolve::meet(ruling, &ours, &theirs) {
                Met::Ours => (ours, None),
                Met::Theirs | Met::Apart(_) => (theirs, Some(StoreId::D1)),
                Met::Concurrent { merged, .. } => (merged, Some(StoreId::D1)),
            },
        };
        let owed = own.filter(|dot| held.version.history.covers_dot(*dot));
        Ok(Latest { read: self.answer(held, from).await?, seq, owed })
    }

    async fn read_any(&self, policy: &Dataset, record: &RecordId) -> Result<Read, ReadError> {
        if let Some(ours) = self.own(record) {
            if ours.version.is_apart() {
                return self.read_latest(policy, record).await.map(|latest| latest.read);
            }
            return self.answer(ours, None).await;
        }
        let shows_all = !policy.conflict.ruling(&record.key).may_show_siblings();
        for store in [StoreId::Kv, StoreId::R2] {
            // A copy that this coordinator knows to be behind would hide its own writers' writes.
            if policy.projection(store).is_none()
                || !self.state().admits(store)
                || self.owes(record, store)
            {
                continue;
            }
            let Ok(copied) = self.copy(policy, record, store).await else { continue };
            let behind = self.is_behind(record, &copied);
            if behind {
                self.repair(record, store);
            }
            // A copy shows one value; whether there are others its metadata tells by what it lacks.
            if let (Copied::Whole(read), false) = (copied, behind)
                && (shows_all || read.context.is_some())
            {
                return Ok(read);
            }
        }
        self.read_latest(policy, record).await.map(|latest| latest.read)
    }

    /// What stands as far as this coordinator knows, and the history that it is of: a merge which starts from
    /// that history starts from just these bytes. `None`: they cannot be had without the authority.
    pub(super) async fn read_known(
        &self,
        policy: &Dataset,
        record: &RecordId,
    ) -> Option<(Bytes, VersionVector)> {
        if let Some(Held { version, value }) = self.own(record) {
            // Beside others it is not what is shown.
            return match value {
                Stored::Inline(bytes) if !version.is_apart() => Some((bytes, version.history)),
                Stored::Inline(_)
                | Stored::Tombstone
                | Stored::Reference { .. }
                | Stored::Erased(_) => None,
            };
        }
        let known = self.state().ledger.known(record)?.version?;
        // What was made with less at hand than others have is not what they would start from.
        if known.is_apart() && known.basis() != Basis::ThreeWay {
            return None;
        }
        for store in [StoreId::Kv, StoreId::R2] {
            if policy.projection(store).is_none() || !self.state().admits(store) {
                continue;
            }
            if let Ok(Copied::Whole(Read { value: Some(value), .. })) =
                self.copy(policy, record, store).await
                && ContentHash::of(&value) == known.current().hash
            {
                return Some((value, known.history));
            }
        }
        None
    }

    /// True when this coordinator knows that the authority holds something newer than a copy, or
    /// something where the copy shows nothing.
    fn is_behind(&self, record: &RecordId, copied: &Copied) -> bool {
        let known = self.state().ledger.known(record).and_then(|known| known.version);
        let Some(known) = known else { return false };
        match copied {
            Copied::Whole(Read { context: Some(history), .. })
            | Copied::Partial(Read { context: Some(history), .. }) => {
                known.history.compare(history) == Some(Ordering::Greater)
            }
            Copied::Whole(_)
            | Copied::Partial(_)
            | Copied::Foreign
            | Copied::Damaged
            | Copied::Elsewhere
            | Copied::Expired => false,
            // KV forgets by itself what has expired long ago.
            Copied::Absent => {
                let current = known.current();
                !current.deleted && !current.has_expired(self.store_time())
            }
        }
    }

    /// Puts a copy again that a read found to be behind, unless what the read gave may be an echo.
    fn repair(&self, record: &RecordId, store: StoreId) {
        let echoes_for = match store {
            StoreId::Kv => self.env.storage().kv().echoes_for() + REPAIR_AFTER,
            // Whoever installed the version is given time to put it.
            StoreId::D1 | StoreId::R2 => REPAIR_AFTER,
        };
        let now = self.now();
        let known = {
            let mut state = self.state();
            let known = state.ledger.known(record).and_then(|known| known.version);
            let Some(known) = known else { return };
            let seen = (record.clone(), store);
            let since = match state.behind.get(&seen) {
                Some((history, since)) if *history == known.history => *since,
                _ => {
                    if state.behind.len() >= BEHIND_MAX {
                        // Whichever goes is found again by its next readers, or by a look.
                        state.behind.pop_first();
                    }
                    state.behind.insert(seen, (known.history, now));
                    return;
                }
            };
            if now < since + echoes_for || now < state.next_read_repair {
                return;
            }
            state.behind.remove(&seen);
            state.next_read_repair = now + READ_REPAIR_APART;
            state.counters.read_repairs += 1;
            known
        };
        self.put_again(record, store, &known, Priority::Repair);
    }

    pub(super) fn owes(&self, record: &RecordId, store: StoreId) -> bool {
        self.state().slots.get(record).is_some_and(|slot| slot.owed.contains_key(&store))
    }

    /// The newest write that this coordinator has made durable and still owes to the authority.
    pub(super) fn own(&self, record: &RecordId) -> Option<Held> {
        self.own_chain(record, false).map(|own| own.held)
    }

    /// The same, where asked for with what it was built on.
    fn own_chain(&self, record: &RecordId, whole: bool) -> Option<Own> {
        let state = self.state();
        let slot = state.slots.get(record)?;
        // A conditional write is not readable before its condition is decided.
        let durable = |pending: &&super::Pending| {
            let own = pending.is_kept_for(self.actor.node).is_none();
            own && pending.durable && pending.intent.only_over.is_none()
        };
        let newest = &slot.intents.iter().rfind(durable)?.intent;
        let held = Held { version: newest.version.clone(), value: newest.value.clone() };
        let chain = || {
            let durable = slot.intents.iter().filter(durable).filter(|_| whole);
            durable.map(|pending| &pending.intent)
        };
        let losers = chain().flat_map(|intent| intent.losers.iter().cloned()).collect();
        let writes = chain().filter_map(|intent| intent.written()).collect();
        Some(Own { held, losers, writes })
    }

    async fn read_row(&self, record: &RecordId) -> Result<Option<Row>, ReadError> {
        match self.row(RowOp::Read { record: record.clone() }).await {
            Outcome::Applied((_, RowAnswer::Read(row))) => {
                self.learn_row(record, row.as_deref());
                Ok(row.map(|row| *row))
            }
            Outcome::Applied((_, answer)) => {
                Err(ReadError::Unavailable(format!("D1 answered a read with {answer:?}")))
            }
            Outcome::Refused(refusal) => Err(ReadError::Unavailable(refusal.to_string())),
            Outcome::Unknown(doubt) => Err(ReadError::Unavailable(doubt.to_string())),
        }
    }

    async fn answer(&self, held: Held, from: Option<StoreId>) -> Result<Read, ReadError> {
        let expires_at_ms = held.version.current().expires_at_ms;
        let until_ms = held.version.current().stands_until_ms();
        let stands = until_ms.map(|at_ms| self.state().stands_until(at_ms, self.now()));
        let value = match held.value {
            _ if stands == Some(Some(false)) => None,
            _ if stands == Some(None) => {
                let detail = "the value was given a time, and D1's clock has not been seen yet";
                return Err(ReadError::Unavailable(detail.to_owned()));
            }
            // A record's own value is not erased.
            Stored::Tombstone | Stored::Erased(_) => None,
            Stored::Inline(bytes) => Some(bytes),
            Stored::Reference { hash, .. } => Some(self.referred(hash).await?),
        };
        Ok(Read {
            value,
            etag: Some(held.version.etag()),
            context: Some(held.version.history),
            expires_at_ms,
            from,
            partial: false,
            siblings: Vec::new(),
        })
    }

    async fn referred(&self, hash: ContentHash) -> Result<Bytes, ReadError> {
        self.blob(hash).await.map_err(|doubt| ReadError::Unavailable(doubt.detail.into_owned()))
    }

    /// The bytes and the metadata under a record's key in a projection.
    pub(super) async fn fetch(
        &self,
        policy: &Dataset,
        record: &RecordId,
        store: StoreId,
    ) -> Result<Option<(Bytes, Option<String>)>, Unavailable> {
        let Some(projection) = policy.projection(store) else { return Ok(None) };
        let key = projection.key(record);
        self.not_held(store)?;
        let storage = self.env.storage();
        let began = self.now();
        let found = match store {
            StoreId::Kv => {
                let entry = storage.kv().get(&key).await;
                entry.map(|entry| entry.map(|entry| (entry.value, entry.metadata)))
            }
            StoreId::R2 => {
                let object = storage.r2().get(&key).await;
                object.map(|object| object.map(|object| (object.body, object.metadata)))
            }
            StoreId::D1 => return Ok(None),
        };
        self.record_seen(store, began, if found.is_ok() { Seen::Answer } else { Seen::Failure });
        found
    }

    /// A projection's copy.
    pub(super) async fn copy(
        &self,
        policy: &Dataset,
        record: &RecordId,
        store: StoreId,
    ) -> Result<Copied, Unavailable> {
        let Some((body, metadata)) = self.fetch(policy, record, store).await? else {
            return Ok(Copied::Absent);
        };
        // Bytes without our metadata are a foreign write: the authority decides about those.
        let Some(described) = metadata.as_deref().and_then(projection::read) else {
            return Ok(Copied::Foreign);
        };
        // The authority knows whether its time has passed, and whether something newer has come.
        if let Some(at_ms) = described.expires_at_ms
            && self.state().stands_until(at_ms, self.now()) != Some(true)
        {
            return Ok(Copied::Expired);
        }
        let (value, hash) = match &described.body {
            Body::Reference => match self.blob(described.hash).await {
                Ok(bytes) => (bytes, None),
                Err(_) => return Ok(Copied::Elsewhere),
            },
            Body::Whole => (body, Some(described.hash)),
            Body::Partial { hash, .. } => (body, Some(*hash)),
        };
        if hash.is_some_and(|hash| ContentHash::of(&value) != hash) {
            // Spoilt on the way or changed in place: never served.
            self.suspect(record, store);
            return Ok(Copied::Damaged);
        }
        let partial = matches!(described.body, Body::Partial { .. });
        let read = Read {
            value: Some(value),
            etag: Some(described.names.etag()),
            context: match described.names {
                Named::Version(version) => Some(version.history),
                Named::Tag(_) => None,
            },
            expires_at_ms: described.expires_at_ms,
            from: Some(store),
            partial,
            siblings: Vec::new(),
        };
        Ok(if partial { Copied::Partial(read) } else { Copied::Whole(read) })
    }
}

/// A record by names, and how it is kept.
pub(super) fn place<'p>(
    policy: &'p Policy,
    dataset: &str,
    key: &str,
) -> Result<(&'p Dataset, RecordId), ReadError> {
    let Some(dataset) = policy.datasets.get(dataset) else {
        let known = policy.datasets.keys().map(|name| name.to_string()).collect();
        return Err(ReadError::UnknownDataset { asked: dataset.to_owned(), known });
    };
    let record = dataset.record(key).map_err(ReadError::Key)?;
    Ok((dataset, record))
}

/// A coordinator's own newest write that the authority may lack.
pub(super) struct Own {
    pub(super) held: Held,
    /// Where it stands beside others: what may be of these,
    pub(super) losers: Vec<Loser>,
    /// and each write since the authority's version.
    pub(super) writes: Vec<Written>,
}

/// The newest that can be had.
pub(super) struct Latest {
    pub(super) read: Read,
    /// Where the row's last change stands in the authority's feed.
    pub(super) seq: Seq,
    /// A write of this coordinator's own that is included, and that the authority may lack.
    pub(super) owed: Option<Dot>,
}

/// What a projection gave.
pub(super) enum Copied {
    /// A copy of a version.
    Whole(Read),
    /// Chosen fields of a version: never the answer to who asks for the record.
    Partial(Read),
    /// Nothing.
    Absent,
    /// Bytes that are nobody's version: a look over the store deals with those.
    Foreign,
    /// Bytes that are not those that their metadata names.
    Damaged,
    /// A reference, and what it refers to cannot be had now.
    Elsewhere,
    /// A copy of a version whose time has passed, as far as is known here.
    Expired,
}
