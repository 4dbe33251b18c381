//! Answers in JSON, and the one form of an error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::base::error::{Error, Kind};
use crate::base::log;
use crate::net::http::{Request, Response};

/// Answers sent, by the first digit of their status.
#[derive(Default)]
pub struct StatusCounts([AtomicU64; 5]);

impl StatusCounts {
    const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

    pub fn count(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.0[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Each class with its number of answers.
    pub fn by_class(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Self::CLASSES.into_iter().zip(counts)
    }
}

/// The answer to an error. Faults of the server are logged with their whole chain; those of clients
/// are not.
pub fn answer_error(request: &Request, error: &Error) -> Response {
    match error.kind() {
        Kind::Internal => log::error(format_args!(
            "request failed id={} error={error}",
            request.id
        )),
        Kind::Unavailable | Kind::WrongServer => log::warn(format_args!(
            "request refused id={} error={error}",
            request.id
        )),
        _ => {}
    }
    error_response(error)
}

/// The answer to an error, without logging it.
pub fn error_response(error: &Error) -> Response {
    let response = json_response(error.kind().status(), &error_json(error));
    match error.kind() {
        Kind::Unavailable | Kind::WrongServer | Kind::TooMany | Kind::TooEarly | Kind::Stale => {
            let pause = error.retry_after().unwrap_or(Duration::from_secs(1));
            let seconds = pause.as_millis().div_ceil(1000);
            response.with_header("Retry-After", seconds.to_string())
        }
        _ => response,
    }
}

/// The body of an error, in PocketBase's form.
pub fn error_json(error: &Error) -> Value {
    let mut data = Map::new();
    for (name, field) in error.field_errors() {
        let names: Vec<&str> = name.split('.').collect();
        let detail = json!({"code": field.code, "message": field.message});
        nest(&mut data, &names, detail);
    }
    if let Some((at, error)) = error.part() {
        let failed = json!({
            "code": "batch_request_failed",
            "message": "Batch request failed.",
            "response": error_json(error),
        });
        data.insert("requests".to_owned(), json!({at.to_string(): failed}));
    }
    json!({"status": error.kind().status(), "message": error.message(), "data": data})
}

/// Adds the error of an attribute within others: `fields.3.name` is in `fields`, in `3`.
fn nest(data: &mut Map<String, Value>, names: &[&str], detail: Value) {
    match names {
        [] => {}
        [name] => drop(data.insert((*name).to_owned(), detail)),
        [name, rest @ ..] => {
            let inner = data.entry(*name).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                nest(inner, rest, detail);
            }
        }
    }
}

pub fn json_response(status: u16, body: &Value) -> Response {
    Response::json(status, body.to_string().into_bytes())
}

/// Forbids caches to keep an answer.
pub fn no_store(response: Response) -> Response {
    response.with_header("Cache-Control", "no-store")
}

pub fn body_too_large(bytes_max: u64) -> Error {
    let most = match bytes_max {
        small if small < 1 << 20 => format!("{} KiB", small >> 10),
        large => format!("{} MiB", large >> 20),
    };
    Error::new(
        Kind::TooLarge,
        format!("The request body is too large: the limit is {most}."),
    )
}

pub fn forbidden(message: &str) -> Error {
    Error::new(Kind::Forbidden, message)
}

pub fn no_path() -> Error {
    Error::no_endpoint()
}
