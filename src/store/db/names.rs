//! The names of databases and the paths of their files.

use std::fs;
use std::path::{Path, PathBuf};

use super::migrate::Schema;
use crate::base::error::{Result, ResultExt as _};

/// The database of requests that name none.
pub const DEFAULT: &str = "default";
/// Data about this node alone; requests cannot reach it.
pub const LOCAL: &str = "local";
/// Statistics of this node; requests cannot reach it either.
pub const STATS: &str = "stats";
/// The workflow runs of this node.
pub const WORKFLOWS: &str = "workflows";
/// Names of system databases, which no tenant may have.
pub const RESERVED: [&str; 3] = [LOCAL, STATS, WORKFLOWS];

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

/// The name of the database in a file of this name; none if the file is not a database.
pub fn name_of_file(file: &str) -> Option<&str> {
    let name = file.strip_suffix(".db")?;
    (is_valid_name(name) || RESERVED.contains(&name)).then_some(name)
}

/// True if a tenant may have this name: it is safe as a file name on every file system.
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

/// The path of a database in a data directory.
pub fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.db"))
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

/// The system tables that the database of this name has.
pub fn schema_of(name: &str) -> Schema {
    match name {
        DEFAULT => Schema::Default,
        LOCAL => Schema::Local,
        STATS => Schema::Stats,
        WORKFLOWS => Schema::Workflows,
        _ => Schema::Tenant,
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
}
