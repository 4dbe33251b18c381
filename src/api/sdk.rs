//! The JavaScript client at `/sdk.js`: the modules of `sdk/js` as one, joined and compressed when
//! the program is built, see `sdk/js/join.rs`.

use super::asset::Asset;
use super::call::Call;
use crate::base::error::Result;
use crate::net::http::{Response, range};

include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The client. It is checked with each use, and kept for good under the version of the server.
pub fn client(call: &Call<'_>) -> Result<Response> {
    let known = call.request.header("If-None-Match");
    let response = match range::is_match(known, SDK_REVISION) {
        true => Response::empty(304),
        false => SDK.response(call)?,
    };
    let pairs = call.query()?;
    let version = pairs.iter().find(|(name, _)| name == "v");
    let is_versioned = version.is_some_and(|(_, version)| version == env!("CARGO_PKG_VERSION"));
    let cache = match is_versioned {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    Ok(response
        .with_header("ETag", format!("\"{SDK_REVISION}\""))
        .with_header("Cache-Control", cache))
}

#[cfg(test)]
#[path = "../../sdk/js/join.rs"]
mod join;
