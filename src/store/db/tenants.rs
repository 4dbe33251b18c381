//! The open databases of tenants.
//!
//! They stay open while they are used, since opening one costs as much as ten requests. A database
//! that was not used for a minute or two is closed by [`Tenants::close_idle`]. To open another one
//! above the bound on connections, those used longest ago are closed first, [`CLOSED_AT_ONCE`] at
//! most.
//!
//! Closing may wait for the disk, and holds no lock. Until it has ended nothing opens the file
//! again: SQLite removes the WAL by its name, which must not be that of a newer file.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::connection::ConnectionCount;
use super::database::Database;
use crate::base::error::{Error, Result};
use crate::base::lru::LruMap;
use crate::base::threads::lock;
use crate::base::{log, threads};

/// Connections to tenants, whatever memory and descriptors there are: each takes two or three
/// mappings, of which a process has 65,530 by default.
const CONNECTIONS_MAX: usize = 16_384;
/// The bound is not below this, so that work on several tenants at a time can go on.
const CONNECTIONS_MIN: usize = 64;
/// Memory that a connection takes: its tables, a few pages, prepared statements.
pub const CONNECTION_BYTES: u64 = 256 << 10;
/// Descriptors of a connection: the file, its WAL, and a share of the index of the WAL.
pub const CONNECTION_DESCRIPTORS: u64 = 3;
/// The part of the memory that connections to tenants may take.
const MEMORY_PART: u64 = 8;

/// The bound on connections to tenants for this number of descriptors and bytes of memory.
pub fn connections_max(descriptors: u64, memory: u64) -> usize {
    let by_memory = memory / MEMORY_PART / CONNECTION_BYTES;
    let bound = by_memory.min(descriptors / CONNECTION_DESCRIPTORS);
    let bound = usize::try_from(bound).unwrap_or(usize::MAX);
    bound.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

/// Databases that are closed to open another one.
const CLOSED_AT_ONCE: usize = 2;
/// Time that closing a database waits for requests that still use it, and a request for that.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// See the module documentation.
pub struct Tenants {
    state: Mutex<State>,
    /// Signals that a database was closed.
    closed: Condvar,
    /// The connections of all of them.
    pub count: ConnectionCount,
    pub connections_max: usize,
}

/// Invariant: a name is in one of these at most.
#[derive(Default)]
struct State {
    open: LruMap<Arc<Database>>,
    /// Being closed; a request waits for the end.
    closing: HashSet<Arc<str>>,
    /// Being deleted; a request does not find them.
    leaving: HashSet<String>,
    /// [`LruMap::uses`] at the last call of [`Tenants::close_idle`].
    uses: u64,
}

impl Tenants {
    pub fn new(connections_max: usize) -> Tenants {
        Tenants {
            state: Mutex::default(),
            closed: Condvar::new(),
            count: ConnectionCount::default(),
            connections_max,
        }
    }

    /// The database of this name; calls `open` if it is closed. None if it is being deleted.
    pub fn get(
        &self,
        name: &str,
        open: impl FnOnce() -> Result<Database>,
    ) -> Result<Option<Arc<Database>>> {
        let mut state = lock(&self.state);
        if let Some(database) = state.open.get(name) {
            return Ok(Some(Arc::clone(database)));
        }
        let begun = Instant::now();
        while state.closing.contains(name) {
            let Some(left) = CLOSE_WAIT.checked_sub(begun.elapsed()) else {
                return Err(in_use(name));
            };
            state = threads::wait_timeout(&self.closed, state, left);
        }
        // Another request may have opened or deleted it during the wait.
        if let Some(database) = state.open.get(name) {
            return Ok(Some(Arc::clone(database)));
        }
        if state.leaving.contains(name) {
            return Ok(None);
        }
        let victims = self.choose(&mut state);
        let opened = open().map(Arc::new);
        if let Ok(database) = &opened {
            state.open.insert(name, Arc::clone(database));
        }
        drop(state);
        victims.into_iter().for_each(|victim| self.close(victim));
        opened.map(Some)
    }

    /// Takes unused databases out of service if there are too many connections.
    fn choose(&self, state: &mut MutexGuard<'_, State>) -> Vec<(Arc<str>, Arc<Database>)> {
        let mut victims = Vec::new();
        while self.count.get() >= self.connections_max && victims.len() < CLOSED_AT_ONCE {
            let Some((name, database)) = state.open.evict(is_unused) else {
                break;
            };
            state.closing.insert(Arc::clone(&name));
            victims.push((name, database));
        }
        victims
    }

    /// Closes the databases that were not used since the last call.
    pub fn close_idle(&self) {
        let limit = lock(&self.state).uses;
        loop {
            let mut state = lock(&self.state);
            let Some((name, database)) = state.open.evict_before(limit, is_unused) else {
                state.uses = state.open.uses();
                return;
            };
            state.closing.insert(Arc::clone(&name));
            drop(state);
            self.close((name, database));
        }
    }

    fn close(&self, (name, database): (Arc<str>, Arc<Database>)) {
        let closed = unshared(database).map(Database::close);
        let mut state = lock(&self.state);
        state.closing.remove(&name);
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn(format_args!("close unused database {name}: {error}")),
            // Maintenance has used it all the time.
            Err(database) => drop(state.open.insert(&name, database)),
        }
        drop(state);
        self.closed.notify_all();
    }

    /// Runs `leave` with an open database, which requests do not find from then on. It is open
    /// again if `leave` returns it.
    pub fn delete<T>(
        &self,
        name: &str,
        leave: impl FnOnce(Database) -> Result<T, Box<(Database, Error)>>,
    ) -> Result<Option<T>> {
        let database = {
            let mut state = lock(&self.state);
            let Some(database) = state.open.remove(name) else {
                return Ok(None);
            };
            state.leaving.insert(name.to_owned());
            database
        };
        // The wait for the last request of this database holds no lock, so others proceed.
        let left = match unshared(database) {
            Ok(database) => leave(database).map_err(|back| {
                let (database, error) = *back;
                (Arc::new(database), error)
            }),
            Err(database) => Err((database, in_use(name))),
        };
        let mut state = lock(&self.state);
        state.leaving.remove(name);
        left.map(Some).map_err(|(database, error)| {
            state.open.insert(name, database);
            error
        })
    }

    /// The open databases. Weak: one that waits for its writer must not make the others count as
    /// in use.
    pub fn all(&self) -> Vec<Weak<Database>> {
        lock(&self.state)
            .open
            .values()
            .map(Arc::downgrade)
            .collect()
    }

    /// Takes all databases, at the end.
    pub fn into_all(self) -> impl Iterator<Item = Arc<Database>> {
        let state = self.state.into_inner();
        let state = state.unwrap_or_else(|poisoned| poisoned.into_inner());
        state.open.into_values()
    }
}

fn is_unused(database: &Arc<Database>) -> bool {
    Arc::strong_count(database) == 1
}

pub fn in_use(name: &str) -> Error {
    Error::unavailable(format!("The database {name} is in use; try again."))
}

/// Takes a database out of its `Arc`; waits for other holders to drop it.
pub fn unshared(mut database: Arc<Database>) -> Result<Database, Arc<Database>> {
    let deadline = Instant::now() + CLOSE_WAIT;
    loop {
        match Arc::try_unwrap(database) {
            Ok(database) => return Ok(database),
            Err(shared) if Instant::now() >= deadline => return Err(shared),
            Err(shared) => database = shared,
        }
        threads::pause(Duration::from_millis(1));
    }
}
