//! The state that the hub thread shares with other threads, and their ways to it: a [`Permit`]
//! registers a socket, a [`SocketHandle`] sends to it.
//!
//! Another thread changes a send queue or the inbox and wakes the hub thread if that sleeps. It
//! never waits for a socket.
//!
//! Locks: the inbox, the map of send queues and each send queue have a lock of their own. No thread
//! holds two of them at once.

use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::send_queue::{
    Order, Reading, SLOTS_FREE, SendQueue, SendQueueState, Text, borrow_from_dropped, cost,
    select_to_drop,
};
use super::transport::TRY_LATER;
use crate::base::budget::{Budget, Charge, Exhausted, Payer};
use crate::base::log;
use crate::base::threads::lock;

/// Longest reason of a close (RFC 6455, section 5.5).
const REASON_BYTES_MAX: usize = 123;
/// Attempts to make room for a text: one for each bound that can refuse it, and one to use the room
/// that the last one made.
const ROOM_ATTEMPTS: usize = 4;

/// Limits of one socket, and of what all sockets together receive. Budgets limit the rest.
#[derive(Clone, Copy, Debug)]
pub struct HubSettings {
    /// Bytes of a received message. A longer one closes the socket with 1009.
    pub message_bytes_max: usize,
    /// Bytes that wait to be sent to one socket. A single message may be longer.
    pub send_queue_bytes_max: usize,
    /// Bytes of unfinished large messages, for all sockets. A socket that exceeds it is closed.
    pub large_bytes_max: usize,
    /// Interval between two pings of a socket.
    pub ping_every: Duration,
    /// Pings in a row without any received byte after which a socket is dropped.
    pub missed_pings_max: u32,
    /// Longest pause that a handler may request. After it the socket is closed with 1013.
    pub pause_max: Duration,
    /// Time for the other side to complete the closing handshake.
    pub close_grace: Duration,
}

impl Default for HubSettings {
    fn default() -> HubSettings {
        HubSettings {
            message_bytes_max: 1 << 20,
            send_queue_bytes_max: 1 << 20,
            large_bytes_max: 64 << 20,
            ping_every: Duration::from_secs(20),
            missed_pings_max: 2,
            pause_max: Duration::from_secs(60),
            close_grace: Duration::from_secs(2),
        }
    }
}

/// The answer of a handler to a text: read on, or pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// Stop reading until [`SocketHandle::resume`], for [`HubSettings::pause_max`] at most. Texts
    /// that arrive meanwhile are delivered afterwards, in order. They are lost if the socket is
    /// closed or reset before.
    ///
    /// Invariant: the socket is paused only while no resume was called since the call of
    /// [`SocketHandler::received`] that returned this began. A resume that is called during that
    /// call, before the hub knows of the pause, is therefore not lost, and an earlier one has no
    /// effect. So a handler pauses because of a state that it sees during the call, and the thread
    /// that changes the state resumes after the change. A resume that was meant for an earlier
    /// state but arrives during the call also cancels the pause: the handler then receives one more
    /// text and may pause again.
    Pause,
}

/// The code behind a socket. The hub thread makes all calls, so they must not block. A panic in one
/// of them closes this socket only.
pub trait SocketHandler: Send {
    /// The first call.
    fn opened(&mut self, handle: SocketHandle);
    /// Called for each text, but not after [`SocketHandle::close`] or after the other side has
    /// closed.
    fn received(&mut self, text: &str) -> Flow;
    /// The last call, however the socket ended.
    fn closed(&mut self);
}

/// The state shared by the hub thread and all others.
pub struct Shared {
    pub settings: HubSettings,
    /// Charged for each socket.
    pub sockets: Arc<Budget>,
    /// Charged for bytes that wait to be sent.
    pub send_queue_bytes: Arc<Budget>,
    /// By token.
    pub send_queues: Mutex<HashMap<u64, Arc<SendQueue>>>,
    /// Ends the wait of the thread when written.
    pub waker: OwnedFd,
    pub inbox: Mutex<Inbox>,
    pub tokens: AtomicU64,
    pub totals: HubTotals,
}

/// Events for the hub thread.
#[derive(Default)]
pub struct Inbox {
    /// At most as many as there are permits.
    pub registrations: Vec<Registration>,
    /// Sockets whose send queue has changed; each at most once.
    pub signals: Vec<u64>,
    /// When the first of the signals was added.
    pub signalled: Option<Instant>,
    /// Deadline of a stop in progress.
    pub stop: Option<Instant>,
    /// The thread sleeps, or is about to, and has not been woken.
    pub is_asleep: bool,
    /// The thread has ended.
    pub is_over: bool,
}

/// A connection on its way to the hub thread.
pub struct Registration {
    pub token: u64,
    pub stream: Arc<TcpStream>,
    /// Bytes that the client sent behind its request.
    pub early: Vec<u8>,
    /// A stream of server-sent events, not a WebSocket.
    pub is_stream: bool,
    pub handler: Box<dyn SocketHandler>,
    pub permit: Permit,
}

#[derive(Default)]
pub struct HubTotals {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub slow_closed: AtomicU64,
    pub dead_closed: AtomicU64,
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    /// Rounds of the thread, each after a wait.
    #[cfg(test)]
    pub rounds: AtomicU64,
}

impl Shared {
    /// Changes the inbox and wakes the thread if it sleeps. A working thread needs no wake-up: it
    /// checks the inbox before it sleeps.
    pub fn post<T>(&self, change: impl FnOnce(&mut Inbox) -> T) -> T {
        let mut inbox = lock(&self.inbox);
        let value = change(&mut inbox);
        let must_wake = std::mem::take(&mut inbox.is_asleep);
        drop(inbox);
        if must_wake {
            // A full counter means a wake-up is already pending.
            let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
        }
        value
    }

    pub fn stop(&self, deadline: Instant) {
        self.post(|inbox| {
            inbox.stop.get_or_insert(deadline);
        });
    }

    fn all_send_queues(&self) -> Vec<Arc<SendQueue>> {
        lock(&self.send_queues).values().cloned().collect()
    }

    /// Changes a send queue, and notifies the hub if `change` returns true and it is not notified
    /// yet.
    fn change<T>(
        &self,
        send_queue: &SendQueue,
        change: impl FnOnce(&mut SendQueueState) -> (T, bool),
    ) -> T {
        let mut state = lock(&send_queue.state);
        let (value, must_notify) = change(&mut state);
        let must_signal = must_notify && !state.is_signalled;
        state.is_signalled |= must_notify;
        drop(state);
        if must_signal {
            self.post(|inbox| {
                inbox.signals.push(send_queue.token);
                inbox.signalled.get_or_insert_with(Instant::now);
            });
        }
        value
    }

    /// Drops a socket as too slow.
    fn drop_slow(&self, send_queue: &SendQueue) {
        let cleared = self.change(send_queue, |state| {
            if !state.is_open {
                return (VecDeque::new(), false);
            }
            state.order = Some(Order::Drop);
            (state.close(), true)
        });
        drop(cleared);
    }

    /// Drops the sockets with the fullest send queues of a share; see [`select_to_drop`].
    fn make_room(&self, payer: Payer, bound: Exhausted, needed: usize) -> bool {
        let (budget, all) = (&self.send_queue_bytes, self.all_send_queues());
        let (selected, is_enough) = select_to_drop(all, budget, payer, bound, needed);
        for send_queue in selected {
            self.drop_slow(&send_queue);
        }
        is_enough
    }
}

/// The right to one socket, released when dropped.
pub struct Permit {
    pub shared: Arc<Shared>,
    pub payer: Payer,
    pub charge: Charge,
}

impl Permit {
    /// Registers a connection whose 101 response was sent. `early` are the bytes that followed the
    /// request. Never blocks. If the hub has stopped, connection and handler are dropped.
    pub fn register(self, stream: Arc<TcpStream>, early: Vec<u8>, handler: Box<dyn SocketHandler>) {
        self.hand_over(stream, early, handler, false);
    }

    /// Registers a stream of server-sent events whose response head was sent. Each text must be one
    /// or more complete encoded events, and the handler receives none.
    pub fn register_stream(self, stream: Arc<TcpStream>, handler: Box<dyn SocketHandler>) {
        self.hand_over(stream, Vec::new(), handler, true);
    }

    fn hand_over(
        self,
        stream: Arc<TcpStream>,
        early: Vec<u8>,
        handler: Box<dyn SocketHandler>,
        is_stream: bool,
    ) {
        if let Err(error) = stream.set_nonblocking(true) {
            log::warn(format_args!("register a socket: {error}"));
            return;
        }
        let shared = Arc::clone(&self.shared);
        let registration = Registration {
            token: shared.tokens.fetch_add(1, Ordering::Relaxed),
            stream,
            early,
            is_stream,
            handler,
            permit: self,
        };
        shared.post(|inbox| {
            if inbox.is_over {
                // Dropped after the lock is released, because a handler may run any code then.
                return Some(registration);
            }
            inbox.registrations.push(registration);
            None
        });
    }
}

/// Sends to one socket, from any thread. A handle does not keep the socket open.
#[derive(Clone)]
pub struct SocketHandle {
    send_queue: Arc<SendQueue>,
    shared: Arc<Shared>,
}

/// The result of queuing a text.
enum Queued {
    Yes,
    /// The socket is closed, or dropped because of this text.
    No,
    /// The bound that refused the charge.
    Refused(Text, Payer, Exhausted),
}

impl SocketHandle {
    pub fn new(token: u64, permit: Permit) -> SocketHandle {
        let Permit {
            shared,
            payer,
            charge,
        } = permit;
        let send_queue = Arc::new(SendQueue::new(token, payer, charge));
        lock(&shared.send_queues).insert(token, Arc::clone(&send_queue));
        SocketHandle { send_queue, shared }
    }

    /// Queues a text without waiting. Returns false if the socket is closed, or is dropped because
    /// of this text: its send queue would exceed its bound, so the client is too slow, or the
    /// budget has no room and no other socket can be dropped for it. A text is queued without a
    /// charge only in place of bytes that dropped sockets still hold.
    pub fn send(&self, text: Text) -> bool {
        let mut queued = self.queue(text, true);
        for _ in 0..ROOM_ATTEMPTS {
            let Queued::Refused(text, payer, bound) = queued else {
                break;
            };
            let (shared, needed) = (&self.shared, cost(&text));
            if borrow_from_dropped(shared.all_send_queues(), payer, bound, needed) {
                queued = self.queue(text, false);
                break;
            }
            let has_room = shared.make_room(payer, bound, needed);
            queued = self.queue(text, true);
            if !has_room {
                break;
            }
        }
        if let Queued::Refused(..) = queued {
            self.shared.drop_slow(&self.send_queue);
        }
        matches!(queued, Queued::Yes)
    }

    fn queue(&self, text: Text, is_paid: bool) -> Queued {
        let mut cleared = VecDeque::new();
        let queued = self.shared.change(&self.send_queue, |state| {
            if !state.is_open {
                return (Queued::No, false);
            }
            let bytes = state.bytes + cost(&text);
            // An empty send queue accepts a message of any length; the sender decides about that.
            if state.bytes > 0 && bytes > self.shared.settings.send_queue_bytes_max {
                state.order = Some(Order::Drop);
                cleared = state.close();
                return (Queued::No, true);
            }
            if is_paid && let Err(bound) = state.pay(&text, &self.shared.send_queue_bytes) {
                return (Queued::Refused(text, state.payer, bound), false);
            }
            state.bytes = bytes;
            state.texts.push_back(text);
            (Queued::Yes, true)
        });
        drop(cleared);
        queued
    }

    /// Sends what is queued, then closes. Afterwards nothing more is sent or received. The reason
    /// is truncated to what a close frame can carry.
    pub fn close(&self, code: u16, reason: &str) {
        self.shared.change(&self.send_queue, |state| {
            if !state.is_open {
                return ((), false);
            }
            let mut end = reason.len().min(REASON_BYTES_MAX);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            state.is_open = false;
            state.order = Some(Order::Close(code, reason[..end].to_owned()));
            ((), true)
        });
    }

    /// Ends a pause; see [`Flow::Pause`]. Harmless at any time, from any thread, and repeatedly.
    pub fn resume(&self) {
        self.shared.change(&self.send_queue, |state| {
            let before = std::mem::replace(&mut state.reading, Reading::Resumed);
            ((), before == Reading::Paused)
        });
    }

    /// True if the send queue is less than half full, or closed.
    pub fn has_room(&self) -> bool {
        let state = lock(&self.send_queue.state);
        !state.is_open || state.bytes < self.shared.settings.send_queue_bytes_max / 2
    }

    /// True if a text would still be queued.
    #[cfg_attr(not(test), expect(dead_code, reason = "no handler asks yet"))]
    pub fn is_open(&self) -> bool {
        lock(&self.send_queue.state).is_open
    }

    #[cfg(test)]
    pub fn is_paused(&self) -> bool {
        lock(&self.send_queue.state).reading == Reading::Paused
    }

    /// The payer for what the client makes the server hold.
    pub fn payer(&self) -> Payer {
        lock(&self.send_queue.state).payer
    }

    /// Sets whether the client has shown valid credentials. The socket is closed if the share of
    /// sockets without credentials has no room for it.
    pub fn set_has_credentials(&self, has_credentials: bool) {
        let mut state = lock(&self.send_queue.state);
        state.payer.has_credentials = has_credentials;
        let SendQueueState { socket, slots, .. } = &mut *state;
        let mut charges = socket.iter_mut().chain(slots);
        let is_refused = charges.any(|charge| charge.set_has_credentials(has_credentials).is_err());
        drop(state);
        if is_refused {
            self.close(TRY_LATER, "too many sockets without credentials");
        }
    }

    /// Closes the send queue and discards what is queued.
    pub fn discard(&self) {
        let mut state = lock(&self.send_queue.state);
        let left = (state.close(), state.sending.take());
        state.bytes = 0;
        drop(state);
        drop(left);
    }

    /// Called when the socket has ended.
    pub fn end(&self) {
        self.discard();
        lock(&self.send_queue.state).socket = None;
        lock(&self.shared.send_queues).remove(&self.send_queue.token);
    }

    /// Takes the pending order, and returns true if the socket is paused. Later changes notify the
    /// hub again.
    pub fn take_orders(&self) -> (Option<Order>, bool) {
        let mut state = lock(&self.send_queue.state);
        state.is_signalled = false;
        (state.order.take(), state.reading == Reading::Paused)
    }

    /// Called before the handler receives a text: a resume from here on cancels its pause. Returns
    /// false if the handler must not receive any.
    pub fn begin_delivery(&self) -> bool {
        let mut state = lock(&self.send_queue.state);
        state.reading = Reading::Allowed;
        state.is_open
    }

    /// Pauses the socket. Returns false if it was resumed since the delivery began.
    pub fn pause(&self) -> bool {
        let mut state = lock(&self.send_queue.state);
        if state.reading == Reading::Allowed {
            state.reading = Reading::Paused;
        }
        state.reading == Reading::Paused
    }

    /// Returns the next text to send. `before` is the previous one, which the system now has.
    pub fn next(&self, before: Option<&str>) -> Option<Text> {
        let mut state = lock(&self.send_queue.state);
        if let Some(text) = before {
            state.bytes = state.bytes.saturating_sub(cost(text));
        }
        let text = state.texts.pop_front();
        state.sending = text.clone();
        if text.is_none() {
            if state.texts.capacity() > SLOTS_FREE {
                state.texts = VecDeque::new();
            }
            state.slots = None;
        }
        text
    }
}
