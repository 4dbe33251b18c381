//! Where stored files lie: on this machine's disk, or in a bucket (FILE-1). One set of operations for
//! both. In a bucket the path of a file is its key.

use std::collections::BTreeSet;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::local::{Local, Partial};
use super::reserve::Reserve;
use super::s3::{S3, Settings};
use super::table::Stored;
use super::{FilePath, Incoming, Remote};
use crate::base::clock::DAY_MS;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{clock, crypto, ids, log};

/// Names the server that a bucket belongs to. It is the path of no file.
const OWNER: &str = "vski-owner";
/// Longest content of that.
const OWNER_BYTES_MAX: u64 = 64;
/// Life of the address that a download is sent to.
const LINK_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// The storage of a server.
pub struct Storage {
    /// Bodies are received here in any case.
    local: Local,
    s3: Option<S3>,
    /// Files that have a place and whose records are being written.
    placing: Mutex<BTreeSet<FilePath>>,
}

/// A received file and the place it is to have.
pub struct Arrival<'a> {
    pub path: FilePath,
    pub partial: &'a Partial,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: &'a str,
}

impl Storage {
    /// Opens the storage of a data directory, or of a bucket.
    pub fn open(data_dir: &Path, s3: Option<&Settings>, reserve: Reserve) -> Result<Storage> {
        let s3 = s3.map(S3::open).transpose()?;
        if let Some(s3) = &s3 {
            s3.check()?;
        }
        Ok(Storage {
            local: Local::open(data_dir, reserve)?,
            s3,
            placing: Mutex::default(),
        })
    }

    /// The storage as it is, to be looked at beside the server that has it.
    pub fn look(data_dir: &Path, s3: Option<&Settings>) -> Result<Storage> {
        Ok(Storage {
            local: Local::look(data_dir),
            s3: s3.map(S3::open).transpose()?,
            placing: Mutex::default(),
        })
    }

    /// Takes the bucket for this server, or refuses one that belongs to another: what that has stored would
    /// be left over here.
    pub fn claim(&self, node: &str) -> Result<()> {
        if let Some(s3) = &self.s3
            && !self.belongs_to(node)?
        {
            let mut partial = self.local.receive(Reserve::default())?;
            partial.write(node.as_bytes())?;
            partial.finish()?;
            let sha256 = ids::hex(&crypto::sha256(node.as_bytes()));
            s3.put(OWNER, &partial.reopen()?, node.len() as u64, &sha256)?;
        }
        Ok(())
    }

    /// Whether the bucket is this server's already; an error when it is another's.
    pub fn belongs_to(&self, node: &str) -> Result<bool> {
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
                 another bucket, or delete its object {OWNER} if that server is no more."
            ))),
        }
    }

    /// Whether what comes and goes is written to the journal: replicas get the files from here (FR-3).
    pub fn has_journal(&self) -> bool {
        self.s3.is_none()
    }

    /// How far the times of files may be from this machine's clock, in milliseconds.
    pub fn clocks_differ_ms(&self) -> i64 {
        match &self.s3 {
            Some(_) => 3_600_000,
            // It is this one that dates them.
            None => 0,
        }
    }

    /// A file to receive a body into.
    pub fn receive(&self) -> Result<Partial> {
        self.local.receive(self.local.reserve)
    }

    /// Gives received files their places, durably: all of them or none. They keep them when
    /// [`Placed::keep`] is called, and lose them otherwise.
    pub fn place(&self, arrivals: &[Arrival<'_>]) -> Result<Placed<'_>> {
        let mut placed = Placed {
            storage: self,
            pending: Vec::new(),
            paths: Vec::new(),
        };
        for arrival in arrivals {
            let path = &arrival.path;
            lock(&self.placing).insert(path.clone());
            placed.pending.push(path.clone());
            match &self.s3 {
                Some(s3) => {
                    // First, since it may be there without our hearing of it.
                    placed.paths.push(path.clone());
                    let source = arrival.partial.reopen()?;
                    s3.put(&path.to_string(), &source, arrival.size, arrival.sha256)?;
                }
                None => {
                    self.local.place(path, arrival.partial)?;
                    placed.paths.push(path.clone());
                }
            }
        }
        if self.s3.is_none() {
            self.local
                .sync(arrivals.iter().map(|arrival| &arrival.path))?;
        }
        Ok(placed)
    }

    /// Whether a request has placed this file and not yet said whether it keeps it.
    pub fn is_placing(&self, path: &FilePath) -> bool {
        lock(&self.placing).contains(path)
    }

    /// Where a client may fetch a file by itself, if it is not to come from here.
    pub fn link(&self, path: &FilePath, media_type: &str, form: &str) -> Result<Option<String>> {
        let Some(s3) = &self.s3 else {
            return Ok(None);
        };
        let link = s3.link(&path.to_string(), LINK_LIFETIME, media_type, form)?;
        Ok(Some(link))
    }

    /// A part of a stored file, to be read; none when the file is not there. What comes from a bucket is held
    /// against its hash when all of it is wanted.
    pub fn read(
        &self,
        path: &FilePath,
        stored: &Stored,
        start: u64,
        length: u64,
    ) -> Result<Option<Box<dyn Read + Send>>> {
        match &self.s3 {
            Some(s3) if start == 0 && length == stored.size => {
                let content = s3.get_verified(&path.to_string(), length, &stored.sha256)?;
                Ok(content.map(|content| Box::new(content) as Box<dyn Read + Send>))
            }
            _ => self.read_part(path, start, length),
        }
    }

    /// The same without a look at its hash.
    pub fn read_part(
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

    /// How long a stored file is; none when it is not there.
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

    /// Removes what is here of files that come from a master; none is on its way.
    pub fn forget_incoming(&self) -> Result<()> {
        self.local.forget_incoming()
    }

    /// What is here of a file that comes from a master.
    pub fn incoming(&self, remote: &Remote) -> Result<Incoming> {
        self.local.incoming(remote)
    }

    /// Gives files from a master, whole and checked, their places, durably.
    pub fn accept(&self, remotes: &[Remote]) -> Result<()> {
        self.local.accept(remotes)
    }

    /// Whether the storage has exactly this file: reads all of it.
    pub fn holds(&self, remote: &Remote) -> Result<bool> {
        if self.size(&remote.path)? != Some(remote.size) {
            return Ok(false);
        }
        let Some(content) = self.read_part(&remote.path, 0, remote.size)? else {
            return Ok(false);
        };
        let (_, sha256) = crypto::sha256_of(content)?;
        Ok(ids::hex(&sha256) == remote.sha256)
    }

    /// Deletes a stored file, if it is there.
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        match &self.s3 {
            Some(s3) => s3.remove(&path.to_string()),
            None => self.local.remove(path),
        }
    }

    /// Calls `found` with every stored file and when it was written (milliseconds since 1970); stops at
    /// the first error.
    pub fn walk(&self, found: &mut dyn FnMut(FilePath, i64) -> Result<()>) -> Result<()> {
        match &self.s3 {
            Some(s3) => walk_bucket(s3, "", found),
            None => self.local.walk(found),
        }
    }

    /// The same for one database.
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

    /// Ends uploads to a bucket that a crash has left in the middle.
    pub fn abort_stale_uploads(&self) -> Result<()> {
        match &self.s3 {
            Some(s3) => s3.abort_stale_uploads(clock::now_ms() - DAY_MS).map(drop),
            None => Ok(()),
        }
    }

    /// Moves what belongs to a deleted database to where its file lies, if the files are here.
    pub fn move_aside(&self, database: &str, folder: &Path) -> Result<()> {
        match &self.s3 {
            // It stays, out of reach, until a database has the name again.
            Some(_) => Ok(()),
            None => self.local.move_aside(database, folder),
        }
    }
}

/// How long an object is; none when it is not there.
fn size_of(s3: &S3, key: &str) -> Result<Option<u64>> {
    let mut size = None;
    s3.list(key, &mut |object| {
        size = (object.key == key).then_some(object.size).or(size);
        Ok(())
    })?;
    Ok(size)
}

/// What is in the bucket and no file of ours is passed over.
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

/// Files that have got their places.
pub struct Placed<'a> {
    storage: &'a Storage,
    pending: Vec<FilePath>,
    /// Those that are taken back.
    paths: Vec<FilePath>,
}

impl Placed<'_> {
    /// They are named by a record now.
    pub fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = self.storage.remove(path) {
                log::warn(format_args!("take back {path}: {error}"));
            }
        }
        let mut placing = lock(&self.storage.placing);
        for path in &self.pending {
            placing.remove(path);
        }
    }
}
