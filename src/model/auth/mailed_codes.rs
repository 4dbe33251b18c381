//! One-time codes that were mailed to accounts.
//!
//! A code works once, within its lifetime, and is gone after [`TRIES_MAX`] wrong guesses. The check
//! and the removal are one step under a lock, so two requests cannot both use it. A code for an
//! address without an account is kept as others are: no answer and no work differs.
//!
//! Codes are kept in memory as keyed hashes, so a restart ends them. An address has at most
//! [`PER_ADDRESS_MAX`], all together [`CODES_MAX`]; those without an account go first, then those
//! that expire first.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::base::crypto::SigningKey;
use crate::base::error::Result;
use crate::base::ids;
use crate::base::threads::lock;

const TRIES_MAX: u32 = 5;
const PER_ADDRESS_MAX: usize = 5;
const CODES_MAX: usize = 10_000;

type Hash = [u8; 32];

/// The account that a code was mailed to.
#[derive(Clone)]
pub struct CodeOwner {
    pub id: String,
    /// The key of the account's tokens when the code was made.
    pub key: String,
}

struct MailedCode {
    /// The hash of the database, the collection and the address.
    address: Hash,
    hash: Hash,
    /// None if no account has the address.
    owner: Option<CodeOwner>,
    expires: Instant,
    tries: u32,
}

/// A code to be kept.
pub struct NewCode<'a> {
    /// Names the database and the collection.
    pub realm: &'a str,
    pub address: &'a str,
    pub id: &'a str,
    pub code: &'a str,
    pub owner: Option<CodeOwner>,
}

pub struct MailedCodes {
    key: SigningKey,
    /// By the hash of the realm and the id.
    codes: Mutex<HashMap<Hash, MailedCode>>,
}

impl MailedCodes {
    pub fn new() -> Result<MailedCodes> {
        Ok(MailedCodes {
            key: SigningKey::new(&ids::random_bytes::<32>()?),
            codes: Mutex::default(),
        })
    }

    pub fn add(&self, new: NewCode<'_>, life: Duration, now: Instant) {
        let address = self.hash(&["address", new.realm, new.address]);
        let code = MailedCode {
            address,
            hash: self.hash(&["code", new.id, new.code]),
            owner: new.owner,
            expires: now + life,
            tries: 0,
        };
        let id = self.hash(&["id", new.realm, new.id]);
        let mut codes = lock(&self.codes);
        codes.retain(|_, it| it.expires > now);
        forget(&mut codes, PER_ADDRESS_MAX - 1, |it| it.address == address);
        forget(&mut codes, CODES_MAX - 1, |_| true);
        codes.insert(id, code);
    }

    /// The owner of a code, which is used up; none if it is wrong.
    pub fn take(&self, realm: &str, id: &str, code: &str, now: Instant) -> Option<CodeOwner> {
        let key = self.hash(&["id", realm, id]);
        let message = message(&["code", id, code]);
        let mut codes = lock(&self.codes);
        codes.retain(|_, it| it.expires > now);
        let stored = codes.get(&key).map_or([0; 32], |it| it.hash);
        let is_right = self.key.verify(&message, &stored);
        let found = codes.get_mut(&key)?;
        found.tries += 1;
        if !is_right && found.tries < TRIES_MAX {
            return None;
        }
        let used = codes.remove(&key)?;
        used.owner.filter(|_| is_right)
    }

    fn hash(&self, parts: &[&str]) -> Hash {
        self.key.sign(&message(parts))
    }
}

/// The parts with their lengths, so that no two lists are alike.
fn message(parts: &[&str]) -> Vec<u8> {
    let mut message = Vec::new();
    for part in parts {
        message.extend_from_slice(&part.len().to_le_bytes());
        message.extend_from_slice(part.as_bytes());
    }
    message
}

/// Forgets codes until at most `most` of these are left.
fn forget(
    codes: &mut HashMap<Hash, MailedCode>,
    most: usize,
    is_one: impl Fn(&MailedCode) -> bool,
) {
    while codes.values().filter(|it| is_one(it)).count() > most {
        let these = codes.iter().filter(|(_, it)| is_one(it));
        let first = these.min_by_key(|(_, it)| (it.owner.is_some(), it.expires));
        let Some(id) = first.map(|(id, _)| *id) else {
            return;
        };
        codes.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn add(codes: &MailedCodes, address: &str, id: &str, is_known: bool, now: Instant) {
        let owner = is_known.then(|| CodeOwner {
            id: address.to_owned(),
            key: String::new(),
        });
        let new = NewCode {
            realm: "r",
            address,
            id,
            code: "1234",
            owner,
        };
        codes.add(new, LIFE, now);
    }

    #[test]
    fn a_code_works_once_in_its_realm_and_lifetime() {
        let (codes, now) = (MailedCodes::new().unwrap(), Instant::now());
        for id in ["a", "b"] {
            add(&codes, "ann", id, true, now);
        }
        assert!(codes.take("other", "a", "1234", now).is_none());
        assert!(codes.take("r", "a", "1234", now).is_some());
        assert!(codes.take("r", "a", "1234", now).is_none());
        assert!(codes.take("r", "b", "1234", now + LIFE).is_none());
        add(&codes, "stranger", "c", false, now);
        assert!(codes.take("r", "c", "1234", now).is_none());
    }

    #[test]
    fn the_fifth_wrong_guess_ends_a_code() {
        let (codes, now) = (MailedCodes::new().unwrap(), Instant::now());
        for (guesses, is_left) in [(4, true), (5, false)] {
            add(&codes, "ann", "a", true, now);
            for _ in 0..guesses {
                assert!(codes.take("r", "a", "0000", now).is_none());
            }
            let found = codes.take("r", "a", "1234", now);
            assert_eq!(found.is_some(), is_left, "{guesses}");
        }
    }

    #[test]
    fn codes_are_bounded_and_strangers_go_first() {
        let (codes, now) = (MailedCodes::new().unwrap(), Instant::now());
        for id in ["a", "b", "c", "d", "e", "f"] {
            add(&codes, "ann", id, true, now + Duration::from_millis(1));
        }
        assert_eq!(lock(&codes.codes).len(), PER_ADDRESS_MAX);
        for at in 0..CODES_MAX + 10 {
            let hash = codes.hash(&[&at.to_string()]);
            let code = MailedCode {
                address: hash,
                hash,
                owner: None,
                expires: now + LIFE,
                tries: 0,
            };
            lock(&codes.codes).insert(hash, code);
        }
        add(&codes, "bob", "z", true, now);
        assert_eq!(lock(&codes.codes).len(), CODES_MAX);
        assert!(codes.take("r", "f", "1234", now).is_some());
    }
}
