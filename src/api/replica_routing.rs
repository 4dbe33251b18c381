//! What requests notice of replication: writes are refused on a replica, every answer of one names it
//! (VB-3), and whoever has written on the master can have a replica's answer wait for it.
//!
//! The answer to a write has `X-Vski-Version: database:history:number` (several, separated by commas,
//! when it concerned several databases), once replicas follow. A read on a replica that sends it back
//! is answered when the replica has come that far, or, after [`PATIENCE`], by the master.

use std::time::{Duration, Instant};

use super::answer::{answer_error, error_json, json_response};
use super::routes::OnReplica;
use crate::app::App;
use crate::base::error::{Error, Kind, Result};
use crate::net::http::{Request, Response};
use crate::services::replication::Replica;
use crate::store::db;

/// How long a read waits for the state that it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// States that one request may want.
const STATES_MAX: usize = 16;
const VERSION: &str = "X-Vski-Version";

/// Turns what a handler does into an answer.
pub fn answer(app: &App, request: &Request, handle: impl FnOnce() -> Result<Response>) -> Response {
    // What this thread wrote for others is no business of this request.
    db::take_commit_positions();
    let result = handle();
    let marks = db::take_commit_positions();
    let response = match result {
        Ok(response) => response,
        Err(error) if error.kind() == Kind::ReadOnly => refuse_write(app, &error),
        Err(error) => answer_error(request, &error),
    };
    let response = match app.replica() {
        Some(_) => response.with_header("X-Replica-Id", &*app.node_id),
        None => response,
    };
    if marks.is_empty() {
        return response;
    }
    let marks: Vec<String> = marks
        .iter()
        .map(|mark| format!("{}:{}", mark.history, mark.version))
        .collect();
    response.with_header(VERSION, marks.join(", "))
}

/// Where a request to a replica is sent; none when it is answered here.
pub fn redirect(
    replica: &Replica,
    on_replica: OnReplica,
    request: &Request,
) -> Result<Option<Response>> {
    match on_replica {
        OnReplica::Refuse => Err(Error::read_only()),
        OnReplica::Own => Ok(None),
        OnReplica::Serve => {
            let wanted = request.headers.iter();
            let wanted = wanted.filter(|(name, _)| name.eq_ignore_ascii_case(VERSION));
            let states = wanted.flat_map(|(_, value)| value.split(','));
            let deadline = Instant::now() + PATIENCE;
            for state in states
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .take(STATES_MAX)
            {
                let (name, tag, version) = parse(state).ok_or_else(|| {
                    Error::invalid(format!("{VERSION} is what the answer to a write has."))
                })?;
                if !replica.wait_for(name, tag, version, deadline) {
                    return Ok(Some(to_master(replica, request)));
                }
            }
            Ok(None)
        }
    }
}

fn parse(state: &str) -> Option<(&str, &str, u64)> {
    let (rest, version) = state.rsplit_once(':')?;
    let (name, tag) = rest.split_once(':')?;
    Some((name, tag, version.parse().ok()?))
}

fn to_master(replica: &Replica, request: &Request) -> Response {
    let query = match request.query.as_str() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let url = format!("{}{}{query}", replica.client.master_url, request.path);
    Response::empty(307)
        .with_header("Location", url)
        .with_header("Cache-Control", "no-store")
}

fn refuse_write(app: &App, error: &Error) -> Response {
    let mut body = error_json(error);
    body["code"] = "read_only".into();
    body["master"] = app
        .replica()
        .map(|replica| replica.client.master_url.clone())
        .into();
    json_response(error.kind().status(), &body)
}
