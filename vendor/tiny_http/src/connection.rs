//! One accepted connection: its only descriptor, the order of its answers, and whether it may be closed to make room.
//! Its requests are read by its reader (`reader.rs`), which has the socket's other direction.
//!
//! Upstream's file of this name unified TCP and Unix sockets; this one replaces it together with
//! `util/refined_tcp_stream.rs` and `util/sequential.rs`. The thread that has an answer writes it, without
//! blocking. An answer that arrives before its turn waits here, and what the socket does not take at once goes to a writer thread, so the
//! caller of `answer` never waits for the peer or for another request.

use std::io::{self, IoSlice, Read};
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::ready::Work;
use crate::seat::Seat;
use crate::util::lock;
use crate::Shared;

pub(crate) struct Connection {
    pub id: u64,
    pub stream: Arc<TcpStream>,
    pub peer: SocketAddr,
    shared: Arc<Shared>,
    pub seat: Seat,
    turn: Mutex<Turn>,

    // copies for those who look without the lock
    in_hand: AtomicUsize,
    since_ms: AtomicU64,
    receiving: AtomicBool,

    // when the reader is to be looked at although nothing has arrived; `NEVER` if it has no deadline of its own
    due_ms: AtomicU64,

    // since when the peer takes nothing of an answer; `NOT_STALLED` if none is pending
    stalled_ms: AtomicU64,
}

const NOT_STALLED: u64 = u64::MAX;
const NEVER: u64 = u64::MAX;

/// Most that one call hands to the kernel, so that progress is seen in steps.
const WRITE_STEP: usize = 256 << 10;

/// Most of a source that is in memory at a time.
const SOURCE_BYTES: usize = 128 << 10;

/// Longest single wait of a writer.
const WRITE_SLICE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Turn {
    // number of the next request, and of the answer whose turn it is
    next_request: u64,
    next_answer: u64,

    // answers that came before their turn
    early: Vec<Answer>,

    // requests without a complete answer
    in_hand: usize,

    // the part of the budget of answers that this connection uses
    pending_bytes: usize,

    // a writer thread is at work
    writing: bool,

    // the reader needs a turn when so few requests are in hand
    wanted: Option<usize>,

    // the reader reads no further request
    last_read: bool,

    // nothing more is read or written
    over: bool,

    // the socket was given away
    taken: bool,
}

struct Answer {
    number: u64,
    head: Vec<u8>,
    body: Vec<u8>,

    // what follows the body
    source: Option<Source>,
    last: bool,

    // counted in `Turn::pending_bytes`
    counted: bool,
}

/// Bytes that are read while they are written.
pub(crate) struct Source {
    pub reader: Box<dyn Read + Send>,
    pub length: u64,
}

impl Answer {
    /// The bytes that are in memory.
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// The answer to a request that asks for its place in the order of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Number(u64),
    /// Too many requests are unanswered.
    Taken,
    /// The connection is over.
    Over,
}

/// The state of the reading side after a request was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    GoesOn,
    Ends,
}

impl Connection {
    pub fn new(id: u64, stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> Connection {
        Connection {
            id,
            stream: Arc::new(stream),
            peer,
            shared: Arc::clone(shared),
            seat: Seat::new(),
            turn: Mutex::new(Turn::default()),
            in_hand: AtomicUsize::new(0),
            since_ms: AtomicU64::new(shared.now_ms()),
            receiving: AtomicBool::new(false),
            due_ms: AtomicU64::new(NEVER),
            stalled_ms: AtomicU64::new(NOT_STALLED),
        }
    }

    /// Gives the next request its place in the order of answers, if fewer than `unanswered_max` requests are unanswered;
    /// else the connection gets a turn when that is so.
    pub fn admit(&self, unanswered_max: usize, reading: Reading) -> Place {
        let mut turn = lock(&self.turn);
        if turn.in_hand >= unanswered_max {
            turn.wanted = Some(unanswered_max - 1);
            return Place::Taken;
        }
        if turn.over {
            return Place::Over;
        }
        let number = turn.next_request;
        turn.next_request += 1;
        turn.last_read = reading == Reading::Ends;
        turn.wanted = turn.last_read.then_some(0);
        turn.in_hand += 1;
        self.in_hand.store(turn.in_hand, Relaxed);
        self.receiving.store(false, Relaxed);
        Place::Number(number)
    }

    /// True if every request has its answer; else the connection gets a turn when that is so.
    pub fn is_settled(&self) -> bool {
        let mut turn = lock(&self.turn);
        let is_settled = turn.in_hand == 0;
        turn.wanted = (!is_settled).then_some(0);
        is_settled
    }

    /// Has a thread in `recv()` give the connection a turn.
    pub fn call(&self) {
        if self.seat.queue() {
            // None has turns once the queue is closed.
            let _ = self.shared.ready.push(Work::Turn(self.id));
        }
    }

    /// True once nothing more is read or written.
    pub fn is_over(&self) -> bool {
        lock(&self.turn).over
    }

    /// Notes that the first byte of a request is there. Returns the time.
    pub fn begin(&self) -> u64 {
        let now_ms = self.shared.now_ms();
        self.since_ms.store(now_ms, Relaxed);
        self.receiving.store(true, Relaxed);
        now_ms
    }

    /// Sets the deadline of the reader, which holds while it is in its seat.
    pub fn set_due(&self, due_ms: Option<u64>) {
        self.due_ms.store(due_ms.unwrap_or(NEVER), Relaxed);
    }

    /// True if a deadline of the reader has passed, or the connection has been idle for too long.
    pub fn is_due(&self, now_ms: u64) -> bool {
        match self.due_ms.load(Relaxed) {
            NEVER => self.is_idle_too_long(now_ms),
            due_ms => due_ms <= now_ms,
        }
    }

    fn is_idle_too_long(&self, now_ms: u64) -> bool {
        let idle_ms = self.shared.limits.idle_time.as_millis() as u64;
        let waiting_since = self.waiting_since_ms();
        waiting_since.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= idle_ms)
    }

    /// Closes the connection if it has been idle for too long. Returns whether it did.
    pub fn close_if_idle(&self) -> bool {
        self.is_idle_too_long(self.shared.now_ms()) && self.evict()
    }

    /// Requests without a complete answer.
    pub fn in_hand(&self) -> usize {
        self.in_hand.load(Relaxed)
    }

    /// When the connection began to wait for its peer, if it does.
    pub fn waiting_since_ms(&self) -> Option<u64> {
        if self.in_hand() == 0 {
            Some(self.since_ms.load(Relaxed))
        } else {
            None
        }
    }

    /// Since when the peer takes nothing of an answer that is pending.
    pub fn stalled_since_ms(&self) -> Option<u64> {
        Some(self.stalled_ms.load(Relaxed)).filter(|since| *since != NOT_STALLED)
    }

    /// True if the peer has sent something that was not read yet.
    pub fn has_unread(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(
            rustix::net::recv(&*self.stream, &mut [0; 1], flags),
            Ok((1, _))
        )
    }

    /// True between the first byte of a request and its delivery.
    pub fn is_receiving(&self) -> bool {
        self.receiving.load(Relaxed)
    }

    /// Closes the connection unless a request is in hand. Returns whether it did.
    pub fn evict(&self) -> bool {
        let mut turn = lock(&self.turn);
        if turn.in_hand > 0 {
            return false;
        }
        self.end(&mut turn);
        true
    }

    /// Closes the connection whatever it does. Returns false if it was over already.
    pub fn kill(&self) -> bool {
        let mut turn = lock(&self.turn);
        let alive = !turn.over;
        self.end(&mut turn);
        alive
    }

    /// Writes the answer when its turn has come. `last`: the connection ends with it. Never blocks.
    pub fn answer(
        self: &Arc<Self>,
        number: u64,
        head: Vec<u8>,
        body: Vec<u8>,
        source: Option<Source>,
        last: bool,
    ) {
        let mut answer = Answer {
            number,
            head,
            body,
            source,
            last,
            counted: false,
        };
        let mut turn = lock(&self.turn);
        if turn.over {
            self.finished(&mut turn, 1);
            return;
        }
        if turn.writing || number != turn.next_answer {
            self.count_in(&mut turn, &mut answer);
            turn.early.push(answer);
            drop(turn);
            self.shared.make_room(self);
            return;
        }
        loop {
            match self.send(&answer, 0, usize::MAX, SendFlags::DONTWAIT) {
                Ok(count) if count == answer.len() && answer.source.is_none() => {}
                Ok(count) => {
                    turn.writing = true;
                    self.count_in(&mut turn, &mut answer);
                    drop(turn);
                    self.hand_over(answer, count);
                    return;
                }
                Err(_) => {
                    self.finished(&mut turn, 1);
                    self.fail(&mut turn);
                    return;
                }
            }
            match self.next_early(&mut turn, &answer) {
                Some(next) => answer = next,
                None => return,
            }
        }
    }

    /// Sends an interim answer (100) if the socket takes it at once; else the connection is broken.
    /// To be called only while no request is in hand.
    pub fn interim(&self, head: &[u8]) {
        let mut turn = lock(&self.turn);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if !turn.over && rustix::net::send(&*self.stream, head, flags) != Ok(head.len()) {
            self.fail(&mut turn);
        }
    }

    /// Marks the socket as given away. False if the connection is over.
    pub fn take(&self) -> bool {
        let mut turn = lock(&self.turn);
        let free = !turn.over;
        turn.taken = free;
        turn.over = true;
        self.finished(&mut turn, 1);
        if free {
            self.shared.ready.forget(&self.stream);
        }
        free
    }

    /// True if `take` succeeded.
    pub fn is_taken(&self) -> bool {
        lock(&self.turn).taken
    }

    /// Counts requests as answered, or given up.
    fn finished(&self, turn: &mut Turn, count: usize) {
        turn.in_hand -= count;
        if turn.in_hand == 0 {
            self.since_ms.store(self.shared.now_ms(), Relaxed);
        }
        self.in_hand.store(turn.in_hand, Relaxed);
        if turn.wanted.is_some_and(|most| turn.in_hand <= most) {
            turn.wanted = None;
            self.call();
        }
    }

    /// Moves on after a complete answer: to the next one if that is here already.
    fn next_early(&self, turn: &mut Turn, written: &Answer) -> Option<Answer> {
        self.count_out(turn, written);
        turn.next_answer += 1;
        self.finished(turn, 1);
        if written.last {
            if turn.last_read {
                // What the peer may be sending is still read, so that it gets the answer.
                turn.over = true;
                let _ = self.stream.shutdown(Shutdown::Write);
            } else {
                self.fail(turn);
            }
        }
        if turn.over {
            self.give_up_early(turn);
            return None;
        }
        let number = turn.next_answer;
        let at = turn.early.iter().position(|early| early.number == number)?;
        Some(turn.early.swap_remove(at))
    }

    /// Ends a connection that is in the registry, from which its last turn removes it.
    fn fail(&self, turn: &mut Turn) {
        self.end(turn);
        self.call();
    }

    /// Ends the connection, which the caller removes from the registry.
    fn end(&self, turn: &mut Turn) {
        if !turn.taken {
            turn.over = true;
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        self.give_up_early(turn);
        // Given back before the writer thread notices, so that no other connection is closed for the same bytes.
        let pending_bytes = mem::take(&mut turn.pending_bytes);
        self.shared.answer_used.fetch_sub(pending_bytes, Relaxed);
    }

    fn give_up_early(&self, turn: &mut Turn) {
        let early = mem::take(&mut turn.early);
        for answer in &early {
            self.count_out(turn, answer);
        }
        if !early.is_empty() {
            self.finished(turn, early.len());
        }
    }

    fn count_in(&self, turn: &mut Turn, answer: &mut Answer) {
        if !answer.counted {
            answer.counted = true;
            turn.pending_bytes += answer.len();
            self.shared.answer_used.fetch_add(answer.len(), Relaxed);
        }
    }

    fn count_out(&self, turn: &mut Turn, answer: &Answer) {
        if answer.counted {
            let bytes = answer.len().min(turn.pending_bytes);
            turn.pending_bytes -= bytes;
            self.shared.answer_used.fetch_sub(bytes, Relaxed);
        }
    }

    fn hand_over(self: &Arc<Self>, answer: Answer, sent: usize) {
        self.stalled_ms.store(self.shared.now_ms(), Relaxed);
        self.shared.make_room(self);
        let connection = Arc::clone(self);
        let task = Box::new(move || connection.write_rest(answer, sent));
        if self.shared.writers.spawn(task).is_err() {
            let mut turn = lock(&self.turn);
            self.finished(&mut turn, 1);
            self.fail(&mut turn);
        }
    }

    /// The work of a writer thread: the rest of one answer, and those that have come meanwhile.
    fn write_rest(&self, mut answer: Answer, mut sent: usize) {
        let _ = self.stream.set_write_timeout(Some(WRITE_SLICE));
        loop {
            let written = self
                .write_all(&answer, sent)
                .and_then(|()| self.write_source(answer.source.take()));
            let mut turn = lock(&self.turn);
            if written.is_err() {
                self.finished(&mut turn, 1);
                self.fail(&mut turn);
            }
            let next = match written {
                Ok(()) => self.next_early(&mut turn, &answer),
                Err(_) => None,
            };
            match next {
                Some(next) => answer = next,
                None => {
                    turn.writing = false;
                    self.stalled_ms.store(NOT_STALLED, Relaxed);
                    return;
                }
            }
            sent = 0;
        }
    }

    /// Writes as the peer takes it, and gives up on one that is too slow.
    fn write_all(&self, answer: &Answer, mut sent: usize) -> io::Result<()> {
        let mut window = (sent, Instant::now());
        while sent < answer.len() {
            let count = self.send(answer, sent, WRITE_STEP, SendFlags::empty())?;
            if count > 0 {
                sent += count;
                self.stalled_ms.store(self.shared.now_ms(), Relaxed);
            }
            let (time, least) = self.patience();
            if window.1.elapsed() >= time {
                if sent - window.0 < least && sent < answer.len() {
                    self.shared.slow_closed.fetch_add(1, Relaxed);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                window = (sent, Instant::now());
            }
        }
        Ok(())
    }

    /// Writes what a source brings. One that brings too little ends the connection, as does an error.
    fn write_source(&self, source: Option<Source>) -> io::Result<()> {
        let Some(mut source) = source else {
            return Ok(());
        };
        let mut piece = Answer {
            number: 0,
            head: Vec::new(),
            body: vec![0; source.length.min(SOURCE_BYTES as u64) as usize],
            source: None,
            last: false,
            counted: false,
        };
        while source.length > 0 {
            let room = source.length.min(piece.body.len() as u64) as usize;
            let count = match source.reader.read(&mut piece.body[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            piece.body.truncate(count);
            self.write_all(&piece, 0)?;
            source.length -= count as u64;
            let room = source.length.min(SOURCE_BYTES as u64) as usize;
            piece.body.resize(room, 0);
        }
        Ok(())
    }

    /// Bytes of an answer that a peer must read, and the time for them. While the server stops, one byte is enough, but
    /// within a shorter time.
    fn patience(&self) -> (Duration, usize) {
        let limits = &self.shared.limits;
        if self.shared.close.load(Relaxed) {
            (limits.contended_time * 2, 1)
        } else if self.shared.writers.is_full() {
            (limits.contended_time, limits.progress_bytes)
        } else {
            (limits.progress_time, limits.progress_bytes)
        }
    }

    /// One send of what follows the first `sent` bytes, at most `count_max`. A socket without room is no error: it
    /// takes nothing.
    fn send(
        &self,
        answer: &Answer,
        sent: usize,
        count_max: usize,
        flags: SendFlags,
    ) -> io::Result<usize> {
        let flags = flags | SendFlags::NOSIGNAL;
        let head = answer.head.get(sent..).unwrap_or_default();
        let head = &head[..head.len().min(count_max)];
        let body = &answer.body[sent.saturating_sub(answer.head.len())..];
        let body = &body[..body.len().min(count_max - head.len())];
        let result = match (head, body) {
            (head, []) => rustix::net::send(&*self.stream, head, flags),
            ([], body) => rustix::net::send(&*self.stream, body, flags),
            (head, body) => {
                let parts = [IoSlice::new(head), IoSlice::new(body)];
                let control = &mut SendAncillaryBuffer::default();
                rustix::net::sendmsg(&*self.stream, &parts, control, flags)
            }
        };
        match result {
            Err(Errno::AGAIN) | Err(Errno::INTR) => Ok(0),
            result => Ok(result?),
        }
    }
}
