//! The storage on the local disk: `storage/DATABASE/COLLECTION/RECORD/NAME`.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use std::{fs, io};

use super::incoming::{Incoming, RemoteFile};
use super::path::{FOLDER, FilePath};
use super::reserve::Reserve;
use super::{incoming, reserve};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::lock;
use crate::base::{clock, log};

/// The folder of bodies that are being received; no database can have this name.
const PARTIAL: &str = ".partial";
/// Attempts to create a folder that another thread removes again because it is empty.
const TRIES: u32 = 10;
/// Up to this number, files are synced one by one.
const SINGLE_SYNCS_MAX: usize = 4;
/// Folders of collections that are remembered as durable.
const DURABLE_MAX: usize = 10_000;

/// The folder of the storage.
pub struct Local {
    root: PathBuf,
    /// Disk space that files leave free.
    pub reserve: Reserve,
    count: AtomicU64,
    /// Folders of collections that are durable, as are the folders above them.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Local {
    /// Opens the storage for inspection, while a server may use it.
    pub fn open_to_inspect(data_dir: &Path) -> Local {
        Local {
            root: data_dir.join(FOLDER),
            reserve: Reserve::default(),
            count: AtomicU64::new(0),
            durable: Mutex::default(),
        }
    }

    /// Opens the storage and removes bodies that an earlier process was receiving.
    pub fn open(data_dir: &Path, reserve: Reserve) -> Result<Local> {
        let local = Local {
            reserve,
            ..Local::open_to_inspect(data_dir)
        };
        let partial = local.partial();
        let prepare = || -> io::Result<()> {
            create_folders(&partial)?;
            for entry in fs::read_dir(&partial)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        incoming::remove_old(&local.root).context(format!("use {}", local.root.display()))?;
        prepare().map_err(|error| {
            Error::unavailable(format!("{} cannot be used: {error}.", local.root.display()))
        })?;
        Ok(local)
    }

    fn partial(&self) -> PathBuf {
        self.root.join(PARTIAL)
    }

    /// Creates a file to receive a body into, which leaves `reserve` of the disk free.
    pub fn receive(&self, reserve: Reserve) -> Result<Partial> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.partial().join(number.to_string());
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(refused)?;
        Ok(Partial {
            path,
            file: Some(file),
            reserve,
            unchecked: 0,
        })
    }

    /// Stores a received file under its path; it is durable after [`Local::sync`].
    pub fn store(&self, path: &FilePath, partial: &Partial) -> Result<()> {
        // The body may be old by now, and an old file without a row would be swept.
        let now = UNIX_EPOCH + Duration::from_millis(clock::now_ms().unsigned_abs());
        let file = File::options().write(true).open(&partial.path);
        file.and_then(|file| file.set_modified(now))
            .map_err(refused)?;
        let target = self.root.join(path.relative());
        let mut tries = 0;
        loop {
            tries += 1;
            create_folders(target.parent().unwrap_or(&self.root)).map_err(refused)?;
            // A link, not a rename: the request may have to be retried.
            match fs::hard_link(&partial.path, &target) {
                // Another thread has removed the empty folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                result => return result.map_err(refused),
            }
        }
    }

    /// Makes the directory entries of these files durable.
    pub fn sync<'a>(&self, paths: impl Iterator<Item = &'a FilePath>) -> Result<()> {
        let target = |path: &FilePath| self.root.join(path.relative());
        let folders: BTreeSet<PathBuf> = paths
            .filter_map(|path| target(path).parent().map(Path::to_owned))
            .collect();
        for folder in &folders {
            self.sync_up(folder).map_err(refused)?;
        }
        Ok(())
    }

    /// Makes the entries of a record's folder durable, and the entries of the folders above it.
    fn sync_up(&self, record: &Path) -> io::Result<()> {
        File::open(record)?.sync_all()?;
        let Some(collection) = record.parent() else {
            return Ok(());
        };
        File::open(collection)?.sync_all()?;
        if lock(&self.durable).contains(collection) {
            return Ok(());
        }
        let mut at = collection.parent();
        while let Some(folder) = at {
            File::open(folder)?.sync_all()?;
            at = folder.parent().filter(|_| folder != self.root);
        }
        let mut durable = lock(&self.durable);
        if durable.len() >= DURABLE_MAX {
            durable.clear();
        }
        durable.insert(collection.to_owned());
        Ok(())
    }

    /// Removes all partial downloads from a master; none may be running.
    pub fn forget_incoming(&self) -> Result<()> {
        incoming::remove_all(&self.root)
    }

    /// The partial download of a file from a master.
    pub fn incoming(&self, remote: &RemoteFile) -> Result<Incoming> {
        Incoming::open(&self.root, remote, self.reserve)
    }

    /// Moves complete and verified downloads to their paths, durably. A file appears under its path
    /// only once its content is on disk. Many files are cheaper together.
    pub fn accept(&self, remotes: &[RemoteFile]) -> Result<()> {
        let part = |remote: &RemoteFile| Incoming::path_of(&self.root, remote);
        // An earlier attempt that failed midway has moved the others; their entries may not be
        // durable.
        let has_part = |remote: &&RemoteFile| part(remote).exists();
        if remotes.len() <= SINGLE_SYNCS_MAX {
            for remote in remotes {
                if has_part(&remote) {
                    File::open(part(remote))?.sync_all().map_err(refused)?;
                    self.move_in(remote)?;
                }
                let target = self.root.join(remote.path.relative());
                self.sync_up(target.parent().unwrap_or(&self.root))
                    .map_err(refused)?;
            }
            return Ok(());
        }
        let root = File::open(&self.root)?;
        let sync = || rustix::fs::syncfs(&root).map_err(|error| refused(error.into()));
        sync()?;
        for remote in remotes.iter().filter(has_part) {
            self.move_in(remote)?;
        }
        sync()
    }

    fn move_in(&self, remote: &RemoteFile) -> Result<()> {
        let target = self.root.join(remote.path.relative());
        let part = Incoming::path_of(&self.root, remote);
        let folder = target.parent().unwrap_or(&self.root);
        let mut tries = 0;
        loop {
            tries += 1;
            create_folders(folder).map_err(refused)?;
            match fs::rename(&part, &target) {
                // Another thread has moved it.
                Err(_) if !part.exists() && target.exists() => return Ok(()),
                // Another thread has removed the empty folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                result => return result.map_err(refused),
            }
        }
    }

    /// Opens a stored file; none if it does not exist.
    pub fn open_file(&self, path: &FilePath) -> Result<Option<File>> {
        match File::open(self.root.join(path.relative())) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from(error).context(format!("open file {path}"))),
        }
    }

    /// Deletes a stored file, if it exists, and the folders that this leaves empty.
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        let target = self.root.join(path.relative());
        match fs::remove_file(&target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The server creates no such folder.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                log::warn(format_args!("{} is a folder; ignored", target.display()));
            }
            Err(error) => return Err(Error::from(error).context(format!("delete file {path}"))),
        }
        if let Some(collection) = target.parent().and_then(Path::parent) {
            // Before the folder is removed: a thread that creates it again has to sync it again.
            lock(&self.durable).remove(collection);
        }
        // Usually a folder is not empty, which ends the loop.
        let mut folder = target.parent();
        while let Some(path) = folder.filter(|path| *path != self.root) {
            if fs::remove_dir(path).is_err() {
                break;
            }
            folder = path.parent();
        }
        Ok(())
    }

    /// Moves the files of a database, if it has any, to a new folder.
    pub fn move_aside(&self, database: &str, folder: &Path) -> Result<()> {
        lock(&self.durable).clear();
        let moved = fs::rename(self.root.join(database), folder);
        match moved.and_then(|()| self.sync_up(&self.root)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::from(error).context(format!("move the files of {database} aside")))
            }
            _ => Ok(()),
        }
    }

    /// Calls `found` with every stored file and its modification time (milliseconds since 1970);
    /// stops at the first error.
    pub fn walk(&self, found: &mut dyn FnMut(FilePath, i64) -> Result<()>) -> Result<()> {
        for database in folders(&self.root)? {
            self.walk_in(&database, found)?;
        }
        Ok(())
    }

    /// Like [`Local::walk`], for one database.
    pub fn walk_in(
        &self,
        database: &str,
        found: &mut dyn FnMut(FilePath, i64) -> Result<()>,
    ) -> Result<()> {
        let database = database.to_owned();
        for collection in folders(&self.root.join(&database))? {
            let path = self.root.join(&database).join(&collection);
            for record in folders(&path)? {
                for (name, written_ms) in entries(&path.join(&record))? {
                    let path = FilePath {
                        database: database.clone(),
                        collection: collection.clone(),
                        record: record.clone(),
                        name,
                    };
                    found(path, written_ms)?;
                }
            }
        }
        Ok(())
    }
}

/// The file of a received body; deleted when it is dropped.
pub struct Partial {
    path: PathBuf,
    file: Option<File>,
    reserve: Reserve,
    /// Bytes that may be written before the next check of the free space.
    unchecked: u64,
}

impl Partial {
    pub fn write(&mut self, piece: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Err(Error::internal("a received file is already closed"));
        };
        let length = piece.len() as u64;
        if self.unchecked < length {
            self.unchecked = length.max(reserve::CHECK_INTERVAL_BYTES);
            self.reserve.check(file, length)?;
        }
        self.unchecked -= length;
        file.write_all(piece).map_err(refused)
    }

    /// Opens the received bytes for reading.
    pub fn reopen(&self) -> Result<File> {
        Ok(File::open(&self.path)?)
    }

    /// Makes it durable and closes it.
    pub fn finish(&mut self) -> Result<()> {
        match self.file.take() {
            Some(file) => file.sync_all().map_err(refused),
            None => Ok(()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn(format_args!("delete {}: {error}", self.path.display()));
        }
    }
}

fn create_folders(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// The entries of a folder; empty if it was removed meanwhile.
fn read_folder(path: &Path) -> Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(Error::from(error).context(format!("read {}", path.display()))),
    }
}

/// The names of the subfolders that can be parts of a path.
fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in read_folder(path)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if entry.file_type()?.is_dir() && !name.is_empty() && !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

fn entries(path: &Path) -> Result<Vec<(String, i64)>> {
    let mut found = Vec::new();
    for entry in read_folder(path)? {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if !name.is_empty() && entry.file_type()?.is_file() {
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let written_ms = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
            found.push((name, written_ms));
        }
    }
    Ok(found)
}

/// The error for a file that the disk refuses.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: io::Error) -> Error {
    Error::unavailable("The file cannot be stored; nothing was saved.")
        .context(format!("store a file: {error}"))
}
