//! What becomes of a change: who sees it, and who of a group has it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::board::{Class, ClassId, SessionId, Sub, SubId};
use super::thread::Thread;
use super::{effort, frames, topics};
use crate::base::error::{Error, Kind, Result};
use crate::base::{clock, log};
use crate::model::collections::CollectionKind;
use crate::model::events::RecordChange;
use crate::model::triggers::RecordAction;
use crate::net::sockets::{SocketHandle, Text};
use crate::store::db::Connection;

/// How long a class may take to look at a change: all the others wait meanwhile.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// How often a subscription that catches up is sorted anew because definitions change meanwhile.
const STALE_TRIES: usize = 10;
/// Bytes of texts that are made of one change: subscriptions have names, so that each may want a text of its own,
/// and all of them wait to be sent. Less than the share of one network in the budget for that.
const TEXTS_MAX: usize = 40 << 20;

/// A change as it is sent.
struct Event<'a> {
    id: &'a str,
    action: RecordAction,
    /// JSON.
    record: String,
    now_ms: i64,
    /// The text that was made last, for whom it was: most want the same.
    last: Option<(bool, String, Text)>,
    /// Bytes of texts that were made.
    made: &'a mut usize,
}

/// Who of a group may have an event: when they last had one, where they are, and the text.
type Candidates = BTreeMap<Arc<str>, Vec<(u64, ClassId, SubId, SocketHandle, Text)>>;

impl Thread<'_> {
    /// Gives changes to all who see them.
    pub fn deliver_all(&mut self, changes: VecDeque<Arc<RecordChange>>) {
        let mut left: HashMap<String, usize> = HashMap::new();
        for change in &changes {
            let collection = &change.state.collection.id;
            match left.get_mut(collection) {
                Some(count) => *count += 1,
                None => drop(left.insert(collection.clone(), 1)),
            }
        }
        let mut all = changes.len();
        for change in changes {
            let collection = &change.state.collection.id;
            let Some(same) = left.get_mut(collection) else {
                continue;
            };
            *same -= 1;
            all -= 1;
            let have_others = all > *same || self.of.events.has_others(collection);
            self.deliver(&change, have_others);
        }
    }

    /// Gives a change to all who see it. What others wait for is not delayed by more than a collection may use.
    fn deliver(&mut self, change: &Arc<RecordChange>, others_wait: bool) {
        let state = &change.state;
        if state.collection.kind == CollectionKind::Auth {
            self.follow_account(change);
        }
        let begun = Instant::now();
        let collection = &state.collection.id;
        let seq = self.recent.add(Arc::clone(change), begun);
        self.of.counts.changes.fetch_add(1, Relaxed);
        let allowance = match others_wait {
            true => self.effort.allowance(collection, begun),
            false => effort::LOOK_MAX,
        };
        if allowance.is_zero() {
            self.skipped.insert(collection.clone());
            return;
        }
        if self.skipped.remove(collection) {
            self.resync_all(collection);
        }
        self.show_to_all(change, seq, begun + allowance);
        let now = Instant::now();
        self.effort.add(collection.clone(), now - begun, now);
    }

    /// Gives a change to the classes that see it, as long as there is time; the others are told to read anew.
    fn show_to_all(&mut self, change: &Arc<RecordChange>, seq: u64, until: Instant) {
        let id = self.recent.name(seq);
        let (now_ms, mut candidates) = (clock::now_ms(), Candidates::new());
        let mut made = 0;
        let listeners = self.fresh_listeners(change);
        for class in self.board.by_cost(listeners) {
            let is_live = |class: &mut Class| class.subs.values().any(|sub| sub.is_live);
            if !self.board.class(class).is_some_and(is_live) {
                continue;
            }
            if Instant::now() >= until {
                for (session, name) in self.board.names(class) {
                    self.resync(session, &name);
                }
                continue;
            }
            match self.look(class, change) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let mut event = Event {
                        id: &id,
                        action: change.action,
                        record,
                        now_ms,
                        last: None,
                        made: &mut made,
                    };
                    self.send(class, &mut event, &mut candidates);
                }
                Err(error) => self.give_up(class, &error),
            }
        }
        for (_, candidates) in candidates {
            self.give_to_one(candidates);
        }
    }

    /// Tells the subscribers of collections of which changes were passed over.
    pub fn tell_skipped(&mut self) {
        for collection in std::mem::take(&mut self.skipped) {
            self.resync_all(&collection);
        }
    }

    fn resync_all(&mut self, collection: &str) {
        for (session, name) in self.board.subs_of(collection) {
            self.resync(session, &name);
        }
    }

    /// An account has changed: from here on its sessions are who it is by this change. There may be further
    /// changes of it already, which come later.
    fn follow_account(&mut self, change: &RecordChange) {
        let sessions = self.board.by_account(change.state.id());
        if sessions.is_empty() {
            return;
        }
        let account = match change.action {
            RecordAction::Delete => None,
            RecordAction::Create | RecordAction::Update => match self.of.account(&change.state) {
                Ok(account) => account.map(Arc::new),
                Err(error) => {
                    log::warn(format_args!("realtime: look at an account: {error}"));
                    None
                }
            },
        };
        let mut known = None;
        for session in sessions {
            self.follow(session, account.as_ref(), &mut known);
        }
    }

    /// Changes of a collection are missing: whoever listens to it is told, and so is whoever comes back.
    pub fn lose(&mut self, collection: &str) {
        log::warn(format_args!(
            "realtime: too many changes at once, subscribers read anew collection={collection}"
        ));
        self.recent.lose(collection);
        self.resync_all(collection);
        // Who somebody is may have changed as well.
        let sessions: Vec<SessionId> = self.board.sessions.keys().copied().collect();
        for session in sessions {
            self.ask_again(session);
        }
    }

    /// Gives one subscription what it has missed, as long as its link takes it and there is
    /// time. How many of
    /// these changes are done with; none when there is nothing more to give.
    pub fn replay(
        &mut self,
        session: SessionId,
        name: &str,
        changes: &[(u64, Arc<RecordChange>)],
        until: Instant,
    ) -> Option<usize> {
        for (at, (seq, change)) in changes.iter().enumerate() {
            if Instant::now() >= until {
                return Some(at);
            }
            self.freshen(session, name);
            let found = self.board.sessions.get(&session)?;
            let (class, _) = found.subs.get(name).copied()?;
            let link = found.link.clone();
            if !link.has_room() {
                return Some(at);
            }
            let record = self
                .board
                .class(class)
                .map(|class| class.wish.record.clone());
            let is_other = |id: String| id != change.state.id();
            if record.flatten().is_some_and(is_other) {
                continue;
            }
            match self.look(class, change) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let id = self.recent.name(*seq);
                    link.send(frames::event(name, &id, change.action, &record).into());
                    self.of.counts.sent.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    self.give_up(class, &error);
                    return None;
                }
            }
        }
        Some(changes.len())
    }

    /// Makes the class of a subscription anew if definitions have changed.
    fn freshen(&mut self, session: SessionId, name: &str) {
        for _ in 0..STALE_TRIES {
            let found = self.board.sessions.get(&session);
            let found = found.and_then(|session| session.subs.get(name));
            let Some((class, _)) = found.copied() else {
                return;
            };
            let found = self.board.class(class);
            let lens = found.and_then(|class| class.lens.as_ref());
            if !lens.is_some_and(|lens| lens.is_stale()) {
                return;
            }
            self.rebuild(class);
        }
    }

    /// The classes that a change may concern, made with the definitions of now.
    fn fresh_listeners(&mut self, change: &RecordChange) -> Vec<ClassId> {
        let collection = &change.state.collection;
        match self.of.catalog.collections(&collection.database) {
            Ok(definitions) => {
                let outdated = self.board.outdated(&collection.id, &definitions);
                for class in &outdated {
                    self.rebuild(*class);
                }
                if !outdated.is_empty() {
                    self.board.settle(&collection.id, &definitions);
                }
            }
            Err(error) => log::warn(format_args!("realtime: {error}")),
        }
        self.board.listeners(&change.state)
    }

    /// Sorts the subscriptions of a class anew: by other rules they may not see the same any more.
    pub fn rebuild(&mut self, class: ClassId) {
        // Else whoever leaves it would come back to it as long as others are in it.
        self.board.retire(class);
        for (session, name) in self.board.names(class) {
            self.renew_sub(session, &name);
        }
    }

    /// What a class sees of a change, as JSON; none when that is nothing.
    fn look(&mut self, class: ClassId, change: &RecordChange) -> Result<Option<String>> {
        let of = self.of;
        let Some(class) = self.board.class(class) else {
            return Ok(None);
        };
        let database = of.databases.get(&class.database)?;
        let is_timed = class.lens.as_ref().is_some_and(|lens| lens.is_timed());
        if is_timed {
            class.lens = Some(of.lens(class)?);
        }
        let Some(lens) = &class.lens else {
            return Ok(None);
        };
        let mut out = Vec::with_capacity(512);
        let show = |connection: &Connection| lens.show(connection, &change.state, &mut out);
        let begun = Instant::now();
        let is_shown = database.snapshot_within(LOOK_MAX, show);
        class.cost = begun.elapsed();
        let is_shown = is_shown?;
        if lens.is_stale() {
            // By which rules is not known any more.
            return Err(Error::stale());
        }
        Ok(is_shown.then(|| String::from_utf8_lossy(&out).into_owned()))
    }

    /// Sends an event to a class; of those who are in groups it only notes who could have it.
    fn send(&mut self, id: ClassId, event: &mut Event<'_>, candidates: &mut Candidates) {
        let Some(class) = self.board.class(id) else {
            return;
        };
        let (mut sent, mut expired) = (0, false);
        let mut left_out: Vec<(SessionId, String)> = Vec::new();
        for (sub_id, sub) in &class.subs {
            let is_over = sub.expires_ms.is_some_and(|end| end <= event.now_ms);
            expired |= is_over;
            if !sub.is_live || is_over {
                continue;
            }
            let Some(text) = event.text(sub) else {
                left_out.push((sub.session, sub.ask.sub.clone()));
                continue;
            };
            match &sub.group {
                None => sent += u64::from(sub.link.send(text)),
                Some(group) => {
                    let candidate = (sub.turn, id, *sub_id, sub.link.clone(), text);
                    candidates
                        .entry(Arc::clone(group))
                        .or_default()
                        .push(candidate);
                }
            }
        }
        self.of.counts.sent.fetch_add(sent, Relaxed);
        for (session, name) in left_out {
            self.resync(session, &name);
        }
        if expired {
            self.end_expired(event.now_ms);
        }
    }

    /// Gives an event to whoever of a group has waited longest for one, and is still there.
    fn give_to_one(&mut self, mut candidates: Vec<(u64, ClassId, SubId, SocketHandle, Text)>) {
        candidates.sort_by_key(|(turn, _, sub, _, _)| (*turn, *sub));
        for (_, class, sub, link, text) in candidates {
            if !link.send(text) {
                continue;
            }
            self.turns += 1;
            self.of.counts.sent.fetch_add(1, Relaxed);
            let class = self.board.class(class);
            if let Some(sub) = class.and_then(|class| class.subs.get_mut(&sub)) {
                sub.turn = self.turns;
            }
            return;
        }
    }

    /// A change could not be looked at for a class. Where that is because of what is asked for, it would be so
    /// again, and the subscriptions end; else they are told that something is missing.
    fn give_up(&mut self, class: ClassId, error: &Error) {
        log::warn(format_args!("realtime: look at a change: {error}"));
        let reason = match error.kind() {
            _ if error.is_interrupted() => Some(Error::invalid(
                "Looking at a record takes too long with this filter or expand.",
            )),
            Kind::Invalid | Kind::TooLarge => Some(Error::new(error.kind(), error.message())),
            _ => None,
        };
        for (session, name) in self.board.names(class) {
            match &reason {
                Some(reason) => self.end(session, &name, reason),
                None => self.resync(session, &name),
            }
        }
    }

    fn resync(&mut self, session: SessionId, name: &str) {
        let Some(session) = self.board.sessions.get(&session) else {
            return;
        };
        self.of.counts.resyncs.fetch_add(1, Relaxed);
        match session.client {
            None => drop(
                session
                    .link
                    .send(frames::resync(name, &self.recent.last()).into()),
            ),
            // The protocol has no word for it; whoever connects again reads again.
            Some(_) => session.link.close(1013, "events may be missing"),
        }
    }
}

impl Event<'_> {
    /// None when that would be too much.
    fn text(&mut self, sub: &Sub) -> Option<Text> {
        if let Some((is_stream, name, text)) = &self.last
            && *is_stream == sub.is_stream
            && *name == sub.ask.sub
        {
            return Some(text.clone());
        }
        *self.made += self.record.len();
        if *self.made > TEXTS_MAX {
            return None;
        }
        let name = &sub.ask.sub;
        let text: Text = match sub.is_stream {
            true => topics::event(name, self.action, &self.record).into(),
            false => frames::event(name, self.id, self.action, &self.record).into(),
        };
        self.last = Some((sub.is_stream, name.clone(), text.clone()));
        Some(text)
    }
}
