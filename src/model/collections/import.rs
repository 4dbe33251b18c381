//! Imports definitions: creates, changes and deletes several collections of one database, all or
//! none.
//!
//! Relations and rules may refer to collections of the same import in any order, so everything is
//! checked against the definitions as they would be afterwards. A collection or field whose id
//! exists under another name is renamed; names may be swapped.

use std::sync::Arc;

use serde_json::Value;

use super::catalog::{Catalog, FAILED_IMPORT};
use super::change::{Editor, adopt_field_ids, change, check_identity, reconcile_fields};
use super::definition::CollectionDraft;
use super::field_json::FieldList;
use super::parse::Problems;
use super::several::{DefinitionChange, FillTables, Reports};
use super::{Collection, Collections};
use crate::base::clock;
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::base::threads::lock;

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

const REPORTS: Reports = Reports {
    problems: report,
    table: name_collection,
};

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
        let named = named_by_id(&list, &current);
        let mut all = Vec::with_capacity(list.len());
        for value in list {
            let names = (&*current, named.as_slice());
            let mut one = self.prepare(database, value, names, editor, deletes)?;
            check_distinct(&mut one, &all);
            all.push(one);
        }
        let is_named = |it: &Collection| all.iter().any(|one| one.next.id == it.id);
        let others: Vec<_> = current
            .all()
            .into_iter()
            .filter(|it| !is_named(it))
            .collect();
        let (deleted, mut kept) = match deletes {
            true => (others, Vec::new()),
            false => (Vec::new(), others),
        };
        self.follow_renames(database, &mut all, &mut kept, (&current, REPORTS))?;
        self.check_all(&mut all, &kept, &current, REPORTS)?;
        let warnings = all.iter().flat_map(|one| {
            let warnings = one.next.auth.warnings().into_iter();
            warnings.map(|text| format!("{}: {text}", one.next.name))
        });
        let warnings = warnings.collect();
        let deleted = deleted.into_iter().map(as_deleted).collect();
        self.store_all(database, all, deleted, (REPORTS, fill))?;
        Ok(warnings)
    }

    /// The definition that an item of the list asks for. `named` are the collections that an item
    /// names by id, whose names are free for others if they change.
    fn prepare(
        &self,
        database: &str,
        value: &Value,
        (current, named): (&Collections, &[NamedById]),
        editor: Editor,
        deletes: bool,
    ) -> Result<DefinitionChange> {
        let mut problems = Problems::default();
        let mut draft = CollectionDraft::read(value, &mut problems)?;
        let by_id = draft.id.as_deref().and_then(|id| current.by_id(id));
        let is_named = |it: &Collection| named.iter().any(|named| named.id == it.id);
        let by_name = draft.name.as_deref().and_then(|name| current.find(name));
        let by_name = by_name.filter(|it| !is_named(it));
        let renamed = named.iter().filter(|it| it.is_renamed);
        let mut free: Vec<&str> = renamed.map(|it| it.id.as_str()).collect();
        let Some(previous) = by_id.or(by_name) else {
            draft.resolve_fields(&FieldList::default(), &mut problems);
            let others = current.without(&free);
            let next = self.build(database, draft, &others, editor, &mut problems)?;
            return Ok(DefinitionChange {
                next,
                previous: None,
                problems,
            });
        };
        draft.resolve_fields(&previous.field_list(), &mut problems);
        free.push(&previous.id);
        let others = current.without(&free);
        problems.take("name", check_identity(&draft, previous, &others))?;
        if let Some(list) = &mut draft.fields {
            adopt_field_ids(previous, list);
            if !deletes {
                keep_missing_fields(previous, list);
            }
        }
        let mut next = Collection::clone(previous);
        change(&mut next, draft, editor, &mut problems)?;
        if !next.is_view() {
            reconcile_fields(previous, &mut next, &mut problems);
        }
        Ok(DefinitionChange {
            next,
            previous: Some(Arc::clone(previous)),
            problems,
        })
    }
}

/// A collection that an item of an import names by its id.
struct NamedById {
    id: String,
    is_renamed: bool,
}

fn named_by_id(list: &[&Value], current: &Collections) -> Vec<NamedById> {
    let named = list.iter().filter_map(|value| {
        let found = current.by_id(value["id"].as_str()?)?;
        let name = value["name"].as_str().unwrap_or(&found.name);
        Some(NamedById {
            id: found.id.clone(),
            is_renamed: name != found.name,
        })
    });
    named.collect()
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
fn check_distinct(one: &mut DefinitionChange, before: &[DefinitionChange]) {
    let (name, id) = (&one.next.name, &one.next.id);
    let has_name = |other: &DefinitionChange| other.next.name.eq_ignore_ascii_case(name);
    let has_id = |other: &DefinitionChange| {
        other.next.id == *id || other.next.name == *id || other.next.id == *name
    };
    if before.iter().any(has_name) {
        let message = "Another collection of the import has this name.";
        one.problems
            .add("name", "validation_collection_name_exists", message);
    } else if before.iter().any(has_id) {
        let message = "Another collection of the import has this id or name.";
        one.problems.add("id", "validation_invalid_id", message);
    }
}

/// Adds the fields that the list does not name. It has their ids already.
fn keep_missing_fields(previous: &Collection, list: &mut FieldList) {
    let is_named = |field: &&super::Field| list.fields.iter().any(|it| it.id == field.id);
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
fn report(all: &mut [DefinitionChange]) -> Result<()> {
    let is_wrong = |one: &&mut DefinitionChange| !one.problems.is_empty();
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
