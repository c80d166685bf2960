//! The operator who forces breakers open and closed, and has them automatic again.
//!
//! Invariant: whatever coordinator runs is told of what it should be by now; once the fault has ended
//! every breaker is automatic. What an operator was answered for is what `breaker-live` goes by.

use crate::double::Double;
use crate::world::World;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::breaker::Force;
use tidelock_engine::coordinator::Kept;
use tidelock_engine::record::StoreId;
use tidelock_engine::version::NodeId;
use tidelock_faults::{End, Kind, Place};

/// Tells each coordinator at its times.
pub fn begin(world: &Arc<World>) {
    for fault in world.all_faults(Kind::ProcessBreakerForced) {
        let Some((node, store, _)) = aim(&fault.place) else { continue };
        for at_ms in [fault.from_ms, fault.until_ms] {
            let world = world.clone();
            madsim::task::spawn(async move {
                world.sleep(Duration::from_millis(at_ms)).await;
                tell(&world, node, store).await;
            });
        }
    }
}

/// A coordinator has started: it may not be as it should be.
pub async fn tell_all(world: &Arc<World>, node: NodeId) {
    if world.all_faults(Kind::ProcessBreakerForced).is_empty() {
        return;
    }
    world.check_forced(node);
    for store in StoreId::ALL {
        tell(world, node, store).await;
    }
}

fn aim(place: &Place) -> Option<(NodeId, StoreId, Force)> {
    match place {
        Place::Link { from: End::Node(node), to: End::Store(store) } => {
            Some((NodeId(*node), *store, Force::Open))
        }
        Place::Link { from: End::Store(store), to: End::Node(node) } => {
            Some((NodeId(*node), *store, Force::Closed))
        }
        _ => None,
    }
}

/// What a breaker should be forced to be now.
fn wanted(world: &World, node: NodeId, store: StoreId) -> Option<Force> {
    let now_ms = world.now_ms();
    let faults = world.all_faults(Kind::ProcessBreakerForced).iter();
    let holds = faults.filter(|fault| fault.holds_at(now_ms));
    let here =
        holds.filter_map(|fault| aim(&fault.place)).filter(|aim| (aim.0, aim.1) == (node, store));
    here.map(|(_, _, force)| force).next_back()
}

async fn tell(world: &Arc<World>, node: NodeId, store: StoreId) {
    let to = wanted(world, node, store);
    let running = world.state().processes[usize::from(node.0)].coordinator.clone();
    let Some(coordinator) = running else { return };
    if coordinator.forced(store) == to {
        return;
    }
    {
        let mut state = world.state();
        if to != Some(Force::Open) {
            state.breakers.hold(node, store, false, world.now());
        }
        state.breakers.keep(node, store, None);
    }
    let kept = if world.is(Double::OperatorUnheard) {
        Kept::WhileItRuns
    } else {
        match coordinator.force_breaker(store, to, "maintenance").await {
            Ok(kept) => kept,
            // It has stopped; the next life is told.
            Err(_) => return,
        }
    };
    let mut state = world.state();
    state.felt(Kind::ProcessBreakerForced);
    // Meanwhile another coordinator may run, or another fault may have ended this one.
    let same = state.processes[usize::from(node.0)]
        .coordinator
        .as_ref()
        .is_some_and(|running| Arc::ptr_eq(running, &coordinator));
    if same && wanted(world, node, store) == to {
        state.breakers.hold(node, store, to == Some(Force::Open), world.now());
        state.breakers.keep(node, store, (kept == Kept::OverRestarts).then_some(to));
    }
    world.note(&mut state, End::Node(node.0), "forced", Some(End::Store(store)), 0, || {
        to.map_or("automatic".to_owned(), |to| format!("{to:?}"))
    });
}
