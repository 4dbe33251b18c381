//! One HTTP call: headers, signature (<https://www.standardwebhooks.com>), limits, and what came of it.
//!
//! Redirects are not followed and proxies of the environment not used, for either would send somewhere else
//! than was agreed to. Each call has a connection of its own, so that no attempt fails over one that the
//! receiver has just closed.

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
use crate::base::{clock, tls};
use crate::model::auth::WebhookSecret;
use crate::model::triggers;
use crate::model::triggers::HttpCall;

/// For the whole of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the body of the answer, whose status says all that counts.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Of the answer this much is read, and this much kept.
const BODY_BYTES_MAX: u64 = 16 << 10;
const ANSWER_CHARS_MAX: usize = 1000;
/// Longest text about what went wrong.
const ERROR_CHARS_MAX: usize = 500;
/// Longest pause that is taken from an answer.
const RETRY_AFTER_SECONDS_MAX: i64 = 1_000_000;
const USER_AGENT: &str = concat!("vski/", env!("CARGO_PKG_VERSION"));
const JSON: &str = "application/json";

/// Makes calls.
pub struct HttpSender {
    agent: Agent,
    secret: WebhookSecret,
    /// The name of this server, which tokens are from.
    node: String,
}

/// What is sent, besides how.
pub struct CallMessage<'a> {
    /// The same in each attempt.
    pub id: &'a str,
    /// JSON.
    pub payload: &'a str,
    /// Milliseconds since 1970.
    pub now_ms: i64,
}

impl HttpSender {
    pub fn new(
        secret: WebhookSecret,
        node: &str,
        denies_private: bool,
        roots: &Roots,
    ) -> HttpSender {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(roots.for_requests())
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .timeout_global(Some(CALL_TIMEOUT))
            .timeout_resolve(Some(RESOLVE_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_body(Some(BODY_TIMEOUT))
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
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

    /// Makes one call; returns within its time limit.
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
            Err(error) => Attempt::Rejected(format!("The call cannot be made: {error}.")),
        }
    }

    /// Cuts the calls that are under way and lets no other begin.
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

/// The scheme and the host of a URL, with the port if it names one; nothing of its user or its path.
fn origin(url: &str) -> String {
    let uri = url.parse::<Uri>().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match uri.port_u16() {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// The time that an answer asks to wait: seconds, or a date. More than an hour is cut later.
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
    // What is cut off is shown as far as it came: the status is what counts.
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
        return Attempt::Failed(format!("The host is not trusted: {why}."));
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
        Cause::BadUri(_) | Cause::Http(_) => {
            Attempt::Rejected("The URL is not one that can be called.".to_owned())
        }
        Cause::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Attempt::Unreachable("The host cannot be reached in time.".to_owned())
        }
        Cause::Timeout(_) => Attempt::Unreachable("No answer came in time.".to_owned()),
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
        _ => Attempt::Failed(format!("The call broke off: {text}.")),
    }
}

/// Looks names up, and refuses those that lead to private addresses. The addresses that pass are the ones
/// that are connected to, so a name that changes in between gains nothing.
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

/// Calls to private addresses are not allowed here.
#[derive(Debug)]
struct PrivateAddressDenied;

impl fmt::Display for PrivateAddressDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("The host has a private address, which WEBHOOK_DENY_PRIVATE forbids to call")
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
                "Sun, 06 Nov 9999 08:49:37 GMT",
                Some(RETRY_AFTER_SECONDS_MAX * 1000),
            ),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after_ms(text, now_ms), ms, "{text}");
        }
    }
}
