//! Positions of commits in the history of a file that replicas follow.
//!
//! A write records its position for its thread, so that the response can name it and a later read
//! can wait until a replica has reached it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

/// Positions kept per thread; a thread that never takes them loses the further ones.
const POSITIONS_MAX: usize = 16;

/// The position of the next commits of a file; none while no replica follows it.
pub type NextPosition = Arc<Mutex<Option<CommitPosition>>>;

/// The first version of a history that includes a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitPosition {
    /// The name that replication gives the history.
    pub history: Arc<str>,
    pub version: u64,
}

thread_local! {
    static POSITIONS: RefCell<Vec<CommitPosition>> = const { RefCell::new(Vec::new()) };
}

/// The positions of the commits of this thread since the last call, one per history.
pub fn take_commit_positions() -> Vec<CommitPosition> {
    POSITIONS.take()
}

/// Records the position of a commit of this thread; it replaces an earlier one of the same history.
pub fn record_position(position: CommitPosition) {
    POSITIONS.with_borrow_mut(|positions| {
        positions.retain(|other| other.history != position.history);
        if positions.len() < POSITIONS_MAX {
            positions.push(position);
        }
    });
}
