//! How a store does: how often it answers, how fast, and how long it would take to work
//! off what it is owed.
//!
//! ```text
//! call ended ──> record          success rate, latency quantiles     last minute, in six slices
//! work began, work ended ──> occupancy ──> time per record ──> predicted drain
//! ```
//!
//! Latencies are counted in four buckets an octave, so a quantile is at most a quarter too high.
//! Time is passed in; everything is an integer.
//!
//! The predicted drain follows Little's law: while `width` records are under way at once and each
//! takes `t` of a worker's time, failed turns included, a backlog of `n` takes `n · t / width`. The
//! time is measured under whatever load there was, so it needs no moment of saturation.

use serde::Serialize;
use std::time::Duration;

/// One slice of the window.
const SLICE_SECONDS: u64 = 10;
/// Slices in the window.
const SLICES: usize = 6;
/// Below 2^4 µs everything is as fast.
const OCTAVE_MIN: u32 = 4;
/// Beyond 2^26 µs, a minute, everything is as slow.
const OCTAVE_MAX: u32 = 26;
const BUCKETS: usize = (OCTAVE_MAX - OCTAVE_MIN) as usize * 4;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer, be it a refusal on the merits.
    Answered,
    /// With none.
    Failed,
}

#[derive(Clone, Debug)]
struct Slice {
    /// Which ten seconds since the start it is of.
    number: u64,
    answered: u32,
    failed: u32,
    /// Time that workers spent on records, added up.
    busy_us: u64,
    /// Records that they were done with.
    done: u32,
    latency: [u32; BUCKETS],
}

impl Slice {
    const fn new(number: u64) -> Self {
        Slice { number, answered: 0, failed: 0, busy_us: 0, done: 0, latency: [0; BUCKETS] }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Health {
    slices: [Slice; SLICES],
    /// Since the start, for counters that never go back.
    answered: u64,
    failed: u64,
    last_good: Option<Duration>,
    under_way: u32,
    /// Up to when `busy_us` is counted.
    counted: Duration,
    /// What a record took when that was last known.
    each_us: Option<u64>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            slices: [const { Slice::new(0) }; SLICES],
            answered: 0,
            failed: 0,
            last_good: None,
            under_way: 0,
            counted: Duration::ZERO,
            each_us: None,
        }
    }
}

/// What a store showed in the last minute, but for its calls, which are counted from the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that were not.
    pub failed: u64,
    /// Answers of a thousand calls; `None`: no calls.
    pub success_permille: Option<u32>,
    /// Half of the answers came within this.
    pub p50_ms: Option<u64>,
    /// 90% of the answers came within this.
    pub p90_ms: Option<u64>,
    /// 99% of the answers came within this.
    pub p99_ms: Option<u64>,
    /// How long ago the last answer came; `None`: there was none since the start.
    pub last_good_ms_ago: Option<u64>,
}

impl Health {
    /// A call that took `took` has ended.
    pub fn record(&mut self, now: Duration, took: Duration, ended: Ended) {
        let took_us = micros(took);
        let slice = self.slice(now);
        match ended {
            Ended::Failed => {
                slice.failed += 1;
                self.failed += 1;
            }
            Ended::Answered => {
                slice.answered += 1;
                slice.latency[bucket(took_us)] += 1;
                self.answered += 1;
                self.last_good = Some(now);
            }
        }
    }

    /// A worker takes a record.
    pub fn began(&mut self, now: Duration) {
        self.count(now);
        self.under_way += 1;
    }

    /// A worker lets go of a record; `done`: nothing more is owed.
    pub fn ended(&mut self, now: Duration, done: bool) {
        self.count(now);
        self.under_way = self.under_way.saturating_sub(1);
        if done {
            self.slice(now).done += 1;
            self.each_us = self.measured(now);
        }
    }

    /// Until when a backlog of so many records is worked off, with so many under way at once.
    /// `None`: nothing was ever done here, so nobody can tell.
    pub fn predicted_drain(&self, backlog: usize, width: usize) -> Option<Duration> {
        if backlog == 0 {
            return Some(Duration::ZERO);
        }
        let width = width.clamp(1, backlog) as u64;
        let total_us = self.each_us?.saturating_mul(backlog as u64);
        Some(Duration::from_micros(total_us.div_ceil(width)))
    }

    /// The last minute in figures.
    pub fn report(&self, now: Duration) -> HealthReport {
        let mut latency = [0u64; BUCKETS];
        let (mut answered, mut failed) = (0u64, 0u64);
        for slice in self.recent(now) {
            answered += u64::from(slice.answered);
            failed += u64::from(slice.failed);
            for (sum, count) in latency.iter_mut().zip(slice.latency) {
                *sum += u64::from(count);
            }
        }
        let calls = answered + failed;
        let permille = |part: u64| u32::try_from(part * 1000 / calls).expect("a part of the whole");
        let at = |of| quantile_us(&latency, answered, of).map(|us: u64| us.div_ceil(1000));
        HealthReport {
            answered: self.answered,
            failed: self.failed,
            success_permille: (calls > 0).then(|| permille(answered)),
            p50_ms: at(500),
            p90_ms: at(900),
            p99_ms: at(990),
            last_good_ms_ago: self.last_good.map(|at| micros(now.saturating_sub(at)) / 1000),
        }
    }

    fn slice(&mut self, now: Duration) -> &mut Slice {
        let number = now.as_secs() / SLICE_SECONDS;
        let slice = &mut self.slices[number as usize % SLICES];
        if slice.number != number {
            *slice = Slice::new(number);
        }
        slice
    }

    fn recent(&self, now: Duration) -> impl Iterator<Item = &Slice> {
        let newest = now.as_secs() / SLICE_SECONDS;
        self.slices.iter().filter(move |s| s.number <= newest && s.number + SLICES as u64 > newest)
    }

    fn count(&mut self, now: Duration) {
        let since = now.saturating_sub(self.counted);
        self.counted = now;
        if self.under_way > 0 {
            let busy_us = micros(since).saturating_mul(self.under_way.into());
            self.slice(now).busy_us += busy_us;
        }
    }

    /// Workers' time for each record that they were done with.
    fn measured(&self, now: Duration) -> Option<u64> {
        let sums = self.recent(now).map(|slice| (slice.busy_us, u64::from(slice.done)));
        let (busy_us, done) = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        busy_us.checked_div(done)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(us: u64) -> usize {
    let us = us.max(1 << OCTAVE_MIN);
    let octave = us.ilog2();
    let quarter = (us >> (octave - 2)) & 3;
    (((octave - OCTAVE_MIN) * 4) as usize + quarter as usize).min(BUCKETS - 1)
}

/// The end of a bucket.
fn upper_us(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / 4 + OCTAVE_MIN as usize, bucket as u64 % 4);
    (5 + quarter) << (octave - 2)
}

fn quantile_us(latency: &[u64; BUCKETS], answers: u64, permille: u64) -> Option<u64> {
    let rank = (answers * permille).div_ceil(1000);
    let mut within = 0;
    let at = latency.iter().position(|count| {
        within += count;
        within >= rank.max(1)
    });
    at.map(upper_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn quantiles_are_at_most_a_quarter_too_high() {
        let mut health = Health::default();
        for took in 1..=1_000 {
            health.record(ms(5), ms(took), Ended::Answered);
        }
        let report = health.report(ms(5));
        for (quantile, exact) in [(report.p50_ms, 500), (report.p90_ms, 900), (report.p99_ms, 990)]
        {
            let quantile = quantile.unwrap();
            assert!(exact <= quantile && quantile <= exact * 5 / 4, "{quantile} for {exact}");
        }
        for us in [0, 15, 16, 17, 19, 20, 31, 32, 1_000, 999_999, u64::MAX] {
            assert!(upper_us(bucket(us)) > us || us > 1 << OCTAVE_MAX, "{us}");
        }
    }

    #[test]
    fn the_window_forgets_and_the_totals_do_not() {
        let mut health = Health::default();
        for n in 0..10 {
            let ended = if n < 7 { Ended::Answered } else { Ended::Failed };
            health.record(ms(1_000), ms(10), ended);
        }
        assert_eq!(health.report(ms(50_000)).success_permille, Some(700));
        health.record(ms(61_000), ms(10), Ended::Failed);
        assert_eq!(health.report(ms(61_000)).success_permille, Some(0));
        let report = health.report(ms(161_000));
        assert_eq!((report.success_permille, report.p50_ms), (None, None));
        assert_eq!(report.last_good_ms_ago, Some(160_000));
        assert_eq!((report.answered, report.failed), (7, 4), "since the start");
    }

    #[test]
    fn a_backlog_is_worked_off_in_its_records_time_over_the_width() {
        let mut health = Health::default();
        assert_eq!(health.predicted_drain(0, 8), Some(Duration::ZERO));
        assert_eq!(health.predicted_drain(10, 8), None, "nothing was measured");
        // Four workers, each done with a record every 100 ms; half of the turns fail.
        for turn in 0..20 {
            for _ in 0..4 {
                health.began(ms(turn * 100));
            }
            for _ in 0..4 {
                health.ended(ms(turn * 100 + 100), turn % 2 == 1);
            }
        }
        assert_eq!(health.predicted_drain(1_000, 4), Some(ms(50_000)));
        assert_eq!(health.predicted_drain(1_000, 8), Some(ms(25_000)));
        assert_eq!(health.predicted_drain(1, 8), Some(ms(200)), "one record has one worker");
        assert_eq!(health.predicted_drain(1_000, 4), Some(ms(50_000)), "it stays known");
    }

    #[test]
    fn time_without_work_is_no_work() {
        let mut health = Health::default();
        health.began(ms(0));
        health.ended(ms(100), true);
        health.began(ms(9_000));
        health.ended(ms(9_100), true);
        assert_eq!(health.predicted_drain(10, 1), Some(ms(1_000)));
    }
}
