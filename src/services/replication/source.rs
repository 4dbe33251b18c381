//! The versions of one database on the master, and the version in which each page last changed.
//!
//! A version gets its number when a replica asks for it, not at each commit. The first request
//! hashes all pages; after that the WAL tracker of the writer lists the pages to hash. When the
//! tracker cannot know, because another process has committed, all pages are hashed again. Both
//! ways hash the pages that they look at, so a page listed by mistake costs only time. At most once
//! an hour, if something has changed, all pages are hashed to verify the tracker.
//!
//! Nothing of this is stored. A new process begins a new epoch, and replicas of another epoch
//! compare hashes, which requires no trust in what a crash left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::epoch::Epoch;
use crate::base::error::Result;
use crate::base::{clock, log};
use crate::store::db::pages::{FileFingerprint, PageMap, PageReader, Snapshot};
use crate::store::db::{Database, pages};

/// Minimum interval between full scans that verify the WAL tracker.
const SCAN_EVERY: Duration = Duration::from_secs(3600);
/// A scan may use at most one part in this many of the time.
const SCAN_SHARE: u32 = 1000;

/// A database whose versions are numbered.
pub struct Source {
    name: String,
    path: PathBuf,
    reader: Option<PageReader>,
    /// The fingerprint of the file when its reader was closed.
    fingerprint: Option<FileFingerprint>,
    /// Device and inode of the file.
    file: (u64, u64),
    history: Arc<str>,
    /// The last snapshot failed.
    has_failed: bool,
    state: PageVersions,
}

/// The current version and the history of each page.
pub struct PageVersions {
    pub epoch: Epoch,
    /// The current version; 0 before the first scan.
    pub version: u64,
    /// In bytes; 0 until known.
    page_size: u32,
    pub map: PageMap,
    /// For each page, the version in which it last changed.
    changed: Vec<u64>,
    /// `PRAGMA data_version` of the reader at the current version.
    data_version: i64,
    /// The WAL tracker may have missed a page.
    needs_full_scan: bool,
    scanned: Instant,
    scan_took: Duration,
}

/// The current version, open for reading.
pub struct VersionedSnapshot<'a> {
    pub snapshot: Snapshot<'a>,
    pub state: &'a PageVersions,
}

impl Source {
    /// Opens nothing; the first snapshot does.
    pub fn new(name: &str, path: PathBuf) -> Result<Source> {
        let state = PageVersions::new()?;
        Ok(Source {
            name: name.to_owned(),
            reader: None,
            fingerprint: None,
            file: FileFingerprint::of(&path)?.file,
            path,
            history: state.epoch.history(name),
            has_failed: false,
            state,
        })
    }

    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// Reports whether the path still leads to the same file.
    pub fn is_same_file(&self) -> bool {
        FileFingerprint::of(&self.path).is_ok_and(|fingerprint| fingerprint.file == self.file)
    }

    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// The version that the next snapshot will have; unchanged if nothing was committed. Cheap.
    pub fn version(&self) -> Result<u64> {
        let is_present = match (&self.reader, &self.fingerprint) {
            _ if self.state.version == 0 || self.state.needs_full_scan => false,
            (Some(reader), _) => reader.data_version()? == self.state.data_version,
            (None, Some(fingerprint)) => FileFingerprint::of(&self.path)? == *fingerprint,
            (None, None) => false,
        };
        Ok(self.state.version + u64::from(!is_present))
    }

    /// Closes the connection. Later changes are detected by the fingerprint of the file.
    pub fn close(&mut self) {
        if self
            .version()
            .is_ok_and(|version| version == self.state.version)
        {
            self.reader = None;
            let fingerprint = FileFingerprint::of(&self.path).ok();
            self.fingerprint =
                fingerprint.filter(|fingerprint| fingerprint.is_settled(clock::now_ms()));
        } else {
            self.reader = None;
            self.fingerprint = None;
        }
    }

    /// Numbers the current version and opens it for reading. `is_durable` means that commits are
    /// synced to disk.
    pub fn snapshot(
        &mut self,
        database: &Database,
        is_durable: bool,
    ) -> Result<VersionedSnapshot<'_>> {
        if std::mem::replace(&mut self.has_failed, true) {
            // After any failure, start with a new connection and a full scan.
            self.reader = None;
            self.state.needs_full_scan = true;
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let reader = PageReader::open(&self.path)?;
                // Read before the fingerprint: a commit in between changes one of the two.
                self.state.data_version = reader.data_version()?;
                let is_same = self.fingerprint.take() == Some(FileFingerprint::of(&self.path)?);
                self.state.needs_full_scan |= !is_same;
                reader
            }
        };
        let reader = self.reader.insert(reader);
        let state = &mut self.state;
        let snapshot = reader.snapshot()?;
        if state.version > 0
            && !state.needs_full_scan
            && snapshot.data_version == state.data_version
        {
            self.has_failed = false;
            return Ok(VersionedSnapshot { snapshot, state });
        }
        if state.page_size != 0 && state.page_size != snapshot.page_size {
            // Another process has rebuilt the file.
            *state = PageVersions::new()?;
            self.history = state.epoch.history(&self.name);
        }
        drop(snapshot);
        // Later writes belong to the next version.
        let (snapshot, changed) =
            database.begin_snapshot(reader, &self.history, state.version + 2)?;
        if !is_durable {
            // A replica must not be ahead of what the master keeps after a power failure.
            reader.sync_wal()?;
        }
        let changed = changed.filter(|_| !state.needs_full_scan);
        state.needs_full_scan = true;
        state.advance(&self.name, &snapshot, changed)?;
        state.needs_full_scan = false;
        self.has_failed = false;
        Ok(VersionedSnapshot { snapshot, state })
    }
}

impl PageVersions {
    fn new() -> Result<PageVersions> {
        Ok(PageVersions {
            epoch: Epoch::random()?,
            version: 0,
            page_size: 0,
            map: PageMap::default(),
            changed: Vec::new(),
            data_version: 0,
            needs_full_scan: true,
            scanned: Instant::now(),
            scan_took: Duration::ZERO,
        })
    }

    /// Makes the snapshot the current version.
    fn advance(
        &mut self,
        name: &str,
        snapshot: &Snapshot<'_>,
        changed: Option<BTreeSet<u32>>,
    ) -> Result<()> {
        let (version, before) = (self.version + 1, self.map.len());
        self.page_size = snapshot.page_size;
        self.map.resize(snapshot.pages);
        self.changed.resize(snapshot.pages as usize, version);
        let pause = SCAN_EVERY.max(self.scan_took * SCAN_SHARE);
        match changed {
            Some(changed) if self.scanned.elapsed() < pause => {
                // The file may have grown by pages that were never written.
                let new = before + 1..=snapshot.pages;
                let old = changed.into_iter().take_while(|number| *number <= before);
                for number in old.chain(new) {
                    self.hash_page(snapshot, number, version)?;
                }
            }
            known => self.hash_all_pages(name, snapshot, version, known.as_ref())?,
        }
        self.version = version;
        self.data_version = snapshot.data_version;
        Ok(())
    }

    fn hash_page(&mut self, snapshot: &Snapshot<'_>, number: u32, version: u64) -> Result<()> {
        if number > snapshot.pages || number == pages::lock_page(snapshot.page_size) {
            return Ok(());
        }
        let seed = self.epoch.seed();
        let hash = snapshot.page(number, |page| Ok(pages::hash(seed, number, page)))?;
        if self.map.set(number, hash) {
            self.changed[number as usize - 1] = version;
        }
        Ok(())
    }

    fn hash_all_pages(
        &mut self,
        name: &str,
        snapshot: &Snapshot<'_>,
        version: u64,
        known: Option<&BTreeSet<u32>>,
    ) -> Result<()> {
        let begun = Instant::now();
        let seed = self.epoch.seed();
        let mut missed = 0;
        snapshot.each(|number, page| {
            if self.map.set(number, pages::hash(seed, number, page)) {
                self.changed[number as usize - 1] = version;
                missed += u32::from(known.is_some_and(|known| !known.contains(&number)));
            }
            Ok(())
        })?;
        if missed > 0 {
            log::error(format_args!(
                "the WAL tracker of {name} missed {missed} pages; they are replicated now"
            ));
        }
        (self.scanned, self.scan_took) = (Instant::now(), begun.elapsed());
        Ok(())
    }

    /// The pages that changed after a version. Page 1 is last and always included: its header
    /// describes the other pages.
    pub fn since(&self, version: u64) -> Vec<u32> {
        self.select(|_, changed| changed > version)
    }

    /// The pages that satisfy `is_wanted`; page 1 is last and always included.
    pub fn select(&self, is_wanted: impl Fn(u32, u64) -> bool) -> Vec<u32> {
        let lock_page = pages::lock_page(self.page_size);
        let numbers = (1..).zip(&self.changed).skip(1);
        let wanted = numbers
            .filter(|(number, changed)| *number != lock_page && is_wanted(*number, **changed));
        wanted.map(|(number, _)| number).chain([1]).collect()
    }
}
