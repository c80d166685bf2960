//! Deliberately wrong parts of the world. Each breaks one promise that the engine builds on, so
//! that a test can show the checker noticing. No scenario has one.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Double {
    /// The journal says that a commit is durable before it is, and a crash loses it.
    JournalAnswersEarly,
    /// The journal forgets every third intent.
    JournalForgets,
    /// Every life of a coordinator draws the same incarnation.
    SameIncarnation,
    /// D1 keeps no losers.
    D1DropsLosers,
    /// D1 keeps nothing of what a merge starts from (rule V8).
    D1KeepsNoWrites,
    /// D1 keeps what is shown of several values, and none of the others (rule V4).
    D1DropsSiblings,
    /// D1 says that bytes are erased, and keeps them.
    D1KeepsErased,
    /// D1 installs without testing what it replaces (rule A2).
    D1InstallsBlindly,
    /// D1 tests the history but not the row sequence (rule A2).
    D1IgnoresRowSeq,
    /// D1 forgets the leases that it gave out when a version is installed (rule A4).
    D1ForgetsOlderLeases,
    /// D1 tells nobody of other leases, and clears marks whoever else holds one (rule A5b).
    D1ClearsAlways,
    /// D1 installs without marking projections (rule A5c).
    D1MarksNothing,
    /// KV and R2 accept puts after their deadline (rule A5).
    DeadlinesIgnored,
    /// KV says that a put was applied and drops it.
    KvDropsPuts,
    /// R2 says that a blob was stored and drops it (rule A0).
    R2DropsBlobs,
    /// D1 installs a version over an existing row and answers that the row had moved.
    D1RefusesAndApplies,
    /// Every session read begins anew: what its session has seen is forgotten.
    TokensForgotten,
    /// A site tells others that nothing has happened there.
    FeedHidden,
    /// A site's feed leaves out every third change.
    FeedSkips,
    /// A read's context includes a write that was never made.
    ReadsClaimMore,
    /// A read's bytes are damaged on their way to the client.
    ReadsDamaged,
    /// KV keeps other bytes than were put, beside the metadata of what was.
    KvDamagesBytes,
    /// D1 forgets a part of the history that it installs.
    D1ForgetsHistory,
    /// The journal replays each intent under a name of its own.
    ReplayRenames,
    /// D1 shows coordinators the time at which the run began, always.
    D1ClockStands,
    /// No coordinator is told that the former policy holds again.
    LastReloadForgotten,
    /// Coordinators say nothing of their dead letters.
    DeadLettersHidden,
    /// An audit log says that an append is durable and drops it.
    LogDropsAppends,
    /// Coordinators take in as much as they like.
    QueuesUnbounded,
    /// Members are taken away without having been asked to leave.
    MembersNeverAsked,
    /// The operator takes a breaker for forced, and its coordinator was never told.
    OperatorUnheard,
    /// KV never answers a probe.
    ProbesUnanswered,
    /// After the faults the stores take ten more seconds to answer anything.
    SlowToHeal,
}
