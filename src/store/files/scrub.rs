//! The scrubber: it reads all stored files again, little by little, and compares them with their
//! hashes.
//!
//! A disk does not report lost or changed bytes; the scrubber finds them within about a month. It
//! reads files in the order of their hashes, which is random with respect to everything else, so
//! that it covers all parts of the disk throughout a round. Its position is saved in `local.db`, so
//! that it resumes after a restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use super::incoming::RemoteFile;
use super::path::FilePath;
use super::storage::Storage;
use super::table;
use super::table::StoredFile;
use crate::base::error::{Kind, Result};
use crate::base::log;
use crate::base::threads::{Stop, lock};
use crate::store::db::{Database, Databases};
use crate::store::node;

/// Steps of a round, one per minute: 30 days.
const STEPS: u64 = 30 * 24 * 60;
/// Least number of bytes of a step: small storages are read more often.
const BYTES_MIN: u64 = 4 << 20;
/// Cost of opening a file, in bytes.
const FILE_COST: u64 = 16 << 10;
/// Files read from a database at a time.
const PAGE: usize = 500;
/// Damaged files that are remembered.
const DAMAGED_MAX: usize = 100;
/// Setting in `local.db`: database, hash, record and name of the last file.
const POSITION: &str = "files_scrubbed";

/// Which files this server should have; decides whether a missing file is damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    /// A master should have all of its files.
    Master,
    /// A replica has downloaded every file, except those of the latest changes.
    Complete,
    /// A replica is still downloading files.
    InProgress,
}

/// The position of the scrubber and its findings.
#[derive(Default)]
pub struct Scrub {
    state: Mutex<State>,
    /// A copy as of the last step, so that a caller does not wait while files are read.
    findings: Mutex<Findings>,
}

/// Damaged files, each with `damaged` or `missing`, and the number of files read since the start.
pub type Findings = (Vec<(String, &'static str)>, u64);

#[derive(Default)]
struct State {
    is_open: bool,
    database: String,
    /// Hash, record and name of the last file of the queue.
    after: [String; 3],
    queue: VecDeque<RemoteFile>,
    bytes_per_step: u64,
    files_read: u64,
    /// Files with `damaged` or `missing`.
    damaged: BTreeMap<FilePath, &'static str>,
    /// Missing on a replica and requested for download; the next round checks them again.
    awaited: BTreeSet<FilePath>,
}

impl Scrub {
    /// Verifies some files. Damaged ones are recorded and passed to `repair`.
    pub fn step(
        &self,
        databases: &Databases,
        storage: &Storage,
        repair: &dyn Fn(RemoteFile),
        sync: SyncState,
        stop: &Stop,
    ) -> Result<()> {
        let mut state = lock(&self.state);
        let result = state.step(databases, storage, repair, sync, stop);
        *lock(&self.findings) = state.findings();
        result
    }

    pub fn findings(&self) -> Findings {
        lock(&self.findings).clone()
    }
}

impl State {
    fn step(
        &mut self,
        databases: &Databases,
        storage: &Storage,
        repair: &dyn Fn(RemoteFile),
        sync: SyncState,
        stop: &Stop,
    ) -> Result<()> {
        if !self.is_open {
            self.open(databases.local())?;
        }
        let (mut cost, mut has_turned) = (0_u64, false);
        while cost <= self.bytes_per_step && !stop.is_set() {
            let Some(remote) = self.queue.pop_front() else {
                if !self.refill(databases)? {
                    if has_turned {
                        break;
                    }
                    has_turned = true;
                }
                continue;
            };
            cost = cost.saturating_add(remote.size).saturating_add(FILE_COST);
            if sync != SyncState::InProgress || storage.size(&remote.path)?.is_some() {
                self.verify(databases, storage, repair, sync, remote)?;
            }
        }
        let [sha256, record, name] = &self.after;
        let position = format!("{} {sha256} {record} {name}", self.database);
        node::save_setting(databases.local(), POSITION, position)
    }

    fn findings(&self) -> Findings {
        let damaged = self.damaged.iter();
        let damaged = damaged.map(|(path, word)| (path.to_string(), *word));
        (damaged.collect(), self.files_read)
    }

    fn open(&mut self, local: &Arc<Database>) -> Result<()> {
        let position = node::setting(local, POSITION)?.unwrap_or_default();
        let parts: Vec<&str> = position.split(' ').collect();
        if let [database, after @ ..] = &parts[..]
            && let Ok(after) = <[&str; 3]>::try_from(after)
        {
            (self.database, self.after) = ((*database).to_owned(), after.map(str::to_owned));
        }
        self.bytes_per_step = BYTES_MIN;
        self.is_open = true;
        Ok(())
    }

    /// Reads the rows of the next files. False at the end of a round.
    fn refill(&mut self, databases: &Databases) -> Result<bool> {
        let mut names = databases.list()?;
        names.sort();
        let begin = self.database.clone();
        for name in names.iter().filter(|name| **name >= begin) {
            if *name > self.database {
                (self.database, self.after) = (name.clone(), Default::default());
            }
            let database = match databases.get(name) {
                Err(error) if error.kind() == Kind::NotFound => continue,
                database => database?,
            };
            let [sha256, record, file] = &self.after;
            let after = (sha256.as_str(), record.as_str(), file.as_str());
            let files = database.read(|it| table::by_hash(it, name, after, PAGE));
            let files = match files {
                // A replica has not received the database yet.
                Err(error) if error.kind() == Kind::Unavailable => continue,
                files => files?,
            };
            if let Some((path, stored)) = files.last() {
                self.after = [&stored.sha256, &path.record, &path.name].map(Clone::clone);
                self.queue = files
                    .into_iter()
                    .map(|(path, stored)| RemoteFile {
                        path,
                        size: stored.size,
                        sha256: stored.sha256,
                    })
                    .collect();
                return Ok(true);
            }
        }
        self.begin_round(databases, &names)?;
        Ok(false)
    }

    fn begin_round(&mut self, databases: &Databases, names: &[String]) -> Result<()> {
        (self.database, self.after) = (String::new(), Default::default());
        let mut cost = 0_u64;
        for name in names {
            let totals = databases.get(name).and_then(|it| it.read(table::totals));
            let (files, bytes) = totals.unwrap_or_default();
            cost = cost.saturating_add(bytes.saturating_add(files.saturating_mul(FILE_COST)));
        }
        self.bytes_per_step = (cost / STEPS).max(BYTES_MIN);
        // A round does not visit deleted files again.
        let is_kept = |path: &FilePath| !matches!(stored(databases, path), Ok(None));
        self.damaged.retain(|path, _| is_kept(path));
        self.awaited.retain(is_kept);
        Ok(())
    }

    fn verify(
        &mut self,
        databases: &Databases,
        storage: &Storage,
        repair: &dyn Fn(RemoteFile),
        sync: SyncState,
        remote: RemoteFile,
    ) -> Result<()> {
        self.files_read += 1;
        if storage.holds(&remote)? {
            self.damaged.remove(&remote.path);
            self.awaited.remove(&remote.path);
            return Ok(());
        }
        // The file may have been deleted meanwhile, or not have been downloaded yet.
        let path = &remote.path;
        let row = stored(databases, path)?;
        if row.is_none_or(|stored| stored.sha256 != remote.sha256) {
            self.awaited.remove(path);
            return Ok(());
        }
        let word = match storage.size(path)? {
            Some(_) => "damaged",
            None => "missing",
        };
        let may_come = sync != SyncState::Master
            && word == "missing"
            && self.awaited.len() < DAMAGED_MAX
            && self.awaited.insert(path.clone());
        if !may_come
            && self.damaged.len() < DAMAGED_MAX
            && self.damaged.insert(path.clone(), word) != Some(word)
        {
            log::error(format_args!("file {path} is {word} in the storage"));
        }
        repair(remote);
        Ok(())
    }
}

/// The present row of a file; none if the file or its database was deleted.
fn stored(databases: &Databases, path: &FilePath) -> Result<Option<StoredFile>> {
    match databases.get(&path.database) {
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        database => {
            database?.read(|it| table::find(it, &path.collection, &path.record, &path.name))
        }
    }
}
