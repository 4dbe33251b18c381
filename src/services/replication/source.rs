//! One database as its replicas see it: a row of numbered states, and which page changed with which.
//!
//! A state gets its number when somebody asks for it (a cut), not with each commit. The map of hashes
//! is made by looking at all pages once; after that the feed of the writer says where to look. Where it
//! cannot, because another process has committed, all pages are looked at again. Both ways compare
//! hashes, so neither can do more harm than the time it takes; and every hour, when something has
//! changed, all are looked at to check the feed.
//!
//! Nothing of this is kept on disk. A new process begins a new epoch, and replicas of another epoch
//! compare hashes, which needs no trust in what a crash may have left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::epoch::Epoch;
use crate::base::error::Result;
use crate::base::{clock, log};
use crate::store::db::pages::{FileFingerprint, PageMap, PageReader, Snapshot};
use crate::store::db::{Database, pages};

/// How often the feed is checked, at most.
const SCAN_EVERY: Duration = Duration::from_secs(3600);
/// Share of the time that looking at all pages may take for that.
const SCAN_SHARE: u32 = 1000;

/// What is known of one database.
pub struct Source {
    name: String,
    path: PathBuf,
    reader: Option<PageReader>,
    /// The file when its reader was closed.
    fingerprint: Option<FileFingerprint>,
    /// Device and number of the file.
    file: (u64, u64),
    history: Arc<str>,
    /// The last cut came to nothing.
    has_failed: bool,
    state: PageVersions,
}

/// The states.
pub struct PageVersions {
    pub epoch: Epoch,
    /// The present one; 0: no page was looked at yet.
    pub version: u64,
    /// Bytes; 0: not known yet.
    page_size: u32,
    pub map: PageMap,
    /// With which state each page changed last.
    changed: Vec<u64>,
    /// The reader's view of the present state.
    data_version: i64,
    /// The feed may have missed something.
    needs_full_scan: bool,
    scanned: Instant,
    scan_took: Duration,
}

/// A present state that can be read.
pub struct VersionedSnapshot<'a> {
    pub snapshot: Snapshot<'a>,
    pub state: &'a PageVersions,
}

impl Source {
    /// Nothing is read before somebody asks.
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

    /// Whether the file is still the one that it was.
    pub fn is_same_file(&self) -> bool {
        FileFingerprint::of(&self.path).is_ok_and(|fingerprint| fingerprint.file == self.file)
    }

    /// Whether it has a connection.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// The number of the state that the next cut will have; that of the last one when nothing has
    /// happened since. Cheap.
    pub fn version(&self) -> Result<u64> {
        let is_present = match (&self.reader, &self.fingerprint) {
            _ if self.state.version == 0 || self.state.needs_full_scan => false,
            (Some(reader), _) => reader.data_version()? == self.state.data_version,
            (None, Some(fingerprint)) => FileFingerprint::of(&self.path)? == *fingerprint,
            (None, None) => false,
        };
        Ok(self.state.version + u64::from(!is_present))
    }

    /// Gives the connection back; what happens meanwhile is found out by looking at the file.
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

    /// The present state, numbered and open for reading. `is_durable`: what is committed is on disk.
    pub fn snapshot(
        &mut self,
        database: &Database,
        is_durable: bool,
    ) -> Result<VersionedSnapshot<'_>> {
        if std::mem::replace(&mut self.has_failed, true) {
            // Whatever it was, it begins with a new connection, and with nothing taken for granted.
            self.reader = None;
            self.state.needs_full_scan = true;
        }
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let reader = PageReader::open(&self.path)?;
                // Before the look at the file: what comes in between shows in one of the two.
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
            // Another process has made it anew.
            *state = PageVersions::new()?;
            self.history = state.epoch.history(&self.name);
        }
        drop(snapshot);
        // What is written from now on belongs to the state after this one.
        let (snapshot, changed) =
            database.begin_snapshot(reader, &self.history, state.version + 2)?;
        if !is_durable {
            // A replica must not be ahead of what a power cut leaves here.
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

    /// Makes the snapshot the present state.
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
                // The file may have grown over pages that were never written.
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
                "the feed of {name} had missed {missed} pages; they are replicated now"
            ));
        }
        (self.scanned, self.scan_took) = (Instant::now(), begun.elapsed());
        Ok(())
    }

    /// The numbers of the pages that changed after a state, page 1 last and always: it says what
    /// is in the others.
    pub fn since(&self, version: u64) -> Vec<u32> {
        self.select(|_, changed| changed > version)
    }

    /// The numbers of the pages of which this holds, page 1 last and always.
    pub fn select(&self, is_wanted: impl Fn(u32, u64) -> bool) -> Vec<u32> {
        let lock_page = pages::lock_page(self.page_size);
        let numbers = (1..).zip(&self.changed).skip(1);
        let wanted = numbers
            .filter(|(number, changed)| *number != lock_page && is_wanted(*number, **changed));
        wanted.map(|(number, _)| number).chain([1]).collect()
    }
}
