//! Which pages commits have changed, read from the log right after each of them.
//!
//! It runs on the writer's own thread between commit and checkpoint, so every frame of ours is seen
//! before the log can start over. What another process commits is not guessed at: it shows in
//! `data_version` of the writer, and then the tracker says that it does not know ([`WalTracker::take`]), which
//! costs its owner a look at all pages.
//!
//! Only the 24 byte heads of frames are read, and only as many as SQLite says are committed. Opening
//! the log is safe; opening the database or its `-shm` would drop the locks of this process
//! (<https://sqlite.org/howtocorrupt.html>, section 2.2; <https://sqlite.org/fileformat2.html>, section 4).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::connection::{beside, data_version};
use crate::base::error::Result;

const LOG_HEAD_BYTES: u64 = 32;
const FRAME_HEAD_BYTES: u64 = 24;
/// Changed pages that are remembered; with more of them a look at all is as good.
const PAGES_MAX: usize = 200_000;

/// What has changed since it was last taken.
pub struct WalTracker {
    path: PathBuf,
    log: Option<File>,
    page_size: u64,
    salts: [u8; 8],
    /// Frames of the log that were taken in.
    frames: u64,
    /// The log as it was last seen.
    seen: ([u8; 8], u64),
    /// Of the writer's connection; another one once somebody else has committed.
    data_version: i64,
    /// None: any page may have.
    changed: Option<BTreeSet<u32>>,
}

impl WalTracker {
    /// Knows nothing yet.
    pub fn new(path: &Path, page_size: u32) -> WalTracker {
        WalTracker {
            path: path.to_owned(),
            log: None,
            page_size: u64::from(page_size),
            salts: [0; 8],
            frames: 0,
            seen: ([0; 8], 0),
            data_version: 0,
            changed: None,
        }
    }

    /// Takes in what the log has more than before. `committed` is its length in frames. Returns whether
    /// there is more.
    pub fn capture(&mut self, connection: &Connection, committed: i64) -> bool {
        let committed = u64::try_from(committed).unwrap_or(0);
        let now = self
            .read_salts()
            .map(|salts| (salts.unwrap_or_default(), committed));
        let has_more = match now {
            Ok(now) => std::mem::replace(&mut self.seen, now) != now,
            Err(_) => true,
        };
        if self.changed.is_some() && has_more {
            self.take_in(connection, committed);
        }
        has_more
    }

    fn take_in(&mut self, connection: &Connection, committed: u64) {
        let is_known = self.is_own(connection) && self.read(committed).unwrap_or(false);
        let is_few = self.changed.as_ref().is_some_and(|it| it.len() < PAGES_MAX);
        if !is_known || !is_few {
            self.changed = None;
        }
    }

    /// What has changed since the last time; none when that is not known. To be called while nobody
    /// can commit, in whatever process.
    pub fn take_changed(&mut self, connection: &Connection) -> Option<BTreeSet<u32>> {
        let is_own = self.is_own(connection);
        let changed = self.changed.replace(BTreeSet::new());
        changed.filter(|_| is_own)
    }

    /// From now on every frame counts: `committed` says how many are in the log already.
    pub fn begin(&mut self, committed: impl FnOnce() -> Result<i64>) -> Result<()> {
        // First: if the log starts over in between, its salts are others and it is read from its start.
        self.salts = self.read_salts()?.unwrap_or_default();
        self.frames = u64::try_from(committed()?).unwrap_or(0);
        self.seen = (self.salts, self.frames);
        Ok(())
    }

    /// Whether nobody else has committed since the last time.
    fn is_own(&mut self, connection: &Connection) -> bool {
        let Ok(now) = data_version(connection) else {
            return false;
        };
        std::mem::replace(&mut self.data_version, now) == now
    }

    /// False: the log is not what it was thought to be.
    fn read(&mut self, committed: u64) -> Result<bool> {
        if committed == 0 {
            return Ok(true);
        }
        let Some(salts) = self.read_salts()? else {
            return Ok(false);
        };
        if salts != self.salts {
            // It has started over; what was in it before is known.
            (self.salts, self.frames) = (salts, 0);
        }
        let Some(log) = &self.log else {
            return Ok(false);
        };
        let mut head = [0; FRAME_HEAD_BYTES as usize];
        for frame in self.frames..committed {
            let at = LOG_HEAD_BYTES + frame * (FRAME_HEAD_BYTES + self.page_size);
            log.read_exact_at(&mut head, at)?;
            if head[8..16] != salts {
                return Ok(false);
            }
            let number = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            if let Some(changed) = &mut self.changed {
                changed.insert(number);
            }
        }
        self.frames = self.frames.max(committed);
        Ok(true)
    }

    fn read_salts(&mut self) -> Result<Option<[u8; 8]>> {
        if self.log.is_none() {
            self.log = File::open(beside(&self.path, "-wal")).ok();
        }
        let Some(log) = &self.log else {
            return Ok(None);
        };
        let mut head = [0; LOG_HEAD_BYTES as usize];
        if log.read_at(&mut head, 0)? < head.len() {
            return Ok(None);
        }
        let mut salts = [0; 8];
        salts.copy_from_slice(&head[16..24]);
        Ok(Some(salts))
    }
}
