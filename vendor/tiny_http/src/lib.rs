//! A low level HTTP/1.1 server: a front, threads that wait in `recv()`, and requests to be answered.
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

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use connection::Connection;
use front::Front;
use ready::{Readable, Ready, Work};
use registry::{Partial, Registry};
use step::{By, Scratch};
use turn::take_turn;
use util::{lock, TaskPool};

pub use common::{HTTPVersion, Method};
pub use head::HeaderSpan;
pub use limits::{Counters, Hooks, Limits};

pub use request::{HeadView, Request, Unread, Upgraded};
pub use sink::{Destination, Meter, Sink};

mod arriving;
mod body;
mod common;
mod connection;
mod front;
mod head;
mod limits;
mod reader;
mod ready;
mod registry;
mod request;
mod seat;
mod sink;
mod step;
mod turn;
mod util;

/// The main class of this library.
///
/// Destroying this object will immediately close the listening socket and all connections.
pub struct Server {
    shared: Arc<Shared>,

    // the front thread
    front: Option<JoinHandle<()>>,

    // result of TcpListener::local_addr()
    listening_addr: SocketAddr,
}

/// The state shared by all threads of a server.
pub(crate) struct Shared {
    limits: Limits,
    hooks: Hooks,
    started: Instant,

    // the listener, until accepting is stopped
    accepting: Mutex<Option<Arc<TcpListener>>>,

    // should be false as long as connections are accepted
    close: AtomicBool,

    // the server is gone
    ended: AtomicBool,

    ready: Ready,

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

/// Interval at which `drain` looks for idle connections.
const DRAIN_STEP: Duration = Duration::from_millis(10);

thread_local! {
    /// The buffers of a thread in `recv()`.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

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
        listener.set_nonblocking(true)?;
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared {
            started: Instant::now(),
            accepting: Mutex::new(Some(Arc::clone(&listener))),
            close: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            ready: Ready::new()?,
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

        let front = Front::new(listener, Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("http-front".to_owned())
            .stack_size(256 << 10)
            .spawn(move || front.run())?;

        Ok(Server {
            shared,
            front: Some(thread),
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

    /// Blocks until an HTTP request is there and returns it. Meanwhile this thread gives turns to connections, and reads
    /// what has arrived on them. None once `unblock()` was called and every request has been received.
    /// Requests whose connection has been cut meanwhile are left out.
    pub fn recv(&self) -> Option<Request> {
        SCRATCH.with_borrow_mut(|scratch| loop {
            let request = match self.shared.ready.next()? {
                Work::Request(request) => Some(*request).filter(|request| !request.is_void()),
                Work::Readable(readable) => self.shared.read(readable, By::Worker, scratch),
                Work::Turn(id) => self.shared.go_on(id, scratch),
            };
            if request.is_some() {
                return request;
            }
        })
    }

    /// Unblocks every thread stuck in recv(), now and later.
    /// Requests that are complete only after this are dropped with their connections.
    pub fn unblock(&self) {
        self.shared.ready.close();
    }

    /// Closes the listening socket. Connections go on.
    pub fn stop_accepting(&self) {
        let listener = lock(&self.shared.accepting).take();
        if let Some(listener) = listener {
            self.shared.close.store(true, Relaxed);
            // The front thread has it too, for a moment.
            let _ = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both);
            self.shared.ready.ring();
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
        drop(self.shared.ready.take_all());
        self.shared.registry.close_all();
        self.shared.ended.store(true, Relaxed);
        self.shared.ready.ring();
        if let Some(front) = self.front.take() {
            drop(front.join());
        }
    }
}

impl Shared {
    /// Milliseconds since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Reads from a connection that can be read.
    pub(crate) fn read(
        self: &Arc<Self>,
        readable: Readable,
        by: By,
        scratch: &mut Scratch,
    ) -> Option<Request> {
        let connection = self.registry.get(readable.id)?;
        let mut reader = connection.seat.take()?;
        match readable.ends {
            true => reader.expect_anything(),
            false => reader.expect_bytes(),
        }
        take_turn(self, &connection, reader, by, scratch)
    }

    /// Goes on with a connection that was to have another turn.
    fn go_on(self: &Arc<Self>, id: u64, scratch: &mut Scratch) -> Option<Request> {
        let connection = self.registry.get(id)?;
        let mut reader = connection.seat.take_queued()?;
        reader.expect_anything();
        take_turn(self, &connection, reader, By::Worker, scratch)
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
