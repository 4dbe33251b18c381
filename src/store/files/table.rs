//! The rows of files in the database of their records, and the rows of the outbox.

use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use super::path::FilePath;
use crate::base::clock;
use crate::base::error::Result;
use crate::store::db::quote;

/// The row of a stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    pub name: String,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
    pub media_type: String,
}

/// Adds the row of a file, and an outbox row.
pub fn add(tx: &Connection, collection: &str, record: &str, file: &StoredFile) -> Result<()> {
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
    write_outbox(
        tx,
        "add",
        which,
        params![now, collection, record, file.name],
    )
}

/// True if a database has the table of files; one that this program has never opened does not.
pub fn exists(connection: &Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_files')";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// True if a collection has files, of present or deleted fields.
pub fn has_any(connection: &Connection, collection: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _files WHERE collection = ?1)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_row([collection], |row| row.get(0))?)
}

/// Deletes the row of a file, if it exists, and adds an outbox row.
pub fn remove(tx: &Connection, collection: &str, record: &str, name: &str) -> Result<()> {
    let which = "collection = ?2 AND record = ?3 AND name = ?4";
    let now = clock::now();
    remove_where(tx, which, params![now, collection, record, name]).map(drop)
}

/// Like [`remove`], for all files of a record.
pub fn remove_all(tx: &Connection, collection: &str, record: &str) -> Result<()> {
    let which = "collection = ?2 AND record = ?3";
    remove_where(tx, which, params![clock::now(), collection, record]).map(drop)
}

/// Deletes rows and adds an outbox row for each; the first parameter is the time. Returns their
/// number.
fn remove_where(tx: &Connection, which: &str, params: &[&dyn ToSql]) -> Result<usize> {
    write_outbox(tx, "delete", which, params)?;
    let sql = format!("DELETE FROM _files AS f WHERE {which}");
    Ok(tx.prepare_cached(&sql)?.execute(params)?)
}

/// Adds an outbox row for each of these rows; the first parameter is the time.
fn write_outbox(tx: &Connection, op: &str, which: &str, params: &[&dyn ToSql]) -> Result<()> {
    let sql = format!(
        "INSERT INTO _file_outbox (op, collection, record, name, size, sha256, created)
         SELECT '{op}', collection, record, name, size, sha256, ?1
         FROM _files AS f WHERE {which}"
    );
    tx.prepare_cached(&sql)?.execute(params)?;
    Ok(())
}

/// The columns of a collection that can name its files.
pub struct FileColumns<'a> {
    /// The id of the collection.
    pub collection: &'a str,
    pub table: &'a str,
    pub columns: Vec<&'a str>,
}

/// Deletes the rows of files that no record of these collections names, and adds outbox rows.
/// Returns their number.
pub fn remove_orphans(tx: &Connection, collections: &[FileColumns<'_>]) -> Result<usize> {
    let live: Vec<&str> = collections.iter().map(|it| it.collection).collect();
    let live = serde_json::to_string(&live)?;
    let now = clock::now();
    let not_live = "collection NOT IN (SELECT value FROM json_each(?2))";
    let mut count = remove_where(tx, not_live, params![now, live])?;
    for named in collections {
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

/// The row of one file.
pub fn find(
    connection: &Connection,
    collection: &str,
    record: &str,
    name: &str,
) -> Result<Option<StoredFile>> {
    let mut statement = connection.prepare_cached(
        "SELECT name, size, sha256, type FROM _files
         WHERE collection = ?1 AND record = ?2 AND name = ?3",
    )?;
    let found = statement.query_row(params![collection, record, name], |row| {
        Ok(StoredFile {
            name: row.get(0)?,
            size: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
            sha256: row.get(2)?,
            media_type: row.get(3)?,
        })
    });
    Ok(found.optional()?)
}

/// The record of a collection that has a file of this name.
pub fn record_of(connection: &Connection, collection: &str, name: &str) -> Result<Option<String>> {
    let sql = "SELECT record FROM _files WHERE collection = ?1 AND name = ?2 LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement
        .query_row([collection, name], |row| row.get(0))
        .optional()?)
}

/// The files of a database after this hash, record and name, in that order.
pub fn by_hash(
    connection: &Connection,
    database: &str,
    after: (&str, &str, &str),
    limit: usize,
) -> Result<Vec<(FilePath, StoredFile)>> {
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

/// The number of files of a database, and their bytes.
pub fn totals(connection: &Connection) -> Result<(u64, u64)> {
    let sql = "SELECT count(*), coalesce(sum(size), 0) FROM _files";
    let mut statement = connection.prepare_cached(sql)?;
    let (files, bytes): (i64, i64) =
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((files.cast_unsigned(), bytes.cast_unsigned()))
}

/// The number and bytes of the files of each collection, by its id, the largest first.
pub fn usage(connection: &Connection) -> Result<Vec<(String, u64, u64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT collection, count(*), sum(size) FROM _files GROUP BY collection ORDER BY 3 DESC",
    )?;
    let rows = statement.query_map([], |row| {
        let (files, bytes): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok((row.get(0)?, files.cast_unsigned(), bytes.cast_unsigned()))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Reads a row of [`list`] or [`by_hash`].
fn read(row: &Row<'_>, database: &str) -> rusqlite::Result<(FilePath, StoredFile)> {
    let path = FilePath {
        database: database.to_owned(),
        collection: row.get(0)?,
        record: row.get(1)?,
        name: row.get(2)?,
    };
    let stored = StoredFile {
        name: path.name.clone(),
        size: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
        sha256: row.get(4)?,
        media_type: row.get(5)?,
    };
    Ok((path, stored))
}

/// The files of a database after `after` (of this or an earlier database), in the order of their
/// paths.
pub fn list(
    connection: &Connection,
    database: &str,
    after: Option<&FilePath>,
    limit: usize,
) -> Result<Vec<(FilePath, StoredFile)>> {
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
