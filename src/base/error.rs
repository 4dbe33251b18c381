//! The one error type of the program.
//!
//! An [`Error`] has a [`Kind`], chosen by what the caller can do about it, a message that is safe
//! to show to a client, per-field details for validation, and a context chain that only the log
//! sees. [`Kind::status`] is the only place where an error meets an HTTP status.
//!
//! There is deliberately no `From<&str>`: whoever makes an error says whose fault it is.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The result of everything fallible in this program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong as it stands; sending it again will not help.
    Invalid,
    /// Credentials are missing, wrong or expired.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// It was there once and is not kept any more.
    Gone,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// This server follows a master, which takes the writes.
    ReadOnly,
    /// The state of the data is in the way (a duplicate, a record still referred to).
    Conflict,
    /// The request names another state than the present one.
    PreconditionFailed,
    /// More than the server takes in one request.
    TooLarge,
    /// Too many attempts; later is fine.
    TooMany,
    /// Not before a time that the error tells.
    TooEarly,
    /// The run belongs to another worker by now.
    LostLease,
    /// The run was cancelled.
    Cancelled,
    /// Another node has it.
    Misdirected,
    /// Not now: full disk, overload, shutting down. Nothing was changed.
    Unavailable,
    /// Made with a definition that has changed meanwhile; with the new one it may well be right.
    Stale,
    /// Our own fault.
    Internal,
}

impl Kind {
    /// The HTTP status that this kind is answered with.
    pub fn status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::Unauthenticated => 401,
            Kind::Forbidden | Kind::ReadOnly => 403,
            Kind::NotFound => 404,
            Kind::Gone => 410,
            Kind::MethodNotAllowed => 405,
            Kind::Conflict | Kind::LostLease | Kind::Cancelled => 409,
            Kind::PreconditionFailed => 412,
            Kind::TooLarge => 413,
            Kind::Misdirected => 421,
            Kind::TooEarly => 425,
            Kind::TooMany => 429,
            Kind::Unavailable | Kind::Stale => 503,
            Kind::Internal => 500,
        }
    }
}

/// What is wrong with one field of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Stable identifier such as `validation_required`.
    pub code: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl FieldError {
    pub fn new(code: &'static str, message: impl Into<String>) -> FieldError {
        FieldError {
            code,
            message: message.into(),
        }
    }
}

/// Field name to what is wrong with it, in the order of the names.
pub type FieldErrors = BTreeMap<String, FieldError>;

/// An error: see the module documentation.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    fields: FieldErrors,
    retry_after: Option<Duration>,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What a client is told of a fault of ours; the log has the rest under the request id.
pub const INTERNAL_MESSAGE: &str = "Something went wrong while processing your request.";

impl Error {
    /// An error of `kind` with a message that a client may read.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            fields: FieldErrors::new(),
            retry_after: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }

    /// Writes go to the master.
    pub fn read_only() -> Error {
        Error::new(
            Kind::ReadOnly,
            "This server is a replica and takes no writes; send them to its master.",
        )
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, message)
    }

    /// The state of the data is in the way.
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }

    /// Not now; nothing was changed.
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, message)
    }

    /// The definitions that were looked at are no longer the present ones.
    pub fn stale() -> Error {
        Error::new(Kind::Stale, "The collection changed meanwhile; try again.")
    }

    /// Our own fault; `detail` goes to the log only.
    pub fn internal(detail: impl Into<String>) -> Error {
        let mut error = Error::new(Kind::Internal, INTERNAL_MESSAGE);
        error.0.context.push(detail.into());
        error
    }

    /// One or more fields of the input are wrong.
    pub fn fields(message: impl Into<String>, fields: FieldErrors) -> Error {
        let mut error = Error::invalid(message);
        error.0.fields = fields;
        error
    }

    /// A single field of the input is wrong.
    pub fn field(name: impl Into<String>, code: &'static str, message: impl Into<String>) -> Error {
        let detail = FieldError {
            code,
            message: message.into(),
        };
        Error::fields(
            "The data is not valid.",
            FieldErrors::from([(name.into(), detail)]),
        )
    }

    /// After how long it may be tried again.
    pub fn with_retry_after(mut self, pause: Duration) -> Error {
        self.0.retry_after = Some(pause);
        self
    }

    /// See [`Error::with_retry_after`].
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The same to the client, once more.
    pub fn again(&self) -> Error {
        let mut error = Error::new(self.0.kind, self.0.message.clone());
        error.0.fields = self.0.fields.clone();
        error.0.context = self.0.context.clone();
        error
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The sentence for the client.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether SQLite was stopped because the work took too long.
    pub fn was_stopped(&self) -> bool {
        let source = self.0.source.as_deref();
        let error = source.and_then(|it| it.downcast_ref::<rusqlite::Error>());
        let code = error.and_then(rusqlite::Error::sqlite_error_code);
        code == Some(rusqlite::ErrorCode::OperationInterrupted)
    }

    /// What SQLite says of a statement that is not right, or that it has refused.
    pub fn of_sqlite(&self) -> Option<String> {
        if self.0.kind == Kind::Unavailable {
            return None;
        }
        let source = self.0.source.as_deref()?;
        match source.downcast_ref::<rusqlite::Error>()? {
            rusqlite::Error::SqliteFailure(_, Some(message)) => Some(message.clone()),
            rusqlite::Error::SqlInputError { msg, .. } => Some(msg.clone()),
            _ => None,
        }
    }

    /// What is wrong with which field; empty for most errors.
    pub fn field_errors(&self) -> &FieldErrors {
        &self.0.fields
    }

    /// Adds where this happened, for the log: a lower-case phrase without a full stop.
    pub fn context(mut self, phrase: impl Into<String>) -> Error {
        self.0.context.push(phrase.into());
        self
    }

    fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.0.source = Some(Box::new(source));
        self
    }
}

impl fmt::Display for Error {
    /// The whole chain, for the log and the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phrase in self.0.context.iter().rev() {
            write!(f, "{phrase}: ")?;
        }
        let is_bare = self.0.context.is_empty() && self.0.source.is_none();
        if self.0.kind != Kind::Internal || is_bare {
            write!(f, "{}", self.0.message)?;
            for (name, field) in &self.0.fields {
                write!(f, " {name}: {}", field.message)?;
            }
        } else if self.0.source.is_none() {
            write!(f, "internal error")?;
        }
        if let Some(source) = &self.0.source {
            if self.0.kind != Kind::Internal {
                write!(f, ": ")?;
            }
            write!(f, "{source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

/// Says where an error happened, on the way up.
pub trait ResultExt<T> {
    /// Keeps the kind and adds a phrase for the log.
    fn context(self, phrase: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, phrase: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().context(phrase))
    }
}

impl From<rusqlite::Error> for Error {
    /// Ours, except for what SQLite's code says plainly of the data or the machine.
    fn from(error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode;
        let made = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Error::unavailable("The disk is full; nothing was saved."),
            Some(ErrorCode::SystemIoFailure) => {
                Error::unavailable("The disk is full or failing; nothing was saved.")
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Error::unavailable("The database is busy; try again.")
            }
            Some(ErrorCode::OperationInterrupted) => {
                Error::invalid("The request took too long and was stopped.")
            }
            Some(ErrorCode::TooBig) => Error::new(Kind::TooLarge, "A value is too large."),
            Some(ErrorCode::ConstraintViolation) => {
                Error::conflict("The change conflicts with data that is already there.")
            }
            _ => Error::new(Kind::Internal, INTERNAL_MESSAGE),
        };
        made.with_source(error)
    }
}

macro_rules! internal_from {
    ($($source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(error: $source) -> Error {
                Error::new(Kind::Internal, INTERNAL_MESSAGE).with_source(error)
            }
        }
    )*};
}

internal_from!(std::io::Error, serde_json::Error, rustix::io::Errno);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_never_sees_the_source_and_the_log_sees_all_of_it() {
        let error = std::fs::read("/nonexistent/file")
            .context("read the secret")
            .unwrap_err()
            .context("start");
        assert_eq!(error.kind(), Kind::Internal);
        assert_eq!(error.message(), INTERNAL_MESSAGE);
        let logged = error.to_string();
        assert!(
            logged.starts_with("start: read the secret: No such file"),
            "{logged}"
        );
    }

    #[test]
    fn field_errors_are_listed_for_people() {
        let error = Error::field("title", "validation_required", "Cannot be blank.");
        assert_eq!(
            error.to_string(),
            "The data is not valid. title: Cannot be blank."
        );
        assert_eq!(error.kind().status(), 400);
    }
}
