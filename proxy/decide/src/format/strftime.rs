//! Times as Envoy's `START_TIME` writes them, in UTC.

use super::put;

/// Writes a time given in nanoseconds since 1970 by a `strftime` format with Envoy's `%f` (nine
/// digits), `%3f` (that many) and `%s`; an empty format is `2006-01-02T15:04:05.000Z`.
pub fn strftime(format: &str, unix_nanos: u64, out: &mut String) {
    let format = if format.is_empty() {
        "%Y-%m-%dT%H:%M:%S.%3fZ"
    } else {
        format
    };
    let seconds = unix_nanos / 1_000_000_000;
    let fraction = unix_nanos % 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => put(out, year),
            Some('y') => put(out, format_args!("{:02}", year % 100)),
            Some('m') => put(out, format_args!("{month:02}")),
            Some('d') => put(out, format_args!("{day:02}")),
            Some('H') => put(out, format_args!("{hour:02}")),
            Some('M') => put(out, format_args!("{minute:02}")),
            Some('S') => put(out, format_args!("{second:02}")),
            Some('T') => put(out, format_args!("{hour:02}:{minute:02}:{second:02}")),
            Some('F') => put(out, format_args!("{year}-{month:02}-{day:02}")),
            Some('b' | 'h') => out.push_str(MONTHS[month as usize - 1]),
            Some('a') => out.push_str(DAYS[(seconds / 86_400 % 7) as usize]),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('s') => put(out, seconds),
            Some('f') => put(out, format_args!("{fraction:09}")),
            Some(digit @ '1'..='9') => {
                let digits = digit as usize - '0' as usize;
                if letters.next() == Some('f') {
                    let all = format!("{fraction:09}");
                    out.push_str(&all[..digits]);
                }
            }
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The first day of 1970 was a Thursday.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// Year, month and day of a day since 1970, by Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}
