//! Threads that hash passwords, so that a flood of log-ins slows down log-ins only.
//!
//! At most [`THREADS_MAX`] hashes are computed at a time, which bounds their memory. The threads
//! have normal priority and share the processors with request threads: at a lower priority a log-in
//! takes seconds while queries keep the processors busy. A budget bounds the number of waiting
//! jobs, and none waits longer than [`WAIT`], so log-ins never occupy all request threads.
//!
//! The caller that has used the smallest share of its limits (see [`super::throttle`]) comes first.
//! Among equals networks take turns. So a log-in waits for the hash in progress, and not for a
//! queue of callers that sign in continuously. If the queue is full, a job replaces the last job of
//! the network that has most, if its own network has fewer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{JoinHandle, available_parallelism};
use std::time::{Duration, Instant};

use super::password;
use crate::base::budget::{Budget, Charge, Network, Payer};
use crate::base::error::{Error, Kind, Result};
use crate::base::threads;
use crate::base::threads::lock;

const THREADS_MAX: usize = 2;
/// Long enough for a queue of 16 while other programs keep the processors busy.
const WAIT: Duration = Duration::from_secs(20);
/// Limit of the wait for hashes in progress at a stop. Their results are no longer needed.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Computes and verifies hashes on its own threads. They end when it is dropped.
pub struct PasswordHasher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<HashQueue>,
    added: Condvar,
    /// Bounds the number of waiting jobs.
    budget: Arc<Budget>,
}

/// The waiting jobs. Invariant: no network has an empty list.
#[derive(Default)]
struct HashQueue {
    /// The next network is the first.
    networks: VecDeque<(Network, VecDeque<HashJob>)>,
    is_closed: bool,
}

/// Decides the order of waiting jobs.
#[derive(Clone, Copy)]
pub struct HashPriority {
    pub network: Network,
    /// The share of its limits that the caller has used, in thousandths. The lowest comes first.
    pub load: u32,
}

impl HashPriority {
    /// The priority of a caller without a limit.
    pub fn uncounted(from: IpAddr) -> HashPriority {
        HashPriority {
            network: Network::of(from),
            load: 0,
        }
    }
}

/// If it is dropped before it ran, its caller gets the error that the server is busy.
struct HashJob {
    load: u32,
    /// The caller stops waiting at this time.
    deadline: Instant,
    work: Box<dyn FnOnce() + Send>,
    /// Held while the job waits.
    charge: Option<Charge>,
}

impl HashQueue {
    fn push(&mut self, network: Network, job: HashJob) {
        match self.networks.iter_mut().find(|(it, _)| *it == network) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.networks.push_back((network, VecDeque::from([job]))),
        }
    }

    /// Removes the next job. Of the networks whose first job has the lowest load, it takes the one
    /// that waits longest.
    fn pop(&mut self) -> Option<HashJob> {
        let load =
            |(_, jobs): &(Network, VecDeque<HashJob>)| jobs.front().map_or(0, |job| job.load);
        let next = (0..self.networks.len()).min_by_key(|at| load(&self.networks[*at]))?;
        let (network, mut jobs) = self.networks.remove(next)?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.networks.push_back((network, jobs));
        }
        job
    }

    /// Drops the last job of the network that has most, unless `network` would then have as many
    /// itself.
    fn make_room(&mut self, network: Network) -> bool {
        let own = self.networks.iter().find(|(it, _)| *it == network);
        let own = own.map_or(0, |(_, jobs)| jobs.len());
        let most = self.networks.iter_mut().max_by_key(|(_, jobs)| jobs.len());
        match most {
            Some((_, jobs)) if jobs.len() > own + 1 => jobs.pop_back().is_some(),
            _ => false,
        }
    }
}

impl PasswordHasher {
    /// Starts the threads. `budget` bounds the waiting jobs.
    pub fn start(budget: Arc<Budget>) -> Result<PasswordHasher> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            added: Condvar::new(),
            budget,
        });
        let threads = available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(THREADS_MAX);
        let threads = (0..threads)
            .map(|_| {
                let shared = Arc::clone(&shared);
                threads::spawn("hasher", move || work(&shared))
            })
            .collect::<Result<_>>()?;
        Ok(PasswordHasher { shared, threads })
    }

    /// [`password::hash`].
    pub fn hash(&self, priority: HashPriority, password: &str) -> Result<String> {
        let password = password.to_owned();
        self.run(priority, move || password::hash(&password))
    }

    /// [`password::verify`].
    pub fn verify(
        &self,
        priority: HashPriority,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool> {
        let (password, hash) = (password.to_owned(), hash.map(str::to_owned));
        self.run(priority, move || {
            password::verify(&password, hash.as_deref())
        })
    }

    fn run<T: Send + 'static>(
        &self,
        HashPriority { network, load }: HashPriority,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = sync_channel(1);
        self.enqueue(
            network,
            HashJob {
                load,
                deadline: Instant::now() + WAIT,
                // The caller may have stopped waiting.
                work: Box::new(move || drop(answer.send(work()))),
                charge: None,
            },
        )?;
        answered.recv_timeout(WAIT).map_err(|_| busy())?
    }

    fn enqueue(&self, network: Network, mut job: HashJob) -> Result<()> {
        let Shared {
            queue,
            added,
            budget,
        } = &*self.shared;
        let payer = Payer {
            network,
            has_credentials: false,
        };
        let mut queue = lock(queue);
        let charge = match budget.charge(payer, 1) {
            Err(_) if queue.make_room(network) => budget.charge(payer, 1),
            charge => charge,
        };
        job.charge = Some(charge.map_err(|_| busy())?);
        queue.push(network, job);
        added.notify_one();
        Ok(())
    }
}

fn busy() -> Error {
    Error::new(Kind::TooMany, "Too many log-ins at once; try again later.")
        .with_retry_after(Duration::from_secs(1))
}

impl Drop for PasswordHasher {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.added.notify_all();
        let deadline = Instant::now() + STOP_DEADLINE;
        for thread in self.threads.drain(..) {
            threads::join_until(thread, deadline);
        }
    }
}

fn work(shared: &Shared) {
    while let Some(job) = next(shared) {
        if Instant::now() < job.deadline {
            (job.work)();
        }
    }
}

/// Waits for a job and ends its charge. None once the hasher is dropped.
fn next(shared: &Shared) -> Option<HashJob> {
    let mut queue = lock(&shared.queue);
    while !queue.is_closed {
        if let Some(mut job) = queue.pop() {
            job.charge = None;
            return Some(job);
        }
        queue = threads::wait(&shared.added, queue);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::budget::Budgets;

    const A: Network = Network::V4(1);
    const B: Network = Network::V4(2);

    fn priority(network: Network, load: u32) -> HashPriority {
        HashPriority { network, load }
    }

    fn hasher() -> PasswordHasher {
        PasswordHasher::start(Budgets::new(1, 64, 1).hashes).unwrap()
    }

    #[test]
    fn hashes_are_made_and_verified_elsewhere() {
        let hasher = hasher();
        let hash = hasher.hash(priority(A, 0), "correct horse").unwrap();
        assert!(
            hasher
                .verify(priority(A, 0), "correct horse", Some(&hash))
                .unwrap()
        );
        assert!(
            !hasher
                .verify(priority(A, 0), "wrong horse", Some(&hash))
                .unwrap()
        );
        assert_eq!(hasher.shared.budget.used(), 0);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let hasher = hasher();
        let answers: Vec<Result<String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..60)
                .map(|_| scope.spawn(|| hasher.hash(priority(A, 0), "correct horse")))
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
        assert_eq!(hasher.shared.budget.used(), 0);
    }

    #[test]
    fn networks_take_turns_and_the_largest_makes_room() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let job = |name: &'static str| {
            let done = Arc::clone(&done);
            HashJob {
                load: 0,
                deadline: Instant::now() + WAIT,
                work: Box::new(move || lock(&done).push(name)),
                charge: None,
            }
        };
        let mut queue = HashQueue::default();
        for name in ["a1", "a2", "a3", "a4"] {
            queue.push(A, job(name));
        }
        assert!(!queue.make_room(A), "not for itself");
        assert!(queue.make_room(B));
        queue.push(B, job("b1"));
        assert!(queue.make_room(B));
        queue.push(B, job("b2"));
        assert!(!queue.make_room(B), "both have two");
        assert!(queue.make_room(Network::V4(3)));
        queue.push(Network::V4(3), job("c1"));
        while let Some(job) = queue.pop() {
            (job.work)();
        }
        let done = lock(&done).clone();
        assert_eq!(done.len(), 4);
        let at = |name: &str| done.iter().position(|it| *it == name);
        assert_eq!((at("a1"), at("c1"), at("a3")), (Some(0), Some(2), None));
    }

    #[test]
    fn the_caller_that_used_least_of_its_limits_comes_first() {
        let job = |load| HashJob {
            load,
            deadline: Instant::now() + WAIT,
            work: Box::new(|| {}),
            charge: None,
        };
        let mut queue = HashQueue::default();
        for network in 0..8 {
            queue.push(Network::V4(network), job(900));
            queue.push(Network::V4(network), job(950));
        }
        queue.push(Network::V4(100), job(25));
        queue.push(Network::V4(101), job(0));
        let loads: Vec<u32> = std::iter::from_fn(|| queue.pop())
            .map(|job| job.load)
            .collect();
        assert_eq!(loads[..2], [0, 25]);
        assert_eq!(loads[2..], [[900; 8], [950; 8]].concat());
    }
}
