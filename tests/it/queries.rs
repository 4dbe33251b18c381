//! Queries that take long: who waits for them, who does not, and what of them is refused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::api::{Api, encode};
use super::support::server::Server;
use super::support::{pause, wait_until};

/// The longest time that another caller may wait while one database is attacked, with an
/// unoptimised program beside other tests. The readers used to be taken for 10 s and more at a time.
const WAIT_MAX: Duration = Duration::from_secs(9);

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

/// Sixteen connections that ask for a dear filter again and again used to take every reader of the
/// database for 10 s at a time: views of one record, the writes of an admin (whose token is looked
/// up there) and, with all workers waiting for readers, other databases and `/api/health` stood
/// still.
#[test]
fn dear_filters_of_strangers_stop_nobody_else() {
    let server = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1"), ("THREADS", "16")]);
    let admin = server.admin();
    texts(&admin, 5000, &"lorem ipsum ".repeat(34));
    admin
        .post("/api/databases", json!({"name": "other"}))
        .expect(200);
    let (over, dear) = (AtomicBool::new(false), dear());
    thread::scope(|scope| {
        let attacks: Vec<_> = (0..20)
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
            within("a view", || view_after_refusals(&stranger));
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

/// A rule that goes through 100,000 related records for each term.
fn slow_rule(terms: usize) -> String {
    let terms: Vec<String> = (0..terms)
        .map(|at| format!("all.more.t ?~ 'zz{at}'"))
        .collect();
    terms.join(" || ")
}

/// A server with records whose rules are slow, and one of its accounts.
fn slow_rules() -> (Server, Api, Api) {
    let server = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1"), ("THREADS", "16")]);
    let admin = server.admin();
    texts(&admin, 1000, "lorem ipsum");
    let collection = |body: Value| admin.post("/api/collections", body).expect(200);
    let record = |collection: &str, body: Value| {
        let path = format!("/api/collections/{collection}/records");
        admin.post(&path, body).expect(200);
    };
    let many = |name: &str, to: &str| json!({"name": name, "type": "relation", "collectionId": to, "maxSelect": 1000});
    collection(json!({"name": "sets", "fields": [many("more", "pub")], "viewRule": ""}));
    let ids = |letter: &str, count: usize| -> Vec<String> {
        (0..count).map(|at| format!("{letter}{at}")).collect()
    };
    for id in ids("s", 100) {
        record("sets", json!({"id": id, "more": ids("r", 1000)}));
    }
    let (all, sets, slow) = (many("all", "sets"), ids("s", 100), slow_rule(24));
    collection(json!({"name": "docs", "fields": [all], "viewRule": slow, "updateRule": slow}));
    record("docs", json!({"id": "d", "all": sets}));
    let file = json!({"name": "file", "type": "file", "protected": true});
    let rule = format!("{} || all.id != ''", slow_rule(2));
    collection(json!({"name": "papers", "fields": [all, file], "viewRule": rule}));
    let doc = json!({"name": "doc", "type": "relation", "collectionId": "docs"});
    collection(json!({"name": "users", "type": "auth", "fields": [all, doc], "updateRule": slow}));
    let account = json!({"id": "u", "email": "u@example.com", "password": "password-1", "all": sets, "doc": "d"});
    record("users", account);
    let body = json!({"identity": "u@example.com", "password": "password-1"});
    let path = "/api/collections/users/auth-with-password";
    let reply = server.api().post(path, body).expect(200);
    let user = server.api().with_token(reply.text("/token"));
    (server, admin, user)
}

fn slow_queries(admin: &Api) -> u64 {
    let metrics = String::from_utf8(admin.get("/metrics").expect(200).body).unwrap();
    let wanted = "vski_budget_used{budget=\"slow queries\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(wanted));
    line.unwrap().parse().unwrap()
}

/// Some rules were evaluated at the expense of the server: those that decide if a body that cannot
/// be read, or a change of a password, is answered at all, and those of the records that an account
/// expands in its own. Without a payer as many of them could run as there are readers, and each for
/// 20 s.
#[test]
fn slow_rules_have_a_payer() {
    let (mut server, admin, user) = slow_rules();
    let doc = "/api/collections/docs/records/d";
    let own = "/api/collections/users/records/u";
    let change = json!({"password": "password-2", "oldPassword": "password-1"}).to_string();
    let anybody = server.api();
    thread::scope(|scope| {
        let ask = |api: &Api, method: &'static str, path: &'static str, body: &str| {
            let api = api.with_header("X-Forwarded-For", "203.0.113.1");
            let body = body.to_owned();
            let asked = scope.spawn(move || {
                let reply = api.send(method, path, &body);
                reply.map_or(0, |reply| reply.status)
            });
            wait_until(path, || slow_queries(&admin) > 0 || asked.is_finished());
            assert!(!asked.is_finished(), "{method} {path} is not charged");
            asked
        };
        for (path, body) in [(doc, "no JSON"), (own, change.as_str())] {
            let status = ask(&anybody, "PATCH", path, body).join().unwrap();
            assert!([400, 404, 503].contains(&status), "{path} {status}");
        }
        ask(&user, "GET", "/api/auth/me?expand=doc", "");
        server.kill();
    });
}

/// The rule of a protected file was evaluated for a caller without credentials, even with a token:
/// while strangers had all their slow queries, no caller got a file with a slow rule.
#[test]
fn the_rule_of_a_file_is_charged_to_the_account_that_asks() {
    let (server, admin, user) = slow_rules();
    let (boundary, mut form) = ("x", String::new());
    let all: Vec<String> = (0..100).map(|at| format!("s{at}")).collect();
    for (head, content) in [
        ("name=\"@jsonPayload\"", json!({"all": all}).to_string()),
        ("name=\"file\"; filename=\"a.txt\"", "paper".to_owned()),
    ] {
        form +=
            &format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n");
    }
    form += &format!("--{boundary}--\r\n");
    let form_type = format!("multipart/form-data; boundary={boundary}");
    let paper = admin
        .with_header("Content-Type", &form_type)
        .post("/api/collections/papers/records", form)
        .expect(200);
    let link = format!(
        "/api/files/papers/{}/{}",
        paper.text("/id"),
        paper.text("/file")
    );
    thread::scope(|scope| {
        for at in 0..4 {
            let api = server.api();
            let api = api.with_header("X-Forwarded-For", &format!("203.0.113.{at}"));
            scope.spawn(move || api.patch("/api/collections/docs/records/d", "no JSON"));
        }
        wait_until("strangers have all", || slow_queries(&admin) == 4);
        let user = user.with_header("X-Forwarded-For", "198.51.100.7");
        assert_eq!(user.get(&link).expect(200).body, b"paper");
    });
}

/// A view of one record. Strangers share what may wait, so one of them is told at times to try
/// again.
fn view_after_refusals(stranger: &Api) {
    wait_until("a stranger sees a record", || {
        let reply = stranger.get("/api/collections/pub/records/r7?fields=id");
        assert!([200, 503].contains(&reply.status), "{}", reply.status);
        reply.status == 200
    });
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

/// A search for thousands of times the same letter in a long text of that letter took seconds
/// inside a single step, which no limit on the time of a query could stop.
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
