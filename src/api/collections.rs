//! Collections: list, create, get, change, delete.

use serde_json::Value;
use serde_json::json;

use super::Call;
use super::json_response;
use crate::error::Result;
use crate::http::Response;

/// All collections of the database in the envelope of every list; there is one page.
pub fn list(call: &Call<'_>) -> Result<Response> {
    let collections = call.collections()?;
    let items: Vec<Value> = collections.all().iter().map(|c| c.to_json()).collect();
    let body = json!({
        "page": 1,
        "perPage": items.len(),
        "totalItems": items.len(),
        "totalPages": 1,
        "items": items,
    });
    Ok(json_response(200, &body))
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let collection = call.app.catalog.create(call.database, &call.body()?)?;
    Ok(json_response(200, &collection.to_json()))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let collections = call.collections()?;
    let collection = collections.get(call.param("collection"))?;
    Ok(json_response(200, &collection.to_json()))
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let name = call.param("collection");
    let collection = call
        .app
        .catalog
        .update(call.database, name, &call.body()?)?;
    Ok(json_response(200, &collection.to_json()))
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    call.app
        .catalog
        .delete(call.database, call.param("collection"))?;
    Ok(Response::empty(204))
}
