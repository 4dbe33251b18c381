//! Tokens made outside the server, by whoever knows its secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Hmac;
use hmac::Mac as _;
use serde_json::Value;
use serde_json::json;
use sha2::Sha256;

use super::api::Api;

/// The secret of servers whose tokens tests make.
pub const SECRET: &str = "a secret of at least thirty-two bytes";

/// A token with these claims.
pub fn sign(claims: &Value, secret: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    format!("{signed}.{signature}")
}

/// A token with other claims, signed anew.
pub fn resigned(token: &str, secret: &str, change: impl Fn(&mut Value)) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let mut claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    change(&mut claims);
    sign(&claims, secret)
}

/// A client that is the replica of this name.
pub fn replica(api: &Api, name: &str) -> Api {
    let claims = json!({"sub": name, "purpose": "replica", "key": "", "exp": 9_999_999_999_i64});
    api.with_token(&sign(&claims, SECRET))
        .with_header("X-Replica-Id", name)
}
