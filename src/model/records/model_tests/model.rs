//! Evaluates conditions and sorts, written from the documentation.
//!
//! Where the documentation is silent the following holds, and the tests show that the server
//! agrees: `IN` with several values is true if any of them is in the list.

use std::collections::BTreeMap;

use std::cmp::Ordering;

use super::callers::Caller;
use super::compare::{ModelOperand, OperandType, Origin, Scalar, compare, convert, inside};
use super::grants::Verb;
use super::rows::{Row, Rows};
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
        let (name, modifier) = split_modifier(name);
        if modifier.is_some() && !rest.is_empty() {
            return None;
        }
        match name {
            "id" if modifier.is_none_or(|it| it == "lower") => {
                return rest.is_empty().then_some((OperandType::Text, false));
            }
            "created" | "updated" if modifier.is_none() => {
                return rest.is_empty().then_some((OperandType::Datetime, false));
            }
            _ => {}
        }
        let collection = &self.tables[table].collection;
        let Some(field) = collection.field(name) else {
            let (target, relation) = self.back_relation(table, name)?;
            let is_denied = self.grant(target, Verb::View, context.caller).is_denied();
            if !self.may_use(target, relation, context) || (!context.is_rule && is_denied) {
                return None;
            }
            return self
                .class_of(target, rest, context)
                .map(|(class, _)| (class, true));
        };
        if !self.may_use(table, field, context) {
            return None;
        }
        if rest.is_empty() {
            return class_of_field(field, modifier);
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

    /// The table and the relation of a name such as `comments_via_post`.
    pub fn back_relation(&self, table: usize, name: &str) -> Option<(usize, &Field)> {
        let (target, relation) = name.rsplit_once("_via_")?;
        let is_it = |it: &super::world::Table| it.collection.name == target;
        let target = self.tables.iter().position(is_it)?;
        let relation = self.tables[target].collection.field(relation)?;
        (self.target(relation) == Some(table)).then_some((target, relation))
    }

    /// The values at the end of a path; without a record, one unset value.
    pub fn values(
        &self,
        table: usize,
        record: Option<&Record>,
        path: &[String],
        context: EvalContext<'_>,
    ) -> Vec<Scalar> {
        let values = self.values_in(table, record, path, context, "", &mut Rows::default());
        values.into_iter().flat_map(Scalar::elements).collect()
    }

    /// The same on chosen rows, with a list as one value. `key` is the path so far.
    pub fn values_in(
        &self,
        table: usize,
        record: Option<&Record>,
        path: &[String],
        context: EvalContext<'_>,
        key: &str,
        rows: &mut Rows,
    ) -> Vec<Scalar> {
        let Some(record) = record else {
            // A record that does not exist has no values, so their number is 0.
            return match path.last().is_some_and(|name| name.ends_with(":length")) {
                true => vec![Scalar::Number(Number::Integer(0))],
                false => vec![Scalar::Missing],
            };
        };
        let (full, rest) = path.split_first().unwrap();
        let key = format!("{key}.{full}");
        let (name, modifier) = split_modifier(full);
        match name {
            "id" => {
                let id = Value::Text(record.id.clone());
                return vec![end_of_path(&id, Scalar::Missing, modifier)];
            }
            "created" => return vec![Scalar::Text(record.created.clone())],
            "updated" => return vec![Scalar::Text(record.updated.clone())],
            _ => {}
        }
        let collection = &self.tables[table].collection;
        let Some(field) = collection.field(name) else {
            let (target, found) = self.naming(table, name, record, context);
            return self.values_of_rows(target, found, rest, context, &key, rows);
        };
        let value = record.value(collection, name);
        if let Value::Json(json) = value {
            return vec![inside(json, rest)];
        }
        if name == "email" && !context.is_rule && !self.sees_address(table, record, context.caller)
        {
            return vec![Scalar::Hidden];
        }
        if rest.is_empty() {
            let is_each = modifier == Some("each") && field.is_multiple();
            return match is_each {
                true => {
                    let values = value.texts().into_iter();
                    let values = values.map(|text| Row::Value(Scalar::Text(text)));
                    self.values_of_rows(table, values.collect(), rest, context, &key, rows)
                }
                false => {
                    let empty = match field.kind {
                        _ if field.is_multiple() => Scalar::List(Vec::new()),
                        _ if field.nullable => Scalar::Missing,
                        FieldKind::Json { .. } => Scalar::Missing,
                        _ => Scalar::Unset,
                    };
                    vec![end_of_path(value, empty, modifier)]
                }
            };
        }
        let (Some(target), ids) = (self.target(field), value.texts()) else {
            return vec![Scalar::Missing];
        };
        let find = |id: &String| {
            let record = self.related(target, id, context)?;
            let mut records = self.tables[target].records.iter();
            records.position(|it| it.id == record.id)
        };
        let found: Vec<Row> = ids.iter().map(|id| Row::Record(find(id))).collect();
        match field.is_multiple() {
            true => self.values_of_rows(target, found, rest, context, &key, rows),
            false => {
                let at = ids.first().and_then(find);
                let record = at.map(|at| &self.tables[target].records[at]);
                self.values_in(target, record, rest, context, &key, rows)
            }
        }
    }

    /// The records that a name such as `comments_via_post` stands for, and their table.
    fn naming(
        &self,
        table: usize,
        name: &str,
        record: &Record,
        context: EvalContext<'_>,
    ) -> (usize, Vec<Row>) {
        let (target, relation) = self.back_relation(table, name).unwrap();
        let names_it = |at: &usize| {
            let other = &self.tables[target].records[*at];
            let value = other.value(&self.tables[target].collection, &relation.name);
            value.texts().contains(&record.id) && self.related(target, &other.id, context).is_some()
        };
        let found = (0..self.tables[target].records.len()).filter(names_it);
        (target, found.map(|at| Row::Record(Some(at))).collect())
    }

    /// The values of each row that counts; none is one row without a value.
    pub fn values_of_rows(
        &self,
        table: usize,
        mut all: Vec<Row>,
        rest: &[String],
        context: EvalContext<'_>,
        key: &str,
        rows: &mut Rows,
    ) -> Vec<Scalar> {
        if all.is_empty() {
            all.push(Row::Record(None));
        }
        let mut values = Vec::new();
        for row in rows.narrow(key, all) {
            match row {
                Row::Value(value) => values.push(value),
                Row::Record(at) => {
                    let record = at.map(|at| &self.tables[table].records[at]);
                    values.extend(self.values_in(table, record, rest, context, key, rows));
                }
            }
        }
        values
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
        let (Some(left), Some(right)) = (
            self.side_of_any(left, table, context),
            self.side_of_any(right, table, context),
        ) else {
            return true;
        };
        let is_wrong = |side: &ModelOperand, other: &ModelOperand| {
            side.origin == Origin::Text && convert(side.scalars[0].clone(), other.class).is_none()
        };
        let is_like = matches!(op, Op::Like | Op::NotLike);
        !is_like && (is_wrong(&left, &right) || is_wrong(&right, &left))
    }

    /// An operand without a record; none if it is invalid.
    fn side_of_any(
        &self,
        operand: &Operand,
        table: usize,
        context: EvalContext<'_>,
    ) -> Option<ModelOperand> {
        let field = |class| ModelOperand {
            scalars: Vec::new(),
            class,
            origin: Origin::Field,
        };
        match operand {
            Operand::Path(path) if path[0] == "@request" => {
                self.request(path, table, context, &mut Rows::default())
            }
            Operand::Path(path) if path[0] == "@collection" => {
                let is_refused = !context.is_rule && *context.caller != Caller::Admin;
                let target = self.collection_of(path).filter(|_| !is_refused)?;
                let class = self.class_of(target, path.get(2..)?, context);
                class.map(|(class, _)| field(class))
            }
            Operand::Path(path) if !path[0].starts_with('@') => {
                let class = self.class_of(table, path, context);
                class.map(|(class, _)| field(class))
            }
            _ => Some(constant(operand)),
        }
    }

    /// The table that `@collection.NAME` or `@collection.NAME:ALIAS` names.
    fn collection_of(&self, path: &[String]) -> Option<usize> {
        let name = path.get(1)?.split(':').next()?;
        let mut tables = self.tables.iter();
        tables.position(|table| table.collection.name == name)
    }

    /// Evaluates a valid condition on a record.
    pub fn holds(
        &self,
        expr: &Expr,
        table: usize,
        record: &Record,
        context: EvalContext<'_>,
    ) -> bool {
        let place = Place {
            table,
            record,
            context,
        };
        self.exists(expr, false, place, &mut Rows::shared())
    }

    /// True if the condition holds on some choice of rows. A comparison with an address that the
    /// caller may not see is `hidden`.
    fn exists(&self, expr: &Expr, hidden: bool, place: Place<'_>, rows: &mut Rows) -> bool {
        if let Expr::Or(list) = expr {
            return list.iter().any(|it| self.exists(it, hidden, place, rows));
        }
        rows.wanted = None;
        self.ask(expr, place, rows);
        let Some((key, choices)) = rows.wanted.take() else {
            return self.holds_on(expr, hidden, place, rows);
        };
        choices.into_iter().any(|row| {
            rows.chosen.push((key.clone(), row));
            let holds = self.exists(expr, hidden, place, rows);
            rows.chosen.pop();
            holds
        })
    }

    /// Finds the first row that the condition asks for and that is not chosen.
    fn ask(&self, expr: &Expr, place: Place<'_>, rows: &mut Rows) {
        match expr {
            Expr::And(list) | Expr::Or(list) => {
                list.iter().for_each(|it| self.ask(it, place, rows));
            }
            Expr::Compare(Comparison {
                left,
                any: true,
                right,
                ..
            }) => {
                self.side(left, place, rows);
                self.side(right, place, rows);
            }
            Expr::In(left, _) => drop(self.side(left, place, rows)),
            Expr::Not(_) | Expr::Compare(_) => {}
        }
    }

    fn holds_on(&self, expr: &Expr, hidden: bool, place: Place<'_>, rows: &mut Rows) -> bool {
        match expr {
            Expr::Not(inner) => !self.exists(inner, !hidden, place, &mut Rows::shared()),
            Expr::And(list) => list.iter().all(|it| self.holds_on(it, hidden, place, rows)),
            Expr::Or(list) => list.iter().any(|it| self.holds_on(it, hidden, place, rows)),
            Expr::Compare(Comparison {
                left,
                op,
                any,
                right,
            }) => {
                let mut all = Rows::default();
                let rows = if *any { rows } else { &mut all };
                let (left, right) = (self.side(left, place, rows), self.side(right, place, rows));
                compare(&left, *op, *any, &right, hidden)
            }
            Expr::In(left, list) => {
                let left = self.side(left, place, rows);
                list.iter().any(|literal| {
                    let right = constant(&Operand::Literal(literal.clone()));
                    compare(&left, Op::Equal, true, &right, hidden)
                })
            }
        }
    }

    fn side(&self, operand: &Operand, place: Place<'_>, rows: &mut Rows) -> ModelOperand {
        let Place {
            table,
            record,
            context,
        } = place;
        match operand {
            Operand::Path(path) if path[0] == "@request" => {
                self.request(path, table, context, rows).unwrap()
            }
            Operand::Path(path) if path[0] == "@collection" => {
                let target = self.collection_of(path).unwrap();
                let (class, _) = self.class_of(target, &path[2..], context).unwrap();
                let all = (0..self.tables[target].records.len()).map(|at| Row::Record(Some(at)));
                let key = path[..2].join(".");
                let all = all.collect();
                ModelOperand {
                    scalars: self.values_of_rows(target, all, &path[2..], context, &key, rows),
                    class,
                    origin: Origin::Field,
                }
            }
            Operand::Path(path) if !path[0].starts_with('@') => {
                let (class, _) = self.class_of(table, path, context).unwrap();
                ModelOperand {
                    scalars: self.values_in(table, Some(record), path, context, "", rows),
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

/// The value of a field other than json, which is `empty` without one.
fn end_of_path(value: &Value, empty: Scalar, modifier: Option<&str>) -> Scalar {
    let texts = value.texts();
    match (modifier, value) {
        (Some("length"), _) => Scalar::Number(Number::Integer(i64::try_from(texts.len()).unwrap())),
        (Some("lower"), Value::Text(text)) => Scalar::Text(text.to_ascii_lowercase()),
        (_, Value::Number(number)) => Scalar::Number(*number),
        (_, Value::Flag(flag)) => Scalar::Number(Number::Integer(i64::from(*flag))),
        (_, Value::Text(text)) => Scalar::Text(text.clone()),
        (_, Value::List(_)) => Scalar::List(texts.into_iter().map(Scalar::Text).collect()),
        (_, Value::Unset | Value::Json(_)) => empty,
    }
}

/// The record of a condition, and its author.
#[derive(Clone, Copy)]
struct Place<'a> {
    table: usize,
    record: &'a Record,
    context: EvalContext<'a>,
}

fn class_of_field(field: &Field, modifier: Option<&str>) -> Option<(OperandType, bool)> {
    let holds_values = matches!(
        field.kind,
        FieldKind::Select { .. } | FieldKind::Relation(_) | FieldKind::File(_)
    );
    let is_text = matches!(
        field.kind,
        FieldKind::Text(_) | FieldKind::Email(_) | FieldKind::Url(_) | FieldKind::Editor { .. }
    );
    match modifier {
        None | Some("each") if modifier.is_none() || holds_values => {}
        Some("length") if holds_values => return Some((OperandType::Number, false)),
        Some("lower") if is_text || (holds_values && !field.is_multiple()) => {
            return Some((OperandType::Text, false));
        }
        _ => return None,
    }
    let class = match &field.kind {
        _ if field.is_multiple() => OperandType::Element,
        FieldKind::Json { .. } => OperandType::Inside,
        FieldKind::Number { .. } => OperandType::Number,
        FieldKind::Bool => OperandType::Bool,
        FieldKind::Date(_) => OperandType::Date,
        FieldKind::Datetime(_) => OperandType::Datetime,
        _ => OperandType::Text,
    };
    Some((class, field.is_multiple()))
}

fn split_modifier(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((name, modifier)) => (name, Some(modifier)),
        None => (name, None),
    }
}

/// The value of a literal or time macro.
fn constant(operand: &Operand) -> ModelOperand {
    let (scalar, class) = match operand {
        Operand::Literal(literal) => (self::literal(literal), OperandType::Constant),
        // All times here are equally far from those of the records.
        Operand::Path(_) | Operand::Call(..) => (Scalar::Text(clock::now()), OperandType::Moment),
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
