//! Backups of a data directory: create, verify and restore, also while a server runs.
//!
//! A backup is a directory:
//!
//! ```text
//! manifest.json         the current state and the hashes of its parts; replaced last, atomically
//! state-TIME/           each database as one file, and the secret
//! storage/              files of records, under the same paths as in the data directory
//! backup.lock           excludes concurrent backups, restores and checks
//! ```
//!
//! The next backup into the directory writes a new state beside the current one and adds files to
//! the storage. A file never changes under its name, so existing files serve both states. Then it
//! replaces the manifest, and finally removes the old state and unreferenced files. At every point
//! in between, the manifest names a complete state with all of its files.
//!
//! Each database is copied page by page from one read transaction. No writer waits for it, and it
//! ends even if writes never stop. The transaction is as short as possible, because the WAL cannot
//! be reset meanwhile.
//!
//! Files and databases agree because the files that a transaction sees are copied while it is open,
//! before its pages. Nearly all of them are copied before it begins, so this is quick. If one of
//! the rest has disappeared because its record was deleted since, the transaction is abandoned and
//! another one is opened.
//!
//! The databases agree with each other by the order of copies. A collection of a tenant has its
//! table there and its definition in `default.db`, which is copied after all tenants; tenants whose
//! definitions have changed since their copy are copied again before it. `local.db` is copied
//! before them and `workflows.db` after: work that `local.db` records as queued is then in
//! `workflows.db`; work that it does not record yet is queued again under the same key.

use std::fs;

use crate::base::error::Result;
use crate::base::{clock, failpoints};
use crate::store::db;

use copy::Copier;
use directory::{acquire, refuse_inside, remove_states, sync};
use manifest::{BackupManifest, STATE};

mod copy;
mod directory;
mod file;
mod manifest;
pub mod missing;
mod owner;
pub mod restore;
pub mod verify;

pub use copy::BackupJob;

/// The result of a backup.
pub struct BackupSummary {
    pub databases: usize,
    pub database_bytes: u64,
    pub files: u64,
    pub bytes: u64,
    /// Files that no earlier backup had.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Files that were missing or damaged.
    pub missing: u64,
}

/// Creates a backup in an empty directory, or updates the backup in it.
pub fn run(job: BackupJob<'_>) -> Result<BackupSummary> {
    let (data_dir, dir, is_bucket) = (job.data_dir, job.dir, job.is_bucket);
    refuse_inside(data_dir, dir)?;
    let _lock = acquire(dir)?;
    let _held = db::offline::lock_read_only(data_dir)?;
    let earlier = match BackupManifest::read(dir) {
        Ok(earlier) => {
            remove_states(dir, earlier.as_ref().map(|it| it.state.as_str()))?;
            earlier
        }
        // Keep earlier states until the new one is complete.
        Err(error) => {
            (job.report)(&format!("{error} All files are read again."));
            None
        }
    };
    let time = clock::now();
    let name = format!("{STATE}{}", time.replace([':', '.'], ""));
    let state = dir.join(&name);
    db::create_dir(&state)?;
    let mut manifest = BackupManifest::new(time, &name, if is_bucket { "s3" } else { "local" });
    let earlier = earlier.filter(|_| !job.verifies);
    let mut copier = Copier::new(job, state.clone(), earlier.as_ref().map(|it| it.state(dir)));
    let copied = copier
        .run(&mut manifest)
        .and_then(|()| sync(dir))
        .inspect_err(|_| {
            let _ = fs::remove_dir_all(&state);
        });
    copied?;
    failpoints::reach("backup-copied");
    manifest.write(dir)?;
    failpoints::reach("backup-valid");
    remove_states(dir, Some(&name))?;
    copier.remove_unreferenced()?;
    let databases: Vec<_> = manifest
        .parts
        .iter()
        .filter_map(|it| it.database().map(|_| it.size))
        .collect();
    Ok(BackupSummary {
        databases: databases.len(),
        database_bytes: databases.iter().sum(),
        files: manifest.files,
        bytes: manifest.bytes,
        copied: copier.copied,
        copied_bytes: copier.copied_bytes,
        missing: manifest.missing,
    })
}
