//! Commands for the realtime thread, and the queue in which they wait.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, mpsc};

use super::credential_checks::CheckPurpose;
use super::frames::FrameResult;
use super::registry::{Caller, SessionId};
use super::topics::Topic;
use crate::base::error::Result;
use crate::base::threads::lock;
use crate::model::events::Events;
use crate::net::sockets::SocketHandle;

/// Commands taken from the queue in one round.
const COMMANDS_MAX: usize = 512;

/// A command for the thread.
pub enum Command {
    Opened {
        session: SessionId,
        handle: SocketHandle,
        database: String,
        caller: Caller,
        client: Option<String>,
        pending: Arc<AtomicUsize>,
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
        found: Result<Caller>,
    },
    /// Replaces the topics of a client of server-sent events.
    SetTopics {
        client: String,
        database: String,
        caller: Caller,
        topics: Vec<Topic>,
        answer: mpsc::SyncSender<Result<()>>,
    },
}

/// The queue of commands. A push also wakes the thread, which waits for events.
pub struct CommandQueue {
    state: Mutex<QueueState>,
    events: Arc<Events>,
}

#[derive(Default)]
struct QueueState {
    /// Bound: 64 frames and two checks of each connection, one command of each waiting request.
    commands: VecDeque<Command>,
    is_closed: bool,
}

impl CommandQueue {
    pub fn new(events: &Arc<Events>) -> CommandQueue {
        CommandQueue {
            state: Mutex::default(),
            events: Arc::clone(events),
        }
    }

    /// Returns false if the queue is closed.
    pub fn push(&self, command: Command) -> bool {
        let mut state = lock(&self.state);
        if state.is_closed {
            return false;
        }
        state.commands.push_back(command);
        drop(state);
        self.events.wake();
        true
    }

    /// Moves commands behind those that remain from the last round.
    pub fn drain_into(&self, commands: &mut VecDeque<Command>) {
        let queued = &mut lock(&self.state).commands;
        let count = queued
            .len()
            .min(COMMANDS_MAX.saturating_sub(commands.len()));
        commands.extend(queued.drain(..count));
        if !queued.is_empty() {
            // Start the next round at once.
            self.events.wake();
        }
    }

    /// Drops the queued commands and accepts no more.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let left = std::mem::take(&mut state.commands);
        drop(state);
        drop(left);
    }
}
