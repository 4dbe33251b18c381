//! Where requests come from: pages of other sites, the first admin, proxies.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::api::{Api, encode};
use crate::support::server::Server;
use crate::support::wait_until;

const EVIL: &str = "https://evil.example";
const INIT: &str = "/api/admins/init";

fn body() -> serde_json::Value {
    json!({"email": "admin@example.com", "password": "password-1"})
}

fn with(api: &Api, headers: &[(&str, &str)]) -> Api {
    let start = api.with_header("X-Test", "1");
    let add = |api: Api, (name, value): &(&str, &str)| api.with_header(name, value);
    headers.iter().fold(start, add)
}

/// Any page that the browser of a developer showed made the first admin of a fresh server: a POST
/// of text/plain needs no preflight, and a name that leads to 127.0.0.1 makes the page one of the
/// same origin. A proxy on the machine admitted every client that reached it.
#[test]
fn no_page_and_no_stranger_behind_a_proxy_makes_the_first_admin() {
    let server = Server::with(&[
        ("CORS_ORIGINS", "*"),
        ("PUBLIC_URL", "https://vski.example/x"),
    ]);
    for headers in [
        &[("Origin", EVIL), ("Content-Type", "text/plain")][..],
        &[("Origin", EVIL), ("Content-Type", "application/json")],
        &[("Origin", "null"), ("Content-Type", "text/plain")],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("X-Forwarded-For", "127.0.0.1")],
        &[("Forwarded", "for=127.0.0.1")],
        &[("X-Real-IP", "127.0.0.1")],
        &[("Via", "1.1 proxy")],
        &[("X-Setup-Token", "")],
        &[("X-Setup-Token", "wrong")],
    ] {
        let refused = with(&server.api(), headers).post(INIT, body());
        assert_eq!(refused.status, 403, "{headers:?}");
    }
    for host in [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
    ] {
        let api = server.api().with_host(host);
        api.post(INIT, body()).expect(403);
        let origin = format!("http://{host}");
        let page = [
            ("Origin", origin.as_str()),
            ("Sec-Fetch-Site", "same-origin"),
        ];
        with(&api, &page).post(INIT, body()).expect(403);
    }
    let mut wrong = body();
    wrong["token"] = json!("wrong");
    server.api().post(INIT, wrong).expect(403);
    for host in ["127.0.0.1:3000", "[::1]:3000", "vski.example"] {
        // Wrong only in its password.
        let short = json!({"email": "admin@example.com", "password": "p"});
        server.api().with_host(host).post(INIT, short).expect(400);
    }
    server.api().post(INIT, body()).expect(200);
}

#[test]
fn the_setup_token_in_the_log_makes_the_first_admin_from_anywhere() {
    let server = Server::start();
    let token = |server: &Server| {
        let mut found = None;
        wait_until("the setup token", || {
            let log = server.log();
            let line = log.iter().find_map(|line| line.split_once("setup_token="));
            found = line.map(|(_, token)| token.to_owned());
            found.is_some()
        });
        found.unwrap()
    };
    let old = token(&server);
    let server = server.restart();
    let new = token(&server);
    assert_ne!(old, new);
    let away = with(
        &server.api(),
        &[("X-Forwarded-For", "203.0.113.7"), ("Origin", EVIL)],
    );
    let away = away.with_host("vski.example");
    let headers = [
        ("X-Setup-Token", old.as_str()),
        ("Content-Type", "application/json"),
    ];
    with(&away, &headers).post(INIT, body()).expect(403);
    let mut by_body = body();
    by_body["token"] = json!(new);
    let away = away.with_header("Content-Type", "application/json");
    away.post(INIT, by_body).expect(200);
    let headers = [("X-Setup-Token", new.as_str())];
    with(&away, &headers).post(INIT, body()).expect(403);
    // With an admin there is none.
    let server = server.restart();
    server.api().get("/api/health").expect(200);
    let has_asked = || {
        server
            .log()
            .iter()
            .any(|it| it.contains("path=/api/health"))
    };
    wait_until("the log", has_asked);
    assert!(!server.log().iter().any(|line| line.contains("setup_token")));
}

/// A page of any site could write what anonymous callers may write, in the name of the network of
/// its visitor.
#[test]
fn a_page_of_another_site_sends_nothing_without_a_preflight() {
    let named = "https://app.example";
    let server = Server::with(&[
        ("CORS_ORIGINS", named),
        ("PUBLIC_URL", "https://vski.example/x"),
    ]);
    let admin = server.admin();
    let title = json!({"name": "title", "type": "text"});
    let notes = json!({"name": "notes", "createRule": "", "fields": [title]});
    admin.post("/api/collections", notes).expect(200);
    let path = "/api/collections/notes/records";
    let note = json!({"title": "a"});
    let simple = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "Text/Plain;charset=utf-8",
    ];
    for origin in [
        EVIL,
        "null",
        "https://app.example.evil.example",
        "http://localhost:1",
    ] {
        for media_type in simple {
            let page = [("Origin", origin), ("Content-Type", media_type)];
            with(&server.api(), &page).post(path, &note).expect(403);
        }
        // A blob without a type.
        server
            .api()
            .with_header("Origin", origin)
            .post(path, &note)
            .expect(403);
        let form = "--b\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\na\r\n--b--\r\n";
        let page = [
            ("Origin", origin),
            ("Content-Type", "multipart/form-data; boundary=b"),
        ];
        with(&server.api(), &page).post(path, form).expect(403);
    }
    let page = [
        ("Sec-Fetch-Site", "cross-site"),
        ("Content-Type", "text/plain"),
    ];
    with(&server.api(), &page).post(path, &note).expect(403);
    let count = admin.get(path).expect(200);
    assert_eq!(count.json["totalItems"], 0);

    for headers in [
        // Programs, curl -d among them.
        &[][..],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "text/plain")],
        // Pages that were named, and those of this server, also where a proxy changes the host.
        &[("Origin", named), ("Content-Type", "text/plain")],
        &[("Origin", named), ("Sec-Fetch-Site", "cross-site")],
        &[("Origin", "https://vski.example")],
        &[("Origin", "http://localhost")],
        &[("Origin", EVIL), ("Sec-Fetch-Site", "same-origin")],
        // A browser asks before it sends these.
        &[("Origin", EVIL), ("Content-Type", "application/json")],
    ] {
        let made = with(&server.api(), headers).post(path, &note);
        assert_eq!(made.status, 200, "{headers:?}");
    }
    admin
        .with_header("Origin", EVIL)
        .post(path, &note)
        .expect(200);
    let open = Server::with(&[("CORS_ORIGINS", "*")]);
    let login = open.api().with_header("Origin", EVIL);
    login.post("/api/admins/login", body()).expect(401);
}

/// An answer to a request without an origin had no `Vary: Origin`, so a cache gave it to pages that
/// may read answers, without the header that says so: they were locked out for as long as files are
/// kept, 30 days.
#[test]
fn caches_are_told_that_answers_depend_on_the_origin() {
    let server = Server::with(&[("CORS_ORIGINS", "https://app.example")]);
    let admin = server.admin();
    let title = json!({"name": "title", "type": "text"});
    let file = json!({"name": "file", "type": "file"});
    let notes = json!({"name": "notes", "listRule": "", "fields": [title, file]});
    admin.post("/api/collections", notes).expect(200);
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nx\r\n--b--\r\n";
    let form = admin
        .with_header("Content-Type", "multipart/form-data; boundary=b")
        .post("/api/collections/notes/records", form)
        .expect(200);
    let file = format!(
        "/api/files/notes/{}/{}",
        form.text("/id"),
        form.text("/file")
    );
    let long = json!({"title": "x".repeat(2000)});
    admin
        .post("/api/collections/notes/records", long)
        .expect(200);
    let etag = server.api().get(&file).expect(200);
    let etag = etag.header("ETag").unwrap().to_owned();
    let list = "/api/collections/notes/records";
    for origin in [None, Some("https://app.example"), Some(EVIL)] {
        let api = server.api();
        let api = origin.map_or(server.api(), |origin| api.with_header("Origin", origin));
        let not_modified = api
            .with_header("If-None-Match", &etag)
            .get(&file)
            .expect(304);
        let preflight = api
            .with_header("Access-Control-Request-Method", "PATCH")
            .send("OPTIONS", list, "")
            .unwrap();
        let part = api.with_header("Range", "bytes=0-0").get(&file).expect(206);
        for reply in [
            not_modified,
            preflight,
            part,
            api.get(&file).expect(200),
            api.get("/api/nothing").expect(404),
            api.get("/api/admins").expect(401),
            api.send("PUT", "/api/health", "").unwrap().expect(405),
        ] {
            let is_plain_options = origin.is_none() && reply.status == 405;
            assert!(
                is_plain_options || reply.header("Vary") == Some("Origin"),
                "{reply:?}"
            );
            let allowed = reply.header("Access-Control-Allow-Origin");
            assert_eq!(allowed, origin.filter(|it| *it != EVIL), "{reply:?}");
        }
        let compressed = api.with_header("Accept-Encoding", "gzip").get(list);
        let varies = compressed.header("Vary");
        assert_eq!(varies, Some("Origin, Accept-Encoding"));
    }
    // Where all are allowed the answer is one, and has to be complete without an origin, too.
    let open = Server::with(&[("CORS_ORIGINS", "*")]);
    for api in [open.api(), open.api().with_header("Origin", EVIL)] {
        let reply = api.get("/api/health").expect(200);
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(reply.header("Vary"), None);
    }
    let closed = Server::start();
    assert_eq!(closed.api().get("/api/health").header("Vary"), None);
}

/// On a listener for both families the peer of a proxy is `::ffff:127.0.0.1`, which was compared
/// with `127.0.0.1` as text is: all clients counted as one, and one of them kept all others from
/// logging in.
#[test]
fn clients_behind_a_proxy_are_told_apart_on_every_kind_of_listener() {
    let server = Server::with(&[("HOST", "::"), ("TRUSTED_PROXIES", "127.0.0.0/8, fd00::/8")]);
    let addr = SocketAddr::from(([127, 0, 0, 1], server.addr().port()));
    let api = Api::new(addr);
    let wrong = json!({"email": "nobody@example.com", "password": "wrong"});
    for at in 0..30 {
        let chain = match at % 3 {
            0 => format!("203.0.113.9, 198.51.100.{at}:567, fd00::7"),
            1 => format!("[2001:db8:{at}::1]:567,[fd00::7]"),
            _ => format!("::ffff:198.51.100.{at}"),
        };
        // Other names, too, so that only the address could be what is counted.
        let mut wrong = wrong.clone();
        wrong["email"] = json!(format!("n{at}@example.com"));
        let tried = api.with_header("X-Forwarded-For", &chain);
        tried.post("/api/admins/login", wrong).expect(401);
    }
    for entry in ["unknown", "1.1.1.1, _hidden"] {
        let api = api.with_header("X-Forwarded-For", entry);
        api.get(&format!("/api/health?{}", encode(entry)))
            .expect(200);
    }
    wait_until("the log", || {
        let log = server.log();
        let clients: Vec<&str> = log
            .iter()
            .filter_map(|it| Some(it.split_once(" client=")?.1))
            .collect();
        let warnings = log
            .iter()
            .filter(|line| line.contains("sends an invalid address"))
            .count();
        clients.len() == 30
            && clients[..3] == ["198.51.100.0", "2001:db8:1::1", "198.51.100.2"]
            && warnings == 1
    });
}
