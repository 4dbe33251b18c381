//! URLs of providers and of applications.
//!
//! A redirect to an application is admitted only if its origin and path are those of a configured
//! target. The URL is compared in its parsed form, and that form is what the browser is sent to, so
//! that no two parsers can differ about it.

use url::Url;
use url::form_urlencoded::Serializer;

/// Longest URL.
const URL_BYTES_MAX: usize = 2048;
/// Schemes that run or show something in the browser itself.
const REFUSED_SCHEMES: [&str; 6] = ["javascript", "data", "vbscript", "file", "blob", "about"];

/// True if a provider can be asked at this URL.
pub(super) fn is_provider_url(text: &str) -> bool {
    let parsed = parse(text);
    parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// True if an application may be a target of redirects at this URL, which has no query.
pub(super) fn is_redirect_target(text: &str) -> bool {
    let parsed = parse(text);
    parsed.is_some_and(|url| url.query().is_none())
}

/// A URL without user, password and fragment, and without characters that parsers drop or change.
fn parse(text: &str) -> Option<Url> {
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if text.len() > URL_BYTES_MAX || text.contains(is_odd) {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    let is_safe = is_plain && !REFUSED_SCHEMES.contains(&url.scheme());
    let is_web = matches!(url.scheme(), "http" | "https");
    // Browsers read `https:host` and `https:/host` as `https://host`.
    let is_absolute = !is_web || text.get(url.scheme().len()..)?.starts_with("://");
    (is_safe && is_absolute && url.fragment().is_none()).then_some(url)
}

/// The URL to which the browser may be sent, in its parsed form. None if no target has its origin
/// and path.
pub fn admitted_redirect(wanted: &str, targets: &[&str]) -> Option<String> {
    let url = parse(wanted)?;
    let is_it = |target: &&str| {
        Url::parse(target).is_ok_and(|target| {
            target.scheme() == url.scheme()
                && target.host_str() == url.host_str()
                && target.port_or_known_default() == url.port_or_known_default()
                && target.path() == url.path()
        })
    };
    targets.iter().any(is_it).then(|| url.into())
}

/// Adds parameters to a URL that was parsed before.
pub fn with_parameters(url: &str, parameters: &[(&str, &str)]) -> String {
    let added = encode_form(parameters);
    let (front, separator) = match url.split_once('?') {
        None => (url, "?"),
        Some((_, "")) => (url, ""),
        Some(_) => (url, "&"),
    };
    format!("{front}{separator}{added}")
}

/// Parameters in the encoding of forms and queries.
pub fn encode_form(parameters: &[(&str, &str)]) -> String {
    let mut form = Serializer::new(String::new());
    form.extend_pairs(parameters);
    form.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: [&str; 3] = [
        "https://app.example/signed-in",
        "http://localhost:5173/",
        "com.example.app:/signed-in",
    ];

    #[test]
    fn a_redirect_has_the_origin_and_path_of_a_target() {
        for admitted in [
            "https://app.example/signed-in",
            "https://APP.example:443/signed-in?to=%2Fhome",
            "http://localhost:5173",
            "com.example.app:/signed-in?a=b",
        ] {
            assert!(
                admitted_redirect(admitted, &TARGETS).is_some(),
                "{admitted}"
            );
        }
    }

    #[test]
    fn every_form_of_an_open_redirect_is_refused() {
        for refused in [
            "",
            "/signed-in",
            "//app.example/signed-in",
            "https://evil.example/signed-in",
            "https://app.example.evil.example/signed-in",
            "https://app.example@evil.example/signed-in",
            "https://evil.example\\@app.example/signed-in",
            "https://evil.example#@app.example/signed-in",
            "https://user@app.example/signed-in",
            "https://app.example/signed-in#fragment",
            "https://app.example/signed-in/",
            "https://app.example/signed-in/../other",
            "https://app.example/%73igned-in",
            "https://app.example:8443/signed-in",
            "http://app.example/signed-in",
            "https:app.example/signed-in",
            "https:/app.example/signed-in",
            "https:\\\\app.example/signed-in",
            " https://app.example/signed-in",
            "https://app.example/signed-in\n",
            "https://app.exa\tmple/signed-in",
            "javascript://app.example/signed-in",
            "javascript:alert(1)",
            "data:text/html,x",
            "com.example.app:/other",
            "com.example.app://signed-in",
        ] {
            assert_eq!(admitted_redirect(refused, &TARGETS), None, "{refused:?}");
        }
    }

    #[test]
    fn parameters_are_added_behind_those_that_are_there() {
        let add = |url: &str| with_parameters(url, &[("code", "a&b"), ("state", "c d")]);
        assert_eq!(add("https://a/b"), "https://a/b?code=a%26b&state=c+d");
        assert_eq!(
            add("https://a/b?c=d"),
            "https://a/b?c=d&code=a%26b&state=c+d"
        );
        assert_eq!(add("https://a/b?"), "https://a/b?code=a%26b&state=c+d");
    }
}
