//! Deleting records and what points to them.
//!
//! A relation says what becomes of a record whose target goes: with `cascadeDelete` it goes too;
//! else, if the field is required and would be empty, the deletion is refused; else the pointer is
//! cleared. The whole closure is found before the first row is touched.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::params;

use super::Scope;
use super::find;
use super::value;
use super::write::Rowid;
use crate::clock;
use crate::collections::Collection;
use crate::collections::Field;
use crate::db::quote;
use crate::error::Error;
use crate::error::Result;

/// Records that one request may delete, those that go along included.
const DELETED_MAX: usize = 10_000;

/// Deletes a record and what goes along with it.
pub fn delete(tx: &Connection, scope: &Scope, collection: &Arc<Collection>, id: &str) -> Result<()> {
    let access = scope.admit(collection.rules.delete.as_ref())?;
    let rowid = find(tx, scope, collection, id, &access)?;
    let first = Doomed { collection: Arc::clone(collection), rowid, id: id.to_owned() };
    let doomed = closure(tx, scope, first)?;
    let rows: HashSet<(&str, Rowid)> =
        doomed.iter().map(|record| (record.collection.id.as_str(), record.rowid)).collect();
    for record in &doomed {
        release(tx, scope, record, &rows)?;
    }
    for record in &doomed {
        let sql = format!("DELETE FROM {} WHERE rowid = ?1", quote(&record.collection.name));
        tx.prepare_cached(&sql)?.execute([record.rowid])?;
    }
    Ok(())
}

/// Records that may point to a record that is deleted, per relation.
const POINTING_MAX: usize = 10_000;

struct Doomed {
    collection: Arc<Collection>,
    rowid: Rowid,
    id: String,
}

/// The record and all that cascades from it.
fn closure(tx: &Connection, scope: &Scope, first: Doomed) -> Result<Vec<Doomed>> {
    let mut seen = HashSet::from([(first.collection.id.clone(), first.rowid)]);
    let mut doomed = vec![first];
    let mut at = 0;
    while let Some(record) = doomed.get(at) {
        let (target, id) = (Arc::clone(&record.collection), record.id.clone());
        for (collection, field, options) in pointers(scope, &target) {
            if !options.cascade_delete {
                continue;
            }
            for (rowid, id) in pointing(tx, &collection, field, &id)? {
                if seen.insert((collection.id.clone(), rowid)) {
                    doomed.push(Doomed { collection: Arc::clone(&collection), rowid, id });
                }
            }
        }
        if doomed.len() > DELETED_MAX {
            return Err(Error::conflict(format!(
                "More than {DELETED_MAX} records would go along; delete those first."
            )));
        }
        at += 1;
    }
    Ok(doomed)
}

/// Clears what points to a doomed record from records that stay, or refuses.
fn release(
    tx: &Connection,
    scope: &Scope,
    record: &Doomed,
    doomed: &HashSet<(&str, Rowid)>,
) -> Result<()> {
    for (collection, field, _) in pointers(scope, &record.collection) {
        for (rowid, id) in pointing(tx, &collection, field, &record.id)? {
            if !doomed.contains(&(collection.id.as_str(), rowid)) {
                clear(tx, &collection, field, rowid, &record.id).map_err(|error| {
                    error.context(format!("clear {} of {id}", field.name))
                })?;
            }
        }
    }
    Ok(())
}

fn clear(tx: &Connection, collection: &Collection, field: &Field, rowid: Rowid, gone: &str) -> Result<()> {
    let (table, column) = (quote(&collection.name), quote(&field.name));
    let sql = format!("SELECT {column} FROM {table} WHERE rowid = ?1");
    let stored = tx.prepare_cached(&sql)?.query_row([rowid], |row| row.get(0))?;
    let mut list = value::load_list(field, &stored);
    list.retain(|id| id != gone);
    if list.is_empty() && field.required {
        return Err(Error::conflict(format!(
            "Records of {} still point here by their field {}.",
            collection.name, field.name
        )));
    }
    let sql = format!("UPDATE {table} SET {column} = ?2, updated = ?3 WHERE rowid = ?1");
    let rest = value::store_list(&list);
    tx.prepare_cached(&sql)?.execute(params![rowid, rest, clock::now()])?;
    Ok(())
}

type Pointer<'a> = (Arc<Collection>, &'a Field, &'a crate::collections::RelationOptions);

/// All relations of the database that point to records of `target`.
fn pointers<'a>(scope: &'a Scope, target: &Collection) -> Vec<Pointer<'a>> {
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

/// The records whose relation names `id`. In lists ids stand in quotes, which no id contains.
fn pointing(
    tx: &Connection,
    collection: &Collection,
    field: &Field,
    id: &str,
) -> Result<Vec<(Rowid, String)>> {
    let (table, column) = (quote(&collection.name), quote(&field.name));
    let (condition, needle) = if field.is_multiple() {
        (format!("instr({column}, ?1) > 0"), format!("\"{id}\""))
    } else {
        (format!("{column} = ?1"), id.to_owned())
    };
    let sql = format!("SELECT rowid, id FROM {table} WHERE {condition} LIMIT {}", POINTING_MAX + 1);
    let mut statement = tx.prepare_cached(&sql)?;
    let rows = statement.query_map([needle], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    if found.len() > POINTING_MAX {
        return Err(Error::conflict(format!(
            "More than {POINTING_MAX} records of {} point here; change or delete those first.",
            collection.name
        )));
    }
    Ok(found)
}
