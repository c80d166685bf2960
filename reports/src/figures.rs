//! Numbers as a reader wants them: grouped thousands, times in the unit that fits.
//!
//! Invariant: a number that is not finite, such as a rate over no time, is shown as a dash and
//! never as `NaN`.

const DASH: &str = "–";

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A rate or factor: one decimal below a thousand, none above.
pub(crate) fn rate(number: f64) -> String {
    if !number.is_finite() || number < 0.0 {
        return DASH.to_owned();
    }
    if number < 1_000.0 {
        return format!("{number:.1}");
    }
    count(number.round() as u64)
}

/// A length of time given in milliseconds, such as `840 ms`, `1.84 s` or `70 s`.
pub(crate) fn milliseconds(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{:.2} s", ms as f64 / 1_000.0),
        10_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => span(ms as f64 / 1_000.0),
    }
}

/// A moment of virtual time given in milliseconds, always in seconds to the millisecond.
pub(crate) fn moment(ms: f64) -> String {
    if ms.is_finite() { format!("{:.3} s", ms / 1_000.0) } else { DASH.to_owned() }
}

/// A length of time given in seconds, in its two largest units.
pub(crate) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return DASH.to_owned();
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    if days > 0 {
        format!("{} d {hours} h", count(days))
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else if minutes > 0 {
        format!("{minutes} min {} s", whole % 60)
    } else {
        format!("{seconds:.1} s")
    }
}

/// `part` of `whole` as a percentage; small but present shares never read as zero.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return DASH.to_owned();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    if part == 0 {
        "0%".to_owned()
    } else if percent < 0.01 {
        "<0.01%".to_owned()
    } else if percent < 1.0 {
        format!("{percent:.2}%")
    } else if percent > 99.9 && part < whole {
        ">99.9%".to_owned()
    } else {
        format!("{percent:.1}%")
    }
}

/// `one` for exactly one, else `many`: `plural(2, "seed", "seeds")` is `2 seeds`.
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_written() {
        let shown = [
            (count(0), "0"),
            (count(999), "999"),
            (count(1_000), "1,000"),
            (count(u64::MAX), "18,446,744,073,709,551,615"),
            (rate(97.23), "97.2"),
            (rate(6_200.4), "6,200"),
            (rate(f64::NAN), "–"),
            (rate(f64::INFINITY), "–"),
            (milliseconds(840), "840 ms"),
            (milliseconds(1_840), "1.84 s"),
            (milliseconds(70_000), "1 min 10 s"),
            (moment(12_345.6), "12.346 s"),
            (span(1_310_000.0), "15 d 3 h"),
            (span(f64::NAN), "–"),
            (share(1, 1_000_000), "<0.01%"),
            (share(0, 10), "0%"),
            (share(1, 0), "–"),
            (share(99_999, 100_000), ">99.9%"),
            (plural(1, "seed", "seeds"), "1 seed"),
            (plural(2, "seed", "seeds"), "2 seeds"),
        ];
        for (got, want) in shown {
            assert_eq!(got, want);
        }
    }
}
