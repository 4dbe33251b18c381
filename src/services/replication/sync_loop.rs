//! The cycle over all databases, on the thread `sync` of a replica.
//!
//! It runs every so often, and when it is woken because something has changed. A full cycle asks the
//! master for its list and brings along what is behind; being told that some databases have changed
//! saves the list. An error stops one database and not the others; the next cycle tries again.
//!
//! `default.db` defines the collections of all databases and says who may read them. Each of the others says
//! by which definitions its tables are (`_applied`), and the catalog waits for the counterpart rather than
//! read one by the other's. A database that has to be got whole comes a part at a time, between the
//! changes of the others; so do files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::DatabaseEntry;
use super::file_sync::FileSync;
use super::follower::{FetchResult, FetchedVersion, Follower, SyncContext};
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

/// Pause after a cycle that failed, at most.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How often positions are written down while changes come all the time.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often it is written down until when everything is proven to be here, also of what does not change.
const PROOFS_EVERY: Duration = Duration::from_secs(30);
/// How long files are worked on before databases are looked after again.
const SLICE: Duration = Duration::from_millis(250);
/// How often the log tells how far a long transfer is.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The thread.
pub struct SyncLoop {
    replica: Arc<Replica>,
    context: SyncContext,
    followers: BTreeMap<String, Follower>,
    /// Not with the master any more the last time.
    missing: BTreeSet<String>,
    /// Positions that are not written down.
    unsaved: BTreeSet<String>,
    saved: Instant,
    /// When it was noted last how far everything is proven to be.
    proven: Instant,
    /// When the master was asked last what it has, in milliseconds since 1970.
    listed_ms: i64,
    storage: Arc<Storage>,
    /// None when the files lie in a bucket.
    files: Option<FileSync>,
    /// Databases of which new files are being received.
    bootstrapping: BTreeMap<String, DatabaseEntry>,
}

impl SyncLoop {
    /// Streams wait in `data_dir`.
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
                report_transfer(&state, name, done, length)
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

    /// Runs cycles until the replica is stopped.
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
                // What was named may not be named again; what is missing is gone when it is so once more.
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

    /// Until when everything here was known to be all that the master had: to be saved for databases that
    /// do not change, too.
    fn record_proofs(&mut self) {
        self.proven = Instant::now();
        let mut state = lock(&self.replica.state);
        let confirmed_ms = state.confirmed_ms;
        for (name, position) in &mut state.positions {
            position.synced_ms = position.synced_ms.max(confirmed_ms);
            self.unsaved.insert(name.clone());
        }
    }

    /// Brings along these databases, or all. Returns whether everything went well.
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
            log::info(format_args!("sync: all is well again"));
        }
        // What is well with some databases says nothing of the others.
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
                "The master runs a {word} vski with other system tables; this replica stays as it \
                 is until both run the same."
            )));
        }
        // They become names of files.
        if let Some(it) = list
            .databases
            .iter()
            .find(|it| !db::is_valid_name(&it.name))
        {
            return Err(Error::unavailable(format!(
                "The master has a database with a name that none can have: {:?}.",
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

    /// Databases of which the master says that they have changed.
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
            // The journal itself is replicated (FR-4), which tells when to ask for it.
            let default = self.context.databases.default();
            files.extend_journal(default.read(journal::last)?);
        }
        result
    }

    /// First `default.db`, with what is allowed to whom; then the others. What is not here yet comes later,
    /// a part at a time.
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
        // What has come to the master since the question may not be in the answer.
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

    /// Goes on with one new file, `default.db` before the others. False: it came to nothing, and is begun
    /// again with the next full cycle.
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
            // That says whether everything is here now.
            self.replica.request_full_sync();
        }
        failed.is_none()
    }

    /// What the master has of a database.
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
        let follower = follower.ok_or_else(|| Error::internal("nobody follows this database"))?;
        let next = follower.apply(&self.context, fetched, before.as_ref())?;
        failpoints::reach("applied");
        if let Err(error) = follower.checkpoint() {
            log::warn(format_args!("fold the log of {}: {error}", entry.name));
        }
        Ok(next)
    }

    /// Notes how it went with a database.
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
                // Readers who wait for a change have it tried again and again.
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

    /// Moves aside what the master has not had for two full cycles.
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
                "the master has no database {name} any more; moved to {}",
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

    /// Forgets databases that went before they had come, or whose file went without a note of it.
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
            log::info(format_args!("the master has no database {name} any more"));
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
        // The master only shows it; the next one says it again.
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
            // They are found out anew after a start.
            Err(error) => log::warn(format_args!("note how far the replica is: {error}")),
        }
    }
}

/// Notes how far a transfer is, and tells it now and then.
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
