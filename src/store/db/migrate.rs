//! Migrations of the system tables: append-only steps, counted by `PRAGMA user_version`.
//!
//! All pending steps of a file run in one exclusive transaction, so a failing step leaves the file
//! unchanged. A file from a newer program is refused: partly understood data is worse than none.
//! Only `collections` alters the tables of collections.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use crate::base::error::{Error, Result, ResultExt as _};

/// The kind of a database file, which determines its system tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// `default.db`: definitions, admins, API keys.
    Default,
    /// A tenant: which definitions its tables implement.
    Tenant,
    /// `local.db`: settings of this node.
    Local,
    /// `stats.db`: statistics of this node.
    Stats,
    /// `workflows.db`: the workflow runs of this node.
    Workflows,
}

impl Schema {
    /// The version to which this program migrates a file.
    pub fn version(self) -> i64 {
        i64::try_from(self.steps().len()).unwrap_or(i64::MAX)
    }

    /// The steps from an empty file to the present version; released steps never change.
    fn steps(self) -> &'static [&'static str] {
        match self {
            Schema::Default => &[
                include_str!("schema/default.sql"),
                include_str!("schema/keys.sql"),
                include_str!("schema/files.sql"),
                include_str!("schema/journal.sql"),
                include_str!("schema/webhooks.sql"),
                include_str!("schema/cron.sql"),
                include_str!("schema/superusers.sql"),
                include_str!("schema/webhook_outbox.sql"),
                include_str!("schema/external_auths.sql"),
            ],
            Schema::Local => &[
                include_str!("schema/local.sql"),
                include_str!("schema/replicas.sql"),
                include_str!("schema/positions.sql"),
                include_str!("schema/cron_runs.sql"),
                include_str!("schema/unnamed.sql"),
            ],
            Schema::Stats => &[include_str!("schema/stats.sql")],
            Schema::Workflows => &[
                include_str!("schema/workflows.sql"),
                include_str!("schema/workflow_callers.sql"),
                include_str!("schema/workflow_views.sql"),
            ],
            Schema::Tenant => &[
                include_str!("schema/tenant.sql"),
                include_str!("schema/files.sql"),
                include_str!("schema/webhooks.sql"),
                include_str!("schema/webhook_outbox.sql"),
                include_str!("schema/external_auths.sql"),
            ],
        }
    }
}

/// Refuses a file of a newer or another program; changes nothing. A tenant may have tables of its
/// own.
pub fn check(connection: &Connection, schema: Schema) -> Result<()> {
    // One statement, since another process may be creating the file.
    let sql = "SELECT user_version = 0 AND EXISTS (SELECT 1 FROM sqlite_schema)
               FROM pragma_user_version";
    if schema != Schema::Tenant && connection.query_row(sql, [], |row| row.get(0))? {
        return Err(Error::unavailable(
            "The file contains the tables of another program.",
        ));
    }
    refuse_newer(user_version(connection)?, schema.steps())
}

/// True if the system tables of a file have the present version.
pub fn is_current(connection: &Connection, schema: Schema) -> Result<bool> {
    Ok(user_version(connection)? == schema.steps().len())
}

/// Migrates a file to the present version.
pub fn run(connection: &mut Connection, schema: Schema) -> Result<()> {
    run_steps(connection, schema.steps())
}

/// The differences to the system tables of this program, one sentence each; none for a file that
/// has to be migrated first. A tenant may have tables of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "an empty database to compare with"
)]
pub fn differences(connection: &Connection, schema: Schema) -> Result<Vec<String>> {
    if user_version(connection)? < schema.steps().len() {
        return Ok(Vec::new());
    }
    let mut fresh = Connection::open_in_memory()?;
    run(&mut fresh, schema)?;
    let sql = "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL";
    let mut expected = fresh.prepare(sql)?;
    let mut rows = expected.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, expected_sql): (String, String) = (row.get(0)?, row.get(1)?);
        let sql = "SELECT sql FROM sqlite_schema WHERE type || ' ' || name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let present: Option<String> = statement.query_row([&name], |row| row.get(0)).optional()?;
        match present {
            None => found.push(format!("The {name} is missing.")),
            Some(present) if present != expected_sql => {
                found.push(format!("The {name} was altered."));
            }
            Some(_) => {}
        }
    }
    Ok(found)
}

fn run_steps(connection: &mut Connection, steps: &[&str]) -> Result<()> {
    let version = user_version(connection)?;
    if version == steps.len() {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let version = user_version(&tx)?;
    refuse_newer(version, steps)?;
    for (number, step) in steps.iter().enumerate().skip(version) {
        tx.execute_batch(step)
            .context(format!("migration step {}", number + 1))?;
    }
    tx.pragma_update(
        None,
        "user_version",
        i64::try_from(steps.len()).unwrap_or(i64::MAX),
    )?;
    tx.commit().context("commit migration")
}

fn refuse_newer(version: usize, steps: &[&str]) -> Result<()> {
    if version <= steps.len() {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "The file was written by a newer vski (schema {version}, this one knows {}).",
        steps.len()
    )))
}

fn user_version(connection: &Connection) -> Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

#[expect(clippy::disallowed_methods, reason = "tests of bare connections")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_from_the_future_is_refused_and_untouched() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = run(&mut connection, Schema::Default).unwrap_err();
        assert!(error.message().contains("newer vski (schema 99"), "{error}");
        assert_eq!(user_version(&connection).unwrap(), 99);
    }

    #[test]
    fn a_failing_step_leaves_the_file_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        run_steps(&mut connection, &["CREATE TABLE a (x)"]).unwrap();
        let bad = ["CREATE TABLE a (x)", "CREATE TABLE b (x)", "nonsense"];
        assert!(run_steps(&mut connection, &bad).is_err());
        assert_eq!(user_version(&connection).unwrap(), 1);
        assert!(connection.prepare("SELECT * FROM b").is_err());
        run_steps(&mut connection, &bad[..2]).unwrap();
        assert_eq!(user_version(&connection).unwrap(), 2);
    }
}
