//! Signing in with a code that is mailed.

use std::thread;

use serde_json::json;

use super::{log_in, register, server, signed_in};
use crate::support::api::Reply;
use crate::support::server::Server;
use crate::support::wait_until;

const USERS: &str = "/api/collections/users";

fn server_with_codes() -> Server {
    let server = server();
    let template = json!({"subject": "Code of {APP_NAME}", "body": "<p>It is {OTP}.</p>"});
    let otp = json!({"otp": {"enabled": true, "duration": 60, "emailTemplate": template}});
    server.admin().patch(USERS, otp).expect(200);
    server
}

fn ask(server: &Server, email: &str) -> Reply {
    let body = json!({ "email": email });
    server.api().post(&format!("{USERS}/request-otp"), body)
}

/// The id and the code of a new mail.
fn mailed(server: &Server, email: &str) -> (String, String) {
    let lines = || -> Vec<String> {
        let log = server.log();
        log.into_iter()
            .filter(|line| line.contains(email) && line.contains("link="))
            .collect()
    };
    let before = lines().len();
    let id = ask(server, email).expect(200).text("/otpId").to_owned();
    wait_until("a code is logged", || lines().len() > before);
    let line = lines().pop().unwrap();
    let code = line.split("link=").nth(1).unwrap();
    (id, code.split([' ', '"']).next().unwrap().to_owned())
}

fn sign_in_at(server: &Server, base: &str, id: &str, code: &str) -> Reply {
    let body = json!({"otpId": id, "password": code});
    server.api().post(&format!("{base}/auth-with-otp"), body)
}

fn sign_in(server: &Server, id: &str, code: &str) -> Reply {
    sign_in_at(server, USERS, id, code)
}

#[test]
fn a_mailed_code_signs_in_once() {
    let server = server_with_codes();
    let account = register(&server, "ann");
    let methods = server.api().get(&format!("{USERS}/auth-methods"));
    assert_eq!(
        methods.json["otp"],
        json!({"enabled": true, "duration": 60})
    );
    let (id, code) = mailed(&server, "ann@example.com");
    assert_eq!(code.len(), 8);
    sign_in(&server, &id, "").expect(400);
    let reply = sign_in(&server, &id, &code).expect(200);
    assert_eq!(reply.text("/record/id"), account);
    assert_eq!(reply.json["record"]["verified"], true);
    let api = server.api().with_token(reply.text("/token"));
    api.get("/api/auth/me").expect(200);
    sign_in(&server, &id, &code).expect(400);
}

#[test]
fn of_two_uses_of_a_code_at_a_time_one_succeeds() {
    let server = server_with_codes();
    register(&server, "ann");
    let (id, code) = mailed(&server, "ann@example.com");
    let statuses: Vec<u16> = thread::scope(|scope| {
        let use_it = || sign_in(&server, &id, &code).status;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(use_it)).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let count = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(count, 1, "{statuses:?}");
}

#[test]
fn five_wrong_guesses_end_a_code() {
    let server = server_with_codes();
    register(&server, "ann");
    let (id, code) = mailed(&server, "ann@example.com");
    let wrong = if code == "00000000" { "1" } else { "00000000" };
    for _ in 0..5 {
        sign_in(&server, &id, wrong).expect(400);
    }
    sign_in(&server, &id, &code).expect(400);
}

#[test]
fn a_code_is_for_its_account_collection_and_database_only() {
    let server = server_with_codes();
    let admin = server.admin();
    let guests = json!({"name": "guests", "type": "auth", "otp": {"enabled": true}});
    admin.post("/api/collections", guests).expect(200);
    let database = json!({"name": "other"});
    admin.post("/api/databases", database).expect(200);
    let users = json!({"name": "users", "type": "auth", "otp": {"enabled": true}});
    admin.post("/db/other/api/collections", users).expect(200);
    for name in ["ann", "bob"] {
        register(&server, name);
    }
    let (id, code) = mailed(&server, "ann@example.com");
    let (other, _) = mailed(&server, "bob@example.com");
    sign_in(&server, &other, &code).expect(400);
    for base in ["/api/collections/guests", "/db/other/api/collections/users"] {
        sign_in_at(&server, base, &id, &code).expect(400);
    }
    sign_in(&server, &id, &code).expect(200);
}

#[test]
fn a_code_ends_when_the_password_changes() {
    let server = server_with_codes();
    let account = register(&server, "ann");
    let (id, code) = mailed(&server, "ann@example.com");
    let path = format!("{USERS}/records/{account}");
    let new = json!({"password": "password-2"});
    server.admin().patch(&path, new).expect(200);
    sign_in(&server, &id, &code).expect(400);
}

#[test]
fn nothing_tells_if_an_account_exists() {
    let server = server_with_codes();
    register(&server, "ann");
    let (known, _) = mailed(&server, "ann@example.com");
    let unknown = ask(&server, "none@example.com").expect(200);
    let unknown = unknown.text("/otpId").to_owned();
    assert_eq!(known.len(), unknown.len());
    // Wrong codes get the same answer, before and after the code has ended.
    let first = sign_in(&server, &known, "wrong").expect(400);
    for id in [&known, &unknown, "none"] {
        for _ in 0..6 {
            assert_eq!(sign_in(&server, id, "wrong").body, first.body, "{id}");
        }
    }
    for email in ["ann@example.com", "none@example.com"] {
        let statuses: Vec<u16> = (0..3).map(|_| ask(&server, email).status).collect();
        assert_eq!(statuses, [200, 200, 429], "{email}");
    }
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("none@example.com")));
}

/// A stranger registered with the address of another person and waited for that person to come.
#[test]
fn an_account_made_in_advance_loses_its_password_and_tokens() {
    let server = server_with_codes();
    register(&server, "ann");
    let stranger = signed_in(&server, "ann");
    let (id, code) = mailed(&server, "ann@example.com");
    sign_in(&server, &id, &code).expect(200);
    stranger.get("/api/auth/me").expect(401);
    log_in(&server, "ann", "password-1").expect(401);
}

#[test]
fn the_owner_of_a_verified_address_keeps_the_password() {
    let server = server_with_codes();
    let account = register(&server, "ann");
    let path = format!("{USERS}/records/{account}");
    let verified = json!({"verified": true});
    server.admin().patch(&path, verified).expect(200);
    let ann = signed_in(&server, "ann");
    let (id, code) = mailed(&server, "ann@example.com");
    sign_in(&server, &id, &code).expect(200);
    ann.get("/api/auth/me").expect(200);
    log_in(&server, "ann", "password-1").expect(200);
}

#[test]
fn codes_need_a_collection_that_has_them_and_a_valid_request() {
    let server = server_with_codes();
    for email in ["", "no address"] {
        let refused = ask(&server, email).expect(400);
        assert!(refused.json["data"]["email"].is_object(), "{email}");
    }
    let refused = sign_in(&server, "", "").expect(400);
    assert!(refused.json["data"]["otpId"].is_object());
    register(&server, "ann");
    let (id, code) = mailed(&server, "ann@example.com");
    let admin = server.admin();
    // An account that needs a second factor is not signed in by a code alone.
    let mfa = json!({"mfa": {"enabled": true}});
    admin.patch(USERS, mfa).expect(200);
    sign_in(&server, &id, &code).expect(403);
    let off = json!({"mfa": {"enabled": false}, "otp": {"enabled": false}});
    admin.patch(USERS, off).expect(200);
    ask(&server, "ann@example.com").expect(403);
    sign_in(&server, &id, &code).expect(403);
}
