//! A connected worker and its waiting frames.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use crate::model::auth::StoredCredentials;
use crate::net::sockets::SocketHandle;

/// Waiting frames of one worker, and their bytes.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 2 << 20;

#[derive(Clone)]
pub struct WorkerHandle {
    pub link: SocketHandle,
    pub pending: Arc<PendingFrames>,
    pub pass: Arc<Mutex<StoredCredentials>>,
}

/// The waiting frames of a worker.
///
/// Invariant: if it was full after an addition, then the removal that ends this state reports it.
/// Both decide by the counts that their own change returns; a separate read could miss an addition
/// in between. One thread adds and one removes.
#[derive(Default)]
pub struct PendingFrames {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl PendingFrames {
    /// Adds a frame; true if the limit is reached now.
    pub fn add(&self, bytes: usize) -> bool {
        let frames = self.frames.fetch_add(1, Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        frames >= PENDING_MAX || bytes >= PENDING_BYTES_MAX
    }

    /// Removes a frame; true if the limit was reached before and is not now.
    fn remove(&self, bytes: usize) -> bool {
        let frames_before = self.frames.fetch_sub(1, Relaxed);
        let bytes_before = self.bytes.fetch_sub(bytes, Relaxed);
        let is_full = |frames, bytes| frames >= PENDING_MAX || bytes >= PENDING_BYTES_MAX;
        is_full(frames_before, bytes_before) && !is_full(frames_before - 1, bytes_before - bytes)
    }
}

impl WorkerHandle {
    /// Removes a processed frame, and resumes the socket if it was paused.
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

    /// A paused worker whose frame was processed at the same time was never read again: 30 seconds
    /// later it lost its runs as if it had died.
    #[test]
    fn one_that_is_held_is_resumed() {
        // The socket handle behaves alike: a resume after a frame is added cancels the pause.
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
