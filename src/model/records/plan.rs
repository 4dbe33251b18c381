//! From rows to JSON: which columns to read, which related records to add, how to write them.
//!
//! A [`Plan`] is made once per request and collection on the way, with its SQL and the view rule
//! of what is expanded; writing a record then costs no allocation beyond the output. What the
//! caller may not see is not selected at all.

use std::sync::Arc;

use rusqlite::types::{Value as Stored, ValueRef};
use rusqlite::{Connection, Row, ToSql};

use super::Scope;
use super::excerpt::Excerpt;
use super::json::{write_text, write_value};
use super::limits::Limits;
use super::query::{MAIN, Query, RequestContext, Trust, email_visibility};
use super::shape::{Shape, Tree};
use super::version::Shown;
use crate::base::error::Result;
use crate::model::collections::{Collection, Collections, Field, FieldKind};
use crate::model::events::RecordState;
use crate::model::filter::Expr;
use crate::model::rules::{Access, Fields, Grant, Identity, Operation};
use crate::store::db::quote;

impl Scope {
    pub fn plan(
        &self,
        collection: &Arc<Collection>,
        shape: &Shape,
        key: &Key,
        grant: &Grant,
    ) -> Result<Plan> {
        Plan::new(self, collection, shape, key, grant)
    }
}

/// How to read and write records of one collection.
pub struct Plan {
    collection: Arc<Collection>,
    sql: String,
    /// Parameters after the key, which is ?1.
    params: Vec<Stored>,
    columns: Vec<Column>,
    /// Where `updated` is among the columns.
    updated: usize,
    expands: Vec<Expand>,
    show: Show,
    /// Shared by all plans of an answer.
    limits: Limits,
}

/// The column that says when a record was changed last.
const UPDATED: &str = "updated";

/// One selected column; its position is its place in the list.
struct Column {
    /// Position in `Collection::fields`; none for id, created, updated.
    field: Option<usize>,
    name: &'static str,
    /// Read, but not shown.
    silent: bool,
    /// NULL where the caller may not see the value: then it is left out.
    is_guarded: bool,
    excerpt: Option<Excerpt>,
}

/// Parts of a record that are not columns.
struct Show {
    collection_id: bool,
    collection_name: bool,
    /// Something is to be expanded, even if there is no such relation.
    expand: bool,
}

/// Related records under one relation.
struct Expand {
    name: String,
    column: usize,
    multiple: bool,
    /// None when the caller may see no record of the target.
    plan: Option<Plan>,
}

/// How the one record that a plan reads is found.
pub enum Key {
    Rowid,
    /// The same, of a record that the caller has just made, and in which everything is its own.
    New,
    /// By id, and only if the access given allows it.
    Id,
    /// It is given: the values of its columns as `events::State` has them. Only if the access allows it, and
    /// if this filter of the caller's holds.
    Given(Option<Expr>),
}

impl Plan {
    /// Plans the reading of records of `collection` for the caller of `scope`, found by `key`, as far as
    /// `grant` goes.
    pub fn new(
        scope: &Scope,
        collection: &Arc<Collection>,
        shape: &Shape,
        key: &Key,
        grant: &Grant,
    ) -> Result<Plan> {
        let planner = Planner {
            collections: &scope.collections,
            identity: &scope.identity,
            limits: Limits::new(&scope.output),
        };
        planner.plan(collection, shape.fields.as_ref(), &shape.expand, key, grant)
    }

    /// Writes the record with this key; false when there is none that the caller may see.
    pub fn write<'a>(
        &'a self,
        connection: &Connection,
        key: &'a dyn ToSql,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        self.write_by(connection, std::iter::once(key), out, None)
    }

    /// The same; also returns the record's `updated`.
    pub fn read<'a>(
        &'a self,
        connection: &Connection,
        key: &'a dyn ToSql,
    ) -> Result<Option<Shown>> {
        let (mut json, mut updated) = (Vec::with_capacity(1024), String::new());
        let keys = std::iter::once(key);
        let is_there = self.write_by(connection, keys, &mut json, Some(&mut updated))?;
        Ok(is_there.then_some(Shown { json, updated }))
    }

    /// The same for a record that is given, value by value.
    pub fn write_given(
        &self,
        connection: &Connection,
        values: &[Stored],
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        self.limits.reset();
        self.write_by(
            connection,
            values.iter().map(|it| it as &dyn ToSql),
            out,
            None,
        )
    }

    fn write_by<'a>(
        &'a self,
        connection: &Connection,
        keys: impl Iterator<Item = &'a dyn ToSql>,
        out: &mut Vec<u8>,
        updated: Option<&mut String>,
    ) -> Result<bool> {
        self.limits.count_lookup()?;
        self.limits.reach(out.len())?;
        let mut statement = connection.prepare_cached(&self.sql)?;
        let params = keys.chain(self.params.iter().map(|param| param as &dyn ToSql));
        for (at, param) in params.enumerate() {
            statement.raw_bind_parameter(at + 1, param)?;
        }
        let mut rows = statement.raw_query();
        match rows.next()? {
            Some(row) => {
                if let Some(updated) = updated {
                    let text = String::from_utf8_lossy(text_of(row.get_ref(self.updated)?));
                    updated.push_str(&text);
                }
                self.write_row(connection, row, out).map(|()| true)
            }
            None => Ok(false),
        }
    }

    fn write_row(&self, connection: &Connection, row: &Row<'_>, out: &mut Vec<u8>) -> Result<()> {
        let mut separator = b'{';
        let mut key = |name: &str, out: &mut Vec<u8>| {
            out.push(separator);
            separator = b',';
            write_text(name.as_bytes(), out);
            out.push(b':');
        };
        if self.show.collection_id {
            key("collectionId", out);
            write_text(self.collection.id.as_bytes(), out);
        }
        if self.show.collection_name {
            key("collectionName", out);
            write_text(self.collection.name.as_bytes(), out);
        }
        for (at, column) in self.columns.iter().enumerate() {
            if column.silent {
                continue;
            }
            let value = row.get_ref(at)?;
            self.limits.reach(out.len() + length_of(value))?;
            match column.field.map(|at| &self.collection.fields[at]) {
                None => {
                    key(column.name, out);
                    write_text(text_of(value), out);
                }
                Some(_) if column.is_guarded && row.get_ref(at)? == ValueRef::Null => {}
                Some(field) => {
                    key(&field.name, out);
                    write_part(field, column.excerpt, value, out);
                }
            }
        }
        if self.show.expand {
            key("expand", out);
            self.write_expands(connection, row, out)?;
        }
        if separator == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
        Ok(())
    }

    fn write_expands(
        &self,
        connection: &Connection,
        row: &Row<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        out.push(b'{');
        let start = out.len();
        for expand in &self.expands {
            let Some(plan) = &expand.plan else { continue };
            let ids = text_of(row.get_ref(expand.column)?);
            let before = out.len();
            if before > start {
                out.push(b',');
            }
            write_text(expand.name.as_bytes(), out);
            out.push(b':');
            if !expand.write(plan, connection, ids, out)? {
                out.truncate(before);
            }
        }
        out.push(b'}');
        Ok(())
    }
}

impl Expand {
    /// False when there is nothing to show.
    fn write(
        &self,
        plan: &Plan,
        connection: &Connection,
        ids: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        if !self.multiple {
            let id = std::str::from_utf8(ids).unwrap_or_default();
            return Ok(!id.is_empty() && plan.write(connection, &id, out)?);
        }
        let ids: Vec<String> = serde_json::from_slice(ids).unwrap_or_default();
        out.push(b'[');
        let start = out.len();
        for id in ids {
            let before = out.len();
            if before > start {
                out.push(b',');
            }
            if !plan.write(connection, &id, out)? {
                out.truncate(before);
            }
        }
        out.push(b']');
        Ok(out.len() > start + 1)
    }
}

struct Planner<'a> {
    collections: &'a Collections,
    identity: &'a Identity,
    limits: Limits,
}

impl Planner<'_> {
    fn plan(
        &self,
        collection: &Arc<Collection>,
        fields: Option<&Tree>,
        expand: &Tree,
        key: &Key,
        grant: &Grant,
    ) -> Result<Plan> {
        let wants = |name: &str| fields.is_none_or(|tree| tree.has(name));
        let excerpt = |name: &str| fields.and_then(|tree| tree.excerpt(name));
        let mut columns: Vec<Column> = ["id", "created", UPDATED]
            .into_iter()
            .filter(|name| *name == UPDATED || wants(name))
            .map(|name| Column {
                field: None,
                name,
                silent: !wants(name),
                is_guarded: false,
                excerpt: None,
            })
            .collect();
        let updated = columns.len() - 1;
        for (at, field) in collection.fields.iter().enumerate() {
            if may_see(&grant.fields, field) && wants(&field.name) {
                columns.push(Column {
                    field: Some(at),
                    name: "",
                    silent: false,
                    is_guarded: email_visibility::is_guarded(collection, field, &grant.fields)
                        && !matches!(key, Key::New),
                    excerpt: excerpt(&field.name),
                });
            }
        }
        let below = fields.and_then(|tree| tree.children.get("expand"));
        let expands = expand
            .children
            .iter()
            .filter(|_| wants("expand"))
            .filter_map(|(name, tree)| {
                let (at, target) = self.relation(collection, &grant.fields, name)?;
                Some(self.expand((collection, at), target, tree, below, &mut columns))
            })
            .collect::<Result<Vec<_>>>()?;
        let (sql, params) = self.select(collection, &columns, key, &grant.access)?;
        Ok(Plan {
            sql,
            params,
            columns,
            updated,
            expands,
            show: Show {
                collection_id: wants("collectionId"),
                collection_name: wants("collectionName"),
                expand: wants("expand") && !expand.children.is_empty(),
            },
            collection: Arc::clone(collection),
            limits: self.limits.clone(),
        })
    }

    /// The relation of this name, if there is one that the caller may see, and where it leads to.
    fn relation(
        &self,
        collection: &Collection,
        fields: &Fields,
        name: &str,
    ) -> Option<(usize, &Arc<Collection>)> {
        let is_it = |field: &Field| field.name == name && may_see(fields, field);
        let at = collection.fields.iter().position(is_it)?;
        let options = collection.fields[at].relation()?;
        Some((at, self.collections.by_id(&options.collection_id)?))
    }

    fn expand(
        &self,
        (collection, at): (&Collection, usize),
        target: &Arc<Collection>,
        tree: &Tree,
        fields: Option<&Tree>,
        columns: &mut Vec<Column>,
    ) -> Result<Expand> {
        let field = &collection.fields[at];
        let name = &field.name;
        let column = match columns.iter().position(|column| column.field == Some(at)) {
            Some(column) => column,
            None => {
                columns.push(Column {
                    field: Some(at),
                    name: "",
                    silent: true,
                    is_guarded: false,
                    excerpt: None,
                });
                columns.len() - 1
            }
        };
        let grant = target.grant(Operation::View, self.identity);
        // No mention of what is below, or `*`, means all of it.
        let below = fields
            .filter(|tree| !tree.children.is_empty() && !tree.children.contains_key("*"))
            .and_then(|tree| tree.children.get(name))
            .filter(|tree| !tree.children.is_empty());
        let plan = match grant.access {
            Access::Denied => None,
            _ => Some(self.plan(target, below, tree, &Key::Id, &grant)?),
        };
        Ok(Expand {
            name: name.clone(),
            column,
            multiple: field.is_multiple(),
            plan,
        })
    }

    fn select(
        &self,
        collection: &Collection,
        columns: &[Column],
        key: &Key,
        access: &Access,
    ) -> Result<(String, Vec<Stored>)> {
        let reserved = match key {
            Key::Rowid | Key::New | Key::Id => 1,
            Key::Given(_) => RecordState::SYSTEM.len() + collection.fields.len(),
        };
        let request = RequestContext {
            identity: self.identity,
            body: None,
        };
        let mut query = Query::new(self.collections, request, vec![Stored::Null; reserved]);
        let mut sql = String::with_capacity(128 + 32 * columns.len());
        sql += "SELECT ";
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                sql += ", ";
            }
            match column.field.map(|at| quote(&collection.fields[at].name)) {
                Some(field) if column.is_guarded => {
                    let guard = query.sees_email(MAIN, collection)?;
                    let value = format!("coalesce({MAIN}.{field}, '')");
                    sql += &email_visibility::guarded(&value, &guard, "NULL");
                }
                field => {
                    sql += MAIN;
                    sql += ".";
                    sql += field.as_deref().unwrap_or(column.name);
                }
            }
        }
        let table = quote(&collection.name);
        sql += &match key {
            Key::Rowid | Key::New => [
                " FROM ",
                &table,
                " AS ",
                MAIN,
                " WHERE ",
                MAIN,
                ".rowid = ?1",
            ]
            .concat(),
            Key::Id => [" FROM ", &table, " AS ", MAIN, " WHERE ", MAIN, ".id = ?1"].concat(),
            Key::Given(_) => format!(" FROM ({}) AS {MAIN} WHERE TRUE", given(collection)),
        };
        match access {
            Access::Free => {}
            Access::Denied => sql += " AND FALSE",
            Access::When(expr) => {
                sql += " AND ";
                sql += &query.condition(expr, collection, Trust::Rule)?;
            }
        }
        if let Key::Given(Some(filter)) = key {
            sql += " AND ";
            sql += &query.condition(filter, collection, Trust::Caller)?;
        }
        Ok((sql, query.into_params().split_off(reserved)))
    }
}

/// About how long a value is in an answer.
fn length_of(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}

/// A row made of parameters, its columns of the types that those of the table have.
fn given(collection: &Collection) -> String {
    let system = RecordState::SYSTEM.map(|name| (name.to_owned(), "TEXT"));
    let fields = collection.fields.iter();
    let fields = fields.map(|field| (quote(&field.name), field.kind.affinity()));
    let columns = system.into_iter().chain(fields).enumerate();
    let columns =
        columns.map(|(at, (name, kind))| format!("CAST(?{} AS {kind}) AS {name}", at + 1));
    format!("SELECT {}", columns.collect::<Vec<_>>().join(", "))
}

fn may_see(fields: &Fields, field: &Field) -> bool {
    !field.is_secret() && fields.has(&field.name, field.hidden)
}

/// Writes the beginning of a text, if no more is wanted, and any other value as it is.
fn write_part(field: &Field, excerpt: Option<Excerpt>, value: ValueRef<'_>, out: &mut Vec<u8>) {
    let is_text = !field.is_multiple() && !matches!(field.kind, FieldKind::Json { .. });
    match (excerpt.filter(|_| is_text), value) {
        (Some(part), ValueRef::Text(text)) => {
            write_text(part.of(&String::from_utf8_lossy(text)).as_bytes(), out);
        }
        _ => write_value(field, value, out),
    }
}

fn text_of(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(text) => text,
        _ => b"",
    }
}
