//! Bodies: forms in place of JSON, how long they may be, and what they take in memory and on the
//! disk.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::{Api, Reply, encode, metric};
use crate::support::server::Server;
use crate::support::wait_until;

const BOUNDARY: &str = "xXboundaryXx";
const CONTACTS: &str = "/api/collections/contacts/records";

/// A server whose collection `contacts` anybody may write, without file fields.
fn open_server() -> (Server, Api) {
    let server = Server::start();
    let admin = server.admin();
    let contacts = json!({"name": "contacts", "createRule": "", "fields": [
        {"name": "message", "type": "text"},
        {"name": "age", "type": "number"},
    ]});
    admin.post("/api/collections", contacts).expect(200);
    (server, admin)
}

/// Parts of a form: the line behind `form-data; ` and the content.
fn multipart(parts: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (disposition, content) in parts {
        body += &format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n"
        );
    }
    body + &format!("--{BOUNDARY}--\r\n")
}

fn send_form(api: &Api, method: &str, path: &str, parts: &[(&str, &str)]) -> Reply {
    let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let api = api.with_header("Content-Type", &media_type);
    api.send(method, path, &multipart(parts)).unwrap()
}

fn send_urlencoded(api: &Api, method: &str, path: &str, pairs: &[(&str, &str)]) -> Reply {
    let pairs = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    let body = pairs.collect::<Vec<_>>().join("&");
    let api = api.with_header("Content-Type", "application/x-www-form-urlencoded");
    api.send(method, path, &body).unwrap()
}

/// Opens a connection, announces a body and sends only a part of it.
fn begin(server: &Server, path: &str, headers: &str, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    let wait = Some(Duration::from_secs(30));
    stream.set_read_timeout(wait).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    // The server may refuse it before it has taken all.
    drop(stream.write_all(&[head.as_bytes(), part].concat()));
    stream
}

/// Begins a form with one part that does not end.
fn begin_form(server: &Server, path: &str, disposition: &str, content: &[u8]) -> TcpStream {
    let headers = format!(
        "Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 60000000\r\n"
    );
    let headers = match content.len() < 4 << 20 {
        true => headers.replace("60000000", "4194304"),
        false => headers,
    };
    let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
    begin(server, path, &headers, &[part.as_bytes(), content].concat())
}

/// The beginning of the answer.
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 2000];
    let count = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn memory_mb(server: &Server, name: &str) -> u64 {
    server.memory_kb(name) / 1024
}

/// `curl -d` labels every body as a form, and most examples for curl, ours too, send JSON with it.
/// When forms were accepted everywhere, each of them was answered with 400.
#[test]
fn json_that_curl_labels_as_a_form_is_json() {
    let server = Server::start();
    let admin = server.admin();
    let collection =
        json!({"name": "notes", "createRule": "", "fields": [{"name": "n", "type": "number"}]});
    let curl = |api: &Api| api.with_header("Content-Type", "application/x-www-form-urlencoded");
    curl(&admin)
        .post("/api/collections", &collection)
        .expect(200);
    let notes = "/api/collections/notes/records";
    for body in [r#"{"n": 5}"#, "\r\n {\"n\": 5}"] {
        let record = curl(&server.api()).post(notes, body).expect(200);
        assert_eq!(record.json["n"], 5);
    }
    curl(&admin).post("/api/admins/login", "{").expect(400);
    let record = curl(&server.api()).post(notes, "n=7").expect(200);
    assert_eq!(record.json["n"], 7);
}

/// PocketBase accepts forms wherever it accepts JSON, and some of its clients, such as
/// `pocketbase-typegen`, send nothing else. Here they were refused everywhere but at records.
#[test]
fn forms_are_accepted_in_place_of_json() {
    let server = Server::start();
    server.admin();
    let (identity, password) = ("admin@example.com", "password-1");
    let login = "/api/collections/_superusers/auth-with-password";
    let parts: [(&str, &str); 2] = [
        (r#"name="identity""#, identity),
        (r#"name="password""#, password),
    ];
    let api = server.api();
    let reply = send_form(&api, "POST", login, &parts).expect(200);
    let admin = api.with_token(reply.text("/token"));
    let pairs = [("identity", identity), ("password", password)];
    send_urlencoded(&api, "POST", login, &pairs).expect(200);
    let pairs = [("email", identity), ("password", password)];
    send_urlencoded(&api, "POST", "/api/admins/login", &pairs).expect(200);
    let payload = format!(r#"{{"identity":"{identity}","password":"{password}"}}"#);
    let parts = [(r#"name="@jsonPayload""#, payload.as_str())];
    send_form(&api, "POST", login, &parts).expect(200);

    // A number, a list, a truth value.
    let pairs = [("name", "k"), ("scopes", "read"), ("scopes", "service")];
    let key = send_urlencoded(&admin, "POST", "/api/keys", &pairs).expect(200);
    assert_eq!(key.json["scopes"], json!(["read", "service"]));
    let pairs = [("name", "5"), ("seconds", "60"), ("workflows", r#"["a"]"#)];
    send_urlencoded(&admin, "POST", "/api/auth/service-token", &pairs).expect(200);
    let collection = [
        ("name", "notes"),
        (
            "fields",
            r#"[{"name":"n","type":"number"},{"name":"b","type":"bool"}]"#,
        ),
        ("createRule", ""),
    ];
    send_urlencoded(&admin, "POST", "/api/collections", &collection).expect(200);
    let notes = "/api/collections/notes/records";
    let pairs = [("n", "12"), ("b", "on")];
    let record = send_urlencoded(&api, "POST", notes, &pairs).expect(200);
    assert_eq!(
        (&record.json["n"], &record.json["b"]),
        (&json!(12), &json!(true))
    );
    let one = record.text("/id").to_owned();
    let pairs = [("ids", one.as_str()), ("data", r#"{"n":13}"#)];
    let changed = send_urlencoded(&admin, "PATCH", notes, &pairs).expect(200);
    assert_eq!(changed.json["items"][0]["n"], 13);
    let user = json!({"name": "people", "type": "auth", "createRule": ""});
    admin.post("/api/collections", user).expect(200);
    let pairs = [("email", "a@example.com"), ("password", "00012345")];
    send_urlencoded(&api, "POST", "/api/collections/people/records", &pairs).expect(200);
    let pairs = [("identity", "a@example.com"), ("password", "00012345")];
    let people = "/api/collections/people/auth-with-password";
    send_urlencoded(&api, "POST", people, &pairs).expect(200);

    // Refusals say what is wrong.
    let reply = send_urlencoded(&api, "POST", login, &[("identity", identity)]).expect(400);
    assert!(reply.text("/message").contains("password"), "{reply:?}");
    let pairs = [("name", "5"), ("seconds", "soon")];
    send_urlencoded(&admin, "POST", "/api/auth/service-token", &pairs).expect(400);
    let file = [(r#"name="identity"; filename="a.txt""#, "x")];
    let reply = send_form(&api, "POST", login, &file).expect(400);
    assert_eq!(
        reply.text("/data/identity/code"),
        "validation_not_a_file_field"
    );
    api.post(login, "").expect(400);
    let long = "x".repeat(17 << 10);
    send_urlencoded(&api, "POST", login, &[("identity", &long)]).expect(413);
    let parts = [(r#"name="identity""#, long.as_str())];
    send_form(&api, "POST", login, &parts).expect(413);
}

/// A browser sends an empty file input as a part with an empty name and no
/// bytes. It was stored as an empty file, and a change deleted the file that was there.
#[test]
fn an_untouched_input_for_a_file_changes_nothing() {
    let server = Server::start();
    let admin = server.admin();
    let docs = json!({"name": "docs", "fields": [
        {"name": "title", "type": "text"}, {"name": "one", "type": "file"},
    ]});
    admin.post("/api/collections", docs).expect(200);
    let path = "/api/collections/docs/records";
    let untouched = (r#"name="one"; filename="""#, "");
    let file = (r#"name="one"; filename="p.jpg""#, "content");
    let title = (r#"name="title""#, "new");
    let empty = send_form(&admin, "POST", path, &[title, untouched]).expect(200);
    assert_eq!(empty.text("/one"), "");
    let made = send_form(&admin, "POST", path, &[file]).expect(200);
    let name = made.text("/one").to_owned();
    let record = format!("{path}/{}", made.text("/id"));
    let changed = send_form(&admin, "PATCH", &record, &[title, untouched]).expect(200);
    assert_eq!(
        (changed.text("/one"), changed.text("/title")),
        (name.as_str(), "new")
    );
    let link = format!("/api/files/docs/{}/{name}", made.text("/id"));
    admin.get(&link).expect(200);

    // With a name or with bytes it is a file.
    let named = (r#"name="one"; filename="empty.txt""#, "");
    let changed = send_form(&admin, "PATCH", &record, &[named]).expect(200);
    assert!(changed.text("/one").starts_with("empty_"), "{changed:?}");
    let unnamed = (r#"name="one"; filename="""#, "bytes");
    let changed = send_form(&admin, "PATCH", &record, &[unnamed]).expect(200);
    assert!(changed.text("/one").starts_with("file_"), "{changed:?}");
}

/// 690,000 subscriptions in one body of 4 MB were all parsed before anything was looked at: 200 MB
/// for each such request of any caller, even for an unknown client.
#[test]
fn an_endpoint_that_expects_little_receives_little() {
    let (server, admin) = open_server();
    let topics = vec!["d/*"; 690_000];
    let body = json!({"clientId": "x", "subscriptions": topics}).to_string();
    let before = memory_mb(&server, "VmRSS");
    for _ in 0..5 {
        let reply = server.api().post("/api/realtime", &body).expect(413);
        assert_eq!(
            reply.text("/message"),
            "The request body is too large: the limit is 256 KiB."
        );
    }
    let body = json!({"clientId": "x", "subscriptions": vec!["d/*"; 101]});
    server.api().post("/api/realtime", body).expect(409);
    let body = json!({"clientId": "x", "subscriptions": vec!["d/*"; 100]});
    server.api().post("/api/realtime", body).expect(404);
    let after = memory_mb(&server, "VmHWM");
    assert!(after < before + 40, "{before} MB, then {after} MB");

    // Refused before it arrives; one in chunks as soon as it is too long.
    for (path, most) in [
        ("/api/realtime", 256 << 10),
        ("/api/admins/login", 16 << 10),
        ("/api/collections", 1 << 20),
    ] {
        let announced = format!("Content-Length: {}\r\n", most + 1);
        let mut stream = begin(&server, path, &announced, b"");
        assert!(answer(&mut stream).starts_with("HTTP/1.1 413 "), "{path}");
        let chunk = format!("{:x}\r\n{}", most + 1, " ".repeat(most + 1));
        let chunked = "Transfer-Encoding: chunked\r\n";
        let mut stream = begin(&server, path, chunked, chunk.as_bytes());
        assert!(answer(&mut stream).starts_with("HTTP/1.1 413 "), "{path}");
        let body = " ".repeat(most);
        let reply = admin.post(path, &body);
        assert_eq!(reply.status, 400, "{path}: {reply:?}");
    }
    // A GET needs no body.
    let long = " ".repeat((16 << 10) + 1);
    admin.send("GET", "/api/admins", &long).unwrap().expect(413);
}

/// The values of forms were in no budget: each connection that sent 4 MB of a value and then
/// nothing held them, up to 4 GB.
#[test]
fn values_of_forms_are_charged_as_other_bodies_are() {
    let (server, admin) = open_server();
    let value = vec![b'x'; 3 << 20];
    let begin_one = || begin_form(&server, CONTACTS, r#"name="message""#, &value);
    let mut streams: Vec<TcpStream> = (0..60).map(|_| begin_one()).collect();
    wait_until("the budget is used", || {
        metric(&admin, "vski_budget_refused_total", "request bodies") >= 45
    });
    assert!(metric(&admin, "vski_budget_used", "request bodies") <= 32 << 20);
    let most = memory_mb(&server, "VmHWM");
    assert!(most < 150, "{most} MB");
    // Small ones go on, large ones of the same network are told to wait.
    let api = server.api();
    api.post(CONTACTS, json!({"message": "hello"})).expect(200);
    let long = json!({"message": "x".repeat(3 << 20)});
    let mut refused = None;
    // The values that were refused while others grew gave back what these do not need.
    wait_until("the share of the network is used", || {
        streams.push(begin_one());
        let reply = api.post(CONTACTS, &long);
        refused = (reply.status == 429).then_some(reply);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert!(
        refused.text("/message").contains("request bodies"),
        "{refused:?}"
    );
    assert!(refused.header("Retry-After").is_some());
    drop(streams);
    wait_until("the budget is given back", || {
        metric(&admin, "vski_budget_used", "request bodies") == 0
    });
    server.api().post(CONTACTS, &long).expect(200);
    // A form for records without files is as long as other bodies.
    let parts = [(r#"name="message""#, "x")];
    send_form(&api, "POST", CONTACTS, &parts).expect(200);
    let headers = format!(
        "Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 4194305\r\n"
    );
    let mut stream = begin(&server, CONTACTS, &headers, b"--");
    assert!(answer(&mut stream).starts_with("HTTP/1.1 413 "));
}

/// A form with a file for a collection that has no file fields was received whole before it was
/// refused: 1,024 connections could fill 64 GB of the disk without credentials.
#[test]
fn a_file_is_refused_at_its_part() {
    let (server, admin) = open_server();
    let docs = json!({"name": "docs", "createRule": "", "fields": [
        {"name": "doc", "type": "file", "maxSize": 1000},
    ]});
    admin.post("/api/collections", docs).expect(200);
    let partials = server.dir().join("data/storage/.partial");
    let count = || std::fs::read_dir(&partials).unwrap().count();
    let file = vec![b'x'; 5 << 20];
    let docs = "/api/collections/docs/records";
    for (disposition, content, code) in [
        (
            r#"name="nothing"; filename="a""#,
            &file[..1],
            "validation_not_a_file_field",
        ),
        (
            r#"name="doc-"; filename="a""#,
            &file[..1],
            "validation_not_a_file_field",
        ),
        (
            r#"name="doc"; filename="a""#,
            &file[..3000],
            "validation_file_size_limit",
        ),
    ] {
        let mut stream = begin_form(&server, docs, disposition, content);
        let reply = answer(&mut stream);
        assert!(reply.starts_with("HTTP/1.1 400 "), "{disposition}: {reply}");
        assert!(reply.contains(code), "{disposition}: {reply}");
    }
    let mut stream = begin_form(
        &server,
        "/api/batch",
        r#"name="requests.0.no"; filename="a""#,
        b"x",
    );
    assert!(answer(&mut stream).contains("validation_not_a_file_field"));
    assert_eq!(count(), 0);
    for (length, status) in [(1000, 200), (1001, 400)] {
        let content = "x".repeat(length);
        let parts = [(r#"name="doc+"; filename="a.txt""#, content.as_str())];
        send_form(&server.api(), "POST", docs, &parts).expect(status);
    }
}

/// Uploads took the disk to its last byte, which the databases then lacked.
#[test]
fn uploads_leave_a_reserve_of_the_disk() {
    let server = Server::with(&[("RESERVE_MB", "1048576")]);
    let admin = server.admin();
    let docs = json!({"name": "docs", "fields": [{"name": "doc", "type": "file"}]});
    admin.post("/api/collections", docs).expect(200);
    let docs = "/api/collections/docs/records";
    let file = [(r#"name="doc"; filename="a.txt""#, "x")];
    let reply = send_form(&admin, "POST", docs, &file).expect(503);
    assert!(reply.text("/message").contains("RESERVE_MB"), "{reply:?}");
    assert_eq!(admin.get(docs).expect(200).json["totalItems"], 0);
    admin.post(docs, json!({})).expect(200);
    let server = server.restart_with("RESERVE_MB", "0");
    send_form(&server.admin(), "POST", docs, &file).expect(200);
}

/// A body of 4 MB may be 340,000 names, which took 45 MB; fourteen at once took 600 MB.
#[test]
fn a_body_is_charged_for_what_it_becomes() {
    let (server, admin) = open_server();
    let names = |count: usize| -> String {
        let names: Vec<String> = (0..count).map(|at| format!("\"n{at:06}\":1")).collect();
        format!("{{{}}}", names.join(","))
    };
    let many = names(340_000);
    let short = |body: &str| server.api().post(CONTACTS, body);
    std::thread::scope(|scope| {
        for _ in 0..14 {
            scope.spawn(|| {
                let reply = short(&many);
                assert!([400, 429].contains(&reply.status), "{reply:?}");
            });
        }
    });
    let reply = short(&many).expect(400);
    assert!(reply.text("/message").contains("1000 names"), "{reply:?}");
    let batch = format!(
        r#"{{"requests":[{{"method":"POST","url":"{CONTACTS}","body":{}}}]}}"#,
        names(3000)
    );
    admin.post("/api/batch", &batch).expect(400);
    let ids = format!(r#"{{"ids":[{}"x"]}}"#, "\"\",".repeat(1_200_000));
    admin.send("DELETE", CONTACTS, &ids).unwrap().expect(413);
    let ids = format!(
        r#"{{"ids":[{}"x"],"data":{{}}}}"#,
        "\"\",".repeat(1_200_000)
    );
    let reply = admin.patch(CONTACTS, &ids).expect(413);
    assert!(
        reply.text("/message").contains("too many values"),
        "{reply:?}"
    );
    let runs = format!(
        r#"{{"workflow":"w","attributes":{{"a":[{}1]}}}}"#,
        "1,".repeat(1_900_000)
    );
    admin.post("/api/workflow/runs", &runs).expect(413);
    let most = memory_mb(&server, "VmHWM");
    assert!(most < 200, "{most} MB");

    // Long texts and the JSON of a field are kept as they come.
    let places = json!({"name": "places", "fields": [{"name": "shape", "type": "json", "maxSize": 4_000_000}]});
    admin.post("/api/collections", places).expect(200);
    let points = vec![json!([12.5, 41.25]); 200_000];
    let shape = json!({"shape": points});
    let made = admin
        .post("/api/collections/places/records", &shape)
        .expect(200);
    assert_eq!(made.json["shape"][199_999], json!([12.5, 41.25]));
}

/// A request for a run was parsed three times, and each time was charged. The sum for a body that
/// fits could exceed the share of the network, and the answer was 429 however long the client
/// waited.
#[test]
fn a_body_is_parsed_and_charged_once() {
    let (_server, admin) = open_server();
    let run = |count| {
        let (pad, list) = ("x".repeat(3_400_000), "1,".repeat(count));
        format!(r#"{{"workflow":"w","attributes":{{"pad":"{pad}","list":[{list}1]}}}}"#)
    };
    let reply = admin.post("/api/workflow/runs", run(250_000)).expect(400);
    assert!(
        reply.json["data"].get("attributes").is_some(),
        "{}",
        reply.json
    );
    // Too much is told as such: waiting does not help.
    admin.post("/api/workflow/runs", run(350_000)).expect(413);
}

/// Answers of 8 MB for many callers at once were in no budget, and what they took stayed with the
/// process.
#[test]
fn large_answers_share_a_budget_and_their_memory_goes_back() {
    let (server, admin) = open_server();
    let text = "word ".repeat(3000);
    for _ in 0..10 {
        let create = json!({"method": "POST", "url": CONTACTS, "body": {"message": text}});
        let batch = json!({"requests": vec![create; 45]});
        admin.post("/api/batch", &batch).expect(200);
    }
    let list = format!("{CONTACTS}?perPage=450&skipTotal=1");
    let refused = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            let api = Api::new(server.addr()).with_token(admin.token());
            let (list, refused) = (&list, &refused);
            scope.spawn(move || {
                let api = api.with_header("Accept-Encoding", "gzip");
                for _ in 0..3 {
                    let reply = api.get(list);
                    assert!([200, 429, 503].contains(&reply.status), "{}", reply.status);
                    if reply.status == 429 {
                        refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let most = memory_mb(&server, "VmHWM");
    assert!(most < 250, "{most} MB");
    wait_until("the budget is given back", || {
        metric(&admin, "vski_budget_used", "answers") == 0
    });
    wait_until("memory goes back", || memory_mb(&server, "VmRSS") < 120);
    let reply = admin.get(&list).expect(200);
    assert_eq!(reply.json["items"].as_array().map(Vec::len), Some(450));
}

/// A pattern ran on texts of any length: one create with 1 MB of text took a worker 20 seconds.
#[test]
fn a_text_with_a_pattern_is_short_unless_it_says_otherwise() {
    let server = Server::start();
    let admin = server.admin();
    let fields = json!([
        {"name": "code", "type": "text", "pattern": "^[a-z]*$"},
        {"name": "long", "type": "text", "pattern": "^[a-z]*$", "max": 6000},
        {"name": "free", "type": "text"},
    ]);
    let codes = json!({"name": "codes", "fields": fields});
    admin.post("/api/collections", codes).expect(200);
    let path = "/api/collections/codes/records";
    let check = |field: &str, length: usize, expected: &str| {
        let reply = admin.post(path, json!({field: "x".repeat(length)}));
        let code = reply.json["data"][field]["code"].as_str().unwrap_or("");
        assert_eq!(code, expected, "{field} {length}: {}", reply.status);
    };
    check("code", 5000, "");
    check("code", 5001, "validation_max_text_constraint");
    check("long", 6000, "");
    check("long", 6001, "validation_max_text_constraint");
    check("free", 100_000, "");
}

/// Some clients write an empty line, a remark or blanks around the first delimiter, as RFC 2046
/// allows.
#[test]
fn a_form_may_have_something_before_its_first_part() {
    let (server, _) = open_server();
    let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let api = server.api().with_header("Content-Type", &media_type);
    let form = multipart(&[(r#"name="message""#, "hello")]);
    for before in ["\r\n", "\r\n\r\n", "A remark.\r\n"] {
        let reply = api.post(CONTACTS, format!("{before}{form}")).expect(200);
        assert_eq!(reply.json["message"], Value::from("hello"));
    }
    let blanks = form.replacen("\r\n", "  \t\r\n", 1);
    api.post(CONTACTS, blanks).expect(200);
    api.post(CONTACTS, "no form").expect(400);
}
