//! The storage of files: the local disk, or an S3 bucket in which the path of a file is its key.
//! Both have the same operations.

use std::collections::BTreeSet;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::incoming::{Incoming, RemoteFile};
use super::local::{Local, Partial};
use super::path::FilePath;
use super::reserve::Reserve;
use super::s3::{S3, S3Settings};
use super::table::StoredFile;
use crate::base::clock::DAY_MS;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{clock, crypto, ids, log};

/// The key of the object with the id of the server that owns the bucket; not a path of a file.
const OWNER: &str = "vski-owner";
/// Longest content of that object.
const OWNER_BYTES_MAX: u64 = 64;
/// Lifetime of the URL that a download is redirected to.
const URL_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The storage of a server.
pub struct Storage {
    /// Bodies are received here even with a bucket.
    local: Local,
    s3: Option<S3>,
    /// Files that are stored while the transactions of their records run.
    staged: Mutex<BTreeSet<FilePath>>,
}

/// A received file and the path to store it under.
pub struct ReceivedFile<'a> {
    pub path: FilePath,
    pub partial: &'a Partial,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: &'a str,
}

impl Storage {
    /// Opens the storage of a data directory, or of a bucket.
    pub fn open(data_dir: &Path, s3: Option<&S3Settings>, reserve: Reserve) -> Result<Storage> {
        let s3 = s3.map(S3::open).transpose()?;
        if let Some(s3) = &s3 {
            s3.check()?;
        }
        Ok(Storage {
            local: Local::open(data_dir, reserve)?,
            s3,
            staged: Mutex::default(),
        })
    }

    /// Opens the storage for inspection, while a server may use it.
    pub fn open_to_inspect(data_dir: &Path, s3: Option<&S3Settings>) -> Result<Storage> {
        Ok(Storage {
            local: Local::open_to_inspect(data_dir),
            s3: s3.map(S3::open).transpose()?,
            staged: Mutex::default(),
        })
    }

    /// Claims the bucket for this server. Fails if another server owns it: the files of that server
    /// would count as orphans here.
    pub fn claim(&self, node: &str) -> Result<()> {
        if let Some(s3) = &self.s3
            && !self.is_claimed_by(node)?
        {
            let mut partial = self.local.receive(Reserve::default())?;
            partial.write(node.as_bytes())?;
            partial.finish()?;
            let sha256 = ids::hex(&crypto::sha256(node.as_bytes()));
            s3.put(OWNER, &partial.reopen()?, node.len() as u64, &sha256)?;
        }
        Ok(())
    }

    /// Fails if the bucket cannot be used.
    pub fn check(&self) -> Result<()> {
        self.s3.as_ref().map_or(Ok(()), S3::check)
    }

    /// True if this server owns the bucket; an error if another one does.
    pub fn is_claimed_by(&self, node: &str) -> Result<bool> {
        let Some(s3) = &self.s3 else {
            return Ok(true);
        };
        let Some(size) = size_of(s3, OWNER)? else {
            return Ok(false);
        };
        let mut text = String::new();
        let content = s3.get(OWNER, 0, size.min(OWNER_BYTES_MAX))?;
        content
            .map(|mut it| it.read_to_string(&mut text))
            .transpose()?;
        match text == node {
            true => Ok(true),
            false => Err(Error::conflict(format!(
                "The bucket (S3_BUCKET) belongs to another vski server ({text}, this one is {node}); use \
                 another bucket, or delete its object {OWNER} if that server no longer exists."
            ))),
        }
    }

    /// True if changes are written to the journal: replicas download the files from this server.
    pub fn has_journal(&self) -> bool {
        self.s3.is_none()
    }

    /// The possible difference between the times of files and the local clock, in milliseconds.
    pub fn clock_skew_ms(&self) -> i64 {
        match &self.s3 {
            Some(_) => 3_600_000,
            // The local clock dates local files.
            None => 0,
        }
    }

    /// Creates a file to receive a body into.
    pub fn receive(&self) -> Result<Partial> {
        self.local.receive(self.local.reserve)
    }

    /// Stores received files durably, all or none. They are deleted again unless
    /// [`StagedFiles::commit`] is called.
    pub fn stage(&self, files: &[ReceivedFile<'_>]) -> Result<StagedFiles<'_>> {
        let mut staged = StagedFiles {
            storage: self,
            pending: Vec::new(),
            paths: Vec::new(),
        };
        for file in files {
            let path = &file.path;
            lock(&self.staged).insert(path.clone());
            staged.pending.push(path.clone());
            match &self.s3 {
                Some(s3) => {
                    // First: the upload may succeed although its response is lost.
                    staged.paths.push(path.clone());
                    let source = file.partial.reopen()?;
                    s3.put(&path.to_string(), &source, file.size, file.sha256)?;
                }
                None => {
                    self.local.store(path, file.partial)?;
                    staged.paths.push(path.clone());
                }
            }
        }
        if self.s3.is_none() {
            self.local.sync(files.iter().map(|file| &file.path))?;
        }
        Ok(staged)
    }

    /// True if a request has staged this file and has neither committed nor dropped it.
    pub fn is_staged(&self, path: &FilePath) -> bool {
        lock(&self.staged).contains(path)
    }

    /// The URL from which a client can download a file; none if this server sends it.
    pub fn presigned_url(
        &self,
        path: &FilePath,
        media_type: &str,
        form: &str,
    ) -> Result<Option<String>> {
        let Some(s3) = &self.s3 else {
            return Ok(None);
        };
        let link = s3.presigned_url(&path.to_string(), URL_LIFETIME, media_type, form)?;
        Ok(Some(link))
    }

    /// Opens a range of a stored file; none if the file does not exist. A whole file from a bucket
    /// is verified by its hash.
    pub fn read(
        &self,
        path: &FilePath,
        stored: &StoredFile,
        start: u64,
        length: u64,
    ) -> Result<Option<Box<dyn Read + Send>>> {
        match &self.s3 {
            Some(s3) if start == 0 && length == stored.size => {
                let content = s3.get_verified(&path.to_string(), length, &stored.sha256)?;
                Ok(content.map(|content| Box::new(content) as Box<dyn Read + Send>))
            }
            _ => self.read_unverified(path, start, length),
        }
    }

    /// Like [`Storage::read`], without verifying the hash.
    pub fn read_unverified(
        &self,
        path: &FilePath,
        start: u64,
        length: u64,
    ) -> Result<Option<Box<dyn Read + Send>>> {
        if let Some(s3) = &self.s3 {
            return s3.get(&path.to_string(), start, length);
        }
        let Some(mut file) = self.local.open_file(path)? else {
            return Ok(None);
        };
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Some(Box::new(file.take(length))))
    }

    /// The size of a stored file; none if it does not exist.
    pub fn size(&self, path: &FilePath) -> Result<Option<u64>> {
        let Some(s3) = &self.s3 else {
            let file = self.local.open_file(path)?;
            return Ok(file
                .map(|file| file.metadata())
                .transpose()?
                .map(|it| it.len()));
        };
        size_of(s3, &path.to_string())
    }

    /// Removes all partial downloads from a master; none may be running.
    pub fn forget_incoming(&self) -> Result<()> {
        self.local.forget_incoming()
    }

    /// The partial download of a file from a master.
    pub fn incoming(&self, remote: &RemoteFile) -> Result<Incoming> {
        self.local.incoming(remote)
    }

    /// Moves complete and verified downloads to their paths, durably.
    pub fn accept(&self, remotes: &[RemoteFile]) -> Result<()> {
        self.local.accept(remotes)
    }

    /// True if the storage has exactly this file; reads all of it.
    pub fn holds(&self, remote: &RemoteFile) -> Result<bool> {
        if self.size(&remote.path)? != Some(remote.size) {
            return Ok(false);
        }
        let Some(content) = self.read_unverified(&remote.path, 0, remote.size)? else {
            return Ok(false);
        };
        let (_, sha256) = crypto::sha256_of(content)?;
        Ok(ids::hex(&sha256) == remote.sha256)
    }

    /// Deletes a stored file, if it exists.
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        match &self.s3 {
            Some(s3) => s3.remove(&path.to_string()),
            None => self.local.remove(path),
        }
    }

    /// Calls `found` with every stored file and its modification time (milliseconds since 1970);
    /// stops at the first error.
    pub fn walk(&self, found: &mut dyn FnMut(FilePath, i64) -> Result<()>) -> Result<()> {
        match &self.s3 {
            Some(s3) => walk_bucket(s3, "", found),
            None => self.local.walk(found),
        }
    }

    /// Like [`Storage::walk`], for one database.
    pub fn walk_in(
        &self,
        database: &str,
        found: &mut dyn FnMut(FilePath, i64) -> Result<()>,
    ) -> Result<()> {
        match &self.s3 {
            Some(s3) => walk_bucket(s3, &format!("{database}/"), found),
            None => self.local.walk_in(database, found),
        }
    }

    /// Aborts uploads to a bucket that a crash has left unfinished.
    pub fn abort_stale_uploads(&self) -> Result<()> {
        match &self.s3 {
            Some(s3) => s3.abort_stale_uploads(clock::now_ms() - DAY_MS).map(drop),
            None => Ok(()),
        }
    }

    /// Moves the local files of a deleted database to `folder`.
    pub fn move_aside(&self, database: &str, folder: &Path) -> Result<()> {
        match &self.s3 {
            // The objects stay; they become reachable if a database gets the name again.
            Some(_) => Ok(()),
            None => self.local.move_aside(database, folder),
        }
    }
}

/// The size of an object; none if it does not exist.
fn size_of(s3: &S3, key: &str) -> Result<Option<u64>> {
    let mut size = None;
    s3.list(key, &mut |object| {
        size = (object.key == key).then_some(object.size).or(size);
        Ok(())
    })?;
    Ok(size)
}

/// Calls `found` with every file; other objects in the bucket are skipped.
fn walk_bucket(
    s3: &S3,
    prefix: &str,
    found: &mut dyn FnMut(FilePath, i64) -> Result<()>,
) -> Result<()> {
    s3.list(prefix, &mut |object| match FilePath::parse(&object.key) {
        Some(path) => found(path, object.modified_ms),
        None => Ok(()),
    })
}

/// Stored files whose records are not committed yet; dropping them deletes the files.
pub struct StagedFiles<'a> {
    storage: &'a Storage,
    pending: Vec<FilePath>,
    /// Files to delete on drop.
    paths: Vec<FilePath>,
}

impl StagedFiles<'_> {
    /// Keeps the files: their records are committed.
    pub fn commit(mut self) {
        self.paths.clear();
    }
}

impl Drop for StagedFiles<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = self.storage.remove(path) {
                log::warn(format_args!("delete the staged file {path}: {error}"));
            }
        }
        let mut staged = lock(&self.storage.staged);
        for path in &self.pending {
            staged.remove(path);
        }
    }
}
