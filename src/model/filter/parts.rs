//! The parts of a filter or rule with their places in its text, so that names can be replaced and
//! everything else stays as it was written: white space, comments, strings.

use std::ops::Range;

use super::lexer::{Lexer, Token};
use super::tree::{Literal, Op};
use crate::base::error::Result;

/// A token of a filter, and the bytes that it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterPart {
    pub range: Range<usize>,
    pub kind: FilterPartKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FilterPartKind {
    Path(Vec<String>),
    /// The content of a string.
    Text(String),
    /// `=` or `!=`, also in their other forms.
    Equality,
    Other,
}

/// Splits a filter into its parts.
pub fn parts(text: &str) -> Result<Vec<FilterPart>> {
    let mut lexer = Lexer { text, at: 0 };
    let mut list: Vec<FilterPart> = Vec::new();
    loop {
        lexer.skip_space();
        let start = lexer.at;
        let Some(token) = lexer.next_token()? else {
            return Ok(list);
        };
        let kind = match token {
            Token::Path(path) => FilterPartKind::Path(path),
            Token::Literal(Literal::Text(text)) => FilterPartKind::Text(text),
            Token::Op(Op::Equal | Op::NotEqual, _) => FilterPartKind::Equality,
            Token::Open => {
                // The name before it is that of a function.
                if let Some(FilterPart { kind, .. }) = list.last_mut()
                    && matches!(kind, FilterPartKind::Path(_))
                {
                    *kind = FilterPartKind::Other;
                }
                FilterPartKind::Other
            }
            _ => FilterPartKind::Other,
        };
        list.push(FilterPart {
            range: start..lexer.at,
            kind,
        });
    }
}

/// Replaces pieces of a text, which are in order and do not overlap.
pub fn replace(text: &str, pieces: &[(Range<usize>, String)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut at = 0;
    for (range, piece) in pieces {
        result += &text[at..range.start];
        result += piece;
        at = range.end;
    }
    result += &text[at..];
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_at_their_places_and_nothing_else_is_a_path() {
        let text = "a.b = 'a.b' && // a.b\n geoDistance(a.b, 1,2,3) > 2 || a.b:each ?!= \"it''s\"";
        let paths: Vec<&str> = parts(text)
            .unwrap()
            .iter()
            .filter(|part| matches!(part.kind, FilterPartKind::Path(_)))
            .map(|part| &text[part.range.clone()])
            .collect();
        assert_eq!(paths, ["a.b", "a.b", "a.b:each"]);
        assert!(parts("a = 'open").is_err());
    }

    #[test]
    fn only_the_given_pieces_are_replaced() {
        let text = " a  = 'a' // a";
        assert_eq!(
            replace(text, &[(1..2, "long".to_owned())]),
            " long  = 'a' // a"
        );
        assert_eq!(replace(text, &[]), text);
    }
}
