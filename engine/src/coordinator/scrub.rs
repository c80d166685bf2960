//! Scrubbing: whether the bytes of a copy are those that its metadata names.
//!
//! A listing shows metadata alone, so bytes that were changed under our own metadata look equal in
//! it for ever. The scrub reads a bounded number of values in each turn, in key order and round and
//! round, and hashes them. What a reader stumbled over comes first.
//!
//! Invariant: bytes that are not what their metadata names are somebody's write. They are in the
//! authority, as a version of their own, before anything is put over them (rule A3). One odd read
//! says nothing: it may have been spoilt on its way, so the same bytes must come three times.

use super::Coordinator;
use super::reconcile::{LOOK_AGAIN_AFTER, Listing, PAGE_KEYS};
use crate::env::{Env, KvStore, ObjectStore, Storage};
use crate::lane::Priority;
use crate::policy::Dataset;
use crate::projection::{self, Form, Named};
use crate::record::{RecordId, StoreId};
use crate::version::{ContentHash, Version};
use std::collections::VecDeque;

/// Copies that readers stumbled over and that wait for the scrub. More are found in their turn.
pub(super) const SUSPECTS_MAX: usize = 256;

/// Where the scrub of one store is.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// The last key that was looked at; `None`: at the beginning.
    after: Option<String>,
    /// Copies whose bytes a reader found not to be what they should.
    suspects: VecDeque<RecordId>,
}

impl<E: Env> Coordinator<E> {
    /// A reader found bytes that are not what their metadata names.
    pub(super) fn suspect(&self, record: &RecordId, store: StoreId) {
        let mut state = self.state();
        state.counters.copies_damaged += 1;
        let scrub = state.scrubs.entry((record.dataset.clone(), store)).or_default();
        if scrub.suspects.len() < SUSPECTS_MAX && !scrub.suspects.contains(record) {
            scrub.suspects.push_back(record.clone());
        }
    }

    /// One turn of the scrub of a dataset in a store.
    pub(super) async fn scrub(&self, dataset: &Dataset, store: StoreId, why: Priority) {
        let mut changed = Vec::new();
        for (record, version) in self.next_to_scrub(dataset, store) {
            if self.is_stopped() || !self.state().admits(store) {
                break;
            }
            let Ok(found) = self.fetch(dataset, &record, store).await else { continue };
            self.state().counters.values_scrubbed += 1;
            if let Some((body, metadata)) = found
                && is_changed(&version, metadata.as_deref(), &body)
            {
                changed.push((record, ContentHash::of(&body), metadata));
            }
        }
        if !changed.is_empty() {
            self.confirm_changed(dataset, store, changed, why).await;
        }
    }

    /// Bytes that were not what their metadata names, and in two more reads are the same: somebody's.
    pub(super) async fn confirm_changed(
        &self,
        dataset: &Dataset,
        store: StoreId,
        changed: Vec<(RecordId, ContentHash, Option<String>)>,
        why: Priority,
    ) {
        self.wait_until(self.now() + LOOK_AGAIN_AFTER).await;
        for (record, hash, metadata) in changed {
            self.state().counters.copies_differing += 1;
            let Ok(Some((body, again))) = self.fetch(dataset, &record, store).await else {
                continue;
            };
            if ContentHash::of(&body) == hash && again == metadata {
                self.take_in(dataset, &record, store, Some(metadata), why).await;
            }
        }
    }

    /// The records whose copies are read in this turn, with the version that each should be of.
    fn next_to_scrub(&self, dataset: &Dataset, store: StoreId) -> Vec<(RecordId, Version)> {
        let keep = &dataset.projection(store).expect("a projection is scrubbed").keep;
        let mut state = self.state();
        let super::State { policy, ledger, slots, scrubs, .. } = &mut *state;
        let scrub = scrubs.entry((dataset.name.clone(), store)).or_default();
        let owed = |record: &RecordId| {
            slots.get(record).is_some_and(|slot| slot.owed.contains_key(&store))
        };
        let kept = |version: &Version| {
            let current = version.current();
            match projection::form(store, keep, current, &policy.limits) {
                Form::Absent => None,
                // Its fields are not larger than the whole.
                Form::Whole | Form::Partial(_) => Some(current.bytes),
                Form::Reference => Some(0),
            }
        };
        let mut next = Vec::new();
        let mut bytes = 0;
        while let Some(record) = scrub.suspects.pop_front() {
            let version = ledger.noted(&record).and_then(|noted| noted.version());
            if let Some(version) = version.filter(|v| kept(v).is_some() && !owed(&record)) {
                next.push((record, version));
            }
            if next.len() >= self.pace.scrub_values {
                return next;
            }
        }
        let mut full = false;
        let after = scrub.after.take();
        let range = ledger.range(&dataset.name, after.as_deref(), None);
        for (looks, (key, noted)) in range.enumerate() {
            if looks == PAGE_KEYS || next.len() >= self.pace.scrub_values || full {
                return next;
            }
            let record = RecordId { dataset: dataset.name.clone(), key: key.clone() };
            if let Some(version) = noted.version()
                && let Some(more) = kept(&version)
                && !owed(&record)
            {
                bytes += more;
                full = bytes >= self.pace.scrub_bytes;
                next.push((record, version));
            }
            scrub.after = Some(key.to_string());
        }
        // The end: it begins anew.
        scrub.after = None;
        next
    }

    /// True when a store's listing shows a copy with just this metadata now.
    pub(super) async fn is_listed_so(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        store: StoreId,
        metadata: Option<&str>,
    ) -> bool {
        let copy = Some(metadata.map(str::to_owned));
        self.lists_just(dataset, record, store, &copy).await
    }

    /// True when a store's listing shows just this of a copy now, or of there being none.
    pub(super) async fn lists_just(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        store: StoreId,
        copy: &Listing,
    ) -> bool {
        let Some(projection) = dataset.projection(store) else { return false };
        let key = projection.key(record);
        if self.not_held(store).is_err() {
            return false;
        }
        let storage = self.env.storage();
        let listed = match store {
            StoreId::Kv => storage.kv().list(&key, None, 1).await,
            StoreId::R2 => storage.r2().list(&key, None, 1).await,
            StoreId::D1 => return false,
        };
        let Ok(page) = listed else { return false };
        match page.keys.into_iter().next() {
            Some(listed) if listed.key == key => *copy == Some(listed.metadata),
            // The first key that begins so is another one.
            Some(_) => copy.is_none(),
            None => copy.is_none() && page.next.is_none(),
        }
    }
}

/// True when a copy says that it is of `version` and its bytes are not.
pub(super) fn is_changed(version: &Version, metadata: Option<&str>, body: &[u8]) -> bool {
    let Some(metadata) = metadata else { return false };
    if let Some(said) = projection::as_written(metadata, version) {
        return !said.is(body, version.current().hash);
    }
    let Some(described) = projection::read(metadata) else { return false };
    // An older copy is put again by the look over the listing.
    let current = match &described.names {
        Named::Version(named) => named.history == version.history,
        Named::Tag(etag) => *etag == version.etag(),
    };
    current && !described.has(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::Body;
    use crate::record::Stored;
    use crate::version::{Actor, Dot, NodeId, Sibling, Stamp, VersionVector};
    use bytes::Bytes;

    #[test]
    fn bytes_are_changed_when_their_own_metadata_says_so() {
        let written = |counter: u64, body: &[u8]| {
            let dot = Dot { actor: Actor { node: NodeId(1), incarnation: 7 }, counter };
            let (stamp, bytes) = (Stamp { wall_ms: 5, logical: 0 }, body.len() as u64);
            let hash = ContentHash::of(body);
            let sibling = Sibling { dot, stamp, hash, bytes, deleted: false, expires_at_ms: None };
            Version::write(&VersionVector::new(), sibling)
        };
        let (version, older) = (written(2, b"as written"), written(1, b"before"));
        let own = projection::describe(&version, &Body::Whole);
        assert!(!is_changed(&version, Some(&own), b"as written"));
        assert!(is_changed(&version, Some(&own), b"by hand"));
        assert!(!is_changed(&version, None, b"by hand"), "the listing shows that");
        let of_older = projection::describe(&older, &Body::Whole);
        assert!(!is_changed(&version, Some(&of_older), b"by hand"), "the listing shows that");
        let reference = projection::describe(&version, &Body::Reference);
        let inline = Stored::Inline(Bytes::from_static(b"as written"));
        let refers = projection::reference_body(&inline, version.current(), "d/k");
        assert!(!is_changed(&version, Some(&reference), &refers));
        assert!(is_changed(&version, Some(&reference), b"by hand"));
    }
}
