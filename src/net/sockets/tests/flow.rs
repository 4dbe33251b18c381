//! Handlers that pause their sockets.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::{
    Event, Flow, Hub, Message, Pair, SocketHandle, SocketHandler, TIMEOUT, Text, close_code,
    connect, connect_early, connect_over, echo, frame, hub, reserve, stop, streams, wait_until,
};
use crate::base::threads;
use crate::base::threads::Stop;

fn rounds(hub: &Hub) -> u64 {
    hub.shared.totals.rounds.load(Relaxed)
}

fn frames<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Vec<u8> {
    let frames = texts
        .into_iter()
        .map(|it| frame(0x81, it.as_ref().as_bytes()));
    frames.collect::<Vec<_>>().concat()
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

/// A paused socket with one unread text in the buffer of tungstenite and one in the system.
fn held(hub: &Hub) -> Pair {
    let mut pair = connect_early(hub, frames(["hold", "above"]));
    assert_eq!(pair.next(), text("hold"));
    wait_until("it is held", || pair.handle.is_paused());
    pair.stream.write_all(&frames(["below"])).unwrap();
    pair
}

/// Lets the hub do some rounds.
fn let_it_work(hub: &Hub) {
    let (mut client, ..) = connect(hub).client();
    for round in 0..5 {
        echo(&mut client, &round.to_string());
    }
}

/// Closes a connection with unread bytes, so that the server receives a reset.
fn reset(stream: TcpStream, handle: &SocketHandle) {
    assert!(handle.send("not read".into()));
    assert!(stream.peek(&mut [0]).unwrap() > 0);
    drop(stream);
}

#[test]
fn what_came_during_a_hold_follows_in_order() {
    let hub = hub(|_| {});
    let said: Vec<String> = (0..1000)
        .map(|at| match at % 90 {
            0 => format!("hold {at}"),
            1 => format!("{at} long").repeat(2000),
            _ => at.to_string(),
        })
        .collect();
    let mut pair = connect(&hub);
    pair.stream.write_all(&frames(&said)).unwrap();
    for expected in &said {
        assert_eq!(pair.next(), text(expected));
        if expected.starts_with("hold") {
            wait_until("it is held", || pair.handle.is_paused());
            let_it_work(&hub);
            assert!(pair.events.try_recv().is_err());
            pair.handle.resume();
        }
    }
    stop(&hub);
}

#[test]
fn a_hold_leaves_what_lies_behind_a_large_text() {
    let hub = hub(|_| {});
    let large = format!("hold {}", "x".repeat(100_000));
    let pair = connect_early(&hub, frames([&large, "a", "b"]));
    assert_eq!(pair.next(), text(&large));
    let_it_work(&hub);
    pair.handle.resume();
    assert_eq!((pair.next(), pair.next()), (text("a"), text("b")));
    stop(&hub);
}

#[test]
fn a_resume_undoes_the_hold_of_its_call_and_no_later_one() {
    let hub = hub(|_| {});
    let mut pair = connect_early(&hub, frames(["hold, too late", "a"]));
    assert_eq!(
        (pair.next(), pair.next()),
        (text("hold, too late"), text("a"))
    );
    pair.handle.resume();
    pair.handle.resume();
    pair.stream.write_all(&frames(["hold", "b"])).unwrap();
    assert_eq!(pair.next(), text("hold"));
    wait_until("it is held", || pair.handle.is_paused());
    let_it_work(&hub);
    assert!(pair.events.try_recv().is_err());
    pair.handle.resume();
    pair.handle.resume();
    assert_eq!(pair.next(), text("b"));
    stop(&hub);
}

/// Forwards texts to a thread, and pauses while that has many.
struct Relay {
    texts: Sender<String>,
    handles: Sender<SocketHandle>,
    waiting: Arc<AtomicUsize>,
}

const WAITING_MAX: usize = 3;

impl SocketHandler for Relay {
    fn opened(&mut self, handle: SocketHandle) {
        let _ = self.handles.send(handle);
    }

    fn received(&mut self, text: &str) -> Flow {
        let waiting = self.waiting.fetch_add(1, SeqCst) + 1;
        let _ = self.texts.send(text.to_owned());
        match waiting >= WAITING_MAX {
            true => Flow::Pause,
            false => Flow::Continue,
        }
    }

    fn closed(&mut self) {}
}

#[test]
fn no_resume_is_lost_between_two_threads() {
    const TEXTS: usize = 20_000;
    let hub = hub(|_| {});
    let (mut ours, theirs) = streams();
    let (texts, taken) = mpsc::channel();
    let (handles, given) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let relay = Relay {
        texts,
        handles,
        waiting: Arc::clone(&waiting),
    };
    let permit = reserve(&hub).unwrap();
    permit.register(Arc::new(theirs), Vec::new(), Box::new(relay));
    let handle = given.recv_timeout(TIMEOUT).unwrap();
    let writer = threads::spawn("writer", move || {
        ours.write_all(&frames((0..TEXTS).map(|at| at.to_string())))
            .unwrap();
        ours
    })
    .unwrap();
    for at in 0..TEXTS {
        assert_eq!(taken.recv_timeout(TIMEOUT).unwrap(), at.to_string());
        let before = waiting.fetch_sub(1, SeqCst);
        assert!(before <= WAITING_MAX + 2, "{before}");
        if before >= WAITING_MAX {
            handle.resume();
        }
    }
    writer.join().unwrap();
    stop(&hub);
}

#[test]
fn a_held_socket_costs_no_work_and_is_not_pinged_to_death() {
    const PINGS: usize = 15;
    let scan = Duration::from_millis(10);
    let hub = hub(|settings| settings.ping_every = 4 * scan);
    let mut pair = held(&hub);
    let (begun, before) = (Instant::now(), rounds(&hub));
    let mut pings = [0; 2 * PINGS];
    pair.stream.read_exact(&mut pings).unwrap();
    assert_eq!(pings, [0x89, 0].repeat(PINGS)[..]);
    let scans = begun.elapsed().as_millis() / scan.as_millis();
    let spent = u128::from(rounds(&hub) - before);
    assert!(spent <= 2 * scans + 20, "{spent} rounds in {scans} scans");
    assert!(pair.handle.is_open() && pair.handle.is_paused());
    pair.handle.resume();
    assert_eq!((pair.next(), pair.next()), (text("above"), text("below")));
    // From here on, missing pongs count.
    pair.await_end();
    assert_eq!(hub.counters().dead_closed, 1);
    stop(&hub);
}

#[test]
fn a_held_socket_sends_and_closes() {
    // The socket ends because the answer to the close is read, not by a timeout.
    let hub = hub(|settings| settings.close_grace = 4 * TIMEOUT);
    let (mut client, handle, events) = held(&hub).client();
    let long = "x".repeat(8 << 20);
    assert!(handle.send(long.as_str().into()));
    assert_eq!(client.read().unwrap().into_text().unwrap().as_str(), long);
    assert!(handle.is_paused() && handle.send("last".into()));
    handle.close(4000, "enough");
    assert_eq!(client.read().unwrap(), Message::text("last"));
    assert_eq!(close_code(&mut client), 4000);
    while client.read().is_ok() {}
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    stop(&hub);
}

#[test]
fn a_held_socket_that_takes_nothing_is_dropped() {
    let hub = hub(|_| {});
    let pair = held(&hub);
    let text: Text = "x".repeat(100_000).into();
    let begun = Instant::now();
    while pair.handle.send(text.clone()) {
        assert!(begun.elapsed() < TIMEOUT);
    }
    assert_eq!(pair.next(), Event::Closed);
    assert_eq!(hub.counters().slow_closed, 1);
    stop(&hub);
}

#[test]
fn a_stop_ends_held_sockets() {
    let hub = hub(|_| {});
    let mut pairs = [held(&hub), held(&hub)];
    stop(&hub);
    for pair in &mut pairs {
        assert_eq!(pair.rest()[2..4], [0x03, 0xe9]);
        assert_eq!(pair.next(), Event::Closed);
        pair.handle.resume();
    }
}

#[test]
fn nothing_is_held_for_ever() {
    let pause_max = Duration::from_secs(2);
    let hub = hub(|settings| settings.pause_max = pause_max);
    let (mut resumed, handle, _events) = {
        let pair = held(&hub);
        pair.handle.resume();
        assert_eq!((pair.next(), pair.next()), (text("above"), text("below")));
        pair.client()
    };
    let begun = Instant::now();
    let (mut client, _link, events) = held(&hub).client();
    assert_eq!(close_code(&mut client), 1013);
    assert!(begun.elapsed() >= pause_max);
    while client.read().is_ok() {}
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    assert!(handle.is_open());
    echo(&mut resumed, "not held any more");
    stop(&hub);
}

#[test]
fn a_reset_is_noticed_during_a_hold() {
    let hub = hub(|_| {});
    let Pair {
        stream,
        handle,
        events,
    } = held(&hub);
    reset(stream, &handle);
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    assert!(!handle.is_open());
    stop(&hub);
}

#[test]
fn the_end_of_the_stream_comes_after_what_was_held_back() {
    let hub = hub(|_| {});
    let pair = held(&hub);
    pair.stream.shutdown(Shutdown::Write).unwrap();
    let before = rounds(&hub);
    let_it_work(&hub);
    assert!(pair.events.try_recv().is_err());
    // All rounds serve the other socket: epoll reports no end of this one.
    assert!(rounds(&hub) - before < 200, "{}", rounds(&hub) - before);
    pair.handle.resume();
    assert_eq!((pair.next(), pair.next()), (text("above"), text("below")));
    assert_eq!(pair.next(), Event::Closed);
    stop(&hub);
}

/// Waits until a count has not changed for a while. Ending too early is harmless.
fn await_standstill(count: &AtomicUsize) {
    let (pause, mut last, mut still) = (Stop::new(), 0, 0);
    while still < 20 {
        pause.wait(Duration::from_millis(10));
        let now = count.load(Relaxed);
        still = if now == last && now > 0 { still + 1 } else { 0 };
        last = now;
    }
}

fn expect_all(events: &Receiver<Event>, texts: usize) {
    for at in 0..texts {
        let Event::Text(text) = events.recv_timeout(TIMEOUT).unwrap() else {
            panic!("closed at {at}");
        };
        assert_eq!(text.trim_end_matches('x'), format!("{at} "));
    }
}

#[test]
fn a_hold_stops_who_sends_until_the_resume() {
    const TEXTS: usize = 1000;
    let hub = hub(|_| {});
    let (ours, theirs) = streams();
    sockopt::set_socket_send_buffer_size(&ours, 64 << 10).unwrap();
    sockopt::set_socket_recv_buffer_size(&theirs, 64 << 10).unwrap();
    let pair = connect_over(&hub, ours, theirs, frames(["hold"]));
    assert_eq!(pair.next(), text("hold"));
    let written = Arc::new(AtomicUsize::new(0));
    let writer = {
        let (written, mut stream) = (Arc::clone(&written), pair.stream.try_clone().unwrap());
        threads::spawn("writer", move || {
            let filling = "x".repeat(8 << 10);
            for at in 0..TEXTS {
                stream
                    .write_all(&frames([format!("{at} {filling}")]))
                    .unwrap();
                written.fetch_add(1, Relaxed);
            }
        })
        .unwrap()
    };
    await_standstill(&written);
    // Far more bytes than the buffers of both sides can hold.
    assert!(!writer.is_finished() && written.load(Relaxed) < TEXTS / 2);
    assert_eq!(hub.counters().messages_in, 1);
    pair.handle.resume();
    expect_all(&pair.events, TEXTS);
    writer.join().unwrap();
    assert_eq!(written.load(Relaxed), TEXTS);
    stop(&hub);
}
