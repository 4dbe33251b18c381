//! Files that grow and work that takes long: the WAL stays bounded, and no request waits for long.
//!
//! The asserted limits are far above the usual figures, which are printed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{MIB, serve, sign_in};
use crate::crash::load::OVERTAKEN;
use crate::crash::{open, rounds};
use crate::support::api::Api;
use crate::support::{Dir, pause, wait_until};

const RECORDS: &str = "/api/collections/notes/records";
/// The log may grow to this when queries are short.
const LOG_BYTES_MAX: u64 = 64 * MIB;
/// And is cut to this when the load is over; then a few commits on top.
const LOG_BYTES_KEPT: u64 = 18 * MIB;

#[test]
fn the_log_stays_bounded_under_a_mixed_load_with_a_reader_from_outside() {
    let dir = Dir::new();
    let server = serve(dir.path());
    let token = sign_in(&server);
    let api = server.api().with_token(&token);
    make_notes(&api, 2000);
    let file = dir.path().join("data/default.db");
    let clients = Clients::default();
    let time = Duration::from_secs(rounds().clamp(4, 20));
    let largest = thread::scope(|scope| {
        for at in 0..16 {
            let (api, clients) = (server.api().with_token(&token), &clients);
            scope.spawn(move || clients.write(&api, at, 4000));
        }
        for _ in 0..8 {
            let (api, clients) = (server.api().with_token(&token), &clients);
            scope.spawn(move || clients.list(&api));
        }
        let outside = scope.spawn(|| {
            let reader = open(&file);
            let count = || reader.query_row("SELECT count(*) FROM notes", [], |row| row.get(0));
            reader.execute_batch("BEGIN").unwrap();
            let before: i64 = count().unwrap();
            pause(Duration::from_secs(3));
            assert_eq!(before, count().unwrap());
            reader.execute_batch("COMMIT").unwrap();
        });
        let largest = largest_log(&file, time);
        outside.join().unwrap();
        clients.stop.store(true, Ordering::Relaxed);
        largest
    });
    clients.report(time, largest);
    assert!(largest < LOG_BYTES_MAX, "{} MiB", largest / MIB);
    wait_until("the log shrinks", || {
        api.post(RECORDS, json!({"n": 1})).expect(200);
        log_bytes(&file) < LOG_BYTES_KEPT
    });
}

/// Few commits may hold much.
#[test]
fn the_log_stays_bounded_when_every_record_is_large() {
    let dir = Dir::new();
    let server = serve(dir.path());
    let token = sign_in(&server);
    make_notes(&server.api().with_token(&token), 200);
    let file = dir.path().join("data/default.db");
    let clients = Clients::default();
    let time = Duration::from_secs(rounds().clamp(3, 20));
    let largest = thread::scope(|scope| {
        for at in 0..4 {
            let (api, clients) = (server.api().with_token(&token), &clients);
            scope.spawn(move || clients.write(&api, at, 3_000_000));
        }
        for _ in 0..4 {
            let (api, clients) = (server.api().with_token(&token), &clients);
            scope.spawn(move || clients.list(&api));
        }
        let largest = largest_log(&file, time);
        clients.stop.store(true, Ordering::Relaxed);
        largest
    });
    clients.report(time, largest);
    // Lists take long here, and the log waits for them only in proportion to its size.
    assert!(largest < 2 * LOG_BYTES_MAX, "{} MiB", largest / MIB);
}

#[test]
fn large_batches_let_readers_and_other_writers_through() {
    let dir = Dir::new();
    let server = serve(dir.path());
    let token = sign_in(&server);
    let api = server.api().with_token(&token);
    make_notes(&api, 1000);
    let ids: Vec<Value> = {
        let page = |page: u32| api.get(&format!("{RECORDS}?perPage=500&page={page}&fields=id"));
        (1..=2)
            .flat_map(|at| page(at).expect(200).column("id"))
            .collect()
    };
    let done = AtomicBool::new(false);
    let (batches, longest) = thread::scope(|scope| {
        let others: Vec<_> = ["write", "get", "list"]
            .map(|what| {
                let (api, done) = (server.api().with_token(&token), &done);
                let id = ids[0].as_str().unwrap();
                scope.spawn(move || (what, times(&api, what, id, done)))
            })
            .into_iter()
            .collect();
        let mut batches = Vec::new();
        for round in 0..rounds().min(20) {
            let begun = Instant::now();
            make_notes(&api, 1000);
            let body = json!({"ids": ids, "data": {"n": round}});
            api.patch(RECORDS, body).expect(200);
            batches.push(begun.elapsed());
        }
        done.store(true, Ordering::Relaxed);
        let times: Vec<_> = others
            .into_iter()
            .map(|other| other.join().unwrap())
            .collect();
        (batches, times)
    });
    eprintln!("a batch of 1000 and a bulk change of 1000: {batches:?}");
    for (what, mut times) in longest {
        times.sort();
        let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!(
            "{what}: {} times, median {middle:?}, longest {last:?}",
            times.len()
        );
        assert!(last < Duration::from_secs(10), "{what}: {last:?}");
    }
}

/// A request that was checked against the old definition wrote a plain value where the new one has
/// lists, and the answers with it were no JSON. Now it is refused as overtaken.
#[test]
fn a_field_that_changes_its_form_under_writes_has_one_form() {
    let dir = Dir::new();
    let server = serve(dir.path());
    let token = sign_in(&server);
    let api = server.api().with_token(&token);
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in ["/api", "/db/shop/api"] {
        let select = |most: u64| json!([{"name": "s", "type": "select", "values": ["a", "b"], "maxSelect": most}]);
        let body = json!({"name": "c", "fields": select(1)});
        api.post(&format!("{base}/collections"), body).expect(200);
        let (path, done) = (
            format!("{base}/collections/c/records"),
            AtomicBool::new(false),
        );
        thread::scope(|scope| {
            for _ in 0..32 {
                let (api, path, done) = (server.api().with_token(&token), &path, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let reply = api.post(path, json!({"s": "a"}));
                        let is_overtaken =
                            reply.status == 503 && reply.text("/message") == OVERTAKEN;
                        assert!(is_overtaken || reply.json["id"].is_string(), "{reply:?}");
                    }
                });
            }
            for round in 0..rounds() * 3 {
                let body = json!({"fields": select(2 - round % 2)});
                let changed = api.patch(&format!("{base}/collections/c"), body);
                done.store(changed.status != 200, Ordering::Relaxed);
                changed.expect(200);
                pause(Duration::from_millis(20));
                let page = api.get(&format!("{path}?perPage=500&sort=-id"));
                let is_right = |s: &Value| s.is_array() == (round % 2 == 0);
                let is_json = page.json["items"].is_array();
                done.store(!is_json, Ordering::Relaxed);
                let text = String::from_utf8_lossy(&page.body);
                assert!(
                    is_json && page.column("s").iter().all(is_right),
                    "{base} {round}: {text}"
                );
            }
            done.store(true, Ordering::Relaxed);
        });
        let pages = api.get(&format!("{path}?perPage=500")).expect(200).json["totalPages"].as_u64();
        for page in 1..=pages.unwrap() {
            let page = api
                .get(&format!("{path}?perPage=500&page={page}"))
                .expect(200);
            assert!(
                page.column("s").iter().all(Value::is_string),
                "{base}: {page:?}"
            );
        }
    }
}

/// The durations of the requests of one client while the batches run.
fn times(api: &Api, what: &str, id: &str, done: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < 3 || !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match what {
            "write" => api.post(RECORDS, json!({"n": 1})),
            "get" => api.get(&format!("{RECORDS}/{id}")),
            _ => api.get(&format!("{RECORDS}?perPage=20&sort=-created&skipTotal=1")),
        }
        .expect(200);
        times.push(begun.elapsed());
    }
    times
}

/// The collection, and in it `count` records of one to two kilobytes, made by one batch.
fn make_notes(api: &Api, count: usize) {
    if api.get("/api/collections/notes").status == 404 {
        let fields = json!([{"name": "n", "type": "number"}, {"name": "text", "type": "editor",
            "maxSize": 4 << 20}]);
        api.post(
            "/api/collections",
            json!({"name": "notes", "fields": fields}),
        )
        .expect(200);
    }
    let request = |n: usize| json!({"method": "POST", "url": RECORDS, "body": {"n": n, "text": "a b ".repeat(300 + n % 250)}});
    let requests: Vec<Value> = (0..count).map(request).collect();
    for part in requests.chunks(1000) {
        api.post("/api/batch", json!({"requests": part}))
            .expect(200);
    }
}

#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    writes: AtomicU64,
    lists: AtomicU64,
    bytes: AtomicU64,
}

impl Clients {
    /// Makes two records, changes one and deletes one, again and again.
    fn write(&self, api: &Api, at: u64, bytes: usize) {
        let body = json!({"n": at, "text": "x".repeat(bytes)}).to_string();
        while !self.stop.load(Ordering::Relaxed) {
            let kept = api.post(RECORDS, &body).expect(200);
            let gone = api.post(RECORDS, &body).expect(200);
            let (kept, gone) = (kept.text("/id"), gone.text("/id"));
            api.patch(
                &format!("{RECORDS}/{kept}"),
                json!({"text": "y".repeat(bytes)}),
            )
            .expect(200);
            api.delete(&format!("{RECORDS}/{gone}")).expect(204);
            self.writes.fetch_add(4, Ordering::Relaxed);
            self.bytes.fetch_add(3 * bytes as u64, Ordering::Relaxed);
        }
    }

    /// Lists that look at every record and take their time.
    fn list(&self, api: &Api) {
        let query = [("filter", "text ~ 'no such words'"), ("sort", "-text")];
        while !self.stop.load(Ordering::Relaxed) {
            api.list("notes", &query).expect(200);
            self.lists.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn report(&self, time: Duration, largest: u64) {
        let per_second = |count: &AtomicU64| count.load(Ordering::Relaxed) / time.as_secs();
        eprintln!(
            "per second: {} writes with {} KiB, {} lists; the log at most {} KiB",
            per_second(&self.writes),
            per_second(&self.bytes) / 1024,
            per_second(&self.lists),
            largest / 1024
        );
    }
}

/// Looks at the log for some time.
fn largest_log(file: &Path, time: Duration) -> u64 {
    let (begun, mut largest) = (Instant::now(), 0);
    while begun.elapsed() < time {
        largest = largest.max(log_bytes(file));
        pause(Duration::from_millis(5));
    }
    largest
}

fn log_bytes(file: &Path) -> u64 {
    std::fs::metadata(file.with_extension("db-wal"))
        .unwrap()
        .len()
}
