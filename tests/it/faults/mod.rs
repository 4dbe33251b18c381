//! A full disk and similar faults: writes are refused, and nothing else fails.
//!
//! The small disk is a tmpfs in a mount namespace, which ends with its process: a test runs itself
//! once more in there. Where the system does not allow that, the test says so and passes. `start`
//! has data directories that cannot be used, `busy` files that grow and work that takes long.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::crash::load::{Load, Running};
use crate::crash::{ADMIN, Random, assert_sound, load, rounds};
use crate::support::api::Api;
use crate::support::server::{Server, VSKI, command};
use crate::support::{Dir, pause, sqlite_for_writing, wait_until};

mod busy;
mod start;

const MIB: u64 = 1 << 20;
/// The message of a refused write.
const REFUSALS: [&str; 2] = [
    "The disk is full; nothing was saved.",
    "The disk is full or failing; nothing was saved.",
];

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_loses_nothing() {
    let name = "faults::a_full_disk_refuses_writes_serves_reads_and_loses_nothing";
    on_small_disk(name, 16 * MIB, |disk| {
        let mut random = Random::seeded();
        for _ in 0..rounds().div_ceil(4) {
            fill_make_room_and_kill(disk, &mut random);
            std::fs::remove_dir_all(disk.join("data")).unwrap();
        }
    });
}

fn fill_make_room_and_kill(disk: &Path, random: &mut Random) {
    let ballast = Ballast::leave(disk, 5 * MIB);
    let mut server = serve(disk);
    let (api, token) = prepare(&server);
    let mut load = Load::new(random, 1000);
    let running = load.run(server.addr(), &token, |running| {
        run_until_full(running, 300);
    });
    assert_refusals(&running);
    load.check(&api);
    assert_refused(
        &api,
        "POST",
        "/api/databases",
        &json!({"name": "late"}).to_string(),
    );

    drop(ballast);
    api.post("/api/databases", json!({"name": "late"}))
        .expect(200);
    load.go_on(&api);
    let running = load.run(server.addr(), &token, |running| {
        wait_until("writes work", || {
            running.acknowledged.load(Ordering::Relaxed) > 300
        });
        running.stop();
    });
    assert_eq!(running.refused.load(Ordering::Relaxed), 0);
    load.check(&api);

    let ballast = Ballast::leave(disk, MIB / 2);
    let running = load.run(server.addr(), &token, |running| {
        run_until_full(running, 100);
        server.kill();
    });
    assert_refusals(&running);
    match attempt(&mut serve_command(disk)) {
        Ok(mut child) => end(&mut child),
        Err(line) => assert!(line.contains(disk.to_str().unwrap()), "{line}"),
    }
    drop(ballast);
    let server = serve(disk);
    let api = server.api().with_token(&token);
    load.check(&api);
    load.go_on(&api);
    assert_sound(disk);
}

/// The deletion shares its transaction with writes that do not fit. After one was refused, every
/// request of the database was told that its collection had changed, until the next start.
#[test]
fn a_collection_that_cannot_be_deleted_is_served_as_before() {
    let name = "faults::a_collection_that_cannot_be_deleted_is_served_as_before";
    on_small_disk(name, 16 * MIB, |disk| {
        let server = serve(disk);
        let (api, token) = prepare(&server);
        for at in 0..20 {
            let body = json!({"name": format!("c{at}"), "fields": []});
            api.post("/api/collections", body).expect(200);
        }
        let _ballast = Ballast::leave(disk, 2 * MIB);
        let (records, done) = ("/api/collections/notes/records", AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..16 {
                let (api, done) = (server.api().with_token(&token), &done);
                scope.spawn(move || {
                    let body = json!({"text": "x".repeat(100_000)}).to_string();
                    while !done.load(Ordering::Relaxed) {
                        api.post(records, &body);
                    }
                });
            }
            wait_until("the disk is full", || {
                api.post(records, json!({"text": "x".repeat(200_000)}))
                    .status
                    == 503
            });
            let replies: Vec<_> = (0..20)
                .map(|at| {
                    let deleted = api.delete(&format!("/api/collections/c{at}")).status;
                    (deleted, api.get(&format!("{records}?perPage=1")).status)
                })
                .collect();
            done.store(true, Ordering::Relaxed);
            let is_right =
                |(deleted, read): &(u16, u16)| [204, 503].contains(deleted) && *read == 200;
            assert!(replies.iter().all(is_right), "{replies:?}");
        });
    });
}

/// A change of a tenant's collection lies in two files. When the disk failed between the two, the
/// change was acknowledged and noted as pending; the next one, refused, took that note away.
#[test]
fn a_refused_change_keeps_the_one_before_it() {
    let server = Server::start();
    let api = server.admin();
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let collections = "/db/shop/api/collections";
    api.post(collections, json!({"name": "notes", "fields": []}))
        .expect(200);
    let with_fields = |names: &[&str]| {
        let fields: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "type": "text"}))
            .collect();
        api.send(
            "PATCH",
            &format!("{collections}/notes"),
            &json!({ "fields": fields }).to_string(),
        )
        .unwrap()
    };
    let run = |file: &str, sql: &str| {
        let path = server.dir().join("data").join(file);
        sqlite_for_writing(&path).execute_batch(sql).unwrap();
    };
    run(
        "default.db",
        "CREATE TRIGGER full BEFORE UPDATE ON _collections
         WHEN old.pending IS NOT NULL AND new.pending IS NULL
         BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    );
    with_fields(&["first"]).expect(200);
    run("default.db", "DROP TRIGGER full");
    run(
        "shop.db",
        "CREATE TRIGGER full BEFORE INSERT ON _applied
         BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    );
    assert!(with_fields(&["first", "second"]).status >= 400);
    let names = |api: &Api| -> Vec<String> {
        let read = api.get(&format!("{collections}/notes")).expect(200).json;
        let fields = read["fields"].as_array().unwrap();
        fields
            .iter()
            .map(|field| field["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = ["id", "first", "created", "updated"];
    assert_eq!(names(&api), before);
    run("shop.db", "DROP TRIGGER full");
    let server = server.restart();
    assert_eq!(names(&server.admin()), before);
}

/// Changes that exceed the page cache are written to disk before the commit, and the disk is full
/// then.
#[test]
fn a_large_change_on_a_full_disk_is_refused_whole() {
    let name = "faults::a_large_change_on_a_full_disk_is_refused_whole";
    on_small_disk(name, 16 * MIB, |disk| {
        let server = serve(disk);
        let (api, _) = prepare(&server);
        let records = "/api/collections/notes/records";
        let request = json!({"method": "POST", "url": records, "body": {"text": "before"}});
        let body = json!({"requests": vec![request; 400]});
        let made = api.post("/api/batch", body).expect(200);
        let made = made.json.as_array().unwrap();
        let ids: Vec<_> = made.iter().map(|made| &made["body"]["id"]).collect();
        let _ballast = Ballast::leave(disk, 2 * MIB);
        let body = json!({"ids": ids, "data": {"text": "x".repeat(30_000)}});
        let path = format!("{records}?fields=id");
        assert_refused(&api, "PATCH", &path, &body.to_string());
        let after = api
            .list("notes", &[("filter", "text = 'before'")])
            .expect(200);
        assert_eq!(after.json["totalItems"], 400);
    });
}

/// However little room there is: the server starts, or says in one line what it could not write
/// where, and starts when there is room.
#[test]
fn a_start_on_a_full_disk_works_or_names_the_file() {
    let name = "faults::a_start_on_a_full_disk_works_or_names_the_file";
    on_small_disk(name, 2 * MIB, |disk| {
        let mut started = 0;
        for pages in (0..192).step_by(16) {
            let data = disk.join("data");
            let ballast = Ballast::leave(disk, pages * 4096);
            match attempt(&mut serve_command(disk)) {
                Ok(mut child) => {
                    started += 1;
                    end(&mut child);
                }
                Err(line) => {
                    eprintln!("{pages} pages: {line}");
                    assert!(
                        line.contains(data.to_str().unwrap()),
                        "{pages} pages: {line}"
                    );
                }
            }
            drop(ballast);
            drop(serve(disk).admin());
            assert_sound(disk);
            std::fs::remove_dir_all(data).unwrap();
        }
        assert!((1..12).contains(&started), "{started} started");
    });
}

/// A limit on the size of files (`LimitFSIZE`, `ulimit -f`) would end the process with a signal.
#[test]
fn a_limit_on_the_size_of_files_is_like_a_full_disk() {
    let dir = Arc::new(Dir::new());
    let mut limited = Command::new("sh");
    // Blocks of 512 bytes.
    limited.args(["-c", "ulimit -f 3000; exec \"$0\" serve", VSKI]);
    for (name, value) in serve_command(dir.path()).get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    let mut server = Server::from_command(limited, Arc::clone(&dir), Vec::new());
    let (api, token) = prepare(&server);
    let mut load = Load::new(&mut Random::seeded(), 1000);
    let running = load.run(server.addr(), &token, |running| {
        run_until_full(running, 300);
    });
    assert_refusals(&running);
    load.check(&api);
    let running = load.run(server.addr(), &token, |running| {
        run_until_full(running, 100);
        server.kill();
    });
    assert_refusals(&running);
    let server = serve(dir.path());
    let api = server.api().with_token(&token);
    load.check(&api);
    load.go_on(&api);
    assert_sound(dir.path());
}

/// Deleting moves the file aside as a copy of last resort, so it has to hold all of the database.
#[test]
fn a_deleted_database_is_set_aside_whole_also_beside_another_reader() {
    let server = Server::start();
    let api = server.admin();
    let data = server.dir().join("data");
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    api.post(
        "/db/shop/api/collections",
        json!({"name": "c", "fields": []}),
    )
    .expect(200);
    let other = crate::crash::open(&data.join("shop.db"));
    let count = |sql: &str| {
        other
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    other.execute_batch("BEGIN").unwrap();
    assert_eq!(count("SELECT count(*) FROM c"), 0);
    api.post("/db/shop/api/collections/c/records", json!({}))
        .expect(200);

    let refused = api.delete("/api/databases/shop").expect(503);
    assert!(
        refused.text("/message").ends_with("try again."),
        "{refused:?}"
    );
    assert_eq!(
        api.get("/db/shop/api/collections/c/records")
            .expect(200)
            .json["totalItems"],
        1
    );
    other.execute_batch("COMMIT").unwrap();
    api.delete("/api/databases/shop").expect(204);
    let aside = std::fs::read_dir(data.join("deleted"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let aside = crate::crash::open(&aside);
    let kept: i64 = aside
        .query_row("SELECT count(*) FROM c", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1);

    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let list = api.get("/db/shop/api/collections").expect(200);
    assert_eq!(list.json["items"], json!([]));
}

/// Runs `body` on a disk of this size: the named test once more, alone, in a mount namespace.
fn on_small_disk(test: &str, bytes: u64, body: impl FnOnce(&Path)) {
    const INSIDE: &str = "VSKI_SMALL_DISK";
    if let Some(disk) = std::env::var_os(INSIDE) {
        return body(Path::new(&disk));
    }
    let dir = Dir::new();
    let in_namespace = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let script = "mount -t tmpfs -o size=$1,mode=0700 none \"$2\" && shift 2 && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh", &bytes.to_string()]);
        command
            .arg(dir.path())
            .arg(program)
            .args(arguments)
            .env(INSIDE, dir.path())
            .output()
    };
    match in_namespace(Path::new("true"), &[]) {
        Ok(output) if output.status.success() => {}
        other => {
            // Not captured, so that it is seen also when the test passes.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {test}: no small disk here: {other:?}"
            );
            return;
        }
    }
    let program = std::env::current_exe().unwrap();
    let output = in_namespace(&program, &["--exact", test, "--nocapture"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    eprintln!("{errors}");
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// A file that takes the room of a disk; dropping it makes room.
struct Ballast(PathBuf);

impl Ballast {
    /// Leaves this many bytes.
    fn leave(disk: &Path, bytes: u64) -> Ballast {
        let path = disk.join("ballast");
        let room = rustix::fs::statvfs(disk).unwrap();
        let zeros = vec![0; usize::try_from(room.f_bavail * room.f_frsize - bytes).unwrap()];
        File::create(&path).unwrap().write_all(&zeros).unwrap();
        Ballast(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn serve_command(disk: &Path) -> Command {
    let mut command = command(disk);
    command.arg("serve").env("PORT", "0").env("LOG", "error");
    command
}

fn serve(disk: &Path) -> Server {
    Server::from_command(serve_command(disk), Arc::new(Dir::new()), Vec::new())
}

/// The token of the first admin.
fn sign_in(server: &Server) -> String {
    server
        .api()
        .post("/api/admins/init", ADMIN)
        .expect(200)
        .text("/token")
        .to_owned()
}

/// The first admin's requests and token, and what the load writes to.
fn prepare(server: &Server) -> (Api, String) {
    let token = sign_in(server);
    let api = server.api().with_token(&token);
    load::make_collections(&api);
    (api, token)
}

/// Stops the load after so many refusals.
fn run_until_full(running: &Running, refusals: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while running.refused.load(Ordering::Relaxed) < refusals {
        assert!(Instant::now() < deadline, "never full");
        pause(Duration::from_millis(5));
    }
    running.stop();
}

fn assert_refusals(running: &Running) {
    report("full", running);
    let messages = running.messages.lock().unwrap();
    assert!(!messages.is_empty());
    for message in messages.keys() {
        assert!(REFUSALS.contains(&message.as_str()), "{message}");
    }
}

fn assert_refused(api: &Api, method: &str, path: &str, body: &str) {
    let reply = api.send(method, path, body).unwrap().expect(503);
    assert!(REFUSALS.contains(&reply.text("/message")), "{reply:?}");
    assert!(reply.header("Retry-After").is_some(), "{reply:?}");
}

fn report(when: &str, running: &Running) {
    eprintln!(
        "{when}: {} acknowledged, refused {:?}",
        running.acknowledged.load(Ordering::Relaxed),
        running.messages.lock().unwrap()
    );
}

/// Runs a command that serves: until it is ready, or to its end with code 1 and one line.
fn attempt(command: &mut Command) -> Result<Child, String> {
    let dir = Dir::new();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap());
    let mut child = command.spawn().unwrap();
    let mut code = None;
    wait_until("a start that works or not", || {
        code = child.try_wait().unwrap();
        code.is_some() || std::fs::read_to_string(&out).unwrap().contains("listening")
    });
    let Some(code) = code else { return Ok(child) };
    let line = std::fs::read_to_string(&err).unwrap();
    assert_eq!((code.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.starts_with("vski: "), "{line}");
    Err(line.trim_end().to_owned())
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
