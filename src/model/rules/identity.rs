//! The caller of a request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

/// The group of every caller, and the wildcard for all fields.
pub const EVERY: &str = "*";

/// The caller, as its credentials identify it.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// No credentials.
    Anonymous,
    /// A record of an auth collection.
    User(Arc<User>),
    /// An admin, by id.
    Admin(String),
    /// A program with an API key.
    Key(Arc<ApiKey>),
    /// A program with a service token, which an admin or an API key with the scope `service`
    /// created.
    Service(Service),
}

/// A signed-in record of an auth collection, as it was when the request arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub id: String,
    pub collection_id: String,
    pub collection_name: String,
    /// Its values without the password, but with hidden fields: the value of `@request.auth`.
    pub record: Map<String, Value>,
    /// The names of its fields in `record`. A field may be renamed since.
    pub field_names: FieldNames,
}

/// The names of the fields of an auth collection, by id; empty if they are not known.
pub type FieldNames = Arc<BTreeMap<String, String>>;

impl User {
    /// The value of a field with this id and name.
    pub fn value(&self, id: &str, name: &str) -> Option<&Value> {
        match self.field_names.is_empty() {
            true => self.record.get(name),
            false => self.record.get(self.field_names.get(id)?),
        }
    }
}

/// The scopes and limits of an API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: String,
    pub scopes: BTreeSet<KeyScope>,
    /// Its databases; none for all.
    pub databases: Option<BTreeSet<String>>,
    /// The names of the collections whose records it can access; none for all.
    pub collections: Option<BTreeSet<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyScope {
    /// Read records.
    Read,
    /// Create, change and delete records.
    Write,
    /// Create and delete databases.
    Databases,
    /// Create, change and delete collections.
    Collections,
    /// Act as a service: a worker or a metrics collector.
    Service,
}

/// The identity of a service token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name in the token.
    pub name: String,
    /// Its workflows; none for all.
    pub workflows: Option<Arc<BTreeSet<String>>>,
    /// Signed by the command line, which has the secret of the server.
    pub is_operator: bool,
}

impl ApiKey {
    pub fn opens_database(&self, database: &str) -> bool {
        let names = self.databases.as_ref();
        names.is_none_or(|names| names.contains(database))
    }

    /// True if it can access records of this collection.
    pub fn opens(&self, collection: &str) -> bool {
        let names = self.collections.as_ref();
        names.is_none_or(|names| names.contains(collection))
    }
}

impl KeyScope {
    /// The scopes with their public names.
    pub const NAMES: [(&str, KeyScope); 5] = [
        ("read", KeyScope::Read),
        ("write", KeyScope::Write),
        ("databases", KeyScope::Databases),
        ("collections", KeyScope::Collections),
        ("service", KeyScope::Service),
    ];

    pub fn name(self) -> &'static str {
        let found = KeyScope::NAMES.iter().find(|(_, scope)| *scope == self);
        found.map_or("", |(name, _)| name)
    }
}

impl Identity {
    /// True for admins and API keys, which can set verification, groups and passwords of accounts.
    pub fn manages(&self) -> bool {
        matches!(self, Identity::Admin(_) | Identity::Key(_))
    }

    /// True if this caller can list all collections.
    pub fn knows_all(&self) -> bool {
        match self {
            Identity::Admin(_) => true,
            Identity::Key(key) => key.collections.is_none(),
            _ => false,
        }
    }

    /// The groups of field rules: the field `groups` of the account, and [`EVERY`].
    pub(super) fn groups(&self) -> impl Iterator<Item = &str> {
        let groups = match self {
            Identity::User(user) => user.record.get("groups"),
            _ => None,
        };
        let (one, several) = match groups {
            Some(Value::String(group)) => (Some(group.as_str()), None),
            Some(Value::Array(groups)) => (None, Some(groups)),
            _ => (None, None),
        };
        let several = several.into_iter().flatten().filter_map(Value::as_str);
        let own = one.into_iter().chain(several);
        own.filter(|group| !group.is_empty()).chain([EVERY])
    }
}
