//! A connection to the master that does everything that connections do.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::cluster::{converge, database, open_collection, replica_of, status};
use crate::support::proxy::{Fault, Proxy};
use crate::support::server::Server;
use crate::support::{cluster, wait_until};

/// Heads of answers and short ones are below this, a stream of pages above it.
const STREAM: usize = 700;

struct Net {
    master: Server,
    proxy: Proxy,
    follower: Server,
    written: usize,
}

impl Net {
    fn new() -> Net {
        let master = cluster::master();
        open_collection(&master.admin(), "books");
        let proxy = Proxy::start(master.addr().port());
        let follower = replica_of(&proxy.url(), &[]);
        converge(&master, &follower);
        Net {
            master,
            proxy,
            follower,
            written: 0,
        }
    }

    /// A small change; its record is on the replica when this returns.
    fn change(&mut self) {
        let id = self.write();
        let path = format!("/api/collections/books/records/{id}");
        let api = self.follower.api();
        wait_until("the change arrives", || api.get(&path).status == 200);
    }

    /// The record comes when whatever holds it up has been given up, at most 15 seconds after its
    /// last sign.
    #[track_caller]
    fn arrives_in_the_end(&self, id: &str) {
        let begun = Instant::now();
        let path = format!("/api/collections/books/records/{id}");
        while self.follower.api().get(&path).status != 200 {
            assert!(
                begun.elapsed() < Duration::from_secs(40),
                "what has stalled is given up"
            );
            crate::support::pause(Duration::from_millis(200));
        }
    }

    fn write(&mut self) -> String {
        self.written += 1;
        let id = format!("r{}", self.written);
        let body = json!({"id": id, "title": "t"});
        self.master
            .api()
            .post("/api/collections/books/records", body)
            .expect(200);
        id
    }
}

#[test]
fn cut_at_every_byte_an_answer_is_gone_on_with() {
    let mut net = Net::new();
    let most: usize = std::env::var("VSKI_CASES").map_or(60, |it| it.parse().unwrap());
    let step = (1800 / most).max(1);
    let first = std::process::id() as usize % step;
    for at in (first..1800).step_by(step) {
        net.proxy.set(Fault::Cut(at), STREAM);
        net.change();
    }
    assert!(net.proxy.struck() >= 20, "{}", net.proxy.struck());
    converge(&net.master, &net.follower);
    assert_eq!(database(&net.follower, "default")["repairs"], 0);
}

#[test]
fn no_flipped_bit_gets_into_a_database() {
    let mut net = Net::new();
    let before = status(&net.follower)["replica"]["failures"]
        .as_u64()
        .unwrap();
    for at in (0..40).map(|n| n * 61 + 300) {
        net.proxy.set(Fault::Flip(at), STREAM);
        net.change();
    }
    assert!(net.proxy.struck() >= 20, "{}", net.proxy.struck());
    let after = status(&net.follower)["replica"]["failures"]
        .as_u64()
        .unwrap();
    assert!(after > before, "it was noticed");
    net.proxy.set(Fault::None, 0);
    converge(&net.master, &net.follower);
}

#[test]
fn a_slow_connection_brings_everything_and_a_dead_one_is_given_up() {
    let mut net = Net::new();
    net.proxy.set(Fault::Trickle, 0);
    net.change();
    net.proxy.set(Fault::Stall(200), STREAM);
    let id = net.write();
    wait_until("the transfer has stalled", || net.proxy.struck() > 0);
    net.arrives_in_the_end(&id);
    // A stop does not wait for it either.
    net.proxy.set(Fault::Stall(200), STREAM);
    net.write();
    let begun = Instant::now();
    assert!(net.follower.stop().success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_short_answer_that_stops_in_its_middle_is_given_up() {
    let mut net = Net::new();
    // Nothing changes, so that the next long one is the list of databases.
    net.proxy.set(Fault::Stall(10), 300);
    wait_until("the list has stalled", || net.proxy.struck() > 0);
    let id = net.write();
    net.arrives_in_the_end(&id);
    net.change();
}

#[test]
fn a_replica_says_which_of_its_settings_is_wrong() {
    let master = cluster::master();
    let replica = cluster::replica(&master);
    let says = |server: &Server, what: &str| {
        wait_until(what, || server.log().iter().any(|line| line.contains(what)));
    };
    let wrong = "another secret, and long enough for one";
    let url = format!("http://{}", master.addr());
    says(
        &replica_of(&url, &[("JWT_SECRET", wrong)]),
        "JWT_SECRET must be the same on both servers",
    );
    let url = format!("http://{}", replica.addr());
    says(
        &replica_of(&url, &[]),
        &format!(
            "MASTER_URL must be the URL of a master, here http://{}.",
            master.addr()
        ),
    );
}

#[test]
fn a_master_that_is_away_or_answers_nonsense_changes_nothing() {
    let mut net = Net::new();
    net.change();
    for fault in [Fault::Refuse, Fault::CutAlways(0), Fault::CutAlways(30)] {
        net.proxy.set(fault, 0);
        net.write();
        wait_until("the failure is told", || {
            status(&net.follower)["replica"]["error"].is_string()
        });
        net.follower
            .api()
            .get("/api/collections/books/records")
            .expect(200);
        net.proxy.set(Fault::None, 0);
        net.change();
        converge(&net.master, &net.follower);
    }
    // Something else answers at the master's address.
    let other = Server::start();
    let follower = replica_of(&format!("http://{}", other.addr()), &[]);
    wait_until("the refusal is told", || {
        let error = status(&follower)["replica"]["error"].clone();
        error.as_str().is_some_and(|it| it.contains("401"))
    });
}

#[test]
fn a_replica_says_when_the_url_of_its_master_has_a_path() {
    let master = cluster::master();
    let follower = replica_of(&format!("http://{}/db/default", master.addr()), &[]);
    wait_until("the replica says so", || {
        let error = status(&follower)["replica"]["error"].clone();
        let hint = "Is this the address of a vski, without a path?";
        error.as_str().is_some_and(|it| it.contains(hint))
    });
}
