//! `/api/backups`: archives of a running server, and their restore.

use serde_json::json;

use super::{DOCS, add, compared, docs, fine, refused, shown};
use crate::support::api::{Api, Reply};
use crate::support::server::Server;
use crate::support::{Dir, sqlite};

const BACKUPS: &str = "/api/backups";

fn upload(admin: &Api, name: &str, content: &[u8]) -> Reply {
    let api = admin.with_header("Content-Type", "multipart/form-data; boundary=xx");
    let mut body = format!(
        "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
    )
    .into_bytes();
    body.extend(content);
    body.extend(b"\r\n--xx--\r\n");
    api.send_bytes("POST", "/api/backups/upload", &body)
        .unwrap()
}

fn keys(admin: &Api) -> Vec<String> {
    let list = admin.get(BACKUPS).expect(200).json;
    let keys = list.as_array().unwrap().iter();
    keys.map(|it| it["key"].as_str().unwrap().to_owned())
        .collect()
}

fn code(reply: Reply, field: &str) -> String {
    let reply = reply.expect(400);
    reply.text(&format!("/data/{field}/code")).to_owned()
}

#[test]
fn an_archive_is_created_downloaded_uploaded_elsewhere_and_restored() {
    let server = Server::start();
    let admin = server.admin();
    docs(&admin, "");
    add(&server.api(), DOCS, "one");
    assert_eq!(keys(&admin), [""; 0]);
    assert_eq!(
        admin.get("/api/health").json["data"]["canBackup"],
        json!(true)
    );
    admin
        .post(BACKUPS, json!({"name": "first.zip"}))
        .expect(204);
    add(&server.api(), DOCS, "two");
    admin.post(BACKUPS, "").expect(204);
    let made = keys(&admin);
    assert_eq!(made.len(), 2, "{made:?}");
    assert!(made[1].starts_with("vski_backup_20"), "{made:?}");

    // With the token of a link, as a browser downloads it.
    let token = admin.post("/api/files/token", "").expect(200);
    let link = format!("{BACKUPS}/first.zip?token={}", token.text("/token"));
    let archive = server.api().get(&link).expect(200);
    assert_eq!(archive.header("Content-Type"), Some("application/zip"));
    assert!(archive.body.starts_with(b"PK"));
    server
        .api()
        .get(&format!("{BACKUPS}/first.zip?token=x"))
        .expect(403);

    let other = Server::start();
    let elsewhere = other.admin();
    upload(&elsewhere, "moved.zip", &archive.body).expect(204);
    assert_eq!(keys(&elsewhere), ["moved.zip"]);
    let refusal = elsewhere.post(&format!("{BACKUPS}/moved.zip/restore"), "");
    let message = refusal.expect(400);
    assert!(message.text("/message").contains("vski restore"));

    // The archives stay where they were, whatever is restored.
    let (dir, settings) = other.into_parts();
    let path = dir.path().join("data/backups/moved.zip");
    let said = fine(dir.path(), &["restore", shown(&path), "--replace"]);
    assert!(said.contains("1 files with 3 bytes"), "{said}");
    assert!(path.exists());
    let other = Server::from_parts((dir, settings));
    assert_eq!(compared(&other.api()), ["one"]);

    admin.delete(&format!("{BACKUPS}/first.zip")).expect(204);
    admin.delete(&format!("{BACKUPS}/first.zip")).expect(400);
    assert_eq!(keys(&admin), [made[1].as_str()]);
}

#[test]
fn names_that_are_taken_or_no_names_and_other_files_are_refused() {
    let server = Server::start();
    let admin = server.admin();
    let create = |name: &str| admin.post(BACKUPS, json!({ "name": name }));
    create("a.zip").expect(204);
    assert_eq!(
        code(create("a.zip"), "name"),
        "validation_backup_name_exists"
    );
    for name in ["x", "A.zip", "../a.zip", ".zip", "a b.zip", ".a.zip"] {
        assert_eq!(code(create(name), "name"), "validation_match_invalid");
    }
    let archive = std::fs::read(server.dir().join("data/backups/a.zip")).unwrap();
    for (name, content, expected) in [
        ("a.zip", archive.as_slice(), "validation_backup_name_exists"),
        ("..zip", archive.as_slice(), "validation_match_invalid"),
        ("b.zip", b"hello", "validation_invalid_mime_type"),
        (
            "b.zip",
            b"PK\x03\x04 and nothing else",
            "validation_invalid_value",
        ),
    ] {
        assert_eq!(code(upload(&admin, name, content), "file"), expected);
    }
    let nothing = admin.post("/api/backups/upload", "{}");
    assert_eq!(code(nothing, "file"), "validation_required");
    let token = admin.post("/api/files/token", "").expect(200);
    for path in ["/api/backups/..%2Fdefault.db", "/api/backups/.partial"] {
        let link = format!("{path}?token={}", token.text("/token"));
        admin.get(&link).expect(404);
        admin.delete(path).expect(400);
    }
    assert_eq!(keys(&admin), ["a.zip"]);
}

#[test]
fn a_killed_server_lists_no_half_archive_and_the_next_one_deletes_it() {
    let mut server = Server::with(&[("VSKI_FAILPOINT", "archive-written")]);
    let admin = server.admin();
    docs(&admin, "");
    add(&server.api(), DOCS, "one");
    let ended = admin.send("POST", BACKUPS, r#"{"name":"a.zip"}"#);
    assert!(ended.is_err(), "the server is killed");
    server.wait();
    let partial = server.dir().join("data/backups/.partial");
    assert!(partial.join("archive").exists());
    let server = server.restart_with("VSKI_FAILPOINT", "none");
    assert!(!partial.exists());
    let admin = server.admin();
    assert_eq!(keys(&admin), [""; 0]);
    admin.post(BACKUPS, json!({"name": "a.zip"})).expect(204);
    // The archive before is not part of the next one.
    let size = |name: &str| {
        let path = server.dir().join("data/backups").join(name);
        std::fs::metadata(path).unwrap().len()
    };
    admin.post(BACKUPS, json!({"name": "b.zip"})).expect(204);
    assert!(size("b.zip") < size("a.zip") + size("a.zip") / 2);
}

#[test]
fn a_damaged_archive_is_not_restored() {
    let server = Server::start();
    let admin = server.admin();
    docs(&admin, "");
    admin.post(BACKUPS, json!({"name": "a.zip"})).expect(204);
    let path = server.dir().join("data/backups/a.zip");
    let mut content = std::fs::read(&path).unwrap();
    let empty = Dir::new();
    let damaged = empty.path().join("a.zip");
    // Inside the first database, behind its head.
    let at = content
        .windows(10)
        .position(|it| it == b"default.db")
        .unwrap()
        + 1000;
    content[at] ^= 0xff;
    std::fs::write(&damaged, &content).unwrap();
    let said = refused(empty.path(), &["restore", shown(&damaged)]);
    assert!(said.contains("nothing was restored"), "{said}");
    std::fs::write(&damaged, &content[..content.len() / 2]).unwrap();
    refused(empty.path(), &["restore", shown(&damaged)]);
    assert!(!empty.path().join("data/default.db").exists());
    fine(empty.path(), &["restore", shown(&path)]);
    let restored = sqlite(&empty.path().join("data/default.db"));
    let sql = "SELECT count(*) FROM _collections WHERE definition LIKE '%docs%'";
    let count: i64 = restored.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}
