//! The time: the only caller of the system clock, and timestamps as strings.
//!
//! Timestamps are RFC 3339 in UTC with milliseconds (`2026-11-23T08:00:00.000Z`): fixed width, so
//! that string order is time order from year 0 to 9999. The calendar arithmetic is Howard Hinnant's
//! `days_from_civil` and its inverse (chrono-compatible low-level date algorithms, public domain).

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds in a day.
pub const DAY_MS: i64 = 86_400_000;
const YEAR_0_MS: i64 = -62_167_219_200_000;
const YEAR_9999_END_MS: i64 = 253_402_300_799_999;

/// Milliseconds since 1970-01-01T00:00:00Z; 0 if the clock is earlier.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the system"
)]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| {
            i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
        })
}

/// Milliseconds of a monotonic clock, since the first call. For waits and limits: the time of day
/// may be set back or forward.
pub fn uptime_ms() -> i64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// The present time as a timestamp.
pub fn now() -> String {
    format_ms(now_ms())
}

/// A time (milliseconds since 1970) as a timestamp. Years outside 0 to 9999 are clamped.
pub fn format_ms(ms: i64) -> String {
    let ms = ms.clamp(YEAR_0_MS, YEAR_9999_END_MS);
    let (days, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], rest / 3_600_000);
    put(&mut text[14..16], rest / 60_000 % 60);
    put(&mut text[17..19], rest / 1000 % 60);
    put(&mut text[20..23], rest % 1000);
    String::from_utf8_lossy(&text).into_owned()
}

/// Parses `YYYY-MM-DD` as days since 1970; none if the date does not exist.
pub fn parse_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (
        digits(&bytes[0..4])?,
        digits(&bytes[5..7])?,
        digits(&bytes[8..10])?,
    );
    let days = days_from_civil(year, month, day);
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

/// Parses a date, or a date and time separated by `T` or a space, as milliseconds since 1970.
/// Seconds, fraction and offset (`Z`, `UTC` or numeric, also after a space) are optional; the
/// default offset is UTC.
pub fn parse_datetime(text: &str) -> Option<i64> {
    let date_ms = parse_date(text.get(..10)?)? * DAY_MS;
    let rest = &text.as_bytes()[10..];
    let Some((&separator, time)) = rest.split_first() else {
        return Some(date_ms);
    };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let (time_ms, rest) = parse_time(time)?;
    let offset_ms = parse_offset(rest)?;
    let ms = date_ms + time_ms - offset_ms;
    (YEAR_0_MS..=YEAR_9999_END_MS).contains(&ms).then_some(ms)
}

/// Returns a date unchanged, and a date and time as a timestamp; none if the string is neither.
pub fn day_or_moment(text: &str) -> Option<String> {
    match parse_date(text) {
        Some(_) => Some(text.to_owned()),
        None => parse_datetime(text).map(format_ms),
    }
}

/// Parses an HTTP date (RFC 9110, 5.6.7), in the preferred form or one of the two obsolete ones, as
/// milliseconds since 1970.
pub fn parse_http_date(text: &str) -> Option<i64> {
    let date = httpdate::parse_http_date(text).ok()?;
    let elapsed = date.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(elapsed.as_millis()).ok()
}

fn parse_time(text: &[u8]) -> Option<(i64, &[u8])> {
    if text.len() < 5 || text[2] != b':' {
        return None;
    }
    let (hour, minute) = (digits(&text[0..2])?, digits(&text[3..5])?);
    let mut rest = &text[5..];
    let mut ms = (hour * 60 + minute) * 60_000;
    if rest.first() == Some(&b':') {
        let second = digits(rest.get(1..3)?)?;
        if second > 59 {
            return None;
        }
        ms += second * 1000;
        rest = &rest[3..];
        if rest.first() == Some(&b'.') {
            let length = rest[1..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if length == 0 || length > 9 {
                return None;
            }
            let fraction = &rest[1..=length];
            ms += (0..3).fold(0, |sum, at| {
                sum * 10 + fraction.get(at).map_or(0, |byte| i64::from(byte - b'0'))
            });
            rest = &rest[length + 1..];
        }
    }
    (hour < 24 && minute < 60).then_some((ms, rest))
}

fn parse_offset(text: &[u8]) -> Option<i64> {
    let text = match text {
        // An offset follows the space.
        [b' ', rest @ ..] if !rest.is_empty() => rest,
        text => text,
    };
    match text {
        [] | [b'Z' | b'z'] | b"UTC" => Some(0),
        [plus_or_minus @ (b'+' | b'-'), rest @ ..] => {
            let (hours, minutes) = match rest {
                [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => {
                    (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?)
                }
                _ => return None,
            };
            let ms = (hours * 60 + minutes) * 60_000;
            (hours < 24 && minutes < 60).then_some(if *plus_or_minus == b'-' { -ms } else { ms })
        }
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + i64::from(byte - b'0'))
    })
}

fn put(place: &mut [u8], mut number: i64) {
    for byte in place.iter_mut().rev() {
        *byte = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// The days since 1970 of a date.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The year, month and day of a number of days since 1970.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_dates_of_http() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse_http_date(text), Some(784_111_777_000), "{text}");
        }
        for text in [
            "",
            "120",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Now 1994 08:49:37 GMT",
            "Sun, 06 Nov 19945 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn timestamps_round_trip_over_the_whole_range() {
        for ms in [
            0,
            1,
            YEAR_0_MS,
            YEAR_9999_END_MS,
            951_782_400_000,
            1_795_420_800_123,
        ] {
            assert_eq!(parse_datetime(&format_ms(ms)), Some(ms));
        }
        assert_eq!(format_ms(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_four_centuries_exists_once() {
        let mut expected = parse_date("1900-01-01").unwrap();
        for year in 1900..2300 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(days) = parse_date(&format!("{year:04}-{month:02}-{day:02}")) {
                        assert_eq!(days, expected, "{year}-{month}-{day}");
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(expected, parse_date("2300-01-01").unwrap());
    }

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(
            parse_datetime(text).map(format_ms).as_deref(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn reads_what_people_write() {
        check("2026-01-02", Some("2026-01-02T00:00:00.000Z"));
        check("2026-01-02 03:04", Some("2026-01-02T03:04:00.000Z"));
        check("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05.000Z"));
        check(
            "2026-01-02 03:04:05.6789Z",
            Some("2026-01-02T03:04:05.678Z"),
        );
        check(
            "2026-01-02T03:04:05+02:00",
            Some("2026-01-02T01:04:05.000Z"),
        );
        check(
            "2026-01-02T03:04:05.5-0130",
            Some("2026-01-02T04:34:05.500Z"),
        );
        check("2026-01-02 03:04:05 UTC", Some("2026-01-02T03:04:05.000Z"));
        check(
            "2026-01-02 03:04:05.5 +0200",
            Some("2026-01-02T01:04:05.500Z"),
        );
    }

    #[test]
    fn refuses_what_is_no_moment() {
        for text in [
            "",
            "2026",
            "2026-02-29",
            "2026-13-01",
            "2026-01-02T",
            "2026-01-02T25:00",
            "2026-01-02T10:60",
            "2026-01-02T10:00:60Z",
            "2026-01-02T10:00:00.Z",
            "2026-01-02T10:00+1",
            "2026-01-02 10",
            "2026-01-02 10:00 ",
            "2026-01-02 10:00 02:00",
            "2026-01-02 UTC",
            "2026-01-02 10:00  UTC",
            "2026-01-02 10:00 CET",
            "2026-1-2",
            "02.01.2026",
            "Fri, 02 Jan 2026 10:00:00 GMT",
            "2026-01-02x10:00",
            "0000-01-01T00:00:00+23:00",
            "\u{e9}026-01-02",
            "2026-01-0\u{e9}",
        ] {
            check(text, None);
        }
    }
}
