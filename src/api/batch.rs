//! `POST /api/batch`: several writes to records of one database, all or nothing.
//!
//! Takes PocketBase's form: a list of requests with `method`, `url` (the path of a records
//! endpoint, with its query) and `body`; `PUT` on the list path changes or makes. The answer has
//! the status and body of each. When one fails nothing is kept, and the error names it by its
//! position: `data` has `requests.3`, and for its fields `requests.3.title`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::Call;
use super::form::Form;
use super::forms;
use super::json_body;
use super::records::shape;
use super::split_database;
use crate::error::Error;
use crate::error::Result;
use crate::http::Method;
use crate::http::Response;
use crate::http::query;
use crate::http::route::Found;
use crate::http::route::Router;
use crate::records;
use crate::records::Action;
use crate::records::Body;
use crate::records::Draft;
use crate::records::Scope;
use crate::records::Step;
use crate::records::Upsert;

/// Requests in one batch.
const REQUESTS_MAX: usize = 1000;

/// Different passwords in one batch.
const PASSWORDS_MAX: usize = 50;

#[derive(Deserialize)]
struct Batch {
    requests: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    method: String,
    url: String,
    #[serde(default)]
    body: Option<Body>,
}

/// What `method` and `url` of an item ask for.
#[derive(Clone, Copy)]
enum Verb {
    Create,
    Upsert,
    Update,
    Delete,
}

pub fn run(call: &Call<'_>) -> Result<Response> {
    let Batch { requests } = body(call)?;
    if requests.is_empty() || requests.len() > REQUESTS_MAX {
        return Err(Error::invalid(format!(
            "A batch has 1 to {REQUESTS_MAX} requests."
        )));
    }
    let scope = call.scope()?;
    let (router, passwords) = (router(), Passwords::new(call));
    let steps: Vec<Step> = requests
        .into_iter()
        .enumerate()
        .map(|(at, item)| {
            parse(call, &scope, &router, &item, &passwords)
                .map_err(|error| records::name_step(error, at))
        })
        .collect::<Result<_>>()?;
    let has_files = scope.collections.has_files();
    let body = call
        .database()?
        .write(move |tx| records::run_batch(tx, &scope, steps))?;
    call.notify_files(has_files);
    Ok(Response::json(200, body))
}

/// The requests as JSON, or as PocketBase's clients send them: in a form, for the files that may
/// come along.
fn body(call: &Call<'_>) -> Result<Batch> {
    let Some(form) = call
        .request
        .sunk
        .as_ref()
        .and_then(|sunk| sunk.get::<Form>())
    else {
        return call.body();
    };
    let (values, uploads) = form.parts()?;
    match (values, uploads) {
        ([(name, payload)], []) if name == forms::PAYLOAD => json_body(payload),
        _ => Err(Error::invalid(
            "The form of a batch has one field, @jsonPayload, and no files.",
        )),
    }
}

/// Hashes each password of a batch once, and not without limit: it is slow on purpose.
struct Passwords<'a> {
    call: &'a Call<'a>,
    known: RefCell<HashMap<String, String>>,
}

impl<'a> Passwords<'a> {
    fn new(call: &'a Call<'a>) -> Passwords<'a> {
        Passwords {
            call,
            known: RefCell::default(),
        }
    }

    fn hash(&self, password: &str) -> Result<String> {
        let mut known = self.known.borrow_mut();
        if let Some(hash) = known.get(password) {
            return Ok(hash.clone());
        }
        if known.len() >= PASSWORDS_MAX {
            return Err(Error::invalid(format!(
                "A batch sets at most {PASSWORDS_MAX} passwords."
            )));
        }
        let hash = self.call.hash(password)?;
        known.insert(password.to_owned(), hash.clone());
        Ok(hash)
    }
}

fn router() -> Router<Verb> {
    let mut router = Router::new();
    let (list, one) = (
        "/api/collections/{collection}/records",
        "/api/collections/{collection}/records/{id}",
    );
    router.add(Method::Post, list, Verb::Create);
    router.add(Method::Put, list, Verb::Upsert);
    router.add(Method::Patch, one, Verb::Update);
    router.add(Method::Delete, one, Verb::Delete);
    router
}

fn parse(
    call: &Call<'_>,
    scope: &Scope,
    router: &Router<Verb>,
    item: &Item,
    passwords: &Passwords<'_>,
) -> Result<Step> {
    let nothing = Body::new();
    let body = item.body.as_ref().unwrap_or(&nothing);
    let (path, query_text) = item.url.split_once('?').unwrap_or((&item.url, ""));
    let path = own_path(call, path);
    let Some((verb, params)) = find(router, &item.method, path) else {
        return Err(Error::invalid(format!(
            "A batch takes POST and PUT to .../records and PATCH and DELETE to .../records/ID, not \
             {} {path}.",
            item.method
        )));
    };
    let (collection, id) = params;
    let collection = Arc::clone(scope.collections.get(&collection)?);
    let shape = shape(&query::parse(query_text)?)?;
    let hash = &|password: &str| passwords.hash(password);
    let action = match verb {
        Verb::Create => Action::Create(Draft::create(scope, &collection, body, hash)?),
        // Without a proof: who changes a password or an address does that by itself.
        Verb::Update => Action::Update(id, Draft::update(scope, &collection, body, hash)?),
        Verb::Delete => Action::Delete(id),
        Verb::Upsert => {
            let id = body
                .get("id")
                .map(|raw| serde_json::from_str::<String>(raw.get()));
            let Some(id) = id.and_then(Result::ok).filter(|id| !id.is_empty()) else {
                return Err(Error::field(
                    "id",
                    "validation_required",
                    "PUT needs the id.",
                ));
            };
            let drafts = Upsert {
                update: Draft::update(scope, &collection, body, hash),
                create: Draft::create(scope, &collection, body, hash),
            };
            Action::Upsert(id, drafts)
        }
    };
    Ok(Step {
        collection,
        shape,
        action,
    })
}

/// Clients whose address has the prefix of a database write it before each path, too.
fn own_path<'a>(call: &Call<'_>, path: &'a str) -> &'a str {
    match split_database(path) {
        (Some(database), rest) if database == call.database => rest,
        _ => path,
    }
}

fn find(router: &Router<Verb>, method: &str, path: &str) -> Option<(Verb, (String, String))> {
    let method = match method.to_ascii_uppercase().as_str() {
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "PATCH" => Method::Patch,
        "DELETE" => Method::Delete,
        _ => return None,
    };
    match router.find(method, path) {
        Found::Found(verb, params) => Some((
            *verb,
            (
                params.get("collection").to_owned(),
                params.get("id").to_owned(),
            ),
        )),
        Found::NotFound | Found::MethodNotAllowed(_) => None,
    }
}
