//! A connected worker and its waiting frames.

use std::sync::{Arc, Mutex};

use crate::model::auth::StoredCredentials;
use crate::net::sockets::{FrameBacklog, SocketHandle};

/// Waiting frames of one worker, and their bytes.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 2 << 20;

#[derive(Clone)]
pub struct WorkerHandle {
    pub link: SocketHandle,
    pub pending: Arc<FrameBacklog>,
    pub pass: Arc<Mutex<StoredCredentials>>,
}

impl WorkerHandle {
    pub fn new(link: SocketHandle, pass: StoredCredentials) -> WorkerHandle {
        WorkerHandle {
            link,
            pending: Arc::new(FrameBacklog::new(PENDING_MAX, PENDING_BYTES_MAX)),
            pass: Arc::new(Mutex::new(pass)),
        }
    }

    /// Removes a processed frame, and resumes the socket if it was paused.
    pub fn frame_done(&self, bytes: usize) {
        self.pending.remove_and_resume(bytes, &self.link);
    }
}
