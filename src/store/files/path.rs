//! The path of a stored file: database, collection, record and name.

use std::fmt;
use std::path::PathBuf;

use super::name::is_valid;
use crate::base::ids;
use crate::store::db;

/// The folder of a data directory that holds the files of records.
pub const FOLDER: &str = "storage";

/// The path of a file of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath {
    pub database: String,
    /// Id of the collection.
    pub collection: String,
    pub record: String,
    pub name: String,
}

impl FilePath {
    /// Parses the displayed form; none if it is not a valid path.
    pub fn parse(text: &str) -> Option<FilePath> {
        let parts: Vec<&str> = text.split('/').collect();
        let [database, collection, record, name] = parts[..] else {
            return None;
        };
        let are_valid = db::is_valid_name(database)
            && ids::is_valid_id(collection)
            && ids::is_valid_id(record)
            && is_valid(name);
        are_valid.then(|| FilePath {
            database: database.to_owned(),
            collection: collection.to_owned(),
            record: record.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The path below the folder of the storage. Every part is a valid id or name, so it cannot
    /// lead outside.
    pub fn relative(&self) -> PathBuf {
        [&self.database, &self.collection, &self.record, &self.name]
            .into_iter()
            .collect()
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilePath {
            database,
            collection,
            record,
            name,
        } = self;
        write!(f, "{database}/{collection}/{record}/{name}")
    }
}
