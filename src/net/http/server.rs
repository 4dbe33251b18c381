//! The server: the engine that reads requests, and the workers that answer them.
//!
//! The only file that uses tiny_http and threadpool. It owns the threads `worker` (a fixed number,
//! each looping on the engine's requests) and, inside the engine, `http-front` and `http-write`. It
//! knows no routes: a single function answers all requests.
//!
//! Invariants: a request that reaches a worker gets exactly one response and one log line, even if
//! the handler panics. A worker never waits for a client: inside the engine it reads what is there
//! until a request is whole, and slow readers are served by other threads. A hostile client cannot
//! exhaust memory, threads or connections, because of the limits of the engine.

use std::any::Any;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use std::{io, panic};

use threadpool::ThreadPool;
use tiny_http::HTTPVersion;

use crate::base::budget::{Charge, Exhausted};
use crate::base::error::{INTERNAL_MESSAGE, Result, ResultExt as _};
use crate::base::log::Level;
use crate::base::threads::{lock, wait_timeout};
use crate::base::{clock, log};
use crate::net::http::encode::{BodyMode, ConnectionHeader, Framing, encode};
use crate::net::http::{
    BodyPolicy, BodyRefusal, BodySink, FREE_BYTES, FinishedSink, Headers, Method, Request,
    RequestId, Response, Socket,
};

/// Time for a partly received request to complete once the server stops.
const PARTIAL_GRACE: Duration = Duration::from_secs(2);
/// Bytes of responses that clients have not read yet. Above it, the longest stalled client is
/// disconnected.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Bytes that the system buffers for a socket that is not read; Linux doubles it for its own
/// records. By default they would grow to some megabytes per socket.
const SOCKET_SEND_BYTES: usize = 128 << 10;
/// Shortest interval between two log lines about failures to accept.
const ACCEPT_LOG_PAUSE_MS: i64 = 1000;

/// Answers a request. Called by many threads at once; may panic.
pub type Handler = Arc<dyn Fn(Request) -> Response + Send + Sync>;

/// Limits that the operator sets. The others are those of the engine.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Number of threads that answer requests.
    pub workers: usize,
    /// Most connections. Above it, the longest idle one is closed.
    pub connections_max: usize,
    /// Bytes of a body. A longer one gets 413.
    pub body_bytes_max: usize,
    /// True for paths whose `GET` responses may have no end. Such a request is the last of its
    /// connection.
    pub is_endless: fn(&str) -> bool,
}

impl Default for ServerSettings {
    fn default() -> ServerSettings {
        ServerSettings {
            workers: 64,
            connections_max: 1024,
            body_bytes_max: 4 << 20,
            is_endless: |_| false,
        }
    }
}

/// Totals since the start, except `connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerCounters {
    /// Connections open now.
    pub connections: usize,
    /// Requests passed to workers.
    pub requests: u64,
    /// Requests refused by the engine as malformed or too slow.
    pub refused: u64,
    /// Connections closed to make room.
    pub evicted: u64,
    /// Connections closed because the client sent or read too slowly.
    pub slow_closed: u64,
    /// Connections not accepted for lack of descriptors, threads or room.
    pub accept_failed: u64,
}

/// The result of [`Server::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Requests without a complete response at the deadline.
    pub in_flight_left: usize,
}

/// A running server. Dropping it closes all connections at once; see [`Server::stop`].
pub struct Server {
    inner: Arc<Inner>,
    workers: Arc<Workers>,
    /// Held because dropping it would end idle workers. They end with the engine's queue.
    _pool: ThreadPool,
}

struct Inner {
    engine: tiny_http::Server,
    handler: Handler,
    ids: Arc<RequestIds>,
    stopping: AtomicBool,
}

/// The number of running workers. A worker has released everything else before it is subtracted.
struct Workers {
    alive: Mutex<usize>,
    ended: Condvar,
}

/// Subtracts one worker when dropped.
struct Alive(Arc<Workers>);

impl Server {
    /// Starts to serve the listener. Fails if threads cannot be started.
    pub fn start(
        listener: TcpListener,
        settings: &ServerSettings,
        bodies: &Arc<dyn BodyPolicy>,
        handler: Handler,
    ) -> Result<Server> {
        let limits = tiny_http::Limits {
            max_connections: settings.connections_max,
            body_buffer_max: settings.body_bytes_max,
            body_free: FREE_BYTES,
            answer_budget: ANSWER_BYTES_MAX,
            ..tiny_http::Limits::default()
        };
        let ids = Arc::new(RequestIds::new());
        let hooks = hooks(&ids, bodies, settings);
        let engine = tiny_http::Server::from_listener(listener, limits, hooks)
            .context("start the http server")?;
        let inner = Arc::new(Inner {
            engine,
            handler,
            ids,
            stopping: AtomicBool::new(false),
        });
        let workers = Arc::new(Workers {
            alive: Mutex::new(settings.workers),
            ended: Condvar::new(),
        });
        let pool = threadpool::Builder::new()
            .num_threads(settings.workers)
            .thread_name("worker".to_owned())
            .build();
        for _ in 0..settings.workers {
            let alive = Alive(Arc::clone(&workers));
            let inner = Arc::clone(&inner);
            pool.execute(move || {
                // A panic outside a handler fails its request and does not end the worker.
                while panic::catch_unwind(AssertUnwindSafe(|| inner.work())).is_err() {}
                drop(inner);
                drop(alive);
            });
        }
        Ok(Server {
            inner,
            workers,
            _pool: pool,
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.inner.engine.server_addr()
    }

    pub fn counters(&self) -> ServerCounters {
        let engine = self.inner.engine.counters();
        ServerCounters {
            connections: engine.connections,
            requests: engine.requests,
            refused: engine.refused,
            evicted: engine.evicted,
            slow_closed: engine.slow_closed,
            accept_failed: engine.accept_errors + engine.turned_away,
        }
    }

    /// Stops accepting, lets queued and running requests finish and their responses be sent, closes
    /// each connection without requests, and ends the workers. Takes at most `deadline`. Requests
    /// that are not finished then are counted, and end with the process.
    pub fn stop(&self, deadline: Duration) -> Stopped {
        let begun = Instant::now();
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::Relaxed);
        let in_flight_left = inner.engine.drain(PARTIAL_GRACE, deadline);
        inner.engine.unblock();
        let mut alive = lock(&self.workers.alive);
        while *alive > 0 && begun.elapsed() < deadline {
            let left = deadline.saturating_sub(begun.elapsed());
            alive = wait_timeout(&self.workers.ended, alive, left);
        }
        Stopped { in_flight_left }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        *lock(&self.0.alive) -= 1;
        self.0.ended.notify_all();
    }
}

impl Inner {
    /// The thread of a worker.
    fn work(&self) {
        while let Some(request) = self.engine.recv() {
            self.serve(request);
        }
    }

    fn serve(&self, mut engine: tiny_http::Request) {
        let id = self.ids.next();
        let exchange = Exchange::new(&engine, &id, self.stopping.load(Ordering::Relaxed));
        let wants_upgrade = engine.wants_upgrade();
        let (peer, received_at) = (engine.remote_addr(), engine.received_at());
        let request = read(&mut engine, id.clone());
        let path = request.path.clone();
        let response = self.call(request, wants_upgrade);
        let (status, is_quiet, client) = (response.status, response.is_quiet, response.client);
        let bytes = exchange.answer(engine, response);
        let micros = u64::try_from(received_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let method = exchange.method.as_str();
        let level = match is_quiet && status < 400 {
            true => Level::Debug,
            false => Level::Info,
        };
        log::request(
            level,
            id.as_str(),
            method,
            &path,
            status,
            micros,
            bytes,
            &peer,
            client,
        );
    }

    fn call(&self, request: Request, wants_upgrade: bool) -> Response {
        let id = request.id.clone();
        match panic::catch_unwind(AssertUnwindSafe(|| (self.handler)(request))) {
            // HTTP/1.0 has no upgrades, and HEAD no body.
            Ok(response) if response.takeover.is_some() && !wants_upgrade => problem(
                400,
                "A WebSocket requires HTTP/1.1; an event stream requires a GET without a body.",
            ),
            Ok(response) => response,
            Err(payload) => {
                let reason = panic_text(&*payload);
                log::error(format_args!("request panicked id={id} reason={reason:?}"));
                problem(500, INTERNAL_MESSAGE)
            }
        }
    }
}

/// The properties of a request needed to send the response after the handler has consumed it.
struct Exchange<'a> {
    id: &'a RequestId,
    method: Method,
    accept_encoding: String,
    connection: ConnectionHeader,
}

impl<'a> Exchange<'a> {
    fn new(engine: &tiny_http::Request, id: &'a RequestId, stopping: bool) -> Exchange<'a> {
        let connection = if stopping || engine.must_close() {
            ConnectionHeader::Close
        } else if engine.http_version() < HTTPVersion(1, 1) {
            ConnectionHeader::KeepAlive
        } else {
            ConnectionHeader::Omitted
        };
        Exchange {
            id,
            method: method(engine.method()),
            accept_encoding: engine
                .header("Accept-Encoding")
                .unwrap_or_default()
                .to_owned(),
            connection,
        }
    }

    /// Sends the response or queues it. Returns its bytes.
    fn answer(&self, engine: tiny_http::Request, mut response: Response) -> usize {
        if let Some(takeover) = response.takeover.take() {
            let connection = match response.status {
                101 => ConnectionHeader::Upgrade,
                _ => ConnectionHeader::Endless,
            };
            let head = encode(response, &self.frame(connection)).head;
            match switch(engine, &head) {
                Ok(socket) => takeover(socket),
                Err(error) => {
                    log::info(format_args!("switch failed id={} error={error}", self.id));
                }
            }
            return head.len();
        }
        let output = std::mem::take(&mut response.output);
        let encoded = encode(response, &self.frame(self.connection));
        let length = encoded.head.len() + encoded.body.len();
        let close = self.connection == ConnectionHeader::Close;
        match encoded.stream {
            Some((reader, more)) => {
                engine.respond_from(encoded.head, reader, more, close);
                length + usize::try_from(more).unwrap_or(usize::MAX)
            }
            None => {
                engine.respond(encoded.head, encoded.body, close);
                drop(output);
                length
            }
        }
    }

    fn frame(&self, connection: ConnectionHeader) -> Framing<'_> {
        Framing {
            id: self.id.as_str(),
            body: match self.method {
                Method::Head => BodyMode::LengthOnly,
                _ => BodyMode::Sent,
            },
            connection,
            accept_encoding: &self.accept_encoding,
        }
    }
}

/// The generator of request ids.
struct RequestIds {
    process: u32,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> RequestIds {
        let random = RandomState::new().hash_one(clock::now_ms());
        RequestIds {
            process: u32::try_from(random >> 32).unwrap_or_default(),
            count: AtomicU64::new(0),
        }
    }

    fn next(&self) -> RequestId {
        RequestId::new(self.process, self.count.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// The callbacks of the engine: error responses, body policy, logging.
fn hooks(
    ids: &Arc<RequestIds>,
    bodies: &Arc<dyn BodyPolicy>,
    settings: &ServerSettings,
) -> tiny_http::Hooks {
    let (bytes_max, is_endless) = (settings.body_bytes_max, settings.is_endless);
    let ids = Arc::clone(ids);
    let (receiver, payers) = (Arc::clone(bodies), Arc::clone(bodies));
    let logged = Mutex::new((-ACCEPT_LOG_PAUSE_MS, 0_u64));
    tiny_http::Hooks {
        refusal: Box::new(move |status| {
            let id = ids.next();
            let frame = Framing {
                id: id.as_str(),
                body: BodyMode::Sent,
                connection: ConnectionHeader::Close,
                accept_encoding: "",
            };
            encode(problem(status, refusal_message(status)), &frame).head
        }),
        body: Box::new(move |head| destination(&*receiver, head, bytes_max)),
        meter: Box::new(move |head| {
            Box::new(Meter {
                charge: payers.charge(&announced(head)),
                exhausted: None,
            })
        }),
        endless: Box::new(move |head| {
            let path = head.url().split('?').next();
            path.is_some_and(is_endless)
        }),
        accept_failed: Box::new(move |error| {
            let mut logged = lock(&logged);
            logged.1 += 1;
            let now_ms = clock::uptime_ms();
            if now_ms - logged.0 >= ACCEPT_LOG_PAUSE_MS {
                logged.0 = now_ms;
                log::warn(format_args!(
                    "accept failed error={error} times={}",
                    logged.1
                ));
            }
        }),
    }
}

/// Selects the destination of a body. Only forms and long bodies need the policy.
fn destination(
    bodies: &dyn BodyPolicy,
    head: &tiny_http::HeadView<'_>,
    bytes_max: usize,
) -> tiny_http::Destination {
    let is_form = |(name, value): (&str, &str)| {
        name.eq_ignore_ascii_case("Content-Type")
            && value
                .get(..10)
                .is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/"))
    };
    let length = head.content_length();
    if head.headers().any(is_form)
        && let Some(sink) = bodies.sink_for(&announced(head), length)
    {
        return tiny_http::Destination::Sink(Box::new(Sink(sink)));
    }
    let may_be_long = length.is_none_or(|length| length > FREE_BYTES as u64);
    tiny_http::Destination::Memory(match may_be_long {
        true => {
            let path = head.url().split('?').next().unwrap_or_default();
            bytes_max.min(bodies.bytes_max(method(head.method()), path))
        }
        false => bytes_max,
    })
}

fn refusal_message(status: u16) -> &'static str {
    match status {
        408 => "The request took too long to arrive.",
        417 => "The expectation is not supported.",
        431 => "The request headers are too large.",
        503 => "The server is busy; try again.",
        505 => "The HTTP version is not supported.",
        500 => INTERNAL_MESSAGE,
        _ => "The request is malformed.",
    }
}

/// An error response in the usual format. The message is a constant and needs no escaping.
fn problem(status: u16, message: &str) -> Response {
    let body = format!(r#"{{"status":{status},"message":"{message}","data":{{}}}}"#);
    Response::json(status, body.into_bytes())
}

/// Adapts a [`BodySink`] to the engine.
struct Sink(Box<dyn BodySink>);

impl tiny_http::Sink for Sink {
    fn write(&mut self, piece: &[u8]) -> bool {
        panic::catch_unwind(AssertUnwindSafe(|| self.0.write(piece))).unwrap_or(false)
    }
}

/// Adapts a charge to the engine.
struct Meter {
    charge: Charge,
    exhausted: Option<Exhausted>,
}

impl tiny_http::Meter for Meter {
    fn grow(&mut self, bytes: usize) -> bool {
        self.exhausted = self.charge.grow(bytes as u64).err();
        self.exhausted.is_none()
    }
}

/// The request for a head whose body has not been received.
fn announced(head: &tiny_http::HeadView<'_>) -> Request {
    let (path, query) = head.url().split_once('?').unwrap_or((head.url(), ""));
    let mut headers = Headers::new();
    for (name, value) in head.headers() {
        headers.push(name, value);
    }
    Request {
        method: method(head.method()),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: Vec::new(),
        sink: None,
        body_refusal: None,
        peer: head.remote_addr(),
        id: RequestId::new(0, 0),
    }
}

/// Converts a request of the engine.
fn read(engine: &mut tiny_http::Request, id: RequestId) -> Request {
    let (path, query) = engine.url().split_once('?').unwrap_or((engine.url(), ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let sink = engine.take_sink().and_then(|sink| {
        let sink: Box<dyn Any> = sink;
        let sink = sink.downcast::<Sink>().ok()?;
        Some(FinishedSink(sink.0))
    });
    let (body, body_refusal) = match engine.take_body() {
        Ok(body) => (body, None),
        Err(tiny_http::Unread::TooLarge) => (Vec::new(), Some(BodyRefusal::TooLarge)),
        Err(tiny_http::Unread::Overloaded | tiny_http::Unread::Declined) => {
            (Vec::new(), Some(BodyRefusal::Exhausted(exhausted(engine))))
        }
    };
    let (text, spans) = engine.take_head();
    let spans = spans
        .into_iter()
        .map(|span| (span.name, span.value))
        .collect();
    let mut headers = Headers { text, spans };
    let method = match method(engine.method()) {
        Method::Head => {
            // Range is defined for GET only (RFC 9110, section 14.2).
            headers.remove("Range");
            Method::Get
        }
        method => method,
    };
    Request {
        method,
        path,
        query,
        headers,
        body,
        sink,
        body_refusal,
        peer: engine.remote_addr(),
        id,
    }
}

/// The bound that refused the body.
fn exhausted(engine: &mut tiny_http::Request) -> Exhausted {
    let meter: Option<Box<dyn Any>> = engine.take_meter().map(|meter| meter as Box<dyn Any>);
    let meter = meter.and_then(|meter| meter.downcast::<Meter>().ok());
    meter
        .and_then(|meter| meter.exhausted)
        .unwrap_or(Exhausted::Total)
}

fn method(method: &tiny_http::Method) -> Method {
    match method {
        tiny_http::Method::Get => Method::Get,
        tiny_http::Method::Head => Method::Head,
        tiny_http::Method::Post => Method::Post,
        tiny_http::Method::Put => Method::Put,
        tiny_http::Method::Patch => Method::Patch,
        tiny_http::Method::Delete => Method::Delete,
        tiny_http::Method::Options => Method::Options,
        _ => Method::Other,
    }
}

/// Sends the response head and detaches the connection from the engine. Fails instead of waiting if
/// the client has not read earlier responses and the socket buffer is full.
fn switch(engine: tiny_http::Request, head: &[u8]) -> io::Result<Socket> {
    let mut upgraded = engine.upgrade()?;
    upgraded.set_nonblocking()?;
    upgraded.write_all(head)?;
    let (stream, early) = upgraded.into_parts();
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, SOCKET_SEND_BYTES)?;
    Ok(Socket { stream, early })
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read as _;
    use std::net::TcpStream;

    use crate::net::http::InMemory;

    fn start(workers: usize) -> Server {
        let handler: Handler = Arc::new(|request| match request.path.as_str() {
            _ if request.body_refusal == Some(BodyRefusal::TooLarge) => {
                problem(413, "It is too large.")
            }
            "/panic" => panic!("on purpose"),
            "/long" => Response::json(200, vec![b' '; 5000]),
            "/socket" => Response::switch_protocols(
                vec![("Upgrade", "websocket".to_owned())],
                Box::new(|socket| {
                    let said = [b"early ", &socket.early[..]].concat();
                    (&*socket.stream).write_all(&said).unwrap();
                }),
            ),
            "/socket/refused" => Response::text(403, "no"),
            path => Response::text(200, format!("{} {path} {}", request.method, request.query)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = ServerSettings {
            workers,
            ..ServerSettings::default()
        };
        Server::start(listener, &settings, &InMemory::policy(), handler).unwrap()
    }

    /// Sends a request that ends its connection, and reads the response.
    fn ask(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn get(server: &Server, path: &str, headers: &str) -> String {
        ask(
            server,
            &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"),
        )
    }

    #[test]
    fn a_request_is_taken_apart_and_answered() {
        let server = start(1);
        let reply = get(&server, "/a%20b?c=d?e", "");
        assert!(reply.ends_with("\r\n\r\nGET /a%20b c=d?e"), "{reply}");
        assert!(reply.contains("\r\nConnection: close\r\n"), "{reply}");
        let reply = ask(&server, "HEAD /a HTTP/1.0\r\n\r\n");
        assert!(reply.contains("\r\nContent-Length: 7\r\n") && reply.ends_with("\r\n\r\n"));
        let reply = get(&server, "/long", "Accept-Encoding: gzip\r\n");
        assert!(reply.contains("\r\nContent-Encoding: gzip\r\n"), "{reply}");
        assert_eq!(server.counters().requests, 3);
    }

    #[test]
    fn a_panic_costs_one_answer() {
        let server = start(1);
        for _ in 0..3 {
            let reply = get(&server, "/panic", "");
            assert!(reply.starts_with("HTTP/1.1 500 "), "{reply}");
            assert!(reply.contains("\r\nX-Request-Id: ") && reply.contains(INTERNAL_MESSAGE));
        }
        assert!(get(&server, "/", "").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn refusals_have_the_form_of_all_errors() {
        let server = start(1);
        for (request, status) in [
            ("GET\r\n\r\n", 400),
            ("GET / HTTP/4.2\r\n\r\n", 505),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4194305\r\n\r\n",
                413,
            ),
        ] {
            let reply = ask(&server, request);
            assert!(
                reply.contains(&format!("\r\n\r\n{{\"status\":{status},")),
                "{reply}"
            );
            assert!(reply.contains("\r\nConnection: close\r\n"), "{reply}");
        }
    }

    #[test]
    fn a_handler_can_take_a_connection_over() {
        let server = start(1);
        let upgrade =
            "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let reply = ask(&server, &format!("{upgrade}bytes"));
        assert!(reply.starts_with("HTTP/1.1 101 "), "{reply}");
        assert!(reply.contains("\r\nConnection: Upgrade\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\nearly bytes"), "{reply}");
        assert!(get(&server, "/socket", "").starts_with("HTTP/1.1 400 "));
        let refused = ask(
            &server,
            &upgrade.replace("socket HTTP", "socket/refused HTTP"),
        );
        assert!(
            refused.starts_with("HTTP/1.1 403 ") && refused.ends_with("no"),
            "{refused}"
        );
    }

    #[test]
    fn a_stop_ends_the_workers_and_lets_go_of_the_handler() {
        let kept = Arc::new(());
        let held = Arc::clone(&kept);
        let handler: Handler = Arc::new(move |_| {
            let _held = &held;
            Response::empty(204)
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = ServerSettings::default();
        let server = Server::start(listener, &settings, &InMemory::policy(), handler).unwrap();
        assert!(get(&server, "/", "").starts_with("HTTP/1.1 204 "));
        let begun = Instant::now();
        assert_eq!(server.stop(Duration::from_secs(8)).in_flight_left, 0);
        assert!(begun.elapsed() < Duration::from_secs(2));
        drop(server);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
