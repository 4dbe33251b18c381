//! `_superusers`: the admins as records of a collection, as PocketBase's clients manage them.
//!
//! The same admins as under `/api/admins`, whatever the database of the path. Names in a body that
//! are no attribute of an admin are passed over.

use std::sync::Arc;

use serde::Deserialize;

use super::answer::no_store;
use super::call::Call;
use super::parameters::shape;
use super::records::list_query;
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::model::auth::admins;
use crate::model::collections::{Collection, superusers};
use crate::model::records;
use crate::model::records::{Precondition, RequestFacts, Scope};
use crate::net::http::Response;
use crate::store::db;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    email: Option<String>,
    password: Option<String>,
    password_confirm: Option<String>,
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let (query, shape) = (list_query(&pairs)?, shape(&pairs)?);
    let (scope, collection) = scope(call)?;
    let default = call.app.databases.default();
    let body = default.snapshot_for(call.asker(), |connection| {
        records::list(connection, &scope, &collection, &query, &shape)
    })?;
    Ok(no_store(Response::json(200, body)))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    show(call, call.param("id"))
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let change: Change = call.body()?;
    check(&change, true)?;
    let (email, password) = (change.email.as_deref(), change.password.as_deref());
    let (email, password) = (email.unwrap_or_default(), password.unwrap_or_default());
    let admin = call.app.auth.create_admin(email, password, call.client())?;
    show(call, &admin.id)
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let change: Change = call.body()?;
    check(&change, false)?;
    let (email, password) = (change.email.as_deref(), change.password.as_deref());
    let (id, auth) = (call.param("id"), &call.app.auth);
    auth.change_admin(id, email, password, call.client())?;
    show(call, id)
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    admins::delete(call.app.databases.default(), call.param("id"))?;
    Ok(Response::empty(204))
}

/// Refuses blank values, missing ones of a new admin, and a password that is repeated wrongly.
fn check(change: &Change, is_new: bool) -> Result<()> {
    let mut errors = FieldErrors::new();
    for (name, value) in [("email", &change.email), ("password", &change.password)] {
        if value.as_ref().map_or(is_new, String::is_empty) {
            let error = FieldError::new("validation_required", "Cannot be blank.");
            errors.insert(name.to_owned(), error);
        }
    }
    let confirmation = change.password_confirm.as_ref();
    if confirmation.is_some_and(|it| Some(it) != change.password.as_ref()) {
        let error = FieldError::new("validation_values_mismatch", "The passwords do not match.");
        errors.insert("passwordConfirm".to_owned(), error);
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Error::fields("The admin is not valid.", errors)),
    }
}

fn show(call: &Call<'_>, id: &str) -> Result<Response> {
    let shape = shape(&call.query()?)?;
    let (scope, collection) = scope(call)?;
    let (default, any) = (call.app.databases.default(), Precondition::default());
    let shown = default.read_for(call.asker(), |connection| {
        records::get(connection, &scope, &collection, id, &shape, &any)
    })?;
    Ok(no_store(Response::json(200, shown.json)))
}

/// The definition of the collection, and the definitions of its database.
fn scope(call: &Call<'_>) -> Result<(Scope, Arc<Collection>)> {
    let scope = Scope {
        collections: call.app.catalog.collections(db::DEFAULT)?,
        identity: call.identity.clone(),
        facts: RequestFacts::default(),
        events: Arc::clone(&call.app.events),
        output: call.output().clone(),
    };
    Ok((scope, Arc::new(superusers()?)))
}
