//! All databases of a data directory: `default.db`, `local.db`, `stats.db`, `workflows.db` and one
//! `<name>.db` per tenant.
//!
//! [`Databases`] locks the directory against other servers, opens tenants when they are first used
//! and closes the least recently used ones above [`OPEN_MAX`].
//!
//! Deleting a database is soft: its file moves to `deleted/`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::changed_databases::ChangedDatabases;
use super::connection::{
    ConnectionSettings, Role, Synchronous, beside, is_damaged, is_writable, remove_wal, wal_bytes,
};
use super::database::Database;
use super::dir;
use super::migrate::Schema;
use super::names::{
    DEFAULT, LOCAL, RESERVED, STATS, WORKFLOWS, file, is_valid_name, names, schema_of,
};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::lock;
use crate::base::{clock, log, threads};

/// Tenant databases kept open; to open another one, an unused one is closed.
const OPEN_MAX: usize = 64;
/// Time that deleting a database waits for requests that still use it.
const DELETE_WAIT: Duration = Duration::from_secs(5);

/// All databases of one data directory.
pub struct Databases {
    dir: PathBuf,
    settings: ConnectionSettings,
    default: Arc<Database>,
    local: Arc<Database>,
    stats: Arc<Database>,
    workflows: Arc<Database>,
    tenants: Mutex<Tenants>,
    /// Databases that were written to since replicas were notified.
    pub changes: Arc<ChangedDatabases>,
    /// The lock of the directory, released when the descriptor is closed.
    _lock: File,
}

/// The open tenants. Invariant: a name is not in both.
#[derive(Default)]
struct Tenants {
    open: HashMap<String, Tenant>,
    /// Being deleted: [`Databases::get`] does not find them and does not open them again.
    leaving: HashSet<String>,
}

struct Tenant {
    database: Arc<Database>,
    used: Instant,
}

impl Databases {
    /// Locks the directory, creating it if needed, and opens the system databases.
    pub fn open(dir: &Path, settings: ConnectionSettings) -> Result<Databases> {
        dir::create_dir(dir)?;
        let lock = dir::lock_dir(dir)?;
        dir::warn_if_writable(dir);
        dir::refuse_half_restored(dir)?;
        if settings.role == Role::Master {
            dir::refuse_emptied(dir)?;
        }
        let changes = Arc::default();
        let default = open_database(dir, DEFAULT, settings, &changes)?;
        // After `default.db`: `dir::refuse_emptied` relies on that order.
        let local = Database::open(&file(dir, LOCAL), Schema::Local, settings)?;
        let stats = open_stats(dir, settings)?;
        let workflows = Database::open(&file(dir, WORKFLOWS), Schema::Workflows, settings)?;
        Ok(Databases {
            dir: dir.to_owned(),
            settings,
            default: Arc::new(default),
            local: Arc::new(local),
            stats: Arc::new(stats),
            workflows: Arc::new(workflows),
            tenants: Mutex::new(Tenants::default()),
            changes,
            _lock: lock,
        })
    }

    pub fn role(&self) -> Role {
        self.settings.role
    }

    /// `default.db`, which also holds the definitions of everything.
    pub fn default(&self) -> &Arc<Database> {
        &self.default
    }

    /// `local.db`, which holds data about this node alone.
    pub fn local(&self) -> &Arc<Database> {
        &self.local
    }

    /// `stats.db`, which holds the statistics of this node.
    pub fn stats(&self) -> &Arc<Database> {
        &self.stats
    }

    /// `workflows.db`, which holds the workflow runs of this node.
    pub fn workflows(&self) -> &Arc<Database> {
        &self.workflows
    }

    /// The database of this name; opens it if it is closed.
    pub fn get(&self, name: &str) -> Result<Arc<Database>> {
        if name == DEFAULT {
            return Ok(Arc::clone(&self.default));
        }
        let mut tenants = lock(&self.tenants);
        if let Some(tenant) = tenants.open.get_mut(name) {
            tenant.used = Instant::now();
            return Ok(Arc::clone(&tenant.database));
        }
        let is_leaving = tenants.leaving.contains(name);
        if !is_valid_name(name) || is_leaving || !file(&self.dir, name).is_file() {
            return Err(no_database(name));
        }
        close_unused(&mut tenants.open);
        self.open_tenant(&mut tenants, name)
    }

    /// Refuses a name that is invalid, reserved or in use.
    pub fn check_new(&self, name: &str) -> Result<()> {
        if RESERVED.contains(&name) {
            return Err(Error::invalid(format!(
                "The database name {name} is reserved."
            )));
        }
        if !is_valid_name(name) {
            return Err(Error::field(
                "name",
                "validation_invalid_name",
                "Must be 1 to 64 of a-z, 0-9, _ and -, the first one a letter or a digit.",
            ));
        }
        if name == DEFAULT || file(&self.dir, name).exists() {
            return Err(Error::conflict(format!(
                "The database {name} already exists."
            )));
        }
        Ok(())
    }

    /// Creates an empty database.
    pub fn create(&self, name: &str) -> Result<()> {
        let mut tenants = lock(&self.tenants);
        self.check_new(name)?;
        close_unused(&mut tenants.open);
        self.open_tenant(&mut tenants, name)
            .map(drop)
            .inspect_err(|_| {
                // A leftover file would block the next attempt.
                let path = file(&self.dir, name);
                let _ = fs::remove_file(&path);
                remove_wal(&path);
            })
    }

    /// The names of all databases, sorted, `default` first.
    pub fn list(&self) -> Result<Vec<String>> {
        names(&self.dir)
    }

    /// The path of the file of a database, which need not exist.
    pub fn file(&self, name: &str) -> PathBuf {
        file(&self.dir, name)
    }

    /// Takes a database out of service and moves its file to `deleted/`; returns its new path.
    pub fn delete(&self, name: &str) -> Result<PathBuf> {
        if name == DEFAULT || RESERVED.contains(&name) {
            return Err(Error::invalid(format!(
                "The database {name} cannot be deleted."
            )));
        }
        drop(self.get(name)?);
        let tenant = {
            let mut tenants = lock(&self.tenants);
            let tenant = tenants.open.remove(name).ok_or_else(|| no_database(name))?;
            tenants.leaving.insert(name.to_owned());
            tenant
        };
        // The wait for the last request of this database holds no lock, so others proceed.
        let moved = self.move_aside(name, tenant.database);
        let mut tenants = lock(&self.tenants);
        tenants.leaving.remove(name);
        match moved {
            Ok(result) => result,
            Err((database, error)) => {
                let used = Instant::now();
                tenants
                    .open
                    .insert(name.to_owned(), Tenant { database, used });
                Err(error)
            }
        }
    }

    /// Closes a database and moves its file; returns the database if it stays in use.
    fn move_aside(
        &self,
        name: &str,
        database: Arc<Database>,
    ) -> Result<Result<PathBuf>, (Arc<Database>, Error)> {
        let database = unshared(database).map_err(|database| (database, in_use(name)))?;
        // The file is moved without its WAL, so it has to contain everything.
        if let Err(error) = database.checkpoint() {
            return Err((Arc::new(database), error));
        }
        Ok(database.close().and_then(|()| self.move_file(name)))
    }

    /// A path in `deleted/` for data of a deleted database, with the present time in its name.
    pub fn aside(&self, name: &str, extension: &str) -> Result<PathBuf> {
        let aside = self.dir.join("deleted");
        dir::create_dir(&aside)?;
        let stamp = clock::now().replace(':', "");
        Ok(aside.join(format!("{name}-{stamp}.{extension}")))
    }

    fn move_file(&self, name: &str) -> Result<PathBuf> {
        let path = file(&self.dir, name);
        if wal_bytes(&path) > 0 {
            // Another program has written to it since.
            return Err(in_use(name));
        }
        let aside = self.aside(name, "db")?;
        fs::rename(&path, &aside).context(format!("move database {name} aside"))?;
        // The WAL is empty, and exists only if another program has the file open.
        remove_wal(&path);
        File::open(&self.dir)?.sync_all()?;
        Ok(aside)
    }

    /// Runs periodic maintenance of every open database: checkpoint and statistics for the query
    /// planner.
    pub fn maintain(&self) {
        // Weak: a database waits until its writer is free, and the others must not count as in use
        // meanwhile.
        let tenants: Vec<Weak<Database>> = lock(&self.tenants)
            .open
            .values()
            .map(|tenant| Arc::downgrade(&tenant.database))
            .collect();
        let own = [&self.default, &self.local, &self.stats, &self.workflows].map(Arc::clone);
        let tenants = tenants.iter().filter_map(Weak::upgrade);
        for database in own.into_iter().chain(tenants) {
            if let Err(error) = database.maintain() {
                log::error(format_args!("{}: {error}", database.path().display()));
            }
        }
    }

    /// Closes all databases. Fails if one is still in use.
    pub fn close(self) -> Result<()> {
        let tenants = self.tenants.into_inner().unwrap_or_default();
        let databases = tenants.open.into_values().map(|tenant| tenant.database);
        let own = [self.default, self.local, self.stats, self.workflows];
        for database in databases.chain(own) {
            match unshared(database) {
                Ok(database) => database.close()?,
                Err(_) => return Err(Error::internal("a database is still in use at the end")),
            }
        }
        Ok(())
    }

    fn open_tenant(&self, tenants: &mut Tenants, name: &str) -> Result<Arc<Database>> {
        let database = open_database(&self.dir, name, self.settings, &self.changes)?;
        let database = Arc::new(database);
        let (shared, used) = (Arc::clone(&database), Instant::now());
        tenants.open.insert(
            name.to_owned(),
            Tenant {
                database: shared,
                used,
            },
        );
        Ok(database)
    }
}

/// Opens a database that requests can reach.
fn open_database(
    dir: &Path,
    name: &str,
    settings: ConnectionSettings,
    changes: &Arc<ChangedDatabases>,
) -> Result<Database> {
    let path = file(dir, name);
    let schema = match name {
        DEFAULT => Schema::Default,
        _ => Schema::Tenant,
    };
    match settings.role {
        Role::Replica => Ok(Database::open_replica(&path, settings)),
        Role::Master => Ok(Database::open(&path, schema, settings)?.with_changes(name, changes)),
    }
}

/// Opens `stats.db`. It may lose its last minutes in a power cut, so commits do not wait for the
/// disk; and since it may be deleted, an unusable one is moved aside.
fn open_stats(dir: &Path, settings: ConnectionSettings) -> Result<Database> {
    let synchronous = Synchronous::Normal;
    let settings = ConnectionSettings {
        synchronous,
        ..settings
    };
    let path = file(dir, STATS);
    let open = || Database::open(&path, Schema::Stats, settings);
    let is_usable = || path.is_file() && is_writable(&path);
    let error = match open() {
        Err(error) if is_useless(&error) || !is_usable() => error,
        opened => return opened,
    };
    let stamp = clock::now().replace([':', '.'], "");
    let aside = beside(&path, &format!(".damaged-{stamp}"));
    if fs::rename(&path, &aside).is_err() {
        return Err(error);
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = fs::rename(beside(&path, suffix), beside(&aside, suffix));
    }
    log::warn(format_args!(
        "the statistics are unusable and start empty; the old file is {}: {error}",
        aside.display()
    ));
    open()
}

fn in_use(name: &str) -> Error {
    Error::unavailable(format!("The database {name} is in use; try again."))
}

fn no_database(name: &str) -> Error {
    Error::not_found(format!("There is no database {name}."))
}

fn close_unused(tenants: &mut HashMap<String, Tenant>) {
    while tenants.len() >= OPEN_MAX {
        let unused = tenants
            .iter()
            .filter(|(_, tenant)| Arc::strong_count(&tenant.database) == 1)
            .min_by_key(|(_, tenant)| tenant.used)
            .map(|(name, _)| name.clone());
        let Some(tenant) = unused.and_then(|name| tenants.remove(&name)) else {
            return;
        };
        if let Ok(database) = unshared(tenant.database)
            && let Err(error) = database.close()
        {
            log::warn(format_args!("close unused database: {error}"));
        }
    }
}

/// Takes a database out of its `Arc`; waits for other holders to drop it.
fn unshared(mut database: Arc<Database>) -> Result<Database, Arc<Database>> {
    let deadline = Instant::now() + DELETE_WAIT;
    loop {
        match Arc::try_unwrap(database) {
            Ok(database) => return Ok(database),
            Err(shared) if Instant::now() >= deadline => return Err(shared),
            Err(shared) => database = shared,
        }
        threads::pause(Duration::from_millis(1));
    }
}

/// Opens a database of a data directory, also while a server runs: SQLite arbitrates between the
/// two.
pub fn open_existing(dir: &Path, name: &str, settings: ConnectionSettings) -> Result<Database> {
    let path = file(dir, name);
    if !path.is_file() {
        return Err(no_database(name));
    }
    Database::open(&path, schema_of(name), settings)
}

/// Like [`open_existing`], for inspection: this user need not be able to write the file.
pub fn open_to_inspect(dir: &Path, name: &str, settings: ConnectionSettings) -> Result<Database> {
    let path = file(dir, name);
    match path.is_file() && !(is_writable(&path) && is_writable(dir)) {
        true => Ok(Database::open_replica(&path, settings)),
        false => open_existing(dir, name, settings),
    }
}

/// True if this program cannot use a file at all: it is damaged, or another program's.
pub fn is_useless(error: &Error) -> bool {
    is_damaged(error) || error.to_string().contains("another program")
}
