//! The thread: waits for events and news, and gives the sockets their turns.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno;

use crate::base::budget::Budget;
use crate::base::error::Result;
use crate::base::log;
use crate::base::threads::lock;
use crate::net::sockets::conn::{Conn, GOING_AWAY, Interest, Turn, Why};
use crate::net::sockets::{Adoption, Core, Settings, Totals};

/// What epoll says for the waker; sockets have higher ones.
const WAKER_TOKEN: u64 = 0;
const FIRST_TOKEN: u64 = 1;
/// Events taken at a time.
const EVENTS_MAX: usize = 256;
/// Longest pause between two looks at all sockets.
const SCAN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Left of the time for stopping when all sockets are dropped.
const STOP_MARGIN: Duration = Duration::from_millis(200);

/// Makes what the thread will work with.
pub fn prepare(
    settings: Settings,
    sockets: &Arc<Budget>,
    outboxes: &Arc<Budget>,
) -> Result<Driver> {
    let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(WAKER_TOKEN);
    epoll::add(&epoll, &waker, data, epoll::EventFlags::IN)?;
    let core = Core {
        settings,
        sockets: Arc::clone(sockets),
        outboxes: Arc::clone(outboxes),
        outlets: Mutex::default(),
        waker,
        inbox: Mutex::default(),
        tokens: AtomicU64::new(FIRST_TOKEN),
        totals: Totals::default(),
    };
    Ok(Driver {
        next_scan: Instant::now() + scan_pause(&core),
        core: Arc::new(core),
        epoll,
        conns: HashMap::new(),
        ready: VecDeque::new(),
        ends: VecDeque::new(),
        large: 0,
        stop: None,
    })
}

/// Ends the wait of the thread, or its next one.
pub fn wake(waker: impl AsFd) {
    // Full it can only be when nobody has read it: then it wakes anyway.
    let _ = rustix::io::write(waker, &1_u64.to_ne_bytes());
}

/// What the thread owns.
pub struct Driver {
    pub core: Arc<Core>,
    epoll: OwnedFd,
    conns: HashMap<u64, Conn>,
    /// Sockets that wait for their turn, each once.
    ready: VecDeque<u64>,
    /// When closing sockets are dropped, earliest first.
    ends: VecDeque<(Instant, u64)>,
    next_scan: Instant,
    /// Bytes that large messages take up.
    large: usize,
    /// Stopping, until then.
    stop: Option<Instant>,
}

impl Driver {
    /// The thread's whole life.
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.goes_on() {
            if let Err(error) = self.wait(&mut events) {
                log::error(format_args!("sockets end: wait for events: {error}"));
                break;
            }
            #[cfg(test)]
            self.core.totals.rounds.fetch_add(1, Relaxed);
            self.take_news();
            self.look_at_clock();
            for _ in 0..self.ready.len() {
                if let Some(token) = self.ready.pop_front() {
                    self.turn(token);
                }
            }
        }
        self.finish();
    }

    fn goes_on(&self) -> bool {
        self.stop
            .is_none_or(|deadline| !self.conns.is_empty() && Instant::now() < deadline)
    }

    /// Waits for something to do, if there is nothing.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> Result<()> {
        let is_idle = self.ready.is_empty() && {
            let mut inbox = lock(&self.core.inbox);
            let is_empty = inbox.adoptions.is_empty()
                && inbox.signals.is_empty()
                && inbox.stop.is_some() == self.stop.is_some();
            inbox.is_asleep = is_empty;
            is_empty
        };
        let pause = if is_idle {
            self.pause()
        } else {
            Duration::ZERO
        };
        let limit = Timespec {
            tv_sec: pause.as_secs().try_into().unwrap_or(1),
            tv_nsec: pause.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let cut = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        for event in events.drain(..) {
            let flags = event.flags;
            match event.data.u64() {
                WAKER_TOKEN => {
                    let _ = rustix::io::read(&self.core.waker, &mut [0_u8; 8]);
                }
                token => {
                    if let Some(conn) = self.conns.get_mut(&token) {
                        conn.is_cut |= flags.intersects(cut);
                        conn.may_read |= flags.intersects(cut | epoll::EventFlags::IN);
                    }
                    self.enqueue(token);
                }
            }
        }
        Ok(())
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        let end = self.ends.front().map(|(end, _)| *end);
        let moments = [Some(self.next_scan), end, self.stop];
        let next = moments.into_iter().flatten().min();
        next.map_or(SCAN_PAUSE_MAX, |next| {
            next.saturating_duration_since(Instant::now())
        })
    }

    fn enqueue(&mut self, token: u64) {
        if let Some(conn) = self.conns.get_mut(&token)
            && !conn.is_queued
        {
            conn.is_queued = true;
            self.ready.push_back(token);
        }
    }

    fn take_news(&mut self) {
        let (adoptions, signals, stop) = {
            let mut inbox = lock(&self.core.inbox);
            inbox.is_asleep = false;
            inbox.signalled = None;
            (
                std::mem::take(&mut inbox.adoptions),
                std::mem::take(&mut inbox.signals),
                inbox.stop,
            )
        };
        for adoption in adoptions {
            self.adopt(adoption);
        }
        if let Some(deadline) = stop
            && self.stop.is_none()
        {
            self.begin_stop(deadline);
        }
        for token in signals {
            self.enqueue(token);
        }
    }

    fn adopt(&mut self, adoption: Adoption) {
        let token = adoption.token;
        let totals = &self.core.totals;
        totals.opened.fetch_add(1, Relaxed);
        let conn = Conn::new(adoption, &self.core, Instant::now());
        let data = epoll::EventData::new_u64(token);
        let added = epoll::add(&self.epoll, conn.stream(), data, flags(conn.watched));
        self.conns.insert(token, conn);
        match added {
            // What came early is not known to epoll.
            Ok(()) if self.stop.is_none() => self.enqueue(token),
            Ok(()) => self.close(token),
            Err(error) => {
                log::warn(format_args!("take a socket over: {error}"));
                self.end(token, Why::Closed);
            }
        }
    }

    fn begin_stop(&mut self, deadline: Instant) {
        self.stop = Some(deadline.checked_sub(STOP_MARGIN).unwrap_or(deadline));
        let tokens: Vec<u64> = self.conns.keys().copied().collect();
        for token in tokens {
            self.close(token);
        }
    }

    fn close(&mut self, token: u64) {
        if let Some(conn) = self.conns.get(&token) {
            conn.close(GOING_AWAY, "the server stops");
        }
        self.enqueue(token);
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        while let Some((end, token)) = self.ends.front().copied()
            && end <= now
        {
            self.ends.pop_front();
            self.end(token, Why::Closed);
        }
        if now < self.next_scan {
            return;
        }
        self.next_scan = now + scan_pause(&self.core);
        let tokens: Vec<u64> = self.conns.keys().copied().collect();
        for token in tokens {
            let outcome = match self.conns.get_mut(&token) {
                Some(conn) => guard(|| conn.tick(now)),
                None => continue,
            };
            self.follow(token, outcome);
        }
    }

    fn turn(&mut self, token: u64) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        conn.is_queued = false;
        let large = &mut self.large;
        let outcome = guard(|| conn.turn(Instant::now(), large));
        self.follow(token, outcome);
    }

    /// Does what a turn has led to.
    fn follow(&mut self, token: u64, outcome: Turn) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        if let Turn::Over(why) = outcome {
            self.end(token, why);
            return;
        }
        if let Some(end) = conn.ends_at
            && !conn.is_listed
        {
            conn.is_listed = true;
            self.ends.push_back((end, token));
        }
        let interest = conn.interest();
        if interest != conn.watched {
            conn.watched = interest;
            let data = epoll::EventData::new_u64(token);
            if let Err(error) = epoll::modify(&self.epoll, conn.stream(), data, flags(interest)) {
                log::warn(format_args!("watch a socket: {error}"));
                self.end(token, Why::Closed);
                return;
            }
        }
        if outcome == Turn::Again {
            self.enqueue(token);
        }
    }

    fn end(&mut self, token: u64, why: Why) {
        let Some(conn) = self.conns.remove(&token) else {
            return;
        };
        // The engine may hold the connection a moment longer than we do.
        let _ = epoll::delete(&self.epoll, conn.stream());
        self.large = self.large.saturating_sub(conn.large());
        let totals = &self.core.totals;
        totals.closed.fetch_add(1, Relaxed);
        match why {
            Why::Closed => 0,
            Why::Slow => totals.slow_closed.fetch_add(1, Relaxed),
            Why::Dead => totals.dead_closed.fetch_add(1, Relaxed),
        };
        conn.end();
    }

    /// Drops what is left and takes nothing more.
    fn finish(&mut self) {
        let tokens: Vec<u64> = self.conns.keys().copied().collect();
        for token in tokens {
            self.end(token, Why::Closed);
        }
        let mut inbox = lock(&self.core.inbox);
        inbox.is_over = true;
        inbox.stop.get_or_insert_with(Instant::now);
        let left = std::mem::take(&mut inbox.adoptions);
        drop(inbox);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(left)));
    }
}

/// A panic over one socket must not end the thread that all the others need.
fn guard(turn: impl FnOnce() -> Turn) -> Turn {
    catch_unwind(AssertUnwindSafe(turn)).unwrap_or(Turn::Over(Why::Closed))
}

/// Besides these, epoll reports a connection that is cut, whatever one asks for.
fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.reads);
    flags.set(epoll::EventFlags::OUT, interest.writes);
    flags
}

fn scan_pause(core: &Core) -> Duration {
    let settings = &core.settings;
    SCAN_PAUSE_MAX.min(settings.ping_every.min(settings.hold_max) / 4)
}
