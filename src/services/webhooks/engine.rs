//! The state that the dispatcher, the API and the metrics share.
//!
//! The dispatcher (`dispatcher`) finds due calls and passes them to senders, threads that start as
//! needed and make one call at a time. Only the dispatcher reads and writes rows. At a stop, calls
//! in progress have two seconds to end; then they are aborted and their rows stay pending, to be
//! sent after the next start. A sender that does not return even then is abandoned: it owns nothing
//! that must be closed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use super::core::CallOutcome;
use super::queue;
use super::runs::StartRun;
use super::send::HttpSender;
use super::senders::SenderPool;
use crate::base::error::{Kind, Result};
use crate::base::signal::Signal;
use crate::base::threads::lock;
use crate::base::tls::Roots;
use crate::base::{clock, log};
use crate::model::auth::WebhookSecret;
use crate::store::db::Databases;

/// Databases per round of checks or deletions; less than the number that may be open.
const DATABASES_PER_ROUND: usize = 32;
/// Batches deleted from the log of one database in one round.
const BATCHES_MAX: usize = 100;

/// Options of webhook calls.
pub struct WebhookSettings {
    pub secret: WebhookSecret,
    /// The id of this server.
    pub node: String,
    /// Refuse calls to private addresses.
    pub denies_private: bool,
    /// Certificate authorities that receivers are checked against.
    pub roots: Roots,
    pub start: StartRun,
}

/// See the module documentation.
pub struct Webhooks {
    /// Signals the names of databases with pending calls.
    pub signal: Arc<Signal<String>>,
    pub(super) databases: Arc<Databases>,
    pub(super) senders: Arc<SenderPool>,
    /// Databases that have or had rows.
    pub(super) known: Mutex<BTreeSet<String>>,
    pub(super) counts: AttemptCounters,
    /// The last database whose log was trimmed.
    last_trimmed: Mutex<String>,
}

/// Attempts since the start.
#[derive(Default)]
pub(super) struct AttemptCounters {
    success: AtomicU64,
    pending: AtomicU64,
    failed: AtomicU64,
    /// Pending rows by database.
    pub(super) waiting: Mutex<BTreeMap<String, u64>>,
}

impl AttemptCounters {
    pub fn count(&self, outcome: CallOutcome) {
        self.counter(outcome).fetch_add(1, Relaxed);
    }

    fn counter(&self, outcome: CallOutcome) -> &AtomicU64 {
        match outcome {
            CallOutcome::Success => &self.success,
            CallOutcome::Pending => &self.pending,
            CallOutcome::Failed => &self.failed,
        }
    }
}

impl Webhooks {
    /// Sends nothing before [`Dispatcher::run`](super::Dispatcher::run).
    pub fn new(
        databases: &Arc<Databases>,
        signal: Arc<Signal<String>>,
        settings: WebhookSettings,
    ) -> Webhooks {
        let http = HttpSender::new(
            settings.secret,
            &settings.node,
            settings.denies_private,
            &settings.roots,
        );
        Webhooks {
            databases: Arc::clone(databases),
            senders: Arc::new(SenderPool::new(http, settings.start, &signal)),
            signal,
            known: Mutex::default(),
            counts: AttemptCounters::default(),
            last_trimmed: Mutex::default(),
        }
    }

    /// Attempts since the start with this outcome; `Pending` counts attempts that are retried.
    pub fn attempts(&self, outcome: CallOutcome) -> u64 {
        self.counts.counter(outcome).load(Relaxed)
    }

    /// Pending calls, counting at most 10,000 per database.
    pub fn waiting(&self) -> u64 {
        lock(&self.counts.waiting).values().sum()
    }

    /// Deletes log entries that exceed the retention, a limited number per call.
    pub fn delete_expired(&self) {
        let names = self.next_databases(&mut lock(&self.last_trimmed));
        for name in names {
            match self.delete_expired_in(&name) {
                Err(error) if error.kind() == Kind::NotFound => {
                    lock(&self.known).remove(&name);
                }
                Err(error) => {
                    log::warn(format_args!("trim the webhook log of {name}: {error}"));
                }
                Ok(()) => {}
            }
        }
    }

    /// The next known databases after `last`, in rotation.
    pub(super) fn next_databases(&self, last: &mut String) -> Vec<String> {
        let known = lock(&self.known);
        let behind = known.range::<String, _>((Excluded(&*last), Unbounded));
        let names = behind.chain(known.range::<String, _>(..=&*last));
        let names: Vec<String> = names.take(DATABASES_PER_ROUND).cloned().collect();
        if let Some(name) = names.last() {
            last.clone_from(name);
        }
        names
    }

    fn delete_expired_in(&self, name: &str) -> Result<()> {
        let now_ms = clock::now_ms();
        let database = self.databases.get(name)?;
        for (outcome, until_ms) in database.read(|db| queue::expired(db, now_ms))? {
            for _ in 0..BATCHES_MAX {
                if !database.write(move |tx| queue::delete(tx, outcome, until_ms))? {
                    break;
                }
            }
        }
        Ok(())
    }
}
