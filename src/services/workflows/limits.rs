//! Limits, and checks of names and values.

use serde_json::{Map, Value};

use crate::base::error::{Error, Kind, Result};
use crate::base::ids::{self, WORKFLOW_BYTES_MAX};

/// Entries in the journal of a run.
pub const EVENTS_MAX: i64 = 50_000;
/// Levels of child runs.
pub const DEPTH_MAX: i64 = 32;
/// Bytes of one input, output, error or payload.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Runs in one bulk action.
pub const BULK_MAX: usize = 1_000;
/// Workers lost in a row after which a run fails.
pub const LOST_MAX: i64 = 20;
/// Failures of a step, or of a whole run that asks for a retry, that are tried again.
pub const RETRIES: i64 = 3;
/// Unfinished runs started under the rules of collections by one account, by one network without
/// credentials, and by all networks together.
pub const OF_ACCOUNT_MAX: i64 = 100;
pub const OF_NETWORK_MAX: i64 = 20;
pub const OF_NETWORKS_MAX: i64 = 500;
/// The longest delay of the start of such a run; milliseconds.
pub const AHEAD_MS_MAX: i64 = 24 * 3_600_000;
/// The longest delay of anything, and the longest pause between two attempts; milliseconds.
pub const YEARS_MS: i64 = 100 * 366 * 24 * 3_600_000;

const KEY_BYTES_MAX: usize = 256;
const VERSION_BYTES_MAX: usize = 64;
pub const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_BYTES_MAX: usize = 4 << 10;
const PRIORITY_MAX: i64 = 100;

/// Refuses an invalid name of a workflow.
pub fn check_workflow(name: &str) -> Result<()> {
    if ids::is_valid_workflow(name) {
        return Ok(());
    }
    Err(Error::field(
        "workflow",
        "validation_invalid_name",
        format!("Must be 1 to {WORKFLOW_BYTES_MAX} of A-Z, a-z, 0-9, ., _, : and -."),
    ))
}

/// Refuses an invalid version.
pub fn check_version(version: &str) -> Result<()> {
    check_text("version", version, VERSION_BYTES_MAX)
}

/// Refuses an invalid key, token or name within a run.
pub fn check_key(field: &'static str, key: &str) -> Result<()> {
    check_text(field, key, KEY_BYTES_MAX)
}

fn check_text(field: &'static str, text: &str, bytes_max: usize) -> Result<()> {
    if (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::field(
        field,
        "validation_length",
        format!("Must have 1 to {bytes_max} bytes and no control characters."),
    ))
}

/// Refuses JSON that is too large.
pub fn check_payload(field: &'static str, json: &str) -> Result<()> {
    if json.len() <= PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        Kind::TooLarge,
        format!("{field} may have at most {} MiB.", PAYLOAD_BYTES_MAX >> 20),
    ))
}

pub fn check_priority(priority: i64) -> Result<()> {
    if (-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
        return Ok(());
    }
    Err(Error::field(
        "priority",
        "validation_out_of_range",
        format!("Must be -{PRIORITY_MAX} to {PRIORITY_MAX}."),
    ))
}

pub fn check_attributes(attributes: &Map<String, Value>) -> Result<()> {
    let refuse = |message: String| {
        Err(Error::field(
            "attributes",
            "validation_out_of_range",
            message,
        ))
    };
    if attributes.len() > ATTRIBUTES_MAX {
        return refuse(format!("Must be at most {ATTRIBUTES_MAX}."));
    }
    for (name, value) in attributes {
        check_text("attributes", name, VERSION_BYTES_MAX)?;
        if value.to_string().len() > ATTRIBUTE_BYTES_MAX {
            return refuse(format!(
                "{name} may have at most {ATTRIBUTE_BYTES_MAX} bytes."
            ));
        }
    }
    Ok(())
}

/// Refuses a time too far in the future; a negative time becomes 0.
pub fn check_time(field: &'static str, ms: i64, now_ms: i64) -> Result<i64> {
    if ms.saturating_sub(now_ms) > YEARS_MS {
        return Err(Error::field(
            field,
            "validation_out_of_range",
            "Must be a time within the next 100 years.",
        ));
    }
    Ok(ms.max(0))
}
