//! HTTP as plain values: what a handler gets and what it gives back.
//!
//! Nothing in this file knows a socket, so that handlers can be called from tests. `server` is the
//! only module that knows the engine; `route` maps paths to payloads, `query` takes query strings
//! apart, `encode` and `gzip` turn a [`Response`] into bytes. What a client sent is handed on as
//! it came: `path` and `query` are raw, and decoding them is up to `route` and `query`.

pub mod client_address;
mod encode;
mod gzip;
pub mod multipart;
pub mod query;
pub mod range;
pub mod route;
pub mod server;

pub use encode::GZIP_SUFFIX;

use std::any::Any;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;

use crate::base::budget::{Charge, Exhausted, Output};

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
    fn new(process: u32, count: u64) -> RequestId {
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
    text: String,
    spans: Vec<(Range<usize>, Range<usize>)>,
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
    fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.spans
            .retain(|(found, _)| !text[found.clone()].eq_ignore_ascii_case(name));
    }

    /// The value of the first header with this name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
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
pub trait Bodies: Send + Sync {
    /// Where a form goes; `length` is its length if that is known. None: into memory, as other bodies.
    fn receive(&self, request: &Request, length: Option<u64>) -> Option<Box<dyn BodySink>>;

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
pub enum Unread {
    /// It is longer than [`Bodies::bytes_max`].
    TooLarge,
    /// The budget that it is charged to has no more.
    Exhausted(Exhausted),
}

/// What has taken the body of a request.
pub struct Sunk(Box<dyn Any + Send + Sync>);

impl Sunk {
    /// The sink, if it is of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Sunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sunk")
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
    pub sunk: Option<Sunk>,
    /// Why there is neither.
    pub unread: Option<Unread>,
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

/// A connection that a handler has taken over: the server does not touch it any more.
pub struct Socket {
    /// Blocking, without time-outs. Ours is the only descriptor of it.
    pub stream: Arc<TcpStream>,
    /// Bytes that the client sent behind its request.
    pub early: Vec<u8>,
}

/// Gets the connection after the head of the answer was sent. It must not block.
pub type Takeover = Box<dyn FnOnce(Socket) + Send>;

/// What the client is told. The server adds the headers that every answer has.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Further headers. Line breaks and other control characters in values become blanks.
    pub headers: Vec<(&'static str, String)>,
    /// Not sent with 1xx, 204 and 304.
    pub body: Vec<u8>,
    /// What follows the body, and its length in bytes.
    stream: Option<(Box<dyn Read + Send>, u64)>,
    /// Not worth a line in the log when all is well.
    is_quiet: bool,
    /// Where the request came from, for the log, if that is not the peer.
    client: Option<IpAddr>,
    takeover: Option<Takeover>,
    /// Given back when the answer is sent, or handed over to be sent.
    output: Output,
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            stream: None,
            is_quiet: false,
            client: None,
            takeover: None,
            output: Output::default(),
        }
    }

    /// An answer with a body of this media type.
    pub fn with_body(status: u16, media_type: &str, body: Vec<u8>) -> Response {
        let mut response = Response::empty(status).with_header("Content-Type", media_type);
        response.body = body;
        response
    }

    /// JSON, encoded already.
    pub fn json(status: u16, body: Vec<u8>) -> Response {
        Response::with_body(status, "application/json", body)
    }

    /// An answer whose body is the next `length` bytes of a reader, read while they are sent.
    pub fn with_stream(status: u16, reader: Box<dyn Read + Send>, length: u64) -> Response {
        Response {
            stream: Some((reader, length)),
            ..Response::empty(status)
        }
    }

    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::with_body(
            status,
            "text/plain; charset=utf-8",
            text.into().into_bytes(),
        )
    }

    /// Switches protocols: sends 101 with these headers, then hands the connection over. For
    /// requests with `Connection: Upgrade` and `Upgrade: websocket` only; others get a 500.
    pub fn switch(headers: Vec<(&'static str, String)>, takeover: Takeover) -> Response {
        Response {
            headers,
            takeover: Some(takeover),
            ..Response::empty(101)
        }
    }

    /// An answer whose body has no end: sends 200 with these headers, then hands the connection over. For
    /// `GET` requests of an endless path only (`server::Settings`); others get a 400.
    pub fn event_stream(headers: Vec<(&'static str, String)>, takeover: Takeover) -> Response {
        Response {
            headers,
            takeover: Some(takeover),
            ..Response::empty(200)
        }
    }

    /// One of very many that programs ask for: logged at `debug`, unless it is a refusal.
    pub fn quietly(self) -> Response {
        Response {
            is_quiet: true,
            ..self
        }
    }

    /// Notes for the log where the request came from, if that is not the peer.
    pub fn for_client(self, client: Option<IpAddr>) -> Response {
        Response { client, ..self }
    }

    /// Holds what the answer was charged to.
    pub fn charged_to(self, output: Output) -> Response {
        Response { output, ..self }
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The value of the first header with this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Bodies for tests of what lies above.
#[cfg(test)]
pub mod memory {
    use std::sync::Arc;

    use super::{Bodies, BodySink, Charge, Method, Request};

    /// Every body is kept in memory.
    pub struct Memory;

    impl Memory {
        pub fn bodies() -> Arc<dyn Bodies> {
            Arc::new(Memory)
        }
    }

    impl Bodies for Memory {
        fn receive(&self, _: &Request, _: Option<u64>) -> Option<Box<dyn BodySink>> {
            None
        }

        fn bytes_max(&self, _: Method, _: &str) -> usize {
            usize::MAX
        }

        fn charge(&self, _: &Request) -> Charge {
            unreachable!("no body is long")
        }
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
