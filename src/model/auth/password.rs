//! Passwords: argon2id, in PHC string format, which holds the parameters.
//!
//! Imported accounts have hashes of bcrypt until they sign in. Until then a log-in takes another
//! time than one of an unknown account.
//!
//! A hash takes 19 MiB and some tens of milliseconds on purpose; `hasher` keeps that work away from
//! other requests.

use std::sync::OnceLock;

use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};

use crate::base::error::{Error, Result};
use crate::base::ids;

/// Shortest password of an admin.
pub const CHARS_MIN: usize = 8;
/// Longest accepted password.
pub const BYTES_MAX: usize = 256;

/// Hashes a password with a new salt.
pub fn hash(password: &str) -> Result<String> {
    let salt = SaltString::encode_b64(&ids::random_bytes::<16>()?)
        .map_err(|error| Error::internal(format!("salt: {error}")))?;
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| Error::internal(format!("hash a password: {error}")))
}

/// True for a bcrypt hash, which comes from an import. It is verified, and replaced at the next
/// log-in.
pub fn is_imported(hash: &str) -> bool {
    hash.starts_with("$2")
}

/// True if the password matches the hash. Without a hash, and for a password over [`BYTES_MAX`], it
/// does the same work and returns false, so that the time does not reveal whether the account
/// exists.
pub fn verify(password: &str, hash: Option<&str>) -> Result<bool> {
    static DUMMY_HASH: OnceLock<String> = OnceLock::new();
    let dummy = match DUMMY_HASH.get() {
        Some(hash) => hash,
        None => {
            let made = self::hash("no account has this password")?;
            DUMMY_HASH.get_or_init(|| made)
        }
    };
    let (password, is_possible) = match password.len() <= BYTES_MAX {
        true => (password, hash.is_some()),
        false => ("too long to be a password", false),
    };
    if let Some(hash) = hash.filter(|hash| is_imported(hash)) {
        return Ok(is_possible && bcrypt::verify(password, hash).unwrap_or(false));
    }
    let parsed = PasswordHash::new(hash.unwrap_or(dummy))
        .map_err(|error| Error::internal(format!("read a password hash: {error}")))?;
    let is_right = Argon2::default()
        .verify_password(password.as_bytes(), &parsed)
        .is_ok();
    Ok(is_right && is_possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_of_bcrypt_is_verified() {
        let hash = "$2a$10$4kpjmks9o.oNQcgG8cAVx.vo/2qH79K71ELyIHl4U4KkpILaNtTce";
        assert!(is_imported(hash));
        assert!(verify("12345678", Some(hash)).unwrap());
        assert!(!verify("12345679", Some(hash)).unwrap());
        assert!(!verify("12345678", Some("$2a$10$damaged")).unwrap());
    }

    #[test]
    fn only_the_right_password_of_an_account_is_right() {
        let hash = hash("correct horse").unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(verify("correct horse", Some(&hash)).unwrap());
        assert!(!verify("correct hors", Some(&hash)).unwrap());
        assert!(!verify(&"x".repeat(BYTES_MAX + 1), Some(&hash)).unwrap());
        assert!(!verify("no account has this password", None).unwrap());
        assert!(!verify("too long to be a password", None).unwrap());
    }
}
