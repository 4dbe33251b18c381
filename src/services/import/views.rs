//! Leaves out the views whose statements are refused here, so that the rest can be imported.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::definitions::SourceCollection;
use super::report::Losses;
use crate::base::error::{Error, Result};
use crate::base::threads::lock;
use crate::model::collections::{Catalog, Editor};

/// Removes refused views, and those that read them, from the collections, and notes why. Fails if
/// another collection is refused.
pub fn drop_refused(
    catalog: &Catalog,
    database: &str,
    collections: &mut Vec<SourceCollection>,
    losses: &Losses,
) -> Result<()> {
    while collections.iter().any(SourceCollection::is_view) {
        let Err(error) = try_definitions(catalog, database, collections) else {
            return Ok(());
        };
        let before = collections.len();
        for (key, reason) in error.field_errors() {
            let is_named = |it: &mut SourceCollection| {
                it.is_view() && key.starts_with(&format!("collections.{}.", it.name))
            };
            for view in collections.extract_if(.., is_named) {
                losses.note(&format!("The view {}: {}", view.name, reason.message));
            }
        }
        if collections.len() == before {
            return Err(error);
        }
    }
    Ok(())
}

/// Creates the collections and takes that back.
fn try_definitions(
    catalog: &Catalog,
    database: &str,
    collections: &[SourceCollection],
) -> Result<()> {
    let exports: Vec<&Value> = collections.iter().map(|it| &it.export).collect();
    let body = json!({"collections": exports});
    let over = Arc::new(Mutex::new(false));
    let ended = Arc::clone(&over);
    let tried = catalog.import_and_fill(
        database,
        &body,
        Editor::Admin,
        Box::new(move |_, _| {
            *lock(&ended) = true;
            Err(Error::internal("the end of a trial"))
        }),
    );
    match tried {
        Err(_) if *lock(&over) => Ok(()),
        tried => tried.map(drop),
    }
}
