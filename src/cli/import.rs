//! `vski import`: the data of a PocketBase.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::arguments::parse;
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_replica};
use crate::base::threads::lock;
use crate::config::Config;
use crate::services::import;
use crate::services::import::{ImportCounts, ImportJob, ImportProgress, ShowProgress};
use crate::store::db;
use crate::store::files::Reserve;

pub const HELP: &str = "\
Usage: vski import pocketbase DIR|ZIP [--dry-run] [--database NAME] [OPTIONS]

Imports the data of a PocketBase (0.23 or newer) from its folder pb_data, which no PocketBase may use
meanwhile, or from one of its backups: collections, records with their ids and times, files, password
hashes, external log-ins and superusers. No server may run on DATA_DIR, and the database must have no
collections. An import that fails leaves nothing behind but unused files, which the server deletes later.

  --dry-run         check everything and store nothing
  --database NAME   import into this database (default), without superusers; it is created if necessary

The options of the storage (STORAGE, S3_...) are those of the server. Prints its progress to stderr, then
the numbers and what could not come along.
";

/// Shortest time between two signs of progress.
const PAUSE_ON_TERMINAL: Duration = Duration::from_millis(200);
const PAUSE_IN_LOG: Duration = Duration::from_secs(5);

pub fn run(args: &[String]) -> CommandResult {
    let parsed = parse(args, &["database"], &["dry-run"])?;
    let source = match parsed.free.as_slice() {
        [from, source] if from == "pocketbase" && !source.is_empty() => Path::new(source),
        _ => {
            let message = "import needs the word pocketbase and one DIR or ZIP.";
            return Err(CommandError::Usage(message.to_owned()));
        }
    };
    let data_dir = Config::load_data_dir(&parsed.flags)?;
    let s3 = Config::load_s3(&parsed.flags)?;
    refuse_replica(&data_dir)?;
    let is_dry = parsed.own.contains_key("dry-run");
    let named = parsed.own.get("database").map(String::as_str);
    let report = import::run(&ImportJob {
        source,
        data_dir: &data_dir,
        s3: s3.as_ref(),
        reserve: Reserve::default(),
        database: named.unwrap_or(db::DEFAULT),
        is_dry,
        settings: SETTINGS,
        show: progress(),
    })?;
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    print(&summary(&report.counts, is_dry))?;
    if !report.losses.is_empty() {
        print("What did not come along:\n")?;
    }
    for line in &report.losses {
        print(&format!("- {line}\n"))?;
    }
    Ok(())
}

fn summary(counts: &ImportCounts, is_dry: bool) -> String {
    let ImportCounts {
        collections,
        records,
        files,
        file_bytes,
        admins,
        external_auths,
    } = counts;
    let files = match is_dry {
        true => String::new(),
        false => format!("{files} files with {file_bytes} bytes, "),
    };
    let start = if is_dry {
        "Can be imported"
    } else {
        "Imported"
    };
    format!(
        "{start}: {collections} collections, {records} records, {files}{admins} superusers, \
         {external_auths} external log-ins.\n"
    )
}

/// A bar on a terminal, else a line now and then.
fn progress() -> ShowProgress {
    let is_terminal = stderr().is_terminal();
    let pause = if is_terminal {
        PAUSE_ON_TERMINAL
    } else {
        PAUSE_IN_LOG
    };
    let shown = Mutex::new(Instant::now());
    Arc::new(move |progress: &ImportProgress| {
        let mut shown = lock(&shown);
        if shown.elapsed() < pause {
            return;
        }
        *shown = Instant::now();
        let ImportProgress { part, done, total } = progress;
        let _ = match is_terminal {
            true => {
                const WIDTH: u64 = 30;
                let full = (done * WIDTH)
                    .checked_div(*total)
                    .unwrap_or(WIDTH)
                    .min(WIDTH);
                let bar = "#".repeat(usize::try_from(full).unwrap_or(0));
                write!(stderr(), "\r\x1b[K[{bar:30}] {done} of {total} {part}")
            }
            false => writeln!(stderr(), "{done} of {total} {part}"),
        };
    })
}
