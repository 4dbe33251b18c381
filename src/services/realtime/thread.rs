//! What the thread does for connections: subscriptions made, set and taken away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::board::{Board, Caller, Looks, Session, SessionId};
use super::checks::Why;
use super::effort::Effort;
use super::engine::{Command, Realtime};
use super::frames::{Ask, Body, Frame, Received};
use super::recent::Recent;
use super::topics::Topic;
use super::{connection, frames};
use crate::base::budget::Network;
use crate::base::error::{Error, Kind, Result};
use crate::base::log;
use crate::model::rules::Identity;

/// Subscriptions of one connection.
pub const SUBS_MAX: usize = 100;
/// Changes that a subscription is given in one round of those that it has missed.
const REPLAY_MAX: usize = 256;
/// The time after which changes come before further commands.
const OBEY_MAX: Duration = Duration::from_millis(250);
/// The time after which changes come before what subscriptions have missed, and the part of it for one
/// subscription.
const GREET_MAX: Duration = Duration::from_millis(250);
const REPLAY_TIME: Duration = Duration::from_millis(50);

/// What the thread owns.
pub struct Thread<'a> {
    pub of: &'a Realtime,
    pub board: Board,
    pub recent: Recent,
    waiting: Vec<Waiting>,
    /// Time spent on changes, by id of the collection.
    pub effort: Effort<String>,
    /// Time spent on what subscriptions have missed, by who pays for them.
    replays: Effort<Network>,
    /// Collections of which changes were not looked at, and whose subscribers are still to be told.
    pub skipped: BTreeSet<String>,
    /// Counts events that were given to groups.
    pub turns: u64,
}

/// A subscription that holds as soon as no change can be missed any more.
struct Waiting {
    session: SessionId,
    network: Network,
    /// The look at who the session is that it waits for.
    look: Option<u64>,
    sub: String,
    reference: Value,
    /// What comes after this is still to be sent.
    after: Option<String>,
    /// That it holds has been answered.
    is_granted: bool,
    /// Kept until then.
    replies: Vec<Rc<Reply>>,
}

/// A request that waits; answered when nothing keeps this any more.
struct Reply(mpsc::SyncSender<Result<()>>);

impl Drop for Reply {
    fn drop(&mut self) {
        // Refusals came before, and whoever asked may have gone.
        let _ = self.0.try_send(Ok(()));
    }
}

impl<'a> Thread<'a> {
    pub fn new(of: &'a Realtime, seed: [u8; 4]) -> Thread<'a> {
        Thread {
            of,
            board: Board::default(),
            recent: Recent::new(seed),
            waiting: Vec::new(),
            effort: Effort::default(),
            replays: Effort::default(),
            skipped: BTreeSet::new(),
            turns: 0,
        }
    }

    /// Whether there are subscriptions that do not hold yet.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Does what was asked for, as long as there is time.
    pub fn obey(&mut self, commands: &mut VecDeque<Command>) {
        let until = Instant::now() + OBEY_MAX;
        while Instant::now() < until
            && let Some(command) = commands.pop_front()
        {
            self.obey_one(command);
        }
    }

    fn obey_one(&mut self, command: Command) {
        match command {
            Command::Opened {
                session,
                link,
                database,
                caller,
                client,
                pending,
            } => {
                let identity = caller.identity.clone();
                let opened = Session {
                    link,
                    database,
                    caller,
                    client,
                    subs: BTreeMap::new(),
                    pending,
                    idle_since: Some(Instant::now()),
                    looks: Looks::default(),
                };
                self.watch_account(&opened.database, &identity);
                self.board.open(session, opened);
            }
            Command::Frame { session, frame } => self.take_frame(session, frame),
            Command::Closed { session } => self.close(session),
            Command::Checked {
                session,
                why,
                found,
            } => self.checked(session, why, found),
            Command::Set {
                client,
                database,
                caller,
                topics,
                answer,
            } => {
                let reply = Rc::new(Reply(answer));
                if let Err(error) = self.set(&client, &database, caller, topics, &reply) {
                    let _ = reply.0.try_send(Err(shown(error)));
                }
            }
        }
    }

    /// Does what a frame says, after those that came before it.
    fn take_frame(&mut self, session: SessionId, frame: Received) {
        let Some(found) = self.board.sessions.get_mut(&session) else {
            return;
        };
        if let Some(later) = &mut found.looks.later {
            later.push_back(frame);
            return;
        }
        let answer = match frame {
            Ok(Frame {
                reference,
                body: Body::Auth(Some(token)),
            }) => {
                self.ask_sign_in(session, reference, &token);
                return;
            }
            Ok(frame) => self.frame(session, frame),
            Err((reference, what)) => Some(frames::no(&reference, &Error::invalid(what))),
        };
        self.answer(session, answer);
    }

    /// A frame has been dealt with.
    fn answer(&self, session: SessionId, answer: Option<String>) {
        if let Some(found) = self.board.sessions.get(&session) {
            answer.map(|text| found.link.send(text.into()));
            connection::done(&found.pending, &found.link);
        }
    }

    /// It is known by now who a session is.
    fn checked(&mut self, session: SessionId, why: Why, found: Result<Caller>) {
        match why {
            Why::Again { number, generation } => self.confirm(session, number, generation, found),
            Why::SignIn(reference) => {
                let done = found.and_then(|caller| self.sign_in(session, caller));
                let answer = match done {
                    Ok(()) => frames::ok(&reference),
                    Err(error) => frames::no(&reference, &shown(error)),
                };
                self.answer(session, Some(answer));
                let later = self.board.sessions.get_mut(&session);
                let later = later.and_then(|found| found.looks.later.take());
                for frame in later.into_iter().flatten() {
                    self.take_frame(session, frame);
                }
            }
        }
    }

    fn frame(&mut self, session: SessionId, frame: Frame) -> Option<String> {
        let reference = frame.reference;
        let done = match frame.body {
            Body::Ping => Ok(()),
            Body::Auth(_) => self.sign_out(session),
            Body::Unsubscribe(sub) => {
                self.unsubscribe(session, &sub);
                Ok(())
            }
            Body::Subscribe(ask) => {
                return match self.subscribe(session, *ask, reference.clone(), None) {
                    // Answered when it holds.
                    Ok(()) => None,
                    Err(error) => Some(frames::no(&reference, &shown(error))),
                };
            }
        };
        Some(match done {
            Ok(()) => frames::ok(&reference),
            Err(error) => frames::no(&reference, &shown(error)),
        })
    }

    fn subscribe(
        &mut self,
        session: SessionId,
        mut ask: Ask,
        reference: Value,
        reply: Option<Rc<Reply>>,
    ) -> Result<()> {
        let Some(found) = self.board.sessions.get(&session) else {
            return Ok(());
        };
        if found.subs.len() >= SUBS_MAX && !found.subs.contains_key(&ask.sub) {
            return Err(Error::conflict(format!(
                "A connection has at most {SUBS_MAX} subscriptions."
            )));
        }
        if ask.group.is_some() && ask.after.is_some() {
            return Err(Error::invalid(
                "after cannot be told with a group: another member may have had those events.",
            ));
        }
        let payer = found.link.payer();
        let (key, class) = self.of.prepare(&found.database, &found.caller, &ask)?;
        // The old one of this name gives back its charges first, and is not restored on a refusal.
        let is_replaced = found.subs.contains_key(&ask.sub);
        self.unsubscribe(session, &ask.sub);
        let charged = self.of.charge(payer, &ask, self.board.has_class(&key));
        let charges = charged.inspect_err(|error| {
            if is_replaced {
                self.tell_ended(session, &ask.sub, error);
            }
        })?;
        self.watch(&class.database, &class.collection);
        let waiting = Waiting {
            session,
            network: payer.network,
            look: None,
            sub: ask.sub.clone(),
            reference,
            after: ask.after.take(),
            is_granted: false,
            replies: reply.into_iter().collect(),
        };
        self.waiting.push(waiting);
        let ask = Arc::new(ask);
        self.board.subscribe(session, &ask, key, charges, || class);
        Ok(())
    }

    /// Takes a subscription away.
    pub fn unsubscribe(&mut self, session: SessionId, sub: &str) {
        if let Some(collection) = self.board.unsubscribe(session, sub, Instant::now()) {
            self.forget_sub(session, sub, &collection);
        }
    }

    /// A subscription is not on the board any more.
    pub fn forget_sub(&mut self, session: SessionId, sub: &str, collection: &str) {
        self.recent.unwatch(collection, Instant::now());
        let is_it = |it: &mut Waiting| it.session == session && it.sub == sub;
        let gone: Vec<Waiting> = self.waiting.extract_if(.., is_it).collect();
        for waiting in gone {
            self.refuse_late(&waiting);
        }
    }

    /// Answers whoever waits for a subscription that has ended before it held.
    fn refuse_late(&self, waiting: &Waiting) {
        let session = self.board.sessions.get(&waiting.session);
        if let Some(session) = session
            && session.client.is_none()
            && !waiting.is_granted
        {
            let error = Error::conflict("The subscription has ended before it held.");
            session
                .link
                .send(frames::no(&waiting.reference, &error).into());
        }
    }

    /// Subscribes a client of server-sent events to these topics, and to no others.
    fn set(
        &mut self,
        client: &str,
        database: &str,
        caller: Caller,
        topics: Vec<Topic>,
        reply: &Rc<Reply>,
    ) -> Result<()> {
        let found = self.board.by_client(client);
        let is_here = |id: &SessionId| {
            let session = self.board.sessions.get(id);
            session.is_some_and(|session| session.database == database)
        };
        let session = found.filter(is_here).ok_or_else(|| {
            Error::not_found("There is no such client; it must be connected to this database.")
        })?;
        if topics.len() > SUBS_MAX {
            return Err(Error::conflict(format!(
                "A client has at most {SUBS_MAX} topics."
            )));
        }
        let topics = self.open_topics(database, &caller, topics)?;
        let Some(found) = self.board.sessions.get(&session) else {
            return Ok(());
        };
        let is_same = found.caller.identity == caller.identity;
        let wanted: BTreeSet<&str> = topics.iter().map(|it| it.ask.sub.as_str()).collect();
        let had = found.subs.keys().cloned();
        let gone: Vec<String> = had
            .filter(|it| !is_same || !wanted.contains(it.as_str()))
            .collect();
        for sub in gone {
            self.unsubscribe(session, &sub);
        }
        self.set_caller(session, caller);
        self.renew_subs(session);
        for topic in topics {
            let found = self.board.sessions.get(&session);
            if found.is_some_and(|found| !found.subs.contains_key(&topic.ask.sub)) {
                self.subscribe(session, topic.ask, Value::Null, Some(Rc::clone(reply)))?;
                continue;
            }
            // It may not hold yet, by a request of before.
            let mut waiting = self.waiting.iter_mut();
            let is_it = |it: &&mut Waiting| it.session == session && it.sub == topic.ask.sub;
            if let Some(waiting) = waiting.find(is_it) {
                waiting.replies.push(Rc::clone(reply));
            }
        }
        Ok(())
    }

    /// The topics of which the caller may see something. Others are passed over: the SDK sets all of its
    /// topics each time, and one that is refused must not take the others along.
    fn open_topics(
        &self,
        database: &str,
        caller: &Caller,
        topics: Vec<Topic>,
    ) -> Result<Vec<Topic>> {
        let mut open = Vec::with_capacity(topics.len());
        for topic in topics {
            match self.of.prepare(database, caller, &topic.ask) {
                Ok(_) => open.push(topic),
                Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(open)
    }

    /// Makes those subscriptions live that miss nothing any more.
    pub fn greet(&mut self) {
        let until = Instant::now() + GREET_MAX;
        let mut all = std::mem::take(&mut self.waiting);
        if !self.replays.is_empty() {
            let (replays, now) = (&self.replays, Instant::now());
            all.sort_by_cached_key(|it| (it.is_granted, replays.of(&it.network, now)));
        }
        for mut waiting in all {
            if Instant::now() >= until {
                self.waiting.push(waiting);
                continue;
            }
            if !waiting.is_granted {
                // An account may have changed before anybody listened to that.
                if !self.is_ready(&waiting) || !self.is_looked_at(&mut waiting) {
                    self.waiting.push(waiting);
                    continue;
                }
            }
            if !self.is_caught_up(&mut waiting) {
                self.waiting.push(waiting);
                continue;
            }
            match self.board.sub(waiting.session, &waiting.sub) {
                Some((class, id)) => {
                    if let Some(sub) = class.subs.get_mut(&id) {
                        sub.is_live = true;
                    }
                }
                None => self.refuse_late(&waiting),
            }
        }
    }

    /// Answers a subscription and gives it what it has missed, no faster than that is taken; true when nothing
    /// is left to be given.
    fn is_caught_up(&mut self, waiting: &mut Waiting) -> bool {
        let Some((class, id)) = self.board.sub(waiting.session, &waiting.sub) else {
            return true;
        };
        let Some(sub) = class.subs.get(&id).filter(|sub| !sub.is_stream) else {
            return true;
        };
        let (link, collection) = (sub.link.clone(), class.collection.clone());
        let last = self.recent.last();
        if !std::mem::replace(&mut waiting.is_granted, true) {
            // What is to come after that counts as not seen yet.
            let last = waiting.after.as_ref().unwrap_or(&last);
            link.send(frames::subscribed(&waiting.reference, &waiting.sub, last).into());
        }
        let Some(after) = &waiting.after else {
            return true;
        };
        if !link.has_room() {
            return false;
        }
        let Some(changes) = self.recent.after(&collection, after, REPLAY_MAX) else {
            self.of.counts.resyncs.fetch_add(1, Relaxed);
            link.send(frames::resync(&waiting.sub, &last).into());
            return true;
        };
        let begun = Instant::now();
        let until = begun + REPLAY_TIME;
        let given = self.replay(waiting.session, &waiting.sub, &changes, until);
        let now = Instant::now();
        self.replays.add(waiting.network, now - begun, now);
        let Some(given) = given else {
            return true;
        };
        if let Some((seq, _)) = changes[..given].last() {
            waiting.after = Some(self.recent.name(*seq));
        }
        given == changes.len() && given < REPLAY_MAX
    }

    /// True if the identity of the session was looked up after the subscription was made, or need not be.
    fn is_looked_at(&mut self, waiting: &mut Waiting) -> bool {
        if waiting.look.is_none() {
            waiting.look = self.ask_again(waiting.session);
        }
        let session = self.board.sessions.get(&waiting.session);
        let (Some(session), Some(look)) = (session, waiting.look) else {
            return true;
        };
        session.looks.answered >= look
    }

    fn is_ready(&mut self, waiting: &Waiting) -> bool {
        let Some((class, _)) = self.board.sub(waiting.session, &waiting.sub) else {
            return true;
        };
        let collection = class.collection.clone();
        let session = self.board.sessions.get(&waiting.session);
        let account = session.and_then(|session| match &session.caller.identity {
            Identity::User(user) => Some(user.collection_id.clone()),
            _ => None,
        });
        let is_complete = self.recent.is_complete(&collection);
        is_complete && account.is_none_or(|account| self.recent.is_complete(&account))
    }

    /// Forgets what has been spent long ago.
    pub fn forget_effort(&mut self, now: Instant) {
        self.effort.forget(now);
        self.replays.forget(now);
    }

    /// Begins to listen to a collection, or goes on with one more who does.
    pub fn watch(&mut self, database: &str, collection: &str) {
        if !self.recent.watch(collection) {
            return;
        }
        self.of.events.watch(collection);
        let database = self.of.databases.get(database);
        let barrier = database.map_or(None, |database| database.commit_barrier());
        self.recent.set_barrier(collection, barrier);
    }

    /// Listens to what becomes of an account.
    pub fn watch_account(&mut self, database: &str, identity: &Identity) {
        if let Identity::User(user) = identity {
            self.watch(database, &user.collection_id);
        }
    }
}

/// What a client is told; our own faults are logged, and named as such.
pub fn shown(error: Error) -> Error {
    match error.kind() {
        Kind::Internal => {
            log::error(format_args!("realtime: {error}"));
            Error::new(Kind::Internal, "Something went wrong on the server.")
        }
        _ => error,
    }
}
