//! A campaign: what many seeds of one profile showed, as the simulator's `--json` gives it.
//!
//! Invariant: the serialised shape is a public format. Shards are merged from it and other tools
//! read it, so a field may be added with a default, but never renamed or dropped.
//!
//! Left to others: `page` turns it into HTML, `histogram` draws the recovery times.

mod histogram;
mod page;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use page::campaign_page;

/// The result of running a range of seeds under one profile.
///
/// Floating-point fields are expected to be finite: JSON has no other numbers.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Campaign {
    /// The profile, such as `standard`.
    pub profile: String,
    /// The first seed of the range.
    #[serde(default)]
    pub first_seed: u64,
    /// How many seeds ran, counted from `first_seed`.
    pub seeds: u64,
    /// The commit of the code that ran.
    #[serde(default)]
    pub commit: String,
    /// The command that repeats the campaign.
    #[serde(default)]
    pub command: String,
    /// Every violation found, in order of seed.
    pub violations: Vec<Violation>,
    /// Seeds per second of wall time, over all jobs.
    pub seeds_per_second: f64,
    /// Seeds per second of processor time.
    pub seeds_per_cpu_second: f64,
    /// Simulated time over all seeds, in seconds.
    pub virtual_seconds: f64,
    /// Simulated time over processor time: how many times faster than the real world.
    pub speedup: f64,
    /// Writes that client sessions tried: acknowledged, refused and unknown together.
    pub attempted_writes: u64,
    /// Writes whose client was told that they are safe.
    pub acked_writes: u64,
    /// Writes that certainly did not happen.
    pub refused_writes: u64,
    /// Writes that may have happened.
    pub unknown_writes: u64,
    /// Acknowledged writes that were lost; each is a violation.
    pub lost_writes: u64,
    /// Acknowledged writes that were lost with the only disk that a policy asked to hold them.
    pub excused_writes: u64,
    /// Concurrent updates that a policy had to resolve.
    pub conflicts: u64,
    /// Messages that the simulated network delivered.
    pub delivered_messages: u64,
    /// How long the surviving core took to be whole again after its last fault.
    pub recovery_ms: Recovery,
    /// By fault kind, such as `kv.stale-read`: how often it was injected and felt.
    pub faults: BTreeMap<String, FaultCount>,
    /// By situation worth reaching, such as `replay-met-torn-tail`: in how many seeds it was.
    pub sometimes: BTreeMap<String, u64>,
    /// By invariant id, such as `zero-loss`: how often it was checked and violated.
    #[serde(default)]
    pub invariants: BTreeMap<String, InvariantCount>,
    /// The hash over the traces of all seeds; equal code and seeds give an equal hash.
    pub trace_hash: String,
}

/// One broken invariant in one seed.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// The invariant's id, such as `zero-loss`.
    pub invariant: String,
    /// What was seen, in one sentence.
    pub message: String,
    /// The command that shows it again.
    pub repro: String,
}

/// The distribution of recovery times, in milliseconds of virtual time.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Recovery {
    /// Half of the runs recovered within this many milliseconds.
    pub p50: u64,
    /// 99 in 100 runs recovered within this many milliseconds.
    pub p99: u64,
    /// The slowest run, in milliseconds.
    pub max: u64,
    /// Runs that outlasted even the bound which their backlog and drain rate allowed.
    pub beyond_drain_bound: u64,
    /// The runs by recovery time, in ascending order of `upto_ms`; may be empty.
    #[serde(default)]
    pub histogram: Vec<Bucket>,
}

/// The runs that recovered after the previous bucket's bound and within this one's.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The upper bound, inclusive, in milliseconds.
    pub upto_ms: u64,
    /// How many runs fell into the bucket.
    pub runs: u64,
}

/// How often a fault kind was injected, and how often that made a difference.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCount {
    /// Times the plan injected it.
    pub injected: u64,
    /// Times an engine call came out otherwise than it would have.
    pub felt: u64,
    /// The slowest recovery among runs with this kind, in milliseconds.
    #[serde(default)]
    pub recovery_ms_max: u64,
}

/// How often an invariant was checked, and what it says.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct InvariantCount {
    /// Times it was checked.
    pub checked: u64,
    /// Times it did not hold.
    pub violated: u64,
    /// The invariant in words.
    pub words: String,
}
