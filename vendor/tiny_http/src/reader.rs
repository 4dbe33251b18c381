//! Reads the requests of one connection, without ever waiting for its peer.
//!
//! Upstream's file was `client.rs`, whose thread blocked for each connection. A `Reader` is the state between two reads; a
//! thread that has it (`seat.rs`) gives the connection a turn: it reads what is there, and either has a whole request, or
//! puts the reader back until more arrives, an answer is complete or a time is up.
//! A connection that rests between requests has no buffer.

use std::mem;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use rustix::buffer::{spare_capacity, Buffer};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::arriving::{millis, Arriving, ReadError};
use crate::body::{BodyBuffer, BodyError, Target};
use crate::connection::{Connection, Place, Reading};
use crate::head::{self, Framing, Head};
use crate::ready::Watch;
use crate::request::{Body, HeadView, Request, Unread};
use crate::sink::Destination;
use crate::step::{By, Context, Scratch, Step};
use crate::Shared;

/// The reading side of a connection between two reads.
pub(crate) struct Reader {
    // what was read from the socket and not used yet is `buffer[start..end]`
    buffer: Vec<u8>,
    start: usize,
    end: usize,

    stage: Stage,

    input: Input,

    // the connection is watched for one event at a time
    one_shot: bool,

    // the peer may be sending bytes that will not be read; so many are read and discarded at the end
    unread: Option<usize>,
}

/// What the socket has for the reader, as far as it knows. The seat keeps a note of all that comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// Nothing: the last read has taken everything.
    Nothing,
    /// Bytes. A read that does not fill its room takes all of them.
    Bytes,
    /// Anything, also the end. Only a read that finds nothing has taken everything.
    Unknown,
}

enum Stage {
    /// Between requests, or in a head that began then.
    Head {
        scanned: usize,
        begun_ms: Option<u64>,
    },
    /// Earlier answers come first, then the word to go on with the body.
    Continue(Box<Arriving>),
    Body(Box<Arriving>),
    /// The request waits for its place among the unanswered ones.
    Whole(Box<(Head, Body)>),
    /// No request follows. Answers may be missing.
    End,
    /// The peer is still sending; its bytes are discarded for a while, so that it can read the answer.
    Drain {
        left: usize,
        until_ms: u64,
    },
}

/// First size of the buffer, which serves ordinary requests.
const BUFFER_BYTES: usize = 4 << 10;

/// Most of a body that is read at a time, and of one in chunks, behind which more may follow.
const PIECE_BYTES: usize = 64 << 10;
const CHUNKS_BYTES: usize = 16 << 10;

impl Reader {
    pub fn new() -> Reader {
        Reader {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            stage: Stage::between_requests(),
            input: Input::Nothing,
            one_shot: false,
            unread: None,
        }
    }

    /// The socket has bytes.
    pub fn expect_bytes(&mut self) {
        if self.input == Input::Nothing {
            self.input = Input::Bytes;
        }
    }

    /// The peer has ended, or something came at an unknown moment.
    pub fn expect_anything(&mut self) {
        self.input = Input::Unknown;
    }

    /// How the connection is to be watched from now on, if that changes or must be said again. A body wakes no second
    /// thread while one reads it.
    pub fn rewatch(&mut self) -> Option<Watch> {
        let was_one_shot = self.one_shot;
        self.one_shot = matches!(self.stage, Stage::Body(_) | Stage::Drain { .. });
        match (was_one_shot, self.one_shot) {
            (_, true) => Some(Watch::Once),
            (true, false) => Some(Watch::Always),
            (false, false) => None,
        }
    }

    /// True if the next request may be here already.
    pub fn has_more(&self) -> bool {
        let is_here = self.start < self.end || self.input != Input::Nothing;
        is_here && matches!(self.stage, Stage::Head { .. })
    }

    /// A connection in its turn uses the buffer of the thread, unless it has one.
    pub fn borrow_buffer(&mut self, scratch: &mut Scratch) {
        if self.buffer.is_empty() {
            mem::swap(&mut self.buffer, &mut scratch.head);
        }
    }

    /// Gives it back, and keeps what was not used.
    pub fn return_buffer(&mut self, scratch: &mut Scratch) {
        let rest = match self.buffer.len() > BUFFER_BYTES && self.start < self.end {
            true => return,
            false => self.buffer[self.start..self.end].to_vec(),
        };
        self.start = 0;
        self.end = rest.len();
        let buffer = mem::replace(&mut self.buffer, rest);
        if buffer.len() == BUFFER_BYTES {
            scratch.head = buffer;
        }
    }

    /// Puts aside what follows a body. The buffer is empty.
    fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.buffer = bytes.to_vec();
            self.start = 0;
            self.end = bytes.len();
        }
    }

    /// The moment at which the connection is to be looked at, whatever arrives.
    pub fn due_ms(&self, shared: &Shared) -> Option<u64> {
        let limits = &shared.limits;
        match &self.stage {
            Stage::Head { begun_ms, .. } => begun_ms.map(|it| it + millis(limits.head_time)),
            Stage::Body(arriving) => Some(arriving.due_ms(shared)),
            Stage::Drain { until_ms, .. } => Some(*until_ms),
            Stage::Continue(_) | Stage::Whole(_) | Stage::End => None,
        }
    }

    /// The time is up, and nothing is here. The next turn does the rest.
    pub fn expire(&mut self, connection: &Arc<Connection>, shared: &Arc<Shared>) {
        let result = match &mut self.stage {
            Stage::Head {
                begun_ms: Some(begun_ms),
                ..
            } => check_head(*begun_ms, shared),
            Stage::Head { begun_ms: None, .. } => match connection.close_if_idle() {
                true => Err(ReadError::Closed),
                false => Ok(()),
            },
            Stage::Body(arriving) => arriving.check(0, shared),
            Stage::Drain { left, until_ms } => {
                if shared.now_ms() >= *until_ms {
                    *left = 0;
                }
                Ok(())
            }
            Stage::Continue(_) | Stage::Whole(_) | Stage::End => Ok(()),
        };
        if let Err(error) = result {
            self.refuse(error, connection, shared);
        }
    }

    pub fn step(&mut self, context: &mut Context<'_>) -> Result<Step, ReadError> {
        match mem::replace(&mut self.stage, Stage::End) {
            Stage::Head { scanned, begun_ms } => self.read_head(scanned, begun_ms, context),
            Stage::Continue(arriving) => self.tell_to_go_on(arriving, context),
            Stage::Body(arriving) => self.read_body(arriving, context),
            Stage::Whole(whole) => self.deliver(whole, context),
            Stage::End => Ok(self.end(context)),
            Stage::Drain { left, until_ms } => Ok(self.drain(left, until_ms, context)),
        }
    }

    /// Reads until the buffer holds a whole head.
    fn read_head(
        &mut self,
        mut scanned: usize,
        mut begun_ms: Option<u64>,
        context: &mut Context<'_>,
    ) -> Result<Step, ReadError> {
        let limits = &context.shared.limits;
        let mut has_read = false;
        loop {
            if begun_ms.is_none() && self.skip_line_ends() {
                begun_ms = Some(context.connection.begin());
            }
            let here = &self.buffer[self.start..self.end];
            if let Some(length) = head::find_end(here, scanned).map_err(ReadError::Refuse)? {
                return self.parse_head(length, begun_ms, context);
            }
            scanned = here.len();
            if scanned >= limits.head_bytes_max {
                return Err(ReadError::Refuse(431));
            }
            match begun_ms {
                Some(begun_ms) => check_head(begun_ms, context.shared)?,
                None if has_read && context.connection.close_if_idle() => {
                    return Err(ReadError::Closed);
                }
                None => {}
            }
            if self.input == Input::Nothing || *context.left == 0 {
                self.stage = Stage::Head { scanned, begun_ms };
                return Ok(self.pause());
            }
            let count = self.fill(context.connection)?;
            *context.left = context.left.saturating_sub(count);
            has_read = true;
        }
    }

    /// Passes over empty lines before a request. True if something else is there.
    fn skip_line_ends(&mut self) -> bool {
        let here = &self.buffer[self.start..self.end];
        self.start += here
            .iter()
            .take_while(|byte| **byte == b'\r' || **byte == b'\n')
            .count();
        self.start < self.end
    }

    /// Reads the head in the first `length` bytes, and finds out what follows.
    fn parse_head(
        &mut self,
        length: usize,
        begun_ms: Option<u64>,
        context: &Context<'_>,
    ) -> Result<Step, ReadError> {
        let here = &self.buffer[self.start..self.start + length];
        let limits = &context.shared.limits;
        let mut head = head::parse(here, limits.headers_max).map_err(ReadError::Refuse)?;
        if head.framing != Framing::Length(0) && context.by == By::Front {
            let scanned = 0;
            self.stage = Stage::Head { scanned, begun_ms };
            return Ok(Step::Yield);
        }
        self.start += length;
        if head.may_be_endless {
            let view = HeadView::new(&head, context.connection.peer);
            head.upgrade |= (context.shared.hooks.endless)(&view);
        }
        if head.framing == Framing::Length(0) {
            self.stage = Stage::Whole(Box::new((head, Body::empty())));
            return Ok(Step::Next);
        }
        let view = HeadView::new(&head, context.connection.peer);
        let target = match (context.shared.hooks.body)(&view) {
            Destination::Memory(most) => {
                let most = most.min(limits.body_buffer_max);
                if matches!(head.framing, Framing::Length(length) if length > most as u64) {
                    return Ok(self.leave_body(head, Body::unread(Unread::TooLarge), context));
                }
                Target::Memory(BodyBuffer::new(most))
            }
            Destination::Sink(sink) => Target::Sink(sink),
            Destination::Unread => {
                return Ok(self.leave_body(head, Body::unread(Unread::Declined), context));
            }
        };
        let is_awaited = head.expects_continue && self.start == self.end;
        let arriving = Box::new(Arriving::new(head, target, context.shared));
        self.stage = match is_awaited {
            true => Stage::Continue(arriving),
            false => Stage::Body(arriving),
        };
        Ok(Step::Next)
    }

    /// The rest of a body stays unread. Clients that send all of one before they read want to get as far as the answer.
    fn leave_body(&mut self, head: Head, body: Body, context: &Context<'_>) -> Step {
        self.unread = Some(context.shared.limits.drain_body_bytes);
        self.stage = Stage::Whole(Box::new((head, body)));
        Step::Next
    }

    fn tell_to_go_on(
        &mut self,
        mut arriving: Box<Arriving>,
        context: &Context<'_>,
    ) -> Result<Step, ReadError> {
        if !context.connection.is_settled() {
            self.stage = Stage::Continue(arriving);
            return Ok(self.blocked());
        }
        context.connection.interim(b"HTTP/1.1 100 Continue\r\n\r\n");
        arriving.restart(context.shared);
        self.stage = Stage::Body(arriving);
        Ok(Step::Next)
    }

    /// Takes what is here of the body.
    fn read_body(
        &mut self,
        mut arriving: Box<Arriving>,
        context: &mut Context<'_>,
    ) -> Result<Step, ReadError> {
        if context.by == By::Front {
            self.stage = Stage::Body(arriving);
            return Ok(Step::Yield);
        }
        let (peer, shared) = (context.connection.peer, context.shared);
        let mut count = self.end - self.start;
        let mut fed = arriving.feed(&self.buffer[self.start..self.end], peer, shared);
        if let Ok(used) = fed {
            self.start += used;
            count = used;
        }
        while fed.is_ok() && !arriving.body.is_done() {
            arriving.check(count, shared)?;
            if self.input == Input::Nothing || *context.left == 0 {
                self.stage = Stage::Body(arriving);
                return Ok(self.pause());
            }
            (count, fed) = self.read_piece(&mut arriving, context)?;
        }
        self.finish_body(*arriving, fed.map(drop), context)
    }

    /// One read of a body. Returns how much it has brought, and how the body has taken it.
    fn read_piece(
        &mut self,
        arriving: &mut Arriving,
        context: &mut Context<'_>,
    ) -> Result<(usize, Result<usize, BodyError>), ReadError> {
        let (peer, shared) = (context.connection.peer, context.shared);
        let count = match arriving.room(peer, shared) {
            Err(error) => return Ok((0, Err(error))),
            Ok(Some(bytes)) => {
                let size = bytes.capacity() - bytes.len();
                let count = self.receive(context.connection, spare_capacity(bytes), size)?;
                let surplus = arriving.body.advance(count);
                self.keep(&surplus);
                *context.left = context.left.saturating_sub(count);
                return Ok((count, Ok(count)));
            }
            Ok(None) => {
                let most = match arriving.body.left() {
                    Some(left) => left.min(PIECE_BYTES as u64) as usize,
                    None => CHUNKS_BYTES,
                };
                context.piece.resize(PIECE_BYTES, 0);
                self.receive(context.connection, &mut context.piece[..most], most)?
            }
        };
        *context.left = context.left.saturating_sub(count);
        let fed = arriving.feed(&context.piece[..count], peer, shared);
        if let Ok(used) = fed {
            self.keep(&context.piece[used..count]);
        }
        Ok((count, fed))
    }

    fn finish_body(
        &mut self,
        arriving: Arriving,
        result: Result<(), BodyError>,
        context: &Context<'_>,
    ) -> Result<Step, ReadError> {
        let (head, target) = (arriving.head, arriving.body.into_target());
        let received = match target {
            Target::Sink(sink) => Body {
                sink: Some(sink),
                ..Body::empty()
            },
            Target::Memory(buffer) => {
                let (bytes, meter) = buffer.finish();
                let bytes = match result {
                    Err(BodyError::TooLarge) => Err(Unread::TooLarge),
                    Err(BodyError::Overloaded) => Err(Unread::Overloaded),
                    _ => Ok(bytes),
                };
                Body {
                    bytes,
                    meter,
                    sink: None,
                }
            }
        };
        match result {
            Err(BodyError::Malformed) => Err(ReadError::Refuse(400)),
            Err(_) => Ok(self.leave_body(head, received, context)),
            Ok(()) => {
                self.stage = Stage::Whole(Box::new((head, received)));
                Ok(Step::Next)
            }
        }
    }

    /// Gives the request its place among the unanswered ones, when it has one.
    fn deliver(
        &mut self,
        whole: Box<(Head, Body)>,
        context: &Context<'_>,
    ) -> Result<Step, ReadError> {
        let head = &whole.0;
        let close = !head.keep_alive || head.upgrade || self.unread.is_some();
        let reading = match close {
            true => Reading::Ends,
            false => Reading::GoesOn,
        };
        // The answer to an upgrade must not overtake another one, as its socket is given away.
        let unanswered_max = match head.upgrade {
            true => 1,
            false => context.shared.limits.max_unanswered.max(1),
        };
        let number = match context.connection.admit(unanswered_max, reading) {
            Place::Number(number) => number,
            Place::Over => return Err(ReadError::Closed),
            Place::Taken => {
                self.stage = Stage::Whole(whole);
                return Ok(self.blocked());
            }
        };
        let (head, body) = *whole;
        let mut early = Vec::new();
        if head.upgrade {
            early.extend_from_slice(&self.buffer[self.start..self.end]);
            self.start = self.end;
        }
        self.stage = match close {
            true => Stage::End,
            false => Stage::between_requests(),
        };
        let (connection, shared) = (Arc::clone(context.connection), Arc::clone(context.shared));
        shared.requests.fetch_add(1, Relaxed);
        Ok(Step::Request(Request::new(
            head, body, early, number, close, connection, shared,
        )))
    }

    /// Answers a request that cannot be delivered. The connection ends, because the start of the next request is
    /// unknown.
    pub fn refuse(&mut self, error: ReadError, connection: &Arc<Connection>, shared: &Shared) {
        self.stage = Stage::End;
        let status = match error {
            ReadError::Closed => return,
            ReadError::Refuse(status) => status,
            ReadError::TooSlow => {
                shared.slow_closed.fetch_add(1, Relaxed);
                408
            }
        };
        shared.refused.fetch_add(1, Relaxed);
        self.unread = Some(shared.limits.drain_bytes);
        if let Place::Number(number) = connection.admit(usize::MAX, Reading::Ends) {
            let answer = (shared.hooks.refusal)(status);
            connection.answer(number, answer, Vec::new(), None, true);
        }
    }

    /// Waits until every request has its answer.
    fn end(&mut self, context: &Context<'_>) -> Step {
        if !context.connection.is_settled() {
            return self.blocked();
        }
        match self.unread {
            Some(left) if !context.connection.is_taken() => {
                let until_ms = context.shared.now_ms() + millis(context.shared.limits.drain_time);
                self.stage = Stage::Drain { left, until_ms };
                self.input = Input::Unknown;
                Step::Next
            }
            _ => Step::Gone,
        }
    }

    /// Reads and forgets a little of what the peer is still sending: closing a socket with unread bytes resets the
    /// connection, and the peer would lose the answer. These bytes are never taken for a request.
    fn drain(&mut self, mut left: usize, until_ms: u64, context: &mut Context<'_>) -> Step {
        context.piece.resize(PIECE_BYTES, 0);
        while self.input != Input::Nothing && left > 0 && *context.left > 0 {
            let count = match self.receive(context.connection, &mut context.piece[..], PIECE_BYTES)
            {
                Ok(count) => count,
                Err(_) => return Step::Gone,
            };
            left = left.saturating_sub(count);
            *context.left = context.left.saturating_sub(count);
        }
        if left == 0 || context.shared.now_ms() >= until_ms {
            return Step::Gone;
        }
        self.stage = Stage::Drain { left, until_ms };
        self.pause()
    }

    /// More is to be read, now or when it comes.
    fn pause(&self) -> Step {
        match self.input {
            Input::Nothing => Step::Rest,
            Input::Bytes | Input::Unknown => Step::Yield,
        }
    }

    /// An answer gives the connection its next turn. What arrives until then is not looked at.
    fn blocked(&mut self) -> Step {
        self.input = Input::Unknown;
        Step::Blocked
    }

    /// Reads once from the socket, behind what is in the buffer.
    fn fill(&mut self, connection: &Connection) -> Result<usize, ReadError> {
        if self.end == self.buffer.len() && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let size = BUFFER_BYTES.max(self.buffer.len() * 2);
            self.buffer.resize(size, 0);
        }
        let mut buffer = mem::take(&mut self.buffer);
        let size = buffer.len() - self.end;
        let result = self.receive(connection, &mut buffer[self.end..], size);
        self.buffer = buffer;
        self.end += *result.as_ref().unwrap_or(&0);
        result
    }

    /// One read from the socket to a room of this size, which waits for nothing.
    fn receive(
        &mut self,
        connection: &Connection,
        room: impl Buffer<u8>,
        size: usize,
    ) -> Result<usize, ReadError> {
        match rustix::net::recv(&*connection.stream, room, RecvFlags::DONTWAIT).map(|it| it.1) {
            Ok(0) => Err(ReadError::Closed),
            Ok(count) => {
                if count < size && self.input == Input::Bytes {
                    self.input = Input::Nothing;
                }
                Ok(count)
            }
            Err(Errno::INTR) => Ok(0),
            Err(Errno::AGAIN) => {
                self.input = Input::Nothing;
                Ok(0)
            }
            Err(_) => Err(ReadError::Closed),
        }
    }
}

impl Stage {
    fn between_requests() -> Stage {
        Stage::Head {
            scanned: 0,
            begun_ms: None,
        }
    }
}

fn check_head(begun_ms: u64, shared: &Shared) -> Result<(), ReadError> {
    match shared.now_ms().saturating_sub(begun_ms) >= millis(shared.limits.head_time) {
        true => Err(ReadError::TooSlow),
        false => Ok(()),
    }
}
