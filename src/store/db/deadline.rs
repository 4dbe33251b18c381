//! When the work on a connection has to be done: past it, SQLite stops the running statement.
//!
//! A query that has a payer is judged twice on the way there. After [`GLANCE`] it goes on only
//! while its payer could have one slow query more, and after [`SLOW`] it is charged as one. A query that
//! is done by then pays nothing and costs three stores.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rusqlite::Connection;

use crate::base::budget::{Charge, Exhausted, Payer, Queries};
use crate::base::clock;
use crate::base::error::Result;
use crate::base::threads::lock;

/// Virtual machine steps between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;
/// The time that a query runs while its payer has all the slow queries that it may have.
const GLANCE: Duration = Duration::from_millis(200);
/// The time after which a query is a slow one.
const SLOW: Duration = Duration::from_secs(1);
const NEVER: i64 = i64::MAX;

thread_local! {
    /// The payer of the queries of this thread; of meaning while a query with a payer runs. The handler
    /// runs on the thread of its statement.
    static PAYER: Cell<Option<Payer>> = const { Cell::new(None) };
}

/// The deadline of one connection.
#[derive(Clone)]
pub struct Deadline(Arc<Inner>);

/// All times are of [`clock::uptime_ms`].
struct Inner {
    /// Until then there is nothing to decide.
    next_ms: AtomicI64,
    /// When the query becomes a slow one.
    slow_ms: AtomicI64,
    end_ms: AtomicI64,
    /// The budgets that slow queries are charged to; set by the first one that has a payer.
    queries: OnceLock<Arc<Queries>>,
    /// There is a verdict.
    is_judged: AtomicBool,
    /// The charge of a slow query, or why it was stopped.
    verdict: Mutex<Option<Result<Charge, Exhausted>>>,
}

impl Deadline {
    /// One that never comes until [`Deadline::set`].
    pub fn new() -> Deadline {
        Deadline(Arc::new(Inner {
            next_ms: AtomicI64::new(NEVER),
            slow_ms: AtomicI64::new(NEVER),
            end_ms: AtomicI64::new(NEVER),
            queries: OnceLock::new(),
            is_judged: AtomicBool::new(false),
            verdict: Mutex::new(None),
        }))
    }

    /// Makes a connection obey it.
    pub fn attach(&self, connection: &mut Connection) -> Result<()> {
        let deadline = self.clone();
        let look = move || deadline.is_over();
        Ok(connection.progress_handler(STEPS_PER_LOOK, Some(look))?)
    }

    /// From now on there is this much time.
    pub fn set(&self, limit: Duration) {
        let end_ms = clock::uptime_ms().saturating_add(millis(limit));
        self.0.end_ms.store(end_ms, Ordering::Relaxed);
        self.0.next_ms.store(end_ms, Ordering::Relaxed);
    }

    /// The same, for a query of this thread that `payer` asks.
    pub fn set_for(&self, limit: Duration, payer: Payer, queries: &Arc<Queries>) {
        let now_ms = clock::uptime_ms();
        PAYER.set(Some(payer));
        self.0.queries.get_or_init(|| Arc::clone(queries));
        let store = |at: &AtomicI64, time| {
            at.store(now_ms.saturating_add(millis(time)), Ordering::Relaxed);
        };
        store(&self.0.end_ms, limit);
        store(&self.0.slow_ms, SLOW);
        store(&self.0.next_ms, limit.min(GLANCE));
    }

    /// From now on there is no hurry.
    pub fn clear(&self) {
        self.0.end_ms.store(NEVER, Ordering::Relaxed);
        self.0.next_ms.store(NEVER, Ordering::Relaxed);
    }

    /// True if the work has to stop. Called now and then by whatever takes long.
    pub fn is_over(&self) -> bool {
        let now_ms = clock::uptime_ms();
        now_ms > self.0.next_ms.load(Ordering::Relaxed) && self.decide(now_ms)
    }

    /// Ends the query: gives back what it was charged, and says why it was stopped if its payer had no
    /// right to more.
    pub fn finish(&self) -> Option<Exhausted> {
        if !self.0.is_judged.load(Ordering::Relaxed) {
            return None;
        }
        self.0.is_judged.store(false, Ordering::Relaxed);
        lock(&self.0.verdict).take()?.err()
    }

    /// True when the work has to stop.
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
        self.0.is_judged.store(true, Ordering::Relaxed);
        if is_refused {
            // For the statements that follow, too.
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
    fn a_query_is_judged_at_a_glance_and_charged_when_it_is_slow() {
        let (queries, deadline) = (Arc::new(Queries::new(8)), Deadline::new());
        let begin = || {
            deadline.set_for(Duration::from_secs(20), PAYER_OF_ONE, &queries);
            clock::uptime_ms()
        };
        let (glance, slow) = (millis(GLANCE) + 1, millis(SLOW) + 1);
        let begun = begin();
        assert!(!deadline.decide(begun + glance));
        assert_eq!(queries.slow.used(), 0);
        assert!(!deadline.decide(begun + slow));
        assert_eq!(queries.slow.used(), 1);
        assert!(!deadline.decide(begun + slow + 1));
        assert!(deadline.decide(begun + 21_000));
        assert_eq!((deadline.finish(), queries.slow.used()), (None, 0));

        let taken = queries.slow.charge(PAYER_OF_ONE, 4);
        let begun = begin();
        assert!(deadline.decide(begun + glance));
        assert!(deadline.decide(begun + glance), "it does not go on");
        assert_eq!(deadline.finish(), Some(Exhausted::Network));
        // What was free at a glance may be taken a moment later.
        drop(taken);
        let begun = begin();
        assert!(!deadline.decide(begun + glance));
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
