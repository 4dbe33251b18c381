//! The named views of a collection: `options.views`.

use super::call::Call;
use super::parameters::{number, shape};
use super::records::list_query;
use crate::base::error::{Error, Result};
use crate::base::paging::{Page, SIZE};
use crate::model::collections::{NamedViewQuery, SavedQuery};
use crate::model::filter;
use crate::model::records;
use crate::model::records::ListQuery;
use crate::net::http::Response;

/// A page of a named view, with the parameters of a list.
pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let shape = shape(&pairs)?;
    let scope = call.scope()?;
    let collection = call.collection(&scope)?;
    let slug = call.param("slug");
    let named = collection.named_views.iter().find(|it| it.slug == slug);
    let named = named
        .ok_or_else(|| Error::not_found(format!("{} has no view {slug}.", collection.name)))?;
    let (records_of, query) = match &named.query {
        NamedViewQuery::Sql(view) => (view, list_query(&pairs)?),
        NamedViewQuery::Saved(saved) => (&collection, saved_query(saved, &pairs)?),
    };
    let body = call.database()?.snapshot_for(call.asker(), |connection| {
        records::list(connection, &scope, records_of, &query, &shape)
    })?;
    Ok(Response::json(200, body))
}

/// The saved parameters, except those that the request gives. Both filters must match.
fn saved_query(saved: &SavedQuery, pairs: &[(String, String)]) -> Result<ListQuery> {
    let mut query = list_query(pairs)?;
    query.page = Page::new(
        number(pairs, "page", saved.page.unwrap_or(1))?,
        number(pairs, "perPage", saved.per_page.unwrap_or(SIZE))?,
    );
    if query.sort.trim().is_empty() {
        query.sort.clone_from(&saved.sort);
    }
    match (saved.filter.trim(), query.filter.trim()) {
        ("", _) => {}
        (saved, "") => query.filter = saved.to_owned(),
        (saved, own) => {
            // Each is complete, so neither can change the meaning of the other.
            filter::parse(own)?;
            query.filter = format!("({saved}\n) && ({own}\n)");
        }
    }
    Ok(query)
}
