//! Collections and fields get other names; data and everything that mentions the names follow.
//!
//! - here: one rename with all that mentions it, swaps, names that are taken over.
//! - `refusals`: what cannot follow, and names that cannot change.
//! - `live`: beside requests and subscribers, with kills, on replicas.

use serde_json::{Value, json};

use super::support::api::Api;
use super::support::receiver::Receiver;
use super::support::server::Server;
use super::support::wait_until;

mod live;
mod refusals;

const COLLECTIONS: &str = "/api/collections";

/// The path of a collection in the database whose paths begin with `base`.
fn path(base: &str, collection: &str) -> String {
    format!("{base}{COLLECTIONS}/{collection}")
}

fn records(base: &str, collection: &str) -> String {
    format!("{}/records", path(base, collection))
}

/// Users, posts of users, and comments on posts, which mention each other in every way.
fn set_up(admin: &Api, base: &str) {
    let make = |body: Value| {
        admin
            .post(&format!("{base}{COLLECTIONS}"), body)
            .expect(200)
    };
    make(
        json!({"name": "users", "type": "auth", "listRule": "", "fields": [
        {"name": "role", "type": "text"}, {"name": "nick", "type": "text", "unique": true}],
        "passwordAuth": {"identityFields": ["email", "nick"]}}),
    );
    make(
        json!({"name": "posts", "viewRule": "", "createRule": "", "updateRule":
        "@request.auth.role = 'title' && @request.auth.collectionName = 'users' && \
         @request.body.title:changed = false",
        "listRule": "title != 'title' // title of posts\n && owner.role:lower != \"role\"",
        "fields": [{"name": "title", "type": "text"}, {"name": "n", "type": "number"},
            {"name": "owner", "type": "relation", "collectionId": "users"},
            {"name": "doc", "type": "file"}],
        "fieldRules": {"editors": ["title", "n"]},
        "indexes": ["CREATE UNIQUE INDEX idx_title ON posts (title, lower(title)) WHERE title != ''"],
        "options": {"views": {"own": {"filter": "title != 'x' && owner.role = 'title'", "sort": "-title,n"}}}}),
    );
    make(json!({"name": "comments",
        "listRule": "post.title != 'q' && @collection.posts.title ?!= 'q' && @collection.posts:p.owner.role ?!= 'q'",
        "fields": [{"name": "post", "type": "relation", "collectionId": "posts"}, {"name": "text", "type": "text"}],
        "options": {"views": [{"slug": "titles", "sql": "SELECT id, title FROM posts", "listRule": "title != ''"}]}}));
    let rule = json!({"viewRule": "comments_via_post.text ?= 'hi' || comments_via_post.post.title ?= 'q'"});
    admin.patch(&path(base, "posts"), rule).expect(200);
    make(
        json!({"name": "stats", "type": "view", "listRule": "title != ''", "viewQuery":
        "SELECT p.id, title, upper(p.\"title\") AS loud, 'title' AS word -- title of posts\n\
         FROM posts AS p WHERE p.title <> 'posts' ORDER BY title"}),
    );
    let user = json!({"email": "a@example.com", "password": "password-1", "role": "title", "nick": "anna"});
    let user = admin.post(&records(base, "users"), user).expect(200);
    let post = json!({"id": "p1", "title": "hello", "n": 3, "owner": user.text("/id")});
    admin.post(&records(base, "posts"), post).expect(200);
    let comment = json!({"post": "p1", "text": "hi"});
    admin.post(&records(base, "comments"), comment).expect(200);
}

/// The fields of a collection with other names.
fn fields_with(admin: &Api, path: &str, names: &[(&str, &str)]) -> Vec<Value> {
    let fields = admin.get(path).expect(200).json["fields"].clone();
    let renamed = fields.as_array().unwrap().iter().map(|field| {
        let mut field = field.clone();
        let new = names.iter().find(|(old, _)| field["name"] == *old);
        if let Some((_, new)) = new {
            field["name"] = json!(new);
        }
        field
    });
    renamed.collect()
}

/// Renames fields as a tool does, which sends the whole definition back.
fn rename_fields(admin: &Api, path: &str, names: &[(&str, &str)]) -> super::support::api::Reply {
    let mut body = admin.get(path).expect(200).json;
    body["fields"] = json!(fields_with(admin, path, names));
    body.as_object_mut().unwrap().remove("schema");
    admin.patch(path, body)
}

fn check_followed(admin: &Api, base: &str) {
    let posts = admin.get(&path(base, "articles")).expect(200).json;
    assert_eq!(
        posts["updateRule"],
        "@request.auth.kind = 'title' && @request.auth.collectionName = 'people' && \
         @request.body.headline:changed = false"
    );
    assert_eq!(
        posts["listRule"],
        "headline != 'title' // title of posts\n && owner.kind:lower != \"role\""
    );
    assert_eq!(
        posts["viewRule"],
        "comments_via_post.text ?= 'hi' || comments_via_post.post.headline ?= 'q'"
    );
    assert_eq!(posts["fieldRules"], json!({"editors": ["headline", "n"]}));
    assert_eq!(
        posts["indexes"][0],
        "CREATE UNIQUE INDEX `idx_title` ON `articles` (\n  `headline`,\n  lower(`headline`)\n) WHERE `headline` != ''"
    );
    assert_eq!(
        posts["options"]["views"]["own"],
        json!({"filter": "headline != 'x' && owner.kind = 'title'", "sort": "-headline,n"})
    );
    let comments = admin.get(&path(base, "comments")).expect(200).json;
    assert_eq!(
        comments["listRule"],
        "post.headline != 'q' && @collection.articles.headline ?!= 'q' && @collection.articles:p.owner.kind ?!= 'q'"
    );
    let titles = &comments["options"]["views"][0];
    assert_eq!(titles["sql"], "SELECT id, headline AS title FROM articles");
    assert_eq!(titles["listRule"], "title != ''");
    let stats = admin.get(&path(base, "stats")).expect(200).json;
    assert_eq!(
        stats["viewQuery"],
        "SELECT p.id, headline AS title, upper(p.\"headline\") AS loud, 'title' AS word -- title of posts\n\
         FROM articles AS p WHERE p.headline <> 'posts' ORDER BY title"
    );
    let people = admin.get(&path(base, "people")).expect(200).json;
    let identities = json!(["email", "alias"]);
    assert_eq!(people["passwordAuth"]["identityFields"], identities);
}

/// Renames what `check_followed` looks for.
fn rename_all(admin: &Api, base: &str) -> Value {
    rename_fields(
        admin,
        &path(base, "users"),
        &[("role", "kind"), ("nick", "alias")],
    )
    .expect(200);
    admin
        .patch(&path(base, "users"), json!({"name": "people"}))
        .expect(200);
    let fields = fields_with(admin, &path(base, "posts"), &[("title", "headline")]);
    let body = json!({"name": "articles", "fields": fields});
    admin.patch(&path(base, "posts"), body).expect(200).json
}

#[test]
fn everything_that_mentions_a_name_follows_and_data_stay() {
    let server = Server::start();
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in ["", "/db/shop"] {
        set_up(&admin, base);
        let file = {
            let boundary = "x";
            let body = "--x\r\nContent-Disposition: form-data; name=\"doc\"; filename=\"a.txt\"\r\n\r\nfile\r\n--x--\r\n";
            let form = admin.with_header(
                "Content-Type",
                &format!("multipart/form-data; boundary={boundary}"),
            );
            let reply = form.patch(&format!("{}/p1", records(base, "posts")), body);
            reply.expect(200).text("/doc").to_owned()
        };
        let renamed = rename_all(&admin, base);
        assert_eq!(renamed["name"], "articles");
        check_followed(&admin, base);
        admin.get(&path(base, "posts")).expect(404);

        let list = admin.get(&records(base, "articles")).expect(200).json;
        assert_eq!(list["items"][0]["headline"], "hello");
        assert_eq!(list["items"][0]["collectionName"], "articles");
        assert_eq!(list["items"][0]["title"], Value::Null);
        let stats = admin.get(&records(base, "stats")).expect(200).json;
        assert_eq!(stats["items"][0]["title"], "hello");
        assert_eq!(stats["items"][0]["loud"], "HELLO");
        let view = format!("{}/views/titles", path(base, "comments"));
        assert_eq!(
            admin.get(&view).expect(200).json["items"][0]["title"],
            "hello"
        );
        let own = format!("{}/views/own", path(base, "articles"));
        assert_eq!(admin.get(&own).expect(200).json["totalItems"], 1);
        let content = admin.get(&format!("{base}/api/files/articles/p1/{file}"));
        assert_eq!(content.expect(200).body, b"file");

        // The account, whose field has another name, passes the rule that mentions it.
        let login = json!({"identity": "anna", "password": "password-1"});
        let login = admin.post(
            &format!("{}/auth-with-password", path(base, "people")),
            login,
        );
        let user = server.api().with_token(login.expect(200).text("/token"));
        let own = format!("{}/p1", records(base, "articles"));
        user.patch(&own, json!({"n": 4})).expect(200);
        user.patch(&own, json!({"headline": "other"})).expect(404);
        let twice = json!({"headline": "hello"});
        admin.post(&records(base, "articles"), twice).expect(400);
    }
    let server = server.restart();
    let admin = server.admin();
    for base in ["", "/db/shop"] {
        check_followed(&admin, base);
        let list = admin.get(&records(base, "articles")).expect(200).json;
        assert_eq!(list["items"][0]["headline"], "hello");
    }
}

#[test]
fn webhooks_and_api_keys_follow_a_collection() {
    let server = Server::start();
    let admin = server.admin();
    let receiver = Receiver::content();
    admin
        .post(
            COLLECTIONS,
            json!({"name": "posts", "fields": [{"name": "title", "type": "text"}]}),
        )
        .expect(200);
    let hook = json!({"name": "hook", "url": receiver.url("/"), "collection": "posts"});
    admin.post("/api/webhooks", hook).expect(200);
    let key = json!({"name": "k", "scopes": ["read", "write"], "collections": ["posts"]});
    let key = admin.post("/api/keys", key).expect(200);
    let key = server.api().with_token(key.text("/key"));
    key.post(&records("", "posts"), json!({"title": "1"}))
        .expect(200);
    admin
        .patch(&path("", "posts"), json!({"name": "articles"}))
        .expect(200);
    key.post(&records("", "articles"), json!({"title": "2"}))
        .expect(200);
    admin
        .post(
            COLLECTIONS,
            json!({"name": "posts", "fields": [{"name": "title", "type": "text"}]}),
        )
        .expect(200);
    key.get(&records("", "posts")).expect(403);
    admin
        .post(&records("", "posts"), json!({"title": "3"}))
        .expect(200);
    key.post(&records("", "articles"), json!({"title": "4"}))
        .expect(200);
    wait_until("three calls have come", || receiver.received().len() >= 3);
    let bodies: Vec<Value> = receiver
        .received()
        .iter()
        .map(|it| serde_json::from_str(&it.body).unwrap())
        .collect();
    let seen = bodies
        .iter()
        .map(|it| (&it["collection"], &it["record"]["title"]));
    let seen: Vec<_> = seen.collect();
    let expected = [("posts", "1"), ("articles", "2"), ("articles", "4")];
    let expected = expected.map(|(collection, title)| (json!(collection), json!(title)));
    let expected: Vec<_> = expected.iter().map(|(a, b)| (a, b)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn fields_swap_names_change_case_and_come_back() {
    let server = Server::start();
    let admin = server.admin();
    set_up(&admin, "");
    let posts = path("", "posts");
    let before = admin.get(&posts).expect(200).json;
    rename_fields(&admin, &posts, &[("title", "n"), ("n", "title")]).expect(200);
    let record = admin
        .get(&format!("{}/p1", records("", "posts")))
        .expect(200)
        .json;
    assert_eq!(
        (&record["n"], &record["title"]),
        (&json!("hello"), &json!(3))
    );
    let comments = admin.get(&path("", "comments")).expect(200).json;
    assert!(
        comments["listRule"]
            .as_str()
            .unwrap()
            .contains("@collection.posts.n ")
    );
    let stats = admin.get(&records("", "stats")).expect(200).json;
    assert_eq!(stats["items"][0]["title"], "hello");
    rename_fields(&admin, &posts, &[("title", "n"), ("n", "title")]).expect(200);
    rename_fields(&admin, &posts, &[("title", "Title")]).expect(200);
    let record = admin
        .get(&format!("{}/p1", records("", "posts")))
        .expect(200)
        .json;
    assert_eq!(
        (&record["n"], &record["Title"]),
        (&json!(3), &json!("hello"))
    );
    rename_fields(&admin, &posts, &[("Title", "title")]).expect(200);
    let mut after = admin.get(&posts).expect(200).json;
    after["updated"] = before["updated"].clone();
    assert_eq!(after, before);
    let stats = admin.get(&records("", "stats")).expect(200).json;
    assert_eq!(stats["items"][0]["title"], "hello");
}

#[test]
fn a_new_field_can_take_the_old_name_and_a_renamed_one_that_of_a_deleted_one() {
    let server = Server::start();
    let admin = server.admin();
    let posts = path("", "posts");
    let body = json!({"name": "posts", "listRule": "title != ''", "fields": [
        {"name": "title", "type": "text"}, {"name": "n", "type": "number"}, {"name": "note", "type": "text"}]});
    admin.post(COLLECTIONS, body).expect(200);
    let record = json!({"id": "p1", "title": "hello", "n": 3, "note": "kept"});
    admin.post(&records("", "posts"), record).expect(200);
    // With another type and another option of the renamed field at once.
    let mut fields = fields_with(&admin, &posts, &[("title", "headline")]);
    let headline = fields
        .iter_mut()
        .find(|it| it["name"] == "headline")
        .unwrap();
    headline["type"] = json!("editor");
    headline["required"] = json!(true);
    fields.push(json!({"name": "title", "type": "number"}));
    let changed = admin
        .patch(&posts, json!({"fields": fields}))
        .expect(200)
        .json;
    assert_eq!(changed["listRule"], "headline != ''");
    let record = admin
        .get(&format!("{}/p1", records("", "posts")))
        .expect(200)
        .json;
    assert_eq!(
        (&record["headline"], &record["title"]),
        (&json!("hello"), &json!(0))
    );
    // Without ids, names mean fields, also one whose generated id another field has.
    let names = json!([{"name": "headline", "type": "editor"}, {"name": "title", "type": "number"},
        {"name": "n", "type": "number"}, {"name": "note", "type": "text"}]);
    admin.patch(&posts, json!({"fields": names})).expect(200);
    let again = admin
        .get(&format!("{}/p1", records("", "posts")))
        .expect(200)
        .json;
    assert_eq!(
        (&again["headline"], &again["title"]),
        (&json!("hello"), &json!(0))
    );
    // `n` is deleted, and `note` gets its name in the same request, then `title` that of `note`.
    let fields = fields_with(&admin, &posts, &[("note", "n"), ("n", "gone")]);
    let fields: Vec<&Value> = fields.iter().filter(|it| it["name"] != "gone").collect();
    admin.patch(&posts, json!({"fields": fields})).expect(200);
    rename_fields(&admin, &posts, &[("title", "note")]).expect(200);
    let record = admin
        .get(&format!("{}/p1", records("", "posts")))
        .expect(200)
        .json;
    assert_eq!((&record["n"], &record["note"]), (&json!("kept"), &json!(0)));
    admin.post("/api/databases/default/purge", "").expect(200);
    let record = admin
        .get(&format!("{}/p1", records("", "posts")))
        .expect(200)
        .json;
    assert_eq!(
        (&record["n"], &record["headline"]),
        (&json!("kept"), &json!("hello"))
    );
}

#[test]
fn an_import_renames_by_ids_and_swaps_and_gives_names_to_new_collections() {
    let server = Server::start();
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in ["", "/db/shop"] {
        set_up(&admin, base);
        let import = format!("{base}{COLLECTIONS}/import");
        let id = |name: &str| {
            admin
                .get(&path(base, name))
                .expect(200)
                .text("/id")
                .to_owned()
        };
        let (posts, comments) = (id("posts"), id("comments"));
        let swap = json!({"collections": [
            {"id": posts, "name": "comments"}, {"id": comments, "name": "posts"}]});
        admin.put(&import, swap).expect(204);
        assert_eq!(id("comments"), posts);
        let list = admin.get(&records(base, "comments")).expect(200).json;
        assert_eq!(list["items"][0]["title"], "hello");
        let list = admin.get(&records(base, "posts")).expect(200).json;
        assert_eq!(list["items"][0]["text"], "hi");
        let rule = admin.get(&path(base, "comments")).expect(200).json["viewRule"].clone();
        assert_eq!(
            rule,
            "posts_via_post.text ?= 'hi' || posts_via_post.post.title ?= 'q'"
        );
        // A case, and a new collection under the name that is given up; another one goes.
        let next = json!({"collections": [
            {"name": "posts", "fields": [{"name": "x", "type": "text"}]},
            {"id": comments, "name": "remarks"}, {"id": posts, "name": "Comments"}]});
        admin.put(&import, next).expect(204);
        assert_eq!(
            admin.get(&records(base, "posts")).expect(200).json["totalItems"],
            0
        );
        assert_eq!(
            admin.get(&records(base, "remarks")).expect(200).json["totalItems"],
            1
        );
        assert_eq!(
            admin.get(&records(base, "Comments")).expect(200).json["totalItems"],
            1
        );
        let gone = id("posts");
        admin.delete(&path(base, "posts")).expect(204);
        admin
            .patch(&path(base, "remarks"), json!({"name": "posts"}))
            .expect(200);
        let list = admin.get(&records(base, "posts")).expect(200).json;
        assert_eq!(list["items"][0]["text"], "hi");
        assert_ne!(id("posts"), gone);
    }
}
