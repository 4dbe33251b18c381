use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::lock;

/// Manages a collection of threads.
///
/// A new thread is created every time all the existing threads are busy, up to a limit; above it
/// tasks wait. Any idle thread will automatically die after a few seconds.
pub struct TaskPool {
    sharing: Arc<Sharing>,
}

type Task = Box<dyn FnOnce() + Send>;

struct Sharing {
    // name of the threads
    name: &'static str,

    // upper bound of `active_tasks`
    max_threads: usize,

    state: Mutex<State>,

    // condvar that will be notified whenever a task is added to `todo`
    condvar: Condvar,
}

#[derive(Default)]
struct State {
    // list of the tasks to be done by worker threads
    todo: VecDeque<Task>,

    // number of total worker threads running
    active_tasks: usize,

    // number of idle worker threads
    waiting_tasks: usize,
}

/// Threads use little stack: a read buffer and a few frames.
const STACK_BYTES: usize = 256 << 10;

/// Time after which a thread without a task ends.
const LINGER: Duration = Duration::from_secs(5);

/// Counts a thread out when its task panics or the thread could not be started.
/// A thread that ends for want of tasks counts itself out under the lock that told it so.
struct Registration {
    sharing: Arc<Sharing>,
    armed: bool,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.armed {
            lock(&self.sharing.state).active_tasks -= 1;
        }
    }
}

impl TaskPool {
    pub fn new(name: &'static str, max_threads: usize) -> TaskPool {
        TaskPool {
            sharing: Arc::new(Sharing {
                name,
                max_threads,
                state: Mutex::new(State::default()),
                condvar: Condvar::new(),
            }),
        }
    }

    /// Executes a function in a thread.
    /// If no thread is available, spawns a new one; the error is that of the system refusing one.
    pub fn spawn(&self, code: Task) -> io::Result<()> {
        let mut state = lock(&self.sharing.state);

        // Each queued task has claimed one of the idle threads already.
        let free = state.waiting_tasks > state.todo.len();
        if free || state.active_tasks >= self.sharing.max_threads {
            state.todo.push_back(code);
            drop(state);
            if free {
                self.sharing.condvar.notify_one();
            }
            return Ok(());
        }

        state.active_tasks += 1;
        drop(state);
        let registration = Registration {
            sharing: Arc::clone(&self.sharing),
            armed: true,
        };
        thread::Builder::new()
            .name(self.sharing.name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || run(code, registration))
            .map(drop)
    }

    /// True while tasks wait for one of `max_threads` threads to become free.
    pub fn is_full(&self) -> bool {
        let state = lock(&self.sharing.state);
        state.todo.len() > state.waiting_tasks
    }
}

fn run(first: Task, mut registration: Registration) {
    let sharing = Arc::clone(&registration.sharing);
    first();
    while let Some(task) = next_task(&sharing) {
        task();
    }
    registration.armed = false;
}

fn next_task(sharing: &Sharing) -> Option<Task> {
    let mut state = lock(&sharing.state);
    loop {
        if let Some(task) = state.todo.pop_front() {
            return Some(task);
        }
        state.waiting_tasks += 1;
        let (guard, wait) = sharing
            .condvar
            .wait_timeout(state, LINGER)
            .unwrap_or_else(PoisonError::into_inner);
        state = guard;
        state.waiting_tasks -= 1;
        if wait.timed_out() && state.todo.is_empty() {
            state.active_tasks -= 1;
            return None;
        }
    }
}
