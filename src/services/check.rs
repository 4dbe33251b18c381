//! `vski files check`: verifies that storage, rows and records agree, also while a server runs.
//!
//! Every stored file is read and hashed. A file that changed during the check is checked again, so
//! a change by the server is not a finding.

use std::io::Read;
use std::path::Path;

use crate::base::error::Result;
use crate::base::{clock, crypto, ids};
use crate::model::collections::Collection;
use crate::model::{collections, records};
use crate::store::db::Database;
use crate::store::files::journal::PAGE;
use crate::store::files::{FilePath, Storage, StoredFile, journal, table};
use crate::store::{db, files, node};

/// A younger file without a row may be about to get one.
const GRACE_MS: i64 = 3_600_000;

/// A fault of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A record names the file, but the storage lacks it.
    Missing,
    /// Its content differs from what was stored.
    Damaged,
    /// The file exists but cannot be read.
    Unreadable,
    /// A record names the file and the storage has it, but it has no row.
    Unlisted,
    /// The file has a row but no record.
    Abandoned,
    /// The file is in the storage without a row or a record.
    LeftOver,
}

impl Finding {
    pub fn name(self) -> &'static str {
        match self {
            Finding::Missing => "missing",
            Finding::Damaged => "damaged",
            Finding::Unreadable => "unreadable",
            Finding::Unlisted => "unlisted",
            Finding::Abandoned => "abandoned",
            Finding::LeftOver => "left over",
        }
    }
}

/// The result of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    pub files: u64,
    pub bytes: u64,
    pub found: u64,
    pub repaired: u64,
}

/// Checks the storage of a data directory.
pub struct Check<'a> {
    storage: &'a Storage,
    /// Repair what can be repaired.
    repairs: bool,
    /// Receives each finding, and whether it was repaired.
    report: &'a mut dyn FnMut(Finding, &FilePath, bool) -> Result<()>,
    summary: CheckSummary,
}

/// A database and its definitions.
struct CheckedDatabase {
    name: String,
    database: Database,
    collections: Vec<Collection>,
}

impl<'a> Check<'a> {
    pub fn new(
        storage: &'a Storage,
        repairs: bool,
        report: &'a mut dyn FnMut(Finding, &FilePath, bool) -> Result<()>,
    ) -> Check<'a> {
        Check {
            storage,
            repairs,
            report,
            summary: CheckSummary::default(),
        }
    }

    /// Checks everything.
    pub fn run(
        mut self,
        data_dir: &Path,
        settings: db::ConnectionSettings,
    ) -> Result<CheckSummary> {
        let repairs = self.repairs;
        let open = |name: &str| match repairs {
            true => db::open_existing(data_dir, name, settings),
            false => db::open_to_inspect(data_dir, name, settings),
        };
        let default = open(db::DEFAULT)?;
        if self.repairs {
            let local = open(db::LOCAL)?;
            self.storage.is_claimed_by(&node::id(&local)?)?;
            local.close()?;
        }
        for name in db::names(data_dir)? {
            let collections = default.read(|it| collections::definitions(it, &name))?;
            let checked = CheckedDatabase {
                database: open(&name)?,
                name,
                collections,
            };
            self.check_rows(&checked)?;
            self.check_records(&checked)?;
            self.check_storage(&checked, &default)?;
            checked.database.close()?;
        }
        default.close()?;
        Ok(self.summary)
    }

    fn report_finding(
        &mut self,
        finding: Finding,
        path: &FilePath,
        is_repaired: bool,
    ) -> Result<()> {
        self.summary.found += 1;
        self.summary.repaired += u64::from(is_repaired);
        (self.report)(finding, path, is_repaired)
    }

    /// Checks that each file with a row is complete and has a record.
    fn check_rows(&mut self, checked: &CheckedDatabase) -> Result<()> {
        let mut after: Option<FilePath> = None;
        loop {
            let add_row = checked
                .database
                .read(|it| table::list(it, &checked.name, after.as_ref(), PAGE))?;
            for (path, stored) in &add_row {
                self.check_row(checked, path, stored)?;
            }
            match add_row.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => return Ok(()),
            }
        }
    }

    fn check_row(
        &mut self,
        checked: &CheckedDatabase,
        path: &FilePath,
        stored: &StoredFile,
    ) -> Result<()> {
        self.summary.files += 1;
        let is_whole = match self.is_whole(path, stored) {
            // A local file without read permission must not stop the check; a failing bucket does.
            Err(_) if self.storage.has_journal() => {
                return self.report_finding(Finding::Unreadable, path, false);
            }
            result => result?,
        };
        // Files of deleted collections are kept until the collections are purged.
        let collection = checked
            .collections
            .iter()
            .find(|it| it.id == path.collection);
        let (has_row, has_record) = checked.database.read(|it| {
            let row = table::find(it, &path.collection, &path.record, &path.name)?;
            let record = match collection {
                Some(collection) => records::exists(it, collection, &path.record)?,
                None => true,
            };
            Ok((row.is_some(), record))
        })?;
        match (has_row, has_record, is_whole) {
            (false, _, _) | (true, true, Some(true)) => Ok(()),
            (true, true, None) => self.report_finding(Finding::Missing, path, false),
            (true, true, Some(false)) => self.report_finding(Finding::Damaged, path, false),
            (true, false, _) => {
                if self.repairs {
                    let path = path.clone();
                    checked.database.write(move |tx| {
                        table::remove(tx, &path.collection, &path.record, &path.name)
                    })?;
                }
                self.report_finding(Finding::Abandoned, path, self.repairs)
            }
        }
    }

    /// Reports whether the content matches the row; `None` if the file is missing.
    fn is_whole(&mut self, path: &FilePath, stored: &StoredFile) -> Result<Option<bool>> {
        Ok(match self.storage.size(path)? {
            Some(size) if size == stored.size => {
                let content = self.storage.read_unverified(path, 0, size)?;
                self.summary.bytes += size;
                let found = content.map(digest).transpose()?;
                found.map(|(size, sha256)| size == stored.size && sha256 == stored.sha256)
            }
            other => other.map(|_| false),
        })
    }

    /// Checks that each file that a record names has a row.
    fn check_records(&mut self, checked: &CheckedDatabase) -> Result<()> {
        for collection in &checked.collections {
            let unlisted = checked
                .database
                .read(|it| records::files_without_row(it, collection))?;
            for (record, name) in unlisted {
                let path = FilePath {
                    database: checked.name.clone(),
                    collection: collection.id.clone(),
                    record,
                    name,
                };
                let is_path = FilePath::parse(&path.to_string()).is_some();
                let size = match is_path {
                    true => self.storage.size(&path)?,
                    false => None,
                };
                let content = match size {
                    Some(size) => self.storage.read_unverified(&path, 0, size)?,
                    None => None,
                };
                match content {
                    None => self.report_finding(Finding::Missing, &path, false)?,
                    Some(content) => {
                        if self.repairs {
                            add_row(checked, collection, &path, content)?;
                        }
                        self.report_finding(Finding::Unlisted, &path, self.repairs)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that each file in the storage has a row. Files of a missing database stay, because it
    /// may return.
    fn check_storage(&mut self, checked: &CheckedDatabase, default: &Database) -> Result<()> {
        let before_ms = clock::now_ms() - GRACE_MS;
        let mut left_over = Vec::new();
        let has_row = |path: &FilePath| {
            checked.database.read(|it| {
                let row = table::find(it, &path.collection, &path.record, &path.name)?;
                Ok(row.is_some())
            })
        };
        self.storage
            .walk_in(&checked.name, &mut |path, written_ms| {
                if written_ms < before_ms && !has_row(&path)? {
                    left_over.push(path);
                }
                Ok(())
            })?;
        for path in left_over {
            if has_row(&path)? {
                continue;
            }
            if self.repairs {
                self.storage.remove(&path)?;
                if self.storage.has_journal() {
                    let path = path.clone();
                    default.write(move |tx| {
                        journal::write(tx, [(&path, "delete", 0, "")].into_iter())
                    })?;
                }
            }
            self.report_finding(Finding::LeftOver, &path, self.repairs)?;
        }
        Ok(())
    }
}

/// Adds a row for a file, unless its record no longer names it.
fn add_row(
    checked: &CheckedDatabase,
    collection: &Collection,
    path: &FilePath,
    mut content: Box<dyn Read + Send>,
) -> Result<()> {
    let mut beginning = Vec::new();
    let limit = files::SNIFF_BYTES as u64;
    Read::by_ref(&mut content)
        .take(limit)
        .read_to_end(&mut beginning)?;
    let (size, sha256) = digest(beginning.as_slice().chain(content))?;
    let stored = StoredFile {
        name: path.name.clone(),
        size,
        sha256,
        media_type: files::detect(&path.name, &beginning),
    };
    let (collection, record) = (collection.clone(), path.record.clone());
    checked.database.write(move |tx| {
        let has_row = table::find(tx, &collection.id, &record, &stored.name)?.is_some();
        match records::field_of_file(tx, &collection, &record, &stored.name)? {
            Some(_) if !has_row => table::add(tx, &collection.id, &record, &stored),
            _ => Ok(()),
        }
    })
}

/// The size and the SHA-256 in hexadecimal.
fn digest(content: impl Read) -> Result<(u64, String)> {
    let (size, sha256) = crypto::sha256_of(content)?;
    Ok((size, ids::hex(&sha256)))
}
