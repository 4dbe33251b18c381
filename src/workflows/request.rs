//! What is asked for in JSON, over HTTP and in frames alike: the wish for a run, times, raw values.

use serde::Deserialize;
use serde::Deserializer;
use serde_json::Map;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock;
use crate::error::Error;
use crate::error::Result;
use crate::workflows::runs::NewRun;

/// A point in time: milliseconds since 1970, or RFC 3339.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Ms(i64),
    Text(String),
}

/// A wish for a run.
#[derive(Deserialize)]
pub struct RunRequest {
    workflow: String,
    #[serde(default, deserialize_with = "present")]
    input: Option<Box<RawValue>>,
    version: Option<String>,
    #[serde(alias = "idempotencyKey")]
    idempotency_key: Option<String>,
    #[serde(alias = "concurrencyKey")]
    concurrency_key: Option<String>,
    #[serde(default)]
    priority: i64,
    #[serde(alias = "runAt")]
    run_at: Option<Time>,
    #[serde(alias = "expiresAt")]
    expires_at: Option<Time>,
    attributes: Option<Box<RawValue>>,
}

/// A value that is there, `null` too: an `Option` alone takes `null` for nothing.
pub fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl RunRequest {
    /// Its attributes as JSON.
    pub fn attributes(&self) -> &str {
        self.attributes.as_ref().map_or("{}", |text| text.get())
    }

    /// The run that is wanted.
    pub fn into_run(self) -> Result<NewRun> {
        let attributes: Map<String, Value> =
            serde_json::from_str(self.attributes()).map_err(|error| {
                Error::field(
                    "attributes",
                    "validation_invalid_value",
                    format!("Must be an object: {error}."),
                )
            })?;
        Ok(NewRun {
            version: self.version,
            idempotency_key: self.idempotency_key,
            concurrency_key: self.concurrency_key,
            priority: self.priority,
            run_at: ms("runAt", self.run_at)?,
            expires_at: ms("expiresAt", self.expires_at)?,
            attributes,
            ..NewRun::new(
                &self.workflow,
                self.input.as_ref().map_or("null", |input| input.get()),
            )
        })
    }
}

/// A point in time as text: milliseconds since 1970, or RFC 3339.
pub fn ms_of(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| clock::parse_datetime(text))
}

fn ms(field: &'static str, time: Option<Time>) -> Result<Option<i64>> {
    match time {
        None => Ok(None),
        Some(Time::Ms(ms)) => Ok(Some(ms)),
        Some(Time::Text(text)) => match clock::parse_datetime(&text) {
            Some(ms) => Ok(Some(ms)),
            None => Err(Error::field(
                field,
                "validation_invalid_date",
                "Must be a time such as 2030-01-31T12:00:00Z, or milliseconds since 1970.",
            )),
        },
    }
}
