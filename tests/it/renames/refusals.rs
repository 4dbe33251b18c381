//! Names that cannot change, and what cannot follow.

use serde_json::{Value, json};

use super::{COLLECTIONS, fields_with, path, records, rename_fields, set_up};
use crate::support::api::{Api, Reply};
use crate::support::server::Server;

/// The code and the message of a refused attribute.
#[track_caller]
fn refusal(reply: Reply, pointer: &str) -> (String, String) {
    let reply = reply.expect(400);
    let error = &reply.json["data"];
    let error = error.pointer(pointer);
    let error = error.unwrap_or_else(|| panic!("no {pointer} in {}", reply.json));
    let text = |name: &str| error[name].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

fn rename(admin: &Api, from: &str, to: &str) -> Reply {
    admin.patch(&path("", from), json!({"name": to}))
}

#[test]
fn names_that_others_have_or_that_belong_to_the_system_are_refused() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    for name in ["comments", "COMMENTS"] {
        let (code, _) = refusal(rename(&admin, "posts", name), "/name");
        assert_eq!(code, "validation_collection_name_exists");
    }
    for name in ["", "a b", "_posts", "sqlite_x", "json_each"] {
        let (code, _) = refusal(rename(&admin, "posts", name), "/name");
        assert_eq!(code, "validation_match_invalid");
    }
    assert_ne!(rename(&admin, "_superusers", "supers").status, 200);
    let users = path("", "users");
    for (old, new) in [
        ("email", "mail"),
        ("password", "secret"),
        ("tokenKey", "key"),
        ("verified", "real"),
        ("created", "added"),
        ("updated", "changed"),
        ("role", "groups"),
    ] {
        let reply = rename_fields(&admin, &users, &[(old, new)]).expect(400);
        let message = reply.json.to_string();
        assert!(message.contains("cannot be renamed"), "{old}: {message}");
    }
    let fields = fields_with(&admin, &path("", "posts"), &[("title", "n")]);
    let (code, _) = refusal(
        admin.patch(&path("", "posts"), json!({"fields": fields})),
        "/fields/2/name",
    );
    assert_eq!(code, "validation_duplicated_field_name");
    // A rule that is sent with a change is written in the new names.
    let fields = fields_with(&admin, &path("", "posts"), &[("title", "headline")]);
    let wrong = json!({"fields": fields, "createRule": "title = 'a'"});
    let (code, _) = refusal(admin.patch(&path("", "posts"), wrong), "/createRule");
    assert_eq!(code, "validation_invalid_rule");
    let right = json!({"fields": fields, "createRule": "headline = 'a'"});
    admin.patch(&path("", "posts"), right).expect(200);
}

#[test]
fn what_cannot_follow_is_named_and_nothing_changes() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    let job = json!({"name": "clean", "type": "sql", "schedule": "0 0 * * *",
        "sql": "-- users\nDELETE FROM posts WHERE title = 'comments'"});
    admin.post("/api/cron", job).expect(200);
    let view = json!({"name": "uses", "type": "view",
        "viewQuery": "WITH articles AS (SELECT 1 AS n) SELECT c.id, c.text, articles.n FROM comments c, articles"});
    admin.post(COLLECTIONS, view).expect(200);
    let definitions = || {
        let list = admin.get(COLLECTIONS).expect(200).json;
        list["items"].as_array().unwrap().clone()
    };
    let before = definitions();
    let renamed = |names: &[(&str, &str)]| rename_fields(&admin, &path("", "posts"), names);
    for (reply, pointer, named) in [
        (
            rename(&admin, "posts", "articles"),
            "/name",
            "the job clean names posts",
        ),
        (
            renamed(&[("title", "headline")]),
            "/fields/1/name",
            "the job clean names title",
        ),
        (
            rename(&admin, "comments", "articles"),
            "/name",
            "viewQuery of uses",
        ),
    ] {
        let (code, message) = refusal(reply, pointer);
        assert_eq!(code, "validation_rename_refused", "{message}");
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(definitions(), before);
    // Names that the script only mentions in a comment or a string are no obstacle.
    renamed(&[("n", "number")]).expect(200);
    rename(&admin, "users", "people").expect(200);
}

#[test]
fn a_rule_that_would_mean_other_accounts_refuses_the_rename() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    let staff = json!({"name": "staff", "type": "auth", "fields": [
        {"name": "kind", "type": "text"}, {"name": "level", "type": "text"}]});
    admin.post(COLLECTIONS, staff).expect(200);
    // `@request.auth.kind` would admit accounts of both collections.
    for (collection, names) in [("users", ("role", "kind")), ("staff", ("level", "role"))] {
        let reply = rename_fields(&admin, &path("", collection), &[names]);
        let message = reply.expect(400).json.to_string();
        assert!(message.contains("updateRule of posts"), "{message}");
    }
    rename_fields(&admin, &path("", "users"), &[("role", "rank")]).expect(200);
    let rule = json!({"deleteRule": "@request.auth.collectionName ~ 'user'"});
    admin.patch(&path("", "posts"), rule).expect(200);
    let (_, message) = refusal(rename(&admin, "users", "people"), "/name");
    assert!(message.contains("deleteRule of posts"), "{message}");
    let rule = json!({"deleteRule": "@request.auth.collectionName != 'people'"});
    admin.patch(&path("", "posts"), rule).expect(200);
    let (_, message) = refusal(rename(&admin, "users", "people"), "/name");
    assert!(message.contains("the new name"), "{message}");
}

#[test]
fn a_key_that_would_open_more_refuses_the_rename() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    let key = |name: &str, more: Value| {
        let mut body = json!({"name": name, "scopes": ["read"]});
        let map = body.as_object_mut().unwrap();
        map.extend(more.as_object().unwrap().clone());
        admin.post("/api/keys", body).expect(200)
    };
    key("later", json!({"collections": ["articles"]}));
    let (_, message) = refusal(rename(&admin, "posts", "articles"), "/name");
    assert!(message.contains("The API key later"), "{message}");
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let body = json!({"name": "posts", "fields": []});
    admin
        .post(&format!("/db/shop{COLLECTIONS}"), body)
        .expect(200);
    let own = key(
        "own",
        json!({"collections": ["posts"], "databases": ["default"]}),
    );
    rename(&admin, "posts", "entries").expect(200);
    let own = server.api().with_token(own.text("/key"));
    own.get(&records("", "entries")).expect(200);
    rename(&admin, "entries", "posts").expect(200);
    key("wide", json!({"collections": ["posts"]}));
    let (_, message) = refusal(rename(&admin, "posts", "entries"), "/name");
    assert!(message.contains("The API key wide"), "{message}");
}
