//! The WebSocket handshake of RFC 6455, section 4.2.

use serde_json::json;

use super::answer::json_response;
use super::call::Call;
use crate::base::budget::Payer;
use crate::base::crypto;
use crate::base::error::{Error, Result};
use crate::net::http::{Method, Request, Response};
use crate::net::sockets;
use crate::net::sockets::{Hub, SocketHandler};

/// The version of the protocol in RFC 6455; there is no other.
const VERSION: &str = "13";
/// Length of the key of a handshake, decoded.
const KEY_BYTES: usize = 16;

/// Answers a handshake and makes the connection a socket of `peer`. If that fails, `peer` is
/// dropped without having been called.
pub fn upgrade(call: &Call<'_>, payer: Payer, peer: Box<dyn SocketHandler>) -> Result<Response> {
    answer(call.request, &call.app.sockets, payer, peer)
}

fn answer(
    request: &Request,
    hub: &Hub,
    payer: Payer,
    peer: Box<dyn SocketHandler>,
) -> Result<Response> {
    check_handshake(request)?;
    if !header_lists(request, "Sec-WebSocket-Version", VERSION) {
        return Ok(other_version());
    }
    let key = key(request)?;
    let permit = hub.reserve(payer)?;
    let headers = vec![
        ("Upgrade", "websocket".to_owned()),
        ("Sec-WebSocket-Accept", sockets::accept_key(key)),
    ];
    Ok(Response::switch_protocols(
        headers,
        Box::new(move |socket| permit.register(socket.stream, socket.early, peer)),
    ))
}

/// Refuses a request that is not a handshake.
pub fn check_handshake(request: &Request) -> Result<()> {
    let is_wish = request.method == Method::Get
        && header_lists(request, "Connection", "upgrade")
        && header_lists(request, "Upgrade", "websocket");
    if is_wish {
        return Ok(());
    }
    Err(Error::invalid(
        "This path accepts only WebSocket handshakes: GET with Connection: Upgrade and Upgrade: websocket.",
    ))
}

fn key(request: &Request) -> Result<&str> {
    let mut keys = values(request, "Sec-WebSocket-Key");
    let key = keys.next().filter(|_| keys.next().is_none());
    let key = key
        .map(str::trim)
        .filter(|key| crypto::from_base64(key).is_some_and(|bytes| bytes.len() == KEY_BYTES));
    key.ok_or_else(|| Error::invalid("Sec-WebSocket-Key must be 16 bytes in base64."))
}

fn other_version() -> Response {
    let body = json!({
        "status": 426,
        "message": format!("The server supports only version {VERSION} of the WebSocket protocol."),
        "data": {},
    });
    json_response(426, &body)
        .with_header("Connection", "Upgrade")
        .with_header("Upgrade", "websocket")
        .with_header("Sec-WebSocket-Version", VERSION)
}

/// True if a header, which may have several lines, contains this value.
pub fn header_lists(request: &Request, header: &str, wanted: &str) -> bool {
    values(request, header)
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

fn values<'a>(request: &'a Request, header: &str) -> impl Iterator<Item = &'a str> {
    request
        .headers
        .iter()
        .filter(move |(name, _)| name.eq_ignore_ascii_case(header))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, mpsc};
    use std::time::{Duration, Instant};

    use crate::base::budget::{Budgets, Network};
    use crate::net::http::server::Server;
    use crate::net::http::{InMemory, server};
    use crate::net::sockets::{Flow, HubSettings, SocketHandle};

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// Echoes messages. The channel closes when this is dropped.
    struct Echo(
        Option<SocketHandle>,
        #[expect(dead_code, reason = "dropped with it")] mpsc::Sender<()>,
    );

    impl SocketHandler for Echo {
        fn opened(&mut self, link: SocketHandle) {
            self.0 = Some(link);
        }

        fn received(&mut self, text: &str) -> Flow {
            self.0.as_ref().unwrap().send(text.into());
            Flow::Continue
        }

        fn closed(&mut self) {}
    }

    fn start(sockets_max: usize) -> (Server, Arc<Hub>, mpsc::Receiver<()>) {
        // One network may have half of them.
        let budgets = Budgets::new(2 * sockets_max, 64, 1);
        let hub = Hub::start(
            HubSettings::default(),
            &budgets.sockets,
            &budgets.send_queues,
        );
        let hub = Arc::new(hub.unwrap());
        let (alive, ended) = mpsc::channel();
        let handler = {
            let hub = Arc::clone(&hub);
            Arc::new(move |request: Request| {
                let peer = Box::new(Echo(None, alive.clone()));
                answer(&request, &hub, payer(&request), peer)
                    .unwrap_or_else(|error| crate::api::answer::error_response(&error))
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = server::ServerSettings::default();
        let server = Server::start(listener, &settings, &InMemory::policy(), handler).unwrap();
        (server, hub, ended)
    }

    fn payer(request: &Request) -> Payer {
        Payer {
            network: Network::of(request.peer.ip()),
            has_credentials: true,
        }
    }

    fn stop(server: &Server, hub: &Hub) {
        assert_eq!(server.stop(Duration::from_secs(5)).in_flight_left, 0);
        assert!(hub.stop(Instant::now() + Duration::from_secs(5)));
        assert_eq!(hub.counters().open, 0);
    }

    #[test]
    fn a_client_shakes_hands_and_talks_at_once() {
        let (server, hub, ended) = start(1);
        let stream = TcpStream::connect(server.local_addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let url = format!("ws://{}/socket", server.local_addr());
        let (mut client, response) = tungstenite::client(&url, stream).unwrap();
        assert_eq!(response.status(), 101);
        for text in ["", "hello"] {
            client.send(text.into()).unwrap();
            assert_eq!(client.read().unwrap().into_text().unwrap().as_str(), text);
        }
        let again = tungstenite::client(&url, TcpStream::connect(server.local_addr()).unwrap());
        let refused = again.unwrap_err().to_string();
        assert!(refused.contains("429"), "{refused}");
        client.close(None).unwrap();
        while client.read().is_ok() {}
        stop(&server, &hub);
        drop((server, hub));
        assert!(ended.recv().is_err());
    }

    #[test]
    fn frames_right_behind_the_handshake_are_answered() {
        let (server, hub, _) = start(10);
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let head = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nconnection: keep-alive, UPGRADE\r\nupgrade: WebSocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n"
        );
        let frames = b"\x81\x82\0\0\0\0hi";
        stream
            .write_all(&[head.as_bytes(), frames].concat())
            .unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"\x81\x02hi") {
            let mut piece = [0; 512];
            let size = stream.read(&mut piece).unwrap();
            assert!(size > 0, "{said:?}");
            said.extend(&piece[..size]);
        }
        let head_ends = said.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&said[..head_ends]);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let accept = "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        assert!(head.contains(accept), "{head}");
        assert_eq!(&said[head_ends..], b"\x81\x02hi");
        drop(stream);
        stop(&server, &hub);
    }

    #[test]
    fn what_is_no_handshake_is_refused_and_takes_no_place() {
        let (server, hub, _) = start(1);
        let right = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        for (at, value, status) in [
            (0, "keep-alive", 400),
            (1, "h2c", 400),
            (2, "8", 426),
            (2, "", 426),
            (3, "", 400),
            (3, "c2hvcnQ=", 400),
            (3, "not base64 but twenty-4!", 400),
            (3, "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", 400),
        ] {
            let mut headers = right;
            headers[at].1 = value;
            let lines = headers
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .concat();
            let mut stream = TcpStream::connect(server.local_addr()).unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut said = [0; 4096];
            let size = stream.read(&mut said).unwrap();
            let said = String::from_utf8_lossy(&said[..size]);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
            for line in [
                "Sec-WebSocket-Version: 13",
                "Upgrade: websocket",
                "Connection: Upgrade",
            ] {
                let line = format!("\r\n{line}\r\n");
                assert_eq!(said.contains(&line), status == 426, "{said}");
            }
        }
        assert_eq!(hub.counters().open, 0);
        stop(&server, &hub);
    }
}
