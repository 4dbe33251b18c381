//! The parts of the server that the realtime thread uses: definitions, credentials, budgets,
//! databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use serde_json::json;

use super::credential_checks::CheckQueue;
use super::frames::SubscribeRequest;
use super::registry::{IdentifiedCaller, SubscriptionCharges, SubscriptionGroup};
use crate::base::budget::{Budget, Budgets, OutputCharge, Payer};
use crate::base::error::Result;
use crate::model::auth::{Auth, Credentials, StoredCredentials};
use crate::model::collections::Catalog;
use crate::model::events::{Events, RecordState};
use crate::model::filter;
use crate::model::records::{RequestFacts, Scope, Shape, SubscriberView, SubscriptionSpec};
use crate::model::rules::{Identity, User};
use crate::store::db::Databases;

/// Comparisons in a filter, which is evaluated for each change. Filters of admins are not limited.
const COMPARISONS_MAX: usize = 32;
/// Bytes charged for a subscription and for a group, beside the request. A group holds the request
/// several times: as strings, as a tree, as SQL.
const SUB_BYTES: usize = 512;
const GROUP_BYTES: usize = 5 << 10;
const GROUP_COPIES: usize = 10;

pub struct Context {
    pub databases: Arc<Databases>,
    pub catalog: Arc<Catalog>,
    auth: Arc<Auth>,
    pub events: Arc<Events>,
    subscriptions: Arc<Budget>,
    filters: Arc<Budget>,
    pub checks: CheckQueue,
    pub totals: RealtimeTotals,
}

#[derive(Default)]
pub struct RealtimeTotals {
    pub subscriptions: AtomicUsize,
    pub changes: AtomicU64,
    pub sent: AtomicU64,
    pub resyncs: AtomicU64,
}

impl Context {
    pub fn new(
        databases: &Arc<Databases>,
        catalog: &Arc<Catalog>,
        auth: &Arc<Auth>,
        events: &Arc<Events>,
        budgets: &Budgets,
    ) -> Context {
        Context {
            databases: Arc::clone(databases),
            catalog: Arc::clone(catalog),
            auth: Arc::clone(auth),
            events: Arc::clone(events),
            subscriptions: Arc::clone(&budgets.subscriptions),
            filters: Arc::clone(&budgets.filters),
            checks: CheckQueue::default(),
            totals: RealtimeTotals::default(),
        }
    }

    /// Identifies the owner of credentials. Fails if they are not valid.
    pub fn caller(&self, credentials: Credentials<'_>, database: &str) -> Result<IdentifiedCaller> {
        let (identity, expires_ms) = self.auth.identify_until(credentials, database)?;
        Ok(IdentifiedCaller {
            identity,
            pass: StoredCredentials::new(credentials),
            expires_ms,
        })
    }

    /// Resolves a request to the key of its group, and to a new group in case there is none of that
    /// key yet. Fails if the rules hide the whole collection from the caller, or if the request is
    /// invalid.
    pub fn prepare(
        &self,
        database: &str,
        caller: &IdentifiedCaller,
        request: &SubscribeRequest,
    ) -> Result<(String, SubscriptionGroup)> {
        let is_admin = matches!(caller.identity, Identity::Admin(_));
        let filter = match request.filter.trim() {
            "" => None,
            text if is_admin => Some(filter::parse(text)?),
            text => Some(filter::parse_within(text, COMPARISONS_MAX)?),
        };
        let collections = self.catalog.collections(database)?;
        let collection = Arc::clone(collections.get(&request.collection)?);
        let spec = SubscriptionSpec {
            filter,
            shape: Shape::parse(Some(&request.fields), Some(&request.expand))?,
            record: request.id.clone(),
        };
        let scope = Scope {
            collections,
            identity: caller.identity.clone(),
            facts: facts(),
            events: Arc::clone(&self.events),
            output: OutputCharge::default(),
        };
        let audience = match SubscriberView::group_key(&scope, &collection, &spec)? {
            Some(shared) => format!("all {shared}"),
            None => caller.key(),
        };
        let parts = [&request.filter, &request.fields, &request.expand, &audience];
        let key = json!([database, collection.id, request.id, parts]).to_string();
        let view = SubscriberView::new(scope, &collection, &spec)?;
        let identity = caller.identity.clone();
        let group = SubscriptionGroup::new(database, &collection.id, spec, identity, view);
        Ok((key, group))
    }

    /// Charges a payer for a subscription, and for its group unless that exists.
    pub fn charge(
        &self,
        payer: Payer,
        request: &SubscribeRequest,
        has_group: bool,
    ) -> Result<SubscriptionCharges> {
        let charge = |budget: &Arc<Budget>, amount: usize| {
            let charge = budget.charge(payer, amount as u64);
            charge.map_err(|exhausted| exhausted.into_error(budget.name()))
        };
        let bytes = request.bytes();
        Ok(SubscriptionCharges {
            subscription: [
                charge(&self.subscriptions, 1)?,
                charge(&self.filters, SUB_BYTES + bytes)?,
            ],
            group: match has_group {
                true => None,
                false => Some(charge(&self.filters, GROUP_BYTES + GROUP_COPIES * bytes)?),
            },
        })
    }

    /// Creates the view of a group with the current definitions.
    pub fn view(&self, group: &SubscriptionGroup) -> Result<SubscriberView> {
        let collections = self.catalog.collections(&group.database)?;
        let collection = Arc::clone(collections.get(&group.collection)?);
        let scope = Scope {
            collections,
            identity: group.identity.clone(),
            facts: facts(),
            events: Arc::clone(&self.events),
            output: OutputCharge::default(),
        };
        SubscriberView::new(scope, &collection, &group.spec)
    }

    /// The account as a change left it, or none if that state can no longer be shown.
    pub fn account(&self, state: &RecordState) -> Result<Option<User>> {
        let database = &state.collection.database;
        let collections = self.catalog.collections(database)?;
        let collection = Arc::clone(collections.get(&state.collection.id)?);
        let scope = Scope {
            collections,
            identity: Identity::Admin(String::new()),
            facts: facts(),
            events: Arc::clone(&self.events),
            output: OutputCharge::default(),
        };
        let view = SubscriberView::new(scope, &collection, &SubscriptionSpec::default())?;
        let mut out = Vec::new();
        let database = self.databases.get(database)?;
        if !database.look_up(|connection| view.show(connection, state, &mut out))? {
            return Ok(None);
        }
        Ok(Some(User {
            id: state.id().to_owned(),
            collection_id: collection.id.clone(),
            collection_name: collection.name.clone(),
            record: serde_json::from_slice(&out)?,
            field_names: Arc::clone(&collection.field_names),
        }))
    }
}

/// The facts that rules can ask about a subscription. It has no parameters or headers of its own.
fn facts() -> RequestFacts {
    RequestFacts {
        context: "realtime",
        method: "GET",
        sent: None,
    }
}
