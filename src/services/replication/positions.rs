//! The position of each database on this replica, stored in `local.db`.
//!
//! A stored position may be behind the database file, or ahead of it after a power failure. The
//! checksum tells which.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;

use super::epoch::Epoch;
use crate::base::clock;
use crate::base::error::Result;
use crate::store::db::Database;
use crate::store::node;

/// Limit on earlier epochs in a position.
const PAST_MAX: usize = 8;

/// The version of the master that a database has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: Epoch,
    pub version: u64,
    pub checksum: u64,
    /// Last time when the replica had everything that the master had, in Unix milliseconds.
    pub synced_ms: i64,
    /// Tags of earlier epochs, latest first. Every version of theirs is before this position.
    pub past: Vec<String>,
}

impl Position {
    /// Reports whether this position includes the given version.
    pub fn has_reached(&self, tag: &str, version: u64) -> bool {
        let is_past = || self.past.iter().any(|past| past == tag);
        match self.epoch.tag() == tag {
            true => self.version >= version,
            false => is_past(),
        }
    }

    /// The position that follows `before`.
    pub fn next(before: Option<&Position>, epoch: Epoch, version: u64, checksum: u64) -> Position {
        let mut past = before.map_or_else(Vec::new, |before| before.past.clone());
        if let Some(before) = before.filter(|before| before.epoch != epoch) {
            past.insert(0, before.epoch.tag());
            past.truncate(PAST_MAX);
        }
        Position {
            epoch,
            version,
            checksum,
            synced_ms: clock::now_ms(),
            past,
        }
    }
}

pub fn load(local: &Database) -> Result<BTreeMap<String, Position>> {
    local.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT database, epoch, version, checksum, synced_ms, past FROM _positions",
        )?;
        let mut rows = statement.query([])?;
        let mut positions = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let (epoch, past): (String, String) = (row.get(1)?, row.get(5)?);
            let Some(epoch) = Epoch::parse(&epoch) else {
                continue;
            };
            let position = Position {
                epoch,
                version: row.get::<_, i64>(2)?.cast_unsigned(),
                checksum: row.get::<_, i64>(3)?.cast_unsigned(),
                synced_ms: row.get(4)?,
                past: past.split_whitespace().map(str::to_owned).collect(),
            };
            positions.insert(row.get(0)?, position);
        }
        Ok(positions)
    })
}

/// Stores positions; `None` deletes the position of a database.
pub fn save(local: &Database, positions: Vec<(String, Option<Position>)>) -> Result<()> {
    local.write(move |tx| {
        let mut delete = tx.prepare_cached("DELETE FROM _positions WHERE database = ?1")?;
        let mut insert = tx.prepare_cached(
            "INSERT OR REPLACE INTO _positions (database, epoch, version, checksum, synced_ms, past)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for (name, position) in &positions {
            let Some(position) = position else {
                delete.execute([name])?;
                continue;
            };
            insert.execute(params![
                name,
                position.epoch.to_string(),
                position.version.cast_signed(),
                position.checksum.cast_signed(),
                position.synced_ms,
                position.past.join(" "),
            ])?;
        }
        Ok(())
    })
}

/// Setting in `local.db` with the names of the master's databases.
const LISTED: &str = "master_databases";

/// The databases in the last list of the master.
pub fn load_listed(local: &Database) -> Result<BTreeSet<String>> {
    let names = node::setting(local, LISTED)?.unwrap_or_default();
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// Stores the databases of the master.
pub fn save_listed(local: &Database, names: &BTreeSet<String>) -> Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node::save_setting(local, LISTED, names.join(" "))
}

/// Deletes all positions.
pub fn clear(local: &Database) -> Result<()> {
    local.write(|tx| {
        tx.execute("DELETE FROM _positions", [])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_epochs_before_are_reached_and_unknown_ones_are_not() {
        let first = Position::next(None, Epoch(1), 5, 0);
        assert!(first.has_reached(&Epoch(1).tag(), 5));
        assert!(!first.has_reached(&Epoch(1).tag(), 6));
        assert!(!first.has_reached(&Epoch(2).tag(), 1));
        let second = Position::next(Some(&first), Epoch(2), 1, 0);
        assert!(second.has_reached(&Epoch(1).tag(), 99));
        assert!(second.has_reached(&Epoch(2).tag(), 1));
        let later = (3..20).fold(second, |before, epoch| {
            Position::next(Some(&before), Epoch(epoch), 1, 0)
        });
        assert_eq!(later.past.len(), PAST_MAX);
        assert!(!later.has_reached(&Epoch(1).tag(), 1));
    }
}
