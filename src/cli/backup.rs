//! `vski backup`, `vski restore` and `vski check`.

use std::io::Write as _;
use std::path::Path;

use super::arguments::parse;
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_empty};
use crate::base::error::ResultExt as _;
use crate::base::threads::Stop;
use crate::config::Config;
use crate::services::backup;
use crate::services::backup::{BackupJob, restore, verify};
use crate::store::files::Storage;

pub const BACKUP_HELP: &str = "\
Usage: vski backup DIR [--verify] [OPTIONS]

Copies everything in DATA_DIR to DIR: all databases, the secret and, with local storage, the files of
records. A server may run meanwhile, and DATA_DIR need not be writable. The copy is one consistent state,
which vski restore puts back. DIR is created if it does not exist. If it holds an earlier backup, only new
files are copied, and the earlier backup stays valid until the new one is complete and on disk.
A replica backs up what it has received; the backup waits a while for files that are on their way.

  --verify   reads the files of the earlier backup and copies damaged ones again

The options of the storage (STORAGE, S3_...) are those of the server. With STORAGE=s3 the files are not
copied: the bucket is not part of the backup.

Prints its progress to stderr. Exits with 1 if there is no new backup, or if the new one lacks files that
were already missing or damaged in the storage; it names them.
";

pub const RESTORE_HELP: &str = "\
Usage: vski restore DIR|ZIP [--replace] [--data-dir DIR]

Restores the backup in DIR, or an archive of /api/backups, into DATA_DIR, which must be empty or not exist.
No server may run on it. The hashes of the backup and the databases are checked before anything is replaced.

  --replace   moves existing data to DATA_DIR.before-TIME, except the archives in DATA_DIR/backups

When root restores, the files belong to the owner of DATA_DIR. Replicas follow the restored master without
further steps. Pending runs of workflows, webhooks and jobs continue, so calls made since the backup may be
repeated.
";

pub const CHECK_HELP: &str = "\
Usage: vski check [DIR] [OPTIONS]

Checks everything in DATA_DIR, or the backup in DIR: the pages and indexes of every database, the system
tables, the definitions of collections and their tables, and every stored file with its hash and record (as
vski files check does); of a backup also the hashes of its parts. It changes nothing, and a server may run
meanwhile. The options of the storage (STORAGE, S3_...) are those of the server.

Prints a line for each finding and a summary. Exits with 1 if there is a finding.
";

pub fn backup(args: &[String]) -> CommandResult {
    let parsed = parse(args, &[], &["verify"])?;
    let dir = one_dir(&parsed.free, "backup needs one DIR.")?;
    let data_dir = Config::load_data_dir(&parsed.flags)?;
    let is_bucket = Config::load_s3(&parsed.flags)?.is_some();
    refuse_empty(&data_dir)?;
    let summary = backup::run(BackupJob {
        data_dir: &data_dir,
        dir: Path::new(dir),
        is_bucket,
        verifies: parsed.own.contains_key("verify"),
        settings: SETTINGS,
        stop: &Stop::new(),
        report: &mut print_progress,
    })?;
    let files = match is_bucket {
        true => "the files are in the bucket and not part of it".to_owned(),
        false => format!(
            "{} files with {} bytes, of which {} with {} bytes are new",
            summary.files, summary.bytes, summary.copied, summary.copied_bytes
        ),
    };
    print(&format!(
        "{dir}: {} databases with {} bytes; {files}.\n",
        summary.databases, summary.database_bytes
    ))?;
    fail_if_any(summary.missing)
}

pub fn restore(args: &[String]) -> CommandResult {
    let parsed = parse(args, &[], &["replace"])?;
    let dir = one_dir(&parsed.free, "restore needs one DIR.")?;
    let data_dir = Config::load_data_dir(&parsed.flags)?;
    let replaces = parsed.own.contains_key("replace");
    let restored = restore::run(
        Path::new(dir),
        &data_dir,
        replaces,
        SETTINGS,
        &mut print_progress,
    )?;
    let mut text = format!(
        "{} is as of {}: {} databases, {} files with {} bytes.\n",
        data_dir.display(),
        restored.time,
        restored.databases,
        restored.files,
        restored.bytes
    );
    if restored.is_bucket {
        text.push_str("The files are in the bucket, which was not part of the backup.\n");
    }
    if let Some(aside) = &restored.aside {
        text.push_str(&format!("The previous data is in {}.\n", aside.display()));
    }
    print(&text)?;
    fail_if_any(restored.missing)
}

pub fn check(args: &[String]) -> CommandResult {
    let parsed = parse(args, &[], &[])?;
    let mut report = |line: &str| {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}").context("print")
    };
    let summary = match parsed.free.as_slice() {
        [] => {
            let data_dir = Config::load_data_dir(&parsed.flags)?;
            let s3 = Config::load_s3(&parsed.flags)?;
            refuse_empty(&data_dir)?;
            let storage = Storage::open_to_inspect(&data_dir, s3.as_ref())?;
            verify::data(&data_dir, &storage, SETTINGS, &mut report)?
        }
        free => {
            let dir = one_dir(free, "check accepts at most one DIR.")?;
            verify::backup(Path::new(dir), SETTINGS, &mut report)?
        }
    };
    print(&format!(
        "{} databases and {} files with {} bytes checked, {} findings.\n",
        summary.databases, summary.files, summary.bytes, summary.found
    ))?;
    fail_if_any(summary.found)
}

/// The only argument, a directory. An empty one, as from a variable that is not set, is an error.
fn one_dir<'a>(free: &'a [String], rule: &str) -> Result<&'a str, CommandError> {
    match free {
        [dir] if dir.is_empty() => Err(CommandError::Usage("The name of DIR is empty.".to_owned())),
        [dir] => Ok(dir),
        _ => Err(CommandError::Usage(rule.to_owned())),
    }
}

fn fail_if_any(wrong: u64) -> CommandResult {
    match wrong {
        0 => Ok(()),
        _ => Err(CommandError::AlreadyReported),
    }
}

fn print_progress(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
