//! A worker of workflows, frame by frame.

use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use tungstenite::Message;
use tungstenite::WebSocket;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::stream::MaybeTlsStream;

use super::server::Server;

/// Longest wait for a frame that has to come.
const WAIT: Duration = Duration::from_secs(20);

pub struct Worker {
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    /// What came while another frame was waited for.
    early: Vec<Value>,
    next_ref: u64,
}

/// A token for workers.
pub fn token(server: &Server) -> String {
    let admin = server.admin();
    let reply = admin
        .post("/api/auth/service-token", r#"{"name":"worker"}"#)
        .expect(200);
    reply.text("/token").to_owned()
}

impl Worker {
    /// Connects and says hello for the workflow `w`.
    pub fn connect(server: &Server, token: &str, more: Value) -> Worker {
        let mut worker = Worker::open(server, token);
        let mut hello = json!({"t": "hello", "proto": [1], "worker": "w", "instance": "1", "credit": 10,
            "workflows": [{"name": "w", "version": "1"}]});
        hello
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        worker.send(&hello);
        worker
    }

    /// Connects and says nothing.
    pub fn open(server: &Server, token: &str) -> Worker {
        let url = format!("ws://{}/api/workflow/ws", server.addr());
        let mut request = url.into_client_request().unwrap();
        let protocol = "vski.workflow.v1".parse().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("Authorization", value);
        }
        let (socket, _) = tungstenite::connect(request).unwrap();
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(WAIT)).unwrap();
            stream.set_write_timeout(Some(WAIT)).unwrap();
        }
        Worker {
            socket,
            early: Vec::new(),
            next_ref: 0,
        }
    }

    pub fn send(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).unwrap();
    }

    /// The next frame, or `{"close": code}`.
    pub fn next(&mut self) -> Value {
        match self.early.is_empty() {
            true => self.read(),
            false => self.early.remove(0),
        }
    }

    fn read(&mut self) -> Value {
        loop {
            match self.socket.read() {
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

    /// The next frame that is such; others wait.
    pub fn find(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.early.iter().position(&is_it) {
            return self.early.remove(at);
        }
        let end = Instant::now() + WAIT;
        loop {
            let frame = self.read();
            if is_it(&frame) {
                return frame;
            }
            assert!(frame["close"].is_null() && Instant::now() < end, "{frame}");
            self.early.push(frame);
        }
    }

    pub fn expect(&mut self, kind: &str) -> Value {
        self.find(|frame| frame["t"] == kind)
    }

    /// The next job, acknowledged.
    pub fn job(&mut self) -> Value {
        let job = self.expect("job");
        self.send(&about(&job, json!({"t": "ack"})));
        job
    }

    /// Says something about a job and waits for the answer.
    pub fn ask(&mut self, job: &Value, frame: Value) -> Value {
        self.next_ref += 1;
        let reference = self.next_ref;
        let mut frame = about(job, frame);
        frame["ref"] = json!(reference);
        self.send(&frame);
        self.find(|frame| {
            let is_in = |refs: &Vec<Value>| refs.contains(&json!(reference));
            frame["ref"] == reference || frame["refs"].as_array().is_some_and(is_in)
        })
    }

    /// The same; it must be done.
    pub fn done(&mut self, job: &Value, frame: Value) -> Value {
        let answer = self.ask(job, frame);
        assert!(answer["t"] == "ok" || answer["t"] == "acks", "{answer}");
        answer
    }
}

/// A frame about a job.
pub fn about(job: &Value, mut frame: Value) -> Value {
    frame["job"] = job["job"].clone();
    frame["epoch"] = job["epoch"].clone();
    frame
}
