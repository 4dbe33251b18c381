//! Imports definitions: creates, changes and deletes several collections of one database, all or
//! none.
//!
//! Relations and rules may refer to collections of the same import in any order, so everything is
//! checked against the definitions as they would be afterwards. In `default` one transaction alters
//! all tables and stores all definitions. In a tenant the definitions are first stored as pending,
//! also those of new and deleted collections; the commit that alters the tables decides about all
//! of them; see [`Catalog::catch_up`].

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use super::catalog::{Catalog, FAILED_IMPORT};
use super::change::{Editor, change, reconcile_fields, refuse_new_identity, resolve_relations};
use super::check::check_views;
use super::definition::CollectionDraft;
use super::field_json::FieldList;
use super::parse::Problems;
use super::stored::{
    mark_deleted, mark_present, remove_absent, save, save_absent, save_applied, save_pending,
};
use super::{Collection, Collections, schema, views};
use crate::base::clock;
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::base::threads::lock;
use crate::store::db;
use crate::store::db::Database;

/// Largest number of collections of one import.
const COLLECTIONS_MAX: usize = 1000;
/// Largest number of errors that the message of a failed import names.
const NAMED_MAX: usize = 100;
/// Collections that PocketBase keeps for itself. Their content has other places here.
const SYSTEM_OF_POCKETBASE: [&str; 5] = [
    "_superusers",
    "_externalAuths",
    "_mfas",
    "_otps",
    "_authOrigins",
];

/// Limit of an import that also fills its tables.
const FILL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Writes records to the tables of new definitions.
pub type FillTables = Box<dyn FnOnce(&Connection, &Collections) -> Result<()> + Send>;

/// A collection of an import.
struct Imported {
    next: Collection,
    previous: Option<Arc<Collection>>,
    problems: Problems,
}

impl Catalog {
    /// Creates the collections of `body`, and changes those that exist. With `deleteMissing`,
    /// deletes the others, and fields that the import does not name. Returns the warnings of the
    /// new definitions.
    pub fn import(&self, database: &str, body: &Value, editor: Editor) -> Result<Vec<String>> {
        self.import_and_fill(database, body, editor, Box::new(|_, _| Ok(())))
    }

    /// Like [`Catalog::import`]. `fill` writes to the tables in the transaction that creates them.
    pub fn import_and_fill(
        &self,
        database: &str,
        body: &Value,
        editor: Editor,
        fill: FillTables,
    ) -> Result<Vec<String>> {
        let list = list_of(body)?;
        let deletes = body["deleteMissing"] == Value::Bool(true);
        let _changing = lock(&self.changing);
        let current = self.reload(database)?;
        let mut all = Vec::with_capacity(list.len());
        for value in list {
            let mut one = self.prepare(database, value, &current, editor, deletes)?;
            check_distinct(&mut one, &all);
            all.push(one);
        }
        let is_named = |it: &Collection| all.iter().any(|one| one.next.id == it.id);
        let others: Vec<_> = current
            .all()
            .into_iter()
            .filter(|it| !is_named(it))
            .collect();
        let (deleted, kept) = match deletes {
            true => (others, Vec::new()),
            false => (Vec::new(), others),
        };
        self.check_import(&mut all, &kept, &current)?;
        let warnings = all.iter().flat_map(|one| {
            let warnings = one.next.auth.warnings().into_iter();
            warnings.map(|text| format!("{}: {text}", one.next.name))
        });
        let warnings = warnings.collect();
        let deleted = deleted.into_iter().map(as_deleted).collect();
        self.store_all(database, all, deleted, fill)?;
        Ok(warnings)
    }

    /// The definition that an item of the list asks for.
    fn prepare(
        &self,
        database: &str,
        value: &Value,
        current: &Collections,
        editor: Editor,
        deletes: bool,
    ) -> Result<Imported> {
        let mut problems = Problems::default();
        let mut draft = CollectionDraft::read(value, &mut problems)?;
        let by_id = draft.id.as_deref().and_then(|id| current.by_id(id));
        let by_name = draft.name.as_deref().and_then(|name| current.find(name));
        let Some(previous) = by_id.or(by_name) else {
            draft.resolve_fields(&FieldList::default(), &mut problems);
            let next = self.build(database, draft, current, editor, &mut problems)?;
            return Ok(Imported {
                next,
                previous: None,
                problems,
            });
        };
        draft.resolve_fields(&previous.field_list(), &mut problems);
        problems.take("name", refuse_new_identity(&draft, previous))?;
        if let (false, Some(list)) = (deletes, &mut draft.fields) {
            keep_missing_fields(previous, list);
        }
        let mut next = Collection::clone(previous);
        change(&mut next, draft, editor, &mut problems)?;
        if !next.is_view() {
            reconcile_fields(previous, &mut next, &mut problems);
        }
        Ok(Imported {
            next,
            previous: Some(Arc::clone(previous)),
            problems,
        })
    }

    /// Checks all definitions against those that would exist afterwards.
    fn check_import(
        &self,
        all: &mut [Imported],
        kept: &[&Arc<Collection>],
        current: &Collections,
    ) -> Result<()> {
        let afterwards = |all: &[Imported]| {
            let kept = kept.iter().map(|it| Collection::clone(it));
            let all = kept.chain(all.iter().map(|one| one.next.clone()));
            Collections::from_iter(views::derive_all(all.collect()))
        };
        let unresolved = afterwards(all);
        for one in all.iter_mut() {
            resolve_relations(&mut one.next, &unresolved, &mut one.problems);
        }
        let collections = afterwards(all);
        for one in all.iter_mut() {
            // With its views derived.
            let derived = collections.by_id(&one.next.id).ok_or_else(Error::stale)?;
            one.next = Collection::clone(derived);
            self.check_alone(derived, &collections, &mut one.problems)?;
        }
        report(all)?;
        check_views(&collections, current)?;
        // A kept collection may refer to a field that a changed one no longer has.
        for one in kept {
            self.check_still_valid(one, &collections)?;
        }
        Ok(())
    }

    /// Alters the tables, and stores the definitions.
    fn store_all(
        &self,
        database: &str,
        mut all: Vec<Imported>,
        deleted: Vec<Collection>,
        fill: FillTables,
    ) -> Result<()> {
        all.retain(|one| {
            let before = one.previous.as_ref().map(|it| it.stored_json());
            before.is_none_or(|before| before != one.next.stored_json())
        });
        let now = clock::now();
        for one in &mut all {
            one.next.updated.clone_from(&now);
            if one.previous.as_ref().is_some_and(|it| it.updated == now) {
                // A table stores the time of the definition that it follows.
                return Err(Error::stale());
            }
        }
        if all.is_empty() && deleted.is_empty() {
            return Ok(());
        }
        let own = self.databases.get(database)?;
        let result = match Arc::ptr_eq(&own, self.databases.default()) {
            true => self.store_all_in_default(&own, all, deleted, fill),
            false => self.store_all_in_tenant(database, (&own, fill), all, deleted),
        };
        // After a failure too, so that definitions which were stale meanwhile are current again.
        self.reload(database)?;
        result
    }

    fn store_all_in_default(
        &self,
        own: &Database,
        all: Vec<Imported>,
        deleted: Vec<Collection>,
        fill: FillTables,
    ) -> Result<()> {
        let count = self.count_change(db::DEFAULT);
        own.write_exclusive(FILL_LIMIT, move |tx| {
            for one in &all {
                schema::apply(tx, &one.next, one.previous.as_deref())
                    .map_err(|error| name_collection(&one.next, error))?;
                save(tx, &one.next)?;
            }
            for it in &deleted {
                mark_deleted(tx, &it.id)?;
            }
            fill(tx, &next_of(&all))?;
            count();
            Ok(())
        })
    }

    fn store_all_in_tenant(
        &self,
        database: &str,
        (own, fill): (&Database, FillTables),
        all: Vec<Imported>,
        deleted: Vec<Collection>,
    ) -> Result<()> {
        let default = self.databases.default();
        let (all, deleted) = (Arc::new(all), Arc::new(deleted));
        let (next, gone) = (Arc::clone(&all), Arc::clone(&deleted));
        default.write(move |tx| {
            for one in next.iter() {
                match &one.previous {
                    Some(previous) => {
                        // The previous change may still be pending, if its last step failed.
                        save(tx, previous)?;
                        save_pending(tx, &one.next.id, Some(&one.next))?;
                    }
                    None => save_absent(tx, &one.next)?,
                }
            }
            gone.iter()
                .try_for_each(|it| save_pending(tx, &it.id, Some(it)))
        })?;
        let count = self.count_change(database);
        let (next, gone) = (Arc::clone(&all), Arc::clone(&deleted));
        let applied = own.write_exclusive(FILL_LIMIT, move |tx| {
            for one in next.iter() {
                schema::apply(tx, &one.next, one.previous.as_deref())
                    .map_err(|error| name_collection(&one.next, error))?;
                save_applied(tx, &one.next)?;
            }
            gone.iter().try_for_each(|it| save_applied(tx, it))?;
            fill(tx, &next_of(&next))?;
            count();
            Ok(())
        });
        let is_applied = applied.is_ok();
        let settled = default.write(move |tx| settle(tx, &all, &deleted, is_applied));
        match applied {
            // The next start completes what is still pending.
            Ok(()) => settled,
            Err(error) => Err(error),
        }
    }
}

/// The definitions after an import, without those that it does not mention.
fn next_of(all: &[Imported]) -> Collections {
    Collections::from_iter(all.iter().map(|one| one.next.clone()))
}

/// Replaces the definitions by the pending ones, or discards these.
fn settle(
    tx: &Connection,
    all: &[Imported],
    deleted: &[Collection],
    is_applied: bool,
) -> Result<()> {
    for one in all {
        match (&one.previous, is_applied) {
            (Some(_), true) => save(tx, &one.next)?,
            (Some(_), false) => save_pending(tx, &one.next.id, None)?,
            (None, true) => mark_present(tx, &one.next.id)?,
            (None, false) => remove_absent(tx, &one.next.id)?,
        }
    }
    for it in deleted {
        match is_applied {
            true => mark_deleted(tx, &it.id)?,
            false => save_pending(tx, &it.id, None)?,
        }
    }
    Ok(())
}

/// The collections of the body, without those that PocketBase keeps for itself.
fn list_of(body: &Value) -> Result<Vec<&Value>> {
    let list = body["collections"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if list.is_empty() {
        return Err(Error::field(
            "collections",
            "validation_required",
            "Send a list of collections.",
        ));
    }
    if list.len() > COLLECTIONS_MAX {
        let message = format!("At most {COLLECTIONS_MAX} collections.");
        return Err(Error::field(
            "collections",
            "validation_too_many_values",
            message,
        ));
    }
    let is_own = |value: &&Value| {
        let name = value["name"].as_str();
        name.is_none_or(|name| !SYSTEM_OF_POCKETBASE.contains(&name))
    };
    Ok(list.iter().filter(is_own).collect())
}

/// Two collections of one import need two names and two ids.
fn check_distinct(one: &mut Imported, before: &[Imported]) {
    let (name, id) = (&one.next.name, &one.next.id);
    let has_name = |other: &Imported| other.next.name.eq_ignore_ascii_case(name);
    let has_id =
        |other: &Imported| other.next.id == *id || other.next.name == *id || other.next.id == *name;
    if before.iter().any(has_name) {
        let message = "Another collection of the import has this name.";
        one.problems
            .add("name", "validation_collection_name_exists", message);
    } else if before.iter().any(has_id) {
        let message = "Another collection of the import has this id or name.";
        one.problems.add("id", "validation_invalid_id", message);
    }
}

/// Adds the fields that the list does not name.
fn keep_missing_fields(previous: &Collection, list: &mut FieldList) {
    let is_named = |field: &&super::Field| {
        list.fields
            .iter()
            .any(|it| it.name == field.name || it.id == field.id)
    };
    let missing: Vec<_> = previous
        .fields
        .iter()
        .filter(|it| !is_named(it))
        .cloned()
        .collect();
    list.fields.extend(missing);
    if list.created.is_none() {
        list.created.clone_from(&previous.system.created);
    }
    if list.updated.is_none() {
        list.updated.clone_from(&previous.system.updated);
    }
}

/// The pending definition that deletes a collection.
fn as_deleted(collection: &Arc<Collection>) -> Collection {
    let mut next = Collection::clone(collection);
    next.is_deleted = true;
    next.updated = format!("{} deleted", clock::now());
    next
}

fn name_collection(collection: &Collection, error: Error) -> Error {
    match error.field_errors().is_empty() {
        true => error.context(format!("import {}", collection.name)),
        false => {
            let mut problems = Problems::default();
            // Only invalid definitions have errors of fields.
            match problems.take("name", Err(error)) {
                Ok(()) => import_error(vec![(collection, problems)]),
                Err(error) => error,
            }
        }
    }
}

/// One error for all problems of all definitions.
fn report(all: &mut [Imported]) -> Result<()> {
    let is_wrong = |one: &&mut Imported| !one.problems.is_empty();
    let wrong = all.iter_mut().filter(is_wrong);
    let wrong: Vec<_> = wrong
        .map(|one| (&one.next, std::mem::take(&mut one.problems)))
        .collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(import_error(wrong)),
    }
}

fn import_error(wrong: Vec<(&Collection, Problems)>) -> Error {
    const CODE: &str = "validation_collections_import_failure";
    let (mut lines, mut errors) = (Vec::new(), FieldErrors::new());
    for (collection, problems) in wrong {
        for (key, error) in problems.into_errors() {
            lines.push(format!("{}.{key}: {}", collection.name, error.message));
            errors.insert(format!("collections.{}.{key}", collection.name), error);
            if lines.len() >= NAMED_MAX {
                break;
            }
        }
    }
    let rest = errors.len().saturating_sub(NAMED_MAX);
    lines.truncate(NAMED_MAX);
    if rest > 0 {
        lines.push(format!("{rest} more."));
    }
    let summary = FieldError::new(CODE, lines.join("\n"));
    errors.insert("collections".to_owned(), summary);
    Error::fields(FAILED_IMPORT, errors)
}
