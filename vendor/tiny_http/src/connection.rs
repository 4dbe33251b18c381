//! One accepted connection: its only descriptor, the order of its answers, and whether it may be closed to make room.
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
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::util::lock;
use crate::Shared;

pub(crate) struct Connection {
    pub id: u64,
    pub stream: Arc<TcpStream>,
    pub peer: SocketAddr,
    shared: Arc<Shared>,
    turn: Mutex<Turn>,

    // the connection's thread waits here for answers
    answered: Condvar,

    // copies for those who look without the lock
    in_hand: AtomicUsize,
    since_ms: AtomicU64,
    receiving: AtomicBool,

    // since when the peer takes nothing of an answer; `NOT_STALLED` if none is pending
    stalled_ms: AtomicU64,
}

const NOT_STALLED: u64 = u64::MAX;

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

    // the connection's thread waits on `answered`
    waiting: bool,

    // the connection's thread reads no further request
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
            turn: Mutex::new(Turn::default()),
            answered: Condvar::new(),
            in_hand: AtomicUsize::new(0),
            since_ms: AtomicU64::new(shared.now_ms()),
            receiving: AtomicBool::new(false),
            stalled_ms: AtomicU64::new(NOT_STALLED),
        }
    }

    /// Gives the next request its place in the order of answers. Waits while `unanswered_max` requests are unanswered.
    /// None: the connection is over.
    pub fn admit(&self, unanswered_max: usize, reading: Reading) -> Option<u64> {
        let mut turn = self.wait_for(unanswered_max - 1);
        if turn.over {
            return None;
        }
        let number = turn.next_request;
        turn.next_request += 1;
        turn.last_read = reading == Reading::Ends;
        turn.in_hand += 1;
        self.in_hand.store(turn.in_hand, Relaxed);
        self.receiving.store(false, Relaxed);
        Some(number)
    }

    /// Waits until every request has its answer.
    pub fn settle(&self) {
        drop(self.wait_for(0));
    }

    /// True once nothing more is read or written.
    pub fn is_over(&self) -> bool {
        lock(&self.turn).over
    }

    /// Notes that the first byte of a request is there.
    pub fn begin(&self) {
        self.since_ms.store(self.shared.now_ms(), Relaxed);
        self.receiving.store(true, Relaxed);
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
                    self.end(&mut turn);
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
            self.end(&mut turn);
        }
    }

    /// Marks the socket as given away; the connection's thread releases it.
    /// False if the connection is over.
    pub fn take(&self) -> bool {
        let mut turn = lock(&self.turn);
        let free = !turn.over;
        turn.taken = free;
        turn.over = true;
        self.finished(&mut turn, 1);
        free
    }

    /// True if `take` succeeded.
    pub fn is_taken(&self) -> bool {
        lock(&self.turn).taken
    }

    fn wait_for(&self, in_hand_max: usize) -> MutexGuard<'_, Turn> {
        let mut turn = lock(&self.turn);
        while turn.in_hand > in_hand_max {
            turn.waiting = true;
            turn = self
                .answered
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
        }
        turn.waiting = false;
        turn
    }

    /// Counts requests as answered, or given up.
    fn finished(&self, turn: &mut Turn, count: usize) {
        turn.in_hand -= count;
        if turn.in_hand == 0 {
            self.since_ms.store(self.shared.now_ms(), Relaxed);
        }
        self.in_hand.store(turn.in_hand, Relaxed);
        if turn.waiting {
            self.answered.notify_one();
        }
    }

    /// Moves on after a complete answer: to the next one if that is here already.
    fn next_early(&self, turn: &mut Turn, written: &Answer) -> Option<Answer> {
        self.count_out(turn, written);
        turn.next_answer += 1;
        self.finished(turn, 1);
        if written.last {
            if turn.last_read {
                // The connection's thread still reads what the peer may be sending, so that it gets the answer.
                turn.over = true;
                let _ = self.stream.shutdown(Shutdown::Write);
            } else {
                self.end(turn);
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
            self.end(&mut turn);
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
                self.end(&mut turn);
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
