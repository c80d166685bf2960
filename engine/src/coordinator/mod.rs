//! The coordinator: takes writes, owes them to the stores, and pays.
//!
//! ```text
//! write ──> journal ──> install ──> project ──> done
//!  write.rs  commit.rs   install.rs  project.rs
//!            one fsync   compare-    a put under a lease at
//!            for all     and-set at  each projection, then
//!            waiting     the row     the mark is cleared
//! ```
//!
//! `rows.rs` carries row operations to the authority in batches, `watch.rs` follows its change
//! feed, takes over what others left undone and probes stores that did not answer, `exchange.rs`
//! follows the feeds of other sites and `compare.rs` compares trees with them, `keep.rs` journals
//! writes of others, `reconcile.rs` looks over what the projections list (`pass.rs`: what that
//! showed, and whether it may be acted on) and `scrub.rs` over the bytes behind it, `take_in.rs`
//! makes versions of what others wrote there, `leaves.rs` holds the ledger against the authority,
//! `reap.rs` removes tombstones that nothing needs any more, `dead.rs` sees to what a store refuses
//! for good, `apart.rs` gathers what several values of one record are settled with, `read.rs` answers
//! readers, `reload.rs` changes the policy, `expire.rs` ends values whose time has passed, `blobs.rs`
//! sees to large values in R2, `leave.rs` ends the work of a coordinator that is retired, `force.rs`
//! does an operator's will with breakers, `logged.rs` brings an audit log what the authority has
//! settled, `operations.rs` remembers which record an operation is of.
//!
//! Invariant: what a coordinator knows is in one place, [`State`], behind one lock that is never
//! held across a wait. Whatever leaves the coordinator was durable in the journal before
//! (rule V2); a coordinator whose journal fails stops, and a new one starts from replay.

mod apart;
mod blobs;
mod commit;
mod compare;
mod conflicts;
mod dead;
mod exchange;
mod expire;
mod force;
mod install;
mod keep;
mod leave;
mod leaves;
mod logged;
mod operations;
mod pass;
mod patch;
mod project;
mod read;
mod reap;
mod recent;
mod reconcile;
mod redaction;
mod reload;
mod replay;
mod rows;
mod scrub;
mod session;
mod siblings;
mod status;
mod take_in;
mod watch;
mod write;

pub use apart::Beside;
pub use conflicts::{Disputed, Lost, RestoreError, Standing, Started};
pub use dead::DeadLetterError;
pub use force::{ForceError, Kept};
pub use leave::Leaving;
pub use leaves::LedgerCheck;
pub use logged::{Backwards, Logged, Trail};
pub use pass::{Billed, Brake, Leave, Over, Pass, PassError};
pub use patch::{Patching, Unpatched};
pub use read::{Read, ReadError};
pub use redaction::{Redact, RedactError, Redaction};
pub use replay::{Again, Replayed};
pub use session::{Session, SessionError};
pub use siblings::{OpenConflict, Resolution, Resolve, ResolveError, Resolved};
pub use status::{
    Counters, DatasetBacklog, OperationState, Pulse, SiteStatus, Status, StoreStatus,
};
pub use watch::PROBE_KEY;
pub use write::{Condition, Lifetime, Receipt, Write, WriteDoubt, WriteOutcome, WriteRefusal};

use crate::backlog::Held;
use crate::breaker::{Breaker, Forced, Seen, Transition};
use crate::concurrency::{Concurrency, Load};
use crate::dead_letter::DeadLetters;
use crate::env::{Clock, Env, Journal, Outcome, Refusal, RefusalKind, Storage};
use crate::health::{Ended, Health};
use crate::hlc::{HybridClock, Met};
use crate::journal::{Intent, JournalError, LetterNote};
use crate::lane::{Lane, Next, Priority};
use crate::last_puts::LastPuts;
use crate::ledger::Ledger;
use crate::policy::{Pace, Policy};
use crate::record::{PerStore, RecordId, StoreId, StoreMap, StoreSet};
use crate::record_map::RecordMap;
use crate::recovery::Recovery;
use crate::row::{Change, Row, Seq};
use crate::version::{Actor, Dot, NodeId, SiteId, Version, VersionVector};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// One coordinator, from replay to stop.
pub struct Coordinator<E: Env> {
    env: E,
    pace: Pace,
    actor: Actor,
    state: Mutex<State>,
    rows: rows::Queue,
    journal: commit::Queue,
    wake: Wake,
    stopped: AtomicBool,
}

/// Everything that the coordinator knows.
struct State {
    policy: Arc<Policy>,
    counter: u64,
    clock: HybridClock,
    ledger: Ledger,
    slots: RecordMap<Box<Slot>>,
    lanes: PerStore<Lane>,
    breakers: PerStore<Breaker>,
    /// Of these, such as an operator has forced.
    forced: BTreeMap<StoreId, Forced>,
    /// How much of each store's work may be under way: batches at the authority, records at the others.
    concurrency: PerStore<Concurrency>,
    health: PerStore<Health>,
    recoveries: PerStore<Recovery>,
    last_puts: PerStore<LastPuts>,
    /// Intents that the authority may lack.
    held: Held,
    operations: operations::Operations,
    news: BTreeMap<NodeId, watch::News>,
    /// The feeds of other sites.
    sites: BTreeMap<SiteId, exchange::Followed>,
    /// Versions of other sites that wait for the authority.
    adoptions: usize,
    adoption_bytes: usize,
    /// Foreign writes at the authority that a dataset cannot hold, by their row sequence.
    refused: BTreeMap<RecordId, u64>,
    /// Copies in KV whose listing differs, which may be an echo; since when it has shown just that.
    echoes: BTreeMap<RecordId, (reconcile::Found, Duration)>,
    /// Copies that a read found to be behind this history, and when it first did.
    behind: BTreeMap<(RecordId, StoreId), (VersionVector, Duration)>,
    /// Looks over a store that have not come to its end.
    looks: BTreeMap<(Arc<str>, StoreId), reconcile::Look>,
    /// How far the values of each store were read and hashed.
    scrubs: BTreeMap<(Arc<str>, StoreId), scrub::Scrub>,
    /// What is known of what may be reaped.
    reaping: reap::Reaping,
    /// Projections that were added or changed their form, and not looked over to the end since.
    to_fill: BTreeSet<(Arc<str>, StoreId)>,
    /// Projections of which a reload has changed what they keep.
    filters: BTreeMap<(Arc<str>, StoreId), pass::Filter>,
    /// The last look over each projection, and over what is recent there.
    passes: BTreeMap<(Arc<str>, StoreId, Over), Pass>,
    /// Where the feed was when the ledger was complete for the first time.
    complete_from: Option<Seq>,
    /// How far the looks over what is recent have come.
    recents: BTreeMap<(Arc<str>, StoreId), recent::Recent>,
    /// What the store side's clock showed last.
    store_clock: Option<expire::Reading>,
    /// Values that stand in R2 under their own hash.
    blobs: blobs::Blobs,
    expiries: expire::Expiries,
    letters: DeadLetters,
    /// Writes that stand in a dead letter alone: the authority holds a version over them.
    lost: BTreeMap<Dot, Arc<Intent>>,
    /// No repair behind a read before this.
    next_read_repair: Duration,
    /// Since when a commit of the journal is under way.
    commit_since: Option<Duration>,
    /// Its last one found no room on its disk.
    journal_full: bool,
    /// The journal's disk had no room; it is not asked again before this.
    journal_full_until: Duration,
    counters: Counters,
    failure: Option<JournalError>,
    /// It is to be retired.
    leaving: bool,
}

/// A record with work to do.
#[derive(Default)]
struct Slot {
    /// Not yet known to be in the authority, oldest first.
    intents: VecDeque<Pending>,
    /// Projections that this coordinator is bringing up to date.
    owed: StoreMap<Box<project::Owed>>,
    /// Versions of other sites that the authority here does not hold yet.
    adoptions: Vec<exchange::Adoption>,
    /// Writers that wait for stores.
    waiters: Vec<Waiter>,
    /// The row must be looked at: foreign bytes, or an install without an answer.
    look: bool,
    /// Projections with a mark, and the dataset is not kept there.
    unkept: StoreSet,
    /// The value's time has passed.
    expire: bool,
    /// Installs in a row without success.
    failures: u32,
    /// Values of others that the authority has refused to show, and how often.
    unshown: Vec<(Dot, u32)>,
}

struct Pending {
    intent: Arc<Intent>,
    durable: bool,
    /// The authority will not take it: it is passed over.
    dead: bool,
}

impl Pending {
    /// A write that is kept for another coordinator: nothing is built on it, and nobody reads it,
    /// before the authority has accepted it.
    fn is_kept_for(&self, own: NodeId) -> Option<NodeId> {
        let node = self.intent.dot().actor.node;
        (node != own).then_some(node)
    }
}

struct Waiter {
    dot: Dot,
    missing: StoreSet,
    done: oneshot::Sender<Settled>,
}

/// How a write that waited for its stores came out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Settled {
    /// Every store that it waited for has it, or a version that includes it.
    Held,
    /// Its condition did not hold.
    Cancelled,
    /// The wait is over, and these have not said that they have it.
    Pending(StoreSet),
}

#[derive(Default)]
struct Wake {
    lanes: PerStore<Notify>,
    probes: PerStore<Notify>,
    /// The authority answers again.
    polls: Notify,
    timer: Notify,
    news: Notify,
    exchange: Notify,
    adopted: Notify,
    settled: Notify,
    reloaded: Notify,
    expiry: Notify,
    stop: Notify,
}

impl<E: Env> Coordinator<E> {
    /// Replays the journal, takes a new incarnation and starts to work.
    pub async fn start(
        env: E,
        node: NodeId,
        policy: Policy,
        pace: Pace,
    ) -> Result<Arc<Self>, JournalError> {
        let replay = env.storage().journal().replay().await?;
        let actor = Actor { node, incarnation: env.random() };
        let seed = env.hash_seed();
        let mut state = State {
            policy: Arc::new(policy),
            counter: 0,
            clock: HybridClock::default(),
            ledger: Ledger::default(),
            slots: RecordMap::new(seed),
            lanes: PerStore::of(Lane::new(seed)),
            breakers: PerStore::default(),
            forced: BTreeMap::new(),
            concurrency: PerStore::of(Concurrency::new(pace.lane_width)),
            health: PerStore::default(),
            recoveries: PerStore::default(),
            last_puts: PerStore::of(LastPuts::new(seed)),
            held: Held::default(),
            operations: operations::Operations::new(actor),
            news: BTreeMap::new(),
            sites: BTreeMap::new(),
            adoptions: 0,
            adoption_bytes: 0,
            refused: BTreeMap::new(),
            echoes: BTreeMap::new(),
            looks: BTreeMap::new(),
            scrubs: BTreeMap::new(),
            reaping: reap::Reaping::default(),
            behind: BTreeMap::new(),
            to_fill: BTreeSet::new(),
            filters: BTreeMap::new(),
            passes: BTreeMap::new(),
            complete_from: None,
            recents: BTreeMap::new(),
            store_clock: None,
            blobs: blobs::Blobs::default(),
            expiries: expire::Expiries::default(),
            letters: DeadLetters::default(),
            lost: BTreeMap::new(),
            next_read_repair: Duration::ZERO,
            commit_since: None,
            journal_full: false,
            journal_full_until: Duration::ZERO,
            counters: Counters::default(),
            failure: None,
            leaving: false,
        };
        state.concurrency[StoreId::D1] = Concurrency::new(pace.batches_max);
        state.counters.replayed_intents = replay.intents.len() as u64;
        for intent in replay.intents {
            state.operations.remember(intent.dot(), &intent.record);
            state.meet_stamp(env.clock().wall(), &intent.version);
            state.reaping.replayed(node, intent.dot());
            state.hold(Arc::new(intent), true, env.clock().monotonic());
        }
        let gone = state.restore_letters(replay.letters, env.clock().monotonic());
        state.restore_forced(replay.forced, env.clock().monotonic());
        let coordinator = Arc::new(Coordinator {
            env,
            pace,
            actor,
            state: Mutex::new(state),
            rows: rows::Queue::default(),
            journal: commit::Queue::default(),
            wake: Wake::default(),
            stopped: AtomicBool::new(false),
        });
        for id in gone {
            coordinator.note_letter(LetterNote::Ended(id));
        }
        coordinator.clone().spawn_tasks();
        Ok(coordinator)
    }

    fn spawn_tasks(self: Arc<Self>) {
        let env = self.env.clone();
        env.spawn(self.clone().commit_loop());
        for _ in 0..self.pace.batches_max {
            env.spawn(self.clone().batch_loop());
        }
        for store in StoreId::ALL {
            for _ in 0..self.pace.lane_width {
                env.spawn(self.clone().lane_loop(store));
            }
        }
        env.spawn(self.clone().timer_loop());
        env.spawn(self.clone().watch_loop());
        env.spawn(self.clone().reconcile_loop());
        env.spawn(self.clone().expiry_loop());
        for store in StoreId::ALL {
            env.spawn(self.clone().probe_loop(store));
        }
        self.meet_members();
    }

    /// This coordinator in this incarnation.
    pub fn actor(&self) -> Actor {
        self.actor
    }

    /// Ends every task. What is owed stays in the journal.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake.stop.notify_waiters();
        self.wake.timer.notify_one();
        self.wake.polls.notify_waiters();
        self.wake.news.notify_waiters();
        self.wake.exchange.notify_waiters();
        self.wake.adopted.notify_waiters();
        self.wake.settled.notify_waiters();
        self.wake.expiry.notify_waiters();
        for (_, notify) in self.wake.lanes.iter().chain(self.wake.probes.iter()) {
            notify.notify_waiters();
        }
        // Whoever waits for an answer is told that there will be none.
        self.rows.close();
        // Intents are queued under this lock by writers that saw no stop: none comes after it.
        let mut state = self.state();
        self.journal.close();
        for slot in state.slots.values_mut() {
            for waiter in slot.waiters.drain(..) {
                let _ = waiter.done.send(Settled::Pending(waiter.missing));
            }
        }
    }

    /// Waits until this coordinator has stopped. `Some`: its journal failed, and only a new start
    /// from replay knows what is durable (rule V2).
    pub async fn failed(&self) -> Option<JournalError> {
        loop {
            let stop = self.wake.stop.notified();
            let failure = self.state().failure.clone();
            if failure.is_some() || self.is_stopped() {
                return failure;
            }
            stop.await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the state")
    }

    fn now(&self) -> Duration {
        self.env.clock().monotonic()
    }

    /// A pause before the next try.
    fn back_off(&self, failures: u32) -> Next {
        Next::Retry(self.now() + crate::retry::pause(failures, self.env.random()))
    }

    fn push(&self, state: &mut State, store: StoreId, record: &RecordId, why: Priority) {
        self.push_at(state, store, record, why, self.now());
    }

    /// The same for whoever has just looked at the clock.
    fn push_at(
        &self,
        state: &mut State,
        store: StoreId,
        record: &RecordId,
        why: Priority,
        now: Duration,
    ) {
        state.lanes[store].push(record, why, now);
        self.wake.lanes[store].notify_one();
    }

    /// Takes note of how a call to a store ended that had begun at `began`.
    fn record_seen(&self, store: StoreId, began: Duration, seen: Seen) {
        self.record_call(store, began, seen, Load::Untold);
    }

    /// The same of a call that says more. Gives the time when it ended.
    fn record_outcome<T>(&self, store: StoreId, began: Duration, outcome: &Outcome<T>) -> Duration {
        let seen = match outcome {
            Outcome::Applied(_) => Seen::Answer,
            Outcome::Refused(refusal) => seen_in(refusal),
            Outcome::Unknown(_) => Seen::Failure,
        };
        self.record_call(store, began, seen, Load::of(outcome))
    }

    fn record_call(&self, store: StoreId, began: Duration, seen: Seen, load: Load) -> Duration {
        let now = self.now();
        let mut state = self.state();
        let ended = match seen {
            Seen::Answer => Ended::Answered,
            Seen::Failure => Ended::Failed,
        };
        state.health[store].record(now, now.saturating_sub(began), ended);
        match load {
            Load::Untold => {}
            Load::TooMuch => state.concurrency[store].overloaded(now, began),
        }
        let transition = state.breakers[store].record(now, began, seen);
        self.follow_breaker(&mut state, store, transition);
        match transition {
            Transition::None => {}
            Transition::Opened => {
                state.counters.breaker_opened += 1;
                tracing::warn!(%store, "the store does not answer; its breaker is open");
            }
            Transition::Closed => tracing::info!(%store, "the store answers again"),
        }
        now
    }

    /// The lane of a store does what its breaker says.
    fn follow_breaker(&self, state: &mut State, store: StoreId, transition: Transition) {
        match transition {
            Transition::None => {}
            Transition::Opened => {
                state.recoveries[store].opened();
                state.lanes[store].pause();
                self.wake.probes[store].notify_one();
            }
            Transition::Closed => {
                let now = self.now();
                state.recoveries[store].closed(now);
                state.concurrency[store].restart();
                state.lanes[store].resume();
                state.caught_up(store, now);
                self.wake.lanes[store].notify_one();
                if store == StoreId::D1 {
                    self.wake.polls.notify_waiters();
                }
            }
        }
    }

    async fn lane_loop(self: Arc<Self>, store: StoreId) {
        let mut taken = None;
        loop {
            if taken.is_none() {
                taken = self.next_record(store).await;
            }
            let Some(record) = taken else { return };
            let next = match store {
                StoreId::D1 => self.install(&record).await,
                StoreId::Kv | StoreId::R2 => self.project(&record, store).await,
            };
            taken = self.finish(store, &record, next);
        }
    }

    /// A worker lets go of a record, and takes the next one if it can.
    fn finish(&self, store: StoreId, record: &RecordId, next: Next) -> Option<RecordId> {
        let now = self.now();
        let mut state = self.state();
        state.drop_idle_slot(record);
        state.lanes[store].finish(record, next);
        state.health[store].ended(now, next == Next::Done);
        match next {
            Next::At(_) | Next::Retry(_) | Next::Park(_) => self.wake.timer.notify_one(),
            Next::Done => {
                if store != StoreId::D1 {
                    state.concurrency[store].succeeded();
                }
                state.caught_up(store, now);
                if state.lanes[store].has_retry_due(now) {
                    self.wake.timer.notify_one();
                }
            }
            Next::Again => {}
        }
        if self.is_stopped() {
            return None;
        }
        let record = self.take(&mut state, store)?;
        state.health[store].began(now);
        Some(record)
    }

    /// The next record of a lane; calls another worker if there is room for that.
    fn take(&self, state: &mut State, store: StoreId) -> Option<RecordId> {
        let width = state.width(store, &self.pace);
        let record = state.lanes[store].take(width)?;
        // One permit may stand for several records.
        if state.lanes[store].is_ready(width) {
            self.wake.lanes[store].notify_one();
        }
        Some(record)
    }

    async fn next_record(&self, store: StoreId) -> Option<RecordId> {
        loop {
            let news = self.wake.lanes[store].notified();
            if self.is_stopped() {
                return None;
            }
            {
                let mut state = self.state();
                if let Some(record) = self.take(&mut state, store) {
                    state.health[store].began(self.now());
                    return Some(record);
                }
            }
            news.await;
        }
    }

    /// Wakes delayed records when they are due.
    async fn timer_loop(self: Arc<Self>) {
        while !self.is_stopped() {
            let now = self.now();
            let due = {
                let mut state = self.state();
                for store in StoreId::ALL {
                    let width = state.width(store, &self.pace);
                    let lane = &mut state.lanes[store];
                    lane.wake(now);
                    if lane.is_ready(width) {
                        self.wake.lanes[store].notify_one();
                    }
                }
                state.lanes.iter().filter_map(|(_, lane)| lane.due()).min()
            };
            match due {
                None => self.wake.timer.notified().await,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = self.wake.timer.notified() => {}
                        () = self.env.clock().sleep(at.saturating_sub(now)) => {}
                    }
                }
            }
        }
    }

    /// Takes note of a row that the authority showed.
    fn learn_row(&self, record: &RecordId, row: Option<&Row>) {
        let wall = self.env.clock().wall();
        let mut state = self.state();
        match row {
            None => {
                self.learn(&mut state, record, None, 0, Seq(0));
            }
            Some(row) => {
                if let Some(version) = &row.version {
                    state.meet_stamp(wall, version);
                } else {
                    state.ledger.reaped(&record.dataset, row.floor_stamp);
                }
                let foreign = row.has_foreign_write();
                let version = row.version.as_ref();
                // Whoever tells of the same change later tells nothing new.
                if self.learn_version(&mut state, record, version, row.row_seq, row.seq, foreign)
                    && !foreign
                {
                    self.row_of_letters_changed(&mut state, record);
                }
            }
        }
    }

    fn learn_change(&self, change: &Change) {
        let wall = self.env.clock().wall();
        let mut state = self.state();
        if let Some(version) = &change.version {
            state.meet_stamp(wall, version);
        }
        let Change { record, version, row_seq, seq, foreign } = change;
        let news =
            self.learn_version(&mut state, record, version.as_ref(), *row_seq, *seq, *foreign);
        if *foreign {
            if !state.leaving {
                state.slots.entry(record.clone()).or_default().look = true;
                self.push(&mut state, StoreId::D1, record, Priority::Repair);
            }
        } else if news {
            self.row_of_letters_changed(&mut state, record);
        }
    }

    /// Takes note of a row's version. A foreign write is only learned as part of the version that
    /// takes it in; but what it was written over is known from here on, since a new write must not
    /// seem to be the record's first (rule V1). A compare-and-set over that finds the row moved. True
    /// when it is newer than what was known.
    fn learn_version(
        &self,
        state: &mut State,
        record: &RecordId,
        version: Option<&Version>,
        row_seq: u64,
        seq: Seq,
        foreign: bool,
    ) -> bool {
        match (version, foreign) {
            (_, false) => self.learn(state, record, version, row_seq, seq),
            (Some(_), true) => self.learn(state, record, version, row_seq.saturating_sub(1), seq),
            (None, true) => false,
        }
    }
}

impl State {
    /// Work on so many of a store's records may be under way. The authority's share batches, and it
    /// is these that are fewer when it has too much to do: fewer records would make them smaller.
    fn width(&self, store: StoreId, pace: &Pace) -> usize {
        match store {
            StoreId::D1 => pace.lane_width,
            StoreId::Kv | StoreId::R2 => self.concurrency[store].width(),
        }
    }

    fn admits(&self, store: StoreId) -> bool {
        self.breakers[store].admits()
    }

    /// Ends the recovery of a store that is owed nothing any more.
    fn caught_up(&mut self, store: StoreId, now: Duration) {
        if self.recoveries[store].is_behind() && self.backlog(store) == 0 {
            self.recoveries[store].caught_up(now);
        }
    }

    fn meet_stamp(&mut self, wall: Duration, version: &Version) {
        match self.clock.meet(wall, version.stamp()) {
            Met::Followed => {}
            Met::Drift { ahead_ms } => {
                self.counters.clock_drift_ms_max = self.counters.clock_drift_ms_max.max(ahead_ms);
            }
        }
    }

    /// Keeps an intent until the authority holds its version.
    fn hold(&mut self, intent: Arc<Intent>, durable: bool, now: Duration) {
        self.held.add(&intent.record.dataset, intent.value.held_bytes());
        let record = intent.record.clone();
        if durable {
            self.lanes[StoreId::D1].push(&record, Priority::Foreground, now);
        }
        self.slots.entry(record).or_default().intents.push_back(Pending {
            intent,
            durable,
            dead: false,
        });
    }

    fn drop_idle_slot(&mut self, record: &RecordId) {
        if let Some(slot) = self.slots.get(record)
            && slot.intents.is_empty()
            && slot.owed.is_empty()
            && slot.adoptions.is_empty()
            && slot.waiters.is_empty()
            && slot.unkept.is_empty()
            && !slot.expire
            && !slot.look
        {
            self.slots.remove(record);
        }
    }

    /// A store holds a version that covers `history`: writers that waited for it there go on.
    fn confirm(&mut self, record: &RecordId, store: StoreId, version: &Version) {
        let Some(slot) = self.slots.get_mut(record) else { return };
        for mut waiter in std::mem::take(&mut slot.waiters) {
            if version.history.covers_dot(waiter.dot) {
                waiter.missing.remove(store);
            }
            if waiter.missing.is_empty() {
                // A caller that no longer listens has had its answer as pending.
                let _ = waiter.done.send(Settled::Held);
            } else {
                slot.waiters.push(waiter);
            }
        }
    }
}

/// What a refusal says of the store itself.
fn seen_in(refusal: &Refusal) -> Seen {
    match refusal.kind {
        RefusalKind::Unreachable => Seen::Failure,
        RefusalKind::RateLimited
        | RefusalKind::Precondition
        | RefusalKind::DeadlinePassed
        | RefusalKind::TooLarge
        | RefusalKind::Constraint => Seen::Answer,
    }
}
