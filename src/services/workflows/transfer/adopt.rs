//! Importing a file of runs: their selection, new row ids, and the states of their jobs.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;

use rusqlite::types::Value as Cell;
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::{clock, ids};
use crate::services::workflows::codes::{EventKind, JobState};
use crate::services::workflows::run_id::NodeTag;
use crate::services::workflows::transfer::format::END;
use crate::services::workflows::transfer::reader::{
    ExportIndex, ExportRow, IncomingRun, LineReader,
};
use crate::services::workflows::tx::{Effects, Tx};

/// The result of an import.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The node that wrote the file, and the time.
    pub node: String,
    pub time: String,
    /// Imported runs, and how many of them have not ended.
    pub runs: usize,
    pub unfinished: usize,
    /// Runs that already exist, or belong to such runs.
    pub here: usize,
    /// Runs left out because of a conflict.
    pub refused: usize,
    /// The conflicts, one sentence each.
    pub reasons: Vec<String>,
}

/// Imports the runs of a file in a transaction that the caller commits. No server may use the
/// database, because its engine would not notice the new runs.
pub fn adopt(db: &Connection, mut file: File) -> Result<Adopted> {
    let content = ExportIndex::read(&mut file)?;
    let mut selection = select(db, &content)?;
    let mut import = Import {
        db,
        runs: HashMap::new(),
        known: std::mem::take(&mut selection.known),
        jobs: Vec::new(),
    };
    let mut reader = LineReader::new(&mut file)?;
    while let Some(line) = reader.next()? {
        if line.starts_with(END) {
            break;
        }
        if let Some(row) = reader.row(&line)? {
            import
                .add(row, &selection.is_out)
                .map_err(|error| reader.locate(error))?;
        }
    }
    let mut random = || ids::random_bytes::<8>().map_or(0, u64::from_le_bytes);
    let mut tx = Tx {
        db,
        now: clock::now_ms(),
        node: NodeTag::of(&content.node),
        random: &mut random,
        effects: Effects::default(),
    };
    restore_jobs(&mut tx, &import.jobs)?;
    Ok(Adopted {
        node: content.node,
        time: content.time,
        runs: import.runs.len(),
        unfinished: import.jobs.len(),
        ..selection.adopted
    })
}

/// The selection of the runs to import.
#[derive(Default)]
struct Selection {
    /// The numbers in the file of runs that are left out.
    is_out: BTreeSet<i64>,
    /// For runs that already exist, the number in the file and the row id.
    known: HashMap<i64, i64>,
    adopted: Adopted,
}

fn select(db: &Connection, content: &ExportIndex) -> Result<Selection> {
    let mut selection = Selection::default();
    let (mut here, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let roots: HashMap<i64, &IncomingRun> = content.runs.iter().map(|it| (it.number, it)).collect();
    for incoming in &content.runs {
        let sql = "SELECT id FROM runs WHERE run = ?1";
        let found = db
            .prepare_cached(sql)?
            .query_row([&incoming.run], |row| row.get(0));
        if let Some(id) = found.optional()? {
            selection.known.insert(incoming.number, id);
            here.insert(incoming.root);
        }
    }
    let mut refuse = |incoming: &IncomingRun, what: String, by: &str| {
        if !here.contains(&incoming.root) {
            refused.insert(incoming.root);
            let reason = format!(
                "{} is left out: {what} is already used by {by} here.",
                incoming.run
            );
            selection.adopted.reasons.push(reason);
        }
    };
    for incoming in &content.runs {
        let Some(key) = &incoming.idempotency_key else {
            continue;
        };
        let sql = "SELECT run FROM runs WHERE workflow = ?1 AND idempotency_key = ?2";
        let mut statement = db.prepare_cached(sql)?;
        let found = statement.query_row([&incoming.workflow, key], |row| row.get::<_, String>(0));
        if let Some(other) = found.optional()? {
            refuse(incoming, format!("its idempotency key {key}"), &other);
        }
    }
    for (number, token) in &content.tokens {
        let sql = "SELECT r.run FROM hooks h JOIN runs r ON r.id = h.run
                   WHERE h.token = ?1 AND h.disposed IS NULL";
        let mut statement = db.prepare_cached(sql)?;
        let found = statement.query_row([token], |row| row.get::<_, String>(0));
        if let (Some(other), Some(incoming)) = (found.optional()?, roots.get(number)) {
            refuse(incoming, format!("the token {token} of a hook"), &other);
        }
    }
    for incoming in &content.runs {
        let adopted = &mut selection.adopted;
        match (
            here.contains(&incoming.root),
            refused.contains(&incoming.root),
        ) {
            (true, _) => adopted.here += 1,
            (_, true) => adopted.refused += 1,
            _ => continue,
        }
        selection.is_out.insert(incoming.number);
    }
    Ok(selection)
}

/// An import in progress.
struct Import<'a> {
    db: &'a Connection,
    /// The number in the file, and the new row id.
    runs: HashMap<i64, i64>,
    /// The same for runs that already exist.
    known: HashMap<i64, i64>,
    jobs: Vec<ImportedJob>,
}

/// A job as in the file, restored after all rows are imported.
struct ImportedJob {
    run: i64,
    workflow: String,
    key: Option<String>,
    state: JobState,
    held_key: bool,
}

impl Import<'_> {
    fn add(&mut self, mut row: ExportRow, is_out: &BTreeSet<i64>) -> Result<()> {
        let is_run = row.table.name == "runs";
        let number = row.int(if is_run { "number" } else { "run" })?;
        if is_out.contains(&number) {
            return Ok(());
        }
        if is_run {
            for column in ["parent", "root"] {
                let known = row
                    .some_int(column)?
                    .and_then(|it| self.runs.get(&it).copied());
                row.set(column, Value::from(known));
            }
            if row.some_int("parent")?.is_none() {
                row.set("parent_key", Value::Null);
            }
            row.fields.remove("number");
            // Files of versions before 0.6.5 have no callers.
            row.fields.entry("caller").or_insert(Value::Null);
            self.insert(&row)?;
            self.runs.insert(number, self.db.last_insert_rowid());
            return Ok(());
        }
        let run = self.runs.get(&number).copied();
        let run = run.ok_or_else(|| {
            Error::invalid(format!(
                "The row refers to run {number}, which is not in the file."
            ))
        })?;
        row.set("run", Value::from(run));
        match row.table.name {
            "steps" => self.renumber(&mut row, "child")?,
            "events" if is_about_child(row.int("kind")?) => self.renumber(&mut row, "info")?,
            "jobs" => self.import_job(run, &mut row)?,
            _ => {}
        }
        self.insert(&row)
    }

    /// Replaces the number of a child. A child that is missing gets a negative number, which no run
    /// ever has.
    fn renumber(&self, row: &mut ExportRow, column: &str) -> Result<()> {
        if let Some(child) = row.some_int(column)? {
            let known = self.runs.get(&child).or_else(|| self.known.get(&child));
            let number = known.copied().unwrap_or(-child.saturating_abs());
            row.set(column, Value::from(number));
        }
        Ok(())
    }

    /// Blocks jobs until all are imported: none is ready, and no key is held.
    fn import_job(&mut self, run: i64, row: &mut ExportRow) -> Result<()> {
        let known = JobState::ALL.iter().map(|(state, _)| *state);
        let code = row.int("state")?;
        let state = known.clone().find(|state| state.code() == code);
        let state = state.ok_or_else(|| Error::invalid(format!("Unknown state {code}.")))?;
        self.jobs.push(ImportedJob {
            run,
            workflow: row.text("workflow")?,
            key: row.some_text("concurrency_key")?,
            state,
            held_key: row.int("holds_key")? != 0,
        });
        row.set("holds_key", Value::from(0));
        if !matches!(
            state,
            JobState::Parked | JobState::Delayed | JobState::Paused
        ) {
            row.set("state", Value::from(JobState::Blocked.code()));
        }
        Ok(())
    }

    fn insert(&self, row: &ExportRow) -> Result<()> {
        let mut statement = self.db.prepare_cached(row.table.insert)?;
        let count = statement.parameter_count();
        if row.fields.len() != count {
            return Err(Error::invalid(format!(
                "Expected {count} columns, found {}.",
                row.fields.len()
            )));
        }
        for at in 1..=count {
            let name = statement.parameter_name(at).unwrap_or_default();
            let name = name.trim_start_matches(':').to_owned();
            let cell = match row.field(&name)? {
                Value::Null => Cell::Null,
                Value::String(text) => Cell::Text(text.clone()),
                Value::Number(number) if number.is_i64() => {
                    Cell::Integer(number.as_i64().unwrap_or_default())
                }
                other => return Err(Error::invalid(format!("{name} cannot be {other}."))),
            };
            statement.raw_bind_parameter(at, cell)?;
        }
        statement.raw_execute()?;
        Ok(())
    }
}

/// True if `info` of an event is the number of a child.
fn is_about_child(kind: i64) -> bool {
    let kinds = [
        EventKind::StepCreated,
        EventKind::StepCompleted,
        EventKind::StepFailed,
    ];
    kinds.iter().any(|it| it.code() == kind)
}

/// Restores the states of imported jobs: a leased job is ready again with an epoch that continues
/// to grow; a holder of a concurrency key that is free here holds it again; the others wait for it.
fn restore_jobs(tx: &mut Tx<'_>, jobs: &[ImportedJob]) -> Result<()> {
    let is_still = |job: &ImportedJob| {
        matches!(
            job.state,
            JobState::Parked | JobState::Delayed | JobState::Paused
        )
    };
    for job in jobs {
        let Some(key) = &job.key else {
            if !is_still(job) {
                tx.make_ready(job.run)?;
            }
            continue;
        };
        if !job.held_key || tx.is_key_held(&job.workflow, key)? {
            continue;
        }
        match is_still(job) {
            true => {
                let sql = "UPDATE jobs SET holds_key = 1 WHERE run = ?1";
                tx.db.prepare_cached(sql)?.execute([job.run])?;
            }
            false => tx.make_ready(job.run)?,
        }
    }
    for job in jobs {
        if let Some(key) = &job.key
            && !tx.is_key_held(&job.workflow, key)?
        {
            tx.release_key(&job.workflow, key)?;
        }
    }
    Ok(())
}
