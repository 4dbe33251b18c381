//! `vski restore` by root for the account of the server, which owns the data directory and may have
//! been broken into.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io, thread};

use super::{DOCS, add, docs, fine, refused, shown, vski};
use crate::support::Dir;
use crate::support::server::Server;

/// The account of the server.
const SERVICE: u32 = 65_534;
/// A file of root's that the service must not change.
const PRECIOUS: &str = "what only root may write\n";

/// A backup, and a data directory of the service with something in it, and the precious file. None
/// when the test has to be skipped.
fn prepare() -> Option<(Server, Dir, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        let _ = writeln!(io::stderr(), "skipped: only root can give files away");
        return None;
    }
    let server = Server::start();
    docs(&server.admin(), "");
    add(&server.api(), DOCS, "one");
    fine(
        server.dir(),
        &["backup", shown(&server.dir().join("backup"))],
    );
    let dir = Dir::new();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("notes"), "").unwrap();
    for path in [&data, &data.join("notes")] {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    let precious = dir.path().join("precious");
    fs::write(&precious, PRECIOUS).unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o600)).unwrap();
    let mut probe = Command::new("ls");
    probe.arg(&data).uid(SERVICE).gid(SERVICE);
    if !probe.output().is_ok_and(|it| it.status.success()) {
        let _ = writeln!(
            io::stderr(),
            "skipped: others than root cannot reach {}",
            shown(&data)
        );
        return None;
    }
    Some((server, dir, precious))
}

fn assert_untouched(precious: &Path) {
    assert_eq!(fs::read_to_string(precious).unwrap(), PRECIOUS);
    let data = fs::metadata(precious).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777), (0, 0o600));
}

/// The lock was opened with the rights of root and through links: a link of the service emptied a
/// file of root's, and the number of the process was written to it.
#[test]
fn a_link_in_the_place_of_the_lock_leads_a_restore_nowhere() {
    let Some((server, dir, precious)) = prepare() else {
        return;
    };
    let backup = server.dir().join("backup");
    symlink(&precious, dir.path().join("data/lock")).unwrap();
    let said = refused(dir.path(), &["restore", shown(&backup), "--replace"]);
    assert!(said.contains("data/lock cannot be opened"), "{said}");
    assert_untouched(&precious);
}

/// Root filled `.restoring` through whatever the service had put in its place meanwhile: a folder
/// of links in which each name of the backup led to a file of root's.
#[test]
fn a_folder_that_is_exchanged_while_it_is_filled_leads_a_restore_nowhere() {
    let Some((server, dir, precious)) = prepare() else {
        return;
    };
    let backup = server.dir().join("backup");
    let data = dir.path().join("data");
    let trap = data.join("trap");
    let set = || {
        fs::create_dir_all(trap.join("storage")).unwrap();
        for name in ["lock", "local.db", "default.db", "workflows.db", "secret"] {
            let _ = symlink(&precious, trap.join(name));
        }
        let _ = symlink(&precious, trap.join("storage/.file"));
        fs::set_permissions(&trap, Permissions::from_mode(0o777)).unwrap();
    };
    let mut sprung = 0;
    for round in 0..40 {
        set();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let spring = scope.spawn(|| {
                let staging = data.join(".restoring");
                while !ended.load(Ordering::Relaxed) {
                    if fs::rename(&staging, data.join(format!("old-{round}"))).is_ok() {
                        return fs::rename(&trap, &staging).is_ok();
                    }
                }
                false
            });
            // It may fail, or succeed when it is faster.
            vski(dir.path(), &["restore", shown(&backup), "--replace"], &[]);
            ended.store(true, Ordering::Relaxed);
            sprung += u32::from(spring.join().unwrap());
        });
        assert_untouched(&precious);
        if !data.join("notes").exists() {
            break;
        }
    }
    assert!(sprung > 0);
}

/// A link of the service in the place of the data directory: with `--replace` root moved what it
/// leads to.
#[test]
fn a_link_of_the_service_to_a_directory_of_root_is_refused() {
    let Some((server, dir, precious)) = prepare() else {
        return;
    };
    let backup = server.dir().join("backup");
    let (data, roots) = (dir.path().join("data"), dir.path().join("roots"));
    fs::create_dir(&roots).unwrap();
    fs::rename(&precious, roots.join("precious")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    symlink(&roots, &data).unwrap();
    std::os::unix::fs::lchown(&data, Some(SERVICE), Some(SERVICE)).unwrap();
    let said = refused(dir.path(), &["restore", shown(&backup), "--replace"]);
    assert!(said.contains("is a link of user 65534"), "{said}");
    assert_untouched(&roots.join("precious"));
    // A link of root's own is none of the service's.
    std::os::unix::fs::lchown(&data, Some(0), Some(0)).unwrap();
    fs::remove_file(roots.join("precious")).unwrap();
    fine(dir.path(), &["restore", shown(&backup)]);
    assert!(roots.join("default.db").exists());
}

/// A backup that the service has written may have links in the place of files; as root the restore
/// read through them into a file that the service could read.
#[test]
fn a_link_in_the_backup_is_not_followed() {
    let Some((server, dir, precious)) = prepare() else {
        return;
    };
    let backup = server.dir().join("backup");
    let files = backup.join("storage");
    fs::rename(&files, backup.join("elsewhere")).unwrap();
    symlink(backup.join("elsewhere"), &files).unwrap();
    let said = refused(dir.path(), &["restore", shown(&backup), "--replace"]);
    assert!(said.contains("Too many levels of symbolic links"), "{said}");
    assert!(dir.path().join("data/notes").exists());
    assert!(!dir.path().join("data/.restoring").exists());
    assert_untouched(&precious);
}

/// A directory that is not there yet belongs to the owner of the one that it is made in, as the
/// server's own would.
#[test]
fn a_directory_that_a_restore_makes_belongs_to_the_owner_of_its_parent() {
    let Some((server, dir, _)) = prepare() else {
        return;
    };
    let backup = server.dir().join("backup");
    let inner = dir.path().join("data/inner");
    fine(
        dir.path(),
        &["restore", shown(&backup), "--data-dir", shown(&inner)],
    );
    for path in [&inner, &inner.join("default.db"), &inner.join("lock")] {
        let data = fs::metadata(path).unwrap();
        assert_eq!(
            (data.uid(), data.gid()),
            (SERVICE, SERVICE),
            "{}",
            path.display()
        );
    }
}
