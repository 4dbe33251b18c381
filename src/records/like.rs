//! The `~` operator as an SQL function: contains, with `%` for anything, ASCII case folded.
//!
//! SQLite's own LIKE goes back and forth in its pattern, so that a few `%` against a long text can
//! take hours inside one step that nothing can stop. Here the parts between the `%` are searched
//! from left to right, each at its first place, which finds a match whenever there is one.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

use crate::error::Result;

/// The name of the function in SQL: `vski_like(text, pattern)`.
pub const FUNCTION: &str = "vski_like";

/// Makes the function known to a connection.
pub fn register(connection: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(FUNCTION, 2, flags, |context| {
        let pattern = context.get_or_create_aux(1, |value| {
            Ok::<_, std::convert::Infallible>(Pattern::new(&text_of(value)))
        })?;
        Ok(match context.get_raw(0) {
            ValueRef::Text(text) => pattern.matches(text),
            value => pattern.matches(&text_of(value)),
        })
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

/// A pattern in lower case, cut at its `%`.
struct Pattern {
    parts: Vec<Vec<u8>>,
}

impl Pattern {
    /// Without a `%` of its own a pattern has one at each end.
    fn new(text: &[u8]) -> Pattern {
        let text = text.to_ascii_lowercase();
        let parts = if text.contains(&b'%') {
            text.split(|byte| *byte == b'%')
                .map(<[u8]>::to_vec)
                .collect()
        } else {
            vec![Vec::new(), text, Vec::new()]
        };
        Pattern { parts }
    }

    fn matches(&self, text: &[u8]) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return false;
        };
        if text.len() < first.len() + last.len() {
            return false;
        }
        let (start, rest) = text.split_at(first.len());
        let (rest, end) = rest.split_at(rest.len() - last.len());
        if !start.eq_ignore_ascii_case(first) || !end.eq_ignore_ascii_case(last) {
            return false;
        }
        let mut rest = rest;
        for part in middle {
            match find(rest, part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

/// The first place of `part`, which is in lower case, in `text`.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let Some((&first, others)) = part.split_first() else {
        return Some(0);
    };
    let upper = first.to_ascii_uppercase();
    let last = text.len().checked_sub(part.len())?;
    (0..=last).find(|&at| {
        (text[at] == first || text[at] == upper)
            && text[at + 1..at + part.len()].eq_ignore_ascii_case(others)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pattern: &str, expected: bool) {
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
}
