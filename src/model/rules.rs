//! Who is asking, and what a collection lets them do.
//!
//! A rule that is absent admits admins only, an empty one everyone, any other is a condition on
//! the record that `records::query` puts inside the statement (RUL-1 to RUL-5; the meaning of
//! absent and empty is our choice). Admins pass every rule (RUL-4, AUTH-7); so does a key for what
//! its scopes name. Field rules outrank the rule of the collection for callers in whose groups
//! there are any (FLD-1 to FLD-5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::base::error::Result;
use crate::model::filter;
use crate::model::filter::Expr;

/// The group that everybody is in, and the name that stands for every field (FLD-2).
const EVERY: &str = "*";

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// No credentials.
    Nobody,
    /// A record of an auth collection.
    User(Arc<User>),
    /// An administrator, by id.
    Admin(String),
    /// A program that holds an API key.
    Key(Arc<Key>),
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
pub struct Key {
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

impl Key {
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
    fn groups(&self) -> impl Iterator<Item = &str> {
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

/// What somebody wants to do with records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    List,
    View,
    Create,
    Update,
    Delete,
    /// Start workflows about them.
    Execute,
}

impl Operation {
    fn scope(self) -> KeyScope {
        match self {
            Operation::List | Operation::View => KeyScope::Read,
            Operation::Create | Operation::Update | Operation::Delete => KeyScope::Write,
            Operation::Execute => KeyScope::Service,
        }
    }
}

/// From group to the fields that it may read or write.
pub type FieldRules = BTreeMap<String, BTreeSet<String>>;

/// What a rule says to one caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Nothing of this collection, whatever the record.
    Denied,
    /// All of it.
    Free,
    /// Those records for which the condition holds.
    When(Expr),
}

/// Which fields of a record a caller may read or write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// All, hidden ones too.
    All,
    /// All that are not hidden.
    Shown,
    /// Those named by field rules, as far as they are not hidden; [`EVERY`] is among the names when
    /// it was among those of a group.
    Named(BTreeSet<String>),
}

impl Fields {
    /// Whether a field is among them.
    pub fn has(&self, name: &str, hidden: bool) -> bool {
        match self {
            Fields::All => true,
            Fields::Shown => !hidden,
            Fields::Named(names) => !hidden && (names.contains(name) || names.contains(EVERY)),
        }
    }

    /// Whether a field rule names this very field.
    pub fn names(&self, name: &str) -> bool {
        matches!(self, Fields::Named(names) if names.contains(name))
    }
}

/// What a caller may do with the records of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub access: Access,
    pub fields: Fields,
}

impl Grant {
    /// Everything.
    pub fn all() -> Grant {
        Grant {
            access: Access::Free,
            fields: Fields::All,
        }
    }

    /// The same fields of every record, for records that the caller is known to be allowed to read.
    pub fn unconditional(self) -> Grant {
        Grant {
            access: Access::Free,
            ..self
        }
    }

    fn none() -> Grant {
        Grant {
            access: Access::Denied,
            fields: Fields::Shown,
        }
    }
}

/// Applies the rule for an operation, and the field rules, of the named collection to a caller.
pub fn grant(
    operation: Operation,
    collection: &str,
    rule: Option<&str>,
    field_rules: Option<&FieldRules>,
    identity: &Identity,
) -> Result<Grant> {
    match identity {
        Identity::Admin(_) => return Ok(Grant::all()),
        Identity::Key(key) => {
            let is_open = key.scopes.contains(&operation.scope()) && key.opens(collection);
            return Ok(if is_open { Grant::all() } else { Grant::none() });
        }
        Identity::Nobody | Identity::User(_) | Identity::Service(_) => {}
    }
    if let Some(named) = field_rules.and_then(|rules| named_fields(rules, identity)) {
        return Ok(Grant {
            access: Access::Free,
            fields: Fields::Named(named),
        });
    }
    let access = match rule.map(str::trim) {
        None => Access::Denied,
        Some("") => Access::Free,
        Some(text) => Access::When(filter::parse(text)?),
    };
    Ok(Grant {
        access,
        fields: Fields::Shown,
    })
}

/// The fields of all the caller's groups that have any (FLD-5); none when none has.
fn named_fields(rules: &FieldRules, identity: &Identity) -> Option<BTreeSet<String>> {
    let mut found = None;
    for group in identity.groups() {
        if let Some(names) = rules.get(group) {
            found
                .get_or_insert_with(BTreeSet::new)
                .extend(names.iter().cloned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn access(rule: Option<&str>, identity: &Identity) -> Access {
        grant(Operation::View, "c", rule, None, identity)
            .unwrap()
            .access
    }

    fn key(scopes: &[KeyScope], collections: Option<&[&str]>) -> Identity {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Identity::Key(Arc::new(Key {
            id: "k".to_owned(),
            scopes: scopes.iter().copied().collect(),
            databases: None,
            collections: collections.map(names),
        }))
    }

    fn user(groups: &Value) -> Identity {
        let Value::Object(record) = json!({ "groups": groups }) else {
            unreachable!("an object");
        };
        Identity::User(Arc::new(User {
            id: "u".to_owned(),
            collection_id: "users".to_owned(),
            collection_name: "users".to_owned(),
            record,
        }))
    }

    #[test]
    fn absent_means_admins_and_empty_means_everyone() {
        let admin = Identity::Admin("a".to_owned());
        assert_eq!(access(None, &Identity::Nobody), Access::Denied);
        assert_eq!(access(Some(" "), &Identity::Nobody), Access::Free);
        assert!(matches!(
            access(Some("1=0"), &Identity::Nobody),
            Access::When(_)
        ));
        assert_eq!(access(None, &admin), Access::Free);
        assert_eq!(access(Some("1=0"), &admin), Access::Free);
    }

    #[test]
    fn a_key_passes_the_rules_for_what_its_scopes_name() {
        let reader = key(&[KeyScope::Read], None);
        assert_eq!(access(None, &reader), Access::Free);
        let write = grant(Operation::Update, "c", Some(""), None, &reader).unwrap();
        assert_eq!(write.access, Access::Denied);
        assert_eq!(
            access(Some(""), &key(&[KeyScope::Read], Some(&["d"]))),
            Access::Denied
        );
        assert_eq!(
            access(Some(""), &key(&[KeyScope::Service], None)),
            Access::Denied
        );
    }

    #[test]
    fn field_rules_are_united_over_groups_and_replace_the_rule() {
        let rules: FieldRules = serde_json::from_value(json!({
            "staff": ["a"], "boss": ["b", "hidden"], "all": ["*"],
        }))
        .unwrap();
        let fields = |groups: Value| {
            let grant = grant(
                Operation::View,
                "c",
                Some("1=0"),
                Some(&rules),
                &user(&groups),
            );
            let grant = grant.unwrap();
            (grant.access == Access::Free).then_some(grant.fields)
        };
        assert_eq!(fields(json!(["other"])), None);
        let both = fields(json!(["staff", "boss"])).unwrap();
        assert!(both.has("a", false) && both.has("b", false) && !both.has("c", false));
        assert!(!both.has("hidden", true));
        assert!(fields(json!("all")).unwrap().has("c", false));
    }
}
