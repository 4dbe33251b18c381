//! Batches with files: each belongs to the request in its name, and all or none are stored.

use serde_json::json;

use super::{DOCS, Place, form, link, on_both, send, server, stored};
use crate::support::wait_until;

fn files_of_a_batch_go_to_their_records(place: Place) {
    let server = server(place);
    let api = server.api();
    let made = api
        .post(DOCS, json!({"id": "known", "title": "old"}))
        .expect(200);
    let requests = json!({"requests": [
        {"method": "POST", "url": DOCS, "body": {"title": "one"}},
        {"method": "PATCH", "url": format!("{DOCS}/known"), "body": {"title": "new"}},
        {"method": "PUT", "url": DOCS, "body": {"id": "made", "title": "three"}},
        {"method": "PUT", "url": DOCS, "body": {"id": "known", "count": 4}},
    ]})
    .to_string();
    let body = form(&[
        ("@jsonPayload", None, requests.as_bytes()),
        ("requests.0.doc", Some("one.txt"), b"content of one"),
        ("requests.0.pics", Some("a.txt"), b"first picture"),
        ("requests.0.pics", Some("b.txt"), b"second picture"),
        ("requests.1.doc", Some("two.txt"), b"content of two"),
        ("requests[2].doc", Some("three.txt"), b"content of three"),
        ("requests.3.pics+", Some("four.txt"), b"content of four"),
    ]);
    let reply = send(&api, "POST", "/api/batch", &body).expect(200);
    let answers = reply.json.as_array().unwrap();
    let content = |at: usize, field: &str| {
        let record = &answers[at]["body"];
        String::from_utf8(
            api.get(&link(record, record.pointer(field).unwrap()))
                .expect(200)
                .body,
        )
        .unwrap()
    };
    assert_eq!(content(0, "/doc"), "content of one");
    assert_eq!(content(0, "/pics/0"), "first picture");
    assert_eq!(content(0, "/pics/1"), "second picture");
    assert_eq!(content(1, "/doc"), "content of two");
    assert_eq!(content(2, "/doc"), "content of three");
    assert_eq!(content(3, "/pics/0"), "content of four");
    assert_eq!(content(3, "/doc"), "content of two");
    assert_eq!(stored(&server).len(), 6);
    assert_eq!(made.text("/id"), "known");
}

fn a_batch_that_fails_stores_no_file(place: Place) {
    let server = server(place);
    let api = server.api();
    let cases = [
        // The second one is not there.
        (
            json!([{"method": "POST", "url": DOCS, "body": {}},
            {"method": "PATCH", "url": format!("{DOCS}/none"), "body": {}}]),
            "requests.1.doc",
        ),
        // Ids that would lead out of the storage.
        (
            json!([{"method": "PUT", "url": DOCS, "body": {"id": "../../../x"}}]),
            "requests.0.doc",
        ),
        (
            json!([{"method": "PATCH", "url": format!("{DOCS}/..%2F..%2F..%2Fx"), "body": {}}]),
            "requests.0.doc",
        ),
        (
            json!([{"method": "DELETE", "url": format!("{DOCS}/..%2F..%2F..%2Fx")}]),
            "requests.0.doc",
        ),
        // Files for no request.
        (
            json!([{"method": "POST", "url": DOCS, "body": {}}]),
            "requests.1.doc",
        ),
        (
            json!([{"method": "POST", "url": DOCS, "body": {}}]),
            "requests.0",
        ),
        (
            json!([{"method": "POST", "url": DOCS, "body": {}}]),
            "requests.-1.doc",
        ),
        (json!([{"method": "POST", "url": DOCS, "body": {}}]), "doc"),
        // Fields that take none.
        (
            json!([{"method": "POST", "url": DOCS, "body": {}}]),
            "requests.0.count",
        ),
    ];
    for (requests, field) in cases {
        let payload = json!({ "requests": requests }).to_string();
        let body = form(&[
            ("@jsonPayload", None, payload.as_bytes()),
            (field, Some("a.txt"), b"content"),
        ]);
        let reply = send(&api, "POST", "/api/batch", &body);
        assert!(
            [400, 404].contains(&reply.status),
            "{payload} {field}: {}",
            reply.status
        );
        wait_until("nothing is stored", || stored(&server).is_empty());
    }
    assert_eq!(api.list("docs", &[]).json["totalItems"], 0);
    assert!(!server.dir().join("x").exists() && !server.dir().join("data/x").exists());
    let body = form(&[("doc", Some("a.txt"), b"content")]);
    send(&api, "PATCH", &format!("{DOCS}/..%2F..%2F..%2Fx"), &body).expect(404);
    assert!(stored(&server).is_empty());
}

/// Files of a caller who may not write any are not received.
fn a_batch_of_somebody_who_may_write_no_files_is_short(place: Place) {
    let server = server(place);
    let admin = server.admin();
    let rules = json!({"createRule": null, "updateRule": null});
    admin.patch("/api/collections/docs", rules).expect(200);
    let requests = json!({"requests": [{"method": "POST", "url": DOCS, "body": {}}]}).to_string();
    let content = b"text ".repeat(780_000);
    let parts = [
        ("@jsonPayload", None, requests.as_bytes()),
        ("requests.0.pics", Some("a.txt"), &content[..]),
        ("requests.0.pics", Some("b.txt"), &content[..1_000_000]),
        ("requests.0.doc", Some("c.txt"), &content[..1_000_000]),
    ];
    let server = server.restart_with("MAX_BODY_MB", "16");
    let (api, admin) = (server.api(), server.admin());
    send(&api, "POST", "/api/batch", &form(&parts)).expect(413);
    send(&admin, "POST", "/api/batch", &form(&parts)).expect(200);
}

on_both!(
    files_of_a_batch_go_to_their_records,
    a_batch_that_fails_stores_no_file,
    a_batch_of_somebody_who_may_write_no_files_is_short,
);
