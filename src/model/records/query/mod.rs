//! Filters, rules and sorts to SQL: the one place that assembles statements from a condition.
//!
//! Every identifier is resolved against a collection first and quoted; every value is a bound
//! parameter. The meaning of a condition:
//!
//! - A field without a value is *unset*. `= ''`, `= null` and `IS NULL` all ask for that (inside
//!   json the empty text is a value of its own). Ordering comparisons with unset are false.
//! - The text `''` that stands in a condition comes before everything else that texts and dates can
//!   be: `id > ''` holds for every record.
//! - What a date is compared with must be a date. A day (`2026-01-31`) is its midnight.
//! - Every comparison is either true or false: `NOT` is pushed down to the comparisons, so SQL's
//!   third truth value never shows.
//! - Where one side has several values (a list, or a path through one) the plain operators ask
//!   for all of them, the `?` forms for any; no values count as one unset value.
//! - `@request...` that has no value, or one that cannot be a value of what it is compared with,
//!   equals nothing but `''` and `null`, and is part of nothing, so rules such as
//!   `owner = @request.auth.id`, `members ~ @request.auth.id` and
//!   `@request.body.owner = @request.auth.id` never let anonymous callers in.

pub use builder::{MAIN, Query, RequestBody, RequestContext, Trust};
pub use like::{FUNCTION as LIKE, register};

use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Collections};
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand, SortTerm};
use crate::model::rules::{Identity, Rule};
use builder::PathRoot;
use operand::{OperandValue, ResolvedOperand};

mod builder;
mod coercion;
mod comparison;
pub mod email_visibility;
mod like;
mod operand;
mod path;
mod request;

/// Steps into relations and over lists in one statement.
const JOINS_MAX: usize = 100;

impl Query<'_> {
    /// The SQL of a condition on the main table, which holds records of `collection`.
    pub fn condition(
        &mut self,
        expr: &Expr,
        collection: &Collection,
        trust: Trust,
    ) -> Result<String> {
        let root = PathRoot {
            alias: MAIN,
            collection,
            trust,
        };
        self.searches = expr.searches();
        let sql = self.expr(expr, true, root)?;
        // SQLite's work for joins grows with the square of their number.
        if self.aliases > JOINS_MAX {
            return Err(Error::invalid(format!(
                "The filter goes through relations and lists more than {JOINS_MAX} times."
            )));
        }
        Ok(sql)
    }

    /// The SQL of a sort, always ending in a total order that an index on the last term has too.
    pub fn order(
        &mut self,
        terms: &[SortTerm],
        collection: &Collection,
        trust: Trust,
    ) -> Result<String> {
        let mut parts = Vec::new();
        let root = PathRoot {
            alias: MAIN,
            collection,
            trust,
        };
        for term in terms {
            let sql = match term.path.first().map(String::as_str) {
                Some("@random") => "random()".to_owned(),
                Some("@rowid") => format!("{MAIN}.rowid"),
                _ => match self.path(&term.path, root)? {
                    ResolvedOperand {
                        value: OperandValue::One { sql },
                        from_request: false,
                        guard,
                        ..
                    } => match guard {
                        Some(guard) => email_visibility::guarded(&sql, &guard, "NULL"),
                        None => sql,
                    },
                    _ => {
                        return Err(Error::invalid(format!(
                            "{} cannot be sorted by: it has several values, or is the same for all records.",
                            term.path.join(".")
                        )));
                    }
                },
            };
            parts.push(format!("{sql}{}", direction(term.descending)));
        }
        let last = terms.last().is_some_and(|term| term.descending);
        parts.push(format!("{MAIN}.rowid{}", direction(last)));
        Ok(parts.join(", "))
    }

    fn expr(&mut self, expr: &Expr, positive: bool, root: PathRoot<'_>) -> Result<String> {
        match expr {
            Expr::Not(inner) => self.expr(inner, !positive, root),
            Expr::And(list) => self.list(list, positive, positive, root),
            Expr::Or(list) => self.list(list, positive, !positive, root),
            Expr::Compare(comparison) => self.comparison(comparison, positive, root),
            Expr::In(left, values) => {
                let equals = |value: &Literal| {
                    Expr::Compare(Comparison {
                        left: left.clone(),
                        op: Op::Equal,
                        any: true,
                        right: Operand::Literal(value.clone()),
                    })
                };
                let list: Vec<Expr> = values.iter().map(equals).collect();
                self.list(&list, positive, !positive, root)
            }
        }
    }

    fn list(
        &mut self,
        list: &[Expr],
        positive: bool,
        all: bool,
        root: PathRoot<'_>,
    ) -> Result<String> {
        let parts: Vec<String> = list
            .iter()
            .map(|expr| self.expr(expr, positive, root))
            .collect::<Result<_>>()?;
        Ok(format!(
            "({})",
            parts.join(if all { " AND " } else { " OR " })
        ))
    }
}

fn direction(descending: bool) -> &'static str {
    if descending { " DESC" } else { "" }
}

/// Checks that a rule means something for its collection.
pub fn check_rule(rule: &Rule, collection: &Collection, others: &Collections) -> Result<()> {
    let Some(expression) = rule.expression() else {
        return Ok(());
    };
    let mut known: Vec<Collection> = others
        .all()
        .into_iter()
        .map(|c| Collection::clone(c))
        .collect();
    known.retain(|other| other.id != collection.id);
    known.push(collection.clone());
    let collections = Collections::from_iter(known);
    let request = RequestContext {
        identity: &Identity::Anonymous,
        body: None,
    };
    let mut query = Query::new(&collections, request, Vec::new());
    query.is_check = true;
    query
        .condition(expression, collection, Trust::Rule)
        .map(drop)
}
