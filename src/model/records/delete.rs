//! Deletes records, and updates or deletes the records that reference them.
//!
//! If the relation has `cascadeDelete`, the referencing record is deleted too. Otherwise the
//! reference is removed; if the field is required and would become empty, the delete fails. All
//! records to delete are collected before the first row changes. Each relation is searched once per
//! level of the cascade, however many records are deleted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::Scope;
use super::provider_links;
use super::publish::publish;
use super::row::{Rowid, find_permitted};
use super::scope::refuse_change_of_view;
use super::value::FieldValue;
use super::version::{Precondition, next_updated};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, CollectionKind, Field, RelationOptions};
use crate::model::rules::Operation;
use crate::model::triggers::RecordAction;
use crate::store::db::quote;
use crate::store::files::table;

/// Maximum number of records deleted by one request, including cascades, and of records that
/// reference them through one relation.
const RECORDS_MAX: usize = 10_000;

/// Deletes a record, with cascades.
pub fn delete(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    expected: &Precondition,
) -> Result<()> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Delete)?;
    let rowid = find_permitted(tx, scope, collection, id, &grant.access, None)?;
    expected.check_row(tx, collection, rowid)?;
    delete_rows(tx, scope, collection, vec![(rowid, id.to_owned())])
}

/// Deletes all records of a collection, with cascades, a part at a time.
pub fn truncate(tx: &Connection, scope: &Scope, collection: &Arc<Collection>) -> Result<()> {
    const PART: usize = 1000;
    scope.collections.check_current()?;
    refuse_change_of_view(collection, Operation::Delete)?;
    let sql = format!(
        "SELECT rowid, id FROM {} LIMIT {PART}",
        quote(&collection.name)
    );
    loop {
        let mut statement = tx.prepare_cached(&sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(Rowid, String)> = rows.collect::<rusqlite::Result<_>>()?;
        if rows.is_empty() {
            return Ok(());
        }
        delete_rows(tx, scope, collection, rows)?;
    }
}

/// Deletes rows to which the caller has access, with cascades.
pub fn delete_rows(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    rows: Vec<(Rowid, String)>,
) -> Result<()> {
    let deleted = cascade_closure(tx, scope, collection, rows)?;
    for group in deleted.values() {
        clear_references(tx, scope, group, &deleted)?;
    }
    for group in deleted.values() {
        let sql = format!(
            "DELETE FROM {} WHERE rowid = ?1",
            quote(&group.collection.name)
        );
        let mut statement = tx.prepare_cached(&sql)?;
        for rowid in group.ids.keys() {
            publish(tx, scope, &group.collection, RecordAction::Delete, *rowid)?;
            statement.execute([rowid])?;
        }
        if group.collection.kind == CollectionKind::Auth {
            for id in group.ids.values() {
                provider_links::unlink_all(tx, &group.collection.id, id)?;
            }
        }
        // Includes files of deleted fields.
        if table::has_any(tx, &group.collection.id)? {
            for id in group.ids.values() {
                table::remove_all(tx, &group.collection.id, id)?;
            }
        }
    }
    Ok(())
}

/// Records of one collection to delete.
struct DeletedRows {
    collection: Arc<Collection>,
    ids: BTreeMap<Rowid, String>,
}

/// Records to delete, by collection id.
type DeleteSet = BTreeMap<String, DeletedRows>;

/// Collects the records and their cascades, level by level.
fn cascade_closure(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    rows: Vec<(Rowid, String)>,
) -> Result<DeleteSet> {
    let mut deleted = DeleteSet::new();
    let mut level = vec![(Arc::clone(collection), rows)];
    while let Some((target, rows)) = level.pop() {
        let group = deleted
            .entry(target.id.clone())
            .or_insert_with(|| DeletedRows {
                collection: Arc::clone(&target),
                ids: BTreeMap::new(),
            });
        let added: Vec<String> = rows
            .into_iter()
            .filter(|(rowid, id)| group.ids.insert(*rowid, id.clone()).is_none())
            .map(|(_, id)| id)
            .collect();
        if deleted.values().map(|group| group.ids.len()).sum::<usize>() > RECORDS_MAX {
            return Err(Error::conflict(format!(
                "The delete would cascade to more than {RECORDS_MAX} records; delete those first."
            )));
        }
        if added.is_empty() {
            continue;
        }
        for (collection, field, options) in referencing_fields(scope, &target) {
            if options.cascade_delete {
                let rows = referencing_records(tx, &collection, field, &added)?;
                let rows = rows
                    .into_iter()
                    .map(|reference| (reference.rowid, reference.id));
                level.push((collection, rows.collect()));
            }
        }
    }
    Ok(deleted)
}

/// Removes references to a group of deleted records from records that stay, or fails.
fn clear_references(
    tx: &Connection,
    scope: &Scope,
    group: &DeletedRows,
    deleted: &DeleteSet,
) -> Result<()> {
    let gone: Vec<String> = group.ids.values().cloned().collect();
    for (collection, field, _) in referencing_fields(scope, &group.collection) {
        let is_deleted = |rowid| {
            deleted
                .get(&collection.id)
                .is_some_and(|group| group.ids.contains_key(&rowid))
        };
        let mut cleared: HashMap<Rowid, HashSet<String>> = HashMap::new();
        for reference in referencing_records(tx, &collection, field, &gone)? {
            if !is_deleted(reference.rowid) {
                cleared
                    .entry(reference.rowid)
                    .or_default()
                    .insert(reference.target);
            }
        }
        for (rowid, gone) in cleared {
            clear_reference(tx, scope, &collection, field, rowid, &gone)?;
        }
    }
    Ok(())
}

fn clear_reference(
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
    let current = FieldValue::load(field, stored);
    let kept = current.strings().iter().filter(|id| !gone.contains(*id));
    let rest = FieldValue::from_list(field, kept.cloned().collect());
    if rest.is_unset() && field.required {
        return Err(Error::conflict(match scope.identity.knows_all() {
            true => format!(
                "Records of {} still reference this record in their field {}.",
                collection.name, field.name
            ),
            false => "Other records still reference this record.".to_owned(),
        }));
    }
    let updated = next_updated("?3");
    let sql = format!("UPDATE {table} SET {column} = ?2, updated = {updated} WHERE rowid = ?1");
    tx.prepare_cached(&sql)?
        .execute(params![rowid, *rest.to_stored(), clock::now()])?;
    publish(tx, scope, collection, RecordAction::Update, rowid)
}

/// All relation fields of the database whose target is this collection.
fn referencing_fields<'a>(
    scope: &'a Scope,
    target: &Collection,
) -> Vec<(Arc<Collection>, &'a Field, &'a RelationOptions)> {
    let mut found = Vec::new();
    let all = scope.collections.all();
    for collection in all.into_iter().filter(|it| !it.is_view()) {
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

/// A record that references a deleted record.
struct Reference {
    rowid: Rowid,
    id: String,
    target: String,
}

/// Finds the records that reference any of `ids`, once per referenced id.
fn referencing_records(
    tx: &Connection,
    collection: &Collection,
    field: &Field,
    ids: &[String],
) -> Result<Vec<Reference>> {
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
        // An id in a list is enclosed in quotes, which no id contains, so a substring search is
        // exact.
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
        Ok(Reference {
            rowid: row.get(0)?,
            id: row.get(1)?,
            target: row.get(2)?,
        })
    })?;
    let found: Vec<Reference> = rows.collect::<rusqlite::Result<_>>()?;
    if found.len() > RECORDS_MAX {
        return Err(Error::conflict(format!(
            "More than {RECORDS_MAX} records reference this record; update or delete them first."
        )));
    }
    Ok(found)
}
