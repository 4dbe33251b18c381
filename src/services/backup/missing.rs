//! Detects databases that should exist but do not. No other check does, because a missing file has
//! no faults.

use std::path::Path;
use std::{fs, io};

use crate::base::error::{Result, ResultExt as _};
use crate::model::collections;
use crate::store::db;
use crate::store::db::Connection;

/// Reports whether the file of a database has content. An empty file is one that is being created,
/// or was truncated.
pub fn has_content(data_dir: &Path, name: &str) -> bool {
    let path = data_dir.join(format!("{name}.db"));
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() > 0)
}

/// Reports whether a database exists; an empty file of a tenant does not count.
pub fn is_there(data_dir: &Path, name: &str) -> bool {
    match db::is_valid_name(name) && name != db::DEFAULT {
        true => has_content(data_dir, name),
        false => data_dir.join(format!("{name}.db")).is_file(),
    }
}

/// The databases for which `default.db` defines collections and that do not exist.
pub fn databases(data_dir: &Path, default: &Connection) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (name, made) in collections::databases(default)? {
        if !has_content(data_dir, &name) && !is_deleted(data_dir, &name, &made)? {
            missing.push(name);
        }
    }
    // Every start creates it, after `local.db`.
    if has_content(data_dir, db::LOCAL) && !data_dir.join(format!("{}.db", db::WORKFLOWS)).exists()
    {
        missing.push(db::WORKFLOWS.to_owned());
    }
    Ok(missing)
}

/// Reports whether a database was deleted after a collection of it was created. Its file is deleted
/// before its definitions, which a crash may leave.
fn is_deleted(data_dir: &Path, name: &str, made: &str) -> Result<bool> {
    let made = made.replace(':', "");
    let entries = match fs::read_dir(data_dir.join("deleted")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.context("read deleted/")?,
    };
    for entry in entries {
        let file = entry?.file_name();
        let stamp = file.to_str().and_then(|file| {
            let rest = file.strip_prefix(name)?.strip_prefix('-')?;
            rest.strip_suffix(".db")
        });
        if stamp.is_some_and(|it| it.len() == made.len() && *it >= *made) {
            return Ok(true);
        }
    }
    Ok(false)
}
