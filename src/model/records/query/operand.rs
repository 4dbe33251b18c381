//! Operands of comparisons, resolved from literals, paths and `@request` values.

use rusqlite::types::Value as Stored;
use serde_json::Value;

use super::builder::Query;
use super::coercion::{ComparisonType, coerce};
use super::joins::{JoinPath, JoinStep, from};
use crate::base::error::{Error, Result};
use crate::model::filter::Op;

/// A resolved operand.
pub struct ResolvedOperand {
    pub value: OperandValue,
    /// The type of the comparison. An expression always has one; a constant only if it is a
    /// datetime.
    pub kind: Option<ComparisonType>,
    /// The operand is an `@request` path: without a value it equals only a literal that asks for
    /// unset.
    pub from_request: bool,
    /// SQL that is true if the caller may see the value. A comparison with a value that it may not
    /// see is false.
    pub guard: Option<String>,
    /// Each value is a list of strings as JSON, whose elements are compared.
    pub is_list: bool,
    /// The value is a column with an index.
    pub is_indexed: bool,
    /// SQL for the same value where a field without a value is the empty string, and only a
    /// missing value is NULL; none if the two do not differ.
    pub exact: Option<String>,
}

pub enum OperandValue {
    /// A constant.
    Constant(Stored),
    /// Several constants.
    Constants(Vec<Stored>),
    /// An SQL expression with one value.
    One { sql: String },
    /// An SQL `FROM` clause, and an expression with a value for each of its rows.
    Many { from: String, sql: String },
}

impl JoinPath {
    pub fn end(self, sql: String, kind: ComparisonType) -> ResolvedOperand {
        let from = from(&self.steps);
        let is_inside = !self.is_many && !self.steps.is_empty();
        let guard = self.guard.map(|guard| match is_inside {
            true => format!("(SELECT {guard} FROM {from})"),
            false => guard,
        });
        let value = match (self.is_many, self.steps.is_empty()) {
            (true, _) => OperandValue::Many { from, sql },
            (false, true) => OperandValue::One { sql },
            (false, false) => OperandValue::One {
                sql: format!("(SELECT {sql} FROM {from})"),
            },
        };
        ResolvedOperand {
            value,
            kind: Some(kind),
            from_request: false,
            guard,
            is_list: false,
            is_indexed: false,
            exact: None,
        }
    }

    /// The same for a field that is never missing in a record. Without a value it is `empty`.
    pub fn end_at_column(
        self,
        sql: String,
        kind: ComparisonType,
        empty: &'static str,
    ) -> ResolvedOperand {
        // A cast, since SQLite compares the result of coalesce as if it had no type.
        let exact = match self.is_stepped {
            false => format!("CAST(coalesce({sql}, '{empty}') AS TEXT)"),
            true => format!(
                "CAST(CASE WHEN {}.id IS NOT NULL THEN coalesce({sql}, '{empty}') END AS TEXT)",
                self.alias
            ),
        };
        let exact = match !self.is_many && !self.steps.is_empty() {
            true => format!("(SELECT {exact} FROM {})", from(&self.steps)),
            false => exact,
        };
        ResolvedOperand {
            exact: Some(exact),
            ..self.end(sql, kind)
        }
    }
}

impl ResolvedOperand {
    pub fn constant(value: Stored) -> ResolvedOperand {
        ResolvedOperand {
            value: OperandValue::Constant(value),
            kind: None,
            from_request: false,
            guard: None,
            is_list: false,
            is_indexed: false,
            exact: None,
        }
    }

    pub fn of_kind(self, kind: Option<ComparisonType>) -> ResolvedOperand {
        ResolvedOperand { kind, ..self }
    }

    pub fn indexed(self, is_indexed: bool) -> ResolvedOperand {
        ResolvedOperand { is_indexed, ..self }
    }

    /// True for a literal of the condition.
    fn is_literal(&self) -> bool {
        matches!(self.value, OperandValue::Constant(_)) && !self.from_request
    }

    /// True if this operand matches a missing `@request` value: the literals `''` and `null` do. A
    /// pattern does not, or `@request.auth.role ~ '%'` would admit anonymous callers.
    fn matches_missing(&self, op: Op) -> bool {
        self.is_literal() && !op.is_pattern()
    }

    /// Converts the operand for a comparison of type `kind` with `other`. In an ordering comparison
    /// the literal `''` stays a string, which sorts before all others.
    pub fn to_sql_operand(
        &self,
        kind: Option<ComparisonType>,
        other: &ResolvedOperand,
        op: Op,
    ) -> Result<SqlOperand> {
        let is_order = op.is_ordering();
        match &self.value {
            OperandValue::Constant(Stored::Text(text))
                if text.is_empty()
                    && is_order
                    && !matches!(kind, Some(ComparisonType::Number | ComparisonType::Bool)) =>
            {
                Ok(SqlOperand::Value(Stored::Text(String::new())))
            }
            OperandValue::Constant(value) => {
                // `''` is a string for json in records, but stands for unset in a comparison with
                // `@request`.
                let kind = kind.filter(|kind| *kind != ComparisonType::Json || !other.from_request);
                Ok(SqlOperand::Value(coerce(value.clone(), kind)?))
            }
            OperandValue::One { sql } | OperandValue::Many { sql, .. } => Ok(SqlOperand::Sql {
                sql: sql.clone(),
                exact: self.exact.clone(),
                kind: self.kind,
                is_nullable: self.from_request && !other.matches_missing(op),
                is_list: self.is_list,
            }),
            OperandValue::Constants(_) => Err(Error::internal("several values in place of one")),
        }
    }
}

impl Query<'_> {
    /// An operand for each string of a list, in place of the list.
    pub fn over_list(&mut self, side: ResolvedOperand) -> ResolvedOperand {
        if !side.is_list {
            return side;
        }
        let (from, list) = match &side.value {
            OperandValue::One { sql } => (from(&[]), sql),
            OperandValue::Many { from, sql } => (from.clone(), sql),
            OperandValue::Constant(_) | OperandValue::Constants(_) => return side,
        };
        let alias = self.alias();
        let step = JoinStep::values(list, &alias);
        ResolvedOperand {
            value: OperandValue::Many {
                from: format!("{from} LEFT JOIN {}", step.source),
                sql: format!("{alias}.value"),
            },
            is_list: false,
            exact: None,
            ..side
        }
    }

    /// Several constants as rows.
    pub fn expand_multi(&mut self, side: ResolvedOperand) -> ResolvedOperand {
        match side.value {
            OperandValue::Constants(_) => {
                let list = self.as_list(side);
                self.over_list(list)
            }
            _ => side,
        }
    }

    /// Several constants as one list.
    pub fn as_list(&mut self, side: ResolvedOperand) -> ResolvedOperand {
        let OperandValue::Constants(values) = &side.value else {
            return side;
        };
        let list = self.bind(Stored::Text(json_list(values).to_string()));
        ResolvedOperand {
            value: OperandValue::One { sql: list },
            kind: side.kind.or(Some(ComparisonType::Text)),
            is_list: true,
            ..side
        }
    }
}

/// The JSON of several constants.
fn json_list(values: &[Stored]) -> Value {
    let json = |value: &Stored| match value {
        Stored::Integer(number) => Value::from(*number),
        Stored::Real(number) => Value::from(*number),
        Stored::Text(text) => Value::from(text.as_str()),
        Stored::Null | Stored::Blob(_) => Value::Null,
    };
    values.iter().map(json).collect()
}

/// An operand that can be written as SQL.
pub enum SqlOperand {
    Sql {
        sql: String,
        /// See [`ResolvedOperand::exact`].
        exact: Option<String>,
        kind: Option<ComparisonType>,
        is_nullable: bool,
        /// See [`ResolvedOperand::is_list`]. Only the left side of a pattern is one.
        is_list: bool,
    },
    Value(Stored),
}

impl SqlOperand {
    pub fn kind(&self) -> Option<ComparisonType> {
        match self {
            SqlOperand::Sql { kind, .. } => *kind,
            SqlOperand::Value(_) => None,
        }
    }

    pub fn is_set(&self) -> bool {
        matches!(self, SqlOperand::Value(value) if *value != Stored::Null)
    }

    /// True for a string that is not empty.
    pub fn is_some_text(&self) -> bool {
        matches!(self, SqlOperand::Value(Stored::Text(text)) if !text.is_empty())
    }

    /// True if a missing value equals nothing, not even unset.
    pub fn is_nullable(&self) -> bool {
        matches!(
            self,
            SqlOperand::Sql {
                is_nullable: true,
                ..
            }
        )
    }
}

/// The outcome of a comparison if one operand is an `@request` path without a value and the other
/// does not ask for unset. An empty field of the request contains no text.
pub fn outcome_without_value(
    left: &ResolvedOperand,
    op: Op,
    right: &ResolvedOperand,
) -> Option<bool> {
    let is_missing = |side: &ResolvedOperand| {
        side.from_request && matches!(side.value, OperandValue::Constant(Stored::Null))
    };
    let (no_left, no_right) = (is_missing(left), is_missing(right));
    let is_outcome =
        (no_left && !right.matches_missing(op)) || (!left.matches_missing(op) && no_right);
    let is_empty = no_left && left.exact.is_some() && !no_right;
    is_outcome.then_some(op == Op::NotEqual || (op == Op::NotLike && is_empty))
}
