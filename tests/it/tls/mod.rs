//! Certificates: the servers that are trusted, and the errors about others.
//!
//! The certificates are those of the folder `tls`; `make.sh` there says what each is for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::cluster::{converge, open_collection, replica_of, status};
use crate::support::receiver::Receiver;
use crate::support::s3::S3Server;
use crate::support::server::{Server, command};
use crate::support::tls::{TlsProxy, variable};
use crate::support::{Dir, cluster, s3, wait_until};

const UNKNOWN: &str = "its certificate is signed by an untrusted authority (SSL_CERT_FILE)";
const EXPIRED: &str = "its certificate has expired";
const AUTHORITY: &str = "its certificate is for an authority, not for a server";
const OTHER_NAME: &str = "its certificate is for another name";

/// Makes a record with one file, in a form.
fn send_file(api: &Api, text: &str) -> Value {
    let head = "Content-Disposition: form-data; name=\"doc\"; filename=\"a.txt\"";
    let form = format!("--xx\r\n{head}\r\n\r\n{text}\r\n--xx--\r\n");
    api.with_header("Content-Type", "multipart/form-data; boundary=xx")
        .send_bytes("POST", "/api/collections/docs/records", form.as_bytes())
        .unwrap()
        .expect(200)
        .json
}

/// A collection of records with a file.
fn open_docs(admin: &Api) {
    let docs = json!({"name": "docs", "listRule": "", "viewRule": "", "createRule": "",
        "fields": [{"name": "doc", "type": "file"}]});
    admin.post("/api/collections", docs).expect(200);
}

/// Starts a server that has to refuse, and returns what it says.
#[track_caller]
fn refusal(settings: &[(&str, &str)], code: i32) -> String {
    let dir = Dir::new();
    let mut child = command(dir.path())
        .args(["serve", "--port", "0"])
        .envs(settings.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut has_ended = false;
    wait_until("the start is refused", || {
        has_ended = child.try_wait().unwrap().is_some();
        has_ended
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_replica_follows_and_is_woken_over_tls() {
    let master = cluster::master();
    let admin = master.admin();
    open_collection(&admin, "books");
    open_docs(&admin);
    let record = send_file(&admin, "one");
    let front = TlsProxy::start(master.addr(), "server.pem");
    let (name, trusted) = variable("authority.pem");
    let long = ("SYNC_INTERVAL", "3600");
    let follower = replica_of(&front.url(), &[long, (name, &trusted)]);
    converge(&master, &follower);
    wait_until("it listens", || {
        follower
            .log()
            .iter()
            .any(|it| it.contains("following https://"))
    });
    assert!(follower.log().iter().any(|it| {
        it.contains("trusting only the authorities in SSL_CERT_FILE certificates=1 ignored=0")
    }));

    // Only the socket notifies it of this change.
    let path = "/api/collections/books/records";
    admin
        .post(path, json!({"id": "b1", "title": "t"}))
        .expect(200);
    converge(&master, &follower);
    let (id, file) = (
        record["id"].as_str().unwrap(),
        record["doc"].as_str().unwrap(),
    );
    let path = format!("/api/files/docs/{id}/{file}");
    let reply = follower.api().get(&path).expect(200);
    assert_eq!(reply.body, b"one");
    let seen = status(&follower);
    assert_eq!(seen["replica"]["error"], Value::Null);
}

#[test]
fn a_replica_does_not_follow_whom_it_cannot_believe() {
    let master = cluster::master();
    let cases = [
        ("server.pem", None, UNKNOWN),
        ("server.pem", Some("other.pem"), UNKNOWN),
        ("elsewhere.pem", Some("authority.pem"), OTHER_NAME),
        ("expired.pem", Some("authority.pem"), EXPIRED),
    ];
    let debug = ("LOG", "debug");
    let running: Vec<_> = cases
        .iter()
        .map(|(certificate, trusted, why)| {
            let front = TlsProxy::start(master.addr(), certificate);
            let trusted = trusted.map(variable);
            let trusted = trusted.iter().map(|(name, path)| (*name, path.as_str()));
            let settings: Vec<_> = [debug].into_iter().chain(trusted).collect();
            let follower = replica_of(&front.url(), &settings);
            (front, follower, *why)
        })
        .collect();
    for (front, follower, why) in &running {
        let expected = format!("The server {} is not trusted: {why}.", front.url());
        wait_until(&format!("the status says {expected}"), || {
            status(follower)["replica"]["error"] == *expected
        });
        for begin in ["sync: ", "listen to the master: "] {
            let expected = format!("{begin}{expected}");
            wait_until(&format!("the log says {expected}"), || {
                follower.log().iter().any(|line| line.contains(&expected))
            });
        }
        assert_eq!(front.accepted(), 0, "nothing was sent");
    }
}

/// Makes a webhook and calls it once; returns the row of the log.
fn call(api: &Api, url: &str) -> Value {
    let hook = json!({"name": url, "url": url, "retryLimit": 1});
    let id = api.post("/api/webhooks", hook).expect(200);
    let path = format!("/api/webhooks/{}/call", id.text("/id"));
    let id = api.post(&path, json!({"n": 1})).expect(202).json["id"].clone();
    let (mut row, path) = (Value::Null, format!("/api/webhooks/logs/{id}"));
    wait_until("it was tried", || {
        row = api.get(&path).expect(200).json;
        row["attempts"] != 0
    });
    row
}

#[test]
fn a_webhook_is_delivered_to_whom_it_believes() {
    let receiver = Receiver::content();
    let to = receiver.addr();
    let front = TlsProxy::start(to, "server.pem");
    let elsewhere = TlsProxy::start(to, "elsewhere.pem");
    let expired = TlsProxy::start(to, "expired.pem");
    let url = format!("{}/hook", front.url());
    let (name, trusted) = variable("authority.pem");
    let server = Server::with(&[(name, &trusted)]);
    let admin = server.admin();
    let row = call(&admin, &url);
    assert_eq!(
        (&row["status"], &row["code"]),
        (&json!("success"), &json!(200))
    );
    assert_eq!(receiver.received()[0].path, "/hook");
    let by_address = call(&admin, &format!("https://{}/ip", front.addr()));
    assert_eq!(by_address["status"], "success");

    for (front, why) in [(&elsewhere, OTHER_NAME), (&expired, EXPIRED)] {
        let row = call(&admin, &front.url());
        assert_eq!(
            row["error"],
            format!("The certificate of the host is not trusted: {why}.")
        );
    }
    let row = call(&Server::start().admin(), &url);
    assert_eq!(
        row["error"],
        format!("The certificate of the host is not trusted: {UNKNOWN}.")
    );
    assert_eq!(receiver.received().len(), 2);
}

#[test]
fn a_certificate_that_signs_itself_is_believed_when_it_is_of_a_server() {
    let receiver = Receiver::content();
    for (certificate, error) in [
        ("own.pem", json!("")),
        (
            "own-authority.pem",
            json!(format!(
                "The certificate of the host is not trusted: {AUTHORITY}."
            )),
        ),
    ] {
        let front = TlsProxy::start(receiver.addr(), certificate);
        let (name, trusted) = variable(certificate);
        let server = Server::with(&[(name, &trusted)]);
        assert_eq!(call(&server.admin(), &front.url())["error"], error);
    }
    assert_eq!(receiver.received().len(), 1);
}

#[test]
fn files_go_to_a_bucket_that_is_believed() {
    let bucket = S3Server::start();
    let front = TlsProxy::start(bucket.addr(), "server.pem");
    let url = front.url();
    let settings = [
        ("STORAGE", "s3"),
        ("S3_ENDPOINT", &*url),
        ("S3_BUCKET", s3::BUCKET),
        ("S3_REGION", s3::REGION),
        ("S3_ACCESS_KEY", s3::ACCESS_KEY),
        ("S3_SECRET_KEY", s3::SECRET_KEY),
        ("S3_PATH_STYLE", "true"),
    ];
    let said = refusal(&settings, 1);
    assert!(said.contains(UNKNOWN), "{said}");
    let (name, trusted) = variable("authority.pem");
    let server = Server::with(&[&settings[..], &[(name, &trusted)]].concat());
    let admin = server.admin();
    open_docs(&admin);
    let record = send_file(&admin, "one");
    assert_ne!(record["doc"], "");
    // Downloads are left to the bucket; this reads it.
    let check = command(server.dir())
        .args(["files", "check"])
        .envs(settings)
        .env(name, &trusted)
        .output()
        .unwrap();
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.contains("1 files with 3 bytes"), "{said}");
    assert!(said.contains("0 findings"), "{said}");
}

/// Takes every mail.
fn take_mail(stream: TcpStream) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"220 here\r\n").ok()?;
    let (mut line, mut is_text) = (String::new(), false);
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let answer = match line.trim_end() {
            "." => "250 taken\r\n",
            _ if is_text => continue,
            "DATA" => "354 go on\r\n",
            _ => "250 yes\r\n",
        };
        is_text = answer.starts_with("354");
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
fn mail_is_handed_to_whom_it_believes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || take_mail(stream));
        }
    });
    let front = TlsProxy::start(to, "server.pem");
    let expired = TlsProxy::start(to, "expired.pem");
    let (name, trusted) = variable("authority.pem");
    let trusted = Some((name, trusted.as_str()));
    let failed = |why| format!("the mail server is not trusted: {why}");
    for (front, trusted, expected) in [
        (
            &front,
            trusted,
            "mail sent to=\"ann@example.com\"".to_owned(),
        ),
        (&front, None, failed(UNKNOWN)),
        (&expired, trusted, failed(EXPIRED)),
    ] {
        let url = format!("smtps://localhost:{}", front.addr().port());
        let own = [("SMTP_URL", &*url), ("MAIL_FROM", "vski@example.com")];
        let settings: Vec<_> = own.into_iter().chain(trusted).collect();
        let server = Server::with(&settings);
        let users = json!({"name": "people", "type": "auth", "createRule": "", "fields": []});
        server.admin().post("/api/collections", users).expect(200);
        let ann = json!({"email": "ann@example.com", "password": "password-1",
            "passwordConfirm": "password-1"});
        let api = server.api();
        api.post("/api/collections/people/records", ann).expect(200);
        let ask = json!({"email": "ann@example.com"});
        api.post("/api/collections/people/request-password-reset", ask);
        wait_until(&expected, || {
            server.log().iter().any(|line| line.contains(&expected))
        });
    }
}

#[test]
fn a_start_with_no_usable_certificates_is_refused() {
    let dir = Dir::new();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (name, good) = variable("authority.pem");
    let good = std::fs::read_to_string(Path::new(&good)).unwrap();
    let cut = &good[..good.len() - 40];
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (path, why) in [
        ("/not/there.pem".to_owned(), "it cannot be read: "),
        (
            dir.path().to_str().unwrap().to_owned(),
            "it cannot be read: ",
        ),
        (write("empty", ""), "it contains no PEM certificate."),
        (
            write("text", "no certificate"),
            "it contains no PEM certificate.",
        ),
        (
            write("cut", &format!("{good}{cut}")),
            "it is malformed: a section has no end.",
        ),
        (
            write("nonsense", nonsense),
            "it contains no usable certificate: ",
        ),
    ] {
        let said = refusal(&[(name, &path)], 2);
        let expected = format!("SSL_CERT_FILE={path}: {why}");
        assert!(said.contains(&expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
