//! Cron: five fields that say at which minutes, in UTC, something is due.
//!
//! ```text
//! minute  hour  day of month  month  day of week
//!   0      3         *          *         *         every night at three
//! ```
//!
//! A field is `*`, a number, a name (`JAN`, `MON`), a range, any of these with a step (`*/15`), or
//! a list of them. Where both day fields are restricted, a day is due when either has it; a field
//! that begins with `*` restricts nothing. Source: crontab(5),
//! <https://man7.org/linux/man-pages/man5/crontab.5.html>
//!
//! Invariant: a [`Cron`] that exists fires. One that never would (30 February) is refused when it
//! is parsed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

const MINUTE_S: u64 = 60;
const DAY_S: u64 = 86_400;
const DAY_MINUTES: u64 = DAY_S / MINUTE_S;
/// The Gregorian calendar repeats itself after this, days of the week included.
const CYCLE_DAYS: u64 = 146_097;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// As it was written, with single spaces.
    text: Arc<str>,
    /// Each a bit for each value that is due.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both day fields are restricted: one of them is enough.
    either_day: bool,
}

/// Why a text is no cron.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CronError {
    /// It has not five fields.
    Fields {
        /// How many it has.
        found: usize,
    },
    /// A field cannot be read.
    Field {
        /// Which.
        name: &'static str,
        /// What stands there.
        text: String,
        /// The least and the greatest value.
        range: (u64, u64),
    },
    /// No day is ever due.
    Never,
}

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CronError::Fields { found } => write!(
                f,
                "a cron has five fields (minute, hour, day of month, month, day of week), and \
                 this has {found}"
            ),
            CronError::Field { name, text, range: (least, greatest) } => write!(
                f,
                "{text:?} is no {name}: give numbers from {least} to {greatest}, as in \"{least}\", \
                 \"{least}-{greatest}\", \"*/2\" or a list with commas"
            ),
            CronError::Never => f.write_str("no day is ever due, so it never fires"),
        }
    }
}

impl std::error::Error for CronError {}

/// A field's name, its values, and the names of some.
struct Field {
    name: &'static str,
    range: (u64, u64),
    /// The first stands for the least value.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", range: (0, 59), names: &[] };
const HOUR: Field = Field { name: "hour", range: (0, 23), names: &[] };
const DAY: Field = Field { name: "day of month", range: (1, 31), names: &[] };
const MONTH: Field = Field {
    name: "month",
    range: (1, 12),
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// Sunday is 0, and 7 as well.
const WEEKDAY: Field = Field {
    name: "day of week",
    range: (0, 7),
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Field {
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        let bits = text.split(',').map(|part| self.part(part));
        bits.reduce(|all, part| Some(all? | part?)).flatten().ok_or_else(|| CronError::Field {
            name: self.name,
            text: text.to_owned(),
            range: self.range,
        })
    }

    fn part(&self, text: &str) -> Option<u64> {
        let (values, step) = match text.split_once('/') {
            Some((values, step)) => (values, number(step).filter(|step| *step > 0)?),
            None => (text, 1),
        };
        let (from, to) = match values.split_once('-') {
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            None if values == "*" => self.range,
            // A step over one number runs from there to the end.
            None if text.contains('/') => (self.value(values)?, self.range.1),
            None => (self.value(values)?, self.value(values)?),
        };
        let mut bits = 0;
        let mut at = from;
        while at <= to {
            bits |= 1 << at;
            at = at.saturating_add(step);
        }
        (bits != 0).then_some(bits)
    }

    fn value(&self, text: &str) -> Option<u64> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match named {
            Some(at) => self.range.0 + at as u64,
            None => number(text)?,
        };
        (self.range.0..=self.range.1).contains(&value).then_some(value)
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(CronError::Fields { found: fields.len() });
        };
        let weekdays = WEEKDAY.parse(weekday)?;
        let restricted = |field: &str| !field.starts_with('*');
        let cron = Cron {
            text: fields.join(" ").into(),
            minutes: MINUTE.parse(minute)?,
            hours: HOUR.parse(hour)?,
            days: DAY.parse(day)?,
            months: MONTH.parse(month)?,
            weekdays: weekdays | (weekdays >> 7),
            either_day: restricted(day) && restricted(weekday),
        };
        match cron.next_after(Duration::ZERO) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never),
        }
    }
}

impl Cron {
    /// The first time that is due after `after`, both since the Unix epoch. `None` only where time
    /// itself ends: a cron that exists fires.
    pub fn next_after(&self, after: Duration) -> Option<Duration> {
        let first = (after.as_secs() / MINUTE_S).checked_add(1)?;
        let (today, minute) = (first / DAY_MINUTES, first % DAY_MINUTES);
        if self.is_due(today)
            && let Some(minute) = self.minute_from(minute)
        {
            return at(today, minute);
        }
        let due = (1..=CYCLE_DAYS).map(|days| today + days).find(|day| self.is_due(*day))?;
        at(due, self.minute_from(0)?)
    }

    /// True when something is due on a day, counted from the Unix epoch.
    fn is_due(&self, day: u64) -> bool {
        let (_, month, day_of_month) = civil(day);
        // The Unix epoch was a Thursday.
        let weekday = (day + 4) % 7;
        let day_of_month = holds(self.days, day_of_month);
        let weekday = holds(self.weekdays, weekday);
        let due = if self.either_day { day_of_month || weekday } else { day_of_month && weekday };
        due && holds(self.months, month)
    }

    /// The first minute of a day that is due, from one on.
    fn minute_from(&self, minute: u64) -> Option<u64> {
        (minute..DAY_MINUTES)
            .find(|minute| holds(self.hours, minute / 60) && holds(self.minutes, minute % 60))
    }
}

fn holds(bits: u64, value: u64) -> bool {
    bits & (1 << value) != 0
}

fn at(day: u64, minute: u64) -> Option<Duration> {
    let seconds = day.checked_mul(DAY_S)?.checked_add(minute * MINUTE_S)?;
    Some(Duration::from_secs(seconds))
}

/// Year, month and day of month of a day since the Unix epoch. Source: Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", <https://howardhinnant.github.io/date_algorithms.html>
fn civil(day: u64) -> (u64, u64, u64) {
    // Years begin in March, so that the leap day is the last.
    let day = day.saturating_add(719_468);
    let (era, of_era) = (day / CYCLE_DAYS, day % CYCLE_DAYS);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year + u64::from(month <= 2), month, day_of_month)
}

/// A time in UTC for people: `2026-11-28 20:00:00.123`.
pub fn utc_text(at_ms: u64) -> String {
    let (seconds, ms) = (at_ms / 1_000, at_ms % 1_000);
    let (year, month, day) = civil(seconds / DAY_S);
    let (hour, minute, second) = (seconds % DAY_S / 3_600, seconds % 3_600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since the epoch of a time in UTC.
    fn utc(year: u64, month: u64, day: u64, hour: u64, minute: u64) -> u64 {
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let before: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
        let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30];
        let months: u64 = lengths.iter().take(month as usize - 1).sum();
        (before + months + day - 1) * DAY_S + hour * 3_600 + minute * 60
    }

    #[test]
    fn times_in_words() {
        let check = |at_s: u64, expected: &str| assert_eq!(utc_text(at_s * 1_000 + 7), expected);
        check(0, "1970-01-01 00:00:00.007");
        check(utc(2000, 2, 29, 23, 59), "2000-02-29 23:59:00.007");
        check(utc(2026, 12, 31, 12, 0), "2026-12-31 12:00:00.007");
        check(utc(2027, 1, 1, 0, 0), "2027-01-01 00:00:00.007");
        check(utc(2100, 2, 28, 0, 0), "2100-02-28 00:00:00.007");
        check(utc(2100, 3, 1, 0, 0), "2100-03-01 00:00:00.007");
        assert!(!utc_text(u64::MAX).is_empty());
    }

    #[track_caller]
    fn check(cron: &str, after: (u64, u64, u64, u64, u64), expected: (u64, u64, u64, u64, u64)) {
        let parsed: Cron = cron.parse().unwrap_or_else(|error| panic!("{cron}: {error}"));
        let seconds = |(y, mo, d, h, mi)| utc(y, mo, d, h, mi);
        let next = parsed.next_after(Duration::from_secs(seconds(after)));
        assert_eq!(next, Some(Duration::from_secs(seconds(expected))), "{cron} after {after:?}");
    }

    #[test]
    fn the_next_time() {
        check("0 3 * * *", (2026, 11, 24, 2, 59), (2026, 11, 24, 3, 0));
        check("0 3 * * *", (2026, 11, 24, 3, 0), (2026, 11, 25, 3, 0));
        check("0 3 * * *", (2026, 12, 31, 4, 0), (2027, 1, 1, 3, 0));
        check("*/15 * * * *", (2026, 11, 24, 3, 44), (2026, 11, 24, 3, 45));
        check("5/20 * * * *", (2026, 11, 24, 3, 25), (2026, 11, 24, 3, 45));
        check("0 22-23,4 * * *", (2026, 11, 24, 23, 0), (2026, 11, 25, 4, 0));
        check("30 1 1 jan-Mar/2 *", (2026, 1, 1, 1, 30), (2026, 3, 1, 1, 30));
        // 2026-11-24 is a Tuesday.
        check("0 0 * * MON", (2026, 11, 24, 0, 0), (2026, 11, 30, 0, 0));
        check("0 0 * * 7", (2026, 11, 24, 0, 0), (2026, 11, 29, 0, 0));
        check("0 0 * * 5-7", (2026, 11, 28, 0, 0), (2026, 11, 29, 0, 0));
    }

    #[test]
    fn leap_days() {
        check("0 0 29 2 *", (2026, 1, 1, 0, 0), (2028, 2, 29, 0, 0));
        check("0 0 29 2 *", (2096, 3, 1, 0, 0), (2104, 2, 29, 0, 0));
        // A leap day on a Sunday: 2032, then not before 2060.
        check("0 0 29 2 */7", (2032, 3, 1, 0, 0), (2060, 2, 29, 0, 0));
    }

    #[test]
    fn either_day_is_enough_where_both_are_restricted() {
        check("0 0 13 * fri", (2026, 11, 24, 0, 0), (2026, 11, 27, 0, 0));
        check("0 0 13 * fri", (2026, 12, 12, 0, 0), (2026, 12, 13, 0, 0));
        check("0 0 */13 * fri", (2026, 11, 27, 0, 0), (2027, 1, 1, 0, 0));
    }

    #[test]
    fn what_is_no_cron() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Cron>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "this has 0");
        check("@daily", "this has 1");
        check("0 0 3 * * *", "this has 6");
        check("60 * * * *", "\"60\" is no minute: give numbers from 0 to 59");
        check("* 24 * * *", "is no hour");
        check("* * 0 * *", "is no day of month");
        check("* * * 13 *", "is no month");
        check("* * * mond *", "is no month");
        check("* * * * 8", "is no day of week");
        for minute in ["", "-1", "+1", "5-1", "*/0", "1,", ",1", "1-2-3", "*/", "a", "1//2", "**"] {
            let text = format!("{} * * * *", if minute.is_empty() { "x" } else { minute });
            check(&text, "is no minute");
        }
        for never in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 31 2 */2"] {
            check(never, "never fires");
        }
    }

    #[test]
    fn one_that_is_shown_reads_as_it_was_written() {
        let cron: Cron = " 0  3 * *\t* ".parse().unwrap();
        assert_eq!(cron.to_string(), "0 3 * * *");
        assert_eq!(cron.to_string().parse(), Ok(cron));
    }

    #[test]
    fn time_ends_without_a_panic() {
        let cron: Cron = "* * * * *".parse().unwrap();
        assert_eq!(cron.next_after(Duration::MAX), None);
    }
}
