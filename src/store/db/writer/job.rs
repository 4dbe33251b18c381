//! A queued write, the thread that waits for it, and the failure of a whole batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use crate::base::error::{Error, Kind, Result};
use crate::base::threads::lock;
use crate::base::{log, threads};
use crate::store::db::commit_position::{CommitPosition, record_position};

/// Time that the log has to write its last lines before the process exits.
const EXIT_PAUSE: Duration = Duration::from_millis(100);

/// The jobs that a job shares its transaction with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Those that arrive at the same time.
    Shared,
    Exclusive,
}

/// A queued write, whatever its result type.
pub trait WriteJob: Send {
    fn number(&self) -> u64;
    /// Time that it may run.
    fn limit(&self) -> Duration;
    fn batching(&self) -> Batching;
    /// Runs it and keeps the result; true if it may be committed.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Its own error, once it has run.
    fn error(&self) -> Option<&Error>;
    /// Makes the waiting thread the leader.
    fn promote(&self);
    /// Hands the result to the waiting thread.
    fn finish(
        self: Box<Self>,
        outcome: &Result<(), BatchFailure>,
        position: Option<&CommitPosition>,
    );
}

/// The implementation of [`WriteJob`] for a closure.
pub struct QueuedJob<T, F> {
    number: u64,
    body: Option<F>,
    limit: Duration,
    batching: Batching,
    result: Option<Result<T>>,
    waiter: Arc<Waiter<T>>,
}

impl<T, F> QueuedJob<T, F> {
    pub fn new(
        number: u64,
        body: F,
        limit: Duration,
        batching: Batching,
        waiter: &Arc<Waiter<T>>,
    ) -> QueuedJob<T, F> {
        QueuedJob {
            number,
            body: Some(body),
            limit,
            batching,
            result: None,
            waiter: Arc::clone(waiter),
        }
    }
}

impl<T, F> WriteJob for QueuedJob<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
{
    fn number(&self) -> u64 {
        self.number
    }

    fn limit(&self) -> Duration {
        self.limit
    }

    fn batching(&self) -> Batching {
        self.batching
    }

    fn run(&mut self, connection: &Connection) -> bool {
        let Some(body) = self.body.take() else {
            return false;
        };
        let result = catch_unwind(AssertUnwindSafe(|| body(connection)));
        let result = result.unwrap_or_else(|_| Err(Error::internal("a write job panicked")));
        let is_ok = result.is_ok();
        self.result = Some(result);
        is_ok
    }

    fn error(&self) -> Option<&Error> {
        self.result.as_ref()?.as_ref().err()
    }

    fn promote(&self) {
        self.waiter.set(Turn::Lead);
    }

    fn finish(
        self: Box<Self>,
        outcome: &Result<(), BatchFailure>,
        position: Option<&CommitPosition>,
    ) {
        let result = match (self.result, outcome) {
            (Some(Ok(value)), Ok(())) => Ok((value, position.cloned())),
            // A job that failed by itself keeps its own error in a batch that was committed.
            (Some(Err(error)), Ok(())) => Err(error),
            (_, Err(failure)) => Err(failure.to_error()),
            (None, Ok(())) => Err(Error::internal("a write job was not run")),
        };
        self.waiter.set(Turn::Done(result));
    }
}

enum Turn<T> {
    Wait,
    Lead,
    Done(Result<(T, Option<CommitPosition>)>),
    Taken,
}

impl<T> Turn<T> {
    /// True if the thread becomes the leader, false if its result is available, none if it has to
    /// wait.
    fn leads(&self) -> Option<bool> {
        match self {
            Turn::Wait => None,
            Turn::Lead => Some(true),
            Turn::Done(_) | Turn::Taken => Some(false),
        }
    }
}

/// Blocks a thread until its result is available or it becomes the leader.
pub struct Waiter<T> {
    turn: Mutex<Turn<T>>,
    changed: Condvar,
}

impl<T> Waiter<T> {
    pub fn new() -> Waiter<T> {
        Waiter {
            turn: Mutex::new(Turn::Wait),
            changed: Condvar::new(),
        }
    }

    fn set(&self, turn: Turn<T>) {
        *lock(&self.turn) = turn;
        self.changed.notify_one();
    }

    /// True if this thread becomes the leader, false if its result is available. It waits without a
    /// limit because the leader always ends: each of its jobs is bounded, panics are caught.
    pub fn wait(&self) -> bool {
        let mut turn = lock(&self.turn);
        loop {
            match turn.leads() {
                Some(leads) => return leads,
                None => turn = threads::wait(&self.changed, turn),
            }
        }
    }

    /// Like [`Waiter::wait`], for a limited time; none when it is over.
    pub fn wait_timeout(&self, limit: Duration) -> Option<bool> {
        let deadline = Instant::now() + limit;
        let mut turn = lock(&self.turn);
        loop {
            if let Some(leads) = turn.leads() {
                return Some(leads);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            turn = threads::wait_timeout(&self.changed, turn, left);
        }
    }

    /// True if the wait is over.
    pub fn is_called(&self) -> bool {
        lock(&self.turn).leads().is_some()
    }

    pub fn take_result(&self) -> Result<T> {
        match std::mem::replace(&mut *lock(&self.turn), Turn::Taken) {
            Turn::Done(Ok((value, position))) => {
                position.into_iter().for_each(record_position);
                Ok(value)
            }
            Turn::Done(Err(error)) => Err(error),
            Turn::Wait | Turn::Lead | Turn::Taken => Err(Error::internal("no result of a write")),
        }
    }
}

/// Why a batch was not committed; each of its jobs gets an error made from this.
pub struct BatchFailure {
    kind: Kind,
    message: String,
    detail: String,
    code: i32,
}

impl BatchFailure {
    /// SQLite has rolled back the transaction after the error of one job. That error is passed to
    /// all jobs if it concerns the server, such as a full disk.
    pub fn rolled_back(cause: Option<&Error>) -> BatchFailure {
        let shared = cause.filter(|error| error.kind() == Kind::Unavailable);
        let message = shared.map_or(
            "The write could not be finished; nothing was saved, try again.",
            Error::message,
        );
        let cause = cause.map_or_else(|| "unknown".to_owned(), Error::to_string);
        BatchFailure {
            kind: Kind::Unavailable,
            message: message.to_owned(),
            detail: format!("transaction rolled back by SQLite, cause: {cause}"),
            code: 0,
        }
    }

    /// The cause, for the log.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn to_error(&self) -> Error {
        Error::new(self.kind, self.message.clone()).context(self.detail.clone())
    }

    /// Ends the process after a failed fsync, which leaves the content of the disk unknown, and
    /// after corruption. A restart from the data on disk is the simple and safe recovery.
    pub fn exit_if_in_doubt(&self) {
        let in_doubt = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC];
        if in_doubt.contains(&self.code) || self.code & 0xff == ffi::SQLITE_CORRUPT {
            log::error(format_args!("commit in doubt, exiting: {}", self.detail));
            threads::pause(EXIT_PAUSE);
            std::process::exit(70);
        }
    }
}

impl From<rusqlite::Error> for BatchFailure {
    fn from(error: rusqlite::Error) -> BatchFailure {
        let code = error.sqlite_error().map_or(0, |error| error.extended_code);
        let detail = error.to_string();
        let error = Error::from(error);
        let kind = match error.kind() {
            // An error of BEGIN or COMMIT is never a fault of the jobs in the batch.
            Kind::Unavailable | Kind::Internal => error.kind(),
            _ => Kind::Internal,
        };
        BatchFailure {
            kind,
            message: error.message().to_owned(),
            detail,
            code,
        }
    }
}
