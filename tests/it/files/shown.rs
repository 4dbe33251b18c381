//! Files in browsers: the encoding of text, and files that are saved instead of shown.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::{DOCS, Place, form, link, send, server};

/// Text was served without an encoding, so browsers showed UTF-8 as that of Windows; and pages,
/// drawings and uploaded scripts ran as pages of this server.
#[test]
fn text_is_utf_8_and_what_could_run_is_saved() {
    let server = server(Place::Local);
    let api = server.api();
    let text = "Gr\u{fc}\u{df}e".as_bytes();
    let png = b"\x89PNG\r\n\x1a\n0000";
    for (name, content, media_type, form_of) in [
        ("a.txt", text, "text/plain; charset=utf-8", "inline"),
        ("a.csv", text, "text/csv; charset=utf-8", "attachment"),
        ("a.md", text, "text/markdown; charset=utf-8", "attachment"),
        ("a.html", text, "text/html; charset=utf-8", "attachment"),
        ("a.js", text, "text/javascript; charset=utf-8", "attachment"),
        ("a.css", text, "text/css; charset=utf-8", "attachment"),
        (
            "a.json",
            text,
            "application/json; charset=utf-8",
            "attachment",
        ),
        (
            "a.svg",
            b"<svg xmlns='x'/>",
            "image/svg+xml; charset=utf-8",
            "attachment",
        ),
        (
            "a.xml",
            b"<?xml version='1.0'?><a/>",
            "text/xml",
            "attachment",
        ),
        ("a.png", png, "image/png", "inline"),
        ("a.pdf", b"%PDF-1.7", "application/pdf", "inline"),
        (
            "a.bin",
            b"\x00\x01",
            "application/octet-stream",
            "attachment",
        ),
        // Latin-1 has no claim to be anything else.
        (
            "a.txt",
            b"Gr\xfc\xdfe",
            "application/octet-stream",
            "attachment",
        ),
    ] {
        let made = send(&api, "POST", DOCS, &form(&[("doc", Some(name), content)]));
        let made = made.expect(200).json;
        let path = link(&made, &made["doc"]);
        let got = api.get(&path).expect(200);
        assert_eq!(got.header("Content-Type"), Some(media_type), "{name}");
        let disposition = got.header("Content-Disposition").unwrap().to_owned();
        assert!(disposition.starts_with(form_of), "{name}: {disposition}");
        assert!(
            got.header("Content-Security-Policy")
                .unwrap()
                .contains("sandbox")
        );
        assert_eq!(got.header("X-Content-Type-Options"), Some("nosniff"));
        let saved = api.get(&format!("{path}&download=1")).expect(200);
        let disposition = saved.header("Content-Disposition").unwrap();
        assert!(disposition.starts_with("attachment"), "{disposition}");
        let shown = api.get(&format!("{path}&download=0")).expect(200);
        let disposition = shown.header("Content-Disposition").unwrap();
        assert!(disposition.starts_with(form_of), "{disposition}");
    }
}

/// Parts are defined for GET only. HEAD answered 206 and the length of the part, so a client that
/// asks for the length of a file before it resumes a download was told that of a part.
#[test]
fn head_passes_over_range() {
    let server = server(Place::Local);
    let made = send(
        &server.api(),
        "POST",
        DOCS,
        &form(&[("doc", Some("a.txt"), b"0123456789")]),
    );
    let made = made.expect(200).json;
    let path = link(&made, &made["doc"]);
    let ask = |method: &str, range: &str| {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nrange: {range}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for range in ["bytes=2-3", "bytes=9999-"] {
        let answer = ask("HEAD", range);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("\r\nContent-Length: 10\r\n"), "{answer}");
        assert!(answer.contains("\r\nAccept-Ranges: bytes\r\n"), "{answer}");
        assert!(
            !answer.contains("Content-Range") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }
    assert!(ask("GET", "bytes=2-3").starts_with("HTTP/1.1 206 "));
    assert!(ask("GET", "bytes=9999-").starts_with("HTTP/1.1 416 "));
}
