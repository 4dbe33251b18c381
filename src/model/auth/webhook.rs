//! The secret with which receivers of webhooks verify signatures and tokens.
//!
//! The webhook secret of a server is derived from its own secret, which cannot be computed from it.
//! A receiver that has it can forge calls of this server, and nothing else: a token signed with it
//! is invalid here.

use std::path::Path;

use serde::Serialize;

use super::signers::operator_secret;
use super::token;
use crate::base::crypto;
use crate::base::crypto::SigningKey;
use crate::base::error::Result;

/// Lifetime of the token of a call.
const TOKEN_SECONDS: i64 = 300;
/// The label of the derivation.
const LABEL: &[u8] = b"webhooks";

/// A secret shared with a receiver.
#[derive(Clone)]
pub struct WebhookSecret {
    bytes: Vec<u8>,
    key: SigningKey,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'static str,
    aud: &'a str,
    roles: [&'static str; 2],
    iat: i64,
    exp: i64,
}

impl WebhookSecret {
    pub fn new(bytes: &[u8]) -> WebhookSecret {
        WebhookSecret {
            bytes: bytes.to_vec(),
            key: SigningKey::new(bytes),
        }
    }

    /// The secret of a server.
    pub fn of_server(signing: &SigningKey) -> WebhookSecret {
        WebhookSecret::new(&signing.sign(LABEL))
    }

    /// The secret of the server with this data directory, for the command line.
    pub fn of_data(configured: Option<&str>, data_dir: &Path) -> Result<WebhookSecret> {
        let secret = operator_secret(configured, data_dir)?;
        Ok(WebhookSecret::of_server(&SigningKey::new(&secret)))
    }

    /// The form that receivers get.
    pub fn text(&self) -> String {
        format!("whsec_{}", crypto::base64(&self.bytes))
    }

    /// The signature of a message, in base64.
    pub fn sign(&self, message: &[u8]) -> String {
        crypto::base64(&self.key.sign(message))
    }

    /// A token that names the calling server and the receiver, so a receiver cannot use it
    /// elsewhere.
    pub fn token(&self, node: &str, audience: &str, now_ms: i64) -> String {
        let claims = Claims {
            iss: node,
            sub: "webhook",
            aud: audience,
            roles: ["service", "webhook"],
            iat: now_ms / 1000,
            exp: now_ms / 1000 + TOKEN_SECONDS,
        };
        token::sign_json(&self.key, &claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::auth::token::{Purpose, TokenKeys};
    use crate::model::triggers;

    #[test]
    fn the_secret_of_a_server_is_one_and_its_tokens_open_nothing() {
        let signing = SigningKey::new(&[7; 32]);
        let secret = WebhookSecret::of_server(&signing);
        assert_eq!(
            triggers::secret_bytes(&secret.text()).unwrap(),
            secret.bytes
        );
        let jwt = secret.token("node", "https://a.example", 1000);
        for key in [&[7; 32][..], &secret.bytes] {
            let purposes = [Purpose::Admin, Purpose::Service, Purpose::Replica];
            let keys = TokenKeys::new(key);
            assert_eq!(token::read(&keys, &jwt, &purposes, 1000), None);
        }
    }

    /// The example of the specification of Standard Webhooks.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let bytes = triggers::secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
        assert_eq!(
            WebhookSecret::new(&bytes).sign(message),
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}
