//! The definition of a collection: fields, indexes, rules and options.

use serde_json::{Map, Value};

use super::field::Field;
use super::index::Index;
use crate::model::rules;
use crate::model::rules::{FieldRules, Grant, Identity, Operation, Rule};
use crate::model::triggers::Triggers;

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
    pub created: String,
    pub updated: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionKind {
    /// Plain records.
    Base,
    /// Records that can sign in; they have `email`, `password` and more.
    Auth,
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

    pub fn has_files(&self) -> bool {
        self.fields.iter().any(|field| field.file().is_some())
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
        }
    }
}
