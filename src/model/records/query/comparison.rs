//! Comparisons as SQL: of single values, of any or all values of a list, and of dates with
//! datetimes.

use rusqlite::types::Value as Stored;

use super::builder::{PathRoot, Query};
use super::coercion::ComparisonType;
use super::email_visibility::{guarded, guarded_equality};
use super::joins::{JoinStep, RowLink};
use super::like;
use super::operand::{OperandValue, ResolvedOperand, SqlOperand, is_missing_request_value};
use crate::base::error::Result;
use crate::model::filter::{Comparison, Literal, Op, Operand};

/// The suffix that turns a day into its midnight.
const MIDNIGHT: &str = "T00:00:00.000Z";

/// Handling of days. A field of type `date` holds days and datetimes, and a day stands for its
/// midnight. As a string, a day sorts just before its midnight.
enum DayComparison {
    No,
    /// The left operand is an expression of such a field, the right one the midnight of this day.
    Midnight {
        day: String,
    },
    /// The same with the operands swapped.
    MidnightFirst,
    /// Both operands are expressions; those of such a field must be converted to datetimes.
    Both {
        left: bool,
        right: bool,
    },
}

impl DayComparison {
    fn of(left: &SqlOperand, right: &SqlOperand) -> DayComparison {
        let is_day = |it: &SqlOperand| it.kind() == Some(ComparisonType::Date);
        let is_moment = |it: &SqlOperand| it.kind().is_some_and(ComparisonType::is_moment);
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

/// The operands of a comparison.
struct Sides {
    left: ResolvedOperand,
    right: ResolvedOperand,
    /// Their types before lists became rows; none for patterns.
    kinds: (Option<ComparisonType>, Option<ComparisonType>),
    /// One is a value that the request does not have.
    is_missing: bool,
}

impl Query<'_> {
    pub fn comparison(
        &mut self,
        comparison: &Comparison,
        positive: bool,
        root: PathRoot<'_>,
    ) -> Result<String> {
        // Only a condition that one row can meet is about the shared rows.
        let rows = match comparison.any && positive {
            true => None,
            false => self.rows.take(),
        };
        let sql = self.compare(comparison, positive, root);
        if rows.is_some() {
            self.rows = rows;
        }
        sql
    }

    fn compare(
        &mut self,
        comparison: &Comparison,
        positive: bool,
        root: PathRoot<'_>,
    ) -> Result<String> {
        let (op, any) = (comparison.op, comparison.any);
        let Sides {
            left,
            right,
            kinds: (of_left, of_right),
            is_missing,
        } = match self.sides(comparison, root)? {
            Some(sides) => sides,
            None => return Ok(truth(op.is_negation() == positive)),
        };
        let guards = [&left.guard, &right.guard].into_iter().flatten().cloned();
        let guard = guards.reduce(|one, other| format!("{one} AND {other}"));
        let scalar_comparison = |query: &mut Self,
                                 a: &SqlOperand,
                                 b: &SqlOperand,
                                 positive,
                                 hidden: bool|
         -> Result<_> {
            let sql = match is_missing {
                true => truth(op.is_negation() == positive),
                false => query.scalar_comparison(a, op, b, positive)?,
            };
            let is_equality = matches!((op, positive), (Op::Equal, true) | (Op::NotEqual, false));
            let hidden = hidden != query.is_negated;
            Ok(match &guard {
                Some(guard) if is_equality && !hidden && !query.searches => {
                    guarded_equality(&sql, guard)
                }
                Some(guard) => guarded(&sql, guard, &truth(hidden)),
                None => sql,
            })
        };
        // A datetime compared with an untyped operand stays a datetime.
        let a = left.to_sql_operand(of_right.or(of_left), &right, op)?;
        let b = right.to_sql_operand(of_left.or(of_right), &left, op)?;
        let from = match (&left.value, &right.value) {
            (OperandValue::Many { from: a, .. }, OperandValue::Many { from: b, .. }) => {
                format!("{a}, {b}")
            }
            (OperandValue::Many { from, .. }, _) | (_, OperandValue::Many { from, .. }) => {
                from.clone()
            }
            _ => {
                let sql = scalar_comparison(self, &a, &b, positive, false)?;
                if op == Op::Equal && guard.is_none() {
                    self.note_equality(&sql, [(&left, &a), (&right, &b)], root);
                }
                return Ok(sql);
            }
        };
        // Any of the rows of `from`, or all of them: no row for which the comparison is false.
        let (not, hidden) = match any == positive {
            true => ("", false),
            false => ("NOT ", true),
        };
        let inner = scalar_comparison(self, &a, &b, any, hidden)?;
        Ok(format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {inner})"))
    }

    /// Resolves both operands. None if one is a value that the request does not have, so that the
    /// statement needs neither.
    fn sides(&mut self, comparison: &Comparison, root: PathRoot<'_>) -> Result<Option<Sides>> {
        let mark = self.mark();
        let op = comparison.op;
        // A pattern is a string, whatever the type of the other operand.
        let is_like = op.is_pattern();
        let left = self.operand(&comparison.left, root)?;
        let right = self.operand(&comparison.right, root)?;
        // A pattern looks for one string of a list, other operators compare each.
        let mut left = match is_like {
            true => left,
            false => self.over_list(left),
        };
        let mut right = self.over_list(right);
        left.align_to(&right, is_like);
        right.align_to(&left, is_like);
        let is_missing = is_missing_request_value(&left, op, &right);
        if is_missing && left.guard.is_none() && right.guard.is_none() {
            self.rewind(&mark);
            return Ok(None);
        }
        let wanted = |side: &ResolvedOperand| side.kind.filter(|_| !is_like);
        let kinds = (wanted(&left), wanted(&right));
        let left = match is_like {
            true => self.as_list(left),
            false => self.expand_multi(left),
        };
        Ok(Some(Sides {
            left,
            right: self.expand_multi(right),
            kinds,
            is_missing,
        }))
    }

    /// Tells the shared rows of an equality by which an index can find rows, or which leads from
    /// the rows to the record.
    fn note_equality(
        &mut self,
        sql: &str,
        sides: [(&ResolvedOperand, &SqlOperand); 2],
        root: PathRoot<'_>,
    ) {
        let Some(rows) = &mut self.rows else { return };
        let record = format!("{}.", root.alias);
        let column = |side: &ResolvedOperand| match &side.value {
            OperandValue::One { sql } => Some(sql.clone()),
            _ => None,
        };
        for (one, other) in [(0, 1), (1, 0)] {
            let Some(inner) = column(sides[one].0).filter(|it| !it.contains(&record)) else {
                continue;
            };
            if sides[one].0.is_indexed && sides[other].1.is_set() {
                rows.seeks.push((inner.clone(), sql.to_owned()));
            }
            let is_plain = |it: &String| it.starts_with(&record) && !it.contains(['(', ' ']);
            let are_fields = sides.iter().all(|(side, _)| !side.from_request);
            if let Some(outer) = column(sides[other].0).filter(is_plain)
                && are_fields
                && sides[0].0.kind == sides[1].0.kind
            {
                let has_unset = !outer.ends_with(".\"id\"") && !inner.ends_with(".\"id\"");
                rows.links.push(RowLink {
                    sql: sql.to_owned(),
                    inner,
                    outer,
                    has_unset,
                });
            }
        }
    }

    /// Compares single values; the result is NULL only where that counts as false.
    fn scalar_comparison(
        &mut self,
        left: &SqlOperand,
        op: Op,
        right: &SqlOperand,
        positive: bool,
    ) -> Result<String> {
        // `None` for `=` and `!=`, else the SQL operator.
        let (ordering, equal) = match op {
            Op::Like => return self.like(left, right, positive),
            Op::NotLike => return self.like(left, right, !positive),
            Op::Equal => (None, true),
            Op::NotEqual => (None, false),
            Op::Greater => (Some(">"), true),
            Op::GreaterOrEqual => (Some(">="), true),
            Op::Less => (Some("<"), true),
            Op::LessOrEqual => (Some("<="), true),
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
            DayComparison::MidnightFirst => {
                return self.scalar_comparison(right, op.flipped(), left, positive);
            }
        };
        Ok(match (ordering, equal == positive) {
            // If one operand is set, `=` and `IS` agree, and `=` can use every index. A missing
            // `@request` value equals nothing, as with `=`.
            (None, true) if one_is_set || one_may_be_nothing => format!("{a} = {b}"),
            (None, true) => format!("{a} IS {b}"),
            (None, false) if one_may_be_nothing => format!("({a} = {b}) IS NOT TRUE"),
            (None, false) => format!("{a} IS NOT {b}"),
            (Some(symbol), true) => format!("{a} {symbol} {b}"),
            (Some(symbol), false) => format!("({a} {symbol} {b}) IS NOT TRUE"),
        })
    }

    /// The datetime of an operand with days and datetimes.
    fn as_moment(&mut self, term: &SqlOperand, is_day: bool) -> String {
        match (self.sql(term), is_day) {
            (sql, true) => format!("substr({sql} || '{MIDNIGHT}', 1, 24)"),
            (sql, false) => sql,
        }
    }

    /// Compares days and datetimes with the midnight of a day, in a form that can use indexes. The
    /// day and its midnight are equal; no other string sorts between the two.
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
            Op::Less => format!("{days} < {}", self.sql(&day)),
            Op::GreaterOrEqual => format!("{days} >= {}", self.sql(&day)),
            Op::Greater => format!("{days} > {}", self.sql(midnight)),
            Op::LessOrEqual => format!("{days} <= {}", self.sql(midnight)),
            // Patterns do not arrive here.
            Op::Equal | Op::NotEqual | Op::Like | Op::NotLike => {
                format!("{days} IN ({}, {})", self.sql(&day), self.sql(midnight))
            }
        };
        match (op == Op::NotEqual) == positive {
            true => format!("({sql}) IS NOT TRUE"),
            false => sql,
        }
    }

    fn like(&mut self, text: &SqlOperand, pattern: &SqlOperand, positive: bool) -> Result<String> {
        let (a, b) = (self.sql(text), self.sql(pattern));
        let is_list = matches!(text, SqlOperand::Sql { is_list: true, .. });
        let alias = if is_list { self.alias() } else { String::new() };
        let value = match is_list {
            true => format!("{alias}.value"),
            false => a.clone(),
        };
        let mut sql = format!("{}({value}, {b})", like::FUNCTION);
        for (term, value) in [(text, value), (pattern, b)] {
            if term.is_nullable() {
                sql = format!("({value} IS NOT NULL AND {sql})");
            }
        }
        if is_list {
            let JoinStep { source, .. } = JoinStep::values(&a, &alias);
            sql = format!("EXISTS (SELECT 1 FROM {source} WHERE {sql})");
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

    pub(super) fn operand(
        &mut self,
        operand: &Operand,
        root: PathRoot<'_>,
    ) -> Result<ResolvedOperand> {
        let value = match operand {
            Operand::Path(path) => return self.path(path, root),
            Operand::Call(function, list) => return self.call(*function, list, root),
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
