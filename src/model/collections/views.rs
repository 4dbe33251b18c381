//! The views of a database, which depend on the other definitions: view collections, and the named
//! views in `options.views` of any collection.
//!
//! They are derived again whenever definitions are read or changed, so a view always shows what the
//! current definitions say. A change after which one cannot be derived is refused.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::collection::{NamedView, NamedViewQuery, View};
use super::view::derive;
use super::view_sql::ViewSql;
use super::{Collection, CollectionKind, Collections, Field};
use crate::base::error::{Error, Result};

/// The option that names columns which are shown although they may tell hidden fields.
const SHOW_HIDDEN: &str = "showHidden";

/// Derives all views of a database; one that cannot be read gets an error.
pub fn derive_all(mut list: Vec<Collection>) -> Vec<Collection> {
    if list
        .iter()
        .all(|it| it.view.is_none() && it.named_views.is_empty())
    {
        return list;
    }
    // A view is derived after those that it reads.
    let (mut waiting, mut ready): (Vec<_>, Vec<_>) =
        list.drain(..).partition(|it| it.view.is_some());
    loop {
        let names: Vec<String> = waiting.iter().map(|it| it.name.clone()).collect();
        let (next, rest): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|view| !mentions_any(view, &names));
        waiting = rest;
        if next.is_empty() {
            break;
        }
        let derived: Vec<Collection> = next.iter().map(|it| derived(it, &ready)).collect();
        ready.extend(derived);
    }
    for mut circular in waiting {
        fail(
            &mut circular,
            "It reads itself, directly or through another view.",
        );
        ready.push(circular);
    }
    let all = ready.clone();
    for collection in &mut ready {
        for named in &mut collection.named_views {
            derive_named(named, &all);
        }
    }
    ready
}

/// The definitions with another one, or none, in the place of the one with this id.
pub fn with_change(current: &Collections, id: &str, next: Option<Collection>) -> Collections {
    let others = current.all().into_iter().filter(|other| other.id != id);
    let others = others.map(|other| Collection::clone(other));
    Collections::from_iter(derive_all(others.chain(next).collect()))
}

fn mentions_any(view: &Collection, names: &[String]) -> bool {
    let query = view.view.as_ref().map_or("", |view| &view.query);
    // A statement that cannot be read fails when it is derived.
    ViewSql::parse(query).is_ok_and(|sql| names.iter().any(|name| sql.mentions(name)))
}

fn derived(collection: &Collection, others: &[Collection]) -> Collection {
    let mut collection = collection.clone();
    let query = collection.view.as_ref().map_or("", |view| &view.query);
    let shown = shown(&collection.options);
    match derive(query, &shown, &readable(others)).and_then(with_id) {
        Ok((view, fields)) => {
            collection.view = Some(view);
            collection.fields = fields;
        }
        Err(error) => fail(&mut collection, error.message()),
    }
    collection
}

fn with_id((view, fields): (View, Vec<Field>)) -> Result<(View, Vec<Field>)> {
    match view.system.contains(&"id") {
        true => Ok((view, fields)),
        false => Err(Error::invalid(
            "A view needs a column id; (row_number() OVER ()) AS id makes one.",
        )),
    }
}

/// The collections that a view can read.
fn readable(others: &[Collection]) -> Vec<&Collection> {
    let is_readable = |it: &&Collection| it.view.as_ref().is_none_or(|view| view.error.is_none());
    others.iter().filter(is_readable).collect()
}

fn fail(collection: &mut Collection, message: &str) {
    collection.fields.clear();
    let query = collection.view.take().map(|view| view.query);
    collection.view = Some(View {
        error: Some(message.to_owned()),
        ..View::of_query(query.unwrap_or_default())
    });
}

fn derive_named(named: &mut NamedView, others: &[Collection]) {
    let NamedViewQuery::Sql(collection) = &mut named.query else {
        return;
    };
    let query = collection.view.as_ref().map_or("", |view| &view.query);
    let result = derive(query, &shown(&collection.options), &readable(others));
    let collection = Arc::make_mut(collection);
    match result {
        Ok((view, fields)) => {
            collection.view = Some(view);
            collection.fields = fields;
        }
        Err(error) => fail(collection, error.message()),
    }
}

fn shown(options: &Map<String, Value>) -> Vec<&str> {
    let list = options.get(SHOW_HIDDEN).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Refuses a view collection with attributes that have no effect on it.
pub fn check_definition(collection: &Collection) -> Result<()> {
    let refuse = |name: &str, message: &str| {
        Err(Error::field(name, "validation_invalid_definition", message))
    };
    if collection.kind != CollectionKind::View {
        return match collection.view.is_some() {
            true => refuse("viewQuery", "Only a view has a statement."),
            false => Ok(()),
        };
    }
    if collection.view.is_none() {
        return refuse("viewQuery", "A view needs a statement.");
    }
    let rules = &collection.rules;
    for (name, is_set) in [
        ("createRule", rules.create.is_some()),
        ("updateRule", rules.update.is_some()),
        ("deleteRule", rules.delete.is_some()),
        ("executeRule", rules.execute.is_some()),
        ("fieldEditRules", rules.field_edits.is_some()),
    ] {
        if is_set {
            return refuse(
                name,
                "The records of a view cannot be changed; the rule must be null.",
            );
        }
    }
    if !collection.indexes.is_empty() {
        return refuse(
            "indexes",
            "A view has no indexes; those of the collections apply.",
        );
    }
    if collection.triggers.iter().next().is_some() {
        return refuse(
            "options",
            "A view has no triggers: its records do not change themselves.",
        );
    }
    Ok(())
}

/// The error of this collection's own views.
pub fn check_own(collection: &Collection) -> Result<()> {
    let error = collection
        .view
        .as_ref()
        .and_then(|view| view.error.as_deref());
    if let Some(message) = error {
        return Err(Error::field(
            "viewQuery",
            "validation_invalid_view_query",
            message,
        ));
    }
    for named in &collection.named_views {
        if let Some(message) = named.error() {
            let message = format!("views: {}: {message}", named.slug);
            return Err(Error::field(
                "options",
                "validation_invalid_view_query",
                message,
            ));
        }
    }
    Ok(())
}

/// The name and the error of the first view that cannot be read after a change, and could before.
pub fn first_broken(changed: &Collections, current: &Collections) -> Option<(String, String)> {
    let before = broken(current);
    let is_new = |(name, _): &(String, String)| !before.iter().any(|(other, _)| other == name);
    broken(changed).into_iter().find(is_new)
}

/// The views that cannot be read, each with the reason.
fn broken(collections: &Collections) -> Vec<(String, String)> {
    let mut broken = Vec::new();
    for collection in collections.all() {
        if let Some(error) = collection.view.as_ref().and_then(|view| view.error.clone()) {
            broken.push((collection.name.clone(), error));
        }
        for named in &collection.named_views {
            if let Some(error) = named.error() {
                broken.push((
                    format!("{}/{}", collection.name, named.slug),
                    error.to_owned(),
                ));
            }
        }
    }
    broken
}
