//! API keys: create, list and delete; service tokens.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::{Call, credentials};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::auth::keys::{KeyDraft, KeyRecord, NAME_CHARS_MAX};
use crate::model::auth::{SERVICE_SECONDS_MAX, ServiceTokenRequest};
use crate::model::rules::KeyScope;
use crate::net::http::Response;
use crate::services::workflows::limits;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    #[serde(default)]
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    databases: Option<BTreeSet<String>>,
    collections: Option<BTreeSet<String>>,
    expires: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    #[serde(default)]
    name: String,
    seconds: Option<u32>,
    workflows: Option<BTreeSet<String>>,
}

/// Default lifetime of a service token.
const SERVICE_SECONDS: u32 = 3600;
/// Limit on the workflows that a service token names, since a token must fit into a header.
const WORKFLOWS_MAX: usize = 20;

pub fn create(call: &Call<'_>) -> Result<Response> {
    let body: NewKey = call.body()?;
    let scopes = body.scopes.iter().map(|name| parse_scope(name));
    let draft = KeyDraft {
        scopes: scopes.collect::<Result<_>>()?,
        expires: body
            .expires
            .as_deref()
            .map(parse_time)
            .transpose()?
            .flatten(),
        name: body.name,
        databases: body.databases,
        collections: body.collections,
    };
    let (stored, secret) = call.app.auth.keys.create(draft)?;
    let mut json = to_json(&stored);
    json["key"] = Value::from(secret);
    Ok(no_store(json_response(200, &json)))
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let keys = call.app.auth.keys.list()?;
    let items: Vec<Value> = keys.iter().map(to_json).collect();
    Ok(json_response(200, &json!({"items": items})))
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    call.app.auth.keys.delete(call.param("id"))?;
    Ok(Response::empty(204))
}

pub fn service_token(call: &Call<'_>) -> Result<Response> {
    let body: NewToken = match call.has_body() {
        true => call.body()?,
        false => NewToken {
            name: String::new(),
            seconds: None,
            workflows: None,
        },
    };
    let seconds = body.seconds.unwrap_or(SERVICE_SECONDS);
    if !(1..=SERVICE_SECONDS_MAX).contains(&seconds) {
        let message = format!("Must be 1 to {SERVICE_SECONDS_MAX}.");
        return Err(Error::field("seconds", "validation_out_of_range", message));
    }
    let expires = clock::format_ms(clock::now_ms() + i64::from(seconds) * 1000);
    if body.name.chars().count() > NAME_CHARS_MAX {
        let message = format!("Must have at most {NAME_CHARS_MAX} characters.");
        return Err(Error::field("name", "validation_length", message));
    }
    let names = body.workflows.iter().flatten();
    names
        .clone()
        .try_for_each(|name| limits::check_workflow(name))?;
    if names.count() > WORKFLOWS_MAX {
        let message = format!("Must name at most {WORKFLOWS_MAX} workflows.");
        return Err(Error::field("workflows", "validation_length", message));
    }
    let wish = ServiceTokenRequest {
        name: body.name,
        seconds,
        workflows: body.workflows,
    };
    let (auth, credentials) = (&call.app.auth, credentials(call.request));
    let token = auth.service_token(&call.identity, credentials, wish)?;
    Ok(no_store(json_response(
        200,
        &json!({"token": token, "expires": expires}),
    )))
}

fn parse_scope(name: &str) -> Result<KeyScope> {
    let found = KeyScope::NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, scope)| *scope).ok_or_else(|| {
        let names = KeyScope::NAMES.map(|(name, _)| name).join(", ");
        Error::field(
            "scopes",
            "validation_invalid_choice",
            format!("Must be one of {names}."),
        )
    })
}

fn parse_time(text: &str) -> Result<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    match clock::parse_datetime(text) {
        Some(ms) => Ok(Some(clock::format_ms(ms))),
        None => Err(Error::field(
            "expires",
            "validation_invalid_date",
            "Must be a time such as 2030-01-31T12:00:00Z.",
        )),
    }
}

fn to_json(stored: &KeyRecord) -> Value {
    let scopes: Vec<&str> = stored.key.scopes.iter().map(|scope| scope.name()).collect();
    json!({
        "id": stored.key.id,
        "name": stored.name,
        "scopes": scopes,
        "databases": stored.key.databases,
        "collections": stored.key.collections,
        "expires": stored.expires,
        "lastUsed": stored.last_used,
        "created": stored.created,
    })
}
