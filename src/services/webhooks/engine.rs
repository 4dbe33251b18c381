//! The thread that sends what waits, and its senders.
//!
//! The dispatcher (`rounds`) finds out what is due and hands it to senders, threads that are started as they
//! are needed and make one call at a time. It alone reads and writes rows. At a stop calls under way have
//! two seconds to end; then they are cut and their rows stay as they are, to be sent again after the next
//! start. A sender that does not come back even then is left behind: it owns nothing that must be closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::core::{Attempt, Outcome};
use super::queue::Row;
use super::rounds::Rounds;
use super::runs::Start;
use super::send::{Http, Message};
use super::{queue, runs};
use crate::base::error::{Kind, Result};
use crate::base::threads::{Stop, lock};
use crate::base::tls::Roots;
use crate::base::{clock, log, threads};
use crate::model::auth::WebhookSecret;
use crate::model::triggers::Target;
use crate::store::db::{Databases, Signal};

/// How long a sender waits for something to do before it looks up.
const SENDER_PAUSE: Duration = Duration::from_secs(60);
/// Databases that are looked at, or cleaned, in one go; fewer than may be open.
const AT_ONCE: usize = 32;
/// Bits of a database's log that are deleted in one go.
const CLEAN_BITS: usize = 100;

/// How calls are made.
pub struct Settings {
    pub secret: WebhookSecret,
    /// The name of this server.
    pub node: String,
    /// Calls to private addresses are refused.
    pub denies_private: bool,
    /// By whom the receivers are trusted.
    pub roots: Roots,
    pub start: Start,
}

/// See the module documentation.
pub struct Webhooks {
    /// Who is notified of a database in which something waits.
    pub signal: Arc<Signal>,
    pub(super) databases: Arc<Databases>,
    pub(super) desk: Arc<Desk>,
    /// Databases that have, or had, rows.
    pub(super) known: Mutex<BTreeSet<String>>,
    pub(super) counts: Counts,
    /// The last of the databases whose logs were cleaned.
    last_cleaned: Mutex<String>,
}

/// What was done since the start.
#[derive(Default)]
pub(super) struct Counts {
    success: AtomicU64,
    pending: AtomicU64,
    failed: AtomicU64,
    /// Rows that wait, by database.
    pub(super) waiting: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    pub(super) fn count(&self, outcome: Outcome) {
        self.of(outcome).fetch_add(1, Relaxed);
    }

    fn of(&self, outcome: Outcome) -> &AtomicU64 {
        match outcome {
            Outcome::Success => &self.success,
            Outcome::Pending => &self.pending,
            Outcome::Failed => &self.failed,
        }
    }
}

impl Webhooks {
    /// Nothing is sent before [`Webhooks::run`].
    pub fn new(databases: &Arc<Databases>, signal: Arc<Signal>, settings: Settings) -> Webhooks {
        let http = Http::new(
            settings.secret,
            &settings.node,
            settings.denies_private,
            &settings.roots,
        );
        Webhooks {
            databases: Arc::clone(databases),
            desk: Arc::new(Desk {
                http,
                start: settings.start,
                signal: Arc::clone(&signal),
                state: Mutex::default(),
                arrived: Condvar::new(),
            }),
            signal,
            known: Mutex::default(),
            counts: Counts::default(),
            last_cleaned: Mutex::default(),
        }
    }

    /// Works until it is stopped. What fails is logged and tried again.
    pub fn run(&self, stop: &Stop) {
        Rounds::new(self).run(stop);
    }

    /// Attempts since the start that ended so; `Pending` are those that are tried again.
    pub fn attempts(&self, outcome: Outcome) -> u64 {
        self.counts.of(outcome).load(Relaxed)
    }

    /// Calls that wait, at most 10,000 of each database.
    pub fn waiting(&self) -> u64 {
        lock(&self.counts.waiting).values().sum()
    }

    /// Deletes what is too old, or too much, of the logs; some of it at a time.
    pub fn clean(&self) {
        let names = self.some(&mut lock(&self.last_cleaned));
        for name in names {
            match self.clean_one(&name) {
                Err(error) if error.kind() == Kind::NotFound => {
                    lock(&self.known).remove(&name);
                }
                Err(error) => {
                    log::warn(format_args!("clean the log of webhooks of {name}: {error}"));
                }
                Ok(()) => {}
            }
        }
    }

    /// The next databases that are known, behind the last one that this gave out.
    pub(super) fn some(&self, last: &mut String) -> Vec<String> {
        let known = lock(&self.known);
        let behind = known.range::<String, _>((Excluded(&*last), Unbounded));
        let names = behind.chain(known.range::<String, _>(..=&*last));
        let names: Vec<String> = names.take(AT_ONCE).cloned().collect();
        if let Some(name) = names.last() {
            last.clone_from(name);
        }
        names
    }

    fn clean_one(&self, name: &str) -> Result<()> {
        let now_ms = clock::now_ms();
        let database = self.databases.get(name)?;
        for (outcome, until_ms) in database.read(|db| queue::excess(db, now_ms))? {
            for _ in 0..CLEAN_BITS {
                if !database.write(move |tx| queue::delete(tx, outcome, until_ms))? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Where dispatcher and senders meet.
pub(super) struct Desk {
    http: Http,
    start: Start,
    signal: Arc<Signal>,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    ended: Vec<Ended>,
    is_over: bool,
}

/// A call to be made.
pub(super) struct Job {
    pub database: String,
    pub host: String,
    pub row: Row,
}

/// One that was made.
pub(super) struct Ended {
    pub job: Job,
    pub attempt: Attempt,
}

impl Desk {
    /// Puts a call there for the next sender. Bound: the dispatcher has no more under way than there can
    /// be senders.
    pub(super) fn put(&self, job: Job) {
        lock(&self.state).jobs.push_back(job);
        self.arrived.notify_one();
    }

    /// What has ended since the last time.
    pub(super) fn take_ended(&self) -> Vec<Ended> {
        std::mem::take(&mut lock(&self.state).ended)
    }

    /// Ends the senders; calls under way are cut, and what comes of them does not count.
    pub(super) fn close(&self) {
        {
            let mut state = lock(&self.state);
            state.is_over = true;
            state.jobs.clear();
        }
        self.http.cut();
        self.arrived.notify_all();
    }

    pub(super) fn spawn(desk: &Arc<Desk>) -> Result<JoinHandle<()>> {
        let desk = Arc::clone(desk);
        threads::spawn("webhook", move || {
            while let Some(job) = desk.next() {
                // A panic over one call must not end the sender, nor leave the call under way for ever.
                let attempt = catch_unwind(AssertUnwindSafe(|| desk.attempt(&job)));
                let attempt = attempt
                    .unwrap_or_else(|_| Attempt::Broken("The server has an error.".to_owned()));
                desk.end(Ended { job, attempt });
            }
        })
    }

    fn next(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.is_over {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = threads::wait_timeout(&self.arrived, state, SENDER_PAUSE);
        }
    }

    fn end(&self, ended: Ended) {
        let mut state = lock(&self.state);
        if !state.is_over {
            state.ended.push(ended);
        }
        drop(state);
        self.signal.wake();
    }

    fn attempt(&self, job: &Job) -> Attempt {
        let row = &job.row;
        match &row.target {
            None => Attempt::Refused("The target cannot be read.".to_owned()),
            Some(Target::Workflow { name, input, .. }) => {
                runs::start(&self.start, &job.database, row, name, input.as_ref())
            }
            Some(Target::Http(call)) => {
                // The time tells a database from an older one of the same name.
                let id = format!("{}-{}-{}", job.database, row.id, row.created_ms);
                let message = Message {
                    id: &id,
                    payload: &row.payload,
                    now_ms: clock::now_ms(),
                };
                self.http.call(call, &message)
            }
        }
    }
}
