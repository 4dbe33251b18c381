//! `GET /api/files`: what the files of records use, and which of them need attention.

use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use crate::base::clock;
use crate::base::error::Result;
use crate::net::http::Response;
use crate::store::files::{sweep, table};

/// Orphans and damaged files that are named; all are counted.
const NAMED_MAX: usize = 200;

/// The use by collection of a database. Damaged files and orphans are those of the whole server.
pub fn get(call: &Call<'_>) -> Result<Response> {
    let files = &call.app.files;
    let collections = call.collections()?;
    let used = call.database()?.read_for(call.asker(), table::usage)?;
    let items = used.into_iter().map(|(id, count, bytes)| {
        let name = collections.by_id(&id).map(|it| it.name.as_str());
        json!({"collectionId": id, "collection": name, "files": count, "bytes": bytes})
    });
    let items: Vec<Value> = items.collect();
    let (damaged, checked) = files.scrub.findings();
    let orphans = sweep::orphans(call.app.databases.local())?;
    let named = orphans.iter().take(NAMED_MAX);
    let named = named.map(|(path, ms)| json!({"path": path, "found": clock::format_ms(*ms)}));
    let named: Vec<Value> = named.collect();
    let count = damaged.len();
    let damaged = damaged.into_iter().take(NAMED_MAX);
    let damaged = damaged.map(|(path, state)| json!({"path": path, "state": state}));
    let damaged: Vec<Value> = damaged.collect();
    let body = json!({
        "items": items,
        "checkedFiles": checked,
        "damaged": {"count": count, "items": damaged},
        "orphans": {"count": orphans.len(), "items": named},
    });
    Ok(no_store(json_response(200, &body)))
}
