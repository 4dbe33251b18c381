//! Requests to a server, over one keep-alive connection, with plain std sockets.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A client; one request at a time.
pub struct Api {
    addr: SocketAddr,
    host: String,
    token: Option<String>,
    /// Further header lines, each with its end.
    headers: String,
    connection: RefCell<Option<BufReader<TcpStream>>>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Null when the body is not JSON.
    pub json: Value,
    /// The request, for messages.
    asked: String,
}

impl Api {
    pub fn new(addr: SocketAddr) -> Api {
        Api {
            addr,
            host: "localhost".to_owned(),
            token: None,
            headers: String::new(),
            connection: RefCell::new(None),
        }
    }

    /// The same server with this token.
    pub fn with_token(&self, token: &str) -> Api {
        Api {
            token: Some(token.to_owned()),
            ..Api::new(self.addr)
        }
    }

    /// The token that requests show; empty when there is none.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// The same server and token with another header in each request.
    pub fn with_header(&self, name: &str, value: &str) -> Api {
        Api {
            host: self.host.clone(),
            token: self.token.clone(),
            headers: format!("{}{name}: {value}\r\n", self.headers),
            ..Api::new(self.addr)
        }
    }

    /// The same with another host name in each request.
    pub fn with_host(&self, host: &str) -> Api {
        Api {
            host: host.to_owned(),
            token: self.token.clone(),
            headers: self.headers.clone(),
            ..Api::new(self.addr)
        }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "").unwrap()
    }

    pub fn post(&self, path: &str, body: impl ToString) -> Reply {
        self.send("POST", path, &body.to_string()).unwrap()
    }

    pub fn patch(&self, path: &str, body: impl ToString) -> Reply {
        self.send("PATCH", path, &body.to_string()).unwrap()
    }

    pub fn put(&self, path: &str, body: impl ToString) -> Reply {
        self.send("PUT", path, &body.to_string()).unwrap()
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, "").unwrap()
    }

    /// The list of records that match, with everything in the query percent-encoded.
    pub fn list(&self, collection: &str, query: &[(&str, &str)]) -> Reply {
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        self.get(&format!(
            "/api/collections/{collection}/records?{}",
            pairs.join("&")
        ))
    }

    /// Sends a request; an error is one of the connection.
    pub fn send(&self, method: &str, path: &str, body: &str) -> std::io::Result<Reply> {
        self.send_bytes(method, path, body.as_bytes())
    }

    /// The same with a body that need not be text.
    pub fn send_bytes(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Reply> {
        let mut slot = self.connection.borrow_mut();
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.addr)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                BufReader::new(stream)
            }
        };
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{}",
            self.host,
            body.len(),
            self.headers
        );
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        let request = [format!("{head}\r\n").as_bytes(), body].concat();
        // A refusal may come before all of it is taken.
        let sent = connection.get_mut().write_all(&request);
        let mut reply = match (read_reply(&mut connection), sent) {
            (Err(_), Err(error)) => return Err(error),
            (reply, _) => reply?,
        };
        let shown = &body[..body.len().min(500)];
        reply.asked = format!("{method} {path} {}", String::from_utf8_lossy(shown));
        if reply.header("Connection") != Some("close") {
            *slot = Some(connection);
        }
        Ok(reply)
    }
}

/// Reads one answer.
pub fn read_reply(connection: &mut BufReader<TcpStream>) -> std::io::Result<Reply> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))
        .and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body)?;
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Reply {
        status,
        headers,
        body,
        json,
        asked: String::new(),
    })
}

impl Reply {
    /// Fails the test when the status is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Reply {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}\n{}", self.asked, body);
        self
    }

    /// A text in the answer, by JSON pointer.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> &str {
        match self.json.pointer(pointer).and_then(Value::as_str) {
            Some(text) => text,
            None => panic!("no text at {pointer} in {}", self.json),
        }
    }

    /// The values of one attribute of all items of a list.
    pub fn column(&self, name: &str) -> Vec<Value> {
        let items = self.json["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(|item| item[name].clone()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Percent-encodes everything but letters and digits.
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A metric of a budget.
pub fn metric(admin: &Api, name: &str, budget: &str) -> u64 {
    let reply = admin.get("/metrics").expect(200);
    let text = String::from_utf8(reply.body).unwrap();
    let wanted = format!("{name}{{budget=\"{budget}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&wanted));
    line.unwrap().parse().unwrap()
}
