//! The thread that sends what waits, and its senders.
//!
//! The dispatcher (`dispatcher`) finds out what is due and hands it to senders, threads that are started as they
//! are needed and make one call at a time. It alone reads and writes rows. At a stop calls under way have
//! two seconds to end; then they are cut and their rows stay as they are, to be sent again after the next
//! start. A sender that does not come back even then is left behind: it owns nothing that must be closed.

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

/// Databases that are looked at, or cleaned, in one go; fewer than may be open.
const DATABASES_PER_ROUND: usize = 32;
/// Bits of a database's log that are deleted in one go.
const BATCHES_MAX: usize = 100;

/// How calls are made.
pub struct WebhookSettings {
    pub secret: WebhookSecret,
    /// The name of this server.
    pub node: String,
    /// Calls to private addresses are refused.
    pub denies_private: bool,
    /// By whom the receivers are trusted.
    pub roots: Roots,
    pub start: StartRun,
}

/// See the module documentation.
pub struct Webhooks {
    /// Who is notified of a database in which something waits.
    pub signal: Arc<Signal<String>>,
    pub(super) databases: Arc<Databases>,
    pub(super) senders: Arc<SenderPool>,
    /// Databases that have, or had, rows.
    pub(super) known: Mutex<BTreeSet<String>>,
    pub(super) counts: AttemptCounters,
    /// The last of the databases whose logs were cleaned.
    last_trimmed: Mutex<String>,
}

/// What was done since the start.
#[derive(Default)]
pub(super) struct AttemptCounters {
    success: AtomicU64,
    pending: AtomicU64,
    failed: AtomicU64,
    /// Rows that wait, by database.
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
    /// Nothing is sent before [`Dispatcher::run`](super::Dispatcher::run).
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

    /// Attempts since the start that ended so; `Pending` are those that are tried again.
    pub fn attempts(&self, outcome: CallOutcome) -> u64 {
        self.counts.counter(outcome).load(Relaxed)
    }

    /// Calls that wait, at most 10,000 of each database.
    pub fn waiting(&self) -> u64 {
        lock(&self.counts.waiting).values().sum()
    }

    /// Deletes what is too old, or too much, of the logs; some of it at a time.
    pub fn delete_expired(&self) {
        let names = self.next_databases(&mut lock(&self.last_trimmed));
        for name in names {
            match self.delete_expired_in(&name) {
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
