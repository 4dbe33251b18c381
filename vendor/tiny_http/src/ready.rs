//! What a thread in `recv()` waits for: a connection that can be read, or something in a queue.
//!
//! New file; replaces upstream's `util/messages_queue.rs`. Every thread in `recv()` waits on one epoll. The kernel wakes
//! one of them for each connection that has become readable, the one that has begun to wait last.
//!
//! Invariants:
//!
//! - `signal` is readable exactly while the queue holds something or is closed: it changes under the lock of the queue.
//!   It is watched by level, so it wakes threads until that has ended.
//! - Connections are watched by edge. An event names a connection and is reported once; it is never lost, because
//!   the thread that gets it finds the reader of the connection in its seat or leaves a note there (`seat.rs`).
//! - The queue and the epoll come first in turns, so that neither can starve the other.
//! - If no thread waits, `bell` has been rung since one did, and the front thread looks after the connections.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::Mutex;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags, Timespec};

use crate::request::Request;
use crate::util::lock;

pub(crate) struct Ready {
    epoll: OwnedFd,
    signal: OwnedFd,
    queue: Mutex<Queue>,

    // the length of the queue, for those who look without the lock
    queued: AtomicUsize,

    // threads inside `epoll::wait`, and how often one has asked for work
    waiting: AtomicUsize,
    asked: AtomicUsize,

    // wakes the front thread; `watched` is set from its ring until the front has seen a thread that waits
    bell: OwnedFd,
    watched: AtomicBool,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Work>,

    // set once by `close()`, never reset
    closed: bool,
}

/// Something for a thread in `recv()`.
pub(crate) enum Work {
    /// A request that the front thread has read.
    Request(Box<Request>),
    /// The connection of this number can go on: an answer was what it waited for, or others came first.
    Turn(u64),
    /// The connection of this number can be read.
    Readable(Readable),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Readable {
    pub id: u64,
    /// The peer sends nothing more, so that the end must be read too.
    pub ends: bool,
}

/// The events of a connection that are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Each one.
    Always,
    /// The next one.
    Once,
}

impl Watch {
    fn flags(self) -> EventFlags {
        let all = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match self {
            Watch::Always => all,
            Watch::Once => all | EventFlags::ONESHOT,
        }
    }
}

/// The number by which the epoll names `signal`. Connections count from 1.
const SIGNAL: u64 = 0;

/// Connections that the front thread takes from the epoll at a time.
const BATCH: usize = 64;

const NO_EVENT: epoll::Event = epoll::Event {
    flags: EventFlags::empty(),
    data: EventData::new_u64(SIGNAL),
};

impl Ready {
    pub fn new() -> io::Result<Ready> {
        let counter = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let signal = counter()?;
        epoll::add(&epoll, &signal, EventData::new_u64(SIGNAL), EventFlags::IN)?;
        Ok(Ready {
            epoll,
            signal,
            queue: Mutex::default(),
            queued: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            bell: counter()?,
            watched: AtomicBool::new(false),
        })
    }

    /// Reports from now on when the socket can be read. Closing it ends that.
    pub fn watch(&self, id: u64, stream: &TcpStream) -> io::Result<()> {
        let flags = Watch::Always.flags();
        let id = EventData::new_u64(id);
        Ok(epoll::add(&self.epoll, stream, id, flags)?)
    }

    /// Changes that. What can be read already is reported again.
    pub fn rewatch(&self, id: u64, stream: &TcpStream, watch: Watch) {
        let id = EventData::new_u64(id);
        let _ = epoll::modify(&self.epoll, stream, id, watch.flags());
    }

    /// For a socket that is given away and stays open.
    pub fn forget(&self, stream: &TcpStream) {
        let _ = epoll::delete(&self.epoll, stream);
    }

    /// Queues something. Gives it back once the queue is closed.
    pub fn push(&self, work: Work) -> Result<(), Work> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(work);
        }
        queue.items.push_back(work);
        self.queued.store(queue.items.len(), Relaxed);
        if queue.items.len() == 1 {
            raise(&self.signal);
        }
        Ok(())
    }

    /// Forgets the turns of connections that are gone. `is_there` may take the lock of the registry, under which nothing
    /// is queued.
    pub fn retain_turns(&self, is_there: impl Fn(u64) -> bool) {
        let mut queue = lock(&self.queue);
        if !queue.items.is_empty() {
            queue
                .items
                .retain(|work| !matches!(work, Work::Turn(id) if !is_there(*id)));
            self.settle(&queue);
        }
    }

    /// Takes out everything. What is dropped may come back to the queue.
    pub fn take_all(&self) -> VecDeque<Work> {
        let mut queue = lock(&self.queue);
        let items = std::mem::take(&mut queue.items);
        self.settle(&queue);
        items
    }

    /// Ends the waiting of all threads. What is queued is still handed out, then `next()` returns None for ever.
    pub fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        raise(&self.signal);
    }

    /// Blocks until there is something to do. None: the queue is closed and empty.
    pub fn next(&self) -> Option<Work> {
        loop {
            let is_queue_first = self.asked.fetch_add(1, Relaxed) % 2 == 0;
            if is_queue_first && self.queued.load(Relaxed) > 0 {
                if let Some(work) = self.pop() {
                    return Some(work);
                }
            }
            match self.wait() {
                Some(readable) => return Some(Work::Readable(readable)),
                None => match self.pop() {
                    Some(work) => return Some(work),
                    None if lock(&self.queue).closed => return None,
                    None => {}
                },
            }
        }
    }

    /// Waits for a connection or the queue (None).
    fn wait(&self) -> Option<Readable> {
        self.waiting.fetch_add(1, SeqCst);
        let mut events = [NO_EVENT; 1];
        let result = epoll::wait(&self.epoll, &mut events, None);
        if self.waiting.fetch_sub(1, SeqCst) == 1 && !self.watched.swap(true, SeqCst) {
            self.ring();
        }
        match result {
            Ok(1) => readable(&events[0]),
            _ => None,
        }
    }

    fn pop(&self) -> Option<Work> {
        let mut queue = lock(&self.queue);
        let work = queue.items.pop_front()?;
        self.settle(&queue);
        Some(work)
    }

    /// Brings the copies up to date after something was taken out.
    fn settle(&self, queue: &Queue) {
        self.queued.store(queue.items.len(), Relaxed);
        if queue.items.is_empty() && !queue.closed {
            lower(&self.signal);
        }
    }

    /// Connections that can be read now, for the front thread.
    pub fn readable_now(&self) -> Vec<Readable> {
        let mut events = [NO_EVENT; BATCH];
        let now = Timespec::default();
        let count = epoll::wait(&self.epoll, &mut events, Some(&now)).unwrap_or(0);
        events[..count].iter().filter_map(readable).collect()
    }

    /// Wakes the front thread.
    pub fn ring(&self) {
        raise(&self.bell);
    }

    pub fn bell(&self) -> impl AsFd + '_ {
        &self.bell
    }

    pub fn silence_bell(&self) {
        lower(&self.bell);
    }

    /// True from the moment at which no thread waited until `unwatch`.
    pub fn is_watched(&self) -> bool {
        self.watched.load(SeqCst)
    }

    /// Ends the watch if a thread waits. Returns whether one does.
    pub fn unwatch(&self) -> bool {
        if self.waiting.load(SeqCst) == 0 {
            return false;
        }
        self.watched.store(false, SeqCst);
        // The last one may have gone to work before the flag was down.
        if self.waiting.load(SeqCst) == 0 {
            self.watched.store(true, SeqCst);
        }
        true
    }

    /// Changes whenever a thread asks for work.
    pub fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

fn readable(event: &epoll::Event) -> Option<Readable> {
    let (id, flags) = (event.data.u64(), event.flags);
    let ends = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    (id != SIGNAL).then_some(Readable { id, ends })
}

fn raise(counter: &OwnedFd) {
    let _ = rustix::io::write(counter, &1_u64.to_ne_bytes());
}

fn lower(counter: &OwnedFd) {
    let _ = rustix::io::read(counter, &mut [0; 8]);
}
