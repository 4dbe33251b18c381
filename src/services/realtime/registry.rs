//! Who is connected, and who has subscribed to what.
//!
//! Subscriptions that see the same in the same form make a [`SubscriptionGroup`]: a change is looked at once for each
//! group, however many are in it. All that many have in common is one group when neither rule nor filter asks
//! who they are; else each account has its own.
//!
//! Invariants: a subscription is in exactly one group, which is in `groups` and `listeners`, and in `by_key`
//! unless it is retired; a group without subscriptions is gone; `by_account` has the sessions of accounts, and no others.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::frames::{FrameResult, SubscribeRequest};
use crate::base::budget::Charge;
use crate::base::{crypto, ids};
use crate::model::auth::StoredCredentials;
use crate::model::collections::Collections;
use crate::model::events::RecordState;

use crate::model::records::{RoutingKey, SubscriberView, SubscriptionSpec};
use crate::model::rules::Identity;
use crate::net::sockets::SocketHandle;

/// A connection.
pub type SessionId = u64;
pub type GroupId = u64;
pub type SubscriptionId = u64;

/// Who somebody is, and by what.
#[derive(Clone, Debug)]
pub struct Caller {
    pub identity: Identity,
    pub pass: StoredCredentials,
    /// Milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

impl Caller {
    pub fn has_credentials(&self) -> bool {
        !matches!(self.identity, Identity::Anonymous)
    }

    /// What no other caller has: another one with each change of an account.
    pub fn key(&self) -> String {
        match &self.identity {
            Identity::Anonymous => "nobody".to_owned(),
            Identity::Admin(id) => format!("admin {id}"),
            Identity::Key(key) => format!("key {}", key.id),
            Identity::Service(service) => format!("service {}", service.name),
            Identity::User(user) => {
                let record = Value::Object(user.record.clone()).to_string();
                let hash = crypto::sha256(record.as_bytes());
                format!("user {} {}", user.id, ids::hex(&hash[..16]))
            }
        }
    }

    /// Whose groups are the same: nobody shall take events away from those who are somebody else.
    fn kind(&self) -> &str {
        match &self.identity {
            Identity::Anonymous => "",
            Identity::User(user) => &user.collection_id,
            Identity::Admin(_) | Identity::Key(_) | Identity::Service(_) => "server",
        }
    }
}

/// A connected client.
pub struct Session {
    pub handle: SocketHandle,
    /// Which database it is about.
    pub database: String,
    pub caller: Caller,
    /// The name of a client that listens to server-sent events; a WebSocket has none.
    pub client: Option<String>,
    /// Its subscriptions by its own names for them.
    pub subs: BTreeMap<String, (GroupId, SubscriptionId)>,
    /// Frames of it that wait.
    pub pending: Arc<AtomicUsize>,
    /// Since when it has had no subscription.
    pub idle_since: Option<Instant>,
    pub checks: CheckState,
}

/// The state of the checks of a session's identity.
#[derive(Default)]
pub struct CheckState {
    /// Another one with each change of who it is.
    pub generation: u64,
    /// Numbers of the last one that was asked for, and of the last one that was answered.
    pub asked: u64,
    pub answered: u64,
    /// The last one has not begun.
    pub is_queued: Arc<AtomicBool>,
    /// While it signs in: frames that came after that.
    pub later: Option<VecDeque<FrameResult>>,
}

/// One subscription.
pub struct Subscription {
    pub session: SessionId,
    pub handle: SocketHandle,
    /// Server-sent events, in the form of PocketBase.
    pub is_stream: bool,
    pub request: Arc<SubscribeRequest>,
    /// Its group, told apart by who its members are.
    pub consumer_group: Option<Arc<str>>,
    /// When who has subscribed is nobody any more; milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// It hears of everything from now on; until then it waits, see [`super::replay_buffer`].
    pub is_live: bool,
    /// When it last had an event of its group.
    pub turn: u64,
    /// For itself, and for the bytes that it keeps.
    _charges: [Charge; 2],
}

/// The charges for a subscription.
pub struct SubscriptionCharges {
    pub subscription: [Charge; 2],
    /// For its group, if there is none yet.
    pub group: Option<Charge>,
}

/// Subscriptions that see the same.
pub struct SubscriptionGroup {
    key: String,
    pub database: String,
    pub collection: String,
    pub spec: SubscriptionSpec,
    /// Whoever stands for all of them.
    pub identity: Identity,
    /// None: to be made anew.
    pub view: Option<SubscriberView>,
    /// As it was when it was made.
    routing_key: Option<RoutingKey>,
    /// The time that the last look took.
    pub cost: Duration,
    /// To the network of the first subscription, also after that has ended: another network might have no room,
    /// and its subscription would end though its client did nothing.
    _charge: Option<Charge>,
    pub subs: BTreeMap<SubscriptionId, Subscription>,
}

/// A group that takes longer to look at a change is expensive.
const EXPENSIVE: Duration = Duration::from_millis(2);
/// The cost of a group that has looked at no change yet.
const UNKNOWN: Duration = Duration::from_millis(4);

/// Classes that listen to a collection.
#[derive(Default)]
struct Listeners {
    whole: BTreeSet<GroupId>,
    by_record: HashMap<String, BTreeSet<GroupId>>,
    /// Those who see only records with one value in a field: by field, then by value.
    by_value: BTreeMap<String, HashMap<String, BTreeSet<GroupId>>>,
    /// The definitions that all of them were last known to be made with.
    definitions: Option<Arc<Collections>>,
}

impl Listeners {
    fn add(&mut self, id: GroupId, group: &SubscriptionGroup) {
        let groups = match (&group.spec.record, &group.routing_key) {
            (Some(record), _) => self.by_record.entry(record.clone()).or_default(),
            (None, Some(routing_key)) => {
                let by_value = self.by_value.entry(routing_key.field.clone()).or_default();
                by_value.entry(routing_key.value.clone()).or_default()
            }
            (None, None) => &mut self.whole,
        };
        groups.insert(id);
        if self.definitions.is_none() {
            self.definitions = group
                .view
                .as_ref()
                .map(|view| Arc::clone(view.definitions()));
        }
    }

    fn remove(&mut self, id: GroupId, group: &SubscriptionGroup) {
        match (&group.spec.record, &group.routing_key) {
            (Some(record), _) => drop_from(&mut self.by_record, record, id),
            (None, Some(routing_key)) => {
                if let Some(by_value) = self.by_value.get_mut(&routing_key.field) {
                    drop_from(by_value, &routing_key.value, id);
                    if by_value.is_empty() {
                        self.by_value.remove(&routing_key.field);
                    }
                }
            }
            (None, None) => drop(self.whole.remove(&id)),
        }
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.by_record.is_empty() && self.by_value.is_empty()
    }
}

fn drop_from(map: &mut HashMap<String, BTreeSet<GroupId>>, key: &str, id: GroupId) {
    if let Some(groups) = map.get_mut(key) {
        groups.remove(&id);
        if groups.is_empty() {
            map.remove(key);
        }
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Registry {
    pub sessions: HashMap<SessionId, Session>,
    groups: HashMap<GroupId, SubscriptionGroup>,
    by_key: HashMap<String, GroupId>,
    /// By id of the collection.
    listeners: HashMap<String, Listeners>,
    /// By id of the account.
    by_account: HashMap<String, BTreeSet<SessionId>>,
    clients: HashMap<String, SessionId>,
    count: usize,
    next: u64,
}

impl Registry {
    pub fn add_session(&mut self, id: SessionId, session: Session) {
        if let Some(client) = &session.client {
            self.clients.insert(client.clone(), id);
        }
        let caller = session.caller.clone();
        self.sessions.insert(id, session);
        self.set_caller(id, caller);
    }

    /// Who it is from now on. Subscriptions stay as they are.
    pub fn set_caller(&mut self, id: SessionId, caller: Caller) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Identity::User(user) = &session.caller.identity
            && let Some(sessions) = self.by_account.get_mut(&user.id)
        {
            sessions.remove(&id);
            if sessions.is_empty() {
                self.by_account.remove(&user.id);
            }
        }
        if let Identity::User(user) = &caller.identity {
            self.by_account
                .entry(user.id.clone())
                .or_default()
                .insert(id);
        }
        session.handle.set_has_credentials(caller.has_credentials());
        session.checks.generation += 1;
        session.caller = caller;
    }

    /// Removes a session without subscriptions.
    pub fn remove_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let nobody = Caller {
            identity: Identity::Anonymous,
            ..session.caller.clone()
        };
        self.set_caller(id, nobody);
        if let Some(session) = self.sessions.remove(&id)
            && let Some(client) = session.client
        {
            self.clients.remove(&client);
        }
    }

    /// The session of a client that listens to server-sent events.
    pub fn by_client(&self, client: &str) -> Option<SessionId> {
        self.clients.get(client).copied()
    }

    /// The sessions of an account.
    pub fn by_account(&self, account: &str) -> Vec<SessionId> {
        let found = self.by_account.get(account).into_iter().flatten();
        found.copied().collect()
    }

    /// Subscriptions of all sessions.
    pub fn count(&self) -> usize {
        self.count
    }

    /// True if there is a group of this key.
    pub fn has_group(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// Adds a subscription of a session to the group of this key, which `make` makes if there is none.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        request: &Arc<SubscribeRequest>,
        key: String,
        charges: SubscriptionCharges,
        make: impl FnOnce() -> SubscriptionGroup,
    ) {
        let Some(found) = self.sessions.get_mut(&session) else {
            return;
        };
        self.next += 1;
        let sub = self.next;
        let group_id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                self.next += 1;
                let group = SubscriptionGroup {
                    key: key.clone(),
                    _charge: charges.group,
                    ..make()
                };
                let listeners = self.listeners.entry(group.collection.clone()).or_default();
                listeners.add(self.next, &group);
                self.by_key.insert(key, self.next);
                self.groups.insert(self.next, group);
                self.next
            }
        };
        let Some(group) = self.groups.get_mut(&group_id) else {
            return;
        };
        let kind = found.caller.kind();
        let consumer_group = request.group.as_ref();
        let consumer_group =
            consumer_group.map(|name| format!("{} {kind} {name}", group.collection).into());
        group.subs.insert(
            sub,
            Subscription {
                session,
                handle: found.handle.clone(),
                is_stream: found.client.is_some(),
                request: Arc::clone(request),
                consumer_group,
                expires_ms: found.caller.expires_ms,
                is_live: false,
                turn: 0,
                _charges: charges.subscription,
            },
        );
        found.subs.insert(request.sub.clone(), (group_id, sub));
        found.idle_since = None;
        self.count += 1;
    }

    /// Takes a subscription away. Returns the collection that it was for.
    pub fn unsubscribe(&mut self, session: SessionId, name: &str, now: Instant) -> Option<String> {
        let found = self.sessions.get_mut(&session)?;
        let (group_id, sub) = found.subs.remove(name)?;
        if found.subs.is_empty() {
            found.idle_since = Some(now);
        }
        self.count -= 1;
        let group = self.groups.get_mut(&group_id)?;
        group.subs.remove(&sub);
        let collection = group.collection.clone();
        if group.subs.is_empty() {
            self.remove_group(group_id);
        }
        Some(collection)
    }

    fn remove_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else {
            return;
        };
        // One that was retired may have a successor.
        if self.by_key.get(&group.key) == Some(&id) {
            self.by_key.remove(&group.key);
        }
        let Some(listeners) = self.listeners.get_mut(&group.collection) else {
            return;
        };
        listeners.remove(id, &group);
        if listeners.is_empty() {
            self.listeners.remove(&group.collection);
        }
    }

    /// Takes no more subscriptions into a group: the next one of its key makes another.
    pub fn retire(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get(&id)
            && self.by_key.get(&group.key) == Some(&id)
        {
            self.by_key.remove(&group.key);
        }
    }

    /// The groups that a change of a record may concern, if they are made with the present definitions.
    pub fn listeners(&self, state: &RecordState) -> Vec<GroupId> {
        let Some(listeners) = self.listeners.get(&state.collection.id) else {
            return Vec::new();
        };
        let of_record = listeners.by_record.get(state.id()).into_iter().flatten();
        let by_value = listeners.by_value.iter();
        let of_values = by_value.filter_map(|(field, by_value)| {
            let value = RoutingKey::value_in(state, field)?;
            by_value.get(value)
        });
        let all = listeners.whole.iter().chain(of_record);
        all.chain(of_values.flatten()).copied().collect()
    }

    /// The same groups, those that are expensive last, the dearest at the end.
    pub fn sort_by_cost(&self, mut groups: Vec<GroupId>) -> Vec<GroupId> {
        let cost = |id: &GroupId| self.groups.get(id).map_or(Duration::ZERO, |it| it.cost);
        let is_expensive = |id: &mut GroupId| cost(id) > EXPENSIVE;
        let mut expensive: Vec<GroupId> = groups.extract_if(.., is_expensive).collect();
        expensive.sort_by_cached_key(cost);
        groups.append(&mut expensive);
        groups
    }

    /// The groups of a collection that are to be made anew before it is asked for listeners: all of them, when
    /// the definitions are others than those that they are known to be made with.
    pub fn outdated_groups(
        &self,
        collection: &str,
        definitions: &Arc<Collections>,
    ) -> Vec<GroupId> {
        let listeners = self.listeners.get(collection);
        let known = listeners.and_then(|listeners| listeners.definitions.as_ref());
        if known.is_none_or(|known| Arc::ptr_eq(known, definitions)) {
            return Vec::new();
        }
        let groups = self.groups.iter();
        let groups = groups.filter(|(_, group)| group.collection == collection);
        groups.map(|(id, _)| *id).collect()
    }

    /// They have been made anew.
    pub fn set_definitions(&mut self, collection: &str, definitions: &Arc<Collections>) {
        if let Some(listeners) = self.listeners.get_mut(collection) {
            listeners.definitions = Some(Arc::clone(definitions));
        }
    }

    /// The subscriptions of a group: session and name.
    pub fn subscribers(&self, id: GroupId) -> Vec<(SessionId, String)> {
        let group = self.groups.get(&id).into_iter();
        group.flat_map(SubscriptionGroup::subscribers).collect()
    }

    pub fn group(&mut self, id: GroupId) -> Option<&mut SubscriptionGroup> {
        self.groups.get_mut(&id)
    }

    /// A subscription and its group.
    pub fn subscription(
        &mut self,
        session: SessionId,
        name: &str,
    ) -> Option<(&mut SubscriptionGroup, SubscriptionId)> {
        let (group, sub) = *self.sessions.get(&session)?.subs.get(name)?;
        Some((self.groups.get_mut(&group)?, sub))
    }

    /// Every subscription to a collection: session and name.
    pub fn subscribers_of(&self, collection: &str) -> Vec<(SessionId, String)> {
        let groups = self.groups.values();
        let groups = groups.filter(|group| group.collection == collection);
        groups.flat_map(SubscriptionGroup::subscribers).collect()
    }

    /// The groups that were made with definitions which do not hold any more.
    pub fn stale_groups(&self) -> Vec<GroupId> {
        let is_stale =
            |group: &SubscriptionGroup| group.view.as_ref().is_some_and(SubscriberView::is_stale);
        let stale = self.groups.iter().filter(|(_, group)| is_stale(group));
        stale.map(|(id, _)| *id).collect()
    }
}

impl SubscriptionGroup {
    /// Its subscriptions: session and name.
    pub fn subscribers(&self) -> impl Iterator<Item = (SessionId, String)> {
        let subs = self.subs.values();
        subs.map(|sub| (sub.session, sub.request.sub.clone()))
    }

    pub fn new(
        database: &str,
        collection: &str,
        spec: SubscriptionSpec,
        identity: Identity,
        view: SubscriberView,
    ) -> SubscriptionGroup {
        SubscriptionGroup {
            key: String::new(),
            database: database.to_owned(),
            collection: collection.to_owned(),
            spec,
            identity,
            routing_key: view.routing_key.clone(),
            view: Some(view),
            cost: UNKNOWN,
            _charge: None,
            subs: BTreeMap::new(),
        }
    }
}
