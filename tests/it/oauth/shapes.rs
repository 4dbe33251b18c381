//! Providers whose answers have the shape of Google, Microsoft, Apple and Discord, and issuers of
//! OpenID Connect.

use serde_json::json;

use super::{USERS, be_github, listed, register, server, sign_in, verify};
use crate::support::provider::{Provider, form_value, private_key};

#[test]
fn google_links_by_a_verified_address() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("google")]));
    let id = register(&server, "ann@example.com").text("/id").to_owned();
    verify(&server, &id);
    provider.answers(
        "/user",
        json!({"sub": "g-1", "name": "Ann", "picture": "https://p.example/1",
        "email": "Ann@Example.com", "email_verified": true}),
    );
    let signed_in = sign_in(&server.api(), &provider, "google").expect(200);
    assert_eq!(signed_in.text("/record/id"), id);
    assert_eq!(signed_in.json["meta"]["isNew"], false);
}

#[test]
fn microsoft_does_not_say_whose_an_address_is() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("microsoft")]));
    let id = register(&server, "ceo@example.com").text("/id").to_owned();
    verify(&server, &id);
    // Any administrator of a tenant can give an account this address.
    provider.answers(
        "/user",
        json!({"id": "m-1", "displayName": "Eve", "mail": "ceo@example.com"}),
    );
    let refused = sign_in(&server.api(), &provider, "microsoft").expect(400);
    assert_eq!(refused.text("/data/email/code"), "validation_not_unique");
    provider.answers(
        "/user",
        json!({"id": "m-2", "displayName": "Bob", "mail": "bob@example.com"}),
    );
    let bob = sign_in(&server.api(), &provider, "microsoft").expect(200);
    assert_eq!(bob.text("/record/email"), "bob@example.com");
    assert_eq!(bob.json["record"]["verified"], false);
    assert_eq!(bob.text("/meta/email"), "");
}

#[test]
fn discord_says_if_an_address_is_verified() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("discord")]));
    for (id, verified) in [("1", true), ("2", false)] {
        provider.answers(
            "/user",
            json!({"id": id, "username": format!("u{id}"),
            "global_name": "Ann", "email": format!("u{id}@example.com"), "verified": verified}),
        );
        let made = sign_in(&server.api(), &provider, "discord").expect(200);
        assert_eq!(made.json["record"]["verified"], verified);
    }
}

#[test]
fn apple_gets_a_signed_secret_and_tells_all_in_the_id_token() {
    let provider = Provider::start();
    let mut settings = provider.settings("apple");
    settings["userInfoURL"] = json!("");
    settings["clientSecret"] = json!(private_key());
    settings["extra"] = json!({"teamId": "TEAM", "keyId": "KEY", "jwksURL": provider.url("/keys"),
        "issuers": [provider.url("")]});
    let server = server(&json!([settings]));
    let page = listed(&server.api(), "", "apple");
    let query = page["authURL"]
        .as_str()
        .unwrap()
        .split_once('?')
        .unwrap()
        .1
        .to_owned();
    assert_eq!(form_value(&query, "response_mode"), "form_post");
    provider.claims(json!({"sub": "a-1", "email": "ann@example.com", "email_verified": "true"}));
    let made = sign_in(&server.api(), &provider, "apple").expect(200);
    assert_eq!(made.text("/meta/id"), "a-1");
    assert_eq!(made.json["record"]["verified"], true);
    let body = provider.token_request();
    let secret = form_value(&body, "client_secret");
    assert_eq!(secret.split('.').count(), 3, "{secret}");
}

#[test]
fn an_issuer_is_discovered_and_may_change_its_keys() {
    let provider = Provider::start();
    let server = server(&json!([provider.issuer("corp")]));
    provider.claims(json!({"email": "ann@example.com", "email_verified": true, "name": "Ann"}));
    let made = sign_in(&server.api(), &provider, "corp").expect(200);
    assert_eq!(made.text("/meta/id"), "subject-1");
    assert_eq!(made.json["record"]["verified"], true);
    let asked = |path: &str| {
        provider
            .requests()
            .iter()
            .filter(|(it, _)| it == path)
            .count()
    };
    sign_in(&server.api(), &provider, "corp").expect(200);
    assert_eq!(
        (asked("/.well-known/openid-configuration"), asked("/keys")),
        (1, 1)
    );
    // Keys are asked for at most once in ten seconds; a server that has just started has none.
    provider.rotate();
    let server = server.restart();
    sign_in(&server.api(), &provider, "corp").expect(200);
    assert_eq!(asked("/keys"), 2);
}

#[test]
fn a_provider_that_cannot_be_asked_does_not_hide_the_others() {
    let (provider, gone) = (Provider::start(), Provider::start());
    gone.refuses("/.well-known/openid-configuration", 500);
    let server = server(&json!([gone.issuer("gone"), provider.settings("github")]));
    let methods = server
        .api()
        .get(&format!("{USERS}/auth-methods"))
        .expect(200);
    let list = methods.json["oauth2"]["providers"].as_array().unwrap();
    assert_eq!(list.len(), 1);
    be_github(&provider, 7, "ann@example.com", true);
    sign_in(&server.api(), &provider, "github").expect(200);
}
