//! Which records a condition means and how a sort orders them, told from the documentation.
//!
//! Where that is silent this holds, and the tests show that the product agrees: numbers come
//! before texts; compared with a number field a text that reads as a number is one; compared with
//! a text field a number inside json is a text; a whole json field is the text of its json; true
//! and false are 1 and 0; `IN` asks whether any of several values is any of the list.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::world::ADMIN_ID;
use super::world::Caller;
use super::world::Number;
use super::world::Record;
use super::world::Rule;
use super::world::Value;
use super::world::World;
use crate::clock;
use crate::collections::FieldKind;
use crate::filter::Comparison;
use crate::filter::Expr;
use crate::filter::Literal;
use crate::filter::Op;
use crate::filter::Operand;
use crate::filter::SortTerm;

/// On whose behalf a condition looks at records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A rule of the schema.
    Rule,
    Caller(Caller),
}

/// One value to compare.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Unset,
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
    /// The text of json.
    Whole,
    /// A value inside json.
    Inside,
    Constant,
    /// `@request...` that has no value.
    Missing,
}

/// One side of a comparison, for one record.
struct Side {
    scalars: Vec<Scalar>,
    class: Class,
}

impl Class {
    fn is_field(self) -> bool {
        !matches!(self, Class::Constant | Class::Missing)
    }

    fn is_numeric(self) -> bool {
        matches!(self, Class::Number | Class::Bool)
    }

    fn is_text(self) -> bool {
        matches!(self, Class::Text | Class::Date | Class::Datetime)
    }

    fn is_stored_text(self) -> bool {
        self.is_text() || matches!(self, Class::Element | Class::Whole)
    }
}

impl Scalar {
    /// As `~` sees it.
    fn text(&self) -> String {
        match self {
            Scalar::Unset => String::new(),
            Scalar::Number(Number::Integer(integer)) => integer.to_string(),
            Scalar::Number(Number::Real(real)) => real.to_string(),
            Scalar::Text(text) => text.clone(),
        }
    }

    /// The order of a sort: unset, numbers, texts.
    pub fn compare(&self, other: &Scalar) -> Ordering {
        let rank = |scalar: &Scalar| match scalar {
            Scalar::Unset => 0,
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

impl World {
    /// What stands at the end of a path and whether it may be several; none when the path leads
    /// nowhere, or where `sight` may not look.
    pub fn class_of(&self, table: usize, path: &[String], sight: Sight) -> Option<(Class, bool)> {
        let (name, rest) = path.split_first()?;
        match name.as_str() {
            "id" => return rest.is_empty().then_some((Class::Text, false)),
            "created" | "updated" => return rest.is_empty().then_some((Class::Datetime, false)),
            _ => {}
        }
        let field = self.tables[table].collection.field(name)?;
        if field.is_secret() || (field.hidden && sight == Sight::Caller(Caller::Nobody)) {
            return None;
        }
        if rest.is_empty() {
            let class = match &field.kind {
                _ if field.is_multiple() => Class::Element,
                FieldKind::Json { .. } => Class::Whole,
                FieldKind::Number { .. } => Class::Number,
                FieldKind::Bool => Class::Bool,
                FieldKind::Date(_) => Class::Date,
                FieldKind::Datetime(_) => Class::Datetime,
                _ => Class::Text,
            };
            return Some((class, field.is_multiple()));
        }
        if let FieldKind::Json { .. } = field.kind {
            return Some((Class::Inside, false));
        }
        let target = self.target(field)?;
        let is_open = self.tables[target].rules.view == Rule::Everyone;
        if sight == Sight::Caller(Caller::Nobody) && !is_open {
            return None;
        }
        let (class, is_many) = self.class_of(target, rest, sight)?;
        Some((class, is_many || field.is_multiple()))
    }

    /// The values at the end of a path; without a record the one unset value.
    pub fn values(&self, table: usize, record: Option<&Record>, path: &[String]) -> Vec<Scalar> {
        let Some(record) = record else {
            return vec![Scalar::Unset];
        };
        let (name, rest) = path.split_first().unwrap();
        match name.as_str() {
            "id" => return vec![Scalar::Text(record.id.clone())],
            "created" => return vec![Scalar::Text(record.created.clone())],
            "updated" => return vec![Scalar::Text(record.updated.clone())],
            _ => {}
        }
        let collection = &self.tables[table].collection;
        let (field, value) = (
            collection.field(name).unwrap(),
            record.value(collection, name),
        );
        if let (Value::Json(json), false) = (value, rest.is_empty()) {
            return vec![inside(json, rest)];
        }
        if rest.is_empty() {
            return match value {
                Value::Unset => vec![Scalar::Unset],
                Value::Number(number) => vec![Scalar::Number(*number)],
                Value::Flag(flag) => vec![Scalar::Number(Number::Integer(i64::from(*flag)))],
                Value::Text(text) => vec![Scalar::Text(text.clone())],
                Value::List(list) => list.iter().cloned().map(Scalar::Text).collect(),
                Value::Json(json) => vec![Scalar::Text(json.to_string())],
            };
        }
        let (Some(target), ids) = (self.target(field), value.texts()) else {
            return vec![Scalar::Unset];
        };
        if ids.is_empty() {
            return vec![Scalar::Unset];
        }
        ids.iter()
            .flat_map(|id| self.values(target, self.find(target, id), rest))
            .collect()
    }

    pub fn find(&self, table: usize, id: &str) -> Option<&Record> {
        self.tables[table]
            .records
            .iter()
            .find(|record| record.id == id)
    }

    /// Whether a filter or rule makes no sense, or looks where it may not.
    pub fn refuses(&self, expr: &Expr, table: usize, sight: Sight, caller: Caller) -> bool {
        match expr {
            Expr::Not(inner) => self.refuses(inner, table, sight, caller),
            Expr::And(list) | Expr::Or(list) => list
                .iter()
                .any(|expr| self.refuses(expr, table, sight, caller)),
            Expr::Compare(Comparison {
                left, op, right, ..
            }) => self.refuses_pair(left, *op, right, table, sight, caller),
            Expr::In(left, list) => list.iter().any(|literal| {
                let right = Operand::Literal(literal.clone());
                self.refuses_pair(left, Op::Equal, &right, table, sight, caller)
            }),
        }
    }

    fn refuses_pair(
        &self,
        left: &Operand,
        op: Op,
        right: &Operand,
        table: usize,
        sight: Sight,
        caller: Caller,
    ) -> bool {
        let place = |operand: &Operand| match operand {
            Operand::Path(path) if !path[0].starts_with('@') => self.class_of(table, path, sight),
            _ => Some((Class::Constant, false)),
        };
        let (Some((class_a, many_a)), Some((class_b, many_b))) = (place(left), place(right)) else {
            return true;
        };
        let is_wrong = |operand: &Operand, other: Class| {
            place(operand).unwrap().0 == Class::Constant
                && convert(constant(operand, caller).0, other).is_none()
        };
        let is_like = matches!(op, Op::Like | Op::NotLike);
        (many_a && many_b) || (!is_like && (is_wrong(left, class_b) || is_wrong(right, class_a)))
    }

    /// Whether a condition that is not refused holds for a record.
    pub fn holds(&self, expr: &Expr, table: usize, record: &Record, caller: Caller) -> bool {
        match expr {
            Expr::Not(inner) => !self.holds(inner, table, record, caller),
            Expr::And(list) => list
                .iter()
                .all(|expr| self.holds(expr, table, record, caller)),
            Expr::Or(list) => list
                .iter()
                .any(|expr| self.holds(expr, table, record, caller)),
            Expr::Compare(Comparison {
                left,
                op,
                any,
                right,
            }) => {
                let left = self.side(left, table, record, caller);
                let right = self.side(right, table, record, caller);
                compare(&left, *op, *any, &right)
            }
            Expr::In(left, list) => {
                let left = self.side(left, table, record, caller);
                list.iter().any(|literal| {
                    let right =
                        self.side(&Operand::Literal(literal.clone()), table, record, caller);
                    compare(&left, Op::Equal, true, &right)
                })
            }
        }
    }

    pub fn allows(&self, rule: &Rule, table: usize, record: &Record, caller: Caller) -> bool {
        match rule {
            _ if caller == Caller::Admin => true,
            Rule::Admins => false,
            Rule::Everyone => true,
            Rule::When(expr) => self.holds(expr, table, record, caller),
        }
    }

    fn side(&self, operand: &Operand, table: usize, record: &Record, caller: Caller) -> Side {
        match operand {
            Operand::Path(path) if !path[0].starts_with('@') => {
                let (class, _) = self.class_of(table, path, Sight::Rule).unwrap();
                Side {
                    scalars: self.values(table, Some(record), path),
                    class,
                }
            }
            _ => {
                let (scalar, class) = constant(operand, caller);
                Side {
                    scalars: vec![scalar],
                    class,
                }
            }
        }
    }

    pub fn refuses_sort(&self, terms: &[SortTerm], table: usize, sight: Sight) -> bool {
        terms.iter().any(|term| {
            let is_several = self
                .class_of(table, &term.path, sight)
                .is_none_or(|(_, many)| many);
            term.path[0] != "@rowid" && is_several
        })
    }

    /// Sorts records, given by their positions; what is equal keeps the order of its making, or
    /// the reverse of it when the last term descends.
    pub fn sort(&self, terms: &[SortTerm], table: usize, found: &mut Vec<usize>) {
        let key = |at: usize, term: &SortTerm| match term.path[0].as_str() {
            "@rowid" => Scalar::Number(Number::Integer(i64::try_from(at).unwrap())),
            _ => self
                .values(table, self.tables[table].records.get(at), &term.path)
                .remove(0),
        };
        let keys =
            |at: &usize| -> Vec<Scalar> { terms.iter().map(|term| key(*at, term)).collect() };
        let mut keyed: Vec<(Vec<Scalar>, usize)> = found.iter().map(|at| (keys(at), *at)).collect();
        keyed.sort_by(|(a, at_a), (b, at_b)| {
            for (term, (a, b)) in terms.iter().zip(a.iter().zip(b)) {
                let order = if term.descending {
                    b.compare(a)
                } else {
                    a.compare(b)
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
            let is_reversed = terms.last().is_some_and(|term| term.descending);
            if is_reversed {
                at_b.cmp(at_a)
            } else {
                at_a.cmp(at_b)
            }
        });
        *found = keyed.into_iter().map(|(_, at)| at).collect();
    }
}

fn compare(left: &Side, op: Op, any: bool, right: &Side) -> bool {
    let pairs = left
        .scalars
        .iter()
        .flat_map(|a| right.scalars.iter().map(move |b| (a, b)));
    let mut outcomes = pairs.map(|(a, b)| compare_two(a, left.class, op, b, right.class));
    if any {
        outcomes.any(|is_so| is_so)
    } else {
        outcomes.all(|is_so| is_so)
    }
}

fn compare_two(a: &Scalar, class_a: Class, op: Op, b: &Scalar, class_b: Class) -> bool {
    let is_missing = |one: Class, other: Class| one == Class::Missing && other.is_field();
    if is_missing(class_a, class_b) || is_missing(class_b, class_a) {
        // Nothing equals no field, nor is it part of one, before or after another.
        return matches!(op, Op::NotEqual | Op::NotLike);
    }
    match op {
        Op::Like => return is_like(&a.text(), &b.text()),
        Op::NotLike => return !is_like(&a.text(), &b.text()),
        _ => {}
    }
    let (a, b) = align(a, class_a, b, class_b);
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

/// Brings two values into a form in which they can be compared.
fn align(a: &Scalar, class_a: Class, b: &Scalar, class_b: Class) -> (Scalar, Scalar) {
    match (class_a.is_field(), class_b.is_field()) {
        (true, true) => (
            align_field(a, class_a, class_b),
            align_field(b, class_b, class_a),
        ),
        _ => {
            let a = if class_a.is_field() {
                Some(a.clone())
            } else {
                convert(a.clone(), class_b)
            };
            let b = if class_b.is_field() {
                Some(b.clone())
            } else {
                convert(b.clone(), class_a)
            };
            (a.unwrap(), b.unwrap())
        }
    }
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

/// The value of a literal or of an `@` path, as it stands.
fn constant(operand: &Operand, caller: Caller) -> (Scalar, Class) {
    let scalar = match operand {
        Operand::Literal(Literal::Null) => Scalar::Unset,
        Operand::Literal(Literal::Bool(flag)) => Scalar::Number(Number::Integer(i64::from(*flag))),
        Operand::Literal(Literal::Integer(integer)) => Scalar::Number(Number::Integer(*integer)),
        Operand::Literal(Literal::Real(real)) => Scalar::Number(Number::Real(*real)),
        Operand::Literal(Literal::Text(text)) => Scalar::Text(text.clone()),
        Operand::Path(path) if path[0] == "@request" => {
            let is_id = path[1..] == ["auth", "id"];
            return match caller {
                Caller::Admin if is_id => (Scalar::Text(ADMIN_ID.to_owned()), Class::Constant),
                _ => (Scalar::Unset, Class::Missing),
            };
        }
        // All moments here are equally far from those of the records.
        Operand::Path(_) => Scalar::Text(clock::now()),
    };
    (scalar, Class::Constant)
}

/// A constant in the form of what it is compared with; none when it has none.
fn convert(constant: Scalar, class: Class) -> Option<Scalar> {
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
        Class::Date | Class::Datetime => Some(Scalar::Text(match clock::parse_datetime(&text) {
            None => text,
            Some(ms) if class == Class::Date && ms % clock::DAY_MS == 0 => {
                clock::format_ms(ms)[..10].to_owned()
            }
            Some(ms) => clock::format_ms(ms),
        })),
        _ => Some(Scalar::Text(text)),
    }
}

/// A value inside json: whole numbers are positions of lists, all else names of objects.
fn inside(json: &Json, names: &[String]) -> Scalar {
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
    match at {
        Json::Null => Scalar::Unset,
        Json::Bool(flag) => Scalar::Number(Number::Integer(i64::from(*flag))),
        Json::Number(number) => Scalar::Number(match number.as_i64() {
            Some(integer) => Number::Integer(integer),
            None => Number::Real(number.as_f64().unwrap()),
        }),
        Json::String(text) => Scalar::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => Scalar::Text(at.to_string()),
    }
}

/// Contains, or with `%` matches as a whole; ASCII letters in any case.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.to_ascii_lowercase(), pattern.to_ascii_lowercase());
    match pattern.contains('%') {
        true => matches(text.as_bytes(), pattern.as_bytes()),
        false => text.contains(&pattern),
    }
}

/// Keeps all places of the text that the pattern read so far may end at.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for byte in pattern {
        if *byte == b'%' {
            let first = ends.iter().position(|is_end| *is_end).unwrap_or(ends.len());
            ends[first..].fill(true);
        } else {
            for at in (0..text.len()).rev() {
                ends[at + 1] = ends[at] && text[at] == *byte;
            }
            ends[0] = false;
        }
    }
    ends[text.len()]
}
