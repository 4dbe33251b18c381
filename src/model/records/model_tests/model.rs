//! Evaluates conditions and sorts, written from the documentation.
//!
//! Where the documentation is silent the following holds, and the tests show that the server
//! agrees: `IN` with several values is true if any of them is in the list.

use std::collections::BTreeMap;

use std::cmp::Ordering;

use super::callers::Caller;
use super::compare::{ModelOperand, OperandType, Origin, Scalar, compare, convert, inside};
use super::grants::Verb;
use super::world::{Number, Record, Value, World};
use crate::base::clock;
use crate::model::collections::{Field, FieldKind};
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand, SortTerm};

/// `@request.body`: the changed fields by name, and the id.
pub type SentValues = BTreeMap<String, Value>;

/// The caller and author of a condition.
#[derive(Clone, Copy)]
pub struct EvalContext<'a> {
    pub caller: &'a Caller,
    /// A rule reads everything except passwords; a filter of the caller only what the caller may
    /// view.
    pub is_rule: bool,
    /// The changed fields, for the rule of a change.
    pub sent: Option<&'a SentValues>,
}

impl EvalContext<'_> {
    /// For a filter of the caller.
    pub fn by(caller: &Caller) -> EvalContext<'_> {
        EvalContext {
            caller,
            is_rule: false,
            sent: None,
        }
    }
}

impl World {
    /// The type at the end of a path, and whether it can have several values; none if the path is
    /// invalid or the author may not read it.
    pub fn class_of(
        &self,
        table: usize,
        path: &[String],
        context: EvalContext<'_>,
    ) -> Option<(OperandType, bool)> {
        let (name, rest) = path.split_first()?;
        match name.as_str() {
            "id" => return rest.is_empty().then_some((OperandType::Text, false)),
            "created" | "updated" => {
                return rest.is_empty().then_some((OperandType::Datetime, false));
            }
            _ => {}
        }
        let field = self.tables[table].collection.field(name)?;
        if !self.may_use(table, field, context) {
            return None;
        }
        if rest.is_empty() {
            let class = match &field.kind {
                _ if field.is_multiple() => OperandType::Element,
                FieldKind::Json { .. } => OperandType::Inside,
                FieldKind::Number { .. } => OperandType::Number,
                FieldKind::Bool => OperandType::Bool,
                FieldKind::Date(_) => OperandType::Date,
                FieldKind::Datetime(_) => OperandType::Datetime,
                _ => OperandType::Text,
            };
            return Some((class, field.is_multiple()));
        }
        if let FieldKind::Json { .. } = field.kind {
            return Some((OperandType::Inside, false));
        }
        let target = self.target(field)?;
        if !context.is_rule && self.grant(target, Verb::View, context.caller).is_denied() {
            return None;
        }
        let (class, is_many) = self.class_of(target, rest, context)?;
        Some((class, is_many || field.is_multiple()))
    }

    /// The values at the end of a path; without a record, one unset value.
    pub fn values(
        &self,
        table: usize,
        record: Option<&Record>,
        path: &[String],
        context: EvalContext<'_>,
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
        if name == "email" && !context.is_rule && !self.sees_address(table, record, context.caller)
        {
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
                let record = self.related(target, id, context);
                self.values(target, record, rest, context)
            })
            .collect()
    }

    /// True if a condition may name a field.
    pub fn may_use(&self, table: usize, field: &Field, context: EvalContext<'_>) -> bool {
        let is_shown = || {
            let grant = self.grant(table, Verb::View, context.caller);
            grant.fields.shows(field)
        };
        !field.is_secret() && (context.is_rule || is_shown())
    }

    /// A referenced record. For a filter of the caller, a record that the caller may not view does
    /// not exist.
    pub fn related(&self, table: usize, id: &str, context: EvalContext<'_>) -> Option<&Record> {
        let may_see =
            |record: &&Record| context.is_rule || self.may_view(table, record, context.caller);
        self.find(table, id).filter(may_see)
    }

    pub fn find(&self, table: usize, id: &str) -> Option<&Record> {
        self.tables[table]
            .records
            .iter()
            .find(|record| record.id == id)
    }

    /// True if a filter or rule is invalid, or reads what its author may not read.
    pub fn refuses(&self, expr: &Expr, table: usize, context: EvalContext<'_>) -> bool {
        match expr {
            Expr::Not(inner) => self.refuses(inner, table, context),
            Expr::And(list) | Expr::Or(list) => {
                list.iter().any(|expr| self.refuses(expr, table, context))
            }
            Expr::Compare(Comparison {
                left, op, right, ..
            }) => self.refuses_pair(left, *op, right, table, context),
            Expr::In(left, list) => list.iter().any(|literal| {
                let right = Operand::Literal(literal.clone());
                self.refuses_pair(left, Op::Equal, &right, table, context)
            }),
        }
    }

    fn refuses_pair(
        &self,
        left: &Operand,
        op: Op,
        right: &Operand,
        table: usize,
        context: EvalContext<'_>,
    ) -> bool {
        let (Some((left, many_a)), Some((right, many_b))) = (
            self.side_of_any(left, table, context),
            self.side_of_any(right, table, context),
        ) else {
            return true;
        };
        let is_wrong = |side: &ModelOperand, other: &ModelOperand| {
            side.origin == Origin::Text && convert(side.scalars[0].clone(), other.class).is_none()
        };
        let is_of_request = left.origin == Origin::Request || right.origin == Origin::Request;
        let is_like = matches!(op, Op::Like | Op::NotLike);
        (many_a && many_b && !is_of_request)
            || (!is_like && (is_wrong(&left, &right) || is_wrong(&right, &left)))
    }

    /// An operand without a record, and whether it can have several values; none if it is invalid.
    fn side_of_any(
        &self,
        operand: &Operand,
        table: usize,
        context: EvalContext<'_>,
    ) -> Option<(ModelOperand, bool)> {
        match operand {
            Operand::Path(path) if path[0] == "@request" => {
                self.request(path, table, context).map(|side| (side, false))
            }
            Operand::Path(path) if !path[0].starts_with('@') => {
                let (class, is_many) = self.class_of(table, path, context)?;
                let side = ModelOperand {
                    scalars: Vec::new(),
                    class,
                    origin: Origin::Field,
                };
                Some((side, is_many))
            }
            _ => Some((constant(operand), false)),
        }
    }

    /// Evaluates a valid condition on a record.
    pub fn holds(
        &self,
        expr: &Expr,
        table: usize,
        record: &Record,
        context: EvalContext<'_>,
    ) -> bool {
        self.holds_as(expr, true, table, record, context)
    }

    /// Evaluates a condition, or its opposite unless `positive`.
    fn holds_as(
        &self,
        expr: &Expr,
        positive: bool,
        table: usize,
        record: &Record,
        context: EvalContext<'_>,
    ) -> bool {
        let holds = |expr: &Expr| self.holds_as(expr, positive, table, record, context);
        let side = |operand: &Operand| self.side(operand, table, record, context);
        match expr {
            Expr::Not(inner) => self.holds_as(inner, !positive, table, record, context),
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

    fn side(
        &self,
        operand: &Operand,
        table: usize,
        record: &Record,
        context: EvalContext<'_>,
    ) -> ModelOperand {
        match operand {
            Operand::Path(path) if path[0] == "@request" => {
                self.request(path, table, context).unwrap()
            }
            Operand::Path(path) if !path[0].starts_with('@') => {
                let (class, _) = self.class_of(table, path, context).unwrap();
                ModelOperand {
                    scalars: self.values(table, Some(record), path, context),
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
                .class_of(table, &term.path, EvalContext::by(caller))
                .is_none_or(|(_, many)| many);
            term.path[0] != "@rowid" && is_several
        })
    }

    /// Sorts records by index. Equal records keep the order of their creation, or its reverse if
    /// the last term is descending.
    pub fn sort(&self, terms: &[SortTerm], table: usize, caller: &Caller, found: &mut Vec<usize>) {
        let context = EvalContext::by(caller);
        let key = |at: usize, term: &SortTerm| match term.path[0].as_str() {
            "@rowid" => Scalar::Number(Number::Integer(i64::try_from(at).unwrap())),
            _ => self
                .values(
                    table,
                    self.tables[table].records.get(at),
                    &term.path,
                    context,
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

/// The value of a literal or time macro.
fn constant(operand: &Operand) -> ModelOperand {
    let (scalar, class) = match operand {
        Operand::Literal(literal) => (self::literal(literal), OperandType::Constant),
        // All times here are equally far from those of the records.
        Operand::Path(_) => (Scalar::Text(clock::now()), OperandType::Moment),
    };
    ModelOperand {
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
