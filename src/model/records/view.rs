//! The view that a subscriber has of changes: which records it sees, and which of their fields.
//!
//! The rule and the filter are evaluated on the record as the change left it; that state may
//! already be replaced in the table. Other records that they refer to are read in their current
//! state. A [`SubscriberView`] is built once and used for many changes, until the definitions
//! change.

use std::sync::Arc;

use rusqlite::Connection;

use super::plan::Plan;
use super::query::{VIA, email_visibility};
use super::record_key::RecordKey;
use super::routing_key::RoutingKey;
use super::{Scope, Shape};
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Collections};
use crate::model::events::{RecordState, SqlValue};
use crate::model::filter::{COLLECTION, Expr, REQUEST};
use crate::model::rules::{Access, Operation, Rule};

/// The records and fields that a subscription asks for.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionSpec {
    /// Only records that match this filter.
    pub filter: Option<Expr>,
    pub shape: Shape,
    /// Only the record with this id. The view rule then applies in place of the list rule.
    pub record: Option<String>,
}

/// See the module documentation.
pub struct SubscriberView {
    scope: Scope,
    collection: Arc<Collection>,
    plan: Plan,
    /// The rule or filter depends on the time, which is fixed when the view is built.
    depends_on_time: bool,
    /// Lets a registry of subscriptions skip this view by a single lookup.
    pub routing_key: Option<RoutingKey>,
}

impl SubscriberView {
    /// Fails if the caller may see no record of the collection, or if the filter or the fields are
    /// invalid.
    pub fn new(
        scope: Scope,
        collection: &Arc<Collection>,
        spec: &SubscriptionSpec,
    ) -> Result<SubscriberView> {
        refuse_view(collection)?;
        let grant = scope.admit(collection, operation(spec))?;
        let filter = spec.filter.clone();
        let depends_on_time = depends_on_time(&scope, collection, spec);
        let rule = match &grant.access {
            Access::When(rule) => Some(rule.as_ref()),
            Access::Free | Access::Denied => None,
        };
        let mut conditions = rule.into_iter().chain(&filter);
        let routing_key =
            conditions.find_map(|it| RoutingKey::find(it, collection, &scope.identity));
        let key = RecordKey::Values(filter);
        let plan = scope.plan(collection, &spec.shape, &key, &grant)?;
        Ok(SubscriberView {
            collection: Arc::clone(collection),
            scope,
            plan,
            depends_on_time,
            routing_key,
        })
    }

    /// A key shared by subscribers with identical views; none if the view depends on the caller.
    pub fn group_key(
        scope: &Scope,
        collection: &Collection,
        spec: &SubscriptionSpec,
    ) -> Result<Option<String>> {
        refuse_view(collection)?;
        let grant = scope.admit(collection, operation(spec))?;
        let rule = match &grant.access {
            Access::When(rule) => Some(rule.as_ref()),
            Access::Free | Access::Denied => None,
        };
        let mut conditions = rule.into_iter().chain(&spec.filter);
        let depends = conditions.any(Expr::depends_on_request)
            || reads_other_records(collection, spec)
            || (mentions_email(spec)
                && email_visibility::differs_by_caller(collection, &grant.fields, &scope.identity));
        let is_whole = grant.access == Access::Free;
        Ok((!depends).then(|| format!("{is_whole} {:?}", grant.fields)))
    }

    /// The definitions that the view was built with.
    pub fn definitions(&self) -> &Arc<Collections> {
        &self.scope.collections
    }

    /// True if the view is valid for one change only, because it depends on the time.
    pub fn depends_on_time(&self) -> bool {
        self.depends_on_time
    }

    /// True if the definitions have changed since the view was built.
    pub fn is_stale(&self) -> bool {
        self.scope.collections.check_current().is_err()
    }

    /// Writes the record as the caller sees it; false if the record is not visible.
    pub fn show(
        &self,
        connection: &Connection,
        state: &RecordState,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        match Arc::ptr_eq(&state.collection, &self.collection) {
            true => self.plan.write_values(connection, &state.values, out),
            false => {
                let values = align_to_definition(state, &self.collection);
                self.plan.write_values(connection, &values, out)
            }
        }
    }
}

/// Nothing announces which rows of a view a change of another record adds, changes or removes.
fn refuse_view(collection: &Collection) -> Result<()> {
    match collection.is_view() {
        false => Ok(()),
        true => Err(Error::invalid(format!(
            "{} is a view, and changes of views are not announced; subscribe to the collections \
             that it reads.",
            collection.name
        ))),
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

fn mentions_email(spec: &SubscriptionSpec) -> bool {
    let fields = spec.shape.fields.as_ref();
    let is_address = |path: &[String]| {
        let mut names = path.iter().filter_map(|name| name.split(':').next());
        names.any(|name| name == "email")
    };
    let filter = spec.filter.as_ref();
    fields.is_none_or(|tree| tree.has("email"))
        || filter.is_some_and(|filter| filter.any_path(&is_address))
}

/// True if the filter or the expansions read other records, so that the view rules of their
/// collections matter.
fn reads_other_records(collection: &Collection, spec: &SubscriptionSpec) -> bool {
    let is_relation = |name: &str| {
        let field = collection.field(name);
        field.is_some_and(|field| field.relation().is_some())
    };
    let leads_away = |path: &[String]| match path {
        // A field of a record that the account references.
        [first, _, _, _, ..] if first == REQUEST => true,
        [first, _, ..] => first == COLLECTION || first.contains(VIA) || is_relation(first),
        _ => false,
    };
    let filter = spec.filter.as_ref();
    filter.is_some_and(|filter| filter.any_path(&leads_away))
        || !spec.shape.expand.children.is_empty()
}

fn depends_on_time(scope: &Scope, collection: &Collection, spec: &SubscriptionSpec) -> bool {
    let others = scope.collections.all();
    let others = others
        .iter()
        .filter(|_| reads_other_records(collection, spec));
    let rules = others.map(|other| [&other.rules.view, &other.rules.manage]);
    let rules = rules.flatten().flatten().chain(&collection.rules.manage);
    let rules = rules.chain(rule(collection, spec));
    let rules = rules.filter_map(|rule| rule.expression().map(AsRef::as_ref));
    let mut conditions = rules.chain(&spec.filter);
    conditions.any(Expr::depends_on_time)
}

/// The values of a record in the field order of another definition; missing fields are unset.
fn align_to_definition(state: &RecordState, collection: &Collection) -> Vec<SqlValue> {
    let mut values = state.values[..RecordState::SYSTEM.len()].to_vec();
    values.extend(collection.fields.iter().map(|field| {
        let before = state.collection.fields.iter();
        let at = before.clone().position(|before| before.id == field.id);
        let value = at.and_then(|at| state.values.get(RecordState::SYSTEM.len() + at));
        let was_multiple = at
            .and_then(|at| before.clone().nth(at))
            .map(|it| it.is_multiple());
        match value {
            // The field has changed between single and multiple since, so the value no longer fits.
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
    use crate::base::budget::OutputCharge;
    use crate::model::collections::{CollectionKind, test_collection};
    use crate::model::filter;
    use crate::model::records::RequestFacts;
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
            facts: RequestFacts::default(),
            events: Arc::default(),
            output: OutputCharge::default(),
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

    fn depends_on_time(list_rule: &str, text: &str) -> bool {
        let (scope, collection) = posts(list_rule);
        SubscriberView::new(scope, &collection, &spec(text))
            .unwrap()
            .depends_on_time()
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
        // A filter reads other records under their view rules; a rule of this collection reads them
        // all.
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
            assert_eq!(depends_on_time("", text), expected, "{text}");
            assert_eq!(depends_on_time(text, "views > 0"), expected, "rule {text}");
        }
        // Because of the view rule of the authors.
        assert!(depends_on_time("", "author.name = 'x'"));
        assert!(!depends_on_time("", "meta.name = 'x'"));
    }
}
