//! Comparison of single values, written from the documentation.
//!
//! Where the documentation is silent the following holds, and the tests show that the server
//! agrees: numbers sort before strings; compared with a number field, a string that parses as a
//! number is one; compared with a text field, a number inside json is a string; a whole json field
//! is its JSON text; true and false are 1 and 0.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::world::Number;
use crate::base::clock;
use crate::model::filter::Op;

/// A value to compare.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// No value: of a field that is empty, or the literal `null`.
    Unset,
    /// No value where a field could be: at the end of a path that leads nowhere, in json, or of a
    /// nullable field.
    Missing,
    /// An email that the caller may not see.
    Hidden,
    Number(Number),
    Text(String),
    /// The values of a list. `~` searches it as one, other operators compare each.
    List(Vec<Scalar>),
}

/// The type of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandType {
    Text,
    Date,
    Datetime,
    Number,
    Bool,
    /// A string of a list.
    Element,
    /// A json field, or a value inside one.
    Inside,
    /// Untyped: converted to the type of the other operand.
    Constant,
    /// A date constant: `@now`, or a date of the account or the body.
    Moment,
}

/// The origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Field,
    /// A literal of the condition.
    Text,
    /// `@request`: the account or the body.
    Request,
}

/// An operand evaluated for one record.
#[derive(Clone, Debug)]
pub struct ModelOperand {
    pub scalars: Vec<Scalar>,
    pub class: OperandType,
    pub origin: Origin,
}

impl OperandType {
    pub fn is_numeric(self) -> bool {
        matches!(self, OperandType::Number | OperandType::Bool)
    }

    fn is_text(self) -> bool {
        matches!(
            self,
            OperandType::Text | OperandType::Date | OperandType::Datetime
        )
    }

    fn is_stored_text(self) -> bool {
        self.is_text() || matches!(self, OperandType::Element | OperandType::Moment)
    }

    /// Dates are compared as points in time.
    fn is_moment(self) -> bool {
        matches!(
            self,
            OperandType::Date | OperandType::Datetime | OperandType::Moment
        )
    }
}

impl Scalar {
    /// The values to compare, each by itself.
    pub fn elements(self) -> Vec<Scalar> {
        match self {
            Scalar::List(list) if list.is_empty() => vec![Scalar::Missing],
            Scalar::List(list) => list,
            scalar => vec![scalar],
        }
    }

    /// The string that `~` matches.
    fn text(&self) -> String {
        match self {
            Scalar::Unset | Scalar::Missing | Scalar::Hidden | Scalar::List(_) => String::new(),
            Scalar::Number(Number::Integer(integer)) => integer.to_string(),
            Scalar::Number(Number::Real(real)) => real.to_string(),
            Scalar::Text(text) => text.clone(),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Scalar::Unset | Scalar::Missing)
    }

    /// Sort order: missing, unset, numbers, strings.
    pub fn compare(&self, other: &Scalar) -> Ordering {
        let rank = |scalar: &Scalar| match scalar {
            Scalar::Missing | Scalar::Hidden | Scalar::List(_) => 0,
            Scalar::Unset => 1,
            Scalar::Number(_) => 2,
            Scalar::Text(_) => 3,
        };
        match (self, other) {
            (Scalar::Number(a), Scalar::Number(b)) => a.compare(*b),
            (Scalar::Text(a), Scalar::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// True if a comparison holds for all pairs of values, or for any. With an email that the caller
/// may not see it is `hidden`.
pub fn compare(left: &ModelOperand, op: Op, any: bool, right: &ModelOperand, hidden: bool) -> bool {
    let is_like = matches!(op, Op::Like | Op::NotLike);
    let elements = |side: &ModelOperand| -> Vec<Scalar> {
        let scalars = side.scalars.iter().cloned();
        scalars.flat_map(Scalar::elements).collect()
    };
    let a = match is_like {
        true => left.scalars.clone(),
        false => elements(left),
    };
    let b = elements(right);
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    let outcomes = pairs.map(|(a, b)| match (a, b) {
        (Scalar::Hidden, _) | (_, Scalar::Hidden) => Some(hidden),
        (Scalar::List(_), b) if is_nothing(b, right, op, left) => Some(false),
        (Scalar::List(_), Scalar::Missing) => None,
        (Scalar::List(list), _) => {
            let is_in = |one: &Scalar| compare_two(one, left, Op::Like, b, right) == Some(true);
            Some(list.iter().any(is_in) == (op == Op::Like))
        }
        _ => compare_two(a, left, op, b, right),
    });
    let outcomes: Vec<Option<bool>> = outcomes.collect();
    let holds = outcomes.contains(&Some(true));
    holds && (any || !outcomes.contains(&Some(false)))
}

/// True if the comparison holds, false if it fails; none if a value is missing.
fn compare_two(
    a: &Scalar,
    left: &ModelOperand,
    op: Op,
    b: &Scalar,
    right: &ModelOperand,
) -> Option<bool> {
    let (no_a, no_b) = (
        is_nothing(a, left, op, right),
        is_nothing(b, right, op, left),
    );
    if no_a || no_b {
        // A value that the request does not have equals nothing, and nothing else is true of it
        // but that an empty field does not contain a text.
        let is_empty = *a == Scalar::Unset && !no_b;
        return Some(op == Op::NotEqual || (op == Op::NotLike && is_empty));
    }
    let one_is_missing = *a == Scalar::Missing || *b == Scalar::Missing;
    match op {
        Op::Like | Op::NotLike if one_is_missing => return None,
        Op::Like => return Some(is_like(&a.text(), &b.text())),
        Op::NotLike => return Some(!is_like(&a.text(), &b.text())),
        _ => {}
    }
    let is_order = !matches!(op, Op::Equal | Op::NotEqual);
    let align = |value: &Scalar, own: &ModelOperand, other: &ModelOperand| {
        // The literal `''` sorts before all other strings.
        let is_empty = own.origin == Origin::Text && *value == Scalar::Text(String::new());
        match is_order && is_empty && !other.class.is_numeric() {
            true => value.clone(),
            false => align(value.clone(), own, other),
        }
    };
    let (a, b) = (align(a, left, right), align(b, right, left));
    // A field without a value is the empty string.
    let ordered = |value: Scalar, own: &ModelOperand| match value {
        Scalar::Unset if is_order && own.origin == Origin::Field => Scalar::Text(String::new()),
        value => value,
    };
    let (a, b) = (ordered(a, left), ordered(b, right));
    if is_order && (a.is_nothing() || b.is_nothing()) {
        return None;
    }
    let is_equal = (a.is_nothing() && b.is_nothing()) || a.compare(&b) == Ordering::Equal;
    let order = a.compare(&b);
    Some(match op {
        // Two json values are equal or not. Nothing else says that of a missing value.
        Op::Equal if !is_equal && one_is_missing && !asks_for_unset(&a, left, &b, right) => {
            return None;
        }
        Op::Equal => is_equal,
        Op::NotEqual => !is_equal,
        Op::Greater => order == Ordering::Greater,
        Op::GreaterOrEqual => order != Ordering::Less,
        Op::Less => order == Ordering::Less,
        Op::LessOrEqual => order != Ordering::Greater,
        Op::Like | Op::NotLike => unreachable!("answered above"),
    })
}

/// True if an equality holds or fails even for a missing value: one with unset, between two
/// fields, or of json.
fn asks_for_unset(a: &Scalar, left: &ModelOperand, b: &Scalar, right: &ModelOperand) -> bool {
    let is_field = |side: &ModelOperand| side.origin == Origin::Field;
    let is_json = |side: &ModelOperand| side.class == OperandType::Inside;
    let is_unset = |value: &Scalar, side: &ModelOperand| !is_field(side) && value.is_nothing();
    (is_field(left) && is_field(right))
        || is_json(left)
        || is_json(right)
        || is_unset(a, left)
        || is_unset(b, right)
}

/// True if a value of the request is missing for the other operand: it is unset, or does not fit
/// the type. Only a literal can ask for unset, and no pattern can.
fn is_nothing(value: &Scalar, own: &ModelOperand, op: Op, other: &ModelOperand) -> bool {
    let is_asked_for = other.origin == Origin::Text && !matches!(op, Op::Like | Op::NotLike);
    if own.origin != Origin::Request || is_asked_for {
        return false;
    }
    value.is_nothing() || request_form(value, own, other).is_none()
}

/// Converts a value of the request to the type of the other operand.
fn request_form(value: &Scalar, own: &ModelOperand, other: &ModelOperand) -> Option<Scalar> {
    let is_text = matches!(value, Scalar::Text(_));
    let is_constant = matches!(own.class, OperandType::Constant | OperandType::Moment);
    if is_constant || (is_text && other.class.is_numeric()) {
        return convert(value.clone(), other.class);
    }
    Some(value.clone())
}

/// Converts a value for the comparison with the other operand.
fn align(value: Scalar, own: &ModelOperand, other: &ModelOperand) -> Scalar {
    let is_date =
        own.class.is_moment() && (other.class.is_moment() || other.class == OperandType::Constant);
    if is_date {
        return match value {
            Scalar::Text(text) => moment(&text).unwrap(),
            value => value,
        };
    }
    if let OperandType::Constant | OperandType::Moment = own.class {
        // In a comparison with `@request` the empty string asks for unset, even inside json.
        return match other.origin == Origin::Request && value == Scalar::Text(String::new()) {
            true => Scalar::Unset,
            false => convert(value, other.class).unwrap(),
        };
    }
    if other.class == OperandType::Constant {
        return value;
    }
    let value = match own.origin {
        Origin::Request => request_form(&value, own, other).unwrap(),
        _ => value,
    };
    align_field(&value, own.class, other.class)
}

/// Normalizes a date; none if it is not one.
fn moment(text: &str) -> Option<Scalar> {
    let ms = clock::parse_datetime(text)?;
    Some(Scalar::Text(clock::format_ms(ms)))
}

fn align_field(value: &Scalar, class: OperandType, other: OperandType) -> Scalar {
    match value {
        Scalar::Text(text) if other.is_numeric() && !class.is_numeric() => {
            match read_number(text) {
                Some(number) => Scalar::Number(number),
                None => value.clone(),
            }
        }
        Scalar::Number(number) if other.is_text() && class == OperandType::Inside => {
            Scalar::Text(match number {
                Number::Integer(integer) => integer.to_string(),
                Number::Real(real) => format!("{real:?}"),
            })
        }
        _ => value.clone(),
    }
}

/// Parses a number, without the words for infinity that Rust accepts.
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

/// Converts a constant to the type of the other operand; none if it does not fit.
pub fn convert(constant: Scalar, class: OperandType) -> Option<Scalar> {
    let text = match constant {
        Scalar::Text(text) => text,
        Scalar::Number(_) if class.is_stored_text() => constant.text(),
        other => return Some(other),
    };
    if class == OperandType::Inside {
        return Some(Scalar::Text(text));
    }
    if text.is_empty() {
        return Some(Scalar::Unset);
    }
    match class {
        OperandType::Number => {
            serde_json::from_str::<serde_json::Number>(&text).ok()?;
            read_number(text.trim()).map(Scalar::Number)
        }
        OperandType::Bool if text == "true" => Some(Scalar::Number(Number::Integer(1))),
        OperandType::Bool if text == "false" => Some(Scalar::Number(Number::Integer(0))),
        OperandType::Bool => None,
        class if class.is_moment() => moment(&text),
        _ => Some(Scalar::Text(text)),
    }
}

/// A value inside json: integers are array positions, other names are object keys.
pub fn inside(json: &Json, names: &[String]) -> Scalar {
    let mut at = json;
    for name in names {
        let below = match (name.parse::<usize>(), at) {
            (Ok(position), Json::Array(list)) => list.get(position),
            (Err(_), Json::Object(object)) => object.get(name),
            _ => None,
        };
        let Some(below) = below else {
            return Scalar::Missing;
        };
        at = below;
    }
    scalar(at)
}

/// A JSON value as a scalar; arrays and objects are their JSON text.
pub fn scalar(json: &Json) -> Scalar {
    match json {
        Json::Null => Scalar::Missing,
        Json::Bool(flag) => Scalar::Number(Number::Integer(i64::from(*flag))),
        Json::Number(number) => Scalar::Number(match number.as_i64() {
            Some(integer) => Number::Integer(integer),
            None => Number::Real(number.as_f64().unwrap()),
        }),
        Json::String(text) => Scalar::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => Scalar::Text(json.to_string()),
    }
}

/// Substring match, or with `%` a match of the whole string, ignoring ASCII case. A backslash
/// escapes `%`, `_` and a backslash.
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

/// Tracks all positions in the text where the pattern read so far can end; none means no match.
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
