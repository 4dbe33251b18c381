//! Splits a filter into tokens.

use super::tree::{Literal, Op};
use crate::base::error::{Error, Result};

/// Largest number of names in a path.
pub const PATH_MAX: usize = 10;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Open,
    Close,
    Comma,
    And,
    Or,
    Not,
    In,
    Is,
    Op(Op, bool),
    Literal(Literal),
    Path(Vec<String>),
}

pub struct Lexer<'a> {
    pub text: &'a str,
    pub at: usize,
}

impl<'a> Lexer<'a> {
    pub fn next_token(&mut self) -> Result<Option<Token>> {
        self.skip_space();
        let Some(first) = self.rest().bytes().next() else {
            return Ok(None);
        };
        let token = match first {
            b'\'' | b'"' => self.string_literal(first)?,
            b'0'..=b'9' | b'.' => self.number()?,
            b'-' | b'+' => self.number()?,
            b'@' | b'_' | b'A'..=b'Z' | b'a'..=b'z' => self.word()?,
            _ => self.symbol()?,
        };
        Ok(Some(token))
    }

    /// Skips white space, and comments from `//` to the end of the line.
    pub fn skip_space(&mut self) {
        loop {
            let rest = self.rest().trim_start();
            self.at = self.text.len() - rest.len();
            if !rest.starts_with("//") {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn symbol(&mut self) -> Result<Token> {
        // Longer operators first: the first match counts.
        const SYMBOLS: [(&str, Token); 6] = [
            ("&&", Token::And),
            ("||", Token::Or),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            ("!", Token::Not),
        ];
        const OPS: [(&str, Op); 10] = [
            ("!=", Op::NotEqual),
            ("<>", Op::NotEqual),
            ("!~", Op::NotLike),
            (">=", Op::GreaterOrEqual),
            ("<=", Op::LessOrEqual),
            ("==", Op::Equal),
            ("=", Op::Equal),
            (">", Op::Greater),
            ("<", Op::Less),
            ("~", Op::Like),
        ];
        let rest = self.rest();
        let any = rest.starts_with('?');
        let plain = &rest[usize::from(any)..];
        if let Some((text, op)) = OPS.iter().find(|(text, _)| plain.starts_with(text)) {
            self.at += text.len() + usize::from(any);
            return Ok(Token::Op(*op, any));
        }
        match SYMBOLS.into_iter().find(|(text, _)| rest.starts_with(text)) {
            Some((text, token)) => {
                self.at += text.len();
                Ok(token)
            }
            None => {
                let first: String = rest.chars().take(1).collect();
                Err(Error::invalid(format!(
                    "Unknown operator {first} in the filter."
                )))
            }
        }
    }

    fn string_literal(&mut self, quote: u8) -> Result<Token> {
        let (bytes, quote) = (self.rest(), char::from(quote));
        let mut text = String::new();
        let mut chars = bytes.char_indices().skip(1).peekable();
        while let Some((at, char)) = chars.next() {
            let next = chars.peek().map(|(_, next)| *next);
            match (char, next) {
                ('\\', Some(escaped @ ('\'' | '"' | '\\'))) => {
                    text.push(escaped);
                    chars.next();
                }
                (_, Some(doubled)) if char == quote && doubled == quote => {
                    text.push(quote);
                    chars.next();
                }
                _ if char == quote => {
                    self.at += at + 1;
                    return Ok(Token::Literal(Literal::Text(text)));
                }
                _ => text.push(char),
            }
        }
        Err(Error::invalid("Unterminated string in the filter."))
    }

    fn number(&mut self) -> Result<Token> {
        let rest = self.rest();
        let is_part = |(at, byte): (usize, u8)| match byte {
            b'0'..=b'9' | b'.' | b'e' | b'E' => true,
            b'-' | b'+' => at == 0 || matches!(rest.as_bytes()[at - 1], b'e' | b'E'),
            _ => false,
        };
        let length = rest
            .bytes()
            .enumerate()
            .take_while(|part| is_part(*part))
            .count();
        let text = &rest[..length];
        let literal = match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(integer), _) => Literal::Integer(integer),
            (_, Ok(real)) if real.is_finite() => Literal::Real(real),
            _ => return Err(Error::invalid(format!("{text} is not a valid number."))),
        };
        self.at += length;
        Ok(Token::Literal(literal))
    }

    fn word(&mut self) -> Result<Token> {
        let rest = self.rest();
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'@' | b':');
        let length = rest.bytes().take_while(|byte| is_part(byte)).count();
        let word = &rest[..length];
        let token = match word.to_ascii_lowercase().as_str() {
            "and" => Token::And,
            "or" => Token::Or,
            "not" => Token::Not,
            "in" => Token::In,
            "is" => Token::Is,
            "true" => Token::Literal(Literal::Bool(true)),
            "false" => Token::Literal(Literal::Bool(false)),
            "null" => Token::Literal(Literal::Null),
            _ => Token::Path(path(word)?),
        };
        self.at += length;
        Ok(token)
    }
}

fn path(word: &str) -> Result<Vec<String>> {
    let names: Vec<String> = word.split('.').map(str::to_owned).collect();
    let is_wrong = |(at, name): (usize, &String)| {
        let plain = if at == 0 {
            name.strip_prefix('@').unwrap_or(name)
        } else {
            name
        };
        plain.is_empty() || plain.contains('@')
    };
    if names.len() > PATH_MAX || names.iter().enumerate().any(is_wrong) {
        return Err(Error::invalid(format!("{word} is not a valid field path.")));
    }
    Ok(names)
}
