//! Times and amounts as people read them.

use crate::sys;

/// `18:55:01.123`, the local time of a moment in microseconds since 1970.
pub fn time_of_day(micros: u64) -> String {
    let time = sys::local_time((micros / 1_000_000) as i64);
    format!("{:02}:{:02}:{:02}.{:03}", time.hour, time.minute, time.second, micros / 1000 % 1000)
}

/// `2026-11-24 18:55:01.123`, likewise.
pub fn date_and_time(micros: u64) -> String {
    let time = sys::local_time((micros / 1_000_000) as i64);
    format!("{:04}-{:02}-{:02} {}", time.year, time.month, time.day, time_of_day(micros))
}

/// `2026-11-24T17:55:01.123456Z` (RFC 3339).
pub fn utc(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", micros % 1_000_000)
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970; eras of 400 years begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year_of_era + era * 400 + year, month, day)
}

/// A duration in nanoseconds with three digits that matter: `950 ns`, `1.24 ms`, `12.0 s`.
pub fn short(ns: u64) -> String {
    scaled(ns, ["s", "ms", "µs", "ns"])
}

/// Bytes: `0 B`, `980 B`, `1.24 kB`, `3.00 MB`.
pub fn bytes(count: u64) -> String {
    scaled(count, ["GB", "MB", "kB", "B"])
}

/// `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// In the largest of these units that fits; each is a thousand of the next, and the last is what is counted in.
fn scaled(amount: u64, [giga, mega, kilo, one]: [&str; 4]) -> String {
    let value = amount as f64;
    // 999.6 µs are read as 1.00 ms.
    let (size, unit) = [(1e9, giga), (1e6, mega), (1e3, kilo)].into_iter().find(|(size, _)| value >= 0.9995 * size).unwrap_or((1.0, one));
    digits(value / size, unit, size == 1.0)
}

fn digits(value: f64, unit: &str, whole: bool) -> String {
    match value {
        _ if whole => format!("{value:.0} {unit}"),
        value if value < 9.995 => format!("{value:.2} {unit}"),
        value if value < 99.95 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_amounts_have_three_digits() {
        let shorts: Vec<_> = [0, 950, 999, 1_000, 999_600, 1_240_000, 99_960_000, 12_000_000_000].into_iter().map(short).collect();
        assert_eq!(shorts, ["0 ns", "950 ns", "999 ns", "1.00 µs", "1.00 ms", "1.24 ms", "100 ms", "12.0 s"]);
        assert_eq!([0, 980, 1_240, 3_000_000].map(bytes), ["0 B", "980 B", "1.24 kB", "3.00 MB"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn utc_is_that_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(utc(951_827_696_000_001), "2000-02-29T12:34:56.000001Z");
        assert_eq!(utc(1_795_546_501_123_000), "2026-11-24T18:55:01.123000Z");
    }
}
