//! Times and sizes, as people write them.

use std::time::Duration;

/// What [`lifetime`] reads.
pub const LIFETIMES: &str = "a number with s, m, h or d, from 1s to 3650d, or \"never\"";

const LIFETIME_MAX: Duration = Duration::from_secs(3_650 * 86_400);

/// A time after which a value expires, as in `30d`.
pub fn lifetime(text: &str) -> Option<Duration> {
    let within = |lifetime: &Duration| !lifetime.is_zero() && *lifetime <= LIFETIME_MAX;
    duration(text).filter(within)
}

/// A number of bytes, as in `64MB`.
pub(super) fn size(text: &str) -> Option<usize> {
    let bytes = counted(text, &[("KB", 1 << 10), ("MB", 1 << 20)])?;
    usize::try_from(bytes).ok()
}

/// A time, as in `30s`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    counted(text, &units).map(Duration::from_secs)
}

fn counted(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, each)| {
        let count = text.strip_suffix(unit)?;
        // `parse` alone would take a sign.
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u32 = digits.then(|| count.parse().ok()).flatten()?;
        Some(u64::from(count) * each)
    })
}
