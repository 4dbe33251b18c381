//! The pool of read connections of one database file.
//!
//! Bounds: readers are opened as needed up to [`READERS_MAX`] ([`READERS`] of them with a large
//! page cache; as many more as slow queries hold, while others wait). Waiting for a reader and
//! running a query both have limits ([`READER_WAIT`], [`QUERY_LIMIT`]). No reader is held during
//! network I/O, so none can pin the WAL for longer than a query.
//!
//! Queries are charged to their callers if they are slow (see `deadline`), or if they wait while
//! slow ones run. Look-ups, which every request makes, use any idle reader; if there is none, they
//! have [`LOOKUP_READERS`] more of their own.
//!
//! On a replica, the history of a file may be replaced. The schema that a connection has cached is
//! then wrong, and SQLite cannot detect that. [`Readers::exclusively`] replaces the history while
//! there is no reader; the old connections are not used again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::{ConnectionCount, ConnectionSettings, CountedConnection, prepare};
use super::deadline::Deadline;
use super::{known_counts, offline};
use crate::base::budget::{Charge, Payer, Queries};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads;
use crate::base::threads::lock;

/// Read connections per file in normal operation. Reading is limited by the processors; more
/// connections would only take memory.
const READERS: usize = 4;
/// Read connections per file while queries are slow, so that quick ones get through.
const READERS_MAX: usize = 12;
/// Time after which waiting queries are served in turn, see [`ReadersState::promise`].
const IN_TURN: Duration = Duration::from_millis(20);
/// Time that a query waits for one of [`READERS`], and that another one holds a reader, before a
/// further one is opened. Waiting alone is no reason: many quick queries at a time wait too, and a
/// reader with a small cache would read their tables from the file each time.
const GROW_WAIT: Duration = Duration::from_millis(100);
/// Most read connections of a file for callers without credentials: the others are left to known
/// callers, however many expensive queries anonymous ones send.
const ANONYMOUS_READERS: usize = 10;
/// The queue of known callers and of the server itself.
const KNOWN: usize = 0;
/// The queue of callers without credentials.
const ANONYMOUS: usize = 1;
/// Read connections for look-ups while queries use all others.
const LOOKUP_READERS: usize = 2;
/// A query that waits for longer is late: it is charged, and so are the queries that arrive then.
const LATE: Duration = Duration::from_secs(1);
/// Time that a query waits for a read connection.
const READER_WAIT: Duration = Duration::from_secs(10);
/// Time that the queries of a request may run.
const QUERY_LIMIT: Duration = Duration::from_secs(20);
/// [`QUERY_LIMIT`] for callers without credentials.
const ANONYMOUS_LIMIT: Duration = Duration::from_secs(5);
/// Time that a look-up may run.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Time that an exclusive change waits for the readers in use.
const EXCLUSIVE_WAIT: Duration = Duration::from_secs(25);
/// Page cache of a reader, in KiB: a table of 20,000 ordinary records is scanned twice as fast if
/// it fits.
const READER_CACHE_KIB: i64 = 12_000;
/// Page cache of the readers above [`READERS`], in KiB.
const EXTRA_CACHE_KIB: i64 = 1_000;

fn open_reader(
    path: &Path,
    settings: ConnectionSettings,
    cache_kib: i64,
) -> Result<(Connection, Deadline)> {
    let mut connection = offline::open_to_inspect(path)?;
    let deadline = prepare(&mut connection, cache_kib, settings)?;
    connection.pragma_update(None, "query_only", true)?;
    known_counts::register(&connection)?;
    Ok((connection, deadline))
}

/// The payer of a query, and the budgets that it is charged to.
#[derive(Clone, Copy)]
pub struct QueryCaller<'a> {
    pub payer: Payer,
    pub queries: &'a Arc<Queries>,
}

/// The purpose that a reader is acquired for.
#[derive(Clone, Copy)]
pub enum ReaderUse<'a> {
    /// Work of the server itself, which is not charged to a caller.
    Internal,
    LookUp,
    Query(QueryCaller<'a>),
}

impl ReaderUse<'_> {
    fn line(self) -> usize {
        match self {
            ReaderUse::Query(caller) if !caller.payer.has_credentials => ANONYMOUS,
            _ => KNOWN,
        }
    }
}

/// The pool of read connections. Invariants: `idle.len()` plus the readers in use equals `open`,
/// which is at most [`READERS_MAX`]; at most [`READERS`] of the open ones have the large cache, and
/// idle ones with it are at the end of `idle`, from where they are taken; all idle ones have the
/// present `generation`. The same holds for `spare` and `spares`, the readers for look-ups, with
/// [`LOOKUP_READERS`].
pub struct Readers {
    path: PathBuf,
    settings: ConnectionSettings,
    /// Counts its connections.
    pub count: ConnectionCount,
    state: Mutex<ReadersState>,
    /// Signals a returned reader, per queue.
    returned: [Condvar; 2],
    spare_returned: Condvar,
}

#[derive(Default)]
struct ReadersState {
    idle: VecDeque<Reader>,
    open: usize,
    large: usize,
    /// Times at which the readers in use were acquired.
    begun: Vec<Instant>,
    spare: Vec<Reader>,
    spares: usize,
    /// Number of queries that have waited for longer than [`LATE`].
    late: usize,
    /// Readers in use by callers without credentials; at most [`ANONYMOUS_READERS`].
    anonymous: usize,
    /// Waiting queries per queue; those of known callers are served first.
    waiting: [usize; 2],
    /// Time since which at least one query of a known caller has waited without interruption.
    since: Option<Instant>,
    /// Idle readers reserved for waiting known callers, at most one for each. A new query does not
    /// use them.
    promised: usize,
    /// No reader is handed out: the file is in exclusive use.
    closed: bool,
    /// Number of times that the readers were replaced.
    generation: u64,
}

impl ReadersState {
    fn join(&mut self, line: usize) {
        self.waiting[line] += 1;
        if line == KNOWN {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    fn leave(&mut self, line: usize) {
        self.waiting[line] -= 1;
        self.promised = self.promised.min(self.waiting[KNOWN]);
        if self.waiting[KNOWN] == 0 {
            self.since = None;
        }
    }

    /// Reserves a returned reader for the known callers that wait, if some have waited for
    /// [`IN_TURN`]. Otherwise a query could wait for seconds while new ones overtake it. While
    /// queries are quick, overtaking is cheaper.
    fn promise(&mut self) {
        let since = self.since.filter(|_| self.promised < self.waiting[KNOWN]);
        if since.is_some_and(|since| since.elapsed() >= IN_TURN) {
            self.promised += 1;
        }
    }

    /// The number of readers that may be open now: one more for each that a slow query holds.
    fn readers_max(&self) -> usize {
        let is_slow = |begun: &&Instant| begun.elapsed() >= GROW_WAIT;
        let slow = self.begun.iter().filter(is_slow).count();
        (READERS + slow).min(READERS_MAX)
    }

    /// Counts the reader acquired at this time as returned.
    fn end(&mut self, begun: Instant) {
        if let Some(at) = self.begun.iter().position(|other| *other == begun) {
            self.begun.swap_remove(at);
        }
    }

    /// Removes the idle readers from the pool and its counts.
    fn take_idle(&mut self) -> (VecDeque<Reader>, Vec<Reader>) {
        let (idle, spare) = (
            std::mem::take(&mut self.idle),
            std::mem::take(&mut self.spare),
        );
        self.open -= idle.len();
        self.large -= idle.iter().filter(|it| it.size == Size::Large).count();
        self.spares -= spare.len();
        (idle, spare)
    }

    /// A reader, or permission to open one, for a query that has waited for this long; none if it
    /// has to wait.
    fn turn(&mut self, purpose: ReaderUse<'_>, waited: Duration) -> Option<(Turn, Instant)> {
        if self.closed {
            return None;
        }
        let line = purpose.line();
        if line == ANONYMOUS && self.anonymous >= ANONYMOUS_READERS {
            return None;
        }
        let turn = self.find_turn(purpose, line, waited)?;
        self.anonymous += usize::from(line == ANONYMOUS);
        let begun = Instant::now();
        self.begun.push(begun);
        Some((turn, begun))
    }

    fn find_turn(&mut self, purpose: ReaderUse<'_>, line: usize, waited: Duration) -> Option<Turn> {
        let is_new = waited.is_zero();
        if (!is_new || self.idle.len() > self.promised)
            && let Some(reader) = self.idle.pop_back()
        {
            if !is_new && line == KNOWN {
                self.promised = self.promised.saturating_sub(1);
            }
            return Some(Turn::Idle(reader));
        }
        if self.large < READERS {
            self.open += 1;
            self.large += 1;
            return Some(Turn::Open(Size::Large, self.generation));
        }
        if let ReaderUse::LookUp = purpose {
            if let Some(reader) = self.spare.pop() {
                return Some(Turn::Idle(reader));
            }
            return (self.spares < LOOKUP_READERS).then(|| {
                self.spares += 1;
                Turn::Open(Size::Spare, self.generation)
            });
        }
        (waited >= GROW_WAIT && self.open < self.readers_max()).then(|| {
            self.open += 1;
            Turn::Open(Size::Small, self.generation)
        })
    }

    /// The queue that gets the reader returned just now; also the other queue, if there is a reader
    /// for it too.
    fn next_lines(&mut self) -> [bool; 2] {
        let is_served = |state: &ReadersState, line: usize| {
            state.waiting[line] > 0 && (line != ANONYMOUS || state.anonymous < ANONYMOUS_READERS)
        };
        let mut next = [false; 2];
        if let Some(line) = [KNOWN, ANONYMOUS]
            .into_iter()
            .find(|it| is_served(self, *it))
        {
            // Anonymous callers may overtake each other: a quick query does not wait behind
            // expensive ones.
            if line == KNOWN {
                self.promise();
            }
            next[line] = true;
        }
        next[ANONYMOUS] |= is_served(self, ANONYMOUS) && self.idle.len() > self.promised;
        next
    }
}

struct Reader {
    connection: Connection,
    deadline: Deadline,
    size: Size,
    generation: u64,
    _counted: CountedConnection,
}

/// The size of the page cache of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Large,
    Small,
    /// Small, and reserved for look-ups.
    Spare,
}

/// A reader of the pool, or permission to open one, which is counted already.
enum Turn {
    Idle(Reader),
    Open(Size, u64),
}

/// A read connection; dropping it returns it to the pool.
pub struct PooledReader<'a> {
    readers: &'a Readers,
    reader: Option<Reader>,
    line: usize,
    begun: Instant,
}

impl Readers {
    pub fn new(path: &Path, settings: ConnectionSettings) -> Readers {
        Readers {
            path: path.to_owned(),
            settings,
            count: ConnectionCount::default(),
            state: Mutex::default(),
            returned: [Condvar::new(), Condvar::new()],
            spare_returned: Condvar::new(),
        }
    }

    /// Acquires a reader, waiting for one if necessary.
    pub fn acquire(&self, purpose: ReaderUse<'_>) -> Result<PooledReader<'_>> {
        let (turn, begun) = self.turn(purpose)?;
        let reader = match turn {
            Turn::Idle(reader) => reader,
            Turn::Open(size, generation) => self
                .open(size, generation)
                .inspect_err(|_| self.discard(size, purpose.line(), begun))?,
        };
        match purpose {
            ReaderUse::Internal => reader.deadline.set(QUERY_LIMIT),
            ReaderUse::LookUp => reader.deadline.set(LOOKUP_LIMIT),
            ReaderUse::Query(QueryCaller { payer, queries }) => {
                let limit = match payer.has_credentials {
                    true => QUERY_LIMIT,
                    false => ANONYMOUS_LIMIT,
                };
                reader.deadline.set_for(limit, payer, queries);
            }
        }
        Ok(PooledReader {
            readers: self,
            reader: Some(reader),
            line: purpose.line(),
            begun,
        })
    }

    fn turn(&self, purpose: ReaderUse<'_>) -> Result<(Turn, Instant)> {
        let mut state = lock(&self.state);
        match state.turn(purpose, Duration::ZERO) {
            Some(turn) => Ok(turn),
            None => self.wait_for_turn(state, purpose),
        }
    }

    fn wait_for_turn(
        &self,
        mut state: MutexGuard<'_, ReadersState>,
        purpose: ReaderUse<'_>,
    ) -> Result<(Turn, Instant)> {
        let begun = Instant::now();
        let mut wait = Wait::begin(&mut state, purpose);
        // Zero before the first sleep.
        let mut waited = Duration::ZERO;
        loop {
            if let Some(turn) = state.turn(purpose, waited) {
                wait.end(&mut state);
                return Ok(turn);
            }
            let charged = match state.closed {
                true => Ok(()),
                false => wait.charge(&mut state, purpose, waited),
            };
            let limit = match state.closed {
                true => EXCLUSIVE_WAIT + READER_WAIT,
                false => READER_WAIT,
            };
            let left = limit.checked_sub(waited).ok_or_else(|| {
                Error::unavailable("Too many queries are running; try again.")
                    .with_retry_after(Duration::from_secs(1))
            });
            let left = match charged.and(left) {
                Ok(left) => left,
                Err(error) => {
                    wait.end(&mut state);
                    // It may have consumed the wake-up for a reader that it does not use.
                    self.returned[purpose.line()].notify_one();
                    return Err(error);
                }
            };
            let until = [GROW_WAIT, LATE].into_iter();
            let next = until
                .filter_map(|it| it.checked_sub(waited))
                .find(|it| !it.is_zero());
            let condvar = match purpose {
                ReaderUse::LookUp => &self.spare_returned,
                ReaderUse::Internal | ReaderUse::Query(_) => &self.returned[purpose.line()],
            };
            state = threads::wait_timeout(condvar, state, next.unwrap_or(left).min(left));
            waited = begun.elapsed();
        }
    }

    /// Replaces all readers; reads in progress finish on the old ones.
    pub fn renew(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let idle = state.take_idle();
        drop(state);
        drop(idle);
        self.notify_all();
    }

    /// Runs `body` while there is no reader; later reads use new connections. Reads that arrive
    /// meanwhile wait. Fails if the readers in use are not returned in time.
    pub fn exclusively<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::internal("concurrent exclusive use of a database"));
        }
        state.closed = true;
        state.generation += 1;
        let reopen = Reopen(self);
        let deadline = Instant::now() + EXCLUSIVE_WAIT;
        loop {
            drop(state.take_idle());
            if state.open + state.spares == 0 {
                break;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(state);
                return Err(Error::unavailable(
                    "Timed out: long-running queries block this change.",
                ));
            };
            state = threads::wait_timeout(&self.returned[KNOWN], state, left);
        }
        drop(state);
        let result = body();
        drop(reopen);
        result
    }

    fn open(&self, size: Size, generation: u64) -> Result<Reader> {
        let cache_kib = match size {
            Size::Large => READER_CACHE_KIB,
            Size::Small | Size::Spare => EXTRA_CACHE_KIB,
        };
        let (connection, deadline) = open_reader(&self.path, self.settings, cache_kib)
            .context(format!("open reader of {}", self.path.display()))?;
        Ok(Reader {
            connection,
            deadline,
            size,
            generation,
            _counted: self.count.add(),
        })
    }

    fn discard(&self, size: Size, line: usize, begun: Instant) {
        let mut state = lock(&self.state);
        state.end(begun);
        state.anonymous -= usize::from(line == ANONYMOUS);
        match size {
            Size::Spare => state.spares -= 1,
            Size::Large | Size::Small => state.open -= 1,
        }
        state.large -= usize::from(size == Size::Large);
        drop(state);
        self.notify_all();
    }

    fn notify_all(&self) {
        self.returned.iter().for_each(Condvar::notify_all);
        self.spare_returned.notify_all();
    }
}

/// A query that waits for a reader.
struct Wait {
    /// The queue that it waits in; a look-up has its own readers.
    line: Option<usize>,
    /// True if it is counted in `late`.
    is_late: bool,
    charge: Option<Charge>,
}

impl Wait {
    fn begin(state: &mut ReadersState, purpose: ReaderUse<'_>) -> Wait {
        let line = (!matches!(purpose, ReaderUse::LookUp)).then(|| purpose.line());
        if let Some(line) = line {
            state.join(line);
        }
        Wait {
            line,
            is_late: false,
            charge: None,
        }
    }

    /// Charges the query when it is late; at once if others are late, or if it would be interrupted
    /// soon.
    fn charge(
        &mut self,
        state: &mut ReadersState,
        purpose: ReaderUse<'_>,
        waited: Duration,
    ) -> Result<()> {
        let ReaderUse::Query(QueryCaller { payer, queries }) = purpose else {
            return Ok(());
        };
        if !self.is_late && waited >= LATE {
            self.is_late = true;
            state.late += 1;
        }
        // Without slow queries the wait is short.
        let is_slow = || queries.slow.used() > 0;
        let is_due = || (state.late > 0 && is_slow()) || queries.slow.check_room(payer).is_err();
        if self.charge.is_none() && is_due() {
            let waiting = &queries.waiting;
            let charge = waiting.charge(payer, 1);
            self.charge = Some(charge.map_err(|it| it.into_error(waiting.name()))?);
        }
        Ok(())
    }

    fn end(self, state: &mut ReadersState) {
        state.late -= usize::from(self.is_late);
        if let Some(line) = self.line {
            state.leave(line);
        }
    }
}

/// Reopens the pool after exclusive use, even after a panic.
struct Reopen<'a>(&'a Readers);

impl Drop for Reopen<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).closed = false;
        self.0.notify_all();
    }
}

impl PooledReader<'_> {
    pub fn connection(&self) -> &Connection {
        let reader = self.reader.as_ref();
        &reader.expect("held until the drop").connection
    }

    /// The error for a query that was interrupted.
    pub fn interrupt_error(&self, error: Error) -> Error {
        let reader = self.reader.as_ref();
        match reader.and_then(|reader| reader.deadline.finish()) {
            Some(exhausted) => exhausted.into_error("slow queries"),
            None => error,
        }
    }

    /// Replaces the time limit, starting now.
    pub fn set_limit(&self, limit: Duration) {
        if let Some(reader) = &self.reader {
            reader.deadline.set(limit);
        }
    }
}

impl Drop for PooledReader<'_> {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        reader.deadline.finish();
        let mut state = lock(&self.readers.state);
        state.end(self.begun);
        let is_extra = reader.size == Size::Small && state.open > state.readers_max();
        // After a panic a transaction may be open; such a connection is not used again.
        let is_usable = reader.connection.is_autocommit() && reader.generation == state.generation;
        if is_extra || !is_usable {
            drop(state);
            let size = reader.size;
            // Closed before the count decreases: an exclusive user waits for that.
            drop(reader);
            return self.readers.discard(size, self.line, self.begun);
        }
        state.anonymous -= usize::from(self.line == ANONYMOUS);
        match reader.size {
            Size::Large => state.idle.push_back(reader),
            Size::Small => state.idle.push_front(reader),
            Size::Spare => {
                state.spare.push(reader);
                self.readers.spare_returned.notify_one();
                return;
            }
        }
        let next = state.next_lines();
        for (line, returned) in self.readers.returned.iter().enumerate() {
            if next[line] {
                returned.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;
