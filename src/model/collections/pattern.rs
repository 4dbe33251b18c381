//! Random strings for a regular expression, for `autogeneratePattern`.
//!
//! Supports literals, classes (`[a-z0-9_]`), `\d`, `\w`, `.`, groups, alternatives and the
//! quantifiers `?`, `*`, `+`, `{n}` and `{n,m}`. An open quantifier repeats at most
//! [`REPEAT_OPEN`] times. A string has at most [`CHARS_MAX`] characters.

use crate::base::error::{Error, Result};
use crate::base::ids;

/// Largest number of repetitions of `*`, `+` and `{n,}` beyond the least one.
const REPEAT_OPEN: u32 = 8;
/// Longest generated string, and largest number in a quantifier.
const CHARS_MAX: usize = 1000;
/// Deepest nesting of groups.
const DEPTH_MAX: usize = 16;

/// A parsed pattern.
#[derive(Clone, Debug)]
pub struct Generator {
    text: String,
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    /// One of these characters.
    OneOf(Vec<char>),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    Repeat(Box<Node>, u32, u32),
}

impl Generator {
    /// Parses a pattern; the error is one sentence.
    pub fn parse(text: &str) -> std::result::Result<Generator, String> {
        let mut parser = Parser {
            chars: text.chars().collect(),
            at: 0,
        };
        let root = parser.alternatives(0)?;
        if parser.at < parser.chars.len() {
            return Err("The pattern has a ) without (.".to_owned());
        }
        match longest(&root) {
            Some(chars) if chars <= CHARS_MAX => Ok(Generator {
                text: text.to_owned(),
                root,
            }),
            _ => Err(format!(
                "The pattern can make strings of more than {CHARS_MAX} characters."
            )),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// A random string.
    pub fn generate(&self) -> Result<String> {
        let mut out = String::new();
        let mut random = Random::default();
        write(&self.root, &mut random, &mut out)?;
        Ok(out)
    }
}

/// The length of the longest string; none if it overflows.
fn longest(node: &Node) -> Option<usize> {
    match node {
        Node::OneOf(_) => Some(1),
        Node::Sequence(list) => list
            .iter()
            .try_fold(0_usize, |sum, node| sum.checked_add(longest(node)?)),
        Node::Either(list) => list
            .iter()
            .try_fold(0, |most, node| Some(longest(node)?.max(most))),
        Node::Repeat(node, _, most) => longest(node)?.checked_mul(*most as usize),
    }
}

fn write(node: &Node, random: &mut Random, out: &mut String) -> Result<()> {
    match node {
        Node::OneOf(chars) => out.push(chars[random.below(chars.len())?]),
        Node::Sequence(list) => {
            for node in list {
                write(node, random, out)?;
            }
        }
        Node::Either(list) => write(&list[random.below(list.len())?], random, out)?,
        Node::Repeat(node, least, most) => {
            let more = random.below((most - least) as usize + 1)?;
            for _ in 0..*least as usize + more {
                write(node, random, out)?;
            }
        }
    }
    Ok(())
}

/// Random numbers from a few bytes at a time.
#[derive(Default)]
struct Random {
    bytes: Vec<u8>,
}

impl Random {
    /// A number below `limit`, which is at least 1; all are equally likely.
    fn below(&mut self, limit: usize) -> Result<usize> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).max(1);
        // The largest multiple of the limit; larger numbers would favour small remainders.
        let end = u32::MAX - u32::MAX % limit;
        loop {
            if self.bytes.len() < 4 {
                self.bytes = ids::random_bytes::<64>()?.to_vec();
            }
            let at = self.bytes.len() - 4;
            let four = self.bytes.split_off(at);
            let number = four.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
            if number < end {
                return usize::try_from(number % limit)
                    .map_err(|_| Error::internal("a random number is too large"));
            }
        }
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

type Parsed<T> = std::result::Result<T, String>;

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += 1;
        Some(char)
    }

    fn alternatives(&mut self, depth: usize) -> Parsed<Node> {
        if depth > DEPTH_MAX {
            return Err(format!(
                "The pattern has more than {DEPTH_MAX} nested groups."
            ));
        }
        let mut list = vec![self.sequence(depth)?];
        while self.peek() == Some('|') {
            self.at += 1;
            list.push(self.sequence(depth)?);
        }
        Ok(Node::Either(list))
    }

    fn sequence(&mut self, depth: usize) -> Parsed<Node> {
        let mut list = Vec::new();
        while let Some(char) = self.peek().filter(|char| !matches!(char, '|' | ')')) {
            self.at += 1;
            let node = match char {
                '^' | '$' => continue,
                '[' => Node::OneOf(self.class()?),
                '(' => {
                    if self.chars[self.at..].starts_with(&['?', ':']) {
                        self.at += 2;
                    }
                    let group = self.alternatives(depth + 1)?;
                    match self.next() {
                        Some(')') => group,
                        _ => return Err("The pattern has a ( without ).".to_owned()),
                    }
                }
                '\\' => Node::OneOf(self.escape()?),
                '.' => Node::OneOf(word()),
                '*' | '+' | '?' | '{' => {
                    return Err(format!("The pattern has a {char} without an operand."));
                }
                char => Node::OneOf(vec![char]),
            };
            list.push(self.quantified(node)?);
        }
        Ok(Node::Sequence(list))
    }

    fn quantified(&mut self, node: Node) -> Parsed<Node> {
        let (least, most) = match self.peek() {
            Some('?') => (0, 1),
            Some('*') => (0, REPEAT_OPEN),
            Some('+') => (1, 1 + REPEAT_OPEN),
            Some('{') => {
                let rest: String = self.chars[self.at + 1..].iter().collect();
                let Some((inside, _)) = rest.split_once('}') else {
                    return Err("The pattern has a { without }.".to_owned());
                };
                self.at += inside.chars().count() + 1;
                quantity(inside).ok_or_else(|| {
                    format!("{{{inside}}} is not a quantifier such as {{5}} or {{2,9}}.")
                })?
            }
            _ => return Ok(node),
        };
        self.at += 1;
        Ok(Node::Repeat(Box::new(node), least, most))
    }

    /// The characters of a class; its `[` has been read.
    fn class(&mut self) -> Parsed<Vec<char>> {
        let unclosed = || "The pattern has a [ without ].".to_owned();
        if self.peek() == Some('^') {
            return Err("A class such as [^a] has no characters to choose from.".to_owned());
        }
        let mut chars = Vec::new();
        loop {
            match self.next().ok_or_else(unclosed)? {
                ']' if !chars.is_empty() => return Ok(chars),
                '\\' => chars.extend(self.escape()?),
                first if self.peek() == Some('-') && self.chars.get(self.at + 1) != Some(&']') => {
                    self.at += 1;
                    let last = self.next().ok_or_else(unclosed)?;
                    let range: Vec<char> = (first..=last).take(CHARS_MAX).collect();
                    if range.is_empty() {
                        return Err(format!("The range {first}-{last} is empty."));
                    }
                    chars.extend(range);
                }
                char => chars.push(char),
            }
        }
    }

    fn escape(&mut self) -> Parsed<Vec<char>> {
        match self.next() {
            Some('d') => Ok(('0'..='9').collect()),
            Some('w') => Ok(word()),
            Some('s') => Ok(vec![' ']),
            Some(char) if !char.is_ascii_alphanumeric() => Ok(vec![char]),
            Some(char) => Err(format!("\\{char} is not supported in this pattern.")),
            None => Err("The pattern ends with a backslash.".to_owned()),
        }
    }
}

fn word() -> Vec<char> {
    ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .chain(['_'])
        .collect()
}

/// Reads the inside of `{n}`, `{n,}` or `{n,m}`.
fn quantity(inside: &str) -> Option<(u32, u32)> {
    let (least, most) = match inside.split_once(',') {
        None => (inside, Some(inside)),
        Some((least, "")) => (least, None),
        Some((least, most)) => (least, Some(most)),
    };
    let least: u32 = least.parse().ok()?;
    let most = match most {
        None => least.checked_add(REPEAT_OPEN)?,
        Some(most) => most.parse().ok()?,
    };
    (least <= most && most as usize <= CHARS_MAX).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use regex_lite::Regex;

    use super::*;

    #[test]
    fn generated_strings_match_their_pattern() {
        for pattern in [
            "[a-z0-9]{15}",
            "[a-zA-Z0-9]{50}",
            r"users[0-9]{6}",
            r"(ab|c\.d)+\d{2,4}x?",
            r"[\w-]{3,}",
            "",
        ] {
            let generator = Generator::parse(pattern).unwrap();
            let wanted = Regex::new(&format!("^({pattern})$")).unwrap();
            for _ in 0..100 {
                let text = generator.generate().unwrap();
                assert!(wanted.is_match(&text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn patterns_that_cannot_be_generated_are_refused() {
        for pattern in [
            "(",
            ")",
            "[a",
            "[^a]",
            "a{2",
            "a{x}",
            "*",
            r"\p",
            r"\",
            "[z-a]",
            "(a{999}){999}",
            "a{5000}",
        ] {
            assert!(Generator::parse(pattern).is_err(), "{pattern}");
        }
        assert!(Generator::parse(&"(".repeat(100)).is_err());
    }
}
