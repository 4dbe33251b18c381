//! Reports of workers and requests: each is one command in the transaction of the round.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::base::error::{Error, Kind, Result};
use crate::base::json::Object;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::codes::RunStatus;
use crate::services::workflows::core::Core;
use crate::services::workflows::core::answers::{ok, refusal};
use crate::services::workflows::core::dispatch::JOURNAL_BYTES_MAX;
use crate::services::workflows::core::messages::{Command, Output, send};
use crate::services::workflows::frames::{Report, ReportAction, ReportedError, StepReport};
use crate::services::workflows::runs::RunEnd;
use crate::services::workflows::sessions::{SessionId, WorkerGrant};
use crate::services::workflows::steps::{StepFailure, StepOutcome, StepResolution};
use crate::services::workflows::tx::{Lease, Tx, lost_lease};
use crate::services::workflows::waits::{ParkOutcome, WakeCondition};
use crate::services::workflows::{api_requests, calls, journal, limits};

pub(super) enum Answer {
    /// An acknowledgement without content.
    Plain,
    /// An `ok` with content.
    Ok(Object),
    /// A wait that already ended: the new events.
    Wake(journal::JournalPage),
}

impl Core {
    pub(super) fn run_command(
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
                request: WorkflowRequest::Report { reports },
            } => {
                let answers = self.report_by_http(db, now, grant, reports, out)?;
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
                    self.tx_with_effects(db, now, |tx| api_requests::execute(tx, grant, request));
                let answer = self.command_result(db, done)?.map(|(answer, ended)| {
                    self.notify_ended(&ended, None, now, out);
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
                report,
            } => {
                let Some(grant) = self.sessions.get(*session).map(|it| it.grant.clone()) else {
                    // The worker disconnected and sends the report again later.
                    return Ok(());
                };
                let result = self.report(db, now, &grant, Some(*session), report, out)?;
                let reference = reference.as_deref();
                match (result, reference) {
                    (Ok(Answer::Plain), None) => {}
                    (Ok(Answer::Plain), Some(reference)) => {
                        acks.entry(*session).or_default().push(reference.to_owned());
                    }
                    (result, _) => {
                        let text = answer_text(reference, &report.lease, result);
                        out.push(send(*session, text));
                    }
                }
            }
        }
        Ok(())
    }

    /// Separates an error of one command from an error of the whole transaction, which is the outer
    /// one.
    pub(super) fn command_result<T>(
        &self,
        db: &Connection,
        result: Result<T>,
    ) -> Result<Result<T>> {
        match result {
            Err(error) if db.is_autocommit() || error.is_interrupted() => Err(error),
            result => Ok(result),
        }
    }

    fn report_by_http(
        &mut self,
        db: &Connection,
        now: i64,
        grant: &WorkerGrant,
        reports: &[(Option<String>, Result<Report, String>)],
        out: &mut Vec<Output>,
    ) -> Result<Vec<String>> {
        let mut answers = Vec::with_capacity(reports.len());
        for (reference, report) in reports {
            let reference = reference.as_deref();
            answers.push(match report {
                Ok(report) => {
                    let result = self.report(db, now, grant, None, report, out)?;
                    answer_text(reference, &report.lease, result)
                }
                Err(message) => refusal(reference, &Error::invalid(message.clone())),
            });
        }
        Ok(answers)
    }

    /// Writes a report of a worker. The outer error concerns the whole transaction.
    fn report(
        &mut self,
        db: &Connection,
        now: i64,
        grant: &WorkerGrant,
        session: Option<SessionId>,
        report: &Report,
        out: &mut Vec<Output>,
    ) -> Result<Result<Answer>> {
        let Report { lease, action } = report;
        if let (
            ReportAction::Nack {
                is_no_code: true, ..
            },
            Some(session),
        ) = (action, session)
            && let Some(held) = self.leases.find(lease).and_then(|run| self.leases.get(run))
            && held.session == Some(session)
        {
            let workflow = held.workflow.clone();
            self.sessions.stop_serving(session, &workflow);
        }
        let done = self.tx_with_effects(db, now, |tx| {
            check_grant(tx, grant, lease)?;
            run(tx, grant, lease, action)
        });
        let (answer, ended) = match self.command_result(db, done)? {
            Ok(done) => done,
            Err(error) => {
                let has_stopped = matches!(
                    action,
                    ReportAction::Fail(_) | ReportAction::Done { .. } | ReportAction::Nack { .. }
                );
                let held = self.leases.find(lease).filter(|_| has_stopped);
                if let Some(run) = held
                    && self.leases.get(run).is_some_and(|held| held.is_cancelled)
                {
                    // The worker has stopped a cancelled run.
                    self.leases.remove(run);
                    let is_answer =
                        matches!(action, ReportAction::Fail(failed) if failed.kind == "cancelled");
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
        self.notify_ended(&ended, by, now, out);
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

/// Hides runs that the grant does not cover.
fn check_grant(tx: &Tx<'_>, grant: &WorkerGrant, lease: &Lease) -> Result<()> {
    if grant.workflows.is_none() {
        return Ok(());
    }
    match tx.run(&lease.run)? {
        Some(run) if grant.opens(&run.workflow) => Ok(()),
        _ => Err(lost_lease()),
    }
}

/// Executes a report about a run.
fn run(
    tx: &mut Tx<'_>,
    grant: &WorkerGrant,
    lease: &Lease,
    action: &ReportAction,
) -> Result<Answer> {
    let plain = |()| Answer::Plain;
    match action {
        ReportAction::Step(step) => report_step(tx, lease, step),
        ReportAction::StepBegin { key, name, attempt } => {
            let run = tx.leased(lease)?;
            let attempt = tx.begin_step(&run, key, name, *attempt)?;
            Ok(Answer::Ok(durable().int("attempt", attempt)))
        }
        ReportAction::Park { seen, on } => park(tx, lease, *seen, on),
        ReportAction::Call(call) => {
            calls::execute(tx, grant, lease, call).map(|answer| match answer {
                None => Answer::Plain,
                Some(answer) => Answer::Ok(answer),
            })
        }
        ReportAction::Done { output } => end(tx, lease, RunStatus::Completed, output).map(plain),
        ReportAction::Fail(failed) => fail(tx, lease, failed).map(plain),
        ReportAction::Nack { delay_ms, .. } => {
            let run = tx.leased(lease)?;
            let lost = run.job.map_or(0, |job| job.lost);
            tx.release_job(run.id, tx.now + delay_ms, lost).map(plain)
        }
    }
}

fn durable() -> Object {
    ok(None).bool("durable", true)
}

fn report_step(tx: &mut Tx<'_>, lease: &Lease, step: &StepReport) -> Result<Answer> {
    let outcome = match &step.outcome {
        Ok(value) => StepOutcome::Ok(value),
        Err(failed) => StepOutcome::Err(StepFailure {
            error: &failed.error,
            is_fatal: failed.kind == "fatal",
            retry_after_ms: failed.retry_after_ms,
            attempt: step.attempt,
            retries: step.retries.unwrap_or(limits::RETRIES).clamp(0, 1_000),
        }),
    };
    let reported = tx.report_step(lease, &step.key, &step.name, step.started_ms, outcome)?;
    Ok(match reported {
        StepResolution::Completed => Answer::Plain,
        StepResolution::Failed => Answer::Ok(durable().bool("failed", true)),
        StepResolution::Retry { at, attempt } => {
            let left = (at - tx.now).max(0);
            Answer::Ok(durable().int("retry_ms", left).int("attempt", attempt))
        }
    })
}

fn park(tx: &mut Tx<'_>, lease: &Lease, seen: i64, on: &[WakeCondition]) -> Result<Answer> {
    let run = tx.leased(lease)?;
    match tx.park(&run, seen, on)? {
        ParkOutcome::Waits => Ok(Answer::Plain),
        ParkOutcome::Holds => {
            let page = journal::read(tx.db, run.id, seen, JOURNAL_BYTES_MAX, false)?;
            Ok(Answer::Wake(page))
        }
    }
}

/// True if the run already ended with this result.
fn has_ended(tx: &Tx<'_>, lease: &Lease, status: RunStatus, data: &str) -> Result<bool> {
    let run = tx.run(&lease.run)?.ok_or_else(lost_lease)?;
    Ok(run.status == status && tx.last_event_data(run.id)?.as_deref() == Some(data))
}

/// Ends a run; a repeated report gets the same answer.
fn end(tx: &mut Tx<'_>, lease: &Lease, status: RunStatus, data: &str) -> Result<()> {
    if has_ended(tx, lease, status, data)? {
        return Ok(());
    }
    let run = tx.leased(lease)?;
    let end = match status {
        RunStatus::Completed => RunEnd::Completed(data),
        _ => RunEnd::Failed(data),
    };
    tx.end_run(&run, end)
}

fn fail(tx: &mut Tx<'_>, lease: &Lease, failed: &ReportedError) -> Result<()> {
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
                // There is no next attempt, and this error tells more than that the deadline
                // passed.
                true => tx.end_run(&run, RunEnd::Expired(&failed.error)),
                false => tx.retry_job(run.id, job, due, &failed.error),
            }
        }
        "nondeterminism" => {
            let run = tx.leased(lease)?;
            tx.pause_job(run.id, &failed.error)
        }
        "cancelled" => {
            let run = tx.leased(lease)?;
            // The worker gives up a run that was not cancelled.
            Err(Error::new(
                Kind::Conflict,
                format!("The run {} was not cancelled.", run.run),
            ))
        }
        _ => end(tx, lease, RunStatus::Failed, &failed.error),
    }
}
