//! The two protocols over a connection: WebSocket, and a stream of server-sent events.
//!
//! A stream is one-way. Each text is a complete encoded event and is written as it is; what the
//! client sends is discarded; a ping is a comment. Since nothing answers such a ping, a dead client
//! is noticed when the system cannot deliver data for [`UNDELIVERED_MS`].
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>)

use std::io;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::wire::Wire;
use crate::base::log;

/// Close codes of RFC 6455, section 7.4, and of its registry.
pub const GOING_AWAY: u16 = 1001;
pub const PROTOCOL_ERROR: u16 = 1002;
pub const UNSUPPORTED_DATA: u16 = 1003;
pub const INVALID_UTF8: u16 = 1007;
pub const MESSAGE_TOO_BIG: u16 = 1009;
pub const INTERNAL_ERROR: u16 = 1011;
pub const TRY_LATER: u16 = 1013;

/// Bytes read and discarded at a time.
const DISCARD_BYTES: usize = 4 << 10;
/// Bytes collected before a write to the system.
const WRITE_BYTES: usize = 4 << 10;
/// Time for which the system tries to deliver data of a stream.
const UNDELIVERED_MS: u32 = 60_000;
/// A comment: a line that begins with a colon is ignored.
const PING: &[u8] = b":\n\n";

/// The value of `Sec-WebSocket-Accept` for a key.
pub fn accept_key(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

/// A connection and its protocol.
pub enum Protocol {
    WebSocket(Box<WebSocket<Wire>>),
    Events(EventStream),
}

/// A stream of server-sent events.
pub struct EventStream {
    wire: Wire,
    /// Bytes that the system has not accepted yet.
    out: Vec<u8>,
}

impl Protocol {
    pub fn web_socket(wire: Wire, config: WebSocketConfig) -> Protocol {
        let socket = WebSocket::from_raw_socket(wire, Role::Server, Some(config));
        Protocol::WebSocket(Box::new(socket))
    }

    /// Wraps a stream whose response head was sent.
    pub fn events(stream: Arc<TcpStream>) -> Protocol {
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNDELIVERED_MS) {
            log::warn(format_args!(
                "set the time limit of an event stream: {error}"
            ));
        }
        Protocol::Events(EventStream {
            wire: Wire::new(stream, Vec::new()),
            out: Vec::new(),
        })
    }

    pub fn wire(&self) -> &Wire {
        match self {
            Protocol::WebSocket(socket) => socket.get_ref(),
            Protocol::Events(events) => &events.wire,
        }
    }

    pub fn wire_mut(&mut self) -> &mut Wire {
        match self {
            Protocol::WebSocket(socket) => socket.get_mut(),
            Protocol::Events(events) => &mut events.wire,
        }
    }

    /// True if the client answers pings.
    pub fn answers_pings(&self) -> bool {
        matches!(self, Protocol::WebSocket(_))
    }

    /// Replaces the buffers, which must be empty.
    pub fn reset_buffers(&mut self, config: WebSocketConfig) {
        if let Protocol::WebSocket(socket) = self {
            *self = Protocol::web_socket(socket.get_ref().reset(), config);
        }
    }

    /// Reads the next message. A stream never returns one.
    pub fn read(&mut self) -> tungstenite::Result<Message> {
        match self {
            Protocol::WebSocket(socket) => socket.read(),
            Protocol::Events(events) => Err(events.discard_input()),
        }
    }

    pub fn write(&mut self, message: Message) -> tungstenite::Result<()> {
        match (self, message) {
            (Protocol::WebSocket(socket), message) => socket.write(message),
            (Protocol::Events(events), Message::Frame(frame)) => events.write(frame.payload()),
            (Protocol::Events(events), Message::Ping(_)) => events.write(PING),
            (Protocol::Events(_), _) => Ok(()),
        }
    }

    pub fn flush(&mut self) -> tungstenite::Result<()> {
        match self {
            Protocol::WebSocket(socket) => socket.flush(),
            Protocol::Events(events) => events.flush(),
        }
    }

    /// Sends what is buffered and closes the sending side.
    pub fn close(&mut self, frame: CloseFrame) -> tungstenite::Result<()> {
        match self {
            Protocol::WebSocket(socket) => socket.close(Some(frame)),
            Protocol::Events(events) => {
                events.flush()?;
                Ok(events.wire.stream().shutdown(Shutdown::Write)?)
            }
        }
    }
}

impl EventStream {
    /// Discards what the client sends, until an error ends that, which is returned.
    fn discard_input(&mut self) -> Error {
        let mut discarded = [0; DISCARD_BYTES];
        loop {
            match self.wire.read(&mut discarded) {
                Ok(0) => return Error::ConnectionClosed,
                Ok(_) => {}
                Err(error) => return Error::Io(error),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> tungstenite::Result<()> {
        self.out.extend_from_slice(bytes);
        match self.out.len() < WRITE_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> tungstenite::Result<()> {
        let mut sent = 0;
        let result = loop {
            match self.wire.write(&self.out[sent..]) {
                Ok(0) if sent < self.out.len() => break Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => sent += size,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if sent == self.out.len() {
                break Ok(());
            }
        };
        self.out.drain(..sent);
        if self.out.is_empty() && self.out.capacity() > 4 * WRITE_BYTES {
            self.out = Vec::new();
        }
        Ok(result?)
    }
}
