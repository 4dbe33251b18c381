//! A client of realtime over a WebSocket, frame by frame.

use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::Message;

use super::frames;
use super::frames::{Socket, WAIT};
use super::server::Server;

pub struct Listener {
    pub socket: Socket,
    /// Frames that arrived while the test waited for another one.
    early: Vec<Value>,
    next_ref: u64,
}

impl Listener {
    /// Connects, with a token unless that is empty, and is welcomed.
    pub fn connect(server: &Server, token: &str) -> Listener {
        Listener::to(server, "", token)
    }

    /// The same for the database whose paths begin so.
    pub fn to(server: &Server, base: &str, token: &str) -> Listener {
        let headers = match token {
            "" => vec![],
            token => vec![("Authorization", format!("Bearer {token}"))],
        };
        Listener::with(server, base, &headers)
    }

    /// The same with these headers.
    pub fn with(server: &Server, base: &str, headers: &[(&'static str, String)]) -> Listener {
        let path = format!("{base}/api/realtime");
        let mut listener = Listener {
            socket: frames::connect(server.addr(), &path, headers),
            early: Vec::new(),
            next_ref: 0,
        };
        let welcome = listener.next();
        assert_eq!(welcome, json!({"t": "welcome", "resume_ms": 300_000}));
        listener
    }

    pub fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string());
    }

    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// The next frame, or `{"close": code}`.
    pub fn next(&mut self) -> Value {
        match self.early.is_empty() {
            true => frames::read(&mut self.socket),
            false => self.early.remove(0),
        }
    }

    /// The next frame that is such; others wait.
    #[track_caller]
    pub fn find(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.early.iter().position(&is_it) {
            return self.early.remove(at);
        }
        let end = Instant::now() + WAIT;
        loop {
            let frame = frames::read(&mut self.socket);
            if is_it(&frame) {
                return frame;
            }
            assert!(frame["close"].is_null() && Instant::now() < end, "{frame}");
            self.early.push(frame);
        }
    }

    /// Sends a frame and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, mut frame: Value) -> Value {
        self.next_ref += 1;
        let reference = json!(self.next_ref);
        frame["ref"] = reference.clone();
        self.send(&frame);
        self.find(|frame| frame["ref"] == reference)
    }

    /// Subscribes to a collection under its name, with more; the answer.
    #[track_caller]
    pub fn try_subscribe(&mut self, collection: &str, more: Value) -> Value {
        let mut frame = json!({"t": "subscribe", "sub": collection, "collection": collection});
        let frame_map = frame.as_object_mut().unwrap();
        frame_map.extend(more.as_object().unwrap().clone());
        self.ask(frame)
    }

    /// The same; it must be granted. What stands for all that was before.
    #[track_caller]
    pub fn subscribe(&mut self, collection: &str, more: Value) -> String {
        let answer = self.try_subscribe(collection, more);
        assert_eq!(answer["t"], "ok", "{answer}");
        answer["last"].as_str().unwrap().to_owned()
    }

    /// The next frame, which is an event.
    #[track_caller]
    pub fn event(&mut self) -> Value {
        let frame = self.next();
        assert_eq!(frame["t"], "event", "{frame}");
        frame
    }

    /// The next frame, which is this event.
    #[track_caller]
    pub fn expect(&mut self, action: &str, id: &str) -> Value {
        let event = self.event();
        let got = (&event["action"], &event["record"]["id"]);
        assert_eq!(got, (&json!(action), &json!(id)), "{event}");
        event
    }

    /// The next frame, by which a subscription ends.
    #[track_caller]
    pub fn ended(&mut self, status: u16) -> Value {
        let frame = self.next();
        let got = (&frame["t"], &frame["status"]);
        assert_eq!(got, (&json!("ended"), &json!(status)), "{frame}");
        frame
    }

    /// Everything that has been sent to it so far has come, and it was nothing.
    #[track_caller]
    pub fn nothing(&mut self) {
        let answer = self.ask(json!({"t": "ping"}));
        assert_eq!(answer["t"], "ok", "{answer}");
        assert!(self.early.is_empty(), "{:?}", self.early);
    }
}
