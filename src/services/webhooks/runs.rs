//! Workflows as targets: starts a run instead of making a call.

use serde_json::Value;

use super::core::Attempt;
use super::queue::QueuedCall;
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::services::workflows::NewRun;

/// Starts a run and returns a JSON object with its `runId`.
pub type StartRun = Box<dyn Fn(NewRun) -> Result<String> + Send + Sync>;

/// Starts the run of a row. With the idempotency key, a second attempt finds the run of the first.
/// The time in the key distinguishes a database from an earlier one of the same name.
pub fn start(
    start: &StartRun,
    database: &str,
    row: &QueuedCall,
    workflow: &str,
    input: Option<&Value>,
) -> Attempt {
    let input = match input {
        Some(input) => format!("[{input}]"),
        None => format!("[{}]", row.payload),
    };
    let mut run = NewRun::new(workflow, &input);
    let key = format!("outbox/{database}/{}/{}", row.id, row.created_ms);
    run.idempotency_key = Some(key);
    let mut about = vec![("database", database), ("startedBy", "trigger")];
    if !row.collection.is_empty() {
        about.extend([("collection", &*row.collection), ("record", &row.record)]);
    }
    for (name, value) in about {
        run.attributes.insert(name.to_owned(), Value::from(value));
    }
    let answer = run.check(clock::now_ms()).and_then(|()| start(run));
    match answer.and_then(|text| run_of(&text)) {
        Ok(run) => Attempt::Started { run },
        Err(error) => {
            let text = format!("The run was not started: {}", error.message());
            match error.kind() {
                Kind::Invalid | Kind::TooLarge | Kind::Forbidden => Attempt::Rejected(text),
                _ => Attempt::Failed(text),
            }
        }
    }
}

fn run_of(answer: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(answer)?;
    let run = answer["runId"].as_str();
    run.map(str::to_owned)
        .ok_or_else(|| Error::internal("a run without an id"))
}
