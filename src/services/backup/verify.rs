//! `vski check`: verifies a data directory or a backup. It changes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use super::directory::files_dir;
use super::manifest::BackupManifest;
use super::{directory, missing};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{crypto, ids};
use crate::model::collections::Collection;
use crate::model::{collections, records};
use crate::services::check::{Check, Finding};
use crate::store::db;
use crate::store::db::Connection;
use crate::store::db::pages::PageReader;
use crate::store::files::journal::PAGE;
use crate::store::files::{FilePath, Storage, StoredFile, table};

/// The number of objects checked, and of findings.
#[derive(Default)]
pub struct VerifySummary {
    pub databases: u64,
    pub files: u64,
    pub bytes: u64,
    pub found: u64,
}

/// Receives each finding as a line.
pub type ReportFn<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

struct Verifier<'a> {
    report: ReportFn<'a>,
    summary: VerifySummary,
}

impl Verifier<'_> {
    fn report_finding(&mut self, kind: &str, what: &str) -> Result<()> {
        self.summary.found += 1;
        (self.report)(&format!("{kind:10} {what}"))
    }

    /// Reports the faults of a database. Returns whether there are any.
    fn database(&mut self, name: &str, faults: Result<Vec<String>>) -> Result<bool> {
        self.summary.databases += 1;
        // An unreadable database is a finding and must not stop the check of others.
        let (kind, faults) = match faults {
            Ok(faults) => ("damaged", faults),
            Err(error) if db::is_damaged(&error) => ("damaged", vec![error.to_string()]),
            // Missing permission or a failing disk says nothing about the content.
            Err(error) => ("unreadable", vec![error.to_string()]),
        };
        for fault in &faults {
            self.report_finding(kind, &format!("{name}.db: {fault}"))?;
        }
        Ok(!faults.is_empty())
    }

    /// The definitions of a database; none if they cannot be read.
    fn definitions(&mut self, default: &Connection, name: &str) -> Result<Vec<Collection>> {
        match collections::stable_definitions(default, name) {
            Ok(list) => Ok(list),
            Err(error) => {
                self.report_finding("unreadable", &format!("definitions of {name}: {error}"))?;
                Ok(Vec::new())
            }
        }
    }

    /// Checks that each definition has its table.
    fn tables(&mut self, connection: &Connection, list: &[Collection]) -> Result<()> {
        for collection in list {
            if let Err(error) = records::exists(connection, collection, "") {
                let (database, name) = (&collection.database, &collection.name);
                self.report_finding("no table", &format!("{database}.db: {name}: {error}"))?;
            }
        }
        Ok(())
    }
}

/// Verifies a data directory, also while a server runs.
pub fn data(
    data_dir: &Path,
    files: &Storage,
    settings: db::ConnectionSettings,
    report: ReportFn<'_>,
) -> Result<VerifySummary> {
    let mut verifier = Verifier {
        report,
        summary: VerifySummary::default(),
    };
    let _held = db::offline::lock_read_only(data_dir)?;
    let mut served = db::names(data_dir)?;
    let own = [db::LOCAL, db::WORKFLOWS, db::STATS];
    let (mut is_damaged, mut is_outdated) = (false, false);
    for name in served.iter().map(String::as_str).chain(own) {
        if !missing::is_there(data_dir, name) && name != db::DEFAULT {
            continue;
        }
        let mut faults = Vec::from_iter(without_content(data_dir, name));
        let mut read = Ok(());
        if faults.is_empty() {
            read = with_state(data_dir, name, settings, &mut |connection, version| {
                is_outdated |= version < db::schema_of(name).version();
                faults = db::offline::faults(connection, db::schema_of(name))?;
                Ok(())
            });
        }
        is_damaged |= verifier.database(name, read.map(|()| faults))?;
    }
    if is_damaged || is_outdated {
        let why = match is_damaged {
            true => "because a database is damaged or cannot be read",
            false => "because the data is from an older vski: start the server once",
        };
        (verifier.report)(&format!("Definitions and files were not checked, {why}."))?;
        return Ok(verifier.summary);
    }
    let mut missing = Vec::new();
    with_state(data_dir, db::DEFAULT, settings, &mut |connection, _| {
        missing = missing::databases(data_dir, connection)?;
        Ok(())
    })?;
    for name in &missing {
        verifier.report_finding("missing", &format!("{name}.db"))?;
    }
    served.retain(|name| missing::has_content(data_dir, name));
    for name in &served {
        let mut list = Vec::new();
        with_state(data_dir, db::DEFAULT, settings, &mut |connection, _| {
            list = verifier.definitions(connection, name)?;
            Ok(())
        })?;
        with_state(data_dir, name, settings, &mut |connection, _| {
            verifier.tables(connection, &list)
        })?;
    }
    if verifier.summary.found > 0 {
        (verifier.report)("Files were not checked, because databases have faults.")?;
        return Ok(verifier.summary);
    }
    let report = verifier.report;
    let mut report = |finding: Finding, path: &FilePath, _: bool| {
        report(&format!("{:10} {path}", finding.name()))
    };
    let summary = Check::new(files, false, &mut report).run(data_dir, settings)?;
    Ok(VerifySummary {
        files: summary.files,
        bytes: summary.bytes,
        found: summary.found,
        databases: verifier.summary.databases,
    })
}

/// The fault of a database file that is missing or empty.
fn without_content(data_dir: &Path, name: &str) -> Option<String> {
    let path = data_dir.join(format!("{name}.db"));
    match (path.is_file(), missing::has_content(data_dir, name)) {
        (false, _) => Some(format!("{} is missing.", path.display())),
        (true, false) => Some("The file is empty.".to_owned()),
        (true, true) => None,
    }
}

/// Calls `body` with a snapshot of a database that a server may have open, and the version of its
/// schema.
fn with_state(
    data_dir: &Path,
    name: &str,
    settings: db::ConnectionSettings,
    body: &mut dyn FnMut(&Connection, i64) -> Result<()>,
) -> Result<()> {
    let reader = PageReader::open_foreign(&data_dir.join(format!("{name}.db")))?;
    let snapshot = reader.snapshot()?;
    (settings.prepare)(snapshot.connection(), &db::Deadline::new())?;
    body(snapshot.connection(), snapshot.user_version()?)
}

/// Verifies a backup: its parts, its databases, and every file that they name.
pub fn backup(
    dir: &Path,
    settings: db::ConnectionSettings,
    report: ReportFn<'_>,
) -> Result<VerifySummary> {
    if dir.is_file() {
        return Err(Error::invalid(format!(
            "{} is an archive; vski restore into an empty directory checks it.",
            dir.display()
        )));
    }
    let _backup = directory::hold(dir)?;
    let manifest = BackupManifest::read_existing(dir)?;
    let mut verifier = Verifier {
        report,
        summary: VerifySummary::default(),
    };
    for fault in manifest.faults(dir, |path| File::open(dir.join(path))) {
        verifier.report_finding("damaged", &fault)?;
    }
    let state = manifest.state(dir);
    let open = |name: &str| db::offline::open(&state.join(format!("{name}.db")), settings.prepare);
    let mut whole = BTreeSet::new();
    for name in manifest.parts.iter().filter_map(|it| it.database()) {
        let faults = open(name).and_then(|it| db::offline::faults(&it, db::schema_of(name)));
        if !verifier.database(name, faults)? {
            whole.insert(name);
        }
    }
    if !whole.contains(db::DEFAULT) {
        return Ok(verifier.summary);
    }
    let default = open(db::DEFAULT)?;
    for name in whole.into_iter().filter(|name| db::is_valid_name(name)) {
        let database = open(name)?;
        let list = verifier.definitions(&default, name)?;
        verifier.tables(&database, &list)?;
        for collection in list.iter().filter(|_| name != db::DEFAULT) {
            if !collections::is_applied(&database, collection)? {
                let what = format!(
                    "{name}.db: {} does not match its definition",
                    collection.name
                );
                verifier.report_finding("other state", &what)?;
            }
        }
        if manifest.files_dir == "local" && table::exists(&database)? {
            verifier.files_of(dir, name, &database)?;
        }
    }
    Ok(verifier.summary)
}

impl Verifier<'_> {
    fn files_of(&mut self, dir: &Path, name: &str, database: &Connection) -> Result<()> {
        let mut after: Option<FilePath> = None;
        loop {
            let list = table::list(database, name, after.as_ref(), PAGE)?;
            for (path, stored) in &list {
                self.file(dir, path, stored)?;
            }
            match list.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => return Ok(()),
            }
        }
    }

    fn file(&mut self, dir: &Path, path: &FilePath, stored: &StoredFile) -> Result<()> {
        self.summary.files += 1;
        self.summary.bytes = self.summary.bytes.saturating_add(stored.size);
        let is_path = FilePath::parse(&path.to_string()).is_some();
        let finding = match File::open(files_dir(dir).join(path.relative())) {
            _ if !is_path => Some(Finding::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Finding::Missing),
            Err(error) => return Err(Error::from(error).context(format!("open {path}"))),
            Ok(file) => {
                let (size, sha256) = crypto::sha256_of(file).context(format!("read {path}"))?;
                let is_whole = size == stored.size && ids::hex(&sha256) == stored.sha256;
                (!is_whole).then_some(Finding::Damaged)
            }
        };
        match finding {
            Some(finding) => self.report_finding(finding.name(), &path.to_string()),
            None => Ok(()),
        }
    }
}
