//! Calls to others, as receivers, admins and the command line meet them.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::api::Api;
use crate::support::receiver::{Received, Receiver};
use crate::support::server::Server;
use crate::support::token::{now, sign, sign_with};
use crate::support::{cluster, pause, wait_until};

const OWN_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

mod log;
mod secrets;
mod triggers;

/// Makes a webhook; returns its id.
fn make(api: &Api, webhook: Value) -> String {
    let made = api.post("/api/webhooks", webhook).expect(200);
    made.text("/id").to_owned()
}

/// Makes a call by hand; returns its number.
fn call(api: &Api, webhook: &str, payload: Value) -> i64 {
    let path = format!("/api/webhooks/{webhook}/call");
    api.post(&path, payload).expect(202).json["id"]
        .as_i64()
        .unwrap()
}

fn row(api: &Api, id: i64) -> Value {
    api.get(&format!("/api/webhooks/logs/{id}"))
        .expect(200)
        .json
}

#[track_caller]
fn wait_for(api: &Api, id: i64, status: &str, attempts: u32) -> Value {
    wait_until(&format!("call {id} is {status} after {attempts}"), || {
        let found = row(api, id);
        found["status"] == status && found["attempts"] == attempts
    });
    row(api, id)
}

fn secret_of(api: &Api) -> String {
    let reply = api.get("/api/webhooks/secret").expect(200);
    reply.text("/secret").to_owned()
}

fn key_of(secret: &str) -> Hmac<Sha256> {
    let bytes = STANDARD.decode(secret.strip_prefix("whsec_").unwrap());
    Hmac::new_from_slice(&bytes.unwrap()).unwrap()
}

/// Checks the signature of a call as its receiver does.
#[track_caller]
fn check_signature(received: &Received, secret: &str) {
    let (id, moment) = (
        received.header("webhook-id"),
        received.header("webhook-timestamp"),
    );
    let mut mac = key_of(secret);
    mac.update(format!("{id}.{moment}.{}", received.body).as_bytes());
    let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(received.header("webhook-signature"), wanted);
    let now = std::time::SystemTime::UNIX_EPOCH;
    #[expect(clippy::disallowed_methods, reason = "the clock of the receiver")]
    let now = std::time::SystemTime::now().duration_since(now).unwrap();
    let age = now.as_secs().abs_diff(moment.parse().unwrap());
    assert!(age < 60, "{moment}");
}

#[test]
fn a_call_is_signed_and_carries_what_was_agreed() {
    let server = Server::start();
    let api = server.admin();
    let receiver = Receiver::content();
    let hook = make(
        &api,
        json!({"name": "plain", "url": receiver.url("/hook?a=b")}),
    );
    let id = call(&api, &hook, json!({"n": 1}));
    let done = wait_for(&api, id, "success", 1);
    assert_eq!(
        (&done["code"], &done["answer"]),
        (&json!(200), &json!("the answer"))
    );
    assert_eq!(
        (&done["payload"], &done["source"]),
        (&json!({"n": 1}), &json!("webhook"))
    );
    let first = receiver.wait_for(1).remove(0);
    assert_eq!((&*first.method, &*first.path), ("POST", "/hook?a=b"));
    assert_eq!(first.body, r#"{"n":1}"#);
    assert_eq!(first.header("Content-Type"), "application/json");
    assert!(first.header("User-Agent").starts_with("vski/"));
    assert!(
        first
            .header("webhook-id")
            .starts_with(&format!("default-{id}-"))
    );
    assert_eq!(first.find("Authorization"), None);
    check_signature(&first, &secret_of(&api));

    // With everything of its own.
    let own = make(
        &api,
        json!({"name": "own", "url": receiver.url("/own"), "method": "delete", "secret": OWN_SECRET,
            "headers": {"X-Key": "v", "Content-Type": "text/x"}, "body": "text", "jwtEnabled": true}),
    );
    call(&api, &own, json!(null));
    let second = receiver.wait_for(2).remove(1);
    assert_eq!((&*second.method, &*second.body), ("DELETE", "text"));
    assert_eq!(
        (second.header("X-Key"), second.header("Content-Type")),
        ("v", "text/x")
    );
    check_signature(&second, OWN_SECRET);

    // GET has no body and signs the empty one.
    let get = make(
        &api,
        json!({"name": "get", "url": receiver.url("/get"), "method": "GET"}),
    );
    call(&api, &get, json!({"n": 3}));
    let third = receiver.wait_for(3).remove(2);
    assert_eq!((&*third.method, &*third.body), ("GET", ""));
    check_signature(&third, &secret_of(&api));
}

#[test]
fn the_token_of_a_call_says_who_calls_and_opens_nothing_here() {
    let server = Server::start();
    let api = server.admin();
    let receiver = Receiver::content();
    let url = receiver.url("/");
    let hook = make(&api, json!({"name": "n", "url": url, "jwtEnabled": true}));
    call(&api, &hook, json!({}));
    let received = receiver.wait_for(1).remove(0);
    let token = received.header("Authorization").strip_prefix("Bearer ");
    let token = token.unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut mac = key_of(&secret_of(&api));
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    mac.verify_slice(&signature).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(signed.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    // A receiver that another one shows it to sees that it was not meant.
    assert_eq!(claims["aud"], json!(receiver.url("")));
    assert_eq!(claims["roles"], json!(["service", "webhook"]));
    assert_eq!(
        (&claims["sub"], claims["iss"].is_string()),
        (&json!("webhook"), true)
    );
    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(life, 300);
    for path in [
        "/api/webhooks",
        "/api/workflow/runs",
        "/metrics",
        "/api/auth/me",
    ] {
        api.with_token(token).get(path).expect(401);
    }
    // Not even one that claims to be for us, and is signed with what receivers know.
    let forged =
        json!({"sub": "vski-cli", "id": "", "purpose": "service", "key": "", "exp": now() + 300});
    for secret in [
        secret_of(&api),
        String::from_utf8_lossy(&STANDARD.decode(&secret_of(&api)[6..]).unwrap()).into_owned(),
    ] {
        for token in [
            sign(&forged, &secret),
            sign_with(&forged, secret.as_bytes()),
        ] {
            api.with_token(&token).get("/metrics").expect(401);
        }
    }
}

#[test]
fn failures_are_tried_again_and_redirects_not_followed() {
    let server = Server::start();
    let api = server.admin();
    let failing = Receiver::start(|_, before| {
        let status = if before < 1 { "500 No" } else { "204 Fine" };
        Some(status.to_owned())
    });
    let hook = make(&api, json!({"name": "f", "url": failing.url("/")}));
    let failed = call(&api, &hook, json!({}));
    let elsewhere = Receiver::content();
    // An answer is a function, so the place comes as a part of the path.
    let moving = Receiver::start(|request, _| {
        let place = request.path.trim_start_matches('/').replace('-', ":");
        Some(format!("302 Found\r\nLocation: http://{place}/"))
    });
    let place = elsewhere.url("").replace("http://", "").replace(':', "-");
    let url = moving.url(&format!("/{place}"));
    let moved = make(&api, json!({"name": "m", "url": url, "retryLimit": 1}));
    let moved = call(&api, &moved, json!({}));
    let waiting = wait_for(&api, failed, "pending", 1);
    assert_eq!(waiting["code"], 500);
    assert!(waiting["nextAttempt"].is_string());
    wait_for(&api, failed, "success", 2);
    let calls = failing.received();
    let gap = calls[1].at - calls[0].at;
    assert!(gap >= Duration::from_secs(2), "{gap:?}");
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    assert_ne!(
        calls[0].header("webhook-timestamp"),
        calls[1].header("webhook-timestamp")
    );
    let given_up = wait_for(&api, moved, "failed", 2);
    assert_eq!(given_up["code"], 302);
    assert_eq!(moving.received().len(), 2);
    assert!(elsewhere.received().is_empty());
    wait_until("it is in the log", || {
        server
            .log()
            .iter()
            .any(|line| line.contains("webhook failed"))
    });
    let metrics = api.get("/metrics").expect(200);
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in [
        "vski_webhook_attempts_total{outcome=\"success\"} 1",
        "vski_webhook_attempts_total{outcome=\"retried\"} 2",
        "vski_webhook_attempts_total{outcome=\"failed\"} 1",
        "vski_webhook_pending 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn a_receiver_that_hangs_holds_up_nobody_and_no_stop() {
    let server = Server::start();
    let api = server.admin();
    let (hanging, well) = (Receiver::start(|_, _| None), Receiver::content());
    let slow = make(&api, json!({"name": "slow", "url": hanging.url("/")}));
    let calls: Vec<i64> = (0..20).map(|n| call(&api, &slow, json!(n))).collect();
    hanging.wait_for(6);
    let quick = make(&api, json!({"name": "quick", "url": well.url("/")}));
    let begun = Instant::now();
    for n in 0..5 {
        let id = call(&api, &quick, json!(n));
        wait_for(&api, id, "success", 1);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(hanging.received().len(), 6, "six at a time");
    let begun = Instant::now();
    let parts = server.into_parts();
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    // They are made again.
    let server = Server::from_parts(parts);
    let api = server.admin();
    hanging.wait_for(12);
    let first = row(&api, calls[0]);
    assert_eq!(
        (&first["status"], &first["attempts"]),
        (&json!("pending"), &json!(0))
    );
}

/// Twenty receivers that accept and never answer took all places for 30 seconds after a start,
/// since nothing was known of them yet, and a receiver that answers waited for them.
#[test]
fn receivers_that_hang_after_a_start_hold_up_no_other() {
    let server = Server::start();
    let api = server.admin();
    let well = Receiver::content();
    let hanging: Vec<Receiver> = (0..20).map(|_| Receiver::start(|_, _| None)).collect();
    for (n, receiver) in hanging.iter().enumerate() {
        let hook = make(
            &api,
            json!({"name": format!("h{n}"), "url": receiver.url("/")}),
        );
        call(&api, &hook, json!(n));
        call(&api, &hook, json!(n));
    }
    let quick = make(&api, json!({"name": "quick", "url": well.url("/")}));
    let begun = Instant::now();
    call(&api, &quick, json!({}));
    well.wait_for(1);
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(8), "{first:?}");
    // By now it is known to answer, and waits for nothing.
    let begun = Instant::now();
    for n in 2..8 {
        call(&api, &quick, json!({}));
        well.wait_for(n);
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn calls_that_pile_up_show_in_the_metrics() {
    let server = Server::start();
    let api = server.admin();
    let hanging = Receiver::start(|_, _| None);
    let hook = make(&api, json!({"name": "hook", "url": hanging.url("/")}));
    call(&api, &hook, json!(0));
    hanging.wait_for(1);
    // Behind the first count, which is that of the start.
    pause(Duration::from_millis(1500));
    for n in 1..30 {
        call(&api, &hook, json!(n));
    }
    wait_until("they are counted", || {
        let text = String::from_utf8(api.get("/metrics").expect(200).body).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("vski_webhook_pending "));
        line == Some("vski_webhook_pending 30")
    });
}

#[test]
fn what_waits_is_sent_after_a_kill() {
    let mut server = Server::start();
    let api = server.admin();
    let receiver = Receiver::start(|_, before| {
        let status = if before < 3 { "503 Not yet" } else { "200 OK" };
        Some(status.to_owned())
    });
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let body = json!({"name": "n", "url": receiver.url("/")});
    let made = api.post("/db/shop/api/webhooks", body).expect(200);
    let path = format!("/db/shop/api/webhooks/{}/call", made.text("/id"));
    for n in 0..3 {
        api.post(&path, n).expect(202);
    }
    receiver.wait_for(3);
    server.kill();
    let server = server.restart();
    let calls = receiver.wait_for(6);
    let api = server.admin();
    wait_until("all have come", || {
        let page = api
            .get("/db/shop/api/webhooks/logs?status=success")
            .expect(200);
        page.json["totalItems"] == 3
    });
    let ids = |calls: &[Received]| {
        let ids = calls.iter().map(|it| it.header("webhook-id").to_owned());
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(ids(&calls[..3]), ids(&calls[3..]));
    assert!(ids(&calls).iter().all(|id| id.starts_with("shop-")));
    assert_eq!(
        api.get("/api/webhooks/logs").expect(200).json["totalItems"],
        0
    );
}

#[test]
fn private_addresses_are_denied_where_that_is_wanted() {
    let server = Server::with(&[("WEBHOOK_DENY_PRIVATE", "true")]);
    let api = server.admin();
    let receiver = Receiver::content();
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    for (at, host) in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "169.254.169.254",
    ]
    .iter()
    .enumerate()
    {
        let url = format!("http://{host}:{port}/");
        let hook = make(&api, json!({"name": format!("n{at}"), "url": url}));
        let id = call(&api, &hook, json!({}));
        let denied = wait_for(&api, id, "failed", 1);
        assert!(
            denied["error"].as_str().unwrap().contains("private"),
            "{denied}"
        );
    }
    assert!(receiver.received().is_empty());
}

#[test]
fn webhooks_are_made_changed_and_deleted() {
    let server = Server::start();
    let api = server.admin();
    let full = json!({"name": "a", "url": "https://a.example", "secret": OWN_SECRET,
        "collection": "posts", "actions": ["create"], "headers": {"X": "y"}});
    let id = make(&api, full.clone());
    let path = format!("/api/webhooks/{id}");
    let made = api.get(&path).expect(200).json;
    assert_eq!(
        (&made["hasSecret"], &made["retryLimit"]),
        (&json!(true), &json!(5))
    );
    assert_eq!(
        (&made["actions"], &made["active"]),
        (&json!(["create"]), &json!(true))
    );
    let changed = api.patch(&path, json!({"active": false, "actions": "*"}));
    let changed = changed.expect(200).json;
    assert_eq!(
        (&changed["active"], &changed["hasSecret"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(changed["headers"], json!({"X": "***"}));
    let run = api.patch(&path, json!({"workflow": "w"})).expect(200).json;
    assert_eq!((&run["workflow"], &run["url"]), (&json!("w"), &Value::Null));
    api.post("/api/webhooks", full).expect(409);
    for (body, field) in [
        (json!({"name": "b"}), "url"),
        (json!({"url": "http://b"}), "name"),
        (json!({"name": "b", "url": "http://u@b"}), "url"),
        (json!({"name": "b", "url": "http://b", "wat": 1}), "wat"),
        (
            json!({"name": "b", "url": "http://b", "actions": "x"}),
            "actions",
        ),
        (
            json!({"name": "b", "url": "http://b", "retryLimit": 101}),
            "retryLimit",
        ),
        (
            json!({"name": "b", "url": "http://b", "secret": "s"}),
            "secret",
        ),
    ] {
        let reply = api.post("/api/webhooks", &body).expect(400);
        assert!(
            reply.json["data"].get(field).is_some(),
            "{body}: {}",
            reply.json
        );
    }
    api.post("/api/webhooks", "[]").expect(400);
    for n in 1..100 {
        make(&api, json!({"name": format!("n{n}"), "url": "http://b"}));
    }
    api.post(
        "/api/webhooks",
        json!({"name": "one more", "url": "http://b"}),
    )
    .expect(409);
    let list = api.get("/api/webhooks").expect(200);
    assert_eq!(list.column("name").len(), 100);
    api.delete(&path).expect(204);
    api.get(&path).expect(404);
    api.delete(&path).expect(404);
    api.patch("/api/webhooks/logs", json!({})).expect(404);
    api.get("/db/none/api/webhooks").expect(404);
    api.get("/db/default/api/webhooks/secret").expect(404);
}

#[test]
fn a_workflow_as_target_is_started_once() {
    let mut server = Server::start();
    let api = server.admin();
    let hook = make(&api, json!({"name": "run", "workflow": "order"}));
    let given = make(
        &api,
        json!({"name": "given", "workflow": "order", "input": {"i": 1}}),
    );
    let id = call(&api, &hook, json!({"n": 1}));
    let done = wait_for(&api, id, "success", 1);
    let run = done["answer"].as_str().unwrap().to_owned();
    let input = api
        .get(&format!("/api/workflow/runs/{run}/input"))
        .expect(200);
    assert_eq!(String::from_utf8_lossy(&input.body), r#"[{"n":1}]"#);
    let shown = api
        .get(&format!("/api/workflow/runs/{run}"))
        .expect(200)
        .json;
    assert_eq!(shown["attributes"]["startedBy"], "trigger");
    assert_eq!(shown["attributes"]["database"], "default");
    // As if the server had ended before it was noted.
    server.kill();
    let file = server.dir().join("data/default.db");
    let db = crate::support::sqlite_for_writing(&file);
    db.execute(
        "UPDATE _webhook_logs SET status = 'pending', attempts = 0",
        [],
    )
    .unwrap();
    drop(db);
    let server = server.restart();
    let api = server.admin();
    let again = wait_for(&api, id, "success", 1);
    assert_eq!(again["answer"], *run);
    let other = call(&api, &given, json!({}));
    let other = wait_for(&api, other, "success", 1);
    let other = other["answer"].as_str().unwrap();
    let input = api
        .get(&format!("/api/workflow/runs/{other}/input"))
        .expect(200);
    assert_eq!(String::from_utf8_lossy(&input.body), r#"[{"i":1}]"#);
    let runs = api.get("/api/workflow/runs").expect(200);
    assert_eq!(runs.column("runId").len(), 2);
}

#[test]
fn replicas_show_and_call_nobody() {
    let receiver = Receiver::start(|_, _| Some("500 No".to_owned()));
    let master = cluster::master();
    let replica = cluster::replica(&master);
    let api = master.admin();
    let hook = make(&api, json!({"name": "n", "url": receiver.url("/")}));
    let id = call(&api, &hook, json!({}));
    wait_for(&api, id, "pending", 2);
    drop(master);
    let calls = receiver.received().len();
    let api = replica.admin();
    wait_until("the call has arrived", || {
        let page = api.get("/api/webhooks/logs").expect(200);
        page.json["totalItems"] == 1
    });
    assert_eq!(api.get("/api/webhooks").expect(200).column("id"), [&*hook]);
    api.get("/api/webhooks/secret").expect(200);
    api.post(&format!("/api/webhooks/{hook}/call"), "{}")
        .expect(403);
    api.post("/api/webhooks/logs/retry", r#"{"failed":true}"#)
        .expect(403);
    pause(Duration::from_secs(5));
    assert_eq!(receiver.received().len(), calls);
    let metrics = api.get("/metrics").expect(200);
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("vski_webhook_attempts_total{outcome=\"failed\"} 0"));
}

#[test]
fn a_database_that_is_deleted_takes_its_calls_along() {
    let server = Server::start();
    let api = server.admin();
    let (hanging, well) = (Receiver::start(|_, _| None), Receiver::content());
    let shop = json!({"name": "shop"});
    let call_one = |url: String| {
        api.post("/api/databases", &shop).expect(200);
        let body = json!({"name": "n", "url": url});
        let made = api.post("/db/shop/api/webhooks", body).expect(200);
        let path = format!("/db/shop/api/webhooks/{}/call", made.text("/id"));
        assert_eq!(api.post(&path, "{}").expect(202).json["id"], 1);
    };
    call_one(hanging.url("/"));
    hanging.wait_for(1);
    api.delete("/api/databases/shop").expect(204);
    // Another one of that name has nothing to do with it, whatever the numbers of its calls.
    call_one(well.url("/"));
    let calls = well.wait_for(1);
    let first = hanging.received().remove(0);
    assert_ne!(calls[0].header("webhook-id"), first.header("webhook-id"));
    wait_until("the call of the new one has ended", || {
        let page = api.get("/db/shop/api/webhooks/logs").expect(200);
        page.column("status") == ["success"]
    });
    assert!(server.stop().success());
}
