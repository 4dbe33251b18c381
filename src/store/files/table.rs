//! The rows of files, in the database of their records, and the notes of what came and went.

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use super::FilePath;
use crate::base::clock;
use crate::base::error::Result;
use crate::store::db::quote;

/// What is known of a stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    pub media_type: String,
}

/// Adds the row of a file, and a note.
pub fn add(tx: &Connection, collection: &str, record: &str, file: &Stored) -> Result<()> {
    let size = i64::try_from(file.size).unwrap_or(i64::MAX);
    let now = clock::now();
    tx.prepare_cached(
        "INSERT INTO _files (collection, record, name, size, sha256, type, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        collection,
        record,
        file.name,
        size,
        file.sha256,
        file.media_type,
        now
    ])?;
    let which = "collection = ?2 AND record = ?3 AND name = ?4";
    note(
        tx,
        "add",
        which,
        params![now, collection, record, file.name],
    )
}

/// Whether a database has rows of files at all: one that was never opened by this program has not.
pub fn is_there(connection: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_files')";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Whether a collection has files, of fields there are or of deleted ones.
pub fn has_any(connection: &Connection, collection: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _files WHERE collection = ?1)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([collection], |row| row.get(0))?)
}

/// Deletes the row of a file, and leaves a note; nothing if there is none.
pub fn remove(tx: &Connection, collection: &str, record: &str, name: &str) -> Result<()> {
    let which = "collection = ?2 AND record = ?3 AND name = ?4";
    let now = clock::now();
    remove_where(tx, which, params![now, collection, record, name]).map(drop)
}

/// The same for all files of a record.
pub fn remove_all(tx: &Connection, collection: &str, record: &str) -> Result<()> {
    let which = "collection = ?2 AND record = ?3";
    remove_where(tx, which, params![clock::now(), collection, record]).map(drop)
}

/// Deletes rows and leaves a note of each; the first parameter is the time. Returns how many.
fn remove_where(tx: &Connection, which: &str, params: &[&dyn ToSql]) -> Result<usize> {
    note(tx, "delete", which, params)?;
    let sql = format!("DELETE FROM _files AS f WHERE {which}");
    Ok(tx.prepare_cached(&sql)?.execute(params)?)
}

/// Leaves a note of each of these rows; the first parameter is the time.
fn note(tx: &Connection, op: &str, which: &str, params: &[&dyn ToSql]) -> Result<()> {
    let sql = format!(
        "INSERT INTO _file_outbox (op, collection, record, name, size, sha256, created)
         SELECT '{op}', collection, record, name, size, sha256, ?1
         FROM _files AS f WHERE {which}"
    );
    tx.prepare_cached(&sql)?.execute(params)?;
    Ok(())
}

/// The file fields of a collection: what may name its files.
pub struct Named<'a> {
    /// Its id.
    pub collection: &'a str,
    pub table: &'a str,
    pub columns: Vec<&'a str>,
}

/// Deletes the rows of files that no record of these collections names, and leaves notes. Returns how
/// many.
pub fn remove_unnamed(tx: &Connection, named: &[Named<'_>]) -> Result<usize> {
    let live: Vec<&str> = named.iter().map(|named| named.collection).collect();
    let live = serde_json::to_string(&live)?;
    let now = clock::now();
    let not_live = "collection NOT IN (SELECT value FROM json_each(?2))";
    let mut count = remove_where(tx, not_live, params![now, live])?;
    for named in named {
        let columns = named.columns.iter().map(|column| {
            let column = quote(column);
            format!(
                "(r.{column} = f.name OR (r.{column} LIKE '[%' AND EXISTS
                 (SELECT 1 FROM json_each(r.{column}) WHERE value = f.name)))"
            )
        });
        let names = columns
            .chain(["FALSE".to_owned()])
            .collect::<Vec<_>>()
            .join(" OR ");
        let condition = format!(
            "collection = ?2 AND NOT EXISTS
             (SELECT 1 FROM {} AS r WHERE r.id = f.record AND ({names}))",
            quote(named.table)
        );
        count += remove_where(tx, &condition, params![now, named.collection])?;
    }
    Ok(count)
}

/// What is known of one file.
pub fn find(
    connection: &Connection,
    collection: &str,
    record: &str,
    name: &str,
) -> Result<Option<Stored>> {
    let mut statement = connection.prepare_cached(
        "SELECT name, size, sha256, type FROM _files
         WHERE collection = ?1 AND record = ?2 AND name = ?3",
    )?;
    let found = statement.query_row(params![collection, record, name], |row| {
        Ok(Stored {
            name: row.get(0)?,
            size: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
            sha256: row.get(2)?,
            media_type: row.get(3)?,
        })
    });
    Ok(found.optional()?)
}

/// The files of a database after this hash, record and name, sorted by them.
pub fn by_hash(
    connection: &Connection,
    database: &str,
    after: (&str, &str, &str),
    limit: usize,
) -> Result<Vec<(FilePath, Stored)>> {
    let mut statement = connection.prepare_cached(
        "SELECT collection, record, name, size, sha256, type FROM _files
         WHERE (sha256, record, name) > (?1, ?2, ?3) ORDER BY sha256, record, name LIMIT ?4",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after.0, after.1, after.2, limit], |row| {
        read(row, database)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How many files a database has, and their bytes.
pub fn totals(connection: &Connection) -> Result<(u64, u64)> {
    let sql = "SELECT count(*), coalesce(sum(size), 0) FROM _files";
    let mut statement = connection.prepare_cached(sql)?;
    let (files, bytes): (i64, i64) =
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((files.cast_unsigned(), bytes.cast_unsigned()))
}

/// A row of a list.
fn read(row: &Row<'_>, database: &str) -> rusqlite::Result<(FilePath, Stored)> {
    let path = FilePath {
        database: database.to_owned(),
        collection: row.get(0)?,
        record: row.get(1)?,
        name: row.get(2)?,
    };
    let stored = Stored {
        name: path.name.clone(),
        size: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
        sha256: row.get(4)?,
        media_type: row.get(5)?,
    };
    Ok((path, stored))
}

/// The files of a database after this one (its own or one of an earlier database), sorted by the parts
/// of their paths.
pub fn list(
    connection: &Connection,
    database: &str,
    after: Option<&FilePath>,
    limit: usize,
) -> Result<Vec<(FilePath, Stored)>> {
    let mut statement = connection.prepare_cached(
        "SELECT collection, record, name, size, sha256, type FROM _files
         WHERE (collection, record, name) > (?1, ?2, ?3)
         ORDER BY collection, record, name LIMIT ?4",
    )?;
    let after = after.map_or(("", "", ""), |it| (&it.collection, &it.record, &it.name));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after.0, after.1, after.2, limit], |row| {
        read(row, database)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
