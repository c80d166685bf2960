//! The simulated world: one clock, one network, three stores, a disk for each coordinator.
//!
//! Invariant: all of the world's state is behind one lock, and every choice comes from a stream
//! keyed by what it is for. A crash ends a process and what was not on its disk; how messages
//! travel is in `network.rs`.

use crate::breakers::Breakers;
use crate::checker::Checker;
use crate::disk::{Disk, Landing};
use crate::double::Double;
use crate::lives::Again;
use crate::members::Members;
use crate::network::{Cut, swizzle};
use crate::scenario::{Kept, Scenario};
use crate::stores::{D1, Kv, R2};
use crate::streams::{Purpose, Streams};
use crate::trace::Trace;
use bytes::Bytes;
use madsim::runtime::{Handle, NodeHandle};
use madsim::time::{Sleep, TimeHandle};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tidelock_engine::coordinator::Coordinator;
use tidelock_engine::policy::Policy;
use tidelock_engine::record::{RecordId, StoreId};
use tidelock_engine::row::{Row, StoreTime};
use tidelock_engine::version::{NodeId, SiteId};
use tidelock_faults::{End, Fault, Kind, Place};

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
    /// How many pauses hold it.
    pub pauses: u32,
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
    pub(crate) disk_choices: Vec<ChaCha8Rng>,
    pub(crate) audit_choices: Vec<ChaCha8Rng>,
    pub(crate) call_counts: BTreeMap<u32, u32>,
    /// Of crashes that come again: what they wait for, by fault.
    pub(crate) again: BTreeMap<u32, Again>,
    pub(crate) breakers: Breakers,
    /// Who is a member.
    pub members: Members,
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
    /// Those that end a process at a call.
    pub(crate) crashes: Vec<Fault>,
    /// Those that set a wall clock wrong.
    pub(crate) clocks: Vec<Fault>,
    /// Who is cut off when by swizzled partitions.
    pub(crate) swizzled: Vec<Cut>,
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
        // One more session stands for the clients of load faults.
        let places = nodes + StoreId::ALL.len() + usize::from(scenario.sessions) + 1;
        let mut checker = Checker::new(scenario.sites, references, forms_change);
        checker.leave_out(scenario.nodes_outside(), scenario.stores_outside());
        let law = |kept: &Kept| Some((kept.name.clone(), kept.law?));
        checker.obey(scenario.datasets.iter().filter_map(law).collect());
        let mut state = State {
            checker,
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
            audit_choices: (0..nodes).map(|n| streams.open(Purpose::Audit, n as u64 + 1)).collect(),
            call_counts: BTreeMap::new(),
            again: BTreeMap::new(),
            breakers: Breakers::default(),
            members: Members::new(scenario.nodes, &scenario.faults),
        };
        let planned = |kind: Kind| scenario.faults.iter().any(|fault| fault.kind == kind);
        if planned(Kind::KvListLag) {
            state.sites.iter_mut().for_each(|stores| stores.kv.remember());
        }
        if planned(Kind::D1ReplicaLag) {
            state.sites.iter_mut().for_each(|stores| stores.d1.remember());
        }
        let policy = scenario.policy();
        let prefixes =
            policy.datasets.keys().map(|name| (format!("{name}/"), name.clone())).collect();
        let mut faults_by_kind = vec![Vec::new(); Kind::ALL.len()];
        for fault in &scenario.faults {
            faults_by_kind[fault.kind as usize].push(fault.clone());
        }
        let of = |is: fn(Kind) -> bool| {
            scenario.faults.iter().filter(|fault| is(fault.kind)).cloned().collect::<Vec<_>>()
        };
        let (crashes, clocks) = (of(Kind::is_crash), of(Kind::is_clock));
        let swizzled = of(|kind| kind == Kind::NetSwizzled);
        let swizzled = swizzled.iter().flat_map(|fault| {
            let mut rng = streams.open(Purpose::Swizzle, u64::from(fault.id));
            swizzle(fault, scenario.nodes, &mut rng)
        });
        let swizzled = swizzled.collect();
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
            crashes,
            clocks,
            swizzled,
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

    /// The runtime's handle.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs something in a coordinator's process, as it is now.
    pub fn spawn_on(&self, node: NodeId, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.state().processes[usize::from(node.0)].id;
        if let Some(process) = id.and_then(|id| self.handle.get_node(id)) {
            process.spawn(task);
        }
    }

    /// True once nothing is sent on its way any more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
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

    /// The faults of a kind, whenever they hold.
    pub(crate) fn all_faults(&self, kind: Kind) -> &[Fault] {
        &self.faults[kind as usize]
    }

    /// True when the scenario has faults of a kind, whenever they hold.
    pub fn has(&self, kind: Kind) -> bool {
        !self.faults[kind as usize].is_empty()
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

    /// Ends a coordinator's process, and starts it again after `down`. `landing`: what becomes of a
    /// commit that is under way.
    pub fn crash(self: &Arc<Self>, node: NodeId, down: Duration, landing: Landing) {
        let at = usize::from(node.0);
        let former = {
            let mut state = self.state();
            self.note(&mut state, End::Node(node.0), "crash", None, 0, String::new);
            state.processes[at].up = false;
            self.end_commit(&mut state, node, landing);
            state.breakers.ended(node);
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
        let changing = state.strays > 0 || state.members.are_changing();
        if now_ms < planned || changing || self.is_down(&state) {
            return None;
        }
        let restarted = state.processes.iter().map(|process| process.restarted_ms).max();
        Some(planned.max(state.last_stray_ms).max(restarted.unwrap_or(0)))
    }

    /// True for a coordinator that never heals, or is no member now.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.scenario.is_outside(End::Node(node.0)) || self.state().members.is_away(node)
    }

    /// True while a coordinator is down that is to come back.
    fn is_down(&self, state: &State) -> bool {
        let comes_back = |node: usize| {
            let node = u16::try_from(node).expect("a scenario has few coordinators");
            !self.scenario.is_outside(End::Node(node)) && !state.members.is_away(NodeId(node))
        };
        state.processes.iter().enumerate().any(|(node, process)| !process.up && comes_back(node))
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
        stands: Option<(&Bytes, Option<&str>)>,
    ) {
        let Some(record) = self.record_of(key) else { return };
        let now_ms = self.now_ms();
        self.note(state, End::Store(store), "landed", None, u64::from(stands.is_some()), || {
            let place = self.place_of(&record, site);
            format!("{place}{}", if stands.is_some() { "" } else { " deleted" })
        });
        state.checker.copy_changed(now_ms, site, &record, store, stands);
    }

    /// A record as the trace names it: with its site, where there are several.
    pub fn place_of(&self, record: &RecordId, site: SiteId) -> String {
        let alone = self.scenario.sites < 2;
        if alone { record.to_string() } else { format!("{record}@site{}", site.0) }
    }

    /// The authority's row was removed, as this was left of it: tells the checker.
    pub fn row_reaped(&self, state: &mut State, site: SiteId, record: &RecordId, last: &Row) {
        self.note(state, End::Store(StoreId::D1), "row", None, 0, || {
            format!("{} is reaped", self.place_of(record, site))
        });
        let now_ms = self.now_ms();
        let losers = state.at(site).d1.losers().get(record).cloned().unwrap_or_default();
        state.checker.row_changed(now_ms, site, record, last, &losers);
        state.checker.row_reaped(now_ms, site, record);
    }

    /// The authority's row changed: tells the checker.
    pub fn row_changed(&self, state: &mut State, site: SiteId, record: &RecordId) {
        let now_ms = self.now_ms();
        let at_us = u64::try_from(self.now().as_micros()).expect("runs are short");
        let State { checker, trace, sites, .. } = state;
        // It may have been reaped by a later operation of the same transaction.
        let Some(row) = sites[usize::from(site.0)].d1.rows().get(record) else { return };
        let digest = row.row_seq ^ (row.owed.len() as u64) << 32;
        trace.note(at_us, End::Store(StoreId::D1), "row", None, digest, || {
            let dot = row.version.as_ref().map(|version| version.current().dot.to_string());
            let owed: Vec<&str> = row.owed.keys().map(|store| store.name()).collect();
            let place = self.place_of(record, site);
            format!("{place} is {} owed [{}]", dot.unwrap_or_default(), owed.join(" "))
        });
        let losers = sites[usize::from(site.0)].d1.losers();
        let losers = losers.get(record).map_or(&[][..], Vec::as_slice);
        checker.row_changed(now_ms, site, record, row, losers);
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
