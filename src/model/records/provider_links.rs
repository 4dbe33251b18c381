//! The accounts of providers with which accounts of this database sign in: `_external_auths`.
//!
//! A link is deleted with its account, so that it can never be that of another account of the same
//! id. One account of a provider is linked to at most one account of a collection.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::row::rowid_of;
use crate::base::error::{Error, Result};
use crate::base::{clock, ids};
use crate::model::collections::Collection;

/// Most links of one account.
const LINKS_MAX: i64 = 100;

/// A link of an account.
#[derive(Clone, Debug)]
pub struct ProviderLink {
    pub id: String,
    pub record: String,
    pub provider: String,
    pub provider_id: String,
    pub created: String,
    pub updated: String,
}

/// The id of the account that is linked to this account of a provider.
pub fn linked_account(
    connection: &Connection,
    collection: &Collection,
    provider: &str,
    provider_id: &str,
) -> Result<Option<String>> {
    let sql = "SELECT record FROM _external_auths
               WHERE collection = ?1 AND provider = ?2 AND provider_id = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let parts = params![collection.id, provider, provider_id];
    let found: Option<String> = statement.query_row(parts, |row| row.get(0)).optional()?;
    let Some(record) = found else {
        return Ok(None);
    };
    // Another program may have deleted the account.
    let is_there = rowid_of(connection, collection, &record)?.is_some();
    Ok(is_there.then_some(record))
}

/// Links an account of a provider to an account, in place of a link to one that does not exist.
pub fn link(
    tx: &Connection,
    collection: &Collection,
    record: &str,
    provider: &str,
    provider_id: &str,
) -> Result<()> {
    let sql = "SELECT count(*) FROM _external_auths WHERE collection = ?1 AND record = ?2";
    let count: i64 = tx
        .prepare_cached(sql)?
        .query_row([&collection.id, record], |row| row.get(0))?;
    if count >= LINKS_MAX {
        return Err(Error::conflict(format!(
            "An account has at most {LINKS_MAX} links to providers."
        )));
    }
    let (id, now) = (ids::account_id()?, clock::now());
    let sql = "INSERT INTO _external_auths
                   (id, collection, record, provider, provider_id, created, updated)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
               ON CONFLICT (collection, provider, provider_id)
               DO UPDATE SET record = ?3, updated = ?6";
    tx.prepare_cached(sql)?.execute(params![
        id,
        collection.id,
        record,
        provider,
        provider_id,
        now
    ])?;
    Ok(())
}

/// The links of an account, oldest first.
pub fn links_of(
    connection: &Connection,
    collection: &Collection,
    record: &str,
) -> Result<Vec<ProviderLink>> {
    let sql = "SELECT id, record, provider, provider_id, created, updated FROM _external_auths
               WHERE collection = ?1 AND record = ?2 ORDER BY created, id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([&collection.id, record], |row| {
        Ok(ProviderLink {
            id: row.get(0)?,
            record: row.get(1)?,
            provider: row.get(2)?,
            provider_id: row.get(3)?,
            created: row.get(4)?,
            updated: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Deletes one link of an account; false if there is none of this id.
pub fn unlink(tx: &Connection, collection: &Collection, record: &str, id: &str) -> Result<bool> {
    let sql = "DELETE FROM _external_auths WHERE collection = ?1 AND record = ?2 AND id = ?3";
    Ok(tx
        .prepare_cached(sql)?
        .execute([&collection.id, record, id])?
        == 1)
}

/// Deletes all links of an account.
pub fn unlink_all(tx: &Connection, collection: &str, record: &str) -> Result<()> {
    let sql = "DELETE FROM _external_auths WHERE collection = ?1 AND record = ?2";
    tx.prepare_cached(sql)?.execute([collection, record])?;
    Ok(())
}

/// The collection and the account of a link.
pub fn owner(connection: &Connection, id: &str) -> Result<Option<(String, String)>> {
    let sql = "SELECT collection, record FROM _external_auths WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(found.optional()?)
}
