//! Restores a backup into a data directory.
//!
//! Everything is first copied to a folder inside the data directory, verified there and synced.
//! Only then is it moved into place, `default.db` last. A server refuses a directory in which this
//! was interrupted.
//!
//! The restored data must not be mistaken for a continuation of what happened elsewhere since the
//! backup. Therefore the file journal begins another epoch, so that replicas read the list of all
//! files, and the epochs of runs are skipped, so that a worker with an old lease is refused.
//! Replicas notice the other history of databases at every start of a master.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::directory;
use super::directory::{BACKUPS, files_dir};
use super::file::{copy, write_error};
use super::manifest::BackupManifest;
use super::owner::{Owner, SwapError};
use super::source::BackupSource;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{clock, failpoints};
use crate::services::workflows::offline;
use crate::store::db;
use crate::store::files::journal::PAGE;
use crate::store::files::{FOLDER, FilePath, journal, table};

/// Entries that a data directory may have and still count as empty.
const IGNORED: [&str; 4] = ["lock", "lost+found", db::RESTORING, BACKUPS];

/// The result of a restore.
pub struct RestoreSummary {
    pub time: String,
    pub databases: usize,
    pub files: u64,
    pub bytes: u64,
    /// Files that a database names but that the backup lacks or has damaged.
    pub missing: u64,
    pub is_bucket: bool,
    /// The new path of the previous data.
    pub aside: Option<PathBuf>,
}

/// Restores a backup, a directory or an archive, into a data directory, which must be empty unless
/// `replaces` is set.
pub fn run(
    dir: &Path,
    data_dir: &Path,
    replaces: bool,
    settings: db::ConnectionSettings,
    report: &mut dyn FnMut(&str),
) -> Result<RestoreSummary> {
    let source = BackupSource::open(dir, data_dir)?;
    let _backup = source.hold()?;
    let manifest = source.manifest()?;
    if let Some(fault) = source.faults(&manifest).into_iter().next() {
        return Err(Error::unavailable(format!(
            "{fault} The backup is damaged; nothing was restored."
        )));
    }
    let owner = Owner::become_of(data_dir)?;
    db::create_dir(data_dir)?;
    let is_empty = is_empty(data_dir)?;
    if !is_empty && !replaces {
        return Err(Error::conflict(format!(
            "The data directory {} is not empty; --replace moves its content aside.",
            data_dir.display()
        )));
    }
    // No server runs on the directory or starts on it, at its current place or its final one.
    let _lock = db::lock_dir(data_dir)?;
    let staging = data_dir.join(db::RESTORING);
    remove(&staging)?;
    db::create_dir(&staging)?;
    let _next = db::lock_dir(&staging)?;
    let mut job = RestoreJob {
        source: &source,
        owner: &owner,
        staging: &staging,
        manifest: &manifest,
        settings,
        report,
    };
    let filled = job.fill();
    let (files, bytes, missing) = filled.inspect_err(|_| {
        let _ = fs::remove_dir_all(&staging);
    })?;
    failpoints::reach("restore-filled");
    let aside = match is_empty {
        true => move_into_place(&staging, data_dir, &owner).map(|()| None),
        false => replace(data_dir, &owner, report).map(Some),
    };
    Ok(RestoreSummary {
        time: manifest.time.clone(),
        databases: manifest
            .parts
            .iter()
            .filter(|it| it.database().is_some())
            .count(),
        files,
        bytes,
        missing,
        is_bucket: manifest.files_dir != "local",
        aside: aside?,
    })
}

fn is_empty(data_dir: &Path) -> Result<bool> {
    for entry in fs::read_dir(data_dir).context(format!("read {}", data_dir.display()))? {
        let name = entry?.file_name();
        if !IGNORED.iter().any(|it| name == *it) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(folder, &error)),
        _ => Ok(()),
    }
}

/// The work of filling the staging folder.
struct RestoreJob<'a> {
    source: &'a BackupSource,
    owner: &'a Owner,
    staging: &'a Path,
    manifest: &'a BackupManifest,
    settings: db::ConnectionSettings,
    report: &'a mut dyn FnMut(&str),
}

impl RestoreJob<'_> {
    fn fill(&mut self) -> Result<(u64, u64, u64)> {
        for part in &self.manifest.parts {
            let path = Path::new(&self.manifest.state).join(&part.name);
            // Without the permissions of the source: only the owner may read and write the copy.
            let from = self.source.read(self.owner, &path);
            let mut from = from.context(format!("open {} of the backup", path.display()))?;
            let to = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.staging.join(&part.name));
            let copied = to.and_then(|mut to| io::copy(&mut from, &mut to));
            copied.map_err(|error| write_error(self.staging, &error))?;
        }
        let mut total = (0, 0, 0);
        for part in &self.manifest.parts {
            let Some(name) = part.database() else {
                continue;
            };
            if self.manifest.files_dir == "local" && db::is_valid_name(name) {
                self.copy_files(name, &mut total)?;
            }
        }
        self.finish_databases()?;
        directory::sync(self.staging)?;
        Ok(total)
    }

    fn copy_files(&mut self, name: &str, total: &mut (u64, u64, u64)) -> Result<()> {
        // Open the copy, which no process writes yet; files of the backup are only read as bytes.
        let path = self.staging.join(format!("{name}.db"));
        let database = db::offline::open(&path, self.settings.prepare)?;
        if !table::exists(&database)? {
            return Ok(());
        }
        let (from, to) = (Path::new(FOLDER), files_dir(self.staging));
        let mut after: Option<FilePath> = None;
        loop {
            let list = table::list(&database, name, after.as_ref(), PAGE)?;
            for (path, stored) in &list {
                let is_path = FilePath::parse(&path.to_string()).is_some();
                let is_whole = is_path
                    && match self.source.read(self.owner, &from.join(path.relative())) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                        Err(error) => {
                            return Err(Error::from(error).context(format!("open {path}")));
                        }
                        Ok(file) => {
                            copy(file, stored, &to.join(".file"), &to.join(path.relative()))
                                .map_err(|error| write_error(self.staging, &error))?
                        }
                    };
                if is_whole {
                    total.0 += 1;
                    total.1 += stored.size;
                } else {
                    total.2 += 1;
                    (self.report)(&format!(
                        "The file {path} is missing from the backup or damaged there."
                    ));
                }
            }
            match list.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => return Ok(()),
            }
        }
    }

    /// Verifies the databases and marks them as another history.
    fn finish_databases(&mut self) -> Result<()> {
        for part in &self.manifest.parts {
            let Some(name) = part.database() else {
                continue;
            };
            let opened = db::open_existing(self.staging, name, self.settings);
            let checked = opened.and_then(|it| it.check().map(|()| it));
            let database = match checked {
                // A server does not need them.
                Err(error) if name == db::STATS && db::is_useless(&error) => {
                    (self.report)(&format!("The statistics are not restored: {error}"));
                    db::remove(self.staging, name)
                        .map_err(|error| write_error(self.staging, &error))?;
                    continue;
                }
                checked => checked.context(format!("check {name}"))?,
            };
            match name {
                db::LOCAL => journal::forget_epoch(&database)?,
                db::WORKFLOWS => offline::skip_epochs(&database)?,
                _ => {}
            }
            database.close()?;
        }
        match db::default_file(self.staging).exists() {
            true => Ok(()),
            false => Err(Error::unavailable("The backup has no default.db.")),
        }
    }
}

/// Moves everything into place in an empty directory.
fn move_into_place(staging: &Path, data_dir: &Path, owner: &Owner) -> Result<()> {
    let last = db::default_file(staging);
    let mut paths = Vec::new();
    for entry in fs::read_dir(staging).context("read what is restored")? {
        let path = entry?.path();
        if path != last && !path.ends_with("lock") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.push(last);
    let last = paths.len() - 1;
    let moved = || -> io::Result<()> {
        for (at, path) in paths.iter().enumerate() {
            if at == last {
                File::open(data_dir)?.sync_all()?;
                failpoints::reach("restore-moving");
            }
            fs::rename(path, data_dir.join(path.file_name().unwrap_or_default()))?;
        }
        File::open(data_dir)?.sync_all()?;
        fs::remove_dir_all(staging)?;
        owner.sync_parent(data_dir)
    };
    moved().map_err(|error| write_error(data_dir, &error))
}

/// Moves the data directory aside and the restored one into its place.
fn replace(data_dir: &Path, owner: &Owner, report: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    // Resolve the path: a trailing slash prevents a sibling name, and a link must stay a link.
    let data_dir = data_dir
        .canonicalize()
        .context("resolve the data directory")?;
    let stamp = clock::now().replace([':', '.'], "");
    let mut aside = data_dir.clone().into_os_string();
    aside.push(format!(".before-{stamp}"));
    let aside = PathBuf::from(aside);
    let between = || failpoints::reach("restore-aside");
    let kept_in = |place: &Path, error| {
        Error::unavailable(format!(
            "The data could not be replaced; it is in {}: {error}.",
            place.display()
        ))
    };
    match owner.swap(&data_dir, &aside, db::RESTORING, between) {
        Ok(()) => {
            keep_archives(&data_dir, &aside, report);
            Ok(aside)
        }
        Err(SwapError::Untouched(error)) => {
            let _ = fs::remove_dir_all(data_dir.join(db::RESTORING));
            Err(Error::unavailable(format!(
                "{} cannot be moved to {}: {error}. Nothing was changed; move its content elsewhere and restore \
                 without --replace.",
                data_dir.display(),
                aside.display()
            )))
        }
        Err(SwapError::RolledBack(error)) => Err(kept_in(&data_dir, error)),
        Err(SwapError::LeftAside(error)) => Err(kept_in(&aside, error)),
    }
}

/// Moves the archives of the previous data to the restored one.
fn keep_archives(data_dir: &Path, aside: &Path, report: &mut dyn FnMut(&str)) {
    match fs::rename(aside.join(BACKUPS), data_dir.join(BACKUPS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => report(&format!(
            "The archives stay in {}: {error}.",
            aside.join(BACKUPS).display()
        )),
        _ => {}
    }
}
