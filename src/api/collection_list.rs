//! Filters and sorts lists of collections, by `id`, `name`, `type`, `system`, `created` and
//! `updated`.

use serde_json::{Value, json};

use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::filter;
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand};

/// True if the filter admits the collection.
pub fn matches(filter: &Expr, collection: &Collection) -> Result<bool> {
    match filter {
        Expr::And(list) => all(list, collection, true),
        Expr::Or(list) => all(list, collection, false).map(|none| !none),
        Expr::Not(inner) => matches(inner, collection).map(|it| !it),
        Expr::Compare(comparison) => compare(comparison, collection),
        Expr::In(operand, list) => {
            let value = value_of(operand, collection)?;
            Ok(list.iter().any(|it| literal(it) == value))
        }
    }
}

/// True if each part of the list has this result.
fn all(list: &[Expr], collection: &Collection, wanted: bool) -> Result<bool> {
    for part in list {
        if matches(part, collection)? != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

fn compare(comparison: &Comparison, collection: &Collection) -> Result<bool> {
    let left = value_of(&comparison.left, collection)?;
    let right = value_of(&comparison.right, collection)?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    };
    let (left, right) = (text(&left), text(&right));
    let contains = || {
        let (left, right) = (left.to_ascii_lowercase(), right.to_ascii_lowercase());
        left.contains(right.trim_matches('%'))
    };
    Ok(match comparison.op {
        Op::Equal => left == right,
        Op::NotEqual => left != right,
        Op::Greater => left > right,
        Op::GreaterOrEqual => left >= right,
        Op::Less => left < right,
        Op::LessOrEqual => left <= right,
        Op::Like => contains(),
        Op::NotLike => !contains(),
    })
}

fn value_of(operand: &Operand, collection: &Collection) -> Result<Value> {
    match operand {
        Operand::Literal(value) => Ok(literal(value)),
        Operand::Path(path) => match path.join(".").as_str() {
            "system" => Ok(Value::Bool(false)),
            name => attribute(name, "filtered").map(|key| json!(key(collection))),
        },
        Operand::Call(..) => Err(Error::invalid(
            "The list of collections cannot be filtered by functions.",
        )),
    }
}

fn literal(literal: &Literal) -> Value {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(flag) => json!(flag),
        Literal::Integer(number) => json!(number),
        Literal::Real(number) => json!(number),
        Literal::Text(text) => json!(text),
    }
}

pub fn sort(collections: &mut [&Collection], terms: &str) -> Result<()> {
    // The sort is stable, so the most significant term is applied last.
    for term in filter::parse_sort(terms)?.iter().rev() {
        let name = term.path.join(".");
        if name == "system" {
            continue;
        }
        let key = attribute(&name, "sorted")?;
        collections.sort_by(|one, other| match term.descending {
            true => key(other).cmp(key(one)),
            false => key(one).cmp(key(other)),
        });
    }
    Ok(())
}

fn attribute(name: &str, what: &str) -> Result<fn(&Collection) -> &str> {
    Ok(match name {
        "id" => |it| &it.id,
        "name" => |it| &it.name,
        "type" => |it| it.kind.name(),
        "created" => |it| &it.created,
        "updated" => |it| &it.updated,
        other => {
            return Err(Error::invalid(format!(
                "Collections cannot be {what} by {other}."
            )));
        }
    })
}
