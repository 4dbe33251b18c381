//! Addresses of accounts: an app that moves here from PocketBase must not show to everyone the
//! addresses that were hidden there. Each way to read one, by each kind of caller.

use serde_json::{Value, json};

use super::log_in;
use crate::support::api::{Api, Reply};
use crate::support::listener::Listener;
use crate::support::server::Server;
use crate::support::stream::Stream;
use crate::support::{cluster, sqlite_for_writing};

const USERS: &str = "/api/collections/users/records";
const POSTS: &str = "/api/collections/posts/records";

/// A caller, and whether it sees the address of Ann, who hides it.
struct Caller {
    name: &'static str,
    api: Api,
    token: String,
    sees: bool,
}

/// Accounts that everyone may view: Ann hides her address, Bob shows his; Max manages accounts, Ed
/// may change them. Posts that belong to Ann and Bob.
fn set_up() -> (Server, Vec<Caller>) {
    let server = Server::with(&[("AUTH_COLLECTION", "users")]);
    let admin = server.admin();
    let users = json!({"name": "users", "type": "auth", "listRule": "", "viewRule": "", "createRule": "",
        "updateRule": "id = @request.auth.id || @request.auth.role = 'editor'",
        "manageRule": "@request.auth.role = 'manager'",
        "fields": [{"name": "role", "type": "text"}]});
    admin.post("/api/collections", users).expect(200);
    let posts = json!({"name": "posts", "listRule": "", "viewRule": "", "fields": [
        {"name": "author", "type": "relation", "collectionId": "users"},
        {"name": "readers", "type": "relation", "collectionId": "users", "maxSelect": 9}]});
    admin.post("/api/collections", posts).expect(200);
    for (id, email, role, is_shown) in [
        ("ann", "z-ann@example.com", "", false),
        ("bob", "b-bob@example.com", "", true),
        ("max", "max@example.com", "manager", false),
        ("ed", "ed@example.com", "editor", false),
    ] {
        let user = json!({"id": id, "email": email, "password": "password-1", "role": role,
            "emailVisibility": is_shown});
        admin.post(USERS, user).expect(200);
    }
    for (id, readers) in [("ann", json!(["ann", "bob"])), ("bob", json!(["bob"]))] {
        let post = json!({"id": id, "author": id, "readers": readers});
        admin.post(POSTS, post).expect(200);
    }
    let key = json!({"name": "k", "scopes": ["read"]});
    let key = admin
        .post("/api/keys", key)
        .expect(200)
        .text("/key")
        .to_owned();
    let body = json!({"email": "admin@example.com", "password": "password-1"});
    let signed_in = server.api().post("/api/admins/login", body).expect(200);
    let token = |email: &str| {
        let reply = log_in(&server, email, "password-1").expect(200);
        reply.text("/token").to_owned()
    };
    let callers = [
        ("stranger", String::new(), false),
        ("other", token("b-bob@example.com"), false),
        ("editor", token("ed@example.com"), false),
        ("self", token("z-ann@example.com"), true),
        ("manager", token("max@example.com"), true),
        ("key", key, true),
        ("admin", signed_in.text("/token").to_owned(), true),
    ];
    let callers = callers.map(|(name, token, sees)| Caller {
        name,
        api: match token.as_str() {
            "" => server.api(),
            token => server.api().with_token(token),
        },
        token,
        sees,
    });
    (server, callers.into())
}

/// Fails when the address of Ann is in a record, or is not, against what is right; that she hides
/// it is in each.
#[track_caller]
fn check(caller: &Caller, way: &str, record: &Value) {
    let shown = record
        .get("email")
        .map(|email| email == "z-ann@example.com");
    assert_eq!(
        shown,
        caller.sees.then_some(true),
        "{way} by {}: {record}",
        caller.name
    );
    assert_eq!(record["emailVisibility"], false, "{way} by {}", caller.name);
}

fn ids(reply: Reply) -> Vec<Value> {
    reply.expect(200).column("id")
}

#[test]
fn an_address_is_shown_to_its_account_and_to_those_who_manage_accounts() {
    let (_server, callers) = set_up();
    for caller in &callers {
        let api = &caller.api;
        check(
            caller,
            "view",
            &api.get(&format!("{USERS}/ann")).expect(200).json,
        );
        let some = api.get(&format!("{USERS}/ann?fields=id,email,emailVisibility"));
        check(caller, "fields", &some.expect(200).json);
        let list = api.list("users", &[("filter", "id = 'ann'")]).expect(200);
        check(caller, "list", &list.json["items"][0]);
        let post = api
            .get(&format!("{POSTS}/ann?expand=author,readers"))
            .expect(200);
        check(caller, "expand", &post.json["expand"]["author"]);
        check(
            caller,
            "expand of several",
            &post.json["expand"]["readers"][0],
        );
        // Everyone sees the address that Bob shows.
        let bob = api.get(&format!("{USERS}/bob")).expect(200);
        assert_eq!(bob.text("/email"), "b-bob@example.com", "{}", caller.name);
        let bob = &post.json["expand"]["readers"][1];
        assert_eq!(bob["email"], "b-bob@example.com", "{}", caller.name);
    }
}

#[test]
fn a_hidden_address_can_neither_be_guessed_by_filters_nor_by_sorts() {
    let (_server, callers) = set_up();
    for Caller {
        name, api, sees, ..
    } in &callers
    {
        for filter in [
            "email = 'z-ann@example.com'",
            "email ?= 'z-ann@example.com'",
            "email ~ 'z-ann'",
            "email ?~ '%ann%'",
            "email > 'z'",
            "email != 'x@example.com'",
            "email !~ 'qq'",
            "!(email = 'x@example.com')",
            "NOT (email ~ 'x-')",
            "!(email != 'z-ann@example.com')",
            "email IN ('z-ann@example.com')",
            "email NOT IN ('x')",
            "email IS NOT NULL",
            "'z-ann@example.com' = email",
            "email != role",
        ] {
            let filter = format!("id = 'ann' && ({filter})");
            let found = ids(api.list("users", &[("filter", &filter)]));
            assert_eq!(found.len(), usize::from(*sees), "{filter} by {name}");
        }
        // Neither what an address is nor what it is not.
        for filter in [
            "email = ''",
            "!(email != '')",
            "email IS NULL",
            "email ~ 'x-'",
        ] {
            let filter = format!("id = 'ann' && ({filter})");
            assert!(
                ids(api.list("users", &[("filter", &filter)])).is_empty(),
                "{filter} by {name}"
            );
        }
        for (filter, if_seen, if_not) in [
            ("author.email ~ 'example'", vec!["ann", "bob"], vec!["bob"]),
            ("author.email != 'x'", vec!["ann", "bob"], vec!["bob"]),
            ("readers.email ?= 'z-ann@example.com'", vec!["ann"], vec![]),
            ("readers.email ~ 'example'", vec!["ann", "bob"], vec!["bob"]),
            ("!(readers.email ?~ 'x-')", vec!["ann", "bob"], vec!["bob"]),
            ("!(readers.email !~ 'ann')", vec!["ann"], vec![]),
        ] {
            let found = ids(api.list("posts", &[("filter", filter), ("sort", "id")]));
            let expected = if *sees { if_seen } else { if_not };
            assert_eq!(found, expected, "{filter} by {name}");
        }
        let of_two = "id = 'ann' || id = 'bob'";
        let order = if *sees {
            ["bob", "ann"]
        } else {
            ["ann", "bob"]
        };
        let sorted = ids(api.list("users", &[("sort", "email"), ("filter", of_two)]));
        assert_eq!(sorted, order, "sort by {name}");
        let sorted = ids(api.list("posts", &[("sort", "author.email")]));
        assert_eq!(sorted, order, "sort through a relation by {name}");
    }
}

#[test]
fn subscribers_hear_of_addresses_that_they_may_see() {
    let (server, callers) = set_up();
    let admin = server.admin();
    let mut listening: Vec<_> = callers
        .iter()
        .map(|caller| {
            let mut all = Listener::connect(&server, &caller.token);
            all.subscribe("users", json!({}));
            let mut guess = Listener::connect(&server, &caller.token);
            guess.subscribe(
                "users",
                json!({"filter": "email ~ 'z-ann' || role = 'last'"}),
            );
            let line = format!("Authorization: Bearer {}\r\n", caller.token);
            let line = if caller.token.is_empty() { "" } else { &line };
            let stream = Stream::open(&server, "", line);
            stream.set(&caller.api, &["users/ann"]).expect(204);
            (caller, all, guess, stream)
        })
        .collect();
    for role in ["changed", "last"] {
        admin
            .patch(&format!("{USERS}/ann"), json!({ "role": role }))
            .expect(200);
    }
    for (caller, all, guess, stream) in &mut listening {
        check(
            caller,
            "subscription",
            &all.expect("update", "ann")["record"],
        );
        check(caller, "stream", &stream.expect("users/ann", "update"));
        // The last change comes to all, and so shows that the first did not.
        let first = guess.expect("update", "ann");
        let role = if caller.sees { "changed" } else { "last" };
        assert_eq!(first["record"]["role"], role, "{}: {first}", caller.name);
        check(caller, "filter of a subscription", &first["record"]);
    }
    admin.delete(&format!("{USERS}/ann")).expect(204);
    for (caller, all, ..) in &mut listening {
        all.expect("update", "ann");
        // The account is gone, and with it its connection.
        if caller.name != "self" {
            check(caller, "deletion", &all.expect("delete", "ann")["record"]);
        }
    }
}

#[test]
fn changes_do_not_answer_hidden_addresses() {
    let (_server, callers) = set_up();
    let find = |name: &str| callers.iter().find(|caller| caller.name == name).unwrap();
    for caller in [find("editor"), find("self"), find("admin")] {
        let change = json!({"role": caller.name});
        let api = &caller.api;
        // Ed loses what makes an editor only in the last change of his own record, which is none of
        // these.
        check(
            caller,
            "change",
            &api.patch(&format!("{USERS}/ann"), &change).expect(200).json,
        );
        let bulk = json!({"ids": ["ann"], "data": change});
        let bulk = api.patch(USERS, &bulk).expect(200);
        check(caller, "bulk", &bulk.json["items"][0]);
        let batch = json!({"requests": [{"method": "PATCH", "url": format!("{USERS}/ann"), "body": change}]});
        let batch = api.post("/api/batch", batch).expect(200);
        check(caller, "batch", &batch.json[0]["body"]);
    }
    // A caller who may change an account may not make it show its address.
    let (ed, ann, stranger) = (find("editor"), find("self"), find("stranger"));
    let record = format!("{USERS}/ann");
    let refused = ed
        .api
        .patch(&record, json!({"emailVisibility": true}))
        .expect(400);
    assert_eq!(
        refused.text("/data/emailVisibility/code"),
        "validation_forbidden"
    );
    let bulk = json!({"ids": ["ed", "ann"], "data": {"emailVisibility": true}});
    ed.api.patch(USERS, bulk).expect(400);
    ed.api
        .patch(&record, json!({"emailVisibility": false}))
        .expect(200);
    check(
        stranger,
        "view",
        &stranger.api.get(&record).expect(200).json,
    );
    let shown = ann
        .api
        .patch(&record, json!({"emailVisibility": true}))
        .expect(200);
    assert_eq!(shown.json["emailVisibility"], true);
    let seen = stranger.api.get(&record).expect(200);
    assert_eq!(seen.text("/email"), "z-ann@example.com");
    // A caller who makes an account knows its address, and may let it be shown.
    let made = json!({"email": "new@example.com", "password": "password-1"});
    let made = stranger.api.post(USERS, made).expect(200);
    assert_eq!(made.text("/email"), "new@example.com");
    let again = stranger
        .api
        .get(&format!("{USERS}/{}", made.text("/id")))
        .expect(200);
    assert_eq!(again.json.get("email"), None);
}

#[test]
fn the_field_and_the_rule_belong_to_auth_collections() {
    let server = Server::start();
    let admin = server.admin();
    let base = json!({"name": "posts", "manageRule": "", "fields": []});
    let refused = admin.post("/api/collections", base).expect(400);
    assert!(refused.json["data"]["manageRule"].is_object());
    let base = json!({"name": "posts", "manageRule": null, "fields": [
        {"name": "emailVisibility", "type": "text"}]});
    let made = admin.post("/api/collections", base).expect(200);
    assert_eq!(made.json.get("manageRule"), None);
    let other = json!({"name": "users", "type": "auth", "fields": [
        {"name": "emailVisibility", "type": "text"}]});
    let refused = admin.post("/api/collections", other).expect(400);
    assert!(refused.json["data"]["fields"].is_object());
    let wrong = json!({"name": "users", "type": "auth", "manageRule": "nowhere = 1"});
    admin.post("/api/collections", wrong).expect(400);
    let users = json!({"name": "users", "type": "auth", "fields": []});
    let made = admin.post("/api/collections", users).expect(200);
    assert_eq!(made.json["manageRule"], Value::Null);
    let fields = made.json["fields"].as_array().unwrap();
    let is_it = |field: &&Value| field["name"] == "emailVisibility" && field["type"] == "bool";
    assert_eq!(fields.iter().filter(is_it).count(), 1);
    // A list of fields that lacks it keeps it.
    let change = json!({"fields": [{"name": "title", "type": "text"}]});
    let changed = admin.patch("/api/collections/users", change).expect(200);
    assert!(
        changed.json["fields"]
            .as_array()
            .unwrap()
            .iter()
            .any(|field| is_it(&field))
    );
}

/// A data directory of a version without the field: the first start adds it, in `default` and in a
/// tenant, and replicas follow. Nothing else is lost, not even a field that has taken the name.
#[test]
fn a_database_of_before_hides_all_addresses() {
    let server = cluster::master();
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    for base in ["", "/db/shop"] {
        let users =
            json!({"name": "users", "type": "auth", "listRule": "", "viewRule": "", "fields": []});
        admin
            .post(&format!("{base}/api/collections"), users)
            .expect(200);
        let ann = json!({"id": "ann", "email": "ann@example.com", "password": "password-1"});
        admin.post(&format!("{base}{USERS}"), ann).expect(200);
    }
    let data = cluster::data(&server);
    let parts = server.into_parts();
    for (database, file) in [("default", "default.db"), ("shop", "shop.db")] {
        let tables = sqlite_for_writing(&data.join(file));
        let column = match database {
            "default" => "DROP COLUMN emailVisibility",
            _ => "RENAME COLUMN emailVisibility TO other",
        };
        tables
            .execute_batch(&format!("ALTER TABLE users {column}"))
            .unwrap();
        if database == "shop" {
            let sql = "ALTER TABLE users ADD COLUMN emailVisibility TEXT; UPDATE users SET emailVisibility = 'yes'";
            tables.execute_batch(sql).unwrap();
        }
        let catalog = sqlite_for_writing(&data.join("default.db"));
        let sql = "SELECT definition FROM _collections WHERE database = ?1";
        let text: String = catalog
            .query_row(sql, [database], |row| row.get(0))
            .unwrap();
        let mut definition: Value = serde_json::from_str(&text).unwrap();
        let fields = definition["fields"].as_array_mut().unwrap();
        let at = fields
            .iter()
            .position(|field| field["name"] == "emailVisibility")
            .unwrap();
        match database {
            "default" => drop(fields.remove(at)),
            _ => fields[at]["type"] = json!("text"),
        }
        let sql = "UPDATE _collections SET definition = ?2 WHERE database = ?1";
        catalog
            .execute(sql, [database, &definition.to_string()])
            .unwrap();
    }
    let server = Server::from_parts(parts);
    let replica = cluster::replica(&server);
    let ask = |server: &Server| {
        for base in ["", "/db/shop"] {
            let ann = server.api().get(&format!("{base}{USERS}/ann")).expect(200);
            assert_eq!(ann.json["emailVisibility"], false, "{base}");
            assert_eq!(ann.json.get("email"), None, "{base}");
            let path = format!("{base}/api/collections/users/auth-with-password");
            let body = json!({"identity": "ann@example.com", "password": "password-1"});
            let reply = server.api().post(&path, body).expect(200);
            assert_eq!(reply.text("/record/email"), "ann@example.com");
        }
    };
    ask(&server);
    cluster::converge(&server, &replica);
    ask(&replica);
    let server = server.restart();
    ask(&server);
}
