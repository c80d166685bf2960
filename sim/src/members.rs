//! Members: coordinators that join while the others run, and that are retired.
//!
//! ```text
//! started with a list of the members ──> the others are told of it, one after the other
//! asked to leave, until it has left ──> stopped, its disk thrown away ──> the others are told
//! ```
//!
//! Invariant: each coordinator goes by its own list, so that for a while some know of a member and
//! others do not. One that has not left by the fault's end stays: it is started again, as an operator
//! would who changes their mind.

use crate::checker::Invariant;
use crate::disk::Landing;
use crate::double::Double;
use crate::world::{State, World, process_name};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidelock_engine::coordinator::Leaving;
use tidelock_engine::env::Peer;
use tidelock_engine::policy::Keep;
use tidelock_engine::version::NodeId;
use tidelock_faults::{End, Fault, Kind, Place};

/// Between two questions whether a coordinator has left.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Who is a member, and whom each has on its list.
#[derive(Debug, Default)]
pub struct Members {
    /// Not there: not yet, or not any more.
    away: BTreeSet<NodeId>,
    /// The first does not have the second on its list.
    unlisted: BTreeSet<(NodeId, NodeId)>,
    /// Changes that are not through.
    under_way: u32,
}

impl Members {
    /// As a run begins: whoever joins before it is retired is not there yet.
    pub fn new(nodes: u16, faults: &[Fault]) -> Self {
        let mut first = BTreeMap::<NodeId, &Fault>::new();
        for fault in faults.iter().filter(|fault| fault.kind.is_membership()) {
            let Place::Node(node) = fault.place else { continue };
            let first = first.entry(NodeId(node)).or_insert(fault);
            if fault.from_ms < first.from_ms {
                *first = fault;
            }
        }
        let away = |(node, first): (NodeId, &Fault)| {
            (first.kind == Kind::ProcessMemberAdded).then_some(node)
        };
        let away: BTreeSet<NodeId> = first.into_iter().filter_map(away).collect();
        let unlisted = away.iter().flat_map(|&node| {
            let others = (0..nodes).map(NodeId).filter(move |at| *at != node);
            others.map(move |at| (at, node))
        });
        let unlisted = unlisted.collect();
        Members { unlisted, away, under_way: 0 }
    }

    /// True for one that is not there.
    pub fn is_away(&self, node: NodeId) -> bool {
        self.away.contains(&node)
    }

    /// True while somebody joins or is being retired.
    pub fn are_changing(&self) -> bool {
        self.under_way > 0
    }
}

/// Plays each planned change.
pub fn begin(world: &Arc<World>) {
    for kind in [Kind::ProcessMemberAdded, Kind::ProcessMemberRemoved] {
        for fault in world.all_faults(kind) {
            let Place::Node(node) = fault.place else { continue };
            let (world, fault) = (world.clone(), fault.clone());
            madsim::task::spawn(async move {
                madsim::time::sleep(Duration::from_millis(fault.from_ms)).await;
                world.state().members.under_way += 1;
                if kind == Kind::ProcessMemberAdded {
                    join(&world, NodeId(node), &fault).await;
                } else {
                    retire(&world, NodeId(node), &fault).await;
                }
                world.state().members.under_way -= 1;
            });
        }
    }
}

async fn join(world: &Arc<World>, node: NodeId, fault: &Fault) {
    let first_life = {
        let mut state = world.state();
        if !state.members.away.remove(&node) {
            return;
        }
        state.checker.site_begins(world.now_ms(), world.scenario.site_of(node));
        let away: Vec<NodeId> = state.members.away.iter().copied().collect();
        state.members.unlisted.retain(|(at, _)| *at != node);
        state.members.unlisted.extend(away.into_iter().map(|other| (node, other)));
        state.felt(fault.kind);
        world.note(&mut state, End::Node(node.0), "joins", None, 0, String::new);
        let now_ms = world.now_ms();
        let process = &mut state.processes[usize::from(node.0)];
        process.restarted_ms = now_ms;
        process.up = true;
        process.id.is_none()
    };
    if first_life {
        world.create_process(node, move |world| crate::run::process(world, node));
    } else {
        world.handle().restart(process_name(node).as_str());
    }
    tell_all(world, node, fault, fault.until_ms).await;
}

/// Tells the others, each at a time of its own, whether somebody is a member.
async fn tell_all(world: &Arc<World>, node: NodeId, fault: &Fault, until_ms: u64) {
    let now_ms = world.now_ms();
    let within_ms = until_ms.saturating_sub(now_ms).max(1);
    let mut times: Vec<(u64, NodeId)> = {
        let mut state = world.state();
        let others = (0..world.scenario.nodes).map(NodeId).filter(|other| *other != node);
        let choices = world.choices(&mut state, fault.id);
        others.map(|other| (now_ms + choices.random_range(0..within_ms), other)).collect()
    };
    times.sort_unstable();
    for (at_ms, other) in times {
        madsim::time::sleep(Duration::from_millis(at_ms.saturating_sub(world.now_ms()))).await;
        let mut state = world.state();
        // Somebody may have joined again meanwhile, or gone.
        if state.members.is_away(node) {
            state.members.unlisted.insert((other, node));
        } else {
            state.members.unlisted.remove(&(other, node));
        }
    }
}

async fn retire(world: &Arc<World>, node: NodeId, fault: &Fault) {
    let at = usize::from(node.0);
    let mut asked = false;
    loop {
        let life = {
            let state = world.state();
            if state.members.is_away(node) {
                return;
            }
            state.processes[at].lives
        };
        let told = if world.is(Double::MembersNeverAsked) {
            Ok(Leaving::Left)
        } else {
            let session = world.scenario.sessions;
            world.ask(session, node, |coordinator| async move { coordinator.leave().await }).await
        };
        // Where nobody knows, it may have heard.
        asked |= told != Err(false);
        // A later life knows nothing of an earlier one's word.
        if told == Ok(Leaving::Left) && take_away(world, node, life, fault.kind) {
            break;
        }
        if world.now_ms() >= fault.until_ms {
            if asked {
                let up = world.state().processes[at].up;
                if up {
                    world.crash(node, ASK_AGAIN, Landing::Whole);
                }
                world.state().sometimes.insert("a-retirement-was-called-off");
            }
            return;
        }
        madsim::time::sleep(ASK_AGAIN).await;
    }
    tell_all(world, node, fault, world.now_ms() + fault.span_ms).await;
    let now_ms = world.now_ms();
    world.state().processes[at].restarted_ms = now_ms;
}

/// Stops a coordinator for good, and throws its disk away. False: it is another life by now.
fn take_away(world: &Arc<World>, node: NodeId, life: u64, kind: Kind) -> bool {
    let at = usize::from(node.0);
    let former = {
        let mut state = world.state();
        let process = &mut state.processes[at];
        if process.lives != life || process.coordinator.is_none() {
            return false;
        }
        process.up = false;
        let former = process.coordinator.take();
        state.members.away.insert(node);
        state.felt(kind);
        world.note(&mut state, End::Node(node.0), "retired", None, 0, String::new);
        if holds_a_mark(&state, world, node) {
            state.sometimes.insert("a-retired-member-held-a-mark");
        }
        world.end_commit(&mut state, node, Landing::Whole);
        throw_away_disk(world, &mut state, node);
        if world.answers_for(&state, node).next().is_none() {
            state.checker.site_ends(world.now_ms(), world.scenario.site_of(node));
            state.sometimes.insert("the-last-member-of-a-site-left-it");
        }
        let refers = world
            .policy()
            .datasets
            .values()
            .filter(|dataset| dataset.kv.as_ref().is_some_and(|kv| kv.keep == Keep::Reference));
        let references = refers.map(|dataset| dataset.name.to_string()).collect();
        state.checker.told_forms(node, references);
        former
    };
    world.handle().kill(process_name(node).as_str());
    if let Some(former) = former {
        former.stop();
        world.state().former.push(former);
    }
    true
}

impl World {
    /// The members of a coordinator's site.
    fn answers_for(&self, state: &State, node: NodeId) -> impl Iterator<Item = NodeId> {
        let site = self.scenario.site_of(node);
        let nodes = (0..self.scenario.nodes).map(NodeId);
        let here = nodes.filter(|other| self.scenario.site_of(*other) == site);
        here.filter(|other| !state.members.is_away(*other)).collect::<Vec<_>>().into_iter()
    }
}

fn holds_a_mark(state: &State, world: &World, node: NodeId) -> bool {
    let site = usize::from(world.scenario.site_of(node).0);
    let leases = state.sites[site].d1.rows().values().flat_map(|row| row.owed.values().flatten());
    leases.into_iter().any(|lease| lease.holder.node == node)
}

/// It has left: nothing that its journal still holds may be needed.
fn throw_away_disk(world: &World, state: &mut State, node: NodeId) {
    let at = usize::from(node.0);
    let now_ms = world.now_ms();
    state.breakers.ended(node);
    state.breakers.forgets(node);
    let disk = std::mem::take(&mut state.disks[at]);
    let owed = disk.intents().find(|intent| {
        state.checker.lost_with_disk(intent);
        state.checker.is_gone(intent.dot())
    });
    match owed {
        None => state.checker.passed(Invariant::ZeroLoss),
        Some(intent) => {
            let (dot, record) = (intent.dot(), &intent.record);
            let message =
                format!("n{} had left, and its journal still owed {dot} of {record}", node.0);
            state.checker.report(Invariant::ZeroLoss, now_ms, message);
        }
    }
}

impl World {
    /// Whom a coordinator has on its list.
    pub(crate) fn listed(&self, node: NodeId) -> Vec<Peer> {
        let scenario = &self.scenario;
        let others = (0..scenario.nodes).map(NodeId).filter(|peer| *peer != node);
        let peer = |node: NodeId| Peer { node, site: scenario.site_of(node) };
        if !self.has(Kind::ProcessMemberAdded) && !self.has(Kind::ProcessMemberRemoved) {
            return others.map(peer).collect();
        }
        let state = self.state();
        let listed = |other: &NodeId| !state.members.unlisted.contains(&(node, *other));
        others.filter(listed).map(peer).collect()
    }
}
