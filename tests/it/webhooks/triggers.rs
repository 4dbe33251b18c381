//! Calls that changes of records cause: triggers of collections, and webhooks for collections.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::make;
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::wait_until;

/// Action and title of each call, in no order: that is not promised.
fn told(receiver: &Receiver, count: usize) -> BTreeSet<(String, String)> {
    let received = receiver.wait_for(count);
    let payloads = received.iter().map(|it| {
        let payload: Value = serde_json::from_str(&it.body).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&payload["action"]), text(&payload["record"]["title"]))
    });
    let told: BTreeSet<_> = payloads.collect();
    assert_eq!(told.len(), received.len(), "{received:?}");
    told
}

fn expected(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(action, title)| ((*action).to_owned(), (*title).to_owned()))
        .collect()
}

#[test]
fn every_change_of_a_record_is_told_and_no_other() {
    let server = Server::start();
    let api = server.admin();
    let receiver = Receiver::content();
    let trigger = json!({"action": "*", "url": receiver.url("/all"), "headers": {"X-Key": "k"}});
    let posts = api.post(
        "/api/collections",
        json!({"name": "posts", "fields": [
        {"name": "title", "type": "text", "required": true},
        {"name": "remark", "type": "text", "hidden": true},
        {"name": "parent", "type": "relation", "collectionId": "posts", "cascadeDelete": true},
    ], "options": {"triggers": [trigger]}}),
    );
    let posts = posts.expect(200).text("/id").to_owned();
    let path = "/api/collections/posts/records";
    let first = api
        .post(path, json!({"title": "one", "remark": "hidden"}))
        .expect(200);
    let first = first.text("/id").to_owned();
    let call = receiver.wait_for(1).remove(0);
    assert_eq!((call.header("X-Key"), call.method.as_str()), ("k", "POST"));
    let payload: Value = serde_json::from_str(&call.body).unwrap();
    assert_eq!(
        (
            &payload["action"],
            &payload["database"],
            &payload["collection"]
        ),
        (&json!("create"), &json!("default"), &json!("posts"))
    );
    let record = &payload["record"];
    assert_eq!(
        (&record["id"], &record["title"], &record["collectionId"]),
        (&json!(first), &json!("one"), &json!(posts))
    );
    assert!(record["created"].is_string() && payload["time"].is_string());
    assert!(record.get("remark").is_none(), "{payload}");

    // Refused ones are no changes, nor are those of a batch that fails.
    api.post(path, json!({"title": ""})).expect(400);
    let batch = json!({"requests": [
        {"method": "POST", "url": path, "body": {"title": "undone"}},
        {"method": "POST", "url": path, "body": {}},
    ]});
    api.post("/api/batch", batch).expect(400);
    // A batch, a change in bulk, and what a deletion takes along.
    let batch = json!({"requests": [
        {"method": "POST", "url": path, "body": {"title": "two", "parent": first}},
        {"method": "PATCH", "url": format!("{path}/{first}"), "body": {"title": "one again"}},
    ]});
    api.post("/api/batch", batch).expect(200);
    api.patch(path, json!({"ids": [first], "data": {"title": "in bulk"}}))
        .expect(200);
    api.delete(&format!("{path}/{first}")).expect(204);
    let all = expected(&[
        ("create", "one"),
        ("create", "two"),
        ("update", "one again"),
        ("update", "in bulk"),
        ("delete", "in bulk"),
        ("delete", "two"),
    ]);
    assert_eq!(told(&receiver, 6), all);
    let log = api
        .get("/api/webhooks/logs?collection=posts&source=trigger")
        .expect(200);
    assert_eq!(log.json["totalItems"], 6);
}

#[test]
fn webhooks_hear_of_the_collections_and_actions_that_they_name() {
    let server = Server::start();
    let api = server.admin();
    for name in ["posts", "notes"] {
        let fields = json!([{"name": "title", "type": "text"}]);
        api.post("/api/collections", json!({"name": name, "fields": fields}))
            .expect(200);
    }
    let (one, all) = (Receiver::content(), Receiver::content());
    make(
        &api,
        json!({"name": "one", "collection": "posts", "actions": ["update", "delete"],
        "url": one.url("/")}),
    );
    make(
        &api,
        json!({"name": "all", "collection": "*", "actions": "create", "url": all.url("/")}),
    );
    let off = json!({"name": "off", "collection": "*", "url": one.url("/off"), "active": false});
    make(&api, off);
    for name in ["posts", "notes"] {
        let path = format!("/api/collections/{name}/records");
        let made = api.post(&path, json!({"title": name})).expect(200);
        let path = format!("{path}/{}", made.text("/id"));
        api.patch(&path, json!({"title": format!("{name} changed")}))
            .expect(200);
        api.delete(&path).expect(204);
    }
    let of_posts = [("update", "posts changed"), ("delete", "posts changed")];
    assert_eq!(told(&one, 2), expected(&of_posts));
    assert_eq!(
        told(&all, 2),
        expected(&[("create", "posts"), ("create", "notes")])
    );
    // In another database there are none.
    api.post("/api/databases", json!({"name": "other"}))
        .expect(200);
    let fields = json!([{"name": "title", "type": "text"}]);
    let other = json!({"name": "posts", "fields": fields, "options": {"triggers":
        [{"action": "create", "url": one.url("/other")}]}});
    api.post("/db/other/api/collections", other).expect(200);
    api.post(
        "/db/other/api/collections/posts/records",
        json!({"title": "t"}),
    )
    .expect(200);
    let last = one.wait_for(3).pop().unwrap();
    let payload: Value = serde_json::from_str(&last.body).unwrap();
    assert_eq!(
        (last.path.as_str(), &payload["database"]),
        ("/other", &json!("other"))
    );
    assert_eq!(
        api.get("/db/other/api/webhooks/logs").expect(200).json["totalItems"],
        1
    );
    assert_eq!((one.received().len(), all.received().len()), (3, 2));
}

#[test]
fn a_trigger_starts_a_workflow_with_what_has_happened() {
    let server = Server::start();
    let api = server.admin();
    let wrong = json!({"name": "posts", "fields": [], "options": {"triggers": [
        {"action": "create", "workflow": "publish", "url": "http://127.0.0.1"}]}});
    let refused = api.post("/api/collections", wrong).expect(400);
    assert!(
        refused.json["data"]["options"]["triggers"]["0"]["url"]["code"].is_string(),
        "{:?}",
        refused.json
    );
    api.post(
        "/api/collections",
        json!({"name": "posts", "fields": [{"name": "title", "type": "text"}],
        "options": {"triggers": [{"action": "create", "workflow": "publish"}]}}),
    )
    .expect(200);
    let made = api
        .post("/api/collections/posts/records", json!({"title": "t"}))
        .expect(200);
    let list = || api.get("/api/workflow/runs").expect(200);
    wait_until("a run", || {
        list().json["items"]
            .as_array()
            .is_some_and(|it| it.len() == 1)
    });
    let run = list().column("runId").remove(0);
    let path = format!("/api/workflow/runs/{}", run.as_str().unwrap());
    let shown = api.get(&path).expect(200).json;
    assert_eq!(
        (
            &shown["workflow"],
            &shown["attributes"]["collection"],
            &shown["attributes"]["record"]
        ),
        (&json!("publish"), &json!("posts"), &made.json["id"])
    );
    let input = api.get(&format!("{path}/input")).expect(200);
    let input: Value = serde_json::from_slice(&input.body).unwrap();
    assert_eq!(
        (&input[0]["action"], &input[0]["record"]["title"]),
        (&json!("create"), &json!("t"))
    );
    // Without its trigger the collection is quiet.
    api.patch("/api/collections/posts", json!({"options": {}}))
        .expect(200);
    api.post("/api/collections/posts/records", json!({"title": "u"}))
        .expect(200);
    assert_eq!(
        api.get("/api/webhooks/logs").expect(200).json["totalItems"],
        1
    );
}

/// Each call has a copy of the record in the file: one write must not be able to fill the disk.
#[test]
fn a_record_that_is_too_large_for_so_many_calls_is_refused() {
    let server = Server::start();
    let admin = server.admin();
    let trigger = json!({"action": "*", "url": "http://127.0.0.1:9"});
    let definition = json!({
        "name": "big", "fields": [{"name": "text", "type": "text", "max": 5_000_000}],
        "options": {"triggers": vec![trigger; 20]},
    });
    admin.post("/api/collections", definition).expect(200);
    let record = |bytes: usize| json!({"text": "a".repeat(bytes)});
    let path = "/api/collections/big/records";
    admin.post(path, record(3_900_000)).expect(413);
    let logs = "/api/webhooks/logs";
    assert_eq!(admin.get(logs).expect(200).json["totalItems"], 0);
    assert_eq!(admin.get(path).expect(200).json["totalItems"], 0);
    admin.post(path, record(1_000_000)).expect(200);
    wait_until("the calls are in the log", || {
        admin.get(logs).expect(200).json["totalItems"] == 20
    });
}
