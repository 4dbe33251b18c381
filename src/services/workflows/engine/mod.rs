//! The engine: one thread takes inputs from the queue in rounds, runs the core, commits, and sends
//! the outputs.
//!
//! Only this thread writes, so a round is a group commit: inputs that arrive during a commit are
//! written together. Bounds: `connection` pauses sockets whose frames wait; each request waits for
//! its answer in a thread of the request pool. Nothing is sent before the commit is on disk.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::base::budget::Budget;
use crate::base::error::{Error, Kind, Result};
use crate::base::json::Object;
use crate::base::threads::{Stop, lock};
use crate::base::{clock, ids, log};
use crate::model::auth::{Auth, Credentials, StoredCredentials};
use crate::model::rules::Identity;
use crate::net::sockets::{SocketHandler, Text};
use crate::services::stats::Stats;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::core::{Core, Input, ProtocolSettings};
use crate::services::workflows::frames::FrameBody;
use crate::services::workflows::sessions::{SessionId, WorkerGrant};
use crate::store::db::Database;

mod connection;
mod queue;
mod worker;

use connection::WorkerSocket;
use queue::{EngineState, PAUSE, QueuedInput};
use worker::WorkerHandle;

/// Portions deleted per minute.
const DELETE_ROUNDS: usize = 500;
/// Credentials checked in one round.
const CHECKS_AT_A_TIME: usize = 64;
/// Pause after a failed write.
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// Delays that workers are told when the server stops.
const AWAY_MS: i64 = 500;
const AWAY_JITTER_MS: i64 = 2_000;

pub struct Workflows {
    shared: Arc<EngineState>,
    pub database: Arc<Database>,
    auth: Arc<Auth>,
    stats: Arc<Stats>,
    tickets: AtomicU64,
    sessions: AtomicU64,
    /// The longest time until revoked credentials are noticed.
    check_every: Duration,
}

impl Workflows {
    /// Loads the leased runs. No work starts before [`Workflows::run`].
    pub fn open(
        database: &Arc<Database>,
        auth: &Arc<Auth>,
        stats: &Arc<Stats>,
        node: &str,
        frames: &Arc<Budget>,
        settings: ProtocolSettings,
    ) -> Result<Workflows> {
        let random = Box::new(random_u64);
        let lease_ms = u64::try_from(settings.lease_ms).unwrap_or(0);
        let mut core = Core::new(settings, node, random);
        database.read(|db| core.recover(db, clock::now_ms()))?;
        Ok(Workflows {
            shared: Arc::new(EngineState::new(core, frames)),
            database: Arc::clone(database),
            auth: Arc::clone(auth),
            stats: Arc::clone(stats),
            tickets: AtomicU64::new(1),
            sessions: AtomicU64::new(1),
            check_every: Duration::from_millis(lease_ms) * 2,
        })
    }

    /// Executes a request; returns the answer as JSON once it is on disk.
    pub fn execute(&self, grant: WorkerGrant, request: WorkflowRequest) -> Result<String> {
        let reply = self.tickets.fetch_add(1, Relaxed);
        self.shared.execute(reply, grant, request)
    }

    /// A handler for the socket of a worker. `pass` are the credentials of the handshake, if any.
    pub fn peer(
        &self,
        grant: Option<WorkerGrant>,
        pass: StoredCredentials,
    ) -> Box<dyn SocketHandler> {
        let session = self.sessions.fetch_add(1, Relaxed);
        let shared = Arc::clone(&self.shared);
        Box::new(WorkerSocket::new(shared, session, grant, pass))
    }

    /// The grant of credentials.
    pub fn grant(&self, credentials: Credentials<'_>) -> Result<WorkerGrant> {
        let (identity, expires_ms) = self.auth.identify_worker(credentials)?;
        let mut grant = grant_of(&identity);
        grant.expires_ms = expires_ms;
        Ok(grant)
    }

    /// The connected workers as JSON objects.
    pub fn workers(&self, grant: &WorkerGrant) -> Vec<String> {
        lock(&self.shared.core).workers(grant)
    }

    /// True if a worker with this version is connected; an empty version matches any.
    pub fn is_served(&self, workflow: &str, version: &str) -> bool {
        lock(&self.shared.core).is_served(workflow, version)
    }

    /// The number of connected workers.
    pub fn worker_count(&self) -> usize {
        lock(&self.shared.core).worker_count()
    }

    /// Deletes runs that ended before a time, in portions.
    pub fn delete_ended_before(&self, before: i64) -> Result<()> {
        for _ in 0..DELETE_ROUNDS {
            let answer = self.execute(
                WorkerGrant::default(),
                WorkflowRequest::DeleteEnded { before },
            )?;
            if answer == "0" {
                break;
            }
        }
        Ok(())
    }

    /// Tells all workers that the server stops.
    pub fn announce_stop(&self) {
        let text: Text = Object::new()
            .text("t", "going_away")
            .int("after_ms", AWAY_MS)
            .int("jitter_ms", AWAY_JITTER_MS)
            .end()
            .into();
        for worker in lock(&self.shared.links).values() {
            worker.link.send(text.clone());
        }
    }

    /// Wakes the thread, so that it notices a stop.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// The body of the engine's thread.
    pub fn run(&self, stop: &Stop) {
        let mut tick_at = Instant::now();
        while !stop.is_set() {
            let items = self.shared.next_round();
            let now = clock::now_ms();
            let is_tick = Instant::now() >= tick_at;
            if is_tick {
                tick_at = Instant::now() + PAUSE;
                self.check_credentials(now);
            }
            if self.round(now, items, is_tick).is_err() {
                stop.wait(FAILED_PAUSE);
            }
        }
        self.shared.close();
    }

    /// Runs one round: receive, write, commit, send.
    fn round(&self, now: i64, items: Vec<QueuedInput>, is_tick: bool) -> Result<()> {
        let mut of = Vec::with_capacity(items.len());
        let mut inputs = Vec::with_capacity(items.len());
        for item in items {
            of.extend(item.of.map(|of| (of, item.bytes)));
            inputs.push(self.authenticate(item.input));
        }
        let (out, work, is_due) = {
            let mut core = lock(&self.shared.core);
            let (mut out, work) = core.receive(now, inputs);
            if is_tick {
                out.extend(core.tick(now));
            }
            let is_due = core.is_due(now);
            (out, work, is_due)
        };
        self.shared.send(out);
        let mut result = Ok(());
        if is_due || !work.is_empty() {
            let work = Arc::new(work);
            let written = {
                let (core, work) = (Arc::clone(&self.shared.core), Arc::clone(&work));
                self.database
                    .write(move |db| lock(&core).transact(db, now, &work))
            };
            let mut core = lock(&self.shared.core);
            let out = match written {
                Ok(out) => {
                    core.commit();
                    out
                }
                Err(error) => {
                    log::warn(format_args!("workflows.db not written error={error}"));
                    let out = core.abort(&error, &work);
                    result = Err(error);
                    out
                }
            };
            let counted = core.drain_counted();
            drop(core);
            for (workflow, what) in counted {
                self.stats.run(&workflow, what);
            }
            self.shared.send(out);
        }
        lock(&self.shared.core).finish(now);
        for ((worker, charge), bytes) in of {
            drop(charge);
            worker.frame_done(bytes);
        }
        result
    }

    /// Closes connections whose credentials are no longer valid, such as a deleted key or a changed
    /// password.
    fn check_credentials(&self, now: i64) {
        let due: Vec<(SessionId, WorkerHandle)> = {
            let links = lock(&self.shared.links);
            let due = links.iter().filter(|(_, worker)| {
                let pass = lock(&worker.pass);
                !pass.is_empty() && pass.checked.elapsed() > self.check_every
            });
            let due = due.map(|(session, worker)| (*session, worker.clone()));
            due.take(CHECKS_AT_A_TIME).collect()
        };
        for (session, worker) in due {
            let pass = {
                let mut pass = lock(&worker.pass);
                pass.checked = Instant::now();
                pass.clone()
            };
            let is_refused = self.grant(pass.credentials()).is_err_and(|error| {
                matches!(error.kind(), Kind::Unauthenticated | Kind::Forbidden)
            });
            if is_refused {
                let out = lock(&self.shared.core).disconnect(session, now);
                self.shared.send(out);
            }
        }
    }

    /// Looks up the token in a frame; in this thread, so that no socket waits for the disk.
    fn authenticate(&self, input: Input) -> Input {
        let Input::Frame {
            session,
            frame,
            grant: None,
        } = input
        else {
            return input;
        };
        let token = match &frame.body {
            FrameBody::Hello(hello) => hello.token.as_deref(),
            FrameBody::Auth(token) => Some(token.as_str()),
            _ => None,
        };
        let grant = token.map(|token| {
            let credentials = Credentials {
                authorization: Some(token),
                api_key: None,
            };
            let grant = self.grant(credentials)?;
            if let Some(worker) = lock(&self.shared.links).get(&session) {
                *lock(&worker.pass) = StoredCredentials::new(credentials);
                worker.link.set_has_credentials(true);
            }
            Ok(grant)
        });
        Input::Frame {
            session,
            frame,
            grant,
        }
    }
}

/// A random number from the system. Tokens must not be guessable, so a failure panics and the
/// command fails.
pub fn random_u64() -> u64 {
    let bytes = ids::random_bytes().expect("the system has random numbers");
    u64::from_le_bytes(bytes)
}

/// The grant of an authenticated caller.
pub fn grant_of(identity: &Identity) -> WorkerGrant {
    let workflows = match identity {
        Identity::Service(service) => service.workflows.clone(),
        _ => None,
    };
    WorkerGrant {
        workflows,
        expires_ms: None,
    }
}

/// The error for a run of another node, with its address if known.
pub fn on_another_node(run: &str, url: Option<&str>) -> Error {
    let place = url.map_or_else(|| "another server".to_owned(), str::to_owned);
    Error::new(
        Kind::Misdirected,
        format!("The run {run} belongs to {place}."),
    )
}
