//! Tracks the pages that commits change, by reading the write-ahead log (WAL) after each commit.
//!
//! It runs on the writer's thread between commit and checkpoint, so it sees every frame of this
//! process before the WAL can restart. A commit of another process changes `data_version` of the
//! writer; [`WalTracker::take_changed`] then reports that the changed pages are unknown, and the
//! caller has to compare all pages.
//!
//! Only the 24-byte headers of frames are read, and only those that SQLite reports as committed.
//! Opening and closing the WAL is safe; with the database or its `-shm` it would drop the locks of
//! this process (<https://sqlite.org/howtocorrupt.html>, section 2.2;
//! <https://sqlite.org/fileformat2.html>, section 4).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::connection::{beside, data_version};
use crate::base::error::Result;

const WAL_HEADER_BYTES: u64 = 32;
const FRAME_HEADER_BYTES: u64 = 24;
/// Changed pages that are remembered; beyond that, comparing all pages is as fast.
const PAGES_MAX: usize = 200_000;

/// The pages changed since [`WalTracker::take_changed`].
pub struct WalTracker {
    path: PathBuf,
    wal: Option<File>,
    page_size: u64,
    salts: [u8; 8],
    /// Number of frames of the WAL that were read.
    frames: u64,
    /// The `data_version` of the writer; it changes when another process commits.
    data_version: i64,
    /// None if any page may have changed.
    changed: Option<BTreeSet<u32>>,
}

impl WalTracker {
    /// A tracker for which all pages may have changed.
    pub fn new(path: &Path, page_size: u32) -> WalTracker {
        WalTracker {
            path: path.to_owned(),
            wal: None,
            page_size: u64::from(page_size),
            salts: [0; 8],
            frames: 0,
            data_version: 0,
            changed: None,
        }
    }

    /// Reads the new frames of the WAL after a commit. `committed` is its length in frames.
    pub fn capture(&mut self, committed: i64) {
        let committed = u64::try_from(committed).unwrap_or(0);
        if self.changed.is_none() {
            return;
        }
        let is_known = self.read(committed).unwrap_or(false);
        let is_few = self.changed.as_ref().is_some_and(|it| it.len() < PAGES_MAX);
        if !is_known || !is_few {
            self.changed = None;
        }
    }

    /// The pages changed since the last call; none if unknown. To be called while no process can
    /// commit.
    pub fn take_changed(&mut self, connection: &Connection) -> Option<BTreeSet<u32>> {
        let is_own = self.is_own(connection);
        let changed = self.changed.replace(BTreeSet::new());
        changed.filter(|_| is_own)
    }

    /// Starts tracking; `committed` returns the present length of the WAL in frames.
    pub fn begin(&mut self, committed: impl FnOnce() -> Result<i64>) -> Result<()> {
        // First: if the WAL restarts in between, its salts differ and it is read from its start.
        self.salts = self.read_salts()?.unwrap_or_default();
        self.frames = u64::try_from(committed()?).unwrap_or(0);
        Ok(())
    }

    /// True if no other process has committed since the last call.
    fn is_own(&mut self, connection: &Connection) -> bool {
        let Ok(now) = data_version(connection) else {
            return false;
        };
        std::mem::replace(&mut self.data_version, now) == now
    }

    /// Reads the frames after those that were read; false if the WAL does not contain them.
    fn read(&mut self, committed: u64) -> Result<bool> {
        if committed >= self.frames && self.read_frames(committed)? {
            return Ok(true);
        }
        // The WAL has restarted, which gives all of its frames other salts; its earlier frames were
        // read.
        let Some(salts) = self.read_salts()?.filter(|salts| *salts != self.salts) else {
            return Ok(false);
        };
        (self.salts, self.frames) = (salts, 0);
        self.read_frames(committed)
    }

    /// False if a frame has other salts.
    fn read_frames(&mut self, committed: u64) -> Result<bool> {
        if self.wal.is_none() {
            self.wal = File::open(beside(&self.path, "-wal")).ok();
        }
        let Some(wal) = &self.wal else {
            return Ok(false);
        };
        let mut head = [0; FRAME_HEADER_BYTES as usize];
        for frame in self.frames..committed {
            let at = WAL_HEADER_BYTES + frame * (FRAME_HEADER_BYTES + self.page_size);
            wal.read_exact_at(&mut head, at)?;
            if head[8..16] != self.salts {
                return Ok(false);
            }
            let number = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            if let Some(changed) = &mut self.changed {
                changed.insert(number);
            }
        }
        self.frames = committed;
        Ok(true)
    }

    fn read_salts(&mut self) -> Result<Option<[u8; 8]>> {
        if self.wal.is_none() {
            self.wal = File::open(beside(&self.path, "-wal")).ok();
        }
        let Some(wal) = &self.wal else {
            return Ok(None);
        };
        let mut head = [0; WAL_HEADER_BYTES as usize];
        if wal.read_at(&mut head, 0)? < head.len() {
            return Ok(None);
        }
        let mut salts = [0; 8];
        salts.copy_from_slice(&head[16..24]);
        Ok(Some(salts))
    }
}
