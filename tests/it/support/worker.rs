//! A worker of workflows, frame by frame.

use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::Message;

use super::frames;
use super::frames::{Socket, WAIT};
use super::server::Server;

pub struct Worker {
    socket: Socket,
    /// Frames that arrived while the test waited for another one.
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
        let mut headers = vec![("Sec-WebSocket-Protocol", "vski.workflow.v1".to_owned())];
        if !token.is_empty() {
            headers.push(("Authorization", format!("Bearer {token}")));
        }
        let socket = frames::connect(server.addr(), "/api/workflow/ws", &headers);
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
        frames::read(&mut self.socket)
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
