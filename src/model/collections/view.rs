//! Views: collections whose records are the rows of a `SELECT` over other collections.
//!
//! A view is a subquery in the statements that read it, not a view of SQLite: nothing in the file
//! can disagree with the definitions, so replicas, tenants, restored backups and changes of columns
//! need no care. `View::source` is that subquery. It replaces the name of each collection by a
//! selection of the columns that the definition has. So the statement cannot reach system tables,
//! password hashes, the keys of tokens, or columns of deleted fields, whatever it says.
//!
//! The columns of a view and their types follow from its statement and the other definitions alone
//! (`derive`). SQLite prepares the statement on empty tables in memory, and says for each column
//! from which column of a table it comes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::rc::Rc;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use serde_json::{Value, json};

use super::collection::View;
use super::field_json::parse_fields;
use super::parse::Problems;
use super::view_sql::{ColumnExpression, ViewSql};
use super::{Collection, Field};
use crate::base::error::{Error, Result};
use crate::store::db::authorizer::{AuthAction, Policy};
use crate::store::db::{authorizer, quote};

/// Longest subquery of a view, with those of the views that it reads.
const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Columns that are not fields.
const SYSTEM: [&str; 3] = ["id", "created", "updated"];
/// Tables without a definition that a statement can read.
pub const JSON_TABLES: [&str; 2] = ["json_each", "json_tree"];

/// A column that the statement selects.
struct ResultColumn {
    name: String,
    /// The collection and the column from which the value comes unchanged.
    origin: Option<(String, String)>,
    expression: ColumnExpression,
    /// The values of other columns may follow in the same column: `UNION`.
    is_compound: bool,
}

/// Derives the columns of a view. `shown` names columns that are shown although they may tell what
/// hidden fields contain. `others` are the collections of the database that can be read.
pub fn derive(query: &str, shown: &[&str], others: &[&Collection]) -> Result<(View, Vec<Field>)> {
    let sql = ViewSql::parse(query)?;
    let expressions = sql.columns()?;
    let mentioned = others.iter().copied();
    let mentioned: Vec<&Collection> = mentioned.filter(|it| sql.mentions(&it.name)).collect();
    let (names, read) = prepare(&sql.text, &mentioned)?;
    if names.len() != expressions.len() {
        return Err(Error::invalid("Write the columns of a view one by one."));
    }
    let is_compound = sql.is_compound();
    let columns = names.into_iter().zip(expressions);
    let columns = columns.map(|((name, origin), expression)| ResultColumn {
        name,
        origin: origin.filter(|_| expression == ColumnExpression::Column),
        expression,
        is_compound,
    });
    let columns: Vec<ResultColumn> = columns.collect();
    check_distinct(&columns)?;
    let is_hidden = hidden_columns(&columns, &mentioned, &read);
    if let Some(unknown) = shown
        .iter()
        .find(|name| !columns.iter().any(|it| it.name == **name))
    {
        return Err(Error::invalid(format!(
            "showHidden: the view has no column {unknown}."
        )));
    }
    let system = SYSTEM
        .into_iter()
        .filter(|name| columns.iter().any(|it| it.name == *name));
    let mut view = View {
        query: query.to_owned(),
        source: String::new(),
        system: system.collect(),
        origins: Vec::new(),
        error: None,
    };
    let mut fields = Vec::new();
    for (column, is_hidden) in columns.iter().zip(is_hidden) {
        let hidden = is_hidden && !shown.contains(&column.name.as_str());
        if !SYSTEM.contains(&column.name.as_str()) {
            fields.push(field(column, hidden, &mentioned)?);
            view.origins.push(origin_of(column, &mentioned));
        } else if hidden {
            return Err(Error::invalid(format!(
                "The column {} would tell what a hidden field contains; name it in \
                 options.showHidden if it shall.",
                column.name
            )));
        }
    }
    view.source = source(&sql.text, &columns, &fields, &mentioned);
    match view.source.len() > SOURCE_BYTES_MAX {
        false => Ok((view, fields)),
        true => Err(Error::invalid(
            "The view reads too many other views; read the collections themselves.",
        )),
    }
}

fn check_distinct(columns: &[ResultColumn]) -> Result<()> {
    let mut seen = BTreeSet::new();
    let is_repeated = |column: &&ResultColumn| !seen.insert(column.name.to_ascii_lowercase());
    match columns.iter().find(is_repeated) {
        None => Ok(()),
        Some(column) => Err(Error::invalid(format!(
            "Two columns are named {}; give one of them another name with AS.",
            column.name
        ))),
    }
}

/// The names of the columns of the result, each with the table and column that it comes from.
type ResultNames = Vec<(String, Option<(String, String)>)>;
/// Tables and columns that a statement reads, in lower case.
type ReadColumns = BTreeSet<(String, String)>;

/// Prepares the statement on empty tables like those of the collections.
#[expect(clippy::disallowed_methods, reason = "empty tables to prepare on")]
fn prepare(sql: &str, collections: &[&Collection]) -> Result<(ResultNames, ReadColumns)> {
    let mut connection = Connection::open_in_memory()?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    for collection in collections {
        connection.execute_batch(&empty_table(collection))?;
    }
    let tables = collections
        .iter()
        .map(|it| it.name.to_ascii_lowercase())
        .collect();
    connection.authorizer(Some(authorizer::authorize))?;
    let read = Rc::new(RefCell::new(ReadColumns::new()));
    let policy = read_policy(tables, Rc::clone(&read));
    let (prepared, denial) = authorizer::with_policy(policy, || connection.prepare(sql));
    if let Some(denial) = denial {
        return Err(Error::invalid(format!("The view may not {denial}.")));
    }
    let statement = prepared.map_err(|error| match Error::from(error) {
        error if error.sqlite_message().is_some() => Error::invalid(format!(
            "SQLite does not accept the statement: {}.",
            error.sqlite_message().unwrap_or_default()
        )),
        error => error,
    })?;
    let columns = statement.columns_with_metadata().map(|column| {
        let origin = column.table_name().zip(column.origin_name());
        let origin = origin.map(|(table, name)| (table.to_owned(), name.to_owned()));
        (column.name().to_owned(), origin)
    });
    let columns = columns.collect();
    Ok((columns, read.take()))
}

/// Notes which columns are read. `tables` are the names of the collections, in lower case.
fn read_policy(tables: BTreeSet<String>, columns: Rc<RefCell<ReadColumns>>) -> Policy {
    reading(move |table, column| {
        let (name, column) = (table.to_ascii_lowercase(), column.to_ascii_lowercase());
        // A name without a column may be that of a subquery, of which only the rows count.
        let is_subquery = column.is_empty() && !is_of_sqlite(&name);
        if tables.contains(&name) {
            columns.borrow_mut().insert((name, column));
        } else if !is_subquery && !JSON_TABLES.contains(&name.as_str()) {
            return Some(format!("read the system table {table}"));
        }
        None
    })
}

/// Permits a statement that only reads. `denied` says what is wrong with reading a column of a
/// table; a read of no column has an empty name.
pub fn reading(denied: impl Fn(&str, &str) -> Option<String> + 'static) -> Policy {
    Box::new(move |context| match context.action {
        AuthAction::Select | AuthAction::Recursive => None,
        AuthAction::Function { function_name } => authorizer::denied_function(function_name),
        AuthAction::Read {
            table_name,
            column_name,
        } => denied(table_name, column_name),
        _ => Some("do anything but read".to_owned()),
    })
}

/// True for a table that SQLite provides.
pub fn is_of_sqlite(table: &str) -> bool {
    table.starts_with("sqlite_")
        || table.starts_with("pragma_")
        || ["dbstat", "bytecode", "tables_used"].contains(&table)
}

/// The columns of a collection that the statements of others can read, with their types.
pub fn readable_columns(collection: &Collection) -> impl Iterator<Item = (&str, &'static str)> {
    let system = SYSTEM
        .into_iter()
        .filter(|name| collection.has_column(name));
    let system = system.map(|name| (name, "TEXT"));
    let fields = collection.fields.iter().filter(|field| !field.is_secret());
    system.chain(fields.map(|field| (field.name.as_str(), field.kind.affinity())))
}

/// The common table expression by which the name of a collection stands for what can be read.
pub fn readable(collection: &Collection) -> String {
    let name = quote(&collection.name);
    // So that SQLite can use the indexes of the table.
    let head = format!("{name} AS NOT MATERIALIZED ");
    match &collection.view {
        Some(view) => head + &view.source,
        None => {
            let columns = readable_columns(collection).map(|(name, _)| quote(name));
            let columns: Vec<String> = columns.collect();
            format!("{head}(SELECT {} FROM main.{name})", columns.join(", "))
        }
    }
}

/// A table with the columns that a view can read.
pub fn empty_table(collection: &Collection) -> String {
    let columns =
        readable_columns(collection).map(|(name, kind)| format!("{} {kind}", quote(name)));
    let columns: Vec<String> = columns.collect();
    // Without a rowid, because the subquery of a view has none either.
    format!(
        "CREATE TABLE {} ({}, PRIMARY KEY (id)) WITHOUT ROWID",
        quote(&collection.name),
        columns.join(", ")
    )
}

fn find<'a>(name: &str, collections: &[&'a Collection]) -> Option<&'a Collection> {
    let is_it = |it: &&&Collection| it.name.eq_ignore_ascii_case(name);
    collections.iter().find(is_it).copied()
}

fn find_field<'a>(collection: &'a Collection, name: &str) -> Option<&'a Field> {
    let is_it = |field: &&Field| field.name.eq_ignore_ascii_case(name);
    collection.fields.iter().find(is_it)
}

/// For each column, whether it may tell what a hidden field contains. The copy of a column tells
/// that column; everything else may depend on whatever the statement reads.
fn hidden_columns(
    columns: &[ResultColumn],
    collections: &[&Collection],
    read: &ReadColumns,
) -> Vec<bool> {
    let is_hidden = |table: &str, column: &str| {
        find(table, collections)
            .and_then(|collection| find_field(collection, column))
            .is_some_and(|field| field.hidden)
    };
    let reads_hidden = read.iter().any(|(table, column)| is_hidden(table, column));
    let may_tell = |column: &ResultColumn| match &column.origin {
        Some((table, name)) if !column.is_compound => is_hidden(table, name),
        _ => reads_hidden,
    };
    columns.iter().map(may_tell).collect()
}

/// The field for a column: that of the collection if the column is a copy, otherwise of the type
/// that PocketBase gives it.
fn field(column: &ResultColumn, hidden: bool, collections: &[&Collection]) -> Result<Field> {
    let origin = column.origin.as_ref().and_then(|(table, name)| {
        let collection = find(table, collections)?;
        Some((collection, name.as_str(), find_field(collection, name)))
    });
    let kind = match (column.expression, origin) {
        (ColumnExpression::Count, _) => json!({"type": "number", "onlyInt": true}),
        (ColumnExpression::CastToNumber, _) => json!({"type": "number"}),
        (ColumnExpression::CastToText, _) => json!({"type": "text"}),
        (ColumnExpression::CastToBool, _) => json!({"type": "bool"}),
        (_, Some((_, "created" | "updated", None))) => json!({"type": "datetime"}),
        (_, Some((collection, "id", _))) => {
            json!({"type": "relation", "collectionId": collection.id})
        }
        _ => json!({"type": "json"}),
    };
    let mut definition = kind;
    definition["name"] = Value::from(column.name.as_str());
    definition["id"] = Value::from(format!("view_{}", column.name));
    definition["hidden"] = Value::from(hidden);
    let named =
        |error: Error| Error::invalid(format!("The column {}: {}", column.name, error.message()));
    let mut problems = Problems::default();
    let list = parse_fields("viewQuery", &json!([definition]), &mut problems)?;
    problems.check("It cannot have this name.").map_err(named)?;
    let mut field = list
        .fields
        .into_iter()
        .next()
        .ok_or_else(|| Error::invalid(format!("A column cannot be named {}.", column.name)))?;
    if let Some((_, _, Some(copied))) = origin
        && !(column.is_compound && has_json_form(copied))
    {
        field.kind = copied.kind.clone();
        field.nullable = copied.nullable;
    }
    Ok(field)
}

/// True if the stored text must be valid JSON.
fn has_json_form(field: &Field) -> bool {
    field.is_multiple() || field.is_json()
}

/// The collection and field whose values a column copies, through other views.
fn origin_of(column: &ResultColumn, collections: &[&Collection]) -> Option<(String, String)> {
    let (table, name) = column.origin.as_ref()?;
    let collection = find(table, collections)?;
    let at = collection
        .fields
        .iter()
        .position(|it| it.name.eq_ignore_ascii_case(name))?;
    match &collection.view {
        Some(view) => view.origins.get(at).cloned().flatten(),
        None => Some((collection.id.clone(), collection.fields[at].name.clone())),
    }
}

/// The subquery: the columns of the statement, in which each name of a collection stands for the
/// columns that a view can read.
fn source(
    sql: &str,
    columns: &[ResultColumn],
    fields: &[Field],
    collections: &[&Collection],
) -> String {
    let mut text = String::from("(");
    for (at, collection) in collections.iter().enumerate() {
        text += if at == 0 { "WITH " } else { ", " };
        text += &readable(collection);
    }
    text += " SELECT ";
    for (at, column) in columns.iter().enumerate() {
        let name = quote(&column.name);
        let is_copy = column.origin.is_some() && !column.is_compound;
        let field = fields.iter().find(|field| field.name == column.name);
        let value = match field {
            None if is_copy => name.clone(),
            None => format!("CAST({name} AS TEXT)"),
            Some(field) if !is_copy && has_json_form(field) => format!(
                "CASE WHEN typeof({name}) IN ('null', 'blob') THEN NULL \
                 WHEN typeof({name}) = 'text' AND json_valid({name}) THEN {name} \
                 ELSE json_quote({name}) END"
            ),
            Some(_) => name.clone(),
        };
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{value} AS {name}");
    }
    let _ = write!(text, " FROM ({sql}))");
    text
}
