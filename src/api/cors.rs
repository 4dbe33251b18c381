//! Cross-origin requests of browsers: the "CORS protocol" of the Fetch standard, and the refusal of
//! requests that the standard lets any page send.
//!
//! The API uses no cookies; each caller sends a token. So credentials in the sense of the standard
//! are never allowed, and `*` is safe to allow. A browser sends "simple" requests without a
//! preflight and only hides the answer from the page, so simple requests that change something are
//! refused here.

use crate::base::error::{Error, Kind, Result};
use crate::net::http::{Method, Request, Response, media_type};

/// A browser may cache a preflight this long. No browser keeps one for more than a day.
const REMEMBER_SECONDS: &str = "86400";
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// Headers that a page may send, if the preflight names none.
const ALLOWED: &str = "Authorization, Content-Type, X-API-Key, If-Match, If-None-Match";
/// Headers of answers that a page may read, besides those that the standard allows.
const EXPOSED: &str = "X-Request-Id, X-Ignored-Fields, X-Warnings, X-Vski-Version, X-Replica-Id, Retry-After, ETag, \
                       Content-Range, Accept-Ranges, Content-Disposition, Content-Length";
/// Media types that a page may send to any origin without a preflight.
const SIMPLE_TYPES: [&str; 3] = [
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/plain",
];

/// The allowed origins.
pub struct Cors {
    /// Empty if all origins are allowed.
    origins: Vec<String>,
    allows_all: bool,
    /// The origin of `PUBLIC_URL`, if it is set.
    own: Option<String>,
}

impl Cors {
    /// `origins` are such as `https://app.example`, or `*` for all. `public_url` is the URL at
    /// which clients reach this server, if it is known.
    pub fn new(origins: Vec<String>, public_url: Option<&str>) -> Cors {
        let allows_all = origins.iter().any(|origin| origin == "*");
        Cors {
            origins: if allows_all { Vec::new() } else { origins },
            allows_all,
            own: public_url.map(|url| origin_of(url).to_owned()),
        }
    }

    /// The answer to a preflight; none if the request is not one or no origin is allowed.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.method == Method::Options
            && request.header("Access-Control-Request-Method").is_some();
        if !asks || (self.origins.is_empty() && !self.allows_all) {
            return None;
        }
        let response = self.allow(request, Response::empty(204));
        if response.header("Access-Control-Allow-Origin").is_none() {
            return Some(response);
        }
        let headers = request.header("Access-Control-Request-Headers");
        let headers = headers.unwrap_or(ALLOWED);
        Some(
            response
                .with_header("Access-Control-Allow-Methods", METHODS)
                .with_header("Access-Control-Allow-Headers", headers)
                .with_header("Access-Control-Max-Age", REMEMBER_SECONDS),
        )
    }

    /// Adds the headers that let a page of an allowed origin read the answer. `Vary` is set even if
    /// the request names no origin, since a cache may serve the answer to a page that does.
    pub fn allow(&self, request: &Request, response: Response) -> Response {
        if self.allows_all {
            return response
                .with_header("Access-Control-Allow-Origin", "*")
                .with_header("Access-Control-Expose-Headers", EXPOSED);
        }
        if self.origins.is_empty() {
            return response;
        }
        let response = response.with_header("Vary", "Origin");
        match request.header("Origin").filter(|it| self.names(it)) {
            Some(origin) => response
                .with_header("Access-Control-Allow-Origin", origin)
                .with_header("Access-Control-Expose-Headers", EXPOSED),
            None => response,
        }
    }

    /// Refuses a simple request of a page of another site. A browser sends a preflight before
    /// credentials, before methods other than POST and before other media types.
    pub fn check_page(&self, request: &Request) -> Result<()> {
        let header = |name| request.header(name);
        let has_preflight = request.method != Method::Post
            || !header("Content-Type").is_none_or(is_simple)
            || header("X-API-Key").is_some()
            || header("Authorization").is_some();
        if has_preflight || self.allows_all || !self.is_foreign(request) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Forbidden,
            "Pages of this origin may not call the API; add the origin to CORS_ORIGINS, or set \
             PUBLIC_URL if it is the origin of this server.",
        ))
    }

    /// True if a browser sent this for a page of an origin that is not allowed, or for a page whose
    /// host name resolves to this server but is not its own (DNS rebinding).
    pub fn is_suspicious(&self, request: &Request) -> bool {
        let is_ours = |host: &str| {
            let own = self.own.as_deref().map(authority);
            own.is_some_and(|own| own.eq_ignore_ascii_case(host)) || is_fixed(host)
        };
        self.is_foreign(request) || !request.header("Host").is_none_or(is_ours)
    }

    /// True if a browser sent this for a page of an origin that is neither our own nor allowed.
    fn is_foreign(&self, request: &Request) -> bool {
        let origin = request.header("Origin");
        let is_own = |origin: &str| {
            let host = request.header("Host");
            host.is_some_and(|host| authority(origin).eq_ignore_ascii_case(host))
                || self
                    .own
                    .as_deref()
                    .is_some_and(|own| own.eq_ignore_ascii_case(origin))
        };
        if origin.is_some_and(|origin| is_own(origin) || self.names(origin)) {
            return false;
        }
        // A page cannot set this header, and it is correct even if a proxy changed the host.
        match request.header("Sec-Fetch-Site") {
            Some("same-origin" | "none") => false,
            Some(_) => true,
            None => origin.is_some(),
        }
    }

    fn names(&self, origin: &str) -> bool {
        let mut origins = self.origins.iter();
        origins.any(|named| named.eq_ignore_ascii_case(origin))
    }
}

fn is_simple(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    let mut simple = SIMPLE_TYPES.iter();
    media_type.is_empty() || simple.any(|it| it.eq_ignore_ascii_case(media_type))
}

/// The scheme, host and port of a URL.
fn origin_of(url: &str) -> &str {
    let host = authority(url);
    let end = url.find("://").map_or(0, |at| at + 3) + host.len();
    &url[..end]
}

/// The host and port of a URL or an origin.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// True if DNS does not decide the address of this host, which may have a port: it is an address or
/// a name of the loopback interface.
fn is_fixed(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_address = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    let name = name.to_ascii_lowercase();
    is_address || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_cannot_be_rebound_are_known() {
        for host in [
            "localhost",
            "LOCALHOST:3000",
            "app.localhost:80",
            "127.0.0.1",
            "127.0.0.1:3000",
            "192.0.2.7:3000",
            "[::1]",
            "[::1]:3000",
            "[2001:db8::1]:80",
        ] {
            assert!(is_fixed(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "[::1].evil.example",
            "[evil]",
            "1.2.3",
            "localhost:evil",
        ] {
            assert!(!is_fixed(host), "{host}");
        }
    }

    #[test]
    fn origins_are_cut_from_urls() {
        for (url, origin) in [
            ("https://app.example", "https://app.example"),
            ("https://app.example/", "https://app.example"),
            ("http://app.example:3000/a/b?c#d", "http://app.example:3000"),
            ("http://[::1]:3000/a", "http://[::1]:3000"),
        ] {
            assert_eq!(origin_of(url), origin);
            assert_eq!(authority(url), origin.split_once("://").unwrap().1);
        }
        assert_eq!(authority("null"), "");
    }

    #[test]
    fn media_types_are_simple_whatever_their_parameters() {
        for media_type in [
            "",
            "text/plain",
            "Text/Plain; charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
        ] {
            assert!(is_simple(media_type), "{media_type}");
        }
        for media_type in [
            "application/json",
            "application/json; a=text/plain",
            "image/png",
        ] {
            assert!(!is_simple(media_type), "{media_type}");
        }
    }
}
