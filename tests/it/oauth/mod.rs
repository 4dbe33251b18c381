//! Signing in with a provider: accounts that sign up, sign in, link and unlink.

use serde_json::{Value, json};

use crate::support::api::{Api, Reply};
use crate::support::provider::{Provider, page_for};
use crate::support::server::Server;
use crate::support::stream::Stream;

mod attacks;
mod redirects;
mod shapes;

const BACK: &str = "https://app.example/api/oauth2-redirect";
const USERS: &str = "/api/collections/users";

/// A server with an auth collection whose accounts sign in with these providers.
fn server(providers: &Value) -> Server {
    let server = Server::with(&[("AUTH_COLLECTION", "users")]);
    make_users(&server.admin(), "", providers);
    server
}

fn make_users(admin: &Api, base: &str, providers: &Value) {
    let own = "id = @request.auth.id";
    let users = json!({"name": "users", "type": "auth", "createRule": "", "viewRule": own,
        "updateRule": own, "deleteRule": own, "listRule": own,
        "fields": [{"name": "name", "type": "text"}, {"name": "nick", "type": "text", "unique": true},
            {"name": "picture", "type": "url"}],
        "oauth2": {"enabled": true, "providers": providers, "redirects": ["https://app.example/in"],
            "mappedFields": {"name": "name", "username": "nick", "avatarURL": "picture"}}});
    admin
        .post(&format!("{base}/api/collections"), users)
        .expect(200);
}

/// The provider of this name in the list of sign-in methods.
fn listed(api: &Api, base: &str, name: &str) -> Value {
    let reply = api.get(&format!("{base}{USERS}/auth-methods")).expect(200);
    let list = reply.json["oauth2"]["providers"]
        .as_array()
        .unwrap()
        .clone();
    let found = list.into_iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {}", reply.json))
}

/// Begins a sign-in; the body of the request that ends it.
fn begin(api: &Api, provider: &Provider, name: &str) -> Value {
    let listed = listed(api, "", name);
    let code = provider.consent(&page_for(&listed, BACK));
    json!({"provider": name, "code": code, "codeVerifier": listed["codeVerifier"],
        "redirectURL": BACK})
}

fn end(api: &Api, body: &Value) -> Reply {
    api.post(&format!("{USERS}/auth-with-oauth2"), body)
}

fn sign_in(api: &Api, provider: &Provider, name: &str) -> Reply {
    end(api, &begin(api, provider, name))
}

/// A user of GitHub with a verified address.
fn be_github(provider: &Provider, id: u64, email: &str, verified: bool) {
    provider.answers(
        "/user",
        json!({"id": id, "login": format!("login{id}"), "name": "Ann",
        "avatar_url": "https://pictures.example/1"}),
    );
    provider.answers(
        "/user/emails",
        json!([
            {"email": "old@example.com", "primary": false, "verified": true},
            {"email": email, "primary": true, "verified": verified},
        ]),
    );
}

fn register(server: &Server, email: &str) -> Reply {
    let body = json!({"email": email, "password": "password-1", "passwordConfirm": "password-1"});
    server.api().post("/api/auth/register", body).expect(200)
}

fn log_in(server: &Server, email: &str) -> Reply {
    let body = json!({"identity": email, "password": "password-1"});
    server.api().post("/api/auth/login", body)
}

fn verify(server: &Server, id: &str) {
    let path = format!("{USERS}/records/{id}");
    server
        .admin()
        .patch(&path, json!({"verified": true}))
        .expect(200);
}

fn links(api: &Api) -> Reply {
    api.get("/api/collections/_externalAuths/records")
        .expect(200)
}

#[test]
fn a_user_of_a_provider_signs_up_and_signs_in_again() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let api = server.api();
    let first = sign_in(&api, &provider, "github").expect(200);
    let meta = &first.json["meta"];
    assert_eq!(meta["isNew"], true);
    for (name, value) in [
        ("id", "7"),
        ("name", "Ann"),
        ("username", "login7"),
        ("email", "ann@example.com"),
        ("avatarURL", "https://pictures.example/1"),
        ("accessToken", "access-1"),
        ("refreshToken", "refresh-1"),
    ] {
        assert_eq!(meta[name], value, "{name}");
    }
    assert_eq!(meta["rawUser"]["login"], "login7");
    let record = &first.json["record"];
    assert_eq!(record["verified"], true, "{record}");
    for (name, value) in [
        ("email", "ann@example.com"),
        ("name", "Ann"),
        ("nick", "login7"),
        ("picture", "https://pictures.example/1"),
    ] {
        assert_eq!(record[name], value, "{name}");
    }
    assert_eq!(first.header("Cache-Control"), Some("no-store"));
    let me = api
        .with_token(first.text("/token"))
        .get("/api/auth/me")
        .expect(200);
    assert_eq!(me.text("/id"), first.text("/record/id"));
    let second = sign_in(&api, &provider, "github").expect(200);
    assert_eq!(second.text("/record/id"), first.text("/record/id"));
    assert_eq!(second.json["meta"]["isNew"], false);
    // No password was set, so none is right.
    log_in(&server, "ann@example.com").expect(401);
    // The client proved itself, and showed the verifier.
    let body = provider.token_request();
    assert!(
        body.contains("client_secret=secret-1") && body.contains("code_verifier="),
        "{body}"
    );
}

#[test]
fn what_the_application_sends_comes_before_the_profile() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let mut body = begin(&server.api(), &provider, "github");
    body["createData"] = json!({"name": "Chosen", "email": "other@example.com"});
    let made = end(&server.api(), &body).expect(200);
    assert_eq!(made.text("/record/name"), "Chosen");
    assert_eq!(made.text("/record/email"), "other@example.com");
    // The provider has verified another address.
    assert_eq!(made.json["record"]["verified"], false);
    // What is taken is left out.
    be_github(&provider, 8, "eve@example.com", true);
    provider.answers("/user", json!({"id": 8, "login": "login7", "name": "Eve"}));
    let eve = sign_in(&server.api(), &provider, "github").expect(200);
    assert_eq!(
        (eve.text("/record/nick"), eve.text("/record/name")),
        ("", "Eve")
    );
}

#[test]
fn the_create_rule_decides_about_new_accounts() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let admin = server.admin();
    admin.patch(USERS, json!({"createRule": null})).expect(200);
    sign_in(&server.api(), &provider, "github").expect(403);
    admin
        .patch(
            USERS,
            json!({"createRule": "@request.context = 'oauth2' && email ~ '@work.example'"}),
        )
        .expect(200);
    sign_in(&server.api(), &provider, "github").expect(400);
    be_github(&provider, 7, "ann@work.example", true);
    sign_in(&server.api(), &provider, "github").expect(200);
    // Who has an account signs in, whatever the rule says.
    admin.patch(USERS, json!({"createRule": null})).expect(200);
    sign_in(&server.api(), &provider, "github").expect(200);
    admin
        .patch(USERS, json!({"authRule": "verified = false"}))
        .expect(200);
    sign_in(&server.api(), &provider, "github").expect(403);
}

#[test]
fn a_signed_in_account_links_and_unlinks() {
    let provider = Provider::start();
    let mut second = provider.settings("gitea");
    second["displayName"] = json!("Ours");
    let server = server(&json!([provider.settings("github"), second]));
    let id = register(&server, "ann@example.com").text("/id").to_owned();
    let token = log_in(&server, "ann@example.com")
        .expect(200)
        .text("/token")
        .to_owned();
    let ann = server.api().with_token(&token);
    be_github(&provider, 7, "elsewhere@example.com", true);
    let linked = sign_in(&ann, &provider, "github").expect(200);
    assert_eq!(linked.text("/record/id"), id);
    // The password of who is signed in stays.
    log_in(&server, "ann@example.com").expect(200);
    let found = links(&ann);
    assert_eq!(found.column("provider"), ["github"]);
    assert_eq!(found.column("providerId"), ["7"]);
    let filter = "?filter=recordRef%3D%27other%27";
    let none = ann
        .get(&format!("/api/collections/_externalAuths/records{filter}"))
        .expect(200);
    assert_eq!(none.json["totalItems"], 0);
    // Another account sees and deletes nothing of it.
    register(&server, "eve@example.com");
    let eve = server
        .api()
        .with_token(log_in(&server, "eve@example.com").text("/token"));
    assert_eq!(links(&eve).json["totalItems"], 0);
    let link = format!(
        "/api/collections/_externalAuths/records/{}",
        found.text("/items/0/id")
    );
    eve.delete(&link).expect(404);
    ann.delete(&link).expect(204);
    assert_eq!(links(&ann).json["totalItems"], 0);
    ann.delete(&link).expect(404);
}

#[test]
fn the_last_way_to_sign_in_stays() {
    let provider = Provider::start();
    let server = server(&json!([
        provider.settings("github"),
        provider.settings("gitea")
    ]));
    be_github(&provider, 7, "ann@example.com", true);
    let made = sign_in(&server.api(), &provider, "github").expect(200);
    let ann = server.api().with_token(made.text("/token"));
    let link = |provider: &str| {
        let found = links(&ann);
        let items = found.json["items"].as_array().unwrap().clone();
        let found = items
            .into_iter()
            .find(|it| it["provider"] == provider)
            .unwrap();
        format!(
            "/api/collections/_externalAuths/records/{}",
            found["id"].as_str().unwrap()
        )
    };
    ann.delete(&link("github")).expect(409);
    sign_in(&ann, &provider, "gitea").expect(200);
    ann.delete(&link("github")).expect(204);
    ann.delete(&link("gitea")).expect(409);
    // An admin may.
    let admin = server.admin();
    let filter = format!("?filter=recordRef%3D%22{}%22", made.text("/record/id"));
    let found = admin
        .get(&format!("/api/collections/_externalAuths/records{filter}"))
        .expect(200);
    assert_eq!(found.column("provider"), ["gitea"]);
    admin.delete(&link("gitea")).expect(204);
}

#[test]
fn links_end_with_their_account() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let made = sign_in(&server.api(), &provider, "github").expect(200);
    let ann = server.api().with_token(made.text("/token"));
    let id = made.text("/record/id");
    ann.delete(&format!("{USERS}/records/{id}")).expect(204);
    // An admin makes another account with the same id.
    let body = json!({"id": id, "email": "eve@example.com", "password": "password-1"});
    server
        .admin()
        .post(&format!("{USERS}/records"), body)
        .expect(200);
    let again = sign_in(&server.api(), &provider, "github").expect(200);
    assert_ne!(again.text("/record/id"), id);
    assert_eq!(again.json["meta"]["isNew"], true);
}

#[test]
fn the_secret_of_a_client_is_written_and_never_read_back() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    let admin = server.admin();
    let shown = admin.get(USERS).expect(200);
    assert!(!String::from_utf8_lossy(&shown.body).contains("secret-1"));
    // What was shown is sent back, and the secret stays.
    let providers = &shown.json["oauth2"];
    admin.patch(USERS, json!({"oauth2": providers})).expect(200);
    be_github(&provider, 7, "ann@example.com", true);
    sign_in(&server.api(), &provider, "github").expect(200);
    let body = provider.token_request();
    assert!(body.contains("client_secret=secret-1"), "{body}");
}

#[test]
fn a_secret_can_come_from_the_environment() {
    let provider = Provider::start();
    let server = Server::with(&[
        ("AUTH_COLLECTION", "users"),
        (
            "OAUTH2_SECRET__DEFAULT__USERS__GITHUB",
            "secret-of-the-environment",
        ),
    ]);
    let mut settings = provider.settings("github");
    settings["clientSecret"] = json!("");
    make_users(&server.admin(), "", &json!([settings]));
    be_github(&provider, 7, "ann@example.com", true);
    sign_in(&server.api(), &provider, "github").expect(200);
    let body = provider.token_request();
    assert!(
        body.contains("client_secret=secret-of-the-environment"),
        "{body}"
    );
}

#[test]
fn definitions_of_providers_are_checked() {
    let server = server(&json!([]));
    let admin = server.admin();
    for (oauth2, key) in [
        (
            json!({"providers": [{"name": "nope", "clientId": "c"}]}),
            "/data/oauth2/providers/0/authURL",
        ),
        (
            json!({"providers": [{"name": "google"}]}),
            "/data/oauth2/providers/0/clientId",
        ),
        (json!({"redirects": ["/in"]}), "/data/oauth2/redirects/0"),
    ] {
        let refused = admin.patch(USERS, json!({"oauth2": oauth2})).expect(400);
        assert!(refused.json.pointer(key).is_some(), "{}", refused.json);
    }
    admin
        .patch(USERS, json!({"oauth2": {"enabled": false}}))
        .expect(200);
    let methods = server
        .api()
        .get(&format!("{USERS}/auth-methods"))
        .expect(200);
    assert_eq!(
        methods.json["oauth2"],
        json!({"enabled": false, "providers": []})
    );
    let body = json!({"provider": "github", "code": "c", "redirectURL": BACK});
    end(&server.api(), &body).expect(403);
    let presets = admin
        .get("/api/collections/meta/oauth2-providers")
        .expect(200);
    let names = presets.json.as_array().unwrap();
    assert!(names.len() > 30 && names.iter().any(|it| it["name"] == "google"));
}

#[test]
fn the_popup_of_the_sdk_gets_the_code_over_its_stream_of_events() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    be_github(&provider, 7, "ann@example.com", true);
    let api = server.api();
    let mut stream = Stream::open(&server, "", "");
    let state = stream.client.clone();
    let back = |query: &str| api.get(&format!("/api/oauth2-redirect?{query}"));
    // It does not wait for a code yet, and no code is for a stranger.
    back(&format!("state={state}&code=early")).expect(400);
    stream.set(&api, &["@oauth2"]).expect(204);
    back("state=another&code=c").expect(400);
    api.get(&format!(
        "/db/other/api/oauth2-redirect?state={state}&code=c"
    ))
    .expect(400);
    let listed = listed(&api, "", "github");
    let code = provider.consent(&page_for(&listed, BACK));
    let page = back(&format!("state={state}&code={code}")).expect(200);
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    let event = stream.next().unwrap();
    assert_eq!(event.name, "@oauth2");
    assert_eq!(event.data, json!({"state": state, "code": code}));
    let body = json!({"provider": "github", "code": code, "codeVerifier": listed["codeVerifier"],
        "redirectURL": BACK});
    end(&api, &body).expect(200);
    // One code is told, then the client has to wait for another.
    back(&format!("state={state}&code=again")).expect(400);
}

#[test]
fn a_refused_consent_is_told_too_and_forms_are_read() {
    let provider = Provider::start();
    let server = server(&json!([provider.settings("github")]));
    let api = server.api();
    let mut stream = Stream::open(&server, "", "");
    stream.set(&api, &["@oauth2"]).expect(204);
    let form = api.with_header("Content-Type", "application/x-www-form-urlencoded");
    let body = format!("state={}&error=access_denied", stream.client);
    form.post("/api/oauth2-redirect", body).expect(400);
    let event = stream.next().unwrap();
    assert_eq!(event.data["error"], "access_denied");
}
