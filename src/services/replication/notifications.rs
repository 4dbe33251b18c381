//! How a replica hears at once that something has changed: a WebSocket to its master.
//!
//! The master says which databases have changed, `{"changed":["default"]}`, or that it cannot name
//! them, `{"changed":null}`; the replica says nothing. What is lost with a connection is made up for
//! by the full cycle after the next one, so nothing is ever said twice.
//!
//! On the master the thread `notify` gathers what commits note for a moment and tells everybody. What
//! another process commits, and databases that come and go, it finds by looking once a second. On a
//! replica the thread `wake` listens, and connects again when the connection is lost.

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

/// How long changes are gathered before they are told.
const BATCH_WINDOW: Duration = Duration::from_millis(5);
/// How far two messages are apart while so many changes come within [`BATCH_WINDOW`]: then to follow each
/// of them would take more from the master than it gives anybody.
const BUSY_CHANGES: u64 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// How often the master looks for what it was not told of.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// More names than this are not told one by one.
const NAMES_MAX: usize = 100;

/// Together shorter than a stop may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a read waits before the thread looks at other things.
const READ_TIMEOUT: Duration = Duration::from_millis(250);
/// Without a sign of life for this long the connection is given up; the master pings every 20 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(50);
/// A connection that lasted so long is worth the next one at once.
const STABLE: Duration = Duration::from_secs(10);
/// Pauses between attempts to connect.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(5));
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The replicas that listen.
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
    /// Tells of these changes.
    pub fn new(changes: &Arc<ChangedDatabases>) -> Notifier {
        Notifier {
            changes: Arc::clone(changes),
            listeners: Mutex::default(),
        }
    }

    /// What the connection of a replica is for.
    pub fn peer(self: &Arc<Self>, replica: &str) -> Box<dyn SocketHandler> {
        Box::new(ReplicaPeer {
            notifier: Arc::clone(self),
            replica: replica.to_owned(),
            number: 0,
        })
    }

    /// The names of those that listen now.
    pub fn connected(&self) -> BTreeSet<String> {
        let listeners = lock(&self.listeners);
        let names = listeners.links.values().map(|(name, _)| name.clone());
        names.collect()
    }

    /// Ends the wait of [`Notifier::run`], whose `stop` is set.
    pub fn wake(&self) {
        self.changes.wake();
    }

    /// Tells of changes until the stop.
    pub fn run(&self, master: &Master, stop: &Stop) {
        let mut known = BTreeMap::new();
        let (mut polled, mut sent) = (Instant::now(), Instant::now());
        while !stop.is_set() {
            let mut names = self.changes.take(POLL_EVERY);
            if !names.is_empty() {
                let count = self.changes.count();
                if stop.wait(BATCH_WINDOW) {
                    return;
                }
                let is_busy = self.changes.count() - count >= BUSY_CHANGES;
                let pause = BUSY_PAUSE.saturating_sub(sent.elapsed());
                if is_busy && stop.wait(pause) {
                    return;
                }
                names.extend(self.changes.take(Duration::ZERO));
                sent = Instant::now();
            }
            if lock(&self.listeners).links.is_empty() {
                continue;
            }
            let mut has_other_names = false;
            if polled.elapsed() >= POLL_EVERY {
                polled = Instant::now();
                has_other_names = find_changed(master, &mut known, &mut names);
            }
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

/// Adds the databases that are in another state than the last time. True: there are others than
/// before.
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

/// What the master says.
#[derive(Deserialize)]
struct Notification {
    changed: Option<BTreeSet<String>>,
}

/// Listens to the master until the stop, and cuts transfers that bring nothing.
pub fn listen(replica: &Replica, stop: &Stop) {
    let mut failures = 0;
    while !stop.is_set() {
        match connect(replica) {
            Ok(socket) => {
                let begun = Instant::now();
                log::info(format_args!("following {}", replica.client.master_url));
                // Whatever happened while nobody listened.
                replica.request_full_sync();
                replica.set_connected(true);
                let end = read_notifications(socket, replica, stop);
                replica.set_connected(false);
                if begun.elapsed() >= STABLE {
                    failures = 0;
                }
                if !stop.is_set() {
                    log::warn(format_args!(
                        "lost the master {}: {end}",
                        replica.client.master_url
                    ));
                    // If it cannot be reached at all, that is to be known at once.
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
    Error::unavailable(format!(
        "The master does not let this replica listen: {why}."
    ))
}

/// Listens until the end, and says why that came.
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
                    return "it is silent".to_owned();
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

fn abort_if_stalled(replica: &Replica) {
    if replica.client.abort_if_stalled() {
        log::warn(format_args!("sync: nothing came from the master; cut"));
    }
}
