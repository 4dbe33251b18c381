//! `vski workflows`: runs listed, changed and moved, with a server and without one.

use std::path::Path;

use serde_json::{Value, json};

use super::support::Dir;
use super::support::server::{Server, command};
use super::support::token::{SECRET, now, sign};

/// The output of a command, and its exit code.
struct Said {
    out: String,
    err: String,
    code: i32,
}

fn workflows(dir: &Path, args: &[&str]) -> Said {
    let output = command(dir).arg("workflows").args(args).output().unwrap();
    Said {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().unwrap(),
    }
}

#[track_caller]
fn done(dir: &Path, args: &[&str]) -> String {
    let said = workflows(dir, args);
    assert_eq!(said.code, 0, "{args:?}: {}{}", said.out, said.err);
    said.out
}

#[track_caller]
fn refused(dir: &Path, args: &[&str], code: i32) -> String {
    let said = workflows(dir, args);
    assert_eq!(said.code, code, "{args:?}: {}{}", said.out, said.err);
    said.out + &said.err
}

fn start(server: &Server, run: Value) -> String {
    let reply = server.admin().post("/api/workflow/runs", run).expect(200);
    reply.text("/runId").to_owned()
}

fn status(dir: &Path, run: &str) -> String {
    let shown: Value = serde_json::from_str(&done(dir, &["show", run, "--json"])).unwrap();
    shown["run"]["status"].as_str().unwrap().to_owned()
}

#[test]
fn runs_are_listed_and_shown_with_a_server_and_without() {
    let server = Server::start();
    let api = server.admin();
    let first = start(&server, json!({"workflow": "order", "input": {"id": 42}}));
    let second = start(&server, json!({"workflow": "mail"}));
    let events = format!("/api/workflow/runs/{first}/events");
    let text = "a\nb\u{1b}[31m".repeat(100);
    for event in [
        json!({"type": "step_created", "correlationId": "ship#0", "data": 1}),
        json!({"type": "step_completed", "correlationId": "ship#0", "data": text}),
        json!({"type": "run_completed", "data": "shipped"}),
    ] {
        api.post(&events, &event).expect(200);
    }
    let look = |dir: &Path| {
        let all = done(dir, &["list"]);
        assert_eq!(all.lines().count(), 3, "{all}");
        assert!(all.contains(&first) && all.contains("completed"), "{all}");
        let mails = done(dir, &["list", "--workflow", "mail", "--status", "pending"]);
        assert!(
            mails.contains(&second) && !mails.contains(&first),
            "{mails}"
        );
        assert!(done(dir, &["list", "--limit", "1"]).contains("There are more runs"));
        let page: Value = serde_json::from_str(&done(dir, &["list", "--json"])).unwrap();
        assert_eq!(page["items"][1]["runId"], *first);
        let shown = done(dir, &["show", &first]);
        for part in [r#"{"id":42}"#, "shipped", "ship#0", "run_completed"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(!shown.contains('\u{1b}') && shown.lines().all(|line| line.len() < 300));
        let shown: Value = serde_json::from_str(&done(dir, &["show", &first, "--json"])).unwrap();
        assert_eq!(shown["run"]["output"], "shipped");
        assert_eq!(shown["events"][0]["type"], "run_created");
        assert!(refused(dir, &["show", "wrun_0"], 1).contains("There is no run wrun_0."));
    };
    look(server.dir());
    let parts = server.into_parts();
    look(parts.0.path());
}

#[test]
fn runs_are_cancelled_and_resumed_by_the_server_or_without_one() {
    let server = Server::start();
    let port = server.addr().port().to_string();
    let order = || json!({"workflow": "order"});
    let [first, second, third] = [(); 3].map(|()| start(&server, order()));
    let failed = start(&server, order());
    let fail = json!({"type": "run_failed", "data": {"kind": "fatal"}});
    let path = format!("/api/workflow/runs/{failed}/events");
    server.admin().post(&path, &fail).expect(200);

    let said = done(server.dir(), &["cancel", "--port", &port, &first]);
    assert!(said.contains(&format!("{first}  cancelled")), "{said}");
    assert!(said.contains("1 of 1 cancelled by the server at"), "{said}");
    let said = refused(
        server.dir(),
        &["cancel", "--port", &port, &second, "wrun_0", &failed],
        1,
    );
    assert!(said.contains("refused: There is no run wrun_0."), "{said}");
    assert!(
        said.contains(&format!("The run {failed} is failed.")),
        "{said}"
    );
    assert!(said.contains("1 of 3 cancelled"), "{said}");
    assert_eq!(status(server.dir(), &second), "cancelled");
    let retry = ["retry", "--port", &port, &failed, "--version", "2"];
    assert!(done(server.dir(), &retry).contains("1 of 1 resumed by the server"));
    assert_eq!(status(server.dir(), &failed), "pending");
    server.admin().post(&path, &fail).expect(200);

    // Where it is not to be found, or takes other tokens, that is said, and nothing is done.
    let said = refused(server.dir(), &["cancel", "--port", "1", &third], 1);
    assert!(
        said.contains("a server runs on") && said.contains("cannot be reached"),
        "{said}"
    );
    let secret = "another secret of more than thirty-two bytes";
    let other = ["cancel", "--port", &port, "--jwt-secret", secret, &third];
    assert!(refused(server.dir(), &other, 1).contains("401"));
    assert_eq!(status(server.dir(), &third), "pending");

    let parts = server.into_parts();
    let dir = parts.0.path();
    let said = refused(dir, &["cancel", &third, &first, "wrun_0"], 1);
    assert!(said.contains("2 of 3 cancelled on disk"), "{said}");
    assert!(done(dir, &["retry", &failed]).contains("1 of 1 resumed on disk"));
    assert!(refused(dir, &["retry", &failed], 1).contains("refused: The run is pending"));
    let server = Server::from_parts(parts);
    assert_eq!(status(server.dir(), &third), "cancelled");
    assert_eq!(status(server.dir(), &failed), "pending");
}

#[test]
fn runs_move_to_another_node_and_their_ids_with_them() {
    let (old, new) = (Server::start(), Server::start());
    let order = json!({"workflow": "order", "idempotencyKey": "one", "concurrencyKey": "k"});
    let run = start(&old, order.clone());
    let ended = start(&old, json!({"workflow": "order"}));
    let cancel = format!("/api/workflow/runs/{ended}/cancel");
    old.admin().post(&cancel, "").expect(200);
    let files = Dir::new();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (copy, moved) = (path("copy.jsonl"), path("moved.jsonl"));

    let said = done(old.dir(), &["export", &copy]);
    assert!(
        said.contains("1 runs, 1 of them unfinished") && said.contains("continue here"),
        "{said}"
    );
    let said = refused(old.dir(), &["export", &copy], 1);
    assert!(said.contains("exists already"), "{said}");
    let said = refused(old.dir(), &["export", &moved, "--all", "--drop"], 1);
    assert!(
        said.contains("A server runs on") && said.contains("stop it first"),
        "{said}"
    );
    assert!(refused(new.dir(), &["adopt", &copy], 1).contains("stop it first"));

    let (old, new) = (old.into_parts(), new.into_parts());
    let said = done(old.0.path(), &["export", &moved, "--all", "--drop"]);
    assert!(said.contains("2 runs, 1 of them unfinished") && said.contains("no longer here"));
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 2);
    assert_eq!(done(old.0.path(), &["list"]).lines().count(), 1);
    let mut cut = std::fs::read(&moved).unwrap();
    cut.truncate(cut.len() - 80);
    std::fs::write(path("cut.jsonl"), cut).unwrap();
    assert!(refused(new.0.path(), &["adopt", &path("cut.jsonl")], 1).contains("truncated"));
    let said = done(new.0.path(), &["adopt", &moved]);
    assert!(
        said.contains("2 adopted (1 of them unfinished), 0 existed already"),
        "{said}"
    );
    let said = done(new.0.path(), &["adopt", &copy]);
    assert!(
        said.contains("0 adopted") && said.contains("1 existed already"),
        "{said}"
    );

    // Both know what they have: the id still names the old node.
    let (old, new) = (Server::from_parts(old), Server::from_parts(new));
    let one = format!("/api/workflow/runs/{run}");
    assert_eq!(new.admin().get(&one).expect(200).text("/state"), "ready");
    old.admin().get(&one).expect(404);
    let again = new.admin().post("/api/workflow/runs", &order).expect(200);
    assert_eq!(again.text("/runId"), run);
    let port = new.addr().port().to_string();
    done(new.dir(), &["cancel", "--port", &port, &run]);
    // A key that is taken keeps a run out.
    let other = start(&old, order);
    let old = old.into_parts();
    let said = refused(old.0.path(), &["adopt", &copy], 1);
    assert!(said.contains(&format!(
        "{run} is left out: its idempotency key one is already used by {other}"
    )));
    assert!(said.contains("1 left out"), "{said}");
}

/// The command line signs a token of its own; a token of another name or of a replica is refused.
#[test]
fn only_the_command_line_may_sign_for_itself() {
    let server = Server::with(&[("JWT_SECRET", SECRET)]);
    let asked = |subject: &str, purpose: &str, path: &str| {
        let claims = json!({"sub": subject, "purpose": purpose, "key": "", "exp": now() + 300});
        let api = server.api().with_token(&sign(&claims, SECRET));
        api.get(path).status
    };
    let runs = "/api/workflow/runs";
    assert_eq!(asked("vski-cli", "service", runs), 200);
    assert_eq!(asked("vski-cli", "service", "/api/collections"), 403);
    for (subject, purpose) in [
        ("someone", "service"),
        ("", "service"),
        ("admin:vski-cli", "service"),
        ("vski-cli", "replica"),
        ("vski-cli", "admin"),
    ] {
        assert_eq!(asked(subject, purpose, runs), 401, "{subject} {purpose}");
    }
}

#[test]
fn wrong_use_says_what_is_wrong() {
    let dir = Dir::new();
    for (args, part) in [
        (&[][..], "workflows needs a subcommand: list"),
        (&["lists"], "workflows needs a subcommand: list"),
        (&["list", "x"], "unexpected argument x"),
        (
            &["list", "--status", "odd"],
            "--status must be one of pending",
        ),
        (&["list", "--limit", "0"], "--limit must be"),
        (&["list", "--drop"], "drop"),
        (&["show"], "show needs one RUN"),
        (&["cancel"], "cancel needs one or more RUNs"),
        (&["adopt"], "adopt needs one FILE"),
    ] {
        let said = refused(dir.path(), args, 2);
        assert!(said.contains(part), "{args:?}: {said}");
    }
    let help = command(dir.path()).args(["workflows", "--help"]).output();
    assert!(
        String::from_utf8(help.unwrap().stdout)
            .unwrap()
            .contains("--drop")
    );
    for args in [
        &["list"][..],
        &["cancel", "x"],
        &["adopt", "x"],
        &["export", "x"],
    ] {
        assert!(refused(dir.path(), args, 1).contains("There are no workflows in"));
    }
}
