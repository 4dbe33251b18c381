//! The sides of a comparison: what a value, a path or a word of the request comes to.

use rusqlite::types::Value as Stored;

use super::coercion::{ComparisonType, coerce};
use crate::base::error::{Error, Result};
use crate::model::filter::Op;

/// One side of a comparison, resolved.
pub struct ResolvedOperand {
    pub value: OperandValue,
    /// The type by which it is compared: always that of an expression; of a constant only when it
    /// is a moment.
    pub kind: Option<ComparisonType>,
    /// It stands for an `@request` path: without a value it equals nothing but a text that asks
    /// for that.
    pub from_request: bool,
    /// SQL: the caller may see the value. A comparison with one that it may not see is false.
    pub guard: Option<String>,
}

pub enum OperandValue {
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

    /// Whether it stands in the text of the condition.
    fn is_literal(&self) -> bool {
        matches!(self.value, OperandValue::Constant(_)) && !self.from_request
    }

    /// True if a side of the request without a value is compared with this one as any other value
    /// is: `= ''` and `= null` ask for it. A pattern does not: `@request.auth.role ~ '%'` would let
    /// callers without an account in.
    fn matches_missing(&self, op: Op) -> bool {
        self.is_literal() && !matches!(op, Op::Like | Op::NotLike)
    }

    /// Makes it comparable with `other`, which is of type `kind` where that matters. The text ''
    /// that stands in the condition comes before all others if the order matters.
    pub fn to_sql_operand(
        &self,
        kind: Option<ComparisonType>,
        other: &ResolvedOperand,
        op: Op,
    ) -> Result<SqlOperand> {
        let is_order = !matches!(op, Op::Equal | Op::NotEqual | Op::Like | Op::NotLike);
        match &self.value {
            OperandValue::Constant(Stored::Text(text))
                if text.is_empty()
                    && is_order
                    && !matches!(kind, Some(ComparisonType::Number | ComparisonType::Bool)) =>
            {
                Ok(SqlOperand::Value(Stored::Text(String::new())))
            }
            OperandValue::Constant(value) => {
                // '' is a text to json in records, but asks the request for nothing, in json too.
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

/// A side that is ready to be written down.
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

    /// Whether it equals nothing, not even what is unset, when it has no value.
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

/// True if a side of the request has no value and the other does not ask for that.
pub fn is_missing_request_value(left: &ResolvedOperand, op: Op, right: &ResolvedOperand) -> bool {
    let is_nothing = |side: &ResolvedOperand| {
        side.from_request && matches!(side.value, OperandValue::Constant(Stored::Null))
    };
    (is_nothing(left) && !right.matches_missing(op))
        || (!left.matches_missing(op) && is_nothing(right))
}
