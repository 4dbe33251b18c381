//! Threads that hash passwords, so that a flood of log-ins slows nobody but log-ins.
//!
//! At most [`THREADS_MAX`] hashes are computed at a time, which bounds their memory. Their threads have
//! the ordinary priority and share the processors with those of requests: with a lower one a log-in
//! takes seconds while queries keep the processors busy. The budget bounds how many wait, and none waits longer than [`WAIT`], so that log-ins never hold all
//! request threads.
//!
//! Networks take turns: one that sends many waits for its own. If the queue is full, a network that has fewer
//! waiting takes the place of the last one of the network that has most.

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::thread::available_parallelism;
use std::time::Duration;
use std::time::Instant;

use super::password;
use crate::budget::Budget;
use crate::budget::Charge;
use crate::budget::Network;
use crate::budget::Payer;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::threads;
use crate::threads::lock;

const THREADS_MAX: usize = 2;
/// Long enough for a queue of 16 while other programs keep the processors busy.
const WAIT: Duration = Duration::from_secs(20);
/// How long a stop waits for hashes under way, which are worth nothing by then.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Computes and verifies hashes on its own threads; they end when it is dropped.
pub struct Hasher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    added: Condvar,
    /// Counts the jobs that wait.
    budget: Arc<Budget>,
}

/// The jobs that wait. Invariant: no network has an empty list.
#[derive(Default)]
struct Queue {
    /// The network whose turn is next is the first.
    networks: VecDeque<(Network, VecDeque<Job>)>,
    is_closed: bool,
}

/// Dropped without having run, it tells its caller that the server is busy.
struct Job {
    /// Nobody waits for it any more after this.
    deadline: Instant,
    work: Box<dyn FnOnce() + Send>,
    /// Of one that waits.
    charge: Option<Charge>,
}

impl Queue {
    fn push(&mut self, network: Network, job: Job) {
        match self.networks.iter_mut().find(|(it, _)| *it == network) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.networks.push_back((network, VecDeque::from([job]))),
        }
    }

    /// The next job, each network in its turn.
    fn pop(&mut self) -> Option<Job> {
        let (network, mut jobs) = self.networks.pop_front()?;
        let job = jobs.pop_front();
        if !jobs.is_empty() {
            self.networks.push_back((network, jobs));
        }
        job
    }

    /// Gives up the last job of the network that has most, unless `network` would then have as many itself.
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

impl Hasher {
    /// Starts the threads. `budget` is that of the hashes that wait.
    pub fn start(budget: Arc<Budget>) -> Result<Hasher> {
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
        Ok(Hasher { shared, threads })
    }

    /// [`password::hash`].
    pub fn hash(&self, network: Network, password: &str) -> Result<String> {
        let password = password.to_owned();
        self.run(network, move || password::hash(&password))
    }

    /// [`password::verify`].
    pub fn verify(&self, network: Network, password: &str, hash: Option<&str>) -> Result<bool> {
        let (password, hash) = (password.to_owned(), hash.map(str::to_owned));
        self.run(network, move || {
            password::verify(&password, hash.as_deref())
        })
    }

    fn run<T: Send + 'static>(
        &self,
        network: Network,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = sync_channel(1);
        self.enqueue(
            network,
            Job {
                deadline: Instant::now() + WAIT,
                // The caller may have gone.
                work: Box::new(move || drop(answer.send(work()))),
                charge: None,
            },
        )?;
        answered.recv_timeout(WAIT).map_err(|_| busy())?
    }

    fn enqueue(&self, network: Network, mut job: Job) -> Result<()> {
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

impl Drop for Hasher {
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

/// Waits for a job, which then waits no longer; none once the hasher ends.
fn next(shared: &Shared) -> Option<Job> {
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
    use crate::budget::Budgets;

    const A: Network = Network::V4(1);
    const B: Network = Network::V4(2);

    fn hasher() -> Hasher {
        Hasher::start(Budgets::new(1, 64, 1).hashes).unwrap()
    }

    #[test]
    fn hashes_are_made_and_verified_elsewhere() {
        let hasher = hasher();
        let hash = hasher.hash(A, "correct horse").unwrap();
        assert!(hasher.verify(A, "correct horse", Some(&hash)).unwrap());
        assert!(!hasher.verify(A, "wrong horse", Some(&hash)).unwrap());
        assert_eq!(hasher.shared.budget.used(), 0);
    }

    #[test]
    fn whoever_finds_the_queue_full_is_turned_away_at_once() {
        let hasher = hasher();
        let answers: Vec<Result<String>> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..60)
                .map(|_| scope.spawn(|| hasher.hash(A, "correct horse")))
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
            Job {
                deadline: Instant::now() + WAIT,
                work: Box::new(move || lock(&done).push(name)),
                charge: None,
            }
        };
        let mut queue = Queue::default();
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
}
