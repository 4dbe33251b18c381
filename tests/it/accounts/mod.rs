//! Accounts of auth collections, from registering to a forgotten password.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::{Api, Reply};
use crate::support::server::Server;
use crate::support::wait_until;

mod addresses;
mod attacks;
mod codes;
mod keys;
mod links;
mod log_ins;
mod origins;
mod rules;
mod sent;
mod superusers;

/// An auth collection whose accounts see and change themselves, and a server with it.
fn server() -> Server {
    server_with(&[])
}

/// The same with further settings.
fn server_with(settings: &[(&str, &str)]) -> Server {
    let settings = [&[("AUTH_COLLECTION", "users")], settings].concat();
    let server = Server::with(&settings);
    let own = "id = @request.auth.id";
    let users = json!({"name": "users", "type": "auth", "createRule": "", "viewRule": own,
    "updateRule": own, "deleteRule": own, "listRule": own,
    "options": {"identityFields": ["email", "username"]},
    "fields": [
        {"name": "username", "type": "text", "unique": true},
        {"name": "name", "type": "text"},
        {"name": "groups", "type": "json"},
        {"name": "note", "type": "text", "hidden": true},
    ]});
    server.admin().post("/api/collections", users).expect(200);
    server
}

/// Registers an account; returns its id.
fn register(server: &Server, name: &str) -> String {
    let user = json!({"email": format!("{name}@example.com"), "username": name,
        "password": "password-1", "passwordConfirm": "password-1", "name": name});
    let made = server.api().post("/api/auth/register", user).expect(200);
    made.text("/id").to_owned()
}

fn log_in(server: &Server, identity: &str, password: &str) -> Reply {
    let body = json!({"identity": identity, "password": password});
    server.api().post("/api/auth/login", body)
}

fn signed_in(server: &Server, name: &str) -> Api {
    let reply = log_in(server, &format!("{name}@example.com"), "password-1").expect(200);
    server.api().with_token(reply.text("/token"))
}

/// The token of the link in the last mail to an address, which the log has if there is no server
/// for mail.
fn token_of_mail(server: &Server, to: &str) -> String {
    let mut found = None;
    wait_until("a mail is logged", || {
        let log = server.log();
        let line = log
            .iter()
            .rev()
            .find(|line| line.contains(to) && line.contains("link="));
        found = line.map(|line| {
            let token = line.split("/auth/confirm#").nth(1).unwrap();
            token.split([' ', '"']).next().unwrap().to_owned()
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn an_account_registers_signs_in_and_sees_itself() {
    let server = server();
    let id = register(&server, "ann");
    for identity in ["ann@example.com", "ANN@Example.com", "ann"] {
        let reply = log_in(&server, identity, "password-1").expect(200);
        assert_eq!(reply.text("/user/id"), id, "{identity}");
        assert_eq!(reply.header("Cache-Control"), Some("no-store"));
    }
    let body = json!({"identity": "ann", "password": "password-1", "identityField": "email"});
    server.api().post("/api/auth/login", body).expect(401);
    // An account whose name is the address of another does not keep that one from signing in.
    let options = json!({"options": {"identityFields": ["username", "email"]}});
    let admin = server.admin();
    admin.patch("/api/collections/users", options).expect(200);
    let eve = json!({"email": "eve@example.com", "username": "ann@example.com",
        "password": "password-2"});
    server.api().post("/api/auth/register", eve).expect(200);
    let eve = log_in(&server, "ann@example.com", "password-2").expect(200);
    assert_eq!(eve.text("/user/email"), "eve@example.com");
    let ann = signed_in(&server, "ann");
    let me = ann.get("/api/auth/me").expect(200);
    assert_eq!(
        (me.text("/id"), me.text("/email")),
        (id.as_str(), "ann@example.com")
    );
    assert_eq!(me.json["verified"], false);
    for hidden in ["password", "note"] {
        assert_eq!(me.json.get(hidden), None, "{hidden}");
    }
    let refreshed = ann.post("/api/auth/refresh", "").expect(200);
    server
        .api()
        .with_token(refreshed.text("/token"))
        .get("/api/auth/me")
        .expect(200);
    // As PocketBase has it.
    let base = "/api/collections/users";
    let body = json!({"identity": "ann", "password": "password-1"});
    let reply = server
        .api()
        .post(&format!("{base}/auth-with-password"), body)
        .expect(200);
    assert_eq!(reply.text("/record/collectionName"), "users");
    let fields = server
        .api()
        .get(&format!("{base}/auth-methods"))
        .expect(200);
    assert_eq!(
        fields.json["password"]["identityFields"],
        json!(["username", "email"])
    );
    // The account is deleted, and its tokens with it.
    ann.delete(&format!("{base}/records/{id}")).expect(204);
    ann.get("/api/auth/me").expect(401);
}

#[test]
fn wrong_credentials_are_all_answered_alike() {
    let server = server();
    register(&server, "ann");
    let wrong = log_in(&server, "ann@example.com", "wrong").expect(401);
    for (identity, password) in [
        ("nobody@example.com", "wrong"),
        ("nobody@example.com", "password-1"),
        ("", ""),
        ("ann@example.com", ""),
        ("ann@example.com", "x".repeat(10_000).as_str()),
    ] {
        let other = log_in(&server, identity, password).expect(401);
        assert_eq!(other.body, wrong.body, "{identity}");
    }
    let names = |reply: &Reply| -> Vec<String> {
        reply.headers.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&log_in(&server, "nobody", "x")), names(&wrong));
}

#[test]
fn failures_are_throttled_and_success_is_not() {
    let server = server();
    register(&server, "ann");
    register(&server, "bob");
    for _ in 0..25 {
        log_in(&server, "ann", "password-1").expect(200);
    }
    let statuses: Vec<u16> = (0..14)
        .map(|_| log_in(&server, "ann", "wrong").status)
        .collect();
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10..], [429; 4]);
    // The right password waits as well, or guesses would be told from it; others do not.
    let refused = log_in(&server, "ann", "password-1").expect(429);
    let seconds: u64 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    log_in(&server, "bob", "password-1").expect(200);
    let unknown: Vec<u16> = (0..12)
        .map(|_| log_in(&server, "nobody", "x").status)
        .collect();
    assert_eq!(unknown[..10], [401; 10]);
    assert_eq!(unknown[10..], [429; 2]);
}

#[test]
fn an_address_behind_a_trusted_proxy_has_failures_of_its_own() {
    let proxied = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1")]);
    let direct = Server::start();
    let statuses = |server: &Server| -> Vec<u16> {
        server.admin();
        let wrong = json!({"email": "admin@example.com", "password": "wrong"});
        let from = |at: u8| format!("203.0.113.77, 198.51.100.{at}");
        let tries = (0..14).map(|at| server.api().with_header("X-Forwarded-For", &from(at / 9)));
        tries
            .map(|api| api.post("/api/admins/login", &wrong).status)
            .collect()
    };
    assert_eq!(statuses(&proxied), [401; 14]);
    assert_eq!(statuses(&direct)[10..], [429; 4]);
}

#[test]
fn a_new_password_needs_the_old_one_and_ends_all_tokens() {
    let server = server();
    let id = register(&server, "ann");
    let (ann, other) = (signed_in(&server, "ann"), signed_in(&server, "ann"));
    let record = format!("/api/collections/users/records/{id}");
    let new = json!({"password": "password-2", "passwordConfirm": "password-2"});
    let refused = ann.patch(&record, &new).expect(400);
    assert_eq!(
        refused.text("/data/oldPassword/code"),
        "validation_required"
    );
    let mut with_old = new.clone();
    with_old["oldPassword"] = json!("wrong");
    ann.patch(&record, &with_old).expect(400);
    with_old["oldPassword"] = json!("password-1");
    // Not several at once, and not inside a batch without it.
    let bulk = json!({"ids": [id], "data": with_old});
    ann.patch("/api/collections/users/records", bulk)
        .expect(400);
    let batch = json!({"requests": [{"method": "PATCH", "url": record, "body": new}]});
    ann.post("/api/batch", batch).expect(400);
    log_in(&server, "ann", "password-1").expect(200);
    ann.patch(&record, &with_old).expect(200);
    for api in [&ann, &other] {
        api.get("/api/auth/me").expect(401);
    }
    log_in(&server, "ann", "password-1").expect(401);
    let token = log_in(&server, "ann", "password-2")
        .expect(200)
        .text("/token")
        .to_owned();
    // The same by the path that no rule has a say in, which hands out a token at once.
    let ann = server.api().with_token(&token);
    let body = json!({"oldPassword": "password-2", "password": "short"});
    assert!(ann.post("/api/auth/password", body).expect(400).json["data"]["password"].is_object());
    let body = json!({"oldPassword": "password-2", "password": "password-3"});
    let changed = ann.post("/api/auth/password", body).expect(200);
    server
        .api()
        .with_token(changed.text("/token"))
        .get("/api/auth/me")
        .expect(200);
    ann.get("/api/auth/me").expect(401);
    // Admins need no old one.
    server
        .admin()
        .patch(&record, json!({"password": "password-4"}))
        .expect(200);
    log_in(&server, "ann", "password-4").expect(200);
}

#[test]
fn nobody_says_of_themselves_that_they_are_verified_or_in_a_group() {
    let server = server();
    let id = register(&server, "ann");
    let (ann, record) = (
        signed_in(&server, "ann"),
        format!("/api/collections/users/records/{id}"),
    );
    for change in [json!({"verified": true}), json!({"groups": ["staff"]})] {
        ann.patch(&record, &change).expect(400);
        let mut user = json!({"email": "x@example.com", "password": "password-1"});
        user.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        server.api().post("/api/auth/register", user).expect(400);
    }
    let change = json!({"verified": false, "groups": null, "name": "Ann", "emailVisibility": true});
    ann.patch(&record, change).expect(200);
    let unknown = ann.patch(&record, json!({"note": "x"})).expect(200);
    assert_eq!(unknown.header("X-Ignored-Fields"), Some("note"));
    server
        .admin()
        .patch(&record, json!({"verified": true, "groups": ["staff"]}))
        .expect(200);
    // A new address is not a verified one, and needs the password; another case of it does not.
    ann.patch(&record, json!({"email": "ANN@example.com", "name": "x"}))
        .expect(200);
    let ann = signed_in(&server, "ann");
    assert_eq!(ann.get("/api/auth/me").json["verified"], true);
    ann.patch(&record, json!({"email": "new@example.com"}))
        .expect(400);
    let change = json!({"email": "new@example.com", "oldPassword": "password-1"});
    assert_eq!(
        ann.patch(&record, change).expect(200).json["verified"],
        false
    );
    ann.get("/api/auth/me").expect(401);
}

#[test]
fn a_link_in_a_mail_verifies_an_address_once() {
    let server = server();
    let id = register(&server, "ann");
    let api = server.api();
    let ask = |email: &str| api.post("/api/auth/request-verification", json!({"email": email}));
    let unknown = ask("nobody@example.com").expect(204);
    let known = ask("ann@example.com").expect(204);
    assert_eq!(unknown.headers.len(), known.headers.len());
    let token = token_of_mail(&server, "ann@example.com");
    assert!(
        !server
            .log()
            .iter()
            .any(|line| line.contains("nobody@example.com"))
    );
    // A token of a mail does not sign in, and a token of a session does not confirm.
    api.with_token(&token).get("/api/auth/me").expect(401);
    let session = log_in(&server, "ann", "password-1")
        .text("/token")
        .to_owned();
    for wrong in [session.as_str(), "", "x.y.z", &token[..token.len() - 2]] {
        let refused = api.post("/api/auth/confirm-verification", json!({"token": wrong}));
        refused.expect(400);
    }
    api.post(
        "/api/collections/users/confirm-verification",
        json!({"token": token}),
    )
    .expect(204);
    let record = server
        .admin()
        .get(&format!("/api/collections/users/records/{id}"));
    assert_eq!(record.json["verified"], true);
    api.with_token(&session).get("/api/auth/me").expect(200);
    // A verified account gets no further such mails.
    let mails = |server: &Server| {
        server
            .log()
            .iter()
            .filter(|it| it.contains("link="))
            .count()
    };
    let before = mails(&server);
    ask("ann@example.com").expect(204);
    assert_eq!(mails(&server), before);
}

#[test]
fn a_forgotten_password_is_replaced_by_mail() {
    let server = server();
    register(&server, "ann");
    let ann = signed_in(&server, "ann");
    let api = server.api();
    let path = "/api/collections/users/request-password-reset";
    api.post(path, json!({"email": "ann@example.com"}))
        .expect(204);
    let token = token_of_mail(&server, "ann@example.com");
    let confirm = |password: &str, again: &str| {
        let body = json!({"token": token, "password": password, "passwordConfirm": again});
        api.post("/api/collections/users/confirm-password-reset", body)
    };
    confirm("short", "short").expect(400);
    confirm("password-2", "password-3").expect(400);
    confirm("password-2", "password-2").expect(204);
    confirm("password-5", "password-5").expect(400);
    ann.get("/api/auth/me").expect(401);
    log_in(&server, "ann", "password-1").expect(401);
    // A person who can read the mail owns the address.
    assert_eq!(
        log_in(&server, "ann", "password-2").expect(200).json["user"]["verified"],
        true
    );
    // The number of mails to an address is limited.
    let ask = || api.post(path, json!({"email": "ann@example.com"})).status;
    let statuses: Vec<u16> = (0..5).map(|_| ask()).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[test]
fn an_account_moves_to_another_address() {
    let server = server();
    register(&server, "ann");
    register(&server, "bob");
    let ann = signed_in(&server, "ann");
    let path = "/api/collections/users/request-email-change";
    ann.post(path, json!({"newEmail": "no address"}))
        .expect(400);
    // The answer does not reveal that another account has the address.
    ann.post(path, json!({"newEmail": "bob@example.com"}))
        .expect(204);
    ann.post(path, json!({"newEmail": "new@example.com"}))
        .expect(204);
    let token = token_of_mail(&server, "new@example.com");
    assert!(!server.log().iter().any(|line| line.contains("to=bob@")));
    let confirm = |password: &str| {
        let body = json!({"token": token, "password": password});
        server.api().post("/api/auth/confirm", body)
    };
    confirm("wrong").expect(400);
    confirm("password-1").expect(204);
    ann.get("/api/auth/me").expect(401);
    log_in(&server, "ann@example.com", "password-1").expect(401);
    log_in(&server, "new@example.com", "password-1").expect(200);
    confirm("password-1").expect(400);
}

#[test]
fn only_verified_accounts_sign_in_where_that_is_asked_for() {
    let server = server();
    let id = register(&server, "ann");
    let options = json!({"options": {"requireVerified": true, "confirmUrl": "https://app.example/c?t={TOKEN}"}});
    let admin = server.admin();
    admin.patch("/api/collections/users", options).expect(200);
    log_in(&server, "ann@example.com", "password-1").expect(403);
    log_in(&server, "ann@example.com", "wrong").expect(401);
    let body = json!({"email": "ann@example.com"});
    server
        .api()
        .post("/api/auth/request-verification", body)
        .expect(204);
    wait_until("the link leads to the application", || {
        server
            .log()
            .iter()
            .any(|line| line.contains("https://app.example/c?t=ey"))
    });
    let record = format!("/api/collections/users/records/{id}");
    admin.patch(&record, json!({"verified": true})).expect(200);
    log_in(&server, "ann@example.com", "password-1").expect(200);
    for wrong in [
        json!({"identityFields": ["name"]}),
        json!({"identityFields": []}),
        json!({"identityFields": "email"}),
        json!({"identityFields": ["password"]}),
        json!({"requireVerified": "yes"}),
        json!({"confirmUrl": "javascript:alert(1)"}),
    ] {
        let refused = admin.patch("/api/collections/users", json!({"options": wrong}));
        assert_eq!(refused.status, 400, "{wrong}");
    }
}

#[test]
fn admins_are_made_changed_and_removed() {
    let server = Server::start();
    let admin = server.admin();
    let second = json!({"email": "second@example.com", "password": "password-2"});
    let made = admin.post("/api/admins", &second).expect(200);
    admin.post("/api/admins", &second).expect(400);
    let signed_in = server.api().post("/api/admins/login", &second).expect(200);
    let second = server.api().with_token(signed_in.text("/token"));
    assert_eq!(
        second
            .get("/api/auth/me")
            .expect(200)
            .text("/collectionName"),
        "_superusers"
    );
    let path = format!("/api/admins/{}", made.text("/id"));
    admin
        .patch(&path, json!({"email": "admin@example.com"}))
        .expect(400);
    admin
        .patch(&path, json!({"email": "other@example.com"}))
        .expect(200);
    second.get("/api/admins").expect(200);
    admin
        .patch(&path, json!({"password": "password-3"}))
        .expect(200);
    second.get("/api/admins").expect(401);
    admin.delete(&path).expect(204);
    admin.delete(&path).expect(404);
    let last = admin.get("/api/admins").json["items"][0]["id"].clone();
    admin
        .delete(&format!("/api/admins/{}", last.as_str().unwrap()))
        .expect(409);
    // PocketBase's clients know admins as the records of a collection.
    let base = "/api/collections/_superusers";
    let body = json!({"identity": "admin@example.com", "password": "password-1"});
    let signed_in = server
        .api()
        .post(&format!("{base}/auth-with-password"), body)
        .expect(200);
    assert_eq!(signed_in.text("/record/collectionName"), "_superusers");
    let again = server.api().with_token(signed_in.text("/token"));
    again.post(&format!("{base}/auth-refresh"), "").expect(200);
    let body = json!({"identity": "admin@example.com", "password": "wrong"});
    server
        .api()
        .post(&format!("{base}/auth-with-password"), body)
        .expect(400);
}

#[test]
fn an_expired_token_does_not_keep_anybody_from_signing_in() {
    let server = server();
    register(&server, "ann");
    let body = json!({"identity": "ann", "password": "password-1"});
    let old = server.api().with_token("an.old.token");
    old.post("/api/auth/login", body).expect(200);
    old.get("/api/health").expect(200);
    old.get("/api/collections/users/records").expect(401);
}

#[test]
fn other_sites_may_call_when_they_are_named() {
    let allowed = "https://app.example";
    let server = Server::with(&[("CORS_ORIGINS", "https://other.example, https://app.example")]);
    let from = |origin: &str| server.api().with_header("Origin", origin);
    let reply = from(allowed).get("/api/health");
    assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(allowed));
    assert_eq!(reply.header("Vary"), Some("Origin"));
    // Errors, too, or the page would not learn what is wrong.
    assert!(
        from(allowed)
            .get("/api/admins")
            .header("Access-Control-Allow-Origin")
            .is_some()
    );
    let preflight = |api: Api| {
        api.with_header("Access-Control-Request-Method", "PATCH")
            .with_header("Access-Control-Request-Headers", "authorization")
            .send("OPTIONS", "/api/collections/x/records/y", "")
            .unwrap()
    };
    let reply = preflight(from(allowed)).expect(204);
    assert_eq!(
        reply.header("Access-Control-Allow-Headers"),
        Some("authorization")
    );
    assert!(
        reply
            .header("Access-Control-Allow-Methods")
            .unwrap()
            .contains("PATCH")
    );
    for stranger in [
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
    ] {
        let replies = [from(stranger).get("/api/health"), preflight(from(stranger))];
        for reply in replies {
            assert_eq!(
                reply.header("Access-Control-Allow-Origin"),
                None,
                "{stranger}"
            );
        }
    }
    let open = Server::with(&[("CORS_ORIGINS", "*")]);
    let reply = open.api().with_header("Origin", "null").get("/api/health");
    assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
    let closed = Server::start();
    let reply = closed
        .api()
        .with_header("Origin", allowed)
        .get("/api/health");
    assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
}

#[test]
fn bodies_are_as_long_as_an_endpoint_needs() {
    let server = server();
    let long = json!({"identity": "x".repeat(20_000), "password": "y"});
    server.api().post("/api/auth/login", long).expect(413);
    let page = server.api().get("/auth/confirm").expect(200);
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    let again = server.api().get("/auth/confirm");
    assert_ne!(
        again.header("Content-Security-Policy"),
        page.header("Content-Security-Policy")
    );
}

/// The median time of log-ins that fail.
fn median(server: &Server, identity: impl Fn(usize) -> String) -> Duration {
    let mut times: Vec<Duration> = (0..9)
        .map(|at| {
            let begun = Instant::now();
            log_in(server, &identity(at), "wrong").expect(401);
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Far from a proof, but a missing hash would show: it is most of the time by far.
#[test]
fn an_unknown_account_takes_the_work_of_a_known_one() {
    let server = server();
    register(&server, "ann");
    log_in(&server, "warm up", "x");
    let known = median(&server, |_| "ann".to_owned());
    let unknown = median(&server, |at| format!("nobody-{at}"));
    assert!(unknown > known / 4, "{unknown:?} {known:?}");
    assert!(known > unknown / 4, "{unknown:?} {known:?}");
}

/// Only the text of a value.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
