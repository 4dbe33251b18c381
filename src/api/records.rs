//! Records: list, get, create, update and delete; update and delete in bulk.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;

use super::call::Call;
use super::parameters::{page, parameter, shape};
use super::record_input;
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, CollectionKind};
use crate::model::records;
use crate::model::records::{
    BULK_MAX, Draft, Hasher, ListQuery, Precondition, RawBody, RenderedRecord, Scope, Versions,
};
use crate::model::rules::Operation;
use crate::net::http::{GZIP_SUFFIX, Response, range};
use crate::store::files::StagedFiles;

#[derive(Deserialize)]
struct BulkUpdate {
    ids: Vec<String>,
    data: RawBody,
}

#[derive(Deserialize)]
struct BulkDelete {
    ids: Vec<String>,
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let query = list_query(&pairs)?;
    let shape = shape(&pairs)?;
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let body = call.database()?.snapshot_for(call.asker(), |connection| {
        records::list(connection, &scope, &collection, &query, &shape)
    })?;
    Ok(Response::json(200, body))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let shape = shape(&call.query()?)?;
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let (id, none_match) = (call.param("id"), call.request.header("If-None-Match"));
    let expected = Precondition {
        only: versions(call, "If-Match", false),
        except: None,
    };
    let read =
        |connection: &_| records::get(connection, &scope, &collection, id, &shape, &expected);
    let database = call.database()?;
    // One statement reads one state; only an expansion needs a transaction.
    let shown = if shape.expand.children.is_empty() {
        database.read_for(call.asker(), read)?
    } else {
        database.snapshot_for(call.asker(), read)?
    };
    let tag = shown.tag();
    let is_known = |header: &str| {
        let mut tags = range::tags(header, true).map(|tag| tag.trim_end_matches(GZIP_SUFFIX));
        let shown = tag.as_deref().map(|tag| tag.trim_matches('"'));
        range::is_any(header) || tags.any(|known| Some(known) == shown)
    };
    match none_match.is_some_and(is_known) {
        true => Ok(with_tag(Response::empty(304), tag)),
        false => Ok(with_tag(Response::json(200, shown.json), tag)),
    }
}

/// The versions of a record that a header names. Weak tags are ignored if the bytes must be equal.
fn versions(call: &Call<'_>, name: &str, accepts_weak: bool) -> Option<Versions> {
    let header = call.request.header(name)?;
    Some(match range::is_any(header) {
        true => Versions::Any,
        false => {
            let tags = range::tags(header, accepts_weak).map(str::to_owned);
            Versions::Of(tags.collect())
        }
    })
}

/// The versions of the record that a request may change.
fn precondition(call: &Call<'_>) -> Precondition {
    Precondition {
        only: versions(call, "If-Match", false),
        except: versions(call, "If-None-Match", true),
    }
}

fn with_tag(response: Response, tag: Option<String>) -> Response {
    match tag {
        Some(tag) => response.with_header("ETag", tag),
        None => response,
    }
}

/// The answer with one record.
fn one(shown: RenderedRecord, ignored: String) -> Response {
    let tag = shown.tag();
    with_ignored(with_tag(Response::json(200, shown.json), tag), ignored)
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    create_in(call, call.param("collection"))
}

/// Creates a record in this collection.
pub fn create_in(call: &Call<'_>, collection: &str) -> Result<Response> {
    let shape = shape(&call.query()?)?;
    let scope = call.scope()?;
    let collection = Arc::clone(scope.collections.get(collection)?);
    let hash = |password: &str| call.hash(password);
    let input = record_input::read(call, &collection)
        .map_err(|error| access_first(error, || scope.check(&collection, Operation::Create)))?;
    let mut draft = Draft::create(&scope, &collection, &input.body, &hash)?;
    input.attach(&collection, &mut draft);
    let placed = match draft.files().is_empty() {
        true => None,
        false => {
            let id = draft.choose_id(&collection)?;
            input.place(call, &collection, &id, &[&draft])?
        }
    };
    let (ignored, has_files) = (draft.ignored().join(", "), placed.is_some());
    let shown = call
        .database()?
        .write(move |tx| records::create(tx, &scope, &collection, draft, &shape))?;
    placed.into_iter().for_each(StagedFiles::commit);
    call.notify_files(has_files);
    Ok(one(shown, ignored))
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let shape = shape(&call.query()?)?;
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let id = call.param("id").to_owned();
    let input = record_input::read(call, &collection)
        .map_err(|error| access_first(error, || may_update(call, &scope, &collection, &id)))?;
    let hash = |password: &str| call.hash(password);
    let mut draft = update_draft(call, &scope, &collection, &id, &input.body, &hash)?;
    input.attach(&collection, &mut draft);
    draft.expected = precondition(call);
    let placed = input.place(call, &collection, &id, &[&draft])?;
    let (ignored, has_files) = (draft.ignored().join(", "), collection.has_files());
    let shown = call
        .database()?
        .write(move |tx| records::update(tx, &scope, &collection, &id, draft, &shape))?;
    placed.into_iter().for_each(StagedFiles::commit);
    call.notify_files(has_files);
    Ok(one(shown, ignored))
}

/// Reports an invalid body only to callers who may do the operation.
fn access_first(error: Error, check: impl FnOnce() -> Result<()>) -> Error {
    check().err().unwrap_or(error)
}

fn may_update(call: &Call<'_>, scope: &Scope, collection: &Collection, id: &str) -> Result<()> {
    let operation = Operation::Update;
    scope.check(collection, operation)?;
    let may = |connection: &_| records::is_allowed(operation, connection, scope, collection, id);
    match call.database()?.read_for(call.asker(), may)? {
        true => Ok(()),
        false => Err(records::record_not_found()),
    }
}

/// The draft of an update of one record. An account that changes its password or address must send
/// the current password as `oldPassword`.
pub fn update_draft(
    call: &Call<'_>,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    body: &RawBody,
    hash: Hasher<'_>,
) -> Result<Draft> {
    let is_account = collection.kind == CollectionKind::Auth && !scope.identity.manages();
    let proof = match is_account && (body.contains_key("password") || body.contains_key("email")) {
        true => {
            let auth = &call.app.auth;
            let realm = auth.realm(call.database, Some(&collection.id))?;
            Some(auth.prove(scope, &realm, id, body, call.client(), call.asker())?)
        }
        false => None,
    };
    // Hashing is slow on purpose, so the new password is hashed only after the old one is proved.
    let mut draft = Draft::update(scope, collection, body, hash)?;
    proof
        .into_iter()
        .for_each(|token_key| draft.prove(token_key));
    Ok(draft)
}

/// Names the fields that were sent but not written.
fn with_ignored(response: Response, ignored: String) -> Response {
    match ignored.is_empty() {
        true => response,
        false => response.with_header("X-Ignored-Fields", ignored),
    }
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let (id, has_files) = (call.param("id").to_owned(), scope.collections.has_files());
    let expected = precondition(call);
    call.database()?
        .write(move |tx| records::delete(tx, &scope, &collection, &id, &expected))?;
    call.notify_files(has_files);
    Ok(Response::empty(204))
}

/// Applies the same change to several records, all or none.
pub fn bulk_update(call: &Call<'_>) -> Result<Response> {
    let BulkUpdate { ids, data } = call.body_to(2)?;
    let ids = distinct(ids)?;
    let shape = shape(&call.query()?)?;
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let hash = |password: &str| call.hash(password);
    let draft = Draft::update(&scope, &collection, &data, &hash)?;
    let (ignored, has_files) = (draft.ignored().join(", "), collection.has_files());
    let body = call
        .database()?
        .write(move |tx| records::bulk_update(tx, &scope, &collection, &ids, &draft, &shape))?;
    call.notify_files(has_files);
    Ok(with_ignored(Response::json(200, body), ignored))
}

/// Deletes several records, all or none.
pub fn bulk_delete(call: &Call<'_>) -> Result<Response> {
    let BulkDelete { ids } = call.body_to(2)?;
    let ids = distinct(ids)?;
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let has_files = scope.collections.has_files();
    call.database()?
        .write(move |tx| records::bulk_delete(tx, &scope, &collection, &ids))?;
    call.notify_files(has_files);
    Ok(Response::empty(204))
}

/// Removes duplicate ids, so that each record is changed once.
fn distinct(mut ids: Vec<String>) -> Result<Vec<String>> {
    if (1..=BULK_MAX).contains(&ids.len()) {
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        return Ok(ids);
    }
    Err(Error::field(
        "ids",
        "validation_length",
        format!("Must be 1 to {BULK_MAX} ids."),
    ))
}

pub fn list_query(pairs: &[(String, String)]) -> Result<ListQuery> {
    Ok(ListQuery {
        page: page(pairs)?,
        sort: parameter(pairs, "sort").unwrap_or_default().to_owned(),
        filter: parameter(pairs, "filter").unwrap_or_default().to_owned(),
        skip_total: match parameter(pairs, "skipTotal") {
            None | Some("" | "0" | "false") => false,
            Some("1" | "true") => true,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "skipTotal={other}: must be 1 or 0."
                )));
            }
        },
    })
}
