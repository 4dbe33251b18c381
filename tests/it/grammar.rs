//! The grammar of filters and rules as clients use it: records that name a record, membership,
//! modifiers, functions, and what the request itself says.

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::server::Server;

const NOTES: &str = "/api/collections/notes/records";

/// Teams and their members, and notes of teams; `ann` leads red and is a guest of blue.
fn with_teams(rule: &str) -> (Server, Api, Api) {
    let server = Server::start();
    let admin = server.admin();
    let users = json!({"name": "users", "type": "auth", "createRule": "", "viewRule": "", "fields": [
        {"name": "tags", "type": "select", "values": ["a", "b"], "maxSelect": 2},
    ]});
    admin.post("/api/collections", users).expect(200);
    let teams = json!({"name": "teams", "viewRule": "", "listRule": "", "fields": [
        {"name": "name", "type": "text"},
        {"name": "secret", "type": "text", "hidden": true},
    ]});
    admin.post("/api/collections", teams).expect(200);
    let members = json!({"name": "members", "viewRule": "role != 'guest'", "fields": [
        {"name": "user", "type": "relation", "collectionId": "users"},
        {"name": "team", "type": "relation", "collectionId": "teams"},
        {"name": "role", "type": "text"},
    ]});
    admin.post("/api/collections", members).expect(200);
    let notes = json!({"name": "notes", "listRule": rule, "viewRule": rule, "createRule": "",
        "updateRule": "@request.body.title:changed = false", "fields": [
        {"name": "title", "type": "text"},
        {"name": "team", "type": "relation", "collectionId": "teams"},
        {"name": "tags", "type": "select", "values": ["a", "b", "ab"], "maxSelect": 3},
    ]});
    admin.post("/api/collections", notes).expect(200);
    let account = json!({"email": "ann@example.com", "password": "password-1",
        "passwordConfirm": "password-1", "tags": ["a", "b"]});
    let path = "/api/collections/users/records";
    let ann = admin.post(path, account).expect(200).json["id"].clone();
    for (id, role) in [("red", "lead"), ("blue", "guest"), ("green", "")] {
        let team = json!({"id": id, "name": id, "secret": id});
        admin
            .post("/api/collections/teams/records", team)
            .expect(200);
        let note = json!({"id": id, "title": id, "team": id, "tags": ["a", "ab"]});
        admin.post(NOTES, note).expect(200);
        if !role.is_empty() {
            let member = json!({"id": id, "user": ann, "team": id, "role": role});
            admin
                .post("/api/collections/members/records", member)
                .expect(200);
        }
    }
    let login = json!({"identity": "ann@example.com", "password": "password-1"});
    let path = "/api/collections/users/auth-with-password";
    let token = admin.post(path, login).expect(200).json["token"].clone();
    let ann = server.api().with_token(token.as_str().unwrap());
    (server, admin, ann)
}

/// The ids that a filter finds, sorted, or the status of the refusal.
fn found(api: &Api, collection: &str, filter: &str) -> String {
    let list = api.list(collection, &[("filter", filter), ("sort", "id")]);
    match list.json["items"].as_array() {
        Some(items) => {
            let ids = items.iter().map(|item| item["id"].as_str().unwrap());
            ids.collect::<Vec<_>>().join(" ")
        }
        None => list.status.to_string(),
    }
}

#[test]
fn a_rule_of_membership_shows_what_belongs_to_the_teams_of_the_caller() {
    for (rule, expected) in [
        ("team.members_via_team.user ?= @request.auth.id", "blue red"),
        (
            "@collection.members.user ?= @request.auth.id && @collection.members.team ?= team",
            "blue red",
        ),
        (
            "team.members_via_team.user ?= @request.auth.id \
             && team.members_via_team.role ?= 'lead' // of the same membership",
            "red",
        ),
        (
            "@collection.members:a.user ?= @request.auth.id && @collection.members:b.team ?= team",
            "blue red",
        ),
        (
            "@collection.members.role ?= 'lead' && @collection.members.team ?= team",
            "red",
        ),
        ("@collection.members.team != team", "green"),
        (
            "NOT (@collection.members.user ?= @request.auth.id && @collection.members.team ?= team)",
            "green",
        ),
    ] {
        let (server, _, ann) = with_teams(rule);
        assert_eq!(found(&ann, "notes", ""), expected, "{rule}");
        let is_open = rule.starts_with("NOT") || rule.contains("!=");
        let anonymous = if is_open { "green" } else { "" };
        if !rule.contains("role ?= 'lead' && @collection") {
            let ids = found(&server.api(), "notes", "");
            assert!(ids == anonymous || is_open, "{rule}: {ids}");
        }
        for id in ["red", "blue", "green"] {
            let status = if expected.contains(id) { 200 } else { 404 };
            ann.get(&format!("{NOTES}/{id}")).expect(status);
        }
    }
}

#[test]
fn a_filter_of_a_caller_sees_only_what_the_caller_may_view() {
    let (_server, admin, ann) = with_teams("");
    // The membership of blue is a guest's, which the view rule hides.
    for (filter, all, seen) in [
        ("members_via_team.role ?~ 'e'", "blue red", "red"),
        ("members_via_team.role = ''", "green", "blue green"),
        ("members_via_team.user ?!= ''", "blue red", "red"),
        ("members_via_team.secret = ''", "400", "400"),
        ("notes_via_team.title ?= 'red'", "red", "red"),
        ("notes_via_team.team.secret ?= 'red'", "red", "400"),
        (
            "@collection.members.role ?= 'lead'",
            "blue green red",
            "403",
        ),
        ("@request.method = 'GET'", "blue green red", "403"),
        ("@request.headers.host != ''", "blue green red", "403"),
        ("users_via_team.id = ''", "400", "400"),
        ("secret:lower = 'red'", "red", "400"),
    ] {
        assert_eq!(found(&admin, "teams", filter), all, "{filter}");
        assert_eq!(found(&ann, "teams", filter), seen, "{filter}");
    }
    let path = "/api/collections/teams/records?sort=id&expand=members_via_team.user,notes_via_team";
    let teams = ann.get(path).expect(200).json["items"].clone();
    let names = |team: &Value| -> Vec<String> {
        let expanded = team["expand"].as_object().unwrap();
        expanded.keys().cloned().collect()
    };
    assert_eq!(names(&teams[0]), ["notes_via_team"]);
    assert_eq!(names(&teams[2]), ["members_via_team", "notes_via_team"]);
    let members = &teams[2]["expand"]["members_via_team"];
    assert_eq!(members.as_array().unwrap().len(), 1);
    assert_eq!(members[0]["expand"]["user"]["collectionName"], "users");
}

#[test]
fn lists_functions_and_modifiers_in_filters() {
    let (_server, admin, ann) = with_teams("");
    admin
        .patch(&format!("{NOTES}/green"), json!({"tags": ["b"]}))
        .expect(200);
    admin
        .patch(&format!("{NOTES}/blue"), json!({"tags": []}))
        .expect(200);
    for (filter, expected) in [
        ("tags ~ 'a'", "red"),
        ("tags !~ 'a'", "blue green"),
        ("tags:each ~ 'a'", "red"),
        ("tags:each ~ 'b'", "green"),
        ("tags ?= 'a' && tags ?= 'ab'", "red"),
        ("tags:each ?= 'a' && tags:each ?= 'ab'", ""),
        ("tags:length = 2", "red"),
        ("tags:length = 0", "blue"),
        ("title:lower = 'RED'", ""),
        (
            "strftime('%Y', created) = strftime('%Y', @now) // now",
            "blue green red",
        ),
        ("strftime('%d', title) = ''", "blue green red"),
        (
            "geoDistance(0, 0, 0, 1) > 111 && geoDistance(0, 0, 0, 1) < 112",
            "blue green red",
        ),
        ("NOT (geoDistance(0, 0, 0, 1) > 111)", ""),
        (
            "@year > 2025 && @month < 13 && @weekday < 7 && @hour < 24",
            "blue green red",
        ),
        (
            "created > @yearStart && created < @yearEnd && created <= @monthEnd",
            "blue green red",
        ),
        ("title:each = 'a'", "400"),
        ("title:isset = true", "400"),
        ("title:no = 1", "400"),
        ("@decade = 1", "400"),
    ] {
        assert_eq!(found(&ann, "notes", filter), expected, "{filter}");
    }
}

#[test]
fn rules_see_the_request() {
    let (_server, admin, ann) = with_teams("");
    let red = format!("{NOTES}/red");
    ann.patch(&red, json!({"title": "red", "tags": ["a"]}))
        .expect(200);
    ann.patch(&red, json!({"title": "other"})).expect(404);
    let tagged = json!({"title": "new", "tags": ["a", "b"]});
    for (rule, status) in [
        ("@request.headers.x_token = 'T'", 200),
        ("@request.headers.x_token:lower = 't'", 200),
        ("@request.headers.x_other:isset = true", 400),
        ("@request.query.invite = 'a b'", 200),
        (
            "@request.query.invite:isset = true && @request.query.other:isset = false",
            200,
        ),
        ("@request.query.other = @request.query.another", 400),
        (
            "@request.method = 'POST' && @request.context = 'default'",
            200,
        ),
        ("@request.body.tags:length = 2", 200),
        ("@request.body.tags:each ~ 'a'", 400),
        ("@request.body.tags ~ 'a'", 200),
        ("@request.body.title:lower = 'new'", 200),
        ("@request.body.title:changed = true", 400),
    ] {
        admin
            .patch("/api/collections/notes", json!({"createRule": rule}))
            .expect(200);
        let caller = ann.with_header("X-Token", "T");
        let reply = caller.post(&format!("{NOTES}?invite=a%20b"), &tagged);
        assert_eq!(reply.status, status, "{rule}: {}", reply.json);
    }
    for rule in [
        "@request.nothing = 1",
        "@collection.nothing.id = 1",
        "@collection.members = 1",
        "members_via_team.nothing = 1",
        "@request.body.title:length = 1",
    ] {
        admin
            .patch("/api/collections/notes", json!({"createRule": rule}))
            .expect(400);
    }
}

#[test]
fn a_view_rule_can_admit_records_in_expansions_only() {
    let (_server, admin, ann) = with_teams("");
    let rule = json!({"viewRule": "@request.context = 'expand'"});
    admin.patch("/api/collections/members", &rule).expect(200);
    ann.get("/api/collections/members/records/red").expect(404);
    let path = "/api/collections/teams/records/red?expand=members_via_team";
    let team = ann.get(path).expect(200).json;
    assert_eq!(team["expand"]["members_via_team"][0]["id"], "red");
    admin.patch("/api/collections/teams", &rule).expect(200);
    ann.get(path).expect(404);
}

/// Tasks with and without a team, a title and a date.
fn create_tasks(admin: &Api) {
    let fields = json!([
        {"name": "title", "type": "text"},
        {"name": "team", "type": "relation", "collectionId": "teams"},
        {"name": "others", "type": "relation", "collectionId": "teams", "maxSelect": 3},
        {"name": "due", "type": "datetime"},
        {"name": "rank", "type": "number", "nullable": true},
        {"name": "meta", "type": "json"},
    ]);
    let definition = json!({"name": "tasks", "fields": fields});
    admin.post("/api/collections", definition).expect(200);
    let path = "/api/collections/tasks/records";
    for task in [
        json!({"id": "empty"}),
        json!({"id": "old", "title": "b", "due": "2020-01-01", "team": "red", "rank": 1}),
        json!({"id": "later", "title": "c", "due": "2999-01-01", "team": "blue",
            "others": ["red", "green"], "meta": {"a": "x"}}),
    ] {
        admin.post(path, task).expect(200);
    }
    let team = json!({"id": "none"});
    let teams = "/api/collections/teams/records";
    admin.post(teams, team).expect(200);
    let task =
        json!({"id": "unnamed", "team": "none", "others": ["red", "none"], "due": "2998-01-01"});
    admin.post(path, task).expect(200);
}

/// An application that shows what was published before now wrote `published <= @now`.
#[test]
fn an_empty_field_is_smaller_than_any_value_and_a_missing_one_only_differs() {
    let (_server, admin, _) = with_teams("");
    create_tasks(&admin);
    for (filter, expected) in [
        ("due < @now", "empty old"),
        ("due <= '2020-01-01'", "empty old"),
        ("due > '2020-01-01'", "later unnamed"),
        ("NOT (due < @now)", "later unnamed"),
        ("title < 'c'", "empty old unnamed"),
        ("title <= ''", "empty unnamed"),
        ("'c' > title", "empty old unnamed"),
        ("title > ''", "later old"),
        // Only the team without a name has an empty one.
        ("team.name < 'c'", "later unnamed"),
        ("team.name != 'red'", "empty later unnamed"),
        ("team.name !~ 'red'", "later unnamed"),
        ("team.name ~ ''", "later old unnamed"),
        ("team.name = ''", "empty unnamed"),
        ("NOT (team.name !~ 'red')", "empty old"),
        ("others.name >= 'a'", "later"),
        ("others.name < 's'", "later unnamed"),
        ("others.name ?!~ 'red'", "later unnamed"),
        ("rank < 5", "old"),
        ("meta.a !~ 'y'", "later"),
        // The tasks of a team without any do not count.
        ("team.tasks_via_team.others.name >= 'g'", "later"),
        ("team.tasks_via_others.title >= 'c'", ""),
        // Without a ? a function asks for all values, as a path does.
        ("strftime('%Y', others.tasks_via_others.due) = '2999'", ""),
        (
            "strftime('%Y', others.tasks_via_others.due) ?= '2999'",
            "later unnamed",
        ),
        (
            "strftime('%Y', others.tasks_via_others.due) > '2900'",
            "later unnamed",
        ),
        (
            "NOT (strftime('%Y', others.tasks_via_others.due) = '2999')",
            "empty later old unnamed",
        ),
    ] {
        assert_eq!(found(&admin, "tasks", filter), expected, "{filter}");
    }
    let order = admin.list("tasks", &[("sort", "team.name,id")]);
    let ids: Vec<&str> = order.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["empty", "unnamed", "later", "old"]);
}

#[test]
fn nothing_but_inequality_is_true_of_a_value_that_the_request_does_not_have() {
    for (rule, of_guest, of_ann) in [
        ("@request.auth.email !~ 'spam'", "", "blue green red"),
        ("@request.auth.email ~ '%'", "", "blue green red"),
        (
            "@request.auth.email != 'spam'",
            "blue green red",
            "blue green red",
        ),
        ("@request.query.x !~ 'a'", "", ""),
        ("@request.auth.email:lower !~ 'spam'", "", "blue green red"),
        ("@request.auth.email:length < 5", "", "blue green red"),
        ("team.members_via_team.user !~ @request.auth.id", "", ""),
        // One of the tags contains it, but not each.
        ("@request.auth.tags ~ 'b'", "", "blue green red"),
        ("@request.auth.tags:each ~ 'b'", "", ""),
        ("@request.auth.tags:each ?~ 'b'", "", "blue green red"),
    ] {
        let (server, _, ann) = with_teams(rule);
        assert_eq!(found(&server.api(), "notes", ""), of_guest, "{rule}");
        assert_eq!(found(&ann, "notes", ""), of_ann, "{rule}");
    }
}
