//! Copies single files into a backup or out of it.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::{fs, io};

use crate::base::crypto::Sha256Hasher;
use crate::base::error::Error;
use crate::base::ids;
use crate::store::db;
use crate::store::files::StoredFile;

/// Creates an empty file that only its owner can read.
pub fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(db::NOFOLLOW)
        .open(path)
}

/// Copies a file to its place if its content is as stored. Returns whether it is.
pub fn copy(
    mut source: impl Read,
    stored: &StoredFile,
    partial: &Path,
    target: &Path,
) -> io::Result<bool> {
    for folder in [partial.parent(), target.parent()].into_iter().flatten() {
        create_dirs(folder)?;
    }
    let mut file = create(partial)?;
    let (mut hasher, mut size, mut buffer) = (Sha256Hasher::new(), 0, vec![0; 128 << 10]);
    loop {
        let length = source.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        file.write_all(&buffer[..length])?;
        size += length as u64;
    }
    let is_whole = size == stored.size && ids::hex(&hasher.finish()) == stored.sha256;
    match is_whole {
        true => fs::rename(partial, target)?,
        false => fs::remove_file(partial)?,
    }
    Ok(is_whole)
}

/// Creates folders that only their owner can read.
pub fn create_dirs(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// The error of a failed write to a directory.
pub fn write_error(dir: &Path, error: &io::Error) -> Error {
    let dir = dir.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::unavailable(format!(
                "Not enough space in {dir}; existing files are unchanged ({error})."
            ))
        }
        _ => Error::unavailable(format!("Cannot write to {dir}: {error}.")),
    }
}
