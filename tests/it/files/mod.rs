//! Files of records: taken in, given out, deleted, whatever they are called and whatever breaks.

use std::io::Write as _;
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::api::{Api, Reply};
use crate::support::s3::S3Server;
use crate::support::server::Server;
use crate::support::token::SECRET;
use crate::support::{s3, sqlite, sqlite_for_writing, wait_until};

/// Files in batches.
mod batch;
/// `vski files check`.
mod check;
/// Files whose field, collection or database is deleted.
mod deletion;
/// Forms that come slowly, or with files for what takes none.
mod forms;
/// Files that no record names.
mod leftover;
/// The journal and the manifest of files.
mod replicas;
/// Buckets.
mod s3_only;
mod shown;

const DOCS: &str = "/api/collections/docs/records";
const BOUNDARY: &str = "xXboundaryXx";

/// Where the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Local,
    S3,
}

/// Makes of each function a test with local files and one with files on S3.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod disk {
            $(#[test]
            fn $name() {
                super::$name($crate::files::Place::Local);
            })*
        }
        mod bucket {
            $(#[test]
            fn $name() {
                super::$name($crate::files::Place::S3);
            })*
        }
    };
}
use on_both;

/// A server, and the one that keeps its files, if that is another.
struct Site {
    server: Server,
    s3: Option<S3Server>,
}

impl Site {
    fn restart(self) -> Site {
        Site {
            server: self.server.restart(),
            s3: self.s3,
        }
    }

    fn restart_with(self, name: &str, value: &str) -> Site {
        Site {
            server: self.server.restart_with(name, value),
            s3: self.s3,
        }
    }
}

impl Deref for Site {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// A server with records that have files, which everyone may view and create.
fn server(place: Place) -> Site {
    site((place == Place::S3).then(S3Server::start))
}

/// The same with this server for its files.
fn site(s3: Option<S3Server>) -> Site {
    let endpoint = s3.as_ref().map(S3Server::endpoint);
    let mut settings = vec![("MAX_BODY_MB", "4"), ("JWT_SECRET", SECRET)];
    if let Some(endpoint) = &endpoint {
        settings.extend(bucket_settings(endpoint));
    }
    let server = Server::with(&settings);
    let docs = json!({"name": "docs", "listRule": "", "viewRule": "", "createRule": "",
    "updateRule": "", "deleteRule": "", "fields": [
        {"name": "title", "type": "text"},
        {"name": "count", "type": "number"},
        {"name": "tags", "type": "select", "values": ["a", "b"], "maxSelect": 2},
        {"name": "doc", "type": "file", "maxSize": 3_000_000},
        {"name": "pics", "type": "file", "maxSelect": 3, "mimeTypes": ["image/*", "text/plain"]},
    ]});
    server.admin().post("/api/collections", docs).expect(200);
    Site { server, s3 }
}

/// The options of a server whose files are in the bucket.
fn bucket_settings(endpoint: &str) -> [(&str, &str); 7] {
    [
        ("STORAGE", "s3"),
        ("S3_ENDPOINT", endpoint),
        ("S3_BUCKET", s3::BUCKET),
        ("S3_REGION", s3::REGION),
        ("S3_ACCESS_KEY", s3::ACCESS_KEY),
        ("S3_SECRET_KEY", s3::SECRET_KEY),
        ("S3_PATH_STYLE", "true"),
    ]
}

/// A form of values and files: name, file name, content.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\""));
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn send(api: &Api, method: &str, path: &str, body: &[u8]) -> Reply {
    let api = api.with_header(
        "Content-Type",
        &format!("multipart/form-data; boundary={BOUNDARY}"),
    );
    api.send_bytes(method, path, body).unwrap()
}

fn link(record: &Value, name: &Value) -> String {
    let (id, name) = (record["id"].as_str().unwrap(), name.as_str().unwrap());
    // Wherever it lies, this server gives it out.
    format!("/api/files/docs/{id}/{name}?stream=1")
}

/// The number of files without a row that wait to be deleted.
fn unnamed(site: &Site) -> usize {
    let local = sqlite(&site.dir().join("data/local.db"));
    let sql = "SELECT count(*) FROM _unnamed";
    let count: u32 = local.query_row(sql, [], |row| row.get(0)).unwrap();
    count as usize
}

/// Starts it again a day after they were found.
fn a_day_later(site: Site) -> Site {
    let sql = "UPDATE _unnamed SET found_ms = found_ms - 86400000";
    sqlite_for_writing(&site.dir().join("data/local.db"))
        .execute(sql, [])
        .unwrap();
    site.restart()
}

/// Every file in the storage.
fn stored(site: &Site) -> Vec<PathBuf> {
    files_in(&match &site.s3 {
        // Beside it is what the server keeps for itself.
        Some(s3) => s3.bucket_dir().join("default"),
        None => site.dir().join("data/storage"),
    })
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// The paths that the journal leaves when it is followed, or those of the bucket, which has none,
/// and the rows of files; both sorted.
fn journal_and_rows(server: &Site) -> (Vec<String>, Vec<String>) {
    let connection = sqlite(&server.dir().join("data/default.db"));
    let mut left = std::collections::BTreeSet::new();
    let mut statement = connection
        .prepare("SELECT op, path FROM _file_journal ORDER BY id")
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (op, path): (String, String) = (row.get(0).unwrap(), row.get(1).unwrap());
        match op.as_str() {
            "add" => left.insert(path),
            _ => left.remove(&path),
        };
    }
    if let Some(s3) = &server.s3 {
        assert!(left.is_empty(), "a journal of files in a bucket");
        let key = |path: PathBuf| path.strip_prefix(s3.bucket_dir()).unwrap().to_owned();
        left = stored(server)
            .into_iter()
            .map(|path| key(path).into_os_string().into_string().unwrap())
            .collect();
    }
    let sql =
        "SELECT 'default/' || collection || '/' || record || '/' || name FROM _files ORDER BY 1";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    (
        left.into_iter().collect(),
        rows.map(Result::unwrap).collect(),
    )
}

fn a_form_makes_a_record_with_its_files(place: Place) {
    let server = server(place);
    let api = server.api();
    let content = [b"%PDF-1.7".to_vec(), vec![7; 1_999_992]].concat();
    let body = form(&[
        ("title", None, b"Report"),
        ("count", None, b"5"),
        ("tags", None, b"a"),
        ("tags", None, b"b"),
        ("doc", Some("Annual Report.PDF"), &content),
        ("pics", Some("one.txt"), b"one"),
        ("pics", Some("two.txt"), b"two"),
    ]);
    let made = send(&api, "POST", DOCS, &body).expect(200).json;
    assert_eq!(
        (&made["title"], &made["count"]),
        (&json!("Report"), &json!(5))
    );
    assert_eq!(made["tags"], json!(["a", "b"]));
    let name = made["doc"].as_str().unwrap();
    assert!(
        name.starts_with("annual_report_") && name.ends_with(".pdf"),
        "{name}"
    );
    assert_eq!(made["pics"].as_array().unwrap().len(), 2);
    let path = link(&made, &made["doc"]);
    let got = api.get(&path).expect(200);
    assert_eq!(got.body, content);
    let hash: String = Sha256::digest(&content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(got.header("ETag"), Some(format!("\"{hash}\"").as_str()));
    assert!(
        got.header("Content-Security-Policy")
            .unwrap()
            .contains("sandbox")
    );
    assert!(
        got.header("Content-Disposition")
            .unwrap()
            .starts_with("inline")
    );
    let download = api.get(&format!("{path}&download=1"));
    assert!(
        download
            .header("Content-Disposition")
            .unwrap()
            .starts_with("attachment")
    );
    // Parts of it, and nothing when it is known.
    let part = api
        .with_header("Range", "bytes=10-19")
        .get(&path)
        .expect(206);
    assert_eq!(part.body, content[10..20]);
    assert_eq!(part.header("Content-Range"), Some("bytes 10-19/2000000"));
    api.with_header("Range", "bytes=9999999-")
        .get(&path)
        .expect(416);
    let known = api
        .with_header("If-None-Match", &format!("\"{hash}\""))
        .get(&path)
        .expect(304);
    assert!(known.body.is_empty());
    assert_eq!(stored(&server).len(), 3);
}

fn files_are_added_taken_away_and_replaced(place: Place) {
    let server = server(place);
    let api = server.api();
    let made = send(
        &api,
        "POST",
        DOCS,
        &form(&[("pics", Some("a.txt"), b"a"), ("doc", Some("d"), b"d")]),
    );
    let made = made.expect(200).json;
    let one = format!("{DOCS}/{}", made["id"].as_str().unwrap());
    let more = send(
        &api,
        "PATCH",
        &one,
        &form(&[("pics+", Some("b.txt"), b"b")]),
    )
    .expect(200)
    .json;
    assert_eq!(more["pics"].as_array().unwrap().len(), 2);
    let less = api
        .patch(&one, json!({"pics-": more["pics"][0]}))
        .expect(200)
        .json;
    assert_eq!(less["pics"], json!([more["pics"][1]]));
    wait_until("the file is gone", || stored(&server).len() == 2);
    api.get(&link(&made, &made["pics"][0])).expect(404);
    let other = send(&api, "PATCH", &one, &form(&[("doc", Some("e"), b"e")]))
        .expect(200)
        .json;
    assert_eq!(api.get(&link(&other, &other["doc"])).expect(200).body, b"e");
    // A record cannot name missing files or those of other records.
    let stranger = send(&api, "POST", DOCS, &form(&[("doc", Some("x"), b"x")]))
        .expect(200)
        .json;
    for wrong in [
        json!({"doc": "none.txt"}),
        json!({"doc": stranger["doc"]}),
        json!({"doc": "../x"}),
    ] {
        api.patch(&one, wrong).expect(400);
    }
    api.patch(&one, json!({"doc": ""})).expect(200);
    api.delete(&one).expect(204);
    wait_until("only the other's is left", || stored(&server).len() == 1);
    wait_until("the journal says so", || {
        let (left, rows) = journal_and_rows(&server);
        left == rows && rows.len() == 1
    });
}

fn what_a_field_does_not_take_is_refused_and_leaves_nothing(place: Place) {
    let server = server(place);
    let api = server.api();
    let many = form(&[("pics", Some("a.txt"), b"a".as_slice()); 4]);
    let large = form(&[("doc", Some("a"), &vec![1; 3_000_001])]);
    let whole = form(&[("doc", Some("a"), &vec![1; 5 << 20])]);
    let kind = form(&[("pics", Some("a.png"), b"%PDF-1.7 no picture at all")]);
    for (body, status) in [(&many, 400), (&large, 400), (&whole, 413), (&kind, 400)] {
        send(&api, "POST", DOCS, body).expect(status);
    }
    let unknown = form(&[("nothing", Some("a"), b"a")]);
    send(&api, "POST", DOCS, &unknown).expect(400);
    assert!(stored(&server).is_empty(), "{:?}", stored(&server));
    let closed = json!({"createRule": null});
    server
        .admin()
        .patch("/api/collections/docs", closed)
        .expect(200);
    send(&api, "POST", DOCS, &large).expect(403);
    send(&api, "POST", "/api/collections/none/records", &large).expect(404);
    send(&api, "POST", "/api/admins/login", &large).expect(413);
    send(&api, "POST", "/api/admins/login", &unknown).expect(400);
    assert!(stored(&server).is_empty());
}

fn broken_forms_and_odd_names_do_no_harm(place: Place) {
    let server = server(place);
    let api = server.api();
    let whole = form(&[("title", None, b"t"), ("doc", Some("a.txt"), b"content")]);
    for end in 0..whole.len() - 4 {
        let reply = send(&api, "POST", DOCS, &whole[..end]);
        assert_eq!(reply.status, 400, "{end}");
    }
    let parts = form(&vec![("tags", None, b"a".as_slice()); 10_000]);
    send(&api, "POST", DOCS, &parts).expect(400);
    // The server of the tests keeps a file of its own for each, whose name is longer still.
    let long = match place {
        Place::Local => "x".repeat(4_000),
        Place::S3 => "x".repeat(60),
    };
    let names = [
        "../../etc/passwd",
        "a\0b",
        "",
        ".",
        "..",
        "con",
        long.as_str(),
        "\u{e9}\u{301}",
        "a/b\\c",
        "%2e%2e%2f",
    ];
    for name in names {
        let made = send(&api, "POST", DOCS, &form(&[("doc", Some(name), b"x")]))
            .expect(200)
            .json;
        assert_eq!(
            api.get(&link(&made, &made["doc"])).expect(200).body,
            b"x",
            "{name:?}"
        );
    }
    let root = match &server.s3 {
        Some(s3) => s3.bucket_dir(),
        None => server.dir().join("data/storage"),
    };
    for path in stored(&server) {
        let depth = path.strip_prefix(&root).unwrap().components().count();
        assert_eq!(depth, 4, "{path:?}");
    }
    for path in [
        "/api/files/docs/x/..",
        "/api/files/docs/../x",
        "/api/files/docs/x/%2e%2e%2fsecret",
    ] {
        api.get(path).expect(404);
    }
    // Interrupted: the connection ends, and the received bytes are deleted.
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    let head = format!(
        "POST {DOCS} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
         Content-Length: 99999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&whole[..whole.len() - 9]).unwrap();
    let partials = server.dir().join("data/storage/.partial");
    let is_partial = |path: &PathBuf| path.to_str().unwrap().contains(".partial");
    wait_until("it arrives", || files_in(&partials).iter().any(is_partial));
    drop(stream);
    wait_until("it is gone", || !files_in(&partials).iter().any(is_partial));
    assert!(stored(&server).iter().all(|path| !is_partial(path)));
}

fn protected_files_ask_for_whoever_may_view_the_record(place: Place) {
    let server = server(place);
    let admin = server.admin();
    let users = json!({"name": "users", "type": "auth", "createRule": ""});
    admin.post("/api/collections", users).expect(200);
    let fields = json!([{"name": "title", "type": "text"}, {"name": "doc", "type": "file", "protected": true}]);
    let rule = json!({"viewRule": "title = @request.auth.email", "fields": fields});
    admin.patch("/api/collections/docs", rule).expect(200);
    let user = json!({"email": "u@example.com", "password": "password-1"});
    server
        .api()
        .post("/api/collections/users/records", &user)
        .expect(200);
    let path = "/api/collections/users/auth-with-password";
    let body = json!({"identity": "u@example.com", "password": "password-1"});
    let token = server
        .api()
        .post(path, body)
        .expect(200)
        .text("/token")
        .to_owned();
    let user = server.api().with_token(&token);
    let make = |title: &[u8]| {
        let made = send(
            &admin,
            "POST",
            DOCS,
            &form(&[("title", None, title), ("doc", Some("a.txt"), b"a")]),
        );
        let made = made.expect(200).json;
        link(&made, &made["doc"])
    };
    let (own, other) = (make(b"u@example.com"), make(b"other"));
    let token = user
        .post("/api/files/token", "")
        .expect(200)
        .text("/token")
        .to_owned();
    let anybody = server.api();
    anybody.get(&format!("{own}&token={token}")).expect(200);
    anybody.get(&format!("{other}&token={token}")).expect(404);
    anybody.get(&own).expect(404);
    anybody.get(&format!("{own}&token=x")).expect(401);
    user.get(&own).expect(200);
    // It opens files and nothing else.
    anybody
        .with_token(&token)
        .get("/api/files/token")
        .expect(405);
    anybody.with_token(&token).get("/api/auth/me").expect(401);
}

/// Between the storage and the database a crash may leave files, never records without theirs.
fn a_kill_in_the_middle_leaves_no_record_without_its_file(place: Place) {
    let mut server = server(place);
    for _ in 0..crate::crash::rounds().min(20) {
        let api = server.api();
        let body = form(&[("doc", Some("a.bin"), &vec![9; 300_000])]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let api = server.api().with_header(
                        "Content-Type",
                        &format!("multipart/form-data; boundary={BOUNDARY}"),
                    );
                    while api
                        .send_bytes("POST", DOCS, &body)
                        .is_ok_and(|it| it.status == 200)
                    {}
                });
            }
            wait_until("some are there", || {
                api.get(&format!("{DOCS}?perPage=1")).json["totalItems"].as_u64() > Some(10)
            });
            server.signal("KILL");
        });
        server = server.restart();
        wait_until("what was left over is found", || {
            let files = stored(&server).len();
            place != Place::Local || files == journal_and_rows(&server).1.len() + unnamed(&server)
        });
        server = a_day_later(server);
        let api = server.api();
        wait_until("what was left over is gone", || {
            let (left, rows) = journal_and_rows(&server);
            let files = stored(&server);
            match place {
                Place::Local => left == rows && files.len() == rows.len(),
                // New objects stay, since the clock of the bucket may differ.
                Place::S3 => rows.iter().all(|row| left.contains(row)),
            }
        });
        let list = api
            .get(&format!("{DOCS}?perPage=500&fields=id,doc"))
            .expect(200);
        for record in list.json["items"].as_array().unwrap() {
            let got = api.get(&link(record, &record["doc"])).expect(200);
            assert_eq!(got.body.len(), 300_000);
        }
        // Deleted in one go, so that the next round begins with few.
        let ids: Vec<&Value> = list.json["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["id"])
            .collect();
        let body = json!({ "ids": ids }).to_string();
        api.send("DELETE", DOCS, &body).unwrap().expect(204);
        wait_until("their files are gone", || {
            let (left, rows) = journal_and_rows(&server);
            place == Place::S3 || left == rows
        });
    }
}

on_both!(
    a_form_makes_a_record_with_its_files,
    files_are_added_taken_away_and_replaced,
    what_a_field_does_not_take_is_refused_and_leaves_nothing,
    broken_forms_and_odd_names_do_no_harm,
    protected_files_ask_for_whoever_may_view_the_record,
    a_kill_in_the_middle_leaves_no_record_without_its_file,
);
