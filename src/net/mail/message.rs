//! A mail, and the message that is sent for it.
//!
//! Addresses and subjects come from users. lettre's types refuse a string that is not exactly one
//! address, and control characters in a subject become spaces. Neither can add a header, a
//! recipient or a command.

use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::{Address, Message};

use super::relay::Sender;
use crate::base::error::{Error, Result};
use crate::base::{clock, ids};

/// Most characters of a subject; longer ones are truncated. Keeps each line below the 998 bytes of
/// RFC 5322.
const SUBJECT_CHARS_MAX: usize = 200;
/// Longest address (RFC 5321).
const ADDRESS_BYTES_MAX: usize = 254;

/// The purpose of a mail. Each has a share of the queue, so that none blocks the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailPurpose {
    Verification,
    Reset,
    /// A one-time code.
    Code,
    /// Sent to an address that an account claims as its new one.
    NewAddress,
}

impl MailPurpose {
    /// The number of mails of this purpose that a queue of `queue` mails accepts.
    pub fn share(self, queue: usize) -> usize {
        match self {
            MailPurpose::Verification | MailPurpose::Reset | MailPurpose::Code => queue * 2 / 5,
            MailPurpose::NewAddress => queue / 5,
        }
    }
}

/// A mail of plain text to one person.
pub struct Mail {
    pub purpose: MailPurpose,
    pub to: String,
    pub subject: String,
    pub text: String,
    /// The link or code in `text`, logged if there is no mail server.
    pub link: String,
}

impl Mail {
    pub fn bytes(&self) -> usize {
        self.to.len() + self.subject.len() + self.text.len() + self.link.len()
    }
}

/// True if mail can be sent to the address.
pub fn is_address(text: &str) -> bool {
    text.len() <= ADDRESS_BYTES_MAX && text.parse::<Address>().is_ok()
}

/// Builds the message of a mail.
pub fn compose(from: &Sender, mail: &Mail) -> Result<Message> {
    let to: Address = mail
        .to
        .parse()
        .map_err(|_| Error::invalid("the e-mail address is invalid"))?;
    // Without this, lettre would parse the envelope from the headers, less strictly.
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
        // Prevents automatic replies (RFC 3834).
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ))
        .singlepart(SinglePart::plain(mail.text.clone()))
        .map_err(|error| Error::internal(format!("compose a mail: {error}")))
}
