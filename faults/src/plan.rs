//! The seeded plan: a random subset of the catalogue, each with a random place and strength.
//!
//! Swarm testing: leaving kinds out finds more than always having all of them, since one fault
//! often hides another. Source: Groce, Zhang, Eide, Chen, Regehr: "Swarm Testing", 2012.

use crate::{Call, End, Fault, Kind, Moment, Place};
use rand::{Rng, RngExt};
use std::ops::RangeInclusive;
use tidelock_engine::record::StoreId;

/// What a plan is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanShape {
    /// Coordinators.
    pub nodes: u16,
    /// Sets of stores; coordinators are spread over them in turns.
    pub sites: u16,
    /// Client sessions.
    pub sessions: u16,
    /// No fault before this.
    pub from_ms: u64,
    /// None after this, restarts included.
    pub until_ms: u64,
    /// Of the common kinds, how many of a thousand a plan has on average.
    pub kinds_permille: u16,
    /// Of the rarer kinds; of those that take a disk away, half of that.
    pub rare_permille: u16,
    /// Windows for each kind, at most.
    pub windows_max: u32,
}

impl PlanShape {
    /// True when such a fault can be felt in this world.
    pub fn can_have(&self, kind: Kind) -> bool {
        match kind {
            Kind::NetDuplicate => self.nodes > 1,
            // The first coordinator of each site stays.
            _ if kind.is_membership() => self.nodes > self.sites,
            _ => true,
        }
    }

    fn permille(&self, kind: Kind) -> u16 {
        match kind {
            _ if kind.is_common() => self.kinds_permille,
            _ if kind.changes_disk() => self.rare_permille / 2,
            _ => self.rare_permille,
        }
    }
}

/// Draws a plan from a stream of its own. The common kinds come first: a new kind among the rarer
/// ones shifts none of them.
pub fn plan(shape: &PlanShape, rng: &mut impl Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    for common in [true, false] {
        for kind in Kind::ALL.iter().copied().filter(|kind| kind.is_common() == common) {
            if kind.is_membership() && !shape.can_have(kind) {
                continue;
            }
            if rng.random_range(0..1000) >= shape.permille(kind) {
                continue;
            }
            for _ in 0..rng.random_range(1..=shape.windows_max) {
                let id = u32::try_from(faults.len()).expect("a plan has few faults");
                faults.push(draw(shape, kind, id, rng));
            }
        }
    }
    faults
}

/// How long a window of a kind lasts.
fn length_ms(kind: Kind) -> RangeInclusive<u64> {
    match kind {
        _ if kind.is_damage() => 1..=1,
        Kind::NetPartition | Kind::NetPartitionOneWay => 500..=12_000,
        // Longer than every time-out, and than a lease.
        Kind::ProcessPause | Kind::D1Stall => 3_500..=12_000,
        Kind::KvStaleRead | Kind::KvListLag => 500..=30_000,
        Kind::ClockJump | Kind::ClockDrift | Kind::ClockSkew => 2_000..=30_000,
        _ if kind.is_crash() || kind.changes_disk() => 500..=20_000,
        Kind::D1ReplicaLag | Kind::NetSwizzled => 2_000..=20_000,
        // Time enough to leave, mostly.
        Kind::ProcessMemberRemoved => 2_000..=15_000,
        _ => 500..=10_000,
    }
}

fn draw(shape: &PlanShape, kind: Kind, id: u32, rng: &mut impl Rng) -> Fault {
    let span_ms = match kind {
        Kind::NetDelay => rng.random_range(20..1_500),
        Kind::NetFlapping => rng.random_range(100..1_500),
        Kind::NetLateArrival | Kind::NetConnectionLost => rng.random_range(500..6_000),
        Kind::ProcessCrashInRecovery | Kind::ProcessCrashLoop => rng.random_range(10..1_500),
        _ if kind.is_crash() || kind.changes_disk() => rng.random_range(10..4_000),
        Kind::KvListLag => rng.random_range(5_000..=60_000),
        Kind::D1ReplicaLag => rng.random_range(500..10_000),
        Kind::DiskSlow => rng.random_range(50..1_500),
        Kind::ProcessMemberRemoved => rng.random_range(100..2_000),
        Kind::ClockJump => rng.random_range(1_000..120_000),
        Kind::ClockSkew => rng.random_range(3_600_000..30_000_000),
        _ => 0,
    };
    // A crashed process is told to restart, and a late call lands, inside the plan's window too.
    let outlasts = kind.is_crash()
        || kind.changes_disk()
        || matches!(
            kind,
            Kind::NetDelay
                | Kind::NetLateArrival
                | Kind::NetConnectionLost
                | Kind::ProcessMemberRemoved
        );
    let room_ms = shape.until_ms - shape.from_ms - if outlasts { span_ms } else { 0 };
    let (shortest_ms, longest_ms) = length_ms(kind).into_inner();
    let length_ms =
        if kind.is_damage() { 1 } else { rng.random_range(shortest_ms..=longest_ms.min(room_ms)) };
    let from_ms = shape.from_ms + rng.random_range(0..=room_ms - length_ms);
    let until_ms = from_ms + length_ms;
    let mut permille = match rng.random_range(0..3) {
        0 => rng.random_range(20..200),
        1 => rng.random_range(200..700),
        _ => 1000,
    };
    let place = match kind {
        Kind::NetPartition | Kind::NetPartitionOneWay | Kind::NetFlapping => {
            permille = 1000;
            link(shape, rng)
        }
        Kind::NetSwizzled => {
            permille = 1000;
            Place::Everywhere
        }
        Kind::NetLoss => {
            // Losing everything is a partition; this is the kind where retries sometimes pass.
            permille = permille.min(500);
            if rng.random_bool(0.5) { Place::Everywhere } else { link(shape, rng) }
        }
        Kind::NetDelay => {
            if rng.random_bool(0.5) {
                Place::Everywhere
            } else {
                link(shape, rng)
            }
        }
        Kind::NetDuplicate | Kind::ProcessConfigReload => Place::Everywhere,
        Kind::NetLateArrival | Kind::NetConnectionLost => {
            permille = permille.min(600);
            Place::Everywhere
        }
        Kind::ProcessCrash | Kind::ProcessCrashInRecovery | Kind::ProcessCrashLoop => {
            let call = match rng.random_range(0..8) {
                0 | 1 => Call::JournalCommit,
                2 | 3 => Call::D1Batch,
                4 => Call::D1Poll,
                5 => Call::KvWrite,
                6 => Call::R2Write,
                _ => Call::Peer,
            };
            let moment = if rng.random_bool(0.5) { Moment::Before } else { Moment::After };
            let node = rng.random_range(0..shape.nodes);
            Place::Call { node, call, ordinal: rng.random_range(1..=12), moment }
        }
        Kind::DiskTornTail => Place::Call {
            node: rng.random_range(0..shape.nodes),
            call: Call::JournalCommit,
            ordinal: rng.random_range(1..=12),
            moment: Moment::Before,
        },
        Kind::ProcessBreakerForced => {
            permille = 1000;
            let node = End::Node(rng.random_range(0..shape.nodes));
            let store = End::Store(StoreId::ALL[rng.random_range(0..StoreId::ALL.len())]);
            let open = rng.random_bool(0.7);
            let (from, to) = if open { (node, store) } else { (store, node) };
            Place::Link { from, to }
        }
        Kind::ProcessPause => Place::Node(rng.random_range(0..shape.nodes)),
        Kind::ProcessMemberAdded | Kind::ProcessMemberRemoved => {
            Place::Node(rng.random_range(shape.sites..shape.nodes))
        }
        Kind::KvErrorBefore
        | Kind::KvErrorAfter
        | Kind::KvStaleRead
        | Kind::KvMissingValue
        | Kind::KvListLag
        | Kind::KvListTruncated
        | Kind::KvRateLimit
        | Kind::KvLostEntry
        | Kind::KvForeignWrite
        | Kind::KvChangedValue => store(shape, StoreId::Kv, rng),
        Kind::D1ErrorBefore
        | Kind::D1ErrorAfter
        | Kind::D1Overloaded
        | Kind::D1Constraint
        | Kind::D1Stall
        | Kind::D1ReplicaLag
        | Kind::D1ForeignWrite
        | Kind::D1ForeignDelete => store(shape, StoreId::D1, rng),
        Kind::LoadPoisonRecord => {
            // Which store of every site refuses them. They stay refused: a few are enough.
            permille = permille.min(200);
            Place::Store(StoreId::ALL[rng.random_range(0..StoreId::ALL.len())])
        }
        Kind::R2ErrorBefore
        | Kind::R2ErrorAfter
        | Kind::R2Precondition
        | Kind::R2RateLimit
        | Kind::R2TruncatedBody
        | Kind::R2DamagedBody
        | Kind::R2LostObject
        | Kind::R2ForeignWrite
        | Kind::R2ChangedObject => store(shape, StoreId::R2, rng),
        Kind::DiskFsyncError => {
            // Each failure ends a coordinator's life: one that never commits is just away.
            permille = permille.min(500);
            Place::Disk(rng.random_range(0..shape.nodes))
        }
        Kind::DiskSlow
        | Kind::DiskFull
        | Kind::DiskLost
        | Kind::DiskRestored
        | Kind::DiskBitRot => Place::Disk(rng.random_range(0..shape.nodes)),
        Kind::ClockJump | Kind::ClockDrift | Kind::ClockSkew => {
            // Of a drift, this is the rate.
            permille = permille.min(200);
            Place::Clock { node: rng.random_range(0..shape.nodes), back: rng.random_bool(0.5) }
        }
        Kind::LoadBurst | Kind::LoadHotKey | Kind::LoadOversize | Kind::LoadRetryStorm => {
            Place::Everywhere
        }
    };
    Fault { id, kind, place, from_ms, until_ms, permille, span_ms }
}

/// A store; where there are several sites, one site's, mostly.
fn store(shape: &PlanShape, store: StoreId, rng: &mut impl Rng) -> Place {
    if shape.sites > 1 && rng.random_bool(0.7) {
        Place::StoreAt { site: rng.random_range(0..shape.sites), store }
    } else {
        Place::Store(store)
    }
}

fn link(shape: &PlanShape, rng: &mut impl Rng) -> Place {
    let node = End::Node(rng.random_range(0..shape.nodes));
    let other = match rng.random_range(0..6) {
        0..=3 => End::Store(StoreId::ALL[rng.random_range(0..StoreId::ALL.len())]),
        4 if shape.nodes > 1 => {
            let End::Node(number) = node else { unreachable!("drawn above") };
            End::Node((number + rng.random_range(1..shape.nodes)) % shape.nodes)
        }
        _ => End::Session(rng.random_range(0..shape.sessions)),
    };
    if rng.random_bool(0.5) {
        Place::Link { from: node, to: other }
    } else {
        Place::Link { from: other, to: node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    fn shape() -> PlanShape {
        PlanShape {
            nodes: 3,
            sites: 1,
            sessions: 3,
            from_ms: 1_000,
            until_ms: 48_000,
            kinds_permille: 400,
            rare_permille: 200,
            windows_max: 2,
        }
    }

    #[test]
    fn plans_stay_inside_their_window_and_reach_every_kind() {
        let mut met = BTreeSet::new();
        for seed in 0..500 {
            let faults = plan(&shape(), &mut ChaCha8Rng::seed_from_u64(seed));
            for fault in faults {
                assert!(fault.from_ms >= 1_000 && fault.from_ms < fault.until_ms, "{fault:?}");
                assert!(fault.until_ms <= 48_000, "{fault:?}");
                if fault.kind.is_crash()
                    || fault.kind.changes_disk()
                    || matches!(fault.kind, Kind::NetLateArrival | Kind::NetConnectionLost)
                {
                    assert!(fault.until_ms + fault.span_ms <= 48_000, "{fault:?}");
                }
                met.insert(fault.kind);
            }
        }
        assert_eq!(met.len(), Kind::ALL.len());
    }

    #[test]
    fn the_same_stream_gives_the_same_plan() {
        let draw = |seed| plan(&shape(), &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
