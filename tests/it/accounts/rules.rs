//! Access of accounts by rules, in a few stories; `records::model_tests`
//! has the general case.

use serde_json::json;

use super::{register, server, signed_in};
use crate::support::api::Api;
use crate::support::server::Server;

const NOTES: &str = "/api/collections/notes/records";

/// Notes that belong to accounts, in teams that accounts belong to.
fn with_notes() -> (Server, Api, Api) {
    let server = server();
    let admin = server.admin();
    let teams = json!({"name": "teams", "viewRule": "members ~ @request.auth.id", "fields": [
        {"name": "name", "type": "text"},
        {"name": "members", "type": "relation", "collectionId": "users", "maxSelect": 9},
    ]});
    admin.post("/api/collections", teams).expect(200);
    let team = json!([{"name": "team", "type": "relation", "collectionId": "teams"}]);
    let users = admin.get("/api/collections/users").json["fields"].clone();
    let fields = [
        users.as_array().unwrap().clone(),
        team.as_array().unwrap().clone(),
    ]
    .concat();
    admin
        .patch("/api/collections/users", json!({ "fields": fields }))
        .expect(200);
    let own = "owner = @request.auth.id || team = @request.auth.team";
    let notes = json!({"name": "notes", "listRule": own, "viewRule": own,
    "createRule": "@request.auth.id != '' && owner = @request.auth.id \
                   && (@request.body.status:isset = false || status = 'draft')",
    "updateRule": "owner = @request.auth.id && @request.body.owner:isset = false",
    "deleteRule": "@request.auth.team.name = 'Red'",
    "fields": [
        {"name": "title", "type": "text"},
        {"name": "secret", "type": "text", "hidden": true},
        {"name": "status", "type": "select", "values": ["draft", "final"]},
        {"name": "owner", "type": "relation", "collectionId": "users"},
        {"name": "team", "type": "relation", "collectionId": "teams"},
    ]});
    admin.post("/api/collections", notes).expect(200);
    let (ann, bob) = (register(&server, "ann"), register(&server, "bob"));
    for (id, name, member) in [("red", "Red", &ann), ("blue", "Blue", &bob)] {
        let team = json!({"id": id, "name": name, "members": [member]});
        admin
            .post("/api/collections/teams/records", team)
            .expect(200);
        let path = format!("/api/collections/users/records/{member}");
        admin.patch(&path, json!({ "team": id })).expect(200);
    }
    for (id, owner, team) in [("a", &ann, "red"), ("b", &bob, "blue"), ("c", &bob, "red")] {
        let note = json!({"id": id, "title": id, "secret": id, "owner": owner, "team": team});
        admin.post(NOTES, note).expect(200);
    }
    let none = json!({"id": "z", "title": "of nobody"});
    admin.post(NOTES, none).expect(200);
    let (ann, bob) = (signed_in(&server, "ann"), signed_in(&server, "bob"));
    (server, ann, bob)
}

#[test]
fn accounts_see_what_is_theirs_and_their_teams() {
    let (server, ann, bob) = with_notes();
    let ids = |api: &Api| {
        api.list("notes", &[("sort", "title")])
            .expect(200)
            .column("id")
    };
    assert_eq!(ids(&ann), [json!("a"), json!("c")]);
    assert_eq!(ids(&bob), [json!("b"), json!("c")]);
    // An account without a team does not see notes without one.
    register(&server, "cid");
    assert!(ids(&signed_in(&server, "cid")).is_empty());
    assert!(ids(&server.api()).is_empty());
    ann.get(&format!("{NOTES}/b")).expect(404);
    ann.get(&format!("{NOTES}/z")).expect(404);
    // By a related record that is hidden nothing is found out either.
    let found = |api: &Api, filter: &str| api.list("notes", &[("filter", filter)]).column("id");
    assert_eq!(
        found(&bob, "team.name = 'Red'"),
        [] as [serde_json::Value; 0]
    );
    assert_eq!(found(&ann, "team.name = 'Red'").len(), 2);
    for refused in [
        "secret = 'a'",
        "owner.note = ''",
        "owner.password != ''",
        "@request.auth.note = ''",
    ] {
        ann.list("notes", &[("filter", refused)]).expect(400);
    }
    let expanded = bob.get(&format!("{NOTES}/c?expand=team,owner")).expect(200);
    let names: Vec<&String> = expanded.json["expand"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(names, ["owner"]);
}

#[test]
fn what_is_written_is_judged_with_what_was_sent() {
    let (server, ann, bob) = with_notes();
    let me = ann.get("/api/auth/me").text("/id").to_owned();
    ann.post(NOTES, json!({"title": "x", "owner": me}))
        .expect(200);
    ann.post(NOTES, json!({"title": "x", "owner": me, "status": "draft"}))
        .expect(200);
    ann.post(NOTES, json!({"title": "x", "owner": me, "status": "final"}))
        .expect(400);
    ann.post(NOTES, json!({"title": "x"})).expect(400);
    server.api().post(NOTES, json!({"title": "x"})).expect(400);
    ann.patch(&format!("{NOTES}/a"), json!({"title": "y"}))
        .expect(200);
    ann.patch(&format!("{NOTES}/a"), json!({"title": "y", "owner": me}))
        .expect(404);
    ann.patch(&format!("{NOTES}/c"), json!({"title": "y"}))
        .expect(404);
    ann.delete(&format!("{NOTES}/a")).expect(204);
    bob.delete(&format!("{NOTES}/b")).expect(404);
}

#[test]
fn a_relation_cannot_be_used_to_ask_what_exists() {
    let (server, ann, bob) = with_notes();
    let me = ann.get("/api/auth/me").text("/id").to_owned();
    let his = bob.get("/api/auth/me").text("/id").to_owned();
    let hidden = ann
        .post(NOTES, json!({"owner": me, "team": "blue"}))
        .expect(400);
    let missing = ann
        .post(NOTES, json!({"owner": me, "team": "grey"}))
        .expect(400);
    let message = |reply: &crate::support::api::Reply| reply.text("/data/team/message").to_owned();
    assert_eq!(message(&hidden).replace("blue", "grey"), message(&missing));
    let other = ann.post(NOTES, json!({ "owner": his })).expect(400);
    assert_eq!(
        other.text("/data/owner/code"),
        "validation_missing_rel_records"
    );
    ann.post(NOTES, json!({"owner": me, "team": "red"}))
        .expect(200);
    // An update may repeat a relation that the caller cannot see.
    let note = json!({"id": "m", "owner": me, "team": "blue"});
    server.admin().post(NOTES, note).expect(200);
    ann.patch(&format!("{NOTES}/m"), json!({"team": "blue", "title": "t"}))
        .expect(200);
}

#[test]
fn field_rules_of_groups_outrank_the_rules() {
    let (server, ann, _) = with_notes();
    let admin = server.admin();
    let rules = json!({
        "fieldRules": {"staff": ["status", "title"], "boss": ["*"]},
        "fieldEditRules": {"staff": ["status"]},
    });
    admin.patch("/api/collections/notes", &rules).expect(200);
    let read = admin.get("/api/collections/notes").expect(200);
    assert_eq!(read.json["fieldRules"], rules["fieldRules"]);
    let me = ann.get("/api/auth/me").text("/id").to_owned();
    let join = |groups: serde_json::Value| {
        let path = format!("/api/collections/users/records/{me}");
        admin.patch(&path, json!({ "groups": groups })).expect(200);
    };
    assert_eq!(ann.list("notes", &[]).column("id").len(), 2);
    join(json!(["staff"]));
    let list = ann
        .list("notes", &[("sort", "title"), ("filter", "status = ''")])
        .expect(200);
    assert_eq!(list.column("id").len(), 4);
    let first = list.json["items"][0].as_object().unwrap();
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "collectionId",
            "collectionName",
            "created",
            "id",
            "status",
            "title",
            "updated"
        ]
    );
    for query in [("filter", "owner != ''"), ("sort", "team")] {
        ann.list("notes", &[query]).expect(400);
    }
    // Expansion passes over what it may not follow, as over what does not exist.
    for record in ann.list("notes", &[("expand", "owner")]).expect(200).json["items"]
        .as_array()
        .unwrap()
    {
        assert_eq!(record["expand"], json!({}));
    }
    // Fields that may not be written are ignored, and the answer names them.
    let change = json!({"status": "final", "title": "mine", "owner": me});
    let changed = ann.patch(&format!("{NOTES}/b"), change).expect(200);
    assert_eq!(changed.header("X-Ignored-Fields"), Some("owner, title"));
    assert_eq!(
        (changed.text("/title"), changed.text("/status")),
        ("b", "final")
    );
    join(json!(["staff", "boss"]));
    let first = ann.get(&format!("{NOTES}/b")).expect(200);
    assert_eq!(first.text("/team"), "blue");
    assert_eq!(first.json.get("secret"), None);
    join(json!(["nothing"]));
    assert_eq!(ann.list("notes", &[]).column("id").len(), 2);
    for wrong in [
        json!({"fieldRules": {"staff": ["nope"]}}),
        json!({"fieldRules": {"staff": "title"}}),
        json!({"fieldEditRules": ["title"]}),
    ] {
        admin.patch("/api/collections/notes", wrong).expect(400);
    }
}

#[test]
fn rules_about_accounts_are_checked_when_they_are_made() {
    let (server, ..) = with_notes();
    let admin = server.admin();
    for (rule, status) in [
        ("@request.auth.team.name = 'x'", 200),
        ("@request.auth.nothing = 'x'", 400),
        ("@request.auth.team.nothing = 'x'", 400),
        ("@request.auth.password = 'x'", 400),
        ("@request.auth.name.x = 'x'", 400),
        ("@request.auth.collectionName = 'users'", 200),
        ("@request.auth.groups.0 = 'staff'", 200),
        ("@request.nothing.id = 'x'", 400),
        ("@request.body.nothing = 'x'", 400),
        ("@request.body.title:isset = true", 200),
        ("@request.auth.name = 'x'", 200),
    ] {
        let body = json!({"listRule": rule});
        assert_eq!(
            admin.patch("/api/collections/notes", body).status,
            status,
            "{rule}"
        );
    }
    // Fields that rules need stay.
    let team = json!({"name": "team", "fields": []});
    admin.post("/api/collections", team).expect(200);
    let free = json!({"name": "people", "type": "auth"});
    admin.post("/api/collections", free).expect(200);
    admin.delete("/api/collections/people").expect(204);
    let notes = json!({"fields": [{"name": "title", "type": "text"}], "viewRule": null,
        "createRule": null, "updateRule": null, "deleteRule": null});
    admin.patch("/api/collections/notes", notes).expect(200);
    let refused = admin.delete("/api/collections/users");
    assert_eq!(refused.status, 409);
    admin
        .patch(
            "/api/collections/teams",
            json!({"viewRule": null, "fields": []}),
        )
        .expect(200);
    let refused = admin.delete("/api/collections/users").expect(409);
    assert!(
        refused.text("/message").contains("Rule of notes"),
        "{}",
        refused.json
    );
    admin
        .patch("/api/collections/notes", json!({"listRule": ""}))
        .expect(200);
    admin.delete("/api/collections/users").expect(204);
}

/// "The role is one of" written as `'admin editor' ~ @request.auth.role` let callers without an
/// account in, and accounts without a role: an empty pattern is part of every text, and the literal
/// beside it counted as a wish for what has no value, as it does in `= ''`.
#[test]
fn what_a_request_does_not_have_is_part_of_no_text() {
    let server = Server::start();
    let admin = server.admin();
    let role = json!({"name": "role", "type": "text"});
    let people = json!({"name": "people", "type": "auth", "createRule": "", "fields": [role]});
    admin.post("/api/collections", people).expect(200);
    let account = |name: &str, role: &str| {
        let email = format!("{name}@example.com");
        let body = json!({"email": email, "password": "password-1", "role": role});
        admin
            .post("/api/collections/people/records", body)
            .expect(200);
        let login = json!({"identity": email, "password": "password-1"});
        let path = "/api/collections/people/auth-with-password";
        let reply = server.api().post(path, login).expect(200);
        server.api().with_token(reply.text("/token"))
    };
    let (editor, plain, stranger) = (account("ann", "editor"), account("bob", ""), server.api());
    let notes = json!({"name": "notes", "fields": [{"name": "t", "type": "text"}]});
    admin.post("/api/collections", notes).expect(200);
    let path = "/api/collections/notes/records";
    admin.post(path, json!({"t": "secret"})).expect(200);
    for (rule, expected) in [
        ("'admin editor' ~ @request.auth.role", [1, 0, 0]),
        ("'admin editor' ?~ @request.auth.role", [1, 0, 0]),
        ("@request.auth.role ~ '%'", [1, 0, 0]),
        ("@request.auth.role ~ ''", [1, 0, 0]),
        ("'x' ~ @request.auth.nothing", [0, 0, 0]),
        ("'admin' !~ @request.auth.role", [1, 0, 0]),
        ("NOT 'admin' !~ @request.auth.role", [0, 1, 1]),
        // Every account has the field, callers without one do not.
        ("@request.auth.role !~ 'editor'", [0, 1, 0]),
        ("@request.auth.role = ''", [0, 1, 1]),
        ("@request.auth.role IN ('editor', '')", [1, 1, 1]),
    ] {
        let rules = json!({"listRule": rule, "createRule": rule});
        let status = admin.patch("/api/collections/notes", rules).status;
        if rule.contains("nothing") {
            assert_eq!(status, 400, "{rule}");
            continue;
        }
        assert_eq!(status, 200, "{rule}");
        for (caller, is_admitted) in [&editor, &plain, &stranger].into_iter().zip(expected) {
            let listed = caller.get(path).expect(200);
            let count = listed.json["totalItems"].as_u64().unwrap();
            assert_eq!(count > 0, is_admitted == 1, "list {rule}");
            let made = caller.post(path, json!({"t": "made"})).status;
            assert_eq!(made == 200, is_admitted == 1, "create {rule}");
        }
    }
}
