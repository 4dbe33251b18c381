//! Copies the files of records into the storage, before the transaction that names them.
//!
//! The rows of the copied files wait in a temporary table of the source's connection, which SQLite
//! keeps on disk if it is large. A crash leaves files without rows, which the sweep deletes.

use std::io::Read;

use rusqlite::{Connection, params};
use serde_json::Value;

use super::definitions::SourceCollection;
use super::report::{ImportCounts, ImportProgress, Losses, ShowProgress};
use super::source::Source;
use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::ids;
use crate::store::db::quote;
use crate::store::files;
use crate::store::files::{FilePath, Partial, ReceivedFile, SNIFF_BYTES, Storage, StoredFile};

/// Files that are stored together, with one sync of their folders.
const BATCH: usize = 256;
const BUFFER_BYTES: usize = 128 << 10;

/// Copies files of one import.
pub struct FileCopy<'a> {
    pub source: &'a Source,
    pub connection: &'a Connection,
    /// None to look only: nothing is stored.
    pub storage: Option<&'a Storage>,
    pub database: &'a str,
    pub losses: &'a Losses,
    pub show: &'a ShowProgress,
}

struct CopiedFile {
    path: FilePath,
    partial: Partial,
    stored: StoredFile,
}

impl FileCopy<'_> {
    /// Copies all files that records of these collections name.
    pub fn run(&self, collections: &[SourceCollection], counts: &mut ImportCounts) -> Result<()> {
        self.connection.execute_batch(
            "CREATE TEMP TABLE taken_files (
                 collection TEXT NOT NULL, record TEXT NOT NULL, name TEXT NOT NULL,
                 size INTEGER NOT NULL, sha256 TEXT NOT NULL, type TEXT NOT NULL,
                 PRIMARY KEY (collection, record, name)
             ) WITHOUT ROWID",
        )?;
        for collection in collections.iter().filter(|it| !it.is_view()) {
            for field in collection.file_fields() {
                self.copy_field(collection, field, counts)?;
            }
        }
        Ok(())
    }

    fn copy_field(
        &self,
        collection: &SourceCollection,
        field: &str,
        counts: &mut ImportCounts,
    ) -> Result<()> {
        let (table, column) = (quote(&collection.name), quote(field));
        let sql = format!("SELECT count(*) FROM {table} WHERE {column} NOT IN ('', '[]')");
        let total: i64 = self.connection.query_row(&sql, [], |row| row.get(0))?;
        let sql = format!(
            "SELECT id, CAST({column} AS TEXT) FROM {table} WHERE {column} NOT IN ('', '[]')"
        );
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let (mut batch, mut done) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let (record, text): (String, String) = (row.get(0)?, row.get(1)?);
            for name in names(&text) {
                let path = FilePath {
                    database: self.database.to_owned(),
                    collection: collection.new_id.clone(),
                    record: record.clone(),
                    name,
                };
                self.copy_file(path, collection, &mut batch)?;
            }
            done += 1;
            if batch.len() >= BATCH {
                self.store(&mut batch, counts)?;
            }
            (self.show)(&ImportProgress {
                part: "records with files",
                done,
                total: total.unsigned_abs(),
            });
        }
        self.store(&mut batch, counts)
    }

    fn copy_file(
        &self,
        path: FilePath,
        from: &SourceCollection,
        batch: &mut Vec<CopiedFile>,
    ) -> Result<()> {
        let is_possible = FilePath::parse(&path.to_string()).is_some();
        let (collection, record, name) = (&from.id, &path.record, &path.name);
        let content = match is_possible {
            true => self.source.file(collection, record, name)?,
            false => {
                let reason = "Files whose name is not possible here";
                self.losses
                    .add(reason, format!("{}/{record}/{name}", from.name));
                return Ok(());
            }
        };
        let Some(mut content) = content else {
            let reason = "Files that records name and that are missing";
            self.losses
                .add(reason, format!("{}/{record}/{name}", from.name));
            return Ok(());
        };
        let Some(storage) = self.storage else {
            return self.note_taken(
                &path,
                &StoredFile {
                    name: path.name.clone(),
                    size: 0,
                    sha256: String::new(),
                    media_type: String::new(),
                },
            );
        };
        let mut partial = storage.receive()?;
        let stored = receive(&mut content, &mut partial, &path.name)
            .context(format!("copy the file {path}"))?;
        batch.push(CopiedFile {
            path,
            partial,
            stored,
        });
        Ok(())
    }

    fn store(&self, batch: &mut Vec<CopiedFile>, counts: &mut ImportCounts) -> Result<()> {
        let Some(storage) = self.storage.filter(|_| !batch.is_empty()) else {
            return Ok(());
        };
        let files: Vec<ReceivedFile<'_>> = batch
            .iter()
            .map(|file| ReceivedFile {
                path: file.path.clone(),
                partial: &file.partial,
                size: file.stored.size,
                sha256: &file.stored.sha256,
            })
            .collect();
        storage.stage(&files)?.commit();
        for file in batch.drain(..) {
            self.note_taken(&file.path, &file.stored)?;
            counts.files += 1;
            counts.file_bytes += file.stored.size;
        }
        Ok(())
    }

    fn note_taken(&self, path: &FilePath, file: &StoredFile) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO temp.taken_files VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.connection.prepare_cached(sql)?.execute(params![
            path.collection,
            path.record,
            path.name,
            i64::try_from(file.size).unwrap_or(i64::MAX),
            file.sha256,
            file.media_type
        ])?;
        Ok(())
    }
}

/// Copies and hashes the content of a file.
fn receive(content: &mut dyn Read, partial: &mut Partial, name: &str) -> Result<StoredFile> {
    let (mut hasher, mut size) = (Sha256Hasher::new(), 0);
    let (mut beginning, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES]);
    loop {
        let length = content.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        let piece = &buffer[..length];
        hasher.update(piece);
        partial.write(piece)?;
        let missing = SNIFF_BYTES.saturating_sub(beginning.len());
        beginning.extend_from_slice(&piece[..missing.min(length)]);
        size += length as u64;
    }
    partial.finish()?;
    Ok(StoredFile {
        name: name.to_owned(),
        size,
        sha256: ids::hex(&hasher.finish()),
        media_type: files::detect(name, &beginning),
    })
}

/// The names in the value of a field with one file or several.
pub fn names(text: &str) -> Vec<String> {
    match text.starts_with('[') {
        true => serde_json::from_str(text).unwrap_or_default(),
        false if text.is_empty() => Vec::new(),
        false => vec![text.to_owned()],
    }
}

/// The error for files that are in a bucket instead of the folder.
pub fn refuse_bucket(settings: &Value, source: &Source) -> Result<()> {
    let bucket = settings["s3"]["bucket"].as_str().unwrap_or_default();
    if settings["s3"]["enabled"] != Value::Bool(true) || source.has_storage() {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "The files of this PocketBase are in the bucket {bucket}: copy its objects to the folder storage \
         beside data.db, under their keys, and import again."
    )))
}
