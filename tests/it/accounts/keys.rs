//! API keys and service tokens.

use std::process::Command;

use serde_json::{Value, json};

use super::text;
use crate::support::api::Api;
use crate::support::server::{Server, VSKI};
use crate::support::stream::Stream;
use crate::support::{frames, sqlite, sqlite_for_writing};

/// A server with a collection for admins only, in two databases.
fn server() -> Server {
    let server = Server::start();
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in ["/api", "/db/shop/api"] {
        let title = json!({"name": "title", "type": "text"});
        let others = json!({"name": "others", "fields": [title]});
        admin
            .post(&format!("{base}/collections"), others)
            .expect(200);
        let notes = json!({"name": "notes", "fields": [
            title,
            {"name": "secret", "type": "text", "hidden": true},
            {"name": "other", "type": "relation", "collectionId": "others"},
        ]});
        admin
            .post(&format!("{base}/collections"), notes)
            .expect(200);
    }
    server
}

fn key(server: &Server, body: &Value) -> (String, Api) {
    let made = server.admin().post("/api/keys", body).expect(200);
    assert_eq!(made.header("Cache-Control"), Some("no-store"));
    let api = server.api().with_token(made.text("/key"));
    (made.text("/id").to_owned(), api)
}

#[test]
fn a_key_opens_what_its_scopes_name() {
    let server = server();
    let (_, writer) = key(&server, &json!({"name": "w", "scopes": ["write"]}));
    let (_, reader) = key(&server, &json!({"name": "r", "scopes": ["read"]}));
    let notes = "/api/collections/notes/records";
    let note = json!({"id": "n", "title": "a", "secret": "s"});
    let made = writer.post(notes, &note).expect(200);
    assert_eq!(made.json, json!({"id": "n"}));
    writer.get(notes).expect(403);
    writer.list("notes", &[]).expect(403);
    assert_eq!(
        reader
            .get(&format!("{notes}/n"))
            .expect(200)
            .text("/secret"),
        "s"
    );
    reader
        .patch(&format!("{notes}/n"), json!({"title": "b"}))
        .expect(403);
    // Without the right to read, the answer to a change tells nothing of the record.
    let changed = writer
        .patch(&format!("{notes}/n"), json!({"title": "b"}))
        .expect(200);
    assert_eq!(changed.json, json!({"id": "n"}));
    // In a header of its own, and before a token.
    let secret = server
        .admin()
        .post("/api/keys", json!({"name": "x", "scopes": ["read"]}));
    let secret = secret.expect(200).text("/key").to_owned();
    server
        .api()
        .with_header("X-API-Key", &secret)
        .get(notes)
        .expect(200);
    server
        .api()
        .with_header("X-API-Key", "vski_wrong")
        .get(notes)
        .expect(401);
    server
        .admin()
        .with_header("X-API-Key", &secret)
        .get("/api/admins")
        .expect(403);
}

#[test]
fn a_key_may_be_for_some_databases_and_collections_only() {
    let server = server();
    let some = json!({"name": "some", "scopes": ["read", "write"],
        "databases": ["shop"], "collections": ["notes"]});
    let (_, key) = key(&server, &some);
    key.get("/api/collections/notes/records").expect(403);
    key.get("/api/collections").expect(403);
    let shop = "/db/shop/api/collections";
    key.get(&format!("{shop}/notes/records")).expect(200);
    key.get(&format!("{shop}/others/records")).expect(403);
    // Nor by a way round.
    let other = json!({"id": "o", "title": "hidden"});
    server
        .admin()
        .post(&format!("{shop}/others/records"), other)
        .expect(200);
    let hidden = json!({"title": "a", "other": "o"});
    let missing = json!({"title": "a", "other": "none"});
    let path = format!("{shop}/notes/records");
    for note in [&hidden, &missing] {
        let refused = key.post(&path, note).expect(400);
        let code = refused.text("/data/other/code");
        assert_eq!(code, "validation_missing_rel_records");
    }
    server.admin().post(&path, hidden).expect(200);
    let list = key
        .get(&format!("{shop}/notes/records?expand=other"))
        .expect(200);
    assert_eq!(list.json["items"][0]["expand"], json!({}));
    key.get(&format!("{shop}/notes/records?filter=other.title!=''"))
        .expect(400);
    key.get(&format!("{shop}/notes/records?sort=other.title"))
        .expect(400);
}

/// Paths that answer in every database without a look at credentials.
const UNIDENTIFIED: [&str; 23] = [
    "/api/health",
    "/api/auth/login",
    "/api/auth/request-verification",
    "/api/auth/request-password-reset",
    "/api/auth/confirm",
    "/api/auth/confirm-verification",
    "/api/auth/confirm-password-reset",
    "/api/auth/confirm-email-change",
    "/api/collections/{collection}/auth-methods",
    "/api/collections/{collection}/auth-with-password",
    "/api/collections/{collection}/auth-with-oauth2",
    "/api/collections/{collection}/auth-with-oauth2/{provider}",
    "/api/auth/oauth2/{provider}",
    "/api/auth/code",
    "/api/collections/{collection}/auth-with-code",
    "/api/collections/{collection}/auth-with-otp",
    "/api/collections/{collection}/request-otp",
    "/api/oauth2-redirect",
    "/api/collections/{collection}/request-verification",
    "/api/collections/{collection}/confirm-verification",
    "/api/collections/{collection}/request-password-reset",
    "/api/collections/{collection}/confirm-password-reset",
    "/api/collections/{collection}/confirm-email-change",
];

/// A key for one database was checked against the database of the path only on routes that identify
/// the caller first. Sockets, event streams and files are public routes that identify later, so the
/// key read protected files and heard of every change in all other databases.
#[test]
fn a_key_for_one_database_opens_no_other_by_any_way() {
    let server = server();
    let admin = server.admin();
    let file = json!({"name": "file", "type": "file", "protected": true});
    let docs = json!({"name": "docs", "fields": [file]});
    admin.post("/db/shop/api/collections", docs).expect(200);
    let form = "--b\r\nContent-Disposition: form-data; name=\"id\"\r\n\r\ndoc\r\n\
                --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nsecret\r\n--b--\r\n";
    let made = admin
        .with_header("Content-Type", "multipart/form-data; boundary=b")
        .post("/db/shop/api/collections/docs/records", form)
        .expect(200);
    let file = format!("/db/shop/api/files/docs/doc/{}", made.text("/file"));
    admin.get(&file).expect(200);

    let scopes = ["read", "write", "collections"];
    let body = json!({"name": "k", "scopes": scopes, "databases": ["default"]});
    let (_, key) = key(&server, &body);
    key.get("/api/collections/notes/records").expect(200);
    let output = Command::new(VSKI).arg("routes").output().unwrap();
    let mut count = 0;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (method, path, place) = (words[0], words[1], words[3]);
        let by_hand = path.starts_with("/api/files/{") || path == "/api/realtime";
        if place != "database" || by_hand || UNIDENTIFIED.contains(&path) {
            continue;
        }
        count += 1;
        let path = path.replace("{collection}", "docs").replace("{id}", "doc");
        let path = path.replace("{workflow}", "w");
        let reply = key.send(method, &format!("/db/shop{path}"), "{}").unwrap();
        let answer = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, 403, "{method} {path}: {answer}");
    }
    assert!(count > 20, "{count} routes");
    key.get(&file).expect(403);
    key.get(&format!("{file}?token=")).expect(403);
    key.with_header("Accept", "text/event-stream")
        .get("/db/shop/api/realtime")
        .expect(403);
}

#[test]
fn a_key_for_one_database_opens_no_socket_of_another() {
    let server = server();
    let body = json!({"name": "k", "scopes": ["read"], "databases": ["default"]});
    let made = server.admin().post("/api/keys", body).expect(200);
    let key = made.text("/key").to_owned();
    let header = [("X-API-Key", key.clone())];
    let refused = frames::try_connect(server.addr(), "/db/shop/api/realtime", &header);
    let Err(tungstenite::Error::Http(response)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(response.status().as_u16(), 403);
    frames::connect(server.addr(), "/api/realtime", &header);
    // A socket without credentials may show some later.
    let mut socket = frames::connect(server.addr(), "/db/shop/api/realtime", &[]);
    let frame = json!({"t": "auth", "ref": 1, "token": key});
    let message = tungstenite::Message::text(frame.to_string());
    socket.send(message).unwrap();
    let answer = loop {
        let frame = frames::read(&mut socket);
        if frame["ref"] == 1 {
            break frame;
        }
    };
    assert_eq!(answer["status"], 403, "{answer}");
    // Nor does a stream of events take topics from such a key.
    let stream = Stream::open(&server, "/db/shop", "");
    stream
        .set(&server.api().with_token(&key), &["notes/*"])
        .expect(403);
}

/// The limits of a key meant nothing beside the scope `service`: the key read the runs of all
/// databases. Keys of that kind that an older version made keep their other scopes.
#[test]
fn a_limited_key_of_an_older_version_is_no_service() {
    let server = server();
    let scopes = ["service", "read"];
    let (id, old) = key(&server, &json!({"name": "old", "scopes": scopes}));
    let token = old.post("/api/auth/service-token", "").expect(200);
    let service = server.api().with_token(token.text("/token"));
    service.get("/api/workflow/runs").expect(200);
    for limit in ["databases", "collections"] {
        let sql = format!(
            "UPDATE _api_keys SET databases = NULL, collections = NULL, {limit} = '[\"default\"]'"
        );
        let database = sqlite_for_writing(&server.dir().join("data/default.db"));
        assert_eq!(database.execute(&sql, []).unwrap(), 1);
        old.get("/api/workflow/runs").expect(403);
        old.post("/api/auth/service-token", "").expect(403);
        service.get("/api/workflow/runs").expect(401);
    }
    let listed = server.admin().get("/api/keys").expect(200);
    assert_eq!(listed.json["items"][0]["scopes"], json!(["read"]), "{id}");
}

#[test]
fn a_key_is_shown_once_ends_and_tells_when_it_was_used() {
    let mut server = server();
    let admin = server.admin();
    let body = json!({"name": "k", "scopes": ["read"], "expires": "2999-01-01T00:00:00Z"});
    let (id, api) = key(&server, &body);
    let listed = admin.get("/api/keys").expect(200);
    let item = &listed.json["items"][0];
    assert_eq!((text(&item["id"]), item.get("key")), (id.as_str(), None));
    assert_eq!(
        (&item["lastUsed"], text(&item["expires"])),
        (&Value::Null, "2999-01-01T00:00:00.000Z")
    );
    api.list("notes", &[]).expect(200);
    let used = admin.get("/api/keys").json["items"][0]["lastUsed"].clone();
    assert!(!text(&used).is_empty());
    // Not even the file has the key; and when it was used outlives a stop.
    let path = server.dir().join("data/default.db");
    let hash: String = sqlite(&path)
        .query_row("SELECT hash FROM _api_keys", [], |row| row.get(0))
        .unwrap();
    assert_eq!(hash.len(), 64);
    server.signal("TERM");
    assert!(server.wait().success());
    let server = server.restart();
    let listed = server.admin().get("/api/keys").expect(200);
    assert_eq!(listed.json["items"][0]["lastUsed"], used);
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .expect(204);
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .expect(404);
}

#[test]
fn wrong_keys_are_refused() {
    let server = server();
    let admin = server.admin();
    for (wrong, field) in [
        (json!({"scopes": ["read"]}), "name"),
        (json!({"name": "k"}), "scopes"),
        (json!({"name": "k", "scopes": ["everything"]}), "scopes"),
        (
            json!({"name": "k", "scopes": ["read"], "expires": "2001-01-01T00:00:00Z"}),
            "expires",
        ),
        (
            json!({"name": "k", "scopes": ["read"], "expires": "soon"}),
            "expires",
        ),
        (
            json!({"name": "k", "scopes": ["collections"], "collections": ["notes"]}),
            "collections",
        ),
        (
            json!({"name": "k", "scopes": ["databases"], "databases": ["shop"]}),
            "databases",
        ),
        (
            json!({"name": "k", "scopes": ["service", "read"], "databases": ["shop"]}),
            "scopes",
        ),
        (
            json!({"name": "k", "scopes": ["service"], "collections": ["notes"]}),
            "scopes",
        ),
        (
            json!({"name": "k", "scopes": ["service"], "databases": []}),
            "scopes",
        ),
    ] {
        let refused = admin.post("/api/keys", &wrong).expect(400);
        assert!(refused.json["data"][field].is_object(), "{wrong}");
    }
    admin
        .post(
            "/api/keys",
            json!({"name": "k", "scopes": ["read"], "admin": true}),
        )
        .expect(400);
    admin
        .post("/api/keys", json!({"name": "k", "scopes": "read"}))
        .expect(400);
}

/// A token for one workflow opened the metrics and the status of replication, which names all
/// databases.
#[test]
fn a_service_token_for_some_workflows_opens_nothing_about_all() {
    let server = server();
    let (_, service) = key(&server, &json!({"name": "s", "scopes": ["service"]}));
    let token = |workflows: Value| {
        let body = json!({"name": "worker", "workflows": workflows});
        let made = service.post("/api/auth/service-token", body).expect(200);
        server.api().with_token(made.text("/token"))
    };
    let (some, none, all) = (token(json!(["a"])), token(json!([])), token(Value::Null));
    for path in ["/metrics", "/api/stats", "/api/replica/status"] {
        some.get(path).expect(403);
        none.get(path).expect(403);
        all.get(path).expect(200);
    }
    for api in [&some, &all] {
        api.get("/api/workflow/runs").expect(200);
    }
}

#[test]
fn a_service_token_ends_with_what_it_was_made_with() {
    let server = server();
    let (id, service) = key(&server, &json!({"name": "s", "scopes": ["service"]}));
    let token = |api: &Api| {
        let body = json!({"name": "worker", "seconds": 60});
        api.post("/api/auth/service-token", body)
            .expect(200)
            .text("/token")
            .to_owned()
    };
    let by_key = server.api().with_token(&token(&service));
    let by_admin = server.api().with_token(&token(&server.admin()));
    // Good for services, and nothing else.
    for api in [&by_key, &by_admin] {
        api.list("notes", &[]).expect(403);
        api.get("/api/collections").expect(403);
        api.post("/api/auth/service-token", "").expect(403);
    }
    service
        .post("/api/auth/service-token", json!({"seconds": 0}))
        .expect(400);
    service
        .post("/api/auth/service-token", json!({"seconds": 90_000}))
        .expect(400);
    server
        .admin()
        .delete(&format!("/api/keys/{id}"))
        .expect(204);
    by_key.list("notes", &[]).expect(401);
    let admin = server.admin();
    let own = admin.get("/api/auth/me").expect(200).text("/id").to_owned();
    let change = json!({"password": "password-1"});
    admin
        .patch(&format!("/api/admins/{own}"), change)
        .expect(200);
    by_admin.list("notes", &[]).expect(401);
}
