//! Requests of clients that were made for PocketBase.

use serde_json::{Value, json};

use super::{POSTS, blog};
use crate::support::api::Api;
use crate::support::server::Server;

/// A client that asks for 1,000 records and stops at a page that is not full lost the records
/// behind the 500th. A page has 1,000, here as in PocketBase; a client that asks for more gets
/// these.
#[test]
fn a_page_has_a_thousand_records() {
    let server = Server::start();
    let api = server.admin();
    let many = json!({"name": "many", "fields": [{"name": "n", "type": "number"}]});
    api.post("/api/collections", many).expect(200);
    let url = "/api/collections/many/records";
    for part in [0..1000, 1000..1001] {
        let make = |n: i32| json!({"method": "POST", "url": url, "body": {"n": n}});
        let requests: Vec<Value> = part.map(make).collect();
        api.post("/api/batch", json!({ "requests": requests }))
            .expect(200);
    }
    for (asked, got) in [("999", 999), ("1000", 1000), ("1001", 1000), ("500", 500)] {
        let page = api.list("many", &[("perPage", asked), ("fields", "n")]);
        let page = page.expect(200);
        assert_eq!(page.column("n").len(), got);
        assert_eq!(page.json["perPage"], got);
    }
    let last = api.list("many", &[("perPage", "1000"), ("page", "2")]);
    assert_eq!(last.expect(200).column("n"), [json!(1000)]);
}

/// An `expand` that names no relation failed the whole request, also one that had to write. It is
/// passed over, as is everything below the sixth level.
#[test]
fn what_cannot_be_expanded_is_passed_over() {
    let server = Server::start();
    let api = blog(&server);
    for at in 4..12 {
        let body = json!({"id": format!("p{at}"), "title": "x", "parent": format!("p{}", at - 1)});
        api.post(POSTS, body).expect(200);
    }
    for expand in [
        "title",
        "no",
        "no.author",
        "a b",
        "posts(parent)",
        "author.no",
        "note",
    ] {
        for caller in [&api, &server.api()] {
            let list = caller.list("posts", &[("expand", expand)]);
            assert_eq!(list.expect(200).json["totalItems"], 11);
            let path = format!("{POSTS}/p1?expand={}", expand.replace(' ', "%20"));
            caller.get(&path).expect(200);
        }
    }
    let both = api.get(&format!("{POSTS}/p1?expand=no,author")).expect(200);
    assert_eq!(both.text("/expand/author/name"), "Ann");
    let made = json!({"title": "made"});
    api.post(&format!("{POSTS}?expand=no"), made).expect(200);
    let deep = format!("{POSTS}/p11?expand={}", ["parent"; 8].join("."));
    let deep = api.get(&deep).expect(200);
    let pointer = "/expand/parent".repeat(6);
    assert_eq!(deep.text(&format!("{pointer}/id")), "p5");
    assert_eq!(deep.json.pointer(&format!("{pointer}/expand")), None);
}

/// A relation that `fields` does not name came along in full if it names another one.
#[test]
fn fields_names_what_of_an_expansion_is_shown() {
    let server = Server::start();
    let api = server.admin();
    let relation = |name: &str| json!({"name": name, "type": "relation", "collectionId": "pages"});
    let pages = json!({"name": "pages", "fields": [{"name": "t", "type": "text"}, relation("next"),
        relation("last")]});
    api.post("/api/collections", pages).expect(200);
    let page = json!({"id": "a", "t": "x", "next": "a", "last": "a"});
    api.post("/api/collections/pages/records", page).expect(200);
    for (fields, expected) in [
        ("id,expand.next.t", json!({"next": {"t": "x"}})),
        (
            "id,expand.*.t",
            json!({"next": {"t": "x"}, "last": {"t": "x"}}),
        ),
        (
            "id,expand.next.t,expand.*.id",
            json!({"next": {"t": "x"}, "last": {"id": "a"}}),
        ),
        ("id,expand.nowhere", json!({})),
    ] {
        let list = api.list("pages", &[("fields", fields), ("expand", "next,last")]);
        let item = &list.expect(200).json["items"][0];
        assert_eq!(item, &json!({"id": "a", "expand": expected}), "{fields}");
    }
}

/// Lists show the beginning of long texts, without their markup.
#[test]
fn a_field_may_be_shown_in_part() {
    let server = Server::start();
    let api = server.admin();
    let pages = json!({"name": "pages", "listRule": "", "fields": [
        {"name": "body", "type": "editor"}, {"name": "n", "type": "number"},
        {"name": "tags", "type": "select", "values": ["long-tag"], "maxSelect": 2},
        {"name": "next", "type": "relation", "collectionId": "pages"}]});
    api.post("/api/collections", pages).expect(200);
    let records = "/api/collections/pages/records";
    let page = json!({"id": "a", "body": "<h1>Hello</h1><p>&lt;world&gt;</p>", "n": 123_456,
        "tags": ["long-tag"], "next": "a"});
    api.post(records, page).expect(200);
    let fields = "id,body:excerpt(8,true),n:excerpt(2),tags:excerpt(2),expand.next.body:excerpt(5)";
    let list = api.list("pages", &[("fields", fields), ("expand", "next")]);
    let expected = json!([{"id": "a", "body": "Hello <w...", "n": 123_456, "tags": ["long-tag"],
        "expand": {"next": {"body": "Hello"}}}]);
    assert_eq!(list.expect(200).json["items"], expected);
    for wrong in [
        "body:excerpt",
        "body:excerpt(0)",
        "body:excerpt(x)",
        "body:first(5)",
    ] {
        api.list("pages", &[("fields", wrong)]).expect(400);
    }
}

/// The answer names ignored fields as the client wrote them, with their modifiers.
#[test]
fn a_wrong_filter_is_told_in_the_words_of_filters() {
    let server = Server::start();
    let api = blog(&server);
    for (filter, message) in [
        ("title === 'a'", "Syntax error in the filter near =."),
        ("=1", "Syntax error in the filter near =."),
        ("title ?!~ ?> 1", "Syntax error in the filter near ?>."),
        (
            "title = 'a' 'b'",
            "Syntax error in the filter near the string 'b'.",
        ),
        ("title = && 1", "Syntax error in the filter near &&."),
        ("title = 1 2.5", "Syntax error in the filter near 2.5."),
    ] {
        let refused = api.list("posts", &[("filter", filter)]).expect(400);
        assert_eq!(refused.text("/message"), message, "{filter}");
    }
}

/// A request without a body was told so before it was told that it may not, or that there is no
/// record.
#[test]
fn access_comes_before_the_body() {
    let server = Server::start();
    let api = blog(&server);
    let guest = server.api();
    let rule = json!({"updateRule": "public = true"});
    api.patch("/api/collections/posts", rule).expect(200);
    for body in ["", "{"] {
        guest.post(POSTS, body).expect(403);
        guest
            .post("/api/collections/none/records", body)
            .expect(404);
        guest.patch(&format!("{POSTS}/none"), body).expect(404);
        guest.patch(&format!("{POSTS}/p2"), body).expect(404);
        guest.patch(&format!("{POSTS}/p1"), body).expect(400);
        guest
            .patch("/api/collections/authors/records/ann", body)
            .expect(403);
        api.post(POSTS, body).expect(400);
        api.patch(&format!("{POSTS}/none"), body).expect(404);
        api.patch(&format!("{POSTS}/p1"), body).expect(400);
    }
}

/// A record that a bulk request names twice was changed twice.
#[test]
fn a_bulk_request_changes_each_record_once() {
    let server = Server::start();
    let api = blog(&server);
    let body = json!({"ids": ["p1", "p2", "p1", "p1"], "data": {"views+": 1}});
    let items = api.patch(POSTS, body).expect(200);
    assert_eq!(items.column("id"), ["p1", "p2"]);
    assert_eq!(items.column("views"), [json!(11), json!(3.5)]);
    let body = json!({"ids": ["p2", "p2"]}).to_string();
    api.send("DELETE", POSTS, &body).unwrap().expect(204);
}

/// `PUT` of a batch makes a record when there is no id.
#[test]
fn an_upsert_without_an_id_makes_a_record() {
    let server = Server::start();
    let api = blog(&server);
    let put = |body: Value| {
        let request = json!({"method": "PUT", "url": POSTS, "body": body});
        api.post("/api/batch", json!({"requests": [request]}))
    };
    for body in [
        json!({"title": "x"}),
        json!({"id": "", "title": "x"}),
        json!({"id": null, "title": "x"}),
    ] {
        let made = put(body).expect(200);
        assert_ne!(made.text("/0/body/id"), "");
    }
    let wrong = put(json!({"id": 5, "title": "x"})).expect(400);
    assert!(wrong.json["data"]["requests"]["0"]["response"]["data"]["id"].is_object());
    assert_eq!(api.get(POSTS).json["totalItems"], 6);
}

/// Records that are moved here keep their times. Admins and keys set them; what others send is not
/// written, nor the time that a client read and sends back.
#[test]
fn admins_and_keys_set_the_times_of_a_record() {
    let server = Server::start();
    let api = blog(&server);
    let rules = json!({"createRule": "", "updateRule": ""});
    api.patch("/api/collections/posts", rules).expect(200);
    let key = json!({"name": "k", "scopes": ["read", "write"]});
    let key = api.post("/api/keys", key).expect(200);
    let key = server.api().with_header("X-API-Key", key.text("/key"));
    let (old, new) = ("2020-01-01T00:00:00.000Z", "2021-01-01T10:00:00.000Z");
    let times = |api: &Api, id: &str| {
        let record = api.get(&format!("{POSTS}/{id}")).expect(200);
        [
            record.text("/created").to_owned(),
            record.text("/updated").to_owned(),
        ]
    };
    for (id, writer) in [("a", &api), ("k", &key)] {
        let body =
            json!({"id": id, "title": "x", "created": "2020-01-01", "updated": "2021-01-01 10:00"});
        writer.post(POSTS, body).expect(200);
        assert_eq!(times(&api, id), [old, new]);
        // Sent back as it was read, it is a change like any other.
        let read = json!({"title": "y", "created": old, "updated": new});
        writer.patch(&format!("{POSTS}/{id}"), read).expect(200);
        assert_eq!(times(&api, id)[0], old);
        assert!(times(&api, id)[1].as_str() > "2026");
        let set = json!({"created": new, "updated": old});
        writer.patch(&format!("{POSTS}/{id}"), set).expect(200);
        assert_eq!(times(&api, id), [new, old]);
        let wrong = json!({"updated": "yesterday", "created": 5});
        let wrong = writer.patch(&format!("{POSTS}/{id}"), wrong).expect(400);
        assert_eq!(wrong.text("/data/updated/code"), "validation_invalid_date");
        assert_eq!(wrong.text("/data/created/code"), "validation_invalid_date");
    }
    let guest = server.api();
    let body = json!({"id": "g", "title": "x", "created": old, "updated": "no date"});
    guest.post(POSTS, body).expect(200);
    assert!(times(&api, "g")[0].as_str() > "2026");
    let body = json!({"title": "z", "created": old, "updated": old});
    guest.patch(&format!("{POSTS}/a"), body).expect(200);
    assert_eq!(times(&api, "a")[0], new);
    assert!(times(&api, "a")[1].as_str() > "2026");
}

/// An error in a field of a definition is reported under the field: a wrong field called `type`
/// read as if the type of the collection was wrong, and one without a name had none.
#[test]
fn what_is_wrong_with_a_definition_names_the_field() {
    let server = Server::start();
    let api = server.admin();
    for (field, key) in [
        (
            json!({"name": "type", "type": "text", "min": "x"}),
            "/fields/2/min",
        ),
        (json!({"name": "indexes", "type": "no"}), "/fields/2/type"),
        (
            json!({"name": "a", "type": "text", "options": 5}),
            "/fields/2/options",
        ),
        (json!({"name": "", "type": "text"}), "/fields/2/name"),
        (json!({"type": "text"}), "/fields/2/name"),
        (json!("a"), "/fields/2"),
        (json!({"name": "B", "type": "text"}), "/fields/2/name"),
        (
            json!({"name": "a", "type": "relation", "collectionId": "none"}),
            "/fields/2/collectionId",
        ),
        (
            json!({"name": "a", "type": "text", "pattern": "^\\p{L}+$"}),
            "/fields/2/pattern",
        ),
        (
            json!({"name": "a", "type": "text", "autogeneratePattern": "[a-z"}),
            "/fields/2/autogeneratePattern",
        ),
        (
            json!({"name": "a", "type": "text", "thumbs": ["9x9"]}),
            "/fields/2/thumbs",
        ),
    ] {
        let fields = json!([{"name": "b", "type": "text"}, field]);
        let refused = api.post("/api/collections", json!({"name": "t", "fields": fields}));
        let refused = refused.expect(400);
        assert_eq!(refused.json["data"].as_object().unwrap().len(), 1);
        assert!(
            refused.json["data"]
                .pointer(key)
                .is_some_and(|it| it["code"].is_string()),
            "{key} in {}",
            refused.json
        );
    }
    let empty =
        json!({"name": "a", "type": "file", "thumbs": [], "presentable": true, "system": false});
    let confirm = json!({"name": "passwordConfirm", "type": "text"});
    let base = json!({"name": "t", "fields": [empty, confirm]});
    api.post("/api/collections", base).expect(200);
    let made = api.post(
        "/api/collections/t/records",
        json!({"passwordConfirm": "x"}),
    );
    assert_eq!(made.expect(200).text("/passwordConfirm"), "x");
    let auth = json!({"name": "u", "type": "auth", "fields": [confirm]});
    let refused = api.post("/api/collections", auth).expect(400);
    assert!(refused.json["data"]["fields"].is_object());
}

/// The list of collections takes the parameters of every list.
#[test]
fn collections_are_filtered_and_sorted() {
    let server = Server::start();
    let api = blog(&server);
    let all = api.get("/api/collections?filter=name%3D%27posts%27&sort=-name");
    assert_eq!(all.expect(200).column("name"), ["posts"]);
    let all = api.get("/api/collections?sort=-name");
    let names = all.expect(200).column("name");
    let place = |name: &str| names.iter().position(|it| it == name).unwrap();
    assert!(place("posts") < place("authors"));
}
