//! Realtime: clients subscribe to changes of records.
//!
//! A subscriber receives a change if the list rule (the view rule for one record), the field rules
//! and the filter of the subscription admit the record as the change left it, or as it last was for
//! a delete. The identity of the subscriber counts as of that change: a change of an account is
//! applied before the changes that were committed after it. Changes of a record arrive in the order
//! of their commits. An event shows the record as a response to a request would.
//!
//! One thread, `realtime`, owns the subscriptions ([`registry`]), the changes of the last minutes
//! for clients that reconnect ([`replay_buffer`]), and the time used per collection
//! ([`time_usage`]). Its work is in [`broker`] (commands, activation, replay), [`delivery`] (a
//! change and its subscribers) and [`maintenance`] (expiry, identities). The thread
//! `realtime-check` verifies credentials again ([`credential_checks`]), so that `realtime` waits
//! for no database.
//!
//! The socket hub calls [`socket_handler`], which queues a [`command`]. Clients speak [`frames`]
//! over a WebSocket, or the protocol of PocketBase over server-sent events ([`topics`]).
//! `docs/sockets.md` describes both for clients.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::base::budget::{Budget, Budgets};
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::base::threads::Stop;
use crate::model::auth::{Auth, Credentials};
use crate::model::collections::Catalog;
use crate::model::events::Events;
use crate::net::sockets::{Pace, SocketHandler};
use crate::store::db::Databases;

pub use broker::SUBS_MAX;
pub use registry::IdentifiedCaller;
pub use socket_handler::new_client;
pub use topics::Topic;

use broker::Broker;
use command::{CommandQueue, RealtimeCommand};
use context::Context;
use socket_handler::RealtimeHandler;

mod broker;
mod command;
mod context;
mod credential_checks;
mod delivery;
mod frames;
mod maintenance;
mod registry;
mod replay_buffer;
mod socket_handler;
mod time_usage;
mod topics;

/// Longest pause between two rounds, and the pause while a subscription waits for a commit barrier.
const PAUSE: Duration = Duration::from_millis(250);
const BARRIER_PAUSE: Duration = Duration::from_millis(2);
/// Lag of the socket hub above which delivery waits, and the longest such wait.
const LAG_MAX: Duration = Duration::from_millis(200);
const LAG_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest wait until less than a quarter of the budget of send queues is used.
const FULL_WAIT_MAX: Duration = Duration::from_millis(50);
const LAG_PAUSE: Duration = Duration::from_millis(5);
/// Longest wait of a request until its subscriptions are active.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

pub struct Realtime {
    context: Context,
    commands: Arc<CommandQueue>,
    pace: Pace,
    send_queues: Arc<Budget>,
    /// The id of the next session.
    sessions: AtomicU64,
}

/// Totals since the start, except `subscriptions`.
#[derive(Clone, Copy, Debug)]
pub struct RealtimeCounters {
    pub subscriptions: usize,
    /// Changes of collections with subscribers.
    pub changes: u64,
    /// Events sent.
    pub sent: u64,
    /// Subscriptions told to read their records again.
    pub resyncs: u64,
}

impl Realtime {
    pub fn new(
        databases: &Arc<Databases>,
        catalog: &Arc<Catalog>,
        auth: &Arc<Auth>,
        events: &Arc<Events>,
        pace: Pace,
        budgets: &Budgets,
    ) -> Realtime {
        Realtime {
            context: Context::new(databases, catalog, auth, events, budgets),
            commands: Arc::new(CommandQueue::new(events)),
            pace,
            send_queues: Arc::clone(&budgets.send_queues),
            sessions: AtomicU64::new(1),
        }
    }

    /// Identifies the owner of credentials. Fails if they are not valid.
    pub fn caller(&self, credentials: Credentials<'_>, database: &str) -> Result<IdentifiedCaller> {
        self.context.caller(credentials, database)
    }

    /// Creates the handler of a connection to a database: of a WebSocket, or, with the name of its
    /// client, of a stream of server-sent events.
    pub fn handler(
        &self,
        database: &str,
        caller: IdentifiedCaller,
        client: Option<String>,
    ) -> Result<Box<dyn SocketHandler>> {
        // Fails if the database does not exist.
        self.context.catalog.collections(database)?;
        let session = self.sessions.fetch_add(1, Relaxed);
        Ok(Box::new(RealtimeHandler {
            commands: Arc::clone(&self.commands),
            session,
            database: database.to_owned(),
            caller: Some(caller),
            client,
            pending: socket_handler::backlog(),
            handle: None,
        }))
    }

    /// Replaces the topics of a client of server-sent events. Returns when they are active.
    pub fn set_topics(
        &self,
        client: String,
        database: &str,
        credentials: Credentials<'_>,
        topics: Vec<Topic>,
    ) -> Result<()> {
        let caller = self.caller(credentials, database)?;
        let (answer, answered) = mpsc::sync_channel(1);
        let is_queued = self.commands.push(RealtimeCommand::SetTopics {
            client,
            database: database.to_owned(),
            caller,
            topics,
            answer,
        });
        let late = || Error::unavailable("The server is busy or stopping; try again.");
        match is_queued {
            true => answered.recv_timeout(ANSWER_WAIT).map_err(|_| late())?,
            false => Err(late()),
        }
    }

    /// Tells a client of server-sent events the code of its sign-in with a provider. False if no
    /// such client of this database waits for one.
    pub fn tell_sign_in(&self, client: &str, database: &str, message: &str) -> Result<bool> {
        let (answer, answered) = mpsc::sync_channel(1);
        let is_queued = self.commands.push(RealtimeCommand::TellSignIn {
            client: client.to_owned(),
            database: database.to_owned(),
            message: message.to_owned(),
            answer,
        });
        let late = || Error::unavailable("The server is busy or stopping; try again.");
        match is_queued {
            true => answered.recv_timeout(ANSWER_WAIT).map_err(|_| late()),
            false => Err(late()),
        }
    }

    pub fn counters(&self) -> RealtimeCounters {
        let totals = &self.context.totals;
        RealtimeCounters {
            subscriptions: totals.subscriptions.load(Relaxed),
            changes: totals.changes.load(Relaxed),
            sent: totals.sent.load(Relaxed),
            resyncs: totals.resyncs.load(Relaxed),
        }
    }

    /// Ends the waits of both threads, so that they notice a stop.
    pub fn wake(&self) {
        self.context.events.wake();
        self.context.checks.wake();
    }

    /// The thread that checks credentials.
    pub fn run_checks(&self, stop: &Stop) {
        self.context.checks.run(stop, |check| {
            let found = self.caller(check.pass.credentials(), &check.database);
            self.commands.push(RealtimeCommand::Checked {
                session: check.session,
                purpose: check.purpose,
                found,
            });
        });
    }

    /// The thread that owns the subscriptions.
    pub fn run(&self, stop: &Stop) {
        let seed = ids::random_bytes().unwrap_or_default();
        let events = &self.context.events;
        let mut broker = Broker::new(&self.context, seed);
        let mut commands = VecDeque::new();
        let mut tick_at = Instant::now() + PAUSE;
        while !stop.is_set() {
            let pause = match broker.has_waiting() {
                false => tick_at.saturating_duration_since(Instant::now()),
                true => BARRIER_PAUSE,
            };
            // Taken before the changes: a command that a client sends after it has seen a change
            // must not be handled before that change.
            self.commands.drain_into(&mut commands);
            let pause = if commands.is_empty() {
                pause
            } else {
                Duration::ZERO
            };
            self.apply_backpressure(stop);
            let taken = events.drain(pause);
            broker.deliver_all(taken.changes);
            for collection in taken.lost {
                broker.mark_lost(&collection);
            }
            broker.handle_commands(&mut commands);
            broker.activate_ready();
            if Instant::now() >= tick_at {
                broker.tick(Instant::now());
                tick_at = Instant::now() + PAUSE;
            }
            let count = broker.registry.count();
            self.context.totals.subscriptions.store(count, Relaxed);
        }
        self.commands.close();
    }

    /// Waits while the socket hub is behind. Changes then wait once, here, and not in the send
    /// queue of each subscriber, which would be dropped as too slow. A full budget of send queues
    /// delays delivery only for a moment, since slow clients may never free it.
    fn apply_backpressure(&self, stop: &Stop) {
        let begun = Instant::now();
        while self.pace.lag() > LAG_MAX && begun.elapsed() < LAG_WAIT_MAX {
            if stop.wait(LAG_PAUSE) {
                return;
            }
        }
        let begun = Instant::now();
        let is_full = || self.send_queues.used() > self.send_queues.total() / 4;
        while is_full() && begun.elapsed() < FULL_WAIT_MAX {
            if stop.wait(LAG_PAUSE) {
                return;
            }
        }
    }
}
