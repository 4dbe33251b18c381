//! What is asked for in JSON, over HTTP and in frames alike: the wish for a run, times, raw values.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock;
use crate::error::Error;
use crate::error::Result;
use crate::workflows::limits;
use crate::workflows::runs::NewRun;

/// Milliseconds. A number may have a fraction, which some languages always write; it is rounded up.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "Number")]
pub struct Ms(pub i64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of milliseconds")]
enum Number {
    Whole(i64),
    Fraction(f64),
}

impl From<Number> for Ms {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is beyond is cut to the most there is"
    )]
    fn from(number: Number) -> Ms {
        Ms(match number {
            Number::Whole(ms) => ms,
            Number::Fraction(ms) => ms.ceil() as i64,
        })
    }
}

/// A point in time: milliseconds since 1970, or RFC 3339.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Ms(Ms),
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
    priority: Option<i64>,
    #[serde(alias = "runAt")]
    run_at: Option<Time>,
    #[serde(alias = "expiresAt")]
    expires_at: Option<Time>,
    attributes: Option<Box<RawValue>>,
}

/// The names that a wish for a run may have over HTTP.
const NAMES: [&str; 15] = [
    "workflow",
    "input",
    "version",
    "idempotencyKey",
    "idempotency_key",
    "concurrencyKey",
    "concurrency_key",
    "priority",
    "runAt",
    "run_at",
    "expiresAt",
    "expires_at",
    "attributes",
    "collection",
    "record",
];

/// A value that is there, `null` too: an `Option` alone takes `null` for nothing.
pub fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// The names in a wish for a run: the first one that means nothing, if there is one. It may be a misspelt
/// one, whose wish would be passed over.
pub struct Names(Option<String>);

impl Names {
    pub fn check(self) -> Result<()> {
        match self.0 {
            None => Ok(()),
            Some(name) => Err(Error::field(
                name,
                "validation_unknown",
                "A run has no such field.",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Names, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Names, M::Error> {
        let mut unknown = None;
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if !NAMES.contains(&name.as_str()) {
                unknown.get_or_insert(name);
            }
        }
        Ok(Names(unknown))
    }
}

impl RunRequest {
    /// Its attributes as JSON.
    pub fn attributes(&self) -> &str {
        self.attributes.as_ref().map_or("{}", |text| text.get())
    }

    /// Refuses what only workers and administrators say about a run. Times are those of [`NewRun::check`].
    pub fn check_outside(&self, now_ms: i64) -> Result<()> {
        for (field, is_given) in [
            ("priority", self.priority.is_some()),
            ("version", self.version.is_some()),
            ("concurrencyKey", self.concurrency_key.is_some()),
            ("expiresAt", self.expires_at.is_some()),
            ("attributes", self.attributes.is_some()),
        ] {
            if is_given {
                let message = "Only administrators and workers set this.";
                return Err(Error::field(field, "validation_not_allowed", message));
            }
        }
        let run_at = ms("runAt", self.run_at.as_ref())?;
        if run_at.is_some_and(|at| at.saturating_sub(now_ms) > limits::AHEAD_MS_MAX) {
            let message = "Must be within the next 24 hours.";
            return Err(Error::field("runAt", "validation_out_of_range", message));
        }
        Ok(())
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
            priority: self.priority.unwrap_or(0),
            run_at: ms("runAt", self.run_at.as_ref())?,
            expires_at: ms("expiresAt", self.expires_at.as_ref())?,
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
    let number = || serde_json::from_str(text).ok().map(|Ms(ms)| ms);
    text.parse()
        .ok()
        .or_else(number)
        .or_else(|| clock::parse_datetime(text))
}

fn ms(field: &'static str, time: Option<&Time>) -> Result<Option<i64>> {
    match time {
        None => Ok(None),
        Some(Time::Ms(Ms(ms))) => Ok(Some(*ms)),
        Some(Time::Text(text)) => match clock::parse_datetime(text) {
            Some(ms) => Ok(Some(ms)),
            None => Err(Error::field(
                field,
                "validation_invalid_date",
                "Must be a time such as 2030-01-31T12:00:00Z, or milliseconds since 1970.",
            )),
        },
    }
}
