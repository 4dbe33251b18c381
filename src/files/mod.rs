//! Files of records: taken in, stored, found, deleted (FILE-1 to FILE-5).
//!
//! Order of writing: the body goes into a temporary file while it arrives and is hashed on the way
//! (`api::form`); then it gets its place (`local`), durably; then the record's transaction names it and adds its
//! row (`table`). Order of deleting: the record's transaction deletes the row and leaves a note in the
//! outbox; the thread that empties the outboxes (`outbox`) deletes the file and writes the journal. A
//! crash anywhere leaves at worst a file without a row, which `sweep` removes, or a note, which is
//! still there; never a record without its file.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock;
use crate::error::Result;

pub use local::Local;
pub use local::Partial;
pub use local::Placed;
pub use table::Stored;

mod local;
mod media;
mod name;
pub mod outbox;
pub mod sweep;
pub mod table;

pub use media::LOOK_BYTES;
pub use media::is_allowed;
pub use media::judge;
pub use name::is_valid;
pub use name::new_name;

/// The storage, and the signal for the thread that empties the outboxes.
pub struct Files {
    local: Arc<Local>,
    /// When it was opened, in milliseconds since 1970.
    pub opened_ms: i64,
    pub signal: outbox::Signal,
}

impl Files {
    /// Opens the storage below the data directory.
    pub fn open(data_dir: &Path) -> Result<Files> {
        Ok(Files {
            local: Arc::new(Local::open(data_dir)?),
            opened_ms: clock::now_ms(),
            signal: outbox::Signal::default(),
        })
    }

    pub fn local(&self) -> &Arc<Local> {
        &self.local
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
    /// Below the folder of the storage. Every part is an id or a name that was checked, so none can
    /// lead out of it.
    fn relative(&self) -> PathBuf {
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
