//! Hostile clients: whatever they send or fail to read, the server lives, its memory stays bounded
//! and all others are served. Each attack runs against a server of its own, while new
//! connections ask for `/api/health` and must get their answer within a second, every time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit};

use crate::support::pause;
use crate::support::server::Server;

const HEALTH: &[u8] = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n";
const HEALTH_LAST: &[u8] = b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// The longest that anybody may wait for `/api/health`.
const HEALTH_MAX: Duration = Duration::from_secs(5);

/// Resident memory that no attack may exceed.
const MEMORY_MB_MAX: u64 = 200;

/// More threads than a server with its default options has, whatever connections there are.
const THREADS_MAX: usize = 120;

#[test]
fn an_announced_length_is_not_believed() {
    let server = Server::start();
    for (length, expected) in [
        ("1152921504606846976", 413),
        ("18446744073709551615", 413),
        ("9223372036854775807", 413),
        ("18446744073709551616", 400),
        ("99999999999999999999999999", 400),
    ] {
        for method in ["GET", "POST"] {
            for expect in ["", "Expect: 100-continue\r\n"] {
                let head = format!(
                    "{method} /api/health HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{expect}\r\nabc"
                );
                let reply = ask(server.addr(), head.as_bytes());
                assert_eq!(statuses(&reply), [expected], "{head}");
            }
        }
    }
    // Many at once, and peers that leave.
    let attack = |_: &AtomicBool| {
        for _ in 0..200 {
            let mut stream = connect(server.addr());
            let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1152921504606846976\r\n\r\n";
            drop(stream.write_all(head.as_bytes()));
        }
    };
    under(&server, "announced lengths", attack);
}

#[test]
fn a_header_line_of_a_gibibyte_is_cut_short() {
    let server = Server::start();
    let attack = |_: &AtomicBool| {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut stream = connect(server.addr());
                    let sent = flood(&mut stream, b"GET / HTTP/1.1\r\nX: ", 1 << 30);
                    assert!(sent < 64 << 20, "{sent} bytes were taken");
                });
            }
        });
    };
    under(&server, "endless header lines", attack);
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(65 << 10));
    assert_eq!(statuses(&ask(server.addr(), long.as_bytes())), [431]);
}

#[test]
fn ten_thousand_headers_are_refused() {
    let server = Server::start();
    for line in ["A: b\r\n", "Content-Type: application/json\r\n"] {
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", line.repeat(10_000));
        assert_eq!(statuses(&ask(server.addr(), head.as_bytes())), [431]);
    }
    check_health(&server);
}

#[test]
fn five_thousand_dripping_connections_do_not_keep_out_a_newcomer() {
    let server = Server::start();
    let wanted = raise_descriptors().saturating_sub(1000).min(5000);
    under(&server, "slow drips", |_| drip(server.addr(), wanted));
}

#[test]
fn ten_thousand_dripping_connections_that_are_all_kept_are_harmless() {
    let wanted = raise_descriptors().saturating_sub(1000).min(10_000);
    let server = with_room_for(wanted);
    under(&server, "kept drips", |_| drip(server.addr(), wanted));
    assert!(threads(&server) < THREADS_MAX);
}

#[test]
fn ten_thousand_idle_connections_cost_no_threads_and_are_still_answered() {
    let wanted = raise_descriptors().saturating_sub(1000).min(10_000);
    let server = with_room_for(wanted);
    let attack = |over: &AtomicBool| {
        let mut idle: Vec<_> = (0..wanted).map(|_| connect(server.addr())).collect();
        let mut ask_all = || {
            for stream in &mut idle {
                stream.write_all(HEALTH).unwrap();
                let mut reply = [0; 15];
                stream.read_exact(&mut reply).unwrap();
                assert_eq!(&reply, b"HTTP/1.1 200 OK");
                stream.set_nonblocking(true).unwrap();
                while stream.read(&mut [0; 1024]).is_ok() {}
                stream.set_nonblocking(false).unwrap();
            }
        };
        ask_all();
        wait(over, Duration::from_secs(1));
        ask_all();
        assert!(threads(&server) < THREADS_MAX);
    };
    under(&server, "idle connections", attack);
}

/// Keeps so many connections open for some seconds, each of which sends one byte of a head at a
/// time.
fn drip(address: SocketAddr, wanted: usize) {
    let open = || {
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_MAX).ok()?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Drip: ")
            .ok()?;
        Some(stream)
    };
    let mut drips: Vec<_> = (0..wanted).map(|_| open()).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        let mut returning = 200;
        for drip in &mut drips {
            let is_alive = |stream: &mut TcpStream| stream.write_all(b"x").is_ok();
            if !drip.as_mut().is_some_and(is_alive) && returning > 0 {
                // Those that were cut come back, some in each round.
                *drip = open();
                returning -= 1;
            }
        }
        pause(Duration::from_millis(100));
    }
}

/// A server that keeps so many connections and one that asks for its health.
fn with_room_for(connections: usize) -> Server {
    let most = (connections + 100).to_string();
    Server::with(&[("MAX_CONNECTIONS", &most)])
}

fn threads(server: &Server) -> usize {
    let path = format!("/proc/{}/task", server.pid());
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn a_head_that_drips_is_refused_after_its_time() {
    let server = Server::start();
    let mut stream = connect(server.addr());
    let begun = Instant::now();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Drip: ")
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut reply = Vec::new();
    while stream.read_to_end(&mut reply).is_err() && begun.elapsed() < Duration::from_secs(20) {
        drop(stream.write_all(b"x"));
    }
    let took = begun.elapsed();
    assert_eq!(statuses(&String::from_utf8_lossy(&reply)), [408]);
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(18),
        "{took:?}"
    );
}

#[test]
fn two_hundred_stalled_bodies_hold_no_worker() {
    let server = Server::start();
    let attack = |over: &AtomicBool| {
        let streams: Vec<TcpStream> = (0..200)
            .map(|at| {
                let mut stream = connect(server.addr());
                let framing = match at % 3 {
                    0 => "Content-Length: 1000\r\n\r\n{",
                    1 => "Transfer-Encoding: chunked\r\n\r\n3e8\r\n{",
                    _ => "Content-Length: 4000000\r\n\r\n{",
                };
                let head = "POST /api/collections/posts/records HTTP/1.1\r\nHost: x\r\n";
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(framing.as_bytes()).unwrap();
                if at % 3 == 2 {
                    drop(stream.write_all(&[b' '; 100_000]));
                }
                stream
            })
            .collect();
        wait(over, Duration::from_secs(3));
        drop(streams);
    };
    under(&server, "stalled bodies", attack);
}

#[test]
fn peers_that_never_read_hold_nothing_for_long() {
    let server = Server::start();
    let attack = |over: &AtomicBool| {
        let requests = HEALTH.repeat(1000);
        let flood = |_| {
            let mut stream = connect_narrow(server.addr());
            stream
                .set_write_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            // Until the answers fill every buffer on the way, and then the requests do.
            while stream.write_all(&requests).is_ok() {}
            stream
        };
        thread::scope(|scope| {
            let peers: Vec<_> = (0..10).map(|at| scope.spawn(move || flood(at))).collect();
            let peers: Vec<_> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
            wait(over, Duration::from_secs(2));
            drop(peers);
        });
    };
    under(&server, "peers that never read", attack);
}

#[test]
fn running_out_of_descriptors_makes_room_for_newcomers() {
    let server = Server::start();
    check_health(&server);
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count();
    let limit = u64::try_from(open + 30).unwrap();
    let limits = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    rustix::process::prlimit(Some(pid), Resource::Nofile, limits).unwrap();
    let attack = |over: &AtomicBool| {
        let streams: Vec<_> = (0..300).map(|_| connect(server.addr())).collect();
        wait(over, Duration::from_secs(2));
        drop(streams);
    };
    under(&server, "no descriptors", attack);
}

#[test]
fn noise_is_survived() {
    let server = Server::start();
    let seed = 0x5eed_2026_u64;
    eprintln!("seed {seed:#x}");
    let attack = |_: &AtomicBool| {
        let mut random = Random(seed);
        for at in 0..600 {
            let mut stream = connect(server.addr());
            stream
                .set_read_timeout(Some(Duration::from_millis(2)))
                .unwrap();
            let bytes = if at % 2 == 0 {
                random.bytes()
            } else {
                random.mutant()
            };
            drop(stream.write_all(&bytes));
            drop(stream.read(&mut [0; 4096]));
        }
    };
    under(&server, "noise", attack);
}

#[test]
fn requests_whose_end_is_ambiguous_are_refused() {
    let server = Server::start();
    let hidden = "GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 36\r\n\r\n",
        "Content-Length: 36\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0, 36\r\n\r\n",
        "Content-Length: +0\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 0x0\r\n\r\n",
        "Content-Length: \r\n\r\n",
        "Content-Length : 0\r\n\r\n",
        "Content-Length\t: 0\r\n\r\n",
        "X: y\r\n Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nx\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFE\r\nx\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
        "X: a\rContent-Length: 5\r\n\r\n",
        "X: a\nContent-Length: 5\r\n\r\n",
        "Host: y\r\n\r\n",
    ] {
        let request = format!("POST /api/health HTTP/1.1\r\nHost: x\r\n{head}{hidden}");
        let reply = ask(server.addr(), request.as_bytes());
        assert_eq!(statuses(&reply), [400], "{request:?}");
    }
    check_health(&server);
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let server = Server::start();
    let hidden = String::from_utf8(HEALTH.repeat(3)).unwrap();
    // An unexpected body is read, and the next request is the one after it.
    let length = hidden.len();
    let head = "POST /no/such/path HTTP/1.1\r\nHost: x\r\n";
    let mut request = format!("{head}Content-Length: {length}\r\n\r\n{hidden}").into_bytes();
    request.extend_from_slice(HEALTH_LAST);
    let reply = ask(server.addr(), &request);
    let found = statuses(&reply);
    assert_eq!((found.len(), found[1]), (2, 200), "{reply}");
    // One that is too long is not, and ends the connection.
    let request = format!(
        "{head}Content-Length: 1000000000000\r\n\r\n{}",
        hidden.repeat(100)
    );
    assert_eq!(statuses(&ask(server.addr(), request.as_bytes())), [413]);
}

#[test]
fn a_flood_of_pipelined_requests_is_answered_in_order() {
    let server = Server::start();
    let attack = |_: &AtomicBool| {
        let stream = connect(server.addr());
        let missing = b"GET /no/such/path HTTP/1.1\r\nHost: x\r\n\r\n";
        let pair = [HEALTH, missing].concat();
        let reply = thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(&pair.repeat(10_000)).unwrap();
                (&stream).write_all(HEALTH_LAST).unwrap();
            });
            read_all(&stream)
        });
        let found = statuses(&reply);
        assert_eq!(found.len(), 20_001);
        for (at, status) in found.iter().enumerate() {
            assert_eq!(*status, if at % 2 == 0 { 200 } else { 404 }, "answer {at}");
        }
    };
    under(&server, "pipelining flood", attack);
}

/// Runs an attack while new connections ask for `/api/health`. Checks each answer's time and the
/// server's memory. The attack is told when it may end.
fn under(server: &Server, what: &str, attack: impl FnOnce(&AtomicBool) + Send) {
    // One attack at a time: the clients need the machine as much as the server does.
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let over = AtomicBool::new(false);
    let mut worst = Duration::ZERO;
    let mut memory_mb = 0;
    thread::scope(|scope| {
        let attacker = scope.spawn(|| attack(&over));
        while !attacker.is_finished() {
            worst = worst.max(health(server));
            memory_mb = memory_mb.max(server.memory_kb("VmRSS") / 1024);
            pause(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    worst = worst.max(health(server));
    eprintln!("{what}: health within {worst:?}, {memory_mb} MB");
    assert!(worst < HEALTH_MAX, "{what}: health took {worst:?}");
    assert!(memory_mb < MEMORY_MB_MAX, "{what}: {memory_mb} MB");
    drop(turn);
}

fn check_health(server: &Server) {
    let took = health(server);
    assert!(took < HEALTH_MAX, "health took {took:?}");
}

/// The time that a new connection waits for its answer.
fn health(server: &Server) -> Duration {
    let begun = Instant::now();
    let reply = ask(server.addr(), HEALTH_LAST);
    assert_eq!(statuses(&reply), [200], "{reply}");
    begun.elapsed()
}

/// Sends bytes on a new connection and reads until it ends.
fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let stream = connect(address);
    // The server may have answered and closed before it has taken everything.
    drop((&stream).write_all(bytes));
    read_all(&stream)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// A connection whose receive buffer is as small as the system allows.
fn connect_narrow(address: SocketAddr) -> TcpStream {
    use rustix::net;
    let family = net::AddressFamily::INET;
    let socket = net::socket(family, net::SocketType::STREAM, None).unwrap();
    net::sockopt::set_socket_recv_buffer_size(&socket, 1024).unwrap();
    net::connect(&socket, &address).unwrap();
    TcpStream::from(socket)
}

/// Reads to the end of the connection, or to its reset.
fn read_all(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("read: {error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes the prefix and then letters until the server has had enough. Returns the bytes taken.
fn flood(stream: &mut TcpStream, prefix: &[u8], bytes_max: usize) -> usize {
    let letters = vec![b'a'; 1 << 20];
    stream.write_all(prefix).unwrap();
    let mut sent = prefix.len();
    while sent < bytes_max {
        match stream.write(&letters) {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    sent
}

/// The statuses of all final answers in a stream of them.
fn statuses(reply: &str) -> Vec<u16> {
    let lines = reply.split("HTTP/1.1 ").skip(1);
    let found = lines.map(|line| line[..3].parse().unwrap());
    found.filter(|status| *status != 100).collect()
}

/// Allows this process as many descriptors as it may have. Returns their number.
fn raise_descriptors() -> usize {
    let mut limits = rustix::process::getrlimit(Resource::Nofile);
    limits.current = limits.maximum;
    rustix::process::setrlimit(Resource::Nofile, limits).unwrap();
    limits
        .current
        .map_or(usize::MAX, |most| usize::try_from(most).unwrap())
}

/// Lets an attack last.
fn wait(over: &AtomicBool, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time && !over.load(Ordering::Relaxed) {
        pause(Duration::from_millis(20));
    }
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = 1 + self.next(2000);
        (0..count)
            .map(|_| u8::try_from(self.next(256)).unwrap())
            .collect()
    }

    /// A request that was right before some bytes were changed, doubled or left out.
    fn mutant(&mut self) -> Vec<u8> {
        let mut bytes = b"POST /api/collections/posts/records?filter=a%20b HTTP/1.1\r\nHost: x\r\n\
            Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\
            \r\n6\r\n{\"a\":1\r\n1\r\n}\r\n0\r\n\r\nGET /api/health HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
            .to_vec();
        for _ in 0..=self.next(6) {
            let at = self.next(bytes.len());
            match self.next(3) {
                0 => bytes[at] = u8::try_from(self.next(256)).unwrap(),
                1 => bytes.insert(at, bytes[at]),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    }
}
