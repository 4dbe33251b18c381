//! The sync loop of a replica, on the thread `sync`.
//!
//! A cycle runs at an interval and when a notification requests one. A full cycle requests the
//! master's list of databases and updates those that are behind. A notification names databases and
//! saves that request. An error stops one database and not the others; the next cycle retries it.
//!
//! `default.db` has the definitions and access rules of all databases. Every other database records
//! the definitions that its tables follow (`_applied`). The catalog waits until both match and
//! never reads tables by definitions that do not. A new database arrives one part at a time,
//! between changes to the others; so do files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::file_sync::FileSync;
use super::follower::{FetchResult, FetchedVersion, Follower, SyncContext};
use super::messages::DatabaseEntry;
use super::positions::Position;
use super::replica::{ReplicaState, SyncTask, Transfer};
use super::{Replica, follower, positions};
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{clock, failpoints, log};
use crate::model::collections::Catalog;
use crate::store::db;
use crate::store::db::Databases;
use crate::store::files::{Storage, journal};

/// Longest pause after a failed cycle.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Minimum interval between saves of positions while changes arrive.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Interval at which the sync time of unchanged databases is saved.
const PROOFS_EVERY: Duration = Duration::from_secs(30);
/// Time slice for files between cycles of databases.
const SLICE: Duration = Duration::from_millis(250);
/// Interval of progress log lines during a long transfer.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The state of the sync thread.
pub struct SyncLoop {
    replica: Arc<Replica>,
    context: SyncContext,
    followers: BTreeMap<String, Follower>,
    /// Databases that the last list of the master lacked.
    missing: BTreeSet<String>,
    /// Databases whose positions are not saved.
    unsaved: BTreeSet<String>,
    saved: Instant,
    /// Last time when sync times were recorded.
    proven: Instant,
    /// Time of the last request for the master's list, in Unix milliseconds.
    listed_ms: i64,
    storage: Arc<Storage>,
    /// `None` if the files are in a bucket.
    files: Option<FileSync>,
    /// New databases in progress.
    bootstrapping: BTreeMap<String, DatabaseEntry>,
}

impl SyncLoop {
    /// Spools streams in `data_dir`.
    pub fn new(
        replica: &Arc<Replica>,
        databases: &Arc<Databases>,
        catalog: &Arc<Catalog>,
        storage: &Arc<Storage>,
        data_dir: &Path,
    ) -> Result<SyncLoop> {
        follower::remove_leftovers(data_dir)?;
        let state = Arc::clone(&replica.state);
        let context = SyncContext {
            client: Arc::clone(&replica.client),
            databases: Arc::clone(databases),
            catalog: Arc::clone(catalog),
            spool: data_dir.join("spool"),
            progress: Box::new(move |name, done, length| {
                report_transfer(&state, name, done, length);
            }),
        };
        let files = replica.downloads.as_ref().map(|downloads| {
            let client = &replica.client;
            FileSync::open(client, storage, databases, downloads, &replica.files)
        });
        Ok(SyncLoop {
            files: files.transpose()?,
            storage: Arc::clone(storage),
            bootstrapping: BTreeMap::new(),
            replica: Arc::clone(replica),
            context,
            followers: BTreeMap::new(),
            missing: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            saved: Instant::now(),
            proven: Instant::now(),
            listed_ms: 0,
        })
    }

    /// Runs cycles until the replica stops.
    pub fn run(mut self) {
        let mut due = Instant::now();
        loop {
            let more_due = match self.bootstrapping.is_empty() {
                true => self.files.as_ref().and_then(FileSync::due),
                false => Some(Instant::now()),
            };
            let task = self.replica.next_task(due, more_due);
            let is_listed = matches!(task, SyncTask::Everything);
            let is_good = match task {
                SyncTask::Stop => break,
                SyncTask::Everything => self.cycle(None),
                SyncTask::Some(names) => self.cycle(Some(&names)),
                SyncTask::More => true,
            };
            let is_good = self.advance_bootstrap() && is_good;
            let now = Instant::now();
            if let Some(files) = &mut self.files {
                files.step(now + SLICE);
            }
            if is_listed {
                due = now + self.replica.interval;
            }
            if !is_good || !self.missing.is_empty() {
                // A failed database may not be named again, and a missing one is removed only when
                // the next list lacks it too.
                due = due.min(now + RETRY_PAUSE.min(self.replica.interval));
            }
            if is_listed && is_good && self.proven.elapsed() >= PROOFS_EVERY {
                self.record_proofs();
            }
            if is_listed || self.saved.elapsed() >= SAVE_EVERY {
                self.save();
            } else if !self.unsaved.is_empty() {
                due = due.min(now + SAVE_EVERY);
            }
        }
        self.record_proofs();
        self.save();
    }

    /// Records the time at which everything was known to be current, also for databases that do not
    /// change.
    fn record_proofs(&mut self) {
        self.proven = Instant::now();
        let mut state = lock(&self.replica.state);
        let confirmed_ms = state.confirmed_ms;
        for (name, position) in &mut state.positions {
            position.synced_ms = position.synced_ms.max(confirmed_ms);
            self.unsaved.insert(name.clone());
        }
    }

    /// Syncs these databases, or all. Returns whether everything succeeded.
    fn cycle(&mut self, names: Option<&BTreeSet<String>>) -> bool {
        let result = match names {
            None => self.sync_all(),
            Some(names) => self.sync_named(names),
        };
        let mut state = lock(&self.replica.state);
        state.is_busy = false;
        state.cycles += 1;
        let error = result
            .as_ref()
            .err()
            .map(|error| error.message().to_owned());
        if let Err(error) = &result {
            state.failures += 1;
            if state.error.as_deref() != Some(error.message()) {
                log::warn(format_args!("sync: {error}"));
            }
        } else if names.is_none() && state.error.is_some() {
            log::info(format_args!("sync: succeeded again"));
        }
        // Success for some databases does not clear an error of the others.
        if names.is_none() || error.is_some() {
            state.error = error;
        }
        result.is_ok()
    }

    fn sync_all(&mut self) -> Result<()> {
        let number = {
            let mut state = lock(&self.replica.state);
            state.full_started += 1;
            state.full_started
        };
        let asked_ms = clock::now_ms();
        let list = self.context.client.list()?;
        self.listed_ms = asked_ms;
        lock(&self.replica.state).master_seen_ms = Some(clock::now_ms());
        if list.schema != db::schema_versions() {
            let is_newer = list.schema > db::schema_versions();
            let word = if is_newer { "newer" } else { "older" };
            return Err(Error::unavailable(format!(
                "The master runs a {word} vski with another schema; this replica does not sync \
                 until both run the same version."
            )));
        }
        // Names become file names.
        if let Some(it) = list
            .databases
            .iter()
            .find(|it| !db::is_valid_name(&it.name))
        {
            return Err(Error::unavailable(format!(
                "The master sent an invalid database name: {:?}.",
                it.name
            )));
        }
        self.record_listed(&list.databases)?;
        if let Some(files) = &mut self.files {
            files.set_journal_end(list.files.as_ref());
        }
        let result = self.sync_databases(&list.databases);
        self.remove_vanished(&list.databases, result.is_ok())?;
        if result.is_ok() && self.bootstrapping.is_empty() {
            let mut state = lock(&self.replica.state);
            state.is_complete = true;
            state.full_done = number;
            drop(state);
            self.replica.position_changed.notify_all();
        }
        result
    }

    fn record_listed(&self, entries: &[DatabaseEntry]) -> Result<()> {
        let names: BTreeSet<String> = entries.iter().map(|it| it.name.clone()).collect();
        if lock(&self.replica.state).listed == names {
            return Ok(());
        }
        positions::save_listed(&self.replica.local, &names)?;
        lock(&self.replica.state).listed = names;
        Ok(())
    }

    /// Syncs the databases that a notification named.
    fn sync_named(&mut self, names: &BTreeSet<String>) -> Result<()> {
        let entries: Option<Vec<DatabaseEntry>> = {
            let state = lock(&self.replica.state);
            let entry =
                |name: &String| Some(DatabaseEntry::after(name, state.positions.get(name)?));
            names.iter().map(entry).collect()
        };
        let result = match entries {
            Some(entries) => self.sync_databases(&entries),
            None => return self.sync_all(),
        };
        if let Some(files) = self.files.as_mut().filter(|_| names.contains(db::DEFAULT)) {
            // The file journal is itself replicated, so its last entry is known here.
            let default = self.context.databases.default();
            files.extend_journal(default.read(journal::last)?);
        }
        result
    }

    /// Syncs `default.db` first, because it has the access rules, and then the others. Databases
    /// that do not exist here are queued and arrive one part at a time.
    fn sync_databases(&mut self, entries: &[DatabaseEntry]) -> Result<()> {
        let mut failed = None;
        let mut changed = Vec::new();
        let mut entries: Vec<&DatabaseEntry> = entries.iter().collect();
        entries.sort_by_key(|entry| entry.name != db::DEFAULT);
        for entry in entries {
            match self.context.databases.file(&entry.name).exists() {
                true => self.sync_database(entry, &mut changed, &mut failed),
                false => {
                    self.record_master_version(entry);
                    self.bootstrapping.insert(entry.name.clone(), entry.clone());
                }
            }
        }
        self.acknowledge(&changed);
        failed.map_or(Ok(()), Err)
    }

    fn sync_database(
        &mut self,
        entry: &DatabaseEntry,
        changed: &mut Vec<String>,
        failed: &mut Option<Error>,
    ) {
        self.bootstrapping.remove(&entry.name);
        // The answer may lack commits that followed the request.
        let asked_ms = match entry.is_listed {
            true => self.listed_ms,
            false => clock::now_ms(),
        };
        let result = self.fetch(entry).and_then(|found| match found {
            FetchResult::Newer(fetched) => self.apply(entry, fetched).map(Some),
            FetchResult::UpToDate(position) => Ok(Some(position)),
            FetchResult::Loading => {
                self.bootstrapping.insert(entry.name.clone(), entry.clone());
                Ok(None)
            }
        });
        let result = result.map(|position| {
            position.map(|it| Position {
                synced_ms: asked_ms,
                ..it
            })
        });
        self.record_result(entry, result, changed, failed);
    }

    /// Receives one part of a new database, `default.db` first. Returns false on an error; the next
    /// full cycle starts it again.
    fn advance_bootstrap(&mut self) -> bool {
        let default = self.bootstrapping.get(db::DEFAULT);
        let Some(entry) = default
            .or_else(|| self.bootstrapping.values().next())
            .cloned()
        else {
            return true;
        };
        let (mut changed, mut failed) = (Vec::new(), None);
        self.sync_database(&entry, &mut changed, &mut failed);
        self.acknowledge(&changed);
        if failed.is_none() && self.bootstrapping.is_empty() {
            // A full cycle establishes whether the replica is complete.
            self.replica.request_full_sync();
        }
        failed.is_none()
    }

    /// Records the version of the master.
    fn record_master_version(&self, entry: &DatabaseEntry) {
        let mut state = lock(&self.replica.state);
        let status = state.database_mut(&entry.name);
        status.is_current = false;
        status.master_version = status.master_version.max(entry.version);
        if entry.is_listed {
            status.master_version = entry.version;
        }
    }

    fn fetch(&mut self, entry: &DatabaseEntry) -> Result<FetchResult> {
        self.record_master_version(entry);
        let position = self.replica.position(&entry.name);
        let databases = &self.context.databases;
        let follower = self
            .followers
            .entry(entry.name.clone())
            .or_insert_with(|| Follower::new(&entry.name, databases));
        if let Some(position) = &position
            && entry.is_listed
            && follower.is_at(position, entry)
        {
            return Ok(FetchResult::UpToDate(position.clone()));
        }
        follower.fetch(&self.context, entry, position.as_ref())
    }

    fn apply(&mut self, entry: &DatabaseEntry, fetched: FetchedVersion) -> Result<Position> {
        let before = self.replica.position(&entry.name);
        let follower = self.followers.get_mut(&entry.name);
        let follower = follower.ok_or_else(|| Error::internal("no follower for this database"))?;
        let next = follower.apply(&self.context, fetched, before.as_ref())?;
        failpoints::reach("applied");
        if let Err(error) = follower.checkpoint() {
            log::warn(format_args!("checkpoint {}: {error}", entry.name));
        }
        Ok(next)
    }

    /// Records the result of a sync.
    fn record_result(
        &mut self,
        entry: &DatabaseEntry,
        result: Result<Option<Position>>,
        changed: &mut Vec<String>,
        failed: &mut Option<Error>,
    ) {
        let is_repairing = self
            .followers
            .get(&entry.name)
            .is_some_and(Follower::is_repairing);
        let mut state = lock(&self.replica.state);
        let before = state.positions.get(&entry.name).cloned();
        let status = state.database_mut(&entry.name);
        if !self.bootstrapping.contains_key(&entry.name) {
            status.transfer = None;
        }
        match result {
            Ok(Some(position)) => {
                status.error = None;
                status.is_current = true;
                status.master_version = status.master_version.max(position.version);
                let is_same = before.as_ref().is_some_and(|before| {
                    (before.epoch, before.version) == (position.epoch, position.version)
                });
                state.positions.insert(entry.name.clone(), position);
                state.master_seen_ms = Some(clock::now_ms());
                if !is_same {
                    changed.push(entry.name.clone());
                    self.unsaved.insert(entry.name.clone());
                }
            }
            Ok(None) => {}
            Err(error) => {
                // Waiting reads cause many retries; log an error once.
                if status.error.as_deref() != Some(error.message()) {
                    log::warn(format_args!("replica of {}: {error}", entry.name));
                }
                status.failures += 1;
                status.repairs += u64::from(is_repairing);
                status.error = Some(error.message().to_owned());
                failed.get_or_insert(error);
            }
        }
        drop(state);
        self.replica.position_changed.notify_all();
    }

    /// Moves away databases that the last two lists of the master lacked.
    fn remove_vanished(&mut self, entries: &[DatabaseEntry], is_good: bool) -> Result<()> {
        let there: BTreeSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        let here = self.context.databases.list()?;
        let gone = here
            .into_iter()
            .filter(|name| !there.contains(name.as_str()));
        let gone: BTreeSet<String> = gone.filter(|name| name != db::DEFAULT).collect();
        self.forget_unlisted(&there);
        let twice: Vec<String> = gone.intersection(&self.missing).cloned().collect();
        self.missing = gone;
        for name in twice.iter().filter(|_| is_good) {
            let path = self.context.databases.delete(name)?;
            let files = path.with_extension("files");
            if let Err(error) = self.storage.move_aside(name, &files) {
                log::warn(format_args!("{error}"));
            }
            log::info(format_args!(
                "the master deleted database {name}; moved to {}",
                path.display()
            ));
            self.followers.remove(name);
            let mut state = lock(&self.replica.state);
            state.positions.remove(name);
            state.status.remove(name);
            self.unsaved.insert(name.clone());
        }
        Ok(())
    }

    /// Forgets databases that were deleted before they arrived, and those whose file has
    /// disappeared.
    fn forget_unlisted(&mut self, there: &BTreeSet<&str>) {
        let databases = Arc::clone(&self.context.databases);
        let is_wanted =
            |name: &String| there.contains(name.as_str()) || databases.file(name).exists();
        self.bootstrapping.retain(|name, _| is_wanted(name));
        let mut state = lock(&self.replica.state);
        state.status.retain(|name, _| is_wanted(name));
        let lost = state.positions.keys().filter(|it| !is_wanted(it));
        self.unsaved.extend(lost.cloned());
        state.positions.retain(|name, _| is_wanted(name));
        drop(state);
        let gone: Vec<String> = self
            .followers
            .keys()
            .filter(|it| !is_wanted(it))
            .cloned()
            .collect();
        for name in gone {
            log::info(format_args!("the master deleted database {name}"));
            if let Some(follower) = self.followers.remove(&name) {
                follower.discard();
            }
        }
    }

    fn acknowledge(&self, changed: &[String]) {
        if changed.is_empty() {
            return;
        }
        let positions = {
            let state = lock(&self.replica.state);
            let describe = |name: &String| {
                let at = state.positions.get(name)?;
                let at = json!({"epoch": at.epoch.to_string(), "version": at.version});
                Some((name.clone(), at))
            };
            changed
                .iter()
                .filter_map(describe)
                .collect::<serde_json::Map<_, _>>()
        };
        // The master only displays it, and the next acknowledgement repeats it.
        if let Err(error) = self
            .context
            .client
            .acknowledge(&json!({"databases": positions}))
        {
            log::debug(format_args!("acknowledge: {error}"));
        }
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        if self.unsaved.is_empty() {
            return;
        }
        failpoints::reach("before-save");
        let positions = {
            let state = lock(&self.replica.state);
            let position = |name: &String| (name.clone(), state.positions.get(name).cloned());
            self.unsaved.iter().map(position).collect()
        };
        match positions::save(&self.replica.local, positions) {
            Ok(()) => {
                self.unsaved.clear();
                failpoints::reach("saved");
            }
            // A restart computes the positions again.
            Err(error) => log::warn(format_args!("save positions: {error}")),
        }
    }
}

/// Records the progress of a transfer and logs it at an interval.
fn report_transfer(state: &Mutex<ReplicaState>, name: &str, done: u64, length: u64) {
    let mut state = lock(state);
    let now = Instant::now();
    let transfer = state.database_mut(name).transfer.get_or_insert(Transfer {
        begun: now,
        logged: now,
        done: 0,
        length,
    });
    (transfer.done, transfer.length) = (done, length);
    if transfer.logged.elapsed() < LOG_EVERY {
        return;
    }
    transfer.logged = now;
    let status = transfer.describe();
    drop(state);
    log::info(format_args!(
        "transfer database={name} mib={} of={} seconds_left={}",
        done >> 20,
        length >> 20,
        status.seconds_left.unwrap_or_default()
    ));
}
