//! Records over REST: writing, reading, lists, bulk, batch, and what is refused.

use serde_json::{Value, json};

mod clients;

use super::support::api::Api;
use super::support::server::Server;

/// Authors and their posts; everyone may read, only admins may write.
pub fn blog(server: &Server) -> Api {
    let api = server.admin();
    let public = |name: &str, fields: Value| {
        let body = json!({"name": name, "fields": fields, "listRule": "", "viewRule": ""});
        api.post("/api/collections", body).expect(200);
    };
    public(
        "authors",
        json!([{"name": "name", "type": "text", "unique": true}]),
    );
    public(
        "posts",
        json!([
            {"name": "title", "type": "text", "required": true, "max": 20},
            {"name": "views", "type": "number", "nullable": true},
            {"name": "public", "type": "bool"},
            {"name": "author", "type": "relation", "collectionId": "authors"},
            {"name": "also", "type": "relation", "collectionId": "authors", "maxSelect": 3},
            {"name": "parent", "type": "relation", "collectionId": "posts", "cascadeDelete": true},
            {"name": "tags", "type": "select", "values": ["a", "b", "c"], "maxSelect": 3},
            {"name": "meta", "type": "json"},
            {"name": "day", "type": "date"},
            {"name": "note", "type": "text", "hidden": true},
        ]),
    );
    for (id, name) in [("ann", "Ann"), ("bob", "Bob")] {
        api.post(
            "/api/collections/authors/records",
            json!({"id": id, "name": name}),
        )
        .expect(200);
    }
    for (id, body) in [
        (
            "p1",
            json!({"title": "One", "views": 10, "public": true, "author": "ann", "tags": ["a", "b"], "day": "2026-01-01"}),
        ),
        (
            "p2",
            json!({"title": "Two", "views": 2.5, "author": "bob", "also": ["ann", "bob"], "meta": {"k": [1, {"x": "y"}]}}),
        ),
        (
            "p3",
            json!({"title": "Three", "parent": "p1", "note": "secret"}),
        ),
    ] {
        let mut body = body;
        body["id"] = json!(id);
        api.post(POSTS, body).expect(200);
    }
    api
}

pub const POSTS: &str = "/api/collections/posts/records";

#[test]
fn a_record_is_created_read_changed_and_deleted() {
    let server = Server::start();
    let api = blog(&server);
    let made = api
        .post(POSTS, json!({"title": "New", "views": 1}))
        .expect(200)
        .json;
    let id = made["id"].as_str().unwrap();
    assert_eq!((id.len(), &made["collectionName"]), (36, &json!("posts")));
    assert_eq!(made["created"], made["updated"]);
    assert_eq!(made["tags"], json!([]));
    assert_eq!(made["author"], "");
    let path = format!("{POSTS}/{id}");
    assert_eq!(api.get(&path).expect(200).json, made);
    let changed = api
        .patch(&path, json!({"views+": 2, "tags+": ["b", "a"]}))
        .expect(200)
        .json;
    assert_eq!(
        (&changed["views"], &changed["tags"]),
        (&json!(3), &json!(["b", "a"]))
    );
    assert_eq!(changed["title"], "New");
    assert!(changed["updated"].as_str() >= made["updated"].as_str());
    let changed = api
        .patch(&path, json!({"+tags": "c", "views-": 0.5}))
        .expect(200)
        .json;
    assert_eq!(
        (&changed["views"], &changed["tags"]),
        (&json!(2.5), &json!(["c", "b", "a"]))
    );
    api.patch(&path, json!({"tags-": ["b", "c"], "views": null}))
        .expect(200);
    let read = api.get(&path).expect(200).json;
    assert_eq!(
        (&read["views"], &read["tags"]),
        (&Value::Null, &json!(["a"]))
    );
    api.delete(&path).expect(204);
    api.get(&path).expect(404);
    api.patch(&path, json!({})).expect(404);
    api.delete(&path).expect(404);
}

#[test]
fn every_failing_field_is_named_and_nothing_is_written() {
    let server = Server::start();
    let api = blog(&server);
    let body = json!({"title": "", "views": "many", "author": "nobody", "tags": ["z"], "day": "2026-02-30", "typo": 1});
    let reply = api.post(POSTS, body).expect(400);
    let names: Vec<&String> = reply.json["data"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["author", "day", "tags", "title", "views"]);
    api.post(POSTS, json!({"title": "x", "id": "p1"}))
        .expect(400)
        .text("/data/id/code");
    api.post(POSTS, json!({"title": "x", "id": "a/b"}))
        .expect(400)
        .text("/data/id/code");
    api.post(POSTS, "null").expect(400);
    api.post(POSTS, "{\"title\": \"x\"").expect(400);
    api.post(POSTS, "{\"title\": \"\\ud800\"}").expect(400);
    assert_eq!(api.get(POSTS).json["totalItems"], 3);
}

#[test]
fn strangers_get_what_the_rules_give_them() {
    let server = Server::start();
    let admin = blog(&server);
    let api = server.api();
    assert_eq!(api.get(POSTS).expect(200).json["totalItems"], 3);
    assert_eq!(
        api.get(&format!("{POSTS}/p3")).expect(200).json.get("note"),
        None
    );
    assert_eq!(admin.get(&format!("{POSTS}/p3")).json["note"], "secret");
    api.list("posts", &[("filter", "note = 'secret'")])
        .expect(400);
    api.list("posts", &[("sort", "note")]).expect(400);
    api.post(POSTS, json!({"title": "x"})).expect(403);
    // A caller who may not write learns nothing about the fields.
    api.post(POSTS, json!({"typo": 1})).expect(403);
    api.patch(&format!("{POSTS}/p1"), json!({"title": "x"}))
        .expect(403);
    api.delete(&format!("{POSTS}/p1")).expect(403);
    let rules = json!({
        "listRule": "public = true", "viewRule": "views > 5", "createRule": "title ~ 'ok'",
        "updateRule": "author.name = 'Bob'", "deleteRule": "1 = 0",
    });
    admin.patch("/api/collections/posts", rules).expect(200);
    assert_eq!(api.get(POSTS).expect(200).column("id"), ["p1"]);
    api.get(&format!("{POSTS}/p1")).expect(200);
    api.get(&format!("{POSTS}/p2")).expect(404);
    api.post(POSTS, json!({"title": "no"})).expect(400);
    api.post(POSTS, json!({"title": "is ok"})).expect(200);
    api.patch(&format!("{POSTS}/p1"), json!({"title": "x"}))
        .expect(404);
    api.patch(&format!("{POSTS}/p2"), json!({"title": "x"}))
        .expect(200);
    api.delete(&format!("{POSTS}/p2")).expect(404);
    assert_eq!(admin.get(POSTS).json["totalItems"], 4);
}

#[test]
fn lists_filter_sort_page_and_count() {
    let server = Server::start();
    let api = blog(&server);
    let check = |query: &[(&str, &str)], ids: &[&str]| {
        assert_eq!(
            api.list("posts", query).expect(200).column("id"),
            ids,
            "{query:?}"
        );
    };
    check(&[("filter", "views > 2")], &["p1", "p2"]);
    check(&[("filter", "views = null")], &["p3"]);
    check(&[("filter", "NOT (views > 2)")], &["p3"]);
    check(
        &[("filter", "author.name = 'Ann' || also.name ?= 'Ann'")],
        &["p1", "p2"],
    );
    check(&[("filter", "also.name = 'Ann'")], &[]);
    check(&[("filter", "tags ?= 'b' && tags != 'c'")], &["p1"]);
    check(&[("filter", "meta.k.1.x = 'y'")], &["p2"]);
    check(&[("filter", "title ~ 't'")], &["p2", "p3"]);
    check(&[("filter", "title IN ('One', 'Three')")], &["p1", "p3"]);
    check(
        &[(
            "filter",
            "day != '' && day <= '2026-01-01' && created > '2026-01-01 00:00:00.000Z' && created <= @now",
        )],
        &["p1"],
    );
    check(&[("filter", "parent.author.name = 'Ann'")], &["p3"]);
    check(&[("filter", "title = \"One' OR 1=1 --\"")], &[]);
    check(&[("sort", "-views")], &["p1", "p2", "p3"]);
    check(&[("sort", "author.name,-title")], &["p3", "p1", "p2"]);
    check(&[("sort", "-@rowid")], &["p3", "p2", "p1"]);
    check(&[("perPage", "2"), ("page", "2")], &["p3"]);
    check(&[("perPage", "2"), ("page", "9")], &[]);
    let page = api
        .list("posts", &[("perPage", "2"), ("filter", "title != ''")])
        .json;
    assert_eq!(
        (&page["totalItems"], &page["totalPages"]),
        (&json!(3), &json!(2))
    );
    let page = api
        .list("posts", &[("perPage", "2"), ("skipTotal", "1")])
        .json;
    assert_eq!(
        (&page["totalItems"], &page["totalPages"]),
        (&json!(-1), &json!(-1))
    );
    assert_eq!(
        api.list("posts", &[("perPage", "100000")]).json["perPage"],
        1000
    );
}

#[test]
fn wrong_queries_are_refused() {
    let server = Server::start();
    let api = blog(&server);
    for (name, value) in [
        ("filter", "no = 1"),
        ("filter", "title ="),
        ("filter", "author.no = 1"),
        ("filter", "title.x = 1"),
        ("filter", "views = 'abc'"),
        ("filter", "@no = 1"),
        ("sort", "no"),
        ("sort", "tags"),
        ("fields", "a b"),
        ("page", "x"),
        ("perPage", "-1"),
        ("skipTotal", "maybe"),
    ] {
        let reply = api.list("posts", &[(name, value)]).expect(400);
        assert!(!reply.text("/message").is_empty());
    }
    api.get(&format!("{POSTS}?filter=%FF")).expect(400);
}

#[test]
fn expand_and_fields_shape_the_answer() {
    let server = Server::start();
    let api = blog(&server);
    let read = api.get(&format!(
        "{POSTS}/p3?expand=parent.author&fields=id,expand.parent.title,expand.parent.expand"
    ));
    let expected = json!({"id": "p3", "expand": {"parent": {"title": "One", "expand": {"author":
        api.get("/api/collections/authors/records/ann").json}}}});
    assert_eq!(read.expect(200).json, expected);
    let list = api.list(
        "posts",
        &[
            ("expand", "also,author"),
            ("fields", "title,expand.also.name"),
            ("filter", "also != ''"),
        ],
    );
    let expected = json!([{"title": "Two", "expand": {"also": [{"name": "Ann"}, {"name": "Bob"}],
        "author": api.get("/api/collections/authors/records/bob").json}}]);
    let items = &list.expect(200).json["items"];
    assert_eq!(items[0]["title"], "Two");
    assert_eq!(items[0]["expand"]["also"], expected[0]["expand"]["also"]);
    // Records that the caller may not view are left out.
    api.patch(
        "/api/collections/authors",
        json!({"viewRule": "name = 'Bob'"}),
    )
    .expect(200);
    let anonymous = server.api().get(&format!("{POSTS}/p2?expand=author,also"));
    let names = anonymous.expect(200).json["expand"].clone();
    assert_eq!(names["also"].as_array().unwrap().len(), 1);
    let anonymous = server
        .api()
        .get(&format!("{POSTS}/p1?expand=author"))
        .expect(200);
    assert_eq!(anonymous.json["expand"], json!({}));
    // Nor can it be found by what is in it: it is as if it were not there.
    for (filter, found) in [
        ("author.name = 'Ann'", 0),
        ("author.name = ''", 2),
        ("author.name = 'Bob'", 1),
    ] {
        let list = server
            .api()
            .list("posts", &[("filter", filter), ("sort", "author.name")]);
        assert_eq!(list.expect(200).column("id").len(), found, "{filter}");
    }
}

#[test]
fn deleting_cascades_clears_or_is_refused() {
    let server = Server::start();
    let api = blog(&server);
    // Cleared where the relation is optional, single or not.
    api.delete("/api/collections/authors/records/ann")
        .expect(204);
    assert_eq!(api.get(&format!("{POSTS}/p1")).json["author"], "");
    assert_eq!(api.get(&format!("{POSTS}/p2")).json["also"], json!(["bob"]));
    // Cascades go down all the way, also in circles.
    api.post(POSTS, json!({"id": "p4", "title": "Four", "parent": "p3"}))
        .expect(200);
    api.patch(&format!("{POSTS}/p1"), json!({"parent": "p4"}))
        .expect(200);
    api.delete(&format!("{POSTS}/p3")).expect(204);
    assert_eq!(api.get(POSTS).column("id"), ["p2"]);
    // Refused where it is required.
    let body = json!({"name": "notes", "fields": [
        {"name": "post", "type": "relation", "collectionId": "posts", "required": true}]});
    api.post("/api/collections", body).expect(200);
    api.post(
        "/api/collections/notes/records",
        json!({"id": "n", "post": "p2"}),
    )
    .expect(200);
    let refused = api.delete(&format!("{POSTS}/p2")).expect(409);
    assert!(refused.text("/message").contains("notes"));
    api.delete("/api/collections/notes/records/n").expect(204);
    api.delete(&format!("{POSTS}/p2")).expect(204);
}
