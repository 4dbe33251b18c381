//! Which databases have been written to, for whoever wants to hear of it at once.
//!
//! Bound: a name is kept once however often its database changes, and nothing is kept while nobody
//! listens.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::commit::Mark;
use crate::base::threads;
use crate::base::threads::lock;

/// Which state the next writes to a file are in, for those who follow it; none while nobody does.
pub type NextMark = Arc<Mutex<Option<Mark>>>;

/// The names of changed databases, until somebody takes them.
#[derive(Default)]
pub struct Changes {
    /// By database, also while it is closed. Bound: databases that are followed.
    marks: Mutex<HashMap<String, NextMark>>,
    listens: AtomicBool,
    count: AtomicU64,
    names: Mutex<BTreeSet<String>>,
    noted: Condvar,
}

impl Changes {
    /// From now on names are kept, or no longer.
    pub fn listen(&self, listens: bool) {
        self.listens.store(listens, Ordering::SeqCst);
        if !listens {
            lock(&self.names).clear();
        }
    }

    /// Where it stands which state the next writes to this database are in.
    pub fn next_mark(&self, name: &str) -> NextMark {
        let mut marks = lock(&self.marks);
        // What nobody follows and nobody has open need not be kept.
        marks.retain(|_, mark| Arc::strong_count(mark) > 1 || lock(mark).is_some());
        Arc::clone(marks.entry(name.to_owned()).or_default())
    }

    /// The name may come to mean another database.
    pub fn forget(&self, name: &str) {
        lock(&self.marks).remove(name);
    }

    /// A commit of this database is durable.
    pub fn note(&self, name: &str) {
        if !self.listens.load(Ordering::SeqCst) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut names = lock(&self.names);
        if !names.contains(name) {
            names.insert(name.to_owned());
            self.noted.notify_all();
        }
    }

    /// How many were noted so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until there are some, at most this long, and takes them.
    pub fn take(&self, limit: Duration) -> BTreeSet<String> {
        let mut names = lock(&self.names);
        if names.is_empty() {
            names = threads::wait_timeout(&self.noted, names, limit);
        }
        std::mem::take(&mut names)
    }

    /// Ends the wait of those who wait.
    pub fn wake(&self) {
        let _names = lock(&self.names);
        self.noted.notify_all();
    }
}
