//! Signers of short-lived tokens. A replica sends one to its master, and the command line to a
//! server with the same secret.

use std::path::Path;

use super::token::{Claims, ExtraClaims, Purpose, TokenKeys};
use super::{secret, token};
use crate::base::clock;
use crate::base::error::{Result, ResultExt as _};

/// Lifetime of the token of a replica or of the command line.
pub const REPLICA_TOKEN_MS: i64 = 5 * 60_000;

/// The subject of tokens of the command line.
pub const OPERATOR: &str = "vski-cli";

/// Returns a new token that is valid for some minutes.
pub type Sign = Box<dyn Fn() -> String + Send + Sync>;

/// A signer for the command line, with the secret of the server.
pub fn operator_signer(configured: Option<&str>, data_dir: &Path) -> Result<Sign> {
    let keys = TokenKeys::new(&operator_secret(configured, data_dir)?);
    Ok(Box::new(replica_signer(keys, OPERATOR.to_owned())))
}

/// A signer of the service tokens with which the command line acts on runs. They belong to no API
/// key and no admin; the server itself signs none of that kind.
pub fn operator_worker(configured: Option<&str>, data_dir: &Path) -> Result<Sign> {
    let keys = TokenKeys::new(&operator_secret(configured, data_dir)?);
    let operator = OPERATOR.to_owned();
    Ok(Box::new(signer(keys, operator, Purpose::Service)))
}

pub fn operator_secret(configured: Option<&str>, data_dir: &Path) -> Result<Vec<u8>> {
    match configured {
        Some(secret) => Ok(secret.as_bytes().to_vec()),
        None => {
            let path = data_dir.join("secret");
            let message = "JWT_SECRET is not set; set it to the secret of the server";
            secret::load(&path).context(message)
        }
    }
}

pub fn replica_signer(
    keys: TokenKeys,
    subject: String,
) -> impl Fn() -> String + Send + Sync + 'static {
    signer(keys, subject, Purpose::Replica)
}

fn signer(
    keys: TokenKeys,
    subject: String,
    purpose: Purpose,
) -> impl Fn() -> String + Send + Sync + 'static {
    move || {
        let claims = Claims {
            subject: subject.clone(),
            purpose,
            key: String::new(),
            expires_ms: clock::now_ms() + REPLICA_TOKEN_MS,
            extra: ExtraClaims::default(),
        };
        token::sign(&keys, &claims)
    }
}
