//! Moving runs from one node to another through a file.
//!
//! The file is JSON Lines: a head (format, version, node, time, counts), one line per row,
//! `{"table": ..., column: ...}`, in the order of [`TABLES`] and of the creation of runs, and last
//! the SHA-256 of all lines before it, so that a truncated file is refused. Row ids are those of
//! the exporting node; the import assigns new ones. Public ids stay.
//!
//! A run and all runs below its topmost parent are imported together or not at all: a part of them
//! would wait for ever for the rest. For the same reason a second import of a file changes nothing.

use std::io::Write;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Result, ResultExt as _};
use crate::base::json::Object;
use crate::base::{clock, ids};

pub use adopt::{Adopted, adopt};

mod adopt;
mod format;
mod reader;

use format::{END, FORMAT, TABLES, VERSION};

/// The content of an export.
#[derive(Debug, PartialEq, Eq)]
pub struct Exported {
    /// The row ids of the exported runs.
    pub runs: Vec<i64>,
    pub unfinished: usize,
}

/// Writes the unfinished runs with their ended parents and children, or all runs.
pub fn export(db: &Connection, node: &str, all: bool, out: &mut impl Write) -> Result<Exported> {
    let runs = chosen(db, all)?;
    let sql = "SELECT count(*) FROM runs WHERE ended IS NULL";
    let unfinished: i64 = db.prepare(sql)?.query_row([], |row| row.get(0))?;
    let mut lines = HashingWriter {
        out,
        hasher: Sha256Hasher::new(),
    };
    let count = i64::try_from(runs.len()).unwrap_or(i64::MAX);
    lines.write(
        Object::new()
            .text("format", FORMAT)
            .int("version", VERSION)
            .text("node", node)
            .text("time", &clock::now())
            .int("runs", count)
            .int("unfinished", unfinished)
            .end(),
    )?;
    for table in &TABLES {
        let mut statement = db.prepare(table.select)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        for run in &runs {
            let mut rows = statement.query([run])?;
            while let Some(row) = rows.next()? {
                let mut line = Object::new().text("table", table.name);
                for (at, column) in columns.iter().enumerate() {
                    line = match row.get_ref(at)? {
                        ValueRef::Integer(number) => line.int(column, number),
                        ValueRef::Text(text) => line.text(column, &String::from_utf8_lossy(text)),
                        _ => line.raw(column, "null"),
                    };
                }
                lines.write(line.end())?;
            }
        }
    }
    let HashingWriter { out, hasher } = lines;
    let hash = ids::hex(&hasher.finish());
    writeln!(out, r#"{END}"{hash}"}}"#).context("write")?;
    let unfinished = usize::try_from(unfinished).unwrap_or(usize::MAX);
    Ok(Exported { runs, unfinished })
}

fn chosen(db: &Connection, all: bool) -> Result<Vec<i64>> {
    let sql = match all {
        true => "SELECT id FROM runs ORDER BY id",
        false => {
            "WITH RECURSIVE up (id) AS (
                 SELECT id FROM runs WHERE ended IS NULL
                 UNION SELECT r.parent FROM up JOIN runs r ON r.id = up.id WHERE r.parent IS NOT NULL)
             SELECT id FROM runs
             WHERE id IN (SELECT id FROM up)
                OR id IN (SELECT s.child FROM up JOIN runs r ON r.id = up.id JOIN steps s ON s.run = up.id
                          WHERE r.ended IS NULL)
             ORDER BY id"
        }
    };
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Deletes runs with all their rows.
pub fn remove(db: &Connection, runs: &[i64]) -> Result<()> {
    for table in &TABLES {
        let mut statement = db.prepare(table.delete)?;
        for run in runs {
            statement.execute([run])?;
        }
    }
    Ok(())
}

/// Writes lines and hashes them.
struct HashingWriter<'a, W> {
    out: &'a mut W,
    hasher: Sha256Hasher,
}

impl<W: Write> HashingWriter<'_, W> {
    fn write(&mut self, mut line: String) -> Result<()> {
        line.push('\n');
        self.hasher.update(line.as_bytes());
        self.out.write_all(line.as_bytes()).context("write")
    }
}

#[cfg(test)]
mod tests;
