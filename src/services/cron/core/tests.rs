//! Tests the state machine in single scenarios, and in random worlds in which the clock is set, the
//! server crashes and jobs take long.

use std::collections::{BTreeMap, BTreeSet};

use super::{CLOCK_BEHIND_MAX_MS, CronCore, JobPlan, JobState, LATENESS_MAX_MS};
use crate::base::clock::{format_ms, parse_datetime};
use crate::services::cron::schedule::Schedule;
use crate::services::cron::zone::Zone;
use crate::tests::rng;
use crate::tests::rng::Rng;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn ms(text: &str) -> i64 {
    parse_datetime(text).unwrap()
}

fn plan(schedule: &str) -> JobPlan {
    JobPlan {
        schedule: Schedule::parse(schedule).unwrap(),
        zone: Zone::UTC,
        text: schedule.to_owned(),
    }
}

fn plans(schedule: &str) -> BTreeMap<String, JobPlan> {
    BTreeMap::from([("job".to_owned(), plan(schedule))])
}

/// A core with one job that begins at a time.
fn core(schedule: &str, now: &str) -> CronCore {
    let mut core = CronCore::default();
    core.plan(ms(now), plans(schedule), &BTreeMap::new());
    core
}

/// The due times at a moment; each started run ends at once.
fn tick(core: &mut CronCore, now: &str) -> Vec<String> {
    let due = core.tick(ms(now));
    core.finish("job");
    due.iter()
        .map(|due| format_ms(due.due_ms)[..16].to_owned())
        .collect()
}

/// The same core after the server has started again.
fn restart(core: &CronCore, schedule: &str, now: &str) -> CronCore {
    let (text, state) = core.state("job").unwrap();
    let stored = BTreeMap::from([("job".to_owned(), (text.to_owned(), state))]);
    let mut core = CronCore::default();
    core.plan(ms(now), plans(schedule), &stored);
    core
}

#[test]
fn a_job_runs_once_at_each_of_its_times() {
    let mut core = core("0 3 * * *", "2026-01-01T03:00");
    assert!(
        tick(&mut core, "2026-01-01T03:00:00Z").is_empty(),
        "made at that time"
    );
    assert!(tick(&mut core, "2026-01-02T02:59:59Z").is_empty());
    assert_eq!(
        tick(&mut core, "2026-01-02T03:00:00Z"),
        ["2026-01-02T03:00"]
    );
    assert!(tick(&mut core, "2026-01-02T03:00:01Z").is_empty());
    assert_eq!(
        tick(&mut core, "2026-01-03T03:00:01Z"),
        ["2026-01-03T03:00"]
    );
}

#[test]
fn missed_times_are_one_run() {
    let mut core = core("*/5 * * * *", "2026-01-01");
    assert_eq!(
        tick(&mut core, "2026-01-01T00:05:00Z"),
        ["2026-01-01T00:05"]
    );
    // The clock jumps; then the server is down.
    assert_eq!(
        tick(&mut core, "2026-01-03T00:07:00Z"),
        ["2026-01-03T00:05"]
    );
    let mut core = restart(&core, "*/5 * * * *", "2026-01-09T12:00:01Z");
    assert_eq!(
        tick(&mut core, "2026-01-09T12:00:01Z"),
        ["2026-01-09T12:00"]
    );
    assert!(tick(&mut core, "2026-01-09T12:04:59Z").is_empty());
}

#[test]
fn another_schedule_counts_from_now_and_the_same_goes_on() {
    let mut core = core("0 3 * * *", "2026-01-01");
    core.plan(ms("2026-01-01T05:00"), plans("0 4 * * *"), &BTreeMap::new());
    assert!(tick(&mut core, "2026-01-01T05:00").is_empty());
    core.plan(ms("2026-01-02T05:00"), plans("0 4 * * *"), &BTreeMap::new());
    assert_eq!(tick(&mut core, "2026-01-02T05:00"), ["2026-01-02T04:00"]);
    // While a job is not planned, no time is caught up.
    core.plan(ms("2026-01-03"), BTreeMap::new(), &BTreeMap::new());
    core.plan(ms("2026-01-05T05:00"), plans("0 4 * * *"), &BTreeMap::new());
    assert!(tick(&mut core, "2026-01-05T05:00").is_empty());
    let mut core = restart(&core, "0 5 * * *", "2026-01-08T06:00");
    assert!(tick(&mut core, "2026-01-08T06:00").is_empty());
}

#[test]
fn a_time_that_comes_while_it_runs_is_passed_over() {
    let mut core = core("* * * * *", "2026-01-01");
    assert!(!core.tick(ms("2026-01-01T00:01"))[0].is_skipped);
    assert!(!core.start("job"), "it runs");
    assert!(core.tick(ms("2026-01-01T00:02"))[0].is_skipped);
    assert!(core.is_running("job"));
    core.finish("job");
    assert!(!core.tick(ms("2026-01-01T00:03"))[0].is_skipped);
    core.finish("job");
    assert!(core.start("job"));
    assert!(core.tick(ms("2026-01-01T00:04"))[0].is_skipped);
}

#[test]
fn what_could_not_be_begun_comes_again() {
    let mut core = core("0 * * * *", "2026-01-01");
    let due = core.tick(ms("2026-01-01T01:00"));
    core.undo(&due[0]);
    assert_eq!(core.tick(ms("2026-01-01T01:01")), due);
}

#[test]
fn a_clock_that_is_set_back_a_little_repeats_nothing() {
    let mut core = core("* * * * *", "2026-01-01");
    assert_eq!(tick(&mut core, "2026-01-01T12:00").len(), 1);
    for now in [
        "2026-01-01T11:58",
        "2026-01-01T11:59",
        "2026-01-01T12:00:59Z",
        "2026-01-01T11:01",
    ] {
        assert!(tick(&mut core, now).is_empty(), "{now}");
    }
    assert_eq!(tick(&mut core, "2026-01-01T12:01"), ["2026-01-01T12:01"]);
    // With one due time in between, the job waits however far back the clock is.
    let mut core = core_daily();
    assert_eq!(tick(&mut core, "2026-01-02"), ["2026-01-02T00:00"]);
    assert!(tick(&mut core, "2026-01-01T04:00").is_empty());
    assert!(tick(&mut core, "2026-01-02").is_empty());
    assert_eq!(tick(&mut core, "2026-01-03"), ["2026-01-03T00:00"]);
}

fn core_daily() -> CronCore {
    core("@daily", "2026-01-01")
}

#[test]
fn a_clock_that_was_far_ahead_does_not_stop_a_job_for_good() {
    let mut core = core_daily();
    assert_eq!(tick(&mut core, "2036-01-01"), ["2036-01-01T00:00"]);
    assert!(tick(&mut core, "2026-01-05T12:00").is_empty());
    let mut core = restart(&core, "@daily", "2026-01-05T12:01");
    assert_eq!(tick(&mut core, "2026-01-06"), ["2026-01-06T00:00"]);
    assert!(tick(&mut core, "2026-01-06T00:01").is_empty());
    assert_eq!(tick(&mut core, "2026-01-07"), ["2026-01-07T00:00"]);
}

#[test]
fn a_start_in_1970_repeats_nothing_of_before() {
    let mut core = core_daily();
    assert_eq!(
        tick(&mut core, "2026-01-02T00:00:01Z"),
        ["2026-01-02T00:00"]
    );
    let mut core = restart(&core, "@daily", "1970-01-01T00:00:10Z");
    assert!(tick(&mut core, "1970-01-01T00:00:10Z").is_empty());
    // The clock is right again: today's time is done.
    assert!(tick(&mut core, "2026-01-02T10:00").is_empty());
    assert_eq!(tick(&mut core, "2026-01-03"), ["2026-01-03T00:00"]);
    // A time that is not done runs.
    let mut core = restart(&core, "@daily", "1970-01-01T00:00:10Z");
    assert!(tick(&mut core, "1970-01-01T00:00:20Z").is_empty());
    assert_eq!(tick(&mut core, "2026-01-07T10:00"), ["2026-01-07T00:00"]);
}

/// A world with one job.
struct World {
    core: CronCore,
    schedule: &'static str,
    now: i64,
    /// The stored state.
    stored: (String, JobState),
    /// The end of the active run.
    runs_until: Option<i64>,
    /// Times that were started or skipped, and repeats among them.
    done: BTreeSet<i64>,
    /// Changes of the clock, each with the time that has passed normally since.
    steady_since: i64,
    last_activity: i64,
}

impl World {
    fn new(schedule: &'static str, now: i64) -> World {
        let mut core = CronCore::default();
        core.plan(now, plans(schedule), &BTreeMap::new());
        let (text, state) = core.state("job").unwrap();
        World {
            stored: (text.to_owned(), state),
            core,
            schedule,
            now,
            runs_until: None,
            done: BTreeSet::new(),
            steady_since: now,
            last_activity: now,
        }
    }

    fn tick(&mut self, rng: &mut Rng) {
        if self.runs_until.is_some_and(|end| self.now >= end) {
            self.runs_until = None;
            self.core.finish("job");
        }
        let all = self.core.tick(self.now);
        assert!(all.len() <= 1);
        for due in all {
            assert!(due.due_ms <= self.now);
            assert_eq!(due.is_skipped, self.runs_until.is_some());
            let is_first = self.done.insert(due.due_ms);
            assert!(is_first || due.is_repeat, "{} twice", format_ms(due.due_ms));
            assert!(!due.is_repeat || self.now - due.due_ms <= LATENESS_MAX_MS);
            self.last_activity = self.now;
            // As for scripts, recorded at the start.
            let (text, state) = self.core.state("job").unwrap();
            self.stored = (text.to_owned(), state);
            if !due.is_skipped {
                let long = i64::try_from(rng.below(10)).unwrap() * MINUTE;
                self.runs_until = Some(self.now + long);
            }
        }
    }

    /// The thread checks at least every second, so no time is late.
    fn go_on(&mut self, step: i64) {
        let next = self.core.entries["job"].next;
        let next = next.filter(|next| *next > self.now);
        self.now = (self.now + step).min(next.unwrap_or(i64::MAX));
    }

    fn set_clock(&mut self, by: i64) {
        self.now += by;
        // A run does not depend on the clock.
        self.runs_until = self.runs_until.map(|end| end + by);
        (self.steady_since, self.last_activity) = (self.now, self.now);
    }

    fn crash(&mut self, down: i64) {
        self.now += down;
        (self.steady_since, self.last_activity) = (self.now, self.now);
        (self.runs_until, self.core) = (None, CronCore::default());
        let stored = BTreeMap::from([("job".to_owned(), self.stored.clone())]);
        self.core.plan(self.now, plans(self.schedule), &stored);
    }
}

#[test]
fn whatever_clocks_do_no_time_runs_twice_and_no_job_stops() {
    rng::rounds("whatever_clocks_do", 200, |rng, _| {
        let schedules = [
            ("* * * * *", MINUTE),
            ("*/10 * * * *", 10 * MINUTE),
            ("0 * * * *", HOUR),
            ("30 2 * * *", DAY),
            ("0 0 * * 1", 7 * DAY),
        ];
        let (schedule, period) = *rng.pick(&schedules);
        let mut world = World::new(schedule, ms("2026-01-01"));
        let step = (period / 7).clamp(1000, 30 * MINUTE);
        for _ in 0..300 {
            world.tick(rng);
            match rng.below(40) {
                0 => {
                    let spans = [1000, MINUTE, HOUR, DAY, 40 * DAY, 4000 * DAY];
                    let by = rng.pick(&spans) * i64::try_from(rng.between(1, 9)).unwrap();
                    world.set_clock(if rng.one_in(2) { by } else { -by });
                }
                1 => world.crash(i64::try_from(rng.below(200)).unwrap() * MINUTE),
                _ => world.go_on(step),
            }
            // The job waits for at most two of its times or an hour, however wrong the clock was.
            let quiet = world.now - world.last_activity.max(world.steady_since);
            assert!(
                quiet <= CLOCK_BEHIND_MAX_MS + 2 * period + step,
                "{schedule} quiet for {} min at {}",
                quiet / MINUTE,
                format_ms(world.now)
            );
        }
        1
    });
}
