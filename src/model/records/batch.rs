//! Several writes to records of one database in one transaction, all or nothing.

use std::sync::Arc;

use rusqlite::Connection;

use super::create::create;
use super::delete::delete;
use super::update::{Upsert, update, upsert};
use super::{Draft, Precondition, Scope, Shape};
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::Collection;

/// Limit on related records per batch: each one is looked up and checked against the view rule of
/// its collection.
const RELATIONS_MAX: usize = 5_000;

/// One write of a batch, validated as far as possible without the database.
pub struct BatchStep {
    pub collection: Arc<Collection>,
    /// The fields and relations to return.
    pub shape: Shape,
    pub action: BatchAction,
}

/// The operation of a step; strings are record ids.
pub enum BatchAction {
    Create(Draft),
    Update(String, Draft),
    Upsert(String, Box<Upsert>),
    Delete(String),
}

/// Runs the steps in order; returns a JSON array with the status and body of each.
pub fn run_batch(tx: &Connection, scope: &Scope, steps: Vec<BatchStep>) -> Result<Vec<u8>> {
    let relations: usize = steps.iter().map(BatchStep::relations).sum();
    if relations > RELATIONS_MAX && !scope.identity.manages() {
        return Err(Error::invalid(format!(
            "A batch can name at most {RELATIONS_MAX} related records."
        )));
    }
    let mut out = b"[".to_vec();
    for (at, step) in steps.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        step.run(tx, scope, &mut out)
            .map_err(|error| batch_error(error, at))?;
        scope.check_size(&out)?;
    }
    out.push(b']');
    Ok(out)
}

impl BatchStep {
    /// Number of related records that the step names.
    fn relations(&self) -> usize {
        let collection = &self.collection;
        match &self.action {
            BatchAction::Create(draft) | BatchAction::Update(_, draft) => {
                draft.relations(collection)
            }
            BatchAction::Upsert(_, drafts) => {
                let drafts = [&drafts.update, &drafts.create].into_iter().flatten();
                drafts
                    .map(|draft| draft.relations(collection))
                    .max()
                    .unwrap_or(0)
            }
            BatchAction::Delete(_) => 0,
        }
    }

    fn run(self, tx: &Connection, scope: &Scope, out: &mut Vec<u8>) -> Result<()> {
        let BatchStep {
            collection,
            shape,
            action,
        } = self;
        let scope = &scope.with_method(action.method());
        let shown = match action {
            BatchAction::Create(draft) => create(tx, scope, &collection, draft, &shape)?,
            BatchAction::Update(id, draft) => update(tx, scope, &collection, &id, draft, &shape)?,
            BatchAction::Upsert(id, drafts) => {
                upsert(tx, scope, &collection, &id, *drafts, &shape)?
            }
            BatchAction::Delete(id) => {
                delete(tx, scope, &collection, &id, &Precondition::default())?;
                out.extend_from_slice(br#"{"status":204,"body":null}"#);
                return Ok(());
            }
        };
        out.extend_from_slice(br#"{"status":200,"body":"#);
        out.extend_from_slice(&shown.json);
        out.push(b'}');
        Ok(())
    }
}

impl BatchAction {
    /// The method of a request that does the same.
    fn method(&self) -> &'static str {
        match self {
            BatchAction::Create(_) => "POST",
            BatchAction::Update(..) => "PATCH",
            BatchAction::Upsert(..) => "PUT",
            BatchAction::Delete(_) => "DELETE",
        }
    }
}

/// The error of a batch whose step failed, with the position of the step. Errors of the server
/// itself keep their kind.
pub fn batch_error(error: Error, at: usize) -> Error {
    if matches!(
        error.kind(),
        Kind::Internal | Kind::Unavailable | Kind::Stale | Kind::TooLarge
    ) {
        return error.context(format!("request {at} of a batch"));
    }
    let message = "A request of the batch failed; nothing was saved.";
    Error::of_part(message, at, error)
}
