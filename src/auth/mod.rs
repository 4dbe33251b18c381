//! Who is who: turns credentials into an identity, and keeps the admins.
//!
//! `password` hashes and verifies, `token` signs and reads JWTs, `admins` is the table of those
//! who pass every rule. Other accounts come with auth collections.

use std::path::Path;
use std::sync::Arc;

use crate::clock;
use crate::crypto::SigningKey;
use crate::db::Database;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::rules::Identity;
use admins::Admin;
use token::Claims;
use token::Purpose;

pub mod admins;
pub mod password;
mod secret;
mod token;

/// Signs tokens and reads them back.
pub struct Auth {
    default: Arc<Database>,
    key: SigningKey,
    token_ms: i64,
}

/// A fresh token and whose it is.
pub struct SignedIn {
    pub token: String,
    pub admin: Admin,
}

impl Auth {
    /// Takes the secret that was configured, or the one kept in the data directory.
    pub fn open(
        default: Arc<Database>,
        data_dir: &Path,
        configured: Option<&str>,
        token_hours: u32,
    ) -> Result<Auth> {
        let key = match configured {
            Some(secret) => SigningKey::new(secret.as_bytes()),
            None => SigningKey::new(&secret::load_or_create(&data_dir.join("secret"))?),
        };
        let token_ms = i64::from(token_hours) * 3_600_000;
        Ok(Auth {
            default,
            key,
            token_ms,
        })
    }

    /// The identity behind an `Authorization` header, with or without `Bearer`.
    pub fn identify(&self, header: Option<&str>) -> Result<Identity> {
        let token = header.unwrap_or_default().trim();
        let token = match token.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("Bearer ") => token[7..].trim_start(),
            _ => token,
        };
        if token.is_empty() {
            return Ok(Identity::Nobody);
        }
        let claims = token::read(&self.key, token, Purpose::Admin, clock::now_ms())
            .ok_or_else(wrong_token)?;
        // Looked up each time: a changed password ends older tokens at once, also when the
        // command line changed it.
        match admins::by_id(&self.default, &claims.subject)? {
            Some(admin) if admin.token_key == claims.key => Ok(Identity::Admin(admin.id)),
            _ => Err(wrong_token()),
        }
    }

    /// Makes the very first admin; refused once there is one.
    pub fn init(&self, email: &str, password: &str) -> Result<SignedIn> {
        let admin = admins::create(&self.default, email, password, admins::When::None)?;
        self.sign_in(admin)
    }

    /// Signs an admin in. Wrong addresses and wrong passwords get the same answer, and cost the
    /// same work.
    pub fn login(&self, email: &str, password: &str) -> Result<SignedIn> {
        let found = admins::find(&self.default, email)?;
        let hash = found.as_ref().map(|admin| admin.password_hash.as_str());
        match (password::verify(password, hash)?, found) {
            (true, Some(admin)) => self.sign_in(admin),
            _ => Err(Error::new(
                Kind::Unauthenticated,
                "Wrong e-mail address or password.",
            )),
        }
    }

    /// A fresh token for whoever asks with a valid one.
    pub fn refresh(&self, id: &str) -> Result<SignedIn> {
        let admin = admins::by_id(&self.default, id)?.ok_or_else(wrong_token)?;
        self.sign_in(admin)
    }

    fn sign_in(&self, admin: Admin) -> Result<SignedIn> {
        let claims = Claims {
            subject: admin.id.clone(),
            purpose: Purpose::Admin,
            key: admin.token_key.clone(),
            expires_ms: clock::now_ms() + self.token_ms,
        };
        let token = token::sign(&self.key, &claims);
        Ok(SignedIn { token, admin })
    }
}

fn wrong_token() -> Error {
    Error::new(
        Kind::Unauthenticated,
        "The token is not valid or has expired.",
    )
}
