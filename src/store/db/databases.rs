//! All databases of a data directory: `default.db`, `local.db`, `stats.db`, `workflows.db` and one
//! `<name>.db` per tenant.
//!
//! [`Databases`] locks the directory against other servers, and opens tenants when they are first
//! used; `tenants` closes them again.
//!
//! Deleting a database is soft: its file moves to `deleted/`.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

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
use super::tenants::{CONNECTION_BYTES, Tenants, in_use, unshared};
use rusqlite::Row;

use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{clock, log};

/// Memory of SQLite in which page caches grow, in addition to [`CONNECTION_BYTES`] of each open
/// connection to a tenant.
const CACHE_BYTES: u64 = 96 << 20;

/// All databases of one data directory.
pub struct Databases {
    dir: PathBuf,
    settings: ConnectionSettings,
    default: Arc<Database>,
    local: Arc<Database>,
    stats: Arc<Database>,
    workflows: Arc<Database>,
    tenants: Tenants,
    /// Databases that were written to since replicas were notified.
    pub changes: Arc<ChangedDatabases>,
    /// The lock of the directory, released when the descriptor is closed.
    _lock: File,
}

impl Databases {
    /// Locks the directory, creating it if needed, and opens the system databases.
    /// `tenant_connections` is the number of connections to tenants above which unused ones are
    /// closed.
    pub fn open(
        dir: &Path,
        settings: ConnectionSettings,
        tenant_connections: usize,
    ) -> Result<Databases> {
        dir::create_dir(dir)?;
        let lock = dir::lock_dir(dir)?;
        dir::warn_if_writable(dir);
        dir::refuse_half_restored(dir)?;
        if settings.role == Role::Master {
            dir::refuse_emptied(dir)?;
        }
        let changes = Arc::default();
        let default = open_default(dir, settings, &changes)?;
        // After `default.db`: `dir::refuse_emptied` relies on that order.
        let local = Database::open(&file(dir, LOCAL), Schema::Local, settings)?;
        let stats = open_stats(dir, settings)?;
        let workflows = Database::open(&file(dir, WORKFLOWS), Schema::Workflows, settings)?;
        let databases = Databases {
            dir: dir.to_owned(),
            settings,
            default: Arc::new(default),
            local: Arc::new(local),
            stats: Arc::new(stats),
            workflows: Arc::new(workflows),
            tenants: Tenants::new(tenant_connections),
            changes,
            _lock: lock,
        };
        databases.limit_memory()?;
        Ok(databases)
    }

    pub fn role(&self) -> Role {
        self.settings.role
    }

    /// The number of connections to tenants above which unused ones are closed.
    pub fn tenant_connections(&self) -> usize {
        self.tenants.connections_max
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
        let database = self.tenants.get(name, || match self.exists(name) {
            true => self.open_tenant(name),
            false => Err(no_database(name)),
        });
        database?.ok_or_else(|| no_database(name))
    }

    fn exists(&self, name: &str) -> bool {
        is_valid_name(name) && file(&self.dir, name).is_file()
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
        let mut is_new = false;
        let create = || {
            self.check_new(name)?;
            is_new = true;
            let database = self.open_tenant(name)?;
            database.open_writer().inspect_err(|_| {
                // A leftover file would block the next attempt.
                let path = file(&self.dir, name);
                let _ = fs::remove_file(&path);
                remove_wal(&path);
            })?;
            Ok(database)
        };
        match self.tenants.get(name, create)? {
            Some(_) if is_new => Ok(()),
            // Another request has created it.
            Some(_) => self.check_new(name),
            None => Err(in_use(name)),
        }
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
        let moved = self.tenants.delete(name, |database| {
            // The file is moved without its WAL, so it has to contain everything.
            match database.checkpoint() {
                Ok(()) => Ok(database.close().and_then(|()| self.move_file(name))),
                Err(error) => Err(Box::new((database, error))),
            }
        });
        moved?.ok_or_else(|| no_database(name))?
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

    /// Limits the page caches of all connections together. Beyond the limit a cache uses its own
    /// pages again instead of growing.
    fn limit_memory(&self) -> Result<()> {
        let connections = self.tenants.count.get() as u64;
        let bytes = CACHE_BYTES + connections * CONNECTION_BYTES;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.local.read(|connection| {
            let set = |_: &Row<'_>| Ok(());
            Ok(connection.pragma_update_and_check(None, "soft_heap_limit", bytes, set)?)
        })
    }

    /// Runs periodic maintenance: closes idle tenants; of every open database, a checkpoint and
    /// statistics for the query planner.
    pub fn maintain(&self) {
        self.tenants.close_idle();
        if let Err(error) = self.limit_memory() {
            log::error(format_args!("limit the memory of page caches: {error}"));
        }
        let own = [&self.default, &self.local, &self.stats, &self.workflows].map(Arc::clone);
        let tenants = self.tenants.all();
        let tenants = tenants.iter().filter_map(Weak::upgrade);
        for database in own.into_iter().chain(tenants) {
            if let Err(error) = database.maintain() {
                log::error(format_args!("{}: {error}", database.path().display()));
            }
        }
    }

    /// Closes all databases. Fails if one is still in use.
    pub fn close(self) -> Result<()> {
        let own = [self.default, self.local, self.stats, self.workflows];
        for database in self.tenants.into_all().chain(own) {
            match unshared(database) {
                Ok(database) => database.close()?,
                Err(_) => return Err(Error::internal("a database is still in use at the end")),
            }
        }
        Ok(())
    }

    fn open_tenant(&self, name: &str) -> Result<Database> {
        let (path, count) = (file(&self.dir, name), &self.tenants.count);
        let opened = match self.settings.role {
            Role::Replica => Database::open_replica(&path, self.settings),
            Role::Master => Database::open_lazily(&path, Schema::Tenant, self.settings)?
                .with_changes(name, &self.changes),
        };
        Ok(opened.counted(count))
    }
}

/// Opens `default.db`.
fn open_default(
    dir: &Path,
    settings: ConnectionSettings,
    changes: &Arc<ChangedDatabases>,
) -> Result<Database> {
    let path = file(dir, DEFAULT);
    match settings.role {
        Role::Replica => Ok(Database::open_replica(&path, settings)),
        Role::Master => {
            let database = Database::open(&path, Schema::Default, settings)?;
            Ok(database.with_changes(DEFAULT, changes))
        }
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

fn no_database(name: &str) -> Error {
    Error::not_found(format!("There is no database {name}."))
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
