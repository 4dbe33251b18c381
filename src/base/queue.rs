//! A first-in, first-out queue between threads that can be closed.
//!
//! Invariants: items leave in the order in which they arrived; a closed queue accepts nothing and
//! keeps nothing; no wait outlasts its closing. The queue does not bound itself: its owner does,
//! with a budget or because each sender has at most so many items in it, and says so where it makes
//! the queue.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::threads::{lock, wait_timeout};

/// Capacity that an empty queue keeps for its next items.
const CAPACITY_KEPT: usize = 1024;
/// Longest wait in [`Queue::next`] before it looks again.
const IDLE_WAIT: Duration = Duration::from_secs(60);

/// See the module documentation.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
    is_woken: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            state: Mutex::new(State {
                items: VecDeque::new(),
                is_closed: false,
                is_woken: false,
            }),
            arrived: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Adds an item and wakes one waiting thread. A closed queue returns the item as an error.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// Removes the first item; waits for one until `limit` has passed. None also if the queue is
    /// closed or woken meanwhile.
    pub fn pop(&self, limit: Duration) -> Option<T> {
        self.wait(limit).items.pop_front()
    }

    /// Removes the first item; waits for one. None once the queue is closed.
    pub fn next(&self) -> Option<T> {
        loop {
            let mut state = self.wait(IDLE_WAIT);
            if state.is_closed {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
        }
    }

    /// Removes at most `most` items from the front, as long as `admits` agrees; waits for the first
    /// one as [`Queue::pop`] does.
    pub fn pop_while(
        &self,
        limit: Duration,
        most: usize,
        mut admits: impl FnMut(&T) -> bool,
    ) -> Vec<T> {
        let mut state = self.wait(limit);
        let first = state.items.iter().take(most);
        let count = first.take_while(|item| admits(item)).count();
        let items = state.items.drain(..count).collect();
        if state.items.is_empty() && state.items.capacity() > CAPACITY_KEPT {
            state.items = VecDeque::new();
        }
        items
    }

    fn wait(&self, limit: Duration) -> MutexGuard<'_, State<T>> {
        let deadline = Instant::now() + limit;
        let mut state = lock(&self.state);
        while state.items.is_empty() && !state.is_closed && !state.is_woken {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            state = wait_timeout(&self.arrived, state, left);
        }
        state.is_woken = false;
        state
    }

    /// Ends the wait in progress, or else the next one, for a thread that has more than the queue
    /// to watch.
    pub fn wake(&self) {
        lock(&self.state).is_woken = true;
        self.arrived.notify_all();
    }

    /// Closes the queue, ends all waits and returns what was left in it.
    pub fn close(&self) -> VecDeque<T> {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let left = std::mem::take(&mut state.items);
        drop(state);
        self.arrived.notify_all();
        left
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.state).is_closed
    }

    pub fn len(&self) -> usize {
        lock(&self.state).items.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::threads;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn items_leave_in_order_and_a_closed_queue_returns_the_rest() {
        let queue = Queue::default();
        for item in 0..5 {
            queue.push(item).unwrap();
        }
        assert_eq!(queue.pop(LONG), Some(0));
        assert_eq!(queue.pop_while(LONG, 1, |_| true), [1]);
        assert_eq!(queue.pop_while(LONG, 5, |item| *item < 3), [2]);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.close(), [3, 4]);
        assert_eq!(queue.push(5), Err(5));
        assert_eq!((queue.pop(LONG), queue.next()), (None, None));
        assert!(queue.is_closed() && queue.len() == 0);
    }

    #[test]
    fn a_wait_ends_by_an_item_a_wake_a_close_or_its_limit() {
        let ends: [fn(&Queue<u8>); 3] = [
            |queue| queue.push(1).unwrap(),
            |queue| queue.wake(),
            |queue| drop(queue.close()),
        ];
        for (end, found) in ends.into_iter().zip([Some(1), None, None]) {
            let queue = Arc::new(Queue::default());
            let waiting = Arc::clone(&queue);
            let thread = threads::spawn("waiter", move || waiting.pop(LONG)).unwrap();
            end(&queue);
            assert_eq!(thread.join().unwrap(), found);
        }
        assert_eq!(Queue::<u8>::default().pop(Duration::from_millis(5)), None);
    }
}
