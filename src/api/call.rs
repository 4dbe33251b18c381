//! A request as its handler sees it: the caller, the budget that pays, the path and the query.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::answer::StatusCounts;
use super::cors::Cors;
use super::request_log::RequestLog;
use crate::app::App;
use crate::base::budget::{Charge, Network, OutputCharge, Payer};
use crate::base::error::Result;
use crate::model::auth::Credentials;
use crate::model::collections::{Collection, Collections};
use crate::model::records::{RequestFacts, Scope, SentText};
use crate::model::rules::Identity;
use crate::net::http::client_address::{Prefix, client_address};
use crate::net::http::route::Params;
use crate::net::http::{Request, query};
use crate::store::db::{Database, QueryCaller};

/// A request that may be handled: the route is found and the caller has access.
pub struct Call<'a> {
    pub app: &'a App,
    pub request: &'a Request,
    pub identity: Identity,
    /// The name of the database that the request is about.
    pub database: &'a str,
    pub params: &'a Params<'a, 'a>,
    pub answers: &'a StatusCounts,
    pub requests: &'a RequestLog,
    pub shown_settings: &'a Value,
    pub shown_options: &'a Value,
    /// The address of the client; use [`Call::client`].
    pub client: &'a OnceCell<IpAddr>,
    pub trusted_proxies: &'a [Prefix],
    pub cors: &'a Cors,
    /// False if the operator has switched the dashboard off.
    pub has_dashboard: bool,
    /// The charge for the parsed body, until the request is answered.
    pub parsed: RefCell<Option<Charge>>,
    pub output: OnceCell<OutputCharge>,
}

impl Call<'_> {
    /// A parameter of the path.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name)
    }

    /// Identifies the caller of a protected file, by the token of the link or else the credentials.
    pub fn identify_for_files(&self, token: Option<&str>) -> Result<Identity> {
        let auth = &self.app.auth;
        match token.filter(|token| !token.is_empty()) {
            Some(token) => auth.identify_by_file_token(token, self.database),
            None => auth.identify(credentials(self.request), self.database),
        }
    }

    /// Wakes the thread that deletes the files of records.
    pub fn notify_files(&self, has_files: bool) {
        if has_files {
            self.app.files.signal.notify(self.database);
        }
    }

    /// Hashes a password that the request sets. The caller pays for the time.
    pub fn hash(&self, password: &str) -> Result<String> {
        self.app
            .auth
            .hash_for(&self.identity, self.client(), password)
    }

    /// A parameter that not every path of this handler has.
    pub fn optional_param(&self, name: &str) -> Option<&str> {
        Some(self.params.get(name)).filter(|value| !value.is_empty())
    }

    /// The address of the client; see [`client_address`].
    pub fn client(&self) -> IpAddr {
        let find = || client_address(self.request, self.trusted_proxies);
        *self.client.get_or_init(find)
    }

    /// The payer of the memory, disk and time that this request uses.
    pub fn payer(&self) -> Payer {
        payer_of(self.client(), &self.identity)
    }

    /// The caller as the payer of its queries.
    pub fn asker(&self) -> QueryCaller<'_> {
        self.asker_as(&self.identity)
    }

    /// The payer of queries, for a caller that the handler has identified.
    pub fn asker_as(&self, identity: &Identity) -> QueryCaller<'_> {
        QueryCaller {
            payer: payer_of(self.client(), identity),
            queries: &self.app.budgets.queries,
        }
    }

    /// The charge for the answer, shared by everything that builds it.
    pub fn output(&self) -> &OutputCharge {
        let budget = &self.app.budgets.answers;
        self.output
            .get_or_init(|| OutputCharge::new(budget, self.payer()))
    }

    pub fn database(&self) -> Result<Arc<Database>> {
        self.app.databases.get(self.database)
    }

    pub fn collections(&self) -> Result<Arc<Collections>> {
        self.app.catalog.collections(self.database)
    }

    /// The caller and the definitions, as the functions of `records` need them.
    pub fn scope(&self) -> Result<Scope> {
        let collections = self.collections()?;
        let request = self.request;
        // A filter of admins and keys may ask too.
        let may_ask = matches!(self.identity, Identity::Admin(_) | Identity::Key(_));
        let asks = collections.ask_what_is_sent() || (may_ask && !request.query.is_empty());
        let facts = RequestFacts {
            method: request.method.as_str(),
            sent: asks.then(|| sent_text(request)).transpose()?,
            ..RequestFacts::default()
        };
        Ok(Scope {
            collections,
            identity: self.identity.clone(),
            facts,
            events: Arc::clone(&self.app.events),
            output: self.output().clone(),
        })
    }

    /// The collection that the path names.
    pub fn collection(&self, scope: &Scope) -> Result<Arc<Collection>> {
        scope.collections.get(self.param("collection")).cloned()
    }

    /// The query parameters.
    pub fn query(&self) -> Result<Vec<(String, String)>> {
        query::parse(&self.request.query)
    }

    /// The id of the replica that sent the request. Records the contact.
    pub fn register_replica(&self) -> Result<&str> {
        let replica = self.request.header("X-Replica-Id").unwrap_or_default();
        let public_url = self.request.header("X-Replica-Public-Url");
        self.app.replicas.record_visit(replica, public_url)?;
        Ok(replica)
    }
}

/// The parameters and headers of a request, as rules see them.
fn sent_text(request: &Request) -> Result<Arc<SentText>> {
    let name = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let headers = request.headers.iter();
    let headers = headers.map(|(header, value)| (name(header), value.to_owned()));
    Ok(Arc::new(SentText {
        query: query::parse(&request.query)?,
        headers: headers.collect(),
    }))
}

pub fn payer_of(client: IpAddr, identity: &Identity) -> Payer {
    Payer {
        network: Network::of(client),
        has_credentials: !matches!(identity, Identity::Anonymous),
    }
}

pub fn credentials(request: &Request) -> Credentials<'_> {
    Credentials {
        authorization: request.header("Authorization"),
        api_key: request.header("X-API-Key"),
    }
}

/// Splits `/db/{name}/api/...` into the name of the database and the rest.
pub fn split_database(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/db/") else {
        return (None, path);
    };
    match rest.find('/') {
        Some(slash) => (Some(&rest[..slash]), &rest[slash..]),
        None => (Some(rest), ""),
    }
}
