//! Runs on their way from one node to another: a file that has them, and import them in.
//!
//! The file is JSON HashingWriter. First a head (format, version, node, time, counts), then a line for each row,
//! `{"table": ..., column: ...}`, table by table in the order of [`TABLES`], runs in the order in which they
//! were made; last the SHA-256 of all lines before it, so that a file which was cut off is refused.
//! Numbers of runs are those of the node that wrote it; whoever takes them in gives new ones. Ids stay.
//!
//! What belongs together is taken whole or not at all: a run with all runs below its topmost one. Half of
//! it would wait for ever for what is elsewhere. That is also what makes import in a second time do nothing.

use std::io::Write;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::base::crypto::Hasher;
use crate::base::error::{Result, ResultExt as _};
use crate::base::json::Object;
use crate::base::{clock, ids};

pub use adopt::{Adopted, adopt};

mod adopt;
mod format;
mod reader;

use format::{END, FORMAT, TABLES, VERSION};

/// What a file has.
#[derive(Debug, PartialEq, Eq)]
pub struct Exported {
    /// The numbers of the runs here.
    pub runs: Vec<i64>,
    pub unfinished: usize,
}

/// Writes the runs that have not ended, with the ended ones that they are children or parents of; or all.
pub fn export(db: &Connection, node: &str, all: bool, out: &mut impl Write) -> Result<Exported> {
    let runs = chosen(db, all)?;
    let sql = "SELECT count(*) FROM runs WHERE ended IS NULL";
    let unfinished: i64 = db.prepare(sql)?.query_row([], |row| row.get(0))?;
    let mut lines = HashingWriter {
        out,
        hasher: Hasher::new(),
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

/// Removes runs with all that belongs to them.
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
    hasher: Hasher,
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
