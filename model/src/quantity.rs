//! Kubernetes quantities (`100m`, `1.5Gi`, `2e3`): exact values and canonical text.
//!
//! A value is held as a count of billionths, which is the finest step that Kubernetes keeps;
//! finer input is rounded away from zero, and values are capped at 2^63 - 1 as there.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
/// Kubernetes caps what it parses at the largest 64-bit integer.
const MAX_NANOS: i128 = (i64::MAX as i128) * NANOS_PER_UNIT;
/// Digits that a number may have: far beyond any value below the cap, so that hostile input
/// cannot make the arithmetic below expensive.
const MAX_DIGITS: usize = 64;

/// How a quantity writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1500m`, `12k`
    DecimalSi,
    /// `12Mi`
    BinarySi,
    /// `12e6`
    DecimalExponent,
}

/// A fixed-point number with the family of suffixes it was written in.
///
/// Equality and order compare values only: `1` equals `1000m`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// What a suffix multiplies by.
enum Scale {
    Decimal(i32, Format),
    Binary(u32),
}

fn scale(suffix: &str) -> Option<Scale> {
    let decimal = |exponent| Some(Scale::Decimal(exponent, Format::DecimalSi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => Some(Scale::Binary(10)),
        "Mi" => Some(Scale::Binary(20)),
        "Gi" => Some(Scale::Binary(30)),
        "Ti" => Some(Scale::Binary(40)),
        "Pi" => Some(Scale::Binary(50)),
        "Ei" => Some(Scale::Binary(60)),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            Some(Scale::Decimal(exponent, Format::DecimalExponent))
        }
    }
}

/// `digits` × 10^`exponent` in billionths, rounded away from zero; `None` when over the cap.
fn decimal_nanos(digits: &[u8], exponent: i64) -> Option<i128> {
    let significant: Vec<u8> = digits.iter().copied().skip_while(|d| *d == b'0').collect();
    if significant.is_empty() {
        return Some(0);
    }
    let shift = exponent + 9;
    let (kept, padding, inexact) = if shift >= 0 {
        (significant.as_slice(), shift, false)
    } else {
        let drop = usize::try_from(-shift)
            .unwrap_or(usize::MAX)
            .min(significant.len());
        let (kept, dropped) = significant.split_at(significant.len() - drop);
        // Shifting by more than all digits still leaves something above zero to round up.
        (kept, 0, dropped.iter().any(|d| *d != b'0'))
    };
    let mut value: i128 = 0;
    for digit in kept {
        value = value
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
    }
    for _ in 0..padding {
        value = value.checked_mul(10)?;
        if value > MAX_NANOS {
            return None;
        }
    }
    if inexact {
        value = value.checked_add(1)?;
    }
    Some(value)
}

impl Quantity {
    /// Zero, written decimally.
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// Reads Kubernetes' text form.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let whole_length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, mut rest) = rest.split_at(whole_length);
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let length = after.bytes().take_while(u8::is_ascii_digit).count();
            (fraction, rest) = after.split_at(length);
        }
        if !well_formed_suffix(rest) || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        let scale = scale(rest).ok_or(QuantityError::Suffix)?;
        let mut digits = whole.trim_start_matches('0').as_bytes().to_vec();
        digits.extend_from_slice(fraction.as_bytes());
        if digits.len() > MAX_DIGITS {
            return Err(QuantityError::Numeric);
        }
        let fraction_exponent = -(fraction.len() as i64);
        let (magnitude, format) = match scale {
            Scale::Decimal(exponent, format) => (
                decimal_nanos(&digits, fraction_exponent + i64::from(exponent))
                    .unwrap_or(MAX_NANOS),
                format,
            ),
            Scale::Binary(bits) => {
                let nanos = binary_nanos(&digits, fraction.len(), bits).unwrap_or(MAX_NANOS);
                // Below one there is no binary text that reads back as the same value.
                let format = if nanos > 0 && nanos < NANOS_PER_UNIT {
                    Format::DecimalSi
                } else {
                    Format::BinarySi
                };
                (nanos, format)
            }
        };
        let magnitude = magnitude.min(MAX_NANOS);
        Ok(Quantity {
            nanos: if negative { -magnitude } else { magnitude },
            format,
        })
    }

    /// A whole number of units.
    pub fn from_value(value: i64, format: Format) -> Quantity {
        Quantity {
            nanos: i128::from(value) * NANOS_PER_UNIT,
            format,
        }
    }

    /// A number of thousandths, as for CPU.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity {
            nanos: i128::from(milli) * 1_000_000,
            format: Format::DecimalSi,
        }
    }

    /// Thousandths, rounded up (away from zero).
    pub fn milli(&self) -> i128 {
        divide_away_from_zero(self.nanos, 1_000_000)
    }

    /// Whole units, rounded up (away from zero).
    pub fn value(&self) -> i128 {
        divide_away_from_zero(self.nanos, NANOS_PER_UNIT)
    }

    /// Billionths, exactly.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number of units (extended resources and counts must be).
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS_PER_UNIT == 0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The sum, in the first operand's format unless that is zero.
    #[allow(
        clippy::should_implement_trait,
        reason = "it saturates, which an operator would hide"
    )]
    pub fn add(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_add(other.nanos),
            format: self.format_beside(&other),
        }
    }

    /// The difference, in the first operand's format unless that is zero.
    #[allow(
        clippy::should_implement_trait,
        reason = "it saturates, which an operator would hide"
    )]
    pub fn sub(self, other: Quantity) -> Quantity {
        Quantity {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: self.format_beside(&other),
        }
    }

    fn format_beside(&self, other: &Quantity) -> Format {
        if self.is_zero() {
            other.format
        } else {
            self.format
        }
    }
}

/// Letters of any suffix, a sign, digits, and nothing after them.
fn well_formed_suffix(suffix: &str) -> bool {
    let rest =
        suffix.trim_start_matches(['e', 'E', 'i', 'n', 'u', 'm', 'k', 'K', 'M', 'G', 'T', 'P']);
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// `digits` with `fraction` of them behind the point, × 2^`bits`, in billionths rounded up.
fn binary_nanos(digits: &[u8], fraction: usize, bits: u32) -> Option<i128> {
    let mut value: i128 = 0;
    // Whole part and fraction apart: only the whole part can exceed the cap.
    let (whole, fraction_digits) = digits.split_at(digits.len().saturating_sub(fraction));
    for digit in whole {
        value = value
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
        if value > i128::from(i64::MAX) {
            return None;
        }
    }
    value = value.checked_mul(1i128 << bits)?;
    if value > i128::from(i64::MAX) {
        return None;
    }
    let mut nanos = value * NANOS_PER_UNIT;
    if !fraction_digits.is_empty() {
        // 0.ddd × 2^bits × 10^9, by long multiplication from the last digit: each step keeps
        // value < 2^60 × 10^9 < 2^90, and remembers whether anything was cut off.
        let unit = (1i128 << bits) * NANOS_PER_UNIT;
        let mut accumulated: i128 = 0;
        let mut inexact = false;
        for digit in fraction_digits.iter().rev() {
            let sum = accumulated + unit * i128::from(digit - b'0');
            inexact |= sum % 10 != 0;
            accumulated = sum / 10;
        }
        nanos += accumulated + i128::from(inexact);
    }
    Some(nanos)
}

fn divide_away_from_zero(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    match (value % divisor).cmp(&0) {
        Ordering::Equal => quotient,
        Ordering::Greater => quotient + 1,
        Ordering::Less => quotient - 1,
    }
}

impl fmt::Display for Quantity {
    /// Kubernetes' canonical form: no fraction, the largest suffix that keeps the value exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi
            && self.is_whole()
            && self.nanos.abs() >= 1024 * NANOS_PER_UNIT;
        if binary {
            let mut number = self.nanos / NANOS_PER_UNIT;
            let mut steps = 0;
            while number % 1024 == 0 && steps < 6 {
                number /= 1024;
                steps += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][steps];
            return write!(f, "{number}{suffix}");
        }
        let mut number = self.nanos;
        let mut exponent = -9;
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return match exponent {
                0 => write!(f, "{number}"),
                _ => write!(f, "{number}e{exponent}"),
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{number}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Quantity::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text)
            .map(|q| q.to_string())
            .unwrap_or_else(|e| format!("error: {e}"))
    }

    #[test]
    fn canonical_forms_are_those_of_kubernetes() {
        for (text, want) in [
            ("0", "0"),
            ("0n", "0"),
            ("-0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("0001000", "1k"),
            ("0.001", "1m"),
            ("0.0001k", "100m"),
            (".5", "500m"),
            ("1.", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("100000", "100k"),
            ("1000000", "1M"),
            ("12345678901", "12345678901"),
            ("1Ki", "1Ki"),
            ("8Ki", "8Ki"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("0.5Mi", "512Ki"),
            ("0.5Ki", "512"),
            ("1.1Ki", "1126400m"),
            ("0.0001Ki", "102400u"),
            ("7Mi", "7Mi"),
            ("98Ki", "98Ki"),
            ("3e3", "3e3"),
            ("30e2", "3e3"),
            ("1E6", "1e6"),
            ("1e0", "1"),
            ("1e-3", "1e-3"),
            ("1.2e-3", "1200e-6"),
            ("1E", "1E"),
            ("5u", "5u"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("0.00000000001", "1n"),
            ("-0.1n", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("1000Ei", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text), want, "{text}");
        }
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in [
            "", " 1", "1 ", "aoeu", "1+1.0M", "0.1am", "1.1.M", "--1", ".", "Mi", "-3.01e-x",
        ] {
            assert_eq!(
                Quantity::parse(text).unwrap_err(),
                QuantityError::Format,
                "{text}"
            );
        }
        for text in ["0.1mi", "1i", "-3.01i", "1Mii", "-3.01e-", "1mM"] {
            assert_eq!(
                Quantity::parse(text).unwrap_err(),
                QuantityError::Suffix,
                "{text}"
            );
        }
    }

    #[test]
    fn canonical_form_reads_back_as_the_same_value() {
        for text in [
            "1.5Gi",
            "0.1",
            "123456789n",
            "12e5",
            "1.1Ki",
            "77Pi",
            "999999999999999",
            "2.5E",
        ] {
            let first = Quantity::parse(text).unwrap();
            let again = Quantity::parse(&first.to_string()).unwrap();
            assert_eq!(first, again, "{text}");
            assert_eq!(first.to_string(), again.to_string(), "{text}");
        }
    }

    #[test]
    fn milli_and_value_round_up() {
        let q = Quantity::parse("1500u").unwrap();
        assert_eq!((q.milli(), q.value()), (2, 1));
        let q = Quantity::parse("-1500u").unwrap();
        assert_eq!((q.milli(), q.value()), (-2, -1));
        assert_eq!(Quantity::parse("64Mi").unwrap().value(), 64 << 20);
    }

    #[test]
    fn sums_keep_the_first_format() {
        let q = Quantity::ZERO
            .add(Quantity::parse("64Mi").unwrap())
            .add(Quantity::parse("1G").unwrap());
        assert_eq!(q.value(), (64 << 20) + 1_000_000_000);
        assert_eq!(q.format(), Format::BinarySi);
        assert_eq!(q.sub(Quantity::parse("1G").unwrap()).to_string(), "64Mi");
        assert!(Quantity::parse("1").unwrap() > Quantity::parse("999m").unwrap());
    }
}
