//! Signing in by plain redirects, and attacks on that.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{USERS, be_github, make_users, register, server, verify};
use crate::support::api::{Api, Reply, encode};
use crate::support::provider::{Provider, form_value};
use crate::support::server::Server;

const VERIFIER: &str = "a-verifier-that-the-application-has-made-at-random";
const TARGET: &str = "https://app.example/in";

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

fn begin_at(api: &Api, base: &str, redirect: &str) -> Reply {
    let query = format!(
        "redirect={}&codeChallenge={}&state=of-app",
        encode(redirect),
        challenge()
    );
    api.get(&format!("{base}/github?{query}"))
}

/// The page of the provider, the state, and the cookie of the browser.
fn begin(server: &Server) -> (String, String, String) {
    let reply = begin_at(&server.api(), &format!("{USERS}/auth-with-oauth2"), TARGET).expect(302);
    parts(&reply)
}

fn parts(reply: &Reply) -> (String, String, String) {
    let page = reply.header("Location").unwrap().to_owned();
    let state = form_value(page.split_once('?').unwrap().1, "state");
    let cookie = reply.header("Set-Cookie").unwrap();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    (page, state, cookie)
}

fn come_back(server: &Server, cookie: &str, state: &str, code: &str) -> Reply {
    let browser = server.api().with_header("Cookie", cookie);
    browser.get(&format!("/api/oauth2-redirect?state={state}&code={code}"))
}

/// The code with which the browser reaches the application.
fn code_of(reply: &Reply) -> String {
    let location = reply.header("Location").unwrap();
    let (target, query) = location.split_once('?').unwrap();
    assert_eq!(target, TARGET);
    assert_eq!(form_value(query, "state"), "of-app");
    let code = form_value(query, "code");
    assert!(!code.is_empty(), "{location}");
    code
}

fn exchange(api: &Api, code: &str, verifier: &str) -> Reply {
    let body = json!({"code": code, "codeVerifier": verifier});
    api.post(&format!("{USERS}/auth-with-code"), body)
}

fn provider_and_server() -> (Provider, Server) {
    let provider = Provider::start();
    let server = server(&json!([
        provider.settings("github"),
        provider.settings("gitea")
    ]));
    be_github(&provider, 7, "ann@example.com", true);
    (provider, server)
}

#[test]
fn a_browser_signs_in_and_the_application_gets_a_token() {
    let (provider, server) = provider_and_server();
    let (page, state, cookie) = begin(&server);
    let code = provider.consent(&page);
    let back = come_back(&server, &cookie, &state, &code).expect(302);
    assert_eq!(back.header("Referrer-Policy"), Some("no-referrer"));
    let signed_in = exchange(&server.api(), &code_of(&back), VERIFIER).expect(200);
    assert_eq!(signed_in.text("/record/email"), "ann@example.com");
    assert_eq!(signed_in.json["meta"]["isNew"], true);
    assert_eq!(signed_in.text("/meta/accessToken"), "");
    let ann = server.api().with_token(signed_in.text("/token"));
    ann.get("/api/auth/me").expect(200);
    // The same under the paths of the default collection.
    let reply = begin_at(&server.api(), "/api/auth/oauth2", TARGET).expect(302);
    let (page, state, cookie) = parts(&reply);
    let code = provider.consent(&page);
    let back = come_back(&server, &cookie, &state, &code).expect(302);
    let body = json!({"code": code_of(&back), "codeVerifier": VERIFIER});
    let again = server.api().post("/api/auth/code", body).expect(200);
    assert_eq!(again.text("/user/id"), signed_in.text("/record/id"));
}

#[test]
fn the_code_of_an_application_works_once_and_with_its_verifier() {
    let (provider, server) = provider_and_server();
    let code = || {
        let (page, state, cookie) = begin(&server);
        let code = provider.consent(&page);
        code_of(&come_back(&server, &cookie, &state, &code).expect(302))
    };
    let api = server.api();
    let first = code();
    exchange(&api, &first, VERIFIER).expect(200);
    let again = exchange(&api, &first, VERIFIER).expect(400);
    assert_eq!(again.text("/data/code/code"), "validation_invalid_code");
    // Intercepted, without the verifier; it is used up.
    let stolen = code();
    exchange(&api, &stolen, "a guess").expect(400);
    exchange(&api, &stolen, VERIFIER).expect(400);
    // Many at once.
    let raced = code();
    let count: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| exchange(&server.api(), &raced, VERIFIER).status == 200))
            .collect();
        threads
            .into_iter()
            .map(|it| usize::from(it.join().unwrap()))
            .sum()
    });
    assert_eq!(count, 1);
}

#[test]
fn a_code_dies_with_the_password_and_is_of_one_database() {
    let (provider, server) = provider_and_server();
    let admin = server.admin();
    let id = register(&server, "ann@example.com").text("/id").to_owned();
    verify(&server, &id);
    let code = || {
        let (page, state, cookie) = begin(&server);
        let code = provider.consent(&page);
        code_of(&come_back(&server, &cookie, &state, &code).expect(302))
    };
    let first = code();
    let body = json!({"password": "password-2", "passwordConfirm": "password-2"});
    admin
        .patch(&format!("{USERS}/records/{id}"), body)
        .expect(200);
    exchange(&server.api(), &first, VERIFIER).expect(400);
    admin
        .post("/api/databases", json!({"name": "other"}))
        .expect(200);
    make_users(&admin, "/db/other", &json!([provider.settings("github")]));
    let second = code();
    let body = json!({"code": second, "codeVerifier": VERIFIER});
    server
        .api()
        .post(&format!("/db/other{USERS}/auth-with-code"), body)
        .expect(400);
}

#[test]
fn a_browser_of_another_database_comes_back_to_the_same_url() {
    let (provider, server) = provider_and_server();
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "other"}))
        .expect(200);
    make_users(&admin, "/db/other", &json!([provider.settings("github")]));
    let base = format!("/db/other{USERS}/auth-with-oauth2");
    let (page, state, cookie) = parts(&begin_at(&server.api(), &base, TARGET).expect(302));
    let code = provider.consent(&page);
    let code = code_of(&come_back(&server, &cookie, &state, &code).expect(302));
    let body = json!({"code": code, "codeVerifier": VERIFIER});
    let made = server
        .api()
        .post(&format!("/db/other{USERS}/auth-with-code"), body)
        .expect(200);
    let token = server.api().with_token(made.text("/token"));
    token
        .get(&format!(
            "/db/other{USERS}/records/{}",
            made.text("/record/id")
        ))
        .expect(200);
    token.get("/api/auth/me").expect(401);
}

#[test]
fn a_state_is_of_one_browser_and_works_once() {
    let (provider, server) = provider_and_server();
    let (page, state, cookie) = begin(&server);
    let code = provider.consent(&page);
    // Login CSRF: the victim's browser has no cookie, or that of a sign-in of its own.
    come_back(&server, "a=b", &state, &code).expect(400);
    let (_, _, own) = begin(&server);
    come_back(&server, &own, &state, &code).expect(400);
    let (name, value) = cookie.split_once('=').unwrap();
    let (_, other) = own.split_once('=').unwrap();
    come_back(&server, &format!("{name}={other}"), &state, &code).expect(400);
    come_back(&server, &format!("{name}={value}x"), &state, &code).expect(400);
    assert!(
        provider.requests().is_empty(),
        "the code was shown to the provider"
    );
    let back = come_back(&server, &cookie, &state, &code).expect(302);
    assert!(back.header("Set-Cookie").unwrap().contains("Max-Age=0"));
    code_of(&back);
    come_back(&server, &cookie, &state, &code).expect(400);
    // A restart ends the sign-ins in progress.
    let (_, state, cookie) = begin(&server);
    let server = server.restart();
    come_back(&server, &cookie, &state, "code").expect(400);
}

#[test]
fn a_browser_that_comes_from_another_provider_is_refused() {
    let provider = Provider::start();
    let server = server(&json!([provider.issuer("corp")]));
    provider.claims(json!({"email": "ann@example.com", "email_verified": true}));
    let query = format!("redirect={}&codeChallenge={}", encode(TARGET), challenge());
    let path = format!("{USERS}/auth-with-oauth2/corp?{query}");
    let sign_in = |iss: &str| {
        let (page, state, cookie) = parts(&server.api().get(&path).expect(302));
        let code = provider.consent(&page);
        let browser = server.api().with_header("Cookie", &cookie);
        let iss = encode(iss);
        let back = browser.get(&format!(
            "/api/oauth2-redirect?state={state}&code={code}&iss={iss}"
        ));
        let location = back.expect(302).header("Location").unwrap().to_owned();
        form_value(location.split_once('?').unwrap().1, "error")
    };
    assert_eq!(sign_in("https://evil.example"), "sign_in_failed");
    assert_eq!(sign_in(&provider.url("")), "");
}

#[test]
fn the_browser_is_sent_to_targets_of_the_collection_only() {
    let (_provider, server) = provider_and_server();
    let base = format!("{USERS}/auth-with-oauth2");
    for redirect in [
        "https://evil.example/in",
        "https://app.example.evil.example/in",
        "https://app.example@evil.example/in",
        "https://evil.example\\@app.example/in",
        "https://app.example/in/../out",
        "https://app.example/in#x",
        "https://app.example:444/in",
        "http://app.example/in",
        "//app.example/in",
        "/in",
        "javascript:alert(1)",
        "https:app.example/in",
        "https://app.example/in\r\nSet-Cookie: a=b",
    ] {
        let refused = begin_at(&server.api(), &base, redirect).expect(400);
        assert_eq!(
            refused.text("/data/redirect/code"),
            "validation_invalid_redirect",
            "{redirect}"
        );
        assert_eq!(refused.header("Location"), None);
    }
    for (query, key) in [
        (String::new(), "redirect"),
        (format!("redirect={}", encode(TARGET)), "codeChallenge"),
        (
            format!("redirect={}&codeChallenge=short", encode(TARGET)),
            "codeChallenge",
        ),
    ] {
        let refused = server
            .api()
            .get(&format!("{base}/github?{query}"))
            .expect(400);
        assert!(refused.json["data"][key].is_object(), "{}", refused.json);
    }
    server
        .api()
        .get(&format!("{base}/nope?redirect=x&codeChallenge=y"))
        .expect(400);
    // A target that is taken away while the user consents.
    let (_, state, cookie) = begin(&server);
    server
        .admin()
        .patch(USERS, json!({"oauth2": {"redirects": []}}))
        .expect(200);
    come_back(&server, &cookie, &state, "code").expect(400);
}

#[test]
fn what_goes_wrong_is_told_to_the_application() {
    let (provider, server) = provider_and_server();
    let error = |query: &str| {
        let (_, state, cookie) = begin(&server);
        let browser = server.api().with_header("Cookie", &cookie);
        let back = browser
            .get(&format!("/api/oauth2-redirect?state={state}&{query}"))
            .expect(302);
        let location = back.header("Location").unwrap().to_owned();
        let (target, query) = location.split_once('?').unwrap();
        assert_eq!(target, TARGET);
        assert_eq!(form_value(query, "state"), "of-app");
        form_value(query, "error")
    };
    assert_eq!(error("error=access_denied"), "access_denied");
    assert_eq!(
        error("error=server_error&error_description=x"),
        "provider_error"
    );
    assert_eq!(error("code=unknown"), "sign_in_failed");
    assert_eq!(error(""), "sign_in_failed");
    // A form, as Apple sends it: the cookie comes with the request that follows.
    let (page, state, cookie) = begin(&server);
    let code = provider.consent(&page);
    let form = server
        .api()
        .with_header("Content-Type", "application/x-www-form-urlencoded");
    let posted = form
        .post("/api/oauth2-redirect", format!("state={state}&code={code}"))
        .expect(303);
    let next = posted.header("Location").unwrap().to_owned();
    let browser = server.api().with_header("Cookie", &cookie);
    code_of(&browser.get(&next).expect(302));
}
