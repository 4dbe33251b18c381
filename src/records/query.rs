//! Filters, rules and sorts to SQL: the one place that assembles statements from a condition.
//!
//! Every identifier is resolved against a collection first and quoted; every value is a bound
//! parameter. The meaning of a condition:
//!
//! - A field without a value is *unset*. `= ''`, `= null` and `IS NULL` all ask for that (inside
//!   json the empty text is a value of its own). Ordering comparisons with unset are false.
//! - Every comparison is either true or false: `NOT` is pushed down to the comparisons, so SQL's
//!   third truth value never shows.
//! - Where one side has several values (a list, or a path through one) the plain operators ask
//!   for all of them, the `?` forms for any; no values count as one unset value.
//! - `@request...` that has no value equals no field and is part of none, so rules such as
//!   `owner = @request.auth.id` and `members ~ @request.auth.id` never hand records to anonymous
//!   callers.

use rusqlite::types::Value as Stored;

use super::kind::Kind;
use super::kind::coerce;
use super::kind::json_path;
use super::kind::kind_of;
use super::like;
use crate::clock;
use crate::collections::Collection;
use crate::collections::Collections;
use crate::collections::Field;
use crate::collections::FieldKind;
use crate::db::quote;
use crate::error::Error;
use crate::error::Result;
use crate::filter::Comparison;
use crate::filter::Expr;
use crate::filter::Literal;
use crate::filter::Op;
use crate::filter::Operand;
use crate::filter::SortTerm;
use crate::rules::Identity;

/// What a condition may look at.
#[derive(Clone, Copy)]
pub enum Trust<'a> {
    /// A rule of the schema: every field but passwords.
    Rule,
    /// Text of this caller: no hidden fields, no records that another rule might hide.
    Caller(&'a Identity),
}

/// Steps into relations and over lists in one statement.
const JOINS_MAX: usize = 100;

/// The name of the main table in every statement made here.
pub const MAIN: &str = "r0";

/// Makes conditions for one statement and gathers their parameters.
pub struct Query<'a> {
    collections: &'a Collections,
    identity: &'a Identity,
    params: Vec<Stored>,
    aliases: usize,
    now_ms: i64,
}

/// One side of a comparison, resolved.
enum Side {
    /// A value that is known now; `from_request` marks an `@request` path.
    Constant { value: Stored, from_request: bool },
    /// An SQL expression with one value.
    One { sql: String, kind: Kind },
    /// An SQL `FROM` clause and the expression of each of its rows.
    Many {
        from: String,
        sql: String,
        kind: Kind,
    },
}

impl<'a> Query<'a> {
    /// A statement whose own parameters are ?1 to ?`reserved`.
    pub fn new(
        collections: &'a Collections,
        identity: &'a Identity,
        reserved: Vec<Stored>,
    ) -> Query<'a> {
        let now_ms = clock::now_ms();
        Query {
            collections,
            identity,
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
        trust: Trust<'_>,
    ) -> Result<String> {
        let sql = self.expr(expr, true, collection, trust)?;
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
        trust: Trust<'_>,
    ) -> Result<String> {
        let mut parts = Vec::new();
        for term in terms {
            let sql = match term.path.first().map(String::as_str) {
                Some("@random") => "random()".to_owned(),
                Some("@rowid") => format!("{MAIN}.rowid"),
                _ => match self.path(&term.path, collection, trust)? {
                    Side::One { sql, .. } => sql,
                    Side::Many { .. } | Side::Constant { .. } => {
                        return Err(Error::invalid(format!(
                            "{} has several values and cannot be sorted by.",
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

    fn expr(
        &mut self,
        expr: &Expr,
        positive: bool,
        collection: &Collection,
        trust: Trust<'_>,
    ) -> Result<String> {
        match expr {
            Expr::Not(inner) => self.expr(inner, !positive, collection, trust),
            Expr::And(list) => self.list(list, positive, positive, collection, trust),
            Expr::Or(list) => self.list(list, positive, !positive, collection, trust),
            Expr::Compare(comparison) => self.comparison(comparison, positive, collection, trust),
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
                self.list(&list, positive, !positive, collection, trust)
            }
        }
    }

    fn list(
        &mut self,
        list: &[Expr],
        positive: bool,
        all: bool,
        collection: &Collection,
        trust: Trust<'_>,
    ) -> Result<String> {
        let parts: Vec<String> = list
            .iter()
            .map(|expr| self.expr(expr, positive, collection, trust))
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
        collection: &Collection,
        trust: Trust<'_>,
    ) -> Result<String> {
        let bound = self.params.len();
        let left = self.operand(&comparison.left, collection, trust)?;
        let right = self.operand(&comparison.right, collection, trust)?;
        let (op, any) = (comparison.op, comparison.any);
        if is_nothing_of_request(&left, &right) {
            // What the field's path has bound is not in the statement.
            self.params.truncate(bound);
            return Ok(truth(matches!(op, Op::NotEqual | Op::NotLike) == positive));
        }
        // A pattern is text, whatever the type of what it is held against.
        let is_like = matches!(op, Op::Like | Op::NotLike);
        let wanted = |kind: Option<Kind>| kind.filter(|_| !is_like);
        match (&left, &right) {
            (Side::Many { .. }, Side::Many { .. }) => Err(Error::invalid(
                "Only one side of a comparison may have several values.",
            )),
            (Side::Many { from, sql, kind }, other) => {
                let (from, sql) = (from.clone(), Term::Sql(sql.clone()));
                let other = self.term(other, wanted(Some(*kind)))?;
                self.over_rows(&from, any, positive, |query, positive| {
                    query.leaf(&sql, op, &other, positive)
                })
            }
            (other, Side::Many { from, sql, kind }) => {
                let (from, sql) = (from.clone(), Term::Sql(sql.clone()));
                let other = self.term(other, wanted(Some(*kind)))?;
                self.over_rows(&from, any, positive, |query, positive| {
                    query.leaf(&other, op, &sql, positive)
                })
            }
            _ => {
                let a = self.term(&left, wanted(right.kind()))?;
                let b = self.term(&right, wanted(left.kind()))?;
                self.leaf(&a, op, &b, positive)
            }
        }
    }

    /// A comparison over all rows of `from`: any of them, or all of them.
    fn over_rows(
        &mut self,
        from: &str,
        any: bool,
        positive: bool,
        leaf: impl Fn(&mut Self, bool) -> Result<String>,
    ) -> Result<String> {
        // All are so = there is none that is not so.
        let inner = leaf(self, any)?;
        let not = if any == positive { "" } else { "NOT " };
        Ok(format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {inner})"))
    }

    /// One comparison of single values; without NULL as a result where it matters.
    fn leaf(&mut self, left: &Term, op: Op, right: &Term, positive: bool) -> Result<String> {
        let (sign, equal) = match op {
            Op::Equal => ("", true),
            Op::NotEqual => ("", false),
            Op::Greater => (">", true),
            Op::GreaterOrEqual => (">=", true),
            Op::Less => ("<", true),
            Op::LessOrEqual => ("<=", true),
            Op::Like => return self.like(left, right, positive),
            Op::NotLike => return self.like(left, right, !positive),
        };
        let is_set = |term: &Term| matches!(term, Term::Value(value) if *value != Stored::Null);
        let one_is_set = is_set(left) || is_set(right);
        let (a, b) = (self.sql(left), self.sql(right));
        Ok(match (sign, equal == positive) {
            // With a value on one side `=` and `IS` agree, and `=` uses every index.
            ("", true) if one_is_set => format!("{a} = {b}"),
            ("", true) => format!("{a} IS {b}"),
            ("", false) => format!("{a} IS NOT {b}"),
            (sign, true) => format!("{a} {sign} {b}"),
            (sign, false) => format!("({a} {sign} {b}) IS NOT TRUE"),
        })
    }

    fn like(&mut self, text: &Term, pattern: &Term, positive: bool) -> Result<String> {
        let (a, b) = (self.sql(text), self.sql(pattern));
        let not = if positive { "" } else { "NOT " };
        Ok(format!("{not}{}({a}, {b})", like::FUNCTION))
    }

    fn sql(&mut self, term: &Term) -> String {
        match term {
            Term::Sql(sql) => sql.clone(),
            Term::Value(value) => self.bind(value.clone()),
        }
    }

    /// Makes a side comparable with something of type `other`.
    fn term(&self, side: &Side, other: Option<Kind>) -> Result<Term> {
        match side {
            Side::Constant { value, .. } => Ok(Term::Value(coerce(value.clone(), other)?)),
            Side::One { sql, .. } | Side::Many { sql, .. } => Ok(Term::Sql(sql.clone())),
        }
    }

    fn operand(
        &mut self,
        operand: &Operand,
        collection: &Collection,
        trust: Trust<'_>,
    ) -> Result<Side> {
        let value = match operand {
            Operand::Path(path) => return self.path(path, collection, trust),
            Operand::Literal(literal) => match literal {
                Literal::Null => Stored::Null,
                Literal::Bool(flag) => Stored::Integer(i64::from(*flag)),
                Literal::Integer(number) => Stored::Integer(*number),
                Literal::Real(number) => Stored::Real(*number),
                Literal::Text(text) => Stored::Text(text.clone()),
            },
        };
        Ok(Side::Constant {
            value,
            from_request: false,
        })
    }

    fn path(&mut self, path: &[String], collection: &Collection, trust: Trust<'_>) -> Result<Side> {
        let first = path.first().map_or("", String::as_str);
        if first == "@request" {
            return self.request(path);
        }
        if let Some(name) = first.strip_prefix('@') {
            let value = self.moment(name, path)?;
            return Ok(Side::Constant {
                value: Stored::Text(value),
                from_request: false,
            });
        }
        self.field_path(path, collection, trust)
    }

    /// Walks a path from the main table: `author.name`, `tags`, `meta.colour`.
    fn field_path(
        &mut self,
        path: &[String],
        collection: &Collection,
        trust: Trust<'_>,
    ) -> Result<Side> {
        let mut walk = Walk {
            alias: MAIN.to_owned(),
            joins: String::new(),
            is_many: false,
        };
        let mut at = collection;
        let (mut names, unknown) = (path, || no_field(path, collection));
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
            if !trust.may_see(field) {
                return Err(unknown());
            }
            if rest.is_empty() {
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
                    if !trust.may_enter(target) {
                        return Err(unknown());
                    }
                    self.step_into(&mut walk, field, &column, target);
                    (at, names) = (target, rest);
                }
                _ => return Err(unknown()),
            }
        }
    }

    fn end_at_field(&mut self, mut walk: Walk, field: &Field, column: String) -> Side {
        if let FieldKind::Json { .. } = field.kind {
            // Without the sign, `meta = 'a' && meta.b = 1` lets SQLite put the text in the place
            // of the column everywhere: json_extract('a', '$.b') fails.
            return walk.end(format!("+{column}"), Kind::Text);
        }
        if !field.is_multiple() {
            return walk.end(column, kind_of(field));
        }
        let values = self.step_over_values(&mut walk, &column);
        walk.end(values, kind_of(field))
    }

    fn step_into(&mut self, walk: &mut Walk, field: &Field, column: &str, target: &Collection) {
        let id = if field.is_multiple() {
            self.step_over_values(walk, column)
        } else {
            column.to_owned()
        };
        let alias = self.alias();
        let table = quote(&target.name);
        walk.joins += &format!(" LEFT JOIN {table} AS {alias} ON {alias}.id = {id}");
        walk.alias = alias;
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

    fn request(&self, path: &[String]) -> Result<Side> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let value = match names.as_slice() {
            ["@request", "auth", "id"] => match self.identity {
                Identity::Admin(id) => Stored::Text(id.clone()),
                Identity::Nobody => Stored::Null,
            },
            ["@request", "auth", _] => Stored::Null,
            _ => return Err(Error::invalid(format!("{} is not known.", path.join(".")))),
        };
        Ok(Side::Constant {
            value,
            from_request: true,
        })
    }

    /// Moments relative to the request, all in UTC (names as in PocketBase).
    fn moment(&self, name: &str, path: &[String]) -> Result<String> {
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

/// A path on its way through tables.
struct Walk {
    alias: String,
    joins: String,
    is_many: bool,
}

impl Walk {
    fn end(self, sql: String, kind: Kind) -> Side {
        let from = format!("(SELECT 1){}", self.joins);
        match (self.is_many, self.joins.is_empty()) {
            (true, _) => Side::Many { from, sql, kind },
            (false, true) => Side::One { sql, kind },
            (false, false) => Side::One {
                sql: format!("(SELECT {sql} FROM {from})"),
                kind,
            },
        }
    }
}

impl Side {
    fn kind(&self) -> Option<Kind> {
        match self {
            Side::Constant { .. } => None,
            Side::One { kind, .. } | Side::Many { kind, .. } => Some(*kind),
        }
    }
}

/// A side that is ready to be written down.
enum Term {
    Sql(String),
    Value(Stored),
}

impl Trust<'_> {
    fn may_see(self, field: &Field) -> bool {
        match self {
            _ if field.is_secret() => false,
            Trust::Rule => true,
            Trust::Caller(identity) => identity.is_admin() || !field.hidden,
        }
    }

    /// Whether records of a related collection may decide what a caller finds.
    fn may_enter(self, target: &Collection) -> bool {
        match self {
            Trust::Rule => true,
            Trust::Caller(identity) => {
                identity.is_admin() || target.rules.view.as_deref() == Some("")
            }
        }
    }
}

fn is_nothing_of_request(left: &Side, right: &Side) -> bool {
    let is_nothing = |side: &Side| {
        matches!(
            side,
            Side::Constant {
                value: Stored::Null,
                from_request: true
            }
        )
    };
    let is_field = |side: &Side| matches!(side, Side::One { .. } | Side::Many { .. });
    (is_nothing(left) && is_field(right)) || (is_field(left) && is_nothing(right))
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
    let mut query = Query::new(&collections, &Identity::Nobody, Vec::new());
    query
        .condition(&crate::filter::parse(rule)?, collection, Trust::Rule)
        .map(drop)
}
