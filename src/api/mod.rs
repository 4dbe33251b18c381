//! The HTTP API: dispatches a request to its handler.
//!
//! [`ROUTES`] lists each endpoint with its callers and its behavior on a replica. Access is decided
//! here, from that table, and by the rules of collections. A handler decodes, calls the domain and
//! encodes. Endpoints of a database also exist as `/db/{name}/api/...`, for the database `name`.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::app::App;
use crate::base::error::{Error, Kind, Result};
use crate::base::threads;
use crate::model::rules::{Identity, KeyScope};
use crate::net::http::client_address::{Prefix, client_address};
use crate::net::http::route::{RouteMatch, Router};
use crate::net::http::{BodyRefusal, Method, Request, Response};
use crate::services::stats::NO_ROUTE;
use crate::store::db;

mod accounts;
mod admins;
mod answer;
mod asset;
mod backups;
mod batch;
mod body;
mod call;
mod codes;
mod collection_list;
mod collections;
pub mod cors;
pub mod cron;
mod crons;
mod dashboard;
mod databases;
mod external_auths;
mod file_usage;
mod files;
mod form_values;
mod health;
mod incoming;
mod keys;
mod logs;
mod metrics;
mod multipart_body;
mod oauth;
mod oauth_redirect;
mod parameters;
mod realtime;
mod record_input;
mod records;
mod replica_routing;
mod replicated_databases;
mod replicated_files;
mod request_log;
mod routes;
mod sdk;
pub mod settings;
mod sign_in;
mod socket;
mod sql;
mod stats;
mod superusers;
mod views;
mod webhooks;
mod workflow_starts;
mod workflows;

use answer::{StatusCounts, body_too_large, error_response, forbidden, no_path};
use call::{Call, credentials, split_database};
use cors::Cors;
use request_log::RequestLog;
pub use routes::ROUTES;
use routes::{BODY_BYTES, OnReplica, Route, RouteAccess, RouteScope};

/// Attempts of a request whose collection changes while it is served, and the pause between them.
const STALE_TRIES: usize = 100;
const STALE_PAUSE: Duration = Duration::from_millis(20);

/// An answer of this length may exceed the bytes that are free of charge.
const LONG_BYTES: usize = 64 << 10;

/// Answers every request.
pub struct Api {
    app: Arc<App>,
    /// The routes; the number of each is its index in [`ROUTES`].
    router: Router<(usize, &'static Route)>,
    settings: ApiSettings,
    answers: StatusCounts,
    requests: RequestLog,
}

/// Settings of the API that the operator chooses.
pub struct ApiSettings {
    pub cors: Cors,
    /// Bytes of the longest form with files.
    pub upload_bytes_max: u64,
    pub has_dashboard: bool,
    /// Proxies that are trusted to name the address of a client.
    pub trusted_proxies: Vec<Prefix>,
    /// The settings of the server, as `/api/settings` shows them.
    pub shown: Value,
    /// The options of the server, as `/api/settings/options` shows them.
    pub options: Value,
}

static ALL: [Route; ROUTES.len()] = ROUTES;

/// The names of the routes in statistics, in the order of their numbers.
pub fn route_names() -> Vec<String> {
    let name = |route: &Route| format!("{} {}", route.method, route.path);
    ALL.iter().map(name).collect()
}

impl Api {
    pub fn new(app: Arc<App>, settings: ApiSettings) -> Api {
        let mut router = Router::new();
        for (number, route) in ALL.iter().enumerate() {
            router.add(route.method, route.path, (number, route));
        }
        Api {
            app,
            router,
            settings,
            answers: StatusCounts::default(),
            requests: RequestLog::default(),
        }
    }

    /// Answers a request. Errors become answers here and nowhere else; no input of a client makes
    /// this panic.
    pub fn handle(&self, request: &Request) -> Response {
        let (begun, mut number, client) = (Instant::now(), NO_ROUTE, OnceCell::new());
        let cors = &self.settings.cors;
        let response = match cors.preflight(request) {
            Some(response) => response,
            None => replica_routing::answer(&self.app, request, || {
                self.dispatch(request, &client, &mut number)
            }),
        };
        self.answers.count(response.status);
        let (stats, took) = (&self.app.stats, begun.elapsed());
        stats.request(number, response.status, took);
        let client = *client.get_or_init(|| self.client(request));
        let route = ALL.get(number);
        if route.is_none_or(|route| route.access != RouteAccess::Replica) {
            let pattern = route
                .map(|it| it.path)
                .filter(|path| path.contains("{token}"));
            self.requests
                .add(request, pattern, response.status, took, client);
        }
        let is_peer = client == request.peer.ip().to_canonical();
        let response = response.for_client((!is_peer).then_some(client));
        cors.allow(request, response)
    }

    /// Finds the route, checks access and calls the handler. Sets `number` once the route is known
    /// and `client` once the address is needed.
    fn dispatch(
        &self,
        request: &Request,
        client: &OnceCell<IpAddr>,
        number: &mut usize,
    ) -> Result<Response> {
        let (database, path) = split_database(&request.path);
        let found = self.router.find(request.method, path);
        if !matches!(found, RouteMatch::Found(..)) {
            self.check_body(request, BODY_BYTES)?;
        }
        let ((found, route), params) = match found {
            RouteMatch::Found(route, params) => (*route, params),
            RouteMatch::NotFound => return Err(no_path()),
            RouteMatch::MethodNotAllowed(methods) => return Ok(method_not_allowed(&methods)),
        };
        if database.is_some() && route.scope == RouteScope::Server {
            return Err(no_path());
        }
        *number = found;
        self.settings.cors.check_page(request)?;
        if let Some(replica) = self.app.replica()
            && let Some(elsewhere) = replica_routing::redirect(replica, route.on_replica, request)?
        {
            return Ok(elsewhere);
        }
        if let Some(replica) = self.app.replica()
            && replica.is_arriving(database.unwrap_or(db::DEFAULT), &self.app.databases)
            && route.on_replica == OnReplica::Serve
        {
            return Err(db::not_replicated_yet());
        }
        self.check_body(request, route.body_bytes_max)?;
        let database = database.unwrap_or(db::DEFAULT);
        let mut call = Call {
            app: &self.app,
            request,
            params: &params,
            identity: Identity::Anonymous,
            database,
            client,
            trusted_proxies: &self.settings.trusted_proxies,
            cors: &self.settings.cors,
            has_dashboard: self.settings.has_dashboard,
            answers: &self.answers,
            requests: &self.requests,
            shown_settings: &self.settings.shown,
            shown_options: &self.settings.options,
            parsed: RefCell::default(),
            output: OnceCell::new(),
        };
        // A handler changes nothing until it succeeds, so it can start over with the new
        // definitions.
        for _ in 0..STALE_TRIES {
            match self.attempt(route, &mut call) {
                Err(error) if error.is_outdated() => threads::pause(STALE_PAUSE),
                result => return result,
            };
            call.parsed.take();
        }
        self.attempt(route, &mut call)
    }

    /// Identifies the caller and calls the handler.
    fn attempt(&self, route: &Route, call: &mut Call<'_>) -> Result<Response> {
        call.identity = self.identify(route, call.request, call.database)?;
        call_handler(route, call)
    }

    /// The address of the client that sent a request.
    fn client(&self, request: &Request) -> IpAddr {
        client_address(request, &self.settings.trusted_proxies)
    }

    /// Refuses a request whose body is longer than the endpoint accepts or was not received.
    fn check_body(&self, request: &Request, bytes_max: usize) -> Result<()> {
        match request.body_refusal {
            Some(BodyRefusal::Exhausted(exhausted)) => {
                Err(exhausted.into_error(self.app.budgets.bodies.name()))
            }
            None if request.body.len() <= bytes_max => Ok(()),
            None | Some(BodyRefusal::TooLarge) => Err(body_too_large(bytes_max as u64)),
        }
    }

    /// Identifies the caller and refuses one who may not call this endpoint. Credentials are
    /// ignored where everyone may call it: an expired token must not prevent a new log-in.
    fn identify(&self, route: &Route, request: &Request, database: &str) -> Result<Identity> {
        if route.access == RouteAccess::Public {
            return Ok(Identity::Anonymous);
        }
        let id = request.header("X-Replica-Id");
        if route.access == RouteAccess::Replica
            || (route.access == RouteAccess::Watch && id.is_some())
        {
            let id = id.unwrap_or_default();
            self.app.auth.check_replica(credentials(request), id)?;
            // A replica is not a caller of the rest of the API.
            return Ok(Identity::Anonymous);
        }
        let identity = self.app.auth.identify(credentials(request), database)?;
        check_access(route, &identity)?;
        Ok(identity)
    }
}

/// Calls the handler and charges its answer. Requests of replicas are frequent and not logged.
fn call_handler(route: &Route, call: &Call<'_>) -> Result<Response> {
    let response = (route.handler)(call)?;
    if response.body.len() > LONG_BYTES && call.request.method == Method::Get {
        // Only a GET: another method has already made its change, so its answer must be sent.
        call.output().reach(response.body.len())?;
    }
    let response = response.charged_to(call.output.get().cloned().unwrap_or_default());
    Ok(match route.access {
        RouteAccess::Replica => response.quietly(),
        _ => response,
    })
}

fn check_access(route: &Route, identity: &Identity) -> Result<()> {
    let is_admitted = match (route.access, identity) {
        (RouteAccess::Public | RouteAccess::Rules, _)
        | (RouteAccess::Account, Identity::User(_))
        | (_, Identity::Admin(_)) => true,
        (RouteAccess::Work, Identity::Service(_)) => true,
        // The answers of these endpoints are not limited to single workflows.
        (RouteAccess::Watch, Identity::Service(service)) => service.workflows.is_none(),
        (RouteAccess::Operate, Identity::Service(service)) => service.is_operator,
        (RouteAccess::Work, Identity::Key(key)) => key.scopes.contains(&KeyScope::Service),
        (RouteAccess::Scope(scope), Identity::Key(key)) => key.scopes.contains(&scope),
        _ => false,
    };
    match (is_admitted, identity) {
        (true, _) => Ok(()),
        (false, Identity::Anonymous) => Err(Error::new(
            Kind::Unauthenticated,
            match route.access {
                RouteAccess::Account => "Sign in to do this.",
                _ => "Sign in as an admin to do this.",
            },
        )),
        (false, Identity::Key(_)) => Err(forbidden("This API key lacks the required scope.")),
        (false, Identity::Service(_)) if route.access == RouteAccess::Watch => Err(forbidden(
            "This token is limited to some workflows; use a token for all workflows.",
        )),
        (false, _) if route.access == RouteAccess::Account => {
            Err(forbidden("Only accounts may do this."))
        }
        (false, _) => Err(forbidden("Only admins may do this.")),
    }
}

/// True if the answer to a `GET` of this path may be a stream of events, which does not end.
pub fn is_endless(path: &str) -> bool {
    split_database(path).1 == realtime::PATH
}

fn method_not_allowed(methods: &[Method]) -> Response {
    let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
    let error = Error::new(
        Kind::MethodNotAllowed,
        "Method not allowed: the Allow header lists the methods of this path.",
    );
    error_response(&error).with_header("Allow", names.join(", "))
}
