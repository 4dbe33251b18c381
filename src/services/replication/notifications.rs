//! Notifies replicas of changes over a WebSocket.
//!
//! The master sends the names of changed databases, `{"changed":["default"]}`, or
//! `{"changed":null}` if it cannot name them. The replica sends nothing. A message that is lost
//! with a connection needs no repetition, because each new connection starts with a full cycle.
//!
//! On the master, the thread `notify` collects the changes that commits report for a moment and
//! broadcasts them. Once a second it also looks for commits of other processes and for created or
//! deleted databases. On a replica, the thread `wake` reads the notifications and reconnects after
//! a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use serde::Deserialize;
use serde_json::json;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::{HeaderValue, Uri};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Connector, HandshakeError, Message, WebSocket};

use super::{Master, Replica};
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::threads::{Stop, lock};
use crate::net::sockets::{Flow, SocketHandle, SocketHandler, Text};
use crate::store::db::ChangedDatabases;

/// The master collects changes for this long before it broadcasts them.
const BATCH_WINDOW: Duration = Duration::from_millis(5);
/// If at least [`BUSY_CHANGES`] commits arrive within about [`BUSY_PAUSE`], messages are at least
/// that far apart: each makes every replica fetch, which costs the master more than a commit does.
const BUSY_CHANGES: u64 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Interval at which the master looks for changes that no commit reported.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// With more names than this, the message names none.
const NAMES_MAX: usize = 100;

/// Together shorter than the time limit of a stop.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of a read, after which the thread checks other work.
const READ_TIMEOUT: Duration = Duration::from_millis(250);
/// A connection without a message for this long is closed; the master pings every 20 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(50);
/// After a connection that lasted this long, the pauses start over.
const STABLE: Duration = Duration::from_secs(10);
/// Pauses between attempts to connect, in seconds.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(5));
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The connected replicas.
pub struct Notifier {
    changes: Arc<ChangedDatabases>,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    count: u64,
    links: BTreeMap<u64, (String, SocketHandle)>,
}

impl Notifier {
    pub fn new(changes: &Arc<ChangedDatabases>) -> Notifier {
        Notifier {
            changes: Arc::clone(changes),
            listeners: Mutex::default(),
        }
    }

    /// The handler for the connection of a replica.
    pub fn peer(self: &Arc<Self>, replica: &str) -> Box<dyn SocketHandler> {
        Box::new(ReplicaPeer {
            notifier: Arc::clone(self),
            replica: replica.to_owned(),
            number: 0,
        })
    }

    /// The names of connected replicas.
    pub fn connected(&self) -> BTreeSet<String> {
        let listeners = lock(&self.listeners);
        let names = listeners.links.values().map(|(name, _)| name.clone());
        names.collect()
    }

    /// Ends the wait of [`Notifier::run`] after its `stop` is set.
    pub fn wake(&self) {
        self.changes.wake();
    }

    /// Broadcasts changes until `stop` is set.
    pub fn run(&self, master: &Master, stop: &Stop) {
        let mut known = BTreeMap::new();
        let mut polled = Instant::now();
        let mut pace = Pace::new(polled);
        while !stop.is_set() {
            let mut names = self.changes.take(POLL_EVERY);
            if !names.is_empty() {
                if stop.wait(BATCH_WINDOW) {
                    return;
                }
                let pause = pace.pause(Instant::now(), self.changes.count());
                if !pause.is_zero() && stop.wait(pause) {
                    return;
                }
                names.extend(self.changes.take(Duration::ZERO));
                pace.sent = Instant::now();
            }
            if lock(&self.listeners).links.is_empty() {
                continue;
            }
            let mut has_other_names = false;
            if polled.elapsed() >= POLL_EVERY {
                polled = Instant::now();
                has_other_names = find_changed(master, &mut known, &mut names);
            }
            master.announce();
            if has_other_names || names.len() > NAMES_MAX {
                self.broadcast(&json!({"changed": null}));
            } else if !names.is_empty() {
                self.broadcast(&json!({"changed": names}));
            }
        }
    }

    fn broadcast(&self, message: &serde_json::Value) {
        let text: Text = message.to_string().into();
        for (_, link) in lock(&self.listeners).links.values() {
            link.send(text.clone());
        }
    }
}

/// The time between messages.
struct Pace {
    sent: Instant,
    /// Commits up to a moment: that of the first message after [`BUSY_PAUSE`].
    count: u64,
    counted: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace {
            sent: now,
            count: 0,
            counted: now,
        }
    }

    /// The time to collect further changes before the next message, after `count` commits.
    fn pause(&mut self, now: Instant, count: u64) -> Duration {
        let is_busy = count - self.count >= BUSY_CHANGES;
        if now.duration_since(self.counted) >= BUSY_PAUSE {
            (self.count, self.counted) = (count, now);
        }
        match is_busy {
            true => BUSY_PAUSE.saturating_sub(now.duration_since(self.sent)),
            false => Duration::ZERO,
        }
    }
}

/// Adds the databases whose version has changed. Returns true if databases were created or deleted.
fn find_changed(
    master: &Master,
    known: &mut BTreeMap<String, String>,
    names: &mut BTreeSet<String>,
) -> bool {
    let Ok(list) = master.list() else {
        return false;
    };
    let now: BTreeMap<String, String> = list
        .into_iter()
        .map(|it| (it.name, format!("{} {}", it.epoch, it.version)))
        .collect();
    let has_other_names =
        now.len() != known.len() || now.keys().any(|name| !known.contains_key(name));
    let changed = now
        .iter()
        .filter(|(name, state)| known.get(*name) != Some(state));
    names.extend(changed.map(|(name, _)| name.clone()));
    *known = now;
    has_other_names
}

/// The connection of one replica, on the master.
struct ReplicaPeer {
    notifier: Arc<Notifier>,
    replica: String,
    number: u64,
}

impl SocketHandler for ReplicaPeer {
    fn opened(&mut self, link: SocketHandle) {
        let mut listeners = lock(&self.notifier.listeners);
        listeners.count += 1;
        self.number = listeners.count;
        let entry = (self.replica.clone(), link);
        listeners.links.insert(self.number, entry);
        self.notifier.changes.listen(true);
    }

    fn received(&mut self, _text: &str) -> Flow {
        Flow::Continue
    }

    fn closed(&mut self) {
        let mut listeners = lock(&self.notifier.listeners);
        listeners.links.remove(&self.number);
        self.notifier.changes.listen(!listeners.links.is_empty());
    }
}

/// A message of the master.
#[derive(Deserialize)]
struct Notification {
    changed: Option<BTreeSet<String>>,
}

/// Reads notifications until `stop` is set, and aborts stalled transfers.
pub fn listen(replica: &Replica, stop: &Stop) {
    let mut failures = 0;
    while !stop.is_set() {
        match connect(replica) {
            Ok(socket) => {
                let begun = Instant::now();
                log::info(format_args!("following {}", replica.client.master_url));
                // Catch up on changes while disconnected.
                replica.request_full_sync();
                replica.set_connected(true);
                let end = read_notifications(socket, replica, stop);
                replica.set_connected(false);
                if begun.elapsed() >= STABLE {
                    failures = 0;
                }
                if !stop.is_set() {
                    log::warn(format_args!(
                        "lost the connection to the master {}: {end}",
                        replica.client.master_url
                    ));
                    // Find out at once whether the master is reachable.
                    replica.request_full_sync();
                }
            }
            Err(error) => log::debug(format_args!("listen to the master: {error}")),
        }
        failures += 1;
        for _ in 0..BACKOFF.pause(failures).as_secs() {
            abort_if_stalled(replica);
            if stop.wait(Duration::from_secs(1)) {
                return;
            }
        }
    }
}

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

fn connect(replica: &Replica) -> Result<Socket> {
    let client = &replica.client;
    let rest = client.master_url.strip_prefix("http").unwrap_or_default();
    let url = format!("ws{rest}/api/replica/ws");
    let uri: Uri = url.parse().map_err(|error| refused(&error))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_tls = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let addrs = (host, port).to_socket_addrs()?;
    let mut last = io::Error::other("the name has no address");
    let stream = addrs
        .into_iter()
        .find_map(
            |addr| match TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT) {
                Ok(stream) => Some(stream),
                Err(error) => {
                    last = error;
                    None
                }
            },
        )
        .ok_or(last)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let timeouts = stream.try_clone()?;
    let request = url.into_client_request();
    let mut request = request.map_err(|error| refused(&error))?;
    for (name, value) in client.headers() {
        let value = HeaderValue::from_str(&value).map_err(|error| refused(&error))?;
        request.headers_mut().insert(name, value);
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_message_size(Some(MESSAGE_BYTES_MAX));
    let connector = client.roots.for_sockets().map(Connector::Rustls);
    let (socket, _) = tungstenite::client_tls_with_config(request, stream, Some(config), connector)
        .map_err(|error| match &error {
            HandshakeError::Failure(tungstenite::Error::Io(cause)) => {
                client.tls_error(cause).unwrap_or_else(|| refused(&error))
            }
            _ => refused(&error),
        })?;
    timeouts.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(socket)
}

fn refused(why: &dyn fmt::Display) -> Error {
    Error::unavailable(format!("The connection for notifications failed: {why}."))
}

/// Reads notifications until the connection ends. Returns the reason.
fn read_notifications(mut socket: Socket, replica: &Replica, stop: &Stop) -> String {
    let mut last_message = Instant::now();
    loop {
        if stop.is_set() {
            let _ = socket.close(None);
            return "stop".to_owned();
        }
        abort_if_stalled(replica);
        match socket.read() {
            Ok(message) => {
                last_message = Instant::now();
                if let Message::Text(text) = &message {
                    match serde_json::from_str::<Notification>(text) {
                        Ok(Notification { changed: Some(it) }) => replica.request_sync(it),
                        Ok(Notification { changed: None }) => replica.request_full_sync(),
                        Err(error) => return error.to_string(),
                    }
                } else {
                    replica.confirm_current();
                }
            }
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                if last_message.elapsed() > SILENCE_TIMEOUT {
                    return "no message arrived in time".to_owned();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

fn abort_if_stalled(replica: &Replica) {
    if replica.client.abort_if_stalled() {
        log::warn(format_args!(
            "sync: the master sent nothing; connection aborted"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in the last of three seconds with so many commits per second.
    fn messages(rate: u64) -> u64 {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let (mut now, mut sent) = (begin, 0);
        let commits = |now: Instant| {
            u64::try_from(now.duration_since(begin).as_millis()).unwrap() * rate / 1000
        };
        while now.duration_since(begin) < Duration::from_secs(3) {
            let before = commits(now);
            while commits(now) == before {
                now += Duration::from_millis(1);
            }
            now += BATCH_WINDOW;
            now += pace.pause(now, commits(now));
            pace.sent = now;
            let seconds = now.duration_since(begin).as_secs();
            sent += u64::from(seconds == 2);
        }
        sent
    }

    #[test]
    fn a_few_commits_are_announced_at_once_and_many_together() {
        for (rate, fewest, most) in [(1, 1, 1), (20, 19, 21), (50, 9, 11), (2000, 9, 11)] {
            let sent = messages(rate);
            assert!((fewest..=most).contains(&sent), "{sent} at {rate}/s");
        }
    }
}
