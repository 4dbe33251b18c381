//! Deleting records and what points to them.
//!
//! A relation says what becomes of a record whose target goes: with `cascadeDelete` it goes too;
//! else, if the field is required and would be empty, the deletion is refused; else the pointer is
//! cleared. The whole closure is found before the first row is touched. Each relation is looked
//! through once per level of the cascade, however many records go.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::publish::publish;
use super::row::{Rowid, find};
use super::version::{Precondition, next_updated};
use super::{Scope, value};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Field, RelationOptions};
use crate::model::rules::Operation;
use crate::model::triggers::RecordAction;
use crate::store::db::quote;
use crate::store::files::table;

/// Records that one request may delete, those that go along included, and records that may point
/// to them by one relation.
const RECORDS_MAX: usize = 10_000;

/// Deletes a record and what goes along with it.
pub fn delete(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    expected: &Precondition,
) -> Result<()> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Delete)?;
    let rowid = find(tx, scope, collection, id, &grant.access, None)?;
    expected.check_row(tx, collection, rowid)?;
    delete_rows(tx, scope, collection, vec![(rowid, id.to_owned())])
}

/// Deletes rows that were found and admitted.
pub fn delete_rows(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    rows: Vec<(Rowid, String)>,
) -> Result<()> {
    let doomed = closure(tx, scope, collection, rows)?;
    for group in doomed.values() {
        release(tx, scope, group, &doomed)?;
    }
    for group in doomed.values() {
        let sql = format!(
            "DELETE FROM {} WHERE rowid = ?1",
            quote(&group.collection.name)
        );
        let mut statement = tx.prepare_cached(&sql)?;
        for rowid in group.ids.keys() {
            publish(tx, scope, &group.collection, RecordAction::Delete, *rowid)?;
            statement.execute([rowid])?;
        }
        // Also of fields that are deleted: their files go with the record.
        if table::has_any(tx, &group.collection.id)? {
            for id in group.ids.values() {
                table::remove_all(tx, &group.collection.id, id)?;
            }
        }
    }
    Ok(())
}

/// The records of one collection that go.
struct Group {
    collection: Arc<Collection>,
    ids: BTreeMap<Rowid, String>,
}

/// By id of the collection.
type Doomed = BTreeMap<String, Group>;

/// The records and all that cascades from them, level by level.
fn closure(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    rows: Vec<(Rowid, String)>,
) -> Result<Doomed> {
    let mut doomed = Doomed::new();
    let mut level = vec![(Arc::clone(collection), rows)];
    while let Some((target, rows)) = level.pop() {
        let group = doomed.entry(target.id.clone()).or_insert_with(|| Group {
            collection: Arc::clone(&target),
            ids: BTreeMap::new(),
        });
        let fresh: Vec<String> = rows
            .into_iter()
            .filter(|(rowid, id)| group.ids.insert(*rowid, id.clone()).is_none())
            .map(|(_, id)| id)
            .collect();
        if doomed.values().map(|group| group.ids.len()).sum::<usize>() > RECORDS_MAX {
            return Err(Error::conflict(format!(
                "More than {RECORDS_MAX} records would go along; delete those first."
            )));
        }
        if fresh.is_empty() {
            continue;
        }
        for (collection, field, options) in pointers(scope, &target) {
            if options.cascade_delete {
                let rows = pointing(tx, &collection, field, &fresh)?;
                let rows = rows.into_iter().map(|pointer| (pointer.rowid, pointer.id));
                level.push((collection, rows.collect()));
            }
        }
    }
    Ok(doomed)
}

/// Clears what points to records of a group from records that stay, or refuses.
fn release(tx: &Connection, scope: &Scope, group: &Group, doomed: &Doomed) -> Result<()> {
    let gone: Vec<String> = group.ids.values().cloned().collect();
    for (collection, field, _) in pointers(scope, &group.collection) {
        let is_doomed = |rowid| {
            doomed
                .get(&collection.id)
                .is_some_and(|group| group.ids.contains_key(&rowid))
        };
        let mut cleared: HashMap<Rowid, HashSet<String>> = HashMap::new();
        for pointer in pointing(tx, &collection, field, &gone)? {
            if !is_doomed(pointer.rowid) {
                cleared
                    .entry(pointer.rowid)
                    .or_default()
                    .insert(pointer.target);
            }
        }
        for (rowid, gone) in cleared {
            clear(tx, scope, &collection, field, rowid, &gone)?;
        }
    }
    Ok(())
}

fn clear(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    field: &Field,
    rowid: Rowid,
    gone: &HashSet<String>,
) -> Result<()> {
    let (table, column) = (quote(&collection.name), quote(&field.name));
    let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
    let stored = tx
        .prepare_cached(&sql)?
        .query_row([rowid], |row| row.get(0))?;
    let mut list = value::load_list(field, &stored);
    list.retain(|id| !gone.contains(id));
    if list.is_empty() && field.required {
        return Err(Error::conflict(match scope.identity.knows_all() {
            true => format!(
                "Records of {} still point here by their field {}.",
                collection.name, field.name
            ),
            false => "Other records still point here.".to_owned(),
        }));
    }
    let updated = next_updated("?3");
    let sql = format!("UPDATE {table} SET {column} = ?2, updated = {updated} WHERE rowid = ?1");
    let rest = value::store_list(&list);
    tx.prepare_cached(&sql)?
        .execute(params![rowid, rest, clock::now()])?;
    publish(tx, scope, collection, RecordAction::Update, rowid)
}

/// All relations of the database that point to records of `target`.
fn pointers<'a>(
    scope: &'a Scope,
    target: &Collection,
) -> Vec<(Arc<Collection>, &'a Field, &'a RelationOptions)> {
    let mut found = Vec::new();
    for collection in scope.collections.all() {
        for field in &collection.fields {
            if let Some(options) = field.relation()
                && options.collection_id == target.id
            {
                found.push((Arc::clone(collection), field, options));
            }
        }
    }
    found
}

/// A record whose relation names one that goes.
struct Pointer {
    rowid: Rowid,
    id: String,
    target: String,
}

/// The records whose relation names any of `ids`, one for each that it names.
fn pointing(
    tx: &Connection,
    collection: &Collection,
    field: &Field,
    ids: &[String],
) -> Result<Vec<Pointer>> {
    let (table, column) = (quote(&collection.name), quote(&field.name));
    let limit = RECORDS_MAX + 1;
    let sql = if !field.is_multiple() {
        format!(
            "SELECT r.rowid, r.id, r.{column}
             FROM json_each(?1) AS gone
             CROSS JOIN {table} AS r ON r.{column} = gone.value
             LIMIT {limit}"
        )
    } else if ids.len() == 1 {
        // In a list an id stands in quotes, which no id contains: a search of the text will do.
        format!(
            "SELECT r.rowid, r.id, json_extract(?1, '$[0]')
             FROM {table} AS r
             WHERE instr(r.{column}, json_quote(json_extract(?1, '$[0]'))) > 0
             LIMIT {limit}"
        )
    } else {
        format!(
            "SELECT r.rowid, r.id, item.value
             FROM {table} AS r
             CROSS JOIN json_each(coalesce(r.{column}, '[]')) AS item
             WHERE item.value IN (SELECT value FROM json_each(?1))
             LIMIT {limit}"
        )
    };
    let mut statement = tx.prepare_cached(&sql)?;
    let ids = serde_json::to_string(ids)?;
    let rows = statement.query_map([ids], |row| {
        Ok(Pointer {
            rowid: row.get(0)?,
            id: row.get(1)?,
            target: row.get(2)?,
        })
    })?;
    let found: Vec<Pointer> = rows.collect::<rusqlite::Result<_>>()?;
    if found.len() > RECORDS_MAX {
        return Err(Error::conflict(format!(
            "More than {RECORDS_MAX} records point here; change or delete those first."
        )));
    }
    Ok(found)
}
