//! The recovery times as a bar chart with the five-second line.
//!
//! Each bucket is one bar of equal width, whatever span of time it covers, so that exponential
//! and even buckets both stay readable; a moment lies within its bucket in proportion. Lengths
//! along the axis are percentages, so the chart follows the page's width and its text does not
//! shrink on a phone.

use super::{Bucket, Recovery};
use crate::figures::{count, milliseconds, plural};

/// What recovery must not exceed, in milliseconds.
pub(crate) const LIMIT_MS: u64 = 5_000;

/// The most bars that are added to carry the axis on to the limit.
const EXTENSION_MAX: usize = 40;

const TOP: f64 = 62.0;
const PLOT: f64 = 170.0;
const BOTTOM: f64 = 40.0;

/// The chart as inline SVG, or nothing when there is no histogram to draw.
pub(crate) fn svg(recovery: &Recovery) -> Option<String> {
    let buckets = axis(&recovery.histogram);
    let runs_max = buckets.iter().map(|bucket| bucket.runs).max()?;
    if runs_max == 0 {
        return None;
    }
    let base = TOP + PLOT;
    let width = 100.0 / buckets.len() as f64;
    let mut drawn = String::new();
    for (part, runs) in [(0.5, runs_max.div_ceil(2)), (1.0, runs_max)] {
        let y = base - PLOT * part;
        drawn.push_str(&format!(
            r#"<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/><text x="-8" y="{}" text-anchor="end">{}</text>"#,
            y + 4.0,
            compact(runs)
        ));
    }
    let labels_every = buckets.len().div_ceil(10);
    let mut from = 0;
    for (index, bucket) in buckets.iter().enumerate() {
        let left = index as f64 * width;
        if bucket.runs > 0 {
            // A single run must stay visible beside ten thousand.
            let height = (PLOT * bucket.runs as f64 / runs_max as f64).max(3.0);
            let over = if from >= LIMIT_MS { " over" } else { "" };
            drawn.push_str(&format!(
                r#"<rect class="bar{over}" x="{:.3}%" y="{:.1}" width="{:.3}%" height="{height:.1}"><title>{}: more than {}, at most {}</title></rect>"#,
                left + width * 0.06,
                base - height,
                width * 0.88,
                plural(bucket.runs, "run", "runs"),
                milliseconds(from),
                milliseconds(bucket.upto_ms)
            ));
        }
        if (index + 1) % labels_every == 0 {
            // Every second label goes on a narrow screen.
            let minor =
                if (index + 1) % (labels_every * 2) == 0 { "" } else { r#" class="minor""# };
            drawn.push_str(&format!(
                r#"<text{minor} x="{:.3}%" y="{}" text-anchor="middle">{}</text>"#,
                left + width,
                base + 18.0,
                milliseconds(bucket.upto_ms)
            ));
        }
        from = bucket.upto_ms;
    }
    drawn.push_str(&format!(
        r#"<line class="axis" x1="0" x2="100%" y1="{base}" y2="{base}"/><text x="50%" y="{}" text-anchor="middle">time from the last fault's end to whole again</text>"#,
        base + 36.0
    ));
    let limit = position(&buckets, LIMIT_MS);
    drawn.push_str(&mark("limit", "5 s limit", limit, 0));
    // One row each, so that close values do not print over each other.
    for (row, (name, ms)) in [("max", recovery.max), ("p99", recovery.p99), ("p50", recovery.p50)]
        .into_iter()
        .enumerate()
    {
        let label = format!("{name} {}", milliseconds(ms));
        drawn.push_str(&mark("mark", &label, position(&buckets, ms), row + 1));
    }
    Some(format!(
        r#"<div class="chart"><svg height="{}" role="img" aria-label="Recovery times of {}: half within {}, 99 in 100 within {}, slowest {}; the limit is 5 s.">{drawn}</svg></div>
"#,
        base + BOTTOM,
        plural(
            recovery.histogram.iter().map(|bucket| bucket.runs).fold(0, u64::saturating_add),
            "run",
            "runs"
        ),
        milliseconds(recovery.p50),
        milliseconds(recovery.p99),
        milliseconds(recovery.max)
    ))
}

/// The buckets in order, carried on in steps of the last one's width until the limit is on it.
fn axis(histogram: &[Bucket]) -> Vec<Bucket> {
    let mut buckets = histogram.to_vec();
    buckets.sort_by_key(|bucket| bucket.upto_ms);
    let Some(last) = buckets.last().copied() else {
        return buckets;
    };
    let before = buckets.iter().rev().nth(1).map_or(0, |bucket| bucket.upto_ms);
    let step = (last.upto_ms - before).max(LIMIT_MS / EXTENSION_MAX as u64);
    let mut upto_ms = last.upto_ms;
    while upto_ms <= LIMIT_MS {
        upto_ms += step;
        buckets.push(Bucket { upto_ms, runs: 0 });
    }
    buckets
}

/// Where a time lies along the axis, in percent.
fn position(buckets: &[Bucket], ms: u64) -> f64 {
    let width = 100.0 / buckets.len() as f64;
    let mut from = 0;
    for (index, bucket) in buckets.iter().enumerate() {
        if ms <= bucket.upto_ms {
            let within = (ms - from) as f64 / (bucket.upto_ms - from).max(1) as f64;
            return width * (index as f64 + within);
        }
        from = bucket.upto_ms;
    }
    100.0
}

fn mark(class: &str, label: &str, percent: f64, row: usize) -> String {
    let y = 12.0 + row as f64 * 15.0;
    let (anchor, shift) = if percent > 75.0 { ("end", -5) } else { ("start", 5) };
    format!(
        r#"<line class="{class}" x1="{percent:.3}%" x2="{percent:.3}%" y1="{}" y2="{}"/><text class="{class}-label" x="{percent:.3}%" dx="{shift}" y="{y}" text-anchor="{anchor}">{label}</text>"#,
        y - 9.0,
        TOP + PLOT
    )
}

/// A count short enough for the axis.
fn compact(number: u64) -> String {
    if number >= 10_000 { format!("{}k", count(number / 1_000)) } else { count(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(upto_ms: u64, runs: u64) -> Bucket {
        Bucket { upto_ms, runs }
    }

    #[test]
    fn the_limit_is_always_on_the_axis() {
        for last in [1, 100, 4_999, 5_000, 5_001, 60_000] {
            let buckets = axis(&[bucket(last, 1)]);
            let limit = position(&buckets, LIMIT_MS);
            assert!(limit > 0.0 && limit < 100.0, "{last}: {limit}");
            assert!(buckets.len() <= EXTENSION_MAX + 2, "{last}: {}", buckets.len());
        }
    }

    #[test]
    fn moments_keep_their_order_along_uneven_buckets() {
        let buckets = axis(&[bucket(10, 1), bucket(100, 1), bucket(10_000, 1)]);
        let positions: Vec<f64> =
            [0, 5, 10, 55, 100, 5_000, 10_000, 90_000].map(|ms| position(&buckets, ms)).to_vec();
        assert!(positions.is_sorted());
        assert_eq!(positions.last(), Some(&100.0));
    }

    #[test]
    fn no_runs_give_no_chart() {
        assert_eq!(svg(&Recovery::default()), None);
        let empty = Recovery { histogram: vec![bucket(100, 0)], ..Recovery::default() };
        assert_eq!(svg(&empty), None);
    }
}
