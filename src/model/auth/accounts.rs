//! Accounts: records of auth collections that can sign in.

use std::net::IpAddr;
use std::sync::Arc;

use super::authentication::{Auth, wrong_password, wrong_token};
use super::credentials::Credentials;
use super::token::{Claims, ExtraClaims, Purpose};
use crate::base::budget::{OutputCharge, Payer};
use crate::base::crypto;
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::{Collection, CollectionKind, Collections, TokenKind};
use crate::model::events::Events;
use crate::model::records::account::Secrets;
use crate::model::records::{RawBody, RequestFacts, Scope, Shape, account};
use crate::model::rules::{Identity, Rule, User};
use crate::store::db::{Database, QueryCaller};

/// The accounts of one auth collection.
pub struct Realm {
    pub(super) name: String,
    pub(super) database: Arc<Database>,
    pub(super) collections: Arc<Collections>,
    pub collection: Arc<Collection>,
    events: Arc<Events>,
}

/// The parameters of a log-in.
pub struct LogIn<'a> {
    /// The value of one of the identity fields.
    pub identity: &'a str,
    /// The name of that field, if the client named it.
    pub field: Option<&'a str>,
    pub password: &'a str,
    /// The address of the client.
    pub from: IpAddr,
    pub asker: QueryCaller<'a>,
}

/// A new token and the JSON of its account.
pub struct AccountSession {
    pub token: String,
    pub record: Vec<u8>,
}

impl Auth {
    /// The accounts of a collection, by name or id, or of the default one.
    pub fn realm(&self, database: &str, collection: Option<&str>) -> Result<Realm> {
        let collections = self.catalog.collections(database)?;
        let name = collection.unwrap_or(&self.settings.collection);
        let collection = Arc::clone(collections.get(name)?);
        if collection.kind != CollectionKind::Auth {
            return Err(Error::invalid(format!("{name} is not an auth collection.")));
        }
        Ok(Realm {
            name: database.to_owned(),
            database: self.databases.get(database)?,
            collections,
            collection,
            events: Arc::clone(&self.events),
        })
    }

    /// The realm of an account.
    pub fn realm_of(&self, database: &str, user: &User) -> Result<Realm> {
        self.realm(database, Some(&user.collection_id))
    }

    /// Signs an account in. An unknown identity and a wrong password get the same answer and cost
    /// the same work.
    pub fn log_in(
        &self,
        realm: &Realm,
        log_in: &LogIn<'_>,
        shape: &Shape,
    ) -> Result<AccountSession> {
        if !realm.collection.auth.has_passwords() {
            return Err(Error::new(
                Kind::Forbidden,
                "The collection is not configured to allow password authentication.",
            ));
        }
        let fields = realm.collection.identity_fields();
        if let Some(field) = log_in.field.filter(|field| !fields.contains(field)) {
            return Err(Error::invalid(format!(
                "{field} is not an identity field of {}.",
                realm.collection.name
            )));
        }
        let mut fields: Vec<&str> = fields
            .into_iter()
            .filter(|field| log_in.field.is_none_or(|wanted| wanted == *field))
            .collect();
        // The name of one account may be the address of another; the address comes first.
        fields.sort_by_key(|field| (*field == "email") != log_in.identity.contains('@'));
        let mut found: Vec<Secrets> = Vec::new();
        for field in fields {
            let account = realm.database.look_up(|connection| {
                account::find_by(connection, &realm.collection, field, log_in.identity)
            })?;
            found.extend(account.filter(|it| found.iter().all(|other| other.id != it.id)));
        }
        let account = realm.label("identity", &log_in.identity.to_ascii_lowercase());
        let hashes = found.iter().map(|it| it.password_hash.as_deref());
        let right = self.check_passwords(&account, log_in.from, log_in.password, hashes)?;
        let Some(mut secrets) = right.map(|at| found.swap_remove(at)) else {
            return Err(wrong_password());
        };
        self.renew_hash(realm, &mut secrets, log_in.password, log_in.from);
        if realm.collection.requires_verified() && !secrets.is_verified {
            return Err(Error::new(
                Kind::Forbidden,
                "Confirm the e-mail address of this account first.",
            ));
        }
        self.check_second_factor(realm, &secrets.id)?;
        // The password was right, so the caller counts as one with credentials.
        let payer = Payer {
            has_credentials: true,
            ..log_in.asker.payer
        };
        let asker = QueryCaller {
            payer,
            ..log_in.asker
        };
        self.session(realm, &secrets, shape, asker)
    }

    /// A new token for an account with a valid one.
    pub fn refresh(
        &self,
        realm: &Realm,
        user: Arc<User>,
        credentials: Credentials<'_>,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<AccountSession> {
        check_auth_rule(realm, &user.id, Identity::User(Arc::clone(&user)))?;
        let life_ms = realm.collection.token_ms(TokenKind::Auth);
        let token = self.renew_token(credentials, life_ms)?;
        let record = self.record(realm, user, shape, asker)?;
        Ok(AccountSession { token, record })
    }

    /// Refuses accounts that need a second factor, because the server cannot ask for one: a log-in
    /// by the password alone would be less than the definition demands.
    pub(super) fn check_second_factor(&self, realm: &Realm, id: &str) -> Result<()> {
        let Some(rule) = realm.collection.auth.second_factor() else {
            return Ok(());
        };
        let is_needed = realm.admits(id, Some(&Rule::parse(rule)?), Identity::Anonymous)?;
        match is_needed {
            false => Ok(()),
            true => Err(Error::new(
                Kind::Forbidden,
                "This account needs a second factor (mfa), which this server does not support yet.",
            )),
        }
    }

    /// The JSON of an account as it sees itself.
    pub fn record(
        &self,
        realm: &Realm,
        user: Arc<User>,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<Vec<u8>> {
        let id = user.id.clone();
        let scope = realm.scope(Identity::User(user));
        let record = realm.database.snapshot_for(asker, |connection| {
            account::show(connection, &scope, &realm.collection, &id, shape)
        })?;
        record.ok_or_else(wrong_token)
    }

    /// Authorizes a change of the password or address of an account by its current password. An
    /// account that sends its own address unchanged needs no password. Returns the token key, which
    /// the draft must hold.
    pub fn prove(
        &self,
        scope: &Scope,
        realm: &Realm,
        id: &str,
        body: &RawBody,
        from: IpAddr,
        asker: QueryCaller<'_>,
    ) -> Result<String> {
        let secrets = realm.database.read_for(asker, |connection| {
            account::secrets_for_update(connection, scope, &realm.collection, id)
        })?;
        let text = |name: &str| -> Option<String> {
            let raw = body.get(name)?;
            serde_json::from_str(raw.get()).ok()
        };
        let is_self = matches!(&scope.identity, Identity::User(user)
            if user.id == id && user.collection_id == realm.collection.id);
        let is_same = text("email").is_some_and(|it| it.eq_ignore_ascii_case(&secrets.email));
        if body.contains_key("password") || !is_self || !is_same {
            let old = text("oldPassword");
            self.check_current_password(realm, &secrets, "oldPassword", old.as_deref(), from)?;
        }
        Ok(secrets.token_key)
    }

    /// Refuses a wrong or missing current password. `field` is the field of the request that should
    /// hold it.
    pub(super) fn check_current_password(
        &self,
        realm: &Realm,
        secrets: &Secrets,
        field: &str,
        password: Option<&str>,
        from: IpAddr,
    ) -> Result<()> {
        let Some(password) = password else {
            return Err(Error::field(
                field,
                "validation_required",
                "The current password is required.",
            ));
        };
        let account = realm.label("id", &secrets.id);
        let hash = secrets.password_hash.as_deref();
        if self.check_password(&account, from, password, hash)? {
            return Ok(());
        }
        Err(Error::field(
            field,
            "validation_invalid_old_password",
            "The current password is wrong.",
        ))
    }

    /// A token for an account, made by an admin. It cannot be renewed. `seconds` is its lifetime;
    /// none for that of other tokens.
    pub fn impersonate(
        &self,
        realm: &Realm,
        id: &str,
        seconds: Option<u32>,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<AccountSession> {
        let missing = || Error::not_found("There is no such account.");
        let secrets = realm.secrets(id)?.ok_or_else(missing)?;
        let user = realm.user(id)?.ok_or_else(missing)?;
        let extra = ExtraClaims {
            refreshable: Some(false),
            ..realm.extra()
        };
        let (key, life_ms) = (
            self.account_key(realm, &secrets),
            self.impersonation_ms(seconds),
        );
        let token = self.sign(Purpose::User, secrets.id, key, extra, life_ms);
        let record = self.record(realm, Arc::new(user), shape, asker)?;
        Ok(AccountSession { token, record })
    }

    /// The lifetime of a token that an admin makes for an account, at most that of other tokens.
    pub(super) fn impersonation_ms(&self, seconds: Option<u32>) -> i64 {
        let wanted = seconds.map(|seconds| i64::from(seconds) * 1000);
        wanted.map_or(self.token_ms(), |ms| ms.min(self.token_ms()))
    }

    /// Signs this account in, if the `authRule` admits it.
    pub(super) fn session(
        &self,
        realm: &Realm,
        secrets: &Secrets,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<AccountSession> {
        check_auth_rule(realm, &secrets.id, Identity::Anonymous)?;
        let user = realm.user(&secrets.id)?.ok_or_else(wrong_token)?;
        let extra = realm.extra();
        let (id, key) = (secrets.id.clone(), self.account_key(realm, secrets));
        let life_ms = realm.collection.token_ms(TokenKind::Auth);
        let life_ms = life_ms.unwrap_or_else(|| self.token_ms());
        let token = self.sign(Purpose::User, id, key, extra, life_ms);
        let record = self.record(realm, Arc::new(user), shape, asker)?;
        Ok(AccountSession { token, record })
    }

    /// The key and the claims of the tokens of an account.
    pub(super) fn key_of_user(&self, database: &str, user: &User) -> Result<(String, ExtraClaims)> {
        let realm = self.realm_of(database, user)?;
        let secrets = realm.secrets(&user.id)?.ok_or_else(wrong_token)?;
        Ok((self.account_key(&realm, &secrets), realm.extra()))
    }

    /// The identity behind a token of an account of `database`.
    pub(super) fn identify_user(&self, claims: &Claims, database: &str) -> Result<Identity> {
        let realm = self.realm_of_token(claims, database)?;
        let (scope, collection) = (realm.scope(Identity::Anonymous), &realm.collection);
        let user = realm.database.look_up(|connection| {
            match account::secrets(connection, collection, &claims.subject)? {
                Some(secrets)
                    if self.account_key(&realm, &secrets) == claims.key
                        && (secrets.is_verified || !collection.requires_verified()) =>
                {
                    account::load_user(connection, &scope, collection, &claims.subject)
                }
                _ => Ok(None),
            }
        })?;
        let user = user.ok_or_else(wrong_token)?;
        Ok(Identity::User(Arc::new(user)))
    }

    /// The realm that a token is for. A token of one database is invalid in another.
    pub(super) fn realm_of_token(&self, claims: &Claims, database: &str) -> Result<Realm> {
        let extra = &claims.extra;
        let collection = extra.collection.as_deref();
        let is_here = extra.database.as_deref() == Some(database);
        let is_id = |realm: &Realm| collection == Some(realm.collection.id.as_str());
        match collection.filter(|_| is_here) {
            Some(_) => match self.realm(database, collection) {
                Ok(realm) if is_id(&realm) => Ok(realm),
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Internal) => {
                    Err(error)
                }
                _ => Err(wrong_token()),
            },
            None => Err(wrong_token()),
        }
    }

    /// A value that changes with the address and the password of an account, and with the token
    /// secret of its collection, and reveals none of them.
    pub(super) fn account_key(&self, realm: &Realm, secrets: &Secrets) -> String {
        let email = secrets.email.to_ascii_lowercase();
        let hash = secrets.password_hash.as_deref().unwrap_or_default();
        let random = &secrets.token_key;
        let mut text = format!("account\0{email}\0{hash}\0{random}");
        let secret = realm.collection.auth.token_secret();
        if !secret.is_empty() {
            text += "\0";
            text += secret;
        }
        let signature = self.signing.sign(text.as_bytes());
        crypto::base64url(&signature[..16])
    }
}

/// Refuses an account that the `authRule` of its collection does not admit.
fn check_auth_rule(realm: &Realm, id: &str, identity: Identity) -> Result<()> {
    let rule = realm.collection.rules.auth.as_ref();
    match realm.admits(id, rule, identity)? {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Forbidden,
            "The request doesn't satisfy the collection requirements to authenticate.",
        )),
    }
}

impl Realm {
    /// True if the rule admits this account; no rule admits none.
    fn admits(&self, id: &str, rule: Option<&Rule>, identity: Identity) -> Result<bool> {
        let Some(rule) = rule else {
            return Ok(false);
        };
        let scope = self.scope(identity);
        self.database
            .look_up(|connection| account::meets(connection, &scope, &self.collection, id, rule))
    }

    pub fn database_name(&self) -> &str {
        &self.name
    }

    pub(super) fn scope(&self, identity: Identity) -> Scope {
        Scope {
            collections: Arc::clone(&self.collections),
            identity,
            facts: RequestFacts::default(),
            events: Arc::clone(&self.events),
            output: OutputCharge::default(),
        }
    }

    pub(super) fn extra(&self) -> ExtraClaims {
        ExtraClaims {
            database: Some(self.name.clone()),
            collection: Some(self.collection.id.clone()),
            ..ExtraClaims::default()
        }
    }

    /// The name under which the throttle counts: the kind of attempt, and the account.
    pub(super) fn label(&self, kind: &str, account: &str) -> String {
        format!("{}/{}/{kind}/{account}", self.name, self.collection.id)
    }

    pub(super) fn secrets(&self, id: &str) -> Result<Option<Secrets>> {
        self.database
            .look_up(|connection| account::secrets(connection, &self.collection, id))
    }

    pub(super) fn by_email(&self, email: &str) -> Result<Option<Secrets>> {
        self.database
            .look_up(|connection| account::find_by(connection, &self.collection, "email", email))
    }

    fn user(&self, id: &str) -> Result<Option<User>> {
        let scope = self.scope(Identity::Anonymous);
        self.database
            .look_up(|connection| account::load_user(connection, &scope, &self.collection, id))
    }
}
