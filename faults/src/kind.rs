//! The catalogue: every kind of fault, one line each.

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! catalogue {
    ($($(#[doc = $words:literal])+ $kind:ident = $name:literal,)+) => {
        /// A kind of fault. Names are `place.what`, as reports and `--only` give them.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum Kind {
            $($(#[doc = $words])+ #[serde(rename = $name)] $kind,)+
        }

        impl Kind {
            /// All of them, in catalogue order. A slice: LLVM takes ten minutes to optimise an
            /// iterator over an array of so many.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),+];

            /// The name in reports and on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)+
                }
            }
        }
    };
}

catalogue! {
    /// Nothing passes between two ends, either way.
    NetPartition = "net.partition",
    /// Nothing passes from one end to another; the way back is open.
    NetPartitionOneWay = "net.partition-one-way",
    /// A partition that comes and goes: there for the fault's span, away for as long, and so on.
    NetFlapping = "net.flapping-partition",
    /// The coordinators are cut off one by one, and healed one by one in another order.
    NetSwizzled = "net.swizzled-partition",
    /// Messages are lost at random.
    NetLoss = "net.loss",
    /// Messages take longer, by random amounts, and so overtake each other.
    NetDelay = "net.delay",
    /// Messages between coordinators arrive twice. Store calls never do (rule A5).
    NetDuplicate = "net.duplicate",
    /// A store call arrives after its caller has given up, up to seconds later; or it is accepted
    /// in time and lands later, within the bound that the store side promises.
    NetLateArrival = "net.late-arrival",
    /// The process ends at its k-th call to the world, and is started again.
    ProcessCrash = "process.crash",
    /// As `process.crash`; and the next life ends too, at one of its first calls, while it replays
    /// and recovers.
    ProcessCrashInRecovery = "process.crash-in-recovery",
    /// As `process.crash`; and several lives after it end at one of their first calls.
    ProcessCrashLoop = "process.crash-loop",
    /// The process stands still for longer than any time-out and lease, then goes on as if nothing
    /// had been; what it had sent goes its way meanwhile.
    ProcessPause = "process.pause",
    /// 5xx, not applied.
    KvErrorBefore = "kv.error-before",
    /// 5xx, applied.
    KvErrorAfter = "kv.error-after",
    /// Reads come from an edge cache up to 60 s old, cached "not found" included.
    KvStaleRead = "kv.stale-read",
    /// A key that is listed reads as "not found".
    KvMissingValue = "kv.missing-value",
    /// A listing shows what stood there up to 60 s ago.
    KvListLag = "kv.list-lag",
    /// A page of a listing ends early, empty even, though more follows.
    KvListTruncated = "kv.list-truncated",
    /// 429 for a second write to a key within a second.
    KvRateLimit = "kv.rate-limit",
    /// 5xx, not applied.
    D1ErrorBefore = "d1.error-before",
    /// The batch is applied and the reply is lost.
    D1ErrorAfter = "d1.error-after",
    /// "D1 DB is overloaded": sometimes applied, sometimes not.
    D1Overloaded = "d1.overloaded",
    /// Nothing is answered for longer than any time-out; what was asked happens at the end.
    D1Stall = "d1.stall",
    /// The change feed is read from a replica that lags behind the primary.
    D1ReplicaLag = "d1.replica-lag",
    /// 5xx, not applied.
    R2ErrorBefore = "r2.error-before",
    /// 5xx, applied.
    R2ErrorAfter = "r2.error-after",
    /// 412 although nothing stands under the key yet.
    R2Precondition = "r2.precondition",
    /// 429 for a second write to a key within a second.
    R2RateLimit = "r2.rate-limit",
    /// The body of a read ends before the length that was announced.
    R2TruncatedBody = "r2.truncated-body",
    /// Some bytes of a read's body are not those that are stored.
    R2DamagedBody = "r2.damaged-body",
    /// A commit of the journal fails; what it carried is on the disk, or not.
    DiskFsyncError = "disk.fsync-error",
    /// The process ends during its k-th commit, and the disk has the commit's beginning alone.
    DiskTornTail = "disk.torn-tail",
    /// Commits take longer.
    DiskSlow = "disk.slow",
    /// The journal's disk has no room: a commit is refused, and nothing of it is written.
    DiskFull = "disk.full",
    /// The process ends and its disk is lost: the next life begins with an empty journal.
    DiskLost = "disk.lost",
    /// The process ends and its disk is put back to what it was earlier.
    DiskRestored = "disk.restored-snapshot",
    /// An intent rots on the disk; the next start reports the journal as damaged, and an operator
    /// moves it away.
    DiskBitRot = "disk.bit-rot",
    /// A copy in KV is gone, and nobody is told.
    KvLostEntry = "kv.lost-entry",
    /// Somebody writes to KV past every coordinator.
    KvForeignWrite = "kv.foreign-write",
    /// A copy in R2 is gone, and nobody is told.
    R2LostObject = "r2.lost-object",
    /// Somebody writes to R2 past every coordinator.
    R2ForeignWrite = "r2.foreign-write",
    /// The bytes of a copy in KV are changed where they stand; its metadata stays.
    KvChangedValue = "kv.changed-value",
    /// The bytes of a copy in R2 are changed where they stand; its metadata stays.
    R2ChangedObject = "r2.changed-object",
    /// Somebody writes a row past every coordinator.
    D1ForeignWrite = "d1.foreign-write",
    /// Somebody deletes a row past every coordinator; a trigger saw it.
    D1ForeignDelete = "d1.foreign-delete",
    /// A coordinator's wall clock jumps by seconds or minutes, and back.
    ClockJump = "clock.jump",
    /// A coordinator's wall clock runs fast or slow, and is set right in the end.
    ClockDrift = "clock.drift",
    /// A coordinator's wall clock is off by hours.
    ClockSkew = "clock.skew",
    /// Many clients write many records at once.
    LoadBurst = "load.burst",
    /// Many clients write one record at once, at every coordinator.
    LoadHotKey = "load.hot-key",
    /// Several clients write values that the authority cannot take whole.
    LoadOversize = "load.oversize",
    /// Clients that have no answer yet ask again, and again, at every coordinator in turn.
    LoadRetryStorm = "load.retry-storm",
    /// Every coordinator is told of other strategies and forms of copies, one after the other, and
    /// at the end of the former ones again.
    ProcessConfigReload = "process.config-reload",
    /// The connection of a store call is lost early: its caller learns at once that nobody knows,
    /// while the request goes on, arrives up to seconds later, and lands within the bound that the
    /// store side promises.
    NetConnectionLost = "net.connection-lost",
    /// Sessions write values that one store refuses for good.
    LoadPoisonRecord = "load.poison-record",
    /// A batch that installs something is refused by a constraint that does not hold for long.
    D1Constraint = "d1.constraint",
    /// A coordinator that was not there joins, with an empty disk; the others are told of it one after
    /// the other.
    ProcessMemberAdded = "process.member-added",
    /// A coordinator is retired: asked to leave until it has left, then stopped for good, and its disk
    /// is thrown away; the others are told one after the other. It stays if it cannot leave in time.
    ProcessMemberRemoved = "process.member-removed",
    /// An operator forces a coordinator's breaker for a store, and has it automatic again: open where
    /// the link is from the coordinator to the store, closed where it is the other way round.
    ProcessBreakerForced = "process.breaker-forced",
}

impl Kind {
    /// True for what a plan has often; the others are rarer, so that a run is not all faults. What
    /// is done behind KV's back is mended a minute later at best, which is long to simulate.
    pub const fn is_common(self) -> bool {
        matches!(
            self,
            Kind::NetPartition
                | Kind::NetPartitionOneWay
                | Kind::NetLoss
                | Kind::NetDelay
                | Kind::NetDuplicate
                | Kind::NetLateArrival
                | Kind::ProcessCrash
                | Kind::KvErrorBefore
                | Kind::KvErrorAfter
                | Kind::KvStaleRead
                | Kind::KvRateLimit
                | Kind::D1ErrorBefore
                | Kind::D1ErrorAfter
                | Kind::D1Overloaded
                | Kind::R2ErrorBefore
                | Kind::R2ErrorAfter
                | Kind::R2Precondition
                | Kind::R2RateLimit
                | Kind::DiskFsyncError
                | Kind::R2LostObject
                | Kind::R2ForeignWrite
                | Kind::R2ChangedObject
        )
    }

    /// True for what happens in a moment, behind every coordinator's back.
    pub const fn is_damage(self) -> bool {
        matches!(
            self,
            Kind::KvLostEntry
                | Kind::KvForeignWrite
                | Kind::KvChangedValue
                | Kind::R2LostObject
                | Kind::R2ForeignWrite
                | Kind::R2ChangedObject
                | Kind::D1ForeignWrite
                | Kind::D1ForeignDelete
        )
    }

    /// True for what ends a process at one of its calls.
    pub const fn is_crash(self) -> bool {
        matches!(
            self,
            Kind::ProcessCrash
                | Kind::ProcessCrashInRecovery
                | Kind::ProcessCrashLoop
                | Kind::DiskTornTail
        )
    }

    /// True for what ends a process at a time, and changes its disk before it starts again.
    pub const fn changes_disk(self) -> bool {
        matches!(self, Kind::DiskLost | Kind::DiskRestored | Kind::DiskBitRot)
    }

    /// True for what changes who is a member.
    pub const fn is_membership(self) -> bool {
        matches!(self, Kind::ProcessMemberAdded | Kind::ProcessMemberRemoved)
    }

    /// True for what sets a coordinator's wall clock wrong.
    pub const fn is_clock(self) -> bool {
        matches!(self, Kind::ClockJump | Kind::ClockDrift | Kind::ClockSkew)
    }

    /// True for more work than usual.
    pub const fn is_load(self) -> bool {
        matches!(
            self,
            Kind::LoadBurst | Kind::LoadHotKey | Kind::LoadOversize | Kind::LoadRetryStorm
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
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("there is no fault {text:?}; the faults are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Kind>(), Ok(*kind));
        }
        assert!("kv.sleepy".parse::<Kind>().unwrap_err().contains("kv.stale-read"));
    }
}
