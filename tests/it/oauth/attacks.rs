//! Attacks on signing in with a provider.

use serde_json::json;

use super::{
    BACK, USERS, be_github, begin, end, links, listed, log_in, make_users, register, server,
    sign_in, verify,
};
use crate::support::provider::{Provider, Signing, page_for};

#[test]
fn a_code_is_used_once() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let body = begin(&server.api(), &provider, "github");
    end(&server.api(), &body).expect(200);
    let asked = provider.requests().len();
    let again = end(&server.api(), &body).expect(400);
    assert_eq!(again.text("/data/code/code"), "validation_invalid_code");
    assert_eq!(
        provider.requests().len(),
        asked,
        "the provider was asked again"
    );
}

#[test]
fn of_two_uses_of_a_code_at_once_one_succeeds() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let body = begin(&server.api(), &provider, "github");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| end(&server.api(), &body).status))
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(
        statuses.iter().filter(|it| **it == 200).count(),
        1,
        "{statuses:?}"
    );
    let tokens = provider
        .requests()
        .iter()
        .filter(|(path, _)| path == "/token")
        .count();
    assert_eq!(tokens, 1);
}

#[test]
fn a_code_is_worthless_without_the_verifier_of_its_sign_in() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let api = server.api();
    let mut body = begin(&api, &provider, "github");
    body["codeVerifier"] = json!("");
    let refused = end(&api, &body).expect(400);
    assert_eq!(
        refused.text("/data/codeVerifier/code"),
        "validation_required"
    );
    // The thief begins a sign-in of their own.
    body["codeVerifier"] = listed(&api, "", "github")["codeVerifier"].clone();
    end(&api, &body).expect(400);
}

#[test]
fn without_pkce_the_nonce_binds_a_code_to_its_sign_in() {
    let provider = Provider::start();
    let mut settings = provider.issuer("corp");
    settings["pkce"] = json!(false);
    let server = server(&json!([settings]));
    let api = server.api();
    let stolen = begin(&api, &provider, "corp");
    let mut injected = stolen.clone();
    injected["codeVerifier"] = listed(&api, "", "corp")["codeVerifier"].clone();
    end(&api, &injected).expect(400);
    sign_in(&api, &provider, "corp")
        .expect(400)
        .text("/data/email/code");
}

#[test]
fn an_id_token_that_is_not_what_it_should_be_is_refused() {
    let provider = Provider::start();
    let cases = [
        ("iss", json!("https://evil.example")),
        ("iss", json!(null)),
        ("aud", json!("another-client")),
        ("aud", json!(["client-1", "another-client"])),
        ("azp", json!("another-client")),
        ("nonce", json!("of another sign-in")),
        ("nonce", json!(null)),
        ("exp", json!(1_000_000_000)),
        ("iat", json!(4_000_000_000_u64)),
        ("nbf", json!(4_000_000_000_u64)),
        ("sub", json!("")),
    ];
    // Fewer than a network may fail at a server.
    for cases in cases.chunks(6) {
        let server = server(&json!([provider.issuer("corp")]));
        for (name, value) in cases {
            let mut claims = json!({"email": "ann@example.com", "email_verified": true});
            claims[*name] = value.clone();
            provider.claims(claims);
            let refused = sign_in(&server.api(), &provider, "corp");
            assert_eq!(refused.status, 400, "{name} {value}: {}", refused.json);
        }
    }
}

#[test]
fn signatures_that_prove_nothing_are_refused() {
    let provider = Provider::start();
    let server = server(&json!([provider.issuer("corp")]));
    provider.claims(json!({"email": "ann@example.com", "email_verified": true}));
    for signing in [Signing::None, Signing::Hs256, Signing::Unknown] {
        provider.signs_with(signing);
        let refused = sign_in(&server.api(), &provider, "corp");
        assert_eq!(refused.status, 400, "{signing:?}: {}", refused.json);
    }
    provider.signs_with(Signing::Es256);
    sign_in(&server.api(), &provider, "corp").expect(200);
}

#[test]
fn an_address_that_the_provider_has_not_verified_opens_no_account() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    let id = register(&server, "ann@example.com").text("/id").to_owned();
    for is_verified_here in [false, true] {
        if is_verified_here {
            verify(&server, &id);
        }
        be_github(&provider, 66, "ann@example.com", false);
        let refused = sign_in(&server.api(), &provider, "github").expect(400);
        assert_eq!(refused.text("/data/email/code"), "validation_not_unique");
        log_in(&server, "ann@example.com").expect(200);
    }
}

#[test]
fn an_account_that_was_made_in_advance_is_taken_over_by_the_owner_of_its_address() {
    let provider = Provider::start();
    let server = server(&json!([
        provider.settings("github"),
        provider.settings("gitea")
    ]));
    // Eve makes an account with the address of Ann, and links her own account of a provider.
    register(&server, "ann@example.com");
    let eve = server.api().with_token(
        log_in(&server, "ann@example.com")
            .expect(200)
            .text("/token"),
    );
    be_github(&provider, 66, "eve@example.com", true);
    sign_in(&eve, &provider, "gitea").expect(200);
    assert_eq!(links(&eve).json["totalItems"], 1);
    // Ann signs in.
    be_github(&provider, 7, "ann@example.com", true);
    let ann = sign_in(&server.api(), &provider, "github").expect(200);
    assert_eq!(ann.json["record"]["verified"], true);
    assert_eq!(ann.json["meta"]["isNew"], false);
    // The password, the token and the link of Eve lead nowhere.
    log_in(&server, "ann@example.com").expect(401);
    eve.get("/api/auth/me").expect(401);
    be_github(&provider, 66, "eve@example.com", true);
    let hers = sign_in(&server.api(), &provider, "gitea").expect(200);
    assert_ne!(hers.text("/record/id"), ann.text("/record/id"));
    let own = server.api().with_token(ann.text("/token"));
    assert_eq!(links(&own).column("provider"), ["github"]);
}

#[test]
fn a_verified_account_keeps_its_password() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    let id = register(&server, "ann@example.com").text("/id").to_owned();
    verify(&server, &id);
    let before = server
        .api()
        .with_token(log_in(&server, "ann@example.com").text("/token"));
    be_github(&provider, 7, "ann@example.com", true);
    let signed_in = sign_in(&server.api(), &provider, "github").expect(200);
    assert_eq!(signed_in.text("/record/id"), id);
    log_in(&server, "ann@example.com").expect(200);
    before.get("/api/auth/me").expect(200);
}

#[test]
fn a_sign_in_of_one_database_is_worth_nothing_in_another() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "other"}))
        .expect(200);
    make_users(&admin, "/db/other", &json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let here = sign_in(&server.api(), &provider, "github").expect(200);
    let token = server.api().with_token(here.text("/token"));
    token.get("/api/auth/me").expect(200);
    token.get("/db/other/api/auth/me").expect(401);
    let api = server.api();
    let listed = listed(&api, "/db/other", "github");
    let code = provider.consent(&page_for(&listed, BACK));
    let body = json!({"provider": "github", "code": code, "codeVerifier": listed["codeVerifier"],
        "redirectURL": BACK});
    let there = api
        .post(&format!("/db/other{USERS}/auth-with-oauth2"), &body)
        .expect(200);
    assert_ne!(there.text("/record/id"), here.text("/record/id"));
    assert_eq!(there.json["meta"]["isNew"], true);
}

#[test]
fn an_answer_about_another_user_is_refused() {
    let provider = Provider::start();
    let mut settings = provider.issuer("corp");
    settings["userInfoURL"] = json!(provider.url("/user"));
    let server = server(&json!([settings]));
    provider.answers(
        "/user",
        json!({"sub": "another", "email": "a@example.com", "email_verified": true}),
    );
    sign_in(&server.api(), &provider, "corp").expect(400);
    provider.answers(
        "/user",
        json!({"sub": "subject-1", "email": "a@example.com", "email_verified": true}),
    );
    sign_in(&server.api(), &provider, "corp").expect(200);
}

#[test]
fn failed_sign_ins_of_a_network_run_out() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    let api = server.api();
    let refused = (0..30).find(|at| {
        let body = json!({"provider": "github", "code": format!("guess-{at}"), "codeVerifier": "v",
            "redirectURL": BACK});
        end(&api, &body).status == 429
    });
    assert_eq!(refused, Some(10));
}
