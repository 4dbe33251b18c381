//! Single values and how they compare, told from the documentation.
//!
//! Where that is silent this holds, and the tests show that the product agrees: numbers come
//! before texts; compared with a number field a text that reads as a number is one; compared with
//! a text field a number inside json is a text; a whole json field is the text of its json; true
//! and false are 1 and 0.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::world::Number;
use crate::base::clock;
use crate::model::filter::Op;

/// One value to compare.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Unset,
    /// An address that the caller may not see.
    Hidden,
    Number(Number),
    Text(String),
}

/// What kind of values stand at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Text,
    Date,
    Datetime,
    Number,
    Bool,
    /// One of the texts of a list.
    Element,
    /// Json, or a value inside it.
    Inside,
    /// Of no type: it takes the form of what it is compared with.
    Constant,
    /// A constant that is a date: `@now`, or a date of the account or of what is sent.
    Moment,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A record.
    Field,
    /// The text of the condition.
    Text,
    /// The account that asks, or what it sends.
    Request,
}

/// One side of a comparison, for one record.
#[derive(Clone, Debug)]
pub struct Side {
    pub scalars: Vec<Scalar>,
    pub class: Class,
    pub origin: Origin,
}

impl Class {
    pub fn is_numeric(self) -> bool {
        matches!(self, Class::Number | Class::Bool)
    }

    fn is_text(self) -> bool {
        matches!(self, Class::Text | Class::Date | Class::Datetime)
    }

    fn is_stored_text(self) -> bool {
        self.is_text() || matches!(self, Class::Element | Class::Moment)
    }

    /// Dates are compared by the moments that they are.
    fn is_moment(self) -> bool {
        matches!(self, Class::Date | Class::Datetime | Class::Moment)
    }
}

impl Scalar {
    /// As `~` sees it.
    fn text(&self) -> String {
        match self {
            Scalar::Unset | Scalar::Hidden => String::new(),
            Scalar::Number(Number::Integer(integer)) => integer.to_string(),
            Scalar::Number(Number::Real(real)) => real.to_string(),
            Scalar::Text(text) => text.clone(),
        }
    }

    /// The order of a sort: unset, numbers, texts.
    pub fn compare(&self, other: &Scalar) -> Ordering {
        let rank = |scalar: &Scalar| match scalar {
            Scalar::Unset | Scalar::Hidden => 0,
            Scalar::Number(_) => 1,
            Scalar::Text(_) => 2,
        };
        match (self, other) {
            (Scalar::Number(a), Scalar::Number(b)) => a.compare(*b),
            (Scalar::Text(a), Scalar::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// True if a comparison holds, or, unless `positive`, its opposite: for all pairs of values, or for any. With an
/// address that the caller may not see neither does.
pub fn compare(left: &Side, op: Op, any: bool, right: &Side, positive: bool) -> bool {
    let pairs = left
        .scalars
        .iter()
        .flat_map(|a| right.scalars.iter().map(move |b| (a, b)));
    let mut outcomes = pairs.map(|(a, b)| match (a, b) {
        (Scalar::Hidden, _) | (_, Scalar::Hidden) => false,
        _ => compare_two(a, left, op, b, right) == positive,
    });
    if any == positive {
        outcomes.any(|is_so| is_so)
    } else {
        outcomes.all(|is_so| is_so)
    }
}

fn compare_two(a: &Scalar, left: &Side, op: Op, b: &Scalar, right: &Side) -> bool {
    if is_nothing(a, left, op, right) || is_nothing(b, right, op, left) {
        // Nothing equals no value, nor is it part of one, before or after another.
        return matches!(op, Op::NotEqual | Op::NotLike);
    }
    match op {
        Op::Like => return is_like(&a.text(), &b.text()),
        Op::NotLike => return !is_like(&a.text(), &b.text()),
        _ => {}
    }
    let is_order = !matches!(op, Op::Equal | Op::NotEqual);
    let align = |value: &Scalar, own: &Side, other: &Side| {
        // The empty text of a condition comes before all other texts.
        let is_empty = own.origin == Origin::Text && *value == Scalar::Text(String::new());
        match is_order && is_empty && !other.class.is_numeric() {
            true => value.clone(),
            false => align(value.clone(), own, other),
        }
    };
    let (a, b) = (align(a, left, right), align(b, right, left));
    let both_are_set = a != Scalar::Unset && b != Scalar::Unset;
    let order = a.compare(&b);
    match op {
        Op::Equal => order == Ordering::Equal,
        Op::NotEqual => order != Ordering::Equal,
        Op::Greater => both_are_set && order == Ordering::Greater,
        Op::GreaterOrEqual => both_are_set && order != Ordering::Less,
        Op::Less => both_are_set && order == Ordering::Less,
        Op::LessOrEqual => both_are_set && order != Ordering::Greater,
        Op::Like | Op::NotLike => unreachable!("answered above"),
    }
}

/// Whether a value of the request is none for the other side: it has none, or one that cannot be of
/// the other's type. Only a text of the condition itself can ask for what has no value, and no pattern can.
fn is_nothing(value: &Scalar, own: &Side, op: Op, other: &Side) -> bool {
    let is_asked_for = other.origin == Origin::Text && !matches!(op, Op::Like | Op::NotLike);
    if own.origin != Origin::Request || is_asked_for {
        return false;
    }
    *value == Scalar::Unset || request_form(value, own, other).is_none()
}

/// A value of the request in the form of the other side.
fn request_form(value: &Scalar, own: &Side, other: &Side) -> Option<Scalar> {
    let is_text = matches!(value, Scalar::Text(_));
    let is_constant = matches!(own.class, Class::Constant | Class::Moment);
    if is_constant || (is_text && other.class.is_numeric()) {
        return convert(value.clone(), other.class);
    }
    Some(value.clone())
}

/// Brings a value into a form in which it can be compared with the other side.
fn align(value: Scalar, own: &Side, other: &Side) -> Scalar {
    let is_date =
        own.class.is_moment() && (other.class.is_moment() || other.class == Class::Constant);
    if is_date {
        return match value {
            Scalar::Text(text) => moment(&text).unwrap(),
            value => value,
        };
    }
    if let Class::Constant | Class::Moment = own.class {
        // An empty text asks the request for nothing, inside json too.
        return match other.origin == Origin::Request && value == Scalar::Text(String::new()) {
            true => Scalar::Unset,
            false => convert(value, other.class).unwrap(),
        };
    }
    if other.class == Class::Constant {
        return value;
    }
    let value = match own.origin {
        Origin::Request => request_form(&value, own, other).unwrap(),
        _ => value,
    };
    align_field(&value, own.class, other.class)
}

/// A date in one form; none when it is none.
fn moment(text: &str) -> Option<Scalar> {
    let ms = clock::parse_datetime(text)?;
    Some(Scalar::Text(clock::format_ms(ms)))
}

fn align_field(value: &Scalar, class: Class, other: Class) -> Scalar {
    match value {
        Scalar::Text(text) if other.is_numeric() && !class.is_numeric() => {
            match read_number(text) {
                Some(number) => Scalar::Number(number),
                None => value.clone(),
            }
        }
        Scalar::Number(number) if other.is_text() && class == Class::Inside => {
            Scalar::Text(match number {
                Number::Integer(integer) => integer.to_string(),
                Number::Real(real) => format!("{real:?}"),
            })
        }
        _ => value.clone(),
    }
}

/// A number as people write it; not the words for infinity that Rust would take.
fn read_number(text: &str) -> Option<Number> {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
    {
        return None;
    }
    match (text.parse(), text.parse()) {
        (Ok(integer), _) => Some(Number::Integer(integer)),
        (_, Ok(real)) => Some(Number::Real(real)),
        _ => None,
    }
}

/// A constant in the form of what it is compared with; none when it has none.
pub fn convert(constant: Scalar, class: Class) -> Option<Scalar> {
    let text = match constant {
        Scalar::Text(text) => text,
        Scalar::Number(_) if class.is_stored_text() => constant.text(),
        other => return Some(other),
    };
    if class == Class::Inside {
        return Some(Scalar::Text(text));
    }
    if text.is_empty() {
        return Some(Scalar::Unset);
    }
    match class {
        Class::Number => {
            serde_json::from_str::<serde_json::Number>(&text).ok()?;
            read_number(text.trim()).map(Scalar::Number)
        }
        Class::Bool if text == "true" => Some(Scalar::Number(Number::Integer(1))),
        Class::Bool if text == "false" => Some(Scalar::Number(Number::Integer(0))),
        Class::Bool => None,
        class if class.is_moment() => moment(&text),
        _ => Some(Scalar::Text(text)),
    }
}

/// A value inside json: whole numbers are positions of lists, all else names of objects.
pub fn inside(json: &Json, names: &[String]) -> Scalar {
    let mut at = json;
    for name in names {
        let below = match (name.parse::<usize>(), at) {
            (Ok(position), Json::Array(list)) => list.get(position),
            (Err(_), Json::Object(object)) => object.get(name),
            _ => None,
        };
        let Some(below) = below else {
            return Scalar::Unset;
        };
        at = below;
    }
    scalar(at)
}

/// A value of json on its own; lists and objects are the text of their json.
pub fn scalar(json: &Json) -> Scalar {
    match json {
        Json::Null => Scalar::Unset,
        Json::Bool(flag) => Scalar::Number(Number::Integer(i64::from(*flag))),
        Json::Number(number) => Scalar::Number(match number.as_i64() {
            Some(integer) => Number::Integer(integer),
            None => Number::Real(number.as_f64().unwrap()),
        }),
        Json::String(text) => Scalar::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => Scalar::Text(json.to_string()),
    }
}

/// Contains, or with `%` matches as a whole; ASCII letters in any case. A backslash takes from `%`, `_` and
/// another backslash what they mean.
fn is_like(text: &str, pattern: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        let escaped = rest.chars().next().filter(|it| "%_\\".contains(*it));
        match (char, escaped) {
            ('%', _) => tokens.push(None),
            ('\\', Some(escaped)) => {
                rest = &rest[1..];
                tokens.push(Some(escaped));
            }
            (char, _) => tokens.push(Some(char.to_ascii_lowercase())),
        }
    }
    if !tokens.contains(&None) {
        tokens.insert(0, None);
        tokens.push(None);
    }
    matches(&text.chars().collect::<Vec<char>>(), &tokens)
}

/// Keeps all places of the text that the pattern read so far may end at; none in it is anything.
fn matches(text: &[char], pattern: &[Option<char>]) -> bool {
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for token in pattern {
        if let Some(char) = token {
            for at in (0..text.len()).rev() {
                ends[at + 1] = ends[at] && text[at] == *char;
            }
            ends[0] = false;
        } else {
            let first = ends.iter().position(|is_end| *is_end).unwrap_or(ends.len());
            ends[first..].fill(true);
        }
    }
    ends[text.len()]
}
