//! The one error type of the program.
//!
//! An [`Error`] has a [`Kind`], chosen by what the caller can do about it, a message that is safe
//! to show to a client, per-field details for validation, and a context chain for the log only.
//! [`Kind::status`] is the only place that maps errors to HTTP statuses.
//!
//! There is deliberately no `From<&str>`: the code that makes an error has to choose its kind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The result of every fallible function of this program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is invalid; repeating it does not help.
    Invalid,
    /// Credentials are missing, wrong or expired.
    Unauthenticated,
    /// The caller is authenticated and lacks the permission.
    Forbidden,
    /// The resource does not exist, or the caller may not know that it does.
    NotFound,
    /// The resource existed and is no longer kept.
    Gone,
    /// The path does not support the method.
    MethodNotAllowed,
    /// This server is a replica; writes are sent to its master.
    ReadOnly,
    /// The state of the data prevents it (a duplicate, a record that is referenced).
    Conflict,
    /// The request requires another version than the present one.
    PreconditionFailed,
    /// The request exceeds a size limit.
    TooLarge,
    /// Too many attempts; the caller may retry later.
    TooMany,
    /// The caller may retry after a time that the error gives.
    TooEarly,
    /// The caller no longer owns the resource; another one may own it.
    NotOwner,
    /// The operation was cancelled.
    Cancelled,
    /// Another node has the resource.
    Misdirected,
    /// A temporary failure: full disk, overload, shutdown. Nothing was changed.
    Unavailable,
    /// Another server that this one asks is not at its address, or does not accept this one: a
    /// setting may be wrong.
    WrongServer,
    /// The request was prepared with a definition that has changed meanwhile; a retry may succeed.
    Stale,
    /// A fault of the server.
    Internal,
}

impl Kind {
    /// The HTTP status of a response with this kind.
    pub fn status(self) -> u16 {
        match self {
            Kind::Invalid => 400,
            Kind::Unauthenticated => 401,
            Kind::Forbidden | Kind::ReadOnly => 403,
            Kind::NotFound => 404,
            Kind::Gone => 410,
            Kind::MethodNotAllowed => 405,
            Kind::Conflict | Kind::NotOwner | Kind::Cancelled => 409,
            Kind::PreconditionFailed => 412,
            Kind::TooLarge => 413,
            Kind::Misdirected => 421,
            Kind::TooEarly => 425,
            Kind::TooMany => 429,
            Kind::Unavailable | Kind::WrongServer | Kind::Stale => 503,
            Kind::Internal => 500,
        }
    }
}

/// An error of one field of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// A stable identifier such as `validation_required`.
    pub code: &'static str,
    /// One sentence for the user.
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

/// Errors by field name.
pub type FieldErrors = BTreeMap<String, FieldError>;

/// An error: see the module documentation.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    fields: FieldErrors,
    part: Option<(usize, Error)>,
    retry_after: Option<Duration>,
    context: Vec<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The code by which another vski recognises [`Error::no_endpoint`].
pub const NO_ENDPOINT: &str = "no_endpoint";
/// The message of every internal error; the log has the cause under the request id.
pub const INTERNAL_MESSAGE: &str = "Something went wrong while processing your request.";

impl Error {
    /// An error with a message that a client may read.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            fields: FieldErrors::new(),
            part: None,
            retry_after: None,
            context: Vec::new(),
            source: None,
        }))
    }

    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }

    pub fn read_only() -> Error {
        Error::new(
            Kind::ReadOnly,
            "This server is a replica and accepts no writes; send them to its master.",
        )
    }

    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, message)
    }

    /// The error of a request for a path that no endpoint has.
    pub fn no_endpoint() -> Error {
        let message = "There is no endpoint at this path.";
        let detail = FieldError::new(NO_ENDPOINT, message);
        let mut error = Error::not_found(message);
        error.0.fields = FieldErrors::from([("path".to_owned(), detail)]);
        error
    }

    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, message)
    }

    pub fn stale() -> Error {
        Error::new(Kind::Stale, "The collection changed meanwhile; try again.")
    }

    /// An internal error; `detail` is for the log only.
    pub fn internal(detail: impl Into<String>) -> Error {
        let mut error = Error::new(Kind::Internal, INTERNAL_MESSAGE);
        error.0.context.push(detail.into());
        error
    }

    /// An error with one or more invalid fields.
    pub fn fields(message: impl Into<String>, fields: FieldErrors) -> Error {
        let mut error = Error::invalid(message);
        error.0.fields = fields;
        error
    }

    /// An error with a single invalid field.
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

    /// An error of one part of a request, by the position of the part.
    pub fn of_part(message: impl Into<String>, at: usize, error: Error) -> Error {
        let mut whole = Error::invalid(message);
        whole.0.part = Some((at, error));
        whole
    }

    /// See [`Error::of_part`].
    pub fn part(&self) -> Option<(usize, &Error)> {
        self.0.part.as_ref().map(|(at, error)| (*at, error))
    }

    /// Sets the time after which the caller may retry.
    pub fn with_retry_after(mut self, pause: Duration) -> Error {
        self.0.retry_after = Some(pause);
        self
    }

    /// See [`Error::with_retry_after`].
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// A copy with the same response, without the source.
    pub fn without_source(&self) -> Error {
        let mut error = Error::new(self.0.kind, self.0.message.clone());
        error.0.fields = self.0.fields.clone();
        let part = self.0.part.as_ref();
        error.0.part = part.map(|(at, error)| (*at, error.without_source()));
        error.0.context = self.0.context.clone();
        error
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// One sentence for the client.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// True if a deadline interrupted a statement of SQLite.
    pub fn is_interrupted(&self) -> bool {
        let source = self.0.source.as_deref();
        let error = source.and_then(|it| it.downcast_ref::<rusqlite::Error>());
        let code = error.and_then(rusqlite::Error::sqlite_error_code);
        code == Some(rusqlite::ErrorCode::OperationInterrupted)
    }

    /// True if the request used definitions that are no longer those of the database: it noticed
    /// that itself, or a table or column has another name by now.
    pub fn is_outdated(&self) -> bool {
        let is_missing = |message: &str| {
            let mut starts = ["no such table: ", "no such column: "].into_iter();
            starts.any(|start| message.starts_with(start))
        };
        let missing = || self.sqlite_message().is_some_and(|it| is_missing(&it));
        self.kind() == Kind::Stale || (self.kind() == Kind::Internal && missing())
    }

    /// SQLite's message about a statement that is invalid or was denied.
    pub fn sqlite_message(&self) -> Option<String> {
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

    /// Errors by field; empty for most errors.
    pub fn field_errors(&self) -> &FieldErrors {
        &self.0.fields
    }

    /// Adds the failed operation, for the log: a lower-case phrase without a full stop.
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
            if let Some((at, error)) = &self.0.part {
                write!(f, " {at}: {error}")?;
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

/// Adds context to errors.
pub trait ResultExt<T> {
    /// Adds a phrase for the log; keeps the kind.
    fn context(self, phrase: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> ResultExt<T> for std::result::Result<T, E> {
    fn context(self, phrase: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().context(phrase))
    }
}

impl From<rusqlite::Error> for Error {
    /// An internal error, unless SQLite's code names a cause in the data or the machine.
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
                Error::conflict("The change conflicts with existing data.")
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
