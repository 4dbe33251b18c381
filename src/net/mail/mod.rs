//! Outgoing mail: a bounded queue, and one thread that hands its mails to an SMTP server.
//!
//! [`Mailer::send`] only puts the mail into the queue: it never waits and never fails, and takes
//! the same time whatever becomes of the mail. A mail that meets a temporary error waits for its
//! next attempt beside the queue's order, so that the others go out meanwhile. Whatever is not
//! sent in the end is one line of the log. Without a server nothing is sent: the link goes to the
//! log, for the operator, and there is no thread.
//!
//! The time limit holds for the connection and for each answer of the server, not for the whole of
//! an attempt. [`Mailer::stop`] tries what is queued once more; it leaves the thread behind when a
//! server that does not answer holds it, for the thread owns nothing that must be closed.
//!
//! Addresses and subjects come from users. An address that is not exactly one is refused by
//! lettre's types, and control characters of a subject become blanks: neither can add a header, a
//! recipient or a command.

use std::collections::VecDeque;
use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp;
use lettre::transport::smtp::SmtpTransportBuilder;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message, SmtpTransport, Transport as _};

use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::tls::Roots;
use crate::base::{clock, ids, log, threads, tls};

/// The purpose of a mail. Each kind has a share of the queue, so that none keeps the others out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Verification,
    Reset,
    /// To an address that an account says is its own.
    NewAddress,
}

impl Kind {
    /// The number of mails of this kind that may wait in a queue of `queue`.
    fn share(self, queue: usize) -> usize {
        match self {
            Kind::Verification | Kind::Reset => queue * 2 / 5,
            Kind::NewAddress => queue / 5,
        }
    }
}

/// A mail of plain text to one person.
pub struct Mail {
    pub kind: Kind,
    pub to: String,
    pub subject: String,
    pub text: String,
    /// The one link in `text`: what the log shows when there is no mail server.
    pub link: String,
}

impl Mail {
    fn bytes(&self) -> usize {
        self.to.len() + self.subject.len() + self.text.len() + self.link.len()
    }
}

/// True if mail can be sent to the address.
pub fn is_address(text: &str) -> bool {
    const BYTES_MAX: usize = 254;
    text.len() <= BYTES_MAX && text.parse::<Address>().is_ok()
}

/// How mail leaves.
#[derive(Clone)]
pub struct Settings {
    pub relay: Relay,
    pub from: Sender,
}

/// When a connection is encrypted: from the start, always, if the server can.
type Encrypt = fn(TlsParameters) -> Tls;

/// The server that takes our mails, with what it asks for.
#[derive(Clone)]
pub struct Relay {
    builder: SmtpTransportBuilder,
    /// The host, and how the connection to it is encrypted, if it is.
    encryption: Option<(String, Encrypt)>,
    /// The URL says what to call ourselves.
    has_hello: bool,
}

impl Relay {
    /// Reads `smtps://USER:PASSWORD@HOST:PORT` (TLS from the start, port 465) or the same with
    /// `smtp` (STARTTLS, port 587); none when it is neither.
    ///
    /// Plain `smtp` refuses a server without STARTTLS, except on this machine, where it asks for
    /// none (port 25); `?tls=required` and `?tls=opportunistic` say otherwise. A path is the name
    /// for EHLO. Not taken, because it could only be a mistake: a user without a password, other
    /// parameters, and an address of IPv6, which lettre would look up as a name.
    pub fn parse(url: &str) -> Option<Relay> {
        let (scheme, rest) = url.split_once("://")?;
        let (rest, tls) = match rest.split_once('?') {
            Some((rest, tls)) => (rest, Some(tls)),
            None => (rest, None),
        };
        let (authority, hello) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let host = place.split(':').next().unwrap_or_default();
        let has_scheme = match scheme {
            "smtps" => tls.is_none(),
            "smtp" => matches!(tls, None | Some("tls=required" | "tls=opportunistic")),
            _ => false,
        };
        let is_strange = |c: char| c.is_whitespace() || c.is_control() || c == '#';
        if !has_scheme
            || url.contains(is_strange)
            || user.is_some_and(|user| !user.contains(':'))
            || host.is_empty()
            || host.contains(['[', ']', '%'])
            || hello.contains(['/', '@', '%'])
        {
            return None;
        }
        let must_encrypt = scheme == "smtp" && tls.is_none() && !is_this_machine(host);
        let parameter = if must_encrypt { "?tls=required" } else { "" };
        let encryption: Option<Encrypt> = match tls {
            _ if scheme == "smtps" => Some(Tls::Wrapper),
            Some("tls=opportunistic") => Some(Tls::Opportunistic),
            Some(_) => Some(Tls::Required),
            None => must_encrypt.then_some(Tls::Required),
        };
        Some(Relay {
            builder: SmtpTransport::from_url(&format!("{url}{parameter}")).ok()?,
            encryption: encryption.map(|it| (host.to_owned(), it)),
            has_hello: !hello.is_empty(),
        })
    }

    /// The same, trusting these authorities.
    pub fn trusting(mut self, roots: &Roots) -> Result<Relay> {
        if let (Some((host, encryption)), Some(given)) = (&self.encryption, roots.for_mail()) {
            let invalid = |error: smtp::Error| {
                Error::invalid(format!("{} does not do for mail: {error}.", tls::VARIABLE))
            };
            let mut parameters =
                TlsParameters::builder(host.clone()).certificate_store(CertificateStore::None);
            for der in given {
                let certificate = Certificate::from_der(der).map_err(invalid)?;
                parameters = parameters.add_root_certificate(certificate);
            }
            let parameters = parameters.build().map_err(invalid)?;
            self.builder = self.builder.tls(encryption(parameters));
        }
        Ok(self)
    }
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whom mails are from.
#[derive(Clone)]
pub struct Sender(Mailbox);

impl Sender {
    /// Reads an address, or `Name <address>`; none when it is neither.
    pub fn parse(text: &str) -> Option<Sender> {
        let (name, address) = match text.strip_suffix('>') {
            Some(rest) => rest.rsplit_once('<')?,
            None => ("", text),
        };
        let name = name.trim().trim_matches('"');
        if text.contains(char::is_control) || name.contains(['<', '>', '"']) {
            return None;
        }
        let name = (!name.is_empty()).then(|| name.to_owned());
        Some(Sender(Mailbox::new(name, address.trim().parse().ok()?)))
    }

    /// The domain of the address, for names that must be ours.
    fn domain(&self) -> Option<&str> {
        Some(self.0.email.domain()).filter(|domain| domain.is_ascii())
    }
}

/// Largest mail; ours have a few hundred bytes.
const MAIL_BYTES_MAX: usize = 64 << 10;
/// Longest subject that is sent whole; keeps every line below the 998 bytes of RFC 5322.
const SUBJECT_CHARS_MAX: usize = 200;
/// Left of the time for stopping when the last attempt must be over.
const STOP_MARGIN: Duration = Duration::from_millis(300);
/// Of a server's answer the log shows this much.
const ANSWER_CHARS_MAX: usize = 500;

/// How much waits how long; tests are less patient.
#[derive(Clone, Copy)]
struct Limits {
    /// Mails waiting to be sent, at most.
    queue: usize,
    /// For the connection and for each answer.
    answer: Duration,
    /// Before the second and each further attempt.
    backoff: Backoff,
    retries: u32,
}

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

/// Takes mails and sends them: see the module documentation.
pub struct Mailer(Option<Sending>);

struct Sending {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Mailer {
    /// Starts the thread that sends; without settings there is none.
    pub fn start(settings: Option<&Settings>) -> Result<Mailer> {
        Mailer::start_with(settings, LIMITS)
    }

    fn start_with(settings: Option<&Settings>, limits: Limits) -> Result<Mailer> {
        let Some(settings) = settings.cloned() else {
            return Ok(Mailer(None));
        };
        let queue = Arc::new(Queue::new(limits.queue));
        let thread = {
            let queue = Arc::clone(&queue);
            threads::spawn("mail", move || run(&queue, &settings, &limits))?
        };
        Ok(Mailer(Some(Sending {
            queue,
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Takes a mail. What becomes of it is in the log.
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

    /// Tries what is queued once more and ends the thread. True when it has ended in time.
    pub fn stop(&self, deadline: Instant) -> bool {
        let Some(sending) = &self.0 else {
            return true;
        };
        sending.queue.stop(deadline);
        let thread = lock(&sending.thread).take();
        let has_ended = thread.is_none_or(|thread| threads::join_until(thread, deadline));
        for job in sending.queue.take_all() {
            log::error(format_args!(
                "mail not sent: the server stops to={:?}",
                job.mail.to
            ));
        }
        has_ended
    }
}

/// A mail on its way.
struct Job {
    mail: Mail,
    /// Made at the first attempt and kept: a mail that arrives twice after all has one id.
    message: Option<Message>,
    /// Attempts that have failed.
    failed: u32,
    /// Not to be tried before.
    due: Instant,
}

struct Queue {
    /// Mails in it, at most.
    max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Stopping: what is queued is tried once more, until then.
    stop: Option<Instant>,
}

impl Queue {
    fn new(max: usize) -> Queue {
        Queue {
            max,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn push(&self, mail: Mail) -> std::result::Result<(), (Mail, &'static str)> {
        let mut state = lock(&self.state);
        let kind = mail.kind;
        let of_kind = state.jobs.iter().filter(|job| job.mail.kind == kind);
        let reason = if state.stop.is_some() {
            "the server stops"
        } else if of_kind.count() >= kind.share(self.max) {
            "too many are waiting"
        } else if mail.bytes() > MAIL_BYTES_MAX {
            "it is too large"
        } else {
            state.jobs.push_back(Job {
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

    /// Takes a mail back for another attempt; when stopping, it hands the mail out again.
    fn put_back(&self, job: Job) -> Option<Job> {
        let mut state = lock(&self.state);
        if state.stop.is_some() {
            return Some(job);
        }
        state.jobs.push_back(job);
        None
    }

    /// The next mail that is due, and how long an answer may take; none when it is time to end.
    fn next(&self, answer: Duration) -> Option<(Job, Duration)> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            if let Some(stop) = state.stop {
                // Never zero: the system takes no such limit.
                let left = stop.checked_duration_since(now)?.min(answer);
                let left = left.max(Duration::from_millis(1));
                return state.jobs.pop_front().map(|job| (job, left));
            }
            let due = state.jobs.iter().position(|job| job.due <= now);
            if let Some(job) = due.and_then(|at| state.jobs.remove(at)) {
                return Some((job, answer));
            }
            state = match state.jobs.iter().map(|job| job.due).min() {
                Some(due) => threads::wait_timeout(&self.changed, state, due - now),
                None => threads::wait(&self.changed, state),
            };
        }
    }

    fn stop(&self, deadline: Instant) {
        let last = deadline.checked_sub(STOP_MARGIN).unwrap_or(deadline);
        lock(&self.state).stop.get_or_insert(last);
        self.changed.notify_all();
    }

    fn take_all(&self) -> VecDeque<Job> {
        std::mem::take(&mut lock(&self.state).jobs)
    }
}

/// The thread: one mail after the other, until the queue says that it is time to end.
fn run(queue: &Queue, settings: &Settings, limits: &Limits) {
    while let Some((mut job, answer)) = queue.next(limits.answer) {
        let Err(failure) = guard(|| attempt(settings, &mut job, answer)) else {
            log::info(format_args!("mail sent to={:?}", job.mail.to));
            continue;
        };
        let may_retry = job.failed < limits.retries && !failure.is_final;
        job.failed += 1;
        let wait = may_retry.then(|| limits.backoff.pause(job.failed));
        let given_up = match wait {
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
        if let Some(job) = given_up {
            log::error(format_args!(
                "mail not sent to={:?} attempts={}: {}",
                job.mail.to, job.failed, failure.text
            ));
        }
    }
}

/// Why an attempt failed.
struct Failure {
    text: String,
    /// Another attempt would fail too.
    is_final: bool,
}

/// A panic over one mail must not end the thread that all the others need.
fn guard(
    attempt: impl FnOnce() -> std::result::Result<(), Failure>,
) -> std::result::Result<(), Failure> {
    // What is left half changed is the message of this mail, which is given up.
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
        Err(Failure {
            text: "a panic, see above".to_owned(),
            is_final: true,
        })
    })
}

fn attempt(
    settings: &Settings,
    job: &mut Job,
    answer: Duration,
) -> std::result::Result<(), Failure> {
    let message = match job.message.take() {
        Some(message) => message,
        None => compose(&settings.from, &job.mail).map_err(|error| Failure {
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
    result.map(drop).map_err(|error| Failure {
        text: describe(&error),
        is_final: error.is_permanent() || error.is_client(),
    })
}

/// The server's answer or what went wrong, bounded.
fn describe(error: &smtp::Error) -> String {
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    if let Some(why) = source.and_then(tls::certificate_error) {
        return format!("the mail server is not trusted: {why}");
    }
    match source.map(io::Error::kind) {
        // What the system says of a time limit tells nobody anything.
        Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            "the mail server did not answer in time".to_owned()
        }
        _ => error.to_string().chars().take(ANSWER_CHARS_MAX).collect(),
    }
}

/// Makes the message that goes over the wire.
fn compose(from: &Sender, mail: &Mail) -> Result<Message> {
    let to: Address = mail
        .to
        .parse()
        .map_err(|_| Error::invalid("this is no e-mail address"))?;
    // Given, for lettre would read it out of the headers again, less strictly.
    let envelope = Envelope::new(Some(from.0.email.clone()), vec![to.clone()])
        .map_err(|error| Error::internal(format!("compose a mail: {error}")))?;
    let subject: String = mail.subject.chars().take(SUBJECT_CHARS_MAX).collect();
    let subject = subject.replace(char::is_control, " ");
    let millis = u64::try_from(clock::now_ms()).unwrap_or(0);
    let id = ids::hex(&ids::random_bytes::<16>()?);
    let domain = from.domain().unwrap_or("localhost");
    Message::builder()
        .envelope(envelope)
        .from(from.0.clone())
        .to(Mailbox::new(None, to))
        .subject(subject)
        .date(UNIX_EPOCH + Duration::from_millis(millis))
        .message_id(Some(format!("<{id}@{domain}>")))
        // Keeps replies by machines away (RFC 3834).
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ))
        .singlepart(SinglePart::plain(mail.text.clone()))
        .map_err(|error| Error::internal(format!("compose a mail: {error}")))
}

#[cfg(test)]
mod tests;
