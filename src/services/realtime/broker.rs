//! The broker: handles commands, activates subscriptions, replays missed changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::command::RealtimeCommand;
use super::context::Context;
use super::credential_checks::CheckPurpose;
use super::frames;
use super::frames::{ClientFrame, FrameRequest, FrameResult, SubscribeRequest};
use super::registry::{CheckState, ClientSession, IdentifiedCaller, Registry, SessionId};
use super::replay_buffer::ReplayBuffer;
use super::time_usage::TimeUsage;
use super::topics;
use super::topics::Topic;
use crate::base::budget::Network;
use crate::base::error::{Error, Kind, Result};
use crate::base::log;
use crate::model::rules::Identity;

/// Most subscriptions of one connection.
pub const SUBS_MAX: usize = 100;
/// Missed changes replayed to a subscription in one round.
const REPLAY_MAX: usize = 256;
/// Time for commands in one round; then changes are delivered.
const COMMANDS_TIME: Duration = Duration::from_millis(250);
/// Time for activation and replay in one round, and the part of it for one subscription.
const ACTIVATE_MAX: Duration = Duration::from_millis(250);
const REPLAY_TIME: Duration = Duration::from_millis(50);

/// The state of the realtime thread.
pub struct Broker<'a> {
    pub context: &'a Context,
    pub registry: Registry,
    pub replay_buffer: ReplayBuffer,
    waiting: Vec<Waiting>,
    /// Time spent on changes, by collection id.
    pub change_time: TimeUsage<String>,
    /// Time spent on replay, by the network that pays for the subscriptions.
    replay_time: TimeUsage<Network>,
    /// Collections with skipped changes, whose subscribers have not been told yet.
    pub skipped: BTreeSet<String>,
    /// Events given to consumer groups.
    pub turns: u64,
}

/// A subscription that is not active yet: it becomes active when it can miss no further change.
struct Waiting {
    session: SessionId,
    network: Network,
    /// The number of the credential check that it waits for.
    check: Option<u64>,
    sub: String,
    reference: Value,
    /// The events after this one are still to be sent.
    after: Option<String>,
    /// The client has been told that the subscription is active.
    is_answered: bool,
    /// Requests that wait for it.
    replies: Vec<Rc<Reply>>,
}

/// A waiting request. Dropping the last reference answers it with success.
struct Reply(mpsc::SyncSender<Result<()>>);

impl Drop for Reply {
    fn drop(&mut self) {
        // An error was sent before, if there was one, and the caller may have given up.
        let _ = self.0.try_send(Ok(()));
    }
}

impl<'a> Broker<'a> {
    pub fn new(context: &'a Context, seed: [u8; 4]) -> Broker<'a> {
        Broker {
            context,
            registry: Registry::default(),
            replay_buffer: ReplayBuffer::new(seed),
            waiting: Vec::new(),
            change_time: TimeUsage::default(),
            replay_time: TimeUsage::default(),
            skipped: BTreeSet::new(),
            turns: 0,
        }
    }

    /// True if a subscription is not active yet.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Handles commands until the time for them is used up.
    pub fn handle_commands(&mut self, commands: &mut VecDeque<RealtimeCommand>) {
        let until = Instant::now() + COMMANDS_TIME;
        while Instant::now() < until
            && let Some(command) = commands.pop_front()
        {
            self.handle_command(command);
        }
    }

    fn handle_command(&mut self, command: RealtimeCommand) {
        match command {
            RealtimeCommand::Opened {
                session,
                handle,
                database,
                caller,
                client,
                pending,
            } => {
                let identity = caller.identity.clone();
                let opened = ClientSession {
                    handle,
                    database,
                    caller,
                    client,
                    subs: BTreeMap::new(),
                    pending,
                    idle_since: Some(Instant::now()),
                    checks: CheckState::default(),
                    awaits_sign_in: false,
                };
                self.watch_account(&opened.database, &identity);
                self.registry.add_session(session, opened);
            }
            RealtimeCommand::Frame { session, frame } => self.handle_frame(session, frame),
            RealtimeCommand::Closed { session } => self.close(session),
            RealtimeCommand::Checked {
                session,
                purpose,
                found,
            } => self.finish_check(session, purpose, found),
            RealtimeCommand::TellSignIn {
                client,
                database,
                message,
                answer,
            } => {
                let is_told = self.tell_sign_in(&client, &database, &message);
                let _ = answer.try_send(is_told);
            }
            RealtimeCommand::SetTopics {
                client,
                database,
                caller,
                topics,
                answer,
            } => {
                let reply = Rc::new(Reply(answer));
                if let Err(error) = self.set_topics(&client, &database, caller, topics, &reply) {
                    let _ = reply.0.try_send(Err(shown(error)));
                }
            }
        }
    }

    /// Handles a frame, or queues it behind a sign-in in progress.
    fn handle_frame(&mut self, session: SessionId, frame: FrameResult) {
        let Some(found) = self.registry.sessions.get_mut(&session) else {
            return;
        };
        if let Some(later) = &mut found.checks.later {
            later.push_back(frame);
            return;
        }
        let answer = match frame {
            Ok(ClientFrame {
                reference,
                body: FrameRequest::Auth(Some(token)),
            }) => {
                self.check_sign_in(session, reference, &token);
                return;
            }
            Ok(frame) => self.execute(session, frame),
            Err((reference, message)) => {
                Some(frames::refused(&reference, &Error::invalid(message)))
            }
        };
        self.answer(session, answer);
    }

    /// Sends the answer to a frame, if any, and counts the frame as handled.
    fn answer(&self, session: SessionId, answer: Option<String>) {
        if let Some(found) = self.registry.sessions.get(&session) {
            answer.map(|text| found.handle.send(text.into()));
            found.pending.remove_and_resume(0, &found.handle);
        }
    }

    /// Applies the result of a credential check.
    fn finish_check(
        &mut self,
        session: SessionId,
        purpose: CheckPurpose,
        found: Result<IdentifiedCaller>,
    ) {
        match purpose {
            CheckPurpose::Recheck { number, generation } => {
                self.finish_recheck(session, number, generation, found);
            }
            CheckPurpose::SignIn(reference) => {
                let done = found.and_then(|caller| self.sign_in(session, caller));
                let answer = match done {
                    Ok(()) => frames::ok(&reference),
                    Err(error) => frames::refused(&reference, &shown(error)),
                };
                self.answer(session, Some(answer));
                let later = self.registry.sessions.get_mut(&session);
                let later = later.and_then(|found| found.checks.later.take());
                for frame in later.into_iter().flatten() {
                    self.handle_frame(session, frame);
                }
            }
        }
    }

    fn execute(&mut self, session: SessionId, frame: ClientFrame) -> Option<String> {
        let reference = frame.reference;
        let done = match frame.body {
            FrameRequest::Ping => Ok(()),
            FrameRequest::Auth(_) => self.sign_out(session),
            FrameRequest::Unsubscribe(sub) => {
                self.unsubscribe(session, &sub);
                Ok(())
            }
            FrameRequest::Subscribe(request) => {
                return match self.subscribe(session, *request, reference.clone(), None) {
                    // Answered when it is active.
                    Ok(()) => None,
                    Err(error) => Some(frames::refused(&reference, &shown(error))),
                };
            }
        };
        Some(match done {
            Ok(()) => frames::ok(&reference),
            Err(error) => frames::refused(&reference, &shown(error)),
        })
    }

    fn subscribe(
        &mut self,
        session: SessionId,
        mut request: SubscribeRequest,
        reference: Value,
        reply: Option<Rc<Reply>>,
    ) -> Result<()> {
        let Some(found) = self.registry.sessions.get(&session) else {
            return Ok(());
        };
        if found.subs.len() >= SUBS_MAX && !found.subs.contains_key(&request.sub) {
            return Err(Error::conflict(format!(
                "A connection has at most {SUBS_MAX} subscriptions."
            )));
        }
        if request.group.is_some() && request.after.is_some() {
            return Err(Error::invalid(
                "\"after\" cannot be combined with \"group\": another member may have received those events.",
            ));
        }
        let payer = found.handle.payer();
        let (key, group) = self
            .context
            .prepare(&found.database, &found.caller, &request)?;
        // The old subscription of this name releases its charges first. It is not restored if the
        // new one is refused.
        let is_replaced = found.subs.contains_key(&request.sub);
        self.unsubscribe(session, &request.sub);
        let charged = self
            .context
            .charge(payer, &request, self.registry.has_group(&key));
        let charges = charged.inspect_err(|error| {
            if is_replaced {
                self.send_ended(session, &request.sub, error);
            }
        })?;
        self.watch(&group.database, &group.collection);
        let waiting = Waiting {
            session,
            network: payer.network,
            check: None,
            sub: request.sub.clone(),
            reference,
            after: request.after.take(),
            is_answered: false,
            replies: reply.into_iter().collect(),
        };
        self.waiting.push(waiting);
        let request = Arc::new(request);
        self.registry
            .subscribe(session, &request, key, charges, || group);
        Ok(())
    }

    pub fn unsubscribe(&mut self, session: SessionId, sub: &str) {
        if let Some(collection) = self.registry.unsubscribe(session, sub, Instant::now()) {
            self.remove_waiting(session, sub, &collection);
        }
    }

    /// Cleans up after a subscription that was removed from the registry.
    pub fn remove_waiting(&mut self, session: SessionId, sub: &str, collection: &str) {
        self.replay_buffer.unwatch(collection, Instant::now());
        let is_it = |it: &mut Waiting| it.session == session && it.sub == sub;
        let gone: Vec<Waiting> = self.waiting.extract_if(.., is_it).collect();
        for waiting in gone {
            self.refuse_waiting(&waiting);
        }
    }

    /// Refuses a subscription that ended before it became active.
    fn refuse_waiting(&self, waiting: &Waiting) {
        let session = self.registry.sessions.get(&waiting.session);
        if let Some(session) = session
            && session.client.is_none()
            && !waiting.is_answered
        {
            let error = Error::conflict("Subscription cancelled before it became active.");
            session
                .handle
                .send(frames::refused(&waiting.reference, &error).into());
        }
    }

    /// Sends the code of a sign-in, once, to the client that waits for it.
    fn tell_sign_in(&mut self, client: &str, database: &str, message: &str) -> bool {
        let session = self.registry.by_client(client);
        let session = session.and_then(|id| self.registry.sessions.get_mut(&id));
        match session.filter(|it| it.awaits_sign_in && it.database == database) {
            None => false,
            Some(session) => {
                session.awaits_sign_in = false;
                session.handle.send(topics::sign_in(message).into());
                true
            }
        }
    }

    /// Replaces the topics of a client of server-sent events.
    fn set_topics(
        &mut self,
        client: &str,
        database: &str,
        caller: IdentifiedCaller,
        topics: Vec<Topic>,
        reply: &Rc<Reply>,
    ) -> Result<()> {
        let found = self.registry.by_client(client);
        let is_here = |id: &SessionId| {
            let session = self.registry.sessions.get(id);
            session.is_some_and(|session| session.database == database)
        };
        let session = found.filter(is_here).ok_or_else(|| {
            Error::not_found("No client of this name is connected to this database.")
        })?;
        if topics.len() > SUBS_MAX {
            return Err(Error::conflict(format!(
                "A client has at most {SUBS_MAX} topics."
            )));
        }
        let awaits_sign_in = topics.iter().any(|it| it.request.sub == topics::SIGN_IN);
        let topics = self.visible_topics(database, &caller, topics)?;
        let Some(found) = self.registry.sessions.get_mut(&session) else {
            return Ok(());
        };
        found.awaits_sign_in = awaits_sign_in;
        let is_same = found.caller.identity == caller.identity;
        let wanted: BTreeSet<&str> = topics.iter().map(|it| it.request.sub.as_str()).collect();
        let had = found.subs.keys().cloned();
        let gone: Vec<String> = had
            .filter(|it| !is_same || !wanted.contains(it.as_str()))
            .collect();
        for sub in gone {
            self.unsubscribe(session, &sub);
        }
        self.set_caller(session, caller);
        self.regroup_session(session);
        for topic in topics {
            let found = self.registry.sessions.get(&session);
            if found.is_some_and(|found| !found.subs.contains_key(&topic.request.sub)) {
                self.subscribe(session, topic.request, Value::Null, Some(Rc::clone(reply)))?;
                continue;
            }
            // An earlier request may still wait for it to become active.
            let mut waiting = self.waiting.iter_mut();
            let is_it = |it: &&mut Waiting| it.session == session && it.sub == topic.request.sub;
            if let Some(waiting) = waiting.find(is_it) {
                waiting.replies.push(Rc::clone(reply));
            }
        }
        Ok(())
    }

    /// Drops topics that the caller may not see or that do not exist. The SDK sets all its topics
    /// with each request, and one refused topic must not end the others.
    fn visible_topics(
        &self,
        database: &str,
        caller: &IdentifiedCaller,
        topics: Vec<Topic>,
    ) -> Result<Vec<Topic>> {
        let mut open = Vec::with_capacity(topics.len());
        for topic in topics {
            match self.context.prepare(database, caller, &topic.request) {
                Ok(_) => open.push(topic),
                Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(open)
    }

    /// Activates the subscriptions that can miss no further change.
    pub fn activate_ready(&mut self) {
        let until = Instant::now() + ACTIVATE_MAX;
        let mut all = std::mem::take(&mut self.waiting);
        if !self.replay_time.is_empty() {
            let (replay_time, now) = (&self.replay_time, Instant::now());
            all.sort_by_cached_key(|it| (it.is_answered, replay_time.of(&it.network, now)));
        }
        for mut waiting in all {
            if Instant::now() >= until {
                self.waiting.push(waiting);
                continue;
            }
            if !waiting.is_answered {
                // An account may have changed before its collection was watched.
                if !self.is_complete(&waiting) || !self.is_identity_checked(&mut waiting) {
                    self.waiting.push(waiting);
                    continue;
                }
            }
            if !self.catch_up(&mut waiting) {
                self.waiting.push(waiting);
                continue;
            }
            match self.registry.subscription(waiting.session, &waiting.sub) {
                Some((group, id)) => {
                    if let Some(sub) = group.subs.get_mut(&id) {
                        sub.is_live = true;
                    }
                }
                None => self.refuse_waiting(&waiting),
            }
        }
    }

    /// Answers a subscription and replays what it has missed, as fast as the client reads. Returns
    /// true when nothing is left to replay.
    fn catch_up(&mut self, waiting: &mut Waiting) -> bool {
        let Some((group, id)) = self.registry.subscription(waiting.session, &waiting.sub) else {
            return true;
        };
        let Some(sub) = group.subs.get(&id).filter(|sub| !sub.is_stream) else {
            return true;
        };
        let (handle, collection) = (sub.handle.clone(), group.collection.clone());
        let last = self.replay_buffer.last_event_id();
        if !std::mem::replace(&mut waiting.is_answered, true) {
            // The client has not seen the events that are replayed after this answer.
            let last = waiting.after.as_ref().unwrap_or(&last);
            handle.send(frames::subscribed(&waiting.reference, &waiting.sub, last).into());
        }
        let Some(after) = &waiting.after else {
            return true;
        };
        if !handle.has_room() {
            return false;
        }
        let Some(changes) = self
            .replay_buffer
            .changes_after(&collection, after, REPLAY_MAX)
        else {
            self.context.totals.resyncs.fetch_add(1, Relaxed);
            handle.send(frames::resync(&waiting.sub, &last).into());
            return true;
        };
        let begun = Instant::now();
        let until = begun + REPLAY_TIME;
        let given = self.replay(waiting.session, &waiting.sub, &changes, until);
        let now = Instant::now();
        self.replay_time.add(waiting.network, now - begun, now);
        let Some(given) = given else {
            return true;
        };
        if let Some((seq, _)) = changes[..given].last() {
            waiting.after = Some(self.replay_buffer.event_id(*seq));
        }
        given == changes.len() && given < REPLAY_MAX
    }

    /// True if the credentials of the session were checked after it subscribed, or need no check.
    fn is_identity_checked(&mut self, waiting: &mut Waiting) -> bool {
        if waiting.check.is_none() {
            waiting.check = self.recheck(waiting.session);
        }
        let session = self.registry.sessions.get(&waiting.session);
        let (Some(session), Some(check)) = (session, waiting.check) else {
            return true;
        };
        session.checks.answered >= check
    }

    fn is_complete(&mut self, waiting: &Waiting) -> bool {
        let Some((group, _)) = self.registry.subscription(waiting.session, &waiting.sub) else {
            return true;
        };
        let collection = group.collection.clone();
        let session = self.registry.sessions.get(&waiting.session);
        let account = session.and_then(|session| match &session.caller.identity {
            Identity::User(user) => Some(user.collection_id.clone()),
            _ => None,
        });
        let is_complete = self.replay_buffer.is_complete(&collection);
        is_complete && account.is_none_or(|account| self.replay_buffer.is_complete(&account))
    }

    pub fn forget_usage(&mut self, now: Instant) {
        self.change_time.forget(now);
        self.replay_time.forget(now);
    }

    /// Counts one more watcher of a collection, and starts recording its changes for the first one.
    pub fn watch(&mut self, database: &str, collection: &str) {
        if !self.replay_buffer.watch(collection) {
            return;
        }
        self.context.events.watch(collection);
        let database = self.context.databases.get(database);
        let barrier = database.map_or(None, |database| database.commit_barrier());
        self.replay_buffer.set_barrier(collection, barrier);
    }

    /// Watches the collection of an account, so that its changes are applied to its sessions.
    pub fn watch_account(&mut self, database: &str, identity: &Identity) {
        if let Identity::User(user) = identity {
            self.watch(database, &user.collection_id);
        }
    }
}

/// The error to show to a client. An internal error is logged and replaced by a general message.
pub fn shown(error: Error) -> Error {
    match error.kind() {
        Kind::Internal => {
            log::error(format_args!("realtime: {error}"));
            Error::new(Kind::Internal, "Something went wrong on the server.")
        }
        _ => error,
    }
}
