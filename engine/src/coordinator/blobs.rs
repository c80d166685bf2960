//! Blobs in R2: put before a row refers to them, and collected when nothing does (rule A0).
//!
//! ```text
//! list ──> nothing refers to it ──> still so, a while later ──> condemned in D1 ──> deleted
//! ```
//!
//! Invariant: a blob is deleted only under a condemnation, and before its deadline. That nothing
//! refers to it is D1's to say, in a transaction; the wait before it only spares the readers of a
//! copy that still refers to it, and the writers of one that is about to.

use super::Coordinator;
use super::install::Sent;
use crate::blob::{self, BlobsSeen};
use crate::breaker::Seen;
use crate::env::{
    Doubt, DoubtKind, Env, ObjectStore, Outcome, PutIf, RefusalKind, RowStore, Storage, Unavailable,
};
use crate::policy::Dataset;
use crate::record::{Loser, RecordId, StoreId, Stored};
use crate::version::ContentHash;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Blobs that one look lists.
const LISTED_MAX: usize = 1_000;
/// Blobs that are remembered because nothing referred to them; the others are found again.
const UNREFERRED_MAX: usize = 10_000;
/// Blobs that are condemned at once: they are deleted one after the other, before one deadline.
const CONDEMNED_AT_ONCE: usize = 16;
/// Records whose blobs are to be looked at; whoever is forgotten is refused once more.
const DOUBTED_MAX: usize = 1_000;

/// What is known of blobs.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    /// Nothing referred to these, since when.
    unreferred: BTreeMap<ContentHash, Duration>,
    /// Where the next look goes on.
    after: Option<String>,
    next_look: Duration,
    /// The authority did not take that a blob of these was there.
    doubted: BTreeSet<RecordId>,
}

impl<E: Env> Coordinator<E> {
    /// A value as the authority is to keep it. One that it does not take whole goes to R2 first, under
    /// the name of its own hash, so that the row never refers to nothing (rule A0).
    pub(super) async fn fit(
        &self,
        dataset: &Dataset,
        value: &Stored,
        seen: &mut BlobsSeen,
    ) -> Result<Stored, Sent> {
        let Stored::Inline(bytes) = value else { return Ok(value.clone()) };
        if bytes.len() <= dataset.inline_bytes_max(&self.policy().limits) {
            return Ok(value.clone());
        }
        let hash = ContentHash::of(bytes);
        let since = self.state().store_time_least(self.now());
        let r2 = self.env.storage().r2();
        let key = blob::key(hash);
        let put = r2.put(&key, bytes.clone(), None, PutIf::Absent, None);
        let Some(stored) = self.write_to(StoreId::R2, put).await else {
            return Err(Sent::Away);
        };
        let stands = match stored {
            Outcome::Applied(_) => true,
            // 412 says that something stands under the name; the name is its hash, so it should
            // be these bytes. That is looked at, since the row's only copy depends on it.
            Outcome::Refused(refusal) if refusal.kind == RefusalKind::Precondition => {
                let found = self.read_from(StoreId::R2, r2.get(&key)).await.flatten();
                found.is_some_and(|object| object.body == *bytes)
            }
            Outcome::Refused(refusal) if refusal.is_on_the_merits() => {
                return Err(Sent::Refused(refusal));
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => false,
        };
        if !stands {
            return Err(Sent::Failed);
        }
        seen.insert(hash, since);
        Ok(Stored::Reference { hash, bytes: bytes.len() as u64 })
    }

    /// The authority does not know that the blobs are there to which an install of this record refers.
    pub(super) fn doubt_blobs(&self, record: &RecordId) {
        let mut state = self.state();
        state.counters.blobs_doubted += 1;
        if state.blobs.doubted.len() < DOUBTED_MAX {
            state.blobs.doubted.insert(record.clone());
        }
    }

    /// Looks at the blobs that losers refer to, if the authority has doubted them. One that is gone
    /// was collected: nothing referred to it, so its value was superseded and lost to nobody. False:
    /// R2 does not say.
    pub(super) async fn look_at_blobs(
        &self,
        record: &RecordId,
        losers: &mut Vec<Loser>,
        seen: &mut BlobsSeen,
    ) -> bool {
        if !self.state().blobs.doubted.remove(record) {
            return true;
        }
        for blob in losers.iter().filter_map(|loser| loser.value.blob()).collect::<Vec<_>>() {
            let since = self.state().store_time_least(self.now());
            let key = blob::key(blob);
            let get = self.env.storage().r2().get(&key);
            match self.read_from(StoreId::R2, get).await {
                Some(Some(_)) => seen.insert(blob, since),
                Some(None) => losers.retain(|loser| loser.value.blob() != Some(blob)),
                None => {
                    self.doubt_blobs(record);
                    return false;
                }
            }
        }
        true
    }

    /// The bytes that a row refers to, verified.
    pub(super) async fn blob(&self, hash: ContentHash) -> Result<Bytes, Doubt> {
        let key = blob::key(hash);
        if let Err(held) = self.not_held(StoreId::R2) {
            return Err(Doubt::new(DoubtKind::ConnectionLost, held.to_string()));
        }
        let began = self.now();
        let found = self.env.storage().r2().get(&key).await;
        self.record_seen(
            StoreId::R2,
            began,
            if found.is_ok() { Seen::Answer } else { Seen::Failure },
        );
        let doubt = |detail: String| Doubt::new(DoubtKind::ServerError, detail);
        match found {
            Ok(Some(object)) if ContentHash::of(&object.body) == hash => Ok(object.body),
            Ok(Some(_)) => Err(doubt(format!("R2 {key}: the bytes do not match their hash"))),
            Ok(None) => Err(doubt(format!("R2 {key}: not there, though a row refers to it"))),
            Err(unavailable) => Err(doubt(unavailable.to_string())),
        }
    }

    /// Collects what nothing has referred to for a while, some in each turn.
    pub(super) async fn collect_blobs(&self) {
        // Each in its turn: one look in the interval is enough.
        let turns = self.turn().of;
        let after = {
            let mut state = self.state();
            let now = self.now();
            if now < state.blobs.next_look {
                return;
            }
            state.blobs.next_look = now + self.pace.blobs_every * turns;
            state.blobs.after.clone()
        };
        let (r2, d1) = (self.env.storage().r2(), self.env.storage().d1());
        let list = r2.list(blob::PREFIX, after.as_deref(), LISTED_MAX);
        let Some(page) = self.read_from(StoreId::R2, list).await else { return };
        let listed: Vec<_> = page.keys.iter().filter_map(|line| blob::hash_of(&line.key)).collect();
        if !listed.is_empty() {
            let ask = d1.unreferred(listed.clone());
            let Some(unreferred) = self.read_from(StoreId::D1, ask).await else { return };
            let due = self.due_to_go(&listed, unreferred);
            for blobs in due.chunks(CONDEMNED_AT_ONCE) {
                self.condemn(blobs.to_vec()).await;
            }
        }
        self.state().blobs.after = page.next;
    }

    /// Those of the blobs to which nothing refers that nothing has referred to for long.
    fn due_to_go(&self, listed: &[ContentHash], unreferred: Vec<ContentHash>) -> Vec<ContentHash> {
        let now = self.now();
        let mut state = self.state();
        let former: BTreeMap<_, _> =
            listed.iter().filter_map(|blob| state.blobs.unreferred.remove_entry(blob)).collect();
        let mut due = Vec::new();
        for blob in unreferred {
            let since = former.get(&blob).copied().unwrap_or(now);
            if state.blobs.unreferred.len() < UNREFERRED_MAX {
                state.blobs.unreferred.insert(blob, since);
            }
            if now >= since + self.pace.blobs_rest {
                due.push(blob);
            }
        }
        due
    }

    async fn condemn(&self, blobs: Vec<ContentHash>) {
        let (r2, d1) = (self.env.storage().r2(), self.env.storage().d1());
        let condemn = d1.condemn(blobs.clone());
        // What may be condemned and is not deleted is found again.
        let Some(Outcome::Applied(condemned)) = self.write_to(StoreId::D1, condemn).await else {
            return;
        };
        for (blob, condemned) in blobs.into_iter().zip(condemned) {
            let Some(condemned) = condemned else { continue };
            let key = blob::key(blob);
            let delete = r2.delete(&key, condemned.deadline);
            let deleted = self.write_to(StoreId::R2, delete).await;
            if let Some(Outcome::Applied(())) = deleted {
                let mut state = self.state();
                state.counters.blobs_collected += 1;
                state.blobs.unreferred.remove(&blob);
            }
        }
    }

    /// A write to a store, if its breaker lets work through and this coordinator is not stopping.
    pub(super) async fn write_to<T>(
        &self,
        store: StoreId,
        call: impl Future<Output = Outcome<T>>,
    ) -> Option<Outcome<T>> {
        if self.is_stopped() || !self.state().admits(store) {
            return None;
        }
        let began = self.now();
        let outcome = call.await;
        self.record_outcome(store, began, &outcome);
        Some(outcome)
    }

    /// A read from a store, likewise. `None`: nothing was sent, or no answer came.
    pub(super) async fn read_from<T>(
        &self,
        store: StoreId,
        call: impl Future<Output = Result<T, Unavailable>>,
    ) -> Option<T> {
        if self.is_stopped() || !self.state().admits(store) {
            return None;
        }
        let began = self.now();
        let read = call.await;
        let seen = if read.is_ok() { Seen::Answer } else { Seen::Failure };
        self.record_seen(store, began, seen);
        read.ok()
    }
}
