//! Records: get, list, create, update, delete. Only this module writes the tables of collections.
//!
//! Functions that read take a connection of a reader; functions that write take one of a write
//! transaction, so that a caller can combine several in one (batch and bulk are all or none). A
//! [`Draft`] holds the changes of a request, validated as far as possible without the database,
//! which keeps write transactions short. A record that a rule hides gets the same response as one
//! that does not exist.

use rusqlite::Connection;

pub use batch::{BatchAction, BatchStep, batch_error, run_batch};
pub use bulk::{BULK_MAX, bulk_delete, bulk_update};
pub use create::create;
pub use delete::{delete, truncate};
pub use draft::{Draft, Hasher, NewFile};
pub use files::{field_of_file, files_without_row};
pub use get::get;
pub use import::{ImportedRecord, insert_imported};
pub use list::{ListQuery, list};
pub use query::{RequestFacts, SentText, register};
pub use routing_key::RoutingKey;
pub use row::record_not_found;
pub use scope::Scope;
pub use shape::Shape;
pub use update::{Upsert, update};
pub use value::{FieldValue, Modifier, RawBody};
pub use version::{Precondition, RenderedRecord, Versions};
pub use view::{SubscriberView, SubscriptionSpec};
pub use view_rows::{FoundFile, file_of_view};

use crate::base::error::{Kind, Result};
use crate::model::collections::{Checks, Collection};
use crate::model::rules::{Access, Operation};

pub mod account;
mod batch;
mod bulk;
mod columns;
mod condition;
mod create;
mod deep_page;
mod delete;
mod draft;
mod excerpt;
mod files;
mod get;
mod import;
mod json;
mod limits;
mod list;
#[cfg(test)]
mod model_tests;
mod plan;
pub mod provider_account;
pub mod provider_links;
mod publish;
mod query;
mod record_key;
mod resolve;
mod routing_key;
mod row;
mod scope;
mod shape;
mod update;
mod value;
mod version;
mod view;
mod view_rows;
mod write;

/// The checks of definitions that need to know how records are read and written.
pub const CHECKS: Checks = Checks {
    rule: query::check_rule,
    default: value::check_default,
};

/// True if the record exists and the caller may do this to it.
pub fn is_allowed(
    operation: Operation,
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<bool> {
    let grant = collection.grant(operation, &scope.identity);
    if collection.is_view() {
        return view_rows::is_shown(operation, connection, scope, collection, id);
    }
    let found = row::find_permitted(connection, scope, collection, id, &grant.access, None);
    scope.collections.check_current()?;
    match found {
        Ok(_) => Ok(grant.access != Access::Denied),
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// True if there is a record with this id, whatever the rules say.
pub fn exists(connection: &Connection, collection: &Collection, id: &str) -> Result<bool> {
    let table = collection.source();
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE id = ?1)");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row([id], |row| row.get(0))?)
}
