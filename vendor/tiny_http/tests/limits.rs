//! The bounds of the server, each with limits small enough to be met in a moment.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tiny_http::{Counters, Destination, Hooks, Limits, Meter, Request, Server, Unread};

/// Counts the bytes of all bodies against one bound.
struct Count {
    used: Arc<AtomicUsize>,
    own: usize,
    most: usize,
}

impl Meter for Count {
    fn grow(&mut self, bytes: usize) -> bool {
        self.own += bytes;
        self.used.fetch_add(bytes, SeqCst) + bytes <= self.most
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.used.fetch_sub(self.own, SeqCst);
    }
}

struct Running {
    server: Arc<Server>,
    body_bytes: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<()>>,
}

fn refusal(status: u16) -> Vec<u8> {
    format!(
        "HTTP/1.1 {} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        status
    )
    .into_bytes()
}

fn answer(mut request: Request) {
    let (path, number) = match request.url().split_once('?') {
        Some((path, number)) => (path.to_owned(), number.parse().unwrap_or(0)),
        None => (request.url().to_owned(), 0),
    };
    let close = request.must_close();
    let body = match (path.as_str(), request.take_body()) {
        (_, Err(Unread::TooLarge)) => return request.respond(refusal(413), Vec::new(), true),
        (_, Err(Unread::Overloaded | Unread::Declined)) => {
            return request.respond(refusal(503), Vec::new(), true)
        }
        ("/sleep", Ok(_)) => {
            thread::sleep(Duration::from_millis(number));
            number.to_string().into_bytes()
        }
        ("/big", Ok(_)) => vec![b'x'; number as usize],
        ("/drop", Ok(_)) => return,
        (_, Ok(body)) => body,
    };
    let mut head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{}\r\n",
        body.len(),
        if close { "Connection: close\r\n" } else { "" }
    )
    .into_bytes();
    if body.len() > 1000 {
        return request.respond(head, body, false);
    }
    head.extend_from_slice(&body);
    request.respond(head, Vec::new(), false);
}

impl Running {
    fn start(limits: Limits) -> Running {
        Running::with_budget(limits, usize::MAX)
    }

    /// All bodies together may have so many bytes above the free ones.
    fn with_budget(limits: Limits, most: usize) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let body_bytes = Arc::new(AtomicUsize::new(0));
        let used = Arc::clone(&body_bytes);
        let hooks = Hooks {
            refusal: Box::new(refusal),
            accept_failed: Box::new(|_| {}),
            body: Box::new(|head| match head.url() {
                "/short" => Destination::Memory(1000),
                _ => Destination::Memory(usize::MAX),
            }),
            meter: Box::new(move |_| {
                Box::new(Count {
                    used: Arc::clone(&used),
                    own: 0,
                    most,
                })
            }),
            endless: Box::new(|_| false),
        };
        let server = Arc::new(Server::from_listener(listener, limits, hooks).unwrap());
        let workers = (0..4)
            .map(|_| {
                let server = Arc::clone(&server);
                thread::spawn(move || {
                    while let Some(request) = server.recv() {
                        answer(request);
                    }
                })
            })
            .collect();
        Running {
            server,
            body_bytes,
            workers,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.server.server_addr()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn counters(&self) -> Counters {
        self.server.counters()
    }

    fn check_alive(&self) {
        let mut stream = self.connect();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        assert_eq!(statuses(&read_all(&mut stream)), [200]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.stop_accepting();
        self.server.unblock();
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
    }
}

fn small() -> Limits {
    Limits {
        idle_time: Duration::from_millis(300),
        head_time: Duration::from_millis(200),
        progress_time: Duration::from_millis(200),
        slice: Duration::from_millis(50),
        drain_time: Duration::from_millis(200),
        body_buffer_max: 100_000,
        ..Limits::default()
    }
}

/// Reads until the end, or a reset.
fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 65536];
    loop {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(count) => bytes.extend_from_slice(&part[..count]),
        }
    }
}

fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.1 ")
        .skip(1)
        .map(|part| part[..3].parse().unwrap())
        .collect()
}

fn ask(server: &Running, request: &[u8]) -> Vec<u16> {
    let mut stream = server.connect();
    stream.write_all(request).unwrap();
    statuses(&read_all(&mut stream))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{}", what);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn bodies_arrive_whole_in_either_form() {
    let server = Running::start(small());
    let mut stream = server.connect();
    for _ in 0..2 {
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            .unwrap();
        let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nA: b\r\n\r\n";
        for part in chunks.as_bytes().chunks(7) {
            stream.write_all(part).unwrap();
        }
    }
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let text = read_all(&mut stream);
    assert_eq!(statuses(&text), [200; 5]);
    assert_eq!(text.matches("\r\n\r\nhello").count(), 2);
    assert_eq!(text.matches("\r\n\r\nabcde").count(), 2);
}

#[test]
fn a_body_that_arrives_slowly_but_steadily_is_read() {
    let server = Running::start(Limits {
        progress_bytes: 100,
        ..small()
    });
    let mut stream = server.connect();
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(30));
        stream.write_all(&[b'x'; 50]).unwrap();
    }
    assert_eq!(statuses(&read_all(&mut stream)), [200]);
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = Running::start(small());
    let mut used = server.connect();
    used.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut unused = server.connect();
    assert_eq!(read_all(&mut unused), "");
    assert_eq!(statuses(&read_all(&mut used)), [200]);
    assert_eq!(server.counters().slow_closed, 0);
}

#[test]
fn a_long_request_is_not_idleness() {
    let server = Running::start(small());
    let request = b"GET /sleep?800 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stream = server.connect();
    stream.write_all(request).unwrap();
    assert!(read_all(&mut stream).ends_with("800"));
}

#[test]
fn a_head_that_drips_is_refused() {
    let server = Running::start(small());
    let mut stream = server.connect();
    let begun = Instant::now();
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().cycle() {
        if stream.write_all(&[*byte]).is_err() || begun.elapsed() > Duration::from_millis(400) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(statuses(&read_all(&mut stream)), [408]);
    assert_eq!(server.counters().slow_closed, 1);
}

#[test]
fn a_body_that_stalls_or_drips_is_refused() {
    let server = Running::start(small());
    for framing in &["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut stream = server.connect();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n2\r\n",
            framing
        )
        .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            thread::sleep(Duration::from_millis(20));
            drop(stream.write_all(b"0"));
        }
        let found = statuses(&read_all(&mut stream));
        assert!(found == [408] || found == [400], "{:?}", found);
    }
    assert_eq!(server.counters().refused, 2);
}

#[test]
fn a_long_body_is_delivered_unread_and_never_taken_for_a_request() {
    let server = Running::start(small());
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10);
    for length in &["100001", "1152921504606846976", "18446744073709551615"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}",
            length, hidden
        );
        assert_eq!(ask(&server, request.as_bytes()), [413], "{}", length);
    }
    let mut chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..11 {
        chunks.extend_from_slice(b"2710\r\n");
        chunks.extend_from_slice(&[b'x'; 10_000]);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(hidden.as_bytes());
    assert_eq!(ask(&server, &chunks), [413]);
    server.check_alive();
    assert_eq!(server.counters().requests, 5);
}

#[test]
fn the_client_is_told_to_go_on_unless_its_body_is_too_long() {
    let server = Running::start(small());
    let mut stream = server.connect();
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").unwrap();
    assert!(read_all(&mut stream).ends_with("\r\n\r\nhi"));
    let long =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(ask(&server, long), [413]);
}

#[test]
fn heads_are_bounded_in_bytes_and_lines() {
    let server = Running::start(small());
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    assert_eq!(ask(&server, long.as_bytes()), [431]);
    let fits = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(60_000)
    );
    assert_eq!(ask(&server, fits.as_bytes()), [200]);
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "A: b\r\n".repeat(101)
    );
    assert_eq!(ask(&server, many.as_bytes()), [431]);
    assert_eq!(ask(&server, b"GET / HTTP/3.0\r\n\r\n"), [505]);
    assert_eq!(ask(&server, b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"), [200]);
    assert_eq!(ask(&server, b"GET / HTTP/1.1\n\n"), [400]);
}

#[test]
fn the_budget_of_bodies_turns_away_large_ones_only() {
    let limits = Limits {
        progress_time: Duration::from_secs(5),
        ..small()
    };
    let server = Running::with_budget(limits, 80_000);
    let mut holders = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect();
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n")
            .unwrap();
        stream.write_all(&[b'x'; 40_000]).unwrap();
        holders.push(stream);
    }
    until("the bodies arrive", || {
        server.body_bytes.load(SeqCst) > 40_000
    });
    let mut large = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n".to_vec();
    large.extend_from_slice(&[b'x'; 90_000]);
    assert_eq!(ask(&server, &large), [503]);
    let mut small = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n".to_vec();
    small.extend_from_slice(&[b'x'; 9_000]);
    assert_eq!(ask(&server, &small), [200]);
    drop(holders);
    until("the budget is given back", || {
        server.body_bytes.load(SeqCst) == 0
    });
    assert_eq!(ask(&server, &large), [200]);
}

#[test]
fn the_owner_chooses_how_long_a_body_may_be() {
    let server = Running::start(small());
    for (length, status) in [(1000, 200), (1001, 413)] {
        let body = "x".repeat(length);
        let head = "POST /short HTTP/1.1\r\nHost: a\r\n";
        let sized = format!("{}Content-Length: {}\r\n\r\n{}", head, length, body);
        assert_eq!(ask(&server, sized.as_bytes()), [status]);
        let chunked = format!(
            "{}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            head, length, body
        );
        assert_eq!(ask(&server, chunked.as_bytes()), [status]);
    }
}

#[test]
fn a_request_of_today_names_its_host() {
    let server = Running::start(small());
    assert_eq!(ask(&server, b"GET / HTTP/1.1\r\n\r\n"), [400]);
    assert_eq!(ask(&server, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"), [200]);
    assert_eq!(ask(&server, b"GET / HTTP/1.0\r\n\r\n"), [200]);
}

#[test]
fn the_longest_waiting_connection_makes_room() {
    let server = Running::start(Limits {
        max_connections: 4,
        idle_time: Duration::from_secs(20),
        head_time: Duration::from_secs(20),
        ..small()
    });
    let mut waiting = Vec::new();
    for at in 0..4 {
        let mut stream = server.connect();
        stream.write_all(b"GET / HT").unwrap();
        until("it is there", || server.counters().connections == at + 1);
        thread::sleep(Duration::from_millis(20));
        waiting.push(stream);
    }
    server.check_alive();
    assert_eq!(server.counters().evicted, 1);
    assert_eq!(read_all(&mut waiting[0]), "");
    waiting[1]
        .write_all(b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(statuses(&read_all(&mut waiting[1])), [200]);
}

#[test]
fn requests_in_hand_are_not_given_up_for_newcomers() {
    let server = Running::start(Limits {
        max_connections: 2,
        ..small()
    });
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect();
        stream
            .write_all(b"GET /sleep?600 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .unwrap();
        busy.push(stream);
    }
    until("both are delivered", || server.counters().requests == 2);
    assert_eq!(statuses(&read_all(&mut server.connect())), [503]);
    assert_eq!(server.counters().turned_away, 1);
    for stream in &mut busy {
        assert_eq!(statuses(&read_all(stream)), [200]);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_bounded_in_number() {
    let server = Running::start(small());
    let mut stream = server.connect();
    for wait in &[200, 0, 100, 1, 50, 2, 3, 4] {
        write!(stream, "GET /sleep?{} HTTP/1.1\r\nHost: a\r\n\r\n", wait).unwrap();
    }
    until("four are delivered", || server.counters().requests >= 4);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(server.counters().requests, 4);
    let text = read_all(&mut stream);
    let bodies: Vec<&str> = text
        .split("HTTP/1.1 200 OK\r\n")
        .skip(1)
        .map(|part| part.split("\r\n\r\n").nth(1).unwrap())
        .collect();
    assert_eq!(bodies, ["200", "0", "100", "1", "50", "2", "3", "4"]);
}

#[test]
fn large_answers_pass_and_a_peer_that_does_not_read_is_cut() {
    let server = Running::start(Limits {
        idle_time: Duration::from_secs(20),
        ..small()
    });
    let mut reader = server.connect();
    reader
        .write_all(b"GET /big?30000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut stalled = server.connect();
    for _ in 0..4 {
        stalled
            .write_all(b"GET /big?9000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
    }
    assert!(read_all(&mut reader).len() > 30_000_000);
    until("the peer is cut", || server.counters().slow_closed == 1);
    until("its bytes are given back", || {
        server.counters().answer_bytes == 0
    });
    server.check_alive();
}

#[test]
fn the_longest_stalled_peer_goes_when_answers_exceed_their_budget() {
    let server = Running::start(Limits {
        answer_budget: 25_000_000,
        progress_time: Duration::from_secs(20),
        ..small()
    });
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect();
        stream
            .write_all(b"GET /big?12000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        until("it stalls", || {
            server.counters().answer_bytes == (stalled.len() + 1) * 12_000_050
                || server.counters().answer_bytes > (stalled.len() + 1) * 12_000_000
        });
        thread::sleep(Duration::from_millis(50));
        stalled.push(stream);
    }
    let mut reader = server.connect();
    reader
        .write_all(b"GET /big?12000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    // One that reads at once may take all of it before any is pending.
    until("one is closed", || server.counters().slow_closed == 1);
    assert!(read_all(&mut reader).len() > 12_000_000);
    assert_eq!(server.counters().slow_closed, 1);
    assert!(read_all(&mut stalled[0]).len() < 12_000_000);
    drop(stalled);
    until("all is given back", || server.counters().answer_bytes == 0);
}

#[test]
fn writers_are_bounded_and_their_queue_moves() {
    let server = Running::start(Limits {
        max_writers: 2,
        progress_time: Duration::from_secs(20),
        contended_time: Duration::from_millis(100),
        ..small()
    });
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut stream = server.connect();
        stream
            .write_all(b"GET /big?9000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        stalled.push(stream);
    }
    until("two are cut", || server.counters().slow_closed >= 2);
    let mut reader = server.connect();
    reader
        .write_all(b"GET /big?9000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(read_all(&mut reader).len() > 9_000_000);
}

#[test]
fn a_request_that_is_dropped_is_answered() {
    let server = Running::start(small());
    assert_eq!(
        ask(&server, b"GET /drop HTTP/1.1\r\nHost: a\r\n\r\n"),
        [500]
    );
}

#[test]
fn a_socket_can_be_taken_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hooks = Hooks {
        refusal: Box::new(refusal),
        accept_failed: Box::new(|_| {}),
        body: Box::new(|_| Destination::Memory(0)),
        meter: Box::new(|_| unreachable!("no body comes")),
        endless: Box::new(|head| head.url() == "/events"),
    };
    let server = Server::from_listener(listener, small(), hooks).unwrap();
    let mut stream = TcpStream::connect(server.server_addr()).unwrap();
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        .unwrap();
    let request = server.recv().unwrap();
    assert!(request.wants_upgrade() && request.must_close());
    let mut upgraded = request.upgrade().unwrap();
    assert_eq!(server.num_connections(), 0);
    thread::sleep(Duration::from_millis(500));
    let mut early = [0; 5];
    upgraded.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    upgraded.write_all(b"pushed").unwrap();
    let mut pushed = [0; 6];
    stream.read_exact(&mut pushed).unwrap();
    drop(server);
    stream.write_all(b"later").unwrap();
    upgraded.read_exact(&mut early).unwrap();
    let (socket, rest) = upgraded.into_parts();
    assert!(rest.is_empty());
    until("ours is the only descriptor", || {
        Arc::strong_count(&socket) == 1
    });
    drop(socket);
    assert_eq!(read_all(&mut stream), "");
}

#[test]
fn a_request_whose_answer_has_no_end_is_the_last_over_any_version() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hooks = Hooks {
        refusal: Box::new(refusal),
        accept_failed: Box::new(|_| {}),
        body: Box::new(|_| Destination::Memory(0)),
        meter: Box::new(|_| unreachable!("no body comes")),
        endless: Box::new(|head| head.url() == "/events"),
    };
    let server = Server::from_listener(listener, small(), hooks).unwrap();
    for (version, path, is_endless) in [
        ("1.1", "/events", true),
        ("1.0", "/events", true),
        ("1.1", "/other", false),
    ] {
        let mut stream = TcpStream::connect(server.server_addr()).unwrap();
        write!(stream, "GET {} HTTP/{}\r\nHost: a\r\n\r\n", path, version).unwrap();
        let request = server.recv().unwrap();
        assert_eq!(request.wants_upgrade(), is_endless);
        if is_endless {
            assert!(request.must_close());
            request.upgrade().unwrap().write_all(b"event").unwrap();
            assert_eq!(read_all(&mut stream), "event");
        }
    }
}

#[test]
fn stopping_lets_requests_finish_and_closes_the_rest() {
    let server = Running::start(Limits {
        idle_time: Duration::from_secs(20),
        ..small()
    });
    let mut idle = server.connect();
    let mut busy = server.connect();
    busy.write_all(b"GET /sleep?300 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut partial = server.connect();
    partial.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    until("all are there", || {
        let counters = server.counters();
        counters.connections == 3 && counters.requests == 1
    });
    thread::sleep(Duration::from_millis(20));
    let stopper = Arc::clone(&server.server);
    let begun = Instant::now();
    let drain =
        thread::spawn(move || stopper.drain(Duration::from_millis(150), Duration::from_secs(8)));
    assert_eq!(read_all(&mut idle), "");
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert!(TcpStream::connect(server.addr()).is_err());
    partial.write_all(b"\r\n").unwrap();
    assert_eq!(statuses(&read_all(&mut partial)), [200]);
    assert_eq!(statuses(&read_all(&mut busy)), [200]);
    assert_eq!(drain.join().unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn stopping_does_not_wait_beyond_its_deadline() {
    let server = Running::start(small());
    let mut busy = server.connect();
    busy.write_all(b"GET /sleep?700 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    until("it is delivered", || server.counters().requests == 1);
    let begun = Instant::now();
    let left = server
        .server
        .drain(Duration::from_millis(10), Duration::from_millis(100));
    assert_eq!(left, 1);
    assert!(begun.elapsed() < Duration::from_millis(400));
}

/// Clients that ask, stall, leave and pipeline at random: those that stay get every answer whole and in order, and in
/// the end nothing is left of any of them.
#[test]
fn everything_is_given_back_after_a_storm() {
    let server = Running::start(Limits {
        max_connections: 40,
        answer_budget: 30_000_000,
        max_writers: 6,
        progress_time: Duration::from_secs(5),
        idle_time: Duration::from_secs(5),
        ..small()
    });
    let addr = server.addr();
    let clients: Vec<_> = (1..=12_u64)
        .map(|seed| thread::spawn(move || storm(addr, seed)))
        .collect();
    let whole: usize = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .sum();
    assert!(whole > 200, "{} conversations", whole);
    server.check_alive();
    until("all is given back", || {
        let counters = server.counters();
        (
            counters.connections,
            server.body_bytes.load(SeqCst),
            counters.answer_bytes,
        ) == (0, 0, 0)
    });
}

/// Returns how many conversations came to their end.
fn storm(addr: SocketAddr, seed: u64) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    };
    let mut whole = 0;
    for _ in 0..60 {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut requests = Vec::new();
        let mut sizes = Vec::new();
        for _ in 0..=random(8) {
            let size = [0, 10, 3_000, 90_000, 3_000_000][random(5) as usize];
            if size < 90_000 && random(2) == 0 {
                requests.extend_from_slice(
                    format!(
                        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                        size
                    )
                    .as_bytes(),
                );
                requests.resize(requests.len() + size, b'x');
            } else {
                requests.extend_from_slice(
                    format!("GET /big?{} HTTP/1.1\r\nHost: a\r\n\r\n", size).as_bytes(),
                );
            }
            sizes.push(size);
        }
        let fate = random(10);
        if fate == 0 {
            requests.truncate(random(requests.len() as u64) as usize);
        }
        // The server may cut a connection to make room.
        if stream.write_all(&requests).is_err() || fate < 2 {
            continue;
        }
        if fate == 2 {
            thread::sleep(Duration::from_millis(random(100)));
        }
        whole += usize::from(sizes.iter().all(|size| read_one(&mut stream, *size)));
    }
    whole
}

/// Reads one answer. False if the connection was cut; an answer of another size fails the test.
fn read_one(stream: &mut TcpStream, size: usize) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    let head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 503") {
        return false;
    }
    let expected = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", size);
    assert!(head.starts_with(&expected), "{} {}", size, head);
    let mut body = vec![0; size];
    stream.read_exact(&mut body).is_ok() && body.iter().all(|byte| *byte == b'x')
}
