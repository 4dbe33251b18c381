//! Subscriptions over server-sent events, and invalid requests there and over WebSockets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::api::{Api, encode};
use crate::support::listener::Listener;
use crate::support::server::Server;
use crate::support::stream::Stream;
use crate::support::{cluster, frames, sqlite_for_writing};

const POSTS: &str = "/api/collections/posts/records";

fn set_up(server: &Server) -> Api {
    let admin = server.admin();
    let posts = json!({"name": "posts", "listRule": "", "viewRule": "", "fields": [
        {"name": "n", "type": "number"}, {"name": "meta", "type": "json"}]});
    admin.post("/api/collections", posts).expect(200);
    admin
        .post("/api/collections", json!({"name": "closed"}))
        .expect(200);
    admin
}

fn make(api: &Api, body: Value) {
    api.post(POSTS, body).expect(200);
}

#[test]
fn a_stream_speaks_as_pocketbase_does() {
    let server = Server::with(&[("CORS_ORIGINS", "https://app.example")]);
    let (admin, api) = (set_up(&server), server.api());
    let mut stream = Stream::open(&server, "", "Origin: https://app.example\r\n");
    let has = |line: &str| stream.head.iter().any(|it| it.eq_ignore_ascii_case(line));
    assert!(has("Content-Type: text/event-stream") && has("Cache-Control: no-store"));
    assert!(
        has("Access-Control-Allow-Origin: https://app.example"),
        "{:?}",
        stream.head
    );
    let options = json!({"query": {"filter": "n > 1", "fields": "id,n"}, "headers": {}});
    let some = format!("posts/*?options={}", encode(&options.to_string()));
    stream
        .set(&api, &["posts/*", &some, "posts/one", "closed/*", "none/*"])
        .expect(204);
    make(
        &admin,
        json!({"id": "one", "n": 1, "meta": {"a": "x\n\ndata: y", "b": [1]}}),
    );
    for _ in 0..2 {
        let event = stream.next().unwrap();
        assert!(
            ["posts/*", "posts/one"].contains(&event.name.as_str()),
            "{event:?}"
        );
        assert_eq!(event.data["record"]["meta"]["a"], "x\n\ndata: y");
    }
    make(&admin, json!({"id": "two", "n": 2}));
    let mut events = [stream.next().unwrap(), stream.next().unwrap()];
    events.sort_by_key(|event| event.name.len());
    assert_eq!(events[1].name, some);
    assert_eq!(
        events[1].data,
        json!({"action": "create", "record": {"id": "two", "n": 2}})
    );
    // These topics replace the others.
    stream.set(&api, &["posts/two"]).expect(204);
    admin.delete(&format!("{POSTS}/one")).expect(204);
    admin.delete(&format!("{POSTS}/two")).expect(204);
    stream.expect("posts/two", "delete");
    stream.set(&admin, &["closed/*"]).expect(204);
    admin
        .post("/api/collections/closed/records", "{}")
        .expect(200);
    stream.expect("closed/*", "create");
    // Line breaks between the tokens of a json field would end the data.
    stream.set(&api, &["posts"]).expect(204);
    admin
        .post(POSTS, "{\"meta\": {\n\"a\":\r\n\n1}}")
        .expect(200);
    assert_eq!(stream.expect("posts", "create")["meta"], json!({"a": 1}));
    let rule = json!({"listRule": null});
    admin.patch("/api/collections/posts", rule).expect(200);
    assert!(stream.next().is_none());
}

#[test]
fn topics_that_make_no_sense_are_refused() {
    let server = Server::start();
    let (admin, api) = (set_up(&server), server.api());
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let stream = Stream::open(&server, "/db/shop", "");
    let body = |topic: &str| json!({"clientId": stream.client, "subscriptions": [topic]});
    // The client is connected to another database.
    api.post("/api/realtime", body("posts/*")).expect(404);
    let stranger = json!({"clientId": "0123456789", "subscriptions": ["posts/*"]});
    api.post("/api/realtime", stranger).expect(404);
    let stream = Stream::open(&server, "", "");
    let long = format!("posts/*?options={}", "x".repeat(3000));
    let wrong = json!({"query": {"filter": "nowhere = 1"}}).to_string();
    let wrong = format!("posts/*?options={}", encode(&wrong));
    for topic in [
        "",
        "posts/*\nevent:x",
        "posts/*\rx",
        "posts/*?options=%7B",
        &long,
        &wrong,
    ] {
        stream.set(&api, &[topic]).expect(400);
    }
    stream
        .set(&api.with_token("nonsense"), &["posts/*"])
        .expect(401);
    let many: Vec<String> = (0..101).map(|n| format!("posts/r{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    stream.set(&api, &many).expect(409);
    stream.set(&api, &many[1..]).expect(204);
    stream.set(&api, &[]).expect(204);
    let accept = |text: &str| api.with_header("Accept", text);
    let mut head = TcpStream::connect(server.addr()).unwrap();
    let request = "HEAD /api/realtime HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    head.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(head).read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 400 Bad Request\r\n");
    accept("text/event-stream")
        .get("/db/none/api/realtime")
        .expect(404);
    let stranger = accept("text/event-stream").with_header("Authorization", "nonsense");
    stranger.get("/api/realtime").expect(401);
}

/// Only clients that sent `Accept: text/event-stream` over HTTP/1.1 got a stream. curl, the Python
/// client of PocketBase and all clients behind nginx with default settings (HTTP/1.0) were refused,
/// and some of them retried without a pause.
#[test]
fn whoever_asks_for_no_websocket_gets_the_stream() {
    let server = Server::start();
    let admin = set_up(&server);
    let api = server.api();
    for (at, (version, headers)) in [
        ("1.1", ""),
        ("1.1", "Accept: */*\r\n"),
        (
            "1.1",
            "Accept: application/json, text/event-stream;q=0.9\r\n",
        ),
        (
            "1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        ),
        ("1.0", "Accept: text/event-stream\r\n"),
        ("1.0", "Connection: close\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = Stream::open_by(&server, "", version, headers);
        let is_framed = |line: &String| {
            let line = line.to_ascii_lowercase();
            line.starts_with("transfer-encoding") || line.starts_with("content-length")
        };
        assert!(!stream.head.iter().any(is_framed), "{:?}", stream.head);
        stream.set(&api, &["posts/*"]).expect(204);
        let id = format!("r{at}");
        admin.post(POSTS, json!({"id": id})).expect(200);
        assert_eq!(stream.expect("posts/*", "create")["id"], json!(id));
    }
    // HTTP/1.0 has no WebSockets, and a request with a body cannot get a stream.
    for request in [
        "GET /api/realtime HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "GET /api/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        "GET /api/realtime HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let mut connection = TcpStream::connect(server.addr()).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line).unwrap();
        assert_eq!(line, "HTTP/1.1 400 Bad Request\r\n", "{request}");
    }
    // Other paths still keep the connection open.
    api.get("/api/health").expect(200);
    api.get("/api/health?x=/api/realtime").expect(200);
}

/// A key that was restricted to another database while it was connected still received all events.
/// Its subscriptions now end like those of a deleted key.
#[test]
fn who_has_a_key_hears_no_more_when_its_limits_change() {
    let server = Server::start();
    let admin = set_up(&server);
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let key = json!({"name": "k", "scopes": ["read"]});
    let key = admin.post("/api/keys", key).expect(200);
    let key = key.text("/key");
    let mut header = Listener::connect(&server, key);
    header.subscribe("closed", json!({}));
    let mut frame = Listener::connect(&server, "");
    frame.ask(json!({"t": "auth", "token": key}));
    frame.subscribe("closed", json!({}));
    frame.subscribe("posts", json!({}));
    let mut stream = Stream::open(&server, "", "");
    let topics = ["closed/*", "posts/*"];
    stream
        .set(&server.api().with_token(key), &topics)
        .expect(204);
    let limit = |limits: &str| {
        let database = sqlite_for_writing(&server.dir().join("data/default.db"));
        let sql = format!("UPDATE _api_keys SET {limits}");
        assert_eq!(database.execute(&sql, []).unwrap(), 1);
    };
    limit("collections = '[\"posts\"]'");
    header.ended(403);
    assert_eq!(frame.ended(403)["sub"], "closed");
    assert!(stream.next().is_none());
    make(&admin, json!({"id": "a"}));
    frame.expect("create", "a");
    limit("databases = '[\"shop\"]'");
    assert_eq!(frame.ended(403)["sub"], "posts");
    make(&admin, json!({"id": "b"}));
    let closed = "/api/collections/closed/records";
    admin.post(closed, json!({"id": "c"})).expect(200);
    header.nothing();
    frame.nothing();
    // The clients are anonymous now.
    assert_eq!(frame.try_subscribe("closed", json!({}))["status"], 403);
}

#[test]
fn frames_that_make_no_sense_are_refused_and_large_ones_end_the_connection() {
    let server = Server::start();
    set_up(&server);
    let mut listener = Listener::connect(&server, "");
    for text in [
        "",
        "[]",
        "{}",
        "null",
        r#"{"t":"subscribe","sub":"a"}"#,
        r#"{"t":"nonsense","ref":1}"#,
        r#"{"t":"subscribe","sub":"","collection":"posts"}"#,
        r#"{"t":"ping","ref":[]}"#,
        r#"{"t":"subscribe","sub":"a","collection":"posts","filter":1}"#,
        r#"{"t":"subscribe","sub":"a","collection":"posts","group":""}"#,
    ] {
        listener.send_text(text);
        let answer = listener.next();
        assert_eq!(answer["t"], "no", "{text} {answer}");
    }
    for (collection, more, status) in [
        ("none", json!({}), 404),
        ("closed", json!({}), 403),
        ("posts", json!({"filter": "n >"}), 400),
        ("posts", json!({"filter": "nowhere = 1"}), 400),
        ("posts", json!({"fields": "n m"}), 400),
        ("posts", json!({"sub": "x".repeat(101)}), 400),
    ] {
        let answer = listener.try_subscribe(collection, more);
        assert_eq!(answer["status"], status, "{answer}");
    }
    for n in 0..100 {
        // Any name is allowed.
        listener.subscribe("posts", json!({"sub": format!("\u{1f600}\"\n{n}")}));
    }
    assert_eq!(listener.try_subscribe("posts", json!({}))["status"], 409);
    listener.subscribe("posts", json!({"sub": "\u{1f600}\"\n0", "filter": "n = 1"}));
    assert_eq!(
        listener.ask(json!({"t": "unsubscribe", "sub": "\u{1f600}\"\n0"}))["t"],
        "ok"
    );
    listener.subscribe("posts", json!({"new": {"to": ["us"]}}));
    // Any number of frames at once: each is answered, in order.
    for n in 0..300 {
        listener.send(&json!({"t": "ping", "ref": n}));
    }
    for n in 0..300 {
        assert_eq!(listener.next(), json!({"t": "ok", "ref": n}));
    }
    listener.send_text(&" ".repeat(17 << 10));
    assert_eq!(listener.next(), json!({"close": 1009}));
}

#[test]
fn each_frame_is_answered_even_when_the_next_one_undoes_it() {
    let server = Server::start();
    let admin = set_up(&server);
    let write = json!({"method": "POST", "url": POSTS, "body": {"meta": "x".repeat(3000)}});
    let body = json!({"requests": vec![write; 1000]}).to_string();
    std::thread::scope(|scope| {
        // A running transaction makes subscriptions wait.
        let writer = scope.spawn(move || admin.post("/api/batch", body).status);
        for _ in 0..20 {
            let mut listener = Listener::connect(&server, "");
            let subscribe = |reference| json!({"t": "subscribe", "ref": reference, "sub": "a", "collection": "posts"});
            listener.send(&subscribe(1));
            listener.send(&subscribe(2));
            listener.send(&json!({"t": "unsubscribe", "ref": 3, "sub": "a"}));
            for reference in [3, 1, 2] {
                listener.find(|frame| frame["ref"] == reference);
            }
        }
        assert_eq!(writer.join().unwrap(), 200);
    });
}

#[test]
fn a_replica_names_its_master_and_a_server_that_stops_says_so() {
    let master = cluster::master();
    set_up(&master);
    let replica = cluster::replica(&master);
    cluster::converge(&master, &replica);
    let refused = frames::try_connect(replica.addr(), "/api/realtime", &[]);
    let Err(tungstenite::Error::Http(answer)) = refused else {
        panic!("{refused:?}")
    };
    let body = String::from_utf8(answer.body().clone().unwrap_or_default()).unwrap();
    assert_eq!(answer.status(), 503, "{body}");
    let stream = replica.api().with_header("Accept", "text/event-stream");
    let reply = stream.get("/api/realtime").expect(503);
    assert!(reply.text("/message").contains(&master.addr().to_string()));
    let topics = json!({"clientId": "x", "subscriptions": []});
    replica.api().post("/api/realtime", topics).expect(503);
    let mut listener = Listener::connect(&master, "");
    listener.subscribe("posts", json!({}));
    let mut stream = Stream::open(&master, "", "");
    stream.set(&master.api(), &["posts/*"]).expect(204);
    assert!(master.stop().success());
    assert_eq!(listener.next(), json!({"close": 1001}));
    assert!(stream.next().is_none());
}
