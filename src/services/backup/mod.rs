//! Backups of a data directory, also beside a running server: made, checked, put back.
//!
//! A backup is a directory:
//!
//! ```text
//! manifest.json         which state counts, and the hashes of its parts; replaced last, in one step
//! state-TIME/           every database as one file, and the secret
//! storage/              the files of records, under the paths that they have in the data directory
//! backup.lock           keeps a second backup out, and any while it is restored or checked
//! ```
//!
//! The next backup into it writes another state beside the one that counts and adds files to the storage; a
//! file never changes under its name, so those that are there serve both. Then it replaces the manifest,
//! and after that removes the old state and the files that nothing names any more. Wherever it ends in
//! between, the manifest names a state that is whole, with all of its files.
//!
//! Each database is copied page by page from one read transaction: no writer waits for it, and it ends however
//! much is written. That transaction is as short as possible, since the log cannot start over meanwhile.
//!
//! Files and databases agree because the files that a transaction sees are copied while it is open, before
//! its pages. Nearly all have been copied before it began, so this takes a moment; when one of the rest has
//! vanished because its record was deleted since, the transaction is given up and another one looked at.
//!
//! The databases agree with each other by their order. A collection of a tenant has its table there and its
//! definition in `default.db`, which goes after all tenants; those whose definitions have changed since they
//! were copied are copied once more before it.
//! `local.db` goes before them and `workflows.db` after: what one queues in the other is then there or
//! queued once more under the same key, never noted and lost.

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

/// What a backup has done.
pub struct BackupSummary {
    pub databases: usize,
    pub database_bytes: u64,
    pub files: u64,
    pub bytes: u64,
    /// Files that were not there from an earlier backup.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Files that could not be had.
    pub missing: u64,
}

/// Makes a backup, from scratch or on top of the earlier one in the directory.
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
        // One of the states may still be of use until there is a new one.
        Err(error) => {
            (job.report)(&format!("{error} Everything is looked at again."));
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
