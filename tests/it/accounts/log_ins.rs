//! Log-ins while others do their worst: floods, guesses from everywhere, busy processors.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::{register, server_with};
use crate::support::api::{Api, Reply, metric};
use crate::support::server::Server;

/// A client at this address, as a trusted proxy says.
fn at(server: &Server, address: &str) -> Api {
    server.api().with_header("X-Forwarded-For", address)
}

fn proxied() -> Server {
    server_with(&[("TRUSTED_PROXIES", "127.0.0.1")])
}

fn log_in(api: &Api, name: &str, password: &str) -> Reply {
    let body = json!({"identity": format!("{name}@example.com"), "password": password});
    api.post("/api/auth/login", body)
}

/// Three accounts that signed in again and again with their right passwords held all sixteen places
/// of the queue, which was first come, first served: everyone else, even the admin, got 429.
#[test]
fn a_network_that_floods_log_ins_waits_for_its_own() {
    let server = proxied();
    for name in ["a", "b", "c", "victim"] {
        register(&server, name);
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..30 {
            let (server, over) = (&server, &over);
            scope.spawn(move || {
                let api = at(server, "203.0.113.7");
                let name = ["a", "b", "c"][number % 3];
                while !over.load(Ordering::Relaxed) {
                    log_in(&api, name, "password-1");
                }
            });
        }
        let statuses: Vec<u16> = (0..10)
            .map(|_| log_in(&at(&server, "198.51.100.7"), "victim", "password-1").status)
            .collect();
        let admin = json!({"email": "admin@example.com", "password": "password-1"});
        let admin = at(&server, "198.51.100.8").post("/api/admins/login", admin);
        over.store(true, Ordering::Relaxed);
        assert_eq!((statuses, admin.status), (vec![200; 10], 200));
    });
    // The metrics showed another budget, which nothing used.
    let admin = server.admin();
    let hashes = |name: &str| metric(&admin, name, "password hashes");
    assert!(hashes("vski_budget_refused_total") > 0);
    assert_eq!(hashes("vski_budget_used"), 0);
}

/// Right passwords cost nothing at all, however many: one client could keep a processor busy for
/// ever. Forty at once are for free, which no app notices.
#[test]
fn right_log_ins_of_one_account_have_an_end() {
    let server = proxied();
    register(&server, "ann");
    register(&server, "bob");
    let api = at(&server, "203.0.113.7");
    let mut counted = 0;
    let refused = loop {
        let reply = log_in(&api, "ann", "password-1");
        counted += 1;
        assert!(counted < 2000, "no end");
        if reply.status != 200 {
            break reply;
        }
    };
    assert!(counted > 40, "{counted}");
    let seconds: u64 = refused
        .expect(429)
        .header("Retry-After")
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    log_in(&api, "bob", "password-1").expect(200);
    log_in(&at(&server, "203.0.113.8"), "ann", "password-1").expect(200);
}

/// An attacker with many addresses could lock an admin out for ever: a hundred wrong passwords and
/// then thirty a minute used up what all addresses may try on one account, also the one that the
/// admin always comes from.
#[test]
fn guesses_from_elsewhere_do_not_lock_the_owner_out() {
    let server = proxied();
    server.admin();
    let log_in = |address: &str, password: &str| {
        let body = json!({"email": "admin@example.com", "password": password});
        at(&server, address).post("/api/admins/login", body).status
    };
    assert_eq!(log_in("2001:db8:7:1::1", "password-1"), 200);
    // One site alone does not get far.
    let of_site: Vec<u16> = (0..40)
        .map(|number| log_in(&format!("2001:db8:99:{number:x}::1"), "wrong"))
        .collect();
    assert_eq!(of_site[..30], [401; 30]);
    assert_eq!(of_site[36..], [429; 4]);
    for number in 0..120 {
        log_in(&format!("203.0.113.{number}"), "wrong");
    }
    assert_eq!(log_in("198.51.100.7", "password-1"), 429);
    // Another address of the network that the admin has.
    assert_eq!(log_in("2001:db8:7:1::2", "password-1"), 200);
    // It may not guess more often than others.
    let wrong: Vec<u16> = (0..14)
        .map(|_| log_in("2001:db8:7:1::3", "wrong"))
        .collect();
    // Ten attempts; fewer if a name of the 160 above shares a slot of a table with this one.
    assert_eq!(wrong[..8], [401; 8]);
    assert_eq!(wrong[12..], [429; 2]);
}

/// Ends a process.
struct Busy(Child);

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hashes had so low a priority, and so little time, that a few ordinary busy processes of others
/// made most log-ins fail that came at the same time.
#[test]
fn busy_neighbours_make_log_ins_slower_and_not_impossible() {
    let server = proxied();
    register(&server, "ann");
    let loops = (0..4).map(|_| {
        Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
    });
    let loops: Vec<Busy> = loops.map(|it| Busy(it.unwrap())).collect();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let asked: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| log_in(&at(&server, "203.0.113.7"), "ann", "password-1").status)
            })
            .collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    });
    drop(loops);
    assert_eq!(statuses, [200; 6]);
}
