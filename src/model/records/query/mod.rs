//! Compiles filters, rules and sorts to SQL. Only this module builds SQL from a condition.
//!
//! Every identifier is resolved against a collection and quoted; every value is a bound parameter.
//! The meaning of a condition:
//!
//! - A field without a value is *unset*. `= ''`, `= null` and `IS NULL` all match unset (inside
//!   json the empty string is a value of its own). Ordering comparisons with unset are false.
//! - The literal `''` sorts before all other strings and dates: `id > ''` holds for every record.
//! - A date can only be compared with a date. A day (`2026-01-31`) stands for its midnight.
//! - Every comparison is either true or false: `NOT` is pushed down to the comparisons, so the
//!   third truth value of SQL never appears.
//! - If one side has several values (a list, or a path through one), the plain operators require
//!   all of them to match, and the `?` operators any of them. An empty list counts as one unset
//!   value. `~` finds a text in a list if one of its strings contains it, `!~` if none does.
//! - Comparisons with `?` operators that an AND joins look at the same record of a path (`joins`).
//! - An `@request...` path without a value, or with a value that does not fit the type of the other
//!   side, equals only `''` and `null` and never matches `~`. So rules such as
//!   `owner = @request.auth.id`, `members ~ @request.auth.id` and
//!   `@request.body.owner = @request.auth.id` never admit anonymous callers.

pub use builder::{MAIN, Query, RequestBody, RequestContext, RequestFacts, SentText, Trust};
pub use joins::is_unique;
pub use like::FUNCTION as LIKE;
pub use path::{VIA, back_relation};

use rusqlite::Connection;

use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Collections};
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand, SortTerm};
use crate::model::rules::{Identity, Rule};
use crate::store::db::Deadline;
use builder::PathRoot;
use joins::{RowsForm, SharedRows};
use operand::{OperandValue, ResolvedOperand};

mod body;
mod builder;
mod coercion;
mod comparison;
pub mod email_visibility;
mod function;
mod groups;
mod joins;
mod like;
mod macros;
mod modifier;
mod operand;
mod path;
mod request;

/// Registers the functions of conditions with a connection.
pub fn register(connection: &Connection, deadline: &Deadline) -> Result<()> {
    like::register(connection, deadline)?;
    function::register(connection)
}

/// Maximum number of joins over relations and lists in one statement.
const JOINS_MAX: usize = 100;

impl Query<'_> {
    /// SQL for a condition on the main table, which holds records of `collection`.
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
        // The cost of joins in SQLite grows with the square of their number.
        if self.aliases > JOINS_MAX {
            return Err(Error::invalid(format!(
                "The filter takes more than {JOINS_MAX} steps into relations and lists; use shorter \
                 paths or fewer comparisons."
            )));
        }
        Ok(sql)
    }

    /// SQL for a sort. It ends with the rowid, which makes the order total and which an index on
    /// the last term includes.
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
                Some("@rowid") => format!("{MAIN}.{}", collection.row_key()),
                _ => match self.path(&term.path, root)? {
                    ResolvedOperand {
                        value: OperandValue::One { sql },
                        from_request: false,
                        is_list: false,
                        guard,
                        exact,
                        ..
                    } => match guard {
                        Some(guard) => email_visibility::guarded(&sql, &guard, "NULL"),
                        // Records without a related record come before those whose related
                        // record has no value.
                        None if term.path.len() > 1 => exact.unwrap_or(sql),
                        None => sql,
                    },
                    _ => {
                        return Err(Error::invalid(format!(
                            "Cannot sort by {}: it has several values or is the same for all records.",
                            term.path.join(".")
                        )));
                    }
                },
            };
            parts.push(format!("{sql}{}", direction(term.descending)));
        }
        let last = terms.last().is_some_and(|term| term.descending);
        // A named view may have neither.
        if !collection.is_view() || collection.has_column("id") {
            parts.push(format!(
                "{MAIN}.{}{}",
                collection.row_key(),
                direction(last)
            ));
        }
        Ok(parts.join(", "))
    }

    fn expr(&mut self, expr: &Expr, positive: bool, root: PathRoot<'_>) -> Result<String> {
        match expr {
            Expr::Not(inner) => {
                let rows = self.rows.take();
                let sql = self.expr(inner, !positive, root);
                self.rows = rows;
                sql
            }
            Expr::And(list) if self.rows.is_some() && positive => {
                self.list(list, positive, true, root)
            }
            Expr::And(list) => self.groups(list, positive, root),
            Expr::Or(list) => self.list(list, positive, !positive, root),
            Expr::Compare(Comparison { any: true, .. }) | Expr::In(..)
                if positive && self.rows.is_none() =>
            {
                self.in_rows(&[expr], root)
            }
            Expr::Compare(Comparison {
                left: Operand::Call(..),
                ..
            })
            | Expr::Compare(Comparison {
                right: Operand::Call(..),
                ..
            }) if !positive => self.not_in_rows(&[expr], root),
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
        Ok(joined(&parts, all))
    }

    /// The conditions of an AND. Those that share rows become one.
    fn groups(&mut self, list: &[Expr], positive: bool, root: PathRoot<'_>) -> Result<String> {
        let groups = groups::of(list, root.collection, self.collections);
        let part = |group: &Vec<&Expr>| match group.as_slice() {
            [one] => self.expr(one, positive, root),
            several if positive => self.in_rows(several, root),
            several => self.not_in_rows(several, root),
        };
        let parts: Vec<String> = groups.iter().map(part).collect::<Result<_>>()?;
        Ok(joined(&parts, positive))
    }

    /// SQL that is true if all conditions hold for the same rows.
    fn in_rows(&mut self, list: &[&Expr], root: PathRoot<'_>) -> Result<String> {
        let outer = self.rows.replace(SharedRows::default());
        let parts = list.iter().map(|expr| self.expr(expr, true, root));
        let parts: Result<Vec<String>> = parts.collect();
        let rows = std::mem::replace(&mut self.rows, outer).unwrap_or_default();
        let form = RowsForm {
            record: root.alias,
            is_list: self.is_list && !self.is_negated,
            keeps_order: self.searches && root.trust == Trust::Caller,
        };
        Ok(rows.exists(&parts?, form))
    }

    /// SQL that is true unless all conditions hold for the same rows.
    fn not_in_rows(&mut self, list: &[&Expr], root: PathRoot<'_>) -> Result<String> {
        self.is_negated = !self.is_negated;
        let sql = self.in_rows(list, root);
        self.is_negated = !self.is_negated;
        Ok(format!("({}) IS NOT TRUE", sql?))
    }

    /// Compiles a condition that has nothing to do with the rows around it.
    fn apart<T>(&mut self, compile: impl FnOnce(&mut Self) -> T) -> T {
        let rows = self.rows.take();
        let is_negated = std::mem::take(&mut self.is_negated);
        let out = compile(self);
        (self.rows, self.is_negated) = (rows, is_negated);
        out
    }
}

fn joined(parts: &[String], all: bool) -> String {
    format!("({})", parts.join(if all { " AND " } else { " OR " }))
}

fn direction(descending: bool) -> &'static str {
    if descending { " DESC" } else { "" }
}

/// Validates a rule against its collection.
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
        facts: &RequestFacts::default(),
        body: None,
    };
    let mut query = Query::new(&collections, request, Vec::new());
    query.is_check = true;
    query
        .condition(expression, collection, Trust::Rule)
        .map(drop)
}
