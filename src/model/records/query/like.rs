//! The `~` operator as an SQL function: contains, with `%` for anything, ASCII case folded.
//!
//! In a pattern `\%`, `\_` and `\\` stand for their second character; any other backslash, and any other `_`,
//! for itself.
//!
//! SQLite's own LIKE goes back and forth in its pattern, so that a few `%` against a long text can
//! take hours inside one step that nothing can stop. Here the parts between the `%` are searched
//! from left to right, each at its first place, which finds a match whenever there is one. The time is
//! linear in the text, whatever the pattern, and the deadline of the connection is looked at on the way.

use std::cell::RefCell;
use std::convert::Infallible;

use memchr::memmem::Finder;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use crate::base::error::Result;
use crate::store::db::Deadline;

/// The name of the function in SQL: `vski_like(text, pattern)`.
pub const FUNCTION: &str = "vski_like";
/// Bytes that are looked at between two looks at the deadline.
const BYTES_PER_LOOK: usize = 1 << 20;
/// Bytes kept for the folded form of the next text.
const KEPT_MAX: usize = 64 << 10;

/// Makes the function known to a connection.
pub fn register(connection: &Connection, deadline: &Deadline) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    let folding = RefCell::new(Folding {
        deadline: deadline.clone(),
        text: Vec::new(),
        looked_at: 0,
    });
    connection.create_scalar_function(FUNCTION, 2, flags, move |context| {
        let mut folding = folding.borrow_mut();
        // A constant pattern is prepared once for a statement.
        let pattern = context.get_or_create_aux(1, |value| {
            let text = text_of(value);
            folding.looked_at += text.len();
            Ok::<_, Infallible>(Pattern::new(&text))
        })?;
        match context.get_raw(0) {
            ValueRef::Text(text) => folding.matches(&pattern, text),
            value => folding.matches(&pattern, &text_of(value)),
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

/// Brings texts into lower case.
struct Folding {
    deadline: Deadline,
    /// The present text.
    text: Vec<u8>,
    /// Bytes since the last look at the deadline.
    looked_at: usize,
}

impl Folding {
    /// True if a text matches; fails when the deadline is over.
    fn matches(&mut self, pattern: &Pattern, text: &[u8]) -> rusqlite::Result<bool> {
        self.text.clear();
        for piece in text.chunks(BYTES_PER_LOOK) {
            self.looked_at += piece.len();
            if self.looked_at >= BYTES_PER_LOOK {
                self.looked_at = 0;
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
        if self.text.capacity() > KEPT_MAX {
            self.text = Vec::new();
        }
        Ok(is_match)
    }
}

/// A pattern in lower case, cut at its `%`.
struct Pattern {
    first: Vec<u8>,
    middle: Vec<Finder<'static>>,
    last: Vec<u8>,
}

impl Pattern {
    /// Without a `%` of its own a pattern has one at each end.
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

    /// True if a text in lower case matches.
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
        // A backslash, and then anything.
        check(r"a\b", r"a\\%", true);
        check("a%b", r"a\\%", false);
        check(r"a\", "a\\", true);
        check("a", "a\\", false);
    }

    /// Texts of the same letter defeat a search that begins again at each place.
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
