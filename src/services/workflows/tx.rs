//! The context of one command: its transaction, its time and its side effects.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, Params, params};

use crate::base::error::{Error, Kind, Result};
use crate::services::stats::RunEvent;
use crate::services::workflows::codes::{EventKind, JobState, RunStatus};
use crate::services::workflows::limits;
use crate::services::workflows::run_id::NodeTag;

/// The side effects of a command besides its own rows. They apply only if the command succeeds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Workflows with a job that can be dispatched.
    pub ready: BTreeSet<String>,
    /// Runs that ended, with their final status.
    pub ended: Vec<(i64, RunStatus)>,
    /// Runs whose worker no longer holds the lease.
    pub released: Vec<i64>,
    /// Events for the statistics.
    pub counted: Vec<(String, RunEvent)>,
}

impl Effects {
    /// Appends the effects of another command.
    pub fn add(&mut self, mut more: Effects) {
        self.ready.append(&mut more.ready);
        self.ended.append(&mut more.ended);
        self.released.append(&mut more.released);
        self.counted.append(&mut more.counted);
    }
}

/// See the module documentation.
pub struct Tx<'a> {
    pub db: &'a Connection,
    pub now: i64,
    pub node: NodeTag,
    pub random: &'a mut dyn FnMut() -> u64,
    pub effects: Effects,
}

/// An event to be appended to the journal of a run.
#[derive(Clone, Copy)]
pub struct NewEvent<'a> {
    pub kind: EventKind,
    pub key: &'a str,
    /// JSON.
    pub data: Option<&'a str>,
    pub info: Option<i64>,
    pub n: Option<i64>,
}

impl<'a> NewEvent<'a> {
    pub fn new(kind: EventKind, key: &'a str) -> NewEvent<'a> {
        NewEvent {
            kind,
            key,
            data: None,
            info: None,
            n: None,
        }
    }

    pub fn data(mut self, data: &'a str) -> NewEvent<'a> {
        self.data = Some(data);
        self
    }

    pub fn info(mut self, info: i64) -> NewEvent<'a> {
        self.info = Some(info);
        self
    }

    pub fn attempt(mut self, n: i64) -> NewEvent<'a> {
        self.n = Some(n);
        self
    }
}

/// A run as a command reads it.
#[derive(Clone, Debug)]
pub struct Run {
    pub id: i64,
    pub run: String,
    pub workflow: String,
    pub status: RunStatus,
    pub parent: Option<(i64, String)>,
    pub root: i64,
    pub depth: i64,
    pub started: Option<i64>,
    /// The deadline of the run; it fails if it has not ended by then.
    pub expires: Option<i64>,
    /// None once the run has ended.
    pub job: Option<Job>,
}

impl Run {
    /// True if the deadline is at or before `at`.
    pub fn is_expired(&self, at: i64) -> bool {
        self.expires.is_some_and(|expires| expires <= at)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub state: JobState,
    pub epoch: i64,
    pub lost: i64,
    pub retries: i64,
}

/// The right to write to a run: its id and the epoch of the hand-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub run: String,
    pub epoch: i64,
}

/// The query at the start of every command. A constant, so that no string is built each time.
macro_rules! run_sql {
    () => {
        "SELECT r.id, r.run, r.workflow, r.status, r.parent, r.parent_key, r.root, r.depth,
                r.started, j.state, j.epoch, j.lost, j.retries, r.expires
         FROM runs r LEFT JOIN jobs j ON j.run = r.id"
    };
}

impl Tx<'_> {
    /// Finds a run by its public id.
    pub fn run(&self, run: &str) -> Result<Option<Run>> {
        self.find(concat!(run_sql!(), " WHERE r.run = ?1"), run)
    }

    /// Finds a run by its row id.
    pub fn run_by_id(&self, id: i64) -> Result<Option<Run>> {
        self.find(concat!(run_sql!(), " WHERE r.id = ?1"), id)
    }

    fn find(&self, sql: &str, value: impl rusqlite::ToSql) -> Result<Option<Run>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let run = statement.query_row([value], |row| {
            let id = row.get(0)?;
            let parent: Option<i64> = row.get(4)?;
            let parent_key: Option<String> = row.get(5)?;
            let state: Option<JobState> = row.get(9)?;
            let job = match state {
                Some(state) => Some(Job {
                    state,
                    epoch: row.get(10)?,
                    lost: row.get(11)?,
                    retries: row.get(12)?,
                }),
                None => None,
            };
            Ok(Run {
                id,
                run: row.get(1)?,
                workflow: row.get(2)?,
                status: row.get(3)?,
                parent: parent.zip(parent_key),
                root: row.get::<_, Option<i64>>(6)?.unwrap_or(id),
                depth: row.get(7)?,
                started: row.get(8)?,
                expires: row.get(13)?,
                job,
            })
        });
        Ok(run.optional()?)
    }

    /// The row ids that a statement returns.
    pub fn ids(&self, sql: &str, values: impl Params) -> Result<Vec<i64>> {
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map(values, |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The run of a lease; refuses a lease that is not current.
    pub fn leased(&self, lease: &Lease) -> Result<Run> {
        let run = self.run(&lease.run)?.ok_or_else(lost_lease)?;
        check_lease(&run, lease.epoch)?;
        Ok(run)
    }

    /// Appends an event to the journal of a run; returns its sequence number.
    pub fn append(&self, run: i64, event: NewEvent<'_>) -> Result<i64> {
        let sql = "INSERT INTO events (run, seq, kind, key, data, info, n, at)
                   VALUES (?1, coalesce((SELECT max(seq) FROM events WHERE run = ?1), 0) + 1,
                           ?2, ?3, ?4, ?5, ?6, ?7)
                   RETURNING seq";
        let NewEvent {
            kind,
            key,
            data,
            info,
            n,
        } = event;
        let seq: i64 = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run, kind, key, data, info, n, self.now], |row| {
                row.get(0)
            })?;
        if seq > limits::EVENTS_MAX && is_bounded(kind, info) {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "The journal of the run already has {} entries.",
                    limits::EVENTS_MAX
                ),
            ));
        }
        Ok(seq)
    }

    /// The JSON data of an event.
    pub fn event_data(&self, run: i64, seq: i64) -> Result<Option<String>> {
        let sql = "SELECT data FROM events WHERE run = ?1 AND seq = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement
            .query_row([run, seq], |row| row.get(0))
            .optional()?
            .flatten())
    }

    /// The sequence number of the last event; 0 if there is none.
    pub fn last_seq(&self, run: i64) -> Result<i64> {
        let sql = "SELECT coalesce(max(seq), 0) FROM events WHERE run = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([run], |row| row.get(0))?)
    }

    /// The JSON data of the last event.
    pub fn last_event_data(&self, run: i64) -> Result<Option<String>> {
        let sql = "SELECT data FROM events WHERE run = ?1 ORDER BY seq DESC LIMIT 1";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement
            .query_row([run], |row| row.get(0))
            .optional()?
            .flatten())
    }

    /// Adds an event for the statistics.
    pub fn count(&mut self, workflow: &str, what: RunEvent) {
        self.effects.counted.push((workflow.to_owned(), what));
    }
}

/// True if events of this kind count towards the limit of the journal. Events that end something,
/// and those that the server writes itself, must always be possible; there are never more of them
/// than of the events that they end.
fn is_bounded(kind: EventKind, info: Option<i64>) -> bool {
    match kind {
        EventKind::RunCompleted
        | EventKind::RunFailed
        | EventKind::RunCancelled
        | EventKind::RunStarted
        | EventKind::RunRetrying
        | EventKind::WaitCompleted
        | EventKind::HookDisposed => false,
        // The end of a child.
        EventKind::StepCompleted | EventKind::StepFailed => info.is_none(),
        _ => true,
    }
}

/// Refuses a report of a worker that does not hold the current lease of the run.
pub fn check_lease(run: &Run, epoch: i64) -> Result<()> {
    match &run.job {
        Some(job) if job.state == JobState::Leased && job.epoch == epoch => Ok(()),
        None if run.status == RunStatus::Cancelled => {
            Err(Error::new(Kind::Cancelled, "The run was cancelled."))
        }
        _ => Err(lost_lease()),
    }
}

pub fn lost_lease() -> Error {
    Error::new(Kind::NotOwner, "The worker no longer holds this run.")
}

pub fn no_run(run: &str) -> Error {
    Error::not_found(format!("There is no run {run}."))
}
