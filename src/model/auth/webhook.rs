//! What receivers of webhooks check signatures and tokens with.
//!
//! The secret of the server comes out of the one that signs its own tokens, and does not lead back to it:
//! whoever has it can pretend to call for this server, and nothing else. No token that is signed with it opens
//! anything here.

use std::path::Path;

use serde::Serialize;

use super::signers::operator_secret;
use super::token;
use crate::base::crypto;
use crate::base::crypto::SigningKey;
use crate::base::error::Result;

/// Life of a token that goes with a call.
const TOKEN_SECONDS: i64 = 300;
/// What the secret is made of, besides the one of the server.
const LABEL: &[u8] = b"webhooks";

/// A secret that a receiver shares.
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

    /// That of a server.
    pub fn of_server(signing: &SigningKey) -> WebhookSecret {
        WebhookSecret::new(&signing.sign(LABEL))
    }

    /// That of the server that runs on this data, or would, for the command line.
    pub fn of_data(configured: Option<&str>, data_dir: &Path) -> Result<WebhookSecret> {
        let secret = operator_secret(configured, data_dir)?;
        Ok(WebhookSecret::of_server(&SigningKey::new(&secret)))
    }

    /// As receivers are given it.
    pub fn text(&self) -> String {
        format!("whsec_{}", crypto::base64(&self.bytes))
    }

    /// The signature of a message, in base64.
    pub fn sign(&self, message: &[u8]) -> String {
        crypto::base64(&self.key.sign(message))
    }

    /// A token that says which server calls and where (WH-6): a receiver that gets it can show it to no
    /// other.
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
