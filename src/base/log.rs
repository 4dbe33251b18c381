//! The log: one line per event on stderr, `time level key=value`, written by its own thread.
//!
//! Lines are added to a buffer of at most 1 MiB; lines that do not fit are dropped and counted, and
//! the count is logged when there is room again. A slow disk or journal therefore never slows a
//! request, and the log never grows in memory. Before [`start`] and after [`LogWriter::finish`]
//! lines are written at once, so that no line of a start or a shutdown is lost.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::error::Result;
use crate::base::threads::lock;
use crate::base::{clock, threads};

const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Lines of this time are written together: one system call for many requests.
const GATHER: Duration = Duration::from_millis(20);
/// Time that a stop waits for the remaining lines to be written.
const FINISH: Duration = Duration::from_secs(1);

/// The level of a line; a log contains a level and all above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Faults of the server and of the machine.
    Error,
    /// Conditions that an operator should check.
    Warn,
    /// Start, stop, one line per request.
    Info,
    /// Details for debugging.
    Debug,
}

impl Level {
    /// The levels, by their names in `LOG`.
    pub const NAMES: [(&'static str, Level); 4] = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
    ];

    fn name(self) -> &'static str {
        Level::NAMES[self as usize].0
    }
}

struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    /// A thread writes the lines; otherwise the caller does.
    has_thread: bool,
}

static BUFFER: Mutex<Buffer> = Mutex::new(Buffer {
    lines: Vec::new(),
    dropped: 0,
    has_thread: false,
});
static ARRIVED: Condvar = Condvar::new();
static LEVEL: AtomicU8 = AtomicU8::new(if cfg!(test) {
    Level::Error as u8
} else {
    Level::Info as u8
});

/// The thread that writes the log; [`LogWriter::finish`] ends it.
pub struct LogWriter(JoinHandle<()>);

/// Sets the level and starts the writing thread.
pub fn start(level: Level) -> Result<LogWriter> {
    LEVEL.store(level as u8, Ordering::Relaxed);
    lock(&BUFFER).has_thread = true;
    threads::spawn("log", write_loop).map(LogWriter)
}

impl LogWriter {
    /// Writes the remaining lines and ends the thread; later lines are written at once.
    pub fn finish(self) {
        lock(&BUFFER).has_thread = false;
        ARRIVED.notify_all();
        // With a limit: stderr may be a pipe that no process reads.
        threads::join_until(self.0, Instant::now() + FINISH);
    }
}

/// True if lines of this level are logged.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Logs a fault of the server or the machine.
pub fn error(line: fmt::Arguments<'_>) {
    log(Level::Error, line);
}

/// Logs a condition that an operator should check.
pub fn warn(line: fmt::Arguments<'_>) {
    log(Level::Warn, line);
}

/// Logs an ordinary event.
pub fn info(line: fmt::Arguments<'_>) {
    log(Level::Info, line);
}

/// Logs a detail for debugging.
pub fn debug(line: fmt::Arguments<'_>) {
    log(Level::Debug, line);
}

/// Logs one answered request. `path` has no query, which could contain tokens. `client` is the
/// address of the client if the peer is a proxy.
#[expect(
    clippy::too_many_arguments,
    reason = "one line has this many fields, and there is one caller"
)]
pub fn request(
    level: Level,
    id: &str,
    method: &str,
    path: &str,
    status: u16,
    micros: u64,
    bytes: usize,
    peer: &SocketAddr,
    client: Option<IpAddr>,
) {
    // Without `format_args`, since there is one line per request.
    add(level, |line| {
        for (name, text) in [("request id=", id), (" method=", method), (" path=", path)] {
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(text.as_bytes());
        }
        line.extend_from_slice(b" status=");
        append_number(line, u64::from(status));
        line.extend_from_slice(b" ms=");
        append_number(line, micros / 1000);
        // The first digit is replaced by the decimal point.
        let start = line.len();
        append_number(line, 1000 + micros % 1000);
        line[start] = b'.';
        line.extend_from_slice(b" bytes=");
        append_number(line, bytes as u64);
        line.extend_from_slice(b" peer=");
        append_peer(line, peer);
        if let Some(client) = client {
            append_text(line, format_args!(" client={client}"));
        }
    });
}

/// Appends a number in decimal digits.
fn append_number(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

fn append_peer(line: &mut Vec<u8>, peer: &SocketAddr) {
    let SocketAddr::V4(peer) = peer else {
        return append_text(line, format_args!("{peer}"));
    };
    for (at, octet) in peer.ip().octets().into_iter().enumerate() {
        if at > 0 {
            line.push(b'.');
        }
        append_number(line, u64::from(octet));
    }
    line.push(b':');
    append_number(line, u64::from(peer.port()));
}

fn append_text(line: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let result = line.write_fmt(text);
    debug_assert!(result.is_ok(), "writing to memory does not fail");
}

fn log(level: Level, text: fmt::Arguments<'_>) {
    add(level, |line| append_text(line, text));
}

/// Adds a line; `text` appends its content.
fn add(level: Level, text: impl FnOnce(&mut Vec<u8>)) {
    if !enabled(level) {
        return;
    }
    let mut buffer = lock(&BUFFER);
    if buffer.lines.len() >= BUFFER_BYTES_MAX {
        buffer.dropped += 1;
        return;
    }
    let was_empty = buffer.lines.is_empty();
    append(&mut buffer.lines, level, text);
    if !buffer.has_thread {
        write_out(&std::mem::take(&mut buffer.lines));
    } else if was_empty {
        drop(buffer);
        ARRIVED.notify_one();
    }
}

/// Appends one line; control characters of its content become `?`, so that a line cannot be forged.
fn append(lines: &mut Vec<u8>, level: Level, text: impl FnOnce(&mut Vec<u8>)) {
    let start = lines.len();
    for part in [&clock::now(), " ", level.name(), " "] {
        lines.extend_from_slice(part.as_bytes());
    }
    text(lines);
    for byte in &mut lines[start..] {
        if byte.is_ascii_control() {
            *byte = b'?';
        }
    }
    lines.push(b'\n');
}

fn write_loop() {
    let mut taken = Vec::new();
    loop {
        {
            let mut buffer = lock(&BUFFER);
            while buffer.lines.is_empty() && buffer.has_thread {
                buffer = threads::wait(&ARRIVED, buffer);
            }
            if !buffer.has_thread && buffer.lines.is_empty() {
                return;
            }
        }
        threads::pause(GATHER);
        {
            let mut buffer = lock(&BUFFER);
            std::mem::swap(&mut taken, &mut buffer.lines);
            let dropped = std::mem::take(&mut buffer.dropped);
            if dropped > 0 {
                let text = format_args!("log lines dropped count={dropped}");
                append(&mut taken, Level::Warn, |line| append_text(line, text));
            }
        }
        write_out(&taken);
        taken.clear();
    }
}

fn write_out(lines: &[u8]) {
    // The server continues without a log, and has no other place to report the error.
    drop(std::io::stderr().lock().write_all(lines));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_be_forged() {
        let mut lines = Vec::new();
        append(&mut lines, Level::Warn, |line| {
            line.extend_from_slice(b"path=/a\n2026 error forged\x1b[0m");
        });
        let text = String::from_utf8(lines).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.contains(" warn path=/a?2026 error forged?[0m\n"),
            "{text}"
        );
    }
    #[test]
    fn numbers_and_peers_are_written_as_usual() {
        for number in [0, 7, 10, 999, 1000, u64::MAX] {
            let mut line = Vec::new();
            append_number(&mut line, number);
            assert_eq!(line, number.to_string().as_bytes());
        }
        for peer in ["127.0.0.1:80", "10.20.255.0:65535", "[2001:db8::1]:3000"] {
            let mut line = Vec::new();
            append_peer(&mut line, &peer.parse().unwrap());
            assert_eq!(line, peer.as_bytes());
        }
    }
}
