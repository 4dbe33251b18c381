//! Databases and collections over REST, and what is refused.

use serde_json::{Value, json};

use super::support::api::Api;
use super::support::server::Server;
use super::support::sqlite;

fn create(api: &Api, name: &str, fields: Value) {
    let body =
        json!({"name": name, "fields": fields, "listRule": "", "viewRule": "", "createRule": ""});
    api.post("/api/collections", body).expect(200);
}

#[test]
fn the_first_admin_is_made_once_and_signs_in() {
    let server = Server::start();
    let api = server.api();
    api.get("/api/health").expect(200);
    api.get("/api/collections").expect(401);
    let body = json!({"email": "a@example.com", "password": "short"});
    api.post("/api/admins/init", body)
        .expect(400)
        .text("/data/password/code");
    let body = json!({"email": "a@example.com", "password": "long enough"});
    let token = api
        .post("/api/admins/init", &body)
        .expect(200)
        .text("/token")
        .to_owned();
    api.post("/api/admins/init", &body).expect(403);
    let wrong = api.post(
        "/api/admins/login",
        json!({"email": "a@example.com", "password": "wrong one"}),
    );
    let unknown = api.post(
        "/api/admins/login",
        json!({"email": "b@example.com", "password": "wrong one"}),
    );
    assert_eq!(wrong.expect(401).body, unknown.expect(401).body);
    let signed_in = api.with_token(&token);
    signed_in.get("/api/collections").expect(200);
    let fresh = signed_in.post("/api/admins/refresh", "").expect(200);
    api.with_token(fresh.text("/token"))
        .get("/api/admins")
        .expect(200);
    for forged in [
        "x",
        "a.b.c",
        &token[..token.len() - 2],
        &format!("{token}x"),
    ] {
        api.with_token(forged).get("/api/collections").expect(401);
    }
}

#[test]
fn two_first_admins_at_once_are_one() {
    let server = Server::start();
    let made: usize = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|n| {
                let api = server.api();
                let body = json!({"email": format!("a{n}@example.com"), "password": "long enough"});
                scope.spawn(move || api.post("/api/admins/init", body).status)
            })
            .collect();
        calls
            .into_iter()
            .filter(|_| true)
            .map(|call| usize::from(call.join().unwrap() == 200))
            .sum()
    });
    assert_eq!(made, 1);
}

#[test]
fn a_secret_that_is_kept_keeps_tokens_valid_over_a_restart() {
    let server = Server::start();
    let token = {
        let body = json!({"email": "a@example.com", "password": "long enough"});
        server
            .api()
            .post("/api/admins/init", body)
            .expect(200)
            .text("/token")
            .to_owned()
    };
    let server = server.restart();
    server
        .api()
        .with_token(&token)
        .get("/api/admins")
        .expect(200);
    use std::os::unix::fs::PermissionsExt as _;
    let secret = server.dir().join("data/secret");
    assert_eq!(
        std::fs::metadata(secret).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_collection_reads_back_as_fields_and_schema() {
    let server = Server::start();
    let api = server.admin();
    let body = json!({
        "name": "posts", "type": "base",
        "schema": [
            {"name": "title", "type": "text", "required": true, "options": {"min": 2}},
            {"name": "state", "type": "select", "options": "{\"values\": [\"a\", \"b\"]}"},
        ],
        "options": "{\"triggers\": []}",
        "listRule": "", "viewRule": null,
    });
    api.post("/api/collections", body).expect(200);
    let read = api.get("/api/collections/posts").expect(200).json;
    assert_eq!(read["fields"], read["schema"]);
    assert_eq!(read["fields"][1]["min"], 2);
    assert_eq!(read["fields"][2]["values"], json!(["a", "b"]));
    assert_eq!(read["options"], json!({"triggers": []}));
    assert_eq!(
        (&read["listRule"], &read["viewRule"]),
        (&json!(""), &Value::Null)
    );
    let by_id = format!("/api/collections/{}", read["id"].as_str().unwrap());
    assert_eq!(api.get(&by_id).expect(200).json, read);
    assert_eq!(
        api.get("/api/collections").expect(200).json["items"],
        json!([read])
    );
    // A definition that was read can be sent back.
    let again = api.patch("/api/collections/posts", &read).expect(200).json;
    assert_eq!(again["fields"], read["fields"]);
}

#[test]
fn a_list_of_collections_comes_in_one_page_or_in_those_asked_for() {
    let server = Server::start();
    let api = server.admin();
    for name in ["b", "c", "a"] {
        create(&api, name, json!([]));
    }
    let list = |query: &str| {
        let list = api.get(&format!("/api/collections{query}")).expect(200);
        let items = list.json["items"].as_array().unwrap().iter();
        let names: String = items.map(|it| it["name"].as_str().unwrap()).collect();
        (names, list.json)
    };
    assert_eq!(list("").0, "abc");
    // Clients ask for pages until one is not full.
    let (names, page) = list("?page=1&perPage=1001&skipTotal=1");
    assert_eq!((names.as_str(), &page["perPage"]), ("abc", &json!(1000)));
    let (names, page) = list("?page=2&perPage=2&sort=-name");
    assert_eq!((names.as_str(), &page["totalItems"]), ("a", &json!(3)));
    assert_eq!((&page["page"], &page["totalPages"]), (&json!(2), &json!(2)));
    assert_eq!(list("?page=18446744073709551615&perPage=2").0, "");
    assert_eq!(list("?sort=%2Btype,-name").0, "cba");
    api.get("/api/collections?sort=rules").expect(400);
}

#[test]
fn wrong_collections_are_refused_with_the_name_of_what_is_wrong() {
    let server = Server::start();
    let api = server.admin();
    create(&api, "taken", json!([{"name": "a", "type": "text"}]));
    for (body, field) in [
        (json!({"fields": []}), "name"),
        (json!({"name": "9 lives"}), "name"),
        (json!({"name": "_admins"}), "name"),
        (json!({"name": "sqlite_x"}), "name"),
        (json!({"name": "TAKEN"}), "name"),
        (json!({"name": "x", "type": "table"}), "type"),
        (json!({"name": "x", "type": "view"}), "viewQuery"),
        (json!({"name": "x", "typo": 1}), "typo"),
        (
            json!({"name": "x", "fields": [{"name": "r", "type": "relation", "collectionId": "no"}]}),
            "fields",
        ),
        (
            json!({"name": "x", "indexes": [{"fields": ["no"]}]}),
            "indexes",
        ),
        (json!({"name": "x", "listRule": "no = 1"}), "listRule"),
        (json!({"name": "x", "viewRule": "id ="}), "viewRule"),
    ] {
        let reply = api.post("/api/collections", &body).expect(400);
        assert!(
            reply.json["data"].get(field).is_some(),
            "{body}: {}",
            reply.json
        );
    }
    api.post("/api/collections", "[]").expect(400);
    api.post("/api/collections", "{").expect(400);
    api.post("/api/collections", "").expect(400);
    api.get("/api/collections/no").expect(404);
}

#[test]
fn a_collection_with_data_grows_and_keeps_what_it_no_longer_shows() {
    let server = Server::start();
    let api = server.admin();
    create(
        &api,
        "t",
        json!([{"name": "a", "type": "text"}, {"name": "n", "type": "number"}]),
    );
    api.post(
        "/api/collections/t/records",
        json!({"id": "r", "a": "kept", "n": 1}),
    )
    .expect(200);
    let change = |fields: Value| api.patch("/api/collections/t", json!({"fields": fields}));

    // A field is added and another deleted.
    change(json!([{"name": "n", "type": "number"}, {"name": "b", "type": "bool"}])).expect(200);
    let record = api.get("/api/collections/t/records/r").expect(200).json;
    assert_eq!(
        (record.get("a"), &record["b"], &record["n"]),
        (None, &json!(false), &json!(1))
    );
    let ignored = api.post("/api/collections/t/records", json!({"id": "s", "a": "x"}));
    assert_eq!(ignored.expect(200).header("X-Ignored-Fields"), Some("a"));
    api.delete("/api/collections/t/records/s").expect(204);

    // One of the same name starts empty; the old column is still on disk.
    change(json!([{"name": "n", "type": "number"}, {"name": "a", "type": "number"}])).expect(200);
    assert_eq!(
        api.get("/api/collections/t/records/r").expect(200).json["a"],
        0
    );
    let server = server.restart();
    let file = sqlite(&server.dir().join("data/default.db"));
    let columns: Vec<String> = file
        .prepare("SELECT name FROM pragma_table_info('t')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        columns.iter().any(|name| name.starts_with("_deleted_a_")),
        "{columns:?}"
    );
}

#[test]
fn one_value_becomes_several_and_back_as_long_as_nothing_is_lost() {
    let server = Server::start();
    let api = server.admin();
    let field =
        |max| json!([{"name": "s", "type": "select", "values": ["a", "b"], "maxSelect": max}]);
    create(&api, "t", field(1));
    api.post("/api/collections/t/records", json!({"id": "r", "s": "a"}))
        .expect(200);
    let change = |max| api.patch("/api/collections/t", json!({"fields": field(max)}));
    change(2).expect(200);
    assert_eq!(
        api.get("/api/collections/t/records/r").json["s"],
        json!(["a"])
    );
    change(1).expect(200);
    assert_eq!(
        api.get("/api/collections/t/records/r").json["s"],
        json!("a")
    );
    change(2).expect(200);
    api.patch("/api/collections/t/records/r", json!({"s+": "b"}))
        .expect(200);
    change(1).expect(409);
    assert_eq!(
        api.get("/api/collections/t/records/r").json["s"],
        json!(["a", "b"])
    );
}

#[test]
fn what_stored_data_would_not_survive_is_refused() {
    let server = Server::start();
    let api = server.admin();
    create(&api, "t", json!([{"name": "a", "type": "text"}]));
    for n in 0..2 {
        api.post(
            "/api/collections/t/records",
            json!({"id": format!("r{n}"), "a": "same"}),
        )
        .expect(200);
    }
    let change = |body: Value| api.patch("/api/collections/t", body);
    change(json!({"fields": [{"name": "a", "type": "number"}]})).expect(400);
    change(json!({"fields": [{"name": "a", "type": "editor"}]})).expect(200);
    change(json!({"fields": [{"name": "a", "type": "text", "unique": true}]})).expect(409);
    change(json!({"type": "auth"})).expect(400);
    let id = api.get("/api/collections/t").json["fields"][0]["id"].clone();
    change(json!({"fields": [{"id": id, "name": "renamed", "type": "text"}]})).expect(400);
    // None of the refusals changed anything.
    assert_eq!(
        api.get("/api/collections/t/records/r1").expect(200).json["a"],
        "same"
    );
    api.delete("/api/collections/t/records/r0").expect(204);
    change(json!({"fields": [{"name": "a", "type": "text", "unique": true}]})).expect(200);
    api.post("/api/collections/t/records", json!({"a": "same"}))
        .expect(400)
        .text("/data/a/code");
    // Several records without a value do not collide.
    api.post("/api/collections/t/records", json!({"a": ""}))
        .expect(200);
    api.post("/api/collections/t/records", json!({}))
        .expect(200);
}

#[test]
fn a_deleted_collection_is_gone_and_its_name_free() {
    let server = Server::start();
    let api = server.admin();
    create(
        &api,
        "a",
        json!([{"name": "x", "type": "text", "unique": true}]),
    );
    create(
        &api,
        "b",
        json!([{"name": "to", "type": "relation", "collectionId": "a"}]),
    );
    api.post("/api/collections/a/records", json!({"id": "old", "x": "1"}))
        .expect(200);
    let refused = api.delete("/api/collections/a").expect(409);
    assert!(refused.text("/message").contains('b'));
    api.delete("/api/collections/b").expect(204);
    api.delete("/api/collections/a").expect(204);
    api.delete("/api/collections/a").expect(404);
    api.get("/api/collections/a/records").expect(404);
    create(
        &api,
        "a",
        json!([{"name": "x", "type": "number", "unique": true}]),
    );
    api.get("/api/collections/a/records/old").expect(404);
    api.post("/api/collections/a/records", json!({"x": 1}))
        .expect(200);
    let server = server.restart();
    let api = server.admin();
    assert_eq!(
        api.get("/api/collections/a/records").expect(200).json["totalItems"],
        1
    );
}

#[test]
fn databases_are_apart() {
    let server = Server::start();
    let api = server.admin();
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(409);
    for name in ["", "..", "a/b", "Shop", "stats", "workflows", "local"] {
        api.post("/api/databases", json!({"name": name}))
            .expect(400);
    }
    let names: Vec<Value> = api.get("/api/databases").json.as_array().unwrap().clone();
    assert_eq!(names, [json!({"name": "default"}), json!({"name": "shop"})]);
    create(&api, "t", json!([{"name": "a", "type": "text"}]));
    let body = json!({"name": "t", "fields": [{"name": "b", "type": "number"}], "listRule": ""});
    api.post("/db/shop/api/collections", body).expect(200);
    api.post("/api/collections/t/records", json!({"a": "x"}))
        .expect(200);
    api.post("/db/shop/api/collections/t/records", json!({"b": 7}))
        .expect(200);
    let shop = api.get("/db/shop/api/collections/t/records").expect(200);
    assert_eq!(shop.column("b"), [json!(7)]);
    for path in [
        "/db/no/api/collections",
        "/db/shop/api/databases",
        "/db/..%2f/api/collections",
        "/db/shop",
        "/db//api/collections",
    ] {
        api.get(path).expect(404);
    }
    let server = server.restart();
    let api = server.admin();
    assert_eq!(
        api.get("/db/shop/api/collections/t/records")
            .expect(200)
            .column("b"),
        [json!(7)]
    );
    api.delete("/api/databases/default").expect(400);
    api.delete("/api/databases/shop").expect(204);
    api.get("/db/shop/api/collections").expect(404);
    let aside = std::fs::read_dir(server.dir().join("data/deleted"))
        .unwrap()
        .count();
    assert_eq!(aside, 1);
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    assert_eq!(
        api.get("/db/shop/api/collections").expect(200).json["totalItems"],
        0
    );
}

#[test]
fn an_auth_collection_hides_passwords_and_hashes_them() {
    let server = Server::start();
    let api = server.admin();
    let body = json!({
        "name": "_users", "type": "auth",
        "fields": [
            {"name": "email", "type": "text"},
            {"name": "password", "type": "text", "required": true},
            {"name": "name", "type": "text"},
        ],
    });
    let made = api.post("/api/collections", body).expect(200).json;
    let types: Vec<&str> = made["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["type"].as_str().unwrap())
        .collect();
    let wanted = "text text email password bool bool text autodate autodate";
    assert_eq!(types.join(" "), wanted);
    let path = "/api/collections/_users/records";
    let user =
        json!({"email": "U@example.com", "password": "12345678", "passwordConfirm": "12345678"});
    let made = api.post(path, &user).expect(200).json;
    assert_eq!(made.get("password"), None);
    let mismatch =
        json!({"email": "v@example.com", "password": "12345678", "passwordConfirm": "x"});
    api.post(path, mismatch)
        .expect(400)
        .text("/data/passwordConfirm/code");
    api.post(path, json!({"email": "v@example.com", "password": "short"}))
        .expect(400);
    let twin = json!({"email": "u@EXAMPLE.com", "password": "12345678"});
    api.post(path, twin).expect(400).text("/data/email/code");
    api.list("_users", &[("filter", "password != ''")])
        .expect(400);
    api.list("_users", &[("sort", "password")]).expect(400);
    let file = sqlite(&server.dir().join("data/default.db"));
    let stored: String = file
        .query_row("SELECT password FROM _users", [], |row| row.get(0))
        .unwrap();
    assert!(stored.starts_with("$argon2id$"), "{stored}");
}

#[test]
fn a_definition_that_was_read_and_changed_can_be_sent_back() {
    let server = Server::start();
    let api = server.admin();
    create(&api, "t", json!([{"name": "a", "type": "text"}]));
    for key in ["fields", "schema"] {
        let mut read = api.get("/api/collections/t").expect(200).json;
        read[key]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": format!("by_{key}"), "type": "text"}));
        api.patch("/api/collections/t", &read).expect(200);
    }
    let names: Vec<Value> = api.get("/api/collections/t").json["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| field["name"].clone())
        .collect();
    let wanted = ["id", "a", "by_fields", "by_schema", "created", "updated"];
    assert_eq!(names, wanted);
    let mut read = api.get("/api/collections/t").json;
    read["fields"][1]["required"] = json!(true);
    read["schema"][1]["unique"] = json!(true);
    api.patch("/api/collections/t", &read).expect(400);
}

#[test]
fn names_that_would_mean_something_else_are_refused() {
    let server = Server::start();
    let api = server.admin();
    for name in ["json_each", "JSON_TREE", "pragma_table_info", "dbstat"] {
        api.post("/api/collections", json!({"name": name}))
            .expect(400);
    }
    for field in ["null", "AND", "in"] {
        let body = json!({"name": "t", "fields": [{"name": field, "type": "text"}]});
        api.post("/api/collections", body).expect(400);
    }
    let twice =
        json!([{"id": "x", "name": "a", "type": "text"}, {"id": "x", "name": "b", "type": "text"}]);
    api.post("/api/collections", json!({"name": "t", "fields": twice}))
        .expect(400);
    api.post("/api/collections", json!({"name": "a1", "id": "shared"}))
        .expect(200);
    api.post("/api/collections", json!({"name": "shared"}))
        .expect(400);
    api.post("/api/collections", json!({"name": "t", "id": "a1"}))
        .expect(400);
    let brackets = json!([{"name": "k", "type": "select", "values": ["[a", "b"]}]);
    api.post("/api/collections", json!({"name": "t", "fields": brackets}))
        .expect(400);
}

#[test]
fn an_older_file_of_a_tenant_gets_what_it_lacks() {
    let server = Server::start();
    let api = server.admin();
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let body = json!({"name": "t", "fields": [{"name": "a", "type": "text"}]});
    api.post("/db/shop/api/collections", body).expect(200);
    api.post(
        "/db/shop/api/collections/t/records",
        json!({"id": "r", "a": "x"}),
    )
    .expect(200);
    let file = server.dir().join("data/shop.db");
    let copy = server.dir().join("copy.db");
    sqlite(&file)
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    let fields = json!([{"name": "a", "type": "text"}, {"name": "b", "type": "text"}]);
    api.patch("/db/shop/api/collections/t", json!({"fields": fields}))
        .expect(200);
    let mut server = server;
    server.kill();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(server.dir().join(format!("data/shop.db{suffix}")));
    }
    std::fs::copy(&copy, &file).unwrap();
    let server = server.restart();
    let record = server
        .admin()
        .get("/db/shop/api/collections/t/records/r")
        .expect(200)
        .json;
    assert_eq!((&record["a"], &record["b"]), (&json!("x"), &json!("")));
}
