//! Lengths of time as Istio's users write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, never negative. Reads what Go's `time.ParseDuration` reads (`5s`, `1h2m`, `25ms`, `1.5s`), which
/// includes protobuf's JSON form; writes protobuf's JSON form (`1.500s`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub core::time::Duration);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("time: invalid duration {0:?}")]
    Malformed(String),
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit { text: String, unit: String },
    /// Over the 292 years that Go's durations hold.
    #[error("time: invalid duration {0:?}: too long")]
    TooLong(String),
    #[error("duration {0:?} must not be negative")]
    Negative(String),
}

impl Duration {
    pub const ZERO: Duration = Duration(core::time::Duration::ZERO);

    pub const fn from_millis(millis: u64) -> Duration {
        Duration(core::time::Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Duration {
        Duration(core::time::Duration::from_secs(secs))
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for core::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl std::ops::Deref for Duration {
    type Target = core::time::Duration;
    fn deref(&self) -> &core::time::Duration {
        &self.0
    }
}

impl std::str::FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Duration, DurationError> {
        let malformed = || DurationError::Malformed(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Duration::ZERO);
        }
        if rest.is_empty() {
            return Err(malformed());
        }
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
            let whole_length = digits(rest);
            let (whole, after) = rest.split_at(whole_length);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => after.split_at(digits(after)),
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(malformed());
            }
            let unit_length = after
                .find(|letter: char| letter == '.' || letter.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_length);
            let scale: u128 = match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                unit => {
                    return Err(DurationError::UnknownUnit {
                        text: text.to_owned(),
                        unit: unit.to_owned(),
                    });
                }
            };
            let too_long = || DurationError::TooLong(text.to_owned());
            /// Eighteen digits hold 292 years in nanoseconds' units; what follows a point beyond them is nothing.
            const DIGITS: usize = 18;
            let whole = whole.trim_start_matches('0');
            if whole.len() > DIGITS {
                return Err(too_long());
            }
            let number = |digits: &str| digits.parse::<u128>().unwrap_or(0);
            nanos += number(whole) * scale;
            let fraction = &fraction[..fraction.len().min(DIGITS)];
            nanos += number(fraction) * scale / 10u128.pow(fraction.len() as u32);
            if nanos > i64::MAX as u128 {
                return Err(too_long());
            }
            rest = after;
        }
        if negative && nanos > 0 {
            return Err(DurationError::Negative(text.to_owned()));
        }
        Ok(Duration(core::time::Duration::from_nanos(nanos as u64)))
    }
}

impl std::fmt::Display for Duration {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (secs, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if nanos == 0 {
            write!(out, "{secs}s")
        } else if nanos.is_multiple_of(1_000_000) {
            write!(out, "{secs}.{:03}s", nanos / 1_000_000)
        } else if nanos.is_multiple_of(1_000) {
            write!(out, "{secs}.{:06}s", nanos / 1_000)
        } else {
            write!(out, "{secs}.{nanos:09}s")
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(input)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_and_protobuf_write() {
        for (text, nanos) in [
            ("5s", 5_000_000_000),
            ("1h2m", 3_720_000_000_000),
            ("25ms", 25_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("0", 0),
            ("0s", 0),
            ("1m30.25s", 90_250_000_000),
            ("10us", 10_000),
            ("+3ns", 3),
            ("0.000000001s", 1),
        ] {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read.0.as_nanos(), nanos, "{text}");
            let again: Duration = read.to_string().parse().unwrap();
            assert_eq!(again, read, "{text}");
        }
        assert_eq!(Duration::from_millis(25).to_string(), "0.025s");
    }

    #[test]
    fn refuses_the_rest_in_gos_words() {
        for (text, words) in [
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("1s.", "time: invalid duration \"1s.\""),
            ("s", "time: invalid duration \"s\""),
            ("-1s", "duration \"-1s\" must not be negative"),
            ("9999999h", "time: invalid duration \"9999999h\": too long"),
            ("5 s", "time: unknown unit \" s\" in duration \"5 s\""),
        ] {
            assert_eq!(
                text.parse::<Duration>().unwrap_err().to_string(),
                words,
                "{text}"
            );
        }
    }
}
