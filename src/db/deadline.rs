//! When the work on a connection has to be done: past it, SQLite stops the running statement.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use rusqlite::Connection;

use crate::error::Result;

/// Virtual machine steps between two looks at the clock.
const STEPS_PER_LOOK: i32 = 20_000;
const NEVER: u64 = u64::MAX;

/// The deadline of one connection, in milliseconds of a clock that is never set.
#[derive(Clone)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// Makes a connection obey a deadline; there is none until [`Deadline::set`].
    pub fn attach(connection: &mut Connection) -> Result<Deadline> {
        let deadline = Deadline(Arc::new(AtomicU64::new(NEVER)));
        let at = Arc::clone(&deadline.0);
        let look = move || now_ms() > at.load(Ordering::Relaxed);
        connection.progress_handler(STEPS_PER_LOOK, Some(look))?;
        Ok(deadline)
    }

    /// From now on there is this much time.
    pub fn set(&self, limit: Duration) {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(NEVER);
        self.0
            .store(now_ms().saturating_add(limit_ms), Ordering::Relaxed);
    }

    /// From now on there is no hurry.
    pub fn clear(&self) {
        self.0.store(NEVER, Ordering::Relaxed);
    }
}

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(NEVER)
}
