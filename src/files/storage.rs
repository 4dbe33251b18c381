//! Where stored files lie: on this machine's disk, or in a bucket (FILE-1). One set of operations for
//! both.

use std::fs::File;
use std::io::Read;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;

use super::FilePath;
use super::local::Local;
use super::local::Partial;
use crate::error::Result;
use crate::log;

/// The storage of a server.
pub struct Storage {
    /// Bodies are received here in any case.
    local: Local,
}

impl Storage {
    /// Opens the storage of a data directory.
    pub fn open(data_dir: &Path) -> Result<Storage> {
        Ok(Storage {
            local: Local::open(data_dir)?,
        })
    }

    /// The storage as it is, to be looked at beside the server that has it.
    pub fn look(data_dir: &Path) -> Storage {
        Storage {
            local: Local::look(data_dir),
        }
    }

    /// Whether what comes and goes is written to the journal: replicas get the files from here.
    pub fn has_journal(&self) -> bool {
        true
    }

    /// How far the times of files may be from this machine's clock.
    pub fn clocks_differ_ms(&self) -> i64 {
        // The kernel gives files the time of its last tick.
        20
    }

    /// A file to receive a body into.
    pub fn receive(&self) -> Result<Partial> {
        self.local.receive()
    }

    /// Gives received files their places, durably: all of them or none. They keep them when
    /// [`Placed::keep`] is called, and lose them otherwise.
    pub fn place(&self, files: &[(FilePath, &Partial)]) -> Result<Placed<'_>> {
        let mut placed = Placed {
            storage: self,
            paths: Vec::new(),
        };
        for (path, partial) in files {
            self.local.place(path, partial)?;
            placed.paths.push(path.clone());
        }
        self.local.sync(files.iter().map(|(path, _)| path))?;
        Ok(placed)
    }

    /// A part of a stored file, to be read; none when the file is not there.
    pub fn read(
        &self,
        path: &FilePath,
        start: u64,
        length: u64,
    ) -> Result<Option<Box<dyn Read + Send>>> {
        let Some(mut file) = self.local.open_file(path)? else {
            return Ok(None);
        };
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Some(Box::new(File::take(file, length))))
    }

    /// Deletes a stored file, if it is there.
    pub fn remove(&self, path: &FilePath) -> Result<()> {
        self.local.remove(path)
    }

    /// Calls `found` with every stored file and when it was written (milliseconds since 1970); stops at
    /// the first error.
    pub fn walk(&self, found: &mut dyn FnMut(FilePath, i64) -> Result<()>) -> Result<()> {
        self.local.walk(found)
    }

    /// The same for one database.
    pub fn walk_in(
        &self,
        database: &str,
        found: &mut dyn FnMut(FilePath, i64) -> Result<()>,
    ) -> Result<()> {
        self.local.walk_in(database, found)
    }

    /// Moves what belongs to a deleted database to where its file lies, if the files are here.
    pub fn move_aside(&self, database: &str, folder: &Path) -> Result<()> {
        self.local.move_aside(database, folder)
    }
}

/// Files that have got their places.
pub struct Placed<'a> {
    storage: &'a Storage,
    paths: Vec<FilePath>,
}

impl Placed<'_> {
    /// They are named by a record now.
    pub fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = self.storage.remove(path) {
                log::warn(format_args!("take back {path}: {error}"));
            }
        }
    }
}
