//! Webhooks: create, update, delete and call by hand; the log of calls; the secret of the server.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use super::parameters::{page, parameter};
use crate::base::error::{Error, Result};
use crate::model::triggers::invalid_value;
use crate::net::http::Response;
use crate::services::webhooks::logs::LogFilter;
use crate::services::webhooks::table::WebhookDraft;
use crate::services::webhooks::{logs, table};

pub fn list(call: &Call<'_>) -> Result<Response> {
    let items = call.database()?.read(table::list)?;
    Ok(json_response(200, &json!({"items": items})))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let webhook = call
        .database()?
        .read(|db| table::get(db, call.param("id")))?;
    Ok(json_response(200, &webhook.to_json()))
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let draft = WebhookDraft::parse(call.body::<Map<String, Value>>()?)?;
    let webhook = call.database()?.write(move |tx| table::create(tx, draft))?;
    Ok(json_response(200, &webhook.to_json()))
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let change: Map<String, Value> = call.body()?;
    let id = call.param("id").to_owned();
    let webhook = call
        .database()?
        .write(move |tx| table::update(tx, &id, change))?;
    Ok(json_response(200, &webhook.to_json()))
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    let id = call.param("id").to_owned();
    call.database()?.write(move |tx| table::delete(tx, &id))?;
    Ok(Response::empty(204))
}

/// Queues a call that sends the body of the request.
pub fn call(call: &Call<'_>) -> Result<Response> {
    let payload: Box<RawValue> = match call.has_body() {
        true => call.body_to(0)?,
        false => call.json_to(b"{}", 0)?,
    };
    let id = call.param("id").to_owned();
    let added = call
        .database()?
        .write(move |tx| table::enqueue(tx, &id, payload.get()))?;
    call.app.webhooks.signal.notify(call.database);
    Ok(json_response(202, &json!({"id": added})))
}

/// The secret with which receivers verify the signatures of calls.
pub fn secret(call: &Call<'_>) -> Result<Response> {
    let secret = call.app.auth.webhook_secret().text();
    Ok(no_store(json_response(200, &json!({"secret": secret}))))
}

pub fn logs(call: &Call<'_>) -> Result<Response> {
    let query = call.query()?;
    let text = |name: &str| {
        let given = parameter(&query, name).filter(|text| !text.is_empty());
        given.map(str::to_owned)
    };
    let filter = LogFilter {
        collection: text("collection"),
        status: text("status"),
        source: text("source"),
        name: text("name"),
    };
    filter.check()?;
    let page = page(&query)?;
    let found = call
        .database()?
        .snapshot(|db| logs::list(db, &filter, page))?;
    Ok(json_response(200, &found))
}

pub fn log(call: &Call<'_>) -> Result<Response> {
    // An id that is not a number matches no call.
    let id = call.param("id").parse().unwrap_or(-1);
    let found = call.database()?.snapshot(|db| logs::get(db, id))?;
    Ok(json_response(200, &found))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    ids: Option<Vec<i64>>,
    #[serde(default)]
    failed: bool,
}

/// Queues failed calls again.
pub fn retry(call: &Call<'_>) -> Result<Response> {
    let body: Retry = call.body()?;
    let database = call.database()?;
    let count = match (body.ids, body.failed) {
        (None, true) => logs::retry_failed(&database)?,
        (Some(ids), false) => {
            if !(1..=logs::IDS_MAX).contains(&ids.len()) {
                return Err(invalid_value(
                    "ids",
                    format!("Must be 1 to {} ids.", logs::IDS_MAX),
                ));
            }
            database.write(move |tx| logs::retry(tx, &ids))?
        }
        _ => return Err(Error::invalid("Send either \"ids\" or \"failed\": true.")),
    };
    call.app.webhooks.signal.notify(call.database);
    Ok(json_response(200, &json!({"count": count})))
}
