pub use self::task_pool::TaskPool;

use std::sync::{Mutex, MutexGuard, PoisonError};

mod task_pool;

/// Locks, also after a panic elsewhere: no state behind our locks is left half changed by one.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
