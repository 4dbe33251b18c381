//! The rules of the model, one by one: accepted and refused events.

use super::node::{Node, job, kind};
use crate::base::error::Kind;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::core::Input;
use crate::services::workflows::run_request::RunRequest;
use crate::services::workflows::sessions::WorkerGrant;
use crate::services::workflows::{frames, queries};
use serde_json::{Value, json};

#[test]
fn the_same_idempotency_key_is_the_first_run_and_nothing_is_made() {
    let mut node = Node::new();
    let body = json!({"workflow": "w", "input": 1, "idempotencyKey": "k"});
    let first = node.trigger(body.clone()).unwrap();
    let again = node.trigger(body).unwrap();
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
    assert_eq!(node.show(&run)["output"], "out");
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
    // Unknown without input; with input it is created.
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
    let steps = queries::steps(&node.db, &WorkerGrant::default(), &run, 0).unwrap();
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
        node.execute(WorkflowRequest::Hook {
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
    // The token is in use: the conflict is recorded, and no hook is created.
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
    // Also after the end of the run.
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
fn what_users_give_is_kept_to_the_byte() {
    let mut node = Node::new();
    let odd = "{ \"a\\u0000b\" : [1e300, -0, \"\\ud83d\\ude00\", 12345678901234567890123] }";
    let body: RunRequest =
        serde_json::from_str(&format!("{{\"workflow\":\"w\",\"input\":{odd}}}")).unwrap();
    let made = node
        .execute(WorkflowRequest::Trigger(Box::new(body.into_run().unwrap())))
        .unwrap();
    let run = made["runId"].as_str().unwrap();
    assert_eq!(
        queries::input(&node.db, &WorkerGrant::default(), run).unwrap(),
        odd
    );
    let (_, handed) = job(&node.connect(1, json!({"credit": 1})));
    assert_eq!(handed["job"], run);
    for value in ["null", "false", "\"\\u0000\"", odd] {
        let key = format!("s{}#0", value.len());
        let frame = format!(
            "{{\"t\":\"step\",\"ref\":1,\"job\":{},\"epoch\":1,\"key\":\"{key}\",\"ok\":{value}}}",
            handed["job"]
        );
        let frame = frames::parse_frame(&frame).unwrap();
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
