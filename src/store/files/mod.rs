//! Files of records: taken in, stored, found, deleted (FILE-1 to FILE-5).
//!
//! Order of writing: the body goes into a temporary file while it arrives and is hashed on the way
//! (`api::form`); then it gets its place (`local`), durably; then the record's transaction names it and adds its
//! row (`table`). Order of deleting: the record's transaction deletes the row and leaves a note in the
//! outbox; a thread (`keeper`) empties the outboxes: it deletes the file and writes the journal. A
//! crash anywhere leaves at worst a file without a row, which `sweep` removes a day after it has found it, or a note, which is
//! still there; never a record without its file. `journal` is what replicas follow, `incoming` is where they
//! put what comes; `scrub` reads everything again, slowly.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::{clock, ids};
use crate::store::db::{Databases, Role, Signal};
use crate::store::replicas::Replicas;
use crate::store::{db, node};

pub use incoming::{Incoming, Remote};
pub use journal::Journal;
pub use local::Partial;
pub use reserve::Reserve;
pub use s3::Settings as S3Settings;
pub use storage::{Arrival, Placed, Storage};
pub use table::Stored;

pub mod cleanup;
mod incoming;
pub mod journal;
pub mod keeper;
mod local;
mod media;
mod name;
pub mod outbox;
mod reserve;
mod s3;
pub mod scrub;
mod storage;
mod sweep;
pub mod table;
mod unnamed;

pub use media::{LOOK_BYTES, content_type, is_allowed, is_passive, judge};
pub use name::{is_valid, new_name};

/// The folder of a data directory with the files of records.
pub const FOLDER: &str = "storage";

/// The storage, its journal, and the signal for the thread that keeps them.
pub struct Files {
    pub storage: Arc<Storage>,
    /// Where replicas get the files from here.
    pub journal: Option<Journal>,
    pub signal: Signal,
    pub scrub: scrub::Scrub,
    /// When it was opened, in milliseconds since 1970.
    opened_ms: i64,
    /// The name of this server.
    node: String,
}

impl Files {
    /// Opens the storage below the data directory, or in a bucket. Files leave `reserve` of the disk free.
    pub fn open(
        data_dir: &Path,
        s3: Option<&S3Settings>,
        reserve: Reserve,
        databases: &Databases,
        replicas: &Replicas,
    ) -> Result<Files> {
        let storage = Storage::open(data_dir, s3, reserve)?;
        let role = databases.role();
        let node = node::id(databases.local())?;
        if role == Role::Master {
            // A replica reads the bucket of its master.
            storage.claim(&node)?;
        }
        let journal = (storage.has_journal() && role == Role::Master)
            .then(|| Journal::open(databases, replicas));
        Ok(Files {
            storage: Arc::new(storage),
            journal: journal.transpose()?,
            signal: Signal::default(),
            scrub: scrub::Scrub::default(),
            opened_ms: clock::now_ms(),
            node,
        })
    }
}

/// Which file: of which record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath {
    pub database: String,
    /// Id of the collection.
    pub collection: String,
    pub record: String,
    pub name: String,
}

impl FilePath {
    /// Reads what it is displayed as; none when there cannot be such a file.
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

    /// Below the folder of the storage. Every part is an id or a name that was checked, so none can
    /// lead out of it.
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
