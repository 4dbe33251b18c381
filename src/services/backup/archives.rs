//! The archives of `/api/backups`: zip files in the folder `backups` of a data directory.
//!
//! Invariant: a file in the folder whose name is a key is complete and on disk. An archive is
//! written in the folder [`PARTIAL`] and gets its name by a link, which fails if the name is taken.
//! The next start of a server deletes the rest that a killed one has left there.
//!
//! The thread that asks for an archive writes it, one at a time. No backup contains this folder,
//! and no replica gets it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{fs, io};

use super::archive::pack;
use super::copy::BackupJob;
use super::create::run_in;
use super::directory::BACKUPS;
use super::file::{create, write_error};
use super::manifest::BackupManifest;
use super::missing;
use super::source::manifest_of;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::{Stop, lock};
use crate::base::zip::Zip;
use crate::base::{clock, failpoints, log};
use crate::store::db;
use crate::store::db::pages::PageReader;
use crate::store::files::{Reserve, table};

/// The folder, inside the folder of archives, in which one is written.
const PARTIAL: &str = ".partial";
const EXTENSION: &str = ".zip";
const KEY_CHARS_MAX: usize = 100;
/// Archives that are listed.
const ARCHIVES_MAX: usize = 1000;

/// An archive in the list.
pub struct ArchiveInfo {
    pub key: String,
    pub size: u64,
    /// Time of the last change, in milliseconds since 1970.
    pub modified_ms: i64,
}

/// See the module documentation.
pub struct Archives {
    data_dir: PathBuf,
    dir: PathBuf,
    /// The files are in a bucket and not part of a backup.
    is_bucket: bool,
    reserve: Reserve,
    settings: db::ConnectionSettings,
    is_busy: Mutex<bool>,
    stop: Stop,
}

/// Held while an archive is written: its folder is deleted when this is dropped.
struct Work<'a> {
    archives: &'a Archives,
    dir: PathBuf,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        *lock(&self.archives.is_busy) = false;
    }
}

impl Archives {
    /// Deletes what a killed server has left.
    pub fn open(
        data_dir: &Path,
        is_bucket: bool,
        reserve: Reserve,
        settings: db::ConnectionSettings,
    ) -> Archives {
        let archives = Archives {
            data_dir: data_dir.to_owned(),
            dir: data_dir.join(BACKUPS),
            is_bucket,
            reserve,
            settings,
            is_busy: Mutex::new(false),
            stop: Stop::new(),
        };
        let partial = archives.dir.join(PARTIAL);
        if let Err(error) = fs::remove_dir_all(&partial)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn(format_args!("delete {}: {error}", partial.display()));
        }
        archives
    }

    /// The archives, by their keys.
    pub fn list(&self) -> Result<Vec<ArchiveInfo>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.context("read the folder of backups")?,
        };
        for entry in entries {
            let entry = entry.context("read the folder of backups")?;
            let key = entry.file_name().to_string_lossy().into_owned();
            // Deleted meanwhile if there are no metadata.
            let Ok(data) = entry.metadata() else { continue };
            if !is_key(&key) || !data.is_file() {
                continue;
            }
            let modified = data.modified().ok();
            let since = modified.and_then(|it| it.duration_since(std::time::UNIX_EPOCH).ok());
            found.push(ArchiveInfo {
                key,
                size: data.len(),
                modified_ms: since.map_or(0, |it| i64::try_from(it.as_millis()).unwrap_or(0)),
            });
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.truncate(ARCHIVES_MAX);
        Ok(found)
    }

    /// Opens an archive; none if there is no such archive. Its content never changes.
    pub fn find(&self, key: &str) -> Result<Option<(File, u64)>> {
        if !is_key(key) {
            return Ok(None);
        }
        match File::open(self.dir.join(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => {
                let file = file.context(format!("open the backup {key}"))?;
                let data = file.metadata()?;
                Ok(data.is_file().then_some((file, data.len())))
            }
        }
    }

    /// Deletes an archive; false if there is none.
    pub fn delete(&self, key: &str) -> Result<bool> {
        if self.find(key)?.is_none() {
            return Ok(false);
        }
        match fs::remove_file(self.dir.join(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed
                .map(|()| true)
                .map_err(|error| write_error(&self.dir, &error)),
        }
    }

    /// True while an archive is written.
    pub fn is_busy(&self) -> bool {
        *lock(&self.is_busy)
    }

    /// Ends the work on an archive, and refuses more.
    pub fn stop(&self) {
        self.stop.set();
    }

    /// Creates a backup of the data directory; without a name, one of its time.
    pub fn create(&self, name: Option<&str>) -> Result<()> {
        let work = self.begin()?;
        let key = match name {
            Some(name) => {
                let is_plain = |it: u8| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
                let stem = name.strip_suffix(EXTENSION).unwrap_or_default();
                if !is_key(name) || !stem.bytes().all(is_plain) {
                    let message = "Must be lower-case letters, digits, _ and -, followed by .zip.";
                    return Err(Error::field("name", "validation_match_invalid", message));
                }
                name.to_owned()
            }
            None => {
                let time = clock::now().replace(['-', ':', '.', 'T', 'Z'], "");
                format!("vski_backup_{time}{EXTENSION}")
            }
        };
        self.refuse_taken("name", &key)?;
        self.refuse_full(&work)?;
        let copy = work.dir.join("copy");
        let summary = run_in(BackupJob {
            data_dir: &self.data_dir,
            dir: &copy,
            is_bucket: self.is_bucket,
            verifies: false,
            settings: self.settings,
            stop: &self.stop,
            report: &mut |line| log::info(format_args!("backup {key}: {line}")),
        })?;
        if summary.missing > 0 {
            let missing = summary.missing;
            log::warn(format_args!(
                "the backup {key} lacks files that are missing or damaged in the storage files={missing}"
            ));
        }
        let manifest = BackupManifest::read_existing(&copy)?;
        let archive = work.dir.join("archive");
        let file = create(&archive).map_err(|error| write_error(&self.dir, &error))?;
        pack(&copy, &manifest, file, &self.stop).map_err(|error| write_error(&self.dir, &error))?;
        failpoints::reach("archive-written");
        self.publish(&archive, "name", &key)
    }

    /// Keeps a received archive under the key.
    pub fn accept(&self, key: &str, mut received: File) -> Result<()> {
        let work = self.begin()?;
        if !is_key(key) {
            let message = "Must be a name of letters, digits, . _ and -, followed by .zip.";
            return Err(Error::field("file", "validation_match_invalid", message));
        }
        self.refuse_taken("file", key)?;
        let zip = Zip::open(received.try_clone()?);
        zip.and_then(|zip| manifest_of(&zip, Path::new(key)))
            .map_err(|error| Error::field("file", "validation_invalid_value", error.message()))?;
        let folder = File::open(&work.dir).map_err(|error| write_error(&self.dir, &error))?;
        self.reserve.check(&folder, received.metadata()?.len())?;
        let archive = work.dir.join("archive");
        let copied = create(&archive).and_then(|mut file| {
            io::Seek::rewind(&mut received)?;
            io::copy(&mut received, &mut file)?;
            file.sync_all()
        });
        copied.map_err(|error| write_error(&self.dir, &error))?;
        self.publish(&archive, "file", key)
    }

    /// Begins to write an archive; an error if another one is being written.
    fn begin(&self) -> Result<Work<'_>> {
        let mut is_busy = lock(&self.is_busy);
        if *is_busy || self.stop.is_set() {
            return Err(Error::invalid(
                "Try again later: another backup is being written.",
            ));
        }
        let dir = self.dir.join(PARTIAL);
        db::create_dir(&dir)?;
        *is_busy = true;
        Ok(Work {
            archives: self,
            dir,
        })
    }

    fn refuse_taken(&self, field: &str, key: &str) -> Result<()> {
        match fs::symlink_metadata(self.dir.join(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => Err(taken(field)),
        }
    }

    /// Refuses a backup that would not leave the reserve of the disk free. A database is on the
    /// disk twice while it is packed.
    fn refuse_full(&self, work: &Work<'_>) -> Result<()> {
        let (mut total, mut largest) = (0_u64, 0);
        let own = [db::LOCAL, db::WORKFLOWS, db::STATS].map(str::to_owned);
        for name in db::names(&self.data_dir)?.into_iter().chain(own) {
            if !missing::has_content(&self.data_dir, &name) {
                continue;
            }
            let path = self.data_dir.join(format!("{name}.db"));
            let reader = PageReader::open_foreign(&path)?;
            let snapshot = reader.snapshot()?;
            let bytes = u64::from(snapshot.pages) * u64::from(snapshot.page_size);
            total += bytes;
            largest = bytes.max(largest);
            if !self.is_bucket && table::exists(snapshot.connection())? {
                total += table::totals(snapshot.connection())?.1;
            }
        }
        let folder = File::open(&work.dir).map_err(|error| write_error(&self.dir, &error))?;
        self.reserve.check(&folder, total.saturating_add(largest))
    }

    /// Gives a complete archive its name.
    fn publish(&self, archive: &Path, field: &str, key: &str) -> Result<()> {
        let linked = fs::hard_link(archive, self.dir.join(key))
            .and_then(|()| File::open(&self.dir)?.sync_all());
        linked.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(field),
            _ => write_error(&self.dir, &error),
        })
    }
}

fn taken(field: &str) -> Error {
    let message = "The backup file name is invalid or already exists.";
    Error::field(field, "validation_backup_name_exists", message)
}

/// True for the name of an archive: no path, and not hidden.
fn is_key(key: &str) -> bool {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-' | b'.');
    let stem = key.strip_suffix(EXTENSION).unwrap_or_default();
    !stem.is_empty()
        && key.len() <= KEY_CHARS_MAX
        && !key.starts_with('.')
        && key.bytes().all(is_plain)
}
