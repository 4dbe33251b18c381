//! Tokens that the server issues on request: for services, and for links to protected files.

use std::collections::BTreeSet;

use super::admins;
use super::authentication::{Auth, FILE_TOKEN_MS, wrong_token};
use super::credentials::Credentials;
use super::signers::replica_signer;
use super::token::{ExtraClaims, Purpose};
use super::webhook::WebhookSecret;
use crate::base::error::{Error, Result};
use crate::model::collections::TokenKind;
use crate::model::rules::{ApiKey, Identity, KeyScope};

pub(super) fn is_service(key: &ApiKey) -> bool {
    key.scopes.contains(&KeyScope::Service)
}

/// The parameters of a new service token.
pub struct ServiceTokenRequest {
    pub name: String,
    pub seconds: u32,
    /// None for all workflows.
    pub workflows: Option<BTreeSet<String>>,
}

impl Auth {
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
        let mut life_ms = FILE_TOKEN_MS;
        let (subject, key, extra) = match owner {
            Identity::Admin(id) => {
                let admin = admins::by_id(self.databases.default(), id)?.ok_or_else(wrong_token)?;
                (id.clone(), admin.token_key, ExtraClaims::default())
            }
            Identity::User(user) => {
                let realm = self.realm_of(database, user)?;
                life_ms = realm
                    .collection
                    .token_ms(TokenKind::File)
                    .unwrap_or(life_ms);
                let (key, extra) = self.key_of_user(database, user)?;
                (user.id.clone(), key, extra)
            }
            _ => return Err(Error::internal("a file token for no account")),
        };
        Ok(self.sign(Purpose::File, subject, key, extra, life_ms))
    }

    /// Signs tokens for the replica with this id, which it sends to its master.
    pub fn replica_signer(&self, id: &str) -> impl Fn() -> String + Send + Sync + 'static {
        replica_signer(self.tokens.clone(), id.to_owned())
    }

    /// The secret that receivers of webhooks verify calls of this server with.
    pub fn webhook_secret(&self) -> WebhookSecret {
        WebhookSecret::of_server(&self.signing)
    }
}
