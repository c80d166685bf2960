//! The stopwatch: how long a world takes to be whole again, from the end of its last fault.
//!
//! Invariant: what counts as recovered is asked of coordinators as their clients would ask, and of the
//! checker, never of what the engine says of itself.

use super::session::read;
use crate::checker::{Invariant, Told};
use crate::env::SimEnv;
use crate::world::World;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::coordinator::{Condition, Coordinator, Lifetime, Write, WriteOutcome};
use tidelock_engine::policy::ReadLevel;
use tidelock_engine::record::StoreId;
use tidelock_engine::version::NodeId;
use tidelock_faults::{End, Kind};

/// A run that has not recovered by then never does.
pub(super) const RECOVERY_GIVEN_UP_MS: u64 = 20_000;
/// Operations of the run itself have ids from here on.
const FRESH_ID: u32 = 1_000_000;

/// What the stopwatch showed.
pub(super) struct Recovered {
    pub(super) healed_ms: u64,
    /// From then until a fresh write at each coordinator was readable from every other, and every
    /// breaker admitted traffic; `None`: never.
    pub(super) usable_ms: Option<u64>,
}

/// The stopwatch. It starts when the last fault has ended. What was owed then, and whatever is
/// owed after, is timed by the checker one by one, so that sessions that go on writing neither
/// hide a slow recovery nor look like one.
pub(super) async fn recover(world: &Arc<World>) -> Option<Recovered> {
    let planned_ms = world.scenario.faults_end_ms();
    madsim::time::sleep(Duration::from_millis(planned_ms)).await;
    let until_ms = planned_ms + 60_000;
    let healed_ms = loop {
        if let Some(healed_ms) = world.healed_ms() {
            break healed_ms;
        }
        if world.now_ms() > until_ms {
            return None;
        }
        madsim::time::sleep(Duration::from_millis(20)).await;
    };
    {
        let mut state = world.state();
        world.note(&mut state, End::Session(0), "healed", None, healed_ms, String::new);
    }
    if world.has(Kind::D1Constraint) || world.has(Kind::LoadPoisonRecord) {
        world.spawn(try_dead_letters_again(world.clone()));
    }
    let give_up_ms = world.now_ms() + RECOVERY_GIVEN_UP_MS;
    let fresh: Vec<_> = (0..world.scenario.nodes)
        .filter(|node| !world.is_gone(NodeId(*node)))
        .map(|node| madsim::task::spawn(fresh_write(world.clone(), NodeId(node), give_up_ms)))
        .collect();
    let mut usable_ms = healed_ms;
    for task in fresh {
        match task.await.expect("it does not panic") {
            Some(at_ms) => usable_ms = usable_ms.max(at_ms),
            None => return Some(Recovered { healed_ms, usable_ms: None }),
        }
    }
    loop {
        let store_is_gone = StoreId::ALL.iter().any(|s| world.scenario.is_outside(End::Store(*s)));
        let admits = {
            let state = world.state();
            state.processes.iter().enumerate().all(|(node, process)| {
                let open = |coordinator: &Arc<Coordinator<SimEnv>>| coordinator.admits_all();
                let node = NodeId(node as u16);
                world.scenario.is_outside(End::Node(node.0))
                    || state.members.is_away(node)
                    || process.coordinator.as_ref().is_some_and(|c| store_is_gone || open(c))
            })
        };
        if admits {
            return Some(Recovered { healed_ms, usable_ms: Some(usable_ms - healed_ms) });
        }
        usable_ms = world.now_ms();
        world.check_probes();
        if world.now_ms() > give_up_ms {
            let message = format!("still open: {}", world.open_breakers().join(", "));
            world.state().checker.report(Invariant::BreakerLive, usable_ms, message);
            return Some(Recovered { healed_ms, usable_ms: None });
        }
        madsim::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A fresh write at one coordinator, read from every other. Gives the time when all had it.
async fn fresh_write(world: Arc<World>, node: NodeId, give_up_ms: u64) -> Option<u64> {
    let record = world.record("notes", &format!("fresh-{}", node.0));
    let session = node.0 % world.scenario.sessions;
    let mut written = false;
    let mut tries = 0;
    while !written {
        if world.now_ms() > give_up_ms {
            return None;
        }
        let id = FRESH_ID + u32::from(node.0) * 1_000 + tries;
        tries += 1;
        let value = Some(crate::workload::value(id, 24));
        let write = Write {
            dataset: record.dataset.to_string(),
            key: record.key.to_string(),
            value: value.clone(),
            condition: Condition::None,
            lifetime: Lifetime::Usual,
        };
        let now_ms = world.now_ms();
        world.state().checker.asks(id, now_ms, session, record.clone(), value.as_deref());
        let asked = world
            .ask(session, node, move |coordinator| async move { coordinator.write(write).await });
        let (told, done) = match asked.await {
            Ok(WriteOutcome::Applied(receipt)) => {
                (Told::Acknowledged(receipt.dot), receipt.pending.is_empty())
            }
            Ok(WriteOutcome::Refused(_)) | Err(false) => (Told::Refused, false),
            Ok(WriteOutcome::Unknown(_)) | Err(true) => (Told::Unknown, false),
        };
        let now_ms = world.now_ms();
        world.state().checker.told(id, now_ms, told);
        written = done;
        if !written {
            madsim::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let inside = |other: &NodeId| !world.is_gone(*other);
    let others = (0..world.scenario.nodes).map(NodeId).filter(|other| *other != node);
    for other in others.filter(inside) {
        loop {
            let found = read(&world, session, other, &record, ReadLevel::Latest).await;
            if found.is_some_and(|read| read.value.is_some()) {
                break;
            }
            if world.now_ms() > give_up_ms {
                return None;
            }
            madsim::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Some(world.now_ms())
}

/// The operator: once the faults have ended, has every dead letter tried again, for what a store
/// refused then it may take now.
async fn try_dead_letters_again(world: Arc<World>) {
    for wait_ms in [0, 700, 1_300] {
        madsim::time::sleep(Duration::from_millis(wait_ms)).await;
        let processes =
            world.state().processes.iter().filter_map(|p| p.coordinator.clone()).collect();
        let processes: Vec<Arc<Coordinator<SimEnv>>> = processes;
        for coordinator in processes {
            for letter in coordinator.dead_letters().0 {
                // It may have ended by itself meanwhile.
                let _ = coordinator.retry_dead_letter(&letter.id);
            }
        }
    }
}
