//! A request as a handler receives it, and the policy for its body.
//!
//! Values are passed on as the client sent them: `path` and `query` are raw, and `route` and
//! `query` decode them.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use crate::base::budget::{Charge, Exhausted};

/// The methods that routes can use. All others are `Other`.
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
    /// The name as in a request line, or `OTHER`.
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

/// Identifies a request in the log and in the `X-Request-Id` of its response. Unique in a process,
/// and across processes with the probability of eight random hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    pub(super) fn new(process: u32, count: u64) -> RequestId {
        RequestId(format!("{process:08x}-{count:06}"))
    }

    /// ASCII letters, digits and a hyphen.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The headers of a request. Names and values are ranges of one string.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    pub(super) text: String,
    pub(super) spans: Vec<(Range<usize>, Range<usize>)>,
}

impl Headers {
    pub fn new() -> Headers {
        Headers::default()
    }

    pub fn push(&mut self, name: &str, value: &str) {
        let start = self.text.len();
        self.text.push_str(name);
        let middle = self.text.len();
        self.text.push_str(value);
        self.spans.push((start..middle, middle..self.text.len()));
    }

    /// Removes every header with this name, ignoring case.
    pub(super) fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.spans
            .retain(|(found, _)| !text[found.clone()].eq_ignore_ascii_case(name));
    }

    /// The value of the first header with this name, ignoring case.
    pub fn get(&self, name: &str) -> Option<&str> {
        // Most names differ in length already.
        let is_it = |found: &Range<usize>| {
            found.len() == name.len() && self.text[found.clone()].eq_ignore_ascii_case(name)
        };
        let (_, value) = self.spans.iter().find(|(found, _)| is_it(found))?;
        Some(&self.text[value.clone()])
    }

    /// Names and values, in the order of the request.
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

/// Receives the body of a request while it arrives, instead of memory.
pub trait BodySink: Any + Send + Sync {
    /// Receives the next piece. Returns false to refuse the rest: the connection is closed after
    /// the response.
    fn write(&mut self, piece: &[u8]) -> bool;
}

/// Decides about bodies before they are received. The request passed to each function has no body
/// yet.
pub trait BodyPolicy: Send + Sync {
    /// The sink for a form, or none to keep it in memory as other bodies. `length` is its length,
    /// if known.
    fn sink_for(&self, request: &Request, length: Option<u64>) -> Option<Box<dyn BodySink>>;

    /// Longest body that the path accepts in memory. Called only if the body can exceed
    /// [`FREE_BYTES`].
    fn bytes_max(&self, method: Method, path: &str) -> usize;

    /// The charge for the bytes of the body above [`FREE_BYTES`]. Called only if there are any.
    fn charge(&self, request: &Request) -> Charge;
}

/// Bytes of each body that are not charged, so that stalled large bodies leave room for small ones.
pub const FREE_BYTES: usize = 16 << 10;

/// Why the body of a request was not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRefusal {
    /// It exceeds [`BodyPolicy::bytes_max`].
    TooLarge,
    /// Its budget has no room.
    Exhausted(Exhausted),
}

/// The sink that has received the body of a request.
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

#[derive(Debug)]
pub struct Request {
    /// `Get` for a `HEAD` request; the server omits the body of the response.
    pub method: Method,
    /// Raw, beginning with `/` (or `*`), without the query string.
    pub path: String,
    /// Raw, without the `?`; empty if there is none.
    pub query: String,
    /// As sent.
    pub headers: Headers,
    /// The complete body; empty if there is none.
    pub body: Vec<u8>,
    /// The sink that has received the body instead.
    pub sink: Option<FinishedSink>,
    /// Set if the body was not received.
    pub body_refusal: Option<BodyRefusal>,
    /// The address of the other end of the connection, which may be a proxy.
    pub peer: SocketAddr,
    pub id: RequestId,
}

impl Request {
    /// The value of the first header with this name, ignoring case.
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
