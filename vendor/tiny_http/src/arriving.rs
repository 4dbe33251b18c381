//! A request whose body is arriving, and the time that it may take.
//!
//! New file.

use std::net::SocketAddr;
use std::time::Duration;

use crate::body::{About, BodyError, Receiving, Target};
use crate::head::Head;
use crate::Shared;

/// A head and its body as far as it has come.
pub(crate) struct Arriving {
    pub head: Head,
    pub body: Receiving,

    // bytes of the body in this window of time, and its start
    progress: usize,
    since_ms: u64,
}

/// Error that can happen when reading a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReadError {
    /// answer with this status and close
    Refuse(u16),
    /// the peer is too slow: as `Refuse(408)`
    TooSlow,
    /// close without an answer
    Closed,
}

impl Arriving {
    pub fn new(head: Head, target: Target, shared: &Shared) -> Arriving {
        Arriving {
            body: Receiving::new(head.framing, target),
            head,
            progress: 0,
            since_ms: shared.now_ms(),
        }
    }

    /// Begins the window of time now.
    pub fn restart(&mut self, shared: &Shared) {
        self.since_ms = shared.now_ms();
    }

    /// The end of the window.
    pub fn due_ms(&self, shared: &Shared) -> u64 {
        self.since_ms + millis(shared.limits.progress_time)
    }

    /// Takes what belongs to the body. Returns how much that was.
    pub fn feed(
        &mut self,
        input: &[u8],
        peer: SocketAddr,
        shared: &Shared,
    ) -> Result<usize, BodyError> {
        let head = &self.head;
        self.body.feed(input, &About { head, peer, shared })
    }

    /// See `Receiving::room`.
    pub fn room(
        &mut self,
        peer: SocketAddr,
        shared: &Shared,
    ) -> Result<Option<&mut Vec<u8>>, BodyError> {
        let head = &self.head;
        self.body.room(&About { head, peer, shared })
    }

    /// Counts what has come of the body. Too little in a window of time is an error.
    pub fn check(&mut self, count: usize, shared: &Shared) -> Result<(), ReadError> {
        let now_ms = shared.now_ms();
        self.progress += count;
        if now_ms >= self.due_ms(shared) {
            if self.progress < shared.limits.progress_bytes {
                return Err(ReadError::TooSlow);
            }
            self.progress = 0;
            self.since_ms = now_ms;
        }
        Ok(())
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
