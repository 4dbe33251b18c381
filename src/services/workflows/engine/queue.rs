//! What the thread of the engine shares with sockets and requests: the queue of inputs, the sockets, and the
//! requests that wait for an answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::base::budget::{Budget, Charge};
use crate::base::error::{Error, Result};
use crate::base::threads::{Stop, lock};
use crate::base::{clock, threads};
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::core::{Core, Input, Output, ReplyHandle};
use crate::services::workflows::engine::worker::WorkerHandle;
use crate::services::workflows::sessions::{Grant, SessionId};

/// Taken in one round.
const ROUND_MAX: usize = 512;
const ROUND_BYTES_MAX: usize = 4 << 20;
/// How long a request waits for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Longest pause between two rounds.
pub const PAUSE: Duration = Duration::from_millis(250);

/// What the thread shares with the sockets.
pub struct EngineState {
    pub core: Arc<Mutex<Core>>,
    queue: Mutex<Queue>,
    pub frames: Arc<Budget>,
    arrived: Condvar,
    pub links: Mutex<HashMap<SessionId, WorkerHandle>>,
    answers: Mutex<HashMap<ReplyHandle, mpsc::SyncSender<Result<String>>>>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<QueuedInput>,
    is_over: bool,
}

pub struct QueuedInput {
    pub input: Input,
    pub bytes: usize,
    /// Whose frame it is, and what that is charged for it.
    pub of: Option<(WorkerHandle, Charge)>,
}

impl EngineState {
    pub fn new(core: Core, frames: &Arc<Budget>) -> EngineState {
        EngineState {
            core: Arc::new(Mutex::new(core)),
            queue: Mutex::default(),
            frames: Arc::clone(frames),
            arrived: Condvar::new(),
            links: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// Queues a request and waits for its answer.
    pub fn execute(
        &self,
        reply: ReplyHandle,
        grant: Grant,
        request: WorkflowRequest,
    ) -> Result<String> {
        let (sender, answer) = mpsc::sync_channel(1);
        lock(&self.answers).insert(reply, sender);
        let input = Input::Request {
            reply,
            grant,
            request,
        };
        if !self.push(QueuedInput {
            input,
            bytes: 0,
            of: None,
        }) {
            lock(&self.answers).remove(&reply);
            return Err(Error::unavailable("The server is stopping; try again."));
        }
        answer.recv_timeout(ANSWER_WAIT).unwrap_or_else(|_| {
            lock(&self.answers).remove(&reply);
            Err(Error::unavailable(
                "The server is busy; what was asked for may still be done.",
            ))
        })
    }

    /// Wakes the thread of the engine.
    pub fn wake(&self) {
        self.arrived.notify_all();
    }

    /// Queues something; false when nobody takes it any more.
    pub fn push(&self, item: QueuedInput) -> bool {
        let mut queue = lock(&self.queue);
        if queue.is_over {
            return false;
        }
        queue.items.push_back(item);
        if queue.items.len() == 1 {
            self.arrived.notify_one();
        }
        true
    }

    /// Waits for something to do, at most until the next deadline, and takes a round of it.
    pub fn next_round(&self, stop: &Stop) -> Vec<QueuedInput> {
        let due_in = lock(&self.core).due_at() - clock::now_ms();
        let pause = Duration::from_millis(u64::try_from(due_in).unwrap_or(0)).min(PAUSE);
        let until = Instant::now() + pause;
        let mut queue = lock(&self.queue);
        while queue.items.is_empty() && !stop.is_set() {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                break;
            };
            queue = threads::wait_timeout(&self.arrived, queue, left);
        }
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < ROUND_MAX && bytes < ROUND_BYTES_MAX {
            let Some(item) = queue.items.pop_front() else {
                break;
            };
            bytes += item.bytes;
            items.push(item);
        }
        if queue.items.is_empty() && queue.items.capacity() > 4 * ROUND_MAX {
            queue.items = VecDeque::new();
        }
        items
    }

    /// Nothing is taken any more; who waits for an answer is told.
    pub fn close(&self) {
        let items = {
            let mut queue = lock(&self.queue);
            queue.is_over = true;
            std::mem::take(&mut queue.items)
        };
        drop(items);
        for (_, sender) in lock(&self.answers).drain() {
            let _ = sender.try_send(Err(Error::unavailable(
                "The server is stopping; try again.",
            )));
        }
    }

    pub fn send(&self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Answer { reply, answer } => {
                    if let Some(sender) = lock(&self.answers).remove(&reply) {
                        let _ = sender.try_send(answer);
                    }
                }
                Output::Send { session, text } => {
                    let worker = lock(&self.links).get(&session).cloned();
                    if let Some(worker) = worker {
                        worker.link.send(text.into());
                    }
                }
                Output::Close {
                    session,
                    code,
                    reason,
                } => {
                    let worker = lock(&self.links).get(&session).cloned();
                    if let Some(worker) = worker {
                        worker.link.close(code, &reason);
                    }
                }
            }
        }
    }
}
