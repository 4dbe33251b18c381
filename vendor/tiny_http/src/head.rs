//! The request line and headers: finding their end, reading them, and deciding where the body ends.
//!
//! New file; replaces the line reader and parsers of upstream's `client.rs` and the decision in `request.rs`. Pure
//! functions over bytes. Everything on which two readers of the same bytes could differ is refused, because such a
//! difference is how a request is smuggled past a proxy.

use std::ops::Range;

use crate::common::{HTTPVersion, Method};

/// A header line as two ranges of the head's text.
#[derive(Clone, Debug)]
pub struct HeaderSpan {
    /// The name, as sent.
    pub name: Range<usize>,
    /// The value without the white space around it.
    pub value: Range<usize>,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Debug)]
pub(crate) struct Head {
    /// The head as sent, without the empty line at its end.
    pub text: String,
    pub method: Method,
    pub target: Range<usize>,
    pub version: HTTPVersion,
    pub headers: Vec<HeaderSpan>,
    pub framing: Framing,
    pub expects_continue: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// It is a `GET` without a body that asks for no WebSocket.
    pub may_be_endless: bool,
}

/// The longest method that is read.
const METHOD_BYTES_MAX: usize = 32;

/// Looks for the empty line that ends a head, in `bytes` from `from` on. Returns the number of bytes up to and with it.
/// A line feed without a carriage return before it is an error (400).
pub(crate) fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, u16> {
    let mut at = from;
    while let Some(offset) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let feed = at + offset;
        if feed == 0 || bytes[feed - 1] != b'\r' {
            return Err(400);
        }
        if feed >= 3 && bytes[feed - 2] == b'\n' {
            return Ok(Some(feed + 1));
        }
        at = feed + 1;
    }
    Ok(None)
}

/// Reads a head that `find_end` has delimited. The error is the status to answer.
pub(crate) fn parse(bytes: &[u8], headers_max: usize) -> Result<Head, u16> {
    let text = match std::str::from_utf8(&bytes[..bytes.len() - 4]) {
        Ok(text) => text.to_owned(),
        Err(_) => return Err(400),
    };
    let line_end = text.find("\r\n").unwrap_or(text.len());
    let (method, target, version) = parse_request_line(&text[..line_end])?;
    let headers = parse_headers(&text, line_end, headers_max)?;
    let mut head = Head {
        text,
        method,
        target,
        version,
        headers,
        framing: Framing::Length(0),
        expects_continue: false,
        keep_alive: version >= HTTPVersion(1, 1),
        upgrade: false,
        may_be_endless: false,
    };
    head.apply_headers()?;
    Ok(head)
}

/// Parses the request line of the request.
/// eg. GET / HTTP/1.1
fn parse_request_line(line: &str) -> Result<(Method, Range<usize>, HTTPVersion), u16> {
    let mut parts = line.split(' ');
    let (method, target, version) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None) => (method, target, version),
        _ => return Err(400),
    };
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.bytes().all(is_token) {
        return Err(400);
    }
    if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(400);
    }
    let start = method.len() + 1;
    let target = origin_form(target, start, method)?;
    Ok((Method::from(method), target, parse_http_version(version)?))
}

/// The part of the target from its path on: proxies may send `http://host/path`.
fn origin_form(target: &str, start: usize, method: &str) -> Result<Range<usize>, u16> {
    let end = start + target.len();
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(start..end);
    }
    let scheme = target.find("://").ok_or(400_u16)?;
    let known = target[..scheme].eq_ignore_ascii_case("http")
        || target[..scheme].eq_ignore_ascii_case("https");
    let path = target[scheme + 3..].find('/').ok_or(400_u16)?;
    if known && !target[scheme + 3..scheme + 3 + path].contains(['?', '#']) {
        Ok(start + scheme + 3 + path..end)
    } else {
        Err(400)
    }
}

/// Parses a "HTTP/1.1" string.
fn parse_http_version(version: &str) -> Result<HTTPVersion, u16> {
    match version.as_bytes() {
        b"HTTP/1.1" => Ok(HTTPVersion(1, 1)),
        b"HTTP/1.0" => Ok(HTTPVersion(1, 0)),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(505)
        }
        _ => Err(400),
    }
}

fn parse_headers(text: &str, line_end: usize, headers_max: usize) -> Result<Vec<HeaderSpan>, u16> {
    let mut headers = Vec::with_capacity(16);
    let mut start = line_end + 2;
    while start < text.len() {
        let end = text[start..]
            .find("\r\n")
            .map_or(text.len(), |offset| start + offset);
        if headers.len() == headers_max {
            return Err(431);
        }
        headers.push(parse_header(text, start, end)?);
        start = end + 2;
    }
    Ok(headers)
}

/// One line. White space before the colon, a folded line and control characters are refused.
fn parse_header(text: &str, start: usize, end: usize) -> Result<HeaderSpan, u16> {
    let line = &text[start..end];
    let colon = line.find(':').ok_or(400_u16)?;
    if colon == 0 || !line.as_bytes()[..colon].iter().copied().all(is_token) {
        return Err(400);
    }
    let value = &line[colon + 1..];
    if value
        .bytes()
        .any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
    {
        return Err(400);
    }
    let blank = |c| c == ' ' || c == '\t';
    let left = value.len() - value.trim_start_matches(blank).len();
    let length = value.trim_matches(blank).len();
    let value_start = start + colon + 1 + left;
    Ok(HeaderSpan {
        name: start..start + colon,
        value: value_start..value_start + length,
    })
}

/// The characters of a method or a header name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// True if the comma-separated list contains the word.
fn lists(value: &str, word: &str) -> bool {
    value
        .split(',')
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

#[derive(Default)]
struct Seen {
    length: Option<u64>,
    chunked: bool,
    host: bool,
    close: bool,
    stay: bool,
    upgrade: bool,
    websocket: bool,
    expects_continue: bool,
}

impl Head {
    /// Reads the headers that concern the connection and the body.
    fn apply_headers(&mut self) -> Result<(), u16> {
        let mut seen = Seen::default();
        for header in &self.headers {
            seen.note(
                &self.text[header.name.clone()],
                &self.text[header.value.clone()],
            )?;
        }
        if !seen.host && self.version >= HTTPVersion(1, 1) {
            return Err(400);
        }
        self.framing = match (seen.chunked, seen.length) {
            (true, Some(_)) => return Err(400),
            (true, None) if self.version < HTTPVersion(1, 1) => return Err(400),
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        if seen.close {
            self.keep_alive = false;
        } else if seen.stay {
            self.keep_alive = true;
        }
        self.expects_continue = seen.expects_continue && self.version >= HTTPVersion(1, 1);
        let is_recent = self.version >= HTTPVersion(1, 1);
        self.upgrade = seen.upgrade && seen.websocket && is_recent;
        if self.upgrade && self.framing != Framing::Length(0) {
            return Err(400);
        }
        let is_empty_get = self.method == Method::Get && self.framing == Framing::Length(0);
        self.may_be_endless = is_empty_get && !seen.websocket;
        Ok(())
    }
}

impl Seen {
    fn note(&mut self, name: &str, value: &str) -> Result<(), u16> {
        // The lengths keep most headers from being compared at all.
        match name.len() {
            4 if name.eq_ignore_ascii_case("Host") => {
                if self.host {
                    return Err(400);
                }
                self.host = true;
            }
            6 if name.eq_ignore_ascii_case("Expect") => {
                if !value.eq_ignore_ascii_case("100-continue") {
                    return Err(417);
                }
                self.expects_continue = true;
            }
            7 if name.eq_ignore_ascii_case("Upgrade") => {
                self.websocket |= lists(value, "websocket");
            }
            10 if name.eq_ignore_ascii_case("Connection") => {
                self.close |= lists(value, "close");
                self.stay |= lists(value, "keep-alive");
                self.upgrade |= lists(value, "upgrade");
            }
            14 if name.eq_ignore_ascii_case("Content-Length") => {
                if self.length.is_some() {
                    return Err(400);
                }
                self.length = Some(parse_length(value)?);
            }
            17 if name.eq_ignore_ascii_case("Transfer-Encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case("chunked") {
                    return Err(400);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Digits only: no sign, no list, no overflow.
fn parse_length(value: &str) -> Result<u64, u16> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(400);
    }
    value.parse().map_err(|_| 400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Head, u16> {
        let end = find_end(head.as_bytes(), 0)?.expect("the head has an end");
        assert_eq!(end, head.len());
        parse(head.as_bytes(), 100)
    }

    fn status(headers: &str) -> u16 {
        read(&format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n", headers))
            .err()
            .unwrap_or(200)
    }

    #[test]
    fn reads_a_plain_request() {
        let head = read("GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept:  */* \t\r\n\r\n").unwrap();
        assert_eq!(head.method, Method::Get);
        assert_eq!(&head.text[head.target.clone()], "/a?b=c");
        assert_eq!(head.headers.len(), 2);
        assert_eq!(&head.text[head.headers[1].value.clone()], "*/*");
        assert_eq!(head.framing, Framing::Length(0));
        assert!(head.keep_alive && !head.upgrade);
    }

    #[test]
    fn finds_the_end_in_pieces() {
        let head = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest";
        for cut in 0..24 {
            assert_eq!(find_end(&head[..cut], 0), Ok(None), "{}", cut);
        }
        assert_eq!(find_end(head, 20), Ok(Some(24)));
        assert_eq!(find_end(b"GET / HTTP/1.1\nA: b\n\n", 0), Err(400));
        assert_eq!(find_end(b"\n", 0), Err(400));
    }

    #[test]
    fn request_lines() {
        fn check(line: &str, expected: Result<&str, u16>) {
            let found = parse_request_line(line);
            let found = found.map(|(_, target, _)| line[target].to_owned());
            assert_eq!(found, expected.map(str::to_owned), "{}", line);
        }
        check("GET /hello HTTP/1.1", Ok("/hello"));
        check("GET http://host/path?q HTTP/1.1", Ok("/path?q"));
        check("OPTIONS * HTTP/1.1", Ok("*"));
        check("GET * HTTP/1.1", Err(400));
        check("GET /hello", Err(400));
        check("GET  /hello HTTP/1.1", Err(400));
        check("GET /a b HTTP/1.1", Err(400));
        check("GET / HTTP/2.0", Err(505));
        check("GET / HTTP/11", Err(400));
        check("G\u{e4}T / HTTP/1.1", Err(400));
        check("GET /\u{e4} HTTP/1.1", Err(400));
        check("CONNECT host:443 HTTP/1.1", Err(400));
        check("GET http://host?x=/ HTTP/1.1", Err(400));
        check("qsd qsd qsd", Err(400));
        check("", Err(400));
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        assert_eq!(status("Content-Length: 5\r\n"), 200);
        for headers in &[
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding : chunked\r\n",
            " Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "X: y\r\n folded: z\r\n",
            "No colon\r\n",
            ": empty\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            "Host: a\r\nHost: b\r\n",
        ] {
            assert_eq!(status(headers), 400, "{:?}", headers);
        }
        assert_eq!(status("Transfer-Encoding: Chunked \r\n"), 200);
        assert_eq!(status("Expect: something\r\n"), 417);
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old).err(), Some(400));
    }

    #[test]
    fn the_connection_header_decides_what_follows() {
        let keeps = |version: &str, connection: &str| {
            read(&format!("GET / HTTP/{}\r\nHost: a\r\n{}\r\n", version, connection))
                .unwrap()
                .keep_alive
        };
        assert!(keeps("1.1", ""));
        assert!(!keeps("1.1", "Connection: TE, Close\r\n"));
        assert!(!keeps("1.0", ""));
        assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
        let socket = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
        assert!(read(socket).unwrap().upgrade);
        let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n";
        assert!(!read(h2c).unwrap().upgrade);
        for (head, may_be_endless) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n", true),
            ("GET / HTTP/1.0\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n", false),
            ("POST / HTTP/1.1\r\nHost: a\r\n", false),
        ] {
            let head = read(&format!("{}\r\n", head)).unwrap();
            assert!(head.may_be_endless == may_be_endless && !head.upgrade);
        }
    }

    #[test]
    fn too_many_headers_are_refused() {
        assert_eq!(status(&"A: b\r\n".repeat(99)), 200);
        assert_eq!(status(&"A: b\r\n".repeat(100)), 431);
    }
}
