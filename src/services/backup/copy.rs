//! Copies databases as pages, and files with their hashes. The order makes them one state; see the
//! parent module.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::directory::files_dir;
use super::file::{copy, create, write_error};
use super::manifest::{BackupManifest, ManifestPart, SECRET};
use super::missing;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::Stop;
use crate::base::{crypto, failpoints, ids, threads};
use crate::model::collections;
use crate::store::db::Connection;
use crate::store::db::pages::{PageReader, Snapshot};
use crate::store::files::journal::PAGE;
use crate::store::files::{FilePath, StoredFile, table};
use crate::store::{db, node};

/// Limit on snapshots that are abandoned because a file has disappeared or definitions have
/// changed.
const ATTEMPTS_MAX: u32 = 20;
/// A replica gets files after the databases that name them: the time to wait for these in all, and
/// the polling interval.
const FILES_WAIT: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Interval of progress messages.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// The name of a file until it is complete.
const PARTIAL: &str = ".partial";

/// Identifies a path and a content by half of their SHA-256, because there may be millions.
type FileKey = [u8; 16];

/// Files that could not be copied, with the reason.
type MissingFiles = Vec<(FilePath, FileStatus)>;

/// The result of copying a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileStatus {
    Present,
    /// The file is not in the storage.
    Missing,
    /// Its content differs from what was stored.
    Damaged,
}

/// The files that the copied state of a database names.
#[derive(Default)]
struct ReferencedFiles {
    files: HashSet<FileKey>,
    bytes: u64,
    missing: u64,
}

/// The parameters of a backup.
pub struct BackupJob<'a> {
    pub data_dir: &'a Path,
    pub dir: &'a Path,
    /// The files are in a bucket and not part of the backup.
    pub is_bucket: bool,
    /// Verify files of an earlier backup by reading them.
    pub verifies: bool,
    pub settings: db::ConnectionSettings,
    /// Ends the backup before the next file or database.
    pub stop: &'a Stop,
    /// Receives progress messages and warnings.
    pub report: &'a mut dyn FnMut(&str),
}

/// See the module documentation.
pub struct Copier<'a> {
    job: BackupJob<'a>,
    state: PathBuf,
    earlier: Option<PathBuf>,
    /// Files that are known to be complete in the backup.
    present: HashSet<FileKey>,
    referenced: BTreeMap<String, ReferencedFiles>,
    /// For each copied database, a hash of its definitions from before the copy.
    definitions: BTreeMap<String, Option<u64>>,
    pub copied: u64,
    pub copied_bytes: u64,
    reported: Instant,
    /// Remaining time to wait for files.
    wait_left: Duration,
    /// Remaining attempts to wait for tables that do not match their definitions yet.
    table_waits_left: u32,
}

impl<'a> Copier<'a> {
    pub fn new(job: BackupJob<'a>, state: PathBuf, earlier: Option<PathBuf>) -> Copier<'a> {
        Copier {
            job,
            state,
            earlier,
            present: HashSet::new(),
            referenced: BTreeMap::new(),
            definitions: BTreeMap::new(),
            copied: 0,
            copied_bytes: 0,
            reported: Instant::now(),
            wait_left: Duration::ZERO,
            table_waits_left: 0,
        }
    }

    fn is_replica(&self) -> bool {
        let local = self.state.join(format!("{}.db", db::LOCAL));
        db::offline::open(&local, self.job.settings.prepare)
            .is_ok_and(|local| node::is_replica_in(&local))
    }

    /// Copies everything and adds it to the manifest.
    pub fn run(&mut self, manifest: &mut BackupManifest) -> Result<()> {
        self.copy_database(db::LOCAL)?;
        if self.is_replica() {
            self.wait_left = FILES_WAIT;
            self.table_waits_left = ATTEMPTS_MAX / 2;
        }
        self.copy_default_and_tenants()?;
        self.copy_database(db::WORKFLOWS)?;
        self.copy_stats()?;
        self.copy_secret()?;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.state).context("read what was copied")? {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        for name in names {
            manifest.parts.push(ManifestPart::of(&self.state, &name)?);
        }
        for referenced in self.referenced.values() {
            manifest.files += referenced.files.len() as u64;
            manifest.bytes = manifest.bytes.saturating_add(referenced.bytes);
            manifest.missing += referenced.missing;
        }
        Ok(())
    }

    /// Copies the statistics if they are readable; neither a server nor a backup needs them.
    fn copy_stats(&mut self) -> Result<()> {
        match self.copy_database(db::STATS) {
            Err(error) if db::is_useless(&error) => {
                (self.job.report)(&format!("The statistics are not in the backup: {error}"));
                let _ = fs::remove_file(self.state.join(format!("{}.db", db::STATS)));
                Ok(())
            }
            copied => copied.map(drop),
        }
    }

    /// A definition and its table belong to one state if no definition of the database changes from
    /// before its copy until `default.db` is read.
    fn copy_default_and_tenants(&mut self) -> Result<()> {
        let mut names = db::names(self.job.data_dir)?;
        names.retain(|name| name != db::DEFAULT);
        for _ in 0..ATTEMPTS_MAX {
            let definitions = self.present_definitions()?;
            for name in &names {
                let hash = definitions.get(name).copied();
                self.definitions.insert(name.clone(), hash);
                self.copy_database(name)?;
            }
            names = self.copy_database(db::DEFAULT)?;
            if names.is_empty() {
                return Ok(());
            }
        }
        Err(Error::unavailable(
            "Collections kept changing during the backup; try again.",
        ))
    }

    /// The databases whose copies do not match the definitions in this snapshot of `default.db`.
    fn stale(&mut self, default: &Snapshot<'_>) -> Result<Vec<String>> {
        let definitions = default.definitions_by_database()?;
        let mut names = db::names(self.job.data_dir)?;
        names.retain(|name| {
            let copied = self.definitions.get(name).copied().flatten();
            name != db::DEFAULT && definitions.get(name).copied() != copied
        });
        if names.is_empty() && self.table_waits_left > 0 {
            names = self.lagging(default.connection())?;
            if !names.is_empty() {
                self.table_waits_left -= 1;
                threads::pause(POLL_EVERY);
            }
        }
        Ok(names)
    }

    /// The databases whose copies lack defined tables.
    fn lagging(&self, default: &Connection) -> Result<Vec<String>> {
        let mut lagging = Vec::new();
        for name in db::names(self.job.data_dir)? {
            let copy = self.state.join(format!("{name}.db"));
            if name == db::DEFAULT || !copy.exists() {
                continue;
            }
            let copy = db::offline::open(&copy, self.job.settings.prepare)?;
            for collection in collections::stable_definitions(default, &name)? {
                if !collections::is_applied(&copy, &collection)? {
                    lagging.push(name);
                    break;
                }
            }
        }
        Ok(lagging)
    }

    /// Refuses to continue without a database, because the new backup would replace an earlier copy
    /// of it.
    fn refuse_missing(&self, default: &Connection) -> Result<()> {
        let names = missing::databases(self.job.data_dir, default)?;
        let Some(name) = names.first() else {
            return Ok(());
        };
        Err(Error::unavailable(format!(
            "{name}.db is missing from {} or empty, so no backup was made. Restore it, or create and delete a \
             database of that name; on a replica, wait until it has arrived.",
            self.job.data_dir.display()
        )))
    }

    fn present_definitions(&self) -> Result<BTreeMap<String, u64>> {
        let path = db::default_file(self.job.data_dir);
        if !missing::has_content(self.job.data_dir, db::DEFAULT) {
            return Ok(BTreeMap::new());
        }
        let reader = PageReader::open_foreign(&path)?;
        reader.snapshot()?.definitions_by_database()
    }

    /// Copies a database if it exists. Returns the databases that must be copied again before it.
    fn copy_database(&mut self, name: &str) -> Result<Vec<String>> {
        let path = self.job.data_dir.join(format!("{name}.db"));
        let target = self.state.join(format!("{name}.db"));
        self.referenced.remove(name);
        let copied = self.copy_state(name, &path, &target);
        if missing::is_there(self.job.data_dir, name) {
            return copied.context(format!("back up {name}"));
        }
        // It was deleted meanwhile, or has not arrived on this replica.
        self.referenced.remove(name);
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(write_error(self.job.dir, &error))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn copy_state(&mut self, name: &str, path: &Path, target: &Path) -> Result<Vec<String>> {
        if !missing::is_there(self.job.data_dir, name) {
            return Ok(Vec::new());
        }
        let reader = PageReader::open_foreign(path)?;
        if !missing::has_content(self.job.data_dir, name) {
            return Err(Error::unavailable(format!("{} is empty.", path.display())));
        }
        let has_files = !self.job.is_bucket && db::is_valid_name(name) && {
            let snapshot = reader.snapshot()?;
            table::exists(snapshot.connection())?
        };
        if has_files {
            self.copy_current_files(name, &reader)?;
        }
        for attempt in 1..=ATTEMPTS_MAX {
            self.refuse_stopped()?;
            let snapshot = reader.snapshot()?;
            if has_files {
                let (referenced, missing, is_stale) =
                    self.copy_state_files(name, path, &snapshot)?;
                if attempt < ATTEMPTS_MAX && is_stale {
                    continue;
                }
                for (path, status) in &missing {
                    (self.job.report)(&format!("The file {path} {}.", describe(*status)));
                }
                self.referenced.insert(name.to_owned(), referenced);
            }
            if name == db::DEFAULT {
                let stale = self.stale(&snapshot)?;
                if !stale.is_empty() {
                    return Ok(stale);
                }
                self.refuse_missing(snapshot.connection())?;
            }
            failpoints::reach("backup-database");
            let file = create(target).map_err(|error| write_error(self.job.dir, &error))?;
            let mib = (u64::from(snapshot.pages) * u64::from(snapshot.page_size)) >> 20;
            self.report(|| format!("copying {name}, {mib} MiB"));
            snapshot
                .copy_to(&file)
                .map_err(|error| self.to_write_error(error))?;
            break;
        }
        Ok(Vec::new())
    }

    /// Copies the current files in advance, so that few are left to copy while a snapshot is open.
    fn copy_current_files(&mut self, name: &str, reader: &PageReader) -> Result<()> {
        let earlier = self.earlier_copy(name)?;
        let mut after: Option<FilePath> = None;
        loop {
            let list = {
                let snapshot = reader.snapshot()?;
                table::list(snapshot.connection(), name, after.as_ref(), PAGE)?
            };
            for (path, stored) in &list {
                self.copy_if_needed(path, stored, earlier.as_ref())?;
            }
            match list.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => return Ok(()),
            }
        }
    }

    /// Like `copy_files`, but waits for files that may still arrive. Returns true as the third
    /// value if some files were deleted.
    fn copy_state_files(
        &mut self,
        name: &str,
        path: &Path,
        snapshot: &Snapshot<'_>,
    ) -> Result<(ReferencedFiles, MissingFiles, bool)> {
        let (mut referenced, mut missing) = self.copy_files(name, snapshot.connection())?;
        loop {
            let is_stale = is_any_deleted(path, &missing)?;
            if missing.is_empty() || is_stale || self.wait_left.is_zero() {
                return Ok((referenced, missing, is_stale));
            }
            let begun = Instant::now();
            threads::pause(POLL_EVERY);
            (referenced, missing) = self.copy_files(name, snapshot.connection())?;
            self.wait_left = self.wait_left.saturating_sub(begun.elapsed());
        }
    }

    /// Copies the files that a snapshot names and the backup lacks. Returns the named files and the
    /// failed ones.
    fn copy_files(
        &mut self,
        name: &str,
        connection: &Connection,
    ) -> Result<(ReferencedFiles, MissingFiles)> {
        let (mut referenced, mut missing) = (ReferencedFiles::default(), MissingFiles::new());
        let mut after: Option<FilePath> = None;
        loop {
            let list = table::list(connection, name, after.as_ref(), PAGE)?;
            for (path, stored) in &list {
                match self.copy_if_needed(path, stored, None)? {
                    FileStatus::Present => {
                        referenced.files.insert(file_key(path, stored));
                        referenced.bytes = referenced.bytes.saturating_add(stored.size);
                    }
                    status => {
                        referenced.missing += 1;
                        missing.push((path.clone(), status));
                    }
                }
            }
            match list.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => return Ok((referenced, missing)),
            }
        }
    }

    /// Copies a file unless the backup has it.
    fn copy_if_needed(
        &mut self,
        path: &FilePath,
        stored: &StoredFile,
        earlier: Option<&Connection>,
    ) -> Result<FileStatus> {
        let file_key = file_key(path, stored);
        if self.present.contains(&file_key) {
            return Ok(FileStatus::Present);
        }
        self.refuse_stopped()?;
        if FilePath::parse(&path.to_string()).is_none() {
            return Ok(FileStatus::Damaged);
        }
        let target = files_dir(self.job.dir).join(path.relative());
        let status = match self.is_present(path, stored, &target, earlier)? {
            true => FileStatus::Present,
            false => self.copy_file(path, stored, &target)?,
        };
        if status == FileStatus::Present {
            self.present.insert(file_key);
        }
        let (files, mib) = (self.present.len(), self.copied_bytes >> 20);
        self.report(|| format!("{files} files looked at, {mib} MiB copied"));
        Ok(status)
    }

    /// Reports whether an earlier backup has stored the file: trusts a complete backup, but reads
    /// what an incomplete one may have left.
    fn is_present(
        &self,
        path: &FilePath,
        stored: &StoredFile,
        target: &Path,
        earlier: Option<&Connection>,
    ) -> Result<bool> {
        let size = fs::metadata(target).ok().map(|data| data.len());
        if size != Some(stored.size) {
            return Ok(false);
        }
        if let Some(earlier) = earlier {
            let row = table::find(earlier, &path.collection, &path.record, &path.name)?;
            if row.is_some_and(|it| it.size == stored.size && it.sha256 == stored.sha256) {
                return Ok(true);
            }
        }
        let content = File::open(target).context(format!("open {}", target.display()))?;
        Ok(ids::hex(&crypto::sha256_of(content)?.1) == stored.sha256)
    }

    fn copy_file(
        &mut self,
        path: &FilePath,
        stored: &StoredFile,
        target: &Path,
    ) -> Result<FileStatus> {
        let source = files_dir(self.job.data_dir).join(path.relative());
        let source = match File::open(&source) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(FileStatus::Missing);
            }
            Err(error) => {
                return Err(Error::unavailable(format!(
                    "{} cannot be read: {error}.",
                    source.display()
                )));
            }
        };
        let partial = files_dir(self.job.dir).join(PARTIAL);
        match copy(source, stored, &partial, target) {
            Ok(true) => {}
            Ok(false) => return Ok(FileStatus::Damaged),
            Err(error) => return Err(write_error(self.job.dir, &error)),
        }
        self.copied += 1;
        self.copied_bytes += stored.size;
        failpoints::reach("backup-file");
        Ok(FileStatus::Present)
    }

    fn copy_secret(&self) -> Result<()> {
        let secret = match fs::read(self.job.data_dir.join(SECRET)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            secret => secret.context("read the secret")?,
        };
        let written = create(&self.state.join(SECRET)).and_then(|mut it| it.write_all(&secret));
        written.map_err(|error| write_error(self.job.dir, &error))
    }

    /// Opens a database of the earlier backup.
    fn earlier_copy(&self, name: &str) -> Result<Option<Connection>> {
        let Some(state) = &self.earlier else {
            return Ok(None);
        };
        let path = state.join(format!("{name}.db"));
        if !path.is_file() {
            return Ok(None);
        }
        // If it is damaged, the files are read instead.
        let opened = db::offline::open(&path, self.job.settings.prepare);
        Ok(opened.ok().filter(|it| table::exists(it).unwrap_or(false)))
    }

    /// Removes the files that the current state does not name.
    pub fn remove_unreferenced(&mut self) -> Result<()> {
        if self.job.is_bucket {
            return Ok(());
        }
        let root = files_dir(self.job.dir);
        let _ = fs::remove_file(root.join(PARTIAL));
        let mut paths = HashSet::new();
        for (name, reader) in self
            .referenced
            .keys()
            .map(|name| (name, self.state.join(format!("{name}.db"))))
        {
            let copy = db::offline::open(&reader, self.job.settings.prepare)?;
            let mut after: Option<FilePath> = None;
            loop {
                let list = table::list(&copy, name, after.as_ref(), PAGE)?;
                paths.extend(list.iter().map(|(path, _)| path_key(&path.to_string())));
                match list.into_iter().next_back() {
                    Some((path, _)) => after = Some(path),
                    None => break,
                }
            }
        }
        remove_unreferenced_in(&root, "", 0, &paths)
            .context(format!("remove old files from {}", root.display()))
    }

    fn refuse_stopped(&self) -> Result<()> {
        match self.job.stop.is_set() {
            true => Err(Error::unavailable("The server is stopping.")),
            false => Ok(()),
        }
    }

    fn report(&mut self, text: impl FnOnce() -> String) {
        if self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            (self.job.report)(&text());
        }
    }

    /// Recognizes a full disk in any error.
    fn to_write_error(&self, error: Error) -> Error {
        let full = ["No space left", "quota", "File too large"];
        match full.iter().any(|it| error.to_string().contains(it)) {
            true => write_error(self.job.dir, &io::ErrorKind::StorageFull.into()),
            false => error,
        }
    }
}

/// Reports whether one of these files has lost its row; otherwise they are missing for good.
fn is_any_deleted(database: &Path, missing: &[(FilePath, FileStatus)]) -> Result<bool> {
    if missing.is_empty() {
        return Ok(false);
    }
    let reader = PageReader::open_foreign(database)?;
    let snapshot = reader.snapshot()?;
    for (path, _) in missing {
        let (collection, record) = (&path.collection, &path.record);
        if table::find(snapshot.connection(), collection, record, &path.name)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn describe(status: FileStatus) -> &'static str {
    match status {
        FileStatus::Present => "is here",
        FileStatus::Missing => "is missing from the storage and not in the backup",
        FileStatus::Damaged => "is damaged in the storage and not in the backup",
    }
}

fn file_key(path: &FilePath, stored: &StoredFile) -> FileKey {
    path_key(&format!("{path} {}", stored.sha256))
}

fn path_key(text: &str) -> FileKey {
    let mut file_key = FileKey::default();
    file_key.copy_from_slice(&crypto::sha256(text.as_bytes())[..16]);
    file_key
}

/// Removes the files below a folder that are not in `kept`, and the folders that become empty.
fn remove_unreferenced_in(
    folder: &Path,
    prefix: &str,
    depth: u32,
    kept: &HashSet<FileKey>,
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        match (entry.file_type()?.is_dir(), depth) {
            (true, 0..3) => {
                remove_unreferenced_in(&entry.path(), &format!("{path}/"), depth + 1, kept)?;
                // Usually fails because the folder is not empty.
                let _ = fs::remove_dir(entry.path());
            }
            (false, 3) if !kept.contains(&path_key(&path)) => fs::remove_file(entry.path())?,
            _ => {}
        }
    }
    Ok(())
}
