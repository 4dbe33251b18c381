//! The definition of a collection: fields, indexes, rules, options and views.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::field::Field;
use super::index::Index;
use crate::model::rules;
use crate::model::rules::{FieldRules, Grant, Identity, Operation, Rule};
use crate::model::triggers::Triggers;
use crate::store::db::quote;

#[derive(Clone, Debug)]
pub struct Collection {
    pub id: String,
    /// The database of its table.
    pub database: String,
    /// Also the name of its table.
    pub name: String,
    pub kind: CollectionKind,
    /// In the order of the definition.
    pub fields: Vec<Field>,
    pub indexes: Vec<Index>,
    pub rules: Rules,
    /// Options that other modules read.
    pub options: Map<String, Value>,
    /// Parsed from `options.triggers`.
    pub triggers: Triggers,
    /// The statement of a view collection.
    pub view: Option<View>,
    /// Parsed from `options.views`.
    pub named_views: Vec<NamedView>,
    pub created: String,
    pub updated: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionKind {
    /// Plain records.
    Base,
    /// Records that can sign in; they have `email`, `password` and more.
    Auth,
    /// Rows of a `SELECT` over other collections; they cannot be changed.
    View,
}

/// The statement of a view and what follows from it.
#[derive(Clone, Debug)]
pub struct View {
    /// The statement as it was sent.
    pub query: String,
    /// A subquery for `FROM`, in parentheses; without rows if there is an error.
    pub source: String,
    /// Those of `id`, `created` and `updated` that the statement selects.
    pub system: Vec<&'static str>,
    /// For each field, the collection (by id) and the field that its values come from unchanged.
    pub origins: Vec<Option<(String, String)>>,
    /// The reason why the view cannot be read: what it refers to no longer exists.
    pub error: Option<String>,
}

impl View {
    /// The view of a definition, before its columns are derived.
    pub fn of_query(query: String) -> View {
        View {
            query,
            source: "(SELECT NULL AS id WHERE FALSE)".to_owned(),
            system: Vec::new(),
            origins: Vec::new(),
            error: Some("Its statement was not read yet.".to_owned()),
        }
    }
}

/// A view under a collection.
#[derive(Clone, Debug)]
pub struct NamedView {
    /// Its name in paths.
    pub slug: String,
    pub query: NamedViewQuery,
}

#[derive(Clone, Debug)]
pub enum NamedViewQuery {
    /// The rows of a statement.
    Sql(Arc<Collection>),
    /// A list of the records of the collection.
    Saved(SavedQuery),
}

/// The parameters of a list.
#[derive(Clone, Debug, Default)]
pub struct SavedQuery {
    pub page: Option<u64>,
    pub per_page: Option<u64>,
    pub filter: String,
    pub sort: String,
}

impl NamedView {
    /// The reason why the view cannot be read.
    pub fn error(&self) -> Option<&str> {
        match &self.query {
            NamedViewQuery::Sql(collection) => collection.view.as_ref()?.error.as_deref(),
            NamedViewQuery::Saved(_) => None,
        }
    }
}

/// Conditions of access. None admits admins only, an empty rule everyone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub list: Option<Rule>,
    pub view: Option<Rule>,
    pub create: Option<Rule>,
    pub update: Option<Rule>,
    pub delete: Option<Rule>,
    /// Admits callers that start workflows on the collection.
    pub execute: Option<Rule>,
    /// The workflows that these callers can start.
    pub workflows: Vec<String>,
    /// Admits callers to the addresses of all accounts of an auth collection.
    pub manage: Option<Rule>,
    /// The fields that groups read, in place of `list` and `view`.
    pub fields: Option<FieldRules>,
    /// The fields that groups write, in place of `create` and `update`.
    pub field_edits: Option<FieldRules>,
}

impl Collection {
    /// The access of a caller to its records.
    pub fn grant(&self, operation: Operation, identity: &Identity) -> Grant {
        let rules = &self.rules;
        let (rule, fields) = match operation {
            Operation::List => (&rules.list, &rules.fields),
            Operation::View => (&rules.view, &rules.fields),
            Operation::Create => (&rules.create, &rules.field_edits),
            Operation::Update => (&rules.update, &rules.field_edits),
            Operation::Delete => (&rules.delete, &None),
            Operation::Execute => (&rules.execute, &None),
        };
        rules::grant(
            operation,
            &self.name,
            rule.as_ref(),
            fields.as_ref(),
            identity,
        )
    }

    pub fn is_view(&self) -> bool {
        self.view.is_some()
    }

    /// SQL for `FROM`: the name of the table, or the subquery of a view.
    pub fn source(&self) -> Cow<'_, str> {
        match &self.view {
            Some(view) => Cow::Borrowed(&view.source),
            None => Cow::Owned(quote(&self.name)),
        }
    }

    /// The column that identifies a row in its statements.
    pub fn row_key(&self) -> &'static str {
        if self.is_view() { "id" } else { "rowid" }
    }

    /// True if its rows have this one of the columns `id`, `created` and `updated`.
    pub fn has_column(&self, name: &str) -> bool {
        self.view
            .as_ref()
            .is_none_or(|view| view.system.contains(&name))
    }

    /// True if it stores files. A view only shows those of other collections.
    pub fn has_files(&self) -> bool {
        !self.is_view() && self.fields.iter().any(|field| field.file().is_some())
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl CollectionKind {
    pub fn name(self) -> &'static str {
        match self {
            CollectionKind::Base => "base",
            CollectionKind::Auth => "auth",
            CollectionKind::View => "view",
        }
    }
}
