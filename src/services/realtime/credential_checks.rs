//! The thread that checks credentials, so that the delivering thread waits for no database.
//!
//! A session requests a check, and a command returns the result. Meanwhile the identity of the
//! session may have changed, so a result counts only for the generation of the session that
//! requested it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::Value;

use super::registry::SessionId;
use crate::base::queue::Queue;
use crate::base::threads::Stop;
use crate::model::auth::StoredCredentials;

/// Longest wait before the thread looks for a stop.
const PAUSE: Duration = Duration::from_millis(250);

/// A request to verify the credentials of a session.
pub struct CredentialCheck {
    pub session: SessionId,
    pub database: String,
    pub pass: StoredCredentials,
    pub purpose: CheckPurpose,
    /// True until the check begins.
    pub is_queued: Arc<AtomicBool>,
}

pub enum CheckPurpose {
    /// Verifies that the identity is still the same. The result counts only for this generation.
    Recheck { number: u64, generation: u64 },
    /// The session signs in by a frame with this `ref`.
    SignIn(Value),
}

/// The queue of checks. Bound: two of each session, one of them a sign-in.
#[derive(Default)]
pub struct CheckQueue(Queue<CredentialCheck>);

impl CheckQueue {
    pub fn push(&self, check: CredentialCheck) {
        check.is_queued.store(true, SeqCst);
        // The queue is never closed: it ends with the process.
        let _ = self.0.push(check);
    }

    /// Ends a wait, so that the thread notices a stop.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// The thread: calls `check_one` for each check until the stop.
    pub fn run(&self, stop: &Stop, check_one: impl Fn(CredentialCheck)) {
        while !stop.is_set() {
            if let Some(check) = self.0.pop(PAUSE) {
                check.is_queued.store(false, SeqCst);
                check_one(check);
            }
        }
    }
}
