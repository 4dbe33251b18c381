//! Identifiers and random bytes.
//!
//! Record ids are UUIDv7 strings (RFC 9562, section 5.7): they are ordered by time, so that inserts
//! stay at the right edge of the index. Ids of accounts are random. Two ids of the same millisecond
//! have no defined order.

use crate::base::clock;
use crate::base::error::{Error, Result};

/// Longest id that a client may choose, in characters.
pub const ID_CHARS_MAX: usize = 64;
/// Longest name of a workflow, in bytes.
pub const WORKFLOW_BYTES_MAX: usize = 128;

/// A new record id.
pub fn record_id() -> Result<String> {
    let random = random_bytes::<10>()?;
    let millis = u64::try_from(clock::now_ms()).unwrap_or(0);
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    Ok(id.as_hyphenated().to_string())
}

/// A new id of an account: a UUIDv4, which does not reveal when the account was created.
pub fn account_id() -> Result<String> {
    let random = random_bytes::<16>()?;
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    Ok(id.as_hyphenated().to_string())
}

/// True if a client may choose this id: 1 to 64 of `[A-Za-z0-9_-]`.
pub fn is_valid_id(id: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// True if a workflow may have this name: 1 to 128 of `[A-Za-z0-9._:-]`.
pub fn is_valid_workflow(name: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=WORKFLOW_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_known)
}

/// Random bytes from the operating system, suitable for secrets.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal(format!("random bytes: {error}")))?;
    Ok(bytes)
}

/// A random key of an account; changing it invalidates older tokens.
pub fn token_key() -> Result<String> {
    random_bytes::<16>().map(|bytes| hex(&bytes))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::threads;

    #[test]
    fn record_ids_are_valid_distinct_and_ordered_by_time() {
        let first = record_id().unwrap();
        threads::pause(Duration::from_millis(3));
        let second = record_id().unwrap();
        assert!(is_valid_id(&first) && first.len() == 36);
        assert!(first < second);
    }

    #[test]
    fn an_id_of_an_account_tells_no_time() {
        let id = account_id().unwrap();
        assert!(is_valid_id(&id) && id.as_bytes()[14] == b'4', "{id}");
        assert_ne!(id[..8], account_id().unwrap()[..8]);
    }

    #[test]
    fn ids_that_could_be_something_else_are_refused() {
        for id in ["", "a/b", "a.b", "\u{e9}", "a b", "a\0", &"x".repeat(65)] {
            assert!(!is_valid_id(id), "{id:?}");
        }
        assert!(is_valid_id(&"x".repeat(64)));
    }
}
