//! The front thread: accepts connections, makes room for them, and ends those whose time is up.
//!
//! New file; replaces the accept thread of upstream's `lib.rs`. Requests are read by the threads in `recv()`. If all of
//! them are at work for a while, the front thread reads heads for them, so that malformed ones are refused and whole
//! requests are known, whatever the owner's threads do. It calls no hook that blocks, and never waits for a peer.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::SendFlags;

use crate::connection::Connection;
use crate::limits::Limits;
use crate::ready::Work;
use crate::step::{By, Scratch};
use crate::turn::take_turn;
use crate::util::lock;
use crate::Shared;

/// Longest pause after a failure to accept, for the system to recover.
const BACK_OFF: Duration = Duration::from_millis(10);

/// The part of the connections that goes when the system runs short of something.
const MAKE_WAY_PART: usize = 8;

/// Connections accepted in a row, before the front thread looks at anything else.
const ACCEPTS: usize = 64;

/// Longest time between two looks at the deadlines.
const SWEEP: Duration = Duration::from_secs(1);

/// Interval at which the front thread looks whether the threads in `recv()` ask for work, while none waits for it.
const WATCH: Duration = Duration::from_millis(10);

/// Connections whose heads the front thread reads in such an interval, in batches.
const BATCHES: usize = 4;

pub(crate) struct Front {
    listener: Option<Arc<TcpListener>>,
    shared: Arc<Shared>,
    scratch: Scratch,
    next_id: u64,
    swept: Instant,

    // how often work had been asked for at the last look
    asked: usize,
}

impl Front {
    pub fn new(listener: Arc<TcpListener>, shared: Arc<Shared>) -> Front {
        Front {
            listener: Some(listener),
            shared,
            scratch: Scratch::default(),
            next_id: 0,
            swept: Instant::now(),
            asked: 0,
        }
    }

    /// The life of the thread. Ends with the server.
    pub fn run(mut self) {
        let sweep = sweep_interval(&self.shared.limits);
        while !self.shared.ended.load(Relaxed) {
            let is_watched = self.shared.ready.is_watched();
            let until_sweep = match self.shared.registry.is_empty() {
                true => None,
                false => Some(sweep.saturating_sub(self.swept.elapsed())),
            };
            let wait = match is_watched {
                true => Some(until_sweep.map_or(WATCH, |left| left.min(WATCH))),
                false => until_sweep,
            };
            if self.wait(wait) {
                self.accept();
            }
            if self.swept.elapsed() >= sweep {
                self.sweep();
            }
            if is_watched {
                self.look_after();
            }
        }
    }

    /// Waits until a connection can be accepted, which is answered with true, the bell rings or the time is up.
    fn wait(&mut self, time: Option<Duration>) -> bool {
        if self.shared.close.load(Relaxed) {
            self.listener = None;
        }
        let shared = Arc::clone(&self.shared);
        let bell = shared.ready.bell();
        let mut sources = vec![PollFd::new(&bell, PollFlags::IN)];
        if let Some(listener) = &self.listener {
            sources.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let _ = poll(&mut sources, time.as_ref());
        if !sources[0].revents().is_empty() {
            shared.ready.silence_bell();
        }
        sources.get(1).is_some_and(|it| !it.revents().is_empty())
    }

    fn accept(&mut self) {
        let shared = Arc::clone(&self.shared);
        // Held while connections are accepted, so that none is after `stop_accepting`.
        let gate = lock(&shared.accepting);
        let Some(listener) = &*gate else {
            return;
        };
        for _ in 0..ACCEPTS {
            match listener.accept() {
                Ok((stream, peer)) => self.start(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    accept_failed(&error, &shared);
                    // Other errors are those of one peer, which gave up before it was accepted.
                    if is_shortage(&error) {
                        drop(gate);
                        return make_way(&shared);
                    }
                }
            }
        }
    }

    /// Takes in a new connection, at the cost of another one if there are too many.
    fn start(&mut self, stream: TcpStream, peer: SocketAddr) {
        let shared = &self.shared;
        self.next_id += 1;
        shared.accepted.fetch_add(1, Relaxed);
        if shared.registry.len() >= shared.limits.max_connections.max(1) {
            if !shared.registry.evict_longest_waiting() {
                shared.turned_away.fetch_add(1, Relaxed);
                return turn_away(&stream, shared);
            }
            shared.evicted.fetch_add(1, Relaxed);
        }
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let connection = Arc::new(Connection::new(self.next_id, stream, peer, shared));
        shared.registry.insert(&connection);
        if let Err(error) = shared.ready.watch(connection.id, &connection.stream) {
            shared.registry.remove(connection.id);
            accept_failed(&error, shared);
        }
    }

    /// Ends what has waited for too long, and forgets turns of connections that are gone.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let shared = Arc::clone(&self.shared);
        for connection in shared.registry.due(shared.now_ms()) {
            let Some(mut reader) = connection.seat.take() else {
                continue;
            };
            match connection.has_unread() {
                // It has waited for us. The thread that reads it sees how long it has taken.
                true => {
                    connection.seat.put(reader);
                    connection.call();
                }
                false => {
                    reader.expire(&connection, &shared);
                    take_turn(&shared, &connection, reader, By::Front, &mut self.scratch);
                }
            }
        }
        let is_there = |id| shared.registry.get(id).is_some();
        shared.ready.retain_turns(is_there);
    }

    /// Reads heads if no thread has asked for work since the last look.
    fn look_after(&mut self) {
        let shared = Arc::clone(&self.shared);
        let asked = shared.ready.asked();
        if shared.ready.unwatch() || asked != self.asked {
            self.asked = asked;
            return;
        }
        for _ in 0..BATCHES {
            let batch = shared.ready.readable_now();
            if batch.is_empty() {
                return;
            }
            for readable in batch {
                let request = shared.read(readable, By::Front, &mut self.scratch);
                if let Some(request) = request {
                    // Dropped, and thereby refused, after `unblock`.
                    let _ = shared.ready.push(Work::Request(Box::new(request)));
                }
            }
        }
    }
}

/// As precise as the shortest of the times.
fn sweep_interval(limits: &Limits) -> Duration {
    let shortest = limits.slice.min(limits.idle_time).min(limits.head_time);
    let shortest = shortest.min(limits.progress_time).min(limits.drain_time);
    (shortest / 2).clamp(Duration::from_millis(1), SWEEP)
}

/// True if the system has no descriptors or no memory left.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_none_or(|errno| shortages.contains(&errno))
}

/// Closes some of the connections that have waited longest: more than one, so that the next ones that arrive, and
/// files, find room. If none can be closed, pauses for `BACK_OFF`.
fn make_way(shared: &Shared) {
    let mut evicted = 0;
    for _ in 0..=shared.registry.len() / MAKE_WAY_PART {
        evicted += u64::from(shared.registry.evict_longest_waiting());
    }
    shared.evicted.fetch_add(evicted, Relaxed);
    if evicted == 0 {
        thread::sleep(BACK_OFF);
    }
}

fn accept_failed(error: &io::Error, shared: &Shared) {
    shared.accept_errors.fetch_add(1, Relaxed);
    (shared.hooks.accept_failed)(error);
}

/// Tells a peer that there is no room, if its socket takes the words at once.
fn turn_away(stream: &TcpStream, shared: &Shared) {
    let answer = (shared.hooks.refusal)(503);
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(stream, &answer, flags);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
