//! Shared by the handlers that sign accounts in: the collection of the path, the form of answers.

use serde_json::{Map, Value, json};

use super::answer::no_store;
use super::call::Call;
use super::parameters::parameter;
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::model::auth::accounts::{AccountSession, Realm};
use crate::model::collections::SUPERUSERS;
use crate::model::records::Shape;
use crate::net::http::Response;

/// The auth collection that the path names, or the default one.
pub fn realm(call: &Call<'_>) -> Result<Realm> {
    let collection = call.optional_param("collection");
    call.app.auth.realm(call.database, collection)
}

pub fn is_admins(call: &Call<'_>) -> bool {
    call.optional_param("collection") == Some(SUPERUSERS)
}

/// The fields and expansions of the record. PocketBase's clients name the fields `record.NAME`.
pub fn shape(call: &Call<'_>) -> Result<Shape> {
    let pairs = call.query()?;
    let fields = parameter(&pairs, "fields").unwrap_or_default();
    let fields: Vec<&str> = fields
        .split(',')
        .map(str::trim)
        .filter(|field| !matches!(*field, "*" | "token" | "record" | "user"))
        .map(|field| field.strip_prefix("record.").unwrap_or(field))
        .collect();
    Shape::parse(Some(&fields.join(",")), parameter(&pairs, "expand"))
}

/// A token and its account in JSON.
pub fn session_json(name: &str, session: &AccountSession) -> Vec<u8> {
    let token = json!(session.token);
    let mut body = format!("{{\"token\":{token},\"{name}\":").into_bytes();
    body.extend_from_slice(&session.record);
    body.push(b'}');
    body
}

/// A token, its account, and what the provider says.
pub fn with_meta(name: &str, session: &AccountSession, meta: &Map<String, Value>) -> Response {
    let mut body = session_json(name, session);
    body.pop();
    body.extend_from_slice(b",\"meta\":");
    body.extend_from_slice(json!(meta).to_string().as_bytes());
    body.push(b'}');
    no_store(Response::json(200, body))
}

/// Refuses blank values, all at once.
pub fn require(values: &[(&str, &str)]) -> Result<()> {
    let blank = values.iter().filter(|(_, value)| value.is_empty());
    let errors: FieldErrors = blank
        .map(|(name, _)| {
            let error = FieldError::new("validation_required", "Cannot be blank.");
            ((*name).to_owned(), error)
        })
        .collect();
    match errors.is_empty() {
        true => Ok(()),
        false => {
            let names: Vec<&str> = errors.keys().map(String::as_str).collect();
            let message = format!("Missing: {}.", names.join(", "));
            Err(Error::fields(message, errors))
        }
    }
}
