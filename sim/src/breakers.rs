//! What the stores' side sees of the coordinators' circuit breakers.
//!
//! Invariant (`breaker-live`): while a breaker is not closed no put or batch of its coordinator is
//! sent; its probes are one at a time, and follow each other within a cool-down; once the store
//! answers, it closes.

use crate::checker::Invariant;
use crate::world::World;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::breaker::COOL_DOWN;
use tidelock_engine::coordinator::PROBE_KEY;
use tidelock_engine::record::StoreId;
use tidelock_engine::version::NodeId;
use tidelock_faults::Call;

/// How late a probe may be: timers are coarse.
const LATE_MAX: Duration = Duration::from_millis(50);

/// What was seen, by coordinator and store.
#[derive(Debug, Default)]
pub struct Breakers {
    /// When the last call was sent, and of which life.
    called: BTreeMap<(NodeId, StoreId), (u64, Duration)>,
    /// Probes under way, by life.
    probing: BTreeMap<(NodeId, StoreId), u64>,
}

impl Breakers {
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
        if state.breakers.probing.get(&place) == Some(&self.life) {
            state.breakers.probing.remove(&place);
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
        let former = state.breakers.probing.insert((node, store), life);
        if former == Some(life) {
            let message = format!("n{} probes {store} twice at once", node.0);
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
        if open && matches!(call, Call::D1Batch | Call::KvWrite | Call::R2Write) {
            let message = format!("n{} sent {call:?} past its open breaker", node.0);
            state.checker.report(Invariant::BreakerLive, self.now_ms(), message);
        }
    }

    /// Every breaker that is not closed has a probe under way, or one was sent not long ago.
    pub fn check_probes(&self, call_max: Duration) {
        let now = self.now();
        let mut state = self.state();
        let mut late = Vec::new();
        for (at, process) in state.processes.iter().enumerate() {
            let Some(coordinator) = &process.coordinator else { continue };
            let node = NodeId(u16::try_from(at).expect("a run has few coordinators"));
            for store in StoreId::ALL {
                if coordinator.admits(store) {
                    continue;
                }
                let called = state.breakers.called.get(&(node, store));
                let since = called.filter(|c| c.0 == process.lives).map_or(Duration::ZERO, |c| c.1);
                if now.saturating_sub(since) > call_max + COOL_DOWN + LATE_MAX {
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
