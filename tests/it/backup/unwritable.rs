//! `vski check` and `vski backup` of data that this user may read and not write, as on a disk that
//! the kernel has made read-only after errors.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;
use std::{fs, io};

use super::{DOCS, add, compared, docs, restored, serve, shown, text};
use crate::support::Dir;
use crate::support::server::{Server, command};

/// A user who owns nothing here.
const NOBODY: u32 = 65_534;

/// Everybody may read what is in a directory, and only its owner may write it.
fn make_readable(data: &Path) {
    for entry in fs::read_dir(data).unwrap().flatten() {
        if entry.path().is_dir() {
            make_readable(&entry.path());
        } else {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o444)).unwrap();
        }
    }
    fs::set_permissions(data, Permissions::from_mode(0o555)).unwrap();
}

fn as_nobody(dir: &Path, words: &[&str]) -> Output {
    let mut command = command(dir);
    command.args(words).uid(NOBODY).gid(NOBODY);
    command.output().unwrap()
}

/// All commands that only look succeed, and one that copies.
fn assert_readable(dir: &Path, backup: &Path) {
    for words in [
        &["check"][..],
        &["files", "check"],
        &["backup", shown(backup)],
    ] {
        let output = as_nobody(dir, words);
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}

/// All was reported as damaged, and a backup failed, when one is needed most: SQLite makes its
/// index of the log beside the database, and could not. The log has what the last commits have
/// written, so it must be read.
#[test]
fn data_that_cannot_be_written_is_checked_and_backed_up() {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "skipped: only root can run as another user");
        return;
    }
    let mut server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "one");
    let out = Dir::new();
    chown(out.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let data = server.dir().join("data");
    let (running, ended) = (out.path().join("running"), out.path().join("ended"));
    // While a server runs its index is there to be read.
    make_readable(&data);
    let output = as_nobody(server.dir(), &["backup", shown(&running)]);
    if text(&output.stderr).contains("Permission denied") {
        let _ = writeln!(
            io::stderr(),
            "skipped: others cannot reach {}",
            shown(&data)
        );
        return;
    }
    assert!(output.status.success(), "{output:?}");
    // With a log, and without an index.
    server.kill();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(&data).unwrap().flatten() {
        if shown(&entry.path()).ends_with("-shm") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    make_readable(&data);
    assert!(fs::metadata(data.join("default.db-wal")).unwrap().len() > 0);
    assert_readable(server.dir(), &ended);
    // Without a log, as after an orderly stop.
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let server = server.restart();
    assert_eq!(compared(&server.api()), ["one"]);
    let (dir, _) = server.into_parts();
    assert!(!data.join("default.db-wal").exists());
    make_readable(&data);
    let folded = out.path().join("folded");
    assert_readable(dir.path(), &folded);
    for backup in [running, ended, folded] {
        assert_eq!(compared(&serve(restored(&backup)).api()), ["one"]);
    }
    // An unreadable file is not reported as damaged, a damaged one is.
    let default = data.join("default.db");
    fs::set_permissions(&default, Permissions::from_mode(0o400)).unwrap();
    let output = as_nobody(dir.path(), &["check"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("unreadable default.db: "), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    assert!(!said.contains("damaged    "), "{said}");
    fs::set_permissions(&default, Permissions::from_mode(0o444)).unwrap();
    fs::write(data.join("stats.db"), "notes of somebody\n").unwrap();
    let output = as_nobody(dir.path(), &["check"]);
    assert!(
        text(&output.stdout).contains("damaged    stats.db: "),
        "{output:?}"
    );
}
