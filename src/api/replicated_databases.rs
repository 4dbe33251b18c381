//! Databases, as the master serves them to replicas: versions, pages and notifications; the status
//! of replication.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::json_response;
use super::call::Call;
use super::parameters::parameter;
use super::socket;
use crate::base::budget::Payer;
use crate::base::error::{Error, Result};
use crate::base::{clock, log};
use crate::net::http::range::ByteRange;
use crate::net::http::{Response, range};
use crate::services::replication::comparison::{GroupHashes, parse_wanted};
use crate::services::replication::master::PagesAnswer;
use crate::services::replication::spool::Spool;
use crate::services::replication::{Epoch, Master};
use crate::store::db;

/// Every database with its epoch and version.
pub fn list(call: &Call<'_>) -> Result<Response> {
    let (_, master) = admit(call)?;
    let databases: Vec<Value> = master
        .list()?
        .into_iter()
        .map(|listed| {
            json!({
                "name": listed.name,
                "epoch": listed.epoch.to_string(),
                "version": listed.version,
            })
        })
        .collect();
    let files = match &call.app.files.journal {
        Some(journal) => json!({"epoch": journal.epoch(), "last": journal.last()?}),
        None => Value::Null,
    };
    let schema = db::schema_versions();
    let body = json!({"schema": schema, "databases": databases, "files": files});
    Ok(json_response(200, &body))
}

/// The pages that changed after a version, or all if that is 0.
pub fn pages(call: &Call<'_>) -> Result<Response> {
    let (id, master) = admit(call)?;
    let (epoch, since) = position_of_replica(call)?;
    let name = call.param("name");
    finish_pending_change(call, name);
    if since > 0 {
        return respond(master, master.pages(name, epoch, since)?);
    }
    let pairs = call.query()?;
    let after = parameter(&pairs, "after").map_or(Some(0), |after| after.parse().ok());
    let after = after.ok_or_else(|| Error::invalid("after must be the number of a page."))?;
    // The replica starts over, so an earlier acknowledgement no longer counts.
    call.app.replicas.forget_database(id, name);
    respond(master, master.part(name, epoch, after)?)
}

/// The pages that changed after a version, and those that differ in some groups of pages.
pub fn differing(call: &Call<'_>) -> Result<Response> {
    let (_, master) = admit(call)?;
    let (epoch, since) = position_of_replica(call)?;
    let wanted = parse_wanted(&call.request.body)?;
    finish_pending_change(call, call.param("name"));
    respond(
        master,
        master.differing(call.param("name"), epoch, since, &wanted)?,
    )
}

/// The groups of pages that differ from those of the replica.
pub fn compare(call: &Call<'_>) -> Result<Response> {
    let (_, master) = admit(call)?;
    let groups = GroupHashes::parse(&call.request.body)?;
    let compared = master.compare(call.param("name"), &groups)?;
    let body = json!({
        "epoch": compared.epoch.to_string(),
        "version": compared.version,
        "groups": compared.groups,
    });
    Ok(json_response(200, &body))
}

/// The rest of an answer whose connection broke.
pub fn resume(call: &Call<'_>) -> Result<Response> {
    let (_, master) = admit(call)?;
    let spool = master.spools.get(call.param("tag")).ok_or_else(|| {
        Error::not_found("This answer is no longer kept; repeat the original request.")
    })?;
    let (start, length) = match call.request.header("Range") {
        Some(range) => match range::parse(range, spool.bytes) {
            ByteRange::Full => (0, spool.bytes),
            ByteRange::Part(start, length) => (start, length),
            ByteRange::Unsatisfiable => {
                let whole = format!("bytes */{}", spool.bytes);
                return Ok(Response::empty(416).with_header("Content-Range", whole));
            }
        },
        None => (0, spool.bytes),
    };
    let response = stream(master, 206, &spool, start, length);
    let last = start + length.max(1) - 1;
    let range = format!("bytes {start}-{last}/{}", spool.bytes);
    Ok(response.with_header("Content-Range", range))
}

/// Opens the socket that notifies a replica of changes.
pub fn listen(call: &Call<'_>) -> Result<Response> {
    let (id, _) = admit(call)?;
    let notifier = call.app.notifier().ok_or_else(Error::read_only)?;
    let payer = Payer {
        has_credentials: true,
        ..call.payer()
    };
    socket::upgrade(call, payer, notifier.peer(id))
}

#[derive(Deserialize)]
struct Acknowledgement {
    databases: BTreeMap<String, AcknowledgedPosition>,
}

#[derive(Deserialize)]
struct AcknowledgedPosition {
    epoch: String,
    version: u64,
}

/// Records the versions that a replica has.
pub fn acknowledge(call: &Call<'_>) -> Result<Response> {
    let (id, _) = admit(call)?;
    let body: Acknowledgement = call.body()?;
    let names = call.app.databases.list()?;
    let known = body.databases.into_iter().filter_map(|(name, at)| {
        let epoch = Epoch::parse(&at.epoch)?;
        names
            .contains(&name)
            .then(|| (name, (epoch.tag(), at.version)))
    });
    call.app.replicas.acknowledge_databases(id, known);
    Ok(json_response(200, &json!({})))
}

/// The status of this replica, or of the replicas of this master.
pub fn status(call: &Call<'_>) -> Result<Response> {
    if let Some(replica) = call.app.replica() {
        let body = json!({
            "role": "replica",
            "id": call.app.node_id,
            "replica": replica.status(),
            "damagedFiles": damaged(call),
        });
        return Ok(json_response(200, &body));
    }
    let listed = call.app.master()?.list()?;
    let present: BTreeMap<&str, (String, u64)> = listed
        .iter()
        .map(|it| (it.name.as_str(), (it.epoch.tag(), it.version)))
        .collect();
    let listening = call
        .app
        .notifier()
        .map(|it| it.connected())
        .unwrap_or_default();
    let replicas: Vec<Value> = call
        .app
        .replicas
        .list()
        .into_iter()
        .map(|seen| {
            let databases: Vec<Value> = present
                .iter()
                .map(|(name, (tag, version))| {
                    describe(name, tag, *version, seen.databases.get(*name))
                })
                .collect();
            json!({
                "id": seen.id,
                "publicUrl": seen.public_url,
                "connected": listening.contains(&seen.id),
                "lastSeen": clock::format_ms(seen.seen_ms),
                "secondsSinceSeen": (clock::now_ms() - seen.seen_ms).max(0) / 1000,
                "filesAcknowledged": seen.files_acked,
                "databases": databases,
            })
        })
        .collect();
    let databases: Vec<Value> = present
        .iter()
        .map(|(name, (_, version))| json!({"name": name, "version": version}))
        .collect();
    let body = json!({
        "role": "master",
        "id": call.app.node_id,
        "databases": databases,
        "replicas": replicas,
        "damagedFiles": damaged(call),
    });
    Ok(json_response(200, &body))
}

/// Stored files that were found damaged or missing.
fn damaged(call: &Call<'_>) -> Vec<Value> {
    let (found, _) = call.app.files.scrub.findings();
    found
        .into_iter()
        .map(|(path, word)| json!({"path": path, "state": word}))
        .collect()
}

fn describe(name: &str, tag: &str, version: u64, has: Option<&(String, u64)>) -> Value {
    let has = has.filter(|(epoch, _)| epoch == tag).map(|(_, has)| *has);
    let state = match has {
        Some(has) if has >= version => "current",
        Some(_) => "behind",
        None => "unknown",
    };
    json!({"name": name, "state": state, "version": has, "masterVersion": version})
}

/// Completes a change of definitions that a crash interrupted, which reading them does. A replica
/// cannot do this.
fn finish_pending_change(call: &Call<'_>, name: &str) {
    if let Err(error) = call.app.catalog.collections(name) {
        log::debug(format_args!(
            "complete a change of definitions database={name}: {error}"
        ));
    }
}

/// The epoch and version of the replica, from `epoch` and `since`.
fn position_of_replica(call: &Call<'_>) -> Result<(Epoch, u64)> {
    let pairs = call.query()?;
    let epoch = parameter(&pairs, "epoch").and_then(Epoch::parse);
    let since = parameter(&pairs, "since").and_then(|since| since.parse().ok());
    epoch.zip(since).ok_or_else(|| {
        Error::invalid("epoch must be 32 hexadecimal digits and since the number of a version.")
    })
}

fn respond(master: &Master, answer: PagesAnswer) -> Result<Response> {
    match answer {
        PagesAnswer::UpToDate => Ok(Response::empty(304)),
        PagesAnswer::UnknownVersion => Err(Error::conflict(
            "The histories have diverged; request a full comparison.",
        )),
        PagesAnswer::Stream(spool) => Ok(stream(master, 200, &spool, 0, spool.bytes)),
    }
}

fn stream(master: &Master, status: u16, spool: &Arc<Spool>, start: u64, length: u64) -> Response {
    let reader = Box::new(master.spools.read(spool, start));
    Response::with_stream(status, reader, length)
        .with_header("Content-Type", "application/octet-stream")
        .with_header("Cache-Control", "no-store")
        .with_header("Accept-Ranges", "bytes")
        .with_header("ETag", format!("\"{}\"", spool.tag))
}

/// Refuses the request if this server is not a master; records the contact of the replica.
fn admit<'a>(call: &'a Call<'_>) -> Result<(&'a str, &'a Master)> {
    let master = call.app.master()?;
    Ok((call.register_replica()?, master))
}
