//! The log of calls, over HTTP and on the command line: pages, filters, calls made again, what is
//! not shown.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{OWN_SECRET, call, make, row, secret_of, wait_for};
use crate::support::receiver::Receiver;
use crate::support::server::{Server, command};

#[test]
fn secrets_and_headers_show_nowhere() {
    let server = Server::with(&[("LOG", "debug")]);
    let api = server.admin();
    let receiver = Receiver::start(|_, _| Some("400 No".to_owned()));
    let hook = make(
        &api,
        json!({"name": "n", "url": receiver.url("/"), "secret": OWN_SECRET, "retryLimit": 1,
            "headers": {"Authorization": "Bearer hidden-word"}}),
    );
    let id = call(&api, &hook, json!({}));
    wait_for(&api, id, "failed", 2);
    let shown = [
        api.get("/api/webhooks/logs").expect(200).body,
        api.get(&format!("/api/webhooks/logs/{id}"))
            .expect(200)
            .body,
        done(server.dir(), &["logs", "--json"]).into_bytes(),
        server.log().join("\n").into_bytes(),
    ];
    for shown in shown {
        let text = String::from_utf8(shown).unwrap();
        assert!(
            !text.contains("hidden-word") && !text.contains("whsec_"),
            "{text}"
        );
    }
    for shown in [
        api.get("/api/webhooks").expect(200).body,
        api.get(&format!("/api/webhooks/{hook}")).expect(200).body,
        api.patch(&format!("/api/webhooks/{hook}"), "{}")
            .expect(200)
            .body,
        done(server.dir(), &["list", "--json"]).into_bytes(),
    ] {
        assert!(!String::from_utf8(shown).unwrap().contains("whsec_"));
    }
}

#[test]
fn the_log_is_paged_filtered_and_failed_calls_are_made_again() {
    let server = Server::start();
    let api = server.admin();
    let receiver = Receiver::start(|request, before| {
        let is_well = request.path == "/well" || before >= 4;
        Some(if is_well { "200 OK" } else { "404 Not here" }.to_owned())
    });
    let well = make(&api, json!({"name": "well", "url": receiver.url("/well")}));
    let lost = make(
        &api,
        json!({"name": "lost", "url": receiver.url("/lost"), "retryLimit": 1}),
    );
    let lost = [call(&api, &lost, json!(1)), call(&api, &lost, json!(2))];
    for id in lost {
        wait_for(&api, id, "failed", 2);
    }
    let id = call(&api, &well, json!(3));
    wait_for(&api, id, "success", 1);
    let page = api.get("/api/webhooks/logs?perPage=2&page=2").expect(200);
    assert_eq!(
        (&page.json["totalItems"], &page.json["totalPages"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(page.column("id"), [lost[0]]);
    for (query, count) in [
        ("status=failed", 2),
        ("status=failed&name=lost", 2),
        ("name=well&source=webhook", 1),
        ("source=cron", 0),
        ("collection=posts", 0),
    ] {
        let page = api.get(&format!("/api/webhooks/logs?{query}")).expect(200);
        assert_eq!(page.json["totalItems"], count, "{query}");
    }
    api.get("/api/webhooks/logs?status=lost").expect(400);
    api.get("/api/webhooks/logs/x").expect(404);
    api.get("/api/webhooks/logs/99").expect(404);
    let retry = "/api/webhooks/logs/retry";
    for body in [
        json!({}),
        json!({"ids": []}),
        json!({"ids": [1], "failed": true}),
        json!({"id": 1}),
    ] {
        api.post(retry, body).expect(400);
    }
    assert_eq!(
        api.post(retry, json!({"ids": [lost[0], id]}))
            .expect(200)
            .json["count"],
        1
    );
    wait_for(&api, lost[0], "success", 1);
    assert_eq!(
        api.post(retry, json!({"failed": true})).expect(200).json["count"],
        1
    );
    wait_for(&api, lost[1], "success", 1);
}

fn webhooks(dir: &Path, args: &[&str]) -> (String, i32) {
    let output = command(dir).arg("webhooks").args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap();
    (String::from_utf8(text).unwrap(), code)
}

#[track_caller]
fn done(dir: &Path, args: &[&str]) -> String {
    let (text, code) = webhooks(dir, args);
    assert_eq!(code, 0, "{args:?}: {text}");
    text
}

#[test]
fn the_command_line_shows_and_makes_calls_again() {
    let server = Server::start();
    let api = server.admin();
    let dir = server.dir().to_owned();
    let receiver =
        Receiver::start(|_, before| Some(if before < 2 { "500 No" } else { "200 OK" }.to_owned()));
    let hook = make(
        &api,
        json!({"name": "n", "url": receiver.url("/"), "retryLimit": 1}),
    );
    let id = call(&api, &hook, json!({}));
    wait_for(&api, id, "failed", 2);
    assert!(done(&dir, &["list"]).contains(&hook));
    let shown = done(&dir, &["logs", "--status", "failed"]);
    assert!(shown.contains("The host answered 500."), "{shown}");
    assert_eq!(
        done(&dir, &["logs", "--status", "success"]).lines().count(),
        1
    );
    assert_eq!(done(&dir, &["secret"]).trim(), secret_of(&api));
    assert!(done(&dir, &["--help"]).contains("Usage: vski webhooks"));
    for args in [
        &["retry"][..],
        &["retry", "x"],
        &["retry", "1", "--failed"],
        &["logs", "--status", "x"],
        &["wat"],
    ] {
        assert_eq!(webhooks(&dir, args).1, 2, "{args:?}");
    }
    assert_eq!(webhooks(&dir, &["list", "--database", "../x"]).1, 1);
    assert_eq!(webhooks(&dir, &["retry", "99"]).1, 1);
    assert!(done(&dir, &["retry", "--failed"]).contains("1 calls are due again"));
    // The running server finds it by itself.
    wait_until_long(|| row(&api, id)["status"] == "success");
}

/// Like `wait_until`, for what the server looks for only every ten seconds.
fn wait_until_long(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(25));
        crate::support::pause(Duration::from_millis(50));
    }
}
