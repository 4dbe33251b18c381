//! Stopping: prompt when idle, complete for requests in flight, bounded whatever peers do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::server::Server;
use crate::support::wait_until;

const HEALTH: &[u8] = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n";

/// The server's deadline for stopping, and what the machine may add.
const STOP_MAX: Duration = Duration::from_secs(10);

#[test]
fn an_idle_server_stops_within_a_second() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start();
        let mut idle: Vec<TcpStream> = (0..50).map(|_| connect(&server)).collect();
        for stream in &mut idle {
            stream.write_all(HEALTH).unwrap();
            assert!(read_some(stream).starts_with("HTTP/1.1 200"));
        }
        let begun = Instant::now();
        server.signal(signal);
        assert_eq!(exit_code(&mut server), Some(0));
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        for stream in &mut idle {
            assert_eq!(read_some(stream), "");
        }
    }
}

#[test]
fn a_request_in_flight_is_finished() {
    let mut server = Server::start();
    let mut stream = connect(&server);
    let head = "POST /no/such/path HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234";
    stream.write_all(head.as_bytes()).unwrap();
    pause(100);
    server.signal("TERM");
    pause(300);
    stream.write_all(b"56789").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 4"), "{reply}");
    assert!(
        reply
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n"),
        "{reply}"
    );
    assert_eq!(exit_code(&mut server), Some(0));
}

#[test]
fn every_answer_under_load_is_whole_or_absent() {
    let mut server = Server::start();
    let address = server.addr();
    let answered: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|_| scope.spawn(move || ask_until_closed(address)))
            .collect();
        pause(300);
        server.signal("TERM");
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    assert!(answered > 20, "{answered} answers");
    assert_eq!(exit_code(&mut server), Some(0));
}

#[test]
fn nobody_is_accepted_while_stopping() {
    let mut server = Server::start();
    let address = server.addr();
    let mut partial = connect(&server);
    partial
        .write_all(b"GET /api/health HTTP/1.1\r\nHost: x\r\n")
        .unwrap();
    pause(100);
    server.signal("TERM");
    pause(300);
    assert!(TcpStream::connect(address).is_err());
    partial.write_all(b"\r\n").unwrap();
    assert!(read_some(&mut partial).starts_with("HTTP/1.1 200"));
    assert_eq!(exit_code(&mut server), Some(0));
}

#[test]
fn stalled_peers_do_not_hold_the_stop() {
    let mut server = Server::start();
    let mut stalled: Vec<TcpStream> = (0..40).map(|_| connect(&server)).collect();
    for (at, stream) in stalled.iter_mut().enumerate() {
        let begun: &[u8] = match at % 4 {
            0 => b"",
            1 => b"GET / HT",
            2 => b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc",
            _ => b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        };
        stream.write_all(begun).unwrap();
    }
    for stream in stalled.iter_mut().step_by(4) {
        // These ask and never read.
        stream
            .set_write_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        drop(stream.write_all(&HEALTH.repeat(100_000)));
    }
    pause(200);
    let begun = Instant::now();
    server.signal("TERM");
    assert!(exit_code(&mut server).is_some());
    assert!(begun.elapsed() < STOP_MAX, "{:?}", begun.elapsed());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start();
    let mut partial = connect(&server);
    partial
        .write_all(b"GET /api/health HTTP/1.1\r\nHost: x\r\n")
        .unwrap();
    pause(100);
    let begun = Instant::now();
    server.signal("TERM");
    pause(300);
    server.signal("TERM");
    let code = exit_code(&mut server);
    assert!(
        begun.elapsed() < Duration::from_millis(1300),
        "{:?}",
        begun.elapsed()
    );
    assert_ne!(code, Some(0), "the stop was not complete");
}

/// Asks again and again until the server closes. Returns how many answers came; each must be
/// whole.
fn ask_until_closed(address: SocketAddr) -> usize {
    let mut answers = 0;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(STOP_MAX)).unwrap();
    loop {
        if stream.write_all(HEALTH).is_err() {
            return answers;
        }
        let reply = read_some(&mut stream);
        if reply.is_empty() {
            return answers;
        }
        assert!(
            reply.starts_with("HTTP/1.1 200") && reply.ends_with('}'),
            "{reply}"
        );
        answers += 1;
    }
}

/// The bytes of one read; empty at the end of the connection.
fn read_some(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(STOP_MAX)).unwrap();
    stream
}

/// Waits for the end of the process; none if it was ended by a signal.
fn exit_code(server: &mut Server) -> Option<i32> {
    server.wait().code()
}

fn pause(ms: u64) {
    support::pause(Duration::from_millis(ms));
}

/// A panic in a thread that serves left a server that answered `/api/health` with 200 and told no
/// subscriber anything any more. It ends, in order, so that it is started again from what is on
/// disk.
#[test]
fn a_server_that_lacks_a_thread_ends() {
    for thread in ["timer", "realtime", "webhooks", "cron-sql"] {
        let point = format!("panic-{thread}");
        let mut server = Server::with(&[("VSKI_FAILPOINT", &point)]);
        assert_eq!(server.wait().code(), Some(1), "{thread}");
        let said = format!("stopping because a thread has panicked thread={thread}");
        wait_until("the log says so", || {
            let log = server.log();
            let has = |text: &str| log.iter().any(|line| line.contains(text));
            has(&said) && has("stopped clean=false")
        });
        let (dir, _) = server.into_parts();
        let server = Server::from_parts((dir, Vec::new()));
        server.api().get("/api/health").expect(200);
    }
}

/// As long as it has not ended, load balancers are told.
#[test]
fn the_health_of_a_server_names_the_thread_that_it_lacks() {
    let server = Server::with(&[("VSKI_FAILPOINT", "panic+stay-realtime")]);
    let health = || server.api().get("/api/health");
    wait_until("it is noticed", || health().status == 503);
    assert!(health().text("/message").contains("The thread realtime"));
    server.admin().get("/api/collections").expect(200);
    assert_eq!(server.stop().code(), Some(1));
}
