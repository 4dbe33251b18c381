//! Files, as the master serves them to replicas: the journal, the manifest, contents and
//! acknowledgements.
//!
//! A replica sends a token with the purpose `replica`, signed with the secret that both servers
//! share. The token names the replica, and `X-Replica-Id` repeats the name.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::json_response;
use super::call::Call;
use super::files;
use super::parameters::parameter;
use crate::base::error::{Error, Kind, Result};
use crate::net::http::Response;
use crate::store::files::{FilePath, Journal, journal, table};

/// The entries of the journal after `since`.
pub fn list(call: &Call<'_>) -> Result<Response> {
    let (_, journal) = admit(call)?;
    let pairs = call.query()?;
    let since = parameter(&pairs, "since").unwrap_or("0");
    let since: i64 = since
        .parse()
        .ok()
        .filter(|since| *since >= 0)
        .ok_or_else(|| Error::invalid("since must be the id of an entry of the journal, or 0."))?;
    let is_other = parameter(&pairs, "epoch").is_some_and(|epoch| epoch != journal.epoch());
    let stretch = match is_other {
        true => None,
        false => journal.since(since)?,
    };
    let Some(stretch) = stretch else {
        return Err(Error::new(
            Kind::Gone,
            "The journal no longer has the entries after since; request the manifest.",
        ));
    };
    let next = stretch.entries.last().map_or(since, |entry| entry.id);
    let body = json!({
        "epoch": journal.epoch(),
        "oldest": stretch.oldest,
        "last": stretch.last,
        "entries": stretch.entries,
        "next": next,
    });
    Ok(json_response(200, &body))
}

/// All files whose path is greater than `after`.
pub fn manifest(call: &Call<'_>) -> Result<Response> {
    let (_, journal) = admit(call)?;
    let pairs = call.query()?;
    let after = parameter(&pairs, "after").filter(|after| !after.is_empty());
    let after = after.map(|text| {
        FilePath::parse(text).ok_or_else(|| Error::invalid("after must be the path of a file."))
    });
    // Read first: the journal has the changes of files during this request after this entry.
    let last = journal.last()?;
    let files = journal::manifest(&call.app.databases, after.transpose()?.as_ref())?;
    let next = match files.len() {
        journal::PAGE => files.last().map(|(path, _)| path.to_string()),
        _ => None,
    };
    let entries: Vec<Value> = files
        .iter()
        .map(|(path, file)| {
            json!({"path": path.to_string(), "size": file.size, "sha256": file.sha256})
        })
        .collect();
    // Read last: a database in this list existed when the entries were read.
    let mut databases = call.app.databases.list()?;
    databases.sort();
    let body = json!({
        "epoch": journal.epoch(),
        "last": last,
        "entries": entries,
        "databases": databases,
        "next": next,
    });
    Ok(json_response(200, &body))
}

/// The bytes of a file.
pub fn file(call: &Call<'_>) -> Result<Response> {
    admit(call)?;
    // Not 404, which may be from a proxy: the replica acts on this answer for good.
    let no_file = || Error::new(Kind::Gone, "There is no such file.");
    let parts = ["database", "collection", "record", "file"].map(|name| call.param(name));
    let path = FilePath::parse(&parts.join("/")).ok_or_else(no_file)?;
    let database = match call.app.databases.get(&path.database) {
        Err(error) if error.kind() == Kind::NotFound => return Err(no_file()),
        database => database?,
    };
    let stored = database
        .look_up(|it| table::find(it, &path.collection, &path.record, &path.name))?
        .ok_or_else(no_file)?;
    let response = files::content(call, &path, &stored)?;
    Ok(response
        .with_header("Content-Type", "application/octet-stream")
        .with_header("Cache-Control", "no-store"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledgement {
    id: i64,
    #[serde(default)]
    epoch: Option<String>,
}

/// Records that a replica has durably stored every file up to an entry.
pub fn acknowledge(call: &Call<'_>) -> Result<Response> {
    let (replica, journal) = admit(call)?;
    let body: Acknowledgement = call.body()?;
    if body.epoch.is_some_and(|epoch| epoch != journal.epoch()) {
        return Err(Error::conflict(
            "The epoch of the journal has changed; request the manifest.",
        ));
    }
    let last = journal.last()?;
    if !(0..=last).contains(&body.id) {
        return Err(Error::invalid(format!(
            "id is beyond the last entry of the journal, {last}."
        )));
    }
    call.app.acknowledge_files(replica, journal, body.id)?;
    Ok(json_response(200, &json!({})))
}

/// The name of the replica that asks, and what it asks about.
fn admit<'a>(call: &'a Call<'_>) -> Result<(&'a str, &'a Journal)> {
    let replica = call.register_replica()?;
    let journal = call.app.files.journal.as_ref().ok_or_else(|| {
        Error::conflict("The files of this server are in S3 and are not replicated.")
    })?;
    Ok((replica, journal))
}
