//! What administrators look at in the dashboard: SQL that reads, and the options in force.

use serde_json::{Value, json};

use super::records::blog;
use super::support::api::Api;
use super::support::server::Server;

const SQL: &str = "/api/sql";

/// An administrator with collections of records and of accounts.
fn admin(server: &Server) -> Api {
    let api = blog(server);
    api.post(
        "/api/collections",
        json!({"name": "members", "type": "auth"}),
    )
    .expect(200);
    let body = json!({"email": "grace@example.com", "password": "a long password"});
    api.post("/api/collections/members/records", body)
        .expect(200);
    api
}

fn query(api: &Api, sql: &str) -> Value {
    api.post(SQL, json!({"sql": sql})).expect(200).json
}

/// The message of a refused statement.
fn refusal(api: &Api, sql: &str) -> String {
    api.post(SQL, json!({"sql": sql})).expect(400).json["message"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_select_over_collections_answers_rows_and_its_plan() {
    let server = Server::start();
    let api = admin(&server);
    let answer = query(
        &api,
        "-- the best\nSELECT a.name, p.title, p.views FROM posts p JOIN authors a ON a.id = p.author \
         WHERE p.views > 3 ORDER BY p.views DESC;",
    );
    assert_eq!(answer["columns"], json!(["name", "title", "views"]));
    assert_eq!(answer["rows"], json!([["Ann", "One", 10]]));
    assert_eq!(answer["truncated"], false);
    let plan = answer["plan"].to_string();
    assert!(plan.contains("SEARCH main.authors USING INDEX"), "{plan}");
    for sql in [
        "WITH a AS (SELECT id FROM posts) SELECT count(*) FROM a",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2) SELECT max(i) FROM n, posts",
        "SELECT count(*) FROM 'posts' WHERE id IN ('p1', 'p2')",
        "SELECT count(*) FROM \"POSTS\" WHERE id IN ('p1', 'p2')",
    ] {
        assert!(
            query(&api, sql)["rows"][0][0].as_i64().unwrap() >= 2,
            "{sql}"
        );
    }
    let plan = api.post(SQL, json!({"sql": "SELECT * FROM posts", "explain": true}));
    assert_eq!(plan.expect(200).json["rows"], json!([]));
}

#[test]
fn the_columns_are_those_of_the_definition_and_no_more() {
    let server = Server::start();
    let api = admin(&server);
    let users = query(&api, "SELECT * FROM members");
    let columns = users["columns"].to_string();
    assert!(
        columns.contains("email") && !columns.contains("password"),
        "{columns}"
    );
    api.patch(
        "/api/collections/posts",
        json!({"fields": [{"name": "title", "type": "text"}]}),
    )
    .expect(200);
    let columns = query(&api, "SELECT * FROM posts")["columns"].to_string();
    assert!(!columns.contains("note"), "{columns}");
}

#[test]
fn secrets_system_tables_and_changes_are_out_of_reach() {
    let server = Server::start();
    let api = admin(&server);
    for sql in [
        "SELECT password FROM members",
        "SELECT tokenKey FROM members",
        "SELECT * FROM main.members",
        "SELECT * FROM \"main\".\"members\"",
        "SELECT * FROM 'main'.members",
        "SELECT * FROM main /* a */ . members",
        "SELECT * FROM (SELECT * FROM temp.sqlite_schema)",
        "SELECT count(*) FROM _admins",
        "SELECT * FROM '_admins'",
        "SELECT * FROM _collections",
        "SELECT * FROM sqlite_schema",
        "SELECT count(*) FROM sqlite_master",
        "SELECT * FROM pragma_table_info('members')",
        "SELECT * FROM dbstat",
        "SELECT * FROM sqlite_dbpage",
        "WITH members AS (SELECT 1) SELECT * FROM members",
        "WITH g(tokenKey) AS (SELECT 'x') SELECT * FROM 'members' JOIN g USING (tokenKey)",
        "SELECT load_extension('x')",
        "DELETE FROM posts",
        "WITH a AS (SELECT 1) DELETE FROM posts",
        "SELECT 1; DELETE FROM posts",
        "PRAGMA user_version",
        "EXPLAIN SELECT 1",
        "ATTACH 'x' AS y",
        "VACUUM INTO 'x'",
        "SELECT ?1",
        "SELECT 'a",
        "",
    ] {
        let message = refusal(&api, sql);
        assert!(
            !message.is_empty() && !message.contains("$argon2"),
            "{sql}: {message}"
        );
    }
    assert_eq!(
        query(&api, "SELECT count(*) FROM posts WHERE id IN ('p1', 'p2')")["rows"],
        json!([[2]])
    );
}

#[test]
fn rows_and_bytes_are_bounded() {
    let server = Server::start();
    let api = admin(&server);
    let numbers =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i";
    let answer = query(&api, &format!("{numbers} FROM n"));
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1000);
    assert_eq!(answer["truncated"], true);
    let two = api.post(SQL, json!({"sql": format!("{numbers} FROM n"), "limit": 2}));
    assert_eq!(two.expect(200).json["rows"], json!([[1], [2]]));
    api.post(SQL, json!({"sql": "SELECT 1", "limit": 10_001}))
        .expect(400);
    let long = query(
        &api,
        &format!("{numbers}, printf('%.*c', 100000, 'x') FROM n"),
    );
    let rows = long["rows"].as_array().unwrap().len();
    assert!(
        rows > 10 && rows < 100 && long["truncated"] == true,
        "{rows}"
    );
}

#[test]
fn options_say_where_they_come_from_and_keep_secrets() {
    let secret = "0123456789abcdef0123456789abcdef-hunter2";
    let server = Server::with(&[
        ("JWT_SECRET", secret),
        ("TOKEN_HOURS", "12"),
        ("SMTP_URL", "smtp://ops:hunter2@127.0.0.1:1"),
        ("MAIL_FROM", "vski <vski@example.com>"),
    ]);
    let answer = server.admin().get("/api/settings/options").expect(200).json;
    assert!(!answer.to_string().contains("hunter2"), "{answer}");
    let items = answer["items"].as_array().unwrap();
    let of = |name: &str| items.iter().find(|it| it["name"] == name).unwrap();
    let given = |name: &str| (of(name)["value"].clone(), of(name)["source"].clone());
    assert_eq!(given("TOKEN_HOURS"), (json!("12"), json!("environment")));
    assert_eq!(given("MAX_BODY_MB"), (json!("64"), json!("default")));
    assert_eq!(given("JWT_SECRET"), (Value::Null, json!("environment")));
    assert_eq!(given("SMTP_URL"), (Value::Null, json!("environment")));
    assert_eq!(given("S3_SECRET_KEY").1, "default");
}
