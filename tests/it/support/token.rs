//! Tokens made outside the server, with its secret.

use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::api::Api;

/// The secret of servers whose tokens tests make.
pub const SECRET: &str = "a secret of at least thirty-two bytes";

/// A token with these claims, signed with the key for tokens of its purpose.
pub fn sign(claims: &Value, secret: &str) -> String {
    let kind = match claims["purpose"].as_str().unwrap() {
        "admin" | "user" => "account",
        "verification" | "reset" | "email" => "mail",
        purpose => purpose,
    };
    let info = format!("vski {kind} tokens\u{1}");
    let key = hmac(&hmac(b"", secret.as_bytes()), info.as_bytes());
    sign_with(claims, &key)
}

/// A token with these claims, signed with this very key.
pub fn sign_with(claims: &Value, key: &[u8]) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(hmac(key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// A token with changed claims, signed again.
pub fn resigned(token: &str, secret: &str, change: impl Fn(&mut Value)) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let mut claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    change(&mut claims);
    sign(&claims, secret)
}

/// A client that is the replica of this name.
pub fn replica(api: &Api, name: &str) -> Api {
    let claims = json!({"sub": name, "purpose": "replica", "key": "", "exp": now() + 300});
    api.with_token(&sign(&claims, SECRET))
        .with_header("X-Replica-Id", name)
}
