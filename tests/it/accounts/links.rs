//! Links in mails and the addresses that they go to.

use serde_json::json;

use super::{log_in, register, server, signed_in, token_of_mail};
use crate::support::api::Api;

/// A page that sets a new password got 204 for the token of a link that verifies an address, said
/// that the password was changed, and it was the old one. A path that says what it does does only
/// that.
#[test]
fn a_link_does_what_it_was_sent_for_and_nothing_else() {
    let server = server();
    for name in ["ann", "bob", "cid"] {
        register(&server, name);
    }
    let api = server.api();
    let ask = |what: &str, email: &str| {
        let body = json!({ "email": email });
        api.post(&format!("/api/auth/request-{what}"), body)
            .expect(204);
        token_of_mail(&server, email)
    };
    let verification = ask("verification", "ann@example.com");
    let reset = ask("password-reset", "bob@example.com");
    let cid = signed_in(&server, "cid");
    let body = json!({"newEmail": "new@example.com"});
    cid.post("/api/auth/request-email-change", body).expect(204);
    let change = token_of_mail(&server, "new@example.com");
    let session = log_in(&server, "ann", "password-1")
        .expect(200)
        .text("/token")
        .to_owned();
    let file = signed_in(&server, "ann")
        .post("/api/files/token", "")
        .expect(200);
    let confirm = |base: &str, what: &str, token: &str| {
        let body =
            json!({"token": token, "password": "password-1", "passwordConfirm": "password-1"});
        api.post(&format!("{base}/confirm-{what}"), body)
    };
    let right = [
        ("verification", &verification),
        ("password-reset", &reset),
        ("email-change", &change),
    ];
    for base in ["/api/auth", "/api/collections/users"] {
        for (what, _) in right {
            for (other, token) in right.iter().filter(|(other, _)| *other != what) {
                let refused = confirm(base, what, token).expect(400);
                assert_eq!(
                    refused.text("/data/token/code"),
                    "validation_invalid_token",
                    "{what} {other}"
                );
                assert!(
                    refused
                        .text("/data/token/message")
                        .contains("use a link that"),
                    "{}",
                    refused.json
                );
            }
            confirm(base, what, &session).expect(400);
            confirm(base, what, file.text("/token")).expect(400);
        }
    }
    // Nothing was changed, and each link is good for what it was sent for.
    for name in ["ann", "bob", "cid"] {
        let user = log_in(&server, name, "password-1").expect(200);
        assert_eq!(user.json["user"]["verified"], false, "{name}");
    }
    for (what, token) in right {
        confirm("/api/auth", what, token).expect(204);
        confirm("/api/auth", what, token).expect(400);
    }
    log_in(&server, "new@example.com", "password-1").expect(200);
}

/// Addresses that no mail can be sent to were accepted, and the account that had one could never
/// verify it.
#[test]
fn an_account_has_an_address_that_mail_can_be_sent_to() {
    let server = server();
    let (admin, api) = (server.admin(), server.api());
    let id = register(&server, "ann");
    let ann = signed_in(&server, "ann");
    let contacts = json!({"name": "contacts", "createRule": "", "fields": [{"name": "mail", "type": "email"}]});
    admin.post("/api/collections", contacts).expect(200);
    let long = format!("{}@example.com", "x".repeat(250));
    for wrong in [
        "<x@example.com>",
        "a,b@example.com",
        ".dot@example.com",
        "dot.@example.com",
        "a..b@example.com",
        "a b@example.com",
        "Ann <ann@example.com>",
        "x@",
        "@example.com",
        "x@-example.com",
        "x@exa mple.com",
        "a@b@example.com",
        "x@example.com\\r\\nTo: y",
        long.as_str(),
    ] {
        let refused = |api: &Api, path: &str, body: serde_json::Value, field: &str| {
            let reply = api.post(path, body).expect(400);
            let code = reply.text(&format!("/data/{field}/code"));
            assert_eq!(code, "validation_is_email", "{wrong} {path}");
        };
        let account = json!({"email": wrong, "password": "password-1"});
        refused(&api, "/api/auth/register", account.clone(), "email");
        refused(&admin, "/api/admins", account, "email");
        refused(
            &api,
            "/api/collections/contacts/records",
            json!({"mail": wrong}),
            "mail",
        );
    }
    ann.post(
        "/api/auth/request-email-change",
        json!({"newEmail": "<x@example.com>"}),
    )
    .expect(400);
    for right in [
        "x+tag@example.com",
        "o'hara@example.com",
        "a.b@mail.example.com",
        "gr\u{fc}n@example.com",
    ] {
        let account = json!({"email": right, "password": "password-1"});
        api.post("/api/auth/register", account).expect(200);
    }
    // An id tells nothing of when its account was made.
    assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
    let note = admin
        .post("/api/collections/contacts/records", "{}")
        .expect(200);
    assert_eq!(&note.text("/id")[14..15], "7");
}

/// Three accounts could have a stranger's mailbox filled by changing to its address again and
/// again.
#[test]
fn changes_of_addresses_do_not_fill_a_mailbox() {
    let server = server();
    let mut statuses = Vec::new();
    for name in ["ann", "bob"] {
        register(&server, name);
        let api = signed_in(&server, name);
        for _ in 0..3 {
            let body = json!({"newEmail": "Stranger@example.com"});
            statuses.push(api.post("/api/auth/request-email-change", body).status);
        }
    }
    assert_eq!(statuses, [204, 204, 204, 429, 429, 429]);
    // An invalid address does not count.
    register(&server, "cid");
    let cid = signed_in(&server, "cid");
    let path = "/api/auth/request-email-change";
    for _ in 0..5 {
        cid.post(path, json!({"newEmail": "x"})).expect(400);
    }
    for at in 0..4 {
        let body = json!({"newEmail": format!("cid-{at}@example.com")});
        let expected = if at < 3 { 204 } else { 429 };
        cid.post(path, body).expect(expected);
    }
}
