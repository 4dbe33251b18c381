//! Access to endpoints: every endpoint of `vski routes`, for every kind of caller.
//!
//! Each endpoint has a row here with the callers that are admitted and their answers; a new
//! endpoint fails the test until it has one. The requests change nothing even for an admitted
//! caller: they name something that does not exist, or their body is incomplete.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::server::{Server, VSKI};
use crate::support::sqlite_for_writing;
use crate::support::token::{SECRET, replica, resigned};

/// All callers, in the order in which [`Admits::Each`] has their answers.
const CALLERS: [&str; 17] = [
    "nobody",
    "user",
    "other user",
    "admin",
    "key to read",
    "key to write",
    "key to databases",
    "key to collections",
    "key to services",
    "service token",
    "key to another database",
    "expired key",
    "expired token",
    "forged token",
    "token of a mail",
    "user of another database",
    "replica",
];

/// Invalid credentials are refused before any other check.
const WORTHLESS: [&str; 6] = [
    "expired key",
    "expired token",
    "forged token",
    "token of a mail",
    "user of another database",
    // Such a token is valid only for the endpoints of replicas.
    "replica",
];

/// The callers that get past 401 and 403, and their answer.
enum Admits {
    /// Everyone, with any credentials.
    All(u16),
    /// Everyone but callers with invalid credentials or credentials for another database.
    Identified(u16),
    /// Accounts; and what admins, who are none, get.
    Accounts(u16, u16),
    Admins(u16),
    /// Admins, and the command line.
    Operators(u16),
    Replicas(u16),
    /// Admins, service tokens, replicas.
    Watchers(u16),
    /// Admins, service tokens, keys to services.
    Workers(u16),
    /// Admins, and the key named.
    AdminsAnd(&'static str, u16),
    /// Callers that the rules admit: the answer to each of [`CALLERS`].
    Each([u16; 17]),
}

struct Row {
    /// Method and path as `vski routes` has them.
    route: &'static str,
    /// The path of the request, in place of the pattern.
    path: &'static str,
    body: &'static str,
    admits: Admits,
}

const fn row(route: &'static str, path: &'static str, body: &'static str, admits: Admits) -> Row {
    Row {
        route,
        path,
        body,
        admits,
    }
}

/// The answer to each of [`CALLERS`] about records that do not exist or are not theirs.
const LISTS: [u16; 17] = [
    200, 200, 200, 200, 200, 403, 403, 403, 403, 200, 403, 401, 401, 401, 401, 401, 401,
];
const READS: [u16; 17] = [
    404, 200, 404, 200, 200, 403, 403, 403, 403, 404, 403, 401, 401, 401, 401, 401, 401,
];
const MAKES: [u16; 17] = [
    400, 400, 400, 400, 403, 400, 403, 403, 403, 400, 403, 401, 401, 401, 401, 401, 401,
];
const CHANGES: [u16; 17] = [
    404, 200, 404, 200, 403, 200, 403, 403, 403, 404, 403, 401, 401, 401, 401, 401, 401,
];
const DELETES: [u16; 17] = [
    404, 404, 404, 404, 403, 404, 403, 403, 403, 404, 403, 401, 401, 401, 401, 401, 401,
];
/// Runs that are about no record.
const RUNS: [u16; 17] = [
    401, 403, 403, 400, 403, 403, 403, 403, 400, 400, 403, 401, 401, 401, 401, 401, 401,
];
/// A refused request in a batch is an error of the batch.
const BATCHES: [u16; 17] = [
    400, 400, 400, 400, 400, 400, 400, 400, 400, 400, 403, 401, 401, 401, 401, 401, 401,
];

#[rustfmt::skip]
const ROWS: [Row; 153] = {
    use Admits::{Accounts, Admins, AdminsAnd, All, Each, Identified, Operators, Replicas, Watchers, Workers};
    [
        row("GET /api/health", "/api/health", "", All(200)),
        row("GET /api/crons", "/api/crons", "", Admins(200)),
        row("POST /api/crons/{id}", "/api/crons/none", "", Admins(404)),
        row("GET /api/backups", "/api/backups", "", Admins(200)),
        row("POST /api/backups", "/api/backups", r#"{"name":"x"}"#, Admins(400)),
        row("POST /api/backups/upload", "/api/backups/upload", "{}", Admins(400)),
        row("GET /api/backups/{key}", "/api/backups/none.zip", "", All(403)),
        row("DELETE /api/backups/{key}", "/api/backups/none.zip", "", Admins(400)),
        row("POST /api/backups/{key}/restore", "/api/backups/none.zip/restore", "{}", Admins(400)),
        row("GET /api/logs", "/api/logs", "", Admins(200)),
        row("DELETE /api/logs", "/api/logs", "", Admins(204)),
        row("POST /api/collections/meta/dry-run-view", "/api/collections/meta/dry-run-view", "{}", Admins(400)),
        row("GET /api/logs/stats", "/api/logs/stats", "", Admins(200)),
        row("GET /api/logs/{id}", "/api/logs/none", "", Admins(404)),
        row("GET /api/settings", "/api/settings", "", Admins(200)),
        row("GET /api/settings/options", "/api/settings/options", "", Admins(200)),
        row("POST /api/sql", "/api/sql", "{}", Admins(400)),
        row("PATCH /api/settings", "/api/settings", r#"{"smtp":{}}"#, Admins(400)),
        row("POST /api/settings/test/s3", "/api/settings/test/s3", "{}", Admins(400)),
        row("POST /api/settings/test/email", "/api/settings/test/email", "{}", Admins(400)),
        row("GET /api/collections/_superusers/records", "/api/collections/_superusers/records", "", Admins(200)),
        row("GET /api/collections/_superusers/records/{id}", "/api/collections/_superusers/records/none", "", Admins(404)),
        row("POST /api/collections/_superusers/records", "/api/collections/_superusers/records", "{}", Admins(400)),
        row("PATCH /api/collections/_superusers/records/{id}", "/api/collections/_superusers/records/none", "{}", Admins(404)),
        row("DELETE /api/collections/_superusers/records/{id}", "/api/collections/_superusers/records/none", "", Admins(404)),
        row("POST /api/collections/{collection}/impersonate/{id}", "/api/collections/_users/impersonate/none", "{}", Admins(404)),
        row("GET /", "/", "", All(200)),
        row("GET /installer", "/installer", "", All(302)),
        row("GET /_/*rest", "/_/", "", All(200)),
        row("GET /sdk.js", "/sdk.js", "", All(200)),
        row("GET /auth/confirm", "/auth/confirm", "", All(200)),
        row("GET /api/files", "/api/files", "", Admins(200)),
        row("GET /api/files/{collection}/{record}/{file}", "/api/files/notes/note/none", "", All(404)),
        row("GET /api/collections/_externalAuths/records", "/api/collections/_externalAuths/records", "", Accounts(200, 400)),
        row("DELETE /api/collections/_externalAuths/records/{id}", "/api/collections/_externalAuths/records/none", "", Accounts(404, 404)),
        row("GET /api/auth/oauth2/{provider}", "/api/auth/oauth2/none", "", All(400)),
        row("POST /api/auth/code", "/api/auth/code", "{}", All(400)),
        row("GET /api/collections/{collection}/auth-with-oauth2/{provider}", "/api/collections/users/auth-with-oauth2/none", "", All(400)),
        row("POST /api/collections/{collection}/auth-with-code", "/api/collections/users/auth-with-code", "{}", All(400)),
        row("GET /api/oauth2-redirect", "/api/oauth2-redirect?state=none&code=none", "", All(400)),
        row("POST /api/oauth2-redirect", "/api/oauth2-redirect", r#"{"state":"none","code":"none"}"#, All(400)),
        row("POST /api/files/token", "/api/files/token", "", Accounts(200, 200)),

        row("GET /api/replica/files", "/api/replica/files", "", Replicas(200)),
        row("GET /api/replica/files/manifest", "/api/replica/files/manifest", "", Replicas(200)),
        row("GET /api/replica/file/{database}/{collection}/{record}/{file}", "/api/replica/file/default/a/b/c", "", Replicas(410)),
        row("GET /api/replica/databases", "/api/replica/databases", "", Replicas(200)),
        row("GET /api/replica/databases/{name}/pages", "/api/replica/databases/local/pages?epoch=0123456789abcdef0123456789abcdef&since=0", "", Replicas(404)),
        row("POST /api/replica/databases/{name}/pages", "/api/replica/databases/none/pages?epoch=0123456789abcdef0123456789abcdef&since=1", "x", Replicas(400)),
        row("POST /api/replica/databases/{name}/compare", "/api/replica/databases/default/compare", "x", Replicas(400)),
        row("GET /api/replica/answers/{tag}", "/api/replica/answers/none", "", Replicas(404)),
        row("POST /api/replica/ack", "/api/replica/ack", "{}", Replicas(400)),
        row("GET /api/replica/ws", "/api/replica/ws", "", Replicas(400)),
        row("GET /api/replica/status", "/api/replica/status", "", Watchers(200)),
        row("GET /api/cron", "/api/cron", "", Admins(200)),
        row("POST /api/cron", "/api/cron", "{}", Admins(400)),
        row("GET /api/cron/{id}", "/api/cron/none", "", Admins(404)),
        row("PATCH /api/cron/{id}", "/api/cron/none", "{}", Admins(404)),
        row("DELETE /api/cron/{id}", "/api/cron/none", "", Admins(404)),
        row("POST /api/cron/{id}/run", "/api/cron/none/run", "", Operators(404)),
        row("GET /api/cron/{id}/runs", "/api/cron/none/runs", "", Admins(404)),
        row("GET /api/stats", "/api/stats", "", Watchers(200)),
        row("GET /metrics", "/metrics", "", Watchers(200)),
        row("POST /api/replica/files/ack", "/api/replica/files/ack", r#"{"id":-1}"#, Replicas(400)),

        row("POST /api/workflow/runs", "/api/workflow/runs", r#"{"workflow":"no name"}"#, Each(RUNS)),
        row("POST /api/workflow/trigger/{workflow}", "/api/workflow/trigger/no%20name", "[]", Each(RUNS)),
        row("GET /api/workflow/runs", "/api/workflow/runs", "", Workers(200)),
        row("GET /api/workflow/runs/{run}", "/api/workflow/runs/none", "", Workers(404)),
        row("GET /api/workflow/runs/{run}/input", "/api/workflow/runs/none/input", "", Workers(404)),
        row("GET /api/workflow/runs/{run}/steps", "/api/workflow/runs/none/steps", "", Workers(404)),
        row("GET /api/workflow/runs/{run}/events", "/api/workflow/runs/none/events", "", Workers(404)),
        row("GET /api/workflow/runs/{run}/journal", "/api/workflow/runs/none/journal", "", Workers(404)),
        row("GET /api/workflow/runs/{run}/streams/{name}", "/api/workflow/runs/none/streams/none", "", Workers(404)),
        row("POST /api/workflow/runs/{run}/cancel", "/api/workflow/runs/none/cancel", "", Workers(404)),
        row("POST /api/workflow/runs/{run}/retry", "/api/workflow/runs/none/retry", "", Workers(404)),
        row("POST /api/workflow/runs/{run}/fork", "/api/workflow/runs/none/fork", "", Workers(404)),
        row("POST /api/workflow/runs/{run}/events", "/api/workflow/runs/none/events", r#"{"type":"run_cancelled"}"#, Workers(404)),
        row("POST /api/workflow/bulk/cancel", "/api/workflow/bulk/cancel", "{}", Workers(400)),
        row("POST /api/workflow/bulk/retry", "/api/workflow/bulk/retry", "{}", Workers(400)),
        row("POST /api/workflow/bulk/fork", "/api/workflow/bulk/fork", "{}", Workers(400)),
        row("POST /api/workflow/report", "/api/workflow/report", "{}", Workers(400)),
        row("POST /api/workflow/hooks/{token}", "/api/workflow/hooks/none", "{}", All(404)),
        row("GET /api/workflow/workers", "/api/workflow/workers", "", Workers(200)),
        row("GET /api/workflow/queue", "/api/workflow/queue", "", Workers(200)),
        row("GET /api/workflow/ws", "/api/workflow/ws", "", All(400)),
        row("GET /api/realtime", "/api/realtime", "", Identified(200)),
        row("POST /api/realtime", "/api/realtime", "{}", All(400)),

        row("GET /api/webhooks", "/api/webhooks", "", Admins(200)),
        row("POST /api/webhooks", "/api/webhooks", "{}", Admins(400)),
        row("GET /api/webhooks/secret", "/api/webhooks/secret", "", Admins(200)),
        row("GET /api/webhooks/logs", "/api/webhooks/logs", "", Admins(200)),
        row("GET /api/webhooks/logs/{id}", "/api/webhooks/logs/1", "", Admins(404)),
        row("POST /api/webhooks/logs/retry", "/api/webhooks/logs/retry", "{}", Admins(400)),
        row("GET /api/webhooks/{id}", "/api/webhooks/none", "", Admins(404)),
        row("PATCH /api/webhooks/{id}", "/api/webhooks/none", "{}", Admins(404)),
        row("DELETE /api/webhooks/{id}", "/api/webhooks/none", "", Admins(404)),
        row("POST /api/webhooks/{id}/call", "/api/webhooks/none/call", "{}", Admins(404)),

        row("POST /api/admins/init", "/api/admins/init", "{}", All(400)),
        row("POST /api/admins/login", "/api/admins/login", "{}", All(400)),
        row("POST /api/admins/refresh", "/api/admins/refresh", "", Admins(200)),
        row("GET /api/admins", "/api/admins", "", Admins(200)),
        row("POST /api/admins", "/api/admins", "{}", Admins(400)),
        row("PATCH /api/admins/{id}", "/api/admins/none", "{}", Admins(404)),
        row("DELETE /api/admins/{id}", "/api/admins/none", "", Admins(404)),

        row("GET /api/keys", "/api/keys", "", Admins(200)),
        row("POST /api/keys", "/api/keys", "{}", Admins(400)),
        row("DELETE /api/keys/{id}", "/api/keys/none", "", Admins(404)),

        row("POST /api/auth/login", "/api/auth/login", "{}", All(400)),
        row("POST /api/auth/register", "/api/auth/register", "{}", Each(MAKES)),
        row("POST /api/auth/refresh", "/api/auth/refresh", "", Accounts(200, 200)),
        row("GET /api/auth/me", "/api/auth/me", "", Accounts(200, 200)),
        row("POST /api/auth/password", "/api/auth/password", "{}", Accounts(400, 403)),
        row("POST /api/auth/request-verification", "/api/auth/request-verification", "{}", All(400)),
        row("POST /api/auth/request-password-reset", "/api/auth/request-password-reset", "{}", All(400)),
        row("POST /api/auth/request-email-change", "/api/auth/request-email-change", "{}", Accounts(400, 400)),
        row("POST /api/auth/confirm", "/api/auth/confirm", "{}", All(400)),
        row("POST /api/auth/confirm-verification", "/api/auth/confirm-verification", "{}", All(400)),
        row("POST /api/auth/confirm-password-reset", "/api/auth/confirm-password-reset", "{}", All(400)),
        row("POST /api/auth/confirm-email-change", "/api/auth/confirm-email-change", "{}", All(400)),
        row("POST /api/auth/service-token", "/api/auth/service-token", "", AdminsAnd("key to services", 200)),

        row("GET /api/databases", "/api/databases", "", AdminsAnd("key to databases", 200)),
        row("POST /api/databases", "/api/databases", "{}", AdminsAnd("key to databases", 400)),
        row("DELETE /api/databases/{name}", "/api/databases/none", "", AdminsAnd("key to databases", 404)),

        row("POST /api/databases/{name}/purge", "/api/databases/none/purge", "", Admins(404)),

        row("GET /api/collections", "/api/collections", "", AdminsAnd("key to collections", 200)),
        row("POST /api/collections", "/api/collections", "{}", AdminsAnd("key to collections", 400)),
        row("PUT /api/collections/import", "/api/collections/import", "{}", AdminsAnd("key to collections", 400)),
        row("GET /api/collections/meta/oauth2-providers", "/api/collections/meta/oauth2-providers", "", AdminsAnd("key to collections", 200)),
        row("GET /api/collections/meta/scaffolds", "/api/collections/meta/scaffolds", "", AdminsAnd("key to collections", 200)),
        row("DELETE /api/collections/{collection}/truncate", "/api/collections/none/truncate", "", AdminsAnd("key to collections", 404)),
        row("GET /api/collections/{collection}", "/api/collections/notes", "", AdminsAnd("key to collections", 200)),
        row("PATCH /api/collections/{collection}", "/api/collections/notes", r#"{"x":1}"#, AdminsAnd("key to collections", 400)),
        row("DELETE /api/collections/{collection}", "/api/collections/none", "", AdminsAnd("key to collections", 404)),

        row("GET /api/collections/{collection}/records", "/api/collections/notes/records", "", Each(LISTS)),
        row("POST /api/collections/{collection}/records", "/api/collections/notes/records", "{}", Each(MAKES)),
        row("PATCH /api/collections/{collection}/records", "/api/collections/notes/records", r#"{"ids":["note"],"data":{}}"#, Each(CHANGES)),
        row("DELETE /api/collections/{collection}/records", "/api/collections/notes/records", r#"{"ids":["none"]}"#, Each(DELETES)),
        row("GET /api/collections/{collection}/records/{id}", "/api/collections/notes/records/note", "", Each(READS)),
        row("PATCH /api/collections/{collection}/records/{id}", "/api/collections/notes/records/note", "{}", Each(CHANGES)),
        row("DELETE /api/collections/{collection}/records/{id}", "/api/collections/notes/records/none", "", Each(DELETES)),
        row("POST /api/batch", "/api/batch", r#"{"requests":[{"method":"DELETE","url":"/api/collections/notes/records/none"}]}"#, Each(BATCHES)),

        row("GET /api/collections/{collection}/views/{slug}", "/api/collections/notes/views/all", "", Each(LISTS)),
        row("GET /api/collections/{collection}/auth-methods", "/api/collections/users/auth-methods", "", All(200)),
        row("POST /api/collections/{collection}/auth-with-password", "/api/collections/users/auth-with-password", "{}", All(400)),
        row("POST /api/collections/{collection}/auth-with-oauth2", "/api/collections/users/auth-with-oauth2", "{}", All(403)),
        row("POST /api/collections/{collection}/request-otp", "/api/collections/users/request-otp", "{}", All(403)),
        row("POST /api/collections/{collection}/auth-with-otp", "/api/collections/users/auth-with-otp", "{}", All(403)),
        row("POST /api/collections/{collection}/auth-refresh", "/api/collections/users/auth-refresh", "", Accounts(200, 403)),
        row("POST /api/collections/{collection}/request-verification", "/api/collections/users/request-verification", "{}", All(400)),
        row("POST /api/collections/{collection}/confirm-verification", "/api/collections/users/confirm-verification", "{}", All(400)),
        row("POST /api/collections/{collection}/request-password-reset", "/api/collections/users/request-password-reset", "{}", All(400)),
        row("POST /api/collections/{collection}/confirm-password-reset", "/api/collections/users/confirm-password-reset", "{}", All(400)),
        row("POST /api/collections/{collection}/request-email-change", "/api/collections/users/request-email-change", "{}", Accounts(400, 400)),
        row("POST /api/collections/{collection}/confirm-email-change", "/api/collections/users/confirm-email-change", "{}", All(400)),
    ]
};

/// The answer that a row gives to a caller.
fn expected(admits: &Admits, caller: &str) -> u16 {
    let is_account = ["user", "other user"].contains(&caller);
    let refused = match caller {
        "nobody" => 401,
        _ if WORTHLESS.contains(&caller) => 401,
        _ => 403,
    };
    match admits {
        Admits::All(status) => *status,
        Admits::Identified(_) if WORTHLESS.contains(&caller) => 401,
        Admits::Identified(_) if caller == "key to another database" => 403,
        Admits::Identified(status) => *status,
        Admits::Replicas(status) if caller == "replica" => *status,
        Admits::Watchers(status) if ["admin", "service token", "replica"].contains(&caller) => {
            *status
        }
        Admits::Workers(status)
            if ["admin", "service token", "key to services"].contains(&caller) =>
        {
            *status
        }
        // It is not about who they are.
        Admits::Replicas(_) => 401,
        Admits::Accounts(_, admin) if caller == "admin" => *admin,
        Admits::Accounts(status, _) if is_account => *status,
        Admits::Admins(status) | Admits::Operators(status) | Admits::AdminsAnd(_, status)
            if caller == "admin" =>
        {
            *status
        }
        Admits::AdminsAnd(key, status) if caller == *key => *status,
        Admits::Each(answers) => answers[CALLERS.iter().position(|it| *it == caller).unwrap()],
        _ => refused,
    }
}

/// The name of the admitted callers in `vski routes`.
fn access(admits: &Admits) -> &'static str {
    match admits {
        Admits::All(_) | Admits::Identified(_) => "public",
        Admits::Accounts(..) => "account",
        Admits::Admins(_) => "admin",
        Admits::Operators(_) => "operate",
        Admits::Replicas(_) => "replica",
        Admits::Watchers(_) => "watch",
        Admits::Workers(_) => "work",
        Admits::AdminsAnd("key to services", _) => "service",
        Admits::AdminsAnd("key to databases", _) => "databases",
        Admits::AdminsAnd(..) => "collections",
        Admits::Each(_) => "rules",
    }
}

#[test]
fn every_endpoint_answers_every_caller_as_its_row_says() {
    let server = Server::with(&[("JWT_SECRET", SECRET), ("AUTH_COLLECTION", "users")]);
    let callers = callers(&server);
    let mut wrong = Vec::new();
    for row in &ROWS {
        let method = row.route.split(' ').next().unwrap();
        for (name, api) in &callers {
            let reply = api.send(method, row.path, row.body).unwrap();
            let expected = expected(&row.admits, name);
            if reply.status != expected {
                let body = String::from_utf8_lossy(&reply.body).into_owned();
                wrong.push(format!(
                    "{} for {name}: {} and not {expected}: {body}",
                    row.route, reply.status
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Whose the records are shows in the lists.
    for (name, count) in [
        ("nobody", 0),
        ("user", 1),
        ("other user", 0),
        ("key to read", 1),
    ] {
        let list = callers[name].list("notes", &[]).expect(200);
        assert_eq!(list.json["totalItems"], count, "{name}");
    }
}

/// Lists of runs and statistics refused parameters that they do not have and all else passed them
/// over: a client that adds one to each request, against caches, could use only a part of the API.
#[test]
fn parameters_that_an_endpoint_does_not_have_are_passed_over() {
    let server = Server::with(&[("JWT_SECRET", SECRET), ("AUTH_COLLECTION", "users")]);
    let callers = callers(&server);
    for row in ROWS.iter().filter(|row| row.route.starts_with("GET ")) {
        let name = match row.admits {
            Admits::Replicas(_) => "replica",
            _ => "admin",
        };
        let sign = if row.path.contains('?') { '&' } else { '?' };
        for more in ["_=1", "nonsense=x&nonsense=y", "token=nonsense", "%C3%A9"] {
            let reply = callers[name].get(&format!("{}{sign}{more}", row.path));
            assert_eq!(
                reply.status,
                expected(&row.admits, name),
                "{} {more}",
                row.route
            );
        }
    }
}

#[test]
fn every_endpoint_has_a_row() {
    let output = Command::new(VSKI).arg("routes").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let listed: BTreeMap<String, String> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (format!("{} {}", words[0], words[1]), words[2].to_owned())
        })
        .collect();
    let rows = ROWS
        .iter()
        .map(|row| (row.route.to_owned(), access(&row.admits).to_owned()));
    assert_eq!(listed, rows.collect());
}

/// A client for each of [`CALLERS`].
fn callers(server: &Server) -> BTreeMap<&'static str, Api> {
    let (api, admin) = (server.api(), server.admin());
    make_collections(&admin);
    let (id, user) = sign_in(&api, "/api", "user@example.com");
    let (_, other) = sign_in(&api, "/api", "other@example.com");
    let (_, elsewhere) = sign_in(&api, "/db/shop/api", "user@example.com");
    let note = json!({"id": "note", "owner": id, "title": "mine"});
    let notes = "/api/collections/notes/records";
    admin.post(notes, note).expect(200);
    let key = |scopes: &[&str], databases: Value| {
        let body = json!({"name": scopes.join(" "), "scopes": scopes, "databases": databases});
        let made = admin.post("/api/keys", body).expect(200);
        made.text("/key").to_owned()
    };
    let services = key(&["service"], Value::Null);
    let service = api.with_token(&services);
    let service = service.post("/api/auth/service-token", "").expect(200);
    let expired = key(&["read", "write", "databases", "collections"], Value::Null);
    let sql = "UPDATE _api_keys SET expires = '2020-01-01T00:00:00.000Z' WHERE name LIKE '% % % %'";
    let database = sqlite_for_writing(&server.dir().join("data/default.db"));
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    let shop = key(&["read", "write", "collections"], json!(["shop"]));
    let past = resigned(&user, SECRET, |claims| claims["exp"] = json!(1));
    let forged = resigned(&user, "another secret of thirty-two bytes", |_| {});
    let mail = resigned(&user, SECRET, |claims| claims["purpose"] = json!("reset"));
    let tokens = [
        ("user", user),
        ("other user", other),
        ("key to read", key(&["read"], Value::Null)),
        ("key to write", key(&["write"], Value::Null)),
        ("key to databases", key(&["databases"], Value::Null)),
        ("key to collections", key(&["collections"], Value::Null)),
        ("key to services", services),
        ("service token", service.text("/token").to_owned()),
        ("key to another database", shop),
        ("expired key", expired),
        ("expired token", past),
        ("forged token", forged),
        ("token of a mail", mail),
        ("user of another database", elsewhere),
    ];
    let tokens = tokens.map(|(name, token)| (name, api.with_token(&token)));
    let plain = [
        ("nobody", server.api()),
        ("admin", server.admin()),
        ("replica", replica(&api, "replica-1")),
    ];
    let callers: BTreeMap<_, _> = tokens.into_iter().chain(plain).collect();
    assert_eq!(callers.len(), CALLERS.len());
    callers
}

fn make_collections(admin: &Api) {
    let shop = json!({"name": "shop"});
    admin.post("/api/databases", shop).expect(200);
    for base in ["/api", "/db/shop/api"] {
        let users = json!({"name": "users", "type": "auth", "createRule": "",
            "viewRule": "id = @request.auth.id"});
        let collections = format!("{base}/collections");
        admin.post(&collections, users).expect(200);
    }
    let rule = "owner = @request.auth.id";
    let owner = json!({"name": "owner", "type": "relation", "collectionId": "users"});
    let title = json!({"name": "title", "type": "text", "required": true});
    let notes = json!({"name": "notes", "fields": [owner, title], "listRule": rule,
        "viewRule": rule, "createRule": rule, "updateRule": rule, "deleteRule": rule,
        "options": {"views": {"all": {"sort": "title"}}}});
    admin.post("/api/collections", notes).expect(200);
}

/// Registers and signs in; returns the id and the token.
fn sign_in(api: &Api, base: &str, email: &str) -> (String, String) {
    let user = json!({"email": email, "password": "password-1"});
    let made = api.post(&format!("{base}/auth/register"), &user);
    let id = made.expect(200).text("/id").to_owned();
    let signed_in = api.post(&format!("{base}/auth/login"), &user).expect(200);
    assert_eq!(signed_in.text("/user/id"), id);
    (id, signed_in.text("/token").to_owned())
}
