//! Kill -9 at random moments: what was acknowledged is there, the rest is whole or absent.
//!
//! The clients of `load` remember what they were told; the one request of each that was under way
//! when the server was killed may have happened or not, but never by half. The directory is kept
//! over the rounds, so that damage would add up. `VSKI_ROUNDS` sets their number (4), `VSKI_SEED`
//! repeats a run as far as timing allows; the seed is shown when a test fails.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::{Api, Reply};
use crate::support::server::{Server, command};
use crate::support::{Dir, pause, wait_until};
use load::Load;

mod design;
pub mod load;

/// The body that makes the first admin and signs in.
pub const ADMIN: &str = r#"{"email":"admin@example.com","password":"password-1"}"#;

#[test]
fn a_kill_under_load_loses_nothing_and_halves_nothing() {
    let (rounds, begun) = (rounds(), Instant::now());
    let mut random = Random::seeded();
    let dir = Arc::new(Dir::new());
    let mut server = serve(&dir, 0);
    let token = server
        .api()
        .post("/api/admins/init", ADMIN)
        .expect(200)
        .text("/token")
        .to_owned();
    load::make_collections(&server.api().with_token(&token));
    let mut load = Load::new(&mut random, 30);
    for round in 1..=rounds {
        let delay = Duration::from_millis(50 + random.below(350));
        let running = load.run(server.addr(), &token, |_| {
            pause(delay);
            server.kill();
        });
        assert_eq!(
            *running.messages.lock().unwrap(),
            BTreeMap::new(),
            "refused"
        );
        server = serve(&dir, round);
        let api = server.api().with_token(&token);
        load.check(&api);
        load.go_on(&api);
        assert_sound(dir.path());
        if round % 10 == 0 {
            eprintln!(
                "round {round}: {} acknowledged, {:?}",
                load.acknowledged,
                begun.elapsed()
            );
        }
    }
    eprintln!(
        "{rounds} kills, {} requests acknowledged, {} in doubt of which {} had happened, {:?}",
        load.acknowledged,
        load.in_doubt,
        load.happened,
        begun.elapsed()
    );
    assert!(
        load.acknowledged > rounds * 50,
        "too little load: {}",
        load.acknowledged
    );
}

/// Every other round with the weaker promise of `normal`, which a kill must not break either.
fn serve(dir: &Arc<Dir>, round: u64) -> Server {
    let mut command = command(dir.path());
    let level = ["full", "normal"][usize::from(round % 2 == 1)];
    command
        .arg("serve")
        .env("PORT", "0")
        .env("LOG", "warn")
        .env("DB_SYNCHRONOUS", level);
    Server::from_command(command, Arc::clone(dir), Vec::new())
}

#[test]
fn a_kill_during_a_start_leaves_what_the_next_start_takes() {
    let mut random = Random::seeded();
    let usual = usual_start();
    for _ in 0..rounds() * 6 {
        let dir = Arc::new(Dir::new());
        for _ in 0..=random.below(3) {
            interrupt(
                command(dir.path()).arg("serve").env("PORT", "0"),
                &mut random,
                usual,
            );
        }
        let mut server = serve(&dir, 0);
        let api = server.admin();
        assert_secret(dir.path());
        api.post("/api/collections", json!({"name": "c", "fields": []}))
            .expect(200);
        let made = api
            .post("/api/collections/c/records", json!({}))
            .expect(200);
        // Now with a log to be read by the start that is interrupted.
        server.kill();
        interrupt(
            command(dir.path()).arg("serve").env("PORT", "0"),
            &mut random,
            usual,
        );
        let server = serve(&dir, 0);
        let path = format!("/api/collections/c/records/{}", made.text("/id"));
        server.admin().get(&path).expect(200);
        assert_sound(dir.path());
    }
}

#[test]
fn a_kill_while_the_first_admin_is_made_leaves_one_or_none() {
    let mut random = Random::seeded();
    let mut usual = Duration::from_millis(100);
    for round in 0..rounds() * 4 {
        let dir = Arc::new(Dir::new());
        let mut server = serve(&dir, 0);
        let api = server.api();
        let begun = Instant::now();
        let call = thread::scope(|scope| {
            let call = scope.spawn(move || api.send("POST", "/api/admins/init", ADMIN));
            if round > 0 {
                pause(random.part_of(usual));
                server.kill();
            }
            call.join().unwrap()
        });
        if round == 0 {
            usual = begun.elapsed() + Duration::from_millis(5);
        }
        drop(server);
        let server = serve(&dir, 0);
        let again = server.api().post("/api/admins/init", ADMIN);
        match call {
            Ok(reply) => {
                let token = reply.expect(200).text("/token").to_owned();
                assert_eq!(again.status, 403, "{again:?}");
                server
                    .api()
                    .with_token(&token)
                    .get("/api/admins")
                    .expect(200);
            }
            Err(_) => assert!([200, 403].contains(&again.status), "{again:?}"),
        }
        assert_one_admin(&server);
    }
}

#[test]
fn a_kill_during_admin_create_leaves_one_or_none() {
    let mut random = Random::seeded();
    let create = |dir: &Dir| {
        let mut command = command(dir.path());
        command.args(["admin", "create", "admin@example.com"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may be dead already.
        let _ = child.stdin.take().unwrap().write_all(b"password-1\n");
        child
    };
    let begun = Instant::now();
    assert!(create(&Dir::new()).wait().unwrap().success());
    let usual = begun.elapsed() + Duration::from_millis(5);
    for _ in 0..rounds() * 4 {
        let dir = Arc::new(Dir::new());
        let mut child = create(&dir);
        pause(random.part_of(usual));
        end(&mut child);
        let again = create(&dir).wait_with_output().unwrap();
        let refusal = String::from_utf8(again.stderr).unwrap();
        let is_refused = refusal.contains("An admin with this e-mail address already exists");
        assert!(again.status.success() || is_refused, "{refusal}");
        assert_one_admin(&serve(&dir, 0));
        assert_sound(dir.path());
    }
}

#[test]
fn a_start_and_admin_create_at_once_on_a_new_directory_both_work() {
    for _ in 0..rounds() * 2 {
        let dir = Arc::new(Dir::new());
        let mut command = command(dir.path());
        command
            .args(["admin", "create", "admin@example.com"])
            .stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"password-1\n")
            .unwrap();
        let server = serve(&dir, 0);
        let created = child.wait_with_output().unwrap();
        assert!(
            created.status.success(),
            "{}",
            String::from_utf8_lossy(&created.stderr)
        );
        assert_one_admin(&server);
    }
}

/// A tenant's table and the definition of its collection lie in two files. Locks that the test
/// holds on one and the other stop a change before its table is touched, and between the two: then
/// it has not happened, or has happened whole.
#[test]
fn a_change_of_a_tenant_that_was_killed_in_the_middle_has_happened_or_not() {
    for place in [Place::BeforeTheTable, Place::BeforeTheDefinition] {
        kill_in_a_change(place);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    BeforeTheTable,
    BeforeTheDefinition,
}

fn kill_in_a_change(place: Place) {
    let dir = Arc::new(Dir::new());
    let mut server = serve(&dir, 0);
    let token = server
        .api()
        .post("/api/admins/init", ADMIN)
        .expect(200)
        .text("/token")
        .to_owned();
    let api = server.api().with_token(&token);
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let values = json!(["a", "b"]);
    let select =
        |most: u32| json!({"name": "s", "type": "select", "values": values, "maxSelect": most});
    let key = |unique: bool| json!({"name": "key", "type": "text", "unique": unique});
    let before = json!({"name": "c", "fields": [select(1), key(false)]});
    let after = json!({"fields": [select(2), key(true), {"name": "added", "type": "text"}]});
    api.post("/db/shop/api/collections", &before).expect(200);
    let list = "/db/shop/api/collections/c/records";
    let made = api.post(list, json!({"s": "a", "key": "k"})).expect(200);

    let default = open(&dir.path().join("data/default.db"));
    let tenant = open(&dir.path().join("data/shop.db"));
    tenant.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let change = scope.spawn(|| {
            let api = server.api().with_token(&token);
            api.send("PATCH", "/db/shop/api/collections/c", &after.to_string())
        });
        let pending = "SELECT count(*) FROM _collections WHERE pending IS NOT NULL";
        let is_begun = || {
            default
                .query_row(pending, [], |row| row.get(0))
                .unwrap_or(false)
        };
        wait_until("the change is written down", is_begun);
        if place == Place::BeforeTheDefinition {
            default.execute_batch("BEGIN IMMEDIATE").unwrap();
            tenant.execute_batch("ROLLBACK").unwrap();
            let changed = "SELECT count(*) FROM pragma_table_info('c') WHERE name = 'added'";
            let is_changed = || {
                tenant
                    .query_row(changed, [], |row| row.get(0))
                    .unwrap_or(false)
            };
            wait_until("the table is changed", is_changed);
        }
        let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(
            change.join().unwrap().is_err(),
            "answered before both were there"
        );
    });
    drop((default, tenant));
    server.kill();

    let server = serve(&dir, 0);
    assert_happened_or_not(&server.api().with_token(&token), &made, place);
}

fn assert_happened_or_not(api: &Api, made: &Reply, place: Place) {
    let list = "/db/shop/api/collections/c/records";
    let read = api.get(&format!("{list}/{}", made.text("/id"))).expect(200);
    if place == Place::BeforeTheTable {
        assert_eq!(
            (&read.json["s"], read.json.get("added")),
            (&json!("a"), None),
            "{}",
            read.json
        );
        api.post(list, json!({"key": "k"})).expect(200);
        return;
    }
    assert_eq!(
        (&read.json["s"], &read.json["added"]),
        (&json!(["a"]), &json!("")),
        "{}",
        read.json
    );
    api.post(list, json!({"key": "k"})).expect(400);
    api.post(list, json!({"s": ["a", "b"], "key": "other", "added": "x"}))
        .expect(200);
}

/// Every database file below the directory is whole in the eyes of SQLite.
pub fn assert_sound(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_sound(&path);
        } else if path.extension().is_some_and(|extension| extension == "db") {
            let connection = open(&path);
            let check = |sql| {
                let mut statement = connection.prepare(sql).unwrap();
                let rows = statement
                    .query_map([], |row| row.get::<_, String>(0))
                    .unwrap();
                rows.collect::<Result<Vec<_>, _>>().unwrap()
            };
            assert_eq!(
                check("PRAGMA integrity_check"),
                ["ok"],
                "{}",
                path.display()
            );
            let broken = check("PRAGMA foreign_key_check");
            assert!(broken.is_empty(), "{} {broken:?}", path.display());
        }
    }
}

/// A look at a file beside the server, as a person with the sqlite3 shell would take it.
#[expect(
    clippy::disallowed_methods,
    reason = "the test stands beside the program"
)]
pub fn open(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection
}

fn assert_secret(dir: &Path) {
    let secret = std::fs::read_to_string(dir.join("data/secret")).unwrap();
    let digits = secret.trim_end();
    assert!(
        digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()),
        "{secret:?}"
    );
}

fn assert_one_admin(server: &Server) {
    let list = server.admin().get("/api/admins").expect(200);
    assert_eq!(list.column("email"), ["admin@example.com"]);
}

/// The time from a start until the server is ready.
fn usual_start() -> Duration {
    let begun = Instant::now();
    drop(Server::start());
    begun.elapsed()
}

/// Starts a command and kills it within its usual time.
fn interrupt(command: &mut Command, random: &mut Random, usual: Duration) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    pause(random.part_of(usual));
    end(&mut child);
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The number of repetitions of a test of this kind.
pub fn rounds() -> u64 {
    std::env::var("VSKI_ROUNDS").map_or(4, |rounds| rounds.parse().unwrap())
}

/// Random numbers (splitmix64); not secret, only different.
pub struct Random(u64);

impl Random {
    /// From `VSKI_SEED`, or from chance. A failing test shows it.
    pub fn seeded() -> Random {
        let chance = || std::hash::RandomState::new().hash_one(0) >> 16;
        let seed = std::env::var("VSKI_SEED").map_or_else(|_| chance(), |s| s.parse().unwrap());
        eprintln!("VSKI_SEED={seed}");
        Random(seed)
    }

    fn fork(&mut self) -> Random {
        Random(self.next())
    }

    /// From 0 to `limit` - 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn part_of(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.below(1000) as f64 / 1000.0)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
