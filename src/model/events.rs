//! What writes tell others: subscribers, from memory, and those whom triggers call, through the outbox.
//!
//! `records` notes each [`RecordChange`] in the transaction that makes it. It reaches [`Events`] after the commit,
//! so for each database changes come in the order of the commits, and only those that have happened.
//!
//! Nothing is read or kept for a collection that nobody watches. Whoever begins to watch one may rely on
//! hearing of a change only if its transaction began after that; [`crate::store::db::CommitBarrier`] says when all others
//! have ended.
//!
//! Bound: [`BYTES_MAX`] of changes wait. A writer is never held up for those who listen: what is too much is
//! dropped, and the collections are named of which something is missing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Duration;

use crate::base::signal::Signal;
use crate::base::threads;
use crate::base::threads::lock;
use crate::model::collections::Collection;
use crate::model::triggers::RecordAction;

/// Bytes of changes that wait to be looked at.
const BYTES_MAX: usize = 64 << 20;
/// What a change takes up besides its values.
const CHANGE_BYTES: usize = 256;

/// A value as SQLite has it.
pub type SqlValue = rusqlite::types::Value;

/// A record at one moment.
#[derive(Clone, Debug)]
pub struct RecordState {
    /// The definition that it was written by.
    pub collection: Arc<Collection>,
    /// `id`, `created`, `updated`, then a value for each field; NULL in place of secret ones.
    pub values: Vec<SqlValue>,
}

impl RecordState {
    /// Columns before those of the fields.
    pub const SYSTEM: [&str; 3] = ["id", "created", "updated"];

    pub fn id(&self) -> &str {
        match self.values.first() {
            Some(SqlValue::Text(id)) => id,
            _ => "",
        }
    }

    /// Bytes that it takes up in memory, roughly.
    pub fn bytes(&self) -> usize {
        let size = |value: &SqlValue| match value {
            SqlValue::Text(text) => text.len(),
            SqlValue::Blob(bytes) => bytes.len(),
            _ => 0,
        };
        let values: usize = self.values.iter().map(size).sum();
        CHANGE_BYTES + values + self.values.len() * size_of::<SqlValue>()
    }
}

/// What has become of a record.
#[derive(Clone, Debug)]
pub struct RecordChange {
    pub action: RecordAction,
    /// After the change; of a deleted record its last one.
    pub state: RecordState,
}

/// The way from those who write to those who listen.
#[derive(Default)]
pub struct Events {
    /// Ids of collections that somebody watches, and how many do.
    watched: RwLock<HashMap<String, usize>>,
    /// How many are in there: none most of the time.
    watched_count: AtomicUsize,
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Databases with calls that are to be made.
    calls: Arc<Signal<String>>,
}

#[derive(Default)]
struct Queue {
    changes: VecDeque<Arc<RecordChange>>,
    bytes: usize,
    /// Ids of collections of which changes were dropped.
    lost: HashSet<String>,
    /// The changes are of more than one collection.
    is_mixed: bool,
    is_woken: bool,
}

/// What was waiting.
#[derive(Default)]
pub struct DrainedChanges {
    pub changes: VecDeque<Arc<RecordChange>>,
    /// Ids of collections of which changes are missing that came after these.
    pub lost: HashSet<String>,
}

impl Events {
    pub fn new(calls: Arc<Signal<String>>) -> Events {
        Events {
            calls,
            ..Events::default()
        }
    }

    /// Whether somebody wants to hear of changes in a collection.
    pub fn is_watched(&self, collection: &str) -> bool {
        if self.watched_count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let watched = self.watched.read();
        let watched = watched.unwrap_or_else(std::sync::PoisonError::into_inner);
        watched.contains_key(collection)
    }

    /// One more watches a collection; true when nobody did before.
    pub fn watch(&self, collection: &str) -> bool {
        self.change_watched(|watched| {
            let count = watched.entry(collection.to_owned()).or_default();
            *count += 1;
            *count == 1
        })
    }

    /// One fewer watches it.
    pub fn unwatch(&self, collection: &str) {
        self.change_watched(|watched| {
            if let Some(count) = watched.get_mut(collection) {
                *count -= 1;
                if *count == 0 {
                    watched.remove(collection);
                }
            }
        });
    }

    fn change_watched<T>(&self, change: impl FnOnce(&mut HashMap<String, usize>) -> T) -> T {
        let watched = self.watched.write();
        let mut watched = watched.unwrap_or_else(std::sync::PoisonError::into_inner);
        let value = change(&mut watched);
        self.watched_count.store(watched.len(), Ordering::SeqCst);
        value
    }

    /// A change has been committed. Never waits.
    pub fn publish(&self, change: RecordChange) {
        let bytes = change.state.bytes();
        let mut queue = lock(&self.queue);
        let collection = &change.state.collection.id;
        // Nothing of a collection comes after what is missing of it: whoever takes knows from when on.
        if queue.bytes + bytes > BYTES_MAX || queue.lost.contains(collection) {
            if !queue.lost.contains(collection) {
                queue.lost.insert(collection.clone());
            }
            return;
        }
        queue.bytes += bytes;
        let first = queue.changes.front();
        queue.is_mixed |= first.is_some_and(|first| first.state.collection.id != *collection);
        queue.changes.push_back(Arc::new(change));
        if queue.changes.len() == 1 {
            self.arrived.notify_all();
        }
    }

    /// True if a change of another collection waits.
    pub fn has_others(&self, collection: &str) -> bool {
        let queue = lock(&self.queue);
        let first = queue.changes.front();
        queue.is_mixed || first.is_some_and(|first| first.state.collection.id != collection)
    }

    /// Calls were queued in a database.
    pub fn notify_calls(&self, database: &str) {
        self.calls.notify(database);
    }

    /// Ends the wait of whoever takes, or the next one.
    pub fn wake(&self) {
        lock(&self.queue).is_woken = true;
        self.arrived.notify_all();
    }

    /// Takes what is there; waits for something, but not longer than this.
    pub fn drain(&self, limit: Duration) -> DrainedChanges {
        let mut queue = lock(&self.queue);
        if queue.changes.is_empty() && queue.lost.is_empty() && !queue.is_woken {
            queue = threads::wait_timeout(&self.arrived, queue, limit);
        }
        queue.is_woken = false;
        queue.bytes = 0;
        queue.is_mixed = false;
        DrainedChanges {
            changes: std::mem::take(&mut queue.changes),
            lost: std::mem::take(&mut queue.lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn change(collection: &Arc<Collection>, text: String) -> RecordChange {
        RecordChange {
            action: RecordAction::Create,
            state: RecordState {
                collection: Arc::clone(collection),
                values: vec![SqlValue::Text(text)],
            },
        }
    }

    #[test]
    fn too_much_is_dropped_and_told_and_nothing_of_it_follows() {
        let events = Events::default();
        let make = |id: &str| {
            Arc::new(crate::model::collections::test_collection(
                id,
                id,
                json!([]),
            ))
        };
        let (big, small) = (make("big"), make("small"));
        for _ in 0..70 {
            events.publish(change(&big, "x".repeat(1 << 20)));
        }
        events.publish(change(&big, "little".to_owned()));
        let taken = events.drain(Duration::ZERO);
        assert!(taken.changes.len() < 70 && taken.changes.len() > 60);
        assert_eq!(taken.lost, HashSet::from(["big".to_owned()]));
        events.publish(change(&small, "s".to_owned()));
        let taken = events.drain(Duration::ZERO);
        assert_eq!((taken.changes.len(), taken.lost.len()), (1, 0));
    }

    #[test]
    fn whether_others_wait_is_known_while_something_waits() {
        let events = Events::default();
        let make = |id: &str| {
            Arc::new(crate::model::collections::test_collection(
                id,
                id,
                json!([]),
            ))
        };
        let (a, b) = (make("a"), make("b"));
        assert!(!events.has_others("a"));
        events.publish(change(&a, String::new()));
        events.publish(change(&a, String::new()));
        assert!(!events.has_others("a") && events.has_others("b"));
        events.publish(change(&b, String::new()));
        assert!(events.has_others("a") && events.has_others("b"));
        events.drain(Duration::ZERO);
        assert!(!events.has_others("a") && !events.has_others("b"));
    }

    #[test]
    fn collections_are_watched_until_the_last_one_leaves() {
        let events = Events::default();
        assert!(!events.is_watched("a"));
        assert!(events.watch("a"));
        assert!(!events.watch("a"));
        events.unwatch("a");
        assert!(events.is_watched("a") && !events.is_watched("b"));
        events.unwatch("a");
        assert!(!events.is_watched("a"));
    }
}
