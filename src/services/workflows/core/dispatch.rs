//! Dispatch: ready jobs go to workers with free credit and the code.

use rusqlite::{Connection, params};

use crate::base::error::Result;
use crate::base::json::Object;
use crate::services::workflows::core::Core;
use crate::services::workflows::core::messages::{Output, send};
use crate::services::workflows::jobs::ReadyJob;
use crate::services::workflows::journal;
use crate::services::workflows::leases::HeldRun;
use crate::services::workflows::runs::{EXPIRED_ERROR, RunEnd};
use crate::services::workflows::sessions::SessionId;
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::Tx;

/// Jobs dispatched in one transaction.
const AT_A_TIME: usize = 256;
/// Jobs of a workflow examined together.
const BATCH_MAX: usize = 32;
/// Bytes of the input, and of the journal, in a frame.
const INPUT_BYTES_MAX: usize = 64 << 10;
pub const JOURNAL_BYTES_MAX: usize = 192 << 10;

impl Core {
    pub(super) fn dispatch(
        &mut self,
        db: &Connection,
        now: i64,
        out: &mut Vec<Output>,
    ) -> Result<()> {
        self.refresh_all_changed();
        let mut left = AT_A_TIME;
        self.examined = std::mem::take(&mut self.dirty);
        for workflow in self.examined.clone() {
            while left > 0 {
                let batch = self.next_jobs(db, now, &workflow, left.min(BATCH_MAX))?;
                let mut given = 0;
                for job in batch {
                    given += usize::from(self.dispatch_job(db, now, &workflow, &job, out)?);
                }
                left -= given;
                if given == 0 {
                    break;
                }
            }
            match left {
                // The next round continues with this workflow.
                0 => drop(self.dirty.insert(workflow)),
                _ if has_ready(db, &workflow)? => drop(self.waiting.insert(workflow)),
                _ => drop(self.waiting.remove(&workflow)),
            }
        }
        Ok(())
    }

    /// The first jobs that a free worker can run, best first.
    fn next_jobs(
        &mut self,
        db: &Connection,
        now: i64,
        workflow: &str,
        max: usize,
    ) -> Result<Vec<ReadyJob>> {
        let mut versions = self.sessions.free_versions(workflow);
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        versions.push(String::new());
        let mut jobs = Vec::new();
        for version in versions {
            jobs.extend(self.tx(db, now, |tx| tx.ready_jobs(workflow, &version, max))?);
        }
        jobs.sort_by_key(|job| (-job.priority, job.since, job.run));
        jobs.truncate(max);
        Ok(jobs)
    }

    /// Dispatches a job to a worker, or ends its run if its deadline has passed; false if no worker
    /// can take it.
    fn dispatch_job(
        &mut self,
        db: &Connection,
        now: i64,
        workflow: &str,
        job: &ReadyJob,
        out: &mut Vec<Output>,
    ) -> Result<bool> {
        let Some((session, version)) =
            self.sessions
                .choose_worker(workflow, &job.version, &job.worker)
        else {
            return Ok(false);
        };
        let Some(known) = self.sessions.get(session) else {
            return Ok(false);
        };
        if job.expires.is_some_and(|expires| expires <= now) {
            return self.isolated(db, now, job.run, out, |tx| match tx.run_by_id(job.run)? {
                Some(run) => tx.end_run(&run, RunEnd::Expired(EXPIRED_ERROR)),
                None => Ok(()),
            });
        }
        let worker = known.worker.clone();
        let lease_ms = self.settings.lease_ms;
        let given = self.tx(db, now, |tx| lease(tx, job, &version, &worker, lease_ms))?;
        let Some((held, frame)) = given else {
            return Ok(false);
        };
        self.record_lease(now, session, job.run, workflow, held, frame.len());
        out.push(send(session, frame));
        Ok(true)
    }

    fn record_lease(
        &mut self,
        now: i64,
        session: SessionId,
        run: i64,
        workflow: &str,
        (name, epoch): (String, i64),
        bytes: usize,
    ) {
        let held = HeldRun {
            run: name,
            epoch,
            workflow: workflow.to_owned(),
            session: Some(session),
            deadline: now + self.settings.ack_ms,
            is_acked: false,
            is_cancelled: false,
            bytes,
        };
        let was_idle = self.leases.count(session) == 0;
        if let Some(session) = self.sessions.get_mut(session).filter(|_| was_idle) {
            session.quiet_since = now;
        }
        self.leases.put(run, held);
        self.sessions.rotate(session);
        self.refresh(session);
    }
}

fn has_ready(db: &Connection, workflow: &str) -> Result<bool> {
    let sql = sql!(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE workflow = ?1 AND state = {JobState::Ready})"
    );
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement.query_row([workflow], |row| row.get(0))?)
}

/// Leases the job in the database; returns the run with its epoch, and the frame.
fn lease(
    tx: &mut Tx<'_>,
    job: &ReadyJob,
    version: &str,
    worker: &str,
    lease_ms: i64,
) -> Result<Option<((String, i64), String)>> {
    let Some(run) = tx.run_by_id(job.run)? else {
        return Ok(None);
    };
    let epoch = tx.lease_job(run.id, version, worker)?;
    tx.start_run(&run, version)?;
    let sql = "SELECT r.attributes, r.expires, p.run, (SELECT data FROM events WHERE run = r.id AND seq = 1)
               FROM runs r LEFT JOIN runs p ON p.id = r.parent WHERE r.id = ?1";
    let (attributes, expires, parent, input) =
        tx.db
            .prepare_cached(sql)?
            .query_row(params![run.id], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, Option<i64>>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get::<_, Option<String>>(3)?,
                ))
            })?;
    let page = journal::read(tx.db, run.id, 0, JOURNAL_BYTES_MAX, false)?;
    let frame = Object::new()
        .text("t", "job")
        .text("job", &run.run)
        .int("epoch", epoch)
        .text("workflow", &run.workflow)
        .text("version", version)
        .int(
            "attempt",
            1 + run.job.map_or(0, |job| job.lost + job.retries),
        )
        .int("lease_ms", lease_ms)
        .some_text("parent", parent.as_deref())
        .some_int("deadline", expires);
    let frame = match attributes.as_str() {
        "{}" => frame,
        attributes => frame.raw("attributes", attributes),
    };
    let input = input.as_deref().unwrap_or("null");
    let frame = match input.len() <= INPUT_BYTES_MAX {
        true => frame.raw("input", input),
        false => frame.bool("input_more", true),
    };
    let frame = frame.int("seq", page.seq).list("journal", &page.entries);
    let frame = match page.more {
        true => frame.bool("more", true),
        false => frame,
    };
    Ok(Some(((run.run, epoch), frame.end())))
}
