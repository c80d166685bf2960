//! The simulated world: one clock, one network, three stores, a disk for each coordinator.
//!
//! Invariant: whatever a coordinator sent goes its way without it. A crash ends the process, not
//! its messages; the store side of every call runs on its own and lands, or not, by the plan
//! alone. All of the world's state is behind one lock, and every choice comes from a stream keyed
//! by what it is for.

use crate::checker::{Checker, Copy};
use crate::double::Double;
use crate::scenario::Scenario;
use crate::stores::{D1, Kv, R2};
use crate::streams::{Purpose, Streams};
use crate::trace::Trace;
use madsim::runtime::{Handle, NodeHandle};
use madsim::time::TimeHandle;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::journal::{Intent, JournalBatch};
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::row::{LAND_MS_MAX, StoreTime};
use tidelock_engine::version::{Dot, NodeId};
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place};
use tokio::sync::oneshot;

use crate::env::SimEnv;

/// The wall clock's reading when a run begins: an arbitrary day.
pub const EPOCH_MS: u64 = 1_790_000_000_000;
/// A store call or peer message without an answer after this is given up.
pub const CALL_MS_MAX: u64 = 2_000;

/// How often a fault was planned, and how often a call came out otherwise because of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Felt {
    /// Planned.
    pub injected: u64,
    /// Felt.
    pub felt: u64,
}

/// What a call to a store ended in, other than its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No answer in time.
    Timeout,
    /// 5xx.
    ServerError,
    /// "D1 DB is overloaded".
    Overloaded,
}

/// A coordinator's disk: what is durable, and what was on its way to it.
#[derive(Debug, Default)]
pub struct Disk {
    durable: BTreeMap<u64, Intent>,
    by_dot: BTreeMap<Dot, u64>,
    written: u64,
    pending: Option<JournalBatch>,
    commits: u64,
}

impl Disk {
    /// In commit order.
    pub fn intents(&self) -> Vec<Intent> {
        self.durable.values().cloned().collect()
    }

    fn apply(&mut self, batch: JournalBatch, forgets: bool) {
        self.commits += 1;
        for intent in batch.intents {
            self.written += 1;
            if forgets && self.written.is_multiple_of(3) {
                continue;
            }
            self.by_dot.insert(intent.dot(), self.written);
            self.durable.insert(self.written, intent);
        }
        for dot in batch.settled {
            if let Some(at) = self.by_dot.remove(&dot) {
                self.durable.remove(&at);
            }
        }
    }
}

/// A coordinator's process.
#[derive(Default)]
pub struct Process {
    /// Running, with replay behind it.
    pub coordinator: Option<Arc<Coordinator<SimEnv>>>,
    /// Its lives so far.
    pub lives: u64,
    /// False between a crash and the restart command.
    pub up: bool,
    /// When it was last told to restart.
    pub restarted_ms: u64,
}

/// Everything behind the lock.
pub struct State {
    /// What holds.
    pub checker: Checker,
    /// What happened.
    pub trace: Trace,
    /// See [`Kv`].
    pub kv: Kv,
    /// See [`D1`].
    pub d1: D1,
    /// See [`R2`].
    pub r2: R2,
    /// By coordinator.
    pub disks: Vec<Disk>,
    /// By coordinator.
    pub processes: Vec<Process>,
    /// Messages that arrived.
    pub delivered: u64,
    /// By kind.
    pub faults: BTreeMap<Kind, Felt>,
    /// Situations that were reached.
    pub sometimes: BTreeSet<&'static str>,
    /// Coordinators of former lives, to be taken apart at the end.
    pub former: Vec<Arc<Coordinator<SimEnv>>>,
    /// Requests that will land after their callers gave up.
    strays: u32,
    last_stray_ms: u64,
    links: BTreeMap<(End, End), ChaCha8Rng>,
    choices: BTreeMap<u32, ChaCha8Rng>,
    disk_choices: Vec<ChaCha8Rng>,
    call_counts: BTreeMap<u32, u32>,
    crashed: BTreeSet<u32>,
}

/// See the module.
pub struct World {
    /// What this run is made of.
    pub scenario: Scenario,
    /// Its random streams.
    pub streams: Streams,
    /// What is deliberately wrong in it.
    pub double: Option<Double>,
    state: Mutex<State>,
    handle: Handle,
    time: TimeHandle,
    /// Where the store side of every call runs.
    outside: NodeHandle,
    /// Records by the key of their copies.
    prefixes: Vec<(String, String)>,
}

/// How a message travels.
enum Transit {
    Lost,
    Arrives { after: Duration },
}

/// How a request is late.
enum Lateness {
    /// As the fault's stream says.
    Drawn { id: u32, span_ms: u64 },
    /// It arrives so much later.
    Arrives(Duration),
    /// It is accepted in time and lands so much later.
    Lands(Duration),
}

impl World {
    /// A world at time zero. Must be called inside the runtime.
    pub fn new(scenario: Scenario, double: Option<Double>, keep_trace: bool) -> Arc<Self> {
        let handle = Handle::current();
        let streams = Streams::new(scenario.seed);
        let references = scenario
            .datasets
            .iter()
            .filter(|kept| kept.kv_reference)
            .map(|kept| (kept.name.clone(), StoreId::Kv))
            .collect();
        let mut faults: BTreeMap<Kind, Felt> = BTreeMap::new();
        for fault in &scenario.faults {
            faults.entry(fault.kind).or_default().injected += 1;
        }
        let nodes = usize::from(scenario.nodes);
        let state = State {
            checker: Checker::new(references),
            trace: Trace::new(keep_trace),
            kv: Kv::default(),
            d1: D1::default(),
            r2: R2::default(),
            disks: (0..nodes).map(|_| Disk::default()).collect(),
            processes: (0..nodes).map(|_| Process::default()).collect(),
            delivered: 0,
            faults,
            sometimes: BTreeSet::new(),
            former: Vec::new(),
            strays: 0,
            last_stray_ms: 0,
            links: BTreeMap::new(),
            choices: BTreeMap::new(),
            disk_choices: (0..nodes).map(|n| streams.open(Purpose::Disk, n as u64)).collect(),
            call_counts: BTreeMap::new(),
            crashed: BTreeSet::new(),
        };
        let prefixes = scenario
            .datasets
            .iter()
            .map(|kept| (format!("{}/", kept.name), kept.name.clone()))
            .collect();
        let time = TimeHandle::current();
        let outside = handle.create_node().name("outside").build();
        Arc::new(World {
            scenario,
            streams,
            double,
            state: Mutex::new(state),
            handle,
            time,
            outside,
            prefixes,
        })
    }

    /// The lock.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the world")
    }

    /// Virtual time since the run began.
    pub fn now(&self) -> Duration {
        self.time.elapsed()
    }

    /// The same in whole milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).expect("runs are short")
    }

    /// The store side's clock.
    pub fn store_time(&self) -> StoreTime {
        StoreTime(EPOCH_MS + self.now_ms())
    }

    /// True when this part of the world is deliberately wrong.
    pub fn is(&self, double: Double) -> bool {
        self.double == Some(double)
    }

    /// Runs something that no crash ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.outside.spawn(task);
    }

    /// Runs something in a coordinator's process.
    pub fn spawn_on(&self, node: NodeId, task: impl Future<Output = ()> + Send + 'static) {
        let id = process_name(node);
        if let Some(process) = self.handle.get_node(id.as_str()) {
            process.spawn(task);
        }
    }

    /// Notes an event.
    pub fn note(
        &self,
        state: &mut State,
        lane: End,
        kind: &'static str,
        to: Option<End>,
        digest: u64,
        text: impl FnOnce() -> String,
    ) {
        let at_us = u64::try_from(self.now().as_micros()).expect("runs are short");
        state.trace.note(at_us, lane, kind, to, digest, text);
    }

    fn faults_at(&self, now_ms: u64, kind: Kind) -> impl Iterator<Item = &Fault> {
        self.scenario.faults.iter().filter(move |f| f.kind == kind && f.holds_at(now_ms))
    }

    /// True when a fault of this kind holds and its dice say so. Notes that it was felt.
    fn strikes(&self, state: &mut State, now_ms: u64, kind: Kind) -> Option<&Fault> {
        let at_random = |fault: &&Fault| !matches!(fault.place, Place::Call { .. });
        let mut faults = self.faults_at(now_ms, kind).filter(at_random);
        let fault = faults.find(|fault| self.dice(state, fault))?;
        state.felt(kind);
        Some(fault)
    }

    fn dice(&self, state: &mut State, fault: &Fault) -> bool {
        if fault.permille >= 1000 {
            return true;
        }
        let streams = self.streams;
        let choices = state
            .choices
            .entry(fault.id)
            .or_insert_with(|| streams.open(Purpose::Fault, u64::from(fault.id)));
        choices.random_range(0..1000) < fault.permille
    }

    fn transit(&self, state: &mut State, from: End, to: End) -> Transit {
        let now_ms = self.now_ms();
        let streams = self.streams;
        let jitter = state
            .links
            .entry((from, to))
            .or_insert_with(|| streams.open(Purpose::Link, link_number(from, to)))
            .next_u32();
        for kind in [Kind::NetPartition, Kind::NetPartitionOneWay] {
            let cut = self.faults_at(now_ms, kind).any(|fault| match &fault.place {
                Place::Link { from: a, to: b } => {
                    (*a, *b) == (from, to) || (kind == Kind::NetPartition && (*a, *b) == (to, from))
                }
                Place::Everywhere | Place::Store(_) | Place::Call { .. } => false,
            });
            if cut {
                state.felt(kind);
                return Transit::Lost;
            }
        }
        let here = |fault: &&Fault| match &fault.place {
            Place::Link { from: a, to: b } => (*a, *b) == (from, to) || (*a, *b) == (to, from),
            Place::Everywhere => true,
            Place::Store(_) | Place::Call { .. } => false,
        };
        let loss = self.faults_at(now_ms, Kind::NetLoss).filter(here).find(|f| self.dice(state, f));
        if loss.is_some() {
            state.felt(Kind::NetLoss);
            return Transit::Lost;
        }
        let (base_us, spread_us) = latency_us(from, to);
        let mut after = Duration::from_micros(base_us + u64::from(jitter) % spread_us);
        let delay =
            self.faults_at(now_ms, Kind::NetDelay).filter(here).find(|f| self.dice(state, f));
        if let Some(fault) = delay {
            state.felt(Kind::NetDelay);
            after += Duration::from_millis(u64::from(jitter >> 8) % (fault.span_ms + 1));
        }
        Transit::Arrives { after }
    }

    /// A coordinator calls a store. `serve` runs at the store side in two steps: on acceptance it
    /// checks and gives what to do when the request lands.
    pub async fn call<T, L>(
        self: &Arc<Self>,
        node: NodeId,
        store: StoreId,
        call: Call,
        accept: impl FnOnce(&World, &mut State) -> Result<L, T> + Send + 'static,
        land: impl FnOnce(&World, &mut State, L) -> T + Send + 'static,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        L: Send + 'static,
    {
        self.crash_point(node, call, Moment::Before).await;
        let (answer, answered) = oneshot::channel();
        let world = self.clone();
        self.outside.spawn(async move {
            world.serve(node, store, call, accept, land, answer).await;
        });
        let answer = answered.await.unwrap_or(Err(Lost::Timeout));
        self.crash_point(node, call, Moment::After).await;
        answer
    }

    async fn serve<T, L>(
        self: Arc<Self>,
        node: NodeId,
        store: StoreId,
        call: Call,
        accept: impl FnOnce(&World, &mut State) -> Result<L, T>,
        land: impl FnOnce(&World, &mut State, L) -> T,
        answer: oneshot::Sender<Result<T, Lost>>,
    ) {
        let (here, there) = (End::Node(node.0), End::Store(store));
        let limit = Duration::from_millis(CALL_MS_MAX);
        let begun = self.now();
        let is_write = matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write);
        let request = {
            let mut state = self.state();
            let transit = self.transit(&mut state, here, there);
            match transit {
                Transit::Lost => {
                    self.note(&mut state, here, "request-lost", Some(there), call as u64, || {
                        format!("{call:?}")
                    });
                    None
                }
                Transit::Arrives { after } => {
                    let late = if let Some(lateness) = self.late_call(&mut state, node, call) {
                        Some(lateness)
                    } else if is_write {
                        self.strikes(&mut state, self.now_ms(), Kind::NetLateArrival)
                            .map(|fault| Lateness::Drawn { id: fault.id, span_ms: fault.span_ms })
                    } else {
                        None
                    };
                    Some((after, late))
                }
            }
        };
        let Some((after, late)) = request else {
            madsim::time::sleep(limit).await;
            let _ = answer.send(Err(Lost::Timeout));
            return;
        };
        // A late request either arrives late, or is accepted in time and lands late.
        let (after, landing) = match late {
            None => (after, Duration::ZERO),
            Some(Lateness::Arrives(late)) => (after + late, Duration::ZERO),
            Some(Lateness::Lands(late)) => (after, late),
            Some(Lateness::Drawn { id, span_ms }) => {
                let mut state = self.state();
                let choices = state.choices.get_mut(&id);
                let drawn = choices.map_or(0, |choices| choices.next_u64());
                if drawn.is_multiple_of(2) {
                    (after + Duration::from_millis(drawn / 2 % (span_ms + 1)), Duration::ZERO)
                } else {
                    (after, Duration::from_millis(drawn / 2 % LAND_MS_MAX))
                }
            }
        };
        let lands_after = after + landing;
        let mut answer = Some(answer);
        let stray = lands_after >= limit;
        if stray {
            self.state().strays += 1;
        }
        if after >= limit {
            madsim::time::sleep(limit).await;
            give_up(&mut answer);
            madsim::time::sleep(after.saturating_sub(limit)).await;
        } else {
            madsim::time::sleep(after).await;
        }
        let accepted = {
            let mut state = self.state();
            state.delivered += 1;
            match self.fails_before(&mut state, store, call) {
                Some(lost) => Err(Err(lost)),
                None => accept(&self, &mut state).map_err(Ok),
            }
        };
        let reply = match accepted {
            Err(reply) => reply,
            Ok(landing_state) => {
                if !landing.is_zero() {
                    self.sleep_answering(begun, landing, limit, &mut answer).await;
                }
                let mut state = self.state();
                let value = land(&self, &mut state, landing_state);
                match self.fails_after(&mut state, store, call) {
                    Some(lost) => Err(lost),
                    None => Ok(value),
                }
            }
        };
        if stray {
            let mut state = self.state();
            state.strays -= 1;
            state.last_stray_ms = self.now_ms();
            state.sometimes.insert("request-landed-after-its-caller-gave-up");
        }
        let Some(answer) = answer else { return };
        let back = {
            let mut state = self.state();
            self.transit(&mut state, there, here)
        };
        let left = (begun + limit).saturating_sub(self.now());
        match back {
            Transit::Arrives { after } if after < left => {
                madsim::time::sleep(after).await;
                {
                    let mut state = self.state();
                    state.delivered += 1;
                    let failed = reply.is_err();
                    let digest = (call as u64) * 2 + u64::from(failed);
                    self.note(&mut state, there, "answer", Some(here), digest, || {
                        format!("{call:?}{}", if failed { " failed" } else { "" })
                    });
                }
                let _ = answer.send(reply);
            }
            Transit::Arrives { .. } | Transit::Lost => {
                madsim::time::sleep(left).await;
                let _ = answer.send(Err(Lost::Timeout));
            }
        }
    }

    /// A late arrival that names its call: it arrives, or lands, late by exactly its span.
    fn late_call(&self, state: &mut State, node: NodeId, call: Call) -> Option<Lateness> {
        let now_ms = self.now_ms();
        for fault in self.faults_at(now_ms, Kind::NetLateArrival) {
            let Place::Call { node: at, call: of, ordinal, moment } = &fault.place else {
                continue;
            };
            if (*at, *of) != (node.0, call) {
                continue;
            }
            let count = state.call_counts.entry(fault.id).or_default();
            *count += 1;
            if *count == *ordinal {
                state.felt(Kind::NetLateArrival);
                let late = Duration::from_millis(fault.span_ms);
                return Some(match moment {
                    Moment::Before => Lateness::Arrives(late),
                    Moment::After => Lateness::Lands(late),
                });
            }
        }
        None
    }

    /// Sleeps, and tells the caller at its limit that there is no answer.
    async fn sleep_answering<T>(
        &self,
        begun: Duration,
        sleep: Duration,
        limit: Duration,
        answer: &mut Option<oneshot::Sender<Result<T, Lost>>>,
    ) {
        let left = (begun + limit).saturating_sub(self.now());
        if sleep < left {
            madsim::time::sleep(sleep).await;
        } else {
            madsim::time::sleep(left).await;
            give_up(answer);
            madsim::time::sleep(sleep.saturating_sub(left)).await;
        }
    }

    fn fails_before(&self, state: &mut State, store: StoreId, call: Call) -> Option<Lost> {
        let now_ms = self.now_ms();
        if self.is(Double::SlowToHeal) && now_ms < self.scenario.faults_end_ms() + 10_000 {
            return Some(Lost::ServerError);
        }
        let kind = match store {
            StoreId::Kv => Kind::KvErrorBefore,
            StoreId::D1 => Kind::D1ErrorBefore,
            StoreId::R2 => Kind::R2ErrorBefore,
        };
        if self.strikes(state, now_ms, kind).is_some() {
            return Some(Lost::ServerError);
        }
        if store == StoreId::D1
            && let Some(fault) = self.strikes(state, now_ms, Kind::D1Overloaded)
        {
            // Overload may strike before or after the transaction; "after" is decided on return.
            let id = fault.id;
            let drawn = state
                .choices
                .entry(id)
                .or_insert_with(|| self.streams.open(Purpose::Fault, u64::from(id)));
            if call != Call::D1Batch || drawn.random_bool(0.5) {
                return Some(Lost::Overloaded);
            }
            state.sometimes.insert("overloaded-d1-applied-all-the-same");
        }
        None
    }

    fn fails_after(&self, state: &mut State, store: StoreId, call: Call) -> Option<Lost> {
        let now_ms = self.now_ms();
        if !matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write) {
            return None;
        }
        let kind = match store {
            StoreId::Kv => Kind::KvErrorAfter,
            StoreId::D1 => Kind::D1ErrorAfter,
            StoreId::R2 => Kind::R2ErrorAfter,
        };
        if self.strikes(state, now_ms, kind).is_some() {
            return Some(Lost::ServerError);
        }
        None
    }

    /// True when a store's own documented limit strikes now.
    pub fn strikes_store(&self, state: &mut State, kind: Kind) -> bool {
        let now_ms = self.now_ms();
        self.faults_at(now_ms, kind).any(|fault| self.dice(state, fault))
    }

    /// A message to another coordinator, and its answer.
    pub async fn peer(
        self: &Arc<Self>,
        from: NodeId,
        to: NodeId,
        message: tidelock_engine::env::PeerMessage,
    ) -> Result<tidelock_engine::env::PeerReply, Lost> {
        self.crash_point(from, Call::Peer, Moment::Before).await;
        let (answer, answered) = oneshot::channel();
        let world = self.clone();
        self.outside.spawn(async move {
            let (here, there) = (End::Node(from.0), End::Node(to.0));
            let limit = Duration::from_millis(CALL_MS_MAX);
            let (transit, twice) = {
                let mut state = world.state();
                let transit = world.transit(&mut state, here, there);
                let twice = world.strikes(&mut state, world.now_ms(), Kind::NetDuplicate).is_some();
                (transit, twice)
            };
            let Transit::Arrives { after } = transit else {
                madsim::time::sleep(limit).await;
                let _ = answer.send(Err(Lost::Timeout));
                return;
            };
            madsim::time::sleep(after).await;
            let receiver = {
                let mut state = world.state();
                state.delivered += 1;
                world.note(&mut state, here, "news", Some(there), 0, String::new);
                state.processes[usize::from(to.0)].coordinator.clone()
            };
            let Some(receiver) = receiver else {
                let _ = answer.send(Err(Lost::ServerError));
                return;
            };
            let reply = receiver.receive(message.clone());
            if twice {
                let world = world.clone();
                let again = receiver.clone();
                world.clone().outside.spawn(async move {
                    madsim::time::sleep(after * 3).await;
                    world.state().delivered += 1;
                    again.receive(message);
                });
            }
            let back = {
                let mut state = world.state();
                world.transit(&mut state, there, here)
            };
            match back {
                Transit::Arrives { after } => {
                    madsim::time::sleep(after).await;
                    world.state().delivered += 1;
                    let _ = answer.send(Ok(reply));
                }
                Transit::Lost => {
                    madsim::time::sleep(limit.saturating_sub(after)).await;
                    let _ = answer.send(Err(Lost::Timeout));
                }
            }
        });
        let answer = answered.await.unwrap_or(Err(Lost::Timeout));
        self.crash_point(from, Call::Peer, Moment::After).await;
        answer
    }

    /// A session asks a coordinator; `ask` runs in its process. `Err(false)`: it was never
    /// reached; `Err(true)`: nobody knows.
    pub async fn ask<T, F>(
        self: &Arc<Self>,
        session: u16,
        node: NodeId,
        ask: impl FnOnce(Arc<Coordinator<SimEnv>>) -> F + Send + 'static,
    ) -> Result<T, bool>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (here, there) = (End::Session(session), End::Node(node.0));
        let limit = Duration::from_millis(2 * CALL_MS_MAX);
        let transit = {
            let mut state = self.state();
            self.transit(&mut state, here, there)
        };
        let Transit::Arrives { after } = transit else {
            madsim::time::sleep(limit).await;
            return Err(true);
        };
        madsim::time::sleep(after).await;
        let coordinator = {
            let mut state = self.state();
            state.delivered += 1;
            state.processes[usize::from(node.0)].coordinator.clone()
        };
        // Nobody listens: the connection is refused.
        let Some(coordinator) = coordinator else { return Err(false) };
        let (answer, answered) = oneshot::channel();
        let asked = ask(coordinator);
        self.spawn_on(node, async move {
            let _ = answer.send(asked.await);
        });
        let answer = tokio::select! {
            biased;
            answer = answered => answer.map_err(|_| true)?,
            () = madsim::time::sleep(limit) => return Err(true),
        };
        let back = {
            let mut state = self.state();
            self.transit(&mut state, there, here)
        };
        match back {
            Transit::Arrives { after } => {
                madsim::time::sleep(after).await;
                self.state().delivered += 1;
                Ok(answer)
            }
            Transit::Lost => {
                madsim::time::sleep(Duration::from_millis(CALL_MS_MAX)).await;
                Err(true)
            }
        }
    }

    /// Commits to a coordinator's disk.
    pub async fn commit(self: &Arc<Self>, node: NodeId, batch: JournalBatch) {
        let at = usize::from(node.0);
        let fsync = {
            let mut state = self.state();
            let early = self.is(Double::JournalAnswersEarly);
            if early {
                // The wrong double: what waits is lost in a crash, though it was called durable.
                if let Some(former) = state.disks[at].pending.replace(batch) {
                    self.land_commit(&mut state, node, former);
                }
                return;
            }
            state.disks[at].pending = Some(batch);
            Duration::from_micros(1_000 + u64::from(state.disk_choices[at].next_u32() % 3_000))
        };
        // Before the answer, not before the disk: what was on its way to it got there, or not.
        self.crash_point(node, Call::JournalCommit, Moment::Before).await;
        madsim::time::sleep(fsync).await;
        {
            let mut state = self.state();
            if let Some(batch) = state.disks[at].pending.take() {
                self.land_commit(&mut state, node, batch);
            }
        }
        self.crash_point(node, Call::JournalCommit, Moment::After).await;
    }

    fn land_commit(&self, state: &mut State, node: NodeId, batch: JournalBatch) {
        let now_ms = self.now_ms();
        for intent in &batch.intents {
            state.checker.journalled(now_ms, intent);
            let dot = intent.dot();
            self.note(state, End::Node(node.0), "durable", None, dot.counter, || {
                format!("{} as {dot}", intent.record)
            });
        }
        let forgets = self.is(Double::JournalForgets);
        state.disks[usize::from(node.0)].apply(batch, forgets);
    }

    /// A coordinator reaches a call; it may be its last.
    async fn crash_point(self: &Arc<Self>, node: NodeId, call: Call, moment: Moment) {
        if self.counts_to_crash(node, call, moment) {
            // The process has ended; nothing after this line runs in it.
            std::future::pending::<()>().await;
        }
    }

    fn counts_to_crash(self: &Arc<Self>, node: NodeId, call: Call, moment: Moment) -> bool {
        let now_ms = self.now_ms();
        let mut state = self.state();
        for fault in self.faults_at(now_ms, Kind::ProcessCrash) {
            let Place::Call { node: at, call: of, ordinal, moment: when } = &fault.place else {
                continue;
            };
            if *at != node.0 || *of != call || *when != moment || state.crashed.contains(&fault.id)
            {
                continue;
            }
            let count = state.call_counts.entry(fault.id).or_default();
            *count += 1;
            if *count == *ordinal {
                state.crashed.insert(fault.id);
                state.felt(Kind::ProcessCrash);
                drop(state);
                self.crash(node, Duration::from_millis(fault.span_ms));
                return true;
            }
        }
        false
    }

    /// Ends a coordinator's process, and starts it again after `down`.
    pub fn crash(self: &Arc<Self>, node: NodeId, down: Duration) {
        let at = usize::from(node.0);
        let former = {
            let mut state = self.state();
            self.note(&mut state, End::Node(node.0), "crash", None, 0, String::new);
            state.processes[at].up = false;
            // What was on its way to the disk got there, or not.
            if let Some(batch) = state.disks[at].pending.take() {
                let landed = state.disk_choices[at].random_bool(0.5);
                if landed && !self.is(Double::JournalAnswersEarly) {
                    self.land_commit(&mut state, node, batch);
                    state.sometimes.insert("crash-during-fsync-kept-the-intents");
                } else {
                    state.sometimes.insert("crash-during-fsync-lost-the-intents");
                }
            }
            state.processes[at].coordinator.take()
        };
        self.handle.kill(process_name(node).as_str());
        if let Some(former) = former {
            former.stop();
            self.state().former.push(former);
        }
        let world = self.clone();
        self.outside.spawn(async move {
            madsim::time::sleep(down).await;
            {
                let mut state = world.state();
                world.note(&mut state, End::Node(node.0), "restart", None, 0, String::new);
                let now_ms = world.now_ms();
                let process = &mut state.processes[at];
                process.up = true;
                process.restarted_ms = now_ms;
            }
            world.handle.restart(process_name(node).as_str());
        });
    }

    /// Creates a coordinator's process, which `run` starts and restarts.
    pub fn create_process<F>(
        self: &Arc<Self>,
        node: NodeId,
        run: impl Fn(Arc<World>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + 'static,
    {
        // The runtime keeps this closure and the world keeps the runtime's handle: a strong
        // reference here would keep both for ever.
        let world = Arc::downgrade(self);
        self.state().processes[usize::from(node.0)].up = true;
        self.handle
            .create_node()
            .name(process_name(node))
            .init(move || run(world.upgrade().expect("the run outlives its processes")))
            .build();
    }

    /// When the last fault ended that has begun so far; `None`: one has not ended.
    pub fn healed_ms(&self) -> Option<u64> {
        let now_ms = self.now_ms();
        let state = self.state();
        let planned = self.scenario.faults_end_ms();
        if now_ms < planned || state.strays > 0 || state.processes.iter().any(|p| !p.up) {
            return None;
        }
        let restarted = state.processes.iter().map(|process| process.restarted_ms).max();
        Some(planned.max(state.last_stray_ms).max(restarted.unwrap_or(0)))
    }

    /// A projection's key changed: tells the checker.
    pub fn copy_changed(
        &self,
        state: &mut State,
        store: StoreId,
        key: &str,
        copy: Option<Option<Copy>>,
    ) {
        let found = self.prefixes.iter().find_map(|(prefix, dataset)| {
            let key = key.strip_prefix(prefix.as_str())?;
            Some(RecordId { dataset: dataset.as_str().into(), key: key.into() })
        });
        let Some(record) = found else { return };
        let now_ms = self.now_ms();
        // Bytes without metadata of ours count as a copy that differs.
        let copy = copy.map(|copy| copy.unwrap_or_else(Copy::unknown));
        self.note(state, End::Store(store), "landed", None, u64::from(copy.is_some()), || {
            format!("{record}{}", if copy.is_some() { "" } else { " deleted" })
        });
        state.checker.copy_changed(now_ms, &record, store, copy);
    }

    /// The authority's row changed: tells the checker.
    pub fn row_changed(&self, state: &mut State, record: &RecordId) {
        let now_ms = self.now_ms();
        let at_us = u64::try_from(self.now().as_micros()).expect("runs are short");
        let State { checker, trace, d1, .. } = state;
        let row = &d1.rows()[record];
        let digest = row.row_seq ^ (row.owed.len() as u64) << 32;
        trace.note(at_us, End::Store(StoreId::D1), "row", None, digest, || {
            let dot = row.version.as_ref().map(|version| version.current().dot.to_string());
            let owed: Vec<&str> = row.owed.keys().map(|store| store.name()).collect();
            format!("{record} is {} owed [{}]", dot.unwrap_or_default(), owed.join(" "))
        });
        checker.row_changed(now_ms, record, row);
    }
}

impl State {
    /// A call came out otherwise than it would have.
    pub fn felt(&mut self, kind: Kind) {
        self.faults.entry(kind).or_default().felt += 1;
    }
}

fn give_up<T>(answer: &mut Option<oneshot::Sender<Result<T, Lost>>>) {
    if let Some(answer) = answer.take() {
        let _ = answer.send(Err(Lost::Timeout));
    }
}

/// The name of a coordinator's process.
pub fn process_name(node: NodeId) -> String {
    format!("coordinator-{}", node.0)
}

fn link_number(from: End, to: End) -> u64 {
    let code = |end: End| match end {
        End::Node(node) => u64::from(node),
        End::Store(store) => 0x1_0000 + store as u64,
        End::Session(session) => 0x2_0000 + u64::from(session),
    };
    code(from) << 32 | code(to)
}

/// Base and spread of a one-way trip.
fn latency_us(from: End, to: End) -> (u64, u64) {
    match (from, to) {
        (End::Node(_), End::Node(_)) => (8_000, 40_000),
        (End::Session(_), _) | (_, End::Session(_)) => (1_000, 10_000),
        (End::Store(StoreId::D1), _) | (_, End::Store(StoreId::D1)) => (4_000, 20_000),
        (End::Store(_), _) | (_, End::Store(_)) => (3_000, 25_000),
    }
}
