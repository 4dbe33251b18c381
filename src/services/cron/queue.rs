//! The queue of a worker thread.

use std::sync::Arc;

use super::job::CronJob;

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
