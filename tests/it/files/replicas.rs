//! Files for replicas: the journal, gaps, the manifest, the bytes; and what their
//! acknowledgements do.

use serde_json::{Value, json};

use super::{DOCS, Place, a_day_later, form, send, server, unnamed};
use crate::support::api::{Api, Reply};
use crate::support::server::Server;
use crate::support::token::{SECRET, now, replica, sign};
use crate::support::{sqlite, sqlite_for_writing, wait_until};

const FILES: &str = "/api/replica/files";
const ACK: &str = "/api/replica/files/ack";

/// Makes a record with a file; returns its id and the name of the file.
fn upload(api: &Api, title: &str, content: &[u8]) -> (String, String) {
    let body = form(&[
        ("title", None, title.as_bytes()),
        ("doc", Some("a.txt"), content),
    ]);
    let record = send(api, "POST", DOCS, &body).expect(200);
    (
        record.text("/id").to_owned(),
        record.text("/doc").to_owned(),
    )
}

/// The journal from an entry on, once it has come to `last`.
fn since(api: &Api, since: i64, last: i64) -> Reply {
    wait_until("the journal has come so far", || {
        let reply = api.get(&format!("{FILES}/manifest")).expect(200);
        reply.json["last"] == last
    });
    api.get(&format!("{FILES}?since={since}"))
}

fn journal_ids(server: &Server) -> Vec<i64> {
    let connection = sqlite(&server.dir().join("data/default.db"));
    let mut statement = connection
        .prepare("SELECT id FROM _file_journal ORDER BY id")
        .unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn the_journal_says_what_came_and_went_and_gives_the_bytes() {
    let server = server(Place::Local);
    let (api, one) = (server.api(), replica(&server.api(), "one"));
    let (first, name) = upload(&api, "first", b"content of the first");
    let (second, _) = upload(&api, "second", b"");
    api.delete(&format!("{DOCS}/{second}")).expect(204);
    let reply = since(&one, 0, 3).expect(200);
    let entries = reply.json["entries"].as_array().unwrap();
    let ops: Vec<&Value> = entries.iter().map(|entry| &entry["op"]).collect();
    assert_eq!(ops, ["add", "add", "delete"]);
    assert_eq!(reply.json["oldest"], 1);
    assert_eq!(reply.json["next"], 3);
    let path = entries[0]["path"].as_str().unwrap();
    assert!(
        path.starts_with("default/") && path.ends_with(&format!("/{first}/{name}")),
        "{path}"
    );
    assert_eq!(entries[0]["size"], 20);
    assert_eq!(entries[1]["path"], entries[2]["path"]);

    let sha256 = entries[0]["sha256"].as_str().unwrap();
    let file = format!("/api/replica/file/{path}");
    let whole = one.get(&file).expect(200);
    assert_eq!(whole.body, b"content of the first");
    assert_eq!(whole.header("ETag"), Some(format!("\"{sha256}\"").as_str()));
    let part = one.with_header("Range", "bytes=11-").get(&file).expect(206);
    assert_eq!(part.body, b"the first");
    let matching = one.with_header("If-Match", &format!("\"{sha256}\""));
    matching.get(&file).expect(200);
    one.with_header("If-Match", "\"other\"")
        .get(&file)
        .expect(412);
    one.get(&file.replace("default/", "none/")).expect(410);
    one.get(&format!("{file}x")).expect(410);
    let gone = entries[1]["path"].as_str().unwrap();
    one.get(&format!("/api/replica/file/{gone}")).expect(410);
    one.get("/api/replica/file/default/..%2F..%2Fsecret/x/y")
        .expect(410);

    // Only what is new, and nothing when nothing is.
    let reply = one.get(&format!("{FILES}?since=2")).expect(200);
    assert_eq!(reply.json["entries"].as_array().unwrap().len(), 1);
    let reply = one.get(&format!("{FILES}?since=3")).expect(200);
    assert_eq!(reply.json["entries"], json!([]));
    assert_eq!(reply.json["next"], 3);
    for bad in ["x", "-1", "1.5", "9999999999999999999"] {
        one.get(&format!("{FILES}?since={bad}")).expect(400);
    }
    one.get(&format!("{FILES}?since=4")).expect(410);
    one.get(&format!("{FILES}?since=3&epoch=other")).expect(410);
}

#[test]
fn a_token_is_good_for_the_replica_that_it_names() {
    let server = server(Place::Local);
    let one = replica(&server.api(), "one");
    one.get(FILES).expect(200);
    let claims = json!({"sub": "one", "purpose": "replica", "key": "", "exp": now() + 300});
    let nameless = server.api().with_token(&sign(&claims, SECRET));
    nameless.get(FILES).expect(401);
    for name in ["two", "", "one,two", "../x"] {
        let named = nameless.with_header("X-Replica-Id", name);
        named.get(FILES).expect(401);
    }
    replica(&server.api(), "a b").get(FILES).expect(401);
    server.admin().get(FILES).expect(401);
    one.get("/api/admins").expect(401);
    one.get("/api/collections/docs").expect(401);
    let url = "http://replica.example.com";
    one.with_header("X-Replica-Public-Url", url)
        .get(FILES)
        .expect(200);
    one.with_header("X-Replica-Public-Url", &"x".repeat(3000))
        .get(FILES)
        .expect(400);
    let local = sqlite(&server.dir().join("data/local.db"));
    let sql = "SELECT group_concat(id || ' ' || public_url) FROM _known_replicas";
    let known: String = local.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(known, format!("one {url}"));
}

#[test]
fn the_manifest_lists_all_files_of_all_databases_in_order() {
    let server = server(Place::Local);
    let (api, admin) = (server.api(), server.admin());
    admin
        .post("/api/databases", json!({"name": "a-shop"}))
        .expect(200);
    let docs =
        json!({"name": "docs", "createRule": "", "fields": [{"name": "doc", "type": "file"}]});
    admin.post("/db/a-shop/api/collections", docs).expect(200);
    // More than one part of it.
    let names: Vec<String> = (0..350).map(|at| format!("requests.{at}.pics")).collect();
    for _ in 0..3 {
        let requests: Vec<Value> = names
            .iter()
            .map(|_| json!({"method": "POST", "url": DOCS, "body": {}}))
            .collect();
        let payload = json!({ "requests": requests }).to_string();
        let mut parts: Vec<(&str, Option<&str>, &[u8])> =
            vec![("@jsonPayload", None, payload.as_bytes())];
        parts.extend(
            names
                .iter()
                .map(|name| (name.as_str(), Some("p.txt"), b"x".as_slice())),
        );
        send(&api, "POST", "/api/batch", &form(&parts)).expect(200);
    }
    let body = form(&[("doc", Some("b.txt"), b"content")]);
    send(
        &api,
        "POST",
        "/db/a-shop/api/collections/docs/records",
        &body,
    )
    .expect(200);

    let one = replica(&api, "one");
    let first = one.get(&format!("{FILES}/manifest")).expect(200);
    let next = first.text("/next").to_owned();
    let second = one
        .get(&format!("{FILES}/manifest?after={next}"))
        .expect(200);
    assert_eq!(second.json["next"], Value::Null);
    let paths: Vec<String> = [&first, &second]
        .iter()
        .flat_map(|reply| reply.json["entries"].as_array().unwrap())
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths.len(), 1051);
    assert!(paths[0].starts_with("a-shop/") && paths[1].starts_with("default/"));
    let mut sorted = paths.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(paths, sorted);
    one.get(&format!("{FILES}/manifest?after=nonsense"))
        .expect(400);
    // A replica once took a manifest without the files of a deleted database for an order to delete
    // them, since its own list of databases was a moment older: they were lost instead of moved to
    // `deleted/` with their database. So the manifest says itself which databases it covers.
    let all = json!(["a-shop", "default"]);
    assert_eq!(
        (&first.json["databases"], &second.json["databases"]),
        (&all, &all)
    );
    admin.delete("/api/databases/a-shop").expect(204);
    let last = one
        .get(&format!("{FILES}/manifest?after={next}"))
        .expect(200);
    assert_eq!(last.json["databases"], json!(["default"]));
}

#[test]
fn entries_go_when_the_slowest_replica_has_them() {
    let server = server(Place::Local);
    let api = server.api();
    let (one, two) = (replica(&api, "one"), replica(&api, "two"));
    for title in ["a", "b", "c", "d"] {
        upload(&api, title, title.as_bytes());
    }
    since(&one, 0, 4).expect(200);
    two.get(FILES).expect(200);
    one.post(ACK, json!({"id": 3})).expect(200);
    assert_eq!(journal_ids(&server), [1, 2, 3, 4]);
    two.post(ACK, json!({"id": 2})).expect(200);
    assert_eq!(journal_ids(&server), [3, 4]);
    // An earlier acknowledgement stays valid and may be repeated.
    one.post(ACK, json!({"id": 1})).expect(200);
    one.post(ACK, json!({"id": 3})).expect(200);
    two.post(ACK, json!({"id": 3})).expect(200);
    assert_eq!(journal_ids(&server), [4]);
    for bad in [
        json!({"id": 5}),
        json!({"id": -1}),
        json!({"id": "4"}),
        json!({}),
        json!([]),
    ] {
        one.post(ACK, bad).expect(400);
    }
    one.post(ACK, json!({"id": 4, "epoch": "other"}))
        .expect(409);
    assert_eq!(journal_ids(&server), [4]);
    one.get(&format!("{FILES}?since=2")).expect(410);
    let reply = one.get(&format!("{FILES}?since=3")).expect(200);
    assert_eq!(reply.json["oldest"], 4);

    // Ids go on behind what is gone, and acknowledgements outlive the process.
    one.post(ACK, json!({"id": 4})).expect(200);
    two.post(ACK, json!({"id": 4})).expect(200);
    let epoch = reply.text("/epoch").to_owned();
    let server = server.restart();
    let (api, one) = (server.api(), replica(&server.api(), "one"));
    one.get(&format!("{FILES}?since=3")).expect(410);
    let reply = one
        .get(&format!("{FILES}?since=4&epoch={epoch}"))
        .expect(200);
    assert_eq!(reply.json["oldest"], 5);
    upload(&api, "e", b"e");
    let reply = since(&one, 4, 5).expect(200);
    assert_eq!(reply.json["entries"][0]["id"], 5);
    one.post(ACK, json!({"id": 5})).expect(200);
    assert_eq!(journal_ids(&server), [5]);
}

#[test]
fn old_entries_and_replicas_go_at_the_start_when_that_is_overdue() {
    let server = server(Place::Local);
    let api = server.api();
    let one = replica(&api, "one");
    for title in ["a", "b", "c"] {
        upload(&api, title, title.as_bytes());
    }
    since(&one, 0, 3).expect(200);
    let data = server.dir().join("data");
    let old = "2020-01-01T00:00:00.000Z";
    let default = sqlite_for_writing(&data.join("default.db"));
    default
        .execute("UPDATE _file_journal SET created = ?1 WHERE id <= 2", [old])
        .unwrap();
    drop(default);
    // It has run today, so nothing is deleted.
    let server = server.restart();
    replica(&server.api(), "one")
        .get(&format!("{FILES}?since=0"))
        .expect(200);
    assert_eq!(journal_ids(&server), [1, 2, 3]);
    let local = sqlite_for_writing(&data.join("local.db"));
    let sql = "UPDATE _node SET value = ?1 WHERE name = 'files_cleaned'";
    assert_eq!(local.execute(sql, [old]).unwrap(), 1);
    local
        .execute("UPDATE _known_replicas SET last_seen = ?1", [old])
        .unwrap();
    drop(local);
    let server = server.restart();
    wait_until("old entries are gone", || journal_ids(&server) == [3]);
    wait_until("the replica is forgotten", || {
        let local = sqlite(&data.join("local.db"));
        let sql = "SELECT count(*) FROM _known_replicas";
        local
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 0
    });
    let one = replica(&server.api(), "one");
    one.get(&format!("{FILES}?since=0")).expect(410);
    one.get(&format!("{FILES}?since=2")).expect(200);
}

/// A replica that has followed a journal must not go on in another one with the same ids.
#[test]
fn a_database_put_back_from_a_backup_begins_an_epoch() {
    let server = server(Place::Local);
    let api = server.api();
    let one = replica(&api, "one");
    upload(&api, "a", b"a");
    let epoch = since(&one, 0, 1).expect(200).text("/epoch").to_owned();
    let data = server.dir().join("data");
    sqlite(&data.join("default.db"))
        .execute("VACUUM INTO ?1", [data.join("copy").to_str().unwrap()])
        .unwrap();
    upload(&api, "b", b"b");
    since(&one, 1, 2).expect(200);
    one.post(ACK, json!({"id": 2})).expect(200);
    let mut server = server;
    server.signal("TERM");
    server.wait();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(data.join(format!("default.db{suffix}")));
    }
    std::fs::rename(data.join("copy"), data.join("default.db")).unwrap();
    let server = server.restart();
    let (api, one) = (server.api(), replica(&server.api(), "one"));
    one.get(&format!("{FILES}?since=1&epoch={epoch}"))
        .expect(410);
    one.post(ACK, json!({"id": 1, "epoch": epoch})).expect(409);
    upload(&api, "c", b"c");
    // The one that was acknowledged before is another one.
    let reply = since(&one, 0, 2).expect(200);
    assert_ne!(reply.text("/epoch"), epoch);
    assert_eq!(journal_ids(&server), [1, 2]);
    // The earlier file has no row. Its deletion after a day is in the journal, too.
    wait_until("it is found", || unnamed(&server) == 1);
    let server = a_day_later(server);
    wait_until("it is gone", || unnamed(&server) == 0);
    wait_until("that is told", || journal_ids(&server) == [1, 2, 3]);
}
