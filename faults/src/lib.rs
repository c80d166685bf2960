//! What can go wrong, as plain data: the catalogue, and the seeded plan of one run.
//!
//! Invariant: a plan is survivable. Every fault ends inside the plan's window, every crashed
//! coordinator is told to restart, and the stores keep what they have acknowledged; so an engine
//! that loses a write under a plan has lost it by itself.

mod plan;

pub use plan::{PlanShape, plan};

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use std::fmt;
use tidelock_engine::record::StoreId;

/// A kind of fault. Names are `place.what`, as reports and `--only` give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Nothing passes between two ends, either way.
    #[serde(rename = "net.partition")]
    NetPartition,
    /// Nothing passes from one end to another; the way back is open.
    #[serde(rename = "net.partition-one-way")]
    NetPartitionOneWay,
    /// Messages are lost at random.
    #[serde(rename = "net.loss")]
    NetLoss,
    /// Messages take longer, by random amounts, and so overtake each other.
    #[serde(rename = "net.delay")]
    NetDelay,
    /// Messages between coordinators arrive twice. Store calls never do (rule A5).
    #[serde(rename = "net.duplicate")]
    NetDuplicate,
    /// A store call arrives after its caller has given up, up to seconds later; or it is accepted
    /// in time and lands later, within the bound that the store side promises.
    #[serde(rename = "net.late-arrival")]
    NetLateArrival,
    /// The process ends at its k-th call to the world, and is started again.
    #[serde(rename = "process.crash")]
    ProcessCrash,
    /// Every coordinator is told of other strategies and forms of copies, one after the other, and
    /// at the end of the former ones again.
    #[serde(rename = "process.config-reload")]
    ProcessConfigReload,
    /// 5xx, not applied.
    #[serde(rename = "kv.error-before")]
    KvErrorBefore,
    /// 5xx, applied.
    #[serde(rename = "kv.error-after")]
    KvErrorAfter,
    /// Reads come from an edge cache up to 60 s old, cached "not found" included.
    #[serde(rename = "kv.stale-read")]
    KvStaleRead,
    /// 429 for a second write to a key within a second.
    #[serde(rename = "kv.rate-limit")]
    KvRateLimit,
    /// 5xx, not applied.
    #[serde(rename = "d1.error-before")]
    D1ErrorBefore,
    /// The batch is applied and the reply is lost.
    #[serde(rename = "d1.error-after")]
    D1ErrorAfter,
    /// "D1 DB is overloaded": sometimes applied, sometimes not.
    #[serde(rename = "d1.overloaded")]
    D1Overloaded,
    /// 5xx, not applied.
    #[serde(rename = "r2.error-before")]
    R2ErrorBefore,
    /// 5xx, applied.
    #[serde(rename = "r2.error-after")]
    R2ErrorAfter,
    /// 412 although nothing stands under the key yet.
    #[serde(rename = "r2.precondition")]
    R2Precondition,
    /// 429 for a second write to a key within a second.
    #[serde(rename = "r2.rate-limit")]
    R2RateLimit,
    /// A commit of the journal fails; what it carried is on the disk, or not.
    #[serde(rename = "disk.fsync-error")]
    DiskFsyncError,
    /// A copy in KV is gone, and nobody is told.
    #[serde(rename = "kv.lost-entry")]
    KvLostEntry,
    /// Somebody writes to KV past every coordinator.
    #[serde(rename = "kv.foreign-write")]
    KvForeignWrite,
    /// A copy in R2 is gone, and nobody is told.
    #[serde(rename = "r2.lost-object")]
    R2LostObject,
    /// Somebody writes to R2 past every coordinator.
    #[serde(rename = "r2.foreign-write")]
    R2ForeignWrite,
    /// The bytes of a copy in KV are changed where they stand; its metadata stays.
    #[serde(rename = "kv.changed-value")]
    KvChangedValue,
    /// The bytes of a copy in R2 are changed where they stand; its metadata stays.
    #[serde(rename = "r2.changed-object")]
    R2ChangedObject,
}

impl Kind {
    /// All of them, in catalogue order.
    pub const ALL: [Kind; 26] = [
        Kind::NetPartition,
        Kind::NetPartitionOneWay,
        Kind::NetLoss,
        Kind::NetDelay,
        Kind::NetDuplicate,
        Kind::NetLateArrival,
        Kind::ProcessCrash,
        Kind::ProcessConfigReload,
        Kind::KvErrorBefore,
        Kind::KvErrorAfter,
        Kind::KvStaleRead,
        Kind::KvRateLimit,
        Kind::D1ErrorBefore,
        Kind::D1ErrorAfter,
        Kind::D1Overloaded,
        Kind::R2ErrorBefore,
        Kind::R2ErrorAfter,
        Kind::R2Precondition,
        Kind::R2RateLimit,
        Kind::DiskFsyncError,
        Kind::KvLostEntry,
        Kind::KvForeignWrite,
        Kind::R2LostObject,
        Kind::R2ForeignWrite,
        Kind::KvChangedValue,
        Kind::R2ChangedObject,
    ];

    /// The name in reports and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::NetPartition => "net.partition",
            Kind::NetPartitionOneWay => "net.partition-one-way",
            Kind::NetLoss => "net.loss",
            Kind::NetDelay => "net.delay",
            Kind::NetDuplicate => "net.duplicate",
            Kind::NetLateArrival => "net.late-arrival",
            Kind::ProcessCrash => "process.crash",
            Kind::ProcessConfigReload => "process.config-reload",
            Kind::KvErrorBefore => "kv.error-before",
            Kind::KvErrorAfter => "kv.error-after",
            Kind::KvStaleRead => "kv.stale-read",
            Kind::KvRateLimit => "kv.rate-limit",
            Kind::D1ErrorBefore => "d1.error-before",
            Kind::D1ErrorAfter => "d1.error-after",
            Kind::D1Overloaded => "d1.overloaded",
            Kind::R2ErrorBefore => "r2.error-before",
            Kind::R2ErrorAfter => "r2.error-after",
            Kind::R2Precondition => "r2.precondition",
            Kind::R2RateLimit => "r2.rate-limit",
            Kind::DiskFsyncError => "disk.fsync-error",
            Kind::KvLostEntry => "kv.lost-entry",
            Kind::KvForeignWrite => "kv.foreign-write",
            Kind::R2LostObject => "r2.lost-object",
            Kind::R2ForeignWrite => "r2.foreign-write",
            Kind::KvChangedValue => "kv.changed-value",
            Kind::R2ChangedObject => "r2.changed-object",
        }
    }
}

impl Kind {
    /// True for what happens in a moment behind every coordinator's back, so that only a look over
    /// the store finds it.
    pub const fn is_damage(self) -> bool {
        matches!(
            self,
            Kind::KvLostEntry
                | Kind::KvForeignWrite
                | Kind::KvChangedValue
                | Kind::R2LostObject
                | Kind::R2ForeignWrite
                | Kind::R2ChangedObject
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Kind::deserialize(text.into_deserializer());
        known.map_err(|_: serde::de::value::Error| {
            // No iterator over the array: LLVM 22 takes ten minutes to optimise one of 23.
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("there is no fault {text:?}; the faults are {names}")
        })
    }
}

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
}

/// When in a call a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Nothing of the call leaves the process. A commit of the journal is on its way to the disk
    /// then, and gets there or not.
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
    /// At the `ordinal`-th such call of a coordinator after the fault's beginning (from 1): a
    /// crash, or a late arrival by exactly the fault's span (`before`: it arrives late; `after`: it
    /// is accepted in time and lands late).
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
    /// How often, of a thousand calls or messages; 1000: always.
    pub permille: u16,
    /// How long: the added delay at most, or how long a crashed process stays down.
    pub span_ms: u64,
}

impl Fault {
    /// True while the fault holds.
    pub fn holds_at(&self, now_ms: u64) -> bool {
        self.from_ms <= now_ms && now_ms < self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>(), Ok(kind));
        }
        assert!("kv.sleepy".parse::<Kind>().unwrap_err().contains("kv.stale-read"));
    }
}
