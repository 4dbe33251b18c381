//! The steps of a turn: what a thread gives the reader for one, and how it ends.
//!
//! New file.

use std::sync::Arc;

use crate::connection::Connection;
use crate::request::Request;
use crate::Shared;

/// The outcome of a step of a turn.
pub(crate) enum Step {
    /// The next step can follow.
    Next,
    /// The rest is not here yet.
    Rest,
    /// Answers must be complete first; the last of them gives the connection a turn.
    Blocked,
    /// It was enough for one turn, or another thread must go on.
    Yield,
    Request(Request),
    /// The connection has ended.
    Gone,
}

/// The thread that gives a connection its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// One in `recv()`, which may call those hooks that block.
    Worker,
    /// The front thread, which may not: it reads heads and discards.
    Front,
}

/// Buffers that a thread lends to each connection in turn.
#[derive(Default)]
pub(crate) struct Scratch {
    pub head: Vec<u8>,
    pub piece: Vec<u8>,
}

/// The surroundings of a reader in its turn.
pub(crate) struct Context<'a> {
    pub shared: &'a Arc<Shared>,
    pub connection: &'a Arc<Connection>,
    pub by: By,
    pub piece: &'a mut Vec<u8>,

    // bytes that this turn may still read
    pub left: &'a mut usize,
}
