//! A request as a handler receives it, and the policy for its body.
//!
//! Values are passed on as the client sent them: `path` and `query` are raw, and `route` and
//! `query` decode them.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use crate::base::budget::{Charge, Exhausted};

/// The methods that routes may use. Everything else is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Other,
}

impl Method {
    /// The name as it stands in a request line; `OTHER` for those that we do not know.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other => "OTHER",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one request in the log and in the answer's `X-Request-Id`. Unique in a process, and
/// across processes as far as eight random hex digits go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    pub(super) fn new(process: u32, count: u64) -> RequestId {
        RequestId(format!("{process:08x}-{count:06}"))
    }

    /// As sent and logged: ASCII letters, digits and a hyphen.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The headers of a request, in one piece of text: the names and values are ranges of it.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    pub(super) text: String,
    pub(super) spans: Vec<(Range<usize>, Range<usize>)>,
}

impl Headers {
    /// No headers.
    pub fn new() -> Headers {
        Headers::default()
    }

    /// Adds a header line.
    pub fn push(&mut self, name: &str, value: &str) {
        let start = self.text.len();
        self.text.push_str(name);
        let middle = self.text.len();
        self.text.push_str(value);
        self.spans.push((start..middle, middle..self.text.len()));
    }

    /// Removes every header with this name, whatever its case.
    pub(super) fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.spans
            .retain(|(found, _)| !text[found.clone()].eq_ignore_ascii_case(name));
    }

    /// The value of the first header with this name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        // Most names differ in length already.
        let is_it = |found: &Range<usize>| {
            found.len() == name.len() && self.text[found.clone()].eq_ignore_ascii_case(name)
        };
        let (_, value) = self.spans.iter().find(|(found, _)| is_it(found))?;
        Some(&self.text[value.clone()])
    }

    /// Every header as name and value, in the order they came.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.spans
            .iter()
            .map(|(name, value)| (&self.text[name.clone()], &self.text[value.clone()]))
    }
}

/// The media type in a header such as `text/plain; charset=utf-8`, without its parameters.
pub fn media_type(header: &str) -> &str {
    header.split(';').next().unwrap_or_default().trim()
}

/// Takes the body of a request while it arrives, in place of memory.
pub trait BodySink: Any + Send + Sync {
    /// Takes the next piece. False: no more is wanted, and the connection ends with the answer.
    fn write(&mut self, piece: &[u8]) -> bool;
}

/// Decides about bodies before they are received. The request that each function sees has none yet.
pub trait BodyPolicy: Send + Sync {
    /// Where a form goes; `length` is its length if that is known. None: into memory, as other bodies.
    fn sink_for(&self, request: &Request, length: Option<u64>) -> Option<Box<dyn BodySink>>;

    /// The longest body that the path accepts in memory. Called only for a body that may be longer
    /// than [`FREE_BYTES`].
    fn bytes_max(&self, method: Method, path: &str) -> usize;

    /// The charge for the body, all above [`FREE_BYTES`]. Called only for a body that is longer.
    fn charge(&self, request: &Request) -> Charge;
}

/// Bytes of each body that are charged to no budget, so that large bodies that stall leave room for
/// small ones.
pub const FREE_BYTES: usize = 16 << 10;

/// The reason why a request has no body although the client announced one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRefusal {
    /// It is longer than [`BodyPolicy::bytes_max`].
    TooLarge,
    /// The budget that it is charged to has no more.
    Exhausted(Exhausted),
}

/// What has taken the body of a request.
pub struct FinishedSink(pub(super) Box<dyn Any + Send + Sync>);

impl FinishedSink {
    /// The sink, if it is of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for FinishedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FinishedSink")
    }
}

/// What a client asks.
#[derive(Debug)]
pub struct Request {
    /// `HEAD` arrives as `Get`; the server leaves the body out of the answer.
    pub method: Method,
    /// Raw, beginning with `/` (or `*`), without the query string.
    pub path: String,
    /// Raw, without the `?`; empty if there is none.
    pub query: String,
    /// As sent.
    pub headers: Headers,
    /// Whole; empty if there is none.
    pub body: Vec<u8>,
    /// What has taken the body in its place.
    pub sink: Option<FinishedSink>,
    /// Why there is neither.
    pub body_refusal: Option<BodyRefusal>,
    /// The other end of the connection, which may be a proxy.
    pub peer: SocketAddr,
    /// Its name in the log.
    pub id: RequestId,
}

impl Request {
    /// The value of the first header with this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// A policy for tests: every body is kept in memory.
#[cfg(test)]
pub struct InMemory;

#[cfg(test)]
impl InMemory {
    pub fn policy() -> std::sync::Arc<dyn BodyPolicy> {
        std::sync::Arc::new(InMemory)
    }
}

#[cfg(test)]
impl BodyPolicy for InMemory {
    fn sink_for(&self, _: &Request, _: Option<u64>) -> Option<Box<dyn BodySink>> {
        None
    }

    fn bytes_max(&self, _: Method, _: &str) -> usize {
        usize::MAX
    }

    fn charge(&self, _: &Request) -> Charge {
        unreachable!("no body is long")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_in_any_case() {
        let mut headers = Headers::new();
        headers.push("Content-Type", "a");
        headers.push("X-Two", "b");
        headers.push("x-two", "c");
        assert_eq!(headers.get("content-type"), Some("a"));
        assert_eq!(headers.get("X-TWO"), Some("b"));
        assert_eq!(headers.get("X-Three"), None);
        assert_eq!(headers.iter().count(), 3);
        headers.remove("x-TWO");
        assert_eq!(headers.get("X-Two"), None);
        assert_eq!(headers.get("Content-Type"), Some("a"));
    }
}
