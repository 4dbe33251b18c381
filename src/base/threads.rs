//! Threads that can be stopped: the [`Stop`] flag, named threads, locks that recover from panics.
//!
//! Every thread of the program has a name and is started by [`spawn`], or by [`spawn_for_result`]
//! if the starting thread waits for its result. Threads wait in [`Stop::wait`], so that they notice
//! a stop at once; [`pause`] is for short waits only.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::base::failpoints;

/// A shared flag, set once, that ends the loops of the program.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Sets the flag for all clones and wakes the threads that wait.
    pub fn set(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    pub fn is_set(&self) -> bool {
        *lock(&self.0.0)
    }

    /// Waits for `pause`, or until the flag is set; true if it is set.
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

/// The handler of panics in threads; none while no server runs, or while it stops.
static PANIC_HANDLER: Mutex<Option<fn(&str)>> = Mutex::new(None);
/// The first thread that panicked.
static FIRST_PANICKED: OnceLock<String> = OnceLock::new();

/// Sets the handler of panics in threads started by [`spawn`]; none ignores them, as during a stop.
pub fn on_panic(handler: Option<fn(&str)>) {
    *lock(&PANIC_HANDLER) = handler;
}

/// The name of the first thread that panicked.
pub fn first_panicked() -> Option<&'static str> {
    FIRST_PANICKED.get().map(String::as_str)
}

fn report_panic(name: &str) {
    let handler = *lock(&PANIC_HANDLER);
    if let Some(handler) = handler {
        let _ = FIRST_PANICKED.set(name.to_owned());
        handler(name);
    }
}

/// Starts a named thread that the server depends on: a panic in it calls the handler of
/// [`on_panic`]. Fails (instead of panicking) if the system refuses another thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let own = name.to_owned();
    spawn_for_result(name, move || {
        let body = || {
            assert!(
                !failpoints::is_armed("panic", &own),
                "panic injected by a test"
            );
            body()
        };
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(result) => result,
            Err(panic) => {
                report_panic(&own);
                resume_unwind(panic)
            }
        }
    })
}

/// Starts a named thread whose result another thread waits for; a panic is an error for that
/// thread.
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

/// Waits until `deadline` for a thread to end; false if it did not end or has panicked.
pub fn join_until<T>(handle: JoinHandle<T>, deadline: Instant) -> bool {
    while !handle.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        pause(Duration::from_millis(2));
    }
    handle.join().is_ok()
}

/// Locks a mutex, even after a panic of another holder: the data behind the locks of this program
/// is always consistent (a transaction that panics is rolled back first).
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar`, recovering as [`lock`] does.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar` for at most `limit`, recovering as [`lock`] does.
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
