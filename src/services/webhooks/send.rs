//! Makes one HTTP call: headers, signature (<https://www.standardwebhooks.com>), limits and result.
//!
//! Redirects and proxies of the environment are not used, because either would send the call to a
//! destination that was not configured. Each call uses its own connection, so no attempt fails
//! because the receiver has just closed an idle one.

use std::io::Read as _;
use std::time::Duration;
use std::{fmt, io};

use ureq::config::Config;
use ureq::http::{Request, Response, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, SendBody, Timeout};

use super::address;
use super::core::Attempt;
use crate::base::tls::Roots;
use crate::base::{clock, http_client, tls};
use crate::model::auth::WebhookSecret;
use crate::model::triggers;
use crate::model::triggers::HttpCall;

/// Time limit of a whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of the response body, which matters less than its status.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Limits on the response body that is read, and on the part that is stored.
const BODY_BYTES_MAX: u64 = 16 << 10;
const ANSWER_CHARS_MAX: usize = 1000;
/// Limit on error messages.
const ERROR_CHARS_MAX: usize = 500;
/// Limit on `Retry-After`.
const RETRY_AFTER_SECONDS_MAX: i64 = 1_000_000;
const JSON: &str = "application/json";

/// Makes HTTP calls.
pub struct HttpSender {
    agent: Agent,
    secret: WebhookSecret,
    /// The id of this server, the issuer of tokens.
    node: String,
}

/// The content of a call.
pub struct CallMessage<'a> {
    /// The same for every attempt.
    pub id: &'a str,
    pub payload: &'a str,
    /// Unix milliseconds.
    pub now_ms: i64,
}

impl HttpSender {
    pub fn new(
        secret: WebhookSecret,
        node: &str,
        denies_private: bool,
        roots: &Roots,
    ) -> HttpSender {
        let config = http_client::config(roots, 0)
            .proxy(None)
            .timeout_global(Some(CALL_TIMEOUT))
            .timeout_resolve(Some(RESOLVE_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_body(Some(BODY_TIMEOUT))
            .build();
        let lookup = FilteringResolver {
            denies_private,
            system: DefaultResolver::default(),
        };
        HttpSender {
            agent: Agent::with_parts(config, DefaultConnector::default(), lookup),
            secret,
            node: node.to_owned(),
        }
    }

    /// Makes one call. Returns within the time limit.
    pub fn call(&self, call: &HttpCall, message: &CallMessage<'_>) -> Attempt {
        let body = match call.method.as_str() {
            "GET" => None,
            _ => Some(call.body.as_deref().unwrap_or(message.payload)),
        };
        let mut request = Request::builder().method(&*call.method).uri(&call.url);
        for (name, value) in self.headers(call, message, body) {
            request = request.header(name, value);
        }
        let result = match body {
            None => request
                .body(SendBody::none())
                .map(|request| self.agent.run(request)),
            Some(body) => request.body(body).map(|request| self.agent.run(request)),
        };
        match result {
            Ok(Ok(response)) => read(response),
            Ok(Err(error)) => to_attempt(&error),
            Err(error) => Attempt::Rejected(format!("Invalid request: {error}.")),
        }
    }

    /// Aborts calls in progress and refuses new ones.
    pub fn abort(&self) {
        self.agent.clone().shutdown();
    }

    fn headers(
        &self,
        call: &HttpCall,
        message: &CallMessage<'_>,
        body: Option<&str>,
    ) -> Vec<(String, String)> {
        let mut headers = call.headers.clone();
        let has = |headers: &[(String, String)], name: &str| {
            headers.iter().any(|(it, _)| it.eq_ignore_ascii_case(name))
        };
        if body.is_some() && !has(&headers, "Content-Type") {
            headers.push(("Content-Type".to_owned(), JSON.to_owned()));
        }
        if call.has_token && !has(&headers, "Authorization") {
            let audience = origin(&call.url);
            let token = self.secret.token(&self.node, &audience, message.now_ms);
            headers.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        let seconds = message.now_ms / 1000;
        let signed = format!("{}.{seconds}.{}", message.id, body.unwrap_or_default());
        let own = call.secret.as_deref().and_then(triggers::secret_bytes);
        let signature = match own {
            Some(bytes) => WebhookSecret::new(&bytes).sign(signed.as_bytes()),
            None => self.secret.sign(signed.as_bytes()),
        };
        headers.extend([
            ("webhook-id".to_owned(), message.id.to_owned()),
            ("webhook-timestamp".to_owned(), seconds.to_string()),
            ("webhook-signature".to_owned(), format!("v1,{signature}")),
        ]);
        headers
    }
}

/// The origin of a URL: scheme, host, and the port if the URL has one.
fn origin(url: &str) -> String {
    let uri = url.parse::<Uri>().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match uri.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// Parses `Retry-After`: seconds or a date. The caller limits it to an hour.
fn retry_after_ms(text: &str, now_ms: i64) -> Option<i64> {
    let left_ms = match text.parse::<i64>() {
        Ok(seconds) => seconds.clamp(0, RETRY_AFTER_SECONDS_MAX) * 1000,
        Err(_) => clock::parse_http_date(text)? - now_ms,
    };
    Some(left_ms.clamp(0, RETRY_AFTER_SECONDS_MAX * 1000))
}

fn read(response: Response<ureq::Body>) -> Attempt {
    let code = response.status().as_u16();
    let retry_after = response.headers().get("Retry-After");
    let retry_after_ms =
        retry_after.and_then(|value| retry_after_ms(value.to_str().ok()?.trim(), clock::now_ms()));
    let mut bytes = Vec::new();
    let body = response.into_body().into_reader();
    // An incomplete body is stored as it is: the status decides.
    let _ = body.take(BODY_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    Attempt::Answered {
        code,
        answer: text.chars().take(ANSWER_CHARS_MAX).collect(),
        retry_after_ms,
    }
}

fn to_attempt(error: &ureq::Error) -> Attempt {
    use ureq::Error as Cause;
    if let Cause::Io(cause) = error
        && let Some(why) = tls::certificate_error(cause)
    {
        return Attempt::Failed(format!(
            "The certificate of the host is not trusted: {why}."
        ));
    }
    let text: String = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
    match error {
        Cause::Io(cause)
            if cause
                .get_ref()
                .is_some_and(|it| it.is::<PrivateAddressDenied>()) =>
        {
            Attempt::Rejected(format!("{PrivateAddressDenied}."))
        }
        Cause::BadUri(_) | Cause::Http(_) => Attempt::Rejected("The URL is invalid.".to_owned()),
        Cause::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Attempt::Unreachable("Timed out connecting to the host.".to_owned())
        }
        Cause::Timeout(_) => Attempt::Unreachable("The host did not answer in time.".to_owned()),
        Cause::HostNotFound | Cause::ConnectionFailed => {
            Attempt::Unreachable("The host cannot be reached.".to_owned())
        }
        Cause::Io(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::TimedOut
            ) =>
        {
            Attempt::Unreachable(format!("The host cannot be reached: {cause}."))
        }
        _ => Attempt::Failed(format!("The connection failed: {text}.")),
    }
}

/// Resolves names and refuses those with private addresses. The connection uses the resolved
/// addresses, so a later change of the name has no effect.
struct FilteringResolver {
    denies_private: bool,
    system: DefaultResolver,
}

impl fmt::Debug for FilteringResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

impl Resolver for FilteringResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.system.resolve(uri, config, timeout);
        let found = found.map_err(|error| match error {
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        let is_denied = |address: &std::net::SocketAddr| address::is_private(address.ip());
        match self.denies_private && found.iter().any(is_denied) {
            true => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, PrivateAddressDenied).into())
            }
            false => Ok(found),
        }
    }
}

/// An error: the host has a private address.
#[derive(Debug)]
struct PrivateAddressDenied;

impl fmt::Display for PrivateAddressDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("The host has a private address, and WEBHOOK_DENY_PRIVATE forbids calls to it")
    }
}

impl std::error::Error for PrivateAddressDenied {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_says_when_in_seconds_or_as_a_date() {
        let now_ms = 784_111_777_000;
        for (text, ms) in [
            ("120", Some(120_000)),
            ("0", Some(0)),
            ("-5", Some(0)),
            ("99999999999999", Some(RETRY_AFTER_SECONDS_MAX * 1000)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120_000)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            (
                "Sat, 06 Nov 9999 08:49:37 GMT",
                Some(RETRY_AFTER_SECONDS_MAX * 1000),
            ),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after_ms(text, now_ms), ms, "{text}");
        }
    }
}
