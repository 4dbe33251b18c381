use std::io::{ErrorKind, Read};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Instant;

use crate::body::{BodyBuffer, BodyError, Decoder};
use crate::connection::{Connection, Reading};
use crate::head::{self, Framing, Head};
use crate::request::{Body, HeadView, Request, Unread};
use crate::sink::{Destination, Sink};
use crate::Shared;

/// A ClientConnection is an object that reads requests from a client's socket
/// and returns Request objects. It belongs to the connection's thread.
pub(crate) struct ClientConnection {
    connection: Arc<Connection>,
    shared: Arc<Shared>,

    // what was read from the socket and not used yet is `buffer[start..end]`
    buffer: Vec<u8>,
    start: usize,
    end: usize,

    // set to true if we know that the previous request is the last one
    no_more_requests: bool,

    // the peer may be sending bytes that will not be read
    unread: bool,
    // the limit of bytes that are read and discarded
    drain_bytes: usize,
}

/// Error that can happen when reading a request.
#[derive(Debug)]
enum ReadError {
    /// answer with this status and close
    Refuse(u16),
    /// the peer is too slow: as `Refuse(408)`
    TooSlow,
    /// close without an answer
    Closed,
}

/// First size of the buffer, which serves ordinary requests, and the size it returns to between requests.
const BUFFER_BYTES: usize = 4 << 10;

/// Most of a body that is handed to a sink at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Counts what arrives of a body in each window of time.
struct Progress {
    bytes: usize,
    since: Instant,
}

impl ClientConnection {
    /// Creates a new `ClientConnection` for a connection that is in the registry.
    pub fn new(connection: Arc<Connection>, shared: Arc<Shared>) -> ClientConnection {
        ClientConnection {
            connection,
            shared,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            no_more_requests: false,
            unread: false,
            drain_bytes: 0,
        }
    }

    /// Delivers requests until the connection ends. The work of the connection's thread.
    pub fn run(mut self) {
        while let Some(request) = self.next() {
            self.shared.requests.fetch_add(1, Relaxed);
            if self.shared.messages.push(request).is_err() {
                break;
            }
        }
        self.connection.settle();
        if self.unread && !self.connection.is_taken() {
            self.drain();
        }
    }

    /// Blocks until the next Request is available.
    /// Returns None when no new Requests will come from the client.
    fn next(&mut self) -> Option<Request> {
        // the client sent a "connection: close" header in this previous request
        //  or is using HTTP 1.0, meaning that no new request will come
        if self.no_more_requests {
            return None;
        }
        match self.read() {
            Ok(request) => request,
            Err(error) => {
                self.refuse(&error);
                None
            }
        }
    }

    /// Reads a request from the stream. None if the connection has been closed meanwhile.
    fn read(&mut self) -> Result<Option<Request>, ReadError> {
        let end = self.read_head()?;
        let limits = &self.shared.limits;
        let mut head = head::parse(&self.buffer[self.start..end], limits.headers_max)
            .map_err(ReadError::Refuse)?;
        self.start = end;
        if head.may_be_endless {
            let view = HeadView::new(&head, self.connection.peer);
            head.upgrade |= (self.shared.hooks.endless)(&view);
        }
        let body = self.read_body(&head)?;
        self.no_more_requests = !head.keep_alive || head.upgrade || self.unread;

        let reading = if self.no_more_requests {
            Reading::Ends
        } else {
            Reading::GoesOn
        };
        // The answer to an upgrade must not overtake another one, as its socket is given away.
        let unanswered_max = if head.upgrade {
            1
        } else {
            self.shared.limits.max_unanswered.max(1)
        };
        let number = match self.connection.admit(unanswered_max, reading) {
            Some(number) => number,
            None => return Ok(None),
        };
        let mut early = Vec::new();
        if head.upgrade {
            early.extend_from_slice(&self.buffer[self.start..self.end]);
            self.start = self.end;
        }
        let close = self.no_more_requests;
        let connection = Arc::clone(&self.connection);
        let shared = Arc::clone(&self.shared);
        Ok(Some(Request::new(
            head, body, early, number, close, connection, shared,
        )))
    }

    /// Reads until the buffer holds a whole head. Returns where it ends.
    fn read_head(&mut self) -> Result<usize, ReadError> {
        self.shrink();
        let mut scanned = 0;
        let mut begun = None;
        loop {
            if begun.is_none() && self.skip_line_ends() {
                self.connection.begin();
                begun = Some(Instant::now());
            }
            let here = &self.buffer[self.start..self.end];
            if let Some(length) = head::find_end(here, scanned).map_err(ReadError::Refuse)? {
                return Ok(self.start + length);
            }
            scanned = here.len();
            if scanned >= self.shared.limits.head_bytes_max {
                return Err(ReadError::Refuse(431));
            }
            self.fill()?;
            match begun {
                None if self.idle_too_long() => return Err(ReadError::Closed),
                Some(begun) if begun.elapsed() >= self.shared.limits.head_time => {
                    return Err(ReadError::TooSlow)
                }
                _ => {}
            }
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

    fn idle_too_long(&self) -> bool {
        let idle_ms = self.shared.limits.idle_time.as_millis() as u64;
        let now_ms = self.shared.now_ms();
        match self.connection.waiting_since_ms() {
            Some(since_ms) => now_ms.saturating_sub(since_ms) >= idle_ms && self.connection.evict(),
            None => false,
        }
    }

    /// The rest of a body stays unread. Clients that send all of one before they read want to get as far as the answer.
    fn leave_body(&mut self) {
        self.unread = true;
        self.drain_bytes = self.shared.limits.drain_body_bytes;
    }

    /// Reads the body as far as it is to be buffered.
    fn read_body(&mut self, head: &Head) -> Result<Body, ReadError> {
        if head.framing == Framing::Length(0) {
            return Ok(Body::empty());
        }
        let view = HeadView::new(head, self.connection.peer);
        let (sink, most) = match (self.shared.hooks.body)(&view) {
            Destination::Memory(most) => (None, most.min(self.shared.limits.body_buffer_max)),
            Destination::Sink(sink) => (Some(sink), 0),
            Destination::Unread => {
                self.leave_body();
                return Ok(Body::unread(Unread::Declined));
            }
        };
        let is_longer = matches!(head.framing, Framing::Length(length) if length > most as u64);
        if sink.is_none() && is_longer {
            self.leave_body();
            return Ok(Body::unread(Unread::TooLarge));
        }
        if head.expects_continue && self.start == self.end {
            self.connection.settle();
            self.connection.interim(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if let Some(sink) = sink {
            return self.feed(head, sink);
        }
        let mut body = BodyBuffer::new(&self.shared, &view);
        let read = match head.framing {
            Framing::Length(length) => self.read_sized(length as usize, &mut body)?,
            Framing::Chunked => self.read_chunked(most, &mut body)?,
        };
        match read {
            Ok(()) => {
                let (bytes, meter) = body.finish();
                Ok(Body {
                    bytes: Ok(bytes),
                    sink: None,
                    meter,
                })
            }
            Err(BodyError::Malformed) => Err(ReadError::Refuse(400)),
            Err(BodyError::TooLarge) => {
                self.leave_body();
                Ok(Body::unread(Unread::TooLarge))
            }
            Err(BodyError::Overloaded) => {
                self.leave_body();
                let (_, meter) = body.finish();
                Ok(Body {
                    meter,
                    ..Body::unread(Unread::Overloaded)
                })
            }
        }
    }

    /// Feeds the body to a sink, until it is complete or the sink wants no more.
    fn feed(&mut self, head: &Head, mut sink: Box<dyn Sink>) -> Result<Body, ReadError> {
        let is_whole = match head.framing {
            Framing::Length(length) => self.feed_sized(length, &mut *sink)?,
            Framing::Chunked => self.feed_chunked(&mut *sink)?,
        };
        if !is_whole {
            self.leave_body();
        }
        Ok(Body {
            sink: Some(sink),
            ..Body::empty()
        })
    }

    fn feed_sized(&mut self, length: u64, sink: &mut dyn Sink) -> Result<bool, ReadError> {
        let here = length.min((self.end - self.start) as u64) as usize;
        let early = &self.buffer[self.start..self.start + here];
        self.start += here;
        if here > 0 && !sink.write(early) {
            return Ok(false);
        }
        let mut left = length - here as u64;
        let mut piece = vec![0; left.min(PIECE_BYTES as u64) as usize];
        let mut progress = Progress::new();
        while left > 0 {
            let room = left.min(piece.len() as u64) as usize;
            let count = receive(&self.connection, &mut piece[..room])?;
            if count > 0 && !sink.write(&piece[..count]) {
                return Ok(false);
            }
            left -= count as u64;
            self.check(&mut progress, count)?;
        }
        Ok(true)
    }

    fn feed_chunked(&mut self, sink: &mut dyn Sink) -> Result<bool, ReadError> {
        let mut decoder = Decoder::new();
        let mut progress = Progress::new();
        loop {
            let fed = decoder.feed(&self.buffer[self.start..self.end], |data| {
                match data.is_empty() || sink.write(data) {
                    true => Ok(()),
                    false => Err(BodyError::TooLarge),
                }
            });
            match fed {
                Ok(count) => self.start += count,
                Err(BodyError::Malformed) => return Err(ReadError::Refuse(400)),
                Err(_) => return Ok(false),
            }
            if decoder.is_done() {
                return Ok(true);
            }
            let count = self.fill()?;
            self.check(&mut progress, count)?;
        }
    }

    fn read_sized(
        &mut self,
        length: usize,
        body: &mut BodyBuffer<'_>,
    ) -> Result<Result<(), BodyError>, ReadError> {
        let here = length.min(self.end - self.start);
        if let Err(error) = body.append(&self.buffer[self.start..self.start + here]) {
            return Ok(Err(error));
        }
        self.start += here;
        let mut progress = Progress::new();
        while body.len() < length {
            let room = match body.room(length - body.len()) {
                Ok(room) => room,
                Err(error) => return Ok(Err(error)),
            };
            let count = receive(&self.connection, room)?;
            body.advance(count);
            self.check(&mut progress, count)?;
        }
        Ok(Ok(()))
    }

    fn read_chunked(
        &mut self,
        most: usize,
        body: &mut BodyBuffer<'_>,
    ) -> Result<Result<(), BodyError>, ReadError> {
        let mut decoder = Decoder::new();
        let mut progress = Progress::new();
        loop {
            let fed = decoder.feed(&self.buffer[self.start..self.end], |data| {
                if body.len() + data.len() > most {
                    return Err(BodyError::TooLarge);
                }
                body.append(data)
            });
            match fed {
                Ok(count) => self.start += count,
                Err(error) => return Ok(Err(error)),
            }
            if decoder.is_done() {
                return Ok(Ok(()));
            }
            let count = self.fill()?;
            self.check(&mut progress, count)?;
        }
    }

    fn check(&self, progress: &mut Progress, count: usize) -> Result<(), ReadError> {
        let limits = &self.shared.limits;
        progress.bytes += count;
        if progress.since.elapsed() >= limits.progress_time {
            if progress.bytes < limits.progress_bytes {
                return Err(ReadError::TooSlow);
            }
            *progress = Progress::new();
        }
        Ok(())
    }

    /// Gives back a buffer that a long head has made large.
    fn shrink(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > BUFFER_BYTES {
                self.buffer = Vec::new();
            }
        }
    }

    /// Reads once from the socket, behind what is in the buffer. Returns 0 if a time slice has passed without a byte.
    fn fill(&mut self) -> Result<usize, ReadError> {
        if self.end == self.buffer.len() && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            let size = BUFFER_BYTES.max(self.buffer.len() * 2);
            self.buffer.resize(size, 0);
        }
        let count = receive(&self.connection, &mut self.buffer[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// Answers a request that cannot be delivered. The connection ends, because the start of the next request is
    /// unknown.
    fn refuse(&mut self, error: &ReadError) {
        let status = match *error {
            ReadError::Closed => return,
            ReadError::Refuse(status) => status,
            ReadError::TooSlow => {
                self.shared.slow_closed.fetch_add(1, Relaxed);
                408
            }
        };
        self.shared.refused.fetch_add(1, Relaxed);
        self.unread = true;
        self.drain_bytes = self.shared.limits.drain_bytes;
        if let Some(number) = self.connection.admit(usize::MAX, Reading::Ends) {
            let answer = (self.shared.hooks.refusal)(status);
            self.connection.answer(number, answer, Vec::new(), None, true);
        }
    }

    /// Reads and forgets a little of what the peer is still sending: closing a socket with unread bytes resets the
    /// connection, and the peer would lose the answer. These bytes are never taken for a request.
    fn drain(&mut self) {
        let limits = &self.shared.limits;
        let begun = Instant::now();
        let mut left = self.drain_bytes;
        let _ = self
            .connection
            .stream
            .set_read_timeout(Some(limits.drain_time));
        let mut sink = [0; 32 << 10];
        while left > 0 && begun.elapsed() < limits.drain_time {
            match (&*self.connection.stream).read(&mut sink) {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.shared.registry.remove(self.connection.id);
    }
}

impl Progress {
    fn new() -> Progress {
        Progress {
            bytes: 0,
            since: Instant::now(),
        }
    }
}

/// One read from the socket. Returns 0 if a time slice has passed without a byte.
fn receive(connection: &Connection, room: &mut [u8]) -> Result<usize, ReadError> {
    match (&*connection.stream).read(room) {
        Ok(0) => Err(ReadError::Closed),
        Ok(count) => Ok(count),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(0),
            _ => Err(ReadError::Closed),
        },
    }
}
