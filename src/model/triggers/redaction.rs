//! Redaction of secrets of targets: clients write them and never read them back.
//!
//! Responses show [`PLACEHOLDER`] instead of a signing secret and of header values. A client that
//! sends it back keeps the stored value. It is refused where no value is stored, so it never
//! becomes a value itself, and a stored value never moves to another URL of a list.

use serde_json::{Map, Value};

use super::invalid_value;
use crate::base::error::Result;

pub const PLACEHOLDER: &str = "***";
const SECRET: &str = "secret";
const HEADERS: &str = "headers";
const TRIGGERS: &str = "triggers";

/// True for a header whose value is no secret.
fn is_public(header: &str) -> bool {
    header.eq_ignore_ascii_case("content-type")
}

/// Redacts the secret and the headers of a target.
pub fn redact(target: &mut Map<String, Value>) {
    if let Some(secret) = target.get_mut(SECRET).filter(|secret| !secret.is_null()) {
        *secret = Value::from(PLACEHOLDER);
    }
    if let Some(Value::Object(headers)) = target.get_mut(HEADERS) {
        for (header, value) in headers {
            if !is_public(header) {
                *value = Value::from(PLACEHOLDER);
            }
        }
    }
}

/// Replaces placeholders by stored values. An error names the attribute below `name`.
pub fn restore(
    name: &str,
    target: &mut Map<String, Value>,
    stored: Option<&Map<String, Value>>,
) -> Result<()> {
    let at = |key: &str| match name {
        "" => key.to_owned(),
        name => format!("{name}.{key}"),
    };
    let is_hidden = |value: &Value| value.as_str() == Some(PLACEHOLDER);
    let missing = |key: &str, what: &str| {
        let message = format!(
            "{PLACEHOLDER} keeps a stored value, but {what} has none; send the value itself."
        );
        invalid_value(at(key), message)
    };
    if let Some(secret) = target.get_mut(SECRET).filter(|secret| is_hidden(secret)) {
        let kept = stored
            .and_then(|it| it.get(SECRET))
            .filter(|it| !it.is_null());
        *secret = kept.cloned().ok_or_else(|| missing(SECRET, "the secret"))?;
    }
    let Some(Value::Object(headers)) = target.get_mut(HEADERS) else {
        return Ok(());
    };
    let kept = stored
        .and_then(|it| it.get(HEADERS))
        .and_then(Value::as_object);
    for (header, value) in headers.iter_mut().filter(|(_, value)| is_hidden(value)) {
        let same = |(name, _): &(&String, &Value)| name.eq_ignore_ascii_case(header);
        let found = kept.and_then(|kept| kept.iter().find(same));
        *value = found
            .map(|(_, value)| value.clone())
            .ok_or_else(|| missing(HEADERS, header))?;
    }
    Ok(())
}

/// Redacts the triggers in the options of a collection.
pub fn redact_triggers(options: &mut Map<String, Value>) {
    let Some(Value::Array(triggers)) = options.get_mut(TRIGGERS) else {
        return;
    };
    for trigger in triggers.iter_mut().filter_map(Value::as_object_mut) {
        redact(trigger);
    }
}

/// Replaces placeholders in the triggers of new options. A trigger takes the values of the stored
/// one with the same redacted form, or else of one with the same URL.
pub fn restore_triggers(
    options: &mut Map<String, Value>,
    stored: &Map<String, Value>,
) -> Result<()> {
    let Some(Value::Array(triggers)) = options.get_mut(TRIGGERS) else {
        return Ok(());
    };
    let stored = stored.get(TRIGGERS).and_then(Value::as_array);
    let stored: Vec<&Map<String, Value>> = stored
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .collect();
    for (at, trigger) in triggers.iter_mut().enumerate() {
        let Value::Object(trigger) = trigger else {
            continue;
        };
        let looks_same = |it: &&&Map<String, Value>| {
            let mut shown = Map::clone(it);
            redact(&mut shown);
            shown == *trigger
        };
        let has_same_url = |it: &&&Map<String, Value>| it.get("url") == trigger.get("url");
        let before = stored.iter().find(looks_same);
        let before = before.or_else(|| stored.iter().find(has_same_url)).copied();
        restore(&format!("options.{TRIGGERS}.{at}"), trigger, before)?;
    }
    Ok(())
}

/// Copies the stored triggers into options that do not mention triggers.
pub fn inherit_triggers(options: &mut Map<String, Value>, stored: &Map<String, Value>) {
    if let Some(triggers) = stored.get(TRIGGERS)
        && !options.contains_key(TRIGGERS)
    {
        options.insert(TRIGGERS.to_owned(), triggers.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(triggers: &Value) -> Map<String, Value> {
        let options = json!({ "triggers": triggers });
        options.as_object().unwrap().clone()
    }

    fn stored() -> Map<String, Value> {
        options(&json!([
            {"action": "create", "url": "http://a", "secret": "s1", "headers": {"X": "1"}},
            {"action": "delete", "url": "http://a", "secret": "s2",
             "headers": {"X": "2", "Content-Type": "text/x"}},
            {"action": "*", "workflow": "w"},
            {"action": "*", "url": "http://b", "secret": null, "headers": null},
        ]))
    }

    #[test]
    fn what_was_shown_can_be_sent_back() {
        let mut shown = stored();
        redact_triggers(&mut shown);
        let text = Value::from(shown.clone()).to_string();
        assert!(!text.contains("s1") && !text.contains(r#""2""#), "{text}");
        assert_eq!(shown["triggers"][1]["headers"]["Content-Type"], "text/x");
        restore_triggers(&mut shown, &stored()).unwrap();
        assert_eq!(shown, stored());
        // In another order, and with one of two triggers of the same URL.
        let mut shown = stored();
        redact_triggers(&mut shown);
        let mut less = options(&json!([shown["triggers"][3], shown["triggers"][1]]));
        restore_triggers(&mut less, &stored()).unwrap();
        assert_eq!(less["triggers"][1], stored()["triggers"][1]);
    }

    #[test]
    fn a_hidden_value_is_kept_only_where_it_was() {
        for (trigger, name) in [
            (json!({"url": "http://c", "secret": "***"}), "secret"),
            (json!({"url": "http://b", "secret": "***"}), "secret"),
            (
                json!({"url": "http://c", "headers": {"X": "***"}}),
                "headers",
            ),
            (
                json!({"url": "http://a", "headers": {"Y": "***"}}),
                "headers",
            ),
            (json!({"workflow": "w", "secret": "***"}), "secret"),
        ] {
            let error = restore_triggers(&mut options(&json!([trigger])), &stored()).unwrap_err();
            let name = format!("options.triggers.0.{name}");
            assert!(
                error.field_errors().contains_key(&name),
                "{trigger}: {error}"
            );
        }
        let mut changed = options(&json!([
            {"action": "*", "url": "http://a", "secret": "new", "headers": {"x": "***", "Z": "z"}}
        ]));
        restore_triggers(&mut changed, &stored()).unwrap();
        let changed = &changed["triggers"][0];
        assert_eq!(changed["secret"], "new");
        assert_eq!(changed["headers"], json!({"x": "1", "Z": "z"}));
    }
}
