//! Requests of a command to the server that runs on the data directory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::error::{Error, Kind, Result};
use crate::base::threads;
use crate::base::threads::Stop;
use crate::services::replication::MasterClient;

/// Adds a hint to the error of a request if the server that runs on the data directory was not
/// reached.
pub fn explain_unreachable(error: Error, dir: &Path) -> Error {
    match error.kind() {
        Kind::WrongServer => error.context(format!(
            "a server runs on {}; give this command the same HOST, PORT and JWT_SECRET",
            dir.display()
        )),
        _ => error,
    }
}

/// Sends a request to a running server and ends it if the server stalls for some seconds.
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
