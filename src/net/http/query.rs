//! Query strings and percent-encoding.
//!
//! Decoding follows browsers: `+` is a space in a query (not in a path), and an invalid `%` escape
//! stands for itself. A query that does not decode to UTF-8, or has more than [`PAIRS_MAX`] pairs,
//! is refused. Order and repetitions of the pairs are kept.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::base::error::{Error, Result};

/// Most pairs in one query string.
pub const PAIRS_MAX: usize = 100;

/// Parses a raw query string. A name without `=` has an empty value. Empty pairs are skipped.
pub fn parse(query: &str) -> Result<Vec<(String, String)>> {
    parse_up_to(query, PAIRS_MAX)
}

/// Parses a query string, or a form in a request body, of at most `pairs_max` pairs.
pub fn parse_up_to(query: &str, pairs_max: usize) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        if pairs.len() == pairs_max {
            return Err(Error::invalid(format!(
                "Too many parameters; the limit is {pairs_max}."
            )));
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((form_decode(name)?, form_decode(value)?));
    }
    Ok(pairs)
}

/// Decodes a segment of a path. Returns none if the result is not UTF-8. It may contain any
/// character, including `/` and NUL.
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

fn form_decode(text: &str) -> Result<String> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let spaced = text.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::invalid("A parameter is not valid UTF-8.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: &[(&str, &str)]) {
        let pairs = parse(query).unwrap();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(pairs, expected, "{query}");
    }

    #[test]
    fn pairs_are_taken_apart_and_decoded() {
        check("", &[]);
        check("a=1&b=2", &[("a", "1"), ("b", "2")]);
        check("a=1&a=2", &[("a", "1"), ("a", "2")]);
        check("a", &[("a", "")]);
        check("=x", &[("", "x")]);
        check("&&a=b&", &[("a", "b")]);
        check("a=b=c", &[("a", "b=c")]);
        check(
            "filter=title%20%3D%20'x%26y'",
            &[("filter", "title = 'x&y'")],
        );
        check("q=a+b%2Bc", &[("q", "a b+c")]);
        check("q=%C3%A9", &[("q", "\u{e9}")]);
        check(
            "q=100%&r=%zz&s=%4",
            &[("q", "100%"), ("r", "%zz"), ("s", "%4")],
        );
        check("q=%00", &[("q", "\0")]);
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        for query in ["a=%ff", "a=%C3", "%80=a", "a=%C0%AF"] {
            assert!(parse(query).is_err(), "{query}");
        }
        assert_eq!(percent_decode("%ff"), None);
    }

    #[test]
    fn the_number_of_pairs_is_bounded() {
        assert_eq!(parse(&"a=b&".repeat(100)).unwrap().len(), 100);
        assert!(parse(&"a=b&".repeat(101)).is_err());
    }

    #[test]
    fn paths_decode_without_plus() {
        assert_eq!(percent_decode("a+b").as_deref(), Some("a+b"));
        assert_eq!(percent_decode("a%2Fb%00%25").as_deref(), Some("a/b\0%"));
    }
}
