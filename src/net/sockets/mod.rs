//! WebSockets and streams of server-sent events: one thread, the hub, owns all of them.
//!
//! The hub receives connections whose response head was sent, calls a [`SocketHandler`] for each of
//! them, and gives out [`SocketHandle`]s through which any thread sends. It waits in epoll only. A
//! send queues a text and wakes the hub if that sleeps. A socket whose send queue would exceed its
//! bound is too slow and is dropped; no thread waits for it. If all send queues together reach
//! their budget, the fullest are dropped.
//!
//! The hub serves each socket in turns. A turn is bounded in messages and bytes, so that a busy
//! socket does not starve the others; a socket with work left gets another turn after all others.
//! Further turns also read what remains in the buffers of tungstenite, which epoll does not see.
//! epoll is level-triggered, so bytes that a turn leaves in the kernel are reported again.
//!
//! The hub pings silent clients, at times spread over the sockets. Any received byte counts as a
//! sign of life. If a client breaks the protocol or a limit, the hub sends a close code, discards
//! further bytes for a moment so that the code arrives, and drops the socket.
//!
//! A handler can pause its socket, see [`Flow::Pause`]. The hub then stops reading, and the receive
//! window of TCP stops the client. Sending, closing and pings continue (pings keep proxies from
//! closing the connection), but unanswered pings do not count, since pongs cannot be read. The end
//! of a paused socket is noticed when the connection is reset.
//!
//! A socket costs a read buffer of 4 KiB and about one more KiB. Buffers that a large message has
//! grown are released, and all unfinished large messages together are bounded.
//!
//! Files: `hub` is the thread, `conn` one socket, `transport` the two protocols over a connection,
//! `wire` the byte stream below tungstenite, `send_queue` what waits to be sent, `shared` the state
//! that other threads reach.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::budget::{Budget, Payer};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads;
use crate::base::threads::lock;

pub use backlog::FrameBacklog;
pub use send_queue::Text;
pub use shared::{Flow, HubSettings, Permit, SocketHandle, SocketHandler};
pub use transport::accept_key;

use shared::Shared;

mod backlog;
mod conn;
mod hub;
mod send_queue;
mod shared;
mod transport;
mod wire;

/// Totals since the start, except `open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubCounters {
    /// Open sockets and unused permits.
    pub open: u64,
    /// Sockets registered.
    pub opened: u64,
    /// Sockets ended.
    pub closed: u64,
    /// Of these, dropped because the client did not read.
    pub slow_closed: u64,
    /// Of these, dropped because the client did not answer pings.
    pub dead_closed: u64,
    /// Texts received.
    pub messages_in: u64,
    /// Texts passed to the system completely.
    pub messages_out: u64,
}

/// Owner of all sockets. Dropping it without [`Hub::stop`] drops all sockets at once.
pub struct Hub {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    /// Starts the thread. `sockets` limits the number of sockets, `send_queue_bytes` the bytes that
    /// wait to be sent.
    pub fn start(
        settings: HubSettings,
        sockets: &Arc<Budget>,
        send_queue_bytes: &Arc<Budget>,
    ) -> Result<Hub> {
        let driver = hub::prepare(settings, sockets, send_queue_bytes).context("start the hub")?;
        let shared = Arc::clone(&driver.shared);
        let thread = threads::spawn("sockets", move || driver.run())?;
        Ok(Hub {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub fn pace(&self) -> Pace {
        Pace(Arc::clone(&self.shared))
    }

    /// Reserves one socket for a payer. Fails if the budget has no room or the hub is stopping.
    pub fn reserve(&self, payer: Payer) -> Result<Permit> {
        if lock(&self.shared.inbox).stop.is_some() {
            return Err(Error::unavailable("The server is stopping; try again."));
        }
        let sockets = &self.shared.sockets;
        match sockets.charge(payer, 1) {
            Ok(charge) => Ok(Permit {
                shared: Arc::clone(&self.shared),
                payer,
                charge,
            }),
            Err(exhausted) => Err(exhausted.into_error(sockets.name())),
        }
    }

    pub fn counters(&self) -> HubCounters {
        let totals = &self.shared.totals;
        HubCounters {
            open: self.shared.sockets.used(),
            opened: totals.opened.load(Ordering::Relaxed),
            closed: totals.closed.load(Ordering::Relaxed),
            slow_closed: totals.slow_closed.load(Ordering::Relaxed),
            dead_closed: totals.dead_closed.load(Ordering::Relaxed),
            messages_in: totals.messages_in.load(Ordering::Relaxed),
            messages_out: totals.messages_out.load(Ordering::Relaxed),
        }
    }

    /// Sends what is queued and a close with 1001 (going away) to all sockets, as far as the
    /// deadline allows, and ends the thread. Returns true if it has ended in time; then no handler
    /// is left.
    pub fn stop(&self, deadline: Instant) -> bool {
        self.shared.stop(deadline);
        let thread = lock(&self.thread).take();
        thread.is_none_or(|thread| threads::join_until(thread, deadline))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stop(Instant::now());
    }
}

/// Tells how far the hub is behind.
pub struct Pace(Arc<Shared>);

impl Pace {
    /// The time since the oldest send that the hub has not looked at.
    pub fn lag(&self) -> Duration {
        let since = lock(&self.0.inbox).signalled;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

#[cfg(test)]
mod tests;
