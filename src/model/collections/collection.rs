//! The definition of a collection: fields, indexes, rules, options and views.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::auth_settings::AuthSettings;
use super::field::Field;
use super::field_json::{CREATED, FieldList, ID, UPDATED, automatic, record_id};
use super::index::{Index, IndexColumn};
use crate::model::rules;
use crate::model::rules::{FieldNames, FieldRules, Grant, Identity, Operation, Rule};
use crate::model::triggers::Triggers;
use crate::store::db::quote;

/// The name of the collection of admins.
pub const SUPERUSERS: &str = "_superusers";

/// The column of auth collections that is part of every token of an account. A field cannot have
/// this name.
pub const TOKEN_KEY: &str = "_token_key";
/// The name of that column in definitions.
pub const TOKEN_KEY_FIELD: &str = "tokenKey";

#[derive(Clone, Debug)]
pub struct Collection {
    pub id: String,
    /// The database of its table.
    pub database: String,
    /// Also the name of its table.
    pub name: String,
    pub kind: CollectionKind,
    /// In the order of the definition, without those of `system`.
    pub fields: Vec<Field>,
    pub system: SystemFields,
    pub indexes: Vec<Index>,
    pub rules: Rules,
    /// Options that other modules read.
    pub options: Map<String, Value>,
    /// Read in auth collections only.
    pub auth: AuthSettings,
    /// Parsed from `options.triggers`.
    pub triggers: Triggers,
    /// The statement of a view collection.
    pub view: Option<View>,
    /// Parsed from `options.views`.
    pub named_views: Vec<NamedView>,
    /// Of an auth collection among those of its database.
    pub field_names: FieldNames,
    pub created: String,
    pub updated: String,
    /// In a pending definition: the collection is being deleted.
    pub is_deleted: bool,
}

/// The fields with columns that every table has.
#[derive(Clone, Debug)]
pub struct SystemFields {
    pub id: Field,
    /// None if records do not show the time of their creation.
    pub created: Option<Field>,
    /// None if records do not show the time of their last change, which is still their version.
    pub updated: Option<Field>,
    /// Of an auth collection.
    pub token_key: Option<Field>,
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
    /// Admits accounts of an auth collection to a log-in.
    pub auth: Option<Rule>,
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
    /// A collection without fields of its own, which admits admins only.
    pub fn new(id: String, database: &str, name: &str) -> Collection {
        Collection {
            id,
            database: database.to_owned(),
            name: name.to_owned(),
            kind: CollectionKind::Base,
            fields: Vec::new(),
            system: SystemFields {
                id: record_id(),
                created: Some(automatic(CREATED)),
                updated: Some(automatic(UPDATED)),
                token_key: None,
            },
            indexes: Vec::new(),
            rules: Rules::default(),
            options: Map::new(),
            auth: AuthSettings::default(),
            triggers: Triggers::default(),
            view: None,
            named_views: Vec::new(),
            field_names: FieldNames::default(),
            created: String::new(),
            updated: String::new(),
            is_deleted: false,
        }
    }

    /// Replaces the fields. A list that is not complete leaves those of the system as they are.
    pub fn set_fields(&mut self, list: FieldList) {
        let is_complete = list.is_complete();
        if let Some(id) = list.id {
            self.system.id = id;
        }
        if is_complete || list.created.is_some() {
            self.system.created = list.created;
        }
        if is_complete || list.updated.is_some() {
            self.system.updated = list.updated;
        }
        self.fields = list.fields;
    }

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

    /// The field `id`, `created` or `updated`, if records show it.
    pub fn system_field(&self, name: &str) -> Option<&Field> {
        match name {
            _ if !self.has_column(name) => None,
            ID => Some(&self.system.id),
            CREATED => self.system.created.as_ref(),
            UPDATED => self.system.updated.as_ref(),
            _ => None,
        }
    }

    /// The column of a field, also of one that records do not show.
    pub fn column(&self, name: &str) -> Option<&str> {
        let is_key = |field: &Field| field.name == name;
        if self.system.token_key.as_ref().is_some_and(is_key) {
            return Some(TOKEN_KEY);
        }
        self.system_field(name)
            .or_else(|| self.field(name))
            .map(|field| field.name.as_str())
    }

    /// All fields, for their form in JSON.
    pub fn field_list(&self) -> FieldList {
        let fields = self.system.token_key.iter().chain(&self.fields);
        FieldList::new(
            fields.cloned().collect(),
            self.system_field(ID).cloned(),
            self.system_field(CREATED).cloned(),
            self.system_field(UPDATED).cloned(),
        )
    }

    /// True if no two records have the same value in this field, except records without one.
    pub fn is_unique(&self, field: &Field) -> bool {
        let is_it = |index: &Index| {
            let column = index.unique_column();
            column.and_then(|it| it.plain()) == Some(field.name.as_str())
        };
        field.unique || self.indexes.iter().any(is_it)
    }

    /// The fields of an index of its table with this name, `index:TABLE:NAME` or with more.
    pub fn columns_of_index(&self, index: &str) -> Option<Vec<&str>> {
        let name = index.split(':').nth(2)?;
        let index = self.indexes.iter().find(|it| it.name == name)?;
        let columns = index.columns.iter().filter_map(IndexColumn::plain);
        Some(columns.collect()).filter(|names: &Vec<&str>| !names.is_empty())
    }

    /// True if a unique index ignores the case of this field.
    pub fn ignores_case(&self, name: &str) -> bool {
        let columns = self.indexes.iter().filter_map(Index::unique_column);
        let mut columns = columns.filter(|column| column.plain() == Some(name));
        columns.any(|column| column.collation.as_deref() == Some("NOCASE"))
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
