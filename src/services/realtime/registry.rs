//! The sessions of clients and their subscriptions.
//!
//! Subscriptions that see the same events in the same form share a [`SubscriptionGroup`]: a change
//! is evaluated once per group, however many subscriptions it has. If neither a rule nor the filter
//! depends on the caller, all callers share one group; otherwise each account has its own.
//!
//! Invariants: a subscription is in exactly one group, which is in `groups` and `listeners`, and in
//! `by_key` unless it is retired. A group without subscriptions does not exist. `by_account`
//! contains exactly the sessions of accounts.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
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
use crate::net::sockets::{FrameBacklog, SocketHandle};

/// A group whose last evaluation took longer is expensive.
const EXPENSIVE: Duration = Duration::from_millis(2);
/// The assumed cost of a new group.
const UNKNOWN: Duration = Duration::from_millis(4);

/// The id of a connection.
pub type SessionId = u64;
pub type GroupId = u64;
pub type SubscriptionId = u64;

/// An identity and the credentials that prove it.
#[derive(Clone, Debug)]
pub struct IdentifiedCaller {
    pub identity: Identity,
    pub pass: StoredCredentials,
    /// Milliseconds since 1970.
    pub expires_ms: Option<i64>,
}

impl IdentifiedCaller {
    pub fn has_credentials(&self) -> bool {
        !matches!(self.identity, Identity::Anonymous)
    }

    /// A key that no other caller has. It changes with each change of an account.
    pub fn key(&self) -> String {
        match &self.identity {
            Identity::Anonymous => "anonymous".to_owned(),
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

    /// Callers share consumer groups only within one kind, so that strangers cannot take events
    /// away from accounts or programs.
    fn kind(&self) -> &str {
        match &self.identity {
            Identity::Anonymous => "",
            Identity::User(user) => &user.collection_id,
            Identity::Admin(_) | Identity::Key(_) | Identity::Service(_) => "server",
        }
    }
}

/// A connected client.
pub struct ClientSession {
    pub handle: SocketHandle,
    pub database: String,
    pub caller: IdentifiedCaller,
    /// The name of a client of server-sent events; none for a WebSocket.
    pub client: Option<String>,
    /// By the names that the client gave them.
    pub subs: BTreeMap<String, (GroupId, SubscriptionId)>,
    /// Frames that wait in the command queue.
    pub pending: Arc<FrameBacklog>,
    /// Set while it has no subscription.
    pub idle_since: Option<Instant>,
    pub checks: CheckState,
    /// It waits for the code of a sign-in with a provider.
    pub awaits_sign_in: bool,
}

/// The credential checks of a session.
#[derive(Default)]
pub struct CheckState {
    /// Incremented with each change of the identity.
    pub generation: u64,
    /// Numbers of the last check requested and of the last one completed.
    pub asked: u64,
    pub answered: u64,
    /// The last check waits in the queue.
    pub is_queued: Arc<AtomicBool>,
    /// During a sign-in: the frames that arrived after it.
    pub later: Option<VecDeque<FrameResult>>,
}

pub struct Subscription {
    pub session: SessionId,
    pub handle: SocketHandle,
    /// It receives server-sent events, in the format of PocketBase.
    pub is_stream: bool,
    pub request: Arc<SubscribeRequest>,
    /// Events go to one member of a consumer group. The name includes the collection and the kind
    /// of the caller.
    pub consumer_group: Option<Arc<str>>,
    /// When the credentials of the subscriber expire; milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// It receives events. Before that it waits until no change can be missed.
    pub is_live: bool,
    /// The turn in which it last received an event of its consumer group.
    pub turn: u64,
    /// For the subscription, and for its bytes.
    _charges: [Charge; 2],
}

/// The charges for a subscription.
pub struct SubscriptionCharges {
    pub subscription: [Charge; 2],
    /// For its group, if that is new.
    pub group: Option<Charge>,
}

/// Subscriptions that see the same events.
pub struct SubscriptionGroup {
    key: String,
    pub database: String,
    pub collection: String,
    pub spec: SubscriptionSpec,
    /// The identity for which the view is evaluated; it stands for all members.
    pub identity: Identity,
    /// None if it must be created again.
    pub view: Option<SubscriberView>,
    /// That of the view with which the group was registered.
    routing_key: Option<RoutingKey>,
    /// Time that the last evaluation took.
    pub cost: Duration,
    /// Paid by the network of the first subscription, even after that has ended. Another network
    /// might have no room, and its subscription would end through no fault of its client.
    _charge: Option<Charge>,
    pub subs: BTreeMap<SubscriptionId, Subscription>,
}

/// The groups of a collection.
#[derive(Default)]
struct Listeners {
    /// Groups that any change of the collection can concern.
    whole: BTreeSet<GroupId>,
    by_record: HashMap<String, BTreeSet<GroupId>>,
    /// Groups that see only records with one value in a field: by field, then by value.
    by_value: BTreeMap<String, HashMap<String, BTreeSet<GroupId>>>,
    /// The definitions with which all of them were last known to be created.
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

#[derive(Default)]
pub struct Registry {
    pub sessions: HashMap<SessionId, ClientSession>,
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
    pub fn add_session(&mut self, id: SessionId, session: ClientSession) {
        if let Some(client) = &session.client {
            self.clients.insert(client.clone(), id);
        }
        let caller = session.caller.clone();
        self.sessions.insert(id, session);
        self.set_caller(id, caller);
    }

    /// Sets the identity of a session. Its subscriptions stay in their groups.
    pub fn set_caller(&mut self, id: SessionId, caller: IdentifiedCaller) {
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
        let anonymous = IdentifiedCaller {
            identity: Identity::Anonymous,
            ..session.caller.clone()
        };
        self.set_caller(id, anonymous);
        if let Some(session) = self.sessions.remove(&id)
            && let Some(client) = session.client
        {
            self.clients.remove(&client);
        }
    }

    /// The session of a client of server-sent events.
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

    /// True if a group of this key accepts subscriptions.
    pub fn has_group(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// Adds a subscription to the group of this key. `make` creates the group if there is none.
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

    /// Removes a subscription, and its group with the last one. Returns the collection.
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
        // A retired group may have a successor of the same key.
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

    /// Closes a group to new subscriptions. The next subscription of its key creates another group.
    pub fn retire(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get(&id)
            && self.by_key.get(&group.key) == Some(&id)
        {
            self.by_key.remove(&group.key);
        }
    }

    /// The groups that a change of a record can concern. Call [`Registry::outdated_groups`] before:
    /// only groups created with the current definitions are indexed correctly.
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

    /// Moves expensive groups to the end, ordered by cost.
    pub fn sort_by_cost(&self, mut groups: Vec<GroupId>) -> Vec<GroupId> {
        let cost = |id: &GroupId| self.groups.get(id).map_or(Duration::ZERO, |it| it.cost);
        let is_expensive = |id: &mut GroupId| cost(id) > EXPENSIVE;
        let mut expensive: Vec<GroupId> = groups.extract_if(.., is_expensive).collect();
        expensive.sort_by_cached_key(cost);
        groups.append(&mut expensive);
        groups
    }

    /// The groups of a collection to create again before [`Registry::listeners`] is called: all of
    /// them, if they are not known to be created with these definitions.
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

    /// Records that all groups of a collection were created with these definitions.
    pub fn set_definitions(&mut self, collection: &str, definitions: &Arc<Collections>) {
        if let Some(listeners) = self.listeners.get_mut(collection) {
            listeners.definitions = Some(Arc::clone(definitions));
        }
    }

    /// Session and name of each subscription of a group.
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

    /// Session and name of each subscription to a collection.
    pub fn subscribers_of(&self, collection: &str) -> Vec<(SessionId, String)> {
        let groups = self.groups.values();
        let groups = groups.filter(|group| group.collection == collection);
        groups.flat_map(SubscriptionGroup::subscribers).collect()
    }

    /// The groups created with definitions that are no longer current.
    pub fn stale_groups(&self) -> Vec<GroupId> {
        let is_stale =
            |group: &SubscriptionGroup| group.view.as_ref().is_some_and(SubscriberView::is_stale);
        let stale = self.groups.iter().filter(|(_, group)| is_stale(group));
        stale.map(|(id, _)| *id).collect()
    }
}

impl SubscriptionGroup {
    /// Session and name of each subscription.
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
