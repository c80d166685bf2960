//! A campaign: many seeds of one profile, on one long-lived thread for each core.
//!
//! Invariant: what a campaign says does not depend on how many threads ran it or in which order
//! seeds ended; only its speeds do.

use crate::checker::Invariant;
use crate::run::{self, Outcome};
use crate::scenario::{Profile, Scenario};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidelock_faults::Kind;
use tidelock_reports::{Bucket, Campaign, FaultCount, InvariantCount, Recovery, Violation};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What kind of worlds.
    pub profile: Profile,
    /// Which seeds.
    pub seeds: Range<u64>,
    /// On so many threads.
    pub jobs: usize,
    /// Only these kinds of faults, if any are named.
    pub only: Vec<Kind>,
    /// Without these kinds.
    pub without: Vec<Kind>,
    /// Every `n`-th seed from the `i`-th, for shards `i/n`.
    pub shard: (u64, u64),
    /// Begin no seed after this.
    pub time_limit: Option<Duration>,
}

impl Plan {
    /// The scenario of one seed under this plan.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let mut scenario = Scenario::generate(self.profile, seed);
        scenario.faults.retain(|fault| {
            (self.only.is_empty() || self.only.contains(&fault.kind))
                && !self.without.contains(&fault.kind)
        });
        scenario
    }
}

/// A campaign of so many seeds must feel every kind of fault that it may have.
pub const ALL_FELT_FROM_SEEDS: u64 = 2_000;

/// The kinds that a campaign should have felt and did not, if it was long enough to tell.
pub fn never_felt(plan: &Plan, result: &Campaign) -> Vec<Kind> {
    if result.seeds < ALL_FELT_FROM_SEEDS {
        return Vec::new();
    }
    let shape = plan.profile.plan_shape();
    let expected = |kind: &Kind| {
        (plan.only.is_empty() || plan.only.contains(kind))
            && !plan.without.contains(kind)
            && shape.can_have(*kind)
            && !plan.profile.leaves_out(*kind)
    };
    let felt = |kind: &Kind| result.faults.get(kind.name()).is_some_and(|count| count.felt > 0);
    Kind::ALL.iter().copied().filter(|kind| expected(kind) && !felt(kind)).collect()
}

/// Situations that a campaign counts even when it never reaches them.
const SITUATIONS: [&str; 27] = [
    "a-blob-was-collected",
    "a-copy-answered-a-session",
    "another-coordinator-answered-a-session",
    "a-copy-was-put-again",
    "a-retired-member-held-a-mark",
    "a-value-expired",
    "acknowledged-as-pending",
    "breaker-opened",
    "claim-found-a-holder",
    "clear-was-not-alone",
    "condition-failed-at-the-authority",
    "crash-during-fsync-kept-the-intents",
    "crash-during-fsync-lost-the-intents",
    "failed-fsync-kept-the-intents",
    "failed-fsync-lost-the-intents",
    "install-found-the-row-moved",
    "install-kept-a-loser",
    "mark-taken-over",
    "overloaded-d1-applied-all-the-same",
    "put-refused-after-its-lease",
    "put-without-an-answer",
    "replay-found-intents",
    "replay-met-torn-tail",
    "request-landed-after-its-caller-gave-up",
    "row-refers-to-a-blob",
    "store-said-429",
    "stale-kv-read",
];

#[derive(Default)]
struct Total {
    seeds: u64,
    outcome: Sums,
    recovery_ms: Vec<u64>,
    recovery_by_fault: BTreeMap<Kind, u64>,
    violations: Vec<Violation>,
    hashes: BTreeMap<u64, String>,
}

#[derive(Default)]
struct Sums {
    virtual_ms: u64,
    attempted: u64,
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    lost: u64,
    excused: u64,
    conflicts: u64,
    delivered: u64,
    faults: BTreeMap<Kind, (u64, u64)>,
    sometimes: BTreeMap<&'static str, u64>,
    checked: BTreeMap<Invariant, (u64, u64)>,
}

impl Total {
    fn add(&mut self, plan: &Plan, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        let sums = &mut self.outcome;
        sums.virtual_ms += outcome.virtual_ms;
        sums.attempted += outcome.attempted;
        sums.acknowledged += outcome.acknowledged;
        sums.refused += outcome.refused;
        sums.unknown += outcome.unknown;
        sums.lost += outcome.lost;
        sums.excused += outcome.excused;
        sums.conflicts += outcome.conflicts;
        sums.delivered += outcome.delivered;
        for (kind, felt) in &outcome.faults {
            let sum = sums.faults.entry(*kind).or_default();
            sum.0 += felt.injected;
            sum.1 += felt.felt;
        }
        for situation in &outcome.sometimes {
            *sums.sometimes.entry(situation).or_default() += 1;
        }
        for (invariant, checked) in &outcome.checked {
            sums.checked.entry(*invariant).or_default().0 += checked;
        }
        if let Some(took_ms) = outcome.recovery_ms {
            self.recovery_ms.push(took_ms);
            for (kind, felt) in &outcome.faults {
                if felt.felt > 0 {
                    let max_ms = self.recovery_by_fault.entry(*kind).or_default();
                    *max_ms = (*max_ms).max(took_ms);
                }
            }
        }
        for violation in outcome.violations {
            sums.checked.entry(violation.invariant).or_default().1 += 1;
            self.violations.push(Violation {
                seed,
                invariant: violation.invariant.name().to_owned(),
                message: violation.message,
                repro: format!("cargo sim replay {}:{seed}", plan.profile),
            });
        }
        self.hashes.insert(seed, outcome.trace_hash);
    }
}

/// Runs a campaign. `progress` is called after each seed with how many are done and how many of
/// them failed.
pub fn run(plan: &Plan, progress: &(dyn Fn(u64, u64) + Sync)) -> Campaign {
    let begun = Instant::now();
    let next = AtomicU64::new(plan.seeds.start + plan.shard.0);
    let total = Mutex::new(Total::default());
    let out_of_time = AtomicBool::new(false);
    let cpu = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                let cpu_begun = cpu_time();
                loop {
                    let seed = next.fetch_add(plan.shard.1, Ordering::Relaxed);
                    if seed >= plan.seeds.end {
                        break;
                    }
                    if plan.time_limit.is_some_and(|limit| begun.elapsed() >= limit) {
                        out_of_time.store(true, Ordering::Relaxed);
                        break;
                    }
                    let outcome = run::run(&plan.scenario(seed), None, false);
                    let mut total = total.lock().expect("adding up does not panic");
                    total.add(plan, seed, outcome);
                    progress(total.seeds, total.violations.len() as u64);
                }
                *cpu.lock().expect("adding up does not panic") +=
                    cpu_time().saturating_sub(cpu_begun);
            });
        }
    });
    let total = total.into_inner().expect("adding up does not panic");
    let cpu = cpu.into_inner().expect("adding up does not panic");
    report(plan, total, begun.elapsed(), cpu)
}

fn report(plan: &Plan, mut total: Total, took: Duration, cpu: Duration) -> Campaign {
    let sums = total.outcome;
    total.violations.sort_by_key(|violation| violation.seed);
    total.recovery_ms.sort_unstable();
    let virtual_seconds = sums.virtual_ms as f64 / 1_000.0;
    let mut sometimes: BTreeMap<String, u64> =
        SITUATIONS.iter().map(|situation| ((*situation).to_owned(), 0)).collect();
    sometimes.extend(sums.sometimes.into_iter().map(|(name, seeds)| (name.to_owned(), seeds)));
    let stale = sums.faults.get(&Kind::KvStaleRead).map_or(0, |(_, felt)| *felt);
    sometimes.insert("stale-kv-read".to_owned(), stale);
    let mut hasher = blake3::Hasher::new();
    for hash in total.hashes.values() {
        hasher.update(hash.as_bytes());
    }
    let faults = sums.faults.into_iter().map(|(kind, (injected, felt))| {
        let recovery_ms_max = total.recovery_by_fault.get(&kind).copied().unwrap_or(0);
        (kind.name().to_owned(), FaultCount { injected, felt, recovery_ms_max })
    });
    let invariants = Invariant::ALL.into_iter().map(|invariant| {
        let (checked, violated) = sums.checked.get(&invariant).copied().unwrap_or((0, 0));
        let words = invariant.words().to_owned();
        (invariant.name().to_owned(), InvariantCount { checked, violated, words })
    });
    Campaign {
        profile: plan.profile.name().to_owned(),
        first_seed: plan.seeds.start,
        seeds: total.seeds,
        commit: commit(),
        command: command(plan),
        seeds_per_second: total.seeds as f64 / took.as_secs_f64(),
        seeds_per_cpu_second: total.seeds as f64 / cpu.as_secs_f64().max(f64::EPSILON),
        virtual_seconds,
        speedup: virtual_seconds / took.as_secs_f64(),
        attempted_writes: sums.attempted,
        acked_writes: sums.acknowledged,
        refused_writes: sums.refused,
        unknown_writes: sums.unknown,
        lost_writes: sums.lost,
        excused_writes: sums.excused,
        conflicts: sums.conflicts,
        delivered_messages: sums.delivered,
        recovery_ms: Recovery {
            p50: percentile(&total.recovery_ms, 500),
            p99: percentile(&total.recovery_ms, 990),
            max: total.recovery_ms.last().copied().unwrap_or(0),
            beyond_drain_bound: 0,
            histogram: histogram(&total.recovery_ms),
        },
        faults: faults.collect(),
        sometimes,
        invariants: invariants.collect(),
        trace_hash: hasher.finalize().to_hex()[..32].to_owned(),
        violations: total.violations,
    }
}

fn percentile(sorted: &[u64], permille: usize) -> u64 {
    let at = (sorted.len() * permille).div_ceil(1000).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(0)
}

fn histogram(sorted: &[u64]) -> Vec<Bucket> {
    const STEP_MS: u64 = 250;
    let Some(max) = sorted.last() else { return Vec::new() };
    (1..=max / STEP_MS + 1)
        .map(|step| {
            let upto_ms = step * STEP_MS;
            let runs =
                sorted.iter().filter(|ms| (upto_ms - STEP_MS..upto_ms).contains(*ms)).count();
            Bucket { upto_ms, runs: runs as u64 }
        })
        .collect()
}

fn command(plan: &Plan) -> String {
    let list = |flag: &str, kinds: &[Kind]| {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        if names.is_empty() { String::new() } else { format!(" {flag} {}", names.join(",")) }
    };
    let shard = match plan.shard {
        (0, 1) => String::new(),
        (i, n) => format!(" --shard {i}/{n}"),
    };
    format!(
        "cargo sim run --profile {} --seeds {}..{}{}{}{shard}",
        plan.profile,
        plan.seeds.start,
        plan.seeds.end,
        list("--only", &plan.only),
        list("--without", &plan.without),
    )
}

/// The commit that this tree is at; a seed is promised for one commit only.
pub fn commit() -> String {
    let git = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

/// Processor time of this thread so far.
pub fn cpu_time() -> Duration {
    // The first field of schedstat: nanoseconds on a processor.
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_buckets() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!(percentile(&sorted, 500), 500);
        assert_eq!(percentile(&sorted, 990), 990);
        assert_eq!(percentile(&[], 990), 0);
        let buckets = histogram(&[0, 249, 250, 900]);
        let runs: Vec<u64> = buckets.iter().map(|bucket| bucket.runs).collect();
        assert_eq!(runs, [2, 1, 0, 1]);
    }
}
