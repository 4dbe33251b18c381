//! Files that are not what they were: damaged, lost, restored, swapped; and disks that are full.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::cluster::{converge, data, database, limited, open_collection, replica};
use crate::support::server::Server;
use crate::support::{cluster, pause, sqlite_for_writing, wait_until};

fn cluster() -> (Server, Server) {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    fill(&master, "a", 40);
    let follower = replica(&master);
    converge(&master, &follower);
    (master, follower)
}

fn fill(master: &Server, prefix: &str, count: usize) {
    for n in 0..count {
        let body = json!({"id": format!("{prefix}{n}"), "title": "x".repeat(2000), "n": n});
        master
            .api()
            .post("/api/collections/books/records", body)
            .expect(200);
    }
}

/// Runs `change` on the directory of a server that is stopped in between.
fn while_stopped(server: Server, change: impl FnOnce(&Path)) -> Server {
    let (dir, settings) = server.into_parts();
    change(&dir.path().join("data"));
    Server::from_parts((dir, settings))
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_replica_mends_whatever_happened_to_its_file() {
    let (master, mut follower) = cluster();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 8] = [
        ("a page in the middle", |data| {
            overwrite(&data.join("default.db"), 4096 * 9 + 100, &[0xAA; 700]);
        }),
        ("its head", |data| {
            overwrite(&data.join("default.db"), 0, &[0; 60]);
        }),
        ("cut off in a page", |data| {
            let file = std::fs::File::options()
                .write(true)
                .open(data.join("default.db"));
            file.unwrap().set_len(4096 * 5 + 77).unwrap();
        }),
        ("empty", |data| {
            std::fs::write(data.join("default.db"), "").unwrap();
        }),
        ("gone", |data| {
            std::fs::remove_file(data.join("default.db")).unwrap();
        }),
        ("no database", |data| {
            std::fs::write(data.join("default.db"), "x".repeat(9000)).unwrap();
        }),
        ("rows of its own", |data| {
            let other = sqlite_for_writing(&data.join("default.db"));
            other
                .execute_batch("DELETE FROM books; CREATE TABLE own (a)")
                .unwrap();
        }),
        ("a log of nonsense", |data| {
            std::fs::write(data.join("default.db-wal"), "y".repeat(70_000)).unwrap();
        }),
    ];
    for (what, damage) in damages {
        follower = while_stopped(follower, damage);
        eprintln!("{what}");
        converge(&master, &follower);
        let page = follower
            .api()
            .get("/api/collections/books/records")
            .expect(200);
        assert_eq!(page.json["totalItems"], 40, "{what}");
    }
}

#[test]
fn a_master_that_has_lost_or_got_back_something_is_followed() {
    let (master, follower) = cluster();
    // A backup, and what comes after it.
    let (dir, settings) = master.into_parts();
    let backup = dir.path().join("backup.db");
    std::fs::copy(dir.path().join("data/default.db"), &backup).unwrap();
    let master = Server::from_parts((dir, settings));
    fill(&master, "b", 30);
    converge(&master, &follower);
    let master = while_stopped(master, |data| {
        std::fs::copy(
            data.parent().unwrap().join("backup.db"),
            data.join("default.db"),
        )
        .unwrap();
    });
    converge(&master, &follower);
    let count = |server: &Server| {
        let page = server
            .api()
            .get("/api/collections/books/records")
            .expect(200);
        page.json["totalItems"].as_u64().unwrap()
    };
    assert_eq!((count(&master), count(&follower)), (40, 40));

    // The end of its log is gone, as after a power cut without a sync.
    let mut master = master;
    fill(&master, "c", 30);
    converge(&master, &follower);
    master.kill();
    let master = while_stopped(master, |data| {
        let log = data.join("default.db-wal");
        let bytes = std::fs::metadata(&log).unwrap().len();
        assert!(bytes > 100_000, "{bytes}");
        let file = std::fs::File::options().write(true).open(log).unwrap();
        file.set_len(bytes / 2).unwrap();
    });
    converge(&master, &follower);
    assert_eq!(count(&master), count(&follower));
    assert!(count(&master) < 70);
    fill(&master, "d", 5);
    converge(&master, &follower);
}

#[test]
fn another_masters_data_in_its_place_is_followed_too() {
    let (first, follower) = cluster();
    let second = cluster::master();
    let admin = second.admin();
    // As many changes of tables, so that the counters of both schemas agree.
    open_collection(&admin, "secrets");
    fill_secrets(&second);
    let (other, _) = second.into_parts();
    let first = while_stopped(first, |data| {
        for name in ["default.db", "default.db-wal"] {
            let from = other.path().join("data").join(name);
            let _ = std::fs::remove_file(data.join(name));
            if from.exists() {
                std::fs::copy(from, data.join(name)).unwrap();
            }
        }
    });
    converge(&first, &follower);
    let api = follower.api();
    api.get("/api/collections/books/records").expect(404);
    let page = api.get("/api/collections/secrets/records").expect(200);
    assert_eq!(page.json["totalItems"], 3);
}

fn fill_secrets(master: &Server) {
    for n in 0..3 {
        let body = json!({"id": format!("s{n}"), "title": "secret"});
        master
            .api()
            .post("/api/collections/secrets/records", body)
            .expect(200);
    }
}

#[test]
fn sizes_of_pages_and_encodings_of_text_are_carried_over() {
    let (mut master, follower) = cluster();
    for (name, size, encoding) in [
        ("tiny", 512, "UTF-8"),
        ("huge", 65_536, "UTF-8"),
        ("wide", 4096, "UTF-16le"),
        ("broad", 8192, "UTF-16be"),
    ] {
        master = while_stopped(master, |data| {
            let path = data.join(format!("{name}.db"));
            std::fs::write(&path, "").unwrap();
            let own = sqlite_for_writing(&path);
            own.execute_batch(&format!(
                "PRAGMA page_size = {size}; PRAGMA encoding = '{encoding}';
                 CREATE TABLE own (a, b); INSERT INTO own VALUES ('one', zeroblob(100000));"
            ))
            .unwrap();
        });
        converge(&master, &follower);
        let path = data(&master).join(format!("{name}.db"));
        sqlite_for_writing(&path)
            .execute_batch("INSERT INTO own VALUES ('two', randomblob(30000))")
            .unwrap();
        converge(&master, &follower);
        assert_eq!(database(&follower, name)["repairs"], 0, "{name}");
    }
}

#[test]
fn a_replica_that_was_away_for_long_comes_along_in_one_go() {
    let (mut master, follower) = cluster();
    let parts = follower.into_parts();
    for round in 0..4 {
        let admin = master.admin();
        open_collection(&admin, &format!("more{round}"));
        admin
            .post("/api/databases", json!({"name": format!("tenant{round}")}))
            .expect(200);
        fill(&master, &format!("r{round}x"), 30);
        master = master.restart();
    }
    master.admin().delete("/api/databases/tenant1").expect(204);
    let follower = Server::from_parts(parts);
    converge(&master, &follower);
    assert_eq!(
        follower
            .admin()
            .get("/api/databases")
            .expect(200)
            .json
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn a_full_disk_stops_a_replica_from_following_but_not_from_serving() {
    let (master, mut follower) = cluster();
    // From hardly anything to nearly enough: the limit strikes at every step.
    for kib in [64, 128, 200, 300, 400] {
        follower = limited(follower, kib);
        fill(&master, &format!("f{kib}x"), 60);
        wait_until("it says that the disk is full, or has it all", || {
            let it = database(&follower, "default");
            it["state"] == "failing" || it["state"] == "current"
        });
        let page = follower
            .api()
            .get("/api/collections/books/records?perPage=1")
            .expect(200);
        assert!(page.json["totalItems"].as_u64().unwrap() >= 40);
        follower = follower.restart();
        converge(&master, &follower);
    }
    assert_eq!(database(&follower, "default")["repairs"], 0);
}

#[test]
fn a_replica_that_lacks_one_database_does_not_pass_for_up_to_date() {
    let (master, follower) = cluster();
    let admin = master.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let wares =
        json!({"name": "wares", "createRule": "", "fields": [{"name": "title", "type": "text"}]});
    admin.post("/db/shop/api/collections", wares).expect(200);
    converge(&master, &follower);
    let follower = limited(follower.restart_with("SYNC_INTERVAL", "3600"), 2048);
    let digits = |n: u32| n.wrapping_mul(0x9e37_79b1).to_string();
    let title: String = (0..50_000).map(digits).collect();
    for _ in 0..10 {
        let body = json!({"title": title});
        admin
            .post("/db/shop/api/collections/wares/records", body)
            .expect(200);
    }
    wait_until("one database cannot follow", || {
        database(&follower, "shop")["state"] == "failing"
    });

    // The master pings every 20 seconds, and changes of the other database arrive all along.
    let health = |path: &str| follower.api().get(path);
    let mut behind = 0;
    for n in 0..75 {
        fill(&master, &format!("s{n}x"), 1);
        let reply = health("/api/health").expect(200);
        let now = &reply.json["data"]["replica"]["secondsBehind"];
        let now = now.as_u64().unwrap();
        assert!(now >= behind, "{now} after {behind}");
        behind = now;
        pause(Duration::from_millis(300));
    }
    assert_eq!(database(&follower, "default")["state"], "current");
    health("/api/health?maxSecondsBehind=15").expect(503);

    let follower = follower.restart();
    converge(&master, &follower);
    wait_until("it is up to date", || {
        let late = "/api/health?maxSecondsBehind=15";
        follower.api().get(late).status == 200
    });
}

/// A crash between the move of a file and the note that it has gone leaves that.
#[test]
fn a_note_of_a_database_that_is_gone_is_forgotten() {
    let (master, follower) = cluster();
    let follower = while_stopped(follower, |data| {
        let sql = "INSERT INTO _positions SELECT 'ghost', epoch, version, checksum, 0, past FROM _positions";
        let local = sqlite_for_writing(&data.join("local.db"));
        assert_eq!(local.execute(sql, []).unwrap(), 1);
    });
    converge(&master, &follower);
    wait_until("it is up to date", || {
        let late = "/api/health?maxSecondsBehind=15";
        follower.api().get(late).status == 200
    });
    wait_until("the note has gone", || {
        database(&follower, "ghost").is_null()
    });
    while_stopped(follower, |data| {
        let sql = "SELECT count(*) FROM _positions WHERE database = 'ghost'";
        let local = sqlite_for_writing(&data.join("local.db"));
        let count: i64 = local.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0);
    });
}
