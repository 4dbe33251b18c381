//! Tokens: JWTs signed with HMAC-SHA256 (RFC 7519, RFC 7515), bound to a purpose.
//!
//! One algorithm, one header: a token with any other header is not read at all, so none can choose
//! its own algorithm. The purpose is a claim that is checked, so a token for one thing never opens
//! another. Purposes of different kinds have keys of their own, derived from the secret of the server.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::base::crypto;
use crate::base::crypto::SigningKey;

/// base64url of `{"alg":"HS256","typ":"JWT"}`.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";
/// Longest token that is looked at.
const BYTES_MAX: usize = 4096;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Everything.
    Admin,
    /// What the rules let an account do.
    User,
    /// What a worker or a collector of metrics does.
    Service,
    /// Says that the address of an account is its owner's.
    Verification,
    /// Sets a new password.
    Reset,
    /// Moves an account to another address.
    Email,
    /// Downloads what its owner may see.
    File,
    /// Follows the master.
    Replica,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Id of the account.
    pub subject: String,
    pub purpose: Purpose,
    /// Must be the account's present one.
    pub key: String,
    /// Milliseconds since 1970.
    pub expires_ms: i64,
    pub extra: ExtraClaims,
}

/// Kinds of tokens, each with a key of its own.
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

    /// The purpose that its key is derived for; clients that sign tokens use the same text.
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

/// The keys that tokens are signed with.
#[derive(Clone)]
pub struct TokenKeys([SigningKey; Family::ALL.len()]);

impl TokenKeys {
    /// The keys that belong to the secret of a server.
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

/// What only some tokens say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraClaims {
    /// The database of an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The id of its collection. PocketBase's clients look at it.
    #[serde(
        default,
        rename = "collectionId",
        skip_serializing_if = "Option::is_none"
    )]
    pub collection: Option<String>,
    /// The address that an account is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// What a service token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The workflows that a service token opens, when it does not open all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflows: Option<BTreeSet<String>>,
}

/// The payload as it is sent; times in seconds, as the standard has them.
#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    /// The same where PocketBase's clients look for it.
    #[serde(default)]
    id: String,
    purpose: Purpose,
    /// `auth` where PocketBase's clients look for it: in tokens that sign somebody in.
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

/// Signs any payload of plain texts and numbers; only one with a purpose is ever read back.
pub fn sign_json(key: &SigningKey, payload: &impl Serialize) -> String {
    let payload = serde_json::to_vec(payload).expect("plain texts and numbers have a JSON form");
    let signed = format!("{HEADER}.{}", crypto::base64url(&payload));
    let signature = crypto::base64url(&key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The claims of a token that is whole, ours, for one of these purposes and not expired.
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
                // Every key is that of this kind.
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
