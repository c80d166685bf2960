//! Numbers of JSON as what they say, without a detour over binary fractions.
//!
//! Invariant: comparing and adding is exact, or is not done at all.

use std::cmp::Ordering;

/// A number of any size, to compare. Two are equal when they are the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    /// Without zeros at either end; empty is zero.
    digits: String,
    /// Of ten, for the last digit.
    exponent: i64,
}

impl Decimal {
    /// Reads a number's text; `None` for an exponent beyond 64 bits.
    pub fn of(number: &str) -> Option<Self> {
        let (mantissa, exponent) = match number.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (number, 0),
        };
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(mantissa) => (true, mantissa),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, fraction].concat();
        let significant = all.trim_end_matches('0');
        let dropped = i64::try_from(all.len() - significant.len()).ok()?;
        let digits = significant.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Decimal { negative: false, digits, exponent: 0 });
        }
        let fraction = i64::try_from(fraction.len()).ok()?;
        let exponent = exponent.checked_sub(fraction)?.checked_add(dropped)?;
        Some(Decimal { negative, digits, exponent })
    }

    /// Appends the one spelling of this number.
    pub fn push_canonical(&self, key: &mut String) {
        if self.negative {
            key.push('-');
        }
        key.push_str(if self.digits.is_empty() { "0" } else { &self.digits });
        key.push('e');
        key.push_str(&self.exponent.to_string());
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        let top = |n: &Self| i128::from(n.exponent) + n.digits.len() as i128;
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => {
                top(self).cmp(&top(other)).then_with(|| self.digits.cmp(&other.digits))
            }
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.magnitude(other),
            (true, true) => other.magnitude(self),
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A number to count with: `mantissa` / 10^`places`. Zeros behind the point are kept, so that
/// prices stay prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    mantissa: i128,
    places: u32,
}

/// Digits behind the point that are counted with; more are left to `lww`.
const PLACES_MAX: u32 = 30;

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount { mantissa: 0, places: 0 };

    /// An integer.
    pub fn integer(n: i64) -> Self {
        Amount { mantissa: i128::from(n), places: 0 }
    }

    /// Reads a number's text; `None` for what 128 bits do not hold exactly.
    pub fn of(number: &str) -> Option<Self> {
        if number.contains(['e', 'E']) {
            let Decimal { negative, digits, exponent } = Decimal::of(number)?;
            if digits.is_empty() {
                return Some(Amount::ZERO);
            }
            let mantissa: i128 = digits.parse().ok()?;
            let mantissa = if negative { -mantissa } else { mantissa };
            return match u32::try_from(exponent) {
                Ok(zeros) => Some(Amount {
                    mantissa: mantissa.checked_mul(10_i128.checked_pow(zeros)?)?,
                    places: 0,
                }),
                Err(_) => {
                    let places = u32::try_from(exponent.checked_neg()?).ok()?;
                    (places <= PLACES_MAX).then_some(Amount { mantissa, places })
                }
            };
        }
        match number.split_once('.') {
            None => Some(Amount { mantissa: number.parse().ok()?, places: 0 }),
            Some((whole, fraction)) => {
                let places = u32::try_from(fraction.len()).ok().filter(|n| *n <= PLACES_MAX)?;
                Some(Amount { mantissa: [whole, fraction].concat().parse().ok()?, places })
            }
        }
    }

    fn with_places(self, places: u32) -> Option<i128> {
        self.mantissa.checked_mul(10_i128.checked_pow(places - self.places)?)
    }

    /// The sum, exact.
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        let places = self.places.max(other.places);
        let mantissa = self.with_places(places)?.checked_add(other.with_places(places)?)?;
        Some(Amount { mantissa, places })
    }

    /// The difference, exact.
    pub fn checked_sub(self, other: Amount) -> Option<Amount> {
        self.checked_add(Amount { mantissa: other.mantissa.checked_neg()?, places: other.places })
    }

    /// The integer of 64 bits that this is, where it has no digits behind the point.
    pub fn to_i64(self) -> Option<i64> {
        if self.places == 0 { i64::try_from(self.mantissa).ok() } else { None }
    }

    /// The number's text; `None` for what readers of JSON do not hold: integers beyond 64 bits,
    /// signed or unsigned, and as many digits with a point.
    pub fn to_text(self) -> Option<String> {
        if self.mantissa < i128::from(i64::MIN) || self.mantissa > i128::from(u64::MAX) {
            return None;
        }
        if self.places == 0 {
            return Some(self.mantissa.to_string());
        }
        let places = self.places as usize;
        let digits = format!("{:0>width$}", self.mantissa.unsigned_abs(), width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        let sign = if self.mantissa < 0 { "-" } else { "" };
        Some(format!("{sign}{whole}.{fraction}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_numbers() {
        let check = |a: &str, b: &str, expected: Ordering| {
            let of = |text| Decimal::of(text).unwrap();
            assert_eq!(of(a).cmp(&of(b)), expected, "{a} {b}");
            assert_eq!(of(b).cmp(&of(a)), expected.reverse(), "{b} {a}");
            assert_eq!(of(a) == of(b), expected == Ordering::Equal);
        };
        check("9", "10", Ordering::Less);
        check("0.9", "0.10", Ordering::Greater);
        check("-9", "-10", Ordering::Greater);
        check("-1", "0", Ordering::Less);
        check("0", "0.001", Ordering::Less);
        check("-0", "0.00", Ordering::Equal);
        check("1e2", "100.0", Ordering::Equal);
        check("120", "12E+1", Ordering::Equal);
        check("1e400", "9e399", Ordering::Greater);
        check("18446744073709551616", "18446744073709551615", Ordering::Greater);
        check("1.5e-3", "0.0015", Ordering::Equal);
        assert_eq!(Decimal::of("1e99999999999999999999"), None);
    }

    #[test]
    fn sums() {
        let check = |a: &str, b: &str, sum: Option<&str>| {
            let of = |text| Amount::of(text).unwrap();
            let text = of(a).checked_add(of(b)).and_then(Amount::to_text);
            assert_eq!(text.as_deref(), sum, "{a} {b}");
        };
        check("1", "2", Some("3"));
        check("1.10", "2.2", Some("3.30"));
        check("0.1", "0.2", Some("0.3"));
        check("-0.05", "0", Some("-0.05"));
        check("1e2", "5e-1", Some("100.5"));
        check("18446744073709551614", "1", Some("18446744073709551615"));
        check("18446744073709551615", "1", None);
        check("-9223372036854775808", "-1", None);
        check("170141183460469231731687303715884105727", "1", None);
        assert_eq!(Amount::of("1e40"), None);
        assert_eq!(Amount::of("1e999999999999"), None);
        assert_eq!(Amount::of(&format!("0.{}1", "0".repeat(30))), None);
    }
}
