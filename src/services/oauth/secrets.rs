//! Secrets of clients: of the settings, of the environment, or signed for Apple.
//!
//! The variable of a secret is `OAUTH2_SECRET__DATABASE__COLLECTION__PROVIDER`, in capitals, with
//! `_` for every other character. It names all three, so that a secret is sent to the provider of
//! that collection only. A name with `__` in it or `_` at its end has no variable: two names could
//! have the same one.

use std::collections::HashMap;

use serde_json::json;

use crate::base::error::Result;
use crate::base::{clock, crypto, jws};
use crate::model::providers::ProviderSettings;

/// The beginning of the names of the variables.
pub const PREFIX: &str = "OAUTH2_SECRET__";
/// The audience of a secret that Apple accepts, and its lifetime.
const APPLE: &str = "https://appleid.apple.com";
const APPLE_SECONDS: i64 = 300;

/// The secret to send. Empty for a client without one.
pub fn secret_of(
    provider: &ProviderSettings,
    environment: &HashMap<String, String>,
    database: &str,
    collection: &str,
) -> Result<String> {
    let stored = provider.client_secret.as_str();
    let secret = match stored {
        "" => variable(&[database, collection, &provider.name])
            .and_then(|name| environment.get(&name))
            .map_or("", String::as_str),
        stored => stored,
    };
    let (team, key) = (provider.extra("teamId"), provider.extra("keyId"));
    match secret.contains("-----BEGIN") && !team.is_empty() && !key.is_empty() {
        true => sign_for_apple(secret, team, key, &provider.client_id),
        false => Ok(secret.to_owned()),
    }
}

/// The name of the variable; none if a name could be taken for several.
fn variable(names: &[&str]) -> Option<String> {
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    let names = names
        .iter()
        .map(|name| name.chars().map(plain).collect::<String>());
    let names: Vec<String> = names.collect();
    if names
        .iter()
        .any(|it| it.contains("__") || it.ends_with('_'))
    {
        return None;
    }
    Some(format!("{PREFIX}{}", names.join("__")))
}

/// A client secret of Apple: a JWT that the private key of the team signs.
fn sign_for_apple(pem: &str, team: &str, key: &str, client: &str) -> Result<String> {
    let now = clock::now_ms() / 1000;
    let header = json!({"alg": "ES256", "kid": key, "typ": "JWT"});
    let claims = json!({"iss": team, "iat": now, "exp": now + APPLE_SECONDS, "aud": APPLE,
        "sub": client});
    let encode = |part: &serde_json::Value| crypto::base64url(part.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = jws::sign_es256(pem, signed.as_bytes())?;
    Ok(format!("{signed}.{}", crypto::base64url(&signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_of_one_provider_of_one_collection() {
        let name = variable(&["default", "users", "my-oidc"]);
        assert_eq!(
            name.as_deref(),
            Some("OAUTH2_SECRET__DEFAULT__USERS__MY_OIDC")
        );
        assert_eq!(
            variable(&["default", "_users", "google"]).as_deref(),
            Some("OAUTH2_SECRET__DEFAULT___USERS__GOOGLE")
        );
        assert_eq!(variable(&["a__b", "c", "google"]), None);
        assert_eq!(variable(&["a", "b__c", "google"]), None);
        assert_eq!(variable(&["a-", "b", "google"]), None);
    }

    #[test]
    fn a_stored_secret_comes_before_that_of_the_environment() {
        let environment = HashMap::from([(
            "OAUTH2_SECRET__DEFAULT__USERS__GITHUB".to_owned(),
            "of the environment".to_owned(),
        )]);
        let secret = |stored: &str, collection: &str| {
            let json = json!({"name": "github", "clientId": "c", "clientSecret": stored});
            let provider = ProviderSettings::read(&json);
            secret_of(&provider, &environment, "default", collection).unwrap()
        };
        assert_eq!(secret("stored", "users"), "stored");
        assert_eq!(secret("", "users"), "of the environment");
        assert_eq!(secret("", "others"), "");
    }
}
