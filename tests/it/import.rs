//! `vski import pocketbase`: collections, records, files and accounts of a PocketBase, all or
//! nothing.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::json;

use crate::support::server::{Server, VSKI};
use crate::support::{Dir, sqlite, sqlite_for_writing};

/// The hash of `12345678`, as PocketBase stores it.
const HASH: &str = "$2a$10$4kpjmks9o.oNQcgG8cAVx.vo/2qH79K71ELyIHl4U4KkpILaNtTce";
const TIME: &str = "2026-01-02 03:04:05.678Z";

/// A folder `pb_data` with accounts, and posts that name a file each.
fn pb_data(dir: &Path, post_fields: &str) {
    std::fs::create_dir_all(dir.join("storage/c_posts/p1")).unwrap();
    std::fs::write(dir.join("storage/c_posts/p1/doc_a1.txt"), "hello").unwrap();
    std::fs::write(dir.join("data.db"), "").unwrap();
    let database = sqlite_for_writing(&dir.join("data.db"));
    database
        .execute_batch(
            "CREATE TABLE _collections (id, system, type, name, fields, indexes, listRule, viewRule,
                 createRule, updateRule, deleteRule, options, created, updated);
             CREATE TABLE _params (id, value, created, updated);
             CREATE TABLE _superusers (id, email, password, tokenKey, created, updated);
             CREATE TABLE _externalAuths (id, collectionRef, recordRef, provider, providerId, created, updated);
             CREATE TABLE users (id, email, password, tokenKey, verified, emailVisibility, name);
             CREATE TABLE posts (id, title, doc, author, n, created, updated);",
        )
        .unwrap();
    let insert = "INSERT INTO _collections VALUES (?1, 0, ?2, ?3, ?4, '[]', '', '', NULL, NULL, NULL, '{}', ?5, ?5)";
    let users = json!([
        {"id": "f_password", "name": "password", "type": "password", "system": true, "hidden": true, "required": true},
        {"id": "f_email", "name": "email", "type": "email", "system": true, "required": true},
        {"id": "f_visible", "name": "emailVisibility", "type": "bool", "system": true},
        {"id": "f_verified", "name": "verified", "type": "bool", "system": true},
        {"id": "f_name", "name": "name", "type": "text"},
    ])
    .to_string();
    for row in [
        ["c_users", "auth", "users", users.as_str(), TIME],
        ["c_posts", "base", "posts", post_fields, TIME],
    ] {
        database.execute(insert, row).unwrap();
    }
    database
        .execute_batch(&format!(
            "INSERT INTO _params VALUES ('settings', CAST('{{\"smtp\":{{\"enabled\":true}}}}' AS BLOB), '', '');
             INSERT INTO _superusers VALUES ('s1', 'admin@example.org', '{HASH}', 'k', '{TIME}', '{TIME}');
             INSERT INTO _externalAuths VALUES ('e1', 'c_users', 'u1', 'google', 'g-1', '{TIME}', '{TIME}');
             INSERT INTO users VALUES ('u1', 'ann@example.org', '{HASH}', 'k', 1, 0, 'Ann');
             INSERT INTO posts VALUES ('p1', 'One', 'doc_a1.txt', 'u1', 1.5, '{TIME}', '{TIME}'),
                                      ('p2', 'Two', 'gone_b2.txt', '', 0, '{TIME}', '{TIME}');"
        ))
        .unwrap();
}

fn post_fields() -> String {
    json!([
        {"id": "f_title", "name": "title", "type": "text", "required": true},
        {"id": "f_doc", "name": "doc", "type": "file", "maxSelect": 1, "maxSize": 1000},
        {"id": "f_author", "name": "author", "type": "relation", "collectionId": "c_users", "maxSelect": 1},
        {"id": "f_n", "name": "n", "type": "number"},
        {"id": "f_created", "name": "created", "type": "autodate", "onCreate": true},
        {"id": "f_updated", "name": "updated", "type": "autodate", "onCreate": true, "onUpdate": true},
    ])
    .to_string()
}

fn import(dir: &Path, more: &[&str]) -> Output {
    let source = dir.join("pb_data");
    Command::new(VSKI)
        .args(["import", "pocketbase", source.to_str().unwrap()])
        .args(more)
        .arg("--data-dir")
        .arg(dir.join("data"))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Adds views to the folder, by their names and statements.
fn add_views(dir: &Path, views: &[(&str, &str)]) {
    let database = sqlite_for_writing(&dir.join("data.db"));
    let insert = "INSERT INTO _collections VALUES (?1, 0, 'view', ?2, ?3, '[]', '', '', NULL, NULL, NULL, ?4, ?5, ?5)";
    let fields = json!([
        {"id": "f_id", "name": "id", "type": "text", "primaryKey": true, "required": true, "system": true},
        {"id": "f_title", "name": "title", "type": "text"},
    ])
    .to_string();
    for (name, query) in views {
        let options = json!({ "viewQuery": query }).to_string();
        let id = format!("c_{name}");
        let row = [id.as_str(), name, fields.as_str(), options.as_str(), TIME];
        database.execute(insert, row).unwrap();
    }
}

#[test]
fn views_move_and_the_report_names_those_that_are_refused() {
    let dir = Dir::new();
    let source = dir.path().join("pb_data");
    pb_data(&source, &post_fields());
    add_views(
        &source,
        &[
            // Reads the next one.
            (
                "short",
                "SELECT id, title FROM titles WHERE length(title) < 4",
            ),
            ("titles", "SELECT id, title FROM posts"),
            ("secrets", "SELECT id, email AS title FROM _superusers"),
            ("copies", "SELECT id, title FROM secrets"),
        ],
    );
    let done = import(dir.path(), &[]);
    let report = text(&done.stdout);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(report.contains("4 collections, 3 records"), "{report}");
    for name in ["secrets", "copies"] {
        assert!(report.contains(&format!("The view {name}: ")), "{report}");
    }
    let server = Server::from_parts((Arc::new(dir), Vec::new()));
    let titles = server.api().list("short", &[("sort", "title")]).expect(200);
    assert_eq!(titles.column("title"), ["One", "Two"]);
    server.api().list("secrets", &[]).expect(404);
}

#[test]
fn accounts_records_and_files_move_and_old_passwords_sign_in() {
    let dir = Dir::new();
    pb_data(&dir.path().join("pb_data"), &post_fields());
    let dry = import(dir.path(), &["--dry-run"]);
    assert!(dry.status.success(), "{}", text(&dry.stderr));
    assert!(!dir.path().join("data").exists());
    let done = import(dir.path(), &[]);
    let report = text(&done.stdout);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(
        report.contains("2 collections, 3 records, 1 files with 5 bytes"),
        "{report}"
    );
    assert!(
        report.contains("missing: 1 (posts/p2/gone_b2.txt)"),
        "{report}"
    );
    assert!(report.contains("SMTP_URL"), "{report}");

    let server = Server::from_parts((Arc::new(dir), Vec::new()));
    let sign_in = |collection: &str, identity: &str, password: &str| {
        let body = json!({"identity": identity, "password": password});
        let path = format!("/api/collections/{collection}/auth-with-password");
        server.api().post(&path, body)
    };
    sign_in("users", "ann@example.org", "12345679").expect(400);
    for _ in 0..2 {
        let ann = sign_in("users", "ann@example.org", "12345678").expect(200);
        assert_eq!(ann.text("/record/name"), "Ann");
        server
            .api()
            .with_token(ann.text("/token"))
            .get("/api/auth/me")
            .expect(200);
        sign_in("_superusers", "admin@example.org", "12345678").expect(200);
    }
    let database = sqlite(&server.dir().join("data/default.db"));
    let hashes: i64 = database
        .query_row(
            "SELECT (SELECT password LIKE '$argon2id$%' FROM users)
                    + (SELECT password_hash LIKE '$argon2id$%' FROM _admins)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(hashes, 2, "the hashes of bcrypt are replaced");
    let post = server
        .api()
        .get("/api/collections/posts/records/p1")
        .expect(200);
    assert_eq!(
        (post.text("/doc"), post.text("/author"), &post.json["n"]),
        ("doc_a1.txt", "u1", &json!(1.5))
    );
    assert_eq!(post.text("/created"), "2026-01-02T03:04:05.678Z");
    let file = server
        .api()
        .get("/api/files/posts/p1/doc_a1.txt")
        .expect(200);
    assert_eq!(file.body, b"hello");
    let other = server
        .api()
        .get("/api/collections/posts/records/p2")
        .expect(200);
    assert_eq!(other.text("/doc"), "");
}

#[test]
fn a_refused_import_leaves_nothing_and_collections_are_not_mixed() {
    let dir = Dir::new();
    let wrong = json!([{"id": "f", "name": "title", "type": "nonsense"}]).to_string();
    pb_data(&dir.path().join("pb_data"), &wrong);
    let refused = import(dir.path(), &[]);
    assert!(!refused.status.success());
    assert!(
        text(&refused.stderr).contains("posts"),
        "{}",
        text(&refused.stderr)
    );
    let database = sqlite(&dir.path().join("data/default.db"));
    let rows: i64 = database
        .query_row(
            "SELECT (SELECT count(*) FROM _collections) + (SELECT count(*) FROM _admins)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(rows, 0);
    drop(database);

    std::fs::remove_dir_all(dir.path().join("pb_data")).unwrap();
    pb_data(&dir.path().join("pb_data"), &post_fields());
    assert!(import(dir.path(), &[]).status.success());
    let again = import(dir.path(), &[]);
    assert!(
        text(&again.stderr).contains("has collections"),
        "{}",
        text(&again.stderr)
    );
    // Ids that the first import has used are replaced, and superusers belong to the whole server.
    let other = import(dir.path(), &["--database", "shop"]);
    let report = text(&other.stdout);
    assert!(other.status.success(), "{}", text(&other.stderr));
    assert!(
        report.contains("Superusers, who would be admins of the whole server here: 1"),
        "{report}"
    );
    let server = Server::from_parts((Arc::new(dir), Vec::new()));
    let file = server
        .api()
        .get("/db/shop/api/files/posts/p1/doc_a1.txt")
        .expect(200);
    assert_eq!(file.body, b"hello");
}
