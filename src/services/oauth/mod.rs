//! Signing in with OAuth2 and OpenID Connect: the pages of providers, codes, tokens, users.
//!
//! A sign-in begins with a [`Page`], at which the user consents. The provider leads the browser
//! back with a code, which [`OAuth::user`] exchanges for the user. What that user means for the
//! accounts of a collection is decided in `model::auth`.
//!
//! Every page has a `state` and, unless the settings forbid it, a challenge of PKCE (RFC 7636). The
//! nonce of id tokens follows from the verifier of that challenge, so a code is worthless without
//! the verifier of the sign-in that it is for. A code is exchanged once.
//!
//! [`fetch`] asks providers, [`endpoints`] finds their URLs, [`cache`] keeps documents,
//! [`id_token`] verifies, [`profile`] reads answers, [`secrets`] has the secrets of clients.
//! [`ticket`] keeps the sign-in of an application without an SDK.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use crate::base::budget::{Budget, Charge, Payer};
use crate::base::error::{Error, Result};
use crate::base::lru::LruMap;
use crate::base::threads::lock;
use crate::base::tls::Roots;
use crate::base::{clock, crypto, ids, log};
use crate::model::providers::{ProviderSettings, ProviderUser, SecretPlace, with_parameters};

use cache::DocumentCache;
use endpoints::{Discovery, Endpoints};
use fetch::{ClientSecret, Deadline, Fetcher};
use id_token::{Expected, Keys};
use used_once::UsedOnce;

pub use endpoints::no_provider;
pub use secrets::PREFIX as SECRET_PREFIX;
pub use ticket::{TICKET_SECONDS, Ticket, Tickets};

mod cache;
mod endpoints;
mod fetch;
mod id_token;
mod profile;
mod secrets;
mod ticket;
mod used_once;

/// Names that Apple has told with a code, and their longest length.
const NAMES_MAX: usize = 1000;
const NAME_CHARS_MAX: usize = 150;
const VERIFIER_BYTES_MAX: usize = 128;

/// Asks providers.
pub struct OAuth {
    fetcher: Fetcher,
    documents: DocumentCache<Discovery>,
    keys: Keys,
    used: UsedOnce,
    /// Names of users by the hash of their code.
    names: Mutex<LruMap<String>>,
    secrets: HashMap<String, String>,
    pub tickets: Tickets,
    /// The URL of this server for clients.
    pub public_url: String,
    /// Sign-ins that ask a provider; each blocks a worker.
    asking: Arc<Budget>,
}

/// The page of a provider.
pub struct Page {
    pub state: String,
    /// Without the URL to which the provider leads back: it is to be appended.
    pub url: String,
    pub verifier: String,
    /// Empty without PKCE.
    pub challenge: String,
}

/// A code of a provider, and the values of the sign-in that it is for.
pub struct Grant<'a> {
    pub database: &'a str,
    pub collection: &'a str,
    pub code: &'a str,
    pub verifier: &'a str,
    pub redirect_url: &'a str,
}

impl OAuth {
    pub fn new(
        roots: &Roots,
        secrets: HashMap<String, String>,
        public_url: String,
        asking: &Arc<Budget>,
    ) -> Result<OAuth> {
        Ok(OAuth {
            fetcher: Fetcher::new(roots),
            documents: DocumentCache::default(),
            keys: Keys::new(),
            used: UsedOnce::default(),
            names: Mutex::default(),
            secrets,
            tickets: Tickets::new()?,
            public_url,
            asking: Arc::clone(asking),
        })
    }

    /// True for the first use of a state.
    pub fn use_state(&self, state: &str) -> bool {
        self.used.take(&["state", state])
    }

    /// The page of a provider with a state and a verifier of its own.
    pub fn new_page(&self, provider: &ProviderSettings, payer: Payer) -> Result<Page> {
        self.page(provider, random_text()?, random_text()?, payer)
    }

    /// The page of a provider. The issuer is asked for its URLs if they are not known yet.
    pub fn page(
        &self,
        provider: &ProviderSettings,
        state: String,
        verifier: String,
        payer: Payer,
    ) -> Result<Page> {
        let _permit = match provider.issuer.is_empty() {
            true => None,
            false => Some(self.permit(payer)?),
        };
        let found = Endpoints::find(provider, &self.documents, &self.fetcher, Deadline::new())?;
        let scopes = provider.scopes().join(" ");
        let (challenge, nonce) = (challenge_of(&verifier), nonce_of(&verifier));
        let mut parameters = vec![("client_id", provider.client_id.as_str())];
        if provider.has_pkce() {
            parameters.push(("code_challenge", &challenge));
            parameters.push(("code_challenge_method", "S256"));
        }
        if !found.keys.is_empty() {
            parameters.push(("nonce", &nonce));
        }
        parameters.extend(provider.preset.page_parameters);
        parameters.push(("response_type", "code"));
        if !scopes.is_empty() {
            parameters.push(("scope", &scopes));
        }
        parameters.push(("state", &state));
        let url = with_parameters(&found.page, &parameters) + "&redirect_uri=";
        Ok(Page {
            url,
            challenge: match provider.has_pkce() {
                true => challenge,
                false => String::new(),
            },
            state,
            verifier,
        })
    }

    /// Exchanges a code for the user. The code is used up, also by a failure.
    pub fn user(
        &self,
        provider: &ProviderSettings,
        grant: &Grant<'_>,
        payer: Payer,
    ) -> Result<ProviderUser> {
        let _permit = self.permit(payer)?;
        let until = Deadline::new();
        let found = Endpoints::find(provider, &self.documents, &self.fetcher, until)?;
        let needs_verifier = provider.has_pkce() || !found.keys.is_empty();
        if needs_verifier && grant.verifier.is_empty() {
            let message = "The code verifier of the sign-in is required.";
            return Err(Error::field("codeVerifier", "validation_required", message));
        }
        if grant.verifier.len() > VERIFIER_BYTES_MAX {
            let message = "Must be the code verifier of the sign-in.";
            return Err(Error::field(
                "codeVerifier",
                "validation_invalid_value",
                message,
            ));
        }
        let of = [grant.database, grant.collection, &provider.name, grant.code];
        if !self.used.take(&of) {
            return Err(Error::field(
                "code",
                "validation_invalid_code",
                "The code was already used; start the sign-in again.",
            ));
        }
        let token = self.token(provider, &found, grant, until)?;
        let claims = match found.keys.is_empty() {
            true => None,
            false => Some(self.claims(provider, &found, grant, &token, until)?),
        };
        let answer = self.answer(provider, &found, &token, claims, until)?;
        let mut user = profile::read(&provider.preset.profile, &answer, &token)?;
        self.add_address(provider, &found, &token, &mut user, until);
        if user.name.is_empty() {
            user.name = self.take_name(grant.code);
        }
        user.is_verified |= provider.trusts_email() && !user.email.is_empty();
        user.provider.clone_from(&provider.name);
        user.raw = answer;
        add_token(&mut user, &token);
        Ok(user)
    }

    fn permit(&self, payer: Payer) -> Result<Charge> {
        let charge = self.asking.charge(payer, 1);
        charge.map_err(|exhausted| exhausted.into_error(self.asking.name()))
    }

    fn token(
        &self,
        provider: &ProviderSettings,
        found: &Endpoints,
        grant: &Grant<'_>,
        until: Deadline,
    ) -> Result<Value> {
        let (database, collection) = (grant.database, grant.collection);
        let secret = secrets::secret_of(provider, &self.secrets, database, collection)?;
        let client = ClientSecret {
            id: &provider.client_id,
            secret: &secret,
            in_header: provider.preset.secret == SecretPlace::Header,
        };
        let mut pairs = vec![
            ("grant_type", "authorization_code"),
            ("code", grant.code),
            ("redirect_uri", grant.redirect_url),
        ];
        if provider.has_pkce() {
            pairs.push(("code_verifier", grant.verifier));
        }
        let answer = self.fetcher.post(&found.token, &client, &pairs, until);
        let answer = answer.inspect_err(log_reason)?;
        match answer["access_token"].as_str().is_none_or(str::is_empty) {
            false => Ok(answer),
            true => {
                // GitHub refuses with status 200.
                let reason = answer["error"].as_str().unwrap_or("no access_token");
                let error = fetch::refused().context(format!("{}: {reason}", found.token));
                log_reason(&error);
                Err(error)
            }
        }
    }

    fn claims(
        &self,
        provider: &ProviderSettings,
        found: &Endpoints,
        grant: &Grant<'_>,
        token: &Value,
        until: Deadline,
    ) -> Result<Map<String, Value>> {
        let expected = Expected {
            issuers: found.issuers.clone(),
            client_id: &provider.client_id,
            nonce: &nonce_of(grant.verifier),
            now_seconds: clock::now_ms() / 1000,
        };
        let text = token["id_token"].as_str().unwrap_or_default();
        let claims = self
            .keys
            .check(&self.fetcher, &found.keys, text, &expected, until);
        claims.inspect_err(log_reason)
    }

    /// The answer about the user: the claims of the id token, and above them what the provider
    /// answers.
    fn answer(
        &self,
        provider: &ProviderSettings,
        found: &Endpoints,
        token: &Value,
        claims: Option<Map<String, Value>>,
        until: Deadline,
    ) -> Result<Value> {
        if found.user.is_empty() {
            return Ok(Value::Object(claims.unwrap_or_default()));
        }
        let headers = headers(provider, token);
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let answer = match provider.preset.query {
            "" => self.fetcher.get(&found.user, &headers, until),
            query => self.fetcher.query(&found.user, &headers, query, until),
        };
        let mut answer = answer.inspect_err(log_reason)?;
        let Some(claims) = claims else {
            return Ok(answer);
        };
        // OpenID Connect Core 1.0, section 5.3.2.
        if answer.get("sub") != claims.get("sub") {
            let error = Error::invalid("The provider answered about another user.");
            return Err(error.context(format!("{}: another sub", found.user)));
        }
        // Its flag is about its own address only.
        let email = answer.get("email");
        let is_other_address = email.is_some_and(|it| Some(it) != claims.get("email"));
        if let Value::Object(answer) = &mut answer {
            for (name, value) in claims {
                if name != "email_verified" || !is_other_address {
                    answer.entry(name).or_insert(value);
                }
            }
        }
        Ok(answer)
    }

    /// Adds the primary address of a provider that has a list of them. Without the permission to
    /// read it, the user has no address.
    fn add_address(
        &self,
        provider: &ProviderSettings,
        found: &Endpoints,
        token: &Value,
        user: &mut ProviderUser,
        until: Deadline,
    ) {
        let Some(list) = provider.preset.addresses else {
            return;
        };
        let url = format!("{}{}", found.user, list.path);
        let headers = headers(provider, token);
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let answer = self
            .fetcher
            .get(&url, &headers, until)
            .inspect_err(log_reason);
        if let Ok(answer) = answer
            && let Some((email, is_verified)) = profile::primary_address(&list, &answer)
        {
            (user.email, user.is_verified) = (email, is_verified);
        }
    }

    /// Remembers the name that Apple tells beside a code, and only there.
    pub fn remember_name(&self, code: &str, user: &str) {
        let parsed: Value = serde_json::from_str(user).unwrap_or_default();
        let part = |name: &str| parsed["name"][name].as_str().unwrap_or_default();
        let name = format!("{} {}", part("firstName"), part("lastName"));
        let name: String = name.trim().chars().take(NAME_CHARS_MAX).collect();
        if name.is_empty() || code.is_empty() {
            return;
        }
        let mut names = lock(&self.names);
        if names.len() >= NAMES_MAX {
            names.evict(|_| true);
        }
        names.insert(&name_key(code), name);
    }

    fn take_name(&self, code: &str) -> String {
        lock(&self.names)
            .remove(&name_key(code))
            .unwrap_or_default()
    }
}

fn name_key(code: &str) -> String {
    ids::hex(&crypto::sha256(code.as_bytes()))
}

/// The headers of a request about the user.
fn headers(provider: &ProviderSettings, token: &Value) -> Vec<(&'static str, String)> {
    let token = token["access_token"].as_str().unwrap_or_default();
    let mut headers = vec![("Authorization", format!("Bearer {token}"))];
    let own = provider.preset.headers.iter();
    headers.extend(
        own.map(|(name, value)| (*name, value.replace("{client_id}", &provider.client_id))),
    );
    headers
}

fn add_token(user: &mut ProviderUser, token: &Value) {
    let text = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
    user.access_token = text("access_token");
    user.refresh_token = text("refresh_token");
    let seconds = &token["expires_in"];
    let seconds = seconds.as_i64().or_else(|| seconds.as_str()?.parse().ok());
    user.expiry = seconds.map_or_else(String::new, |seconds| {
        clock::format_ms(clock::now_ms().saturating_add(seconds.saturating_mul(1000)))
    });
}

fn random_text() -> Result<String> {
    Ok(crypto::base64url(&ids::random_bytes::<32>()?))
}

/// The challenge of PKCE with S256.
pub fn challenge_of(verifier: &str) -> String {
    crypto::base64url(&crypto::sha256(verifier.as_bytes()))
}

/// The nonce of a sign-in. It reveals nothing about the verifier.
fn nonce_of(verifier: &str) -> String {
    let hash = crypto::sha256(format!("nonce\0{verifier}").as_bytes());
    crypto::base64url(&hash[..24])
}

/// The caller learns that a sign-in failed; the operator learns why.
fn log_reason(error: &Error) {
    log::warn(format_args!("sign-in with a provider: {error}"));
}
