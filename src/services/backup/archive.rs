//! Packs the directory of a backup into a zip archive.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::directory::files_dir;
use super::manifest::{BackupManifest, FILE, SECRET};
use crate::base::threads::Stop;
use crate::base::zip::ZipWriter;
use crate::store::files::FOLDER;

/// Levels of folders below the storage: database, collection, record.
const LEVELS_MAX: usize = 8;

/// Writes everything in a backup to an empty file and syncs it. Deletes each packed file, so that
/// the disk holds the data once.
pub fn pack(dir: &Path, manifest: &BackupManifest, file: File, stop: &Stop) -> io::Result<()> {
    let mut packer = Packer {
        dir,
        zip: ZipWriter::new(file),
        stop,
    };
    packer.add(Path::new(FILE), true)?;
    for part in &manifest.parts {
        let path = Path::new(&manifest.state).join(&part.name);
        packer.add(&path, part.name != SECRET)?;
    }
    if files_dir(dir).exists() {
        packer.add_folder(Path::new(FOLDER), LEVELS_MAX)?;
    }
    packer.zip.finish()?.sync_all()
}

struct Packer<'a> {
    dir: &'a Path,
    zip: ZipWriter,
    stop: &'a Stop,
}

impl Packer<'_> {
    fn add(&mut self, relative: &Path, is_deflated: bool) -> io::Result<()> {
        let path = self.dir.join(relative);
        let name = relative.to_str().unwrap_or_default();
        let stop = self.stop;
        let go_on = || match stop.is_set() {
            true => Err(io::Error::other("the server is stopping")),
            false => Ok(()),
        };
        self.zip
            .add(name, File::open(&path)?, is_deflated, &go_on)?;
        fs::remove_file(path)
    }

    /// Adds the files of records, which are mostly compressed already.
    fn add_folder(&mut self, folder: &Path, levels: usize) -> io::Result<()> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.dir.join(folder))? {
            let entry = entry?;
            let path: PathBuf = folder.join(entry.file_name());
            paths.push((path, entry.file_type()?.is_dir()));
        }
        paths.sort();
        for (path, is_folder) in paths {
            match is_folder {
                true if levels > 0 => self.add_folder(&path, levels - 1)?,
                true => {}
                false => self.add(&path, false)?,
            }
        }
        Ok(())
    }
}
