//! Records: get, list, create, update, delete; the only writer of the tables of collections.
//!
//! Reading functions take a connection of a read; writing ones that of a write transaction, so
//! that a caller can do several in one (batch and bulk are all or nothing). A [`Draft`] is what a
//! request wants to write, checked as far as that goes without the database, so the writer is held
//! for short. What a rule hides is answered as if it did not exist.

use rusqlite::Connection;

pub use batch::{BatchAction, BatchStep, name_step, run_batch};
pub use bulk::{BULK_MAX, bulk_delete, bulk_update};
pub use create::create;
pub use delete::delete;
pub use draft::{Draft, Hasher, NewFile};
pub use files::{field_of_file, files_without_row};
pub use get::get;
pub use list::{ListQuery, list};
pub use query::{check_rule, register};
pub use routing_key::RoutingKey;
pub use row::no_record;
pub use scope::Scope;
pub use shape::Shape;
pub use update::{Upsert, update};
pub use value::{Modifier, RawBody};
pub use version::{Precondition, Shown, Versions};
pub use view::{SubscriberView, SubscriptionSpec};

use crate::base::error::{Kind, Result};
use crate::model::collections::Collection;
use crate::model::rules::{Access, Operation};
use crate::store::db::quote;

pub mod account;
mod batch;
mod bulk;
mod condition;
mod create;
mod delete;
mod draft;
mod excerpt;
mod files;
mod get;
mod json;
mod limits;
mod list;
#[cfg(test)]
mod model_tests;
mod plan;
mod publish;
mod query;
mod resolve;
mod routing_key;
mod row;
mod scope;
mod shape;
mod update;
mod value;
mod version;
mod view;
mod write;

/// Whether the caller may do something with a record.
pub fn may(
    operation: Operation,
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<bool> {
    let grant = collection.grant(operation, &scope.identity);
    match row::find(connection, scope, collection, id, &grant.access, None) {
        Ok(_) => Ok(grant.access != Access::Denied),
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether there is a record of this id.
pub fn exists(connection: &Connection, collection: &Collection, id: &str) -> Result<bool> {
    let table = quote(&collection.name);
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE id = ?1)");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row([id], |row| row.get(0))?)
}
