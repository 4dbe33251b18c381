//! Threads that hash passwords, so that a flood of log-ins slows nobody but log-ins.
//!
//! At most [`THREADS_MAX`] hashes are computed at a time, on at most half of the processors, by
//! threads of low priority: that bounds their memory and leaves the processors to other requests. At most [`WAITING_MAX`] wait, and
//! none longer than [`WAIT`]; the rest is turned away at once, so that log-ins never hold all request
//! threads.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::thread::available_parallelism;
use std::time::Duration;
use std::time::Instant;

use super::password;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::log;
use crate::threads;
use crate::threads::lock;

const THREADS_MAX: usize = 2;
const WAITING_MAX: usize = 16;
const WAIT: Duration = Duration::from_secs(5);
/// Weighs about a thirtieth of a request thread when both want the same processor.
const NICENESS: i32 = 15;
/// How long a stop waits for hashes under way, which are worth nothing by then.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Computes and verifies hashes on its own threads; they end when it is dropped.
pub struct Hasher {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Job {
    /// Nobody waits for it any more after this.
    deadline: Instant,
    work: Box<dyn FnOnce() + Send>,
}

impl Hasher {
    pub fn start() -> Result<Hasher> {
        let (jobs, queue) = sync_channel(WAITING_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let threads = available_parallelism().map_or(1, NonZero::get) / 2;
        let threads = threads.clamp(1, THREADS_MAX);
        let threads = (0..threads)
            .map(|_| {
                let queue = Arc::clone(&queue);
                threads::spawn("hasher", move || work(&queue))
            })
            .collect::<Result<_>>()?;
        Ok(Hasher {
            jobs: Some(jobs),
            threads,
        })
    }

    /// [`password::hash`].
    pub fn hash(&self, password: &str) -> Result<String> {
        let password = password.to_owned();
        self.run(move || password::hash(&password))
    }

    /// [`password::verify`].
    pub fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool> {
        let (password, hash) = (password.to_owned(), hash.map(str::to_owned));
        self.run(move || password::verify(&password, hash.as_deref()))
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let busy = || Error::new(Kind::TooMany, "Too many log-ins at once; try again later.");
        let (answer, answered) = sync_channel(1);
        let job = Job {
            deadline: Instant::now() + WAIT,
            // Whoever asked may have gone.
            work: Box::new(move || drop(answer.send(work()))),
        };
        let jobs = self.jobs.as_ref().ok_or_else(busy)?;
        jobs.try_send(job).map_err(|_| busy())?;
        answered.recv_timeout(WAIT).map_err(|_| busy())?
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let deadline = Instant::now() + STOP_DEADLINE;
        for thread in self.threads.drain(..) {
            threads::join_until(thread, deadline);
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        log::warn(format_args!(
            "passwords are hashed at ordinary priority: {error}"
        ));
    }
    loop {
        // The lock is held while waiting: one thread waits for the queue, the other for the lock.
        let Ok(job) = lock(queue).recv() else {
            return;
        };
        if Instant::now() < job.deadline {
            (job.work)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_made_and_verified_elsewhere() {
        let hasher = Hasher::start().unwrap();
        let hash = hasher.hash("correct horse").unwrap();
        assert!(hasher.verify("correct horse", Some(&hash)).unwrap());
        assert!(!hasher.verify("wrong horse", Some(&hash)).unwrap());
    }

    #[test]
    fn whoever_finds_the_queue_full_is_turned_away_at_once() {
        let hasher = Hasher::start().unwrap();
        let answers: Vec<Result<String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..60)
                .map(|_| scope.spawn(|| hasher.hash("correct horse")))
                .collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap())
                .collect()
        });
        let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
        let kinds: Vec<Kind> = refused.map(Error::kind).collect();
        assert!(!kinds.is_empty() && kinds.len() < 60, "{}", kinds.len());
        assert!(kinds.iter().all(|kind| *kind == Kind::TooMany));
    }
}
