//! `vski backup`, `vski restore`, `vski check`: of busy servers, interrupted, damaged, and followed
//! by a replica.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::server::{Server, VSKI, command};
use crate::support::{Dir, pause, sqlite};

/// Archives of `/api/backups`.
mod archives;
/// Backups and data that lack something, or are read and replaced at the same time.
mod damage;
/// `vski restore`, and what follows a restored server.
mod restore;
/// Restores by root for another account.
mod rights;
/// Data that may be read and not written.
mod unwritable;

const DOCS: &str = "/api/collections/docs/records";

/// Runs `vski` with these words on the data below `dir`.
fn vski(dir: &Path, words: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = command(dir);
    command.args(words).envs(settings.iter().copied());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The same, which has to succeed; what it prints.
#[track_caller]
fn fine(dir: &Path, words: &[&str]) -> String {
    let output = vski(dir, words, &[]);
    let error = text(&output.stderr);
    assert!(
        output.status.success(),
        "{words:?}: {error}{}",
        text(&output.stdout)
    );
    text(&output.stdout)
}

/// The same, which has to be refused; why.
#[track_caller]
fn refused(dir: &Path, words: &[&str]) -> String {
    let output = vski(dir, words, &[]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{words:?} {}",
        text(&output.stdout)
    );
    text(&output.stderr)
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn docs(admin: &Api, prefix: &str) {
    let docs = json!({"name": "docs", "listRule": "", "viewRule": "", "createRule": "",
    "updateRule": "", "deleteRule": "", "fields": [
        {"name": "title", "type": "text"}, {"name": "doc", "type": "file"}]});
    admin
        .post(&format!("{prefix}/api/collections"), docs)
        .expect(200);
}

/// Makes a record with a file of this content.
fn add(api: &Api, path: &str, content: &str) -> Value {
    let api = api.with_header("Content-Type", "multipart/form-data; boundary=xx");
    let body = format!(
        "--xx\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\n{content}\r\n--xx\r\n\
         Content-Disposition: form-data; name=\"doc\"; filename=\"a.txt\"\r\n\r\n{content}\r\n--xx--\r\n"
    );
    api.send("POST", path, &body).unwrap().expect(200).json
}

/// Every file below a folder, with its content.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                // Files stored or deleted meanwhile are not part of it.
                false => {
                    let name = path.strip_prefix(root).unwrap().to_owned();
                    if let Ok(content) = std::fs::read(path) {
                        found.insert(name, content);
                    }
                }
            }
        }
    }
    found
}

/// Compares each record of a restored server with its file; returns their titles.
fn compared(api: &Api) -> Vec<String> {
    let mut titles = Vec::new();
    for page in 1.. {
        let list = api
            .get(&format!("{DOCS}?perPage=200&page={page}"))
            .expect(200);
        let items = list.json["items"].as_array().unwrap().clone();
        if items.is_empty() {
            return titles;
        }
        for item in items {
            let (id, name) = (item["id"].as_str().unwrap(), item["doc"].as_str().unwrap());
            let file = api.get(&format!("/api/files/docs/{id}/{name}")).expect(200);
            assert_eq!(text(&file.body), item["title"]);
            titles.push(item["title"].as_str().unwrap().to_owned());
        }
    }
    titles
}

/// A second directory with the backup of the first put back.
fn restored(backup: &Path) -> Dir {
    let dir = Dir::new();
    fine(dir.path(), &["restore", shown(backup)]);
    dir
}

fn serve(dir: Dir) -> Server {
    Server::from_parts((std::sync::Arc::new(dir), Vec::new()))
}

/// Writes, with files, some of which go again at once, until told to stop. Notes the titles that
/// were kept.
fn busy(api: &Api, name: &str, kept: &Mutex<Vec<String>>, stop: &AtomicBool) {
    for n in 0..5000 {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let record = add(api, DOCS, &format!("{name}-{n}"));
        if n % 3 == 0 {
            let id = record["id"].as_str().unwrap();
            api.delete(&format!("{DOCS}/{id}")).expect(204);
        } else {
            kept.lock().unwrap().push(format!("{name}-{n}"));
        }
    }
}

/// Changes definitions of a tenant until told to stop.
fn redefine(admin: &Api, stop: &AtomicBool) {
    for n in 0..200 {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = json!({"name": format!("c{n}"), "fields": [{"name": "a", "type": "text"}]});
        admin.post("/db/shop/api/collections", body).expect(200);
        let body =
            json!({"fields": [{"name": "a", "type": "text"}, {"name": "b", "type": "number"}]});
        admin
            .patch(&format!("/db/shop/api/collections/c{n}"), body)
            .expect(200);
        pause(Duration::from_millis(60));
    }
}

#[test]
fn a_backup_of_a_busy_server_is_one_state_with_all_of_its_files() {
    let server = Server::start();
    let admin = server.admin();
    docs(&admin, "");
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    docs(&admin, "/db/shop");
    add(&server.api(), &format!("/db/shop{DOCS}"), "in the shop");
    let backup = server.dir().join("backup");
    let (kept, stop) = (Mutex::default(), AtomicBool::new(false));
    let before = thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let (api, kept, stop) = (server.api(), &kept, &stop);
            scope.spawn(move || busy(&api, name, kept, stop));
        }
        let (shop, stop_shop) = (server.admin(), &stop);
        scope.spawn(move || redefine(&shop, stop_shop));
        let mut before = Vec::new();
        for _ in 0..4 {
            pause(Duration::from_millis(300));
            before = kept.lock().unwrap().clone();
            let said = fine(server.dir(), &["backup", shown(&backup)]);
            assert!(said.contains("5 databases"), "{said}");
        }
        stop.store(true, Ordering::Relaxed);
        before
    });
    assert!(before.len() > 20, "{}", before.len());
    let said = fine(server.dir(), &["check", shown(&backup)]);
    assert!(
        said.contains("5 databases and") && said.ends_with("0 findings.\n"),
        "{said}"
    );
    fine(server.dir(), &["check"]);

    let dir = restored(&backup);
    fine(dir.path(), &["check"]);
    let secret = |dir: &Path| std::fs::read(dir.join("data/secret")).unwrap();
    assert_eq!(secret(server.dir()), secret(dir.path()));
    let again = serve(dir);
    let there = compared(&again.api());
    let lacking: Vec<_> = before
        .iter()
        .filter(|title| !there.contains(title))
        .collect();
    assert!(lacking.is_empty(), "{lacking:?}");
    let shop = again.api().get(&format!("/db/shop{DOCS}")).expect(200);
    assert_eq!(shop.json["items"][0]["title"], "in the shop");
    let list = again.admin().get("/db/shop/api/collections").expect(200);
    assert!(list.json.to_string().contains("c3"));
}

#[test]
fn tables_are_of_the_state_that_their_definitions_are_of() {
    let server = Server::start();
    let admin = server.admin();
    for name in ["shop", "tall"] {
        admin
            .post("/api/databases", json!({"name": name}))
            .expect(200);
    }
    docs(&admin, "/db/tall");
    // Copied after the one whose definitions change, and for a while.
    for _ in 0..20 {
        let body = json!({"title": "x".repeat(2_000_000)});
        server
            .api()
            .post(&format!("/db/tall{DOCS}"), body)
            .expect(200);
    }
    let backup = server.dir().join("backup");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| redefine(&server.admin(), &stop));
        for _ in 0..3 {
            pause(Duration::from_millis(100));
            fine(server.dir(), &["backup", shown(&backup)]);
            fine(server.dir(), &["check", shown(&backup)]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_second_backup_copies_only_what_is_new() {
    let server = Server::start();
    docs(&server.admin(), "");
    let api = server.api();
    let first: Vec<Value> = (0..5)
        .map(|n| add(&api, DOCS, &format!("first {n}")))
        .collect();
    let backup = server.dir().join("backup");
    let said = fine(server.dir(), &["backup", shown(&backup)]);
    assert!(
        said.contains("5 files with 35 bytes, of which 5 with 35 bytes are new"),
        "{said}"
    );
    let inode =
        |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let name = first[1]["doc"].as_str().unwrap();
    let find = || {
        let files = tree(&backup.join("storage"));
        files
            .into_keys()
            .find(|path| path.ends_with(name))
            .map(|it| backup.join("storage").join(it))
    };
    let kept = inode(&find().unwrap());

    let id = first[0]["id"].as_str().unwrap();
    api.delete(&format!("{DOCS}/{id}")).expect(204);
    add(&api, DOCS, "second");
    let said = fine(server.dir(), &["backup", shown(&backup)]);
    assert!(
        said.contains("5 files with 34 bytes, of which 1 with 6 bytes are new"),
        "{said}"
    );
    assert_eq!(inode(&find().unwrap()), kept);
    assert_eq!(tree(&backup.join("storage")).len(), 5);
    let states = std::fs::read_dir(&backup).unwrap().flatten();
    assert_eq!(
        states
            .filter(|it| it.file_name().to_string_lossy().starts_with("state-"))
            .count(),
        1
    );

    // A file that is damaged in the backup is copied again if its size differs.
    std::fs::write(find().unwrap(), "short").unwrap();
    let output = vski(server.dir(), &["check", shown(&backup)], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).starts_with("damaged"),
        "{}",
        text(&output.stdout)
    );
    let said = fine(server.dir(), &["backup", shown(&backup)]);
    assert!(said.contains("of which 1 with 7 bytes are new"), "{said}");
    fine(server.dir(), &["check", shown(&backup)]);

    // One whose size is right is found when it is looked for.
    flip(&find().unwrap(), 2);
    fine(server.dir(), &["backup", shown(&backup)]);
    let said = fine(server.dir(), &["backup", "--verify", shown(&backup)]);
    assert!(said.contains("of which 1 with 7 bytes are new"), "{said}");
    fine(server.dir(), &["check", shown(&backup)]);

    // With the server stopped, and nothing new.
    let (dir, _) = server.into_parts();
    let said = fine(dir.path(), &["backup", shown(&backup)]);
    assert!(said.contains("of which 0 with 0 bytes are new"), "{said}");
}

#[test]
fn a_backup_that_is_killed_leaves_the_earlier_one() {
    let server = Server::start();
    docs(&server.admin(), "");
    let api = server.api();
    for n in 0..4 {
        add(&api, DOCS, &format!("old {n}"));
    }
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    let old: Vec<String> = (0..4).map(|n| format!("old {n}")).collect();
    let points = [
        ("backup-file:2", false),
        ("backup-database:2", false),
        ("backup-copied", false),
        ("backup-valid", true),
    ];
    for (at, (point, is_new)) in points.into_iter().enumerate() {
        for n in 0..3 {
            add(&api, DOCS, &format!("new {at} {n}"));
        }
        let output = vski(
            server.dir(),
            &["backup", shown(&backup)],
            &[("VSKI_FAILPOINT", point)],
        );
        assert_eq!(output.status.code(), None, "{point}");
        fine(server.dir(), &["check", shown(&backup)]);
        let again = serve(restored(&backup));
        let there = compared(&again.api());
        assert!(old.iter().all(|title| there.contains(title)), "{point}");
        assert_eq!(there.len(), if is_new { 16 } else { 4 }, "{point}");
    }
    let said = fine(server.dir(), &["backup", shown(&backup)]);
    assert!(said.contains("16 files"), "{said}");
    assert_eq!(tree(&backup.join("storage")).len(), 16);
}

#[test]
fn a_file_that_the_storage_has_lost_is_named_and_the_rest_is_backed_up() {
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "lost");
    add(&server.api(), DOCS, "there");
    let storage = server.dir().join("data/storage");
    let lost = tree(&storage)
        .into_iter()
        .find(|(_, content)| content == b"lost")
        .unwrap()
        .0;
    std::fs::remove_file(storage.join(&lost)).unwrap();
    let backup = server.dir().join("backup");
    let output = vski(server.dir(), &["backup", shown(&backup)], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(shown(&lost)),
        "{}",
        text(&output.stderr)
    );
    assert!(
        text(&output.stdout).contains("1 files with 5 bytes"),
        "{}",
        text(&output.stdout)
    );
    let dir = Dir::new();
    let output = vski(dir.path(), &["restore", shown(&backup)], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(shown(&lost)));
    assert_eq!(tree(&dir.path().join("data/storage")).len(), 1);
}

#[test]
fn what_is_no_backup_or_no_place_for_one_is_refused() {
    let server = Server::start();
    let dir = server.dir();
    let inside = dir.join("data/backup");
    assert!(refused(dir, &["backup", shown(&inside)]).contains("inside each other"));
    assert!(!inside.exists());
    assert!(refused(dir, &["backup", shown(dir)]).contains("inside each other"));
    let other = dir.join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("letter.txt"), "dear").unwrap();
    assert!(refused(dir, &["backup", shown(&other)]).contains("not a backup"));
    let roundabout = dir.join("none/../data/backup");
    assert!(refused(dir, &["backup", shown(&roundabout)]).contains("inside each other"));
    assert!(!inside.exists() && !dir.join("none").exists());
    // Others have a manifest.json too.
    let site = dir.join("site");
    std::fs::create_dir_all(site.join("storage/a/b/c")).unwrap();
    std::fs::write(site.join("storage/a/b/c/d"), "dear").unwrap();
    std::fs::write(site.join("manifest.json"), r#"{"name": "a site"}"#).unwrap();
    let before = tree(&site);
    assert!(refused(dir, &["backup", shown(&site)]).contains("not a backup"));
    assert_eq!(tree(&site), before);
    let backup = dir.join("backup");
    let words = ["backup", shown(&backup), "--data-dir", "/nowhere"];
    assert!(refused(dir, &words).contains("no data in /nowhere"));
    assert!(refused(dir, &["check", shown(&other)]).contains("There is no backup"));
    assert!(refused(dir, &["restore", shown(&other)]).contains("There is no backup"));
    for words in [
        &["backup"][..],
        &["backup", "a", "b"],
        &["restore"],
        &["restore", "a", "--x"],
        &["check", "a", "b"],
        &["backup", ""],
        &["restore", ""],
        &["check", ""],
    ] {
        assert_eq!(vski(dir, words, &[]).status.code(), Some(2), "{words:?}");
    }
    for word in ["backup", "restore", "check"] {
        assert!(fine(dir, &[word, "--help"]).starts_with(&format!("Usage: vski {word}")));
    }
}

#[test]
fn check_finds_damage_in_databases_and_files() {
    let server = Server::start();
    docs(&server.admin(), "");
    for n in 0..60 {
        add(&server.api(), DOCS, &format!("content {n}"));
    }
    let said = fine(server.dir(), &["check"]);
    assert!(said.starts_with("4 databases and 60 files"), "{said}");
    let storage = server.dir().join("data/storage");
    let victim = tree(&storage).into_keys().next().unwrap();
    flip(&storage.join(&victim), 3);
    let look = |dir: &Path| {
        let output = vski(dir, &["check"], &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let said = look(server.dir());
    assert!(
        said.starts_with("damaged") && said.contains(shown(&victim)),
        "{said}"
    );
    assert!(said.ends_with("1 findings.\n"), "{said}");
    flip(&storage.join(&victim), 3);

    let (dir, _) = server.into_parts();
    let path = dir.path().join("data/default.db");
    let root: u32 = sqlite(&path)
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'docs'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    // The kind of a page.
    flip(&path, (root as usize - 1) * 4096);
    let said = look(dir.path());
    assert!(said.contains("damaged    default.db"), "{said}");
    flip(&path, (root as usize - 1) * 4096);
    fine(dir.path(), &["check"]);
    let database = crate::support::sqlite_for_writing(&path);
    database.execute_batch("DROP TABLE _file_outbox").unwrap();
    drop(database);
    assert!(look(dir.path()).contains("The table _file_outbox is missing."));
}

#[test]
fn the_files_of_a_bucket_are_no_part_of_it() {
    let server = Server::start();
    docs(&server.admin(), "");
    let backup = server.dir().join("backup");
    let bucket = [
        ("STORAGE", "s3"),
        ("S3_ENDPOINT", "http://127.0.0.1:9"),
        ("S3_BUCKET", "b"),
        ("S3_ACCESS_KEY", "a"),
        ("S3_SECRET_KEY", "s"),
    ];
    let output = vski(server.dir(), &["backup", shown(&backup)], &bucket);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("the files are in the bucket and not part of it"));
    let dir = Dir::new();
    assert!(fine(dir.path(), &["restore", shown(&backup)]).contains("The files are in the bucket"));
}

#[test]
fn a_full_disk_leaves_the_earlier_backup() {
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "old");
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    let limited = |what: &str| {
        // Blocks of 512 bytes.
        let script = "trap '' XFSZ; ulimit -f 1200; exec \"$0\" backup \"$1\"";
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", script, VSKI, shown(&backup)]);
        for (name, value) in command(server.dir()).get_envs() {
            limited.env(name, value.unwrap_or_default());
        }
        let output = limited.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(said.contains("Not enough space in"), "{what}: {said}");
        assert!(
            fine(server.dir(), &["check", shown(&backup)]).contains("1 files"),
            "{what}"
        );
    };
    add(&server.api(), DOCS, &"x".repeat(800_000));
    limited("a file");
    let body = json!({"title": "y".repeat(1_500_000)});
    server.api().post(DOCS, body).expect(200);
    let list = server
        .api()
        .get(&format!("{DOCS}?fields=id,doc"))
        .expect(200);
    for item in list.json["items"].as_array().unwrap() {
        if item["doc"] != "" {
            let id = item["id"].as_str().unwrap();
            server.api().delete(&format!("{DOCS}/{id}")).expect(204);
        }
    }
    limited("a database");
}

/// Another byte than there was.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x55;
    std::fs::write(path, bytes).unwrap();
}
