//! Files on their way from a master: parts that are kept, so that a download goes on where it was cut.
//!
//! A part lies in `storage/.incoming` under a name made from path and hash of its file, and moves to its
//! place when it is whole and its hash is right, after the disk has it. What nobody has touched for a day
//! is removed at the start.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use super::FilePath;
use super::reserve::Reserve;
use crate::base::crypto::Hasher;
use crate::base::error::{Error, Result, ResultExt as _};
use crate::base::{crypto, ids};

/// No database has such a name.
const FOLDER: &str = ".incoming";
/// How long a part is kept that nobody goes on with.
const KEPT: Duration = Duration::from_secs(86_400);
const BUFFER_BYTES: usize = 128 << 10;

/// A file as the master has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub path: FilePath,
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl Remote {
    /// To read it with: small files need no large one.
    fn buffer(&self) -> Vec<u8> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        vec![0; size.saturating_add(1).min(BUFFER_BYTES)]
    }
}

/// A part of a file, open for more.
pub struct Incoming {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    /// Bytes that are here.
    pub have: u64,
    remote: Remote,
}

impl Incoming {
    /// What is here of a file already; nothing, the first time.
    pub fn open(root: &Path, remote: &Remote, reserve: Reserve) -> Result<Incoming> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder).context("make the folder of incoming files")?;
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
            hasher: Hasher::new(),
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
            incoming.begin_anew()?;
        }
        let room = reserve.check(&incoming.file, remote.size.saturating_sub(incoming.have));
        room.context(format!("fetch file {}", remote.path))?;
        Ok(incoming)
    }

    /// Lets go of what is here.
    pub fn begin_anew(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        (self.hasher, self.have) = (Hasher::new(), 0);
        Ok(())
    }

    /// Takes what comes until the end, or until it is more than the file has. Calls `told` with the
    /// bytes of each piece; false ends it.
    pub fn fill(&mut self, from: &mut dyn Read, told: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        let mut buffer = self.remote.buffer();
        while self.have <= self.remote.size {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) => return Err(cut_off(&self.remote.path, &error)),
            };
            self.file
                .write_all(&buffer[..length])
                .map_err(|error| not_stored(&self.remote, &error))?;
            self.hasher.update(&buffer[..length]);
            self.have += length as u64;
            if !told(length as u64) {
                return Err(Error::unavailable("The download was stopped."));
            }
        }
        Ok(())
    }

    /// Checks what has come. When it is not the file, nothing of it is kept.
    pub fn check(&mut self) -> Result<()> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new());
        if self.have < self.remote.size {
            self.hasher = hasher;
            return Err(Error::unavailable(format!(
                "The file {} was cut off after {} of {} bytes.",
                self.remote.path, self.have, self.remote.size
            )));
        }
        if self.have == self.remote.size && ids::hex(&hasher.finish()) == self.remote.sha256 {
            return Ok(());
        }
        self.begin_anew()?;
        Err(Error::unavailable(format!(
            "What has come of the file {} is not what the master has stored.",
            self.remote.path
        )))
    }

    /// Closes it; it is found again by [`Incoming::path_of`].
    pub fn keep(self) {}

    /// Where the part of a file lies.
    pub fn path_of(root: &Path, remote: &Remote) -> PathBuf {
        let name = format!("{} {}", remote.path, remote.sha256);
        let name = ids::hex(&crypto::sha256(name.as_bytes()));
        root.join(FOLDER).join(name)
    }

    /// Removes it.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn not_stored(remote: &Remote, error: &io::Error) -> Error {
    Error::unavailable(format!(
        "The file {} cannot be stored: {error}.",
        remote.path
    ))
}

fn cut_off(path: &FilePath, error: &io::Error) -> Error {
    Error::unavailable(format!("The file {path} was cut off.")).context(error.to_string())
}

/// Removes parts that nobody goes on with.
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

    fn remote(content: &[u8]) -> Remote {
        Remote {
            path: FilePath::parse("default/c/r/name.txt").unwrap(),
            size: content.len() as u64,
            sha256: ids::hex(&crypto::sha256(content)),
        }
    }

    /// A size near the largest number made the sum with the reserve overflow, and the download passed as one that fits.
    #[test]
    fn a_size_for_which_there_is_no_room_is_refused_however_large_it_is() {
        let root = std::env::temp_dir().join(format!("vski-room-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        for size in [1 << 63, u64::MAX - (64 << 20), u64::MAX - 1, u64::MAX] {
            let remote = Remote {
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
        third.keep();
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
