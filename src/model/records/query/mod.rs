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

use std::collections::BTreeMap;

use rusqlite::types::Value as Stored;

use super::kind::{Kind, json_path, kind_of};
use super::like;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::collections::{Collection, Collections, Field, FieldKind};
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand, SortTerm};
use crate::model::rules::{Access, Fields, Identity, Operation};
use crate::store::db::quote;
use side::{Days, MIDNIGHT, Side, SideValue, Term, Walk, is_nothing_of_request};

/// Whose words a condition is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A rule of the schema: every record, every field but passwords.
    Rule,
    /// The caller's: only the fields that the caller may read, and of related records only those
    /// that the caller may view; others are as if they did not exist.
    Caller,
}

/// What a change sends: each field that it mentions, as it would be stored, and the id.
pub type Sent = BTreeMap<String, Stored>;

/// Whose request a statement is for, and what it says.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub identity: &'a Identity,
    /// What a rule sees as `@request.body`; none when nothing is written.
    pub body: Option<&'a Sent>,
}

/// What the paths of a condition begin at.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// A table that holds records of `collection`, by its name in the statement.
    alias: &'a str,
    collection: &'a Collection,
    trust: Trust,
}

pub mod address;
mod request;
mod side;

/// Steps into relations and over lists in one statement.
const JOINS_MAX: usize = 100;

/// The name of the main table in every statement made here.
pub const MAIN: &str = "r0";

/// Makes conditions for one statement and gathers their parameters.
pub struct Query<'a> {
    collections: &'a Collections,
    input: Input<'a>,
    /// The rule is only checked; paths must lead somewhere, whoever asks.
    is_check: bool,
    /// The condition searches in texts, which takes the longer the more records it does so in.
    searches: bool,
    params: Vec<Stored>,
    aliases: usize,
    now_ms: i64,
}

impl<'a> Query<'a> {
    /// A statement whose own parameters are ?1 to ?`reserved`.
    pub fn new(collections: &'a Collections, input: Input<'a>, reserved: Vec<Stored>) -> Query<'a> {
        let now_ms = clock::now_ms();
        Query {
            collections,
            input,
            is_check: false,
            searches: false,
            params: reserved,
            aliases: 0,
            now_ms,
        }
    }

    /// All parameters in order.
    pub fn into_params(self) -> Vec<Stored> {
        self.params
    }

    /// Binds a value; returns its placeholder.
    pub fn bind(&mut self, value: Stored) -> String {
        self.params.push(value);
        format!("?{}", self.params.len())
    }

    /// The SQL of a condition on the main table, which holds records of `collection`.
    pub fn condition(
        &mut self,
        expr: &Expr,
        collection: &Collection,
        trust: Trust,
    ) -> Result<String> {
        let place = Place {
            alias: MAIN,
            collection,
            trust,
        };
        self.searches = expr.searches();
        let sql = self.expr(expr, true, place)?;
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
        let place = Place {
            alias: MAIN,
            collection,
            trust,
        };
        for term in terms {
            let sql = match term.path.first().map(String::as_str) {
                Some("@random") => "random()".to_owned(),
                Some("@rowid") => format!("{MAIN}.rowid"),
                _ => match self.path(&term.path, place)? {
                    Side {
                        value: SideValue::One { sql },
                        from_request: false,
                        guard,
                        ..
                    } => match guard {
                        Some(guard) => address::guarded(&sql, &guard, "NULL"),
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

    fn expr(&mut self, expr: &Expr, positive: bool, place: Place<'_>) -> Result<String> {
        match expr {
            Expr::Not(inner) => self.expr(inner, !positive, place),
            Expr::And(list) => self.list(list, positive, positive, place),
            Expr::Or(list) => self.list(list, positive, !positive, place),
            Expr::Compare(comparison) => self.comparison(comparison, positive, place),
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
                self.list(&list, positive, !positive, place)
            }
        }
    }

    fn list(
        &mut self,
        list: &[Expr],
        positive: bool,
        all: bool,
        place: Place<'_>,
    ) -> Result<String> {
        let parts: Vec<String> = list
            .iter()
            .map(|expr| self.expr(expr, positive, place))
            .collect::<Result<_>>()?;
        Ok(format!(
            "({})",
            parts.join(if all { " AND " } else { " OR " })
        ))
    }

    fn comparison(
        &mut self,
        comparison: &Comparison,
        positive: bool,
        place: Place<'_>,
    ) -> Result<String> {
        let bound = self.params.len();
        let mut left = self.operand(&comparison.left, place)?;
        let mut right = self.operand(&comparison.right, place)?;
        let (op, any) = (comparison.op, comparison.any);
        // A pattern is text, whatever the type of what it is held against.
        let is_like = matches!(op, Op::Like | Op::NotLike);
        left.fit(&right, is_like);
        right.fit(&left, is_like);
        let is_nothing = is_nothing_of_request(&left, op, &right);
        let of_nothing = |positive| truth(matches!(op, Op::NotEqual | Op::NotLike) == positive);
        if is_nothing && left.guard.is_none() && right.guard.is_none() {
            // What the field's path has bound is not in the statement.
            self.params.truncate(bound);
            return Ok(of_nothing(positive));
        }
        let wanted = |side: &Side| side.kind.filter(|_| !is_like);
        let (of_left, of_right) = (wanted(&left), wanted(&right));
        let (left, right) = (self.spread(left)?, self.spread(right)?);
        let guards = [&left.guard, &right.guard].into_iter().flatten().cloned();
        let guard = guards.reduce(|one, other| format!("{one} AND {other}"));
        let leaf = |query: &mut Self, a: &Term, b: &Term, positive, otherwise| {
            let sql = match is_nothing {
                true => of_nothing(positive),
                false => query.leaf(a, op, b, positive)?,
            };
            let is_equality = matches!((op, positive), (Op::Equal, true) | (Op::NotEqual, false));
            Ok(match &guard {
                Some(guard) if is_equality && otherwise == "FALSE" && !query.searches => {
                    address::guarded_equality(&sql, guard)
                }
                Some(guard) => address::guarded(&sql, guard, otherwise),
                None => sql,
            })
        };
        // A moment that meets no type stays one.
        let a = left.term(of_right.or(of_left), &right, op)?;
        let b = right.term(of_left.or(of_right), &left, op)?;
        let from = match (&left.value, &right.value) {
            // Only what a request brings is short enough to be held against each of several.
            (SideValue::Many { from: a, .. }, SideValue::Many { from: b, .. })
                if left.from_request || right.from_request =>
            {
                format!("{a}, {b}")
            }
            (SideValue::Many { .. }, SideValue::Many { .. }) => {
                return Err(Error::invalid(
                    "Only one side of a comparison may have several values.",
                ));
            }
            (SideValue::Many { from, .. }, _) | (_, SideValue::Many { from, .. }) => from.clone(),
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
    fn leaf(&mut self, left: &Term, op: Op, right: &Term, positive: bool) -> Result<String> {
        let equal = match op {
            Op::Like => return self.like(left, right, positive),
            Op::NotLike => return self.like(left, right, !positive),
            op => op != Op::NotEqual,
        };
        let one_is_set = left.is_set() || right.is_set();
        let one_may_be_nothing = left.may_be_nothing() || right.may_be_nothing();
        let (a, b) = match Days::of(left, right) {
            Days::No => (self.sql(left), self.sql(right)),
            Days::Both { left: l, right: r } => (self.as_moment(left, l), self.as_moment(right, r)),
            Days::Midnight { day } => return Ok(self.at_midnight(left, op, right, day, positive)),
            Days::MidnightFirst => return self.leaf(right, op.turned(), left, positive),
        };
        Ok(match (op.sign(), equal == positive) {
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
    fn as_moment(&mut self, term: &Term, is_day: bool) -> String {
        match (self.sql(term), is_day) {
            (sql, true) => format!("substr({sql} || '{MIDNIGHT}', 1, 24)"),
            (sql, false) => sql,
        }
    }

    /// Compares days and moments with the midnight of a day, which both are, in a form that uses
    /// indexes. Nothing stands between the two, and the day comes first.
    fn at_midnight(
        &mut self,
        days: &Term,
        op: Op,
        midnight: &Term,
        day: String,
        positive: bool,
    ) -> String {
        let day = Term::Value(Stored::Text(day));
        let days = self.sql(days);
        let sql = match op {
            Op::Less | Op::GreaterOrEqual => format!("{days} {} {}", op.sign(), self.sql(&day)),
            Op::Greater | Op::LessOrEqual => {
                format!("{days} {} {}", op.sign(), self.sql(midnight))
            }
            _ => format!("{days} IN ({}, {})", self.sql(&day), self.sql(midnight)),
        };
        match (op == Op::NotEqual) == positive {
            true => format!("({sql}) IS NOT TRUE"),
            false => sql,
        }
    }

    fn like(&mut self, text: &Term, pattern: &Term, positive: bool) -> Result<String> {
        let (a, b) = (self.sql(text), self.sql(pattern));
        let mut sql = format!("{}({a}, {b})", like::FUNCTION);
        for (term, value) in [(text, a), (pattern, b)] {
            if term.may_be_nothing() {
                sql = format!("({value} IS NOT NULL AND {sql})");
            }
        }
        let not = if positive { "" } else { "NOT " };
        Ok(format!("{not}{sql}"))
    }

    fn sql(&mut self, term: &Term) -> String {
        match term {
            Term::Sql { sql, .. } => sql.clone(),
            Term::Value(value) => self.bind(value.clone()),
        }
    }

    fn operand(&mut self, operand: &Operand, place: Place<'_>) -> Result<Side> {
        let value = match operand {
            Operand::Path(path) => return self.path(path, place),
            Operand::Literal(literal) => match literal {
                Literal::Null => Stored::Null,
                Literal::Bool(flag) => Stored::Integer(i64::from(*flag)),
                Literal::Integer(number) => Stored::Integer(*number),
                Literal::Real(number) => Stored::Real(*number),
                Literal::Text(text) => Stored::Text(text.clone()),
            },
        };
        Ok(Side::constant(value))
    }

    fn path(&mut self, path: &[String], place: Place<'_>) -> Result<Side> {
        let first = path.first().map_or("", String::as_str);
        if first == "@request" {
            return self.request(path, place);
        }
        if let Some(name) = first.strip_prefix('@') {
            let value = Stored::Text(self.moment(name, path)?);
            return Ok(Side::constant(value).of_kind(Some(Kind::Datetime)));
        }
        let walk = Walk {
            alias: place.alias.to_owned(),
            joins: String::new(),
            is_many: false,
            guard: None,
        };
        self.field_path(walk, path, path, place)
    }

    /// Walks the names of a path (`author.name`, `tags`, `meta.colour`) from where `walk` has come
    /// to, a record of `place.collection`; `path` is the whole of it, for errors.
    fn field_path(
        &mut self,
        mut walk: Walk,
        names: &[String],
        path: &[String],
        place: Place<'_>,
    ) -> Result<Side> {
        let (mut at, trust, mut names) = (place.collection, place.trust, names);
        let unknown = || no_field(path, place.collection);
        let mut fields = self.fields_of(at, trust)?;
        loop {
            let (name, rest) = names.split_first().ok_or_else(unknown)?;
            let column = format!("{}.{}", walk.alias, quote(name));
            if let "id" | "created" | "updated" = name.as_str() {
                let kind = if name == "id" {
                    Kind::Text
                } else {
                    Kind::Datetime
                };
                return if rest.is_empty() {
                    Ok(walk.end(column, kind))
                } else {
                    Err(unknown())
                };
            }
            let field = at.field(name).ok_or_else(unknown)?;
            if field.is_secret() || !fields.has(name, field.hidden) {
                return Err(unknown());
            }
            if rest.is_empty() {
                if address::is_guarded(at, field, &fields) {
                    walk.guard = Some(self.sees_address(&walk.alias, at)?);
                }
                return Ok(self.end_at_field(walk, field, column));
            }
            match (&field.kind, field.relation()) {
                (FieldKind::Json { .. }, _) => {
                    let place = self.bind(Stored::Text(json_path(rest)?));
                    return Ok(walk.end(format!("json_extract({column}, {place})"), Kind::Json));
                }
                (_, Some(options)) => {
                    let target = self
                        .collections
                        .by_id(&options.collection_id)
                        .ok_or_else(unknown)?;
                    let id = if field.is_multiple() {
                        self.step_over_values(&mut walk, &column)
                    } else {
                        column
                    };
                    self.step_into(&mut walk, &id, target, trust, &unknown)?;
                    fields = self.fields_of(target, trust)?;
                    (at, names) = (target, rest);
                }
                _ => return Err(unknown()),
            }
        }
    }

    fn fields_of(&self, collection: &Collection, trust: Trust) -> Result<Fields> {
        match trust {
            Trust::Rule => Ok(Fields::All),
            Trust::Caller => Ok(collection
                .grant(Operation::View, self.input.identity)?
                .fields),
        }
    }

    fn end_at_field(&mut self, mut walk: Walk, field: &Field, column: String) -> Side {
        if let FieldKind::Json { .. } = field.kind {
            // The sign keeps SQLite from putting a text that it is compared with in its place.
            return walk.end(format!("json_extract(+{column}, '$')"), Kind::Json);
        }
        if !field.is_multiple() {
            return walk.end(column, kind_of(field));
        }
        let values = self.step_over_values(&mut walk, &column);
        walk.end(values, kind_of(field))
    }

    /// Joins the record of `target` with this id. To a caller a record that the view rule hides is
    /// none.
    fn step_into(
        &mut self,
        walk: &mut Walk,
        id: &str,
        target: &Collection,
        trust: Trust,
        unknown: &dyn Fn() -> Error,
    ) -> Result<()> {
        let (alias, table) = (self.alias(), quote(&target.name));
        walk.joins += &format!(" LEFT JOIN {table} AS {alias} ON {alias}.id = {id}");
        if trust == Trust::Caller {
            match target.grant(Operation::View, self.input.identity)?.access {
                Access::Free => {}
                Access::Denied => return Err(unknown()),
                Access::When(rule) => {
                    let place = Place {
                        alias: &alias,
                        collection: target,
                        trust: Trust::Rule,
                    };
                    let condition = self.expr(&rule, true, place)?;
                    walk.joins += &format!(" AND {condition}");
                }
            }
        }
        walk.alias = alias;
        Ok(())
    }

    /// Joins the values of a list; no values are one unset value. Returns the value's SQL.
    fn step_over_values(&mut self, walk: &mut Walk, column: &str) -> String {
        let alias = self.alias();
        walk.joins += &format!(" LEFT JOIN json_each(coalesce({column}, '[null]')) AS {alias}");
        walk.is_many = true;
        format!("{alias}.value")
    }

    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("r{}", self.aliases)
    }
}

fn no_field(path: &[String], collection: &Collection) -> Error {
    Error::invalid(format!(
        "{} has no field {}.",
        collection.name,
        path.join(".")
    ))
}

fn direction(descending: bool) -> &'static str {
    if descending { " DESC" } else { "" }
}

fn truth(value: bool) -> String {
    if value { "TRUE" } else { "FALSE" }.to_owned()
}

/// Checks that a rule means something for its collection.
pub fn check_rule(rule: &str, collection: &Collection, others: &Collections) -> Result<()> {
    if rule.trim().is_empty() {
        return Ok(());
    }
    let mut known: Vec<Collection> = others
        .all()
        .into_iter()
        .map(|c| Collection::clone(c))
        .collect();
    known.retain(|other| other.id != collection.id);
    known.push(collection.clone());
    let collections = Collections::from_iter(known);
    let input = Input {
        identity: &Identity::Nobody,
        body: None,
    };
    let mut query = Query::new(&collections, input, Vec::new());
    query.is_check = true;
    query
        .condition(&crate::model::filter::parse(rule)?, collection, Trust::Rule)
        .map(drop)
}
