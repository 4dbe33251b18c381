//! Who is who: turns credentials into an identity, and keeps the accounts.
//!
//! `password` hashes and verifies, `hasher` does so out of the way, `throttle` counts failures, `token`
//! signs and reads JWTs; `admins` and `keys` are the tables of those who pass the rules, `accounts`
//! signs in the records of auth collections, `renewal` changes what they are known by. `webhook` is what calls
//! to others are signed with.
//!
//! Nothing is remembered of a session: a token holds a part that depends on the present password
//! and address of its account, which is looked up with each request, so changing either ends
//! all older tokens at once. Replicas that share the secret read the same tokens (AUTH-6). Each kind of
//! token has a key of its own, derived from the secret. Every way in (requests, sockets, streams of events,
//! files, workers) asks [`Auth::identify`] with the database that it is extra, which knows the limits of keys.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::base::budget::{Budget, Network};
use crate::base::crypto::SigningKey;
use crate::base::error::{Error, Kind, Result};
use crate::base::{clock, crypto, ids};
use crate::model::collections::Catalog;
use crate::model::events::Events;
use crate::model::rules::{ApiKey, Identity, KeyScope, Service};
use crate::store::db;
use crate::store::db::Databases;
use admins::Admin;
pub use credentials::{Credentials, StoredCredentials};
use hasher::{HashPriority, Hasher};
use keys::Keys;
pub use secret::SECRET_BYTES_MIN;
pub use signers::{OPERATOR, operator_signer, operator_worker};
use signers::{REPLICA_TOKEN_MS, replica_signer};
use throttle::Throttle;
use token::{Claims, ExtraClaims, Purpose, TokenKeys};
pub use webhook::WebhookSecret;

pub mod account_changes;
pub mod accounts;
pub mod admins;
mod credentials;
mod hasher;
pub mod keys;
pub mod password;
mod secret;
mod signers;
mod throttle;
mod token;
mod webhook;

/// Life of the token of a link.
const FILE_TOKEN_MS: i64 = 3 * 60_000;
/// The time by which the clock of the maker of a short-lived token may be ahead.
const CLOCK_SKEW_MS: i64 = 5 * 60_000;
/// Longest life of a service token.
pub const SERVICE_SECONDS_MAX: u32 = 86_400;

/// The text that the setup token is a signature of.
const SETUP_LABEL: &[u8] = b"setup";

/// The longest time that a token may have left, for tokens that are made for less than a day: one that
/// claims more was made by hand.
fn left_ms_max(claims: &Claims) -> Option<i64> {
    let life_ms = match claims.purpose {
        Purpose::Replica => REPLICA_TOKEN_MS,
        Purpose::Service if claims.subject == OPERATOR => REPLICA_TOKEN_MS,
        Purpose::Service => i64::from(SERVICE_SECONDS_MAX) * 1000,
        Purpose::File => FILE_TOKEN_MS,
        _ => return None,
    };
    Some(life_ms + CLOCK_SKEW_MS)
}

/// Signs tokens and reads them back.
pub struct Auth {
    databases: Arc<Databases>,
    catalog: Arc<Catalog>,
    events: Arc<Events>,
    /// The secret itself.
    signing: SigningKey,
    tokens: TokenKeys,
    /// Signs the setup token; another one at each start.
    setup: SigningKey,
    hasher: Hasher,
    log_ins: Throttle,
    failures: Throttle,
    mails: Throttle,
    addresses: Throttle,
    hashes: Throttle,
    pub keys: Keys,
    settings: AuthSettings,
}

/// What an operator chooses.
pub struct AuthSettings {
    /// Life of an admin or user token.
    pub token_hours: u32,
    /// The auth collection of `/api/auth`.
    pub collection: String,
    /// Where clients reach this server; links in mails begin with it.
    pub public_url: String,
}

/// What a service token is to be good for.
pub struct ServiceTokenRequest {
    pub name: String,
    pub seconds: u32,
    /// None: all of them.
    pub workflows: Option<BTreeSet<String>>,
}

/// A fresh token and whose it is.
pub struct AdminSession {
    pub token: String,
    pub admin: Admin,
}

impl Auth {
    /// Takes the secret that was configured, or the one kept in the data directory.
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
            hasher: Hasher::start(hashes)?,
            log_ins: Throttle::new(throttle::LOG_INS),
            failures: Throttle::new(throttle::FAILURES),
            mails: Throttle::new(throttle::MAILS),
            addresses: Throttle::new(throttle::ADDRESSES),
            hashes: Throttle::new(throttle::HASHES),
            settings,
        })
    }

    /// The identity behind the credentials of a request about `database`. A token may stand
    /// with or without `Bearer`; a key in a header of its own or in place of a token. A key that is
    /// limited to other databases is refused here, because every way in calls this.
    pub fn identify(&self, credentials: Credentials<'_>, database: &str) -> Result<Identity> {
        if let Some(key) = credentials.api_key {
            return self.identify_key(key.trim(), database);
        }
        let token = credentials.token();
        if token.is_empty() {
            return Ok(Identity::Anonymous);
        }
        if token.starts_with(keys::PREFIX) {
            return self.identify_key(token, database);
        }
        let claims = self.read(token, &[Purpose::Admin, Purpose::User, Purpose::Service])?;
        match claims.purpose {
            Purpose::Admin => self.identify_admin(&claims),
            Purpose::User => self.identify_user(&claims, database),
            _ => self.identify_service(&claims),
        }
    }

    /// True if the credentials may be good: the signature of a token, or the key itself, is right. Tells
    /// who pays for a request whose body is still being received.
    pub fn has_credentials(&self, credentials: Credentials<'_>) -> bool {
        const PURPOSES: [Purpose; 4] = [
            Purpose::Admin,
            Purpose::User,
            Purpose::Service,
            Purpose::Replica,
        ];
        let token = credentials.token();
        let key = match token.starts_with(keys::PREFIX) {
            true => Some(token),
            false => credentials.api_key.map(str::trim),
        };
        match key {
            Some(key) => matches!(self.keys.find(key), Ok(Some(_))),
            None => self.read(token, &PURPOSES).is_ok(),
        }
    }

    /// The same, and until when the credentials are good if that is known (milliseconds since 1970).
    pub fn identify_until(
        &self,
        credentials: Credentials<'_>,
        database: &str,
    ) -> Result<(Identity, Option<i64>)> {
        let identity = self.identify(credentials, database)?;
        let expires_ms = match &identity {
            Identity::Anonymous | Identity::Key(_) => None,
            Identity::User(_) | Identity::Admin(_) | Identity::Service(_) => {
                let purposes = [Purpose::Admin, Purpose::User, Purpose::Service];
                let token = credentials.token();
                Some(self.read(token, &purposes)?.expires_ms)
            }
        };
        Ok((identity, expires_ms))
    }

    // Looked up each time: a changed password ends older tokens at once, also when the command
    // line changed it.
    fn identify_admin(&self, claims: &Claims) -> Result<Identity> {
        match admins::by_id(self.databases.default(), &claims.subject)? {
            Some(admin) if admin.token_key == claims.key => Ok(Identity::Admin(admin.id)),
            _ => Err(wrong_token()),
        }
    }

    fn identify_key(&self, key: &str, database: &str) -> Result<Identity> {
        let found = self.keys.find(key)?.ok_or_else(|| {
            Error::new(
                Kind::Unauthenticated,
                "The API key is not valid or has expired.",
            )
        })?;
        if !found.opens_database(database) {
            return Err(Error::new(
                Kind::Forbidden,
                "The key does not open this database.",
            ));
        }
        Ok(Identity::Key(Arc::new(found)))
    }

    fn identify_service(&self, claims: &Claims) -> Result<Identity> {
        let is_good = match claims.subject.split_once(':') {
            Some(("key", id)) => self.keys.by_id(id)?.is_some_and(|key| is_service(&key)),
            Some(("admin", id)) => admins::by_id(self.databases.default(), id)?
                .is_some_and(|admin| admin.token_key == claims.key),
            // Signed by whoever has the secret itself, and good for minutes.
            None => claims.subject == OPERATOR,
            _ => false,
        };
        let name = claims.extra.name.clone().unwrap_or_default();
        let workflows = claims.extra.workflows.clone().map(Arc::new);
        match is_good {
            true => Ok(Identity::Service(Service {
                name,
                workflows,
                is_operator: claims.subject == OPERATOR,
            })),
            false => Err(wrong_token()),
        }
    }

    /// Who may serve workflows, and, where it is a token, until when (milliseconds since 1970).
    pub fn identify_worker(&self, credentials: Credentials<'_>) -> Result<(Identity, Option<i64>)> {
        let identity = self.identify(credentials, db::DEFAULT)?;
        let token = credentials.token();
        let expires_ms = match &identity {
            Identity::Service(_) | Identity::Admin(_) => {
                let claims = self.read(token, &[Purpose::Admin, Purpose::Service])?;
                Some(claims.expires_ms)
            }
            Identity::Key(key) if is_service(key) => None,
            Identity::Anonymous => return Err(wrong_token()),
            Identity::Key(_) | Identity::User(_) => {
                return Err(Error::new(
                    Kind::Forbidden,
                    "Only admins, service tokens and keys with the scope service work on runs.",
                ));
            }
        };
        Ok((identity, expires_ms))
    }

    /// A token for a worker or a collector of metrics. It ends with the key or the admin's
    /// password that it was made with.
    pub fn service_token(
        &self,
        maker: &Identity,
        credentials: Credentials<'_>,
        wish: ServiceTokenRequest,
    ) -> Result<String> {
        let (subject, key) = match maker {
            Identity::Key(key) if is_service(key) => (format!("key:{}", key.id), String::new()),
            Identity::Admin(id) => {
                let token = credentials.token();
                (
                    format!("admin:{id}"),
                    self.read(token, &[Purpose::Admin])?.key,
                )
            }
            _ => return Err(Error::internal("a service token for neither key nor admin")),
        };
        let extra = ExtraClaims {
            name: Some(wish.name),
            workflows: wish.workflows,
            ..ExtraClaims::default()
        };
        let life_ms = i64::from(wish.seconds) * 1000;
        Ok(self.sign(Purpose::Service, subject, key, extra, life_ms))
    }

    /// A token for links of protected files: short-lived, since links get around.
    pub fn file_token(&self, owner: &Identity, database: &str) -> Result<String> {
        let (subject, key, extra) = match owner {
            Identity::Admin(id) => {
                let admin = admins::by_id(self.databases.default(), id)?.ok_or_else(wrong_token)?;
                (id.clone(), admin.token_key, ExtraClaims::default())
            }
            Identity::User(user) => {
                let (key, extra) = self.key_of_user(database, user)?;
                (user.id.clone(), key, extra)
            }
            _ => return Err(Error::internal("a file token for no account")),
        };
        Ok(self.sign(Purpose::File, subject, key, extra, FILE_TOKEN_MS))
    }

    /// The identity behind such a token.
    pub fn identify_by_file_token(&self, token: &str, database: &str) -> Result<Identity> {
        let claims = self.read(token, &[Purpose::File])?;
        match claims.extra.collection {
            Some(_) => self.identify_user(&claims, database),
            None => self.identify_admin(&claims),
        }
    }

    /// Refuses whoever is not the replica of this name. The token is its own work, signed with the
    /// secret that it shares with the master (REP-5).
    pub fn check_replica(&self, credentials: Credentials<'_>, id: &str) -> Result<()> {
        let token = credentials.token();
        let is_it = self
            .read(token, &[Purpose::Replica])
            .is_ok_and(|claims| claims.subject == id);
        match is_it && ids::is_valid_id(id) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unauthenticated,
                "This takes the token of a replica, and its name in X-Replica-Id.",
            )),
        }
    }

    /// Makes the tokens by which a replica of this name is known to its master.
    pub fn replica_signer(&self, id: &str) -> impl Fn() -> String + Send + Sync + 'static {
        replica_signer(self.tokens.clone(), id.to_owned())
    }

    /// What receivers of webhooks check calls of this server with.
    pub fn webhook_secret(&self) -> WebhookSecret {
        WebhookSecret::of_server(&self.signing)
    }

    /// Proves that its holder reads the log of this server, where it stands while there is no admin.
    /// None once there is one.
    pub fn setup_token(&self) -> Result<Option<String>> {
        let has_admin = self.databases.default().look_up(admins::any)?;
        let token = || crypto::base64url(&self.setup.sign(SETUP_LABEL));
        Ok((!has_admin).then(token))
    }

    /// True if this is that token.
    pub fn is_setup_token(&self, token: &str) -> bool {
        let signature = crypto::from_base64url(token);
        signature.is_some_and(|it| self.setup.verify(SETUP_LABEL, &it))
    }

    /// Makes the very first admin; refused once there is one.
    pub fn init(&self, email: &str, password: &str, from: IpAddr) -> Result<AdminSession> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        let when = admins::CreateWhen::NoAdmin;
        let admin = admins::create(self.databases.default(), email, password, when, &hash)?;
        Ok(self.sign_in(admin))
    }

    /// Makes another admin.
    pub fn create_admin(&self, email: &str, password: &str, from: IpAddr) -> Result<Admin> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        let when = admins::CreateWhen::Always;
        admins::create(self.databases.default(), email, password, when, &hash)
    }

    /// Changes an admin; a new password ends the tokens of that admin.
    pub fn change_admin(
        &self,
        id: &str,
        email: Option<&str>,
        password: Option<&str>,
        from: IpAddr,
    ) -> Result<Admin> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        admins::update(self.databases.default(), id, email, password, &hash)
    }

    /// Signs an admin in. Wrong addresses and wrong passwords get the same answer, and cost the
    /// same work.
    pub fn log_in_admin(&self, email: &str, password: &str, from: IpAddr) -> Result<AdminSession> {
        let account = format!("admin:{}", email.to_ascii_lowercase());
        let found = admins::find(self.databases.default(), email)?;
        let hash = found.as_ref().map(|admin| admin.password_hash.as_str());
        match (self.check_password(&account, from, password, hash)?, found) {
            (true, Some(admin)) => Ok(self.sign_in(admin)),
            _ => Err(wrong_password()),
        }
    }

    /// A fresh token for the admin who asks with a valid one.
    pub fn refresh_admin(&self, credentials: Credentials<'_>, id: &str) -> Result<AdminSession> {
        let admin = admins::by_id(self.databases.default(), id)?.ok_or_else(wrong_token)?;
        let token = self.renewed(credentials)?;
        Ok(AdminSession { token, admin })
    }

    /// The token that was shown, with a new end and the same key: one that the account has
    /// meanwhile ended stays ended.
    fn renewed(&self, credentials: Credentials<'_>) -> Result<String> {
        let token = credentials.token();
        let claims = self.read(token, &[Purpose::Admin, Purpose::User])?;
        let (subject, key, extra) = (claims.subject, claims.key, claims.extra);
        Ok(self.sign(claims.purpose, subject, key, extra, self.token_ms()))
    }

    fn sign_in(&self, admin: Admin) -> AdminSession {
        let extra = ExtraClaims {
            collection: Some(admins::COLLECTION.to_owned()),
            ..ExtraClaims::default()
        };
        let (id, key) = (admin.id.clone(), admin.token_key.clone());
        let token = self.sign(Purpose::Admin, id, key, extra, self.token_ms());
        AdminSession { token, admin }
    }

    /// Whether a password is right. Failures count against the account and the address that they
    /// come from; an unknown account is one without a hash.
    fn check_password(
        &self,
        account: &str,
        from: IpAddr,
        password: &str,
        hash: Option<&str>,
    ) -> Result<bool> {
        let right = self.check_passwords(account, from, password, [hash].into_iter())?;
        Ok(right.is_some())
    }

    /// The first of the hashes that a password belongs to. What somebody signs in with may be in
    /// one field of one account and in another of another; without any it takes as long as with
    /// one.
    fn check_passwords<'a>(
        &self,
        account: &str,
        from: IpAddr,
        password: &str,
        hashes: impl ExactSizeIterator<Item = Option<&'a str>>,
    ) -> Result<Option<usize>> {
        // Right or wrong, it is work.
        let counted = self.log_ins.attempt(account, from)?;
        let attempt = self.failures.attempt(account, from)?;
        let priority = HashPriority {
            network: Network::of(from),
            load: counted.load().max(attempt.load()),
        };
        let nobody = (hashes.len() == 0).then_some(None);
        for (at, hash) in hashes.chain(nobody).enumerate() {
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

    /// Hashes the password of a record that this caller writes. Whoever has not been let in has
    /// few of them: each is work.
    pub fn hash_for(&self, identity: &Identity, from: IpAddr, password: &str) -> Result<String> {
        let mut priority = HashPriority::uncounted(from);
        if !identity.manages() {
            // Counted and never given back.
            priority.load = self.hashes.attempt("", from)?.load();
        }
        self.hasher.hash(priority, password)
    }

    fn token_ms(&self) -> i64 {
        i64::from(self.settings.token_hours) * 3_600_000
    }

    fn sign(
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

    fn read(&self, token: &str, purposes: &[Purpose]) -> Result<Claims> {
        let now_ms = clock::now_ms();
        let is_plausible = |claims: &Claims| {
            left_ms_max(claims).is_none_or(|left_ms| claims.expires_ms - now_ms <= left_ms)
        };
        token::read(&self.tokens, token, purposes, now_ms)
            .filter(is_plausible)
            .ok_or_else(wrong_token)
    }
}

fn is_service(key: &ApiKey) -> bool {
    key.scopes.contains(&KeyScope::Service)
}

fn wrong_token() -> Error {
    Error::new(
        Kind::Unauthenticated,
        "The token is not valid or has expired.",
    )
}

fn wrong_password() -> Error {
    Error::new(Kind::Unauthenticated, "Wrong e-mail address or password.")
}
