//! The one page that the server has for people: where links in mails lead to.
//!
//! The token is behind the `#` of the address, which browsers do not send: it is in no log. The
//! page loads nothing from anywhere and talks to its own server only.

use super::Call;
use crate::base::error::Result;
use crate::base::{crypto, ids};
use crate::net::http::Response;

const CONFIRM: &str = include_str!("confirm.html");

pub fn confirm(_: &Call<'_>) -> Result<Response> {
    let nonce = crypto::base64url(&ids::random_bytes::<16>()?);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = CONFIRM.replace("NONCE", &nonce).into_bytes();
    Ok(Response::with_body(200, "text/html; charset=utf-8", page)
        .with_header("Content-Security-Policy", policy)
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("X-Frame-Options", "DENY")
        .with_header("Cache-Control", "no-store"))
}
