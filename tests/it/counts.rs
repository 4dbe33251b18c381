//! Totals of lists and pages far from their start, which are found without reading all rows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use super::support::api::Api;
use super::support::cluster::{converge, data, master, open_collection, replica};
use super::support::server::Server;
use super::support::sqlite_for_writing;

const RECORDS: &str = "/api/collections/c/records";

fn total(api: &Api) -> u64 {
    let reply = api.get(&format!("{RECORDS}?perPage=1")).expect(200);
    reply.json["totalItems"].as_u64().unwrap()
}

fn create(api: &Api, count: u64) -> Vec<String> {
    let body = json!({"title": "x"});
    let ids = (0..count).map(|_| api.post(RECORDS, &body).expect(200).text("/id").to_owned());
    ids.collect()
}

/// The ids of all records, page by page, in the order of this sort.
fn ids(api: &Api, sort: &str, size: usize) -> Vec<String> {
    let mut all = Vec::new();
    for page in 1.. {
        let query = [("page", page.to_string()), ("perPage", size.to_string())];
        let [(page, number), (per_page, size)] = &query;
        let query = [(*page, number.as_str()), (per_page, size), ("sort", sort)];
        let reply = api.list("c", &query).expect(200);
        let found = reply.column("id");
        if found.is_empty() {
            return all;
        }
        all.extend(found.iter().map(|id| id.as_str().unwrap().to_owned()));
    }
    all
}

#[test]
fn a_total_counts_what_was_written_before_it_whoever_wrote_it() {
    let server = Server::start();
    let admin = server.admin();
    open_collection(&admin, "c");
    let api = server.api();
    assert_eq!(total(&api), 0);
    let made = create(&api, 3);
    assert_eq!((total(&api), total(&api)), (3, 3));
    api.delete(&format!("{RECORDS}/{}", made[0])).expect(204);
    assert_eq!(total(&api), 2);
    // A script that writes to the file directly.
    let file = sqlite_for_writing(&server.dir().join("data/default.db"));
    let copy =
        "INSERT INTO c (id, created, updated) SELECT 'a' || value, '2026-01-01', '2026-01-01'
                FROM json_each('[1,2,3,4,5]')";
    for round in 0..20 {
        file.execute_batch(copy).unwrap();
        assert_eq!(total(&api), 7, "{round}");
        file.execute_batch("DELETE FROM c WHERE id GLOB 'a[1-5]'")
            .unwrap();
        assert_eq!(total(&api), 2, "{round}");
    }
    // A table that replaces another one of the same name.
    admin.delete("/api/collections/c").expect(204);
    open_collection(&admin, "c");
    assert_eq!(total(&api), 0);
}

#[test]
fn a_total_is_between_what_was_written_before_and_after_it() {
    let server = Server::with(&[("DB_SYNCHRONOUS", "normal")]);
    open_collection(&server.admin(), "c");
    let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let addr = server.addr();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let api = Api::new(addr);
                for _ in 0..100 {
                    begun.fetch_add(1, Ordering::SeqCst);
                    create(&api, 1);
                    ended.fetch_add(1, Ordering::SeqCst);
                }
                is_over.store(true, Ordering::SeqCst);
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let api = Api::new(addr);
                while !is_over.load(Ordering::SeqCst) {
                    let least = ended.load(Ordering::SeqCst);
                    let found = total(&api);
                    let most = begun.load(Ordering::SeqCst);
                    assert!((least..=most).contains(&found), "{least} {found} {most}");
                }
            });
        }
    });
    assert_eq!(total(&server.api()), 300);
}

#[test]
fn pages_far_from_the_start_are_those_of_the_whole_list() {
    let server = Server::with(&[("DB_SYNCHRONOUS", "normal")]);
    open_collection(&server.admin(), "c");
    let api = server.api();
    let mut made = create(&api, 60);
    for round in 0..3 {
        for size in [1, 7, 30] {
            let mut expected = made.clone();
            assert_eq!(ids(&api, "@rowid", size), expected, "{round} {size}");
            assert_eq!(ids(&api, "", size), expected, "{round} {size}");
            expected.reverse();
            assert_eq!(ids(&api, "-@rowid", size), expected, "{round} {size}");
        }
        // A gap, first within the table, then at its start.
        let gone = made.remove([30, 0, 0][round]);
        api.delete(&format!("{RECORDS}/{gone}")).expect(204);
    }
}

#[test]
fn a_replica_counts_the_state_that_it_has() {
    let master = master();
    open_collection(&master.admin(), "c");
    let api = master.api();
    create(&api, 5);
    let replica = replica(&master);
    super::support::wait_until("the replica has the database", || {
        data(&replica).join("default.db").exists()
    });
    converge(&master, &replica);
    let there = replica.api();
    let mut before = total(&there);
    for expected in 6..30 {
        create(&api, 1);
        super::support::wait_until("the replica counts the record", || {
            let found = total(&there);
            assert!(
                (before..=expected).contains(&found),
                "{before} {found} {expected}"
            );
            before = found;
            found == expected
        });
    }
}
