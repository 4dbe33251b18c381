//! Checks a complete definition among the others of its database.

use super::catalog::Catalog;
use super::change::{INVALID_RULE, check_field_ids, check_field_rules, check_indexes};
use super::definition::RULES;
use super::parse::{Problems, key_of_field};
use super::{Collection, Collections, NamedViewQuery, auth, views};
use crate::base::error::{Error, Result};
use crate::model::rules::Rule;

const MFA_RULE: &str = "mfa.rule";

impl Catalog {
    /// Checks a complete definition, and the collections that depend on it. The error names all
    /// problems of the definition. Returns it with its views derived.
    pub(super) fn check(
        &self,
        collection: Collection,
        current: &Collections,
        mut problems: Problems,
        message: &str,
    ) -> Result<Collection> {
        let id = collection.id.clone();
        let changed = views::with_change(current, &id, Some(collection));
        let collection = changed.by_id(&id).ok_or_else(Error::stale)?;
        self.check_alone(collection, &changed, &mut problems)?;
        problems.check(message)?;
        self.check_others(&id, &changed, current)?;
        Ok(Collection::clone(collection))
    }

    /// Adds the problems of a definition among the collections of its database.
    pub(super) fn check_alone(
        &self,
        collection: &Collection,
        current: &Collections,
        problems: &mut Problems,
    ) -> Result<()> {
        problems.take("viewQuery", views::check_own(collection))?;
        check_field_ids(collection, problems);
        check_indexes(collection, problems);
        check_field_rules(collection, problems);
        auth::check_options(collection, problems);
        for field in collection.fields.iter().filter(|it| it.default.is_some()) {
            let key = format!("{}.default", key_of_field(&field.name));
            if let Err(error) = (self.checks.default)(field) {
                problems.add(&key, "validation_invalid_default", error.message());
            }
        }
        for (rule, error) in self.wrong_rules(collection, current) {
            problems.add(rule, INVALID_RULE, error.message());
        }
        Ok(())
    }

    /// Refuses a change after which a view or a rule of another collection is invalid.
    pub(super) fn check_others(
        &self,
        id: &str,
        changed: &Collections,
        current: &Collections,
    ) -> Result<()> {
        check_views(changed, current)?;
        let all = changed.all().into_iter();
        all.filter(|other| other.id != id)
            .try_for_each(|other| self.check_still_valid(other, changed))
    }

    /// Refuses changes of others after which a rule of this collection is invalid.
    pub(super) fn check_still_valid(
        &self,
        collection: &Collection,
        changed: &Collections,
    ) -> Result<()> {
        match self.wrong_rules(collection, changed).first() {
            None => Ok(()),
            Some((rule, _)) => Err(refers_to_removed(rule, collection)),
        }
    }

    /// The attributes of invalid rules, each with its error.
    fn wrong_rules(
        &self,
        collection: &Collection,
        current: &Collections,
    ) -> Vec<(&'static str, Error)> {
        let mut rules = collection.rules.clone();
        let mut wrong = Vec::new();
        let check = |rule: &Rule| (self.checks.rule)(rule, collection, current);
        for (name, slot) in RULES {
            if let Some(Err(error)) = slot(&mut rules).as_ref().map(check) {
                wrong.push((name, error));
            }
        }
        for named in &collection.named_views {
            if let NamedViewQuery::Sql(view) = &named.query
                && let Some(rule) = &view.rules.list
                && let Err(error) = (self.checks.rule)(rule, view, current)
            {
                wrong.push(("options", error));
            }
        }
        let factor = collection.auth.second_factor().map(Rule::parse);
        if let Some(Err(error)) = factor.map(|rule| check(&rule?)) {
            wrong.push((MFA_RULE, error));
        }
        wrong
    }
}

/// The error for an attribute of a collection that a change of another one makes invalid.
pub fn refers_to_removed(attribute: &str, collection: &Collection) -> Error {
    Error::conflict(format!(
        "The {attribute} of {} refers to what you are removing.",
        collection.name
    ))
}

/// Refuses changes after which a view cannot be read that could be read before.
pub fn check_views(changed: &Collections, current: &Collections) -> Result<()> {
    match views::first_broken(changed, current) {
        None => Ok(()),
        Some((view, error)) => Err(Error::conflict(format!(
            "The view {view} depends on what you are changing. {error}"
        ))),
    }
}
