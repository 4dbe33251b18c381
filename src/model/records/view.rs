//! How a subscriber sees a change: whether its record is theirs to see, and what of it.
//!
//! The rule and the filter are asked about the record as the change left it, which may not be in the table
//! any more; what they say about other records is asked of these as they are now. A [`SubscriberView`] is made once and
//! asked about many changes, as long as the definitions hold that it was made with.

use std::sync::Arc;

use rusqlite::Connection;

use super::plan::{Key, Plan};
use super::query::email_visibility;
use super::routing_key::RoutingKey;
use super::{Scope, Shape};
use crate::base::error::Result;
use crate::model::collections::{Collection, Collections};
use crate::model::events::{RecordState, SqlValue};
use crate::model::filter::{Expr, REQUEST};
use crate::model::rules::{Access, Operation, Rule};

/// What a subscriber wants to see.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionSpec {
    /// Of the records of a collection those that this holds for.
    pub filter: Option<Expr>,
    pub shape: Shape,
    /// One record, by id, which the view rule admits to; else the list rule does.
    pub record: Option<String>,
}

/// See the module documentation.
pub struct SubscriberView {
    scope: Scope,
    collection: Arc<Collection>,
    plan: Plan,
    /// It says something about the time, which was put in when it was made.
    is_timed: bool,
    /// What a record must have to be shown.
    pub routing_key: Option<RoutingKey>,
}

impl SubscriberView {
    /// Fails when the caller may see no record of the collection, or the spec makes no sense.
    pub fn new(
        scope: Scope,
        collection: &Arc<Collection>,
        spec: &SubscriptionSpec,
    ) -> Result<SubscriberView> {
        let grant = scope.admit(collection, operation(spec))?;
        let filter = spec.filter.clone();
        let is_timed = is_timed(&scope, collection, spec);
        let rule = match &grant.access {
            Access::When(rule) => Some(rule.as_ref()),
            Access::Free | Access::Denied => None,
        };
        let mut conditions = rule.into_iter().chain(&filter);
        let routing_key =
            conditions.find_map(|it| RoutingKey::find(it, collection, &scope.identity));
        let key = Key::Given(filter);
        let plan = scope.plan(collection, &spec.shape, &key, &grant)?;
        Ok(SubscriberView {
            collection: Arc::clone(collection),
            scope,
            plan,
            is_timed,
            routing_key,
        })
    }

    /// What all share who see the same: none when this caller alone sees what it sees.
    pub fn group_key(
        scope: &Scope,
        collection: &Collection,
        spec: &SubscriptionSpec,
    ) -> Result<Option<String>> {
        let grant = scope.admit(collection, operation(spec))?;
        let rule = match &grant.access {
            Access::When(rule) => Some(rule.as_ref()),
            Access::Free | Access::Denied => None,
        };
        let mut conditions = rule.into_iter().chain(&spec.filter);
        let depends = conditions.any(Expr::depends_on_request)
            || looks_around(collection, spec)
            || (mentions_address(spec)
                && email_visibility::differs_by_caller(collection, &grant.fields, &scope.identity));
        let is_whole = grant.access == Access::Free;
        Ok((!depends).then(|| format!("{is_whole} {:?}", grant.fields)))
    }

    /// What it was made with.
    pub fn definitions(&self) -> &Arc<Collections> {
        &self.scope.collections
    }

    /// Whether it says something about the time: then one holds for one change alone.
    pub fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// Whether the definitions have changed since it was made.
    pub fn is_stale(&self) -> bool {
        self.scope.collections.check_current().is_err()
    }

    /// Writes what the caller sees of a record; false when that is nothing.
    pub fn show(
        &self,
        connection: &Connection,
        state: &RecordState,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        match Arc::ptr_eq(&state.collection, &self.collection) {
            true => self.plan.write_given(connection, &state.values, out),
            false => {
                let values = fit(state, &self.collection);
                self.plan.write_given(connection, &values, out)
            }
        }
    }
}

fn operation(spec: &SubscriptionSpec) -> Operation {
    match spec.record {
        Some(_) => Operation::View,
        None => Operation::List,
    }
}

fn rule<'a>(collection: &'a Collection, spec: &SubscriptionSpec) -> Option<&'a Rule> {
    match spec.record {
        Some(_) => collection.rules.view.as_ref(),
        None => collection.rules.list.as_ref(),
    }
}

fn mentions_address(spec: &SubscriptionSpec) -> bool {
    let fields = spec.shape.fields.as_ref();
    let is_address = |path: &[String]| path.iter().any(|name| name == "email");
    let filter = spec.filter.as_ref();
    fields.is_none_or(|tree| tree.has("email"))
        || filter.is_some_and(|filter| filter.any_path(&is_address))
}

/// Whether other records have a say, as far as the caller may see these.
fn looks_around(collection: &Collection, spec: &SubscriptionSpec) -> bool {
    let is_relation = |name: &str| {
        let field = collection.field(name);
        field.is_some_and(|field| field.relation().is_some())
    };
    let leads_away = |path: &[String]| match path {
        // A field of a record that the account points to.
        [first, _, _, _, ..] if first == REQUEST => true,
        [first, _, ..] => is_relation(first),
        _ => false,
    };
    let filter = spec.filter.as_ref();
    filter.is_some_and(|filter| filter.any_path(&leads_away))
        || !spec.shape.expand.children.is_empty()
}

fn is_timed(scope: &Scope, collection: &Collection, spec: &SubscriptionSpec) -> bool {
    let others = scope.collections.all();
    let others = others.iter().filter(|_| looks_around(collection, spec));
    let rules = others.map(|other| [&other.rules.view, &other.rules.manage]);
    let rules = rules.flatten().flatten().chain(&collection.rules.manage);
    let rules = rules.chain(rule(collection, spec));
    let rules = rules.filter_map(|rule| rule.expression().map(AsRef::as_ref));
    let mut conditions = rules.chain(&spec.filter);
    conditions.any(Expr::depends_on_time)
}

/// The values of a record in the order of another definition; what it did not have is unset.
fn fit(state: &RecordState, collection: &Collection) -> Vec<SqlValue> {
    let mut values = state.values[..RecordState::SYSTEM.len()].to_vec();
    values.extend(collection.fields.iter().map(|field| {
        let before = state.collection.fields.iter();
        let at = before.clone().position(|before| before.id == field.id);
        let value = at.and_then(|at| state.values.get(RecordState::SYSTEM.len() + at));
        let was_multiple = at
            .and_then(|at| before.clone().nth(at))
            .map(|it| it.is_multiple());
        match value {
            // A list where one value is wanted now, or the reverse: it was another kind of field then.
            Some(value) if was_multiple == Some(field.is_multiple()) => value.clone(),
            _ => SqlValue::Null,
        }
    }));
    values
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::budget::Output;
    use crate::model::collections::{CollectionKind, test_collection};
    use crate::model::filter;
    use crate::model::rules::Identity;

    fn scope(fields: Value, list_rule: &str) -> (Scope, Arc<Collection>) {
        let mut collection = test_collection("c", "posts", fields);
        collection.rules.list = Some(Rule::parse(list_rule).unwrap());
        let mut authors =
            test_collection("a", "authors", json!([{"name": "name", "type": "text"}]));
        authors.rules.view = Some(Rule::parse("created < @now").unwrap());
        let collections = Arc::new(Collections::from_iter([collection, authors]));
        let collection = Arc::clone(collections.get("posts").unwrap());
        let scope = Scope {
            collections,
            identity: Identity::Anonymous,
            events: Arc::default(),
            output: Output::default(),
        };
        (scope, collection)
    }

    fn posts(list_rule: &str) -> (Scope, Arc<Collection>) {
        let fields = json!([
            {"name": "title", "type": "text"},
            {"name": "views", "type": "number"},
            {"name": "meta", "type": "json"},
            {"name": "author", "type": "relation", "collectionId": "a"},
        ]);
        scope(fields, list_rule)
    }

    fn spec(text: &str) -> SubscriptionSpec {
        SubscriptionSpec {
            filter: Some(filter::parse(text).unwrap()),
            ..SubscriptionSpec::default()
        }
    }

    fn is_shared(list_rule: &str, text: &str) -> bool {
        let (scope, collection) = posts(list_rule);
        let group = SubscriberView::group_key(&scope, &collection, &spec(text)).unwrap();
        group.is_some()
    }

    fn is_timed(list_rule: &str, text: &str) -> bool {
        let (scope, collection) = posts(list_rule);
        SubscriberView::new(scope, &collection, &spec(text))
            .unwrap()
            .is_timed()
    }

    #[test]
    fn a_literal_never_keeps_subscribers_from_sharing() {
        for text in [
            "views > 9",
            "views > 9.5",
            "title != 'a.b'",
            "title != 'author.name'",
            "title != '@request.auth.id'",
            "title != 'a@b.c'",
            "title IN ('a.b', '@request')",
            "meta.colour = 'red'",
            "created < @now",
        ] {
            assert!(is_shared("", text), "{text}");
            assert!(is_shared(text, "views > 0"), "rule {text}");
        }
    }

    #[test]
    fn a_filter_that_depends_on_the_caller_is_not_shared() {
        for text in [
            "title = @request.auth.id",
            "title = 'a.b' && (views > 1 || NOT (@request.auth.id = ''))",
        ] {
            assert!(!is_shared("", text), "{text}");
            assert!(!is_shared(text, "views > 0"), "rule {text}");
        }
        // The view rule of another collection decides; a rule of this one sees all records.
        assert!(!is_shared("", "author.name = 'x'"));
        assert!(is_shared("author.name = 'x'", "views > 0"));
    }

    #[test]
    fn only_a_filter_of_addresses_depends_on_who_sees_them() {
        let fields = json!([
            {"name": "email", "type": "email"},
            {"name": "name", "type": "text"},
        ]);
        let (scope, collection) = scope(fields, "");
        let mut accounts = Collection::clone(&collection);
        accounts.kind = CollectionKind::Auth;
        accounts.rules.manage = Some(Rule::parse("id = @request.auth.id").unwrap());
        let group = |text: &str| {
            let spec = SubscriptionSpec {
                shape: Shape::parse(Some("id,name"), None).unwrap(),
                ..spec(text)
            };
            SubscriberView::group_key(&scope, &accounts, &spec).unwrap()
        };
        assert!(group("name != 'email'").is_some());
        assert!(group("email != 'x'").is_none());
    }

    #[test]
    fn only_a_macro_makes_a_view_depend_on_the_time() {
        for (text, expected) in [
            ("title != 'a@b.c'", false),
            ("title = @request.auth.id", false),
            ("created < @now", true),
            ("title IN ('@now')", false),
        ] {
            assert_eq!(is_timed("", text), expected, "{text}");
            assert_eq!(is_timed(text, "views > 0"), expected, "rule {text}");
        }
        // By the view rule of the authors.
        assert!(is_timed("", "author.name = 'x'"));
        assert!(!is_timed("", "meta.name = 'x'"));
    }
}
