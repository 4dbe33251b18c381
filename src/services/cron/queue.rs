//! The queue of a worker thread.

use std::sync::Arc;

use super::job::CronJob;

/// A run to do.
pub struct QueuedRun {
    pub job: Arc<CronJob>,
    /// `None` if the run was requested by hand.
    pub due_ms: Option<i64>,
    /// The job may have run for this time before; see `core`.
    pub is_repeat: bool,
    /// Its row in the history, if there is one.
    pub run: Option<i64>,
}
