//! Comparisons as SQL: of single values, of any or all values of a list, and of dates with
//! datetimes.

use rusqlite::types::Value as Stored;

use super::builder::{PathRoot, Query};
use super::coercion::ComparisonType;
use super::email_visibility::{guarded, guarded_equality};
use super::joins::{JoinStep, RowLink};
use super::like;
use super::operand::{OperandValue, ResolvedOperand, SqlOperand, outcome_without_value};
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
            _ => DayComparison::No,
        }
    }
}

/// The question that SQL for a comparison answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// True where it holds, else false or NULL.
    Holds,
    /// True where it does not hold, else false.
    NotHolds,
    /// True where it fails, else false or NULL. With a missing value it neither holds nor fails.
    Fails,
}

/// The operands of a comparison.
struct Sides {
    left: ResolvedOperand,
    right: ResolvedOperand,
    /// Their types before lists became rows; none for patterns.
    kinds: (Option<ComparisonType>, Option<ComparisonType>),
    /// The outcome if one is a value that the request does not have.
    outcome: Option<bool>,
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
        let mark = self.mark();
        let Sides {
            left,
            right,
            kinds: (of_left, of_right),
            outcome,
        } = self.sides(comparison, root)?;
        if let Some(holds) = outcome
            && left.guard.is_none()
            && right.guard.is_none()
        {
            self.rewind(&mark);
            return Ok(truth(holds == positive));
        }
        let guards = [&left.guard, &right.guard].into_iter().flatten().cloned();
        let guard = guards.reduce(|one, other| format!("{one} AND {other}"));
        // A datetime compared with an untyped operand stays a datetime.
        let a = left.to_sql_operand(of_right.or(of_left), &right, op)?;
        let b = right.to_sql_operand(of_left.or(of_right), &left, op)?;
        let ask = |query: &mut Self, asked: Asked, hidden: bool| -> Result<_> {
            let sql = match outcome {
                Some(holds) => truth(holds == (asked == Asked::Holds)),
                None => query.scalar_comparison(&a, op, &b, asked)?,
            };
            let is_equality = (op == Op::Equal && asked == Asked::Holds)
                || (op == Op::NotEqual && asked != Asked::Holds);
            let hidden = hidden != query.is_negated;
            Ok(match &guard {
                Some(guard) if is_equality && !hidden && !query.searches => {
                    guarded_equality(&sql, guard)
                }
                Some(guard) => guarded(&sql, guard, &truth(hidden)),
                None => sql,
            })
        };
        let from = match (&left.value, &right.value) {
            (OperandValue::Many { from: a, .. }, OperandValue::Many { from: b, .. }) => {
                format!("{a}, {b}")
            }
            (OperandValue::Many { from, .. }, _) | (_, OperandValue::Many { from, .. }) => {
                from.clone()
            }
            _ => {
                let asked = if positive {
                    Asked::Holds
                } else {
                    Asked::NotHolds
                };
                let sql = ask(self, asked, false)?;
                if op == Op::Equal && guard.is_none() {
                    self.note_equality(&sql, [(&left, &a), (&right, &b)], root);
                }
                return Ok(sql);
            }
        };
        let mut exists = |asked: Asked, hidden: bool| -> Result<_> {
            let inner = ask(self, asked, hidden)?;
            Ok(format!("EXISTS (SELECT 1 FROM {from} WHERE {inner})"))
        };
        let not = if positive { "" } else { "NOT " };
        if any {
            return Ok(format!("{not}{}", exists(Asked::Holds, !positive)?));
        }
        // It holds for all rows if it fails for none. One at least must have a value.
        let fails = exists(Asked::Fails, positive)?;
        if outcome.is_some() || !may_be_unknown(&a, op, &b) {
            let not = if positive { "NOT " } else { "" };
            return Ok(format!("{not}{fails}"));
        }
        let holds = exists(Asked::Holds, !positive)?;
        Ok(format!("{not}(NOT {fails} AND {holds})"))
    }

    /// Resolves both operands.
    fn sides(&mut self, comparison: &Comparison, root: PathRoot<'_>) -> Result<Sides> {
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
        let outcome = outcome_without_value(&left, op, &right);
        let wanted = |side: &ResolvedOperand| side.kind.filter(|_| !is_like);
        let kinds = (wanted(&left), wanted(&right));
        let left = match is_like {
            true => self.as_list(left),
            false => self.expand_multi(left),
        };
        Ok(Sides {
            left,
            right: self.expand_multi(right),
            kinds,
            outcome,
        })
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

    /// Compares single values.
    fn scalar_comparison(
        &mut self,
        left: &SqlOperand,
        op: Op,
        right: &SqlOperand,
        asked: Asked,
    ) -> Result<String> {
        let symbol = match op {
            Op::Like | Op::NotLike => return Ok(self.like(left, op, right, asked)),
            Op::Equal | Op::NotEqual => "=",
            Op::Greater => ">",
            Op::GreaterOrEqual => ">=",
            Op::Less => "<",
            Op::LessOrEqual => "<=",
        };
        // The constant is on the right.
        if let (SqlOperand::Value(_), SqlOperand::Sql { .. }) = (left, right) {
            return self.scalar_comparison(right, op.flipped(), left, asked);
        }
        let days = DayComparison::of(left, right);
        if let DayComparison::Midnight { day } = days {
            return Ok(self.at_midnight(left, op, right, day, asked));
        }
        if !op.is_ordering() {
            return Ok(self.equality(left, op, right, asked, &days));
        }
        let (a, b) = match days {
            DayComparison::Both { left: l, right: r } => {
                (self.as_moment(left, l), self.as_moment(right, r))
            }
            _ => (self.exact(left), self.exact(right)),
        };
        let holds = match asked {
            Asked::Fails => format!("{a} {symbol} {b}"),
            _ if right.is_some_text() => self.in_index(left, op, &b, symbol),
            _ => format!("{a} {symbol} {b}"),
        };
        Ok(self.answer(holds, asked, [left, right]))
    }

    /// An ordering comparison with a string that is not empty, in a form that can use an index.
    fn in_index(&mut self, left: &SqlOperand, op: Op, right: &str, symbol: &str) -> String {
        let sql = self.sql(left);
        let order = format!("{sql} {symbol} {right}");
        match (op, left) {
            (
                Op::Less | Op::LessOrEqual,
                SqlOperand::Sql {
                    exact: Some(it), ..
                },
            ) => {
                format!("({order} OR ({sql} IS NULL AND {it} IS NOT NULL))")
            }
            _ => order,
        }
    }

    fn equality(
        &mut self,
        left: &SqlOperand,
        op: Op,
        right: &SqlOperand,
        asked: Asked,
        days: &DayComparison,
    ) -> String {
        let one_is_set = left.is_set() || right.is_set();
        let one_may_be_nothing = left.is_nullable() || right.is_nullable();
        if let (Op::Equal, Asked::Fails) = (op, asked)
            && may_be_unknown(left, op, right)
        {
            let equal = format!("{} = {}", self.exact(left), self.exact(right));
            return self.answer(equal, asked, [left, right]);
        }
        let (a, b) = match days {
            DayComparison::Both { left: l, right: r } => (
                day_as_moment(self.sql(left), *l),
                day_as_moment(self.sql(right), *r),
            ),
            _ => (self.sql(left), self.sql(right)),
        };
        match (op == Op::Equal) == (asked == Asked::Holds) {
            // If one operand is set, `=` and `IS` agree, and `=` can use every index. A missing
            // `@request` value equals nothing, as with `=`.
            true if one_is_set || one_may_be_nothing => format!("{a} = {b}"),
            true => format!("{a} IS {b}"),
            false if one_may_be_nothing => format!("({a} = {b}) IS NOT TRUE"),
            false => format!("{a} IS NOT {b}"),
        }
    }

    /// Turns SQL that is true where a comparison holds, false where it fails and NULL where a value
    /// is missing into the answer to a question.
    fn answer(&mut self, holds: String, asked: Asked, sides: [&SqlOperand; 2]) -> String {
        match asked {
            Asked::Holds => holds,
            Asked::NotHolds => format!("({holds}) IS NOT TRUE"),
            Asked::Fails => {
                // A comparison with a value that the request does not have fails.
                let nothing = sides.into_iter().filter(|side| side.is_nullable());
                let mut parts: Vec<String> = nothing
                    .map(|side| format!("{} IS NULL", self.sql(side)))
                    .collect();
                parts.push(format!("NOT ({holds})"));
                format!("({})", parts.join(" OR "))
            }
        }
    }

    /// The datetime of an operand with days and datetimes; empty if the operand is.
    fn as_moment(&mut self, term: &SqlOperand, is_day: bool) -> String {
        match is_day {
            true => {
                let moment = day_as_moment(self.sql(term), true);
                format!("coalesce({moment}, {})", self.exact(term))
            }
            false => self.exact(term),
        }
    }

    /// Compares days and datetimes with the midnight of a day, in a form that can use indexes. The
    /// day and its midnight are equal; no other string sorts between the two.
    fn at_midnight(
        &mut self,
        left: &SqlOperand,
        op: Op,
        midnight: &SqlOperand,
        day: String,
        asked: Asked,
    ) -> String {
        let day = SqlOperand::Value(Stored::Text(day));
        let days = match asked {
            Asked::Fails => self.exact(left),
            _ => self.sql(left),
        };
        let (bound, symbol) = match op {
            Op::Less => (&day, "<"),
            Op::GreaterOrEqual => (&day, ">="),
            Op::Greater => (midnight, ">"),
            Op::LessOrEqual => (midnight, "<="),
            // Patterns do not arrive here.
            Op::Equal | Op::NotEqual | Op::Like | Op::NotLike => {
                let is_in = format!("{days} IN ({}, {})", self.sql(&day), self.sql(midnight));
                return match (op == Op::NotEqual, asked) {
                    (true, Asked::Holds) => format!("({is_in}) IS NOT TRUE"),
                    (true, _) => is_in,
                    (false, asked) => self.answer(is_in, asked, [left, midnight]),
                };
            }
        };
        let bound = self.sql(bound);
        let holds = match asked {
            Asked::Fails => format!("{days} {symbol} {bound}"),
            _ => self.in_index(left, op, &bound, symbol),
        };
        self.answer(holds, asked, [left, midnight])
    }

    fn like(&mut self, text: &SqlOperand, op: Op, pattern: &SqlOperand, asked: Asked) -> String {
        let (a, b) = (self.exact_text(text), self.exact_text(pattern));
        let not = if op == Op::Like { "" } else { "NOT " };
        let holds = match text {
            SqlOperand::Sql { is_list: true, .. } => {
                let alias = self.alias();
                let JoinStep { source, .. } = JoinStep::values(&a, &alias);
                format!(
                    "CASE WHEN {a} IS NOT NULL AND {b} IS NOT NULL THEN {not}EXISTS \
                     (SELECT 1 FROM {source} WHERE {}({alias}.value, {b})) END",
                    like::FUNCTION
                )
            }
            _ => format!("{not}{}({a}, {b})", like::FUNCTION),
        };
        self.answer(holds, asked, [text, pattern])
    }

    /// SQL for the text that a pattern is compared with; a literal without a value is empty.
    fn exact_text(&mut self, term: &SqlOperand) -> String {
        match term {
            SqlOperand::Value(Stored::Null) => "''".to_owned(),
            term => self.exact(term),
        }
    }

    /// SQL for the value, see [`ResolvedOperand::exact`].
    fn exact(&mut self, term: &SqlOperand) -> String {
        match term {
            SqlOperand::Sql {
                exact: Some(sql), ..
            } => sql.clone(),
            term => self.sql(term),
        }
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

/// The midnight of a day, and other datetimes as they are.
fn day_as_moment(sql: String, is_day: bool) -> String {
    match is_day {
        true => format!("substr({sql} || '{MIDNIGHT}', 1, 24)"),
        false => sql,
    }
}

/// True if the comparison may neither hold nor fail, because a value is missing.
fn may_be_unknown(left: &SqlOperand, op: Op, right: &SqlOperand) -> bool {
    let one = |test: fn(&SqlOperand) -> bool| test(left) || test(right);
    match op {
        Op::NotEqual => false,
        // Json without the value is not equal to any.
        Op::Equal => {
            let is_json = one(|side| side.kind() == Some(ComparisonType::Json));
            one(SqlOperand::is_nullable) || (one(SqlOperand::is_set) && !is_json)
        }
        _ => true,
    }
}

fn truth(value: bool) -> String {
    if value { "TRUE" } else { "FALSE" }.to_owned()
}
