//! Jobs that run by the clock: made, refused, run by hand, missed, on replicas, on the command
//! line.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::receiver::Receiver;
use crate::support::server::{Server, command};
use crate::support::{cluster, pause, sqlite, sqlite_for_writing, wait_until};

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) \
                       SELECT count(*) FROM c";

fn job(name: &str, sql: &str) -> Value {
    json!({"name": name, "schedule": "0 3 * * *", "type": "sql", "sql": sql})
}

fn make(api: &Api, job: &Value) -> String {
    let made = api.post("/api/cron", job).expect(200);
    made.text("/id").to_owned()
}

/// Runs a job and waits for its end; the run.
#[track_caller]
fn run(api: &Api, name: &str) -> Value {
    let begun = api.post(&format!("/api/cron/{name}/run"), "").expect(202);
    let mut last = Value::Null;
    wait_until(&format!("{name} has run"), || {
        last = api.get(&format!("/api/cron/{name}")).expect(200).json["last"].clone();
        last["id"] == begun.json["id"] && last["status"] != "running"
    });
    last
}

fn message(run: &Value) -> &str {
    run["message"].as_str().unwrap()
}

fn notes(server: &Server) -> Api {
    let admin = server.admin();
    cluster::open_collection(&admin, "notes");
    for n in 0..5 {
        let note = json!({"title": "a note", "n": n});
        admin
            .post("/api/collections/notes/records", note)
            .expect(200);
    }
    admin
}

fn count(api: &Api) -> Value {
    let list = api.get("/api/collections/notes/records").expect(200);
    list.json["totalItems"].clone()
}

#[test]
fn jobs_are_made_shown_changed_and_deleted() {
    let server = Server::start();
    let admin = server.admin();
    let tidy = json!({"name": "tidy", "schedule": "*/5 * * * MON", "timeZone": "Europe/Berlin",
                      "type": "sql", "sql": "SELECT 1"});
    let made = admin.post("/api/cron", &tidy).expect(200);
    let id = made.text("/id").to_owned();
    assert_eq!(made.json["database"], "default");
    assert_eq!(
        (&made.json["active"], &made.json["timeout"]),
        (&json!(true), &json!(30))
    );
    assert!(made.text("/next") > made.text("/created"));
    assert_eq!(
        (&made.json["last"], &made.json["isRunning"]),
        (&Value::Null, &json!(false))
    );
    for path in [format!("/api/cron/{id}"), "/api/cron/tidy".to_owned()] {
        assert_eq!(admin.get(&path).expect(200).text("/id"), id);
    }
    let reply = admin.post("/api/cron", &tidy).expect(400);
    assert_eq!(reply.text("/data/name/code"), "validation_not_unique");

    let call = json!({"name": "call", "schedule": "@hourly", "type": "http",
                      "url": "https://example.org/x", "method": "get",
                      "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="});
    let call = admin.post("/api/cron", call).expect(200);
    assert_eq!(
        (&call.json["method"], &call.json["hasSecret"]),
        (&json!("GET"), &json!(true))
    );
    assert!(!String::from_utf8_lossy(&call.body).contains("whsec"));
    assert_eq!(
        admin.get("/api/cron").expect(200).column("name"),
        ["call", "tidy"]
    );

    let changed = admin.patch("/api/cron/tidy", json!({"active": false, "name": "tidier"}));
    let changed = changed.expect(200);
    assert_eq!(
        (&changed.json["next"], &changed.json["id"]),
        (&Value::Null, &json!(id))
    );
    admin
        .patch("/api/cron/tidier", json!({"name": "call"}))
        .expect(400);
    admin
        .patch("/api/cron/tidier", json!({"type": "http"}))
        .expect(400);
    admin.get("/api/cron/tidy").expect(404);
    admin.delete(&format!("/api/cron/{id}")).expect(204);
    admin.get(&format!("/api/cron/{id}")).expect(404);
    assert_eq!(admin.get("/api/cron").expect(200).column("name"), ["call"]);
}

#[test]
fn what_cannot_work_is_refused_when_it_is_written() {
    let server = Server::start();
    let admin = notes(&server);
    for (sql, part) in [
        ("SELEC 1", "syntax error"),
        ("DELETE FROM nots", "no such table: nots"),
        ("DELETE FROM notes WHERE m = 1", "no such column: m"),
        ("ATTACH 'x' AS x", "attach"),
        ("PRAGMA user_version = 1", "PRAGMA"),
        ("BEGIN; DELETE FROM notes; COMMIT", "transactions"),
        ("CREATE TABLE x (y)", "create, alter or drop"),
        ("DELETE FROM _admins", "_admins"),
        (
            "UPDATE notes SET title = (SELECT hash FROM _api_keys)",
            "_api_keys",
        ),
    ] {
        let reply = admin.post("/api/cron", job("bad", sql)).expect(400);
        assert!(
            reply.text("/data/sql/message").contains(part),
            "{sql}: {}",
            reply.json
        );
    }
    let mut other = job("bad", "SELECT 1");
    other["database"] = json!("nowhere");
    let reply = admin.post("/api/cron", &other).expect(400);
    assert!(
        reply
            .text("/data/database/message")
            .contains("no database nowhere")
    );
    for (name, value) in [
        ("schedule", json!("* * 31 2 *")),
        ("timeZone", json!("Moon")),
    ] {
        let mut bad = job("bad", "SELECT 1");
        bad[name] = value;
        let reply = admin.post("/api/cron", &bad).expect(400);
        assert!(reply.json["data"][name].is_object(), "{}", reply.json);
    }
    for number in 0..200 {
        make(&admin, &job(&format!("job {number}"), "SELECT 1"));
    }
    admin
        .post("/api/cron", job("one too many", "SELECT 1"))
        .expect(409);
}

#[test]
fn scripts_change_rows_and_their_runs_are_kept() {
    let server = Server::start();
    let admin = notes(&server);
    let id = make(
        &admin,
        &job(
            "tidy",
            "DELETE FROM notes WHERE n < 2; UPDATE notes SET n = 0",
        ),
    );
    let done = run(&admin, "tidy");
    assert_eq!(
        (&done["status"], &done["due"]),
        (&json!("success"), &Value::Null)
    );
    assert_eq!(message(&done), "5 rows changed.");
    assert_eq!(count(&admin), 3);
    // One that is not active runs by hand, and its failures are said.
    admin
        .patch(
            "/api/cron/tidy",
            json!({"active": false, "sql": "UPDATE notes SET id = 'x'"}),
        )
        .expect(200);
    let failed = run(&admin, "tidy");
    assert_eq!(failed["status"], "failed");
    assert!(
        message(&failed).contains("UNIQUE constraint failed: notes.id"),
        "{failed}"
    );
    assert_eq!(count(&admin), 3);
    let runs = admin
        .get(&format!("/api/cron/{id}/runs?perPage=1&page=2"))
        .expect(200);
    assert_eq!(
        (&runs.json["totalItems"], &runs.json["totalPages"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(runs.column("status"), ["success"]);
    let metrics = admin.get("/metrics").expect(200);
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(
        metrics.contains("vski_cron_runs_total{outcome=\"failed\"} 1"),
        "{metrics}"
    );
    // With the job its runs go, and another one of the name has none.
    admin.delete("/api/cron/tidy").expect(204);
    wait_until("the runs are gone", || {
        let local = sqlite(&server.dir().join("data/local.db"));
        let sql = "SELECT count(*) FROM _cron_runs";
        local
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 0
    });
    admin.post("/api/cron/tidy/run", "").expect(404);
}

#[test]
fn a_script_that_does_not_end_is_stopped_and_runs_once_at_a_time() {
    let server = Server::start();
    let admin = notes(&server);
    let mut endless = job("endless", &format!("DELETE FROM notes; {ENDLESS}"));
    endless["timeout"] = json!(1);
    make(&admin, &endless);
    admin.post("/api/cron/endless/run", "").expect(202);
    let reply = admin.post("/api/cron/endless/run", "").expect(409);
    assert!(reply.text("/message").contains("already running"));
    assert_eq!(
        admin.get("/api/cron/endless").expect(200).json["isRunning"],
        true
    );
    // Writes meanwhile wait, and none is lost.
    admin
        .post("/api/collections/notes/records", json!({"title": "late"}))
        .expect(200);
    wait_until("it was stopped", || {
        admin.get("/api/cron/endless").expect(200).json["isRunning"] == false
    });
    let last = admin.get("/api/cron/endless/runs").expect(200).json["items"][0].clone();
    assert!(message(&last).contains("time limit of 1 s"), "{last}");
    assert_eq!(count(&admin), 6);
    assert_eq!(run(&admin, "endless")["status"], "failed");
}

#[test]
fn a_stop_ends_a_script_and_a_kill_leaves_it_failed() {
    let server = Server::start();
    let admin = notes(&server);
    let mut endless = job("endless", &format!("DELETE FROM notes; {ENDLESS}"));
    endless["timeout"] = json!(300);
    make(&admin, &endless);
    admin.post("/api/cron/endless/run", "").expect(202);
    let begun = Instant::now();
    let parts = server.into_parts();
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    let mut server = Server::from_parts(parts);
    let admin = server.admin();
    let last = admin.get("/api/cron/endless").expect(200).json["last"].clone();
    assert_eq!(message(&last), "The server stopped.");
    assert_eq!(count(&admin), 5);
    admin.post("/api/cron/endless/run", "").expect(202);
    server.kill();
    let server = server.restart();
    let last = server.admin().get("/api/cron/endless").expect(200).json["last"].clone();
    assert_eq!(message(&last), "The server stopped during the run.");
    assert_eq!(last["status"], "failed");
    assert_eq!(count(&server.admin()), 5);
}

#[test]
fn calls_are_queued_and_workflows_started() {
    let server = Server::start();
    let admin = server.admin();
    make(
        &admin,
        &json!({"name": "ping", "schedule": "@daily", "type": "http", "retryLimit": 1,
                         "url": "http://127.0.0.1:9/", "headers": {"X-Key": "v"}}),
    );
    make(
        &admin,
        &json!({"name": "go", "schedule": "@daily", "type": "workflow", "workflow": "order"}),
    );
    make(
        &admin,
        &json!({"name": "with", "schedule": "@daily", "type": "workflow", "workflow": "mail",
                         "input": {"a": [1]}}),
    );
    assert_eq!(run(&admin, "ping")["status"], "success");
    let default = sqlite(&server.dir().join("data/default.db"));
    let queued: (String, String) = default
        .query_row(
            "SELECT payload, target FROM _webhook_logs WHERE source = 'cron' AND name = 'ping'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    let payload: Value = serde_json::from_str(&queued.0).unwrap();
    assert_eq!(
        (&payload["job"], queued.1.as_str()),
        (&json!("ping"), "http://127.0.0.1:9/")
    );
    for (name, workflow, input) in [
        ("go", "order", None),
        ("with", "mail", Some(json!({"a": [1]}))),
    ] {
        assert_eq!(run(&admin, name)["status"], "success");
        let runs = admin
            .get(&format!("/api/workflow/runs?workflow={workflow}"))
            .expect(200);
        let [run] = runs.column("runId")[..].to_vec().try_into().unwrap();
        let run: Value = run;
        let path = format!("/api/workflow/runs/{}/input", run.as_str().unwrap());
        let given = admin.get(&path).expect(200).json;
        match input {
            Some(input) => assert_eq!(given, input),
            None => assert_eq!(given[0]["job"], name),
        }
    }
}

/// Sets back how far jobs have come, as if the server had been down.
fn miss(dir: &Path, days: i64) {
    let local = sqlite_for_writing(&dir.join("data/local.db"));
    let sql = "UPDATE _cron_state SET done_until_ms = done_until_ms - ?1 * 86400000";
    assert_eq!(local.execute(sql, [days]).unwrap(), 3);
}

fn runs_by_clock(api: &Api, name: &str) -> Vec<Value> {
    let runs = api.get(&format!("/api/cron/{name}/runs")).expect(200);
    runs.column("due")
        .into_iter()
        .filter(|due| !due.is_null())
        .collect()
}

#[test]
fn times_missed_are_one_run_and_a_call_of_one_time_is_queued_once() {
    let server = Server::start();
    let admin = notes(&server);
    make(&admin, &job("tidy", "UPDATE notes SET n = n + 10"));
    make(
        &admin,
        &json!({"name": "ping", "schedule": "0 3 * * *", "type": "http",
                         "url": "http://127.0.0.1:9/"}),
    );
    make(
        &admin,
        &json!({"name": "go", "schedule": "0 3 * * *", "type": "workflow", "workflow": "w"}),
    );
    wait_until("they are planned", || {
        let local = sqlite(&server.dir().join("data/local.db"));
        let sql = "SELECT count(*) FROM _cron_state";
        local
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
            == 3
    });
    let mut parts = server.into_parts();
    let mut dues = Vec::new();
    for round in 1..=2 {
        miss(parts.0.path(), 5);
        let server = Server::from_parts(parts);
        let admin = server.admin();
        for name in ["tidy", "ping", "go"] {
            wait_until(&format!("{name} was made up for"), || {
                runs_by_clock(&admin, name).len() == round
            });
        }
        dues.push(runs_by_clock(&admin, "ping"));
        parts = server.into_parts();
    }
    // The same time: a call and a run of it are there once; a script has no such key.
    let server = Server::from_parts(parts);
    let is_same_day = dues[1][0] == dues[1][1];
    let expected = if is_same_day { 1 } else { 2 };
    let default = sqlite(&server.dir().join("data/default.db"));
    let calls: i64 = default
        .query_row("SELECT count(*) FROM _webhook_logs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(calls, expected);
    let runs = server
        .admin()
        .get("/api/workflow/runs?workflow=w")
        .expect(200);
    assert_eq!(
        runs.column("runId").len(),
        usize::try_from(expected).unwrap()
    );
}

#[test]
fn a_replica_runs_what_is_about_its_own_databases() {
    let master = cluster::master();
    let admin = notes(&master);
    make(&admin, &job("tidy", "DELETE FROM notes"));
    make(
        &admin,
        &json!({"name": "ping", "schedule": "@daily", "type": "http", "url": "http://127.0.0.1:9/"}),
    );
    for (name, database, sql) in [
        ("stats", "stats", "DELETE FROM _requests"),
        (
            "runs",
            "workflows",
            "DELETE FROM runs WHERE ended IS NOT NULL",
        ),
    ] {
        let mut job = job(name, sql);
        job["database"] = json!(database);
        make(&admin, &job);
    }
    let replica = cluster::replica(&master);
    cluster::converge(&master, &replica);
    let there = replica.admin();
    let listed = there.get("/api/cron").expect(200);
    assert_eq!(listed.column("name"), ["ping", "runs", "stats", "tidy"]);
    let has_next: Vec<bool> = listed
        .column("next")
        .iter()
        .map(|it| !it.is_null())
        .collect();
    assert_eq!(has_next, [false, true, true, false]);
    for name in ["ping", "tidy"] {
        let reply = there.post(&format!("/api/cron/{name}/run"), "").expect(403);
        assert!(
            reply.text("/message").contains("A replica runs only"),
            "{}",
            reply.json
        );
    }
    for name in ["stats", "runs"] {
        assert_eq!(run(&there, name)["status"], "success");
        assert_eq!(
            admin.get(&format!("/api/cron/{name}")).expect(200).json["last"],
            Value::Null
        );
    }
    for (method, path) in [
        ("POST", "/api/cron"),
        ("PATCH", "/api/cron/tidy"),
        ("DELETE", "/api/cron/tidy"),
    ] {
        let reply = there.send(method, path, "{}").unwrap().expect(403);
        assert_eq!(reply.text("/code"), "read_only");
    }
    assert_eq!(count(&admin), 5);
    // The replica deletes a job that the master deletes.
    admin.delete("/api/cron/stats").expect(204);
    cluster::converge(&master, &replica);
    there.get("/api/cron/stats").expect(404);
}

fn cron(dir: &Path, args: &[&str], code: i32) -> String {
    let output = command(dir).arg("cron").args(args).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

#[test]
fn the_command_line_lists_runs_and_shows() {
    let server = Server::start();
    let admin = notes(&server);
    make(&admin, &job("tidy up/now", "DELETE FROM notes"));
    let port = server.addr().port().to_string();
    let said = cron(server.dir(), &["run", "tidy up/now", "--port", &port], 0);
    assert!(said.contains("Run 1 of tidy up/now has begun"), "{said}");
    wait_until("it has run", || count(&admin) == 0);
    let hint = "give this command the same HOST, PORT and JWT_SECRET";
    let said = cron(server.dir(), &["run", "none", "--port", &port], 1);
    assert!(!said.contains(hint), "{said}");
    let other = Receiver::start(|_, _| Some("404 Not Found".to_owned()));
    let other_port = other.url("").rsplit(':').next().unwrap().to_owned();
    let said = cron(server.dir(), &["run", "none", "--port", &other_port], 1);
    assert!(
        said.contains(hint) && said.contains("Is this the address of a vski"),
        "{said}"
    );
    let said = cron(server.dir(), &["run", "none", "--port", "9"], 1);
    assert!(
        said.contains(hint) && said.contains("cannot be reached"),
        "{said}"
    );
    let look = |dir: &Path| {
        let said = cron(dir, &["list"], 0);
        assert!(
            said.contains("tidy up/now") && said.contains("success"),
            "{said}"
        );
        let said = cron(dir, &["history", "tidy up/now", "--limit", "5"], 0);
        assert!(said.contains("5 rows changed."), "{said}");
        let said: Value = serde_json::from_str(&cron(dir, &["list", "--json"], 0)).unwrap();
        assert_eq!(said["items"][0]["name"], "tidy up/now");
        assert!(cron(dir, &["history", "none"], 1).contains("There is no cron job none."));
    };
    wait_until("its end is noted", || {
        cron(server.dir(), &["list"], 0).contains("success")
    });
    look(server.dir());
    let parts = server.into_parts();
    look(parts.0.path());
    assert!(cron(parts.0.path(), &["run", "x"], 1).contains("No server runs on"));
    for (args, part) in [
        (
            &["odd"][..],
            "cron needs a subcommand: list, run or history",
        ),
        (&["list", "x"], "unexpected argument x"),
        (&["run"], "run needs one NAME"),
        (&["history", "x", "--limit", "0"], "--limit must be"),
    ] {
        assert!(cron(parts.0.path(), args, 2).contains(part), "{args:?}");
    }
    let help = command(parts.0.path())
        .args(["cron", "--help"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("vski cron run NAME")
    );
}

/// It has the writer of `default` for longer than anybody shall wait who has other databases to see
/// to.
#[test]
fn a_long_script_holds_up_neither_calls_nor_replicas_of_other_databases() {
    let master = cluster::master();
    let admin = master.admin();
    let replica = cluster::replica(&master);
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    // The end of this one waits to be written to `default`.
    let slow = Receiver::start(|_, _| {
        pause(Duration::from_millis(700));
        Some("200 OK".to_owned())
    });
    let quick = Receiver::content();
    for (path, receiver) in [("", &slow), ("/db/shop", &quick)] {
        let definition = json!({"name": "notes", "fields": [{"name": "title", "type": "text"}]});
        admin
            .post(&format!("{path}/api/collections"), definition)
            .expect(200);
        let hook = json!({"name": "all", "url": receiver.url("/"), "collection": "*"});
        admin
            .post(&format!("{path}/api/webhooks"), hook)
            .expect(200);
    }
    cluster::converge(&master, &replica);
    let note = |path: &str| {
        let path = format!("{path}/api/collections/notes/records");
        admin.post(&path, json!({"title": "a"})).expect(200);
    };
    note("");
    let mut long = job("long", ENDLESS);
    long["timeout"] = json!(120);
    make(&admin, &long);
    admin.post("/api/cron/long/run", "").expect(202);
    slow.wait_for(1);
    pause(Duration::from_secs(1));
    for count in 1..4 {
        note("/db/shop");
        quick.wait_for(count);
    }
    // It asks for `default` first, and waits some seconds.
    let copy = replica.admin();
    let has_come = || {
        let list = copy.get("/db/shop/api/collections/notes/records");
        list.expect(200).json["totalItems"] == 3
    };
    let begun = Instant::now();
    while !has_come() {
        assert!(begun.elapsed() < Duration::from_secs(40));
        pause(Duration::from_millis(100));
    }
    assert_eq!(
        admin.get("/api/cron/long").expect(200).json["isRunning"],
        true
    );
}
