//! The thread: takes changes and commands in rounds and does what time brings.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;

use super::board::{Caller, Charges, Class, SessionId};
use super::checks::{Checks, Why};
use super::connection::Connection;
use super::frames::{Ask, Received};
use super::thread::Thread;
use super::topics::Topic;
use crate::base::budget::{Budget, Budgets, Output, Payer};
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::base::threads::{Stop, lock};
use crate::model::auth::{Auth, Credentials, StoredCredentials};
use crate::model::collections::Catalog;
use crate::model::events::{Events, RecordState};
use crate::model::filter;
use crate::model::records::{Scope, Shape, SubscriberView, SubscriptionSpec};
use crate::model::rules::{Identity, User};
use crate::net::sockets::{Pace, SocketHandle, SocketHandler};
use crate::store::db::Databases;

/// Longest pause between two rounds; and while somebody waits for a barrier.
const PAUSE: Duration = Duration::from_millis(250);
const FENCE_PAUSE: Duration = Duration::from_millis(2);
/// Commands taken in one round.
const COMMANDS_MAX: usize = 512;
/// How far the hub of the sockets may be behind, and for how long that is waited for.
const LAG_MAX: Duration = Duration::from_millis(200);
const LAG_WAIT_MAX: Duration = Duration::from_secs(2);
/// The longest wait until less than a quarter of the budget of outboxes is used.
const FULL_WAIT_MAX: Duration = Duration::from_millis(50);
const LAG_PAUSE: Duration = Duration::from_millis(5);
/// Comparisons in the filter of a subscription, but for those of admins: it is asked about each change.
const COMPARISONS_MAX: usize = 32;
/// Roughly what a subscription and a class take up, beside what is asked for, and how often a class has that: as
/// text, as a tree, as SQL.
const SUB_BYTES: usize = 512;
const CLASS_BYTES: usize = 5 << 10;
const CLASS_COPIES: usize = 10;
/// How long a request waits for its subscriptions to hold.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// Realtime of this server.
pub struct Realtime {
    shared: Arc<Shared>,
    pub(super) databases: Arc<Databases>,
    pub(super) catalog: Arc<Catalog>,
    auth: Arc<Auth>,
    pub(super) events: Arc<Events>,
    pace: Pace,
    outboxes: Arc<Budget>,
    subscriptions: Arc<Budget>,
    filters: Arc<Budget>,
    pub(super) checks: Checks,
    sessions: AtomicU64,
    pub(super) counts: Counts,
}

/// What the thread shares with connections and requests.
pub struct Shared {
    commands: Mutex<Commands>,
    events: Arc<Events>,
}

#[derive(Default)]
struct Commands {
    /// Bound: 64 and two checks of each connection, one of each waiting request.
    items: VecDeque<Command>,
    is_over: bool,
}

/// What somebody wants of the thread.
pub enum Command {
    Opened {
        session: SessionId,
        link: SocketHandle,
        database: String,
        caller: Caller,
        client: Option<String>,
        pending: Arc<AtomicUsize>,
    },
    Frame {
        session: SessionId,
        frame: Received,
    },
    Closed {
        session: SessionId,
    },
    /// The identity of a session was looked up.
    Checked {
        session: SessionId,
        why: Why,
        found: Result<Caller>,
    },
    /// All that a client of server-sent events wants to hear of from now on.
    Set {
        client: String,
        database: String,
        caller: Caller,
        topics: Vec<Topic>,
        answer: mpsc::SyncSender<Result<()>>,
    },
}

#[derive(Default)]
pub struct Counts {
    pub subscriptions: AtomicUsize,
    pub changes: AtomicU64,
    pub sent: AtomicU64,
    pub resyncs: AtomicU64,
}

/// Totals since the start, except `subscriptions`.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    pub subscriptions: usize,
    /// Changes that somebody watched for.
    pub changes: u64,
    /// Events sent.
    pub sent: u64,
    /// Subscriptions that were told to read anew.
    pub resyncs: u64,
}

impl Shared {
    pub fn push(&self, command: Command) -> bool {
        let mut commands = lock(&self.commands);
        if commands.is_over {
            return false;
        }
        commands.items.push_back(command);
        drop(commands);
        self.events.wake();
        true
    }
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
            shared: Arc::new(Shared {
                commands: Mutex::default(),
                events: Arc::clone(events),
            }),
            databases: Arc::clone(databases),
            catalog: Arc::clone(catalog),
            auth: Arc::clone(auth),
            events: Arc::clone(events),
            pace,
            outboxes: Arc::clone(&budgets.outboxes),
            subscriptions: Arc::clone(&budgets.subscriptions),
            filters: Arc::clone(&budgets.filters),
            checks: Checks::default(),
            sessions: AtomicU64::new(1),
            counts: Counts::default(),
        }
    }

    /// Who shows these credentials; fails when they are no good.
    pub fn caller(&self, credentials: Credentials<'_>, database: &str) -> Result<Caller> {
        let (identity, expires_ms) = self.auth.identify_until(credentials, database)?;
        Ok(Caller {
            identity,
            pass: StoredCredentials::new(credentials),
            expires_ms,
        })
    }

    /// The peer of a connection about a database: a WebSocket, or, with the name of its client, a stream of
    /// server-sent events.
    pub fn peer(
        &self,
        database: &str,
        caller: Caller,
        client: Option<String>,
    ) -> Result<Box<dyn SocketHandler>> {
        // Definitions of a database that is not there are refused.
        self.catalog.collections(database)?;
        Ok(Box::new(Connection {
            shared: Arc::clone(&self.shared),
            session: self.sessions.fetch_add(1, Relaxed),
            database: database.to_owned(),
            caller: Some(caller),
            client,
            pending: Arc::default(),
            link: None,
        }))
    }

    /// Sets what a client of server-sent events hears of. Returns when that holds.
    pub fn set_topics(
        &self,
        client: String,
        database: &str,
        credentials: Credentials<'_>,
        topics: Vec<Topic>,
    ) -> Result<()> {
        let caller = self.caller(credentials, database)?;
        let (answer, answered) = mpsc::sync_channel(1);
        let is_taken = self.shared.push(Command::Set {
            client,
            database: database.to_owned(),
            caller,
            topics,
            answer,
        });
        let late = || Error::unavailable("The server is busy or stopping; try again.");
        match is_taken {
            true => answered.recv_timeout(ANSWER_WAIT).map_err(|_| late())?,
            false => Err(late()),
        }
    }

    /// Adds commands to those that are left of the last round.
    fn next_commands(&self, commands: &mut VecDeque<Command>) {
        let items = &mut lock(&self.shared.commands).items;
        let count = items.len().min(COMMANDS_MAX.saturating_sub(commands.len()));
        commands.extend(items.drain(..count));
        if !items.is_empty() {
            // The next round comes at once.
            self.events.wake();
        }
    }

    /// While the hub is behind, changes wait here, once, and not in the queue of each subscriber, which
    /// would be cut off as if it were slow. What the hub cannot send is waited for a moment only.
    fn keep_pace(&self, stop: &Stop) {
        let begun = Instant::now();
        while self.pace.lag() > LAG_MAX && begun.elapsed() < LAG_WAIT_MAX {
            if stop.wait(LAG_PAUSE) {
                return;
            }
        }
        let begun = Instant::now();
        let is_full = || self.outboxes.used() > self.outboxes.total() / 4;
        while is_full() && begun.elapsed() < FULL_WAIT_MAX {
            if stop.wait(LAG_PAUSE) {
                return;
            }
        }
    }

    /// What a subscription comes to: the key of its class, and the class if there is none yet. Fails when the
    /// caller may see nothing of the collection, or what is asked for makes no sense.
    pub(super) fn prepare(
        &self,
        database: &str,
        caller: &Caller,
        ask: &Ask,
    ) -> Result<(String, Class)> {
        let is_admin = matches!(caller.identity, Identity::Admin(_));
        let filter = match ask.filter.trim() {
            "" => None,
            text if is_admin => Some(filter::parse(text)?),
            text => Some(filter::parse_within(text, COMPARISONS_MAX)?),
        };
        let collections = self.catalog.collections(database)?;
        let collection = Arc::clone(collections.get(&ask.collection)?);
        let wish = SubscriptionSpec {
            filter,
            shape: Shape::parse(Some(&ask.fields), Some(&ask.expand))?,
            record: ask.id.clone(),
        };
        let scope = Scope {
            collections,
            identity: caller.identity.clone(),
            events: Arc::clone(&self.events),
            output: Output::default(),
        };
        let who = match SubscriberView::group_key(&scope, &collection, &wish)? {
            Some(class) => format!("all {class}"),
            None => caller.key(),
        };
        let parts = [&ask.filter, &ask.fields, &ask.expand, &who];
        let key = json!([database, collection.id, ask.id, parts]).to_string();
        let lens = SubscriberView::new(scope, &collection, &wish)?;
        let identity = caller.identity.clone();
        let class = Class::new(database, &collection.id, wish, identity, lens);
        Ok((key, class))
    }

    /// Charges a payer for a subscription, and for its class if that is still to be made.
    pub(super) fn charge(&self, payer: Payer, ask: &Ask, has_class: bool) -> Result<Charges> {
        let charge = |budget: &Arc<Budget>, amount: usize| {
            let charge = budget.charge(payer, amount as u64);
            charge.map_err(|exhausted| exhausted.into_error(budget.name()))
        };
        let bytes = ask.bytes();
        Ok(Charges {
            sub: [
                charge(&self.subscriptions, 1)?,
                charge(&self.filters, SUB_BYTES + bytes)?,
            ],
            class: match has_class {
                true => None,
                false => Some(charge(&self.filters, CLASS_BYTES + CLASS_COPIES * bytes)?),
            },
        })
    }

    /// Another lens for a class, as things are now.
    pub(super) fn lens(&self, class: &Class) -> Result<SubscriberView> {
        let collections = self.catalog.collections(&class.database)?;
        let collection = Arc::clone(collections.get(&class.collection)?);
        let scope = Scope {
            collections,
            identity: class.identity.clone(),
            events: Arc::clone(&self.events),
            output: Output::default(),
        };
        SubscriberView::new(scope, &collection, &class.wish)
    }

    /// An account as a change left it; none when that cannot be told any more.
    pub(super) fn account(&self, state: &RecordState) -> Result<Option<User>> {
        let database = &state.collection.database;
        let collections = self.catalog.collections(database)?;
        let collection = Arc::clone(collections.get(&state.collection.id)?);
        let scope = Scope {
            collections,
            identity: Identity::Admin(String::new()),
            events: Arc::clone(&self.events),
            output: Output::default(),
        };
        let lens = SubscriberView::new(scope, &collection, &SubscriptionSpec::default())?;
        let mut out = Vec::new();
        let database = self.databases.get(database)?;
        if !database.look_up(|connection| lens.show(connection, state, &mut out))? {
            return Ok(None);
        }
        Ok(Some(User {
            id: state.id().to_owned(),
            collection_id: collection.id.clone(),
            collection_name: collection.name.clone(),
            record: serde_json::from_slice(&out)?,
        }))
    }

    pub fn counters(&self) -> Counters {
        let counts = &self.counts;
        Counters {
            subscriptions: counts.subscriptions.load(Relaxed),
            changes: counts.changes.load(Relaxed),
            sent: counts.sent.load(Relaxed),
            resyncs: counts.resyncs.load(Relaxed),
        }
    }

    /// Ends the waits of the threads, so that they see a stop.
    pub fn wake(&self) {
        self.events.wake();
        self.checks.wake();
    }

    /// The thread that looks up who connections are.
    pub fn run_checks(&self, stop: &Stop) {
        self.checks.run(stop, |check| {
            let found = self.caller(check.pass.credentials(), &check.database);
            self.shared.push(Command::Checked {
                session: check.session,
                why: check.why,
                found,
            });
        });
    }

    /// The thread.
    pub fn run(&self, stop: &Stop) {
        let seed = ids::random_bytes().unwrap_or_default();
        let mut thread = Thread::new(self, seed);
        let mut commands = VecDeque::new();
        let mut tick_at = Instant::now() + PAUSE;
        while !stop.is_set() {
            let pause = match thread.has_waiting() {
                false => tick_at.saturating_duration_since(Instant::now()),
                true => FENCE_PAUSE,
            };
            // What a client says after a change that it knows of must not count before that.
            self.next_commands(&mut commands);
            let pause = if commands.is_empty() {
                pause
            } else {
                Duration::ZERO
            };
            self.keep_pace(stop);
            let taken = self.events.drain(pause);
            thread.deliver_all(taken.changes);
            for collection in taken.lost {
                thread.lose(&collection);
            }
            thread.obey(&mut commands);
            thread.greet();
            if Instant::now() >= tick_at {
                thread.tick(Instant::now());
                tick_at = Instant::now() + PAUSE;
            }
            let count = thread.board.count();
            self.counts.subscriptions.store(count, Relaxed);
        }
        let mut commands = lock(&self.shared.commands);
        commands.is_over = true;
        let left = std::mem::take(&mut commands.items);
        drop(commands);
        drop(left);
    }
}
