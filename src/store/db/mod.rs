//! The database files of a data directory: `default.db`, one file per tenant, `local.db`, `stats.db`,
//! `workflows.db`.
//!
//! [`Databases`] owns the directory (a lock file keeps a second server out), opens tenants when
//! they are first asked for and closes the longest unused ones above [`OPEN_MAX`]. Facts DB-1 to
//! DB-3 and DB-8 to DB-10 of the public product: a file `<name>.db` each, reserved names.
//!
//! Deleting a database is soft (DB-14 in spirit): its file moves to `deleted/`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// What reads of a database are given.
pub use rusqlite::Connection;

pub use after::after_commit;
pub use apply::Apply;
pub use changes::Changes;
pub use checkpoint::Checkpoints;
pub use commit::{Fence, take_marks};
pub use database::{Database, Synchronous, is_damaged, not_here};
pub use deadline::Deadline;
pub use dir::{NO_LINK, RESTORING, create_dir, lock_dir, refuse_emptied};
pub use migrate::Schema;
pub use readers::Asker;
pub use signal::Signal;

use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::threads::{Stop, lock};
use crate::base::{clock, failpoints};

mod after;
mod apply;
mod changes;
mod checkpoint;
mod commit;
mod database;
mod deadline;
mod dir;
mod feed;
pub mod guard;
mod migrate;
pub mod pages;
mod readers;
mod signal;
pub mod still;

/// The database that every request means that names none.
pub const DEFAULT: &str = "default";
/// What concerns this node alone; no request ever means it.
pub const LOCAL: &str = "local";
/// What this node alone has counted; no request ever means it either.
pub const STATS: &str = "stats";
/// The runs of this node.
pub const WORKFLOWS: &str = "workflows";
/// Names that no tenant may have: databases of the system.
const RESERVED: [&str; 3] = [LOCAL, STATS, WORKFLOWS];
/// Tenant databases kept open at a time; more are opened by closing unused ones.
const OPEN_MAX: usize = 64;
/// How long deleting a database waits for requests that still use it.
const DELETE_WAIT: Duration = Duration::from_secs(5);

/// Who writes to the databases of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This server.
    Master,
    /// Another one, which this server follows; `local.db` is its own all the same.
    Replica,
}

/// Makes functions known to a connection. One that may take long has to look at the deadline by itself.
pub type Prepare = fn(&Connection, &Deadline) -> Result<()>;

/// What holds for every connection of every file.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Who writes.
    pub role: Role,
    /// What a commit waits for.
    pub synchronous: Synchronous,
    /// Called with each new connection and its deadline, to make functions known to it.
    pub prepare: Prepare,
}

/// All databases of one data directory.
pub struct Databases {
    dir: PathBuf,
    settings: Settings,
    default: Arc<Database>,
    local: Arc<Database>,
    stats: Arc<Database>,
    workflows: Arc<Database>,
    tenants: Mutex<Tenants>,
    /// Which ones were written to.
    pub changes: Arc<Changes>,
    /// Held for as long as the directory is ours; the lock goes with the descriptor.
    _lock: File,
}

/// The open tenants. Invariant: a name is not in both.
#[derive(Default)]
struct Tenants {
    open: HashMap<String, Tenant>,
    /// On their way out: no longer found, and not to be opened again.
    leaving: HashSet<String>,
}

struct Tenant {
    database: Arc<Database>,
    used: Instant,
}

impl Databases {
    /// Takes the directory, making it when needed, and opens the system's databases.
    pub fn open(dir: &Path, settings: Settings) -> Result<Databases> {
        create_dir(dir)?;
        let lock = lock_dir(dir)?;
        dir::warn_if_writable(dir);
        dir::refuse_half_restored(dir)?;
        if settings.role == Role::Master {
            refuse_emptied(dir)?;
        }
        let changes = Arc::default();
        let default = open_database(dir, DEFAULT, settings, &changes)?;
        // Only now: where there is a `local.db` there was a `default.db`, see `dir::refuse_emptied`.
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

    /// Who writes to them.
    pub fn role(&self) -> Role {
        self.settings.role
    }

    /// `default.db`, which also holds the definitions of everything.
    pub fn default(&self) -> &Arc<Database> {
        &self.default
    }

    /// `local.db`, which holds what concerns this node alone.
    pub fn local(&self) -> &Arc<Database> {
        &self.local
    }

    /// `stats.db`, which holds what this node alone has counted.
    pub fn stats(&self) -> &Arc<Database> {
        &self.stats
    }

    /// `workflows.db`, which holds the runs of this node.
    pub fn workflows(&self) -> &Arc<Database> {
        &self.workflows
    }

    /// The database of this name, opened when it is not yet.
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

    /// Refuses a name that no new database can have.
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
                "The database {name} exists already."
            )));
        }
        Ok(())
    }

    /// Makes a new, empty database.
    pub fn create(&self, name: &str) -> Result<()> {
        let mut tenants = lock(&self.tenants);
        self.check_new(name)?;
        close_unused(&mut tenants.open);
        self.open_tenant(&mut tenants, name)
            .map(drop)
            .inspect_err(|_| {
                // Half a database would be in the way of the next attempt.
                let path = file(&self.dir, name);
                let _ = fs::remove_file(&path);
                remove_log(&path);
            })
    }

    /// The names of all databases, sorted, `default` first.
    pub fn list(&self) -> Result<Vec<String>> {
        names(&self.dir)
    }

    /// The file of a database, whether there is one or not.
    pub fn file(&self, name: &str) -> PathBuf {
        file(&self.dir, name)
    }

    /// Takes a database out of service and moves its file to `deleted/`; returns where it lies there.
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
        // Others go on meanwhile: the wait for the last request of this one holds no lock.
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

    /// Closes a database and moves its file; gives it back when it stays in use.
    fn move_aside(
        &self,
        name: &str,
        database: Arc<Database>,
    ) -> Result<Result<PathBuf>, (Arc<Database>, Error)> {
        let database = unshared(database).map_err(|database| (database, in_use(name)))?;
        // The file goes alone, so it has to hold everything.
        if let Err(error) = database.fold() {
            return Err((Arc::new(database), error));
        }
        Ok(database.close().and_then(|()| self.move_file(name)))
    }

    /// Where something of a deleted database goes.
    pub fn aside(&self, name: &str, extension: &str) -> Result<PathBuf> {
        let aside = self.dir.join("deleted");
        create_dir(&aside)?;
        let stamp = clock::now().replace(':', "");
        Ok(aside.join(format!("{name}-{stamp}.{extension}")))
    }

    fn move_file(&self, name: &str) -> Result<PathBuf> {
        let path = file(&self.dir, name);
        if database::wal_bytes(&path) > 0 {
            // Written by another program since.
            return Err(in_use(name));
        }
        let aside = self.aside(name, "db")?;
        fs::rename(&path, &aside).context(format!("move database {name} aside"))?;
        // It is empty, and there only if another program has the file open.
        remove_log(&path);
        File::open(&self.dir)?.sync_all()?;
        Ok(aside)
    }

    /// Lets every open database fold its log into its file; called now and then.
    pub fn maintain(&self) {
        // One waits until its writer is free, and then the others are not to be in use for that.
        let tenants: Vec<Weak<Database>> = lock(&self.tenants)
            .open
            .values()
            .map(|tenant| Arc::downgrade(&tenant.database))
            .collect();
        let own = [&self.default, &self.local, &self.stats, &self.workflows].map(Arc::clone);
        let tenants = tenants.iter().filter_map(Weak::upgrade);
        for database in own.into_iter().chain(tenants) {
            if let Err(error) = database.maintain() {
                crate::base::log::error(format_args!("{}: {error}", database.path().display()));
            }
        }
    }

    /// Closes everything in an orderly way.
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

/// Opens a database that requests are about.
fn open_database(
    dir: &Path,
    name: &str,
    settings: Settings,
    changes: &Arc<Changes>,
) -> Result<Database> {
    let path = file(dir, name);
    let schema = match name {
        DEFAULT => Schema::Default,
        _ => Schema::Tenant,
    };
    match settings.role {
        Role::Replica => Ok(Database::follow(&path, settings)),
        Role::Master => Ok(Database::open(&path, schema, settings)?.with_changes(name, changes)),
    }
}

/// Opens `stats.db`. A power cut may take its last minutes along, so nothing waits for the disk; and since it may be
/// deleted, one that cannot be used is moved aside.
fn open_stats(dir: &Path, settings: Settings) -> Result<Database> {
    let synchronous = Synchronous::Normal;
    let settings = Settings {
        synchronous,
        ..settings
    };
    let path = file(dir, STATS);
    let open = || Database::open(&path, Schema::Stats, settings);
    let is_usable = || path.is_file() && still::is_writable(&path);
    let error = match open() {
        Err(error) if is_useless(&error) || !is_usable() => error,
        opened => return opened,
    };
    let stamp = clock::now().replace([':', '.'], "");
    let aside = database::beside(&path, &format!(".damaged-{stamp}"));
    if fs::rename(&path, &aside).is_err() {
        return Err(error);
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = fs::rename(
            database::beside(&path, suffix),
            database::beside(&aside, suffix),
        );
    }
    crate::base::log::warn(format_args!(
        "the statistics cannot be used and begin empty; what there was is in {}: {error}",
        aside.display()
    ));
    open()
}

/// True if a file has nothing that this program could use: it is damaged, or another program's.
pub fn is_useless(error: &Error) -> bool {
    is_damaged(error) || error.to_string().contains("another program")
}

/// The names of all databases of a data directory, sorted, `default` first.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).context("list the data directory")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".db")) else {
            continue;
        };
        if is_valid_name(name) && name != DEFAULT {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.insert(0, DEFAULT.to_owned());
    Ok(names)
}

/// Opens a database of a data directory, also beside a running server: SQLite arbitrates between
/// the two.
pub fn open_existing(dir: &Path, name: &str, settings: Settings) -> Result<Database> {
    let path = file(dir, name);
    if !path.is_file() {
        return Err(no_database(name));
    }
    Database::open(&path, schema_of(name), settings)
}

/// The same to look at it only, where this user need not be able to write it.
pub fn open_to_look(dir: &Path, name: &str, settings: Settings) -> Result<Database> {
    let path = file(dir, name);
    match path.is_file() && !(still::is_writable(&path) && still::is_writable(dir)) {
        true => Ok(Database::follow(&path, settings)),
        false => open_existing(dir, name, settings),
    }
}

/// Which system tables the database of this name has.
pub fn schema_of(name: &str) -> Schema {
    match name {
        DEFAULT => Schema::Default,
        LOCAL => Schema::Local,
        STATS => Schema::Stats,
        WORKFLOWS => Schema::Workflows,
        _ => Schema::Tenant,
    }
}

/// The name of the database in a file of this name; none when it is no file of a database.
pub fn name_of_file(file: &str) -> Option<&str> {
    let name = file.strip_suffix(".db")?;
    (is_valid_name(name) || RESERVED.contains(&name)).then_some(name)
}

/// Refuses a program whose SQLite cannot do what replication needs.
pub fn check_build() -> Result<()> {
    match Apply::is_possible()? {
        true => Ok(()),
        false => Err(Error::unavailable(
            "This vski was built without SQLITE_ENABLE_DBPAGE_VTAB: build it in its own directory, \
             where .cargo/config.toml sets LIBSQLITE3_FLAGS.",
        )),
    }
}

/// The versions of the system tables of `default.db` and of tenants, as this program has them.
pub fn schema_versions() -> (i64, i64) {
    (Schema::Default.version(), Schema::Tenant.version())
}

fn in_use(name: &str) -> Error {
    Error::unavailable(format!("The database {name} is in use; try again."))
}

fn no_database(name: &str) -> Error {
    Error::not_found(format!("There is no database {name}."))
}

/// Whether a tenant may have this name: safe as a file name on every file system.
pub fn is_valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !RESERVED.contains(&name)
        && name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
        })
}

/// The text of an identifier inside SQL.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The path of `default.db` in a data directory.
pub fn default_file(dir: &Path) -> PathBuf {
    file(dir, DEFAULT)
}

/// The path of `local.db` in a data directory.
pub fn local_file(dir: &Path) -> PathBuf {
    file(dir, LOCAL)
}

/// The path of `workflows.db` in a data directory.
pub fn workflows_file(dir: &Path) -> PathBuf {
    file(dir, WORKFLOWS)
}

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.db"))
}

/// Puts a whole file in the place of a database that nobody has open. In between there is none rather
/// than one without its log.
pub fn replace_file(new: &Path, path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    if path.exists() {
        fs::remove_file(path).context(format!("remove {}", path.display()))?;
        failpoints::reach("old-removed");
    }
    remove_log(path);
    fs::rename(new, path).context(format!("put {} in its place", new.display()))?;
    failpoints::reach("replaced");
    Ok(File::open(dir)?.sync_all()?)
}

/// Removes a database that no process has open.
pub fn remove(dir: &Path, name: &str) -> std::io::Result<()> {
    let path = file(dir, name);
    fs::remove_file(&path)?;
    remove_log(&path);
    Ok(())
}

/// Removes what SQLite keeps beside a database that is not there any more.
fn remove_log(path: &Path) {
    for suffix in ["-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(database::beside(path, suffix));
    }
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
            crate::base::log::warn(format_args!("close unused database: {error}"));
        }
    }
}

/// Takes a database out of its `Arc`, waiting for other holders to be done.
fn unshared(mut database: Arc<Database>) -> Result<Database, Arc<Database>> {
    let (pause, deadline) = (Stop::new(), Instant::now() + DELETE_WAIT);
    loop {
        match Arc::try_unwrap(database) {
            Ok(database) => return Ok(database),
            Err(shared) if Instant::now() >= deadline => return Err(shared),
            Err(shared) => database = shared,
        }
        pause.wait(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_or_collide_are_refused() {
        for name in [
            "",
            "..",
            "a/b",
            "A",
            "local",
            "stats",
            "workflows",
            "-a",
            "a.db",
            "\u{e9}",
            &"a".repeat(65),
        ] {
            assert!(!is_valid_name(name), "{name:?}");
        }
        assert!(is_valid_name("shop_2-a"));
    }

    #[test]
    fn an_identifier_cannot_end_its_quotes() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}
