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
use crate::model::events::{State, Stored};
use crate::model::filter;
use crate::model::rules::{Access, Operation};

/// What a subscriber wants to see.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionSpec {
    /// Of the records of a collection those that this holds for.
    pub filter: String,
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
        let filter = match spec.filter.trim() {
            "" => None,
            text => Some(filter::parse(text)?),
        };
        let is_timed = is_timed(&scope, collection, spec);
        let rule = match &grant.access {
            Access::When(rule) => Some(rule),
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
            Access::When(_) => rule(collection, spec),
            Access::Free | Access::Denied => None,
        };
        let asks_who = |text: &str| text.contains("@request");
        let depends = rule.is_some_and(asks_who)
            || asks_who(&spec.filter)
            || looks_around(spec)
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
    pub fn show(&self, connection: &Connection, state: &State, out: &mut Vec<u8>) -> Result<bool> {
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

fn rule<'a>(collection: &'a Collection, spec: &SubscriptionSpec) -> Option<&'a str> {
    match spec.record {
        Some(_) => collection.rules.view.as_deref(),
        None => collection.rules.list.as_deref(),
    }
}

fn mentions_address(spec: &SubscriptionSpec) -> bool {
    let fields = spec.shape.fields.as_ref();
    fields.is_none_or(|tree| tree.has("email")) || spec.filter.contains("email")
}

/// Whether other records have a say, as far as the caller may see these.
fn looks_around(spec: &SubscriptionSpec) -> bool {
    spec.filter.contains('.') || !spec.shape.expand.children.is_empty()
}

fn is_timed(scope: &Scope, collection: &Collection, spec: &SubscriptionSpec) -> bool {
    let is_it = |text: &str| text.replace("@request", "").contains('@');
    let others = scope.collections.all();
    let others = others.iter().filter(|_| looks_around(spec));
    let rules = others.map(|other| [&other.rules.view, &other.rules.manage]);
    let mut rules = rules.flatten().flatten().chain(&collection.rules.manage);
    let is_any = rules.any(|rule| is_it(rule));
    is_any || is_it(&spec.filter) || rule(collection, spec).is_some_and(is_it)
}

/// The values of a record in the order of another definition; what it did not have is unset.
fn fit(state: &State, collection: &Collection) -> Vec<Stored> {
    let mut values = state.values[..State::SYSTEM.len()].to_vec();
    values.extend(collection.fields.iter().map(|field| {
        let before = state.collection.fields.iter();
        let at = before.clone().position(|before| before.id == field.id);
        let value = at.and_then(|at| state.values.get(State::SYSTEM.len() + at));
        let was_multiple = at
            .and_then(|at| before.clone().nth(at))
            .map(|it| it.is_multiple());
        match value {
            // A list where one value is wanted now, or the reverse: it was another kind of field then.
            Some(value) if was_multiple == Some(field.is_multiple()) => value.clone(),
            _ => Stored::Null,
        }
    }));
    values
}
