//! Sockets over loopback, with tungstenite or raw bytes as the client.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use super::{Flow, Hub, HubSettings, Permit, SocketHandle, SocketHandler, Text};
use crate::base::budget::{Bounds, Budget, Network, Payer};
use crate::base::error::Result;
use crate::base::threads;
use crate::base::threads::Stop;

mod flow;
mod load;
mod send_queue;

const TIMEOUT: Duration = Duration::from_secs(20);

type Client = WebSocket<TcpStream>;

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Opened,
    Text(String),
    Closed,
}

/// Reports its calls, and obeys commands in texts.
struct Recorder {
    events: Sender<Event>,
    handles: Sender<SocketHandle>,
    handle: Option<SocketHandle>,
}

impl SocketHandler for Recorder {
    fn opened(&mut self, handle: SocketHandle) {
        let _ = self.events.send(Event::Opened);
        let _ = self.handles.send(handle.clone());
        self.handle = Some(handle);
    }

    fn received(&mut self, text: &str) -> Flow {
        assert!(text != "panic", "on purpose");
        let _ = self.events.send(Event::Text(text.to_owned()));
        let handle = self.handle.as_ref().unwrap();
        if let Some(text) = text.strip_prefix("echo ") {
            handle.send(text.into());
        }
        if text == "hold, too late" {
            handle.resume();
        }
        if text.starts_with("hold") {
            Flow::Pause
        } else {
            Flow::Continue
        }
    }

    fn closed(&mut self) {
        let _ = self.events.send(Event::Closed);
    }
}

/// Both ends of a socket.
struct Pair {
    stream: TcpStream,
    handle: SocketHandle,
    events: Receiver<Event>,
}

impl Pair {
    fn next(&self) -> Event {
        self.events.recv_timeout(TIMEOUT).unwrap()
    }

    /// Waits for the end and discards earlier events.
    fn await_end(&self) {
        while self.next() != Event::Closed {}
    }

    fn client(self) -> (Client, SocketHandle, Receiver<Event>) {
        let client = WebSocket::from_raw_socket(self.stream, Role::Client, None);
        (client, self.handle, self.events)
    }

    /// Reads until the server disconnects.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }
}

fn hub(change: impl FnOnce(&mut HubSettings)) -> Hub {
    hub_of(10_000, 1 << 30, change)
}

/// A hub with budgets of so many sockets and so many send queue bytes.
fn hub_of(sockets: u64, send_queues: u64, change: impl FnOnce(&mut HubSettings)) -> Hub {
    let mut settings = HubSettings {
        close_grace: Duration::from_millis(400),
        ..HubSettings::default()
    };
    change(&mut settings);
    Hub::start(settings, &budget(sockets), &budget(send_queues)).unwrap()
}

/// A budget whose share for callers without credentials is half.
fn budget(total: u64) -> Arc<Budget> {
    let bounds = Bounds {
        total,
        network: total,
        anonymous: total / 2,
    };
    Budget::new("test", bounds)
}

fn reserve(hub: &Hub) -> Result<Permit> {
    hub.reserve(payer(1, true))
}

/// A payer in the network of this number.
fn payer(network: u32, has_credentials: bool) -> Payer {
    Payer {
        network: Network::V4(network),
        has_credentials,
    }
}

fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_read_timeout(Some(TIMEOUT)).unwrap();
    ours.set_write_timeout(Some(TIMEOUT)).unwrap();
    ours.set_nodelay(true).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn connect_early(hub: &Hub, early: Vec<u8>) -> Pair {
    let (ours, theirs) = streams();
    connect_over(hub, ours, theirs, early)
}

fn connect_over(hub: &Hub, ours: TcpStream, theirs: TcpStream, early: Vec<u8>) -> Pair {
    connect_at(reserve(hub).unwrap(), ours, theirs, early)
}

fn connect_at(permit: Permit, ours: TcpStream, theirs: TcpStream, early: Vec<u8>) -> Pair {
    let (events, received) = mpsc::channel();
    let (handles, given) = mpsc::channel();
    let handler = Recorder {
        events,
        handles,
        handle: None,
    };
    permit.register(Arc::new(theirs), early, Box::new(handler));
    let handle = given.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(received.recv_timeout(TIMEOUT).unwrap(), Event::Opened);
    Pair {
        stream: ours,
        handle,
        events: received,
    }
}

fn connect(hub: &Hub) -> Pair {
    connect_early(hub, Vec::new())
}

/// A client frame with a mask of zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    if payload.len() < 126 {
        frame.push(0x80 | payload.len() as u8);
    } else {
        frame.push(0xff);
        frame.extend((payload.len() as u64).to_be_bytes());
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let (pause, begun) = (Stop::new(), Instant::now());
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "{what}");
        pause.wait(Duration::from_millis(2));
    }
}

fn stop(hub: &Hub) {
    assert!(hub.stop(Instant::now() + TIMEOUT));
    assert_eq!(hub.counters().open, 0);
}

/// The code of the next close frame.
fn close_code(client: &mut Client) -> u16 {
    loop {
        match client.read().unwrap() {
            Message::Close(frame) => return frame.unwrap().code.into(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn echo(client: &mut Client, text: &str) {
    client.send(format!("echo {text}").into()).unwrap();
    assert_eq!(client.read().unwrap(), Message::text(text));
}

#[test]
fn texts_go_both_ways_and_a_close_is_answered() {
    let hub = hub(|_| {});
    let (mut client, handle, events) = connect(&hub).client();
    for text in ["", "a", "\u{e9}\u{1f600}", &"long ".repeat(100_000)] {
        echo(&mut client, text);
        let event = events.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(event, Event::Text(format!("echo {text}")));
    }
    client.send(Message::Ping(vec![7].into())).unwrap();
    assert_eq!(client.read().unwrap(), Message::Pong(vec![7].into()));
    client.close(None).unwrap();
    assert!(matches!(client.read(), Ok(Message::Close(None))));
    assert!(matches!(
        client.read(),
        Err(tungstenite::Error::ConnectionClosed)
    ));
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    assert!(!handle.is_open() && !handle.send("x".into()));
    wait_until("the permit is free", || hub.counters().open == 0);
    let counters = hub.counters();
    assert_eq!((counters.opened, counters.closed), (1, 1));
    assert_eq!((counters.messages_in, counters.messages_out), (4, 4));
    stop(&hub);
}

#[test]
fn texts_of_one_sender_arrive_in_order_beside_other_senders() {
    const SENDERS: usize = 8;
    const TEXTS: usize = 3000;
    let hub = hub(|settings| settings.send_queue_bytes_max = 64 << 20);
    let (mut client, handle, _events) = connect(&hub).client();
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let handle = handle.clone();
            threads::spawn("sender", move || {
                for text in 0..TEXTS {
                    assert!(handle.send(format!("{sender} {text}").into()));
                }
            })
            .unwrap()
        })
        .collect();
    let mut next = [0; SENDERS];
    for _ in 0..SENDERS * TEXTS {
        let message = client.read().unwrap().into_text().unwrap();
        let (sender, text) = message.split_once(' ').unwrap();
        let sender: usize = sender.parse().unwrap();
        assert_eq!(text.parse::<usize>().unwrap(), next[sender]);
        next[sender] += 1;
    }
    for sender in senders {
        sender.join().unwrap();
    }
    stop(&hub);
}

#[test]
fn one_text_may_be_longer_than_the_queue() {
    let hub = hub(|settings| settings.send_queue_bytes_max = 1000);
    let (mut client, handle, _events) = connect(&hub).client();
    let long = "\u{e9}".repeat(1 << 20);
    assert!(handle.send(long.as_str().into()));
    assert_eq!(client.read().unwrap().into_text().unwrap().as_str(), long);
    stop(&hub);
}

#[test]
fn silence_is_death_whatever_came_before() {
    let hub = hub(|settings| settings.ping_every = Duration::from_millis(200));
    let begun = Instant::now();
    let silent = connect(&hub);
    let mut half = connect(&hub);
    half.stream.write_all(&frame(0x81, b"half")[..7]).unwrap();
    silent.await_end();
    half.await_end();
    // The first ping is sent after half of the interval at the earliest, and the end is two
    // intervals later.
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert_eq!(hub.counters().dead_closed, 2);
    stop(&hub);
}

#[test]
fn pongs_keep_a_socket_alive() {
    let hub = hub(|settings| settings.ping_every = Duration::from_millis(50));
    let (mut client, handle, _events) = connect(&hub).client();
    let mut pings = 0;
    while pings < 12 {
        assert!(matches!(client.read(), Ok(Message::Ping(_))));
        pings += 1;
    }
    assert!(handle.is_open());
    stop(&hub);
}

#[test]
fn early_bytes_are_the_first_to_be_read() {
    let hub = hub(|_| {});
    let mut early = frame(0x81, b"one");
    let second = frame(0x81, b"two");
    early.extend(&second[..3]);
    let mut pair = connect_early(&hub, early);
    assert_eq!(pair.next(), Event::Text("one".to_owned()));
    pair.stream.write_all(&second[3..]).unwrap();
    assert_eq!(pair.next(), Event::Text("two".to_owned()));
    stop(&hub);
}

#[test]
fn a_panic_of_a_peer_costs_its_socket_only() {
    let hub = hub(|_| {});
    let (mut other, ..) = connect(&hub).client();
    let (mut client, handle, events) = connect(&hub).client();
    client.send("panic".into()).unwrap();
    assert_eq!(close_code(&mut client), 1011);
    drop(client);
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    assert!(!handle.is_open());
    echo(&mut other, "unharmed");
    stop(&hub);
}

/// A handler that panics in each call.
struct Hostile;

impl SocketHandler for Hostile {
    fn opened(&mut self, _: SocketHandle) {
        panic!("on purpose");
    }

    fn received(&mut self, _: &str) -> Flow {
        panic!("on purpose");
    }

    fn closed(&mut self) {
        panic!("on purpose");
    }
}

#[test]
fn panics_at_the_beginning_and_the_end_are_caught_too() {
    let hub = hub(|_| {});
    let (ours, theirs) = streams();
    let permit = reserve(&hub).unwrap();
    permit.register(Arc::new(theirs), frame(0x81, b"x"), Box::new(Hostile));
    let mut client = WebSocket::from_raw_socket(ours, Role::Client, None);
    assert_eq!(close_code(&mut client), 1011);
    drop(client);
    wait_until("the permit is free", || hub.counters().open == 0);
    echo(&mut connect(&hub).client().0, "unharmed");
    stop(&hub);
}

#[test]
fn a_close_follows_what_is_queued() {
    let hub = hub(|_| {});
    let (mut client, handle, events) = connect(&hub).client();
    for text in 0..100 {
        handle.send(text.to_string().into());
    }
    handle.close(4000, &"\u{e9}".repeat(100));
    assert!(!handle.is_open() && !handle.send("late".into()));
    handle.close(4001, "twice");
    for text in 0..100 {
        assert_eq!(client.read().unwrap(), Message::text(text.to_string()));
    }
    assert_eq!(close_code(&mut client), 4000);
    while client.read().is_ok() {}
    assert_eq!(events.recv_timeout(TIMEOUT).unwrap(), Event::Closed);
    stop(&hub);
}

#[test]
fn who_does_not_answer_a_close_is_dropped() {
    let hub = hub(|settings| settings.close_grace = Duration::from_millis(200));
    let mut pair = connect(&hub);
    let begun = Instant::now();
    pair.handle.close(1000, "");
    let said = pair.rest();
    assert_eq!(said, [0x88, 2, 0x03, 0xe8]);
    pair.await_end();
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(200) && took < Duration::from_secs(2),
        "{took:?}"
    );
    stop(&hub);
}

#[test]
fn a_stop_says_goodbye_to_all_and_lets_go_of_the_peers() {
    let hub = hub(|_| {});
    let mut clients: Vec<_> = (0..50).map(|_| connect(&hub).client()).collect();
    let readers: Vec<_> = clients
        .drain(..)
        .map(|(mut client, handle, events)| {
            handle.send("last words".into());
            threads::spawn("reader", move || {
                assert_eq!(client.read().unwrap(), Message::text("last words"));
                assert_eq!(close_code(&mut client), 1001);
                while client.read().is_ok() {}
                events
            })
            .unwrap()
        })
        .collect();
    let begun = Instant::now();
    stop(&hub);
    assert!(begun.elapsed() < Duration::from_secs(2));
    for reader in readers {
        let events = reader.join().unwrap();
        assert_eq!(events.try_iter().last(), Some(Event::Closed));
    }
    assert!(reserve(&hub).is_err());
}

#[test]
fn a_stop_ends_in_time_whatever_peers_do() {
    let hub = hub(|_| {});
    let permit = reserve(&hub).unwrap();
    let mute: Vec<_> = (0..10).map(|_| connect(&hub)).collect();
    for pair in &mute {
        pair.handle.send("x".repeat(8 << 20).as_str().into());
    }
    let begun = Instant::now();
    assert!(hub.stop(begun + Duration::from_millis(700)));
    assert!(begun.elapsed() < Duration::from_millis(700));
    for pair in &mute {
        pair.await_end();
    }
    // A late connection is refused.
    let (mut ours, theirs) = streams();
    permit.register(Arc::new(theirs), Vec::new(), Box::new(Hostile));
    assert_eq!(ours.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(hub.counters().open, 0);
}

#[test]
fn a_hub_that_is_dropped_ends_its_sockets() {
    let pair = connect(&hub(|_| {}));
    pair.await_end();
}

#[test]
fn never_are_there_more_sockets_than_places() {
    const THREADS: usize = 16;
    let hub = Arc::new(hub_of(20, 1 << 30, |_| {}));
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (hub, start) = (Arc::clone(&hub), Arc::clone(&start));
            threads::spawn("adopter", move || {
                start.wait();
                let pairs = (0..10).filter_map(|_| {
                    let permit = reserve(&hub).ok()?;
                    assert!(hub.counters().open <= 20);
                    let (ours, theirs) = streams();
                    permit.register(Arc::new(theirs), Vec::new(), Box::new(Silent));
                    Some(ours)
                });
                pairs.collect::<Vec<_>>()
            })
            .unwrap()
        })
        .collect();
    let kept: Vec<_> = threads
        .into_iter()
        .flat_map(|it| it.join().unwrap())
        .collect();
    assert_eq!((kept.len(), hub.counters().open), (20, 20));
    assert!(reserve(&hub).is_err());
    drop(kept);
    wait_until("the permits are free", || hub.counters().open == 0);
    drop(reserve(&hub).unwrap());
    stop(&hub);
}

/// A handler that ignores its texts.
struct Silent;

impl SocketHandler for Silent {
    fn opened(&mut self, _: SocketHandle) {}
    fn received(&mut self, _: &str) -> Flow {
        Flow::Continue
    }
    fn closed(&mut self) {}
}

#[test]
fn five_hundred_sockets_are_served() {
    let hub = hub(|_| {});
    let mut clients: Vec<_> = (0..500).map(|_| connect(&hub).client()).collect();
    for round in 0..3 {
        for (at, (client, ..)) in clients.iter_mut().enumerate() {
            client.send(format!("echo {round} {at}").into()).unwrap();
        }
        for (at, (client, ..)) in clients.iter_mut().enumerate() {
            let text = client.read().unwrap().into_text().unwrap();
            assert_eq!(text.as_str(), format!("{round} {at}"));
        }
    }
    let text: Text = "to all".into();
    for (_, handle, _) in &clients {
        assert!(handle.send(text.clone()));
    }
    for (client, ..) in &mut clients {
        assert_eq!(client.read().unwrap(), Message::text("to all"));
    }
    drop(clients);
    wait_until("all are gone", || hub.counters().open == 0);
    stop(&hub);
}
