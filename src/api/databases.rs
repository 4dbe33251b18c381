//! Databases: list, create, delete and purge.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::json_response;
use super::call::Call;
use crate::base::error::Result;
use crate::net::http::Response;

#[derive(Deserialize)]
struct Create {
    name: String,
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let names = call.app.databases.list()?;
    let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    Ok(json_response(200, &Value::Array(items)))
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let body: Create = call.body()?;
    call.app.create_database(&body.name)?;
    Ok(json_response(200, &json!({"name": body.name})))
}

/// Deletes a database softly: its file and the files of its records are moved aside, and its
/// definitions are hidden.
pub fn delete(call: &Call<'_>) -> Result<Response> {
    call.app.delete_database(call.param("name"))?;
    Ok(Response::empty(204))
}

/// Removes deleted collections and fields of a database, and their files, for good.
pub fn purge(call: &Call<'_>) -> Result<Response> {
    let name = call.param("name");
    let purged = call.app.catalog.purge(name)?;
    call.app.files.signal.notify(name);
    let body = json!({
        "collections": purged.collections,
        "fields": purged.fields,
        "files": purged.files,
    });
    Ok(json_response(200, &body))
}
