//! Lists of records, page by page.

use std::sync::Arc;

use rusqlite::Connection;

use super::condition::Condition;
use super::record_key::RecordKey;
use super::{Scope, Shape};
use crate::base::error::Result;
use crate::base::paging::Page;
use crate::model::collections::Collection;
use crate::model::rules::Operation;

/// The page, order and filter of a list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    pub page: Page,
    pub sort: String,
    pub filter: String,
    /// Do not count the records that match.
    pub skip_total: bool,
}

/// The JSON of a page of records with its envelope. Requires a snapshot: the first query sorts and
/// counts rowids only, then the rows of this page are read.
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
    if collection.is_view() {
        return list_view(connection, scope, collection, list, shape, &condition);
    }
    let rowids = condition.page(scope, collection, &list.sort, size, skip, connection)?;
    let total = match (
        list.skip_total,
        u64::try_from(rowids.len()).unwrap_or(u64::MAX),
    ) {
        (true, _) => None,
        // A page that is not full is the last one, so the total is known without a count.
        (false, found) if found < size && (found > 0 || skip == 0) => Some(skip + found),
        (false, _) => Some(condition.count(collection, connection)?),
    };
    let plan = scope.plan(collection, shape, &RecordKey::Rowid, &grant.unconditional())?;
    let mut out = Vec::with_capacity(512 * (rowids.len() + 1));
    list.page.open_envelope(total, &mut out);
    plan.write_records(connection, &rowids, &mut out)?;
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// Reads a page of a view. Its rows have no rowid, so the statement that finds them reads them too.
fn list_view(
    connection: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    list: &ListQuery,
    shape: &Shape,
    condition: &Condition,
) -> Result<Vec<u8>> {
    let (size, skip) = (list.page.size, list.page.skip());
    let (clause, params) = condition.clause(scope, collection, &list.sort, size, skip)?;
    let key = RecordKey::Clause(clause, params.clone());
    let grant = scope.admit(collection, Operation::List)?.unconditional();
    let plan = scope.plan(collection, shape, &key, &grant)?;
    let mut items = Vec::new();
    let found = plan.write_rows(connection, &params, &mut items)? as u64;
    let total = match list.skip_total {
        true => None,
        false if found < size && (found > 0 || skip == 0) => Some(skip + found),
        false => Some(condition.count(collection, connection)?),
    };
    let mut out = Vec::with_capacity(items.len() + 256);
    list.page.open_envelope(total, &mut out);
    out.append(&mut items);
    out.extend_from_slice(b"]}");
    Ok(out)
}
