//! The handler that the socket hub calls: it queues the frames of a connection as commands.

use std::sync::Arc;

use super::command::{CommandQueue, RealtimeCommand};
use super::registry::{IdentifiedCaller, SessionId};
use super::replay_buffer::KEPT;
use super::{frames, topics};
use crate::base::error::Result;
use crate::base::ids;
use crate::net::sockets::{Flow, FrameBacklog, SocketHandle, SocketHandler};

/// Frames of one connection in the command queue, and bytes of one frame.
const PENDING_MAX: usize = 64;
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Close code of RFC 6455, section 7.4.1.
const TOO_LARGE: u16 = 1009;

/// Creates the name of a client of server-sent events. It must be unguessable, because it is what
/// authorizes a client to set its topics.
pub fn new_client() -> Result<String> {
    Ok(ids::hex(&ids::random_bytes::<20>()?))
}

/// The handler of one connection.
pub struct RealtimeHandler {
    pub commands: Arc<CommandQueue>,
    pub session: SessionId,
    pub database: String,
    /// Moved into the command that opens the session.
    pub caller: Option<IdentifiedCaller>,
    /// The name of a client of server-sent events; none for a WebSocket.
    pub client: Option<String>,
    pub pending: Arc<FrameBacklog>,
    pub handle: Option<SocketHandle>,
}

impl SocketHandler for RealtimeHandler {
    fn opened(&mut self, handle: SocketHandle) {
        let first = match &self.client {
            Some(client) => topics::connected(client),
            None => frames::welcome(KEPT.as_millis()),
        };
        handle.send(first.into());
        self.handle = Some(handle.clone());
        if let Some(caller) = self.caller.take() {
            self.commands.push(RealtimeCommand::Opened {
                session: self.session,
                handle,
                database: std::mem::take(&mut self.database),
                caller,
                client: self.client.take(),
                pending: Arc::clone(&self.pending),
            });
        }
    }

    fn received(&mut self, text: &str) -> Flow {
        if text.len() > FRAME_BYTES_MAX {
            if let Some(handle) = &self.handle {
                handle.close(TOO_LARGE, "the frame exceeds 16 KiB");
            }
            return Flow::Continue;
        }
        let is_full = self.pending.add(0);
        self.commands.push(RealtimeCommand::Frame {
            session: self.session,
            frame: frames::parse(text),
        });
        match is_full {
            true => Flow::Pause,
            false => Flow::Continue,
        }
    }

    fn closed(&mut self) {
        self.commands.push(RealtimeCommand::Closed {
            session: self.session,
        });
    }
}

/// The backlog of a new connection. Frames have a bound of their own, so only their number counts.
pub fn backlog() -> Arc<FrameBacklog> {
    Arc::new(FrameBacklog::new(PENDING_MAX, usize::MAX))
}
