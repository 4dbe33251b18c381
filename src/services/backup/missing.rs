//! Databases that should be there and are not: nothing else tells, since a file that is gone has no faults.

use std::path::Path;
use std::{fs, io};

use crate::base::error::{Result, ResultExt as _};
use crate::model::collections;
use crate::store::db;
use crate::store::db::Connection;

/// Whether a database has any content. A file without is one that is being made, or was emptied.
pub fn has_content(data_dir: &Path, name: &str) -> bool {
    let path = data_dir.join(format!("{name}.db"));
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() > 0)
}

/// Whether there is anything of a database: a tenant without content counts for none.
pub fn is_there(data_dir: &Path, name: &str) -> bool {
    match db::is_valid_name(name) && name != db::DEFAULT {
        true => has_content(data_dir, name),
        false => data_dir.join(format!("{name}.db")).is_file(),
    }
}

/// The databases that this state of `default.db` has collections for and that are not there.
pub fn databases(data_dir: &Path, default: &Connection) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (name, made) in collections::databases(default)? {
        if !has_content(data_dir, &name) && !is_deleted(data_dir, &name, &made)? {
            missing.push(name);
        }
    }
    // Every start makes it, and `local.db` before it.
    if has_content(data_dir, db::LOCAL) && !data_dir.join(format!("{}.db", db::WORKFLOWS)).exists()
    {
        missing.push(db::WORKFLOWS.to_owned());
    }
    Ok(missing)
}

/// Whether a database was deleted after a collection of it was made. First its file goes, then its
/// definitions; a crash leaves these.
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
