//! The invariants that hold after every simulation.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::program::{Op, Program};
use super::worker::Worker;
use crate::services::workflows::codes::{EventKind, RunStatus, StepStatus};
use crate::services::workflows::core::Core;
use crate::services::workflows::sql::sql;

/// A run that the client was promised.
pub struct Promised {
    pub run: String,
    pub program: Program,
    pub may_be_cancelled: bool,
    pub expires: Option<i64>,
}

/// Jobs that have not ended.
pub fn jobs(db: &Connection) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM cancelling)";
    let mut statement = db.prepare_cached(sql).unwrap();
    statement.query_row([], |row| row.get(0)).unwrap()
}

/// Unfinished runs as text, for a failure message.
pub fn open_runs(db: &Connection) -> String {
    let sql = "SELECT json_group_array(json_array(r.run, r.status, j.state, j.due, j.epoch, j.worker, j.holds_key))
               FROM jobs j JOIN runs r ON r.id = j.run";
    db.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// The leases in memory match those in the database.
pub fn leases(db: &Connection, core: &Core) {
    let sql = sql!("SELECT run, epoch FROM jobs WHERE state = {JobState::Leased} ORDER BY run");
    let mut statement = db.prepare_cached(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let written: Vec<(i64, i64)> = rows.unwrap().map(Result::unwrap).collect();
    assert_eq!(core.held(), written, "leases");
}

pub fn all(db: &Connection, promised: &[Promised], workers: &[Worker]) {
    for it in promised {
        run(db, it);
    }
    steps_are_what_workers_were_told(db, workers);
    effects(db, workers);
    keys(db);
    events(db);
    for worker in workers {
        assert!(worker.early.is_empty(), "too early: {:?}", worker.early);
    }
}

/// A run is not dispatched after its deadline.
pub fn hand_out(text: &str, now: i64) {
    if !text.starts_with(r#"{"t":"job""#) {
        return;
    }
    let job: Value = serde_json::from_str(text).unwrap();
    let deadline = job["deadline"].as_i64().unwrap_or(i64::MAX);
    assert!(deadline > now, "handed out after its deadline: {job}");
}

/// A promised run ended as its program says.
fn run(db: &Connection, promised: &Promised) {
    let sql = "SELECT id, status FROM runs WHERE run = ?1";
    let (id, status): (i64, RunStatus) = db
        .query_row(sql, [&promised.run], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    let end = end_of(db, id);
    if status == RunStatus::Failed && end["kind"] == "expired" {
        return expired(db, id, promised);
    }
    match (status, promised.program.result()) {
        (RunStatus::Cancelled, _) => assert!(promised.may_be_cancelled, "{}", promised.run),
        (RunStatus::Completed, Ok(output)) => assert_eq!(end, output, "{}", promised.run),
        (RunStatus::Failed, Err(error)) => assert_eq!(end, error, "{}", promised.run),
        (status, wanted) => panic!("{} is {status:?} and not {wanted:?}: {end}", promised.run),
    }
}

/// Its deadline passed, and its children ended with it.
fn expired(db: &Connection, id: i64, promised: &Promised) {
    let expires = promised.expires.expect("a run with a deadline");
    let sql = "SELECT created, started, ended FROM runs WHERE id = ?1";
    let (created, started, ended): (i64, Option<i64>, i64) = db
        .query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert!(ended >= expires, "{} ended early", promised.run);
    if created >= expires {
        assert_eq!((started, ended), (None, created), "{}", promised.run);
    }
    let sql = "SELECT status, ended FROM runs WHERE parent = ?1";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)));
    for row in rows.unwrap() {
        let (status, child): (RunStatus, i64) = row.unwrap();
        // Some rounds may fail in between.
        let is_in_time = child <= ended + 30_000;
        assert!(
            status == RunStatus::Cancelled || is_in_time,
            "{} left a child",
            promised.run
        );
    }
}

fn end_of(db: &Connection, id: i64) -> Value {
    let sql = sql!(
        "SELECT data FROM events WHERE run = ?1
           AND kind IN ({EventKind::RunCompleted}, {EventKind::RunFailed}, {EventKind::RunCancelled})
         ORDER BY seq DESC LIMIT 1"
    );
    let end: String = db.query_row(sql, [id], |row| row.get(0)).unwrap();
    serde_json::from_str(&end).unwrap()
}

/// Acknowledged reports are recorded unchanged.
fn steps_are_what_workers_were_told(db: &Connection, workers: &[Worker]) {
    for promise in workers.iter().flat_map(|worker| &worker.promises) {
        let (sql, name) = match promise.frame["t"].as_str().unwrap() {
            "step" if promise.frame["ok"].is_null() => {
                (sql!("s.status = {StepStatus::Failed}"), "err")
            }
            "step" => (sql!("s.status = {StepStatus::Completed}"), "ok"),
            "done" => ("", "output"),
            _ => ("", "err"),
        };
        let data: Option<String> = if sql.is_empty() {
            let sql = sql!(
                "SELECT e.data FROM events e JOIN runs r ON r.id = e.run
                 WHERE r.run = ?1 AND e.kind IN ({EventKind::RunCompleted}, {EventKind::RunFailed})"
            );
            db.query_row(sql, [&promise.run], |row| row.get(0)).unwrap()
        } else {
            let sql = format!(
                "SELECT e.data FROM steps s JOIN runs r ON r.id = s.run
                 JOIN events e ON e.run = s.run AND e.seq = s.result
                 WHERE r.run = ?1 AND s.key = ?2 AND {sql}"
            );
            db.query_row(&sql, [&promise.run, &promise.key], |row| row.get(0))
                .unwrap_or_else(|error| panic!("{promise:?}: {error}"))
        };
        let data: Value = serde_json::from_str(&data.unwrap()).unwrap();
        assert_eq!(data, promise.frame[name], "{promise:?}");
    }
}

/// A step that never fails runs at most once per hand-out of its run, and at least once if it has a
/// result.
fn effects(db: &Connection, workers: &[Worker]) {
    let mut counts: BTreeMap<(String, String, i64), usize> = BTreeMap::new();
    for effect in workers.iter().flat_map(|worker| &worker.effects) {
        let key = (effect.run.clone(), effect.key.clone(), effect.epoch);
        *counts.entry(key).or_default() += 1;
    }
    let sql = "SELECT r.run, s.key, s.status, s.attempt FROM steps s JOIN runs r ON r.id = s.run WHERE s.child IS NULL";
    let mut statement = db.prepare(sql).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (run, key): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        let status: StepStatus = row.get(2).unwrap();
        let attempts: usize = usize::try_from(row.get::<_, i64>(3).unwrap()).unwrap();
        let of_step = counts.iter().filter(|(it, _)| it.0 == run && it.1 == key);
        let times: Vec<usize> = of_step.map(|(_, count)| *count).collect();
        assert!(
            !times.is_empty() || status == StepStatus::Cancelled,
            "{run} {key}"
        );
        // The last attempt of a cancelled run may be too late to be recorded.
        let most = attempts + usize::from(status == StepStatus::Cancelled);
        assert!(
            times.iter().all(|times| *times <= most),
            "{run} {key}: {times:?}"
        );
    }
}

/// Of the runs with one concurrency key only one is between its start and its end.
fn keys(db: &Connection) {
    let sql = "SELECT run, started, ended FROM runs WHERE concurrency_key IS NOT NULL AND started IS NOT NULL
               ORDER BY started, ended";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let spans: Vec<(String, i64, i64)> = rows.unwrap().map(Result::unwrap).collect();
    for pair in spans.windows(2) {
        assert!(pair[0].2 <= pair[1].1, "{pair:?} overlap");
    }
}

/// Events are numbered without gaps and end once, and the other tables agree with them.
fn events(db: &Connection) {
    let sql = "SELECT e.run, e.seq, e.kind, r.status FROM events e JOIN runs r ON r.id = e.run ORDER BY e.run, e.seq";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    });
    let mut of_runs: BTreeMap<i64, (RunStatus, Vec<(i64, EventKind)>)> = BTreeMap::new();
    for row in rows.unwrap() {
        let (run, seq, kind, status): (i64, i64, EventKind, RunStatus) = row.unwrap();
        let entry = of_runs.entry(run).or_insert_with(|| (status, Vec::new()));
        entry.1.push((seq, kind));
    }
    for (run, (status, events)) in of_runs {
        for (at, (seq, _)) in events.iter().enumerate() {
            assert_eq!(*seq, i64::try_from(at).unwrap() + 1, "run {run}");
        }
        let ends: Vec<EventKind> = events
            .iter()
            .map(|(_, kind)| *kind)
            .filter(|kind| (3..=5).contains(&kind.code()))
            .collect();
        assert_eq!(ends.len(), 1, "run {run}: {ends:?}");
        assert_eq!(events.last().unwrap().1, ends[0], "run {run}");
        assert_eq!(ends[0].code() - 1, status.code(), "run {run}");
    }
    for table in ["jobs", "hooks", "waits", "cancelling"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let left: i64 = db.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

#[test]
fn the_model_knows_what_its_programs_return() {
    let child = Program {
        ops: vec![
            Op::Step { fails: 9 },
            Op::Hook {
                token: "t".to_owned(),
            },
        ],
        fails: true,
    };
    let program = Program {
        ops: vec![Op::Child(child), Op::Fatal, Op::Step { fails: 1 }],
        fails: false,
    };
    let error =
        json!({"kind": "fatal", "message": "as planned", "results": ["failed", "payload of t"]});
    let result = program.result();
    assert_eq!(result, Ok(json!([error, "failed", "step 2"])));
    let copy = Program::from_json(&program.to_json());
    assert_eq!(copy.result(), result);
    assert_eq!(copy.tokens(), ["t"]);
}
