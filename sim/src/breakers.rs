//! What the stores' side sees of the coordinators' circuit breakers.
//!
//! Invariant (`breaker-live`): while a breaker is not closed no put or batch of its coordinator is
//! sent; its probes follow each other within half a second, whether or not they are answered, and few
//! are under way at once; once the store answers, it closes. To a store that an operator holds nothing is sent, not even probes; and what
//! an operator was told is kept over restarts is.

use crate::checker::Invariant;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::breaker::{Force, PROBE_EVERY, PROBES_MAX};
use tidelock_engine::coordinator::PROBE_KEY;
use tidelock_engine::record::StoreId;
use tidelock_engine::version::NodeId;
use tidelock_faults::Call;

/// How late a probe may be: timers are coarse.
const LATE_MAX: Duration = Duration::from_millis(50);

/// What was seen, by coordinator and store.
#[derive(Debug, Default)]
pub struct Breakers {
    /// When the last call was sent or ended, and of which life.
    called: BTreeMap<(NodeId, StoreId), (u64, Duration)>,
    /// Probes under way, and of which life.
    probing: BTreeMap<(NodeId, StoreId), (u64, u32)>,
    /// What an operator was told is held.
    held: BTreeSet<(NodeId, StoreId)>,
    /// What an operator was told is kept over restarts.
    kept: BTreeMap<(NodeId, StoreId), Option<Force>>,
}

impl Breakers {
    /// An operator has been told that a store is held, or is about to have it released.
    pub(crate) fn hold(&mut self, node: NodeId, store: StoreId, held: bool, now: Duration) {
        if held {
            self.held.insert((node, store));
        } else {
            self.held.remove(&(node, store));
            // Probes begin now.
            if let Some((_, at)) = self.called.get_mut(&(node, store)) {
                *at = now;
            }
        }
    }

    /// A process ends, or another begins.
    pub(crate) fn ended(&mut self, node: NodeId) {
        self.held.retain(|(of, _)| *of != node);
    }

    /// An operator was told that this is kept over restarts; `None`: nobody knows what is.
    pub(crate) fn keep(&mut self, node: NodeId, store: StoreId, kept: Option<Option<Force>>) {
        match kept {
            Some(kept) => drop(self.kept.insert((node, store), kept)),
            None => drop(self.kept.remove(&(node, store))),
        }
    }

    /// A disk is not what it was.
    pub(crate) fn forgets(&mut self, node: NodeId) {
        self.kept.retain(|(of, _), _| *of != node);
    }

    /// A process goes on that stood still: it could not probe, and what it waited for shows now.
    pub fn resumed(&mut self, node: NodeId, now: Duration) {
        for ((called, _), (_, at)) in &mut self.called {
            if *called == node {
                *at = now;
            }
        }
    }
}

/// A probe under way.
pub struct Probe {
    world: Arc<World>,
    node: NodeId,
    store: StoreId,
    life: u64,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let mut state = self.world.state();
        let place = (self.node, self.store);
        if let Some((life, under_way)) = state.breakers.probing.get_mut(&place)
            && *life == self.life
        {
            *under_way -= 1;
        }
    }
}

impl World {
    /// A coordinator reads from a store; `Some`: that is a probe.
    pub fn probe(self: &Arc<Self>, node: NodeId, store: StoreId, key: &str) -> Option<Probe> {
        if key != PROBE_KEY {
            return None;
        }
        let now_ms = self.now_ms();
        let mut state = self.state();
        let life = state.processes[usize::from(node.0)].lives;
        let probing = state.breakers.probing.entry((node, store)).or_default();
        if probing.0 != life {
            *probing = (life, 0);
        }
        probing.1 += 1;
        let under_way = probing.1;
        if under_way > PROBES_MAX {
            let message = format!("n{} has {under_way} probes of {store} under way", node.0);
            state.checker.report(Invariant::BreakerLive, now_ms, message);
        } else {
            state.checker.passed(Invariant::BreakerLive);
        }
        Some(Probe { world: self.clone(), node, store, life })
    }

    /// A coordinator sends a call.
    pub(crate) fn breaker_passed(&self, node: NodeId, store: StoreId, call: Call) {
        let now = self.now();
        let mut state = self.state();
        let process = &state.processes[usize::from(node.0)];
        let life = process.lives;
        let open = process.coordinator.as_ref().is_some_and(|c| !c.admits(store));
        state.breakers.called.insert((node, store), (life, now));
        if state.breakers.held.contains(&(node, store)) {
            let message = format!("n{} sent {call:?} to {store}, which an operator holds", node.0);
            state.checker.report(Invariant::BreakerLive, self.now_ms(), message);
        }
        if open && matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write) {
            let message = format!("n{} sent {call:?} past its open breaker", node.0);
            state.checker.report(Invariant::BreakerLive, self.now_ms(), message);
        }
    }

    /// A call ends: it may have opened the breaker, and begun the time to the first probe.
    pub(crate) fn breaker_heard(&self, node: NodeId, store: StoreId) {
        let now = self.now();
        let mut state = self.state();
        let life = state.processes[usize::from(node.0)].lives;
        state.breakers.called.insert((node, store), (life, now));
    }

    /// A process has started: what it was told to keep it has kept.
    pub(crate) fn check_forced(&self, node: NodeId) {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let Some(coordinator) = state.processes[usize::from(node.0)].coordinator.clone() else {
            return;
        };
        for store in StoreId::ALL {
            let Some(kept) = state.breakers.kept.get(&(node, store)).copied() else { continue };
            let forced = coordinator.forced(store);
            if forced == kept {
                state.checker.passed(Invariant::BreakerLive);
            } else {
                let message =
                    format!("n{}: {store} was to be kept as {kept:?} and is {forced:?}", node.0);
                state.checker.report(Invariant::BreakerLive, now_ms, message);
            }
        }
    }

    /// To every store whose breaker is not closed a probe was sent not long ago.
    pub fn check_probes(&self) {
        let now = self.now();
        let mut state = self.state();
        let mut late = Vec::new();
        for (at, process) in state.processes.iter().enumerate() {
            let Some(coordinator) = &process.coordinator else { continue };
            let node = NodeId(u16::try_from(at).expect("a run has few coordinators"));
            for store in StoreId::ALL {
                if coordinator.admits(store) || coordinator.forced(store) == Some(Force::Open) {
                    continue;
                }
                let called = state.breakers.called.get(&(node, store));
                let since = called.filter(|c| c.0 == process.lives).map_or(Duration::ZERO, |c| c.1);
                if now.saturating_sub(since) > PROBE_EVERY + LATE_MAX {
                    late.push(format!("n{} has not probed {store} since {since:?}", node.0));
                }
            }
        }
        for message in late {
            state.checker.report(Invariant::BreakerLive, self.now_ms(), message);
        }
    }

    /// Breakers that are not closed, in words.
    pub fn open_breakers(&self) -> Vec<String> {
        let state = self.state();
        let processes = state.processes.iter().enumerate();
        let open = processes.filter_map(|(at, p)| Some((at, p.coordinator.as_ref()?)));
        open.flat_map(|(at, coordinator)| {
            let open = StoreId::ALL.into_iter().filter(|store| !coordinator.admits(*store));
            open.map(move |store| format!("n{at} to {store}")).collect::<Vec<_>>()
        })
        .collect()
    }
}
