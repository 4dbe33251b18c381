//! Secrets of calls: an API key neither reads them nor sends data to a URL of its choice.

use serde_json::{Value, json};

use super::{OWN_SECRET, check_signature, make};
use crate::support::api::Api;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

const WORD: &str = "Bearer a-word-to-hide";

fn key(admin: &Api, server: &Server, scope: &str) -> Api {
    let body = json!({"name": scope, "scopes": [scope]});
    let made = admin.post("/api/keys", body).expect(200);
    server.api().with_token(made.text("/key"))
}

fn posts(receiver: &Receiver) -> Value {
    json!({"name": "posts", "fields": [{"name": "title", "type": "text"}], "options": {"triggers": [
        {"action": "create", "url": receiver.url("/t"), "secret": OWN_SECRET,
         "headers": {"Authorization": WORD, "X-Key": "k-to-hide"}},
        {"action": "delete", "workflow": "tidy"},
    ]}})
}

#[track_caller]
fn hides(body: &[u8]) {
    let text = String::from_utf8_lossy(body);
    assert!(
        !text.contains("to-hide") && !text.contains("whsec_"),
        "{text}"
    );
}

/// A key with the scope `collections` could send each record to any URL, with a token that the
/// server signs, by a trigger of a collection; webhooks were closed to it. It changes all else
/// about a collection that has such triggers, with or without sending them back.
#[test]
fn a_key_changes_collections_and_no_calls() {
    let server = Server::start();
    let admin = server.admin();
    let receiver = Receiver::content();
    let key = key(&admin, &server, "collections");
    key.post("/api/collections", posts(&receiver)).expect(403);
    key.get("/api/collections/posts").expect(404);
    admin.post("/api/collections", posts(&receiver)).expect(200);

    let path = "/api/collections/posts";
    let shown = key.get(path).expect(200).json["options"]["triggers"].clone();
    hides(shown.to_string().as_bytes());
    let (call, run) = (shown[0].clone(), shown[1].clone());
    let mut evil = call.clone();
    evil["url"] = json!("http://evil.example/");
    let mut more = call.clone();
    more["jwtEnabled"] = json!(true);
    let mut renewed = call.clone();
    renewed["secret"] = json!("whsec_MDEyMzQ1Njc4OWFiY2RlZg==");
    for triggers in [
        json!(null),
        json!([]),
        json!([run]),
        json!([call, evil]),
        json!([more, run]),
        json!([renewed, run]),
        json!([call, call, run]),
    ] {
        let body = json!({"options": {"triggers": triggers}});
        let reply = key.patch(path, &body).expect(403);
        assert!(
            reply.text("/message").contains("administrators"),
            "{}",
            reply.json
        );
        let text = json!({"options": body["options"].to_string()});
        key.patch(path, text).expect(403);
    }
    // The secret of one URL is not to be had by naming another, by an administrator neither.
    admin
        .patch(path, json!({"options": {"triggers": [evil]}}))
        .expect(400);

    for body in [
        json!({"listRule": ""}),
        json!({"options": {"remark": "kept"}}),
        json!({"options": {"remark": "kept", "triggers": [run, call]}}),
        json!({"options": null}),
        json!({"options": {"triggers": [call]}}),
    ] {
        hides(&key.patch(path, body).expect(200).body);
    }
    let kept = admin.get(path).expect(200).json["options"].clone();
    assert_eq!(kept, json!({"triggers": [call]}));
    admin
        .post("/api/collections/posts/records", json!({"title": "t"}))
        .expect(200);
    let received = receiver.wait_for(1).remove(0);
    assert_eq!(received.header("Authorization"), WORD);
    check_signature(&received, OWN_SECRET);
    key.delete(path).expect(204);
}

/// `GET` of a collection showed the signing secrets and headers of its triggers, and `GET` of
/// webhooks and jobs their headers. Now each answer has `***`, which may be sent back.
#[test]
fn what_is_secret_is_written_and_never_read() {
    let server = Server::start();
    let admin = server.admin();
    let receiver = Receiver::content();
    let made = admin.post("/api/collections", posts(&receiver)).expect(200);
    hides(&made.body);
    let trigger = &made.json["options"]["triggers"][0];
    assert_eq!(trigger["secret"], "***");
    assert_eq!(
        trigger["headers"],
        json!({"Authorization": "***", "X-Key": "***"})
    );
    hides(&admin.get("/api/collections").expect(200).body);
    let whole = admin.get("/api/collections/posts").expect(200);
    hides(&whole.body);
    hides(
        &admin
            .patch("/api/collections/posts", &whole.json)
            .expect(200)
            .body,
    );
    let record = admin
        .post("/api/collections/posts/records", json!({"title": "t"}))
        .expect(200);
    let received = receiver.wait_for(1).remove(0);
    assert_eq!(
        (received.header("Authorization"), received.header("X-Key")),
        (WORD, "k-to-hide")
    );
    check_signature(&received, OWN_SECRET);
    admin
        .delete(&format!(
            "/api/collections/posts/records/{}",
            record.text("/id")
        ))
        .expect(204);
}

/// The same for webhooks and jobs.
#[test]
fn headers_of_webhooks_and_jobs_are_written_and_never_read() {
    let server = Server::start();
    let admin = server.admin();
    let receiver = Receiver::content();
    let target = json!({"url": receiver.url("/w"), "secret": OWN_SECRET, "contentType": "text",
        "headers": {"Authorization": WORD}});
    let mut hook = target.clone();
    hook["name"] = json!("w");
    let mut job = target;
    job["name"] = json!("j");
    job["type"] = json!("http");
    job["schedule"] = json!("@yearly");
    let hook = format!("/api/webhooks/{}", make(&admin, hook));
    hides(&admin.post("/api/cron", job).expect(200).body);
    hides(&admin.get("/api/webhooks").expect(200).body);
    hides(&admin.get("/api/cron").expect(200).body);
    for (path, call) in [(&*hook, "call"), ("/api/cron/j", "run")] {
        let shown = admin.get(path).expect(200).json;
        let headers = json!({"Authorization": "***", "Content-Type": "text/plain; charset=utf-8"});
        assert_eq!(
            (&shown["headers"], &shown["secret"]),
            (&headers, &json!("***"))
        );
        hides(&admin.patch(path, &shown).expect(200).body);
        let wrong = admin
            .patch(path, json!({"headers": {"X-New": "***"}}))
            .expect(400);
        assert!(
            wrong.json["data"].get("headers").is_some(),
            "{}",
            wrong.json
        );
        let before = receiver.received().len();
        admin.post(&format!("{path}/{call}"), "").expect(202);
        let received = receiver.wait_for(before + 1).remove(before);
        assert_eq!(received.header("Authorization"), WORD);
        check_signature(&received, OWN_SECRET);
    }
    let none = json!({"name": "n", "url": "http://a", "secret": "***"});
    admin.post("/api/webhooks", none).expect(400);
}
