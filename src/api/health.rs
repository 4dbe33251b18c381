//! `GET /api/health`, and a page for browsers at `/`.

use serde_json::{Value, json};

use super::answer::json_response;
use super::call::{Call, credentials};
use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::model::rules::Identity;
use crate::net::http::Response;

/// Reports that the server is healthy, in PocketBase's form. A replica adds its lag.
pub fn get(call: &Call<'_>) -> Result<Response> {
    if let Some(thread) = threads::first_panicked() {
        return Err(Error::unavailable(format!(
            "The thread {thread} of the server has failed; the server is stopping."
        )));
    }
    let data = match call.app.replica() {
        Some(replica) => {
            let behind = replica.seconds_behind();
            if let Some(most) = seconds_behind_max(call)? {
                refuse_behind(behind, most)?;
            }
            json!({"replica": {"complete": replica.is_complete(), "secondsBehind": behind}})
        }
        None => {
            call.database()?;
            json!({})
        }
    };
    let data = with_admin_part(call, data);
    let body = json!({"status": 200, "code": 200, "message": "API is healthy.", "data": data});
    Ok(json_response(200, &body))
}

/// Adds what admins see, as in PocketBase. Credentials that are not an admin's are ignored here.
fn with_admin_part(call: &Call<'_>, mut data: Value) -> Value {
    let credentials = credentials(call.request);
    if credentials.authorization.is_some()
        && let Ok(Identity::Admin(_)) = call.app.auth.identify(credentials, call.database)
    {
        data["canBackup"] = json!(!call.app.archives.is_busy());
        data["realIP"] = json!(call.client().to_string());
        data["possibleProxyHeader"] = json!("");
    }
    data
}

/// `maxSecondsBehind`, with which a load balancer excludes replicas that lag.
fn seconds_behind_max(call: &Call<'_>) -> Result<Option<u64>> {
    let pairs = call.query()?;
    let Some((_, value)) = pairs.iter().find(|(name, _)| name == "maxSecondsBehind") else {
        return Ok(None);
    };
    let seconds = value.parse();
    seconds
        .map(Some)
        .map_err(|_| Error::invalid("maxSecondsBehind must be a whole number of seconds."))
}

fn refuse_behind(behind: Option<u64>, most: u64) -> Result<()> {
    let state = match behind {
        Some(behind) if behind <= most => return Ok(()),
        Some(behind) => format!("lags up to {behind} s behind its master"),
        None => "has not completed its first sync with its master yet".to_owned(),
    };
    Err(Error::unavailable(format!("This replica {state}.")))
}
