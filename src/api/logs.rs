//! `/api/logs`: the last requests, as PocketBase shows them.
//!
//! A ring of [`REQUESTS_MAX`] requests in memory, of at most 1 KiB each; a restart empties it. It
//! holds no query strings, headers with credentials or bodies, so no tokens; of a path with a token
//! in it, it holds the pattern.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use super::parameters::{page, parameter};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::model::filter;
use crate::model::filter::{Comparison, Expr, Literal, Op, Operand};
use crate::net::http::{Method, Request, Response};

/// Largest number of requests that are kept.
pub const REQUESTS_MAX: usize = 1000;
/// Longest path and longest name of a program, in bytes.
const TEXT_BYTES_MAX: usize = 300;
const HOUR_MS: i64 = 3_600_000;
/// Levels of PocketBase: information, warning, error.
const LEVELS: [i64; 3] = [0, 4, 8];

/// The last requests, oldest first.
#[derive(Default)]
pub struct RequestLog(Mutex<VecDeque<LoggedRequest>>);

#[derive(Clone)]
struct LoggedRequest {
    id: String,
    created_ms: i64,
    method: Method,
    path: String,
    status: u16,
    took: Duration,
    peer: IpAddr,
    client: IpAddr,
    user_agent: String,
}

impl RequestLog {
    /// Adds a request. `pattern` replaces a path that must not be kept.
    pub fn add(
        &self,
        request: &Request,
        pattern: Option<&str>,
        status: u16,
        took: Duration,
        client: IpAddr,
    ) {
        let logged = LoggedRequest {
            id: request.id.as_str().to_owned(),
            created_ms: clock::now_ms(),
            method: request.method,
            path: shortened(pattern.unwrap_or(&request.path)),
            status,
            took,
            peer: request.peer.ip().to_canonical(),
            client,
            user_agent: shortened(request.header("User-Agent").unwrap_or_default()),
        };
        let mut ring = lock(&self.0);
        if ring.len() >= REQUESTS_MAX {
            ring.pop_front();
        }
        ring.push_back(logged);
    }

    /// The requests that match a filter, newest first.
    fn matching(&self, text: &str) -> Result<Vec<Value>> {
        let filter = match text.trim() {
            "" => None,
            text => Some(filter::parse(text)?),
        };
        let kept: Vec<LoggedRequest> = lock(&self.0).iter().rev().cloned().collect();
        let mut found = Vec::new();
        for request in kept {
            let shown = request.to_json();
            if filter
                .as_ref()
                .map_or(Ok(true), |filter| holds(filter, &shown))?
            {
                found.push(shown);
            }
        }
        Ok(found)
    }
}

impl LoggedRequest {
    fn to_json(&self) -> Value {
        let level = match self.status {
            500.. => LEVELS[2],
            400.. => LEVELS[1],
            _ => LEVELS[0],
        };
        json!({
            "id": self.id,
            "created": clock::format_ms(self.created_ms),
            "level": level,
            "message": format!("{} {}", self.method, self.path),
            "data": {
                "type": "request",
                "method": self.method.as_str(),
                "url": self.path,
                "status": self.status,
                "execTime": self.took.as_secs_f64() * 1000.0,
                "remoteIP": self.peer.to_string(),
                "userIP": self.client.to_string(),
                "userAgent": self.user_agent,
                "referer": "",
                "auth": "",
            },
        })
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev();
    let end = end.into_iter().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let page = page(&pairs)?;
    let mut found = call
        .requests
        .matching(parameter(&pairs, "filter").unwrap_or_default())?;
    sort(&mut found, parameter(&pairs, "sort").unwrap_or_default())?;
    let before = usize::try_from(page.skip()).unwrap_or(usize::MAX);
    let total = found.len() as u64;
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    let items: Vec<Value> = found.into_iter().skip(before).take(size).collect();
    Ok(no_store(json_response(200, &page.envelope(total, &items))))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    let id = call.param("id");
    let kept = call.requests.matching("")?;
    let found = kept.into_iter().find(|request| request["id"] == id);
    let found = found.ok_or_else(|| Error::not_found("There is no such log entry."))?;
    Ok(no_store(json_response(200, &found)))
}

/// The number of requests in each hour.
pub fn stats(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let mut hours: BTreeMap<i64, u64> = BTreeMap::new();
    for request in call
        .requests
        .matching(parameter(&pairs, "filter").unwrap_or_default())?
    {
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
