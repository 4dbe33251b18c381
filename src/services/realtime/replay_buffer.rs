//! The changes of the last minutes, so that a client that reconnects misses none.
//!
//! For each watched collection the buffer knows since when it is complete. Bound: [`KEPT`] of time
//! and [`BYTES_MAX`] of changes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::ids;
use crate::model::events::RecordChange;
use crate::store::db::CommitBarrier;

/// Time for which a client can be disconnected without missing events.
pub const KEPT: Duration = Duration::from_secs(300);
const BYTES_MAX: usize = 32 << 20;

pub struct ReplayBuffer {
    /// Identifies this process. Numbers of another process are not comparable.
    epoch: String,
    seq: u64,
    changes: VecDeque<(u64, Instant, Arc<RecordChange>)>,
    bytes: usize,
    watches: HashMap<String, Watch>,
}

/// A collection that is watched, or was some minutes ago.
struct Watch {
    /// Number of watchers.
    count: usize,
    /// Every change with a higher number is in the buffer.
    complete_after: u64,
    /// Until it passes, changes that began before the watch can still be missed.
    barrier: Option<CommitBarrier>,
    /// When to forget the collection; set while it has no watcher.
    ends: Option<Instant>,
}

impl ReplayBuffer {
    /// `seed` distinguishes processes.
    pub fn new(seed: [u8; 4]) -> ReplayBuffer {
        ReplayBuffer {
            epoch: ids::hex(&seed),
            seq: 0,
            changes: VecDeque::new(),
            bytes: 0,
            watches: HashMap::new(),
        }
    }

    /// The event id of the change with this number.
    pub fn event_id(&self, seq: u64) -> String {
        format!("{}.{seq}", self.epoch)
    }

    pub fn last_event_id(&self) -> String {
        self.event_id(self.seq)
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.changes.len()
    }

    /// Adds a change and returns its number.
    pub fn add(&mut self, change: Arc<RecordChange>, now: Instant) -> u64 {
        self.seq += 1;
        self.bytes += change.state.bytes();
        self.changes.push_back((self.seq, now, change));
        self.evict(now);
        self.seq
    }

    /// Removes changes that are too old or exceed the bound.
    pub fn evict(&mut self, now: Instant) {
        while let Some((seq, at, change)) = self.changes.front() {
            if self.bytes <= BYTES_MAX && now.saturating_duration_since(*at) <= KEPT {
                break;
            }
            if let Some(watch) = self.watches.get_mut(&change.state.collection.id) {
                watch.complete_after = watch.complete_after.max(*seq);
            }
            self.bytes -= change.state.bytes();
            self.changes.pop_front();
        }
        if self.changes.is_empty() && self.changes.capacity() > 1024 {
            self.changes = VecDeque::new();
        }
    }

    /// Counts one more watcher. Returns true for the first one: the caller must then start
    /// recording the collection in `events`, and set a barrier after that.
    pub fn watch(&mut self, collection: &str) -> bool {
        if !self.watches.contains_key(collection) {
            // Changes up to now were not recorded, so a client that knows the last number may have
            // missed some.
            self.seq += 1;
        }
        let seq = self.seq;
        let mut is_new = false;
        let watch = self
            .watches
            .entry(collection.to_owned())
            .or_insert_with(|| {
                is_new = true;
                Watch {
                    count: 0,
                    complete_after: seq,
                    barrier: None,
                    ends: None,
                }
            });
        watch.count += 1;
        watch.ends = None;
        is_new
    }

    /// Sets the barrier: changes that began before it passes can be missed.
    pub fn set_barrier(&mut self, collection: &str, barrier: Option<CommitBarrier>) {
        if let Some(watch) = self.watches.get_mut(collection) {
            watch.barrier = barrier;
        }
    }

    /// Counts one watcher less. Changes are still recorded for [`KEPT`].
    pub fn unwatch(&mut self, collection: &str, now: Instant) {
        if let Some(watch) = self.watches.get_mut(collection) {
            watch.count -= 1;
            if watch.count == 0 {
                watch.ends = Some(now + KEPT);
            }
        }
    }

    /// Removes and returns the collections that have had no watcher for [`KEPT`].
    pub fn unwatched(&mut self, now: Instant) -> Vec<String> {
        let is_over = |watch: &Watch| watch.ends.is_some_and(|end| end <= now);
        let over = self.watches.iter().filter(|(_, watch)| is_over(watch));
        let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
        for id in &over {
            self.watches.remove(id);
        }
        over
    }

    /// True if every change committed from now on is recorded.
    pub fn is_complete(&mut self, collection: &str) -> bool {
        let seq = self.seq;
        let Some(watch) = self.watches.get_mut(collection) else {
            return false;
        };
        if watch
            .barrier
            .as_ref()
            .is_some_and(|barrier| !barrier.has_passed())
        {
            return false;
        }
        if watch.barrier.take().is_some() {
            watch.complete_after = seq;
        }
        true
    }

    /// Records that changes after the present ones were dropped.
    pub fn mark_lost(&mut self, collection: &str) {
        self.seq += 1;
        if let Some(watch) = self.watches.get_mut(collection) {
            watch.complete_after = self.seq;
        }
    }

    /// At most `most` changes of a collection after the event `name`, with their numbers. Returns
    /// none if some may be missing.
    pub fn changes_after(
        &self,
        collection: &str,
        name: &str,
        most: usize,
    ) -> Option<Vec<(u64, Arc<RecordChange>)>> {
        let (epoch, seq) = name.split_once('.')?;
        let seq: u64 = seq.parse().ok()?;
        let watch = self.watches.get(collection)?;
        if epoch != self.epoch || seq < watch.complete_after || seq > self.seq {
            return None;
        }
        let first = self.changes.partition_point(|(at, _, _)| *at <= seq);
        let changes = self.changes.range(first..);
        let changes = changes.filter(|(_, _, change)| change.state.collection.id == collection);
        Some(
            changes
                .take(most)
                .map(|(at, _, change)| (*at, Arc::clone(change)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::collections::{Collection, test_collection};
    use crate::model::events::{RecordState, SqlValue};
    use crate::model::triggers::RecordAction;
    use serde_json::json;

    fn change(collection: &Arc<Collection>, size: usize) -> Arc<RecordChange> {
        Arc::new(RecordChange {
            action: RecordAction::Update,
            state: RecordState {
                collection: Arc::clone(collection),
                values: vec![SqlValue::Text("x".repeat(size))],
            },
        })
    }

    #[test]
    fn a_short_absence_misses_nothing_and_a_longer_one_is_reported() {
        let (a, b) = (
            test_collection("a", "a", json!([])),
            test_collection("b", "b", json!([])),
        );
        let (a, b, now) = (Arc::new(a), Arc::new(b), Instant::now());
        let mut buffer = ReplayBuffer::new([1, 2, 3, 4]);
        assert!(buffer.watch("a") && !buffer.watch("a"));
        assert!(buffer.is_complete("a"));
        let first = buffer.last_event_id();
        buffer.add(change(&a, 1), now);
        assert!(buffer.watch("b"));
        let second = buffer.last_event_id();
        buffer.add(change(&b, 1), now);
        let count = |buffer: &ReplayBuffer, id: &str, name: &str| {
            Some(buffer.changes_after(id, name, 9)?.len())
        };
        assert_eq!(count(&buffer, "a", &first), Some(1));
        assert_eq!(count(&buffer, "a", &second), Some(0));
        // It was not watched then.
        assert_eq!(count(&buffer, "b", &first), None);
        assert_eq!(count(&buffer, "b", &second), Some(1));
        for wrong in ["", "x", "ffffffff.1", "01020304.999", "01020304.-1"] {
            assert_eq!(count(&buffer, "a", wrong), None, "{wrong}");
        }
        buffer.mark_lost("a");
        assert_eq!(count(&buffer, "a", &second), None);
        assert_eq!(count(&buffer, "b", &second), Some(1));
        buffer.evict(now + KEPT + Duration::from_secs(1));
        assert_eq!((count(&buffer, "b", &second), buffer.count()), (None, 0));
    }

    #[test]
    fn what_others_change_does_not_make_anybody_miss_anything() {
        let (a, b) = (
            test_collection("a", "a", json!([])),
            test_collection("b", "b", json!([])),
        );
        let (a, b, now) = (Arc::new(a), Arc::new(b), Instant::now());
        let mut buffer = ReplayBuffer::new([0; 4]);
        buffer.watch("a");
        buffer.watch("b");
        let start = buffer.last_event_id();
        for _ in 0..40 {
            buffer.add(change(&b, 1 << 20), now);
        }
        assert!(buffer.bytes <= BYTES_MAX);
        assert_eq!(buffer.changes_after("a", &start, 9).unwrap().len(), 0);
        assert!(buffer.changes_after("b", &start, 9).is_none());
        buffer.add(change(&a, 1), now);
        assert_eq!(buffer.changes_after("a", &start, 9).unwrap().len(), 1);
        buffer.unwatch("a", now);
        assert!(buffer.unwatched(now).is_empty());
        assert_eq!(buffer.unwatched(now + KEPT), ["a"]);
        assert!(buffer.changes_after("a", &start, 9).is_none());
        // No change was numbered since, but changes may have happened that were not recorded.
        let last = buffer.last_event_id();
        assert!(buffer.watch("a") && buffer.is_complete("a"));
        assert!(buffer.changes_after("a", &last, 9).is_none());
    }
}
