//! The webhooks that belong to no collection: the table `_webhooks` of each database.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::{Map, Value, json};

use crate::base::error::{Error, Kind, Result};
use crate::base::{clock, ids};
use crate::model::collections;
use crate::model::triggers::outbox::{CallSource, OutboxEntry, TargetSpec};
use crate::model::triggers::{
    RecordAction, Target, invalid_value, outbox, redaction, refuse_unknown,
};

/// Limit on webhooks per database.
const COUNT_MAX: i64 = 100;
const NAME_CHARS_MAX: usize = 100;
const COLUMNS: &str = "id, name, active, collection, actions, spec, created, updated";
/// Attributes of a target that calls a URL, and of one that starts a workflow. Setting one kind
/// removes the other.
const URL_ATTRIBUTES: [&str; 7] = [
    "url",
    "method",
    "headers",
    "body",
    "jwtEnabled",
    "secret",
    "contentType",
];
const WORKFLOW_ATTRIBUTES: [&str; 2] = ["workflow", "input"];
/// Attributes that responses show; a client may send them back with a change.
const READ_ONLY: [&str; 4] = ["id", "hasSecret", "created", "updated"];
const UNREADABLE: &str = "The webhook was written by another version of vski and cannot be read; delete it or update vski.";

#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    pub id: String,
    pub draft: WebhookDraft,
    created: String,
    updated: String,
}

/// The attributes of a webhook that clients set.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookDraft {
    pub name: String,
    pub is_active: bool,
    /// The collection whose changes trigger it, or `*` for all. `None` if it is only called by
    /// hand.
    pub collection: Option<String>,
    pub actions: Vec<RecordAction>,
    pub target: Target,
}

impl WebhookDraft {
    /// Parses all attributes.
    pub fn parse(mut object: Map<String, Value>) -> Result<WebhookDraft> {
        redaction::restore("", &mut object, None)?;
        let draft = WebhookDraft {
            name: parse_name(&mut object)?,
            is_active: match object.remove("active") {
                None | Some(Value::Null) => true,
                Some(Value::Bool(flag)) => flag,
                Some(_) => return Err(invalid_value("active", "Must be true or false.")),
            },
            collection: parse_collection(&mut object)?,
            actions: match object.remove("actions") {
                None | Some(Value::Null) => RecordAction::ALL.to_vec(),
                Some(value) => RecordAction::parse_some("actions", &value)?,
            },
            target: Target::extract("", &mut object)?,
        };
        refuse_unknown("", &object)?;
        Ok(draft)
    }

    fn to_json(&self) -> Map<String, Value> {
        let actions = self.actions.iter().map(|action| action.name());
        let mut object = self.target.to_json();
        object.insert("name".to_owned(), json!(self.name));
        object.insert("active".to_owned(), json!(self.is_active));
        object.insert("collection".to_owned(), json!(self.collection));
        object.insert("actions".to_owned(), actions.collect());
        object
    }

    /// A copy with some attributes changed.
    fn merged(&self, mut change: Map<String, Value>) -> Result<WebhookDraft> {
        let mut object = self.to_json();
        for name in READ_ONLY {
            change.remove(name);
        }
        redaction::restore("", &mut change, Some(&object))?;
        let sets = |names: &str| change.get(names).is_some_and(|it| !it.is_null());
        if sets("url") && !sets("workflow") {
            object.retain(|name, _| !WORKFLOW_ATTRIBUTES.contains(&name.as_str()));
        }
        if sets("workflow") && !sets("url") {
            object.retain(|name, _| !URL_ATTRIBUTES.contains(&name.as_str()));
        }
        object.extend(change);
        WebhookDraft::parse(object)
    }

    /// The form of actions in the table.
    fn actions_text(&self) -> String {
        let names: String = self.actions.iter().map(|it| format!("{it} ")).collect();
        format!(" {names}")
    }
}

fn parse_name(object: &mut Map<String, Value>) -> Result<String> {
    match object.remove("name") {
        Some(Value::String(name))
            if (1..=NAME_CHARS_MAX).contains(&name.chars().count())
                && !name.chars().any(char::is_control) =>
        {
            Ok(name)
        }
        _ => Err(invalid_value(
            "name",
            format!("Must be 1 to {NAME_CHARS_MAX} characters, none of them a control character."),
        )),
    }
}

fn parse_collection(object: &mut Map<String, Value>) -> Result<Option<String>> {
    match object.remove("collection") {
        None | Some(Value::Null) => Ok(None),
        // The collection may be created later.
        Some(Value::String(name)) if name == "*" || collections::check_name(&name).is_ok() => {
            Ok(Some(name))
        }
        Some(_) => Err(invalid_value(
            "collection",
            "Must be the name of a collection, * for all of them, or null.",
        )),
    }
}

impl Webhook {
    /// The form for clients, without secrets.
    pub fn to_json(&self) -> Value {
        let mut object = self.draft.to_json();
        redaction::redact(&mut object);
        if let Target::Http(call) = &self.draft.target {
            object.insert("hasSecret".to_owned(), json!(call.secret.is_some()));
        }
        object.insert("id".to_owned(), json!(self.id));
        object.insert("created".to_owned(), json!(self.created));
        object.insert("updated".to_owned(), json!(self.updated));
        Value::Object(object)
    }
}

/// All webhooks in the form for clients, by name.
pub fn list(db: &Connection) -> Result<Vec<Value>> {
    let mut statement =
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM _webhooks ORDER BY name"))?;
    let rows = statement.query_map([], row_to_json)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Shows an unreadable webhook in part, so that an administrator can find and delete it.
fn row_to_json(row: &Row<'_>) -> rusqlite::Result<Value> {
    let error = match read(row)? {
        Ok(webhook) => return Ok(webhook.to_json()),
        Err(error) => error,
    };
    Ok(json!({
        "id": row.get::<_, String>(0)?,
        "name": row.get::<_, String>(1)?,
        "active": row.get::<_, bool>(2)?,
        "collection": row.get::<_, Option<String>>(3)?,
        "actions": row.get::<_, String>(4)?.split_whitespace().collect::<Vec<_>>(),
        "created": row.get::<_, String>(6)?,
        "updated": row.get::<_, String>(7)?,
        "error": error.message(),
    }))
}

pub fn get(db: &Connection, id: &str) -> Result<Webhook> {
    let found = db
        .prepare_cached(&format!("SELECT {COLUMNS} FROM _webhooks WHERE id = ?1"))?
        .query_row([id], read)
        .optional()?;
    found.ok_or_else(|| Error::not_found("There is no such webhook."))?
}

fn read(row: &Row<'_>) -> rusqlite::Result<Result<Webhook>> {
    let (actions, spec): (String, String) = (row.get(4)?, row.get(5)?);
    let is_named = |action: &RecordAction| actions.contains(&format!(" {action} "));
    let (id, name, is_active, collection) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let (created, updated) = (row.get(6)?, row.get(7)?);
    // The stored row is invalid, not the request.
    let target = Target::restore(&spec).map_err(|_| Error::conflict(UNREADABLE));
    Ok(target.map(|target| Webhook {
        id,
        draft: WebhookDraft {
            name,
            is_active,
            collection,
            actions: RecordAction::ALL.into_iter().filter(is_named).collect(),
            target,
        },
        created,
        updated,
    }))
}

pub fn create(tx: &Connection, draft: WebhookDraft) -> Result<Webhook> {
    let count: i64 = tx.query_row("SELECT count(*) FROM _webhooks", [], |row| row.get(0))?;
    if count >= COUNT_MAX {
        return Err(Error::conflict(format!(
            "The database has {COUNT_MAX} webhooks, which is the limit; delete some first."
        )));
    }
    let now = clock::now();
    let webhook = Webhook {
        id: ids::record_id()?,
        draft,
        created: now.clone(),
        updated: now,
    };
    write(
        tx,
        &webhook,
        "INSERT INTO _webhooks (id, name, active, collection, actions, spec, created, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    Ok(webhook)
}

/// Changes the given attributes.
pub fn update(tx: &Connection, id: &str, change: Map<String, Value>) -> Result<Webhook> {
    let before = get(tx, id)?;
    let webhook = Webhook {
        draft: before.draft.merged(change)?,
        updated: clock::now(),
        ..before
    };
    write(
        tx,
        &webhook,
        "UPDATE _webhooks SET name = ?2, active = ?3, collection = ?4, actions = ?5, spec = ?6,
             created = ?7, updated = ?8 WHERE id = ?1",
    )?;
    Ok(webhook)
}

fn write(tx: &Connection, webhook: &Webhook, sql: &str) -> Result<()> {
    let draft = &webhook.draft;
    let is_taken: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM _webhooks WHERE name = ?1 AND id <> ?2)",
        params![draft.name, webhook.id],
        |row| row.get(0),
    )?;
    if is_taken {
        let message = format!("A webhook named {:?} already exists.", draft.name);
        return Err(Error::new(Kind::Conflict, message));
    }
    let spec = Value::Object(draft.target.to_json()).to_string();
    tx.prepare_cached(sql)?.execute(params![
        webhook.id,
        draft.name,
        draft.is_active,
        draft.collection,
        draft.actions_text(),
        spec,
        webhook.created,
        webhook.updated,
    ])?;
    Ok(())
}

/// Deletes a webhook. Its pending calls are still made.
pub fn delete(tx: &Connection, id: &str) -> Result<()> {
    match tx.execute("DELETE FROM _webhooks WHERE id = ?1", [id])? {
        0 => Err(Error::not_found("There is no such webhook.")),
        _ => Ok(()),
    }
}

/// Queues a call by hand, even if the webhook is not active. Returns its id in the log.
pub fn enqueue(tx: &Connection, id: &str, payload: &str) -> Result<i64> {
    let webhook = get(tx, id)?;
    let entry = OutboxEntry {
        source: CallSource::Webhook(&webhook.draft.name),
        spec: &TargetSpec::of(&webhook.draft.target),
        payload,
        change: None,
        dedupe: None,
        created_ms: clock::now_ms(),
    };
    let added = outbox::add(tx, &entry)?;
    added.ok_or_else(|| Error::internal("the call is already queued"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<WebhookDraft> {
        WebhookDraft::parse(value.as_object().unwrap().clone())
    }

    #[test]
    fn defaults_hold_and_changes_keep_the_rest() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let draft = parse(&json!({"name": "n", "url": "http://a", "secret": secret})).unwrap();
        assert!(draft.is_active && draft.collection.is_none());
        assert_eq!(draft.actions_text(), " create update delete ");
        let change = |value: Value| draft.merged(value.as_object().unwrap().clone());
        let changed = change(json!({"collection": "*", "actions": "delete"})).unwrap();
        assert_eq!(changed.target, draft.target);
        assert_eq!(changed.actions_text(), " delete ");
        let Target::Http(call) = change(json!({"secret": null})).unwrap().target else {
            panic!("a call");
        };
        assert_eq!(call.secret, None);
        let changed = change(json!({"workflow": "w"})).unwrap();
        assert_eq!(changed.target.label(), "workflow:w");
        let changed = change(json!({"url": null, "workflow": "w"})).unwrap();
        assert_eq!(changed.target.label(), "workflow:w");
        let back = changed.merged(json!({"url": "http://b"}).as_object().unwrap().clone());
        assert_eq!(back.unwrap().target.label(), "http://b");
        assert!(change(json!({"url": "http://b", "workflow": "w"})).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = json!({"name": "n", "url": "http://a"});
        for (name, value) in [
            ("name", json!("")),
            ("name", json!(null)),
            ("name", json!("a\nb")),
            ("active", json!(1)),
            ("collection", json!("a b")),
            ("actions", json!(["make"])),
            ("url", json!("file:///etc/passwd")),
            ("retryLimit", json!(0)),
            ("id", json!("x")),
            ("hasSecret", json!(true)),
        ] {
            let mut draft = good.clone();
            draft[name] = value;
            let error = parse(&draft).unwrap_err();
            assert!(error.field_errors().contains_key(name), "{draft}: {error}");
        }
    }
}
