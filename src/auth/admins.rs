//! The admins: accounts that pass every rule (AUTH-7, AUTH-8), in `_admins` of `default.db`.

use rusqlite::Connection;
use rusqlite::OptionalExtension as _;
use rusqlite::Row;
use rusqlite::params;

use super::password;
use crate::clock;
use crate::db::Database;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::ids;

/// An administrator.
pub struct Admin {
    pub id: String,
    pub email: String,
    pub(super) password_hash: String,
    pub(super) token_key: String,
    pub created: String,
    pub updated: String,
}

/// When an admin may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// Only while there is none.
    None,
}

/// Makes an admin.
pub fn create(default: &Database, email: &str, password: &str, when: When) -> Result<Admin> {
    check(email, password)?;
    // The answer to "is there one" must not wait for the slow hash, nor be believed before the
    // transaction: two first calls at once must make one admin.
    if when == When::None && default.read(any)? {
        return Err(exists());
    }
    let now = clock::now();
    let admin = Admin {
        id: ids::record_id()?,
        email: email.to_owned(),
        password_hash: password::hash(password)?,
        token_key: new_token_key()?,
        created: now.clone(),
        updated: now,
    };
    default.write(move |tx| {
        if when == When::None && any(tx)? {
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
        new_token_key()?,
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

/// Removes an admin, but never the last one.
pub fn delete(default: &Database, email: &str) -> Result<()> {
    let email = email.to_owned();
    default.write(move |tx| {
        if tx.execute("DELETE FROM _admins WHERE email = ?1", [&email])? == 0 {
            return Err(no_admin(&email));
        }
        if !any(tx)? {
            return Err(Error::conflict("The last admin cannot be deleted."));
        }
        Ok(())
    })
}

/// All admins by address.
pub fn list(default: &Database) -> Result<Vec<Admin>> {
    default.read(|connection| {
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
    default.read(|connection| {
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
    default.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT id, email, password_hash, token_key, created, updated
             FROM _admins
             WHERE id = ?1",
        )?;
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
    match result {
        Err(error) if error.to_string().contains("_admins.email") => Err(Error::field(
            "email",
            "validation_not_unique",
            "There is an admin with this address already.",
        )),
        other => Ok(other.map(drop)?),
    }
}

/// Whether there is any admin.
pub fn any(connection: &Connection) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM _admins)")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// Refuses what no admin can have.
pub fn check(email: &str, password: &str) -> Result<()> {
    check_email(email)?;
    check_password(password)
}

fn check_email(email: &str) -> Result<()> {
    let is_address = email.len() <= 254
        && !email
            .chars()
            .any(|char| char.is_whitespace() || char.is_control())
        && email
            .rsplit_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    if is_address {
        return Ok(());
    }
    Err(Error::field(
        "email",
        "validation_invalid_email",
        "Must be an e-mail address.",
    ))
}

fn check_password(password: &str) -> Result<()> {
    let chars = password.chars().count();
    if chars >= password::CHARS_MIN && password.len() <= password::BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "Must have at least {} characters and at most {} bytes.",
        password::CHARS_MIN,
        password::BYTES_MAX
    );
    Err(Error::field("password", "validation_length", message))
}

fn new_token_key() -> Result<String> {
    ids::random_bytes::<16>().map(|bytes| ids::hex(&bytes))
}

fn exists() -> Error {
    Error::new(
        Kind::Forbidden,
        "There is an admin already; sign in, or use vski admin create.",
    )
}

fn no_admin(email: &str) -> Error {
    Error::not_found(format!("There is no admin {email}."))
}
