//! The thread that checks up who connections are, so that the one that delivers waits for no database.
//!
//! A check is asked for by a session and answered with a command. Between the two the session may have become
//! another identity, so what is found counts only for the generation of the session that it was asked for.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::registry::SessionId;
use crate::base::threads;
use crate::base::threads::{Stop, lock};
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
pub struct CheckQueue {
    waiting: Mutex<VecDeque<CredentialCheck>>,
    arrived: Condvar,
}

impl CheckQueue {
    pub fn push(&self, check: CredentialCheck) {
        check.is_queued.store(true, SeqCst);
        lock(&self.waiting).push_back(check);
        self.wake();
    }

    /// Ends a wait, so that the thread sees a stop.
    pub fn wake(&self) {
        self.arrived.notify_all();
    }

    /// The thread: hands checks to `check_one` until the stop.
    pub fn run(&self, stop: &Stop, check_one: impl Fn(CredentialCheck)) {
        while !stop.is_set() {
            let mut waiting = lock(&self.waiting);
            if waiting.is_empty() {
                waiting = threads::wait_timeout(&self.arrived, waiting, PAUSE);
            }
            let check = waiting.pop_front();
            drop(waiting);
            if let Some(check) = check {
                check.is_queued.store(false, SeqCst);
                check_one(check);
            }
        }
    }
}
