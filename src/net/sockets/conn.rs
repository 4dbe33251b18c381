//! One socket: what is done with it in its turns.
//!
//! Texts are sent in frames of at most [`FRAME_BYTES`], each when the one before is with the
//! system, so that the buffer below stays small whatever is sent.

use std::io;
use std::io::Read as _;
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message};

use crate::net::sockets::link::Order;
use crate::net::sockets::talk::Talk;
use crate::net::sockets::wire::Wire;
use crate::net::sockets::{Adoption, Core, Flow, Link, Peer, Settings, Text};

/// Texts that a socket may deliver in one turn.
const TURN_MESSAGES: usize = 64;
/// Bytes that a socket may send in one turn, and be thrown away of one that is closing.
const TURN_BYTES: usize = 256 << 10;
/// Longest frame that is sent.
const FRAME_BYTES: usize = 16 << 10;
/// Small frames are gathered up to this before they are handed to the system.
const WRITE_BYTES: usize = 4 << 10;
/// What tungstenite may keep of frames that the system does not take: one of ours, and a few short
/// ones of the protocol.
const WRITE_BYTES_MAX: usize = WRITE_BYTES + FRAME_BYTES + (4 << 10);
/// Read at a time, and kept for each socket.
const READ_BYTES: usize = 4 << 10;
/// A message that makes the buffers worth replacing.
const LARGE_BYTES: usize = 32 << 10;

/// Close codes of RFC 6455, section 7.4, and of its registry.
pub const GOING_AWAY: u16 = 1001;
const PROTOCOL_BROKEN: u16 = 1002;
const NO_BINARY: u16 = 1003;
const NO_UTF8: u16 = 1007;
const TOO_LARGE: u16 = 1009;
const OUR_FAULT: u16 = 1011;
pub const TRY_LATER: u16 = 1013;
/// What goes with [`TRY_LATER`].
const BUSY: &str = "the server is busy";

/// See [`super::accept_key`].
pub fn accept_key(key: &str) -> String {
    tungstenite::handshake::derive_accept_key(key.as_bytes())
}

/// What follows a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing until the system or somebody reports something.
    Wait,
    /// Another turn, after all the others.
    Again,
    /// The socket is at its end.
    Over(Why),
}

/// Why a socket is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Closed,
    Slow,
    Dead,
}

/// What the system shall report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// That bytes have come.
    pub reads: bool,
    /// That it takes more.
    pub writes: bool,
}

enum Phase {
    Open,
    /// Closing in order: what is queued goes out, the peer answers.
    Closing,
    /// A close was sent for a fault; what still comes is thrown away until the peer hangs up.
    Draining {
        is_shut: bool,
    },
}

/// A socket and whom it is for.
pub struct Conn {
    talk: Talk,
    peer: Box<dyn Peer>,
    link: Link,
    core: Arc<Core>,
    phase: Phase,
    /// A close that was asked for and is sent when the queue is empty.
    farewell: Option<CloseFrame>,
    /// The text that is being sent, and how much of it is with tungstenite.
    sending: Option<(Text, usize)>,
    /// The system takes no more for now.
    is_blocked: bool,
    /// Since when the peer holds it: nothing is read, and what tungstenite has read stays there.
    held_since: Option<Instant>,
    /// What epoll reports.
    pub watched: Interest,
    /// There may be something to read: epoll has said so, or there was more than a turn takes. What only
    /// sends is not read for nothing, which would be a system call for each text.
    pub may_read: bool,
    /// Epoll has reported that the connection is no more.
    pub is_cut: bool,
    /// Waits for its turn.
    pub is_queued: bool,
    /// When it is dropped, once it closes.
    pub ends_at: Option<Instant>,
    /// The hub has put `ends_at` on its list.
    pub is_listed: bool,
    ping_at: Instant,
    pings_missed: u32,
    /// Bytes that a large message takes up.
    large: usize,
}

impl Conn {
    /// Takes a connection that does not block, and tells the peer.
    pub fn new(adoption: Adoption, core: &Arc<Core>, now: Instant) -> Conn {
        let _ = adoption.stream.set_nodelay(true);
        let settings = &core.settings;
        let talk = match adoption.is_stream {
            true => Talk::events(adoption.stream),
            false => {
                let wire = Wire::new(adoption.stream, adoption.early);
                Talk::web_socket(wire, config(settings))
            }
        };
        let mut conn = Conn {
            talk,
            peer: adoption.peer,
            link: Link::new(adoption.token, adoption.place),
            core: Arc::clone(core),
            phase: Phase::Open,
            farewell: None,
            sending: None,
            is_blocked: false,
            held_since: None,
            watched: Interest {
                reads: true,
                writes: false,
            },
            may_read: true,
            is_cut: false,
            is_queued: false,
            ends_at: None,
            is_listed: false,
            ping_at: now + first_ping(adoption.token, settings.ping_every),
            pings_missed: 0,
            large: 0,
        };
        let link = conn.link.clone();
        conn.tell(now, |peer| peer.opened(link));
        conn
    }

    /// The connection below.
    pub fn stream(&self) -> &TcpStream {
        self.talk.wire().stream()
    }

    /// What the system shall report from now on.
    pub fn interest(&self) -> Interest {
        Interest {
            reads: self.held_since.is_none(),
            writes: self.is_blocked,
        }
    }

    /// Does what there is to do, within bounds. `large` is the sum of [`Conn::large`] of all.
    pub fn turn(&mut self, now: Instant, large: &mut usize) -> Turn {
        let (order, is_held) = self.link.take_news();
        if !is_held && self.held_since.take().is_some() {
            // It was we who did not listen.
            self.talk.wire_mut().has_heard = true;
        }
        match order {
            Some(Order::Drop) => return Turn::Over(Why::Slow),
            Some(Order::Close(code, reason)) if matches!(self.phase, Phase::Open) => {
                self.farewell = Some(close_frame(code, reason));
                self.begin_closing(Phase::Closing, now);
            }
            _ => {}
        }
        // A socket that is read learns this by reading, after what came before it.
        if self.is_cut && self.held_since.is_some() {
            return Turn::Over(Why::Closed);
        }
        self.talk.wire_mut().begin_turn();
        let read = match self.phase {
            Phase::Draining { .. } => Turn::Wait,
            _ if self.held_since.is_some() || !self.may_read => Turn::Wait,
            _ => self.read(now),
        };
        if let Turn::Over(_) = read {
            return read;
        }
        let written = match self.phase {
            Phase::Draining { .. } => self.drain(),
            _ => self.write(),
        };
        if read == Turn::Wait && written == Turn::Wait {
            self.slim();
        }
        let has_grown = self.weigh(large);
        if has_grown && *large > self.core.settings.large_bytes_max {
            self.fail(now, TRY_LATER, BUSY);
            let drained = self.drain();
            // So that its bytes do not count against the others any more.
            self.weigh(large);
            return drained;
        }
        match written {
            Turn::Wait => read,
            _ => written,
        }
    }

    /// What is due with time. Called now and then.
    pub fn tick(&mut self, now: Instant) -> Turn {
        if !matches!(self.phase, Phase::Open) {
            return Turn::Wait;
        }
        let settings = &self.core.settings;
        if let Some(since) = self.held_since
            && now.saturating_duration_since(since) >= settings.hold_max
        {
            self.link.close(TRY_LATER, BUSY);
            return Turn::Wait;
        }
        if now < self.ping_at {
            return Turn::Wait;
        }
        let is_silent = self.held_since.is_some() || !self.talk.is_answered();
        let has_heard = std::mem::take(&mut self.talk.wire_mut().has_heard) || is_silent;
        self.pings_missed = if has_heard { 0 } else { self.pings_missed + 1 };
        if self.pings_missed >= settings.missed_pings_max {
            return Turn::Over(Why::Dead);
        }
        self.ping_at = now + settings.ping_every;
        // A peer that takes what is sent shows its life by that.
        if self.is_blocked {
            return Turn::Wait;
        }
        let ping = self.talk.write(Message::Ping(Vec::new().into()));
        match self.settle(ping) {
            Turn::Wait => self.flush(),
            over => over,
        }
    }

    /// Ends it: nothing is sent or received any more, and the peer is told.
    pub fn end(self) {
        self.link.end();
        let _ = self.stream().shutdown(Shutdown::Both);
        let Conn { mut peer, .. } = self;
        let _ = catch_unwind(AssertUnwindSafe(move || {
            peer.closed();
            drop(peer);
        }));
    }

    /// Bytes that a large message takes up, complete or not.
    pub fn large(&self) -> usize {
        self.large
    }

    /// Asks for an orderly close.
    pub fn close(&self, code: u16, reason: &str) {
        self.link.close(code, reason);
    }

    fn read(&mut self, now: Instant) -> Turn {
        for _ in 0..TURN_MESSAGES {
            match self.talk.read() {
                Ok(Message::Text(text)) => {
                    let totals = &self.core.totals;
                    totals.messages_in.fetch_add(1, Relaxed);
                    if self.link.begin_delivery() {
                        let flow = self.tell(now, |peer| peer.received(&text));
                        if flow == Some(Flow::Hold) && self.link.hold() {
                            self.held_since = Some(now);
                            return Turn::Wait;
                        }
                    }
                }
                Ok(Message::Binary(_)) => self.fail(now, NO_BINARY, "only text is taken"),
                Ok(Message::Close(_)) => {
                    // The answer is on its way already.
                    self.link.shut();
                    self.sending = None;
                    self.farewell = None;
                    self.begin_closing(Phase::Closing, now);
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match self.talk.wire().is_exhausted() {
                        true => Turn::Again,
                        false => {
                            self.may_read = false;
                            Turn::Wait
                        }
                    };
                }
                Err(Error::Capacity(_)) => self.fail(now, TOO_LARGE, "the message is too large"),
                Err(Error::Utf8(_)) => self.fail(now, NO_UTF8, "the text is not UTF-8"),
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    return Turn::Over(Why::Closed);
                }
                Err(Error::Protocol(_)) => self.fail(now, PROTOCOL_BROKEN, "not a WebSocket frame"),
                Err(_) => return Turn::Over(Why::Closed),
            }
            if let Phase::Draining { .. } = self.phase {
                return Turn::Wait;
            }
        }
        Turn::Again
    }

    fn write(&mut self) -> Turn {
        if self.is_blocked {
            match self.flush() {
                Turn::Wait if !self.is_blocked => self.talk.wire_mut().has_heard = true,
                turn => return turn,
            }
        }
        let mut sent = 0;
        while sent < TURN_BYTES {
            let Some(frame) = self.next_frame() else {
                return self.part();
            };
            sent += frame.len();
            let written = self.talk.write(Message::Frame(frame));
            match self.settle(written) {
                Turn::Wait if !self.is_blocked => {}
                turn => return turn,
            }
        }
        Turn::Again
    }

    /// The next piece of what is queued.
    fn next_frame(&mut self) -> Option<Frame> {
        let is_done = |sending: &(Text, usize)| sending.1 > 0 && sending.1 >= sending.0.len();
        if self.sending.as_ref().is_none_or(is_done) {
            let before = self.sending.take();
            if before.is_some() {
                let totals = &self.core.totals;
                totals.messages_out.fetch_add(1, Relaxed);
            }
            let before = before.as_ref().map(|(text, _)| &**text);
            self.sending = self.link.next(before).map(|text| (text, 0));
        }
        let (text, at) = self.sending.as_mut()?;
        let end = text.len().min(*at + FRAME_BYTES);
        let piece = text.as_bytes()[*at..end].to_vec();
        let kind = if *at == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(piece, OpCode::Data(kind), end == text.len());
        // One past the end marks an empty text as sent.
        *at = end.max(1);
        Some(frame)
    }

    /// Nothing is left to be sent, except a farewell.
    fn part(&mut self) -> Turn {
        let Some(farewell) = self.farewell.take() else {
            return self.flush();
        };
        let sent = self.talk.close(farewell);
        self.settle(sent)
    }

    /// Throws away what comes after a fault.
    fn drain(&mut self) -> Turn {
        let Phase::Draining { is_shut } = self.phase else {
            return Turn::Wait;
        };
        if !is_shut {
            match self.flush() {
                Turn::Wait if !self.is_blocked => {
                    let _ = self.stream().shutdown(Shutdown::Write);
                    self.renew();
                    self.phase = Phase::Draining { is_shut: true };
                }
                Turn::Wait => {}
                turn => return turn,
            }
        }
        let mut waste = [0; READ_BYTES];
        for _ in 0..TURN_BYTES / READ_BYTES {
            match self.stream().read(&mut waste) {
                Ok(size) if size > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Ok(_) | Err(_) => return Turn::Over(Why::Closed),
            }
        }
        Turn::Again
    }

    fn flush(&mut self) -> Turn {
        let flushed = self.talk.flush();
        self.settle(flushed)
    }

    /// What the result of writing means. What the system did not take is kept by tungstenite.
    fn settle(&mut self, written: tungstenite::Result<()>) -> Turn {
        self.is_blocked = false;
        match written {
            Ok(()) => Turn::Wait,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Turn::Wait
            }
            Err(_) => Turn::Over(Why::Closed),
        }
    }

    /// Closes because of what the peer has sent, or of what we did with it.
    fn fail(&mut self, now: Instant, code: u16, reason: &str) {
        self.link.shut();
        self.sending = None;
        self.farewell = None;
        // Where closing has begun, that is what the peer is told.
        if let Phase::Open = self.phase {
            let sent = self.talk.close(close_frame(code, reason.to_owned()));
            self.settle(sent);
        }
        self.begin_closing(Phase::Draining { is_shut: false }, now);
    }

    fn begin_closing(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        // What comes is not for the peer any more.
        self.held_since = None;
        let end = now + self.core.settings.close_grace;
        self.ends_at.get_or_insert(end);
    }

    /// Calls the peer; a panic of it closes the socket.
    fn tell<T>(&mut self, now: Instant, call: impl FnOnce(&mut dyn Peer) -> T) -> Option<T> {
        let peer = &mut *self.peer;
        let value = catch_unwind(AssertUnwindSafe(|| call(peer))).ok();
        if value.is_none() {
            self.fail(now, OUR_FAULT, "an error of the server");
        }
        value
    }

    /// Counts what a large message takes up into the sum; true when that is more than before.
    fn weigh(&mut self, sum: &mut usize) -> bool {
        let frames = &self.talk.wire().frames;
        let large = match frames.unfinished().max(frames.longest()) {
            bytes if bytes >= LARGE_BYTES => bytes,
            _ => 0,
        };
        let has_grown = large > self.large;
        *sum = *sum - self.large + large;
        self.large = large;
        has_grown
    }

    /// Lets go of buffers that a large message has left, when they are empty.
    fn slim(&mut self) {
        let frames = &self.talk.wire().frames;
        // What a held socket has read may end with a message, and yet be unused.
        let is_empty = frames.is_between() && self.held_since.is_none();
        let is_due = is_empty && frames.longest() >= LARGE_BYTES;
        if is_due && !self.is_blocked && matches!(self.phase, Phase::Open) {
            self.renew();
        }
    }

    /// Begins with new buffers.
    fn renew(&mut self) {
        self.talk.renew(config(&self.core.settings));
    }
}

fn config(settings: &Settings) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(WRITE_BYTES_MAX)
        .max_message_size(Some(settings.message_bytes_max))
        .max_frame_size(Some(settings.message_bytes_max))
}

fn close_frame(code: u16, reason: String) -> CloseFrame {
    CloseFrame {
        code: code.into(),
        reason: reason.into(),
    }
}

/// Between half and all of the pause, evenly over tokens in a row.
fn first_ping(token: u64, every: Duration) -> Duration {
    // Multiples of the golden ratio lie evenly between two whole numbers.
    let part = token.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    every / 2 + every / 2 * u32::try_from(part).unwrap_or(0) / 1024
}
