//! Load: more clients than the scenario's sessions, for a moment.
//!
//! Invariant: each of its writes is asked for, answered and checked as a session's is. Its clients
//! are one more session to the network.

use crate::world::World;
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::coordinator::{Condition, Lifetime};
use tidelock_engine::version::NodeId;
use tidelock_faults::{Fault, Kind};

/// Writes of load have ids from here on, so many for each fault.
const LOAD_ID: u32 = 3_000_000;
const IDS: u32 = 1_000;
/// Writes of one burst.
const BURST: u32 = 40;
/// Clients that write one record at once.
const HOT: u32 = 16;
/// Values that the authority cannot take whole.
const OVERSIZE: u32 = 4;
/// Clients that ask again without waiting, how often, and how soon.
const STORMING: u32 = 6;
const STORM_TRIES: u32 = 6;
const STORM_APART_MS: u64 = 60;

/// What one client does.
struct Client {
    first_id: u32,
    at_ms: u64,
    node: u16,
    key: String,
    bytes: usize,
    tries: u32,
}

/// Plays each planned load.
pub fn begin(world: &Arc<World>) {
    let load = world.scenario.faults.iter().filter(|fault| fault.kind.is_load());
    for fault in load {
        for client in clients(world, fault) {
            let (world, fault) = (world.clone(), fault.clone());
            madsim::task::spawn(async move { ask(&world, &fault, client).await });
        }
    }
}

fn clients(world: &World, fault: &Fault) -> Vec<Client> {
    let mut state = world.state();
    let rng = world.choices(&mut state, fault.id);
    let (nodes, oversize) = (world.scenario.nodes, world.scenario.authority_value_bytes_max + 1);
    let many = match fault.kind {
        Kind::LoadHotKey => HOT,
        Kind::LoadOversize => OVERSIZE,
        Kind::LoadRetryStorm => STORMING,
        _ => BURST,
    };
    // All of a burst comes within a quarter of a second.
    let within_ms = if fault.kind == Kind::LoadOversize { 1_000 } else { 250 };
    (0..many)
        .map(|number| {
            let key = match fault.kind {
                Kind::LoadHotKey => 0,
                _ => rng.random_range(0..60),
            };
            let large = fault.kind == Kind::LoadOversize;
            Client {
                first_id: LOAD_ID + fault.id * IDS + number * STORM_TRIES,
                at_ms: fault.from_ms + rng.random_range(0..within_ms),
                node: rng.random_range(0..nodes),
                key: format!("k{key}"),
                bytes: if large { oversize + 100 } else { rng.random_range(8..120) },
                tries: if fault.kind == Kind::LoadRetryStorm { STORM_TRIES } else { 1 },
            }
        })
        .collect()
}

async fn ask(world: &Arc<World>, fault: &Fault, client: Client) {
    world.sleep(Duration::from_millis(client.at_ms)).await;
    let record = world.record("notes", &client.key);
    let mut waiting = Vec::new();
    for number in 0..client.tries {
        // A client that asks again is felt; one of many is felt anyway.
        if client.tries == 1 || number > 0 {
            world.state().felt(fault.kind);
        }
        let (world, record) = (world.clone(), record.clone());
        let node = NodeId((client.node + number as u16) % world.scenario.nodes);
        let id = client.first_id + number;
        let value = Some(crate::workload::value(id, client.bytes));
        let session = world.scenario.sessions;
        waiting.push(madsim::task::spawn({
            let world = world.clone();
            async move {
                let (none, usual) = (Condition::None, Lifetime::Usual);
                let written =
                    crate::run::write(&world, id, session, node, &record, value, none, usual);
                written.await.is_some()
            }
        }));
        world.sleep(Duration::from_millis(STORM_APART_MS)).await;
        // Whoever has an answer asks no more.
        if waiting.iter().any(madsim::task::JoinHandle::is_finished) {
            break;
        }
    }
    for asked in waiting {
        let _ = asked.await;
    }
}
