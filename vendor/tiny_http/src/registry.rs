//! The live connections, and which of them goes when room is needed.
//!
//! New file. A connection is in here from its acceptance to its end, to its eviction or until its socket is taken over.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::connection::Connection;
use crate::util::lock;

#[derive(Default)]
pub(crate) struct Registry {
    connections: Mutex<HashMap<u64, Arc<Connection>>>,

    // notified when the last connection has gone
    emptied: Condvar,
}

/// How often another victim is looked for when the first one has just got a request in hand.
const TRIES: usize = 16;

/// What `close_waiting` does with a connection whose request is only partly here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partial {
    Spare,
    Close,
}

impl Registry {
    pub fn insert(&self, connection: &Arc<Connection>) {
        lock(&self.connections).insert(connection.id, Arc::clone(connection));
    }

    pub fn remove(&self, id: u64) {
        let mut connections = lock(&self.connections);
        let removed = connections.remove(&id);
        let empty = connections.is_empty();
        drop(connections);
        if empty {
            self.emptied.notify_all();
        }
        // The last reference may close the descriptor: not under the lock.
        drop(removed);
    }

    pub fn len(&self) -> usize {
        lock(&self.connections).len()
    }

    /// Requests without a complete answer.
    pub fn in_hand(&self) -> usize {
        let connections = lock(&self.connections);
        connections.values().map(|one| one.in_hand()).sum()
    }

    /// Closes the connection that has waited longest for its peer. False if every one has a request in hand.
    pub fn evict_longest_waiting(&self) -> bool {
        let mut connections = lock(&self.connections);
        for _ in 0..TRIES {
            let victim = connections
                .values()
                .filter_map(|one| one.waiting_since_ms().map(|since| (since, one.id)))
                .min();
            let id = match victim {
                Some((_, id)) => id,
                None => return false,
            };
            if connections.get(&id).is_some_and(|one| one.evict()) {
                let removed = connections.remove(&id);
                drop(connections);
                drop(removed);
                return true;
            }
        }
        false
    }

    /// The connection whose peer has longest taken nothing of its pending answer.
    pub fn longest_stalled(&self) -> Option<Arc<Connection>> {
        let connections = lock(&self.connections);
        connections
            .values()
            .filter_map(|one| one.stalled_since_ms().map(|since| (since, one)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, one)| Arc::clone(one))
    }

    /// Closes every connection without a request in hand.
    pub fn close_waiting(&self, partial: Partial) {
        for one in self.all() {
            if one.in_hand() == 0 && (partial == Partial::Close || !one.is_receiving()) {
                one.evict();
            }
        }
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        for one in self.all() {
            one.kill();
        }
    }

    /// Waits until no connection is left or the time is up.
    pub fn wait_empty(&self, time: Duration) -> bool {
        let connections = lock(&self.connections);
        let (connections, _) = self
            .emptied
            .wait_timeout_while(connections, time, |connections| !connections.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.is_empty()
    }

    fn all(&self) -> Vec<Arc<Connection>> {
        lock(&self.connections).values().cloned().collect()
    }
}
