//! Each rule of the model, tried: what is done, what is refused and how.

use rusqlite::Connection;
use serde_json::Value;
use serde_json::json;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::workflows::codes::EventKind;
use crate::workflows::core::Core;
use crate::workflows::core::Input;
use crate::workflows::core::Output;
use crate::workflows::core::Settings;
use crate::workflows::frames;
use crate::workflows::look;
use crate::workflows::request::RunRequest;
use crate::workflows::requests::Action;
use crate::workflows::requests::EventRequest;
use crate::workflows::requests::Request;
use crate::workflows::sessions::Grant;

/// A server without threads, at a time that the test sets.
struct Node {
    db: Connection,
    core: Core,
    now: i64,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "a database of its own")]
    fn new() -> Node {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("../db/workflows.sql"))
            .unwrap();
        let mut n = 0;
        let random = Box::new(move || {
            n += 1;
            n
        });
        let core = Core::new(Settings::default(), "node", random);
        let now = 1_700_000_000_000;
        Node { db, core, now }
    }

    /// One round; what was sent to whom, and the answer to a request.
    fn round(&mut self, inputs: Vec<Input>) -> (Vec<(u64, Value)>, Option<Result<Value>>) {
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

    fn ask(&mut self, request: Request) -> Result<Value> {
        let grant = Grant::default();
        let (_, answer) = self.round(vec![Input::Request {
            ticket: 1,
            grant,
            request,
        }]);
        answer.unwrap()
    }

    fn trigger(&mut self, wish: Value) -> Result<Value> {
        let wish: RunRequest = serde_json::from_value(wish).unwrap();
        self.ask(Request::Trigger(Box::new(wish.into_run()?)))
    }

    /// A run of the workflow `w`, by its id.
    fn start(&mut self) -> String {
        let made = self
            .trigger(json!({"workflow": "w", "input": [1]}))
            .unwrap();
        made["runId"].as_str().unwrap().to_owned()
    }

    fn act(&mut self, run: &str, action: Action) -> Result<Value> {
        self.ask(Request::Act {
            runs: vec![run.to_owned()],
            action,
            is_bulk: false,
        })
    }

    fn cancel(&mut self, run: &str) -> Result<Value> {
        let reason = "null".to_owned();
        self.act(run, Action::Cancel { reason })
    }

    /// Writes an event; its number, none when it was so already.
    fn event(&mut self, run: &str, kind: &str, key: &str, data: Value) -> Result<Option<i64>> {
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
        let answer = self.ask(Request::Event { run, event })?;
        Ok(answer["eventId"].as_i64())
    }

    /// A worker connects; returns what it is told.
    fn connect(&mut self, session: u64, hello: Value) -> Vec<(u64, Value)> {
        let grant = Some(Grant::default());
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

    /// A worker says something; returns what it is answered, and what else it is sent.
    fn say(&mut self, session: u64, frame: Value) -> Vec<(u64, Value)> {
        self.round(vec![frame_input(session, &frame)]).0
    }

    /// The answer alone.
    fn said(&mut self, session: u64, mut frame: Value) -> Value {
        frame["ref"] = json!(1);
        let sent = self.say(session, frame);
        let answer = sent.into_iter().find(|(_, it)| it["ref"] == 1);
        answer.map_or(Value::Null, |(_, it)| it)
    }

    /// Lets time pass, in steps as the thread does.
    fn wait(&mut self, ms: i64) -> Vec<(u64, Value)> {
        let until = self.now + ms;
        let mut sent = Vec::new();
        while self.now < until {
            self.now = (self.now + 250).min(until);
            sent.extend(self.round(Vec::new()).0);
        }
        sent
    }

    fn look(&self, run: &str) -> Value {
        let json = look::run(&self.db, &Grant::default(), run).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    fn types(&self, run: &str) -> Vec<String> {
        let json = look::events(&self.db, &Grant::default(), run, 0, 1000).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        let items = json["items"].as_array().unwrap().iter();
        items
            .map(|it| it["type"].as_str().unwrap().to_owned())
            .collect()
    }

    fn journal(&self, run: &str) -> Vec<Value> {
        let json = look::journal(&self.db, &Grant::default(), run, 0).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        json["journal"].as_array().unwrap().clone()
    }
}

fn frame_input(session: u64, frame: &Value) -> Input {
    match frames::read(&frame.to_string()) {
        Ok(frame) => Input::Frame {
            session,
            frame,
            grant: None,
        },
        Err(what) => Input::Garbled { session, what },
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    result.map_err(|error: Error| error.kind()).unwrap_err()
}

/// The first job that was handed out among what was sent.
fn job(sent: &[(u64, Value)]) -> (u64, Value) {
    let found = sent.iter().find(|(_, frame)| frame["t"] == "job");
    found
        .unwrap_or_else(|| panic!("no job in {sent:?}"))
        .clone()
}

fn about(job: &Value, mut frame: Value) -> Value {
    frame["job"] = job["job"].clone();
    frame["epoch"] = job["epoch"].clone();
    frame
}

#[test]
fn the_same_idempotency_key_is_the_first_run_and_nothing_is_made() {
    let mut node = Node::new();
    let wish = json!({"workflow": "w", "input": 1, "idempotencyKey": "k"});
    let first = node.trigger(wish.clone()).unwrap();
    let again = node.trigger(wish).unwrap();
    assert_eq!(
        (&first["isNew"], &again["isNew"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(first["runId"], again["runId"]);
    let other = json!({"workflow": "v", "input": 1, "idempotencyKey": "k"});
    assert_ne!(node.trigger(other).unwrap()["runId"], first["runId"]);
    let run = first["runId"].as_str().unwrap().to_owned();
    assert_eq!(
        kind(node.event(&run, "run_created", "", Value::Null)),
        Kind::Conflict
    );
}

#[test]
fn a_run_is_started_once_and_ends_once() {
    let mut node = Node::new();
    let run = node.start();
    assert_eq!(
        node.event(&run, "run_started", "", Value::Null).unwrap(),
        Some(2)
    );
    assert_eq!(
        node.event(&run, "run_started", "", Value::Null).unwrap(),
        None
    );
    assert_eq!(
        node.event(&run, "run_completed", "", json!("out")).unwrap(),
        Some(3)
    );
    assert_eq!(
        kind(node.event(&run, "run_started", "", Value::Null)),
        Kind::Gone
    );
    for end in ["run_completed", "run_failed", "run_cancelled"] {
        assert_eq!(
            kind(node.event(&run, end, "", Value::Null)),
            Kind::Conflict,
            "{end}"
        );
    }
    for made in ["step_created", "hook_created", "wait_created"] {
        assert_eq!(
            kind(node.event(&run, made, "k#0", json!(1))),
            Kind::Conflict,
            "{made}"
        );
    }
    assert_eq!(kind(node.cancel(&run)), Kind::Conflict);
    assert_eq!(node.look(&run)["output"], "out");
    let other = node.start();
    assert_eq!(node.cancel(&other).unwrap()["status"], "cancelled");
    assert_eq!(node.cancel(&other).unwrap()["status"], "cancelled");
    assert_eq!(
        node.event(&other, "run_cancelled", "", Value::Null)
            .unwrap(),
        None
    );
    assert_eq!(node.types(&other), ["run_created", "run_cancelled"]);
}

#[test]
fn what_is_made_twice_is_made_once() {
    let mut node = Node::new();
    let run = node.start();
    for (made, data) in [
        ("step_created", json!("input")),
        ("hook_created", json!({"token": "t"})),
        ("wait_created", json!(node.now + 1000)),
    ] {
        node.event(&run, made, "k#0", data.clone()).unwrap();
        assert_eq!(
            kind(node.event(&run, made, "k#0", data)),
            Kind::Conflict,
            "{made}"
        );
        let count = node.types(&run).iter().filter(|it| *it == made).count();
        assert_eq!(count, 1, "{made}");
    }
}

#[test]
fn steps_go_from_begun_to_one_result() {
    let mut node = Node::new();
    let run = node.start();
    // Unknown without input; with input it is made.
    assert_eq!(
        kind(node.event(&run, "step_started", "s#0", Value::Null)),
        Kind::NotFound
    );
    assert_eq!(
        kind(node.event(&run, "step_completed", "s#0", json!(1))),
        Kind::NotFound
    );
    node.event(&run, "step_started", "s#0", json!("input"))
        .unwrap();
    node.event(&run, "step_retrying", "s#0", json!({"message": "no"}))
        .unwrap();
    assert_eq!(
        kind(node.event(&run, "step_started", "s#0", json!(1))),
        Kind::TooEarly
    );
    node.now += 2_000;
    node.event(&run, "step_started", "s#0", json!(1)).unwrap();
    node.event(&run, "step_completed", "s#0", json!({"a": [1]}))
        .unwrap();
    assert_eq!(
        node.event(&run, "step_completed", "s#0", json!({"a": [1]}))
            .unwrap(),
        None
    );
    for (late, data) in [
        ("step_completed", json!(2)),
        ("step_failed", json!(2)),
        ("step_retrying", json!(2)),
        ("step_started", json!(2)),
    ] {
        assert_eq!(
            kind(node.event(&run, late, "s#0", data)),
            Kind::Conflict,
            "{late}"
        );
    }
    let steps = look::steps(&node.db, &Grant::default(), &run).unwrap();
    let steps: Value = serde_json::from_str(&steps).unwrap();
    let step = &steps["items"][0];
    assert_eq!(
        (&step["attempt"], &step["status"]),
        (&json!(2), &json!("completed"))
    );
    assert!(
        step["retryAfter"].is_null() && step["startedAt"] != step["completedAt"],
        "{step}"
    );
}

#[test]
fn hooks_take_payloads_in_order_until_they_are_disposed_of() {
    let mut node = Node::new();
    let (run, other) = (node.start(), node.start());
    let deliver = |node: &mut Node, payload: i64| {
        node.ask(Request::Hook {
            token: "t".to_owned(),
            payload: payload.to_string(),
        })
    };
    assert_eq!(kind(deliver(&mut node, 0)), Kind::NotFound);
    assert_eq!(
        kind(node.event(&run, "hook_received", "h#0", json!(1))),
        Kind::NotFound
    );
    assert_eq!(
        kind(node.event(&run, "hook_disposed", "h#0", Value::Null)),
        Kind::NotFound
    );
    node.event(&run, "hook_created", "h#0", json!({"token": "t"}))
        .unwrap();
    // The token is taken: that is written, and no hook is made.
    node.event(&other, "hook_created", "h#0", json!({"token": "t"}))
        .unwrap();
    assert_eq!(node.types(&other).last().unwrap(), "hook_conflict");
    for payload in 0..3 {
        assert_eq!(deliver(&mut node, payload).unwrap()["runId"], run);
    }
    node.event(&run, "hook_disposed", "h#0", Value::Null)
        .unwrap();
    assert_eq!(kind(deliver(&mut node, 9)), Kind::NotFound);
    assert_eq!(
        kind(node.event(&run, "hook_received", "h#0", json!(1))),
        Kind::NotFound
    );
    let payloads = node.journal(&run);
    let payloads: Vec<&Value> = payloads
        .iter()
        .filter(|it| it["kind"] == "payload")
        .map(|it| &it["ok"])
        .collect();
    assert_eq!(payloads, [0, 1, 2]);
    // The token is free again.
    node.event(&other, "hook_created", "h#1", json!({"token": "t"}))
        .unwrap();
    assert_eq!(deliver(&mut node, 3).unwrap()["runId"], other);
    // And again with the end of the run.
    node.cancel(&other).unwrap();
    assert_eq!(kind(deliver(&mut node, 4)), Kind::NotFound);
    assert_eq!(
        kind(node.event(&other, "hook_received", "h#1", json!(1))),
        Kind::NotFound
    );
}

#[test]
fn waits_end_once() {
    let mut node = Node::new();
    let run = node.start();
    assert_eq!(
        kind(node.event(&run, "wait_completed", "w#0", Value::Null)),
        Kind::NotFound
    );
    node.event(&run, "wait_created", "w#0", json!(node.now + 1000))
        .unwrap();
    node.event(&run, "wait_completed", "w#0", Value::Null)
        .unwrap();
    assert_eq!(
        kind(node.event(&run, "wait_completed", "w#0", Value::Null)),
        Kind::Conflict
    );
}

#[test]
fn only_the_latest_epoch_writes_and_what_is_recorded_is_answered_as_it_was() {
    let mut node = Node::new();
    let run = node.start();
    let (_, old) = job(&node.connect(1, json!({})));
    node.say(1, about(&old, json!({"t": "ack"})));
    let step = json!({"t": "step", "key": "s#0", "ok": "once"});
    assert_eq!(node.said(1, about(&old, step.clone()))["t"], "ok");
    // Nothing is heard of it; another one gets the run.
    node.connect(2, json!({}));
    let sent = node.wait(31_000);
    let (session, new) = job(&sent);
    assert_eq!((session, &new["epoch"]), (2, &json!(2)));
    assert_eq!(new["journal"][0]["ok"], "once");
    assert!(
        sent.contains(&(1, json!({"t": "revoke", "job": run, "epoch": 1})))
            || sent.contains(&(1, json!({"close": 4408})))
    );
    node.connect(3, json!({"worker": "worker1", "credit": 0}));
    assert_eq!(node.said(3, about(&old, step))["t"], "ok");
    for late in [
        json!({"t": "step", "key": "s#0", "ok": "other"}),
        json!({"t": "step", "key": "s#1", "ok": 1}),
        json!({"t": "step_begin", "key": "s#1"}),
        json!({"t": "park", "seen": 0, "on": [{"sleep": "z#0", "ms": 1}]}),
        json!({"t": "call", "op": "set_attr", "key": "a#0", "attributes": {"a": 1}}),
        json!({"t": "done", "output": 1}),
        json!({"t": "fail", "err": {"kind": "fatal"}}),
        json!({"t": "nack", "reason": "busy"}),
    ] {
        let answer = node.said(3, about(&old, late.clone()));
        let code = answer["code"].as_str().unwrap();
        assert!(
            code == "lost_lease" || late["ok"] == "other",
            "{late} {answer}"
        );
        assert_eq!(answer["t"], "no", "{late} {answer}");
    }
    node.say(2, about(&new, json!({"t": "ack"})));
    assert_eq!(
        node.said(2, about(&new, json!({"t": "done", "output": "end"})))["t"],
        "ok"
    );
    assert_eq!(
        node.said(2, about(&new, json!({"t": "done", "output": "end"})))["t"],
        "ok"
    );
    assert_eq!(
        node.said(2, about(&new, json!({"t": "done", "output": "x"})))["code"],
        "lost_lease"
    );
    assert_eq!(node.look(&run)["output"], "end");
}

#[test]
fn what_users_give_is_kept_to_the_byte() {
    let mut node = Node::new();
    let odd = "{ \"a\\u0000b\" : [1e300, -0, \"\\ud83d\\ude00\", 12345678901234567890123] }";
    let wish: RunRequest =
        serde_json::from_str(&format!("{{\"workflow\":\"w\",\"input\":{odd}}}")).unwrap();
    let made = node
        .ask(Request::Trigger(Box::new(wish.into_run().unwrap())))
        .unwrap();
    let run = made["runId"].as_str().unwrap();
    assert_eq!(look::input(&node.db, &Grant::default(), run).unwrap(), odd);
    let (_, handed) = job(&node.connect(1, json!({"credit": 1})));
    assert_eq!(handed["job"], run);
    for value in ["null", "false", "\"\\u0000\"", odd] {
        let key = format!("s{}#0", value.len());
        let frame = format!(
            "{{\"t\":\"step\",\"ref\":1,\"job\":{},\"epoch\":1,\"key\":\"{key}\",\"ok\":{value}}}",
            handed["job"]
        );
        let frame = frames::read(&frame).unwrap();
        node.round(vec![Input::Frame {
            session: 1,
            frame,
            grant: None,
        }]);
        let sql = "SELECT data FROM events WHERE key = ?1";
        let stored: String = node.db.query_row(sql, [&key], |row| row.get(0)).unwrap();
        assert_eq!(stored, value);
    }
}

#[test]
fn errors_are_tried_again_later_and_not_for_ever() {
    let mut node = Node::new();
    let run = node.start();
    let (_, job) = job(&node.connect(1, json!({})));
    let fails = |attempt: i64| json!({"t": "step", "key": "s#0", "err": {"message": "no"}, "attempt": attempt});
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        let answer = node.said(1, about(&job, fails(attempt)));
        assert_eq!(answer["attempt"], attempt + 1, "{answer}");
        pauses.push(answer["retry_ms"].as_i64().unwrap());
        // Said again it is not another failure.
        let again = node.said(1, about(&job, fails(attempt)));
        assert_eq!(again["attempt"], attempt + 1, "{again}");
        let begin = json!({"t": "step_begin", "key": "s#0"});
        assert_eq!(node.said(1, about(&job, begin))["code"], "too_early");
    }
    assert!(
        pauses[0] >= 1000 && pauses[1] >= 2000 && pauses[2] >= 4000,
        "{pauses:?}"
    );
    assert!(pauses[2] <= 5000, "{pauses:?}");
    assert_eq!(node.said(1, about(&job, fails(4)))["failed"], true);
    let fatal = json!({"t": "step", "key": "s#1", "err": {"kind": "fatal", "message": "no"}});
    assert_eq!(node.said(1, about(&job, fatal))["failed"], true);
    let later = json!({"t": "step", "key": "s#2", "err": {"retry_after_ms": 77}, "retries": 9});
    assert_eq!(node.said(1, about(&job, later))["retry_ms"], 77);
    assert_eq!(node.look(&run)["status"], "running");
}

#[test]
fn a_failed_run_goes_on_where_it_stopped() {
    let mut node = Node::new();
    let run = node.start();
    let (_, first) = job(&node.connect(1, json!({})));
    for frame in [
        json!({"t": "ack"}),
        json!({"t": "step", "key": "good#0", "ok": 1}),
        json!({"t": "step", "key": "bad#0", "err": {"kind": "fatal"}}),
        json!({"t": "call", "op": "hook_create", "key": "h#0", "token": "t"}),
        json!({"t": "fail", "err": {"kind": "fatal", "message": "bug"}}),
    ] {
        node.say(1, about(&first, frame));
    }
    assert_eq!(node.look(&run)["error"]["message"], "bug");
    let sent = node.round(vec![Input::Request {
        ticket: 1,
        grant: Grant::default(),
        request: Request::Act {
            runs: vec![run.clone()],
            action: Action::Resume { version: None },
            is_bulk: false,
        },
    }]);
    let (_, again) = job(&sent.0);
    assert!(again["epoch"].as_i64() > first["epoch"].as_i64());
    let keys: Vec<&str> = again["journal"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["good#0", "h#0"]);
    assert_eq!(
        node.said(
            1,
            about(&again, json!({"t": "step", "key": "bad#0", "ok": 2}))
        )["t"],
        "ok"
    );
    let hook = Request::Hook {
        token: "t".to_owned(),
        payload: "5".to_owned(),
    };
    node.ask(hook).unwrap();
    assert_eq!(
        node.said(1, about(&again, json!({"t": "done", "output": 3})))["t"],
        "ok"
    );
    assert_eq!(node.look(&run)["output"], 3);
    assert_eq!(
        kind(node.act(&run, Action::Resume { version: None })),
        Kind::Conflict
    );
    // A copy has what was recorded before a step.
    let from = Some("h#0".to_owned());
    let fork = node
        .act(
            &run,
            Action::Fork {
                from,
                version: None,
            },
        )
        .unwrap();
    let fork = fork["runId"].as_str().unwrap();
    let journal = node.journal(fork);
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!(journal[0]["key"], "good#0");
}

#[test]
fn a_run_keeps_its_version_and_waits_for_it() {
    let mut node = Node::new();
    let run = node.start();
    let (_, first) = job(&node.connect(1, json!({})));
    assert_eq!(first["version"], "1");
    node.say(1, about(&first, json!({"t": "ack"})));
    node.say(1, json!({"t": "bye"}));
    let newer = json!({"workflows": [{"name": "w", "version": "2"}]});
    assert!(
        node.connect(2, newer)
            .iter()
            .all(|(_, it)| it["t"] != "job")
    );
    assert!(node.wait(60_000).iter().all(|(_, it)| it["t"] != "job"));
    assert_eq!(node.look(&run)["state"], "ready");
    assert!(!node.core.is_served("w", "1"));
    let (session, _) = job(&node.connect(3, json!({})));
    assert_eq!(session, 3);
    // Or it is moved to the new one.
    node.say(3, json!({"t": "bye"}));
    node.wait(1_000);
    let request = Request::Act {
        runs: vec![run.clone()],
        action: Action::Resume {
            version: Some("2".to_owned()),
        },
        is_bulk: false,
    };
    let (sent, _) = node.round(vec![Input::Request {
        ticket: 1,
        grant: Grant::default(),
        request,
    }]);
    assert_eq!(job(&sent).0, 2);
}

#[test]
fn a_cancelled_run_takes_its_children_along_and_its_worker_is_told() {
    let mut node = Node::new();
    let run = node.start();
    let (_, parent) = job(&node.connect(1, json!({})));
    node.say(1, about(&parent, json!({"t": "ack"})));
    let call = json!({"t": "call", "op": "trigger", "key": "c#0", "workflow": "w", "input": 1});
    let child = node.said(1, about(&parent, call.clone()))["run"].clone();
    assert_eq!(node.said(1, about(&parent, call))["run"], child);
    let request = Request::Act {
        runs: vec![run.clone()],
        action: Action::Cancel {
            reason: "\"why\"".to_owned(),
        },
        is_bulk: false,
    };
    let (sent, _) = node.round(vec![Input::Request {
        ticket: 1,
        grant: Grant::default(),
        request,
    }]);
    assert!(
        sent.iter()
            .any(|(_, it)| it["t"] == "cancel" && it["job"] == *run),
        "{sent:?}"
    );
    let report = json!({"t": "step", "key": "s#0", "ok": 1});
    assert_eq!(node.said(1, about(&parent, report))["code"], "cancelled");
    node.wait(1_000);
    assert_eq!(node.look(child.as_str().unwrap())["status"], "cancelled");
    let stop = json!({"t": "fail", "err": {"kind": "cancelled"}});
    assert_eq!(node.said(1, about(&parent, stop))["t"], "ok");
    assert_eq!(node.look(&run)["reason"], "why");
}

#[test]
fn jobs_that_are_not_acknowledged_are_taken_back_and_counted_only_when_their_code_ran() {
    let mut node = Node::new();
    let run = node.start();
    job(&node.connect(1, json!({})));
    let sent = node.wait(6_000);
    assert!(sent.iter().any(|(_, it)| it["t"] == "revoke"), "{sent:?}");
    // It does not get it again before it is heard of.
    assert_eq!(node.look(&run)["state"], "ready");
    let (_, again) = job(&node.say(1, json!({"t": "hb", "jobs": []})));
    assert_eq!((&again["epoch"], &again["attempt"]), (&json!(2), &json!(1)));
    node.say(1, about(&again, json!({"t": "ack"})));
    node.say(1, json!({"t": "bye"}));
    node.wait(1_000);
    let (_, third) = job(&node.connect(2, json!({})));
    assert_eq!(third["attempt"], 2);
}

#[test]
fn a_run_that_kills_its_workers_is_given_up() {
    let mut node = Node::new();
    let run = node.start();
    for session in 1..=25 {
        let mut sent = node.connect(session, json!({"instance": session.to_string()}));
        for _ in 0..40 {
            if !sent.iter().any(|(_, it)| it["t"] == "job") {
                sent = node.wait(1_000);
            }
        }
        let Some((_, frame)) = sent.iter().find(|(_, it)| it["t"] == "job") else {
            break;
        };
        node.say(session, about(frame, json!({"t": "ack"})));
        node.round(vec![Input::Closed { session }]);
        node.wait(16_000);
    }
    assert_eq!(node.look(&run)["error"]["kind"], "abandoned");
    assert_eq!(
        look::abandoned(&node.db, &Grant::default()).unwrap().len(),
        1
    );
}

#[test]
fn a_token_for_some_workflows_opens_these_only() {
    let mut node = Node::new();
    let run = node.start();
    let names = std::collections::BTreeSet::from(["v".to_owned()]);
    let grant = Grant {
        workflows: Some(names.into()),
        expires_ms: None,
    };
    let session = 1;
    let opened = Input::Opened {
        session,
        grant: Some(grant.clone()),
    };
    let hello = json!({"t": "hello", "worker": "a", "credit": 1, "workflows": [{"name": "w"}]});
    let (sent, _) = node.round(vec![opened, frame_input(1, &hello)]);
    assert_eq!(sent, [(1, json!({"close": 4403}))]);
    let request = |action| Request::Act {
        runs: vec![run.clone()],
        action,
        is_bulk: false,
    };
    let cancel = request(Action::Cancel {
        reason: "null".to_owned(),
    });
    let input = Input::Request {
        ticket: 1,
        grant: grant.clone(),
        request: cancel,
    };
    assert_eq!(kind(node.round(vec![input]).1.unwrap()), Kind::NotFound);
    assert_eq!(kind(look::run(&node.db, &grant, &run)), Kind::NotFound);
    assert!(
        look::ids(&node.db, &grant, &look::Filter::default(), 9)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn tokens_end_and_silence_and_wrong_frames_close() {
    let mut node = Node::new();
    let expires_ms = Some(node.now + 90_000);
    let grant = Some(Grant {
        workflows: None,
        expires_ms,
    });
    let hello = json!({"t": "hello", "worker": "a", "credit": 1, "workflows": []});
    node.round(vec![
        Input::Opened { session: 1, grant },
        frame_input(1, &hello),
    ]);
    let sent = node.wait(60_000);
    assert!(
        sent.iter().any(|(_, it)| it["t"] == "auth_expiring"),
        "{sent:?}"
    );
    assert!(node.wait(60_000).contains(&(1, json!({"close": 4401}))));
    node.round(vec![Input::Opened {
        session: 2,
        grant: None,
    }]);
    assert!(node.wait(11_000).contains(&(2, json!({"close": 4408}))));
    node.round(vec![Input::Opened {
        session: 3,
        grant: None,
    }]);
    assert_eq!(node.say(3, hello.clone()), [(3, json!({"close": 4401}))]);
    node.connect(4, json!({}));
    assert_eq!(
        node.say(4, json!({"t": "dance", "ref": "r"}))[0].1["code"],
        "unknown_type"
    );
    assert_eq!(node.say(4, json!([1])), [(4, json!({"close": 4400}))]);
    let old = json!({"proto": [7]});
    assert_eq!(node.connect(5, old), [(5, json!({"close": 4406}))]);
    node.connect(6, json!({"worker": "same", "instance": "i"}));
    let sent = node.connect(7, json!({"worker": "same", "instance": "i"}));
    assert!(sent.contains(&(6, json!({"close": 4409}))), "{sent:?}");
}
