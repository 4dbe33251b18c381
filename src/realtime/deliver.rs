//! What becomes of a change: who sees it, and who of a group has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use super::board::ClassId;
use super::board::SessionId;
use super::board::Sub;
use super::board::SubId;
use super::frames;
use super::thread::Thread;
use super::topics;
use crate::clock;
use crate::collections::CollectionKind;
use crate::db::Connection;
use crate::error::Error;
use crate::error::Result;
use crate::events::Change;
use crate::log;
use crate::sockets::Link;
use crate::triggers::Action;

/// How long a class may take to look at a change: all the others wait meanwhile.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// A change as it is sent.
struct Event<'a> {
    id: &'a str,
    action: Action,
    /// JSON.
    record: String,
    now_ms: i64,
    /// The text that was made last, for whom it was: most want the same.
    last: Option<(bool, String, Arc<str>)>,
}

/// Who of a group may have an event: when they last had one, where they are, and the text.
type Candidates = BTreeMap<Arc<str>, Vec<(u64, ClassId, SubId, Link, Arc<str>)>>;

impl Thread<'_> {
    /// Gives a change to all who see it.
    pub fn deliver(&mut self, change: &Arc<Change>) {
        let state = &change.state;
        if state.collection.kind == CollectionKind::Auth {
            for session in self.board.by_account(state.id()) {
                self.recheck(session);
            }
        }
        let seq = self.recent.add(Arc::clone(change), Instant::now());
        self.of.counts.changes.fetch_add(1, Relaxed);
        let id = self.recent.name(seq);
        let (now_ms, mut candidates) = (clock::now_ms(), Candidates::new());
        for class in self.fresh_listeners(change) {
            match self.look(class, change) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let mut event = Event {
                        id: &id,
                        action: change.action,
                        record,
                        now_ms,
                        last: None,
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

    /// Changes of a collection are missing: whoever listens to it is told, and so is whoever comes back.
    pub fn lose(&mut self, collection: &str) {
        log::warn(format_args!(
            "realtime: too many changes at once, subscribers read anew collection={collection}"
        ));
        self.recent.lose(collection);
        for (session, name) in self.board.subs_of(collection) {
            self.resync(session, &name);
        }
        // Who somebody is may have changed as well.
        let sessions: Vec<SessionId> = self.board.sessions.keys().copied().collect();
        for session in sessions {
            self.recheck(session);
        }
    }

    /// Gives one subscription what it has missed.
    pub fn replay(&mut self, session: SessionId, name: &str, changes: &[(u64, Arc<Change>)]) {
        for (seq, change) in changes {
            let Some(found) = self.board.sessions.get(&session) else {
                return;
            };
            let Some((class, _)) = found.subs.get(name).copied() else {
                return;
            };
            let link = found.link.clone();
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
                Err(error) => return self.give_up(class, &error),
            }
        }
    }

    /// The classes that a change may concern, made with the definitions of now.
    fn fresh_listeners(&mut self, change: &Change) -> Vec<ClassId> {
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
        let names = self.board.class(class).map(|it| it.names().collect());
        let names: Vec<_> = names.unwrap_or_default();
        for (session, name) in names {
            self.renew_sub(session, &name);
        }
    }

    /// What a class sees of a change, as JSON; none when that is nothing.
    fn look(&mut self, class: ClassId, change: &Change) -> Result<Option<String>> {
        let of = self.of;
        let Some(class) = self.board.class(class) else {
            return Ok(None);
        };
        if !class.subs.values().any(|sub| sub.is_live) {
            return Ok(None);
        }
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
        let is_shown = database.snapshot_within(LOOK_MAX, show)?;
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
        for (sub_id, sub) in &class.subs {
            let is_over = sub.expires_ms.is_some_and(|end| end <= event.now_ms);
            expired |= is_over;
            if !sub.is_live || is_over {
                continue;
            }
            let text = event.text(sub);
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
        if expired {
            self.end_expired(event.now_ms);
        }
    }

    /// Gives an event to whoever of a group has waited longest for one, and is still there.
    fn give_to_one(&mut self, mut candidates: Vec<(u64, ClassId, SubId, Link, Arc<str>)>) {
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

    /// A change could not be looked at for a class: its subscribers are told that something is missing; what
    /// takes too long ends.
    fn give_up(&mut self, class: ClassId, error: &Error) {
        log::warn(format_args!("realtime: look at a change: {error}"));
        let too_long =
            Error::invalid("Looking at a record takes too long with this filter or expand.");
        let names = self.board.class(class).map(|it| it.names().collect());
        let names: Vec<_> = names.unwrap_or_default();
        for (session, name) in names {
            match error.was_stopped() {
                true => self.end(session, &name, &too_long),
                false => self.resync(session, &name),
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
    fn text(&mut self, sub: &Sub) -> Arc<str> {
        if let Some((is_stream, name, text)) = &self.last
            && *is_stream == sub.is_stream
            && *name == sub.ask.sub
        {
            return Arc::clone(text);
        }
        let name = &sub.ask.sub;
        let text: Arc<str> = match sub.is_stream {
            true => topics::event(name, self.action, &self.record).into(),
            false => frames::event(name, self.id, self.action, &self.record).into(),
        };
        self.last = Some((sub.is_stream, name.clone(), Arc::clone(&text)));
        text
    }
}
