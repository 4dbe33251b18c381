//! The thread: waits for events and inbox entries, and gives the sockets their turns.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno;

use super::conn::{Conn, EndReason, Interest, Turn};
use super::shared::{HubSettings, HubTotals, Inbox, Registration, Shared};
use super::transport::GOING_AWAY;
use crate::base::budget::Budget;
use crate::base::error::Result;
use crate::base::log;
use crate::base::threads::lock;

/// The epoll data of the waker. Tokens of sockets are higher.
const WAKER_TOKEN: u64 = 0;
const FIRST_TOKEN: u64 = 1;
/// Events received by one call of epoll.
const EVENTS_MAX: usize = 256;
/// Longest interval between two scans of all sockets.
const SCAN_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// All sockets are dropped so long before the deadline of a stop.
const STOP_MARGIN: Duration = Duration::from_millis(200);

/// Creates the state of the thread.
pub fn prepare(
    settings: HubSettings,
    sockets: &Arc<Budget>,
    send_queue_bytes: &Arc<Budget>,
) -> Result<Driver> {
    let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(WAKER_TOKEN);
    epoll::add(&epoll, &waker, data, epoll::EventFlags::IN)?;
    let shared = Shared {
        settings,
        sockets: Arc::clone(sockets),
        send_queue_bytes: Arc::clone(send_queue_bytes),
        send_queues: Mutex::default(),
        waker,
        inbox: Mutex::new(Inbox::default()),
        tokens: AtomicU64::new(FIRST_TOKEN),
        totals: HubTotals::default(),
    };
    Ok(Driver {
        next_scan: Instant::now() + scan_interval(&shared),
        shared: Arc::new(shared),
        epoll,
        conns: HashMap::new(),
        ready: VecDeque::new(),
        ends: VecDeque::new(),
        large: 0,
        stop: None,
    })
}

/// The state that only the thread uses.
pub struct Driver {
    pub shared: Arc<Shared>,
    epoll: OwnedFd,
    conns: HashMap<u64, Conn>,
    /// Sockets that wait for a turn, each once.
    ready: VecDeque<u64>,
    /// Closing sockets and when to drop them, earliest first.
    ends: VecDeque<(Instant, u64)>,
    next_scan: Instant,
    /// Bytes held by large messages.
    large: usize,
    /// Deadline of a stop in progress.
    stop: Option<Instant>,
}

impl Driver {
    pub fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.is_running() {
            if let Err(error) = self.wait(&mut events) {
                log::error(format_args!("the hub ends: wait for events: {error}"));
                break;
            }
            #[cfg(test)]
            self.shared.totals.rounds.fetch_add(1, Relaxed);
            self.process_inbox();
            self.run_timers();
            for _ in 0..self.ready.len() {
                if let Some(token) = self.ready.pop_front() {
                    self.turn(token);
                }
            }
        }
        self.finish();
    }

    fn is_running(&self) -> bool {
        self.stop
            .is_none_or(|deadline| !self.conns.is_empty() && Instant::now() < deadline)
    }

    /// Waits for events, or only polls them if there is work to do.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> Result<()> {
        let is_idle = self.ready.is_empty() && {
            let mut inbox = lock(&self.shared.inbox);
            let is_empty = inbox.registrations.is_empty()
                && inbox.signals.is_empty()
                && inbox.stop.is_some() == self.stop.is_some();
            inbox.is_asleep = is_empty;
            is_empty
        };
        let timeout = if is_idle {
            self.timeout()
        } else {
            Duration::ZERO
        };
        let limit = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(1),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        for event in events.drain(..) {
            let flags = event.flags;
            match event.data.u64() {
                WAKER_TOKEN => {
                    let _ = rustix::io::read(&self.shared.waker, &mut [0_u8; 8]);
                }
                token => {
                    if let Some(conn) = self.conns.get_mut(&token) {
                        conn.is_broken |= flags.intersects(broken);
                        conn.may_read |= flags.intersects(broken | epoll::EventFlags::IN);
                    }
                    self.enqueue(token);
                }
            }
        }
        Ok(())
    }

    /// Time until the next scan or deadline.
    fn timeout(&self) -> Duration {
        let end = self.ends.front().map(|(end, _)| *end);
        let moments = [Some(self.next_scan), end, self.stop];
        let next = moments.into_iter().flatten().min();
        next.map_or(SCAN_INTERVAL_MAX, |next| {
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

    fn process_inbox(&mut self) {
        let (registrations, signals, stop) = {
            let mut inbox = lock(&self.shared.inbox);
            inbox.is_asleep = false;
            inbox.signalled = None;
            (
                std::mem::take(&mut inbox.registrations),
                std::mem::take(&mut inbox.signals),
                inbox.stop,
            )
        };
        for registration in registrations {
            self.register(registration);
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

    fn register(&mut self, registration: Registration) {
        let token = registration.token;
        let totals = &self.shared.totals;
        totals.opened.fetch_add(1, Relaxed);
        let conn = Conn::new(registration, &self.shared, Instant::now());
        let data = epoll::EventData::new_u64(token);
        let added = epoll::add(&self.epoll, conn.stream(), data, flags(conn.watched));
        self.conns.insert(token, conn);
        match added {
            // Bytes that came with the request are unknown to epoll, so the socket needs a turn.
            Ok(()) if self.stop.is_none() => self.enqueue(token),
            Ok(()) => self.close(token),
            Err(error) => {
                log::warn(format_args!("register a socket: {error}"));
                self.end(token, EndReason::Closed);
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
            conn.close(GOING_AWAY, "the server is stopping");
        }
        self.enqueue(token);
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some((end, token)) = self.ends.front().copied()
            && end <= now
        {
            self.ends.pop_front();
            self.end(token, EndReason::Closed);
        }
        if now < self.next_scan {
            return;
        }
        self.next_scan = now + scan_interval(&self.shared);
        let tokens: Vec<u64> = self.conns.keys().copied().collect();
        for token in tokens {
            let outcome = match self.conns.get_mut(&token) {
                Some(conn) => guard(|| conn.tick(now)),
                None => continue,
            };
            self.apply(token, outcome);
        }
    }

    fn turn(&mut self, token: u64) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        conn.is_queued = false;
        let large = &mut self.large;
        let outcome = guard(|| conn.turn(Instant::now(), large));
        self.apply(token, outcome);
    }

    /// Applies the outcome of a turn.
    fn apply(&mut self, token: u64, outcome: Turn) {
        let Some(conn) = self.conns.get_mut(&token) else {
            return;
        };
        if let Turn::End(why) = outcome {
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
                self.end(token, EndReason::Closed);
                return;
            }
        }
        if outcome == Turn::Again {
            self.enqueue(token);
        }
    }

    fn end(&mut self, token: u64, why: EndReason) {
        let Some(conn) = self.conns.remove(&token) else {
            return;
        };
        // The HTTP engine may hold the connection a moment longer, so closing would not remove it.
        let _ = epoll::delete(&self.epoll, conn.stream());
        self.large = self.large.saturating_sub(conn.large());
        let totals = &self.shared.totals;
        totals.closed.fetch_add(1, Relaxed);
        match why {
            EndReason::Closed => 0,
            EndReason::Slow => totals.slow_closed.fetch_add(1, Relaxed),
            EndReason::Dead => totals.dead_closed.fetch_add(1, Relaxed),
        };
        conn.end();
    }

    /// Drops all sockets and registrations, and accepts no more.
    fn finish(&mut self) {
        let tokens: Vec<u64> = self.conns.keys().copied().collect();
        for token in tokens {
            self.end(token, EndReason::Closed);
        }
        let mut inbox = lock(&self.shared.inbox);
        inbox.is_over = true;
        inbox.stop.get_or_insert_with(Instant::now);
        let left = std::mem::take(&mut inbox.registrations);
        drop(inbox);
        let _ = catch_unwind(AssertUnwindSafe(|| drop(left)));
    }
}

/// Contains a panic, so that it ends one socket and not the thread.
fn guard(turn: impl FnOnce() -> Turn) -> Turn {
    catch_unwind(AssertUnwindSafe(turn)).unwrap_or(Turn::End(EndReason::Closed))
}

/// epoll also reports HUP and ERR, which need not be requested.
fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.reads);
    flags.set(epoll::EventFlags::OUT, interest.writes);
    flags
}

fn scan_interval(shared: &Shared) -> Duration {
    let settings = &shared.settings;
    SCAN_INTERVAL_MAX.min(settings.ping_every.min(settings.pause_max) / 4)
}
