//! Deadlines of connections: SQLite interrupts a statement that runs past it.
//!
//! A query with a payer is checked twice before. After [`FIRST_CHECK`] it continues only if its
//! payer could have one more slow query, and after [`SLOW`] it is charged as one. A query that ends
//! before is free, and costs three atomic stores.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rusqlite::Connection;

use crate::base::budget::{Charge, Exhausted, Payer, Queries};
use crate::base::clock;
use crate::base::error::Result;
use crate::base::threads::lock;

/// Virtual machine steps between two checks of the clock.
const STEPS_PER_CHECK: i32 = 20_000;
/// Time that a query may run while its payer has as many slow queries as permitted.
const FIRST_CHECK: Duration = Duration::from_millis(200);
/// Time after which a query counts as slow.
const SLOW: Duration = Duration::from_secs(1);
const NEVER: i64 = i64::MAX;

thread_local! {
    /// The payer of the queries of this thread, valid while a query with a payer runs. The progress
    /// handler runs on the thread of its statement.
    static PAYER: Cell<Option<Payer>> = const { Cell::new(None) };
}

/// The deadline of one connection.
#[derive(Clone)]
pub struct Deadline(Arc<Inner>);

/// All times are in milliseconds of [`clock::uptime_ms`].
struct Inner {
    /// The time of the next decision.
    next_ms: AtomicI64,
    /// The time at which the query counts as slow.
    slow_ms: AtomicI64,
    end_ms: AtomicI64,
    /// The budgets that slow queries are charged to; set by the first query with a payer.
    queries: OnceLock<Arc<Queries>>,
    /// True if `verdict` is set.
    is_decided: AtomicBool,
    /// The charge of a slow query, or why it was interrupted.
    verdict: Mutex<Option<Result<Charge, Exhausted>>>,
}

impl Deadline {
    /// No deadline until [`Deadline::set`].
    pub fn new() -> Deadline {
        Deadline(Arc::new(Inner {
            next_ms: AtomicI64::new(NEVER),
            slow_ms: AtomicI64::new(NEVER),
            end_ms: AtomicI64::new(NEVER),
            queries: OnceLock::new(),
            is_decided: AtomicBool::new(false),
            verdict: Mutex::new(None),
        }))
    }

    /// Makes a connection obey it.
    pub fn attach(&self, connection: &mut Connection) -> Result<()> {
        let deadline = self.clone();
        let is_over = move || deadline.is_over();
        Ok(connection.progress_handler(STEPS_PER_CHECK, Some(is_over))?)
    }

    /// Sets the deadline to this time from now.
    pub fn set(&self, limit: Duration) {
        let end_ms = clock::uptime_ms().saturating_add(millis(limit));
        self.0.end_ms.store(end_ms, Ordering::Relaxed);
        self.0.next_ms.store(end_ms, Ordering::Relaxed);
    }

    /// Like [`Deadline::set`], for a query of this thread that is charged to `payer`.
    pub fn set_for(&self, limit: Duration, payer: Payer, queries: &Arc<Queries>) {
        let now_ms = clock::uptime_ms();
        PAYER.set(Some(payer));
        self.0.queries.get_or_init(|| Arc::clone(queries));
        let store = |at: &AtomicI64, time| {
            at.store(now_ms.saturating_add(millis(time)), Ordering::Relaxed);
        };
        store(&self.0.end_ms, limit);
        store(&self.0.slow_ms, SLOW);
        store(&self.0.next_ms, limit.min(FIRST_CHECK));
    }

    /// Removes the deadline.
    pub fn clear(&self) {
        self.0.end_ms.store(NEVER, Ordering::Relaxed);
        self.0.next_ms.store(NEVER, Ordering::Relaxed);
    }

    /// True if the work has to stop. Long-running SQL functions call it from time to time.
    pub fn is_over(&self) -> bool {
        let now_ms = clock::uptime_ms();
        now_ms > self.0.next_ms.load(Ordering::Relaxed) && self.decide(now_ms)
    }

    /// Ends the query and releases its charge. Returns the exhausted bound if that interrupted the
    /// query.
    pub fn finish(&self) -> Option<Exhausted> {
        if !self.0.is_decided.load(Ordering::Relaxed) {
            return None;
        }
        self.0.is_decided.store(false, Ordering::Relaxed);
        lock(&self.0.verdict).take()?.err()
    }

    /// True if the work has to stop.
    fn decide(&self, now_ms: i64) -> bool {
        let end_ms = self.0.end_ms.load(Ordering::Relaxed);
        if now_ms > end_ms {
            return true;
        }
        let (Some(payer), Some(queries)) = (PAYER.get(), self.0.queries.get()) else {
            self.0.next_ms.store(end_ms, Ordering::Relaxed);
            return false;
        };
        let slow_ms = self.0.slow_ms.load(Ordering::Relaxed);
        let verdict = match now_ms < slow_ms {
            true => match queries.slow.check_room(payer) {
                Ok(()) => {
                    let next_ms = slow_ms.min(end_ms);
                    self.0.next_ms.store(next_ms, Ordering::Relaxed);
                    return false;
                }
                Err(exhausted) => {
                    queries.slow.count_refusal();
                    Err(exhausted)
                }
            },
            false => queries.slow.charge(payer, 1),
        };
        let is_refused = verdict.is_err();
        *lock(&self.0.verdict) = Some(verdict);
        self.0.is_decided.store(true, Ordering::Relaxed);
        if is_refused {
            // Later statements stop too.
            self.0.end_ms.store(now_ms - 1, Ordering::Relaxed);
        }
        let next_ms = self.0.end_ms.load(Ordering::Relaxed);
        self.0.next_ms.store(next_ms, Ordering::Relaxed);
        is_refused
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::budget::Network;

    const PAYER_OF_ONE: Payer = Payer {
        network: Network::V4(1),
        has_credentials: true,
    };

    #[test]
    fn a_query_is_decided_at_a_first_check_and_charged_when_it_is_slow() {
        let (queries, deadline) = (Arc::new(Queries::new(8)), Deadline::new());
        let begin = || {
            deadline.set_for(Duration::from_secs(20), PAYER_OF_ONE, &queries);
            clock::uptime_ms()
        };
        let (first_check, slow) = (millis(FIRST_CHECK) + 1, millis(SLOW) + 1);
        let begun = begin();
        assert!(!deadline.decide(begun + first_check));
        assert_eq!(queries.slow.used(), 0);
        assert!(!deadline.decide(begun + slow));
        assert_eq!(queries.slow.used(), 1);
        assert!(!deadline.decide(begun + slow + 1));
        assert!(deadline.decide(begun + 21_000));
        assert_eq!((deadline.finish(), queries.slow.used()), (None, 0));

        let taken = queries.slow.charge(PAYER_OF_ONE, 4);
        let begun = begin();
        assert!(deadline.decide(begun + first_check));
        assert!(deadline.decide(begun + first_check), "it stays interrupted");
        assert_eq!(deadline.finish(), Some(Exhausted::Network));
        // Room at the first check may be gone at the second.
        drop(taken);
        let begun = begin();
        assert!(!deadline.decide(begun + first_check));
        let taken = queries.slow.charge(PAYER_OF_ONE, 4);
        assert!(deadline.decide(begun + slow));
        assert_eq!(deadline.finish(), Some(Exhausted::Network));
        drop(taken);
        assert_eq!(queries.slow.used(), 0);
    }

    #[test]
    fn work_without_a_payer_ends_at_its_limit_alone() {
        let deadline = Deadline::new();
        assert!(!deadline.is_over());
        deadline.set(Duration::from_secs(20));
        let begun = clock::uptime_ms();
        assert!(!deadline.decide(begun + 19_000));
        assert!(deadline.decide(begun + 21_000));
        deadline.clear();
        assert!(!deadline.is_over());
    }
}
