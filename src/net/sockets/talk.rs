//! The two ways of talking over a connection: WebSocket, and a stream of server-sent events.
//!
//! A stream goes one way. Texts are written as they are, each of them a whole event; what the other side
//! sends is thrown away; a ping is a comment. Nobody answers to pings there, so that a peer is gone shows in
//! that the system cannot deliver them for [`UNDELIVERED_MS`].
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>)

use std::io;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::wire::Wire;
use crate::base::log;

/// Read and thrown away at a time.
const WASTE_BYTES: usize = 4 << 10;
/// Gathered before it is handed to the system.
const WRITE_BYTES: usize = 4 << 10;
/// How long the system tries to deliver something to the peer of a stream.
const UNDELIVERED_MS: u32 = 60_000;
/// A line that begins with a colon means nothing.
const PING: &[u8] = b":\n\n";

/// A connection and how one talks over it.
pub enum Talk {
    WebSocket(Box<WebSocket<Wire>>),
    Events(Events),
}

/// A stream of events.
pub struct Events {
    wire: Wire,
    /// What the system has not taken yet.
    out: Vec<u8>,
}

impl Talk {
    pub fn web_socket(wire: Wire, config: WebSocketConfig) -> Talk {
        let socket = WebSocket::from_raw_socket(wire, Role::Server, Some(config));
        Talk::WebSocket(Box::new(socket))
    }

    /// A stream whose head was sent.
    pub fn events(stream: Arc<TcpStream>) -> Talk {
        if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNDELIVERED_MS) {
            log::warn(format_args!("watch over a stream of events: {error}"));
        }
        Talk::Events(Events {
            wire: Wire::new(stream, Vec::new()),
            out: Vec::new(),
        })
    }

    pub fn wire(&self) -> &Wire {
        match self {
            Talk::WebSocket(socket) => socket.get_ref(),
            Talk::Events(events) => &events.wire,
        }
    }

    pub fn wire_mut(&mut self) -> &mut Wire {
        match self {
            Talk::WebSocket(socket) => socket.get_mut(),
            Talk::Events(events) => &mut events.wire,
        }
    }

    /// Whether the other side answers to pings.
    pub fn is_answered(&self) -> bool {
        matches!(self, Talk::WebSocket(_))
    }

    /// Begins with new buffers, when nothing is in the old ones.
    pub fn renew(&mut self, config: WebSocketConfig) {
        if let Talk::WebSocket(socket) = self {
            *self = Talk::web_socket(socket.get_ref().renewed(), config);
        }
    }

    /// The next message; of a stream there is none.
    pub fn read(&mut self) -> tungstenite::Result<Message> {
        match self {
            Talk::WebSocket(socket) => socket.read(),
            Talk::Events(events) => Err(events.waste()),
        }
    }

    pub fn write(&mut self, message: Message) -> tungstenite::Result<()> {
        match (self, message) {
            (Talk::WebSocket(socket), message) => socket.write(message),
            (Talk::Events(events), Message::Frame(frame)) => events.write(frame.payload()),
            (Talk::Events(events), Message::Ping(_)) => events.write(PING),
            (Talk::Events(_), _) => Ok(()),
        }
    }

    pub fn flush(&mut self) -> tungstenite::Result<()> {
        match self {
            Talk::WebSocket(socket) => socket.flush(),
            Talk::Events(events) => events.flush(),
        }
    }

    /// Says farewell, with what is said before it.
    pub fn close(&mut self, frame: CloseFrame) -> tungstenite::Result<()> {
        match self {
            Talk::WebSocket(socket) => socket.close(Some(frame)),
            Talk::Events(events) => {
                events.flush()?;
                Ok(events.wire.stream().shutdown(Shutdown::Write)?)
            }
        }
    }
}

impl Events {
    /// Throws away what the other side says. Why there is no more of it.
    fn waste(&mut self) -> Error {
        let mut waste = [0; WASTE_BYTES];
        loop {
            match self.wire.read(&mut waste) {
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
