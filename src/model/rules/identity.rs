//! The caller of a request.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

/// The group that every caller is in, and the name that stands for every field.
pub const EVERY: &str = "*";

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// No credentials.
    Anonymous,
    /// A record of an auth collection.
    User(Arc<User>),
    /// An administrator, by id.
    Admin(String),
    /// A program that holds an API key.
    Key(Arc<ApiKey>),
    /// A program that holds a token which a key with the scope `service`, or an admin, made for it.
    Service(Service),
}

/// A signed-in record of an auth collection, as it was when the request came.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub id: String,
    pub collection_id: String,
    pub collection_name: String,
    /// Its values but the password, hidden ones included: what `@request.auth` stands for.
    pub record: Map<String, Value>,
}

/// What an API key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: String,
    pub scopes: BTreeSet<KeyScope>,
    /// The databases that it opens; none means all.
    pub databases: Option<BTreeSet<String>>,
    /// The collections, by name, whose records it opens; none means all.
    pub collections: Option<BTreeSet<String>>,
}

/// One thing that an API key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyScope {
    /// Read records.
    Read,
    /// Make, change and delete records.
    Write,
    /// Make and delete databases.
    Databases,
    /// Make, change and delete collections.
    Collections,
    /// Act as a service: workers, metrics.
    Service,
}

/// Who made a service token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What the token says it is for.
    pub name: String,
    /// The workflows that it opens; none: all.
    pub workflows: Option<Arc<BTreeSet<String>>>,
    /// Nobody made it but the command line, which has the secret of the server.
    pub is_operator: bool,
}

impl ApiKey {
    /// True if it opens this database at all.
    pub fn opens_database(&self, database: &str) -> bool {
        let names = self.databases.as_ref();
        names.is_none_or(|names| names.contains(database))
    }

    /// Whether it opens records of this collection at all.
    pub fn opens(&self, collection: &str) -> bool {
        let names = self.collections.as_ref();
        names.is_none_or(|names| names.contains(collection))
    }
}

impl KeyScope {
    /// Every scope by its public name.
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
    /// Whether this caller stands above accounts: may say who is verified and in which groups, and
    /// set a password without the old one.
    pub fn manages(&self) -> bool {
        matches!(self, Identity::Admin(_) | Identity::Key(_))
    }

    /// Whether this caller may know of every collection.
    pub fn knows_all(&self) -> bool {
        match self {
            Identity::Admin(_) => true,
            Identity::Key(key) => key.collections.is_none(),
            _ => false,
        }
    }

    /// The groups that field rules look at: the field `groups` of the account (FLD-7).
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
