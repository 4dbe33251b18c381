//! The table of all endpoints: callers, scope, behavior on a replica, limit of the body.

use std::fmt;

use super::call::Call;
use super::{
    accounts, admins, backups, batch, codes, collections, cron, crons, dashboard, databases,
    external_auths, file_usage, files, health, keys, logs, metrics, oauth, oauth_redirect,
    realtime, records, replicated_databases, replicated_files, sdk, settings, sql, stats,
    superusers, views, webhooks, workflow_starts, workflows,
};
use crate::base::error::Result;
use crate::model::rules::KeyScope;
use crate::net::http::Method::{Delete, Get, Patch, Post, Put};
use crate::net::http::{Method, Response};

/// The callers of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAccess {
    /// Everyone. Credentials are ignored.
    Public,
    /// Callers that the rules of the collection admit.
    Rules,
    /// Accounts and administrators.
    Account,
    /// Administrators.
    Admin,
    /// Administrators, and the command line if it can read the data of this server.
    Operate,
    /// Only replicas of this master.
    Replica,
    /// Monitoring: administrators, service tokens for all workflows, replicas.
    Watch,
    /// Workers: administrators, service tokens, API keys with the scope `service`.
    Work,
    /// Administrators, and API keys with this scope.
    Scope(KeyScope),
}

impl fmt::Display for RouteAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RouteAccess::Public => "public",
            RouteAccess::Rules => "rules",
            RouteAccess::Account => "account",
            RouteAccess::Admin => "admin",
            RouteAccess::Operate => "operate",
            RouteAccess::Replica => "replica",
            RouteAccess::Watch => "watch",
            RouteAccess::Work => "work",
            RouteAccess::Scope(scope) => scope.name(),
        })
    }
}

/// The databases that an endpoint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteScope {
    /// The whole server. There is no `/db/{name}` form.
    Server,
    /// The database that the path names, or `default`.
    Database,
}

/// The behavior of an endpoint on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReplica {
    /// Answered from replicated data.
    Serve,
    /// Refused: it writes data of the master.
    Refuse,
    /// Answered from the replica's own state.
    Own,
}

/// The files that a form for an endpoint may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteFiles {
    None,
    /// In the fields of the collection that the path names.
    Record,
    /// In the fields of all collections, each named with its request.
    Batch,
    /// In a field of this name.
    Field(&'static str),
}

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: RouteAccess,
    pub scope: RouteScope,
    pub on_replica: OnReplica,
    /// Bytes of the longest body that is accepted, without files.
    pub body_bytes_max: usize,
    pub files: RouteFiles,
    pub(super) handler: fn(&Call<'_>) -> Result<Response>,
}

/// Bodies of records and payloads of runs. The server does not read longer ones.
pub const BODY_BYTES: usize = 4 << 20;
/// Definitions of collections.
const DEFINITION_BYTES: usize = 1 << 20;
/// Lists of ids, scripts, subscriptions.
const MEDIUM_BODY_BYTES: usize = 256 << 10;
/// Names, credentials and the like, and requests that need no body.
const SMALL_BODY_BYTES: usize = 16 << 10;

const fn small(route: Route) -> Route {
    at_most(SMALL_BODY_BYTES, route)
}

const fn at_most(bytes: usize, mut route: Route) -> Route {
    route.body_bytes_max = bytes;
    route
}

const fn with_files(files: RouteFiles, mut route: Route) -> Route {
    route.files = files;
    route
}

const fn route(
    method: Method,
    path: &'static str,
    access: RouteAccess,
    scope: RouteScope,
    on_replica: OnReplica,
    handler: fn(&Call<'_>) -> Result<Response>,
) -> Route {
    Route {
        body_bytes_max: match method {
            Get => SMALL_BODY_BYTES,
            _ => BODY_BYTES,
        },
        method,
        path,
        access,
        scope,
        on_replica,
        files: RouteFiles::None,
        handler,
    }
}

/// All endpoints.
#[rustfmt::skip]
pub const ROUTES: [Route; 153] = {
    use RouteAccess::{Account, Admin, Operate, Public, Replica, Rules, Scope, Watch, Work};
    use KeyScope::{Collections, Databases, Service};
    use OnReplica::{Own, Refuse, Serve};
    use RouteFiles::{Batch, Field, Record};
    use RouteScope::{Database, Server};
    [
        route(Get,    "/api/health",                                   Public, Database, Own,    health::get),

        route(Get,    "/api/crons",                                    Admin,  Server,   Serve,  crons::list),
        small(route(Post,   "/api/crons/{id}",                         Admin,  Server,   Own,    crons::run)),
        route(Get,    "/api/backups",                                  Admin,  Server,   Own,    backups::list),
        small(route(Post,   "/api/backups",                            Admin,  Server,   Own,    backups::create)),
        with_files(Field(backups::FIELD), small(route(Post, "/api/backups/upload", Admin, Server,   Own,    backups::upload))),
        route(Get,    "/api/backups/{key}",                            Public, Server,   Own,    backups::download),
        small(route(Delete, "/api/backups/{key}",                      Admin,  Server,   Own,    backups::delete)),
        small(route(Post,   "/api/backups/{key}/restore",              Admin,  Server,   Own,    backups::restore)),
        route(Get,    "/api/logs",                                     Admin,  Server,   Own,    logs::list),
        small(route(Delete, "/api/logs",                               Admin,  Server,   Own,    logs::truncate)),
        route(Get,    "/api/logs/stats",                               Admin,  Server,   Own,    logs::stats),
        route(Get,    "/api/logs/{id}",                                Admin,  Server,   Own,    logs::get),
        route(Get,    "/api/settings",                                 Admin,  Server,   Own,    settings::get),
        route(Get,    "/api/settings/options",                         Admin,  Server,   Own,    settings::options),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/sql",           Admin,  Database, Serve,  sql::run)),
        small(route(Patch,  "/api/settings",                           Admin,  Server,   Own,    settings::update)),
        small(route(Post,   "/api/settings/test/s3",                   Admin,  Server,   Own,    settings::test_s3)),
        small(route(Post,   "/api/settings/test/email",                Admin,  Server,   Own,    settings::test_email)),

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
        small(route(Post,   "/api/auth/confirm-verification",          Public,  Database, Refuse, accounts::confirm_verification)),
        small(route(Post,   "/api/auth/confirm-password-reset",        Public,  Database, Refuse, accounts::confirm_password_reset)),
        small(route(Post,   "/api/auth/confirm-email-change",          Public,  Database, Refuse, accounts::confirm_email_change)),
        small(route(Post,   "/api/auth/service-token",                 Scope(Service), Server, Serve, keys::service_token)),

        route(Get,    "/api/databases",                                Scope(Databases), Server, Serve,  databases::list),
        small(route(Post,   "/api/databases",                          Scope(Databases), Server, Refuse, databases::create)),
        small(route(Delete, "/api/databases/{name}",                   Scope(Databases), Server, Refuse, databases::delete)),
        small(route(Post,   "/api/databases/{name}/purge",             Admin,            Server, Refuse, databases::purge)),

        route(Get,    "/api/collections",                              Scope(Collections), Database, Serve,  collections::list),
        at_most(DEFINITION_BYTES, route(Post,   "/api/collections",                              Scope(Collections), Database, Refuse, collections::create)),
        route(Put,    "/api/collections/import",                          Scope(Collections), Database, Refuse, collections::import),
        at_most(MEDIUM_BODY_BYTES, route(Post, "/api/collections/meta/dry-run-view", Admin, Database, Serve, collections::dry_run_view)),
        route(Get,    "/api/collections/meta/scaffolds",               Scope(Collections), Database, Serve,  collections::meta_scaffolds),
        small(route(Delete, "/api/collections/{collection}/truncate",  Scope(Collections), Database, Refuse, collections::truncate)),
        route(Get,    "/api/collections/meta/oauth2-providers",        Scope(Collections), Database, Serve,  oauth::presets),
        route(Get,    "/api/collections/{collection}",                 Scope(Collections), Database, Serve,  collections::get),
        at_most(DEFINITION_BYTES, route(Patch,  "/api/collections/{collection}",                 Scope(Collections), Database, Refuse, collections::update)),
        small(route(Delete, "/api/collections/{collection}",           Scope(Collections), Database, Refuse, collections::delete)),

        route(Get,    "/api/collections/{collection}/records",         Rules,  Database, Serve,  records::list),
        with_files(Record, route(Post,   "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::create)),
        route(Patch,  "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::bulk_update),
        at_most(MEDIUM_BODY_BYTES, route(Delete, "/api/collections/{collection}/records",         Rules,  Database, Refuse, records::bulk_delete)),
        route(Get,    "/api/collections/{collection}/records/{id}",    Rules,  Database, Serve,  records::get),
        with_files(Record, route(Patch,  "/api/collections/{collection}/records/{id}",    Rules,  Database, Refuse, records::update)),
        small(route(Delete, "/api/collections/{collection}/records/{id}", Rules, Database, Refuse, records::delete)),

        route(Get,    "/api/collections/_superusers/records",          Admin,  Database, Serve,  superusers::list),
        small(route(Post,   "/api/collections/_superusers/records",          Admin,  Database, Refuse, superusers::create)),
        route(Get,    "/api/collections/_superusers/records/{id}",     Admin,  Database, Serve,  superusers::get),
        small(route(Patch,  "/api/collections/_superusers/records/{id}",     Admin,  Database, Refuse, superusers::update)),
        small(route(Delete, "/api/collections/_superusers/records/{id}",     Admin,  Database, Refuse, superusers::delete)),
        route(Get,    "/api/collections/_externalAuths/records",       Account, Database, Serve, external_auths::list),
        small(route(Delete, "/api/collections/_externalAuths/records/{id}", Account, Database, Refuse, external_auths::delete)),
        route(Get,    "/api/collections/{collection}/views/{slug}",    Rules,  Database, Serve,  views::list),

        route(Get,    "/api/collections/{collection}/auth-methods",    Public, Database, Serve,  accounts::methods),
        small(route(Post,   "/api/collections/{collection}/auth-with-password",     Public,  Database, Serve,  accounts::auth_with_password)),
        route(Post,   "/api/collections/{collection}/auth-with-oauth2",       Public,  Database, Refuse, oauth::auth_with_oauth2),
        small(route(Post,   "/api/collections/{collection}/request-otp",            Public,  Database, Refuse, codes::request_otp)),
        small(route(Post,   "/api/collections/{collection}/auth-with-otp",          Public,  Database, Refuse, codes::auth_with_otp)),
        small(route(Post,   "/api/collections/{collection}/auth-refresh",           Account, Database, Serve,  accounts::auth_refresh)),
        small(route(Post,   "/api/collections/{collection}/impersonate/{id}",       Admin,   Database, Serve,  accounts::impersonate)),
        small(route(Post,   "/api/collections/{collection}/request-verification",   Public,  Database, Refuse, accounts::request_verification)),
        small(route(Post,   "/api/collections/{collection}/confirm-verification",   Public,  Database, Refuse, accounts::confirm_verification)),
        small(route(Post,   "/api/collections/{collection}/request-password-reset", Public,  Database, Refuse, accounts::request_password_reset)),
        small(route(Post,   "/api/collections/{collection}/confirm-password-reset", Public,  Database, Refuse, accounts::confirm_password_reset)),
        small(route(Post,   "/api/collections/{collection}/request-email-change",   Account, Database, Refuse, accounts::request_email_change)),
        small(route(Post,   "/api/collections/{collection}/confirm-email-change",   Public,  Database, Refuse, accounts::confirm_email_change)),

        route(Get,    "/api/auth/oauth2/{provider}",                   Public,  Database, Refuse, oauth_redirect::begin),
        small(route(Post,   "/api/auth/code",                          Public,  Database, Refuse, oauth_redirect::exchange)),
        route(Get,    "/api/collections/{collection}/auth-with-oauth2/{provider}", Public, Database, Refuse, oauth_redirect::begin),
        small(route(Post,   "/api/collections/{collection}/auth-with-code", Public, Database, Refuse, oauth_redirect::exchange)),
        route(Get,    "/api/oauth2-redirect",                          Public,  Database, Own,    oauth_redirect::redirect),
        small(route(Post,   "/api/oauth2-redirect",                    Public,  Database, Own,    oauth_redirect::redirect)),

        with_files(Batch, route(Post,   "/api/batch",                                    Rules,  Database, Refuse, batch::run)),

        route(Get,    "/api/files",                                    Admin,   Database, Own,   file_usage::get),
        route(Get,    "/api/files/{collection}/{record}/{file}",       Public,  Database, Serve, files::get),
        small(route(Post,   "/api/files/token",                        Account, Database, Serve, files::token)),

        route(Get,    "/api/replica/files",                            Replica, Server,  Refuse, replicated_files::list),
        route(Get,    "/api/replica/files/manifest",                   Replica, Server,  Refuse, replicated_files::manifest),
        small(route(Post,   "/api/replica/files/ack",                  Replica, Server,  Refuse, replicated_files::acknowledge)),
        route(Get,    "/api/replica/file/{database}/{collection}/{record}/{file}", Replica, Server, Refuse, replicated_files::file),

        route(Get,    "/api/replica/databases",                        Replica, Server,  Refuse, replicated_databases::list),
        route(Get,    "/api/replica/databases/{name}/pages",           Replica, Server,  Refuse, replicated_databases::pages),
        route(Post,   "/api/replica/databases/{name}/pages",           Replica, Server,  Refuse, replicated_databases::differing),
        route(Post,   "/api/replica/databases/{name}/compare",         Replica, Server,  Refuse, replicated_databases::compare),
        route(Get,    "/api/replica/answers/{tag}",                    Replica, Server,  Refuse, replicated_databases::resume),
        route(Post,   "/api/replica/ack",                              Replica, Server,  Refuse, replicated_databases::acknowledge),
        route(Get,    "/api/replica/ws",                               Replica, Server,  Refuse, replicated_databases::listen),
        route(Get,    "/api/replica/status",                           Watch,   Server,  Own,    replicated_databases::status),

        route(Post,   "/api/workflow/runs",                            Rules,  Database, Own,    workflow_starts::trigger),
        route(Post,   "/api/workflow/trigger/{workflow}",              Rules,  Database, Own,    workflow_starts::trigger_short),
        route(Get,    "/api/workflow/runs",                            Work,   Server,   Own,    workflows::list),
        route(Get,    "/api/workflow/runs/{run}",                      Work,   Server,   Own,    workflows::get),
        route(Get,    "/api/workflow/runs/{run}/input",                Work,   Server,   Own,    workflows::input),
        route(Get,    "/api/workflow/runs/{run}/steps",                Work,   Server,   Own,    workflows::steps),
        route(Get,    "/api/workflow/runs/{run}/events",               Work,   Server,   Own,    workflows::events),
        route(Get,    "/api/workflow/runs/{run}/journal",              Work,   Server,   Own,    workflows::journal),
        route(Get,    "/api/workflow/runs/{run}/streams/{name}",       Work,   Server,   Own,    workflows::stream),
        small(route(Post,   "/api/workflow/runs/{run}/cancel",         Work,   Server,   Own,    workflows::cancel)),
        small(route(Post,   "/api/workflow/runs/{run}/retry",          Work,   Server,   Own,    workflows::retry)),
        small(route(Post,   "/api/workflow/runs/{run}/fork",           Work,   Server,   Own,    workflows::fork)),
        route(Post,   "/api/workflow/runs/{run}/events",               Work,   Server,   Own,    workflows::write_event),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/workflow/bulk/cancel",               Work,   Server,   Own,    workflows::cancel_many)),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/workflow/bulk/retry",                Work,   Server,   Own,    workflows::retry_many)),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/workflow/bulk/fork",                 Work,   Server,   Own,    workflows::fork_many)),
        route(Post,   "/api/workflow/report",                          Work,   Server,   Own,    workflows::report),
        route(Post,   "/api/workflow/hooks/{token}",                   Public, Server,   Own,    workflows::hook),
        route(Get,    "/api/workflow/workers",                         Work,   Server,   Own,    workflows::workers),
        route(Get,    "/api/workflow/queue",                           Work,   Server,   Own,    workflows::queue),
        route(Get,    "/api/workflow/ws",                              Public, Server,   Own,    workflows::listen),

        route(Get,    "/api/realtime",                                 Public, Database, Own,    realtime::listen),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/realtime",                                 Public, Database, Own,    realtime::set_topics)),

        route(Get,    "/api/webhooks",                                 Admin,  Database, Serve,  webhooks::list),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/webhooks",                                 Admin,  Database, Refuse, webhooks::create)),
        route(Get,    "/api/webhooks/secret",                          Admin,  Server,   Serve,  webhooks::secret),
        route(Get,    "/api/webhooks/logs",                            Admin,  Database, Serve,  webhooks::logs),
        route(Get,    "/api/webhooks/logs/{id}",                       Admin,  Database, Serve,  webhooks::log),
        small(route(Post,   "/api/webhooks/logs/retry",                Admin,  Database, Refuse, webhooks::retry)),
        route(Get,    "/api/webhooks/{id}",                            Admin,  Database, Serve,  webhooks::get),
        at_most(MEDIUM_BODY_BYTES, route(Patch,  "/api/webhooks/{id}",                            Admin,  Database, Refuse, webhooks::update)),
        small(route(Delete, "/api/webhooks/{id}",                      Admin,  Database, Refuse, webhooks::delete)),
        route(Post,   "/api/webhooks/{id}/call",                       Admin,  Database, Refuse, webhooks::call),

        route(Get,    "/api/cron",                                     Admin,   Server,  Own,    cron::list),
        at_most(MEDIUM_BODY_BYTES, route(Post,   "/api/cron",                                     Admin,   Server,  Refuse, cron::create)),
        route(Get,    "/api/cron/{id}",                                Admin,   Server,  Own,    cron::get),
        at_most(MEDIUM_BODY_BYTES, route(Patch,  "/api/cron/{id}",                                Admin,   Server,  Refuse, cron::update)),
        small(route(Delete, "/api/cron/{id}",                          Admin,   Server,  Refuse, cron::delete)),
        small(route(Post,   "/api/cron/{id}/run",                      Operate, Server,  Own,    cron::run)),
        route(Get,    "/api/cron/{id}/runs",                           Admin,   Server,  Own,    cron::runs),

        route(Get,    "/api/stats",                                    Watch,  Server,   Own,    stats::get),
        route(Get,    "/metrics",                                      Watch,  Server,   Own,    metrics::get),
        route(Get,    "/auth/confirm",                                 Public, Server,   Own,    accounts::confirm_page),
        route(Get,    "/sdk.js",                                       Public, Server,   Own,    sdk::client),
        route(Get,    "/",                                             Public, Server,   Own,    dashboard::root),
        route(Get,    "/installer",                                    Public, Server,   Own,    dashboard::installer),
        route(Get,    "/_/*rest",                                      Public, Server,   Own,    dashboard::get),
    ]
};
