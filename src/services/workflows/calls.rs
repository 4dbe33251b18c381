//! Durable calls from inside a run. A call with a key that is already recorded returns the same
//! answer and does nothing.

use rusqlite::{OptionalExtension as _, params};
use serde_json::{Map, Value};

use crate::base::error::{Error, Result};
use crate::base::json::Object;
use crate::services::workflows::codes::{EventKind, StepStatus};
use crate::services::workflows::frames::{CallOp, WorkerCall};
use crate::services::workflows::limits;
use crate::services::workflows::sessions::WorkerGrant;
use crate::services::workflows::sql::sql;
use crate::services::workflows::steps::{StepOutcome, name_of};
use crate::services::workflows::tx::{Lease, NewEvent, Run, Tx};

/// Chunks in one stream.
const CHUNKS_MAX: i64 = 50_000;

/// Executes a call; returns an answer if it has more than `ok`.
pub fn execute(
    tx: &mut Tx<'_>,
    grant: &WorkerGrant,
    lease: &Lease,
    call: &WorkerCall,
) -> Result<Option<Object>> {
    let run = tx.leased(lease)?;
    let answer = || Object::new().text("t", "ok").bool("durable", true);
    match &call.op {
        CallOp::Trigger {
            run: new,
            is_detached,
        } => {
            grant.check(&new.workflow)?;
            let (child, status) = tx.start_child(&run, &call.key, new, *is_detached)?;
            Ok(Some(
                answer().text("run", &child).text("status", status.word()),
            ))
        }
        CallOp::HookCreate { token, metadata } => {
            let made = tx.create_hook(&run, &call.key, token.as_deref(), metadata.as_deref())?;
            // The refusal is recorded, so the command succeeds.
            Ok(Some(match made {
                Ok(token) => answer().text("token", &token),
                Err(error) => Object::new()
                    .text("t", "no")
                    .text("code", "conflict")
                    .text("message", error.message()),
            }))
        }
        CallOp::HookDispose => tx.dispose_hook(&run, &call.key).map(|()| None),
        CallOp::Emit { token, payload } => emit(tx, &run, lease, &call.key, token, payload),
        CallOp::SetAttr { attributes } => set_attributes(tx, &run, &call.key, attributes),
        CallOp::StreamWrite {
            name,
            index,
            data,
            is_end,
        } => write_chunk(tx, &run, name, *index, data, *is_end).map(|()| None),
    }
}

fn emit(
    tx: &mut Tx<'_>,
    run: &Run,
    lease: &Lease,
    key: &str,
    token: &str,
    payload: &str,
) -> Result<Option<Object>> {
    let step = tx.step(run.id, key)?;
    if step.is_some_and(|step| step.status == StepStatus::Completed) {
        return Ok(None);
    }
    tx.receive(token, payload)?;
    tx.report_step(lease, key, name_of(key), None, StepOutcome::Ok("null"))?;
    Ok(None)
}

/// Merges changes into the attributes; `null` deletes one.
fn set_attributes(
    tx: &mut Tx<'_>,
    run: &Run,
    key: &str,
    changes: &Map<String, Value>,
) -> Result<Option<Object>> {
    let sql = sql!(
        "SELECT 1 FROM events
         WHERE run = ?1 AND key = ?2 AND key <> '' AND kind = {EventKind::AttrSet}"
    );
    let is_done = tx.db.prepare_cached(sql)?.exists(params![run.id, key])?;
    if is_done {
        return Ok(None);
    }
    let sql = "SELECT attributes FROM runs WHERE id = ?1";
    let known: String = tx
        .db
        .prepare_cached(sql)?
        .query_row([run.id], |row| row.get(0))?;
    let mut attributes: Map<String, Value> = serde_json::from_str(&known)?;
    for (name, value) in changes {
        match value {
            Value::Null => drop(attributes.remove(name)),
            value => drop(attributes.insert(name.clone(), value.clone())),
        }
    }
    limits::check_attributes(&attributes)?;
    let data = Value::from(changes.clone()).to_string();
    tx.append(run.id, NewEvent::new(EventKind::AttrSet, key).data(&data))?;
    let sql = "UPDATE runs SET attributes = ?2 WHERE id = ?1";
    tx.db
        .prepare_cached(sql)?
        .execute(params![run.id, Value::from(attributes).to_string()])?;
    Ok(None)
}

/// Changes attributes as an event of its own.
pub fn set_attributes_json(tx: &mut Tx<'_>, run: &Run, key: &str, changes: &str) -> Result<()> {
    let changes = serde_json::from_str(changes)
        .map_err(|error| Error::invalid(format!("Invalid data of attributes: {error}.")))?;
    set_attributes(tx, run, key, &changes).map(drop)
}

fn write_chunk(
    tx: &mut Tx<'_>,
    run: &Run,
    name: &str,
    index: i64,
    data: &str,
    is_end: bool,
) -> Result<()> {
    limits::check_key("name", name)?;
    limits::check_payload("A chunk", data)?;
    let sql =
        "SELECT idx, last, data FROM chunks WHERE run = ?1 AND name = ?2 ORDER BY idx DESC LIMIT 1";
    let last: Option<(i64, bool, String)> = tx
        .db
        .prepare_cached(sql)?
        .query_row(params![run.id, name], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let next = last.as_ref().map_or(0, |(index, _, _)| index + 1);
    if (0..next).contains(&index) {
        // A repeated chunk.
        return Ok(());
    }
    if index != next || index >= CHUNKS_MAX {
        return Err(Error::conflict(format!(
            "The next chunk of the stream {name} has the index {next} (at most {CHUNKS_MAX})."
        )));
    }
    if last.is_some_and(|(_, is_last, _)| is_last) {
        return Err(Error::conflict(format!("The stream {name} has ended.")));
    }
    let sql = "INSERT INTO chunks (run, name, idx, data, last) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.db
        .prepare_cached(sql)?
        .execute(params![run.id, name, index, data, is_end])?;
    Ok(())
}
