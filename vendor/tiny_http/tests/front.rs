//! Connections are read by the threads in `recv()`, or by the front thread if none of these asks for work.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tiny_http::{Destination, Hooks, Limits, Meter, Request, Server};

struct Unmetered;

impl Meter for Unmetered {
    fn grow(&mut self, _: usize) -> bool {
        true
    }
}

struct Running {
    server: Arc<Server>,
    worker: Option<JoinHandle<()>>,
}

impl Running {
    /// A server with one thread in `recv()`, and with long limits.
    fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hooks = Hooks {
            refusal: Box::new(|status| {
                format!("HTTP/1.1 {status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .into_bytes()
            }),
            accept_failed: Box::new(|_| {}),
            body: Box::new(|head| match head.url() {
                "/panic" => panic!("on purpose"),
                _ => Destination::Memory(usize::MAX),
            }),
            meter: Box::new(|_| Box::new(Unmetered)),
            endless: Box::new(|_| false),
        };
        let server = Server::from_listener(listener, Limits::default(), hooks).unwrap();
        let server = Arc::new(server);
        let worker = {
            let server = Arc::clone(&server);
            thread::spawn(move || loop {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    while let Some(request) = server.recv() {
                        answer(request);
                    }
                }));
                if result.is_ok() {
                    return;
                }
            })
        };
        Running {
            server,
            worker: Some(worker),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.server_addr()).unwrap();
        let time = Some(Duration::from_secs(20));
        stream.set_read_timeout(time).unwrap();
        stream
    }

    /// Keeps the thread at work for so many milliseconds.
    fn occupy(&self, time_ms: u64) -> TcpStream {
        let mut stream = self.connect();
        let before = self.server.counters().requests;
        write!(stream, "GET /sleep?{time_ms} HTTP/1.0\r\n\r\n").unwrap();
        until(|| self.server.counters().requests > before);
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.unblock();
        self.worker.take().unwrap().join().unwrap();
    }
}

fn answer(mut request: Request) {
    if let Some(time_ms) = request.url().strip_prefix("/sleep?") {
        thread::sleep(Duration::from_millis(time_ms.parse().unwrap()));
    }
    let body = request.take_body().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    request.respond(head.into_bytes(), body, false);
}

fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        thread::sleep(Duration::from_millis(1));
    }
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_malformed_head_is_refused_while_every_thread_is_at_work() {
    let running = Running::start();
    let mut busy = running.occupy(2000);
    let begun = Instant::now();
    let mut stream = running.connect();
    stream.write_all(b"GET\r\n\r\n").unwrap();
    assert!(read_all(&mut stream).starts_with("HTTP/1.1 400"));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(read_all(&mut busy).starts_with("HTTP/1.1 200"));
}

#[test]
fn requests_that_come_while_every_thread_is_at_work_are_answered_before_a_stop() {
    let running = Running::start();
    let mut busy = running.occupy(500);
    let mut whole = running.connect();
    whole
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut body = running.connect();
    body.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    until(|| running.server.counters().accepted == 3);
    let left = running
        .server
        .drain(Duration::from_secs(2), Duration::from_secs(8));
    assert_eq!(left, 0);
    assert!(read_all(&mut busy).starts_with("HTTP/1.1 200"));
    assert!(read_all(&mut whole).starts_with("HTTP/1.1 200"));
    assert!(read_all(&mut body).ends_with("\r\n\r\nhello"));
}

#[test]
fn a_peer_that_sends_nothing_more_gets_its_answers_and_then_the_end() {
    let running = Running::start();
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for count in [1, 2, 9] {
        let mut stream = running.connect();
        stream.write_all(request.repeat(count).as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let begun = Instant::now();
        assert_eq!(read_all(&mut stream).matches("200 OK").count(), count);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn requests_are_read_however_they_are_cut() {
    let running = Running::start();
    let request =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\ndefGET / HTTP/1.0\r\n\r\n";
    for size in [1, 2, 3, 7, 50, request.len()] {
        let mut stream = running.connect();
        stream.set_nodelay(true).unwrap();
        for piece in request.chunks(size) {
            stream.write_all(piece).unwrap();
        }
        let text = read_all(&mut stream);
        assert_eq!(text.matches("200 OK").count(), 3, "{size} {text}");
        assert!(text.contains("\r\n\r\nabc") && text.contains("\r\n\r\ndef"));
    }
}

#[test]
fn peers_that_send_without_an_end_do_not_keep_the_thread() {
    let running = Running::start();
    for flood in [
        "\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut floods: Vec<_> = (0..3).map(|_| running.connect()).collect();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for stream in &mut floods {
                let over = &over;
                scope.spawn(move || {
                    stream.write_all(flood.as_bytes()).unwrap();
                    let more = &flood[flood.len().saturating_sub(6)..];
                    let more = more.repeat(1000);
                    while !over.load(SeqCst) && stream.write_all(more.as_bytes()).is_ok() {}
                });
            }
            for _ in 0..20 {
                let begun = Instant::now();
                let mut stream = running.connect();
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
                assert!(read_all(&mut stream).starts_with("HTTP/1.1 200"));
                assert!(begun.elapsed() < Duration::from_secs(1), "{flood}");
            }
            over.store(true, SeqCst);
        });
    }
}

#[test]
fn a_hook_that_panics_ends_its_connection_and_nothing_else() {
    let running = Running::start();
    for _ in 0..3 {
        let mut stream = running.connect();
        stream
            .write_all(b"POST /panic HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            .unwrap();
        assert_eq!(read_all(&mut stream), "");
    }
    let mut stream = running.connect();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_all(&mut stream).starts_with("HTTP/1.1 200"));
    assert_eq!(running.server.counters().requests, 1);
}
