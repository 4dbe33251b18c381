//! Threads that can be stopped: the [`Stop`] flag, named spawning, recovering locks.
//!
//! Every thread of the program has a name and is started by [`spawn`], or by [`spawn_for_result`] if the thread that
//! starts it waits for its result. Threads pause only in [`Stop::wait`], so that a stop is noticed at once everywhere.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::base::failpoints;

/// A shared flag, set once, that every loop of the program looks at.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Not stopping yet.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Asks everyone who holds a clone to end, and wakes those who wait.
    pub fn set(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    /// Whether everyone shall end.
    pub fn is_set(&self) -> bool {
        *lock(&self.0.0)
    }

    /// Waits for `pause`, or shorter if a stop comes; true means stop.
    pub fn wait(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut stopped = lock(&self.0.0);
        while !*stopped {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            stopped = wait_timeout(&self.0.1, stopped, left);
        }
        true
    }
}

/// Told of a thread that has panicked; none while there is no server, or when it stops.
static SUPERVISOR: Mutex<Option<fn(&str)>> = Mutex::new(None);
/// The first thread that has panicked.
static DEAD: OnceLock<String> = OnceLock::new();

/// From now on `told` is called when a thread panics that [`spawn`] has started. With none they are not told of, as at a
/// stop.
pub fn supervise(told: Option<fn(&str)>) {
    *lock(&SUPERVISOR) = told;
}

/// The first thread of a server that has panicked.
pub fn dead() -> Option<&'static str> {
    DEAD.get().map(String::as_str)
}

fn has_died(name: &str) {
    let told = *lock(&SUPERVISOR);
    if let Some(told) = told {
        let _ = DEAD.set(name.to_owned());
        told(name);
    }
}

/// Starts a named thread, without which the server cannot do its work: a panic in it is told to the supervisor. Fails
/// (instead of panicking) when the system gives no more threads.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let own = name.to_owned();
    spawn_for_result(name, move || {
        let body = || {
            assert!(!failpoints::is_armed("panic", &own), "a test wants it");
            body()
        };
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(result) => result,
            Err(panic) => {
                has_died(&own);
                resume_unwind(panic)
            }
        }
    })
}

/// Starts a named thread whose end is waited for, where a panic is an error like others.
pub fn spawn_for_result<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|error| Error::from(error).context(format!("start thread {name}")))
}

/// Sleeps for a short time that a stop need not interrupt.
pub fn pause(time: Duration) {
    Stop::new().wait(time);
}

/// Waits for a thread to end until `deadline`; false when it did not.
pub fn join_until<T>(handle: JoinHandle<T>, deadline: Instant) -> bool {
    while !handle.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        pause(Duration::from_millis(2));
    }
    handle.join().is_ok()
}

/// Locks, also after a panic in another holder: what the locks of this program guard is never
/// left half changed (a transaction that panics is rolled back first).
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar`, recovering as [`lock`] does.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar` at most `limit`, recovering as [`lock`] does.
pub fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    match condvar.wait_timeout(guard, limit) {
        Ok((guard, _)) => guard,
        Err(poisoned) => poisoned.into_inner().0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_a_wait_at_once() {
        let stop = Stop::new();
        let waiter = stop.clone();
        let handle = spawn("waiter", move || waiter.wait(Duration::from_secs(60))).unwrap();
        let started = Instant::now();
        stop.set();
        assert!(handle.join().unwrap());
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_wait_that_is_not_stopped_runs_out() {
        assert!(!Stop::new().wait(Duration::from_millis(5)));
    }
}
