//! API keys: credentials of programs, with scopes, limits and an optional expiry, in `_api_keys` of
//! `default.db`.
//!
//! A key is `vski_` and 32 random bytes. Only its SHA-256 is stored, which is enough for a value
//! that cannot be guessed. The time of last use is kept in memory and written from time to time, so
//! that a read request does not write.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use rusqlite::{OptionalExtension as _, Row, params};
use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{clock, crypto, ids};
use crate::model::rules::{ApiKey, KeyScope};
use crate::store::db::Database;

/// The prefix of every key, by which leaked keys are recognised.
pub const PREFIX: &str = "vski_";
/// Largest number of keys.
const COUNT_MAX: i64 = 1000;
/// Longest name of a key or a service token, in characters.
pub const NAME_CHARS_MAX: usize = 100;
const COLUMNS: &str = "id, name, scopes, databases, collections, expires, last_used, created";

/// A stored key.
pub struct KeyRecord {
    pub name: String,
    pub key: ApiKey,
    pub expires: Option<String>,
    pub last_used: Option<String>,
    pub created: String,
}

/// The parameters of a new key.
pub struct KeyDraft {
    pub name: String,
    pub scopes: BTreeSet<KeyScope>,
    pub databases: Option<BTreeSet<String>>,
    pub collections: Option<BTreeSet<String>>,
    /// In the format of `clock`.
    pub expires: Option<String>,
}

/// The keys of `default.db`.
pub struct Keys {
    default: Arc<Database>,
    /// Times of last use that are not written yet, by id of the key.
    used: Mutex<HashMap<String, String>>,
}

impl Keys {
    pub fn new(default: Arc<Database>) -> Keys {
        Keys {
            default,
            used: Mutex::new(HashMap::new()),
        }
    }

    /// Creates a key. Returns its record and the key itself, which is never shown again.
    pub fn create(&self, draft: KeyDraft) -> Result<(KeyRecord, String)> {
        check(&draft)?;
        let secret = format!("{PREFIX}{}", crypto::base64url(&ids::random_bytes::<32>()?));
        let stored = KeyRecord {
            name: draft.name,
            key: ApiKey {
                id: ids::record_id()?,
                scopes: draft.scopes,
                databases: draft.databases,
                collections: draft.collections,
            },
            expires: draft.expires,
            last_used: None,
            created: clock::now(),
        };
        let hash = hash(&secret);
        let stored = self.default.write(move |tx| {
            let count = "SELECT count(*) FROM _api_keys";
            if tx.query_row(count, [], |row| row.get::<_, i64>(0))? >= COUNT_MAX {
                return Err(Error::conflict(format!(
                    "The limit of {COUNT_MAX} API keys is reached; delete some first."
                )));
            }
            let list = |names: &Option<BTreeSet<String>>| {
                names
                    .as_ref()
                    .map(|names| Value::from_iter(names.clone()).to_string())
            };
            let scopes = stored.key.scopes.iter().map(|scope| scope.name());
            tx.execute(
                "INSERT INTO _api_keys
                     (id, name, hash, scopes, databases, collections, expires, created)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    stored.key.id,
                    stored.name,
                    hash,
                    Value::from_iter(scopes).to_string(),
                    list(&stored.key.databases),
                    list(&stored.key.collections),
                    stored.expires,
                    stored.created,
                ],
            )?;
            Ok(stored)
        })?;
        Ok((stored, secret))
    }

    /// All keys, the oldest first.
    pub fn list(&self) -> Result<Vec<KeyRecord>> {
        let mut list = self.default.look_up(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM _api_keys ORDER BY created, id");
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map([], from_row)?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })?;
        let used = lock(&self.used);
        for stored in &mut list {
            if let Some(time) = used.get(&stored.key.id) {
                stored.last_used = Some(time.clone());
            }
        }
        Ok(list)
    }

    /// Deletes a key; it is invalid at once.
    pub fn delete(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.default.write(move |tx| {
            match tx.execute("DELETE FROM _api_keys WHERE id = ?1", [&id])? {
                0 => Err(Error::not_found("There is no such key.")),
                _ => Ok(()),
            }
        })
    }

    /// Finds an unexpired key, and notes that it was used.
    pub fn find(&self, secret: &str) -> Result<Option<ApiKey>> {
        let found = self.look_up("hash", &hash(secret))?;
        if let Some(key) = &found {
            lock(&self.used).insert(key.id.clone(), clock::now());
        }
        Ok(found)
    }

    /// Finds an unexpired key by its id.
    pub fn by_id(&self, id: &str) -> Result<Option<ApiKey>> {
        self.look_up("id", id)
    }

    fn look_up(&self, column: &str, value: &str) -> Result<Option<ApiKey>> {
        let sql = format!("SELECT {COLUMNS} FROM _api_keys WHERE {column} = ?1");
        let found = self.default.look_up(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            Ok(statement.query_row([value], from_row).optional()?)
        })?;
        let now = clock::now();
        let is_over = |stored: &KeyRecord| stored.expires.as_ref().is_some_and(|end| *end <= now);
        Ok(found
            .filter(|stored| !is_over(stored))
            .map(|stored| stored.key))
    }

    /// Writes the times of last use. After a failure the next call writes them.
    pub fn write_last_used(&self) -> Result<()> {
        let used = std::mem::take(&mut *lock(&self.used));
        if used.is_empty() {
            return Ok(());
        }
        let written = used.clone();
        let result = self.default.write(move |tx| {
            let sql = "UPDATE _api_keys SET last_used = ?2 WHERE id = ?1";
            let mut statement = tx.prepare_cached(sql)?;
            for (id, time) in &written {
                statement.execute([id, time])?;
            }
            Ok(())
        });
        if result.is_err() {
            let mut present = lock(&self.used);
            for (id, time) in used {
                present.entry(id).or_insert(time);
            }
        }
        result
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<KeyRecord> {
    let names = |at: usize| -> rusqlite::Result<Option<BTreeSet<String>>> {
        let text: Option<String> = row.get(at)?;
        // A list that cannot be read grants nothing.
        Ok(text.map(|text| serde_json::from_str(&text).unwrap_or_default()))
    };
    let scopes = names(2)?.unwrap_or_default();
    let is_in = |(name, _): &&(&str, KeyScope)| scopes.contains(*name);
    let mut key = ApiKey {
        id: row.get(0)?,
        scopes: KeyScope::NAMES
            .iter()
            .filter(is_in)
            .map(|(_, scope)| *scope)
            .collect(),
        databases: names(3)?,
        collections: names(4)?,
    };
    // Older versions accepted limits together with this scope, which ignores them.
    if is_limited(&key.databases, &key.collections) {
        key.scopes.remove(&KeyScope::Service);
    }
    Ok(KeyRecord {
        key,
        name: row.get(1)?,
        expires: row.get(5)?,
        last_used: row.get(6)?,
        created: row.get(7)?,
    })
}

fn is_limited(
    databases: &Option<BTreeSet<String>>,
    collections: &Option<BTreeSet<String>>,
) -> bool {
    databases.is_some() || collections.is_some()
}

fn check(draft: &KeyDraft) -> Result<()> {
    if !(1..=NAME_CHARS_MAX).contains(&draft.name.chars().count()) {
        let message = format!("A key needs a name of 1 to {NAME_CHARS_MAX} characters.");
        return Err(Error::field("name", "validation_length", message));
    }
    if draft.scopes.is_empty() {
        let message = "A key needs at least one scope.";
        return Err(Error::field("scopes", "validation_required", message));
    }
    let has = |scope| draft.scopes.contains(&scope);
    if draft.collections.is_some() && (has(KeyScope::Collections) || has(KeyScope::Databases)) {
        let message = "A key that changes definitions or databases cannot be limited to some \
                       collections: its changes reach the others.";
        return Err(Error::field(
            "collections",
            "validation_not_allowed",
            message,
        ));
    }
    if draft.databases.is_some() && has(KeyScope::Databases) {
        let message = "A key that makes and deletes databases cannot be limited to some.";
        return Err(Error::field("databases", "validation_not_allowed", message));
    }
    if is_limited(&draft.databases, &draft.collections) && has(KeyScope::Service) {
        let message = "A key with the scope service cannot be limited to some databases or \
                       collections: it sees the runs of all of them.";
        return Err(Error::field("scopes", "validation_not_allowed", message));
    }
    if draft
        .expires
        .as_ref()
        .is_some_and(|end| *end <= clock::now())
    {
        let message = "Must be in the future.";
        return Err(Error::field("expires", "validation_out_of_range", message));
    }
    Ok(())
}

fn hash(secret: &str) -> String {
    ids::hex(&crypto::sha256(secret.as_bytes()))
}
