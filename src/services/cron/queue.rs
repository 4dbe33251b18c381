//! The queue of a worker thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::job::CronJob;
use crate::base::threads::{Stop, lock, wait_timeout};

/// Longest wait for something to do.
const IDLE_WAIT: Duration = Duration::from_secs(60);

/// A run that is to be.
pub struct QueuedRun {
    pub job: Arc<CronJob>,
    /// None: somebody wants it now.
    pub due_ms: Option<i64>,
    /// There may have been one of the same time; see `core`.
    pub is_repeat: bool,
    /// Its row in the history, if it has one already.
    pub run: Option<i64>,
}

/// The queue of a thread. Bound: a job is in it once.
#[derive(Default)]
pub struct JobQueue {
    queue: Mutex<VecDeque<QueuedRun>>,
    arrived: Condvar,
}

impl JobQueue {
    pub fn push(&self, work: QueuedRun) {
        lock(&self.queue).push_back(work);
        self.arrived.notify_one();
    }

    pub fn wake(&self) {
        let _queue = lock(&self.queue);
        self.arrived.notify_all();
    }

    /// Waits for the next; none at a stop.
    pub fn take(&self, stop: &Stop) -> Option<QueuedRun> {
        let mut queue = lock(&self.queue);
        loop {
            if stop.is_set() {
                return None;
            }
            if let Some(work) = queue.pop_front() {
                return Some(work);
            }
            queue = wait_timeout(&self.arrived, queue, IDLE_WAIT);
        }
    }
}
