//! The table `_collections` of `default.db`.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use super::collection::View;
use super::definition::CollectionDraft;
use super::named_view::parse_named_views;
use super::parse::Problems;
use super::renames::{NamePair, references};
use super::{Collection, CollectionKind, FieldKind, auth};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{clock, log};
use crate::model::rules::Rule;
use crate::model::triggers::Triggers;

/// Stores a definition, with no pending change.
pub fn save(tx: &Connection, collection: &Collection) -> Result<()> {
    let definition = stored_form(collection);
    tx.prepare_cached(
        "INSERT INTO _collections (id, database, name, type, definition, created, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET name = ?3, definition = ?5, updated = ?7, pending = NULL",
    )?
    .execute(params![
        collection.id,
        collection.database,
        collection.name,
        collection.kind.name(),
        definition,
        collection.created,
        collection.updated,
    ])
    .context(format!("save collection {}", collection.name))?;
    Ok(())
}

/// Stores definitions of a database like [`save`]. Names may be swapped; API keys that are limited
/// to a renamed collection follow.
pub fn save_all(tx: &Connection, list: &[&Collection]) -> Result<()> {
    let mut renamed = Vec::new();
    for it in list {
        let sql = "SELECT name FROM _collections WHERE id = ?1 AND name <> ?2";
        let mut statement = tx.prepare_cached(sql)?;
        let old = statement.query_row([&it.id, &it.name], |row| row.get(0));
        if let Some(old) = old.optional()? {
            // A name has no blank, so this one is of no collection.
            tx.prepare_cached("UPDATE _collections SET name = ' ' || id WHERE id = ?1")?
                .execute([&it.id])?;
            renamed.push(NamePair {
                old,
                new: it.name.clone(),
            });
        }
    }
    list.iter().try_for_each(|it| save(tx, it))?;
    match list.first() {
        Some(first) if !renamed.is_empty() => {
            references::rename_in_keys(tx, &first.database, &renamed)
        }
        _ => Ok(()),
    }
}

/// Stores the pending change of a definition, or removes it.
pub fn save_pending(tx: &Connection, id: &str, next: Option<&Collection>) -> Result<()> {
    let sql = "UPDATE _collections SET pending = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?
        .execute(params![id, next.map(stored_form)])?;
    Ok(())
}

/// Stores the definition of a collection that does not exist before its table does.
pub fn save_absent(tx: &Connection, next: &Collection) -> Result<()> {
    let definition = stored_form(next);
    tx.prepare_cached(
        "INSERT INTO _collections
             (id, database, name, type, definition, created, updated, deleted, pending)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?5)",
    )?
    .execute(params![
        next.id,
        next.database,
        next.name,
        next.kind.name(),
        definition,
        next.created,
        next.updated,
    ])?;
    Ok(())
}

/// Makes a collection of [`save_absent`] exist.
pub fn mark_present(tx: &Connection, id: &str) -> Result<()> {
    let sql = "UPDATE _collections SET deleted = NULL, pending = NULL WHERE id = ?1";
    tx.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

/// Removes the definition of [`save_absent`].
pub fn remove_absent(tx: &Connection, id: &str) -> Result<()> {
    let sql = "DELETE FROM _collections WHERE id = ?1 AND deleted IS NOT NULL";
    tx.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

pub fn mark_deleted(tx: &Connection, id: &str) -> Result<()> {
    let sql = "UPDATE _collections SET deleted = ?2, pending = NULL WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id, clock::now()])?;
    Ok(())
}

/// The definitions of [`save_absent`] in a database.
pub fn load_absent(connection: &Connection, database: &str) -> Result<Vec<Collection>> {
    let list = load_where(
        connection,
        database,
        "deleted IS NOT NULL AND pending IS NOT NULL",
    )?;
    Ok(list.into_iter().map(|(collection, _)| collection).collect())
}

fn stored_form(collection: &Collection) -> String {
    collection.stored_json().to_string()
}

/// Records in the file of a tenant that its table follows a definition.
pub fn save_applied(tx: &Connection, collection: &Collection) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO _applied (collection, updated) VALUES (?1, ?2)";
    tx.prepare_cached(sql)?
        .execute(params![collection.id, collection.updated])?;
    Ok(())
}

/// True if the table of a tenant follows this definition.
pub fn is_applied(connection: &Connection, collection: &Collection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _applied WHERE collection = ?1 AND updated = ?2)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row(params![collection.id, collection.updated], |row| row.get(0))?)
}

/// The names of the deleted collections of a database.
pub fn deleted_names(connection: &Connection, database: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT name FROM _collections WHERE database = ?1 AND deleted IS NOT NULL",
    )?;
    let rows = statement.query_map([database], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The databases with collections, each with the time at which its newest one was created.
pub fn databases(connection: &Connection) -> Result<Vec<(String, String)>> {
    let mut statement = connection.prepare_cached(
        "SELECT database, max(created) FROM _collections WHERE deleted IS NULL GROUP BY database",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// True if some collection of some database lets everyone create accounts.
pub fn has_open_accounts(connection: &Connection) -> Result<bool> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM _collections WHERE deleted IS NULL AND type = 'auth'
                        AND json_extract(definition, '$.createRule') = '')",
    )?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Removes the definitions of deleted collections of a database.
pub fn forget_deleted(tx: &Connection, database: &str) -> Result<()> {
    let sql = "DELETE FROM _collections WHERE database = ?1 AND deleted IS NOT NULL";
    tx.prepare_cached(sql)?.execute([database])?;
    Ok(())
}

/// The definitions of a database as they are stored, without the cache.
pub fn definitions(connection: &Connection, database: &str) -> Result<Vec<Collection>> {
    let list = load(connection, database)?;
    Ok(list.into_iter().map(|(collection, _)| collection).collect())
}

/// The definitions without a pending change. The table of one with a pending change may or may not
/// follow it.
pub fn stable_definitions(connection: &Connection, database: &str) -> Result<Vec<Collection>> {
    let mut list = load(connection, database)?;
    list.retain(|(_, pending)| pending.is_none());
    Ok(list.into_iter().map(|(collection, _)| collection).collect())
}

/// The definitions of a database, each with its pending change.
pub fn load(
    connection: &Connection,
    database: &str,
) -> Result<Vec<(Collection, Option<Collection>)>> {
    load_where(connection, database, "deleted IS NULL")
}

/// The definitions of a database that meet a condition, which is a literal.
fn load_where(
    connection: &Connection,
    database: &str,
    condition: &'static str,
) -> Result<Vec<(Collection, Option<Collection>)>> {
    let sql = [
        "SELECT id, name, definition, created, updated, pending
         FROM _collections
         WHERE database = ?1 AND ",
        condition,
    ]
    .concat();
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([database])?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let mut collection = Collection::new(row.get(0)?, database, &name);
        collection.created = row.get(3)?;
        collection.updated = row.get(4)?;
        let text: String = row.get(2)?;
        restore(&mut collection, &text)
            .map_err(|error| Error::internal(format!("definition of {name}: {error}")))?;
        let pending: Option<String> = row.get(5)?;
        let pending = pending.map(|text| {
            let mut next = collection.clone();
            let json: Value = serde_json::from_str(&text)?;
            let text_of = |key: &str| json[key].as_str().unwrap_or_default();
            text_of("updated").clone_into(&mut next.updated);
            text_of("name").clone_into(&mut next.name);
            restore(&mut next, &text).map(|()| next)
        });
        list.push((collection, pending.transpose()?));
    }
    Ok(list)
}

/// Fills a definition from the JSON that [`save`] wrote.
fn restore(collection: &mut Collection, text: &str) -> Result<()> {
    // An older version may have accepted what is refused today; it is read as far as possible.
    let mut problems = Problems::default();
    let mut draft = CollectionDraft::read(&serde_json::from_str(text)?, &mut problems)?;
    let name = &collection.name;
    if let Err(error) = problems.check("The definition is not valid.") {
        log::warn(format_args!("the definition of {name}: {error}"));
    }
    // An older version may have accepted the rule. A rule that cannot be parsed admits admins only.
    draft.apply_rules(&mut collection.rules, |rule, text| {
        Ok(Rule::parse(text.as_str()).unwrap_or_else(|error| {
            log::warn(format_args!(
                "{rule} of {name} cannot be parsed and admits admins only: {error}"
            ));
            Rule::unreadable(text)
        }))
    })?;
    collection.kind = draft.kind.unwrap_or(CollectionKind::Base);
    collection.is_deleted = draft.is_deleted;
    let mut list = draft.fields.unwrap_or_default();
    if !draft.is_current {
        let numbers = list.fields.iter_mut();
        let numbers = numbers.filter(|field| matches!(field.kind, FieldKind::Number { .. }));
        numbers.for_each(|field| field.nullable = true);
    }
    // Those of a view are derived from its statement.
    if !collection.is_view() {
        collection.set_fields(list);
    }
    collection.indexes = draft.indexes.unwrap_or_default();
    collection.options = draft.options.unwrap_or_default();
    collection.view = draft.view_query.map(View::of_query);
    collection.named_views = parse_named_views(collection).unwrap_or_else(|error| {
        log::warn(format_args!(
            "the views of {} are ignored: {error}",
            collection.name
        ));
        Vec::new()
    });
    auth::restore_settings(collection, &draft.auth, draft.is_current);
    // Older versions did not check them.
    collection.triggers = Triggers::parse(&collection.options).unwrap_or_else(|error| {
        log::warn(format_args!(
            "the triggers of {} are ignored: {error}",
            collection.name
        ));
        Triggers::default()
    });
    Ok(())
}
