//! Pages of a list that begin far from its start, without reading all rows before them.
//!
//! In the order of rowids and without a condition, the place of a row follows from its rowid if no
//! rowid is missing, as in a table from which nothing was deleted. Otherwise the rows are skipped
//! from the nearer end. Both follow from the count of the table, so they are exact.

use rusqlite::{Connection, params_from_iter};

use super::row::Rowid;
use crate::base::error::Result;
use crate::model::collections::Collection;
use crate::model::filter::SortTerm;
use crate::store::db::{known_count, quote};

/// Rows to skip from which on it is worthwhile to look for a shorter way; few in debug builds so
/// that tests of small tables have deep pages.
const SKIP_MIN: u64 = if cfg!(debug_assertions) { 3 } else { 1_000 };
/// A shorter way begins with a count, which reads a small index; so the rows to skip must be more
/// than this part of all.
const PART: u64 = 8;

/// A page of all records of a collection, in the order of rowids.
pub struct RowidPage<'a> {
    pub collection: &'a Collection,
    pub descending: bool,
    pub size: u64,
    pub skip: u64,
}

/// True if the terms mean the order of rowids, descending if the second value is true.
pub fn order_of_rowids(terms: &[SortTerm]) -> Option<bool> {
    match terms {
        [] => Some(false),
        [term] if term.path.len() == 1 && term.path[0] == "@rowid" => Some(term.descending),
        _ => None,
    }
}

/// True if so many of the rows of a collection are skipped that its size matters.
fn is_deep(connection: &Connection, collection: &Collection, skip: u64) -> Result<bool> {
    if skip < SKIP_MIN {
        return Ok(false);
    }
    let span = Ends::read(connection, collection)?.map_or(0, |ends| ends.span());
    Ok(skip > span / PART)
}

/// The number of records of a collection.
pub fn count_all(connection: &Connection, collection: &Collection) -> Result<u64> {
    let count = known_count(connection, &collection.name, || {
        let sql = format!("SELECT count(*) FROM {}", quote(&collection.name));
        Ok(connection
            .prepare_cached(&sql)?
            .query_row([], |row| row.get(0))?)
    })?;
    Ok(count.cast_unsigned())
}

/// The first and the last rowid of a table.
struct Ends {
    first: Rowid,
    last: Rowid,
}

impl Ends {
    fn read(connection: &Connection, collection: &Collection) -> Result<Option<Ends>> {
        let table = quote(&collection.name);
        let sql =
            format!("SELECT (SELECT min(rowid) FROM {table}), (SELECT max(rowid) FROM {table})");
        let mut statement = connection.prepare_cached(&sql)?;
        let ends = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(match ends {
            (Some(first), Some(last)) => Some(Ends { first, last }),
            _ => None,
        })
    }

    /// The number of rows, if no rowid is missing.
    fn span(&self) -> u64 {
        self.last.abs_diff(self.first).saturating_add(1)
    }
}

impl RowidPage<'_> {
    /// The rowids of the page; none if there is no shorter way to it.
    pub fn find(&self, connection: &Connection) -> Result<Option<Vec<Rowid>>> {
        if !is_deep(connection, self.collection, self.skip)? {
            return Ok(None);
        }
        let Some(ends) = Ends::read(connection, self.collection)? else {
            return Ok(Some(Vec::new()));
        };
        let count = count_all(connection, self.collection)?;
        if self.skip >= count {
            return Ok(Some(Vec::new()));
        }
        if count == ends.span() {
            return self.from(connection, &ends).map(Some);
        }
        let left = count - self.skip;
        if left > self.skip {
            return Ok(None);
        }
        let nearer = RowidPage {
            descending: !self.descending,
            size: self.size.min(left),
            skip: left.saturating_sub(self.size),
            ..*self
        };
        let mut rowids = nearer.select(connection, "", None)?;
        rowids.reverse();
        Ok(Some(rowids))
    }

    /// The page of a table without gaps.
    fn from(&self, connection: &Connection, ends: &Ends) -> Result<Vec<Rowid>> {
        let (condition, start) = match self.descending {
            true => (
                "WHERE rowid <= ?3",
                ends.last.saturating_sub_unsigned(self.skip),
            ),
            false => (
                "WHERE rowid >= ?3",
                ends.first.saturating_add_unsigned(self.skip),
            ),
        };
        RowidPage { skip: 0, ..*self }.select(connection, condition, Some(start))
    }

    fn select(
        &self,
        connection: &Connection,
        condition: &str,
        start: Option<Rowid>,
    ) -> Result<Vec<Rowid>> {
        let table = quote(&self.collection.name);
        let direction = if self.descending { "DESC" } else { "ASC" };
        let sql = format!(
            "SELECT rowid FROM {table} {condition} ORDER BY rowid {direction} LIMIT ?1 OFFSET ?2"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let limits = [self.size, self.skip].map(|it| i64::try_from(it).unwrap_or(i64::MAX));
        let params = params_from_iter(limits.into_iter().chain(start));
        let rows = statement.query_map(params, |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
