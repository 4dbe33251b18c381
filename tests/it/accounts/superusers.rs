//! `_superusers`: admins as records of a collection, impersonation, and their forgotten passwords.

use serde_json::json;

use super::{register, server, token_of_mail};

const PATH: &str = "/api/collections/_superusers/records";

#[test]
fn admins_are_listed_created_changed_and_deleted_as_records() {
    let server = server();
    let admin = server.admin();
    let body = json!({"email": "b@example.com", "password": "password-2", "passwordConfirm": "password-2",
        "emailVisibility": true, "unknown": 1});
    let made = admin.post(PATH, body.clone()).expect(200);
    assert_eq!(made.json["collectionName"], "_superusers");
    assert_eq!(made.json["collectionId"], "pbc_3142635823");
    assert_eq!(
        (made.text("/email"), &made.json["verified"]),
        ("b@example.com", &json!(true))
    );
    assert!(made.json.get("password").is_none() && made.json.get("password_hash").is_none());
    let again = admin.post(PATH, body.clone()).expect(400);
    assert_eq!(again.text("/data/email/code"), "validation_not_unique");
    let wrong = json!({"email": "", "password": "password-2", "passwordConfirm": "password-3"});
    let wrong = admin.post(PATH, wrong).expect(400);
    assert_eq!(wrong.text("/data/email/code"), "validation_required");
    assert_eq!(
        wrong.text("/data/passwordConfirm/code"),
        "validation_values_mismatch"
    );
    let filter = [("filter", "email ~ 'b@'"), ("sort", "-created")];
    let found = admin.list("_superusers", &filter).expect(200);
    assert_eq!(found.json["totalItems"], 1);
    let hashes = [("filter", "password != ''")];
    admin.list("_superusers", &hashes).expect(400);

    let record = format!("{PATH}/{}", made.text("/id"));
    let log_in = |password: &str| {
        let body = json!({"identity": "b@example.com", "password": password});
        let path = "/api/collections/_superusers/auth-with-password";
        server.api().post(path, body)
    };
    let other = log_in("password-2").expect(200);
    let other = server.api().with_token(other.text("/token"));
    other.get(&record).expect(200);
    let change = json!({"password": "password-3", "passwordConfirm": "password-3"});
    admin.patch(&record, change).expect(200);
    other.get(&record).expect(401);
    log_in("password-2").expect(400);
    log_in("password-3").expect(200);
    admin.delete(&record).expect(204);
    admin.get(&record).expect(404);
    let rest = admin.get(PATH).expect(200);
    let last = rest.text("/items/0/id");
    assert_eq!(rest.json["totalItems"], 1);
    admin.delete(&format!("{PATH}/{last}")).expect(409);
}

#[test]
fn an_admin_acts_in_place_of_an_account_for_a_while() {
    let server = server();
    let ann = register(&server, "ann");
    let admin = server.admin();
    let path = format!("/api/collections/users/impersonate/{ann}");
    let made = admin.post(&path, json!({"duration": 60})).expect(200);
    assert_eq!(made.text("/record/email"), "ann@example.com");
    let acting = server.api().with_token(made.text("/token"));
    let refreshed = acting
        .post("/api/collections/users/auth-refresh", "")
        .expect(200);
    assert_eq!(refreshed.text("/token"), made.text("/token"));
    acting.post(&path, "{}").expect(403);
    let none = "/api/collections/users/impersonate/none";
    admin.post(none, "{}").expect(404);
}

#[test]
fn an_admin_sets_a_forgotten_password_by_mail_once() {
    let server = server();
    let admin = server.admin();
    let body = json!({"email": "c@example.com", "password": "password-2"});
    admin.post(PATH, body).expect(200);
    let (api, base) = (server.api(), "/api/collections/_superusers");
    for email in ["c@example.com", "none@example.com"] {
        let path = format!("{base}/request-password-reset");
        api.post(&path, json!({ "email": email })).expect(204);
    }
    let token = token_of_mail(&server, "c@example.com");
    let confirm = |path: &str, password: &str| {
        let body = json!({"token": token, "password": password, "passwordConfirm": password});
        api.post(&format!("{path}/confirm-password-reset"), body)
    };
    confirm("/api/collections/users", "password-4").expect(400);
    confirm(base, "short").expect(400);
    confirm(base, "password-4").expect(204);
    confirm(base, "password-5").expect(400);
    let body = json!({"identity": "c@example.com", "password": "password-4"});
    api.post(&format!("{base}/auth-with-password"), body)
        .expect(200);
}
