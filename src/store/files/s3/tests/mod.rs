//! The S3 client against a real server: its operations and its refusals.

mod faults;
mod proxy;
#[path = "../../../../../tests/it/support/s3.rs"]
mod server;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::{Method, S3, S3Body, S3Client, S3Limits, S3Request, S3Response, S3Settings, client};
use crate::base::error::{Error, Result};
use crate::base::tls::Roots;
use crate::base::{clock, ids};
use proxy::{Fault, Proxy};
use server::{BUCKET, S3Server};

const MIB: usize = 1 << 20;
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";

fn settings(endpoint: String) -> S3Settings {
    S3Settings {
        endpoint,
        bucket: BUCKET.to_owned(),
        region: server::REGION.to_owned(),
        access_key: server::ACCESS_KEY.to_owned(),
        secret_key: server::SECRET_KEY.to_owned(),
        path_style: true,
        roots: Roots::default(),
    }
}

/// Limits for the loopback interface. No connection is kept, so that each request meets its own
/// fault.
fn quick() -> S3Limits {
    S3Limits {
        request: Duration::from_secs(20),
        pause: Duration::from_millis(10),
        idle_connections: 0,
        ..S3Limits::default()
    }
}

fn client(endpoint: String, limits: S3Limits) -> S3 {
    let agent = client::agent(&limits, &Roots::default());
    S3::of_client(S3Client::new(&settings(endpoint), limits, agent).unwrap())
}

/// Pseudorandom bytes.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hash(bytes: &[u8]) -> String {
    ids::hex(&crate::base::crypto::sha256(bytes))
}

/// An unlinked temporary file.
fn file(server: &S3Server, bytes: &[u8]) -> File {
    let path = server
        .bucket_dir()
        .with_file_name(ids::record_id().unwrap());
    std::fs::write(&path, bytes).unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

fn put(s3: &S3, server: &S3Server, key: &str, bytes: &[u8]) -> Result<()> {
    s3.put(key, &file(server, bytes), bytes.len() as u64, &hash(bytes))
}

fn read(s3: &S3, key: &str, start: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut reader = s3.get(key, start, length).unwrap().unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Used instead of `assert_eq`, which would print megabytes.
#[track_caller]
fn same(left: &[u8], right: &[u8]) {
    assert_eq!(left.len(), right.len());
    assert!(left == right, "other bytes");
}

fn keys(s3: &S3, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    s3.list(prefix, &mut |object| {
        keys.push(object.key);
        Ok(())
    })
    .unwrap();
    keys
}

#[test]
fn files_of_every_size_come_back_as_they_were() {
    let server = S3Server::start();
    let s3 = client(server.endpoint(), S3Limits::default());
    s3.check().unwrap();
    for size in [0, 1, 100_000, 16 * MIB, 16 * MIB + 1, 40 * MIB] {
        let (key, sent) = (format!("a/b/{size}"), bytes(size));
        put(&s3, &server, &key, &sent).unwrap();
        let mut verified = s3
            .get_verified(&key, size as u64, &hash(&sent))
            .unwrap()
            .unwrap();
        let mut received = Vec::new();
        verified.read_to_end(&mut received).unwrap();
        same(&received, &sent);
    }
    assert_eq!(keys(&s3, "a/b/").len(), 6);
}

#[test]
fn parts_of_a_file_are_read_exactly() {
    let server = S3Server::start();
    let limits = S3Limits {
        range_bytes: 1000,
        ..S3Limits::default()
    };
    let s3 = client(server.endpoint(), limits);
    let sent = bytes(10_000);
    put(&s3, &server, "file", &sent).unwrap();
    for (start, length) in [
        (0, 10_000),
        (0, 1),
        (9_999, 1),
        (999, 2),
        (1000, 1000),
        (5, 0),
        (1, 9_999),
    ] {
        let received = read(&s3, "file", start as u64, length as u64).unwrap();
        same(&received, &sent[start..start + length]);
    }
    let error = s3.get("file", 9_999, 2).err().unwrap().to_string();
    assert!(error.contains("too short"), "{error}");
    assert!(s3.get("file", 20_000, 1).is_err());
    assert!(s3.get("other", 0, 1).unwrap().is_none());
    assert!(s3.get("other", 0, 0).unwrap().is_none());
    // A reader that is dropped early does not disturb the next one.
    for _ in 0..50 {
        let mut reader = s3.get("file", 0, 10_000).unwrap().unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
    }
    same(&read(&s3, "file", 0, 10_000).unwrap(), &sent);
}

#[test]
fn deleted_files_are_gone_and_may_be_deleted_again() {
    let server = S3Server::start();
    let s3 = client(server.endpoint(), S3Limits::default());
    put(&s3, &server, "a/file", b"x").unwrap();
    s3.remove("a/file").unwrap();
    s3.remove("a/file").unwrap();
    assert!(s3.get("a/file", 0, 1).unwrap().is_none());
}

#[test]
fn lists_have_every_key_of_the_prefix_in_order() {
    let server = S3Server::start();
    let s3 = client(server.endpoint(), S3Limits::default());
    let folder = server.bucket_dir().join("many");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..1100 {
        std::fs::write(folder.join(format!("{number:04}")), "abc").unwrap();
    }
    std::fs::write(server.bucket_dir().join("other"), "").unwrap();
    let before_ms = clock::now_ms();
    let mut found = Vec::new();
    s3.list("many/", &mut |object| {
        assert_eq!(object.size, 3);
        assert!((before_ms - object.modified_ms).abs() < 60_000);
        found.push(object.key);
        Ok(())
    })
    .unwrap();
    let expected: Vec<String> = (0..1100)
        .map(|number| format!("many/{number:04}"))
        .collect();
    assert_eq!(found, expected);

    let mut count = 0;
    let stopped = s3.list("", &mut |_| {
        count += 1;
        Err(Error::invalid("enough"))
    });
    assert_eq!((stopped.unwrap_err().message(), count), ("enough", 1));
    assert_eq!(keys(&s3, "none"), [""; 0]);
}

#[test]
fn keys_may_have_any_letters() {
    let server = S3Server::start();
    let limits = S3Limits {
        page: 2,
        ..S3Limits::default()
    };
    let s3 = client(server.endpoint(), limits);
    let names = [
        "a b+c%,~'()",
        "%2F%41+",
        "a&b=c?d#e;f:g@h",
        "<\"quoted\">",
        "\u{e9}\u{4e16}\u{1f600}",
        "!$*[]{}|^`",
    ];
    let mut expected = Vec::new();
    for name in names {
        let key = format!("x y+z/{name}");
        put(&s3, &server, &key, name.as_bytes()).unwrap();
        let received = read(&s3, &key, 0, name.len() as u64).unwrap();
        same(&received, name.as_bytes());
        expected.push(key);
    }
    expected.sort();
    assert_eq!(keys(&s3, "x y+z/"), expected);
    for key in expected {
        s3.remove(&key).unwrap();
    }
    assert_eq!(keys(&s3, ""), [""; 0]);
    for key in ["", "/a", "a/", "a//b", "a/../b", "."] {
        assert!(s3.get(key, 0, 1).is_err(), "{key}");
    }
}

/// Sends a raw request; returns status line and headers in lower case, and the body.
fn fetch(addr: SocketAddr, url: &str) -> (String, Vec<u8>) {
    let target = &url[url.find("/files/").unwrap()..];
    let mut stream = TcpStream::connect(addr).unwrap();
    let timeout = Some(Duration::from_secs(20));
    stream.set_read_timeout(timeout).unwrap();
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.unwrap() + 4);
    let head = String::from_utf8(answer).unwrap();
    (head.to_ascii_lowercase(), body)
}

#[test]
fn links_need_no_credentials_and_say_what_the_file_is() {
    let server = S3Server::start();
    let s3 = client(server.endpoint(), S3Limits::default());
    let key = "a b+c/d%20";
    put(&s3, &server, key, b"hello").unwrap();
    let disposition = "attachment; filename=\"a b+c.txt\"; filename*=UTF-8''%C3%A9";
    let hour = Duration::from_secs(3600);
    let link = s3
        .presigned_url(key, hour, "text/x-test", disposition)
        .unwrap();
    assert!(!link.contains(server::SECRET_KEY), "{link}");
    let (head, body) = fetch(server.addr(), &link);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/x-test\r\n"), "{head}");
    let expected = disposition.to_ascii_lowercase();
    assert!(
        head.contains(&format!("content-disposition: {expected}\r\n")),
        "{head}"
    );
    assert_eq!(body, b"hello");
    let (head, _) = fetch(server.addr(), &link.replace("text%2Fx", "text%2Fy"));
    assert!(head.starts_with("http/1.1 403 "), "{head}");
    let (head, _) = fetch(server.addr(), "/files/a%20b%2Bc/d%2520");
    assert!(head.starts_with("http/1.1 403 "), "{head}");
}

/// Resolves every name to the address of the test's server.
#[derive(Debug)]
struct Everywhere(SocketAddr);

impl Resolver for Everywhere {
    fn resolve(
        &self,
        _: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.empty();
        found.push(self.0);
        Ok(found)
    }
}

#[test]
fn the_bucket_may_be_in_the_name_of_the_host() {
    let server = S3Server::start();
    let limits = S3Limits::default();
    let resolver = Everywhere(server.addr());
    let connector = DefaultConnector::default();
    let agent = ureq::Agent::with_parts(
        client::config(&limits, &Roots::default()),
        connector,
        resolver,
    );
    let mut settings = settings(format!("http://{}", server::DOMAIN));
    settings.path_style = false;
    let s3 = S3::of_client(S3Client::new(&settings, limits, agent).unwrap());
    s3.check().unwrap();
    let sent = bytes(17 * MIB);
    put(&s3, &server, "a b/c", &sent).unwrap();
    same(&read(&s3, "a b/c", 0, 17 * MIB as u64).unwrap(), &sent);
    assert_eq!(keys(&s3, "a "), ["a b/c"]);
    let link = s3.presigned_url("a b/c", Duration::from_secs(9), "a/b", "inline");
    assert!(link.unwrap().starts_with("http://files.s3.test/a%20b/c?"));
    s3.remove("a b/c").unwrap();
    assert!(
        server
            .bucket_dir()
            .join("a b")
            .read_dir()
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn wrong_settings_are_named() {
    let good = || settings("http://127.0.0.1:9".to_owned());
    let refused = |settings: S3Settings| S3::open(&settings).unwrap_err().to_string();
    assert!(S3::open(&good()).is_ok());
    for endpoint in [
        "",
        "127.0.0.1:9",
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://a/?b",
    ] {
        let error = refused(settings(endpoint.to_owned()));
        assert!(error.contains("S3_ENDPOINT"), "{endpoint}: {error}");
    }
    for bucket in ["", "a/b", "a b", "..", "a?b"] {
        let mut settings = good();
        settings.bucket = bucket.to_owned();
        assert!(refused(settings).contains("S3_BUCKET"), "{bucket}");
    }
    let mut hosted = good();
    hosted.path_style = false;
    assert!(refused(hosted).contains("S3_PATH_STYLE"));
    let mut nameless = good();
    nameless.secret_key = String::new();
    assert!(refused(nameless).contains("S3_SECRET_KEY"));

    let shown = format!("{:?} {:?}", good(), S3::open(&good()).unwrap());
    for secret in [server::ACCESS_KEY, server::SECRET_KEY] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn refusals_are_clear_and_not_repeated() {
    let server = S3Server::start();
    let proxy = Proxy::start(server.addr(), &[Fault::Pass]);
    let open = |change: &dyn Fn(&mut S3Settings)| {
        let mut settings = settings(proxy.endpoint());
        change(&mut settings);
        let agent = client::agent(&quick(), &Roots::default());
        S3::of_client(S3Client::new(&settings, quick(), agent).unwrap())
    };
    let check = |s3: &S3, expected: &str| {
        proxy.then(&[Fault::Pass]);
        let error = s3.check().unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert_eq!(proxy.connections(), 1);
    };
    let wrong = open(&|settings| settings.secret_key = "wrong".to_owned());
    check(&wrong, "S3_SECRET_KEY is wrong");
    let stranger = open(&|settings| settings.access_key = "stranger".to_owned());
    check(&stranger, "does not know S3_ACCESS_KEY");
    let nowhere = open(&|settings| settings.bucket = "nowhere".to_owned());
    check(&nowhere, "has no bucket nowhere (S3_BUCKET)");

    for size in [5, 2 * MIB, 17 * MIB] {
        proxy.then(&[Fault::Pass]);
        let error = put(&wrong, &server, "key", &bytes(size)).unwrap_err();
        assert_eq!(
            error.message(),
            "The file cannot be stored; nothing was saved."
        );
        let logged = "store key: S3 answers 403 SignatureDoesNotMatch";
        assert!(error.to_string().contains(logged), "{error}");
        assert_eq!(proxy.connections(), 1);
    }
    assert!(wrong.get("key", 0, 1).is_err());
    assert!(wrong.remove("key").is_err());
    assert!(wrong.list("", &mut |_| Ok(())).is_err());
    // A missing bucket is not a missing file.
    assert!(nowhere.get("key", 0, 1).is_err());
    assert!(nowhere.remove("key").is_err());

    proxy.then(&[Fault::S3Response(FORBIDDEN)]);
    let s3 = open(&|_| {});
    let error = s3.check().unwrap_err();
    assert!(
        error
            .message()
            .contains("S3_ACCESS_KEY lacks the permission to list"),
        "{error}"
    );
    proxy.then(&[Fault::S3Response(NOT_FOUND)]);
    assert!(s3.get("key", 0, 1).is_err(), "a 404 that S3 did not write");
}

#[test]
fn a_server_that_is_not_there_is_said_so() {
    let server = S3Server::start();
    let endpoint = server.endpoint();
    drop(server);
    let s3 = client(endpoint, quick());
    let error = s3.check().unwrap_err();
    assert!(
        error
            .message()
            .contains("(S3_ENDPOINT) cannot be used: no response from S3")
    );
    assert!(error.message().contains("(4 attempts)"), "{error}");
}

#[test]
fn uploads_that_a_crash_left_are_ended() {
    let server = S3Server::start();
    let limits = S3Limits {
        page: 2,
        ..S3Limits::default()
    };
    let s3 = client(server.endpoint(), limits);
    for number in 0..5 {
        let key = format!("a b/{number}");
        let call = S3Request {
            method: Method::Post,
            key: Some(&key),
            query: &[("uploads", "")],
            headers: &[],
            body: S3Body::Bytes(&[]),
        };
        s3.client.call(&call, S3Response::done).unwrap();
    }
    let hour_ms = 3_600_000;
    let count = |before_ms| s3.abort_stale_uploads(before_ms).unwrap();
    assert_eq!(count(clock::now_ms() - hour_ms), 0);
    assert_eq!(count(clock::now_ms() + hour_ms), 5);
    assert_eq!(count(clock::now_ms() + hour_ms), 0);
}

#[test]
fn servers_without_checksums_are_good_enough() {
    let server = S3Server::start_plain();
    let s3 = client(server.endpoint(), S3Limits::default());
    for size in [17 * MIB, 1000] {
        let sent = bytes(size);
        put(&s3, &server, "key", &sent).unwrap();
        same(&read(&s3, "key", 0, size as u64).unwrap(), &sent);
    }
    assert_eq!(s3.abort_stale_uploads(i64::MAX).unwrap(), 0);
}

#[test]
fn many_threads_share_one_client() {
    let server = S3Server::start();
    let s3 = Arc::new(client(server.endpoint(), S3Limits::default()));
    let server = Arc::new(server);
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (s3, server) = (Arc::clone(&s3), Arc::clone(&server));
            let work = move || {
                for round in 0..10 {
                    let key = format!("{number}/{round}");
                    let sent = bytes(1000 * number + round);
                    put(&s3, &server, &key, &sent).unwrap();
                    let received = read(&s3, &key, 0, sent.len() as u64).unwrap();
                    same(&received, &sent);
                }
            };
            crate::base::threads::spawn("test", work).unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(keys(&s3, "").len(), 80);
}

/// The TLS configuration that mail uses as well; a server without TLS is told from one that does
/// not respond.
#[test]
fn a_server_without_tls_is_refused_at_once() {
    let server = S3Server::start();
    let proxy = Proxy::start(server.addr(), &[Fault::Pass]);
    let s3 = client(format!("https://{}", proxy.addr), quick());
    let error = s3.check().unwrap_err();
    assert!(
        error.message().contains("(S3_ENDPOINT) cannot be used"),
        "{error}"
    );
    assert_eq!(proxy.connections(), 1, "{error}");
}
