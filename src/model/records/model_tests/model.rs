//! Which records a condition means and how a sort orders them, told from the documentation.
//!
//! Where that is silent this holds, and the tests show that the product agrees: `IN` asks whether
//! any of several values is any of the list.

use std::collections::BTreeMap;

use std::cmp::Ordering;

use super::callers::Caller;
use super::compare::{Class, Origin, Scalar, Side, compare, convert, inside};
use super::grants::Deed;
use super::world::{Number, Record, Value, World};
use crate::base::clock;
use crate::model::collections::{Field, FieldKind};
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand, SortTerm};

/// Fields by name, as a change leaves them, and the id.
pub type SentValues = BTreeMap<String, Value>;

/// On whose behalf a condition looks at records, and in whose words.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub caller: &'a Caller,
    /// A rule sees everything but passwords; the caller's own filter what the caller may view.
    pub is_rule: bool,
    /// What a change makes of the fields that it mentions, for its rule.
    pub sent: Option<&'a SentValues>,
}

impl Asking<'_> {
    /// In the caller's own words.
    pub fn by(caller: &Caller) -> Asking<'_> {
        Asking {
            caller,
            is_rule: false,
            sent: None,
        }
    }
}

impl World {
    /// What stands at the end of a path and whether it may be several; none when the path leads
    /// nowhere, or where who asks may not look.
    pub fn class_of(
        &self,
        table: usize,
        path: &[String],
        asking: Asking<'_>,
    ) -> Option<(Class, bool)> {
        let (name, rest) = path.split_first()?;
        match name.as_str() {
            "id" => return rest.is_empty().then_some((Class::Text, false)),
            "created" | "updated" => return rest.is_empty().then_some((Class::Datetime, false)),
            _ => {}
        }
        let field = self.tables[table].collection.field(name)?;
        if !self.may_use(table, field, asking) {
            return None;
        }
        if rest.is_empty() {
            let class = match &field.kind {
                _ if field.is_multiple() => Class::Element,
                FieldKind::Json { .. } => Class::Inside,
                FieldKind::Number { .. } => Class::Number,
                FieldKind::Bool => Class::Bool,
                FieldKind::Date(_) => Class::Date,
                FieldKind::Datetime(_) => Class::Datetime,
                _ => Class::Text,
            };
            return Some((class, field.is_multiple()));
        }
        if let FieldKind::Json { .. } = field.kind {
            return Some((Class::Inside, false));
        }
        let target = self.target(field)?;
        if !asking.is_rule && self.grant(target, Deed::View, asking.caller).is_denied() {
            return None;
        }
        let (class, is_many) = self.class_of(target, rest, asking)?;
        Some((class, is_many || field.is_multiple()))
    }

    /// The values at the end of a path; without a record the one unset value.
    pub fn values(
        &self,
        table: usize,
        record: Option<&Record>,
        path: &[String],
        asking: Asking<'_>,
    ) -> Vec<Scalar> {
        let Some(record) = record else {
            return vec![Scalar::Unset];
        };
        let (name, rest) = path.split_first().unwrap();
        match name.as_str() {
            "id" => return vec![Scalar::Text(record.id.clone())],
            "created" => return vec![Scalar::Text(record.created.clone())],
            "updated" => return vec![Scalar::Text(record.updated.clone())],
            _ => {}
        }
        let collection = &self.tables[table].collection;
        let (field, value) = (
            collection.field(name).unwrap(),
            record.value(collection, name),
        );
        if let Value::Json(json) = value {
            return vec![inside(json, rest)];
        }
        if name == "email" && !asking.is_rule && !self.sees_address(table, record, asking.caller) {
            return vec![Scalar::Hidden];
        }
        if rest.is_empty() {
            return match value {
                Value::Unset => vec![Scalar::Unset],
                Value::Number(number) => vec![Scalar::Number(*number)],
                Value::Flag(flag) => vec![Scalar::Number(Number::Integer(i64::from(*flag)))],
                Value::Text(text) => vec![Scalar::Text(text.clone())],
                Value::List(list) => list.iter().cloned().map(Scalar::Text).collect(),
                Value::Json(json) => vec![inside(json, rest)],
            };
        }
        let (Some(target), ids) = (self.target(field), value.texts()) else {
            return vec![Scalar::Unset];
        };
        if ids.is_empty() {
            return vec![Scalar::Unset];
        }
        ids.iter()
            .flat_map(|id| {
                let record = self.related(target, id, asking);
                self.values(target, record, rest, asking)
            })
            .collect()
    }

    /// Whether a condition may speak of a field.
    pub fn may_use(&self, table: usize, field: &Field, asking: Asking<'_>) -> bool {
        let is_shown = || {
            let grant = self.grant(table, Deed::View, asking.caller);
            grant.fields.shows(field)
        };
        !field.is_secret() && (asking.is_rule || is_shown())
    }

    /// A record that another points to. To a caller one that may not be viewed is none.
    pub fn related(&self, table: usize, id: &str, asking: Asking<'_>) -> Option<&Record> {
        let may_see =
            |record: &&Record| asking.is_rule || self.may_view(table, record, asking.caller);
        self.find(table, id).filter(may_see)
    }

    pub fn find(&self, table: usize, id: &str) -> Option<&Record> {
        self.tables[table]
            .records
            .iter()
            .find(|record| record.id == id)
    }

    /// Whether a filter or rule makes no sense, or looks where it may not.
    pub fn refuses(&self, expr: &Expr, table: usize, asking: Asking<'_>) -> bool {
        match expr {
            Expr::Not(inner) => self.refuses(inner, table, asking),
            Expr::And(list) | Expr::Or(list) => {
                list.iter().any(|expr| self.refuses(expr, table, asking))
            }
            Expr::Compare(Comparison {
                left, op, right, ..
            }) => self.refuses_pair(left, *op, right, table, asking),
            Expr::In(left, list) => list.iter().any(|literal| {
                let right = Operand::Literal(literal.clone());
                self.refuses_pair(left, Op::Equal, &right, table, asking)
            }),
        }
    }

    fn refuses_pair(
        &self,
        left: &Operand,
        op: Op,
        right: &Operand,
        table: usize,
        asking: Asking<'_>,
    ) -> bool {
        let (Some((left, many_a)), Some((right, many_b))) = (
            self.side_of_any(left, table, asking),
            self.side_of_any(right, table, asking),
        ) else {
            return true;
        };
        let is_wrong = |side: &Side, other: &Side| {
            side.origin == Origin::Text && convert(side.scalars[0].clone(), other.class).is_none()
        };
        let is_of_request = left.origin == Origin::Request || right.origin == Origin::Request;
        let is_like = matches!(op, Op::Like | Op::NotLike);
        (many_a && many_b && !is_of_request)
            || (!is_like && (is_wrong(&left, &right) || is_wrong(&right, &left)))
    }

    /// One side without a record, and whether it may be several; none when it is refused.
    fn side_of_any(
        &self,
        operand: &Operand,
        table: usize,
        asking: Asking<'_>,
    ) -> Option<(Side, bool)> {
        match operand {
            Operand::Path(path) if path[0] == "@request" => {
                self.request(path, table, asking).map(|side| (side, false))
            }
            Operand::Path(path) if !path[0].starts_with('@') => {
                let (class, is_many) = self.class_of(table, path, asking)?;
                let side = Side {
                    scalars: Vec::new(),
                    class,
                    origin: Origin::Field,
                };
                Some((side, is_many))
            }
            _ => Some((constant(operand), false)),
        }
    }

    /// Whether a condition that is not refused holds for a record.
    pub fn holds(&self, expr: &Expr, table: usize, record: &Record, asking: Asking<'_>) -> bool {
        self.holds_as(expr, true, table, record, asking)
    }

    /// The same, or, unless `positive`, whether the opposite holds.
    fn holds_as(
        &self,
        expr: &Expr,
        positive: bool,
        table: usize,
        record: &Record,
        asking: Asking<'_>,
    ) -> bool {
        let holds = |expr: &Expr| self.holds_as(expr, positive, table, record, asking);
        let side = |operand: &Operand| self.side(operand, table, record, asking);
        match expr {
            Expr::Not(inner) => self.holds_as(inner, !positive, table, record, asking),
            Expr::And(list) | Expr::Or(list) => match matches!(expr, Expr::And(_)) == positive {
                true => list.iter().all(holds),
                false => list.iter().any(holds),
            },
            Expr::Compare(Comparison {
                left,
                op,
                any,
                right,
            }) => compare(&side(left), *op, *any, &side(right), positive),
            Expr::In(left, list) => {
                let left = side(left);
                let mut outcomes = list.iter().map(|literal| {
                    let right = side(&Operand::Literal(literal.clone()));
                    compare(&left, Op::Equal, true, &right, positive)
                });
                match positive {
                    true => outcomes.any(|is_so| is_so),
                    false => outcomes.all(|is_so| is_so),
                }
            }
        }
    }

    fn side(&self, operand: &Operand, table: usize, record: &Record, asking: Asking<'_>) -> Side {
        match operand {
            Operand::Path(path) if path[0] == "@request" => {
                self.request(path, table, asking).unwrap()
            }
            Operand::Path(path) if !path[0].starts_with('@') => {
                let (class, _) = self.class_of(table, path, asking).unwrap();
                Side {
                    scalars: self.values(table, Some(record), path, asking),
                    class,
                    origin: Origin::Field,
                }
            }
            _ => constant(operand),
        }
    }

    pub fn refuses_sort(&self, terms: &[SortTerm], table: usize, caller: &Caller) -> bool {
        terms.iter().any(|term| {
            let is_several = self
                .class_of(table, &term.path, Asking::by(caller))
                .is_none_or(|(_, many)| many);
            term.path[0] != "@rowid" && is_several
        })
    }

    /// Sorts records, given by their positions; what is equal keeps the order of its making, or
    /// the reverse of it when the last term descends.
    pub fn sort(&self, terms: &[SortTerm], table: usize, caller: &Caller, found: &mut Vec<usize>) {
        let asking = Asking::by(caller);
        let key = |at: usize, term: &SortTerm| match term.path[0].as_str() {
            "@rowid" => Scalar::Number(Number::Integer(i64::try_from(at).unwrap())),
            _ => self
                .values(
                    table,
                    self.tables[table].records.get(at),
                    &term.path,
                    asking,
                )
                .remove(0),
        };
        let keys =
            |at: &usize| -> Vec<Scalar> { terms.iter().map(|term| key(*at, term)).collect() };
        let mut keyed: Vec<(Vec<Scalar>, usize)> = found.iter().map(|at| (keys(at), *at)).collect();
        keyed.sort_by(|(a, at_a), (b, at_b)| {
            for (term, (a, b)) in terms.iter().zip(a.iter().zip(b)) {
                let order = if term.descending {
                    b.compare(a)
                } else {
                    a.compare(b)
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
            let is_reversed = terms.last().is_some_and(|term| term.descending);
            if is_reversed {
                at_b.cmp(at_a)
            } else {
                at_a.cmp(at_b)
            }
        });
        *found = keyed.into_iter().map(|(_, at)| at).collect();
    }
}

/// The value of a literal or of a moment, as it stands.
fn constant(operand: &Operand) -> Side {
    let (scalar, class) = match operand {
        Operand::Literal(literal) => (self::literal(literal), Class::Constant),
        // All moments here are equally far from those of the records.
        Operand::Path(_) => (Scalar::Text(clock::now()), Class::Moment),
    };
    Side {
        scalars: vec![scalar],
        class,
        origin: Origin::Text,
    }
}

pub fn literal(literal: &Literal) -> Scalar {
    match literal {
        Literal::Null => Scalar::Unset,
        Literal::Bool(flag) => Scalar::Number(Number::Integer(i64::from(*flag))),
        Literal::Integer(integer) => Scalar::Number(Number::Integer(*integer)),
        Literal::Real(real) => Scalar::Number(Number::Real(*real)),
        Literal::Text(text) => Scalar::Text(text.clone()),
    }
}
