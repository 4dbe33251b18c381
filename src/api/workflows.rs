//! Workflows: runs read, cancelled, retried and forked; hooks; reports; the socket of workers.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::call::{Call, credentials};
use super::parameters::parameter;
use super::socket;
use crate::base::budget::Payer;
use crate::base::error::{Error, Kind, Result};
use crate::base::json::{Object, array};
use crate::model::auth::StoredCredentials;
use crate::net::http::Response;
use crate::services::workflows::api_requests::{EventRequest, RunAction, WorkflowRequest};
use crate::services::workflows::queries::{RunCursor, RunFilter};
use crate::services::workflows::{
    EventKind, NodeTag, RunStatus, WorkerGrant, Workflows, frames, grant_of, limits, node_of,
    on_another_node, parse_time, queries,
};
use crate::store::db::{Connection, Database};

/// The WebSocket subprotocol of workers.
const PROTOCOL: &str = "vski.workflow.v1";
/// Default number of runs on a page of the list.
const PAGE: usize = 30;

pub fn list(call: &Call<'_>) -> Result<Response> {
    let query = call.query()?;
    let attributes = query.iter().filter(|(name, _)| name == "attribute");
    let attributes = attributes.map(|(_, text)| pair(text));
    let filter = RunFilter {
        workflow: parameter(&query, "workflow").map(str::to_owned),
        status: parameter(&query, "status").map(status).transpose()?,
        parent: parameter(&query, "parent").map(str::to_owned),
        since: parameter(&query, "since").map(time).transpose()?,
        attributes: attributes.collect::<Result<_>>()?,
    };
    let cursor = parameter(&query, "cursor").filter(|text| !text.is_empty());
    let cursor = cursor.map(|text| number("cursor", text)).transpose()?;
    let limit = match parameter(&query, "limit") {
        Some(text) => usize::try_from(number("limit", text)?).unwrap_or(PAGE),
        None => PAGE,
    };
    let limit = limit.clamp(1, queries::PAGE_MAX);
    let grant = grant_of(&call.identity);
    let database = database(call);
    let page =
        database.snapshot(|db| queries::list(db, &grant, &filter, RunCursor(cursor), limit))?;
    Ok(json(200, page))
}

fn status(word: &str) -> Result<RunStatus> {
    let found = RunStatus::ALL.iter().find(|(_, known)| *known == word);
    found.map(|(status, _)| *status).ok_or_else(|| {
        let words: Vec<&str> = RunStatus::ALL.iter().map(|(_, word)| *word).collect();
        Error::invalid(format!("status must be one of {}.", words.join(", ")))
    })
}

fn time(text: &str) -> Result<i64> {
    parse_time(text).ok_or_else(|| {
        Error::invalid("Expected a time such as 2030-01-31T12:00:00Z, or Unix milliseconds.")
    })
}

fn pair(text: &str) -> Result<(String, String)> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| Error::invalid("attribute must be NAME=VALUE."))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn number(name: &str, text: &str) -> Result<i64> {
    let number = text.parse().ok().filter(|number: &i64| *number >= 0);
    number.ok_or_else(|| Error::invalid(format!("{name} must be a number of at least 0.")))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    show(call, queries::run)
}

pub fn input(call: &Call<'_>) -> Result<Response> {
    show(call, queries::input)
}

pub fn steps(call: &Call<'_>) -> Result<Response> {
    let from = counter(call, "cursor", "from")?;
    show(call, |db, grant, run| queries::steps(db, grant, run, from))
}

pub fn events(call: &Call<'_>) -> Result<Response> {
    let after = counter(call, "after", "cursor")?;
    show(call, |db, grant, run| {
        queries::events(db, grant, run, after, queries::PAGE_MAX)
    })
}

pub fn journal(call: &Call<'_>) -> Result<Response> {
    let after = counter(call, "after", "cursor")?;
    show(call, |db, grant, run| {
        queries::journal(db, grant, run, after)
    })
}

pub fn stream(call: &Call<'_>) -> Result<Response> {
    let from = counter(call, "from", "cursor")?;
    let name = call.param("name");
    show(call, |db, grant, run| {
        queries::stream(db, grant, run, name, from)
    })
}

/// A query parameter that is a number and has two names; 0 if it is missing.
fn counter(call: &Call<'_>, name: &str, other: &str) -> Result<i64> {
    let query = call.query()?;
    match parameter(&query, name).or_else(|| parameter(&query, other)) {
        Some(text) => number(name, text),
        None => Ok(0),
    }
}

fn show(
    call: &Call<'_>,
    read: impl FnOnce(&Connection, &WorkerGrant, &str) -> Result<String>,
) -> Result<Response> {
    let (grant, run) = (grant_of(&call.identity), call.param("run"));
    let answer = database(call).snapshot(|db| read(db, &grant, run));
    answer
        .map(|it| json(200, it))
        .map_err(|it| with_location(call, it))
}

pub fn cancel(call: &Call<'_>) -> Result<Response> {
    act(call, ActionOptions::cancel)
}

pub fn retry(call: &Call<'_>) -> Result<Response> {
    act(call, ActionOptions::resume)
}

pub fn fork(call: &Call<'_>) -> Result<Response> {
    act(call, ActionOptions::fork)
}

/// The options of all actions. Each action reads its own.
#[derive(Default, Deserialize)]
struct ActionOptions {
    #[serde(default)]
    reason: String,
    version: Option<String>,
    #[serde(rename = "fromStep")]
    from: Option<String>,
}

impl ActionOptions {
    fn cancel(self) -> RunAction {
        let reason = Value::from(self.reason).to_string();
        RunAction::Cancel { reason }
    }

    fn resume(self) -> RunAction {
        let version = self.version;
        RunAction::Resume { version }
    }

    fn fork(self) -> RunAction {
        let ActionOptions { from, version, .. } = self;
        RunAction::Fork { from, version }
    }
}

fn act(call: &Call<'_>, action: fn(ActionOptions) -> RunAction) -> Result<Response> {
    let options = match call.has_body() {
        true => call.body()?,
        false => ActionOptions::default(),
    };
    let request = WorkflowRequest::Apply {
        runs: vec![call.param("run").to_owned()],
        action: action(options),
        is_bulk: false,
    };
    ask(call, request)
}

pub fn cancel_many(call: &Call<'_>) -> Result<Response> {
    act_on_many(call, ActionOptions::cancel)
}

pub fn retry_many(call: &Call<'_>) -> Result<Response> {
    act_on_many(call, ActionOptions::resume)
}

pub fn fork_many(call: &Call<'_>) -> Result<Response> {
    act_on_many(call, ActionOptions::fork)
}

/// The runs of an action, and its options, in one type so that the body is parsed once.
#[derive(Deserialize)]
struct BulkAction {
    workflow: Option<String>,
    status: Option<String>,
    parent: Option<String>,
    since: Option<Value>,
    ids: Option<Vec<String>>,
    #[serde(default)]
    reason: String,
    version: Option<String>,
    #[serde(rename = "fromStep")]
    from: Option<String>,
}

/// Applies an action to the runs in a list or the first ones that a filter finds, at most
/// [`limits::BULK_MAX`].
fn act_on_many(call: &Call<'_>, action: fn(ActionOptions) -> RunAction) -> Result<Response> {
    let which: BulkAction = call.body()?;
    let action = action(ActionOptions {
        reason: which.reason,
        version: which.version,
        from: which.from,
    });
    let grant = grant_of(&call.identity);
    let since = which.since.map(|it| match it {
        Value::String(text) => time(&text),
        other => time(&other.to_string()),
    });
    let filter = RunFilter {
        workflow: which.workflow,
        status: which.status.as_deref().map(status).transpose()?,
        parent: which.parent,
        since: since.transpose()?,
        attributes: Vec::new(),
    };
    let runs = match which.ids {
        Some(ids) => ids,
        None if filter.workflow.is_none() && filter.parent.is_none() && filter.status.is_none() => {
            return Err(Error::invalid(
                "Name the runs: send ids, or a filter with workflow, status or parent.",
            ));
        }
        None => {
            let database = database(call);
            // Only unfinished runs can be cancelled.
            let statuses = match (&action, filter.status) {
                (_, Some(status)) => vec![status],
                (RunAction::Cancel { .. }, None) => vec![RunStatus::Pending, RunStatus::Running],
                (RunAction::Resume { .. }, None) => vec![RunStatus::Failed],
                (RunAction::Fork { .. }, None) => {
                    return Err(Error::invalid("Send the status of the runs to fork."));
                }
            };
            let mut runs = Vec::new();
            for status in statuses {
                let filter = RunFilter {
                    status: Some(status),
                    ..filter.clone()
                };
                let left = limits::BULK_MAX - runs.len();
                runs.extend(database.read(|db| queries::ids(db, &grant, &filter, left))?);
            }
            runs
        }
    };
    if runs.len() > limits::BULK_MAX {
        let message = format!(
            "The request names too many runs; send at most {}.",
            limits::BULK_MAX
        );
        return Err(Error::invalid(message));
    }
    let request = WorkflowRequest::Apply {
        runs,
        action,
        is_bulk: true,
    };
    ask(call, request)
}

pub fn write_event(call: &Call<'_>) -> Result<Response> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default, rename = "correlationId")]
        key: String,
        data: Option<Box<RawValue>>,
    }
    let body: Body = call.body_to(1)?;
    let found = EventKind::ALL.iter().find(|(_, word)| *word == body.kind);
    let Some((kind, _)) = found else {
        return Err(Error::invalid(format!("Unknown event type {}.", body.kind)));
    };
    let event = EventRequest {
        kind: *kind,
        key: body.key,
        data: body.data,
    };
    let run = call.param("run").to_owned();
    ask(call, WorkflowRequest::Event { run, event })
}

pub fn hook(call: &Call<'_>) -> Result<Response> {
    let payload: Box<RawValue> = match call.has_body() {
        true => call.body_to(0)?,
        false => call.json_to(b"null", 0)?,
    };
    let request = WorkflowRequest::Hook {
        token: call.param("token").to_owned(),
        payload: payload.get().to_owned(),
    };
    let answer = workflows(call).execute(WorkerGrant::default(), request)?;
    Ok(json(202, answer))
}

pub fn report(call: &Call<'_>) -> Result<Response> {
    #[derive(Deserialize)]
    struct Body {
        frames: Vec<Box<RawValue>>,
    }
    let body: Body = call.body_to(2)?;
    if body.frames.len() > limits::BULK_MAX {
        let message = format!(
            "The request has too many frames; send at most {}.",
            limits::BULK_MAX
        );
        return Err(Error::invalid(message));
    }
    let reports = body
        .frames
        .iter()
        .map(|frame| match frames::parse_frame(frame.get()) {
            Ok(frame) => match frame.body {
                frames::FrameBody::Report(report) => (frame.reference, Ok(report)),
                _ => {
                    let message = "This endpoint accepts only reports about jobs.".to_owned();
                    (frame.reference, Err(message))
                }
            },
            Err(what) => (what.reference, Err(what.message)),
        });
    let reports = reports.collect();
    ask(call, WorkflowRequest::Report { reports })
}

pub fn workers(call: &Call<'_>) -> Result<Response> {
    let items = workflows(call).workers(&grant_of(&call.identity));
    Ok(json(200, Object::new().raw("items", &array(items)).end()))
}

pub fn queue(call: &Call<'_>) -> Result<Response> {
    let grant = grant_of(&call.identity);
    let workflows = workflows(call);
    let is_served = |workflow: &str, version: &str| workflows.is_served(workflow, version);
    let (items, abandoned) = database(call).snapshot(|db| {
        let items = queries::queue(db, &grant, is_served)?;
        Ok((items, queries::abandoned(db, &grant)?))
    })?;
    let answer = Object::new()
        .raw("items", &array(items))
        .raw("deadLetters", &array(abandoned));
    Ok(json(200, answer.end()))
}

/// Opens the socket of a worker. Credentials in the handshake are checked here; without any, the
/// first frame must carry them.
pub fn listen(call: &Call<'_>) -> Result<Response> {
    socket::check_handshake(call.request)?;
    let credentials = credentials(call.request);
    let has_any = credentials.authorization.is_some() || credentials.api_key.is_some();
    let grant = match has_any {
        true => Some(workflows(call).grant(credentials)?),
        false => None,
    };
    let payer = Payer {
        has_credentials: grant.is_some(),
        ..call.payer()
    };
    let peer = workflows(call).peer(grant, StoredCredentials::new(credentials));
    let response = socket::upgrade(call, payer, peer)?;
    // RFC 6455: the answer may name only a subprotocol that the client offered.
    Ok(
        match socket::header_lists(call.request, "Sec-WebSocket-Protocol", PROTOCOL) {
            true => response.with_header("Sec-WebSocket-Protocol", PROTOCOL),
            false => response,
        },
    )
}

fn ask(call: &Call<'_>, request: WorkflowRequest) -> Result<Response> {
    let answer = workflows(call).execute(grant_of(&call.identity), request);
    answer
        .map(|it| json(200, it))
        .map_err(|it| with_location(call, it))
}

/// Adds the location to the error about a run of another node, whose tag is in the id of the run.
fn with_location(call: &Call<'_>, error: Error) -> Error {
    let run = call.param("run");
    if error.kind() != Kind::NotFound || run.is_empty() {
        return error;
    }
    match node_of(run) {
        Some(tag) if tag != NodeTag::of(&call.app.node_id) => {
            let url = call.app.url_of_node(|node| NodeTag::of(node) == tag);
            on_another_node(run, url.as_deref())
        }
        _ => error,
    }
}

fn workflows<'a>(call: &Call<'a>) -> &'a Workflows {
    &call.app.workflows
}

fn database<'a>(call: &Call<'a>) -> &'a Arc<Database> {
    &call.app.workflows.database
}

fn json(status: u16, body: String) -> Response {
    Response::json(status, body.into_bytes())
}
