//! Makers of short-lived tokens: a replica shows one to its master, and the command line to a server
//! on the same secret.

use std::path::Path;

use super::token::{Claims, ExtraClaims, Purpose, TokenKeys};
use super::{secret, token};
use crate::base::clock;
use crate::base::error::{Result, ResultExt as _};

/// Life of the token of a replica or of the command line.
pub const REPLICA_TOKEN_MS: i64 = 5 * 60_000;

/// The name by which the command line is known to a server.
pub const OPERATOR: &str = "vski-cli";

/// Makes tokens that are good for some minutes.
pub type Sign = Box<dyn Fn() -> String + Send + Sync>;

/// Makes the tokens by which the command line asks a server on the same secret.
pub fn operator_signer(configured: Option<&str>, data_dir: &Path) -> Result<Sign> {
    let keys = TokenKeys::new(&operator_secret(configured, data_dir)?);
    Ok(Box::new(replica_signer(keys, OPERATOR.to_owned())))
}

/// Makes the tokens by which the command line works on the runs of a server on the same secret: service
/// tokens that no key and no admin stands behind. The server makes none of that kind.
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
            let forgotten = "JWT_SECRET is not set; it has to be that of the server";
            secret::load(&path).context(forgotten)
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
