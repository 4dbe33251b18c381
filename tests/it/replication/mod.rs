//! A master and replicas, as operators and clients meet them.
//!
//! - here: what a replica serves, refuses and says.
//! - `kills`: ends at named points, `kill -9` under load, restarts under constant reads.
//! - `network`: everything that a connection can do wrong.
//! - `files`: the files of records.
//! - `histories`: damaged, lost, restored, swapped and foreign files; full disks.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::cluster::{converge, database, open_collection, replica, replica_of, status};
use crate::support::server::{Server, command};
use crate::support::{cluster, token, wait_until};

mod files;
mod histories;
mod kills;
mod network;

/// A master with a collection, and a replica that hears of changes by its socket alone.
fn woken_only() -> (Server, Server) {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    let url = format!("http://{}", master.addr());
    let follower = replica_of(&url, &[("SYNC_INTERVAL", "3600")]);
    converge(&master, &follower);
    (master, follower)
}

#[test]
fn a_replica_follows_every_kind_of_change() {
    let master = cluster::master();
    let admin = master.admin();
    open_collection(&admin, "books");
    let follower = replica(&master);
    converge(&master, &follower);

    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    admin
        .post(
            "/db/shop/api/collections",
            json!({"name": "c", "listRule": "", "fields": []}),
        )
        .expect(200);
    for n in 0..50 {
        let path = "/api/collections/books/records";
        admin
            .post(path, json!({"id": format!("b{n}"), "title": "t", "n": n}))
            .expect(200);
    }
    admin
        .patch("/api/collections/books/records/b7", json!({"n": 700}))
        .expect(200);
    admin
        .delete("/api/collections/books/records/b8")
        .expect(204);
    admin
        .post("/db/shop/api/collections/c/records", json!({"id": "one"}))
        .expect(200);
    converge(&master, &follower);

    let reader = follower.api();
    let page = reader
        .get("/api/collections/books/records?perPage=500&sort=-n")
        .expect(200);
    assert_eq!(page.json["totalItems"], 49);
    assert_eq!(page.json["items"][0]["id"], "b7");
    let page = reader.get("/db/shop/api/collections/c/records").expect(200);
    assert_eq!(page.json["totalItems"], 1);

    // A change of a definition, in a tenant: table and definition lie in two files.
    let fields = json!({"fields": [{"name": "colour", "type": "text"}]});
    admin
        .patch("/db/shop/api/collections/c", fields)
        .expect(200);
    admin
        .patch(
            "/db/shop/api/collections/c/records/one",
            json!({"colour": "red"}),
        )
        .expect(200);
    converge(&master, &follower);
    let page = reader.get("/db/shop/api/collections/c/records").expect(200);
    assert_eq!(page.json["items"][0]["colour"], "red");

    admin.delete("/api/databases/shop").expect(204);
    wait_until("the deleted database is gone on the replica", || {
        reader.get("/db/shop/api/collections/c/records").status == 404
    });
    wait_until("its file is set aside", || {
        cluster::data(&follower).join("deleted").exists()
    });
    assert!(follower.stop().success());
    assert!(master.stop().success());
}

#[test]
fn keys_and_passwords_are_the_masters_and_so_is_their_end() {
    let master = cluster::master();
    let admin = master.admin();
    let follower = replica(&master);
    converge(&master, &follower);
    let reader = follower.api();
    let body = json!({"name": "k", "scopes": ["collections"]});
    let key = admin.post("/api/keys", body).expect(200);
    converge(&master, &follower);
    let by_key = reader.with_header("X-API-Key", key.text("/key"));
    by_key.get("/api/collections").expect(200);
    admin
        .delete(&format!("/api/keys/{}", key.text("/id")))
        .expect(204);
    converge(&master, &follower);
    by_key.get("/api/collections").expect(401);
    follower.admin().get("/api/admins").expect(200);
}

#[test]
fn writes_on_a_replica_are_refused_and_name_the_master() {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    let follower = replica_of(
        &format!("http://{}", master.addr()),
        &[("REPLICA_ID", "one")],
    );
    converge(&master, &follower);
    let admin = follower.admin();
    for reply in [
        admin.post("/api/collections/books/records", json!({"title": "x"})),
        admin.patch("/api/collections/books/records/x", json!({})),
        admin.delete("/api/collections/books/records/x"),
        admin.post("/api/collections", json!({"name": "more", "fields": []})),
        admin.delete("/api/collections/books"),
        admin.post("/api/databases", json!({"name": "more"})),
        admin.post("/api/batch", json!({"requests": []})),
        admin.post("/api/keys", json!({"name": "k", "scopes": []})),
        admin.post(
            "/api/admins/init",
            json!({"email": "b@example.com", "password": "password-2"}),
        ),
        admin.get("/api/replica/databases"),
    ] {
        assert_eq!(reply.status, 403, "{reply:?}");
        assert_eq!(reply.json["code"], "read_only", "{reply:?}");
        assert_eq!(reply.json["master"], format!("http://{}", master.addr()));
        assert_eq!(reply.header("X-Replica-Id"), Some("one"));
    }
    let reply = admin.get("/api/collections/books/records").expect(200);
    assert_eq!(reply.header("X-Replica-Id"), Some("one"));
    assert_eq!(master.api().get("/api/health").header("X-Replica-Id"), None);
    for words in [["admin", "create"], ["admin", "password"]] {
        let mut command = command(follower.dir());
        let output = command.args(words).arg("c@example.com").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("replica"),
            "{output:?}"
        );
    }
}

#[test]
fn a_replica_without_its_master_serves_what_it_has() {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    let follower = replica(&master);
    converge(&master, &follower);
    // That nothing has changed since is worth remembering, too.
    let synced = |server: &Server| {
        database(server, "default")["synced"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let before = synced(&follower);
    wait_until("it was looked at again", || synced(&follower) > before);
    let before = synced(&follower);
    let (dir, settings) = follower.into_parts();
    drop(master);

    let follower = Server::from_parts((dir, settings));
    assert!(synced(&follower) >= before);
    let api = follower.api();
    api.get("/api/collections/books/records").expect(200);
    wait_until("it says that the master is away", || {
        status(&follower)["replica"]["error"].is_string()
    });
    let health = api.get("/api/health").expect(200);
    assert_eq!(health.json["data"]["replica"]["complete"], false);
    assert!(
        health.json["data"]["replica"]["secondsBehind"].is_u64(),
        "{health:?}"
    );

    // One that has nothing yet says so, and that later is fine.
    let empty = replica_of("http://127.0.0.1:9", &[]);
    let reply = empty
        .api()
        .get("/api/collections/books/records")
        .expect(503);
    assert!(reply.header("Retry-After").is_some(), "{reply:?}");
    empty.api().get("/api/health").expect(200);
    // The health check of a load balancer, for a complete replica and an empty one.
    let ready = "/api/health?maxSecondsBehind=3600";
    api.get(ready).expect(200);
    let refused = empty.api().get(ready).expect(503);
    assert_eq!(
        refused.json["message"],
        "This replica has not completed its first sync with its master yet."
    );
    api.get("/api/health?maxSecondsBehind=soon").expect(400);
    assert!(empty.stop().success());
}

#[test]
fn a_deleted_database_goes_soon_however_seldom_everything_is_looked_at() {
    let (master, follower) = woken_only();
    let admin = master.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    converge(&master, &follower);
    // Until nothing that is left to be noted makes it look.
    crate::support::pause(Duration::from_secs(3));
    admin.delete("/api/databases/shop").expect(204);
    wait_until("it is gone on the replica", || {
        let is_deleted = !cluster::data(&follower).join("shop.db").exists();
        // The status is updated after the file is deleted.
        is_deleted && database(&follower, "shop").is_null()
    });
}

#[test]
fn a_read_sees_what_its_client_has_written() {
    let (master, follower) = woken_only();
    let writer = master.api();
    for n in 0..20 {
        let body = json!({"id": format!("b{n}"), "title": "t"});
        let reply = writer
            .post("/api/collections/books/records", body)
            .expect(200);
        let seen = reply
            .header("X-Vski-Version")
            .expect("replicas follow")
            .to_owned();
        let reader = follower.api().with_header("X-Vski-Version", &seen);
        reader
            .get(&format!("/api/collections/books/records/b{n}"))
            .expect(200);
    }

    // Every later history contains the older one.
    let old = writer
        .post("/api/collections/books/records", json!({"id": "last"}))
        .expect(200);
    let old = old.header("X-Vski-Version").unwrap().to_owned();
    converge(&master, &follower);
    let master = master.restart();
    wait_until("the replica has the new history", || {
        let replica = status(&follower);
        replica["replica"]["connected"] == true && replica["replica"]["error"].is_null()
    });
    let reader = follower.api().with_header("X-Vski-Version", &old);
    reader
        .get("/api/collections/books/records/last")
        .expect(200);
    drop(master);
}

#[test]
fn nobody_waits_for_what_does_not_come() {
    let (master, follower) = woken_only();
    let writer = master.api();
    wait_until("replicas follow", || {
        let made = writer.post("/api/collections/books/records", json!({}));
        made.header("X-Vski-Version").is_some()
    });
    // A request that changes nothing does not wait.
    let made = master
        .admin()
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let again = writer
        .delete("/api/collections/books/records/none")
        .expect(404);
    for reply in [made, again] {
        if let Some(seen) = reply.header("X-Vski-Version") {
            let reader = follower.api().with_header("X-Vski-Version", seen);
            reader.get("/api/collections/books/records").expect(200);
        }
    }

    // An earlier history is behind every version here.
    let reader = follower
        .api()
        .with_header("X-Vski-Version", "default:0000000000000000:9");
    reader.get("/api/collections/books/records").expect(200);
    // A state that does not come, and a database that is not there, are the master's to answer.
    let reader = follower
        .api()
        .with_header("X-Vski-Version", "none:0000000000000000:9");
    reader.get("/api/collections/books/records").expect(307);
    let begun = Instant::now();
    let made = writer
        .post("/api/collections/books/records", json!({}))
        .expect(200);
    let (history, _) = made
        .header("X-Vski-Version")
        .unwrap()
        .rsplit_once(':')
        .unwrap();
    let reader = follower
        .api()
        .with_header("X-Vski-Version", &format!("{history}:999999"));
    let reply = reader
        .get("/api/collections/books/records?perPage=3&sort=title")
        .expect(307);
    let url = format!("http://{}", master.addr());
    let to = format!("{url}/api/collections/books/records?perPage=3&sort=title");
    assert_eq!(reply.header("Location"), Some(to.as_str()));
    assert!(
        begun.elapsed() >= Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    for wrong in ["x", "default:1", "default:1:x"] {
        let reader = follower.api().with_header("X-Vski-Version", wrong);
        reader.get("/api/collections/books/records").expect(400);
    }
}

#[test]
fn changes_arrive_long_before_the_interval_is_over() {
    let (master, follower) = woken_only();
    wait_until("it listens", || {
        status(&follower)["replica"]["connected"] == true
    });
    for n in 0..10 {
        let body = json!({"id": format!("b{n}")});
        master
            .api()
            .post("/api/collections/books/records", body)
            .expect(200);
        converge(&master, &follower);
    }
    // Writes of another program are found by polling.
    let path = cluster::data(&master).join("default.db");
    crate::support::sqlite_for_writing(&path)
        .execute("UPDATE books SET title = 'from outside'", [])
        .unwrap();
    converge(&master, &follower);
    let listed = status(&master);
    assert_eq!(listed["replicas"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["replicas"][0]["connected"], true);
    wait_until("the master knows how far it is", || {
        status(&master)["replicas"][0]["databases"][0]["state"] == "current"
    });
}

#[test]
fn a_replica_takes_over_when_it_is_told_to() {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    let (first, second) = (replica(&master), replica(&master));
    let body = json!({"id": "kept"});
    master
        .api()
        .post("/api/collections/books/records", body)
        .expect(200);
    converge(&master, &first);
    converge(&master, &second);

    let promote = |server: &Server| {
        let mut command = command(server.dir());
        command.args(["replica", "promote"]).output().unwrap()
    };
    let refused = promote(&first);
    assert_eq!(
        refused.status.code(),
        Some(1),
        "a server runs on it: {refused:?}"
    );
    drop(master);
    let (dir, mut settings) = first.into_parts();
    // A replica's data does not become a master's by mistake.
    settings.retain(|(name, _)| name == "JWT_SECRET");
    let mut mistake = command(dir.path());
    let output = mistake.arg("serve").env("PORT", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("promote"),
        "{output:?}"
    );

    let output = command(dir.path())
        .args(["replica", "promote"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("default") && told.contains("AS OF"), "{told}");
    let new = Server::from_parts((dir, settings));
    new.api()
        .get("/api/collections/books/records/kept")
        .expect(200);
    new.admin()
        .post("/api/collections/books/records", json!({"id": "new"}))
        .expect(200);
    let second = second.restart_with("MASTER_URL", &format!("http://{}", new.addr()));
    converge(&new, &second);

    // And a master's data does not become a replica's.
    let (dir, mut settings) = new.into_parts();
    settings.push(("REPLICA_MODE".to_owned(), "replica".to_owned()));
    settings.push(("MASTER_URL".to_owned(), "http://127.0.0.1:9".to_owned()));
    let mut mistake = command(dir.path());
    mistake.arg("serve").env("PORT", "0").envs(settings);
    let output = mistake.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn who_watches_gets_numbers() {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    let follower = replica(&master);
    converge(&master, &follower);
    wait_until("the master knows of it", || {
        let metrics = master.admin().get("/metrics").expect(200);
        String::from_utf8(metrics.body)
            .unwrap()
            .contains("vski_replica_states_behind{replica=")
    });
    let metrics = follower.admin().get("/metrics").expect(200);
    let text = String::from_utf8(metrics.body).unwrap();
    for name in [
        "vski_replica_version{database=\"default\"} ",
        "vski_replica_cycles_total ",
    ] {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(master.api().get("/metrics").status, 401);
    let mut command = command(follower.dir());
    command.env("JWT_SECRET", token::SECRET);
    command.env("PORT", follower.addr().port().to_string());
    let output = command.args(["replica", "status"]).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && table.contains("default   current"),
        "{output:?}"
    );
    assert_eq!(database(&follower, "default")["failures"], 0);
}
