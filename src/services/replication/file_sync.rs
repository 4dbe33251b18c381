//! Syncs the files of a replica: applies the file journal after its cursor, or compares with the
//! list of all files.
//!
//! The cursor is the entry of the master's journal up to which every file is synced to disk under
//! its name. It advances one page of the journal at a time, after the whole page is done, and the
//! replica then acknowledges it. Processing a page twice is harmless. If the journal no longer
//! reaches back to the cursor, or has another epoch, the manifest lists all files: the replica
//! deletes files that the manifest lacks and moves the cursor to the end that the journal had
//! before the manifest was read.
//!
//! Work is done in time slices between the cycles of databases, while downloads continue.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::MasterClient;
use super::downloads;
use super::downloads::{DownloadOutcome, Downloads};
use super::messages::{JournalEnd, JournalEntry};
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{crypto, failpoints, log};
use crate::store::db::Databases;
use crate::store::files::{FilePath, RemoteFile, Storage};
use crate::store::node;

/// Limit on files that are moved to their places in one batch.
const BATCH_FILES: usize = 256;
/// Pause after a failure; doubles up to the maximum until something succeeds.
const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(10));
/// Limit on failing files in the status.
const NAMED_MAX: usize = 10;
/// Settings in `local.db`.
const CURSOR: &str = "files_cursor";
const DEFERRED: &str = "files_aside";
/// Attempts before a file is deferred, the limit on deferred files, and the pause before they are
/// retried, which doubles up to the maximum.
const ATTEMPTS: u32 = 3;
const DEFERRED_MAX: usize = 1000;
const DEFERRED_BACKOFF: Backoff =
    Backoff::doubling(Duration::from_secs(10), Duration::from_secs(600));

/// The progress of files, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesStatus {
    /// `current`, `journal`, `manifest`, `failing` if only files that cannot be fetched are left,
    /// or `off` if the files are in a bucket.
    pub state: &'static str,
    /// Entry of the journal up to which everything is stored; null at first.
    pub cursor: Option<i64>,
    pub last: i64,
    /// Files of the current page that are still missing, and their bytes.
    pub pending: usize,
    pub pending_bytes: u64,
    /// Files and bytes fetched since the start.
    pub fetched: u64,
    pub fetched_bytes: u64,
    /// Over the last second.
    pub bytes_per_second: u64,
    /// For the current page.
    pub seconds_left: Option<u64>,
    pub failures: u64,
    /// Some of the files that cannot be fetched, with the reason.
    pub failing: Vec<String>,
}

/// A position in the file journal of the master.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    epoch: String,
    id: i64,
}

/// The file sync of a replica.
pub struct FileSync {
    client: Arc<MasterClient>,
    storage: Arc<Storage>,
    databases: Arc<Databases>,
    downloads: Arc<Downloads>,
    status: Arc<Mutex<FilesStatus>>,
    cursor: Option<Cursor>,
    end: Option<JournalEnd>,
    work: Option<PageWork>,
    rate: (Instant, u64),
    retry: Option<Instant>,
    failures: u32,
    /// Files that cannot be fetched and that the cursor has passed. The replica acknowledges
    /// nothing while there are any.
    deferred: Vec<RemoteFile>,
    deferred_due: Instant,
    deferred_failures: u32,
}

/// A page in progress.
struct PageWork {
    /// The new cursor when the page is done; `None` for a page of the manifest and for deferred
    /// files.
    cursor: Option<Cursor>,
    pending: BTreeMap<FilePath, u64>,
    /// Fetched files that wait to be moved to their places.
    fetched: Vec<RemoteFile>,
    failed: Vec<RemoteFile>,
    /// Number of attempts in which all remaining files failed.
    attempts: u32,
    /// The page consists of deferred files.
    is_deferred: bool,
    manifest: Option<ManifestProgress>,
}

/// Progress through a manifest.
struct ManifestProgress {
    start: Cursor,
    next: Option<String>,
    /// Hashes of the paths that it lists.
    seen: HashSet<[u8; 16]>,
    /// The databases of the master after its last page was read.
    databases: BTreeSet<String>,
}

impl FileSync {
    pub fn open(
        client: &Arc<MasterClient>,
        storage: &Arc<Storage>,
        databases: &Arc<Databases>,
        downloads: &Arc<Downloads>,
        status: &Arc<Mutex<FilesStatus>>,
    ) -> Result<FileSync> {
        let local = databases.local();
        let deferred = node::setting(local, DEFERRED)?.unwrap_or_default();
        let cursor = node::setting(local, CURSOR)?.and_then(|text| {
            let (epoch, id) = text.split_once(' ')?;
            Some(Cursor {
                epoch: epoch.to_owned(),
                id: id.parse().ok()?,
            })
        });
        lock(status).cursor = cursor.as_ref().map(|cursor| cursor.id);
        Ok(FileSync {
            client: Arc::clone(client),
            storage: Arc::clone(storage),
            databases: Arc::clone(databases),
            deferred: deferred.lines().filter_map(read_remote).collect(),
            deferred_due: Instant::now(),
            deferred_failures: 0,
            downloads: Arc::clone(downloads),
            status: Arc::clone(status),
            cursor,
            end: None,
            work: None,
            rate: (Instant::now(), 0),
            retry: None,
            failures: 0,
        })
    }

    /// Records the end of the master's journal; `None` if it has no journal.
    pub fn set_journal_end(&mut self, end: Option<&JournalEnd>) {
        self.end = end.cloned();
        if end.is_none() {
            lock(&self.status).state = "off";
        } else if self.due().is_none() {
            lock(&self.status).state = "current";
        }
    }

    /// Records that the journal has an entry with this id.
    pub fn extend_journal(&mut self, id: i64) {
        if let Some(end) = &mut self.end {
            end.last = end.last.max(id);
        }
    }

    /// The time of the next step; `None` if nothing is left to do.
    pub fn due(&self) -> Option<Instant> {
        let end = self.end.as_ref()?;
        let is_behind = self.work.is_some()
            || self
                .cursor
                .as_ref()
                .is_none_or(|cursor| cursor.epoch != end.epoch || cursor.id < end.last);
        let deferred_due = (!self.deferred.is_empty()).then_some(self.deferred_due);
        match is_behind {
            true => Some(self.retry.unwrap_or_else(Instant::now)),
            false => deferred_due,
        }
    }

    /// Works until the deadline or until nothing is left to do.
    pub fn step(&mut self, deadline: Instant) {
        while self.due().is_some_and(|due| due <= Instant::now()) && Instant::now() < deadline {
            if let Err(error) = self.advance(deadline) {
                self.fail(&error);
            }
        }
        self.update_status();
    }

    fn advance(&mut self, deadline: Instant) -> Result<()> {
        self.retry = None;
        let Some(mut work) = self.work.take() else {
            self.work = self.begin()?;
            return Ok(());
        };
        if work.pending.is_empty() && !work.failed.is_empty() {
            // Retry after a pause, behind all other files.
            let again: Vec<RemoteFile> = std::mem::take(&mut work.failed);
            work.pending
                .extend(again.iter().map(|it| (it.path.clone(), it.size)));
            self.downloads.queue(again, work.manifest.is_some());
        }
        let result = self.collect(&mut work, deadline);
        let is_done = work.pending.is_empty() && work.failed.is_empty();
        if result.is_err() || !is_done {
            let is_stuck = work.pending.is_empty() && !work.failed.is_empty();
            work.attempts += u32::from(is_stuck);
            let is_hopeless = work.is_deferred || work.attempts >= ATTEMPTS;
            if result.is_err() || !is_stuck || !is_hopeless || !self.defer(&mut work)? {
                self.work = Some(work);
                result?;
                return match is_stuck {
                    true => Err(Error::unavailable("Some files cannot be fetched.")),
                    false => Ok(()),
                };
            }
        }
        failpoints::reach("files-placed");
        self.finish(work)
    }

    /// Collects finished downloads and moves the files to their places.
    fn collect(&mut self, work: &mut PageWork, deadline: Instant) -> Result<()> {
        // After the first result, waits for the others no longer than a disk takes to sync.
        while !work.pending.is_empty() && work.fetched.len() < BATCH_FILES {
            let results = self.downloads.results(deadline);
            if results.is_empty() {
                break;
            }
            for (remote, result) in results {
                if work.pending.remove(&remote.path).is_none() {
                    continue;
                }
                match result {
                    Ok(DownloadOutcome::Fetched) => work.fetched.push(remote),
                    Ok(DownloadOutcome::AlreadyPresent | DownloadOutcome::Deleted) => {}
                    Err(error) => {
                        self.record_failing(&remote, &error);
                        work.failed.push(remote);
                    }
                }
            }
            self.report_pending(work);
        }
        if !work.fetched.is_empty() {
            self.storage.accept(&work.fetched)?;
            lock(&self.status).fetched += work.fetched.len() as u64;
            self.failures = 0;
            work.fetched.clear();
        }
        Ok(())
    }

    /// Starts the next page of the journal, the manifest, or the deferred files.
    fn begin(&mut self) -> Result<Option<PageWork>> {
        let Some(end) = self.end.clone() else {
            return Ok(None);
        };
        let is_at_end = |it: &Cursor| it.epoch == end.epoch && it.id >= end.last;
        if self.cursor.as_ref().is_some_and(is_at_end) {
            let again = std::mem::take(&mut self.deferred);
            let mut work = self.queue_page(again, None, None);
            work.is_deferred = true;
            return Ok(Some(work));
        }
        let page = match self
            .cursor
            .as_ref()
            .filter(|cursor| cursor.epoch == end.epoch)
        {
            Some(cursor) => self.client.journal(&cursor.epoch, cursor.id)?,
            None => None,
        };
        let Some(page) = page else {
            log::info(format_args!(
                "files: the journal no longer reaches back; reading the manifest"
            ));
            lock(&self.status).state = "manifest";
            let start = Cursor {
                epoch: String::new(),
                id: 0,
            };
            let manifest = ManifestProgress {
                start,
                next: Some(String::new()),
                seen: HashSet::new(),
                databases: BTreeSet::new(),
            };
            return self.read_manifest(manifest).map(Some);
        };
        lock(&self.status).state = "journal";
        let cursor = Cursor {
            epoch: end.epoch,
            id: page.next,
        };
        self.end = Some(JournalEnd {
            epoch: cursor.epoch.clone(),
            last: page.last,
        });
        let mut wanted = Vec::new();
        for (path, entry) in last_entry_per_path(page.entries)? {
            match entry.op.as_str() {
                "add" => wanted.push(RemoteFile {
                    path,
                    size: entry.size,
                    sha256: entry.sha256,
                }),
                "delete" => {
                    self.downloads.cancel(&path);
                    self.storage.remove(&path)?;
                    self.deferred.retain(|it| it.path != path);
                }
                other => {
                    return Err(Error::unavailable(format!(
                        "The master's file journal has an entry of unknown kind {other:?}."
                    )));
                }
            }
        }
        Ok(Some(self.queue_page(wanted, Some(cursor), None)))
    }

    fn read_manifest(&mut self, mut manifest: ManifestProgress) -> Result<PageWork> {
        let after = manifest.next.take().unwrap_or_default();
        let page = self.client.manifest(&after)?;
        if after.is_empty() {
            manifest.start = Cursor {
                epoch: page.epoch.clone(),
                id: page.last,
            };
        }
        if page.epoch != manifest.start.epoch {
            return Err(Error::unavailable(
                "The master has begun another file journal.",
            ));
        }
        let mut wanted = Vec::new();
        for entry in page.entries {
            let path = parse(&entry.path)?;
            manifest.seen.insert(short_hash(&entry.path));
            wanted.push(RemoteFile {
                path,
                size: entry.size,
                sha256: entry.sha256,
            });
        }
        manifest.next = page.next;
        manifest.databases = page.databases;
        Ok(self.queue_page(wanted, None, Some(manifest)))
    }

    fn queue_page(
        &mut self,
        wanted: Vec<RemoteFile>,
        cursor: Option<Cursor>,
        manifest: Option<ManifestProgress>,
    ) -> PageWork {
        let pending = wanted.iter().map(|it| (it.path.clone(), it.size)).collect();
        // A file in place is complete; the scrub verifies its content.
        self.downloads.queue(wanted, manifest.is_some());
        let work = PageWork {
            cursor,
            pending,
            fetched: Vec::new(),
            failed: Vec::new(),
            attempts: 0,
            is_deferred: false,
            manifest,
        };
        self.report_pending(&work);
        work
    }

    /// Completes a page: stores the cursor and acknowledges it.
    fn finish(&mut self, work: PageWork) -> Result<()> {
        self.failures = 0;
        if self.deferred.is_empty() {
            self.deferred_failures = 0;
            lock(&self.status).failing.clear();
        }
        let cursor = match (work.cursor, work.manifest) {
            (Some(cursor), _) => cursor,
            (None, Some(manifest)) if manifest.next.is_some() => {
                self.work = Some(self.read_manifest(manifest)?);
                return Ok(());
            }
            (None, Some(manifest)) => {
                self.remove_unlisted(&manifest)?;
                self.end = Some(JournalEnd {
                    epoch: manifest.start.epoch.clone(),
                    last: manifest.start.id,
                });
                manifest.start
            }
            (None, None) => match self.cursor.clone() {
                Some(cursor) => cursor,
                None => return Ok(()),
            },
        };
        let text = format!("{} {}", cursor.epoch, cursor.id);
        let local = self.databases.local();
        let deferred: Vec<String> = self.deferred.iter().map(write_remote).collect();
        node::save_setting(local, DEFERRED, deferred.join("\n"))?;
        node::save_setting(local, CURSOR, text)?;
        failpoints::reach("files-noted");
        if self.deferred.is_empty() {
            self.client.acknowledge_files(&cursor.epoch, cursor.id)?;
        }
        let is_current = self.end.as_ref().is_some_and(|end| end.last <= cursor.id);
        let mut status = lock(&self.status);
        status.cursor = Some(cursor.id);
        if is_current {
            status.state = match self.deferred.is_empty() {
                true => "current",
                false => "failing",
            };
        }
        drop(status);
        self.cursor = Some(cursor);
        match is_current {
            true => self.downloads.remove_partials(),
            false => Ok(()),
        }
    }

    /// Defers the failed files of a page so that they do not block the next page. Returns false if
    /// there would be too many.
    fn defer(&mut self, work: &mut PageWork) -> Result<bool> {
        if self.deferred.len() + work.failed.len() > DEFERRED_MAX {
            return Ok(false);
        }
        self.deferred.append(&mut work.failed);
        self.deferred_failures += 1;
        self.deferred_due = Instant::now() + DEFERRED_BACKOFF.pause(self.deferred_failures);
        Ok(true)
    }

    /// Deletes files that the manifest does not list. Files of a database that the master has
    /// deleted are moved away with it later. The manifest itself states which databases exist,
    /// because an older list may name a database whose files the manifest lacks.
    fn remove_unlisted(&self, manifest: &ManifestProgress) -> Result<()> {
        let mut others = Vec::new();
        let moves_with_database =
            |name: &str| !manifest.databases.contains(name) && self.databases.file(name).exists();
        self.storage.walk(&mut |path, _| {
            let is_other = !manifest.seen.contains(&short_hash(&path.to_string()));
            if is_other && !moves_with_database(&path.database) {
                others.push(path);
            }
            Ok(())
        })?;
        for path in &others {
            self.downloads.cancel(path);
            self.storage.remove(path)?;
        }
        if !others.is_empty() {
            log::info(format_args!(
                "files: deleted {} that the master does not have",
                others.len()
            ));
        }
        Ok(())
    }

    fn fail(&mut self, error: &Error) {
        let mut status = lock(&self.status);
        status.failures += 1;
        let text = error.message().to_owned();
        if status.failing.is_empty() {
            log::warn(format_args!("files: {error}"));
            status.failing.push(text);
        }
        drop(status);
        self.failures += 1;
        self.retry = Some(Instant::now() + BACKOFF.pause(self.failures));
    }

    fn record_failing(&self, remote: &RemoteFile, error: &Error) {
        let text = downloads::describe_error(remote, error);
        let mut status = lock(&self.status);
        if status.failing.len() < NAMED_MAX && !status.failing.contains(&text) {
            log::warn(format_args!("file {}: {error}", remote.path));
            status.failing.push(text);
        }
    }

    fn report_pending(&mut self, work: &PageWork) {
        let mut status = lock(&self.status);
        status.pending = work.pending.len() + work.failed.len();
        let failed = work.failed.iter().map(|it| it.size);
        let sizes = work.pending.values().copied().chain(failed);
        status.pending_bytes = sizes.fold(0, u64::saturating_add);
        drop(status);
        self.update_status();
    }

    fn update_status(&mut self) {
        let bytes = self.downloads.bytes();
        let mut status = lock(&self.status);
        status.last = self.end.as_ref().map_or(0, |end| end.last);
        status.fetched_bytes = bytes;
        if self.work.is_none() && status.state == "current" {
            (status.pending, status.pending_bytes) = (0, 0);
        }
        let seconds = self.rate.0.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            let rate = (bytes - self.rate.1) as f64 / seconds;
            status.bytes_per_second = rate as u64;
            let left = status.pending_bytes as f64 / rate.max(1.0);
            status.seconds_left = (status.pending > 0 && rate > 0.0).then_some(left.ceil() as u64);
            self.rate = (Instant::now(), bytes);
        }
    }
}

/// Keeps the last entry of each path.
fn last_entry_per_path(entries: Vec<JournalEntry>) -> Result<BTreeMap<FilePath, JournalEntry>> {
    let entries = entries.into_iter();
    entries
        .map(|entry| Ok((parse(&entry.path)?, entry)))
        .collect()
}

fn parse(path: &str) -> Result<FilePath> {
    FilePath::parse(path).ok_or_else(|| {
        Error::unavailable(format!("The master sent an invalid file path: {path:?}."))
    })
}

/// The form in `local.db`; no part contains a space.
fn write_remote(remote: &RemoteFile) -> String {
    format!("{} {} {}", remote.path, remote.size, remote.sha256)
}

fn read_remote(line: &str) -> Option<RemoteFile> {
    let mut parts = line.split(' ');
    Some(RemoteFile {
        path: FilePath::parse(parts.next()?)?,
        size: parts.next()?.parse().ok()?,
        sha256: parts.next()?.to_owned(),
    })
}

fn short_hash(path: &str) -> [u8; 16] {
    let hash = crypto::sha256(path.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}
