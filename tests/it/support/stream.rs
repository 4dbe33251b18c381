//! A client of realtime over server-sent events.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::api::{Api, Reply};
use super::frames::WAIT;
use super::server::Server;

pub struct Stream {
    connection: BufReader<TcpStream>,
    /// Status line and headers.
    pub head: Vec<String>,
    base: String,
    pub client: String,
}

/// An event: its name, its data, its id.
#[derive(Debug, Default)]
pub struct Event {
    pub name: String,
    pub data: Value,
    pub id: String,
}

impl Stream {
    /// Opens a stream of the database whose paths begin so, with further header lines.
    pub fn open(server: &Server, base: &str, headers: &str) -> Stream {
        let headers = format!("Accept: text/event-stream\r\n{headers}");
        Stream::open_by(server, base, "1.1", &headers)
    }

    /// The same by a request of another version, or that accepts other things.
    pub fn open_by(server: &Server, base: &str, version: &str, headers: &str) -> Stream {
        let mut connection = TcpStream::connect(server.addr()).unwrap();
        connection.set_read_timeout(Some(WAIT)).unwrap();
        let request =
            format!("GET {base}/api/realtime HTTP/{version}\r\nHost: test\r\n{headers}\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut stream = Stream {
            connection: BufReader::new(connection),
            head: Vec::new(),
            base: base.to_owned(),
            client: String::new(),
        };
        loop {
            let line = stream.line();
            if line.is_empty() {
                break;
            }
            stream.head.push(line);
        }
        assert_eq!(stream.head[0], "HTTP/1.1 200 OK");
        let first = stream.next().unwrap();
        assert_eq!(first.name, "PB_CONNECT");
        stream.client = first.data["clientId"].as_str().unwrap().to_owned();
        // Their SDK takes it from here.
        assert_eq!(first.id, stream.client);
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.connection.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// The next event; none when the stream has ended.
    pub fn next(&mut self) -> Option<Event> {
        let (mut event, mut data) = (Event::default(), String::new());
        loop {
            let mut line = String::new();
            if self.connection.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let line = line.trim_end_matches('\n');
            match line.split_once(':') {
                _ if line.is_empty() && !event.name.is_empty() => break,
                None | Some(("", _)) => assert!(line.is_empty() || line == ":", "{line}"),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("id", id)) => id.clone_into(&mut event.id),
                Some(("data", text)) => data += text,
                Some(_) => panic!("what is {line:?}?"),
            }
        }
        event.data = serde_json::from_str(&data).unwrap();
        Some(event)
    }

    /// The next event, which has this topic and action; its record.
    #[track_caller]
    pub fn expect(&mut self, topic: &str, action: &str) -> Value {
        let event = self.next().expect("an event");
        let got = (event.name.as_str(), &event.data["action"]);
        assert_eq!(got, (topic, &json!(action)), "{event:?}");
        event.data["record"].clone()
    }

    /// Sets the topics as the caller with this token.
    pub fn set(&self, api: &Api, topics: &[&str]) -> Reply {
        let body = json!({"clientId": self.client, "subscriptions": topics});
        api.post(&format!("{}/api/realtime", self.base), body)
    }
}
