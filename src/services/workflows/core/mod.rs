//! The engine's core: a state machine without a clock, sockets, threads or randomness of its own.
//!
//! Inputs arrive in rounds. [`Core::receive`] handles what concerns only memory (connections,
//! credit, heartbeats) and returns the commands to write. [`Core::transact`] runs inside a
//! transaction that the caller commits: reports and requests, then timers (lost workers, sleeps,
//! deadlines), then the dispatch, so that a run that becomes ready reaches a worker after one
//! commit. Then the caller calls [`Core::commit`] or [`Core::abort`]; an abort restores the state
//! before the round and refuses its commands. Outputs are returned, and are sent only after the
//! commit is on disk.
//!
//! Invariants, besides those of `jobs` and `leases`:
//! - A run is in `leases` exactly while its job is leased, or while it is cancelled and its worker
//!   has not stopped yet. After a restart [`Core::recover`] inserts the leased runs without a
//!   session.
//! - `dirty` has every workflow with a ready job and a worker that may take it; `waiting` has those
//!   that may have a ready job but no worker.
//! - Leases and other timeouts measure the time during which the server is awake: when the clock is
//!   set or the machine was suspended, they move along (`timers`). Sleeps follow the clock.
//! - A missed wake-up does no harm: the next round finds deadlines, sleeps and ready jobs by
//!   scanning.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::base::error::{Error, Result};
use crate::base::json::Object;
use crate::base::log;
use crate::services::stats::RunEvent;
use crate::services::workflows::codes::RunStatus;
use crate::services::workflows::frames::{Frame, FrameBody, FrameError};
use crate::services::workflows::leases::{HeldRun, Leases};
use crate::services::workflows::run_id::NodeTag;
use crate::services::workflows::sessions::{SessionId, Sessions, WorkerGrant};
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{Effects, Tx};

mod answers;
mod commands;
mod dispatch;
mod handshake;
mod messages;
mod timers;
mod workers;

pub use messages::{Command, Input, Output, ReplyHandle, close_code};

use answers::{acknowledge, ok, refuse, took_too_long};
use messages::{close, send};

/// Timeouts in milliseconds, and the size of frames.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolSettings {
    /// Interval of the heartbeats of a worker that holds jobs.
    pub hb_ms: i64,
    /// A job without a heartbeat for this time goes to another worker.
    pub lease_ms: i64,
    /// A job waits this long for its worker after the connection breaks.
    pub grace_ms: i64,
    /// Time limit for the acknowledgement of a job.
    pub ack_ms: i64,
    /// Time limit for the hello.
    pub hello_ms: i64,
    /// Longest frame; bytes.
    pub max_frame: usize,
}

impl Default for ProtocolSettings {
    fn default() -> ProtocolSettings {
        ProtocolSettings {
            hb_ms: 10_000,
            lease_ms: 30_000,
            grace_ms: 15_000,
            ack_ms: 5_000,
            hello_ms: 10_000,
            max_frame: 1 << 20,
        }
    }
}

impl ProtocolSettings {
    /// The settings for a lease of `seconds`.
    pub fn of_lease(seconds: u32) -> ProtocolSettings {
        let lease_ms = i64::from(seconds) * 1_000;
        let normal = ProtocolSettings::default();
        ProtocolSettings {
            hb_ms: lease_ms / 3,
            lease_ms,
            grace_ms: lease_ms / 2,
            ack_ms: normal.ack_ms.min(lease_ms),
            ..normal
        }
    }
}

/// Limit on unacknowledged bytes of jobs of a worker; the socket buffers this much without being
/// closed as too slow.
const UNACKED_BYTES_MAX: usize = 256 << 10;
/// A command that runs longer than this is refused if the transaction exceeds its time limit.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(1);

/// See the module documentation.
pub struct Core {
    pub settings: ProtocolSettings,
    node: String,
    tag: NodeTag,
    random: Box<dyn FnMut() -> u64 + Send>,
    sessions: Sessions,
    /// Connections before their hello: the grant of the handshake, and the time limit.
    handshakes: BTreeMap<SessionId, (Option<WorkerGrant>, i64)>,
    leases: Leases,
    dirty: BTreeSet<String>,
    waiting: BTreeSet<String>,
    /// Workflows that the current transaction has examined.
    examined: BTreeSet<String>,
    /// The time of the next due job, and of the next scan for other timers.
    next_due: Option<i64>,
    next_scan: i64,
    /// The time of the last call.
    last_now: Option<i64>,
    /// Sessions that said goodbye or disconnected; removed at the end of the round.
    leaving: Vec<(SessionId, bool)>,
    /// Events of committed transactions, for the statistics.
    counted: Vec<(String, RunEvent)>,
    pending_counted: Vec<(String, RunEvent)>,
}

impl Core {
    /// Creates the core of a node with its source of randomness.
    pub fn new(
        settings: ProtocolSettings,
        node: &str,
        random: Box<dyn FnMut() -> u64 + Send>,
    ) -> Core {
        Core {
            settings,
            node: node.to_owned(),
            tag: NodeTag::of(node),
            random,
            sessions: Sessions::default(),
            handshakes: BTreeMap::new(),
            leases: Leases::default(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            examined: BTreeSet::new(),
            next_due: Some(0),
            next_scan: 0,
            last_now: None,
            leaving: Vec::new(),
            counted: Vec::new(),
            pending_counted: Vec::new(),
        }
    }

    /// Loads the runs that were leased when the server stopped; their workers have the time of a
    /// lease to return.
    pub fn recover(&mut self, db: &Connection, now: i64) -> Result<()> {
        let sql = sql!(
            "SELECT j.run, r.run, j.epoch, j.workflow FROM jobs j JOIN runs r ON r.id = j.run
             WHERE j.state = {JobState::Leased}"
        );
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let held = HeldRun {
                run: row.get(1)?,
                epoch: row.get(2)?,
                workflow: row.get(3)?,
                session: None,
                deadline: now + self.settings.lease_ms,
                is_acked: false,
                is_cancelled: false,
                bytes: 0,
            };
            self.leases.put(row.get(0)?, held);
        }
        let sql = sql!("SELECT DISTINCT workflow FROM jobs WHERE state = {JobState::Ready}");
        let mut statement = db.prepare(sql)?;
        let names = statement.query_map([], |row| row.get(0))?;
        self.waiting = names.collect::<rusqlite::Result<_>>()?;
        Ok(())
    }

    /// Handles a round of inputs. Returns outputs to send at once, and commands to write.
    pub fn receive(&mut self, now: i64, inputs: Vec<Input>) -> (Vec<Output>, Vec<Command>) {
        self.follow_clock(now);
        let (mut out, mut durable) = (Vec::new(), Vec::new());
        for input in inputs {
            match input {
                Input::Opened { session, grant } => {
                    let until = now + self.settings.hello_ms;
                    self.handshakes.insert(session, (grant, until));
                }
                Input::Closed { session } => self.leaving.push((session, false)),
                Input::BadFrame { session, error } => self.refuse_frame(session, &error, &mut out),
                Input::Request {
                    reply,
                    grant,
                    request,
                } => durable.push(Command::Request {
                    reply,
                    grant,
                    request,
                }),
                Input::Frame {
                    session,
                    frame,
                    grant,
                } => {
                    let more = self.handle_frame(now, session, frame, grant, &mut out);
                    durable.extend(more);
                }
            }
        }
        (out, durable)
    }

    fn handle_frame(
        &mut self,
        now: i64,
        session: SessionId,
        frame: Frame,
        grant: Option<Result<WorkerGrant>>,
        out: &mut Vec<Output>,
    ) -> Option<Command> {
        let Frame { reference, body } = frame;
        if let FrameBody::Hello(hello) = body {
            self.hello(now, session, hello, grant, out);
            return None;
        }
        let Some(known) = self.sessions.get_mut(session) else {
            if self.handshakes.remove(&session).is_some() {
                let reason = "the first frame must be hello";
                out.push(close(session, close_code::BAD_FRAME, reason));
            }
            return None;
        };
        known.heard = now;
        known.quiet_since = now;
        known.is_stalled = false;
        let wants_answer = !matches!(
            &body,
            FrameBody::Report(_) | FrameBody::Auth(_) | FrameBody::Bye
        );
        if let Some(reference) = reference.as_deref().filter(|_| wants_answer) {
            out.push(send(session, ok(Some(reference)).end()));
        }
        match body {
            FrameBody::Hello(_) => {}
            FrameBody::Credit(credit) => known.credit = credit,
            FrameBody::Drain => known.is_draining = true,
            FrameBody::Ack(lease) => {
                if let Some(run) = self.leases.find(&lease) {
                    let deadline = now + self.settings.lease_ms;
                    self.leases.change(run, |held| {
                        if held.session == Some(session) && !held.is_acked {
                            held.is_acked = true;
                            if !held.is_cancelled {
                                held.deadline = deadline;
                            }
                        }
                    });
                }
            }
            FrameBody::Heartbeat(heartbeat) => self.heartbeat(now, session, &heartbeat, out),
            FrameBody::Auth(_) => self.renew_grant(session, reference.as_deref(), grant, out),
            FrameBody::Log(log) => {
                log::debug(format_args!("workflow run={} {:.500}", log.job, log.msg));
            }
            FrameBody::Bye => {
                self.leaving.push((session, true));
                out.push(close(session, close_code::BYE, "bye"));
            }
            FrameBody::Report(report) => {
                return Some(Command::Report {
                    session,
                    reference,
                    report,
                });
            }
        }
        self.refresh(session);
        None
    }

    fn refuse_frame(&mut self, session: SessionId, error: &FrameError, out: &mut Vec<Output>) {
        if error.is_fatal || self.sessions.get(session).is_none() {
            self.leaving.push((session, false));
            out.push(close(session, close_code::BAD_FRAME, &error.message));
            return;
        }
        let reference = error.reference.as_deref();
        // A known frame with a `ref` is refused like any other.
        let kind = match reference.is_some() && error.code != "unknown_type" {
            true => "no",
            false => "error",
        };
        let frame = Object::new()
            .text("t", kind)
            .some_raw("ref", reference)
            .text("code", error.code)
            .text("message", &error.message);
        out.push(send(session, frame.end()));
    }

    /// True if a transaction is needed even without commands.
    pub fn is_due(&self, now: i64) -> bool {
        !self.dirty.is_empty()
            || self.next_scan <= now
            || self.next_due.is_some_and(|due| due <= now)
    }

    /// The latest time at which one is needed.
    pub fn due_at(&self) -> i64 {
        self.next_due.unwrap_or(i64::MAX).min(self.next_scan)
    }

    /// Executes commands, timers and the dispatch. After an error nothing of it may be committed.
    pub fn transact(&mut self, db: &Connection, now: i64, work: &[Command]) -> Result<Vec<Output>> {
        self.leases.begin();
        self.pending_counted.clear();
        let mut out = Vec::new();
        let mut acks: BTreeMap<SessionId, Vec<String>> = BTreeMap::new();
        let begun = Instant::now();
        for (at, item) in work.iter().enumerate() {
            let since = Instant::now();
            match self.run_command(db, now, item, &mut acks, &mut out) {
                Err(error) if error.is_interrupted() && !db.is_autocommit() => {
                    // The commands so far are kept, so a slow one cannot block the others for ever.
                    let (this, rest) = work[at..].split_at(1);
                    let is_to_blame = since.elapsed() > COMMAND_TIME_MAX;
                    out.extend(refuse(this, &took_too_long(is_to_blame)));
                    out.extend(refuse(rest, &took_too_long(false)));
                    break;
                }
                result => result?,
            }
        }
        // Before the dispatch: the answer to a park precedes the job that may follow at once.
        for (session, refs) in acks {
            out.push(send(session, acknowledge(&refs)));
        }
        if begun.elapsed() > COMMAND_TIME_MAX {
            // The time of one transaction is limited; the next one continues.
            self.next_scan = now;
            return Ok(out);
        }
        self.run_timers(db, now, &mut out)?;
        self.dispatch(db, now, &mut out)?;
        self.next_due = self.tx(db, now, |tx| tx.next_due())?;
        Ok(out)
    }

    /// The transaction is committed.
    pub fn commit(&mut self) {
        self.leases.commit();
        self.examined.clear();
        self.counted.append(&mut self.pending_counted);
        self.refresh_all_changed();
    }

    /// The transaction failed: restores the state before it and refuses the commands.
    pub fn abort(&mut self, error: &Error, work: &[Command]) -> Vec<Output> {
        self.leases.rollback();
        self.dirty.append(&mut self.examined);
        self.next_due = Some(0);
        self.next_scan = 0;
        self.pending_counted.clear();
        self.refresh_all_changed();
        // The time limit was not exceeded by a single command.
        let error = match error.is_interrupted() {
            true => took_too_long(false),
            false => error.without_source(),
        };
        refuse(work, &error)
    }

    /// Ends a round: removes the sessions that left.
    pub fn finish(&mut self, now: i64) {
        for (session, is_bye) in std::mem::take(&mut self.leaving) {
            self.drop_session(session, is_bye, now);
        }
    }

    /// Runs one command in a savepoint; an error undoes its writes.
    fn tx<T>(
        &mut self,
        db: &Connection,
        now: i64,
        body: impl FnOnce(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        self.tx_with_effects(db, now, body).map(|(value, _)| value)
    }

    fn tx_with_effects<T>(
        &mut self,
        db: &Connection,
        now: i64,
        body: impl FnOnce(&mut Tx<'_>) -> Result<T>,
    ) -> Result<(T, Vec<(i64, RunStatus)>)> {
        let mut tx = Tx {
            db,
            now,
            node: self.tag,
            random: &mut self.random,
            effects: Effects::default(),
        };
        db.prepare_cached("SAVEPOINT command")?.execute([])?;
        let result = body(&mut tx);
        let effects = tx.effects;
        if result.is_err() && !db.is_autocommit() {
            db.prepare_cached("ROLLBACK TO command")?.execute([])?;
        }
        if db.is_autocommit() {
            // SQLite rolled the whole transaction back: a full disk, or the time limit.
            let lost = Error::unavailable("The write failed; nothing was saved.");
            return Err(result.err().unwrap_or(lost));
        }
        db.prepare_cached("RELEASE command")?.execute([])?;
        let value = result?;
        for run in &effects.released {
            self.leases.remove(*run);
        }
        self.dirty.extend(effects.ready);
        self.pending_counted.extend(effects.counted);
        Ok((value, effects.ended))
    }

    /// Returns the events for the statistics since the last call.
    pub fn drain_counted(&mut self) -> Vec<(String, RunEvent)> {
        std::mem::take(&mut self.counted)
    }

    /// Recomputes whether a session can receive a job.
    fn refresh(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let is_free = !session.is_draining
            && !session.is_stalled
            && self.leases.count(id) < session.credit
            && self.leases.unacked_bytes(id) < UNACKED_BYTES_MAX;
        if self.sessions.set_free(id, is_free)
            && let Some(session) = self.sessions.get(id)
        {
            for served in &session.serves {
                if self.waiting.remove(&served.name) {
                    self.dirty.insert(served.name.clone());
                }
            }
        }
    }

    fn refresh_all_changed(&mut self) {
        for session in self.leases.drain_touched() {
            self.refresh(session);
        }
    }

    /// Removes a session; its runs wait for it to return, or after a goodbye go to others at once.
    fn drop_session(&mut self, id: SessionId, is_bye: bool, now: i64) {
        self.handshakes.remove(&id);
        if self.sessions.remove(id).is_none() {
            return;
        }
        let deadline = match is_bye {
            true => now,
            false => now + self.settings.grace_ms,
        };
        for run in self.leases.runs_of(id) {
            self.leases.change(run, |held| {
                held.session = None;
                held.deadline = match held.is_cancelled {
                    true => now,
                    false => deadline,
                };
            });
        }
        self.next_scan = self.next_scan.min(deadline);
    }
}
