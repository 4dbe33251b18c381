//! Limits on the resources of realtime clients, and their effect on other clients.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::api::Api;
use crate::support::frames::Socket;
use crate::support::listener::Listener;
use crate::support::server::Server;
use crate::support::worker::Worker;
use crate::support::{frames, wait_until, worker};

const PUB: &str = "/api/collections/pub/records";
const OWN: &str = "/api/collections/own/records";

/// A server behind a proxy, so that clients can be from different networks.
fn start() -> (Server, Api) {
    let server = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1")]);
    let admin = server.admin();
    for name in ["pub", "own"] {
        let fields = json!([{"name": "t", "type": "text"}]);
        let collection = json!({"name": name, "listRule": "", "viewRule": "", "createRule": "",
            "fields": fields});
        admin.post("/api/collections", collection).expect(200);
    }
    (server, admin)
}

/// The headers of a client at this address, with a token unless that is empty.
fn from(address: &str, token: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![("X-Forwarded-For", address.to_owned())];
    if !token.is_empty() {
        headers.push(("Authorization", token.to_owned()));
    }
    headers
}

fn metric(admin: &Api, line: &str) -> u64 {
    let metrics = admin.get("/metrics").expect(200);
    let text = String::from_utf8(metrics.body).unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(line));
    line.unwrap().trim().parse().unwrap()
}

fn used(admin: &Api, budget: &str) -> u64 {
    metric(admin, &format!("vski_budget_used{{budget=\"{budget}\"}}"))
}

/// A filter of `count` comparisons that match nothing and cannot be simplified.
fn filter(count: usize, seed: usize) -> String {
    let comparisons: Vec<String> = (0..count).map(|at| format!("t ~ 'z{seed}y{at}'")).collect();
    comparisons.join(" || ")
}

/// Creates an API key with these scopes and returns its secret.
fn key_of(admin: &Api, scopes: Value) -> String {
    let key = admin.post("/api/keys", json!({"name": "k", "scopes": scopes}));
    key.expect(200).text("/key").to_owned()
}

/// One anonymous write to a collection with a thousand subscriptions of expensive filters delayed
/// the events of all others by half a minute. Filters are short now, and subscriptions that take
/// longer than a second in all are told to read again.
#[test]
fn dear_filters_do_not_keep_the_events_of_others_back() {
    let (server, admin) = start();
    let mut dear: Vec<Listener> = (0..12).map(|_| Listener::connect(&server, "")).collect();
    for (at, listener) in dear.iter_mut().enumerate() {
        for sub in 0..10 {
            let more = json!({"sub": format!("s{sub}"), "filter": filter(32, at * 10 + sub)});
            listener.subscribe("pub", more);
        }
    }
    let mut plain = Listener::connect(&server, "");
    plain.subscribe("pub", json!({}));
    let mut neighbour = Listener::connect(&server, "");
    neighbour.subscribe("own", json!({}));
    // From here on, the cost of a cheap subscription is known.
    server.api().post(PUB, json!({"id": "first"})).expect(200);
    plain.expect("create", "first");
    let text = "zy".repeat(50_000);
    for round in 0..4 {
        for n in 0..3 {
            let body = json!({"id": format!("p{round}x{n}"), "t": text});
            server.api().post(PUB, body).expect(200);
        }
        let begun = Instant::now();
        let id = format!("o{round}");
        server.api().post(OWN, json!({"id": id})).expect(200);
        neighbour.expect("create", &id);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{round} {took:?}");
    }
    // The cheap one received the event or a resync; the expensive ones received a resync or have
    // ended.
    let told =
        |listener: &mut Listener| listener.next()["t"].as_str().unwrap_or_default().to_owned();
    assert!(["event", "resync"].contains(&told(&mut plain).as_str()));
    let answers: Vec<String> = dear.iter_mut().map(told).collect();
    let is_expected = |it: &String| it == "resync" || it == "ended";
    assert!(answers.iter().all(is_expected), "{answers:?}");
    neighbour.nothing();
    drop(admin);
}

#[test]
fn filters_of_subscriptions_are_short_but_for_those_of_admins() {
    let (server, admin) = start();
    let mut listener = Listener::connect(&server, "");
    listener.subscribe("pub", json!({"filter": filter(32, 0)}));
    let refused = listener.try_subscribe("pub", json!({"sub": "x", "filter": filter(33, 0)}));
    assert_eq!(
        (&refused["t"], &refused["status"]),
        (&json!("no"), &json!(400)),
        "{refused}"
    );
    let key = key_of(&admin, json!(["read"]));
    let mut program = Listener::with(&server, "", &from("10.0.0.2", &key));
    let refused = program.try_subscribe("pub", json!({"filter": filter(33, 0)}));
    assert_eq!(refused["status"], 400, "{refused}");
    let mut boss = Listener::with(&server, "", &from("10.0.0.1", admin.token()));
    boss.subscribe("pub", json!({"filter": filter(200, 0)}));
    // After the admin signs out, the filter is too long.
    boss.ask(json!({"t": "auth"}));
    boss.ended(401);
}

/// A socket could have a hundred filters of 8 KB, each of which made the server hold 62 KiB, and
/// there could be ten thousand sockets. Now the bytes are counted: a network has a share, anonymous
/// clients have one, and the rest is for clients with credentials.
#[test]
fn strangers_do_not_use_up_what_filters_may_take() {
    let (server, admin) = start();
    let long = |at: usize| format!("t = '{at}{}'", "x".repeat(7_900));
    let fill = |address: &str| {
        let mut listeners = Vec::new();
        for at in 0..2_000 {
            if at % 100 == 0 {
                listeners.push(Listener::with(&server, "", &from(address, "")));
            }
            let more = json!({"sub": format!("s{at}"), "filter": long(at)});
            let answer = listeners.last_mut().unwrap().try_subscribe("pub", more);
            if answer["t"] != "ok" {
                return (listeners, answer["status"].clone());
            }
        }
        panic!("nothing is refused");
    };
    let (mut first, status) = fill("10.0.0.1");
    assert_eq!(status, 429);
    let most = used(&admin, "subscription filters");
    assert!((24 << 20..33 << 20).contains(&most), "{most}");
    check_replacements(&mut first, long);
    // That was also the share of all anonymous clients.
    let mut stranger = Listener::with(&server, "", &from("10.0.0.2", ""));
    let refused = stranger.try_subscribe("pub", json!({"filter": long(5_000)}));
    assert_eq!(refused["status"], 503, "{refused}");
    // After a sign-in, the same socket has room.
    let token = key_of(&admin, json!(["read"]));
    assert_eq!(
        stranger.ask(json!({"t": "auth", "token": token}))["t"],
        "ok"
    );
    stranger.subscribe("pub", json!({"filter": long(0)}));
    stranger.subscribe("own", json!({}));
    admin.post(OWN, json!({"id": "a"})).expect(200);
    stranger.expect("create", "a");
    drop((first, stranger));
    wait_until("all is released", || {
        used(&admin, "subscription filters") == 0 && used(&admin, "subscriptions") == 0
    });
}

/// A client at the bound could not replace a subscription, because the new one was charged before
/// the old one released its charges. Nor could it join a group of equal subscriptions, because the
/// group was charged again.
fn check_replacements(clients: &mut [Listener], long: impl Fn(usize) -> String) {
    let last = clients.last_mut().unwrap();
    last.subscribe("pub", json!({"sub": "same", "filter": long(7)}));
    // If there is no room for the new one, the old one has ended.
    let refused = last.try_subscribe("pub", json!({"sub": "same", "filter": long(3_000)}));
    assert_eq!(
        (&refused["t"], &refused["status"]),
        (&json!("no"), &json!(429))
    );
    assert_eq!(last.ended(429)["sub"], "same");
    last.nothing();
    let first = &mut clients[0];
    first.subscribe("pub", json!({"sub": "s0", "filter": long(4_000)}));
    // A refusal for another reason keeps the old one.
    let refused = first.try_subscribe("pub", json!({"sub": "s0", "filter": "no = 1"}));
    assert_eq!(refused["status"], 400, "{refused}");
    first.nothing();
}

/// Anonymous clients have a share of the sockets. Clients with credentials, in the handshake or
/// after it, are not counted in it.
#[test]
fn sockets_are_charged_to_who_has_them() {
    let server = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1"), ("MAX_SOCKETS", "8")]);
    let admin = server.admin();
    let token = key_of(&admin, json!(["read"]));
    let status = |headers: &[(&'static str, String)]| match frames::try_connect(
        server.addr(),
        "/api/realtime",
        headers,
    ) {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        _ => 101,
    };
    let mut strangers: Vec<Listener> = (0..4)
        .map(|at| Listener::with(&server, "", &from(&format!("10.0.0.{at}"), "")))
        .collect();
    assert_eq!(status(&from("10.0.1.1", "")), 503);
    // One of them signs in, which frees room for another anonymous client.
    assert_eq!(
        strangers[0].ask(json!({"t": "auth", "token": token}))["t"],
        "ok"
    );
    strangers.push(Listener::with(&server, "", &from("10.0.1.1", "")));
    assert_eq!(status(&from("10.0.1.2", "")), 503);
    // An invalid token is refused.
    assert_eq!(status(&from("10.0.1.2", "x")), 401);
    let known: Vec<Listener> = (0..3)
        .map(|_| Listener::with(&server, "", &from("10.0.2.1", &token)))
        .collect();
    assert_eq!(used(&admin, "sockets"), 8);
    assert_eq!(status(&from("10.0.3.1", &token)), 503);
    // A client that signs out is closed if the anonymous share has no room.
    strangers[0].send(&json!({"t": "auth"}));
    assert_eq!(strangers[0].next(), json!({"close": 1013}));
    drop((known, strangers));
    wait_until("all is released", || used(&admin, "sockets") == 0);
}

/// A client that does not read, with a small receive window.
fn stalled(server: &Server, sub: &str) -> TcpStream {
    // Close-on-exec: the server of another test must not inherit it.
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    rustix::net::connect(&socket, &server.addr()).unwrap();
    let mut stream = TcpStream::from(socket);
    let head = "GET /api/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let frame = json!({"t": "subscribe", "sub": sub, "collection": "pub"}).to_string();
    let mut bytes = vec![0x81, 0x80 | u8::try_from(frame.len()).unwrap(), 0, 0, 0, 0];
    bytes.extend(frame.as_bytes());
    stream.write_all(&bytes).unwrap();
    // Reads the response head, the welcome frame and the answer.
    let mut said: Vec<u8> = Vec::new();
    while !said.windows(5).any(|it| it == b"last\"") {
        let mut piece = [0; 512];
        let size = stream.read(&mut piece).unwrap();
        said.extend(&piece[..size]);
    }
    stream
}

/// A thousand sockets that did not read made the server hold a megabyte for each. Now all queued
/// texts have a budget with a share for anonymous clients, and the fullest send queues are dropped
/// first.
#[test]
fn sockets_that_do_not_read_are_cut_before_they_take_the_memory() {
    let (server, admin) = start();
    let mut quick = Listener::with(&server, "", &from("10.0.0.9", ""));
    quick.subscribe("pub", json!({}));
    let sockets: Vec<TcpStream> = (0..80)
        .map(|at| stalled(&server, &format!("s{at}")))
        .collect();
    let text = "x".repeat(60_000);
    let refused = "vski_budget_refused_total{budget=\"socket outboxes\"}";
    let mut most = 0;
    // The system buffers some megabytes per socket before texts wait.
    for at in 0..200 {
        let (id, begun) = (format!("r{at}"), Instant::now());
        admin.post(PUB, json!({"id": id, "t": text})).expect(200);
        let event = quick.expect("create", &id);
        assert_eq!(event["record"]["t"], Value::from(text.as_str()));
        assert!(begun.elapsed() < Duration::from_secs(5));
        most = most.max(used(&admin, "socket outboxes"));
        if metric(&admin, refused) > 0 {
            break;
        }
    }
    assert!(metric(&admin, refused) > 0 && most <= 48 << 20, "{most}");
    // Dropping a few made room.
    wait_until("some are dropped", || used(&admin, "sockets") < 81);
    assert!(used(&admin, "sockets") > 40);
    quick.nothing();
    drop(sockets);
    wait_until("they are gone", || used(&admin, "sockets") == 1);
    wait_until("all is released", || used(&admin, "socket outboxes") == 0);
}

/// Frames of all workers wait in one queue. Sockets without credentials have a small share of it
/// and are closed soon.
#[test]
fn strangers_on_the_socket_of_workers_are_ended() {
    let server = Server::start();
    let token = worker::token(&server);
    let open = || frames::connect(server.addr(), "/api/workflow/ws", &[]);
    let mut silent = open();
    let mut loud: Vec<Socket> = (0..8).map(|_| open()).collect();
    for socket in &mut loud {
        let text = "x".repeat(1_000_000);
        socket.send(Message::text(text)).unwrap();
    }
    let mut worker = Worker::connect(&server, &token, json!({}));
    assert_eq!(worker.next()["t"], "welcome");
    for socket in &mut loud {
        let code = frames::read(socket)["close"].clone();
        assert!([1013, 4400].contains(&code.as_u64().unwrap()), "{code}");
    }
    assert_eq!(frames::read(&mut silent)["close"], 4408);
}
