//! Bodies that go into a sink, and answers that come out of a reader.

use std::any::Any;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tiny_http::{Destination, Hooks, Limits, Meter, Request, Server, Sink, Unread};

/// Counts what it takes, up to a limit; tells when it is gone.
struct Counter {
    bytes: u64,
    largest: usize,
    limit: u64,
    gone: Sender<u64>,
}

impl Sink for Counter {
    fn write(&mut self, piece: &[u8]) -> bool {
        self.bytes += piece.len() as u64;
        self.largest = self.largest.max(piece.len());
        self.bytes <= self.limit
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.gone.send(self.bytes);
    }
}

struct Running {
    server: Arc<Server>,
    worker: Option<JoinHandle<()>>,
    addr: SocketAddr,
    gone: Receiver<u64>,
}

struct Unmetered;

impl Meter for Unmetered {
    fn grow(&mut self, _: usize) -> bool {
        true
    }
}

impl Running {
    /// Bodies of `/sink` go into a counter, those of `/no` nowhere.
    fn start(limits: Limits) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, gone) = channel();
        let sender = std::sync::Mutex::new(sender);
        let hooks = Hooks {
            refusal: Box::new(|status| {
                format!("HTTP/1.1 {status} \r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .into_bytes()
            }),
            accept_failed: Box::new(|_| {}),
            body: Box::new(move |head| match head.url() {
                "/sink" => {
                    assert!(head.headers().any(|(name, _)| name == "Host"));
                    let gone = sender.lock().unwrap().clone();
                    let limit = 10 << 20;
                    let (bytes, largest) = (0, 0);
                    Destination::Sink(Box::new(Counter {
                        bytes,
                        largest,
                        limit,
                        gone,
                    }))
                }
                "/no" => Destination::Unread,
                _ => Destination::Memory(usize::MAX),
            }),
            meter: Box::new(|_| Box::new(Unmetered)),
            endless: Box::new(|_| false),
        };
        let server = Arc::new(Server::from_listener(listener, limits, hooks).unwrap());
        let worker = {
            let server = Arc::clone(&server);
            thread::spawn(move || {
                while let Some(request) = server.recv() {
                    answer(request);
                }
            })
        };
        Running {
            server,
            worker: Some(worker),
            addr,
            gone,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        let time = Some(Duration::from_secs(20));
        stream.set_read_timeout(time).unwrap();
        stream.set_write_timeout(time).unwrap();
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
    let sink = request.take_sink().map(|sink| sink as Box<dyn Any>);
    let counter = sink.and_then(|sink| sink.downcast::<Counter>().ok());
    let url = request.url().to_owned();
    let text = match (counter, request.take_body(), url.strip_prefix("/read/")) {
        (Some(counter), ..) => format!("{} {}", counter.bytes, counter.largest <= 64 << 10),
        (_, Err(Unread::Declined), _) => "declined".to_owned(),
        (.., Some(length)) => {
            let length: u64 = length.parse().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            // One byte in a million is missing.
            let reader = io::repeat(7).take(length - length / 1_000_000_000);
            return request.respond_from(head.into_bytes(), Box::new(reader), length, false);
        }
        (_, Ok(body), _) => format!("memory {}", body.len()),
        (_, Err(why), _) => format!("{why:?}"),
    };
    let close = request.must_close();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
    request.respond(head.into_bytes(), text.into_bytes(), close);
}

fn read_answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{:?}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.split("Content-Length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn a_long_body_goes_into_the_sink_in_pieces_and_the_connection_goes_on() {
    let running = Running::start(Limits::default());
    let mut stream = running.connect();
    for length in [1_usize, 100, 9 << 20] {
        write!(
            stream,
            "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&vec![b'x'; length]).unwrap();
        assert_eq!(read_answer(&mut stream), format!("{length} true"));
        assert_eq!(running.gone.recv().unwrap(), length as u64);
    }
    write!(
        stream,
        "POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .unwrap();
    for _ in 0..50 {
        write!(stream, "4e20\r\n{}\r\n", "y".repeat(20_000)).unwrap();
    }
    write!(
        stream,
        "0\r\n\r\nPOST /memory HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    )
    .unwrap();
    assert_eq!(read_answer(&mut stream), "1000000 true");
    assert_eq!(read_answer(&mut stream), "memory 3");
}

#[test]
fn a_sink_that_wants_no_more_and_a_body_that_nobody_wants_end_the_connection() {
    let running = Running::start(Limits::default());
    let mut stream = running.connect();
    write!(
        stream,
        "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
    )
    .unwrap();
    let writer = {
        let mut stream = stream.try_clone().unwrap();
        thread::spawn(move || while stream.write_all(&[0; 65536]).is_ok() {})
    };
    let text = read_answer(&mut stream);
    let bytes: u64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(bytes > 10 << 20 && bytes < 11 << 20, "{text}");
    writer.join().unwrap();
    let mut stream = running.connect();
    write!(
        stream,
        "POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
    )
    .unwrap();
    assert_eq!(read_answer(&mut stream), "declined");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_body_that_breaks_off_is_dropped_and_never_delivered() {
    let running = Running::start(Limits::default());
    for body in [
        "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\nabc",
        "POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut stream = running.connect();
        stream.write_all(body.as_bytes()).unwrap();
        drop(stream);
        assert_eq!(
            running.gone.recv_timeout(Duration::from_secs(20)).unwrap(),
            3
        );
    }
    let mut stream = running.connect();
    write!(
        stream,
        "POST /sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn a_stalled_body_is_given_up() {
    let limits = Limits {
        progress_time: Duration::from_millis(100),
        slice: Duration::from_millis(20),
        ..Limits::default()
    };
    let running = Running::start(limits);
    let mut stream = running.connect();
    write!(
        stream,
        "POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\nabc"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn an_answer_is_read_while_it_is_written_and_others_keep_their_turn() {
    let running = Running::start(Limits::default());
    let mut stream = running.connect();
    let get = |url: &str| format!("GET {url} HTTP/1.1\r\nHost: a\r\n\r\n");
    let all = [
        get("/read/30000000"),
        get("/read/1"),
        get("/"),
        get("/read/0"),
        get("/"),
    ]
    .concat();
    stream.write_all(all.as_bytes()).unwrap();
    for length in [30_000_000, 1] {
        let body = read_answer(&mut stream);
        assert_eq!(
            (body.len(), body.bytes().all(|byte| byte == 7)),
            (length, true)
        );
    }
    assert_eq!(read_answer(&mut stream), "memory 0");
    assert_eq!(read_answer(&mut stream), "");
    assert_eq!(read_answer(&mut stream), "memory 0");
}

#[test]
fn a_reader_that_ends_early_ends_the_connection() {
    let running = Running::start(Limits::default());
    let mut stream = running.connect();
    write!(stream, "GET /read/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut received = 0;
    let mut piece = vec![0; 1 << 20];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => received += count,
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".len();
    assert_eq!(received, head + 1_000_000_000 - 1);
}
