//! The kinds of changes of records.

use std::fmt;

use serde_json::Value;

use super::attributes::invalid_value;
use crate::base::error::Result;

/// A kind of change of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordAction {
    Create,
    Update,
    Delete,
}

impl RecordAction {
    pub const ALL: [RecordAction; 3] = [
        RecordAction::Create,
        RecordAction::Update,
        RecordAction::Delete,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RecordAction::Create => "create",
            RecordAction::Update => "update",
            RecordAction::Delete => "delete",
        }
    }

    /// Reads one action, `*`, or a list of actions.
    pub fn parse_some(name: &str, value: &Value) -> Result<Vec<RecordAction>> {
        let one = |value: &Value| {
            let text = value.as_str();
            RecordAction::ALL
                .into_iter()
                .find(|it| text == Some(it.name()))
        };
        let found = match value {
            Value::String(text) if text == "*" => Some(RecordAction::ALL.to_vec()),
            Value::Array(list) if !list.is_empty() => list.iter().map(one).collect(),
            value => one(value).map(|it| vec![it]),
        };
        let found = found.ok_or_else(|| {
            invalid_value(name, "Must be create, update, delete, a list of them or *.")
        })?;
        // Each action once: the list is stored, and searched at every write.
        let is_named = |action: &RecordAction| found.contains(action);
        Ok(RecordAction::ALL.into_iter().filter(is_named).collect())
    }
}

impl fmt::Display for RecordAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
