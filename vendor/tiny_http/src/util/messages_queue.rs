use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;

/// A queue between the connection threads and the threads that call `recv()`.
pub struct MessagesQueue<T>
where
    T: Send,
{
    inner: Mutex<Inner<T>>,
    condvar: Condvar,
}

struct Inner<T> {
    queue: VecDeque<T>,

    // threads inside `condvar.wait()`; waking costs a system call, so it is skipped if no thread waits
    waiting: usize,

    // set once by `unblock()`, never reset
    unblocked: bool,
}

impl<T> MessagesQueue<T>
where
    T: Send,
{
    pub fn with_capacity(capacity: usize) -> MessagesQueue<T> {
        MessagesQueue {
            inner: Mutex::new(Inner {
                queue: VecDeque::with_capacity(capacity),
                waiting: 0,
                unblocked: false,
            }),
            condvar: Condvar::new(),
        }
    }

    /// Pushes an element to the queue. Gives it back if the queue has been unblocked.
    pub fn push(&self, value: T) -> Result<(), T> {
        let mut inner = lock(&self.inner);
        if inner.unblocked {
            return Err(value);
        }
        inner.queue.push_back(value);
        let wake = inner.waiting > 0;
        drop(inner);
        if wake {
            self.condvar.notify_one();
        }
        Ok(())
    }

    /// Wakes every thread in `pop()`. What is queued is still handed out, then `pop()` returns None for ever.
    pub fn unblock(&self) {
        lock(&self.inner).unblocked = true;
        self.condvar.notify_all();
    }

    /// Pops an element. Blocks until one is available.
    /// Returns None once `unblock()` was issued and the queue is empty.
    pub fn pop(&self) -> Option<T> {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(value) = inner.queue.pop_front() {
                return Some(value);
            }
            if inner.unblocked {
                return None;
            }
            inner.waiting += 1;
            inner = self
                .condvar
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
            inner.waiting -= 1;
        }
    }

    /// Number of queued elements.
    pub fn len(&self) -> usize {
        lock(&self.inner).queue.len()
    }
}
