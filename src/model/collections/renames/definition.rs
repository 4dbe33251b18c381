//! Rewrites the definitions that mention renamed collections and fields.
//!
//! A text of a definition follows if the request leaves it as it was: tools send whole definitions
//! back after changing one name. A text that the request changes is written in the new names.

use serde_json::{Map, Value};

use super::names::{NamePair, Renames};
use super::paths::PathRenamer;
use super::statement;
use crate::base::error::{Error, Result};
use crate::model::collections::collection::{NamedViewQuery, View};
use crate::model::collections::definition::{FIELD_RULES, RULES};
use crate::model::collections::index_sql::Token;
use crate::model::collections::named_view::{VIEWS, parse_named_views};
use crate::model::collections::{Collection, Collections, Index};
use crate::model::rules::{FieldRules, Rule};

/// Settings of auth collections that may mention fields as `{RECORD:field}`.
const TEMPLATES: [&str; 5] = [
    "verificationTemplate",
    "resetPasswordTemplate",
    "confirmEmailChangeTemplate",
    "otp",
    "authAlert",
];

/// Rewrites definitions for some renames.
pub struct Renamer<'a> {
    /// The definitions before the change.
    pub before: &'a Collections,
    pub renames: &'a Renames,
}

impl Renamer<'_> {
    /// Rewrites the texts of `next` that are those of `previous`. The error names the text that
    /// cannot be rewritten.
    pub fn apply(&self, previous: &Collection, next: &mut Collection) -> Result<()> {
        let paths = self.paths();
        for (name, slot) in RULES {
            let before = slot(&mut previous.rules.clone()).take();
            if let (Some(rule), Some(before)) = (slot(&mut next.rules), before)
                && rule.text() == before.text()
            {
                let text = paths.filter(previous, rule.text());
                let text = text.map_err(|error| refused(name, previous, &error))?;
                if text != rule.text() {
                    *rule = Rule::parse(text)?;
                }
            }
        }
        for (_, slot) in FIELD_RULES {
            let before = slot(&mut previous.rules.clone()).take();
            if let Some(rules) = slot(&mut next.rules)
                && before.as_ref() == Some(&*rules)
            {
                *rules = self.field_rules(previous, rules);
            }
        }
        for index in &mut next.indexes {
            if previous.indexes.contains(index) {
                self.index(previous, index);
            }
        }
        if let (Some(view), Some(before)) = (&mut next.view, &previous.view)
            && view.query == before.query
            && before.error.is_none()
        {
            let query = statement::rewrite(&before.query, self.renames, self.before)
                .map_err(|error| refused("viewQuery", previous, &error))?;
            if query != view.query {
                *view = View::of_query(query);
            }
        }
        self.settings(previous, next)?;
        self.named_views(previous, next)
    }

    fn paths(&self) -> PathRenamer<'_> {
        PathRenamer {
            before: self.before,
            renames: self.renames,
        }
    }

    fn field_rules(&self, previous: &Collection, rules: &FieldRules) -> FieldRules {
        let new = |name: &String| {
            let new = self.renames.new_field_name(previous, name);
            new.unwrap_or(name).to_owned()
        };
        let groups = rules.iter();
        groups
            .map(|(group, names)| (group.clone(), names.iter().map(new).collect()))
            .collect()
    }

    fn index(&self, previous: &Collection, index: &mut Index) {
        let columns = index.columns.iter_mut().flat_map(|it| &mut it.tokens);
        for token in columns.chain(&mut index.condition) {
            if let Token::Name(name) = token
                && let Some(new) = self.renames.new_field_name(previous, name)
            {
                new.clone_into(name);
            }
        }
    }

    /// The settings of an auth collection.
    fn settings(&self, previous: &Collection, next: &mut Collection) -> Result<()> {
        let new = |name: &str| self.renames.new_field_name(previous, name);
        let before = previous.auth.stored();
        let rule = previous.auth.stored()["mfa"]["rule"]
            .as_str()
            .unwrap_or_default();
        let rewritten = self.paths().filter(previous, rule);
        let rewritten = rewritten.map_err(|error| refused("mfa.rule", previous, &error))?;
        let settings = next.auth.stored_mut();
        if settings["mfa"]["rule"] == rule {
            settings["mfa"]["rule"] = Value::from(rewritten);
        }
        for path in ["/passwordAuth/identityFields", "/oauth2/mappedFields"] {
            let (group, name) = path[1..].split_once('/').unwrap_or_default();
            let value = &mut settings[group][name];
            if *value == before[group][name] {
                rename_strings(value, &new);
            }
        }
        let renamed = self.renames.fields.get(&previous.id);
        let renamed: Vec<&NamePair> = renamed.into_iter().flat_map(|it| it.values()).collect();
        for name in TEMPLATES {
            if settings[name] != before[name] {
                continue;
            }
            // A name in between, so that two can be swapped.
            for (at, pair) in renamed.iter().enumerate() {
                replace_in_strings(&mut settings[name], &pair.old, &format!(" {at}"));
            }
            for (at, pair) in renamed.iter().enumerate() {
                replace_in_strings(&mut settings[name], &format!(" {at}"), &pair.new);
            }
        }
        if let Some(fields) = next.options.get_mut("identityFields")
            && previous.options.get("identityFields") == Some(fields)
        {
            rename_strings(fields, &new);
        }
        Ok(())
    }

    fn named_views(&self, previous: &Collection, next: &mut Collection) -> Result<()> {
        let is_same = previous.options.get(VIEWS) == next.options.get(VIEWS);
        let Some(views) = next.options.get_mut(VIEWS).filter(|_| is_same) else {
            return Ok(());
        };
        for named in &previous.named_views {
            let result = match (&named.query, &mut *views) {
                (NamedViewQuery::Sql(view), Value::Array(list)) => {
                    let mut list = list.iter_mut().filter_map(Value::as_object_mut);
                    let own = list.find(|it| it.get("slug").is_some_and(|it| *it == named.slug));
                    own.map_or(Ok(()), |own| self.named_statement(view, own))
                }
                (NamedViewQuery::Saved(_), Value::Object(all)) => {
                    let own = all.get_mut(&named.slug).and_then(Value::as_object_mut);
                    own.map_or(Ok(()), |own| self.saved_query(previous, own))
                }
                _ => Ok(()),
            };
            let name = format!("view {}", named.slug);
            result.map_err(|error| refused(&name, previous, &error))?;
        }
        next.named_views = parse_named_views(next)?;
        Ok(())
    }

    fn named_statement(&self, view: &Collection, own: &mut Map<String, Value>) -> Result<()> {
        if view.view.as_ref().is_some_and(|view| view.error.is_some()) {
            return Ok(());
        }
        rewrite_text(own, "sql", |text| {
            statement::rewrite(text, self.renames, self.before)
        })?;
        rewrite_text(own, "listRule", |text| self.paths().filter(view, text))
    }

    fn saved_query(&self, root: &Collection, own: &mut Map<String, Value>) -> Result<()> {
        rewrite_text(own, "filter", |text| self.paths().filter(root, text))?;
        rewrite_text(own, "sort", |text| self.paths().sort(root, text))
    }
}

/// Replaces a string of an object, if it has it.
fn rewrite_text(
    object: &mut Map<String, Value>,
    name: &str,
    rewrite: impl FnOnce(&str) -> Result<String>,
) -> Result<()> {
    if let Some(Value::String(text)) = object.get_mut(name) {
        *text = rewrite(text)?;
    }
    Ok(())
}

/// The error for something that cannot follow.
fn refused(name: &str, collection: &Collection, error: &Error) -> Error {
    let message = format!(
        "The {name} of {} cannot follow: {}.",
        collection.name,
        error.message().trim_end_matches('.')
    );
    Error::invalid(message)
}

/// Renames the fields in a list or in the values of an object.
fn rename_strings<'a>(value: &mut Value, new: &impl Fn(&str) -> Option<&'a str>) {
    match value {
        Value::String(name) => {
            if let Some(new) = new(name) {
                new.clone_into(name);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|it| rename_strings(it, new)),
        Value::Object(object) => object.values_mut().for_each(|it| rename_strings(it, new)),
        _ => {}
    }
}

/// Replaces the placeholders of a field.
fn replace_in_strings(value: &mut Value, old: &str, new: &str) {
    let placeholder = |field: &str| format!("{{RECORD:{field}}}");
    match value {
        Value::String(text) => *text = text.replace(&placeholder(old), &placeholder(new)),
        Value::Object(object) => {
            for value in object.values_mut() {
                replace_in_strings(value, old, new);
            }
        }
        _ => {}
    }
}
