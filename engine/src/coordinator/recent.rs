//! Recent: what has changed since the last look over everything is held against its copies first.
//!
//! ```text
//! a look over a listing begins here ──> … changes … ──> the feed's end
//!                                       └─ some in each turn, round and round: their copies are read
//! ```
//!
//! A listing costs as much as there are records, so it comes seldom where there are many; and what was
//! written a moment ago is what people read. So between two listings a few reads a turn go to what
//! changed since the first of them.
//!
//! Invariant: what differs is confirmed and mended as what a listing shows is; and the bytes, which are
//! read anyway, are hashed as the scrub does. A few copies tell nothing of a store as a whole: where
//! many of them differ, nothing is mended, and the listing is looked at now, whose brakes judge of it.

use super::Coordinator;
use super::pass::{Over, Pass};
use super::reconcile::{LOOK_AGAIN_AFTER, Listing, Look};
use super::scrub::is_changed;
use crate::env::{Env, RowStore, Storage, Unavailable};
use crate::lane::Priority;
use crate::policy::Dataset;
use crate::record::{RecordId, StoreId};
use crate::row::{Poll, Seq};
use crate::version::ContentHash;

/// So many copies that differ, and more than one in so many, are more than a few.
const ODD_MIN: usize = 4;
const ODD_ONE_IN: usize = 4;

/// Where the looks over what is recent have come to in the feed, in one projection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    /// What changed up to here, a listing has been held against since.
    since: Seq,
    /// The next turn goes on behind this.
    at: Seq,
    /// Many differed the last time, and the listing was to be looked at.
    odd: bool,
}

/// What one turn showed.
enum Turned {
    /// What differed has been mended; the next turn goes on behind this.
    At(Seq),
    /// Too much differs for that.
    Odd,
}

/// A copy, read for its own sake.
struct Read {
    record: RecordId,
    copy: Listing,
    /// The hash of its bytes, if they are not what its metadata names.
    changed: Option<ContentHash>,
}

impl<E: Env> Coordinator<E> {
    /// One turn over what has changed since the last look over everything that a store holds. True:
    /// it is time for such a look.
    pub(super) async fn look_over_recent(&self, dataset: &Dataset, store: StoreId) -> bool {
        let place = (dataset.name.clone(), store);
        let recent = {
            let mut state = self.state();
            if !state.admits(store) || !state.ledger.is_complete() {
                return false;
            }
            // Nobody knows when the last listing was, before this life.
            let from = state.complete_from.unwrap_or_default();
            *state.recents.entry(place.clone()).or_insert(Recent {
                since: from,
                at: from,
                odd: false,
            })
        };
        let turned = match self.recent_pass(dataset, store, recent).await {
            Ok(turned) => turned,
            Err(error) => {
                tracing::debug!(dataset = %dataset.name, %store, %error, "not looked over now");
                return false;
            }
        };
        let mut state = self.state();
        let Some(recent) = state.recents.get_mut(&place) else { return false };
        match turned {
            Turned::At(at) => {
                recent.at = at.max(recent.since);
                recent.odd = false;
                false
            }
            // Once: whatever the listing's look makes of it, the next one comes in its own time.
            Turned::Odd => !std::mem::replace(&mut recent.odd, true),
        }
    }

    async fn recent_pass(
        &self,
        dataset: &Dataset,
        store: StoreId,
        recent: Recent,
    ) -> Result<Turned, Unavailable> {
        let poll = Poll { actor: self.actor, after: recent.at, limit: self.pace.recent_values };
        self.not_held(StoreId::D1)?;
        let page = self.env.storage().d1().poll(poll).await?;
        let last = page.changes.last().map_or(recent.since, |change| change.seq);
        let at = Turned::At(if page.complete { recent.since } else { last });
        let here = page.changes.into_iter().filter(|c| c.record.dataset == dataset.name);
        let records: Vec<RecordId> = here.map(|change| change.record).collect();
        if records.is_empty() {
            return Ok(at);
        }
        let why = Priority::Reconciliation;
        let read = self.read_copies(dataset, store, records).await?;
        let mut first = Look::default();
        let copies = read.iter().map(|read| (read.record.clone(), read.copy.clone()));
        self.compare_each(dataset, store, copies.collect(), &mut first);
        let pass = Pass { reads: read.len(), ..first.pass(dataset, store, Over::Recent, None) };
        self.note_pass(&pass, &first);
        if pass.differing >= ODD_MIN && pass.differing * ODD_ONE_IN > read.len() {
            return Ok(Turned::Odd);
        }
        let changed = read.into_iter().filter_map(|read| {
            let metadata = read.copy?;
            Some((read.record, read.changed?, metadata))
        });
        let changed: Vec<_> = changed.collect();
        if !changed.is_empty() {
            self.confirm_changed(dataset, store, changed, why).await;
        }
        let differing: Vec<RecordId> = first.differing().cloned().collect();
        if differing.is_empty() {
            return Ok(at);
        }
        self.wait_until(self.now() + LOOK_AGAIN_AFTER).await;
        let again = self.read_copies(dataset, store, differing).await?;
        let mut second = Look::default();
        let copies = again.into_iter().map(|read| (read.record, read.copy));
        self.compare_each(dataset, store, copies.collect(), &mut second);
        if store == StoreId::Kv {
            // What a read of KV does not find may be listed.
            for (record, copy) in second.listings() {
                if !self.lists_just(dataset, &record, store, &copy).await {
                    second.leave_out(&record);
                }
            }
        }
        self.mend_confirmed(dataset, store, &first, second, why).await;
        Ok(at)
    }

    /// The copies of some records that this coordinator is not about to put.
    async fn read_copies(
        &self,
        dataset: &Dataset,
        store: StoreId,
        records: Vec<RecordId>,
    ) -> Result<Vec<Read>, Unavailable> {
        let mut read = Vec::with_capacity(records.len());
        let mut bytes = 0;
        for record in records {
            if self.is_stopped() || bytes >= self.pace.scrub_bytes {
                break;
            }
            if self.owes(&record, store) {
                continue;
            }
            let version = self.state().ledger.noted(&record).and_then(|noted| noted.version());
            let found = self.fetch(dataset, &record, store).await?;
            bytes += found.as_ref().map_or(0, |(body, _)| body.len() as u64);
            let changed = found.as_ref().zip(version).and_then(|((body, metadata), version)| {
                is_changed(&version, metadata.as_deref(), body).then(|| ContentHash::of(body))
            });
            let copy = found.map(|(_, metadata)| metadata);
            read.push(Read { record, copy, changed });
        }
        Ok(read)
    }

    /// A look over everything that began at this place of the feed has come to its end.
    pub(super) fn note_whole(&self, dataset: &Dataset, store: StoreId, began: Seq) {
        let mut state = self.state();
        let recent = state.recents.entry((dataset.name.clone(), store)).or_default();
        recent.since = began.max(recent.since);
        recent.at = recent.at.max(recent.since);
    }
}
