//! The text of a view: one `SELECT`, split into the tokens of SQLite.
//!
//! The tokens say which expression each column of the result is, and which names the statement
//! mentions. SQLite itself checks everything else. Comments are removed, so that the text can stand
//! inside another statement: an unfinished one would swallow what follows.

use crate::base::error::{Error, Result};

/// Longest statement of a view.
pub const BYTES_MAX: usize = 16 << 10;

/// A piece of the statement, with its place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlToken {
    pub kind: SqlTokenKind,
    /// The name without quotes, or the text of the token.
    pub text: String,
    /// The bytes of the statement that it takes.
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlTokenKind {
    /// A keyword, or a name without quotes.
    Word,
    /// A name in quotes.
    Quoted,
    /// A string, number or blob.
    Literal,
    Symbol,
}

impl SqlToken {
    pub fn is(&self, word: &str) -> bool {
        self.kind == SqlTokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == SqlTokenKind::Symbol && self.text == symbol
    }

    pub fn is_name(&self) -> bool {
        matches!(self.kind, SqlTokenKind::Word | SqlTokenKind::Quoted)
    }
}

/// The statement of a view.
#[derive(Clone, Debug)]
pub struct ViewSql {
    /// Without comments and without a semicolon at the end.
    pub text: String,
    pub tokens: Vec<SqlToken>,
}

/// The expression of a column of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnExpression {
    /// The name of a column, alone.
    Column,
    Count,
    /// `CAST(... AS TYPE)` to a number, text or bool.
    CastToNumber,
    CastToText,
    CastToBool,
    Other,
}

impl ViewSql {
    /// Splits a statement. Refuses parameters, several statements, and what is not a `SELECT`.
    pub fn parse(sql: &str) -> Result<ViewSql> {
        if sql.len() > BYTES_MAX {
            let message = format!("The statement is longer than {BYTES_MAX} bytes.");
            return Err(Error::invalid(message));
        }
        let mut tokens = tokens(sql)?;
        while tokens.last().is_some_and(|last| last.is_symbol(";")) {
            tokens.pop();
        }
        if !tokens
            .first()
            .is_some_and(|it| it.is("SELECT") || it.is("WITH"))
        {
            return Err(Error::invalid("The statement must be a SELECT."));
        }
        if tokens.iter().any(|it| it.is_symbol(";")) {
            return Err(Error::invalid("There are several statements; write one."));
        }
        // Places count in the text without comments from here on.
        let mut text = String::with_capacity(sql.len());
        let mut end = tokens.first().map_or(0, |first| first.start);
        for token in &mut tokens {
            if token.start > end {
                let between = &sql[end..token.start];
                text.push(if between.contains('\n') { '\n' } else { ' ' });
            }
            let start = text.len();
            text.push_str(&sql[token.start..token.end]);
            end = token.end;
            (token.start, token.end) = (start, text.len());
        }
        Ok(ViewSql { text, tokens })
    }

    /// True if the statement mentions this name, as whatever.
    pub fn mentions(&self, name: &str) -> bool {
        let is_it = |token: &SqlToken| token.is_name() && token.text.eq_ignore_ascii_case(name);
        self.tokens.iter().any(is_it)
    }

    /// True if results of several `SELECT`s are combined anywhere in the statement.
    pub fn is_compound(&self) -> bool {
        let words = ["UNION", "INTERSECT", "EXCEPT"];
        self.tokens
            .iter()
            .any(|token| words.iter().any(|word| token.is(word)))
    }

    /// The expression of each column of the result, those of the first `SELECT` if there are
    /// several. Refuses `*`.
    pub fn columns(&self) -> Result<Vec<ColumnExpression>> {
        let list = self.select_list();
        let mut columns = Vec::new();
        for item in split_at_commas(list) {
            if item.last().is_some_and(|last| last.is_symbol("*")) {
                return Err(Error::invalid(
                    "A view names its columns: write them in place of *.",
                ));
            }
            columns.push(expression(without_alias(item)));
        }
        Ok(columns)
    }

    /// The tokens between `SELECT` and `FROM` of the outermost `SELECT`.
    fn select_list(&self) -> &[SqlToken] {
        let mut depth = 0_usize;
        let mut start = None;
        for (at, token) in self.tokens.iter().enumerate() {
            depth = depth_after(depth, token);
            match start {
                None if depth == 0 && token.is("SELECT") => start = Some(at + 1),
                Some(start) if depth == 0 && ends_list(token) => return &self.tokens[start..at],
                _ => {}
            }
        }
        start.map_or(&[], |start| &self.tokens[start..])
    }
}

fn depth_after(depth: usize, token: &SqlToken) -> usize {
    match token.kind {
        SqlTokenKind::Symbol if token.text == "(" => depth + 1,
        SqlTokenKind::Symbol if token.text == ")" => depth.saturating_sub(1),
        _ => depth,
    }
}

/// True for a keyword that can follow the columns of a `SELECT`.
pub fn ends_list(token: &SqlToken) -> bool {
    let words = [
        "FROM",
        "WHERE",
        "GROUP",
        "HAVING",
        "WINDOW",
        "ORDER",
        "LIMIT",
        "UNION",
        "INTERSECT",
        "EXCEPT",
    ];
    words.iter().any(|word| token.is(word))
}

fn split_at_commas(list: &[SqlToken]) -> Vec<&[SqlToken]> {
    let list = match list {
        [first, rest @ ..] if first.is("DISTINCT") || first.is("ALL") => rest,
        list => list,
    };
    let mut depth = 0_usize;
    let items = list.split(|token| {
        depth = depth_after(depth, token);
        depth == 0 && token.is_symbol(",")
    });
    items.collect()
}

/// An operator may be taken for an alias here; then SQLite knows no column of this expression.
fn without_alias(item: &[SqlToken]) -> &[SqlToken] {
    match item {
        [expression @ .., word, _] if word.is("AS") => expression,
        [expression @ .., last]
            if last.is_name() && expression.last().is_some_and(ends_expression) =>
        {
            expression
        }
        item => item,
    }
}

fn ends_expression(token: &SqlToken) -> bool {
    token.is_name() || token.is_symbol(")")
}

fn expression(tokens: &[SqlToken]) -> ColumnExpression {
    match tokens {
        [name] if name.is_name() => ColumnExpression::Column,
        [table, dot, name] if table.is_name() && dot.is_symbol(".") && name.is_name() => {
            ColumnExpression::Column
        }
        [function, open, .., close] if open.is_symbol("(") && close.is_symbol(")") => {
            match closes_at_end(&tokens[1..]) {
                true if function.is("count") => ColumnExpression::Count,
                true if function.is("cast") => cast(tokens),
                _ => ColumnExpression::Other,
            }
        }
        _ => ColumnExpression::Other,
    }
}

/// True if the first token opens a parenthesis that the last one closes.
fn closes_at_end(tokens: &[SqlToken]) -> bool {
    let mut depth = 0;
    let closed = tokens.iter().position(|token| {
        depth = depth_after(depth, token);
        depth == 0
    });
    closed.is_some_and(|at| at + 1 == tokens.len())
}

fn cast(tokens: &[SqlToken]) -> ColumnExpression {
    let mut words = tokens.iter().rev().skip(1);
    let (kind, before) = (words.next(), words.next());
    if !before.is_some_and(|before| before.is("AS")) {
        return ColumnExpression::Other;
    }
    let name = kind.map(|kind| kind.text.to_ascii_lowercase());
    match name.as_deref() {
        Some("real" | "integer" | "int" | "decimal" | "numeric") => ColumnExpression::CastToNumber,
        Some("text") => ColumnExpression::CastToText,
        Some("boolean" | "bool") => ColumnExpression::CastToBool,
        _ => ColumnExpression::Other,
    }
}

/// Splits SQL into tokens; white space and comments are left out.
pub fn tokens(sql: &str) -> Result<Vec<SqlToken>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < sql.len() {
        let rest = &sql[at..];
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            at += blank;
        } else if let Some(length) = comment(rest)? {
            at += length;
        } else {
            let (kind, length) = next_token(rest)?;
            let text = match kind {
                SqlTokenKind::Quoted => unquote(&rest[..length]),
                _ => rest[..length].to_owned(),
            };
            tokens.push(SqlToken {
                kind,
                text,
                start: at,
                end: at + length,
            });
            at += length;
        }
    }
    Ok(tokens)
}

/// The length of the comment at the start of the text; none if there is none.
fn comment(text: &str) -> Result<Option<usize>> {
    if text.starts_with("--") {
        return Ok(Some(text.find('\n').unwrap_or(text.len())));
    }
    if let Some(inner) = text.strip_prefix("/*") {
        let end = inner.find("*/");
        let end = end.ok_or_else(|| Error::invalid("The statement ends within a comment."))?;
        return Ok(Some(end + 4));
    }
    Ok(None)
}

fn next_token(text: &str) -> Result<(SqlTokenKind, usize)> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_' || !char.is_ascii();
    let word_end = || text.find(|char: char| !is_part(char)).unwrap_or(text.len());
    let mut chars = text.chars();
    let (first, second) = (chars.next().unwrap_or(' '), chars.next().unwrap_or(' '));
    let token = match first {
        '\'' => (SqlTokenKind::Literal, quoted(text, '\'')?),
        'x' | 'X' if second == '\'' => (SqlTokenKind::Literal, 1 + quoted(&text[1..], '\'')?),
        '"' | '`' => (SqlTokenKind::Quoted, quoted(text, first)?),
        '[' => {
            let end = text.find(']').ok_or_else(unfinished)?;
            (SqlTokenKind::Quoted, end + 1)
        }
        '?' | ':' | '@' | '$' | '#' => {
            return Err(Error::invalid(
                "The statement has a parameter; write values as literals.",
            ));
        }
        '0'..='9' => (SqlTokenKind::Literal, number(text)),
        '.' if second.is_ascii_digit() => (SqlTokenKind::Literal, number(text)),
        first if is_part(first) => (SqlTokenKind::Word, word_end()),
        '\0' => return Err(Error::invalid("The statement has a zero character.")),
        first => (SqlTokenKind::Symbol, first.len_utf8()),
    };
    Ok(token)
}

/// The length of a number, with what follows it directly: SQLite refuses a wrong one.
fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_part = |at: usize| match bytes[at] {
        b'+' | b'-' => at > 0 && matches!(bytes[at - 1], b'e' | b'E') && !text.starts_with("0x"),
        byte => byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'),
    };
    (0..bytes.len())
        .find(|at| !is_part(*at))
        .unwrap_or(bytes.len())
}

/// The length of a string or name in quotes, in which a doubled quote stands for one.
fn quoted(text: &str, quote: char) -> Result<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find(quote).ok_or_else(unfinished)? + 1;
        if !text[at..].starts_with(quote) {
            return Ok(at);
        }
        at += 1;
    }
}

fn unquote(text: &str) -> String {
    let inner = &text[1..text.len() - 1];
    match text.chars().next() {
        Some(quote @ ('"' | '`')) => inner.replace(&format!("{quote}{quote}"), &quote.to_string()),
        _ => inner.to_owned(),
    }
}

fn unfinished() -> Error {
    Error::invalid("The statement ends within a string or a quoted name.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ColumnExpression::{CastToBool, CastToNumber, CastToText, Column, Count, Other};

    fn columns(sql: &str) -> Vec<ColumnExpression> {
        ViewSql::parse(sql).unwrap().columns().unwrap()
    }

    #[test]
    fn the_expression_of_each_column_is_known() {
        let sql = "SELECT p.id, title t, [a b] AS x, \"p\".\"y\", count(*) n, COUNT (a.b) AS m,
                   cast(x as int), (CAST(x AS TEXT)), Cast(f(1, 2) as text) z, cast(q AS bool),
                   a + b AS c, CASE WHEN a THEN b END d, f(x), count(a) + 1, (SELECT id, 1 FROM q)
                   FROM posts p";
        let expected = [
            Column,
            Column,
            Column,
            Column,
            Count,
            Count,
            CastToNumber,
            Other,
            CastToText,
            CastToBool,
            Other,
            Other,
            Other,
            Other,
            Other,
        ];
        assert_eq!(columns(sql), expected);
        let sql = "WITH a AS (SELECT 1, 2) SELECT DISTINCT id, x FROM a UNION SELECT 1, 2";
        assert_eq!(columns(sql), [Column, Column]);
        assert_eq!(columns("SELECT 1 id"), [Other]);
    }

    #[test]
    fn a_star_is_refused_and_a_product_is_not() {
        for sql in [
            "SELECT * FROM a",
            "SELECT id, a.* FROM a",
            "SELECT DISTINCT * FROM a",
        ] {
            assert!(ViewSql::parse(sql).unwrap().columns().is_err(), "{sql}");
        }
        assert_eq!(columns("SELECT id, a * b AS c FROM a"), [Column, Other]);
    }

    #[test]
    fn comments_and_the_last_semicolon_go() {
        let sql = "SELECT id -- ; ' \n FROM/* \" */a WHERE b = '--;/*' ; ;";
        let parsed = ViewSql::parse(sql).unwrap();
        assert_eq!(parsed.text, "SELECT id\nFROM a WHERE b = '--;/*'");
        for token in &parsed.tokens {
            assert_eq!(token.text, parsed.text[token.start..token.end]);
        }
        assert!(parsed.mentions("A") && !parsed.mentions("c"));
    }

    #[test]
    fn everything_but_one_select_is_refused() {
        for sql in [
            "",
            ";",
            "SELECT 1; SELECT 2",
            "DELETE FROM a",
            "VALUES (1)",
            "PRAGMA user_version",
            "SELECT 1 /* open",
            "SELECT 'open",
            "SELECT \"open",
            "SELECT [open",
            "SELECT ?1",
            "SELECT :a",
            "SELECT @a",
            "SELECT $a",
            "SELECT 1 \0",
            &format!("SELECT 1{}", " ".repeat(BYTES_MAX)),
        ] {
            assert!(ViewSql::parse(sql).is_err(), "{sql}");
        }
        assert!(ViewSql::parse("select \"a\"\"b\", `c``d`, X'00', 1.5e-3, .5 from [x]").is_ok());
    }
}
