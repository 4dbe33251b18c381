//! Requests to providers: bounded in time and size, without redirects.
//!
//! The URLs are settings of admins, or stand in the discovery document of an issuer that is one. No
//! caller chooses an URL.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use ureq::Agent;

use crate::base::crypto;
use crate::base::error::{Error, Result};
use crate::base::http_client;
use crate::base::tls::Roots;
use crate::model::providers::encode_form;

/// Time limit of a sign-in at all servers of its provider together.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// Characters of an answer that the log gets.
const LOGGED_CHARS_MAX: usize = 300;
const JSON: &str = "application/json";

/// The moment at which the requests of a sign-in must be done.
#[derive(Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn new() -> Deadline {
        Deadline(Instant::now() + SIGN_IN_TIMEOUT)
    }

    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Asks providers.
pub struct Fetcher(Agent);

/// The credentials of a client, for the request for a token.
pub struct ClientSecret<'a> {
    pub id: &'a str,
    pub secret: &'a str,
    /// HTTP basic authentication instead of parameters.
    pub in_header: bool,
}

impl Fetcher {
    pub fn new(roots: &Roots) -> Fetcher {
        let config = http_client::config(roots, 0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build();
        Fetcher(Agent::new_with_config(config))
    }

    /// A JSON document.
    pub fn get(&self, url: &str, headers: &[(&str, &str)], until: Deadline) -> Result<Value> {
        let mut request = self.0.get(url).header("Accept", JSON);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(time(until)?)).build();
        read(url, request.call())
    }

    /// The answer to a query of GraphQL.
    pub fn query(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        query: &str,
        until: Deadline,
    ) -> Result<Value> {
        let mut request = self.0.post(url).header("Accept", JSON);
        request = request.header("Content-Type", JSON);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(time(until)?)).build();
        read(
            url,
            request.send(serde_json::json!({"query": query}).to_string()),
        )
    }

    /// The answer to a form that a client sends with its credentials.
    pub fn post(
        &self,
        url: &str,
        client: &ClientSecret<'_>,
        pairs: &[(&str, &str)],
        until: Deadline,
    ) -> Result<Value> {
        let mut pairs = pairs.to_vec();
        let mut request = self.0.post(url).header("Accept", JSON);
        request = request.header("Content-Type", "application/x-www-form-urlencoded");
        match client.in_header && !client.secret.is_empty() {
            true => {
                // RFC 6749, section 2.3.1: both in the encoding of forms.
                let encode = |text: &str| encode_form(&[("", text)])[1..].to_owned();
                let pair = format!("{}:{}", encode(client.id), encode(client.secret));
                let value = format!("Basic {}", crypto::base64(pair.as_bytes()));
                request = request.header("Authorization", value);
            }
            false => {
                pairs.push(("client_id", client.id));
                if !client.secret.is_empty() {
                    pairs.push(("client_secret", client.secret));
                }
            }
        }
        let request = request.config().timeout_global(Some(time(until)?)).build();
        read(url, request.send(encode_form(&pairs)))
    }
}

fn time(until: Deadline) -> Result<Duration> {
    let left = until.left();
    match left.is_zero() {
        true => Err(unavailable().context("no time is left for the provider")),
        false => Ok(left),
    }
}

/// The error for a provider that does not answer as it should; the log has the reason.
pub fn unavailable() -> Error {
    Error::unavailable("The provider cannot be asked now; try again.")
}

/// The error for a provider that refuses; the log has its answer.
pub fn refused() -> Error {
    Error::invalid("The provider refused the sign-in; start it again.")
}

fn read(url: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let answer = answer.map_err(|error| unavailable().context(format!("{url}: {error}")))?;
    let status = answer.status().as_u16();
    let mut bytes = Vec::new();
    let body = answer.into_body().into_reader();
    body.take(ANSWER_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unavailable().context(format!("{url}: {error}")))?;
    if bytes.len() as u64 > ANSWER_BYTES_MAX {
        return Err(unavailable().context(format!("{url}: the answer is too long")));
    }
    let shown = || -> String {
        let text = String::from_utf8_lossy(&bytes);
        text.chars().take(LOGGED_CHARS_MAX).collect()
    };
    match status {
        200..=299 => parse(&bytes).ok_or_else(|| {
            unavailable().context(format!("{url}: the answer is not an object in JSON"))
        }),
        400..=499 => Err(refused().context(format!("{url}: {status} {}", shown()))),
        _ => Err(unavailable().context(format!("{url}: {status} {}", shown()))),
    }
}

/// An object or list in JSON; or a form, as some answer with tokens.
fn parse(bytes: &[u8]) -> Option<Value> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) if value.is_object() || value.is_array() => Some(value),
        _ => {
            let text = std::str::from_utf8(bytes).ok()?;
            let pairs = text.split('&').map(|pair| pair.split_once('='));
            let pairs: Option<Map<String, Value>> = pairs
                .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.into())))
                .collect();
            pairs
                .filter(|it| it.contains_key("access_token"))
                .map(Value::Object)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_from_json_and_from_forms() {
        let parse = |text: &str| parse(text.as_bytes());
        for text in [
            r#"{"access_token": "a"}"#,
            "access_token=a&token_type=bearer",
        ] {
            assert_eq!(parse(text).unwrap()["access_token"], "a", "{text}");
        }
        for text in ["", "1", "\"a\"", "<html>", "a=b"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
