//! Encodes a [`Response`] as the bytes of its head and body.
//!
//! Both are one buffer, sent at once, unless copying the body would cost more than a second send.
//! The encoder adds the headers that all responses have (`Date`, `X-Request-Id`,
//! `X-Content-Type-Options`, the length, and `Connection` if needed) and compresses JSON and
//! JavaScript if the client accepts that. A header value cannot end its line: control characters
//! become spaces.

use std::cell::RefCell;
use std::io::{Read, Write as _};

use super::gzip;
use super::response::Response;
use crate::base::clock;

/// Suffix of the `ETag` of a compressed response, whose bytes differ from those of the original.
pub const GZIP_SUFFIX: &str = "-gzip";

/// Media types that are compressed.
const COMPRESSIBLE: [&str; 2] = ["application/json", "text/javascript"];
/// Shorter bodies are not compressed.
const COMPRESS_BYTES_MIN: usize = 1024;

/// Capacity for the head, without the headers of the response itself.
const HEAD_BYTES: usize = 256;

/// A longer body is not appended to its head.
const JOIN_BYTES_MAX: usize = 32 << 10;

/// The properties of the request and connection that the encoding depends on.
pub struct Framing<'a> {
    /// Value of `X-Request-Id`.
    pub id: &'a str,
    pub body: BodyMode,
    pub connection: ConnectionHeader,
    /// The request's `Accept-Encoding`; empty if it has none.
    pub accept_encoding: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    Sent,
    /// The length is sent without the body, for `HEAD`.
    LengthOnly,
}

/// The value of the `Connection` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionHeader {
    /// No header: an HTTP/1.1 connection stays open.
    Omitted,
    /// `keep-alive`, for HTTP/1.0.
    KeepAlive,
    /// `close`.
    Close,
    /// `Upgrade`, with status 101.
    Upgrade,
    /// `close`, after a body that has no length.
    Endless,
}

/// The bytes to send: the head, then the body, then the stream.
pub struct Encoded {
    /// The head, including a short body.
    pub head: Vec<u8>,
    /// A long body.
    pub body: Vec<u8>,
    /// A reader and the number of bytes to send from it.
    pub stream: Option<(Box<dyn Read + Send>, u64)>,
}

pub fn encode(mut response: Response, frame: &Framing<'_>) -> Encoded {
    let compressible = is_compressible(&response);
    let mut compressed = false;
    if compressible
        && gzip::is_accepted(frame.accept_encoding)
        && let Some(body) = gzip::compress(&response.body)
    {
        response.body = body;
        compressed = true;
        mark_tag(&mut response);
    }
    let own = response
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4);
    let joined = Some(response.body.len()).filter(|length| *length <= JOIN_BYTES_MAX);
    let mut out = Vec::with_capacity(HEAD_BYTES + own.sum::<usize>() + joined.unwrap_or(0));
    status_line(&mut out, response.status);
    let mut varies = false;
    for (name, value) in &response.headers {
        if compressible && *name == "Vary" {
            header(&mut out, name, &format!("{value}, Accept-Encoding"));
            varies = true;
        } else {
            header(&mut out, name, value);
        }
    }
    header(&mut out, "X-Request-Id", frame.id);
    header(&mut out, "X-Content-Type-Options", "nosniff");
    with_date(|date| header(&mut out, "Date", date));
    if compressible && !varies {
        header(&mut out, "Vary", "Accept-Encoding");
    }
    if compressed {
        header(&mut out, "Content-Encoding", "gzip");
    }
    match frame.connection {
        ConnectionHeader::Omitted => {}
        ConnectionHeader::KeepAlive => header(&mut out, "Connection", "keep-alive"),
        ConnectionHeader::Close | ConnectionHeader::Endless => {
            header(&mut out, "Connection", "close");
        }
        ConnectionHeader::Upgrade => header(&mut out, "Connection", "Upgrade"),
    }
    let is_endless = frame.connection == ConnectionHeader::Endless;
    finish(out, response, frame.body, is_endless)
}

fn mark_tag(response: &mut Response) {
    let mut headers = response.headers.iter_mut();
    let tag = headers.find(|(name, _)| name.eq_ignore_ascii_case("ETag"));
    if let Some((_, tag)) = tag
        && tag.ends_with('"')
    {
        tag.insert_str(tag.len() - 1, GZIP_SUFFIX);
    }
}

/// Adds the length, the end of the head, and the body if the status allows one.
fn finish(mut head: Vec<u8>, response: Response, sent: BodyMode, is_endless: bool) -> Encoded {
    let mut stream = response.stream;
    let streamed = stream.as_ref().map_or(0, |(_, length)| *length);
    let mut body = response.body;
    if is_endless || matches!(response.status, 100..=199 | 204 | 304) {
        body.clear();
        stream = None;
    } else {
        let has_type = response
            .headers
            .iter()
            .any(|(name, _)| is_content_type(name));
        if !body.is_empty() && !has_type {
            header(&mut head, "Content-Type", "application/octet-stream");
        }
        let length = body.len() as u64 + streamed;
        let written = write!(head, "Content-Length: {length}\r\n");
        debug_assert!(written.is_ok(), "writing to memory does not fail");
    }
    head.extend_from_slice(b"\r\n");
    if sent == BodyMode::LengthOnly {
        body.clear();
        stream = None;
    }
    if body.len() <= JOIN_BYTES_MAX {
        head.append(&mut body);
    }
    Encoded { head, body, stream }
}

fn is_content_type(name: &str) -> bool {
    name.eq_ignore_ascii_case("Content-Type")
}

fn is_compressible(response: &Response) -> bool {
    response.body.len() > COMPRESS_BYTES_MIN
        && response.header("Content-Type").is_some_and(|it| {
            COMPRESSIBLE
                .iter()
                .any(|media_type| it.starts_with(media_type))
        })
        && response.header("Content-Encoding").is_none()
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    let written = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    for byte in &mut out[start..] {
        if byte.is_ascii_control() {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        // The reason phrase is optional.
        _ => "",
    }
}

/// Calls `use_it` with the current time as an HTTP date, which is formatted once per second and
/// thread.
fn with_date(use_it: impl FnOnce(&str)) {
    thread_local! {
        static MADE: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now_s = clock::now_ms().div_euclid(1000);
    MADE.with_borrow_mut(|(made_s, date)| {
        if *made_s != now_s {
            *made_s = now_s;
            *date = http_date(now_s);
        }
        use_it(date);
    });
}

/// Formats seconds since 1970 as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(at_s: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let stamp = clock::format_ms(at_s * 1000);
    let weekday = usize::try_from(at_s.div_euclid(86_400).rem_euclid(7)).unwrap_or(0);
    let month: usize = stamp[5..7].parse().unwrap_or(1);
    format!(
        "{}, {} {} {} {} GMT",
        DAYS[weekday],
        &stamp[8..10],
        MONTHS[month - 1],
        &stamp[0..4],
        &stamp[11..19]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(connection: ConnectionHeader) -> Framing<'static> {
        Framing {
            id: "00000001-000001",
            body: BodyMode::Sent,
            connection,
            accept_encoding: "",
        }
    }

    /// Head and body, without the date.
    fn text(response: Response, frame: &Framing<'_>) -> String {
        let encoded = encode(response, frame);
        let text = String::from_utf8([encoded.head, encoded.body].concat()).unwrap();
        let lines = text
            .split("\r\n")
            .filter(|line| !line.starts_with("Date: "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_answer_has_its_headers_and_body() {
        let response = Response::json(200, b"{}".to_vec()).with_header("ETag", "\"1\"");
        assert_eq!(
            text(response, &frame(ConnectionHeader::Omitted)),
            "HTTP/1.1 200 OK\nContent-Type: application/json\nETag: \"1\"\n\
             X-Request-Id: 00000001-000001\nX-Content-Type-Options: nosniff\n\
             Content-Length: 2\n\n{}"
        );
    }

    #[test]
    fn the_connection_header_follows_the_frame() {
        let has = |connection, line| text(Response::empty(200), &frame(connection)).contains(line);
        assert!(!has(ConnectionHeader::Omitted, "Connection"));
        assert!(has(ConnectionHeader::Close, "\nConnection: close\n"));
        assert!(has(
            ConnectionHeader::KeepAlive,
            "\nConnection: keep-alive\n"
        ));
    }

    #[test]
    fn a_long_body_is_not_copied() {
        let body = vec![b'x'; JOIN_BYTES_MAX + 1];
        let place = body.as_ptr();
        let response = Response::with_body(200, "text/plain", body);
        let encoded = encode(response, &frame(ConnectionHeader::Omitted));
        assert!(encoded.head.ends_with(b"Content-Length: 32769\r\n\r\n"));
        assert_eq!(encoded.body.as_ptr(), place);
        let response = Response::with_body(200, "text/plain", vec![b'x'; JOIN_BYTES_MAX]);
        assert!(
            encode(response, &frame(ConnectionHeader::Omitted))
                .body
                .is_empty()
        );
    }

    #[test]
    fn a_head_request_gets_the_length_only() {
        let mut frame = frame(ConnectionHeader::Omitted);
        frame.body = BodyMode::LengthOnly;
        let text = text(Response::text(200, "hello"), &frame);
        assert!(text.ends_with("Content-Length: 5\n\n"), "{text}");
    }

    #[test]
    fn some_statuses_have_no_body() {
        for status in [101, 204, 304] {
            let mut response = Response::empty(status);
            response.body = b"x".to_vec();
            let text = text(response, &frame(ConnectionHeader::Omitted));
            assert!(text.ends_with("nosniff\n\n"), "{text}");
        }
        let text = text(Response::empty(200), &frame(ConnectionHeader::Omitted));
        assert!(text.ends_with("Content-Length: 0\n\n"), "{text}");
    }

    #[test]
    fn a_value_can_not_end_its_line() {
        let response = Response::empty(302).with_header("Location", "/a\r\nSet-Cookie: b\n\0");
        let text = text(response, &frame(ConnectionHeader::Omitted));
        assert!(text.contains("\nLocation: /a  Set-Cookie: b  \n"), "{text}");
    }

    #[test]
    fn long_json_is_compressed_for_those_who_take_it() {
        let frame = Framing {
            accept_encoding: "gzip",
            ..frame(ConnectionHeader::Omitted)
        };
        let head = |response: Response| {
            let bytes = encode(response, &frame).head;
            let end = bytes
                .windows(4)
                .position(|part| part == b"\r\n\r\n")
                .unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        };
        let long = head(Response::json(200, vec![b' '; 1025]));
        assert!(long.contains("Content-Encoding: gzip") && long.contains("Vary: Accept-Encoding"));
        assert!(!head(Response::json(200, vec![b' '; 1024])).contains("gzip"));
        assert!(!head(Response::text(200, " ".repeat(2000))).contains("gzip"));
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    }
}
