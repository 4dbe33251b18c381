//! `POST /api/sql`: a statement of an administrator that reads.

use std::time::Instant;

use serde::Deserialize;
use serde_json::json;

use super::answer::{json_response, no_store};
use super::call::Call;
use crate::base::error::{Error, Result};
use crate::model::collections::ConsoleQuery;
use crate::net::http::Response;

/// Rows of an answer: as many as asked for, or the first of these; at most the second.
const ROWS: usize = 1000;
const ROWS_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Statement {
    sql: String,
    limit: Option<usize>,
    /// Answers the plan and runs nothing.
    #[serde(default)]
    explain: bool,
}

pub fn run(call: &Call<'_>) -> Result<Response> {
    let body: Statement = call.body()?;
    let rows = body.limit.unwrap_or(ROWS);
    if rows > ROWS_MAX {
        let message = format!("Must be at most {ROWS_MAX}.");
        return Err(Error::field("limit", "validation_max", message));
    }
    let collections = call.collections()?;
    let query = ConsoleQuery::parse(&body.sql, &collections)?;
    let output = call.output();
    let rows = (!body.explain).then_some(rows);
    let begun = Instant::now();
    let answer = call.database()?.snapshot_for(call.asker(), |connection| {
        query.run(connection, rows, |bytes| output.reach(bytes))
    })?;
    let ms = begun.elapsed().as_secs_f64() * 1000.0;
    collections.check_current()?;
    let answer = json!({
        "columns": answer.columns,
        "rows": answer.rows,
        "truncated": answer.truncated,
        "plan": answer.plan,
        "ms": (ms * 100.0).round() / 100.0,
    });
    Ok(no_store(json_response(200, &answer)))
}
