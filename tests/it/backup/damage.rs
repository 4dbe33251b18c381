//! Databases and manifests that are lost or damaged, and backups that are replaced while they are
//! read.

use std::fs;
use std::fs::File;
use std::sync::Arc;

use serde_json::json;

use super::{DOCS, add, docs, fine, flip, refused, restored, serve, shown, text, vski};
use crate::support::server::Server;
use crate::support::{Dir, sqlite_for_writing, wait_until};

#[test]
fn a_database_that_is_lost_is_found_and_its_copy_stays() {
    let server = Server::start();
    let admin = server.admin();
    for name in ["shop", "gone"] {
        admin
            .post("/api/databases", json!({"name": name}))
            .expect(200);
        docs(&admin, &format!("/db/{name}"));
        add(&server.api(), &format!("/db/{name}{DOCS}"), name);
    }
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    // One that was deleted is no loss, also when its definitions have not followed, as after a
    // crash.
    admin.delete("/api/databases/gone").expect(204);
    let (dir, _) = server.into_parts();
    let path = |name: &str| dir.path().join("data").join(name);
    let undo = "UPDATE _collections SET deleted = NULL WHERE database = 'gone'";
    let default = sqlite_for_writing(&path("default.db"));
    default.execute_batch(undo).unwrap();
    drop(default);
    fine(dir.path(), &["check"]);
    fine(dir.path(), &["backup", shown(&backup)]);

    let aside = dir.path().join("aside");
    for name in ["shop", "workflows"] {
        let file = path(&format!("{name}.db"));
        fs::rename(&file, &aside).unwrap();
        for is_empty in [false, true] {
            if is_empty {
                fs::write(&file, "").unwrap();
            }
            let output = vski(dir.path(), &["check"], &[]);
            assert_eq!(output.status.code(), Some(1), "{name} {is_empty}");
            let said = text(&output.stdout);
            assert!(said.contains(&format!(" {name}.db")), "{said}");
            let said = refused(dir.path(), &["backup", shown(&backup)]);
            assert!(said.contains(name) && said.contains("empty"), "{said}");
            fine(dir.path(), &["check", shown(&backup)]);
        }
        fs::rename(&aside, &file).unwrap();
    }
    fine(dir.path(), &["check"]);
    // The server serves the others, and says so.
    fs::rename(path("shop.db"), &aside).unwrap();
    let server = Server::from_parts((Arc::clone(&dir), Vec::new()));
    wait_until("it names what is lost", || {
        let log = server.log();
        log.iter()
            .any(|it| it.contains(" error shop.db is missing"))
    });
    server.into_parts();
    fs::rename(&aside, path("shop.db")).unwrap();
    fs::write(path("default.db"), "").unwrap();
    let output = vski(dir.path(), &["check"], &[]);
    assert!(text(&output.stdout).contains("default.db: The file is empty."));
    assert!(refused(dir.path(), &["backup", shown(&backup)]).contains("default.db is empty"));
    let shop = serve(restored(&backup))
        .api()
        .get(&format!("/db/shop{DOCS}"));
    assert_eq!(shop.expect(200).json["totalItems"], 1);
}

#[test]
fn a_damaged_manifest_costs_no_state_before_there_is_another() {
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "one");
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    let manifest = backup.join("manifest.json");
    let whole = fs::read(&manifest).unwrap();
    flip(&manifest, 10);
    for words in [["check", shown(&backup)], ["restore", shown(&backup)]] {
        assert!(refused(server.dir(), &words).contains("manifest.json is damaged"));
    }
    let words = ["backup", shown(&backup)];
    let killed = vski(server.dir(), &words, &[("VSKI_FAILPOINT", "backup-copied")]);
    assert_eq!(killed.status.code(), None);
    fs::write(&manifest, whole).unwrap();
    fine(server.dir(), &["check", shown(&backup)]);
    flip(&manifest, 10);
    fine(server.dir(), &words);
    fine(server.dir(), &["check", shown(&backup)]);
    let is_state = |it: &fs::DirEntry| it.file_name().to_string_lossy().starts_with("state-");
    let states = fs::read_dir(&backup).unwrap().flatten();
    assert_eq!(states.filter(is_state).count(), 1);
}

#[test]
fn nobody_replaces_a_backup_that_is_read() {
    let server = Server::start();
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    let dir = Dir::new();
    let lock = File::open(backup.join("backup.lock")).unwrap();
    lock.lock_shared().unwrap();
    fine(dir.path(), &["check", shown(&backup)]);
    assert!(refused(server.dir(), &["backup", shown(&backup)]).contains("Another vski"));
    lock.unlock().unwrap();
    lock.lock().unwrap();
    for words in [["check", shown(&backup)], ["restore", shown(&backup)]] {
        assert!(refused(dir.path(), &words).contains("Another vski"));
    }
    drop(lock);
    fine(dir.path(), &["restore", shown(&backup)]);
    // A copy without it serves as well.
    fs::remove_file(backup.join("backup.lock")).unwrap();
    fine(dir.path(), &["check", shown(&backup)]);
    fine(server.dir(), &["backup", shown(&backup)]);
}
