//! Codes that an application exchanges for a token, after a browser has signed in on a page of this
//! server or of a provider.
//!
//! A code is in the URL that the browser is sent to, where others may see it. So it works once, for
//! a minute, and only with the verifier of PKCE whose challenge the application sent when the
//! sign-in began. At most [`CODES_MAX`] are kept, as hashes; the oldest goes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::base::crypto;
use crate::base::threads::lock;

const CODE_LIFE: Duration = Duration::from_secs(60);
const CODES_MAX: usize = 4000;

type Hash = [u8; 32];

/// The sign-in that a code is for.
#[derive(Clone)]
pub struct SignIn {
    pub database: String,
    /// The ids of the collection and of the account.
    pub collection: String,
    pub account: String,
    /// The key of the account's tokens when it signed in.
    pub key: String,
    pub challenge: String,
    pub meta: Map<String, Value>,
}

/// Invariant: `sign_ins` has only hashes that are in `order`.
#[derive(Default)]
struct Codes {
    sign_ins: HashMap<Hash, SignIn>,
    order: VecDeque<(Instant, Hash)>,
}

#[derive(Default)]
pub struct OneTimeCodes(Mutex<Codes>);

impl OneTimeCodes {
    pub fn add(&self, code: &str, sign_in: SignIn, now: Instant) {
        let hash = crypto::sha256(code.as_bytes());
        let mut codes = lock(&self.0);
        codes.forget(now, CODES_MAX - 1);
        codes.sign_ins.insert(hash, sign_in);
        codes.order.push_back((now, hash));
    }

    /// The sign-in of a code, which is used up.
    pub fn take(&self, code: &str, now: Instant) -> Option<SignIn> {
        let mut codes = lock(&self.0);
        codes.forget(now, CODES_MAX);
        codes.sign_ins.remove(&crypto::sha256(code.as_bytes()))
    }
}

impl Codes {
    /// Forgets codes that have expired, and the oldest until at most `most` are left.
    fn forget(&mut self, now: Instant, most: usize) {
        while let Some((at, hash)) = self.order.front().copied()
            && (now.saturating_duration_since(at) >= CODE_LIFE || self.order.len() > most)
        {
            self.order.pop_front();
            self.sign_ins.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in() -> SignIn {
        SignIn {
            database: String::new(),
            collection: String::new(),
            account: String::new(),
            key: String::new(),
            challenge: String::new(),
            meta: Map::new(),
        }
    }

    #[test]
    fn a_code_works_once_and_for_a_minute() {
        let (codes, now) = (OneTimeCodes::default(), Instant::now());
        for code in ["a", "b"] {
            codes.add(code, sign_in(), now);
        }
        assert!(codes.take("a", now).is_some());
        assert!(codes.take("a", now).is_none());
        assert!(codes.take("b", now + CODE_LIFE).is_none());
        assert!(codes.take("c", now).is_none());
    }

    #[test]
    fn the_number_of_codes_is_bounded() {
        let (codes, now) = (OneTimeCodes::default(), Instant::now());
        for at in 0..CODES_MAX + 10 {
            codes.add(&at.to_string(), sign_in(), now);
        }
        assert_eq!(lock(&codes.0).sign_ins.len(), CODES_MAX);
        assert!(codes.take("0", now).is_none());
        assert!(codes.take(&CODES_MAX.to_string(), now).is_some());
    }
}
