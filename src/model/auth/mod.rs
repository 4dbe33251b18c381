//! Authentication: turns credentials into an identity, and manages accounts.
//!
//! `password` hashes and verifies passwords, `hasher` does so on threads of its own, `throttle`
//! limits attempts, `token` signs and reads JWTs. `admins` and `keys` are the tables of callers
//! that pass the rules. `accounts` signs in records of auth collections, and `account_changes`
//! changes their passwords and addresses. `webhook` signs outgoing calls.
//!
//! The server stores no sessions. A token holds a part that depends on the current password and
//! address of its account, which is looked up with each request, so a change of either ends all
//! older tokens at once. Replicas that share the secret accept the same tokens. Each kind of token
//! has its own key, derived from the secret. Requests, sockets, event streams, file downloads and
//! workers all authenticate through [`Auth::identify`], which gets the name of the database and
//! applies the limits of API keys.

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

/// Lifetime of the token in a link to a protected file.
const FILE_TOKEN_MS: i64 = 3 * 60_000;
/// Clock difference that is tolerated between this server and the signer of a short-lived token.
const CLOCK_SKEW_MS: i64 = 5 * 60_000;
/// Longest lifetime of a service token.
pub const SERVICE_SECONDS_MAX: u32 = 86_400;

/// The setup token is a signature of this.
const SETUP_LABEL: &[u8] = b"setup";

/// The longest remaining lifetime, for purposes whose tokens are signed for less than a day. A
/// token that claims more was not signed by this program.
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
    /// The key made from the secret itself.
    signing: SigningKey,
    tokens: TokenKeys,
    /// Signs the setup token. A new key at each start.
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

pub struct AuthSettings {
    /// Lifetime of an admin or user token.
    pub token_hours: u32,
    /// The auth collection of `/api/auth`.
    pub collection: String,
    /// The URL of this server for clients. Links in mails begin with it.
    pub public_url: String,
}

/// The parameters of a new service token.
pub struct ServiceTokenRequest {
    pub name: String,
    pub seconds: u32,
    /// None for all workflows.
    pub workflows: Option<BTreeSet<String>>,
}

/// An admin who signed in, and a new token.
pub struct AdminSession {
    pub token: String,
    pub admin: Admin,
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
            hasher: Hasher::start(hashes)?,
            log_ins: Throttle::new(throttle::LOG_INS),
            failures: Throttle::new(throttle::FAILURES),
            mails: Throttle::new(throttle::MAILS),
            addresses: Throttle::new(throttle::ADDRESSES),
            hashes: Throttle::new(throttle::HASHES),
            settings,
        })
    }

    /// The identity behind the credentials of a request on `database`. A token may stand with or
    /// without `Bearer`; an API key has its own header, or stands in place of a token. Refuses a
    /// key that is limited to other databases, so every entry point has that check.
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

    /// True if the signature of the token, or the API key, is valid. Decides who pays for a request
    /// whose body is still being received.
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

    /// Like [`Auth::identify`], with the time at which the credentials expire, if it is known (Unix
    /// milliseconds).
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

    // Looked up with each request, so a new password ends older tokens at once, also if the command
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
                "This API key has no access to this database.",
            ));
        }
        Ok(Identity::Key(Arc::new(found)))
    }

    fn identify_service(&self, claims: &Claims) -> Result<Identity> {
        let is_good = match claims.subject.split_once(':') {
            Some(("key", id)) => self.keys.by_id(id)?.is_some_and(|key| is_service(&key)),
            Some(("admin", id)) => admins::by_id(self.databases.default(), id)?
                .is_some_and(|admin| admin.token_key == claims.key),
            // Signed with the secret itself, and valid for minutes.
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

    /// The identity of a workflow worker, and the time at which its token expires (Unix
    /// milliseconds; none for an API key).
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
                    "Only admins, service tokens and API keys with the scope service may serve runs.",
                ));
            }
        };
        Ok((identity, expires_ms))
    }

    /// A token for a worker or a metrics collector. It becomes invalid with the API key, or with
    /// the password of the admin, that it was made with.
    pub fn service_token(
        &self,
        maker: &Identity,
        credentials: Credentials<'_>,
        request: ServiceTokenRequest,
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
            name: Some(request.name),
            workflows: request.workflows,
            ..ExtraClaims::default()
        };
        let life_ms = i64::from(request.seconds) * 1000;
        Ok(self.sign(Purpose::Service, subject, key, extra, life_ms))
    }

    /// A token for links to protected files. It is short-lived, because links are passed on.
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

    /// The identity behind a token of [`Auth::file_token`].
    pub fn identify_by_file_token(&self, token: &str, database: &str) -> Result<Identity> {
        let claims = self.read(token, &[Purpose::File])?;
        match claims.extra.collection {
            Some(_) => self.identify_user(&claims, database),
            None => self.identify_admin(&claims),
        }
    }

    /// Refuses credentials that are not a token of the replica with this id. A replica signs its
    /// token itself, with the secret that it shares with the master.
    pub fn check_replica(&self, credentials: Credentials<'_>, id: &str) -> Result<()> {
        let token = credentials.token();
        let is_it = self
            .read(token, &[Purpose::Replica])
            .is_ok_and(|claims| claims.subject == id);
        match is_it && ids::is_valid_id(id) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unauthenticated,
                "This endpoint needs the token of a replica, and its id in X-Replica-Id.",
            )),
        }
    }

    /// Signs tokens for the replica with this id, which it sends to its master.
    pub fn replica_signer(&self, id: &str) -> impl Fn() -> String + Send + Sync + 'static {
        replica_signer(self.tokens.clone(), id.to_owned())
    }

    /// The secret that receivers of webhooks verify calls of this server with.
    pub fn webhook_secret(&self) -> WebhookSecret {
        WebhookSecret::of_server(&self.signing)
    }

    /// A token that proves access to the log of this server, where it is printed while there is no
    /// admin. None once an admin exists.
    pub fn setup_token(&self) -> Result<Option<String>> {
        let has_admin = self.databases.default().look_up(admins::any)?;
        let token = || crypto::base64url(&self.setup.sign(SETUP_LABEL));
        Ok((!has_admin).then(token))
    }

    /// True if this is the setup token.
    pub fn is_setup_token(&self, token: &str) -> bool {
        let signature = crypto::from_base64url(token);
        signature.is_some_and(|it| self.setup.verify(SETUP_LABEL, &it))
    }

    /// Creates the first admin. Fails if one exists.
    pub fn init(&self, email: &str, password: &str, from: IpAddr) -> Result<AdminSession> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        let when = admins::CreateWhen::NoAdmin;
        let admin = admins::create(self.databases.default(), email, password, when, &hash)?;
        Ok(self.sign_in(admin))
    }

    /// Creates another admin.
    pub fn create_admin(&self, email: &str, password: &str, from: IpAddr) -> Result<Admin> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        let when = admins::CreateWhen::Always;
        admins::create(self.databases.default(), email, password, when, &hash)
    }

    /// Changes an admin. A new password ends the tokens of that admin.
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

    /// Signs an admin in. An unknown address and a wrong password get the same answer and cost the
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

    /// A new token for an admin with a valid one.
    pub fn refresh_admin(&self, credentials: Credentials<'_>, id: &str) -> Result<AdminSession> {
        let admin = admins::by_id(self.databases.default(), id)?.ok_or_else(wrong_token)?;
        let token = self.renew_token(credentials)?;
        Ok(AdminSession { token, admin })
    }

    /// The token of the request with a new expiry and the same key: a token that has meanwhile
    /// become invalid stays invalid.
    fn renew_token(&self, credentials: Credentials<'_>) -> Result<String> {
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

    /// True if the password is right. Failures count against the account and the network of the
    /// caller. Pass no hash for an unknown account.
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

    /// The index of the first hash that the password matches. One identity may stand in a field of
    /// one account and in another field of another, hence several hashes. Without any it takes as
    /// long as with one.
    fn check_passwords<'a>(
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
