//! A write, from the caller to its acknowledgement.
//!
//! Invariant: a write gets its dot only when replay has ended and the record's current entry is
//! known (rule V1); its history is that of everything this coordinator knows of the record, its
//! stamp exceeds all of that (rule V3), and what its caller had not seen of it is kept as a loser
//! (the chain rule). It is acknowledged when its intent is durable; the stores whose strategy is
//! write-through are waited for, and named as pending when they do not answer in time.

mod refusal;

pub use refusal::WriteRefusal;

use super::{Coordinator, Settled, State, Waiter};
use crate::backlog::{self, Behind, Mode, Queue};
use crate::env::{Clock, Env, Outcome};
use crate::journal::{Intent, JournalError};
use crate::policy::{Dataset, Durability, Kind, Oversize, Pace, Policy, Ruling, Table};
use crate::record::{Loser, RecordId, StoreId, StoreSet, Stored};
use crate::resolve;
use crate::row::{Expect, Row, RowAnswer, RowOp, Seq, StoreTime};
use crate::structured::Schema;
use crate::version::{Dot, NodeId, Sibling, SiteId, Version, VersionVector};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Values of one record that writes with old contexts may leave beside each other. Sites that were apart
/// can have as many each.
pub const SIBLINGS_MAX: usize = 64;

/// What a caller wants written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The dataset's name.
    pub dataset: String,
    /// The record's key in it.
    pub key: String,
    /// The bytes; `None` deletes.
    pub value: Option<Bytes>,
    /// What must hold.
    pub condition: Condition,
    /// For how long the value stands; of no meaning to a delete.
    pub lifetime: Lifetime,
}

/// For how long a value stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// As the dataset says.
    #[default]
    Usual,
    /// Until somebody deletes it.
    Endless,
    /// For so long, by the store side's clock.
    For(Duration),
    /// Until then, by the store side's clock, in milliseconds since the Unix epoch.
    Until(u64),
}

/// What a write is made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever this coordinator knows.
    None,
    /// The history that the caller has read; what it had not seen is concurrent with it.
    Context(VersionVector),
    /// Exactly the version of this tag, else nothing is written (`If-Match`).
    Match(String),
    /// No record, else nothing is written (`If-None-Match: *`).
    Absent,
    /// Exactly the version of this history, whatever is shown of it, else nothing is written: a tag names
    /// what is shown, and of several values that may be a delete.
    Over(VersionVector),
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What was written.
    pub record: RecordId,
    /// The write; also its operation id.
    pub dot: Dot,
    /// Its version.
    pub version: Version,
    /// There was no such record before, as far as this coordinator knew.
    pub created: bool,
    /// Write-through stores that have not confirmed yet; empty: done as promised.
    pub pending: Vec<StoreId>,
    /// Whose authority it is on its way to.
    pub site: SiteId,
    /// Where its change stands in that authority's feed; `None`: the authority may not hold it yet.
    pub seq: Option<Seq>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Acknowledged: it will not be lost.
    Applied(Receipt),
    /// It did not happen.
    Refused(WriteRefusal),
    /// It may have happened.
    Unknown(WriteDoubt),
}

/// Why nobody knows whether a write happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteDoubt {
    /// The journal failed, or the coordinator stopped, while the intent was on its way to the
    /// disk.
    Journal(JournalError),
    /// The write is durable here and conditional, and the authority has not decided its condition
    /// yet. That is no acknowledgement: the condition may turn out not to hold.
    Undecided {
        /// Its operation.
        dot: Dot,
    },
}

impl fmt::Display for WriteDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteDoubt::Journal(error) => error.fmt(f),
            WriteDoubt::Undecided { dot } => write!(
                f,
                "the authority has not decided the condition yet; ask for operation {dot}"
            ),
        }
    }
}

/// A write that has its dot.
struct Begun {
    intent: Arc<Intent>,
    created: bool,
    durable: oneshot::Receiver<Result<(), JournalError>>,
    settled: oneshot::Receiver<Settled>,
}

/// What the authority showed of a record that was asked for.
struct Looked {
    expect: Expect,
    held: Option<resolve::Held>,
}

impl<E: Env> Coordinator<E> {
    /// Writes one record.
    pub async fn write(&self, write: Write) -> WriteOutcome {
        self.write_by(write, None).await
    }

    /// Writes one record for a caller that waits until `deadline` (monotonic): after that nothing is
    /// begun, and what was begun before is answered as far as it is known by then.
    pub async fn write_by(&self, write: Write, deadline: Option<Duration>) -> WriteOutcome {
        let policy = self.policy();
        let mut write = write;
        let outcome = match check(&policy, &mut write) {
            Ok((dataset, record)) => self.write_checked(dataset, record, write, deadline).await,
            Err(refusal) => WriteOutcome::Refused(refusal),
        };
        let mut state = self.state();
        match &outcome {
            WriteOutcome::Applied(receipt) if receipt.pending.is_empty() => {
                state.counters.writes_acknowledged += 1;
            }
            WriteOutcome::Applied(_) => {
                state.counters.writes_acknowledged += 1;
                state.counters.writes_pending += 1;
            }
            WriteOutcome::Refused(_) => state.counters.writes_refused += 1,
            WriteOutcome::Unknown(_) => state.counters.writes_unknown += 1,
        }
        drop(state);
        outcome
    }

    async fn write_checked(
        &self,
        dataset: &Dataset,
        record: RecordId,
        write: Write,
        deadline: Option<Duration>,
    ) -> WriteOutcome {
        let begun = match self.begin_alone(dataset, &record, &write, deadline).await {
            Ok(begun) => begun,
            Err(refusal) => return WriteOutcome::Refused(refusal),
        };
        match begun.durable.await {
            Ok(Ok(())) => {}
            Ok(Err(JournalError::Full(detail))) => {
                return WriteOutcome::Refused(WriteRefusal::JournalFull { detail });
            }
            Ok(Err(error)) => return WriteOutcome::Unknown(WriteDoubt::Journal(error)),
            Err(_) => {
                let stopped = JournalError::Io("the coordinator stopped".to_owned());
                return WriteOutcome::Unknown(WriteDoubt::Journal(stopped));
            }
        }
        let intent = &begun.intent;
        let within = self.left(deadline).min(self.pace.acknowledge_within);
        let stores = self.acknowledge(dataset, intent, begun.created, begun.settled, within);
        if dataset.durability != Durability::Peer || intent.only_over.is_some() {
            return stores.await;
        }
        let kept = self.keep_at_a_peer(intent, within);
        let (outcome, kept) = tokio::join!(biased; stores, kept);
        match outcome {
            // Only this disk has it: the caller is told what it still waits for.
            WriteOutcome::Applied(mut receipt) if !kept && receipt.pending.is_empty() => {
                receipt.seq = self.installed_at(&receipt.record, receipt.dot);
                if receipt.seq.is_none() {
                    receipt.pending.push(StoreId::D1);
                }
                WriteOutcome::Applied(receipt)
            }
            outcome => outcome,
        }
    }

    /// How long the caller still waits.
    fn left(&self, deadline: Option<Duration>) -> Duration {
        deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(self.now()))
    }

    /// Nothing is begun for a caller that has gone.
    fn still_waited_for(&self, deadline: Option<Duration>) -> Result<(), WriteRefusal> {
        if self.left(deadline).is_zero() { Err(WriteRefusal::DeadlinePassed) } else { Ok(()) }
    }

    /// Begins a write once nothing is under way that it must wait for, which is looked at again under the
    /// lock: another write may have begun while this one asked the authority.
    async fn begin_alone(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        write: &Write,
        deadline: Option<Duration>,
    ) -> Result<Begun, WriteRefusal> {
        let mut give_up = None;
        loop {
            self.wait_for_conditional(record, &write.condition, deadline, &mut give_up).await?;
            let looked = self.know(dataset, record, &write.condition).await?;
            if let Some(begun) = self.begin(dataset, record, write, looked, deadline)? {
                return Ok(begun);
            }
        }
    }

    /// Conditional writes have a record to themselves: what is built on one must know how it came
    /// out. `give_up`: when, once there was something to wait for.
    async fn wait_for_conditional(
        &self,
        record: &RecordId,
        condition: &Condition,
        deadline: Option<Duration>,
        give_up: &mut Option<Duration>,
    ) -> Result<(), WriteRefusal> {
        self.still_waited_for(deadline)?;
        loop {
            let settled = self.wake.settled.notified();
            if self.is_stopped() {
                return Err(WriteRefusal::Stopping);
            }
            if !self.state().must_wait(record, condition) {
                return Ok(());
            }
            self.still_waited_for(deadline)?;
            let now = self.now();
            let give_up = *give_up.get_or_insert(now + self.pace.acknowledge_within);
            let left = give_up.saturating_sub(now).min(self.left(deadline));
            if left == Duration::ZERO {
                return Err(WriteRefusal::Busy);
            }
            tokio::select! {
                biased;
                () = settled => {}
                () = self.env.clock().sleep(left) => {}
            }
        }
    }

    /// Makes the record's current entry known (rule V1), and fetches its bytes where the write
    /// may have to keep them as a loser.
    async fn know(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        condition: &Condition,
    ) -> Result<Option<Looked>, WriteRefusal> {
        let must_look = {
            let state = self.state();
            match condition {
                Condition::Match(_) | Condition::Absent | Condition::Over(_) => true,
                Condition::Context(context) => {
                    let known = state.ledger.known(record);
                    let own = state.newest_own(record, self.actor.node);
                    let is_known = known.is_some() || own.is_some();
                    let history = known.and_then(|known| known.version);
                    let mut history = resolve::history_of(history.as_ref());
                    if let Some(own) = own {
                        history = history.join(&own.intent.version.history);
                    }
                    !is_known || history.compare(context) != Some(std::cmp::Ordering::Equal)
                }
                Condition::None => {
                    let ledger = &state.ledger;
                    let is_known = ledger.is_complete() || ledger.row_seq(record).is_some();
                    !is_known && state.newest_own(record, self.actor.node).is_none()
                }
            }
        };
        if !must_look {
            return Ok(None);
        }
        let mut row = self.look_at(record).await?;
        let expired = |row: &Option<Row>| {
            let version = row.as_ref().and_then(|row| row.version.as_ref());
            version.is_some_and(|version| version.current().has_expired(self.store_time()))
        };
        if matches!(condition, Condition::Absent) && expired(&row) {
            // Nobody sees the value any more, and its end must not fail the condition.
            self.expire(dataset, record).await;
            row = self.look_at(record).await?;
        }
        let row = row.unwrap_or_default();
        let held = resolve::held(self.site(), record, &row);
        Ok(Some(Looked { expect: row.expect(), held }))
    }

    async fn look_at(&self, record: &RecordId) -> Result<Option<Row>, WriteRefusal> {
        let unreachable = |detail: String| WriteRefusal::AuthorityUnreachable { detail };
        match self.row(RowOp::Read { record: record.clone() }).await {
            Outcome::Applied((_, RowAnswer::Read(row))) => {
                self.learn_row(record, row.as_deref());
                Ok(row.map(|row| *row))
            }
            Outcome::Applied((_, other)) => Err(unreachable(format!("answered {other:?}"))),
            Outcome::Refused(refusal) => Err(unreachable(refusal.to_string())),
            Outcome::Unknown(doubt) => Err(unreachable(doubt.to_string())),
        }
    }

    /// Gives the write its dot and queues its intent, all under one lock. `None`: it must wait.
    fn begin(
        &self,
        dataset: &Dataset,
        record: &RecordId,
        write: &Write,
        looked: Option<Looked>,
        deadline: Option<Duration>,
    ) -> Result<Option<Begun>, WriteRefusal> {
        self.still_waited_for(deadline)?;
        let wall = self.env.clock().wall();
        let mut state = self.state();
        if state.must_wait(record, &write.condition) {
            return Ok(None);
        }
        if self.is_stopped() {
            return Err(WriteRefusal::Stopping);
        }
        if state.leaving {
            return Err(WriteRefusal::Leaving);
        }
        if !state.policy.datasets.contains_key(&record.dataset) {
            // It was taken out since this write began.
            let known = state.policy.datasets.keys().map(|name| name.to_string()).collect();
            return Err(WriteRefusal::UnknownDataset { asked: record.dataset.to_string(), known });
        }
        let bytes = write.value.as_ref().map_or(0, Bytes::len);
        if let Some(refusal) = state.full(&record.dataset, bytes, &self.pace) {
            return Err(refusal);
        }
        let now = self.now();
        if now < state.journal_full_until {
            let detail = "no room a moment ago".to_owned();
            return Err(WriteRefusal::JournalFull { detail });
        }
        // A write over what is dead is a way out.
        if state.letters.is_full(&record.dataset, self.pace.dead_letters_max)
            && !state.letters.concerns(record)
        {
            return Err(WriteRefusal::DeadLettersFull { letters: self.pace.dead_letters_max });
        }
        let ruling = dataset.conflict.ruling(&record.key);
        let decides = !matches!(write.condition, Condition::None | Condition::Context(_));
        // What still waits here is dead, or this would wait.
        if decides
            && ruling.starts_from_base()
            && let Some(dead) = state.newest_unconditional(record, self.actor.node)
        {
            return Err(WriteRefusal::OverDeadLetter { dot: dead.intent.dot() });
        }
        let store_time = state.store_time_least(now);
        let only_over = match &write.condition {
            Condition::None | Condition::Context(_) => None,
            condition @ (Condition::Match(_) | Condition::Absent | Condition::Over(_)) => {
                Some(check_condition(looked.as_ref(), condition, store_time)?)
            }
        };
        let Some(base) = state.base(record, self.actor.node, looked.as_ref(), store_time) else {
            // The slot that stood for the record's entry was settled between the look and here.
            return Err(WriteRefusal::Busy);
        };
        if let Condition::Context(context) = &write.condition
            && let Some(dot) = base.history.first_missing(context)
        {
            return Err(WriteRefusal::ContextAhead { dot });
        }
        let created = write.value.is_some() && !base.live;
        let ends_in = |lifetime: Duration| match state.store_time_most(now) {
            Some(now) => {
                let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
                Ok(Some(now.0.saturating_add(lifetime_ms)))
            }
            None => {
                let detail = "its clock has not been seen, and the value is to expire by it";
                Err(WriteRefusal::AuthorityUnreachable { detail: detail.to_owned() })
            }
        };
        let expires_at_ms = match (write.lifetime, dataset.ttl) {
            _ if write.value.is_none() => None,
            (Lifetime::Usual, None) | (Lifetime::Endless, _) => None,
            (Lifetime::Usual, Some(lifetime)) | (Lifetime::For(lifetime), _) => ends_in(lifetime)?,
            (Lifetime::Until(at_ms), _) => Some(at_ms),
        };
        if expires_at_ms.is_some() && *ruling != Ruling::Lww {
            return Err(WriteRefusal::CannotExpire { dataset: dataset.name.to_string() });
        }
        if let Condition::Context(context) = &write.condition
            && *ruling != Ruling::Lww
            && base.unread(context) >= SIBLINGS_MAX
        {
            let (dataset, key) = (record.dataset.to_string(), record.key.to_string());
            return Err(WriteRefusal::TooManySiblings { dataset, key });
        }
        let value = write.value.clone().map_or(Stored::Tombstone, Stored::Inline);
        state.counter += 1;
        let dot = Dot { actor: self.actor, counter: state.counter };
        let stamp = state.clock.tick(wall, base.stamp);
        let sibling = Sibling { expires_at_ms, ..resolve::sibling(dot, stamp, &value) };
        let version = match &write.condition {
            // What its caller had not read stays beside it, and is settled at the authority.
            Condition::Context(context) if *ruling != Ruling::Lww => base.beside(context, sibling),
            Condition::Context(_)
            | Condition::None
            | Condition::Match(_)
            | Condition::Absent
            | Condition::Over(_) => Version::write(&base.history, sibling),
        };
        let losers = match &write.condition {
            Condition::Context(context) => base.unseen_in(context, looked.as_ref(), dot),
            // It is made over what the authority holds, and whatever still waits here is dead.
            Condition::Match(_) | Condition::Absent | Condition::Over(_) => base.dead(dot),
            Condition::None => Vec::new(),
        };
        state.counters.conflicts += losers.len() as u64;
        let intent = Arc::new(Intent { record: record.clone(), version, value, losers, only_over });
        state.hold(intent.clone(), false, now);
        state.operations.remember(dot, record);
        let (done, settled) = oneshot::channel();
        let mut missing: StoreSet = dataset.write_through().collect();
        if intent.only_over.is_some() {
            // A conditional write is answered when its condition is decided, whatever the strategy.
            missing.insert(StoreId::D1);
        }
        if !missing.is_empty() {
            let slot = state.slots.get_mut(record).expect("the intent is held in it");
            slot.waiters.push(Waiter { dot, missing, done });
        }
        let durable = self.commit(&mut state, intent.clone());
        Ok(Some(Begun { intent, created, durable, settled }))
    }

    /// The intent is durable: waits for the write-through stores as long as the caller should.
    async fn acknowledge(
        &self,
        dataset: &Dataset,
        intent: &Arc<Intent>,
        created: bool,
        mut settled: oneshot::Receiver<Settled>,
        within: Duration,
    ) -> WriteOutcome {
        let receipt = |pending: Vec<StoreId>| {
            WriteOutcome::Applied(Receipt {
                record: intent.record.clone(),
                dot: intent.dot(),
                version: intent.version.clone(),
                created,
                pending,
                site: self.site(),
                seq: self.installed_at(&intent.record, intent.dot()),
            })
        };
        let waits = intent.only_over.is_some() || dataset.write_through().next().is_some();
        if !waits {
            return receipt(Vec::new());
        }
        let is_held = self.awaits_what_is_held(dataset, intent);
        let within = if is_held { Duration::ZERO } else { within };
        let in_time = tokio::select! {
            biased;
            settled = &mut settled => Some(settled),
            () = self.env.clock().sleep(within) => None,
        };
        let settled = match in_time {
            Some(settled) => settled,
            None => match self.wait_no_longer(&intent.record, intent.dot()) {
                Some(missing) => Ok(Settled::Pending(missing)),
                // Nobody waits: the answer came just now.
                None => settled.await,
            },
        };
        // A waiter that was dropped without a word has been told nothing of any store.
        match settled.unwrap_or(Settled::Pending(StoreSet::ALL)) {
            Settled::Held => receipt(Vec::new()),
            Settled::Cancelled => {
                let known = self.state().ledger.known(&intent.record);
                let current = known.and_then(|known| known.version).map(|v| v.etag());
                WriteOutcome::Refused(WriteRefusal::ConditionFailed { current })
            }
            Settled::Pending(missing) => {
                let decided = !missing.contains(StoreId::D1);
                if intent.only_over.is_some() && !decided {
                    return WriteOutcome::Unknown(WriteDoubt::Undecided { dot: intent.dot() });
                }
                let through = dataset.write_through();
                receipt(through.filter(|store| missing.contains(*store)).collect())
            }
        }
    }

    /// True when an operator holds a store that the write waits for: it will not answer in time.
    fn awaits_what_is_held(&self, dataset: &Dataset, intent: &Intent) -> bool {
        let state = self.state();
        if state.forced.is_empty() {
            return false;
        }
        let decides = intent.only_over.is_some().then_some(StoreId::D1);
        let mut stores = dataset.write_through().chain(decides);
        stores.any(|store| state.breakers[store].is_held())
    }

    /// The caller waits no longer. Gives the stores that it waited for; `None`: it has been
    /// answered.
    fn wait_no_longer(&self, record: &RecordId, dot: Dot) -> Option<StoreSet> {
        let mut state = self.state();
        let slot = state.slots.get_mut(record)?;
        let at = slot.waiters.iter().position(|waiter| waiter.dot == dot)?;
        let missing = slot.waiters.swap_remove(at).missing;
        state.drop_idle_slot(record);
        Some(missing)
    }
}

/// What a new write supersedes.
struct Base {
    history: VersionVector,
    stamp: crate::version::Stamp,
    /// The newest of it has a value.
    live: bool,
    /// What it is known by, without what is under a condition that was not decided: nobody's value stands
    /// beside that.
    versions: [Option<Version>; 3],
    /// The newest intent of this coordinator, when that is what the write is built on.
    newest: Option<Arc<Intent>>,
}

impl State {
    /// True when as much waits for the authority as the coordinator may hold.
    pub(super) fn is_queue_full(&self, pace: &Pace) -> bool {
        let all = self.held.all();
        all.writes >= pace.intents_max || all.bytes >= pace.intent_bytes_max
    }

    /// True while a write of this record is under way of which this one must know how it came out.
    fn must_wait(&self, record: &RecordId, condition: &Condition) -> bool {
        let alone = match condition {
            Condition::Match(_) | Condition::Absent | Condition::Over(_) => true,
            Condition::None | Condition::Context(_) => false,
        };
        self.slots.get(record).is_some_and(|slot| {
            let mut alive = slot.intents.iter().filter(|pending| !pending.dead);
            alive.any(|pending| alone || pending.intent.only_over.is_some())
        })
    }

    /// Why a write of so many bytes cannot be taken in; `None`: it can.
    pub(super) fn full(&self, dataset: &str, bytes: usize, pace: &Pace) -> Option<WriteRefusal> {
        if self.is_queue_full(pace) {
            return Some(WriteRefusal::QueueFull { waiting: self.held.all().writes });
        }
        let policy = self.policy.datasets.get(dataset)?;
        if policy.backlog == Mode::Absorb && policy.queue == Queue::default() {
            return None;
        }
        let stores = std::iter::once(StoreId::D1).chain(policy.projections());
        let stores = stores.map(|store| Behind {
            store,
            records: self.lanes[store].len_of(dataset),
            answers: self.admits(store),
            drain: self.predicted_drain(store, pace),
        });
        let waiting = self.held.of(dataset);
        let full = backlog::full(policy.backlog, policy.queue, waiting, bytes, stores)?;
        Some(WriteRefusal::DatasetFull { dataset: dataset.to_owned(), full })
    }

    /// Everything that this coordinator knows of the record: the authority's version as last
    /// seen, what was just looked up, and its own newest intent. `None`: nothing is known.
    fn base(
        &self,
        record: &RecordId,
        own: NodeId,
        looked: Option<&Looked>,
        now: StoreTime,
    ) -> Option<Base> {
        let newest = self.newest_own(record, own).map(|pending| pending.intent.clone());
        let known = self.ledger.known(record);
        if known.is_none() && looked.is_none() && newest.is_none() {
            return None;
        }
        let known = known.and_then(|known| known.version);
        let looked = looked.and_then(|looked| looked.held.as_ref()).map(|held| &held.version);
        let mut base = Base {
            history: VersionVector::new(),
            stamp: Default::default(),
            live: false,
            versions: Default::default(),
            newest,
        };
        let newest = base.newest.as_ref().map(|intent| &intent.version);
        for version in known.iter().chain(looked).chain(newest) {
            base.live = !version.current().deleted && !version.current().has_expired(now);
            base.history = base.history.join(&version.history);
            base.stamp = base.stamp.max(version.stamp());
        }
        let decided = match &base.newest {
            Some(newest) if newest.only_over.is_some() => {
                self.newest_unconditional(record, own).map(|pending| &pending.intent)
            }
            newest => newest.as_ref(),
        };
        let decided = decided.map(|intent| intent.version.clone());
        base.versions = [known, looked.cloned(), decided];
        if base.history.is_empty() {
            // What seems to have never been may have been deleted and reaped.
            base.stamp = self.ledger.deleted_stamp(&record.dataset);
        }
        Some(base)
    }
}

impl Base {
    fn known(&self) -> Option<Version> {
        self.versions.iter().flatten().cloned().reduce(|all, one| all.join(&one))
    }

    /// Values that somebody who has read `context` alone has not seen.
    fn unread(&self, context: &VersionVector) -> usize {
        let known = self.known();
        let values = known.iter().flat_map(|known| known.siblings());
        values.filter(|value| !context.covers_dot(value.dot)).count()
    }

    /// A write of somebody who had read `context` alone.
    fn beside(&self, context: &VersionVector, sibling: Sibling) -> Version {
        match self.known() {
            Some(known) => Version::write_beside(&known, context, sibling),
            None => Version::write(&self.history, sibling),
        }
    }

    /// The newest intent, as a loser.
    fn dead(&self, winner: Dot) -> Vec<Loser> {
        let newest = self.newest.iter();
        let loser = |i: &Arc<Intent>| Loser {
            sibling: *i.version.current(),
            value: i.value.clone(),
            winner,
        };
        newest.map(loser).collect()
    }

    /// The values that the caller's context had not seen: they lose against the new write, whose
    /// stamp is the greater, and are kept.
    fn unseen_in(
        &self,
        context: &VersionVector,
        looked: Option<&Looked>,
        winner: Dot,
    ) -> Vec<Loser> {
        let newest = self.newest.as_ref().map(|i| (*i.version.current(), i.value.clone()));
        // What was merged is nobody's write: those that it was made of are kept already.
        let held = looked
            .and_then(|looked| looked.held.as_ref())
            .and_then(|held| Some((*held.version.chosen()?, held.value.clone())));
        // What the newest intent has superseded already was kept when it did.
        let superseded = |dot: Dot| {
            self.newest
                .as_ref()
                .is_some_and(|intent| intent.dot() != dot && intent.version.history.covers_dot(dot))
        };
        newest
            .into_iter()
            .chain(held)
            .filter(|(sibling, _)| !context.covers_dot(sibling.dot) && !superseded(sibling.dot))
            .map(|(sibling, value)| Loser { sibling, value, winner })
            .collect()
    }
}

/// Holds key and value against every store's limits and the dataset's kind, and gives the value
/// the one spelling that its kind has for it.
fn check<'p>(
    policy: &'p Policy,
    write: &mut Write,
) -> Result<(&'p Dataset, RecordId), WriteRefusal> {
    let Some(dataset) = policy.datasets.get(write.dataset.as_str()) else {
        let known = policy.datasets.keys().map(|name| name.to_string()).collect();
        return Err(WriteRefusal::UnknownDataset { asked: write.dataset.clone(), known });
    };
    let record = dataset.record(&write.key).map_err(WriteRefusal::Key)?;
    if let Some(table) = &dataset.table {
        check_row_key(table, &write.key)?;
    }
    if let Some(value) = &mut write.value {
        *value = accepted(dataset, &write.key, value)?;
        let limits = &policy.limits;
        let bytes_max = match (dataset.oversize, &dataset.r2) {
            (Oversize::Reference, Some(_)) => limits.value_bytes_max,
            (Oversize::Reference, None) | (Oversize::Refuse, _) => limits.authority_value_bytes_max,
        };
        if value.len() > bytes_max {
            return Err(WriteRefusal::TooLarge { bytes: value.len(), bytes_max });
        }
    }
    Ok((dataset, record))
}

/// Checks a condition against what the authority holds; gives what the install must replace.
fn check_condition(
    looked: Option<&Looked>,
    condition: &Condition,
    now: StoreTime,
) -> Result<Expect, WriteRefusal> {
    let looked = looked.expect("a conditional write always looks first: see `know`");
    let held = looked.held.as_ref();
    let live = held.filter(|held| {
        let current = held.version.current();
        !current.deleted && !current.has_expired(now)
    });
    let current = live.map(|held| held.version.etag());
    let holds = match condition {
        Condition::None | Condition::Context(_) => true,
        Condition::Match(etag) => current.as_ref() == Some(etag),
        Condition::Absent => current.is_none(),
        Condition::Over(history) => resolve::history_of(held.map(|h| &h.version)) == *history,
    };
    if holds { Ok(looked.expect.clone()) } else { Err(WriteRefusal::ConditionFailed { current }) }
}

/// The value as the dataset keeps it, if it is of the dataset's kind.
pub(super) fn accepted(dataset: &Dataset, key: &str, value: &Bytes) -> Result<Bytes, WriteRefusal> {
    let problem = match dataset.kind {
        Kind::Binary => return Ok(value.clone()),
        Kind::Structured => match schema(dataset).map(|schema| schema.accept(key, value)) {
            Some(Ok(value)) => return Ok(Bytes::from(value)),
            Some(Err(violation)) => violation.0,
            None => UNBOUND.to_owned(),
        },
        Kind::Text => match std::str::from_utf8(value) {
            Ok(_) => return Ok(value.clone()),
            Err(error) => format!("the dataset keeps text, and the value is no UTF-8: {error}"),
        },
        Kind::Json => match serde_json::from_slice::<serde::de::IgnoredAny>(value) {
            Ok(_) => return Ok(value.clone()),
            Err(error) => format!("the dataset keeps JSON, and the value is none: {error}"),
        },
    };
    Err(WriteRefusal::WrongKind { problem })
}

const UNBOUND: &str = "the columns of the dataset's table are not known; restart the server";

fn schema(dataset: &Dataset) -> Option<&Schema> {
    dataset.table.as_ref()?.schema.as_deref()
}

/// A key that no row of the table can have names no record.
fn check_row_key(table: &Table, key: &str) -> Result<(), WriteRefusal> {
    let problem = match &table.schema {
        Some(schema) if schema.key_cell(key).is_some() => return Ok(()),
        Some(schema) => format!(
            "{key:?} is no key of table {:?}, whose column {:?} holds integers",
            table.name,
            schema.key().name
        ),
        None => UNBOUND.to_owned(),
    };
    Err(WriteRefusal::WrongKind { problem })
}
