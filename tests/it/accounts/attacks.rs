//! Ways in that were open once, each with its story.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{log_in, register, server, signed_in};
use crate::support::api::Api;
use crate::support::server::Server;
use crate::support::token::{SECRET, now, resigned, sign, sign_with};

const USERS: &str = "/api/collections/users/records";

/// One key signed everything, and nothing looked at how long a token claims to live: a token of a
/// replica or of the command line that was made once by hand was good for a century.
#[test]
fn tokens_that_live_for_minutes_are_refused_when_they_claim_more() {
    let server = Server::with(&[("JWT_SECRET", SECRET)]);
    server.admin();
    let asked = |subject: &str, purpose: &str, left: i64| {
        let claims = json!({"sub": subject, "purpose": purpose, "key": "", "exp": now() + left});
        let api = server.api().with_token(&sign(&claims, SECRET));
        match purpose {
            "replica" => api.with_header("X-Replica-Id", subject).get("/metrics"),
            _ => api.get("/api/workflow/runs"),
        }
        .status
    };
    for (subject, purpose) in [("one", "replica"), ("vski-cli", "service")] {
        for (left, status) in [
            (300, 200),
            (590, 200),
            (610, 401),
            (86_400, 401),
            (3_000_000_000, 401),
            (i64::MAX / 2000, 401),
            (-1, 401),
        ] {
            assert_eq!(asked(subject, purpose, left), status, "{purpose} {left}");
        }
    }
    let made = server
        .admin()
        .post("/api/auth/service-token", json!({"seconds": 86_400}));
    let token = made.expect(200).text("/token").to_owned();
    let until = |left: i64| {
        let token = resigned(&token, SECRET, |claims| claims["exp"] = json!(now() + left));
        server
            .api()
            .with_token(&token)
            .get("/api/workflow/runs")
            .status
    };
    assert_eq!((until(86_400), until(86_400 + 310)), (200, 401));
    // The key of another kind of token is not valid for these.
    let secret = SECRET.as_bytes();
    let claims = json!({"sub": "vski-cli", "purpose": "service", "key": "", "exp": now() + 60});
    let by_secret = server.api().with_token(&sign_with(&claims, secret));
    by_secret.get("/api/workflow/runs").expect(401);
}

/// Rules compare `@request.auth.id` with ids, so an account of another collection with the id of
/// a victim was the victim.
#[test]
fn an_id_belongs_to_one_account_of_all_collections() {
    let server = server();
    let guests = json!({"name": "guests", "type": "auth", "createRule": ""});
    let admin = server.admin();
    admin.post("/api/collections", guests).expect(200);
    let victim = register(&server, "ann");
    let twin = json!({"id": victim, "email": "evil@example.com", "password": "password-1"});
    let path = "/api/collections/guests/records";
    let refused = server.api().post(path, &twin).expect(400);
    assert_eq!(refused.text("/data/id/code"), "validation_forbidden");
    // Admins may choose ids, and are told of the twin.
    let refused = admin.post(path, &twin).expect(400);
    assert_eq!(refused.text("/data/id/code"), "validation_not_unique");
    // Nor does a token alone set a new password by creating the account again.
    let ann = signed_in(&server, "ann");
    let anew = json!({"id": victim, "email": "ann@example.com", "password": "password-2"});
    let batch = json!({"requests": [
        {"method": "DELETE", "url": format!("{USERS}/{victim}")},
        {"method": "POST", "url": USERS, "body": anew},
    ]});
    ann.post("/api/batch", batch).expect(400);
    log_in(&server, "ann", "password-1").expect(200);
}

/// A refresh looked the account up again and signed with what it found: with the key of the
/// password that was just set against the thief.
#[test]
fn a_refresh_beside_a_new_password_gives_nothing_away() {
    let server = server();
    register(&server, "ann");
    let owner = signed_in(&server, "ann");
    let stolen = log_in(&server, "ann", "password-1")
        .text("/token")
        .to_owned();
    let (done, server) = (AtomicBool::new(false), &server);
    let kept: Vec<String> = thread::scope(|scope| {
        let thieves: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let (mut last, api) = (stolen.clone(), server.api().with_token(&stolen));
                    for _ in 0..5_000 {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let reply = api.post("/api/auth/refresh", "");
                        if reply.status == 200 {
                            reply.text("/token").clone_into(&mut last);
                        }
                    }
                    last
                })
            })
            .collect();
        let body = json!({"oldPassword": "password-1", "password": "password-2"});
        // Hashing comes behind everything else, so it may take a few tries beside so much.
        let deadline = Instant::now() + Duration::from_secs(60);
        let changed = loop {
            let changed = owner.post("/api/auth/password", &body);
            if changed.status != 429 || Instant::now() > deadline {
                break changed;
            }
        };
        done.store(true, Ordering::Relaxed);
        changed.expect(200);
        thieves
            .into_iter()
            .map(|thief| thief.join().unwrap())
            .collect()
    });
    for token in kept {
        server
            .api()
            .with_token(&token)
            .get("/api/auth/me")
            .expect(401);
    }
}

/// The key of tokens came from address and password alone, so moving back to an address brought
/// back the earlier tokens.
#[test]
fn an_old_token_stays_ended_when_everything_is_as_it_was() {
    let server = server();
    let id = register(&server, "ann");
    let old = signed_in(&server, "ann");
    let admin = server.admin();
    for email in ["other@example.com", "ann@example.com"] {
        admin
            .patch(&format!("{USERS}/{id}"), json!({"email": email}))
            .expect(200);
    }
    old.get("/api/auth/me").expect(401);
    signed_in(&server, "ann").get("/api/auth/me").expect(200);
}

/// A stored value that could not be read back made every request of the account fail.
#[test]
fn json_that_readers_disagree_on_is_refused() {
    let server = server();
    let admin = server.admin();
    let fields = json!([{"name": "meta", "type": "json"}, {"name": "groups", "type": "json"},
        {"name": "username", "type": "text", "unique": true}]);
    admin
        .patch("/api/collections/users", json!({ "fields": fields }))
        .expect(200);
    let user = json!({"email": "ann@example.com", "username": "ann", "password": "password-1"});
    let id = server
        .api()
        .post("/api/auth/register", user)
        .expect(200)
        .text("/id")
        .to_owned();
    let ann = signed_in(&server, "ann");
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    for wrong in [r#""\ud800""#, "1e999", r#"{"a":1,"a":2}"#, deep.as_str()] {
        let body = format!("{{\"meta\":{wrong}}}");
        ann.patch(&format!("{USERS}/{id}"), body).expect(400);
    }
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    ann.patch(&format!("{USERS}/{id}"), format!("{{\"meta\":{deep}}}"))
        .expect(200);
    ann.get("/api/auth/me").expect(200);
    log_in(&server, "ann", "password-1").expect(200);
}

/// A group could be left, and a mark removed, by sending nothing for it.
#[test]
fn groups_and_marks_are_not_cleared_either() {
    let server = server();
    let id = register(&server, "ann");
    let path = format!("{USERS}/{id}");
    let admin = server.admin();
    let change = json!({"groups": ["limited"], "verified": true});
    admin.patch(&path, &change).expect(200);
    let ann = signed_in(&server, "ann");
    for change in [
        json!({"groups": null}),
        json!({"groups": []}),
        json!({"verified": false}),
    ] {
        ann.patch(&path, change).expect(400);
    }
    // Sent back as they are they do no harm.
    ann.patch(&path, &change).expect(200);
    admin
        .patch(
            "/api/collections/users",
            json!({"fieldEditRules": {"limited": ["*"]}}),
        )
        .expect(200);
    ann.patch(&path, json!({"groups": null})).expect(400);
    let rules = json!({"fieldEditRules": {"limited": ["groups"]}});
    admin.patch("/api/collections/users", rules).expect(200);
    ann.patch(&path, json!({"groups": null})).expect(200);
}

/// The record was inserted before its rule was asked, and the table answered first.
#[test]
fn whoever_may_make_no_record_learns_nothing_of_those_there_are() {
    let server = server();
    let id = register(&server, "ann");
    let closed = json!({"createRule": "name = 'nobody at all'"});
    server
        .admin()
        .patch("/api/collections/users", closed)
        .expect(200);
    let answer = |email: &str| {
        let body = json!({"email": email, "password": "password-1", "name": "x"});
        server
            .api()
            .post("/api/auth/register", body)
            .expect(400)
            .body
    };
    assert_eq!(answer("ann@example.com"), answer("nobody@example.com"));
    let notes = json!({"name": "notes", "createRule": "id = 'none'", "fields": []});
    server.admin().post("/api/collections", notes).expect(200);
    let path = "/api/collections/notes/records";
    server
        .admin()
        .post(path, json!({"id": "there"}))
        .expect(200);
    let answer = |id: &str| {
        server
            .api()
            .post(path, json!({ "id": id }))
            .expect(400)
            .body
    };
    assert_eq!(answer("there"), answer("missing"));
    assert_eq!(id.len(), 36);
}

/// Each registration hashed a password, so that a few peers kept all others from signing in.
#[test]
fn registering_for_ever_is_not_let_happen() {
    let server = server();
    register(&server, "ann");
    let body = json!({"email": "ann@example.com", "password": "password-2"}).to_string();
    let (server, body) = (&server, &body);
    let statuses: Vec<u16> = thread::scope(|scope| {
        let peers: Vec<_> = (0..30)
            .map(|_| {
                scope.spawn(move || {
                    let api = server.api();
                    let tries = (0..10).map(|_| api.post("/api/auth/register", body).status);
                    tries.collect::<Vec<u16>>()
                })
            })
            .collect();
        peers
            .into_iter()
            .flat_map(|peer| peer.join().unwrap())
            .collect()
    });
    assert!(
        statuses.iter().all(|status| [400, 429].contains(status)),
        "{statuses:?}"
    );
    // Sixty, and what has come back meanwhile.
    let hashed = statuses.iter().filter(|status| **status == 400).count();
    assert!(hashed <= 80, "{hashed}");
    log_in(server, "ann", "password-1").expect(200);
}

/// Indirect ways to read a new record with a key, and to guess an address.
#[test]
fn who_may_change_an_account_but_not_see_it_cannot_guess_its_address() {
    let server = server();
    let id = register(&server, "ann");
    let open = json!({"updateRule": "", "viewRule": null});
    server
        .admin()
        .patch("/api/collections/users", open)
        .expect(200);
    register(&server, "bob");
    let bob = signed_in(&server, "bob");
    let guess = |api: &Api, email: &str| -> (u16, Value) {
        let reply = api.patch(&format!("{USERS}/{id}"), json!({"email": email}));
        (reply.status, reply.json)
    };
    assert_eq!(
        guess(&bob, "ann@example.com"),
        guess(&bob, "wrong@example.com")
    );
    assert_eq!(guess(&bob, "wrong@example.com").0, 400);
}

/// Each proxy may write a line of its own.
#[test]
fn the_last_line_of_the_last_proxy_counts() {
    let server = Server::with(&[("TRUSTED_PROXIES", "127.0.0.1")]);
    server.admin();
    let wrong = json!({"email": "admin@example.com", "password": "wrong"});
    let statuses: Vec<u16> = (0..14)
        .map(|at| {
            let api = server
                .api()
                .with_header("X-Forwarded-For", &format!("203.0.113.{at}"));
            let api = api.with_header("X-Forwarded-For", "198.51.100.7");
            api.post("/api/admins/login", &wrong).status
        })
        .collect();
    assert_eq!(statuses[10..], [429; 4], "{statuses:?}");
}

/// Hidden records add nothing to an answer, so the limit on its size did not stop looking for them.
#[test]
fn an_expansion_that_shows_nothing_has_an_end() {
    let server = server();
    let admin = server.admin();
    let closed = json!({"name": "closed", "viewRule": "id = 'none'", "fields": []});
    admin.post("/api/collections", closed).expect(200);
    let many = json!({"name": "many", "type": "relation", "collectionId": "closed",
        "maxSelect": 200});
    let open = json!({"name": "open", "listRule": "", "createRule": "", "fields": [many]});
    admin.post("/api/collections", open).expect(200);
    let ids: Vec<String> = (0..200).map(|at| format!("c{at}")).collect();
    let make = |list: &str, body: Value| json!({"method": "POST", "url": format!("/api/collections/{list}/records"), "body": body});
    let closed: Vec<Value> = ids
        .iter()
        .map(|id| make("closed", json!({ "id": id })))
        .collect();
    admin
        .post("/api/batch", json!({ "requests": closed }))
        .expect(200);
    let open: Vec<Value> = (0..110)
        .map(|_| make("open", json!({ "many": ids })))
        .collect();
    let open = json!({ "requests": open });
    admin.post("/api/batch", &open).expect(200);
    let list = |per_page: u32| {
        let path = "/api/collections/open/records?expand=many&perPage=";
        server.api().get(&format!("{path}{per_page}"))
    };
    assert_eq!(list(50).expect(200).json["items"][0]["expand"], json!({}));
    list(110).expect(413);
    // Nor are relations looked for without end.
    let refused = server.api().post("/api/batch", open).expect(400);
    assert!(
        refused.text("/message").contains("related records"),
        "{}",
        refused.json
    );
}
