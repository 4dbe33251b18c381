//! The pool of read connections of one file.
//!
//! Bounds: readers are opened as needed up to [`READERS_MAX`] ([`READERS`] of them with a large page
//! cache; more only while slow queries keep others waiting), waiting for one and running a query
//! both end ([`READER_WAIT`], [`QUERY_LIMIT`]). No reader is held while a peer is talked to, so none
//! can pin the log for longer than a query.
//!
//! A file that follows a master may be given another history, with which what a connection knows of
//! the tables does not agree though SQLite cannot tell. [`Readers::exclusively`] changes it while
//! nobody reads; the readers of before are not used again.

use std::collections::VecDeque;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;
use rusqlite::OpenFlags;

use super::Settings;
use super::database::prepare;
use super::deadline::Deadline;
use crate::error::Error;
use crate::error::Result;
use crate::error::ResultExt as _;
use crate::threads;
use crate::threads::lock;

/// Read connections per file in ordinary times. Reading is work for processors; more would only
/// hold memory.
const READERS: usize = 4;
/// Read connections per file when queries are slow, so that quick ones get through.
const READERS_MAX: usize = 12;
/// How long a request waits for one of [`READERS`] before another is opened.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a request waits for a read connection.
const READER_WAIT: Duration = Duration::from_secs(10);
/// How long the queries of a request may run.
const QUERY_LIMIT: Duration = Duration::from_secs(20);
/// How long a change that nobody may read along waits for those who read already.
const EXCLUSIVE_WAIT: Duration = Duration::from_secs(25);
/// Page cache of a reader, KiB: a table of 10,000 ordinary records is scanned twice as fast when
/// it fits.
const READER_CACHE_KIB: i64 = 8_000;
/// Page cache of the readers above [`READERS`], KiB.
const EXTRA_CACHE_KIB: i64 = 1_000;
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens readers of database files"
)]
fn open_reader(path: &Path, settings: Settings, cache_kib: i64) -> Result<(Connection, Deadline)> {
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    prepare(&mut connection, cache_kib, settings)?;
    connection.pragma_update(None, "query_only", true)?;
    let deadline = Deadline::attach(&mut connection)?;
    Ok((connection, deadline))
}

/// The pool of read connections. Invariants: `idle.len() + taken == open <= READERS_MAX`; of the
/// open ones at most [`READERS`] have the large cache, and idle ones with it are at the end of
/// `idle`, from where they are taken; all idle ones are of the present `generation`.
pub struct Readers {
    path: PathBuf,
    settings: Settings,
    state: Mutex<ReadersState>,
    returned: Condvar,
}

struct ReadersState {
    idle: VecDeque<Reader>,
    open: usize,
    large: usize,
    /// Nobody gets a reader: somebody has the file alone.
    closed: bool,
    /// How often the file was given another history.
    generation: u64,
}

impl ReadersState {
    /// The idle ones, counted out.
    fn take_idle(&mut self) -> VecDeque<Reader> {
        let idle = std::mem::take(&mut self.idle);
        self.open -= idle.len();
        self.large -= idle.iter().filter(|it| it.size == Size::Large).count();
        idle
    }
}

struct Reader {
    connection: Connection,
    deadline: Deadline,
    size: Size,
    generation: u64,
}

/// Which page cache a reader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Large,
    Small,
}

/// A reader out of the pool, or leave to open one.
enum Turn {
    Idle(Reader),
    Open(Size, u64),
}

/// A read connection that goes back to the pool by itself.
pub struct Taken<'a> {
    readers: &'a Readers,
    reader: Option<Reader>,
}

impl Readers {
    /// None is open yet.
    pub fn new(path: &Path, settings: Settings) -> Readers {
        Readers {
            path: path.to_owned(),
            settings,
            state: Mutex::new(ReadersState {
                idle: VecDeque::new(),
                open: 0,
                large: 0,
                closed: false,
                generation: 0,
            }),
            returned: Condvar::new(),
        }
    }

    /// A reader, which is given back when it is dropped.
    pub fn take(&self) -> Result<Taken<'_>> {
        let reader = match self.turn()? {
            Turn::Idle(reader) => reader,
            Turn::Open(size, generation) => self
                .open(size, generation)
                .inspect_err(|_| self.forget(size))?,
        };
        reader.deadline.set(QUERY_LIMIT);
        Ok(Taken {
            readers: self,
            reader: Some(reader),
        })
    }

    /// An idle reader, or leave to open one, which is counted already.
    fn turn(&self) -> Result<Turn> {
        let mut state = lock(&self.state);
        let mut begun = None;
        loop {
            let (is_open, generation) = (!state.closed, state.generation);
            if is_open && let Some(reader) = state.idle.pop_back() {
                return Ok(Turn::Idle(reader));
            }
            if is_open && state.large < READERS {
                state.open += 1;
                state.large += 1;
                return Ok(Turn::Open(Size::Large, generation));
            }
            let waited = begun.get_or_insert_with(Instant::now).elapsed();
            if is_open && waited >= PATIENCE && state.open < READERS_MAX {
                state.open += 1;
                return Ok(Turn::Open(Size::Small, generation));
            }
            let limit = match (state.closed, state.open < READERS_MAX) {
                (false, true) => PATIENCE,
                (false, false) => READER_WAIT,
                (true, _) => EXCLUSIVE_WAIT + READER_WAIT,
            };
            let Some(left) = limit.checked_sub(waited) else {
                return Err(Error::unavailable(
                    "Too many queries are running; try again.",
                ));
            };
            state = threads::wait_timeout(&self.returned, state, left);
        }
    }

    /// No connection of before is used again, once whoever has it now is done.
    pub fn renew(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let idle = state.take_idle();
        drop(state);
        drop(idle);
        self.returned.notify_all();
    }

    /// Runs `body` while nobody reads, and lets readers in again with connections of their own. Those
    /// who come meanwhile wait; fails when those who are there do not end in time.
    pub fn exclusively<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::internal("two want the file alone"));
        }
        state.closed = true;
        state.generation += 1;
        let opening = Opening(self);
        let deadline = Instant::now() + EXCLUSIVE_WAIT;
        loop {
            drop(state.take_idle());
            if state.open == 0 {
                break;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(state);
                return Err(Error::unavailable(
                    "Queries that do not end are in the way.",
                ));
            };
            state = threads::wait_timeout(&self.returned, state, left);
        }
        drop(state);
        let result = body();
        drop(opening);
        result
    }

    fn open(&self, size: Size, generation: u64) -> Result<Reader> {
        let cache_kib = match size {
            Size::Large => READER_CACHE_KIB,
            Size::Small => EXTRA_CACHE_KIB,
        };
        let (connection, deadline) = open_reader(&self.path, self.settings, cache_kib)
            .context(format!("open reader of {}", self.path.display()))?;
        Ok(Reader {
            connection,
            deadline,
            size,
            generation,
        })
    }

    fn forget(&self, size: Size) {
        let mut state = lock(&self.state);
        state.open -= 1;
        state.large -= usize::from(size == Size::Large);
        self.returned.notify_all();
    }
}

/// Lets readers in again, however the work that kept them out ended.
struct Opening<'a>(&'a Readers);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).closed = false;
        self.0.returned.notify_all();
    }
}

impl Taken<'_> {
    pub fn connection(&self) -> &Connection {
        let reader = self.reader.as_ref();
        &reader.expect("held until the drop").connection
    }

    /// Gives it more time than others have, from now on.
    pub fn allow(&self, limit: Duration) {
        if let Some(reader) = &self.reader {
            reader.deadline.set(limit);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let mut state = lock(&self.readers.state);
        // A panic may have left a transaction open: such a connection is not used again.
        if !reader.connection.is_autocommit() || reader.generation != state.generation {
            drop(state);
            let size = reader.size;
            // Closed before it is counted out: who waits for that wants the file alone.
            drop(reader);
            return self.readers.forget(size);
        }
        match reader.size {
            Size::Large => state.idle.push_back(reader),
            Size::Small => state.idle.push_front(reader),
        }
        self.readers.returned.notify_one();
    }
}
