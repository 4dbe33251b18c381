//! The tokens of the SQL of an index.
//!
//! Only tokens listed here exist: names, strings, numbers, operators, and the keywords and
//! functions below. So the text of a client cannot end the statement, read another table or call a
//! function whose result is not fixed.

/// A part of an expression. Equal tokens are written equally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A quoted name.
    Name(String),
    /// An unquoted word that is neither a keyword nor a function.
    Bare(String),
    /// A keyword or function.
    Word(String),
    /// The content of a string.
    Text(String),
    Number(String),
    Operator(String),
}

/// Keywords, written in upper case.
const KEYWORDS: [&str; 27] = [
    "CREATE", "UNIQUE", "INDEX", "ON", "WHERE", "AND", "OR", "NOT", "IS", "NULL", "IN", "LIKE",
    "GLOB", "BETWEEN", "COLLATE", "ASC", "DESC", "CASE", "WHEN", "THEN", "ELSE", "END", "CAST",
    "AS", "TRUE", "FALSE", "TEXT",
];
/// Types of a `CAST` besides TEXT, and functions with a fixed result, written in lower case.
const FUNCTIONS: [&str; 22] = [
    "integer",
    "real",
    "numeric",
    "lower",
    "upper",
    "length",
    "coalesce",
    "ifnull",
    "nullif",
    "iif",
    "abs",
    "round",
    "trim",
    "ltrim",
    "rtrim",
    "substr",
    "instr",
    "replace",
    "hex",
    "unicode",
    "json_extract",
    "json_array_length",
];
const OPERATORS: [&str; 22] = [
    "||", "->>", "->", "<>", "!=", "==", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-", "*",
    "/", "%", "&", "|", "~",
];

impl Token {
    /// True for a function or type, which is also a possible name of a column.
    pub fn is_function(&self) -> bool {
        matches!(self, Token::Word(it) if FUNCTIONS.contains(&it.as_str()))
    }

    /// The SQL of tokens; `name` writes the name of a column.
    pub fn join(tokens: &[Token], name: impl Fn(&str) -> String) -> String {
        let mut sql = String::new();
        for (at, token) in tokens.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &tokens[at]);
            if needs_space(before, token) {
                sql.push(' ');
            }
            match token {
                Token::Name(text) | Token::Bare(text) => sql += &name(text),
                Token::Text(text) => sql += &format!("'{}'", text.replace('\'', "''")),
                Token::Word(text) | Token::Number(text) | Token::Operator(text) => sql += text,
            }
        }
        sql
    }
}

fn needs_space(before: Option<&Token>, token: &Token) -> bool {
    let is = |token: &Token, list: &[&str]| matches!(token, Token::Operator(it) if list.contains(&it.as_str()));
    let is_call = |token: &Token| matches!(token, Token::Word(it) if FUNCTIONS.contains(&it.as_str()) || it == "CAST");
    match before {
        None => false,
        Some(before) => {
            !(is(before, &["("])
                || is(token, &[")", ","])
                || (is(token, &["("]) && is_call(before)))
        }
    }
}

/// Splits SQL into tokens; the error is one sentence.
pub fn tokens(sql: &str) -> Result<Vec<Token>, String> {
    let mut list = Vec::new();
    let mut rest = sql.trim_start();
    while let Some(first) = rest.chars().next() {
        let length;
        let token;
        if let Some(end) = closing(first) {
            (token, length) = quoted(rest, first, end)?;
        } else if first.is_ascii_digit() {
            length = rest
                .find(|char: char| !char.is_ascii_digit() && char != '.')
                .unwrap_or(rest.len());
            token = Token::Number(number(&rest[..length])?);
        } else if first.is_ascii_alphabetic() || first == '_' {
            length = rest
                .find(|char: char| !char.is_ascii_alphanumeric() && char != '_')
                .unwrap_or(rest.len());
            token = word(&rest[..length]);
        } else {
            let known = OPERATORS.iter().find(|it| rest.starts_with(**it));
            let is_comment = rest.starts_with("--") || rest.starts_with("/*");
            let Some(operator) = known.filter(|_| !is_comment) else {
                return Err(format!("An index must not contain {first} here."));
            };
            (token, length) = (Token::Operator((*operator).to_owned()), operator.len());
        }
        list.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(list)
}

fn closing(first: char) -> Option<char> {
    match first {
        '\'' | '"' | '`' => Some(first),
        '[' => Some(']'),
        _ => None,
    }
}

/// Reads a string or a quoted name, and its length with quotes.
fn quoted(sql: &str, first: char, end: char) -> Result<(Token, usize), String> {
    let mut text = String::new();
    let mut chars = sql.char_indices().skip(1).peekable();
    while let Some((at, char)) = chars.next() {
        if char != end {
            text.push(char);
        } else if first == '\'' && chars.peek().is_some_and(|(_, next)| *next == end) {
            text.push(end);
            chars.next();
        } else {
            let is_plain = |text: &str| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            };
            return match first {
                '\'' if !text.contains('\0') => Ok((Token::Text(text), at + 1)),
                '\'' => Err("A string must not contain NUL.".to_owned()),
                _ if is_plain(&text) => Ok((Token::Name(text), at + 1)),
                _ => Err(format!("{text:?} is not the name of a field.")),
            };
        }
    }
    Err(format!("A {first} is not closed."))
}

fn number(text: &str) -> Result<String, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && !text.ends_with('.') => Ok(text.to_owned()),
        _ => Err(format!("{text} is not a number.")),
    }
}

fn word(text: &str) -> Token {
    let (upper, lower) = (text.to_ascii_uppercase(), text.to_ascii_lowercase());
    if KEYWORDS.contains(&upper.as_str()) {
        Token::Word(upper)
    } else if FUNCTIONS.contains(&lower.as_str()) {
        Token::Word(lower)
    } else {
        Token::Bare(text.to_owned())
    }
}
