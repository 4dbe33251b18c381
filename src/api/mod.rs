//! The HTTP API: every endpoint on one page, and the way from a request to its handler.
//!
//! [`ROUTES`] says for each endpoint who may call it and what becomes of it on a replica. A handler
//! decodes, calls the domain, encodes; it decides nothing about access beyond what stands here and
//! what `rules` answers. `/db/{name}/api/...` is `/api/...` in another database, for the endpoints
//! that are about one.

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::base::budget::{Charge, Network, Output, Payer};
use crate::base::error::{Error, Kind, Result};
use crate::base::threads::Stop;
use crate::model::auth::Credentials;
use crate::model::collections::{Collection, Collections};
use crate::model::records::Scope;
use crate::model::rules::{Identity, KeyScope};
use crate::net::http::client_address::{Prefix, client_address};
use crate::net::http::route::{Params, RouteMatch, Router};
use crate::net::http::{Method, Request, Response, query};
use crate::services::stats::NO_ROUTE;
use crate::store::db;
use crate::store::db::{Asker, Database};

mod accounts;
mod admins;
mod answer;
mod batch;
mod body;
mod collections;
pub mod cors;
pub mod cron;
mod databases;
mod files;
mod follow;
mod form;
mod forms;
mod health;
mod keys;
mod metrics;
mod pages;
mod realtime;
mod records;
mod replica;
mod replication;
mod routes;
mod socket;
mod stats;
mod values;
mod webhooks;
mod workflows;

use answer::{answer_error, error_json, error_response, json_response};
use cors::Cors;
pub use routes::ROUTES;
use routes::{Access, BODY_BYTES, OnReplica, Place, Route};

/// How often a request starts over whose collection changes while it is served.
const STALE_TRIES: usize = 100;
const STALE_PAUSE: Duration = Duration::from_millis(20);

/// An answer that may take more than is free.
const LONG_BYTES: usize = 64 << 10;

/// The function that answers every request.
pub struct Api {
    app: Arc<App>,
    /// Routes with their numbers.
    router: Router<(usize, &'static Route)>,
    settings: Settings,
    answers: metrics::Answers,
}

/// What an operator chooses.
pub struct Settings {
    pub cors: Cors,
    /// Longest form with files.
    pub upload_bytes_max: u64,
    /// Proxies whose word is taken for where a request came from.
    pub trusted_proxies: Vec<Prefix>,
}

static ALL: [Route; ROUTES.len()] = ROUTES;

/// The name of each route in statistics, by its number.
pub fn route_names() -> Vec<String> {
    let name = |route: &Route| format!("{} {}", route.method, route.path);
    ALL.iter().map(name).collect()
}

impl Api {
    pub fn new(app: Arc<App>, settings: Settings) -> Api {
        let mut router = Router::new();
        for (number, route) in ALL.iter().enumerate() {
            router.add(route.method, route.path, (number, route));
        }
        Api {
            app,
            router,
            settings,
            answers: metrics::Answers::default(),
        }
    }

    /// Answers a request; never panics on what a client sends, and turns every error into its
    /// answer in this one place.
    pub fn handle(&self, request: &Request) -> Response {
        let (begun, mut number, client) = (Instant::now(), NO_ROUTE, OnceCell::new());
        let cors = &self.settings.cors;
        let response = match cors.preflight(request) {
            Some(response) => response,
            None => follow::answer(&self.app, request, || {
                self.dispatch(request, &client, &mut number)
            }),
        };
        self.answers.count(response.status);
        let stats = &self.app.stats;
        stats.request(number, response.status, begun.elapsed());
        let client = *client.get_or_init(|| self.client(request));
        let is_peer = client == request.peer.ip().to_canonical();
        let response = response.for_client((!is_peer).then_some(client));
        cors.allow(request, response)
    }

    /// Notes the number of the route as soon as it is known, and the client's address when it is needed.
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
        if database.is_some() && route.place == Place::Server {
            return Err(no_path());
        }
        *number = found;
        self.settings.cors.check_page(request)?;
        if let Some(replica) = self.app.replica()
            && let Some(elsewhere) = follow::redirect(replica, route.on_replica, request)?
        {
            return Ok(elsewhere);
        }
        if let Some(replica) = self.app.replica()
            && replica.is_arriving(database.unwrap_or(db::DEFAULT), &self.app.databases)
            && route.on_replica == OnReplica::Serve
        {
            return Err(db::not_here());
        }
        self.check_body(request, route.body_bytes_max)?;
        let database = database.unwrap_or(db::DEFAULT);
        let call = Call {
            app: &self.app,
            request,
            params: &params,
            identity: self.identify(route, request, database)?,
            database,
            client,
            trusted_proxies: &self.settings.trusted_proxies,
            cors: &self.settings.cors,
            answers: &self.answers,
            parsed: RefCell::default(),
            output: OnceCell::new(),
        };
        // A handler reads the request and changes nothing until it succeeds, so it can start over
        // with the definitions of now.
        let pause = Stop::new();
        for _ in 0..STALE_TRIES {
            match answer_by(route, &call) {
                Err(error) if error.kind() == Kind::Stale => pause.wait(STALE_PAUSE),
                result => return result,
            };
            call.parsed.take();
        }
        answer_by(route, &call)
    }

    /// Who asks, if they may call this endpoint at all. Where everybody may, credentials are not
    /// looked at: an old token must not keep anybody from signing in again.
    fn identify(&self, route: &Route, request: &Request, database: &str) -> Result<Identity> {
        if route.access == Access::Public {
            return Ok(Identity::Nobody);
        }
        let id = request.header("X-Replica-Id");
        if route.access == Access::Replica || (route.access == Access::Watch && id.is_some()) {
            let id = id.unwrap_or_default();
            self.app.auth.check_replica(credentials(request), id)?;
            // It is no caller of the API proper.
            return Ok(Identity::Nobody);
        }
        let identity = self.app.auth.identify(credentials(request), database)?;
        check_access(route, &identity)?;
        Ok(identity)
    }
}

/// What the handler answers. Replicas ask all the time.
fn answer_by(route: &Route, call: &Call<'_>) -> Result<Response> {
    let response = (route.handler)(call)?;
    if response.body.len() > LONG_BYTES && call.request.method == Method::Get {
        // Another method has done its work, so its answer is not refused any more.
        call.output().reach(response.body.len())?;
    }
    let response = response.charged_to(call.output.get().cloned().unwrap_or_default());
    Ok(match route.access {
        Access::Replica => response.quietly(),
        _ => response,
    })
}

/// One request on its way to a handler.
pub struct Call<'a> {
    pub app: &'a App,
    pub request: &'a Request,
    pub identity: Identity,
    /// The name of the database it is about.
    database: &'a str,
    params: &'a Params<'a, 'a>,
    answers: &'a metrics::Answers,
    /// See [`Call::client`].
    client: &'a OnceCell<IpAddr>,
    trusted_proxies: &'a [Prefix],
    cors: &'a Cors,
    /// For what was parsed of the body.
    parsed: RefCell<Option<Charge>>,
    output: OnceCell<Output>,
}

impl Call<'_> {
    /// A part of the path.
    fn param(&self, name: &str) -> &str {
        self.params.get(name)
    }

    /// Who asks for a protected file: by the token of the link, or the credentials of the request.
    fn identify_for_files(&self, token: Option<&str>) -> Result<Identity> {
        let auth = &self.app.auth;
        match token.filter(|token| !token.is_empty()) {
            Some(token) => auth.identify_by_file_token(token, self.database),
            None => auth.identify(credentials(self.request), self.database),
        }
    }

    /// Wakes the thread that deletes the files of records.
    fn notify_files(&self, has_files: bool) {
        if has_files {
            self.app.files.signal.notify(self.database);
        }
    }

    /// Hashes a password that the request sets.
    fn hash(&self, password: &str) -> Result<String> {
        self.app
            .auth
            .hash_for(&self.identity, self.client(), password)
    }

    /// A part of the path, where the path has one.
    fn optional_param(&self, name: &str) -> Option<&str> {
        Some(self.params.get(name)).filter(|value| !value.is_empty())
    }

    /// The address that the request came from; see [`client_address`].
    fn client(&self) -> IpAddr {
        let find = || client_address(self.request, self.trusted_proxies);
        *self.client.get_or_init(find)
    }

    /// The payer of all that this request makes the server hold.
    fn payer(&self) -> Payer {
        payer_of(self.client(), &self.identity)
    }

    /// The caller as the payer of its queries.
    fn asker(&self) -> Asker<'_> {
        self.asker_as(&self.identity)
    }

    /// The same where the handler looks at the credentials itself.
    fn asker_as(&self, identity: &Identity) -> Asker<'_> {
        Asker {
            payer: payer_of(self.client(), identity),
            queries: &self.app.budgets.queries,
        }
    }

    /// The charge for the answer.
    fn output(&self) -> &Output {
        let budget = &self.app.budgets.answers;
        self.output
            .get_or_init(|| Output::new(budget, self.payer()))
    }

    fn database(&self) -> Result<Arc<Database>> {
        self.app.databases.get(self.database)
    }

    fn collections(&self) -> Result<Arc<Collections>> {
        self.app.catalog.collections(self.database)
    }

    /// The caller and the definitions, for the records functions.
    fn scope(&self) -> Result<Scope> {
        Ok(Scope {
            collections: self.collections()?,
            identity: self.identity.clone(),
            events: Arc::clone(&self.app.events),
            output: self.output().clone(),
        })
    }

    /// The collection that the path names.
    fn collection(&self, scope: &Scope) -> Result<Arc<Collection>> {
        scope.collections.get(self.param("collection")).cloned()
    }

    /// The query parameters.
    fn query(&self) -> Result<Vec<(String, String)>> {
        query::parse(&self.request.query)
    }
}

fn payer_of(client: IpAddr, identity: &Identity) -> Payer {
    Payer {
        network: Network::of(client),
        has_credentials: !matches!(identity, Identity::Nobody),
    }
}

/// The value of a query parameter; the last one when it is there twice.
fn parameter<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .rev()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

fn check_access(route: &Route, identity: &Identity) -> Result<()> {
    let is_admitted = match (route.access, identity) {
        (Access::Public | Access::Rules, _)
        | (Access::Account, Identity::User(_))
        | (_, Identity::Admin(_)) => true,
        (Access::Work, Identity::Service(_)) => true,
        // What these show is about more than some workflows.
        (Access::Watch, Identity::Service(service)) => service.workflows.is_none(),
        (Access::Operate, Identity::Service(service)) => service.is_operator,
        (Access::Work, Identity::Key(key)) => key.scopes.contains(&KeyScope::Service),
        (Access::Scope(scope), Identity::Key(key)) => key.scopes.contains(&scope),
        _ => false,
    };
    match (is_admitted, identity) {
        (true, _) => Ok(()),
        (false, Identity::Nobody) => Err(Error::new(
            Kind::Unauthenticated,
            match route.access {
                Access::Account => "Sign in to do this.",
                _ => "Sign in as an admin to do this.",
            },
        )),
        (false, Identity::Key(_)) => Err(forbidden("The key does not open this.")),
        (false, Identity::Service(_)) if route.access == Access::Watch => {
            Err(forbidden("A token for some workflows does not open this."))
        }
        (false, _) if route.access == Access::Account => {
            Err(forbidden("Only accounts may do this."))
        }
        (false, _) => Err(forbidden("Only admins may do this.")),
    }
}

fn credentials(request: &Request) -> Credentials<'_> {
    Credentials {
        authorization: request.header("Authorization"),
        api_key: request.header("X-API-Key"),
    }
}

fn forbidden(message: &str) -> Error {
    Error::new(Kind::Forbidden, message)
}

/// True if the answer to a `GET` of this path may be a stream of events, which has no end.
pub fn is_endless(path: &str) -> bool {
    split_database(path).1 == realtime::PATH
}

/// `/db/{name}/api/...` as the name and the rest.
fn split_database(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/db/") else {
        return (None, path);
    };
    match rest.find('/') {
        Some(slash) => (Some(&rest[..slash]), &rest[slash..]),
        None => (Some(rest), ""),
    }
}

fn no_path() -> Error {
    Error::not_found("There is nothing at this path.")
}

fn method_not_allowed(methods: &[Method]) -> Response {
    let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
    let error = Error::new(
        Kind::MethodNotAllowed,
        "This path does not take this method.",
    );
    error_response(&error).with_header("Allow", names.join(", "))
}
