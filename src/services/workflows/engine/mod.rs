//! The thread of the engine and what surrounds it: sockets and requests put their wishes into a queue,
//! the thread takes them in rounds, lets the core work, commits, and sends what comes of it.
//!
//! One thread writes, so a round is a group commit: what has come while the disk was busy is written
//! together. Bounds: `connection` holds sockets whose frames wait; a request waits for its answer in a
//! thread of the request pool. Nobody sends before the commit is on disk.

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
use crate::services::workflows::sessions::{Grant, SessionId};
use crate::store::db::Database;

mod connection;
mod queue;
mod worker;

use connection::WorkerSocket;
use queue::{EngineState, PAUSE, QueuedInput};
use worker::WorkerHandle;

/// Bits of what is deleted each minute.
const DELETE_ROUNDS: usize = 500;
/// Credentials looked at in one round.
const CHECKS_AT_A_TIME: usize = 64;
/// After a write that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// What a worker is told of a server that stops.
const AWAY_MS: i64 = 500;
const AWAY_JITTER_MS: i64 = 2_000;

/// The workflows of this node.
pub struct Workflows {
    shared: Arc<EngineState>,
    pub database: Arc<Database>,
    auth: Arc<Auth>,
    stats: Arc<Stats>,
    tickets: AtomicU64,
    sessions: AtomicU64,
    /// So late at most a worker hears that its credentials are no good any more.
    check_every: Duration,
}

impl Workflows {
    /// Finds what was under way. Nothing happens before [`Workflows::run`].
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

    /// Does something and returns the answer as JSON, when it is on disk.
    pub fn execute(&self, grant: Grant, request: WorkflowRequest) -> Result<String> {
        let reply = self.tickets.fetch_add(1, Relaxed);
        self.shared.execute(reply, grant, request)
    }

    /// The other end of a socket of a worker. `pass` are the credentials that the handshake had, if any.
    pub fn peer(&self, grant: Option<Grant>, pass: StoredCredentials) -> Box<dyn SocketHandler> {
        let session = self.sessions.fetch_add(1, Relaxed);
        let shared = Arc::clone(&self.shared);
        Box::new(WorkerSocket::new(shared, session, grant, pass))
    }

    /// What credentials open.
    pub fn grant(&self, credentials: Credentials<'_>) -> Result<Grant> {
        let (identity, expires_ms) = self.auth.identify_worker(credentials)?;
        let mut grant = grant_of(&identity);
        grant.expires_ms = expires_ms;
        Ok(grant)
    }

    /// The workers that are connected, as JSON objects.
    pub fn workers(&self, grant: &Grant) -> Vec<String> {
        lock(&self.shared.core).workers(grant)
    }

    /// Whether a worker with this version of the code is connected; an empty one is any.
    pub fn is_served(&self, workflow: &str, version: &str) -> bool {
        lock(&self.shared.core).is_served(workflow, version)
    }

    /// Workers connected.
    pub fn worker_count(&self) -> usize {
        lock(&self.shared.core).worker_count()
    }

    /// Deletes runs that ended before a time, bit by bit.
    pub fn delete_ended_before(&self, before: i64) -> Result<()> {
        for _ in 0..DELETE_ROUNDS {
            let answer = self.execute(Grant::default(), WorkflowRequest::DeleteEnded { before })?;
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

    /// Wakes the thread, so that it sees a stop.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// The thread.
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

    /// Takes what came in, writes, commits, sends.
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
                    log::warn(format_args!("workflows not written error={error}"));
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

    /// Ends connections whose credentials are no good any more: a deleted key, a changed password.
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

    /// What a token inside a frame opens. Looked up here, where waiting for a disk hurts nobody's socket.
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

/// Chance from the system. Without it a token could be guessed: then the command fails.
pub fn random_u64() -> u64 {
    let bytes = ids::random_bytes().expect("the system has random numbers");
    u64::from_le_bytes(bytes)
}

/// What somebody may do with workflows who has been let in.
pub fn grant_of(identity: &Identity) -> Grant {
    let workflows = match identity {
        Identity::Service(service) => service.workflows.clone(),
        _ => None,
    };
    Grant {
        workflows,
        expires_ms: None,
    }
}

/// What a run of another node is answered with: where it is, if that is known.
pub fn on_another_node(run: &str, url: Option<&str>) -> Error {
    let place = url.map_or_else(|| "another server".to_owned(), str::to_owned);
    Error::new(
        Kind::Misdirected,
        format!("The run {run} lives on {place}."),
    )
}
