//! Identification: from the credentials of a request to its identity.

use std::sync::Arc;

use super::authentication::{Auth, wrong_token};
use super::credentials::Credentials;
use super::issued_tokens::is_service;
use super::signers::OPERATOR;
use super::token::{Claims, Purpose};
use super::{admins, keys};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids;
use crate::model::rules::{Identity, Service};
use crate::store::db;

impl Auth {
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
                "The API key is invalid or has expired.",
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
                    "Only admins, service tokens and API keys with the scope `service` may connect as workers.",
                ));
            }
        };
        Ok((identity, expires_ms))
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
                "This endpoint needs a replica's token, and the replica's id in X-Replica-Id.",
            )),
        }
    }
}
