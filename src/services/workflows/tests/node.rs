//! A server without threads, sockets and clock, for tests of its answers.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::base::error::{Error, Kind, Result};
use crate::services::workflows::api_requests::{EventRequest, RunAction, WorkflowRequest};
use crate::services::workflows::codes::EventKind;
use crate::services::workflows::core::{Core, Input, Output, ProtocolSettings};
use crate::services::workflows::run_request::RunRequest;
use crate::services::workflows::sessions::WorkerGrant;
use crate::services::workflows::tests::schema::empty_database;
use crate::services::workflows::{frames, queries};

/// A server without threads; the test sets its time.
pub struct Node {
    pub db: Connection,
    pub core: Core,
    pub now: i64,
}

impl Node {
    pub fn new() -> Node {
        let db = empty_database();
        let mut n = 0;
        let random = Box::new(move || {
            n += 1;
            n
        });
        let core = Core::new(ProtocolSettings::default(), "node", random);
        let now = 1_700_000_000_000;
        Node { db, core, now }
    }

    /// Runs one round; returns the frames per session, and the answer to a request.
    pub fn round(&mut self, inputs: Vec<Input>) -> (Vec<(u64, Value)>, Option<Result<Value>>) {
        let (mut out, work) = self.core.receive(self.now, inputs);
        out.extend(self.core.tick(self.now));
        self.db.execute_batch("BEGIN").unwrap();
        out.extend(self.core.transact(&self.db, self.now, &work).unwrap());
        self.db.execute_batch("COMMIT").unwrap();
        self.core.commit();
        self.core.finish(self.now);
        let (mut sent, mut answered) = (Vec::new(), None);
        for output in out {
            match output {
                Output::Send { session, text } => {
                    sent.push((session, serde_json::from_str(&text).unwrap()));
                }
                Output::Close { session, code, .. } => sent.push((session, json!({"close": code}))),
                Output::Answer { answer, .. } => {
                    answered = Some(answer.map(|text| serde_json::from_str(&text).unwrap()));
                }
            }
        }
        (sent, answered)
    }

    pub fn execute(&mut self, request: WorkflowRequest) -> Result<Value> {
        let grant = WorkerGrant::default();
        let (_, answer) = self.round(vec![Input::Request {
            reply: 1,
            grant,
            request,
        }]);
        answer.unwrap()
    }

    pub fn trigger(&mut self, body: Value) -> Result<Value> {
        let body: RunRequest = serde_json::from_value(body).unwrap();
        self.execute(WorkflowRequest::Trigger(Box::new(body.into_run()?)))
    }

    /// Creates a run of the workflow `w`; returns its id.
    pub fn start(&mut self) -> String {
        let made = self
            .trigger(json!({"workflow": "w", "input": [1]}))
            .unwrap();
        made["runId"].as_str().unwrap().to_owned()
    }

    pub fn act(&mut self, run: &str, action: RunAction) -> Result<Value> {
        self.execute(WorkflowRequest::Apply {
            runs: vec![run.to_owned()],
            action,
            is_bulk: false,
        })
    }

    pub fn cancel(&mut self, run: &str) -> Result<Value> {
        let reason = "null".to_owned();
        self.act(run, RunAction::Cancel { reason })
    }

    /// Writes an event; returns its number, none if it changes nothing.
    pub fn event(&mut self, run: &str, kind: &str, key: &str, data: Value) -> Result<Option<i64>> {
        let (kind, _) = EventKind::ALL
            .iter()
            .find(|(_, word)| *word == kind)
            .unwrap();
        let data = (!data.is_null()).then(|| serde_json::value::to_raw_value(&data).unwrap());
        let event = EventRequest {
            kind: *kind,
            key: key.to_owned(),
            data,
        };
        let run = run.to_owned();
        let answer = self.execute(WorkflowRequest::Event { run, event })?;
        Ok(answer["eventId"].as_i64())
    }

    /// Connects a worker; returns the frames that are sent.
    pub fn connect(&mut self, session: u64, hello: Value) -> Vec<(u64, Value)> {
        let grant = Some(WorkerGrant::default());
        let opened = Input::Opened { session, grant };
        let mut frame = json!({"t": "hello", "worker": format!("worker{session}"), "credit": 10,
            "workflows": [{"name": "w", "version": "1"}]});
        frame
            .as_object_mut()
            .unwrap()
            .extend(hello.as_object().unwrap().clone());
        let hello = frame_input(session, &frame);
        self.round(vec![opened, hello]).0
    }

    /// Handles a frame of a worker; returns the frames that are sent.
    pub fn send(&mut self, session: u64, frame: Value) -> Vec<(u64, Value)> {
        self.round(vec![frame_input(session, &frame)]).0
    }

    /// Handles a frame of a worker; returns the answer alone.
    pub fn reply_to(&mut self, session: u64, mut frame: Value) -> Value {
        frame["ref"] = json!(1);
        let sent = self.send(session, frame);
        let answer = sent.into_iter().find(|(_, it)| it["ref"] == 1);
        answer.map_or(Value::Null, |(_, it)| it)
    }

    /// Advances the time in the steps of the thread.
    pub fn wait(&mut self, ms: i64) -> Vec<(u64, Value)> {
        let until = self.now + ms;
        let mut sent = Vec::new();
        while self.now < until {
            self.now = (self.now + 250).min(until);
            sent.extend(self.round(Vec::new()).0);
        }
        sent
    }

    pub fn show(&self, run: &str) -> Value {
        let json = queries::run(&self.db, &WorkerGrant::default(), run).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    pub fn types(&self, run: &str) -> Vec<String> {
        let json = queries::events(&self.db, &WorkerGrant::default(), run, 0, 1000).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        let items = json["items"].as_array().unwrap().iter();
        items
            .map(|it| it["type"].as_str().unwrap().to_owned())
            .collect()
    }

    pub fn journal(&self, run: &str) -> Vec<Value> {
        let json = queries::journal(&self.db, &WorkerGrant::default(), run, 0).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        json["journal"].as_array().unwrap().clone()
    }
}

pub fn frame_input(session: u64, frame: &Value) -> Input {
    match frames::parse_frame(&frame.to_string()) {
        Ok(frame) => Input::Frame {
            session,
            frame,
            grant: None,
        },
        Err(error) => Input::BadFrame { session, error },
    }
}

pub fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    result.map_err(|error: Error| error.kind()).unwrap_err()
}

/// The first job that was dispatched among the frames.
pub fn job(sent: &[(u64, Value)]) -> (u64, Value) {
    let found = sent.iter().find(|(_, frame)| frame["t"] == "job");
    found
        .unwrap_or_else(|| panic!("no job in {sent:?}"))
        .clone()
}

pub fn about(job: &Value, mut frame: Value) -> Value {
    frame["job"] = job["job"].clone();
    frame["epoch"] = job["epoch"].clone();
    frame
}
