//! Commands for the realtime thread, and the queue in which they wait.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::credential_checks::CheckPurpose;
use super::frames::FrameResult;
use super::registry::{IdentifiedCaller, SessionId};
use super::topics::Topic;
use crate::base::error::Result;
use crate::base::queue::Queue;
use crate::model::events::Events;
use crate::net::sockets::{FrameBacklog, SocketHandle};

/// Commands taken from the queue in one round.
const COMMANDS_MAX: usize = 512;

/// A command for the thread.
pub enum RealtimeCommand {
    Opened {
        session: SessionId,
        handle: SocketHandle,
        database: String,
        caller: IdentifiedCaller,
        client: Option<String>,
        pending: Arc<FrameBacklog>,
    },
    Frame {
        session: SessionId,
        frame: FrameResult,
    },
    Closed {
        session: SessionId,
    },
    /// The result of a credential check.
    Checked {
        session: SessionId,
        purpose: CheckPurpose,
        found: Result<IdentifiedCaller>,
    },
    /// Tells a client the code of its sign-in with a provider.
    TellSignIn {
        client: String,
        database: String,
        /// JSON.
        message: String,
        /// True if the client waits for a code.
        answer: mpsc::SyncSender<bool>,
    },
    /// Replaces the topics of a client of server-sent events.
    SetTopics {
        client: String,
        database: String,
        caller: IdentifiedCaller,
        topics: Vec<Topic>,
        answer: mpsc::SyncSender<Result<()>>,
    },
}

/// The queue of commands. A push also wakes the thread, which waits for events.
pub struct CommandQueue {
    /// Bound: 64 frames and two checks of each connection, one command of each waiting request.
    queue: Queue<RealtimeCommand>,
    events: Arc<Events>,
}

impl CommandQueue {
    pub fn new(events: &Arc<Events>) -> CommandQueue {
        CommandQueue {
            queue: Queue::default(),
            events: Arc::clone(events),
        }
    }

    /// Returns false if the queue is closed.
    pub fn push(&self, command: RealtimeCommand) -> bool {
        let is_queued = self.queue.push(command).is_ok();
        if is_queued {
            self.events.wake();
        }
        is_queued
    }

    /// Moves commands behind those that remain from the last round.
    pub fn drain_into(&self, commands: &mut VecDeque<RealtimeCommand>) {
        let room = COMMANDS_MAX.saturating_sub(commands.len());
        commands.extend(self.queue.pop_while(Duration::ZERO, room, |_| true));
        if self.queue.len() > 0 {
            // Start the next round at once.
            self.events.wake();
        }
    }

    /// Drops the queued commands and accepts no more.
    pub fn close(&self) {
        drop(self.queue.close());
    }
}
