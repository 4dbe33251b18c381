//! The result of a command, and printing to stdout.

use std::io::Write as _;
use std::process::ExitCode;

use crate::base::error::Error;

/// The reason that a command failed.
pub enum CommandError {
    /// The command line is wrong; the message says how to use the command. Exit code 2.
    Usage(String),
    /// The settings of the server are invalid. Exit code 2, so that systemd does not try again.
    Settings(Error),
    /// The command failed.
    Failed(Error),
    /// The command failed and has printed the reason.
    AlreadyReported,
}

impl CommandError {
    /// Prints the reason to stderr. Returns the exit code.
    pub fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        match self {
            CommandError::Usage(text) => {
                let _ = writeln!(stderr, "vski: {text}\nvski help lists the commands.");
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

/// Prints to stdout. A closed pipe is not an error.
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
