//! Backups of a data directory, also beside a running server: made, checked, put back.
//!
//! A backup is a directory:
//!
//! ```text
//! manifest.json         which state counts, and the hashes of its parts; replaced last, in one step
//! state-TIME/           every database as one file, and the secret
//! storage/              the files of records, under the paths that they have in the data directory
//! backup.lock           keeps a second backup out, and any while it is restored or checked
//! ```
//!
//! The next backup into it writes another state beside the one that counts and adds files to the storage; a
//! file never changes under its name, so those that are there serve both. Then it replaces the manifest,
//! and after that removes the old state and the files that nothing names any more. Wherever it ends in
//! between, the manifest names a state that is whole, with all of its files.
//!
//! Each database is copied page by page from one read transaction: no writer waits for it, and it ends however
//! much is written. That transaction is as short as possible, since the log cannot start over meanwhile.
//!
//! Files and databases agree because the files that a transaction sees are copied while it is open, before
//! its pages. Nearly all have been copied before it began, so this takes a moment; when one of the rest has
//! vanished because its record was deleted since, the transaction is given up and another one looked at.
//!
//! The databases agree with each other by their order. A collection of a tenant has its table there and its
//! definition in `default.db`, which goes after all tenants; those whose definitions have changed since they
//! were copied are copied once more before it.
//! `local.db` goes before them and `workflows.db` after: what one queues in the other is then there or
//! queued once more under the same key, never noted and lost.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::base::{clock, failpoints};
use crate::store::db;
use crate::store::files::FOLDER;

use copy::Copier;
use manifest::{Manifest, STATE};

mod copy;
mod file;
pub mod lost;
mod manifest;
mod owner;
pub mod restore;
pub mod verify;

/// Keeps a second backup out, and marks the directory as one of backups.
const LOCK: &str = "backup.lock";

/// What a backup has done.
pub struct Summary {
    pub databases: usize,
    pub database_bytes: u64,
    pub files: u64,
    pub bytes: u64,
    /// Files that were not there from an earlier backup.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Files that could not be had.
    pub missing: u64,
}

/// What to back up, and where to.
pub struct Job<'a> {
    pub data_dir: &'a Path,
    pub dir: &'a Path,
    /// The files are in a bucket, and no part of it.
    pub is_bucket: bool,
    /// Files that an earlier backup has left are read again.
    pub verifies: bool,
    pub settings: db::Settings,
    /// Told of what takes long, and of what is wrong.
    pub tell: &'a mut dyn FnMut(&str),
}

/// Makes a backup, from scratch or on top of the earlier one in the directory.
pub fn run(job: Job<'_>) -> Result<Summary> {
    let (data_dir, dir, is_bucket) = (job.data_dir, job.dir, job.is_bucket);
    refuse_inside(data_dir, dir)?;
    let _lock = take(dir)?;
    let _held = db::offline::hold_unwritable(data_dir)?;
    let earlier = match Manifest::read(dir) {
        Ok(earlier) => {
            remove_states(dir, earlier.as_ref().map(|it| it.state.as_str()))?;
            earlier
        }
        // One of the states may still be of use until there is a new one.
        Err(error) => {
            (job.tell)(&format!("{error} Everything is looked at again."));
            None
        }
    };
    let time = clock::now();
    let name = format!("{STATE}{}", time.replace([':', '.'], ""));
    let state = dir.join(&name);
    db::create_dir(&state)?;
    let mut manifest = Manifest::new(time, &name, if is_bucket { "s3" } else { "local" });
    let earlier = earlier.filter(|_| !job.verifies);
    let mut copier = Copier::new(job, state.clone(), earlier.as_ref().map(|it| it.state(dir)));
    let copied = copier
        .run(&mut manifest)
        .and_then(|()| sync(dir))
        .inspect_err(|_| {
            let _ = fs::remove_dir_all(&state);
        });
    copied?;
    failpoints::reach("backup-copied");
    manifest.write(dir)?;
    failpoints::reach("backup-valid");
    remove_states(dir, Some(&name))?;
    copier.remove_unnamed()?;
    let databases: Vec<_> = manifest
        .parts
        .iter()
        .filter_map(|it| it.database().map(|_| it.size))
        .collect();
    Ok(Summary {
        databases: databases.len(),
        database_bytes: databases.iter().sum(),
        files: manifest.files,
        bytes: manifest.bytes,
        copied: copier.copied,
        copied_bytes: copier.copied_bytes,
        missing: manifest.missing,
    })
}

/// Where a path leads that need not be there yet.
fn resolved(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return Ok(below(found, rest));
        }
    }
    Ok(path)
}

/// Follows a path on which nothing is there yet, so that no link can lead elsewhere.
fn below(mut path: PathBuf, rest: &Path) -> PathBuf {
    for component in rest.components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

/// One in the other would copy itself, or be swept away with it.
fn refuse_inside(data_dir: &Path, dir: &Path) -> Result<()> {
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
fn take(dir: &Path) -> Result<File> {
    db::create_dir(dir)?;
    let is_ours = dir.join(LOCK).exists() || Manifest::is_in(dir);
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
    let file = file.map_err(|error| refused(dir, &error))?;
    lock(dir, &file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Keeps backups out for as long as the result lives, since they remove what they replace. Where there is no
/// lock or none can be taken, as on a medium that nobody writes to, there is none to keep out.
fn hold(dir: &Path) -> Result<Option<File>> {
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

fn lock(dir: &Path, file: &File, how: FlockOperation) -> Result<()> {
    let dir = dir.display();
    rustix::fs::flock(file, how).map_err(|error| match error {
        Errno::WOULDBLOCK => Error::conflict(format!(
            "Another vski backs up into {dir}, restores from it or checks it; try again when it has ended."
        )),
        error => Error::unavailable(format!("{dir} cannot be locked: {error}.")),
    })
}

/// Removes the states that do not count.
fn remove_states(dir: &Path, kept: Option<&str>) -> Result<()> {
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
fn sync(dir: &Path) -> Result<()> {
    let handle = File::open(dir).map_err(|error| refused(dir, &error))?;
    rustix::fs::syncfs(&handle).map_err(|error| refused(dir, &error.into()))
}

/// A directory does not take what is written to it.
fn refused(dir: &Path, error: &io::Error) -> Error {
    let dir = dir.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::unavailable(format!(
                "There is no room for it in {dir}; what was there before is as it was ({error})."
            ))
        }
        _ => Error::unavailable(format!("{dir} cannot be written: {error}.")),
    }
}

/// Folders that only their owner can read.
fn create_dirs(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// The folder with the files of records.
fn storage(dir: &Path) -> PathBuf {
    dir.join(FOLDER)
}
