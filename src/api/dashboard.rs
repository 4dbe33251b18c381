//! The dashboard at `/_/`: its files are compressed in the program, see `ui/build.rs`.
//!
//! The page itself is never cached, and names its files with the revision in their path, so these
//! are cached for ever. The page may load from this server only and runs no inline script or style.

use super::answer::no_path;
use super::asset::Asset;
use super::call::Call;
use crate::base::error::{Error, Result};
use crate::net::http::{Response, range};

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The path of the dashboard.
const PATH: &str = "/_/";
const PAGE: &str = "index.html";
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri \
                      'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers the page for each path that is not a file, since the page finds its own way.
pub fn get(call: &Call<'_>) -> Result<Response> {
    if !call.has_dashboard {
        return Err(no_path());
    }
    let rest = call.param("rest");
    match rest.split_once('/') {
        Some((REVISION, path)) => file(call, path),
        // A page of another version of the program asks for its own files.
        Some((first, _)) if is_revision(first) => Err(Error::not_found(
            "The dashboard has been updated; reload the page.",
        )),
        _ => page(call),
    }
}

/// Leads a browser to the dashboard and tells other clients what runs here.
pub fn root(call: &Call<'_>) -> Result<Response> {
    let accept = call.request.header("Accept").unwrap_or_default();
    if call.has_dashboard && accept.contains("text/html") {
        return Ok(redirect());
    }
    Ok(Response::text(
        200,
        "vski is running. The API is under /api/; vski routes lists its endpoints.\n",
    ))
}

/// The address at which the installation of the original begins.
pub fn installer(call: &Call<'_>) -> Result<Response> {
    match call.has_dashboard {
        true => Ok(redirect()),
        false => Err(no_path()),
    }
}

fn redirect() -> Response {
    Response::empty(302)
        .with_header("Location", PATH)
        .with_header("Cache-Control", "no-store")
        .with_header("Vary", "Accept")
}

fn page(call: &Call<'_>) -> Result<Response> {
    Ok(find(PAGE)?
        .response(call)?
        .with_header("Cache-Control", "no-cache")
        .with_header("Content-Security-Policy", POLICY)
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("Cross-Origin-Opener-Policy", "same-origin")
        .with_header("X-Frame-Options", "DENY"))
}

fn file(call: &Call<'_>, path: &str) -> Result<Response> {
    let known = call.request.header("If-None-Match");
    let response = match range::is_match(known, REVISION) {
        true => Response::empty(304),
        false => find(path)?.response(call)?,
    };
    Ok(response
        .with_header("ETag", format!("\"{REVISION}\""))
        .with_header("Cache-Control", "public, max-age=31536000, immutable")
        .quietly())
}

fn find(path: &str) -> Result<&'static Asset> {
    let found = ASSETS.binary_search_by(|asset| asset.path.cmp(path));
    found.map(|index| &ASSETS[index]).map_err(|_| no_path())
}

fn is_revision(segment: &str) -> bool {
    segment.len() == REVISION.len() && segment.bytes().all(|byte| byte.is_ascii_hexdigit())
}
