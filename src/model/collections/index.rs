//! The JSON form of indexes: read from objects and from plain SQL, written as objects.

use serde_json::{Map, Value, json};

use super::parse::invalid;
use crate::base::error::Result;

/// Largest number of indexes of a collection.
const INDEXES_MAX: usize = 64;

/// An index that the definition asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub name: String,
    /// Field names, each with true for descending order.
    pub columns: Vec<(String, bool)>,
    pub unique: bool,
}

pub fn parse_indexes(value: &Value) -> Result<Vec<Index>> {
    let Some(list) = value.as_array().filter(|list| list.len() <= INDEXES_MAX) else {
        return Err(invalid(
            "indexes",
            format!("Must be a list of at most {INDEXES_MAX} indexes."),
        ));
    };
    let mut indexes: Vec<Index> = Vec::new();
    for value in list {
        let index = match value {
            Value::String(sql) => parse_index_sql(sql),
            Value::Object(object) => parse_index_object(object),
            _ => None,
        };
        let Some(index) = index else {
            return Err(invalid(
                "indexes",
                "An index is {\"fields\": [\"a\", \"-b\"], \"unique\": false} or \
                 CREATE [UNIQUE] INDEX name ON collection (a, b DESC).",
            ));
        };
        if indexes
            .iter()
            .any(|other| other.name.eq_ignore_ascii_case(&index.name))
        {
            return Err(invalid(
                "indexes",
                format!("There are two indexes named {}.", index.name),
            ));
        }
        indexes.push(index);
    }
    Ok(indexes)
}

fn parse_index_object(object: &Map<String, Value>) -> Option<Index> {
    let columns: Vec<(String, bool)> = object
        .get("fields")?
        .as_array()?
        .iter()
        .map(|value| {
            let text = value.as_str()?;
            let name = text.strip_prefix('-');
            Some((name.unwrap_or(text).to_owned(), name.is_some()))
        })
        .collect::<Option<_>>()?;
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let name = match object.get("name") {
        None => format!("idx_{}", names.join("_")),
        Some(name) => name.as_str()?.to_owned(),
    };
    let unique = object
        .get("unique")
        .is_some_and(|unique| unique == &json!(true));
    let known = ["fields", "name", "unique"];
    (object.keys().all(|key| known.contains(&key.as_str())) && is_index(&name, &columns)).then_some(
        Index {
            name,
            columns,
            unique,
        },
    )
}

/// Reads `CREATE INDEX` with plain column names, as collections of PocketBase have it.
fn parse_index_sql(sql: &str) -> Option<Index> {
    let spaced = sql
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(',', " , ");
    let mut words = spaced
        .split_whitespace()
        .map(|word| word.trim_matches(['`', '"', '[', ']']));
    let mut expect = |wanted: &str| {
        words
            .next()
            .filter(|word| word.eq_ignore_ascii_case(wanted))
    };
    expect("CREATE")?;
    let mut word = words.next()?;
    let unique = word.eq_ignore_ascii_case("UNIQUE");
    if unique {
        word = words.next()?;
    }
    if !word.eq_ignore_ascii_case("INDEX") {
        return None;
    }
    let mut name = words.next()?;
    if name.eq_ignore_ascii_case("IF") {
        words
            .next()
            .filter(|word| word.eq_ignore_ascii_case("NOT"))?;
        words
            .next()
            .filter(|word| word.eq_ignore_ascii_case("EXISTS"))?;
        name = words.next()?;
    }
    words
        .next()
        .filter(|word| word.eq_ignore_ascii_case("ON"))?;
    words.next()?;
    words.next().filter(|word| *word == "(")?;
    let rest: Vec<&str> = words.collect();
    let (last, list) = rest.split_last()?;
    let columns: Vec<(String, bool)> = list
        .split(|word| *word == ",")
        .map(|column| match column {
            [name] => Some(((*name).to_owned(), false)),
            [name, order] if order.eq_ignore_ascii_case("ASC") => Some(((*name).to_owned(), false)),
            [name, order] if order.eq_ignore_ascii_case("DESC") => Some(((*name).to_owned(), true)),
            _ => None,
        })
        .collect::<Option<_>>()?;
    (*last == ")" && is_index(name, &columns)).then(|| Index {
        name: name.to_owned(),
        columns,
        unique,
    })
}

fn is_index(name: &str, columns: &[(String, bool)]) -> bool {
    let is_plain = |text: &str| {
        (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    is_plain(name)
        && (1..=16).contains(&columns.len())
        && columns.iter().all(|(name, _)| is_plain(name))
}

/// The form for clients.
pub fn index_to_json(index: &Index) -> Value {
    let fields: Vec<String> = index
        .columns
        .iter()
        .map(|(name, descending)| {
            if *descending {
                format!("-{name}")
            } else {
                name.clone()
            }
        })
        .collect();
    json!({"name": index.name, "fields": fields, "unique": index.unique})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn check_index(value: Value, expected: Option<&str>) {
        let written = parse_indexes(&json!([value]))
            .ok()
            .map(|list| index_to_json(&list[0]).to_string());
        assert_eq!(written.as_deref(), expected, "{value}");
    }

    #[test]
    fn indexes_are_read_from_objects_and_from_plain_sql() {
        let ab = r#"{"fields":["a","-b"],"name":"i","unique":false}"#;
        check_index(json!({"name": "i", "fields": ["a", "-b"]}), Some(ab));
        check_index(json!("CREATE INDEX i ON t (a, b DESC)"), Some(ab));
        check_index(
            json!("create index if not exists `i` on `t` (`a` asc,\"b\" desc)"),
            Some(ab),
        );
        check_index(
            json!("CREATE UNIQUE INDEX i ON t (a)"),
            Some(r#"{"fields":["a"],"name":"i","unique":true}"#),
        );
        for wrong in [
            json!("CREATE INDEX i ON t (lower(a))"),
            json!("CREATE INDEX i ON t (a) WHERE a > 1"),
            json!("CREATE INDEX i ON t ()"),
            json!("DROP TABLE t"),
            json!("CREATE INDEX i ON t (a; b)"),
            json!({"fields": []}),
            json!({"fields": ["a"], "where": "x"}),
            json!(5),
        ] {
            check_index(wrong, None);
        }
    }
}
