//! Downloads of files from a master. A part is kept, so that an interrupted download resumes.
//!
//! A part lies in `storage/.incoming` under a name made from the path and the hash of its file. It
//! moves to its path when it is complete, verified and durable. Parts that were not written to for
//! a day are removed at the start.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use super::path::FilePath;
use super::reserve::Reserve;
use crate::base::crypto::Sha256Hasher;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{crypto, ids};

/// The folder of parts; no database can have this name.
const FOLDER: &str = ".incoming";
/// Time after which an abandoned part is removed.
const KEPT: Duration = Duration::from_secs(86_400);
const BUFFER_BYTES: usize = 128 << 10;

/// A file that the master has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    pub path: FilePath,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl RemoteFile {
    /// A buffer to read it with, no larger than needed.
    fn buffer(&self) -> Vec<u8> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        vec![0; size.saturating_add(1).min(BUFFER_BYTES)]
    }
}

/// A partial download, open for appending.
pub struct Incoming {
    path: PathBuf,
    file: File,
    hasher: Sha256Hasher,
    /// Bytes downloaded so far.
    pub have: u64,
    remote: RemoteFile,
}

impl Incoming {
    /// Opens the part of a file; it is empty the first time.
    pub fn open(root: &Path, remote: &RemoteFile, reserve: Reserve) -> Result<Incoming> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder).context("create the folder of incoming files")?;
        let path = Incoming::path_of(root, remote);
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| not_stored(remote, &error))?;
        let mut incoming = Incoming {
            path,
            file,
            hasher: Sha256Hasher::new(),
            have: 0,
            remote: remote.clone(),
        };
        let mut buffer = remote.buffer();
        loop {
            let length = incoming.file.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            incoming.hasher.update(&buffer[..length]);
            incoming.have += length as u64;
        }
        if incoming.have > remote.size {
            incoming.restart()?;
        }
        let room = reserve.check(&incoming.file, remote.size.saturating_sub(incoming.have));
        room.context(format!("fetch file {}", remote.path))?;
        Ok(incoming)
    }

    /// Discards the bytes downloaded so far.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        (self.hasher, self.have) = (Sha256Hasher::new(), 0);
        Ok(())
    }

    /// Appends until the end of the stream, or until the part is longer than the file. Calls
    /// `progress` with the number of bytes of each read; false stops the download.
    pub fn fill(
        &mut self,
        from: &mut dyn Read,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<()> {
        let mut buffer = self.remote.buffer();
        while self.have <= self.remote.size {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) => return Err(interrupted(&self.remote.path, &error)),
            };
            self.file
                .write_all(&buffer[..length])
                .map_err(|error| not_stored(&self.remote, &error))?;
            self.hasher.update(&buffer[..length]);
            self.have += length as u64;
            if !progress(length as u64) {
                return Err(Error::unavailable("The download was cancelled."));
            }
        }
        Ok(())
    }

    /// Verifies size and hash of the part. A wrong part is discarded; a short one is kept.
    pub fn check(&mut self) -> Result<()> {
        let hasher = std::mem::replace(&mut self.hasher, Sha256Hasher::new());
        if self.have < self.remote.size {
            self.hasher = hasher;
            return Err(Error::unavailable(format!(
                "The download of the file {} ended after {} of {} bytes.",
                self.remote.path, self.have, self.remote.size
            )));
        }
        if self.have == self.remote.size && ids::hex(&hasher.finish()) == self.remote.sha256 {
            return Ok(());
        }
        self.restart()?;
        Err(Error::unavailable(format!(
            "Checksum mismatch in the downloaded file {}.",
            self.remote.path
        )))
    }

    /// Closes the part; [`Incoming::path_of`] finds it again.
    pub fn close(self) {}

    /// The path of the part of a file.
    pub fn path_of(root: &Path, remote: &RemoteFile) -> PathBuf {
        let name = format!("{} {}", remote.path, remote.sha256);
        let name = ids::hex(&crypto::sha256(name.as_bytes()));
        root.join(FOLDER).join(name)
    }

    /// Closes and removes the part.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn not_stored(remote: &RemoteFile, error: &io::Error) -> Error {
    Error::unavailable(format!(
        "The file {} cannot be stored: {error}.",
        remote.path
    ))
}

fn interrupted(path: &FilePath, error: &io::Error) -> Error {
    Error::unavailable(format!("The download of the file {path} was interrupted."))
        .context(error.to_string())
}

/// Removes abandoned parts.
pub fn remove_old(root: &Path) -> Result<()> {
    remove(root, KEPT)
}

/// Removes all parts.
pub fn remove_all(root: &Path) -> Result<()> {
    remove(root, Duration::ZERO)
}

fn remove(root: &Path, kept: Duration) -> Result<()> {
    let entries = match fs::read_dir(root.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age >= kept {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_empty(root: &Path) -> bool {
        fs::read_dir(root.join(FOLDER)).map_or(true, |mut entries| entries.next().is_none())
    }

    fn remote(content: &[u8]) -> RemoteFile {
        RemoteFile {
            path: FilePath::parse("default/c/r/name.txt").unwrap(),
            size: content.len() as u64,
            sha256: ids::hex(&crypto::sha256(content)),
        }
    }

    /// A size near the largest number made the sum with the reserve overflow, and the download
    /// passed as one that fits.
    #[test]
    fn a_size_for_which_there_is_no_room_is_refused_however_large_it_is() {
        let root = std::env::temp_dir().join(format!("vski-room-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        for size in [1 << 63, u64::MAX - (64 << 20), u64::MAX - 1, u64::MAX] {
            let remote = RemoteFile {
                size,
                ..remote(b"")
            };
            let reserve = Reserve::new(64 << 20);
            let refusal = Incoming::open(&root, &remote, reserve).err().unwrap();
            assert!(
                refusal.to_string().contains("are free on the disk"),
                "{refusal}"
            );
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_cut_download_goes_on_and_a_wrong_one_leaves_nothing() {
        let root = std::env::temp_dir().join(format!("vski-incoming-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let remote = remote(b"hello, world");
        let mut yes = |_| true;
        let mut first = Incoming::open(&root, &remote, Reserve::default()).unwrap();
        first.fill(&mut &b"hello"[..], &mut yes).unwrap();
        assert!(first.check().is_err());
        drop(first);

        let mut second = Incoming::open(&root, &remote, Reserve::default()).unwrap();
        assert_eq!(second.have, 5);
        second.fill(&mut &b", moon!"[..], &mut yes).unwrap();
        assert!(second.check().is_err());
        drop(second);

        let mut third = Incoming::open(&root, &remote, Reserve::default()).unwrap();
        assert_eq!(third.have, 0);
        third.fill(&mut &b"hello, world"[..], &mut yes).unwrap();
        third.check().unwrap();
        third.close();
        let target = root.join("target");
        fs::rename(Incoming::path_of(&root, &remote), &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"hello, world");
        assert!(is_empty(&root));

        let mut long = Incoming::open(&root, &remote, Reserve::default()).unwrap();
        long.fill(&mut &[7; 500_000][..], &mut yes).unwrap();
        assert!(long.check().is_err());
        long.discard();
        assert!(is_empty(&root));
        fs::remove_dir_all(&root).unwrap();
    }
}
