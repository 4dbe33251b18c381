//! An HTTP request that is made when something happens, and the checks of its attributes.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use url::Url;

use super::attributes::{BODY_BYTES_MAX, extract_string, invalid_value, too_long};
use crate::base::crypto;
use crate::base::error::Result;

const URL_BYTES_MAX: usize = 2048;
const HEADERS_MAX: usize = 20;
const HEADERS_BYTES_MAX: usize = 8 << 10;
const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "DELETE", "GET"];
/// Headers that only the sender sets.
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
/// Prefix of the signing secret of a receiver; base64 follows (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";
/// Length of a decoded secret.
const SECRET_BYTES: RangeInclusive<usize> = 16..=64;

/// The request of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCall {
    /// `http` or `https`.
    pub url: String,
    pub method: String,
    pub headers: Vec<(String, String)>,
    /// Sent instead of the payload.
    pub body: Option<String>,
    /// Retries after the first attempt.
    pub retries: u32,
    /// Adds a token of this server.
    pub has_token: bool,
    /// The signing key of the receiver, instead of that of the server.
    pub secret: Option<String>,
}

impl HttpCall {
    /// `at` returns the full name of an attribute for errors.
    pub(super) fn extract(
        at: &dyn Fn(&str) -> String,
        retries: u32,
        object: &mut Map<String, Value>,
    ) -> Result<HttpCall> {
        let url = extract_string(&at("url"), "url", object)?
            .ok_or_else(|| invalid_value(at("url"), "Give a url or a workflow."))?;
        check_url(&at("url"), &url)?;
        let method = extract_string(&at("method"), "method", object)?;
        let method = method.map_or_else(|| "POST".to_owned(), |it| it.to_ascii_uppercase());
        if !METHODS.contains(&method.as_str()) {
            return Err(invalid_value(
                at("method"),
                format!("Must be one of {}.", METHODS.join(", ")),
            ));
        }
        let mut headers = extract_headers(&at("headers"), object)?;
        let kind = extract_string(&at("contentType"), "contentType", object)?;
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
            Some(_) => return Err(invalid_value(at("jwtEnabled"), "Must be true or false.")),
        };
        let secret = extract_string(&at("secret"), "secret", object)?;
        if let Some(secret) = &secret {
            secret_bytes(secret).ok_or_else(|| {
                invalid_value(at("secret"), "Must be whsec_ and 16 to 64 bytes in base64.")
            })?;
        }
        Ok(HttpCall {
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

/// Decodes a secret of the form `whsec_...`.
pub fn secret_bytes(secret: &str) -> Option<Vec<u8>> {
    let bytes = crypto::from_base64(secret.strip_prefix(SECRET_PREFIX)?)?;
    SECRET_BYTES.contains(&bytes.len()).then_some(bytes)
}

fn check_url(name: &str, url: &str) -> Result<()> {
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic()) && url.len() <= URL_BYTES_MAX;
    // The parser also accepts what browsers do: `http:host`, `http://host:` and `http://host\path`.
    let is_absolute = url.starts_with("http://") || url.starts_with("https://");
    let authority = url.split(['/', '?', '#']).nth(2).unwrap_or_default();
    let is_strict = is_absolute && !authority.contains('\\') && !authority.ends_with(':');
    let has_host = |url: &Url| {
        url.has_host()
            && url.port() != Some(0)
            && url.username().is_empty()
            && url.password().is_none()
    };
    match Url::parse(url) {
        Ok(parsed) if is_plain && is_strict && has_host(&parsed) => Ok(()),
        _ => Err(invalid_value(
            name,
            "Must be an http or https URL without a user name.",
        )),
    }
}

fn extract_headers(name: &str, object: &mut Map<String, Value>) -> Result<Vec<(String, String)>> {
    let map = match object.remove("headers") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => {
            return Err(invalid_value(
                name,
                "Must be an object of header names and strings.",
            ));
        }
    };
    let headers = map.into_iter().map(|(header, value)| match value {
        Value::String(value) => Ok((header, value)),
        _ => Err(invalid_value(
            name,
            format!("The value of {header} must be a string."),
        )),
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
        return Err(invalid_value(name, message));
    }
    for (header, value) in headers {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let lower = header.to_ascii_lowercase();
        let is_own = OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("webhook-");
        if header.is_empty() || !header.bytes().all(is_token) || is_own {
            return Err(invalid_value(
                name,
                format!("The header {header:?} cannot be set."),
            ));
        }
        if value.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(invalid_value(
                name,
                format!("The value of {header} must be printable ASCII."),
            ));
        }
    }
    Ok(())
}
