//! The directory of a backup: its lock, its paths, and errors of writing to it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::file::write_error;
use super::manifest::{BackupManifest, STATE};
use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::store::db;
use crate::store::files::FOLDER;

/// The folder of a data directory that has archives of it.
pub const BACKUPS: &str = "backups";
/// Excludes a second backup, and marks the directory as a backup.
const LOCK: &str = "backup.lock";

/// Resolves a path that may not exist yet.
pub fn resolved(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return Ok(join_lexically(found, rest));
        }
    }
    Ok(path)
}

/// Appends a path that does not exist yet, so that it contains no links.
pub fn join_lexically(mut path: PathBuf, rest: &Path) -> PathBuf {
    for component in rest.components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

/// Refuses a backup inside the data directory and vice versa, because it would copy or delete
/// itself.
pub fn refuse_inside(data_dir: &Path, dir: &Path) -> Result<()> {
    let (data, backup) = (resolved(data_dir)?, resolved(dir)?);
    if backup.starts_with(&data) || data.starts_with(&backup) {
        return Err(Error::conflict(format!(
            "The backup {} and the data directory {} must not be inside each other.",
            dir.display(),
            data_dir.display()
        )));
    }
    Ok(())
}

/// Locks a directory for a backup: a new one, an empty one, or one that has backups.
pub fn acquire(dir: &Path) -> Result<File> {
    db::create_dir(dir)?;
    let is_ours = dir.join(LOCK).exists() || BackupManifest::is_in(dir);
    let mut entries = fs::read_dir(dir).context(format!("read {}", dir.display()))?;
    if !is_ours && entries.any(|entry| entry.is_ok_and(|it| it.file_name() != "lost+found")) {
        return Err(Error::conflict(format!(
            "{} contains something that is not a backup; choose an empty directory.",
            dir.display()
        )));
    }
    let path = dir.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(db::NOFOLLOW)
        .open(&path);
    let file = file.map_err(|error| write_error(dir, &error))?;
    lock(dir, &file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Excludes backups while the result lives, because they remove what they replace. If there is no
/// lock file or it cannot be locked, as on a read-only medium, no backup can run either.
pub fn hold(dir: &Path) -> Result<Option<File>> {
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(Error::unavailable(format!(
                    "{} cannot be opened: {error}.",
                    path.display()
                ))),
            };
        }
    };
    match lock(dir, &file, FlockOperation::NonBlockingLockShared) {
        Err(error) if error.kind() == Kind::Conflict => Err(error),
        Err(_) => Ok(None),
        Ok(()) => Ok(Some(file)),
    }
}

pub fn lock(dir: &Path, file: &File, how: FlockOperation) -> Result<()> {
    let dir = dir.display();
    rustix::fs::flock(file, how).map_err(|error| match error {
        Errno::WOULDBLOCK => Error::conflict(format!(
            "Another vski is using the backup {dir}; try again when it has ended."
        )),
        error => Error::unavailable(format!("{dir} cannot be locked: {error}.")),
    })
}

/// Removes all states but the current one.
pub fn remove_states(dir: &Path, kept: Option<&str>) -> Result<()> {
    for entry in fs::read_dir(dir).context(format!("read {}", dir.display()))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(STATE) && Some(&*name) != kept {
            let path = dir.join(&*name);
            fs::remove_dir_all(&path).context(format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Syncs the whole file system of a directory, which is cheaper than syncing each file.
pub fn sync(dir: &Path) -> Result<()> {
    let handle = File::open(dir).map_err(|error| write_error(dir, &error))?;
    rustix::fs::syncfs(&handle).map_err(|error| write_error(dir, &error.into()))
}

/// The folder with the files of records.
pub fn files_dir(dir: &Path) -> PathBuf {
    dir.join(FOLDER)
}
