//! The thread that checks up who connections are, so that the one that delivers waits for no database.
//!
//! A check is asked for by a session and answered with a command. Between the two the session may have become
//! another identity, so what is found counts only for the generation of the session that it was asked for.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::Value;

use super::registry::SessionId;
use crate::base::queue::Queue;
use crate::base::threads::Stop;
use crate::model::auth::StoredCredentials;

/// Longest pause between two checks at the stop.
const PAUSE: Duration = Duration::from_millis(250);

/// A check_one at who a session is.
pub struct CredentialCheck {
    pub session: SessionId,
    pub database: String,
    pub pass: StoredCredentials,
    pub purpose: CheckPurpose,
    /// Set until it begins.
    pub is_queued: Arc<AtomicBool>,
}

/// The purpose of a check.
pub enum CheckPurpose {
    /// To see that the identity of the session is still the same, asked for by a session of this generation.
    Recheck { number: u64, generation: u64 },
    /// The session signs in by a frame with this `ref`.
    SignIn(Value),
}

/// The checks that wait. Bound: two of each session, one of them to sign in.
#[derive(Default)]
pub struct CheckQueue(Queue<CredentialCheck>);

impl CheckQueue {
    pub fn push(&self, check: CredentialCheck) {
        check.is_queued.store(true, SeqCst);
        // The queue is never closed: it ends with the process.
        let _ = self.0.push(check);
    }

    /// Ends a wait, so that the thread sees a stop.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// The thread: hands checks to `check_one` until the stop.
    pub fn run(&self, stop: &Stop, check_one: impl Fn(CredentialCheck)) {
        while !stop.is_set() {
            if let Some(check) = self.0.pop(PAUSE) {
                check.is_queued.store(false, SeqCst);
                check_one(check);
            }
        }
    }
}
