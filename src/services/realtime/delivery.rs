//! Delivery of a change to the subscriptions that see it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::registry::{GroupId, SessionId, Subscription, SubscriptionGroup, SubscriptionId};
use super::{frames, time_usage, topics};
use crate::base::error::{Error, Kind, Result};
use crate::base::{clock, log};
use crate::model::collections::CollectionKind;
use crate::model::events::RecordChange;
use crate::model::triggers::RecordAction;
use crate::net::sockets::{SocketHandle, Text};
use crate::store::db::Connection;

/// Longest evaluation of a change for one group; all others wait for it.
const EVALUATION_MAX: Duration = Duration::from_millis(100);
/// Most times that a replaying subscription is regrouped because definitions change meanwhile.
const STALE_TRIES: usize = 10;
/// Bytes of texts encoded for one change. Each subscription can have a name, and therefore a text,
/// of its own, and all of them wait to be sent. Less than the share of one network in the budget of
/// send queues.
const TEXTS_MAX: usize = 40 << 20;

/// A change in the form in which it is sent.
struct EncodedEvent<'a> {
    id: &'a str,
    action: RecordAction,
    /// As JSON.
    record: String,
    now_ms: i64,
    /// The last text, with its stream flag and subscription name. Most subscriptions share it.
    last: Option<(bool, String, Text)>,
    /// Bytes of texts encoded so far.
    made: &'a mut usize,
}

/// The members of each consumer group that can receive an event: their last turn, and the text.
type Candidates = BTreeMap<Arc<str>, Vec<(u64, GroupId, SubscriptionId, SocketHandle, Text)>>;

impl Broker<'_> {
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
            let have_others = all > *same || self.context.events.has_others(collection);
            self.deliver(&change, have_others);
        }
    }

    /// Delivers a change. If changes of other collections wait, this takes no longer than the
    /// allowance of its collection.
    fn deliver(&mut self, change: &Arc<RecordChange>, others_wait: bool) {
        let state = &change.state;
        if state.collection.kind == CollectionKind::Auth {
            self.update_sessions(change);
        }
        let begun = Instant::now();
        let collection = &state.collection.id;
        let seq = self.replay_buffer.add(Arc::clone(change), begun);
        self.context.totals.changes.fetch_add(1, Relaxed);
        let allowance = match others_wait {
            true => self.change_time.allowance(collection, begun),
            false => time_usage::TIME_MAX,
        };
        if allowance.is_zero() {
            self.skipped.insert(collection.clone());
            return;
        }
        if self.skipped.remove(collection) {
            self.resync_all(collection);
        }
        self.deliver_to_groups(change, seq, begun + allowance);
        let now = Instant::now();
        self.change_time.add(collection.clone(), now - begun, now);
    }

    /// Delivers a change to the groups that see it. When the time is used up, the subscriptions of
    /// the remaining groups are told to read their records again.
    fn deliver_to_groups(&mut self, change: &Arc<RecordChange>, seq: u64, until: Instant) {
        let id = self.replay_buffer.event_id(seq);
        let (now_ms, mut candidates) = (clock::now_ms(), Candidates::new());
        let mut made = 0;
        let listeners = self.fresh_listeners(change);
        for group in self.registry.sort_by_cost(listeners) {
            let is_live =
                |group: &mut SubscriptionGroup| group.subs.values().any(|sub| sub.is_live);
            if !self.registry.group(group).is_some_and(is_live) {
                continue;
            }
            if Instant::now() >= until {
                for (session, name) in self.registry.subscribers(group) {
                    self.resync(session, &name);
                }
                continue;
            }
            match self.render(group, change) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let mut event = EncodedEvent {
                        id: &id,
                        action: change.action,
                        record,
                        now_ms,
                        last: None,
                        made: &mut made,
                    };
                    self.send(group, &mut event, &mut candidates);
                }
                Err(error) => self.fail_group(group, &error),
            }
        }
        for (_, candidates) in candidates {
            self.deliver_to_one(candidates);
        }
    }

    /// Tells the subscribers of collections with skipped changes to read again.
    pub fn resync_skipped(&mut self) {
        for collection in std::mem::take(&mut self.skipped) {
            self.resync_all(&collection);
        }
    }

    fn resync_all(&mut self, collection: &str) {
        for (session, name) in self.registry.subscribers_of(collection) {
            self.resync(session, &name);
        }
    }

    /// Applies a change of an account to its sessions. Later changes of the account may already be
    /// committed; they follow in order.
    fn update_sessions(&mut self, change: &RecordChange) {
        let sessions = self.registry.by_account(change.state.id());
        if sessions.is_empty() {
            return;
        }
        let account = match change.action {
            RecordAction::Delete => None,
            RecordAction::Create | RecordAction::Update => {
                match self.context.account(&change.state) {
                    Ok(account) => account.map(Arc::new),
                    Err(error) => {
                        log::warn(format_args!("realtime: read an account: {error}"));
                        None
                    }
                }
            }
        };
        let mut known = None;
        for session in sessions {
            self.update_account(session, account.as_ref(), &mut known);
        }
    }

    /// Tells the subscribers of a collection, now and when they reconnect, that changes are
    /// missing.
    pub fn mark_lost(&mut self, collection: &str) {
        log::warn(format_args!(
            "realtime: too many changes at once, subscribers must read again collection={collection}"
        ));
        self.replay_buffer.mark_lost(collection);
        self.resync_all(collection);
        // The missing changes may be those of accounts.
        let sessions: Vec<SessionId> = self.registry.sessions.keys().copied().collect();
        for session in sessions {
            self.recheck(session);
        }
    }

    /// Replays missed changes to a subscription, as long as its send queue has room and there is
    /// time. Returns how many of the changes were handled, or none if the subscription has ended.
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
            self.refresh(session, name);
            let found = self.registry.sessions.get(&session)?;
            let (group, _) = found.subs.get(name).copied()?;
            let handle = found.handle.clone();
            if !handle.has_room() {
                return Some(at);
            }
            let record = self
                .registry
                .group(group)
                .map(|group| group.spec.record.clone());
            let is_other = |id: String| id != change.state.id();
            if record.flatten().is_some_and(is_other) {
                continue;
            }
            match self.render(group, change) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    let id = self.replay_buffer.event_id(*seq);
                    handle.send(frames::event(name, &id, change.action, &record).into());
                    self.context.totals.sent.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    self.fail_group(group, &error);
                    return None;
                }
            }
        }
        Some(changes.len())
    }

    /// Moves a subscription to a current group if definitions have changed.
    fn refresh(&mut self, session: SessionId, name: &str) {
        for _ in 0..STALE_TRIES {
            let found = self.registry.sessions.get(&session);
            let found = found.and_then(|session| session.subs.get(name));
            let Some((group, _)) = found.copied() else {
                return;
            };
            let found = self.registry.group(group);
            let view = found.and_then(|group| group.view.as_ref());
            if !view.is_some_and(|view| view.is_stale()) {
                return;
            }
            self.regroup(group);
        }
    }

    /// The groups that a change can concern, created with the current definitions.
    fn fresh_listeners(&mut self, change: &RecordChange) -> Vec<GroupId> {
        let collection = &change.state.collection;
        match self.context.catalog.collections(&collection.database) {
            Ok(definitions) => {
                let outdated = self.registry.outdated_groups(&collection.id, &definitions);
                for group in &outdated {
                    self.regroup(*group);
                }
                if !outdated.is_empty() {
                    self.registry.set_definitions(&collection.id, &definitions);
                }
            }
            Err(error) => log::warn(format_args!("realtime: {error}")),
        }
        self.registry.listeners(&change.state)
    }

    /// Assigns the subscriptions of a group to groups again: after a change of rules they may see
    /// different events.
    pub fn regroup(&mut self, group: GroupId) {
        // Otherwise a subscription would rejoin this group as long as it has members.
        self.registry.retire(group);
        for (session, name) in self.registry.subscribers(group) {
            self.regroup_subscription(session, &name);
        }
    }

    /// Renders the record of a change for a group, as JSON. Returns none if the group does not see
    /// it.
    fn render(&mut self, group: GroupId, change: &RecordChange) -> Result<Option<String>> {
        let context = self.context;
        let Some(group) = self.registry.group(group) else {
            return Ok(None);
        };
        let database = context.databases.get(&group.database)?;
        let depends_on_time = (group.view.as_ref()).is_some_and(|view| view.depends_on_time());
        if depends_on_time {
            group.view = Some(context.view(group)?);
        }
        let Some(view) = &group.view else {
            return Ok(None);
        };
        let mut out = Vec::with_capacity(512);
        let show = |connection: &Connection| view.show(connection, &change.state, &mut out);
        let begun = Instant::now();
        let is_shown = database.snapshot_within(EVALUATION_MAX, show);
        group.cost = begun.elapsed();
        let is_shown = is_shown?;
        if view.is_stale() {
            // It is unknown which definitions applied.
            return Err(Error::stale());
        }
        Ok(is_shown.then(|| String::from_utf8_lossy(&out).into_owned()))
    }

    /// Sends an event to the subscriptions of a group. Members of consumer groups become
    /// candidates.
    fn send(&mut self, id: GroupId, event: &mut EncodedEvent<'_>, candidates: &mut Candidates) {
        let Some(group) = self.registry.group(id) else {
            return;
        };
        let (mut sent, mut expired) = (0, false);
        let mut left_out: Vec<(SessionId, String)> = Vec::new();
        for (sub_id, sub) in &group.subs {
            let is_over = sub.expires_ms.is_some_and(|end| end <= event.now_ms);
            expired |= is_over;
            if !sub.is_live || is_over {
                continue;
            }
            let Some(text) = event.text(sub) else {
                left_out.push((sub.session, sub.request.sub.clone()));
                continue;
            };
            match &sub.consumer_group {
                None => sent += u64::from(sub.handle.send(text)),
                Some(consumer_group) => {
                    let candidate = (sub.turn, id, *sub_id, sub.handle.clone(), text);
                    candidates
                        .entry(Arc::clone(consumer_group))
                        .or_default()
                        .push(candidate);
                }
            }
        }
        self.context.totals.sent.fetch_add(sent, Relaxed);
        for (session, name) in left_out {
            self.resync(session, &name);
        }
        if expired {
            self.end_expired(event.now_ms);
        }
    }

    /// Sends an event to the connected member of a consumer group that has waited longest.
    fn deliver_to_one(
        &mut self,
        mut candidates: Vec<(u64, GroupId, SubscriptionId, SocketHandle, Text)>,
    ) {
        candidates.sort_by_key(|(turn, _, sub, _, _)| (*turn, *sub));
        for (_, group, sub, handle, text) in candidates {
            if !handle.send(text) {
                continue;
            }
            self.turns += 1;
            self.context.totals.sent.fetch_add(1, Relaxed);
            let group = self.registry.group(group);
            if let Some(sub) = group.and_then(|group| group.subs.get_mut(&sub)) {
                sub.turn = self.turns;
            }
            return;
        }
    }

    /// Handles a failed evaluation. If the request is the cause, it would fail again, and the
    /// subscriptions end. Otherwise they are told that an event may be missing.
    fn fail_group(&mut self, group: GroupId, error: &Error) {
        log::warn(format_args!("realtime: evaluate a change: {error}"));
        let reason = match error.kind() {
            _ if error.is_interrupted() => Some(Error::invalid(
                "Evaluating this filter or expand takes too long.",
            )),
            Kind::Invalid | Kind::TooLarge => Some(Error::new(error.kind(), error.message())),
            _ => None,
        };
        for (session, name) in self.registry.subscribers(group) {
            match &reason {
                Some(reason) => self.end(session, &name, reason),
                None => self.resync(session, &name),
            }
        }
    }

    fn resync(&mut self, session: SessionId, name: &str) {
        let Some(session) = self.registry.sessions.get(&session) else {
            return;
        };
        self.context.totals.resyncs.fetch_add(1, Relaxed);
        match session.client {
            None => drop(
                session
                    .handle
                    .send(frames::resync(name, &self.replay_buffer.last_event_id()).into()),
            ),
            // The protocol has no frame for it. A client reads again after it reconnects.
            Some(_) => session.handle.close(1013, "events may be missing"),
        }
    }
}

impl EncodedEvent<'_> {
    /// Encodes the event for a subscription. Returns none above [`TEXTS_MAX`].
    fn text(&mut self, sub: &Subscription) -> Option<Text> {
        if let Some((is_stream, name, text)) = &self.last
            && *is_stream == sub.is_stream
            && *name == sub.request.sub
        {
            return Some(text.clone());
        }
        *self.made += self.record.len();
        if *self.made > TEXTS_MAX {
            return None;
        }
        let name = &sub.request.sub;
        let text: Text = match sub.is_stream {
            true => topics::event(name, self.action, &self.record).into(),
            false => frames::event(name, self.id, self.action, &self.record).into(),
        };
        self.last = Some((sub.is_stream, name.clone(), text.clone()));
        Some(text)
    }
}
