//! Tests of counting, writing and reporting with a clock that the test sets.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use super::count::{MINUTES_MAX, NAMES_MAX, OTHERS};
use super::report::POINTS_MAX;
use super::{Granularity, NO_ROUTE, RETENTION_MINUTES, RunEvent, Stats, StatsQuery, StatsReport};
use crate::base::ids;
use crate::store::db;
use crate::store::db::Databases;

/// A minute in the year 2026.
const NOON: i64 = 29_600_000;
const MS: Duration = Duration::from_millis(1);

/// Statistics in a temporary directory, removed on drop.
struct Bench {
    dir: PathBuf,
    minute: Arc<AtomicI64>,
    databases: Option<Databases>,
    stats: Option<Stats>,
}

impl Bench {
    fn new() -> Bench {
        let random = ids::hex(&ids::random_bytes::<8>().unwrap());
        let mut bench = Bench {
            dir: std::env::temp_dir().join(format!("vski-stats-{random}")),
            minute: Arc::new(AtomicI64::new(NOON)),
            databases: None,
            stats: None,
        };
        bench.open();
        bench
    }

    fn open(&mut self) {
        let settings = db::ConnectionSettings {
            role: db::Role::Master,
            synchronous: db::Synchronous::Normal,
            prepare: |_, _| Ok(()),
        };
        let databases = Databases::open(&self.dir, settings, 64).unwrap();
        let routes = vec!["GET /a".to_owned(), "POST /b/{id}".to_owned()];
        let minute = Arc::clone(&self.minute);
        let clock = Box::new(move || minute.load(Ordering::Relaxed) * 60_000 + 30_000);
        self.stats = Some(Stats::with_clock(
            Arc::clone(databases.stats()),
            routes,
            clock,
        ));
        self.databases = Some(databases);
    }

    /// Restarts, cleanly or as after a kill.
    fn restart(&mut self, is_orderly: bool) {
        let stats = self.stats.take().unwrap();
        if is_orderly {
            stats.finish().unwrap();
        }
        drop(stats);
        self.databases.take().unwrap().close().unwrap();
        self.open();
    }

    fn stats(&self) -> &Stats {
        self.stats.as_ref().unwrap()
    }

    fn set(&self, minute: i64) {
        self.minute.store(minute, Ordering::Relaxed);
    }

    fn flush(&self) -> crate::base::error::Result<()> {
        let minute = self.minute.load(Ordering::Relaxed);
        self.stats().flush(minute * 60_000 + 30_000)
    }

    /// Runs a statement in `stats.db`.
    fn sql(&self, sql: &'static str) {
        let stats = self.databases.as_ref().unwrap().stats();
        stats.write(|tx| Ok(tx.execute_batch(sql)?)).unwrap();
    }

    /// The number of minutes with requests in the file, and of requests.
    fn written(&self) -> (i64, i64) {
        let sql = "SELECT count(DISTINCT minute), ifnull(sum(count), 0) FROM _requests";
        let stats = self.databases.as_ref().unwrap().stats();
        let read = stats.read(|connection| {
            Ok(connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
        });
        read.unwrap()
    }

    fn report(&self, by: Granularity) -> StatsReport {
        let query = StatsQuery::new(NOON - 600..NOON + 600, by).unwrap();
        self.stats().report(&query).unwrap()
    }

    /// Requests of all routes and all times.
    fn total(&self) -> u64 {
        let query = StatsQuery::new(0..NOON * 2, Granularity::Total).unwrap();
        let report = self.stats().report(&query).unwrap();
        let counts = report.requests.values().flatten();
        counts.map(|(_, count)| count.times.count()).sum()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !thread::panicking() {
            drop((self.stats.take(), self.databases.take()));
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

#[test]
fn requests_are_counted_by_minute_route_and_status() {
    let bench = Bench::new();
    let stats = bench.stats();
    for status in [200, 101, 304, 400, 404, 500, 503] {
        stats.request(0, status, MS);
    }
    stats.request(NO_ROUTE, 404, 5 * MS);
    stats.request(2, 404, 5 * MS);
    bench.set(NOON + 1);
    stats.request(1, 200, 7 * MS);
    let report = bench.report(Granularity::Minute);
    assert_eq!(Vec::from_iter(report.requests.keys()), [&NOON, &(NOON + 1)]);
    let noon = &report.requests[&NOON];
    let a = &noon["GET /a"];
    assert_eq!((a.times.count(), a.errors_4xx, a.errors_5xx), (7, 2, 2));
    assert_eq!((a.times.sum, a.times.max), (7000, 1000));
    assert_eq!(noon["(no route)"].errors_4xx, 2);
    assert_eq!(noon.len(), 2);
    assert_eq!(report.requests[&(NOON + 1)]["POST /b/{id}"].times.max, 7000);
    assert!(report.workflows.is_empty());
}

#[test]
fn counts_of_many_threads_are_exact_while_others_look_and_write() {
    let bench = Bench::new();
    thread::scope(|scope| {
        for at in 0..16 {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..2000 {
                    bench
                        .stats()
                        .request(at % 2, 200, Duration::from_micros(round));
                    if at == 0 && round % 200 == 0 {
                        bench.minute.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..20 {
            let before = bench.total();
            bench.flush().unwrap();
            assert!(bench.total() >= before);
        }
    });
    assert_eq!(bench.total(), 32_000);
    bench.stats().finish().unwrap();
    assert_eq!(bench.written().1, 32_000);
    assert_eq!(bench.total(), 32_000);
}

#[test]
fn only_minutes_that_are_over_are_flushed_and_each_once() {
    let bench = Bench::new();
    bench.stats().request(0, 200, MS);
    bench.flush().unwrap();
    assert_eq!(bench.written(), (0, 0));
    bench.set(NOON + 1);
    bench.stats().request(0, 200, MS);
    bench.stats().run("mail", RunEvent::Started);
    for _ in 0..3 {
        bench.flush().unwrap();
        assert_eq!(bench.written(), (1, 1));
        assert_eq!(bench.total(), 2);
    }
    // After the clock is set back, the minute is written again and added to.
    bench.set(NOON);
    bench.stats().request(0, 500, 9 * MS);
    bench.set(NOON + 2);
    bench.flush().unwrap();
    assert_eq!(bench.written(), (2, 3));
    let report = bench.report(Granularity::Minute);
    let count = &report.requests[&NOON]["GET /a"];
    assert_eq!((count.times.count(), count.errors_5xx), (2, 1));
    assert_eq!((count.times.sum, count.times.max), (10_000, 9000));
    assert_eq!(report.workflows[&(NOON + 1)]["mail"].started, 1);
}

#[test]
fn a_restart_within_a_minute_loses_and_doubles_nothing() {
    let mut bench = Bench::new();
    for round in 1..=3 {
        bench.stats().request(0, 200, MS);
        bench.stats().run("mail", RunEvent::Completed(MS));
        bench.restart(true);
        assert_eq!(bench.total(), round);
        assert_eq!(bench.written(), (1, round.cast_signed()));
        let runs = &bench.report(Granularity::Total).workflows[&(NOON - 600)]["mail"];
        assert_eq!((runs.completed, runs.times.count()), (round, round));
    }
    bench.stats().request(0, 200, MS);
    bench.restart(false);
    assert_eq!(bench.total(), 3);
}

#[test]
fn what_cannot_be_written_is_kept_and_bounded() {
    let bench = Bench::new();
    bench.sql(
        "CREATE TRIGGER full BEFORE INSERT ON _requests WHEN NEW.minute > 0
        BEGIN SELECT RAISE(ABORT, 'no room'); END",
    );
    let more = 10;
    for minute in 0..MINUTES_MAX as i64 + more {
        bench.set(NOON + minute);
        bench.stats().request(0, 200, MS);
        // One that is written before the failing one must not be kept as well.
        bench.stats().run("mail", RunEvent::Started);
        assert!(minute == 0 || bench.flush().is_err());
    }
    assert_eq!(bench.written(), (0, 0));
    assert_eq!(bench.total(), MINUTES_MAX as u64);
    bench.sql("DROP TRIGGER full");
    bench.flush().unwrap();
    assert_eq!(bench.total(), MINUTES_MAX as u64);
    bench.stats().finish().unwrap();
    assert_eq!(bench.written(), (MINUTES_MAX as i64, MINUTES_MAX as i64));
    let report = bench.report(Granularity::Minute);
    assert_eq!(*report.requests.first_key_value().unwrap().0, NOON + more);
    let started = report.workflows.values().map(|it| it["mail"].started);
    assert_eq!(started.sum::<u64>(), MINUTES_MAX as u64);
}

#[test]
fn what_is_too_old_goes_a_little_at_a_time() {
    let bench = Bench::new();
    for minute in 0..200 {
        bench.set(NOON + minute);
        bench.stats().request(0, 200, MS);
        bench.stats().run("mail", RunEvent::Started);
        bench.flush().unwrap();
    }
    bench.stats().finish().unwrap();
    assert_eq!(bench.written().0, 200);
    // The first 150 are now too old.
    bench.set(NOON + 150 + RETENTION_MINUTES);
    for left in [140, 80, 50, 50] {
        bench.flush().unwrap();
        assert_eq!(bench.written().0, left);
    }
    let query = StatsQuery::new(NOON..NOON + 200, Granularity::Minute).unwrap();
    let report = bench.stats().report(&query).unwrap();
    assert_eq!(report.workflows.len(), 50);
    assert_eq!(*report.workflows.first_key_value().unwrap().0, NOON + 150);
}

#[test]
fn runs_are_counted_by_workflow_and_since_the_start() {
    let mut bench = Bench::new();
    let events = [
        RunEvent::Started,
        RunEvent::Step,
        RunEvent::Step,
        RunEvent::StepRetried,
        RunEvent::StepFailed,
        RunEvent::Failed(3 * MS),
        RunEvent::Started,
        RunEvent::Completed(MS),
        RunEvent::Started,
        RunEvent::Cancelled,
    ];
    for what in events {
        bench.stats().run("mail", what);
    }
    let runs = bench.report(Granularity::Minute).workflows[&NOON]["mail"].clone();
    assert_eq!(
        (runs.started, runs.completed, runs.failed, runs.cancelled),
        (3, 1, 1, 1)
    );
    assert_eq!(
        (runs.steps, runs.steps_failed, runs.steps_retried),
        (2, 1, 1)
    );
    assert_eq!(
        (runs.times.count(), runs.times.sum, runs.times.max),
        (2, 4000, 3000)
    );
    bench.set(NOON + 1);
    bench.stats().run("mail", RunEvent::Started);
    bench.flush().unwrap();
    assert_eq!(
        bench.report(Granularity::Minute).workflows[&NOON]["mail"],
        runs
    );
    let totals = bench.stats().totals();
    assert_eq!((totals.len(), totals[0].1.started), (1, 4));
    bench.restart(true);
    assert!(bench.stats().totals().is_empty());
    assert_eq!(
        bench.report(Granularity::Minute).workflows[&NOON]["mail"],
        runs
    );
}

#[test]
fn names_of_workflows_are_bounded_in_number_and_length() {
    let bench = Bench::new();
    for round in 0..2 {
        for name in 0..NAMES_MAX + 50 {
            bench
                .stats()
                .run(&format!("{round}-{name}"), RunEvent::Started);
        }
        // Looking empties the table in front.
        let report = bench.report(Granularity::Minute);
        let runs = &report.workflows[&NOON];
        assert!(runs.len() <= NAMES_MAX + 1);
        assert!(runs[OTHERS].started >= 50);
        let started: u64 = runs.values().map(|it| it.started).sum();
        assert_eq!(started, (round + 1) * (NAMES_MAX as u64 + 50));
        assert!(bench.stats().totals().len() <= NAMES_MAX + 1);
    }
    bench.set(NOON + 1);
    bench.stats().run(&"\u{e9}".repeat(500), RunEvent::Started);
    let report = bench.report(Granularity::Minute);
    let (name, _) = report.workflows[&(NOON + 1)].first_key_value().unwrap();
    assert_eq!(name, &"\u{e9}".repeat(100));
}

#[test]
fn minutes_are_put_together_to_hours_days_and_all() {
    let bench = Bench::new();
    let midnight = NOON - NOON % 1440;
    for minute in [0, 1, 59, 60, 61, 1439, 1440] {
        bench.set(midnight + minute);
        bench.stats().request(0, 200, MS);
        if minute == 60 {
            bench.flush().unwrap();
        }
    }
    for (by, expected) in [
        (
            Granularity::Hour,
            vec![(0, 2), (60, 2), (1380, 1), (1440, 1)],
        ),
        (Granularity::Day, vec![(0, 5), (1440, 1)]),
        (Granularity::Total, vec![(1, 6)]),
    ] {
        // From the second minute on.
        let query = StatsQuery::new(midnight + 1..midnight + 2000, by);
        let report = match query {
            Ok(query) => bench.stats().report(&query).unwrap(),
            Err(error) => panic!("{by:?}: {error}"),
        };
        let points = report.requests.into_iter();
        let counts: Vec<(i64, u64)> = points
            .map(|(at, it)| (at - midnight, it["GET /a"].times.count()))
            .collect();
        assert_eq!(counts, expected, "{by:?}");
    }
}

#[test]
fn too_many_points_are_refused_with_what_to_ask_for() {
    let refused = |minutes: i64, by: Granularity| {
        let error = StatsQuery::new(NOON..NOON + minutes, by).err()?;
        let words = error.message().rsplit("use ").next().unwrap().to_owned();
        Some(words)
    };
    assert_eq!(refused(POINTS_MAX, Granularity::Minute), None);
    assert_eq!(
        refused(POINTS_MAX + 1, Granularity::Minute).unwrap(),
        "by=hour."
    );
    assert_eq!(
        refused(RETENTION_MINUTES, Granularity::Minute).unwrap(),
        "by=hour."
    );
    assert_eq!(refused(RETENTION_MINUTES, Granularity::Hour), None);
    assert_eq!(refused(60 * 1600, Granularity::Minute).unwrap(), "by=day.");
    assert_eq!(refused(60 * 1600, Granularity::Hour).unwrap(), "by=day.");
    assert_eq!(refused(1440 * 1600, Granularity::Day).unwrap(), "by=total.");
    assert_eq!(refused(1440 * 1600, Granularity::Total), None);
}

#[test]
fn an_answer_with_too_many_rows_is_refused() {
    let bench = Bench::new();
    for minute in 0..31 {
        bench.set(NOON + minute);
        for name in 0..NAMES_MAX {
            bench.stats().run(&name.to_string(), RunEvent::Started);
        }
        bench.flush().unwrap();
    }
    let query = StatsQuery::new(NOON..NOON + 60, Granularity::Minute).unwrap();
    let error = bench.stats().report(&query).unwrap_err();
    assert!(error.message().contains("use by=hour"), "{error}");
    let query = StatsQuery::new(NOON..NOON + 30, Granularity::Minute).unwrap();
    bench.stats().report(&query).unwrap();
    let query = StatsQuery::new(NOON..NOON + 60, Granularity::Hour).unwrap();
    bench.stats().report(&query).unwrap();
}
