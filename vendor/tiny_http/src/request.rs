use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use crate::connection::{Connection, Source};
use crate::head::{Framing, Head, HeaderSpan};
use crate::sink::{Meter, Sink};
use crate::{HTTPVersion, Method, Shared};

/// Represents an HTTP request made by a client.
///
/// A `Request` object is what is produced by the server, and is what
/// your code must analyse and answer.
///
/// This object implements the `Send` trait, therefore you can dispatch your requests to
/// worker threads.
///
/// # Pipelining
///
/// If a client sends multiple requests in a row (without waiting for the response), then you will
/// get multiple `Request` objects simultaneously, up to a limit. This is called *requests pipelining*.
/// Tiny-http automatically reorders the responses so that you don't need to worry about the order
/// in which you call `respond`.
///
/// # Automatic cleanup
///
/// If a `Request` object is destroyed without `respond` or `upgrade` being called,
/// a response with a 500 status code (internal server error) will automatically be
/// sent back to the client, and the connection is closed.
pub struct Request {
    head: Head,
    body: Body,

    // bytes that came behind the head of an upgrade
    early: Vec<u8>,

    // the place among the connection's answers; None once answered
    number: Option<u64>,

    // the connection ends with this answer
    close: bool,

    received_at: Instant,
    connection: Arc<Connection>,
    shared: Arc<Shared>,
}

/// The body of a request as far as it was read before delivery.
pub(crate) struct Body {
    pub bytes: Result<Vec<u8>, Unread>,

    // has taken the body in place of `bytes`
    pub sink: Option<Box<dyn Sink>>,

    // held as long as the request is
    pub meter: Option<Box<dyn Meter>>,
}

/// The reason why the body of a request was not received. The connection ends with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Longer than it may be.
    TooLarge,
    /// Its meter has refused more.
    Overloaded,
    /// The owner did not want it (`Destination::Unread`).
    Declined,
}

impl Body {
    pub fn empty() -> Body {
        Body {
            bytes: Ok(Vec::new()),
            sink: None,
            meter: None,
        }
    }

    pub fn unread(why: Unread) -> Body {
        Body {
            bytes: Err(why),
            sink: None,
            meter: None,
        }
    }
}

impl Request {
    pub(crate) fn new(
        head: Head,
        body: Body,
        early: Vec<u8>,
        number: u64,
        close: bool,
        connection: Arc<Connection>,
        shared: Arc<Shared>,
    ) -> Request {
        Request {
            head,
            body,
            early,
            number: Some(number),
            close,
            received_at: Instant::now(),
            connection,
            shared,
        }
    }

    /// Returns the method requested by the client (eg. `GET`, `POST`, etc.).
    #[inline]
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Returns the resource requested by the client: path and query as sent, without scheme and host.
    #[inline]
    pub fn url(&self) -> &str {
        &self.head.text[self.head.target.clone()]
    }

    /// Returns the value of the first header with this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Returns all headers sent by the client, as name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = &self.head.text;
        self.head
            .headers
            .iter()
            .map(move |span| (&text[span.name.clone()], &text[span.value.clone()]))
    }

    /// Takes the text of the head and where the headers lie in it. Afterwards `url` and `headers` must not be used.
    pub fn take_head(&mut self) -> (String, Vec<HeaderSpan>) {
        let text = std::mem::take(&mut self.head.text);
        self.head.target = 0..0;
        (text, std::mem::take(&mut self.head.headers))
    }

    /// Returns the HTTP version of the request.
    #[inline]
    pub fn http_version(&self) -> HTTPVersion {
        self.head.version
    }

    /// Takes the body, which has been read already, or tells why it has not. The second call returns an empty one.
    pub fn take_body(&mut self) -> Result<Vec<u8>, Unread> {
        match &mut self.body.bytes {
            Ok(bytes) => Ok(std::mem::take(bytes)),
            Err(why) => Err(*why),
        }
    }

    /// Takes the sink that has taken the body, if the owner gave one for it.
    pub fn take_sink(&mut self) -> Option<Box<dyn Sink>> {
        self.body.sink.take()
    }

    /// Takes the meter of the body, if it has one. What it has counted is given back when it is dropped.
    pub fn take_meter(&mut self) -> Option<Box<dyn Meter>> {
        self.body.meter.take()
    }

    /// Returns the address of the client that sent this request.
    ///
    /// Note that this is gathered from the socket. If you receive the request from a proxy,
    /// this function will return the address of the proxy and not the address of the actual
    /// user.
    #[inline]
    pub fn remote_addr(&self) -> SocketAddr {
        self.connection.peer
    }

    /// When the request was complete.
    #[inline]
    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// True if the connection ends with the answer to this request, which should then say so.
    #[inline]
    pub fn must_close(&self) -> bool {
        self.close
    }

    /// True if the client asks for a WebSocket.
    #[inline]
    pub fn wants_upgrade(&self) -> bool {
        self.head.upgrade
    }

    /// The socket, shared with the server, which goes on to use it.
    #[inline]
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.connection.stream
    }

    /// True if no answer can be delivered any more.
    pub(crate) fn is_void(&self) -> bool {
        self.connection.is_over()
    }

    /// Sends a response, given as the bytes of its head and body. `close` ends the connection after it.
    /// Never blocks: what the socket does not take at once is written by another thread.
    ///
    /// The two are sent with one call and nothing is copied; a small body is best appended to its head.
    pub fn respond(mut self, head: Vec<u8>, body: Vec<u8>, close: bool) {
        if let Some(number) = self.number.take() {
            let last = close || self.close;
            self.connection.answer(number, head, body, None, last);
        }
    }

    /// Sends a response whose body is the next `length` bytes of `reader`. Never blocks: another thread reads and writes
    /// them, in pieces. A reader that fails or ends early ends the connection, so that the client notices.
    pub fn respond_from(
        mut self,
        head: Vec<u8>,
        reader: Box<dyn Read + Send>,
        length: u64,
        close: bool,
    ) {
        if let Some(number) = self.number.take() {
            let last = close || self.close;
            let source = Some(Source { reader, length });
            self.connection
                .answer(number, head, Vec::new(), source, last);
        }
    }

    /// Turns the `Request` into a stream, for WebSockets. The caller then writes the 101 response itself.
    ///
    /// The server forgets the connection: it is not counted, has no time-outs and is not closed by it any more.
    /// Fails if this was no upgrade request or the connection has been closed meanwhile.
    pub fn upgrade(mut self) -> io::Result<Upgraded> {
        if !self.head.upgrade {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.number.take().is_some() {
            self.shared.registry.remove(self.connection.id);
            if self.connection.take() {
                self.socket().set_read_timeout(None)?;
                self.socket().set_write_timeout(None)?;
                return Ok(Upgraded {
                    stream: Arc::clone(&self.connection.stream),
                    early: std::mem::take(&mut self.early),
                });
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

/// The head of a request whose body has not been read yet.
pub struct HeadView<'a> {
    head: &'a Head,
    peer: SocketAddr,
}

impl<'a> HeadView<'a> {
    pub(crate) fn new(head: &'a Head, peer: SocketAddr) -> HeadView<'a> {
        HeadView { head, peer }
    }

    /// The method of the request.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// Path and query as sent.
    pub fn url(&self) -> &str {
        &self.head.text[self.head.target.clone()]
    }

    /// All headers, as name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = &self.head.text;
        self.head
            .headers
            .iter()
            .map(move |span| (&text[span.name.clone()], &text[span.value.clone()]))
    }

    /// The length of the body in bytes, unless it comes in chunks.
    pub fn content_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// The other end of the connection.
    pub fn remote_addr(&self) -> SocketAddr {
        self.peer
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> Result<(), fmt::Error> {
        write!(
            formatter,
            "Request({} {} from {:?})",
            self.method(),
            self.url(),
            self.remote_addr()
        )
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            let answer = (self.shared.hooks.refusal)(500);
            self.connection
                .answer(number, answer, Vec::new(), None, true);
        }
    }
}

/// A socket that the server has let go of, and what it had already read from it.
pub struct Upgraded {
    stream: Arc<TcpStream>,
    early: Vec<u8>,
}

impl Upgraded {
    /// The socket, and the bytes that were read from it but belong to the new protocol.
    pub fn into_parts(self) -> (Arc<TcpStream>, Vec<u8>) {
        (self.stream, self.early)
    }

    /// Reads and writes wait for nothing from now on.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }
}

impl Read for Upgraded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            return (&*self.stream).read(buf);
        }
        let count = (&self.early[..]).read(buf)?;
        self.early.drain(..count);
        Ok(count)
    }
}

impl Write for Upgraded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.stream).flush()
    }
}
