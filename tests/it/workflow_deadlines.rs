//! Runs that end by their deadline, what is tried again, and times with a fraction.

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::server::Server;
use crate::support::worker::{Worker, token};
use crate::support::{pause, wait_until};

const RUNS: &str = "/api/workflow/runs";

fn trigger(api: &Api, body: Value) -> String {
    api.post(RUNS, body).expect(200).text("/runId").to_owned()
}

fn run(api: &Api, id: &str) -> Value {
    api.get(&format!("{RUNS}/{id}")).expect(200).json
}

#[track_caller]
fn wait_for(api: &Api, id: &str, status: &str) -> Value {
    wait_until(&format!("{id} is {status}"), || {
        run(api, id)["status"] == status
    });
    run(api, id)
}

fn events(api: &Api, id: &str) -> Vec<Value> {
    let reply = api.get(&format!("{RUNS}/{id}/events")).expect(200);
    reply.json["items"].as_array().unwrap().clone()
}

fn in_ms(ms: i64) -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the clock of the client")]
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_millis()).unwrap() + ms
}

/// A run whose deadline had passed when it was made was handed to a waiting worker, and taken back
/// half a second later.
#[test]
fn a_run_that_is_late_when_it_is_made_is_handed_to_no_worker() {
    let server = Server::start();
    let api = server.admin();
    let mut worker = Worker::connect(&server, &token(&server), json!({}));
    worker.expect("welcome");
    for at in [
        json!(1),
        json!(in_ms(-1)),
        json!("2020-01-01T00:00:00Z"),
        json!(1000.5),
    ] {
        let made = api.post(
            RUNS,
            json!({"workflow": "w", "input": "late", "expiresAt": at}),
        );
        let made = made.expect(200);
        assert_eq!(made.text("/status"), "failed");
        let found = run(&api, made.text("/runId"));
        assert_eq!(found["error"]["kind"], "expired");
        assert_eq!(found["startedAt"], Value::Null);
    }
    let parent = trigger(&api, json!({"workflow": "w", "input": "parent"}));
    let job = worker.job();
    assert_eq!(job["job"], parent, "the others were not handed out");
    // A child is so, too, and its parent hears of it.
    let child =
        json!({"t": "call", "op": "trigger", "key": "c#0", "workflow": "w", "expiresAt": 1});
    let child = worker.done(&job, child);
    assert_eq!(child["status"], "failed");
    let park = json!({"t": "park", "seen": job["seq"], "on": [{"child": "c#0"}]});
    let wake = worker.ask(&job, park);
    assert_eq!(wake["t"], "wake", "{wake}");
    assert!(wake["results"].to_string().contains("expired"), "{wake}");
}

/// A run that waited for a worker until its deadline had passed was handed out when one came within
/// the next half second.
#[test]
fn a_run_that_is_late_in_the_queue_is_handed_to_no_worker() {
    let server = Server::start();
    let api = server.admin();
    let token = token(&server);
    let deadline = in_ms(700);
    let mut runs = Vec::new();
    for _ in 0..40 {
        runs.push(trigger(
            &api,
            json!({"workflow": "w", "priority": 1, "expiresAt": deadline}),
        ));
    }
    let good = trigger(&api, json!({"workflow": "w"}));
    while in_ms(0) <= deadline {
        pause(std::time::Duration::from_millis(1));
    }
    let mut worker = Worker::connect(&server, &token, json!({}));
    assert_eq!(worker.job()["job"], good);
    for run in runs {
        assert_eq!(wait_for(&api, &run, "failed")["error"]["kind"], "expired");
    }
}

/// A run failed with `retryable` waited for an attempt that its deadline forbade, and then said
/// only that it had expired; the reason was nowhere, neither then nor between two attempts.
#[test]
fn a_failure_is_seen_between_attempts_and_kept_at_the_deadline() {
    let server = Server::start();
    let api = server.admin();
    let mut worker = Worker::connect(&server, &token(&server), json!({}));
    let failure = |ms: i64| json!({"t": "fail", "err": {"kind": "retryable", "message": "THE REASON", "retry_after_ms": ms}});
    let id = trigger(&api, json!({"workflow": "w", "expiresAt": in_ms(60_000)}));
    let job = worker.job();
    worker.done(&job, failure(100_000));
    let found = run(&api, &id);
    assert_eq!(
        (&found["status"], &found["error"]["message"]),
        (&json!("failed"), &json!("THE REASON"))
    );
    worker.done(&job, failure(100_000));

    let id = trigger(&api, json!({"workflow": "w", "expiresAt": in_ms(600_000)}));
    let job = worker.job();
    worker.done(&job, failure(2_000));
    let found = run(&api, &id);
    assert_eq!(
        (&found["state"], &found["lastError"]["message"]),
        (&json!("delayed"), &json!("THE REASON"))
    );
    let event = events(&api, &id).pop().unwrap();
    assert_eq!(
        (&event["type"], &event["attempt"]),
        (&json!("run_retrying"), &json!(1))
    );
    assert_eq!(event["data"]["message"], "THE REASON");
    assert_eq!(event["resumeAt"], found["wakesAt"]);
    let job = worker.job();
    assert_eq!(
        (&job["job"], &job["attempt"], &job["journal"]),
        (&json!(id), &json!(2), &json!([]))
    );
    worker.done(&job, json!({"t": "done", "output": 1}));
    assert_eq!(run(&api, &id)["status"], "completed");
    api.post(
        &format!("{RUNS}/{id}/events"),
        json!({"type": "run_retrying"}),
    )
    .expect(400);
}

/// A parent that expired left its child at work, while a cancelled one takes its children along.
/// The children of one that failed otherwise go on: when it is resumed, it finds what they came to.
#[test]
fn a_parent_that_expires_takes_its_children_along() {
    let server = Server::start();
    let api = server.admin();
    let mut worker = Worker::connect(&server, &token(&server), json!({}));
    let mut with_child = |more: Value| {
        let mut wish = json!({"workflow": "w"});
        wish.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let id = trigger(&api, wish);
        let job = worker.job();
        let call = json!({"t": "call", "op": "trigger", "key": "c#0", "workflow": "child"});
        let child = worker.done(&job, call)["run"].as_str().unwrap().to_owned();
        (id, job, child)
    };
    let (parent, _, child) = with_child(json!({"expiresAt": in_ms(1_500)}));
    let (failed, job, other) = with_child(json!({}));
    assert_eq!(
        wait_for(&api, &parent, "failed")["error"]["kind"],
        "expired"
    );
    let reason = wait_for(&api, &child, "cancelled")["reason"].clone();
    assert_eq!(reason, "The parent run has expired.");
    worker.done(
        &job,
        json!({"t": "fail", "err": {"kind": "fatal", "message": "no"}}),
    );
    assert_eq!(run(&api, &failed)["status"], "failed");
    pause(std::time::Duration::from_millis(1200));
    assert_eq!(run(&api, &other)["status"], "pending");
}

/// The idempotency key of a child was passed over: two children, no key on either, not a word.
#[test]
fn a_child_has_no_idempotency_key_and_a_detached_run_has() {
    let server = Server::start();
    let api = server.admin();
    let mut worker = Worker::connect(&server, &token(&server), json!({}));
    trigger(&api, json!({"workflow": "w"}));
    let job = worker.job();
    let call = |key: &str, detached: bool| {
        json!({"t": "call", "op": "trigger", "key": key, "workflow": "child", "idempotencyKey": "K",
            "detached": detached})
    };
    let refused = worker.ask(&job, call("a#0", false));
    assert_eq!(
        (&refused["t"], &refused["code"]),
        (&json!("no"), &json!("invalid"))
    );
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("idempotencyKey"),
        "{refused}"
    );
    let one = worker.done(&job, call("b#0", true))["run"].clone();
    let two = worker.done(&job, call("c#0", true))["run"].clone();
    assert_eq!(one, two);
    assert_eq!(run(&api, one.as_str().unwrap())["idempotencyKey"], "K");
}

/// Languages without whole numbers write `1500.0`. `retry_after_ms` took it, and a sleep was
/// refused.
#[test]
fn milliseconds_may_have_a_fraction() {
    let server = Server::start();
    let api = server.admin();
    let mut worker = Worker::connect(&server, &token(&server), json!({}));
    #[expect(clippy::cast_precision_loss, reason = "as a client writes it")]
    let at = |ms: i64| in_ms(ms) as f64 + 0.5;
    let id = trigger(
        &api,
        json!({"workflow": "w", "runAt": at(-5), "expiresAt": at(600_000)}),
    );
    for (key, sleep) in [
        ("a#0", json!({"ms": 1.0})),
        ("b#0", json!({"ms": 0.5})),
        ("c#0", json!({"until": at(50)})),
    ] {
        let job = worker.job();
        assert_eq!(job["job"], id);
        let mut on = sleep;
        on["sleep"] = json!(key);
        let step = json!({"t": "step", "key": format!("s-{key}"), "started_ms": at(0), "ok": 1});
        worker.done(&job, step);
        let answer = worker.ask(&job, json!({"t": "park", "seen": job["seq"], "on": [on]}));
        assert_ne!(answer["t"], "no", "{answer}");
        if answer["t"] == "wake" {
            worker.done(&job, json!({"t": "nack", "delay_ms": 1.5}));
        }
    }
    let job = worker.job();
    for wrong in [json!("1"), json!(true), json!(null)] {
        let on = json!([{"sleep": "z#0", "ms": wrong}]);
        let refused = worker.ask(&job, json!({"t": "park", "seen": job["seq"], "on": on}));
        assert_eq!(refused["code"], "invalid", "{refused}");
    }
    let event = |data: Value| json!({"type": "wait_created", "correlationId": "w#0", "data": data});
    let path = format!("{RUNS}/{id}/events");
    api.post(&path, event(json!("soon"))).expect(400);
    api.post(&path, event(json!(at(1000)))).expect(200);
    let list = api.get(&format!("{RUNS}?since=1500.5")).expect(200);
    assert_eq!(list.column("runId"), [id]);
    api.get(&format!("{RUNS}?since=1e")).expect(400);
}
