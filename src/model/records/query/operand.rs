//! Operands of comparisons, resolved from literals, paths and `@request` values.

use rusqlite::types::Value as Stored;

use super::coercion::{ComparisonType, coerce};
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

/// The joins of a path through tables.
pub struct JoinPath {
    pub alias: String,
    pub joins: String,
    pub is_many: bool,
    /// See [`ResolvedOperand::guard`].
    pub guard: Option<String>,
}

impl JoinPath {
    pub fn end(self, sql: String, kind: ComparisonType) -> ResolvedOperand {
        let from = format!("(SELECT 1){}", self.joins);
        let is_inside = !self.is_many && !self.joins.is_empty();
        let guard = self.guard.map(|guard| match is_inside {
            true => format!("(SELECT {guard} FROM {from})"),
            false => guard,
        });
        let value = match (self.is_many, self.joins.is_empty()) {
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
        }
    }

    pub fn of_kind(self, kind: Option<ComparisonType>) -> ResolvedOperand {
        ResolvedOperand { kind, ..self }
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
                kind: self.kind,
                is_nullable: self.from_request && !other.matches_missing(op),
            }),
            OperandValue::Constants(_) => Err(Error::internal("several values in place of one")),
        }
    }
}

/// An operand that can be written as SQL.
pub enum SqlOperand {
    Sql {
        sql: String,
        kind: Option<ComparisonType>,
        is_nullable: bool,
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

/// True if one operand is an `@request` path without a value and the other does not ask for unset.
pub fn is_missing_request_value(left: &ResolvedOperand, op: Op, right: &ResolvedOperand) -> bool {
    let is_missing = |side: &ResolvedOperand| {
        side.from_request && matches!(side.value, OperandValue::Constant(Stored::Null))
    };
    (is_missing(left) && !right.matches_missing(op))
        || (!left.matches_missing(op) && is_missing(right))
}
