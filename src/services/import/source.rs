//! The data of a PocketBase: its `data.db` and its files, in a folder or in a zip archive.
//!
//! The database of an archive is unpacked to a temporary folder first. Nothing in the source is
//! changed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rusqlite::{Connection, OptionalExtension as _};
use serde_json::Value;

use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::zip::Zip;
use crate::store::db::offline;

const DATA: &str = "data.db";
const STORAGE: &str = "storage";

/// The folder `pb_data` of a stopped PocketBase, or one of its backups.
pub struct Source {
    path: PathBuf,
    zip: Option<Zip>,
    /// Where the database is.
    database: PathBuf,
}

impl Source {
    /// Opens a folder or an archive. The database of an archive is unpacked to `scratch`.
    pub fn open(path: &Path, scratch: &Path) -> Result<Source> {
        if path.is_dir() {
            let database = path.join(DATA);
            return match database.is_file() {
                true => Ok(Source {
                    path: path.to_owned(),
                    zip: None,
                    database,
                }),
                false => Err(Error::not_found(format!(
                    "There is no {DATA} in {}; name the folder pb_data, or a backup of PocketBase.",
                    path.display()
                ))),
            };
        }
        let file = File::open(path).context(format!("open {}", path.display()))?;
        let zip = Zip::open(file)?;
        let database = scratch.join(DATA);
        for name in [DATA, "data.db-wal"] {
            if let Some(mut content) = zip.read(name)? {
                let mut file = File::create(scratch.join(name))?;
                io::copy(&mut content, &mut file).context(format!("unpack {name}"))?;
            } else if name == DATA {
                return Err(Error::not_found(format!(
                    "The archive {} has no {DATA}.",
                    path.display()
                )));
            }
        }
        Ok(Source {
            path: path.to_owned(),
            zip: Some(zip),
            database,
        })
    }

    /// Opens the database. A folder in use by PocketBase is refused as far as that can be seen.
    pub fn connect(&self) -> Result<Connection> {
        let connection = offline::open_foreign(&self.database)?;
        let is_known = connection
            .query_row("SELECT fields FROM _collections LIMIT 1", [], |_| Ok(()))
            .optional();
        match is_known {
            Ok(_) => Ok(connection),
            Err(_) => Err(Error::invalid(
                "The database is not one of PocketBase 0.23 or newer; start the newest PocketBase once on a \
                 copy of the folder, which upgrades it.",
            )),
        }
    }

    /// The content of a file of a record; none if it is missing.
    pub fn file(
        &self,
        collection: &str,
        record: &str,
        name: &str,
    ) -> Result<Option<Box<dyn Read + Send>>> {
        let path = format!("{STORAGE}/{collection}/{record}/{name}");
        if let Some(zip) = &self.zip {
            return zip.read(&path);
        }
        match File::open(self.path.join(path)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(format!("open the file {name} of {record}")),
        }
    }

    /// True if any file of a record is here.
    pub fn has_storage(&self) -> bool {
        self.zip.is_some()
            || fs::read_dir(self.path.join(STORAGE))
                .is_ok_and(|mut entries| entries.next().is_some())
    }

    /// True if programs of PocketBase lie beside the folder.
    pub fn has_hooks(&self) -> bool {
        let hooks = self.path.parent().map(|parent| parent.join("pb_hooks"));
        hooks.is_some_and(|hooks| fs::read_dir(hooks).is_ok_and(|mut it| it.next().is_some()))
    }
}

/// The settings of the application; null if they are encrypted or missing.
pub fn settings(connection: &Connection) -> Result<Value> {
    let sql = "SELECT CAST(value AS TEXT) FROM _params WHERE id = 'settings'";
    let text: Option<Option<String>> =
        connection.query_row(sql, [], |row| row.get(0)).optional()?;
    let text = text.flatten().unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}
