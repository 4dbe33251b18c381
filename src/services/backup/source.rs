//! Where a restore reads from: the directory of a backup, or an archive of one.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult};
use std::path::{Path, PathBuf};

use super::directory;
use super::manifest::{BackupManifest, FILE};
use super::owner::Owner;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::zip::Zip;

/// See the module documentation.
pub enum BackupSource {
    Directory(PathBuf),
    Archive(PathBuf, Zip),
}

impl BackupSource {
    /// Opens a backup. A directory must not contain the data directory or be inside it; an archive
    /// can be, because it is read completely before anything is moved.
    pub fn open(path: &Path, data_dir: &Path) -> Result<BackupSource> {
        if !path.is_file() {
            directory::refuse_inside(data_dir, path)?;
            return Ok(BackupSource::Directory(path.to_owned()));
        }
        let file = File::open(path).context(format!("open {}", path.display()))?;
        Ok(BackupSource::Archive(path.to_owned(), Zip::open(file)?))
    }

    /// See [`directory::hold`]. An archive never changes under its name.
    pub fn hold(&self) -> Result<Option<File>> {
        match self {
            BackupSource::Directory(dir) => directory::hold(dir),
            BackupSource::Archive(..) => Ok(None),
        }
    }

    pub fn manifest(&self) -> Result<BackupManifest> {
        match self {
            BackupSource::Directory(dir) => BackupManifest::read_existing(dir),
            BackupSource::Archive(path, zip) => manifest_of(zip, path),
        }
    }

    /// One sentence for each part that differs from what was written.
    pub fn faults(&self, manifest: &BackupManifest) -> Vec<String> {
        match self {
            BackupSource::Directory(dir) => manifest.faults(dir, |path| File::open(dir.join(path))),
            BackupSource::Archive(path, zip) => manifest.faults(path, |entry| entry_of(zip, entry)),
        }
    }

    /// The content of a file of the backup.
    pub fn read(&self, owner: &Owner, relative: &Path) -> IoResult<Box<dyn Read + Send>> {
        match self {
            BackupSource::Directory(dir) => Ok(Box::new(owner.open(dir, relative)?)),
            BackupSource::Archive(_, zip) => entry_of(zip, relative),
        }
    }
}

/// The manifest of an archive; an error if it is another kind of archive.
pub fn manifest_of(zip: &Zip, path: &Path) -> Result<BackupManifest> {
    let Some(content) = zip.read(FILE)? else {
        return Err(Error::invalid(format!(
            "The archive has no {FILE}, so it is not a backup of vski; vski import pocketbase reads one of \
             PocketBase."
        )));
    };
    /// A manifest has some hundred bytes for each database.
    const BYTES_MAX: u64 = 64 << 20;
    let mut text = Vec::new();
    content.take(BYTES_MAX).read_to_end(&mut text)?;
    BackupManifest::parse(&text, path)
}

fn entry_of(zip: &Zip, path: &Path) -> IoResult<Box<dyn Read + Send>> {
    let name = path.to_str().unwrap_or_default();
    match zip.read(name) {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(ErrorKind::NotFound.into()),
        Err(error) => Err(IoError::other(error.to_string())),
    }
}
