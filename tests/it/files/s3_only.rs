//! Buckets: links, the owner of a bucket, and a bucket that is not available.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{DOCS, Place, bucket_settings, form, link, send, server, site, stored};
use crate::support::Dir;
use crate::support::s3::S3Server;
use crate::support::server::command;
use crate::support::token::replica;

#[test]
fn a_download_is_sent_to_the_bucket() {
    let server = server(Place::S3);
    let api = server.api();
    let body = form(&[("doc", Some("a b.txt"), b"content of a file")]);
    let made = send(&api, "POST", DOCS, &body).expect(200).json;
    let path = link(&made, &made["doc"]).replace("?stream=1", "");
    let reply = api.get(&format!("{path}?download=1")).expect(307);
    let location = reply.header("Location").unwrap();
    assert!(
        reply
            .header("Cache-Control")
            .unwrap()
            .starts_with("private")
    );
    // The link needs no credentials.
    let s3 = server.s3.as_ref().unwrap();
    let target = location.strip_prefix(&s3.endpoint()).unwrap();
    let mut stream = TcpStream::connect(s3.addr()).unwrap();
    let head = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        s3.addr()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("content of a file"), "{answer}");
    assert!(answer.contains("attachment; filename="), "{answer}");
    let unsigned = target.split('?').next().unwrap();
    assert!(!unsigned.contains("X-Amz"));

    // Files that could run scripts there are saved, not shown.
    for (name, form_of) in [
        ("a.html", "attachment"),
        ("a.svg", "attachment"),
        ("a.txt", "inline"),
    ] {
        let body = form(&[("doc", Some(name), b"content")]);
        let made = send(&api, "POST", DOCS, &body).expect(200).json;
        let other = link(&made, &made["doc"]).replace("?stream=1", "");
        let location = api
            .get(&other)
            .expect(307)
            .header("Location")
            .unwrap()
            .to_owned();
        assert!(
            location.contains(&format!("disposition={form_of}")),
            "{name}: {location}"
        );
    }

    // Or it comes from here, in parts too.
    let streamed = api
        .with_header("Range", "bytes=11-")
        .get(&format!("{path}?stream=1"));
    assert_eq!(streamed.expect(206).body, b"a file");
    // There is nothing for replicas to follow.
    replica(&api, "one").get("/api/replica/files").expect(409);
}

#[test]
fn a_server_from_before_checksums_will_do() {
    let server = site(Some(S3Server::start_plain()));
    let api = server.api();
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    let made = send(&api, "POST", DOCS, &body).expect(200).json;
    assert_eq!(
        api.get(&link(&made, &made["doc"])).expect(200).body,
        b"content"
    );
}

/// The sweep of another server would delete what it does not know.
#[test]
fn a_bucket_belongs_to_one_server() {
    let server = server(Place::S3);
    let endpoint = server.s3.as_ref().unwrap().endpoint();
    let start = |dir: &Dir, settings: &[(&str, &str)]| {
        let mut command = command(dir.path());
        command
            .arg("serve")
            .env("PORT", "0")
            .envs(settings.iter().copied());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let other = Dir::new();
    let settings = bucket_settings(&endpoint);
    let text = start(&other, &settings);
    assert!(text.contains("belongs to another vski server"), "{text}");
    let with = |name: &str, value: &'static str| {
        let mut settings = settings;
        settings
            .iter_mut()
            .find(|(other, _)| *other == name)
            .unwrap()
            .1 = value;
        start(&other, &settings)
    };
    let text = with("S3_SECRET_KEY", "wrong");
    assert!(text.contains("S3_SECRET_KEY is wrong"), "{text}");
    assert!(
        !text.contains("X-Amz") && !text.contains("test-secret-key"),
        "{text}"
    );
    let text = with("S3_BUCKET", "none");
    assert!(text.contains("no bucket none"), "{text}");
    let text = with("S3_BUCKET", "");
    assert!(text.contains("STORAGE=s3 needs S3_BUCKET"), "{text}");
    let text = with("S3_ENDPOINT", "ftp://x");
    assert!(text.contains("S3_ENDPOINT"), "{text}");
    // The one that it belongs to comes back.
    let server = server.restart();
    server.api().get("/api/health").expect(200);
}

#[test]
fn what_the_bucket_does_not_take_is_not_saved() {
    let mut server = server(Place::S3);
    let api = server.api();
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    let made = send(&api, "POST", DOCS, &body).expect(200).json;
    // The server of the bucket stops.
    drop(server.s3.take());
    send(&api, "POST", DOCS, &body).expect(503);
    let path = link(&made, &made["doc"]);
    api.get(&path).expect(503);
    assert_eq!(api.list("docs", &[]).json["totalItems"], 1);
    // Records do without it.
    let id = made["id"].as_str().unwrap();
    api.patch(&format!("{DOCS}/{id}"), r#"{"title":"new"}"#)
        .expect(200);
    api.delete(&format!("{DOCS}/{id}")).expect(204);
    assert!(stored(&server).is_empty());
}
