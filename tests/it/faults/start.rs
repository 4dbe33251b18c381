//! Data directories that cannot be used: one clear line that names the file, exit code 1, and
//! nothing in them is changed. And such as look bad and do not matter.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use super::{attempt, serve, serve_command};
use crate::crash::{assert_sound, open};
use crate::support::Dir;
use crate::support::server::{Server, VSKI};

/// A user who owns nothing here.
const NOBODY: u32 = 65_534;

/// Damage to a file of a data directory, and the message beside the name of the file.
struct Case {
    file: &'static str,
    spoil: fn(&Path),
    says: &'static str,
}

const fn case(file: &'static str, spoil: fn(&Path), says: &'static str) -> Case {
    Case { file, spoil, says }
}

const CASES: [Case; 22] = [
    case("default.db", |file| write(file, &[0x5a; 20_000]), "corrupt"),
    case(
        "default.db",
        |file| write(file, b"notes of somebody\n"),
        "corrupt",
    ),
    case("default.db", |file| cut(file, 1), "corrupt"),
    case("default.db", |file| cut(file, 99), "corrupt"),
    case("default.db", |file| cut(file, 100), "corrupt"),
    case("default.db", |file| cut(file, 4096), "corrupt"),
    case("default.db", |file| cut(file, 10_000), "corrupt"),
    case("default.db", |file| cut(file, 0), "is empty though"),
    // Without it no file would belong to a record.
    case(
        "default.db",
        |file| fs::remove_file(file).unwrap(),
        "is missing though",
    ),
    case("default.db", cut_beside_log, "corrupt"),
    case("default.db", make_dir, "unable to open"),
    case(
        "default.db",
        |file| set_version(file, "WAL"),
        "newer vski (schema 99",
    ),
    case(
        "default.db",
        |file| set_version(file, "DELETE"),
        "newer vski (schema 99",
    ),
    case("default.db", set_version_in_log, "newer vski (schema 99"),
    case("default.db", replace_by_foreign, "another program"),
    case(
        "local.db",
        |file| write(file, b"notes of somebody\n"),
        "corrupt",
    ),
    case(
        "local.db",
        |file| set_version(file, "WAL"),
        "newer vski (schema 99",
    ),
    case(
        "secret",
        |file| write(file, b"short\n"),
        "shorter than 32 bytes",
    ),
    case("secret", |file| cut(file, 0), "shorter than 32 bytes"),
    case("secret", make_dir, "cannot be read"),
    case("lock", make_dir, "cannot be opened"),
    case(
        "",
        |dir| (fs::remove_dir_all(dir).unwrap(), write(dir, b"")).1,
        "cannot be created",
    ),
];

#[test]
fn a_directory_that_cannot_be_used_is_named_and_left_alone() {
    let used = used_directory();
    for (at, Case { file, spoil, says }) in CASES.iter().enumerate() {
        let dir = copy(&used);
        let data = dir.path().join("data");
        let path = if file.is_empty() {
            data.clone()
        } else {
            data.join(file)
        };
        spoil(&path);
        let before = contents(&data);
        let line = attempt(&mut serve_command(dir.path())).unwrap_err();
        let named = path.to_str().unwrap();
        assert!(
            line.contains(named) && line.contains(says),
            "case {at}, {file} {says}: {line}"
        );
        assert!(!line.contains("processing your request"), "{line}");
        assert!(
            contents(&data) == before,
            "case {at}, {file} {says}: changed"
        );
        // The command line opens the same file.
        if *file == "default.db" && !says.ends_with("though") {
            let admin = Command::new(VSKI)
                .args(["admin", "list", "--data-dir"])
                .arg(&data)
                .output();
            let admin = admin.unwrap();
            let line = String::from_utf8(admin.stderr).unwrap();
            assert_eq!(
                (admin.status.code(), line.lines().count()),
                (Some(1), 1),
                "{line}"
            );
            assert!(line.contains(named) && line.contains(says), "{line}");
            assert!(
                contents(&data) == before,
                "case {at}, {file} {says}: changed"
            );
        }
    }
}

/// The docs say that `stats.db` may be deleted, and one that was overwritten kept the server from
/// starting for ever, and backups from being made.
#[test]
fn statistics_that_cannot_be_used_are_moved_aside() {
    let spoils: [fn(&Path); 6] = [
        |file| write(file, b"notes of somebody\n"),
        |file| cut(file, 1),
        |file| cut(file, 4096),
        |file| {
            cut(file, 0);
            write(&file.with_extension("db-wal"), &[0x5a; 8192]);
        },
        make_dir,
        replace_by_foreign,
    ];
    let used = used_directory();
    for (at, spoil) in spoils.iter().enumerate() {
        let dir = copy(&used);
        let data = dir.path().join("data");
        spoil(&data.join("stats.db"));
        let before = contents(&data).remove("stats.db").unwrap();
        let run = |words: &[&str]| {
            let mut vski = crate::support::server::command(dir.path());
            let output = vski.args(words).output().unwrap();
            assert!(output.status.success(), "case {at}, {words:?}: {output:?}");
        };
        let backup = dir.path().join("backup");
        run(&["backup", backup.to_str().unwrap()]);
        let restored = dir.path().join("restored");
        let words = ["restore", backup.to_str().unwrap(), "--data-dir"];
        run(&[words[0], words[1], words[2], restored.to_str().unwrap()]);

        for is_first in [true, false] {
            let mut command = serve_command(dir.path());
            command.env("LOG", "warn");
            let server = Server::from_command(command, Arc::new(Dir::new()), Vec::new());
            let api = server.admin();
            api.post("/api/collections/c/records", json!({}))
                .expect(200);
            api.get("/api/stats").expect(200);
            let log = server.log();
            assert!(server.stop().success());
            let told = log.iter().filter(|it| it.contains("statistics"));
            assert_eq!(told.count(), usize::from(is_first), "case {at}: {log:?}");
        }
        let mut after = contents(&data);
        after.retain(|name, _| name.starts_with("stats.db.damaged-") && !name.ends_with("-wal"));
        assert_eq!(
            after.into_values().collect::<Vec<_>>(),
            [before],
            "case {at}"
        );
    }
    // A newer program's are left as they are, as all of its files.
    let dir = copy(&used);
    let file = dir.path().join("data/stats.db");
    set_version(&file, "WAL");
    let line = attempt(&mut serve_command(dir.path())).unwrap_err();
    assert!(line.contains("newer vski (schema 99"), "{line}");
}

/// Modes mean nothing to root, so root runs this as another user.
#[test]
fn a_directory_without_permission_is_named_and_left_alone() {
    type Modes = [(&'static str, u32)];
    let cases: [(&Modes, &str); 6] = [
        (&[("", 0o500)], "lock"),
        (&[("", 0o500), ("lock", 0o600)], "default.db"),
        (&[("default.db", 0o400)], "default.db"),
        (&[("default.db", 0o000)], "default.db"),
        (&[("local.db", 0o400)], "local.db"),
        (&[("secret", 0o000)], "secret"),
    ];
    let used = used_directory();
    let as_nobody = |command: &mut Command| {
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
    };
    let mut probe = Command::new(VSKI);
    as_nobody(probe.arg("version"));
    if !probe.output().is_ok_and(|output| output.status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: permissions: {VSKI} is for its owner only"
        );
        return;
    }
    for (modes, named) in cases {
        let dir = copy(&used);
        let data = dir.path().join("data");
        if modes.len() == 1 && named == "lock" {
            fs::remove_file(data.join("lock")).unwrap();
        }
        if rustix::process::geteuid().is_root() {
            give_away(&data);
        }
        for (file, mode) in modes.iter().rev() {
            fs::set_permissions(data.join(file), fs::Permissions::from_mode(*mode)).unwrap();
        }
        let mut command = serve_command(dir.path());
        as_nobody(&mut command);
        let line = attempt(&mut command).unwrap_err();
        assert!(
            line.contains(data.join(named).to_str().unwrap()),
            "{modes:?}: {line}"
        );
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        // Owned by another user.
        let dir = copy(&used);
        let mut command = serve_command(dir.path());
        as_nobody(&mut command);
        let line = attempt(&mut command).unwrap_err();
        assert!(
            line.contains(dir.path().join("data/lock").to_str().unwrap()),
            "{line}"
        );
    }
}

#[test]
fn a_disk_that_is_read_only_is_named() {
    super::on_small_disk(
        "faults::start::a_disk_that_is_read_only_is_named",
        super::MIB,
        |disk| {
            for is_used in [false, true] {
                let remount = |mode: &str| {
                    let option = format!("remount,{mode}");
                    let mount = Command::new("mount")
                        .args(["-o", &option])
                        .arg(disk)
                        .status();
                    assert!(mount.unwrap().success());
                };
                if is_used {
                    drop(serve(disk));
                }
                remount("ro");
                let line = attempt(&mut serve_command(disk)).unwrap_err();
                assert!(line.contains(disk.join("data").to_str().unwrap()), "{line}");
                assert!(line.contains("Read-only file system"), "{line}");
                remount("rw");
            }
        },
    );
}

#[test]
fn a_second_server_on_a_directory_is_refused_and_harms_nobody() {
    let dir = Dir::new();
    let server = serve(dir.path());
    let line = attempt(&mut serve_command(dir.path())).unwrap_err();
    assert!(
        line.contains(dir.path().join("data").to_str().unwrap()),
        "{line}"
    );
    assert!(
        line.contains(&format!("(process {})", server.pid())),
        "{line}"
    );
    server.admin().get("/api/admins").expect(200);
}

#[test]
fn what_a_crash_leaves_does_not_matter() {
    let leftovers: [(&str, &[u8]); 4] = [
        ("lock", b"4711\n"),
        ("secret.tmp", b"0123"),
        ("default.db-shm", &[0xff; 32_768]),
        ("local.db-wal", &[0x5a; 40_000]),
    ];
    let used = used_directory();
    for (file, bytes) in leftovers {
        let dir = copy(&used);
        write(&dir.path().join("data").join(file), bytes);
        let server = serve(dir.path());
        server.admin().get("/api/collections/c").expect(200);
        assert_sound(dir.path());
    }
}

#[test]
fn files_of_the_data_directory_are_for_their_owner_only() {
    // Also in a directory that was there before and is open to all.
    let dir = Dir::new();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let server = serve(dir.path());
    let api = server.admin();
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for entry in fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} {mode:o}", entry.path());
    }
}

/// A user who can write in the directory can replace our files, and a server started there without
/// a warning.
#[test]
fn a_directory_in_which_others_can_write_is_warned_of() {
    for (mode, warnings) in [(0o777, 1), (0o770, 1), (0o755, 0), (0o700, 0)] {
        let dir = Dir::new();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = serve_command(dir.path());
        command.env("LOG", "warn");
        let server = Server::from_command(command, Arc::new(Dir::new()), Vec::new());
        server.api().get("/api/health").expect(200);
        let log = server.log();
        assert!(server.stop().success());
        let told = log.iter().filter(|it| it.contains("others can write"));
        assert_eq!(told.count(), warnings, "{mode:o}: {log:?}");
    }
    let dir = Dir::new();
    drop(serve(dir.path()));
    let made = fs::metadata(dir.path().join("data")).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_damaged_tenant_harms_nobody_else() {
    type Damage = (fn(&Path), &'static str);
    let damages: [Damage; 4] = [
        (|file| write(file, &[0x5a; 20_000]), "corrupt"),
        (|file| cut(file, 4096), "corrupt"),
        (|file| set_version(file, "WAL"), "newer vski"),
        (make_dir, "no database"),
    ];
    for (spoil, says) in damages {
        let dir = Dir::new();
        let mut server = serve(dir.path());
        let api = server.admin();
        api.post("/api/databases", json!({"name": "shop"}))
            .expect(200);
        api.post(
            "/db/shop/api/collections",
            json!({"name": "c", "fields": []}),
        )
        .expect(200);
        server.kill();
        let file = dir.path().join("data/shop.db");
        let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
        open(&file).query_row(fold, [], |_| Ok(())).unwrap();
        let whole = fs::read(&file).unwrap();
        spoil(&file);

        let server = serve(dir.path());
        let api = server.admin();
        let path = "/db/shop/api/collections/c/records";
        for reply in [
            api.get(path),
            api.post(path, json!({})),
            api.get("/db/shop/api/collections"),
        ] {
            assert!([503, 404].contains(&reply.status), "{reply:?}");
            let message = reply.text("/message");
            assert!(
                message.contains(says) && !message.contains(".db"),
                "{message}"
            );
        }
        api.get("/api/collections").expect(200);
        api.post("/api/databases", json!({"name": "other"}))
            .expect(200);

        // Put right, it is served again.
        let _ = fs::remove_dir(&file);
        write(&file, &whole);
        api.post(path, json!({})).expect(200);
    }
}

/// A data directory that was served and closed, with a collection, whose log was folded in.
fn used_directory() -> Dir {
    let dir = Dir::new();
    let server = serve(dir.path());
    let api = server.admin();
    api.post("/api/collections", json!({"name": "c", "fields": []}))
        .expect(200);
    for _ in 0..20 {
        api.post("/api/collections/c/records", json!({}))
            .expect(200);
    }
    assert!(server.stop().success());
    dir
}

fn copy(from: &Dir) -> Dir {
    let to = Dir::new();
    let (from, data) = (from.path().join("data"), to.path().join("data"));
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // The storage is created again.
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), data.join(entry.file_name())).unwrap();
        }
    }
    to
}

/// The files of a directory with their bytes, except what belongs to the running process: the
/// lock's number, and SQLite's index of the log.
fn contents(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(data) else {
        return BTreeMap::from([(String::new(), fs::read(data).unwrap())]);
    };
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name != "lock" && !name.ends_with("-shm"))
        .map(|(name, path)| (name, fs::read(path).unwrap_or_default()))
        .collect()
}

fn write(file: &Path, bytes: &[u8]) {
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path, bytes: u64) {
    fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(bytes)
        .unwrap();
}

fn cut_beside_log(file: &Path) {
    cut(file, 0);
    write(&file.with_extension("db-wal"), &[0x5a; 8192]);
    fs::remove_file(file.with_file_name("local.db")).unwrap();
}

fn make_dir(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
}

fn set_version(file: &Path, journal: &str) {
    let sql = format!("PRAGMA journal_mode = {journal}; PRAGMA user_version = 99");
    open(file).execute_batch(&sql).unwrap();
}

/// As a newer program leaves it that was killed: the version is in the log.
fn set_version_in_log(file: &Path) {
    let (log, kept) = (file.with_extension("db-wal"), file.with_extension("kept"));
    let connection = open(file);
    connection
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    fs::copy(&log, &kept).unwrap();
    let before = fs::read(file).unwrap();
    drop(connection);
    fs::rename(kept, log).unwrap();
    write(file, &before);
}

fn replace_by_foreign(file: &Path) {
    fs::remove_file(file).unwrap();
    open(file)
        .execute_batch("CREATE TABLE customers (name)")
        .unwrap();
}

/// Changes the owner of everything to another user.
fn give_away(data: &Path) {
    let owner = (Some(NOBODY), Some(NOBODY));
    for entry in fs::read_dir(data).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), owner.0, owner.1).unwrap();
    }
    std::os::unix::fs::chown(data, owner.0, owner.1).unwrap();
}

/// A file that is cut while the server runs is an error for the requests that read it.
#[test]
fn a_file_that_is_truncated_in_use_ends_no_server() {
    let dir = Dir::new();
    let server = serve(dir.path());
    let api = server.admin();
    for name in ["shop", "other"] {
        api.post("/api/databases", json!({"name": name}))
            .expect(200);
        let path = format!("/db/{name}/api/collections");
        api.post(
            &path,
            json!({"name": "c", "fields": [{"name": "t", "type": "text"}]}),
        )
        .expect(200);
    }
    let list = "/db/shop/api/collections/c/records";
    let body = json!({"t": "x".repeat(3000)});
    for _ in 0..100 {
        api.post(list, &body).expect(200);
    }
    let file = dir.path().join("data/shop.db");
    let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
    open(&file).query_row(fold, [], |_| Ok(())).unwrap();
    let bytes = fs::metadata(&file).unwrap().len();
    let cut = fs::File::options().write(true).open(&file).unwrap();
    cut.set_len(bytes / 2).unwrap();
    for query in [
        "perPage=1000",
        "perPage=1000&filter=t%3D1",
        "sort=-t&page=3",
    ] {
        let reply = api.get(&format!("{list}?{query}"));
        assert!(reply.status >= 500, "{reply:?}");
    }
    api.get("/api/health").expect(200);
    api.get("/db/other/api/collections/c/records").expect(200);
}
