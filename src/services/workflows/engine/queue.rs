//! State shared by the engine's thread, sockets and requests: the queue of inputs, the sockets, and
//! the requests that wait for an answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::base::budget::{Budget, Charge};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::queue::Queue;
use crate::base::threads::lock;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::core::{Core, Input, Output, ReplyHandle};
use crate::services::workflows::engine::worker::WorkerHandle;
use crate::services::workflows::sessions::{SessionId, WorkerGrant};

/// Inputs and bytes of one round.
const ROUND_MAX: usize = 512;
const ROUND_BYTES_MAX: usize = 4 << 20;
/// Time limit for the answer to a request.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Longest pause between two rounds.
pub const PAUSE: Duration = Duration::from_millis(250);

/// See the module documentation.
pub struct EngineState {
    pub core: Arc<Mutex<Core>>,
    /// Bound: the frames of workers are charged to `frames`, and each request waits for its answer.
    queue: Queue<QueuedInput>,
    pub frames: Arc<Budget>,
    pub links: Mutex<HashMap<SessionId, WorkerHandle>>,
    answers: Mutex<HashMap<ReplyHandle, mpsc::SyncSender<Result<String>>>>,
}

pub struct QueuedInput {
    pub input: Input,
    pub bytes: usize,
    /// The worker of a frame, and the charge for it.
    pub of: Option<(WorkerHandle, Charge)>,
}

impl EngineState {
    pub fn new(core: Core, frames: &Arc<Budget>) -> EngineState {
        EngineState {
            core: Arc::new(Mutex::new(core)),
            queue: Queue::default(),
            frames: Arc::clone(frames),
            links: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// Queues a request and waits for its answer.
    pub fn execute(
        &self,
        reply: ReplyHandle,
        grant: WorkerGrant,
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
                "The server is busy; the request may still be executed.",
            ))
        })
    }

    /// Wakes the thread of the engine.
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// Queues an input; false if the engine has ended.
    pub fn push(&self, item: QueuedInput) -> bool {
        self.queue.push(item).is_ok()
    }

    /// Waits for inputs, at most until the next deadline or a wake, and takes one round of them.
    pub fn next_round(&self) -> Vec<QueuedInput> {
        let due_in = lock(&self.core).due_at() - clock::now_ms();
        let pause = Duration::from_millis(u64::try_from(due_in).unwrap_or(0)).min(PAUSE);
        let mut bytes = 0;
        self.queue.pop_while(pause, ROUND_MAX, |item| {
            let admits = bytes < ROUND_BYTES_MAX;
            bytes += item.bytes;
            admits
        })
    }

    /// Accepts no more inputs, and refuses the requests that wait for an answer.
    pub fn close(&self) {
        drop(self.queue.close());
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
