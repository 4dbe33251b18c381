//! The data directory as such: made, taken for one process, refused when it is in no state to be used.

use std::fs;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::{DEFAULT, LOCAL, default_file, file};
use crate::base::error::{Error, Kind, Result};
use crate::base::log;

/// Where a restore puts things until all of them are there.
pub const RESTORING: &str = ".restoring";
/// A flag for files that are opened to be written: a link in the place of one would lead elsewhere, and root
/// may be the one who follows it.
pub const NO_LINK: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Makes a directory that only its owner can read, with its parents.
pub fn create_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| {
            Error::unavailable(format!(
                "The directory {} cannot be made: {error}.",
                dir.display()
            ))
        })
}

/// Says so when others can write in the directory: they could put files of their own in the place of ours.
pub fn warn_if_writable(dir: &Path) {
    let mode = fs::metadata(dir).map_or(0, |data| data.permissions().mode());
    if mode & 0o022 != 0 {
        log::warn(format_args!(
            "others can write in the data directory {}; chmod 700 it",
            dir.display()
        ));
    }
}

/// Keeps every server out of a data directory for as long as the result lives. A conflict: one is there.
pub fn lock_dir(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(NO_LINK)
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

/// An empty file is how a database begins. Where the server ran before it is a damaged one, and
/// serving it would let the next caller make the first admin, and take all files for nobody's.
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
            "{} is {state} though the directory was in use; put it back or restore a backup, or empty \
             the directory to begin anew.",
            file(dir, DEFAULT).display()
        ))),
    }
}

/// What a restore has moved in so far is no data yet; `default.db` comes last.
pub fn refuse_half_restored(dir: &Path) -> Result<()> {
    if dir.join(RESTORING).exists() && !default_file(dir).exists() {
        return Err(Error::unavailable(format!(
            "A restore into {} was interrupted; run vski restore again.",
            dir.display()
        )));
    }
    Ok(())
}
