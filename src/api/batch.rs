//! `POST /api/batch`: several writes to records of one database, all or nothing.
//!
//! The format is PocketBase's: a list of requests with `method`, `url` (the path of a records
//! endpoint, with its query) and `body`. `PUT` on the list path updates or creates a record. The
//! answer has the status and body of each request. If one fails, all are rolled back, and the error
//! names it by its position: `data.requests.3.response` is the answer to that request alone. Files
//! are sent in a form beside the list, with the same names.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::body::PAYLOAD;
use super::call::{Call, split_database};
use super::multipart_body::{MultipartForm, UploadedFile, split_batch_name};
use super::parameters::shape;
use super::record_input::RecordInput;
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::records;
use crate::model::records::{BatchAction, BatchStep, Draft, RawBody, Scope, Upsert};
use crate::net::http::route::{RouteMatch, Router};
use crate::net::http::{Method, Response, query};
use crate::store::files::StagedFiles;

/// Limit on the requests in one batch.
const REQUESTS_MAX: usize = 1000;

/// The levels of a batch down to the names of a record: the batch, the list, a request, its body.
const LEVELS: usize = 4;

/// Limit on the different passwords in one batch.
const PASSWORDS_MAX: usize = 50;

#[derive(Deserialize)]
struct Batch {
    #[serde(default)]
    requests: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    method: String,
    url: String,
    #[serde(default)]
    body: Option<RawBody>,
}

/// The operation of a request, from its `method` and `url`.
#[derive(Clone, Copy)]
enum StepKind {
    Create,
    Upsert,
    Update,
    Delete,
}

pub fn run(call: &Call<'_>) -> Result<Response> {
    let (Batch { requests }, mut uploads) = body(call)?;
    if requests.is_empty() || requests.len() > REQUESTS_MAX {
        let message = format!("A batch must have 1 to {REQUESTS_MAX} requests.");
        let code = match requests.is_empty() {
            true => "validation_required",
            false => "validation_length_out_of_range",
        };
        return Err(Error::field("requests", code, message));
    }
    let reader = StepReader {
        call,
        scope: call.scope()?,
        router: router(),
        passwords: Passwords::new(call),
    };
    let (mut steps, mut placed) = (Vec::new(), Vec::new());
    for (at, item) in requests.into_iter().enumerate() {
        let files = uploads.remove(&at).unwrap_or_default();
        let (step, files) = reader
            .read(item, files)
            .map_err(|error| records::batch_error(error, at))?;
        steps.push(step);
        placed.extend(files);
    }
    if let Some(at) = uploads.keys().next() {
        return Err(Error::invalid(format!(
            "The form has files for request {at}, but the batch has no such request."
        )));
    }
    let scope = reader.scope;
    let has_files = scope.collections.has_files();
    let body = call
        .database()?
        .write(move |tx| records::run_batch(tx, &scope, steps))?;
    placed.into_iter().for_each(StagedFiles::commit);
    call.notify_files(has_files);
    Ok(Response::json(200, body))
}

/// The files of a batch by the position of their request, each with its key in that request.
type Uploads<'a> = BTreeMap<usize, Vec<(&'a str, &'a UploadedFile)>>;

/// Parses the batch, from JSON or from a form, in which PocketBase's clients name files
/// `requests.3.title`.
fn body<'a>(call: &Call<'a>) -> Result<(Batch, Uploads<'a>)> {
    let Some(values) = call.form_values()? else {
        return Ok((call.body_to(LEVELS)?, Uploads::new()));
    };
    let [(name, payload)] = &values[..] else {
        return Err(no_batch());
    };
    if name != PAYLOAD {
        return Err(no_batch());
    }
    let uploads = match MultipartForm::of(call.request) {
        Some(form) => form.parts()?.1,
        None => &[],
    };
    let mut files = Uploads::new();
    for upload in uploads {
        let (at, key) = split_batch_name(&upload.field).ok_or_else(no_batch)?;
        files.entry(at).or_default().push((key, upload));
    }
    Ok((call.json_to(payload.as_bytes(), LEVELS)?, files))
}

fn no_batch() -> Error {
    Error::invalid(
        "The form of a batch must have one value, @jsonPayload, and files named requests.N.FIELD.",
    )
}

/// Hashes each password of a batch once. Hashing is slow on purpose, so their number is limited.
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
                "A batch may set at most {PASSWORDS_MAX} passwords."
            )));
        }
        let hash = self.call.hash(password)?;
        known.insert(password.to_owned(), hash.clone());
        Ok(hash)
    }
}

fn router() -> Router<StepKind> {
    let mut router = Router::new();
    let (list, one) = (
        "/api/collections/{collection}/records",
        "/api/collections/{collection}/records/{id}",
    );
    router.add(Method::Post, list, StepKind::Create);
    router.add(Method::Put, list, StepKind::Upsert);
    router.add(Method::Patch, one, StepKind::Update);
    router.add(Method::Delete, one, StepKind::Delete);
    router
}

/// Turns requests into steps of the batch.
struct StepReader<'a> {
    call: &'a Call<'a>,
    scope: Scope,
    router: Router<StepKind>,
    passwords: Passwords<'a>,
}

impl<'a> StepReader<'a> {
    /// The step of a request, and its files, which are staged in the storage.
    fn read(
        &self,
        item: Item,
        uploads: Vec<(&str, &UploadedFile)>,
    ) -> Result<(BatchStep, Vec<StagedFiles<'a>>)> {
        let (path, query_text) = item.url.split_once('?').unwrap_or((&item.url, ""));
        let path = own_path(self.call, path);
        let Some((verb, params)) = find(&self.router, &item.method, path) else {
            return Err(Error::invalid(format!(
                "A batch may contain POST and PUT to .../records and PATCH and DELETE to \
                 .../records/ID, not {} {path}.",
                item.method
            )));
        };
        let (collection, id) = params;
        let collection = Arc::clone(self.scope.collections.get(&collection)?);
        let shape = shape(&query::parse(query_text)?)?;
        let input = RecordInput::new(&collection, item.body.unwrap_or_default(), uploads)?;
        let (action, placed) = self.action(verb, id, &collection, &input)?;
        let step = BatchStep {
            collection,
            shape,
            action,
        };
        Ok((step, placed))
    }

    fn action(
        &self,
        verb: StepKind,
        id: String,
        collection: &Collection,
        input: &RecordInput<'_>,
    ) -> Result<(BatchAction, Vec<StagedFiles<'a>>)> {
        let (scope, body) = (&self.scope, &input.body);
        let hash = &|password: &str| self.passwords.hash(password);
        let place = |id: &str, drafts: &[&Draft]| input.place(self.call, collection, id, drafts);
        let with_files = |mut draft: Draft| {
            input.attach(collection, &mut draft);
            draft
        };
        let create = || Draft::create(scope, collection, body, hash).map(with_files);
        // A batch proves no password: an account changes its password or address in a request of
        // its own.
        let update = || Draft::update(scope, collection, body, hash).map(with_files);
        Ok(match verb {
            StepKind::Create => {
                let mut draft = create()?;
                let placed = match draft.files().is_empty() {
                    true => None,
                    false => place(&draft.choose_id(collection)?, &[&draft])?,
                };
                (BatchAction::Create(draft), placed.into_iter().collect())
            }
            StepKind::Update => {
                let draft = update()?;
                let placed = place(&id, &[&draft])?;
                (BatchAction::Update(id, draft), placed.into_iter().collect())
            }
            StepKind::Delete if input.has_files() => {
                return Err(Error::invalid("A DELETE request has no files."));
            }
            StepKind::Delete => (BatchAction::Delete(id), Vec::new()),
            StepKind::Upsert => {
                let id = body
                    .get("id")
                    .map(|raw| serde_json::from_str::<String>(raw.get()));
                let Some(id) = id.and_then(Result::ok).filter(|id| !id.is_empty()) else {
                    // Without an id the record is new.
                    return self.action(StepKind::Create, String::new(), collection, input);
                };
                let drafts = Upsert {
                    update: update(),
                    create: create(),
                };
                // Which draft is used is decided in the transaction. An invalid one gets no files.
                let whole: Vec<&Draft> = [&drafts.update, &drafts.create]
                    .into_iter()
                    .flatten()
                    .filter(|draft| draft.check().is_ok())
                    .collect();
                let placed = place(&id, &whole)?;
                (
                    BatchAction::Upsert(id, Box::new(drafts)),
                    placed.into_iter().collect(),
                )
            }
        })
    }
}

/// Removes the prefix of the database, which clients with such a base URL put before each path.
fn own_path<'a>(call: &Call<'_>, path: &'a str) -> &'a str {
    match split_database(path) {
        (Some(database), rest) if database == call.database => rest,
        _ => path,
    }
}

fn find(
    router: &Router<StepKind>,
    method: &str,
    path: &str,
) -> Option<(StepKind, (String, String))> {
    let method = match method.to_ascii_uppercase().as_str() {
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "PATCH" => Method::Patch,
        "DELETE" => Method::Delete,
        _ => return None,
    };
    match router.find(method, path) {
        RouteMatch::Found(verb, params) => Some((
            *verb,
            (
                params.get("collection").to_owned(),
                params.get("id").to_owned(),
            ),
        )),
        RouteMatch::NotFound | RouteMatch::MethodNotAllowed(_) => None,
    }
}
