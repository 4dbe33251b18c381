//! The named views of a collection, in its `options.views`.
//!
//! Two forms (VIEW-2, VIEW-3): a list of `{slug, sql}` with a statement like that of a view
//! collection, or an object from name to `{page, perPage, filter, sort}`, a saved query of the
//! collection itself. The rows of a statement are shown to admins, and to callers that the
//! `listRule` beside it admits (our choice: the public text says nothing about access).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::collection::{NamedView, NamedViewQuery, SavedQuery, View};
use super::{Collection, CollectionKind, Rules};
use crate::base::error::{Error, Result};
use crate::model::filter;
use crate::model::rules::Rule;
use crate::model::triggers::Triggers;

/// Largest number of named views of a collection.
const VIEWS_MAX: usize = 50;
/// The option of a collection that holds them.
pub const VIEWS: &str = "views";

/// Reads the named views of a definition.
pub fn parse_named_views(collection: &Collection) -> Result<Vec<NamedView>> {
    let views = match collection.options.get(VIEWS) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|it| parse_sql(collection, it))
            .collect::<Result<Vec<_>>>()?,
        Some(Value::Object(object)) => object
            .iter()
            .map(|(name, it)| parse_saved(name, it))
            .collect::<Result<Vec<_>>>()?,
        Some(_) => {
            return Err(invalid(
                "must be a list of {slug, sql} or an object of {page, perPage, filter, sort}",
            ));
        }
    };
    if views.len() > VIEWS_MAX {
        return Err(invalid(&format!("at most {VIEWS_MAX} views")));
    }
    let is_repeated = |at: usize| views[..at].iter().any(|it| it.slug == views[at].slug);
    match (0..views.len()).find(|at| is_repeated(*at)) {
        None => Ok(views),
        Some(at) => Err(invalid(&format!("two views are named {}", views[at].slug))),
    }
}

fn parse_sql(collection: &Collection, value: &Value) -> Result<NamedView> {
    let known = ["slug", "sql", "listRule", "showHidden"];
    let object = object(value, &known)?;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let (Some(slug), Some(sql)) = (text("slug"), text("sql")) else {
        return Err(invalid("each view of a list has a slug and sql"));
    };
    let list =
        match object.get("listRule") {
            None | Some(Value::Null) => None,
            Some(Value::String(rule)) => Some(Rule::parse(rule.as_str()).map_err(|error| {
                invalid(&format!("the listRule of {slug}: {}", error.message()))
            })?),
            Some(_) => return Err(invalid(&format!("the listRule of {slug} must be a string"))),
        };
    let rules = Rules {
        list,
        ..Rules::default()
    };
    let options = object
        .get("showHidden")
        .map(|it| ("showHidden".to_owned(), it.clone()));
    // It keeps the id and the name of the collection, so that API keys reach both or neither.
    let view = Collection {
        kind: CollectionKind::View,
        fields: Vec::new(),
        indexes: Vec::new(),
        triggers: Triggers::default(),
        named_views: Vec::new(),
        options: options.into_iter().collect(),
        view: Some(View::of_query(sql.to_owned())),
        rules,
        ..collection.clone()
    };
    Ok(NamedView {
        slug: check_slug(slug)?,
        query: NamedViewQuery::Sql(Arc::new(view)),
    })
}

fn parse_saved(name: &str, value: &Value) -> Result<NamedView> {
    let object = object(value, &["page", "perPage", "filter", "sort"])?;
    let text = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(invalid(&format!("{key} of {name} must be a string"))),
    };
    let number = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(invalid(&format!(
                "{key} of {name} must be a positive integer"
            ))),
        },
    };
    let saved = SavedQuery {
        page: number("page")?,
        per_page: number("perPage")?,
        filter: text("filter")?,
        sort: text("sort")?,
    };
    let described = |error: Error| invalid(&format!("{name}: {}", error.message()));
    if !saved.filter.trim().is_empty() {
        filter::parse(&saved.filter).map_err(described)?;
    }
    filter::parse_sort(&saved.sort).map_err(described)?;
    Ok(NamedView {
        slug: check_slug(name)?,
        query: NamedViewQuery::Saved(saved),
    })
}

fn object<'a>(value: &'a Value, known: &[&str]) -> Result<&'a Map<String, Value>> {
    let object = value
        .as_object()
        .ok_or_else(|| invalid("each view is an object"))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(object),
        Some(key) => Err(invalid(&format!("a view has no attribute {key}"))),
    }
}

fn check_slug(slug: &str) -> Result<String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match (1..=64).contains(&slug.len()) && slug.bytes().all(is_part) {
        true => Ok(slug.to_owned()),
        false => Err(invalid(
            "a slug has 1 to 64 characters of A-Z, a-z, 0-9, _ and -",
        )),
    }
}

fn invalid(message: &str) -> Error {
    let message = format!("views: {message}.");
    Error::field("options", "validation_invalid_definition", message)
}
