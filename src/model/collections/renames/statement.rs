//! Rewrites the statement of a view.
//!
//! SQLite itself follows a renamed table or column through the statement, by the places of its
//! names: in a database in memory that has the statement as a view, and empty tables. A column of
//! the result keeps its name by an alias (`headline AS title`). A statement is refused if SQLite
//! cannot follow, or if the new name already means something else in it.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::names::{NamePair, Renames};
use crate::base::error::{Error, Result};
use crate::model::collections::view::empty_table;
use crate::model::collections::view_sql::{SqlToken, SqlTokenKind, ViewSql, ends_list, tokens};
use crate::model::collections::{Collection, Collections};
use crate::model::filter;
use crate::store::db::quote;

/// The text that SQLite stores before the statement of a view.
const PREFIX: &str = "CREATE VIEW _statement AS ";
/// Prefix of names in between, so that two names can be swapped.
const BETWEEN: &str = "_renamed_";

/// The statement with the new names.
pub fn rewrite(query: &str, renames: &Renames, before: &Collections) -> Result<String> {
    let Ok(sql) = ViewSql::parse(query) else {
        return Ok(query.to_owned());
    };
    let all = before.all().into_iter().map(AsRef::as_ref);
    let mentioned: Vec<&Collection> = all
        .filter(|it: &&Collection| sql.mentions(&it.name))
        .collect();
    let concerned = mentioned.iter().copied().filter(|it| renames.concern(it));
    let concerned: Vec<&Collection> = concerned.collect();
    if concerned.is_empty() {
        return Ok(query.to_owned());
    }
    let original = tokens(query)?;
    let fields = concerned.iter().filter_map(|it| renames.fields.get(&it.id));
    let fields: Vec<&NamePair> = fields.flat_map(|fields| fields.values()).collect();
    let tables = concerned
        .iter()
        .filter_map(|it| renames.collections.get(&it.id));
    let tables: Vec<&NamePair> = tables.collect();
    refuse_used_names(&original, &tables, &fields)?;
    let (aliased, aliases) = with_aliases(query, &original, &fields);
    let failed = |error: rusqlite::Error| match Error::from(error) {
        error if error.sqlite_message().is_some() => Error::invalid(format!(
            "SQLite says: {}",
            error.sqlite_message().unwrap_or_default()
        )),
        error => error,
    };
    let result = rename_in_sqlite(&aliased, &mentioned, &concerned, renames).map_err(failed)?;
    without_needless_aliases(&aliased, &result, &aliases)
}

/// Refuses a new name that the statement uses for something else, unless that name is given up. A
/// column of another table may have it if it is written with its table.
fn refuse_used_names(
    tokens: &[SqlToken],
    tables: &[&NamePair],
    fields: &[&NamePair],
) -> Result<()> {
    let same = |token: &SqlToken, name: &str| token.text.eq_ignore_ascii_case(name);
    // The alias that an earlier rename gave to the column.
    let is_own_alias = |at: usize, pair: &NamePair| {
        at > 1 && tokens[at - 1].is("AS") && same(&tokens[at - 2], &pair.old)
    };
    let is_used = |at: usize, pair: &NamePair| {
        let is_alias = at > 0 && tokens[at - 1].is("AS");
        let named = (0..tokens.len()).filter(|at| same(&tokens[*at], &pair.new));
        let has_own_alias = || named.clone().any(|at| is_own_alias(at, pair));
        let is_it = tokens[at].is_name() && same(&tokens[at], &pair.new);
        is_it && !is_own_alias(at, pair) && (is_alias || !has_own_alias())
    };
    for (at, token) in tokens.iter().enumerate() {
        let is_given_up = |pairs: &[&NamePair]| pairs.iter().any(|pair| same(token, &pair.old));
        let uses =
            |pairs: &[&NamePair]| !is_given_up(pairs) && pairs.iter().any(|pair| is_used(at, pair));
        let is_qualified = at > 0 && tokens[at - 1].is_symbol(".");
        if uses(tables) || (!is_qualified && uses(fields)) {
            return Err(Error::invalid(format!(
                "it uses the name {} for something else",
                token.text
            )));
        }
    }
    Ok(())
}

/// Gives each column that is selected under one of these names that name as an alias. Returns the
/// text, and the place of each `AS` among its tokens.
fn with_aliases(sql: &str, tokens: &[SqlToken], fields: &[&NamePair]) -> (String, Vec<usize>) {
    let (mut text, mut places, mut at) = (String::new(), Vec::new(), 0);
    for end in selected_columns(tokens) {
        let name = &tokens[end];
        if fields
            .iter()
            .any(|pair| pair.old.eq_ignore_ascii_case(&name.text))
        {
            text += &sql[at..name.end];
            text += &format!(" AS {}", &sql[name.start..name.end]);
            at = name.end;
            places.push(end + 1 + 2 * places.len());
        }
    }
    text += &sql[at..];
    (text, places)
}

/// The tokens, in order, that are the last of a selected column without an alias, in any `SELECT`.
fn selected_columns(tokens: &[SqlToken]) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for select in (0..tokens.len()).filter(|at| tokens[*at].is("SELECT")) {
        let is_word = |token: &SqlToken| token.is("DISTINCT") || token.is("ALL");
        let first = select + 1 + usize::from(tokens.get(select + 1).is_some_and(is_word));
        let (mut start, mut depth) = (first, 0_usize);
        for at in first..=tokens.len() {
            let token = tokens.get(at);
            let is = |symbol: &str| token.is_some_and(|token| token.is_symbol(symbol));
            let ends = depth == 0 && (is(")") || token.is_none_or(ends_list));
            if ends || (depth == 0 && is(",")) {
                match tokens.get(start..at).unwrap_or_default() {
                    [name] if name.is_name() => drop(found.insert(at - 1)),
                    [table, dot, name]
                        if table.is_name() && dot.is_symbol(".") && name.is_name() =>
                    {
                        found.insert(at - 1);
                    }
                    _ => {}
                }
                start = at + 1;
            }
            if ends {
                break;
            }
            depth = match (is("("), is(")")) {
                (true, _) => depth + 1,
                (_, true) => depth - 1,
                _ => depth,
            };
        }
    }
    found
}

/// Removes the aliases that repeat the name before them: those that were added here after columns
/// that keep their names, and those after columns that got that name now.
fn without_needless_aliases(before: &str, after: &str, added: &[usize]) -> Result<String> {
    let (old, new) = (tokens(before)?, tokens(after)?);
    let is_same = |a: usize, b: usize| new[a].text == new[b].text;
    let places = (1..new.len().saturating_sub(1)).filter(|at| {
        let is_changed = || {
            old.get(at - 1)
                .is_none_or(|old| old.text != new[at - 1].text)
        };
        let is_alias = new[*at].is("AS") && is_same(at - 1, at + 1);
        is_alias && (added.contains(at) || is_changed())
    });
    let pieces = places.map(|at| (new[at - 1].end..new[at + 1].end, String::new()));
    Ok(filter::replace(after, &pieces.collect::<Vec<_>>()))
}

#[expect(clippy::disallowed_methods, reason = "empty tables to rename")]
fn rename_in_sqlite(
    sql: &str,
    mentioned: &[&Collection],
    concerned: &[&Collection],
    renames: &Renames,
) -> rusqlite::Result<String> {
    let connection = Connection::open_in_memory()?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    for collection in mentioned {
        connection.execute_batch(&empty_table(collection))?;
    }
    connection.execute_batch(&format!("{PREFIX}{sql}"))?;
    let columns = column_names(&connection)?;
    for collection in concerned {
        let table = quote(&collection.name);
        let pairs = renames.fields.get(&collection.id);
        let pairs: Vec<&NamePair> = pairs.into_iter().flat_map(|it| it.values()).collect();
        rename_each(
            &connection,
            &format!("ALTER TABLE {table} RENAME COLUMN"),
            &pairs,
        )?;
    }
    let pairs = concerned
        .iter()
        .filter_map(|it| renames.collections.get(&it.id));
    let pairs: Vec<&NamePair> = pairs.collect();
    for (at, pair) in pairs.iter().enumerate() {
        let table = quote(&pair.old);
        connection.execute_batch(&format!("ALTER TABLE {table} RENAME TO {BETWEEN}{at}"))?;
    }
    for (at, pair) in pairs.iter().enumerate() {
        let name = written(&connection, &pair.new);
        connection.execute_batch(&format!("ALTER TABLE {BETWEEN}{at} RENAME TO {name}"))?;
    }
    if column_names(&connection)? != columns {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some("a column of the result would get another name".to_owned()),
        ));
    }
    let statement = "SELECT sql FROM sqlite_schema WHERE type = 'view'";
    let text: String = connection.query_row(statement, [], |row| row.get(0))?;
    let text = text.strip_prefix(PREFIX).unwrap_or(&text);
    Ok(with_plain_names(&connection, sql, text))
}

/// SQLite writes the new name of a table in quotes. Removes those where there were none.
fn with_plain_names(connection: &Connection, before: &str, after: &str) -> String {
    let (Ok(old), Ok(new)) = (tokens(before), tokens(after)) else {
        return after.to_owned();
    };
    let changed = old.iter().zip(&new).filter(|(old, new)| {
        let is_quoted = |token: &SqlToken| token.kind == SqlTokenKind::Quoted;
        !is_quoted(old) && is_quoted(new) && written(connection, &new.text) == new.text
    });
    let pieces = changed.map(|(_, new)| (new.start..new.end, new.text.clone()));
    filter::replace(after, &pieces.collect::<Vec<_>>())
}

/// `command` is the statement up to the old name.
fn rename_each(
    connection: &Connection,
    command: &str,
    pairs: &[&NamePair],
) -> rusqlite::Result<()> {
    for (at, pair) in pairs.iter().enumerate() {
        let old = quote(&pair.old);
        connection.execute_batch(&format!("{command} {old} TO {BETWEEN}{at}"))?;
    }
    for (at, pair) in pairs.iter().enumerate() {
        let new = written(connection, &pair.new);
        connection.execute_batch(&format!("{command} {BETWEEN}{at} TO {new}"))?;
    }
    Ok(())
}

fn column_names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let statement = connection.prepare("SELECT * FROM _statement")?;
    Ok(statement.column_names().map(str::to_owned).collect())
}

/// A name as it can stand in a statement: in quotes only if SQLite would take it for something
/// else. SQLite keeps the quotes of the names that it replaces.
fn written(connection: &Connection, name: &str) -> String {
    let quoted = quote(name);
    let sql = format!("SELECT {name} FROM (SELECT 5 AS {quoted})");
    match connection.query_row(&sql, [], |row| row.get(0)) {
        Ok(5) => name.to_owned(),
        _ => quoted,
    }
}
