//! `_externalAuths`: the links of accounts to providers, as PocketBase's clients list and delete
//! them.
//!
//! An account sees its own links; an admin sees those of the account that the filter names as
//! `recordRef`. A filter joins comparisons of an attribute with a text by `&&`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use super::parameters::parameter;
use crate::base::error::{Error, Result};
use crate::model::auth::accounts::Realm;
use crate::model::collections::{Collection, CollectionKind};
use crate::model::records;
use crate::model::records::provider_links;
use crate::model::records::provider_links::ProviderLink;
use crate::model::rules::Identity;
use crate::net::http::Response;

const NAME: &str = "_externalAuths";
/// Attributes that a filter can compare.
const ATTRIBUTES: [&str; 5] = ["id", "collectionRef", "recordRef", "provider", "providerId"];

pub fn list(call: &Call<'_>) -> Result<Response> {
    let pairs = call.query()?;
    let filter = parse(parameter(&pairs, "filter").unwrap_or_default())?;
    let mut items = Vec::new();
    for (collection, record) in accounts(call, &filter)? {
        let database = call.database()?;
        let links = database
            .look_up(|connection| provider_links::links_of(connection, &collection, &record))?;
        items.extend(links.iter().map(|link| show(&collection, link)));
    }
    let is_wanted = |item: &Value| {
        filter
            .iter()
            .all(|(name, value)| item[name] == value.as_str())
    };
    items.retain(is_wanted);
    let count = items.len();
    // An account has at most a hundred links: they are one page.
    let body = json!({"page": 1, "perPage": count.max(1), "totalItems": count,
        "totalPages": usize::from(count > 0), "items": items});
    Ok(no_store(json_response(200, &body)))
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    let (auth, id) = (&call.app.auth, call.param("id"));
    match &call.identity {
        Identity::User(user) => {
            let realm = auth.realm_of(call.database, user)?;
            auth.unlink_provider(&realm, &user.id, id, false)?;
        }
        _ => {
            let found = call
                .database()?
                .look_up(|connection| provider_links::owner(connection, id))?;
            let (collection, record) = found.ok_or_else(records::record_not_found)?;
            let realm: Realm = auth.realm(call.database, Some(&collection))?;
            auth.unlink_provider(&realm, &record, id, true)?;
        }
    }
    Ok(Response::empty(204))
}

/// The accounts whose links the caller may see, each with its collection.
fn accounts(
    call: &Call<'_>,
    filter: &[(String, String)],
) -> Result<Vec<(Arc<Collection>, String)>> {
    let collections = call.collections()?;
    if let Identity::User(user) = &call.identity {
        let collection = Arc::clone(collections.get(&user.collection_id)?);
        return Ok(vec![(collection, user.id.clone())]);
    }
    let record = filter.iter().find(|(name, _)| name == "recordRef");
    let (_, record) = record
        .ok_or_else(|| Error::invalid("Name the account in the filter: recordRef = \"ID\"."))?;
    let all = collections.all().into_iter();
    let all = all.filter(|it| it.kind == CollectionKind::Auth);
    Ok(all.map(|it| (Arc::clone(it), record.clone())).collect())
}

fn show(collection: &Collection, link: &ProviderLink) -> Value {
    json!({
        "id": link.id,
        "collectionId": NAME,
        "collectionName": NAME,
        "collectionRef": collection.id,
        "recordRef": link.record,
        "provider": link.provider,
        "providerId": link.provider_id,
        "created": link.created,
        "updated": link.updated,
    })
}

/// Reads comparisons such as `recordRef = "a" && provider = 'b'`.
fn parse(filter: &str) -> Result<Vec<(String, String)>> {
    let wrong = || {
        Error::field(
            "filter",
            "validation_invalid_filter",
            "Compare attributes of a link with texts, such as provider = \"github\", joined by &&.",
        )
    };
    let mut found = Vec::new();
    let mut rest = filter.trim();
    while rest.starts_with('(') && rest.ends_with(')') {
        rest = rest[1..rest.len() - 1].trim();
    }
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(wrong)?;
        let after = after.trim_start();
        let quote = after.chars().next().filter(|it| "'\"".contains(*it));
        let quote = quote.ok_or_else(wrong)?;
        let (value, after) = after[1..].split_once(quote).ok_or_else(wrong)?;
        let name = name.trim();
        if !ATTRIBUTES.contains(&name) {
            return Err(wrong());
        }
        found.push((name.to_owned(), value.to_owned()));
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix("&&").ok_or_else(wrong)?.trim_start();
            if rest.is_empty() {
                return Err(wrong());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_the_sdk_are_read() {
        let read = |filter: &str| parse(filter).ok().map(|list| json!(list));
        let both = json!([["recordRef", "r1"], ["provider", "github"]]);
        for filter in [
            "recordRef = 'r1' && provider = 'github'",
            "(recordRef=\"r1\" && provider=\"github\")",
        ] {
            assert_eq!(read(filter), Some(both.clone()), "{filter}");
        }
        assert_eq!(read(""), Some(json!([])));
        for wrong in [
            "a = 'b'",
            "provider",
            "provider = b",
            "provider = 'b",
            "provider ~ 'b'",
            "provider = 'b' || id = 'c'",
            "provider = 'b' &&",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
