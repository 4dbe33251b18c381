//! The live connections, and which of them is closed when room is needed.
//!
//! New file. A connection is in here from its acceptance to its end, to its eviction or until its socket is taken over.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::connection::Connection;
use crate::util::lock;

#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,

    // notified when the last connection has gone
    emptied: Condvar,
}

#[derive(Default)]
struct Inner {
    connections: HashMap<u64, Arc<Connection>>,

    // the longest-waiting ones at the last look, with the moments since which they wait, longest last
    candidates: Vec<(u64, u64)>,
}

/// Candidates collected by one scan of all connections. While they wait, no other connection has waited longer.
const CANDIDATES: usize = 64;

/// Candidates that are passed over because bytes of theirs are here: it is they who wait, for a thread of ours.
const SPARED: usize = 16;

/// Attempts to find another victim if the first one has just received a request.
const TRIES: usize = 4 * CANDIDATES;

/// The treatment of a connection with a partly received request by `close_waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partial {
    Spare,
    Close,
}

impl Registry {
    pub fn insert(&self, connection: &Arc<Connection>) {
        lock(&self.inner)
            .connections
            .insert(connection.id, Arc::clone(connection));
    }

    pub fn remove(&self, id: u64) {
        let mut inner = lock(&self.inner);
        let removed = inner.connections.remove(&id);
        let empty = inner.connections.is_empty();
        drop(inner);
        if empty {
            self.emptied.notify_all();
        }
        // The last reference may close the descriptor: not under the lock.
        drop(removed);
    }

    pub fn get(&self, id: u64) -> Option<Arc<Connection>> {
        lock(&self.inner).connections.get(&id).cloned()
    }

    pub fn len(&self) -> usize {
        lock(&self.inner).connections.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The connections whose time is up.
    pub fn due(&self, now_ms: u64) -> Vec<Arc<Connection>> {
        let inner = lock(&self.inner);
        let due = inner.connections.values().filter(|it| it.is_due(now_ms));
        due.cloned().collect()
    }

    /// Requests without a complete answer.
    pub fn in_hand(&self) -> usize {
        let inner = lock(&self.inner);
        inner.connections.values().map(|one| one.in_hand()).sum()
    }

    /// Closes the connection that has waited longest for its peer. False if every one has a request in hand.
    pub fn evict_longest_waiting(&self) -> bool {
        let mut inner = lock(&self.inner);
        let mut spared = Vec::new();
        for _ in 0..TRIES {
            if inner.candidates.is_empty() {
                inner.look();
            }
            let (since, id) = match inner.candidates.pop() {
                Some(candidate) => candidate,
                None => break,
            };
            let one = match inner.connections.get(&id) {
                Some(one) if one.waiting_since_ms() == Some(since) => one,
                _ => continue,
            };
            if spared.len() < SPARED && one.has_unread() {
                spared.push(id);
            } else if one.evict() {
                let removed = inner.connections.remove(&id);
                drop(inner);
                drop(removed);
                return true;
            }
        }
        let evicted = spared
            .iter()
            .find(|id| inner.connections.get(id).is_some_and(|one| one.evict()));
        let removed = evicted.and_then(|id| inner.connections.remove(id));
        drop(inner);
        removed.is_some()
    }

    /// The connection whose peer has longest taken nothing of its pending answer.
    pub fn longest_stalled(&self) -> Option<Arc<Connection>> {
        let inner = lock(&self.inner);
        inner
            .connections
            .values()
            .filter_map(|one| one.stalled_since_ms().map(|since| (since, one)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, one)| Arc::clone(one))
    }

    /// Closes every connection without a request in hand.
    pub fn close_waiting(&self, partial: Partial) {
        for one in self.all() {
            let is_spared = || one.is_receiving() || one.has_unread();
            if one.in_hand() == 0 && (partial == Partial::Close || !is_spared()) && one.evict() {
                self.remove(one.id);
            }
        }
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        for one in self.all() {
            one.kill();
            self.remove(one.id);
        }
    }

    /// Waits until no connection is left or the time is up.
    pub fn wait_empty(&self, time: Duration) -> bool {
        let (inner, _) = self
            .emptied
            .wait_timeout_while(lock(&self.inner), time, |inner| {
                !inner.connections.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        inner.connections.is_empty()
    }

    fn all(&self) -> Vec<Arc<Connection>> {
        lock(&self.inner).connections.values().cloned().collect()
    }
}

impl Inner {
    /// Looks at all connections for those that have waited longest.
    fn look(&mut self) {
        let waiting = self
            .connections
            .values()
            .filter_map(|one| one.waiting_since_ms().map(|since| (since, one.id)));
        self.candidates.extend(waiting);
        if self.candidates.len() > CANDIDATES {
            self.candidates.select_nth_unstable(CANDIDATES);
            self.candidates.truncate(CANDIDATES);
        }
        self.candidates.sort_unstable_by(|a, b| b.cmp(a));
    }
}
