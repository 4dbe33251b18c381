//! Questions of a command to the server that runs on the data directory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::base::threads::Stop;
use crate::services::replication::MasterClient;

/// Whether the error of a server that was asked may come from settings which are not the server's.
fn is_wrong_address(error: &Error) -> bool {
    ["cannot be reached", "answers 401", "the address of a vski"]
        .iter()
        .any(|it| error.message().contains(it))
}

/// An error of a server that is known to run on a data directory, with a hint when it was not met.
pub fn explain_unreachable(error: Error, dir: &Path) -> Error {
    match is_wrong_address(&error) {
        true => error.context(format!(
            "a server runs on {}, whose HOST, PORT and JWT_SECRET this needs",
            dir.display()
        )),
        false => error,
    }
}

/// Asks a running server something, which has some seconds to answer.
pub fn ask_server<T>(
    client: &Arc<MasterClient>,
    question: impl FnOnce(&MasterClient) -> Result<T>,
) -> Result<T> {
    let (asked, watched) = (Stop::new(), Arc::clone(client));
    let watch = {
        let asked = asked.clone();
        threads::spawn("watch", move || {
            while !asked.wait(Duration::from_secs(1)) {
                watched.abort_if_stalled();
            }
        })?
    };
    let answer = question(client);
    asked.set();
    threads::join_until(watch, Instant::now() + Duration::from_secs(1));
    answer
}
