//! The caller of a request and the definitions that serve it.

use std::sync::Arc;

use super::query::{RequestBody, RequestContext, RequestFacts};
use crate::base::budget::OutputCharge;
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::{Collection, Collections};
use crate::model::events::Events;
use crate::model::rules::{Access, Grant, Identity, Operation};

/// The caller of a request, and everything that serves it.
#[derive(Clone)]
pub struct Scope {
    pub collections: Arc<Collections>,
    pub identity: Identity,
    pub facts: RequestFacts,
    /// Subscribers and webhooks that receive what is written.
    pub events: Arc<Events>,
    /// The memory charged for the response.
    pub output: OutputCharge,
}

impl Scope {
    /// The grant of the caller; an error if it covers no record at all.
    pub fn admit(&self, collection: &Collection, operation: Operation) -> Result<Grant> {
        refuse_change_of_view(collection, operation)?;
        let grant = collection.grant(operation, &self.identity);
        match grant.access {
            Access::Denied => Err(self.denied()),
            _ => Ok(grant),
        }
    }

    /// Returns an error if the caller may do this to no record at all.
    pub fn check(&self, collection: &Collection, operation: Operation) -> Result<()> {
        self.admit(collection, operation).map(drop)
    }

    fn denied(&self) -> Error {
        let message = match self.identity {
            Identity::Key(_) => "This API key does not grant access to the collection.",
            _ => "Only admins may do this.",
        };
        Error::new(Kind::Forbidden, message)
    }

    /// True if the caller is signed in as this account.
    pub fn is_account(&self, collection: &Collection, id: &str) -> bool {
        matches!(&self.identity, Identity::User(user)
            if user.collection_id == collection.id && user.id == id)
    }

    /// The same for one request of a batch.
    pub fn with_method(&self, method: &'static str) -> Scope {
        let facts = RequestFacts {
            method,
            ..self.facts.clone()
        };
        Scope {
            facts,
            ..self.clone()
        }
    }

    pub fn request_context<'a>(&'a self, body: Option<&'a RequestBody>) -> RequestContext<'a> {
        RequestContext {
            identity: &self.identity,
            facts: &self.facts,
            body,
        }
    }
}

/// Refuses to change or start a workflow on a record of a view, and to read a view that is broken.
pub fn refuse_change_of_view(collection: &Collection, operation: Operation) -> Result<()> {
    let Some(view) = &collection.view else {
        return Ok(());
    };
    let name = &collection.name;
    match (operation, &view.error) {
        (Operation::List | Operation::View, None) => Ok(()),
        (Operation::List | Operation::View, Some(error)) => Err(Error::unavailable(format!(
            "The view {name} cannot be read. {error}"
        ))),
        _ => Err(Error::invalid(format!(
            "{name} is a view; its records are read only. Change the records that it shows."
        ))),
    }
}
