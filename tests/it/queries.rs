//! Queries that take long: who waits for them, who does not, and what of them is refused.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::support::api::Api;
use super::support::api::encode;
use super::support::pause;
use super::support::server::Server;

/// The longest that somebody else may wait while one database is attacked. The readers used to be taken for
/// 10 s and more at a time.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A collection `pub` that anybody reads, with so many records of this text.
fn texts(api: &Api, count: usize, text: &str) {
    let body = json!({"name": "pub", "fields": [{"name": "t", "type": "text", "max": 5_000_000}], "listRule": "",
        "viewRule": ""});
    api.post("/api/collections", body).expect(200);
    let per_batch = (2_000_000 / text.len()).clamp(1, 1000);
    let ids: Vec<usize> = (0..count).collect();
    for ids in ids.chunks(per_batch) {
        let create = |id: &usize| json!({"method": "POST", "url": "/api/collections/pub/records", "body": {"id": format!("r{id}"), "t": text}});
        let requests: Vec<Value> = ids.iter().map(create).collect();
        api.post("/api/batch", json!({"requests": requests}))
            .expect(200);
    }
}

/// A list that looks at each record about 190 times and finds none.
fn dear() -> String {
    let terms: Vec<String> = (0..190).map(|at| format!("t ~ 'zz{at}'")).collect();
    let filter = encode(&terms.join(" || "));
    format!("/api/collections/pub/records?perPage=1&filter={filter}")
}

/// Sixteen connections that ask for a dear filter again and again used to take every reader of the database
/// for 10 s at a time: views of one record, the writes of an admin (whose token is looked up there) and, with
/// all workers waiting for readers, other databases and `/api/health` stood still.
#[test]
fn dear_filters_of_strangers_stop_nobody_else() {
    let server = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1"), ("THREADS", "16")]);
    let admin = server.admin();
    texts(&admin, 2000, &"lorem ipsum ".repeat(340));
    admin
        .post("/api/databases", json!({"name": "other"}))
        .expect(200);
    let (over, dear) = (AtomicBool::new(false), dear());
    thread::scope(|scope| {
        let attacks: Vec<_> = (0..40)
            .map(|at| {
                let api = server.api();
                let api = api.with_header("X-Forwarded-For", &format!("203.0.113.{}", at % 4));
                let (over, dear) = (&over, &dear);
                scope.spawn(move || {
                    let mut statuses = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        statuses.push(api.get(dear).status);
                    }
                    statuses
                })
            })
            .collect();
        let _over = Over(&over);
        let stranger = server.api().with_header("X-Forwarded-For", "198.51.100.7");
        let admin = admin.with_header("X-Forwarded-For", "198.51.100.8");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(8) {
            let view = || stranger.get("/api/collections/pub/records/r7?fields=id");
            within("a view", || view().expect(200));
            within("health", || stranger.get("/api/health").expect(200));
            let path = "/api/collections/pub/records/r8?fields=id";
            within("a write", || {
                admin.patch(path, r#"{"t":"new"}"#).expect(200)
            });
            let path = "/db/other/api/collections";
            within("another database", || admin.get(path).expect(200));
            pause(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        let attacks = attacks.into_iter().flat_map(|it| it.join().unwrap());
        let statuses: Vec<u16> = attacks.collect();
        assert!(statuses.contains(&503), "{statuses:?}");
        let is_known = |it: &u16| [200, 400, 429, 503].contains(it);
        assert!(statuses.iter().all(is_known), "{statuses:?}");
    });
    let metrics = admin.get("/metrics").expect(200);
    let metrics = String::from_utf8(metrics.body).unwrap();
    for budget in ["slow queries", "waiting queries"] {
        let line = format!("vski_budget_used{{budget=\"{budget}\"}} 0");
        assert!(metrics.contains(&line), "{budget} is given back: {metrics}");
    }
}

/// Ends an attack also when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn within<T>(what: &str, body: impl FnOnce() -> T) {
    let begun = Instant::now();
    body();
    let took = begun.elapsed();
    assert!(took < WAIT_MAX, "{what} took {took:?}");
}

/// A search for thousands of times the same letter in a long text of that letter took seconds inside a single
/// step, which no limit on the time of a query could stop.
#[test]
fn a_search_in_a_long_text_is_linear() {
    let server = Server::start();
    let admin = server.admin();
    texts(&admin, 2, &"a".repeat(1_900_000));
    let filter = format!("t ~ '{}b'", "a".repeat(8_000));
    within("the search", || {
        let reply = admin.list("pub", &[("filter", &filter), ("fields", "id")]);
        assert_eq!(reply.expect(200).json["totalItems"], 0);
    });
    let filter = format!("t ~ '%{}'", "a".repeat(8_000));
    within("the search for what is there", || {
        let reply = admin.list("pub", &[("filter", &filter), ("fields", "id")]);
        assert_eq!(reply.expect(200).json["totalItems"], 2);
    });
}

/// There was no way to search for a percent sign: a backslash before it was looked for as well.
#[test]
fn a_backslash_makes_a_percent_sign_ordinary() {
    let server = Server::start();
    let admin = server.admin();
    texts(&admin, 0, "a");
    let stored = ["100% sure", "1000", "a_b", "axb", r"C:\temp", r"50\", r"\%"];
    for text in stored {
        let path = "/api/collections/pub/records";
        admin.post(path, json!({"t": text})).expect(200);
    }
    for (filter, expected) in [
        (r"t ~ '100\%'", vec!["100% sure"]),
        (r"t ~ '100\\%'", vec!["100% sure"]),
        (r"t ~ '100%'", vec!["100% sure", "1000"]),
        (r"t ~ '100\%%'", vec!["100% sure"]),
        (r"t ~ '%\%'", vec![r"\%"]),
        (r"t ~ 'a\_b'", vec!["a_b"]),
        (r"t ~ 'a_b'", vec!["a_b"]),
        (r"t ~ 'c:\t'", vec![r"C:\temp"]),
        (r"t ~ 'c:\\t'", vec![r"C:\temp"]),
        // The language of filters takes every second backslash, and then the pattern does.
        (r"t ~ '50\\\\%'", vec![r"50\"]),
        (r"t ~ '\\\\\\%'", vec![r"\%"]),
        (r"t !~ '\%' && t !~ '\\'", vec!["1000", "a_b", "axb"]),
    ] {
        let reply = admin.list("pub", &[("filter", filter), ("sort", "@rowid")]);
        let found = reply.expect(200).column("t");
        assert_eq!(found, expected, "{filter}");
    }
}
