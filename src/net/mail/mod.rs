//! Outgoing mail: a bounded queue, and one thread that sends its mails to an SMTP server.
//!
//! [`Mailer::send`] only queues a mail. It never retry_waits and never fails, and takes the same
//! time whether or not the mail is sent. A mail that fails temporarily retry_waits for its next
//! attempt while the others are sent. A mail that is not sent in the end is one line of the log.
//! Without a configured server there is no thread, and the link of a mail is logged for the
//! operator.
//!
//! The time limit applies to the connection and to each answer of the server, not to a whole
//! attempt. [`Mailer::stop`] tries each queued mail once more. It leaves the thread behind if a
//! server does not answer, because the thread owns nothing that must be closed.

use std::error::Error as _;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lettre::Transport as _;
use lettre::transport::smtp;
use lettre::transport::smtp::extension::ClientId;

use crate::base::backoff::Backoff;
use crate::base::error::Result;
use crate::base::threads::lock;
use crate::base::{log, threads, tls};

pub use message::{Mail, MailPurpose, is_address};
pub use relay::{Relay, Sender};

use message::compose;
use queue::{MailQueue, QueuedMail};

mod message;
mod queue;
mod relay;

/// Most characters of a server's answer in the log.
const ANSWER_CHARS_MAX: usize = 500;

/// The limits of the server; tests use shorter ones.
const LIMITS: Limits = Limits {
    queue: 200,
    answer: Duration::from_secs(10),
    backoff: Backoff {
        first: Duration::from_secs(2),
        factor: 5,
        max: Duration::from_secs(60),
    },
    retries: 3,
};

#[derive(Clone)]
pub struct MailSettings {
    pub relay: Relay,
    pub from: Sender,
}

#[derive(Clone, Copy)]
struct Limits {
    /// Most mails that wait to be sent.
    queue: usize,
    /// Time limit for the connection and for each answer.
    answer: Duration,
    backoff: Backoff,
    /// Further attempts after the first.
    retries: u32,
}

pub struct Mailer(Option<Sending>);

struct Sending {
    queue: Arc<MailQueue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Mailer {
    /// Starts the thread. Without settings there is none.
    pub fn start(settings: Option<&MailSettings>) -> Result<Mailer> {
        Mailer::start_with(settings, LIMITS)
    }

    fn start_with(settings: Option<&MailSettings>, limits: Limits) -> Result<Mailer> {
        let Some(settings) = settings.cloned() else {
            return Ok(Mailer(None));
        };
        let queue = Arc::new(MailQueue::new(limits.queue));
        let thread = {
            let queue = Arc::clone(&queue);
            threads::spawn("mail", move || run(&queue, &settings, &limits))?
        };
        Ok(Mailer(Some(Sending {
            queue,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Queues a mail. The log tells whether it was sent.
    pub fn send(&self, mail: Mail) {
        match &self.0 {
            None => log::info(format_args!(
                "mail not sent: SMTP_URL is not set to={:?} subject={:?} link={}",
                mail.to, mail.subject, mail.link
            )),
            Some(sending) => {
                if let Err((mail, reason)) = sending.queue.push(mail) {
                    log::warn(format_args!("mail not sent: {reason} to={:?}", mail.to));
                }
            }
        }
    }

    /// Tries each queued mail once more and ends the thread. Returns true if it has ended in time.
    pub fn stop(&self, deadline: Instant) -> bool {
        let Some(sending) = &self.0 else {
            return true;
        };
        sending.queue.stop(deadline);
        let thread = lock(&sending.thread).take();
        let has_ended = thread.is_none_or(|thread| threads::join_until(thread, deadline));
        for job in sending.queue.drain() {
            log::error(format_args!(
                "mail not sent: the server is stopping to={:?}",
                job.mail.to
            ));
        }
        has_ended
    }
}

/// The thread: sends one mail after another until the queue ends.
fn run(queue: &MailQueue, settings: &MailSettings, limits: &Limits) {
    while let Some((mut job, answer)) = queue.next(limits.answer) {
        let Err(failure) = guard(|| attempt(settings, &mut job, answer)) else {
            log::info(format_args!("mail sent to={:?}", job.mail.to));
            continue;
        };
        let may_retry = job.failed < limits.retries && !failure.is_final;
        job.failed += 1;
        let wait = may_retry.then(|| limits.backoff.pause(job.failed));
        let abandoned = match wait {
            Some(wait) => {
                log::info(format_args!(
                    "mail delayed to={:?} attempts={}: {}",
                    job.mail.to, job.failed, failure.text
                ));
                job.due = Instant::now() + wait;
                queue.put_back(job)
            }
            None => Some(job),
        };
        if let Some(job) = abandoned {
            log::error(format_args!(
                "mail not sent to={:?} attempts={}: {}",
                job.mail.to, job.failed, failure.text
            ));
        }
    }
}

struct SendFailure {
    text: String,
    /// Another attempt would fail as well.
    is_final: bool,
}

/// Contains a panic, so that it fails one mail and does not end the thread.
fn guard(
    attempt: impl FnOnce() -> std::result::Result<(), SendFailure>,
) -> std::result::Result<(), SendFailure> {
    // Only the message of this mail can be left inconsistent, and the mail is not tried again.
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
        Err(SendFailure {
            text: "a panic, logged above".to_owned(),
            is_final: true,
        })
    })
}

fn attempt(
    settings: &MailSettings,
    job: &mut QueuedMail,
    answer: Duration,
) -> std::result::Result<(), SendFailure> {
    let message = match job.message.take() {
        Some(message) => message,
        None => compose(&settings.from, &job.mail).map_err(|error| SendFailure {
            text: error.to_string(),
            is_final: true,
        })?,
    };
    let mut builder = settings.relay.builder.clone().timeout(Some(answer));
    if let Some(domain) = settings.from.domain()
        && !settings.relay.has_hello
    {
        builder = builder.hello_name(ClientId::Domain(domain.to_owned()));
    }
    let result = builder.build().send(&message);
    job.message = Some(message);
    result.map(drop).map_err(|error| SendFailure {
        text: describe(&error),
        is_final: error.is_permanent() || error.is_client(),
    })
}

/// A bounded description of the error, with the answer of the server if there is one.
fn describe(error: &smtp::Error) -> String {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(why) = source.and_then(tls::certificate_error) {
        return format!("the mail server is not trusted: {why}");
    }
    match source.map(io::Error::kind) {
        // The system's message for a time limit is misleading, so it is replaced.
        Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            "the mail server did not answer in time".to_owned()
        }
        _ => error.to_string().chars().take(ANSWER_CHARS_MAX).collect(),
    }
}

#[cfg(test)]
mod tests;
