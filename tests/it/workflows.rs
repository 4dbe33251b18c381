//! Workflows over the socket and over HTTP, as workers and clients meet them.

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::server::Server;
use crate::support::worker::{Worker, about, token};
use crate::support::{cluster, wait_until};

fn trigger(api: &Api, body: Value) -> String {
    let reply = api.post("/api/workflow/runs", body).expect(200);
    reply.text("/runId").to_owned()
}

fn run(api: &Api, id: &str) -> Value {
    api.get(&format!("/api/workflow/runs/{id}"))
        .expect(200)
        .json
}

/// Waits until a run is so.
fn wait_for(api: &Api, id: &str, status: &str) -> Value {
    wait_until(&format!("{id} is {status}"), || {
        let found = run(api, id);
        found["status"] == status || found["state"] == status
    });
    run(api, id)
}

#[test]
fn a_run_goes_through_all_its_acts() {
    let server = Server::start();
    let token = token(&server);
    let api = server.api().with_token(&token);
    let mut worker = Worker::connect(&server, &token, json!({}));
    let welcome = worker.expect("welcome");
    assert_eq!(
        (&welcome["proto"], &welcome["max_frame"]),
        (&json!(1), &json!(1_048_576))
    );
    let reply = api
        .post("/api/workflow/trigger/w", "[1, {\"a\": null}]")
        .expect(200);
    let id = reply.text("/runId").to_owned();
    let job = worker.job();
    assert_eq!(
        (&job["job"], &job["input"]),
        (&json!(id), &json!([1, {"a": null}]))
    );
    worker.done(
        &job,
        json!({"t": "step", "key": "charge#0", "ok": {"paid": 5}}),
    );
    let hook = worker.done(
        &job,
        json!({"t": "call", "op": "hook_create", "key": "hook#0"}),
    );
    let hook = hook["token"].as_str().unwrap();
    let child =
        json!({"t": "call", "op": "trigger", "key": "child#0", "workflow": "w", "input": "child"});
    let child = worker.done(&job, child)["run"].clone();
    let on =
        json!([{"hook": "hook#0"}, {"child": "child#0"}, {"sleep": "sleep#0", "ms": 3_600_000}]);
    worker.done(&job, json!({"t": "park", "seen": job["seq"], "on": on}));
    assert_eq!(wait_for(&api, &id, "waiting")["status"], "running");
    // The payload is from a caller who knows only the token.
    let hooks = format!("/api/workflow/hooks/{hook}");
    assert_eq!(
        server
            .api()
            .post(&hooks, r#"{"yes":true}"#)
            .expect(202)
            .json["runId"],
        id
    );
    let of_child = worker.job();
    assert_eq!(
        (&of_child["job"], &of_child["parent"]),
        (&child, &json!(id))
    );
    worker.done(&of_child, json!({"t": "done", "output": "from child"}));
    let job = worker.job();
    assert!(job["epoch"].as_i64() >= Some(2), "{job}");
    let job = wait_for_child(&mut worker, job);
    worker.done(&job, json!({"t": "done", "output": "all"}));
    let found = run(&api, &id);
    assert_eq!(
        (&found["status"], &found["output"]),
        (&json!("completed"), &json!("all"))
    );
    assert_eq!(server.api().post(&hooks, "1").status, 404);
    let steps = api
        .get(&format!("/api/workflow/runs/{id}/steps"))
        .expect(200);
    assert_eq!(steps.json["items"].as_array().unwrap().len(), 2);
    let list = api
        .get(&format!("/api/workflow/runs?parent={id}"))
        .expect(200);
    assert_eq!(list.json["items"][0]["runId"], child);
}

/// Parks on the child. Its end may have come with the job, or comes at once, or wakes the run.
fn wait_for_child(worker: &mut Worker, job: Value) -> Value {
    let on = json!([{"child": "child#0"}]);
    let park = json!({"t": "park", "seen": job["seq"], "on": on});
    let answer = worker.ask(&job, park);
    let (job, journal) = match answer["t"] == "wake" {
        true => (
            job.clone(),
            format!("{}{}", job["journal"], answer["results"]),
        ),
        false => {
            let job = worker.job();
            let journal = job["journal"].to_string();
            (job, journal)
        }
    };
    assert!(journal.contains("from child"), "{journal}");
    job
}

#[test]
fn a_server_that_is_killed_leaves_the_run_with_its_worker() {
    let mut server = Server::start();
    let token = token(&server);
    let mut worker = Worker::connect(&server, &token, json!({}));
    let id = trigger(
        &server.api().with_token(&token),
        json!({"workflow": "w", "input": 1}),
    );
    let job = worker.job();
    worker.done(&job, json!({"t": "step", "key": "a#0", "ok": 1}));
    server.kill();
    let server = Server::from_parts(server.into_parts());
    let api = server.api().with_token(&token);
    let resume = json!({"session": 1, "jobs": [{"job": id, "epoch": 1}, {"job": id, "epoch": 7}]});
    let mut worker = Worker::connect(&server, &token, json!({"resume": resume}));
    let welcome = worker.expect("welcome");
    assert_eq!(welcome["kept"], json!([{"job": id, "epoch": 1}]));
    assert_eq!(welcome["lost"], json!([{"job": id, "epoch": 7}]));
    // An acknowledged step is stored; a repeated report changes nothing.
    worker.done(&job, json!({"t": "step", "key": "a#0", "ok": 1}));
    assert_eq!(
        worker.ask(&job, json!({"t": "step", "key": "a#0", "ok": 2}))["code"],
        "conflict"
    );
    worker.done(&job, json!({"t": "done", "output": "end"}));
    assert_eq!(run(&api, &id)["status"], "completed");
    let events = api
        .get(&format!("/api/workflow/runs/{id}/events"))
        .expect(200);
    assert_eq!(
        events.column("type"),
        [
            "run_created",
            "run_started",
            "step_completed",
            "run_completed"
        ]
    );
}

#[test]
fn a_worker_that_is_gone_loses_its_run_and_its_late_reports_are_refused() {
    let server = Server::with(&[("WORKFLOW_LEASE_SECONDS", "2")]);
    let token = token(&server);
    let api = server.api().with_token(&token);
    let mut silent = Worker::connect(&server, &token, json!({"worker": "silent"}));
    let id = trigger(&api, json!({"workflow": "w", "input": 1}));
    let old = silent.job();
    let mut other = Worker::connect(&server, &token, json!({"worker": "other"}));
    let new = other.job();
    assert_eq!((&new["job"], &new["epoch"]), (&json!(id), &json!(2)));
    // Also over HTTP, for workers without a socket.
    let late = |frame: Value| {
        let body = json!({"frames": [about(&old, frame)]});
        api.post("/api/workflow/report", body).expect(200).json["answers"][0].clone()
    };
    assert_eq!(
        late(json!({"t": "step", "key": "a#0", "ok": "late"}))["code"],
        "lost_lease"
    );
    assert_eq!(
        late(json!({"t": "done", "output": "late"}))["code"],
        "lost_lease"
    );
    assert_eq!(late(json!({"t": "hello"}))["code"], "invalid");
    other.done(&new, json!({"t": "step", "key": "a#0", "ok": "first"}));
    other.done(&new, json!({"t": "done", "output": "end"}));
    assert_eq!(late(json!({"t": "done", "output": "end"}))["t"], "ok");
    let found = run(&api, &id);
    assert_eq!(
        (&found["output"], &found["status"]),
        (&json!("end"), &json!("completed"))
    );
}

#[test]
fn large_things_go_over_http() {
    let server = Server::start();
    let token = token(&server);
    let api = server.api().with_token(&token);
    let mut worker = Worker::connect(&server, &token, json!({}));
    let long = "x".repeat(3 << 20);
    let id = trigger(&api, json!({"workflow": "w", "input": long}));
    let job = worker.job();
    assert_eq!(
        (&job["input_more"], &job["input"]),
        (&json!(true), &Value::Null)
    );
    let input = api
        .get(&format!("/api/workflow/runs/{id}/input"))
        .expect(200);
    assert_eq!(input.json, json!(long));
    let frames: Vec<Value> = (0..3)
        .map(|n| {
            about(
                &job,
                json!({"t": "step", "ref": n, "key": format!("s#{n}"), "ok": "y".repeat(1 << 20)}),
            )
        })
        .collect();
    let reply = api
        .post("/api/workflow/report", json!({"frames": frames}))
        .expect(200);
    for (n, answer) in reply.json["answers"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&answer["t"], &answer["ref"]), (&json!("ok"), &json!(n)));
    }
    worker.send(&about(&job, json!({"t": "nack"})));
    let job = worker.job();
    assert_eq!((&job["more"], &job["journal"]), (&json!(true), &json!([])));
    let mut journal = Vec::new();
    let mut after = job["seq"].as_i64().unwrap();
    loop {
        let page = api
            .get(&format!("/api/workflow/runs/{id}/journal?after={after}"))
            .expect(200);
        journal.extend(page.json["journal"].as_array().unwrap().clone());
        after = page.json["seq"].as_i64().unwrap();
        if page.json["more"] == false {
            break;
        }
    }
    assert_eq!(journal.len(), 3);
    // A frame that is too long closes the socket; the run is not lost.
    worker.send(&about(
        &job,
        json!({"t": "done", "output": "z".repeat(1 << 20)}),
    ));
    assert_eq!(
        worker.find(|frame| !frame["close"].is_null())["close"],
        1009
    );
    let frames = json!({"frames": [about(&job, json!({"t": "done", "output": "z"}))]});
    let reply = api.post("/api/workflow/report", frames).expect(200);
    assert_eq!(reply.json["answers"][0]["t"], "ok");
}

#[test]
fn a_worker_that_talks_without_end_is_held_and_loses_nothing() {
    let server = Server::start();
    let token = token(&server);
    let api = server.api().with_token(&token);
    let mut worker = Worker::connect(&server, &token, json!({}));
    let id = trigger(&api, json!({"workflow": "w", "input": 1}));
    let job = worker.job();
    let count = 3_000;
    for n in 0..count {
        let frame = json!({"t": "step", "ref": n, "key": format!("s#{n}"), "ok": n});
        worker.send(&about(&job, frame));
    }
    let mut answered = 0;
    while answered < count {
        let frame = worker.next();
        match frame["t"].as_str().unwrap() {
            "acks" => answered += frame["refs"].as_array().unwrap().len(),
            "ok" => answered += 1,
            "welcome" | "slow" => {}
            other => panic!("{other}: {frame}"),
        }
    }
    worker.done(&job, json!({"t": "done", "output": null}));
    let steps = api
        .get(&format!("/api/workflow/runs/{id}/steps"))
        .expect(200);
    assert_eq!(steps.json["items"].as_array().unwrap().len(), count);
}

#[test]
fn accounts_start_runs_where_the_rule_of_a_collection_lets_them() {
    let server = Server::with(&[("AUTH_COLLECTION", "users")]);
    let admin = server.admin();
    let users = json!({"name": "users", "type": "auth", "fields": [], "createRule": ""});
    admin.post("/api/collections", users).expect(200);
    let orders = json!({"name": "orders", "executeRule": "owner = @request.auth.id",
        "executeWorkflows": ["w"],
        "fields": [{"name": "owner", "type": "text"}]});
    admin.post("/api/collections", orders).expect(200);
    let sign_up = |email: &str| {
        let body =
            json!({"email": email, "password": "password123", "passwordConfirm": "password123"});
        server
            .api()
            .post("/api/collections/users/records", body)
            .expect(200);
        let log_in = json!({"identity": email, "password": "password123"});
        let reply = server
            .api()
            .post("/api/collections/users/auth-with-password", log_in)
            .expect(200);
        (
            reply.text("/record/id").to_owned(),
            server.api().with_token(reply.text("/token")),
        )
    };
    let (owner, by_owner) = sign_up("owner@example.com");
    let (_, by_other) = sign_up("other@example.com");
    admin
        .post(
            "/api/collections/orders/records",
            json!({"id": "o1", "owner": owner}),
        )
        .expect(200);
    let wish = json!({"workflow": "w", "input": 1, "collection": "orders", "record": "o1"});
    let id = trigger(&by_owner, wish.clone());
    let attributes = run(&admin, &id)["attributes"].clone();
    assert_eq!(
        attributes,
        json!({"collection": "orders", "record": "o1", "startedBy": owner})
    );
    let mut forged = wish.clone();
    forged["attributes"] = json!({"startedBy": "somebody", "database": "other", "mine": 1});
    by_owner.post("/api/workflow/runs", &forged).expect(400);
    by_other.post("/api/workflow/runs", &wish).expect(404);
    server.api().post("/api/workflow/runs", &wish).expect(404);
    let none = json!({"workflow": "w", "collection": "orders", "record": "none"});
    by_owner.post("/api/workflow/runs", &none).expect(404);
    admin.post("/api/workflow/runs", &none).expect(404);
    by_owner
        .post("/api/workflow/runs", json!({"workflow": "w"}))
        .expect(403);
    by_owner
        .post(
            "/api/workflow/runs",
            json!({"workflow": "w", "record": "o1"}),
        )
        .expect(400);
    by_owner
        .post("/api/workflow/trigger/w?collection=orders&record=o1", "[]")
        .expect(200);
    by_owner.get("/api/workflow/runs").expect(403);
}

#[test]
fn a_token_for_some_workflows_sees_and_does_nothing_else() {
    let server = Server::start();
    let admin = server.admin();
    let reply = admin
        .post("/api/auth/service-token", json!({"workflows": ["v"]}))
        .expect(200);
    let limited = reply.text("/token").to_owned();
    let id = trigger(&admin, json!({"workflow": "w", "input": 1}));
    let api = server.api().with_token(&limited);
    trigger(&api, json!({"workflow": "v"}));
    api.post("/api/workflow/runs", json!({"workflow": "w"}))
        .expect(403);
    api.get(&format!("/api/workflow/runs/{id}")).expect(404);
    api.post(&format!("/api/workflow/runs/{id}/cancel"), "")
        .expect(404);
    let list = api.get("/api/workflow/runs").expect(200);
    assert_eq!(list.column("workflow"), ["v"]);
    // Nor by what only the worker of the run may say.
    let mut worker = Worker::connect(&server, &token(&server), json!({}));
    let job = worker.job();
    for frame in [
        json!({"t": "step", "key": "s#0", "ok": 1}),
        json!({"t": "park", "seen": 0, "on": [{"sleep": "s#0", "until": 1}]}),
        json!({"t": "done", "output": "owned"}),
    ] {
        let body = json!({"frames": [about(&job, frame)]});
        let reply = api.post("/api/workflow/report", body).expect(200);
        assert_eq!(reply.json["answers"][0]["code"], "lost_lease");
    }
    let workers = api.get("/api/workflow/workers").expect(200);
    assert_eq!(workers.json["items"], json!([]));
    let mut worker = Worker::connect(&server, &limited, json!({}));
    assert_eq!(worker.next()["close"], 4403);
    // The token may stand in the first frame; a wrong one, or none, opens nothing.
    let hello = |token: &str| json!({"t": "hello", "worker": "a", "credit": 1, "token": token, "workflows": [{"name": "v"}]});
    let mut worker = Worker::open(&server, "");
    worker.send(&hello(&limited));
    assert_eq!(worker.next()["t"], "welcome");
    let mut worker = Worker::open(&server, "");
    worker.send(&hello("wrong"));
    assert_eq!(worker.next()["close"], 4401);
}

#[test]
fn a_replica_has_runs_of_its_own() {
    let master = cluster::master();
    let replica = cluster::replica(&master);
    let token = token(&master);
    cluster::converge(&master, &replica);
    let (at_master, at_replica) = (
        master.api().with_token(&token),
        replica.api().with_token(&token),
    );
    let mut worker = Worker::connect(&replica, &token, json!({}));
    let here = trigger(&at_replica, json!({"workflow": "w", "input": "replica"}));
    let there = trigger(&at_master, json!({"workflow": "w", "input": "master"}));
    let job = worker.job();
    assert_eq!(job["job"], here);
    worker.done(&job, json!({"t": "done", "output": "end"}));
    assert_eq!(run(&at_replica, &here)["output"], "end");
    assert_eq!(run(&at_master, &there)["status"], "pending");
    // Each knows that the other's is not its own.
    at_master
        .get(&format!("/api/workflow/runs/{here}"))
        .expect(421);
    at_replica
        .get(&format!("/api/workflow/runs/{there}"))
        .expect(421);
    at_replica.get("/api/workflow/runs/wrun_none").expect(404);
}

#[test]
fn wrong_requests_are_refused_in_a_sentence() {
    let server = Server::start();
    let admin = server.admin();
    let id = trigger(&admin, json!({"workflow": "w"}));
    for (path, body, status) in [
        ("runs", "{}", 400),
        ("runs", "[]", 400),
        ("runs", r#"{"workflow": ""}"#, 400),
        ("runs", r#"{"workflow": "a/b"}"#, 400),
        ("runs", r#"{"workflow": "w", "priority": 101}"#, 400),
        ("runs", r#"{"workflow": "w", "runAt": "tomorrow"}"#, 400),
        (
            "runs",
            r#"{"workflow": "w", "runAt": 99999999999999999}"#,
            400,
        ),
        (
            "runs",
            r#"{"workflow": "w", "runAt": -9223372036854775808}"#,
            200,
        ),
        ("runs", r#"{"workflow": "w", "idempotencyKey": ""}"#, 400),
        (
            "runs",
            r#"{"workflow": "w", "concurrencyKey": "a\nb"}"#,
            400,
        ),
        ("runs", r#"{"workflow": "w", "version": ""}"#, 400),
        ("runs", r#"{"workflow": "w", "attributes": [1]}"#, 400),
        (
            "runs",
            r#"{"workflow": "w", "collection": "none", "record": "x"}"#,
            404,
        ),
        ("bulk/cancel", "{}", 400),
        ("bulk/fork", r#"{"workflow": "w"}"#, 400),
        ("bulk/retry", r#"{"workflow": "w", "status": "odd"}"#, 400),
        ("report", r#"{"frames": 1}"#, 400),
        ("hooks/none", "not json", 400),
        ("trigger/w", "not json", 400),
    ] {
        let reply = admin.post(&format!("/api/workflow/{path}"), body);
        assert_eq!(reply.status, status, "{path} {body}: {:?}", reply.json);
        let message = reply.json["message"].as_str().unwrap_or("ok");
        assert!(!message.contains("wrong while processing"), "{path} {body}");
    }
    let of_run = format!("/api/workflow/runs/{id}");
    admin
        .post(&format!("{of_run}/events"), r#"{"type": "odd"}"#)
        .expect(400);
    admin
        .post(
            &format!("{of_run}/events"),
            r#"{"type": "hook_conflict", "correlationId": "h"}"#,
        )
        .expect(400);
    admin.post(&format!("{of_run}/retry"), "").expect(409);
    admin
        .post(&format!("{of_run}/fork"), r#"{"fromStep": "none"}"#)
        .expect(404);
    admin
        .post(&format!("{of_run}/cancel"), r#"{"reason": "enough"}"#)
        .expect(200);
    assert_eq!(run(&admin, &id)["reason"], "enough");
    let bulk = admin
        .post("/api/workflow/bulk/cancel", r#"{"workflow": "w"}"#)
        .expect(200);
    assert_eq!(bulk.json["items"].as_array().unwrap().len(), 1);
}

/// Of several attributes only the last counted, and `true` was found as `1`: lists were longer than
/// what was asked for, without a word.
#[test]
fn runs_are_found_by_all_attributes_that_are_named() {
    let server = Server::start();
    let admin = server.admin();
    for (a, b, vip) in [
        ("x", "y", json!(true)),
        ("x", "z", json!(1)),
        ("w", "y", json!("1.0")),
    ] {
        let attributes = json!({"a": a, "b": b, "vip": vip, "none": false});
        trigger(&admin, json!({"workflow": "w", "attributes": attributes}));
    }
    for (query, count) in [
        ("attribute=a=x&attribute=b=y", 1),
        ("attribute=b=y&attribute=a=x&status=pending", 1),
        ("attribute=a=x&attribute=a=w", 0),
        ("attribute=vip=true", 1),
        ("attribute=vip=1", 1),
        ("attribute=vip=1.0", 1),
        ("attribute=none=false", 3),
        ("attribute=none=0", 0),
        ("attribute=gone=", 0),
    ] {
        let list = admin
            .get(&format!("/api/workflow/runs?{query}"))
            .expect(200);
        assert_eq!(
            list.json["items"].as_array().unwrap().len(),
            count,
            "{query}"
        );
    }
}

#[test]
fn wrong_parameters_are_refused() {
    let server = Server::start();
    let admin = server.admin();
    for (path, status) in [
        ("runs?status=odd", 400),
        ("runs?limit=x", 400),
        ("runs?cursor=x", 400),
        ("runs?since=x", 400),
        ("runs?attribute=x", 400),
        ("runs?odd=1", 200),
        ("runs?limit=100000", 200),
        ("runs/none/steps", 404),
    ] {
        let reply = admin.get(&format!("/api/workflow/{path}"));
        assert_eq!(reply.status, status, "{path}");
    }
}

#[test]
fn a_deleted_key_ends_the_connections_that_it_opened() {
    let server = Server::with(&[("WORKFLOW_LEASE_SECONDS", "2")]);
    let admin = server.admin();
    let key = admin
        .post(
            "/api/keys",
            json!({"name": "worker", "scopes": ["service"]}),
        )
        .expect(200);
    let mut worker = Worker::connect(&server, key.text("/key"), json!({}));
    assert_eq!(worker.next()["t"], "welcome");
    let id = key.text("/id");
    admin.delete(&format!("/api/keys/{id}")).expect(204);
    assert_eq!(worker.next()["close"], 4401);
}

#[test]
fn a_command_that_changes_much_is_done() {
    let server = Server::start();
    let admin = server.admin();
    let input = "y".repeat(3_000);
    for _ in 0..600 {
        trigger(&admin, json!({"workflow": "many", "input": input}));
    }
    let bulk = admin
        .post("/api/workflow/bulk/cancel", r#"{"workflow": "many"}"#)
        .expect(200);
    assert_eq!(bulk.json["items"].as_array().unwrap().len(), 600);
}
