//! Accounts: records of auth collections. Finds them by their credentials, loads them for rules,
//! and applies changes that are outside the rules.

use std::sync::Arc;

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use serde_json::{Map, Value};

use super::draft::Proof;
use super::provider_links::unlink_all;
use super::publish::publish;
use super::record_key::RecordKey;
use super::row::{find_permitted, holds, record_not_found, rowid_of};
use super::shape::Shape;
use super::version::next_updated;
use super::write::constraint_error;
use super::{Scope, value};
use crate::base::error::{Error, Result};
use crate::base::{clock, ids};
use crate::model::collections::{Collection, TOKEN_KEY};
use crate::model::rules::{Grant, Operation, Rule, User};
use crate::model::triggers::RecordAction;
use crate::store::db::quote;

/// Columns of an account that no response contains.
pub struct Secrets {
    pub id: String,
    pub email: String,
    pub password_hash: Option<String>,
    pub is_verified: bool,
    /// Random; replaced when the password or email changes, which revokes the tokens of the
    /// account.
    pub token_key: String,
}

impl Secrets {
    /// A placeholder for an unknown account, so that the work for both takes equally long.
    pub fn dummy() -> Secrets {
        Secrets {
            id: "00000000-0000-0000-0000-000000000000".to_owned(),
            email: String::new(),
            password_hash: None,
            is_verified: false,
            token_key: String::new(),
        }
    }
}

/// The account with this value in an identity field. The email is compared without case.
pub fn find_by(
    connection: &Connection,
    collection: &Collection,
    field: &str,
    identity: &str,
) -> Result<Option<Secrets>> {
    let condition = match field {
        field if collection.ignores_case(field) => {
            format!("{} = ?1 COLLATE NOCASE", quote(field))
        }
        "email" => "email = ?1 COLLATE NOCASE".to_owned(),
        field => format!("{} = ?1", quote(field)),
    };
    read_secrets(connection, collection, &condition, identity)
}

pub fn secrets(
    connection: &Connection,
    collection: &Collection,
    id: &str,
) -> Result<Option<Secrets>> {
    read_secrets(connection, collection, "id = ?1", id)
}

fn read_secrets(
    connection: &Connection,
    collection: &Collection,
    condition: &str,
    key: &str,
) -> Result<Option<Secrets>> {
    let sql = format!(
        "SELECT id, email, password, verified, {TOKEN_KEY} FROM {} WHERE {condition}",
        quote(&collection.name)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row([key], |row| {
        Ok(Secrets {
            id: row.get(0)?,
            email: row.get::<_, Option<String>>(1)?.unwrap_or_default(),
            password_hash: row.get(2)?,
            is_verified: row.get(3)?,
            token_key: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
        })
    });
    Ok(found.optional()?)
}

/// Loads an account as `@request.auth`: all fields except the password.
pub fn load_user(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
) -> Result<Option<User>> {
    let plan = scope.plan(collection, &Shape::default(), &RecordKey::Id, &Grant::all())?;
    let mut out = Vec::new();
    let is_there = plan.write(connection, &id, &mut out)?;
    scope.collections.check_current()?;
    if !is_there {
        return Ok(None);
    }
    let record: Map<String, Value> = serde_json::from_slice(&out)?;
    Ok(Some(User {
        id: id.to_owned(),
        collection_id: collection.id.clone(),
        collection_name: collection.name.clone(),
        record,
        field_names: Arc::clone(&collection.field_names),
    }))
}

/// True if the record exists and meets the rule.
pub fn meets(
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    rule: &Rule,
) -> Result<bool> {
    let Some(rowid) = rowid_of(connection, collection, id)? else {
        return Ok(false);
    };
    let meets = match rule.expression() {
        None => true,
        Some(condition) => holds(connection, scope, collection, rowid, condition, None)?,
    };
    scope.collections.check_current()?;
    Ok(meets)
}

/// The JSON of an account for its owner, whatever the view rule says.
pub fn show(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    shape: &Shape,
) -> Result<Option<Vec<u8>>> {
    let grant = collection
        .grant(Operation::View, &scope.identity)
        .unconditional();
    let plan = scope.plan(collection, shape, &RecordKey::Id, &grant)?;
    let mut out = Vec::with_capacity(1024);
    let is_there = plan.write(connection, &id, &mut out)?;
    scope.collections.check_current()?;
    Ok(is_there.then_some(out))
}

/// The secrets of an account that the caller may update; other accounts do not exist for it. The
/// rule is evaluated without `@request.body` here, and with it when the update is written.
pub fn secrets_for_update(
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<Secrets> {
    let grant = scope.admit(collection, Operation::Update)?;
    find_permitted(connection, scope, collection, id, &grant.access, None)?;
    scope.collections.check_current()?;
    secrets(connection, collection, id)?.ok_or_else(record_not_found)
}

/// Returns an error if the proof is missing or the password has changed since it was checked.
pub fn check_proof(
    tx: &Connection,
    collection: &Collection,
    id: &str,
    proof: &Proof,
) -> Result<()> {
    match proof {
        Proof::NotNeeded => Ok(()),
        Proof::Missing => Err(Error::field(
            "oldPassword",
            "validation_required",
            "Changing the email or password of an account requires its current password.",
        )),
        Proof::Provided { token_key } => match secrets(tx, collection, id)? {
            Some(now) if now.token_key == *token_key => Ok(()),
            _ => Err(Error::conflict(
                "The email or password of the account changed during the request; try again.",
            )),
        },
    }
}

/// A change of an account to which no rule applies.
pub enum AccountChange {
    /// The email is verified.
    Verified,
    /// A new password hash. A reset by mail also verifies the email.
    Password { hash: String, verifies: bool },
    /// A new, verified email.
    Email(String),
    /// The owner of the email, which was not verified, has signed in with a provider: the
    /// password, the tokens and the links of the account are of someone else.
    TakenOver,
}

/// Changes an account if its email and password are still those of `before`; false if they are not.
pub fn apply_change(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    before: &Secrets,
    change: &AccountChange,
) -> Result<bool> {
    scope.collections.check_current()?;
    let email = match before.email.as_str() {
        "" => Stored::Null,
        email => Stored::Text(email.to_owned()),
    };
    let hash = before
        .password_hash
        .clone()
        .map_or(Stored::Null, Stored::Text);
    let mut params = vec![
        Stored::Text(before.id.clone()),
        email,
        hash,
        Stored::Text(clock::now()),
    ];
    let set = match change {
        AccountChange::Verified => "verified = 1".to_owned(),
        AccountChange::Password { verifies: true, .. } => {
            format!("password = ?5, verified = 1, {TOKEN_KEY} = ?6")
        }
        AccountChange::Password { .. } => format!("password = ?5, {TOKEN_KEY} = ?6"),
        AccountChange::Email(_) => format!("email = ?5, verified = 1, {TOKEN_KEY} = ?6"),
        AccountChange::TakenOver => format!("password = NULL, verified = 1, {TOKEN_KEY} = ?5"),
    };
    if let AccountChange::Password { hash: value, .. } | AccountChange::Email(value) = change {
        params.push(Stored::Text(value.clone()));
        params.push(Stored::Text(ids::token_key()?));
    }
    if let AccountChange::TakenOver = change {
        params.push(Stored::Text(ids::token_key()?));
    }
    let sql = format!(
        "UPDATE {} SET updated = {}, {set} WHERE id = ?1 AND email IS ?2 AND password IS ?3",
        quote(&collection.name),
        next_updated("?4"),
    );
    let changed = tx
        .prepare_cached(&sql)?
        .execute(params_from_iter(params))
        .map_err(|error| constraint_error(collection, error))?;
    if changed == 1 && ends_links(before, change) {
        unlink_all(tx, &collection.id, &before.id)?;
    }
    if changed == 1
        && let Some(rowid) = rowid_of(tx, collection, &before.id)?
    {
        publish(tx, scope, collection, RecordAction::Update, rowid)?;
    }
    Ok(changed == 1)
}

/// True if the change is that of the owner of an email which was not verified before. Another
/// person may have made the account, and linked it to a provider.
fn ends_links(before: &Secrets, change: &AccountChange) -> bool {
    match change {
        AccountChange::TakenOver => true,
        AccountChange::Password { verifies, .. } => *verifies && !before.is_verified,
        AccountChange::Verified | AccountChange::Email(_) => false,
    }
}

/// Replaces the password hash `old` by another one of the same password. Tokens of the account end.
/// False if the hash has changed.
pub fn replace_hash(
    tx: &Connection,
    collection: &Collection,
    id: &str,
    old: &str,
    new: &str,
) -> Result<bool> {
    let table = quote(&collection.name);
    let sql = format!("UPDATE {table} SET password = ?3 WHERE id = ?1 AND password = ?2");
    Ok(tx.prepare_cached(&sql)?.execute([id, old, new])? == 1)
}

/// Checks a password against the field options of the collection.
pub fn check_password(collection: &Collection, password: &str) -> Result<()> {
    check_value(collection, "password", password)
}

/// Checks an email against the field options of the collection.
pub fn check_email(collection: &Collection, email: &str) -> Result<()> {
    check_value(collection, "email", email)
}

fn check_value(collection: &Collection, name: &str, text: &str) -> Result<()> {
    let Some(field) = collection.field(name) else {
        return Err(Error::internal(format!("an account without {name}")));
    };
    let raw = serde_json::value::to_raw_value(text)?;
    match value::parse(field, &raw) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::field(name, error.code, error.message)),
    }
}
