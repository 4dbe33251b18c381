//! Answers in JSON, and what an error becomes: one form for all, made in this one place.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::error::{Error, Kind};
use crate::base::log;
use crate::net::http::{Request, Response};

/// Our own faults are logged with their whole chain; a client's are its own business.
pub fn answer_error(request: &Request, error: &Error) -> Response {
    match error.kind() {
        Kind::Internal => log::error(format_args!(
            "request failed id={} error={error}",
            request.id
        )),
        Kind::Unavailable => log::warn(format_args!(
            "request refused id={} error={error}",
            request.id
        )),
        _ => {}
    }
    error_response(error)
}

/// The answer to an error, not logged.
pub fn error_response(error: &Error) -> Response {
    let response = json_response(error.kind().status(), &error_json(error));
    match error.kind() {
        Kind::Unavailable | Kind::TooMany | Kind::TooEarly | Kind::Stale => {
            let pause = error.retry_after().unwrap_or(Duration::from_secs(1));
            let seconds = pause.as_millis().div_ceil(1000);
            response.with_header("Retry-After", seconds.to_string())
        }
        _ => response,
    }
}

/// The one form of an error, as in PocketBase.
pub fn error_json(error: &Error) -> Value {
    let fields: serde_json::Map<String, Value> = error
        .field_errors()
        .iter()
        .map(|(name, field)| {
            (
                name.clone(),
                json!({"code": field.code, "message": field.message}),
            )
        })
        .collect();
    json!({"status": error.kind().status(), "message": error.message(), "data": fields})
}

/// An answer in JSON.
pub fn json_response(status: u16, body: &Value) -> Response {
    Response::json(status, body.to_string().into_bytes())
}
