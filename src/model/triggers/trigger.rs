//! The triggers of a collection, in its `options.triggers`.

use serde_json::{Map, Value};

use super::action::RecordAction;
use super::attributes::{invalid_value, refuse_unknown};
use super::target::Target;
use crate::base::error::Result;

/// Largest number of triggers of a collection.
const TRIGGERS_MAX: usize = 20;

/// A call that a collection makes for some kinds of changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pub actions: Vec<RecordAction>,
    pub target: Target,
}

impl Trigger {
    pub fn parse_all(options: &Map<String, Value>) -> Result<Vec<Trigger>> {
        let list = match options.get("triggers") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= TRIGGERS_MAX => list,
            Some(_) => {
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
}
