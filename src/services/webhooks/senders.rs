//! Sender threads: each makes one call at a time and returns its result to the dispatcher.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::core::Attempt;
use super::queue::QueuedCall;
use super::runs;
use super::runs::StartRun;
use super::send::{CallMessage, HttpSender};
use crate::base::error::Result;
use crate::base::threads::lock;
use crate::base::{clock, threads};
use crate::model::triggers::Target;
use crate::store::db::Signal;

/// How long an idle sender waits before it checks for work again.
const IDLE_WAIT: Duration = Duration::from_secs(60);

/// Where dispatcher and senders meet.
pub struct SenderPool {
    http: HttpSender,
    start: StartRun,
    signal: Arc<Signal>,
    state: Mutex<SenderQueue>,
    arrived: Condvar,
}

#[derive(Default)]
struct SenderQueue {
    queue: VecDeque<OutgoingCall>,
    finished: Vec<FinishedCall>,
    is_closed: bool,
}

/// A call to be made.
pub struct OutgoingCall {
    pub database: String,
    pub host: String,
    pub row: QueuedCall,
}

/// One that was made.
pub struct FinishedCall {
    pub job: OutgoingCall,
    pub attempt: Attempt,
}

impl SenderPool {
    pub fn new(http: HttpSender, start: StartRun, signal: &Arc<Signal>) -> SenderPool {
        SenderPool {
            http,
            start,
            signal: Arc::clone(signal),
            state: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// Puts a call there for the next sender. Bound: the dispatcher has no more under way than there can
    /// be senders.
    pub fn push(&self, job: OutgoingCall) {
        lock(&self.state).queue.push_back(job);
        self.arrived.notify_one();
    }

    /// What has ended since the last time.
    pub fn take_finished(&self) -> Vec<FinishedCall> {
        std::mem::take(&mut lock(&self.state).finished)
    }

    /// Ends the senders; calls under way are cut, and what comes of them does not count.
    pub fn close(&self) {
        {
            let mut state = lock(&self.state);
            state.is_closed = true;
            state.queue.clear();
        }
        self.http.abort();
        self.arrived.notify_all();
    }

    pub fn spawn(senders: &Arc<SenderPool>) -> Result<JoinHandle<()>> {
        let senders = Arc::clone(senders);
        threads::spawn("webhook", move || {
            while let Some(job) = senders.next() {
                // A panic over one call must not end the sender, nor leave the call under way for ever.
                let attempt = catch_unwind(AssertUnwindSafe(|| senders.attempt(&job)));
                let attempt = attempt
                    .unwrap_or_else(|_| Attempt::Failed("The server has an error.".to_owned()));
                senders.finish(FinishedCall { job, attempt });
            }
        })
    }

    fn next(&self) -> Option<OutgoingCall> {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state = threads::wait_timeout(&self.arrived, state, IDLE_WAIT);
        }
    }

    fn finish(&self, finished: FinishedCall) {
        let mut state = lock(&self.state);
        if !state.is_closed {
            state.finished.push(finished);
        }
        drop(state);
        self.signal.wake();
    }

    fn attempt(&self, job: &OutgoingCall) -> Attempt {
        let row = &job.row;
        match &row.target {
            None => Attempt::Rejected("The target cannot be read.".to_owned()),
            Some(Target::Workflow { name, input, .. }) => {
                runs::start(&self.start, &job.database, row, name, input.as_ref())
            }
            Some(Target::Http(call)) => {
                // The time tells a database from an older one of the same name.
                let id = format!("{}-{}-{}", job.database, row.id, row.created_ms);
                let message = CallMessage {
                    id: &id,
                    payload: &row.payload,
                    now_ms: clock::now_ms(),
                };
                self.http.call(call, &message)
            }
        }
    }
}
