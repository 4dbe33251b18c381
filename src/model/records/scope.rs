//! Who a request is from, and the definitions that it is served with.

use std::sync::Arc;

use super::query::{RequestBody, RequestContext};
use crate::base::budget::Output;
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::{Collection, Collections};
use crate::model::events::Events;
use crate::model::rules::{Access, Grant, Identity, Operation};

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

impl Scope {
    /// What the caller may do, unless it is nothing at all.
    pub fn admit(&self, collection: &Collection, operation: Operation) -> Result<Grant> {
        let grant = collection.grant(operation, &self.identity);
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
    pub fn is_account(&self, collection: &Collection, id: &str) -> bool {
        matches!(&self.identity, Identity::User(user)
            if user.collection_id == collection.id && user.id == id)
    }

    pub fn request_context<'a>(&'a self, body: Option<&'a RequestBody>) -> RequestContext<'a> {
        RequestContext {
            identity: &self.identity,
            body,
        }
    }
}
