//! Creates a backup, or updates the one in a directory; the parent module has the order.

use std::fs;

use super::copy::{BackupJob, Copier};
use super::directory::{acquire, refuse_inside, remove_states, sync};
use super::manifest::{BackupManifest, STATE};
use crate::base::error::Result;
use crate::base::{clock, failpoints};
use crate::store::db;

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
    refuse_inside(job.data_dir, job.dir)?;
    run_in(job)
}

/// Like [`run`], into a directory that can be inside the data directory.
pub fn run_in(job: BackupJob<'_>) -> Result<BackupSummary> {
    let (data_dir, dir, is_bucket) = (job.data_dir, job.dir, job.is_bucket);
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
