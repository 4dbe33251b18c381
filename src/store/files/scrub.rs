//! Reads stored files again, little by little, and compares them with their hashes.
//!
//! A disk that loses or changes bytes does not say so; this does, within about a month. Files are taken in
//! the order of their hashes, which is no order of anything else, so that a round touches every part of
//! the disk all along. How far a round has come is noted in `local.db`, so that a restart goes on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use super::{FilePath, Remote, Storage, Stored, table};
use crate::base::error::{Kind, Result};
use crate::base::log;
use crate::base::threads::{Stop, lock};
use crate::store::db::{Database, Databases};
use crate::store::node;

/// A round takes about so many steps, one a minute: 30 days.
const STEPS: u64 = 30 * 24 * 60;
/// Least bytes of a step: small storages are read more often.
const BYTES_MIN: u64 = 4 << 20;
/// What looking at a file costs besides its bytes.
const FILE_COST: u64 = 16 << 10;
/// Files read from a database at a time.
const PAGE: usize = 500;
/// Damaged files that are remembered.
const DAMAGED_MAX: usize = 100;
/// Fact in `local.db`: the database, hash, record and name that a round has come to.
const PLACE: &str = "files_scrubbed";

/// What a file that is not there means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A master has what it has.
    Own,
    /// A replica has had every file; one of a change of now may be on its way all the same.
    Complete,
    /// Files are on their way to a replica.
    UnderWay,
}

/// What was found, and where the round is.
#[derive(Default)]
pub struct Scrub {
    state: Mutex<State>,
    /// The findings up to the last step: a caller that asks for them does not wait for the reading of files.
    found: Mutex<Found>,
}

/// Files that are not as they were stored, each with a word for how, and how many were looked at since the
/// start.
pub type Found = (Vec<(String, &'static str)>, u64);

#[derive(Default)]
struct State {
    is_open: bool,
    database: String,
    /// Hash, record and name of the last file of the queue.
    after: [String; 3],
    queue: VecDeque<Remote>,
    bytes_per_step: u64,
    looked_at: u64,
    /// Damaged or missing, with a word for which.
    damaged: BTreeMap<FilePath, &'static str>,
    /// Were missing on a replica, and are fetched; the next round tells whether they came.
    awaited: BTreeSet<FilePath>,
}

impl Scrub {
    /// Reads some files. Those that are not as they were stored are noted, and handed to `mend`.
    pub fn step(
        &self,
        databases: &Databases,
        storage: &Storage,
        mend: &dyn Fn(Remote),
        arrival: Arrival,
        stop: &Stop,
    ) -> Result<()> {
        let mut state = lock(&self.state);
        let result = state.step(databases, storage, mend, arrival, stop);
        *lock(&self.found) = state.found();
        result
    }

    /// The findings so far.
    pub fn found(&self) -> Found {
        lock(&self.found).clone()
    }
}

impl State {
    fn step(
        &mut self,
        databases: &Databases,
        storage: &Storage,
        mend: &dyn Fn(Remote),
        arrival: Arrival,
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
            if arrival != Arrival::UnderWay || storage.size(&remote.path)?.is_some() {
                self.look(databases, storage, mend, arrival, remote)?;
            }
        }
        let [sha256, record, name] = &self.after;
        let place = format!("{} {sha256} {record} {name}", self.database);
        node::set_fact(databases.local(), PLACE, place)
    }

    fn found(&self) -> Found {
        let damaged = self.damaged.iter();
        let damaged = damaged.map(|(path, word)| (path.to_string(), *word));
        (damaged.collect(), self.looked_at)
    }

    fn open(&mut self, local: &Arc<Database>) -> Result<()> {
        let place = node::fact(local, PLACE)?.unwrap_or_default();
        let parts: Vec<&str> = place.split(' ').collect();
        if let [database, after @ ..] = &parts[..]
            && let Ok(after) = <[&str; 3]>::try_from(after)
        {
            (self.database, self.after) = ((*database).to_owned(), after.map(str::to_owned));
        }
        self.bytes_per_step = BYTES_MIN;
        self.is_open = true;
        Ok(())
    }

    /// Reads the next files to look at. False at the end of a round.
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
                // A replica that has not got it yet.
                Err(error) if error.kind() == Kind::Unavailable => continue,
                files => files?,
            };
            if let Some((path, stored)) = files.last() {
                self.after = [&stored.sha256, &path.record, &path.name].map(Clone::clone);
                self.queue = files
                    .into_iter()
                    .map(|(path, stored)| Remote {
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
        // Rounds do not come by what is deleted.
        let is_kept = |path: &FilePath| !matches!(stored(databases, path), Ok(None));
        self.damaged.retain(|path, _| is_kept(path));
        self.awaited.retain(is_kept);
        Ok(())
    }

    fn look(
        &mut self,
        databases: &Databases,
        storage: &Storage,
        mend: &dyn Fn(Remote),
        arrival: Arrival,
        remote: Remote,
    ) -> Result<()> {
        self.looked_at += 1;
        if storage.holds(&remote)? {
            self.damaged.remove(&remote.path);
            self.awaited.remove(&remote.path);
            return Ok(());
        }
        // It may have gone meanwhile, or on a replica not have come yet.
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
        let may_come = arrival != Arrival::Own
            && word == "missing"
            && self.awaited.len() < DAMAGED_MAX
            && self.awaited.insert(path.clone());
        if !may_come
            && self.damaged.len() < DAMAGED_MAX
            && self.damaged.insert(path.clone(), word) != Some(word)
        {
            log::error(format_args!("file {path} is {word} in the storage"));
        }
        mend(remote);
        Ok(())
    }
}

/// What is to be there now; none of a database that is gone.
fn stored(databases: &Databases, path: &FilePath) -> Result<Option<Stored>> {
    match databases.get(&path.database) {
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        database => {
            database?.read(|it| table::find(it, &path.collection, &path.record, &path.name))
        }
    }
}
