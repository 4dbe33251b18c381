//! Databases as pages: reads all or some pages in one transaction, and hashes them.
//!
//! Replication ships pages, so it is independent of tables: indexes, triggers, shadow tables and
//! VACUUM need no special treatment. Pages are read through SQLite's `sqlite_dbpage` table and
//! never by opening the file: closing it would drop the locks that this process holds.
//!
//! Two pages are special. SQLite rewrites 12 bytes of page 1 (change counter, version-valid-for,
//! its own version) whenever the page passes through a WAL, so hashes exclude them. The page at 1
//! GiB holds the locks: it has no content and is never read, hashed or sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::Access;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::checkpoint::{Checkpoints, truncate_wal, wal_pages};
use super::connection::{BUSY_WAIT, beside, data_version, distrust_schema, refuse_unusable};
use super::offline;
use crate::base::error::{Error, Result, ResultExt as _};

/// The bytes of page 1 that differ between equal databases.
const MASKED: [std::ops::Range<usize>; 2] = [24..28, 92..100];
/// Page cache of a page reader, in KiB: each page is read once.
const CACHE_KIB: i64 = 256;
/// Bytes written at a time when a snapshot is copied.
const COPY_BYTES: usize = 1 << 20;

/// The hash of one page. The seed is a secret of master and replicas, so that no client can
/// construct a collision; equal pages with different numbers have different hashes.
pub fn hash(seed: u64, number: u32, page: &[u8]) -> u64 {
    let seed = seed ^ u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    if number != 1 || page.len() < 100 {
        return xxh3_64_with_seed(page, seed);
    }
    let mut masked = page.to_vec();
    for range in MASKED {
        masked[range].fill(0);
    }
    xxh3_64_with_seed(&masked, seed)
}

/// The number of the unused page at 1 GiB, for this page size.
pub fn lock_page(page_size: u32) -> u32 {
    0x4000_0000 / page_size.max(512) + 1
}

/// The hashes of all pages of a database. Invariant: `checksum` is the exclusive or of them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMap {
    hashes: Vec<u64>,
    checksum: u64,
}

impl PageMap {
    /// The number of pages.
    pub fn len(&self) -> u32 {
        u32::try_from(self.hashes.len()).unwrap_or(u32::MAX)
    }

    /// The checksum of the whole database.
    pub fn checksum(&self) -> u64 {
        self.checksum
    }

    /// The hash of a page; 0 if the page does not exist.
    pub fn get(&self, number: u32) -> u64 {
        let hash = index(number).and_then(|at| self.hashes.get(at));
        hash.copied().unwrap_or(0)
    }

    /// Sets the hash of a page, growing as needed. Returns true if the hash has changed.
    pub fn set(&mut self, number: u32, hash: u64) -> bool {
        let Some(at) = index(number) else {
            return false;
        };
        if at >= self.hashes.len() {
            self.hashes.resize(at + 1, 0);
        }
        let before = std::mem::replace(&mut self.hashes[at], hash);
        self.checksum ^= before ^ hash;
        before != hash
    }

    /// Sets the number of pages.
    pub fn resize(&mut self, pages: u32) {
        let pages = pages as usize;
        for hash in self.hashes.drain(pages.min(self.hashes.len())..) {
            self.checksum ^= hash;
        }
        self.hashes.resize(pages, 0);
    }

    /// One hash per group of `size` pages; the last group may be smaller.
    pub fn groups(&self, size: usize) -> Vec<u64> {
        let groups = self.hashes.chunks(size);
        groups.map(group_hash).collect()
    }

    /// The hashes of one of these groups.
    pub fn group(&self, group: usize, size: usize) -> &[u64] {
        self.hashes.chunks(size).nth(group).unwrap_or_default()
    }
}

fn group_hash(hashes: &[u64]) -> u64 {
    let mut hasher = Xxh3::new();
    for hash in hashes {
        hasher.update(&hash.to_le_bytes());
    }
    hasher.digest()
}

fn index(number: u32) -> Option<usize> {
    Some(number.checked_sub(1)? as usize)
}

/// A read-only connection for pages.
pub struct PageReader {
    connection: Connection,
    path: PathBuf,
}

impl PageReader {
    /// Opens an existing file.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that opens files to read their pages"
    )]
    pub fn open(path: &Path) -> Result<PageReader> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags);
        PageReader::of(opened.map_err(Error::from), path)
    }

    /// Like [`PageReader::open`], for a file that no server has checked: refuses a truncated one,
    /// which SQLite would take for a new one. This user need not be able to write the file.
    pub fn open_foreign(path: &Path) -> Result<PageReader> {
        refuse_unusable(path, Access::READ_OK).context(format!("open {}", path.display()))?;
        PageReader::of(offline::open_to_inspect(path), path)
    }

    fn of(opened: Result<Connection>, path: &Path) -> Result<PageReader> {
        let connection = opened
            .and_then(|connection| {
                connection.busy_timeout(BUSY_WAIT)?;
                distrust_schema(&connection)?;
                connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
                connection.pragma_update(None, "query_only", true)?;
                connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
                connection.pragma_update(None, "wal_autocheckpoint", 0)?;
                Ok(connection)
            })
            .context(format!("open the pages of {}", path.display()))?;
        Ok(PageReader {
            connection,
            path: path.to_owned(),
        })
    }

    /// A number that changes after each commit of another connection, in whatever process.
    pub fn data_version(&self) -> Result<i64> {
        data_version(&self.connection)
    }

    /// Page size, in bytes.
    pub fn page_size(&self) -> Result<u32> {
        let size = self
            .connection
            .pragma_query_value(None, "page_size", |row| row.get(0));
        Ok(size?)
    }

    /// Begins a snapshot of the present state.
    pub fn snapshot(&self) -> Result<Snapshot<'_>> {
        // Created first: dropping it ends the transaction, also after an error.
        let mut snapshot = Snapshot {
            connection: &self.connection,
            page_size: 0,
            pages: 0,
            data_version: 0,
        };
        self.connection.execute_batch("BEGIN")?;
        snapshot.data_version = data_version(&self.connection)?;
        let number = |name| {
            self.connection
                .pragma_query_value(None, name, |row| row.get(0))
        };
        snapshot.page_size = number("page_size")?;
        snapshot.pages = number("page_count")?;
        Ok(snapshot)
    }

    /// Runs a checkpoint if one is due, see `checkpoint`.
    pub fn checkpoint_when_due(&self, checkpoints: &mut Checkpoints) -> Result<()> {
        let pages = wal_pages(&self.connection, "PRAGMA wal_checkpoint(NOOP)")?;
        checkpoints.after_commit(&self.connection, pages, BUSY_WAIT)
    }

    /// Copies everything and truncates the WAL; false if another user of the WAL prevents it.
    pub fn truncate_wal(&self) -> Result<bool> {
        truncate_wal(&self.connection)
    }

    /// Makes earlier commits durable, for files whose commits do not wait for the disk.
    pub fn sync_wal(&self) -> Result<()> {
        match File::open(beside(&self.path, "-wal")) {
            Ok(wal) => Ok(wal.sync_data()?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::from(error).context("open the WAL to sync it")),
        }
    }
}

/// A snapshot of a database: one read transaction.
pub struct Snapshot<'a> {
    connection: &'a Connection,
    /// Page size, in bytes.
    pub page_size: u32,
    /// The number of pages.
    pub pages: u32,
    /// See [`PageReader::data_version`].
    pub data_version: i64,
}

impl Snapshot<'_> {
    /// Calls `visit` with one page.
    pub fn page<T>(&self, number: u32, visit: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([number])?;
        let row = rows.next()?.ok_or_else(|| no_page(number))?;
        visit(row.get_ref(0)?.as_blob().map_err(|_| no_page(number))?)
    }

    /// Calls `visit` with every page, in order.
    pub fn each(&self, mut visit: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        let lock_page = lock_page(self.page_size);
        let sql = "SELECT pgno, data FROM sqlite_dbpage";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let number: u32 = row.get(0)?;
            if number != lock_page {
                visit(
                    number,
                    row.get_ref(1)?.as_blob().map_err(|_| no_page(number))?,
                )?;
            }
        }
        Ok(())
    }

    /// The connection, for queries of this snapshot.
    pub fn connection(&self) -> &Connection {
        self.connection
    }

    /// Writes all pages to an empty file, which is then a database.
    pub fn copy_to(&self, file: &File) -> Result<()> {
        let mut writer = BufWriter::with_capacity(COPY_BYTES, file);
        let lock_page = lock_page(self.page_size);
        self.each(|number, page| {
            if number == lock_page + 1 {
                writer.write_all(&vec![0; page.len()])?;
            }
            Ok(writer.write_all(page)?)
        })?;
        writer.flush()?;
        Ok(file.set_len(u64::from(self.pages) * u64::from(self.page_size))?)
    }

    /// A hash per database of its definitions and their times of change.
    pub fn definitions_by_database(&self) -> Result<BTreeMap<String, u64>> {
        let sql = "SELECT database, json_array(id, updated, definition, pending, deleted)
                   FROM _collections ORDER BY database, id";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut hashes = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let hash = hashes.entry(row.get(0)?).or_insert(0);
            *hash = xxh3_64_with_seed(row.get_ref(1)?.as_bytes().unwrap_or_default(), *hash);
        }
        Ok(hashes)
    }

    /// The hashes of all pages.
    pub fn map(&self, seed: u64) -> Result<PageMap> {
        let mut map = PageMap::default();
        map.resize(self.pages);
        self.each(|number, page| {
            map.set(number, hash(seed, number, page));
            Ok(())
        })?;
        Ok(map)
    }

    /// A hash of the schema as connections cache it: tables and indexes with their root pages.
    pub fn schema_hash(&self) -> Result<u64> {
        self.rows_hash("SELECT json_array(type, name, tbl_name, rootpage, sql) FROM sqlite_schema")
    }

    /// A hash of the definitions of collections in `default.db`; in a tenant, of the versions that
    /// its tables implement.
    pub fn definitions_hash(&self) -> Result<u64> {
        let tables = [
            (
                "_collections",
                "json_array(id, database, definition, pending, deleted)",
            ),
            ("_applied", "json_array(collection, updated)"),
        ];
        for (table, row) in tables {
            let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
            let mut statement = self.connection.prepare_cached(sql)?;
            if statement.query_row([table], |row| row.get(0))? {
                return self.rows_hash(&format!("SELECT {row} FROM {table} ORDER BY 1"));
            }
        }
        Ok(0)
    }

    fn rows_hash(&self, sql: &str) -> Result<u64> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut hasher = Xxh3::new();
        while let Some(row) = rows.next()? {
            hasher.update(row.get_ref(0)?.as_bytes().unwrap_or_default());
            hasher.update(b"\n");
        }
        Ok(hasher.digest())
    }

    /// The version of the system tables.
    pub fn user_version(&self) -> Result<i64> {
        let value = self
            .connection
            .pragma_query_value(None, "user_version", |row| row.get(0));
        Ok(value?)
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

fn no_page(number: u32) -> Error {
    Error::internal(format!("page {number} cannot be read"))
}

/// Metadata of a file and its WAL, to detect changes without opening the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFingerprint {
    /// Device and inode: they identify the file.
    pub file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    wal_bytes: u64,
    wal_modified: (i64, i64),
}

impl FileFingerprint {
    /// Reads the metadata only.
    pub fn of(path: &Path) -> Result<FileFingerprint> {
        let data = std::fs::metadata(path).context(format!("look at {}", path.display()))?;
        // An empty WAL means the same as none.
        let wal = std::fs::metadata(beside(path, "-wal")).ok();
        let wal = wal.filter(|wal| wal.len() > 0);
        Ok(FileFingerprint {
            file: (data.dev(), data.ino()),
            bytes: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            wal_bytes: wal.as_ref().map_or(0, std::fs::Metadata::len),
            wal_modified: wal.map_or((0, 0), |wal| (wal.mtime(), wal.mtime_nsec())),
        })
    }

    /// True if the last change is old enough that a further one would have a different time.
    /// `now_ms` is in milliseconds since 1970.
    pub fn is_settled(&self, now_ms: i64) -> bool {
        self.modified.0.max(self.wal_modified.0) + 2 < now_ms / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_pages_however_they_came() {
        let mut map = PageMap::default();
        for number in 1..=5 {
            assert!(map.set(number, u64::from(number) * 77));
        }
        assert!(!map.set(5, 5 * 77));
        let mut other = PageMap::default();
        other.resize(9);
        for number in (1..=9).rev() {
            other.set(number, u64::from(number) * 77);
        }
        other.resize(5);
        assert_eq!(map, other);
        assert_eq!(map.get(3), 3 * 77);
        assert_eq!(map.get(6), 0);
        assert_eq!(map.groups(2).len(), 3);
        assert_eq!(map.group(2, 2), [5 * 77]);
        map.resize(0);
        assert_eq!(map.checksum(), 0);
    }

    #[test]
    fn hashes_differ_by_seed_place_and_content_but_not_in_what_sqlite_rewrites() {
        let mut page = vec![7_u8; 4096];
        let first = hash(1, 1, &page);
        assert_ne!(first, hash(2, 1, &page));
        assert_ne!(hash(1, 2, &page), hash(1, 3, &page));
        page[24] = 1;
        page[99] = 1;
        assert_eq!(first, hash(1, 1, &page));
        page[100] = 1;
        assert_ne!(first, hash(1, 1, &page));
    }

    #[test]
    fn the_page_of_locks_is_the_one_at_a_gibibyte() {
        assert_eq!(lock_page(4096), 262_145);
        assert_eq!(lock_page(65_536), 16_385);
        assert_eq!(lock_page(512), 2_097_153);
    }
}
