//! The HTTP API: every endpoint on one page, and the way from a request to its handler.
//!
//! [`ROUTES`] says for each endpoint who may call it and what becomes of it on a replica. A handler
//! decodes, calls the domain, encodes; it decides nothing about access beyond what stands here and
//! what `rules` answers. `/db/{name}/api/...` is `/api/...` in another database, for the endpoints
//! that are about one.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;

use crate::app::App;
use crate::collections::Collection;
use crate::collections::Collections;
use crate::db;
use crate::db::Database;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
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
use crate::log;
use crate::records::Scope;
use crate::rules::Identity;
use crate::threads::Stop;

mod admins;
mod batch;
mod collections;
mod databases;
mod health;
mod records;

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
    /// Administrators.
    Admin,
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
    handler: fn(&Call<'_>) -> Result<Response>,
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
        handler,
    }
}

/// Every endpoint there is.
#[rustfmt::skip]
pub const ROUTES: [Route; 22] = {
    use Access::{Admin, Public, Rules};
    use OnReplica::{Own, Refuse, Serve};
    use Place::{Database, Server};
    [
        route(Get,    "/api/health",                                   Public, Server,   Own,    health::get),

        route(Post,   "/api/admins/init",                              Public, Server,   Refuse, admins::init),
        route(Post,   "/api/admins/login",                             Public, Server,   Serve,  admins::login),
        route(Post,   "/api/admins/refresh",                           Admin,  Server,   Serve,  admins::refresh),
        route(Get,    "/api/admins",                                   Admin,  Server,   Serve,  admins::list),

        route(Get,    "/api/databases",                                Admin,  Server,   Serve,  databases::list),
        route(Post,   "/api/databases",                                Admin,  Server,   Refuse, databases::create),
        route(Delete, "/api/databases/{name}",                         Admin,  Server,   Refuse, databases::delete),

        route(Get,    "/api/collections",                              Admin,  Database, Serve,  collections::list),
        route(Post,   "/api/collections",                              Admin,  Database, Refuse, collections::create),
        route(Get,    "/api/collections/{collection}",                 Admin,  Database, Serve,  collections::get),
        route(Patch,  "/api/collections/{collection}",                 Admin,  Database, Refuse, collections::update),
        route(Delete, "/api/collections/{collection}",                 Admin,  Database, Refuse, collections::delete),

        route(Get,    "/api/collections/{collection}/records",         Rules,  Database, Serve,  records::list),
        route(Post,   "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::create),
        route(Patch,  "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::bulk_update),
        route(Delete, "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::bulk_delete),
        route(Get,    "/api/collections/{collection}/records/{id}",    Rules,  Database, Serve,  records::get),
        route(Patch,  "/api/collections/{collection}/records/{id}",    Rules,  Database, Refuse, records::update),
        route(Delete, "/api/collections/{collection}/records/{id}",    Rules,  Database, Refuse, records::delete),

        route(Post,   "/api/batch",                                    Rules,  Database, Refuse, batch::run),

        route(Get,    "/",                                             Public, Server,   Own,    health::root),
    ]
};

/// The function that answers every request.
pub struct Api {
    app: Arc<App>,
    router: Router<&'static Route>,
}

static ALL: [Route; ROUTES.len()] = ROUTES;

impl Api {
    pub fn new(app: Arc<App>) -> Api {
        let mut router = Router::new();
        for route in &ALL {
            router.add(route.method, route.path, route);
        }
        Api { app, router }
    }

    /// Answers a request; never panics on what a client sends, and turns every error into its
    /// answer in this one place.
    pub fn handle(&self, request: &Request) -> Response {
        self.dispatch(request)
            .unwrap_or_else(|error| answer_error(request, &error))
    }

    fn dispatch(&self, request: &Request) -> Result<Response> {
        let (database, path) = split_database(&request.path);
        let (route, params) = match self.router.find(request.method, path) {
            Found::Found(route, params) => (*route, params),
            Found::NotFound => return Err(no_path()),
            Found::MethodNotAllowed(methods) => return Ok(method_not_allowed(&methods)),
        };
        if database.is_some() && route.place == Place::Server {
            return Err(no_path());
        }
        let identity = self.app.auth.identify(request.header("Authorization"))?;
        check_access(route, &identity)?;
        let call = Call {
            app: &self.app,
            request,
            params: &params,
            identity,
            database: database.unwrap_or(db::DEFAULT),
        };
        // A handler reads the request and changes nothing until it succeeds, so it can start over
        // with the definitions of now.
        let pause = Stop::new();
        for _ in 0..STALE_TRIES {
            match (route.handler)(&call) {
                Err(error) if error.kind() == Kind::Stale => pause.wait(STALE_PAUSE),
                result => return result,
            };
        }
        (route.handler)(&call)
    }
}

/// One request on its way to a handler.
pub struct Call<'a> {
    pub app: &'a App,
    pub request: &'a Request,
    pub identity: Identity,
    /// The name of the database it is about.
    database: &'a str,
    params: &'a Params<'a, 'a>,
}

impl Call<'_> {
    /// A part of the path.
    fn param(&self, name: &str) -> &str {
        self.params.get(name)
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
        serde_json::from_slice(&self.request.body).map_err(|error| {
            Error::invalid(format!("The body is not the JSON that is wanted: {error}."))
        })
    }

    /// The query parameters.
    fn query(&self) -> Result<Vec<(String, String)>> {
        query::parse(&self.request.query)
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
    match (route.access, identity) {
        (Access::Public | Access::Rules, _) | (Access::Admin, Identity::Admin(_)) => Ok(()),
        (Access::Admin, Identity::Nobody) => Err(Error::new(
            Kind::Unauthenticated,
            "Sign in as an admin to do this.",
        )),
    }
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

/// Our own faults are logged with their whole chain; a client's are its own business.
fn answer_error(request: &Request, error: &Error) -> Response {
    match error.kind() {
        Kind::Internal => log::error(format_args!(
            "request failed id={} error={error}",
            request.id
        )),
        Kind::Unavailable => log::warn(format_args!(
            "request refused id={} error={error}",
            request.id
        )),
        _ => {}
    }
    error_response(error)
}

fn error_response(error: &Error) -> Response {
    let response = json_response(error.kind().status(), &error_json(error));
    match error.kind() {
        Kind::Unavailable | Kind::TooMany | Kind::Stale => response.with_header("Retry-After", "1"),
        _ => response,
    }
}

/// The one form of an error, as in PocketBase.
fn error_json(error: &Error) -> Value {
    let fields: serde_json::Map<String, Value> = error
        .field_errors()
        .iter()
        .map(|(name, field)| {
            (
                name.clone(),
                json!({"code": field.code, "message": field.message}),
            )
        })
        .collect();
    json!({"status": error.kind().status(), "message": error.message(), "data": fields})
}

fn json_response(status: u16, body: &Value) -> Response {
    Response::json(status, body.to_string().into_bytes())
}
