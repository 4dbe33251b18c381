//! Schedules of five fields, and their next due times.
//!
//! The parser is our own because the difficulty is not parsing but days on which the UTC offset
//! changes, where the available libraries skip or repeat. The rules here are those of Vixie cron
//! and systemd:
//!
//! - A schedule whose hour field begins with `*` keeps its interval: it runs in both passes of a
//!   repeated hour and not in a skipped one.
//! - Any other schedule runs once for each of its times: at the first of two occurrences, and right
//!   after the jump if its time is skipped. Several times in one gap cause one run.
//!
//! If both day fields are restricted (neither begins with `*`), a day matches if either field
//! matches; otherwise both must match.

use crate::base::clock::{DAY_MS, civil_from_days, days_from_civil};
use crate::base::error::{Error, Result};
use crate::services::cron::zone::Zone;

/// Limit on the length of a schedule.
const TEXT_BYTES_MAX: usize = 200;
/// Limit of the search, in days. The rarest match is the 29th of February on one weekday around a
/// century that is not a leap year.
const DAYS_MAX: i64 = 50 * 366;
/// Limit of the search, in changes of the UTC offset.
const CHANGES_MAX: usize = 1000;
/// Limit of the search, in local times that repeat because the clock was set back.
const REPEATED_MAX: usize = 3000;
const MINUTE_MS: i64 = 60_000;
const MINUTES_PER_DAY: i64 = 1440;
const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const ALIASES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// See the module documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// The numbers of a field as a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// The field begins with `*`.
    is_wildcard: bool,
}

/// The syntax of a field.
struct FieldSpec {
    name: &'static str,
    from: u32,
    to: u32,
    /// The last number that `*` includes.
    wildcard_to: u32,
    /// Names of the numbers, from the first one.
    names: &'static [&'static str],
    /// The field accepts `?` for `*`.
    is_day: bool,
}

const fn field_spec(name: &'static str, from: u32, to: u32) -> FieldSpec {
    FieldSpec {
        name,
        from,
        to,
        wildcard_to: to,
        names: &[],
        is_day: false,
    }
}

const FIELD_SPECS: [FieldSpec; 5] = [
    field_spec("minute", 0, 59),
    field_spec("hour", 0, 23),
    FieldSpec {
        is_day: true,
        ..field_spec("day of month", 1, 31)
    },
    FieldSpec {
        names: &MONTHS,
        ..field_spec("month", 1, 12)
    },
    FieldSpec {
        names: &DAYS,
        is_day: true,
        wildcard_to: 6,
        ..field_spec("day of week", 0, 7)
    },
];

impl Schedule {
    pub fn parse(text: &str) -> Result<Schedule> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong(format!("Must be at most {TEXT_BYTES_MAX} bytes.")));
        }
        let alias = ALIASES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        if alias.is_none() && text.starts_with('@') {
            let names = ALIASES.map(|(name, _)| name).join(", ");
            return Err(wrong(format!(
                "Unknown schedule {text}; use one of {names}, or five fields."
            )));
        }
        let text = alias.map_or(text, |(_, fields)| fields);
        let words: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words[..] else {
            return Err(wrong(format!(
                "Must be five fields (minute, hour, day of month, month, day of week), not {}.",
                words.len()
            )));
        };
        let mut weekdays = FIELD_SPECS[4].parse(weekdays)?;
        // 7 is Sunday too.
        weekdays.bits = (weekdays.bits | weekdays.bits >> 7) & 0x7f;
        let schedule = Schedule {
            minutes: FIELD_SPECS[0].parse(minutes)?,
            hours: FIELD_SPECS[1].parse(hours)?,
            days: FIELD_SPECS[2].parse(days)?,
            months: FIELD_SPECS[3].parse(months)?,
            weekdays,
        };
        // The calendar repeats within the search limit.
        let start = days_from_civil(2000, 1, 1) * MINUTES_PER_DAY;
        match schedule.next_local_minute(start - 1) {
            Some(_) => Ok(schedule),
            None => Err(wrong("The schedule never matches a date.")),
        }
    }

    /// The next due time after a moment, in Unix milliseconds.
    pub fn next(&self, after_ms: i64, zone: &Zone) -> Option<i64> {
        match self.hours.is_wildcard {
            true => self.next_interval(after_ms, zone),
            false => self.next_time(after_ms, zone),
        }
    }

    /// The last due time after `after_ms` and not after `until_ms`.
    pub fn last(&self, after_ms: i64, until_ms: i64, zone: &Zone) -> Option<i64> {
        // Search short spans at the end first.
        for span_ms in [
            60 * MINUTE_MS,
            DAY_MS,
            40 * DAY_MS,
            400 * DAY_MS,
            until_ms.saturating_sub(after_ms),
        ] {
            let from = after_ms.max(until_ms.saturating_sub(span_ms));
            let mut found = None;
            let mut at = from;
            while let Some(next) = self.next(at, zone).filter(|next| *next <= until_ms) {
                (found, at) = (Some(next), next);
            }
            if found.is_some() || from == after_ms {
                return found;
            }
        }
        None
    }

    /// Between two changes of the offset, local time advances like UTC.
    fn next_interval(&self, after_ms: i64, zone: &Zone) -> Option<i64> {
        let mut after_ms = after_ms;
        for _ in 0..CHANGES_MAX {
            let local_ms = zone.local_time(after_ms)?;
            let minute = self.next_local_minute(local_ms.div_euclid(MINUTE_MS))?;
            let next_ms = minute * MINUTE_MS - (local_ms - after_ms);
            match zone.next_change(after_ms) {
                Some(change_ms) if next_ms >= change_ms => {
                    // The moment of the change has only the new local time.
                    after_ms = match self.fits_local_time(zone.local_time(change_ms)?) {
                        true => return Some(change_ms),
                        false => change_ms,
                    };
                }
                _ => return Some(next_ms),
            }
        }
        None
    }

    fn next_time(&self, after_ms: i64, zone: &Zone) -> Option<i64> {
        let mut minute = zone.local_time(after_ms)?.div_euclid(MINUTE_MS);
        for _ in 0..REPEATED_MAX {
            minute = self.next_local_minute(minute)?;
            let next_ms = zone.to_utc(minute * MINUTE_MS)?;
            if next_ms > after_ms {
                return Some(next_ms);
            }
        }
        None
    }

    fn fits_local_time(&self, local_ms: i64) -> bool {
        let minute = local_ms.div_euclid(MINUTE_MS);
        local_ms % MINUTE_MS == 0 && self.next_local_minute(minute - 1) == Some(minute)
    }

    /// The first matching local minute after this one, in minutes since 1970.
    fn next_local_minute(&self, after: i64) -> Option<i64> {
        let from = after + 1;
        let first = from.div_euclid(MINUTES_PER_DAY);
        let of_day = u32::try_from(from.rem_euclid(MINUTES_PER_DAY)).ok()?;
        if self.matches_day(first)
            && let Some(minute) = self.minute_of_day(of_day)
        {
            return Some(first * MINUTES_PER_DAY + minute);
        }
        let day = (first + 1..first + DAYS_MAX).find(|day| self.matches_day(*day))?;
        Some(day * MINUTES_PER_DAY + self.minute_of_day(0)?)
    }

    /// The first matching minute of a day, from this one on.
    fn minute_of_day(&self, from: u32) -> Option<i64> {
        let (hour, minute) = (from / 60, from % 60);
        let in_this = self
            .minutes
            .from(minute)
            .filter(|_| self.hours.has(hour))
            .map(|minute| hour * 60 + minute);
        let found = match in_this {
            Some(found) => found,
            None => self.hours.from(hour + 1)? * 60 + self.minutes.from(0)?,
        };
        Some(i64::from(found))
    }

    /// Reports whether a day matches, in days since 1970.
    fn matches_day(&self, day: i64) -> bool {
        let (_, month, of_month) = civil_from_days(day);
        let number = |number: i64| u32::try_from(number).unwrap_or(0);
        if !self.months.has(number(month)) {
            return false;
        }
        let fits_month = self.days.has(number(of_month));
        // 1970-01-01 was a Thursday.
        let fits_week = self.weekdays.has(number((day + 4).rem_euclid(7)));
        match self.days.is_wildcard || self.weekdays.is_wildcard {
            true => fits_month && fits_week,
            false => fits_month || fits_week,
        }
    }
}

impl Field {
    fn has(self, number: u32) -> bool {
        self.bits & (1 << number) != 0
    }

    /// The first number from this one on.
    fn from(self, number: u32) -> Option<u32> {
        let rest = self.bits.checked_shr(number).unwrap_or(0);
        (rest != 0).then(|| number + rest.trailing_zeros())
    }
}

impl FieldSpec {
    fn parse(&self, text: &str) -> Result<Field> {
        let mut bits = 0;
        for part in text.split(',') {
            bits |= self.parse_part(part)?;
        }
        let is_wildcard = text.starts_with('*') || (self.is_day && text.starts_with('?'));
        Ok(Field { bits, is_wildcard })
    }

    /// Parses one element of a list: a number, a range or `*`, the latter two with an optional
    /// step.
    fn parse_part(&self, part: &str) -> Result<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(self.parse_step(step)?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || (range == "?" && self.is_day) => (self.from, self.wildcard_to),
            Some((from, to)) => (self.number(from)?, self.number(to)?),
            None if step.is_some() => {
                let range = format!("{range}-{}/...", self.wildcard_to);
                return Err(self.wrong(part, &format!("a step needs a range, such as {range}")));
            }
            None => (self.number(range)?, self.number(range)?),
        };
        // In a range of weekdays, a final Sunday is 7.
        let is_sunday = self.wildcard_to < self.to && to == 0 && from > 0;
        let to = if is_sunday { self.to } else { to };
        if from > to {
            return Err(self.wrong(part, "the range ends before it begins"));
        }
        let numbers = (from..=to).step_by(step.unwrap_or(1));
        Ok(numbers.fold(0, |bits, number| bits | 1 << number))
    }

    fn parse_step(&self, text: &str) -> Result<usize> {
        let step = digits(text).filter(|step| (1..=self.to).contains(step));
        let step = step.and_then(|step| usize::try_from(step).ok());
        step.ok_or_else(|| self.wrong(text, &format!("a step is a number from 1 to {}", self.to)))
    }

    fn number(&self, text: &str) -> Result<u32> {
        let by_name = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text))
            .and_then(|at| u32::try_from(at).ok())
            .map(|at| at + self.from);
        let number = by_name.or_else(|| digits(text));
        let number = number.filter(|number| (self.from..=self.to).contains(number));
        number.ok_or_else(|| {
            let (from, to) = (self.from, self.to);
            let names = match (self.names.first(), self.names.last()) {
                (Some(first), Some(last)) => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            self.wrong(text, &format!("expected {from} to {to}{names}"))
        })
    }

    fn wrong(&self, text: &str, what: &str) -> Error {
        wrong(format!("{} {text:?}: {what}.", self.name))
    }
}

fn digits(text: &str) -> Option<u32> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::field("schedule", "validation_invalid_schedule", message)
}

#[cfg(test)]
mod tests;
