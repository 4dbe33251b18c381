//! The bounded queue of mails that wait to be sent.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use lettre::Message;

use super::message::Mail;
use crate::base::threads;
use crate::base::threads::lock;

/// Largest mail; ours have a few hundred bytes.
pub const MAIL_BYTES_MAX: usize = 64 << 10;
/// The last attempt must end so long before the deadline of a stop.
const STOP_MARGIN: Duration = Duration::from_millis(300);

pub struct QueuedMail {
    pub mail: Mail,
    /// Built at the first attempt and reused: a mail that arrives twice has one id.
    pub message: Option<Message>,
    /// Number of failed attempts.
    pub failed: u32,
    /// Time of the next attempt.
    pub due: Instant,
}

pub struct MailQueue {
    /// Most mails in it.
    max: usize,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    mails: VecDeque<QueuedMail>,
    /// Deadline of a stop in progress. Until then each queued mail is tried once more.
    stop: Option<Instant>,
}

impl MailQueue {
    pub fn new(max: usize) -> MailQueue {
        MailQueue {
            max,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub fn push(&self, mail: Mail) -> Result<(), (Mail, &'static str)> {
        let mut state = lock(&self.state);
        let purpose = mail.purpose;
        let of_purpose = state.mails.iter().filter(|it| it.mail.purpose == purpose);
        let reason = if state.stop.is_some() {
            "the server is stopping"
        } else if of_purpose.count() >= purpose.share(self.max) {
            "too many mails are queued"
        } else if mail.bytes() > MAIL_BYTES_MAX {
            "the mail is too large"
        } else {
            state.mails.push_back(QueuedMail {
                mail,
                message: None,
                failed: 0,
                due: Instant::now(),
            });
            self.changed.notify_one();
            return Ok(());
        };
        Err((mail, reason))
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        lock(&self.state).mails.len()
    }

    /// Queues a mail for another attempt. Returns it if the queue is stopping.
    pub fn put_back(&self, mail: QueuedMail) -> Option<QueuedMail> {
        let mut state = lock(&self.state);
        if state.stop.is_some() {
            return Some(mail);
        }
        state.mails.push_back(mail);
        None
    }

    /// Waits for a mail that is due. Returns it with the time limit of an answer, or none at the
    /// end of a stop.
    pub fn next(&self, answer: Duration) -> Option<(QueuedMail, Duration)> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            if let Some(stop) = state.stop {
                // The system does not accept a limit of zero.
                let left = stop.checked_duration_since(now)?.min(answer);
                let left = left.max(Duration::from_millis(1));
                return state.mails.pop_front().map(|it| (it, left));
            }
            let due = state.mails.iter().position(|it| it.due <= now);
            if let Some(mail) = due.and_then(|at| state.mails.remove(at)) {
                return Some((mail, answer));
            }
            state = match state.mails.iter().map(|it| it.due).min() {
                Some(due) => threads::wait_timeout(&self.changed, state, due - now),
                None => threads::wait(&self.changed, state),
            };
        }
    }

    pub fn stop(&self, deadline: Instant) {
        let last = deadline.checked_sub(STOP_MARGIN).unwrap_or(deadline);
        lock(&self.state).stop.get_or_insert(last);
        self.changed.notify_all();
    }

    pub fn drain(&self) -> VecDeque<QueuedMail> {
        std::mem::take(&mut lock(&self.state).mails)
    }
}
