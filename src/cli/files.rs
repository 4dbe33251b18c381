//! `vski files`: stored files compared with their hashes and records.

use std::io::Write as _;

use super::arguments::flags;
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_empty, refuse_replica};
use crate::base::error::ResultExt as _;
use crate::config::Config;
use crate::services::check::{Check, Finding};
use crate::store::files::{FilePath, Storage};

pub const HELP: &str = "\
Usage: vski files check [--repair] [OPTIONS]

Reads every stored file and compares it with its hash, and looks whether storage and records agree;
also while a server runs on the data. The options of the storage (STORAGE, S3_...) are those of the
server. Prints a line for each finding:

  missing     a record names it, and it is not in the storage; put it back from a backup
  damaged     its bytes are not those that were stored; put it back from a backup
  unreadable  it cannot be read; may this account read it?
  unlisted    a record names it, it is in the storage, and has no row; --repair gives it one
  abandoned   it has a row but no record; --repair deletes it
  left over   it is in the storage for an hour, and nothing knows of it; --repair deletes it

Exits with 1 when something is left that is wrong.
";

pub fn run(args: &[String]) -> CommandResult {
    let repairs = args.iter().any(|arg| arg == "--repair");
    let args: Vec<String> = args
        .iter()
        .filter(|arg| *arg != "--repair")
        .cloned()
        .collect();
    let (flags, free) = flags(&args)?;
    if free != ["check"] {
        return Err(CommandError::Usage("files takes check.".to_owned()));
    }
    let data_dir = Config::load_data_dir(&flags)?;
    refuse_empty(&data_dir)?;
    if repairs {
        refuse_replica(&data_dir)?;
    }
    let s3 = Config::load_s3(&flags)?;
    let mut report = |finding: Finding, path: &FilePath, is_mended: bool| {
        let note = if is_mended { "  (mended)" } else { "" };
        let line = format!("{:10} {path}{note}\n", finding.name());
        std::io::stdout()
            .lock()
            .write_all(line.as_bytes())
            .context("print")
    };
    let storage = Storage::open_to_inspect(&data_dir, s3.as_ref())?;
    let summary = Check::new(&storage, repairs, &mut report).run(&data_dir, SETTINGS)?;
    print(&format!(
        "{} files with {} bytes looked at, {} findings, {} mended.\n",
        summary.files, summary.bytes, summary.found, summary.repaired
    ))?;
    match summary.found == summary.repaired {
        true => Ok(()),
        false => Err(CommandError::AlreadyReported),
    }
}
