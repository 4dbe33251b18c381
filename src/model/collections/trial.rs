//! Views that are tried without being created.

use serde_json::json;

use super::Collection;
use super::catalog::Catalog;
use super::change::Editor;
use super::definition::CollectionDraft;
use super::field_json::FieldList;
use super::parse::Problems;
use crate::base::error::{Error, Result};
use crate::base::ids;

impl Catalog {
    /// The view that a statement would define. The error says why it would be refused.
    pub fn try_view(&self, database: &str, query: &str) -> Result<Collection> {
        let name = format!("trial_{}", ids::record_id()?.replace('-', "_"));
        let body = json!({"name": name, "type": "view", "viewQuery": query});
        let mut problems = Problems::default();
        let mut draft = CollectionDraft::read(&body, &mut problems)?;
        draft.resolve_fields(&FieldList::default(), &mut problems);
        let current = self.collections(database)?;
        let view = self.build(database, draft, &current, Editor::Admin, &mut problems)?;
        let checked = self.check(view, &current, problems, "The statement is no view.");
        checked.map_err(|error| match error.field_errors().values().next() {
            Some(reason) => Error::invalid(reason.message.clone()),
            None => error,
        })
    }
}
