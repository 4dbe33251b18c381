//! Id tokens of OpenID Connect (Core 1.0, section 3.1.3.7): signature, issuer, audience, nonce,
//! times.
//!
//! The keys of an issuer are fetched again if they do not have the key that a token names, at most
//! once in ten seconds, so that an issuer can change its keys at any time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::cache::{DocumentCache, RENEWAL_PAUSE};
use super::fetch::{Deadline, Fetcher, unavailable};
use crate::base::crypto::from_base64url;
use crate::base::error::{Error, Result};
use crate::base::jws::PublicKey;

/// Clock difference to the issuer that is tolerated, in seconds.
const SKEW_SECONDS: i64 = 60;
const TOKEN_BYTES_MAX: usize = 64 << 10;
const KEYS_MAX: usize = 64;
/// Keys are fetched again after this time.
const KEYS_KEPT: Duration = Duration::from_secs(3600);

/// The values that an id token must have.
pub struct Expected<'a> {
    /// The issuers, of which it must have one; empty for any.
    pub issuers: Vec<String>,
    pub client_id: &'a str,
    pub nonce: &'a str,
    pub now_seconds: i64,
}

/// The public keys of an issuer, by the name of each.
pub type KeySet = Vec<(Option<String>, PublicKey)>;

/// Key sets by URL.
pub struct Keys {
    sets: DocumentCache<KeySet>,
}

impl Keys {
    pub fn new() -> Keys {
        Keys {
            sets: DocumentCache::default(),
        }
    }

    /// The claims of an id token whose signature is valid, and that is what is expected.
    pub fn check(
        &self,
        fetcher: &Fetcher,
        keys_url: &str,
        token: &str,
        expected: &Expected<'_>,
        until: Deadline,
    ) -> Result<Map<String, Value>> {
        let parts = Parts::split(token).ok_or_else(|| refused("it is not a signed JWT"))?;
        let fetch = || read_keys(&fetcher.get(keys_url, &[], until)?);
        let name = parts.key_name.as_deref();
        let has_key = |keys: &KeySet, age: Duration| {
            let has = candidates(keys, name).next().is_some();
            age < KEYS_KEPT && (has || age < RENEWAL_PAUSE)
        };
        let keys: Arc<KeySet> = self.sets.get_if(keys_url, until, has_key, fetch)?;
        let is_valid = |key: &PublicKey| {
            key.verify(&parts.algorithm, parts.signed.as_bytes(), &parts.signature)
        };
        if !candidates(&keys, name).any(is_valid) {
            return Err(refused("its signature is not valid"));
        }
        check_claims(&parts.claims, expected).map_err(refused)?;
        Ok(parts.claims)
    }
}

/// The keys that may have signed a token that names this key, or none.
fn candidates<'a>(keys: &'a KeySet, name: Option<&str>) -> impl Iterator<Item = &'a PublicKey> {
    let named = keys.iter().filter(move |(key_name, _)| {
        // An issuer with one key need not name it.
        name.is_none() || key_name.is_none() || key_name.as_deref() == name
    });
    named.map(|(_, key)| key)
}

fn read_keys(document: &Value) -> Result<KeySet> {
    let list = document["keys"].as_array();
    let list = list.ok_or_else(|| unavailable().context("a key set without keys"))?;
    let named = |jwk: &Value| {
        let name = jwk["kid"].as_str().map(str::to_owned);
        Some((name, PublicKey::of_jwk(jwk)?))
    };
    Ok(list.iter().take(KEYS_MAX).filter_map(named).collect())
}

/// A JWT, taken apart; nothing is verified.
struct Parts<'a> {
    algorithm: String,
    key_name: Option<String>,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl Parts<'_> {
    fn split(token: &str) -> Option<Parts<'_>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| -> Option<Map<String, Value>> {
            serde_json::from_slice(&from_base64url(part)?).ok()
        };
        let header = object(header)?;
        // RFC 7515, section 4.1.11: an extension that is not understood.
        if header.contains_key("crit") {
            return None;
        }
        Some(Parts {
            algorithm: header.get("alg")?.as_str()?.to_owned(),
            key_name: header.get("kid").and_then(Value::as_str).map(str::to_owned),
            claims: object(claims)?,
            signed,
            signature: from_base64url(signature)?,
        })
    }
}

/// The error is the reason, for the log.
fn check_claims(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), &'static str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let seconds = |name: &str| {
        let number = claims.get(name)?;
        number
            .as_i64()
            .or_else(|| number.as_f64().map(|it| it as i64))
    };
    let issuer = text("iss").unwrap_or_default();
    if !expected.issuers.is_empty() && !expected.issuers.iter().any(|it| it == issuer) {
        return Err("it is of another issuer");
    }
    let audience: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audience.contains(&expected.client_id) {
        return Err("it is for another client");
    }
    match text("azp") {
        Some(party) if party != expected.client_id => return Err("it is for another party"),
        None if audience.len() > 1 => return Err("it is for several clients and names no party"),
        _ => {}
    }
    if text("nonce") != Some(expected.nonce) {
        return Err("its nonce is that of another sign-in");
    }
    let now = expected.now_seconds;
    if seconds("exp").is_none_or(|end| end.saturating_add(SKEW_SECONDS) <= now) {
        return Err("it has expired");
    }
    if seconds("iat").is_none_or(|begin| begin > now + SKEW_SECONDS) {
        return Err("it is from the future");
    }
    if seconds("nbf").is_some_and(|begin| begin > now + SKEW_SECONDS) {
        return Err("it is not valid yet");
    }
    match text("sub") {
        None | Some("") => Err("it names no user"),
        Some(_) => Ok(()),
    }
}

fn refused(reason: &'static str) -> Error {
    Error::invalid("The id token of the provider is not valid.")
        .context(format!("id token: {reason}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(change: &[(&str, Value)]) -> Result<(), &'static str> {
        let mut claims = json!({"iss": "https://id.example", "aud": "client", "sub": "1",
            "nonce": "n", "exp": 1000, "iat": 900});
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        let expected = Expected {
            issuers: vec!["https://id.example".to_owned()],
            client_id: "client",
            nonce: "n",
            now_seconds: 950,
        };
        check_claims(claims.as_object().unwrap(), &expected)
    }

    #[test]
    fn every_claim_is_checked() {
        for good in [
            &[][..],
            &[("aud", json!(["client"]))],
            &[
                ("aud", json!(["client", "other"])),
                ("azp", json!("client")),
            ],
            &[("exp", json!(891))],
            &[("iat", json!(1010))],
            &[("nbf", json!(1010))],
        ] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for (name, value) in [
            ("iss", json!("https://id.example/")),
            ("iss", json!("https://evil.example")),
            ("iss", json!(null)),
            ("aud", json!("other")),
            ("aud", json!(["client", "other"])),
            ("aud", json!(null)),
            ("azp", json!("other")),
            ("nonce", json!("m")),
            ("nonce", json!(null)),
            ("exp", json!(890)),
            ("exp", json!(null)),
            ("iat", json!(1011)),
            ("iat", json!(null)),
            ("nbf", json!(1011)),
            ("sub", json!("")),
            ("sub", json!(null)),
        ] {
            assert!(check(&[(name, value.clone())]).is_err(), "{name} {value}");
        }
    }
}
