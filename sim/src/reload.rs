//! Reloads: every coordinator is given another policy in the middle of its work.
//!
//! Invariant: whoever is told of a policy takes it, since it may follow on the former one at any
//! moment; and once the fault has ended all have the scenario's own again.

use crate::double::Double;
use crate::world::World;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidelock_engine::backlog::Queue;
use tidelock_engine::coordinator::{Brake, Leave};
use tidelock_engine::policy::{Dataset, Keep, Policy};
use tidelock_engine::version::NodeId;
use tidelock_faults::{End, Fault, Kind};

/// Between one coordinator's reload and the next one's.
const APART_MS: u64 = 100;
/// Between an operator's looks.
const LOOKS_EVERY_MS: u64 = 2_000;

/// Tells each coordinator at its times.
pub fn begin(world: &Arc<World>) {
    let faults = world.scenario.faults.iter().filter(|f| f.kind == Kind::ProcessConfigReload);
    for fault in faults {
        for node in 0..world.scenario.nodes {
            let (from_ms, until_ms) = window(fault, node);
            for at_ms in [from_ms, until_ms] {
                let world = world.clone();
                madsim::task::spawn(async move {
                    world.sleep(Duration::from_millis(at_ms)).await;
                    let last = at_ms == until_ms;
                    if !(last && world.is(Double::LastReloadForgotten)) {
                        tell(&world, NodeId(node));
                    }
                });
            }
        }
    }
    if world.scenario.faults.iter().any(|fault| fault.kind == Kind::ProcessConfigReload) {
        for node in 0..world.scenario.nodes {
            madsim::task::spawn(approve(Arc::downgrade(world), NodeId(node)));
        }
    }
}

/// An operator who looks at a coordinator now and then, and approves of what a changed filter makes.
///
/// It never ends, and the runtime's timer holds it while it sleeps. The world holds the runtime: if
/// it held the world meanwhile, neither would ever be dropped.
async fn approve(world: Weak<World>, node: NodeId) {
    loop {
        madsim::time::sleep(Duration::from_millis(LOOKS_EVERY_MS)).await;
        let Some(world) = world.upgrade() else { return };
        let running = world.state().processes[usize::from(node.0)].coordinator.clone();
        let Some(coordinator) = running else { continue };
        let held = coordinator.status().passes.into_iter();
        for pass in held.filter(|pass| pass.held == Some(Brake::ChangedFilter)) {
            world.state().sometimes.insert("a-changed-filter-was-approved");
            // Whatever goes wrong, it is held still, and seen again.
            let asked = world.ask(world.scenario.sessions, node, move |coordinator| async move {
                drop(coordinator.look_over(&pass.dataset, pass.store, Leave::MendAll).await);
            });
            let _ = asked.await;
        }
    }
}

/// A coordinator has the fault's policy from when to when.
fn window(fault: &Fault, node: u16) -> (u64, u64) {
    let apart_ms = APART_MS * u64::from(node);
    (fault.from_ms + apart_ms, fault.until_ms.saturating_sub(apart_ms))
}

/// What a coordinator's configuration says now.
pub fn policy_of(world: &World, node: NodeId) -> Policy {
    let now_ms = world.now_ms();
    let holds = |fault: &&Fault| {
        let (from_ms, until_ms) = window(fault, node.0);
        fault.kind == Kind::ProcessConfigReload && (from_ms..until_ms).contains(&now_ms)
    };
    let mut policy = match world.scenario.faults.iter().rfind(holds) {
        Some(fault) => world.scenario.other_policy(fault),
        None => world.policy().clone(),
    };
    if world.is(Double::QueuesUnbounded) {
        policy.datasets.values_mut().for_each(|dataset| dataset.queue = Queue::default());
    }
    policy
}

/// Has a coordinator that runs read its configuration.
pub fn tell(world: &World, node: NodeId) {
    let running = world.state().processes[usize::from(node.0)].coordinator.clone();
    let Some(coordinator) = running else { return };
    let busy = !coordinator.is_idle();
    let policy = policy_of(world, node);
    let refers =
        |dataset: &&Dataset| dataset.kv.as_ref().is_some_and(|kv| kv.keep == Keep::Reference);
    let references = policy.datasets.values().filter(refers).map(|d| d.name.to_string()).collect();
    let changes = coordinator.reload(policy);
    let changes = changes.expect("strategies and forms may change at any moment");
    world.state().checker.told_forms(node, references);
    if changes.said.is_empty() {
        return;
    }
    let mut state = world.state();
    state.felt(Kind::ProcessConfigReload);
    if busy {
        state.sometimes.insert("reloaded-with-work-under-way");
    }
    world.note(&mut state, End::Node(node.0), "reloaded", None, 0, || changes.said.join("; "));
}
