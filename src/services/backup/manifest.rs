//! The manifest of a backup, `manifest.json`. It is written last, so everything it names exists.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::file::write_error;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{crypto, ids};
use crate::store::db;

/// The file name in the directory of a backup.
pub const FILE: &str = "manifest.json";
/// The layout that this version reads and writes.
const FORMAT: u32 = 1;
/// Prefix of the folders with databases.
pub const STATE: &str = "state-";
/// The file with the secret of a data directory.
pub const SECRET: &str = "secret";

/// See the module documentation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupManifest {
    format: u32,
    /// The version of vski that wrote it.
    pub vski: String,
    pub time: String,
    /// The folder with the databases and the secret.
    pub state: String,
    /// `local`, or `s3` if the files are in a bucket and not part of the backup.
    pub files_dir: String,
    pub parts: Vec<ManifestPart>,
    /// The number of files of records in the backup, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Files that a database names but that were missing or damaged.
    pub missing: u64,
}

/// A file in the folder of databases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestPart {
    pub name: String,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl ManifestPart {
    /// Hashes a file.
    pub fn of(folder: &Path, name: &str) -> Result<ManifestPart> {
        let path = folder.join(name);
        let file = File::open(&path).context(format!("open {}", path.display()))?;
        let part = ManifestPart::of_content(name, file);
        part.context(format!("read {}", path.display()))
    }

    fn of_content(name: &str, content: impl Read) -> io::Result<ManifestPart> {
        let (size, sha256) = crypto::sha256_of(content)?;
        Ok(ManifestPart {
            name: name.to_owned(),
            size,
            sha256: ids::hex(&sha256),
        })
    }

    /// The name of the database; `None` for the secret.
    pub fn database(&self) -> Option<&str> {
        db::name_of_file(&self.name)
    }
}

impl BackupManifest {
    /// An empty manifest for the databases in this folder.
    pub fn new(time: String, state: &str, files_dir: &str) -> BackupManifest {
        BackupManifest {
            format: FORMAT,
            vski: env!("CARGO_PKG_VERSION").to_owned(),
            time,
            state: state.to_owned(),
            files_dir: files_dir.to_owned(),
            parts: Vec::new(),
            files: 0,
            bytes: 0,
            missing: 0,
        }
    }

    /// Reports whether a directory has a manifest of vski, of any version; other programs use this
    /// file name too.
    pub fn is_in(dir: &Path) -> bool {
        let text = fs::read(dir.join(FILE)).unwrap_or_default();
        let json: Value = serde_json::from_slice(&text).unwrap_or_default();
        json["vski"].is_string() && json["format"].is_u64()
    }

    /// Reads the manifest; returns `None` if there is no complete backup.
    pub fn read(dir: &Path) -> Result<Option<BackupManifest>> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::unavailable(format!(
                    "{} cannot be read: {error}.",
                    path.display()
                )));
            }
        };
        BackupManifest::parse(&text, dir).map(Some)
    }

    /// Parses the manifest of the backup at this place.
    pub fn parse(text: &[u8], place: &Path) -> Result<BackupManifest> {
        let damaged = || {
            Error::unavailable(format!(
                "{} is damaged; use another backup or create a new one.",
                place.join(FILE).display()
            ))
        };
        let manifest: BackupManifest = serde_json::from_slice(text).map_err(|_| damaged())?;
        if manifest.format != FORMAT {
            return Err(Error::unavailable(format!(
                "The backup in {} was written by another version, vski {}.",
                place.display(),
                manifest.vski
            )));
        }
        // No name may lead out of the directory.
        let is_plain = |name: &str| {
            name.bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'-')
        };
        let are_known = |part: &ManifestPart| part.name == SECRET || part.database().is_some();
        let is_right = manifest.state.starts_with(STATE)
            && is_plain(&manifest.state)
            && manifest.parts.iter().all(are_known);
        is_right.then_some(manifest).ok_or_else(damaged)
    }

    /// Reads the manifest; fails if there is none.
    pub fn read_existing(dir: &Path) -> Result<BackupManifest> {
        BackupManifest::read(dir)?
            .ok_or_else(|| Error::not_found(format!("There is no backup in {}.", dir.display())))
    }

    /// Writes the manifest atomically, which makes its state the current one.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let partial = dir.join(format!("{FILE}.new"));
        let write = || -> io::Result<()> {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&partial, dir.join(FILE))?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| write_error(dir, &error))
    }

    /// The folder with the databases.
    pub fn state(&self, dir: &Path) -> PathBuf {
        dir.join(&self.state)
    }

    /// One sentence for each part that differs from what was written. `open` opens a file of the
    /// backup at this place.
    pub fn faults<R: Read>(
        &self,
        place: &Path,
        open: impl Fn(&Path) -> io::Result<R>,
    ) -> Vec<String> {
        let look = |part: &ManifestPart| {
            let relative = Path::new(&self.state).join(&part.name);
            let path = place.join(&relative);
            let content = open(&relative);
            match content.and_then(|it| ManifestPart::of_content(&part.name, it)) {
                Err(error) => Some(format!("{} cannot be read: {error}.", path.display())),
                Ok(now) if now.sha256 != part.sha256 => Some(format!(
                    "{} differs from what the backup wrote.",
                    path.display()
                )),
                Ok(_) => None,
            }
        };
        self.parts.iter().filter_map(look).collect()
    }
}
