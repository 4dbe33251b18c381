//! Passwords: argon2id, in its PHC text form, with the parameters inside.
//!
//! A hash takes 19 MiB and some tens of milliseconds of a processor on purpose. So that a flood of
//! log-ins can neither fill the memory nor take all processors, at most [`SLOTS`] run at a time;
//! whoever has to wait longer than [`SLOT_WAIT`] for one is turned away.

use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::time::Duration;
use std::time::Instant;

use argon2::Argon2;
use argon2::PasswordHasher as _;
use argon2::PasswordVerifier as _;
use argon2::password_hash::PasswordHash;
use argon2::password_hash::SaltString;

use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::ids;
use crate::threads;
use crate::threads::lock;

/// Hashes that are computed at the same time.
const SLOTS: usize = 2;
const SLOT_WAIT: Duration = Duration::from_secs(5);

/// Shortest password of an admin.
pub const CHARS_MIN: usize = 8;
/// Longest password that is looked at.
pub const BYTES_MAX: usize = 256;

/// Hashes a password under a fresh salt.
pub fn hash(password: &str) -> Result<String> {
    let salt = SaltString::encode_b64(&ids::random_bytes::<16>()?)
        .map_err(|error| Error::internal(format!("salt: {error}")))?;
    let _slot = Slot::take()?;
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| Error::internal(format!("hash a password: {error}")))
}

/// Whether the password belongs to the hash. Without a hash it does the same work and says no, so
/// that the time does not tell whether an account exists.
pub fn verify(password: &str, hash: Option<&str>) -> Result<bool> {
    static NOBODY: OnceLock<String> = OnceLock::new();
    if password.len() > BYTES_MAX {
        return Ok(false);
    }
    let nobody = match NOBODY.get() {
        Some(hash) => hash,
        None => {
            let made = self::hash("no account has this password")?;
            NOBODY.get_or_init(|| made)
        }
    };
    let parsed = PasswordHash::new(hash.unwrap_or(nobody))
        .map_err(|error| Error::internal(format!("read a password hash: {error}")))?;
    let _slot = Slot::take()?;
    let is_right = Argon2::default()
        .verify_password(password.as_bytes(), &parsed)
        .is_ok();
    Ok(is_right && hash.is_some())
}

static BUSY: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The right to compute one hash.
struct Slot;

impl Slot {
    fn take() -> Result<Slot> {
        let deadline = Instant::now() + SLOT_WAIT;
        let mut busy = lock(&BUSY);
        while *busy >= SLOTS {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(Error::new(
                    Kind::TooMany,
                    "Too many log-ins at once; try again later.",
                ));
            };
            busy = threads::wait_timeout(&FREED, busy, left);
        }
        *busy += 1;
        Ok(Slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *lock(&BUSY) -= 1;
        FREED.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_an_account_is_right() {
        let hash = hash("correct horse").unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(verify("correct horse", Some(&hash)).unwrap());
        assert!(!verify("correct hors", Some(&hash)).unwrap());
        assert!(!verify("no account has this password", None).unwrap());
    }
}
