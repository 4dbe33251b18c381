//! The feed of record changes from writers to subscribers, and the signal of queued calls.
//!
//! `records` publishes each [`RecordChange`] after the commit of its transaction. So the changes of
//! a database arrive in the order of its commits, and none arrives that was rolled back. Calls of
//! triggers and webhooks do not pass through here: `triggers::outbox` stores them in the
//! transaction, and [`Events::notify_calls`] wakes `webhooks`.
//!
//! No change is read or kept for a collection without watchers. A new watcher is guaranteed a
//! change only if its transaction began later; [`crate::store::db::CommitBarrier`] reports when all
//! earlier ones have ended.
//!
//! Bound: [`BYTES_MAX`] of queued changes. A writer never waits for a consumer: excess changes are
//! dropped, and the consumer gets the ids of their collections.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Duration;

use crate::base::signal::Signal;
use crate::base::threads;
use crate::base::threads::lock;
use crate::model::collections::Collection;
use crate::model::triggers::RecordAction;

/// Limit of queued changes, in bytes.
const BYTES_MAX: usize = 64 << 20;
/// Memory of a change besides its values, in bytes.
const CHANGE_BYTES: usize = 256;

pub type SqlValue = rusqlite::types::Value;

/// A record at one moment.
#[derive(Clone, Debug)]
pub struct RecordState {
    /// The definition with which it was written.
    pub collection: Arc<Collection>,
    /// `id`, `created`, `updated`, then a value per field; NULL in place of secrets.
    pub values: Vec<SqlValue>,
}

impl RecordState {
    /// The columns before the fields.
    pub const SYSTEM: [&str; 3] = ["id", "created", "updated"];

    pub fn id(&self) -> &str {
        match self.values.first() {
            Some(SqlValue::Text(id)) => id,
            _ => "",
        }
    }

    /// Approximate memory, in bytes.
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

/// A committed change of a record.
#[derive(Clone, Debug)]
pub struct RecordChange {
    pub action: RecordAction,
    /// The record after the change; for a deletion, before it.
    pub state: RecordState,
}

/// The queue of changes and the set of watched collections.
#[derive(Default)]
pub struct Events {
    /// Ids of watched collections, with the number of watchers.
    watched: RwLock<HashMap<String, usize>>,
    /// The number of watched collections, usually 0.
    watched_count: AtomicUsize,
    queue: Mutex<ChangeQueue>,
    arrived: Condvar,
    /// Databases with queued calls.
    calls: Arc<Signal<String>>,
}

#[derive(Default)]
struct ChangeQueue {
    changes: VecDeque<Arc<RecordChange>>,
    bytes: usize,
    /// Ids of collections with dropped changes.
    lost: HashSet<String>,
    /// True if the changes are of several collections.
    is_mixed: bool,
    is_woken: bool,
}

/// The changes that were queued.
#[derive(Default)]
pub struct DrainedChanges {
    pub changes: VecDeque<Arc<RecordChange>>,
    /// Ids of collections whose later changes were dropped.
    pub lost: HashSet<String>,
}

impl Events {
    pub fn new(calls: Arc<Signal<String>>) -> Events {
        Events {
            calls,
            ..Events::default()
        }
    }

    /// True if a collection has a watcher.
    pub fn is_watched(&self, collection: &str) -> bool {
        if self.watched_count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let watched = self.watched.read();
        let watched = watched.unwrap_or_else(std::sync::PoisonError::into_inner);
        watched.contains_key(collection)
    }

    /// Adds a watcher of a collection. Returns true for the first one.
    pub fn watch(&self, collection: &str) -> bool {
        self.change_watched(|watched| {
            let count = watched.entry(collection.to_owned()).or_default();
            *count += 1;
            *count == 1
        })
    }

    /// Removes a watcher.
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

    /// Queues a committed change. Never waits.
    pub fn publish(&self, change: RecordChange) {
        let bytes = change.state.bytes();
        let mut queue = lock(&self.queue);
        let collection = &change.state.collection.id;
        // After a gap in a collection, queue nothing more of it, so the consumer knows where the
        // gap starts.
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

    /// True if a change of another collection is queued.
    pub fn has_others(&self, collection: &str) -> bool {
        let queue = lock(&self.queue);
        let first = queue.changes.front();
        queue.is_mixed || first.is_some_and(|first| first.state.collection.id != collection)
    }

    /// Signals that a database has queued calls.
    pub fn notify_calls(&self, database: &str) {
        self.calls.notify(database);
    }

    /// Ends the current or next wait in [`Events::drain`].
    pub fn wake(&self) {
        lock(&self.queue).is_woken = true;
        self.arrived.notify_all();
    }

    /// Removes all queued changes. Waits up to `limit` if there are none.
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
    use serde_json::json;

    use super::*;
    use crate::model::collections::test_collection;

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
        let make = |id: &str| Arc::new(test_collection(id, id, json!([])));
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
        let make = |id: &str| Arc::new(test_collection(id, id, json!([])));
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
