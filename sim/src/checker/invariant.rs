//! What must hold, and in which words.

use serde::Serialize;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// See [`Invariant::words`], as for all of them.
    ZeroLoss,
    /// -
    NoPhantom,
    /// -
    Convergence,
    /// -
    UniqueDots,
    /// -
    MonotonicRepair,
    /// -
    Session,
    /// -
    Causality,
    /// -
    NoResurrection,
    /// -
    NoCorruption,
    /// -
    ExactlyOnce,
    /// -
    StaysErased,
    /// -
    IdempotentReplay,
    /// -
    BoundedQueue,
    /// -
    BreakerLive,
    /// -
    AuditComplete,
    /// -
    #[serde(rename = "recovery-5s")]
    Recovery,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Invariant; 16] = [
        Invariant::ZeroLoss,
        Invariant::NoPhantom,
        Invariant::Convergence,
        Invariant::UniqueDots,
        Invariant::MonotonicRepair,
        Invariant::Session,
        Invariant::Causality,
        Invariant::NoResurrection,
        Invariant::NoCorruption,
        Invariant::ExactlyOnce,
        Invariant::StaysErased,
        Invariant::IdempotentReplay,
        Invariant::BoundedQueue,
        Invariant::BreakerLive,
        Invariant::AuditComplete,
        Invariant::Recovery,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Invariant::ZeroLoss => "zero-loss",
            Invariant::NoPhantom => "no-phantom",
            Invariant::Convergence => "convergence",
            Invariant::UniqueDots => "unique-dots",
            Invariant::MonotonicRepair => "monotonic-repair",
            Invariant::Session => "session",
            Invariant::Causality => "causality",
            Invariant::NoResurrection => "no-resurrection",
            Invariant::NoCorruption => "no-corruption",
            Invariant::ExactlyOnce => "exactly-once",
            Invariant::StaysErased => "stays-erased",
            Invariant::IdempotentReplay => "idempotent-replay",
            Invariant::BoundedQueue => "bounded-queue",
            Invariant::BreakerLive => "breaker-live",
            Invariant::AuditComplete => "audit-complete",
            Invariant::Recovery => "recovery-5s",
        }
    }

    /// What it says.
    pub const fn words(self) -> &'static str {
        match self {
            Invariant::ZeroLoss => {
                "Each acknowledged write is current, or causally superseded by a present version, \
                 or kept as a loser with its bytes beside the winner."
            }
            Invariant::NoPhantom => {
                "A refused write never appears; an unknown one appears at most once, and stays \
                 decided."
            }
            Invariant::Convergence => {
                "A projection without a mark equals the authority, and at quiescence none has a \
                 mark and all sites are equal."
            }
            Invariant::UniqueDots => "No dot is issued twice.",
            Invariant::MonotonicRepair => "No store's version of a record ever goes back.",
            Invariant::Session => {
                "A session reads its own writes, and nothing older than what it has read before."
            }
            Invariant::Causality => {
                "Concurrent versions are never put in an order without keeping the one that lost, \
                 and no version is shown without all that its writer had seen."
            }
            Invariant::NoResurrection => "What a delete had seen is never current again.",
            Invariant::NoCorruption => {
                "Every byte that is served or stands in a store traces to a write."
            }
            Invariant::ExactlyOnce => {
                "A counter is the sum of the increments that its version includes, each counted \
                 once, whatever it was merged from."
            }
            Invariant::StaysErased => {
                "What a site was answered to have erased is not kept there any more, whoever brings it \
                 again, and nothing is erased that nobody asked for."
            }
            Invariant::IdempotentReplay => {
                "Replaying what a journal once held changes nothing at the authority."
            }
            Invariant::BoundedQueue => {
                "Queues stay within their bounds, refusal comes before acknowledgement, and each \
                 entry ends applied, superseded or dead-lettered."
            }
            Invariant::BreakerLive => {
                "While a breaker is not closed no work passes it, probes follow each other within \
                 half a second, few at a time, and it closes once its store answers."
            }
            Invariant::AuditComplete => {
                "Each audit log verifies, and holds every conflict that its site's authority has \
                 settled: once, in their order, as it was settled."
            }
            Invariant::Recovery => {
                "Within five seconds of the last fault's end everything is equal, confirmed and \
                 writable again, and stays so."
            }
        }
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub message: String,
    /// When, virtual.
    pub at_ms: u64,
}
