//! Definitions in the form that PocketBase exports, and their import.

use serde_json::{Value, json};

use super::support::api::{Api, Reply};
use super::support::server::Server;
use super::support::sqlite_for_writing;

/// Three collections with every attribute that an export has, in an order in which relations point
/// to later collections.
fn export() -> Value {
    let token = |seconds: u32| json!({"duration": seconds});
    let mail = json!({"subject": "Hello {APP_NAME}", "body": "<p>{TOKEN}</p>"});
    json!([
        {
            "id": "pbc_2001", "name": "orders", "type": "base", "system": false,
            "listRule": "@request.auth.id != '' && owner = @request.auth.id",
            "viewRule": "", "createRule": "", "updateRule": "", "deleteRule": null,
            "fields": [
                id_field(),
                field("text", "code", json!({"autogeneratePattern": "[A-Z]{3}-[0-9]{4}", "pattern": "", "min": 0, "max": 0, "primaryKey": false})),
                field("number", "amount", json!({"min": null, "max": null, "onlyInt": false})),
                field("bool", "paid", json!({})),
                field("email", "contact", json!({"exceptDomains": null, "onlyDomains": []})),
                field("url", "link", json!({"exceptDomains": [], "onlyDomains": null})),
                field("editor", "notes", json!({"maxSize": 0, "convertURLs": true})),
                field("date", "due", json!({"min": "", "max": ""})),
                field("select", "states", json!({"values": ["open", "sent"], "maxSelect": 2})),
                field("json", "extra", json!({"maxSize": 0})),
                field("geoPoint", "place", json!({})),
                field("file", "pictures", json!({"maxSelect": 99, "maxSize": 0, "mimeTypes": ["image/png"], "thumbs": ["100x100"], "protected": true})),
                field("relation", "owner", json!({"collectionId": "pbc_2003", "cascadeDelete": true, "minSelect": 0, "maxSelect": 1})),
                field("relation", "tags", json!({"collectionId": "pbc_2002", "cascadeDelete": false, "minSelect": 2, "maxSelect": 2_147_483_647})),
                field("autodate", "first_seen", json!({"onCreate": true, "onUpdate": false})),
                field("autodate", "last_seen", json!({"onCreate": false, "onUpdate": true})),
                field("autodate", "created", json!({"onCreate": true, "onUpdate": false})),
            ],
            "indexes": [
                "CREATE INDEX `idx_due` ON `orders` (\n  `due`,\n  `amount` DESC\n)",
                "CREATE UNIQUE INDEX `idx_code` ON `orders` (`code` COLLATE NOCASE) WHERE `code` != ''",
                "CREATE UNIQUE INDEX `idx_open` ON `orders` (`owner`, lower(`contact`)) WHERE `due` = ''",
            ],
        },
        {
            "id": "pbc_2002", "name": "tags", "type": "base", "system": false,
            "listRule": null, "viewRule": null, "createRule": null, "updateRule": null, "deleteRule": null,
            "fields": [id_field(), field("text", "2name", json!({"max": 40})), field("text", "_note", json!({}))],
            "indexes": [],
        },
        {
            "id": "pbc_2003", "name": "people", "type": "auth", "system": false,
            "listRule": "id = @request.auth.id", "viewRule": null, "createRule": "", "updateRule": null, "deleteRule": null,
            "authRule": "", "manageRule": null,
            "authAlert": {"enabled": true, "emailTemplate": mail},
            "oauth2": {"enabled": false, "providers": [], "redirects": [], "mappedFields": {"id": "", "name": "", "username": "", "avatarURL": ""}},
            "passwordAuth": {"enabled": true, "identityFields": ["email"]},
            "mfa": {"enabled": false, "duration": 1800, "rule": ""},
            "otp": {"enabled": false, "duration": 180, "length": 8, "emailTemplate": mail},
            "authToken": token(604_800), "passwordResetToken": token(1800), "emailChangeToken": token(1800),
            "verificationToken": token(259_200), "fileToken": token(180),
            "verificationTemplate": mail, "resetPasswordTemplate": mail, "confirmEmailChangeTemplate": mail,
            "fields": [
                id_field(),
                system("password", "password", json!({"cost": 0, "min": 8, "max": 0, "pattern": "", "hidden": true, "required": true})),
                system("text", "tokenKey", json!({"autogeneratePattern": "[a-zA-Z0-9]{50}", "min": 30, "max": 60, "pattern": "", "hidden": true, "required": true, "primaryKey": false})),
                system("email", "email", json!({"exceptDomains": null, "onlyDomains": null, "required": true})),
                system("bool", "emailVisibility", json!({})),
                system("bool", "verified", json!({})),
                field("text", "name", json!({})),
                field("autodate", "created", json!({"onCreate": true, "onUpdate": false})),
                field("autodate", "updated", json!({"onCreate": true, "onUpdate": true})),
            ],
            "indexes": [
                "CREATE UNIQUE INDEX `idx_tokenKey_pbc_2003` ON `people` (`tokenKey`)",
                "CREATE UNIQUE INDEX `idx_email_pbc_2003` ON `people` (`email`) WHERE `email` != ''",
            ],
        },
    ])
}

fn id_field() -> Value {
    system(
        "text",
        "id",
        json!({"autogeneratePattern": "[a-z0-9]{15}", "pattern": "^[a-z0-9]+$", "min": 15, "max": 15,
            "primaryKey": true, "required": true}),
    )
}

fn field(kind: &str, name: &str, options: Value) -> Value {
    let mut field = json!({"id": format!("{kind}{name}"), "name": name, "type": kind, "help": "",
        "hidden": false, "presentable": false, "required": false, "system": false});
    for (key, value) in options.as_object().unwrap() {
        field[key] = value.clone();
    }
    field
}

fn system(kind: &str, name: &str, options: Value) -> Value {
    let mut field = field(kind, name, options);
    field["system"] = json!(true);
    field
}

fn import(api: &Api, collections: &Value, deletes: bool) -> Reply {
    let body = json!({"collections": collections, "deleteMissing": deletes});
    api.put("/api/collections/import", body)
}

fn names(api: &Api) -> Vec<String> {
    let list = api.get("/api/collections").expect(200).json;
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_export_is_imported_as_it_is_and_reads_back_the_same() {
    let server = Server::start();
    let api = server.admin();
    let export = export();
    let reply = import(&api, &export, false).expect(204);
    assert!(
        reply
            .header("X-Warnings")
            .unwrap()
            .starts_with("people: authAlert")
    );
    for wanted in export.as_array().unwrap() {
        let id = wanted["id"].as_str().unwrap();
        let read = api.get(&format!("/api/collections/{id}")).expect(200).json;
        for (key, value) in wanted.as_object().unwrap() {
            match key.as_str() {
                "fields" => check_fields(value, &read["fields"]),
                "indexes" => assert_eq!(
                    read[key].as_array().unwrap().len(),
                    value.as_array().unwrap().len()
                ),
                _ => assert_eq!(&read[key], value, "{id} {key}"),
            }
        }
    }
    // Again, nothing changes: not even the time.
    let before = api.get("/api/collections").expect(200).json;
    import(&api, &export, true).expect(204);
    assert_eq!(api.get("/api/collections").expect(200).json, before);
    // What was read can be imported elsewhere.
    let other = Server::start();
    import(&other.admin(), &before["items"], false).expect(204);
    let server = server.restart();
    assert_eq!(
        server
            .api()
            .with_token(api.token())
            .get("/api/collections")
            .expect(200)
            .json,
        before
    );
}

fn check_fields(wanted: &Value, read: &Value) {
    let read = read.as_array().unwrap();
    for field in wanted.as_array().unwrap() {
        let same = read.iter().find(|it| it["name"] == field["name"]).unwrap();
        for (key, value) in field.as_object().unwrap() {
            let is_empty = value.is_null() && same[key] == json!([]);
            assert!(is_empty || same[key] == *value, "{field} {same}");
        }
    }
    assert_eq!(read.len(), wanted.as_array().unwrap().len());
}

#[test]
fn values_without_content_are_those_of_pocketbase() {
    let server = Server::start();
    let api = server.admin();
    import(&api, &export(), false).expect(204);
    let made = api
        .post("/api/collections/orders/records", json!({}))
        .expect(200)
        .json;
    let code = made["code"].as_str().unwrap();
    assert_eq!((code.len(), &code[3..4]), (8, "-"));
    assert_eq!(made["id"].as_str().unwrap().len(), 15);
    assert_eq!(made["amount"], 0);
    assert_eq!(made["paid"], false);
    assert_eq!(made["due"], "");
    assert_eq!(made["states"], json!([]));
    assert_eq!(made["owner"], "");
    assert_eq!(made["extra"], Value::Null);
    assert_eq!(made["place"], json!({"lon": 0, "lat": 0}));
    assert_eq!(made["last_seen"], "");
    assert!(made["first_seen"].as_str().unwrap().starts_with("20"));
    assert!(made.get("updated").is_none());
    let path = format!(
        "/api/collections/orders/records/{}",
        made["id"].as_str().unwrap()
    );
    let changed = api
        .patch(&path, json!({"place": {"lon": 9.5, "lat": -3}}))
        .expect(200)
        .json;
    assert_eq!(changed["place"], json!({"lon": 9.5, "lat": -3}));
    assert_eq!(changed["first_seen"], made["first_seen"]);
    assert!(changed["last_seen"].as_str().unwrap().starts_with("20"));
    assert_eq!(
        api.list("orders", &[("filter", "place.lon > 9")])
            .expect(200)
            .json["totalItems"],
        1
    );
    api.list("orders", &[("filter", "updated > '2000-01-01'")])
        .expect(400);
    api.patch(&path, json!({"place": {"lon": 181}}))
        .expect(400)
        .text("/data/place/code");
    let body = json!({"id": "short"});
    api.post("/api/collections/orders/records", body)
        .expect(400)
        .text("/data/id/code");
    // Nullable and default are ours.
    let fields = json!([{"name": "n", "type": "number", "nullable": true},
        {"name": "t", "type": "text", "default": "new"}, {"name": "when", "type": "date", "nullable": true}]);
    api.post("/api/collections", json!({"name": "own", "fields": fields}))
        .expect(200);
    let made = api
        .post("/api/collections/own/records", json!({}))
        .expect(200)
        .json;
    assert_eq!(
        (&made["n"], &made["t"], &made["when"]),
        (&Value::Null, &json!("new"), &Value::Null)
    );
    let fields = json!([{"name": "t", "type": "number", "default": "x"}]);
    let reply = api.post("/api/collections", json!({"name": "bad", "fields": fields}));
    reply.expect(400).text("/data/fields/1/default/code");
}

#[test]
fn unset_values_count_in_unique_and_partial_indexes() {
    let server = Server::start();
    let api = server.admin();
    import(&api, &export(), false).expect(204);
    let make = |body: Value| api.post("/api/collections/orders/records", body);
    // One order without a date per owner and contact, whatever its case.
    make(json!({"contact": "a@example.com", "code": "x"})).expect(200);
    make(json!({"contact": "A@example.com"})).expect(400);
    make(json!({"contact": "A@example.com", "due": "2030-01-01"})).expect(200);
    make(json!({"contact": "b@example.com", "code": "X"}))
        .expect(400)
        .text("/data/code/code");
}

#[test]
fn all_errors_of_a_definition_are_in_one_answer() {
    let server = Server::start();
    let api = server.admin();
    let body = json!({"name": "a b", "type": "base", "listRule": "foo = 1", "viewRule": "a = ",
        "fields": [{"type": "text"}, {"name": "b", "type": "select"}, {"name": "t", "type": "text", "pattern": "("},
            {"name": "r", "type": "relation", "collectionId": "nope"}, {"name": "expand", "type": "text"},
            {"name": "n", "type": "number", "min": 5, "max": 1, "thumbs": ["1x1"]}],
        "indexes": ["CREATE INDEX `x` ON c1 (zork)", "foo", "CREATE INDEX y ON c1 (t); DROP TABLE c1"]});
    let reply = api.post("/api/collections", body).expect(400);
    let data = &reply.json["data"];
    let code = |path: &str| {
        data.pointer(path)
            .and_then(|it| it["code"].as_str())
            .unwrap_or_default()
    };
    assert_eq!(code("/name"), "validation_match_invalid", "{data}");
    assert_eq!(code("/fields/1/name"), "validation_required");
    assert_eq!(code("/fields/2/values"), "validation_required");
    assert_eq!(code("/fields/3/pattern"), "validation_invalid_regex");
    assert_eq!(
        code("/fields/4/collectionId"),
        "validation_field_relation_missing_collection"
    );
    assert_eq!(code("/fields/5/name"), "validation_not_in_invalid");
    assert_eq!(code("/fields/6/max"), "validation_min_number_constraint");
    assert_eq!(code("/fields/6/thumbs"), "validation_unknown");
    assert_eq!(code("/listRule"), "validation_invalid_rule");
    assert_eq!(code("/viewRule"), "validation_invalid_rule");
    for position in 0..3 {
        let path = format!("/indexes/{position}");
        assert_eq!(code(&path), "validation_invalid_index_expression");
    }
    assert_eq!(reply.json["message"], "Failed to create collection.");
}

#[test]
fn an_import_is_all_or_nothing_and_deletes_what_is_missing_only_when_asked() {
    let server = Server::start();
    let api = server.admin();
    for database in ["", "/db/tenant"] {
        if !database.is_empty() {
            api.post("/api/databases", json!({"name": "tenant"}))
                .expect(200);
        }
        let at = |path: &str| format!("{database}/api/collections{path}");
        let put = |collections: Value, deletes: bool| {
            let body = json!({"collections": collections, "deleteMissing": deletes});
            api.put(&at("/import"), body)
        };
        let list = || {
            let list = api.get(&at("")).expect(200).json;
            let items = list["items"].as_array().unwrap().iter();
            items
                .map(|it| it["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let text = |name: &str| json!({"name": name, "type": "text"});
        put(
            json!([{"name": "one", "fields": [text("a"), text("b")]}, {"name": "two"}]),
            false,
        )
        .expect(204);
        api.post(&at("/one/records"), json!({"a": "kept", "b": "kept"}))
            .expect(200);
        // The last one fails, so none is stored.
        let reply = put(
            json!([{"name": "three"}, {"name": "one", "fields": [text("c")]}, {"name": "x y"}]),
            true,
        );
        let message = reply
            .expect(400)
            .text("/data/collections/message")
            .to_owned();
        assert!(message.starts_with("x y.name:"), "{message}");
        // The values of the last one cannot be unique.
        api.post(&at("/one/records"), json!({"a": "kept"}))
            .expect(200);
        let unique = json!({"name": "one", "indexes": ["CREATE UNIQUE INDEX i ON one (a)"]});
        put(json!([{"name": "three"}, unique]), true).expect(409);
        assert_eq!(list(), ["one", "two"]);
        // Without deleteMissing, fields and collections stay.
        put(json!([{"name": "one", "fields": [text("c")]}, {"name": "_superusers", "type": "auth"}]), false).expect(204);
        let record = api.get(&at("/one/records")).expect(200).json["items"][0].clone();
        assert_eq!((&record["a"], &record["c"]), (&json!("kept"), &json!("")));
        put(
            json!([{"name": "one", "fields": [text("c")]}, {"name": "four"}]),
            true,
        )
        .expect(204);
        assert_eq!(list(), ["four", "one"]);
        let record = api.get(&at("/one/records")).expect(200).json["items"][0].clone();
        assert!(record.get("a").is_none());
        put(json!([]), true)
            .expect(400)
            .text("/data/collections/code");
    }
    let server = server.restart();
    let api = server.api().with_token(api.token());
    assert_eq!(names(&api), ["four", "one"]);
    api.get("/db/tenant/api/collections/two").expect(404);
}

#[test]
fn an_import_into_a_tenant_that_a_crash_interrupts_is_completed_or_discarded() {
    for is_applied in [true, false] {
        let server = Server::start();
        let api = server.admin();
        api.post("/api/databases", json!({"name": "t"})).expect(200);
        let body = json!({"collections": [{"name": "old"}]});
        api.put("/db/t/api/collections/import", body).expect(204);
        let body = json!({"collections": [{"name": "new"}], "deleteMissing": true});
        api.put("/db/t/api/collections/import", body).expect(204);
        let token = api.token().to_owned();
        let mut parts = server.into_parts();
        // The state between the commit of the tenant and that of the definitions.
        let data = parts.0.path().join("data");
        sqlite_for_writing(&data.join("default.db"))
            .execute_batch(
                "UPDATE _collections SET pending = definition, deleted = updated WHERE name = 'new';
                 UPDATE _collections SET deleted = NULL, pending =
                     json_set(definition, '$.deleted', json('true'), '$.updated', 'x')
                 WHERE name = 'old';",
            )
            .unwrap();
        let applied = match is_applied {
            true => "UPDATE _applied SET updated = 'x' WHERE updated LIKE '%deleted'",
            false => "DELETE FROM _applied",
        };
        let tenant = sqlite_for_writing(&data.join("t.db"));
        tenant.execute_batch(applied).unwrap();
        drop(tenant);
        parts.1.clear();
        let server = Server::from_parts(parts);
        let api = server.api().with_token(&token);
        let list = api.get("/db/t/api/collections").expect(200).json;
        let wanted = if is_applied { "new" } else { "old" };
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
        assert_eq!(list["items"][0]["name"], wanted);
    }
}

#[test]
fn a_collection_is_truncated_with_what_refers_to_it() {
    let server = Server::start();
    let api = server.admin();
    import(&api, &export(), false).expect(204);
    let person = json!({"email": "a@example.com", "password": "long enough"});
    let id = api
        .post("/api/collections/people/records", person)
        .expect(200)
        .text("/id")
        .to_owned();
    for n in 0..3 {
        let order = json!({"owner": id, "due": format!("2030-01-0{}", n + 1)});
        api.post("/api/collections/orders/records", order)
            .expect(200);
    }
    api.delete("/api/collections/nope/truncate").expect(404);
    api.delete("/api/collections/people/truncate").expect(204);
    assert_eq!(api.list("people", &[]).expect(200).json["totalItems"], 0);
    assert_eq!(api.list("orders", &[]).expect(200).json["totalItems"], 0);
}

#[test]
fn collections_are_filtered_sorted_and_cut_to_fields() {
    let server = Server::start();
    let api = server.admin();
    import(&api, &export(), false).expect(204);
    let list = |query: &str| api.get(&format!("/api/collections?{query}"));
    let reply = list("filter=type%3D'base'%26%26name~'a'&sort=-name&fields=name").expect(200);
    assert_eq!(reply.json["items"], json!([{"name": "tags"}]));
    let reply = list("filter=system%3Dfalse&perPage=2&page=2&fields=name,fields.name").expect(200);
    assert_eq!(
        (&reply.json["totalItems"], &reply.json["items"][0]["name"]),
        (&json!(3), &json!("tags"))
    );
    assert_eq!(
        reply.json["items"][0]["fields"][1],
        json!({"name": "2name"})
    );
    list("filter=foo%3D1").expect(400);
    list("sort=foo").expect(400);
    let made = api.get("/api/collections/meta/scaffolds").expect(200).json;
    assert_eq!(made["auth"]["fields"][0]["name"], "id");
    for kind in ["base", "auth"] {
        let mut scaffold = made[kind].clone();
        scaffold["name"] = json!(format!("from_{kind}"));
        api.post("/api/collections", scaffold).expect(200);
    }
    let mut view = made["view"].clone();
    (view["name"], view["viewQuery"]) = (json!("from_view"), json!("SELECT id FROM from_base"));
    api.post("/api/collections", view).expect(200);
    let refusal = api
        .delete("/api/collections/from_view/truncate")
        .expect(400);
    assert!(refusal.text("/message").contains("is a view"));
}

#[test]
fn a_view_is_tried_without_being_created() {
    let server = Server::start();
    let api = server.admin();
    import(&api, &export(), false).expect(204);
    let try_view = |query: &str| {
        let body = json!({ "query": query });
        api.post("/api/collections/meta/dry-run-view", body)
    };
    let person = json!({"email": "a@example.com", "password": "long enough"});
    api.post("/api/collections/people/records", person)
        .expect(200);
    let tried = try_view("SELECT id, email AS address FROM people").expect(200);
    assert_eq!(
        (
            &tried.json["fields"][1]["name"],
            &tried.json["sample"][0]["address"]
        ),
        (&json!("address"), &json!("a@example.com"))
    );
    for (query, phrase) in [
        ("SELECT email FROM people", "id"),
        ("SELECT id FROM none", "none"),
        ("DELETE FROM people", "SELECT"),
    ] {
        let refusal = try_view(query).expect(400);
        let message = refusal.text("/message");
        assert!(message.contains(phrase), "{query}: {message}");
    }
    assert_eq!(api.get("/api/collections").json["totalItems"], json!(3));
}

#[test]
fn a_log_in_obeys_the_settings_of_its_collection() {
    let server = Server::start();
    let api = server.admin();
    import(&api, &export(), false).expect(204);
    let person = json!({"email": "a@example.com", "password": "long enough"});
    api.post("/api/collections/people/records", person)
        .expect(200);
    let body = json!({"identity": "a@example.com", "password": "long enough"});
    let log_in = || {
        server
            .api()
            .post("/api/collections/people/auth-with-password", &body)
    };
    let set = |body: Value| api.patch("/api/collections/people", body).expect(200);
    let first = log_in().expect(200).text("/token").to_owned();
    set(json!({"passwordAuth": {"enabled": false}}));
    log_in().expect(403);
    set(json!({"passwordAuth": {"enabled": true}, "authRule": "verified = true"}));
    log_in().expect(403);
    let user = server.api().with_token(&first);
    user.post("/api/collections/people/auth-refresh", "")
        .expect(403);
    set(json!({"authRule": null}));
    log_in().expect(403);
    set(json!({"authRule": "", "mfa": {"enabled": true}, "otp": {"enabled": true}}));
    let reply = log_in().expect(403);
    assert!(
        reply.json["message"]
            .as_str()
            .unwrap()
            .contains("second factor")
    );
    set(json!({"mfa": {"rule": "verified = true"}}));
    log_in().expect(200);
    // A new secret ends the tokens; the answer never shows it.
    let changed =
        set(json!({"mfa": {"enabled": false}, "authToken": {"secret": "s3cret", "duration": 60}}));
    assert!(!String::from_utf8_lossy(&changed.body).contains("s3cret"));
    user.get("/api/auth/me").expect(401);
    log_in().expect(200);
    let reply = api.patch(
        "/api/collections/people",
        json!({"mfa": {"enabled": true}, "otp": {"enabled": false}}),
    );
    reply.expect(400).text("/data/mfa/enabled/code");
}
