//! The pool of read connections of one file.
//!
//! Bounds: readers are opened as needed up to [`READERS_MAX`] ([`READERS`] of them with a large page
//! cache; more only while slow queries keep others waiting), waiting for one and running a query
//! both end ([`READER_WAIT`], [`QUERY_LIMIT`]). No reader is held while a peer is talked to, so none
//! can pin the log for longer than a query.
//!
//! Queries that callers ask are charged to them if they are slow (see `deadline`) or wait while the
//! others do not end. [`LOOKUP_READERS`] more are for look-ups alone, which come with every request: they use
//! any reader that is free, and one of their own if none is.
//!
//! A file that follows a master may be given another history, with which what a connection knows of
//! the tables does not agree though SQLite cannot tell. [`Readers::exclusively`] changes it while
//! nobody reads; the readers of before are not used again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::connection::{Settings, prepare};
use super::deadline::Deadline;
use super::offline;
use crate::base::budget::{Charge, Payer, Queries};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads;
use crate::base::threads::lock;

/// Read connections per file in ordinary times. Reading is work for processors; more would only
/// hold memory.
const READERS: usize = 4;
/// Read connections per file when queries are slow, so that quick ones get through.
const READERS_MAX: usize = 12;
/// The time after which queries that wait are served in turn, see [`ReadersState::promise`].
const IN_TURN: Duration = Duration::from_millis(20);
/// How long a request waits for one of [`READERS`] before another is opened.
const PATIENCE: Duration = Duration::from_millis(100);
/// Read connections of a file that callers without credentials have at most: the others are left to
/// known callers, however many dear queries strangers ask.
const ANONYMOUS_READERS: usize = 10;
/// The lines of those who wait.
const KNOWN: usize = 0;
const ANONYMOUS: usize = 1;
/// Read connections that look-ups have when queries have all others.
const LOOKUP_READERS: usize = 2;
/// A query that waits for longer is late: it is charged, and so are those that come then.
const LATE: Duration = Duration::from_secs(1);
/// How long a request waits for a read connection.
const READER_WAIT: Duration = Duration::from_secs(10);
/// How long the queries of a request may run.
const QUERY_LIMIT: Duration = Duration::from_secs(20);
/// The same for callers without credentials.
const ANONYMOUS_LIMIT: Duration = Duration::from_secs(5);
/// The time that a look-up may run.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// How long a change that nobody may read along waits for those who read already.
const EXCLUSIVE_WAIT: Duration = Duration::from_secs(25);
/// Page cache of a reader, KiB: a table of 10,000 ordinary records is scanned twice as fast when
/// it fits.
const READER_CACHE_KIB: i64 = 8_000;
/// Page cache of the readers above [`READERS`], KiB.
const EXTRA_CACHE_KIB: i64 = 1_000;
fn open_reader(path: &Path, settings: Settings, cache_kib: i64) -> Result<(Connection, Deadline)> {
    let mut connection = offline::open_to_inspect(path)?;
    let deadline = prepare(&mut connection, cache_kib, settings)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok((connection, deadline))
}

/// The caller of a query, and the budgets that it is charged to.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    pub payer: Payer,
    pub queries: &'a Arc<Queries>,
}

/// The purpose of a reader.
#[derive(Clone, Copy)]
pub enum Use<'a> {
    /// Work of the server itself, which is not charged to a caller.
    Own,
    LookUp,
    Query(Asker<'a>),
}

impl Use<'_> {
    fn line(self) -> usize {
        match self {
            Use::Query(asker) if !asker.payer.has_credentials => ANONYMOUS,
            _ => KNOWN,
        }
    }
}

/// The pool of read connections. Invariants: `idle.len() + taken == open <= READERS_MAX`; of the
/// open ones at most [`READERS`] have the large cache, and idle ones with it are at the end of
/// `idle`, from where they are taken; all idle ones are of the present `generation`. The same holds for
/// `spare` and `spares`, those of look-ups, with [`LOOKUP_READERS`].
pub struct Readers {
    path: PathBuf,
    settings: Settings,
    state: Mutex<ReadersState>,
    /// For known callers and the server itself, and for callers without credentials.
    returned: [Condvar; 2],
    spare_returned: Condvar,
}

#[derive(Default)]
struct ReadersState {
    idle: VecDeque<Reader>,
    open: usize,
    large: usize,
    spare: Vec<Reader>,
    spares: usize,
    /// Queries that have waited for longer than [`LATE`].
    late: usize,
    /// Readers that callers without credentials have; at most [`ANONYMOUS_READERS`].
    anonymous: usize,
    /// Queries that wait: those of known callers, which come first, and of callers without credentials.
    waiting: [usize; 2],
    /// The time since when at least one query of a known caller has waited.
    since: Option<Instant>,
    /// Idle readers that were given back for known callers; at most as many as wait. A query that has not
    /// waited leaves them.
    promised: usize,
    /// Nobody gets a reader: somebody has the file alone.
    closed: bool,
    /// How often the file was given another history.
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

    /// Keeps a reader that was given back for the known callers who wait, once there have been some for a
    /// while: otherwise one of them could wait for seconds while others come and pass it by. As long as
    /// queries are quick, passing by is cheaper.
    fn promise(&mut self) {
        let since = self.since.filter(|_| self.promised < self.waiting[KNOWN]);
        if since.is_some_and(|since| since.elapsed() >= IN_TURN) {
            self.promised += 1;
        }
    }

    /// The idle ones, counted out.
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

    /// A reader, or leave to open one, for a caller that has waited for so long; none for now.
    fn turn(&mut self, wanted: Use<'_>, waited: Duration) -> Option<Turn> {
        if self.closed {
            return None;
        }
        let line = wanted.line();
        if line == ANONYMOUS && self.anonymous >= ANONYMOUS_READERS {
            return None;
        }
        let turn = self.find_turn(wanted, line, waited)?;
        self.anonymous += usize::from(line == ANONYMOUS);
        Some(turn)
    }

    fn find_turn(&mut self, wanted: Use<'_>, line: usize, waited: Duration) -> Option<Turn> {
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
        if let Use::LookUp = wanted {
            if let Some(reader) = self.spare.pop() {
                return Some(Turn::Idle(reader));
            }
            return (self.spares < LOOKUP_READERS).then(|| {
                self.spares += 1;
                Turn::Open(Size::Spare, self.generation)
            });
        }
        (waited >= PATIENCE && self.open < READERS_MAX).then(|| {
            self.open += 1;
            Turn::Open(Size::Small, self.generation)
        })
    }

    /// The line whose first query gets the reader that was given back just now; and the other one, if
    /// there is a reader for it too.
    fn next_lines(&mut self) -> [bool; 2] {
        let is_served = |state: &ReadersState, line: usize| {
            state.waiting[line] > 0 && (line != ANONYMOUS || state.anonymous < ANONYMOUS_READERS)
        };
        let mut next = [false; 2];
        if let Some(line) = [KNOWN, ANONYMOUS]
            .into_iter()
            .find(|it| is_served(self, *it))
        {
            // Strangers pass each other by: a quick query of one is not behind dear ones of others.
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
}

/// Which page cache a reader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Large,
    Small,
    /// Small, and for look-ups alone.
    Spare,
}

/// A reader out of the pool, or leave to open one.
enum Turn {
    Idle(Reader),
    Open(Size, u64),
}

/// A read connection that goes back to the pool by itself.
pub struct PooledReader<'a> {
    readers: &'a Readers,
    reader: Option<Reader>,
    line: usize,
}

impl Readers {
    /// None is open yet.
    pub fn new(path: &Path, settings: Settings) -> Readers {
        Readers {
            path: path.to_owned(),
            settings,
            state: Mutex::default(),
            returned: [Condvar::new(), Condvar::new()],
            spare_returned: Condvar::new(),
        }
    }

    /// A reader, which is given back when it is dropped.
    pub fn take(&self, wanted: Use<'_>) -> Result<PooledReader<'_>> {
        let reader = match self.turn(wanted)? {
            Turn::Idle(reader) => reader,
            Turn::Open(size, generation) => self
                .open(size, generation)
                .inspect_err(|_| self.forget(size, wanted.line()))?,
        };
        match wanted {
            Use::Own => reader.deadline.set(QUERY_LIMIT),
            Use::LookUp => reader.deadline.set(LOOKUP_LIMIT),
            Use::Query(Asker { payer, queries }) => {
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
            line: wanted.line(),
        })
    }

    /// An idle reader, or leave to open one, which is counted already.
    fn turn(&self, wanted: Use<'_>) -> Result<Turn> {
        let mut state = lock(&self.state);
        match state.turn(wanted, Duration::ZERO) {
            Some(turn) => Ok(turn),
            None => self.wait_for_turn(state, wanted),
        }
    }

    fn wait_for_turn(
        &self,
        mut state: MutexGuard<'_, ReadersState>,
        wanted: Use<'_>,
    ) -> Result<Turn> {
        let begun = Instant::now();
        let mut wait = Wait::begin(&mut state, wanted);
        // Zero before the first sleep.
        let mut waited = Duration::ZERO;
        loop {
            if let Some(turn) = state.turn(wanted, waited) {
                wait.end(&mut state);
                return Ok(turn);
            }
            let charged = match state.closed {
                true => Ok(()),
                false => wait.charge(&mut state, wanted, waited),
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
                    // It may have been woken for a reader that it does not take.
                    self.returned[wanted.line()].notify_one();
                    return Err(error);
                }
            };
            let until = [PATIENCE, LATE].into_iter();
            let next = until
                .filter_map(|it| it.checked_sub(waited))
                .find(|it| !it.is_zero());
            let condvar = match wanted {
                Use::LookUp => &self.spare_returned,
                Use::Own | Use::Query(_) => &self.returned[wanted.line()],
            };
            state = threads::wait_timeout(condvar, state, next.unwrap_or(left).min(left));
            waited = begun.elapsed();
        }
    }

    /// No connection of before is used again, once whoever has it now is done.
    pub fn renew(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let idle = state.take_idle();
        drop(state);
        drop(idle);
        self.notify_all();
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
            if state.open + state.spares == 0 {
                break;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(state);
                return Err(Error::unavailable(
                    "Queries that do not end are in the way.",
                ));
            };
            state = threads::wait_timeout(&self.returned[KNOWN], state, left);
        }
        drop(state);
        let result = body();
        drop(opening);
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
        })
    }

    fn forget(&self, size: Size, line: usize) {
        let mut state = lock(&self.state);
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
    /// The line that it stands in; a look-up has readers of its own.
    line: Option<usize>,
    /// It is counted in `late`.
    is_late: bool,
    charge: Option<Charge>,
}

impl Wait {
    fn begin(state: &mut ReadersState, wanted: Use<'_>) -> Wait {
        let line = (!matches!(wanted, Use::LookUp)).then(|| wanted.line());
        if let Some(line) = line {
            state.join(line);
        }
        Wait {
            line,
            is_late: false,
            charge: None,
        }
    }

    /// Charges the query once it is late; at once while others are, or if it would be stopped soon.
    fn charge(
        &mut self,
        state: &mut ReadersState,
        wanted: Use<'_>,
        waited: Duration,
    ) -> Result<()> {
        let Use::Query(Asker { payer, queries }) = wanted else {
            return Ok(());
        };
        if !self.is_late && waited >= LATE {
            self.is_late = true;
            state.late += 1;
        }
        // Without slow queries the wait is for quick ones, and has an end soon.
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

/// Lets readers in again, however the work that kept them out ended.
struct Opening<'a>(&'a Readers);

impl Drop for Opening<'_> {
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

    /// The answer to a query that was stopped.
    pub fn why_stopped(&self, error: Error) -> Error {
        let reader = self.reader.as_ref();
        match reader.and_then(|reader| reader.deadline.finish()) {
            Some(exhausted) => exhausted.into_error("slow queries"),
            None => error,
        }
    }

    /// Gives it another limit than others have, from now on.
    pub fn allow(&self, limit: Duration) {
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
        // A panic may have left a transaction open: such a connection is not used again.
        if !reader.connection.is_autocommit() || reader.generation != state.generation {
            drop(state);
            let size = reader.size;
            // Closed before it is counted out: who waits for that wants the file alone.
            drop(reader);
            return self.readers.forget(size, self.line);
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
mod tests {
    use super::*;
    use crate::store::db::{Role, Synchronous};
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// While all readers are busy with slow queries, a query that had waited was passed by others that
    /// came when a reader was given back, again and again: some of 64 connections waited for more than a
    /// second where most waited for a tenth of one.
    #[test]
    fn a_query_that_waits_is_not_passed_by() {
        let path = std::env::temp_dir().join(crate::base::ids::record_id().unwrap());
        let settings = Settings {
            role: Role::Master,
            synchronous: Synchronous::Normal,
            prepare: |_, _| Ok(()),
        };
        File::create(&path).unwrap();
        let readers = Readers::new(&path, settings);
        let mut taken: Vec<_> = (0..READERS)
            .map(|_| readers.take(Use::Own).unwrap())
            .collect();
        let has_had_its_turn = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _reader = readers.take(Use::Own).unwrap();
                has_had_its_turn.store(true, Ordering::SeqCst);
            });
            while lock(&readers.state).waiting[KNOWN] == 0 {
                threads::Stop::new().wait(IN_TURN);
            }
            threads::Stop::new().wait(IN_TURN * 2);
            drop(taken.pop());
            let _next = readers.take(Use::Own).unwrap();
            assert!(has_had_its_turn.load(Ordering::SeqCst));
        });
        let state = lock(&readers.state);
        assert_eq!((state.waiting[KNOWN], state.promised), (0, 0));
        drop(state);
        drop(taken);
        let _ = std::fs::remove_file(path);
    }
}
