//! The data directory: created, locked for one process, and refused in a state in which it cannot
//! be used.

use std::fs;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::names::{DEFAULT, LOCAL, default_file, file};
use crate::base::error::{Error, Kind, Result};
use crate::base::log;

/// The folder in which a restore collects its files before it moves them into place.
pub const RESTORING: &str = ".restoring";
/// Open flag for files that are written: a symbolic link in place of one would lead elsewhere, and
/// root may be the user that follows it.
pub const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Creates a directory that only its owner can read, with its parents.
pub fn create_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| {
            Error::unavailable(format!(
                "The directory {} cannot be created: {error}.",
                dir.display()
            ))
        })
}

/// Logs a warning if other users can write to the directory: they could replace our files with
/// their own.
pub fn warn_if_writable(dir: &Path) {
    let mode = fs::metadata(dir).map_or(0, |data| data.permissions().mode());
    if mode & 0o022 != 0 {
        log::warn(format_args!(
            "others can write in the data directory {}; chmod 700 it",
            dir.display()
        ));
    }
}

/// Locks a data directory against other servers until the result is dropped. Fails with a conflict
/// if a server holds it.
pub fn lock_dir(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(NOFOLLOW)
        .open(&path)
        .map_err(|error| {
            Error::unavailable(format!("{} cannot be opened: {error}.", path.display()))
        })?;
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "The data directory {} is in use by another vski (process {}).",
                dir.display(),
                holder.trim()
            ),
        ));
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| {
            Error::unavailable(format!("{} cannot be written: {error}.", path.display()))
        })?;
    Ok(file)
}

/// Refuses an empty or missing `default.db` in a directory where a server ran before. SQLite would
/// create a new database; the next caller could then create the first admin, and all stored files
/// would count as orphans.
pub fn refuse_emptied(dir: &Path) -> Result<()> {
    let bytes = |name: &str| fs::metadata(file(dir, name)).map(|data| data.len()).ok();
    let state = match bytes(DEFAULT) {
        Some(1..) => return Ok(()),
        Some(0) => "empty",
        None => "missing",
    };
    match bytes(LOCAL) {
        None | Some(0) => Ok(()),
        Some(1..) => Err(Error::unavailable(format!(
            "{} is {state} though the directory was in use; put it back, restore a backup, or empty the \
             directory to start afresh.",
            file(dir, DEFAULT).display()
        ))),
    }
}

/// Refuses a directory in which a restore was interrupted: it moves `default.db` into place last.
pub fn refuse_half_restored(dir: &Path) -> Result<()> {
    if dir.join(RESTORING).exists() && !default_file(dir).exists() {
        return Err(Error::unavailable(format!(
            "A restore into {} was interrupted; run vski restore again.",
            dir.display()
        )));
    }
    Ok(())
}
