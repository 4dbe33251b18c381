//! The sides of a comparison: what a value, a path or a word of the request comes to.

use rusqlite::types::Value as Stored;

use super::super::kind::{Kind, coerce};
use super::Query;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::filter::Op;

/// One side of a comparison, resolved.
pub struct Side {
    pub value: SideValue,
    /// The type by which it is compared: always that of an expression; of a constant only when it
    /// is a moment.
    pub kind: Option<Kind>,
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
    One { sql: String },
    /// An SQL `FROM` clause and the expression of each of its rows.
    Many { from: String, sql: String },
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
            (true, _) => SideValue::Many { from, sql },
            (false, true) => SideValue::One { sql },
            (false, false) => SideValue::One {
                sql: format!("(SELECT {sql} FROM {from})"),
            },
        };
        Side {
            value,
            kind: Some(kind),
            from_request: false,
            guard,
        }
    }
}

impl Side {
    pub fn constant(value: Stored) -> Side {
        Side {
            value: SideValue::Constant(value),
            kind: None,
            from_request: false,
            guard: None,
        }
    }

    pub fn of_kind(self, kind: Option<Kind>) -> Side {
        Side { kind, ..self }
    }

    /// Whether it stands in the text of the condition.
    fn is_literal(&self) -> bool {
        matches!(self.value, SideValue::Constant(_)) && !self.from_request
    }

    /// True if a side of the request without a value is compared with this one as any other value
    /// is: `= ''` and `= null` ask for it. A pattern does not: `@request.auth.role ~ '%'` would let
    /// callers without an account in.
    fn asks_for_nothing(&self, op: Op) -> bool {
        self.is_literal() && !matches!(op, Op::Like | Op::NotLike)
    }

    /// Makes it comparable with `other`, which is of type `kind` where that matters. The text ''
    /// that stands in the condition comes before all others if the order matters.
    pub fn term(&self, kind: Option<Kind>, other: &Side, op: Op) -> Result<Term> {
        let is_order = !matches!(op, Op::Equal | Op::NotEqual | Op::Like | Op::NotLike);
        match &self.value {
            SideValue::Constant(Stored::Text(text))
                if text.is_empty()
                    && is_order
                    && !matches!(kind, Some(Kind::Number | Kind::Bool)) =>
            {
                Ok(Term::Value(Stored::Text(String::new())))
            }
            SideValue::Constant(value) => {
                // '' is a text to json in records, but asks the request for nothing, in json too.
                let kind = kind.filter(|kind| *kind != Kind::Json || !other.from_request);
                Ok(Term::Value(coerce(value.clone(), kind)?))
            }
            SideValue::One { sql } | SideValue::Many { sql, .. } => Ok(Term::Sql {
                sql: sql.clone(),
                kind: self.kind,
                may_be_nothing: self.from_request && !other.asks_for_nothing(op),
            }),
            SideValue::Constants(_) => Err(Error::internal("values that were not spread")),
        }
    }
}

/// A side that is ready to be written down.
pub enum Term {
    Sql {
        sql: String,
        kind: Option<Kind>,
        may_be_nothing: bool,
    },
    Value(Stored),
}

/// The time that makes a moment of a day.
pub const MIDNIGHT: &str = "T00:00:00.000Z";

/// The part that days play in a comparison: a field of type `date` holds days and moments, and a
/// day is its midnight. In the order of texts a day comes just before its midnight.
pub enum Days {
    No,
    /// The left side is an expression of such a field, the right one the midnight of this day.
    Midnight {
        day: String,
    },
    /// The same, turned around.
    MidnightFirst,
    /// Both are expressions; those that are of such a field are to be made moments.
    Both {
        left: bool,
        right: bool,
    },
}

impl Days {
    pub fn of(left: &Term, right: &Term) -> Days {
        let is_day = |term: &Term| term.kind() == Some(Kind::Date);
        let is_moment = |term: &Term| term.kind().is_some_and(Kind::is_moment);
        match (left, right) {
            (Term::Sql { .. }, Term::Sql { .. }) if is_moment(left) && is_moment(right) => {
                Days::Both {
                    left: is_day(left),
                    right: is_day(right),
                }
            }
            (term, Term::Value(Stored::Text(text))) if is_day(term) => {
                let day = text.strip_suffix(MIDNIGHT).map(str::to_owned);
                day.map_or(Days::No, |day| Days::Midnight { day })
            }
            (Term::Value(Stored::Text(text)), term) if is_day(term) && text.ends_with(MIDNIGHT) => {
                Days::MidnightFirst
            }
            _ => Days::No,
        }
    }
}

impl Term {
    fn kind(&self) -> Option<Kind> {
        match self {
            Term::Sql { kind, .. } => *kind,
            Term::Value(_) => None,
        }
    }

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

/// True if a side of the request has no value and the other does not ask for that.
pub fn is_nothing_of_request(left: &Side, op: Op, right: &Side) -> bool {
    let is_nothing =
        |side: &Side| side.from_request && matches!(side.value, SideValue::Constant(Stored::Null));
    (is_nothing(left) && !right.asks_for_nothing(op))
        || (!left.asks_for_nothing(op) && is_nothing(right))
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
