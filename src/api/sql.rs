//! `POST /api/sql`: a statement of an administrator that reads.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use crate::base::error::{Error, Result};
use crate::model::collections::{ConsoleAnswer, ConsoleQuery};
use crate::net::http::Response;

/// Rows of an answer: as many as asked for, or the first of these; at most the second.
const ROWS: usize = 1000;
const ROWS_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Statement {
    #[serde(default)]
    sql: String,
    /// In place of `sql` in requests of PocketBase's clients, whose answers have another form.
    #[serde(default)]
    query: String,
    limit: Option<usize>,
    /// Answers the plan and runs nothing.
    #[serde(default)]
    explain: bool,
}

/// The answer in PocketBase's form, in which every value is text.
fn for_pocketbase(answer: &ConsoleAnswer, ms: f64) -> Value {
    let text = |value: &Value| match value {
        Value::Null | Value::String(_) => value.clone(),
        other => Value::from(other.to_string()),
    };
    let columns = answer.columns.iter();
    let columns = columns.map(|name| json!({"name": name, "type": "", "nullable": true}));
    let rows = answer.rows.iter();
    let rows = rows.map(|row| row.iter().map(text).collect::<Value>());
    json!({
        "execTime": ms.round(),
        "affectedRows": 0,
        "columns": columns.collect::<Value>(),
        "rows": rows.collect::<Value>(),
    })
}

pub fn run(call: &Call<'_>) -> Result<Response> {
    let body: Statement = call.body()?;
    let rows = body.limit.unwrap_or(ROWS);
    if rows > ROWS_MAX {
        let message = format!("Must be at most {ROWS_MAX}.");
        return Err(Error::field("limit", "validation_max", message));
    }
    let collections = call.collections()?;
    let text = [&body.sql, &body.query]
        .into_iter()
        .find(|it| !it.is_empty());
    let required = || Error::field("query", "validation_required", "Cannot be blank.");
    let query = ConsoleQuery::parse(text.ok_or_else(required)?, &collections)?;
    let output = call.output();
    let rows = (!body.explain).then_some(rows);
    let begun = Instant::now();
    let answer = call.database()?.snapshot_for(call.asker(), |connection| {
        query.run(connection, rows, |bytes| output.reach(bytes))
    })?;
    let ms = begun.elapsed().as_secs_f64() * 1000.0;
    collections.check_current()?;
    if body.sql.is_empty() {
        return Ok(no_store(json_response(200, &for_pocketbase(&answer, ms))));
    }
    let answer = json!({
        "columns": answer.columns,
        "rows": answer.rows,
        "truncated": answer.truncated,
        "plan": answer.plan,
        "ms": (ms * 100.0).round() / 100.0,
    });
    Ok(no_store(json_response(200, &answer)))
}
