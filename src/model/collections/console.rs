//! Statements that administrators write to look at their data: one `SELECT` over the collections of
//! a database.
//!
//! It sees what the statement of a view sees: the columns that the definitions have, and neither
//! system tables nor password hashes nor keys of tokens. Each name of a collection stands for a
//! selection of these columns. A name that evades this, qualified or of another table, is refused
//! by the policy under which SQLite prepares the statement.
//!
//! Bounds: the rows and bytes of the answer, the time of the reader's connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::Value;

use super::view::{JSON_TABLES, is_of_sqlite, readable, readable_columns, reading};
use super::view_sql::{SqlToken, SqlTokenKind, ViewSql};
use super::{Collection, Collections};
use crate::base::error::{Error, Result};
use crate::store::db::authorizer;
use crate::store::db::authorizer::Policy;

/// Longest answer, as the sum of its values.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Schemas whose tables a statement could name past the selections.
const SCHEMAS: [&str; 2] = ["main", "temp"];

/// A statement that may be run.
pub struct ConsoleQuery {
    sql: String,
    readable: Readable,
}

/// The readable columns of each table, all names in lower case.
type Readable = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, Default, Serialize)]
pub struct ConsoleAnswer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    /// There are more rows than were asked for, or than fit.
    pub truncated: bool,
    pub plan: Vec<PlanStep>,
}

/// A line of `EXPLAIN QUERY PLAN`.
#[derive(Debug, Serialize)]
pub struct PlanStep {
    pub id: i64,
    pub parent: i64,
    pub detail: String,
}

impl ConsoleQuery {
    pub fn parse(text: &str, collections: &Collections) -> Result<ConsoleQuery> {
        let statement = ViewSql::parse(text)?;
        refuse_schemas(&statement.tokens)?;
        let all = collections.all();
        let mut tables = Vec::new();
        for collection in all.iter().filter(|it| is_mentioned(&it.name, &statement)) {
            if let Some(error) = collection.view.as_ref().and_then(|it| it.error.as_ref()) {
                let name = &collection.name;
                return Err(Error::invalid(format!(
                    "The view {name} cannot be read: {error}"
                )));
            }
            tables.push(readable(collection));
        }
        Ok(ConsoleQuery {
            sql: with_tables(&statement, &tables),
            readable: all.iter().map(|it| columns_of(it)).collect(),
        })
    }

    /// The plan and at most `rows_max` rows; without `rows_max`, the plan alone. `reach` is told
    /// the bytes of the answer as they grow.
    pub fn run(
        &self,
        connection: &Connection,
        rows_max: Option<usize>,
        reach: impl Fn(usize) -> Result<()>,
    ) -> Result<ConsoleAnswer> {
        let policy = policy(self.readable.clone());
        let (result, denial) = authorizer::with_policy(policy, || {
            let mut answer = ConsoleAnswer {
                plan: self.plan(connection)?,
                ..ConsoleAnswer::default()
            };
            if let Some(rows_max) = rows_max {
                self.read(connection, rows_max, reach, &mut answer)?;
            }
            Ok(answer)
        });
        match denial {
            Some(phrase) => Err(Error::invalid(format!("The statement may not {phrase}."))),
            None => result.map_err(to_author),
        }
    }

    fn plan(&self, connection: &Connection) -> Result<Vec<PlanStep>> {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", self.sql))?;
        let steps = statement.query_map([], |row| {
            Ok(PlanStep {
                id: row.get(0)?,
                parent: row.get(1)?,
                detail: row.get(3)?,
            })
        })?;
        Ok(steps.collect::<rusqlite::Result<_>>()?)
    }

    fn read(
        &self,
        connection: &Connection,
        rows_max: usize,
        reach: impl Fn(usize) -> Result<()>,
        answer: &mut ConsoleAnswer,
    ) -> Result<()> {
        let mut statement = connection.prepare(&self.sql)?;
        answer.columns = statement.column_names().map(str::to_owned).collect();
        let count = answer.columns.len();
        let mut rows = statement.raw_query();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let mut values = Vec::with_capacity(count);
            for at in 0..count {
                let value = row.get_ref(at)?;
                bytes += size_of(value);
                if bytes <= ANSWER_BYTES_MAX {
                    reach(bytes)?;
                    values.push(json_of(value));
                }
            }
            if answer.rows.len() == rows_max || bytes > ANSWER_BYTES_MAX {
                answer.truncated = true;
                return Ok(());
            }
            answer.rows.push(values);
        }
        Ok(())
    }
}

/// Names the collections before the statement, among the common table expressions that it has.
fn with_tables(statement: &ViewSql, tables: &[String]) -> String {
    let text = &statement.text;
    if tables.is_empty() {
        return text.clone();
    }
    let is = |token: &SqlToken, word: &str| token.text.eq_ignore_ascii_case(word);
    let mut sql = String::from("WITH RECURSIVE ");
    sql += &tables.join(", ");
    let _ = match statement.tokens.as_slice() {
        [with, recursive, ..] if is(with, "WITH") && is(recursive, "RECURSIVE") => {
            write!(sql, ", {}", &text[recursive.end..])
        }
        [with, ..] if is(with, "WITH") => write!(sql, ", {}", &text[with.end..]),
        _ => write!(sql, " {text}"),
    };
    sql
}

fn refuse_schemas(tokens: &[SqlToken]) -> Result<()> {
    let named = tokens.windows(2).find(|pair| {
        let is_dot = pair[1].kind == SqlTokenKind::Symbol && pair[1].text == ".";
        let name = pair[0].text.trim_matches('\'');
        is_dot && SCHEMAS.iter().any(|it| it.eq_ignore_ascii_case(name))
    });
    match named {
        None => Ok(()),
        Some(pair) => Err(Error::invalid(format!(
            "Write the name of the collection without {}.",
            pair[0].text
        ))),
    }
}

/// True if the statement may name the collection: SQLite takes a string for a name where it expects
/// one.
fn is_mentioned(name: &str, statement: &ViewSql) -> bool {
    statement.mentions(name)
        || statement.tokens.iter().any(|token| {
            token.kind == SqlTokenKind::Literal
                && token.text.trim_matches('\'').eq_ignore_ascii_case(name)
        })
}

fn columns_of(collection: &Collection) -> (String, BTreeSet<String>) {
    let columns = readable_columns(collection).map(|(name, _)| name.to_ascii_lowercase());
    (collection.name.to_ascii_lowercase(), columns.collect())
}

/// Permits reading the columns of collections, JSON and subqueries.
fn policy(readable: Readable) -> Policy {
    reading(move |table_name, column_name| {
        let table = table_name.to_ascii_lowercase();
        let column = column_name.to_ascii_lowercase();
        let is_system = is_of_sqlite(&table) || table.starts_with('_');
        match readable.get(&table) {
            Some(columns) if column.is_empty() || columns.contains(&column) => None,
            Some(_) => Some(format!("read {column_name} of {table_name}")),
            None if JSON_TABLES.contains(&table.as_str()) => None,
            // A subquery of which only the rows count.
            None if column.is_empty() && !is_system => None,
            None => Some(format!("read the table {table_name}")),
        }
    })
}

/// Shows the message of SQLite to the author of the statement.
fn to_author(error: Error) -> Error {
    match error.sqlite_message() {
        Some(message) if !error.is_interrupted() => {
            Error::invalid(format!("SQLite does not accept the statement: {message}."))
        }
        _ => error,
    }
}

/// Bytes that a value takes in the answer, roughly.
fn size_of(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(text) => text.len() + 32,
        _ => 32,
    }
}

fn json_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Real(number) => Value::from(number),
        ValueRef::Text(text) => Value::from(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => Value::from(format!("({} bytes)", bytes.len())),
    }
}
