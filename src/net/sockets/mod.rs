//! WebSockets: one thread, the hub, owns them all.
//!
//! The hub is given connections whose 101 was sent, tells a [`Peer`] of each what comes, and hands
//! out [`Link`]s by which any thread sends. It waits in epoll, and for nothing else: a send only
//! queues the text and wakes the hub if that sleeps; a socket whose queue would outgrow its bound
//! is too slow and is dropped, never waited for. So is the fullest one when all queues together reach theirs.
//!
//! A socket is served in turns, each of them bounded in messages and bytes, so that one which
//! talks without end does not starve the others. Whoever is not done with a turn comes again after
//! all the others; that also finds what is left in the buffers of tungstenite, of which epoll knows
//! nothing. epoll is level-triggered, so nothing is lost when a turn leaves bytes in the kernel.
//!
//! A peer that is silent is pinged, at times spread over the sockets; any byte from it is a sign of
//! life. A socket that breaks the protocol or the limits is told so with a close code, its further
//! bytes are thrown away for a moment, so that the code arrives, and it is dropped.
//!
//! A peer may hold its socket, see [`Flow::Hold`]: this is not read any more, and what the other
//! side sends piles up in the system until that is told to send no more. All else goes on, so a
//! held socket sends, and closes, and its end is noticed when the connection is reset. It is pinged
//! too, which keeps proxies from cutting it, but nobody waits for pongs that cannot be read.
//!
//! What it costs: a read buffer of 4 KiB and about one more KiB per socket. Buffers that a large
//! message has blown up are let go of, and all unfinished large messages together are bounded.
//!
//! A stream of server-sent events is a socket too, one that only sends.
//!
//! `wire` is the byte stream below tungstenite, `talk` the two ways of talking over it, `link` what waits to be sent, `conn` one
//! socket, `hub` the thread.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::budget::{Budget, Charge, Payer};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::lock;
use crate::base::{log, threads};

pub use link::{Link, Text};

mod conn;
mod hub;
mod link;
mod talk;
mod wire;

/// The value of `Sec-WebSocket-Accept` that answers a key.
pub fn accept_key(key: &str) -> String {
    conn::accept_key(key)
}

/// The bounds of one socket, and of what all of them receive; budgets bound the rest.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of a message that comes in; more is answered with 1009.
    pub message_bytes_max: usize,
    /// Bytes that wait to be sent to one peer, except that a single message may be longer.
    pub outbox_bytes_max: usize,
    /// Bytes of large messages that are coming in, of all sockets; above it whoever adds is closed.
    pub large_bytes_max: usize,
    /// Pause between two pings of a socket.
    pub ping_every: Duration,
    /// So many pings in a row without a sign of life end a socket.
    pub missed_pings_max: u32,
    /// Longest time that a peer may hold its socket; after that it is closed with 1013.
    pub hold_max: Duration,
    /// Time for the other side to take part in closing.
    pub close_grace: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            message_bytes_max: 1 << 20,
            outbox_bytes_max: 1 << 20,
            large_bytes_max: 64 << 20,
            ping_every: Duration::from_secs(20),
            missed_pings_max: 2,
            hold_max: Duration::from_secs(60),
            close_grace: Duration::from_secs(2),
        }
    }
}

/// Totals since the start, except `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Sockets open now, and places reserved for more.
    pub open: u64,
    /// Sockets taken over.
    pub opened: u64,
    /// Sockets that are gone.
    pub closed: u64,
    /// Of these, dropped because the peer did not take what was sent.
    pub slow_closed: u64,
    /// Of these, dropped because the peer did not answer pings.
    pub dead_closed: u64,
    /// Texts received.
    pub messages_in: u64,
    /// Texts handed to the system to be sent.
    pub messages_out: u64,
}

/// What a [`Peer`] says about the texts to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next one is welcome.
    Go,
    /// No more until [`Link::resume`], for [`Settings::hold_max`] at most. What has come meanwhile
    /// is delivered then, in order; it is lost if the socket is closed or reset before.
    ///
    /// The invariant: the socket is held only as long as no resume was called since the call of
    /// [`Peer::received`] that returned this began. So one that comes while that call still runs,
    /// before the hub knows of the hold, is not lost, and one from before it is forgotten. Hence a
    /// peer holds because of what it sees during the call, and whoever changes that resumes after
    /// the change. A resume that was meant for an earlier state but comes during the call undoes
    /// the hold too: then one more text comes, which the peer must take, and may answer with a hold.
    Hold,
}

/// What a socket is for. All calls come from the hub thread and must not block; a panic in one
/// closes this socket only.
pub trait Peer: Send {
    /// The first call.
    fn opened(&mut self, link: Link);
    /// A text has come, and whether more may come. None comes after [`Link::close`] or after the
    /// other side has closed.
    fn received(&mut self, text: &str) -> Flow;
    /// The last call, however the socket ended.
    fn closed(&mut self);
}

/// Owner of all sockets; see the module documentation. Dropped without [`Hub::stop`], it cuts all
/// sockets off.
pub struct Hub {
    core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    /// Starts the thread. `sockets` bounds the number of sockets, `outboxes` the bytes of texts that wait to
    /// be sent.
    pub fn start(settings: Settings, sockets: &Arc<Budget>, outboxes: &Arc<Budget>) -> Result<Hub> {
        let driver = hub::prepare(settings, sockets, outboxes).context("prepare for sockets")?;
        let core = Arc::clone(&driver.core);
        let thread = threads::spawn("sockets", move || driver.run())?;
        Ok(Hub {
            core,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// How far it is behind.
    pub fn pace(&self) -> Pace {
        Pace(Arc::clone(&self.core))
    }

    /// A place for one more socket of a payer. Refused when the budget is used up, or when the hub stops.
    pub fn reserve(&self, payer: Payer) -> Result<Place> {
        if lock(&self.core.inbox).stop.is_some() {
            return Err(Error::unavailable("The server is stopping; try again."));
        }
        let sockets = &self.core.sockets;
        match sockets.charge(payer, 1) {
            Ok(charge) => Ok(Place {
                core: Arc::clone(&self.core),
                payer,
                charge,
            }),
            Err(exhausted) => Err(exhausted.into_error(sockets.name())),
        }
    }

    /// Totals for metrics.
    pub fn counters(&self) -> Counters {
        let totals = &self.core.totals;
        Counters {
            open: self.core.sockets.used(),
            opened: totals.opened.load(Ordering::Relaxed),
            closed: totals.closed.load(Ordering::Relaxed),
            slow_closed: totals.slow_closed.load(Ordering::Relaxed),
            dead_closed: totals.dead_closed.load(Ordering::Relaxed),
            messages_in: totals.messages_in.load(Ordering::Relaxed),
            messages_out: totals.messages_out.load(Ordering::Relaxed),
        }
    }

    /// Sends what is queued and a close with 1001 (going away) to all, as far as the deadline
    /// allows, and ends the thread. True when it has ended in time; then no [`Peer`] is left.
    pub fn stop(&self, deadline: Instant) -> bool {
        self.core.stop(deadline);
        let thread = lock(&self.thread).take();
        thread.is_none_or(|thread| threads::join_until(thread, deadline))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.core.stop(Instant::now());
    }
}

/// Tells how far the hub is behind.
pub struct Pace(Arc<Core>);

impl Pace {
    /// For how long it has not looked at what is to be sent.
    pub fn lag(&self) -> Duration {
        let since = lock(&self.0.inbox).signalled;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The right to one socket, given back when dropped.
pub struct Place {
    core: Arc<Core>,
    payer: Payer,
    charge: Charge,
}

impl Place {
    /// Hands a connection over whose 101 was sent, with the bytes that came behind the request.
    /// Never blocks. When the hub has stopped meanwhile, connection and peer are dropped.
    pub fn adopt(self, stream: Arc<TcpStream>, early: Vec<u8>, peer: Box<dyn Peer>) {
        self.take(stream, early, peer, false);
    }

    /// The same for a stream of server-sent events whose head was sent: each text is one or more whole
    /// events as they are written, and the peer receives nothing.
    pub fn adopt_stream(self, stream: Arc<TcpStream>, peer: Box<dyn Peer>) {
        self.take(stream, Vec::new(), peer, true);
    }

    fn take(self, stream: Arc<TcpStream>, early: Vec<u8>, peer: Box<dyn Peer>, is_stream: bool) {
        if let Err(error) = stream.set_nonblocking(true) {
            log::warn(format_args!("take a socket over: {error}"));
            return;
        }
        let core = Arc::clone(&self.core);
        let adoption = Adoption {
            token: core.tokens.fetch_add(1, Ordering::Relaxed),
            stream,
            early,
            is_stream,
            peer,
            place: self,
        };
        core.post(|inbox| {
            if inbox.is_over {
                // Dropped when the lock is free again: a peer may do what it likes then.
                return Some(adoption);
            }
            inbox.adoptions.push(adoption);
            None
        });
    }
}

/// What the hub thread shares with all others.
struct Core {
    settings: Settings,
    sockets: Arc<Budget>,
    outboxes: Arc<Budget>,
    /// The outbox of each socket.
    outlets: Mutex<HashMap<u64, Link>>,
    /// Written to end the wait of the thread.
    waker: OwnedFd,
    inbox: Mutex<Inbox>,
    tokens: AtomicU64,
    totals: Totals,
}

/// News for the hub thread.
#[derive(Default)]
struct Inbox {
    /// At most as many as there are places.
    adoptions: Vec<Adoption>,
    /// Sockets with news in their outbox; each at most once.
    signals: Vec<u64>,
    /// When the first of them came.
    signalled: Option<Instant>,
    /// Stopping, until then.
    stop: Option<Instant>,
    /// The thread sleeps or is about to, and has not been woken.
    is_asleep: bool,
    /// The thread has ended.
    is_over: bool,
}

struct Adoption {
    token: u64,
    stream: Arc<TcpStream>,
    early: Vec<u8>,
    /// Of events, and no WebSocket.
    is_stream: bool,
    peer: Box<dyn Peer>,
    place: Place,
}

#[derive(Default)]
struct Totals {
    opened: AtomicU64,
    closed: AtomicU64,
    slow_closed: AtomicU64,
    dead_closed: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    /// Rounds of the thread, each after a wait.
    #[cfg(test)]
    rounds: AtomicU64,
}

impl Core {
    /// Changes the inbox and wakes the thread if it sleeps. While it works it needs no waking: it
    /// looks before it sleeps.
    fn post<T>(&self, change: impl FnOnce(&mut Inbox) -> T) -> T {
        let mut inbox = lock(&self.inbox);
        let value = change(&mut inbox);
        let must_wake = std::mem::take(&mut inbox.is_asleep);
        drop(inbox);
        if must_wake {
            hub::wake(&self.waker);
        }
        value
    }

    fn stop(&self, deadline: Instant) {
        self.post(|inbox| {
            inbox.stop.get_or_insert(deadline);
        });
    }
}

#[cfg(test)]
mod tests;
