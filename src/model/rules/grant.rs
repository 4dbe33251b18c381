//! The access of a caller to the records of a collection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::identity::{EVERY, Identity, KeyScope};
use super::rule::Rule;
use crate::model::filter::Expr;

/// An operation on records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    List,
    View,
    Create,
    Update,
    Delete,
    /// Starting workflows on the collection.
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

/// Maps a group to the fields that it can read or write.
pub type FieldRules = BTreeMap<String, BTreeSet<String>>;

/// The records that a rule admits a caller to.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// No record.
    Denied,
    /// All records.
    Free,
    /// The records that meet the condition.
    When(Arc<Expr>),
}

/// The fields of a record that a caller can read or write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// All fields, including hidden ones.
    All,
    /// All fields that are not hidden.
    Shown,
    /// The fields that field rules name, except hidden ones. [`EVERY`] is among the names if a
    /// group has it.
    Named(BTreeSet<String>),
}

impl Fields {
    pub fn has(&self, name: &str, hidden: bool) -> bool {
        match self {
            Fields::All => true,
            Fields::Shown => !hidden,
            Fields::Named(names) => !hidden && (names.contains(name) || names.contains(EVERY)),
        }
    }

    /// True if a caller sees `id`, `created` or `updated`, which field rules do not name.
    pub fn has_system(&self, hidden: bool) -> bool {
        !hidden || matches!(self, Fields::All)
    }

    /// True if a field rule names this field itself.
    pub fn names(&self, name: &str) -> bool {
        matches!(self, Fields::Named(names) if names.contains(name))
    }
}

/// The access of a caller to the records of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    pub access: Access,
    pub fields: Fields,
}

impl Grant {
    /// Access to all records and fields.
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

/// Applies the rule of an operation and the field rules to a caller. Field rules replace the rule
/// for callers in one of their groups.
pub fn grant(
    operation: Operation,
    collection: &str,
    rule: Option<&Rule>,
    field_rules: Option<&FieldRules>,
    identity: &Identity,
) -> Grant {
    match identity {
        Identity::Admin(_) => return Grant::all(),
        Identity::Key(key) => {
            let is_open = key.scopes.contains(&operation.scope()) && key.opens(collection);
            return if is_open { Grant::all() } else { Grant::none() };
        }
        Identity::Anonymous | Identity::User(_) | Identity::Service(_) => {}
    }
    if let Some(named) = field_rules.and_then(|rules| named_fields(rules, identity)) {
        return Grant {
            access: Access::Free,
            fields: Fields::Named(named),
        };
    }
    let access = match rule.map(Rule::expression) {
        None => Access::Denied,
        Some(None) => Access::Free,
        Some(Some(expression)) => Access::When(Arc::clone(expression)),
    };
    Grant {
        access,
        fields: Fields::Shown,
    }
}

/// The fields of all groups of the caller that have field rules; none if no group has any.
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
    use serde_json::{Value, json};

    use super::*;
    use crate::model::rules::{ApiKey, User};

    fn access(rule: Option<&str>, identity: &Identity) -> Access {
        let rule = rule.map(|text| Rule::parse(text).unwrap());
        grant(Operation::View, "c", rule.as_ref(), None, identity).access
    }

    fn key(scopes: &[KeyScope], collections: Option<&[&str]>) -> Identity {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        Identity::Key(Arc::new(ApiKey {
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
            field_names: Arc::default(),
        }))
    }

    #[test]
    fn absent_means_admins_and_empty_means_everyone() {
        let admin = Identity::Admin("a".to_owned());
        assert_eq!(access(None, &Identity::Anonymous), Access::Denied);
        assert_eq!(access(Some(" "), &Identity::Anonymous), Access::Free);
        assert!(matches!(
            access(Some("1=0"), &Identity::Anonymous),
            Access::When(_)
        ));
        assert_eq!(access(None, &admin), Access::Free);
        assert_eq!(access(Some("1=0"), &admin), Access::Free);
    }

    #[test]
    fn a_key_passes_the_rules_for_what_its_scopes_name() {
        let reader = key(&[KeyScope::Read], None);
        assert_eq!(access(None, &reader), Access::Free);
        let everyone = Rule::everyone();
        let write = grant(Operation::Update, "c", Some(&everyone), None, &reader);
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
            let never = Rule::parse("1=0").unwrap();
            let grant = grant(
                Operation::View,
                "c",
                Some(&never),
                Some(&rules),
                &user(&groups),
            );
            (grant.access == Access::Free).then_some(grant.fields)
        };
        assert_eq!(fields(json!(["other"])), None);
        let both = fields(json!(["staff", "boss"])).unwrap();
        assert!(both.has("a", false) && both.has("b", false) && !both.has("c", false));
        assert!(!both.has("hidden", true));
        assert!(fields(json!("all")).unwrap().has("c", false));
    }
}
