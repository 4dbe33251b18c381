//! The JSON bodies of the replication API, as a replica reads them.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::epoch::Epoch;
use super::positions::Position;
use crate::base::error::{Error, Result};

/// The master's list of databases.
#[derive(Debug, Deserialize)]
pub struct DatabaseList {
    /// Schema versions of `default.db` and of tenants.
    pub schema: (i64, i64),
    pub databases: Vec<DatabaseEntry>,
    /// The end of the file journal; `None` if the master has no journal.
    pub files: Option<JournalEnd>,
}

/// The end of a file journal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JournalEnd {
    pub epoch: String,
    pub last: i64,
}

/// Entries of the file journal.
#[derive(Debug, Deserialize)]
pub struct JournalReply {
    pub entries: Vec<JournalEntry>,
    /// The entry after which the next page begins.
    pub next: i64,
    pub last: i64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct JournalEntry {
    pub op: String,
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

/// One page of the list of all files.
#[derive(Debug, Deserialize)]
pub struct ManifestPage {
    pub epoch: String,
    /// The end of the journal before the entries were read.
    pub last: i64,
    pub entries: Vec<ManifestEntry>,
    /// The databases of the master after the entries were read.
    pub databases: BTreeSet<String>,
    pub next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ManifestEntry {
    pub path: String,
    pub size: u64,
    pub sha256: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct DatabaseEntry {
    pub name: String,
    epoch: String,
    pub version: u64,
    /// The entry is from the master's list, so its version is current.
    #[serde(skip, default = "yes")]
    pub is_listed: bool,
}

fn yes() -> bool {
    true
}

impl DatabaseEntry {
    /// An entry for a database that may have changed after `position`.
    pub fn after(name: &str, position: &Position) -> DatabaseEntry {
        DatabaseEntry {
            name: name.to_owned(),
            epoch: position.epoch.to_string(),
            version: position.version,
            is_listed: false,
        }
    }

    pub fn epoch(&self) -> Result<Epoch> {
        Epoch::parse(&self.epoch)
            .ok_or_else(|| Error::unavailable("The master sent an invalid list of databases."))
    }
}

/// The groups of pages that differ on the master.
#[derive(Debug, Deserialize)]
pub struct ComparisonReply {
    pub epoch: String,
    pub version: u64,
    /// `None` if they cannot be compared.
    pub groups: Option<Vec<u32>>,
}
