//! The secret that signs tokens if none is configured. It is generated once and kept in the data
//! directory.

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

/// Shortest accepted secret: the length of the signature.
pub const SECRET_BYTES_MIN: usize = 32;

/// Reads the secret, or creates one with access for the owner only. A crash leaves either no file
/// or a complete one.
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
                    "{name} is damaged: it is shorter than {SECRET_BYTES_MIN} bytes. Remove it \
                     to generate a new secret; all tokens then become invalid."
                )));
            }
            Ok(secret)
        }
        Err(error) => Err(Error::unavailable(format!(
            "{name} cannot be read: {error}."
        ))),
    }
}

/// Logs a warning if the secret differs from that of the last start, because all tokens are then
/// invalid, also those of replicas and workers. The fingerprint in `local.db` does not reveal the
/// secret.
pub fn warn_if_changed(local: &Database, secret: &[u8]) -> Result<()> {
    const SETTING: &str = "secret";
    let fingerprint = ids::hex(&SigningKey::new(secret).sign(b"which secret this is")[..8]);
    match node::setting(local, SETTING)? {
        Some(before) if before == fingerprint => return Ok(()),
        Some(_) => log::warn(format_args!(
            "the secret differs from that of the last start (JWT_SECRET was set, changed or removed): \
             all tokens are invalid"
        )),
        None => {}
    }
    node::save_setting(local, SETTING, fingerprint)
}

fn warn_if_readable(path: &Path) {
    let mode = fs::metadata(path).map_or(0, |data| data.permissions().mode());
    if mode & 0o077 != 0 {
        log::warn(format_args!(
            "{} is readable by other users; run chmod 600 on it",
            path.display()
        ));
    }
}

fn create(path: &Path) -> Result<Vec<u8>> {
    let secret = ids::hex(&ids::random_bytes::<32>()?);
    write(path, &secret).map_err(|error| {
        Error::unavailable(format!("{} cannot be created: {error}.", path.display()))
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
