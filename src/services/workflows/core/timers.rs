//! Timers: lost workers, sleeps and deadlines of runs, expiring tokens.

use std::time::Duration;

use rusqlite::Connection;

use crate::base::backoff::Backoff;
use crate::base::error::Result;
use crate::base::json::Object;
use crate::base::log;
use crate::services::workflows::codes::RunStatus;
use crate::services::workflows::core::Core;
use crate::services::workflows::core::answers::revoke;
use crate::services::workflows::core::messages::{Output, close, close_code, send};
use crate::services::workflows::leases::HeldRun;
use crate::services::workflows::limits;
use crate::services::workflows::runs::{EXPIRED_ERROR, RunEnd, error_json};
use crate::services::workflows::sessions::SessionId;
use crate::services::workflows::tx::Tx;

/// Items of each kind in one transaction.
const AT_A_TIME: usize = 256;
/// Interval of the scans, and the delay with which a deadline may be noticed.
const SCAN_EVERY_MS: i64 = 500;
/// A difference between two calls beyond these limits is a jump of the clock.
const JUMP_MS: i64 = 20_000;
const JUMP_BACK_MS: i64 = 1_000;
/// Time before the end of a token at which the worker is warned.
const WARN_MS: i64 = 60_000;
/// Pause before another attempt of a run that lost several workers in a row.
const LOST: Backoff = Backoff::doubling(Duration::from_millis(250), Duration::from_secs(30));

impl Core {
    /// Moves timeouts along after a jump of the clock or a suspension, during which workers could
    /// not renew anything.
    pub(super) fn follow_clock(&mut self, now: i64) {
        let last = self.last_now.replace(now).unwrap_or(now);
        let jump = now - last;
        if (-JUMP_BACK_MS..JUMP_MS).contains(&jump) {
            return;
        }
        log::warn(format_args!(
            "the clock jumped, timeouts of workflows move along ms={jump}"
        ));
        self.leases.shift(jump);
        self.sessions.shift(jump);
        for (_, until) in self.handshakes.values_mut() {
            *until += jump;
        }
        self.next_scan = now;
        self.next_due = Some(now);
    }

    pub(super) fn run_timers(
        &mut self,
        db: &Connection,
        now: i64,
        out: &mut Vec<Output>,
    ) -> Result<()> {
        if self.next_scan <= now {
            let mut is_more = self.reclaim_expired(db, now, out)?;
            is_more |= self.expire_runs(db, now, out)?;
            is_more |= self.cancel_children(db, now, out)?;
            self.next_scan = match is_more {
                true => now,
                false => now + SCAN_EVERY_MS,
            };
        }
        for run in self.tx(db, now, |tx| tx.due_runs(AT_A_TIME))? {
            self.isolated(db, now, run, out, |tx| tx.wake_due(run))?;
        }
        Ok(())
    }

    /// Runs a command about one run; if it fails, the run is paused so that it does not block
    /// others. True if it succeeded.
    pub(super) fn isolated(
        &mut self,
        db: &Connection,
        now: i64,
        run: i64,
        out: &mut Vec<Output>,
        body: impl FnOnce(&mut Tx<'_>) -> Result<()>,
    ) -> Result<bool> {
        let done = self.tx_with_effects(db, now, body);
        match self.command_result(db, done)? {
            Ok(((), ended)) => {
                self.notify_ended(&ended, None, now, out);
                Ok(true)
            }
            Err(error) => {
                log::error(format_args!("workflow run paused id={run} error={error}"));
                let note = error_json("internal", error.message());
                self.tx(db, now, |tx| tx.pause_job(run, &note))?;
                Ok(false)
            }
        }
    }

    /// Makes runs ready again whose lease has expired.
    fn reclaim_expired(
        &mut self,
        db: &Connection,
        now: i64,
        out: &mut Vec<Output>,
    ) -> Result<bool> {
        let expired = self.leases.expired(now, AT_A_TIME);
        let (mut lost, mut example) = (0, String::new());
        for run in &expired {
            let Some(held) = self.leases.remove(*run) else {
                continue;
            };
            if let Some(session) = held.session {
                out.push(send(session, revoke(&held.run, held.epoch)));
                if !held.is_acked
                    && !held.is_cancelled
                    && let Some(session) = self.sessions.get_mut(session)
                {
                    session.is_stalled = true;
                }
            }
            if !held.is_cancelled {
                self.isolated(db, now, *run, out, |tx| record_lost_worker(tx, *run, &held))?;
                (lost, example) = (lost + 1, held.run);
            }
        }
        if lost > 0 {
            log::warn(format_args!(
                "leases of workers expired, their runs are ready again count={lost} run={example}"
            ));
        }
        Ok(expired.len() == AT_A_TIME)
    }

    fn expire_runs(&mut self, db: &Connection, now: i64, out: &mut Vec<Output>) -> Result<bool> {
        let expired = self.tx(db, now, |tx| tx.expired_runs(AT_A_TIME))?;
        for run in &expired {
            self.isolated(db, now, *run, out, |tx| {
                let Some(run) = tx.run_by_id(*run)? else {
                    return Ok(());
                };
                tx.end_run(&run, RunEnd::Expired(EXPIRED_ERROR))
            })?;
        }
        Ok(expired.len() == AT_A_TIME)
    }

    fn cancel_children(
        &mut self,
        db: &Connection,
        now: i64,
        out: &mut Vec<Output>,
    ) -> Result<bool> {
        let found = self.tx(db, now, |tx| tx.children_to_cancel(AT_A_TIME))?;
        let Some((parent, children)) = found else {
            return Ok(false);
        };
        let mut is_done = children.is_empty();
        for child in children {
            is_done |= !self.isolated(db, now, child, out, |tx| tx.cancel_child(parent, child))?;
        }
        if is_done {
            self.tx(db, now, |tx| tx.finish_child_cancellation(parent))?;
        }
        Ok(true)
    }

    /// Notifies workers that their runs ended, except the worker `by` that ended them.
    pub(super) fn notify_ended(
        &mut self,
        ended: &[(i64, RunStatus)],
        by: Option<SessionId>,
        now: i64,
        out: &mut Vec<Output>,
    ) {
        for (run, status) in ended {
            let Some(held) = self.leases.get(*run).cloned() else {
                continue;
            };
            let worker = held.session.filter(|session| by != Some(*session));
            let Some(session) = worker else {
                self.leases.remove(*run);
                continue;
            };
            if *status != RunStatus::Cancelled {
                self.leases.remove(*run);
                out.push(send(session, revoke(&held.run, held.epoch)));
                continue;
            }
            let grace_ms = self.settings.grace_ms;
            self.leases.change(*run, |held| {
                held.is_cancelled = true;
                held.deadline = now + grace_ms;
            });
            let cancel = Object::new()
                .text("t", "cancel")
                .text("job", &held.run)
                .int("epoch", held.epoch)
                .text("reason", "cancelled")
                .int("grace_ms", grace_ms);
            out.push(send(session, cancel.end()));
        }
    }

    /// Closes the connection of a worker whose credentials are no longer valid.
    pub fn disconnect(&mut self, id: SessionId, now: i64) -> Vec<Output> {
        self.drop_session(id, false, now);
        let reason = "the credentials are no longer valid";
        vec![close(id, close_code::UNAUTHENTICATED, reason)]
    }

    /// Closes connections that are silent or no longer allowed. Changes memory only.
    pub fn tick(&mut self, now: i64) -> Vec<Output> {
        let mut out = Vec::new();
        let mut over: Vec<(SessionId, u16, &str)> = Vec::new();
        for (id, (_, until)) in &self.handshakes {
            if *until <= now {
                over.push((*id, close_code::TIMEOUT, "no hello in time"));
            }
        }
        let ids: Vec<SessionId> = self.sessions.iter().map(|(id, _)| id).collect();
        for id in ids {
            let has_jobs = self.leases.count(id) > 0;
            let lease_ms = self.settings.lease_ms;
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            let left = session.grant.expires_ms.map(|at| at - now);
            if has_jobs && session.quiet_since + lease_ms <= now {
                over.push((id, close_code::TIMEOUT, "no heartbeat in time"));
            } else if session.probe.is_some_and(|(_, until)| until <= now) {
                over.push((id, close_code::TIMEOUT, "the probe was not answered"));
            } else if left.is_some_and(|left| left + self.settings.grace_ms <= 0) {
                over.push((id, close_code::UNAUTHENTICATED, "the token has expired"));
            } else if let Some(left) = left.filter(|left| *left <= WARN_MS)
                && !session.is_warned
            {
                session.is_warned = true;
                let warning = Object::new().text("t", "auth_expiring").int("in_ms", left);
                out.push(send(id, warning.end()));
            }
        }
        for (id, code, reason) in over {
            // A silent worker gets no further grace.
            self.drop_session(id, code == close_code::TIMEOUT, now);
            out.push(close(id, code, reason));
        }
        out
    }
}

/// Releases the run of a lost worker. The loss counts only if the job was acknowledged.
fn record_lost_worker(tx: &mut Tx<'_>, run: i64, held: &HeldRun) -> Result<()> {
    let Some(found) = tx.run_by_id(run)? else {
        return Ok(());
    };
    let Some(job) = found.job.filter(|job| job.epoch == held.epoch) else {
        return Ok(());
    };
    let lost = job.lost + i64::from(held.is_acked);
    if lost >= limits::LOST_MAX {
        let message = format!("The run lost its worker {lost} times in a row.");
        return tx.end_run(&found, RunEnd::Failed(&error_json("abandoned", &message)));
    }
    let failures = u32::try_from(job.lost + 1).unwrap_or(u32::MAX);
    let pause = match held.is_acked && job.lost > 0 {
        true => LOST.pause_ms(failures),
        false => 0,
    };
    tx.release_job(run, tx.now + pause, lost)
}
