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

Reads every stored file and compares it with its hash, and compares the storage with the records.
A server may run meanwhile. The options of the storage (STORAGE, S3_...) are those of the server.
Prints a line for each finding:

  missing     a record names the file, but the storage does not have it; restore it from a backup
  damaged     the contents differ from what was stored; restore the file from a backup
  unreadable  the file cannot be read; check its permissions
  unlisted    a record names the file and the storage has it, but it has no row; --repair adds one
  abandoned   the file has a row but no record; --repair deletes it
  left over   the storage has had the file for an hour, but no row names it; --repair deletes it

Exits with 1 if a problem is left.
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
        return Err(CommandError::Usage(
            "files needs the subcommand check.".to_owned(),
        ));
    }
    let data_dir = Config::load_data_dir(&flags)?;
    refuse_empty(&data_dir)?;
    if repairs {
        refuse_replica(&data_dir)?;
    }
    let s3 = Config::load_s3(&flags)?;
    let mut report = |finding: Finding, path: &FilePath, is_repaired: bool| {
        let note = if is_repaired { "  (repaired)" } else { "" };
        let line = format!("{:10} {path}{note}\n", finding.name());
        std::io::stdout()
            .lock()
            .write_all(line.as_bytes())
            .context("print")
    };
    let storage = Storage::open_to_inspect(&data_dir, s3.as_ref())?;
    let summary = Check::new(&storage, repairs, &mut report).run(&data_dir, SETTINGS)?;
    print(&format!(
        "{} files with {} bytes checked, {} findings, {} repaired.\n",
        summary.files, summary.bytes, summary.found, summary.repaired
    ))?;
    match summary.found == summary.repaired {
        true => Ok(()),
        false => Err(CommandError::AlreadyReported),
    }
}
