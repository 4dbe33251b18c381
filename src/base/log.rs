//! The log: one line per event on stderr, `time level key=value`, written by a thread of its own.
//!
//! Lines go to a buffer of at most 1 MiB; what does not fit is dropped and counted, and the count
//! is logged when there is room again. So a slow disk or journal never slows a request, and the
//! log never grows in memory. Before [`start`] and after [`Writer::finish`] lines are written at
//! once, so nothing of a start-up or a shutdown is lost.

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

/// How much is logged: a level and all above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Faults of ours and of the machine.
    Error,
    /// What an operator should look at.
    Warn,
    /// Start, stop, one line per request.
    Info,
    /// For finding faults.
    Debug,
}

impl Level {
    /// Every level by the name that `LOG` takes.
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

const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Lines of this span are written together: one system call for many requests.
const GATHER: Duration = Duration::from_millis(20);
/// How long a stop waits for what is left to be written.
const FINISH: Duration = Duration::from_secs(1);

struct Buffer {
    lines: Vec<u8>,
    dropped: u64,
    /// A writer thread takes the lines; without one they go straight to stderr.
    threaded: bool,
}

static BUFFER: Mutex<Buffer> = Mutex::new(Buffer {
    lines: Vec::new(),
    dropped: 0,
    threaded: false,
});
static ARRIVED: Condvar = Condvar::new();
static LEVEL: AtomicU8 = AtomicU8::new(if cfg!(test) {
    Level::Error as u8
} else {
    Level::Info as u8
});

/// The thread that writes the log; [`Writer::finish`] ends it.
pub struct Writer(JoinHandle<()>);

/// Sets the level and starts the writing thread.
pub fn start(level: Level) -> Result<Writer> {
    LEVEL.store(level as u8, Ordering::Relaxed);
    lock(&BUFFER).threaded = true;
    threads::spawn("log", write_loop).map(Writer)
}

impl Writer {
    /// Writes out what is left and ends the thread; later lines are written at once.
    pub fn finish(self) {
        lock(&BUFFER).threaded = false;
        ARRIVED.notify_all();
        // Nobody may be reading what it writes to.
        threads::join_until(self.0, Instant::now() + FINISH);
    }
}

/// Whether lines of this level are wanted.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Logs a fault.
pub fn error(line: fmt::Arguments<'_>) {
    log(Level::Error, line);
}

/// Logs what an operator should look at.
pub fn warn(line: fmt::Arguments<'_>) {
    log(Level::Warn, line);
}

/// Logs an ordinary event.
pub fn info(line: fmt::Arguments<'_>) {
    log(Level::Info, line);
}

/// Logs what helps to find faults.
pub fn debug(line: fmt::Arguments<'_>) {
    log(Level::Debug, line);
}

/// Logs one answered request; `path` comes without its query, which may hold tokens. `client` is where it
/// came from, if that is not the peer.
#[expect(
    clippy::too_many_arguments,
    reason = "one line has this many parts, and one place calls it"
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
    // By hand, because there is one for each request.
    add(level, |line| {
        for (name, text) in [("request id=", id), (" method=", method), (" path=", path)] {
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(text.as_bytes());
        }
        line.extend_from_slice(b" status=");
        append_number(line, u64::from(status));
        line.extend_from_slice(b" ms=");
        append_number(line, micros / 1000);
        // Its first digit becomes the point.
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

/// Adds a line of which `text` appends the content.
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
    if !buffer.threaded {
        write_out(&std::mem::take(&mut buffer.lines));
    } else if was_empty {
        drop(buffer);
        ARRIVED.notify_one();
    }
}

/// Appends one line; control characters of the content become `?`, so that nobody can forge one.
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
    let pause = threads::Stop::new();
    loop {
        {
            let mut buffer = lock(&BUFFER);
            while buffer.lines.is_empty() && buffer.threaded {
                buffer = threads::wait(&ARRIVED, buffer);
            }
            if !buffer.threaded && buffer.lines.is_empty() {
                return;
            }
        }
        pause.wait(GATHER);
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
    // A log that cannot be written is no reason to stop serving, and there is no one to tell.
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
