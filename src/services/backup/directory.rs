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

/// Keeps a second backup out, and marks the directory as one of backups.
const LOCK: &str = "backup.lock";

/// Where a path leads that need not be there yet.
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

/// Follows a path on which nothing is there yet, so that no link can lead elsewhere.
pub fn join_lexically(mut path: PathBuf, rest: &Path) -> PathBuf {
    for component in rest.components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

/// One in the other would copy itself, or be swept away with it.
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

/// Takes a directory for a backup: a new one, an empty one, or one that holds backups already.
pub fn acquire(dir: &Path) -> Result<File> {
    db::create_dir(dir)?;
    let is_ours = dir.join(LOCK).exists() || BackupManifest::is_in(dir);
    let mut entries = fs::read_dir(dir).context(format!("read {}", dir.display()))?;
    if !is_ours && entries.any(|entry| entry.is_ok_and(|it| it.file_name() != "lost+found")) {
        return Err(Error::conflict(format!(
            "{} holds something that is no backup; name an empty directory.",
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

/// Keeps backups out for as long as the result lives, since they remove what they replace. Where there is no
/// lock or none can be taken, as on a medium that nobody writes to, there is none to keep out.
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
            "Another vski backs up into {dir}, restores from it or checks it; try again when it has ended."
        )),
        error => Error::unavailable(format!("{dir} cannot be locked: {error}.")),
    })
}

/// Removes the states that do not count.
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

/// Makes everything on the file system of a directory durable: cheaper than file by file.
pub fn sync(dir: &Path) -> Result<()> {
    let handle = File::open(dir).map_err(|error| write_error(dir, &error))?;
    rustix::fs::syncfs(&handle).map_err(|error| write_error(dir, &error.into()))
}

/// The folder with the files of records.
pub fn files_dir(dir: &Path) -> PathBuf {
    dir.join(FOLDER)
}
