//! A set of names of work for one thread, such as databases with new rows in an outbox.
//!
//! Bound: a name is in it once however often it is added.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::threads::{lock, wait_timeout};

/// See the module documentation.
pub struct Signal<T> {
    pending: Mutex<Pending<T>>,
    changed: Condvar,
}

struct Pending<T> {
    names: BTreeSet<T>,
    is_woken: bool,
}

impl<T> Default for Signal<T> {
    fn default() -> Signal<T> {
        Signal {
            pending: Mutex::new(Pending {
                names: BTreeSet::new(),
                is_woken: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl<T: Ord> Signal<T> {
    /// Adds a name and wakes the thread.
    pub fn notify<Q: Ord + ToOwned<Owned = T> + ?Sized>(&self, name: &Q)
    where
        T: Borrow<Q>,
    {
        let names = &mut lock(&self.pending).names;
        if !names.contains(name) {
            names.insert(name.to_owned());
            self.changed.notify_all();
        }
    }

    /// Ends the wait in progress, or else the next one, so that the thread notices a stop.
    pub fn wake(&self) {
        lock(&self.pending).is_woken = true;
        self.changed.notify_all();
    }

    /// Removes the names and returns them; waits for the first one, at most for `limit`.
    pub fn wait(&self, limit: Duration) -> BTreeSet<T> {
        let deadline = Instant::now() + limit;
        let mut pending = lock(&self.pending);
        while pending.names.is_empty() && !pending.is_woken {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            pending = wait_timeout(&self.changed, pending, left);
        }
        pending.is_woken = false;
        std::mem::take(&mut pending.names)
    }

    /// Forgets the names.
    pub fn clear(&self) {
        lock(&self.pending).names.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_once_and_a_wake_ends_one_wait() {
        let signal = Signal::default();
        for name in ["b", "a", "b"] {
            signal.notify(&name);
        }
        let long = Duration::from_secs(60);
        assert_eq!(signal.wait(long), BTreeSet::from(["a", "b"]));
        signal.wake();
        assert!(signal.wait(long).is_empty());
        assert!(signal.wait(Duration::from_millis(5)).is_empty());
        signal.notify(&"c");
        signal.clear();
        assert!(signal.wait(Duration::ZERO).is_empty());
    }
}
