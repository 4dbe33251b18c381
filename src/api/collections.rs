//! Collections: list, create, get, update and delete.

use serde_json::Value;

use super::answer::json_response;
use super::call::Call;
use super::parameters::{number, page, parameter};
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Editor, SUPERUSERS, SUPERUSERS_ID, superusers};
use crate::model::filter;
use crate::model::rules::Identity;
use crate::net::http::Response;

/// The collections of the database, as one page of `perPage`, or all without it. A filter is
/// ignored: there are few collections, and clients choose among them.
pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let collections = call.collections()?;
    let mut all: Vec<&Collection> = collections.all().into_iter().map(AsRef::as_ref).collect();
    sort(&mut all, parameter(&pairs, "sort").unwrap_or_default())?;
    let mut page = page(&pairs)?;
    if number(&pairs, "perPage", 0)? == 0 {
        page.size = (all.len() as u64).max(1);
    }
    let before = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let shown = all.iter().skip(before).take(page.size as usize);
    let items: Vec<Value> = shown.map(|collection| collection.to_json()).collect();
    let body = page.envelope(all.len() as u64, &items);
    Ok(json_response(200, &body))
}

fn sort(collections: &mut [&Collection], terms: &str) -> Result<()> {
    // The sort is stable, so the most significant term is applied last.
    for term in filter::parse_sort(terms)?.iter().rev() {
        let key: fn(&Collection) -> &str = match term.path.join(".").as_str() {
            "id" => |it| &it.id,
            "name" => |it| &it.name,
            "type" => |it| it.kind.name(),
            "created" => |it| &it.created,
            "updated" => |it| &it.updated,
            other => {
                return Err(Error::invalid(format!(
                    "Collections cannot be sorted by {other}."
                )));
            }
        };
        collections.sort_by(|one, other| match term.descending {
            true => key(other).cmp(key(one)),
            false => key(one).cmp(key(other)),
        });
    }
    Ok(())
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let body = call.body()?;
    let catalog = &call.app.catalog;
    let collection = catalog.create(call.database, &body, editor(call))?;
    Ok(json_response(200, &collection.to_json()))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let name = call.param("collection");
    if name == SUPERUSERS || name == SUPERUSERS_ID {
        return Ok(json_response(200, &superusers()?.to_json()));
    }
    let collections = call.collections()?;
    Ok(json_response(200, &collections.get(name)?.to_json()))
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
