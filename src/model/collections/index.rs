//! Indexes of a definition: read from SQL text and from objects, written as SQL text.
//!
//! A `CREATE [UNIQUE] INDEX` has columns or expressions, each with a collation and an order, and a
//! condition (`WHERE`). Its text reaches SQLite only as tokens that `index_sql` knows.

use serde_json::{Map, Value};

use super::index_sql::{Token, tokens};
use super::parse::Problems;

/// Largest number of indexes of a collection.
const INDEXES_MAX: usize = 64;
const COLUMNS_MAX: usize = 16;
const SQL_BYTES_MAX: usize = 4096;

const FORM: &str = "An index is CREATE [UNIQUE] INDEX name ON collection (a, b DESC) [WHERE condition], \
                    or {\"fields\": [\"a\", \"-b\"], \"unique\": false}.";

/// An index that the definition asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub name: String,
    pub columns: Vec<IndexColumn>,
    pub unique: bool,
    /// The condition of a partial index; empty for none.
    pub condition: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexColumn {
    /// A single name for a plain column.
    pub tokens: Vec<Token>,
    pub collation: Option<String>,
    pub descending: bool,
}

impl IndexColumn {
    /// The name of a plain column.
    pub fn plain(&self) -> Option<&str> {
        match self.tokens.as_slice() {
            [Token::Name(name)] => Some(name),
            _ => None,
        }
    }
}

impl Index {
    /// The only column of a unique index that covers every record with a value.
    pub fn unique_column(&self) -> Option<&IndexColumn> {
        let [column] = self.columns.as_slice() else {
            return None;
        };
        let name = column.plain()?;
        let is_total = match self.condition.as_slice() {
            [] => true,
            [
                Token::Name(tested),
                Token::Operator(operator),
                Token::Text(text),
            ] => tested == name && matches!(operator.as_str(), "!=" | "<>") && text.is_empty(),
            _ => false,
        };
        (self.unique && is_total).then_some(column)
    }

    /// The names of columns that the index uses.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().flat_map(|column| &column.tokens);
        columns
            .chain(&self.condition)
            .filter_map(|token| match token {
                Token::Name(name) => Some(name.as_str()),
                _ => None,
            })
    }
}

/// Reads a list of indexes; an invalid one is a problem and left out.
pub fn parse_indexes(value: &Value, problems: &mut Problems) -> Vec<Index> {
    const CODE: &str = "validation_invalid_index_expression";
    let Some(list) = value.as_array().filter(|list| list.len() <= INDEXES_MAX) else {
        let message = format!("Must be a list of at most {INDEXES_MAX} indexes.");
        problems.add("indexes", CODE, message);
        return Vec::new();
    };
    let mut indexes: Vec<Index> = Vec::new();
    for (position, value) in list.iter().enumerate() {
        let index = match value {
            Value::String(sql) => parse_sql(sql),
            Value::Object(object) => parse_object(object).ok_or_else(|| FORM.to_owned()),
            _ => Err(FORM.to_owned()),
        };
        let key = format!("indexes.{position}");
        match index {
            Ok(index)
                if indexes
                    .iter()
                    .any(|it| it.name.eq_ignore_ascii_case(&index.name)) =>
            {
                let message = format!("There are two indexes named {}.", index.name);
                problems.add(&key, "validation_duplicated_index_name", message);
            }
            Ok(index) => indexes.push(index),
            Err(message) => problems.add(&key, CODE, message),
        }
    }
    indexes
}

/// An index as an object: its unset values may repeat in a unique index.
fn parse_object(object: &Map<String, Value>) -> Option<Index> {
    let columns: Vec<IndexColumn> = object
        .get("fields")?
        .as_array()?
        .iter()
        .map(|value| {
            let text = value.as_str()?;
            let name = text.strip_prefix('-');
            Some(IndexColumn {
                tokens: vec![Token::Name(name.unwrap_or(text).to_owned())],
                collation: None,
                descending: name.is_some(),
            })
        })
        .collect::<Option<_>>()?;
    let names: Vec<&str> = columns.iter().filter_map(IndexColumn::plain).collect();
    let name = match object.get("name") {
        None => format!("idx_{}", names.join("_")),
        Some(name) => name.as_str()?.to_owned(),
    };
    let unique = object.get("unique") == Some(&Value::Bool(true));
    let known = ["fields", "name", "unique"];
    let is_form = object.keys().all(|key| known.contains(&key.as_str()))
        && (1..=COLUMNS_MAX).contains(&columns.len())
        && is_name(&name)
        && names.iter().all(|name| is_name(name));
    let mut condition = Vec::new();
    for name in names.iter().filter(|_| unique) {
        if !condition.is_empty() {
            condition.push(Token::Word("AND".to_owned()));
        }
        condition.extend([
            Token::Name((*name).to_owned()),
            Token::Operator("!=".to_owned()),
            Token::Text(String::new()),
        ]);
    }
    is_form.then_some(Index {
        name,
        columns,
        unique,
        condition,
    })
}

fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Reads a `CREATE INDEX`. The name of its table is not used: it is that of the collection.
fn parse_sql(sql: &str) -> Result<Index, String> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(format!("An index has at most {SQL_BYTES_MAX} bytes."));
    }
    let all = tokens(sql)?;
    let mut rest = all.as_slice();
    let form = || FORM.to_owned();
    take_word(&mut rest, "CREATE").ok_or_else(form)?;
    let unique = take_word(&mut rest, "UNIQUE").is_some();
    take_word(&mut rest, "INDEX").ok_or_else(form)?;
    if take_word(&mut rest, "IF").is_some() {
        take_word(&mut rest, "NOT").ok_or_else(form)?;
        take_word(&mut rest, "EXISTS").ok_or_else(form)?;
    }
    let name = take_identifier(&mut rest)
        .filter(|name| is_name(name))
        .ok_or_else(form)?;
    take_word(&mut rest, "ON").ok_or_else(form)?;
    take_identifier(&mut rest).ok_or_else(form)?;
    let [Token::Operator(open), inside @ ..] = rest else {
        return Err(form());
    };
    let end = matching_end(inside)
        .filter(|_| open == "(")
        .ok_or_else(form)?;
    let columns = split_at_commas(&inside[..end])
        .map(parse_column)
        .collect::<Result<Vec<_>, _>>()?;
    if !(1..=COLUMNS_MAX).contains(&columns.len()) {
        return Err(format!("An index has 1 to {COLUMNS_MAX} columns."));
    }
    rest = &inside[end + 1..];
    let has_condition = take_word(&mut rest, "WHERE").is_some();
    if has_condition == rest.is_empty() {
        return Err(form());
    }
    Ok(Index {
        name,
        columns,
        unique,
        condition: in_expression(rest)?,
    })
}

fn take_word<'a>(rest: &mut &'a [Token], word: &str) -> Option<&'a Token> {
    let (first, after) = rest.split_first()?;
    let is_it =
        matches!(first, Token::Word(text) | Token::Bare(text) if text.eq_ignore_ascii_case(word));
    is_it.then(|| {
        *rest = after;
        first
    })
}

fn take_identifier(rest: &mut &[Token]) -> Option<String> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    match first {
        Token::Name(name) | Token::Bare(name) | Token::Word(name) => Some(name.clone()),
        _ => None,
    }
}

/// The position of the parenthesis that ends the one before these tokens.
fn matching_end(tokens: &[Token]) -> Option<usize> {
    let mut depth = 1;
    tokens.iter().position(|token| {
        match token {
            Token::Operator(it) if it == "(" => depth += 1,
            Token::Operator(it) if it == ")" => depth -= 1,
            _ => {}
        }
        depth == 0
    })
}

fn split_at_commas(tokens: &[Token]) -> impl Iterator<Item = &[Token]> {
    let mut depth = 0;
    tokens.split(move |token| {
        match token {
            Token::Operator(it) if it == "(" => depth += 1,
            Token::Operator(it) if it == ")" => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(token, Token::Operator(it) if it == ",")
    })
}

fn parse_column(tokens: &[Token]) -> Result<IndexColumn, String> {
    let mut rest = tokens;
    let is_word = |token: Option<&Token>, word: &str| matches!(token, Some(Token::Word(it) | Token::Bare(it)) if it.eq_ignore_ascii_case(word));
    let descending = is_word(rest.last(), "DESC");
    if descending || is_word(rest.last(), "ASC") {
        rest = &rest[..rest.len() - 1];
    }
    let mut collation = None;
    if let [
        before @ ..,
        collate,
        Token::Word(name) | Token::Bare(name) | Token::Name(name),
    ] = rest
        && is_word(Some(collate), "COLLATE")
    {
        let known = ["BINARY", "NOCASE", "RTRIM"];
        let Some(name) = known.iter().find(|it| it.eq_ignore_ascii_case(name)) else {
            return Err(format!(
                "{name} is not a collation: BINARY, NOCASE or RTRIM."
            ));
        };
        (collation, rest) = (Some((*name).to_owned()), before);
    }
    if rest.is_empty() {
        return Err("A column of the index is missing.".to_owned());
    }
    Ok(IndexColumn {
        tokens: in_expression(rest)?,
        collation,
        descending,
    })
}

/// The tokens of an expression: unquoted words that are neither keywords nor functions are columns.
fn in_expression(tokens: &[Token]) -> Result<Vec<Token>, String> {
    let mut list = Vec::with_capacity(tokens.len());
    for (at, token) in tokens.iter().enumerate() {
        let is_call = matches!(tokens.get(at + 1), Some(Token::Operator(it)) if it == "(");
        let before = at.checked_sub(1).map(|at| &tokens[at]);
        let is_cast = matches!(before, Some(Token::Word(it)) if it == "AS");
        list.push(match token {
            Token::Bare(name) if is_call => {
                return Err(format!("The function {name} cannot be used in an index."));
            }
            Token::Bare(name) => Token::Name(name.clone()),
            // `length`, `text` and the like are names where they are neither called nor cast to.
            Token::Word(word)
                if !is_call && !is_cast && (token.is_function() || word == "TEXT") =>
            {
                Token::Name(word.to_ascii_lowercase())
            }
            token => token.clone(),
        });
    }
    Ok(list)
}

/// The SQL for clients, which [`parse_indexes`] reads back, in the form of PocketBase.
pub fn index_to_sql(index: &Index, table: &str) -> String {
    let columns: Vec<String> = index.columns.iter().map(column_to_sql).collect();
    let columns = match columns.as_slice() {
        [column] => column.clone(),
        columns => format!("\n  {}\n", columns.join(",\n  ")),
    };
    let unique = if index.unique { "UNIQUE " } else { "" };
    let condition = match index.condition.as_slice() {
        [] => String::new(),
        tokens => format!(" WHERE {}", Token::join(tokens, quoted_name)),
    };
    format!(
        "CREATE {unique}INDEX {} ON {} ({columns}){condition}",
        quoted_name(&index.name),
        quoted_name(table)
    )
}

fn column_to_sql(column: &IndexColumn) -> String {
    let mut sql = Token::join(&column.tokens, quoted_name);
    if let Some(collation) = &column.collation {
        sql += " COLLATE ";
        sql += collation;
    }
    if column.descending {
        sql += " DESC";
    }
    sql
}

/// Names here are words, so that the quotes need no escape.
fn quoted_name(name: &str) -> String {
    format!("`{name}`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn check_index(value: Value, expected: Option<&str>) {
        let mut problems = Problems::default();
        let list = parse_indexes(&json!([value]), &mut problems);
        let written = list.first().map(|index| index_to_sql(index, "t"));
        assert_eq!(written.as_deref(), expected, "{value} {problems:?}");
        if let Some(sql) = written {
            let again = parse_indexes(&json!([sql]), &mut problems);
            assert_eq!(again, list);
        }
    }

    #[test]
    fn indexes_are_read_from_objects_and_from_sql() {
        let ab = "CREATE INDEX `i` ON `t` (\n  `a`,\n  `b` DESC\n)";
        check_index(json!({"name": "i", "fields": ["a", "-b"]}), Some(ab));
        check_index(json!("CREATE INDEX i ON t (a, b DESC)"), Some(ab));
        check_index(
            json!("create index if not exists `i` on `t` (`a` asc,\"b\" desc)"),
            Some(ab),
        );
        check_index(
            json!("CREATE UNIQUE INDEX [i-2] ON x (a COLLATE nocase)"),
            Some("CREATE UNIQUE INDEX `i-2` ON `t` (`a` COLLATE NOCASE)"),
        );
        check_index(
            json!({"name": "i", "fields": ["a", "b"], "unique": true}),
            Some(
                "CREATE UNIQUE INDEX `i` ON `t` (\n  `a`,\n  `b`\n) WHERE `a` != '' AND `b` != ''",
            ),
        );
        check_index(
            json!("CREATE INDEX i ON t (lower(a), (n + 1)) WHERE n > 1.5 AND a like 'it''s; --%'"),
            Some(
                "CREATE INDEX `i` ON `t` (\n  lower(`a`),\n  (`n` + 1)\n) WHERE `n` > 1.5 AND `a` LIKE 'it''s; --%'",
            ),
        );
    }

    #[test]
    fn sql_beyond_an_index_is_refused() {
        for wrong in [
            json!("CREATE INDEX i ON t ()"),
            json!("CREATE INDEX i ON t (a,)"),
            json!("CREATE INDEX i ON t (a) WHERE"),
            json!("CREATE INDEX i ON t (a) b"),
            json!("CREATE INDEX i ON t (a)) "),
            json!("CREATE INDEX i ON t (a); DROP TABLE t"),
            json!("CREATE INDEX i ON t (a -- b)"),
            json!("CREATE INDEX i ON t (a /* b */)"),
            json!("CREATE INDEX i ON t (load_extension('x'))"),
            json!("CREATE INDEX i ON t (random())"),
            json!("CREATE INDEX i ON t (a) WHERE a = 'x"),
            json!("CREATE INDEX i ON t (a) WHERE a = ?1"),
            json!("CREATE INDEX i ON t (a COLLATE evil)"),
            json!("CREATE INDEX main.i ON t (a)"),
            json!("CREATE TABLE t (a)"),
            json!("DROP TABLE t"),
            json!({"fields": []}),
            json!({"fields": ["a"], "where": "x"}),
            json!(5),
        ] {
            check_index(wrong, None);
        }
    }

    #[test]
    fn a_unique_column_is_one_without_a_further_condition() {
        let column = |sql: &str| {
            let index = parse_sql(sql).unwrap();
            index
                .unique_column()
                .and_then(|it| it.plain())
                .map(str::to_owned)
        };
        assert_eq!(
            column("CREATE UNIQUE INDEX i ON t (a)").as_deref(),
            Some("a")
        );
        let partial = "CREATE UNIQUE INDEX i ON t (`a` COLLATE NOCASE) WHERE `a` != ''";
        assert_eq!(column(partial).as_deref(), Some("a"));
        assert_eq!(column("CREATE INDEX i ON t (a)"), None);
        assert_eq!(column("CREATE UNIQUE INDEX i ON t (a, b)"), None);
        assert_eq!(column("CREATE UNIQUE INDEX i ON t (a) WHERE b != ''"), None);
    }
}
