//! What is to be called when something happens: HTTP endpoints and workflows (WH-2, WF-17).
//!
//! A [`Target`] says whom to call and how; a [`Trigger`] adds which changes of records it is for. Triggers of
//! a collection are its `options.triggers`; webhooks that stand for themselves and cron jobs have targets
//! too. `outbox` is the table where every call waits that is to be made: it is filled in the transaction that
//! causes the call, and `webhooks` works it off.

use std::fmt;
use std::net::Ipv6Addr;

use serde_json::{Map, Value, json};

use crate::base::error::{Error, Result};

pub mod hidden;
pub mod outbox;

/// Tries after the first one, when nothing is said, and at most (WH-4).
pub const RETRIES: u32 = 5;
pub const RETRIES_MAX: u32 = 100;
/// Triggers of one collection.
const TRIGGERS_MAX: usize = 20;
const URL_BYTES_MAX: usize = 2048;
const HEADERS_MAX: usize = 20;
const HEADERS_BYTES_MAX: usize = 8 << 10;
/// What is sent in place of the payload. Each call that waits has a copy.
const BODY_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 200;
/// Methods that a call may have.
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];
/// Headers that the sender alone sets.
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// How the signing secret of a receiver begins; base64 follows (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";
/// Bytes that such a secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// What happens to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    Delete,
}

impl Action {
    pub const ALL: [Action; 3] = [Action::Create, Action::Update, Action::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
        }
    }

    /// The actions of a name, of `*`, or of a list of names.
    pub fn parse_some(name: &str, value: &Value) -> Result<Vec<Action>> {
        let one = |value: &Value| {
            let text = value.as_str();
            Action::ALL.into_iter().find(|it| text == Some(it.name()))
        };
        let found = match value {
            Value::String(text) if text == "*" => Some(Action::ALL.to_vec()),
            Value::Array(list) if !list.is_empty() => list.iter().map(one).collect(),
            value => one(value).map(|it| vec![it]),
        };
        let found = found
            .ok_or_else(|| wrong(name, "Must be create, update, delete, a list of them or *."))?;
        // Each once, however often it is named: the list is stored and looked at with every write.
        let is_named = |action: &Action| found.contains(action);
        Ok(Action::ALL.into_iter().filter(is_named).collect())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom to call, and how.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Http(Call),
    /// Starts a run. The input is this, or else the payload, as the only element of an array (WF-2).
    Workflow {
        name: String,
        input: Option<Value>,
        /// Tries after the first one.
        retries: u32,
    },
}

/// An HTTP request that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// `http` or `https`.
    pub url: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    /// Sent in place of the payload.
    pub body: Option<String>,
    /// Tries after the first one.
    pub retries: u32,
    /// Sends a token of this server along (WH-6).
    pub has_token: bool,
    /// What the receiver checks signatures with, in place of the secret of the server.
    pub secret: Option<String>,
}

/// What a collection wants to be called for.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pub actions: Vec<Action>,
    pub target: Target,
}

impl Target {
    /// Takes what it knows out of an object. An error names the attribute below `name`.
    pub fn take(name: &str, object: &mut Map<String, Value>) -> Result<Target> {
        let at = |key: &str| match name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        };
        let retries = take_retries(&at("retryLimit"), object)?;
        let workflow = take_text(&at("workflow"), "workflow", object)?;
        if let Some(workflow) = workflow {
            if object.remove("url").is_some_and(|url| !url.is_null()) {
                return Err(wrong(
                    at("url"),
                    "A workflow is started, or a URL called, not both.",
                ));
            }
            if workflow.len() > NAME_BYTES_MAX {
                return Err(wrong(
                    at("workflow"),
                    format!("At most {NAME_BYTES_MAX} bytes."),
                ));
            }
            let input = object.remove("input").filter(|input| !input.is_null());
            if input
                .as_ref()
                .is_some_and(|input| input.to_string().len() > BODY_BYTES_MAX)
            {
                return Err(too_long(at("input")));
            }
            return Ok(Target::Workflow {
                name: workflow,
                input,
                retries,
            });
        }
        Ok(Target::Http(Call::take(&at, retries, object)?))
    }
    /// Reads what [`Target::to_json`] wrote.
    pub fn restore(text: &str) -> Result<Target> {
        Target::take("", &mut serde_json::from_str(text)?)
    }

    /// The attributes as [`Target::take`] takes them.
    pub fn to_json(&self) -> Map<String, Value> {
        let json = match self {
            Target::Workflow {
                name,
                input,
                retries,
            } => json!({"workflow": name, "input": input, "retryLimit": retries}),
            Target::Http(call) => {
                let headers = call.headers.iter();
                let headers = headers.map(|(name, value)| (name.clone(), json!(value)));
                json!({
                    "url": call.url,
                    "method": call.method,
                    "headers": headers.collect::<Map<String, Value>>(),
                    "body": call.body,
                    "retryLimit": call.retries,
                    "jwtEnabled": call.has_token,
                    "secret": call.secret,
                })
            }
        };
        match json {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// What it is called in lists and logs: the URL, or `workflow:` and a name.
    pub fn label(&self) -> String {
        match self {
            Target::Http(call) => call.url.clone(),
            Target::Workflow { name, .. } => format!("workflow:{name}"),
        }
    }

    /// Who is called: host and port, or `workflow` for all workflows.
    pub fn host(&self) -> String {
        let Target::Http(call) = self else {
            return "workflow".to_owned();
        };
        let (scheme, rest) = call.url.split_once("://").unwrap_or(("", &call.url));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let after_address = host.rsplit(']').next().unwrap_or_default();
        let port = match (after_address.contains(':'), scheme) {
            (true, _) => "",
            (false, "https") => ":443",
            (false, _) => ":80",
        };
        format!("{}{port}", host.to_ascii_lowercase())
    }

    /// Tries after the first one.
    pub fn retries(&self) -> u32 {
        match self {
            Target::Http(call) => call.retries,
            Target::Workflow { retries, .. } => *retries,
        }
    }
}

impl Call {
    /// `at` names an attribute in an error.
    fn take(
        at: &dyn Fn(&str) -> String,
        retries: u32,
        object: &mut Map<String, Value>,
    ) -> Result<Call> {
        let url = take_text(&at("url"), "url", object)?
            .ok_or_else(|| wrong(at("url"), "A url, or a workflow, is needed."))?;
        check_url(&at("url"), &url)?;
        let method = take_text(&at("method"), "method", object)?;
        let method = method.map_or_else(|| "POST".to_owned(), |it| it.to_ascii_uppercase());
        if !METHODS.contains(&method.as_str()) {
            return Err(wrong(
                at("method"),
                format!("Must be one of {}.", METHODS.join(", ")),
            ));
        }
        let mut headers = take_headers(&at("headers"), object)?;
        let kind = take_text(&at("contentType"), "contentType", object)?;
        if let Some(kind) = kind {
            let kind = match kind.as_str() {
                "json" => "application/json".to_owned(),
                "form" => "application/x-www-form-urlencoded".to_owned(),
                "text" => "text/plain; charset=utf-8".to_owned(),
                _ => kind,
            };
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
            headers.push(("Content-Type".to_owned(), kind));
            check_headers(&at("contentType"), &headers)?;
        }
        let body = match object.remove("body") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(value) => Some(value.to_string()),
        };
        if body
            .as_ref()
            .is_some_and(|body| body.len() > BODY_BYTES_MAX)
        {
            return Err(too_long(at("body")));
        }
        let has_token = match object.remove("jwtEnabled") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => flag,
            Some(_) => return Err(wrong(at("jwtEnabled"), "Must be true or false.")),
        };
        let secret = take_text(&at("secret"), "secret", object)?;
        if let Some(secret) = &secret {
            secret_bytes(secret).ok_or_else(|| {
                wrong(at("secret"), "Must be whsec_ and 16 to 64 bytes in base64.")
            })?;
        }
        Ok(Call {
            url,
            method,
            headers,
            body,
            retries,
            has_token,
            secret,
        })
    }
}

impl Trigger {
    /// Reads `options.triggers`.
    pub fn parse_all(options: &Map<String, Value>) -> Result<Vec<Trigger>> {
        let list = match options.get("triggers") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= TRIGGERS_MAX => list,
            Some(_) => {
                let message = format!("triggers must be a list of at most {TRIGGERS_MAX}.");
                return Err(wrong("options.triggers", message));
            }
        };
        let parsed = list.iter().enumerate().map(|(at, value)| {
            let name = format!("options.triggers.{at}");
            let Value::Object(object) = value else {
                return Err(wrong(name, "Must be an object."));
            };
            let mut object = object.clone();
            let action = object.remove("action").unwrap_or_default();
            let trigger = Trigger {
                actions: Action::parse_some(&format!("{name}.action"), &action)?,
                target: Target::take(&name, &mut object)?,
            };
            refuse_rest(&name, &object)?;
            Ok(trigger)
        });
        parsed.collect()
    }
}

/// Refuses what nobody has taken out of an object.
pub fn refuse_rest(name: &str, object: &Map<String, Value>) -> Result<()> {
    match object.keys().next() {
        None => Ok(()),
        Some(key) => Err(wrong(
            if name.is_empty() {
                key.clone()
            } else {
                format!("{name}.{key}")
            },
            "There is no such attribute.",
        )),
    }
}

/// The bytes of a secret in its written form.
pub fn secret_bytes(secret: &str) -> Option<Vec<u8>> {
    let bytes = crate::base::crypto::from_base64(secret.strip_prefix(SECRET_PREFIX)?)?;
    SECRET_BYTES.contains(&bytes.len()).then_some(bytes)
}

/// Takes a text out of an object; an empty one is none.
pub fn take_text(name: &str, key: &str, object: &mut Map<String, Value>) -> Result<Option<String>> {
    match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(wrong(name, "Must be text.")),
    }
}

fn take_retries(name: &str, object: &mut Map<String, Value>) -> Result<u32> {
    let value = match object.remove("retryLimit") {
        None | Some(Value::Null) => return Ok(RETRIES),
        Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    let value = value.filter(|number| (1..=RETRIES_MAX).contains(number));
    value.ok_or_else(|| wrong(name, format!("Must be 1 to {RETRIES_MAX}.")))
}

fn check_url(name: &str, url: &str) -> Result<()> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic()) && url.len() <= URL_BYTES_MAX;
    match host {
        Some(host) if is_plain && is_host(host) => Ok(()),
        _ => Err(wrong(
            name,
            "Must be an http or https URL without a user name.",
        )),
    }
}

/// A name or an address, and a port or none.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = port.is_none_or(|port| {
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        is_number && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_name = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_known),
    };
    is_port && is_name
}

fn take_headers(name: &str, object: &mut Map<String, Value>) -> Result<Vec<(String, String)>> {
    let map = match object.remove("headers") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(wrong(name, "Must be an object from name to text.")),
    };
    let headers = map.into_iter().map(|(header, value)| match value {
        Value::String(value) => Ok((header, value)),
        _ => Err(wrong(name, format!("{header} must be text."))),
    });
    let headers = headers.collect::<Result<Vec<_>>>()?;
    check_headers(name, &headers)?;
    Ok(headers)
}

fn check_headers(name: &str, headers: &[(String, String)]) -> Result<()> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if headers.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
        let message = format!(
            "At most {HEADERS_MAX} headers of {} KiB.",
            HEADERS_BYTES_MAX >> 10
        );
        return Err(wrong(name, message));
    }
    for (header, value) in headers {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let lower = header.to_ascii_lowercase();
        let is_own = OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("webhook-");
        if header.is_empty() || !header.bytes().all(is_token) || is_own {
            return Err(wrong(
                name,
                format!("{header:?} is no header that can be set."),
            ));
        }
        if value.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(wrong(name, format!("{header} must be plain ASCII text.")));
        }
    }
    Ok(())
}

fn too_long(name: String) -> Error {
    wrong(name, format!("At most {} KiB.", BODY_BYTES_MAX >> 10))
}

/// What is wrong with an attribute.
pub fn wrong(name: impl Into<String>, message: impl Into<String>) -> Error {
    Error::field(name.into(), "validation_invalid_value", message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(triggers: &Value) -> Result<Vec<Trigger>> {
        let Value::Object(options) = json!({ "triggers": triggers }) else {
            unreachable!("an object");
        };
        Trigger::parse_all(&options)
    }

    #[test]
    fn the_forms_of_the_public_text_are_read_and_come_back() {
        let triggers = parse(&json!([
            {"action": "create", "url": "https://example.org/a?b=c", "method": "patch",
             "headers": {"X-Key": "v"}},
            {"action": ["update", "delete"], "workflow": "tidy", "retryLimit": 100},
            {"action": "*", "url": "http://[::1]:80", "contentType": "json", "jwtEnabled": true},
        ]))
        .unwrap();
        let Target::Http(call) = &triggers[0].target else {
            panic!("a call");
        };
        assert_eq!((call.method.as_str(), call.retries), ("PATCH", RETRIES));
        assert_eq!(triggers[1].target.label(), "workflow:tidy");
        assert_eq!(triggers[2].actions, Action::ALL);
        for trigger in triggers {
            let text = Value::Object(trigger.target.to_json()).to_string();
            assert_eq!(Target::restore(&text).unwrap(), trigger.target);
        }
    }

    fn refusals() -> Vec<(Value, &'static str)> {
        let url = "http://a";
        vec![
            (json!(1), "options.triggers.0"),
            (json!({"url": url}), "options.triggers.0.action"),
            (
                json!({"action": "created", "url": url}),
                "options.triggers.0.action",
            ),
            (
                json!({"action": [], "url": url}),
                "options.triggers.0.action",
            ),
            (json!({"action": "*"}), "options.triggers.0.url"),
            (
                json!({"action": "*", "workflow": "w", "input": "i".repeat(BODY_BYTES_MAX)}),
                "options.triggers.0.input",
            ),
            (
                json!({"action": "*", "url": url, "workflow": "w"}),
                "options.triggers.0.url",
            ),
            (
                json!({"action": "*", "url": url, "method": "CONNECT"}),
                "options.triggers.0.method",
            ),
            (
                json!({"action": "*", "url": url, "headers": {"Host": "x"}}),
                "options.triggers.0.headers",
            ),
            (
                json!({"action": "*", "url": url, "headers": {"A": "x\ny"}}),
                "options.triggers.0.headers",
            ),
            (
                json!({"action": "*", "url": url, "headers": {"webhook-id": "x"}}),
                "options.triggers.0.headers",
            ),
            (
                json!({"action": "*", "url": url, "retryLimit": 0}),
                "options.triggers.0.retryLimit",
            ),
            (
                json!({"action": "*", "url": url, "retryLimit": 101}),
                "options.triggers.0.retryLimit",
            ),
            (
                json!({"action": "*", "url": url, "secret": "x"}),
                "options.triggers.0.secret",
            ),
            (
                json!({"action": "*", "url": url, "wat": 1}),
                "options.triggers.0.wat",
            ),
        ]
    }

    #[test]
    fn an_action_that_is_named_often_counts_once() {
        let list = Value::from(["update", "create"].repeat(1000));
        let actions = Action::parse_some("actions", &list).unwrap();
        assert_eq!(actions, [Action::Create, Action::Update]);
    }

    #[test]
    fn what_would_not_work_is_refused_by_name() {
        for (trigger, name) in refusals() {
            let error = parse(&json!([trigger.clone()])).unwrap_err();
            assert!(
                error.field_errors().contains_key(name),
                "{trigger}: {error}"
            );
        }
        assert!(parse(&json!({"action": "create"})).is_err());
    }

    #[test]
    fn what_is_no_url_of_a_host_is_refused() {
        for url in [
            "ftp://a",
            "http://",
            "http://a@b",
            "http://a\r\nX: y",
            "http://a:99999",
            "http://a:0",
            "http://a:+80",
            "http://a:",
            "http://:80",
            "http://[::1",
            "http://[::1]x",
            "http://a%00/",
            "http://a\\b",
        ] {
            let error = parse(&json!([{"action": "*", "url": url}])).unwrap_err();
            assert!(
                error.field_errors().contains_key("options.triggers.0.url"),
                "{url}: {error}"
            );
        }
        for url in [
            "http://a_b.c-d:1/x:y@z",
            "https://[::1]:443?a@b",
            "http://127.1#f",
        ] {
            parse(&json!([{"action": "*", "url": url}])).unwrap();
        }
    }
}
