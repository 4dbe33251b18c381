//! The sides of a comparison: what a value, a path or a word of the request comes to.

use rusqlite::types::Value as Stored;

use super::super::kind::Kind;
use super::super::kind::coerce;
use super::Query;
use crate::clock;
use crate::error::Error;
use crate::error::Result;

/// One side of a comparison, resolved.
pub struct Side {
    pub value: SideValue,
    /// It stands for an `@request` path: without a value it equals nothing but a text that asks
    /// for that.
    pub from_request: bool,
    /// SQL: the caller may see the value. A comparison with one that it may not see is false.
    pub guard: Option<String>,
}

pub enum SideValue {
    /// A value that is known now.
    Constant(Stored),
    /// Several values that are known now.
    Constants(Vec<Stored>),
    /// An SQL expression with one value.
    One { sql: String, kind: Kind },
    /// An SQL `FROM` clause and the expression of each of its rows.
    Many {
        from: String,
        sql: String,
        kind: Kind,
    },
}

/// A path on its way through tables.
pub struct Walk {
    pub alias: String,
    pub joins: String,
    pub is_many: bool,
    /// See [`Side::guard`].
    pub guard: Option<String>,
}

impl Walk {
    pub fn end(self, sql: String, kind: Kind) -> Side {
        let from = format!("(SELECT 1){}", self.joins);
        let is_inside = !self.is_many && !self.joins.is_empty();
        let guard = self.guard.map(|guard| match is_inside {
            true => format!("(SELECT {guard} FROM {from})"),
            false => guard,
        });
        let value = match (self.is_many, self.joins.is_empty()) {
            (true, _) => SideValue::Many { from, sql, kind },
            (false, true) => SideValue::One { sql, kind },
            (false, false) => SideValue::One {
                sql: format!("(SELECT {sql} FROM {from})"),
                kind,
            },
        };
        Side {
            value,
            from_request: false,
            guard,
        }
    }
}

impl Side {
    pub fn constant(value: Stored) -> Side {
        Side {
            value: SideValue::Constant(value),
            from_request: false,
            guard: None,
        }
    }

    pub fn kind(&self) -> Option<Kind> {
        match &self.value {
            SideValue::Constant(_) | SideValue::Constants(_) => None,
            SideValue::One { kind, .. } | SideValue::Many { kind, .. } => Some(*kind),
        }
    }

    /// Whether it stands in the text of the condition.
    pub fn is_literal(&self) -> bool {
        matches!(self.value, SideValue::Constant(_)) && !self.from_request
    }

    /// Makes it comparable with `other`, which is of type `kind` where that matters.
    pub fn term(&self, kind: Option<Kind>, other: &Side) -> Result<Term> {
        match &self.value {
            SideValue::Constant(value) => Ok(Term::Value(coerce(value.clone(), kind)?)),
            SideValue::One { sql, .. } | SideValue::Many { sql, .. } => Ok(Term::Sql {
                sql: sql.clone(),
                may_be_nothing: self.from_request && !other.is_literal(),
            }),
            SideValue::Constants(_) => Err(Error::internal("values that were not spread")),
        }
    }
}

/// A side that is ready to be written down.
pub enum Term {
    Sql { sql: String, may_be_nothing: bool },
    Value(Stored),
}

impl Term {
    pub fn is_set(&self) -> bool {
        matches!(self, Term::Value(value) if *value != Stored::Null)
    }

    /// Whether it equals nothing, not even what is unset, when it has no value.
    pub fn may_be_nothing(&self) -> bool {
        matches!(
            self,
            Term::Sql {
                may_be_nothing: true,
                ..
            }
        )
    }
}

/// Whether a side of the request has no value and meets anything but a word of the text.
pub fn is_nothing_of_request(left: &Side, right: &Side) -> bool {
    let is_nothing =
        |side: &Side| side.from_request && matches!(side.value, SideValue::Constant(Stored::Null));
    (is_nothing(left) && !right.is_literal()) || (!left.is_literal() && is_nothing(right))
}

impl Query<'_> {
    /// Moments relative to the request, all in UTC (names as in PocketBase).
    pub(super) fn moment(&self, name: &str, path: &[String]) -> Result<String> {
        let day = self.now_ms.div_euclid(clock::DAY_MS) * clock::DAY_MS;
        let ms = match name {
            "now" => self.now_ms,
            "todayStart" => day,
            "todayEnd" => day + clock::DAY_MS - 1,
            "yesterday" => self.now_ms - clock::DAY_MS,
            "tomorrow" => self.now_ms + clock::DAY_MS,
            "monthStart" => {
                let text = clock::format_ms(day);
                clock::parse_datetime(&format!("{}-01", &text[..7])).unwrap_or(day)
            }
            "yearStart" => {
                let text = clock::format_ms(day);
                clock::parse_datetime(&format!("{}-01-01", &text[..4])).unwrap_or(day)
            }
            _ => return Err(Error::invalid(format!("{} is not known.", path.join(".")))),
        };
        if path.len() > 1 {
            return Err(Error::invalid(format!("{} is not known.", path.join("."))));
        }
        Ok(clock::format_ms(ms))
    }
}
