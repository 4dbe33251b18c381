//! SQL scripts of administrators: permissions and execution.
//!
//! A script consists of statements that read and change rows, all in one transaction of the writer.
//! SQLite asks an authorizer (`db::guard`) about each operation; anything not listed here is
//! denied:
//!
//! - In `default` and tenants: tables of collections and tables that administrators added. Scripts
//!   neither read nor write system tables, nor the columns of accounts that hold credentials,
//!   because no client may see these secrets. An INSERT writes all columns, so scripts cannot
//!   create accounts.
//! - In `stats`: all tables, because they matter only to reports.
//! - In `workflows`: reading, and deleting finished rows of `runs`. The engine has unfinished runs
//!   in memory, so their rows stay, and so do the children of such runs. Deleting a run deletes
//!   everything that belongs to it, as the engine does with old runs.

use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection, Statement};

use crate::base::error::{Error, Result};
use crate::model::collections::TOKEN_KEY;
use crate::store::db;
use crate::store::db::authorizer;
use crate::store::db::authorizer::{AuthAction, AuthContext};

/// Temporary triggers for the time of a script: unfinished runs, and children that their parents
/// may query, stay; deleting any other run deletes its rows in other tables.
const CREATE_TRIGGERS: &str = "
    CREATE TEMP TRIGGER cron_stays BEFORE DELETE ON main.runs
    WHEN OLD.ended IS NULL OR EXISTS (SELECT 1 FROM jobs WHERE run IN (OLD.id, OLD.parent))
    BEGIN SELECT RAISE(IGNORE); END;
    CREATE TEMP TRIGGER cron_goes AFTER DELETE ON main.runs
    BEGIN
        DELETE FROM events WHERE run = OLD.id;
        DELETE FROM steps WHERE run = OLD.id;
        DELETE FROM waits WHERE run = OLD.id;
        DELETE FROM hooks WHERE run = OLD.id;
        DELETE FROM chunks WHERE run = OLD.id;
        DELETE FROM cancelling WHERE run = OLD.id;
    END;";
const DROP_TRIGGERS: &str = "DROP TRIGGER temp.cron_stays; DROP TRIGGER temp.cron_goes;";
const OWN_TRIGGERS: [&str; 2] = ["cron_stays", "cron_goes"];
const CHANGE_SCHEMA: &str = "create, alter or drop tables or other schema objects";

/// The only collection whose name begins like that of a system table.
const USERS: &str = "_users";
/// Columns of accounts that only the server may read or write.
const SECRETS: [&str; 2] = ["password", TOKEN_KEY];

/// The permissions of a script, by the database that it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptScope {
    Records,
    Stats,
    Workflows,
}

impl ScriptScope {
    pub fn of(database: &str) -> ScriptScope {
        match database {
            db::STATS => ScriptScope::Stats,
            db::WORKFLOWS => ScriptScope::Workflows,
            _ => ScriptScope::Records,
        }
    }

    /// The reason why an operation is denied; `None` if it is allowed.
    fn refuse(self, accounts: &[String], context: &AuthContext<'_>) -> Option<String> {
        let are_accounts = |table: &str| accounts.iter().any(|it| it.eq_ignore_ascii_case(table));
        let is_secret = |table: &str, column: &str| {
            are_accounts(table) && SECRETS.iter().any(|it| it.eq_ignore_ascii_case(column))
        };
        let is_own = context
            .accessor
            .is_some_and(|name| self == ScriptScope::Workflows && OWN_TRIGGERS.contains(&name));
        match context.action {
            AuthAction::Select | AuthAction::Recursive => None,
            AuthAction::Function { function_name } => authorizer::denied_function(function_name),
            AuthAction::Read {
                table_name,
                column_name,
            } => match self == ScriptScope::Records && is_system(table_name) {
                true => Some(format!("read the system table {table_name}")),
                false => is_secret(table_name, column_name)
                    .then(|| format!("read {column_name} of the accounts {table_name}")),
            },
            AuthAction::Delete { table_name } => match self {
                ScriptScope::Workflows if !is_own && table_name != "runs" => {
                    Some("delete from any table but runs".to_owned())
                }
                _ => self.refuse_write(table_name),
            },
            AuthAction::Insert { table_name } | AuthAction::Update { table_name, .. }
                if self == ScriptScope::Workflows && !is_schema(table_name) =>
            {
                Some("change workflows except by deleting runs".to_owned())
            }
            AuthAction::Insert { table_name } => self.refuse_write(table_name).or_else(|| {
                are_accounts(table_name)
                    .then(|| format!("insert accounts into {table_name}: let them register"))
            }),
            AuthAction::Update {
                table_name,
                column_name,
            } => self.refuse_write(table_name).or_else(|| {
                is_secret(table_name, column_name)
                    .then(|| format!("write {column_name} of the accounts {table_name}"))
            }),
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } => {
                Some("begin or end transactions: it runs in one".to_owned())
            }
            AuthAction::Pragma { pragma_name, .. } => Some(format!("use PRAGMA {pragma_name}")),
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
                Some("attach or detach databases".to_owned())
            }
            _ => Some(CHANGE_SCHEMA.to_owned()),
        }
    }

    fn refuse_write(self, table: &str) -> Option<String> {
        if is_schema(table) {
            return Some(CHANGE_SCHEMA.to_owned());
        }
        let is_refused = is_sqlite(table) || (self == ScriptScope::Records && is_system(table));
        is_refused.then(|| format!("write to the system table {table}"))
    }
}

fn is_system(table: &str) -> bool {
    table.starts_with('_') && table != USERS
}

/// The tables of accounts, recognized by a column that only they have.
fn accounts(connection: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT it.name FROM sqlite_schema AS it, pragma_table_info(it.name) AS its
               WHERE it.type = 'table' AND it.sql NOT LIKE 'CREATE VIRTUAL%' AND its.name = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([TOKEN_KEY], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn is_sqlite(table: &str) -> bool {
    table
        .get(..7)
        .is_some_and(|start| start.eq_ignore_ascii_case("sqlite_"))
}

/// SQLite asks about this table first when a statement creates or drops a table.
fn is_schema(table: &str) -> bool {
    is_sqlite(table) && table.ends_with("_master")
}

/// Reports whether a statement may compare columns of accounts without naming them: SQLite does not
/// ask the authorizer about such columns.
fn joins_by_name(statement: &str, accounts: &[String]) -> bool {
    let has = |wanted: &str| {
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut words = statement.split(|c| !is_of_word(c));
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    };
    (has("using") || has("natural")) && accounts.iter().any(|it| has(it))
}

/// Refuses a script that cannot run in the current schema; executes nothing.
pub fn check(connection: &Connection, scope: ScriptScope, sql: &str) -> Result<()> {
    let accounts = accounts(connection)?;
    under_guard(scope, &accounts, || {
        for_each_statement(connection, sql, &accounts, |_| Ok(()))
    })
}

/// Prepares each statement and calls `body` with it.
fn for_each_statement(
    connection: &Connection,
    sql: &str,
    accounts: &[String],
    mut body: impl FnMut(&mut Statement<'_>) -> Result<()>,
) -> Result<()> {
    let mut batch = Batch::new(connection, sql);
    let mut count = 0;
    while let Some(mut statement) = batch.next()? {
        if statement.parameter_count() > 0 {
            let message = "The script has a parameter; write values as literals.";
            return Err(Error::invalid(message));
        }
        let text = statement.expanded_sql();
        if text.is_none_or(|text| joins_by_name(&text, accounts)) {
            return Err(Error::invalid(
                "The script may not join accounts with USING or NATURAL; compare the columns after ON.",
            ));
        }
        body(&mut statement)?;
        count += 1;
    }
    match count {
        0 => Err(Error::invalid("The script has no statement.")),
        _ => Ok(()),
    }
}

/// Runs a script inside a write job. Returns the number of changed rows. `is_over` is checked
/// between statements; the interrupt handle stops SQLite inside one.
pub fn run(
    connection: &Connection,
    scope: ScriptScope,
    sql: &str,
    is_over: impl Fn() -> bool,
) -> Result<u64> {
    if scope == ScriptScope::Workflows {
        connection.execute_batch(CREATE_TRIGGERS)?;
    }
    let before = connection.total_changes();
    let accounts = accounts(connection)?;
    under_guard(scope, &accounts, || {
        for_each_statement(connection, sql, &accounts, |statement| {
            if is_over() {
                return Err(Error::unavailable("The server stopped."));
            }
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            Ok(())
        })
    })?;
    let changed = connection.total_changes() - before;
    if scope == ScriptScope::Workflows {
        connection.execute_batch(DROP_TRIGGERS)?;
    }
    Ok(changed)
}

/// The message for a script that exceeded its time limit.
pub fn timeout_message(limit: Duration) -> String {
    let seconds = limit.as_secs();
    format!("The script exceeded its time limit of {seconds} s and was rolled back.")
}

fn under_guard<T>(
    scope: ScriptScope,
    accounts: &[String],
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let accounts = accounts.to_vec();
    let judge = Box::new(move |context: &AuthContext<'_>| scope.refuse(&accounts, context));
    let (result, refused) = authorizer::with_policy(judge, body);
    match refused {
        Some(phrase) => Err(Error::invalid(format!("The script may not {phrase}."))),
        None => result.map_err(to_user_error),
    }
}

/// Shows the message of SQLite to the author of the script.
fn to_user_error(error: Error) -> Error {
    if error.is_interrupted() {
        return error;
    }
    match error.sqlite_message() {
        Some(message) => Error::invalid(format!("The script failed: {message}.")),
        None => error,
    }
}

#[cfg(test)]
mod tests;
