//! The modifiers of names: `tags:each`, `@request.body.role:changed`.

use crate::base::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modifier {
    /// True if the request has such a value.
    Isset,
    /// True if the body has a value for the field other than that of the record.
    Changed,
    /// The number of values of the field.
    Length,
    /// Each value of the field by itself.
    Each,
    /// The text with ASCII letters in lower case.
    Lower,
}

/// Splits the last name of a path from its modifier.
pub fn split(name: &str) -> Result<(&str, Option<Modifier>)> {
    let Some((plain, modifier)) = name.split_once(':') else {
        return Ok((name, None));
    };
    let modifier = match modifier {
        "isset" => Modifier::Isset,
        "changed" => Modifier::Changed,
        "length" => Modifier::Length,
        "each" => Modifier::Each,
        "lower" => Modifier::Lower,
        _ => return Err(Error::invalid(format!("Unknown modifier in {name}."))),
    };
    Ok((plain, Some(modifier)))
}
