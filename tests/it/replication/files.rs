//! Files of records on replicas: the storage of each becomes that of the master, byte for byte.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::cluster::{converge, data, limited, replica, replica_of, status};
use crate::support::proxy::{Fault, Proxy};
use crate::support::server::Server;
use crate::support::{cluster, sqlite, sqlite_for_writing, token, wait_until};

const DOCS: &str = "/api/collections/docs/records";

/// A master with a collection whose records have files.
fn master() -> Server {
    let master = cluster::master();
    let docs = json!({"name": "docs", "listRule": "", "viewRule": "", "createRule": "",
    "updateRule": "", "deleteRule": "", "fields": [
        {"name": "doc", "type": "file", "maxSize": 50_000_000},
        {"name": "pics", "type": "file", "maxSelect": 5},
    ]});
    master.admin().post("/api/collections", docs).expect(200);
    master
}

fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, content) in files {
        body.extend_from_slice(
            format!("--xx\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"a.txt\"\r\n\r\n")
                .as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xx--\r\n");
    body
}

/// Makes or changes a record with these files.
fn send(api: &Api, method: &str, path: &str, files: &[(&str, &[u8])]) -> Value {
    let api = api.with_header("Content-Type", "multipart/form-data; boundary=xx");
    api.send_bytes(method, path, &form(files))
        .unwrap()
        .expect(200)
        .json
}

/// Content that is like no other.
fn content(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Every file below the storage of a server, with its content.
fn tree(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let (root, mut tree) = (data(server).join("storage"), BTreeMap::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = std::fs::read(&path) {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
                tree.insert(name.to_owned(), content);
            }
        }
    }
    tree
}

/// Waits until the storage of a replica is that of the master, with nothing half received left.
#[track_caller]
fn same_files(master: &Server, replica: &Server) {
    let mut last = (BTreeMap::new(), BTreeMap::new());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        last.0 = tree(master);
        last.1 = tree(replica);
        if last.0 == last.1 {
            return;
        }
        if std::time::Instant::now() > deadline {
            let names = |tree: &BTreeMap<String, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
            let (there, here) = (names(&last.0), names(&last.1));
            let files = &status(replica)["replica"]["files"];
            panic!("{files}\nmaster {there:#?}\nreplica {here:#?}");
        }
        crate::support::pause(std::time::Duration::from_millis(30));
    }
}

#[track_caller]
fn acknowledges_everything(master: &Server, follower: &Server) {
    wait_until("everything is acknowledged", || {
        let files = state(follower);
        files["state"] == "current"
            && status(master)["replicas"][0]["filesAcknowledged"] == files["last"]
    });
}

/// Waits until it says so: the log comes a moment after what it tells.
#[track_caller]
fn took_the_manifest(server: &Server) {
    wait_until("it says that it takes the manifest", || {
        let log = server.log();
        log.iter().any(|line| line.contains("reading the manifest"))
    });
}

fn state(server: &Server) -> Value {
    status(server)["replica"]["files"].clone()
}

#[test]
fn files_come_and_go_as_on_the_master() {
    let master = master();
    let api = master.api();
    for n in 0..30 {
        let length = [0, 1, 4096, 70_000, 300_000][n % 5];
        send(&api, "POST", DOCS, &[("doc", &content(n, length))]);
    }
    // A fresh replica uses the manifest.
    let follower = replica(&master);
    converge(&master, &follower);
    same_files(&master, &follower);
    took_the_manifest(&follower);

    // Then the journal: a large one, several of a record, replaced, deleted.
    let big = send(&api, "POST", DOCS, &[("doc", &content(99, 5_000_000))]);
    let many = send(
        &api,
        "POST",
        DOCS,
        &[("pics", b"one"), ("pics", b"two"), ("doc", b"three")],
    );
    let path = format!("{DOCS}/{}", many["id"].as_str().unwrap());
    send(&api, "PATCH", &path, &[("doc", b"four")]);
    api.delete(&format!("{DOCS}/{}", big["id"].as_str().unwrap()))
        .expect(204);
    same_files(&master, &follower);
    acknowledges_everything(&master, &follower);
    let record = many["id"].as_str().unwrap();
    let name = many["pics"][1].as_str().unwrap();
    let reply = follower
        .api()
        .get(&format!("/api/files/docs/{record}/{name}"))
        .expect(200);
    assert_eq!(reply.body, b"two");

    // A database is deleted, and its files with it.
    let admin = master.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let docs =
        json!({"name": "docs", "createRule": "", "fields": [{"name": "doc", "type": "file"}]});
    admin.post("/db/shop/api/collections", docs).expect(200);
    send(
        &api,
        "POST",
        "/db/shop/api/collections/docs/records",
        &[("doc", b"shop")],
    );
    same_files(&master, &follower);
    // Its files may have arrived before it, and no earlier manifest may be in flight.
    converge(&master, &follower);
    acknowledges_everything(&master, &follower);
    admin.delete("/api/databases/shop").expect(204);
    same_files(&master, &follower);
    let aside = data(&follower).join("deleted");
    wait_until("it is moved aside", || aside.exists());
    let aside = std::fs::read_dir(aside)
        .unwrap()
        .map(|it| it.unwrap().path());
    let kinds: Vec<String> = aside
        .map(|path| path.extension().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(kinds.contains(&"files".to_owned()), "{kinds:?}");
    assert!(follower.stop().success());
}

#[test]
fn a_file_that_has_not_arrived_is_fetched_for_who_asks() {
    let master = master();
    let bytes = content(7, 200_000);
    let made = send(&master.api(), "POST", DOCS, &[("doc", &bytes)]);
    let follower = replica(&master);
    converge(&master, &follower);
    same_files(&master, &follower);
    let (record, name) = (made["id"].as_str().unwrap(), made["doc"].as_str().unwrap());
    let url = format!("/api/files/docs/{record}/{name}");
    let remove = || {
        let root = data(&follower).join("storage/default");
        let file = tree(&follower)
            .into_keys()
            .find(|it| it.ends_with(name))
            .unwrap();
        std::fs::remove_file(root.parent().unwrap().join(file)).unwrap();
    };
    remove();
    assert_eq!(follower.api().get(&url).expect(200).body, bytes);
    same_files(&master, &follower);
    remove();
    let part = follower
        .api()
        .with_header("Range", "bytes=10-19")
        .get(&url)
        .expect(206);
    assert_eq!(part.body, bytes[10..20]);

    // Without the master it is not there for now, and never 404.
    remove();
    drop(master);
    let reply = follower.api().get(&url).expect(503);
    assert!(reply.header("Retry-After").is_some(), "{reply:?}");
}

#[test]
fn whatever_is_cut_killed_or_stalled_the_trees_agree_in_the_end() {
    let rounds: usize = std::env::var("VSKI_ROUNDS").map_or(9, |it| it.parse().unwrap());
    let mut master = master();
    let proxy = Proxy::start(master.addr().port());
    let mut one = replica_of(&proxy.url(), &[]);
    let mut two = replica(&master);
    let fresh = || std::process::id() as usize;
    let mut random = std::env::var("VSKI_SEED").map_or_else(|_| fresh(), |it| it.parse().unwrap());
    eprintln!("VSKI_SEED={random} VSKI_ROUNDS={rounds}");
    let mut below = move |end: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040);
        (random >> 33) % end
    };
    let mut records: Vec<String> = Vec::new();
    for round in 0..rounds {
        match below(5) {
            0 => proxy.set(Fault::Cut(below(3000)), 500),
            1 => proxy.set(Fault::Flip(below(100_000)), 2000),
            2 => proxy.set(Fault::Trickle, 2000),
            _ => proxy.set(Fault::None, 0),
        }
        let api = master.api();
        for n in 0..8 {
            match (below(4), records.len()) {
                (0, 1..) => {
                    let id = records.swap_remove(below(records.len()));
                    api.delete(&format!("{DOCS}/{id}")).expect(204);
                }
                (1, 1..) => {
                    let id = &records[below(records.len())];
                    let bytes = content(round * 100 + n, below(60_000));
                    send(&api, "PATCH", &format!("{DOCS}/{id}"), &[("doc", &bytes)]);
                }
                _ => {
                    let bytes = content(round * 100 + n, below(100_000));
                    let made = send(&api, "POST", DOCS, &[("doc", &bytes), ("pics", &bytes)]);
                    records.push(made["id"].as_str().unwrap().to_owned());
                }
            }
        }
        match below(4) {
            0 => {
                one.kill();
                one = one.restart();
            }
            1 => {
                two.kill();
                two = two.restart();
            }
            2 => {
                master.kill();
                master = master.restart();
            }
            _ => {}
        }
    }
    proxy.set(Fault::None, 0);
    for follower in [&one, &two] {
        converge(&master, follower);
        same_files(&master, follower);
    }
}

#[test]
fn one_that_ends_while_it_receives_files_comes_along_afterwards() {
    let master = master();
    let mut follower = replica(&master);
    converge(&master, &follower);
    for (n, point) in ["files-placed", "files-noted"].into_iter().enumerate() {
        follower = follower.restart_with("VSKI_FAILPOINT", point);
        for m in 0..6 {
            send(
                &master.api(),
                "POST",
                DOCS,
                &[("doc", &content(n * 10 + m, 9000))],
            );
        }
        assert!(!follower.wait().success(), "{point} is reached");
        follower = follower.restart_with("VSKI_FAILPOINT", "");
        same_files(&master, &follower);
    }
}

#[test]
fn one_path_that_comes_goes_and_comes_again_is_what_it_was_last() {
    let master = master();
    let made = send(&master.api(), "POST", DOCS, &[("doc", b"first content")]);
    let follower = replica(&master);
    same_files(&master, &follower);
    let parts = follower.into_parts();
    // Added, deleted, added in one stretch of the journal; only a restored backup does that.
    let file = tree(&master).into_keys().next().unwrap();
    let (dir, settings) = master.into_parts();
    let other = b"second content".to_vec();
    let sha256 = {
        use sha2::Digest as _;
        let hash = sha2::Sha256::digest(&other);
        hash.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    std::fs::write(dir.path().join("data/storage").join(&file), &other).unwrap();
    let default = sqlite_for_writing(&dir.path().join("data/default.db"));
    let name = made["doc"].as_str().unwrap();
    default
        .execute(
            "UPDATE _files SET sha256 = ?1, size = ?2 WHERE name = ?3",
            (&sha256, 14, name),
        )
        .unwrap();
    for (op, size, hash) in [
        ("delete", 0, ""),
        ("add", 14, &sha256),
        ("delete", 0, ""),
        ("add", 14, &sha256),
    ] {
        default
            .execute(
                "INSERT INTO _file_journal (path, op, size, sha256, created)
                 VALUES (?1, ?2, ?3, ?4, '2026-01-01 00:00:00.000Z')",
                (&file, op, size, hash),
            )
            .unwrap();
    }
    drop(default);
    let master = Server::from_parts((dir, settings));
    let follower = Server::from_parts(parts);
    same_files(&master, &follower);
    assert_eq!(tree(&follower)[&file], other);
}

#[test]
fn one_that_was_away_for_longer_than_the_journal_is_kept_takes_the_manifest() {
    let master = master();
    let stay = send(&master.api(), "POST", DOCS, &[("doc", b"stays")]);
    let go = send(&master.api(), "POST", DOCS, &[("doc", b"goes")]);
    let (here, away) = (replica(&master), replica(&master));
    for follower in [&here, &away] {
        same_files(&master, follower);
        wait_until("it is current", || state(follower)["state"] == "current");
    }
    let parts = away.into_parts();
    // The one that is away was last seen long ago, when the journal is cleaned up.
    let (dir, settings) = master.into_parts();
    let local = sqlite_for_writing(&dir.path().join("data/local.db"));
    local
        .execute_batch(
            "UPDATE _known_replicas SET last_seen = '2020-01-01 00:00:00.000Z';
             DELETE FROM _node WHERE name = 'files_cleaned';",
        )
        .unwrap();
    drop(local);
    let master = Server::from_parts((dir, settings));
    let api = master.api();
    api.delete(&format!("{DOCS}/{}", go["id"].as_str().unwrap()))
        .expect(204);
    for n in 0..5 {
        send(&api, "POST", DOCS, &[("doc", &content(n, 1000))]);
    }
    same_files(&master, &here);
    // Also those after the two that the other replica knows. A request to the master would add
    // another replica, which has none of them yet.
    wait_until("entries are cleaned up", || {
        let sql = "SELECT min(id) FROM _file_journal";
        let default = sqlite(&data(&master).join("default.db"));
        let oldest: Option<i64> = default.query_row(sql, [], |row| row.get(0)).unwrap();
        oldest.is_none_or(|it| it > 3)
    });
    let away = Server::from_parts(parts);
    same_files(&master, &away);
    took_the_manifest(&away);
    assert!(tree(&away).values().any(|it| it == b"stays"), "{stay}");
}

#[test]
fn one_file_that_cannot_be_had_does_not_hold_up_the_others() {
    let master = master();
    let lost = content(1, 3000);
    let gone = send(&master.api(), "POST", DOCS, &[("doc", b"goes")]);
    send(&master.api(), "POST", DOCS, &[("doc", &lost)]);
    let file = tree(&master)
        .into_iter()
        .find(|(_, it)| *it == lost)
        .unwrap()
        .0;
    let path = data(&master).join("storage").join(file);
    std::fs::remove_file(&path).unwrap();
    let follower = replica(&master);
    converge(&master, &follower);
    send(&master.api(), "POST", DOCS, &[("doc", &content(2, 3000))]);
    master
        .api()
        .delete(&format!("{DOCS}/{}", gone["id"].as_str().unwrap()))
        .expect(204);
    same_files(&master, &follower);
    wait_until("the status names it", || {
        state(&follower)["state"] == "failing"
    });
    // It is remembered over a restart, and comes when it is there again.
    let follower = follower.restart();
    std::fs::write(&path, &lost).unwrap();
    same_files(&master, &follower);
    wait_until("all is well", || state(&follower)["state"] == "current");
    assert_eq!(
        status(&master)["replicas"][0]["filesAcknowledged"],
        state(&follower)["last"]
    );
}

#[test]
fn a_disk_that_changes_bytes_is_found_out() {
    let master = master();
    for n in 0..3 {
        send(&master.api(), "POST", DOCS, &[("doc", &content(n, 10_000))]);
    }
    let follower = replica(&master);
    converge(&master, &follower);
    same_files(&master, &follower);
    let damage = |server: &Server| {
        let file = tree(server).into_keys().next().unwrap();
        let path = data(server).join("storage").join(&file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[5000] ^= 1;
        std::fs::write(path, bytes).unwrap();
        file
    };
    // A replica fetches it again; the first look is at the start.
    damage(&follower);
    let follower = follower.restart();
    same_files(&master, &follower);
    // A master can only say so.
    let file = damage(&master);
    let master = master.restart();
    wait_until("the damaged file is named", || {
        let found = status(&master)["damagedFiles"].clone();
        found[0]["path"] == file.as_str() && found[0]["state"] == "damaged"
    });
}

#[test]
fn what_is_wrong_on_the_way_or_on_disk_is_never_served() {
    let master = master();
    let proxy = Proxy::start(master.addr().port());
    let mut follower = replica_of(&proxy.url(), &[]);
    converge(&master, &follower);
    // Flipped bits in every answer of that length.
    for n in 0..5 {
        proxy.set(Fault::Flip(5000 + n * 999), 10_000);
        send(
            &master.api(),
            "POST",
            DOCS,
            &[("doc", &content(n, 150_000))],
        );
        same_files(&master, &follower);
    }
    // A disk that is full says so, and which file it is about.
    proxy.set(Fault::None, 0);
    follower = limited(follower, 700);
    send(
        &master.api(),
        "POST",
        DOCS,
        &[("doc", &content(50, 2_000_000))],
    );
    wait_until("the status names the file", || {
        let failing = state(&follower)["failing"].clone();
        failing.as_array().is_some_and(|it| !it.is_empty())
    });
    follower.api().get(DOCS).expect(200);
    assert_eq!(
        tree(&follower)
            .values()
            .filter(|it| it.len() == 2_000_000)
            .count(),
        0
    );
    let follower = follower.restart();
    same_files(&master, &follower);
}

/// Puts back what the deletion of a database has moved aside, as `docs/operations.md` says.
fn put_back(server: Server, name: &str) -> Server {
    let (dir, settings) = server.into_parts();
    let data = dir.path().join("data");
    for entry in std::fs::read_dir(data.join("deleted")).unwrap() {
        let path = entry.unwrap().path();
        let place = match path.extension().is_some_and(|it| it == "db") {
            true => data.join(format!("{name}.db")),
            false => data.join("storage").join(name),
        };
        std::fs::rename(path, place).unwrap();
    }
    let default = sqlite_for_writing(&data.join("default.db"));
    let sql = "UPDATE _collections SET deleted = NULL WHERE database = ?1";
    assert_eq!(default.execute(sql, [name]).unwrap(), 1);
    drop(default);
    Server::from_parts((dir, settings))
}

/// The journal tells nothing of it, since no server was there to write it.
#[test]
fn a_deleted_database_that_is_put_back_brings_its_files_along() {
    let master = master();
    let admin = master.admin();
    let docs =
        json!({"name": "docs", "createRule": "", "fields": [{"name": "doc", "type": "file"}]});
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    admin.post("/db/shop/api/collections", docs).expect(200);
    let api = master.api();
    for n in 0..3 {
        let doc = content(n, 9000);
        send(&api, "POST", &format!("/db/shop{DOCS}"), &[("doc", &doc)]);
    }
    let follower = replica(&master);
    converge(&master, &follower);
    same_files(&master, &follower);
    let before = tree(&master);
    assert_eq!(before.len(), 3);
    admin.delete("/api/databases/shop").expect(204);
    wait_until("they are gone from the replica", || {
        tree(&follower).is_empty()
    });

    let master = put_back(master, "shop");
    converge(&master, &follower);
    same_files(&master, &follower);
    assert_eq!(tree(&master), before);
    // Once is enough.
    let epoch = |server: &Server| {
        let other = token::replica(&server.api(), "other");
        let reply = other.get("/api/replica/databases").expect(200);
        reply.text("/files/epoch").to_owned()
    };
    let found = epoch(&master);
    assert_eq!(epoch(&master.restart()), found);
}
