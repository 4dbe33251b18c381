//! Resuming failed or paused runs where they stopped, and forking new runs from the first results
//! of old ones.

use rusqlite::params;
use serde_json::{Map, Value};

use crate::base::error::{Error, Result};
use crate::services::workflows::codes::{EventKind, JobState, RunStatus};
use crate::services::workflows::hooks::{HookData, REFUSED_TOKEN, hook_data};
use crate::services::workflows::jobs::NewJob;
use crate::services::workflows::limits;
use crate::services::workflows::runs::{CreatedRun, NewRun};
use crate::services::workflows::sql::sql;
use crate::services::workflows::tx::{NewEvent, Run, Tx};

/// The parameters of a resumed or forked run.
struct RunTemplate {
    version: String,
    priority: i64,
    concurrency_key: Option<String>,
    attributes: String,
    epoch: i64,
}

impl Tx<'_> {
    /// Resumes a failed or paused run where it stopped, with another version of the code if one is
    /// given.
    pub fn resume_run(&mut self, run: &Run, version: Option<&str>) -> Result<()> {
        if let Some(version) = version {
            limits::check_version(version)?;
            for sql in [
                "UPDATE runs SET version = ?2 WHERE id = ?1",
                "UPDATE jobs SET version = ?2 WHERE run = ?1",
            ] {
                self.db
                    .prepare_cached(sql)?
                    .execute(params![run.id, version])?;
            }
        }
        match (run.status, &run.job) {
            (RunStatus::Failed, _) => self.restart_failed(run),
            (_, Some(job)) if job.state == JobState::Paused => self.make_ready(run.id),
            // Only its version changed.
            (_, Some(job)) if version.is_some() && job.state == JobState::Ready => {
                self.make_ready(run.id)
            }
            (status, _) => Err(Error::conflict(format!(
                "The run is {}; only failed and paused runs can be resumed.",
                status.word()
            ))),
        }
    }

    fn restart_failed(&mut self, run: &Run) -> Result<()> {
        let seq = self.append(run.id, NewEvent::new(EventKind::RunResumed, ""))?;
        let sql = sql!(
            "UPDATE runs SET status = iif(started IS NULL, {RunStatus::Pending}, {RunStatus::Running}),
                             ended = NULL, expires = NULL, resumed = ?2
             WHERE id = ?1"
        );
        self.db.prepare_cached(sql)?.execute([run.id, seq])?;
        // Children whose cancellation is still queued continue.
        self.finish_child_cancellation(run.id)?;
        // Failed steps, and failed children, are tried again.
        let sql = sql!(
            "DELETE FROM steps WHERE run = ?1
               AND (status = {StepStatus::Failed} OR (status = {StepStatus::Cancelled} AND child IS NULL))"
        );
        self.db.prepare_cached(sql)?.execute([run.id])?;
        self.update_from_children(run.id)?;
        self.restore_waits(run.id)?;
        self.restore_hooks(run.id)?;
        let row = self.template(run.id)?;
        self.add_job(&NewJob {
            run: run.id,
            workflow: &run.workflow,
            version: &row.version,
            priority: row.priority,
            concurrency_key: row.concurrency_key.as_deref(),
            due: None,
        })?;
        // An epoch is never used twice.
        let sql = "UPDATE jobs SET epoch = ?2 WHERE run = ?1";
        self.db
            .prepare_cached(sql)?
            .execute(params![run.id, row.epoch])?;
        Ok(())
    }

    /// Records the results of children that continued while the run had ended.
    fn update_from_children(&mut self, run: i64) -> Result<()> {
        let sql = sql!(
            "SELECT steps.key, steps.child, runs.status,
                    (SELECT data FROM events WHERE run = runs.id ORDER BY seq DESC LIMIT 1)
             FROM steps LEFT JOIN runs ON runs.id = steps.child
             WHERE steps.run = ?1 AND steps.status = {StepStatus::Cancelled} AND steps.child IS NOT NULL"
        );
        let children: Vec<(String, i64, Option<RunStatus>, Option<String>)> = {
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map([run], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        for (key, child, status, output) in children {
            let change = match status {
                Some(RunStatus::Completed) => {
                    let output = output.as_deref().unwrap_or("null");
                    let event = NewEvent::new(EventKind::StepCompleted, &key);
                    let seq = self.append(run, event.data(output).info(child))?;
                    let sql = sql!(
                        "UPDATE steps SET status = {StepStatus::Completed}, ended = ?3, result = ?4
                         WHERE run = ?1 AND key = ?2"
                    );
                    let values = params![run, key, self.now, seq];
                    self.db.prepare_cached(sql)?.execute(values)?;
                    continue;
                }
                Some(RunStatus::Pending | RunStatus::Running) => {
                    sql!(
                        "UPDATE steps SET status = {StepStatus::Running}, ended = NULL
                         WHERE run = ?1 AND key = ?2"
                    )
                }
                _ => "DELETE FROM steps WHERE run = ?1 AND key = ?2",
            };
            self.db.prepare_cached(change)?.execute(params![run, key])?;
        }
        Ok(())
    }

    fn restore_waits(&self, run: i64) -> Result<()> {
        let sql = sql!(
            "INSERT INTO waits (run, key, until, ended)
             SELECT run, key, info,
                    (SELECT at FROM events e WHERE e.run = b.run AND e.key = b.key
                       AND e.kind = {EventKind::WaitCompleted} AND e.kind IN ({EventKind::ONCE}))
             FROM events b WHERE run = ?1 AND kind = {EventKind::WaitCreated}"
        );
        self.db.prepare_cached(sql)?.execute([run])?;
        Ok(())
    }

    /// Restores the live hooks from the events; their tokens must still be free.
    fn restore_hooks(&self, run: i64) -> Result<()> {
        let sql = sql!(
            "SELECT key, kind, data, at,
                    (SELECT at FROM events e WHERE e.run = b.run AND e.key = b.key
                       AND e.kind = {EventKind::HookDisposed} AND e.kind IN ({EventKind::ONCE}))
             FROM events b
             WHERE run = ?1 AND kind IN ({EventKind::HookCreated}, {EventKind::HookConflict})"
        );
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([run])?;
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            let is_refused = row.get::<_, EventKind>(1)? == EventKind::HookConflict;
            let hook: HookData = serde_json::from_str(&row.get::<_, String>(2)?)?;
            let at: i64 = row.get(3)?;
            let disposed: Option<i64> = row.get(4)?;
            let (token, disposed) = match is_refused {
                true => (REFUSED_TOKEN, Some(at)),
                false => (hook.token.as_str(), disposed),
            };
            if disposed.is_none() && self.hook(token)?.is_some() {
                return Err(Error::conflict(format!(
                    "The token {token} of a hook of the run belongs to another run now."
                )));
            }
            let metadata = hook.metadata.as_ref().map(|it| it.get());
            let sql = "INSERT INTO hooks (run, key, token, metadata, disposed) VALUES (?1, ?2, ?3, ?4, ?5)";
            self.db
                .prepare_cached(sql)?
                .execute(params![run, key, token, metadata, disposed])?;
        }
        Ok(())
    }

    fn template(&self, run: i64) -> Result<RunTemplate> {
        let sql =
            "SELECT version, priority, concurrency_key, attributes, epoch FROM runs WHERE id = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.query_row([run], |row| {
            Ok(RunTemplate {
                version: row.get(0)?,
                priority: row.get(1)?,
                concurrency_key: row.get(2)?,
                attributes: row.get(3)?,
                epoch: row.get(4)?,
            })
        })?)
    }

    /// Creates a run with the input of an old run and, if a step is named, with the results
    /// recorded before that step.
    pub fn fork_run(
        &mut self,
        run: &Run,
        from: Option<&str>,
        version: Option<String>,
    ) -> Result<CreatedRun> {
        let until = match from {
            None => 0,
            Some(key) => self.first_seq(run, key)?,
        };
        let row = self.template(run.id)?;
        let input = self.event_data(run.id, 1)?;
        let mut attributes: Map<String, Value> = serde_json::from_str(&row.attributes)?;
        if attributes.len() < limits::ATTRIBUTES_MAX {
            attributes.insert("forkedFrom".to_owned(), Value::from(run.run.clone()));
        }
        let made = self.create_run(
            &NewRun {
                version,
                priority: row.priority,
                concurrency_key: row.concurrency_key,
                attributes,
                ..NewRun::new(&run.workflow, input.as_deref().unwrap_or("null"))
            },
            None,
        )?;
        self.copy_journal(run.id, made.id, until)?;
        Ok(made)
    }

    fn first_seq(&self, run: &Run, key: &str) -> Result<i64> {
        let sql = "SELECT min(seq) FROM events WHERE run = ?1 AND key = ?2";
        let seq: Option<i64> = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run.id, key], |row| row.get(0))?;
        seq.ok_or_else(|| Error::not_found(format!("The run {} has no step {key}.", run.run)))
    }

    /// Copies results, finished sleeps, and hooks with new tokens.
    fn copy_journal(&mut self, from: i64, to: i64, until: i64) -> Result<()> {
        let sql = sql!(
            "INSERT INTO events (run, seq, kind, key, data, info, n, at)
             SELECT ?2, seq, kind, key, data, iif(kind = {EventKind::StepCompleted}, NULL, info), n, at
             FROM events b
             WHERE run = ?1 AND seq > 1 AND seq < ?3
               AND (kind IN ({EventKind::StepCompleted}, {EventKind::HookReceived},
                             {EventKind::HookDisposed}, {EventKind::HookConflict})
                    OR kind IN ({EventKind::WaitCreated}, {EventKind::WaitCompleted})
                       AND EXISTS (SELECT 1 FROM events e
                                   WHERE e.run = b.run AND e.key = b.key AND e.seq < ?3
                                     AND e.kind = {EventKind::WaitCompleted}
                                     AND e.kind IN ({EventKind::ONCE})))"
        );
        self.db.prepare_cached(sql)?.execute([from, to, until])?;
        let sql = sql!(
            "SELECT seq, key, data FROM events
             WHERE run = ?1 AND kind = {EventKind::HookCreated} AND seq < ?2"
        );
        let hooks: Vec<(i64, String, String)> = {
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map([from, until], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        for (seq, key, data) in hooks {
            let hook: HookData = serde_json::from_str(&data)?;
            let token = self.random_token();
            let data = hook_data(&token, hook.metadata.as_ref().map(|it| it.get()));
            let sql = sql!(
                "INSERT INTO events (run, seq, kind, key, data, at)
                 VALUES (?1, ?2, {EventKind::HookCreated}, ?3, ?4, ?5)"
            );
            self.db
                .prepare_cached(sql)?
                .execute(params![to, seq, key, data, self.now])?;
        }
        let sql = sql!(
            "INSERT INTO steps (run, key, name, status, attempt, started, ended, result)
             SELECT ?2, e.key, s.name, {StepStatus::Completed}, s.attempt, s.started, s.ended, e.seq
             FROM events e JOIN steps s ON s.run = ?1 AND s.key = e.key
             WHERE e.run = ?2 AND e.kind = {EventKind::StepCompleted}"
        );
        self.db.prepare_cached(sql)?.execute([from, to])?;
        self.restore_waits(to)?;
        self.restore_hooks(to)
    }
}
