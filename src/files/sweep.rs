//! Removes stored files that no record names: what a crash left between the storage and the database.

use std::collections::HashMap;
use std::sync::Arc;

use super::FilePath;
use super::storage::Storage;
use super::table;
use crate::db::Database;
use crate::db::Databases;
use crate::error::Kind;
use crate::error::Result;
use crate::log;
use crate::threads::Stop;

/// Removes files without a row that were written before this moment (milliseconds since 1970);
/// what is younger may be about to be named. Returns how many went.
pub fn run(databases: &Databases, storage: &Storage, before_ms: i64, stop: &Stop) -> Result<usize> {
    let mut known: HashMap<String, Option<Arc<Database>>> = HashMap::new();
    let mut left_over = Vec::new();
    storage.walk(&mut |path, written_ms| {
        if stop.is_set() || written_ms >= before_ms {
            return Ok(());
        }
        let database = match known.get(&path.database) {
            Some(database) => database.clone(),
            None => {
                let found = find(databases, &path.database)?;
                known.insert(path.database.clone(), found.clone());
                found
            }
        };
        if !is_named(database.as_deref(), &path)? {
            left_over.push(path);
        }
        Ok(())
    })?;
    for path in &left_over {
        log::info(format_args!("file {path} belongs to no record; deleted"));
        storage.remove(path)?;
    }
    Ok(left_over.len())
}

fn find(databases: &Databases, name: &str) -> Result<Option<Arc<Database>>> {
    match databases.get(name) {
        Ok(database) => Ok(Some(database)),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files of a database that is not there stay: it may come back.
fn is_named(database: Option<&Database>, path: &FilePath) -> Result<bool> {
    let Some(database) = database else {
        return Ok(true);
    };
    let found = database
        .read(|connection| table::find(connection, &path.collection, &path.record, &path.name))?;
    Ok(found.is_some())
}
