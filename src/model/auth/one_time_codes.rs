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

use super::accounts::{AccountSession, Realm};
use super::authentication::Auth;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::base::{crypto, ids};
use crate::model::records::Shape;
use crate::store::db::QueryCaller;

const CODE_LIFE: Duration = Duration::from_secs(60);
const CODES_MAX: usize = 4000;

type Hash = [u8; 32];

/// The sign-in that a code is for.
#[derive(Clone)]
struct SignIn {
    database: String,
    collection: String,
    account: String,
    /// The key of the account's tokens when it signed in.
    key: String,
    challenge: String,
    meta: Map<String, Value>,
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
    fn add(&self, code: &str, sign_in: SignIn, now: Instant) {
        let hash = crypto::sha256(code.as_bytes());
        let mut codes = lock(&self.0);
        codes.forget(now, CODES_MAX - 1);
        codes.sign_ins.insert(hash, sign_in);
        codes.order.push_back((now, hash));
    }

    fn take(&self, code: &str, now: Instant) -> Option<SignIn> {
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

impl Auth {
    /// A code for an account that has signed in. `challenge` is that of the application, and `meta`
    /// is returned with the token.
    pub fn one_time_code(
        &self,
        realm: &Realm,
        account: &str,
        challenge: &str,
        meta: Map<String, Value>,
    ) -> Result<String> {
        let secrets = realm.secrets(account)?.ok_or_else(wrong_code)?;
        let code = crypto::base64url(&ids::random_bytes::<32>()?);
        let sign_in = SignIn {
            database: realm.name.clone(),
            collection: realm.collection.id.clone(),
            account: account.to_owned(),
            key: self.account_key(realm, &secrets),
            challenge: challenge.to_owned(),
            meta,
        };
        self.codes.add(&code, sign_in, Instant::now());
        Ok(code)
    }

    /// Exchanges a code for a token. The code is used up, also by a failure.
    pub fn exchange_code(
        &self,
        realm: &Realm,
        code: &str,
        verifier: &str,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<(AccountSession, Map<String, Value>)> {
        let found = self.codes.take(code, Instant::now());
        let challenge = crypto::base64url(&crypto::sha256(verifier.as_bytes()));
        let is_its = |it: &SignIn| {
            it.database == realm.name
                && it.collection == realm.collection.id
                && it.challenge == challenge
        };
        let found = found.filter(is_its).ok_or_else(wrong_code)?;
        let secrets = realm.secrets(&found.account)?.ok_or_else(wrong_code)?;
        if self.account_key(realm, &secrets) != found.key {
            return Err(wrong_code());
        }
        let session = self.provider_session(realm, &found.account, shape, asker)?;
        Ok((session, found.meta))
    }
}

fn wrong_code() -> Error {
    Error::field(
        "code",
        "validation_invalid_code",
        "The code is wrong, was already used or has expired; start the sign-in again.",
    )
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
