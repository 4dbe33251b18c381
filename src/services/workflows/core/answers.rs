//! Answers to frames and requests.

use crate::base::error::{Error, Kind};
use crate::base::json::Object;
use crate::base::log;
use crate::services::workflows::core::messages::{Command, Output, send};

/// Refuses all commands with one error.
pub fn refuse(work: &[Command], error: &Error) -> Vec<Output> {
    let answers = work.iter().map(|item| match item {
        Command::Report {
            session, reference, ..
        } => send(*session, refusal(reference.as_deref(), error)),
        Command::Request { reply, .. } => Output::Answer {
            reply: *reply,
            answer: Err(error.without_source()),
        },
    });
    answers.collect()
}

pub fn took_too_long(is_to_blame: bool) -> Error {
    match is_to_blame {
        true => Error::new(Kind::TooLarge, "The command took too long and was undone."),
        false => Error::unavailable("The server is busy and nothing was changed; try again."),
    }
}

/// Acknowledges reports in one frame.
pub fn acknowledge(refs: &[String]) -> String {
    match refs {
        [one] => ok(Some(one)).bool("durable", true).end(),
        _ => Object::new().text("t", "acks").list("refs", refs).end(),
    }
}

pub fn ok(reference: Option<&str>) -> Object {
    Object::new().text("t", "ok").some_raw("ref", reference)
}

/// The code of an error in a frame.
pub fn code(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid | Kind::MethodNotAllowed => "invalid",
        Kind::Unauthenticated | Kind::Forbidden | Kind::ReadOnly => "forbidden",
        Kind::NotFound | Kind::Misdirected => "not_found",
        Kind::Gone => "gone",
        Kind::Conflict | Kind::PreconditionFailed => "conflict",
        Kind::NotOwner => "lost_lease",
        Kind::Cancelled => "cancelled",
        Kind::TooLarge => "too_large",
        Kind::TooEarly => "too_early",
        Kind::TooMany | Kind::Unavailable | Kind::WrongServer | Kind::Stale | Kind::Internal => {
            "unavailable"
        }
    }
}

/// An error as an answer to a frame. Internal errors are logged.
pub fn refusal(reference: Option<&str>, error: &Error) -> String {
    if error.kind() == Kind::Internal {
        log::error(format_args!("workflow frame failed error={error}"));
    }
    let is_passing = code(error.kind()) == "unavailable";
    let pause = error.retry_after().map(|pause| pause.as_millis());
    let pause = pause.and_then(|ms| i64::try_from(ms).ok());
    let fields = error.field_errors().iter().next();
    let message = match fields {
        Some((name, field)) => format!("{name}: {}", field.message),
        None => error.message().to_owned(),
    };
    Object::new()
        .text("t", "no")
        .some_raw("ref", reference)
        .text("code", code(error.kind()))
        .text("message", &message)
        .some_int("retry_ms", pause.or(is_passing.then_some(1_000)))
        .end()
}

/// Tells a worker that it no longer holds a run.
pub fn revoke(run: &str, epoch: i64) -> String {
    Object::new()
        .text("t", "revoke")
        .text("job", run)
        .int("epoch", epoch)
        .end()
}
