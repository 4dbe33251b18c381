//! The privileges of a restore that root runs for the account of the server.
//!
//! That account owns the data directory and may be compromised: a link that it creates there would
//! redirect writes of root. Therefore all work below the directory has the privileges of its owner.
//! Only two operations run as root: reading the backup, and renaming the directory if root owns its
//! parent.
//!
//! The privileges are those of the calling thread, and the restore is the only thread of its
//! process.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread;

use super::file::write_error;
use crate::base::error::{Error, Result, ResultExt as _};

/// As many links as Linux follows in a path.
const LINKS_MAX: usize = 40;

/// See the module documentation.
pub struct Owner {
    /// `None` if no privileges change, because the user is not root or the directory belongs to
    /// root.
    uid: Option<Uid>,
}

/// Why a directory was not replaced, and where the old one is.
pub enum SwapError {
    Untouched(io::Error),
    RolledBack(io::Error),
    LeftAside(io::Error),
}

impl Owner {
    /// Takes the privileges of the owner of the data directory, or of its nearest existing
    /// ancestor.
    pub fn become_of(data_dir: &Path) -> Result<Owner> {
        if !geteuid().is_root() {
            return Ok(Owner { uid: None });
        }
        let path = std::path::absolute(data_dir)?;
        let owner = path.ancestors().find_map(|it| fs::metadata(it).ok());
        let (uid, gid) = owner.map_or((0, 0), |it| (it.uid(), it.gid()));
        refuse_links_of_others(&path, uid)?;
        if uid == 0 {
            return Ok(Owner { uid: None });
        }
        let uid = Uid::from_raw(uid);
        let gid = Gid::from_raw(gid);
        thread::set_thread_groups(&[])
            .and_then(|()| thread::set_thread_res_gid(None, gid, None))
            .and_then(|()| thread::set_thread_res_uid(None, uid, None))
            .map_err(io::Error::from)
            .context("take the rights of the owner of the data directory")?;
        Ok(Owner { uid: Some(uid) })
    }

    /// Opens a file of the backup as root. It follows no link below `dir`, not even within the
    /// path, because the account of the server may have written the backup too.
    pub fn open(&self, dir: &Path, relative: &Path) -> io::Result<File> {
        if self.uid.is_none() {
            return File::open(dir.join(relative));
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        self.as_root(|| {
            let mut opened = File::open(dir)?;
            for component in relative.components() {
                let Component::Normal(name) = component else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                let next = rustix::fs::openat(&opened, name, flags, Mode::empty())?;
                opened = File::from(next);
            }
            Ok(opened)
        })
    }

    /// Moves the data directory to `aside` in the same parent, and its folder `inside` to its
    /// place.
    pub fn swap(
        &self,
        data_dir: &Path,
        aside: &Path,
        inside: &str,
        between: fn(),
    ) -> std::result::Result<(), SwapError> {
        let name = |path: &Path| PathBuf::from(path.file_name().unwrap_or_default());
        let (name, aside) = (name(data_dir), name(aside));
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
        let open = || {
            let parent = data_dir.parent().unwrap_or(Path::new("/"));
            let parent = File::options()
                .read(true)
                .custom_flags(flags)
                .open(parent)?;
            Ok((parent.metadata()?.uid() == 0, parent))
        };
        let (is_roots, parent) = self.as_root(open).map_err(SwapError::Untouched)?;
        let rename = |from: &Path, to: &Path| {
            let rename = || Ok(rustix::fs::renameat(&parent, from, &parent, to)?);
            match is_roots {
                true => self.as_root(rename),
                false => rename(),
            }
        };
        rename(&name, &aside).map_err(SwapError::Untouched)?;
        between();
        let moved = rename(&aside.join(inside), &name)
            .and_then(|()| self.refuse_replaced(&parent, &name))
            .and_then(|()| parent.sync_all());
        moved.map_err(|error| match rename(&aside, &name) {
            Ok(()) => SwapError::RolledBack(error),
            Err(_) => SwapError::LeftAside(error),
        })
    }

    /// Refuses a link in place of the directory that was just moved to `name`, because the next
    /// user who follows it may be root.
    fn refuse_replaced(&self, parent: &File, name: &Path) -> io::Result<()> {
        let Some(uid) = self.uid else {
            return Ok(());
        };
        let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory
            && found.st_uid == uid.as_raw()
        {
            return Ok(());
        }
        let remove = || Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?);
        let _ = self.as_root(remove);
        Err(io::Error::other(
            "another process replaced the restored directory",
        ))
    }

    /// Syncs a rename in the parent of a path.
    pub fn sync_parent(&self, path: &Path) -> io::Result<()> {
        match path.canonicalize()?.parent() {
            Some(parent) => self.as_root(|| File::open(parent))?.sync_all(),
            None => Ok(()),
        }
    }

    /// Runs `body` with the privileges that the process started with.
    fn as_root<T>(&self, body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(uid) = self.uid else {
            return body();
        };
        thread::set_thread_res_uid(None, Uid::ROOT, None)?;
        let result = body();
        // Never continue as root: failing to drop privileges ends the restore.
        thread::set_thread_res_uid(None, uid, None)?;
        result
    }
}

/// Refuses a path with a link of a third user, who could redirect the work of root.
fn refuse_links_of_others(path: &Path, owner: u32) -> Result<()> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let mut prefixes: Vec<PathBuf> = path.ancestors().map(Path::to_owned).collect();
        prefixes.reverse();
        let link = prefixes.into_iter().find_map(|prefix| {
            let data = fs::symlink_metadata(&prefix).ok()?;
            data.is_symlink().then_some((prefix, data.uid()))
        });
        let Some((link, uid)) = link else {
            return Ok(());
        };
        if uid != 0 && uid != owner {
            return Err(Error::conflict(format!(
                "{} is a link of user {uid} to a directory of user {owner}; use the path of the directory itself.",
                link.display()
            )));
        }
        let target = fs::read_link(&link).map_err(|error| write_error(&link, &error))?;
        let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        path = link
            .parent()
            .unwrap_or(Path::new("/"))
            .join(target)
            .join(rest);
    }
    Err(Error::conflict(format!(
        "The path {} has too many links.",
        path.display()
    )))
}
