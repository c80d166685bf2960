//! Projecting: the authority's version goes to KV and R2, each under a lease.
//!
//! ```text
//! (owe) ──> put: a copy that a look found to differ is marked first
//! claim ──> (look) ──> put ── Applied, and nobody else can still be putting ──> clear ──> done
//!   ^        │ Applied, but somebody may: wait, then claim and put again (A5b)
//!   └────────┴ Unknown: a new epoch; the old one stays until nothing of it can land (A5a)
//! ```
//!
//! Invariant: a put carries its lease's end as deadline (A5), and is of the version that the row
//! held when the lease was granted or read. The mark is cleared only after an `Applied` put that
//! was sent after a look at the row which showed no other live lease (A5b). Where a mark comes of a
//! look, or was taken over, R2's copy is read before the first put: what somebody wrote there before
//! the mark stood is taken in instead (A3). KV's caches cannot tell.

use super::take_in::TookIn;
use super::{Coordinator, State};
use crate::dead_letter::{Refused, Verdict};
use crate::env::{Env, KvEntry, KvStore, ObjectStore, Outcome, PutIf};
use crate::env::{Refusal, RefusalKind, Storage};
use crate::lane::{Next, Priority};
use crate::policy::Dataset;
use crate::projection::{self, Body, Form};
use crate::record::{RecordId, StoreId, Stored};
use crate::row::{Epoch, Grant, LEASE_MS, REPUT_MS, Row, RowAnswer, RowOp, StoreTime};
use crate::version::{Sibling, Version, VersionId};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A lease with less than this left is renewed before a put: the put could not make its deadline.
const LEASE_LEFT_MIN: Duration = Duration::from_millis(500);
/// KV forgets a value by itself so long after its time has passed, or after a put that came even
/// later: nothing stays for ever when no coordinator is left, and while there is one it has made the
/// tombstone long before.
const KV_EXPIRES_LATER_S: u64 = 3_600;
/// After a store said 429.
const RATE_LIMIT_PAUSE: Duration = Duration::from_millis(1_000);

/// What is to be put.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) version: Version,
    pub(super) value: Stored,
    /// The bytes, when they are at hand.
    pub(super) whole: Option<Bytes>,
    /// What a whole copy says of itself; the first store that puts one makes it for all.
    described: OnceLock<String>,
}

impl Target {
    /// A version and its value.
    pub(super) fn new(version: Version, value: Stored, whole: Option<Bytes>) -> Self {
        Target { version, value, whole, described: OnceLock::new() }
    }

    fn metadata(&self, store: StoreId, body: &Body) -> String {
        let describe = || projection::describe(&self.version, body);
        match body {
            Body::Whole => {
                let described = self.described.get_or_init(describe);
                projection::fit(store, described, &self.version, body)
            }
            Body::Reference | Body::Partial { .. } => {
                projection::fit(store, &describe(), &self.version, body)
            }
        }
    }
}

/// A projection of one record that this coordinator is bringing up to date.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// The newest version, shared with the other projections; `None`: the row must be claimed to know it.
    pub(super) target: Option<Arc<Target>>,
    lease: Option<Held>,
    /// Leases of this incarnation that stand in the row, with no put in doubt.
    quiet: BTreeSet<Epoch>,
    /// Leases of this incarnation under which a put had no answer.
    doubtful: BTreeSet<Epoch>,
    /// The copy of this version was found to differ, and there is no mark for it yet.
    unmarked: Option<VersionId>,
    /// This coordinator has put the copy itself, or has seen that it holds nobody else's bytes, or
    /// installs the version that is owed.
    looked: bool,
    failures: u32,
}

#[derive(Clone, Debug)]
struct Held {
    epoch: Epoch,
    ends: StoreTime,
    /// Monotonic, by this coordinator's clock; never later than `ends` is in truth, since it
    /// counts from before the request was sent.
    ends_here: Duration,
    /// Until when other puts can land; `None`: nobody else can be putting.
    others_until: Option<StoreTime>,
    /// The store side's time when the row was seen.
    seen_at: StoreTime,
    /// The version was put under this lease.
    put: bool,
}

impl Owed {
    /// A copy that should hold this version differs from it.
    pub(super) fn differs_from(version: VersionId) -> Self {
        Owed { unmarked: Some(version), ..Owed::default() }
    }

    /// This coordinator has installed what is to be put.
    pub(super) fn installed(&mut self, target: Arc<Target>) {
        // Only the newest is projected: a former target is forgotten.
        self.target = Some(target);
        self.looked = true;
    }

    /// A lease was granted by an answer to a request of `sent_at`.
    pub(super) fn granted(
        &mut self,
        grant: &Grant,
        store: StoreId,
        sent_at: Duration,
        now: StoreTime,
    ) {
        if let Some(former) = self.lease.take()
            && former.epoch != grant.epoch
            && !self.doubtful.contains(&former.epoch)
        {
            self.quiet.insert(former.epoch);
        }
        self.quiet.remove(&grant.epoch);
        self.unmarked = None;
        self.lease = Some(Held {
            epoch: grant.epoch,
            ends: grant.ends,
            ends_here: sent_at + Duration::from_millis(LEASE_MS),
            others_until: grant.others_until.get(&store).copied(),
            seen_at: now,
            put: false,
        });
    }

    fn needs_claim(&self, now: Duration) -> bool {
        match (&self.target, &self.lease) {
            (Some(_), Some(lease)) => {
                // Own quiet leases make it look as if others could be putting: claiming forgets
                // them. After a put that could not be cleared, the row must be seen anew.
                now + LEASE_LEFT_MIN >= lease.ends_here
                    || self.doubtful.contains(&lease.epoch)
                    || (lease.others_until.is_some() && (lease.put || !self.quiet.is_empty()))
            }
            _ => true,
        }
    }

    fn renewable(&self) -> Option<Epoch> {
        let lease = self.lease.as_ref()?;
        (!self.doubtful.contains(&lease.epoch)).then_some(lease.epoch)
    }

    fn quiet(&self) -> Vec<Epoch> {
        self.quiet.iter().copied().collect()
    }
}

impl State {
    /// A target that its store refuses is not waited for once the row is known to hold another version:
    /// that may be taken, and a claim shows it.
    fn forget_superseded_target(&mut self, record: &RecordId, store: StoreId) {
        let State { slots, ledger, .. } = self;
        let owed = slots.get_mut(record).and_then(|slot| slot.owed.get_mut(&store));
        let Some(owed) = owed else { return };
        let newest = ledger.known(record).and_then(|known| known.version);
        if let (Some(target), Some(newest)) = (&owed.target, newest)
            && newest.compare(&target.version) == Some(Ordering::Greater)
        {
            owed.target = None;
        }
    }
}

/// What to do next in a turn.
enum Step {
    Wait(Next),
    Owe(VersionId),
    Claim { renew: Option<Epoch>, quiet: Vec<Epoch> },
    Look,
    Put { target: Arc<Target>, lease: Held, began: Duration },
}

/// What a put's outcome asks for.
enum AfterPut {
    Turn(Next),
    Failed,
    Clear { quiet: Vec<Epoch> },
}

impl<E: Env> Coordinator<E> {
    /// One turn of a projection's lane on one record.
    pub(super) async fn project(&self, record: &RecordId, store: StoreId) -> Next {
        let policy = self.policy();
        let Some(dataset) = policy.datasets.get(&record.dataset) else {
            return self.give_up(record, store);
        };
        if dataset.projection(store).is_none() {
            return self.give_up(record, store);
        }
        // Claim, look and put in one turn; whatever comes after a put starts a new one.
        for _ in 0..3 {
            match self.next_step(record, store) {
                Step::Wait(next) => return next,
                Step::Owe(version) => {
                    if let Some(next) = self.owe(record, store, version).await {
                        return next;
                    }
                }
                Step::Claim { renew, quiet } => {
                    if let Some(next) = self.claim(record, store, renew, quiet).await {
                        return next;
                    }
                }
                Step::Look => {
                    if let Some(next) = self.look_before_put(dataset, record, store).await {
                        return next;
                    }
                }
                Step::Put { target, lease, began } => {
                    return self.put_and_clear(dataset, record, store, target, lease, began).await;
                }
            }
        }
        Next::Again
    }

    fn next_step(&self, record: &RecordId, store: StoreId) -> Step {
        if self.is_stopped() {
            // Whoever follows in this process knows of this store what we do not.
            return Step::Wait(Next::Again);
        }
        let now = self.now();
        let mut state = self.state();
        if !state.letters.is_empty() {
            state.forget_superseded_target(record, store);
        }
        let Some(owed) = state.slots.get(record).and_then(|slot| slot.owed.get(&store)) else {
            return Step::Wait(Next::Done);
        };
        // KV and R2 take one write a second for each key; only the newest version is put.
        if let Some(next_put) = state.last_puts[store].next(record, now, self.pace.same_key) {
            return Step::Wait(Next::At(next_put));
        }
        // A lease is held by whoever puts, and nobody puts what the store will not take.
        if let Some(target) = &owed.target
            && let Some(until) = state.copy_dead_until(record, store, target.version.current(), now)
        {
            return Step::Wait(Next::Park(until));
        }
        if let Some(version) = &owed.unmarked {
            return Step::Owe(version.clone());
        }
        if owed.needs_claim(now) {
            return Step::Claim { renew: owed.renewable(), quiet: owed.quiet() };
        }
        if !state.admits(store) {
            // It stopped answering while the mark was claimed. The lane is paused.
            return Step::Wait(Next::Again);
        }
        if store == StoreId::R2 && !owed.looked {
            return Step::Look;
        }
        match (&owed.target, &owed.lease) {
            (Some(target), Some(lease)) => {
                Step::Put { target: target.clone(), lease: lease.clone(), began: now }
            }
            _ => Step::Claim { renew: None, quiet: owed.quiet() },
        }
    }

    /// Marks a copy that was found to differ; `None`: marked, and the mark is held here.
    async fn owe(&self, record: &RecordId, store: StoreId, version: VersionId) -> Option<Next> {
        let sent_at = self.now();
        let op = RowOp::Owe { record: record.clone(), store, version, holder: self.actor };
        match self.row(op).await {
            Outcome::Applied((now, RowAnswer::Claimed { row, grant })) => {
                self.claimed(record, store, *row, &grant, Vec::new(), sent_at, now)
            }
            // The row holds another version by now, or somebody else has marked it.
            Outcome::Applied(_) => Some(self.give_up(record, store)),
            Outcome::Refused(_) => Some(self.projection_failed(record, store)),
            Outcome::Unknown(_) => {
                // It may be marked by now: a claim tells.
                let mut state = self.state();
                let slot = state.slots.get_mut(record);
                if let Some(owed) = slot.and_then(|slot| slot.owed.get_mut(&store)) {
                    owed.unmarked = None;
                }
                drop(state);
                Some(self.projection_failed(record, store))
            }
        }
    }

    /// Claims the mark; `None`: claimed.
    async fn claim(
        &self,
        record: &RecordId,
        store: StoreId,
        renew: Option<Epoch>,
        quiet: Vec<Epoch>,
    ) -> Option<Next> {
        let sent_at = self.now();
        let op = RowOp::Claim {
            record: record.clone(),
            store,
            holder: self.actor,
            renew,
            quiet: quiet.clone(),
        };
        match self.row(op).await {
            Outcome::Applied((now, RowAnswer::Claimed { row, grant })) => {
                self.learn_row(record, Some(&row));
                self.claimed(record, store, *row, &grant, quiet, sent_at, now)
            }
            Outcome::Applied((_, RowAnswer::NotOwed)) => Some(self.give_up(record, store)),
            Outcome::Applied((_, RowAnswer::Held { .. })) => {
                // Somebody installed a newer version, or took over: it is theirs to project.
                self.release(record, store).await;
                let dead = self.leave_dead_copy(record, store);
                Some(dead.unwrap_or_else(|| self.give_up(record, store)))
            }
            Outcome::Applied((_, answer)) => {
                tracing::error!(%record, %store, ?answer, "a claim was answered with this");
                Some(self.projection_failed(record, store))
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => {
                Some(self.projection_failed(record, store))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the claim's request and its whole answer")]
    fn claimed(
        &self,
        record: &RecordId,
        store: StoreId,
        row: Row,
        grant: &Grant,
        forgotten: Vec<Epoch>,
        sent_at: Duration,
        now: StoreTime,
    ) -> Option<Next> {
        let mut state = self.state();
        if row.has_foreign_write() {
            // The bytes in the row are not the version's: they are taken in first, which installs
            // a version of their own and marks this projection again.
            state.slots.entry(record.clone()).or_default().look = true;
            self.push(&mut state, StoreId::D1, record, Priority::Repair);
            drop(state);
            return Some(self.projection_failed(record, store));
        }
        let Some(owed) = state.slots.get_mut(record).and_then(|s| s.owed.get_mut(&store)) else {
            return Some(Next::Done);
        };
        for epoch in forgotten {
            owed.quiet.remove(&epoch);
        }
        owed.granted(grant, store, sent_at, now);
        // A lease of our own whose grant never arrived is not told apart from one with a put in
        // doubt: it stays until it expires.
        let version = row.version.expect("a mark is set together with a version");
        let same = owed.target.as_ref().is_some_and(|target| target.version == version);
        if !same {
            let value = row.value.unwrap_or(Stored::Tombstone);
            let whole = match &value {
                Stored::Inline(bytes) => Some(bytes.clone()),
                Stored::Tombstone | Stored::Reference { .. } | Stored::Erased(_) => None,
            };
            owed.target = Some(Arc::new(Target::new(version, value, whole)));
        }
        None
    }

    /// Reads the copy that is to be put over; `None`: it may be. The mark stands, so that what
    /// somebody writes from here on meets a put that is on its way.
    async fn look_before_put(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        store: StoreId,
    ) -> Option<Next> {
        let Ok(found) = self.fetch(dataset, record, store).await else {
            return Some(self.projection_failed(record, store));
        };
        if let Some((body, metadata)) = found {
            let described = metadata.as_deref().and_then(projection::read);
            let ours = described.is_some_and(|described| described.has(&body));
            if !ours {
                match self.take_in(dataset, record, store, Some(metadata), Priority::Repair).await {
                    TookIn::Installed => return Some(Next::Again),
                    TookIn::Undecided => return Some(self.projection_failed(record, store)),
                    TookIn::Known | TookIn::Unholdable => {}
                }
            }
        }
        let mut state = self.state();
        let owed = state.slots.get_mut(record).and_then(|slot| slot.owed.get_mut(&store));
        let Some(owed) = owed else { return Some(Next::Done) };
        owed.looked = true;
        None
    }

    async fn put_and_clear(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        store: StoreId,
        target: Arc<Target>,
        lease: Held,
        began: Duration,
    ) -> Next {
        let sent = self.put(dataset, record, store, &target, lease.ends).await;
        let Some(outcome) = sent else { return self.projection_failed(record, store) };
        let now = self.record_outcome(store, began, &outcome);
        match self.after_put(record, store, &target, &lease, outcome, now) {
            AfterPut::Turn(next) => next,
            AfterPut::Failed => self.projection_failed(record, store),
            AfterPut::Clear { quiet } => self.clear(record, store, &target, &lease, quiet).await,
        }
    }

    fn after_put(
        &self,
        record: &RecordId,
        store: StoreId,
        target: &Target,
        lease: &Held,
        outcome: Outcome<()>,
        now: Duration,
    ) -> AfterPut {
        let mut state = self.state();
        state.counters.puts += 1;
        state.last_puts[store].note(record, now, self.pace.same_key);
        let Some(owed) = state.slots.get_mut(record).and_then(|s| s.owed.get_mut(&store)) else {
            return AfterPut::Turn(Next::Done);
        };
        let refusal = match outcome {
            Outcome::Applied(()) => {
                owed.failures = 0;
                if let Some(held) = &mut owed.lease
                    && held.epoch == lease.epoch
                {
                    held.put = true;
                }
                let quiet = owed.quiet();
                self.end_letters(&mut state, record, store, &target.version);
                state.confirm(record, store, &target.version);
                let Some(until) = lease.others_until else { return AfterPut::Clear { quiet } };
                // Another put may land over this one: put again once none can, and at least every
                // 1.5 seconds until then, so that a copy made stale does not stay so (A5b).
                let wait_ms = until.0.saturating_sub(lease.seen_at.0).min(REPUT_MS);
                return AfterPut::Turn(Next::At(now + Duration::from_millis(wait_ms)));
            }
            Outcome::Unknown(_) => {
                owed.doubtful.insert(lease.epoch);
                owed.quiet.remove(&lease.epoch);
                state.counters.puts_unknown += 1;
                return AfterPut::Failed;
            }
            Outcome::Refused(refusal) => refusal,
        };
        match refusal.kind {
            RefusalKind::RateLimited => {
                state.counters.rate_limited += 1;
                AfterPut::Turn(Next::Retry(now + RATE_LIMIT_PAUSE))
            }
            RefusalKind::DeadlinePassed => {
                owed.lease = None;
                owed.quiet.insert(lease.epoch);
                AfterPut::Turn(Next::Again)
            }
            RefusalKind::TooLarge | RefusalKind::Constraint => {
                // The put has a definite answer, and its lease is left to end. The next one is far off, and
                // whatever somebody writes to the copy until then is not to be put over unseen.
                owed.looked = false;
                state.counters.puts_poisoned += 1;
                drop(state);
                let Sibling { dot, bytes, .. } = *target.version.current();
                match self.note_refused(Refused { record, store, dot, bytes }, &refusal) {
                    Verdict::TryAgain => AfterPut::Failed,
                    Verdict::Dead(until) => AfterPut::Turn(Next::Park(until)),
                }
            }
            RefusalKind::Precondition | RefusalKind::Unreachable => AfterPut::Failed,
        }
    }

    async fn clear(
        &self,
        record: &RecordId,
        store: StoreId,
        target: &Target,
        lease: &Held,
        quiet: Vec<Epoch>,
    ) -> Next {
        let op = RowOp::Clear {
            record: record.clone(),
            store,
            version: target.version.id(),
            epoch: lease.epoch,
            quiet,
        };
        match self.row(op).await {
            Outcome::Applied((_, RowAnswer::Cleared | RowAnswer::NotOwed)) => {
                let mut state = self.state();
                state.counters.clears += 1;
                let Some(slot) = state.slots.get_mut(record) else { return Next::Done };
                // A newer install of our own may have marked it again since.
                let newer = slot.owed.get(&store).and_then(|owed| owed.target.as_ref());
                if newer.is_some_and(|newer| newer.version != target.version) {
                    return Next::Again;
                }
                slot.owed.remove(&store);
                Next::Done
            }
            Outcome::Applied((_, RowAnswer::Moved(_) | RowAnswer::NotAlone { .. })) => {
                self.doubt_target(record, store, target);
                Next::Again
            }
            Outcome::Applied((_, answer)) => {
                tracing::error!(%record, %store, ?answer, "a clear was answered with this");
                self.projection_failed(record, store)
            }
            Outcome::Refused(_) | Outcome::Unknown(_) => {
                self.doubt_target(record, store, target);
                self.end_epoch(record, store, lease.epoch);
                self.projection_failed(record, store)
            }
        }
    }

    /// A clear without an answer may land later, and vouches that every put under its lease was
    /// answered. So no put may be sent under that lease any more.
    fn end_epoch(&self, record: &RecordId, store: StoreId, epoch: Epoch) {
        let mut state = self.state();
        let owed = state.slots.get_mut(record).and_then(|slot| slot.owed.get_mut(&store));
        let Some(owed) = owed else { return };
        if owed.lease.as_ref().is_some_and(|lease| lease.epoch == epoch) {
            owed.lease = None;
        }
        owed.quiet.insert(epoch);
    }

    /// The row may not be what we knew, or the mark may be gone: a claim tells.
    fn doubt_target(&self, record: &RecordId, store: StoreId, target: &Target) {
        let mut state = self.state();
        let owed = state.slots.get_mut(record).and_then(|slot| slot.owed.get_mut(&store));
        if let Some(owed) = owed
            && owed.target.as_ref().is_some_and(|newest| newest.version == target.version)
        {
            owed.target = None;
        }
    }

    /// Takes back this coordinator's leases whose puts were all answered, so that their successor
    /// need not wait for them to expire. Losing this message costs time alone.
    async fn release(&self, record: &RecordId, store: StoreId) {
        let quiet = {
            let mut state = self.state();
            let owed = state.slots.get_mut(record).and_then(|slot| slot.owed.get_mut(&store));
            let Some(owed) = owed else { return };
            let mut quiet = owed.quiet();
            quiet.extend(owed.renewable());
            quiet
        };
        if !quiet.is_empty() {
            let _ = self.row(RowOp::Release { record: record.clone(), store, quiet }).await;
        }
    }

    /// Nothing is owed here any more, or somebody else does it.
    fn give_up(&self, record: &RecordId, store: StoreId) -> Next {
        let mut state = self.state();
        if let Some(slot) = state.slots.get_mut(record) {
            slot.owed.remove(&store);
        }
        self.end_letters_elsewhere(&mut state, record, store);
        Next::Done
    }

    fn projection_failed(&self, record: &RecordId, store: StoreId) -> Next {
        let failures = {
            let mut state = self.state();
            let owed = state.slots.get_mut(record).and_then(|slot| slot.owed.get_mut(&store));
            let Some(owed) = owed else { return Next::Done };
            owed.failures += 1;
            owed.failures
        };
        self.back_off(failures)
    }

    /// Sends the copy, or the delete, that the version asks for. `None`: nothing was sent, since the store
    /// stopped answering while the bytes were fetched, or this coordinator has stopped.
    async fn put(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        store: StoreId,
        target: &Target,
        deadline: StoreTime,
    ) -> Option<Outcome<()>> {
        let projection = dataset.projection(store).expect("checked before the turn began");
        let key = projection.key(record);
        let current = target.version.current();
        let form = projection::form(store, &projection.keep, current, &self.policy().limits);
        let (bytes, body) = match form {
            Form::Absent => {
                let storage = self.env.storage();
                return Some(match store {
                    StoreId::Kv => storage.kv().delete(&key, deadline).await,
                    StoreId::R2 => storage.r2().delete(&key, deadline).await,
                    StoreId::D1 => unreachable!("the authority is no projection"),
                });
            }
            Form::Reference => {
                let place = record.to_string();
                (projection::reference_body(&target.value, current, &place), Body::Reference)
            }
            Form::Whole => match self.whole(target).await {
                Ok(bytes) => (bytes, Body::Whole),
                Err(refusal) => return Some(Outcome::Refused(refusal)),
            },
            Form::Partial(fields) => match self.whole(target).await {
                Ok(bytes) => {
                    let part = fields.of(&bytes);
                    let body = Body::partial(&fields, &part);
                    (part, body)
                }
                Err(refusal) => return Some(Outcome::Refused(refusal)),
            },
        };
        if target.whole.is_none() && (self.is_stopped() || !self.state().admits(store)) {
            return None;
        }
        let metadata = target.metadata(store, &body);
        let put = match store {
            StoreId::Kv => {
                let expires_at_s = current
                    .expires_at_ms
                    .map(|at_ms| at_ms.max(deadline.0) / 1_000 + KV_EXPIRES_LATER_S);
                let entry = KvEntry { value: bytes, metadata: Some(metadata), expires_at_s };
                self.env.storage().kv().put(&key, entry, deadline).await
            }
            StoreId::R2 => {
                let r2 = self.env.storage().r2();
                let put = r2.put(&key, bytes, Some(metadata), PutIf::Always, Some(deadline));
                put.await.map(drop)
            }
            StoreId::D1 => unreachable!("the authority is no projection"),
        };
        Some(put)
    }

    /// The value's bytes: at hand, or from where the row refers to.
    async fn whole(&self, target: &Target) -> Result<Bytes, Refusal> {
        if let Some(bytes) = &target.whole {
            return Ok(bytes.clone());
        }
        match &target.value {
            Stored::Inline(bytes) => Ok(bytes.clone()),
            // Putting nothing over a copy would lose the last of the value.
            Stored::Tombstone | Stored::Erased(_) => Err(Refusal::new(
                RefusalKind::Constraint,
                "the authority's row has lost its value, and nothing shows that it was deleted; \
                 write the record again, or delete it",
            )),
            Stored::Reference { hash, .. } => match self.blob(*hash).await {
                Ok(bytes) => Ok(bytes),
                Err(doubt) => Err(Refusal::new(RefusalKind::Unreachable, doubt.detail)),
            },
        }
    }
}
