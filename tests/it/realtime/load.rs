//! Subscriptions under load: long records, slow clients, many short subscriptions.

use serde_json::json;

use crate::support::api::Api;
use crate::support::listener::Listener;
use crate::support::server::Server;
use crate::support::wait_until;

const POSTS: &str = "/api/collections/posts/records";

fn set_up(server: &Server) -> Api {
    let admin = server.admin();
    let fields = json!([{"name": "title", "type": "text"}, {"name": "n", "type": "number"}]);
    let posts = json!({"name": "posts", "listRule": "", "viewRule": "", "fields": fields});
    admin.post("/api/collections", posts).expect(200);
    admin
}

#[test]
fn a_long_record_does_not_fill_the_memory_whatever_the_names() {
    let server = Server::start();
    let admin = set_up(&server);
    let mut listeners: Vec<Listener> = (0..60).map(|_| Listener::connect(&server, "")).collect();
    for (n, listener) in listeners.iter_mut().enumerate() {
        listener.subscribe("posts", json!({"sub": format!("s{n}")}));
    }
    let title = "x".repeat(4_000_000);
    admin
        .post(POSTS, json!({"id": "long", "title": title}))
        .expect(200);
    let (mut whole, mut others) = (0, 0);
    for listener in &mut listeners {
        let frame = listener.next();
        match frame["t"].as_str() {
            Some("event") => {
                assert_eq!(
                    frame["record"]["title"].as_str().map(str::len),
                    Some(4_000_000)
                );
                whole += 1;
            }
            Some("resync") => others += 1,
            _ => panic!("{frame}"),
        }
    }
    assert!(whole >= 10 && others >= 30, "{whole} {others}");
    let most = server.memory_kb("VmHWM");
    assert!(most < 200 << 10, "{most} KiB");
    // All of them continue.
    admin.post(POSTS, json!({"id": "short"})).expect(200);
    for listener in &mut listeners {
        listener.expect("create", "short");
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_and_the_others_do_not_wait() {
    let server = Server::start();
    let admin = set_up(&server);
    let mut idle = Listener::connect(&server, "");
    idle.subscribe("posts", json!({}));
    let mut other = Listener::connect(&server, "");
    other.subscribe("posts", json!({"fields": "n"}));
    let title = "x".repeat(3000);
    for _ in 0..6 {
        let write = json!({"method": "POST", "url": POSTS, "body": {"title": title, "n": 1}});
        let body = json!({"requests": vec![write; 1000]});
        admin.post("/api/batch", body).expect(200);
        for _ in 0..1000 {
            assert_eq!(other.event()["record"]["n"], 1);
        }
    }
    wait_until("it is gone", || {
        let metrics = admin.get("/metrics").expect(200);
        let text = String::from_utf8(metrics.body).unwrap();
        text.lines()
            .any(|line| line == "vski_realtime_subscriptions 1")
    });
    other.nothing();
}

#[test]
fn subscriptions_that_come_and_go_leave_nothing_behind() {
    let server = Server::start();
    let admin = set_up(&server);
    let mut listener = Listener::connect(&server, "");
    let mut round = |from: usize| {
        for n in from..from + 500 {
            let more = json!({"sub": format!("s{}", n % 50), "filter": format!("n = {n} || title ~ '{n}'")});
            listener.subscribe("posts", more);
        }
        for n in 0..50 {
            listener.ask(json!({"t": "unsubscribe", "sub": format!("s{n}")}));
        }
        server.memory_kb("VmRSS")
    };
    let first = round(0);
    let last = (1..6).map(|at| round(at * 500)).last().unwrap();
    assert!(last < first + (8 << 10), "{first} {last}");
    listener.subscribe("posts", json!({}));
    admin.post(POSTS, json!({"id": "a"})).expect(200);
    listener.expect("create", "a");
    listener.nothing();
}
