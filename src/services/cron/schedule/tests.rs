//! Tests schedules against tables, on days when the offset changes, and against a model that checks
//! every minute.

use std::collections::BTreeSet;

use super::{MINUTE_MS, Schedule};
use crate::base::clock::{DAY_MS, civil_from_days, days_from_civil, format_ms, parse_datetime};
use crate::services::cron::zone::Zone;
use crate::tests::rng;
use crate::tests::rng::Rng;

fn zone(name: &str) -> Zone {
    Zone::parse(name).unwrap()
}

/// The due times after a moment, as many as expected.
#[track_caller]
fn check(schedule: &str, name: &str, after: &str, expected: &[&str]) {
    let (parsed, zone) = (Schedule::parse(schedule).unwrap(), zone(name));
    let mut at = parse_datetime(after).unwrap();
    for (number, expected) in expected.iter().enumerate() {
        let next = parsed.next(at, &zone).unwrap();
        let expected_ms = parse_datetime(expected).unwrap();
        let shown = format_ms(next);
        assert_eq!(next, expected_ms, "{schedule} {name} {number}: {shown}");
        at = next;
    }
}

#[track_caller]
fn refused(schedule: &str, part: &str) {
    let error = Schedule::parse(schedule).unwrap_err();
    let message = &error.field_errors()["schedule"].message;
    assert!(message.contains(part), "{schedule:?}: {message}");
}

#[test]
fn fields_are_numbers_names_ranges_steps_and_lists() {
    let after = "2026-11-23T08:00:30Z";
    for (schedule, expected) in [
        ("* * * * *", &["2026-11-23T08:01", "2026-11-23T08:02"][..]),
        ("*/15 * * * *", &["2026-11-23T08:15", "2026-11-23T08:30"]),
        (
            "5-20/10 9 * * *",
            &["2026-11-23T09:05", "2026-11-23T09:15", "2026-11-24T09:05"],
        ),
        ("0 0 1,15 * *", &["2026-12-01", "2026-12-15", "2027-01-01"]),
        ("0 12 * jan-Feb MON", &["2027-01-04T12:00"]),
        (
            "0 12 * * 5-7",
            &["2026-11-27T12:00", "2026-11-28T12:00", "2026-11-29T12:00"],
        ),
        (
            "0 12 * * fri-sun",
            &["2026-11-27T12:00", "2026-11-28T12:00", "2026-11-29T12:00"],
        ),
        ("0 12 * * 0", &["2026-11-29T12:00"]),
        ("0 12 * * 7", &["2026-11-29T12:00"]),
        ("0 12 * * SUN,3", &["2026-11-25T12:00", "2026-11-29T12:00"]),
        // Both are restricted: either matches.
        (
            "0 0 13 * FRI",
            &["2026-11-27", "2026-12-04", "2026-12-11", "2026-12-13"],
        ),
        // One of them begins with `*`: both must match.
        ("0 0 */2 * MON", &["2026-12-07", "2026-12-21"]),
        ("0 0 13 * ?", &["2026-12-13"]),
        ("0 0 ? * FRI", &["2026-11-27"]),
        ("0 0 31 * *", &["2026-12-31", "2027-01-31", "2027-03-31"]),
        ("59 23 31 12 *", &["2026-12-31T23:59", "2027-12-31T23:59"]),
        ("@hourly", &["2026-11-23T09:00"]),
        (" @Daily ", &["2026-11-24"]),
        ("@midnight", &["2026-11-24"]),
        ("@weekly", &["2026-11-29"]),
        ("@monthly", &["2026-12-01"]),
        ("@yearly", &["2027-01-01"]),
        ("@annually", &["2027-01-01"]),
    ] {
        check(schedule, "", after, expected);
    }
}

#[test]
fn what_is_wrong_is_said_of_the_field() {
    for (schedule, part) in [
        ("", "not 0"),
        ("* * * *", "not 4"),
        ("* * * * * *", "not 6"),
        ("60 * * * *", "minute \"60\": expected 0 to 59"),
        ("* 24 * * *", "hour \"24\""),
        ("* * 0 * *", "day of month \"0\""),
        (
            "* * * 13 *",
            "month \"13\": expected 1 to 12, or JAN to DEC",
        ),
        ("* * * * 8", "day of week \"8\""),
        ("* * * MAI *", "month \"MAI\""),
        ("JAN * * * *", "minute \"JAN\""),
        ("+5 * * * *", "minute"),
        ("1, * * * *", "minute \"\""),
        ("*/0 * * * *", "a step is a number from 1 to 59"),
        ("*/60 * * * *", "a step is a number"),
        ("*/ * * * *", "a step is a number"),
        ("5/10 * * * *", "a step needs a range, such as 5-59"),
        ("30-10 * * * *", "the range ends before it begins"),
        ("* 22-2 * * *", "the range ends before it begins"),
        ("* * * * FRI-MON", "the range ends before it begins"),
        ("? * * * *", "minute \"?\""),
        ("0 0 31 2 *", "The schedule never matches a date"),
        ("0 0 30 FEB *", "The schedule never matches a date"),
        ("0 0 31 4,6,9,11 *", "The schedule never matches a date"),
        ("@reboot", "Unknown schedule @reboot; use one of @hourly"),
        (&"1,".repeat(200), "at most 200 bytes"),
    ] {
        refused(schedule, part);
    }
    assert!(Zone::parse("Mars/Base").is_none() && Zone::parse(&"x".repeat(99)).is_none());
    assert!(Zone::parse("../../etc/passwd").is_none());
}

#[test]
fn leap_days_come_when_they_come() {
    let leap = "0 0 29 2 *";
    check(leap, "", "2026-01-01", &["2028-02-29", "2032-02-29"]);
    check(leap, "", "2096-02-29", &["2104-02-29"]);
    check(leap, "", "2399-01-01", &["2400-02-29"]);
    // Only on a Sunday: once in 28 years, and around 2100 in 40.
    check(
        "0 0 29 2 */7",
        "",
        "2026-01-01",
        &["2032-02-29", "2060-02-29", "2088-02-29", "2128-02-29"],
    );
}

/// 2026: forward at 02:00 on the 29th of March, back at 03:00 on the 25th of October.
#[test]
fn berlin() {
    let name = "Europe/Berlin";
    // A skipped time runs once, at the jump.
    check(
        "30 2 * * *",
        name,
        "2026-03-28T00:00Z",
        &[
            "2026-03-28T01:30Z",
            "2026-03-29T01:00Z",
            "2026-03-30T00:30Z",
        ],
    );
    check(
        "*/10 2 * * *",
        name,
        "2026-03-29T00:00Z",
        &["2026-03-29T01:00Z", "2026-03-30T00:00Z"],
    );
    check(
        "0 2,3 * * *",
        name,
        "2026-03-29T00:00Z",
        &["2026-03-29T01:00Z", "2026-03-30T00:00Z"],
    );
    check(
        "15 2,3 * * *",
        name,
        "2026-03-29T00:00Z",
        &["2026-03-29T01:00Z", "2026-03-29T01:15Z"],
    );
}

#[test]
fn berlin_in_october_and_intervals() {
    let name = "Europe/Berlin";
    // A repeated local time runs at the first occurrence.
    check(
        "30 2 * * *",
        name,
        "2026-10-25T00:00Z",
        &["2026-10-25T00:30Z", "2026-10-26T01:30Z"],
    );
    check(
        "30 2 * * *",
        name,
        "2026-10-25T01:00Z",
        &["2026-10-26T01:30Z"],
    );
    check(
        "0 3 * * *",
        name,
        "2026-10-25T00:00Z",
        &["2026-10-25T02:00Z"],
    );
    // Intervals keep their length.
    check(
        "0 * * * *",
        name,
        "2026-03-29T00:30Z",
        &["2026-03-29T01:00Z", "2026-03-29T02:00Z"],
    );
    check(
        "30 * * * *",
        name,
        "2026-10-25T00:00Z",
        &[
            "2026-10-25T00:30Z",
            "2026-10-25T01:30Z",
            "2026-10-25T02:30Z",
        ],
    );
    check(
        "0 */2 * * *",
        name,
        "2026-10-25T00:00Z",
        &["2026-10-25T01:00Z"],
    );
    check(
        "0 */2 * * *",
        name,
        "2026-03-28T23:30Z",
        &["2026-03-29T02:00Z", "2026-03-29T04:00Z"],
    );
    check(
        "* * * * *",
        name,
        "2026-03-29T00:59Z",
        &["2026-03-29T01:00Z", "2026-03-29T01:01Z"],
    );
}

/// 2026: forward at 02:00 on the 8th of March, back at 02:00 on the 1st of November.
#[test]
fn new_york() {
    let name = "America/New_York";
    check(
        "30 2 * * *",
        name,
        "2026-03-08T00:00Z",
        &["2026-03-08T07:00Z", "2026-03-09T06:30Z"],
    );
    check(
        "30 1 * * *",
        name,
        "2026-11-01T00:00Z",
        &["2026-11-01T05:30Z", "2026-11-02T06:30Z"],
    );
    check(
        "30 */1 * * *",
        name,
        "2026-11-01T05:00Z",
        &["2026-11-01T05:30Z", "2026-11-01T06:30Z"],
    );
    // The last day of the year ends later there.
    check("@yearly", name, "2026-12-31T12:00Z", &["2027-01-01T05:00Z"]);
}

/// Half an hour: forward at 02:00 on the 4th of October, back at 02:00 on the 5th of April.
#[test]
fn lord_howe() {
    let name = "Australia/Lord_Howe";
    check(
        "15 2 * * *",
        name,
        "2026-10-03T00:00Z",
        &["2026-10-03T15:30Z", "2026-10-04T15:15Z"],
    );
    check(
        "45 1 * * *",
        name,
        "2026-04-04T00:00Z",
        &["2026-04-04T14:45Z", "2026-04-05T15:15Z"],
    );
    check(
        "45 * * * *",
        name,
        "2026-04-04T14:00Z",
        &[
            "2026-04-04T14:45Z",
            "2026-04-04T15:15Z",
            "2026-04-04T16:15Z",
        ],
    );
}

/// Back for Ramadan and forward again; and zones that moved for good, one of them over a whole day.
#[test]
fn other_changes() {
    // 2026: back at 03:00 on the 15th of February, forward at 02:00 on the 22nd of March.
    let name = "Africa/Casablanca";
    check(
        "30 2 * * *",
        name,
        "2026-02-14T12:00Z",
        &["2026-02-15T01:30Z", "2026-02-16T02:30Z"],
    );
    check(
        "30 2 * * *",
        name,
        "2026-03-21T12:00Z",
        &["2026-03-22T02:00Z", "2026-03-23T01:30Z"],
    );
    check(
        "0 0 * * *",
        "Asia/Almaty",
        "2024-02-28T12:00Z",
        &[
            "2024-02-28T18:00Z",
            "2024-02-29T19:00Z",
            "2024-03-01T19:00Z",
        ],
    );
    check(
        "0 9 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00Z",
        &[
            "2011-12-29T19:00Z",
            "2011-12-30T10:00Z",
            "2011-12-30T19:00Z",
        ],
    );
}

#[test]
fn the_last_time_is_found_without_going_through_all() {
    let ms = |text: &str| parse_datetime(text).unwrap();
    for (schedule, after, until, expected) in [
        (
            "* * * * *",
            "2000-01-01",
            "2026-01-01T00:00:30Z",
            Some("2026-01-01"),
        ),
        ("0 0 1 1 *", "1990-01-01", "2026-06-01", Some("2026-01-01")),
        ("0 0 29 2 *", "1990-01-01", "2027-06-01", Some("2024-02-29")),
        (
            "0 3 * * *",
            "2026-01-01",
            "2026-01-01T03:00:00Z",
            Some("2026-01-01T03:00"),
        ),
        ("0 3 * * *", "2026-01-01T03:00", "2026-01-02T02:59", None),
        ("0 3 * * *", "2026-01-01T03:00", "2025-01-01", None),
    ] {
        let parsed = Schedule::parse(schedule).unwrap();
        let found = parsed.last(ms(after), ms(until), &Zone::UTC);
        assert_eq!(found, expected.map(ms), "{schedule} {after}");
    }
}

/// A schedule as sets, and one of the ways to write it.
struct Model {
    sets: [BTreeSet<u32>; 5],
    is_open: [bool; 5],
    text: String,
}

impl Model {
    fn random(rng: &mut Rng) -> Model {
        let ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
        let parts = ranges.map(|(from, to)| random_field(rng, from, to));
        Model {
            is_open: [0, 1, 2, 3, 4].map(|at: usize| parts[at].1.starts_with('*')),
            text: parts
                .iter()
                .map(|it| it.1.as_str())
                .collect::<Vec<_>>()
                .join(" "),
            sets: parts.map(|it| it.0),
        }
    }

    fn fits(&self, wall_minute: i64) -> bool {
        let day = wall_minute.div_euclid(1440);
        let (_, month, of_month) = civil_from_days(day);
        let has = |at: usize, number: i64| self.sets[at].contains(&u32::try_from(number).unwrap());
        let (month_day, week_day) = (has(2, of_month), has(4, (day + 4).rem_euclid(7)));
        let fits_day = match self.is_open[2] || self.is_open[4] {
            true => month_day && week_day,
            false => month_day || week_day,
        };
        fits_day
            && has(3, month)
            && has(1, wall_minute.rem_euclid(1440) / 60)
            && has(0, wall_minute.rem_euclid(60))
    }
}

fn random_field(rng: &mut Rng, from: u32, to: u32) -> (BTreeSet<u32>, String) {
    let number = |rng: &mut Rng, from: u32, to: u32| {
        from + u32::try_from(rng.below(usize::try_from(to - from + 1).unwrap())).unwrap()
    };
    match rng.below(6) {
        0 | 1 => ((from..=to).collect(), "*".to_owned()),
        2 => {
            let step = number(rng, 1, to.min(20));
            let set = (from..=to).step_by(step as usize).collect();
            (set, format!("*/{step}"))
        }
        3 => {
            let first = number(rng, from, to);
            let last = number(rng, first, to);
            let step = number(rng, 1, 5.min(to));
            let set = (first..=last).step_by(step as usize).collect();
            (set, format!("{first}-{last}/{step}"))
        }
        _ => {
            let count = rng.between(1, 4);
            let list: Vec<u32> = (0..count).map(|_| number(rng, from, to)).collect();
            let text: Vec<String> = list.iter().map(u32::to_string).collect();
            (list.into_iter().collect(), text.join(","))
        }
    }
}

/// All due times of some days according to the model.
fn due_by_model(model: &Model, zone: &Zone, from: i64, until: i64) -> Vec<i64> {
    let wall = |minute: i64| zone.local_time(minute * MINUTE_MS).unwrap() / MINUTE_MS;
    let is_interval = model.is_open[1];
    // The local times of the last two days.
    let mut shown: BTreeSet<i64> = (from - 2880..from).map(wall).collect();
    let mut due = Vec::new();
    for minute in from..until {
        let now = wall(minute);
        let mut is_due = model.fits(now) && (is_interval || !shown.contains(&now));
        if !is_interval {
            let before = wall(minute - 1);
            is_due |= (before + 1..now).any(|left_out| model.fits(left_out));
        }
        shown.insert(now);
        if is_due {
            due.push(minute * MINUTE_MS);
        }
    }
    due
}

#[test]
fn random_schedules_are_due_as_a_naive_model_says() {
    let zones = [
        "",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "America/Sao_Paulo",
        "Africa/Cairo",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "America/St_Johns",
        "Asia/Almaty",
        "Antarctica/Troll",
    ]
    .map(zone);
    rng::rounds("random_schedules", 150, |rng, _| {
        compare_with_model(rng, &zones);
        1
    });
}

fn compare_with_model(rng: &mut Rng, zones: &[Zone]) {
    let model = Model::random(rng);
    let schedule = match Schedule::parse(&model.text) {
        Ok(schedule) => schedule,
        Err(error) => return assert!(error.to_string().contains("never"), "{}", model.text),
    };
    let zone = rng.pick(zones);
    let start = days_from_civil(2005, 1, 1) * DAY_MS;
    let days = i64::try_from(rng.below(35 * 365)).unwrap();
    let somewhere = start + days * DAY_MS;
    // Most of the time around a change of the clocks.
    let from = match zone.next_change(somewhere) {
        Some(change) if !rng.one_in(4) => change - 2 * DAY_MS,
        _ => somewhere,
    } / MINUTE_MS;
    let until = from + 5 * 1440;
    let expected = due_by_model(&model, zone, from, until);
    let (mut found, mut at) = (Vec::new(), from * MINUTE_MS - 1);
    while let Some(next) = schedule.next(at, zone).filter(|it| *it < until * MINUTE_MS) {
        assert!(next > at);
        found.push(next);
        at = next;
    }
    assert_eq!(
        found,
        expected,
        "{} in {zone:?} from {}",
        model.text,
        format_ms(from * MINUTE_MS)
    );
    let last = schedule.last(from * MINUTE_MS - 1, until * MINUTE_MS - 1, zone);
    assert_eq!(last, expected.last().copied(), "{}", model.text);
}
