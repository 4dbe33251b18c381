//! A response as a handler returns it.

use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use crate::base::budget::Output;

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
    pub(super) stream: Option<(Box<dyn Read + Send>, u64)>,
    /// Not worth a line in the log when all is well.
    pub(super) is_quiet: bool,
    /// Where the request came from, for the log, if that is not the peer.
    pub(super) client: Option<IpAddr>,
    pub(super) takeover: Option<Takeover>,
    /// Given back when the answer is sent, or handed over to be sent.
    pub(super) output: Output,
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
    pub fn switch_protocols(headers: Vec<(&'static str, String)>, takeover: Takeover) -> Response {
        Response {
            headers,
            takeover: Some(takeover),
            ..Response::empty(101)
        }
    }

    /// An answer whose body has no end: sends 200 with these headers, then hands the connection over. For
    /// `GET` requests of an endless path only (`server::ServerSettings`); others get a 400.
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
