//! Evaluates `@request` paths, written from the documentation.

use serde_json::Value as Json;

use super::callers::{ADMIN_ID, Account, Caller};
use super::compare;
use super::compare::{ModelOperand, OperandType, Origin, Scalar, convert};
use super::grants::Verb;
use super::model::EvalContext;
use super::rows::{Row, Rows};
use super::world::{Number, Record, Value, World};
use crate::model::collections::{Field, FieldKind};
use crate::model::filter::{Comparison, Expr, Op, Operand};

/// Columns that every account has.
pub const ALWAYS: [&str; 5] = ["id", "created", "updated", "collectionId", "collectionName"];

impl World {
    /// The values of a path that starts with `@request`; none if it is invalid. The condition is on
    /// records of `table`.
    pub fn request(
        &self,
        path: &[String],
        table: usize,
        context: EvalContext<'_>,
        rows: &mut Rows,
    ) -> Option<ModelOperand> {
        let (part, first, rest) = match path {
            [_, part, first, rest @ ..] => (part.as_str(), first.as_str(), rest),
            _ => return None,
        };
        match part {
            "auth" if ALWAYS.contains(&first) => {
                let text = self.of_every_account(first, context.caller);
                let side = known(text.map(Scalar::Text).into_iter().collect());
                rest.is_empty().then(|| match first {
                    "created" | "updated" => side.of_class(OperandType::Moment),
                    _ => side,
                })
            }
            "auth" => match context.caller {
                Caller::User(account) => self.of_account(account, first, rest, context, rows),
                _ => Some(known(Vec::new())),
            },
            "body" => self.of_body(table, first, rest, context, rows),
            _ => None,
        }
    }

    fn of_every_account(&self, name: &str, caller: &Caller) -> Option<String> {
        let account = match caller {
            Caller::User(account) => account,
            Caller::Admin if name == "id" => return Some(ADMIN_ID.to_owned()),
            Caller::Admin if name == "collectionName" => return Some("_superusers".to_owned()),
            _ => return None,
        };
        let (record, collection) = (&account.record, &self.tables[account.table].collection);
        Some(match name {
            "id" => record.id.clone(),
            "created" => record.created.clone(),
            "updated" => record.updated.clone(),
            "collectionId" => collection.id.clone(),
            _ => collection.name.clone(),
        })
    }

    fn of_account(
        &self,
        account: &Account,
        name: &str,
        rest: &[String],
        context: EvalContext<'_>,
        rows: &mut Rows,
    ) -> Option<ModelOperand> {
        let collection = &self.tables[account.table].collection;
        let Some(field) = collection.field(name).filter(|field| !field.is_secret()) else {
            return Some(known(Vec::new()));
        };
        if !self.may_use(account.table, field, context) {
            return None;
        }
        let value = account.record.value(collection, name);
        let target = match (self.target(field), value) {
            (_, Value::Json(json)) if name == "groups" && rest.is_empty() => {
                return Some(known(one_list(values_of_json(json))));
            }
            (_, Value::Json(json)) => return Some(known(one_of_json(json, rest))),
            // Json without the value has none, where other fields are empty.
            _ if field.is_json() => return Some(known(Vec::new())),
            _ if rest.is_empty() => {
                let side = known(values_of(value)).of_class(class_of_constant(field));
                return Some(side.or_empty());
            }
            (Some(target), _) => target,
            (None, _) => return Some(known(Vec::new())),
        };
        let ids = value.texts();
        if ids.is_empty() {
            return Some(known(Vec::new()));
        }
        let is_denied = self.grant(target, Verb::View, context.caller).is_denied();
        if !context.is_rule && is_denied {
            return None;
        }
        let key = format!("@request.auth.{name}");
        match self.of_related(target, (&key, &ids), rest, context, rows) {
            // Another auth collection has the field that the rule names.
            None if context.is_rule => Some(known(Vec::new())),
            side => side,
        }
    }

    /// The values at a path in records that the request names.
    fn of_related(
        &self,
        target: usize,
        (key, ids): (&str, &[String]),
        rest: &[String],
        context: EvalContext<'_>,
        rows: &mut Rows,
    ) -> Option<ModelOperand> {
        let (class, _) = self.class_of(target, rest, context)?;
        // In the request an empty string is unset, even inside json.
        let nothing = |scalar| match scalar {
            Scalar::Unset => Scalar::Missing,
            Scalar::Text(text) if text.is_empty() => Scalar::Missing,
            scalar => scalar,
        };
        let find = |id: &String| {
            self.related(target, id, context)?;
            let mut records = self.tables[target].records.iter();
            records.position(|it| it.id == *id)
        };
        let found: Vec<Row> = ids.iter().map(|id| Row::Record(find(id))).collect();
        let scalars = match ids {
            [] => Vec::new(),
            [id] => {
                let record = find(id).map(|at| &self.tables[target].records[at]);
                self.values_in(target, record, rest, context, key, rows)
            }
            _ => self.values_of_rows(target, found, rest, context, key, rows),
        };
        let scalars = scalars.into_iter().map(nothing).collect();
        Some(known(scalars).of_class(class))
    }

    fn of_body(
        &self,
        table: usize,
        name: &str,
        rest: &[String],
        context: EvalContext<'_>,
        rows: &mut Rows,
    ) -> Option<ModelOperand> {
        let (name, asks_if_set) = match name.strip_suffix(":isset") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let field = self.tables[table].collection.field(name);
        let field = field.filter(|field| self.may_use(table, field, context));
        // A filter of the caller has no body.
        if !context.is_rule {
            return None;
        }
        if (name != "id" && field.is_none()) || (asks_if_set && !rest.is_empty()) {
            return None;
        }
        let sent = context.sent.and_then(|sent| sent.get(name));
        if asks_if_set {
            return Some(ModelOperand {
                scalars: vec![Scalar::Number(Number::Integer(i64::from(sent.is_some())))],
                class: OperandType::Constant,
                origin: Origin::Text,
            });
        }
        let Some(field) = field else {
            let id = sent.map(values_of).unwrap_or_default();
            let side = known(id);
            return rest.is_empty().then(|| match sent {
                Some(_) => side.or_empty(),
                None => side,
            });
        };
        if let FieldKind::Json { .. } = field.kind {
            return Some(known(match sent {
                Some(Value::Json(json)) => one_of_json(json, rest),
                _ => Vec::new(),
            }));
        }
        if !rest.is_empty() {
            let ids = sent.map(Value::texts).unwrap_or_default();
            let key = format!("@request.body.{name}");
            return self.of_related(self.target(field)?, (&key, &ids), rest, context, rows);
        }
        let values = sent.map(values_of).unwrap_or_default();
        let side = known(values).of_class(class_of_constant(field));
        Some(match sent {
            Some(_) => side.or_empty(),
            None => side,
        })
    }

    /// True if a rule is valid as far as accounts are concerned: some auth collection has each
    /// field that it names, and the comparison fits its type.
    pub fn is_sound(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Not(inner) => self.is_sound(inner),
            Expr::And(list) | Expr::Or(list) => list.iter().all(|expr| self.is_sound(expr)),
            Expr::Compare(Comparison {
                left, op, right, ..
            }) => {
                let is_like = matches!(op, Op::Like | Op::NotLike);
                self.is_sound_pair(left, right, is_like) && self.is_sound_pair(right, left, is_like)
            }
            Expr::In(left, list) => list
                .iter()
                .all(|literal| self.is_sound_pair(left, &Operand::Literal(literal.clone()), false)),
        }
    }

    fn is_sound_pair(&self, operand: &Operand, other: &Operand, is_like: bool) -> bool {
        let path = match operand {
            Operand::Path(path) if path[0] == "@request" && path[1] == "auth" => path,
            _ => return true,
        };
        let Some(classes) = self.classes_of_account(path) else {
            return false;
        };
        let fits = |scalar: &Scalar| {
            let fits = |class: &OperandType| convert(scalar.clone(), *class).is_some();
            classes.iter().all(fits)
        };
        match other {
            Operand::Literal(literal) if !is_like => fits(&super::model::literal(literal)),
            Operand::Path(path) if !is_like && path[path.len() - 1].ends_with(":isset") => {
                fits(&Scalar::Number(Number::Integer(0)))
            }
            Operand::Path(path) if path[0] != "@request" && path[0].starts_with('@') => {
                let is_numeric = |class: &OperandType| class.is_numeric();
                is_like || !classes.iter().any(is_numeric)
            }
            _ => true,
        }
    }

    /// The possible types at the end of a path, by auth collection; none if there is no such path.
    fn classes_of_account(&self, path: &[String]) -> Option<Vec<OperandType>> {
        let (name, rest) = (path.get(2)?, &path[3..]);
        if ALWAYS.contains(&name.as_str()) {
            let class = match name.as_str() {
                "created" | "updated" => OperandType::Moment,
                _ => OperandType::Constant,
            };
            return rest.is_empty().then(|| vec![class]);
        }
        let context = EvalContext {
            caller: &Caller::Anonymous,
            is_rule: true,
            sent: None,
        };
        let class = |table: usize| {
            let field = self.tables[table].collection.field(name)?;
            match self.target(field) {
                _ if field.is_secret() => None,
                _ if rest.is_empty() => Some(class_of_constant(field)),
                Some(target) => self.class_of(target, rest, context).map(|(class, _)| class),
                None => {
                    matches!(field.kind, FieldKind::Json { .. }).then_some(OperandType::Constant)
                }
            }
        };
        let classes: Vec<OperandType> = self.accounts().into_iter().filter_map(class).collect();
        (!classes.is_empty()).then_some(classes)
    }
}

/// The values of the request itself. No values count as a missing one.
fn known(values: Vec<Scalar>) -> ModelOperand {
    ModelOperand {
        scalars: match values.is_empty() {
            true => vec![Scalar::Missing],
            false => values,
        },
        class: OperandType::Constant,
        origin: Origin::Request,
    }
}

impl ModelOperand {
    /// A field of the request, which is empty without a value.
    fn or_empty(mut self) -> ModelOperand {
        if self.scalars == [Scalar::Missing] {
            self.scalars = vec![Scalar::Unset];
        }
        self
    }

    fn of_class(self, class: OperandType) -> ModelOperand {
        ModelOperand { class, ..self }
    }
}

fn class_of_constant(field: &Field) -> OperandType {
    match field.kind {
        FieldKind::Date(_) | FieldKind::Datetime(_) => OperandType::Moment,
        _ => OperandType::Constant,
    }
}

fn values_of(value: &Value) -> Vec<Scalar> {
    match value {
        Value::Unset => Vec::new(),
        Value::Number(number) => vec![Scalar::Number(*number)],
        Value::Flag(flag) => vec![Scalar::Number(Number::Integer(i64::from(*flag)))],
        Value::Text(text) => vec![Scalar::Text(text.clone())],
        Value::List(list) => one_list(list.iter().cloned().map(Scalar::Text).collect()),
        Value::Json(json) => values_of_json(json),
    }
}

/// Several values are a list.
fn one_list(list: Vec<Scalar>) -> Vec<Scalar> {
    match list.len() {
        0 | 1 => list,
        _ => vec![Scalar::List(list)],
    }
}

/// A list counts as its values, without the unset ones.
fn values_of_json(json: &Json) -> Vec<Scalar> {
    let list = match json {
        Json::Array(list) => list.iter().map(compare::scalar).collect(),
        json => vec![compare::scalar(json)],
    };
    let has_value =
        |scalar: &Scalar| *scalar != Scalar::Missing && *scalar != Scalar::Text(String::new());
    list.into_iter().filter(has_value).collect()
}

/// The value at a path inside json.
fn one_of_json(json: &Json, path: &[String]) -> Vec<Scalar> {
    let scalar = compare::inside(json, path);
    let has_value = scalar != Scalar::Missing && scalar != Scalar::Text(String::new());
    has_value.then_some(scalar).into_iter().collect()
}

/// True if two records are the same account.
pub fn is_own(caller: &Caller, table: usize, record: &Record) -> bool {
    matches!(caller, Caller::User(account)
        if account.table == table && account.record.id == record.id)
}
