//! Forms that come slowly, or with files for what takes none.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use super::{BOUNDARY, DOCS, Place, files_in, form, on_both, send, server, stored};
use crate::support::wait_until;

fn a_file_for_what_takes_none_is_refused(place: Place) {
    let server = server(place);
    let api = server.api();
    let made = send(&api, "POST", DOCS, &form(&[("doc", Some("a"), b"a")]))
        .expect(200)
        .json;
    let one = format!("{DOCS}/{}", made["id"].as_str().unwrap());
    for key in [
        "doc-", "pics-", "id", "created", "title", "count", "nothing", "+", "-", "",
    ] {
        let body = form(&[(key, Some("a.txt"), b"content")]);
        for (method, path) in [("POST", DOCS), ("PATCH", one.as_str())] {
            send(&api, method, path, &body).expect(400);
        }
    }
    assert_eq!(stored(&server).len(), 1);
}

/// A form may take long to come; what came first is not old when it gets its place.
fn a_file_is_as_old_as_its_place(place: Place) {
    let server = server(place);
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    let (beginning, end) = body.split_at(body.len() - 4);
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    let head = format!(
        "POST {DOCS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; \
         boundary={BOUNDARY}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(beginning).unwrap();
    let partials = server.dir().join("data/storage/.partial");
    wait_until("it arrives", || !files_in(&partials).is_empty());
    let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for partial in files_in(&partials) {
        let file = std::fs::File::options().write(true).open(partial).unwrap();
        file.set_modified(past).unwrap();
    }
    stream.write_all(end).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let files = stored(&server);
    assert_eq!(files.len(), 1);
    let written = files[0].metadata().unwrap().modified().unwrap();
    assert!(written > past + Duration::from_secs(1000), "{written:?}");
}

on_both!(
    a_file_for_what_takes_none_is_refused,
    a_file_is_as_old_as_its_place
);
