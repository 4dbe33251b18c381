//! Rows of other parts of the server that mention collections by name: webhooks and API keys, which
//! follow a rename, and the scripts of jobs, which refuse it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};
use serde_json::Value;

use super::names::{NamePair, Renames};
use crate::base::error::Result;
use crate::model::collections::Collections;
use crate::model::collections::view_sql::{SqlTokenKind, tokens};
use crate::store::db;

/// Renames the collections of webhooks, in the database of the collections. Two may swap names.
pub fn rename_in_webhooks(tx: &Connection, pairs: &[&NamePair]) -> Result<()> {
    for pair in pairs {
        // A name has no blank, so this one is of no collection.
        tx.prepare_cached("UPDATE _webhooks SET collection = ' ' || ?2 WHERE collection = ?1")?
            .execute([&pair.old, &pair.new])?;
    }
    tx.prepare_cached(
        "UPDATE _webhooks SET collection = substr(collection, 2) WHERE collection LIKE ' %'",
    )?
    .execute([])?;
    // The lists of calls are found by the name; the next change makes others.
    tx.prepare_cached("UPDATE _webhook_lists SET collection = NULL WHERE collection IS NOT NULL")?
        .execute([])?;
    Ok(())
}

/// The limits of an API key that opens the collections of a database.
struct KeyLimits {
    id: String,
    name: String,
    collections: BTreeSet<String>,
    /// It may open other databases too.
    is_wide: bool,
}

fn keys(default: &Connection, database: &str) -> Result<Vec<KeyLimits>> {
    let mut statement = default.prepare_cached(
        "SELECT id, name, collections, databases FROM _api_keys WHERE collections IS NOT NULL",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, Option<String>>(3)?,
        ))
    })?;
    let mut list = Vec::new();
    for row in rows {
        let (id, name, collections, databases) = row?;
        let databases: Option<BTreeSet<String>> =
            databases.map(|text| serde_json::from_str(&text).unwrap_or_default());
        if databases.as_ref().is_none_or(|it| it.contains(database)) {
            list.push(KeyLimits {
                id,
                name,
                collections: serde_json::from_str(&collections).unwrap_or_default(),
                is_wide: databases.is_none_or(|it| it.len() > 1),
            });
        }
    }
    Ok(list)
}

/// The reason why an API key cannot follow: it would open a collection that it does not open now,
/// or lose one of another database.
pub fn refusing_key(
    default: &Connection,
    database: &str,
    pairs: &[&NamePair],
) -> Result<Option<String>> {
    let is_old = |name: &str| pairs.iter().any(|pair| pair.old == name);
    for key in keys(default, database)? {
        for pair in pairs {
            let has = |name: &str| key.collections.contains(name);
            if has(&pair.new) && !is_old(&pair.new) {
                return Ok(Some(format!(
                    "The API key {} already names {}, and would open this collection; delete it \
                     first.",
                    key.name, pair.new
                )));
            }
            let is_elsewhere = key.is_wide
                && default
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM _collections WHERE database <> ?1
                         AND name IN (?2, ?3) AND deleted IS NULL)",
                    )?
                    .query_row(params![database, pair.old, pair.new], |row| row.get(0))?;
            if has(&pair.old) && is_elsewhere {
                return Ok(Some(format!(
                    "The API key {} names {} in several databases; delete it first.",
                    key.name, pair.old
                )));
            }
        }
    }
    Ok(None)
}

/// Renames collections of a database in the limits of API keys.
pub fn rename_in_keys(tx: &Connection, database: &str, pairs: &[NamePair]) -> Result<()> {
    let new: BTreeMap<&str, &str> = pairs.iter().map(|it| (&*it.old, &*it.new)).collect();
    for key in keys(tx, database)? {
        let names = key.collections.iter();
        let names = names.map(|name| new.get(&**name).map_or(&**name, |new| *new));
        let names: BTreeSet<&str> = names.collect();
        tx.prepare_cached("UPDATE _api_keys SET collections = ?2 WHERE id = ?1")?
            .execute(params![key.id, Value::from_iter(names).to_string()])?;
    }
    Ok(())
}

/// The name of a job whose script mentions a renamed collection, or a renamed field together with
/// its collection.
pub fn refusing_job(
    default: &Connection,
    database: &str,
    renames: &Renames,
    before: &Collections,
) -> Result<Option<(String, String)>> {
    let mut statement =
        default.prepare_cached("SELECT name, spec FROM _cron WHERE type = 'sql' ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    for row in rows {
        let (job, spec): (String, String) = row?;
        let spec: Value = serde_json::from_str(&spec).unwrap_or_default();
        if spec["database"].as_str().unwrap_or(db::DEFAULT) != database {
            continue;
        }
        let names = mentioned(spec["sql"].as_str().unwrap_or_default());
        let has = |name: &str| names.contains(&name.to_ascii_lowercase());
        for pair in renames.collections.values() {
            if has(&pair.old) {
                return Ok(Some((job, pair.old.clone())));
            }
        }
        for (id, fields) in &renames.fields {
            let is_read = before.by_id(id).is_some_and(|it| has(&it.name));
            if let Some(pair) = fields.values().find(|pair| is_read && has(&pair.old)) {
                return Ok(Some((job, pair.old.clone())));
            }
        }
    }
    Ok(None)
}

/// The names that a script mentions, in lower case. SQLite takes a string for a name where only a
/// name can be.
fn mentioned(sql: &str) -> BTreeSet<String> {
    match tokens(sql) {
        Ok(tokens) => tokens
            .into_iter()
            .filter(|token| token.kind != SqlTokenKind::Symbol)
            .map(|token| token.text.trim_matches('\'').to_ascii_lowercase())
            .collect(),
        // Words of any kind, in a script that is not understood.
        Err(_) => sql
            .split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
            .map(str::to_ascii_lowercase)
            .collect(),
    }
}
