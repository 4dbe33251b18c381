//! Who is connected, and who has subscribed to what.
//!
//! Subscriptions that see the same in the same form make a [`Class`]: a change is looked at once for each
//! class, however many are in it. All that many have in common is one class when neither rule nor filter asks
//! who they are; else each account has its own.
//!
//! Invariants: a subscription is in exactly one class, which is in `classes` and `listeners`, and in `by_key`
//! unless it is retired; a class without subscriptions is gone; `by_account` has the sessions of accounts, and no others.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::frames::{Ask, Received};
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
pub type ClassId = u64;
pub type SubId = u64;

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
    pub link: SocketHandle,
    /// Which database it is about.
    pub database: String,
    pub caller: Caller,
    /// The name of a client that listens to server-sent events; a WebSocket has none.
    pub client: Option<String>,
    /// Its subscriptions by its own names for them.
    pub subs: BTreeMap<String, (ClassId, SubId)>,
    /// Frames of it that wait.
    pub pending: Arc<AtomicUsize>,
    /// Since when it has had no subscription.
    pub idle_since: Option<Instant>,
    pub looks: Looks,
}

/// The state of the checks of a session's identity.
#[derive(Default)]
pub struct Looks {
    /// Another one with each change of who it is.
    pub generation: u64,
    /// Numbers of the last one that was asked for, and of the last one that was answered.
    pub asked: u64,
    pub answered: u64,
    /// The last one has not begun.
    pub is_queued: Arc<AtomicBool>,
    /// While it signs in: frames that came after that.
    pub later: Option<VecDeque<Received>>,
}

/// One subscription.
pub struct Sub {
    pub session: SessionId,
    pub link: SocketHandle,
    /// Server-sent events, in the form of PocketBase.
    pub is_stream: bool,
    pub ask: Arc<Ask>,
    /// Its group, told apart by who its members are.
    pub group: Option<Arc<str>>,
    /// When who has subscribed is nobody any more; milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// It hears of everything from now on; until then it waits, see [`super::recent`].
    pub is_live: bool,
    /// When it last had an event of its group.
    pub turn: u64,
    /// For itself, and for the bytes that it keeps.
    _charges: [Charge; 2],
}

/// The charges for a subscription.
pub struct Charges {
    pub sub: [Charge; 2],
    /// For its class, if there is none yet.
    pub class: Option<Charge>,
}

/// Subscriptions that see the same.
pub struct Class {
    key: String,
    pub database: String,
    pub collection: String,
    pub wish: SubscriptionSpec,
    /// Whoever stands for all of them.
    pub identity: Identity,
    /// None: to be made anew.
    pub lens: Option<SubscriberView>,
    /// As it was when it was made.
    pivot: Option<RoutingKey>,
    /// The time that the last look took.
    pub cost: Duration,
    /// To the network of the first subscription, also after that has ended: another network might have no room,
    /// and its subscription would end though its client did nothing.
    _charge: Option<Charge>,
    pub subs: BTreeMap<SubId, Sub>,
}

/// A class that takes longer to look at a change is dear.
const DEAR: Duration = Duration::from_millis(2);
/// The cost of a class that has looked at no change yet.
const UNKNOWN: Duration = Duration::from_millis(4);

/// Classes that listen to a collection.
#[derive(Default)]
struct Listeners {
    whole: BTreeSet<ClassId>,
    by_record: HashMap<String, BTreeSet<ClassId>>,
    /// Those who see only records with one value in a field: by field, then by value.
    by_value: BTreeMap<String, HashMap<String, BTreeSet<ClassId>>>,
    /// The definitions that all of them were last known to be made with.
    definitions: Option<Arc<Collections>>,
}

impl Listeners {
    fn add(&mut self, id: ClassId, class: &Class) {
        let classes = match (&class.wish.record, &class.pivot) {
            (Some(record), _) => self.by_record.entry(record.clone()).or_default(),
            (None, Some(pivot)) => {
                let by_value = self.by_value.entry(pivot.field.clone()).or_default();
                by_value.entry(pivot.value.clone()).or_default()
            }
            (None, None) => &mut self.whole,
        };
        classes.insert(id);
        if self.definitions.is_none() {
            self.definitions = class
                .lens
                .as_ref()
                .map(|lens| Arc::clone(lens.definitions()));
        }
    }

    fn remove(&mut self, id: ClassId, class: &Class) {
        match (&class.wish.record, &class.pivot) {
            (Some(record), _) => drop_from(&mut self.by_record, record, id),
            (None, Some(pivot)) => {
                if let Some(by_value) = self.by_value.get_mut(&pivot.field) {
                    drop_from(by_value, &pivot.value, id);
                    if by_value.is_empty() {
                        self.by_value.remove(&pivot.field);
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

fn drop_from(map: &mut HashMap<String, BTreeSet<ClassId>>, key: &str, id: ClassId) {
    if let Some(classes) = map.get_mut(key) {
        classes.remove(&id);
        if classes.is_empty() {
            map.remove(key);
        }
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Board {
    pub sessions: HashMap<SessionId, Session>,
    classes: HashMap<ClassId, Class>,
    by_key: HashMap<String, ClassId>,
    /// By id of the collection.
    listeners: HashMap<String, Listeners>,
    /// By id of the account.
    by_account: HashMap<String, BTreeSet<SessionId>>,
    clients: HashMap<String, SessionId>,
    count: usize,
    next: u64,
}

impl Board {
    pub fn open(&mut self, id: SessionId, session: Session) {
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
        session.link.set_has_credentials(caller.has_credentials());
        session.looks.generation += 1;
        session.caller = caller;
    }

    /// Removes a session without subscriptions.
    pub fn close(&mut self, id: SessionId) {
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

    /// True if there is a class of this key.
    pub fn has_class(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }

    /// Adds a subscription of a session to the class of this key, which `make` makes if there is none.
    pub fn subscribe(
        &mut self,
        session: SessionId,
        ask: &Arc<Ask>,
        key: String,
        charges: Charges,
        make: impl FnOnce() -> Class,
    ) {
        let Some(found) = self.sessions.get_mut(&session) else {
            return;
        };
        self.next += 1;
        let sub = self.next;
        let class_id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                self.next += 1;
                let class = Class {
                    key: key.clone(),
                    _charge: charges.class,
                    ..make()
                };
                let listeners = self.listeners.entry(class.collection.clone()).or_default();
                listeners.add(self.next, &class);
                self.by_key.insert(key, self.next);
                self.classes.insert(self.next, class);
                self.next
            }
        };
        let Some(class) = self.classes.get_mut(&class_id) else {
            return;
        };
        let kind = found.caller.kind();
        let group = ask.group.as_ref();
        let group = group.map(|group| format!("{} {kind} {group}", class.collection).into());
        class.subs.insert(
            sub,
            Sub {
                session,
                link: found.link.clone(),
                is_stream: found.client.is_some(),
                ask: Arc::clone(ask),
                group,
                expires_ms: found.caller.expires_ms,
                is_live: false,
                turn: 0,
                _charges: charges.sub,
            },
        );
        found.subs.insert(ask.sub.clone(), (class_id, sub));
        found.idle_since = None;
        self.count += 1;
    }

    /// Takes a subscription away. Returns the collection that it was for.
    pub fn unsubscribe(&mut self, session: SessionId, name: &str, now: Instant) -> Option<String> {
        let found = self.sessions.get_mut(&session)?;
        let (class_id, sub) = found.subs.remove(name)?;
        if found.subs.is_empty() {
            found.idle_since = Some(now);
        }
        self.count -= 1;
        let class = self.classes.get_mut(&class_id)?;
        class.subs.remove(&sub);
        let collection = class.collection.clone();
        if class.subs.is_empty() {
            self.remove_class(class_id);
        }
        Some(collection)
    }

    fn remove_class(&mut self, id: ClassId) {
        let Some(class) = self.classes.remove(&id) else {
            return;
        };
        // One that was retired may have a successor.
        if self.by_key.get(&class.key) == Some(&id) {
            self.by_key.remove(&class.key);
        }
        let Some(listeners) = self.listeners.get_mut(&class.collection) else {
            return;
        };
        listeners.remove(id, &class);
        if listeners.is_empty() {
            self.listeners.remove(&class.collection);
        }
    }

    /// Takes no more subscriptions into a class: the next one of its key makes another.
    pub fn retire(&mut self, id: ClassId) {
        if let Some(class) = self.classes.get(&id)
            && self.by_key.get(&class.key) == Some(&id)
        {
            self.by_key.remove(&class.key);
        }
    }

    /// The classes that a change of a record may concern, if they are made with the present definitions.
    pub fn listeners(&self, state: &RecordState) -> Vec<ClassId> {
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

    /// The same classes, those that are dear last, the dearest at the end.
    pub fn by_cost(&self, mut classes: Vec<ClassId>) -> Vec<ClassId> {
        let cost = |id: &ClassId| self.classes.get(id).map_or(Duration::ZERO, |it| it.cost);
        let is_dear = |id: &mut ClassId| cost(id) > DEAR;
        let mut dear: Vec<ClassId> = classes.extract_if(.., is_dear).collect();
        dear.sort_by_cached_key(cost);
        classes.append(&mut dear);
        classes
    }

    /// The classes of a collection that are to be made anew before it is asked for listeners: all of them, when
    /// the definitions are others than those that they are known to be made with.
    pub fn outdated(&self, collection: &str, definitions: &Arc<Collections>) -> Vec<ClassId> {
        let listeners = self.listeners.get(collection);
        let known = listeners.and_then(|listeners| listeners.definitions.as_ref());
        if known.is_none_or(|known| Arc::ptr_eq(known, definitions)) {
            return Vec::new();
        }
        let classes = self.classes.iter();
        let classes = classes.filter(|(_, class)| class.collection == collection);
        classes.map(|(id, _)| *id).collect()
    }

    /// They have been made anew.
    pub fn settle(&mut self, collection: &str, definitions: &Arc<Collections>) {
        if let Some(listeners) = self.listeners.get_mut(collection) {
            listeners.definitions = Some(Arc::clone(definitions));
        }
    }

    /// The subscriptions of a class: session and name.
    pub fn names(&self, id: ClassId) -> Vec<(SessionId, String)> {
        let class = self.classes.get(&id).into_iter();
        class.flat_map(Class::names).collect()
    }

    pub fn class(&mut self, id: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(&id)
    }

    /// A subscription and its class.
    pub fn sub(&mut self, session: SessionId, name: &str) -> Option<(&mut Class, SubId)> {
        let (class, sub) = *self.sessions.get(&session)?.subs.get(name)?;
        Some((self.classes.get_mut(&class)?, sub))
    }

    /// Every subscription to a collection: session and name.
    pub fn subs_of(&self, collection: &str) -> Vec<(SessionId, String)> {
        let classes = self.classes.values();
        let classes = classes.filter(|class| class.collection == collection);
        classes.flat_map(Class::names).collect()
    }

    /// The classes that were made with definitions which do not hold any more.
    pub fn stale(&self) -> Vec<ClassId> {
        let is_stale = |class: &Class| class.lens.as_ref().is_some_and(SubscriberView::is_stale);
        let stale = self.classes.iter().filter(|(_, class)| is_stale(class));
        stale.map(|(id, _)| *id).collect()
    }
}

impl Class {
    /// Its subscriptions: session and name.
    pub fn names(&self) -> impl Iterator<Item = (SessionId, String)> {
        let subs = self.subs.values();
        subs.map(|sub| (sub.session, sub.ask.sub.clone()))
    }

    pub fn new(
        database: &str,
        collection: &str,
        wish: SubscriptionSpec,
        identity: Identity,
        lens: SubscriberView,
    ) -> Class {
        Class {
            key: String::new(),
            database: database.to_owned(),
            collection: collection.to_owned(),
            wish,
            identity,
            pivot: lens.routing_key.clone(),
            lens: Some(lens),
            cost: UNKNOWN,
            _charge: None,
            subs: BTreeMap::new(),
        }
    }
}
