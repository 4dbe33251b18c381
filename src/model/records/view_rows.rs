//! The rows of views, one by one: access to them, and the files that they show.

use std::sync::Arc;

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::Scope;
use super::files::field_of_file;
use super::query::{MAIN, Query, Trust};
use crate::base::error::Result;
use crate::model::collections::Collection;
use crate::model::rules::{Access, Operation};
use crate::store::files::{StoredFile, table};

/// A file with the record that stores it, which a row of a view may show as its own.
pub struct FoundFile {
    pub collection: Arc<Collection>,
    pub record: String,
    pub stored: StoredFile,
    pub is_protected: bool,
}

/// Finds the file of this name in a row of a view.
pub fn file_of_view(
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    name: &str,
) -> Result<Option<FoundFile>> {
    let Some(view) = &collection.view else {
        return Ok(None);
    };
    let Some(field) = field_of_file(connection, collection, id, name)? else {
        return Ok(None);
    };
    let at = collection.fields.iter().position(|it| it.id == field.id);
    let origin = at.and_then(|at| view.origins.get(at)?.as_ref());
    let Some(owner) = origin.and_then(|(id, _)| scope.collections.by_id(id)) else {
        return Ok(None);
    };
    // The row of a view often has the id of the record that it shows.
    let record = match table::find(connection, &owner.id, id, name)? {
        Some(_) => Some(id.to_owned()),
        None => table::record_of(connection, &owner.id, name)?,
    };
    let Some(record) = record else {
        return Ok(None);
    };
    let stored = table::find(connection, &owner.id, &record, name)?;
    Ok(stored.map(|stored| FoundFile {
        collection: Arc::clone(owner),
        record,
        stored,
        is_protected: field.file().is_some_and(|options| options.protected),
    }))
}

/// True if the view has a row with this id and the caller may read it.
pub fn is_shown(
    operation: Operation,
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<bool> {
    let grant = collection.grant(operation, &scope.identity);
    let id = Stored::Text(id.to_owned());
    let mut query = Query::new(&scope.collections, scope.request_context(None), vec![id]);
    let condition = match &grant.access {
        Access::When(rule) => query.condition(rule, collection, Trust::Rule)?,
        Access::Free => "TRUE".to_owned(),
        Access::Denied => return Ok(false),
    };
    let sql = format!(
        "SELECT 1 FROM {} AS {MAIN} WHERE {MAIN}.id = ?1 AND {condition}",
        collection.source()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement
        .query_row(params_from_iter(query.into_params()), |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}
