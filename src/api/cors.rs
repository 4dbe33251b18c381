//! Which pages of other sites a browser lets call the API (the Fetch standard, "CORS protocol").
//!
//! Nothing depends on cookies here: whoever calls brings a token of their own. So credentials in the
//! sense of that standard are never allowed, and `*` is safe to allow.

use crate::http::Method;
use crate::http::Request;
use crate::http::Response;

/// How long a browser may remember what is allowed; more than a day none does.
const REMEMBER_SECONDS: &str = "86400";
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// Headers of answers that a page may read besides the ordinary ones.
const EXPOSED: &str = "X-Request-Id, X-Ignored-Fields, Retry-After, ETag";

/// The origins that are allowed.
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// Origins such as `https://app.example`, or `*` for all.
    pub fn new(origins: Vec<String>) -> Cors {
        Cors { origins }
    }

    /// The answer to a browser that asks before it sends what the page wants.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.method == Method::Options
            && request.header("Access-Control-Request-Method").is_some();
        if !asks || self.origins.is_empty() {
            return None;
        }
        let response = Response::empty(204).with_header("Vary", "Origin");
        if self.allowed(request).is_none() {
            return Some(response);
        }
        let headers = request.header("Access-Control-Request-Headers");
        let headers = headers.unwrap_or("Authorization, Content-Type, X-API-Key");
        Some(
            response
                .with_header("Access-Control-Allow-Methods", METHODS)
                .with_header("Access-Control-Allow-Headers", headers)
                .with_header("Access-Control-Max-Age", REMEMBER_SECONDS),
        )
    }

    /// Says to the browser that the page may read the answer, if it may.
    pub fn allow(&self, request: &Request, response: Response) -> Response {
        match self.allowed(request) {
            Some("*") => response
                .with_header("Access-Control-Allow-Origin", "*")
                .with_header("Access-Control-Expose-Headers", EXPOSED),
            Some(origin) => response
                .with_header("Access-Control-Allow-Origin", origin)
                .with_header("Access-Control-Expose-Headers", EXPOSED)
                .with_header("Vary", "Origin"),
            None => response,
        }
    }

    fn allowed<'a>(&'a self, request: &'a Request) -> Option<&'a str> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = request.header("Origin")?;
        let is_allowed =
            |allowed: &&String| *allowed == "*" || allowed.eq_ignore_ascii_case(origin);
        let allowed = self.origins.iter().find(is_allowed)?;
        Some(if allowed == "*" { "*" } else { origin })
    }
}
