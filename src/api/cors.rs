//! Which pages of other sites a browser lets call the API (the Fetch standard, "CORS protocol"), and which
//! requests of such pages are refused.
//!
//! Nothing depends on cookies here: whoever calls brings a token of their own. So credentials in the
//! sense of that standard are never allowed, and `*` is safe to allow. A browser sends "simple" requests
//! without asking first and only keeps the answer from the page, so those that change something are
//! refused here.

use crate::base::error::{Error, Kind, Result};
use crate::net::http::{Method, Request, Response, media_type};

/// How long a browser may remember what is allowed; more than a day none does.
const REMEMBER_SECONDS: &str = "86400";
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";
/// Headers of requests that a page may send when the browser does not name them.
const ALLOWED: &str = "Authorization, Content-Type, X-API-Key, If-Match, If-None-Match";
/// Headers of answers that a page may read besides the ordinary ones.
const EXPOSED: &str = "X-Request-Id, X-Ignored-Fields, X-Vski-Version, X-Replica-Id, Retry-After, ETag, \
                       Content-Range, Accept-Ranges, Content-Disposition, Content-Length";
/// Media types that a page may send anywhere without asking first.
const SIMPLE_TYPES: [&str; 3] = [
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/plain",
];

/// The origins that are allowed.
pub struct Cors {
    /// Empty if all are.
    origins: Vec<String>,
    allows_all: bool,
    /// The origin of `PUBLIC_URL`, if that is set.
    own: Option<String>,
}

impl Cors {
    /// Origins such as `https://app.example`, or `*` for all; and where clients reach this server, if that
    /// is known.
    pub fn new(origins: Vec<String>, public_url: Option<&str>) -> Cors {
        let allows_all = origins.iter().any(|origin| origin == "*");
        Cors {
            origins: if allows_all { Vec::new() } else { origins },
            allows_all,
            own: public_url.map(|url| origin_of(url).to_owned()),
        }
    }

    /// The answer to a browser that asks before it sends what the page wants.
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

    /// Says to the browser that the page may read the answer, if it may. Caches must know if the next
    /// page gets another answer, also when this request names no origin.
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

    /// Refuses a request that a page of another site has made a browser send without asking. Browsers
    /// ask before they send credentials, other methods than POST or other media types.
    pub fn check_page(&self, request: &Request) -> Result<()> {
        let header = |name| request.header(name);
        let is_asked_first = request.method != Method::Post
            || !header("Content-Type").is_none_or(is_simple)
            || header("X-API-Key").is_some()
            || header("Authorization").is_some();
        if is_asked_first || self.allows_all || !self.is_foreign(request) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Forbidden,
            "A page of another origin may not send this: CORS_ORIGINS must name its origin, or \
             PUBLIC_URL if it is a page of this server.",
        ))
    }

    /// True if a browser sent this for a page of another site that was not named, or for a page whose
    /// host name leads here and is not ours (DNS rebinding).
    pub fn is_suspicious(&self, request: &Request) -> bool {
        let is_ours = |host: &str| {
            let own = self.own.as_deref().map(authority);
            own.is_some_and(|own| own.eq_ignore_ascii_case(host)) || is_fixed(host)
        };
        self.is_foreign(request) || !request.header("Host").is_none_or(is_ours)
    }

    /// True if a browser sent this for a page of an origin that is neither ours nor named.
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
        // Pages cannot set it. It is right also where a proxy has changed the host.
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

/// The scheme and the host with its port, of a URL.
fn origin_of(url: &str) -> &str {
    let host = authority(url);
    let end = url.find("://").map_or(0, |at| at + 3) + host.len();
    &url[..end]
}

/// The host with its port, of a URL or an origin.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// True if no name server can make this host, which may have a port, lead elsewhere: addresses and the names
/// of the loopback interface.
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
