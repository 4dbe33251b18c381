//! Ends in the middle of things: whatever was cut off, the next start leads to the same pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::api::Api;
use crate::support::cluster::{converge, open_collection, replica};
use crate::support::server::Server;
use crate::support::{cluster, pause};

/// Some records with long texts, so that there are many pages.
fn write(master: &Server, count: usize) {
    let api = master.api();
    for _ in 0..count {
        let body = json!({"title": "x".repeat(3000)});
        api.post("/api/collections/books/records", body).expect(200);
    }
}

fn cluster() -> (Server, Server) {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    write(&master, 20);
    let follower = replica(&master);
    converge(&master, &follower);
    (master, follower)
}

#[test]
fn a_replica_that_ends_at_any_point_comes_along_afterwards() {
    let (master, mut follower) = cluster();
    for point in [
        "page-received",
        "page-received:5",
        "pages-written",
        "committed",
        "applied",
        "before-save",
        "saved",
    ] {
        follower = follower.restart_with("VSKI_FAILPOINT", point);
        write(&master, 20);
        assert!(!follower.wait().success(), "{point} is reached");
        follower = follower.restart_with("VSKI_FAILPOINT", "");
        converge(&master, &follower);
        follower
            .api()
            .get("/api/collections/books/records")
            .expect(200);
    }
}

#[test]
fn a_first_load_that_ends_at_any_point_is_made_anew() {
    let master = cluster::master();
    open_collection(&master.admin(), "books");
    write(&master, 50);
    for point in ["part-written", "whole-written", "replaced", "applied"] {
        let url = format!("http://{}", master.addr());
        let mut follower = cluster::replica_of(&url, &[("VSKI_FAILPOINT", point)]);
        assert!(!follower.wait().success(), "{point} is reached");
        let follower = follower.restart_with("VSKI_FAILPOINT", "");
        converge(&master, &follower);
        let data = cluster::data(&follower);
        let mut left = std::fs::read_dir(data)
            .unwrap()
            .map(|it| it.unwrap().path());
        assert!(!left.any(|path| path.extension().is_some_and(|it| it == "new")));
    }
}

#[test]
fn a_file_that_is_put_in_place_anew_survives_an_end_in_between() {
    for point in ["old-removed", "replaced"] {
        let (master, follower) = cluster();
        let (dir, settings) = follower.into_parts();
        // Another size of pages: nothing of the old file can be used.
        let path = dir.path().join("data/default.db");
        let other = crate::support::sqlite_for_writing(&path);
        other
            .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 1024; VACUUM;")
            .unwrap();
        drop(other);
        let follower = Server::from_parts((dir, settings));
        let mut follower = follower.restart_with("VSKI_FAILPOINT", point);
        assert!(!follower.wait().success(), "{point} is reached");
        let follower = follower.restart_with("VSKI_FAILPOINT", "");
        converge(&master, &follower);
    }
}

#[test]
fn a_master_that_ends_while_it_answers_is_followed_again() {
    let (mut master, follower) = cluster();
    for point in ["cut:2", "spooled:2"] {
        master = master.restart_with("VSKI_FAILPOINT", point);
        let api = master.api();
        for n in 0.. {
            let body = json!({"title": format!("{n}")}).to_string();
            let sent = api.send("POST", "/api/collections/books/records", &body);
            if sent.is_err() {
                break;
            }
            assert!(n < 2000, "{point} is reached");
            pause(Duration::from_millis(5));
        }
        master = master.restart_with("VSKI_FAILPOINT", "");
        converge(&master, &follower);
    }
}

#[test]
fn killed_again_and_again_under_load_both_sides_agree_in_the_end() {
    let (mut master, mut follower) = cluster();
    for round in 0..6 {
        let api = master.api();
        for n in 0..40 {
            let body = json!({"id": format!("r{round}n{n}"), "title": "x".repeat(500)});
            api.post("/api/collections/books/records", body).expect(200);
        }
        match round % 3 {
            0 => {
                follower.kill();
                follower = follower.restart();
            }
            1 => {
                master.kill();
                master = master.restart();
            }
            _ => {
                master.kill();
                follower.kill();
                master = master.restart();
                follower = follower.restart();
            }
        }
    }
    converge(&master, &follower);
    // Every write was acknowledged.
    let reader = follower.api();
    for round in 0..6 {
        for n in 0..40 {
            reader
                .get(&format!("/api/collections/books/records/r{round}n{n}"))
                .expect(200);
        }
    }
}

/// As a proxy in front of two replicas does: what one does not answer the other is asked.
fn read_from_any(replicas: &[Api], turn: usize) {
    let path = "/api/collections/books/records?perPage=5";
    let mut answers = Vec::new();
    for at in 0..replicas.len() {
        let replica = &replicas[(turn + at) % replicas.len()];
        match replica.send("GET", path, "") {
            Ok(reply) if reply.status == 200 => return,
            Ok(reply) => answers.push(format!("{reply:?}")),
            Err(error) => answers.push(error.to_string()),
        }
    }
    panic!("no replica answers: {answers:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "tests have no Stop to share")]
fn a_rolling_restart_fails_no_read() {
    let (mut master, first) = cluster();
    let second = replica(&master);
    converge(&master, &second);
    let port = |server: &Server| server.addr().port().to_string();
    let (port_1, port_2) = (port(&first), port(&second));
    let mut first = first.restart_with("PORT", &port_1);
    let mut second = second.restart_with("PORT", &port_2);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (done, addrs) = (Arc::clone(&done), [first.addr(), second.addr()]);
            std::thread::spawn(move || {
                let replicas = addrs.map(Api::new);
                let mut turns = 0;
                while !done.load(Ordering::SeqCst) {
                    read_from_any(&replicas, turns);
                    turns += 1;
                }
                turns
            })
        })
        .collect();
    for _ in 0..3 {
        write(&master, 10);
        first = first.restart();
        converge(&master, &first);
        master = master.restart();
        write(&master, 10);
        second = second.restart();
        converge(&master, &second);
        converge(&master, &first);
    }
    done.store(true, Ordering::SeqCst);
    let turns: usize = readers.into_iter().map(|it| it.join().unwrap()).sum();
    assert!(turns > 100, "{turns}");
}
