//! The state that all of authentication shares: keys, limits and the hasher; checks of passwords.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::credentials::Credentials;
use super::hasher::{HashPriority, PasswordHasher};
use super::keys::Keys;
use super::mailed_codes::MailedCodes;
use super::one_time_codes::OneTimeCodes;
use super::signers::{OPERATOR, REPLICA_TOKEN_MS};
use super::throttle::Throttle;
use super::token::{Claims, ExtraClaims, Purpose, TokenKeys};
use super::{secret, throttle, token};
use crate::base::budget::{Budget, Network};
use crate::base::crypto::SigningKey;
use crate::base::error::{Error, Kind, Result};
use crate::base::{clock, ids};
use crate::model::collections::Catalog;
use crate::model::events::Events;
use crate::model::rules::Identity;
use crate::store::db::Databases;

/// Lifetime of the token in a link to a protected file.
pub(super) const FILE_TOKEN_MS: i64 = 3 * 60_000;
/// Clock difference that is tolerated between this server and the signer of a short-lived token.
const CLOCK_SKEW_MS: i64 = 5 * 60_000;
/// Longest lifetime of a service token.
pub const SERVICE_SECONDS_MAX: u32 = 86_400;

/// Signs tokens and reads them back.
pub struct Auth {
    pub(super) databases: Arc<Databases>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) events: Arc<Events>,
    /// The key made from the secret itself.
    pub(super) signing: SigningKey,
    pub(super) tokens: TokenKeys,
    /// Signs the setup token. A new key at each start.
    pub(super) setup: SigningKey,
    pub(super) hasher: PasswordHasher,
    pub(super) log_ins: Throttle,
    pub(super) failures: Throttle,
    pub(super) mails: Throttle,
    pub(super) addresses: Throttle,
    pub(super) hashes: Throttle,
    pub(super) codes: OneTimeCodes,
    pub(super) mailed: MailedCodes,
    pub keys: Keys,
    pub(super) settings: AuthSettings,
}

pub struct AuthSettings {
    /// Lifetime of an admin or user token.
    pub token_hours: u32,
    /// The auth collection of `/api/auth`.
    pub collection: String,
    /// The URL of this server for clients. Links in mails begin with it.
    pub public_url: String,
}

/// The longest remaining lifetime, for purposes whose tokens are signed for less than a day. A
/// token that claims more was not signed by this program.
fn left_ms_max(claims: &Claims) -> Option<i64> {
    let life_ms = match claims.purpose {
        Purpose::Replica => REPLICA_TOKEN_MS,
        Purpose::Service if claims.subject == OPERATOR => REPLICA_TOKEN_MS,
        Purpose::Service => i64::from(SERVICE_SECONDS_MAX) * 1000,
        // The collection of an account sets the lifetime of its tokens.
        Purpose::File if claims.extra.collection.is_some() => return None,
        Purpose::File => FILE_TOKEN_MS,
        _ => return None,
    };
    Some(life_ms + CLOCK_SKEW_MS)
}

impl Auth {
    /// Uses the configured secret, or the one in the data directory, which is created if there is
    /// none.
    pub fn open(
        databases: Arc<Databases>,
        catalog: Arc<Catalog>,
        events: Arc<Events>,
        data_dir: &Path,
        configured: Option<&str>,
        hashes: Arc<Budget>,
        settings: AuthSettings,
    ) -> Result<Auth> {
        let secret = match configured {
            Some(secret) => secret.as_bytes().to_vec(),
            None => secret::load_or_create(&data_dir.join("secret"))?,
        };
        secret::warn_if_changed(databases.local(), &secret)?;
        Ok(Auth {
            keys: Keys::new(Arc::clone(databases.default())),
            databases,
            catalog,
            events,
            signing: SigningKey::new(&secret),
            tokens: TokenKeys::new(&secret),
            setup: SigningKey::new(&ids::random_bytes::<32>()?),
            hasher: PasswordHasher::start(hashes)?,
            log_ins: Throttle::new(throttle::LOG_INS),
            failures: Throttle::new(throttle::FAILURES),
            mails: Throttle::new(throttle::MAILS),
            addresses: Throttle::new(throttle::ADDRESSES),
            hashes: Throttle::new(throttle::HASHES),
            codes: OneTimeCodes::default(),
            mailed: MailedCodes::new()?,
            settings,
        })
    }

    /// The token of the request with a new expiry and the same key: a token that has meanwhile
    /// become invalid stays invalid. A token that cannot be renewed is returned as it is. `life_ms`
    /// is the lifetime that the collection sets.
    pub(super) fn renew_token(
        &self,
        credentials: Credentials<'_>,
        life_ms: Option<i64>,
    ) -> Result<String> {
        let token = credentials.token();
        let claims = self.read(token, &[Purpose::Admin, Purpose::User])?;
        if claims.extra.refreshable == Some(false) {
            return Ok(token.to_owned());
        }
        let (subject, key, extra) = (claims.subject, claims.key, claims.extra);
        let life_ms = life_ms.unwrap_or_else(|| self.token_ms());
        Ok(self.sign(claims.purpose, subject, key, extra, life_ms))
    }

    /// True if the password is right. Failures count against the account and the network of the
    /// caller. Pass no hash for an unknown account.
    pub(super) fn check_password(
        &self,
        account: &str,
        from: IpAddr,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool> {
        let right = self.check_passwords(account, from, password, [hash].into_iter())?;
        Ok(right.is_some())
    }

    /// The index of the first hash that the password matches. One identity may stand in a field of
    /// one account and in another field of another, hence several hashes. Without any it takes as
    /// long as with one.
    pub(super) fn check_passwords<'a>(
        &self,
        account: &str,
        from: IpAddr,
        password: &str,
        hashes: impl ExactSizeIterator<Item = Option<&'a str>>,
    ) -> Result<Option<usize>> {
        // A right password costs the same work.
        let counted = self.log_ins.attempt(account, from)?;
        let attempt = self.failures.attempt(account, from)?;
        let priority = HashPriority {
            network: Network::of(from),
            load: counted.load().max(attempt.load()),
        };
        let unknown = (hashes.len() == 0).then_some(None);
        for (at, hash) in hashes.chain(unknown).enumerate() {
            match self.hasher.verify(priority, password, hash) {
                Ok(false) => {}
                Ok(true) => {
                    attempt.succeed();
                    return Ok(Some(at));
                }
                Err(error) => {
                    attempt.refund();
                    counted.refund();
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Hashes the password of a record that this caller writes. Callers other than admins and API
    /// keys have a limit, because each hash is expensive.
    pub fn hash_for(&self, identity: &Identity, from: IpAddr, password: &str) -> Result<String> {
        let mut priority = HashPriority::uncounted(from);
        if !identity.manages() {
            // Counted even if the write fails.
            priority.load = self.hashes.attempt("", from)?.load();
        }
        self.hasher.hash(priority, password)
    }

    pub(super) fn token_ms(&self) -> i64 {
        i64::from(self.settings.token_hours) * 3_600_000
    }

    pub(super) fn sign(
        &self,
        purpose: Purpose,
        subject: String,
        key: String,
        extra: ExtraClaims,
        life_ms: i64,
    ) -> String {
        let claims = Claims {
            subject,
            purpose,
            key,
            expires_ms: clock::now_ms() + life_ms,
            extra,
        };
        token::sign(&self.tokens, &claims)
    }

    pub(super) fn read(&self, token: &str, purposes: &[Purpose]) -> Result<Claims> {
        let now_ms = clock::now_ms();
        let is_plausible = |claims: &Claims| {
            left_ms_max(claims).is_none_or(|left_ms| claims.expires_ms - now_ms <= left_ms)
        };
        token::read(&self.tokens, token, purposes, now_ms)
            .filter(is_plausible)
            .ok_or_else(wrong_token)
    }
}

pub(super) fn wrong_token() -> Error {
    Error::new(
        Kind::Unauthenticated,
        "The token is invalid or has expired; get a new one.",
    )
}

pub(super) fn wrong_password() -> Error {
    Error::new(Kind::Unauthenticated, "Wrong e-mail address or password.")
}
