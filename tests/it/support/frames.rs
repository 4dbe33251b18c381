//! Frames of JSON over a WebSocket.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderName;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

pub type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

/// Longest wait for a frame that has to come.
pub const WAIT: Duration = Duration::from_secs(20);

/// A connection; what refuses it is the error.
pub fn try_connect(
    addr: SocketAddr,
    path: &str,
    headers: &[(&'static str, String)],
) -> tungstenite::Result<Socket> {
    let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let (socket, _) = tungstenite::connect(request)?;
    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
    }
    Ok(socket)
}

pub fn connect(addr: SocketAddr, path: &str, headers: &[(&'static str, String)]) -> Socket {
    try_connect(addr, path, headers).unwrap()
}

/// The next frame, or `{"close": code}`.
pub fn read(socket: &mut Socket) -> Value {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
            Ok(Message::Close(frame)) => {
                return json!({"close": frame.map_or(0, |frame| u16::from(frame.code))});
            }
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return json!({"close": 0}),
            Err(error) => panic!("no frame: {error}"),
        }
    }
}
