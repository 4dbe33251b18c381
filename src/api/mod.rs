//! The HTTP API: every endpoint on one page, and the way from a request to its handler.
//!
//! [`ROUTES`] says for each endpoint who may call it and what becomes of it on a replica. A handler
//! decodes, calls the domain, encodes; it decides nothing about access beyond what stands here and
//! what `rules` answers. `/db/{name}/api/...` is `/api/...` in another database, for the endpoints
//! that are about one.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use serde::de::DeserializeOwned;

use crate::app::App;
use crate::auth::Credentials;
use crate::collections::Collection;
use crate::collections::Collections;
use crate::db;
use crate::db::Database;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::http::BodySink;
use crate::http::Method;
use crate::http::Method::Delete;
use crate::http::Method::Get;
use crate::http::Method::Patch;
use crate::http::Method::Post;
use crate::http::Request;
use crate::http::Response;
use crate::http::query;
use crate::http::route::Found;
use crate::http::route::Params;
use crate::http::route::Router;
use crate::records::Scope;
use crate::rules::Identity;
use crate::rules::KeyScope;
use crate::stats::NO_ROUTE;
use crate::threads::Stop;

mod accounts;
mod admins;
mod answer;
mod batch;
mod collections;
pub mod cors;
mod databases;
mod files;
mod follow;
mod form;
mod forms;
mod health;
mod keys;
mod metrics;
mod pages;
mod records;
mod replica;
mod replication;
mod socket;
mod stats;

use answer::answer_error;
use answer::error_json;
use answer::error_response;
use answer::json_response;
use cors::Cors;

/// How often a request starts over whose collection changes while it is served.
const STALE_TRIES: usize = 100;
const STALE_PAUSE: Duration = Duration::from_millis(20);

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Whom the rules of the collection admit.
    Rules,
    /// Whoever is signed in: accounts and administrators.
    Account,
    /// Administrators.
    Admin,
    /// Replicas of this master, and nobody else.
    Replica,
    /// Who watches over servers: administrators, service tokens, replicas.
    Watch,
    /// Administrators, and API keys with this scope.
    Scope(KeyScope),
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Access::Public => "public",
            Access::Rules => "rules",
            Access::Account => "account",
            Access::Admin => "admin",
            Access::Replica => "replica",
            Access::Watch => "watch",
            Access::Scope(scope) => scope.name(),
        })
    }
}

/// Which database an endpoint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole server; has no `/db/{name}` form.
    Server,
    /// The database that the path names, or `default`.
    Database,
}

/// What becomes of a call on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReplica {
    /// Answered from what was replicated.
    Serve,
    /// Refused: it writes what belongs to the master.
    Refuse,
    /// Answered from the replica's own state.
    Own,
}

/// One endpoint.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub place: Place,
    pub on_replica: OnReplica,
    /// Longest request body that it takes.
    pub body_bytes_max: usize,
    handler: fn(&Call<'_>) -> Result<Response>,
}

/// Bodies of records and definitions; the server reads no longer ones.
const BODY_BYTES: usize = 4 << 20;
/// Bodies that name somebody or something.
const SMALL_BODY_BYTES: usize = 16 << 10;

/// A route that takes small bodies only.
const fn small(mut route: Route) -> Route {
    route.body_bytes_max = SMALL_BODY_BYTES;
    route
}

const fn route(
    method: Method,
    path: &'static str,
    access: Access,
    place: Place,
    on_replica: OnReplica,
    handler: fn(&Call<'_>) -> Result<Response>,
) -> Route {
    Route {
        method,
        path,
        access,
        place,
        on_replica,
        body_bytes_max: BODY_BYTES,
        handler,
    }
}

/// Every endpoint there is.
#[rustfmt::skip]
pub const ROUTES: [Route; 68] = {
    use Access::{Account, Admin, Public, Replica, Rules, Scope, Watch};
    use KeyScope::{Collections, Databases, Service};
    use OnReplica::{Own, Refuse, Serve};
    use Place::{Database, Server};
    [
        route(Get,    "/api/health",                                   Public, Database, Own,    health::get),

        small(route(Post,   "/api/admins/init",                        Public, Server,   Refuse, admins::init)),
        small(route(Post,   "/api/admins/login",                       Public, Server,   Serve,  admins::login)),
        small(route(Post,   "/api/admins/refresh",                     Admin,  Server,   Serve,  admins::refresh)),
        route(Get,    "/api/admins",                                   Admin,  Server,   Serve,  admins::list),
        small(route(Post,   "/api/admins",                             Admin,  Server,   Refuse, admins::create)),
        small(route(Patch,  "/api/admins/{id}",                        Admin,  Server,   Refuse, admins::update)),
        small(route(Delete, "/api/admins/{id}",                        Admin,  Server,   Refuse, admins::delete)),

        route(Get,    "/api/keys",                                     Admin,  Server,   Serve,  keys::list),
        small(route(Post,   "/api/keys",                               Admin,  Server,   Refuse, keys::create)),
        small(route(Delete, "/api/keys/{id}",                          Admin,  Server,   Refuse, keys::delete)),

        small(route(Post,   "/api/auth/login",                         Public,  Database, Serve,  accounts::login)),
        small(route(Post,   "/api/auth/register",                      Rules,   Database, Refuse, accounts::register)),
        small(route(Post,   "/api/auth/refresh",                       Account, Database, Serve,  accounts::refresh)),
        route(Get,    "/api/auth/me",                                  Account, Database, Serve,  accounts::me),
        small(route(Post,   "/api/auth/password",                      Account, Database, Refuse, accounts::change_password)),
        small(route(Post,   "/api/auth/request-verification",          Public,  Database, Refuse, accounts::request_verification)),
        small(route(Post,   "/api/auth/request-password-reset",        Public,  Database, Refuse, accounts::request_password_reset)),
        small(route(Post,   "/api/auth/request-email-change",          Account, Database, Refuse, accounts::request_email_change)),
        small(route(Post,   "/api/auth/confirm",                       Public,  Database, Refuse, accounts::confirm)),
        small(route(Post,   "/api/auth/confirm-verification",          Public,  Database, Refuse, accounts::confirm)),
        small(route(Post,   "/api/auth/confirm-password-reset",        Public,  Database, Refuse, accounts::confirm)),
        small(route(Post,   "/api/auth/confirm-email-change",          Public,  Database, Refuse, accounts::confirm)),
        small(route(Post,   "/api/auth/service-token",                 Scope(Service), Server, Serve, keys::service_token)),

        route(Get,    "/api/databases",                                Scope(Databases), Server, Serve,  databases::list),
        small(route(Post,   "/api/databases",                          Scope(Databases), Server, Refuse, databases::create)),
        small(route(Delete, "/api/databases/{name}",                   Scope(Databases), Server, Refuse, databases::delete)),
        small(route(Post,   "/api/databases/{name}/purge",             Admin,            Server, Refuse, databases::purge)),

        route(Get,    "/api/collections",                              Scope(Collections), Database, Serve,  collections::list),
        route(Post,   "/api/collections",                              Scope(Collections), Database, Refuse, collections::create),
        route(Get,    "/api/collections/{collection}",                 Scope(Collections), Database, Serve,  collections::get),
        route(Patch,  "/api/collections/{collection}",                 Scope(Collections), Database, Refuse, collections::update),
        small(route(Delete, "/api/collections/{collection}",           Scope(Collections), Database, Refuse, collections::delete)),

        route(Get,    "/api/collections/{collection}/records",         Rules,  Database, Serve,  records::list),
        route(Post,   "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::create),
        route(Patch,  "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::bulk_update),
        route(Delete, "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::bulk_delete),
        route(Get,    "/api/collections/{collection}/records/{id}",    Rules,  Database, Serve,  records::get),
        route(Patch,  "/api/collections/{collection}/records/{id}",    Rules,  Database, Refuse, records::update),
        small(route(Delete, "/api/collections/{collection}/records/{id}", Rules, Database, Refuse, records::delete)),

        route(Get,    "/api/collections/{collection}/auth-methods",    Public, Database, Serve,  accounts::methods),
        small(route(Post,   "/api/collections/{collection}/auth-with-password",     Public,  Database, Serve,  accounts::auth_with_password)),
        small(route(Post,   "/api/collections/{collection}/auth-refresh",           Account, Database, Serve,  accounts::auth_refresh)),
        small(route(Post,   "/api/collections/{collection}/request-verification",   Public,  Database, Refuse, accounts::request_verification)),
        small(route(Post,   "/api/collections/{collection}/confirm-verification",   Public,  Database, Refuse, accounts::confirm)),
        small(route(Post,   "/api/collections/{collection}/request-password-reset", Public,  Database, Refuse, accounts::request_password_reset)),
        small(route(Post,   "/api/collections/{collection}/confirm-password-reset", Public,  Database, Refuse, accounts::confirm)),
        small(route(Post,   "/api/collections/{collection}/request-email-change",   Account, Database, Refuse, accounts::request_email_change)),
        small(route(Post,   "/api/collections/{collection}/confirm-email-change",   Public,  Database, Refuse, accounts::confirm)),

        route(Post,   "/api/batch",                                    Rules,  Database, Refuse, batch::run),

        route(Get,    "/api/files/{collection}/{record}/{file}",       Public,  Database, Serve, files::get),
        small(route(Post,   "/api/files/token",                        Account, Database, Serve, files::token)),

        route(Get,    "/api/replica/files",                            Replica, Server,  Refuse, replica::list),
        route(Get,    "/api/replica/files/manifest",                   Replica, Server,  Refuse, replica::manifest),
        small(route(Post,   "/api/replica/files/ack",                  Replica, Server,  Refuse, replica::acknowledge)),
        route(Get,    "/api/replica/file/{database}/{collection}/{record}/{file}", Replica, Server, Refuse, replica::file),

        route(Get,    "/api/replica/databases",                        Replica, Server,  Refuse, replication::list),
        route(Get,    "/api/replica/databases/{name}/pages",           Replica, Server,  Refuse, replication::pages),
        route(Post,   "/api/replica/databases/{name}/pages",           Replica, Server,  Refuse, replication::differing),
        route(Post,   "/api/replica/databases/{name}/compare",         Replica, Server,  Refuse, replication::compare),
        route(Get,    "/api/replica/answers/{tag}",                    Replica, Server,  Refuse, replication::rest),
        route(Post,   "/api/replica/ack",                              Replica, Server,  Refuse, replication::acknowledge),
        route(Get,    "/api/replica/ws",                               Replica, Server,  Refuse, replication::listen),
        route(Get,    "/api/replica/status",                           Watch,   Server,  Own,    replication::status),

        route(Get,    "/api/stats",                                    Watch,  Server,   Own,    stats::get),
        route(Get,    "/metrics",                                      Watch,  Server,   Own,    metrics::get),
        route(Get,    "/auth/confirm",                                 Public, Server,   Own,    pages::confirm),
        route(Get,    "/",                                             Public, Server,   Own,    health::root),
    ]
};

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
    pub trusted_proxies: Vec<IpAddr>,
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
        let (begun, mut number) = (Instant::now(), NO_ROUTE);
        let cors = &self.settings.cors;
        let response = match cors.preflight(request) {
            Some(response) => response,
            None => follow::answer(&self.app, request, || self.dispatch(request, &mut number)),
        };
        self.answers.count(response.status);
        let stats = &self.app.stats;
        stats.request(number, response.status, begun.elapsed());
        cors.allow(request, response)
    }

    /// Where the body of a form goes that is about to come.
    pub fn receive(&self, request: &Request, length: Option<u64>) -> Option<Box<dyn BodySink>> {
        forms::receive(self, request, length)
    }

    /// Notes the number of the route as soon as it is known.
    fn dispatch(&self, request: &Request, number: &mut usize) -> Result<Response> {
        let (database, path) = split_database(&request.path);
        let ((found, route), params) = match self.router.find(request.method, path) {
            Found::Found(route, params) => (*route, params),
            Found::NotFound => return Err(no_path()),
            Found::MethodNotAllowed(methods) => return Ok(method_not_allowed(&methods)),
        };
        if database.is_some() && route.place == Place::Server {
            return Err(no_path());
        }
        *number = found;
        if let Some(replica) = self.app.replica()
            && let Some(elsewhere) = follow::redirect(replica, route.on_replica, request)?
        {
            return Ok(elsewhere);
        }
        if let Some(replica) = self.app.replica()
            && replica.is_awaited(database.unwrap_or(db::DEFAULT), &self.app.databases)
            && route.on_replica == OnReplica::Serve
        {
            return Err(db::not_here());
        }
        if request.body.len() > route.body_bytes_max {
            return Err(Error::new(
                Kind::TooLarge,
                format!("This takes at most {} KiB.", route.body_bytes_max >> 10),
            ));
        }
        let database = database.unwrap_or(db::DEFAULT);
        let call = Call {
            app: &self.app,
            request,
            params: &params,
            identity: self.identify(route, request, database)?,
            database,
            trusted_proxies: &self.settings.trusted_proxies,
            answers: &self.answers,
        };
        // A handler reads the request and changes nothing until it succeeds, so it can start over
        // with the definitions of now.
        let pause = Stop::new();
        for _ in 0..STALE_TRIES {
            match answer_by(route, &call) {
                Err(error) if error.kind() == Kind::Stale => pause.wait(STALE_PAUSE),
                result => return result,
            };
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
        if let Identity::Key(key) = &identity
            && route.place == Place::Database
            && key
                .databases
                .as_ref()
                .is_some_and(|names| !names.contains(database))
        {
            return Err(forbidden("The key does not open this database."));
        }
        check_access(route, &identity)?;
        Ok(identity)
    }
}

/// What the handler answers. Replicas ask all the time.
fn answer_by(route: &Route, call: &Call<'_>) -> Result<Response> {
    let response = (route.handler)(call)?;
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
    trusted_proxies: &'a [IpAddr],
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

    /// Where the request came from: the other end of the connection, or, behind a trusted proxy,
    /// what that says.
    fn client(&self) -> IpAddr {
        let is_trusted = |address: &IpAddr| self.trusted_proxies.contains(address);
        let peer = self.request.peer.ip();
        if !is_trusted(&peer) {
            return peer;
        }
        let is_it = |name: &str| name.eq_ignore_ascii_case("X-Forwarded-For");
        let headers = self.request.headers.iter().filter(|(name, _)| is_it(name));
        let forwarded: Vec<&str> = headers.flat_map(|(_, value)| value.split(',')).collect();
        // Each proxy adds the one it heard from at the end, in the same line or in another; further
        // in front anybody may have written.
        let addresses = forwarded.iter().rev().map(|address| address.trim().parse());
        let first = addresses
            .map_while(std::result::Result::ok)
            .find(|it| !is_trusted(it));
        first.unwrap_or(peer)
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
        })
    }

    /// The collection that the path names.
    fn collection(&self, scope: &Scope) -> Result<Arc<Collection>> {
        scope.collections.get(self.param("collection")).cloned()
    }

    /// The body as JSON of this form.
    fn body<T: DeserializeOwned>(&self) -> Result<T> {
        if self.request.body.is_empty() {
            return Err(Error::invalid("The request needs a JSON body."));
        }
        json_body(&self.request.body)
    }

    /// The query parameters.
    fn query(&self) -> Result<Vec<(String, String)>> {
        query::parse(&self.request.query)
    }
}

/// JSON of a wanted form, from a client.
fn json_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::invalid(format!("The body is not the JSON that is wanted: {error}."))
    })
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
        (Access::Watch, Identity::Service(_)) => true,
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
