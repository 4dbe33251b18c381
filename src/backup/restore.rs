//! Putting a backup back into a data directory.
//!
//! Everything is first put into a folder inside the data directory, checked there, and made durable; only then
//! does it take its place, `default.db` last. A server refuses a directory in which that was interrupted.
//!
//! What went on elsewhere since the backup must not be mistaken for a continuation of it: the journal of
//! files begins another epoch, so that replicas take the list of all files, and the epochs of runs are
//! skipped, so that a worker that holds one is refused. That databases are of another history is noticed
//! with every start of a master.

use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::path::PathBuf;

use super::copy::copy;
use super::copy::create;
use super::manifest::Manifest;
use super::refused;
use super::storage;
use crate::clock;
use crate::db;
use crate::error::Error;
use crate::error::Result;
use crate::error::ResultExt as _;
use crate::failpoints;
use crate::files::FilePath;
use crate::files::journal;
use crate::files::journal::PAGE;
use crate::files::table;
use crate::workflows::offline;

/// What a data directory may have in it and still be empty.
const NOTHING: [&str; 3] = ["lock", "lost+found", db::RESTORING];

/// What was put back.
pub struct Restored {
    pub time: String,
    pub databases: usize,
    pub files: u64,
    pub bytes: u64,
    /// Files that a database names and that the backup does not have as they were stored.
    pub missing: u64,
    pub is_bucket: bool,
    /// Where what was there before is now.
    pub aside: Option<PathBuf>,
}

/// Puts a backup into a data directory, which is empty unless it is to be replaced.
pub fn run(
    dir: &Path,
    data_dir: &Path,
    replaces: bool,
    settings: db::Settings,
    tell: &mut dyn FnMut(&str),
) -> Result<Restored> {
    super::refuse_inside(data_dir, dir)?;
    let _backup = super::hold(dir)?;
    let manifest = Manifest::read_existing(dir)?;
    if let Some(fault) = manifest.faults(dir).into_iter().next() {
        return Err(Error::unavailable(format!(
            "{fault} The backup is damaged; nothing was restored."
        )));
    }
    db::create_dir(data_dir)?;
    let is_empty = is_empty(data_dir)?;
    if !is_empty && !replaces {
        return Err(Error::conflict(format!(
            "The data directory {} is not empty; --replace moves what is there aside.",
            data_dir.display()
        )));
    }
    // No server runs on it, and none starts: neither where it is now nor where it is to be.
    let _lock = db::lock_dir(data_dir)?;
    // At once, so that a restore that fails does not keep the server out either.
    give_all(&data_dir.join("lock"), data_dir)?;
    let staging = data_dir.join(db::RESTORING);
    remove(&staging)?;
    db::create_dir(&staging)?;
    let _next = db::lock_dir(&staging)?;
    let mut work = Work {
        dir,
        data_dir,
        staging: &staging,
        manifest: &manifest,
        settings,
        tell,
    };
    let filled = work.fill();
    let (files, bytes, missing) = filled.inspect_err(|_| {
        let _ = fs::remove_dir_all(&staging);
    })?;
    failpoints::reach("restore-filled");
    let aside = match is_empty {
        true => move_in(&staging, data_dir).map(|()| None),
        false => replace(data_dir).map(Some),
    };
    Ok(Restored {
        time: manifest.time.clone(),
        databases: manifest
            .parts
            .iter()
            .filter(|it| it.database().is_some())
            .count(),
        files,
        bytes,
        missing,
        is_bucket: manifest.storage != "local",
        aside: aside?,
    })
}

fn is_empty(data_dir: &Path) -> Result<bool> {
    for entry in fs::read_dir(data_dir).context(format!("read {}", data_dir.display()))? {
        let name = entry?.file_name();
        if !NOTHING.iter().any(|it| name == *it) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(folder, &error)),
        _ => Ok(()),
    }
}

/// Filling the folder that becomes the data.
struct Work<'a> {
    dir: &'a Path,
    data_dir: &'a Path,
    staging: &'a Path,
    manifest: &'a Manifest,
    settings: db::Settings,
    tell: &'a mut dyn FnMut(&str),
}

impl Work<'_> {
    fn fill(&mut self) -> Result<(u64, u64, u64)> {
        let state = self.manifest.state(self.dir);
        for part in &self.manifest.parts {
            // Not with its permissions: the copy is for its owner to write, and for no one else to read.
            let copied = File::open(state.join(&part.name)).and_then(|mut from| {
                io::copy(&mut from, &mut create(&self.staging.join(&part.name))?)
            });
            copied.map_err(|error| refused(self.staging, &error))?;
        }
        let mut total = (0, 0, 0);
        for part in &self.manifest.parts {
            let Some(name) = part.database() else {
                continue;
            };
            if self.manifest.storage == "local" && db::is_valid_name(name) {
                self.copy_files(name, &mut total)?;
            }
        }
        self.settle()?;
        give_all(self.staging, self.data_dir)?;
        super::sync(self.staging)?;
        Ok(total)
    }

    fn copy_files(&mut self, name: &str, total: &mut (u64, u64, u64)) -> Result<()> {
        let path = self.manifest.state(self.dir).join(format!("{name}.db"));
        let database = db::still::open(&path, self.settings.prepare)?;
        if !table::is_there(&database)? {
            return Ok(());
        }
        let (from, to) = (storage(self.dir), storage(self.staging));
        let mut after: Option<FilePath> = None;
        loop {
            let list = table::list(&database, name, after.as_ref(), PAGE)?;
            for (path, stored) in &list {
                let is_path = FilePath::parse(&path.to_string()).is_some();
                let is_whole = is_path
                    && match File::open(from.join(path.relative())) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                        Err(error) => {
                            return Err(Error::from(error).context(format!("open {path}")));
                        }
                        Ok(file) => {
                            copy(file, stored, &to.join(".file"), &to.join(path.relative()))
                                .map_err(|error| refused(self.staging, &error))?
                        }
                    };
                if is_whole {
                    total.0 += 1;
                    total.1 += stored.size;
                } else {
                    total.2 += 1;
                    (self.tell)(&format!(
                        "The backup does not have the file {path} as it was stored."
                    ));
                }
            }
            match list.into_iter().next_back() {
                Some((path, _)) => after = Some(path),
                None => return Ok(()),
            }
        }
    }

    /// Checks the databases, and lets what follows them notice that they are of another history.
    fn settle(&self) -> Result<()> {
        for part in &self.manifest.parts {
            let Some(name) = part.database() else {
                continue;
            };
            let database = db::open_existing(self.staging, name, self.settings)?;
            database.check().context(format!("check {name}"))?;
            match name {
                db::LOCAL => journal::forget_epoch(&database)?,
                db::WORKFLOWS => offline::skip_epochs(&database)?,
                _ => {}
            }
            database.close()?;
        }
        match db::default_file(self.staging).exists() {
            true => Ok(()),
            false => Err(Error::unavailable("The backup has no default.db.")),
        }
    }
}

/// Lets root restore for the account of the server, which owns the directory.
fn give_all(path: &Path, data_dir: &Path) -> Result<()> {
    let owner = fs::metadata(data_dir).context("look at the data directory")?;
    match rustix::process::geteuid().is_root() && owner.uid() != 0 {
        true => give(path, &owner).context(format!("give {} to its owner", path.display())),
        false => Ok(()),
    }
}

fn give(path: &Path, owner: &fs::Metadata) -> io::Result<()> {
    lchown(path, Some(owner.uid()), Some(owner.gid()))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

/// Gives everything its place in an empty directory.
fn move_in(staging: &Path, data_dir: &Path) -> Result<()> {
    let last = db::default_file(staging);
    let mut paths = Vec::new();
    for entry in fs::read_dir(staging).context("read what is restored")? {
        let path = entry?.path();
        if path != last && !path.ends_with("lock") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.push(last);
    let last = paths.len() - 1;
    let moved = || -> io::Result<()> {
        for (at, path) in paths.iter().enumerate() {
            if at == last {
                File::open(data_dir)?.sync_all()?;
                failpoints::reach("restore-moving");
            }
            fs::rename(path, data_dir.join(path.file_name().unwrap_or_default()))?;
        }
        File::open(data_dir)?.sync_all()?;
        fs::remove_dir_all(staging)?;
        sync_parent(data_dir)
    };
    moved().map_err(|error| refused(data_dir, &error))
}

/// Moves the directory aside and what is restored in its place.
fn replace(data_dir: &Path) -> Result<PathBuf> {
    // A name with a slash at its end has no other beside it, and a link stays what it is.
    let data_dir = data_dir
        .canonicalize()
        .context("resolve the data directory")?;
    let stamp = clock::now().replace([':', '.'], "");
    let mut aside = data_dir.clone().into_os_string();
    aside.push(format!(".before-{stamp}"));
    let aside = PathBuf::from(aside);
    fs::rename(&data_dir, &aside).map_err(|error| {
        let _ = fs::remove_dir_all(data_dir.join(db::RESTORING));
        Error::unavailable(format!(
            "{} cannot be moved to {}: {error}. Nothing was changed; move what is in it elsewhere, and restore \
             without --replace.",
            data_dir.display(),
            aside.display()
        ))
    })?;
    failpoints::reach("restore-aside");
    let moved =
        fs::rename(aside.join(db::RESTORING), &data_dir).and_then(|()| sync_parent(&data_dir));
    moved.map_err(|error| {
        let back = fs::rename(&aside, &data_dir);
        let place = if back.is_ok() { &data_dir } else { &aside };
        Error::unavailable(format!(
            "The data could not be replaced and is in {}: {error}.",
            place.display()
        ))
    })?;
    Ok(aside)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
