//! `GET /api/health`, and what a browser sees at `/`.

use serde_json::json;

use super::Call;
use super::json_response;
use crate::error::Result;
use crate::http::Response;

/// Says that the server answers; the shape is PocketBase's. A replica adds whether it has what its
/// master has.
pub fn get(call: &Call<'_>) -> Result<Response> {
    let data = match call.app.replica() {
        Some(replica) => {
            let behind = replica.seconds_behind();
            json!({"replica": {"complete": replica.is_complete(), "secondsBehind": behind}})
        }
        None => {
            call.database()?;
            json!({})
        }
    };
    let body = json!({"status": 200, "code": 200, "message": "API is healthy.", "data": data});
    Ok(json_response(200, &body))
}

/// A pointer for people who open the address in a browser.
pub fn root(_call: &Call<'_>) -> Result<Response> {
    Ok(Response::text(
        200,
        "vski is running. The API is under /api/; vski routes lists its endpoints.\n",
    ))
}
