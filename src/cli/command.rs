//! The result of a command, and printing.

use std::io::Write as _;
use std::process::ExitCode;

use crate::base::error::Error;

/// Why a command did not succeed.
pub enum CommandError {
    /// Used wrongly; the text says how it is used.
    Usage(String),
    /// A server was to start with settings that are wrong: trying again will not help.
    Settings(Error),
    /// It was tried and failed.
    Failed(Error),
    /// What it has to say about that is said already.
    AlreadyReported,
}

impl CommandError {
    /// Prints the reason; returns the exit code.
    pub fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        match self {
            CommandError::Usage(text) => {
                let _ = writeln!(stderr, "vski: {text}\nvski help shows how it is used.");
                ExitCode::from(2)
            }
            CommandError::Settings(error) => {
                let _ = writeln!(stderr, "vski: {error}");
                ExitCode::from(2)
            }
            CommandError::Failed(error) => {
                let _ = writeln!(stderr, "vski: {error}");
                ExitCode::FAILURE
            }
            CommandError::AlreadyReported => ExitCode::FAILURE,
        }
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> CommandError {
        CommandError::Failed(error)
    }
}

pub type CommandResult = Result<(), CommandError>;

/// Prints to stdout; a reader that has gone away is no error worth a message.
pub fn print(text: &str) -> CommandResult {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::Failed(Error::from(error).context("print")))
        }
        _ => Ok(()),
    }
}
