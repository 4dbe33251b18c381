//! Files of records: received, stored, found, deleted.
//!
//! To add a file, the body is written to a temporary file and hashed while it arrives
//! (`api::multipart_body`); then the file is stored durably under its path (`storage`, `local`,
//! `s3`); then the record's transaction names it and adds its row (`table`). To delete a file, the
//! record's transaction deletes the row and adds a row to the outbox; `storage_worker` processes
//! the outbox: it deletes the file and writes the journal. A crash leaves at worst a file without a
//! row, which `sweep` deletes a day after it has found it, or an outbox row; never a record without
//! its file. Replicas follow `journal` and download into `incoming`; `scrub` verifies all files
//! again, slowly.

use std::path::Path;
use std::sync::Arc;

use crate::base::clock;
use crate::base::error::Result;
use crate::base::signal::Signal;
use crate::store::db::{Databases, Role};
use crate::store::node;
use crate::store::replicas::Replicas;

pub use incoming::RemoteFile;
pub use journal::Journal;
pub use local::Partial;
pub use media::{SNIFF_BYTES, content_type, detect, is_allowed, is_passive};
pub use name::{is_valid, new_name};
pub use path::{FOLDER, FilePath};
pub use reserve::Reserve;
pub use s3::S3Settings;
pub use storage::{ReceivedFile, StagedFiles, Storage};
pub use table::StoredFile;

mod incoming;
pub mod journal;
mod local;
mod media;
mod name;
mod outbox;
mod path;
mod reserve;
mod s3;
pub mod scrub;
mod storage;
pub mod storage_worker;
pub mod sweep;
pub mod table;

/// The storage, its journal, and the signal of the storage worker.
pub struct Files {
    pub storage: Arc<Storage>,
    /// On a master with local storage, from which replicas download files.
    pub journal: Option<Journal>,
    pub signal: Signal<String>,
    pub scrub: scrub::Scrub,
    /// Time of opening, in milliseconds since 1970.
    opened_ms: i64,
    /// The id of this server.
    node: String,
}

impl Files {
    /// Opens the storage in the data directory or in a bucket. Files leave `reserve` of the disk
    /// free.
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
            // Not on a replica, which reads the bucket of its master.
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
