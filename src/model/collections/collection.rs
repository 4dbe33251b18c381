//! The definition of a collection: fields, indexes, rules and options.

use serde_json::{Map, Value};

use super::field::Field;
use super::index::Index;
use crate::model::rules;
use crate::model::rules::{FieldRules, Grant, Identity, Operation, Rule};
use crate::model::triggers::Trigger;

/// The definition of one collection.
#[derive(Clone, Debug)]
pub struct Collection {
    pub id: String,
    /// Which database its table is in.
    pub database: String,
    /// Also the name of its table.
    pub name: String,
    pub kind: CollectionKind,
    /// In the order in which they were defined.
    pub fields: Vec<Field>,
    pub indexes: Vec<Index>,
    pub rules: Rules,
    /// Free form, kept for the parts that read it (COL-8).
    pub options: Map<String, Value>,
    /// What `options.triggers` says.
    pub triggers: Vec<Trigger>,
    pub created: String,
    pub updated: String,
}

/// What a collection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionKind {
    /// Records.
    Base,
    /// Records that can sign in: they have `email`, `password` and what belongs to them.
    Auth,
}

/// Filter expressions that say who may do what. None: admins only. Empty: everyone (RUL-6 is our
/// choice, as in PocketBase).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    pub list: Option<Rule>,
    pub view: Option<Rule>,
    pub create: Option<Rule>,
    pub update: Option<Rule>,
    pub delete: Option<Rule>,
    /// Who may start workflows on the collection (WF-16).
    pub execute: Option<Rule>,
    /// The workflows that those may start.
    pub workflows: Vec<String>,
    /// Admits callers to the addresses of all accounts of an auth collection.
    pub manage: Option<Rule>,
    /// Which groups read which fields, in place of `list` and `view` (FLD-3).
    pub fields: Option<FieldRules>,
    /// Which groups write which fields, in place of `create` and `update`.
    pub field_edits: Option<FieldRules>,
}

impl Collection {
    /// What a caller may do with its records.
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

    /// Whether its records have files.
    pub fn has_files(&self) -> bool {
        self.fields.iter().any(|field| field.file().is_some())
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl CollectionKind {
    pub fn name(self) -> &'static str {
        match self {
            CollectionKind::Base => "base",
            CollectionKind::Auth => "auth",
        }
    }
}
