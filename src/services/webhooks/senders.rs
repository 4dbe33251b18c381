//! Sender threads: each makes one call at a time and returns its result to the dispatcher.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::core::Attempt;
use super::queue::QueuedCall;
use super::runs;
use super::runs::StartRun;
use super::send::{CallMessage, HttpSender};
use crate::base::error::Result;
use crate::base::queue::Queue;
use crate::base::signal::Signal;
use crate::base::threads::lock;
use crate::base::{clock, threads};
use crate::model::triggers::Target;

/// The queue between the dispatcher and the senders.
pub struct SenderPool {
    http: HttpSender,
    start: StartRun,
    signal: Arc<Signal<String>>,
    /// Bound: the dispatcher has no more calls in progress than there can be senders.
    queue: Queue<OutgoingCall>,
    finished: Mutex<Vec<FinishedCall>>,
}

/// A call to make.
pub struct OutgoingCall {
    pub database: String,
    pub host: String,
    pub row: QueuedCall,
}

/// A call that was made, with its result.
pub struct FinishedCall {
    pub job: OutgoingCall,
    pub attempt: Attempt,
}

impl SenderPool {
    pub fn new(http: HttpSender, start: StartRun, signal: &Arc<Signal<String>>) -> SenderPool {
        SenderPool {
            http,
            start,
            signal: Arc::clone(signal),
            queue: Queue::default(),
            finished: Mutex::default(),
        }
    }

    /// Queues a call for the next free sender; drops it if the pool is closed.
    pub fn push(&self, job: OutgoingCall) {
        let _ = self.queue.push(job);
    }

    /// The calls that have ended since the last time.
    pub fn take_finished(&self) -> Vec<FinishedCall> {
        std::mem::take(&mut lock(&self.finished))
    }

    /// Ends the senders. Calls in progress are cut, and their results do not count.
    pub fn close(&self) {
        self.queue.close();
        self.http.abort();
    }

    pub fn spawn(senders: &Arc<SenderPool>) -> Result<JoinHandle<()>> {
        let senders = Arc::clone(senders);
        threads::spawn("webhook", move || {
            while let Some(job) = senders.queue.next() {
                // A panic must neither end the sender nor leave the call in flight forever.
                let attempt = catch_unwind(AssertUnwindSafe(|| senders.attempt(&job)));
                let attempt =
                    attempt.unwrap_or_else(|_| Attempt::Failed("Internal error.".to_owned()));
                senders.finish(FinishedCall { job, attempt });
            }
        })
    }

    fn finish(&self, finished: FinishedCall) {
        if !self.queue.is_closed() {
            lock(&self.finished).push(finished);
        }
        self.signal.wake();
    }

    fn attempt(&self, job: &OutgoingCall) -> Attempt {
        let row = &job.row;
        match &row.target {
            None => Attempt::Rejected("The stored target is invalid.".to_owned()),
            Some(Target::Workflow { name, input, .. }) => {
                runs::start(&self.start, &job.database, row, name, input.as_ref())
            }
            Some(Target::Http(call)) => {
                // The time distinguishes a database from an earlier one of the same name.
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
