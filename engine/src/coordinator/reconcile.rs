//! Reconciling: what the projections hold, held against what the authority does.
//!
//! ```text
//! list ──> differs? ──> list again: differs still ──> lost or old ──> marked and put again
//!                                                └──> bytes of somebody else ──> taken in (A3)
//! ```
//!
//! Nothing tells a coordinator that a copy was changed or lost behind its back: it has to look.
//! The coordinators take turns, so that a dataset is looked over once in its interval.
//!
//! Invariant: a copy is overwritten only under a mark. Bytes that somebody else wrote to a
//! projection are in the authority before anything is put over them (rule A3). A pass that would
//! delete much, or finds nothing where much should be, changes nothing and says so.

use super::install::{Candidate, Sent};
use super::project::Owed;
use super::{Coordinator, Slot, State, write::check_kind};
use crate::breaker::Seen;
use crate::env::{Clock, Env, KvStore, Listed, ObjectStore, Outcome, Storage, Unavailable};
use crate::policy::{Dataset, Limits, Policy};
use crate::projection::{self, Form, Named};
use crate::record::{KV_CACHED, Loser, RecordId, StoreId, Stored};
use crate::resolve::{self, Held, Met};
use crate::row::{Row, RowAnswer, RowOp};
use crate::version::{SiteId, Version};
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Keys in one page of a listing, which the stores give at most.
const PAGE_KEYS: usize = 1_000;
/// Differences that one pass deals with; the next pass finds the rest.
const DIFFERING_MAX: usize = 1_000;
/// Between the two looks. What is on its way has arrived, or its mark shows it.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1_000);
/// A pass over fewer records than this is never held by a brake.
const BRAKE_RECORDS_MIN: usize = 20;
/// A pass that finds less than one copy in so many is held: as good as none.
const BRAKE_LISTED_ONE_IN: usize = 20;
/// A pass that would delete more than one record in so many is held.
const BRAKE_DELETES_ONE_IN: usize = 4;
/// Between looks over a projection that is being filled, and before the first: what others were
/// told of the former policy has landed, and they have heard of the new one.
const FILL_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Tries of a compare-and-set that may find the row moved.
const TAKE_IN_TRIES: usize = 4;

/// Keys that a report names at most.
const NAMED_MAX: usize = 20;

/// What a look over a store showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// Which dataset.
    pub dataset: String,
    /// Where.
    pub store: StoreId,
    /// Copies and records that were held against each other.
    pub compared: usize,
    /// Copies that this coordinator is bringing up to date anyway.
    pub pending: usize,
    /// Copies that differ from the authority.
    pub differing: usize,
    /// Some of their keys.
    pub keys: Vec<String>,
    /// Why nothing is done about them.
    pub held: Option<Brake>,
}

impl Pass {
    /// True when the store holds what the authority does.
    pub fn is_clean(&self) -> bool {
        self.differing == 0 && self.pending == 0
    }
}

/// Why a look over a store could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassError {
    /// No such dataset, or it is not kept in that store beside the authority.
    NotKept,
    /// The authority's records are not all known yet.
    Incomplete,
    /// The store does not answer.
    Unavailable(Unavailable),
}

impl From<Unavailable> for PassError {
    fn from(unavailable: Unavailable) -> Self {
        PassError::Unavailable(unavailable)
    }
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::NotKept => f.write_str("the dataset is not kept there beside its authority"),
            PassError::Incomplete => {
                f.write_str("the authority's records are still being read; try again")
            }
            PassError::Unavailable(unavailable) => unavailable.fmt(f),
        }
    }
}

impl std::error::Error for PassError {}

/// What an operator lets a pass do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Look, and change nothing.
    Look,
    /// Mend what differs, unless the plan looks wrong.
    Mend,
    /// Mend what differs, however the plan looks.
    MendAll,
}

/// A copy as a listing shows it: its metadata, if it has any. `None`: there is no copy.
type Listing = Option<Option<String>>;

/// What one look over a store showed.
#[derive(Debug, Default)]
struct Look {
    compared: usize,
    pending: usize,
    differing: BTreeMap<RecordId, Found>,
    listed: usize,
    /// Records that exist, among those that were compared.
    live: usize,
    deletes: usize,
}

impl Look {
    /// Holds what was looked at so far against itself: a look may end before the listing does.
    fn brake(&self) -> Option<Brake> {
        let live = self.live;
        if live >= BRAKE_RECORDS_MIN && self.listed * BRAKE_LISTED_ONE_IN < live {
            return Some(Brake::EmptyListing);
        }
        let many =
            self.deletes >= BRAKE_RECORDS_MIN && self.deletes * BRAKE_DELETES_ONE_IN > self.listed;
        many.then_some(Brake::MassDelete)
    }
}

/// A copy that differs from the authority, as far as this coordinator knows that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    copy: Listing,
    /// Of the ledger's entry that it was held against; 0: the authority has no such record.
    row_seq: u64,
}

/// What a comparison needs beside the ledger.
struct Beside<'s> {
    limits: Limits,
    slots: &'s BTreeMap<RecordId, Slot>,
    echoes: &'s mut BTreeMap<RecordId, Duration>,
}

/// Why a pass changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Brake {
    /// The listing is empty or nearly so, and should not be.
    EmptyListing,
    /// Too many records would be deleted.
    MassDelete,
}

/// What is to be done about a copy that differs.
enum Mend {
    /// It is put again.
    Put(Version),
    /// It may hold what the authority does not.
    TakeIn,
}

impl<E: Env> Coordinator<E> {
    /// Looks over each dataset, in turns with the other coordinators.
    pub(super) async fn reconcile_loop(self: Arc<Self>) {
        let peers = self.sharing();
        let rank = peers.iter().filter(|peer| **peer < self.actor.node).count() as u32;
        let turns = peers.len() as u32 + 1;
        let mut policy = self.policy();
        let mut due = BTreeMap::new();
        self.plan_looks(&policy, rank, turns, &mut due);
        loop {
            let next = due.iter().map(|(name, at)| (*at, Arc::clone(name))).min();
            self.wait_for_look(next.as_ref().map(|(at, _)| *at), &policy).await;
            if self.is_stopped() {
                return;
            }
            let current = self.policy();
            if !Arc::ptr_eq(&current, &policy) {
                policy = current;
                self.plan_looks(&policy, rank, turns, &mut due);
                continue;
            }
            let Some((at, name)) = next else { continue };
            let dataset = &policy.datasets[&name];
            for store in dataset.projections() {
                self.reconcile(dataset, store).await;
            }
            let again = if self.is_to_be_filled(dataset) {
                Some(self.now() + FILL_AGAIN_AFTER * turns)
            } else {
                dataset.reconcile_every.map(|every| (at + every * turns).max(self.now()))
            };
            match again {
                Some(again) => due.insert(name, again),
                None => due.remove(&name),
            };
        }
    }

    /// When each dataset is looked over next: those whose projections are to be filled soon, a
    /// dataset that is new or has a shorter interval within that.
    fn plan_looks(
        &self,
        policy: &Policy,
        rank: u32,
        turns: u32,
        due: &mut BTreeMap<Arc<str>, Duration>,
    ) {
        let now = self.now();
        let planned = std::mem::take(due);
        for (name, dataset) in &policy.datasets {
            let planned = planned.get(name).copied();
            let at = if self.is_to_be_filled(dataset) {
                Some(now + FILL_AGAIN_AFTER * (rank + 1))
            } else {
                dataset.reconcile_every.map(|every| match planned {
                    None => now + every * (rank + 1),
                    Some(at) => at.min(now + every * turns),
                })
            };
            due.extend(at.map(|at| (name.clone(), at)));
        }
    }

    fn is_to_be_filled(&self, dataset: &Dataset) -> bool {
        let state = self.state();
        dataset.projections().any(|store| state.to_fill.contains(&(dataset.name.clone(), store)))
    }

    /// Waits until then (`None`: for ever), or until another policy is in force.
    async fn wait_for_look(&self, at: Option<Duration>, policy: &Arc<Policy>) {
        let (stop, reloaded) = (self.wake.stop.notified(), self.wake.reloaded.notified());
        if self.is_stopped() || !Arc::ptr_eq(policy, &self.policy()) {
            return;
        }
        let sleep = async {
            match at {
                Some(at) => self.env.clock().sleep(at.saturating_sub(self.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = reloaded => {}
            () = sleep => {}
        }
    }

    async fn wait_until(&self, at: Duration) {
        let stop = self.wake.stop.notified();
        let wait = at.saturating_sub(self.now());
        if self.is_stopped() || wait.is_zero() {
            return;
        }
        tokio::select! {
            biased;
            () = stop => {}
            () = self.env.clock().sleep(wait) => {}
        }
    }

    /// One pass in its turn.
    async fn reconcile(&self, dataset: &Dataset, store: StoreId) {
        if !self.state().admits(store) {
            return;
        }
        if let Err(error) = self.pass(dataset, store, Leave::Mend).await {
            tracing::warn!(dataset = %dataset.name, %store, %error, "a look over the store failed");
        }
    }

    /// Looks over what a store holds of a dataset, and mends it as far as it may.
    pub async fn look_over(
        &self,
        dataset: &str,
        store: StoreId,
        leave: Leave,
    ) -> Result<Pass, PassError> {
        let policy = self.policy();
        let dataset = policy.datasets.get(dataset).ok_or(PassError::NotKept)?;
        dataset.projection(store).ok_or(PassError::NotKept)?;
        self.pass(dataset, store, leave).await
    }

    async fn pass(
        &self,
        dataset: &Dataset,
        store: StoreId,
        leave: Leave,
    ) -> Result<Pass, PassError> {
        if !self.state().ledger.is_complete() {
            return Err(PassError::Incomplete);
        }
        let place = (dataset.name.clone(), store);
        let first = self.look(dataset, store).await?;
        let held = match leave {
            Leave::Look | Leave::Mend => first.brake().filter(|brake| match brake {
                // It is known why there is next to nothing.
                Brake::EmptyListing => !self.state().to_fill.contains(&place),
                Brake::MassDelete => true,
            }),
            Leave::MendAll => None,
        };
        let pass = Pass {
            dataset: dataset.name.to_string(),
            store,
            compared: first.compared,
            pending: first.pending,
            differing: first.differing.len(),
            keys: first.differing.keys().take(NAMED_MAX).map(|r| r.key.to_string()).collect(),
            held,
        };
        self.note_pass(&pass, &first);
        if pass.is_clean() || held.is_some() {
            self.state().to_fill.remove(&place);
        }
        if first.differing.is_empty() || held.is_some() || leave == Leave::Look {
            return Ok(pass);
        }
        self.wait_until(self.now() + LOOK_AGAIN_AFTER).await;
        let second = self.look(dataset, store).await?;
        for (record, found) in second.differing {
            if first.differing.get(&record) == Some(&found) {
                self.mend(dataset, store, &record, found.copy).await;
            }
        }
        Ok(pass)
    }

    fn note_pass(&self, pass: &Pass, look: &Look) {
        let mut state = self.state();
        state.counters.passes += 1;
        state.counters.copies_compared += look.compared as u64;
        if let Some(brake) = pass.held {
            state.counters.passes_held += 1;
            tracing::error!(
                dataset = pass.dataset, store = %pass.store, ?brake, listed = look.listed,
                deletes = look.deletes,
                "nothing is mended: the plan looks wrong; look at the store, then approve it with \
                 `tidelock sync --approve`"
            );
        }
    }

    /// Lists everything that a store holds of a dataset, page by page, beside the ledger.
    async fn look(&self, dataset: &Dataset, store: StoreId) -> Result<Look, Unavailable> {
        let prefix = &dataset.projection(store).expect("a projection is looked over").prefix;
        let mut look = Look::default();
        let mut after: Option<String> = None;
        loop {
            let listed = match store {
                StoreId::Kv => {
                    self.env.storage().kv().list(prefix, after.as_deref(), PAGE_KEYS).await
                }
                StoreId::R2 => {
                    self.env.storage().r2().list(prefix, after.as_deref(), PAGE_KEYS).await
                }
                StoreId::D1 => unreachable!("the authority is no projection"),
            };
            self.record_seen(store, if listed.is_ok() { Seen::Answer } else { Seen::Failure });
            let page = listed?;
            let last = (page.len() == PAGE_KEYS).then(|| page[PAGE_KEYS - 1].key.clone());
            self.compare(dataset, store, after.as_deref(), page, &mut look);
            if last.is_none() || look.differing.len() >= DIFFERING_MAX {
                return Ok(look);
            }
            after = last;
        }
    }

    /// Holds a page of a listing against the ledger's entries of the same keys.
    fn compare(
        &self,
        dataset: &Dataset,
        store: StoreId,
        after: Option<&str>,
        page: Vec<Listed>,
        look: &mut Look,
    ) {
        let projection = dataset.projection(store).expect("a projection is looked over");
        let key = |listed: &str| listed.strip_prefix(&projection.prefix).map(str::to_owned);
        let after = after.and_then(key);
        let through = (page.len() == PAGE_KEYS).then(|| key(&page[PAGE_KEYS - 1].key)).flatten();
        let mut state = self.state();
        let State { policy, ledger, slots, echoes, .. } = &mut *state;
        let mut beside = Beside { limits: policy.limits, slots, echoes };
        let mut known =
            ledger.range(&dataset.name, after.as_deref(), through.as_deref()).peekable();
        look.listed += page.len();
        for listed in page {
            // A key that no record can have is not ours.
            let record = key(&listed.key).and_then(|key| dataset.record(&key).ok());
            let Some(record) = record else { continue };
            while let Some((before, entry)) = known.next_if(|(known, _)| **known < record) {
                self.compare_one(&mut beside, dataset, store, before, Some(entry), None, look);
            }
            let entry = known.next_if(|(known, _)| **known == record).map(|(_, entry)| entry);
            self.compare_one(
                &mut beside,
                dataset,
                store,
                &record,
                entry,
                Some(listed.metadata),
                look,
            );
        }
        for (record, entry) in known {
            self.compare_one(&mut beside, dataset, store, record, Some(entry), None, look);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "both sides of one comparison")]
    fn compare_one(
        &self,
        beside: &mut Beside<'_>,
        dataset: &Dataset,
        store: StoreId,
        record: &RecordId,
        known: Option<&crate::ledger::Known>,
        copy: Listing,
        look: &mut Look,
    ) {
        look.compared += 1;
        let version = known.and_then(|known| known.version.as_ref());
        look.live += usize::from(version.is_some_and(|version| !version.current().deleted));
        let keep = dataset.projection(store).expect("a projection is looked over").keep;
        let form = version.map_or(Form::Absent, |version| {
            projection::form(store, keep, version.current(), &beside.limits)
        });
        let same = match (&copy, version) {
            (None, _) => form == Form::Absent,
            (Some(_), None) => false,
            (Some(metadata), Some(version)) => metadata
                .as_deref()
                .and_then(projection::read)
                .is_some_and(|described| described.is_of(version, &form)),
        };
        // What this coordinator is about to put anyway is not looked at twice.
        if beside.slots.get(record).is_some_and(|slot| slot.owed.contains_key(&store)) {
            look.pending += 1;
            return;
        }
        if same || copy.is_none() {
            beside.echoes.remove(record);
        }
        if same {
            return;
        }
        // A deleted record whose copy stands there, of ours: mending deletes it.
        let ours = matches!(&copy, Some(Some(metadata)) if projection::read(metadata).is_some());
        look.deletes += usize::from(version.is_some() && form == Form::Absent && ours);
        let row_seq = known.map_or(0, |known| known.row_seq);
        look.differing.insert(record.clone(), Found { copy, row_seq });
    }

    /// A copy has differed twice.
    async fn mend(&self, dataset: &Dataset, store: StoreId, record: &RecordId, copy: Listing) {
        self.state().counters.copies_differing += 1;
        match self.mending(record, &copy) {
            Mend::Put(version) => self.put_again(record, store, &version),
            Mend::TakeIn => self.take_in(dataset, record, store, copy).await,
        }
    }

    fn mending(&self, record: &RecordId, copy: &Listing) -> Mend {
        let known = self.state().ledger.known(record).and_then(|known| known.version);
        match (copy, known) {
            (None, Some(version)) => Mend::Put(version),
            (Some(metadata), Some(version)) => {
                let described = metadata.as_deref().and_then(projection::read);
                // An old version of ours holds nothing that the authority lacks.
                let ours = described.is_some_and(|described| match described.names {
                    Named::Version(named) => version.history.covers(&named.history),
                    Named::Tag(_) => true,
                });
                if ours { Mend::Put(version) } else { Mend::TakeIn }
            }
            (_, None) => Mend::TakeIn,
        }
    }

    /// A copy is to be put again. The authority decides whether that is still so.
    pub(super) fn put_again(&self, record: &RecordId, store: StoreId, version: &Version) {
        let mut state = self.state();
        let slot = state.slots.entry(record.clone()).or_default();
        if let Entry::Vacant(vacant) = slot.owed.entry(store) {
            vacant.insert(Owed::differs_from(version.id()));
            state.counters.copies_put_again += 1;
            self.push(&mut state, store, record);
        }
    }

    /// Bytes in a projection that the authority may not have: they become a version there, over
    /// whatever it holds by now, which is kept as a loser (rules A3 and V6).
    async fn take_in(&self, dataset: &Dataset, record: &RecordId, store: StoreId, seen: Listing) {
        let Ok(Some((body, metadata))) = self.fetch(dataset, record, store).await else { return };
        if seen.as_ref() != Some(&metadata) {
            // An edge cache gives what stood there before: the next pass may get the bytes.
            return;
        }
        let described = metadata.as_deref().and_then(projection::read);
        let described = match described.map(|described| (described.names, described.reference)) {
            None => None,
            Some((Named::Version(version), false)) => Some(version),
            // Nothing can be rebuilt from these alone.
            Some((Named::Tag(_), _) | (Named::Version(_), true)) => return,
        };
        let fits = body.len() <= self.policy().limits.value_bytes_max;
        if !fits || check_kind(dataset.kind, &body).is_err() {
            self.state().counters.foreign_refused += 1;
            tracing::error!(
                %record, %store, bytes = body.len(), kind = ?dataset.kind,
                "somebody wrote what this dataset cannot hold; it is left where it is"
            );
            return;
        }
        let mut row = match self.row(RowOp::Read { record: record.clone() }).await {
            Outcome::Applied((_, RowAnswer::Read(row))) => row,
            _ => return,
        };
        for _ in 0..TAKE_IN_TRIES {
            self.learn_row(record, row.as_ref());
            let found = row.take().unwrap_or_default();
            let candidate = match taken_in(self.site(), record, &found, described.as_ref(), &body) {
                TakenIn::Known => {
                    if let Some(version) = &found.version
                        && described.as_ref().is_none_or(|d| d.history != version.history)
                        && (store != StoreId::Kv || self.is_no_echo(record))
                    {
                        self.put_again(record, store, version);
                    }
                    return;
                }
                TakenIn::NotYet => return,
                TakenIn::Over(candidate) => candidate,
            };
            match self.send_install(dataset, record, candidate).await {
                Sent::Done => {
                    self.state().counters.foreign_writes += 1;
                    tracing::info!(%record, %store, "somebody else's write was taken in");
                    return;
                }
                Sent::Moved(now) => row = now,
                Sent::Failed => return,
            }
        }
    }

    /// True when bytes read from KV that the authority knows already are those that the listing
    /// shows, and no echo from an edge cache of what stood there before: the listing has shown a
    /// foreign write for longer than any cache keeps. Putting over an echo would lose the write
    /// behind it.
    fn is_no_echo(&self, record: &RecordId) -> bool {
        let now = self.now();
        let mut state = self.state();
        let since = *state.echoes.entry(record.clone()).or_insert(now);
        now >= since + KV_CACHED
    }
}

enum TakenIn {
    /// The authority has it, or has decided about it.
    Known,
    /// Another foreign write is taken in first.
    NotYet,
    Over(Candidate),
}

/// What becomes of bytes found in a projection: `described` is the version that they say they are
/// of, if they say so.
fn taken_in(
    site: SiteId,
    record: &RecordId,
    row: &Row,
    described: Option<&Version>,
    body: &Bytes,
) -> TakenIn {
    if row.has_foreign_write() {
        return TakenIn::NotYet;
    }
    let value = Stored::Inline(body.clone());
    let expect = row.expect();
    let theirs = resolve::held(site, record, row);
    if let Some(version) = described {
        let ours = Held { version: version.clone(), value };
        let over = |held, losers| {
            TakenIn::Over(Candidate { expect: expect.clone(), held, losers, conditional: None })
        };
        return match theirs.map(|theirs| resolve::meet(&ours, &theirs)) {
            None | Some(Met::Ours) => over(ours, Vec::new()),
            Some(Met::Theirs) => TakenIn::Known,
            Some(Met::Concurrent { merged, losers }) => over(merged, losers),
        };
    }
    let found = resolve::found(site, record, row.version.as_ref(), body);
    let known = theirs.as_ref().is_some_and(|theirs| {
        theirs.version.history.covers_dot(found.current().dot)
            || theirs.version.current().hash == found.current().hash
    });
    if known {
        return TakenIn::Known;
    }
    let winner = found.current().dot;
    let losers = theirs.map(|theirs| Loser {
        sibling: *theirs.version.current(),
        value: theirs.value,
        winner,
    });
    let held = Held { version: found, value };
    let losers = losers.into_iter().collect();
    TakenIn::Over(Candidate { expect, held, losers, conditional: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brakes() {
        let brake =
            |live, listed, deletes| Look { live, listed, deletes, ..Look::default() }.brake();
        assert_eq!(brake(1_000, 0, 0), Some(Brake::EmptyListing));
        assert_eq!(brake(1_000, 49, 0), Some(Brake::EmptyListing));
        assert_eq!(brake(1_000, 50, 0), None);
        assert_eq!(brake(19, 0, 0), None, "too few to tell");
        assert_eq!(brake(1_000, 1_000, 251), Some(Brake::MassDelete));
        assert_eq!(brake(1_000, 1_000, 250), None);
        assert_eq!(brake(0, 19, 19), None, "too few to tell");
    }
}
