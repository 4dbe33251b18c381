//! The JSON form of a collection.
//!
//! Accepts `fields` or `schema`, field options at the top level or under `options`, `options` as an
//! object or as a JSON string, and the values of a `select` as an array or as `{values}`. Writes
//! `fields` and, equal to it, `schema`, with options at the top level. Unknown attributes are
//! refused by name. All errors of a request are collected in [`Problems`].

use serde_json::{Map, Value, json};

use super::auth_settings::AuthSettings;
use super::collection::SUPERUSERS;
use super::field_json::{FieldList, parse_fields};
use super::index::{index_to_sql, parse_indexes};
use super::parse::{Problems, invalid, is_word, object_or_string, optional_string};
use super::{Collection, CollectionKind, Index, Rules};
use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::base::ids::WORKFLOW_BYTES_MAX;
use crate::model::rules::{FieldRules, Rule};
use crate::model::triggers::redaction;

/// The attribute that goes with `executeRule`.
const WORKFLOWS: &str = "executeWorkflows";
const WORKFLOWS_MAX: usize = 100;
/// The statement of a view.
const VIEW_QUERY: &str = "viewQuery";
/// Largest number of groups in field rules.
const GROUPS_MAX: usize = 100;
/// Table names that SQLite reserves.
const TABLES_OF_SQLITE: [&str; 4] = ["json_each", "json_tree", "dbstat", "bytecode"];

/// The rules that only auth collections have.
pub const MANAGE_RULE: &str = "manageRule";
pub const AUTH_RULE: &str = "authRule";

/// The rule attributes, with a function to their place in [`Rules`].
type RuleSlot = fn(&mut Rules) -> &mut Option<Rule>;
pub const RULES: [(&str, RuleSlot); 8] = [
    ("listRule", |rules| &mut rules.list),
    ("viewRule", |rules| &mut rules.view),
    ("createRule", |rules| &mut rules.create),
    ("updateRule", |rules| &mut rules.update),
    ("deleteRule", |rules| &mut rules.delete),
    ("executeRule", |rules| &mut rules.execute),
    (MANAGE_RULE, |rules| &mut rules.manage),
    (AUTH_RULE, |rules| &mut rules.auth),
];

/// The attributes of field rules, likewise.
type FieldRuleSlot = fn(&mut Rules) -> &mut Option<FieldRules>;
pub const FIELD_RULES: [(&str, FieldRuleSlot); 2] = [
    ("fieldRules", |rules| &mut rules.fields),
    ("fieldEditRules", |rules| &mut rules.field_edits),
];

/// The attributes of a request, not yet compared with a stored definition.
#[derive(Debug, Default)]
pub struct CollectionDraft {
    pub id: Option<String>,
    pub name: Option<String>,
    pub kind: Option<CollectionKind>,
    pub fields: Option<FieldList>,
    /// The fields under their other name; see [`CollectionDraft::resolve_fields`].
    pub schema: Option<FieldList>,
    pub indexes: Option<Vec<Index>>,
    /// The rules that the request mentions.
    pub rules: Vec<(&'static str, Option<String>)>,
    /// The field rules that the request mentions.
    pub field_rules: Vec<(&'static str, Option<FieldRules>)>,
    pub workflows: Option<Vec<String>>,
    pub options: Option<Map<String, Value>>,
    /// The statement of a view.
    pub view_query: Option<String>,
    /// The settings of an auth collection that the request mentions.
    pub auth: Map<String, Value>,
    /// A stored definition of the present form.
    pub is_current: bool,
    /// A pending definition that deletes the collection.
    pub is_deleted: bool,
}

/// The form of stored definitions. Before it, a number could be unset, records always showed
/// `created` and `updated`, and an account needed an address.
const FORMAT: u64 = 2;
const FORMAT_KEY: &str = "format";
const DELETED_KEY: &str = "deleted";

impl CollectionDraft {
    /// Moves the rules into `rules`. `parse` gets the attribute and the text of each.
    pub fn apply_rules(
        &mut self,
        rules: &mut Rules,
        mut parse: impl FnMut(&str, String) -> Result<Rule>,
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

    /// Reads a definition; `problems` gets every error in it.
    pub fn read(body: &Value, problems: &mut Problems) -> Result<CollectionDraft> {
        let Some(body) = body.as_object() else {
            return Err(Error::invalid("A collection must be a JSON object."));
        };
        let mut draft = CollectionDraft::default();
        // The fields of a view follow from its statement, whatever a client sends.
        let is_view = body.get("type").is_some_and(|kind| kind == "view");
        let is_read = |key: &str| !(is_view && matches!(key, "fields" | "schema"));
        for (key, value) in body.iter().filter(|(key, _)| is_read(key)) {
            let read = draft.read_key(key, value, problems);
            problems.take(key, read)?;
        }
        Ok(draft)
    }

    /// Reads a definition without errors.
    pub fn parse(body: &Value) -> Result<CollectionDraft> {
        let mut problems = Problems::default();
        let draft = CollectionDraft::read(body, &mut problems)?;
        problems.check("The definition is not valid.")?;
        Ok(draft)
    }

    /// Responses hold the fields twice, so clients send them twice after changing one copy. The
    /// copy that differs from the stored fields counts.
    pub fn resolve_fields(&mut self, stored: &FieldList, problems: &mut Problems) {
        let Some(schema) = self.schema.take() else {
            return;
        };
        let stored = stored.to_json();
        let is_schema = match &self.fields {
            None => true,
            Some(fields) if fields.to_json() == stored => true,
            Some(fields) if schema.to_json() == stored || schema.to_json() == fields.to_json() => {
                false
            }
            Some(_) => {
                let message = "fields and schema differ; send one of them.";
                problems.add("schema", "validation_invalid_definition", message);
                false
            }
        };
        if is_schema {
            self.fields = Some(schema);
        }
    }

    fn read_key(&mut self, key: &str, value: &Value, problems: &mut Problems) -> Result<()> {
        match key {
            "id" => self.id = optional_string("id", value)?.filter(|id| !id.is_empty()),
            "name" => self.name = optional_string("name", value)?,
            // Null means unchanged, as for other attributes.
            "type" | "fields" | "schema" | "indexes" if value.is_null() => {}
            "type" => self.kind = Some(parse_kind(value)?),
            "fields" => self.fields = Some(parse_fields(key, value, problems)?),
            "schema" => self.schema = Some(parse_fields(key, value, problems)?),
            "indexes" => self.indexes = Some(parse_indexes(value, problems)),
            "options" => self.options = Some(object_or_string("options", value)?),
            VIEW_QUERY => self.view_query = optional_string(VIEW_QUERY, value)?,
            WORKFLOWS => self.workflows = Some(parse_workflows(value)?),
            "created" | "updated" | "system" | "database" | "warnings" => {}
            FORMAT_KEY => self.is_current = value == FORMAT,
            DELETED_KEY => self.is_deleted = value == true,
            _ if AuthSettings::has(key) => {
                self.auth.insert(key.to_owned(), value.clone());
            }
            _ => {
                let rule = RULES.iter().find(|(name, _)| *name == key);
                let field_rule = FIELD_RULES.iter().find(|(name, _)| *name == key);
                match (rule, field_rule) {
                    (Some((name, _)), _) => self.rules.push((name, optional_string(name, value)?)),
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
    /// The form for clients, which [`CollectionDraft::parse`] reads back. Secrets are redacted.
    pub fn to_json(&self) -> Value {
        let mut json = self.form();
        json["schema"] = json["fields"].clone();
        json["system"] = json!(self.name == SUPERUSERS);
        if let Value::Object(options) = &mut json["options"] {
            redaction::redact_triggers(options);
        }
        if let (CollectionKind::Auth, Value::Object(json)) = (self.kind, &mut json) {
            json.extend(self.auth.shown());
            let warnings = self.auth.warnings();
            if !warnings.is_empty() {
                json.insert("warnings".to_owned(), json!(warnings));
            }
        }
        json
    }

    /// The form that is stored, with secrets.
    pub fn stored_json(&self) -> Value {
        let mut json = self.form();
        json[FORMAT_KEY] = json!(FORMAT);
        if self.is_deleted {
            json[DELETED_KEY] = json!(true);
        }
        if let (CollectionKind::Auth, Value::Object(json)) = (self.kind, &mut json) {
            json.extend(self.auth.stored().clone());
        }
        json
    }

    fn form(&self) -> Value {
        let indexes = self.indexes.iter();
        let indexes: Vec<String> = indexes.map(|it| index_to_sql(it, &self.name)).collect();
        let mut rules = self.rules.clone();
        let mut json = json!({
            "id": self.id,
            "name": self.name,
            "type": self.kind.name(),
            "database": self.database,
            "fields": self.field_list().to_json(),
            "indexes": indexes,
            "options": self.options,
            "created": self.created,
            "updated": self.updated,
        });
        for (name, slot) in RULES {
            let is_for_accounts = [MANAGE_RULE, AUTH_RULE].contains(&name);
            if !is_for_accounts || self.kind == CollectionKind::Auth {
                json[name] = json!(slot(&mut rules).as_ref().map(Rule::text));
            }
        }
        for (name, slot) in FIELD_RULES {
            json[name] = json!(slot(&mut rules));
        }
        json[WORKFLOWS] = json!(rules.workflows);
        if let Some(view) = &self.view {
            json[VIEW_QUERY] = json!(view.query);
        }
        json
    }
}

/// Reads a list of workflow names, each once.
fn parse_workflows(value: &Value) -> Result<Vec<String>> {
    let names: Option<Vec<String>> = match value {
        Value::Null => Some(Vec::new()),
        value => serde_json::from_value(value.clone()).ok(),
    };
    let mut names = names.ok_or_else(|| invalid(WORKFLOWS, "Must be a list of workflow names."))?;
    if names.len() > WORKFLOWS_MAX {
        return Err(invalid(
            WORKFLOWS,
            format!("At most {WORKFLOWS_MAX} workflows."),
        ));
    }
    if let Some(name) = names.iter().find(|name| !ids::is_valid_workflow(name)) {
        let message = format!(
            "{name:?} is not a workflow name: it must have 1 to {WORKFLOW_BYTES_MAX} characters of A-Z, a-z, 0-9, ., _, : and -."
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
        Some("view") => Ok(CollectionKind::View),
        _ => Err(Error::field(
            "type",
            "validation_in_invalid",
            "Must be base, auth or view.",
        )),
    }
}

/// Refuses an invalid name of a collection, which is also that of its table.
pub fn check_name(name: &str) -> Result<()> {
    // `_users` is the only name with a leading underscore that clients use.
    let lower = name.to_ascii_lowercase();
    let is_sqlites = TABLES_OF_SQLITE.contains(&lower.as_str())
        || lower.starts_with("sqlite")
        || lower.starts_with("pragma_");
    if name == "_users" || (is_word(name) && !is_sqlites && !name.starts_with('_')) {
        return Ok(());
    }
    Err(Error::field(
        "name",
        "validation_match_invalid",
        "Must have 1 to 100 characters of A-Z, a-z, 0-9 and _, not begin with _, and not be reserved by SQLite.",
    ))
}

/// Reads an object from group to field names, also as a JSON string. An empty one means no field
/// rules.
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
