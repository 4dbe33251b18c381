//! Starting workflows: a rule of a collection admits callers to the workflows that it names, and to
//! no others.

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::server::Server;

const RUNS: &str = "/api/workflow/runs";

/// A collection whose rule lets everyone start `order.ship` about its record `o1`.
fn orders(server: &Server) -> Api {
    let admin = server.admin();
    let users = json!({"name": "_users", "type": "auth", "createRule": ""});
    admin.post("/api/collections", users).expect(200);
    let orders = json!({"name": "orders", "fields": [], "executeRule": "",
        "executeWorkflows": ["order.ship", "order.cancel", "order.ship"]});
    let made = admin.post("/api/collections", orders).expect(200);
    assert_eq!(
        made.json["executeWorkflows"],
        json!(["order.cancel", "order.ship"])
    );
    admin
        .post("/api/collections/orders/records", json!({"id": "o1"}))
        .expect(200);
    admin
}

fn sign_up(server: &Server, email: &str) -> Api {
    let api = server.api();
    let body = json!({"email": email, "password": "password123", "passwordConfirm": "password123"});
    api.post("/api/collections/_users/records", body)
        .expect(200);
    let log_in = json!({"identity": email, "password": "password123"});
    let reply = api.post("/api/collections/_users/auth-with-password", log_in);
    api.with_token(reply.expect(200).text("/token"))
}

fn wish(more: Value) -> Value {
    let mut wish = json!({"workflow": "order.ship", "collection": "orders", "record": "o1"});
    wish.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    wish
}

/// A caller that the rule of one collection admitted could start every workflow, `admin.wipe` too,
/// with any priority, concurrency key and attributes. The collection names the workflows now.
#[test]
fn a_rule_opens_the_workflows_that_the_collection_names() {
    let server = Server::start();
    let admin = orders(&server);
    let anybody = server.api();
    let account = sign_up(&server, "a@example.com");
    for caller in [&anybody, &account] {
        caller.post(RUNS, wish(json!({"input": [1]}))).expect(200);
        caller
            .post(RUNS, wish(json!({"workflow": "order.cancel"})))
            .expect(200);
        let about = "?collection=orders&record=o1";
        caller
            .post(&format!("/api/workflow/trigger/order.ship{about}"), "[]")
            .expect(200);
        let refused = caller
            .post(RUNS, wish(json!({"workflow": "admin.wipe"})))
            .expect(403);
        let message = refused.text("/message").to_owned();
        assert!(
            message.contains("admin.wipe") && message.contains("executeWorkflows"),
            "{message}"
        );
        caller
            .post(&format!("/api/workflow/trigger/admin.wipe{about}"), "[]")
            .expect(403);
        // Starting a workflow does not reveal whether a hidden record exists.
        caller
            .post(
                RUNS,
                wish(json!({"workflow": "admin.wipe", "record": "o2"})),
            )
            .expect(404);
    }

    // A rule alone opens nothing.
    admin
        .patch("/api/collections/orders", json!({"executeWorkflows": null}))
        .expect(200);
    account.post(RUNS, wish(json!({}))).expect(403);
    admin
        .patch(
            "/api/collections/orders",
            json!({"executeWorkflows": ["order.ship"]}),
        )
        .expect(200);
    account.post(RUNS, wish(json!({}))).expect(200);
    for wrong in [
        json!("order.ship"),
        json!([1]),
        json!(["a b"]),
        json!([""]),
        json!(vec!["w"; 101]),
    ] {
        let body = json!({"executeWorkflows": wrong});
        let refused = admin.patch("/api/collections/orders", body).expect(400);
        assert!(
            refused.json["data"].get("executeWorkflows").is_some(),
            "{}",
            refused.json
        );
    }
}

/// The options of such callers decided the order of the runs of others.
#[test]
fn a_caller_by_a_rule_says_little_about_a_run() {
    let server = Server::start();
    let admin = orders(&server);
    let anybody = server.api();
    let account = sign_up(&server, "a@example.com");
    for caller in [&anybody, &account] {
        for (field, value) in [
            ("priority", json!(100)),
            ("priority", json!(0)),
            ("version", json!("1")),
            ("concurrencyKey", json!("global")),
            ("attributes", json!({"role": "admin"})),
            ("attributes", json!({})),
            ("expiresAt", json!("2090-01-01T00:00:00Z")),
            ("runAt", json!("2090-01-01T00:00:00Z")),
        ] {
            let refused = caller.post(RUNS, wish(json!({field: value}))).expect(400);
            assert!(
                refused.json["data"].get(field).is_some(),
                "{field}: {}",
                refused.json
            );
        }
        caller
            .post(RUNS, wish(json!({"concurrency_key": "global"})))
            .expect(400);
        caller.post(RUNS, wish(json!({"runAt": 1}))).expect(200);
    }
    // Administrators keep all.
    let all = json!({"workflow": "admin.wipe", "priority": 100, "concurrencyKey": "k", "version": "2",
        "attributes": {"a": 1}, "runAt": "2090-01-01T00:00:00Z", "expiresAt": "2091-01-01T00:00:00Z"});
    admin.post(RUNS, wish(all)).expect(200);
}

/// 300 runs that are due in 2090 were made by a caller without credentials in less than a second.
/// The runs of a caller that have not ended are counted.
#[test]
fn a_caller_has_some_runs_at_a_time() {
    let server = Server::start();
    let admin = orders(&server);
    let anybody = server.api();
    let account = sign_up(&server, "a@example.com");
    let mut runs = Vec::new();
    for _ in 0..20 {
        runs.push(
            anybody
                .post(RUNS, wish(json!({})))
                .expect(200)
                .text("/runId")
                .to_owned(),
        );
    }
    let refused = anybody.post(RUNS, wish(json!({}))).expect(429);
    assert!(refused.header("Retry-After").is_some());
    for _ in 0..100 {
        account
            .post(RUNS, wish(json!({"idempotencyKey": "once"})))
            .expect(200);
    }
    for _ in 1..100 {
        account.post(RUNS, wish(json!({}))).expect(200);
    }
    account.post(RUNS, wish(json!({}))).expect(429);
    // One that is there already is no run more.
    account
        .post(RUNS, wish(json!({"idempotencyKey": "once"})))
        .expect(200);
    sign_up(&server, "b@example.com")
        .post(RUNS, wish(json!({})))
        .expect(200);
    admin.post(RUNS, wish(json!({}))).expect(200);
    // The bound holds over a restart, and an end makes room.
    drop((anybody, account, admin));
    let server = server.restart();
    let (admin, anybody) = (server.admin(), server.api());
    anybody.post(RUNS, wish(json!({}))).expect(429);
    admin
        .post(&format!("{RUNS}/{}/cancel", runs[0]), "")
        .expect(200);
    anybody.post(RUNS, wish(json!({}))).expect(200);
    anybody.post(RUNS, wish(json!({}))).expect(429);
}

/// `idempotencykey` was passed over, so that an order was made twice without a word.
#[test]
fn a_field_that_does_not_exist_is_refused() {
    let server = Server::start();
    let admin = server.admin();
    for name in ["idempotencykey", "run_At", "args", "detached"] {
        let refused = admin
            .post(RUNS, json!({"workflow": "w", name: "x"}))
            .expect(400);
        assert!(refused.json["data"].get(name).is_some(), "{}", refused.json);
    }
    admin.post(RUNS, "[]").expect(400);
    let both =
        json!({"workflow": "w", "idempotency_key": "k", "run_at": 1.5, "concurrency_key": "c"});
    admin.post(RUNS, both).expect(200);
}
