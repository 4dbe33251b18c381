//! One socket, and the work of its turns.
//!
//! Texts are sent in frames of at most [`FRAME_BYTES`]. The next frame is written only when the
//! system has the previous one, so that the buffer of tungstenite stays small whatever is sent.

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

use super::send_queue::{Order, Text};
use super::shared::{Flow, HubSettings, Registration, Shared, SocketHandle, SocketHandler};
use super::transport::{
    INTERNAL_ERROR, INVALID_UTF8, MESSAGE_TOO_BIG, PROTOCOL_ERROR, Protocol, TRY_LATER,
    UNSUPPORTED_DATA,
};
use super::wire::Wire;

/// Texts received from a socket in one turn.
const TURN_MESSAGES: usize = 64;
/// Bytes sent to a socket in one turn, and discarded from one that is closing.
const TURN_BYTES: usize = 256 << 10;
/// Longest frame sent.
const FRAME_BYTES: usize = 16 << 10;
/// Bytes of small frames collected before a write to the system.
const WRITE_BYTES: usize = 4 << 10;
/// Bytes that tungstenite may hold when the system accepts no more: one of our frames, and a few
/// short control frames.
const WRITE_BYTES_MAX: usize = WRITE_BYTES + FRAME_BYTES + (4 << 10);
/// The read buffer of each socket.
const READ_BYTES: usize = 4 << 10;
/// Message size from which the buffers are replaced afterwards.
const LARGE_BYTES: usize = 32 << 10;

/// The reason sent with [`TRY_LATER`].
const BUSY: &str = "the server is busy";

/// The action of the hub after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Wait until epoll or another thread reports the socket.
    Wait,
    /// Another turn, after those of all other sockets.
    Again,
    /// Remove the socket.
    End(EndReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    Closed,
    /// The client does not read.
    Slow,
    /// The client does not answer pings.
    Dead,
}

/// The events that epoll reports of a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Bytes can be read.
    pub reads: bool,
    /// Bytes can be written.
    pub writes: bool,
}

enum Phase {
    Open,
    /// An orderly close: what is queued is sent, and the client answers the close.
    Closing,
    /// A close was sent because of a fault. Input is discarded until the client disconnects.
    Draining {
        is_shut: bool,
    },
}

/// A socket and its handler.
pub struct Conn {
    protocol: Protocol,
    handler: Box<dyn SocketHandler>,
    handle: SocketHandle,
    shared: Arc<Shared>,
    phase: Phase,
    /// A requested close, sent when the queue is empty.
    pending_close: Option<CloseFrame>,
    /// The text being sent, and the number of its bytes that tungstenite has.
    sending: Option<(Text, usize)>,
    /// The system accepts no more bytes for now.
    is_blocked: bool,
    /// When the handler paused it. Nothing is read, and what tungstenite has read stays there.
    paused_since: Option<Instant>,
    /// The events registered with epoll.
    pub watched: Interest,
    /// There may be something to read: epoll has reported it, or the last turn left some. This
    /// saves a system call per text on sockets that only send.
    pub may_read: bool,
    /// epoll has reported the end of the connection.
    pub is_broken: bool,
    /// It waits for a turn.
    pub is_queued: bool,
    /// When to drop it; set when closing begins.
    pub ends_at: Option<Instant>,
    /// The hub has `ends_at` in its list.
    pub is_listed: bool,
    ping_at: Instant,
    pings_missed: u32,
    /// Bytes held by a large message.
    large: usize,
}

impl Conn {
    /// Takes over a non-blocking connection and calls its handler.
    pub fn new(registration: Registration, shared: &Arc<Shared>, now: Instant) -> Conn {
        let _ = registration.stream.set_nodelay(true);
        let settings = &shared.settings;
        let protocol = match registration.is_stream {
            true => Protocol::events(registration.stream),
            false => {
                let wire = Wire::new(registration.stream, registration.early);
                Protocol::web_socket(wire, config(settings))
            }
        };
        let mut conn = Conn {
            protocol,
            handler: registration.handler,
            handle: SocketHandle::new(registration.token, registration.permit),
            shared: Arc::clone(shared),
            phase: Phase::Open,
            pending_close: None,
            sending: None,
            is_blocked: false,
            paused_since: None,
            watched: Interest {
                reads: true,
                writes: false,
            },
            may_read: true,
            is_broken: false,
            is_queued: false,
            ends_at: None,
            is_listed: false,
            ping_at: now + first_ping(registration.token, settings.ping_every),
            pings_missed: 0,
            large: 0,
        };
        let handle = conn.handle.clone();
        conn.call_handler(now, |handler| handler.opened(handle));
        conn
    }

    pub fn stream(&self) -> &TcpStream {
        self.protocol.wire().stream()
    }

    pub fn interest(&self) -> Interest {
        Interest {
            reads: self.paused_since.is_none(),
            writes: self.is_blocked,
        }
    }

    /// Sends and receives, within the bounds of a turn. `large` is the sum of [`Conn::large`] over
    /// all sockets.
    pub fn turn(&mut self, now: Instant, large: &mut usize) -> Turn {
        let (order, is_paused) = self.handle.take_orders();
        if !is_paused && self.paused_since.take().is_some() {
            // Silence during the pause is not the client's fault.
            self.protocol.wire_mut().has_received = true;
        }
        match order {
            Some(Order::Drop) => return Turn::End(EndReason::Slow),
            Some(Order::Close(code, reason)) if matches!(self.phase, Phase::Open) => {
                self.pending_close = Some(close_frame(code, reason));
                self.begin_closing(Phase::Closing, now);
            }
            _ => {}
        }
        // If the socket is read, reading reports this, after the bytes that arrived before.
        if self.is_broken && self.paused_since.is_some() {
            return Turn::End(EndReason::Closed);
        }
        self.protocol.wire_mut().begin_turn();
        let read = match self.phase {
            Phase::Draining { .. } => Turn::Wait,
            _ if self.paused_since.is_some() || !self.may_read => Turn::Wait,
            _ => self.read(now),
        };
        if let Turn::End(_) = read {
            return read;
        }
        let written = match self.phase {
            Phase::Draining { .. } => self.drain(),
            _ => self.write(),
        };
        if read == Turn::Wait && written == Turn::Wait {
            self.shrink();
        }
        let has_grown = self.count_large(large);
        if has_grown && *large > self.shared.settings.large_bytes_max {
            self.fail(now, TRY_LATER, BUSY);
            let drained = self.drain();
            // Its bytes no longer count against the others.
            self.count_large(large);
            return drained;
        }
        match written {
            Turn::Wait => read,
            _ => written,
        }
    }

    /// Does what is due by time: pings, and the ends of pauses and silent sockets.
    pub fn tick(&mut self, now: Instant) -> Turn {
        if !matches!(self.phase, Phase::Open) {
            return Turn::Wait;
        }
        let settings = &self.shared.settings;
        if let Some(since) = self.paused_since
            && now.saturating_duration_since(since) >= settings.pause_max
        {
            self.handle.close(TRY_LATER, BUSY);
            return Turn::Wait;
        }
        if now < self.ping_at {
            return Turn::Wait;
        }
        let need_not_answer = self.paused_since.is_some() || !self.protocol.answers_pings();
        let is_alive =
            std::mem::take(&mut self.protocol.wire_mut().has_received) || need_not_answer;
        self.pings_missed = if is_alive { 0 } else { self.pings_missed + 1 };
        if self.pings_missed >= settings.missed_pings_max {
            return Turn::End(EndReason::Dead);
        }
        self.ping_at = now + settings.ping_every;
        // A blocked socket shows that its client lives when the system accepts bytes again.
        if self.is_blocked {
            return Turn::Wait;
        }
        let ping = self.protocol.write(Message::Ping(Vec::new().into()));
        match self.check_write(ping) {
            Turn::Wait => self.flush(),
            over => over,
        }
    }

    /// Ends the socket and calls its handler a last time.
    pub fn end(self) {
        self.handle.end();
        let _ = self.stream().shutdown(Shutdown::Both);
        let Conn { mut handler, .. } = self;
        let _ = catch_unwind(AssertUnwindSafe(move || {
            handler.closed();
            drop(handler);
        }));
    }

    /// Bytes held by a large message, complete or not.
    pub fn large(&self) -> usize {
        self.large
    }

    /// Requests an orderly close.
    pub fn close(&self, code: u16, reason: &str) {
        self.handle.close(code, reason);
    }

    fn read(&mut self, now: Instant) -> Turn {
        for _ in 0..TURN_MESSAGES {
            match self.protocol.read() {
                Ok(Message::Text(text)) => {
                    let totals = &self.shared.totals;
                    totals.messages_in.fetch_add(1, Relaxed);
                    if self.handle.begin_delivery() {
                        let flow = self.call_handler(now, |handler| handler.received(&text));
                        if flow == Some(Flow::Pause) && self.handle.pause() {
                            self.paused_since = Some(now);
                            return Turn::Wait;
                        }
                    }
                }
                Ok(Message::Binary(_)) => {
                    self.fail(now, UNSUPPORTED_DATA, "binary messages are not supported");
                }
                Ok(Message::Close(_)) => {
                    // tungstenite has queued the answer already.
                    self.handle.discard();
                    self.sending = None;
                    self.pending_close = None;
                    self.begin_closing(Phase::Closing, now);
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return match self.protocol.wire().is_exhausted() {
                        true => Turn::Again,
                        false => {
                            self.may_read = false;
                            Turn::Wait
                        }
                    };
                }
                Err(Error::Capacity(_)) => {
                    self.fail(now, MESSAGE_TOO_BIG, "the message is too large");
                }
                Err(Error::Utf8(_)) => self.fail(now, INVALID_UTF8, "the text is not UTF-8"),
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    return Turn::End(EndReason::Closed);
                }
                Err(Error::Protocol(_)) => self.fail(now, PROTOCOL_ERROR, "not a WebSocket frame"),
                Err(_) => return Turn::End(EndReason::Closed),
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
                Turn::Wait if !self.is_blocked => self.protocol.wire_mut().has_received = true,
                turn => return turn,
            }
        }
        let mut sent = 0;
        while sent < TURN_BYTES {
            let Some(frame) = self.next_frame() else {
                return self.finish_sending();
            };
            sent += frame.len();
            let written = self.protocol.write(Message::Frame(frame));
            match self.check_write(written) {
                Turn::Wait if !self.is_blocked => {}
                turn => return turn,
            }
        }
        Turn::Again
    }

    /// The next frame of what is queued.
    fn next_frame(&mut self) -> Option<Frame> {
        let is_done = |sending: &(Text, usize)| sending.1 > 0 && sending.1 >= sending.0.len();
        if self.sending.as_ref().is_none_or(is_done) {
            let before = self.sending.take();
            if before.is_some() {
                let totals = &self.shared.totals;
                totals.messages_out.fetch_add(1, Relaxed);
            }
            let before = before.as_ref().map(|(text, _)| &**text);
            self.sending = self.handle.next(before).map(|text| (text, 0));
        }
        let (text, at) = self.sending.as_mut()?;
        let end = text.len().min(*at + FRAME_BYTES);
        let piece = text.as_bytes()[*at..end].to_vec();
        let kind = if *at == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(piece, OpCode::Data(kind), end == text.len());
        // For an empty text, 1 marks it as sent.
        *at = end.max(1);
        Some(frame)
    }

    /// The queue is empty: sends the requested close, if any, and flushes.
    fn finish_sending(&mut self) -> Turn {
        let Some(frame) = self.pending_close.take() else {
            return self.flush();
        };
        let sent = self.protocol.close(frame);
        self.check_write(sent)
    }

    /// Discards input after a fault.
    fn drain(&mut self) -> Turn {
        let Phase::Draining { is_shut } = self.phase else {
            return Turn::Wait;
        };
        if !is_shut {
            match self.flush() {
                Turn::Wait if !self.is_blocked => {
                    let _ = self.stream().shutdown(Shutdown::Write);
                    self.reset_buffers();
                    self.phase = Phase::Draining { is_shut: true };
                }
                Turn::Wait => {}
                turn => return turn,
            }
        }
        let mut discarded = [0; READ_BYTES];
        for _ in 0..TURN_BYTES / READ_BYTES {
            match self.stream().read(&mut discarded) {
                Ok(size) if size > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Ok(_) | Err(_) => return Turn::End(EndReason::Closed),
            }
        }
        Turn::Again
    }

    fn flush(&mut self) -> Turn {
        let flushed = self.protocol.flush();
        self.check_write(flushed)
    }

    /// Interprets the result of a write. tungstenite keeps what the system did not accept.
    fn check_write(&mut self, written: tungstenite::Result<()>) -> Turn {
        self.is_blocked = false;
        match written {
            Ok(()) => Turn::Wait,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_blocked = true;
                Turn::Wait
            }
            Err(_) => Turn::End(EndReason::Closed),
        }
    }

    /// Closes the socket because of a fault of the client or of its handler.
    fn fail(&mut self, now: Instant, code: u16, reason: &str) {
        self.handle.discard();
        self.sending = None;
        self.pending_close = None;
        // If closing has begun, the client has been sent another code already.
        if let Phase::Open = self.phase {
            let sent = self.protocol.close(close_frame(code, reason.to_owned()));
            self.check_write(sent);
        }
        self.begin_closing(Phase::Draining { is_shut: false }, now);
    }

    fn begin_closing(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        // Further input is not for the handler.
        self.paused_since = None;
        let end = now + self.shared.settings.close_grace;
        self.ends_at.get_or_insert(end);
    }

    /// Calls the handler. A panic closes the socket.
    fn call_handler<T>(
        &mut self,
        now: Instant,
        call: impl FnOnce(&mut dyn SocketHandler) -> T,
    ) -> Option<T> {
        let handler = &mut *self.handler;
        let value = catch_unwind(AssertUnwindSafe(|| call(handler))).ok();
        if value.is_none() {
            self.fail(now, INTERNAL_ERROR, "internal error");
        }
        value
    }

    /// Updates the sum of large messages. Returns true if this socket holds more than before.
    fn count_large(&mut self, sum: &mut usize) -> bool {
        let frames = &self.protocol.wire().frames;
        let large = match frames.unfinished().max(frames.longest()) {
            bytes if bytes >= LARGE_BYTES => bytes,
            _ => 0,
        };
        let has_grown = large > self.large;
        *sum = *sum - self.large + large;
        self.large = large;
        has_grown
    }

    /// Releases buffers that a large message has grown, if they are empty.
    fn shrink(&mut self) {
        let frames = &self.protocol.wire().frames;
        // The input of a paused socket can end with a complete message that is still unused.
        let is_empty = frames.is_between() && self.paused_since.is_none();
        let is_due = is_empty && frames.longest() >= LARGE_BYTES;
        if is_due && !self.is_blocked && matches!(self.phase, Phase::Open) {
            self.reset_buffers();
        }
    }

    fn reset_buffers(&mut self) {
        self.protocol.reset_buffers(config(&self.shared.settings));
    }
}

fn config(settings: &HubSettings) -> WebSocketConfig {
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

/// Between half of the interval and all of it, spread evenly over consecutive tokens.
fn first_ping(token: u64, every: Duration) -> Duration {
    // The fractions of multiples of the golden ratio are spread evenly.
    let part = token.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    every / 2 + every / 2 * u32::try_from(part).unwrap_or(0) / 1024
}
