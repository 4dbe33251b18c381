//! Collections of type `view` and named views: columns, rules, files, replicas, tenants, and what
//! they may not tell.

use serde_json::{Value, json};

use super::records::{POSTS, blog};
use super::support::api::{Api, Reply};
use super::support::cluster::{converge, master, replica};
use super::support::listener::Listener;
use super::support::server::Server;

const COLLECTIONS: &str = "/api/collections";

/// Posts with their authors, and how often each author wrote.
const STATS: &str = "SELECT posts.id, posts.title, posts.author, posts.tags, posts.note, \
     posts.created, authors.name AS writer, authors.id AS who, count(also.id) AS total, \
     upper(posts.title) AS loud, CAST(posts.views AS INTEGER) AS seen, \
     CAST(posts.public AS BOOL) AS shown \
     FROM posts LEFT JOIN authors ON authors.id = posts.author \
     LEFT JOIN posts AS also ON also.author = posts.author \
     GROUP BY posts.id";

fn view(name: &str, query: &str) -> Value {
    json!({"name": name, "type": "view", "viewQuery": query, "listRule": "", "viewRule": ""})
}

/// The path of a list of records.
fn records(collection: &str) -> String {
    format!("{COLLECTIONS}/{collection}/records")
}

/// The message of a refused definition.
fn refusal(api: &Api, body: Value) -> String {
    let refused = api.post(COLLECTIONS, body);
    assert!(matches!(refused.status, 400 | 409), "{}", refused.json);
    refused.json.to_string()
}

#[test]
fn a_view_over_two_collections_has_the_types_of_its_columns() {
    let server = Server::start();
    let api = blog(&server);
    let mut body = view("stats", STATS);
    body["options"] = json!({"showHidden": ["writer", "total", "loud", "seen", "shown"]});
    let made = api.post(COLLECTIONS, body).expect(200).json;
    let types: Vec<(&str, &str, bool)> = made["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let text = |name: &str| it[name].as_str().unwrap();
            (text("name"), text("type"), it["hidden"] == true)
        })
        .collect();
    assert_eq!(
        types,
        [
            ("id", "text", false),
            ("title", "text", false),
            ("author", "relation", false),
            ("tags", "select", false),
            ("note", "text", true),
            ("writer", "text", false),
            ("who", "relation", false),
            ("total", "number", false),
            ("loud", "json", false),
            ("seen", "number", false),
            ("shown", "bool", false),
            ("created", "autodate", false),
        ]
    );
    let one = server
        .api()
        .get(&format!("{}/p1?expand=author,who", records("stats")));
    let one = one.expect(200);
    assert_eq!(one.header("ETag"), None, "rows of a view have no version");
    let mut expected = json!({
        "collectionName": "stats", "id": "p1", "title": "One", "author": "ann",
        "tags": ["a", "b"], "writer": "Ann", "who": "ann", "total": 1, "loud": "ONE", "seen": 10,
        "shown": true,
    });
    for name in ["collectionId", "created", "expand"] {
        expected[name] = one.json[name].clone();
    }
    assert_eq!(one.json, expected);
    assert_eq!(one.json["expand"]["author"]["name"], "Ann");
    assert_eq!(one.json["expand"]["who"]["name"], "Ann");
    // Only admins see the copy of a hidden field.
    let all = api.get(&records("stats")).expect(200);
    assert_eq!(all.column("note"), [json!(""), json!(""), json!("secret")]);
}

#[test]
fn rules_filters_sorts_and_pages_apply_to_a_view() {
    let server = Server::start();
    let api = blog(&server);
    let query = "SELECT posts.id, title, author, (SELECT name FROM authors WHERE id = author) AS \
                 writer FROM posts";
    api.post(COLLECTIONS, view("list", query)).expect(200);
    let anyone = server.api();
    let ids = |query: &[(&str, &str)]| anyone.list("list", query).expect(200).column("id");
    assert_eq!(ids(&[("sort", "-title")]), ["p2", "p3", "p1"]);
    assert_eq!(ids(&[("filter", "author.name = 'Bob'")]), ["p2"]);
    assert_eq!(
        ids(&[
            ("filter", "writer = 'Ann' || title ~ 'thr'"),
            ("sort", "@rowid")
        ]),
        ["p1", "p3"]
    );
    assert_eq!(
        ids(&[("perPage", "1"), ("page", "2"), ("sort", "title")]),
        ["p3"]
    );
    let page = anyone
        .list("list", &[("perPage", "2"), ("fields", "title")])
        .expect(200)
        .json;
    assert_eq!(
        (&page["totalItems"], &page["totalPages"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(page["items"][0], json!({"title": "One"}));
    for wrong in ["created > '2020-01-01'", "nothing = 1", "note = 'secret'"] {
        anyone.list("list", &[("filter", wrong)]).expect(400);
    }
    let path = format!("{COLLECTIONS}/list");
    let rules = json!({"listRule": "author != ''", "viewRule": "title = 'One'"});
    api.patch(&path, rules).expect(200);
    assert_eq!(ids(&[]), ["p1", "p2"]);
    anyone.get(&format!("{}/p1", records("list"))).expect(200);
    anyone.get(&format!("{}/p2", records("list"))).expect(404);
    api.patch(&path, json!({"listRule": null, "viewRule": "nothing = 1"}))
        .expect(400);
    api.patch(&path, json!({"listRule": null})).expect(200);
    anyone.get(&records("list")).expect(403);
    // The rows that a related record stands in follow its own view rule.
    api.patch(
        &format!("{COLLECTIONS}/authors"),
        json!({"viewRule": "name = 'Ann'"}),
    )
    .expect(200);
    let one = anyone
        .get(&format!("{}/p1?expand=author", records("list")))
        .expect(200);
    assert_eq!(one.json["expand"]["author"]["id"], "ann");
    api.patch(&path, json!({"viewRule": ""})).expect(200);
    let two = anyone
        .get(&format!("{}/p2?expand=author", records("list")))
        .expect(200);
    assert_eq!(two.json["expand"], json!({}));
}

#[test]
fn the_rows_of_a_view_cannot_be_changed_or_followed() {
    let server = Server::start();
    let api = blog(&server);
    api.post(COLLECTIONS, view("list", "SELECT id, title FROM posts"))
        .expect(200);
    let (all, one) = (records("list"), format!("{}/p1", records("list")));
    for refused in [
        api.post(&all, json!({"title": "x"})),
        api.patch(&one, json!({"title": "x"})),
        api.delete(&one),
        api.patch(&all, json!({"ids": ["p1"], "data": {"title": "x"}})),
        api.send("DELETE", &all, r#"{"ids":["p1"]}"#).unwrap(),
        api.post(
            "/api/batch",
            json!({"requests": [{"method": "DELETE", "url": &one}]}),
        ),
    ] {
        let refused = refused.expect(400);
        assert!(
            refused.json.to_string().contains("list is a view"),
            "{}",
            refused.json
        );
    }
    let mut listener = Listener::connect(&server, "");
    let refused = listener.try_subscribe("list", json!({}));
    assert!(refused.to_string().contains("list is a view"), "{refused}");
    assert_eq!(api.get(POSTS).expect(200).json["totalItems"], 3);
    let relation = json!({"name": "r", "fields": [
        {"name": "to", "type": "relation", "collectionId": "list"}]});
    assert!(refusal(&api, relation).contains("list is a view"));
    for (name, value) in [
        ("createRule", json!("")),
        ("updateRule", json!("")),
        ("deleteRule", json!("")),
        ("executeRule", json!("")),
        ("fieldEditRules", json!({"*": ["title"]})),
        ("indexes", json!([{"fields": ["title"]}])),
        ("viewQuery", Value::Null),
    ] {
        let mut body = view("other", "SELECT id, title FROM posts");
        body[name] = value;
        let text = refusal(&api, body);
        assert!(text.contains(&format!("\"{name}\"")), "{name}: {text}");
    }
    let base = json!({"name": "other", "viewQuery": "SELECT id FROM posts"});
    assert!(refusal(&api, base).contains("viewQuery"));
}

#[test]
fn a_statement_reads_collections_and_nothing_else() {
    let server = Server::start();
    let api = blog(&server);
    let users = json!({"name": "users", "type": "auth"});
    api.post(COLLECTIONS, users).expect(200);
    // The column of a deleted field stays in the table until a purge.
    let fields = json!([{"name": "old", "type": "text"}, {"name": "kept", "type": "text"}]);
    api.post(COLLECTIONS, json!({"name": "notes", "fields": fields}))
        .expect(200);
    api.patch(
        &format!("{COLLECTIONS}/notes"),
        json!({"fields": [fields[1]]}),
    )
    .expect(200);
    for sql in [
        "SELECT id, password FROM users",
        "SELECT id, \"password\" FROM users",
        "SELECT id, users.password AS p FROM main.users",
        "SELECT id, _token_key AS k FROM users",
        "SELECT u.id FROM users AS u JOIN users AS v USING (password)",
        "SELECT id, old FROM notes",
        "SELECT id, \"old\" AS o FROM main.notes",
        "SELECT id, rowid AS r FROM posts",
        "SELECT id, password_hash FROM _admins",
        "SELECT id FROM main._admins",
        "SELECT id FROM _collections",
        "SELECT name AS id FROM sqlite_schema",
        "SELECT name AS id FROM sqlite_master",
        "SELECT name AS id FROM main.sqlite_schema",
        "SELECT name AS id FROM pragma_table_info('users')",
        "SELECT count(*) AS id FROM pragma_table_list",
        "SELECT name AS id FROM pragma_database_list",
        "SELECT pgno AS id FROM sqlite_dbpage",
        "SELECT name AS id FROM dbstat",
        "SELECT load_extension('x') AS id",
        "SELECT id FROM posts; SELECT id FROM users",
        "SELECT id FROM posts) UNION SELECT id FROM (SELECT id FROM users",
        "SELECT id FROM posts /*",
        "SELECT id FROM posts WHERE id = ?1",
        "DELETE FROM posts RETURNING id",
        "INSERT INTO posts (id) VALUES ('x') RETURNING id",
        "WITH a AS (SELECT 1) DELETE FROM posts RETURNING id",
        "CREATE TABLE x (id)",
        "ATTACH 'x' AS y",
        "PRAGMA user_version",
        "EXPLAIN SELECT id FROM posts",
        "VALUES (1)",
        "SELECT * FROM posts",
        "SELECT posts.* FROM posts",
        "SELECT title FROM posts",
        "SELECT id, title, title FROM posts",
        "SELECT id, author AS id FROM posts",
        "SELECT id, title AS \"a b\" FROM posts",
        "SELECT id, title AS expand FROM posts",
        "SELECT id, title AS rowid FROM posts",
        "SELECT id FROM nothing",
        "SELECT id FROM posts WHERE",
        "",
    ] {
        let body = view("v", sql);
        let refused = api.post(COLLECTIONS, body);
        assert_eq!(refused.status, 400, "{sql}: {}", refused.json);
        let message = refused.text("/data/viewQuery/message");
        assert!(
            message.ends_with('.') && message.len() < 300,
            "{sql}: {message}"
        );
    }
    // In a comment, a string or a name none of it does harm.
    let fine =
        "SELECT id, '; DROP TABLE posts -- ' AS x, \"title\" AS password FROM posts -- ;\n ;";
    api.post(COLLECTIONS, view("v", fine)).expect(200);
    let rows = server.api().get(&records("v")).expect(200);
    assert_eq!(rows.column("password"), ["One", "Two", "Three"]);
}

#[test]
fn a_hidden_field_is_told_by_no_column_that_the_admin_does_not_name() {
    let server = Server::start();
    let api = blog(&server);
    let anyone = server.api();
    let shown = |sql: &str, show: &[&str]| {
        let mut body = view("v", sql);
        body["options"] = json!({ "showHidden": show });
        let made = api.post(COLLECTIONS, body);
        if made.status != 200 {
            return Err(made.json.to_string());
        }
        let rows = anyone.get(&records("v")).expect(200).json["items"].to_string();
        for filter in ["x = 'secret'", "x ~ 'sec'"] {
            let found = anyone.list("v", &[("filter", filter)]);
            let is_hidden = found.status == 400;
            assert_eq!(is_hidden, !rows.contains("\"x\""), "{sql}: {}", found.json);
        }
        api.delete(&format!("{COLLECTIONS}/v")).expect(204);
        Ok(rows)
    };
    for sql in [
        "SELECT id, note AS x FROM posts",
        "SELECT id, upper(note) AS x FROM posts",
        "SELECT id, title || note AS x FROM posts",
        "SELECT id, (SELECT note FROM posts AS p WHERE p.id = posts.id) AS x FROM posts",
        "WITH a AS (SELECT id, note AS y FROM posts) SELECT id, y AS x FROM a",
        "SELECT id, title AS x FROM posts UNION SELECT id, note FROM posts",
        "SELECT id, x FROM (SELECT id, title AS x FROM posts UNION ALL SELECT id, note FROM posts)",
        "SELECT id, max(note) AS x FROM posts GROUP BY id",
        "SELECT p.id, x FROM (SELECT id, note AS x FROM posts) AS p",
    ] {
        // The ids of a union may come from any of its parts.
        let is_union = sql.contains("UNION");
        let of_union: &[&str] = if is_union { &["id"] } else { &[] };
        assert_eq!(is_union, shown(sql, &[]).is_err(), "{sql}");
        let rows = shown(sql, of_union).unwrap();
        assert!(
            !rows.contains("secret") && !rows.contains("\"x\""),
            "{sql}: {rows}"
        );
        let rows = shown(sql, &["id", "x"]).unwrap();
        assert!(rows.to_lowercase().contains("secret"), "{sql}: {rows}");
    }
    let copy = "SELECT id, title AS x FROM posts WHERE note = 'secret'";
    assert!(shown(copy, &[]).unwrap().contains("Three"));
    for sql in [
        "SELECT note AS id, title AS x FROM posts",
        "SELECT lower(note) AS id, 1 AS x FROM posts",
    ] {
        let refused = shown(sql, &[]).unwrap_err();
        assert!(refused.contains("showHidden"), "{refused}");
    }
    // A field that becomes hidden is hidden in the views too.
    api.post(COLLECTIONS, view("v", "SELECT id, title FROM posts"))
        .expect(200);
    assert_eq!(
        anyone.get(&records("v")).expect(200).column("title").len(),
        3
    );
    let posts = api.get(&format!("{COLLECTIONS}/posts")).expect(200).json;
    let mut fields = posts["fields"].clone();
    for field in fields.as_array_mut().unwrap() {
        if field["name"] == "title" {
            field["hidden"] = json!(true);
        }
    }
    api.patch(&format!("{COLLECTIONS}/posts"), json!({ "fields": fields }))
        .expect(200);
    let rows = anyone.get(&records("v")).expect(200).json.to_string();
    assert!(!rows.contains("One"), "{rows}");
}

#[test]
fn a_change_that_breaks_a_view_is_refused_and_names_it() {
    let server = Server::start();
    let api = blog(&server);
    api.post(
        COLLECTIONS,
        view("first", "SELECT id, title, note FROM posts"),
    )
    .expect(200);
    api.post(
        COLLECTIONS,
        view("second", "SELECT id, title AS t FROM first"),
    )
    .expect(200);
    let rows = server.api().get(&records("second")).expect(200);
    assert_eq!(rows.column("t"), ["One", "Two", "Three"]);
    let named =
        json!({"options": {"views": [{"slug": "names", "sql": "SELECT name FROM authors"}]}});
    api.patch(&format!("{COLLECTIONS}/authors"), named)
        .expect(200);
    let posts = api.get(&format!("{COLLECTIONS}/posts")).expect(200).json;
    let without = |name: &str| {
        let fields = posts["fields"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|it| it["name"] != name);
        json!({"fields": fields.collect::<Vec<_>>()})
    };
    let path = format!("{COLLECTIONS}/posts");
    let refused = |reply: Reply, name: &str| {
        let text = reply.expect(409).json.to_string();
        assert!(text.contains(&format!("The view {name} ")), "{text}");
    };
    refused(api.patch(&path, without("note")), "first");
    refused(api.patch(&path, without("title")), "first");
    refused(api.delete(&path), "first");
    refused(api.delete(&format!("{COLLECTIONS}/first")), "second");
    let other = json!({"viewQuery": "SELECT id, title AS other FROM posts"});
    refused(api.patch(&format!("{COLLECTIONS}/first"), other), "second");
    let circle = json!({"viewQuery": "SELECT id, t AS title FROM second"});
    let circular = api
        .patch(&format!("{COLLECTIONS}/first"), circle)
        .expect(400);
    assert!(
        circular.json.to_string().contains("reads itself"),
        "{}",
        circular.json
    );
    // Its own named view goes with it.
    api.patch(&path, without("views")).expect(200);
    let authors = json!({"fields": [{"name": "title", "type": "text"}]});
    let refused = api
        .patch(&format!("{COLLECTIONS}/authors"), authors)
        .expect(400);
    assert!(
        refused.json.to_string().contains("names"),
        "{}",
        refused.json
    );
    api.delete(&format!("{COLLECTIONS}/second")).expect(204);
    api.delete(&format!("{COLLECTIONS}/first")).expect(204);
    api.patch(&path, without("note")).expect(200);
}

#[test]
fn named_views_are_statements_or_saved_queries() {
    let server = Server::start();
    let api = blog(&server);
    let anyone = server.api();
    let path = format!("{COLLECTIONS}/posts");
    let statements = json!([
        {"slug": "by-author", "sql": "SELECT author, count(*) AS total FROM posts GROUP BY author",
         "listRule": "author != ''"},
        {"slug": "inner", "sql": "SELECT id, title FROM posts"},
    ]);
    api.patch(&path, json!({"options": {"views": statements}}))
        .expect(200);
    let rows = anyone
        .get(&format!(
            "{path}/views/by-author?sort=-author&expand=author"
        ))
        .expect(200);
    assert_eq!(rows.column("author"), ["bob", "ann"]);
    assert_eq!(rows.column("total"), [1, 1]);
    assert_eq!(rows.json["items"][0]["expand"]["author"]["name"], "Bob");
    let all = api.get(&format!("{path}/views/by-author")).expect(200);
    assert_eq!(all.json["totalItems"], 3);
    anyone.get(&format!("{path}/views/inner")).expect(403);
    anyone.get(&format!("{path}/views/none")).expect(404);
    let saved = json!({"top": {"perPage": 1, "sort": "-views", "filter": "views > 1"}, "all": {}});
    api.patch(&path, json!({"options": {"views": saved}}))
        .expect(200);
    let top = anyone.get(&format!("{path}/views/top")).expect(200);
    assert_eq!(
        (top.column("id"), &top.json["totalItems"]),
        (vec![json!("p1")], &json!(2))
    );
    let second = anyone.get(&format!("{path}/views/top?page=2")).expect(200);
    assert_eq!(second.column("id"), ["p2"]);
    let own = anyone
        .get(&format!("{path}/views/top?filter=views%3C5&sort=id"))
        .expect(200);
    assert_eq!(own.column("id"), ["p2"]);
    anyone
        .get(&format!("{path}/views/top?filter=views%3C5)%7C%7C(1%3D1"))
        .expect(400);
    api.patch(&path, json!({"listRule": null})).expect(200);
    anyone.get(&format!("{path}/views/all")).expect(403);
    for wrong in [
        json!(5),
        json!([{"slug": "a"}]),
        json!([{"slug": "a b", "sql": "SELECT 1 AS a"}]),
        json!([{"slug": "a", "sql": "SELECT password FROM users"}]),
        json!([{"slug": "a", "sql": "SELECT 1 AS a"}, {"slug": "a", "sql": "SELECT 1 AS a"}]),
        json!([{"slug": "a", "sql": "SELECT 1 AS a", "listRule": "b = 1"}]),
        json!({"a": {"filter": "("}}),
        json!({"a": {"page": 0}}),
        json!({"a": {"more": 1}}),
    ] {
        let refused = api
            .patch(&path, json!({"options": {"views": wrong}}))
            .expect(400);
        assert!(
            refused.json["data"]["options"].is_object(),
            "{wrong}: {}",
            refused.json
        );
    }
}

#[test]
fn a_replica_and_a_tenant_answer_as_the_master_does() {
    let server = master();
    let api = blog(&server);
    api.post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let things = json!({"name": "things", "fields": [{"name": "n", "type": "number"}]});
    api.post("/db/shop/api/collections", things).expect(200);
    let sum =
        "SELECT (row_number() OVER ()) AS id, sum(n) AS total, max(updated) AS updated FROM things";
    api.post("/db/shop/api/collections", view("sums", sum))
        .expect(200);
    api.post("/db/shop/api/collections/things/records", json!({"n": 4}))
        .expect(200);
    api.post("/db/shop/api/collections/things/records", json!({"n": 5.5}))
        .expect(200);
    api.post(COLLECTIONS, view("list", "SELECT id, title FROM posts"))
        .expect(200);
    let copy = replica(&server);
    converge(&server, &copy);
    for path in [
        "/db/shop/api/collections/sums/records",
        "/api/collections/list/records",
    ] {
        let (here, there) = (
            server.api().get(path).expect(200),
            copy.api().get(path).expect(200),
        );
        assert_eq!(here.json, there.json);
    }
    let row = &copy
        .api()
        .get("/db/shop/api/collections/sums/records/1")
        .expect(200)
        .json;
    assert_eq!((&row["total"], &row["id"]), (&json!(9.5), &json!("1")));
    assert!(row["updated"].as_str().unwrap().ends_with('Z'));
    // A view follows a change of what it reads, also there.
    let other = json!({"viewQuery": "SELECT id, n FROM things", "listRule": "n > 5"});
    api.patch("/db/shop/api/collections/sums", other)
        .expect(200);
    converge(&server, &copy);
    let rows = copy
        .api()
        .get("/db/shop/api/collections/sums/records")
        .expect(200);
    assert_eq!(rows.column("n"), [5.5]);
    let server = server.restart();
    let rows = server
        .api()
        .get("/db/shop/api/collections/sums/records")
        .expect(200);
    assert_eq!(rows.column("n"), [5.5]);
}

#[test]
fn a_view_shows_the_files_of_the_records_that_it_reads() {
    let server = Server::start();
    let admin = server.admin();
    let fields = json!([{"name": "doc", "type": "file"}, {"name": "about", "type": "text"},
        {"name": "inner", "type": "file", "protected": true}]);
    let docs = json!({"name": "docs", "fields": fields, "viewRule": ""});
    admin.post(COLLECTIONS, docs).expect(200);
    let body = "--x\r\nContent-Disposition: form-data; name=\"doc\"; filename=\"a.txt\"\r\n\r\nwords\r\n\
         --x\r\nContent-Disposition: form-data; name=\"inner\"; filename=\"b.txt\"\r\n\r\ninner\r\n--x--\r\n";
    let form = admin.with_header("Content-Type", "multipart/form-data; boundary=x");
    let made = form.post(&records("docs"), body).expect(200);
    let (id, file, inner) = (made.text("/id"), made.text("/doc"), made.text("/inner"));
    admin
        .post(COLLECTIONS, view("same", "SELECT id, doc, inner FROM docs"))
        .expect(200);
    let other = "SELECT 'x' || id AS id, doc FROM docs";
    admin.post(COLLECTIONS, view("other", other)).expect(200);
    let anyone = server.api();
    for path in [format!("same/{id}/{file}"), format!("other/x{id}/{file}")] {
        let read = anyone.get(&format!("/api/files/{path}")).expect(200);
        assert_eq!(read.body, b"words", "{path}");
    }
    for path in [
        format!("other/{id}/{file}"),
        format!("other/x{id}/{inner}"),
        format!("same/none/{file}"),
    ] {
        anyone.get(&format!("/api/files/{path}")).expect(404);
    }
    // A protected file follows the rule of the view.
    anyone
        .get(&format!("/api/files/same/{id}/{inner}"))
        .expect(200);
    admin
        .patch(&format!("{COLLECTIONS}/same"), json!({"viewRule": null}))
        .expect(200);
    anyone
        .get(&format!("/api/files/same/{id}/{inner}"))
        .expect(404);
}
