//! What can go wrong, as plain data: the catalogue, and the seeded plan of one run.
//!
//! Invariant: a plan is survivable. Every fault ends inside the plan's window, every crashed
//! coordinator is told to restart, and the stores keep what they have acknowledged; so an engine
//! that loses a write under a plan has lost it by itself.

mod kind;
mod plan;

pub use kind::Kind;
pub use plan::{PlanShape, plan};

use serde::{Deserialize, Serialize};
use std::fmt;
use tidelock_engine::record::StoreId;

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// A coordinator, by number.
    Node(u16),
    /// A store.
    Store(StoreId),
    /// A client session, by number.
    Session(u16),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Node(node) => write!(f, "n{node}"),
            End::Store(store) => write!(f, "{store}"),
            End::Session(session) => write!(f, "s{session}"),
        }
    }
}

/// The kinds of calls that a coordinator makes to the world; crashes are addressed by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// The journal's replay, with which a life begins.
    JournalReplay,
    /// A commit of the journal.
    JournalCommit,
    /// A batch of row operations.
    D1Batch,
    /// A look at the change feed.
    D1Poll,
    /// Any other read from D1.
    D1Read,
    /// A read from KV.
    KvGet,
    /// A put or delete in KV.
    KvWrite,
    /// A read from R2.
    R2Get,
    /// A put or delete in R2.
    R2Write,
    /// A message to another coordinator.
    Peer,
    /// An append to the audit log.
    AuditAppend,
}

/// When in a call a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Nothing of the call leaves the process. A commit of the journal, or an append to the audit log,
    /// is on its way to the disk then, and gets there or not.
    Before,
    /// The call has its effect, and its answer is not seen.
    After,
}

/// Where a fault holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On messages from one end to the other; a two-way partition holds both ways.
    Link {
        /// The sender.
        from: End,
        /// The receiver.
        to: End,
    },
    /// On every message.
    Everywhere,
    /// At a store, of every site.
    Store(StoreId),
    /// At a store of one site.
    StoreAt {
        /// Which site.
        site: u16,
        /// Which store.
        store: StoreId,
    },
    /// At one copy in a store, by its key there.
    Copy {
        /// Which store.
        store: StoreId,
        /// Prefix and record key.
        key: String,
    },
    /// At a coordinator's disk.
    Disk(u16),
    /// At a coordinator's process.
    Node(u16),
    /// At a coordinator's wall clock.
    Clock {
        /// Which coordinator.
        node: u16,
        /// It is behind, or runs slow; else it is ahead, or runs fast.
        back: bool,
    },
    /// At the `ordinal`-th such call of a coordinator after the fault's beginning (from 1): a
    /// crash, or a late arrival or lost connection by exactly the fault's span (`before`: it arrives
    /// late; `after`: it is accepted in time and lands late).
    Call {
        /// Which coordinator.
        node: u16,
        /// What kind of call.
        call: Call,
        /// Which one.
        ordinal: u32,
        /// When in it.
        moment: Moment,
    },
}

impl Place {
    /// The ends that it names.
    pub fn ends(&self) -> Vec<End> {
        match self {
            Place::Link { from, to } => vec![*from, *to],
            Place::Disk(node)
            | Place::Node(node)
            | Place::Call { node, .. }
            | Place::Clock { node, .. } => vec![End::Node(*node)],
            Place::Store(store) | Place::StoreAt { store, .. } | Place::Copy { store, .. } => {
                vec![End::Store(*store)]
            }
            Place::Everywhere => Vec::new(),
        }
    }
}

/// One fault of a plan. Virtual time, in milliseconds from the start of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Names it within its plan; its random choices are drawn from a stream of this number.
    pub id: u32,
    /// What.
    pub kind: Kind,
    /// Where.
    pub place: Place,
    /// From here on.
    pub from_ms: u64,
    /// Up to here. For a crash: it happens before this or not at all.
    pub until_ms: u64,
    /// How often, of a thousand calls or messages; 1000: always. Of a clock's drift: by how many
    /// thousandths it runs wrong.
    pub permille: u16,
    /// How long: the added delay at most, how long a crashed process stays down, how far behind a
    /// listing or replica is at most, how far a clock is off, or how long it takes to tell everybody
    /// of a member that is gone.
    pub span_ms: u64,
}

impl Fault {
    /// True while the fault holds.
    pub fn holds_at(&self, now_ms: u64) -> bool {
        self.from_ms <= now_ms && now_ms < self.until_ms
    }
}
