//! Audit logs: what stands of one on its coordinator's disk, and who brings it conflicts.
//!
//! ```text
//! D1 ── engine: Logged::follow ──> append ── pending ── fsync ──> durable
//!                                               └── the process ends: all, a beginning, nothing
//! ```
//!
//! Invariant: what an append answered `Ok` for stands there at the next start, unless a fault takes the
//! disk away. What a crash leaves of one is a beginning of its bytes, of which an incomplete last line is
//! cut off at that start, since nobody was told of it. Entries are the engine's own, to the byte.

use crate::double::Double;
use crate::world::{State, World};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidelock_engine::audit::{Chain, Entry, Event, Head, Settled};
use tidelock_engine::coordinator::{Backwards, Logged, Trail};
use tidelock_engine::version::{NodeId, SiteId};
use tidelock_faults::{Call, End, Kind, Moment};

/// Between two looks at what the authority has settled, as the server has it.
const EVERY: Duration = Duration::from_secs(1);
/// The same after the log has refused what it was given.
const EVERY_REFUSED: Duration = Duration::from_millis(1_500);
/// Conflicts in one append: few, so that what waits takes several and a crash finds a page half written.
const PAGE: usize = 6;
/// Between two looks at whether a log is complete.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A conflict is logged so long after it was settled, once nothing is wrong.
pub const LOGGED_WITHIN_MS: u64 = 5_000;

/// What a disk holds of an audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditLog {
    /// Lines; behind them, perhaps, what a crash has left of one.
    bytes: Vec<u8>,
    /// On their way to the disk.
    pending: Option<Vec<u8>>,
}

/// A log as the process has it that appends.
struct Opened {
    chain: Chain,
    /// What it says last of how far it has the authority's conflicts.
    ending: Option<Event>,
    /// What the disk has of it for certain.
    bytes: usize,
    /// The last append failed so that nobody knows what the disk has of it.
    is_unknown: bool,
}

/// The log of a coordinator, as it is followed into.
struct Kept<'a> {
    world: &'a Arc<World>,
    node: NodeId,
    opened: &'a mut Opened,
}

impl Trail for Kept<'_> {
    type Error = Refused;
    /// There is one page.
    type Cursor = std::convert::Infallible;

    async fn append(&mut self, events: Vec<(u64, Event)>) -> Result<(), Refused> {
        self.world.append(self.node, self.opened, events).await
    }

    async fn settled(
        &mut self,
        _from: Option<Self::Cursor>,
    ) -> Result<Backwards<Self::Cursor>, Refused> {
        let state = self.world.state();
        let log = &state.disks[usize::from(self.node.0)].audit;
        let conflicts = log.events().filter(|event| matches!(event, Event::Conflict(_)));
        Ok((conflicts.filter_map(|event| event.followed_through()).collect(), None))
    }
}

/// An append was not taken. Nothing of it is there, or what is there is cut off before the next; after a
/// crash before that, it shows when the log is opened.
struct Refused;

fn read(line: &[u8]) -> Entry {
    Entry::parse(line).expect("what stands here was written so")
}

impl AuditLog {
    /// What a server finds when it starts. True: an incomplete entry was cut off.
    fn open(&mut self) -> (Opened, bool) {
        let whole = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let torn = whole < self.bytes.len();
        self.bytes.truncate(whole);
        let head = self.lines().next_back().map_or(Head::START, |line| read(line).head());
        let ending = self.events().find(|event| event.kind().is_followed());
        let chain = Chain::resume(head);
        (Opened { chain, ending, bytes: self.bytes.len(), is_unknown: false }, torn)
    }

    /// Its lines, without their ends.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        self.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }

    /// What it tells, the newest first.
    fn events(&self) -> impl Iterator<Item = Event> {
        let entries = self.lines().rev().map(read);
        entries.map(|entry| entry.event().expect("this build has written it"))
    }

    /// The last of its authority's conflicts that it has.
    fn last_conflict(&self) -> Option<Settled> {
        self.events().find(|event| event.kind().is_followed())?.followed_through()
    }

    /// What the disk holds of it when another takes its place.
    pub(crate) fn durable(&self) -> Self {
        AuditLog { bytes: self.bytes.clone(), pending: None }
    }

    /// An append under way ends with its process, or with its disk's error: all of it got there, a
    /// beginning, or nothing. Gives in a word which.
    pub(crate) fn end_append(&mut self, choices: &mut ChaCha8Rng) -> Option<&'static str> {
        let pending = self.pending.take()?;
        let (upto, word) = match choices.random_range(0..3) {
            0 => (0, "crash-during-an-append-lost-the-entries"),
            1 => (pending.len(), "crash-during-an-append-kept-the-entries"),
            _ => (choices.random_range(0..pending.len()), "crash-during-an-append-tore-it"),
        };
        self.bytes.extend_from_slice(&pending[..upto]);
        Some(word)
    }
}

/// Brings a coordinator's log what its site's authority settles, as long as the process lives.
///
/// It ends with its process alone. The runtime's timer holds it while it sleeps, and the world holds the
/// runtime: if it held the world meanwhile, neither would ever be dropped.
pub async fn follow(world: Weak<World>, node: NodeId) {
    let at = usize::from(node.0);
    let (mut opened, mut logged) = {
        let Some(world) = world.upgrade() else { return };
        let (mut opened, torn) = {
            let mut state = world.state();
            let (opened, torn) = state.disks[at].audit.open();
            if torn {
                state.sometimes.insert("an-audit-log-ended-in-a-torn-entry");
            }
            (opened, torn)
        };
        let logged = Logged::behind(opened.ending.as_ref(), PAGE);
        // The last entry is not the last conflict.
        let event = Event::Operator {
            who: "operator".into(),
            action: "start".into(),
            target: format!("n{}", node.0).as_str().into(),
            reason: if torn { "it was torn" } else { "" }.into(),
        };
        let events = vec![(world.store_time().0, event)];
        // Where it is not in the log, the server says so, and goes on.
        let _ = world.append(node, &mut opened, events).await;
        (opened, logged)
    };
    loop {
        let followed = {
            let Some(world) = world.upgrade().filter(|world| !world.is_over()) else { return };
            let running = world.state().processes[at].coordinator.clone();
            match running {
                None => Ok(false),
                Some(coordinator) => {
                    let mut kept = Kept { world: &world, node, opened: &mut opened };
                    logged.follow(&coordinator, &mut kept).await
                }
            }
        };
        let pause = match followed {
            Ok(true) => continue,
            Ok(false) => EVERY,
            Err(Refused) => EVERY_REFUSED,
        };
        madsim::time::sleep(pause).await;
    }
}

/// Waits until every log has what its authority has settled, so long at most.
pub async fn wait_until_logged(world: &World) {
    let until_ms = world.now_ms() + LOGGED_WITHIN_MS;
    while is_behind(world) && world.now_ms() < until_ms {
        madsim::time::sleep(LOOK_AGAIN).await;
    }
}

/// Some log ends before what its authority has settled does.
fn is_behind(world: &World) -> bool {
    let state = world.state();
    world.audited(&state).any(|(node, site)| {
        let Some(newest) = state.sites[usize::from(site.0)].d1.settled().next_back() else {
            return false;
        };
        let last = state.disks[usize::from(node.0)].audit.last_conflict();
        last.is_none_or(|last| last.seq < newest.seq)
    })
}

/// Holds every log against what its site's authority has settled.
pub fn check(world: &World, state: &mut State) {
    let now_ms = world.now_ms();
    let audited: Vec<(NodeId, SiteId)> = world.audited(state).collect();
    for (node, site) in audited {
        let State { checker, disks, sites, .. } = state;
        let settled = sites[usize::from(site.0)].d1.settled();
        checker.finish_log(now_ms, node, site, disks[usize::from(node.0)].audit.lines(), settled);
    }
}

impl World {
    /// The coordinators whose audit logs must be complete, with their sites.
    fn audited<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (NodeId, SiteId)> + 'a {
        let nodes = if self.scenario.audited { self.scenario.nodes } else { 0 };
        let there = |node: &NodeId| {
            !self.scenario.is_outside(End::Node(node.0)) && !state.members.is_away(*node)
        };
        (0..nodes).map(NodeId).filter(there).map(|node| (node, self.scenario.site_of(node)))
    }

    /// Appends to a coordinator's log, as the server does: all of it with one fsync.
    async fn append(
        self: &Arc<Self>,
        node: NodeId,
        opened: &mut Opened,
        events: Vec<(u64, Event)>,
    ) -> Result<(), Refused> {
        let at = usize::from(node.0);
        let mut chain = opened.chain;
        let mut lines = Vec::new();
        for (at_ms, event) in &events {
            chain.append(*at_ms, event).push_line(&mut lines);
        }
        let (fsync, slow_ms) = {
            let mut state = self.state();
            let log = &mut state.disks[at].audit;
            if std::mem::take(&mut opened.is_unknown) && log.bytes.len() > opened.bytes {
                log.bytes.truncate(opened.bytes);
                state.sometimes.insert("what-a-failed-append-left-was-cut-off-an-audit-log");
            }
            state.disks[at].audit.pending = Some(lines);
            let fsync = 1_000 + u64::from(state.audit_choices[at].next_u32() % 3_000);
            (Duration::from_micros(fsync), self.slow_ms(&mut state, node))
        };
        self.crash_point(node, Call::AuditAppend, Moment::Before).await;
        self.sleep(fsync + Duration::from_millis(slow_ms)).await;
        let ended = {
            let mut state = self.state();
            let state = &mut *state;
            let full = self.disk_strikes(state, Kind::DiskFull, node).is_some();
            let failed = !full && self.disk_strikes(state, Kind::DiskFsyncError, node).is_some();
            let log = &mut state.disks[at].audit;
            if full {
                log.pending = None;
                state.sometimes.insert("a-full-disk-took-no-audit-entry");
                Err(Refused)
            } else if failed {
                log.end_append(&mut state.audit_choices[at]);
                state.sometimes.insert("an-append-to-an-audit-log-failed");
                opened.is_unknown = true;
                Err(Refused)
            } else {
                let lines = log.pending.take().expect("one append at a time");
                if !self.is(Double::LogDropsAppends) {
                    log.bytes.extend_from_slice(&lines);
                }
                (opened.chain, opened.bytes) = (chain, log.bytes.len());
                let head = chain.head();
                self.note(state, End::Node(node.0), "logged", None, head.seq, || {
                    format!("{} entries, up to {}", events.len(), head.seq)
                });
                Ok(())
            }
        };
        self.crash_point(node, Call::AuditAppend, Moment::After).await;
        ended
    }
}
