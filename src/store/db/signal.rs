//! A set of databases that have work for one thread, such as new rows of an outbox.
//!
//! Bound: a name is kept once however often it is added.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::base::threads::{lock, wait_timeout};

/// See the module documentation.
#[derive(Default)]
pub struct Signal {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    names: BTreeSet<String>,
    is_woken: bool,
}

impl Signal {
    /// Adds a database and wakes the thread.
    pub fn notify(&self, database: &str) {
        lock(&self.pending).names.insert(database.to_owned());
        self.changed.notify_one();
    }

    /// Ends the current wait, or the next one, so that the thread notices a stop.
    pub fn wake(&self) {
        lock(&self.pending).is_woken = true;
        self.changed.notify_all();
    }

    /// Takes the databases; waits for the first one, at most for `limit`.
    pub fn wait(&self, limit: Duration) -> BTreeSet<String> {
        let mut pending = lock(&self.pending);
        if pending.names.is_empty() && !pending.is_woken {
            pending = wait_timeout(&self.changed, pending, limit);
        }
        pending.is_woken = false;
        std::mem::take(&mut pending.names)
    }
}
