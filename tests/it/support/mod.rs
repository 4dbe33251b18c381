//! Helpers of all tests: a server to start, requests to send, waiting with a deadline.

pub mod api;
pub mod cluster;
pub mod frames;
pub mod listener;
pub mod provider;
pub mod proxy;
pub mod receiver;
pub mod s3;
pub mod server;
pub mod stream;
pub mod tls;
pub mod token;
pub mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A directory of its own, removed in the end unless the test fails or `VSKI_KEEP` is set.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "vski-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !std::thread::panicking() && std::env::var_os("VSKI_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A database file, read only and beside the server.
#[expect(
    clippy::disallowed_methods,
    reason = "tests look at files from outside"
)]
pub fn sqlite(path: &Path) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    rusqlite::Connection::open_with_flags(path, flags).unwrap()
}

/// Opens a database file beside the server that has it, to bring it into an unlikely state.
#[expect(clippy::disallowed_methods, reason = "tests change files from outside")]
pub fn sqlite_for_writing(path: &Path) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = rusqlite::Connection::open_with_flags(path, flags).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

/// A short pause between two looks.
#[expect(clippy::disallowed_methods, reason = "the one place where tests pause")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks every 10 ms until `condition` holds; fails after ten seconds, saying what was awaited.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        pause(Duration::from_millis(10));
    }
}
