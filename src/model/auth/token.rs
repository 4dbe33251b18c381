//! JWTs signed with HMAC-SHA256 (RFC 7519, RFC 7515), bound to a purpose.
//!
//! There is one algorithm and one header. A token with another header is refused unread, so a token
//! cannot choose its algorithm. The purpose is a checked claim, so a token for one purpose is
//! invalid for others. Purposes of different families have different keys, derived from the secret
//! of the server.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::base::crypto;
use crate::base::crypto::SigningKey;
use crate::model::collections::SUPERUSERS_ID;

/// base64url of `{"alg":"HS256","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
/// Longest accepted token.
const BYTES_MAX: usize = 4096;

/// The purpose of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// All access.
    Admin,
    /// The access that the rules grant to an account.
    User,
    /// The access of a worker or a metrics collector.
    Service,
    /// Verifies the address of an account.
    Verification,
    /// Sets a new password.
    Reset,
    /// Changes the address of an account.
    Email,
    /// Downloads protected files that its owner may view.
    File,
    /// Replicates from the master.
    Replica,
}

/// The content of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Id of the account.
    pub subject: String,
    pub purpose: Purpose,
    /// Must equal the current key of the account.
    pub key: String,
    /// Unix milliseconds.
    pub expires_ms: i64,
    pub extra: ExtraClaims,
}

impl Claims {
    /// True for a token of an admin.
    pub fn is_of_superuser(&self) -> bool {
        self.extra.collection.as_deref() == Some(SUPERUSERS_ID)
    }
}

/// Groups of purposes, each with its own key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Account,
    Mail,
    Service,
    File,
    Replica,
}

impl Family {
    const ALL: [Family; 5] = [
        Family::Account,
        Family::Mail,
        Family::Service,
        Family::File,
        Family::Replica,
    ];

    /// The label of the key derivation. Clients that sign tokens use the same string.
    fn label(self) -> &'static str {
        match self {
            Family::Account => "vski account tokens",
            Family::Mail => "vski mail tokens",
            Family::Service => "vski service tokens",
            Family::File => "vski file tokens",
            Family::Replica => "vski replica tokens",
        }
    }
}

impl Purpose {
    fn family(self) -> Family {
        match self {
            Purpose::Admin | Purpose::User => Family::Account,
            Purpose::Verification | Purpose::Reset | Purpose::Email => Family::Mail,
            Purpose::Service => Family::Service,
            Purpose::File => Family::File,
            Purpose::Replica => Family::Replica,
        }
    }
}

#[derive(Clone)]
pub struct TokenKeys([SigningKey; Family::ALL.len()]);

impl TokenKeys {
    /// Derives the keys from the secret of a server.
    pub fn new(secret: &[u8]) -> TokenKeys {
        TokenKeys(Family::ALL.map(|family| {
            let key = crypto::derive_key(secret, &[], family.label().as_bytes());
            SigningKey::new(&key)
        }))
    }

    fn of(&self, family: Family) -> &SigningKey {
        &self.0[family as usize]
    }
}

/// Claims that only some tokens have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraClaims {
    /// The database of an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The id of its collection. Clients of PocketBase read it.
    #[serde(
        default,
        rename = "collectionId",
        skip_serializing_if = "Option::is_none"
    )]
    pub collection: Option<String>,
    /// False in a token that cannot be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshable: Option<bool>,
    /// The new address of an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The name of a service token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The workflows that a service token gives access to; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflows: Option<BTreeSet<String>>,
}

/// The payload in its JSON form. Times are in seconds, as the standard requires.
#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    /// The same value where clients of PocketBase read it.
    #[serde(default)]
    id: String,
    purpose: Purpose,
    /// `auth` in tokens that sign in, where clients of PocketBase read it.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    key: String,
    exp: i64,
    #[serde(flatten)]
    extra: ExtraClaims,
}

/// Signs claims.
pub fn sign(keys: &TokenKeys, claims: &Claims) -> String {
    let signs_in = matches!(claims.purpose, Purpose::Admin | Purpose::User);
    let payload = Payload {
        sub: claims.subject.clone(),
        id: claims.subject.clone(),
        purpose: claims.purpose,
        kind: signs_in.then(|| "auth".to_owned()),
        key: claims.key.clone(),
        exp: claims.expires_ms / 1000,
        extra: claims.extra.clone(),
    };
    sign_json(keys.of(claims.purpose.family()), &payload)
}

/// Signs any payload of strings and numbers. Only one with a purpose is ever accepted.
pub fn sign_json(key: &SigningKey, payload: &impl Serialize) -> String {
    let payload = serde_json::to_vec(payload).expect("plain texts and numbers have a JSON form");
    let signed = format!("{HEADER}.{}", crypto::base64url(&payload));
    let signature = crypto::base64url(&key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The claims of a token with a valid signature, one of these purposes, and an expiry after
/// `now_ms`.
pub fn read(keys: &TokenKeys, token: &str, purposes: &[Purpose], now_ms: i64) -> Option<Claims> {
    if token.len() > BYTES_MAX {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let payload = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
    let signature = crypto::from_base64url(signature)?;
    let is_wanted = |family: &Family| purposes.iter().any(|it| it.family() == *family);
    let mut wanted = Family::ALL.into_iter().filter(is_wanted);
    let family = wanted.find(|it| keys.of(*it).verify(signed.as_bytes(), &signature))?;
    let payload: Payload = serde_json::from_slice(&crypto::from_base64url(payload)?).ok()?;
    let expires_ms = payload.exp.checked_mul(1000)?;
    let is_for_this = purposes.contains(&payload.purpose) && payload.purpose.family() == family;
    (is_for_this && now_ms < expires_ms).then_some(Claims {
        subject: payload.sub,
        purpose: payload.purpose,
        key: payload.key,
        expires_ms,
        extra: payload.extra,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            subject: "s".to_owned(),
            purpose: Purpose::Admin,
            key: "k".to_owned(),
            expires_ms: 10_000,
            extra: ExtraClaims::default(),
        }
    }

    const ADMIN: &[Purpose] = &[Purpose::Admin];

    #[test]
    fn a_token_is_read_back_until_it_expires() {
        let key = TokenKeys::new(&[1; 32]);
        let token = sign(&key, &claims());
        assert_eq!(read(&key, &token, ADMIN, 9_999), Some(claims()));
        assert_eq!(read(&key, &token, ADMIN, 10_000), None);
        assert_eq!(
            read(&key, &token, &[Purpose::User, Purpose::Reset], 0),
            None
        );
    }

    #[test]
    fn the_key_for_one_kind_of_tokens_signs_no_other() {
        let keys = TokenKeys::new(&[1; 32]);
        let all = [
            Purpose::Admin,
            Purpose::User,
            Purpose::Service,
            Purpose::Verification,
            Purpose::Reset,
            Purpose::Email,
            Purpose::File,
            Purpose::Replica,
        ];
        for purpose in all {
            for family in Family::ALL {
                let claims = Claims {
                    purpose,
                    ..claims()
                };
                // Each family has the key of `family`.
                let wrong = TokenKeys(Family::ALL.map(|_| keys.of(family).clone()));
                let token = sign(&wrong, &claims);
                let is_read = read(&keys, &token, &all, 0).is_some();
                assert_eq!(is_read, purpose.family() == family, "{purpose:?}");
            }
        }
    }

    #[test]
    fn what_was_tampered_with_is_not_read() {
        let key = TokenKeys::new(&[1; 32]);
        let token = sign(&key, &claims());
        assert_eq!(read(&TokenKeys::new(&[2; 32]), &token, ADMIN, 0), None);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(read(&key, &changed, ADMIN, 0), None, "byte {at}");
        }
        let none = crypto::base64url(br#"{"alg":"none","typ":"JWT"}"#);
        let payload = token.split('.').nth(1).unwrap();
        for forged in [
            format!("{none}.{payload}."),
            format!("{none}.{payload}"),
            String::new(),
            "..".to_owned(),
        ] {
            assert_eq!(read(&key, &forged, ADMIN, 0), None, "{forged}");
        }
    }
}
