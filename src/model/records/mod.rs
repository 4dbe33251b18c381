//! Records: get, list, create, update, delete; the only writer of the tables of collections.
//!
//! Reading functions take a connection of a read; writing ones that of a write transaction, so
//! that a caller can do several in one (batch and bulk are all or nothing). A [`Draft`] is what a
//! request wants to write, checked as far as that goes without the database, so the writer is held
//! for short. What a rule hides is answered as if it did not exist. (REC-1 to REC-5.)

use std::sync::Arc;

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

pub use batch::{Action, Step, name_step, run_batch};
pub use delete::delete;
pub use draft::{Draft, Hasher, NewFile};
pub use lens::{Lens, Wish};
pub use like::register;
pub use query::check_rule;
pub use shape::Shape;
pub use value::{Body, Modifier};
pub use version::{Precondition, Shown, Versions};

use crate::base::budget::Output;
use crate::base::error::{Error, Kind, Result};
use crate::base::paging::Page;
use crate::model::collections::{Collection, Collections, Field};
use crate::model::events::Events;
use crate::model::filter;
use crate::model::rules::{Access, Grant, Identity, Operation};
use crate::model::triggers::Action as Change;
use note::note;
use plan::{Key, Plan};
use query::{Input, MAIN, Query, Sent, Trust};
use write::Rowid;

pub mod account;
mod batch;
mod delete;
mod draft;
mod excerpt;
mod kind;
mod lens;
mod like;
#[cfg(test)]
mod model_tests;
mod note;
pub mod pivot;
mod plan;
mod query;
mod resolve;
mod shape;
mod value;
mod version;
mod write;

/// Records of a bulk request at most.
pub const BULK_MAX: usize = 1000;

/// Whose request it is and the definitions it is served with.
#[derive(Clone)]
pub struct Scope {
    pub collections: Arc<Collections>,
    pub identity: Identity,
    /// Who hears of what is written.
    pub events: Arc<Events>,
    /// The charge of the answer.
    pub output: Output,
}

/// Which records to list, in which order.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    pub page: Page,
    pub sort: String,
    pub filter: String,
    /// Do not count the records that match.
    pub skip_total: bool,
}

impl Scope {
    /// What the caller may do, unless it is nothing at all.
    fn admit(&self, collection: &Collection, operation: Operation) -> Result<Grant> {
        let grant = collection.grant(operation, &self.identity)?;
        match grant.access {
            Access::Denied => Err(self.denied()),
            _ => Ok(grant),
        }
    }

    /// Refuses callers who may do this to no record at all.
    pub fn check(&self, collection: &Collection, operation: Operation) -> Result<()> {
        self.admit(collection, operation).map(drop)
    }

    /// For callers whom the rule admits to no record at all.
    fn denied(&self) -> Error {
        let message = match self.identity {
            Identity::Key(_) => "The key does not open this.",
            _ => "Only admins may do this.",
        };
        Error::new(Kind::Forbidden, message)
    }

    /// True if the caller is this very account.
    fn is_account(&self, collection: &Collection, id: &str) -> bool {
        matches!(&self.identity, Identity::User(user)
            if user.collection_id == collection.id && user.id == id)
    }

    /// Refuses an answer that grows too long, or for which there is no memory.
    fn check_size(&self, out: &[u8]) -> Result<()> {
        plan::check_size(out.len())?;
        self.output.reach(out.len())
    }

    fn plan(
        &self,
        collection: &Arc<Collection>,
        shape: &Shape,
        key: &Key,
        grant: &Grant,
    ) -> Result<Plan> {
        Plan::new(self, collection, shape, key, grant)
    }

    fn input<'a>(&'a self, body: Option<&'a Sent>) -> Input<'a> {
        Input {
            identity: &self.identity,
            body,
        }
    }
}

/// The JSON of one record.
pub fn get(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    shape: &Shape,
    expected: &Precondition,
) -> Result<Shown> {
    let grant = scope.admit(collection, Operation::View)?;
    let plan = scope.plan(collection, shape, &Key::Id, &grant)?;
    let shown = plan.read(connection, &id);
    scope.collections.check_current()?;
    let shown = shown?.ok_or_else(no_record)?;
    expected.check(&shown.updated)?;
    Ok(shown)
}

/// Whether the caller may do something with a record.
pub fn may(
    operation: Operation,
    connection: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
) -> Result<bool> {
    let grant = collection.grant(operation, &scope.identity)?;
    match find(connection, scope, collection, id, &grant.access, None) {
        Ok(_) => Ok(grant.access != Access::Denied),
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The field of a record that names a file; none for one that a deleted field left.
pub fn field_of_file<'a>(
    connection: &Connection,
    collection: &'a Collection,
    id: &str,
    name: &str,
) -> Result<Option<&'a Field>> {
    let fields = collection
        .fields
        .iter()
        .filter(|field| field.file().is_some());
    let fields: Vec<&Field> = fields.collect();
    if fields.is_empty() {
        return Ok(None);
    }
    let columns: Vec<String> = fields
        .iter()
        .map(|field| crate::store::db::quote(&field.name))
        .collect();
    let sql = format!(
        "SELECT {} FROM {} WHERE id = ?1",
        columns.join(", "),
        crate::store::db::quote(&collection.name)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    for (at, field) in fields.into_iter().enumerate() {
        let names = value::load_list(field, &row.get(at)?);
        if names.iter().any(|other| other == name) {
            return Ok(Some(field));
        }
    }
    Ok(None)
}

/// Whether there is a record of this id.
pub fn exists(connection: &Connection, collection: &Collection, id: &str) -> Result<bool> {
    let table = crate::store::db::quote(&collection.name);
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE id = ?1)");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row([id], |row| row.get(0))?)
}

/// The files that records of a collection name and that have no row: id and name.
pub fn files_without_row(
    connection: &Connection,
    collection: &Collection,
) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let table = crate::store::db::quote(&collection.name);
    for field in collection
        .fields
        .iter()
        .filter(|field| field.file().is_some())
    {
        let column = crate::store::db::quote(&field.name);
        let (names, name) = match field.is_multiple() {
            true => (
                format!(", json_each({column}) AS item"),
                "item.value".to_owned(),
            ),
            false => (String::new(), column.clone()),
        };
        let sql = format!(
            "SELECT record.id, {name} FROM {table} AS record{names}
             WHERE {column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM _files AS file
                 WHERE file.collection = ?1 AND file.record = record.id AND file.name = {name})"
        );
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([&collection.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for row in rows {
            found.push(row?);
        }
    }
    Ok(found)
}

/// The JSON of a page of records with its envelope. Wants a snapshot: ids are sorted and counted
/// first, narrow as they are, then the rows of this page alone are fetched.
pub fn list(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    list: &ListQuery,
    shape: &Shape,
) -> Result<Vec<u8>> {
    let out = read_list(connection, scope, collection, list, shape);
    scope.collections.check_current()?;
    out
}

fn read_list(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    list: &ListQuery,
    shape: &Shape,
) -> Result<Vec<u8>> {
    let grant = scope.admit(collection, Operation::List)?;
    let (size, skip) = (list.page.size, list.page.skip());
    let condition = Condition::new(scope, collection, &grant.access, &list.filter)?;
    let rowids = condition.page(scope, collection, &list.sort, size, skip, connection)?;
    let total = match (
        list.skip_total,
        u64::try_from(rowids.len()).unwrap_or(u64::MAX),
    ) {
        (true, _) => None,
        // A page that is not full is the last one, and tells how many there are.
        (false, found) if found < size && (found > 0 || skip == 0) => Some(skip + found),
        (false, _) => Some(condition.count(collection, connection)?),
    };
    let plan = scope.plan(collection, shape, &Key::Rowid, &free(grant))?;
    let mut out = Vec::with_capacity(512 * (rowids.len() + 1));
    list.page.open_envelope(total, &mut out);
    for (at, rowid) in rowids.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        plan.write(connection, rowid, &mut out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// Writes a new record and shows it.
pub fn create(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    draft: Draft,
    shape: &Shape,
) -> Result<Shown> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Create)?;
    let id = match &draft.id {
        Some(id) => id.clone(),
        None => draft::new_id(collection)?,
    };
    let resolved = resolve::create(tx, scope, collection, &id, draft)?;
    let rule = match &grant.access {
        Access::When(rule) => Some(rule),
        Access::Free | Access::Denied => None,
    };
    let rowid = write::insert(tx, scope, collection, &id, &resolved, rule)?;
    // The rule judges the record as it would be stored; a refusal undoes the insert.
    if let Access::When(rule) = &grant.access
        && !write::holds(tx, scope, collection, rowid, rule, Some(&resolved.sent))?
    {
        return Err(not_allowed());
    }
    note(tx, scope, collection, Change::Create, rowid)?;
    // It is the caller's own: there is nothing in it that the caller did not write.
    let view = collection.grant(Operation::View, &scope.identity)?;
    if view.access == Access::Denied && matches!(scope.identity, Identity::Key(_)) {
        // But a key has scopes.
        return Ok(Shown::only_id(&id));
    }
    let plan = scope.plan(collection, shape, &Key::New, &free(view))?;
    let shown = plan.read(tx, &rowid)?;
    shown.ok_or_else(|| Error::internal("a new record is not there"))
}

/// Changes a record and shows it.
pub fn update(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    mut draft: Draft,
    shape: &Shape,
) -> Result<Shown> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Update)?;
    if scope.is_account(collection, id) {
        draft.is_by_account_itself(collection);
    }
    let rowid = write::rowid_of(tx, collection, id)?.ok_or_else(no_record)?;
    let (given, proof) = (draft.id.clone(), draft.proof.clone());
    let expected = std::mem::take(&mut draft.expected);
    let resolved = resolve::update(tx, scope, collection, rowid, draft)?;
    let sent = Some(&resolved.sent);
    find(tx, scope, collection, id, &grant.access, sent)?;
    expected.check_row(tx, collection, rowid)?;
    if given.is_some_and(|given| given != id) {
        return Err(Error::field(
            "id",
            "validation_unchangeable",
            "The id of a record cannot change.",
        ));
    }
    account::check_proof(tx, collection, id, &proof)?;
    write::update(tx, scope, collection, (rowid, id), &resolved)?;
    note(tx, scope, collection, Change::Update, rowid)?;
    // Who may change a record may yet not see it.
    let view = collection.grant(Operation::View, &scope.identity)?;
    let plan = scope.plan(collection, shape, &Key::Rowid, &view)?;
    let shown = plan.read(tx, &rowid)?;
    Ok(shown.unwrap_or_else(|| Shown::only_id(id)))
}

/// Changes the record with the id of the draft, or makes it.
pub fn upsert(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    id: &str,
    drafts: Upsert,
    shape: &Shape,
) -> Result<Shown> {
    match write::rowid_of(tx, collection, id)? {
        Some(_) => update(tx, scope, collection, id, drafts.update?, shape),
        None => create(tx, scope, collection, drafts.create?, shape),
    }
}

/// The two things that an upsert may come to.
pub struct Upsert {
    pub update: Result<Draft>,
    /// What is refused as a new record may still be right as a change, and the reverse.
    pub create: Result<Draft>,
}

/// Applies one draft to several records, all or none; returns them as `{"items": [...]}`.
pub fn bulk_update(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    ids: &[String],
    draft: &Draft,
    shape: &Shape,
) -> Result<Vec<u8>> {
    let mut out = br#"{"items":["#.to_vec();
    for (at, id) in ids.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let record = update(tx, scope, collection, id, draft.clone(), shape)
            .map_err(|error| name_record(error, id))?;
        out.extend_from_slice(&record.json);
        scope.check_size(&out)?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// Deletes several records, all or none.
pub fn bulk_delete(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    ids: &[String],
) -> Result<()> {
    scope.collections.check_current()?;
    let grant = scope.admit(collection, Operation::Delete)?;
    let mut rows = Vec::new();
    for id in ids {
        let rowid = find(tx, scope, collection, id, &grant.access, None)
            .map_err(|error| name_record(error, id))?;
        rows.push((rowid, id.clone()));
    }
    delete::delete_rows(tx, scope, collection, rows)
}

/// Says which of several records was not found.
fn name_record(error: Error, id: &str) -> Error {
    match error.kind() {
        Kind::NotFound => Error::not_found(format!("There is no record {id}.")),
        _ => error,
    }
}

/// The row of a record that the access admits, or the answer that there is none.
fn find(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    id: &str,
    access: &Access,
    sent: Option<&Sent>,
) -> Result<Rowid> {
    let rowid = write::rowid_of(tx, collection, id)?.ok_or_else(no_record)?;
    match access {
        Access::When(rule) if !write::holds(tx, scope, collection, rowid, rule, sent)? => {
            Err(no_record())
        }
        _ => Ok(rowid),
    }
}

/// The same fields, of every record: of those that are known to be the caller's to see.
fn free(grant: Grant) -> Grant {
    Grant {
        access: Access::Free,
        ..grant
    }
}

/// The `WHERE` of a list: the rule and the caller's filter.
struct Condition {
    sql: String,
    params: Vec<Stored>,
    filter: Option<filter::Expr>,
    access: Access,
}

impl Condition {
    fn new(
        scope: &Scope,
        collection: &Collection,
        access: &Access,
        text: &str,
    ) -> Result<Condition> {
        let filter = match text.trim() {
            "" => None,
            text => Some(filter::parse(text)?),
        };
        let mut condition = Condition {
            sql: String::new(),
            params: Vec::new(),
            filter,
            access: access.clone(),
        };
        let mut query = Query::new(&scope.collections, scope.input(None), Vec::new());
        condition.sql = condition.build(collection, &mut query)?;
        condition.params = query.into_params();
        Ok(condition)
    }

    fn build(&self, collection: &Collection, query: &mut Query<'_>) -> Result<String> {
        let rule = match &self.access {
            Access::When(rule) => Some(query.condition(rule, collection, Trust::Rule)?),
            Access::Free | Access::Denied => None,
        };
        let filter = match &self.filter {
            Some(filter) => Some(query.condition(filter, collection, Trust::Caller)?),
            None => None,
        };
        Ok(match (rule, filter) {
            (None, None) => String::new(),
            (Some(one), None) | (None, Some(one)) => format!(" WHERE {one}"),
            // A search in text takes as long as the text is: it must not see a hidden one.
            (Some(rule), Some(filter)) if filter.contains(like::FUNCTION) => {
                format!(" WHERE {rule} AND CASE WHEN {rule} THEN {filter} END")
            }
            (Some(rule), Some(filter)) => format!(" WHERE {rule} AND {filter}"),
        })
    }

    fn page(
        &self,
        scope: &Scope,
        collection: &Collection,
        sort: &str,
        limit: u64,
        offset: u64,
        connection: &Connection,
    ) -> Result<Vec<Rowid>> {
        let terms = filter::parse_sort(sort)?;
        let params = self.params.clone();
        let mut query = Query::new(&scope.collections, scope.input(None), params);
        let order = query.order(&terms, collection, Trust::Caller)?;
        let limit = query.bind(Stored::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let offset = query.bind(Stored::Integer(i64::try_from(offset).unwrap_or(i64::MAX)));
        let sql = format!(
            "SELECT {MAIN}.rowid FROM {} AS {MAIN}{} ORDER BY {order} LIMIT {limit} OFFSET {offset}",
            crate::store::db::quote(&collection.name),
            self.sql,
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(query.into_params()), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn count(&self, collection: &Collection, connection: &Connection) -> Result<u64> {
        let table = crate::store::db::quote(&collection.name);
        let sql = format!("SELECT count(*) FROM {table} AS {MAIN}{}", self.sql);
        let mut statement = connection.prepare_cached(&sql)?;
        let count = statement
            .query_row(params_from_iter(&self.params), |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
    }
}

fn not_allowed() -> Error {
    Error::invalid("The record is not allowed by the createRule.")
}

pub fn no_record() -> Error {
    Error::not_found("There is no such record.")
}
