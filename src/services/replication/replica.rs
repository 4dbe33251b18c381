//! The state of a replica: its progress, and the work that is pending for the sync thread
//! (`sync_loop`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::MasterClient;
use super::downloads::Downloads;
use super::file_sync::FilesStatus;
use super::positions;
use super::positions::Position;
use crate::base::error::Result;
use crate::base::threads::lock;
use crate::base::{clock, threads};
use crate::store::db::{Database, Databases};
use crate::store::files::{RemoteFile, Storage};

/// Clock corrections up to this do not invalidate stored times.
const CLOCK_TOLERANCE_MS: i64 = 1000;
/// Time limit for a request that waits for a file.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    pub master_url: String,
    /// Interval of full cycles.
    pub interval: Duration,
    /// Limit on reads that wait at the same time.
    pub waiters_max: usize,
    /// The name of this replica; defaults to the id of the node.
    pub id: Option<String>,
}

/// State that the sync thread shares with requests.
pub struct Replica {
    pub client: Arc<MasterClient>,
    pub interval: Duration,
    pub local: Arc<Database>,
    pub state: Arc<Mutex<ReplicaState>>,
    /// Signals that a position has changed.
    pub position_changed: Condvar,
    /// `None` if the files are in a bucket.
    pub downloads: Option<Arc<Downloads>>,
    pub files: Arc<Mutex<FilesStatus>>,
    waiters: AtomicUsize,
    waiters_max: usize,
    pending: Mutex<PendingWork>,
    woken: Condvar,
}

/// The progress of all databases.
#[derive(Default)]
pub struct ReplicaState {
    pub positions: BTreeMap<String, Position>,
    pub status: BTreeMap<String, DatabaseState>,
    /// A full cycle has succeeded since the start.
    pub is_complete: bool,
    /// Time of the master's last answer, in Unix milliseconds.
    pub master_seen_ms: Option<i64>,
    /// The error of the last full cycle, or of a later partial one.
    pub error: Option<String>,
    pub cycles: u64,
    pub failures: u64,
    /// Full cycles started, and the number of the last one that succeeded.
    pub full_started: u64,
    pub full_done: u64,
    /// The databases in the last list of the master.
    pub listed: BTreeSet<String>,
    /// A cycle is running or about to start.
    pub is_busy: bool,
    /// The notification socket is connected.
    is_connected: bool,
    /// Last time when the master was heard on the socket and nothing was left to sync, in Unix
    /// milliseconds.
    pub confirmed_ms: i64,
}

/// The progress of one database.
#[derive(Clone, Debug, Default)]
pub struct DatabaseState {
    /// The last known version of the master.
    pub master_version: u64,
    pub error: Option<String>,
    pub failures: u64,
    pub repairs: u64,
    pub transfer: Option<Transfer>,
    /// The replica had everything when it last asked the master.
    pub is_current: bool,
}

/// A transfer in progress.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub begun: Instant,
    /// Time of the last log line.
    pub logged: Instant,
    /// Bytes received, and the total.
    pub done: u64,
    pub length: u64,
}

/// The next step of the sync thread.
#[derive(Debug)]
pub enum SyncTask {
    /// Sync all databases.
    Everything,
    /// Sync these databases.
    Some(BTreeSet<String>),
    /// Continue long transfers.
    More,
    Stop,
}

/// Counts a waiter until it is dropped.
struct WaiterGuard<'a>(&'a AtomicUsize);

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Work requested of the sync thread.
#[derive(Default)]
struct PendingWork {
    everything: bool,
    names: BTreeSet<String>,
    stop: bool,
}

/// The status of a database, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    pub name: String,
    /// `current`, `behind`, `loading` or `failing`.
    pub state: &'static str,
    /// The version of the master; null before the first one arrives.
    pub version: Option<u64>,
    pub master_version: u64,
    /// Last time when it had everything that the master had.
    pub synced: Option<String>,
    pub transfer: Option<TransferStatus>,
    pub error: Option<String>,
    pub failures: u64,
    pub repairs: u64,
}

/// The progress of a transfer, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferStatus {
    pub bytes: u64,
    pub bytes_total: u64,
    pub seconds_left: Option<u64>,
}

/// The status of this replica, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    pub master: String,
    /// Time of the master's last answer.
    pub master_seen: Option<String>,
    pub complete: bool,
    pub connected: bool,
    pub seconds_behind: Option<u64>,
    pub cycles: u64,
    pub failures: u64,
    pub error: Option<String>,
    pub databases: Vec<DatabaseStatus>,
    pub files: FilesStatus,
}

impl Replica {
    /// Loads the stored positions.
    pub fn open(
        local: &Arc<Database>,
        client: MasterClient,
        settings: &ReplicaSettings,
        storage: &Arc<Storage>,
    ) -> Result<Replica> {
        let client = Arc::new(client);
        let state = ReplicaState {
            positions: positions::load(local)?,
            listed: positions::load_listed(local)?,
            ..ReplicaState::default()
        };
        Ok(Replica {
            downloads: storage
                .has_journal()
                .then(|| Arc::new(Downloads::new(&client, storage))),
            files: Arc::new(Mutex::new(FilesStatus {
                state: "off",
                ..FilesStatus::default()
            })),
            client,
            interval: settings.interval,
            waiters: AtomicUsize::new(0),
            waiters_max: settings.waiters_max,
            local: Arc::clone(local),
            state: Arc::new(Mutex::new(state)),
            position_changed: Condvar::new(),
            pending: Mutex::default(),
            woken: Condvar::new(),
        })
    }

    pub fn position(&self, name: &str) -> Option<Position> {
        lock(&self.state).positions.get(name).cloned()
    }

    /// Requests a sync of these databases.
    pub fn request_sync(&self, names: impl IntoIterator<Item = String>) {
        lock(&self.pending).names.extend(names);
        self.woken.notify_all();
    }

    /// Requests a full cycle.
    pub fn request_full_sync(&self) {
        lock(&self.pending).everything = true;
        self.woken.notify_all();
    }

    /// Records whether the notification socket is connected.
    pub fn set_connected(&self, is_connected: bool) {
        lock(&self.state).is_connected = is_connected;
    }

    /// Records that the master was heard. If no work is pending and every database is current, the
    /// replica has everything that the master has.
    pub fn confirm_current(&self) {
        let pending = lock(&self.pending);
        let is_idle = pending.names.is_empty() && !pending.everything;
        let mut state = lock(&self.state);
        if is_idle && !state.is_busy && state.error.is_none() && state.is_current() {
            state.confirmed_ms = clock::now_ms();
        }
    }

    /// Stops the sync thread and aborts its waits.
    pub fn stop(&self) {
        lock(&self.pending).stop = true;
        self.woken.notify_all();
        if let Some(downloads) = &self.downloads {
            downloads.stop();
        }
        self.client.stop();
    }

    /// Reports whether all known files of the master have arrived.
    pub fn has_all_files(&self) -> bool {
        lock(&self.files).state == "current"
    }

    /// Fetches a file ahead of others for a waiting request. Returns false if that takes too long
    /// or too many requests wait.
    pub fn fetch_file(&self, remote: &RemoteFile) -> Result<bool> {
        let Some(downloads) = &self.downloads else {
            return Ok(false);
        };
        let Some(_waiter) = self.register_waiter() else {
            return Ok(false);
        };
        downloads.fetch_now(remote, Instant::now() + FILE_TIMEOUT)
    }

    /// Registers a waiter; `None` if too many wait.
    fn register_waiter(&self) -> Option<WaiterGuard<'_>> {
        let guard = WaiterGuard(&self.waiters);
        (self.waiters.fetch_add(1, Ordering::SeqCst) < self.waiters_max).then_some(guard)
    }

    /// Waits until a database has reached a version of the master. Returns false on timeout, if the
    /// database does not exist here, or if so many requests wait that more would exhaust the
    /// workers.
    pub fn wait_for(&self, name: &str, tag: &str, version: u64, deadline: Instant) -> bool {
        let is_known_history = {
            let state = lock(&self.state);
            let Some(position) = state.positions.get(name) else {
                return false;
            };
            if position.has_reached(tag, version) {
                return true;
            }
            position.epoch.tag() == tag
        };
        let Some(_waiter) = self.register_waiter() else {
            return false;
        };
        // If the epoch is still unknown after a full cycle, it is an earlier one, and the current
        // epoch includes all of its versions.
        let after = lock(&self.state).full_started;
        match is_known_history {
            true => self.request_sync([name.to_owned()]),
            false => self.request_full_sync(),
        }
        let mut state = lock(&self.state);
        loop {
            let position = state.positions.get(name);
            let has_reached = position.is_some_and(|it| it.has_reached(tag, version));
            let is_past = state.full_done > after
                && position.is_some_and(|position| position.epoch.tag() != tag);
            if has_reached || is_past {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            state = threads::wait_timeout(&self.position_changed, state, left);
        }
    }

    /// Reports whether the master has the database but it has not arrived.
    pub fn is_arriving(&self, name: &str, databases: &Databases) -> bool {
        let is_listed = || lock(&self.state).listed.contains(name);
        !databases.file(name).exists() && is_listed()
    }

    /// Reports whether a full cycle has succeeded since the start.
    pub fn is_complete(&self) -> bool {
        lock(&self.state).is_complete
    }

    /// Upper bound for the age of the data, in seconds. `None` before every database has arrived,
    /// and if the stored time is in the future.
    pub fn seconds_behind(&self) -> Option<u64> {
        let state = lock(&self.state);
        let synced = |name: &String| state.positions.get(name).map(|it| it.synced_ms);
        let mut all = state.listed.iter().map(synced);
        let oldest = all.try_fold(i64::MAX, |least, it| it.map(|it| least.min(it)))?;
        let now_ms = clock::now_ms();
        let is_known = |it: &i64| (1..=now_ms + CLOCK_TOLERANCE_MS).contains(it);
        let proofs = [oldest, state.confirmed_ms].into_iter();
        let proven_ms = proofs.filter(is_known).max()?;
        Some((now_ms - proven_ms).max(0).cast_unsigned() / 1000)
    }

    /// The status of this replica.
    pub fn status(&self) -> ReplicaStatus {
        let seconds_behind = self.seconds_behind();
        let state = lock(&self.state);
        let names: BTreeSet<&String> = state.positions.keys().chain(state.status.keys()).collect();
        let databases = names.into_iter().map(|name| state.describe(name));
        ReplicaStatus {
            master: self.client.master_url.clone(),
            master_seen: state.master_seen_ms.map(clock::format_ms),
            complete: state.is_complete,
            connected: state.is_connected,
            seconds_behind,
            cycles: state.cycles,
            failures: state.failures,
            error: state.error.clone(),
            databases: databases.collect(),
            files: lock(&self.files).clone(),
        }
    }

    /// Waits for the next task. A full cycle is due at `due`, long transfers at `more_due`.
    pub fn next_task(&self, due: Instant, more_due: Option<Instant>) -> SyncTask {
        let mut pending = lock(&self.pending);
        loop {
            if pending.stop {
                return SyncTask::Stop;
            }
            let now = Instant::now();
            // Set `is_busy` before releasing the lock, so that work in progress never looks
            // finished.
            if pending.everything || due <= now {
                *pending = PendingWork::default();
                lock(&self.state).is_busy = true;
                return SyncTask::Everything;
            }
            if !pending.names.is_empty() {
                lock(&self.state).is_busy = true;
                return SyncTask::Some(std::mem::take(&mut pending.names));
            }
            let next_task = more_due.map_or(due, |more_due| more_due.min(due));
            if next_task <= now {
                return SyncTask::More;
            }
            pending = threads::wait_timeout(&self.woken, pending, next_task - now);
        }
    }
}

impl ReplicaState {
    fn describe(&self, name: &str) -> DatabaseStatus {
        let (position, status) = (self.positions.get(name), self.status.get(name));
        let status = status.cloned().unwrap_or_default();
        let version = position.map(|position| position.version);
        let state = match &status {
            _ if status.transfer.is_some() && version.is_none() => "loading",
            DatabaseState { error: Some(_), .. } => "failing",
            _ if status.is_current => "current",
            _ => "behind",
        };
        DatabaseStatus {
            name: name.to_owned(),
            state,
            version,
            master_version: status.master_version,
            synced: position.map(|position| clock::format_ms(position.synced_ms)),
            transfer: status.transfer.as_ref().map(Transfer::describe),
            error: status.error,
            failures: status.failures,
            repairs: status.repairs,
        }
    }

    /// Every database of the master is current.
    fn is_current(&self) -> bool {
        let is_current = |name| self.status.get(name).is_some_and(|it| it.is_current);
        !self.listed.is_empty() && self.listed.iter().all(is_current)
    }

    pub fn database_mut(&mut self, name: &str) -> &mut DatabaseState {
        self.status.entry(name.to_owned()).or_default()
    }
}

impl Transfer {
    /// The progress as JSON.
    pub fn describe(&self) -> TransferStatus {
        let seconds = self.begun.elapsed().as_secs_f64();
        let left = (self.length - self.done.min(self.length)) as f64;
        let rate = self.done as f64 / seconds.max(0.001);
        TransferStatus {
            bytes: self.done,
            bytes_total: self.length,
            seconds_left: (self.done > 0).then(|| (left / rate).ceil() as u64),
        }
    }
}
