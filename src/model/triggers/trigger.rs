//! The triggers of a collection, in its `options.triggers`.

use serde_json::{Map, Value};

use super::action::RecordAction;
use super::attributes::{invalid_value, refuse_unknown};
use super::target::Target;
use crate::base::crypto;
use crate::base::error::Result;

/// Largest number of triggers of a collection.
const TRIGGERS_MAX: usize = 20;

/// A call that a collection makes for some kinds of changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pub actions: Vec<RecordAction>,
    pub target: Target,
}

/// The triggers of a collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Triggers {
    list: Vec<Trigger>,
    digest: String,
}

impl Triggers {
    /// Reads `options.triggers`.
    pub fn parse(options: &Map<String, Value>) -> Result<Triggers> {
        let value = match options.get("triggers") {
            None | Some(Value::Null) => return Ok(Triggers::default()),
            Some(value) => value,
        };
        let list = Triggers::parse_list(value)?;
        let digest = match list.is_empty() {
            true => String::new(),
            false => crypto::base64url(&crypto::sha256(value.to_string().as_bytes())),
        };
        Ok(Triggers { list, digest })
    }

    fn parse_list(value: &Value) -> Result<Vec<Trigger>> {
        let list = match value {
            Value::Array(list) if list.len() <= TRIGGERS_MAX => list,
            _ => {
                let message = format!("triggers must be a list of at most {TRIGGERS_MAX}.");
                return Err(invalid_value("options.triggers", message));
            }
        };
        let parsed = list.iter().enumerate().map(|(at, value)| {
            let name = format!("options.triggers.{at}");
            let Value::Object(object) = value else {
                return Err(invalid_value(name, "Must be an object."));
            };
            let mut object = object.clone();
            let action = object.remove("action").unwrap_or_default();
            let trigger = Trigger {
                actions: RecordAction::parse_some(&format!("{name}.action"), &action)?,
                target: Target::extract(&name, &mut object)?,
            };
            refuse_unknown(&name, &object)?;
            Ok(trigger)
        });
        parsed.collect()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Trigger> {
        self.list.iter()
    }

    /// Differs between different triggers; empty if there are none.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
