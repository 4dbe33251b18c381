//! Inputs and outputs of the core, and the commands between them.

use crate::base::error::Result;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::frames::{Frame, FrameError, Report};
use crate::services::workflows::sessions::{SessionId, WorkerGrant};

/// Close codes of the protocol.
pub mod close_code {
    pub const BYE: u16 = 1000;
    pub const TRY_AGAIN_LATER: u16 = 1013;
    pub const BAD_FRAME: u16 = 4400;
    pub const UNAUTHENTICATED: u16 = 4401;
    pub const FORBIDDEN: u16 = 4403;
    pub const NO_VERSION: u16 = 4406;
    pub const TIMEOUT: u16 = 4408;
    pub const REPLACED: u16 = 4409;
}

/// Identifies the caller that waits for an answer.
pub type ReplyHandle = u64;

#[derive(Debug)]
pub enum Input {
    /// A new connection, with the grant of its handshake if it had credentials.
    Opened {
        session: SessionId,
        grant: Option<WorkerGrant>,
    },
    /// A frame, with the grant of the token in it, if any.
    Frame {
        session: SessionId,
        frame: Frame,
        grant: Option<Result<WorkerGrant>>,
    },
    BadFrame {
        session: SessionId,
        error: FrameError,
    },
    Closed {
        session: SessionId,
    },
    Request {
        reply: ReplyHandle,
        grant: WorkerGrant,
        request: WorkflowRequest,
    },
}

#[derive(Debug)]
pub enum Output {
    Send {
        session: SessionId,
        text: String,
    },
    Close {
        session: SessionId,
        code: u16,
        reason: String,
    },
    Answer {
        reply: ReplyHandle,
        answer: Result<String>,
    },
}

/// A change of `workflows.db`.
#[derive(Debug)]
pub enum Command {
    Report {
        session: SessionId,
        reference: Option<String>,
        report: Report,
    },
    Request {
        reply: ReplyHandle,
        grant: WorkerGrant,
        request: WorkflowRequest,
    },
}

pub fn send(session: SessionId, text: String) -> Output {
    Output::Send { session, text }
}

pub fn close(session: SessionId, code: u16, reason: &str) -> Output {
    Output::Close {
        session,
        code,
        reason: reason.to_owned(),
    }
}
