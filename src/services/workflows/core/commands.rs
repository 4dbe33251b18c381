//! What workers report, and requests: each a command of its own in the transaction of the round.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::base::error::{Error, Kind, Result};
use crate::services::workflows::api_requests::Request;
use crate::services::workflows::codes::RunStatus;
use crate::services::workflows::core::Core;
use crate::services::workflows::core::answers::{ok, refusal};
use crate::services::workflows::core::dispatch::JOURNAL_BYTES_MAX;
use crate::services::workflows::core::messages::{Command, Output, send};
use crate::services::workflows::frames::{Act, Failed, Step, Write};
use crate::services::workflows::json::Object;
use crate::services::workflows::runs::End;
use crate::services::workflows::sessions::{Grant, SessionId};
use crate::services::workflows::steps::{Failure, Outcome, Reported};
use crate::services::workflows::tx::{Lease, Tx, lost_lease};
use crate::services::workflows::waits::{Condition, Parked};
use crate::services::workflows::{api_requests, calls, journal, limits};

/// The answer to a report.
pub(super) enum Answer {
    /// It is on disk, and that is all.
    Plain,
    /// With more to say.
    Ok(Object),
    /// A parked run goes on at once: what has happened.
    Wake(journal::Page),
}

impl Core {
    pub(super) fn write_one(
        &mut self,
        db: &Connection,
        now: i64,
        item: &Command,
        acks: &mut BTreeMap<SessionId, Vec<String>>,
        out: &mut Vec<Output>,
    ) -> Result<()> {
        match item {
            Command::Request {
                reply,
                grant,
                request: Request::Report { writes },
            } => {
                let answers = self.report_by_http(db, now, grant, writes, out)?;
                let answer = Object::new().list("answers", answers).end();
                out.push(Output::Answer {
                    reply: *reply,
                    answer: Ok(answer),
                });
            }
            Command::Request {
                reply,
                grant,
                request,
            } => {
                let done =
                    self.tx_with_effects(db, now, |tx| api_requests::run(tx, grant, request));
                let answer = self.own_or_all(db, done)?.map(|(answer, ended)| {
                    self.tell_ended(&ended, None, now, out);
                    answer
                });
                out.push(Output::Answer {
                    reply: *reply,
                    answer,
                });
            }
            Command::Report {
                session,
                reference,
                write,
            } => {
                let Some(grant) = self.sessions.get(*session).map(|it| it.grant.clone()) else {
                    // It has gone, and will say it again elsewhere.
                    return Ok(());
                };
                let result = self.report(db, now, &grant, Some(*session), write, out)?;
                let reference = reference.as_deref();
                match (result, reference) {
                    (Ok(Answer::Plain), None) => {}
                    (Ok(Answer::Plain), Some(reference)) => {
                        acks.entry(*session).or_default().push(reference.to_owned());
                    }
                    (result, _) => {
                        let text = answer_text(reference, &write.lease, result);
                        out.push(send(*session, text));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a failure is that of a command, or of the whole transaction.
    pub(super) fn own_or_all<T>(&self, db: &Connection, result: Result<T>) -> Result<Result<T>> {
        match result {
            Err(error) if db.is_autocommit() || error.was_stopped() => Err(error),
            result => Ok(result),
        }
    }

    fn report_by_http(
        &mut self,
        db: &Connection,
        now: i64,
        grant: &Grant,
        writes: &[(Option<String>, Result<Write, String>)],
        out: &mut Vec<Output>,
    ) -> Result<Vec<String>> {
        let mut answers = Vec::with_capacity(writes.len());
        for (reference, write) in writes {
            let reference = reference.as_deref();
            answers.push(match write {
                Ok(write) => {
                    let result = self.report(db, now, grant, None, write, out)?;
                    answer_text(reference, &write.lease, result)
                }
                Err(message) => refusal(reference, &Error::invalid(message.clone())),
            });
        }
        Ok(answers)
    }

    /// Writes what a worker says. The outer error is one of the whole transaction.
    fn report(
        &mut self,
        db: &Connection,
        now: i64,
        grant: &Grant,
        session: Option<SessionId>,
        write: &Write,
        out: &mut Vec<Output>,
    ) -> Result<Result<Answer>> {
        let Write { lease, act } = write;
        if let (
            Act::Nack {
                is_no_code: true, ..
            },
            Some(session),
        ) = (act, session)
            && let Some(held) = self.leases.find(lease).and_then(|run| self.leases.get(run))
            && held.session == Some(session)
        {
            let workflow = held.workflow.clone();
            self.sessions.strike(session, &workflow);
        }
        let done = self.tx_with_effects(db, now, |tx| {
            check_grant(tx, grant, lease)?;
            run(tx, grant, lease, act)
        });
        let (answer, ended) = match self.own_or_all(db, done)? {
            Ok(done) => done,
            Err(error) => {
                let has_stopped = matches!(act, Act::Fail(_) | Act::Done { .. } | Act::Nack { .. });
                let held = self.leases.find(lease).filter(|_| has_stopped);
                if let Some(run) = held
                    && self.leases.get(run).is_some_and(|held| held.is_cancelled)
                {
                    // The worker is done with a run that was cancelled.
                    self.leases.remove(run);
                    let is_answer = matches!(act, Act::Fail(failed) if failed.kind == "cancelled");
                    if is_answer {
                        return Ok(Ok(Answer::Plain));
                    }
                }
                return Ok(Err(error));
            }
        };
        if let Some(run) = self.leases.find(lease) {
            self.leases.renew(run, now + self.settings.lease_ms);
        }
        let by = session.filter(|session| {
            let held = self.leases.find(lease).and_then(|run| self.leases.get(run));
            held.is_some_and(|held| held.session == Some(*session))
        });
        self.tell_ended(&ended, by, now, out);
        Ok(Ok(answer))
    }
}

fn answer_text(reference: Option<&str>, lease: &Lease, result: Result<Answer>) -> String {
    match result {
        Ok(Answer::Plain) => ok(reference).bool("durable", true).end(),
        Ok(Answer::Ok(more)) => more.some_raw("ref", reference).end(),
        Ok(Answer::Wake(page)) => {
            let wake = Object::new()
                .text("t", "wake")
                .some_raw("ref", reference)
                .text("job", &lease.run)
                .int("epoch", lease.epoch)
                .int("seq", page.seq)
                .list("results", &page.entries);
            match page.more {
                true => wake.bool("more", true).end(),
                false => wake.end(),
            }
        }
        Err(error) => refusal(reference, &error),
    }
}

/// Whoever may not know of a run does not have it either.
fn check_grant(tx: &Tx<'_>, grant: &Grant, lease: &Lease) -> Result<()> {
    if grant.workflows.is_none() {
        return Ok(());
    }
    match tx.run(&lease.run)? {
        Some(run) if grant.opens(&run.workflow) => Ok(()),
        _ => Err(lost_lease()),
    }
}

/// Does what a worker says about a run.
fn run(tx: &mut Tx<'_>, grant: &Grant, lease: &Lease, act: &Act) -> Result<Answer> {
    let plain = |()| Answer::Plain;
    match act {
        Act::Step(step) => report_step(tx, lease, step),
        Act::StepBegin { key, name, attempt } => {
            let run = tx.leased(lease)?;
            let attempt = tx.begin_step(&run, key, name, *attempt)?;
            Ok(Answer::Ok(durable().int("attempt", attempt)))
        }
        Act::Park { seen, on } => park(tx, lease, *seen, on),
        Act::Call(call) => calls::run(tx, grant, lease, call).map(|answer| match answer {
            None => Answer::Plain,
            Some(answer) => Answer::Ok(answer),
        }),
        Act::Done { output } => end(tx, lease, RunStatus::Completed, output).map(plain),
        Act::Fail(failed) => fail(tx, lease, failed).map(plain),
        Act::Nack { delay_ms, .. } => {
            let run = tx.leased(lease)?;
            let lost = run.job.map_or(0, |job| job.lost);
            tx.give_back(run.id, tx.now + delay_ms, lost).map(plain)
        }
    }
}

fn durable() -> Object {
    ok(None).bool("durable", true)
}

fn report_step(tx: &mut Tx<'_>, lease: &Lease, step: &Step) -> Result<Answer> {
    let outcome = match &step.outcome {
        Ok(value) => Outcome::Ok(value),
        Err(failed) => Outcome::Err(Failure {
            error: &failed.error,
            is_fatal: failed.kind == "fatal",
            retry_after_ms: failed.retry_after_ms,
            attempt: step.attempt,
            retries: step.retries.unwrap_or(limits::RETRIES).clamp(0, 1_000),
        }),
    };
    let reported = tx.report_step(lease, &step.key, &step.name, step.started_ms, outcome)?;
    Ok(match reported {
        Reported::Completed => Answer::Plain,
        Reported::Failed => Answer::Ok(durable().bool("failed", true)),
        Reported::Retry { at, attempt } => {
            let left = (at - tx.now).max(0);
            Answer::Ok(durable().int("retry_ms", left).int("attempt", attempt))
        }
    })
}

fn park(tx: &mut Tx<'_>, lease: &Lease, seen: i64, on: &[Condition]) -> Result<Answer> {
    let run = tx.leased(lease)?;
    match tx.park(&run, seen, on)? {
        Parked::Waits => Ok(Answer::Plain),
        Parked::Holds => {
            let page = journal::read(tx.db, run.id, seen, JOURNAL_BYTES_MAX, false)?;
            Ok(Answer::Wake(page))
        }
    }
}

/// True if a run has ended so already.
fn has_ended(tx: &Tx<'_>, lease: &Lease, status: RunStatus, data: &str) -> Result<bool> {
    let run = tx.run(&lease.run)?.ok_or_else(lost_lease)?;
    Ok(run.status == status && tx.last_event_data(run.id)?.as_deref() == Some(data))
}

/// Ends a run; said again, it is the same.
fn end(tx: &mut Tx<'_>, lease: &Lease, status: RunStatus, data: &str) -> Result<()> {
    if has_ended(tx, lease, status, data)? {
        return Ok(());
    }
    let run = tx.leased(lease)?;
    let end = match status {
        RunStatus::Completed => End::Completed(data),
        _ => End::Failed(data),
    };
    tx.end_run(&run, end)
}

fn fail(tx: &mut Tx<'_>, lease: &Lease, failed: &Failed) -> Result<()> {
    match failed.kind.as_str() {
        "retryable" => {
            if has_ended(tx, lease, RunStatus::Failed, &failed.error)? {
                return Ok(());
            }
            let run = tx.leased(lease)?;
            let job = run.job.ok_or_else(lost_lease)?;
            if job.retries >= limits::RETRIES {
                return end(tx, lease, RunStatus::Failed, &failed.error);
            }
            let due = tx.now + tx.run_backoff(job.retries, failed.retry_after_ms);
            match run.is_expired(due) {
                // There is no next attempt, and this error says more than that the time is over.
                true => tx.end_run(&run, End::Expired(&failed.error)),
                false => tx.retry_job(run.id, job, due, &failed.error),
            }
        }
        "nondeterminism" => {
            let run = tx.leased(lease)?;
            tx.pause_job(run.id, &failed.error)
        }
        "cancelled" => {
            let run = tx.leased(lease)?;
            // Nobody has cancelled it: the worker gives it up.
            Err(Error::new(
                Kind::Conflict,
                format!("The run {} was not cancelled.", run.run),
            ))
        }
        _ => end(tx, lease, RunStatus::Failed, &failed.error),
    }
}
