//! The simulated world: one clock, one network, three stores, a disk for each coordinator.
//!
//! Invariant: all of the world's state is behind one lock, and every choice comes from a stream
//! keyed by what it is for. A crash ends a process and what was not on its disk; how messages
//! travel is in `network.rs`.

use crate::checker::{Checker, Copy};
use crate::double::Double;
use crate::scenario::Scenario;
use crate::stores::{D1, Kv, R2};
use crate::streams::{Purpose, Streams};
use crate::trace::Trace;
use madsim::runtime::{Handle, NodeHandle};
use madsim::time::{Sleep, TimeHandle};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::journal::{Intent, JournalBatch, JournalError};
use tidelock_engine::policy::Policy;
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::row::StoreTime;
use tidelock_engine::version::{Dot, NodeId, SiteId};
use tidelock_faults::{Call, End, Fault, Kind, Moment, Place};

use crate::env::SimEnv;

/// The wall clock's reading when a run begins: an arbitrary day.
pub const EPOCH_MS: u64 = 1_790_000_000_000;

/// How often a fault was planned, and how often a call came out otherwise because of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Felt {
    /// Planned.
    pub injected: u64,
    /// Felt.
    pub felt: u64,
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
    /// What the runtime calls it.
    pub id: Option<madsim::task::NodeId>,
    /// Running, with replay behind it.
    pub coordinator: Option<Arc<Coordinator<SimEnv>>>,
    /// Its lives so far.
    pub lives: u64,
    /// False between a crash and the restart command.
    pub up: bool,
    /// When it was last told to restart.
    pub restarted_ms: u64,
}

/// The stores of one site.
#[derive(Debug, Default)]
pub struct Stores {
    /// See [`Kv`].
    pub kv: Kv,
    /// See [`D1`].
    pub d1: D1,
    /// See [`R2`].
    pub r2: R2,
}

/// Everything behind the lock.
pub struct State {
    /// What holds.
    pub checker: Checker,
    /// What happened.
    pub trace: Trace,
    /// By site.
    pub sites: Vec<Stores>,
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
    pub(crate) strays: u32,
    pub(crate) last_stray_ms: u64,
    /// By sender and receiver, opened when first used.
    pub(crate) links: Vec<Option<ChaCha8Rng>>,
    choices: BTreeMap<u32, ChaCha8Rng>,
    disk_choices: Vec<ChaCha8Rng>,
    pub(crate) call_counts: BTreeMap<u32, u32>,
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
    /// Of every coordinator.
    policy: Policy,
    /// The scenario's faults by kind.
    faults: Vec<Vec<Fault>>,
    /// Records by the key of their copies.
    prefixes: Vec<(String, Arc<str>)>,
    /// The run is over: what is still under way goes nowhere.
    over: AtomicBool,
}

impl World {
    /// A world at time zero. Must be called inside the runtime.
    pub fn new(scenario: Scenario, double: Option<Double>, keep_trace: bool) -> Arc<Self> {
        let handle = Handle::current();
        let streams = Streams::new(scenario.seed);
        let in_kv = scenario.datasets.iter().filter(|kept| kept.kv_reference);
        let in_kv = in_kv.map(|kept| kept.name.clone()).collect();
        let references = BTreeMap::from([(StoreId::Kv, in_kv)]);
        let forms_change = scenario.faults.iter().any(|f| f.kind == Kind::ProcessConfigReload);
        let mut faults: BTreeMap<Kind, Felt> = BTreeMap::new();
        for fault in &scenario.faults {
            faults.entry(fault.kind).or_default().injected += 1;
        }
        let nodes = usize::from(scenario.nodes);
        let places = nodes + StoreId::ALL.len() + usize::from(scenario.sessions);
        let state = State {
            checker: Checker::new(scenario.sites, references, forms_change),
            trace: Trace::new(keep_trace),
            sites: (0..scenario.sites).map(|_| Stores::default()).collect(),
            disks: (0..nodes).map(|_| Disk::default()).collect(),
            processes: (0..nodes).map(|_| Process::default()).collect(),
            delivered: 0,
            faults,
            sometimes: BTreeSet::new(),
            former: Vec::new(),
            strays: 0,
            last_stray_ms: 0,
            links: (0..places * places).map(|_| None).collect(),
            choices: BTreeMap::new(),
            disk_choices: (0..nodes).map(|n| streams.open(Purpose::Disk, n as u64)).collect(),
            call_counts: BTreeMap::new(),
        };
        let policy = scenario.policy();
        let prefixes =
            policy.datasets.keys().map(|name| (format!("{name}/"), name.clone())).collect();
        let mut faults_by_kind = vec![Vec::new(); Kind::ALL.len()];
        for fault in &scenario.faults {
            faults_by_kind[fault.kind as usize].push(fault.clone());
        }
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
            policy,
            faults: faults_by_kind,
            prefixes,
            over: AtomicBool::new(false),
        })
    }

    /// What every coordinator keeps where.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// A record of the scenario, by names.
    pub fn record(&self, dataset: &str, key: &str) -> RecordId {
        let known = self.policy.datasets.get_key_value(dataset);
        let dataset = known.map_or_else(|| dataset.into(), |(name, _)| name.clone());
        RecordId { dataset, key: key.into() }
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

    /// Waits.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.time.sleep(duration)
    }

    /// Runs something that no crash ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.over.load(Ordering::Relaxed) {
            self.outside.spawn(task);
        }
    }

    /// Runs something in a coordinator's process, as it is now.
    pub fn spawn_on(&self, node: NodeId, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.state().processes[usize::from(node.0)].id;
        if let Some(process) = id.and_then(|id| self.handle.get_node(id)) {
            process.spawn(task);
        }
    }

    /// Nothing is sent on its way any more.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
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

    /// The faults of a kind that hold now.
    pub(crate) fn faults(&self, kind: Kind) -> impl Iterator<Item = &Fault> {
        let faults = &self.faults[kind as usize];
        // A scenario has a few of the kinds, and every call asks for nearly all of them.
        let now_ms = if faults.is_empty() { 0 } else { self.now_ms() };
        faults.iter().filter(move |fault| fault.holds_at(now_ms))
    }

    /// True when a fault of this kind holds and its dice say so. Notes that it was felt.
    pub(crate) fn strikes(&self, state: &mut State, site: SiteId, kind: Kind) -> Option<&Fault> {
        let mut faults = self.faults(kind).filter(|fault| match fault.place {
            Place::Call { .. } => false,
            Place::StoreAt { site: at, .. } => at == site.0,
            _ => true,
        });
        let fault = faults.find(|fault| self.dice(state, fault))?;
        state.felt(kind);
        Some(fault)
    }

    pub(crate) fn dice(&self, state: &mut State, fault: &Fault) -> bool {
        if fault.permille >= 1000 {
            return true;
        }
        self.choices(state, fault.id).random_range(0..1000) < fault.permille
    }

    /// The stream of a fault's random choices.
    pub(crate) fn choices<'a>(&self, state: &'a mut State, fault: u32) -> &'a mut ChaCha8Rng {
        let open = || self.streams.open(Purpose::Fault, u64::from(fault));
        state.choices.entry(fault).or_insert_with(open)
    }

    /// Commits to a coordinator's disk. After a failure what was on its way is there, or not.
    pub async fn commit(
        self: &Arc<Self>,
        node: NodeId,
        batch: JournalBatch,
    ) -> Result<(), JournalError> {
        let at = usize::from(node.0);
        let fsync = {
            let mut state = self.state();
            let early = self.is(Double::JournalAnswersEarly);
            if early {
                // The wrong double: what waits is lost in a crash, though it was called durable.
                if let Some(former) = state.disks[at].pending.replace(batch) {
                    self.land_commit(&mut state, node, former);
                }
                return Ok(());
            }
            state.disks[at].pending = Some(batch);
            Duration::from_micros(1_000 + u64::from(state.disk_choices[at].next_u32() % 3_000))
        };
        // Before the answer, not before the disk: what was on its way to it got there, or not.
        self.crash_point(node, Call::JournalCommit, Moment::Before).await;
        self.sleep(fsync).await;
        let failed = {
            let mut state = self.state();
            let failed = self.fsync_fails(&mut state, node);
            if let Some(batch) = state.disks[at].pending.take() {
                let landed = !failed || state.disk_choices[at].random_bool(0.5);
                if landed {
                    self.land_commit(&mut state, node, batch);
                }
                if failed {
                    state.sometimes.insert(if landed {
                        "failed-fsync-kept-the-intents"
                    } else {
                        "failed-fsync-lost-the-intents"
                    });
                }
            }
            failed
        };
        self.crash_point(node, Call::JournalCommit, Moment::After).await;
        if failed { Err(JournalError::Io("fsync: input/output error".to_owned())) } else { Ok(()) }
    }

    fn fsync_fails(&self, state: &mut State, node: NodeId) -> bool {
        let here = |fault: &&Fault| fault.place == Place::Disk(node.0);
        let mut faults = self.faults(Kind::DiskFsyncError).filter(here);
        let fails = faults.any(|fault| self.dice(state, fault));
        if fails {
            state.felt(Kind::DiskFsyncError);
        }
        fails
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
    pub(crate) async fn crash_point(self: &Arc<Self>, node: NodeId, call: Call, moment: Moment) {
        if self.counts_to_crash(node, call, moment) {
            // The process has ended; nothing after this line runs in it.
            std::future::pending::<()>().await;
        }
    }

    fn counts_to_crash(self: &Arc<Self>, node: NodeId, call: Call, moment: Moment) -> bool {
        let mut counted = self.faults(Kind::ProcessCrash).filter_map(|fault| match &fault.place {
            Place::Call { node: at, call: of, ordinal, moment: when }
                if (*at, *of, *when) == (node.0, call, moment) =>
            {
                Some((fault, *ordinal))
            }
            _ => None,
        });
        let crash = counted.find(|(fault, ordinal)| {
            let mut state = self.state();
            let count = state.call_counts.entry(fault.id).or_default();
            *count += 1;
            let due = *count == *ordinal;
            if due {
                state.felt(Kind::ProcessCrash);
            }
            due
        });
        let Some((fault, _)) = crash else { return false };
        self.crash(node, Duration::from_millis(fault.span_ms));
        true
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
        self.spawn(async move {
            world.sleep(down).await;
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
        let process = self
            .handle
            .create_node()
            .name(process_name(node))
            .init(move || run(world.upgrade().expect("the run outlives its processes")))
            .build();
        self.state().processes[usize::from(node.0)].id = Some(process.id());
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

    /// What the copies' keys begin with.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.prefixes.iter().map(|(prefix, _)| prefix.as_str())
    }

    /// The record that a projection's key is a copy of.
    pub fn record_of(&self, key: &str) -> Option<RecordId> {
        self.prefixes.iter().find_map(|(prefix, dataset)| {
            let key = key.strip_prefix(prefix.as_str())?;
            Some(RecordId { dataset: dataset.clone(), key: key.into() })
        })
    }

    /// A projection's key changed: tells the checker.
    pub fn copy_changed(
        &self,
        state: &mut State,
        site: SiteId,
        store: StoreId,
        key: &str,
        copy: Option<Option<Copy>>,
    ) {
        let Some(record) = self.record_of(key) else { return };
        let now_ms = self.now_ms();
        // Bytes without metadata of ours count as a copy that differs.
        let copy = copy.map(|copy| copy.unwrap_or_else(Copy::unknown));
        self.note(state, End::Store(store), "landed", None, u64::from(copy.is_some()), || {
            format!("{record}{}", if copy.is_some() { "" } else { " deleted" })
        });
        state.checker.copy_changed(now_ms, site, &record, store, copy);
    }

    /// The authority's row changed: tells the checker.
    pub fn row_changed(&self, state: &mut State, site: SiteId, record: &RecordId) {
        let now_ms = self.now_ms();
        let at_us = u64::try_from(self.now().as_micros()).expect("runs are short");
        let State { checker, trace, sites, .. } = state;
        let row = &sites[usize::from(site.0)].d1.rows()[record];
        let digest = row.row_seq ^ (row.owed.len() as u64) << 32;
        trace.note(at_us, End::Store(StoreId::D1), "row", None, digest, || {
            let dot = row.version.as_ref().map(|version| version.current().dot.to_string());
            let owed: Vec<&str> = row.owed.keys().map(|store| store.name()).collect();
            format!("{record} is {} owed [{}]", dot.unwrap_or_default(), owed.join(" "))
        });
        checker.row_changed(now_ms, site, record, row);
    }
}

impl State {
    /// The stores of a site.
    pub fn at(&mut self, site: SiteId) -> &mut Stores {
        &mut self.sites[usize::from(site.0)]
    }

    /// A call came out otherwise than it would have.
    pub fn felt(&mut self, kind: Kind) {
        self.faults.entry(kind).or_default().felt += 1;
    }
}

/// The name of a coordinator's process.
pub fn process_name(node: NodeId) -> String {
    format!("coordinator-{}", node.0)
}
