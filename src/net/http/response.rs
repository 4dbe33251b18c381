//! A response as a handler returns it.

use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use crate::base::budget::OutputCharge;

/// A connection that a handler has taken over from the server.
pub struct Socket {
    /// Blocking, without timeouts. No other descriptor of it exists.
    pub stream: Arc<TcpStream>,
    /// Bytes that the client sent behind its request.
    pub early: Vec<u8>,
}

/// Called with the connection after the response head was sent. It must not block.
pub type Takeover = Box<dyn FnOnce(Socket) + Send>;

/// A response. The server adds the headers that all responses have.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Control characters in values, such as line breaks, become spaces.
    pub headers: Vec<(&'static str, String)>,
    /// Not sent with 1xx, 204 and 304.
    pub body: Vec<u8>,
    /// A reader whose bytes follow the body, and their number.
    pub(super) stream: Option<(Box<dyn Read + Send>, u64)>,
    /// Logged at `debug` unless it is an error.
    pub(super) is_quiet: bool,
    /// The address of the client for the log, if it differs from the peer.
    pub(super) client: Option<IpAddr>,
    pub(super) takeover: Option<Takeover>,
    /// Released when the response is sent or queued.
    pub(super) output: OutputCharge,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            stream: None,
            is_quiet: false,
            client: None,
            takeover: None,
            output: OutputCharge::default(),
        }
    }

    pub fn with_body(status: u16, media_type: &str, body: Vec<u8>) -> Response {
        let mut response = Response::empty(status).with_header("Content-Type", media_type);
        response.body = body;
        response
    }

    /// `body` is encoded JSON.
    pub fn json(status: u16, body: Vec<u8>) -> Response {
        Response::with_body(status, "application/json", body)
    }

    /// A response whose body is the next `length` bytes of a reader, read while they are sent.
    pub fn with_stream(status: u16, reader: Box<dyn Read + Send>, length: u64) -> Response {
        Response {
            stream: Some((reader, length)),
            ..Response::empty(status)
        }
    }

    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::with_body(
            status,
            "text/plain; charset=utf-8",
            text.into().into_bytes(),
        )
    }

    /// Switches protocols: sends 101 with these headers, then calls `takeover`. A request without
    /// `Connection: Upgrade` and `Upgrade: websocket` gets a 400 instead.
    pub fn switch_protocols(headers: Vec<(&'static str, String)>, takeover: Takeover) -> Response {
        Response {
            headers,
            takeover: Some(takeover),
            ..Response::empty(101)
        }
    }

    /// A response without end: sends 200 with these headers, then calls `takeover`. Only a `GET` of
    /// an endless path (`server::ServerSettings`) accepts it; other requests get a 400.
    pub fn event_stream(headers: Vec<(&'static str, String)>, takeover: Takeover) -> Response {
        Response {
            headers,
            takeover: Some(takeover),
            ..Response::empty(200)
        }
    }

    /// Logs the request at `debug` unless it fails. For requests that programs send very often.
    pub fn quietly(self) -> Response {
        Response {
            is_quiet: true,
            ..self
        }
    }

    /// Sets the address of the client for the log, if it differs from the peer.
    pub fn for_client(self, client: Option<IpAddr>) -> Response {
        Response { client, ..self }
    }

    /// Keeps the charge of the response until it is sent.
    pub fn charged_to(self, output: OutputCharge) -> Response {
        Response { output, ..self }
    }

    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The value of the first header with this name, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}
