//! `/api/logs`: the last requests, as PocketBase shows them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use super::parameters::{page, parameter};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::filter;
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand};
use crate::net::http::Response;

const HOUR_MS: i64 = 3_600_000;

/// The requests that match a filter, newest first.
fn matching(call: &Call<'_>, text: &str) -> Result<Vec<Value>> {
    let mut entries = call.requests.entries();
    if text.trim().is_empty() {
        return Ok(entries);
    }
    let filter = filter::parse(text.trim())?;
    let mut failure = None;
    entries.retain(|entry| match holds(&filter, entry) {
        Ok(is_match) => is_match,
        Err(error) => {
            failure.get_or_insert(error);
            false
        }
    });
    failure.map_or(Ok(entries), Err)
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let page = page(&pairs)?;
    let mut found = matching(call, parameter(&pairs, "filter").unwrap_or_default())?;
    sort(&mut found, parameter(&pairs, "sort").unwrap_or_default())?;
    let before = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let total = found.len() as u64;
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    let items: Vec<Value> = found.into_iter().skip(before).take(size).collect();
    Ok(no_store(json_response(200, &page.envelope(total, &items))))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let id = call.param("id");
    let kept = call.requests.entries();
    let found = kept.into_iter().find(|request| request["id"] == id);
    let found = found.ok_or_else(|| Error::not_found("There is no such log entry."))?;
    Ok(no_store(json_response(200, &found)))
}

/// Forgets the requests; the log of the server keeps them.
pub fn truncate(call: &Call<'_>) -> Result<Response> {
    call.requests.clear();
    Ok(Response::empty(204))
}

/// The number of requests in each hour.
pub fn stats(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let mut hours: BTreeMap<i64, u64> = BTreeMap::new();
    for request in matching(call, parameter(&pairs, "filter").unwrap_or_default())? {
        let created = request["created"].as_str().and_then(clock::parse_datetime);
        let created = created.unwrap_or_default();
        *hours
            .entry(created - created.rem_euclid(HOUR_MS))
            .or_default() += 1;
    }
    let rows: Vec<Value> = hours
        .into_iter()
        .map(|(ms, total)| json!({"date": clock::format_ms(ms), "total": total}))
        .collect();
    Ok(no_store(json_response(200, &Value::from(rows))))
}

fn sort(found: &mut [Value], terms: &str) -> Result<()> {
    for term in filter::parse_sort(terms)?.iter().rev() {
        let path = term.path.join(".");
        // PocketBase's clients sort by `-@rowid`, the order of arrival.
        if path == "@rowid" || path == "rowid" {
            match term.descending {
                true => {}
                false => found.reverse(),
            }
            continue;
        }
        found.sort_by(|one, other| {
            let (one, other) = (value_at(one, &path), value_at(other, &path));
            let order = compare(one, other).unwrap_or(std::cmp::Ordering::Equal);
            if term.descending {
                order.reverse()
            } else {
                order
            }
        });
    }
    Ok(())
}

/// Evaluates a filter on an entry: comparisons of its attributes with values, `&&`, `||` and `!`.
fn holds(filter: &Expr, entry: &Value) -> Result<bool> {
    if let Expr::And(list) = filter {
        return list
            .iter()
            .try_fold(true, |all, it| Ok(all && holds(it, entry)?));
    }
    if let Expr::Or(list) = filter {
        return list
            .iter()
            .try_fold(false, |any, it| Ok(any || holds(it, entry)?));
    }
    if let Expr::Not(inner) = filter {
        return Ok(!holds(inner, entry)?);
    }
    let Expr::Compare(comparison) = filter else {
        return Err(unsupported());
    };
    let Comparison {
        left, op, right, ..
    } = comparison;
    let (left, right) = (operand(left, entry)?, operand(right, entry)?);
    Ok(match op {
        Op::Like => contains(&left, &right),
        Op::NotLike => !contains(&left, &right),
        op => compare(&left, &right).is_some_and(|order| match op {
            Op::Equal => order.is_eq(),
            Op::NotEqual => order.is_ne(),
            Op::Greater => order.is_gt(),
            Op::GreaterOrEqual => order.is_ge(),
            Op::Less => order.is_lt(),
            _ => order.is_le(),
        }),
    })
}

fn unsupported() -> Error {
    Error::invalid("Logs can be filtered by comparisons of their attributes with values only.")
}

fn operand(operand: &Operand, entry: &Value) -> Result<Value> {
    if let Operand::Path(path) = operand {
        let path = path.join(".");
        return match value_at(entry, &path) {
            Value::Null => Err(Error::invalid(format!("Logs have no attribute {path}."))),
            value => Ok(value.clone()),
        };
    }
    let Operand::Literal(literal) = operand else {
        return Err(unsupported());
    };
    Ok(match literal {
        Literal::Null => Value::Null,
        Literal::Bool(flag) => json!(flag),
        Literal::Integer(number) => json!(number),
        Literal::Real(number) => json!(number),
        Literal::Text(text) => json!(text),
    })
}

fn value_at<'a>(entry: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(entry, |at, name| &at[name])
}

fn text_of(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Numbers by size, times whatever their form, other values as text.
fn compare(one: &Value, other: &Value) -> Option<std::cmp::Ordering> {
    if let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) {
        return one.partial_cmp(&other);
    }
    let (one, other) = (text_of(one), text_of(other));
    match (clock::parse_datetime(&one), clock::parse_datetime(&other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => Some(one.cmp(&other)),
    }
}

fn contains(value: &Value, pattern: &Value) -> bool {
    let pattern = text_of(pattern).to_lowercase();
    text_of(value)
        .to_lowercase()
        .contains(pattern.trim_matches('%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compare_numbers_times_and_text() {
        let entry = json!({"level": 4, "created": "2026-01-31T12:00:00.000Z",
            "message": "GET /api/x", "data": {"status": 404, "url": "/api/x"}});
        let check = |text: &str| holds(&filter::parse(text).unwrap(), &entry);
        for right in [
            "data.status >= 400 && level > 0",
            "data.url ~ 'API' || level = 9",
            "created > '2026-01-31 11:59:59.000Z'",
            "!(data.status = 200)",
        ] {
            assert!(check(right).unwrap(), "{right}");
        }
        assert!(!check("data.status < 400").unwrap());
        assert!(check("data.nothing = 1").is_err());
    }
}
