//! The frames of one connection that wait in the queue of another thread.
//!
//! A connection whose backlog is full is paused with [`super::Flow::Pause`], and resumed when the
//! other thread has handled enough frames.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::SocketHandle;

/// Invariant: if the backlog was full after an addition, the removal after which it is no longer
/// full says so. Each decides by the counts that its own change made; a separate look could miss an
/// addition between. One thread adds and one removes.
pub struct FrameBacklog {
    frames_max: usize,
    bytes_max: usize,
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl FrameBacklog {
    /// A backlog that is full from so many frames or bytes on.
    pub const fn new(frames_max: usize, bytes_max: usize) -> FrameBacklog {
        FrameBacklog {
            frames_max,
            bytes_max,
            frames: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Adds a frame. Returns true if the backlog is now full: the connection must pause.
    pub fn add(&self, bytes: usize) -> bool {
        let frames = self.frames.fetch_add(1, Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        self.is_full(frames, bytes)
    }

    /// Removes a handled frame, and resumes the connection if it was paused and there is room
    /// again.
    pub fn remove_and_resume(&self, bytes: usize, handle: &SocketHandle) {
        if self.remove(bytes) {
            handle.resume();
        }
    }

    /// Removes a frame. Returns true if the backlog was full and no longer is.
    fn remove(&self, bytes: usize) -> bool {
        let frames_before = self.frames.fetch_sub(1, Relaxed);
        let bytes_before = self.bytes.fetch_sub(bytes, Relaxed);
        self.is_full(frames_before, bytes_before)
            && !self.is_full(frames_before - 1, bytes_before - bytes)
    }

    fn is_full(&self, frames: usize, bytes: usize) -> bool {
        frames >= self.frames_max || bytes >= self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::base::threads;

    /// A paused worker whose frame was processed at the same time was never read again: 30 seconds
    /// later it lost its runs as if it had died.
    #[test]
    fn one_that_is_held_is_resumed() {
        // The socket handle behaves alike: a resume after a frame is added cancels the pause.
        let (pending, is_held) = (
            Arc::new(FrameBacklog::new(256, 2 << 20)),
            Arc::new(AtomicBool::new(false)),
        );
        let (ours, held) = (Arc::clone(&pending), Arc::clone(&is_held));
        let (sender, queue) = mpsc::channel();
        let engine = threads::spawn("engine", move || {
            for bytes in queue {
                if ours.remove(bytes) {
                    held.store(false, Relaxed);
                }
            }
        });
        for n in 0..FRAMES {
            is_held.store(true, Relaxed);
            let is_full = pending.add(10);
            sender.send(10).unwrap();
            let held_at = Instant::now();
            while is_full && is_held.load(Relaxed) {
                assert!(held_at.elapsed() < PATIENCE, "held for ever at {n}");
                // Both threads may share one core.
                std::thread::yield_now();
            }
        }
        drop(sender);
        engine.unwrap().join().unwrap();
    }

    const FRAMES: usize = 2_000_000;
    /// Per pause, not for all frames, which take long under load.
    const PATIENCE: Duration = Duration::from_secs(20);
}
