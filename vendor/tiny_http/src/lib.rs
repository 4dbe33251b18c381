//! A low level HTTP/1.1 server: threads, a queue, and requests to be answered.
//!
//! This is a patched copy of tiny_http 0.12.0; `PATCHES.md` tells what differs and why.
//!
//! ```no_run
//! use tiny_http::{Destination, Hooks, Limits, Meter, Server};
//! struct Unmetered;
//! impl Meter for Unmetered {
//!     fn grow(&mut self, _: usize) -> bool {
//!         true
//!     }
//! }
//! let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
//! let hooks = Hooks {
//!     refusal: Box::new(|status| {
//!         format!("HTTP/1.1 {} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status).into_bytes()
//!     }),
//!     accept_failed: Box::new(|error| eprintln!("{}", error)),
//!     body: Box::new(|_| Destination::Memory(1 << 20)),
//!     meter: Box::new(|_| Box::new(Unmetered)),
//!     endless: Box::new(|_| false),
//! };
//! let server = Server::from_listener(listener, Limits::default(), hooks).unwrap();
//! while let Some(request) = server.recv() {
//!     request.respond(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), Vec::new(), false);
//! }
//! ```
#![forbid(unsafe_code)]
#![deny(rust_2018_idioms)]
#![allow(clippy::match_like_matches_macro)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use client::ClientConnection;
use connection::Connection;
use registry::{Partial, Registry};
use rustix::net::SendFlags;
use util::{lock, MessagesQueue, TaskPool};

pub use common::{HTTPVersion, Method};
pub use head::HeaderSpan;
pub use limits::{Counters, Hooks, Limits};

pub use request::{HeadView, Request, Unread, Upgraded};
pub use sink::{Destination, Meter, Sink};

mod body;
mod client;
mod common;
mod connection;
mod head;
mod limits;
mod registry;
mod request;
mod sink;
mod util;

/// The main class of this library.
///
/// Destroying this object will immediately close the listening socket and all connections.
pub struct Server {
    shared: Arc<Shared>,

    // the accept thread and its listener, until accepting is stopped
    accepting: Mutex<Option<(Arc<TcpListener>, JoinHandle<()>)>>,

    // result of TcpListener::local_addr()
    listening_addr: SocketAddr,
}

/// The state shared by all threads of a server.
pub(crate) struct Shared {
    limits: Limits,
    hooks: Hooks,
    started: Instant,

    // should be false as long as connections are accepted
    close: AtomicBool,

    // queue for requests received by connection threads
    messages: MessagesQueue<Request>,

    registry: Registry,
    writers: TaskPool,
    answer_used: AtomicUsize,
    accepted: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    slow_closed: AtomicU64,
    turned_away: AtomicU64,
    accept_errors: AtomicU64,
}

/// Connections that the system may hold until they are accepted; it has a limit of its own.
const BACKLOG: i32 = 4096;

/// Longest pause after a failure to accept, for the system to recover.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Interval at which the accept thread checks whether connections that it has closed have ended.
const MOMENT: Duration = Duration::from_millis(1);

/// The part of the connections that goes when the system runs short of something.
const MAKE_WAY_PART: usize = 8;

/// Threads of evicted connections that may still be ending, beyond the cap on connections.
const ENDING_MAX: usize = 128;

/// Interval at which `drain` looks for idle connections.
const DRAIN_STEP: Duration = Duration::from_millis(10);

impl Server {
    /// Builds a new server using the specified TCP listener. It starts to accept at once.
    pub fn from_listener(
        listener: TcpListener,
        limits: Limits,
        hooks: Hooks,
    ) -> io::Result<Server> {
        let listening_addr = listener.local_addr()?;
        // The standard library asks for 128: a burst of connections would have its newcomers wait for a second.
        rustix::net::listen(&listener, BACKLOG)?;
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared {
            started: Instant::now(),
            close: AtomicBool::new(false),
            messages: MessagesQueue::with_capacity(64),
            registry: Registry::default(),
            writers: TaskPool::new("http-write", limits.max_writers.max(1)),
            answer_used: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            slow_closed: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            limits,
            hooks,
        });

        // creating a task where server.accept() is continuously called
        let inside = (Arc::clone(&listener), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("http-accept".to_owned())
            .stack_size(256 << 10)
            .spawn(move || accept_all(&inside.0, &inside.1))?;

        Ok(Server {
            shared,
            accepting: Mutex::new(Some((listener, thread))),
            listening_addr,
        })
    }

    /// Returns the address the server is listening to.
    #[inline]
    pub fn server_addr(&self) -> SocketAddr {
        self.listening_addr
    }

    /// Returns the number of clients currently connected to the server.
    pub fn num_connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// Requests not received yet.
    pub fn num_queued(&self) -> usize {
        self.shared.messages.len()
    }

    /// Blocks until an HTTP request has been submitted and returns it.
    /// None once `unblock()` was called and every request has been received.
    /// Requests whose connection has been cut meanwhile are left out.
    pub fn recv(&self) -> Option<Request> {
        loop {
            let request = self.shared.messages.pop()?;
            if !request.is_void() {
                return Some(request);
            }
        }
    }

    /// Unblocks every thread stuck in recv(), now and later.
    /// Requests that are complete only after this are dropped with their connections.
    pub fn unblock(&self) {
        self.shared.messages.unblock();
    }

    /// Closes the listening socket. Connections go on.
    pub fn stop_accepting(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some((listener, thread)) = accepting {
            self.shared.close.store(true, Relaxed);
            // wakes the accept thread
            let _ = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both);
            drop(thread.join());
        }
    }

    /// Stops accepting, lets the requests in hand be answered and closes each connection when it has none. A connection
    /// whose request is only partly here has until `grace` to complete it. Returns at the deadline at the latest, with
    /// the number of requests that are still without an answer. Another thread must continue to call `recv()` meanwhile.
    pub fn drain(&self, grace: Duration, deadline: Duration) -> usize {
        let begun = Instant::now();
        self.stop_accepting();
        loop {
            let partial = if begun.elapsed() >= grace {
                Partial::Close
            } else {
                Partial::Spare
            };
            self.shared.registry.close_waiting(partial);
            let left = deadline.saturating_sub(begun.elapsed());
            if self.shared.registry.wait_empty(DRAIN_STEP.min(left)) || left == Duration::ZERO {
                return self.shared.registry.in_hand();
            }
        }
    }

    /// Totals for monitoring.
    pub fn counters(&self) -> Counters {
        let shared = &self.shared;
        Counters {
            connections: shared.registry.len(),
            accepted: shared.accepted.load(Relaxed),
            requests: shared.requests.load(Relaxed),
            refused: shared.refused.load(Relaxed),
            evicted: shared.evicted.load(Relaxed),
            slow_closed: shared.slow_closed.load(Relaxed),
            turned_away: shared.turned_away.load(Relaxed),
            accept_errors: shared.accept_errors.load(Relaxed),
            answer_bytes: shared.answer_used.load(Relaxed),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_accepting();
        self.unblock();
        while let Some(request) = self.recv() {
            drop(request);
        }
        self.shared.registry.close_all();
    }
}

impl Shared {
    /// Milliseconds since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Keeps the pending answers within their budget by closing those connections that have stalled longest; if none
    /// has, the one that has just added to them.
    pub(crate) fn make_room(&self, adding: &Connection) {
        while self.answer_used.load(Relaxed) > self.limits.answer_budget {
            let victim = self.registry.longest_stalled();
            let victim = victim.as_deref().unwrap_or(adding);
            if victim.kill() {
                self.slow_closed.fetch_add(1, Relaxed);
            }
            self.registry.remove(victim.id);
            if victim.id == adding.id {
                return;
            }
        }
    }
}

/// The accept thread. Ends only when the server stops accepting.
fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    // a tasks pool is used to dispatch the connections into threads
    let tasks_pool = TaskPool::new("http-conn", usize::MAX);
    let mut next_id = 0;
    while !shared.close.load(Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                next_id += 1;
                start(stream, peer, next_id, &tasks_pool, shared);
            }
            Err(_) if shared.close.load(Relaxed) => return,
            Err(error) => {
                accept_failed(&error, shared);
                // Other errors are those of one peer, which gave up before it was accepted.
                if is_shortage(&error) {
                    make_way(&tasks_pool, shared);
                }
            }
        }
    }
}

/// True if the system has no descriptors or no memory left.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_none_or(|errno| shortages.contains(&errno))
}

/// Closes some of the connections that have waited longest: more than one, so that the next ones that arrive, and
/// files, find room. Then pauses until the first of their threads has ended, or for `BACK_OFF`.
fn make_way(tasks_pool: &TaskPool, shared: &Shared) {
    let busy = tasks_pool.busy();
    for _ in 0..=shared.registry.len() / MAKE_WAY_PART {
        if shared.registry.evict_longest_waiting() {
            shared.evicted.fetch_add(1, Relaxed);
        }
    }
    let begun = Instant::now();
    while tasks_pool.busy() >= busy && begun.elapsed() < BACK_OFF {
        thread::sleep(MOMENT);
    }
}

fn accept_failed(error: &io::Error, shared: &Shared) {
    shared.accept_errors.fetch_add(1, Relaxed);
    (shared.hooks.accept_failed)(error);
}

/// Gives a new connection its thread, at the cost of another one if there are too many.
fn start(
    stream: TcpStream,
    peer: SocketAddr,
    id: u64,
    tasks_pool: &TaskPool,
    shared: &Arc<Shared>,
) {
    shared.accepted.fetch_add(1, Relaxed);
    if shared.registry.len() >= shared.limits.max_connections.max(1) {
        if !shared.registry.evict_longest_waiting() {
            shared.turned_away.fetch_add(1, Relaxed);
            turn_away(&stream, shared);
            return;
        }
        shared.evicted.fetch_add(1, Relaxed);
        // Evictions must not outrun the threads that they end.
        while tasks_pool.busy() > shared.limits.max_connections + ENDING_MAX {
            thread::sleep(MOMENT);
        }
    }
    if prepare(&stream, &shared.limits).is_err() {
        return;
    }
    let connection = Arc::new(Connection::new(id, stream, peer, shared));
    shared.registry.insert(&connection);
    let client = ClientConnection::new(connection, Arc::clone(shared));
    if let Err(error) = tasks_pool.spawn(Box::new(move || client.run())) {
        accept_failed(&error, shared);
        make_way(tasks_pool, shared);
    }
}

fn prepare(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let shortest = limits.slice.min(limits.idle_time).min(limits.head_time);
    stream.set_read_timeout(Some(shortest.min(limits.progress_time)))
}

/// Tells a peer that there is no room, if its socket takes the words at once.
fn turn_away(stream: &TcpStream, shared: &Shared) {
    let answer = (shared.hooks.refusal)(503);
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(stream, &answer, flags);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
