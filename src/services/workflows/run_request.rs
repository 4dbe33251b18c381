//! JSON in requests and frames alike: parameters of runs, times, raw values.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, IgnoredAny, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::services::workflows::limits;
use crate::services::workflows::runs::NewRun;

/// Milliseconds. A number may have a fraction, as some languages always write one; it is rounded
/// up.
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

/// A time: milliseconds since 1970, or RFC 3339.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Ms(Ms),
    Text(String),
}

/// The parameters of a run as a client sends them.
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

/// The names of the fields of [`RunRequest`].
const NAMES: [&str; 13] = [
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
];

/// Reads a value that may be `null`: a plain `Option` would read `null` as absent.
pub fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// The record that a run is about, if any.
#[derive(Default)]
pub struct RecordRef {
    pub collection: Option<String>,
    pub record: Option<String>,
}

/// The body of a request for a run over HTTP, parsed in one pass, or the first unknown field name.
/// An unknown field may be misspelt, and its value would be ignored.
pub struct Submission(std::result::Result<(RunRequest, RecordRef), String>);

impl Submission {
    pub fn check(self) -> Result<(RunRequest, RecordRef)> {
        self.0
            .map_err(|name| Error::field(name, "validation_unknown", "Unknown field."))
    }
}

impl<'de> Deserialize<'de> for Submission {
    fn deserialize<D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Submission, D::Error> {
        deserializer.deserialize_map(SubmissionVisitor)
    }
}

struct SubmissionVisitor;

impl<'de> Visitor<'de> for SubmissionVisitor {
    type Value = Submission;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> std::result::Result<Submission, M::Error> {
        let mut fields = Fields {
            map,
            about: RecordRef::default(),
            unknown: None,
            is_read: false,
        };
        let run = RunRequest::deserialize(MapAccessDeserializer::new(&mut fields));
        match fields.unknown {
            // The unknown field may be a misspelling of the missing one.
            Some(name) if fields.is_read => Ok(Submission(Err(name))),
            _ => Ok(Submission(Ok((run?, fields.about)))),
        }
    }
}

/// The fields of a [`RunRequest`] among those of a submission.
struct Fields<M> {
    map: M,
    about: RecordRef,
    unknown: Option<String>,
    /// All fields are read, so a later error is a missing field.
    is_read: bool,
}

impl<'de, M: MapAccess<'de>> Fields<M> {
    fn read_text(
        map: &mut M,
        name: &'static str,
        value: &mut Option<String>,
    ) -> std::result::Result<(), M::Error> {
        if value.is_some() {
            return Err(de::Error::duplicate_field(name));
        }
        *value = map.next_value()?;
        Ok(())
    }
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Fields<M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> std::result::Result<Option<K::Value>, M::Error> {
        while let Some(name) = self.map.next_key::<String>()? {
            match name.as_str() {
                "collection" => {
                    Fields::read_text(&mut self.map, "collection", &mut self.about.collection)?;
                }
                "record" => Fields::read_text(&mut self.map, "record", &mut self.about.record)?,
                known if NAMES.contains(&known) => {
                    return seed.deserialize(name.into_deserializer()).map(Some);
                }
                _ => {
                    self.map.next_value::<IgnoredAny>()?;
                    self.unknown.get_or_insert(name);
                }
            }
        }
        self.is_read = true;
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> std::result::Result<V::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

impl RunRequest {
    /// The attributes as JSON.
    pub fn attributes(&self) -> &str {
        self.attributes.as_ref().map_or("{}", |text| text.get())
    }

    /// Refuses fields that only workers and administrators may set. [`NewRun::check`] checks the
    /// times.
    pub fn check_outside(&self, now_ms: i64) -> Result<()> {
        for (field, is_given) in [
            ("priority", self.priority.is_some()),
            ("version", self.version.is_some()),
            ("concurrencyKey", self.concurrency_key.is_some()),
            ("expiresAt", self.expires_at.is_some()),
            ("attributes", self.attributes.is_some()),
        ] {
            if is_given {
                let message = "Only administrators and workers may set this field.";
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

    /// Converts to the parameters of a new run.
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

/// Parses a time in a string: milliseconds since 1970, or RFC 3339.
pub fn parse_time(text: &str) -> Option<i64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> std::result::Result<Result<(RunRequest, RecordRef)>, serde_json::Error> {
        serde_json::from_str(json).map(Submission::check)
    }

    #[test]
    fn a_submission_is_a_run_and_its_record() {
        let json =
            r#"{"record": "r", "input": [1,  2], "workflow": "w", "collection": null, "runAt": 5}"#;
        let (run, about) = read(json).unwrap().unwrap();
        assert_eq!(run.workflow, "w");
        assert_eq!(run.input.unwrap().get(), "[1,  2]");
        assert!(matches!(run.run_at, Some(Time::Ms(Ms(5)))));
        assert_eq!(about.record.as_deref(), Some("r"));
        assert_eq!(about.collection, None);
    }

    #[test]
    fn an_unknown_field_is_named_rather_than_the_one_that_is_missing() {
        for json in [
            r#"{"workflw": "w"}"#,
            r#"{"workflow": "w", "workflw": [{"record": 1}]}"#,
        ] {
            let error = read(json).unwrap().map(drop).unwrap_err();
            assert!(error.field_errors().contains_key("workflw"), "{json}");
        }
        for json in [
            "{}",
            "[]",
            r#"{"workflow": 1}"#,
            r#"{"other": 1, "workflow": 1, "priority": 2}"#,
            r#"{"workflow": "w", "record": "a", "record": "b"}"#,
            r#"{"workflow": "w", "collection": 1}"#,
            r#"{"workflow": "w", "workflow": "w"}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}
