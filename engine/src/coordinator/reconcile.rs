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

use super::pass::{Billed, Brake, Leave, Over, Pass, PassError, Seen};
use super::project::Owed;
use super::{Coordinator, Slot, State};
use crate::breaker;
use crate::env::{Clock, Env, KvStore, Listed, ObjectStore, Storage, Unavailable};
use crate::lane::Priority;
use crate::ledger::Noted;
use crate::policy::{Dataset, Limits, Policy};
use crate::projection::{self, Form, Named};
use crate::record::{RecordId, StoreId};
use crate::record_map::RecordMap;
use crate::row::{Seq, StoreTime};
use crate::version::Version;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Keys in one page of a listing, which the stores give at most; and entries of the ledger that are
/// looked at under one lock.
pub(super) const PAGE_KEYS: usize = 1_000;
/// Differences that are kept in memory at once: all that one step can show, so that each stretch of
/// a pass gets on. A pass deals with them and goes on behind them.
const DIFFERING_MAX: usize = 2 * PAGE_KEYS;
/// Pages without a key in a row, before a listing is given up: a store may give some.
const EMPTY_PAGES_MAX: u32 = 100;
/// Between the two looks. What is on its way has arrived, or its mark shows it.
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(1_000);
/// Between looks over a projection that is being filled, and before the first: what others were
/// told of the former policy has landed, and they have heard of the new one.
const FILL_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Keys that a report names at most.
const NAMED_MAX: usize = 20;

/// A copy as a listing shows it: its metadata, if it has any. `None`: there is no copy.
pub(super) type Listing = Option<Option<String>>;

/// How far a look over a store has come. It is kept while the store does not answer, so that the
/// next turn goes on where this one stopped; and in memory only, since a start reads the whole
/// authority anew anyway.
#[derive(Debug, Default)]
pub(super) struct Look {
    compared: usize,
    pending: usize,
    /// The first of what differs.
    differing: BTreeMap<RecordId, Found>,
    /// All that differs.
    differ: usize,
    /// Of that, what may have to be taken in.
    foreign: usize,
    pages: usize,
    seen: Seen,
    /// The last key of the store that was looked at.
    at: Option<String>,
    /// The last key of the store up to which everything that differs is in `differing`.
    kept_through: Option<String>,
    /// The listing and the ledger were looked at to their ends.
    ended: bool,
    /// Where the authority's feed was when it began.
    began: Option<Seq>,
}

impl Look {
    fn from(at: Option<String>) -> Self {
        Look { at: at.clone(), kept_through: at, ..Look::default() }
    }

    /// What mending takes, from what was seen.
    fn predicted(&self) -> Billed {
        if self.differ == 0 {
            return Billed::default();
        }
        let puts = self.differ;
        Billed {
            lists: self.pages,
            gets: self.foreign,
            puts,
            rows: 2 * (puts - self.foreign) + 3 * self.foreign,
        }
    }

    /// What differs, as far as it is kept.
    pub(super) fn differing(&self) -> impl Iterator<Item = &RecordId> {
        self.differing.keys()
    }

    /// The same, as it was seen.
    pub(super) fn listings(&self) -> Vec<(RecordId, Listing)> {
        self.differing.iter().map(|(record, found)| (record.clone(), found.copy.clone())).collect()
    }

    /// Something else shows that it does not differ, or not so.
    pub(super) fn leave_out(&mut self, record: &RecordId) {
        self.differing.remove(record);
    }

    /// What is to be said of it.
    pub(super) fn pass(
        &self,
        dataset: &Dataset,
        store: StoreId,
        over: Over,
        held: Option<Brake>,
    ) -> Pass {
        Pass {
            dataset: dataset.name.to_string(),
            store,
            over,
            compared: self.compared,
            pending: self.pending,
            pages: self.pages,
            reads: 0,
            differing: self.differ,
            keys: self.differing.keys().take(NAMED_MAX).map(|r| r.key.to_string()).collect(),
            predicted: self.predicted(),
            held,
        }
    }

    /// True when nothing is left to be looked for behind what is kept.
    fn is_whole(&self) -> bool {
        self.ended && self.differ == self.differing.len()
    }

    /// Everything up to the last key that was looked at is kept, so far as there is room.
    fn keep(&mut self) {
        if self.differ == self.differing.len() {
            self.kept_through.clone_from(&self.at);
        }
    }
}

/// Where a look ends.
#[derive(Clone, Copy)]
enum Until<'k> {
    /// At the listing's end: all is counted, though not all of it is kept.
    End,
    /// With as many differences as are kept, if the listing is so long.
    Full,
    /// Behind this key of the store.
    Key(&'k str),
}

/// A copy that differs from the authority, as far as this coordinator knows that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) copy: Listing,
    /// Of the ledger's entry that it was held against; 0: the authority has no such record.
    pub(super) row_seq: u64,
}

/// Which of the coordinators that share the stores this one is.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    rank: u32,
    pub(super) of: u32,
}

/// A copy in a listing.
struct Copied {
    listed: String,
    prefix_bytes: usize,
    metadata: Option<String>,
}

impl Copied {
    fn key(&self) -> &str {
        &self.listed[self.prefix_bytes..]
    }
}

/// What a comparison needs beside the ledger.
struct Beside<'s> {
    now: StoreTime,
    limits: Limits,
    slots: &'s RecordMap<Box<Slot>>,
    echoes: &'s mut BTreeMap<RecordId, (Found, Duration)>,
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
        let mut policy = self.policy();
        let mut due = BTreeMap::new();
        self.plan_looks(&policy, self.turn(), &mut due);
        loop {
            let next = due.iter().map(|(place, at): (&(Arc<str>, Over), _)| (*at, place.clone()));
            let next = next.min();
            self.wait_for_look(next.as_ref().map(|(at, _)| *at), &policy).await;
            if self.is_stopped() || self.is_leaving() {
                return;
            }
            // Members come and go: those who stay share the turns of one that is gone.
            let turn = self.turn();
            let current = self.policy();
            if !Arc::ptr_eq(&current, &policy) {
                policy = current;
                self.plan_looks(&policy, turn, &mut due);
                continue;
            }
            let Some((at, place)) = next else { continue };
            let (name, over) = &place;
            let dataset = &policy.datasets[name];
            if *over == Over::Recent {
                for store in dataset.projections() {
                    if self.look_over_recent(dataset, store).await {
                        due.insert((name.clone(), Over::Everything), self.now());
                    }
                }
                let again = dataset.reconcile_recent.map(|every| at + every * turn.of);
                match again {
                    Some(again) => due.insert(place, again.max(self.now())),
                    None => due.remove(&place),
                };
                continue;
            }
            if self.state().admits(StoreId::D1)
                && let Err(error) = self.check_ledger(name).await
            {
                tracing::warn!(dataset = %name, %error, "D1's leaves could not be read");
            }
            for store in dataset.projections() {
                self.reconcile(dataset, store).await;
                self.scrub(dataset, store, Priority::Reconciliation).await;
            }
            self.reap(dataset).await;
            // It has just been told what is dead here.
            self.compare_with_sites(name).await;
            self.collect_blobs().await;
            let again = if self.is_to_be_filled(dataset) {
                Some(self.now() + FILL_AGAIN_AFTER * turn.of)
            } else {
                let every = dataset.reconcile_every;
                self.by_clock_too(
                    dataset,
                    every.map(|every| (at + every * turn.of).max(self.now())),
                )
            };
            match again {
                Some(again) => due.insert(place, again),
                None => due.remove(&place),
            };
        }
    }

    pub(super) fn turn(&self) -> Turn {
        let peers = self.sharing();
        let rank = peers.iter().filter(|peer| **peer < self.actor.node).count() as u32;
        Turn { rank, of: peers.len() as u32 + 1 }
    }

    /// When each dataset is looked over next: those whose projections are to be filled soon, a
    /// dataset that is new or has a shorter interval within that.
    fn plan_looks(
        &self,
        policy: &Policy,
        turn: Turn,
        due: &mut BTreeMap<(Arc<str>, Over), Duration>,
    ) {
        let Turn { rank, of: turns } = turn;
        let now = self.now();
        let planned = std::mem::take(due);
        for (name, dataset) in &policy.datasets {
            let place = (name.clone(), Over::Everything);
            let soon = (name.clone(), Over::Recent);
            let recent = dataset.reconcile_recent.map(|every| match planned.get(&soon) {
                None => now + every * (rank + 1),
                Some(at) => (now + every * turns).min(*at),
            });
            due.extend(recent.map(|at| (soon, at)));
            let planned = planned.get(&place).copied();
            let at = if self.is_to_be_filled(dataset) {
                Some(now + FILL_AGAIN_AFTER * (rank + 1))
            } else {
                let by_interval = dataset.reconcile_every.map(|every| match planned {
                    None => now + every * (rank + 1),
                    Some(at) => at.min(now + every * turns),
                });
                self.by_clock_too(dataset, by_interval)
            };
            due.extend(at.map(|at| (place, at)));
        }
    }

    /// The next look by the interval, or by the dataset's cron if that is sooner. A wall clock that
    /// jumps makes a look early or late, and nothing else.
    fn by_clock_too(&self, dataset: &Dataset, by_interval: Option<Duration>) -> Option<Duration> {
        let wall = self.env.clock().wall();
        let by_clock = dataset.reconcile_full.as_ref().and_then(|cron| cron.next_after(wall));
        let by_clock = by_clock.map(|at| self.now() + at.saturating_sub(wall));
        by_interval.into_iter().chain(by_clock).min()
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

    pub(super) async fn wait_until(&self, at: Duration) {
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
        let why = Priority::Reconciliation;
        if let Err(error) = self.pass(dataset, store, Leave::Mend, why).await {
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
        let pass = self.pass(dataset, store, leave, Priority::Bulk).await?;
        match leave {
            Leave::Look => {}
            Leave::Mend | Leave::MendAll => self.scrub(dataset, store, Priority::Bulk).await,
        }
        Ok(pass)
    }

    async fn pass(
        &self,
        dataset: &Dataset,
        store: StoreId,
        leave: Leave,
        why: Priority,
    ) -> Result<Pass, PassError> {
        if !self.state().ledger.is_complete() {
            return Err(PassError::Incomplete);
        }
        // An operator sees all of it anew; in its turn a look goes on where the last one stopped.
        let place = (dataset.name.clone(), store);
        let begun = match leave {
            Leave::Mend => self.state().looks.remove(&place),
            Leave::Look | Leave::MendAll => None,
        };
        let prefix = &dataset.projection(store).expect("a projection is looked over").prefix;
        let begun = begun.filter(|look| look.at.as_ref().is_some_and(|at| at.starts_with(prefix)));
        let mut look = begun.unwrap_or_default();
        let began = *look.began.get_or_insert(self.state().ledger.cursor());
        if let Err(unavailable) = self.look(dataset, store, Until::End, &mut look).await {
            if leave == Leave::Mend {
                self.state().looks.insert(place, look);
            }
            return Err(unavailable.into());
        }
        let held = match leave {
            Leave::Look | Leave::Mend => look.seen.brake(self.state().expected(&place)),
            Leave::MendAll => {
                self.state().approve(&place);
                None
            }
        };
        let pass = look.pass(dataset, store, Over::Everything, held);
        self.note_pass(&pass, &look);
        if pass.is_clean() || held.is_some() {
            self.state().to_fill.remove(&place);
        }
        if pass.is_clean() {
            self.state().filters.remove(&place);
        }
        if pass.differing == 0 {
            self.note_whole(dataset, store, began);
        }
        if held.is_some() || leave == Leave::Look {
            return Ok(pass);
        }
        // The first of what differs is at hand. What there was no room for is looked for again
        // behind it, a stretch at a time.
        let mut from = None;
        while !look.differing.is_empty() && !self.is_stopped() {
            self.confirm_and_mend(dataset, store, from.take(), &look, why).await?;
            if look.is_whole() {
                break;
            }
            from.clone_from(&look.kept_through);
            look = Look::from(from.clone());
            self.look(dataset, store, Until::Full, &mut look).await?;
        }
        // What may be an echo is not mended yet, and is looked at again before the next listing.
        if store == StoreId::R2 {
            self.note_whole(dataset, store, began);
        }
        Ok(pass)
    }

    /// Looks again at the stretch behind `from` in which differences were found, and mends what
    /// differs as it did.
    async fn confirm_and_mend(
        &self,
        dataset: &Dataset,
        store: StoreId,
        from: Option<String>,
        first: &Look,
        why: Priority,
    ) -> Result<(), Unavailable> {
        self.wait_until(self.now() + LOOK_AGAIN_AFTER).await;
        let until = match &first.kept_through {
            Some(through) if !first.is_whole() => Until::Key(through),
            Some(_) | None => Until::Full,
        };
        let mut second = Look::from(from);
        self.look(dataset, store, until, &mut second).await?;
        self.mend_confirmed(dataset, store, first, second, why).await;
        Ok(())
    }

    /// Mends what differs in a second look as it did in the first.
    pub(super) async fn mend_confirmed(
        &self,
        dataset: &Dataset,
        store: StoreId,
        first: &Look,
        second: Look,
        why: Priority,
    ) {
        for (record, found) in second.differing {
            if first.differing.get(&record) == Some(&found) {
                self.mend(dataset, store, &record, found, why).await;
            }
        }
    }

    pub(super) fn note_pass(&self, pass: &Pass, look: &Look) {
        let mut state = self.state();
        let place = (Arc::<str>::from(pass.dataset.as_str()), pass.store);
        if pass.over == Over::Everything {
            // Of what is recent too.
            state.passes.remove(&(place.0.clone(), place.1, Over::Recent));
        }
        state.passes.insert((place.0, place.1, pass.over), pass.clone());
        match pass.over {
            Over::Recent => state.counters.recent_passes += 1,
            Over::Everything => state.counters.passes += 1,
        }
        state.counters.copies_compared += look.compared as u64;
        if let Some(brake) = pass.held {
            state.counters.passes_held += 1;
            tracing::error!(
                dataset = pass.dataset, store = %pass.store, ?brake, listed = look.seen.listed,
                deletes = look.seen.deletes,
                "nothing is mended: the plan looks wrong; look at the store, then approve it with \
                 `tidelock sync --approve`"
            );
        }
    }

    /// Lists what a store holds of a dataset, page by page, beside the ledger. What was seen is in
    /// `look`, even when the store stops answering.
    async fn look(
        &self,
        dataset: &Dataset,
        store: StoreId,
        until: Until<'_>,
        look: &mut Look,
    ) -> Result<(), Unavailable> {
        let prefix = &dataset.projection(store).expect("a projection is looked over").prefix;
        let mut empty_pages = 0;
        loop {
            let after = look.at.as_deref();
            self.not_held(store)?;
            let began = self.now();
            let listed = match store {
                StoreId::Kv => self.env.storage().kv().list(prefix, after, PAGE_KEYS).await,
                StoreId::R2 => self.env.storage().r2().list(prefix, after, PAGE_KEYS).await,
                StoreId::D1 => unreachable!("the authority is no projection"),
            };
            self.record_seen(
                store,
                began,
                if listed.is_ok() { breaker::Seen::Answer } else { breaker::Seen::Failure },
            );
            let page = listed?;
            empty_pages = if page.keys.is_empty() { empty_pages + 1 } else { 0 };
            if empty_pages == EMPTY_PAGES_MAX {
                return Err(Unavailable("page after page of the listing is empty".into()));
            }
            // A page may be short, or empty, though more follows.
            let last_key = page.keys.last().map(|last| last.key.clone());
            let last = page.next.map(|next| last_key.unwrap_or(next));
            look.pages += 1;
            look.seen.listed += page.keys.len();
            self.compare(dataset, store, page.keys, last.as_deref(), until, look);
            match until {
                _ if last.is_none() => return Ok(()),
                Until::Full if look.differ >= DIFFERING_MAX => return Ok(()),
                Until::Key(through) if last.as_deref() >= Some(through) => return Ok(()),
                Until::End | Until::Full | Until::Key(_) => {}
            }
        }
    }

    /// Holds a page of a listing against the ledger's entries of the same keys, up to `last`; or to
    /// the ledger's end. The lock is held for so many of them at a time.
    fn compare(
        &self,
        dataset: &Dataset,
        store: StoreId,
        page: Vec<Listed>,
        last: Option<&str>,
        until: Until<'_>,
        look: &mut Look,
    ) {
        let projection = dataset.projection(store).expect("a projection is looked over");
        let key = |listed: &str| listed.strip_prefix(&projection.prefix).map(str::to_owned);
        let mut after = look.at.as_deref().and_then(key);
        let through = last.and_then(key);
        let prefix_bytes = projection.prefix.len();
        let copies = page.into_iter().filter_map(|Listed { key: listed, metadata }| {
            let ours = listed.starts_with(&projection.prefix);
            ours.then_some(Copied { listed, prefix_bytes, metadata })
        });
        let mut copies = copies.peekable();
        loop {
            let mut state = self.state();
            let now = state.store_time_least(self.now());
            let State { policy, ledger, slots, echoes, .. } = &mut *state;
            let mut beside = Beside { now, limits: policy.limits, slots, echoes };
            let known = ledger.range(&dataset.name, after.as_deref(), through.as_deref());
            let mut at = None;
            let mut looks = 0;
            for (key, noted) in known.take(PAGE_KEYS) {
                looks += 1;
                while let Some(copy) = copies.next_if(|copy| *copy.key() < **key) {
                    self.compare_unknown(&mut beside, dataset, store, copy, look);
                }
                let copy = copies.next_if(|copy| *copy.key() == **key);
                let record = RecordId { dataset: dataset.name.clone(), key: key.clone() };
                self.compare_one(&mut beside, dataset, store, &record, Some(noted), copy, look);
                at = Some(key);
            }
            if looks < PAGE_KEYS {
                for copy in copies {
                    self.compare_unknown(&mut beside, dataset, store, copy, look);
                }
                break;
            }
            let at = at.expect("some were looked at");
            after = Some(at.to_string());
            look.at = Some(format!("{}{at}", projection.prefix));
            drop(state);
            look.keep();
            if matches!(until, Until::Full) && look.differ >= DIFFERING_MAX {
                return;
            }
        }
        look.ended = last.is_none();
        look.at = last.map(str::to_owned);
        look.keep();
    }

    /// Holds copies that were read one by one against the ledger's entries.
    pub(super) fn compare_each(
        &self,
        dataset: &Dataset,
        store: StoreId,
        copies: Vec<(RecordId, Listing)>,
        look: &mut Look,
    ) {
        let prefix = &dataset.projection(store).expect("a projection is looked over").prefix;
        let mut state = self.state();
        let now = state.store_time_least(self.now());
        let State { policy, ledger, slots, echoes, .. } = &mut *state;
        let mut beside = Beside { now, limits: policy.limits, slots, echoes };
        for (record, copy) in copies {
            look.seen.listed += usize::from(copy.is_some());
            let copy = copy.map(|metadata| {
                let listed = format!("{prefix}{}", record.key);
                Copied { listed, prefix_bytes: prefix.len(), metadata }
            });
            let noted = ledger.noted(&record);
            self.compare_one(&mut beside, dataset, store, &record, noted, copy, look);
        }
    }

    /// A copy of a record that the ledger does not have.
    fn compare_unknown(
        &self,
        beside: &mut Beside<'_>,
        dataset: &Dataset,
        store: StoreId,
        copy: Copied,
        look: &mut Look,
    ) {
        // A key that no record can have is not ours.
        let Ok(record) = dataset.record(copy.key()) else { return };
        self.compare_one(beside, dataset, store, &record, None, Some(copy), look);
    }

    #[expect(clippy::too_many_arguments, reason = "both sides of one comparison")]
    fn compare_one(
        &self,
        beside: &mut Beside<'_>,
        dataset: &Dataset,
        store: StoreId,
        record: &RecordId,
        noted: Option<Noted<'_>>,
        copy: Option<Copied>,
        look: &mut Look,
    ) {
        look.compared += 1;
        let version = noted.and_then(|noted| noted.version());
        let expired = version.as_ref().is_some_and(|v| v.current().has_expired(beside.now));
        look.seen.live +=
            usize::from(version.as_ref().is_some_and(|v| !v.current().deleted && !expired));
        // What this coordinator is about to put anyway is not looked at twice.
        if beside.slots.get(record).is_some_and(|slot| slot.owed.contains_key(&store)) {
            look.pending += 1;
            return;
        }
        let keep = &dataset.projection(store).expect("a projection is looked over").keep;
        let form = version.as_ref().map_or(Form::Absent, |version| {
            projection::form(store, keep, version.current(), &beside.limits)
        });
        let metadata = copy.as_ref().and_then(|copy| copy.metadata.as_deref());
        let written =
            metadata.zip(version.as_ref()).and_then(|(m, v)| projection::as_written(m, v));
        let described = if written.is_none() { metadata.and_then(projection::read) } else { None };
        let same = match (&copy, &version, &written) {
            // KV forgets by itself what has expired long ago.
            (None, Some(_), _) if expired => true,
            (None, _, _) => form == Form::Absent,
            (Some(_), None, _) => false,
            (Some(_), Some(_), Some(body)) => body.has_form(&form),
            (Some(_), Some(version), None) => {
                described.as_ref().is_some_and(|d| d.is_of(version, &form))
            }
        };
        if same {
            if store == StoreId::Kv {
                beside.echoes.remove(record);
            }
            return;
        }
        // A deleted record whose copy stands there, of ours: mending deletes it.
        let ours = written.is_some() || described.is_some();
        let deletes = version.is_some() && form == Form::Absent && ours;
        let same_version = written.is_some()
            || version.as_ref().is_some_and(|version| {
                described.as_ref().is_some_and(|described| described.names_version(version))
            });
        look.seen.reformed += usize::from(form != Form::Absent && same_version);
        look.seen.strangers += usize::from(version.is_none() && copy.is_some());
        look.seen.deletes += usize::from(deletes);
        look.foreign += usize::from(copy.is_some() && !ours);
        look.differ += 1;
        if look.differing.len() < DIFFERING_MAX {
            let row_seq = noted.map_or(0, |noted| noted.row_seq());
            let copy = copy.map(|copy| copy.metadata);
            look.differing.insert(record.clone(), Found { copy, row_seq });
        }
    }

    /// A copy has differed twice.
    async fn mend(
        &self,
        dataset: &Dataset,
        store: StoreId,
        record: &RecordId,
        found: Found,
        why: Priority,
    ) {
        self.state().counters.copies_differing += 1;
        match self.mending(record, &found.copy) {
            // What the listing shows may have been mended, and written over by somebody, since.
            Mend::Put(_) if !self.is_no_echo(record, store, &found) => {}
            Mend::Put(version) => self.put_again(record, store, &version, why),
            Mend::TakeIn => {
                self.take_in(dataset, record, store, found.copy, why).await;
            }
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
    pub(super) fn put_again(
        &self,
        record: &RecordId,
        store: StoreId,
        version: &Version,
        why: Priority,
    ) {
        let mut state = self.state();
        if state.leaving {
            return;
        }
        let slot = state.slots.entry(record.clone()).or_default();
        if !slot.owed.contains_key(&store) {
            slot.owed.insert(store, Box::new(Owed::differs_from(version.id())));
            state.counters.copies_put_again += 1;
            self.push(&mut state, store, record, why);
        }
    }

    /// True when what a listing shows of a copy is no echo of what stood there before: it has shown
    /// just that, beside the same row, for longer than any cache or listing lags. Putting over what
    /// an echo hides would lose somebody's write.
    pub(super) fn is_no_echo(&self, record: &RecordId, store: StoreId, found: &Found) -> bool {
        if store != StoreId::Kv {
            return true;
        }
        let now = self.now();
        let mut state = self.state();
        let (shown, since) =
            state.echoes.entry(record.clone()).or_insert_with(|| (found.clone(), now));
        if shown != found {
            (*shown, *since) = (found.clone(), now);
        }
        now >= *since + self.env.storage().kv().echoes_for()
    }
}
