//! Databases in which something waits for a thread that works it off.
//!
//! Bound: a name is kept once however often it is given.

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
    /// Somebody wants the thread to look up.
    is_woken: bool,
}

impl Signal {
    /// There is something new in the outbox of this database.
    pub fn notify(&self, database: &str) {
        lock(&self.pending).names.insert(database.to_owned());
        self.changed.notify_one();
    }

    /// Wakes the thread that waits, or that will wait next, to see that it shall stop.
    pub fn wake(&self) {
        lock(&self.pending).is_woken = true;
        self.changed.notify_all();
    }

    /// Waits for the next ones, but not for longer than `limit`.
    pub fn wait(&self, limit: Duration) -> BTreeSet<String> {
        let mut pending = lock(&self.pending);
        if pending.names.is_empty() && !pending.is_woken {
            pending = wait_timeout(&self.changed, pending, limit);
        }
        pending.is_woken = false;
        std::mem::take(&mut pending.names)
    }
}
