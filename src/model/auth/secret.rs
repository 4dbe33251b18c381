//! The secret that signs tokens when none is configured: made once, kept in the data directory.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::{fs, io};

use crate::base::crypto::SigningKey;
use crate::base::error::{Error, Result};
use crate::base::{ids, log};
use crate::store::db::Database;
use crate::store::node;

/// Shortest secret that is accepted: the length of the signature that it makes.
pub const SECRET_BYTES_MIN: usize = 32;

/// Reads the secret, or makes one that only the owner of the file can read. A crash leaves either
/// no file or a whole one.
pub fn load_or_create(path: &Path) -> Result<Vec<u8>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        _ => load(path),
    }
}

/// Reads the secret.
pub fn load(path: &Path) -> Result<Vec<u8>> {
    let name = path.display();
    match fs::read(path) {
        Ok(secret) => {
            warn_if_readable(path);
            let secret = secret.trim_ascii().to_vec();
            if secret.len() < SECRET_BYTES_MIN {
                return Err(Error::unavailable(format!(
                    "{name} is damaged: it is shorter than {SECRET_BYTES_MIN} bytes. Removing it \
                     makes a new secret and ends all tokens."
                )));
            }
            Ok(secret)
        }
        Err(error) => Err(Error::unavailable(format!(
            "{name} cannot be read: {error}."
        ))),
    }
}

/// Says so when this is another secret than at the start before, for all tokens have ended then, those of
/// replicas and workers too. What is noted of it in `local.db` tells nothing about it.
pub fn warn_if_changed(local: &Database, secret: &[u8]) -> Result<()> {
    const FACT: &str = "secret";
    let mark = ids::hex(&SigningKey::new(secret).sign(b"which secret this is")[..8]);
    match node::setting(local, FACT)? {
        Some(before) if before == mark => return Ok(()),
        Some(_) => log::warn(format_args!(
            "the secret is not that of the last start (JWT_SECRET was set, changed or left out): all \
             tokens have ended"
        )),
        None => {}
    }
    node::save_setting(local, FACT, mark)
}

fn warn_if_readable(path: &Path) {
    let mode = fs::metadata(path).map_or(0, |data| data.permissions().mode());
    if mode & 0o077 != 0 {
        log::warn(format_args!(
            "others can read {}; chmod 600 it",
            path.display()
        ));
    }
}

fn create(path: &Path) -> Result<Vec<u8>> {
    let secret = ids::hex(&ids::random_bytes::<32>()?);
    write(path, &secret).map_err(|error| {
        Error::unavailable(format!("{} cannot be made: {error}.", path.display()))
    })?;
    Ok(secret.into_bytes())
}

fn write(path: &Path, secret: &str) -> io::Result<()> {
    let partial = path.with_extension("tmp");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
