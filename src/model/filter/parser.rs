//! Parses the tokens of a filter or sort into a tree.

use super::lexer::{Lexer, Token};
use super::tree::{Comparison, Expr, Function, Literal, Op, Operand, SortTerm};
use crate::base::error::{Error, Result};

/// Longest filter, rule or sort, in bytes.
pub const BYTES_MAX: usize = 8 << 10;
/// Largest number of comparisons. Each value of an `IN` counts.
pub const COMPARISONS_MAX: usize = 200;
/// Deepest nesting of parentheses and `NOT`s.
pub const DEPTH_MAX: usize = 32;
/// Largest number of terms of a sort.
const SORT_TERMS_MAX: usize = 8;

/// Parses a filter or rule. An empty string is an error.
pub fn parse(text: &str) -> Result<Expr> {
    parse_within(text, COMPARISONS_MAX)
}

/// Like [`parse`], with another limit of comparisons.
pub fn parse_within(text: &str, comparisons_max: usize) -> Result<Expr> {
    let mut parser = Parser::new(text)?;
    parser.comparisons_max = comparisons_max;
    let expr = parser.or(0)?;
    match parser.next() {
        None => Ok(expr),
        Some(token) => Err(unexpected(&token)),
    }
}

/// Parses a sort such as `-created,author.name`. An empty string has no terms.
pub fn parse_sort(text: &str) -> Result<Vec<SortTerm>> {
    if text.len() > BYTES_MAX {
        return Err(too_long());
    }
    let terms = text
        .split(',')
        .map(str::trim)
        .filter(|term| !term.is_empty());
    let terms: Vec<SortTerm> = terms.map(parse_sort_term).collect::<Result<_>>()?;
    if terms.len() > SORT_TERMS_MAX {
        return Err(Error::invalid(format!(
            "A sort has at most {SORT_TERMS_MAX} terms."
        )));
    }
    Ok(terms)
}

fn parse_sort_term(term: &str) -> Result<SortTerm> {
    let (name, descending) = match term.strip_prefix('-') {
        Some(name) => (name, true),
        None => (term.strip_prefix('+').unwrap_or(term), false),
    };
    let mut parser = Parser::new(name)?;
    match (parser.next(), parser.next()) {
        (Some(Token::Path(path)), None) => Ok(SortTerm { path, descending }),
        _ => Err(Error::invalid(format!("{term} is not a valid sort term."))),
    }
}

/// The tokens of a filter, which are consumed once.
struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    comparisons: usize,
    comparisons_max: usize,
}

impl Parser {
    fn new(text: &str) -> Result<Parser> {
        if text.len() > BYTES_MAX {
            return Err(too_long());
        }
        let mut lexer = Lexer { text, at: 0 };
        let mut tokens = Vec::new();
        while let Some(token) = lexer.next_token()? {
            tokens.push(token);
        }
        Ok(Parser {
            tokens: tokens.into_iter().peekable(),
            comparisons: 0,
            comparisons_max: COMPARISONS_MAX,
        })
    }

    fn next(&mut self) -> Option<Token> {
        self.tokens.next()
    }

    fn accept(&mut self, wanted: &Token) -> bool {
        self.tokens.next_if_eq(wanted).is_some()
    }

    fn or(&mut self, depth: usize) -> Result<Expr> {
        let first = self.and(depth)?;
        let mut list = vec![first];
        while self.accept(&Token::Or) {
            list.push(self.and(depth)?);
        }
        Ok(one_or(list, Expr::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expr> {
        let first = self.not(depth)?;
        let mut list = vec![first];
        while self.accept(&Token::And) {
            list.push(self.not(depth)?);
        }
        Ok(one_or(list, Expr::And))
    }

    fn not(&mut self, depth: usize) -> Result<Expr> {
        if depth >= DEPTH_MAX {
            return Err(Error::invalid("The filter is nested too deeply."));
        }
        if self.accept(&Token::Not) {
            return Ok(Expr::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.accept(&Token::Open) {
            let inner = self.or(depth + 1)?;
            return match self.next() {
                Some(Token::Close) => Ok(inner),
                Some(token) => Err(unexpected(&token)),
                None => Err(ends_early()),
            };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        self.count()?;
        let left = self.operand()?;
        match self.next().ok_or_else(ends_early)? {
            Token::Op(op, any) => {
                let right = self.operand()?;
                // As in PocketBase, a distance always asks for any of several places.
                let is_distance =
                    |operand: &Operand| matches!(operand, Operand::Call(Function::GeoDistance, _));
                let any = any || is_distance(&left) || is_distance(&right);
                Ok(Expr::Compare(Comparison {
                    left,
                    op,
                    any,
                    right,
                }))
            }
            Token::In => self.list().map(|list| Expr::In(left, list)),
            Token::Not if self.accept(&Token::In) => {
                let list = self.list()?;
                Ok(Expr::Not(Box::new(Expr::In(left, list))))
            }
            Token::Is => {
                let op = if self.accept(&Token::Not) {
                    Op::NotEqual
                } else {
                    Op::Equal
                };
                match self.next().ok_or_else(ends_early)? {
                    Token::Literal(Literal::Null) => {
                        let right = Operand::Literal(Literal::Null);
                        Ok(Expr::Compare(Comparison {
                            left,
                            op,
                            any: false,
                            right,
                        }))
                    }
                    token => Err(unexpected(&token)),
                }
            }
            token => Err(unexpected(&token)),
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        match self.next().ok_or_else(ends_early)? {
            Token::Literal(literal) => Ok(Operand::Literal(literal)),
            Token::Path(path) if self.accept(&Token::Open) => self.call(&path),
            Token::Path(path) => Ok(Operand::Path(path)),
            token => Err(unexpected(&token)),
        }
    }

    /// The arguments of a function, after its opening parenthesis.
    fn call(&mut self, name: &[String]) -> Result<Operand> {
        let name = name.join(".");
        let function = Function::ALL.into_iter().find(|it| it.name() == name);
        let function =
            function.ok_or_else(|| Error::invalid(format!("There is no function {name}.")))?;
        let mut arguments = Vec::new();
        while !self.accept(&Token::Close) {
            if !arguments.is_empty() && !self.accept(&Token::Comma) {
                return Err(self.next().map_or_else(ends_early, |it| unexpected(&it)));
            }
            self.count()?;
            arguments.push(match self.next().ok_or_else(ends_early)? {
                Token::Literal(literal) => Operand::Literal(literal),
                Token::Path(path) => Operand::Path(path),
                token => return Err(unexpected(&token)),
            });
        }
        let (least, most) = function.arity();
        if !(least..=most).contains(&arguments.len()) {
            return Err(Error::invalid(format!(
                "{name} takes {} arguments.",
                match least == most {
                    true => least.to_string(),
                    false => format!("{least} to {most}"),
                }
            )));
        }
        Ok(Operand::Call(function, arguments))
    }

    fn list(&mut self) -> Result<Vec<Literal>> {
        if !self.accept(&Token::Open) {
            return Err(Error::invalid(
                "IN must be followed by values in parentheses.",
            ));
        }
        let mut list = Vec::new();
        loop {
            self.count()?;
            match self.next().ok_or_else(ends_early)? {
                Token::Literal(literal) => list.push(literal),
                token => return Err(unexpected(&token)),
            }
            match self.next().ok_or_else(ends_early)? {
                Token::Comma => {}
                Token::Close => return Ok(list),
                token => return Err(unexpected(&token)),
            }
        }
    }

    fn count(&mut self) -> Result<()> {
        self.comparisons += 1;
        if self.comparisons > self.comparisons_max {
            return Err(Error::invalid(format!(
                "The filter has more than {} comparisons.",
                self.comparisons_max
            )));
        }
        Ok(())
    }
}

fn one_or(mut list: Vec<Expr>, make: impl FnOnce(Vec<Expr>) -> Expr) -> Expr {
    if list.len() == 1 {
        list.remove(0)
    } else {
        make(list)
    }
}

fn unexpected(token: &Token) -> Error {
    let shown = match token {
        Token::Open => "(".to_owned(),
        Token::Close => ")".to_owned(),
        Token::Comma => ",".to_owned(),
        Token::And => "&&".to_owned(),
        Token::Or => "||".to_owned(),
        Token::Not => "NOT".to_owned(),
        Token::In => "IN".to_owned(),
        Token::Is => "IS".to_owned(),
        Token::Op(op, any) => format!("{}{}", if *any { "?" } else { "" }, op.symbol()),
        Token::Path(path) => path.join("."),
        Token::Literal(Literal::Null) => "null".to_owned(),
        Token::Literal(Literal::Bool(flag)) => flag.to_string(),
        Token::Literal(Literal::Integer(number)) => number.to_string(),
        Token::Literal(Literal::Real(number)) => number.to_string(),
        Token::Literal(Literal::Text(text)) => format!("the string '{}'", excerpt(text)),
    };
    Error::invalid(format!("Syntax error in the filter near {shown}."))
}

/// A prefix that is short enough for a message.
fn excerpt(text: &str) -> &str {
    const CHARS_MAX: usize = 64;
    text.char_indices()
        .nth(CHARS_MAX)
        .map_or(text, |(at, _)| &text[..at])
}

fn ends_early() -> Error {
    Error::invalid("Unexpected end of the filter.")
}

fn too_long() -> Error {
    Error::invalid(format!("The filter is longer than {BYTES_MAX} bytes."))
}
