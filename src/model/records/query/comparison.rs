//! Comparisons as SQL: of single values, of any or all of several, and of days with moments.

use rusqlite::types::Value as Stored;

use super::builder::{PathRoot, Query};
use super::coercion::ComparisonType;
use super::email_visibility::{guarded, guarded_equality};
use super::like;
use super::operand::{OperandValue, ResolvedOperand, SqlOperand, is_missing_request_value};
use crate::base::error::{Error, Result};
use crate::model::filter::{Comparison, Literal, Op, Operand};

/// The time that makes a moment of a day.
const MIDNIGHT: &str = "T00:00:00.000Z";

/// The part that days play in a comparison: a field of type `date` holds days and moments, and a
/// day is its midnight. In the order of texts a day comes just before its midnight.
enum DayComparison {
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

impl DayComparison {
    fn of(left: &SqlOperand, right: &SqlOperand) -> DayComparison {
        let is_day = |term: &SqlOperand| term.kind() == Some(ComparisonType::Date);
        let is_moment = |term: &SqlOperand| term.kind().is_some_and(ComparisonType::is_moment);
        match (left, right) {
            (SqlOperand::Sql { .. }, SqlOperand::Sql { .. })
                if is_moment(left) && is_moment(right) =>
            {
                DayComparison::Both {
                    left: is_day(left),
                    right: is_day(right),
                }
            }
            (term, SqlOperand::Value(Stored::Text(text))) if is_day(term) => {
                let day = text.strip_suffix(MIDNIGHT).map(str::to_owned);
                day.map_or(DayComparison::No, |day| DayComparison::Midnight { day })
            }
            (SqlOperand::Value(Stored::Text(text)), term)
                if is_day(term) && text.ends_with(MIDNIGHT) =>
            {
                DayComparison::MidnightFirst
            }
            _ => DayComparison::No,
        }
    }
}

impl Query<'_> {
    pub fn comparison(
        &mut self,
        comparison: &Comparison,
        positive: bool,
        root: PathRoot<'_>,
    ) -> Result<String> {
        let bound = self.params.len();
        let mut left = self.operand(&comparison.left, root)?;
        let mut right = self.operand(&comparison.right, root)?;
        let (op, any) = (comparison.op, comparison.any);
        // A pattern is text, whatever the type of what it is held against.
        let is_like = matches!(op, Op::Like | Op::NotLike);
        left.align_to(&right, is_like);
        right.align_to(&left, is_like);
        let is_nothing = is_missing_request_value(&left, op, &right);
        let of_nothing = |positive| truth(matches!(op, Op::NotEqual | Op::NotLike) == positive);
        if is_nothing && left.guard.is_none() && right.guard.is_none() {
            // What the field's path has bound is not in the statement.
            self.params.truncate(bound);
            return Ok(of_nothing(positive));
        }
        let wanted = |side: &ResolvedOperand| side.kind.filter(|_| !is_like);
        let (of_left, of_right) = (wanted(&left), wanted(&right));
        let (left, right) = (self.expand_multi(left)?, self.expand_multi(right)?);
        let guards = [&left.guard, &right.guard].into_iter().flatten().cloned();
        let guard = guards.reduce(|one, other| format!("{one} AND {other}"));
        let leaf = |query: &mut Self, a: &SqlOperand, b: &SqlOperand, positive, otherwise| {
            let sql = match is_nothing {
                true => of_nothing(positive),
                false => query.leaf(a, op, b, positive)?,
            };
            let is_equality = matches!((op, positive), (Op::Equal, true) | (Op::NotEqual, false));
            Ok(match &guard {
                Some(guard) if is_equality && otherwise == "FALSE" && !query.searches => {
                    guarded_equality(&sql, guard)
                }
                Some(guard) => guarded(&sql, guard, otherwise),
                None => sql,
            })
        };
        // A moment that meets no type stays one.
        let a = left.to_sql_operand(of_right.or(of_left), &right, op)?;
        let b = right.to_sql_operand(of_left.or(of_right), &left, op)?;
        let from = match (&left.value, &right.value) {
            // Only what a request brings is short enough to be held against each of several.
            (OperandValue::Many { from: a, .. }, OperandValue::Many { from: b, .. })
                if left.from_request || right.from_request =>
            {
                format!("{a}, {b}")
            }
            (OperandValue::Many { .. }, OperandValue::Many { .. }) => {
                return Err(Error::invalid(
                    "Only one side of a comparison may have several values.",
                ));
            }
            (OperandValue::Many { from, .. }, _) | (_, OperandValue::Many { from, .. }) => {
                from.clone()
            }
            _ => return leaf(self, &a, &b, positive, "FALSE"),
        };
        // Any of the rows of `from`, or all of them: there is none that is not so.
        let (not, otherwise) = match any == positive {
            true => ("", "FALSE"),
            false => ("NOT ", "TRUE"),
        };
        let inner = leaf(self, &a, &b, any, otherwise)?;
        Ok(format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {inner})"))
    }

    /// One comparison of single values; without NULL as a result where it matters.
    fn leaf(
        &mut self,
        left: &SqlOperand,
        op: Op,
        right: &SqlOperand,
        positive: bool,
    ) -> Result<String> {
        let equal = match op {
            Op::Like => return self.like(left, right, positive),
            Op::NotLike => return self.like(left, right, !positive),
            op => op != Op::NotEqual,
        };
        let one_is_set = left.is_set() || right.is_set();
        let one_may_be_nothing = left.is_nullable() || right.is_nullable();
        let (a, b) = match DayComparison::of(left, right) {
            DayComparison::No => (self.sql(left), self.sql(right)),
            DayComparison::Both { left: l, right: r } => {
                (self.as_moment(left, l), self.as_moment(right, r))
            }
            DayComparison::Midnight { day } => {
                return Ok(self.at_midnight(left, op, right, day, positive));
            }
            DayComparison::MidnightFirst => return self.leaf(right, op.flipped(), left, positive),
        };
        Ok(match (op.symbol(), equal == positive) {
            // With a value on one side `=` and `IS` agree, and `=` uses every index. What a
            // request does not have equals nothing, as with `=`.
            ("=" | "!=", true) if one_is_set || one_may_be_nothing => format!("{a} = {b}"),
            ("=" | "!=", true) => format!("{a} IS {b}"),
            ("=" | "!=", false) if one_may_be_nothing => format!("({a} = {b}) IS NOT TRUE"),
            ("=" | "!=", false) => format!("{a} IS NOT {b}"),
            (sign, true) => format!("{a} {sign} {b}"),
            (sign, false) => format!("({a} {sign} {b}) IS NOT TRUE"),
        })
    }

    /// The moment that a term of days and moments stands for.
    fn as_moment(&mut self, term: &SqlOperand, is_day: bool) -> String {
        match (self.sql(term), is_day) {
            (sql, true) => format!("substr({sql} || '{MIDNIGHT}', 1, 24)"),
            (sql, false) => sql,
        }
    }

    /// Compares days and moments with the midnight of a day, which both are, in a form that uses
    /// indexes. Nothing stands between the two, and the day comes first.
    fn at_midnight(
        &mut self,
        days: &SqlOperand,
        op: Op,
        midnight: &SqlOperand,
        day: String,
        positive: bool,
    ) -> String {
        let day = SqlOperand::Value(Stored::Text(day));
        let days = self.sql(days);
        let sql = match op {
            Op::Less | Op::GreaterOrEqual => format!("{days} {} {}", op.symbol(), self.sql(&day)),
            Op::Greater | Op::LessOrEqual => {
                format!("{days} {} {}", op.symbol(), self.sql(midnight))
            }
            _ => format!("{days} IN ({}, {})", self.sql(&day), self.sql(midnight)),
        };
        match (op == Op::NotEqual) == positive {
            true => format!("({sql}) IS NOT TRUE"),
            false => sql,
        }
    }

    fn like(&mut self, text: &SqlOperand, pattern: &SqlOperand, positive: bool) -> Result<String> {
        let (a, b) = (self.sql(text), self.sql(pattern));
        let mut sql = format!("{}({a}, {b})", like::FUNCTION);
        for (term, value) in [(text, a), (pattern, b)] {
            if term.is_nullable() {
                sql = format!("({value} IS NOT NULL AND {sql})");
            }
        }
        let not = if positive { "" } else { "NOT " };
        Ok(format!("{not}{sql}"))
    }

    fn sql(&mut self, term: &SqlOperand) -> String {
        match term {
            SqlOperand::Sql { sql, .. } => sql.clone(),
            SqlOperand::Value(value) => self.bind(value.clone()),
        }
    }

    fn operand(&mut self, operand: &Operand, root: PathRoot<'_>) -> Result<ResolvedOperand> {
        let value = match operand {
            Operand::Path(path) => return self.path(path, root),
            Operand::Literal(literal) => match literal {
                Literal::Null => Stored::Null,
                Literal::Bool(flag) => Stored::Integer(i64::from(*flag)),
                Literal::Integer(number) => Stored::Integer(*number),
                Literal::Real(number) => Stored::Real(*number),
                Literal::Text(text) => Stored::Text(text.clone()),
            },
        };
        Ok(ResolvedOperand::constant(value))
    }
}

fn truth(value: bool) -> String {
    if value { "TRUE" } else { "FALSE" }.to_owned()
}
