//! Collections: list, create, get, update, delete, import and truncate.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use super::collection_list::{matches, sort};
use super::parameters::{number, page, parameter, shape};
use crate::base::error::{Error, Result};
use crate::base::paging::Page;
use crate::model::collections::{
    Collection, Editor, SUPERUSERS, SUPERUSERS_ID, scaffolds, superusers,
};
use crate::model::filter;
use crate::model::records;
use crate::model::records::{ListQuery, Shape};
use crate::model::rules::Identity;
use crate::net::http::Response;

/// Records of a view that is tried.
const SAMPLE: u64 = 10;

#[derive(Deserialize)]
struct TrialView {
    #[serde(default)]
    query: String,
}

/// The collections of the database, as one page of `perPage`, or all without it.
pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let collections = call.collections()?;
    let mut all: Vec<&Collection> = collections.all().into_iter().map(AsRef::as_ref).collect();
    let filter = parameter(&pairs, "filter").map(str::trim);
    if let Some(text) = filter.filter(|text| !text.is_empty()) {
        let filter = filter::parse(text)?;
        let mut error = None;
        all.retain(|it| matches(&filter, it).unwrap_or_else(|it| error.replace(it).is_some()));
        error.map_or(Ok(()), Err)?;
    }
    sort(&mut all, parameter(&pairs, "sort").unwrap_or_default())?;
    let mut page = page(&pairs)?;
    if number(&pairs, "perPage", 0)? == 0 {
        page.size = (all.len() as u64).max(1);
    }
    let shape = shape(&pairs)?;
    let before = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let shown = all.iter().skip(before).take(page.size as usize);
    let items: Vec<Value> = shown
        .map(|collection| shape.of_json(collection.to_json()))
        .collect();
    let body = page.envelope(all.len() as u64, &items);
    Ok(json_response(200, &body))
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let body = call.body()?;
    let catalog = &call.app.catalog;
    let collection = catalog.create(call.database, &body, editor(call))?;
    Ok(json_response(200, &collection.to_json()))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let name = call.param("collection");
    let shape = shape(&call.query()?)?;
    if name == SUPERUSERS || name == SUPERUSERS_ID {
        return Ok(json_response(200, &shape.of_json(superusers()?.to_json())));
    }
    let collections = call.collections()?;
    let collection = collections.get(name)?;
    Ok(json_response(200, &shape.of_json(collection.to_json())))
}

/// The definitions from which a client starts a new one.
pub fn meta_scaffolds(_: &Call<'_>) -> Result<Response> {
    Ok(json_response(200, &scaffolds()))
}

/// The columns of a view that a statement would define, and some of its records.
pub fn dry_run_view(call: &Call<'_>) -> Result<Response> {
    let TrialView { query } = call.body()?;
    if query.trim().is_empty() {
        return Err(Error::field(
            "query",
            "validation_required",
            "Cannot be blank.",
        ));
    }
    let view = Arc::new(call.app.catalog.try_view(call.database, &query)?);
    let scope = call.scope()?;
    let list = ListQuery {
        page: Page::new(1, SAMPLE),
        sort: String::new(),
        filter: String::new(),
        skip_total: true,
    };
    let sample = call.database()?.snapshot_for(call.asker(), |connection| {
        records::list(connection, &scope, &view, &list, &Shape::default())
    })?;
    let sample: Value = serde_json::from_slice(&sample)?;
    let answer = json!({"fields": view.to_json()["fields"], "sample": sample["items"]});
    Ok(no_store(json_response(200, &answer)))
}

/// Settings that are kept and not carried out yet are named in the header.
pub fn import(call: &Call<'_>) -> Result<Response> {
    let catalog = &call.app.catalog;
    let warnings = catalog.import(call.database, &call.body()?, editor(call))?;
    let response = Response::empty(204);
    Ok(match warnings.is_empty() {
        true => response,
        false => response.with_header("X-Warnings", warnings.join(" ")),
    })
}

/// Deletes all records of a collection.
pub fn truncate(call: &Call<'_>) -> Result<Response> {
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let has_files = scope.collections.has_files();
    call.database()?
        .write_for_long(move |tx| records::truncate(tx, &scope, &collection))?;
    call.notify_files(has_files);
    Ok(Response::empty(204))
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let name = call.param("collection");
    let collection = call
        .app
        .catalog
        .update(call.database, name, &call.body()?, editor(call))?;
    Ok(json_response(200, &collection.to_json()))
}

fn editor(call: &Call<'_>) -> Editor {
    match call.identity {
        Identity::Admin(_) => Editor::Admin,
        _ => Editor::Key,
    }
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    call.app
        .catalog
        .delete(call.database, call.param("collection"))?;
    Ok(Response::empty(204))
}
