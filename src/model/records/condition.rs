//! The `WHERE` and `ORDER BY` of a list.

use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};

use super::Scope;
use super::deep_page;
use super::deep_page::RowidPage;
use super::query::{LIKE, MAIN, Query, Trust};
use super::row::Rowid;
use crate::base::error::Result;
use crate::model::collections::Collection;
use crate::model::filter;
use crate::model::rules::Access;

/// The `WHERE` of a list: the rule and the filter of the caller.
pub struct Condition {
    sql: String,
    params: Vec<Stored>,
    filter: Option<filter::Expr>,
    access: Access,
}

impl Condition {
    pub fn new(
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
        let mut query = Query::new(&scope.collections, scope.request_context(None), Vec::new());
        query.is_list = true;
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
            // The time of a text search depends on the text, so the search must skip hidden
            // records: their contents would leak through it.
            (Some(rule), Some(filter)) if filter.contains(LIKE) => {
                format!(" WHERE {rule} AND CASE WHEN {rule} THEN {filter} END")
            }
            (Some(rule), Some(filter)) => format!(" WHERE {rule} AND {filter}"),
        })
    }

    /// The rowids of a page. Requires a snapshot.
    pub fn page(
        &self,
        scope: &Scope,
        collection: &Collection,
        sort: &str,
        limit: u64,
        offset: u64,
        connection: &Connection,
    ) -> Result<Vec<Rowid>> {
        let terms = filter::parse_sort(sort)?;
        if let Some(descending) = deep_page::order_of_rowids(&terms)
            && self.sql.is_empty()
        {
            let page = RowidPage {
                collection,
                descending,
                size: limit,
                skip: offset,
            };
            if let Some(rowids) = page.find(connection)? {
                return Ok(rowids);
            }
        }
        let params = self.params.clone();
        let mut query = Query::new(&scope.collections, scope.request_context(None), params);
        let order = query.order(&terms, collection, Trust::Caller)?;
        let limit = query.bind(Stored::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let offset = query.bind(Stored::Integer(i64::try_from(offset).unwrap_or(i64::MAX)));
        let sql = format!(
            "SELECT {MAIN}.rowid FROM {} AS {MAIN}{} ORDER BY {order} LIMIT {limit} OFFSET {offset}",
            collection.source(),
            self.sql,
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params_from_iter(query.into_params()), |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Like [`Condition::page`], for a view, whose rows have no rowid: everything that follows the
    /// subquery, and its parameters. Without a sort the rows come in the order of the statement.
    pub fn clause(
        &self,
        scope: &Scope,
        collection: &Collection,
        sort: &str,
        limit: u64,
        offset: u64,
    ) -> Result<(String, Vec<Stored>)> {
        let terms = filter::parse_sort(sort)?;
        let params = self.params.clone();
        let mut query = Query::new(&scope.collections, scope.request_context(None), params);
        let order = match terms.is_empty() {
            true => String::new(),
            false => format!(
                " ORDER BY {}",
                query.order(&terms, collection, Trust::Caller)?
            ),
        };
        let limit = query.bind(Stored::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let offset = query.bind(Stored::Integer(i64::try_from(offset).unwrap_or(i64::MAX)));
        let clause = format!("{}{order} LIMIT {limit} OFFSET {offset}", self.sql);
        Ok((clause, query.into_params()))
    }

    /// The number of records. Requires a snapshot.
    pub fn count(&self, collection: &Collection, connection: &Connection) -> Result<u64> {
        if self.sql.is_empty() && !collection.is_view() {
            return deep_page::count_all(connection, collection);
        }
        let table = collection.source();
        let sql = format!("SELECT count(*) FROM {table} AS {MAIN}{}", self.sql);
        let mut statement = connection.prepare_cached(&sql)?;
        let count = statement
            .query_row(params_from_iter(&self.params), |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
    }
}
