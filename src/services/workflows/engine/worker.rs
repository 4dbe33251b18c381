//! A connected worker, and how many of its frames wait.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use crate::model::auth::StoredCredentials;
use crate::net::sockets::SocketHandle;

/// Frames of one worker that wait, and their bytes.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 2 << 20;

/// A connected worker, for whoever sends to it.
#[derive(Clone)]
pub struct WorkerHandle {
    pub link: SocketHandle,
    pub pending: Arc<PendingFrames>,
    pub pass: Arc<Mutex<StoredCredentials>>,
}

/// What of a worker waits in the queue.
///
/// The invariant: whenever it was full after an addition, the removal by which it no longer is says so. Both
/// go by what their own change of the counts made of them; a look before it could miss an addition between.
/// One thread adds and one removes.
#[derive(Default)]
pub struct PendingFrames {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl PendingFrames {
    /// Whether it is full now.
    pub fn add(&self, bytes: usize) -> bool {
        let frames = self.frames.fetch_add(1, Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        frames >= PENDING_MAX || bytes >= PENDING_BYTES_MAX
    }

    /// Whether it was full, and is no longer.
    fn remove(&self, bytes: usize) -> bool {
        let frames_before = self.frames.fetch_sub(1, Relaxed);
        let bytes_before = self.bytes.fetch_sub(bytes, Relaxed);
        let is_full = |frames, bytes| frames >= PENDING_MAX || bytes >= PENDING_BYTES_MAX;
        is_full(frames_before, bytes_before) && !is_full(frames_before - 1, bytes_before - bytes)
    }
}

impl WorkerHandle {
    /// A frame of it has been dealt with.
    pub fn frame_done(&self, bytes: usize) {
        if self.pending.remove(bytes) {
            self.link.resume();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::base::threads;

    /// A worker that was held while the engine took a frame of it was never read again: 30 seconds later its
    /// runs were taken from it as if it had died.
    #[test]
    fn one_that_is_held_is_resumed() {
        // What a link does: a resume from the moment on at which a frame is added undoes the hold.
        let (pending, is_held) = (
            Arc::new(PendingFrames::default()),
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
                // Both threads may have one core.
                std::thread::yield_now();
            }
        }
        drop(sender);
        engine.unwrap().join().unwrap();
    }

    const FRAMES: usize = 2_000_000;
    /// For one hold, not for all frames: with other load, those take long.
    const PATIENCE: Duration = Duration::from_secs(20);
}
