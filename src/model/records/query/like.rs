//! The `~` operator as an SQL function: substring search, with `%` as wildcard, ignoring ASCII
//! case.
//!
//! In a pattern `\%`, `\_` and `\\` stand for their second character; any other backslash, and any
//! other `_`, stands for itself.
//!
//! SQLite's LIKE backtracks, so a few `%` against a long text can take hours inside one step that
//! cannot be interrupted. Here the parts between the `%` are searched from left to right, each at
//! its first occurrence, which finds a match if there is one. The time is linear in the length of
//! the text for any pattern, and the deadline of the connection is checked on the way.

use std::cell::RefCell;
use std::convert::Infallible;

use memchr::memmem::Finder;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use crate::base::error::Result;
use crate::store::db::Deadline;

pub const FUNCTION: &str = "vski_like";
/// Bytes to scan between two checks of the deadline.
const BYTES_PER_DEADLINE_CHECK: usize = 1 << 20;
/// Maximum capacity of the buffer kept for the next text.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Registers the function with a connection.
pub fn register(connection: &Connection, deadline: &Deadline) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    let matcher = RefCell::new(Matcher {
        deadline: deadline.clone(),
        text: Vec::new(),
        scanned: 0,
    });
    connection.create_scalar_function(FUNCTION, 2, flags, move |context| {
        // A missing text neither matches nor does not match.
        if [0, 1]
            .map(|at| context.get_raw(at))
            .contains(&ValueRef::Null)
        {
            return Ok(None);
        }
        let mut matcher = matcher.borrow_mut();
        // A constant pattern is prepared once per statement.
        let pattern = context.get_or_create_aux(1, |value| {
            let text = text_of(value);
            matcher.scanned += text.len();
            Ok::<_, Infallible>(Pattern::new(&text))
        })?;
        match context.get_raw(0) {
            ValueRef::Text(text) => matcher.matches(&pattern, text).map(Some),
            value => matcher.matches(&pattern, &text_of(value)).map(Some),
        }
    })?;
    Ok(())
}

fn text_of(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => Vec::new(),
        ValueRef::Integer(number) => number.to_string().into_bytes(),
        ValueRef::Real(number) => number.to_string().into_bytes(),
        ValueRef::Text(text) => text.to_vec(),
    }
}

/// Matches texts, with a buffer for their lower-case form.
struct Matcher {
    deadline: Deadline,
    /// The current text in lower case.
    text: Vec<u8>,
    /// Bytes scanned since the last check of the deadline.
    scanned: usize,
}

impl Matcher {
    /// True if the text matches; fails after the deadline.
    fn matches(&mut self, pattern: &Pattern, text: &[u8]) -> rusqlite::Result<bool> {
        self.text.clear();
        for piece in text.chunks(BYTES_PER_DEADLINE_CHECK) {
            self.scanned += piece.len();
            if self.scanned >= BYTES_PER_DEADLINE_CHECK {
                self.scanned = 0;
                if self.deadline.is_over() {
                    let code = ffi::Error::new(ffi::SQLITE_INTERRUPT);
                    return Err(rusqlite::Error::SqliteFailure(code, None));
                }
            }
            let begin = self.text.len();
            self.text.extend_from_slice(piece);
            self.text[begin..].make_ascii_lowercase();
        }
        let is_match = pattern.matches(&self.text);
        if self.text.capacity() > BUFFER_BYTES_MAX {
            self.text = Vec::new();
        }
        Ok(is_match)
    }
}

/// A lower-case pattern, split at its `%`.
struct Pattern {
    first: Vec<u8>,
    middle: Vec<Finder<'static>>,
    last: Vec<u8>,
}

impl Pattern {
    /// A pattern without `%` matches anywhere in the text.
    fn new(text: &[u8]) -> Pattern {
        let (mut parts, mut part) = (Vec::new(), Vec::new());
        let mut bytes = text.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => parts.push(std::mem::take(&mut part)),
                b'\\' => part.push(
                    bytes
                        .next_if(|next| matches!(next, b'%' | b'_' | b'\\'))
                        .unwrap_or(byte),
                ),
                _ => part.push(byte.to_ascii_lowercase()),
            }
        }
        if parts.is_empty() {
            parts.push(Vec::new());
            parts.push(std::mem::take(&mut part));
        }
        let first = parts.remove(0);
        let middle = parts.iter().filter(|part| !part.is_empty());
        Pattern {
            first,
            middle: middle.map(|part| Finder::new(part).into_owned()).collect(),
            last: part,
        }
    }

    /// True if the lower-case text matches.
    fn matches(&self, text: &[u8]) -> bool {
        let rest = text.strip_prefix(self.first.as_slice());
        let Some(mut rest) = rest.and_then(|rest| rest.strip_suffix(self.last.as_slice())) else {
            return false;
        };
        for part in &self.middle {
            match part.find(rest) {
                Some(at) => rest = &rest[at + part.needle().len()..],
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pattern: &str, expected: bool) {
        let text = text.to_ascii_lowercase();
        let found = Pattern::new(pattern.as_bytes()).matches(text.as_bytes());
        assert_eq!(found, expected, "{text} ~ {pattern}");
    }

    #[test]
    fn contains_or_matches() {
        check("Hello World", "lo wo", true);
        check("Hello World", "lowo", false);
        check("Hello World", "", true);
        check("", "", true);
        check("", "a", false);
        check("Hello", "hel%", true);
        check("Hello", "%llo", true);
        check("Hello", "h%o", true);
        check("Hello", "h%l", false);
        check("Hello", "ello%", false);
        check("aXbXc", "%x%x%", true);
        check("aXb", "%x%x%", false);
        check("aa", "aa%a", false);
        check("a_b", "a_b", true);
        check("axb", "a_b", false);
        check("\u{fc}BER", "\u{fc}ber", true);
    }

    #[test]
    fn a_pattern_that_defeats_backtracking_is_quick() {
        let text = "a".repeat(100_000);
        let pattern = format!("{}b", "%a".repeat(50));
        check(&text, &pattern, false);
    }

    #[test]
    fn an_escaped_character_stands_for_itself() {
        check("100% sure", r"100\%", true);
        check("1000", r"100\%", false);
        check("100% sure", r"100\%%", true);
        check("100% sure", r"%\%", false);
        check("100%", r"%\%", true);
        check("a_b", r"a\_b", true);
        check("axb", r"a\_b", false);
        check(r"a\_b", r"a\_b", false);
        check(r"a\b", r"a\b", true);
        check(r"a\b", r"a\\b", true);
        check(r"a\\b", r"a\\\\b", true);
        // A backslash, followed by anything.
        check(r"a\b", r"a\\%", true);
        check("a%b", r"a\\%", false);
        check(r"a\", "a\\", true);
        check("a", "a\\", false);
    }

    /// A text of one repeated letter makes a naive search quadratic.
    #[test]
    fn a_long_pattern_in_a_long_text_is_quick() {
        let text = "a".repeat(4 << 20);
        let begun = std::time::Instant::now();
        for pattern in [
            format!("{}b", "a".repeat(8000)),
            format!("b{}", "a".repeat(8000)),
            format!("%{}b%", "ab%".repeat(2000)),
        ] {
            check(&text, &pattern, false);
        }
        let took = begun.elapsed();
        assert!(took.as_secs() < 10, "{took:?}");
    }
}
