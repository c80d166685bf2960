//! Back-off between tries: exponential with full jitter, capped so that recovery fits five
//! seconds. Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

/// The first pause is at most this.
pub const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// No pause is longer. Two of them must fit into the time that recovery may take.
pub const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause before try `failures + 1`, drawn from zero to the cap by `random`.
pub fn pause(failures: u32, random: u64) -> Duration {
    let doubled = PAUSE_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let cap_ms = u64::try_from(doubled.min(PAUSE_MAX).as_millis()).expect("at most two seconds");
    Duration::from_millis(random % (cap_ms + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_use_all_of_it() {
        let cap = |failures| (0..10_000).map(|r| pause(failures, r)).max().unwrap();
        assert_eq!(cap(1), PAUSE_FIRST);
        assert_eq!(cap(2), PAUSE_FIRST * 2);
        assert_eq!(cap(40), PAUSE_MAX);
        assert_eq!(pause(40, 0), Duration::ZERO);
    }
}
