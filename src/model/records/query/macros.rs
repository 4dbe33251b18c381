//! Macros of the current time, in UTC, with the names that PocketBase uses: moments such as
//! `@todayStart`, and numbers such as `@hour`.

use rusqlite::types::Value as Stored;

use super::coercion::ComparisonType;
use super::operand::ResolvedOperand;
use crate::base::clock;

/// The value of a macro at a moment; none if there is no such macro.
pub fn value(name: &str, now_ms: i64) -> Option<ResolvedOperand> {
    let days = now_ms.div_euclid(clock::DAY_MS);
    let (year, month, day) = clock::civil_from_days(days);
    let start = |year, month| clock::days_from_civil(year, month, 1) * clock::DAY_MS;
    let next_month = match month {
        12 => start(year + 1, 1),
        _ => start(year, month + 1),
    };
    let minutes = now_ms.rem_euclid(clock::DAY_MS) / 60_000;
    let number = |value| Some(ResolvedOperand::constant(Stored::Integer(value)));
    let ms = match name {
        "second" => return number(now_ms.rem_euclid(60_000) / 1000),
        "minute" => return number(minutes % 60),
        "hour" => return number(minutes / 60),
        // The first day of 1970 was a Thursday; Sunday is 0.
        "weekday" => return number((days + 4).rem_euclid(7)),
        "day" => return number(day),
        "month" => return number(month),
        "year" => return number(year),
        "now" => now_ms,
        "yesterday" => now_ms - clock::DAY_MS,
        "tomorrow" => now_ms + clock::DAY_MS,
        "todayStart" => days * clock::DAY_MS,
        "todayEnd" => (days + 1) * clock::DAY_MS - 1,
        "monthStart" => start(year, month),
        "monthEnd" => next_month - 1,
        "yearStart" => start(year, 1),
        "yearEnd" => start(year + 1, 1) - 1,
        _ => return None,
    };
    let value = ResolvedOperand::constant(Stored::Text(clock::format_ms(ms)));
    Some(value.of_kind(Some(ComparisonType::Datetime)))
}

#[cfg(test)]
mod tests {
    use super::super::operand::OperandValue;
    use super::*;

    #[test]
    fn macros_divide_the_time_in_utc() {
        for (now, name, expected) in [
            ("2026-12-31T23:59:58.500Z", "second", "58"),
            ("2026-12-31T23:59:58.500Z", "minute", "59"),
            ("2026-12-31T23:59:58.500Z", "hour", "23"),
            ("2026-12-31T23:59:58.500Z", "weekday", "4"),
            ("2026-03-01T00:00:00.000Z", "weekday", "0"),
            ("2026-12-31T23:59:58.500Z", "day", "31"),
            ("2026-12-31T23:59:58.500Z", "month", "12"),
            ("2026-12-31T23:59:58.500Z", "year", "2026"),
            (
                "2026-12-31T23:59:58.500Z",
                "tomorrow",
                "2027-01-01T23:59:58.500Z",
            ),
            (
                "2026-12-31T23:59:58.500Z",
                "todayEnd",
                "2026-12-31T23:59:59.999Z",
            ),
            (
                "2026-12-31T23:59:58.500Z",
                "monthStart",
                "2026-12-01T00:00:00.000Z",
            ),
            (
                "2026-12-31T23:59:58.500Z",
                "monthEnd",
                "2026-12-31T23:59:59.999Z",
            ),
            (
                "2028-02-10T12:00:00.000Z",
                "monthEnd",
                "2028-02-29T23:59:59.999Z",
            ),
            (
                "2028-02-10T12:00:00.000Z",
                "yearStart",
                "2028-01-01T00:00:00.000Z",
            ),
            (
                "2028-02-10T12:00:00.000Z",
                "yearEnd",
                "2028-12-31T23:59:59.999Z",
            ),
        ] {
            let now = clock::parse_datetime(now).unwrap();
            let text = match value(name, now).unwrap().value {
                OperandValue::Constant(Stored::Integer(number)) => number.to_string(),
                OperandValue::Constant(Stored::Text(text)) => text,
                _ => panic!("a constant"),
            };
            assert_eq!(text, expected, "{name}");
        }
        assert!(value("later", 0).is_none());
    }
}
