//! The databases that were written to, for the thread that notifies replicas.
//!
//! Bound: a name is kept once however often its database changes, and no name is kept while there
//! is no listener.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::commit_position::NextPosition;
use crate::base::signal::Signal;
use crate::base::threads::lock;

/// Positions that are kept without a look at their use.
const SWEEP_MIN: usize = 64;

/// The names of changed databases, until the listener takes them.
#[derive(Default)]
pub struct ChangedDatabases {
    /// By database, also while it is closed. Bound: twice the databases that replicas follow or
    /// that are open.
    positions: Mutex<HashMap<String, NextPosition>>,
    /// Number of positions at which unused ones are dropped.
    sweep_at: AtomicUsize,
    has_listener: AtomicBool,
    count: AtomicU64,
    names: Signal<String>,
}

impl ChangedDatabases {
    /// Starts or stops collecting names.
    pub fn listen(&self, has_listener: bool) {
        self.has_listener.store(has_listener, Ordering::SeqCst);
        if !has_listener {
            self.names.clear();
        }
    }

    /// The shared position of the next commits of this database.
    pub fn next_position(&self, name: &str) -> NextPosition {
        let mut positions = lock(&self.positions);
        // Drops those that no replica follows and no open database uses.
        if positions.len() >= self.sweep_at.load(Ordering::Relaxed) {
            positions.retain(|_, next| Arc::strong_count(next) > 1 || lock(next).is_some());
            let sweep_at = 2 * positions.len() + SWEEP_MIN;
            self.sweep_at.store(sweep_at, Ordering::Relaxed);
        }
        Arc::clone(positions.entry(name.to_owned()).or_default())
    }

    /// Forgets the position of a database: its name may mean another one later.
    pub fn forget(&self, name: &str) {
        lock(&self.positions).remove(name);
    }

    /// Adds a database after a durable commit.
    pub fn add(&self, name: &str) {
        if !self.has_listener.load(Ordering::SeqCst) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.names.notify(name);
    }

    /// Commits counted while there was a listener.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes the names; waits for the first one, at most for `limit`.
    pub fn take(&self, limit: Duration) -> BTreeSet<String> {
        self.names.wait(limit)
    }

    /// Ends a wait in [`ChangedDatabases::take`].
    pub fn wake(&self) {
        self.names.wake();
    }
}
