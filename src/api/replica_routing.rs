//! Replication as clients see it: a replica refuses writes, names itself in every answer, and can
//! wait for a write of the master.
//!
//! Once replicas follow, the answer to a write has `X-Vski-Version: database:history:number`, or
//! several of these separated by commas. A client that sends the value back with a read on a
//! replica gets the answer when the replica has reached that version, or from the master after
//! [`VERSION_TIMEOUT`].

use std::time::{Duration, Instant};

use super::answer::{answer_error, error_json, json_response};
use super::routes::OnReplica;
use crate::app::App;
use crate::base::error::{Error, Kind, Result};
use crate::net::http::{Request, Response};
use crate::services::replication::Replica;
use crate::store::db;

/// A read waits this long for the version that it needs.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit on the versions that one request may name.
const VERSIONS_MAX: usize = 16;
const VERSION: &str = "X-Vski-Version";

/// Runs a handler and turns its result into an answer, with the headers of replication.
pub fn answer(app: &App, request: &Request, handle: impl FnOnce() -> Result<Response>) -> Response {
    // Discards the positions of commits that this thread made for other requests.
    db::take_commit_positions();
    let result = handle();
    let positions = db::take_commit_positions();
    let response = match result {
        Ok(response) => response,
        Err(error) if error.kind() == Kind::ReadOnly => refuse_write(app, &error),
        Err(error) => answer_error(request, &error),
    };
    let response = match app.replica() {
        Some(_) => response.with_header("X-Replica-Id", &*app.node_id),
        None => response,
    };
    if positions.is_empty() {
        return response;
    }
    let positions: Vec<String> = positions
        .iter()
        .map(|position| format!("{}:{}", position.history, position.version))
        .collect();
    response.with_header(VERSION, positions.join(", "))
}

/// The redirect to the master; none if this replica answers. An error if the endpoint writes.
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
            let versions = wanted.flat_map(|(_, value)| value.split(','));
            let deadline = Instant::now() + VERSION_TIMEOUT;
            for item in versions
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .take(VERSIONS_MAX)
            {
                let (name, tag, version) = parse(item).ok_or_else(|| {
                    Error::invalid(format!(
                        "Invalid {VERSION}: send the value from the answer to a write."
                    ))
                })?;
                if !replica.wait_for(name, tag, version, deadline) {
                    return Ok(Some(to_master(replica, request)));
                }
            }
            Ok(None)
        }
    }
}

fn parse(item: &str) -> Option<(&str, &str, u64)> {
    let (rest, version) = item.rsplit_once(':')?;
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
