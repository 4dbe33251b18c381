//! Imports the data of a stopped PocketBase, from its folder `pb_data` or from one of its backups.
//!
//! The files are stored first, then one transaction creates the collections, through the same code
//! as the API, and inserts the records, the rows of the files, the external log-ins and the
//! superusers. So an error or a crash leaves no half import: at worst files without rows, which the
//! sweep of the server deletes, and an empty database. No server may run on the data directory.
//! Memory does not grow with the number of records and files.

pub use report::{ImportCounts, ImportProgress, ShowProgress};

mod definitions;
mod files;
mod report;
mod rows;
mod source;
mod views;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::base::error::{Error, Result};
use crate::base::ids;
use crate::base::threads::lock;
use crate::model::collections::{Catalog, Editor};
use crate::model::records;
use crate::store::db::{ConnectionSettings, Databases};
use crate::store::files::{Reserve, S3Settings, Storage};
use crate::store::{db, node};

use definitions::SourceCollection;
use files::{FileCopy, refuse_bucket};
use report::Losses;
use rows::{RowCopy, dry_run_is_over};
use source::Source;

/// Connections to tenants that stay open: an import uses one database.
const TENANTS: usize = 16;
/// The folder of a data directory into which the database of a backup is unpacked.
const SCRATCH: &str = ".import";

/// The source and the target of an import.
pub struct ImportJob<'a> {
    pub source: &'a Path,
    pub data_dir: &'a Path,
    pub s3: Option<&'a S3Settings>,
    pub reserve: Reserve,
    pub database: &'a str,
    /// Check everything and store nothing.
    pub is_dry: bool,
    pub settings: ConnectionSettings,
    pub show: ShowProgress,
}

/// The result of an import.
pub struct ImportReport {
    pub counts: ImportCounts,
    /// One sentence for each kind of data that could not come along.
    pub losses: Vec<String>,
}

/// A folder that is deleted when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// Creates the folder, without what an import that was killed has left in it.
    fn new(path: PathBuf) -> Result<Scratch> {
        let _ = fs::remove_dir_all(&path);
        db::create_dir(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs an import.
pub fn run(job: &ImportJob<'_>) -> Result<ImportReport> {
    if !job.source.exists() {
        let path = job.source.display();
        return Err(Error::not_found(format!("There is no {path}.")));
    }
    // A dry run fills an empty data directory, which is deleted afterwards.
    let dry = match job.is_dry {
        true => {
            let name = format!("vski-import-{}", ids::record_id()?);
            Some(Scratch::new(std::env::temp_dir().join(name))?)
        }
        false => None,
    };
    let target = dry.as_ref().map_or(job.data_dir, |dry| &dry.0);
    let is_new = !db::default_file(target).exists();
    // Locks the directory.
    let databases = Arc::new(Databases::open(target, job.settings, TENANTS)?);
    node::claim_role(databases.local(), db::Role::Master, is_new)?;
    let scratch = Scratch::new(target.join(SCRATCH))?;
    let source = Source::open(job.source, &scratch.0)?;
    let report = fill(job, &source, &databases);
    match Arc::try_unwrap(databases) {
        Ok(databases) => report.and_then(|report| databases.close().map(|()| report)),
        Err(_) => report,
    }
}

fn fill(job: &ImportJob<'_>, source: &Source, databases: &Arc<Databases>) -> Result<ImportReport> {
    let catalog = Catalog::open(Arc::clone(databases), records::CHECKS);
    let connection = source.connect()?;
    let mut collections = definitions::collections(&connection)?;
    let (losses, counts) = (
        Losses::default(),
        Arc::new(Mutex::new(ImportCounts::default())),
    );
    let settings = source::settings(&connection)?;
    refuse_bucket(&settings, source)?;
    note_losses(&settings, source, &losses);
    let renewed = definitions::renew_ids(&mut collections, |id| catalog.is_free_id(id))?;
    for name in renewed {
        losses.add("Ids of collections that another database here has", name);
    }
    let created = match job.database {
        db::DEFAULT => false,
        name => open_database(databases, &catalog, name)?,
    };
    refuse_collections(&catalog, job.database)?;
    let imported = (|| {
        views::drop_refused(&catalog, job.database, &mut collections, &losses)?;
        let storage = match job.is_dry {
            true => None,
            false => Some(Storage::open(job.data_dir, job.s3, job.reserve)?),
        };
        if let Some(storage) = &storage {
            storage.claim(&node::id(databases.local())?)?;
        }
        let copy = FileCopy {
            source,
            connection: &connection,
            storage: storage.as_ref(),
            database: job.database,
            losses: &losses,
            show: &job.show,
        };
        copy.run(&collections, &mut lock(&counts))?;
        lock(&counts).collections = collections.len() as u64;
        store(job, &catalog, connection, collections, &losses, &counts)
    })();
    if let Err(error) = imported {
        if created {
            catalog.delete_database(job.database, |_| {})?;
        }
        return Err(error);
    }
    let counts = lock(&counts).clone();
    Ok(ImportReport {
        counts,
        losses: losses.lines(),
    })
}

/// Creates the collections and fills them.
fn store(
    job: &ImportJob<'_>,
    catalog: &Catalog,
    source: db::Connection,
    collections: Vec<SourceCollection>,
    losses: &Losses,
    counts: &Arc<Mutex<ImportCounts>>,
) -> Result<()> {
    let exports: Vec<&Value> = collections.iter().map(|it| &it.export).collect();
    let body = json!({"collections": exports});
    let is_dry = job.is_dry;
    let rows = RowCopy {
        source,
        collections,
        counts: Arc::clone(counts),
        losses: losses.clone(),
        show: Arc::clone(&job.show),
        has_admins: job.database == db::DEFAULT,
        is_dry,
    };
    let over = Arc::new(Mutex::new(false));
    let ended = Arc::clone(&over);
    let stored = catalog.import_and_fill(
        job.database,
        &body,
        Editor::Admin,
        Box::new(move |tx, definitions| {
            rows.run(tx, definitions)?;
            *lock(&ended) = true;
            match is_dry {
                true => Err(dry_run_is_over()),
                false => Ok(()),
            }
        }),
    );
    match stored {
        Err(_) if is_dry && *lock(&over) => Ok(()),
        Err(error) => Err(error),
        Ok(warnings) => {
            warnings.iter().for_each(|warning| losses.note(warning));
            Ok(())
        }
    }
}

/// Creates the database unless it exists; true if it did not.
fn open_database(databases: &Databases, catalog: &Catalog, name: &str) -> Result<bool> {
    if databases.list()?.iter().any(|it| it == name) {
        return Ok(false);
    }
    catalog.create_database(name, || Ok(()))?;
    Ok(true)
}

/// Refuses a database that has collections, which an import could change.
fn refuse_collections(catalog: &Catalog, database: &str) -> Result<()> {
    let collections = catalog.collections(database)?;
    let names: Vec<&str> = collections
        .all()
        .iter()
        .map(|it| it.name.as_str())
        .take(5)
        .collect();
    match names.is_empty() {
        true => Ok(()),
        false => Err(Error::conflict(format!(
            "The database {database} has collections ({}); import into another one with --database NAME, or \
             into an empty --data-dir.",
            names.join(", ")
        ))),
    }
}

/// Notes what has no place in a database.
fn note_losses(settings: &Value, source: &Source, losses: &Losses) {
    let is_on = |group: &str| settings[group]["enabled"] == Value::Bool(true);
    if settings.is_null() {
        losses.note(
            "The settings, which are encrypted: set SMTP_URL, MAIL_FROM, PUBLIC_URL and STORAGE.",
        );
    }
    if is_on("smtp") {
        losses.note("The mail server: set SMTP_URL and MAIL_FROM.");
    }
    if is_on("s3") {
        losses.note("The bucket for files: set STORAGE=s3 and the S3_ options to use one again.");
    }
    let url = settings["meta"]["appURL"].as_str().unwrap_or_default();
    if !url.is_empty() && !url.contains("localhost") {
        losses.note(&format!(
            "The address of the application: set PUBLIC_URL={url}."
        ));
    }
    if settings["backups"]["cron"]
        .as_str()
        .is_some_and(|it| !it.is_empty())
    {
        losses.note("The schedule of backups: run vski backup DIR by a timer.");
    }
    if source.has_hooks() {
        losses.note("The programs in pb_hooks: write triggers, webhooks, workflows or jobs (docs/from-pocketbase.md).");
    }
    losses.note("Sessions: everyone signs in again, with the same password.");
}
