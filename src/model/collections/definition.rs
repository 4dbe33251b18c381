//! The JSON form of a collection: reading what a client sends, writing what it gets.
//!
//! Takes all the forms that the public text shows (CON-3): `fields` or `schema`, field options at
//! the top level or under `options`, `options` as an object or as a JSON string, the values of a
//! `select` as an array or as `{values}`. Writes one: `fields` and, equal to it, `schema`, with
//! options at the top level. What it does not know it refuses by name; a few keys that
//! PocketBase's tools always send and that mean nothing here are passed over.

use serde_json::{Map, Value, json};

use super::field_json::{field_to_json, parse_fields};
use super::index::{index_to_json, parse_indexes};
use super::parse::{invalid, is_word, object_or_text, optional_text};
use super::{Collection, CollectionKind, Field, Index, Rules};
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::base::ids::WORKFLOW_BYTES_MAX;
use crate::model::rules::{FieldRules, Rule};
use crate::model::triggers::redaction;

/// The attribute beside `executeRule`.
const WORKFLOWS: &str = "executeWorkflows";
const WORKFLOWS_MAX: usize = 100;
/// Groups in the field rules of a collection.
const GROUPS_MAX: usize = 100;
/// Tables that SQLite brings itself.
const TABLES_OF_SQLITE: [&str; 4] = ["json_each", "json_tree", "dbstat", "bytecode"];

/// What a client wants a collection to be; none of the parts have met the stored ones yet.
#[derive(Debug, Default)]
pub struct CollectionDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub kind: Option<CollectionKind>,
    pub fields: Option<Vec<Field>>,
    /// The same under its other name; see [`CollectionDraft::resolve_fields`].
    pub schema: Option<Vec<Field>>,
    pub indexes: Option<Vec<Index>>,
    /// Only the rules that were mentioned.
    pub rules: Vec<(&'static str, Option<String>)>,
    /// The same of field rules.
    pub field_rules: Vec<(&'static str, Option<FieldRules>)>,
    /// The workflows that callers may start.
    pub workflows: Option<Vec<String>>,
    pub options: Option<Map<String, Value>>,
}

/// The rule that only auth collections have.
pub const MANAGE_RULE: &str = "manageRule";

/// The rule attributes and where each lies.
type RuleSlot = fn(&mut Rules) -> &mut Option<Rule>;
pub const RULES: [(&str, RuleSlot); 7] = [
    ("listRule", |rules| &mut rules.list),
    ("viewRule", |rules| &mut rules.view),
    ("createRule", |rules| &mut rules.create),
    ("updateRule", |rules| &mut rules.update),
    ("deleteRule", |rules| &mut rules.delete),
    ("executeRule", |rules| &mut rules.execute),
    (MANAGE_RULE, |rules| &mut rules.manage),
];

/// The same for field rules.
type FieldRuleSlot = fn(&mut Rules) -> &mut Option<FieldRules>;
pub const FIELD_RULES: [(&str, FieldRuleSlot); 2] = [
    ("fieldRules", |rules| &mut rules.fields),
    ("fieldEditRules", |rules| &mut rules.field_edits),
];

impl CollectionDraft {
    /// Puts the rules that were mentioned where they belong. `parse` gets the attribute and the text of each.
    pub fn apply_rules(
        &mut self,
        rules: &mut Rules,
        parse: impl Fn(&str, String) -> Result<Rule>,
    ) -> Result<()> {
        for (name, rule) in self.rules.drain(..) {
            if let Some((_, slot)) = RULES.iter().find(|(known, _)| *known == name) {
                *slot(rules) = rule.map(|text| parse(name, text)).transpose()?;
            }
        }
        for (name, rule) in self.field_rules.drain(..) {
            if let Some((_, slot)) = FIELD_RULES.iter().find(|(known, _)| *known == name) {
                *slot(rules) = rule;
            }
        }
        if let Some(workflows) = self.workflows.take() {
            rules.workflows = workflows;
        }
        Ok(())
    }

    /// Reads a request body.
    pub fn parse(body: &Value) -> Result<CollectionDraft> {
        let Some(body) = body.as_object() else {
            return Err(Error::invalid("A collection is a JSON object."));
        };
        let mut draft = CollectionDraft::default();
        for (key, value) in body {
            draft.read_key(key, value)?;
        }
        Ok(draft)
    }

    /// Answers carry the fields twice, so clients send them twice after changing one of the two:
    /// the one that differs from what is stored counts.
    pub fn resolve_fields(&mut self, stored: &[Field]) -> Result<()> {
        let Some(schema) = self.schema.take() else {
            return Ok(());
        };
        let form = |list: &[Field]| -> Vec<Value> { list.iter().map(field_to_json).collect() };
        let is_schema = match &self.fields {
            None => true,
            Some(fields) if form(fields) == form(stored) => true,
            Some(fields) if form(&schema) == form(stored) || form(&schema) == form(fields) => false,
            Some(_) => return Err(invalid("schema", "fields and schema say different things.")),
        };
        if is_schema {
            self.fields = Some(schema);
        }
        Ok(())
    }

    fn read_key(&mut self, key: &str, value: &Value) -> Result<()> {
        match key {
            "id" => self.id = optional_text("id", value)?.filter(|id| !id.is_empty()),
            "name" => self.name = optional_text("name", value)?,
            // As with the other attributes, null means that nothing is said.
            "type" | "fields" | "schema" | "indexes" if value.is_null() => {}
            "type" => self.kind = Some(parse_kind(value)?),
            "fields" => self.fields = Some(parse_fields(key, value)?),
            "schema" => self.schema = Some(parse_fields(key, value)?),
            "indexes" => self.indexes = Some(parse_indexes(value)?),
            "options" => self.options = Some(object_or_text("options", value)?),
            WORKFLOWS => self.workflows = Some(parse_workflows(value)?),
            "created" | "updated" | "system" | "database" => {}
            _ => {
                let rule = RULES.iter().find(|(name, _)| *name == key);
                let field_rule = FIELD_RULES.iter().find(|(name, _)| *name == key);
                match (rule, field_rule) {
                    (Some((name, _)), _) => self.rules.push((name, optional_text(name, value)?)),
                    (_, Some((name, _))) => {
                        self.field_rules
                            .push((name, parse_field_rules(name, value)?));
                    }
                    _ => return Err(unknown(key)),
                }
            }
        }
        Ok(())
    }
}

impl Collection {
    /// The form that clients get; [`CollectionDraft::parse`] reads it back. Secrets are hidden.
    pub fn to_json(&self) -> Value {
        let mut json = self.stored_json();
        if let Value::Object(options) = &mut json["options"] {
            redaction::redact_triggers(options);
        }
        json
    }

    /// The form that is stored, with secrets.
    pub fn stored_json(&self) -> Value {
        let fields: Vec<Value> = self.fields.iter().map(field_to_json).collect();
        let indexes: Vec<Value> = self.indexes.iter().map(index_to_json).collect();
        let mut rules = self.rules.clone();
        let mut json = json!({
            "id": self.id,
            "name": self.name,
            "type": self.kind.name(),
            "database": self.database,
            "schema": fields.clone(),
            "fields": fields,
            "indexes": indexes,
            "options": self.options,
            "created": self.created,
            "updated": self.updated,
        });
        for (name, slot) in RULES {
            if name != MANAGE_RULE || self.kind == CollectionKind::Auth {
                json[name] = json!(slot(&mut rules).as_ref().map(Rule::text));
            }
        }
        for (name, slot) in FIELD_RULES {
            json[name] = json!(slot(&mut rules));
        }
        json[WORKFLOWS] = json!(rules.workflows);
        json
    }
}

/// The names of the workflows that a rule lets callers start, each once.
fn parse_workflows(value: &Value) -> Result<Vec<String>> {
    let names: Option<Vec<String>> = match value {
        Value::Null => Some(Vec::new()),
        value => serde_json::from_value(value.clone()).ok(),
    };
    let mut names =
        names.ok_or_else(|| invalid(WORKFLOWS, "Must be a list of names of workflows."))?;
    if names.len() > WORKFLOWS_MAX {
        return Err(invalid(
            WORKFLOWS,
            format!("At most {WORKFLOWS_MAX} workflows."),
        ));
    }
    if let Some(name) = names.iter().find(|name| !ids::is_valid_workflow(name)) {
        let message = format!(
            "{name:?} is not the name of a workflow, which has 1 to {WORKFLOW_BYTES_MAX} of A-Z, a-z, 0-9, ., _, : and -."
        );
        return Err(invalid(WORKFLOWS, message));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn parse_kind(value: &Value) -> Result<CollectionKind> {
    match value.as_str() {
        Some("base") => Ok(CollectionKind::Base),
        Some("auth") => Ok(CollectionKind::Auth),
        _ => Err(invalid("type", "Must be base or auth.")),
    }
}

/// Whether a collection may have this name, which is also its table's.
pub fn check_name(name: &str) -> Result<()> {
    // `_users` is the one name with an underscore that the public text gives to a collection.
    let lower = name.to_ascii_lowercase();
    let is_sqlites = TABLES_OF_SQLITE.contains(&lower.as_str())
        || lower.starts_with("sqlite")
        || lower.starts_with("pragma_");
    if name == "_users" || (is_word(name) && !is_sqlites) {
        return Ok(());
    }
    Err(invalid(
        "name",
        "Must be 1 to 64 of A-Z, a-z, 0-9 and _, begin with a letter, and be no name of SQLite's own.",
    ))
}

/// An object from group to field names, also as a JSON string; nothing in it means no field rules.
fn parse_field_rules(name: &str, value: &Value) -> Result<Option<FieldRules>> {
    let text = value.as_str().map(serde_json::from_str::<Value>);
    let value = match text {
        Some(Ok(value)) => value,
        _ => value.clone(),
    };
    let rules: Option<FieldRules> = serde_json::from_value(value).map_err(|_| {
        invalid(
            name,
            "Must be an object from group to a list of field names.",
        )
    })?;
    if rules.as_ref().is_some_and(|rules| rules.len() > GROUPS_MAX) {
        return Err(invalid(name, format!("At most {GROUPS_MAX} groups.")));
    }
    Ok(rules.filter(|rules| !rules.is_empty()))
}

fn unknown(key: &str) -> Error {
    Error::field(
        key,
        "validation_unknown",
        "A collection has no such attribute.",
    )
}
