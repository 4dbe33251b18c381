//! `vski restore`: what it refuses, what it leaves when it is killed, and who follows a restored
//! server.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{
    DOCS, add, busy, compared, docs, fine, flip, redefine, refused, serve, shown, text, tree, vski,
};
use crate::support::cluster::{converge, data, replica};
use crate::support::server::Server;
use crate::support::worker::Worker;
use crate::support::{Dir, cluster, pause, wait_until, worker};

#[test]
fn a_restore_spoils_nothing() {
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "one");
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    add(&server.api(), DOCS, "two");
    // Where a server runs.
    let words = ["restore", shown(&backup), "--replace"];
    assert!(refused(server.dir(), &words).contains("in use by another vski"));
    assert!(refused(server.dir(), &words[..2]).contains("is not empty"));
    assert_eq!(compared(&server.api()).len(), 2);
    let (dir, settings) = server.into_parts();
    assert!(refused(dir.path(), &words[..2]).contains("is not empty"));

    // Killed: either what was there, or what is restored, is where it was.
    for point in ["restore-filled", "restore-aside"] {
        let output = vski(dir.path(), &words, &[("VSKI_FAILPOINT", point)]);
        assert_eq!(output.status.code(), None, "{point}");
        let before = dir.path().join("data");
        let aside = find_aside(dir.path());
        assert_eq!(before.exists(), aside.is_empty(), "{point}");
        if let [aside] = &aside[..] {
            std::fs::rename(aside, before).unwrap();
        }
    }
    let said = fine(dir.path(), &words);
    assert!(said.contains("The previous data is in"), "{said}");
    let aside = find_aside(dir.path());
    assert_eq!(tree(&aside[0].join("storage")).len(), 2);
    let server = Server::from_parts((dir, settings));
    assert_eq!(compared(&server.api()), ["one"]);

    // Damaged: nothing is touched.
    let mut states = std::fs::read_dir(&backup)
        .unwrap()
        .flatten()
        .map(|it| it.path());
    let state = states.find(|it| it.join("default.db").exists()).unwrap();
    flip(&state.join("default.db"), 5000);
    let empty = Dir::new();
    assert!(refused(empty.path(), &["restore", shown(&backup)]).contains("nothing was restored"));
    assert!(!empty.path().join("data/default.db").exists());
    let output = vski(empty.path(), &["check", shown(&backup)], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("default.db differs from"),
        "{}",
        text(&output.stdout)
    );
}

fn find_aside(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|it| it.path());
    entries
        .filter(|it| shown(it).contains("data.before-"))
        .collect()
}

/// The mode and the owner of each file and folder below one.
fn rights(root: &Path) -> Vec<(PathBuf, u32, u32)> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let data = entry.metadata().unwrap();
            if data.is_dir() {
                folders.push(entry.path());
            }
            found.push((entry.path(), data.mode() & 0o777, data.uid()));
        }
    }
    found
}

#[test]
fn what_is_restored_belongs_to_the_owner_of_the_directory_alone() {
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "one");
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    // Like copies on other media: readable by everyone, writable by no one.
    for (path, ..) in rights(&backup) {
        if path.is_file() {
            std::fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
        }
    }
    let dir = Dir::new();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let is_root = std::fs::metadata(&data).unwrap().uid() == 0;
    let owner = match is_root {
        true => 65_534,
        false => std::fs::metadata(&data).unwrap().uid(),
    };
    chown(&data, Some(owner), None).unwrap();
    for words in [
        &["restore", shown(&backup)][..],
        &["restore", shown(&backup), "--replace"],
    ] {
        fine(dir.path(), words);
        assert_eq!(std::fs::metadata(&data).unwrap().uid(), owner);
        for (path, mode, uid) in rights(&data) {
            let wanted = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!((mode, uid), (wanted, owner), "{}", path.display());
        }
    }
}

#[test]
fn a_backup_of_a_replica_waits_for_what_is_on_its_way() {
    let master = cluster::master();
    docs(&master.admin(), "");
    let shop = json!({"name": "shop"});
    master.admin().post("/api/databases", shop).expect(200);
    let follower = replica(&master);
    converge(&master, &follower);
    wait_until("the shop is there", || {
        data(&follower).join("shop.db").exists()
    });
    let (kept, stop) = (Mutex::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| busy(&master.api(), "a", &kept, &stop));
        scope.spawn(|| redefine(&master.admin(), &stop));
        for at in 0..4 {
            let backup = follower.dir().join(format!("backup{at}"));
            pause(Duration::from_millis(100));
            fine(follower.dir(), &["backup", shown(&backup)]);
            fine(follower.dir(), &["check", shown(&backup)]);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn an_interrupted_restore_into_an_empty_directory_is_noticed_and_done_again() {
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "one");
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    for (point, is_empty) in [("restore-filled", true), ("restore-moving", false)] {
        let dir = Dir::new();
        let words = ["restore", shown(&backup), "--replace"];
        let output = vski(dir.path(), &words, &[("VSKI_FAILPOINT", point)]);
        assert_eq!(output.status.code(), None, "{point}");
        assert!(refused(dir.path(), &["serve", "--port", "0"]).contains("was interrupted"));
        match is_empty {
            true => fine(dir.path(), &words[..2]),
            false => fine(dir.path(), &words),
        };
        assert_eq!(compared(&serve(dir).api()), ["one"], "{point}");
    }
}

#[test]
fn a_replica_follows_a_restored_master_by_itself() {
    let master = cluster::master();
    docs(&master.admin(), "");
    for n in 0..5 {
        add(&master.api(), DOCS, &format!("before {n}"));
    }
    let follower = replica(&master);
    let same = |master: &Server, follower: &Server| {
        converge(master, follower);
        wait_until("the files are the same", || {
            tree(&data(master).join("storage")) == tree(&data(follower).join("storage"))
        });
    };
    same(&master, &follower);
    let backup = master.dir().join("backup");
    fine(master.dir(), &["backup", shown(&backup)]);
    for n in 0..8 {
        add(&master.api(), DOCS, &format!("lost {n}"));
    }
    same(&master, &follower);
    let copy = follower.dir().join("backup");
    fine(follower.dir(), &["backup", shown(&copy)]);
    fine(follower.dir(), &["check", shown(&copy)]);
    // While it is away another history becomes as long as the one that it knows.
    let away = follower.into_parts();
    let (dir, settings) = master.into_parts();
    fine(dir.path(), &["restore", shown(&backup), "--replace"]);
    let master = Server::from_parts((dir, settings));
    for n in 0..12 {
        add(&master.api(), DOCS, &format!("after {n}"));
    }
    let follower = Server::from_parts(away);
    same(&master, &follower);
    let titles = compared(&follower.api());
    assert_eq!(titles.len(), 17);
    assert!(!titles.iter().any(|it| it.starts_with("lost")));
}

#[test]
fn runs_go_on_after_a_restore_and_nobody_writes_with_an_older_claim() {
    let server = Server::start();
    let token = worker::token(&server);
    let api = server.api().with_token(&token);
    let run = json!({"workflow": "w", "input": 1});
    let id = api
        .post("/api/workflow/runs", run)
        .expect(200)
        .text("/runId")
        .to_owned();
    let backup = server.dir().join("backup");
    fine(server.dir(), &["backup", shown(&backup)]);
    // Handed out since.
    let mut old = Worker::connect(&server, &token, json!({"worker": "old"}));
    let claim = old.job();
    let (dir, settings) = server.into_parts();
    fine(dir.path(), &["restore", shown(&backup), "--replace"]);
    let server = Server::from_parts((dir, settings));
    let api = server.api().with_token(&token);
    let mut new = Worker::connect(&server, &token, json!({"worker": "new"}));
    let job = new.job();
    assert_eq!((&job["job"], &claim["job"]), (&json!(id), &json!(id)));
    let frame = worker::about(&claim, json!({"t": "done", "output": "late"}));
    let reply = api
        .post("/api/workflow/report", json!({"frames": [frame]}))
        .expect(200);
    assert_eq!(reply.json["answers"][0]["code"], "lost_lease");
    new.done(&job, json!({"t": "done", "output": "end"}));
}
