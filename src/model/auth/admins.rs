//! Admins: accounts that pass every rule, in `_admins` of `default.db`.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::{Value, json};

use super::password;
use crate::base::error::{Error, Kind, Result};
use crate::base::{clock, ids};
use crate::model::collections::{SUPERUSERS, SUPERUSERS_ID};
use crate::net::mail;
use crate::store::db::Database;

const BY_ID: &str = "SELECT id, email, password_hash, token_key, created, updated
                     FROM _admins
                     WHERE id = ?1";

pub struct Admin {
    pub id: String,
    pub email: String,
    pub(super) password_hash: String,
    pub(super) token_key: String,
    pub created: String,
    pub updated: String,
}

/// When [`create`] creates an admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateWhen {
    Always,
    /// Only if there is no admin yet.
    NoAdmin,
}

pub type HashFn<'a> = &'a dyn Fn(&str) -> Result<String>;

/// Creates an admin.
pub fn create(
    default: &Database,
    email: &str,
    password: &str,
    when: CreateWhen,
    hash: HashFn<'_>,
) -> Result<Admin> {
    check(email, password)?;
    // Asked before the slow hash, to answer soon, and again inside the transaction: of two
    // concurrent first calls one succeeds.
    if when == CreateWhen::NoAdmin && default.look_up(any)? {
        return Err(exists());
    }
    let now = clock::now();
    let admin = Admin {
        id: ids::record_id()?,
        email: email.to_owned(),
        password_hash: hash(password)?,
        token_key: ids::token_key()?,
        created: now.clone(),
        updated: now,
    };
    default.write(move |tx| {
        if when == CreateWhen::NoAdmin && any(tx)? {
            return Err(exists());
        }
        insert(tx, &admin)?;
        Ok(admin)
    })
}

/// Changes the password of an admin and ends all tokens of that admin.
pub fn set_password(default: &Database, email: &str, password: &str) -> Result<()> {
    check_password(password)?;
    let (email, hash, key) = (
        email.to_owned(),
        password::hash(password)?,
        ids::token_key()?,
    );
    default.write(move |tx| {
        let changed = tx.execute(
            "UPDATE _admins
             SET password_hash = ?2, token_key = ?3, updated = ?4
             WHERE email = ?1",
            params![email, hash, key, clock::now()],
        )?;
        if changed == 0 {
            Err(no_admin(&email))
        } else {
            Ok(())
        }
    })
}

/// Replaces the password hash of an admin and ends all tokens of that admin; false if the password
/// has changed since the admin was read.
pub(super) fn replace_password(default: &Database, admin: &Admin, hash: String) -> Result<bool> {
    let (id, old_key, key) = (admin.id.clone(), admin.token_key.clone(), ids::token_key()?);
    default.write(move |tx| {
        let changed = tx.execute(
            "UPDATE _admins
             SET password_hash = ?3, token_key = ?4, updated = ?5
             WHERE id = ?1 AND token_key = ?2",
            params![id, old_key, hash, key, clock::now()],
        )?;
        Ok(changed == 1)
    })
}

/// Replaces the password hash `old` by another one of the same password; false if it has changed.
pub(super) fn replace_hash(default: &Database, id: &str, old: &str, new: &str) -> Result<bool> {
    let (id, old, new) = (id.to_owned(), old.to_owned(), new.to_owned());
    default.write(move |tx| {
        let sql = "UPDATE _admins SET password_hash = ?3 WHERE id = ?1 AND password_hash = ?2";
        Ok(tx.execute(sql, [id, old, new])? == 1)
    })
}

/// Inserts an admin of another program; false if there is one with this address or id.
pub fn import(
    tx: &Connection,
    id: String,
    email: &str,
    password_hash: String,
    created: String,
    updated: String,
) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _admins WHERE email = ?1 OR id = ?2)";
    let mut statement = tx.prepare_cached(sql)?;
    if statement.query_row([email, &id], |row| row.get(0))? {
        return Ok(false);
    }
    let admin = Admin {
        id,
        email: email.to_owned(),
        password_hash,
        token_key: ids::token_key()?,
        created,
        updated,
    };
    insert(tx, &admin)?;
    Ok(true)
}

/// Changes the address or the password of the admin with this id, or both.
pub fn update(
    default: &Database,
    id: &str,
    email: Option<&str>,
    password: Option<&str>,
    hash: HashFn<'_>,
) -> Result<Admin> {
    if let Some(email) = email {
        check_email(email)?;
    }
    let (mut new_hash, mut new_key) = (None, None);
    if let Some(password) = password {
        check_password(password)?;
        (new_hash, new_key) = (Some(hash(password)?), Some(ids::token_key()?));
    }
    let (id, email) = (id.to_owned(), email.map(str::to_owned));
    default.write(move |tx| {
        tx.execute(
            "UPDATE _admins
             SET email = coalesce(?2, email), password_hash = coalesce(?3, password_hash),
                 token_key = coalesce(?4, token_key), updated = ?5
             WHERE id = ?1",
            params![id, email, new_hash, new_key, clock::now()],
        )
        .map_err(as_duplicate)?;
        let mut statement = tx.prepare_cached(BY_ID)?;
        let found = statement.query_row([&id], from_row).optional()?;
        found.ok_or_else(|| no_admin(&id))
    })
}

/// Deletes an admin, by id or address, but never the last one.
pub fn delete(default: &Database, admin: &str) -> Result<()> {
    let admin = admin.to_owned();
    default.write(move |tx| {
        let sql = "DELETE FROM _admins WHERE email = ?1 OR id = ?1";
        if tx.execute(sql, [&admin])? == 0 {
            return Err(no_admin(&admin));
        }
        if !any(tx)? {
            return Err(Error::conflict("The last admin cannot be deleted."));
        }
        Ok(())
    })
}

/// All admins by address.
pub fn list(default: &Database) -> Result<Vec<Admin>> {
    default.look_up(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT id, email, password_hash, token_key, created, updated
             FROM _admins
             ORDER BY email",
        )?;
        let rows = statement.query_map([], from_row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    })
}

/// The admin with this address.
pub fn find(default: &Database, email: &str) -> Result<Option<Admin>> {
    default.look_up(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT id, email, password_hash, token_key, created, updated
             FROM _admins
             WHERE email = ?1",
        )?;
        Ok(statement.query_row([email], from_row).optional()?)
    })
}

/// The admin with this id.
pub fn by_id(default: &Database, id: &str) -> Result<Option<Admin>> {
    default.look_up(|connection| {
        let mut statement = connection.prepare_cached(BY_ID)?;
        Ok(statement.query_row([id], from_row).optional()?)
    })
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Admin> {
    Ok(Admin {
        id: row.get(0)?,
        email: row.get(1)?,
        password_hash: row.get(2)?,
        token_key: row.get(3)?,
        created: row.get(4)?,
        updated: row.get(5)?,
    })
}

fn insert(tx: &Connection, admin: &Admin) -> Result<()> {
    let result = tx.execute(
        "INSERT INTO _admins (id, email, password_hash, token_key, created, updated)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            admin.id,
            admin.email,
            admin.password_hash,
            admin.token_key,
            admin.created,
            admin.updated
        ],
    );
    result.map(drop).map_err(as_duplicate)
}

fn as_duplicate(error: rusqlite::Error) -> Error {
    match error.to_string().contains("_admins.email") {
        true => Error::field(
            "email",
            "validation_not_unique",
            "An admin with this e-mail address already exists.",
        ),
        false => error.into(),
    }
}

/// An admin in the form of a record.
pub fn to_record(admin: &Admin) -> Value {
    json!({
        "collectionId": SUPERUSERS_ID,
        "collectionName": SUPERUSERS,
        "id": admin.id,
        "email": admin.email,
        "emailVisibility": false,
        "verified": true,
        "created": admin.created,
        "updated": admin.updated,
    })
}

/// True if there is an admin.
pub fn any(connection: &Connection) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM _admins)")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Refuses an invalid address or password.
pub fn check(email: &str, password: &str) -> Result<()> {
    check_email(email)?;
    check_password(password)
}

fn check_email(email: &str) -> Result<()> {
    if mail::is_address(email) {
        return Ok(());
    }
    Err(Error::field(
        "email",
        "validation_is_email",
        "Must be an e-mail address.",
    ))
}

pub(super) fn check_password(password: &str) -> Result<()> {
    let chars = password.chars().count();
    if chars >= password::CHARS_MIN && password.len() <= password::BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "Must have at least {} characters and at most {} bytes.",
        password::CHARS_MIN,
        password::BYTES_MAX
    );
    let code = match chars < password::CHARS_MIN {
        true => "validation_min_text_constraint",
        false => "validation_max_text_constraint",
    };
    Err(Error::field("password", code, message))
}

fn exists() -> Error {
    Error::new(
        Kind::Forbidden,
        "An admin already exists; sign in, or use vski admin create.",
    )
}

fn no_admin(email: &str) -> Error {
    Error::not_found(format!("There is no admin {email}."))
}
