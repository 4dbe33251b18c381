//! Threads that fetch files from the master.
//!
//! The sync thread queues files, collects the results and moves the files to their places in
//! batches. A request for a file that has not arrived moves it to the front and waits. Bounds:
//! [`THREADS`] downloads at a time; the queue holds one page of the journal and the files that
//! requests wait for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{FileReply, MasterClient};
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{log, threads};
use crate::store::files::{FilePath, RemoteFile, Storage};

/// Concurrent downloads.
const THREADS: usize = 8;
/// Threads reserved for files that a request waits for.
const URGENT_THREADS: usize = 2;
/// Time limit for a fetched file to be moved to its place.
const PLACING: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum DownloadOutcome {
    /// Fetched; waits to be moved to its place.
    Fetched,
    /// The file is already in place.
    AlreadyPresent,
    /// The master no longer has the file.
    Deleted,
}

/// The download threads and their queue.
pub struct Downloads {
    client: Arc<MasterClient>,
    storage: Arc<Storage>,
    state: Mutex<DownloadQueue>,
    queued: Condvar,
    done: Condvar,
    /// Bytes received since the start.
    bytes: AtomicU64,
    is_stopped: AtomicBool,
}

#[derive(Default)]
struct DownloadQueue {
    queue: VecDeque<DownloadJob>,
    /// By path; true if the download is cancelled.
    running: BTreeMap<FilePath, bool>,
    results: Vec<(RemoteFile, Result<DownloadOutcome>)>,
    stop: bool,
}

struct DownloadJob {
    remote: RemoteFile,
    /// Moved to its place as soon as it arrives, not in a batch.
    is_urgent: bool,
    trusts_size: bool,
}

impl Downloads {
    pub fn new(client: &Arc<MasterClient>, storage: &Arc<Storage>) -> Downloads {
        Downloads {
            client: Arc::clone(client),
            storage: Arc::clone(storage),
            state: Mutex::default(),
            queued: Condvar::new(),
            done: Condvar::new(),
            bytes: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Starts the threads.
    pub fn start(self: &Arc<Self>) -> Result<Vec<JoinHandle<()>>> {
        let start = |number: usize| {
            let downloads = Arc::clone(self);
            threads::spawn("download", move || downloads.run(number < URGENT_THREADS))
        };
        (0..THREADS).map(start).collect()
    }

    /// Stops the threads and drops the queue.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        lock(&self.state).stop = true;
        self.queued.notify_all();
        self.done.notify_all();
    }

    /// Queues files, in this order. With `trusts_size`, a local file of the same size is not read
    /// again.
    pub fn queue(&self, remotes: impl IntoIterator<Item = RemoteFile>, trusts_size: bool) {
        let jobs = remotes.into_iter().map(|remote| DownloadJob {
            remote,
            is_urgent: false,
            trusts_size,
        });
        lock(&self.state).queue.extend(jobs);
        self.queued.notify_all();
    }

    /// Takes the results; waits until the deadline for the first one.
    pub fn results(&self, deadline: Instant) -> Vec<(RemoteFile, Result<DownloadOutcome>)> {
        let mut state = lock(&self.state);
        while state.results.is_empty() && !state.stop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                break;
            };
            state = threads::wait_timeout(&self.done, state, left);
        }
        std::mem::take(&mut state.results)
    }

    /// Bytes received since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Fetches a file ahead of all others and waits for it. Returns false on timeout.
    pub fn fetch_now(&self, remote: &RemoteFile, deadline: Instant) -> Result<bool> {
        let mut state = lock(&self.state);
        let is_wanted = |state: &DownloadQueue| {
            state.running.contains_key(&remote.path)
                || state
                    .queue
                    .iter()
                    .any(|job| job.is_urgent && job.remote == *remote)
        };
        if !is_wanted(&state) {
            state.queue.push_front(DownloadJob {
                remote: remote.clone(),
                is_urgent: true,
                trusts_size: false,
            });
            self.queued.notify_all();
        }
        while is_wanted(&state) {
            let left = deadline.checked_duration_since(Instant::now());
            let Some(left) = left.filter(|_| !state.stop) else {
                return Ok(false);
            };
            state = threads::wait_timeout(&self.done, state, left);
        }
        drop(state);
        // The sync thread may have fetched it and moves it to its place in a batch.
        let deadline = deadline.min(Instant::now() + PLACING);
        while self.storage.size(&remote.path)? != Some(remote.size) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            threads::pause(Duration::from_millis(20));
        }
        Ok(true)
    }

    /// Queues a damaged file to be fetched again, without waiting.
    pub fn repair(&self, remote: RemoteFile) {
        let mut state = lock(&self.state);
        if state.queue.iter().all(|job| job.remote != remote) {
            state.queue.push_back(DownloadJob {
                remote,
                is_urgent: true,
                trusts_size: false,
            });
        }
        drop(state);
        self.queued.notify_all();
    }

    /// Removes incomplete files if no download is queued or running.
    pub fn remove_partials(&self) -> Result<()> {
        let state = lock(&self.state);
        match state.running.is_empty() && state.queue.is_empty() && state.results.is_empty() {
            // No download can start while the lock is held.
            true => self.storage.forget_incoming(),
            false => Ok(()),
        }
    }

    /// Cancels downloads of this path.
    pub fn cancel(&self, path: &FilePath) {
        let mut state = lock(&self.state);
        state
            .queue
            .retain(|job| !job.is_urgent || job.remote.path != *path);
        if let Some(is_cancelled) = state.running.get_mut(path) {
            *is_cancelled = true;
        }
        drop(state);
        self.done.notify_all();
    }

    fn run(&self, only_urgent: bool) {
        while let Some(job) = self.next(only_urgent) {
            let result = self.download(&job);
            self.finish(job, result);
        }
    }

    fn finish(&self, job: DownloadJob, result: Result<DownloadOutcome>) {
        let mut state = lock(&self.state);
        // No other thread deletes the file while the lock is held.
        let is_cancelled = state.running.remove(&job.remote.path).unwrap_or(false);
        if job.is_urgent {
            if !is_cancelled && matches!(result, Ok(DownloadOutcome::Fetched)) {
                let placed = self.storage.accept(std::slice::from_ref(&job.remote));
                if let Err(error) = placed {
                    log::warn(format_args!("file {}: {error}", job.remote.path));
                }
            }
        } else {
            state.results.push((job.remote, result));
        }
        drop(state);
        self.done.notify_all();
        // Another thread may wait for this path.
        self.queued.notify_all();
    }

    /// Waits for the next job whose path is not in use.
    fn next(&self, only_urgent: bool) -> Option<DownloadJob> {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            let running = &state.running;
            let is_free = |job: &DownloadJob| {
                (job.is_urgent || !only_urgent) && !running.contains_key(&job.remote.path)
            };
            if let Some(at) = state.queue.iter().position(is_free) {
                let job = state.queue.remove(at)?;
                state.running.insert(job.remote.path.clone(), false);
                return Some(job);
            }
            state = threads::wait(&self.queued, state);
        }
    }

    fn download(&self, job: &DownloadJob) -> Result<DownloadOutcome> {
        let remote = &job.remote;
        let is_held = match job.trusts_size {
            true => self.storage.size(&remote.path)? == Some(remote.size),
            false => self.storage.holds(remote)?,
        };
        if is_held {
            return Ok(DownloadOutcome::AlreadyPresent);
        }
        let mut incoming = self.storage.incoming(remote)?;
        if incoming.have < remote.size || remote.size == 0 {
            let mut body = match self.client.file(&remote.path.to_string(), incoming.have)? {
                FileReply::Rest(body) => body,
                FileReply::Whole(body) => {
                    incoming.restart()?;
                    body
                }
                FileReply::Gone => {
                    incoming.discard();
                    return Ok(DownloadOutcome::Deleted);
                }
            };
            let mut progress = |bytes| {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                !self.is_stopped.load(Ordering::SeqCst)
            };
            incoming.fill(&mut *body, &mut progress)?;
        }
        incoming.check()?;
        incoming.close();
        Ok(DownloadOutcome::Fetched)
    }
}

/// The error with the path of its file.
pub fn describe_error(remote: &RemoteFile, error: &Error) -> String {
    format!("{}: {}", remote.path, error.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids;
    use crate::store::files::Reserve;

    /// A request for a file once arrived while the same file was queued. The first fetch ended
    /// without waking the thread that waited for the path, and all files behind it waited forever.
    #[test]
    fn what_waits_for_a_path_is_told_when_that_is_free() {
        let token = ids::hex(&ids::random_bytes::<8>().unwrap());
        let dir = std::env::temp_dir().join(format!("vski-downloads-{token}"));
        let client = MasterClient::new("http://127.0.0.1:1", "r", None, Box::new(String::new));
        let storage = Storage::open(&dir, None, Reserve::default()).unwrap();
        let downloads = Arc::new(Downloads::new(&Arc::new(client), &Arc::new(storage)));
        let remote = RemoteFile {
            path: FilePath::parse("default/docs/r1/a.txt").unwrap(),
            size: 1,
            sha256: String::new(),
        };
        downloads.repair(remote.clone());
        let urgent = downloads.next(true).unwrap();
        downloads.queue([remote], false);
        let ours = Arc::clone(&downloads);
        let general = threads::spawn("download", move || ours.next(false)).unwrap();
        threads::pause(Duration::from_millis(100));
        assert!(!general.is_finished());
        downloads.finish(urgent, Ok(DownloadOutcome::AlreadyPresent));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !general.is_finished() && Instant::now() < deadline {
            threads::pause(Duration::from_millis(5));
        }
        let has_begun = general.is_finished();
        downloads.stop();
        assert!(general.join().unwrap().is_some() && has_begun);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
