//! Sockets of workers: frames go into the queue of the engine, and a worker that has too many there is held.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::Item;
use super::Shared;
use crate::auth::Pass;
use crate::sockets::Flow;
use crate::sockets::Link;
use crate::sockets::Peer;
use crate::threads::lock;
use crate::workflows::core::Input;
use crate::workflows::frames;
use crate::workflows::json::Object;
use crate::workflows::sessions::Grant;
use crate::workflows::sessions::SessionId;

/// Frames of one worker that wait, and their bytes.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 2 << 20;
/// Bytes of all frames that wait.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// A connected worker, for whoever sends to it.
#[derive(Clone)]
pub struct Worker {
    pub link: Link,
    pending: Arc<Pending>,
    pub pass: Arc<Mutex<Pass>>,
}

/// What of a worker waits in the queue.
#[derive(Default)]
struct Pending {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl Pending {
    fn is_full(&self) -> bool {
        self.frames.load(Relaxed) >= PENDING_MAX || self.bytes.load(Relaxed) >= PENDING_BYTES_MAX
    }
}

impl Worker {
    /// A frame of it has been dealt with.
    pub fn done(&self, bytes: usize) {
        let was_full = self.pending.is_full();
        self.pending.frames.fetch_sub(1, Relaxed);
        self.pending.bytes.fetch_sub(bytes, Relaxed);
        if was_full {
            self.link.resume();
        }
    }
}

/// A socket of a worker.
pub struct Connection {
    shared: Arc<Shared>,
    session: SessionId,
    grant: Option<Grant>,
    pass: Pass,
    worker: Option<Worker>,
}

impl Connection {
    /// A socket that is to be opened. `pass` are the credentials of its handshake, if there were any.
    pub fn new(
        shared: Arc<Shared>,
        session: SessionId,
        grant: Option<Grant>,
        pass: Pass,
    ) -> Connection {
        Connection {
            shared,
            session,
            grant,
            pass,
            worker: None,
        }
    }
}

impl Peer for Connection {
    fn opened(&mut self, link: Link) {
        let worker = Worker {
            link,
            pending: Arc::default(),
            pass: Arc::new(Mutex::new(self.pass.clone())),
        };
        lock(&self.shared.links).insert(self.session, worker.clone());
        self.worker = Some(worker);
        let input = Input::Opened {
            session: self.session,
            grant: self.grant.take(),
        };
        self.shared.push(Item {
            input,
            bytes: 0,
            of: None,
        });
    }

    fn received(&mut self, text: &str) -> Flow {
        let Some(worker) = &self.worker else {
            return Flow::Go;
        };
        let session = self.session;
        let input = match frames::read(text) {
            Ok(frame) => Input::Frame {
                session,
                frame,
                grant: None,
            },
            Err(what) => Input::Garbled { session, what },
        };
        let bytes = text.len();
        if lock(&self.shared.queue).bytes > QUEUE_BYTES_MAX {
            worker.link.close(1013, "the server is busy");
            return Flow::Go;
        }
        worker.pending.frames.fetch_add(1, Relaxed);
        worker.pending.bytes.fetch_add(bytes, Relaxed);
        let item = Item {
            input,
            bytes,
            of: Some(worker.clone()),
        };
        self.shared.push(item);
        if !worker.pending.is_full() {
            return Flow::Go;
        }
        let slow = Object::new().text("t", "slow").int("retry_ms", 100).end();
        worker.link.send(slow.into());
        Flow::Hold
    }

    fn closed(&mut self) {
        lock(&self.shared.links).remove(&self.session);
        self.shared.push(Item {
            input: Input::Closed {
                session: self.session,
            },
            bytes: 0,
            of: None,
        });
    }
}
