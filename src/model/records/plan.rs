//! Reads records as JSON: the columns to select, the related records to add, and how to write them.
//!
//! A [`Plan`] is built once per request and collection. It holds the SQL and the view rules of
//! expanded relations, so writing a record allocates nothing but the output. Columns that the
//! caller may not see are not selected.

use std::sync::Arc;

use rusqlite::types::{Value as Stored, ValueRef};
use rusqlite::{CachedStatement, Connection, Row, ToSql};

use super::Scope;
use super::columns::{Column, below, is_readable, length_of, text_of, wants_below, write_excerpt};
use super::limits::Limits;
use super::query::{
    MAIN, Query, RequestContext, RequestFacts, Trust, back_relation, email_visibility, is_unique,
};
use super::record_key::{RecordKey, from_clause};
use super::shape::{FieldTree, Shape};
use super::version::RenderedRecord;
use crate::base::error::Result;
use crate::base::json::write_text;
use crate::model::collections::{Collection, Collections, Field};
use crate::model::events::RecordState;
use crate::model::rules::{Access, Fields, Grant, Identity, Operation};
use crate::store::db::quote;

impl Scope {
    pub fn plan(
        &self,
        collection: &Arc<Collection>,
        shape: &Shape,
        key: &RecordKey,
        grant: &Grant,
    ) -> Result<Plan> {
        Plan::new(self, collection, shape, key, grant)
    }
}

/// Reads records of one collection and writes them as JSON.
pub struct Plan {
    collection: Arc<Collection>,
    sql: String,
    /// Parameters after those of the key, which come first.
    params: Vec<Stored>,
    columns: Vec<Column>,
    /// Index of `updated` in `columns`.
    updated: usize,
    expands: Vec<Expand>,
    system: SystemParts,
    /// Shared by all plans of a response.
    limits: Limits,
}

const UPDATED: &str = "updated";

/// Parts of a record that are not columns.
struct SystemParts {
    collection_id: bool,
    collection_name: bool,
    /// True if the request names a relation to expand, even one that does not exist.
    expand: bool,
}

/// A relation to expand.
struct Expand {
    name: String,
    column: usize,
    records: Related,
    /// None if the caller may see no record of the target.
    plan: Option<Plan>,
}

/// The records that a relation to expand leads to.
#[derive(Clone, Copy)]
enum Related {
    /// Of one id.
    One,
    /// Of a list of ids.
    List,
    /// The one that names this record.
    NamingOne,
    /// Those that name this record.
    Naming,
}

/// Most records that one expansion of those that name a record shows, as in PocketBase.
const NAMING_MAX: usize = 1000;

impl Plan {
    /// Builds the plan for the caller of `scope`, within `grant`.
    pub fn new(
        scope: &Scope,
        collection: &Arc<Collection>,
        shape: &Shape,
        key: &RecordKey,
        grant: &Grant,
    ) -> Result<Plan> {
        let expanded = scope.facts.in_context("expand");
        let planner = Planner {
            collections: &scope.collections,
            identity: &scope.identity,
            facts: &scope.facts,
            expanded: &expanded,
            limits: Limits::new(&scope.output),
        };
        planner.plan(collection, shape.fields.as_ref(), &shape.expand, key, grant)
    }

    /// Writes the record with this key; false if it does not exist or the caller may not see it.
    pub fn write<'a>(
        &'a self,
        connection: &Connection,
        key: &'a dyn ToSql,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        self.write_by(connection, std::iter::once(key), out, None)
    }

    /// Writes the records of these rowids in a plan by rowid, with commas between them. One
    /// statement reads them all.
    pub fn write_records(
        &self,
        connection: &Connection,
        rowids: &[i64],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        for (at, param) in self.params.iter().enumerate() {
            statement.raw_bind_parameter(at + 2, param)?;
        }
        let start = out.len();
        for rowid in rowids {
            self.limits.count_lookup()?;
            self.limits.reach(out.len())?;
            statement.raw_bind_parameter(1, rowid)?;
            let mut rows = statement.raw_query();
            let Some(row) = rows.next()? else { continue };
            if out.len() > start {
                out.push(b',');
            }
            self.write_row(connection, row, out)?;
        }
        Ok(())
    }

    /// Returns the record with this key and its `updated`; none if it does not exist or the caller
    /// may not see it.
    pub fn read<'a>(
        &'a self,
        connection: &Connection,
        key: &'a dyn ToSql,
    ) -> Result<Option<RenderedRecord>> {
        let (mut json, mut updated) = (Vec::with_capacity(1024), String::new());
        let keys = std::iter::once(key);
        let is_there = self.write_by(connection, keys, &mut json, Some(&mut updated))?;
        Ok(is_there.then_some(RenderedRecord { json, updated }))
    }

    /// Writes a record from its values; false if the caller may not see it. The lookups count as
    /// those of a new response.
    pub fn write_values(
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

    /// Writes all rows of a plan by a clause, with commas between them; returns their number.
    pub fn write_rows(
        &self,
        connection: &Connection,
        params: &[Stored],
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        let params = params.iter().chain(&self.params);
        for (at, param) in params.enumerate() {
            statement.raw_bind_parameter(at + 1, param)?;
        }
        let mut rows = statement.raw_query();
        let mut count = 0;
        while let Some(row) = rows.next()? {
            if count > 0 {
                out.push(b',');
            }
            self.limits.reach(out.len())?;
            self.write_row(connection, row, out)?;
            count += 1;
        }
        Ok(count)
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
        let mut statement = self.statement(connection, keys)?;
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

    /// Writes all records that name this id, separated by commas.
    fn write_naming(&self, connection: &Connection, id: &str, out: &mut Vec<u8>) -> Result<()> {
        let mut statement = self.statement(connection, std::iter::once(&id as &dyn ToSql))?;
        let mut rows = statement.raw_query();
        let start = out.len();
        while let Some(row) = rows.next()? {
            self.limits.count_lookup()?;
            if out.len() > start {
                out.push(b',');
            }
            self.write_row(connection, row, out)?;
        }
        Ok(())
    }

    /// The statement with its parameters.
    fn statement<'a, 'c>(
        &'a self,
        connection: &'c Connection,
        keys: impl Iterator<Item = &'a dyn ToSql>,
    ) -> Result<CachedStatement<'c>> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        let params = keys.chain(self.params.iter().map(|param| param as &dyn ToSql));
        for (at, param) in params.enumerate() {
            statement.raw_bind_parameter(at + 1, param)?;
        }
        Ok(statement)
    }

    fn write_row(&self, connection: &Connection, row: &Row<'_>, out: &mut Vec<u8>) -> Result<()> {
        let mut separator = b'{';
        let mut key = |name: &str, out: &mut Vec<u8>| {
            out.push(separator);
            separator = b',';
            write_text(name.as_bytes(), out);
            out.push(b':');
        };
        if self.system.collection_id {
            key("collectionId", out);
            write_text(self.collection.id.as_bytes(), out);
        }
        if self.system.collection_name {
            key("collectionName", out);
            write_text(self.collection.name.as_bytes(), out);
        }
        for (at, column) in self.columns.iter().enumerate() {
            if column.hidden {
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
                    write_excerpt(field, column.excerpt, value, out);
                }
            }
        }
        if self.system.expand {
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
    /// Writes the related records; false if there are none to show.
    fn write(
        &self,
        plan: &Plan,
        connection: &Connection,
        ids: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let id = std::str::from_utf8(ids).unwrap_or_default();
        let start = out.len();
        match self.records {
            Related::One => return Ok(!id.is_empty() && plan.write(connection, &id, out)?),
            Related::NamingOne => {
                plan.write_naming(connection, id, out)?;
                return Ok(out.len() > start);
            }
            Related::Naming => {
                out.push(b'[');
                plan.write_naming(connection, id, out)?;
                out.push(b']');
                return Ok(out.len() > start + 2);
            }
            Related::List => {}
        }
        let ids: Vec<String> = serde_json::from_slice(ids).unwrap_or_default();
        out.push(b'[');
        for id in ids {
            let before = out.len();
            if before > start + 1 {
                out.push(b',');
            }
            if !plan.write(connection, &id, out)? {
                out.truncate(before);
            }
        }
        out.push(b']');
        Ok(out.len() > start + 2)
    }
}

struct Planner<'a> {
    collections: &'a Collections,
    identity: &'a Identity,
    facts: &'a RequestFacts,
    /// The facts for the rules of records to expand.
    expanded: &'a RequestFacts,
    limits: Limits,
}

impl Planner<'_> {
    fn plan(
        &self,
        collection: &Arc<Collection>,
        fields: Option<&FieldTree>,
        expand: &FieldTree,
        key: &RecordKey,
        grant: &Grant,
    ) -> Result<Plan> {
        let wants = |name: &str| fields.is_none_or(|tree| tree.has(name));
        let excerpt = |name: &str| fields.and_then(|tree| tree.excerpt(name));
        let has_system = |name: &str| {
            let field = collection.system_field(name);
            field.is_some_and(|field| grant.fields.has_system(field.hidden))
        };
        let mut columns: Vec<Column> = ["id", "created", UPDATED]
            .into_iter()
            .filter(|name| *name == UPDATED || (wants(name) && collection.has_column(name)))
            .map(|name| Column {
                field: None,
                name,
                hidden: !wants(name) || !has_system(name),
                is_guarded: false,
                excerpt: None,
            })
            .collect();
        let updated = columns.len() - 1;
        for (at, field) in collection.fields.iter().enumerate() {
            if is_readable(&grant.fields, field) && wants(&field.name) {
                columns.push(Column {
                    field: Some(at),
                    name: "",
                    hidden: false,
                    is_guarded: email_visibility::is_guarded(collection, field, &grant.fields)
                        && !matches!(key, RecordKey::New),
                    excerpt: excerpt(&field.name),
                });
            }
        }
        let below = fields.and_then(|tree| tree.children.get("expand"));
        let expands = expand
            .children
            .iter()
            .filter(|(name, _)| wants("expand") && wants_below(below, name))
            .filter_map(|(name, tree)| {
                if collection.field(name).is_none() {
                    return self.expand_back(collection, name, tree, below, &mut columns);
                }
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
            system: SystemParts {
                collection_id: wants("collectionId"),
                collection_name: wants("collectionName"),
                expand: wants("expand") && !expand.children.is_empty(),
            },
            collection: Arc::clone(collection),
            limits: self.limits.clone(),
        })
    }

    /// The planner of records to expand.
    fn below(&self) -> Planner<'_> {
        Planner {
            facts: self.expanded,
            limits: self.limits.clone(),
            ..*self
        }
    }

    /// The relation of this name and its target, if the caller may see the field.
    fn relation(
        &self,
        collection: &Collection,
        fields: &Fields,
        name: &str,
    ) -> Option<(usize, &Arc<Collection>)> {
        let is_it = |field: &Field| field.name == name && is_readable(fields, field);
        let at = collection.fields.iter().position(is_it)?;
        let options = collection.fields[at].relation()?;
        Some((at, self.collections.by_id(&options.collection_id)?))
    }

    fn expand(
        &self,
        (collection, at): (&Collection, usize),
        target: &Arc<Collection>,
        tree: &FieldTree,
        fields: Option<&FieldTree>,
        columns: &mut Vec<Column>,
    ) -> Result<Expand> {
        let field = &collection.fields[at];
        let name = &field.name;
        let column = match columns.iter().position(|column| column.field == Some(at)) {
            Some(column) => column,
            None => {
                columns.push(Column::hidden(Some(at), ""));
                columns.len() - 1
            }
        };
        let (fields, key) = (below(fields, name), RecordKey::Id);
        let grant = target.grant(Operation::View, self.identity);
        let plan = match grant.access {
            Access::Denied => None,
            _ => Some(self.below().plan(target, fields, tree, &key, &grant)?),
        };
        Ok(Expand {
            name: name.clone(),
            column,
            records: match field.is_multiple() {
                true => Related::List,
                false => Related::One,
            },
            plan,
        })
    }

    /// The records that a name such as `comments_via_post` stands for; none if the caller may not
    /// see the relation.
    fn expand_back(
        &self,
        collection: &Collection,
        name: &str,
        tree: &FieldTree,
        fields: Option<&FieldTree>,
        columns: &mut Vec<Column>,
    ) -> Option<Result<Expand>> {
        let (target, relation) = back_relation(self.collections, collection, name)?;
        let grant = target.grant(Operation::View, self.identity);
        if grant.access == Access::Denied || !is_readable(&grant.fields, relation) {
            return None;
        }
        let at = target.fields.iter().position(|it| it.id == relation.id)?;
        let is_id = |column: &Column| column.field.is_none() && column.name == "id";
        let column = columns.iter().position(is_id).unwrap_or(columns.len());
        if column == columns.len() {
            columns.push(Column::hidden(None, "id"));
        }
        let key = RecordKey::Naming(at);
        let plan = self
            .below()
            .plan(target, below(fields, name), tree, &key, &grant);
        let is_one = !relation.is_multiple() && is_unique(target, relation);
        Some(plan.map(|plan| Expand {
            name: name.to_owned(),
            column,
            records: match is_one {
                true => Related::NamingOne,
                false => Related::Naming,
            },
            plan: Some(plan),
        }))
    }

    fn select(
        &self,
        collection: &Collection,
        columns: &[Column],
        key: &RecordKey,
        access: &Access,
    ) -> Result<(String, Vec<Stored>)> {
        let reserved = match key {
            RecordKey::Rowid | RecordKey::New | RecordKey::Id | RecordKey::Naming(_) => 1,
            RecordKey::Values(_) => RecordState::SYSTEM.len() + collection.fields.len(),
            RecordKey::Clause(_, params) => params.len(),
        };
        let request = RequestContext {
            identity: self.identity,
            facts: self.facts,
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
                // The rows of a view have no version.
                None if !collection.has_column(column.name) => sql += "NULL",
                field => {
                    sql += MAIN;
                    sql += ".";
                    sql += field.as_deref().unwrap_or(column.name);
                }
            }
        }
        sql += &from_clause(collection, key);
        match access {
            Access::Free => {}
            Access::Denied => sql += " AND FALSE",
            Access::When(expr) => {
                sql += " AND ";
                sql += &query.condition(expr, collection, Trust::Rule)?;
            }
        }
        if let RecordKey::Values(Some(filter)) = key {
            sql += " AND ";
            sql += &query.condition(filter, collection, Trust::Caller)?;
        }
        if let RecordKey::Naming(_) = key {
            sql += &format!(
                " ORDER BY {MAIN}.{} LIMIT {NAMING_MAX}",
                collection.row_key()
            );
        }
        Ok((sql, query.into_params().split_off(reserved)))
    }
}
