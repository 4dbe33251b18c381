//! The target of a call, in the JSON form that triggers, webhooks and jobs share.

use serde_json::{Map, Value, json};

use super::attributes::{BODY_BYTES_MAX, extract_retries, extract_string, invalid_value, too_long};
use super::http_call::HttpCall;
use crate::base::error::Result;

const NAME_BYTES_MAX: usize = 200;

/// The HTTP endpoint or workflow to call.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Http(HttpCall),
    /// Starts a run. Its input is an array with `input`, or else the payload, as the only element.
    Workflow {
        name: String,
        input: Option<Value>,
        /// Retries after the first attempt.
        retries: u32,
    },
}

impl Target {
    /// Removes its attributes from an object. An error names the attribute below `name`.
    pub fn extract(name: &str, object: &mut Map<String, Value>) -> Result<Target> {
        let at = |key: &str| match name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        };
        let retries = extract_retries(&at("retryLimit"), object)?;
        let workflow = extract_string(&at("workflow"), "workflow", object)?;
        if let Some(workflow) = workflow {
            if object.remove("url").is_some_and(|url| !url.is_null()) {
                return Err(invalid_value(
                    at("url"),
                    "Give a workflow or a url, not both.",
                ));
            }
            if workflow.len() > NAME_BYTES_MAX {
                return Err(invalid_value(
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
        Ok(Target::Http(HttpCall::extract(&at, retries, object)?))
    }

    /// Reads what [`Target::to_json`] wrote.
    pub fn restore(text: &str) -> Result<Target> {
        Target::extract("", &mut serde_json::from_str(text)?)
    }

    /// The attributes that [`Target::extract`] reads back.
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

    /// Its name in lists and logs: the URL, or `workflow:` and a name.
    pub fn label(&self) -> String {
        match self {
            Target::Http(call) => call.url.clone(),
            Target::Workflow { name, .. } => format!("workflow:{name}"),
        }
    }

    /// Its host and port, or `workflow` for all workflows.
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

    /// Retries after the first attempt.
    pub fn retries(&self) -> u32 {
        match self {
            Target::Http(call) => call.retries,
            Target::Workflow { retries, .. } => *retries,
        }
    }
}
