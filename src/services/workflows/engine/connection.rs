//! Sockets of workers: frames enter the queue of the engine, and a worker with too many waiting
//! frames is not read.

use std::sync::Arc;

use crate::base::json::Object;
use crate::base::threads::lock;
use crate::model::auth::StoredCredentials;
use crate::net::sockets::{Flow, SocketHandle, SocketHandler};
use crate::services::workflows::core::{Input, close_code};
use crate::services::workflows::engine::queue::{EngineState, QueuedInput};
use crate::services::workflows::engine::worker::WorkerHandle;
use crate::services::workflows::frames;
use crate::services::workflows::sessions::{SessionId, WorkerGrant};

pub struct WorkerSocket {
    shared: Arc<EngineState>,
    session: SessionId,
    grant: Option<WorkerGrant>,
    pass: StoredCredentials,
    worker: Option<WorkerHandle>,
}

impl WorkerSocket {
    /// `pass` are the credentials of the handshake, if any.
    pub fn new(
        shared: Arc<EngineState>,
        session: SessionId,
        grant: Option<WorkerGrant>,
        pass: StoredCredentials,
    ) -> WorkerSocket {
        WorkerSocket {
            shared,
            session,
            grant,
            pass,
            worker: None,
        }
    }
}

impl SocketHandler for WorkerSocket {
    fn opened(&mut self, link: SocketHandle) {
        let worker = WorkerHandle::new(link, self.pass.clone());
        lock(&self.shared.links).insert(self.session, worker.clone());
        self.worker = Some(worker);
        let input = Input::Opened {
            session: self.session,
            grant: self.grant.take(),
        };
        self.shared.push(QueuedInput {
            input,
            bytes: 0,
            of: None,
        });
    }

    fn received(&mut self, text: &str) -> Flow {
        let Some(worker) = &self.worker else {
            return Flow::Continue;
        };
        let session = self.session;
        let input = match frames::parse_frame(text) {
            Ok(frame) => Input::Frame {
                session,
                frame,
                grant: None,
            },
            Err(error) => Input::BadFrame { session, error },
        };
        let bytes = text.len();
        let payer = worker.link.payer();
        let Ok(charge) = self.shared.frames.charge(payer, bytes as u64) else {
            worker
                .link
                .close(close_code::TRY_AGAIN_LATER, "the server is busy");
            return Flow::Continue;
        };
        let is_full = worker.pending.add(bytes);
        let item = QueuedInput {
            input,
            bytes,
            of: Some((worker.clone(), charge)),
        };
        self.shared.push(item);
        if !is_full {
            return Flow::Continue;
        }
        let slow = Object::new().text("t", "slow").int("retry_ms", 100).end();
        worker.link.send(slow.into());
        Flow::Pause
    }

    fn closed(&mut self) {
        lock(&self.shared.links).remove(&self.session);
        self.shared.push(QueuedInput {
            input: Input::Closed {
                session: self.session,
            },
            bytes: 0,
            of: None,
        });
    }
}
