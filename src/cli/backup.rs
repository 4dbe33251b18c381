//! `vski backup`, `vski restore` and `vski check`.

use std::io::Write as _;
use std::path::Path;

use super::arguments::parse;
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_empty};
use crate::base::error::ResultExt as _;
use crate::config::Config;
use crate::services::backup;
use crate::services::backup::{BackupJob, restore, verify};
use crate::store::files::Storage;

pub const BACKUP_HELP: &str = "\
Usage: vski backup DIR [--verify] [OPTIONS]

Copies everything that belongs to DATA_DIR to DIR: all databases, the secret, and with local storage the
files of records; also while a server runs on it. The copy is one state, to which vski restore brings a data
directory back. DIR is made when it is not there. When it holds an earlier backup, files that are in it stay
and only new ones are copied; the earlier backup counts until the new one is complete and on the disk.
A replica has what has arrived there: for files that are on their way a backup waits a while.
DATA_DIR need not be writable.

  --verify   reads the files that an earlier backup has left there, and copies those anew that are damaged

The options of the storage (STORAGE, S3_...) are those of the server. With STORAGE=s3 the files are not copied: the
bucket is no part of the backup.

Says on stderr how far it is. Exits with 1 when there is no new backup, and when there is one without some files
that the storage had lost or damaged already; it names them.
";

pub const RESTORE_HELP: &str = "\
Usage: vski restore DIR [--replace] [--data-dir DIR]

Puts the backup in DIR into DATA_DIR, which has to be empty or not there yet, and on which no server runs.
The hashes of the backup are compared first, and the databases are checked before they take their place.

  --replace   moves what is there aside, to DATA_DIR.before-TIME

What root restores belongs to the owner of DATA_DIR, and is written with the rights of that user. Replicas follow the restored master by themselves. Runs of
workflows, webhooks and jobs that were pending go on, so calls that were made since the backup may be made again.
";

pub const CHECK_HELP: &str = "\
Usage: vski check [DIR] [OPTIONS]

Looks whether everything in DATA_DIR is as it should be, or in the backup in DIR: the pages and indexes of every
database, the system tables, the definitions of collections and their tables, every stored file with its hash
and its record (as vski files check does), and of a backup the hashes of its parts. It changes nothing and works
beside a running server. The options of the storage (STORAGE, S3_...) are those of the server.

Prints a line for each finding and one that sums up. Exits with 1 when something is wrong.
";

pub fn backup(args: &[String]) -> CommandResult {
    let parsed = parse(args, &[], &["verify"])?;
    let dir = one_dir(&parsed.free, "backup takes one DIR.")?;
    let data_dir = Config::load_data_dir(&parsed.flags)?;
    let is_bucket = Config::load_s3(&parsed.flags)?.is_some();
    refuse_empty(&data_dir)?;
    let summary = backup::run(BackupJob {
        data_dir: &data_dir,
        dir: Path::new(dir),
        is_bucket,
        verifies: parsed.own.contains_key("verify"),
        settings: SETTINGS,
        report: &mut print_progress,
    })?;
    let files = match is_bucket {
        true => "the bucket with the files is no part of it".to_owned(),
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
    let dir = one_dir(&parsed.free, "restore takes one DIR.")?;
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
        text.push_str("The files are in the bucket, which was no part of the backup.\n");
    }
    if let Some(aside) = &restored.aside {
        text.push_str(&format!("What was there is in {}.\n", aside.display()));
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
            let dir = one_dir(free, "check takes one DIR at most.")?;
            verify::backup(Path::new(dir), SETTINGS, &mut report)?
        }
    };
    print(&format!(
        "{} databases and {} files with {} bytes looked at, {} findings.\n",
        summary.databases, summary.files, summary.bytes, summary.found
    ))?;
    fail_if_any(summary.found)
}

/// The one directory that is named. A variable that is not set names none.
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
